/* Writing weights: what comes back for every type and kind of row, that importance is obeyed, that no row makes a scale that is
 * not finite, that the instruction set does not change a byte, and that blocks are as good as another quantizer's. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/encode.h"
#include "cpu/encode_private.h"
#include "tests/support/row_error.h"
#include "tests/support/sample.h"

enum { K = 512, GUARD = 64 };

static float normal(uint64_t *s) {
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += uniform(s);
    return sum / 2;
}

static float heavy(uint64_t *s) { /* many small, few large: a normal over another's magnitude */
    return normal(s) / (0.2f + fabsf(normal(s)));
}

static const char *type_name(enum tensor_type type) { return tensor_type_info(type)->name; }

static size_t row_bytes_of(enum tensor_type type, size_t k) {
    uint64_t bytes = 0;
    assert_true(tensor_row_bytes(type, k, &bytes));
    return bytes;
}

static void decode(enum tensor_type type, const void *row, float *out, size_t k) {
    struct cpu_ops ops;
    cpu_ops_init(&ops, ISA_REF);
    assert_non_null(ops.types[type].dequant);
    ops.types[type].dequant(row, out, k);
}

/* Encode into a row of exactly its bytes, checking that nothing beside it is touched, and decode. */
static bool round_trip(enum tensor_type type, const float *x, const float *importance, float *out, size_t k) {
    const size_t bytes = row_bytes_of(type, k);
    uint8_t *row = malloc(bytes + 2 * GUARD);
    assert_non_null(row);
    memset(row, 0xa5, bytes + 2 * GUARD);
    const bool finite = encode_row(type, x, importance, k, row + GUARD);
    for (size_t i = 0; i < GUARD; i++)
        if (row[i] != 0xa5 || row[GUARD + bytes + i] != 0xa5) fail_test("%s: wrote beside its row", type_name(type));
    decode(type, row + GUARD, out, k);
    for (size_t i = 0; i < k; i++)
        if (!isfinite(out[i])) fail_test("%s: weight %zu comes back as %g", type_name(type), i, (double)out[i]);
    free(row);
    return finite;
}

static double error_of(const float *x, const float *y, const float *w, size_t k) { return sqrt(row_error(x, y, w, k)); }

#define EACH_TYPE(type)                                                                                                        \
    for (enum tensor_type type = (enum tensor_type)0; type < TYPE_COUNT; type++)                                               \
        if (encode_supports(type))

/* ---- errors ----------------------------------------------------------------------------------------------------- */

/* The root of the mean squared error, in parts of the numbers' own, of near-normal numbers and of heavier tails: 0.5 % above
 * what was measured, so that a search that became worse shows. */
static const struct bound {
    enum tensor_type type;
    float normal, heavy;
} bounds[] = {
    {TYPE_F32, 0, 0},
    {TYPE_F16, 0.000216f, 0.000216f},
    {TYPE_BF16, 0.001673f, 0.001683f},
    {TYPE_Q4_0, 0.07997f, 0.1183f},
    {TYPE_Q4_1, 0.06918f, 0.08979f},
    {TYPE_Q5_0, 0.03987f, 0.06009f},
    {TYPE_Q5_1, 0.03348f, 0.04345f},
    {TYPE_Q8_0, 0.004739f, 0.00706f},
    {TYPE_Q2_K, 0.2606f, 0.2965f},
    {TYPE_Q3_K, 0.1429f, 0.1864f},
    {TYPE_Q4_K, 0.06964f, 0.09045f},
    {TYPE_Q5_K, 0.03389f, 0.04414f},
    {TYPE_Q6_K, 0.01633f, 0.02291f},
    {TYPE_IQ4_NL, 0.07321f, 0.09479f},
    {TYPE_IQ4_XS, 0.07359f, 0.09523f},
    {TYPE_MXFP4, 0.1113f, 0.132f},
    {TYPE_IQ2_K, 0.2715f, 0.3148f},
    {TYPE_IQ3_K, 0.1287f, 0.1493f},
    {TYPE_IQ4_K, 0.06099f, 0.07182f},
    {TYPE_IQ5_K, 0.03003f, 0.03611f},
    {TYPE_IQ6_K, 0.01381f, 0.01615f},
    {TYPE_IQ4_KS, 0.07105f, 0.09147f},
    {TYPE_Q6_0, 0.01941f, 0.0294f},
    {TYPE_IQ2_KS, 0.2986f, 0.3743f},
    {TYPE_IQ2_KL, 0.226f, 0.2529f},
    {TYPE_IQ3_KS, 0.1472f, 0.1852f},
    {TYPE_IQ4_KSS, 0.08587f, 0.1156f},
    {TYPE_IQ5_KS, 0.03517f, 0.04545f},
};

