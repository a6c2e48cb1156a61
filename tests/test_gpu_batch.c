/* A prompt's batch on the device, through the table alone: every weight type and tile width, dense and by expert, against
 * double arithmetic on what the device multiplies (weights and activations rounded to binary16); and that neither the number of
 * calls, their order, nor the other lane changes a bit. Runs on the emulated device and on a real one; skips without any. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "gpu/gpu.h"

enum {
    EMBD = 256,
    HEADS = 8,
    KV_HEADS = 2,
    DH = 64,
    EXPERTS = 16,
    USED = 2,
    VOCAB = 600,
    HEAD_ROWS = VOCAB,
    LAYERS = 2,
    BATCH = 480
};
enum { Q_ROWS = HEADS * DH, KV_ROWS = KV_HEADS * DH, QKV = Q_ROWS + 2 * KV_ROWS };

/* Those with kernels of their own; and for experts two of others (test_gpu_types has all), with a grid and with a scale a row.
 */
static const enum tensor_type all_types[] = {TYPE_F32,  TYPE_F16,  TYPE_BF16, TYPE_Q4_0,  TYPE_Q8_0,
                                             TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K, TYPE_IQ3_S, TYPE_IQ4_KS};
enum { N_EXPERT_TYPES = sizeof all_types / sizeof *all_types, N_TYPES = N_EXPERT_TYPES - 2 };

static const uint64_t limit_ns = 120000000000u;

/* ---- weights ------------------------------------------------------------------------------------------------- */

static uint64_t random_state;

static uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float uniform(void) { return (float)(random_bits() >> 8) * 0x1p-24f; }
static float around(float size) { return size * (2 * uniform() - 1); } /* even, in [-size, size) */

static void random_bytes(void *to, size_t n) {
    for (size_t i = 0; i < n; i++) ((uint8_t *)to)[i] = (uint8_t)random_bits();
}

/* A block (a number, for the float types) of weights of up to about `size`. */
static void random_block(enum tensor_type type, uint8_t *to, float size) {
    random_bytes(to, tensor_type_info(type)->block_bytes);
    const float v = around(size), some = size * (0.5f + 0.5f * uniform());
    uint16_t h = 0, m = 0;
    switch (type) {
        case TYPE_F32: memcpy(to, &v, 4); break;
        case TYPE_F16: h = f32_to_f16(v); memcpy(to, &h, 2); break;
        case TYPE_BF16: memcpy(to, (const uint8_t *)&v + 2, 2); break;
        case TYPE_Q4_0: h = f32_to_f16(some / 8); memcpy(to, &h, 2); break;
        case TYPE_Q8_0: h = f32_to_f16(some / 127); memcpy(to, &h, 2); break;
        case TYPE_Q4_K:
        case TYPE_Q5_K:
            h = f32_to_f16(some / (63 * (type == TYPE_Q4_K ? 15 : 31)) * 2), m = f32_to_f16(some / 63);
            memcpy(to, &h, 2), memcpy(to + 2, &m, 2);
            break;
        case TYPE_Q6_K: h = f32_to_f16(some / (128 * 32)); memcpy(to + offsetof(struct block_q6_k, d), &h, 2); break;
        case TYPE_IQ3_S: h = f32_to_f16(some / (31 * 15)); memcpy(to, &h, 2); break;
        case TYPE_IQ4_XS: h = f32_to_f16(some / (32 * 127)); memcpy(to, &h, 2); break;
        case TYPE_IQ4_KS: break; /* the row's: weights_random() */
        default: fail_test("no such type here");
    }
}

struct weights {
    enum tensor_type type;
    uint32_t rows, k;
    uint64_t row_bytes;
    uint8_t *file; /* as in a file */
    float *exact;  /* [rows][k] */
    float *half;   /* rounded to binary16 */
};

static struct cpu_ops ops;

/* After `file` has changed. */
static void weights_open(struct weights *w) {
    for (uint32_t r = 0; r < w->rows; r++)
        ops.types[w->type].dequant(w->file + r * w->row_bytes, w->exact + (size_t)r * w->k, w->k);
    for (size_t i = 0; i < (size_t)w->rows * w->k; i++) w->half[i] = f16_to_f32(f32_to_f16(w->exact[i]));
}

static struct weights weights_random(enum tensor_type type, uint32_t rows, uint32_t k, float size) {
    struct weights w = {.type = type, .rows = rows, .k = k};
    assert_true(tensor_row_bytes(type, k, &w.row_bytes));
    const uint64_t block = tensor_type_info(type)->block_bytes;
    w.file = malloc(rows * w.row_bytes);
    w.exact = malloc(sizeof(float) * rows * k);
    w.half = malloc(sizeof(float) * rows * k);
    assert_true(w.file && w.exact && w.half);
    const uint64_t meta = tensor_type_info(type)->row_meta_bytes;
    for (uint32_t r = 0; r < rows; r++) {
        uint8_t *row = w.file + r * w.row_bytes;
        const float d = size * (0.5f + 0.5f * uniform()) / (127 * 117);
        memcpy(row, &d, meta);
        for (uint64_t at = meta; at < w.row_bytes; at += block) random_block(type, row + at, size);
    }
    weights_open(&w);
    return w;
}

