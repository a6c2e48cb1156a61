/* EXL3 on the device: tiles bit for bit, all bits and codebooks, golden matrices, the launches of a step and products of
 * prompts against the CPU's reference. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/exl3.h"
#include "tests/gpu/exl3_probe.h"
#include "tests/gpu/step_checks.h"

static const char *const book_names[] = {"3inst", "mcg", "mul1"};

/* ---- tiles ----------------------------------------------------------------------------------------------------------- */

/* Each of the two ways to decode gives `want` [tile][16][16]. */
static void check_tiles(const uint8_t *file, uint32_t tiles, uint32_t bits, enum exl3_codebook book, const uint16_t *want,
                        const char *what) {
    const uint64_t from_bytes = tiles * exl3_tile_bytes(bits), to_bytes = tiles * sizeof(uint16_t[16][16]);
    const gpu_ptr from = room(from_bytes), to = room(to_bytes);
    uint16_t *got = malloc(to_bytes);
    up(from, file, from_bytes);
    for (int as_prompts = 0; as_prompts < 2; as_prompts++) {
        exl3_probe_decode(device, from, tiles, bits, book, as_prompts, to);
        finish();
        down(got, to, to_bytes);
        for (uint32_t i = 0; i < tiles * 256; i++)
            if (got[i] != want[i])
                fail_test("%s, %u bits, %s, decoded for %s: tile %u [%u][%u] is %04x, not %04x", what, bits, book_names[book],
                          as_prompts ? "prompts" : "steps", i / 256, i / 16 % 16, i % 16, got[i], want[i]);
    }
    device->ops->free(device, GPU_USE_DENSE, from, from_bytes);
    device->ops->free(device, GPU_USE_DENSE, to, to_bytes);
    free(got);
}

static void every_tile_is_decoded(void **state) {
    (void)state;
    enum { TILES = 9 };
    uint8_t file[TILES * 256];
    uint16_t want[TILES][16][16];
    for (uint32_t bits = 1; bits <= 8; bits++)
        for (int book = 0; book < 3; book++) {
            for (size_t i = 0; i < sizeof file; i++) file[i] = (uint8_t)random_bits();
            memset(file, 0, exl3_tile_bytes(bits));
            memset(file + exl3_tile_bytes(bits), 255, exl3_tile_bytes(bits));
            for (int t = 0; t < TILES; t++)
                exl3_decode_tile(file + t * exl3_tile_bytes(bits), bits, (enum exl3_codebook)book, want[t]);
            check_tiles(file, TILES, bits, (enum exl3_codebook)book, want[0][0], "random tiles");
        }
}

/* ---- golden matrices --------------------------------------------------------------------------------------------------- */

#define OWN_GOLDEN TESTS_DIR "/golden/exl3"
#define GOLDEN SHARED_DIR "/golden/exl3/linear"

static const struct golden {
    const char *folder, *name;
    uint32_t k, rows, bits;
    enum exl3_codebook book;
} goldens[] = {{OWN_GOLDEN, "mcg_k4_encoded_128x128", 128, 128, 4, EXL3_MCG},
               {OWN_GOLDEN, "mcg_k7_128x128", 128, 128, 7, EXL3_MCG},
               {GOLDEN, "mcg_k1_128x128", 128, 128, 1, EXL3_MCG},
               {GOLDEN, "mcg_k2_256x256", 256, 256, 2, EXL3_MCG},
               {GOLDEN, "mcg_k3_256x256", 256, 256, 3, EXL3_MCG},
               {GOLDEN, "mcg_k4_256x256", 256, 256, 4, EXL3_MCG},
               {GOLDEN, "mcg_k5_256x256", 256, 256, 5, EXL3_MCG},
               {GOLDEN, "mcg_k6_256x256", 256, 256, 6, EXL3_MCG},
               {GOLDEN, "mcg_k8_256x256", 256, 256, 8, EXL3_MCG},
               {GOLDEN, "3inst_k4_256x256", 256, 256, 4, EXL3_3INST},
               {GOLDEN, "mul1_k4_256x256", 256, 256, 4, EXL3_MUL1}};
