/* What a placement costs in time: a token with the context empty and full, a prompt, the first token after a cold start.
 *
 * Pure arithmetic on a finished plan; never changes where anything lives. Formulas and their constants are those of the design
 * study (roofline of decode, hit rates, streaming's verdict); each is at the function that uses it. All predictions fall or
 * stay when a tier grows: a miss never counts as cheaper than a hit. */
#include "placement/cost.h"

#include <math.h>
#include <stdlib.h>

enum {
    MAX_EXACT_USED = 32,  /* experts a token up to which the number of misses is summed over exactly */
    EXPERT_EXTENTS = 3,   /* requests an expert */
    MOST_IN_FLIGHT = 24,  /* requests; a reader keeps about eight experts in flight */
    MEETINGS_A_LAYER = 11 /* of the decode threads: layer_cpu.c */
};

/* Of a layer on the CPU beside its weights. Calibrated on one run of the 30B Q4_K_M shape on two cores that read 36 GB/s: 14.7
 * tok/s of decode, 84.9 of a prompt of 512. */
static const double cpu_layer_s = 150e-6; /* decode: norms, router's choice, starts of stretches; one core's work */
/* Decode: one thread reads on while the others wait, half a unit of q/k/v, of o and of the router. */
static const double cpu_tail_bytes = 3 * 0.22e6;
static const double cpu_token_layer_s = 50e-6; /* prompt: activations, shares, quantizing; thread-seconds a token */
static const double attention_share = 0.5;     /* prompt: attention's multiply-adds, of F16 products' rate */
static const double few_vectors = 5;     /* a product with n vectors runs at n / (n + 5) of its best rate (kernel bench) */
static const double many_vectors = 128;  /* what batch rates are measured with */
static const double submit_s = 38e-6;    /* of a compute thread, a missed expert (streaming, section 2) */
static const double kv_read_share = 0.8; /* of plain reads, attention over the cache */
static const double vram_share = 0.9;    /* of plain reads, GPU kernels: 82 of 91 % of the data sheet (GPU study 2.1) */
/* Tokens of a profile that weigh as much as the generic curve: fewer have not reached most of 128 experts a few times. */
static const double half_trust_tokens = 64;
static const double default_gpu_layer_s = 42e-6; /* 2 ms for 48 layers (roofline's calibration) */
static const double default_hand_off_s = 9e-6;   /* GPU study 3.3 */

/* ---- hit rates ------------------------------------------------------------------------------------------------------ */

double plan_generic_hit_rate(double residency) {
    /* Qwen3-30B-A3B, decode, LFRU a layer, filled by the prompt: replay of a real trace (landscape 4.2) */
    static const double at[] = {0, .0625, .125, .2, .3, .4, .5, .6, .7, .8, .9, 1};
    static const double hits[] = {0, .45, .65, .78, .88, .936, .961, .973, .981, .987, .994, 1};
    if (!(residency > 0)) return 0;
    if (residency >= 1) return 1;
    int i = 1;
    while (at[i] < residency) i++;
    return hits[i - 1] + (hits[i] - hits[i - 1]) * (residency - at[i - 1]) / (at[i] - at[i - 1]);
}

/* Of the differences between the layer's counts, the share that is more than chance: choices of an even router scatter with a variance
 * as large as their mean (Poisson), and the best-looking experts of a thin profile would be believed to be better than they are. */
static double trusted_spread(const double *counts, uint32_t n) {
    double mean = 0, variance = 0;
    for (uint32_t e = 0; e < n; e++) mean += counts[e] / n;
    for (uint32_t e = 0; e < n; e++) variance += (counts[e] - mean) * (counts[e] - mean) / n;
    return variance > mean ? 1 - mean / variance : 0;
}

/* Share of the layer's choices to come that fall on experts in tiers up to `last`, `even` being theirs if all were alike. */
static double coverage(const struct plan *p, const struct profile *profile, uint32_t layer, enum plan_tier last, double even) {
    const double *counts = profile->counts + (size_t)layer * p->n_experts;
    const uint8_t *tiers = p->expert_tier + (size_t)layer * p->n_experts;
    double all = 0, here = 0;
    for (uint32_t e = 0; e < p->n_experts; e++) {
        all += counts[e];
        if (tiers[e] <= (uint8_t)last) here += counts[e];
    }
    return all > 0 ? even + trusted_spread(counts, p->n_experts) * (here / all - even) : 0;
}