static void weights_free(struct weights *w) {
    free(w->file);
    free(w->exact);
    free(w->half);
}

/* ---- a device with a network --------------------------------------------------------------------------------- */

struct block {
    gpu_ptr at;
    uint64_t bytes;
};

struct world {
    struct gpu *g;
    struct gpu_network *net;
    struct gpu_event *ready;
    struct gpu_layer layers[LAYERS];
    struct block blocks[64];
    int n_blocks;
    uint32_t ff;
    struct weights embedding, q, k, v, output, router, head, gate[EXPERTS], up[EXPERTS], down[EXPERTS];
    float gain[EMBD], head_gain[EMBD]; /* of all norms of layers; of the head's */
    uint64_t up_offset, down_offset, slot_bytes;
    gpu_ptr slots;
    void *table; /* the embedding, pinned */
    gpu_ptr table_mapped;
    float *qkv, *attended, *rest, *logits; /* pinned */
};

static void must(enum err e, const struct reason *why) {
    if (e) fail_test("%s", why->text);
}

static gpu_ptr take(struct world *w, enum gpu_use use, uint64_t bytes) {
    struct reason why;
    struct block *b = &w->blocks[w->n_blocks++];
    assert_true(w->n_blocks <= (int)(sizeof w->blocks / sizeof *w->blocks));
    assert_int_equal(use, GPU_USE_DENSE);
    b->bytes = bytes;
    must(w->g->ops->alloc(w->g, use, bytes, &b->at, &why), &why);
    return b->at;
}

static void *take_pinned(struct world *w, uint64_t bytes, gpu_ptr *mapped) {
    struct reason why;
    void *host = NULL;
    gpu_ptr at;
    must(w->g->ops->alloc_pinned(w->g, bytes, &host, &at, &why), &why);
    if (mapped) *mapped = at;
    return host;
}

static void sync_device(struct world *w) {
    struct reason why;
    must(w->g->ops->sync(w->g, GPU_COMPUTE, limit_ns, &why), &why);
}

static uint64_t device_bytes(const struct world *w, const struct weights *m) {
    return w->g->ops->types[m->type].bytes(m->rows, m->k);
}

static void put_at(struct world *w, const struct weights *m, gpu_ptr to) {
    struct reason why;
    const uint64_t bytes = m->rows * m->row_bytes;
    const struct gpu_ops *o = w->g->ops;
    assert_true(o->types[m->type].has_kernels);
    gpu_ptr stage;
    must(o->alloc(w->g, GPU_USE_SCRATCH, bytes, &stage, &why), &why);
    if (o->types[m->type].same_layout) o->upload(w->g, GPU_COMPUTE, to, m->file, bytes);
    else {
        o->upload(w->g, GPU_COMPUTE, stage, m->file, bytes);
        o->repack(w->g, GPU_COMPUTE, m->type, to, stage, m->rows, m->k);
    }
    sync_device(w);
    o->free(w->g, GPU_USE_SCRATCH, stage, bytes);
}

static struct gpu_matrix put(struct world *w, const struct weights *m) {
    const gpu_ptr at = take(w, GPU_USE_DENSE, device_bytes(w, m));
    put_at(w, m, at);
    return (struct gpu_matrix){at, m->type, m->rows, m->k};
}

static gpu_ptr put_floats(struct world *w, const float *x, size_t n) {
    const gpu_ptr at = take(w, GPU_USE_DENSE, n * sizeof *x);
    w->g->ops->upload(w->g, GPU_COMPUTE, at, x, n * sizeof *x);
    sync_device(w);
    return at;
}

/* Tokens whose embedding makes them choose experts `t * 7 % X` and `t * 5 + 1`: two large entries that routers look at. */
static uint32_t first_choice(uint32_t token) { return token * 7 % EXPERTS; }

static void steer(float *embedding, uint32_t expert, float strength) { embedding[expert] = strength; }

struct plan { /* of a world */
    enum tensor_type type, embedding_type, router_type, up_type, down_type;
    uint32_t ff;
    float expert_size; /* of gate and up */
    void (*change)(struct world *w); /* weights, before they go to the device */
};

