/* Body of ops_avx2.c and ops_avx512.c: norm, rotation, activation, softmax over the vector names of vec_<isa>.h, which is
 * included first. Touches only its arguments; every length works, tails go through masked loads and stores. */
#ifndef COLDSTREAM_OPS_VEC_H
#define COLDSTREAM_OPS_VEC_H

#include <math.h>
#include <string.h>

#include "cpu/vec_exp.h"

static void rmsnorm(const float *x, const float *gain, size_t n, float eps, float *out) {
    vd low = vd_zero(), high = vd_zero();
    const size_t whole = n / LANES * LANES, rest = n - whole;
    for (size_t i = 0; i < whole; i += LANES) {
        const vf v = vf_load(x + i);
        low = vd_fma(vd_low(v), vd_low(v), low);
        high = vd_fma(vd_high(v), vd_high(v), high);
    }
    if (rest) {
        const vf v = vf_load_n(x + whole, rest);
        low = vd_fma(vd_low(v), vd_low(v), low);
        high = vd_fma(vd_high(v), vd_high(v), high);
    }
    const vf scale = vf_set1((float)(1 / sqrt(vd_total(vd_add(low, high)) / (double)n + (double)eps)));
    for (size_t i = 0; i < whole; i += LANES) vf_store(out + i, vf_load(x + i) * scale * vf_load(gain + i));
    if (rest) vf_store_n(out + whole, vf_load_n(x + whole, rest) * scale * vf_load_n(gain + whole, rest), rest);
}

static inline void rotate(vf *a, vf *b, vf c, vf s) {
    const vf old = *a;
    *a = vf_fnma(*b, s, old * c);
    *b = vf_fma(old, s, *b * c);
}

static void rope(float *x, const float *cos, const float *sin, size_t half) {
    const size_t whole = half / LANES * LANES, rest = half - whole;
    for (size_t r = 0; r < whole; r += LANES) {
        vf a = vf_load(x + r), b = vf_load(x + half + r);
        rotate(&a, &b, vf_load(cos + r), vf_load(sin + r));
        vf_store(x + r, a);
        vf_store(x + half + r, b);
    }
    if (rest) {
        vf a = vf_load_n(x + whole, rest), b = vf_load_n(x + half + whole, rest);
        rotate(&a, &b, vf_load_n(cos + whole, rest), vf_load_n(sin + whole, rest));
        vf_store_n(x + whole, a, rest);
        vf_store_n(x + half + whole, b, rest);
    }
}

static inline vf silu(vf x) {
    const vf one = vf_set1(1);
    return x / (one + vf_exp(-x));
}

static void swiglu(const float *gate, const float *up, size_t n, float *out) {
    const size_t whole = n / LANES * LANES, rest = n - whole;
    for (size_t i = 0; i < whole; i += LANES) vf_store(out + i, silu(vf_load(gate + i)) * vf_load(up + i));
    if (rest) vf_store_n(out + whole, silu(vf_load_n(gate + whole, rest)) * vf_load_n(up + whole, rest), rest);
}

static void softmax(float *x, size_t n) {
    const size_t whole = n / LANES * LANES;
    float max = -INFINITY, lane[LANES];
    vf highest = vf_set1(max);
    for (size_t i = 0; i < whole; i += LANES) highest = vf_max(highest, vf_load(x + i));
    vf_store(lane, highest);
    for (size_t i = 0; i < LANES; i++) max = fmaxf(max, lane[i]);
    for (size_t i = whole; i < n; i++) max = fmaxf(max, x[i]);

    const vf top = vf_set1(max);
    vd low = vd_zero(), high = vd_zero();
    for (size_t i = 0; i < whole; i += LANES) {
        const vf e = vf_exp(vf_load(x + i) - top);
        vf_store(x + i, e);
        low = vd_add(low, vd_low(e));
        high = vd_add(high, vd_high(e));
    }
    double sum = vd_total(vd_add(low, high));
    if (whole < n) {
        vf_store(lane, vf_exp(vf_load_n(x + whole, n - whole) - top));
        memcpy(x + whole, lane, (n - whole) * sizeof *x);
        for (size_t i = whole; i < n; i++) sum += (double)x[i];
    }
    const float factor = (float)(1 / sum);
    for (size_t i = 0; i < whole; i += LANES) vf_store(x + i, vf_load(x + i) * vf_set1(factor));
    for (size_t i = whole; i < n; i++) x[i] *= factor;
}

static void axpy(float a, const float *x, size_t n, float *y) {
    const size_t whole = n / LANES * LANES, rest = n - whole;
    const vf factor = vf_set1(a);
    for (size_t i = 0; i < whole; i += LANES) vf_store(y + i, vf_fma(factor, vf_load(x + i), vf_load(y + i)));
    if (rest) vf_store_n(y + whole, vf_fma(factor, vf_load_n(x + whole, rest), vf_load_n(y + whole, rest)), rest);
}

static void to_f16(const float *x, size_t n, uint16_t *out) {
    const size_t whole = n / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES) vf_to_f16(out + i, vf_load(x + i));
    if (whole < n) {
        uint16_t tail[LANES];
        vf_to_f16(tail, vf_load_n(x + whole, n - whole));
        memcpy(out + whole, tail, (n - whole) * sizeof *out);
    }
}

static void fill_ops(struct cpu_ops *ops) {
    ops->rmsnorm = rmsnorm;
    ops->rope = rope;
    ops->swiglu = swiglu;
    ops->softmax = softmax;
    ops->axpy = axpy;
    ops->to_f16 = to_f16;
}

#endif
