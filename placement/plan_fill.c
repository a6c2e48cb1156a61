/* Which experts get a slot: slot classes, the order of experts, and filling VRAM and RAM along it.
 *
 * One order for all budgets, and each tier takes a prefix of it (of what the faster tier left): a larger budget takes a longer
 * prefix, so it never holds less. The price is at most one unused slot's room. */
#include <stdlib.h>
#include <string.h>

#include "placement/cost.h"
#include "placement/plan_private.h"

enum { VRAM_ALIGN = 256 }; /* slot addresses are stored in units of it (docs of the GPU path) */

/* ---- slot classes --------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* sizes[0..n) sorted; equal ones fall together, then the closest neighbours join the larger until few are left. */
static uint32_t distinct_sizes(uint64_t *sizes, uint32_t n) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (kept == 0 || sizes[kept - 1] != sizes[i]) sizes[kept++] = sizes[i];
    while (kept > PLAN_MAX_CLASSES) {
        uint32_t closest = 0;
        for (uint32_t i = 1; i + 1 < kept; i++)
            if (sizes[i + 1] - sizes[i] < sizes[closest + 1] - sizes[closest]) closest = i;
        memmove(sizes + closest, sizes + closest + 1, (--kept - closest) * sizeof *sizes);
    }
    return kept;
}

enum err plan_make_classes(struct planning *g, struct reason *why) {
    const struct plan_model *m = g->m;
    struct plan *p = g->p;
    uint64_t *room = calloc_checked((uint64_t)m->n_layers * 2, sizeof *room), *sizes = room ? room + m->n_layers : NULL;
    if (!room) return fail(why, ERR_NO_MEMORY, "no memory to plan %u layers", m->n_layers);
    bool fits = true;
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        const struct plan_tensor *t = &m->tensors[i];
        if (t->role != PLAN_ROLE_EXPERTS) continue;
        fits &= size_add(room[t->layer], t->room_bytes, &room[t->layer]);
        fits &= size_add(p->layers[t->layer].expert_bytes, t->bytes, &p->layers[t->layer].expert_bytes);
    }
    memcpy(sizes, room, m->n_layers * sizeof *sizes);
    qsort(sizes, m->n_layers, sizeof *sizes, by_size);
    p->n_classes = distinct_sizes(sizes, m->n_layers);
    for (uint32_t c = 0; c < p->n_classes; c++) p->classes[c].slot_bytes = sizes[c];
    for (uint32_t l = 0; l < m->n_layers && fits; l++) {
        uint32_t c = 0;
        while (p->classes[c].slot_bytes < room[l]) c++;
        struct plan_class *class = &p->classes[c];
        p->layers[l].class = (uint8_t)c;
        class->n_layers++;
        const uint64_t need = round_up(p->layers[l].expert_bytes, VRAM_ALIGN);
        fits &= need >= p->layers[l].expert_bytes;
        if (class->vram_slot_bytes < need) class->vram_slot_bytes = need;
    }
    free(room);
    return fits ? ERR_NONE : fail(why, ERR_LIMIT, "the size of the experts overflows");
}

/* ---- order ---------------------------------------------------------------------------------------------------------- */

struct rank {
    double worth; /* expected saved time a byte */
    uint64_t tie; /* rank within the layer first: layers stay alike when nothing is known */
    uint32_t id;
};

static int by_worth(const void *a, const void *b) {
    const struct rank *x = a, *y = b;
    if (x->worth != y->worth) return x->worth > y->worth ? -1 : 1;
    return x->tie < y->tie ? -1 : x->tie > y->tie;
}

/* One layer's experts, most used first, with their worth. */
static void rank_layer(const struct planning *g, uint32_t layer, const float *uses, double saved, struct rank *ranks) {
    const struct plan_model *m = g->m;
    const uint32_t n = m->n_experts;
    for (uint32_t e = 0; e < n; e++) ranks[e] = (struct rank){uses ? uses[e] : 1, e, layer * n + e};
    qsort(ranks, n, sizeof *ranks, by_worth);
    for (uint32_t i = 0; i < n; i++) {
        ranks[i].tie = (uint64_t)i * m->n_layers + layer;
        ranks[i].worth *= saved;
        if (i < m->n_used) ranks[i].worth = 1e30; /* the floor: a layer below it reads on every token */
        if (g->must_vram[layer]) ranks[i].worth = 1e31;
    }
}

static void rank_all(const struct planning *g, const float *uses, const double *saved, struct rank *ranks) {
    const struct plan_model *m = g->m;
    const size_t n = (size_t)m->n_layers * m->n_experts;
    for (uint32_t l = 0; l < m->n_layers; l++) {
        const size_t at = (size_t)l * m->n_experts;
        rank_layer(g, l, uses ? uses + at : NULL, uses ? saved[l] : 1, ranks + at);
    }
    qsort(ranks, n, sizeof *ranks, by_worth);
    for (size_t i = 0; i < n; i++) g->order[i] = ranks[i].id;
}

