/* EXL3: codebooks by their checksums, golden tiles bit for bit, golden products, and every variant against the reference: bits,
 * codebooks, shapes, odd addresses, index lists, slices, batches, guarded outputs. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/exl3.h"
#include "tests/support/files.h"
#include "tests/support/sample.h"

enum { GUARD = 64, BOOKS = 3, VARIANTS = 4 };

static const char *const variant_names[VARIANTS] = {"ref", "avx2", "avx512", "avx512 with binary16"};
static const char *const book_names[BOOKS] = {"3inst", "mcg", "mul1"};

/* False: this machine, or this build, has not got it. */
static bool variant_open(int variant, struct cpu_ops *ops) {
    const enum cpu_isa isa = variant < 3 ? (enum cpu_isa)variant : ISA_AVX512;
    cpu_ops_init(ops, isa);
    if (ops->isa != isa) return false;
    if (variant < 2) return true;
    struct cpu_ops plain = *ops;
    cpu_fill_exl3_avx512(&plain);
    if (variant == 3) return ops->types[TYPE_EXL3_4].matmul != plain.types[TYPE_EXL3_4].matmul; /* what the machine takes by itself */
    *ops = plain;
    return true;
}

/* ---- codebooks ------------------------------------------------------------------------------------------------------ */

static uint32_t crc32_of(uint32_t crc, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return crc;
}

/* With 8 bits a weight, every second state is one 16-bit piece of the stream: a tile shows 128 of them. */
static void codebooks_have_their_checksums(void **state) {
    (void)state;
    static const uint32_t want[BOOKS] = {0x4c83d524u, 0xd2d13c52u, 0x2bdf05c5u};
    for (int book = 0; book < BOOKS; book++) {
        uint32_t crc = ~0u;
        for (uint32_t first = 0; first < 65536; first += 128) {
            uint16_t pieces[128], tile[16][16], values[128];
            for (uint32_t i = 0; i < 128; i++) pieces[i ^ 1] = (uint16_t)(first + i);
            exl3_decode_tile((const uint8_t *)pieces, 8, (enum exl3_codebook)book, tile);
            for (unsigned k = 0; k < 16; k++)
                for (unsigned n = 0; n < 16; n++) {
                    const unsigned p = 32 * (n % 8) + exl3_position(k, n / 8);
                    if (p % 2) values[p / 2] = tile[k][n];
                }
            crc = crc32_of(crc, (const uint8_t *)values, sizeof values);
        }
        if (~crc != want[book]) fail_test("codebook %s: CRC %08x, not %08x", book_names[book], ~crc, want[book]);
    }
}

/* ---- golden matrices ------------------------------------------------------------------------------------------------ */

struct golden {
    const char *name;
    size_t k, rows, bits;
    enum exl3_codebook book;
    bool packed_signs, bias;
};

static const struct golden goldens[] = {
    {"mcg_k4_encoded_128x128", 128, 128, 4, EXL3_MCG, false, false}, {"mcg_k7_128x128", 128, 128, 7, EXL3_MCG, false, false},
    {"mcg_k1_128x128", 128, 128, 1, EXL3_MCG, false, false},         {"mcg_k2_256x256", 256, 256, 2, EXL3_MCG, false, false},
    {"mcg_k3_256x256", 256, 256, 3, EXL3_MCG, false, false},         {"mcg_k4_256x256", 256, 256, 4, EXL3_MCG, false, false},
    {"mcg_k5_256x256", 256, 256, 5, EXL3_MCG, false, false},         {"mcg_k6_256x256", 256, 256, 6, EXL3_MCG, false, false},
    {"mcg_k8_256x256", 256, 256, 8, EXL3_MCG, false, false},         {"mcg_k6_in128_out640", 128, 640, 6, EXL3_MCG, false, false},
    {"mcg_k4_in384_out128_bias", 384, 128, 4, EXL3_MCG, false, true}, {"3inst_k4_256x256", 256, 256, 4, EXL3_3INST, false, false},
    {"3inst_k3_packed_signs_in128_out256", 128, 256, 3, EXL3_3INST, true, false}, {"mul1_k4_256x256", 256, 256, 4, EXL3_MUL1, false, false},
};
enum { N_GOLDENS = sizeof goldens / sizeof *goldens, OWN_GOLDENS = 2 /* copied into the repository */ };

