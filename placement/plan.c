/* From facts, model and flags to a plan: budgets resolved, what must be there counted, the rest filled with experts.
 *
 * Pure. The parts: plan_bounds.c says what may live where, plan_fill.c deals out slots, cost.c predicts. */
#include "placement/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/cost.h"
#include "placement/plan_private.h"

#define MIB ((uint64_t)1 << 20)

enum {
    DEFAULT_CONTEXT_LIMIT = 32768,
    LEAST_CONTEXT = 4096, /* nobody asked for a length: no shorter than this for the sake of experts */
    CONTEXT_STEP = 1024,
    KV_SHARE = 8, /* ... and then at most this part of a budget that cannot hold all experts anyway */
    RING_SLOTS = 24, /* prompts stream missing experts through them (docs of the GPU path, prefill) */
    MAX_EXPERT_IDS = INT32_MAX
};

/* VRAM the driver and CUDA take (docs of the GPU path, accounting): primary context of a large card 250, modules 30, four
 * graphs 60. */
static const uint64_t gpu_overhead_bytes = 340 * MIB;
/* Of the card's memory this much is not ours, what others hold at the moment included (a display, what a driver hides); of what
 * is free, the second stays free for them to grow. */
static const uint64_t others_vram_bytes = 512 * MIB, least_vram_reserve = 150 * MIB;
/* Threads, rings of requests, tables, the allocator's rounding. */
static const uint64_t process_slack_bytes = 16 * MIB;
static const uint64_t gain_bytes = 2048 * MIB;

/* Per element of a cache row: bytes a block, elements a block. */
static const struct {
    const char *name;
    uint64_t block_bytes, block_elements;
} kv_types[PLAN_KV_TYPES] = {[PLAN_KV_F16] = {"f16", 2, 1},
                             [PLAN_KV_Q8_0] = {"q8_0", 34, 32},
                             [PLAN_KV_Q4_0] = {"q4_0", 18, 32},
                             [PLAN_KV_F32] = {"f32", 4, 1}};

static const char *const resource_names[PLAN_RESOURCES] = {
    [PLAN_RES_RAM] = "RAM bandwidth",   [PLAN_RES_CPU] = "CPU", [PLAN_RES_DRIVE] = "drive",
    [PLAN_RES_VRAM] = "VRAM bandwidth", [PLAN_RES_GPU] = "GPU", [PLAN_RES_LINK] = "PCIe"};

const char *plan_kv_name(enum plan_kv type) { return kv_types[type].name; }
const char *plan_resource_name(enum plan_resource r) { return resource_names[r]; }

void plan_request_default(struct plan_request *out) {
    *out = (struct plan_request){
        .ram_budget = PLAN_AUTO, .vram_budget = PLAN_AUTO, .vram_reserve = PLAN_AUTO, .gpu_layers = PLAN_ALL_LAYERS};
}

uint64_t plan_tier_bytes(const struct plan *p, enum plan_tier tier) {
    uint64_t sum = 0;
    for (int k = 0; k < PLAN_KINDS; k++) sum += p->bytes[tier][k]; /* checked when the plan was made */
    return sum;
}

void plan_close(struct plan *p) {
    free(p->layers);
    free(p->expert_tier);
    *p = (struct plan){0};
}

/* ---- checks --------------------------------------------------------------------------------------------------------- */

static enum err check_model(const struct plan_model *m, struct reason *why) {
    if (m->n_layers == 0 || m->n_experts == 0 || m->n_used == 0 || m->n_used > m->n_experts || !m->tensors)
        return fail(why, ERR_ARGUMENT, "a plan needs layers and experts: %u layers, %u experts, %u used", m->n_layers,
                    m->n_experts, m->n_used);
    if ((uint64_t)m->n_layers * m->n_experts > MAX_EXPERT_IDS)
        return fail(why, ERR_LIMIT, "%u layers of %u experts are too many to plan", m->n_layers, m->n_experts);
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        const struct plan_tensor *t = &m->tensors[i];
        if ((t->role == PLAN_ROLE_EXPERTS && t->layer >= m->n_layers) || t->room_bytes < t->bytes || t->type >= TYPE_COUNT)
            return fail(why, ERR_ARGUMENT, "tensor %u of the plan's model is inconsistent", i);
    }
    return ERR_NONE;
}

