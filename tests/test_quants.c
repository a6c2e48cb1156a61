/* Weight formats: golden decoding bit for bit, golden dot products, and every kernel variant against the reference and
 * against exact arithmetic: odd sizes, misaligned rows, outliers, extreme blocks, slices, index lists, guarded outputs. */
#include "tests/support/check.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/codebooks.h"
#include "core/json.h"
#include "cpu/cpu.h"
#include "tests/support/files.h"
#include "tests/support/sample.h"

enum { NONE = -1, GUARD = 64 };

/* A format under test. Where a block has no binary16 scale, set_scale() knows what it has. */
static const struct subject {
    enum tensor_type type;
    const char *golden;  /* name of its golden files */
    int scale, offset;   /* places of the binary16 d and dmin (m) in a block, or NONE */
    bool peer_saturates; /* dots.json holds wrong sums for it: docs of the GGUF format, "saturation defect" */
} subjects[] = {
    {TYPE_F32, "f32", NONE, NONE, false},
    {TYPE_F16, "f16", NONE, NONE, false},
    {TYPE_BF16, "bf16", NONE, NONE, false},
    {TYPE_Q4_0, "q4_0", 0, NONE, false},
    {TYPE_Q4_1, "q4_1", 0, 2, false},
    {TYPE_Q5_0, "q5_0", 0, NONE, false},
    {TYPE_Q5_1, "q5_1", 0, 2, false},
    {TYPE_Q6_0, "q6_0", 0, NONE, false},
    {TYPE_Q8_0, "q8_0", 0, NONE, false},
    {TYPE_Q2_K, "q2_K", 80, 82, false},
    {TYPE_Q3_K, "q3_K", 108, NONE, false},
    {TYPE_Q4_K, "q4_K", 0, 2, false},
    {TYPE_Q5_K, "q5_K", 0, 2, false},
    {TYPE_Q6_K, "q6_K", 208, NONE, false},
    {TYPE_IQ2_XXS, "iq2_xxs", 0, NONE, false},
    {TYPE_IQ2_XS, "iq2_xs", 0, NONE, false},
    {TYPE_IQ2_S, "iq2_s", 0, NONE, false},
    {TYPE_IQ3_XXS, "iq3_xxs", 0, NONE, false},
    {TYPE_IQ3_S, "iq3_s", 0, NONE, false},
    {TYPE_IQ1_S, "iq1_s", 0, NONE, false},
    {TYPE_IQ1_M, "iq1_m", NONE, NONE, false},
    {TYPE_IQ4_NL, "iq4_nl", 0, NONE, false},
    {TYPE_IQ4_XS, "iq4_xs", 0, NONE, true},
    {TYPE_MXFP4, "mxfp4", NONE, NONE, false},
    {TYPE_IQ2_K, "iq2_k", 0, NONE, false},
    {TYPE_IQ3_K, "iq3_k", 0, NONE, false},
    {TYPE_IQ4_K, "iq4_k", 0, NONE, true},
    {TYPE_IQ5_K, "iq5_k", 0, NONE, true},
    {TYPE_IQ6_K, "iq6_k", 0, NONE, true},
    {TYPE_IQ4_KS, "iq4_ks", NONE, NONE, true},
    {TYPE_IQ4_KSS, "iq4_kss", NONE, NONE, true},
    {TYPE_IQ5_KS, "iq5_ks", NONE, NONE, true},
    {TYPE_IQ2_KS, "iq2_ks", NONE, NONE, false},
    {TYPE_IQ3_KS, "iq3_ks", NONE, NONE, false},
    {TYPE_IQ2_KL, "iq2_kl", NONE, NONE, false},
};
enum { N_SUBJECTS = sizeof subjects / sizeof *subjects };

static size_t row_bytes_of(enum tensor_type type, size_t k) {
    uint64_t bytes = 0;
    assert_true(tensor_row_bytes(type, k, &bytes));
    return bytes;
}

static const char *type_name(enum tensor_type type) { return tensor_type_info(type)->name; }

/* ---- golden data ------------------------------------------------------------------------------------------------ */

static uint8_t *find_block(const char *folder, const char *name, const char *suffix, size_t *bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix);
    for (char *c = path + strlen(folder); *c; c++) /* the index writes q4_K; the copies are all lower case */
        if (!strncmp(folder, TESTS_DIR, strlen(TESTS_DIR)) && *c == 'K') *c = 'k';
    return read_block(path, bytes);
}

/* Rows of 512 weights in <name>.bin must decode to <name>.f32 (f32 without one: to itself) in every variant. IQ6_K has one more
 * decoding than its levels, which nothing computes with: its file is <name>.table.f32. */