/* A cache that adapts does at least as well as what it was filled with. */
static double hit_rate(const struct plan *p, const struct profile *profile, uint32_t layer, enum plan_tier last) {
    uint32_t held = 0;
    for (int t = 0; t <= (int)last; t++) held += p->layers[layer].experts[t];
    const double residency = (double)held / p->n_experts;
    if (held == p->n_experts || held == 0) return residency;
    const double generic = plan_generic_hit_rate(residency);
    if (!profile) return generic;
    const double counted = fmax(profile_hit_rate(profile, held), coverage(p, profile, layer, last, residency));
    const double trust = profile->tokens / (profile->tokens + half_trust_tokens);
    return fmin(1, generic + trust * (counted - generic));
}

static void set_hit_rates(struct plan *p, const struct profile *profile) {
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const double vram = hit_rate(p, profile, l, PLAN_VRAM), held = hit_rate(p, profile, l, PLAN_RAM);
        p->layers[l].hit_vram = vram;
        p->layers[l].hit_ram = held > vram ? held - vram : 0;
    }
}

/* ---- what the pieces cost ------------------------------------------------------------------------------------------- */

struct layer_cost {
    double dense_s; /* on the CPU, one vector */
    double dense_vram_bytes;
    double dense_batch_s;                                                       /* on the CPU, a vector of many */
    double dense_floor_s;                                                       /* on the CPU: reading the weights once */
    double dense_gpu_macs;                                                      /* a vector */
    double expert_s, expert_batch_s, expert_floor_s, expert_macs, expert_bytes; /* of one */
};

struct costing {
    const struct plan_model *m;
    const struct facts *f;
    const struct plan_request *r;
    const struct facts_gpu *gpu;
    struct plan *p;
    const char *isa;
    unsigned threads, threads_batch;
    double ram, ram_batch; /* bytes/s */
    double vram, link;     /* bytes/s; GPU's share included */
    double gpu_layer_s, hand_off_s;
    struct layer_cost *layers; /* [n_layers] */
    struct layer_cost head;
    double read_s[PLAN_MAX_CLASSES][MAX_EXACT_USED + 1]; /* of 0, 1, 2... experts together */
    double dense_bytes;                                  /* of the file, embedding not counted */
};

/* Seconds for `amount` at `rate`; endless when the rate was not measured, and so is the prediction then. */
static double over(double amount, double rate) { return amount <= 0 ? 0 : rate > 0 ? amount / rate : INFINITY; }
static double times(double n, double seconds) { return n > 0 ? n * seconds : 0; }

static void add_experts(const struct costing *c, const struct plan_tensor *t, struct layer_cost *to) {
    const double bytes = (double)t->bytes, macs = (double)t->weights;
    to->expert_s += over(bytes, cost_decode_rate(c->f, t->type, c->isa, c->threads));
    to->expert_floor_s += over(bytes, c->ram_batch);
    to->expert_batch_s += over(macs, cost_batch_rate(c->f, t->type, c->isa, c->threads_batch));
    to->expert_macs += macs;
    to->expert_bytes += bytes;
}

static void add_dense(struct costing *c, const struct plan_tensor *t, enum plan_tier tier, struct layer_cost *to) {
    const double bytes = (double)t->bytes, macs = (double)t->weights;
    c->dense_bytes += bytes;
    if (tier == PLAN_VRAM) {
        to->dense_vram_bytes += bytes;
        to->dense_gpu_macs += macs;
        return;
    }
    to->dense_s += over(bytes, cost_decode_rate(c->f, t->type, c->isa, c->threads));
    to->dense_floor_s += over(bytes, c->ram_batch);
    to->dense_batch_s += over(macs, cost_batch_rate(c->f, t->type, c->isa, c->threads_batch));
}

static void set_rates(struct costing *c) {
    c->isa = c->r->isa ? c->r->isa : c->f->isa;
    c->threads = c->r->threads ? c->r->threads : c->f->n_cores ? c->f->n_cores : 1;
    c->threads_batch = c->r->threads_batch ? c->r->threads_batch : c->threads;
    c->ram = cost_ram_rate(c->f, c->threads);
    c->ram_batch = cost_ram_rate(c->f, c->threads_batch);
    if (!c->gpu) return;
    c->vram = c->gpu->vram_bytes_per_s * vram_share;
    c->link = c->gpu->to_gpu_bytes_per_s;
    c->gpu_layer_s = c->gpu->layer_s > 0 ? c->gpu->layer_s : default_gpu_layer_s;
    c->hand_off_s = c->gpu->hand_off_s > 0 ? c->gpu->hand_off_s : default_hand_off_s;
}