static enum err check_request(const struct plan_model *m, const struct facts *f, const struct plan_request *r,
                              struct reason *why) {
    if (r->use_gpu && r->gpu >= f->n_gpus) return fail(why, ERR_ARGUMENT, "GPU %u: the machine has %u", r->gpu, f->n_gpus);
    if (r->n_rules > PLAN_MAX_RULES) return fail(why, ERR_ARGUMENT, "-ot: at most %d rules", PLAN_MAX_RULES);
    const struct profile *p = r->profile;
    if (p && (p->n_layers != m->n_layers || p->n_experts != m->n_experts))
        return fail(why, ERR_ARGUMENT, "the profile counts %u layers of %u experts, the model has %u of %u", p->n_layers,
                    p->n_experts, m->n_layers, m->n_experts);
    return ERR_NONE;
}

/* ---- budgets -------------------------------------------------------------------------------------------------------- */

struct budgets {
    uint64_t ram, vram;
    const struct facts_gpu *gpu; /* NULL: none is used */
    bool vram_is_auto;
};

static uint64_t clamp(uint64_t value, uint64_t low, uint64_t high) { return value < low ? low : value > high ? high : value; }

/* Bytes the process may hold: what it has, and what can be taken; with PLAN_AUTO a part of that stays free. */
static enum err resolve_ram(const struct facts *f, const struct plan_request *r, uint64_t *out, struct reason *why) {
    const uint64_t available = f->memory_available_bytes ? f->memory_available_bytes : f->memory_total_bytes;
    uint64_t all;
    if (available == 0)
        return fail(why, ERR_ARGUMENT, "the machine's memory is not known: give --ram-budget and a facts file with it");
    if (!size_add(available, r->process_bytes, &all)) return fail(why, ERR_LIMIT, "the machine's memory overflows");
    *out = r->ram_budget < all ? r->ram_budget : all;
    if (r->ram_budget == PLAN_AUTO)
        *out = all - clamp(available / 16, available < 512 * MIB ? available / 4 : 128 * MIB, 2048 * MIB);
    return ERR_NONE;
}

static void resolve_vram(const struct facts *f, const struct plan_request *r, struct budgets *b) {
    b->vram = 0;
    b->gpu = NULL;
    b->vram_is_auto = r->vram_budget == PLAN_AUTO;
    if (!r->use_gpu || r->gpu_layers == 0 || r->vram_budget == 0) return;
    const struct facts_gpu *gpu = &f->gpus[r->gpu];
    const uint64_t has = gpu->vram_free_bytes ? gpu->vram_free_bytes : gpu->vram_bytes;
    const uint64_t held = gpu->vram_bytes > has ? gpu->vram_bytes - has : 0;
    const uint64_t reserve = r->vram_reserve != PLAN_AUTO ? r->vram_reserve
                                                          : clamp(held < others_vram_bytes ? others_vram_bytes - held : 0,
                                                                  least_vram_reserve, others_vram_bytes);
    const uint64_t most = has > reserve ? has - reserve : 0;
    b->gpu = gpu;
    b->vram = b->vram_is_auto ? most : r->vram_budget < has ? r->vram_budget : has;
}

/* ---- what must be there --------------------------------------------------------------------------------------------- */