static void check_decoding(const char *folder, const char *name, enum tensor_type type) {
    size_t bin_bytes, f32_bytes;
    uint8_t *bin = find_block(folder, name, ".bin", &bin_bytes);
    if (!bin) fail_test("%s/%s.bin is missing", folder, name);
    uint8_t *f32 = find_block(folder, name, type == TYPE_IQ6_K ? ".table.f32" : ".f32", &f32_bytes);
    if (!f32 && type == TYPE_F32) f32 = find_block(folder, name, ".bin", &f32_bytes);
    assert_non_null(f32);
    const size_t row_bytes = row_bytes_of(type, 512), rows = bin_bytes / row_bytes;
    assert_int_equal(f32_bytes, rows * 2048);
    for (enum cpu_isa isa = ISA_REF; isa <= cpu_isa_best(); isa++) {
        struct cpu_ops ops;
        cpu_ops_init(&ops, isa);
        for (size_t r = 0; r < rows; r++) {
            float out[512];
            ops.types[type].dequant(bin + r * row_bytes, out, 512);
            for (int i = 0; i < 512; i++) {
                float want;
                memcpy(&want, f32 + r * 2048 + 4 * i, 4);
                if (!(out[i] == want || (isnan(out[i]) && isnan(want))))
                    fail_test("%s (%s) row %zu weight %d: %.9g, golden %.9g", name, cpu_isa_name(isa), r, i, (double)out[i],
                              (double)want);
            }
        }
    }
    free(bin);
    free(f32);
}

static void decoding_is_exact(void **state) {
    (void)state;
    for (int t = 0; t < N_SUBJECTS; t++) check_decoding(TESTS_DIR "/golden/gguf", subjects[t].golden, subjects[t].type);
    size_t bytes;
    uint8_t *index = find_block(SHARED_DIR "/golden/gguf", "index", ".json", &bytes);
    if (!index) {
        print_message("[  SKIP  ] %s/golden/gguf is absent: only the small copy was checked\n", SHARED_DIR);
        return;
    }
    free(index);
    for (int t = 0; t < N_SUBJECTS; t++) {
        char random[32];
        snprintf(random, sizeof random, "%s.rand", subjects[t].golden);
        check_decoding(SHARED_DIR "/golden/gguf", subjects[t].golden, subjects[t].type);
        check_decoding(SHARED_DIR "/golden/gguf", random, subjects[t].type);
    }
}

/* Every type of the table that a network's weights can have is under test, but EXL3, which has tests of its own. */
static void every_type_is_a_subject(void **state) {
    (void)state;
    for (int type = 0; type < TYPE_COUNT; type++) {
        bool found = (type >= TYPE_I8 && type <= TYPE_F64) || tensor_type_info((enum tensor_type)type)->gguf_id >= TENSOR_OWN_ID;
        for (int t = 0; t < N_SUBJECTS; t++) found = found || subjects[t].type == (enum tensor_type)type;
        if (!found) fail_test("%s is not tested", type_name((enum tensor_type)type));
    }
}

/* The tables, as sums over their bytes (FNV-1a); and the bytes themselves, where the golden data is. */
static void codebooks_are_golden(void **state) {
    (void)state;
    static const struct {
        const char *golden;
        const void *data;
        size_t bytes;
        uint64_t sum;
    } tables[] = {
#define TABLE(name, table, sum) {name, table, sizeof table, sum}
        TABLE("iq2xxs_grid", codebook_iq2xxs, 0xbb4ee025b5ac6e8e),
        TABLE("iq2xs_grid", codebook_iq2xs, 0xc9b1ee61e79909bd),
        TABLE("iq2s_grid", codebook_iq2s, 0x123edd38a3b62b90),
        TABLE("iq1s_grid", codebook_iq1s, 0x6703ed863501ae2e),
        TABLE("iq3xxs_grid", codebook_iq3xxs, 0xdfa5dc83d6a155d5),
        TABLE("iq3s_grid", codebook_iq3s, 0xfa37020c25b44829),
        TABLE("ksigns", codebook_signs, 0xf19ba8f8c3292ba5),
        TABLE("iq2k_values", codebook_v2, 0x1b6695d049339c11),
        TABLE("iq3k_values", codebook_v3, 0xe3f64d5c03824425),
        TABLE("iq4k_values", codebook_v4, 0xd236aecb96323a3d),
        TABLE("iq5k_values", codebook_v5, 0xf93e7fdd55d1eaa1),
        TABLE("iq6k_values", codebook_v6, 0xa7d4385c77e53635),
        TABLE("iq2kl_values", codebook_kl, 0x22c8ca2aaba350ec),
        TABLE("kvalues_mxfp4", codebook_mxfp4, 0x3f0e3c08af1e5eb5),
#undef TABLE
    };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        const uint8_t *bytes = tables[i].data;
        uint64_t sum = 0xcbf29ce484222325;
        for (size_t at = 0; at < tables[i].bytes; at++) sum = (sum ^ bytes[at]) * 0x100000001b3;
        if (sum != tables[i].sum) fail_test("%s: the sum is %#llx", tables[i].golden, (unsigned long long)sum);
        size_t golden_bytes;
        uint8_t *golden = find_block(SHARED_DIR "/golden/gguf-tables", tables[i].golden, ".bin", &golden_bytes);
        if (!golden) continue;
        assert_int_equal(golden_bytes, tables[i].bytes);
        assert_memory_equal(golden, bytes, golden_bytes);
        free(golden);
    }
}

