/* The expert cache's bookkeeping: which expert has which slot, how warm each expert is, who leaves next.
 *
 * Owns no weights and starts no reads. Everything is plain arrays in one arena, sized at opening; the caller serialises.
 *
 * Warmth: a use counts 2^(t/H) at token t instead of all older counts being halved every H tokens; the quotients are the same.
 * Before the weights leave the range of a float, all counts are scaled down once (rescale()). Experts without a slot keep
 * theirs.
 *
 * Two views of an expert. By expert (index layer * n_experts + expert): warmth, marks, slot. By slot, class after class, copies
 * of the same, so that the victim is found by one linear pass over neighbours that the compiler vectorises. */
#include "placement/cache.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    NONE = -1,
    MAX_LAYERS = 1 << 14,
    MAX_EXPERTS = 1 << 14,
    MAX_CELLS = 1 << 24, /* layers * experts, and slots */
    RING = 32,           /* most slots a class that a prompt's passing experts take from the decode set */
    RING_SHARE = 8,      /* ... and at most one in this many, but n_used */
    PROMPT_TOKENS = 16,  /* a batch from here on is a prompt */
    PROMPT_FADE = 2      /* half-lives that go by when one begins: it may be about something else */
};

static const float DEFAULT_HALF_LIFE = 48, MAX_HALF_LIFE = 1e6f, MIN_HALF_LIFE = 0.25f;
static const float DEFAULT_PRIOR_WEIGHT = 4, MAX_PRIOR = 1e6f;
static const double MAX_EXPONENT = 64; /* a use never counts more than 2^64; sums stay far below FLT_MAX, 2^128 */
static const double NEGLIGIBLE = 1e-12;
/* What a prompt must have made of an expert for it to stay: that much warmer than the one that leaves. */
static const double WARMER = 1.5, WARMER_BY = .5;
static const int32_t RECENT_LIMIT = INT32_MAX;

/* What is so about a slot when somebody has to leave; EXPECTED and USED.. also exist by expert (marks). */
enum {
    HELD = 1,
    LOADING = 2,
    FLOOR = 4,   /* its layer has no more than its floor */
    PASSING = 8, /* came through the ring of a long prompt and nobody wanted it since */
    EXPECTED = 16,
    USED = 32, /* in the current batch; one token later USED_1, then USED_2 */
    USED_1 = 64,
    USED_2 = 128,
    DONE = 256, /* the running prompt is through with its layer */
    BUSY = HELD | LOADING
};

struct class {
    uint32_t first, n;  /* slot ids */
    uint32_t n_free;    /* unbound and not held */
    uint32_t free_from; /* no free slot below this id */
    uint32_t n_passing, ring;
};

struct cache {
    uint32_t n_layers, n_experts, n_used, n_classes, n_slots, n_cells;
    enum cache_policy policy;
    double half_life;
    uint64_t clock; /* tokens */
    uint64_t base;  /* a use at token `base` counts 1 */
    uint64_t batch; /* tokens of the running batch, from cache_use() */
    bool in_prompt; /* the last batch was one, or the running one is */
    int32_t layer;  /* NONE, or the one a prompt is at */
    int32_t recent; /* LRU: serial number of the last use */

    struct class *classes;
    uint8_t *layer_class;  /* [n_layers] */
    bool *layer_done;      /* [n_layers] the running prompt is through with it */
    uint32_t *layer_slots; /* [n_layers] bound */
    uint32_t *floors;      /* [n_layers] */

    /* by expert, [n_cells] */
    float *heat;     /* LFRU: decayed uses, in units of 2^(base/H) */
    float *prior;    /* times its weight */
    int32_t *last;   /* LRU: serial number of the last use */
    uint16_t *marks; /* EXPECTED, USED.. */
    int32_t *slot_of;
    bool *elsewhere; /* not for the background to bring */

    /* by slot, [n_slots] */
    int32_t *cell; /* NONE: free */
    float *slot_heat, *slot_prior;
    int32_t *slot_last;
    uint16_t *flags;
    uint16_t *holds;
    int32_t *keys; /* scratch of pick() */

