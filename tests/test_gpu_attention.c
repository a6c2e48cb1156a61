/* Attention on the device against sums in double. The oracle takes queries, keys and values as the kernels state to hold them
 * (rounded to binary16, quantized keys and values as the page has them), so that what is left is the rounding of weights to
 * binary16 (2^-11 of a weight), binary32 sums, and single values that binary32 and double round to different neighbours. How
 * far the rounding of queries takes the result from exact is measured apart, in multiples of what rounding K and V does. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "tests/gpu/attention_rig.h"

#define HALF_ULP 0x1p-11 /* of binary16, relative */

enum { MAX_DH = 128, MAX_PAGES = 8, SEQUENCES = 8, POOL_PAGES = 24, BATCH = 200 };

/* ---- random numbers ---------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state) { /* xorshift64* */
    *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}
static double uniform(uint64_t *state) { return (double)(next_random(state) >> 11) * 0x1p-53; }
static float normal(uint64_t *state) { /* of variance 1, near enough */
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += uniform(state);
    return (float)sum;
}

/* ---- a network of one layer and its cache as the oracle knows it --------------------------------------------------- */

struct world {
    struct rig_spec spec;
    struct rig *rig;
    double frequency[MAX_DH / 2];
    float q_norm[MAX_DH], k_norm[MAX_DH];
    uint32_t pages[SEQUENCES][MAX_PAGES];
    uint8_t *keys, *values;   /* the pools' bytes, as the device should have them */
    uint64_t key_bytes, value_bytes;
    uint64_t random;
    bool exact_queries;       /* the oracle's are not rounded */
};

static void *sure(void *p) {
    assert_non_null(p);
    return p;
}

/* Pages in no order, each owned once. */
static void deal_pages(struct world *w) {
    uint32_t deck[POOL_PAGES];
    for (uint32_t i = 0; i < POOL_PAGES; i++) deck[i] = i;
    for (uint32_t i = POOL_PAGES; i-- > 1;) {
        const uint32_t j = (uint32_t)(next_random(&w->random) % (i + 1)), t = deck[i];
        deck[i] = deck[j], deck[j] = t;
    }
    /* One long sequence, some of two pages; what nobody owns is page UINT32_MAX, outside all memory. */
    static const uint32_t owned[SEQUENCES] = {MAX_PAGES, 4, 2, 2, 2, 2, 2, 2};
    memset(w->pages, 255, sizeof w->pages);
    for (uint32_t s = 0, taken = 0; s < SEQUENCES; s++)
        for (uint32_t i = 0; i < owned[s]; i++) w->pages[s][i] = deck[taken++];
}

/* Scores grow with `gain` squared. All pages hold NaN (f16) or the largest values: what is read beside the known rows shows. */
static struct world *world_open(uint32_t heads, uint32_t kv_heads, uint32_t dh, uint32_t splits, enum gpu_kv kind_k, enum gpu_kv kind_v, float gain) {
    struct world *w = sure(calloc(1, sizeof *w));
    w->random = 88172645463325252u + heads * 1000 + kv_heads * 100 + dh + splits;
    for (uint32_t i = 0; i < dh / 2; i++) w->frequency[i] = pow(1e6, -2.0 * i / dh);
    for (uint32_t i = 0; i < dh; i++) {
        w->q_norm[i] = gain * (0.5f + (float)uniform(&w->random));
        w->k_norm[i] = gain * (0.5f + (float)uniform(&w->random));
    }
    w->spec = (struct rig_spec){.heads = heads, .kv_heads = kv_heads, .head_dim = dh, .splits = splits, .sequences = SEQUENCES,
                                .max_pages = MAX_PAGES, .pages = POOL_PAGES, .kv_k = kind_k, .kv_v = kind_v, .eps = 1e-6f,
                                .magnitude = 1.125f, .frequency = w->frequency, .q_norm = w->q_norm, .k_norm = w->k_norm,
                                .batch_tokens = BATCH};
    w->rig = rig_open(&w->spec);
    w->key_bytes = POOL_PAGES * rig_page_bytes(&w->spec, kind_k), w->value_bytes = POOL_PAGES * rig_page_bytes(&w->spec, kind_v);
    w->keys = sure(malloc(w->key_bytes)), w->values = sure(malloc(w->value_bytes));
    memset(w->keys, 0x7f, w->key_bytes), memset(w->values, 0x7f, w->value_bytes);
    deal_pages(w);
    rig_set_pages(w->rig, &w->pages[0][0]);
    return w;
}

