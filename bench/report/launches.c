/* Launches of one kind at the shapes of Qwen3-30B-A3B, weights from VRAM rather than L2: what a step's reach of the VRAM rate,
 * what a prompt's do in a second. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench/report/report.h"

enum { ALIGN = 256, MOST_LAYERS = 64, WIDE = 16 };

struct gpu_shape launch_shape(const struct bench *b) {
    if (b->o.quick)
        return (struct gpu_shape){.n_layers = 1, .n_embd = 256, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n_ff = 256, .n_experts = 4, .n_used = 2,
                                  .n_vocab = 256, .rms_eps = 1e-6f, .rope_magnitude = 1};
    return (struct gpu_shape){.n_layers = 1, .n_embd = 2048, .n_heads = 32, .n_kv_heads = 4, .head_dim = 128, .n_ff = 768, .n_experts = 128, .n_used = 8,
                              .n_vocab = 151936, .rms_eps = 1e-6f, .rope_magnitude = 1};
}

/* ---- networks for launches --------------------------------------------------------------------------------------------------- */

struct layout {
    uint64_t dense;                   /* matrices of a layer that are not experts */
    uint64_t gate, down;              /* of an expert; up is as gate */
    uint64_t experts;                 /* in a layer */
    uint64_t pool;                    /* keys of a layer; values are as many */
    uint64_t norms, head;             /* once */
};

static uint64_t matrix_bytes(const struct bench *b, enum tensor_type type, uint64_t rows, uint64_t k) {
    return round_up(b->gpu->ops->types[type].bytes(rows, k), ALIGN);
}

/* As gpu.h describes pages. */
static uint64_t page_bytes(const struct launch_net *n) {
    const uint64_t values = (uint64_t)n->shape.n_kv_heads * GPU_PAGE_TOKENS * n->shape.head_dim, scales = values / 32 * 2;
    return n->kv == GPU_KV_F16 ? 2 * values : n->kv == GPU_KV_Q8_0 ? values + scales : values / 2 + scales;
}

static struct layout lay_out(const struct bench *b, const struct launch_net *n) {
    const struct gpu_shape *s = &n->shape;
    const uint64_t q = (uint64_t)s->n_heads * s->head_dim, kv = (uint64_t)s->n_kv_heads * s->head_dim, e = s->n_embd;
    struct layout l = {.norms = round_up((e + s->head_dim) * sizeof(float), ALIGN), .experts = n->sets ? n->sets * s->n_used : s->n_experts};
    switch (n->what) {
    case GPU_BENCH_QKV: l.dense = matrix_bytes(b, n->type, q, e) + 2 * matrix_bytes(b, n->type, kv, e); break;
    case GPU_BENCH_PRODUCT: l.dense = matrix_bytes(b, n->type, q, e); break;
    case GPU_BENCH_OUTPUT: l.dense = matrix_bytes(b, n->type, e, q); break;
    case GPU_BENCH_ROUTE: l.dense = matrix_bytes(b, n->type, s->n_experts, e); break;
    case GPU_BENCH_HEAD: l.head = matrix_bytes(b, n->type, s->n_vocab, e); break;
    case GPU_BENCH_EXPERTS:
    case GPU_BENCH_GATE_UP: l.gate = matrix_bytes(b, n->type, s->n_ff, e); break;
    default: break;
    }
    if (n->what == GPU_BENCH_DOWN || n->what == GPU_BENCH_EXPERTS) l.down = matrix_bytes(b, n->type, e, s->n_ff);
    l.pool = n->pages * page_bytes(n);
    return l;
}

static uint64_t layer_bytes(const struct layout *l) { return l->dense + l->experts * (2 * l->gate + l->down) + 2 * l->pool; }

