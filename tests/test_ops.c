/* Norm, rotation, activation, softmax, conversion and attention: every instruction set against exact values in double.
 *
 * The error of a variant may be twice the reference's plus a floor of a few binary32 roundings of the terms that enter it.
 * Buffers have their exact size and canaries behind them, outputs and scratch start as NaN, and rows that must not be read
 * hold NaN. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"

#define ULP 0x1p-24 /* half a unit of the last place of 1, binary32 */
enum { CANARY = 8 };

struct variant {
    struct cpu_ops ops, ref;
};

static int open_variant(void **state, enum cpu_isa isa) {
    static struct variant variants[ISA_COUNT];
    struct variant *v = &variants[isa];
    cpu_ops_init(&v->ref, ISA_REF);
    cpu_ops_init(&v->ops, isa);
    *state = v;
    if (v->ops.isa != isa) {
        printf("skipped: this machine has no %s\n", cpu_isa_name(isa));
        *state = NULL;
    }
    return 0;
}

static int open_ref(void **state) { return open_variant(state, ISA_REF); }
static int open_avx2(void **state) { return open_variant(state, ISA_AVX2); }
static int open_avx512(void **state) { return open_variant(state, ISA_AVX512); }

static const struct variant *variant(void **state) {
    if (*state == NULL) skip();
    return *state;
}

/* ---- numbers and buffers ----------------------------------------------------------------------------------------------- */

static uint32_t next(uint32_t *seed) { return *seed = *seed * 1664525u + 1013904223u; }
static float uniform(uint32_t *seed) { return (float)(next(seed) >> 8) * 0x1p-23f - 1; }

static float *floats(size_t n) { /* NaN everywhere, canaries behind */
    float *p = malloc((n + CANARY) * sizeof *p);
    assert_non_null(p);
    memset(p, 0xff, (n + CANARY) * sizeof *p);
    return p;
}

static float *random_floats(size_t n, float scale, uint32_t seed) {
    float *p = floats(n);
    for (size_t i = 0; i < n; i++) p[i] = uniform(&seed) * scale;
    return p;
}

static void check_canary(const void *end) {
    for (size_t i = 0; i < CANARY * sizeof(float); i++) assert_int_equal(((const uint8_t *)end)[i], 0xff);
}

static float *copy_of(const float *from, size_t n) {
    float *p = floats(n);
    memcpy(p, from, n * sizeof *p);
    return p;
}

struct worst {
    double variant, ref; /* largest error relative to `terms` */
};

static void note(struct worst *w, double exact, double variant_value, double ref_value, double terms) {
    assert_false(isnan(variant_value));
    w->variant = fmax(w->variant, fabs(variant_value - exact) / terms);
    w->ref = fmax(w->ref, fabs(ref_value - exact) / terms);
}

static void check(const struct worst *w, double floor, const char *what, size_t n) {
    if (w->variant <= 2 * w->ref + floor) return;
    print_error("%s, size %zu: error %g, reference %g, floor %g\n", what, n, w->variant, w->ref, floor);
    assert_true(false);
}

static const size_t sizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 768, 2048, 2051};
#define FOR_SIZES(n)                                                                                                           \
    for (size_t s_ = 0, n = sizes[0]; s_ < sizeof sizes / sizeof *sizes; n = sizes[++s_ % (sizeof sizes / sizeof *sizes)])

/* ---- vector operations -------------------------------------------------------------------------------------------------- */

static void one_norm(const struct variant *v, size_t n, float scale, float eps) {
    float *x = random_floats(n, scale, (uint32_t)n), *gain = random_floats(n, 3, 7), *out = floats(n), *ref = floats(n);
    struct worst w = {0};
    double squares = 0;
    v->ops.rmsnorm(x, gain, n, eps, out);
    v->ref.rmsnorm(x, gain, n, eps, ref);
    check_canary(out + n);
    for (size_t i = 0; i < n; i++) squares += (double)x[i] * x[i];
    for (size_t i = 0; i < n; i++) {
        const double exact = (double)gain[i] * x[i] / sqrt(squares / (double)n + (double)eps);
        note(&w, exact, out[i], ref[i], fabs(exact) + 1e-40);
    }
    check(&w, 3 * ULP, "rmsnorm", n);
    v->ops.rmsnorm(x, gain, n, eps, x); /* in place */
    assert_memory_equal(x, out, n * sizeof *x);
    free(x), free(gain), free(out), free(ref);
}