static void world_close(struct world *w) {
    assert_true(rig_tickets_clear(w->rig));
    rig_close(w->rig);
    free(w->keys), free(w->values), free(w);
}

/* ---- pages, from their description in gpu.h ------------------------------------------------------------------------- */

struct row_place {
    uint8_t *row;
    uint16_t *scales;
};

static struct row_place row_at(const struct world *w, bool value, uint32_t sequence, uint32_t head, uint64_t position) {
    const enum gpu_kv kind = value ? w->spec.kv_v : w->spec.kv_k;
    const uint64_t dh = w->spec.head_dim, row_bytes = kind == GPU_KV_F16 ? 2 * dh : kind == GPU_KV_Q8_0 ? dh : dh / 2;
    uint8_t *page = (value ? w->values : w->keys) + w->pages[sequence][position / GPU_PAGE_TOKENS] * rig_page_bytes(&w->spec, kind);
    const uint64_t row = head * (uint64_t)GPU_PAGE_TOKENS + position % GPU_PAGE_TOKENS;
    return (struct row_place){page + row * row_bytes,
                              (uint16_t *)(page + w->spec.kv_heads * (uint64_t)GPU_PAGE_TOKENS * row_bytes) + row * (dh / 32)};
}

static void put_row(const struct world *w, bool value, uint32_t sequence, uint32_t head, uint64_t position, const double *x) {
    const enum gpu_kv kind = value ? w->spec.kv_v : w->spec.kv_k;
    const struct row_place p = row_at(w, value, sequence, head, position);
    for (uint32_t i = 0; i < w->spec.head_dim; i++)
        if (kind == GPU_KV_F16) ((uint16_t *)p.row)[i] = f32_to_f16((float)x[i]);
    for (uint32_t g = 0; kind != GPU_KV_F16 && g < w->spec.head_dim / 32; g++) {
        const double *v = x + 32 * g;
        double furthest = 0;
        for (int i = 0; i < 32; i++)
            if (fabs(v[i]) > fabs(furthest)) furthest = v[i];
        p.scales[g] = f32_to_f16((float)(kind == GPU_KV_Q8_0 ? fabs(furthest) / 127 : furthest / -8));
        const double d = f16_to_f32(p.scales[g]);
        int q[32];
        for (int i = 0; i < 32; i++) q[i] = d != 0 ? (int)lrint(v[i] / d) : 0;
        for (int i = 0; i < 32; i++)
            if (kind == GPU_KV_Q8_0) p.row[32 * g + i] = (uint8_t)(q[i] > 127 ? 127 : q[i] < -127 ? -127 : q[i]);
        for (int i = 0; i < 32; i++) q[i] = q[i] > 7 ? 7 : q[i] < -8 ? -8 : q[i];
        for (int i = 0; i < 16; i++)
            if (kind == GPU_KV_Q4_0) p.row[16 * g + i] = (uint8_t)((q[i] + 8) | (q[i + 16] + 8) << 4);
    }
}

static void get_row(const struct world *w, bool value, uint32_t sequence, uint32_t head, uint64_t position, double *x) {
    const enum gpu_kv kind = value ? w->spec.kv_v : w->spec.kv_k;
    const struct row_place p = row_at(w, value, sequence, head, position);
    for (uint32_t i = 0; i < w->spec.head_dim; i++) {
        if (kind == GPU_KV_F16) {
            x[i] = f16_to_f32(((const uint16_t *)p.row)[i]);
            continue;
        }
        const double d = f16_to_f32(p.scales[i / 32]);
        const uint8_t byte = p.row[i / 32 * 16 + i % 16];
        x[i] = kind == GPU_KV_Q8_0 ? d * (int8_t)p.row[i] : d * ((i % 32 < 16 ? byte & 15 : byte >> 4) - 8);
        x[i] = f16_to_f32(f32_to_f16((float)x[i])); /* the kernels multiply in binary16 */
    }
}