/* Enough layers to empty L2 three times before the first comes again, in at most half of what is free. */
static enum err choose_layers(const struct bench *b, struct launch_net *n, const struct layout *l, struct reason *why) {
    const uint64_t each = layer_bytes(l), fixed = l->norms + l->head, room = gpu_bench_free_bytes(b->gpu) / 2;
    if (!n->n_layers) n->n_layers = b->o.quick || !each ? 1 : (uint32_t)(3 * b->details.l2_bytes / each + 2);
    if (n->n_layers > MOST_LAYERS) n->n_layers = MOST_LAYERS;
    while (n->n_layers > 1 && fixed + n->n_layers * each > room) n->n_layers--;
    n->arena_bytes = fixed + n->n_layers * each;
    return n->arena_bytes > room ? fail(why, ERR_LIMIT, "it takes %.1f GB of VRAM", 1e-9 * (double)n->arena_bytes) : ERR_NONE;
}

static struct gpu_matrix place(const struct bench *b, const struct launch_net *n, gpu_ptr *at, uint32_t rows, uint32_t k) {
    const struct gpu_matrix m = {*at, n->type, rows, k};
    *at += matrix_bytes(b, n->type, rows, k);
    return m;
}

/* Matrices that are not launched stand where the first does, so that every address is valid. */
static void describe_layer(const struct bench *b, const struct launch_net *n, const struct layout *l, uint32_t i, gpu_ptr dense, struct gpu_layer *out) {
    const struct gpu_shape *s = &n->shape;
    const uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    gpu_ptr at = dense;
    *out = (struct gpu_layer){.attn_norm = n->arena, .ffn_norm = n->arena, .q_norm = n->arena, .k_norm = n->arena, .gate_type = n->type, .up_type = n->type,
                              .down_type = n->type};
    out->q = out->output = out->router = place(b, n, &at, q, s->n_embd);
    out->k = place(b, n, &at, kv, s->n_embd);
    out->v = place(b, n, &at, kv, s->n_embd);
    out->output.rows = s->n_embd, out->output.k = q;
    out->router.rows = s->n_experts;
    out->gate_offset = i * l->experts * n->slot_bytes;
    out->up_offset = out->gate_offset + l->gate;
    out->down_offset = out->up_offset + l->gate;
}

/* The arena: norms, the head, dense matrices of all layers, experts of all layers, KV pools of all layers. */
static enum err open_network(struct bench *b, struct launch_net *n, const struct layout *l, struct reason *why) {
    struct gpu_layer layers[MOST_LAYERS];
    double frequency[128];
    gpu_ptr head = n->arena + l->norms;
    const gpu_ptr dense = head + l->head, slots = dense + n->n_layers * l->dense, pools = slots + n->n_layers * l->experts * n->slot_bytes;
    for (uint32_t i = 0; i < n->shape.head_dim / 2; i++) frequency[i] = pow(1e6, -2.0 * i / n->shape.head_dim);
    for (uint32_t i = 0; i < n->n_layers; i++) {
        describe_layer(b, n, l, i, dense + i * l->dense, &layers[i]);
        layers[i].keys = pools + 2 * i * l->pool, layers[i].values = layers[i].keys + l->pool;
    }
    n->shape.n_layers = n->n_layers;
    const struct gpu_network_options o = {.shape = n->shape, .layers = layers, .rope_frequency = frequency, .output_norm = n->arena,
                                          .head = place(b, n, &head, n->shape.n_vocab, n->shape.n_embd), .slots = slots, .kv_k = n->kv, .kv_v = n->kv,
                                          .max_sequences = 1, .max_pages = n->pages ? n->pages : 1, .batch_tokens = n->batch_tokens};
    TRY(b->gpu->ops->network_open(b->gpu, &o, &n->net, why));
    for (uint32_t p = 0; p < n->pages; p++) b->gpu->ops->set_page(n->net, 0, p, p);
    return ERR_NONE;
}

