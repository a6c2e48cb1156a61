/* Byte-pair merging of one piece: the map of listed pairs and the queue that applies them.
 *
 * struct bpe is immutable once filled and may be shared; struct bpe_scratch belongs to one encode call. */
#ifndef COLDSTREAM_BPE_H
#define COLDSTREAM_BPE_H

#include "core/core.h"

struct bpe_pair {
    uint64_t key;  /* left id << 32 | right id */
    uint32_t rank; /* line of the merges list: the smallest is applied first; BPE_NO_RANK marks an empty slot */
    int32_t id;    /* what the two become */
};

#define BPE_NO_RANK UINT32_MAX

struct bpe {
    struct bpe_pair *slots; /* open addressing, linear probing, at most half full */
    size_t mask;
};

/* Probes allowed before a table counts as hostile: honest keys need a few dozen at worst. */
enum { HASH_MAX_PROBES = 512 };

static inline uint64_t hash_mix(uint64_t x) { /* finalizer of splitmix64 */
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

enum err bpe_open(size_t n_merges, struct bpe *out, struct reason *why) MUST_USE;
void bpe_close(struct bpe *bpe);
/* `rank` is also the number of the merge in the list, for the reason. */
enum err bpe_add(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id, struct reason *why) MUST_USE;

/* Zero-initialise. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    uint64_t *queue;
    size_t cap;
    uint64_t work; /* heap levels visited and pairs looked up so far: what the tests bound instead of time */
};

void bpe_scratch_free(struct bpe_scratch *scratch);
/* Merge ids[0..n) in place, n > 0; *n becomes the number left. O(n log n). False: out of memory. */
bool bpe_merge(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t *ids, size_t *n) MUST_USE;

#endif