/* Rows [0, length) of a sequence become random; the device gets them with send(). */
static void fill(struct world *w, uint32_t sequence, uint64_t length, float gain) {
    double x[MAX_DH];
    for (uint64_t p = 0; p < length; p++)
        for (uint32_t h = 0; h < 2 * w->spec.kv_heads; h++) {
            for (uint32_t i = 0; i < w->spec.head_dim; i++) x[i] = (h % 2 ? 1 : gain) * normal(&w->random);
            put_row(w, h % 2, sequence, h / 2, p, x);
        }
}

static void send(struct world *w) { rig_write(w->rig, w->keys, w->values); }

/* ---- the oracle ------------------------------------------------------------------------------------------------------- */

static void norm_rotate(const struct world *w, const float *in, const float *gain, uint64_t position, double *x) {
    const uint32_t dh = w->spec.head_dim, half = dh / 2;
    double squares = 0;
    for (uint32_t i = 0; i < dh; i++) squares += (double)in[i] * in[i];
    for (uint32_t i = 0; i < dh; i++) x[i] = gain[i] * (in[i] / sqrt(squares / dh + (double)w->spec.eps));
    for (uint32_t i = 0; i < half; i++) {
        const double angle = (double)position * w->frequency[i], c = cos(angle) * w->spec.magnitude, s = sin(angle) * w->spec.magnitude;
        const double a = x[i], b = x[i + half];
        x[i] = a * c - b * s, x[i + half] = a * s + b * c;
    }
}

static size_t row_floats(const struct world *w) { return (size_t)(w->spec.heads + 2 * w->spec.kv_heads) * w->spec.head_dim; }

/* k and v of one token, to their place in the pages. */
static void append(const struct world *w, const float *qkv, uint32_t sequence, uint64_t position) {
    double x[MAX_DH];
    for (uint32_t h = 0; h < w->spec.kv_heads; h++) {
        const float *k = qkv + (size_t)(w->spec.heads + h) * w->spec.head_dim, *v = k + (size_t)w->spec.kv_heads * w->spec.head_dim;
        norm_rotate(w, k, w->k_norm, position, x);
        put_row(w, false, sequence, h, position, x);
        for (uint32_t i = 0; i < w->spec.head_dim; i++) x[i] = v[i];
        put_row(w, true, sequence, h, position, x);
    }
}

/* Head `head` of a token at `position`, over the pages. Returns the bound of the device's error for each value of it: weights'
 * rounding and binary32 take 3 * 2^-11 of the largest value; a query or a new key rounded to the other neighbour moves the scores by
 * 2^-11 of one product, at most a few of them at once, which counts as often as scores differ: twice. */
static double attend(const struct world *w, const float *qkv, uint32_t sequence, uint64_t position, uint32_t head, double *out) {
    const uint32_t dh = w->spec.head_dim, kv_head = head / (w->spec.heads / w->spec.kv_heads);
    const double scale = 1.4426950408889634 / sqrt(dh);
    double q[MAX_DH], x[MAX_DH], largest = -INFINITY, sum = 0, product = 0, value = 0;
    double *score = sure(malloc((position + 1) * sizeof *score));
    norm_rotate(w, qkv + (size_t)head * dh, w->q_norm, position, q);
    for (uint32_t i = 0; i < dh; i++) q[i] = w->exact_queries ? q[i] * scale : f16_to_f32(f32_to_f16((float)(q[i] * scale)));
    for (uint64_t p = 0; p <= position; p++) {
        get_row(w, false, sequence, kv_head, p, x);
        score[p] = 0;
        for (uint32_t i = 0; i < dh; i++) score[p] += q[i] * x[i], product = fmax(product, fabs(q[i] * x[i]));
        largest = fmax(largest, score[p]);
    }
    for (uint32_t i = 0; i < dh; i++) out[i] = 0;
    for (uint64_t p = 0; p <= position; p++) {
        const double weight = exp2(score[p] - largest);
        get_row(w, true, sequence, kv_head, p, x);
        sum += weight;
        for (uint32_t i = 0; i < dh; i++) out[i] += weight * x[i], value = fmax(value, fabs(x[i]));
    }
    for (uint32_t i = 0; i < dh; i++) out[i] /= sum;
    free(score);
    return HALF_ULP * value * (3 + 4 * product);
}