static void make_weights(struct world *w, const struct plan *p) {
    const float one = 1 / sqrtf(EMBD);
    w->ff = p->ff;
    w->embedding = weights_random(p->embedding_type, VOCAB, EMBD, 1);
    w->q = weights_random(p->type, Q_ROWS, EMBD, one);
    w->k = weights_random(p->type, KV_ROWS, EMBD, one);
    w->v = weights_random(p->type, KV_ROWS, EMBD, one);
    w->output = weights_random(p->type, EMBD, Q_ROWS, one);
    w->router = weights_random(p->router_type, EXPERTS, EMBD, 0.2f * one);
    w->head = weights_random(p->type, HEAD_ROWS, EMBD, one);
    for (int e = 0; e < EXPERTS; e++) {
        w->gate[e] = weights_random(p->type, p->ff, EMBD, p->expert_size);
        w->up[e] = weights_random(p->up_type, p->ff, EMBD, p->expert_size);
        w->down[e] = weights_random(p->down_type, EMBD, p->ff, 0.1f);
    }
    for (int c = 0; c < EMBD; c++) w->gain[c] = 1 + around(0.2f), w->head_gain[c] = 1 + around(0.5f);
    if (p->router_type == TYPE_F32) /* expert e looks at column e */
        for (int e = 0; e < EXPERTS; e++) ((float *)w->router.file)[e * EMBD + e] = 2;
    if (p->embedding_type == TYPE_F32)
        for (uint32_t t = 0; t < VOCAB; t++) {
            float *x = (float *)w->embedding.file + (size_t)t * EMBD;
            steer(x, first_choice(t), 6);
            steer(x, (first_choice(t) + 1 + t / 3 % (EXPERTS - 1)) % EXPERTS, 4);
        }
    if (p->change) p->change(w);
    weights_open(&w->router);
    weights_open(&w->embedding);
    for (int e = 0; e < EXPERTS; e++) weights_open(&w->gate[e]), weights_open(&w->up[e]);
}

static void put_experts(struct world *w) {
    w->up_offset = device_bytes(w, &w->gate[0]);
    w->down_offset = w->up_offset + device_bytes(w, &w->up[0]);
    w->slot_bytes = w->down_offset + device_bytes(w, &w->down[0]);
    w->slots = take(w, GPU_USE_DENSE, EXPERTS * w->slot_bytes);
    for (int e = 0; e < EXPERTS; e++) {
        put_at(w, &w->gate[e], w->slots + e * w->slot_bytes);
        put_at(w, &w->up[e], w->slots + e * w->slot_bytes + w->up_offset);
        put_at(w, &w->down[e], w->slots + e * w->slot_bytes + w->down_offset);
    }
}

static void open_network(struct world *w, const struct plan *p) {
    struct reason why;
    double frequency[DH / 2];
    for (int r = 0; r < DH / 2; r++) frequency[r] = pow(1e6, -2.0 * r / DH);
    const float ones[DH] = {1};
    const gpu_ptr norm = put_floats(w, w->gain, EMBD), head_norm = put_floats(w, w->head_gain, EMBD),
                  dh_norm = put_floats(w, ones, DH);
    struct gpu_layer l = {.attn_norm = norm,
                          .ffn_norm = norm,
                          .q_norm = dh_norm,
                          .k_norm = dh_norm,
                          .q = put(w, &w->q),
                          .k = put(w, &w->k),
                          .v = put(w, &w->v),
                          .output = put(w, &w->output),
                          .router = put(w, &w->router),
                          .gate_type = p->type,
                          .up_type = p->up_type,
                          .down_type = p->down_type,
                          .up_offset = w->up_offset,
                          .down_offset = w->down_offset};
    for (int i = 0; i < LAYERS; i++) w->layers[i] = l;
    const uint64_t table_bytes = VOCAB * w->embedding.row_bytes;
    w->table = take_pinned(w, table_bytes, &w->table_mapped);
    memcpy(w->table, w->embedding.file, table_bytes);
    const struct gpu_network_options o = {.shape = {.n_layers = LAYERS,
                                                    .n_embd = EMBD,
                                                    .n_heads = HEADS,
                                                    .n_kv_heads = KV_HEADS,
                                                    .head_dim = DH,
                                                    .n_ff = p->ff,
                                                    .n_experts = EXPERTS,
                                                    .n_used = USED,
                                                    .n_vocab = HEAD_ROWS,
                                                    .rms_eps = 1e-6f,
                                                    .rope_magnitude = 1},
                                          .layers = w->layers,
                                          .rope_frequency = frequency,
                                          .embedding = w->table,
                                          .embedding_mapped = w->table_mapped,
                                          .embedding_type = p->embedding_type,
                                          .embedding_row_bytes = w->embedding.row_bytes,
                                          .output_norm = head_norm,
                                          .head = put(w, &w->head),
                                          .slots = w->slots,
                                          .max_sequences = 1,
                                          .max_pages = 4,
                                          .batch_tokens = BATCH};
    must(w->g->ops->network_open(w->g, &o, &w->net, &why), &why);
}

static struct world *world_open(const struct plan *p) {
    struct reason why;
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    must(gpu_open(&(struct gpu_options){0}, &w->g, &why), &why);
    random_state = 1 + (uint64_t)p->type;
    make_weights(w, p);
    put_experts(w);
    open_network(w, p);
    must(w->g->ops->event_open(w->g, &w->ready, &why), &why);
    w->qkv = take_pinned(w, sizeof(float) * BATCH * QKV, NULL);
    w->attended = take_pinned(w, sizeof(float) * BATCH * Q_ROWS, NULL);
    w->rest = take_pinned(w, sizeof(float) * BATCH * EMBD, NULL);
    w->logits = take_pinned(w, sizeof(float) * GPU_STEP_TOKENS * HEAD_ROWS, NULL);
    return w;
}

