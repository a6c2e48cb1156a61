/* Encoders of the codebook types: the search is exact where it says so (every entry is tried again by brute force), no
 * instruction set changes a byte, and the error is at most that of another quantizer on the same rows and importance. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/codebooks.h"
#include "cpu/cpu.h"
#include "cpu/encode.h"
#include "cpu/encode_private.h"

#define GOLDEN SHARED_DIR "/golden/gguf/"
enum { COLUMNS = 512, ROWS = 18, MOST_ROW_BYTES = 1024 };

static const struct {
    enum tensor_type type;
    const char *golden;
    uint32_t group; /* weights that share a scale */
    uint32_t lanes;
    uint32_t entries;
    bool even_signs;
} types[] = {{TYPE_IQ2_XXS, "iq2_xxs", 32, 8, 256, true},
             {TYPE_IQ2_XS, "iq2_xs", 16, 8, 512, true},
             {TYPE_IQ2_S, "iq2_s", 16, 8, 1024, false},
             {TYPE_IQ3_XXS, "iq3_xxs", 32, 4, 256, true},
             {TYPE_IQ3_S, "iq3_s", 32, 4, 512, false}};
enum { TYPES = sizeof types / sizeof *types };

static void decode(enum tensor_type type, const void *row, float *out, size_t k) {
    struct cpu_ops ops;
    cpu_ops_init(&ops, ISA_REF);
    assert_non_null(ops.types[type].dequant);
    ops.types[type].dequant(row, out, k);
}

static uint64_t random_bits(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 11;
}

static float uniform(uint64_t *state) { return (float)((double)random_bits(state) / 0x1p53 * 2 - 1); }

/* Sum of six: near enough to normal. Some columns matter far more than others. */
static void fill(uint64_t seed, float *x, float *importance, size_t n) {
    for (size_t i = 0; i < n; i++) {
        x[i] = 0;
        for (int j = 0; j < 6; j++) x[i] += uniform(&seed);
        if (random_bits(&seed) % 61 == 0) x[i] *= 5;
        const float u = uniform(&seed);
        importance[i] = 0.05f + 4 * u * u * u * u;
    }
}

static double weighted_error(const float *x, const float *y, const float *importance, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)importance[i] * ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return sum;
}

/* ---- exactness ------------------------------------------------------------------------------------------------------- */

static float level(uint32_t t, uint32_t entry, uint32_t lane) {
    switch (types[t].type) {
    case TYPE_IQ2_XXS: return (float)(codebook_iq2xxs[entry] >> 8 * lane & 255);
    case TYPE_IQ2_XS: return (float)(codebook_iq2xs[entry] >> 8 * lane & 255);
    case TYPE_IQ2_S: return (float)(codebook_iq2s[entry] >> 8 * lane & 255);
    case TYPE_IQ3_XXS: return (float)(codebook_iq3xxs[entry] >> 8 * lane & 255);
    default: return (float)(codebook_iq3s[entry] >> 8 * lane & 255);
    }
}

/* The least error of one entry's lanes under a scale; with one sign wrong, in *odd. */
static double best_entry(uint32_t t, const float *x, const float *w, double scale, double *odd) {
    double best = INFINITY;
    *odd = INFINITY;
    for (uint32_t e = 0; e < types[t].entries; e++) {
        double error = 0, least = INFINITY;
        for (uint32_t j = 0; j < types[t].lanes; j++) {
            const double value = scale * (double)level(t, e, j), a = fabs((double)x[j]);
            error += (double)w[j] * (a - value) * (a - value);
            least = fmin(least, 4 * (double)w[j] * a * value); /* what the other sign costs more */
        }
        best = fmin(best, error);
        *odd = fmin(*odd, error + least);
    }
    return best;
}

/* The least error of eight weights under a scale. */
static double best_unit(uint32_t t, const float *x, const float *w, double scale) {
    uint32_t minus = 0;
    for (uint32_t j = 0; j < 8; j++) minus += x[j] < 0;
    const bool wrong = types[t].even_signs && minus % 2;
    double odd, odd_high;
    const double even = best_entry(t, x, w, scale, &odd);
    if (types[t].lanes == 8) return wrong ? odd : even;
    const double high = best_entry(t, x + 4, w + 4, scale, &odd_high);
    return wrong ? fmin(odd + high, even + odd_high) : even + high;
}

/* Scale of each group, from the blocks themselves. */
static double scale_of(uint32_t t, const uint8_t *block, uint32_t g) {
    uint16_t d;
    memcpy(&d, block, sizeof d);
    const double f = (double)f16_to_f32(d);
    switch (types[t].type) {
    case TYPE_IQ2_XXS: return f * (2 * (block[2 + 8 * g + 7] >> 4) + 1) / 8;
    case TYPE_IQ2_XS: return f * (2 * (block[66 + g / 2] >> 4 * (g % 2) & 15) + 1) / 8;
    case TYPE_IQ2_S: return f * (2 * (block[74 + g / 2] >> 4 * (g % 2) & 15) + 1) / 8;
    case TYPE_IQ3_XXS: return f * (2 * (block[66 + 4 * g + 3] >> 4) + 1) / 4;
    default: return f * (2 * (block[106 + g / 2] >> 4 * (g % 2) & 15) + 1);
    }
}

