/* Replays routes through the expert cache and, for comparison, through two policies that know more than it can. */
#include "tests/support/route_replay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_BATCH = 512, DEFAULT_EARLY = 64 };

struct replay {
    const struct routes *r;
    const struct replay_options *o;
    uint32_t n_cells, first_token; /* of the turns replayed */
    uint32_t *learned;             /* [n_cells] uses in the turns learned from */
    uint32_t learned_tokens;
    bool *ahead;  /* [n_cells] was read ahead and is not used yet */
    int32_t *ids; /* [batch * n_used] */
    bool *wanted; /* [n_experts] */
    struct cache *cache;
    struct replay_count *count; /* of the token that runs; NULL: not counted */
    struct replay_result *result;
};

static uint64_t bytes_of(const struct replay *p, uint32_t layer) { return p->o->expert_bytes[p->o->layer_class[layer]]; }

/* The choices of tokens [first, first + n) at a layer. */
static const int32_t *gather(const struct replay *p, uint32_t first, uint32_t n, uint32_t layer) {
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t k = 0; k < p->r->n_used; k++) p->ids[t * p->r->n_used + k] = routes_chosen(p->r, first + t, layer)[k];
    return p->ids;
}

/* ---- the cache -------------------------------------------------------------------------------------------------------- */

static void look_ahead(struct replay *p, uint32_t token, uint32_t layer) {
    const uint16_t *const expected = routes_expected(p->r, token, layer);
    uint32_t n = 0, taken = 0;
    if (!expected || !p->o->ahead) return;
    while (n < p->r->n_used && expected[n] != ROUTES_NOTHING) n++;
    for (uint32_t k = 0; k < n; k++) p->ids[k] = expected[k];
    cache_expect(p->cache, layer, p->ids, n);
    for (uint32_t k = 0; k < n && taken < p->o->ahead; k++) {
        const uint32_t x = expected[k];
        if (cache_find(p->cache, layer, x) >= 0) continue;
        taken++;
        const int32_t slot = cache_take(p->cache, layer, x, CACHE_AHEAD);
        if (slot < 0) continue;
        cache_landed(p->cache, slot, true);
        p->ahead[layer * p->r->n_experts + x] = true;
        if (!p->count) continue;
        p->count->ahead_taken++;
        p->count->ahead_bytes += bytes_of(p, layer);
    }
}

/* Counts only; the cells read ahead that come true are forgotten either way. */
static void count_need(struct replay *p, uint32_t layer, uint32_t expert, bool here) {
    bool *const ahead = &p->ahead[layer * p->r->n_experts + expert];
    if (p->count) {
        p->count->needed++;
        p->count->missed += !here;
        p->count->ahead_used += here && *ahead;
        if (!here) p->count->demand_bytes += bytes_of(p, layer);
    }
    *ahead = false;
}

static void decode_layer(struct replay *p, uint32_t token, uint32_t layer) {
    const uint16_t *const chosen = routes_chosen(p->r, token, layer);
    int32_t slots[ROUTES_MAX_USED];
    cache_use(p->cache, layer, gather(p, token, 1, layer), 1);
    for (uint32_t k = 0; k < p->r->n_used; k++) {
        slots[k] = cache_find(p->cache, layer, chosen[k]);
        count_need(p, layer, chosen[k], slots[k] >= 0);
        if (slots[k] >= 0) cache_hold(p->cache, slots[k]);
    }
    for (uint32_t k = 0; k < p->r->n_used; k++) {
        if (slots[k] >= 0) continue;
        slots[k] = cache_take(p->cache, layer, chosen[k], CACHE_DEMAND);
        if (slots[k] < 0) continue; /* fewer slots than a token needs: the engine computes some first */
        cache_hold(p->cache, slots[k]);
        cache_landed(p->cache, slots[k], true);
    }
    for (uint32_t k = 0; k < p->r->n_used; k++)
        if (slots[k] >= 0) cache_release(p->cache, slots[k]);
}

static void decode_token(struct replay *p, uint32_t token) {
    for (uint32_t l = 0; l < p->r->n_layers; l++) {
        decode_layer(p, token, l);
        if (l + 1 < p->r->n_layers) look_ahead(p, token, l + 1);
    }
    cache_advance(p->cache, 1);
}