/* ---- one product, judged ---------------------------------------------------------------------------------------- */

enum weight_kind {
    RANDOM,
    MAXIMA,   /* all bits set, scales finite */
    MINIMA,   /* all bits clear but the scales' */
    EXTREMES, /* nibbles of 0 and 15 */
    ZEROS,
    TINY_SCALES,
    HUGE_SCALES,
    WEIGHT_KINDS
};
enum act_kind { NORMAL, OUTLIERS, CONSTANT, ACT_ZEROS, ACT_KINDS };

struct product {
    enum tensor_type type;
    size_t rows, k, n, row_bytes;
    uint8_t *w; /* rows at odd addresses */
    void *w_room, *act_room;
    struct acts x;
    float *exact; /* [rows][k] */
};

static void set_half(uint8_t *at, float v) {
    const uint16_t h = f32_to_f16(v);
    memcpy(at, &h, 2);
}

static const struct subject *subject_of(enum tensor_type type) {
    for (int t = 0; t < N_SUBJECTS; t++)
        if (subjects[t].type == type) return &subjects[t];
    fail_test("%s is no subject", type_name(type));
    return NULL;
}

/* The scale of a block of a quantized type, wherever it is: in the block, scattered over it, or in front of the row. */
static void set_scale(enum tensor_type type, uint8_t *row, uint8_t *block, float d) {
    const int at = subject_of(type)->scale;
    const uint16_t h = f32_to_f16(d);
    if (at != NONE)
        set_half(block + at, d);
    else if (type == TYPE_IQ1_M)
        for (int r = 0; r < 4; r++) block[48 + 2 * r + 1] = (uint8_t)((block[48 + 2 * r + 1] & 15) | (h >> 4 * r & 15) << 4);
    else if (type == TYPE_MXFP4)
        block[0] = (uint8_t)(isfinite(d) ? 128 + (d != 0 ? ilogbf(d) : -128) : 255);
    else if (tensor_type_info(type)->row_meta_bytes == 2)
        set_half(row, d);
    else
        memcpy(row, &d, 4);
}

static void fill_block(const struct product *p, enum weight_kind kind, uint8_t *row, uint8_t *at, uint64_t *seed) {
    static const uint8_t extremes[] = {0x00, 0x0f, 0xf0, 0xff};
    const float unit = kind == TINY_SCALES ? 1e-6f : kind == HUGE_SCALES ? 60000 : 0.01f;
    const int offset = subject_of(p->type)->offset;
    for (uint32_t i = 0; i < tensor_type_info(p->type)->block_bytes; i++) {
        const uint64_t bits = next_random(seed) >> 40;
        at[i] = kind == MAXIMA ? 255 : kind == ZEROS || kind == MINIMA ? 0 : kind == EXTREMES ? extremes[bits & 3] : (uint8_t)bits;
    }
    const float d = kind == ZEROS ? 0 : unit * (kind == MAXIMA || kind == MINIMA ? 1 : fabsf(uniform(seed)));
    switch (p->type) {
    case TYPE_F32: memcpy(at, &(float){d * uniform(seed) * 100}, 4); break;
    case TYPE_F16: set_half(at, d * uniform(seed)); break;
    case TYPE_BF16: memcpy(at, &(uint16_t){(uint16_t)(f32_to_f16(uniform(seed)) & 0xbfff)}, 2); break;
    default:
        set_scale(p->type, row, at, d);
        if (offset != NONE) /* below 3 d, where all weights of a Q2_K block of MAXIMA cancel and no sum in binary32 is exact */
            set_half(at + offset, fminf(d * fabsf(uniform(seed)) * 2, 65000));
    }
}

static void fill_weights(struct product *p, enum weight_kind kind, uint64_t *seed) {
    const struct tensor_type_info *info = tensor_type_info(p->type);
    for (size_t r = 0; r < p->rows; r++) {
        uint8_t *row = p->w + r * p->row_bytes;
        for (size_t b = 0; b < p->k / info->block_weights; b++)
            fill_block(p, kind, row, row + info->row_meta_bytes + b * info->block_bytes, seed);
    }
}