static void *find_block(const char *folder, const char *name, const char *file, size_t *bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s/%s", folder, name, file);
    return read_block(path, bytes);
}

static void *must_read(const char *folder, const char *name, const char *file, size_t bytes) {
    size_t got;
    void *data = find_block(folder, name, file, &got);
    if (!data) fail_test("%s/%s/%s is missing", folder, name, file);
    if (bytes && got != bytes) fail_test("%s/%s/%s has %zu bytes, not %zu", folder, name, file, got, bytes);
    return data;
}

static uint16_t *read_factors(const char *folder, const struct golden *g, bool of_inputs) {
    const size_t n = of_inputs ? g->k : g->rows;
    if (!g->packed_signs) return must_read(folder, g->name, of_inputs ? "suh.f16" : "svh.f16", 2 * n);
    uint16_t *signs = must_read(folder, g->name, of_inputs ? "su.u16" : "sv.u16", n / 8), *out = must_alloc(2 * n);
    for (size_t c = 0; c < n; c++) out[c] = signs[c / 16] >> c % 16 & 1 ? 0xbc00 : 0x3c00;
    free(signs);
    return out;
}

static void check_tiles(const struct golden *g, const uint8_t *trellis, const uint16_t *inner) {
    uint16_t tile[16][16];
    for (size_t kt = 0; kt < g->k / 16; kt++)
        for (size_t nt = 0; nt < g->rows / 16; nt++) {
            exl3_decode_tile(trellis + (kt * (g->rows / 16) + nt) * exl3_tile_bytes(g->bits), g->bits, g->book, tile);
            for (size_t k = 0; k < 16; k++)
                if (memcmp(tile[k], inner + (kt * 16 + k) * g->rows + nt * 16, sizeof tile[k]) != 0)
                    fail_test("%s: tile %zu,%zu differs in its row %zu", g->name, kt, nt, k);
        }
}

static double relative_rms(const float *got, const float *want, const float *bias, size_t n, size_t rows) {
    double error = 0, power = 0;
    for (size_t i = 0; i < n * rows; i++) {
        const double w = want[i] - (bias ? bias[i % rows] : 0), d = got[i] - w;
        error += d * d;
        power += w * w;
    }
    return sqrt(error / power);
}

static void check_products(const struct golden *g, const char *folder, const uint8_t *trellis) {
    size_t bytes;
    uint16_t *in = read_factors(folder, g, true), *out = read_factors(folder, g, false), *halves = find_block(folder, g->name, "x.f16", &bytes);
    assert_non_null(halves);
    const size_t n = bytes / 2 / g->k;
    float *want = must_read(folder, g->name, "y.f32", 4 * n * g->rows), *bias = NULL;
    float *x = must_alloc(4 * n * g->k), *y = must_alloc(4 * n * g->rows);
    uint16_t *half_bias = g->bias ? must_read(folder, g->name, "bias.f16", 2 * g->rows) : NULL;
    void *scratch = must_alloc(matmul_scratch_bytes(g->k));
    for (size_t i = 0; i < n * g->k; i++) x[i] = f16_to_f32(halves[i]);
    if (g->bias) bias = must_alloc(4 * g->rows);
    for (size_t i = 0; g->bias && i < g->rows; i++) bias[i] = f16_to_f32(half_bias[i]);
    const struct acts acts = {.n = n, .k = g->k, .f32 = x};
    const struct exl3_matrix exl3 = {in, out, g->rows, g->book};
    for (int variant = 0; variant < VARIANTS; variant++) {
        struct cpu_ops ops;
        if (!variant_open(variant, &ops)) continue;
        ops.types[TYPE_EXL3_1 + g->bits - 1].matmul(&(struct matmul){.w = trellis, .row_bytes = g->k * g->bits / 8, .k = g->k, .row_end = g->rows,
                                                                     .x = &acts, .n = n, .y = y, .ldy = g->rows, .scratch = scratch, .exl3 = &exl3});
        const double error = relative_rms(y, want, bias, n, g->rows);
        if (!(error <= 1e-6)) fail_test("%s (%s): relative rms error %.3g", g->name, variant_names[variant], error);
    }
    free(in), free(out), free(halves), free(want), free(bias), free(half_bias), free(x), free(y), free(scratch);
}