static void world_close(struct world *w) {
    const struct gpu_ops *o = w->g->ops;
    struct reason why;
    sync_device(w);
    must(o->check(w->g, &why), &why);
    o->free_pinned(w->g, w->qkv, sizeof(float) * BATCH * QKV);
    o->free_pinned(w->g, w->attended, sizeof(float) * BATCH * Q_ROWS);
    o->free_pinned(w->g, w->rest, sizeof(float) * BATCH * EMBD);
    o->free_pinned(w->g, w->logits, sizeof(float) * GPU_STEP_TOKENS * HEAD_ROWS);
    o->event_close(w->g, &w->ready);
    o->network_close(&w->net);
    o->free_pinned(w->g, w->table, VOCAB * w->embedding.row_bytes);
    for (int i = 0; i < w->n_blocks; i++) o->free(w->g, GPU_USE_DENSE, w->blocks[i].at, w->blocks[i].bytes);
    o->close(&w->g);
    struct weights *const dense[] = {&w->embedding, &w->q, &w->k, &w->v, &w->output, &w->router, &w->head};
    for (size_t i = 0; i < sizeof dense / sizeof *dense; i++) weights_free(dense[i]);
    for (int e = 0; e < EXPERTS; e++) weights_free(&w->gate[e]), weights_free(&w->up[e]), weights_free(&w->down[e]);
    free(w);
}

/* ---- the oracle ---------------------------------------------------------------------------------------------- */

static double round_half(double x) { return (double)f16_to_f32(f32_to_f16((float)x)); }

static void oracle_norm(const double *x, const float *gain, double *out) {
    double sum = 0;
    for (int c = 0; c < EMBD; c++) sum += x[c] * x[c];
    const double scale = 1 / sqrt(sum / EMBD + (double)1e-6f);
    for (int c = 0; c < EMBD; c++) out[c] = (double)gain[c] * x[c] * scale;
}

/* sum and sum of magnitudes and the largest magnitude of w[c] * x[c] */
struct dot {
    double sum, size, most;
};

static struct dot dot(const float *w, const double *x, uint32_t k) {
    struct dot d = {0, 0, 0};
    for (uint32_t c = 0; c < k; c++) {
        const double p = (double)w[c] * x[c];
        d.sum += p;
        d.size += fabs(p);
        if (fabs(p) > d.most) d.most = fabs(p);
    }
    return d;
}

/* What binary32 sums may be off by, and two weights that binary16 rounds to the other neighbour because opening a block rounded
 * otherwise before. */
static double allowed(struct dot d) { return 0x1p-19 * d.size + 0x1p-10 * d.most + 1e-12; }

static void check_near(const char *what, uint32_t token, uint32_t row, double got, double want, double bound) {
    if (!(fabs(got - want) <= bound))
        fail_test("%s, token %u, row %u: %.9g, expected %.9g +- %.3g", what, token, row, got, want, bound);
}

static double embedding_of(const struct world *w, int32_t token, uint32_t c) {
    return (double)w->embedding.exact[(size_t)token * EMBD + c];
}

/* The sum of the experts that `use` allows for a token whose normed input the device gave, and how far off that may be. */
static void oracle_experts(const struct world *w, const float *input, const int32_t *expert, const float *weight,
                           const bool *use, double *y, double *bound) {
    double b[EMBD], mid[512], spread[512];
    for (int c = 0; c < EMBD; c++) b[c] = round_half((double)input[c]), y[c] = bound[c] = 0;
    for (int r = 0; r < USED; r++) {
        const int32_t e = expert[r];
        if (!use[e]) continue;
        double top = 0;
        for (uint32_t f = 0; f < w->ff; f++) {
            const struct dot g = dot(w->gate[e].half + (size_t)f * EMBD, b, EMBD),
                             u = dot(w->up[e].half + (size_t)f * EMBD, b, EMBD);
            const double silu = g.sum / (1 + exp(-g.sum));
            mid[f] = silu * u.sum;
            spread[f] = fabs(silu) * allowed(u) + 1.1 * fabs(u.sum) * allowed(g) + 0x1p-11 * fabs(mid[f]);
            if (fabs(mid[f]) > top) top = fabs(mid[f]);
        }
        for (int c = 0; c < EMBD; c++) {
            const struct dot d = dot(w->down[e].half + (size_t)c * w->ff, mid, w->ff);
            double off = allowed(d);
            for (uint32_t f = 0; f < w->ff; f++) /* values far below a row's largest lose bits */
                off += fabs((double)w->down[e].half[(size_t)c * w->ff + f]) * (spread[f] + 0x1p-17 * 0x1p-10 * top);
            y[c] += (double)weight[r] * d.sum;
            bound[c] += (double)weight[r] * off + 1e-6 * fabs((double)weight[r] * d.sum);
        }
    }
}

/* ---- runs ---------------------------------------------------------------------------------------------------- */