static void errors_are_small(void **state) {
    (void)state;
    enum { N = 4096 };
    static float x[N], y[N];
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        const struct bound *b = &bounds[i];
        uint64_t seed = 5;
        for (int j = 0; j < N; j++) x[j] = 0.02f * normal(&seed);
        assert_true(round_trip(b->type, x, NULL, y, N));
        const double plain = error_of(x, y, NULL, N);
        for (int j = 0; j < N; j++) x[j] = heavy(&seed);
        assert_true(round_trip(b->type, x, NULL, y, N));
        const double tails = error_of(x, y, NULL, N);
        if (plain > (double)b->normal || tails > (double)b->heavy)
            fail_test("%s: %.5f of normal numbers (at most %.5f), %.5f of heavy tails (%.5f)", type_name(b->type), plain,
                      (double)b->normal, tails, (double)b->heavy);
    }
}

static void importance_is_obeyed(void **state) {
    (void)state;
    enum { ROWS = 8 };
    float x[K], y[K], w[K];
    EACH_TYPE(type) {
        double with = 0, without = 0;
        uint64_t seed = 77;
        for (int i = 0; i < K; i++) w[i] = expf(1.5f * normal(&seed));
        for (int row = 0; row < ROWS; row++) {
            for (int i = 0; i < K; i++) x[i] = normal(&seed);
            round_trip(type, x, w, y, K);
            with += error_of(x, y, w, K);
            round_trip(type, x, NULL, y, K);
            without += error_of(x, y, w, K);
        }
        const bool searches = type != TYPE_F32 && type != TYPE_F16 && type != TYPE_BF16;
        if (with > without * (searches ? 0.995 : 1))
            fail_test("%s: weighted error %g with the importance, %g without", type_name(type), with / ROWS, without / ROWS);
    }
}

/* Where blocks share a row's scale, it suits the block that matters. */
static void blocks_of_a_row_count_by_importance(void **state) {
    (void)state;
    enum { ROWS = 16, TIMES = 10000 };
    float x[K], y[K], first[K], second[K];
    uint64_t seed = 8;
    for (int i = 0; i < K; i++) {
        first[i] = i < QK_K ? TIMES : 1;
        second[i] = i < QK_K ? 1 : TIMES;
    }
    EACH_TYPE(type) {
        if (!tensor_type_info(type)->row_meta_bytes) continue;
        double matters = 0, does_not = 0; /* errors of the first block */
        for (int row = 0; row < ROWS; row++) {
            for (int i = 0; i < K; i++) x[i] = normal(&seed);
            round_trip(type, x, first, y, K);
            matters += error_of(x, y, NULL, QK_K);
            round_trip(type, x, second, y, K);
            does_not += error_of(x, y, NULL, QK_K);
        }
        if (!(matters < does_not)) fail_test("%s: error %g where it matters, %g where not", type_name(type), matters, does_not);
    }
}

/* An importance that says nothing is as good as none: constant, zero, or not a number. */
static void useless_importance(void **state) {
    (void)state;
    float x[K], w[K], y[K], plain[K];
    uint64_t seed = 3;
    for (int i = 0; i < K; i++) x[i] = normal(&seed);
    EACH_TYPE(type) {
        round_trip(type, x, NULL, plain, K);
        const float values[] = {0, 1, 0x1p100f, 0x1p-140f, -1, NAN, INFINITY};
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            for (int i = 0; i < K; i++) w[i] = values[v];
            round_trip(type, x, w, y, K);
            if (memcmp(y, plain, sizeof y) != 0)
                fail_test("%s: an importance of %g everywhere changes the row", type_name(type), (double)values[v]);
        }
    }
}

/* ---- rows of every kind ----------------------------------------------------------------------------------------- */

enum { KINDS = 16 };

static void fill_row(int kind, float *x, size_t k, uint64_t *seed) {
    for (size_t i = 0; i < k; i++) {
        const float n = normal(seed), h = heavy(seed);
        switch (kind) {
        case 0: x[i] = 0; break;
        case 1: x[i] = 0.5f; break;
        case 2: x[i] = -0.37f; break;
        case 3: x[i] = i % 2 ? 1 : -1; break;
        case 4: x[i] = i == 137 ? 1e4f : 0; break;
        case 5: x[i] = i == 5 ? 100 : i == 300 ? -100 : 0.02f * n; break;
        case 6: x[i] = i < k / 2 ? 0 : 0.02f * n; break;
        case 7: x[i] = 1e-6f * n; break;
        case 8: x[i] = 1e-20f * n; break;
        case 9: x[i] = 0x1p-149f * (float)(i % 3); break;
        case 10: x[i] = 3e38f * uniform(seed); break;
        case 11: x[i] = 1e6f * n; break;
        case 12: x[i] = fabsf(n); break;
        case 13: x[i] = h * h * h; break;
        case 14: x[i] = (float)i / (float)k * 2 - 1; break;
        default: x[i] = i % 64 == 0 ? 3e38f : 1e-30f * n; break;
        }
    }
}