static void fill_acts(struct product *p, enum act_kind kind, uint64_t *seed) {
    float *x = (float *)p->x.f32;
    for (size_t i = 0; i < p->x.n * p->k; i++) {
        x[i] = kind == CONSTANT ? 0.5f : kind == ACT_ZEROS ? 0 : uniform(seed) * uniform(seed) * 2;
        if (kind == OUTLIERS && next_random(seed) % 97 == 0) x[i] *= 1e4f;
    }
}

/* `vectors`: how many the activations hold, at least n. */
static struct product make_product(enum tensor_type type, size_t rows, size_t k, size_t n, size_t vectors) {
    struct product p = {.type = type, .rows = rows, .k = k, .n = n};
    p.row_bytes = row_bytes_of(type, k) + 1;
    p.w_room = must_alloc(3 + rows * p.row_bytes - 1);
    p.w = (uint8_t *)p.w_room + 3;
    p.x = (struct acts){.n = vectors, .k = k, .f32 = must_alloc(vectors * k * 4)};
    p.act_room = must_alloc(acts_bytes(vectors, k));
    acts_layout(&p.x, p.act_room);
    p.exact = must_alloc(rows * k * 4);
    return p;
}

static void free_product(struct product *p) {
    free(p->w_room);
    free(p->act_room);
    free((void *)p->x.f32);
    free(p->exact);
}

/* After the weights and activations are filled. */
static void settle(struct product *p) {
    struct cpu_ops ops;
    cpu_ops_init(&ops, ISA_REF);
    for (size_t r = 0; r < p->rows; r++) ops.types[p->type].dequant(p->w + r * p->row_bytes, p->exact + r * p->k, p->k);
    if (ops.types[p->type].int8_acts) ops.quantize(&p->x, 0, p->x.n);
}

/* y[n][rows] of one variant. Outputs are poisoned first, and nothing around or outside the slice may change. */
static float *run(const struct product *p, enum cpu_isa isa, size_t begin, size_t end, const int32_t *index) {
    struct cpu_ops ops;
    cpu_ops_init(&ops, isa);
    const size_t ldy = p->rows + GUARD;
    float *y = must_alloc((GUARD + p->n * ldy) * sizeof *y), *out = must_alloc(p->n * p->rows * sizeof *out);
    const float poison = -7.75e30f;
    for (size_t i = 0; i < GUARD + p->n * ldy; i++) y[i] = poison;
    void *scratch = must_alloc(matmul_scratch_bytes(p->k));
    ops.types[p->type].matmul(&(struct matmul){.w = p->w,
                                               .row_bytes = p->row_bytes,
                                               .k = p->k,
                                               .row_begin = begin,
                                               .row_end = end,
                                               .x = &p->x,
                                               .index = index,
                                               .n = p->n,
                                               .y = y + GUARD,
                                               .ldy = ldy,
                                               .scratch = scratch});
    for (size_t i = 0; i < GUARD; i++) assert_true(y[i] == poison);
    for (size_t v = 0; v < p->n; v++)
        for (size_t r = 0; r < ldy; r++) {
            const float got = y[GUARD + v * ldy + r];
            const bool wanted = r >= begin && r < end;
            if (wanted == (got == poison))
                fail_test("%s (%s) rows [%zu,%zu) k %zu n %zu: output %zu of vector %zu was %s", type_name(p->type),
                          cpu_isa_name(isa), begin, end, p->k, p->n, r, v, wanted ? "not written" : "overwritten");
            if (r < p->rows) out[v * p->rows + r] = got;
        }
    free(y);
    free(scratch);
    return out;
}

/* The exact product with the unrounded activations, and the size of its terms: the largest weight of each 32 times the sum
 * of magnitudes, because formats with a minimum add terms that are larger than the weights they cancel to. */
static void exact_dot(const struct product *p, size_t r, size_t v, double *dot, double *size) {
    const float *w = p->exact + r * p->k, *x = p->x.f32 + v * p->k;
    *dot = *size = 0;
    for (size_t g = 0; g < p->k; g += 32) {
        double most = 0, sum = 0;
        for (size_t c = g; c < g + 32 && c < p->k; c++) {
            *dot += (double)w[c] * x[c];
            most = fmax(most, fabs((double)w[c]));
            sum += fabs((double)x[c]);
        }
        *size += most * sum;
    }
}

/* Against exact arithmetic the error is at most twice the reference's; against the reference only summation order differs. */
static void judge(const struct product *p, enum cpu_isa isa, const float *ref, const float *got, const int32_t *index,
                  const char *what) {
    for (size_t v = 0; v < p->n; v++)
        for (size_t r = 0; r < p->rows; r++) {
            double dot, size;
            exact_dot(p, r, index ? (size_t)index[v] : v, &dot, &size);
            const double a = ref[v * p->rows + r], b = got[v * p->rows + r], slack = 2e-6 * size + 1e-35;
            if (!(fabs(b - dot) <= 2 * fabs(a - dot) + slack && fabs(b - a) <= slack))
                fail_test("%s (%s, %s) k %zu n %zu row %zu vector %zu: %.9g, reference %.9g, exact %.9g, terms %.3g",
                          type_name(p->type), cpu_isa_name(isa), what, p->k, p->n, r, v, b, a, dot, size);
        }
}