enum err launch_net_open(struct bench *b, struct launch_net *n, struct reason *why) {
    const struct layout l = lay_out(b, n);
    n->slot_bytes = 2 * l.gate + l.down;
    n->launch_bytes = l.head + l.dense + l.experts * n->slot_bytes + 2 * l.pool;
    TRY(choose_layers(b, n, &l, why));
    TRY(b->gpu->ops->alloc(b->gpu, GPU_USE_DENSE, n->arena_bytes, &n->arena, why));
    gpu_bench_fill(b->gpu, n->arena, n->arena_bytes);
    return open_network(b, n, &l, why);
}

void launch_net_close(struct bench *b, struct launch_net *n) {
    b->gpu->ops->network_close(&n->net);
    b->gpu->ops->free(b->gpu, GPU_USE_DENSE, n->arena, n->arena_bytes);
    n->arena = 0;
}

/* ---- timing --------------------------------------------------------------------------------------------------------------------- */

struct launch_case {
    const char *name;
    enum gpu_bench_what what;
    uint32_t tokens;
    bool wide; /* WIDE times the rows, in one launch: what the kernel reaches where gaps do not matter */
};

/* Median seconds of a launch, after opening and closing a network of its own; NaN with a reason. */
static double time_launch(struct bench *b, struct launch_net *n, uint32_t tokens, uint64_t context, struct reason *why) {
    double seconds[32], each = NAN;
    const uint32_t repeats = bench_repeats(b, 20);
    if (!launch_net_open(b, n, why)) {
        const double many = n->launch_bytes ? 4e9 / (double)n->launch_bytes : 256; /* long beside the start of a graph */
        const bool prompt = n->what >= GPU_BENCH_PRODUCT;
        const struct gpu_bench_job j = {.what = n->what, .launches = b->o.quick ? 1 : prompt ? 4 : many > 256 ? 256 : many < 2 ? 2 : (uint32_t)many,
                                        .network = n->net, .tokens = tokens, .context = context, .slot_bytes = n->slot_bytes};
        if (!gpu_bench_time(b->gpu, &j, repeats, seconds, why)) each = median(seconds, repeats) / j.launches;
    }
    launch_net_close(b, n);
    return each;
}

static void widen(struct gpu_shape *s, enum gpu_bench_what what, uint32_t times) {
    if (what == GPU_BENCH_QKV) s->n_heads *= times, s->n_kv_heads *= times;
    if (what == GPU_BENCH_OUTPUT || what == GPU_BENCH_DOWN) s->n_embd *= times;
    if (what == GPU_BENCH_GATE_UP) s->n_ff *= times;
}

/* ---- a step's products ----------------------------------------------------------------------------------------------------------- */

static const struct column step_columns[] = {{"type", "weights"}, {"launch", "launch"}, {"tokens", "tokens"}, {"mb", "MB"}, {"us", "us"}, {"gb_s", "GB/s"},
                                             {"vram_percent", "% of the VRAM rate"}, {"vram_percent_without_gap", "% without the gap"}};
enum { S_TYPE, S_LAUNCH, S_TOKENS, S_MB, S_US, S_RATE, S_SHARE, S_SHARE_NET, S_COLUMNS };

static void put_rate(const struct bench *b, struct section *s, double bytes, double seconds, uint32_t launches) {
    const double net = seconds - launches * b->node_s, limit = vram_rate(b);
    section_number(s, S_MB, 1e-6 * bytes, 2);
    section_number(s, S_US, 1e6 * seconds, 2);
    section_number(s, S_RATE, 1e-9 * bytes / seconds, 1);
    section_number(s, S_SHARE, 100 * bytes / seconds / limit, 1);
    if (net > 0.25 * seconds) section_number(s, S_SHARE_NET, 100 * bytes / net / limit, 1); /* else the gap is all there is */
}