static void norm(void **state) {
    const struct variant *v = variant(state);
    FOR_SIZES(n) {
        one_norm(v, n, 1, 1e-6f);
        one_norm(v, n, 1e25f, 1e-6f); /* squares beyond binary32 */
        one_norm(v, n, 1e-8f, 1e-6f);
    }
    float zero[5] = {0}, gain[5] = {1, 1, 1, 1, 1};
    v->ops.rmsnorm(zero, gain, 5, 1e-6f, zero);
    for (int i = 0; i < 5; i++) assert_true(zero[i] == 0);
}

static void rotation(void **state) {
    const struct variant *v = variant(state);
    FOR_SIZES(half) {
        float *x = random_floats(2 * half, 10, 3), *c = floats(half), *s = floats(half);
        for (size_t r = 0; r < half; r++) c[r] = cosf((float)r), s[r] = sinf((float)r);
        float *out = copy_of(x, 2 * half), *ref = copy_of(x, 2 * half);
        struct worst w = {0};
        v->ops.rope(out, c, s, half);
        v->ref.rope(ref, c, s, half);
        check_canary(out + 2 * half);
        for (size_t r = 0; r < half; r++) {
            const double a = (double)x[r], b = (double)x[r + half], terms = fabs(a) + fabs(b);
            note(&w, a * c[r] - b * s[r], out[r], ref[r], terms);
            note(&w, a * s[r] + b * c[r], out[r + half], ref[r + half], terms);
        }
        check(&w, 2 * ULP, "rope", half);
        free(x), free(c), free(s), free(out), free(ref);
    }
}

static void activation(void **state) {
    const struct variant *v = variant(state);
    FOR_SIZES(n) {
        float *gate = random_floats(n, 4, 5), *up = random_floats(n, 3, 9), *out = floats(n), *ref = floats(n);
        const float special[] = {0, -0.0f, 60, -60, 88.5f, -88, 200, -200, 3e38f, -3e38f, 1e-30f, -1e-40f};
        for (size_t i = 0; i < n && i < sizeof special / sizeof *special; i++) gate[n - 1 - i] = special[i];
        struct worst w = {0};
        v->ops.swiglu(gate, up, n, out);
        v->ref.swiglu(gate, up, n, ref);
        check_canary(out + n);
        for (size_t i = 0; i < n; i++) {
            const double g = (double)gate[i], exact = g / (1 + exp(-g)) * up[i];
            if (fabs(exact) > 3.4e38) continue;
            note(&w, exact, out[i], ref[i], fabs(exact) + 1e-29); /* below e^-88 the result is 0 */
        }
        check(&w, 6 * ULP, "swiglu", n);
        v->ops.swiglu(gate, up, n, gate);
        assert_memory_equal(gate, out, n * sizeof *out);
        free(gate), free(up), free(out), free(ref);
    }
    float bad[3] = {NAN, 1, NAN}, one[3] = {1, 1, 1};
    v->ops.swiglu(bad, one, 3, bad);
    assert_true(isnan(bad[0]) && !isnan(bad[1]) && isnan(bad[2]));
}

static void probabilities(void **state) {
    const struct variant *v = variant(state);
    const float scales[] = {0, 1, 30, 1e4f, 1e38f};
    for (size_t k = 0; k < 5; k++) FOR_SIZES(n) {
            float *x = random_floats(n, scales[k], (uint32_t)n + 1);
            float *out = copy_of(x, n), *ref = copy_of(x, n), max = -INFINITY;
            struct worst w = {0};
            double sum = 0;
            v->ops.softmax(out, n);
            v->ref.softmax(ref, n);
            check_canary(out + n);
            for (size_t i = 0; i < n; i++) max = fmaxf(max, x[i]);
            for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - (double)max);
            for (size_t i = 0; i < n; i++) { /* x - max is rounded, and e^ makes its absolute error relative */
                const double below = fmin((double)max - x[i], 120), exact = exp((double)x[i] - (double)max) / sum;
                note(&w, exact, out[i], ref[i], exact * (1 + below / 4) + 1e-36);
            }
            check(&w, 5 * ULP, "softmax", n);
            free(x), free(out), free(ref);
        }
    float masked[20];
    for (int i = 0; i < 20; i++) masked[i] = i == 13 ? -5 : -INFINITY;
    v->ops.softmax(masked, 20);
    for (int i = 0; i < 20; i++) assert_true(masked[i] == (i == 13));
}