/* Calls test for each type and each variant but the reference, or once where there is only that; a variant that took over the
 * kernel of the one below is not tried again. Says which variants this machine lacks. */
static void each(void (*test)(enum tensor_type, enum cpu_isa)) {
    for (enum cpu_isa isa = ISA_REF + 1; isa < ISA_COUNT; isa++) {
        if (isa > cpu_isa_best()) {
            print_message("[  SKIP  ] this machine has no %s\n", cpu_isa_name(isa));
            continue;
        }
        struct cpu_ops ops, below;
        cpu_ops_init(&ops, isa);
        cpu_ops_init(&below, isa - 1);
        for (int t = 0; t < N_SUBJECTS; t++)
            if (isa == ISA_REF + 1 || ops.types[subjects[t].type].matmul != below.types[subjects[t].type].matmul)
                test(subjects[t].type, isa);
    }
}

/* ---- the cases -------------------------------------------------------------------------------------------------- */

static void check_sizes(enum tensor_type type, enum cpu_isa isa) {
    static const size_t counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33, 64}, blocks[] = {1, 2, 3, 5, 7, 8, 9, 31};
    static const size_t odd[] = {1, 7, 15, 33, 63, 100, 257};
    static const size_t rows[] = {1, 5, 16, 31, 37, 67};
    const size_t block = tensor_type_info(type)->block_weights == 256 ? 256 : 32;
    uint64_t seed = 42 + type;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (size_t b = 0; b < 8 + (tensor_type_info(type)->block_weights == 1 ? 7 : 0); b++) {
            if (block == 256 && b >= 5) continue;
            if (counts[i] > 17 && b % 3) continue; /* the reference takes its time */
            const size_t n = counts[i], k = b < 8 ? block * blocks[b] : odd[b - 8];
            struct product p = make_product(type, rows[(i + b) % 6], k, n, n);
            fill_weights(&p, RANDOM, &seed);
            fill_acts(&p, (i + b) % 3 == 2 ? OUTLIERS : NORMAL, &seed);
            settle(&p);
            float *ref = run(&p, ISA_REF, 0, p.rows, NULL), *got = run(&p, isa, 0, p.rows, NULL);
            judge(&p, isa, ref, got, NULL, "sizes");
            free(ref);
            free(got);
            free_product(&p);
        }
}

static void check_values(enum tensor_type type, enum cpu_isa isa) {
    static const size_t counts[] = {1, 3, 16};
    uint64_t seed = 4242 + type;
    for (int w = 0; w < WEIGHT_KINDS; w++)
        for (int a = 0; a < ACT_KINDS; a++)
            for (int i = 0; i < 3; i++) {
                struct product p =
                    make_product(type, 33, 512 + (tensor_type_info(type)->block_weights < 256 ? 96 : 0), counts[i], counts[i]);
                fill_weights(&p, (enum weight_kind)w, &seed);
                fill_acts(&p, (enum act_kind)a, &seed);
                settle(&p);
                float *ref = run(&p, ISA_REF, 0, p.rows, NULL), *got = run(&p, isa, 0, p.rows, NULL);
                judge(&p, isa, ref, got, NULL, "values");
                free(ref);
                free(got);
                free_product(&p);
            }
}

/* The largest magnitudes that int8 products can reach: nothing may saturate. */
static void check_saturation(enum tensor_type type, enum cpu_isa isa) {
    static const enum weight_kind kinds[] = {MAXIMA, MINIMA, EXTREMES};
    if (tensor_type_info(type)->block_weights == 1) return;
    for (int i = 0; i < 12; i++) {
        const int sign = i % 4;
        struct product p = make_product(type, 17, 512, sign & 1 ? 9 : 1, 9);
        uint64_t seed = 1;
        fill_weights(&p, kinds[i / 4], &seed);
        if (type == TYPE_Q8_0) /* -128 everywhere, and -128 beside 127 */
            for (size_t r = 0; r < p.rows; r++)
                for (int c = 0; c < 512; c++)
                    p.w[r * p.row_bytes + (size_t)(c / 32 * 34 + 2 + c % 32)] = r % 2 && c % 2 ? 127 : 128;
        for (size_t c = 0; c < 9 * 512; c++) ((float *)p.x.f32)[c] = sign & 2 && c % 2 ? -1 : 1;
        settle(&p);
        float *ref = run(&p, ISA_REF, 0, p.rows, NULL), *got = run(&p, isa, 0, p.rows, NULL);
        judge(&p, isa, ref, got, NULL, "saturation");
        free(ref);
        free(got);
        free_product(&p);
    }
}