static void every_row_stays_finite(void **state) {
    (void)state;
    float x[K], y[K], w[K];
    uint64_t seed = 9;
    EACH_TYPE(type)
    for (int kind = 0; kind < KINDS; kind++) {
        fill_row(kind, x, K, &seed);
        for (int i = 0; i < K; i++) w[i] = i % 7 ? expf(2 * normal(&seed)) : 0;
        assert_true(round_trip(type, x, NULL, y, K));
        assert_true(round_trip(type, x, w, y, K));
        if (kind == 0)
            for (int i = 0; i < K; i++) assert_true(y[i] == 0);
    }
}

/* Constants and rows of two values lie on levels of most types; all come close. */
static void plain_rows_come_back(void **state) {
    (void)state;
    float x[K], y[K];
    uint64_t seed = 1;
    EACH_TYPE(type)
    for (int kind = 1; kind <= 3; kind++) {
        fill_row(kind, x, K, &seed);
        round_trip(type, x, NULL, y, K);
        const double error = error_of(x, y, NULL, K);
        if (error > 0.14) fail_test("%s: row of kind %d comes back with an error of %g", type_name(type), kind, error);
    }
}

static void what_is_not_finite_is_reported(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    float x[K], y[K], zeroed[K];
    uint64_t seed = 21;
    EACH_TYPE(type)
    for (size_t b = 0; b < 3; b++) {
        for (int i = 0; i < K; i++) x[i] = normal(&seed);
        x[3] = x[300] = 0;
        assert_true(round_trip(type, x, NULL, zeroed, K));
        x[3] = x[300] = bad[b];
        assert_false(round_trip(type, x, NULL, y, K));
        if (memcmp(y, zeroed, sizeof y) != 0)
            fail_test("%s: %g is not written as zero would be", type_name(type), (double)bad[b]);
    }
}

/* What a row decodes to can be written again without any loss to speak of: its levels and scales are there to be found. */
static void decoded_rows_come_back(void **state) {
    (void)state;
    float x[K], y[K], z[K];
    uint64_t seed = 31;
    EACH_TYPE(type) {
        for (int i = 0; i < K; i++) x[i] = normal(&seed);
        round_trip(type, x, NULL, y, K);
        round_trip(type, y, NULL, z, K);
        const double first = error_of(x, y, NULL, K), second = error_of(y, z, NULL, K);
        if (second > first / 2) fail_test("%s: error %g at first, %g of the decoded row", type_name(type), first, second);
    }
}

/* Rows that lie on levels already, both ends in use, with scales a binary16 can hold: exactly. */
static void exact_rows(void **state) {
    (void)state;
    static const struct exact {
        enum tensor_type type;
        int lo, hi;
        float unit;
    } types[] = {
        {TYPE_F32, -99, 99, 0.25f},      {TYPE_F16, -99, 99, 0.25f},        {TYPE_BF16, -99, 99, 0.25f},
        {TYPE_Q4_0, -8, 7, 0.25f},       {TYPE_Q4_1, -9, 6, 0.25f},         {TYPE_Q5_0, -16, 15, 0.25f},
        {TYPE_Q5_1, -3, 28, 0.25f},      {TYPE_Q6_0, -32, 31, 0.25f},       {TYPE_Q8_0, -127, 127, 0.5f},
        {TYPE_Q3_K, -4, 3, 0.25f},       {TYPE_Q6_K, -32, 31, 0.25f},       {TYPE_Q2_K, -1, 2, 15.0f / 64},
        {TYPE_Q4_K, -7, 8, 63.0f / 256}, {TYPE_Q5_K, -15, 16, 63.0f / 256},
    };
    float x[K], y[K];
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        uint64_t seed = 41 + t;
        const int count = types[t].hi - types[t].lo + 1;
        for (int i = 0; i < K; i++) {
            const int at = i % 16; /* both ends in every group of 16 */
            x[i] = types[t].unit * (float)(at == 0   ? types[t].lo
                                           : at == 1 ? types[t].hi
                                                     : types[t].lo + (int)(next_random(&seed) % (uint64_t)count));
        }
        round_trip(types[t].type, x, NULL, y, K);
        for (int i = 0; i < K; i++)
            if (x[i] != y[i])
                fail_test("%s: weight %d, %g, comes back as %g", type_name(types[t].type), i, (double)x[i], (double)y[i]);
    }
}