enum err plan_order_experts(struct planning *g, struct reason *why) {
    const struct plan_model *m = g->m;
    const size_t n = (size_t)m->n_layers * m->n_experts;
    struct rank *ranks = calloc_checked(n, sizeof *ranks);
    double *saved = calloc_checked(m->n_layers, sizeof *saved);
    float *uses = g->r->profile ? calloc_checked(n, sizeof *uses) : NULL;
    const bool ok = ranks && saved && (uses || !g->r->profile);
    if (ok && uses) {
        profile_prior(g->r->profile, uses);
        cost_saved_per_byte(g->m, g->f, g->r, g->gpu, saved);
    }
    if (ok) rank_all(g, uses, saved, ranks);
    free(uses);
    free(saved);
    free(ranks);
    return ok ? ERR_NONE : fail(why, ERR_NO_MEMORY, "no memory to rank %zu experts", n);
}

/* ---- filling -------------------------------------------------------------------------------------------------------- */

static void put(struct plan *p, uint32_t id, enum plan_tier tier) {
    const uint32_t layer = id / p->n_experts;
    p->layers[layer].experts[p->expert_tier[id]]--;
    p->experts[p->expert_tier[id]]--;
    p->layers[layer].experts[tier]++;
    p->experts[tier]++;
    p->expert_tier[id] = (uint8_t)tier;
}

void plan_fill_vram(struct planning *g, uint64_t room) {
    struct plan *p = g->p;
    const size_t n = (size_t)p->n_layers * p->n_experts;
    for (size_t i = 0; i < n; i++) {
        const struct plan_layer *layer = &p->layers[g->order[i] / p->n_experts];
        struct plan_class *class = &p->classes[layer->class];
        if (!layer->may_vram) continue;
        if (class->vram_slot_bytes > room) break;
        room -= class->vram_slot_bytes;
        p->bytes[PLAN_VRAM][PLAN_EXPERTS] += class->vram_slot_bytes;
        class->vram_slots++;
        put(p, g->order[i], PLAN_VRAM);
    }
}

/* Of one class while slots are dealt out. */
struct demand {
    uint64_t experts; /* of its layers that may be in RAM */
    uint64_t covered; /* of those, in VRAM */
    uint64_t most;    /* slots it can use */
};

static void count_demand(const struct plan *p, struct demand *d) {
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct plan_layer *layer = &p->layers[l];
        if (!layer->may_ram) continue;
        d[layer->class].experts += p->n_experts;
        d[layer->class].covered += layer->experts[PLAN_VRAM];
        d[layer->class].most += p->n_experts - layer->experts[PLAN_VRAM];
    }
}

/* A layer whose chosen experts come from the drive needs room for all of them at once. */
static uint32_t smallest_set(const struct planning *g, uint32_t class) {
    const struct plan *p = g->p;
    const uint64_t all = (uint64_t)p->classes[class].n_layers * p->n_experts, away = g->r->starts_empty ? all : all - p->classes[class].vram_slots;
    return away < p->n_used ? (uint32_t)away : p->n_used;
}

/* The class with the lowest coverage that has experts left; n_classes: none. */
static uint32_t neediest(const struct plan *p, const struct demand *d) {
    uint32_t best = p->n_classes;
    for (uint32_t c = 0; c < p->n_classes; c++) {
        if (p->classes[c].slots >= d[c].most) continue;
        /* (covered + slots) / experts, compared by cross multiplication: counts < 2^32 */
        if (best == p->n_classes ||
            (d[c].covered + p->classes[c].slots) * d[best].experts < (d[best].covered + p->classes[best].slots) * d[c].experts)
            best = c;
    }
    return best;
}

/* The hottest experts left of each class take its slots. */
static void put_in_ram(struct planning *g) {
    struct plan *p = g->p;
    uint32_t used[PLAN_MAX_CLASSES] = {0};
    const size_t n = (size_t)p->n_layers * p->n_experts;
    for (size_t i = 0; i < n; i++) {
        const uint32_t id = g->order[i];
        const struct plan_layer *layer = &p->layers[id / p->n_experts];
        if (p->expert_tier[id] != PLAN_NVME || !layer->may_ram || used[layer->class] >= p->classes[layer->class].slots)
            continue;
        used[layer->class]++;
        put(p, id, PLAN_RAM);
    }
}

bool plan_fill_ram(struct planning *g, uint64_t room, uint64_t *least) {
    struct plan *p = g->p;
    struct demand demand[PLAN_MAX_CLASSES] = {{0}};
    struct total need = {0};
    uint64_t slots = 0;
    count_demand(p, demand);
    for (uint32_t c = 0; c < p->n_classes; c++) {
        p->classes[c].slots = smallest_set(g, c);
        slots += p->classes[c].slots;
        total_add_product(&need, p->classes[c].slots, p->classes[c].slot_bytes);
    }
    *least = need.overflow ? UINT64_MAX : need.bytes;
    if (need.overflow || need.bytes > room) return false;
    for (;;) {
        const uint32_t c = neediest(p, demand);
        if (c == p->n_classes || p->classes[c].slot_bytes > room - need.bytes || (g->r->max_slots && slots >= g->r->max_slots))
            break;
        need.bytes += p->classes[c].slot_bytes;
        p->classes[c].slots++;
        slots++;
    }
    p->bytes[PLAN_RAM][PLAN_EXPERTS] = need.bytes;
    put_in_ram(g);
    return true;
}