/* Reads of 0, 1, 2... experts of each slot class, sent together. More never end sooner, whatever the drive's table says. */
static void set_reads(struct costing *c) {
    for (uint32_t i = 0; i < c->p->n_classes; i++) {
        const double bytes = (double)c->p->classes[i].slot_bytes, request = bytes / EXPERT_EXTENTS;
        double *s = c->read_s[i];
        for (uint32_t n = 1; n <= MAX_EXACT_USED; n++) {
            const double depth = n * EXPERT_EXTENTS < MOST_IN_FLIGHT ? n * EXPERT_EXTENTS : MOST_IN_FLIGHT;
            s[n] = fmax(s[n - 1], over(n * bytes, cost_drive_rate(c->f, c->r->drive, request, depth)));
        }
    }
}

/* The same for any number: between the whole ones, and at the full rate beyond. */
static double read_s(const struct costing *c, uint32_t class, double n) {
    const double *s = c->read_s[class];
    if (n <= 0) return 0;
    if (n >= MAX_EXACT_USED) return s[MAX_EXACT_USED] * n / MAX_EXACT_USED;
    const uint32_t whole = (uint32_t)n;
    return n > whole ? s[whole] + (n - whole) * (s[whole + 1] - s[whole]) : s[whole];
}

static bool costing_open(struct costing *c, const enum plan_tier *tensor_tier) {
    set_rates(c);
    c->layers = calloc_checked(c->m->n_layers, sizeof *c->layers);
    for (uint32_t i = 0; c->layers && i < c->m->n_tensors; i++) {
        const struct plan_tensor *t = &c->m->tensors[i];
        struct layer_cost *to = t->layer < c->m->n_layers ? &c->layers[t->layer] : &c->head;
        if (t->role == PLAN_ROLE_EXPERTS)
            add_experts(c, t, to);
        else if (t->role != PLAN_ROLE_EMBEDDING)
            add_dense(c, t, tensor_tier ? tensor_tier[i] : PLAN_RAM, to);
    }
    return c->layers != NULL;
}

void cost_saved_per_byte(const struct plan_model *m, const struct facts *f, const struct plan_request *r,
                         const struct facts_gpu *gpu, double *out) {
    struct costing c = {.m = m, .f = f, .r = r, .gpu = gpu};
    const bool ok = costing_open(&c, NULL);
    for (uint32_t l = 0; l < m->n_layers; l++) {
        out[l] = 1;
        if (!ok || !gpu || c.layers[l].expert_bytes <= 0) continue;
        const double saved = (c.layers[l].expert_s - over(c.layers[l].expert_bytes, c.vram)) / c.layers[l].expert_bytes;
        if (isfinite(saved) && saved > 0) out[l] = saved;
    }
    free(c.layers);
}

/* ---- one token ------------------------------------------------------------------------------------------------------ */

static void use(struct plan_prediction *to, enum plan_resource r, double seconds) { to->busy_s[r] += seconds; }

/* The CPU's share of a layer's experts: `n` of them, of which `reads` take `read_s` to arrive. Arrivals are computed while
 * others are read, so that after the last one a single expert is left (streaming, section 6). */
static double cpu_experts_s(const struct costing *c, const struct layer_cost *k, double n, double reads, double reading_s) {
    const double compute = times(n, k->expert_s) + times(reads, submit_s / c->threads);
    return reads > 0 ? fmax(compute, reading_s + times(fmin(1, reads), k->expert_s)) : compute;
}

/* Time of a layer's experts when `ram` and `reads` of the n_used are not in VRAM. The GPU's hits run beside the CPU's misses;
 * what a miss takes off the GPU is not counted as a gain. */
static double experts_s(const struct costing *c, uint32_t layer, double ram, double reads, double reading_s) {
    const struct layer_cost *k = &c->layers[layer];
    const struct plan_layer *l = &c->p->layers[layer];
    const double away = ram + reads, cpu = cpu_experts_s(c, k, away, reads, reading_s);
    if (!l->router_on_gpu) return cpu;
    return fmax(over(c->m->n_used * k->expert_bytes, c->vram), cpu + c->hand_off_s * fmin(1, away));
}