/* Compares n values; the worst error in multiples of the bound. */
static void compare(const double *want, const float *have, uint32_t n, double bound, const char *what, uint64_t position, uint32_t head) {
    for (uint32_t i = 0; i < n; i++)
        if (!(fabs(want[i] - (double)have[i]) <= bound))
            fail_test("%s: position %llu, head %u, value %u: %g for %g, more than %g off", what, (unsigned long long)position, head, i,
                      (double)have[i], want[i], bound);
}

/* ---- steps ------------------------------------------------------------------------------------------------------------- */

static float *random_rows(struct world *w, uint32_t n) {
    float *qkv = sure(malloc(n * row_floats(w) * sizeof *qkv));
    for (size_t i = 0; i < n * row_floats(w); i++) qkv[i] = normal(&w->random);
    return qkv;
}

/* A quantized or rounded row that may have gone to the other neighbour: compare what it means, to one unit of rounding. */
static void compare_row(const struct world *w, const struct world *device, bool value, uint32_t sequence, uint32_t head, uint64_t position) {
    double a[MAX_DH], b[MAX_DH], largest = 0;
    const enum gpu_kv kind = value ? w->spec.kv_v : w->spec.kv_k;
    get_row(w, value, sequence, head, position, a), get_row(device, value, sequence, head, position, b);
    for (uint32_t i = 0; i < w->spec.head_dim; i++) largest = fmax(largest, fabs(a[i]));
    for (uint32_t i = 0; i < w->spec.head_dim; i++) {
        const double unit = kind == GPU_KV_F16 ? fabs(a[i]) * 2 * HALF_ULP + 0x1p-24 : largest / (kind == GPU_KV_Q8_0 ? 120 : 7);
        if (!(fabs(a[i] - b[i]) <= unit)) fail_test("%s of position %llu, head %u, %u: %g for %g", value ? "value" : "key", (unsigned long long)position, head, i, b[i], a[i]);
    }
}

/* The device's pools are the oracle's, but for the rounding of the rows of `tokens`, which the oracle takes over. */
static void check_pages(struct world *w, uint32_t n, const struct rig_token *tokens) {
    struct world device = *w;
    device.keys = sure(malloc(w->key_bytes)), device.values = sure(malloc(w->value_bytes));
    rig_read(w->rig, device.keys, device.values);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < 2 * w->spec.kv_heads; h++) {
            const bool value = h % 2;
            const enum gpu_kv kind = value ? w->spec.kv_v : w->spec.kv_k;
            const uint32_t dh = w->spec.head_dim;
            compare_row(w, &device, value, tokens[t].sequence, h / 2, tokens[t].position);
            const struct row_place to = row_at(w, value, tokens[t].sequence, h / 2, tokens[t].position),
                                   from = row_at(&device, value, tokens[t].sequence, h / 2, tokens[t].position);
            memcpy(to.row, from.row, kind == GPU_KV_F16 ? 2 * dh : kind == GPU_KV_Q8_0 ? dh : dh / 2);
            if (kind != GPU_KV_F16) memcpy(to.scales, from.scales, dh / 32 * sizeof *to.scales);
        }
    assert_memory_equal(w->keys, device.keys, w->key_bytes);
    assert_memory_equal(w->values, device.values, w->value_bytes);
    free(device.keys), free(device.values);
}

/* One step: floats against the oracle, pages against the oracle, int8 against the CPU's rounding of the floats. */
static void step(struct world *w, uint32_t launched, uint32_t n, const struct rig_token *tokens, const char *what) {
    const uint32_t dh = w->spec.head_dim;
    const size_t width = (size_t)w->spec.heads * dh, all = launched * width;
    float *qkv = random_rows(w, launched), *floats = sure(malloc(all * sizeof *floats));
    rig_step(w->rig, launched, n, tokens, qkv, &(struct rig_step_out){.floats = floats});
    for (uint32_t t = 0; t < n; t++) append(w, qkv + t * row_floats(w), tokens[t].sequence, tokens[t].position);
    check_pages(w, n, tokens);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < w->spec.heads; h++) {
            double want[MAX_DH];
            const double bound = attend(w, qkv + t * row_floats(w), tokens[t].sequence, tokens[t].position, h, want);
            compare(want, floats + t * width + h * dh, dh, bound, what, tokens[t].position, h);
        }
    for (size_t i = n * width; i < all; i++) assert_true(floats[i] == 0);
    free(qkv), free(floats);
}