static void no_entry_is_better(void **state) {
    (void)state;
    float x[QK_K], w[QK_K], y[QK_K];
    uint8_t block[MOST_ROW_BYTES];
    for (uint32_t t = 0; t < TYPES; t++)
        for (uint64_t seed = 1; seed <= 6; seed++) {
            fill(seed, x, w, QK_K);
            assert_true(encode_row(types[t].type, x, w, QK_K, block));
            decode(types[t].type, block, y, QK_K);
            for (uint32_t u = 0; u < QK_K / 8; u++) {
                const double scale = scale_of(t, block, 8 * u / types[t].group),
                             got = weighted_error(x + 8 * u, y + 8 * u, w + 8 * u, 8),
                             best = best_unit(t, x + 8 * u, w + 8 * u, scale);
                if (got > best * (1 + 1e-4) + 1e-9)
                    fail_test("%s, block %d, unit %u: error %.9g, but an entry has %.9g", types[t].golden, (int)seed, u, got,
                              best);
            }
        }
}

/* With d as it is, no other scale code of a group does better. */
static void no_code_is_better(void **state) {
    (void)state;
    float x[QK_K], w[QK_K], y[QK_K];
    uint8_t block[MOST_ROW_BYTES];
    for (uint32_t t = 0; t < TYPES; t++) {
        fill(40 + t, x, w, QK_K);
        assert_true(encode_row(types[t].type, x, w, QK_K, block));
        decode(types[t].type, block, y, QK_K);
        for (uint32_t g = 0; g < QK_K / types[t].group; g++) {
            const uint32_t n = types[t].group, first = n * g;
            const double got = weighted_error(x + first, y + first, w + first, n), own = scale_of(t, block, g);
            uint16_t d;
            memcpy(&d, block, sizeof d);
            const double unit = (double)f16_to_f32(d) * (types[t].type == TYPE_IQ3_S ? 1 : types[t].lanes == 8 ? 0.125 : 0.25);
            for (uint32_t code = 0; code < 16; code++) {
                double best = 0;
                for (uint32_t u = 0; u < n; u += 8) best += best_unit(t, x + first + u, w + first + u, unit * (2 * code + 1));
                if (got > best * (1 + 1e-4) + 1e-9)
                    fail_test("%s, group %u: error %.9g at scale %.6g, but code %u has %.9g", types[t].golden, g, got, own,
                              code, best);
            }
        }
    }
}

/* ---- determinism, extremes ---------------------------------------------------------------------------------------------- */

static void instruction_sets_agree(void **state) {
    (void)state;
    enum { N = 4 * QK_K };
    static float x[N], w[N];
    uint8_t want[N], got[N];
    if (cpu_isa_best() == ISA_REF) skip();
    for (uint32_t t = 0; t < TYPES; t++)
        for (uint64_t seed = 100; seed < 103; seed++) {
            fill(seed, x, w, N);
            for (size_t i = 0; i < QK_K; i++) x[i] = seed == 101 ? 0.25f : x[i]; /* equals everywhere */
            memset(want, 0xaa, sizeof want);
            memset(got, 0x55, sizeof got);
            uint64_t bytes;
            assert_true(tensor_row_bytes(types[t].type, N, &bytes) && bytes < N);
            encode_row_with(ISA_REF, types[t].type, x, seed == 102 ? NULL : w, N, want);
            encode_row_with(cpu_isa_best(), types[t].type, x, seed == 102 ? NULL : w, N, got);
            assert_memory_equal(want, got, bytes);
        }
}

/* Rows with their largest useful relative error; columns repeat `pattern`. */
static void extreme_rows(void **state) {
    (void)state;
    static const struct {
        const char *what;
        float pattern[4];
        double most; /* of the root mean square */
    } rows[] = {{"zeros", {0, 0, 0, 0}, 0},
                {"equal", {0.5f, 0.5f, 0.5f, 0.5f}, 1e-2},
                {"minus", {-0.37f, -0.37f, -0.37f, -0.37f}, 1e-2},
                {"alternating", {1, -1, 1, -1}, 1e-2},
                {"odd signs", {1, 1, 1, 1}, 1e-2},
                {"tiny", {1e-6f, -1e-6f, 1e-6f, -1e-6f}, 0.2},
                {"below half precision", {1e-30f, -1e-30f, 1e-38f, -1e-40f}, 1},
                {"large", {1e6f, -1e6f, 1e6f, -1e6f}, 0.1},
                {"too large", {1e30f, -1e30f, 3e38f, 1e30f}, 1}};
    float x[QK_K], y[QK_K];
    uint8_t block[MOST_ROW_BYTES];
    for (uint32_t t = 0; t < TYPES; t++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            double energy = 0, error = 0;
            for (size_t i = 0; i < QK_K; i++) x[i] = rows[r].pattern[i % 4];
            assert_true(encode_row(types[t].type, x, NULL, QK_K, block));
            decode(types[t].type, block, y, QK_K);
            for (size_t i = 0; i < QK_K; i++) {
                assert_true(isfinite(y[i]));
                energy += (double)x[i] * (double)x[i];
                error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
            }
            if (error > energy * rows[r].most * rows[r].most * (1 + 1e-6))
                fail_test("%s, %s: relative error %g", types[t].golden, rows[r].what, sqrt(error / energy));
        }
}