    struct arena arena;
};

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static enum err check(const struct cache_options *o, uint64_t *n_slots, struct reason *why) {
    if (o->n_layers < 1 || o->n_layers > MAX_LAYERS || o->n_experts < 1 || o->n_experts > MAX_EXPERTS ||
        (uint64_t)o->n_layers * o->n_experts > MAX_CELLS)
        return fail(why, ERR_ARGUMENT, "expert cache: %u layers of %u experts are out of range", o->n_layers, o->n_experts);
    if (o->n_used < 1 || o->n_used > o->n_experts)
        return fail(why, ERR_ARGUMENT, "expert cache: %u of %u experts a token", o->n_used, o->n_experts);
    if (o->n_classes < 1 || o->n_classes > o->n_layers)
        return fail(why, ERR_ARGUMENT, "expert cache: %u classes for %u layers", o->n_classes, o->n_layers);
    for (uint32_t l = 0; l < o->n_layers; l++)
        if (o->layer_class[l] >= o->n_classes)
            return fail(why, ERR_ARGUMENT, "expert cache: layer %u is in class %u of %u", l, o->layer_class[l], o->n_classes);
    for (uint32_t i = 0; i < o->n_classes; i++) {
        if (o->slots[i] < 1) return fail(why, ERR_ARGUMENT, "expert cache: class %u has no slot", i);
        *n_slots += o->slots[i];
    }
    if (*n_slots > MAX_CELLS)
        return fail(why, ERR_ARGUMENT, "expert cache: %llu slots, at most %d", (unsigned long long)*n_slots, MAX_CELLS);
    if (o->half_life != 0 && !(o->half_life >= MIN_HALF_LIFE && o->half_life <= MAX_HALF_LIFE))
        return fail(why, ERR_ARGUMENT, "expert cache: half-life of %g tokens, %g to %g are possible", (double)o->half_life,
                    (double)MIN_HALF_LIFE, (double)MAX_HALF_LIFE);
    return ERR_NONE;
}

/* Run twice: without memory to learn the size, then to carve. */
static uint64_t lay_out(struct cache *c, struct arena *arena) {
    uint64_t total = 0;
    const struct {
        void *to;
        uint64_t n, size;
    } parts[] = {
        {&c->classes, c->n_classes, sizeof *c->classes},
        {&c->layer_class, c->n_layers, sizeof *c->layer_class},
        {&c->layer_done, c->n_layers, sizeof *c->layer_done},
        {&c->layer_slots, c->n_layers, sizeof *c->layer_slots},
        {&c->floors, c->n_layers, sizeof *c->floors},
        {&c->heat, c->n_cells, sizeof *c->heat},
        {&c->prior, c->n_cells, sizeof *c->prior},
        {&c->last, c->n_cells, sizeof *c->last},
        {&c->marks, c->n_cells, sizeof *c->marks},
        {&c->slot_of, c->n_cells, sizeof *c->slot_of},
        {&c->elsewhere, c->n_cells, sizeof *c->elsewhere},
        {&c->cell, c->n_slots, sizeof *c->cell},
        {&c->slot_heat, c->n_slots, sizeof *c->slot_heat},
        {&c->slot_prior, c->n_slots, sizeof *c->slot_prior},
        {&c->slot_last, c->n_slots, sizeof *c->slot_last},
        {&c->flags, c->n_slots, sizeof *c->flags},
        {&c->holds, c->n_slots, sizeof *c->holds},
        {&c->keys, c->n_slots, sizeof *c->keys},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        total += round_up(parts[i].n * parts[i].size, 64);
        if (!arena) continue;
        void *const at = arena_take(arena, parts[i].n * parts[i].size);
        assert(at);
        memcpy(parts[i].to, &at, sizeof at);
    }
    return total;
}