static void count_kv(struct planning *g, struct total need[PLAN_TIERS][PLAN_KINDS]) {
    const struct plan_request *r = g->r;
    struct total row = {0};
    for (int i = 0; i < 2; i++) {
        const enum plan_kv type = i ? r->type_v : r->type_k;
        struct total part = {0};
        total_add_product(&part, g->m->kv_width, kv_types[type].block_bytes);
        total_add(&row, (part.bytes + kv_types[type].block_elements - 1) / kv_types[type].block_elements);
        row.overflow |= part.overflow;
    }
    for (uint32_t l = 0; l < g->m->n_layers; l++) {
        struct total *to = &need[g->p->layers[l].kv_on_gpu ? PLAN_VRAM : PLAN_RAM][PLAN_KV];
        total_add_product(to, row.bytes, g->p->context_tokens);
        to->overflow |= row.overflow;
    }
    uint64_t per_token = 0; /* an overflow shows above, too */
    if (!size_mul(row.bytes, g->m->n_layers, &per_token)) need[PLAN_RAM][PLAN_KV].overflow = true;
    g->p->kv_bytes_per_token = per_token;
}

static void count_weights(struct planning *g, struct total need[PLAN_TIERS][PLAN_KINDS]) {
    for (uint32_t i = 0; i < g->m->n_tensors; i++) {
        const struct plan_tensor *t = &g->m->tensors[i];
        if (t->role == PLAN_ROLE_EXPERTS) continue;
        const enum plan_tier tier = g->tensor_tier[i];
        total_add(&need[tier][t->role == PLAN_ROLE_EMBEDDING ? PLAN_EMBEDDING : PLAN_DENSE],
                  tier == PLAN_VRAM ? t->bytes : t->room_bytes);
    }
}

/* Everything but experts, into plan.bytes. */
static enum err count_fixed(struct planning *g, struct reason *why) {
    struct total need[PLAN_TIERS][PLAN_KINDS] = {{{0}}};
    struct plan *p = g->p;
    count_weights(g, need);
    count_kv(g, need);
    total_add(&need[PLAN_RAM][PLAN_SCRATCH], g->m->cpu_scratch_bytes);
    total_add(&need[PLAN_RAM][PLAN_OVERHEAD], g->r->process_bytes);
    total_add(&need[PLAN_RAM][PLAN_OVERHEAD], process_slack_bytes);
    total_add_product(&need[PLAN_RAM][PLAN_OVERHEAD], p->n_classes + 3, 2 * MIB); /* each mapping ends in a huge page */
    if (g->gpu) {
        total_add(&need[PLAN_VRAM][PLAN_SCRATCH], g->m->gpu_scratch_bytes);
        total_add(&need[PLAN_VRAM][PLAN_OVERHEAD], g->r->vram_overhead ? g->r->vram_overhead : gpu_overhead_bytes);
    }
    struct total all = {0};
    for (int t = 0; t < PLAN_TIERS; t++)
        for (int k = 0; k < PLAN_KINDS; k++) {
            all.overflow |= need[t][k].overflow;
            total_add(&all, need[t][k].bytes);
            p->bytes[t][k] = need[t][k].bytes;
        }
    return all.overflow ? fail(why, ERR_LIMIT, "a context of %llu tokens and the weights overflow the address space; use -c",
                               (unsigned long long)p->context_tokens)
                        : ERR_NONE;
}

static unsigned long long mib_up(uint64_t bytes) { return (unsigned long long)(bytes / MIB + (bytes % MIB != 0)); }

/* What would make it fit: a shorter context where that is enough. */
static void advise(const struct planning *g, enum plan_tier tier, uint64_t missing, char *out, size_t size) {
    const struct plan *p = g->p;
    const uint64_t kv = p->bytes[tier][PLAN_KV], tokens = p->context_tokens ? p->context_tokens : 1;
    const uint64_t a_token = kv / tokens + (kv % tokens != 0);
    if (a_token == 0 || kv <= missing || (kv - missing) / a_token == 0)
        snprintf(out, size, "%s",
                 tier == PLAN_VRAM ? "-nkvo or a smaller -ngl would take less" : "a smaller -ub would take less");
    else
        snprintf(out, size, "-c %llu would fit%s", (unsigned long long)((kv - missing) / a_token),
                 tier == PLAN_VRAM ? "; so may -ctk q8_0 -ctv q8_0, -nkvo or a smaller -ngl" : "");
}