struct run {
    struct gpu_batch batch;
    int32_t tokens[BATCH];
    int32_t expert[BATCH * USED];
    float weight[BATCH * USED];
    float input[BATCH * EMBD], after[BATCH * EMBD];
};

static void begin(struct world *w, struct run *r, uint32_t lane, uint32_t n) {
    r->batch = (struct gpu_batch){.lane = lane, .n = n, .tokens = r->tokens};
    w->g->ops->batch_begin(w->net, &r->batch);
}

static void route(struct world *w, struct run *r, uint32_t layer, float *input) {
    struct gpu_batch_routes routes;
    w->g->ops->batch_route(w->net, &r->batch, layer, input != NULL, &routes, w->ready);
    sync_device(w);
    assert_true(w->g->ops->passed(w->g, w->ready));
    memcpy(r->expert, routes.experts, sizeof(int32_t) * r->batch.n * USED);
    memcpy(r->weight, routes.weights, sizeof(float) * r->batch.n * USED);
    if (input) memcpy(input, routes.input, sizeof(float) * r->batch.n * EMBD);
    else assert_null(routes.input);
}

/* Experts first, first + step, ... below EXPERTS, as one call. */
static void compute(struct world *w, const struct run *r, const uint32_t *experts, uint32_t n) {
    struct gpu_batch_expert list[EXPERTS];
    for (uint32_t i = 0; i < n; i++) list[i] = (struct gpu_batch_expert){experts[i], w->slots + experts[i] * w->slot_bytes};
    w->g->ops->batch_experts(w->net, &r->batch, 0, list, n);
}

static const uint32_t rising[EXPERTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* The input of layer 1's experts shows what layer 0 left in x. */
static void observe(struct world *w, struct run *r) {
    struct run *other = calloc(1, sizeof *other);
    assert_non_null(other);
    other->batch = r->batch;
    route(w, other, 1, r->after);
    free(other);
}

static void check_after(const struct world *w, const struct run *r, const bool *use, const float *rest) {
    for (uint32_t t = 0; t < r->batch.n; t++) {
        double x[EMBD], y[EMBD], bound[EMBD], normed[EMBD], off = 0, sum = 0;
        oracle_experts(w, r->input + (size_t)t * EMBD, r->expert + t * USED, r->weight + t * USED, use, y, bound);
        for (uint32_t c = 0; c < EMBD; c++) {
            x[c] = embedding_of(w, r->tokens[t], c) + y[c] + (rest ? (double)rest[(size_t)t * EMBD + c] : 0);
            off += bound[c] * bound[c];
            sum += x[c] * x[c];
        }
        oracle_norm(x, w->gain, normed);
        const double rms = sqrt(sum / EMBD), common = sqrt(off / sum); /* by which the norm itself may be off */
        for (uint32_t c = 0; c < EMBD; c++)
            check_near("x after experts", t, c, (double)r->after[(size_t)t * EMBD + c], normed[c],
                       1.3 * bound[c] / rms + (common + 4e-6) * fabs(normed[c]) + 1e-6);
    }
}

/* Counts of a batch whose first choices are ragged: experts with 0, 1, 15, 16, 17, 40, 127, 128 and 129 tokens. */
static uint32_t ragged_tokens(struct run *r) {
    static const uint32_t counts[EXPERTS] = {16, 0, 129, 1, 0, 15, 40, 0, 127, 0, 17, 128};
    uint32_t n = 0;
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t i = 0, token = 0; i < counts[e]; token++)
            if (first_choice(token % VOCAB) == e) r->tokens[n++] = (int32_t)(token % VOCAB), i++;
    return n;
}