static void prompt_batch(struct replay *p, uint32_t first, uint32_t n) {
    for (uint32_t l = 0; l < p->r->n_layers; l++) {
        const int32_t *const ids = gather(p, first, n, l);
        cache_use(p->cache, l, ids, n);
        memset(p->wanted, 0, p->r->n_experts * sizeof *p->wanted);
        for (uint32_t i = 0; i < n * p->r->n_used; i++) p->wanted[ids[i]] = true;
        for (uint32_t x = 0; x < p->r->n_experts; x++) {
            if (!p->wanted[x] || cache_find(p->cache, l, x) >= 0) continue;
            const int32_t slot = cache_take(p->cache, l, x, CACHE_PASSING);
            assert(slot >= 0);
            cache_landed(p->cache, slot, true);
            p->result->prompt_bytes += bytes_of(p, l);
        }
    }
    cache_advance(p->cache, n);
}

static void fill(struct replay *p) {
    uint32_t layer, expert;
    while (cache_next_fill(p->cache, &layer, &expert)) {
        const int32_t slot = cache_take(p->cache, layer, expert, CACHE_FILL);
        cache_landed(p->cache, slot, true);
    }
}

static enum err open_cache(struct replay *p, struct reason *why) {
    const struct replay_options *const o = p->o;
    const uint32_t n_layers = p->r->n_layers;
    float *const prior = o->prior ? calloc_checked(p->n_cells, sizeof *prior) : NULL;
    uint8_t *const own_class = calloc_checked(n_layers, 1);
    uint32_t *const own_slots = calloc_checked(n_layers, sizeof *own_slots);
    enum err result = ERR_NONE;
    if ((o->prior && !prior) || !own_class || !own_slots) {
        result = fail(why, ERR_NO_MEMORY, "no memory to replay routes");
        goto done;
    }
    for (uint32_t i = 0; prior && i < p->n_cells; i++) prior[i] = (float)p->learned[i] / (float)(p->learned_tokens + 1);
    struct cache_options options = {.n_layers = n_layers,
                                    .n_experts = p->r->n_experts,
                                    .n_used = p->r->n_used,
                                    .n_classes = o->n_classes,
                                    .layer_class = o->layer_class,
                                    .slots = o->slots,
                                    .policy = o->policy == REPLAY_LFRU ? CACHE_LFRU : CACHE_LRU,
                                    .half_life = o->half_life,
                                    .prior = prior,
                                    .prior_weight = o->prior_weight,
                                    .floor = o->floor,
                                    .ring = o->ring};
    if (o->policy == REPLAY_LRU_LAYER && n_layers > UINT8_MAX) {
        result = fail(why, ERR_UNSUPPORTED, "%u layers are too many for a pool each", n_layers);
        goto done;
    }
    if (o->policy == REPLAY_LRU_LAYER) {
        uint32_t in_class[UINT8_MAX + 1] = {0}, before[UINT8_MAX + 1] = {0};
        for (uint32_t l = 0; l < n_layers; l++) in_class[o->layer_class[l]]++;
        for (uint32_t l = 0; l < n_layers; l++) { /* the remainder goes to the first ones */
            const uint32_t class = o->layer_class[l], n = in_class[class], slots = o->slots[class];
            own_class[l] = (uint8_t)l;
            own_slots[l] = slots / n + (before[class]++ < slots % n);
            if (own_slots[l] == 0) own_slots[l] = 1;
        }
        options.n_classes = n_layers;
        options.layer_class = own_class;
        options.slots = own_slots;
    }
    result = cache_open(&options, &p->cache, why);
    if (result == ERR_NONE && o->fill) fill(p);
done:
    free(prior);
    free(own_class);
    free(own_slots);
    return result;
}

/* ---- who knows more ----------------------------------------------------------------------------------------------------- */

struct ranked {
    uint32_t cell, uses;
};

static int by_uses(const void *a, const void *b) {
    const struct ranked *const x = a, *const y = b;
    if (x->uses != y->uses) return x->uses < y->uses ? 1 : -1;
    return x->cell < y->cell ? -1 : x->cell > y->cell;
}

