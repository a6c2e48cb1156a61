/* Byte-pair merging of one piece. Owns the pair map and the scratch lists, never looks at text.
 *
 * The symbols form a doubly linked list laid over the input; a binary heap holds the pairs that can merge, keyed by
 * (rank, position), so the lowest rank comes first and the leftmost on ties. A merge changes two neighbouring pairs: their
 * old heap entries stay behind and are recognised as stale when they surface, because the pair there has another rank now. */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct bpe_symbol {
    int32_t id;
    uint32_t prev, next; /* NONE at the ends */
    uint32_t rank;       /* of the pair (this, next); BPE_NO_RANK: not listed, or this symbol is gone */
    int32_t merged;      /* what that pair becomes */
};

/* ---- the map of listed pairs -------------------------------------------------------------------------------------- */

static uint64_t pair_key(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

enum err bpe_open(size_t n_merges, struct bpe *out, struct reason *why) {
    size_t slots = 16;
    while (slots / 2 < n_merges) slots *= 2;
    *out = (struct bpe){.slots = calloc_checked(slots, sizeof *out->slots), .mask = slots - 1};
    if (!out->slots) return fail(why, ERR_NO_MEMORY, "tokenizer: no memory for %zu merges", n_merges);
    for (size_t i = 0; i < slots; i++) out->slots[i].rank = BPE_NO_RANK;
    return ERR_NONE;
}

void bpe_close(struct bpe *bpe) {
    free(bpe->slots);
    *bpe = (struct bpe){0};
}

enum err bpe_add(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id, struct reason *why) {
    const uint64_t key = pair_key(left, right);
    size_t at = hash_mix(key) & bpe->mask;
    for (int probes = 0; probes < HASH_MAX_PROBES; probes++, at = (at + 1) & bpe->mask) {
        struct bpe_pair *slot = &bpe->slots[at];
        if (slot->rank == BPE_NO_RANK) {
            *slot = (struct bpe_pair){key, rank, id};
            return ERR_NONE;
        }
        if (slot->key == key)
            return fail(why, ERR_FORMAT, "tokenizer: merge %u repeats merge %u; the file is damaged", rank, slot->rank);
    }
    return fail(why, ERR_FORMAT, "tokenizer: merge %u: the list is built to collide; refusing it", rank);
}

static const struct bpe_pair *bpe_find(const struct bpe *bpe, int32_t left, int32_t right) {
    const uint64_t key = pair_key(left, right);
    for (size_t at = hash_mix(key) & bpe->mask;; at = (at + 1) & bpe->mask) {
        const struct bpe_pair *slot = &bpe->slots[at];
        if (slot->key == key || slot->rank == BPE_NO_RANK) return slot;
    }
}

/* ---- the queue: smallest key on top ------------------------------------------------------------------------------- */

struct queue {
    uint64_t *keys; /* rank << 32 | position of the left symbol */
    size_t len;
    uint64_t work;
};

static void queue_push(struct queue *q, uint64_t key) {
    size_t at = q->len++;
    for (; at > 0 && q->keys[(at - 1) / 2] > key; at = (at - 1) / 2, q->work++) q->keys[at] = q->keys[(at - 1) / 2];
    q->keys[at] = key;
}

static uint64_t queue_pop(struct queue *q) {
    const uint64_t top = q->keys[0], last = q->keys[--q->len];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < q->len; at = child, q->work++) {
        if (child + 1 < q->len && q->keys[child + 1] < q->keys[child]) child++;
        if (last <= q->keys[child]) break;
        q->keys[at] = q->keys[child];
    }
    q->keys[at] = last;
    return top;
}

/* ---- merging ------------------------------------------------------------------------------------------------------ */

void bpe_scratch_free(struct bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->queue);
    *scratch = (struct bpe_scratch){0};
}

/* Each merge pops one entry and pushes at most two, so n symbols never have more than 2n entries. */
static bool reserve(struct bpe_scratch *scratch, size_t n) {
    if (n <= scratch->cap) return true;
    if (n >= NONE / 2) return false;
    const size_t cap = n < 256 ? 256 : n + n / 2;
    bpe_scratch_free(&(struct bpe_scratch){.symbols = scratch->symbols, .queue = scratch->queue});
    scratch->symbols = calloc_checked(cap, sizeof *scratch->symbols);
    scratch->queue = calloc_checked(cap, 2 * sizeof *scratch->queue);
    scratch->cap = scratch->symbols && scratch->queue ? cap : 0;
    return scratch->cap != 0;
}

/* Look up the pair that starts at `at` and queue it when it is listed. */
static void consider(const struct bpe *bpe, struct bpe_symbol *symbols, struct queue *q, uint32_t at) {
    struct bpe_symbol *left = &symbols[at];
    left->rank = BPE_NO_RANK;
    if (left->next == NONE) return;
    const struct bpe_pair *pair = bpe_find(bpe, left->id, symbols[left->next].id);
    q->work++;
    if (pair->rank == BPE_NO_RANK) return;
    left->rank = pair->rank;
    left->merged = pair->id;
    queue_push(q, (uint64_t)pair->rank << 32 | at);
}

bool bpe_merge(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t *ids, size_t *n) {
    if (*n < 2) return true;
    if (!reserve(scratch, *n)) return false;
    struct bpe_symbol *symbols = scratch->symbols;
    struct queue q = {.keys = scratch->queue};
    const uint32_t count = (uint32_t)*n;
    for (uint32_t i = 0; i < count; i++) symbols[i] = (struct bpe_symbol){.id = ids[i], .prev = i - 1, .next = i + 1};
    symbols[0].prev = NONE;
    symbols[count - 1].next = NONE;
    for (uint32_t i = 0; i < count; i++) consider(bpe, symbols, &q, i);

    while (q.len) {
        const uint64_t key = queue_pop(&q);
        const uint32_t at = (uint32_t)key;
        struct bpe_symbol *left = &symbols[at];
        if (left->rank != key >> 32) continue; /* stale */
        struct bpe_symbol *right = &symbols[left->next];
        left->id = left->merged;
        left->next = right->next;
        right->rank = BPE_NO_RANK;
        if (left->next != NONE) symbols[left->next].prev = at;
        consider(bpe, symbols, &q, at);
        if (left->prev != NONE) consider(bpe, symbols, &q, left->prev);
    }
    scratch->work += q.work;

    size_t kept = 0;
    for (uint32_t i = 0; i != NONE; i = symbols[i].next) ids[kept++] = symbols[i].id;
    *n = kept;
    return true;
}