/* Only the first choice counts: the embedding's second entry is taken away. */
static void one_choice(struct world *w) {
    for (uint32_t t = 0; t < VOCAB; t++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            ((float *)w->embedding.file)[(size_t)t * EMBD + e] = e == first_choice(t)                  ? 6
                                                                 : e == (first_choice(t) + 1) % 4 + 12 ? 4
                                                                                                       : 0;
}

/* ---- tests --------------------------------------------------------------------------------------------------- */

static struct plan plan_of(enum tensor_type type) {
    const bool super = tensor_type_info(type)->block_weights == QK_K;
    return (struct plan){.type = type,
                         .up_type = type,
                         .down_type = type,
                         .embedding_type = TYPE_F32,
                         .router_type = TYPE_F32,
                         .ff = super ? 256 : 160,
                         .expert_size = 0.15f};
}

static struct run *run_new(void) {
    struct run *r = calloc(1, sizeof *r);
    assert_non_null(r);
    return r;
}

static void check_routes(const struct world *w, const struct run *r, const float *gain) {
    for (uint32_t t = 0; t < r->batch.n; t++) {
        double x[EMBD], normed[EMBD], logit[EXPERTS], sum = 0;
        for (uint32_t c = 0; c < EMBD; c++) x[c] = embedding_of(w, r->tokens[t], c);
        oracle_norm(x, gain, normed);
        for (uint32_t c = 0; c < EMBD; c++)
            check_near("normed", t, c, (double)r->input[(size_t)t * EMBD + c], normed[c], 4e-6 * fabs(normed[c]) + 1e-9);
        for (uint32_t e = 0; e < EXPERTS; e++) logit[e] = dot(w->router.exact + (size_t)e * EMBD, normed, EMBD).sum;
        bool chosen[EXPERTS] = {false};
        for (uint32_t k = 0; k < USED; k++) {
            uint32_t best = EXPERTS;
            for (uint32_t e = 0; e < EXPERTS; e++)
                if (!chosen[e] && (best == EXPERTS || logit[e] >= logit[best])) best = e;
            chosen[best] = true;
            assert_int_equal(r->expert[t * USED + k], best);
            sum += exp(logit[best]);
        }
        for (uint32_t k = 0; k < USED; k++)
            check_near("weight", t, k, (double)r->weight[t * USED + k], exp(logit[r->expert[t * USED + k]]) / sum, 2e-5);
    }
}

static void check_experts(struct plan p, bool ragged) {
    if (ragged) p.change = one_choice;
    struct world *w = world_open(&p);
    struct run *r = run_new();
    bool use[EXPERTS];
    for (int e = 0; e < EXPERTS; e++) use[e] = true;
    for (uint32_t t = 0; t < 60; t++) r->tokens[t] = (int32_t)t;
    begin(w, r, 0, ragged ? ragged_tokens(r) : 60);
    route(w, r, 0, r->input);
    if (ragged) check_routes(w, r, w->gain);
    compute(w, r, rising + 5, EXPERTS - 5);
    compute(w, r, rising, 5);
    w->g->ops->batch_combine(w->net, &r->batch, 0, NULL);
    observe(w, r);
    check_after(w, r, use, NULL);
    free(r);
    world_close(w);
}

static void test_ragged_experts(void **state) {
    (void)state;
    for (int i = 0; i < N_EXPERT_TYPES; i++) check_experts(plan_of(all_types[i]), true);
}

/* Gate and up of two types, whose results take more room than those of down, or less. */
static void test_two_types(void **state) {
    (void)state;
    static const struct {
        enum tensor_type gate, up, down;
        uint32_t ff;
    } cases[] = {{TYPE_Q4_K, TYPE_Q6_K, TYPE_Q8_0, 96},
                 {TYPE_Q8_0, TYPE_F32, TYPE_F16, 160},
                 {TYPE_IQ4_KS, TYPE_IQ4_XS, TYPE_Q4_K, 256}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plan p = plan_of(cases[i].gate);
        p.up_type = cases[i].up, p.down_type = cases[i].down, p.ff = cases[i].ff;
        check_experts(p, i == 0);
    }
}

static void check_dense(struct world *w, uint32_t n) {
    struct run *r = run_new();
    const struct weights *const m[] = {&w->q, &w->k, &w->v};
    for (uint32_t t = 0; t < n; t++) r->tokens[t] = (int32_t)(t * 11 % VOCAB);
    begin(w, r, 1, n);
    route(w, r, 0, r->input); /* the same norm */
    w->g->ops->batch_qkv(w->net, &r->batch, 0, w->qkv, w->ready);
    sync_device(w);
    for (uint32_t t = 0; t < n; t++) {
        double normed[EMBD];
        for (uint32_t c = 0; c < EMBD; c++) normed[c] = round_half((double)r->input[(size_t)t * EMBD + c]);
        const float *got = w->qkv + (size_t)t * QKV;
        for (int i = 0; i < 3; got += m[i++]->rows)
            for (uint32_t row = 0; row < m[i]->rows; row++) {
                const struct dot d = dot(m[i]->half + (size_t)row * EMBD, normed, EMBD);
                check_near(tensor_type_info(m[i]->type)->name, t, row, (double)got[row], d.sum, allowed(d));
            }
    }
    free(r);
}

/* x += Wo a, seen as the next norm's input. */
static void check_output(struct world *w, uint32_t n) {
    struct run *r = run_new();
    for (uint32_t t = 0; t < n; t++) r->tokens[t] = (int32_t)(t * 13 % VOCAB);
    for (size_t i = 0; i < (size_t)n * Q_ROWS; i++) w->attended[i] = around(1);
    begin(w, r, 0, n);
    w->g->ops->batch_attended(w->net, &r->batch, 0, w->attended);
    observe(w, r);
    for (uint32_t t = 0; t < n; t++) {
        double a[Q_ROWS], x[EMBD], bound[EMBD], normed[EMBD], sum = 0;
        for (uint32_t c = 0; c < Q_ROWS; c++) a[c] = round_half((double)w->attended[(size_t)t * Q_ROWS + c]);
        for (uint32_t c = 0; c < EMBD; c++) {
            const struct dot d = dot(w->output.half + (size_t)c * Q_ROWS, a, Q_ROWS);
            x[c] = embedding_of(w, r->tokens[t], c) + d.sum;
            bound[c] = allowed(d);
            sum += x[c] * x[c];
        }
        oracle_norm(x, w->gain, normed);
        for (uint32_t c = 0; c < EMBD; c++)
            check_near("output", t, c, (double)r->after[(size_t)t * EMBD + c], normed[c],
                       1.3 * bound[c] / sqrt(sum / EMBD) + 2e-5 * fabs(normed[c]) + 1e-6);
    }
    free(r);
}

static void check_logits(struct world *w, uint32_t n, uint32_t from, uint32_t count) {
    struct run *r = run_new();
    for (uint32_t t = 0; t < n; t++) r->tokens[t] = (int32_t)(t * 17 % VOCAB);
    begin(w, r, 0, n);
    w->g->ops->batch_logits(w->net, &r->batch, from, count, w->logits);
    sync_device(w);
    for (uint32_t t = 0; t < count; t++) {
        double x[EMBD], normed[EMBD];
        for (uint32_t c = 0; c < EMBD; c++) x[c] = embedding_of(w, r->tokens[from + t], c);
        oracle_norm(x, w->head_gain, normed);
        for (uint32_t row = 0; row < HEAD_ROWS; row++) {
            const struct dot d = dot(w->head.half + (size_t)row * EMBD, normed, EMBD);
            check_near("logit", t, row, (double)w->logits[(size_t)t * HEAD_ROWS + row], d.sum,
                       0x1p-18 * d.size + 0x1p-11 * d.most); /* the input is not rounded */
        }
    }
    free(r);
}

static void test_dense(void **state) {
    (void)state;
    static const uint32_t counts[] = {1, 20, 130};
    for (int i = 0; i < N_TYPES; i++) {
        const struct plan p = plan_of(all_types[i]);
        struct world *w = world_open(&p);
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) check_dense(w, counts[c]);
        check_output(w, 33);
        check_logits(w, 5, 4, 1);
        check_logits(w, 11, 2, 8);
        world_close(w);
    }
}