static enum err refuse(const struct planning *g, enum plan_tier tier, uint64_t need, uint64_t budget, uint64_t experts,
                       struct reason *why) {
    const uint64_t *b = g->p->bytes[tier];
    char advice[120];
    advise(g, tier, need - budget, advice, sizeof advice);
    const bool is_flag = (tier == PLAN_VRAM ? g->r->vram_budget : g->r->ram_budget) == budget; /* else the machine's limit */
    return fail(
        why, ERR_LIMIT,
        "%s: %llu MiB are missing. The least is %llu MiB (dense %llu, embedding %llu, KV cache of %llu tokens %llu, scratch "
        "%llu, overhead %llu, experts %llu) and %llu MiB %s; %s",
        tier == PLAN_VRAM ? "--vram-budget" : "--ram-budget", mib_up(need - budget), mib_up(need), mib_up(b[PLAN_DENSE]),
        mib_up(b[PLAN_EMBEDDING]), (unsigned long long)g->p->context_tokens, mib_up(b[PLAN_KV]), mib_up(b[PLAN_SCRATCH]),
        mib_up(b[PLAN_OVERHEAD]), mib_up(experts), (unsigned long long)(budget / MIB), is_flag ? "are allowed" : "are free",
        advice);
}

/* ---- placing -------------------------------------------------------------------------------------------------------- */

/* Bytes of the experts that rules want in VRAM, and of all that may go there. */
static void expert_demand(const struct planning *g, struct total *must, struct total *may) {
    for (uint32_t l = 0; l < g->p->n_layers; l++) {
        const struct plan_layer *layer = &g->p->layers[l];
        const uint64_t slot = g->p->classes[layer->class].vram_slot_bytes;
        if (layer->may_vram)
            total_add_product(may, slot, g->p->n_experts);
        else
            may->overflow = true; /* something stays outside */
        if (g->must_vram[l]) total_add_product(must, slot, g->p->n_experts);
    }
}

/* Bytes of slots that prompts stream the other experts through. */
static uint64_t ring_bytes(const struct plan *p) {
    uint64_t largest = 0, ring;
    for (uint32_t c = 0; c < p->n_classes; c++)
        if (p->classes[c].vram_slot_bytes > largest) largest = p->classes[c].vram_slot_bytes;
    return size_mul(largest, RING_SLOTS, &ring) ? ring : UINT64_MAX;
}

/* ERR_LIMIT with *too_small set: what must be in VRAM is larger than the budget. */
static enum err place_vram(struct planning *g, uint64_t budget, bool *too_small, struct reason *why) {
    struct plan *p = g->p;
    struct total must = {0}, may = {0};
    expert_demand(g, &must, &may);
    const uint64_t fixed = plan_tier_bytes(p, PLAN_VRAM);
    const bool holds_all = !may.overflow && fixed <= budget && may.bytes <= budget - fixed;
    const uint64_t ring = holds_all ? 0 : ring_bytes(p);
    struct total need = {0};
    total_add(&need, fixed);
    total_add(&need, ring);
    total_add(&need, must.bytes);
    *too_small = need.overflow || must.overflow || need.bytes > budget;
    if (need.overflow || must.overflow) return fail(why, ERR_LIMIT, "the experts for VRAM overflow the address space");
    p->bytes[PLAN_VRAM][PLAN_SCRATCH] += ring;
    p->vram_ring_bytes = ring;
    if (*too_small) return refuse(g, PLAN_VRAM, need.bytes, budget, must.bytes, why);
    plan_fill_vram(g, budget - fixed - ring);
    return ERR_NONE;
}

static enum err place_ram(struct planning *g, uint64_t budget, struct reason *why) {
    const uint64_t fixed = plan_tier_bytes(g->p, PLAN_RAM);
    uint64_t least = 0, need;
    if (plan_fill_ram(g, fixed < budget ? budget - fixed : 0, &least) && fixed <= budget) return ERR_NONE;
    if (!size_add(fixed, least, &need)) return fail(why, ERR_LIMIT, "the smallest set of experts overflows the address space");
    return refuse(g, PLAN_RAM, need, budget, least, why);
}