static void scaled_sum(void **state) {
    const struct variant *v = variant(state);
    FOR_SIZES(n) {
        float *x = random_floats(n, 2, 11), *y = random_floats(n, 5, 13), *out = copy_of(y, n), *ref = copy_of(y, n);
        struct worst w = {0};
        v->ops.axpy(0.37f, x, n, out);
        v->ref.axpy(0.37f, x, n, ref);
        check_canary(out + n);
        for (size_t i = 0; i < n; i++)
            note(&w, (double)0.37f * x[i] + y[i], out[i], ref[i], fabs(0.37 * x[i]) + fabs((double)y[i]));
        check(&w, 0, "axpy", n);
        free(x), free(y), free(out), free(ref);
    }
}

static void half_floats(void **state) {
    const struct variant *v = variant(state);
    float *x = floats(1 << 16);
    uint16_t *out = malloc((1 << 17) + CANARY * sizeof(float));
    assert_non_null(out);
    for (uint32_t phase = 0; phase < 3; phase++) {
        uint32_t seed = 17;
        memset(out, 0xff, (1 << 17) + CANARY * sizeof(float));
        for (uint32_t i = 0; i < 1 << 16; i++) { /* every binary16, the middles between neighbours, random bits */
            uint32_t bits = next(&seed) ^ next(&seed) >> 16;
            if (phase < 2) x[i] = f16_to_f32((uint16_t)i);
            if (phase == 1) x[i] = (x[i] + f16_to_f32((uint16_t)(i + 1))) / 2;
            if (phase == 2) memcpy(&x[i], &bits, sizeof bits);
        }
        const size_t n = (1 << 16) - phase;
        v->ops.to_f16(x, n, out);
        check_canary(out + n);
        for (size_t i = 0; i < n; i++)
            if (isnan(x[i]))
                assert_true(isnan(f16_to_f32(out[i])));
            else
                assert_int_equal(out[i], f32_to_f16(x[i]));
    }
    free(x), free(out);
}

/* ---- attention ------------------------------------------------------------------------------------------------------------
 */

struct shape {
    size_t group, dh, n, first;
    size_t kv_extra, q_extra; /* strides beyond the minimum */
    float q_scale, k_scale;
};

struct problem {
    struct attention a;
    size_t q_floats, positions;
    void *scratch_base;
};

static uint16_t *random_halves(size_t rows, size_t dh, size_t stride, float scale, uint32_t seed) {
    uint16_t *p = malloc(rows * stride * sizeof *p);
    assert_non_null(p);
    memset(p, 0xff, rows * stride * sizeof *p); /* NaN between rows */
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < dh; c++) p[r * stride + c] = f32_to_f16(uniform(&seed) * scale);
    return p;
}

/* The rows after the last visible position hold NaN. */
static void make(const struct shape *s, struct problem *p) {
    const size_t positions = s->first + s->n, rows = positions + 3, kv_stride = s->dh + s->kv_extra;
    const size_t q_stride = s->group * s->dh + s->q_extra;
    uint16_t *k = random_halves(rows, s->dh, kv_stride, s->k_scale, 21), *v = random_halves(rows, s->dh, kv_stride, 1, 22);
    memset(k + positions * kv_stride, 0xff, 3 * kv_stride * sizeof *k);
    memset(v + positions * kv_stride, 0xff, 3 * kv_stride * sizeof *v);
    p->q_floats = s->n * q_stride;
    p->positions = positions;
    p->a = (struct attention){.q = random_floats(p->q_floats, s->q_scale, 23),
                              .q_stride = q_stride,
                              .group = s->group,
                              .dh = s->dh,
                              .n = s->n,
                              .k = k,
                              .v = v,
                              .kv_stride = kv_stride,
                              .first = s->first,
                              .scale = 1 / sqrtf((float)s->dh),
                              .out_stride = q_stride};
}

static void unmake(struct problem *p) { free((void *)p->a.q), free((void *)p->a.k), free((void *)p->a.v); }