static void check_golden(const char *folder, const struct golden *g) {
    uint8_t *trellis = must_read(folder, g->name, "trellis.u16", g->k * g->rows * g->bits / 8);
    uint16_t *inner = must_read(folder, g->name, "inner.f16", 2 * g->k * g->rows);
    check_tiles(g, trellis, inner);
    check_products(g, folder, trellis);
    free(trellis), free(inner);
}

static void golden_matrices_are_exact(void **state) {
    (void)state;
    for (int i = 0; i < OWN_GOLDENS; i++) check_golden(TESTS_DIR "/golden/exl3", &goldens[i]);
    size_t bytes;
    void *there = find_block(SHARED_DIR "/golden/exl3", ".", "index.json", &bytes);
    if (!there) {
        print_message("[  SKIP  ] %s/golden/exl3 is absent: only the small copy was checked\n", SHARED_DIR);
        return;
    }
    free(there);
    for (int i = 0; i < N_GOLDENS; i++) check_golden(SHARED_DIR "/golden/exl3/linear", &goldens[i]);
}

/* ---- random matrices ------------------------------------------------------------------------------------------------ */

struct product {
    size_t k, rows, bits, n;
    enum exl3_codebook book;
    uint8_t *room, *w;            /* at an odd address, ending where the memory ends */
    uint8_t *in_room, *out_room;  /* factors, at odd addresses too */
    float *x, *y;
    void *scratch;
};

static struct product product_open(size_t k, size_t rows, size_t bits, enum exl3_codebook book, size_t n, uint64_t *seed) {
    struct product p = {k, rows, bits, n, book, must_alloc(k * rows * bits / 8 + 1), NULL, must_alloc(2 * k + 1), must_alloc(2 * rows + 1),
                        must_alloc(4 * n * k), must_alloc(4 * (n * rows + GUARD)), must_alloc(matmul_scratch_bytes(k))};
    p.w = p.room + 1;
    for (size_t i = 0; i < k * rows * bits / 8; i++) p.w[i] = (uint8_t)(next_random(seed) >> 40);
    for (size_t i = 0; i < k; i++) memcpy(p.in_room + 1 + 2 * i, &(uint16_t){f32_to_f16(uniform(seed) * 0.05f)}, 2);
    for (size_t i = 0; i < rows; i++) memcpy(p.out_room + 1 + 2 * i, &(uint16_t){i % 97 ? f32_to_f16(uniform(seed) + 1.5f) : 0}, 2);
    for (size_t i = 0; i < n * k; i++) p.x[i] = uniform(seed) * uniform(seed) * (i % 53 ? 1 : 40);
    return p;
}

static void product_close(struct product *p) { free(p->room), free(p->in_room), free(p->out_room), free(p->x), free(p->y), free(p->scratch); }

static void multiply(const struct product *p, const struct cpu_ops *ops, const int32_t *index, size_t n, size_t begin, size_t end, float *y) {
    const struct acts acts = {.n = p->n, .k = p->k, .f32 = p->x};
    const struct exl3_matrix exl3 = {(const uint16_t *)(p->in_room + 1), (const uint16_t *)(p->out_room + 1), p->rows, p->book};
    ops->types[TYPE_EXL3_1 + p->bits - 1].matmul(&(struct matmul){.w = p->w, .row_bytes = p->k * p->bits / 8, .k = p->k, .row_begin = begin,
                                                                  .row_end = end, .x = &acts, .index = index, .n = n, .y = y, .ldy = p->rows,
                                                                  .scratch = p->scratch, .exl3 = &exl3});
}