static void set_up_classes(struct cache *c, const struct cache_options *o) {
    memcpy(c->layer_class, o->layer_class, c->n_layers);
    for (uint32_t i = 0, first = 0; i < c->n_classes; first += o->slots[i++]) {
        const uint32_t n = o->slots[i], share = n / RING_SHARE;
        uint32_t n_layers = 0, ring = share < RING ? share : RING;
        if (o->ring) ring = o->ring;
        if (ring < c->n_used) ring = c->n_used;
        c->classes[i] = (struct class){.first = first, .n = n, .n_free = n, .free_from = first, .ring = ring < n ? ring : n};
        for (uint32_t l = 0; l < c->n_layers; l++) n_layers += c->layer_class[l] == i;
        for (uint32_t l = 0; l < c->n_layers; l++) {
            if (c->layer_class[l] != i) continue;
            const uint32_t floor = o->floor ? o->floor : c->n_used, fair = n / n_layers;
            c->floors[l] = floor < fair ? floor : fair;
        }
    }
}

enum err cache_open(const struct cache_options *o, struct cache **out, struct reason *why) {
    uint64_t n_slots = 0;
    *out = NULL;
    TRY(check(o, &n_slots, why));
    struct cache *c = calloc(1, sizeof *c);
    if (!c) return fail(why, ERR_NO_MEMORY, "no memory for the expert cache");
    c->n_layers = o->n_layers;
    c->n_experts = o->n_experts;
    c->n_used = o->n_used;
    c->n_classes = o->n_classes;
    c->n_cells = o->n_layers * o->n_experts;
    c->n_slots = (uint32_t)n_slots;
    c->policy = o->policy;
    c->layer = NONE;
    c->half_life = o->half_life != 0 ? o->half_life : DEFAULT_HALF_LIFE;
    const enum err result = arena_open(&c->arena, lay_out(c, NULL), why);
    if (result != ERR_NONE) {
        free(c);
        return result;
    }
    lay_out(c, &c->arena);
    set_up_classes(c, o);
    const float weight = o->prior_weight != 0 ? o->prior_weight : DEFAULT_PRIOR_WEIGHT;
    for (uint32_t i = 0; i < c->n_cells; i++) {
        const float prior = o->prior ? o->prior[i] * weight : 0;
        c->prior[i] = prior > 0 ? fminf(prior, MAX_PRIOR) : 0; /* NaN: 0 */
        c->slot_of[i] = NONE;
    }
    for (uint32_t i = 0; i < c->n_slots; i++) c->cell[i] = NONE;
    *out = c;
    return ERR_NONE;
}

void cache_close(struct cache **cache) {
    if (!*cache) return;
    arena_close(&(*cache)->arena);
    free(*cache);
    *cache = NULL;
}

/* ---- looking ------------------------------------------------------------------------------------------------------ */

static uint32_t cell_of(const struct cache *c, uint32_t layer, uint32_t expert) {
    assert(layer < c->n_layers && expert < c->n_experts);
    return layer * c->n_experts + expert;
}

static bool is_slot(const struct cache *c, int32_t slot) { return slot >= 0 && (uint32_t)slot < c->n_slots; }

uint32_t cache_slots(const struct cache *c) { return c->n_slots; }

int32_t cache_find(const struct cache *c, uint32_t layer, uint32_t expert) { return c->slot_of[cell_of(c, layer, expert)]; }

bool cache_is_ready(const struct cache *c, int32_t slot) {
    assert(is_slot(c, slot));
    return c->cell[slot] != NONE && !(c->flags[slot] & LOADING);
}

bool cache_content(const struct cache *c, int32_t slot, uint32_t *layer, uint32_t *expert) {
    assert(is_slot(c, slot));
    if (c->cell[slot] == NONE) return false;
    *layer = (uint32_t)c->cell[slot] / c->n_experts;
    *expert = (uint32_t)c->cell[slot] % c->n_experts;
    return true;
}

uint32_t cache_layer_count(const struct cache *c, uint32_t layer) {
    assert(layer < c->n_layers);
    return c->layer_slots[layer];
}

/* What one use counts at a token, in units of 2^(base/H). */
static double weight_at(const struct cache *c, uint64_t token) {
    return exp2((double)(int64_t)(token - c->base) / c->half_life);
}