/* Any 32 bits as weights and importance, some blocks of few distinct values: what is written is finite. */
static void any_bits(void **state) {
    (void)state;
    uint64_t seed = 99;
    float x[QK_K], w[QK_K], y[QK_K];
    uint8_t block[MOST_ROW_BYTES];
    for (uint32_t t = 0; t < TYPES; t++)
        for (int round = 0; round < 60; round++) {
            const uint32_t mask = round % 3 == 0 ? UINT32_MAX : round % 3 == 1 ? 0xbf800000u : 0x80f00000u;
            for (size_t i = 0; i < QK_K; i++) {
                const uint32_t a = (uint32_t)random_bits(&seed) & mask, b = (uint32_t)random_bits(&seed) & mask;
                memcpy(&x[i], &a, sizeof a);
                memcpy(&w[i], &b, sizeof b);
            }
            encode_row(types[t].type, x, w, QK_K, block);
            decode(types[t].type, block, y, QK_K);
            for (size_t i = 0; i < QK_K; i++)
                if (!isfinite(y[i])) fail_test("%s, round %d: weight %d is %g", types[t].golden, round, (int)i, (double)y[i]);
        }
}

/* A weight that does not count may be anything, so the others get better. */
static void importance_counts(void **state) {
    (void)state;
    float x[QK_K], w[QK_K], even[QK_K], heavy[QK_K];
    uint8_t block[MOST_ROW_BYTES];
    for (uint32_t t = 0; t < TYPES; t++) {
        fill(7, x, w, QK_K);
        for (size_t i = 0; i < QK_K; i++) w[i] = i % 4 == 0 ? 1 : 1e-4f;
        encode_row(types[t].type, x, NULL, QK_K, block);
        decode(types[t].type, block, even, QK_K);
        encode_row(types[t].type, x, w, QK_K, block);
        decode(types[t].type, block, heavy, QK_K);
        assert_true(weighted_error(x, heavy, w, QK_K) < 0.6 * weighted_error(x, even, w, QK_K));
        for (size_t i = 0; i < QK_K; i++) w[i] = i < 8 ? 0 : NAN; /* useless: as none */
        encode_row(types[t].type, x, w, QK_K, block);
        decode(types[t].type, block, heavy, QK_K);
        assert_memory_equal(heavy, even, sizeof even);
    }
}

/* ---- against another quantizer --------------------------------------------------------------------------------------------
 */

static bool read_golden(const char *name, void *to, size_t bytes) {
    char path[512];
    snprintf(path, sizeof path, GOLDEN "%s", name);
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    const bool whole = fread(to, 1, bytes, f) == bytes;
    fclose(f);
    return whole;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void no_worse_than_another(void **state) {
    (void)state;
    static float x[ROWS][COLUMNS], importance[COLUMNS], theirs[ROWS][COLUMNS], ours[COLUMNS];
    uint8_t row[MOST_ROW_BYTES];
    if (!read_golden("input.f32", x, sizeof x) || !read_golden("imatrix.f32", importance, sizeof importance)) {
        print_message("skipped: no reference blocks in " GOLDEN "\n");
        skip();
    }
    for (uint32_t t = 0; t < TYPES; t++) {
        char name[32];
        double ratios[ROWS];
        size_t n = 0;
        snprintf(name, sizeof name, "%s.f32", types[t].golden);
        assert_true(read_golden(name, theirs, sizeof theirs));
        for (int r = 0; r < ROWS; r++) {
            encode_row(types[t].type, x[r], importance, COLUMNS, row);
            decode(types[t].type, row, ours, COLUMNS);
            const double our_error = sqrt(weighted_error(x[r], ours, importance, COLUMNS)),
                         their_error = sqrt(weighted_error(x[r], theirs[r], importance, COLUMNS));
            if (our_error > 1.01 * their_error + 1e-12)
                fail_test("%s, row %d: weighted error %g, another quantizer's %g", types[t].golden, r, our_error, their_error);
            if (their_error > 0) ratios[n++] = our_error / their_error;
        }
        qsort(ratios, n, sizeof *ratios, ascending);
        print_message("%s: %.3f of another quantizer's weighted error; %.3f at worst\n", types[t].golden, ratios[n / 2],
                      ratios[n - 1]);
        assert_true(ratios[n / 2] < 0.97);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_entry_is_better),    cmocka_unit_test(no_code_is_better), cmocka_unit_test(instruction_sets_agree),
        cmocka_unit_test(extreme_rows),          cmocka_unit_test(any_bits),          cmocka_unit_test(importance_counts),
        cmocka_unit_test(no_worse_than_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
