/* Sixteen floats of AVX-512 under the names that ops_vec.h and attention_vec.h are written in. vec_avx2.h has the same names.
 */
#ifndef COLDSTREAM_VEC_AVX512_H
#define COLDSTREAM_VEC_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef __m512 vf;  /* floats */
typedef __m512d vd; /* doubles: half as many */

enum {
    LANES = 16,
    ACCS = 16,    /* accumulators of a register block: two fused multiply-adds a cycle need 8, 16 save loads */
    PARITIES = 2, /* partial sums of a score, see attention_vec.h */
};

static inline vf vf_set1(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }

static inline __mmask16 vec_mask(size_t n) { return (__mmask16)((1u << n) - 1); }
/* The first n < LANES elements; the others read as 0 and are not written. */
static inline vf vf_load_n(const float *p, size_t n) { return _mm512_maskz_loadu_ps(vec_mask(n), p); }
static inline void vf_store_n(float *p, vf x, size_t n) { _mm512_mask_storeu_ps(p, vec_mask(n), x); }

static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a*b */
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }              /* b where either is NaN */
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }              /* b where either is NaN */
static inline vf vf_round(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* x where at <= limit, else other */
static inline vf vf_where_le(vf at, vf limit, vf x, vf other) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(at, limit, _CMP_LE_OQ), other, x);
}
/* x * 2^n for integral n */
static inline vf vf_scale(vf x, vf n) { return _mm512_scalef_ps(x, n); }

static inline vf vf_from_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline void vf_to_f16(uint16_t *p, vf x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

/* p[0] in even lanes, p[1] in odd ones */
static inline vf vf_set_pair(const float *p) {
    double pair;
    memcpy(&pair, p, sizeof pair);
    return _mm512_castpd_ps(_mm512_set1_pd(pair));
}
/* x plus its neighbour lane */
static inline vf vf_pair_sum(vf x) { return _mm512_add_ps(x, _mm512_permute_ps(x, 0xB1)); }

static inline vd vd_zero(void) { return _mm512_setzero_pd(); }
static inline vd vd_low(vf x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
static inline vd vd_high(vf x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
static inline vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
static inline double vd_total(vd x) { return _mm512_reduce_add_pd(x); }

#endif
