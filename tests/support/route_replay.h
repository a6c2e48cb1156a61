/* What an expert cache would have done on given routes.
 *
 * LFRU and LRU run placement/cache.c itself, in the engine's order. A decoded token, layer after layer:
 *   1. cache_use() of the chosen experts;
 *   2. those that are here are held;
 *   3. the others are taken with CACHE_DEMAND, held, and landed at once (the replay knows no time);
 *   4. all are released;
 *   5. what the look-ahead expects of the next layer goes to cache_expect(), and the first `ahead` of those that are not here
 *      are taken with CACHE_AHEAD and landed at once.
 * Then cache_advance(1). A prompt runs in batches of `batch` tokens: per layer cache_use() of all tokens, then the distinct
 * missing experts one after the other, by id, with CACHE_PASSING; cache_advance() a batch. Nothing fills in the background,
 * unless before the first token (`fill`).
 *
 * The engine differs by time alone: an expert read ahead may arrive late or not be sent at all, background reads fill slots. */
#ifndef COLDSTREAM_TESTS_ROUTE_REPLAY_H
#define COLDSTREAM_TESTS_ROUTE_REPLAY_H

#include "placement/cache.h"
#include "placement/routes.h"

enum replay_policy {
    REPLAY_LFRU,
    REPLAY_LRU,
    REPLAY_LRU_LAYER, /* every layer has its own share of the slots */
    REPLAY_STATIC,    /* the most used in the turns learned from; nothing else ever stays */
    REPLAY_BELADY     /* who is needed last leaves (Belady 1966): no policy does better that loads what it misses. Knows nothing
                       * of prompts, which bring others something */
};

struct replay_options {
    enum replay_policy policy;
    uint32_t n_classes;
    const uint8_t *layer_class;    /* [n_layers] */
    const uint32_t *slots;         /* [n_classes] */
    const uint64_t *expert_bytes;  /* [n_classes] */
    float half_life, prior_weight; /* as in struct cache_options; so are floor and ring */
    uint32_t floor, ring;
    uint32_t learn_turns;          /* turns at the beginning that are not replayed but counted, for REPLAY_STATIC and the prior;
                                    * 0: those know all that comes */
    bool prior;                    /* give the cache what was learned */
    bool fill;                     /* fill all slots before the first token, best score first */
    uint32_t ahead;                /* experts a layer read ahead at most */
    uint32_t batch;                /* prompt tokens a batch; 0: 512 */
    uint32_t skip_tokens;          /* decoded tokens at the beginning that are not counted */
    uint32_t early_tokens;         /* decoded tokens of a turn that count as early; 0: 64 */
};

struct replay_count {
    uint64_t tokens, needed, missed; /* needed: experts, missed: of those, not here */
    uint64_t demand_bytes, ahead_bytes, ahead_taken, ahead_used;
};

struct replay_result {
    struct replay_count early, late; /* by the place in the turn */
    uint64_t prompt_tokens, prompt_bytes;
};

enum err replay_routes(const struct routes *r, const struct replay_options *options, struct replay_result *out,
                       struct reason *why) MUST_USE;

static inline double replay_hit_rate(const struct replay_count *c) {
    return c->needed ? 1 - (double)c->missed / (double)c->needed : 0;
}

#endif