enum { OWN_GOLDENS = 2 };

static void *read_golden(const struct golden *g, const char *file, size_t *bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s/%s", g->folder, g->name, file);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(f);
    rewind(f);
    void *data = malloc(*bytes);
    assert_int_equal(fread(data, 1, *bytes, f), *bytes);
    fclose(f);
    return data;
}

static void *must_read(const struct golden *g, const char *file, size_t want) {
    size_t bytes;
    void *data = read_golden(g, file, &bytes);
    if (!data || (want && bytes != want))
        fail_test("%s/%s/%s is missing, or has not %zu bytes", g->folder, g->name, file, want);
    return data;
}

/* Golden weights are stored as one matrix [inputs][outputs]. */
static void check_golden_tiles(const struct golden *g) {
    const uint32_t tiles = g->k / 16 * (g->rows / 16);
    uint8_t *file = must_read(g, "trellis.u16", (size_t)g->k * g->rows * g->bits / 8);
    uint16_t *inner = must_read(g, "inner.f16", 2 * (size_t)g->k * g->rows), *want = malloc(2 * (size_t)g->k * g->rows);
    for (uint32_t t = 0; t < tiles; t++)
        for (uint32_t i = 0; i < 256; i++)
            want[256 * t + i] = inner[(t / (g->rows / 16) * 16 + i / 16) * g->rows + t % (g->rows / 16) * 16 + i % 16];
    check_tiles(file, tiles, g->bits, g->book, want, g->name);
    free(file), free(inner), free(want);
}

static double relative_rms(const float *got, const float *want, size_t n) {
    double error = 0, power = 0;
    for (size_t i = 0; i < n; i++) error += pow((double)got[i] - want[i], 2), power += pow((double)want[i], 2);
    return sqrt(error / power);
}

/* The distance of the CPU's best kernels from the exact product, on the same vectors. */
static double best_cpu_error(const struct matrix *m, const float *x, uint32_t n, const float *want) {
    float *y = malloc((size_t)n * m->rows * sizeof *y);
    struct acts a = make_acts(x, n, m->k);
    const struct cpu_ops reference = cpu;
    cpu_ops_init(&cpu, cpu_isa_best());
    product(m, &a, y);
    cpu = reference;
    const double error = relative_rms(y, want, (size_t)n * m->rows);
    free_acts(&a);
    free(y);
    return error;
}

static struct types trellis_types(enum tensor_type t) { return (struct types){t, t, t, t, TYPE_F16, t, t, t, t, TYPE_BF16}; }