/* The drive keeps the experts without a slot. */
static enum err place_rest(struct planning *g, struct reason *why) {
    struct plan *p = g->p;
    struct total away = {0};
    for (uint32_t l = 0; l < p->n_layers; l++)
        total_add_product(&away, p->layers[l].expert_bytes, p->layers[l].experts[PLAN_NVME]);
    p->bytes[PLAN_NVME][PLAN_EXPERTS] = away.bytes;
    p->all_resident = p->experts[PLAN_NVME] == 0;
    return away.overflow ? fail(why, ERR_LIMIT, "the size of the experts overflows") : ERR_NONE;
}

static enum err start(struct planning *g, struct reason *why) {
    const struct plan_model *m = g->m;
    struct plan *p = g->p;
    const uint64_t experts = (uint64_t)m->n_layers * m->n_experts;
    p->n_layers = m->n_layers, p->n_experts = m->n_experts, p->n_used = m->n_used;
    p->prompt_tokens = g->r->prompt_tokens ? g->r->prompt_tokens : 512;
    p->context_tokens = g->r->context_tokens;
    p->layers = calloc_checked(m->n_layers, sizeof *p->layers);
    p->expert_tier = calloc_checked(experts, 1);
    g->tensor_tier = calloc_checked(m->n_tensors ? m->n_tensors : 1, sizeof *g->tensor_tier);
    g->must_vram = calloc_checked(m->n_layers, sizeof *g->must_vram);
    g->order = calloc_checked(experts, sizeof *g->order);
    if (!p->layers || !p->expert_tier || !g->tensor_tier || !g->must_vram || !g->order)
        return fail(why, ERR_NO_MEMORY, "no memory to plan %llu experts", (unsigned long long)experts);
    memset(p->expert_tier, PLAN_NVME, experts);
    for (uint32_t l = 0; l < m->n_layers; l++) p->layers[l].experts[PLAN_NVME] = m->n_experts;
    p->experts[PLAN_NVME] = (uint32_t)experts;
    return ERR_NONE;
}