/* A row's result does not depend on the slice it was computed in, nor on its neighbours in the batch. */
static void check_independence(enum tensor_type type, enum cpu_isa isa) {
    static const size_t counts[] = {1, 2, 4, 7, 16, 33};
    uint64_t seed = 77;
    for (int i = 0; i < 6; i++) {
        const size_t n = counts[i], rows = 203;
        struct product p = make_product(type, rows, tensor_type_info(type)->block_weights == 256 ? 768 : 352, n, 40);
        fill_weights(&p, RANDOM, &seed);
        fill_acts(&p, NORMAL, &seed);
        settle(&p);
        int32_t index[33], first[33];
        for (size_t v = 0; v < n; v++) {
            index[v] = (int32_t)(next_random(&seed) % 40);
            first[v] = index[0];
        }
        float *whole = run(&p, isa, 0, rows, index), *ref = run(&p, ISA_REF, 0, rows, index);
        judge(&p, isa, ref, whole, index, "index");
        const size_t cuts[] = {0, 1, 64, 69, 128, 131, 192, 203};
        for (int c = 0; c < 7; c++) {
            float *part = run(&p, isa, cuts[c], cuts[c + 1], index);
            for (size_t v = 0; v < n; v++)
                if (memcmp(part + v * rows + cuts[c], whole + v * rows + cuts[c], (cuts[c + 1] - cuts[c]) * sizeof(float)))
                    fail_test("%s (%s) n %zu: rows [%zu,%zu) alone differ from the same rows in the whole", type_name(type),
                              cpu_isa_name(isa), n, cuts[c], cuts[c + 1]);
            free(part);
        }
        float *same = run(&p, isa, 0, rows, first);
        for (size_t v = 0; v < n; v++)
            if (memcmp(same + v * rows, whole, rows * sizeof(float)))
                fail_test("%s (%s) n %zu: vector %zu depends on the other vectors", type_name(type), cpu_isa_name(isa), n, v);
        free(same);
        free(whole);
        free(ref);
        free_product(&p);
    }
}

/* Batches of up to 4 agree about the vectors they share, and so do larger ones. */
static void check_batch_sizes(enum tensor_type type, enum cpu_isa isa) {
    static const size_t most[] = {4, 300};
    uint64_t seed = 99;
    struct product p = make_product(type, 64, 768, 300, 300);
    fill_weights(&p, RANDOM, &seed);
    fill_acts(&p, NORMAL, &seed);
    settle(&p);
    for (int i = 0; i < 2; i++) {
        p.n = most[i];
        float *all = run(&p, isa, 0, p.rows, NULL), *ref = run(&p, ISA_REF, 0, p.rows, NULL);
        judge(&p, isa, ref, all, NULL, "batch");
        free(ref);
        for (size_t n = i ? 5 : 1; n < most[i]; n = n < 40 ? n + 1 : n + 43) {
            p.n = n;
            float *some = run(&p, isa, 0, p.rows, NULL);
            if (memcmp(some, all, n * p.rows * sizeof(float)))
                fail_test("%s (%s): a batch of %zu differs from one of %zu", type_name(type), cpu_isa_name(isa), n, most[i]);
            free(some);
        }
        free(all);
    }
    free_product(&p);
}

/* Scales that are no numbers spoil their own row only. */
static void check_bad_scales(enum tensor_type type, enum cpu_isa isa) {
    static const uint16_t bad[] = {0x7e00, 0x7c00, 0xfc00, 0x7fff, 0xffff};
    uint64_t seed = 5;
    for (int i = 0; i < 10; i++) {
        struct product p = make_product(type, 37, 512, i % 2 ? 1 : 17, 17);
        fill_weights(&p, RANDOM, &seed);
        fill_acts(&p, NORMAL, &seed);
        settle(&p);
        float *good = run(&p, isa, 0, p.rows, NULL);
        uint8_t *row = p.w + 11 * p.row_bytes;
        if (tensor_type_info(type)->block_weights == 1)
            memcpy(row + (type == TYPE_F32 ? 2 : 0), &bad[i / 2], 2);
        else
            set_scale(type, row, row + tensor_type_info(type)->row_meta_bytes, f16_to_f32(bad[i / 2]));
        float *got = run(&p, isa, 0, p.rows, NULL);
        for (size_t v = 0; v < p.n; v++)
            for (size_t r = 0; r < p.rows; r++)
                if (r != 11)
                    assert_true(got[v * p.rows + r] == good[v * p.rows + r]);
                else
                    assert_false(isfinite(got[v * p.rows + r]) && bad[i / 2] != 0xffff && bad[i / 2] != 0x7fff &&
                                 type != TYPE_F32 && type != TYPE_BF16 && type != TYPE_MXFP4 /* has no such scale */);
        free(good);
        free(got);
        free_product(&p);
    }
}