/* Positions around the borders of tiles (64), pages (256) and the warps' parts of a tile (16). */
static void lengths(enum gpu_kv kind, uint32_t dh) {
    static const uint32_t positions[] = {0, 1, 15, 16, 31, 47, 62, 63, 64, 65, 127, 128, 255, 256, 257, 511, 512, 640, 999};
    struct world *w = world_open(8, 1, dh, 3, kind, kind, 1);
    fill(w, 0, 999, 1);
    for (size_t i = sizeof positions / sizeof *positions; i-- > 0;) { /* falling: what was appended before is beyond the end */
        send(w);
        step(w, 1, 1, &(struct rig_token){positions[i], 0}, "length");
    }
    world_close(w);
}

static void test_lengths_128(void **state) { (void)state, lengths(GPU_KV_F16, 128); }
static void test_lengths_64(void **state) { (void)state, lengths(GPU_KV_F16, 64); }
static void test_lengths_32(void **state) { (void)state, lengths(GPU_KV_F16, 32); }

/* More splits than tiles leave some without any; one split has all. */
static void test_splits(void **state) {
    (void)state;
    static const uint32_t splits[] = {1, 2, 7, 33}, positions[] = {3, 200, 449};
    for (size_t s = 0; s < 4; s++) {
        struct world *w = world_open(16, 2, 64, splits[s], GPU_KV_F16, GPU_KV_F16, 1);
        fill(w, 1, 450, 1);
        for (size_t i = 3; i-- > 0;) {
            send(w);
            step(w, 1, 1, &(struct rig_token){positions[i], 1}, "splits");
        }
        world_close(w);
    }
}

/* Any group of 1 to 16 heads, any number of tokens, all of one sequence and across the border of two tiles. */
static void test_groups(void **state) {
    (void)state;
    for (uint32_t group = 1; group <= 16; group++) {
        struct world *w = world_open(2 * group, 2, group % 3 == 0 ? 32 : 64, 2, GPU_KV_F16, GPU_KV_F16, 1);
        fill(w, 2, 60, 1);
        for (uint32_t n = 8; n > 0; n /= 2) {
            struct rig_token tokens[8];
            for (uint32_t i = 0; i < n; i++) tokens[i] = (struct rig_token){60 + i, 2};
            send(w);
            step(w, n, n, tokens, "groups");
        }
        world_close(w);
    }
}

/* Sequences of one, two and three tokens in one step, some new, one across the border of two pages, in turns. */
static void sequences(uint32_t heads, uint32_t kv_heads, uint32_t dh, enum gpu_kv kind_k, enum gpu_kv kind_v, uint32_t splits) {
    static const struct rig_token tokens[] = {{254, 4}, {700, 0}, {255, 4}, {0, 3}, {701, 0}, {256, 4}, {63, 5}, {1, 3}};
    struct world *w = world_open(heads, kv_heads, dh, splits, kind_k, kind_v, 1);
    fill(w, 4, 254, 1), fill(w, 0, 700, 1), fill(w, 5, 63, 1);
    static const uint32_t counts[] = {8, 4, 2, 1};
    for (size_t i = 0; i < 4; i++) {
        send(w);
        step(w, counts[i], counts[i], tokens, "sequences");
    }
    world_close(w);
}

static void test_sequences(void **state) {
    (void)state;
    sequences(16, 2, 128, GPU_KV_F16, GPU_KV_F16, 5);
    sequences(15, 5, 64, GPU_KV_F16, GPU_KV_F16, 3);
    sequences(16, 1, 32, GPU_KV_F16, GPU_KV_F16, 4);
}