/* One placement for resolved budgets, predictions included. */
static enum err place(const struct plan_model *m, const struct facts *f, const struct plan_request *r, const struct budgets *b,
                      struct plan *out, bool *vram_too_small, struct reason *why) {
    *out = (struct plan){.ram_budget = b->ram, .vram_budget = b->vram, .use_gpu = b->gpu != NULL};
    struct planning g = {.m = m, .f = f, .r = r, .p = out, .gpu = b->gpu};
    *vram_too_small = false;
    enum err e = start(&g, why);
    if (!e) e = plan_set_bounds(&g, why);
    if (!e) e = plan_make_classes(&g, why);
    if (!e) e = count_fixed(&g, why);
    if (!e) e = plan_order_experts(&g, why);
    if (!e && g.gpu) e = place_vram(&g, b->vram, vram_too_small, why);
    if (!e) e = place_ram(&g, b->ram, why);
    if (!e) e = place_rest(&g, why);
    if (!e) cost_predict(m, f, r, g.gpu, g.tensor_tier, out);
    free(g.tensor_tier);
    free(g.must_vram);
    free(g.order);
    if (e) plan_close(out);
    return e;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------ */

static uint64_t default_context(const struct plan_model *m) {
    return m->context_length < DEFAULT_CONTEXT_LIMIT ? m->context_length : DEFAULT_CONTEXT_LIMIT;
}

/* Where experts are left outside, each GiB of an empty cache costs more speed than a long context is likely to be worth: the
 * tokens whose cache takes KV_SHARE of the smaller budget that holds a part of it. */
static uint64_t short_context(const struct plan_model *m, const struct plan_request *r, const struct budgets *b) {
    uint64_t row = 0, width_bytes, token;
    for (int i = 0; i < 2; i++) {
        const enum plan_kv type = i ? r->type_v : r->type_k;
        if (size_mul(m->kv_width, kv_types[type].block_bytes, &width_bytes)) row += width_bytes / kv_types[type].block_elements;
    }
    const uint64_t budget = b->gpu && !r->kv_on_host && b->vram < b->ram ? b->vram : b->ram, most = default_context(m);
    if (row == 0 || !size_mul(row, m->n_layers, &token)) return most;
    const uint64_t tokens = budget / KV_SHARE / token / CONTEXT_STEP * CONTEXT_STEP, least = LEAST_CONTEXT < most ? LEAST_CONTEXT : most;
    return clamp(tokens, least, most);
}

/* place(), with a context to choose if none was asked for. */
static enum err place_context(const struct plan_model *m, const struct facts *f, const struct plan_request *r,
                              const struct budgets *b, struct plan *out, bool *vram_too_small, struct reason *why) {
    struct plan_request with = *r;
    if (r->context_tokens) return place(m, f, r, b, out, vram_too_small, why);
    with.context_tokens = default_context(m);
    struct reason inner = {{0}};
    enum err e = place(m, f, &with, b, out, vram_too_small, &inner);
    const uint64_t shorter = short_context(m, r, b);
    if ((!e && out->all_resident) || (e && e != ERR_LIMIT) || shorter >= with.context_tokens) {
        if (e && why) *why = inner;
        return e;
    }
    if (!e) plan_close(out);
    with.context_tokens = shorter;
    return place(m, f, &with, b, out, vram_too_small, why);
}

/* The same plan with more of one tier. */
static void find_gain(const struct plan_model *m, const struct facts *f, const struct plan_request *r, struct budgets b,
                      enum plan_tier tier, struct plan *p) {
    struct plan_gain *gain = tier == PLAN_VRAM ? &p->more_vram : &p->more_ram;
    uint64_t *budget = tier == PLAN_VRAM ? &b.vram : &b.ram;
    struct plan more;
    bool too_small;
    *gain = (struct plan_gain){.extra_bytes = gain_bytes};
    if (!size_add(*budget, gain_bytes, budget) || place(m, f, r, &b, &more, &too_small, NULL)) return;
    gain->experts = more.experts[tier] - (more.experts[tier] < p->experts[tier] ? more.experts[tier] : p->experts[tier]);
    gain->fits = gain->experts > 0;
    gain->decode_tokens_per_s = more.decode.tokens_per_s;
    gain->prefill_tokens_per_s = more.prefill.tokens_per_s;
    plan_close(&more);
}

enum err plan_open(const struct plan_model *m, const struct facts *f, const struct plan_request *r, struct plan *out,
                   struct reason *why) {
    *out = (struct plan){0};
    TRY(check_model(m, why));
    TRY(check_request(m, f, r, why));
    struct budgets b;
    TRY(resolve_ram(f, r, &b.ram, why));
    resolve_vram(f, r, &b);
    bool too_small;
    enum err e = place_context(m, f, r, &b, out, &too_small, why);
    if (e == ERR_LIMIT && too_small && b.vram_is_auto) { /* nobody promised that the GPU is used */
        struct reason again = {{0}};
        b.gpu = NULL;
        b.vram = 0;
        e = place_context(m, f, r, &b, out, &too_small, &again);
        if (e == ERR_ARGUMENT) return ERR_LIMIT; /* a rule wants the GPU: the first reason stands */
        if (e && why) *why = again;
        if (!e)
            out->gpu_note =
                "too little VRAM for the dense part and the context; a smaller -c, -ctk q8_0 -ctv q8_0 or -nkvo may help";
    }
    TRY(e);
    struct plan_request same = *r;
    same.context_tokens = out->context_tokens;
    find_gain(m, f, &same, b, PLAN_RAM, out);
    if (b.gpu) find_gain(m, f, &same, b, PLAN_VRAM, out);
    return ERR_NONE;
}