/* Run into a fresh buffer; scratch has its exact size, filled with NaN. */
static float *run(const struct cpu_ops *ops, const struct problem *p, size_t begin, size_t n) {
    const size_t scratch_bytes = attention_scratch_bytes(p->a.group, p->a.dh);
    struct attention a = p->a;
    float *out = floats(p->q_floats);
    uint8_t *scratch = aligned_alloc(64, scratch_bytes + 64);
    assert_non_null(scratch);
    memset(scratch, 0xff, scratch_bytes + 64);
    a.q += begin * a.q_stride;
    a.out = out + begin * a.out_stride;
    a.first += begin;
    a.n = n;
    a.scratch = scratch;
    ops->attention(&a);
    check_canary(scratch + scratch_bytes);
    check_canary(out + p->q_floats);
    free(scratch);
    return out;
}

/* The exact mix of one query head; terms = the same sum over |v|, and `scores` the largest scale * sum |q k|. */
static void exact_row(const struct attention *a, const float *q, size_t end, double *out, double *terms, double *scores) {
    double *s = malloc(end * sizeof *s), max = -INFINITY, total = 0;
    assert_non_null(s);
    *scores = 0;
    for (size_t p = 0; p < end; p++) {
        double sum = 0, absolute = 0;
        for (size_t c = 0; c < a->dh; c++) {
            const double product = (double)q[c] * (double)f16_to_f32(a->k[p * a->kv_stride + c]);
            sum += product;
            absolute += fabs(product);
        }
        s[p] = sum * (double)a->scale;
        max = fmax(max, s[p]);
        *scores = fmax(*scores, absolute * (double)a->scale);
    }
    memset(out, 0, a->dh * sizeof *out);
    memset(terms, 0, a->dh * sizeof *terms);
    for (size_t p = 0; p < end; p++) total += exp(s[p] - max);
    for (size_t p = 0; p < end; p++)
        for (size_t c = 0; c < a->dh; c++) {
            const double value = (double)f16_to_f32(a->v[p * a->kv_stride + c]), weight = exp(s[p] - max) / total;
            out[c] += weight * value;
            terms[c] += weight * fabs(value);
        }
    free(s);
}

static void check_attention(const struct variant *v, const struct shape *s) {
    struct problem p;
    struct worst w = {0};
    make(s, &p);
    float *out = run(&v->ops, &p, 0, s->n), *ref = run(&v->ref, &p, 0, s->n);
    double *exact = malloc(2 * s->dh * sizeof *exact);
    assert_non_null(exact);
    for (size_t i = 0; i < s->n; i++)
        for (size_t h = 0; h < s->group; h++) {
            const size_t at = i * p.a.q_stride + h * s->dh;
            double scores;
            exact_row(&p.a, p.a.q + at, s->first + i + 1, exact, exact + s->dh, &scores);
            for (size_t c = 0; c < s->dh; c++)
                note(&w, exact[c], out[at + c], ref[at + c], exact[s->dh + c] * (8 + 2 * scores) + 1e-40);
        }
    for (size_t i = 0; i < s->n; i++)
        for (size_t c = s->group * s->dh; c < p.a.q_stride; c++) assert_true(isnan(out[i * p.a.q_stride + c]));
    char what[96];
    snprintf(what, sizeof what, "attention group %zu dh %zu n %zu first %zu", s->group, s->dh, s->n, s->first);
    check(&w, ULP, what, s->n);
    free(exact), free(out), free(ref);
    unmake(&p);
}

static void attention_shapes(void **state) {
    const struct variant *v = variant(state);
    const size_t groups[] = {1, 2, 3, 4, 7, 8, 9, 12, 16, 17, 40, 130}, widths[] = {2, 6, 16, 32, 64, 128, 130};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (size_t d = 0; d < sizeof widths / sizeof *widths; d++) {
            const size_t dh = widths[d], group = groups[g];
            check_attention(v, &(struct shape){group, dh, 1, 0, 0, 0, 1, 1});
            check_attention(v, &(struct shape){group, dh, 1, 62 + g, 3, 0, 2, 1});
            if (group * dh < 2000) check_attention(v, &(struct shape){group, dh, 5 + g, 57 + d, 0, 5, 2, 1});
        }
}

static void attention_batches(void **state) {
    const struct variant *v = variant(state);
    check_attention(v, &(struct shape){8, 128, 33, 0, 0, 0, 3, 1});
    check_attention(v, &(struct shape){8, 128, 32, 96, 0, 0, 3, 1});
    check_attention(v, &(struct shape){2, 16, 200, 0, 0, 16, 3, 1});
    check_attention(v, &(struct shape){1, 64, 130, 70, 64, 0, 3, 1});
}