/* A command with fewer tokens than the launch: the others become 0 and touch nothing. */
static void test_padding(void **state) {
    (void)state;
    for (uint32_t group = 4; group <= 16; group *= 2) {
        struct world *w = world_open(2 * group, 2, 64, 3, GPU_KV_F16, GPU_KV_F16, 1);
        fill(w, 1, 100, 1);
        send(w);
        step(w, 8, 3, (const struct rig_token[]){{100, 1}, {0, 2}, {101, 1}}, "padding");
        step(w, 2, 1, (const struct rig_token[]){{102, 1}}, "padding");
        step(w, 4, 0, NULL, "padding");
        world_close(w);
    }
}

/* Int8 is the CPU's rounding of the floats, to the byte; and a step done twice is the same to the byte. */
static void test_acts(void **state) {
    (void)state;
    static const uint32_t dims[] = {32, 64, 128};
    struct cpu_ops ops;
    cpu_ops_init(&ops, ISA_REF);
    for (size_t i = 0; i < 3; i++) {
        struct world *w = world_open(8, 2, dims[i], 3, GPU_KV_F16, GPU_KV_F16, 1);
        const size_t width = 8 * dims[i], all = 2 * width;
        const struct rig_token tokens[] = {{150, 1}, {151, 1}};
        fill(w, 1, 150, 1);
        send(w);
        float *qkv = random_rows(w, 2), *floats = sure(malloc(all * sizeof(float))), *again = sure(malloc(all * sizeof(float)));
        for (uint32_t c = 0; c < 32; c++) qkv[(8 + 2) * dims[i] + c] *= 0x1p-120f; /* values too small for int8 */
        rig_step(w->rig, 2, 2, tokens, qkv, &(struct rig_step_out){.floats = floats});
        rig_step(w->rig, 2, 2, tokens, qkv, &(struct rig_step_out){.floats = again});
        assert_memory_equal(floats, again, all * sizeof(float));
        struct rig_step_out have = {NULL, sure(malloc(all)), sure(malloc(all / 8)), sure(malloc(all / 8)), sure(malloc(all / 4))};
        struct acts want = {.f32 = floats, .q = sure(malloc(all)), .d = sure(malloc(all / 8)), .s32 = sure(malloc(all / 8)),
                            .sum16 = sure(malloc(all / 4)), .k = width, .n = 2};
        rig_step(w->rig, 2, 2, tokens, qkv, &have);
        ops.quantize(&want, 0, 2);
        assert_memory_equal(have.q, want.q, all);
        assert_memory_equal(have.d, want.d, all / 8);
        assert_memory_equal(have.s32, want.s32, all / 8);
        assert_memory_equal(have.sum16, want.sum16, all / 4);
        free(qkv), free(floats), free(again), free(have.q), free(have.d), free(have.s32), free(have.sum16);
        free((void *)want.q), free((void *)want.d), free((void *)want.s32), free((void *)want.sum16);
        world_close(w);
    }
}

/* Scores of some thousands, of either sign: finite, and still the oracle's. */
static void test_large_scores(void **state) {
    (void)state;
    struct world *w = world_open(8, 1, 128, 3, GPU_KV_F16, GPU_KV_F16, 16);
    fill(w, 0, 300, 16);
    send(w);
    step(w, 2, 2, (const struct rig_token[]){{300, 0}, {301, 0}}, "large scores");
    world_close(w);
}

/* What rounding queries and weights to binary16 costs, measured in what rounding keys and values costs: exact here is a cache in
 * double. The device may add as much again as the cache's rounding does. */
