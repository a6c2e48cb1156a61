/* Eight floats of AVX2 under the names that ops_vec.h and attention_vec.h are written in. vec_avx512.h has the same names. */
#ifndef COLDSTREAM_VEC_AVX2_H
#define COLDSTREAM_VEC_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef __m256 vf;  /* floats */
typedef __m256d vd; /* doubles: half as many */

enum {
    LANES = 8,
    ACCS = 12,    /* accumulators of a register block: with its operands they fill the 16 registers */
    PARITIES = 1, /* partial sums of a score, see attention_vec.h */
};

static inline vf vf_set1(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }

static inline __m256i vec_mask(size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/* The first n < LANES elements; the others read as 0 and are not written. */
static inline vf vf_load_n(const float *p, size_t n) { return _mm256_maskload_ps(p, vec_mask(n)); }
static inline void vf_store_n(float *p, vf x, size_t n) { _mm256_maskstore_ps(p, vec_mask(n), x); }

static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a*b */
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }              /* b where either is NaN */
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }              /* b where either is NaN */
static inline vf vf_round(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* x where at <= limit, else other */
static inline vf vf_where_le(vf at, vf limit, vf x, vf other) {
    return _mm256_blendv_ps(other, x, _mm256_cmp_ps(at, limit, _CMP_LE_OQ));
}
/* x * 2^n for integral n in [-252, 252], in two factors so that only the result may leave the range of normal floats */
static inline vf vf_scale(vf x, vf n) {
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    const __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

static inline vf vf_from_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline void vf_to_f16(uint16_t *p, vf x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

/* p[0] in even lanes, p[1] in odd ones */
static inline vf vf_set_pair(const float *p) {
    double pair;
    memcpy(&pair, p, sizeof pair);
    return _mm256_castpd_ps(_mm256_set1_pd(pair));
}
/* x plus its neighbour lane */
static inline vf vf_pair_sum(vf x) { return _mm256_add_ps(x, _mm256_permute_ps(x, 0xB1)); }

static inline vd vd_zero(void) { return _mm256_setzero_pd(); }
static inline vd vd_low(vf x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
static inline vd vd_high(vf x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
static inline vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
static inline double vd_total(vd x) {
    const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

#endif