static void attention_long(void **state) {
    const struct variant *v = variant(state);
    check_attention(v, &(struct shape){8, 128, 1, 9000, 0, 0, 2, 1});
    check_attention(v, &(struct shape){2, 16, 1, 70000, 0, 0, 2, 1});
    check_attention(v, &(struct shape){1, 32, 3, 30000, 0, 0, 0, 1}); /* all scores equal: the plain mean */
}

static void attention_huge_scores(void **state) {
    const struct variant *v = variant(state);
    const float scales[] = {30, 1e4f, 1e20f, 1e30f};
    for (size_t i = 0; i < 4; i++) {
        check_attention(v, &(struct shape){8, 64, 9, 150, 0, 0, scales[i], 1});
        check_attention(v, &(struct shape){3, 32, 1, 100, 0, 0, scales[i], 60000});
    }
}

static void attention_of_the_first_position_is_its_value(void **state) {
    const struct variant *v = variant(state);
    struct problem p;
    make(&(struct shape){8, 128, 1, 0, 0, 0, 5, 1}, &p);
    float *out = run(&v->ops, &p, 0, 1);
    for (size_t i = 0; i < 8 * 128; i++) assert_true(out[i] == f16_to_f32(p.a.v[i % 128]));
    free(out);
    unmake(&p);
}

/* The same bits alone, in small batches and in one large one. */
static void attention_is_independent_of_the_batch(void **state) {
    const struct variant *v = variant(state);
    const struct shape shapes[] = {{8, 128, 70, 30, 0, 0, 3, 1},
                                   {12, 64, 20, 130, 0, 0, 3, 1},
                                   {1, 16, 150, 0, 0, 0, 3, 1},
                                   {5, 30, 40, 50, 0, 0, 3, 1},
                                   {16, 32, 11, 60, 0, 0, 3, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct problem p;
        make(&shapes[i], &p);
        float *all = run(&v->ops, &p, 0, shapes[i].n);
        for (size_t step = 1; step <= 7; step += 3)
            for (size_t begin = 0; begin < shapes[i].n; begin += step) {
                const size_t n = shapes[i].n - begin < step ? shapes[i].n - begin : step;
                float *some = run(&v->ops, &p, begin, n);
                assert_memory_equal(some + begin * p.a.q_stride, all + begin * p.a.q_stride, n * p.a.q_stride * sizeof *all);
                free(some);
            }
        free(all);
        unmake(&p);
    }
}

static void attention_shows_bad_input(void **state) {
    const struct variant *v = variant(state);
    struct problem p;
    make(&(struct shape){2, 16, 2, 5, 0, 0, 1, 1}, &p);
    ((float *)p.a.q)[16 + 3] = NAN; /* head 1 of query 0 */
    float *out = run(&v->ops, &p, 0, 2);
    for (size_t c = 0; c < 64; c++) assert_int_equal(isnan(out[c]) != 0, c / 16 == 1);
    free(out);
    unmake(&p);
}

static void attention_scratch_is_small(void **state) {
    (void)state;
    assert_true(attention_scratch_bytes(8, 128) < 1 << 20);
    assert_true(attention_scratch_bytes(64, 256) < 1 << 20);
}

#define TESTS_OF(setup)                                                                                                        \
    cmocka_unit_test_setup(norm, setup), cmocka_unit_test_setup(rotation, setup), cmocka_unit_test_setup(activation, setup),   \
        cmocka_unit_test_setup(probabilities, setup), cmocka_unit_test_setup(scaled_sum, setup),                               \
        cmocka_unit_test_setup(half_floats, setup), cmocka_unit_test_setup(attention_shapes, setup),                           \
        cmocka_unit_test_setup(attention_batches, setup), cmocka_unit_test_setup(attention_long, setup),                       \
        cmocka_unit_test_setup(attention_huge_scores, setup),                                                                  \
        cmocka_unit_test_setup(attention_of_the_first_position_is_its_value, setup),                                           \
        cmocka_unit_test_setup(attention_is_independent_of_the_batch, setup),                                                  \
        cmocka_unit_test_setup(attention_shows_bad_input, setup)

int main(void) {
    const struct CMUnitTest tests[] = {TESTS_OF(open_ref), TESTS_OF(open_avx2), TESTS_OF(open_avx512),
                                       cmocka_unit_test(attention_scratch_is_small)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