/* ---- the same bytes whoever writes ------------------------------------------------------------------------------- */

static void instruction_sets_agree(void **state) {
    (void)state;
    if (cpu_isa_best() == ISA_REF) skip();
    enum { MOST = 2048 + 256 };
    static float x[MOST], w[MOST];
    static uint8_t a[MOST * 4 + 16], b[MOST * 4 + 16];
    EACH_TYPE(type) {
        uint64_t seed = 13;
        const size_t block = tensor_type_info(type)->block_weights, k = block == 256 ? MOST : 2048 + 96;
        for (int kind = 0; kind <= KINDS; kind++) {
            fill_row(kind % KINDS, x, k, &seed);
            for (size_t i = 0; i < k; i++) w[i] = expf(normal(&seed));
            if (kind == KINDS)
                for (size_t i = 0; i < k; i++) x[i] = normal(&seed);
            encode_row_with(ISA_REF, type, x, w, k, a);
            encode_row_with(cpu_isa_best(), type, x, w, k, b);
            if (memcmp(a, b, row_bytes_of(type, k)) != 0) fail_test("%s: a row of kind %d differs", type_name(type), kind);
        }
    }
}

/* Blocks do not know their neighbours: a long row is its pieces, for types without a scale a row. */
static void rows_are_their_blocks(void **state) {
    (void)state;
    enum { LONG = 2 * ENCODE_PIECE + 512 };
    static float x[LONG], w[LONG];
    static uint8_t whole[LONG * 4], piece[K * 4];
    uint64_t seed = 19;
    for (int i = 0; i < LONG; i++) x[i] = normal(&seed), w[i] = expf(normal(&seed));
    EACH_TYPE(type) {
        if (tensor_type_info(type)->row_meta_bytes) continue;
        encode_row(type, x, w, LONG, whole);
        const size_t bytes = row_bytes_of(type, K);
        for (size_t i = 0; i < LONG / K; i++) {
            encode_row(type, x + i * K, w + i * K, K, piece);
            if (memcmp(whole + i * bytes, piece, bytes) != 0) fail_test("%s: piece %zu differs", type_name(type), i);
        }
    }
}

/* ---- against another quantizer ---------------------------------------------------------------------------------- */

static void *read_golden(const char *name, size_t *bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/golden/gguf/%s", SHARED_DIR, name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(f);
    rewind(f);
    void *data = malloc(*bytes);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *bytes, f), *bytes);
    fclose(f);
    return data;
}

/* Rows of 512 columns written by ik_llama.cpp's library with an importance: over the rows of weights as models have them, ours
 * are no worse. Rows 8 and up are oddities. */
static void no_worse_than_the_peer(void **state) {
    (void)state;
    enum { ROWS = 8 };
    size_t bytes;
    float *x = read_golden("input.f32", &bytes), *w = read_golden("imatrix.f32", &bytes), y[K];
    if (!x || !w) {
        print_message("no golden data: skipped\n");
        free(x);
        free(w);
        skip();
    }
    EACH_TYPE(type) {
        char name[64];
        size_t n = 0;
        for (const char *c = type_name(type); *c; c++) /* as its index spells them: q4_K, iq4_k */
            name[n++] = (*c == 'K' && type_name(type)[0] == 'Q') || *c < 'A' || *c > 'Z' ? *c : (char)(*c + 'a' - 'A');
        snprintf(name + n, sizeof name - n, ".bin");
        uint8_t *row = read_golden(name, &bytes);
        if (!row) continue;
        double ours = 0, theirs = 0;
        for (size_t r = 0; r < ROWS; r++) {
            decode(type, row + r * row_bytes_of(type, K), y, K);
            theirs += error_of(x + r * K, y, w, K);
            round_trip(type, x + r * K, w, y, K);
            ours += error_of(x + r * K, y, w, K);
        }
        free(row);
        if (ours > 1.01 * theirs) fail_test("%s: error %g, the peer's %g", type_name(type), ours / ROWS, theirs / ROWS);
    }
    free(x);
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_small),
        cmocka_unit_test(importance_is_obeyed),
        cmocka_unit_test(blocks_of_a_row_count_by_importance),
        cmocka_unit_test(useless_importance),
        cmocka_unit_test(every_row_stays_finite),
        cmocka_unit_test(plain_rows_come_back),
        cmocka_unit_test(what_is_not_finite_is_reported),
        cmocka_unit_test(decoded_rows_come_back),
        cmocka_unit_test(exact_rows),
        cmocka_unit_test(instruction_sets_agree),
        cmocka_unit_test(rows_are_their_blocks),
        cmocka_unit_test(no_worse_than_the_peer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