/* Embedding rows of every type, through the norm. */
static void test_embedding(void **state) {
    (void)state;
    for (int i = 0; i < N_TYPES; i++) {
        struct plan p = plan_of(TYPE_F16);
        p.embedding_type = all_types[i];
        p.router_type = all_types[(i + 3) % N_TYPES]; /* and routers of every type */
        struct world *w = world_open(&p);
        struct run *r = run_new();
        for (uint32_t t = 0; t < 40; t++) r->tokens[t] = (int32_t)(VOCAB - 1 - t);
        begin(w, r, 0, 40);
        route(w, r, 0, r->input);
        check_routes(w, r, w->gain);
        free(r);
        world_close(w);
    }
}

/* All experts at once; in three calls; the other way round; with every second one left to the host. */
static void test_calls(void **state) {
    (void)state;
    static const uint32_t mixed[EXPERTS] = {9, 2, 15, 4, 0, 11, 6, 13, 1, 8, 3, 10, 5, 12, 7, 14},
                          odd[] = {1, 3, 5, 7, 9, 11, 13, 15};
    const struct plan p = plan_of(TYPE_Q4_K);
    struct world *w = world_open(&p);
    struct run *a = run_new(), *b = run_new();
    const uint32_t n = 150;
    for (uint32_t t = 0; t < n; t++) a->tokens[t] = b->tokens[t] = (int32_t)(t * 29 % VOCAB);
    begin(w, a, 0, n);
    route(w, a, 0, a->input);
    check_routes(w, a, w->gain);
    compute(w, a, rising, EXPERTS);
    w->g->ops->batch_combine(w->net, &a->batch, 0, NULL);
    observe(w, a);
    for (int way = 0; way < 2; way++) {
        begin(w, b, 0, n);
        route(w, b, 0, NULL);
        compute(w, b, mixed + (way ? 11 : 0), way ? 5 : 1);
        compute(w, b, mixed + (way ? 10 : 1), way ? 1 : 9);
        compute(w, b, mixed, 0);
        compute(w, b, mixed + (way ? 0 : 10), way ? 10 : 6);
        w->g->ops->batch_combine(w->net, &b->batch, 0, NULL);
        observe(w, b);
        assert_memory_equal(a->after, b->after, sizeof(float) * n * EMBD);
    }
    bool use[EXPERTS];
    for (int e = 0; e < EXPERTS; e++) use[e] = e % 2;
    for (size_t i = 0; i < (size_t)n * EMBD; i++) w->rest[i] = around(0.5f);
    begin(w, b, 0, n);
    route(w, b, 0, b->input);
    compute(w, b, odd, EXPERTS / 2);
    w->g->ops->batch_combine(w->net, &b->batch, 0, w->rest);
    observe(w, b);
    check_after(w, b, use, w->rest);

    begin(w, b, 0, n); /* the host has all */
    route(w, b, 0, b->input);
    w->g->ops->batch_combine(w->net, &b->batch, 0, w->rest);
    observe(w, b);
    for (int e = 0; e < EXPERTS; e++) use[e] = false;
    check_after(w, b, use, w->rest);
    free(a);
    free(b);
    world_close(w);
}