/* Expected time over how many of the chosen experts are where, choices taken as independent (a replayed trace agrees: 92 % of
 * layers without a miss at 98.7 % hits, 93 % counted). */
static double expected_experts_s(const struct costing *c, uint32_t layer) {
    const struct plan_layer *l = &c->p->layers[layer];
    const double miss = fmax(0, 1 - l->hit_vram - l->hit_ram);
    const uint32_t used = c->m->n_used;
    if (used > MAX_EXACT_USED) return experts_s(c, layer, l->hit_ram * used, miss * used, read_s(c, l->class, miss * used));
    double sum = 0, reads_ways = 1; /* C(used, reads) */
    for (uint32_t reads = 0; reads <= used; reads++) {
        double ways = reads_ways; /* times C(used - reads, ram) */
        const double reads_p = pow(miss, reads);
        for (uint32_t ram = 0; ram + reads <= used && reads_p > 0; ram++) {
            const double p = ways * reads_p * pow(l->hit_ram, ram) * pow(l->hit_vram, used - reads - ram);
            if (p > 0) sum += p * experts_s(c, layer, ram, reads, c->read_s[l->class][reads]);
            ways = ways * (used - reads - ram) / (ram + 1);
        }
        reads_ways = reads_ways * (used - reads) / (reads + 1);
    }
    return sum;
}

static void count_experts(const struct costing *c, uint32_t layer, struct plan_prediction *to) {
    const struct plan_layer *l = &c->p->layers[layer];
    const struct layer_cost *k = &c->layers[layer];
    const double used = c->m->n_used, miss = fmax(0, 1 - l->hit_vram - l->hit_ram),
                 bytes = (double)c->p->classes[l->class].slot_bytes;
    use(to, PLAN_RES_RAM, times((1 - l->hit_vram) * used, k->expert_s));
    use(to, PLAN_RES_CPU, miss * used * submit_s / c->threads);
    use(to, PLAN_RES_DRIVE,
        over(miss * used * bytes, cost_drive_rate(c->f, c->r->drive, bytes / EXPERT_EXTENTS, MOST_IN_FLIGHT)));
    if (!l->router_on_gpu) return;
    use(to, PLAN_RES_VRAM, over(l->hit_vram * used * k->expert_bytes, c->vram));
    use(to, PLAN_RES_LINK, times(1 - pow(l->hit_vram, used), c->hand_off_s));
}

/* Of a layer's two halves, attention and the rest, the share that the GPU computes. */
static double gpu_share(const struct plan_layer *l) { return (l->attention_on_gpu + l->router_on_gpu) / 2.0; }

/* How often a layer without its experts is handed to the CPU: attention over a cache in RAM, and each stretch of halves that are
 * the CPU's own at its beginning. */
static double hand_offs(const struct costing *c, uint32_t layer) {
    const struct plan_layer *l = &c->p->layers[layer];
    if (!c->gpu) return 0;
    if (l->attention_on_gpu) return !l->kv_on_gpu + !l->router_on_gpu;
    return layer == 0 || l[-1].router_on_gpu;
}

/* A layer without its experts, `depth` tokens in the cache. */
static double dense_layer_s(const struct costing *c, uint32_t layer, double depth, struct plan_prediction *to) {
    const struct plan_layer *l = &c->p->layers[layer];
    const struct layer_cost *k = &c->layers[layer];
    const double kv_bytes = depth * (double)c->p->kv_bytes_per_token / c->m->n_layers;
    const double cpu = k->dense_s + (l->kv_on_gpu ? 0 : over(kv_bytes, c->ram * kv_read_share));
    const double gpu = over(k->dense_vram_bytes + (l->kv_on_gpu ? kv_bytes : 0), c->vram);
    const double tail = over(cpu_tail_bytes * (c->threads - 1), c->ram);
    const double share = gpu_share(l), gpu_fixed = share * c->gpu_layer_s,
                 cpu_fixed = (1 - share) * (cpu_layer_s + tail + MEETINGS_A_LAYER * c->f->barrier_s),
                 hand_off = hand_offs(c, layer) * c->hand_off_s;
    use(to, PLAN_RES_RAM, cpu);
    use(to, PLAN_RES_VRAM, gpu);
    use(to, PLAN_RES_GPU, gpu_fixed);
    use(to, PLAN_RES_CPU, cpu_fixed);
    use(to, PLAN_RES_LINK, hand_off);
    return cpu + gpu + gpu_fixed + cpu_fixed + hand_off;
}