/* Adds what the launch took to *bytes and *seconds. */
static void step_row(struct bench *b, struct section *s, enum tensor_type type, const struct launch_case *c, double *bytes, double *seconds) {
    struct launch_net n = {.shape = launch_shape(b), .what = c->what, .type = type, .sets = c->tokens};
    struct reason why;
    if (c->wide) widen(&n.shape, c->what, b->o.quick ? 2 : WIDE);
    const double each = time_launch(b, &n, c->tokens, 0, &why);
    section_row(s);
    section_text(s, S_TYPE, "%s", tensor_type_info(type)->name);
    section_text(s, S_LAUNCH, c->wide ? "%s, %d times the rows" : "%s", c->name, b->o.quick ? 2 : WIDE);
    section_number(s, S_TOKENS, c->tokens, 0);
    if (isfinite(each)) put_rate(b, s, (double)n.launch_bytes, each, 1);
    else section_note(s, "%s of %s: %s", c->name, tensor_type_info(type)->name, why.text);
    *bytes += (double)n.launch_bytes;
    *seconds += each;
}

static const struct launch_case step_cases[] = {
    {"qkv", GPU_BENCH_QKV, 1, false},         {"output", GPU_BENCH_OUTPUT, 1, false},     {"gate and up of 8 experts", GPU_BENCH_GATE_UP, 1, false},
    {"down of 8 experts", GPU_BENCH_DOWN, 1, false}, {"head", GPU_BENCH_HEAD, 1, false},       {"qkv", GPU_BENCH_QKV, 1, true},
    {"output", GPU_BENCH_OUTPUT, 1, true},    {"gate and up of 8 experts", GPU_BENCH_GATE_UP, 1, true}, {"down of 8 experts", GPU_BENCH_DOWN, 1, true},
};
static const struct launch_case more_tokens[] = {{"qkv", GPU_BENCH_QKV, 8, false}, {"gate and up of 64 experts", GPU_BENCH_GATE_UP, 8, false},
                                                 {"down of 64 experts", GPU_BENCH_DOWN, 8, false}, {"head", GPU_BENCH_HEAD, 8, false}};
enum { STEP_CASES = sizeof step_cases / sizeof *step_cases, MORE_TOKENS = sizeof more_tokens / sizeof *more_tokens };

static void step_rows(struct bench *b, struct section *s, enum tensor_type type) {
    double bytes = 0, seconds = 0, other_bytes = 0, other_seconds = 0;
    for (int i = 0; i < STEP_CASES; i++) {
        const bool of_experts = !step_cases[i].wide && (step_cases[i].what == GPU_BENCH_GATE_UP || step_cases[i].what == GPU_BENCH_DOWN);
        if (of_experts) step_row(b, s, type, &step_cases[i], &bytes, &seconds);
        else step_row(b, s, type, &step_cases[i], &other_bytes, &other_seconds);
        if (!of_experts || step_cases[i].what != GPU_BENCH_DOWN || !isfinite(seconds)) continue;
        section_row(s);
        section_text(s, S_TYPE, "%s", tensor_type_info(type)->name);
        section_text(s, S_LAUNCH, "both of 8 experts");
        section_number(s, S_TOKENS, 1, 0);
        put_rate(b, s, bytes, seconds, 2);
    }
    for (int i = 0; i < MORE_TOKENS && type == TYPE_Q4_K; i++) step_row(b, s, type, &more_tokens[i], &other_bytes, &other_seconds);
}

/* Types that models of today consist of come first: time may be short. */
static uint32_t list_types(const struct bench *b, enum tensor_type out[TYPE_COUNT]) {
    static const enum tensor_type first[] = {TYPE_Q4_K, TYPE_Q6_K};
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        if (b->gpu->ops->types[first[i]].has_kernels) out[n++] = first[i];
    for (int t = TYPE_COUNT - 1; t >= 0; t--)
        if (b->gpu->ops->types[t].has_kernels && t != TYPE_Q4_K && t != TYPE_Q6_K) out[n++] = (enum tensor_type)t;
    return b->o.quick && n > 2 ? 2 : n;
}