/* As the output projection of a step, and as a prompt's product. */
static void check_golden_product(const struct golden *g) {
    const struct sizes z = {
        .e = g->rows, .f = 128, .heads = g->k / 64, .kv_heads = 2, .dh = 64, .experts = 2, .used = 1, .vocab = 128};
    struct fixture f = make_fixture(z, trellis_types((enum tensor_type)(TYPE_EXL3_1 + g->bits - 1)));
    drop(&f.output);
    f.output =
        (struct matrix){.type = f.y.output, .rows = g->rows, .k = g->k, .row_bytes = g->k / 8 * g->bits, .codebook = g->book};
    f.output.bytes = f.output.row_bytes * g->rows;
    f.output.file = must_read(g, "trellis.u16", f.output.bytes);
    f.output.in_scale = must_read(g, "suh.f16", 2 * g->k), f.output.out_scale = must_read(g, "svh.f16", 2 * g->rows);
    open_network(&f);
    size_t bytes;
    uint16_t *halves = read_golden(g, "x.f16", &bytes);
    const uint32_t all = (uint32_t)(bytes / 2 / g->k), n = all < GPU_STEP_TOKENS ? all : GPU_STEP_TOKENS,
                   tokens = n > 4   ? 8
                            : n > 2 ? 4
                                    : n;
    float *want = must_read(g, "y.f32", 4 * (size_t)all * g->rows), *x = calloc((size_t)GPU_STEP_TOKENS * g->k, 4),
          *y = calloc((size_t)GPU_STEP_TOKENS * g->rows, 4);
    for (uint32_t i = 0; i < n * g->k; i++) x[i] = f16_to_f32(halves[i]);
    up(f.at.attended32, x, 4 * (uint64_t)tokens * g->k);
    up(f.at.x, y, 4 * (uint64_t)tokens * g->rows);
    launch(&f, PROBE_OUTPUT, tokens);
    finish();
    down(y, f.at.x, 4 * (uint64_t)tokens * g->rows);
    const double best = best_cpu_error(&f.output, x, n, want), step = relative_rms(y, want, (size_t)n * g->rows);
    const gpu_ptr from = room(2 * (uint64_t)n * g->k), to = room(4 * (uint64_t)n * g->rows);
    const struct gpu_matrix m = {f.output.device, f.output.type, g->rows, g->k};
    up(from, halves, 2 * (uint64_t)n * g->k);
    step_probe_product(device, f.net, &m, from, n, false, to);
    finish();
    down(y, to, 4 * (uint64_t)n * g->rows);
    const double prompt = relative_rms(y, want, (size_t)n * g->rows);
    print_message("  %s: relative rms error %.1e in steps, %.1e in prompts; the CPU's %.1e\n", g->name, step, prompt, best);
    if (!(step <= 1e-6 && prompt <= 5e-4))
        fail_test("%s: relative rms error %.3g in steps, %.3g in prompts", g->name, step, prompt);
    device->ops->free(device, GPU_USE_DENSE, from, 2 * (uint64_t)n * g->k);
    device->ops->free(device, GPU_USE_DENSE, to, 4 * (uint64_t)n * g->rows);
    free(halves), free(want), free(x), free(y);
    free_fixture(&f);
}

static void golden_matrices(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        size_t bytes;
        void *there = read_golden(&goldens[i], "trellis.u16", &bytes);
        if (!there && i >= OWN_GOLDENS) {
            print_message("[  SKIP  ] %s is absent: only the small copy was checked\n", goldens[i].folder);
            return;
        }
        free(there);
        check_golden_tiles(&goldens[i]);
        check_golden_product(&goldens[i]);
    }
}

/* ---- a step's launches -------------------------------------------------------------------------------------------------- */

static const struct sizes small = {
    .e = 256, .f = 128, .heads = 4, .kv_heads = 2, .dh = 64, .experts = 3, .used = 2, .vocab = 384};

static enum tensor_type type_of(uint32_t bits) { return (enum tensor_type)(TYPE_EXL3_1 + bits - 1); }

static void steps(void **state) {
    (void)state;
    for (uint32_t bits = 1; bits <= 8; bits++) {
        struct fixture f = make_fixture(small, trellis_types(type_of(bits)));
        open_network(&f);
        for (int i = 0; i < 4; i++)
            if (bits == 4 || i == 0 || (bits % 2 && i == 2)) check_all(&f, token_counts[i]);
        free_fixture(&f);
    }
}

/* Types that differ in a layer; some of them none of EXL3's. */
static void mixed_types(void **state) {
    (void)state;
    const enum tensor_type t3 = type_of(3), t4 = type_of(4), t5 = type_of(5), t6 = type_of(6), t8 = type_of(8);
    const struct types mixes[] = {{t6, t8, t5, t4, TYPE_F32, t3, t4, t5, t6, TYPE_F32},
                                  {t4, TYPE_F16, t3, TYPE_Q8_0, TYPE_F16, t5, t3, t8, TYPE_Q8_0, TYPE_BF16},
                                  {TYPE_Q4_K, t4, TYPE_IQ4_K, t3, TYPE_F16, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q4_K, t6, TYPE_BF16}};
    struct sizes z = small;
    z.f = 256;
    check_mixes(mixes, sizeof mixes / sizeof *mixes, z);
}