static void conclude(struct plan_prediction *to, double seconds, double tokens) {
    if (!isfinite(seconds) || seconds <= 0) {
        *to = (struct plan_prediction){.known = false};
        return;
    }
    to->known = true;
    to->seconds = seconds;
    to->tokens_per_s = tokens / seconds;
    for (int r = 0; r < PLAN_RESOURCES; r++)
        if (to->busy_s[r] > to->busy_s[to->limit]) to->limit = (enum plan_resource)r;
}

static double head_s(const struct costing *c, struct plan_prediction *to) {
    const double gpu = over(c->head.dense_vram_bytes, c->vram);
    use(to, PLAN_RES_RAM, c->head.dense_s);
    use(to, PLAN_RES_VRAM, gpu);
    return c->head.dense_s + gpu;
}

static void predict_decode(const struct costing *c, double depth, struct plan_prediction *to) {
    double seconds = head_s(c, to);
    for (uint32_t l = 0; l < c->m->n_layers; l++) {
        seconds += dense_layer_s(c, l, depth, to) + expected_experts_s(c, l);
        count_experts(c, l, to);
    }
    conclude(to, seconds, 1);
}

static double drive_bytes_per_token(const struct plan *p) {
    double bytes = 0;
    for (uint32_t l = 0; l < p->n_layers; l++)
        bytes += fmax(0, 1 - p->layers[l].hit_vram - p->layers[l].hit_ram) * p->n_used * (double)p->layers[l].expert_bytes;
    return bytes;
}

/* Nothing is in RAM yet: dense part in large reads, then each layer's chosen experts (streaming, section 4). */
static void predict_first(const struct costing *c, struct plan_prediction *to) {
    const double used = c->m->n_used, dense = over(c->dense_bytes, cost_drive_rate(c->f, c->r->drive, 1 << 20, MOST_IN_FLIGHT));
    double seconds = dense + head_s(c, to);
    use(to, PLAN_RES_DRIVE, dense);
    for (uint32_t l = 0; l < c->m->n_layers; l++) {
        const double reading = read_s(c, c->p->layers[l].class, used);
        use(to, PLAN_RES_DRIVE, reading);
        use(to, PLAN_RES_RAM, times(used, c->layers[l].expert_s));
        seconds += dense_layer_s(c, l, 0, to) + cpu_experts_s(c, &c->layers[l], used, used, reading);
    }
    conclude(to, seconds, 1);
}

/* ---- prompts -------------------------------------------------------------------------------------------------------- */

/* Sums over the layers of one ubatch. */
struct batch_cost {
    double cpu_s, gpu_s; /* in line */
    double missing_s;    /* experts of GPU layers that are not in VRAM: beside the GPU */
    double missing_link_s, missing_cpu_s;
    double drive_s;
};

/* Time of products with `n` vectors each, as a multiple of the measured. */
static double slowdown(double n) { return n > 0 ? (n + few_vectors) / n * many_vectors / (many_vectors + few_vectors) : 1; }

/* Missing experts of a GPU layer cross PCIe to be computed there, or are computed on the CPU, whichever is faster. */
static void add_missing(const struct costing *c, const struct layer_cost *k, double distinct, double pairs,
                        struct batch_cost *sum) {
    const double link = over(distinct * k->expert_bytes, c->link);
    const double cpu =
        fmax(times(pairs, k->expert_batch_s) * slowdown(pairs / fmax(distinct, 1e-9)), times(distinct, k->expert_floor_s));
    sum->missing_s += fmin(link, cpu);
    if (link <= cpu)
        sum->missing_link_s += link;
    else
        sum->missing_cpu_s += cpu;
}