static void sizes(void **state) {
    (void)state;
    each(check_sizes);
}
static void values(void **state) {
    (void)state;
    each(check_values);
}
static void no_saturation(void **state) {
    (void)state;
    each(check_saturation);
}
static void slices_and_index_lists(void **state) {
    (void)state;
    each(check_independence);
}
static void batch_sizes(void **state) {
    (void)state;
    each(check_batch_sizes);
}
static void bad_scales(void **state) {
    (void)state;
    each(check_bad_scales);
}

/* ---- activations ------------------------------------------------------------------------------------------------ */

static void quantized_activations_are_identical(void **state) {
    (void)state;
    enum { N = 3, K = 32 * 41 };
    static const float special[] = {0,       -0.0f,    1e-45f,   1e-40f,    0x1p-110f, 0x1.fffffep-111f,
                                    FLT_MAX, -FLT_MAX, INFINITY, -INFINITY, NAN,       127,
                                    126.5f,  63.5f,    0.5f,     1.5f};
    float *x = must_alloc(N * K * sizeof *x);
    uint64_t seed = 31;
    for (int i = 0; i < N * K; i++) x[i] = uniform(&seed) * ldexpf(1, (int)(next_random(&seed) % 7));
    for (int g = 0; g < 32; g++) { /* one or two special values in otherwise normal or zero groups */
        if (g % 2) memset(x + K + g * 32, 0, 32 * sizeof *x);
        x[K + g * 32 + g] = special[g / 2];
        if (g % 4 == 3) x[K + g * 32 + (g + 7) % 32] = -special[g / 2];
    }
    for (int i = 0; i < 32; i++) x[2 * K + i] = (float)i + 0.5f - 16; /* ties: 127/127 keeps them */
    x[2 * K] = 127;
    struct acts want = {.n = N, .k = K, .f32 = x}, got = want;
    const size_t bytes = acts_bytes(N, K);
    uint8_t *want_room = must_alloc(bytes), *got_room = must_alloc(bytes);
    memset(want_room, 0xa5, bytes);
    acts_layout(&want, want_room);
    acts_layout(&got, got_room);
    struct cpu_ops ops;
    cpu_ops_init(&ops, ISA_REF);
    ops.quantize(&want, 1, 3);
    for (size_t i = 0; i < K; i++) assert_int_equal((uint8_t)want.q[i], 0xa5);
    for (size_t g = 0; g < N * K / 32; g++)
        if (g >= K / 32 && isfinite(want.d[g])) {
            int sum = 0;
            for (size_t i = 32 * g; i < 32 * g + 32; i++) {
                sum += want.q[i];
                assert_true(want.q[i] >= -127 &&
                            fabs((double)x[i] - (double)want.d[g] * want.q[i]) <= 0.5001 * (double)want.d[g] + 0x1p-110);
            }
            assert_int_equal(want.sum16[2 * g] + want.sum16[2 * g + 1], sum);
            assert_true(want.s32[g] == want.d[g] * (float)sum);
        }
    for (enum cpu_isa isa = ISA_REF + 1; isa <= cpu_isa_best(); isa++) {
        memset(got_room, 0xa5, bytes);
        cpu_ops_init(&ops, isa);
        ops.quantize(&got, 1, 3);
        assert_memory_equal(want.q, got.q, N * K);
        assert_memory_equal(want.sum16, got.sum16, N * K / 16 * sizeof(int32_t));
        for (size_t g = 0; g < N * K / 32; g++) {
            assert_true(want.d[g] == got.d[g] || (isnan(want.d[g]) && isnan(got.d[g])));
            assert_true(want.s32[g] == got.s32[g] || (isnan(want.s32[g]) && isnan(got.s32[g])));
        }
    }
    free(x);
    free(want_room);
    free(got_room);
}

/* ---- golden dot products ---------------------------------------------------------------------------------------- */

/* What rounding the activations may change a product by: to 1/127 of the largest of their 32, or of their 256. */
struct roundings {
    double exact, size /* of the terms */, of_32, of_256;
};

static float largest(const float *x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    return most;
}

static struct roundings possible_roundings(const float row[512], const float x[512]) {
    struct roundings s = {0};
    for (int g = 0; g < 512; g += 32) {
        double weights = 0;
        for (int c = g; c < g + 32; c++) {
            s.exact += (double)row[c] * x[c];
            s.size += fabs((double)row[c] * x[c]);
            weights += fabs((double)row[c]);
        }
        s.of_32 += weights * largest(x + g, 32) / 127 * 0.50001;
        s.of_256 += weights * largest(x + g / 256 * 256, 256) / 127 * 0.50001;
    }
    return s;
}