/* Outputs whose blocks no others share, and more inputs than a block holds at once. */
static void long_rows(void **state) {
    (void)state;
    struct sizes z = small;
    z.e = 640, z.vocab = 57 * 128;
    struct fixture f = make_fixture(z, trellis_types(type_of(3)));
    open_network(&f);
    check_head(&f, 8);
    check_qkv(&f, 8);
    free_fixture(&f);
}

/* Inputs that binary16 could not hold, or not well. */
static void inputs_of_any_size(void **state) {
    (void)state;
    struct fixture f = make_fixture(small, trellis_types(type_of(4)));
    open_network(&f);
    const uint32_t k = f.output.k, rows = f.output.rows;
    const float sizes[] = {0, 1e-30f, 1e-9f, 1e7f, 1e30f};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        float *in = malloc(4 * k), *y = malloc(4 * rows), *got = calloc(rows, 4);
        for (uint32_t c = 0; c < k; c++) in[c] = sizes[i] * random_normal();
        up(f.at.attended32, in, 4 * k);
        up(f.at.x, got, 4 * rows);
        launch(&f, PROBE_OUTPUT, 1);
        finish();
        down(got, f.at.x, 4 * rows);
        struct acts a = make_acts(in, 1, k);
        product(&f.output, &a, y);
        for (uint32_t r = 0; r < rows; r++) check_close(got[r], y[r], allowance(&f.output, r, in, false), "output", r);
        free_acts(&a);
        free(in), free(y), free(got);
    }
    free_fixture(&f);
}

/* ---- prompts' products ----------------------------------------------------------------------------------------- */

/* Inputs in binary16 after the transform: a part in 2^12 of their norm, in all directions. */
static void prompt_products(void **state) {
    (void)state;
    const uint32_t counts[] = {1, 20, 150};
    for (uint32_t bits = 2; bits <= 8; bits += 3) {
        struct fixture f = make_fixture(small, trellis_types(type_of(bits)));
        open_network(&f);
        const struct matrix *const m = &f.head;
        const struct gpu_matrix on_device = {m->device, m->type, m->rows, m->k};
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            const uint32_t n = counts[i];
            const uint64_t x_bytes = 2 * (uint64_t)n * m->k, y_bytes = 4 * (uint64_t)n * m->rows;
            float *x = malloc(4 * (size_t)n * m->k), *want = malloc(y_bytes), *got = malloc(y_bytes);
            uint16_t *half = malloc(x_bytes);
            random_floats(x, (size_t)n * m->k);
            for (uint32_t c = 0; c < n * m->k; c++) x[c] *= c / m->k % 3 == 1 ? 15000 : 1; /* some transformed beyond binary16 */
            for (uint32_t c = 0; c < n * m->k; c++) half[c] = f32_to_f16(x[c]), x[c] = f16_to_f32(half[c]);
            const gpu_ptr from = room(x_bytes), to = room(y_bytes);
            up(from, half, x_bytes);
            step_probe_product(device, f.net, &on_device, from, n, false, to);
            finish();
            down(got, to, y_bytes);
            struct acts a = make_acts(x, n, m->k);
            product(m, &a, want);
            for (uint32_t c = 0; c < n * m->rows; c++)
                check_close(got[c], want[c], 150 * allowance(m, c % m->rows, x + c / m->rows * m->k, false), "product", c);
            if (!(relative_rms(got, want, (size_t)n * m->rows) <= 5e-4))
                fail_test("%u bits, %u vectors: relative rms error above 5e-4", bits, n);
            device->ops->free(device, GPU_USE_DENSE, from, x_bytes);
            device->ops->free(device, GPU_USE_DENSE, to, y_bytes);
            free_acts(&a);
            free(x), free(want), free(got), free(half);
        }
        free_fixture(&f);
    }
}

int main(void) {
    if (!open_device()) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tile_is_decoded), cmocka_unit_test(golden_matrices), cmocka_unit_test(steps),
        cmocka_unit_test(mixed_types),           cmocka_unit_test(long_rows),       cmocka_unit_test(inputs_of_any_size),
        cmocka_unit_test(prompt_products)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device->ops->close(&device);
    return failed;
}