/* here[n_cells]: a class' slots hold the experts used most. */
static enum err choose_static(const struct replay *p, bool *here, struct reason *why) {
    const uint32_t n_experts = p->r->n_experts;
    uint32_t left[UINT8_MAX + 1] = {0};
    struct ranked *const all = calloc_checked(p->n_cells, sizeof *all);
    if (!all) return fail(why, ERR_NO_MEMORY, "no memory to replay routes");
    for (uint32_t i = 0; i < p->o->n_classes; i++) left[i] = p->o->slots[i];
    for (uint32_t i = 0; i < p->n_cells; i++) all[i] = (struct ranked){i, p->learned[i]};
    qsort(all, p->n_cells, sizeof *all, by_uses);
    for (uint32_t i = 0; i < p->n_cells; i++) {
        uint32_t *const room = &left[p->o->layer_class[all[i].cell / n_experts]];
        here[all[i].cell] = *room > 0;
        *room -= *room > 0;
    }
    free(all);
    return ERR_NONE;
}

struct oracle {
    uint64_t *next; /* [n_tokens * n_layers * n_used] when that choice is made again: token * n_layers + layer */
    uint64_t *when; /* [n_cells] next use of what is here, 0: not here */
    uint32_t *held; /* [n_slots] cells, class after class */
    uint32_t first[UINT8_MAX + 1], n[UINT8_MAX + 1];
};

static enum err oracle_open(const struct replay *p, struct oracle *a, struct reason *why) {
    const struct routes *const r = p->r;
    uint32_t n_slots = 0;
    *a = (struct oracle){0};
    for (uint32_t i = 0; i < p->o->n_classes; i++) {
        a->first[i] = n_slots;
        n_slots += p->o->slots[i];
    }
    a->next = calloc_checked((uint64_t)r->n_tokens * r->n_layers, r->n_used * sizeof *a->next);
    a->when = calloc_checked(p->n_cells, sizeof *a->when);
    a->held = calloc_checked(n_slots, sizeof *a->held);
    if (!a->next || !a->when || !a->held) return fail(why, ERR_NO_MEMORY, "no memory to replay routes");
    return ERR_NONE;
}

static void oracle_close(struct oracle *a) {
    free(a->next);
    free(a->when);
    free(a->held);
}

/* `seen` [n_cells]: when each is used next, while tokens are walked backwards. Prompts use nothing here. */
static void oracle_learn(const struct replay *p, struct oracle *a) {
    const struct routes *const r = p->r;
    uint64_t *const seen = a->when;
    uint32_t end = r->n_tokens;
    for (uint32_t i = 0; i < p->n_cells; i++) seen[i] = UINT64_MAX;
    for (uint32_t turn = r->n_turns; turn-- > 0;) {
        const uint32_t n = r->turns[turn].decode_tokens;
        for (uint32_t t = end; t-- > end - n;)
            for (uint32_t l = 0; l < r->n_layers; l++)
                for (uint32_t k = 0; k < r->n_used; k++) {
                    const size_t at = ((size_t)t * r->n_layers + l) * r->n_used + k;
                    uint64_t *const cell = &seen[l * r->n_experts + r->chosen[at]];
                    a->next[at] = *cell;
                    *cell = (uint64_t)t * r->n_layers + l;
                }
        end -= n + r->turns[turn].prompt_tokens;
    }
    memset(seen, 0, p->n_cells * sizeof *seen);
}

static void oracle_layer(struct replay *p, struct oracle *a, uint32_t token, uint32_t layer) {
    const struct routes *const r = p->r;
    const uint32_t class = p->o->layer_class[layer];
    uint32_t *const held = a->held + a->first[class];
    const uint16_t *const chosen = routes_chosen(r, token, layer);
    const uint64_t now = (uint64_t)token * r->n_layers + layer, *const next = a->next + now * r->n_used;
    uint32_t missed[ROUTES_MAX_USED], n_missed = 0;
    for (uint32_t k = 0; k < r->n_used; k++) {
        uint64_t *const when = &a->when[layer * r->n_experts + chosen[k]];
        count_need(p, layer, chosen[k], *when != 0);
        if (*when == 0)
            missed[n_missed++] = k;
        else
            *when = next[k];
    }
    for (uint32_t i = 0; i < n_missed; i++) { /* after the hits, which now are of no use before their next turn either */
        uint32_t at = a->n[class];
        if (at < p->o->slots[class]) {
            a->n[class]++;
        } else {
            at = 0;
            for (uint32_t s = 1; s < a->n[class]; s++)
                if (a->when[held[s]] > a->when[held[at]]) at = s;
            a->when[held[at]] = 0;
        }
        held[at] = layer * r->n_experts + chosen[missed[i]];
        a->when[held[at]] = next[missed[i]];
    }
}

/* ---- turns -------------------------------------------------------------------------------------------- */