static void add_batch_layer(const struct costing *c, uint32_t layer, double n, struct batch_cost *sum) {
    const struct plan_layer *l = &c->p->layers[layer];
    const struct layer_cost *k = &c->layers[layer];
    const double experts = c->m->n_experts, used = c->m->n_used;
    const double distinct = experts * (1 - pow(1 - used / experts, n)), pairs = n * used;
    const double in_vram = l->experts[PLAN_VRAM] / experts, away = l->experts[PLAN_NVME] / experts, outside = 1 - in_vram;
    const double bytes = (double)c->p->classes[l->class].slot_bytes;
    sum->cpu_s += fmax(n * k->dense_batch_s * slowdown(n), k->dense_floor_s);
    sum->drive_s += over(distinct * away * bytes, cost_drive_rate(c->f, c->r->drive, bytes / EXPERT_EXTENTS, MOST_IN_FLIGHT));
    const double share = gpu_share(l);
    if (share > 0)
        sum->gpu_s += share * c->gpu_layer_s +
                      over(n * k->dense_gpu_macs + (l->router_on_gpu ? pairs * k->expert_macs : 0), c->gpu->batch_macs_per_s);
    if (l->router_on_gpu)
        add_missing(c, k, distinct * outside, pairs * outside, sum);
    else
        sum->cpu_s += fmax(times(pairs * outside, k->expert_batch_s) * slowdown(pairs / distinct),
                           times(distinct * outside, k->expert_floor_s));
    sum->cpu_s += (1 - share) * n * cpu_token_layer_s / c->threads_batch;
}

/* Seconds of one ubatch of `n` tokens without attention. Reads run under the compute of the layers before (streaming, section
 * 3); the last expert's wait is small against a batch. */
static double batch_s(const struct costing *c, double n, double repeat, struct plan_prediction *to) {
    struct batch_cost sum = {0};
    if (n <= 0 || repeat <= 0) return 0;
    for (uint32_t l = 0; l < c->m->n_layers; l++) add_batch_layer(c, l, n, &sum);
    use(to, PLAN_RES_CPU, repeat * (sum.cpu_s + sum.missing_cpu_s));
    use(to, PLAN_RES_GPU, repeat * sum.gpu_s);
    use(to, PLAN_RES_LINK, repeat * sum.missing_link_s);
    use(to, PLAN_RES_DRIVE, repeat * sum.drive_s);
    return repeat * fmax(sum.cpu_s + fmax(sum.gpu_s, sum.missing_s), sum.drive_s);
}

/* Every token looks back at those before it. */
static double attention_s(const struct costing *c, double tokens, struct plan_prediction *to) {
    const double macs = tokens * (tokens + 1) / 2 * 2 * (double)c->m->q_width;
    double cpu = 0, gpu = 0;
    for (uint32_t l = 0; l < c->m->n_layers; l++) {
        if (c->p->layers[l].kv_on_gpu)
            gpu += over(macs, c->gpu->batch_macs_per_s);
        else
            cpu += over(macs, attention_share * cost_batch_rate(c->f, TYPE_F16, c->isa, c->threads_batch));
    }
    use(to, PLAN_RES_CPU, cpu);
    use(to, PLAN_RES_GPU, gpu);
    return cpu + gpu;
}

static void predict_prefill(const struct costing *c, struct plan_prediction *to) {
    const double tokens = c->p->prompt_tokens, ubatch = c->m->ubatch ? c->m->ubatch : 512;
    const double whole = floor(tokens / ubatch);
    const double seconds =
        batch_s(c, ubatch, whole, to) + batch_s(c, tokens - whole * ubatch, 1, to) + attention_s(c, tokens, to) + head_s(c, to);
    conclude(to, seconds, tokens);
}

void cost_predict(const struct plan_model *m, const struct facts *f, const struct plan_request *r, const struct facts_gpu *gpu,
                  const enum plan_tier *tensor_tier, struct plan *p) {
    struct costing c = {.m = m, .f = f, .r = r, .gpu = gpu, .p = p};
    p->decode = p->decode_full = p->prefill = p->first_token = (struct plan_prediction){.known = false};
    set_hit_rates(p, r->profile);
    p->drive_bytes_per_token = drive_bytes_per_token(p);
    if (!costing_open(&c, tensor_tier)) return; /* no memory: not known */
    set_reads(&c);
    predict_decode(&c, 0, &p->decode);
    predict_decode(&c, (double)p->context_tokens, &p->decode_full);
    predict_prefill(&c, &p->prefill);
    predict_first(&c, &p->first_token);
    free(c.layers);
}