static void test_error_against_cache_rounding(void **state) {
    (void)state;
    enum { LENGTH = 200, DH = 128, HEADS = 8 };
    struct world *w = world_open(HEADS, 1, DH, 2, GPU_KV_F16, GPU_KV_F16, 1);
    double *exact_k = sure(malloc(sizeof(double) * LENGTH * DH)), *exact_v = sure(malloc(sizeof(double) * LENGTH * DH));
    for (size_t i = 0; i < LENGTH * DH; i++) exact_k[i] = 1.1 * normal(&w->random), exact_v[i] = normal(&w->random);
    for (uint32_t p = 0; p < LENGTH; p++) put_row(w, false, 0, 0, p, exact_k + p * DH), put_row(w, true, 0, 0, p, exact_v + p * DH);
    send(w);
    float *qkv = random_rows(w, 1), floats[HEADS * DH];
    rig_step(w->rig, 1, 1, &(struct rig_token){LENGTH - 1, 0}, qkv, &(struct rig_step_out){.floats = floats});
    append(w, qkv, 0, LENGTH - 1);
    norm_rotate(w, qkv + HEADS * DH, w->k_norm, LENGTH - 1, exact_k + (LENGTH - 1) * DH);
    for (uint32_t i = 0; i < DH; i++) exact_v[(LENGTH - 1) * DH + i] = qkv[(HEADS + 1) * DH + i];
    w->exact_queries = true;
    double cache = 0, device = 0;
    for (uint32_t h = 0; h < HEADS; h++) {
        double rounded[DH], q[DH], exact[DH] = {0}, sum = 0;
        attend(w, qkv, 0, LENGTH - 1, h, rounded);
        norm_rotate(w, qkv + h * DH, w->q_norm, LENGTH - 1, q);
        for (uint32_t p = 0; p < LENGTH; p++) {
            double score = 0;
            for (uint32_t i = 0; i < DH; i++) score += q[i] * exact_k[p * DH + i];
            const double weight = exp(score / sqrt(DH));
            sum += weight;
            for (uint32_t i = 0; i < DH; i++) exact[i] += weight * exact_v[p * DH + i];
        }
        for (uint32_t i = 0; i < DH; i++) {
            cache += pow(rounded[i] - exact[i] / sum, 2);
            device += pow(floats[h * DH + i] - rounded[i], 2);
        }
    }
    print_message("error of the device beside that of a binary16 cache: %.2f\n", sqrt(device / cache));
    assert_true(cache > 0 && device <= cache);
    free(exact_k), free(exact_v), free(qkv);
    world_close(w);
}

/* Angles at positions up to 2^24, against long double; and up to the last one of a million, what binary32 would have made of them. */
static void test_turns(void **state) {
    (void)state;
    static const uint32_t positions[] = {0, 1, 2, 3, 5, 1000, 4097, 32767, 131072, 262143, 262144, 999999, 1000003, 1048575, 1048576, 16777215};
    enum { N = sizeof positions / sizeof *positions };
    double worst = 0, worst_million = 0, worst_float = 0;
    for (int i = 0; i <= 65; i++) {
        /* Pair 20 of Qwen3-2507 with YaRN by 4 lies on the ramp. */
        const double frequency = i == 64 ? 40.0 : i == 65 ? pow(1e7, -40 / 128.0) * (0.25 + 0.75 * 0.6) : pow(1e6, -i / 64.0), magnitude = 1.1;
        float c[N], s[N];
        rig_turns(N, positions, frequency, (float)magnitude, c, s);
        for (int p = 0; p < N; p++) {
            const long double angle = (long double)positions[p] * frequency;
            const double off = fmax(fabs((double)(c[p] - cosl(angle) * magnitude)), fabs((double)(s[p] - sinl(angle) * magnitude)));
            worst = fmax(worst, off);
            if (positions[p] > 1048576) continue;
            worst_million = fmax(worst_million, off);
            worst_float = fmax(worst_float, fabs((double)(cosl((float)positions[p] * (float)frequency) - cosl(angle))));
        }
    }
    print_message("cos and sin at most %.2e off up to 2^20, %.2e up to 2^24; with angles in binary32 %.2e\n", worst_million, worst, worst_float);
    assert_true(worst < 1.6e-7);
    assert_true(worst_float > 1e-3);
}

/* ---- quantized pages --------------------------------------------------------------------------------------------------- */

static void test_q8_0(void **state) {
    (void)state;
    sequences(16, 2, 128, GPU_KV_Q8_0, GPU_KV_Q8_0, 3);
    sequences(8, 2, 64, GPU_KV_Q8_0, GPU_KV_F16, 2);
    sequences(8, 1, 32, GPU_KV_Q8_0, GPU_KV_Q8_0, 2);
}

static void test_q4_0(void **state) {
    (void)state;
    sequences(16, 2, 128, GPU_KV_Q4_0, GPU_KV_Q4_0, 3);
    sequences(8, 2, 64, GPU_KV_Q8_0, GPU_KV_Q4_0, 2);
    sequences(8, 1, 32, GPU_KV_Q4_0, GPU_KV_Q8_0, 2);
}