static void begin_token(struct replay *p, uint32_t in_turn, uint64_t *decoded) {
    const uint32_t early = p->o->early_tokens ? p->o->early_tokens : DEFAULT_EARLY;
    p->count = in_turn < early ? &p->result->early : &p->result->late;
    if ((*decoded)++ < p->o->skip_tokens) p->count = NULL;
    if (p->count) p->count->tokens++;
}

static void static_layer(struct replay *p, const bool *here, uint32_t token, uint32_t layer) {
    for (uint32_t k = 0; k < p->r->n_used; k++) {
        const uint32_t x = routes_chosen(p->r, token, layer)[k];
        count_need(p, layer, x, here[layer * p->r->n_experts + x]);
    }
}

static void replay_turns(struct replay *p, const bool *here, struct oracle *oracle) {
    const struct routes *const r = p->r;
    const uint32_t batch = p->o->batch ? p->o->batch : DEFAULT_BATCH;
    uint64_t decoded = 0;
    uint32_t token = p->first_token;
    for (uint32_t turn = p->o->learn_turns; turn < r->n_turns; turn++) {
        const uint32_t end = token + r->turns[turn].prompt_tokens;
        p->result->prompt_tokens += r->turns[turn].prompt_tokens;
        for (uint32_t n; token < end; token += n) {
            n = end - token < batch ? end - token : batch;
            if (p->cache) prompt_batch(p, token, n);
        }
        for (uint32_t t = 0; t < r->turns[turn].decode_tokens; t++, token++) {
            begin_token(p, t, &decoded);
            if (p->cache)
                decode_token(p, token);
            else
                for (uint32_t l = 0; l < r->n_layers; l++) {
                    if (here)
                        static_layer(p, here, token, l);
                    else
                        oracle_layer(p, oracle, token, l);
                }
        }
    }
}

static void learn(struct replay *p) {
    const struct routes *const r = p->r;
    for (uint32_t turn = 0; turn < p->o->learn_turns && turn < r->n_turns; turn++)
        p->first_token += r->turns[turn].prompt_tokens + r->turns[turn].decode_tokens;
    p->learned_tokens = p->first_token ? p->first_token : r->n_tokens;
    for (uint32_t t = 0; t < p->learned_tokens; t++)
        for (uint32_t l = 0; l < r->n_layers; l++)
            for (uint32_t k = 0; k < r->n_used; k++) p->learned[l * r->n_experts + routes_chosen(r, t, l)[k]]++;
}

static enum err run(struct replay *p, struct reason *why) {
    enum err result = ERR_NONE;
    if (p->o->policy == REPLAY_STATIC) {
        bool *const here = calloc_checked(p->n_cells, sizeof *here);
        if (!here) return fail(why, ERR_NO_MEMORY, "no memory to replay routes");
        result = choose_static(p, here, why);
        if (result == ERR_NONE) replay_turns(p, here, NULL);
        free(here);
    } else if (p->o->policy == REPLAY_BELADY) {
        struct oracle oracle;
        result = oracle_open(p, &oracle, why);
        if (result == ERR_NONE) {
            oracle_learn(p, &oracle);
            replay_turns(p, NULL, &oracle);
        }
        oracle_close(&oracle);
    } else {
        TRY(open_cache(p, why));
        replay_turns(p, NULL, NULL);
        cache_close(&p->cache);
    }
    return result;
}

enum err replay_routes(const struct routes *r, const struct replay_options *options, struct replay_result *out,
                       struct reason *why) {
    const uint32_t batch = options->batch ? options->batch : DEFAULT_BATCH;
    struct replay p = {.r = r, .o = options, .n_cells = r->n_layers * r->n_experts, .result = out};
    enum err result;
    *out = (struct replay_result){0};
    p.learned = calloc_checked(p.n_cells, sizeof *p.learned);
    p.ahead = calloc_checked(p.n_cells, sizeof *p.ahead);
    p.ids = calloc_checked((uint64_t)batch * r->n_used, sizeof *p.ids);
    p.wanted = calloc_checked(r->n_experts, sizeof *p.wanted);
    if (!p.learned || !p.ahead || !p.ids || !p.wanted) {
        result = fail(why, ERR_NO_MEMORY, "no memory to replay routes");
    } else {
        learn(&p);
        result = run(&p, why);
    }
    free(p.learned);
    free(p.ahead);
    free(p.ids);
    free(p.wanted);
    return result;
}
