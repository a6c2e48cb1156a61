/* One forward pass: embedding, layers, head. Scratch lives in the graph; weights, KV and tokens are borrowed.
 *
 * Every worker runs the same straight line (graph.c, layer_cpu.c), meets the others after each step and takes the step's
 * units from a shared counter. A row of a product is always computed by one worker in one order, and experts are summed in
 * rank order, so results depend neither on the number of threads, nor on who was faster, nor on when an expert's weights came. */
#ifndef COLDSTREAM_GRAPH_H
#define COLDSTREAM_GRAPH_H

#include "core/pool.h"
#include "engine/arrivals.h"
#include "cpu/cpu.h"
#include "engine/experts.h"
#include "engine/kv.h"
#include "engine/moves.h"
#include "engine/network.h"
#include "engine/ring.h"
#include "engine/timeline.h"
#include "engine/vram.h"

struct graph;

struct batch {
    const int32_t *tokens; /* [n], each < n_vocab */
    uint32_t n;            /* 1 .. the graph's ubatch */
    uint64_t first;        /* position of tokens[0]; KV rows before it are filled */
    const struct kv *kv;
    bool (*should_stop)(void *ctx); /* polled between layers on a worker's thread; NULL: never */
    bool want_logits;      /* of the last token: graph_logits() */
    /* When set, called on the caller's thread for the tokens from position logits_from on, in order, with their logits
     * [n_vocab]; want_logits is false then. */
    void (*on_logits)(void *ctx, uint64_t position, const float *logits);
    uint64_t logits_from; /* first position on_logits is called for */
    void *ctx;
};

/* See engine.h; on worker 0. */
struct graph_hook {
    void (*on_experts)(void *ctx, uint32_t layer, uint64_t position, bool expected, int32_t *experts);
    void *ctx;
    void (*on_input)(void *ctx, enum engine_input which, uint32_t layer, int32_t expert, const struct engine_rows *rows);
    void *input_ctx;
};

/* `experts` is borrowed. `hook` may be empty. */
enum err graph_open(const struct network *net, const struct cpu_ops *ops, struct experts *experts, const struct graph_hook *hook,
                    uint32_t ubatch, unsigned max_threads, struct graph **out, struct reason *why) MUST_USE;
void graph_close(struct graph **graph);
void graph_show(struct graph *g, struct timeline *t); /* from here on; borrowed, may be NULL */
uint64_t graph_scratch_bytes(const struct graph *g);
/* The same before there is a graph; UINT64_MAX: overflow. */
uint64_t graph_scratch_need(const struct model_shape *s, uint32_t ubatch, unsigned max_threads);
uint32_t graph_ubatch(const struct graph *g);

/* Before the first batch with on_logits: room for the logits of a few positions. */
enum err graph_want_all_logits(struct graph *g, struct reason *why) MUST_USE;

/* From here on runs go to the device; it is borrowed, as are the others (each may be NULL). */
void graph_use_vram(struct graph *g, struct vram *v, struct moves *moves, struct ring *ring, struct arrivals *arrivals);

/* From here on, for batches of one token: the `experts` least-weighted of what the CPU computes of a layer's experts (all but the
 * last layer's) are added to the residual stream with the next layer's, so that on a device they are computed beside that layer's
 * attention. Changes answers. */
void graph_defer(struct graph *g, uint32_t experts);
uint64_t graph_count_deferred(const struct graph *g);

/* Steps on the device so far: tokens, experts computed by the CPU for them, mails, and the time that they took. */
struct graph_mails {
    uint64_t tokens, misses, mails, ns;
};
void graph_count_mails(const struct graph *g, struct graph_mails *out);

/* [n_vocab], valid until the next run. */
const float *graph_logits(const struct graph *g);

/* ERR_CANCELLED: should_stop() ended it; ERR_IO: an expert could not be read. KV rows of the batch are then unusable, those
 * before it are untouched. */
enum err graph_run(struct graph *g, struct pool *pool, const struct batch *batch, struct reason *why) MUST_USE;

#endif