/* ---- prompts ------------------------------------------------------------------------------------------------------------ */

static void batch(struct world *w, uint32_t sequence, uint64_t first, uint32_t n) {
    const uint32_t dh = w->spec.head_dim;
    const size_t width = (size_t)w->spec.heads * dh;
    float *qkv = random_rows(w, n);
    uint16_t *out = sure(malloc(n * width * sizeof *out));
    struct rig_token tokens[BATCH] = {{0, 0}};
    rig_batch(w->rig, sequence, first, n, qkv, out);
    for (uint32_t t = 0; t < n; t++) {
        tokens[t] = (struct rig_token){(uint32_t)(first + t), sequence};
        append(w, qkv + t * row_floats(w), sequence, first + t);
    }
    check_pages(w, n, tokens);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t h = t % 3; h < w->spec.heads; h += n > 20 ? 3 : 1) {
            double want[MAX_DH];
            float have[MAX_DH];
            const double bound = attend(w, qkv + t * row_floats(w), sequence, first + t, h, want);
            for (uint32_t i = 0; i < dh; i++) have[i] = f16_to_f32(out[t * width + h * dh + i]);
            compare(want, have, dh, bound, "prompt", first + t, h);
        }
    free(qkv), free(out);
}

/* A prompt in batches that continue each other: each sees the pages of those before. splits 1: with blocks of 128 rows. */
static void prompt(uint32_t heads, uint32_t kv_heads, uint32_t dh, uint32_t splits, enum gpu_kv kind) {
    static const uint32_t sizes[] = {1, 7, 56, 64, 65, 70};
    struct world *w = world_open(heads, kv_heads, dh, splits, kind, kind, 1);
    send(w);
    uint64_t first = 0;
    for (size_t i = 0; i < 6; first += sizes[i++]) batch(w, 1, first, sizes[i]);
    step(w, 1, 1, &(struct rig_token){(uint32_t)first, 1}, "a step after a prompt");
    world_close(w);
}

static void test_prompts(void **state) {
    (void)state;
    prompt(8, 1, 128, 1, GPU_KV_F16);
    prompt(8, 1, 128, 99, GPU_KV_F16);
    prompt(4, 2, 32, 1, GPU_KV_F16);
    prompt(4, 2, 32, 99, GPU_KV_F16);
    prompt(5, 1, 64, 1, GPU_KV_F16);
    prompt(2, 2, 64, 99, GPU_KV_F16);
    prompt(16, 1, 64, 4, GPU_KV_F16);
}

static void test_quantized_prompts(void **state) {
    (void)state;
    prompt(8, 1, 64, 1, GPU_KV_Q8_0);
    prompt(4, 1, 128, 1, GPU_KV_Q4_0);
    prompt(4, 2, 32, 1, GPU_KV_Q8_0);
}

static void test_refusals(void **state) {
    (void)state;
    struct gpu_network_options o = {.shape = {.n_heads = 32, .n_kv_heads = 4, .head_dim = 128}};
    struct reason why;
    assert_int_equal(rig_check(&o, &why), ERR_NONE);
    o.shape.head_dim = 96;
    assert_int_equal(rig_check(&o, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.text, "heads of 32, 64 and 128, not 96"));
    o.shape.head_dim = 64, o.shape.n_kv_heads = 1;
    assert_int_equal(rig_check(&o, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.text, "at most 16 query heads, not 32 heads among 1"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns),         cmocka_unit_test(test_lengths_128),
        cmocka_unit_test(test_lengths_64),    cmocka_unit_test(test_lengths_32),
        cmocka_unit_test(test_splits),        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_sequences),     cmocka_unit_test(test_padding),
        cmocka_unit_test(test_acts),          cmocka_unit_test(test_large_scores),
        cmocka_unit_test(test_error_against_cache_rounding),
        cmocka_unit_test(test_q8_0),          cmocka_unit_test(test_q4_0),
        cmocka_unit_test(test_prompts),       cmocka_unit_test(test_quantized_prompts),
        cmocka_unit_test(test_refusals),
    };
    if (!rig_has_device()) {
        print_message("no GPU here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