void report_step_launches(struct bench *b) {
    struct section *s = section_open(&b->report, "step_launches", "Launches of a decode step", step_columns, S_COLUMNS);
    enum tensor_type types[TYPE_COUNT];
    double bytes = 0, seconds = 0;
    if (!b->gpu) {
        section_note(s, "Not measured: no GPU.");
        return;
    }
    const uint32_t n = list_types(b, types);
    for (uint32_t i = 0; i < n; i++) {
        bench_progress(b, "a step's launches, %s", tensor_type_info(types[i])->name);
        if (bench_late(b, 5)) section_note(s, "%s: not measured, no time left.", tensor_type_info(types[i])->name);
        else step_rows(b, s, types[i]);
    }
    step_row(b, s, TYPE_F32, &(struct launch_case){"router and choice", GPU_BENCH_ROUTE, 1, false}, &bytes, &seconds);
    section_note(s, "Replayed in a graph, one launch after the other; weights from VRAM (more layers than L2 holds, in turn). Times hold the gap between "
                    "nodes (%.2f us); \"without\" subtracts it. Medians of %u.",
                 1e6 * b->node_s, bench_repeats(b, 20));
}

/* ---- a step's attention ------------------------------------------------------------------------------------------------------------ */

static const char *const kv_names[] = {"f16", "q8_0", "q4_0"};

static const struct column attention_columns[] = {{"kv", "KV cache"}, {"context", "tokens of context"}, {"tokens", "tokens"}, {"mb", "MB"}, {"us", "us"},
                                                  {"gb_s", "GB/s"}, {"vram_percent", "% of the VRAM rate"}};

static void attention_row(struct bench *b, struct section *s, enum gpu_kv kv, uint32_t context) {
    struct launch_net n = {.shape = launch_shape(b), .what = GPU_BENCH_ATTENTION, .type = TYPE_Q4_K, .kv = kv, .pages = (context + GPU_PAGE_TOKENS - 1) / GPU_PAGE_TOKENS};
    struct reason why;
    const double each = time_launch(b, &n, 1, context, &why);
    section_row(s);
    section_text(s, 0, "%s", kv_names[kv]);
    section_number(s, 1, context, 0);
    section_number(s, 2, 1, 0);
    if (!isfinite(each)) {
        section_note(s, "%s, %u tokens: %s", kv_names[kv], context, why.text);
        return;
    }
    section_number(s, 3, 1e-6 * (double)n.launch_bytes, 2);
    section_number(s, 4, 1e6 * each, 2);
    section_number(s, 5, 1e-9 * (double)n.launch_bytes / each, 1);
    section_number(s, 6, 100 * (double)n.launch_bytes / each / vram_rate(b), 1);
}

void report_attention(struct bench *b) {
    struct section *s = section_open(&b->report, "attention", "Attention of a decode step", attention_columns, sizeof attention_columns / sizeof *attention_columns);
    static const uint32_t contexts[] = {1024, 4096, 32768}, short_contexts[] = {256, 512};
    if (!b->gpu) {
        section_note(s, "Not measured: no GPU.");
        return;
    }
    bench_progress(b, "attention");
    for (int kv = GPU_KV_F16; kv <= GPU_KV_Q4_0; kv++)
        for (int i = 0; i < (b->o.quick ? 2 : 3); i++) attention_row(b, s, (enum gpu_kv)kv, b->o.quick ? short_contexts[i] : contexts[i]);
    section_note(s, "One layer's, norms, rotation and append included; gaps between nodes included.");
}

/* ---- a prompt's products ------------------------------------------------------------------------------------------------------------ */

static const struct column product_columns[] = {{"type", "weights"}, {"launch", "what"}, {"tokens", "tokens"}, {"gflop", "GFLOP"}, {"us", "us"},
                                                {"tflop_s", "TFLOP/s"}};