/* Scores are as of the running batch's end: base is never past it. */
static double weight_now(const struct cache *c) { return weight_at(c, c->clock + c->batch); }

static float score_of(const struct cache *c, uint32_t cell, double inverse_weight) {
    return c->policy == CACHE_LRU ? (float)c->last[cell] : (float)(c->heat[cell] * inverse_weight) + c->prior[cell];
}

float cache_score(const struct cache *c, uint32_t layer, uint32_t expert) {
    return score_of(c, cell_of(c, layer, expert), 1 / weight_now(c));
}

/* ---- counting uses -------------------------------------------------------------------------------------------------- */

/* Let the uses up to token `end` fit: what counted 2^(base/H) counts 2^(end/H) from now on. */
static void rescale(struct cache *c, uint64_t end) {
    if ((double)(end - c->base) / c->half_life <= MAX_EXPONENT) return;
    const float factor = (float)exp2(-(double)(end - c->base) / c->half_life);
    for (uint32_t i = 0; i < c->n_cells; i++) {
        c->heat[i] *= factor;
        if (c->heat[i] < (float)NEGLIGIBLE) c->heat[i] = 0;
        if (c->slot_of[i] != NONE) c->slot_heat[c->slot_of[i]] = c->heat[i];
    }
    c->base = end;
}

static void end_expectations(struct cache *c, uint32_t layer) {
    for (uint32_t i = layer * c->n_experts, end = i + c->n_experts; i < end; i++) {
        c->marks[i] &= (uint16_t)~EXPECTED;
        if (c->slot_of[i] != NONE) c->flags[c->slot_of[i]] &= (uint16_t)~EXPECTED;
    }
}

/* A decode token wants it: no longer a passing one. */
static void stay(struct cache *c, int32_t slot, uint32_t layer) {
    if (!(c->flags[slot] & PASSING)) return;
    c->flags[slot] &= (uint16_t)~PASSING;
    c->classes[c->layer_class[layer]].n_passing--;
}

static void count(struct cache *c, uint32_t cell, float weight, int32_t recent) {
    const int32_t slot = c->slot_of[cell];
    c->heat[cell] += weight;
    if (recent > c->last[cell]) c->last[cell] = recent;
    c->marks[cell] |= USED;
    if (slot == NONE) return;
    c->slot_heat[slot] = c->heat[cell];
    c->slot_last[slot] = c->last[cell];
    c->flags[slot] |= USED;
}

static void set_done(struct cache *c, uint32_t layer, bool done) {
    c->layer_done[layer] = done;
    for (uint32_t i = layer * c->n_experts, end = i + c->n_experts; i < end; i++) {
        if (c->slot_of[i] == NONE) continue;
        uint16_t *const flags = &c->flags[c->slot_of[i]];
        *flags = (uint16_t)(done ? *flags | DONE : *flags & ~DONE);
    }
}

/* A prompt goes through the layers once: whoever is behind it is needed by it no more, and is scored up to its end. */
static void follow_prompt(struct cache *c, uint32_t layer) {
    if (c->layer != NONE) set_done(c, (uint32_t)c->layer, true);
    set_done(c, layer, false);
    c->layer = (int32_t)layer;
}

static void begin_batch(struct cache *c, uint32_t n_tokens) {
    const bool prompt = n_tokens >= PROMPT_TOKENS;
    if (prompt && !c->in_prompt) c->clock += (uint64_t)(PROMPT_FADE * c->half_life + .5);
    c->in_prompt = prompt;
}

