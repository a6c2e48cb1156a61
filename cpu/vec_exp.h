/* exp of a vector, over the names of vec_<isa>.h, which is included first. */
#ifndef COLDSTREAM_VEC_EXP_H
#define COLDSTREAM_VEC_EXP_H

/* e^x = 2^n * e^r with n = round(x / ln 2), |r| <= ln(2)/2, and e^r = 1 + r + r^2 p(r) where p is a Chebyshev fit of degree 4
 * (relative error 1.1e-8 before rounding). ln 2 is split so that n times its upper part is exact. Every 17th float between
 * -120 and 120 was compared with exp(): at most 1.08 ulp, 0.75 units of the last place where the result is subnormal. Above the
 * range the result is infinity, below it 0; NaN stays NaN. */
static inline vf vf_exp(vf x) {
    x = vf_max(vf_set1(-104), vf_min(vf_set1(89), x)); /* this operand order lets NaN through */
    const vf n = vf_round(x * vf_set1(0x1.715476p+0f));
    const vf r = vf_fnma(n, vf_set1(0x1.7f7d1cp-20f), vf_fnma(n, vf_set1(0x1.62e4p-1f), x));
    vf p = vf_fma(vf_set1(0x1.6d110ap-10f), r, vf_set1(0x1.120b6ep-7f));
    p = vf_fma(p, r, vf_set1(0x1.55551ap-5f));
    p = vf_fma(p, r, vf_set1(0x1.5554dcp-3f));
    p = vf_fma(p, r, vf_set1(0x1p-1f));
    return vf_scale(vf_fma(p, r * r, r) + vf_set1(1), n);
}

#endif