static void put_product(struct section *s, const char *type, const char *what, uint32_t tokens, double flop, double seconds, const struct reason *why) {
    section_row(s);
    section_text(s, 0, "%s", type);
    section_text(s, 1, "%s", what);
    section_number(s, 2, tokens, 0);
    section_number(s, 3, 1e-9 * flop, 2);
    section_number(s, 4, 1e6 * seconds, 1);
    section_number(s, 5, 1e-12 * flop / seconds, 2);
    if (!isfinite(seconds)) section_note(s, "%s, %s: %s", type, what, why->text);
}

static void product_rows(struct bench *b, struct section *s, enum tensor_type type) {
    static const uint32_t dense[] = {16, 32, 128, 512, 2048}, each[] = {16, 32, 128};
    const struct gpu_shape shape = launch_shape(b);
    const char *name = tensor_type_info(type)->name;
    struct reason why = {""};
    for (size_t i = 0; i < (b->o.quick ? 2 : sizeof dense / sizeof *dense); i++) {
        struct launch_net n = {.shape = shape, .what = GPU_BENCH_PRODUCT, .type = type, .batch_tokens = dense[i]};
        const double seconds = time_launch(b, &n, dense[i], 0, &why), flop = 2.0 * shape.n_heads * shape.head_dim * shape.n_embd * dense[i];
        put_product(s, name, "dense, q", dense[i], flop, seconds, &why);
    }
    for (size_t i = 0; i < (b->o.quick ? 1 : sizeof each / sizeof *each); i++) {
        const uint32_t tokens = each[i] * shape.n_experts / shape.n_used;
        struct launch_net n = {.shape = shape, .what = GPU_BENCH_EXPERTS, .type = type, .batch_tokens = tokens};
        const double seconds = time_launch(b, &n, tokens, 0, &why), flop = 6.0 * shape.n_embd * shape.n_ff * each[i] * shape.n_experts;
        char what[64];
        snprintf(what, sizeof what, "%u experts, %u tokens each", shape.n_experts, each[i]);
        put_product(s, name, what, tokens, flop, seconds, &why);
        if (type == TYPE_Q4_K && isfinite(seconds)) b->facts->gpus[0].batch_macs_per_s = flop / 2 / seconds;
    }
}

static void prompt_attention_row(struct bench *b, struct section *s, uint32_t tokens, uint32_t context) {
    const struct gpu_shape shape = launch_shape(b);
    struct launch_net n = {.shape = shape, .what = GPU_BENCH_BATCH_ATTENTION, .type = TYPE_Q4_K, .batch_tokens = tokens,
                           .pages = (context + tokens + GPU_PAGE_TOKENS - 1) / GPU_PAGE_TOKENS};
    struct reason why = {""};
    char what[64];
    const double seconds = time_launch(b, &n, tokens, context, &why), pairs = tokens * (context + (tokens + 1) / 2.0);
    snprintf(what, sizeof what, "attention behind %u tokens", context);
    put_product(s, "KV f16", what, tokens, 4.0 * shape.n_heads * shape.head_dim * pairs, seconds, &why);
}

void report_products(struct bench *b) {
    struct section *s = section_open(&b->report, "products", "Products and attention of prompts", product_columns, sizeof product_columns / sizeof *product_columns);
    enum tensor_type types[TYPE_COUNT];
    if (!b->gpu) {
        section_note(s, "Not measured: no GPU.");
        return;
    }
    const uint32_t n = list_types(b, types);
    for (uint32_t i = 0; i < n; i++) {
        bench_progress(b, "a prompt's products, %s", tensor_type_info(types[i])->name);
        if (bench_late(b, 5)) section_note(s, "%s: not measured, no time left.", tensor_type_info(types[i])->name);
        else product_rows(b, s, types[i]);
    }
    prompt_attention_row(b, s, b->o.quick ? 32 : 512, 0);
    prompt_attention_row(b, s, b->o.quick ? 32 : 2048, 0);
    prompt_attention_row(b, s, b->o.quick ? 32 : 512, b->o.quick ? 256 : 32768 - 512);
    section_note(s, "Launched one by one, as in prompts; several layers in turn. Medians of %u.", bench_repeats(b, 20));
}