void cache_use(struct cache *c, uint32_t layer, const int32_t *experts, uint32_t n_tokens) {
    assert(layer < c->n_layers && n_tokens < INT32_MAX / 2);
    if (c->batch == 0) begin_batch(c, n_tokens);
    if (n_tokens >= PROMPT_TOKENS) follow_prompt(c, layer);
    if (c->batch < n_tokens) c->batch = n_tokens;
    rescale(c, c->clock + c->batch);
    /* After 2^31 layers of tokens LRU stops learning; it is there for comparison, and that is a year. */
    if (c->recent > RECENT_LIMIT - (int32_t)n_tokens) c->recent = RECENT_LIMIT - (int32_t)n_tokens;
    end_expectations(c, layer);
    /* Backwards, so that however long the prompt is, the weights run out where they no longer matter. */
    const double last = n_tokens ? weight_at(c, c->clock + n_tokens - 1) : 0, step = exp2(-1 / c->half_life);
    double weight = last;
    for (uint32_t t = n_tokens; t-- > 0; weight *= step) {
        if (weight < last * NEGLIGIBLE) weight = 0;
        for (uint32_t k = 0; k < c->n_used; k++) {
            const int32_t expert = experts[(size_t)t * c->n_used + k];
            if (expert < 0) continue;
            const uint32_t cell = cell_of(c, layer, (uint32_t)expert);
            count(c, cell, (float)weight, c->recent + 1 + (int32_t)t);
            if (n_tokens == 1 && c->slot_of[cell] != NONE) stay(c, c->slot_of[cell], layer);
        }
    }
    c->recent += (int32_t)n_tokens;
}

static void grow_older(uint16_t *marks, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        marks[i] = (uint16_t)((marks[i] & ~(USED | USED_1 | USED_2)) | (marks[i] & (USED | USED_1)) << 1);
}

void cache_advance(struct cache *c, uint32_t n_tokens) {
    /* Of a batch given up, the uses counted so far lie in its future: let that pass too. */
    const uint64_t n = n_tokens > c->batch ? n_tokens : c->batch;
    for (uint64_t i = 0; i < 3 && i < n; i++) { /* three tokens later nothing counts as just used */
        grow_older(c->marks, c->n_cells);
        grow_older(c->flags, c->n_slots);
    }
    c->clock += n;
    c->batch = 0;
    if (c->layer == NONE) return;
    c->layer = NONE;
    memset(c->layer_done, 0, c->n_layers * sizeof *c->layer_done);
    for (uint32_t i = 0; i < c->n_slots; i++) c->flags[i] &= (uint16_t)~DONE;
}

void cache_expect(struct cache *c, uint32_t layer, const int32_t *experts, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t cell = cell_of(c, layer, (uint32_t)experts[i]);
        c->marks[cell] |= EXPECTED;
        if (c->slot_of[cell] != NONE) c->flags[c->slot_of[cell]] |= EXPECTED;
    }
}

/* ---- who leaves ------------------------------------------------------------------------------------------------------- */

/* Non-negative floats order as their bits do, so both policies give integers to compare, which vectorise. */
static void fill_keys(struct cache *c, const struct class *class, uint16_t mask, uint16_t want) {
    const uint32_t n = class->n;
    const uint16_t *const flags = c->flags + class->first;
    int32_t *const keys = c->keys;
    if (c->policy == CACHE_LRU) {
        memcpy(keys, c->slot_last + class->first, n * sizeof *keys);
    } else {
        const float weight = (float)weight_now(c);
        const float *const heat = c->slot_heat + class->first, *const prior = c->slot_prior + class->first;
        for (uint32_t i = 0; i < n; i++) {
            const float score = heat[i] + prior[i] * weight;
            memcpy(&keys[i], &score, sizeof score);
        }
    }
    for (uint32_t i = 0; i < n; i++) keys[i] = (flags[i] & mask) == want ? keys[i] : INT32_MAX;
}

/* The coldest bound slot whose flags under `mask` are `want`; the first of equals. */
static int32_t pick(struct cache *c, const struct class *class, uint16_t mask, uint16_t want) {
    int32_t best = INT32_MAX;
    fill_keys(c, class, mask, want);
    for (uint32_t i = 0; i < class->n; i++) best = c->keys[i] < best ? c->keys[i] : best;
    if (best == INT32_MAX) return NONE;
    uint32_t at = 0;
    while (c->keys[at] != best) at++;
    return (int32_t)(class->first + at);
}

