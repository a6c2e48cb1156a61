/* See residency.h. Warmth is counted by a cache of cache.h that never gives out a slot. */
#include "placement/residency.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/cache.h"

static const float DEFAULT_HALF_LIFE = 512, DEFAULT_LEAD = 2, DEFAULT_NOISE = 3;
static const float PRIOR_TOKENS = 64; /* of seeing an expert that a profile is worth */

struct residency {
    uint32_t n_layers, n_experts, n_classes;
    float lead, noise;
    struct cache *scores;
    uint8_t *layer_class; /* [n_layers] */
    bool *may_move;       /* [n_layers] */
    bool *there;          /* [n_layers * n_experts] */
};

static enum err open_scores(struct residency *r, const struct residency_options *o, struct reason *why) {
    uint32_t *slots = calloc_checked(o->n_classes, sizeof *slots);
    if (!slots) return fail(why, ERR_NO_MEMORY, "no memory for the scores of experts");
    for (uint32_t c = 0; c < o->n_classes; c++) slots[c] = 1;
    const struct cache_options cache = {.n_layers = o->n_layers, .n_experts = o->n_experts, .n_used = o->n_used, .n_classes = o->n_classes,
                                        .layer_class = o->layer_class, .slots = slots, .prior = o->prior, .prior_weight = PRIOR_TOKENS,
                                        .half_life = o->half_life != 0 ? o->half_life : DEFAULT_HALF_LIFE};
    const enum err e = cache_open(&cache, &r->scores, why);
    free(slots);
    return e;
}

enum err residency_open(const struct residency_options *o, struct residency **out, struct reason *why) {
    *out = NULL;
    struct residency *r = calloc_checked(1, sizeof *r);
    if (!r) return fail(why, ERR_NO_MEMORY, "no memory for the scores of experts");
    r->n_layers = o->n_layers;
    r->n_experts = o->n_experts;
    r->n_classes = o->n_classes;
    r->lead = o->lead != 0 ? o->lead : DEFAULT_LEAD;
    r->noise = o->noise != 0 ? o->noise : DEFAULT_NOISE;
    enum err e = open_scores(r, o, why); /* checks the shape, too */
    if (!e) {
        r->layer_class = calloc_checked(o->n_layers, sizeof *r->layer_class);
        r->may_move = calloc_checked(o->n_layers, sizeof *r->may_move);
        r->there = calloc_checked((uint64_t)o->n_layers * o->n_experts, sizeof *r->there);
        if (!r->layer_class || !r->may_move || !r->there) e = fail(why, ERR_NO_MEMORY, "no memory for the places of experts");
    }
    if (e) {
        residency_close(&r);
        return e;
    }
    memcpy(r->layer_class, o->layer_class, o->n_layers * sizeof *r->layer_class);
    memcpy(r->may_move, o->may_move, o->n_layers * sizeof *r->may_move);
    *out = r;
    return ERR_NONE;
}

void residency_close(struct residency **residency) {
    struct residency *r = *residency;
    if (!r) return;
    *residency = NULL;
    cache_close(&r->scores);
    free(r->layer_class);
    free(r->may_move);
    free(r->there);
    free(r);
}

void residency_set(struct residency *r, uint32_t layer, uint32_t expert, bool there) {
    assert(layer < r->n_layers && expert < r->n_experts);
    r->there[(size_t)layer * r->n_experts + expert] = there;
}

void residency_use(struct residency *r, uint32_t layer, const int32_t *experts, uint32_t n_tokens) {
    cache_use(r->scores, layer, experts, n_tokens);
}

void residency_advance(struct residency *r, uint32_t n_tokens) { cache_advance(r->scores, n_tokens); }

struct best {
    bool known;
    uint32_t layer, expert;
    float score;
};

/* The coldest expert of a class that is there. */
static struct best coldest(const struct residency *r, uint32_t class) {
    struct best b = {0};
    for (uint32_t l = 0; l < r->n_layers; l++) {
        if (r->layer_class[l] != class || !r->may_move[l]) continue;
        for (uint32_t e = 0; e < r->n_experts; e++) {
            if (!r->there[(size_t)l * r->n_experts + e]) continue;
            const float score = cache_score(r->scores, l, e);
            if (!b.known || score < b.score) b = (struct best){true, l, e, score};
        }
    }
    return b;
}

/* The warmest one that is not there, above a score, and available. */
static struct best warmest(const struct residency *r, uint32_t class, float above, bool (*available)(void *ctx, uint32_t layer, uint32_t expert),
                           void *ctx) {
    struct best b = {.score = above};
    for (uint32_t l = 0; l < r->n_layers; l++) {
        if (r->layer_class[l] != class || !r->may_move[l]) continue;
        for (uint32_t e = 0; e < r->n_experts; e++) {
            if (r->there[(size_t)l * r->n_experts + e]) continue;
            const float score = cache_score(r->scores, l, e);
            if (score > b.score && available(ctx, l, e)) b = (struct best){true, l, e, score};
        }
    }
    return b;
}

/* a - b = lead + noise * sqrt(a + b), solved for a. */
static float score_to_beat(const struct residency *r, float b) {
    const float n2 = r->noise * r->noise, p = b + r->lead;
    return p + n2 / 2 + sqrtf(n2 * (p + b) + n2 * n2 / 4);
}

bool residency_next(const struct residency *r, bool (*available)(void *ctx, uint32_t layer, uint32_t expert), void *ctx,
                    struct residency_move *out) {
    float most = 0;
    bool found = false;
    for (uint32_t c = 0; c < r->n_classes; c++) {
        const struct best out_goes = coldest(r, c);
        if (!out_goes.known) continue;
        const struct best in_comes = warmest(r, c, score_to_beat(r, out_goes.score), available, ctx);
        if (!in_comes.known || in_comes.score - out_goes.score <= most) continue;
        most = in_comes.score - out_goes.score;
        found = true;
        *out = (struct residency_move){in_comes.layer, in_comes.expert, out_goes.layer, out_goes.expert};
    }
    return found;
}