/* Both lanes in turn give what each gives alone. */
static void test_lanes(void **state) {
    (void)state;
    const struct plan p = plan_of(TYPE_Q6_K);
    struct world *w = world_open(&p);
    struct run *alone[GPU_LANES] = {run_new(), run_new()}, *both[GPU_LANES] = {run_new(), run_new()};
    const uint32_t n[GPU_LANES] = {70, 33};
    for (int l = 0; l < GPU_LANES; l++) {
        for (uint32_t t = 0; t < n[l]; t++)
            alone[l]->tokens[t] = both[l]->tokens[t] = (int32_t)((t * 31 + 200 * (uint32_t)l) % VOCAB);
        begin(w, alone[l], (uint32_t)l, n[l]);
        route(w, alone[l], 0, alone[l]->input);
        compute(w, alone[l], rising, EXPERTS);
        w->g->ops->batch_combine(w->net, &alone[l]->batch, 0, NULL);
        observe(w, alone[l]);
    }
    for (int l = 0; l < GPU_LANES; l++) begin(w, both[l], (uint32_t)l, n[l]);
    for (int l = 0; l < GPU_LANES; l++) route(w, both[l], 0, both[l]->input);
    for (int l = 0; l < GPU_LANES; l++) compute(w, both[l], rising + 5, EXPERTS - 5);
    for (int l = 0; l < GPU_LANES; l++) compute(w, both[l], rising, 5);
    for (int l = 0; l < GPU_LANES; l++) w->g->ops->batch_combine(w->net, &both[l]->batch, 0, NULL);
    for (int l = 0; l < GPU_LANES; l++) {
        observe(w, both[l]);
        assert_memory_equal(alone[l]->expert, both[l]->expert, sizeof(int32_t) * n[l] * USED);
        assert_memory_equal(alone[l]->input, both[l]->input, sizeof(float) * n[l] * EMBD);
        assert_memory_equal(alone[l]->after, both[l]->after, sizeof(float) * n[l] * EMBD);
        free(alone[l]);
        free(both[l]);
    }
    world_close(w);
}

/* Gate and up so large, and in other columns so small, that binary16 could not hold their product without a power of two. */
static void wide_range(struct world *w) {
    for (int e = 0; e < EXPERTS; e++)
        for (uint32_t f = 0; f < w->ff; f++)
            for (uint32_t c = 0; c < EMBD; c++) {
                const float factor = f >= w->ff / 2 ? e % 3 ? 300 : 0.01f : e % 2 ? 1 : 0.003f;
                ((float *)w->gate[e].file)[(size_t)f * EMBD + c] *= factor;
                ((float *)w->up[e].file)[(size_t)f * EMBD + c] *= factor;
            }
}

static void test_range(void **state) {
    (void)state;
    struct plan p = plan_of(TYPE_F32);
    p.change = wide_range;
    check_experts(p, false);
}

/* Rows 3, 7 and 12 of the router are one, row 5 gives NaN, row 9 minus infinity. */
static void odd_router(struct world *w) {
    float *router = (float *)w->router.file;
    for (uint32_t c = 0; c < EMBD; c++) router[12 * EMBD + c] = router[7 * EMBD + c] = router[3 * EMBD + c];
    for (uint32_t e = 0; e < EXPERTS; e++) router[e * EMBD + 100] = e == 3 || e == 7 || e == 12 ? 9.f : 0;
    router[5 * EMBD + 1] = NAN;
    router[9 * EMBD + 2] = INFINITY;
    for (uint32_t t = 0; t < VOCAB; t++)
        ((float *)w->embedding.file)[(size_t)t * EMBD + 100] = 5, ((float *)w->embedding.file)[(size_t)t * EMBD + 2] = -3;
}

static void test_ties(void **state) {
    (void)state;
    struct plan p = plan_of(TYPE_F16);
    p.change = odd_router;
    struct world *w = world_open(&p);
    struct run *r = run_new();
    for (uint32_t t = 0; t < 20; t++) r->tokens[t] = (int32_t)t;
    begin(w, r, 0, 20);
    route(w, r, 0, NULL);
    for (uint32_t t = 0; t < 20; t++) {
        assert_int_equal(r->expert[t * USED], 12);
        assert_int_equal(r->expert[t * USED + 1], 7);
        assert_true(r->weight[t * USED] == 0.5f && r->weight[t * USED + 1] == 0.5f);
    }
    free(r);
    world_close(w);
}

int main(void) {
    struct gpu *g = NULL;
    struct reason why;
    if (gpu_open(&(struct gpu_options){0}, &g, &why)) {
        print_message("skipped: %s\n", why.text);
        return 77;
    }
    g->ops->close(&g);
    cpu_ops_init(&ops, ISA_REF);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_embedding),      cmocka_unit_test(test_dense),
                                       cmocka_unit_test(test_ragged_experts), cmocka_unit_test(test_two_types),
                                       cmocka_unit_test(test_calls),          cmocka_unit_test(test_lanes),
                                       cmocka_unit_test(test_range),          cmocka_unit_test(test_ties)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