/* What is given up, one after the other, before an expert that is needed now goes without a slot. */
static const uint16_t soft[] = {FLOOR | EXPECTED | USED, EXPECTED | USED, USED, 0};
enum { N_SOFT = sizeof soft / sizeof *soft };

static int32_t victim_of_demand(struct cache *c, const struct class *class) {
    int32_t slot = class->n_passing ? pick(c, class, PASSING | BUSY | soft[0], PASSING) : NONE;
    for (uint32_t i = 0; i < N_SOFT && slot == NONE; i++) slot = pick(c, class, BUSY | soft[i], 0);
    return slot;
}

/* In a prompt everything of a layer is used and then done with for the batch: being used keeps no passing expert. */
static int32_t victim_of_passing(struct cache *c, const struct class *class) {
    int32_t slot = NONE;
    for (uint32_t i = 0; i < N_SOFT && slot == NONE; i++) {
        if (class->n_passing) slot = pick(c, class, (uint16_t)(PASSING | BUSY | (soft[i] & ~USED)), PASSING);
        if (slot == NONE && class->n_passing < class->ring) slot = pick(c, class, PASSING | BUSY | soft[i], 0);
    }
    return slot;
}

/* Somebody the prompt has no more use for, and whom it left colder than the newcomer: decoding after the prompt will rather
 * want the newcomer. NONE: there is nobody like that. */
static int32_t colder_than(struct cache *c, const struct class *class, uint32_t cell) {
    if (c->policy != CACHE_LFRU || c->layer == NONE) return NONE;
    const double inverse_weight = 1 / weight_now(c);
    const int32_t slot = pick(c, class, DONE | PASSING | BUSY | FLOOR | EXPECTED, DONE);
    if (slot == NONE) return NONE;
    const double old = (double)score_of(c, (uint32_t)c->cell[slot], inverse_weight);
    return (double)score_of(c, cell, inverse_weight) > WARMER * old + WARMER_BY ? slot : NONE;
}

static int32_t victim_of_ahead(struct cache *c, const struct class *class) {
    return pick(c, class, BUSY | FLOOR | EXPECTED | USED | USED_1 | USED_2, 0);
}

static int32_t free_slot(struct cache *c, struct class *class) {
    if (class->n_free == 0) return NONE;
    uint32_t at = class->free_from;
    while (c->cell[at] != NONE || c->holds[at]) at++;
    class->free_from = at;
    return (int32_t)at;
}

/* ---- binding ------------------------------------------------------------------------------------------------------------ */

static void change_layer_count(struct cache *c, uint32_t layer, int change) {
    const bool was = c->layer_slots[layer] <= c->floors[layer];
    c->layer_slots[layer] += (uint32_t)change;
    const bool is = c->layer_slots[layer] <= c->floors[layer];
    if (was == is) return;
    for (uint32_t i = layer * c->n_experts, end = i + c->n_experts; i < end; i++) {
        if (c->slot_of[i] == NONE) continue;
        uint16_t *const flags = &c->flags[c->slot_of[i]];
        *flags = (uint16_t)(is ? *flags | FLOOR : *flags & ~FLOOR);
    }
}

static void unbind(struct cache *c, int32_t slot, struct class *class) {
    const uint32_t cell = (uint32_t)c->cell[slot];
    if (c->flags[slot] & PASSING) class->n_passing--;
    c->slot_of[cell] = NONE;
    c->cell[slot] = NONE;
    c->flags[slot] &= HELD;
    change_layer_count(c, cell / c->n_experts, -1);
}

static void bind(struct cache *c, int32_t slot, uint32_t cell, uint32_t layer) {
    c->slot_of[cell] = slot;
    c->cell[slot] = (int32_t)cell;
    c->slot_heat[slot] = c->heat[cell];
    c->slot_prior[slot] = c->prior[cell];
    c->slot_last[slot] = c->last[cell];
    c->flags[slot] =
        LOADING | c->marks[cell] | (c->layer_slots[layer] <= c->floors[layer] ? FLOOR : 0) | (c->layer_done[layer] ? DONE : 0);
}