/* How many entries of dots.json product number `at` was compared with. Where the other runtime has one activation scale per 256,
 * both roundings count; its scales per 32 are themselves rounded to 8 bits. */
static int near_golden(const json_t *root, const char *type, size_t at, double got, const struct roundings *s) {
    size_t i;
    int compared = 0;
    const json_t *entry;
    json_array_foreach(json_object_get(root, "dots"), i, entry) {
        if (strcmp(json_string_value(json_object_get(entry, "type")), type)) continue;
        if (strcmp(json_string_value(json_object_get(entry, "path")), "iqk")) continue;
        const bool coarse = !strcmp(json_string_value(json_object_get(entry, "act")), "q8_K");
        const double golden = json_number_value(json_array_get(json_object_get(entry, "dots"), at));
        const double tolerance = (coarse ? s->of_32 + s->of_256 + 1e-5 * s->size : 1e-2 * s->size) + 2.5e-3;
        if (!(fabs(got - golden) <= tolerance)) fail_test("%s product %zu: %.9g, golden %.9g", type, at, got, golden);
        compared++;
    }
    return compared;
}

/* The rows of one format times the three vectors, in every variant; how many products were compared with golden ones. */
static int check_dots(const json_t *root, const struct subject *subject, const struct acts *x, void *scratch) {
    const char *folder = SHARED_DIR "/golden/gguf";
    size_t w_bytes;
    uint8_t *w = find_block(folder, subject->golden, ".bin", &w_bytes);
    assert_non_null(w);
    const size_t row_bytes = row_bytes_of(subject->type, 512), rows = w_bytes / row_bytes;
    int compared = 0;
    for (enum cpu_isa isa = ISA_REF; isa <= cpu_isa_best(); isa++) {
        struct cpu_ops ops;
        cpu_ops_init(&ops, isa);
        const struct cpu_type *type = &ops.types[subject->type];
        ops.quantize(x, 0, 3);
        float y[3][18], row[512];
        type->matmul(&(struct matmul){
            .w = w, .row_bytes = row_bytes, .k = 512, .row_end = rows, .x = x, .n = 3, .y = y[0], .ldy = 18, .scratch = scratch});
        for (size_t r = 0; r < rows; r++) {
            type->dequant(w + r * row_bytes, row, 512);
            for (size_t v = 0; v < 3; v++) {
                const struct roundings s = possible_roundings(row, x->f32 + v * 512);
                if (!(fabs(y[v][r] - s.exact) <= (type->int8_acts ? s.of_32 : 0) + 4e-6 * s.size))
                    fail_test("%s (%s) row %zu vector %zu: %.9g, exact %.9g", subject->golden, cpu_isa_name(isa), r, v,
                              (double)y[v][r], s.exact);
                if (!subject->peer_saturates) compared += near_golden(root, subject->golden, v * rows + r, y[v][r], &s);
            }
        }
    }
    free(w);
    return compared;
}

/* dots.json holds another runtime's products of the golden rows with three vectors. Ours must be as near to the exact product
 * as rounding each activation to 1/127 of its group's maximum allows, and near the other runtime's. */
static void golden_dots(void **state) {
    (void)state;
    const char *folder = SHARED_DIR "/golden/gguf";
    size_t json_bytes, x_bytes;
    uint8_t *json = find_block(folder, "dots", ".json", &json_bytes);
    if (!json) {
        print_message("%s is absent\n", folder);
        skip();
    }
    json_t *root;
    struct reason why;
    if (json_read((struct span){(char *)json, json_bytes}, &root, &why) != ERR_NONE) fail_test("%s", why.text);
    free(json);
    struct acts x = {.n = 3, .k = 512, .f32 = (float *)find_block(folder, "acts", ".f32", &x_bytes)};
    assert_non_null(x.f32);
    void *room = must_alloc(acts_bytes(3, 512)), *scratch = must_alloc(matmul_scratch_bytes(512));
    acts_layout(&x, room);
    for (int t = 1; t < N_SUBJECTS; t++) { /* the first, F32, has none */
        const int compared = check_dots(root, &subjects[t], &x, scratch);
        assert_int_equal(compared, subjects[t].peer_saturates ? 0 : 54 * (int)(cpu_isa_best() + 1));
    }
    json_decref(root);
    free(room);
    free(scratch);
    free((void *)x.f32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_is_a_subject),
        cmocka_unit_test(codebooks_are_golden),
        cmocka_unit_test(decoding_is_exact),
        cmocka_unit_test(golden_dots),
        cmocka_unit_test(quantized_activations_are_identical),
        cmocka_unit_test(sizes),
        cmocka_unit_test(values),
        cmocka_unit_test(no_saturation),
        cmocka_unit_test(slices_and_index_lists),
        cmocka_unit_test(batch_sizes),
        cmocka_unit_test(bad_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