static void check_variant(const struct product *p, int variant, const float *want) {
    struct cpu_ops ops;
    if (!variant_open(variant, &ops)) return;
    for (size_t i = 0; i < p->n * p->rows + GUARD; i++) p->y[i] = 12345;
    multiply(p, &ops, NULL, p->n, 0, p->rows, p->y);
    for (size_t i = 0; i < GUARD; i++) assert_true(p->y[p->n * p->rows + i] == 12345);
    const double error = relative_rms(p->y, want, NULL, p->n, p->rows);
    if (!(error <= 1e-6))
        fail_test("%s, %zu bits, %zu x %zu, %zu vectors (%s): relative rms error %.3g", book_names[p->book], p->bits, p->k, p->rows, p->n,
                  variant_names[variant], error);
}

static void variants_agree_with_the_reference(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{128, 128, 1}, {256, 384, 2}, {384, 256, 3}, {128, 640, 4}, {768, 128, 5}, {256, 256, 13}, {640, 128, 79}};
    uint64_t seed = 4711;
    struct cpu_ops ref;
    cpu_ops_init(&ref, ISA_REF);
    for (size_t bits = 1; bits <= 8; bits++)
        for (int book = 0; book < BOOKS; book++)
            for (size_t s = bits % 2; s < sizeof shapes / sizeof *shapes; s += bits == 4 || bits == 6 ? 1 : 2) {
                struct product p = product_open(shapes[s][0], shapes[s][1], bits, (enum exl3_codebook)book, shapes[s][2], &seed);
                float *want = must_alloc(4 * p.n * p.rows);
                multiply(&p, &ref, NULL, p.n, 0, p.rows, want);
                for (int variant = 1; variant < VARIANTS; variant++) check_variant(&p, variant, want);
                free(want);
                product_close(&p);
            }
}

/* Bit for bit: slices, batches, other vectors and index lists change nothing. */
static void only_row_and_vector_matter(void **state) {
    (void)state;
    enum { N = 41 };
    uint64_t seed = 99;
    for (int variant = 0; variant < VARIANTS; variant++) {
        struct cpu_ops ops;
        if (!variant_open(variant, &ops)) continue;
        struct product p = product_open(256, 512, 4 + 2 * (variant % 2), EXL3_MCG, N, &seed);
        float *some = must_alloc(4 * N * p.rows);
        int32_t index[N];
        for (int i = 0; i < N; i++) index[i] = (i * 17 + 5) % N;
        multiply(&p, &ops, NULL, N, 0, p.rows, p.y);
        static const size_t counts[] = {1, 2, 3, 4, 5, 36, 37, N};
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            for (size_t begin = 0, end = 128; begin < p.rows; begin = end, end = p.rows) { /* 128 rows, then the rest */
                for (size_t i = 0; i < N * p.rows; i++) some[i] = 12345;
                multiply(&p, &ops, index, counts[c], begin, end, some);
                for (size_t v = 0; v < N; v++)
                    for (size_t r = 0; r < p.rows; r++) {
                        const float want = v < counts[c] && r >= begin && r < end ? p.y[(size_t)index[v] * p.rows + r] : 12345;
                        if (some[v * p.rows + r] != want)
                            fail_test("%s, %zu vectors, rows %zu-%zu: %a, not %a, for vector %zu, row %zu", variant_names[variant], counts[c], begin,
                                      end, (double)some[v * p.rows + r], (double)want, v, r);
                    }
            }
        free(some);
        product_close(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(codebooks_have_their_checksums), cmocka_unit_test(golden_matrices_are_exact),
                                       cmocka_unit_test(variants_agree_with_the_reference), cmocka_unit_test(only_row_and_vector_matter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
