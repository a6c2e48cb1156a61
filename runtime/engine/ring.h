/* Experts that a prompt passes through VRAM: copied from RAM into a ring of slots, computed there for many tokens at once, and
 * overwritten. The other experts of the layer are the CPU's meanwhile.
 *
 * Chunks of a few experts go over on the copy stream while the device computes earlier ones; each side waits for the other by
 * events, the host for none but the last copy. What one lane brought serves the other, while it is there. Decoding never sees
 * these slots. Which experts pass is placement/split.h's decision, or a threshold's; either way the answer is the same, but for
 * the rounding of sums. Belongs to the run; one thread at a time. */
#ifndef COLDSTREAM_RING_H
#define COLDSTREAM_RING_H

#include "engine/experts.h"
#include "engine/vram.h"
#include "placement/split.h"

struct ring_options {
    struct vram *vram;       /* borrowed, as experts */
    struct experts *experts;
    struct timeline *timeline; /* NULL: none */
    struct split_rates rates;
    uint32_t from_tokens;    /* tests, experiments: experts with so many tokens pass; 0: by the rates */
};

struct ring;

/* *out NULL without an error: there are no slots for it, or nothing to pass. */
enum err ring_open(const struct ring_options *options, struct ring **out, struct reason *why) MUST_USE;
void ring_close(struct ring **ring);

/* How often each expert without a slot in VRAM was chosen at `layer` by a lane [n_experts], 0: not, or it has one. From here to
 * ring_settle() the ring holds what is to pass in RAM; passes[n_experts]: 1 for those, the others are the CPU's. Returns how many. */
uint32_t ring_choose(struct ring *r, uint32_t layer, const uint32_t *tokens, uint8_t *passes);
/* Launch it all: copies and products for the lane's batch. On any thread, alone on the device; may wait for host memory to be read. */
void ring_send(struct ring *r, const struct gpu_batch *b);
/* The copies have read the RAM. ERR_IO: they do not end. */
enum err ring_settle(struct ring *r, struct reason *why) MUST_USE;

struct ring_counters {
    uint64_t passed, bytes; /* experts and their bytes in the file's layout */
    uint64_t reused;        /* found in the ring: what the other lane had brought */
};
void ring_count(const struct ring *r, struct ring_counters *out);

#endif