/* *passing: the newcomer will be the first to leave again. */
static int32_t choose_victim(struct cache *c, const struct class *class, uint32_t cell, enum cache_cause cause, bool *passing) {
    int32_t slot = NONE;
    switch (cause) {
    case CACHE_DEMAND: return victim_of_demand(c, class);
    case CACHE_PASSING:
        slot = colder_than(c, class, cell);
        *passing = slot == NONE;
        return slot != NONE ? slot : victim_of_passing(c, class);
    case CACHE_AHEAD: return victim_of_ahead(c, class);
    case CACHE_FILL: break;
    }
    return NONE;
}

int32_t cache_take(struct cache *c, uint32_t layer, uint32_t expert, enum cache_cause cause) {
    const uint32_t cell = cell_of(c, layer, expert);
    struct class *const class = &c->classes[c->layer_class[layer]];
    bool passing = false;
    assert(c->slot_of[cell] == NONE);
    /* The newcomer counts first: a layer at its floor may then replace its own, and one below it may not. */
    change_layer_count(c, layer, 1);
    int32_t slot = free_slot(c, class);
    if (slot != NONE) {
        class->n_free--;
    } else {
        slot = choose_victim(c, class, cell, cause, &passing);
        if (slot == NONE) {
            change_layer_count(c, layer, -1);
            return NONE;
        }
        unbind(c, slot, class);
    }
    bind(c, slot, cell, layer);
    if (passing) {
        c->flags[slot] |= PASSING;
        class->n_passing++;
    }
    return slot;
}

/* ---- loading and holding ---------------------------------------------------------------------------------- */

static struct class *class_of_slot(struct cache *c, int32_t slot) {
    uint32_t i = 0;
    while ((uint32_t)slot >= c->classes[i].first + c->classes[i].n) i++;
    return &c->classes[i];
}

static void count_as_free(struct cache *c, int32_t slot) {
    struct class *const class = class_of_slot(c, slot);
    class->n_free++;
    if ((uint32_t)slot < class->free_from) class->free_from = (uint32_t)slot;
}

void cache_landed(struct cache *c, int32_t slot, bool ok) {
    assert(is_slot(c, slot) && c->cell[slot] != NONE && (c->flags[slot] & LOADING));
    c->flags[slot] &= (uint16_t)~LOADING;
    if (ok) return;
    unbind(c, slot, class_of_slot(c, slot));
    if (c->holds[slot] == 0) count_as_free(c, slot);
}

void cache_hold(struct cache *c, int32_t slot) {
    assert(is_slot(c, slot) && c->cell[slot] != NONE && c->holds[slot] < UINT16_MAX);
    c->holds[slot]++;
    c->flags[slot] |= HELD;
}

void cache_release(struct cache *c, int32_t slot) {
    assert(is_slot(c, slot) && c->holds[slot] > 0);
    if (--c->holds[slot]) return;
    c->flags[slot] &= (uint16_t)~HELD;
    if (c->cell[slot] == NONE) count_as_free(c, slot);
}

void cache_drop(struct cache *c, int32_t slot) {
    assert(is_slot(c, slot));
    if (c->cell[slot] == NONE || c->flags[slot] & BUSY) return;
    unbind(c, slot, class_of_slot(c, slot));
    count_as_free(c, slot);
}

void cache_set_elsewhere(struct cache *c, uint32_t layer, uint32_t expert, bool elsewhere) {
    c->elsewhere[cell_of(c, layer, expert)] = elsewhere;
}

bool cache_next_fill(const struct cache *c, uint32_t *layer, uint32_t *expert) {
    const double inverse_weight = 1 / weight_now(c);
    float best = -1;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        if (c->classes[c->layer_class[l]].n_free == 0) continue;
        for (uint32_t x = 0; x < c->n_experts; x++) {
            const uint32_t cell = l * c->n_experts + x;
            if (c->slot_of[cell] != NONE || c->elsewhere[cell]) continue;
            const float score = score_of(c, cell, inverse_weight);
            if (score <= best) continue;
            best = score;
            *layer = l;
            *expert = x;
        }
    }
    return best >= 0;
}
