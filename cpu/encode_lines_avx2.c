/* See encode_lines.h: eight entries at a time. Multiplications and additions stay apart, as in the form for any machine. */
#include "cpu/encode_lines.h"

#include <immintrin.h>

struct sums { /* of eight entries */
    __m256 p, q, least;
};

static inline void add_lane(struct sums *s, __m256 c, __m256 weight, __m256 product) {
    const __m256 term = _mm256_mul_ps(product, c);
    s->q = _mm256_add_ps(s->q, term);
    s->least = _mm256_min_ps(term, s->least);
    s->p = _mm256_add_ps(s->p, _mm256_mul_ps(weight, _mm256_mul_ps(c, c)));
}

static inline void store(const struct sums *s, uint32_t e, struct lines *out) {
    const __m256 odd = _mm256_sub_ps(s->q, _mm256_add_ps(s->least, s->least));
    _mm256_storeu_ps(out->p + e, s->p);
    _mm256_storeu_ps(out->q + e, _mm256_add_ps(s->q, s->q));
    _mm256_storeu_ps(out->odd + e, _mm256_add_ps(odd, odd));
}

static void score(const struct lines_codebook *book, const float *weight, const float *product, struct lines *out) {
    const __m256 zero = _mm256_setzero_ps();
    const float *c = book->levels;
    for (uint32_t e = 0; e < book->entries; e += LINES_STRIPE) {
        const __m256 first = _mm256_broadcast_ss(product);
        struct sums a = {zero, zero, _mm256_mul_ps(first, _mm256_loadu_ps(c))};
        struct sums b = {zero, zero, _mm256_mul_ps(first, _mm256_loadu_ps(c + 8))};
        for (uint32_t j = 0; j < book->lanes; j++, c += LINES_STRIPE) {
            const __m256 w = _mm256_broadcast_ss(weight + j), x = _mm256_broadcast_ss(product + j);
            add_lane(&a, _mm256_loadu_ps(c), w, x);
            add_lane(&b, _mm256_loadu_ps(c + 8), w, x);
        }
        store(&a, e, out);
        store(&b, e + 8, out);
    }
}

/* The least of eight values; of equal ones that with the least index. */
static uint32_t first_of(__m256 values, __m256i indices) {
    float value[8];
    uint32_t index[8], best = 0;
    _mm256_storeu_ps(value, values);
    _mm256_storeu_si256((__m256i *)index, indices);
    for (uint32_t i = 1; i < 8; i++)
        if (value[i] < value[best] || (value[i] == value[best] && index[i] < index[best])) best = i;
    return index[best];
}

enum { AT_ONCE = 3 }; /* scales: with two registers each, everything stays in registers */
_Static_assert(LINES_SCALES % AT_ONCE == 0, "whole passes");

static void lowest_of_some(const float *p, const float *q, uint32_t n, const float *scales, uint32_t *entries) {
    __m256 s[AT_ONCE], best[AT_ONCE];
    __m256i index[AT_ONCE], at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int i = 0; i < AT_ONCE; i++) {
        s[i] = _mm256_broadcast_ss(scales + i);
        best[i] = _mm256_sub_ps(_mm256_mul_ps(s[i], _mm256_loadu_ps(p)), _mm256_loadu_ps(q));
        index[i] = at;
    }
    for (uint32_t e = 8; e < n; e += 8) {
        const __m256 pe = _mm256_loadu_ps(p + e), qe = _mm256_loadu_ps(q + e);
        at = _mm256_add_epi32(at, _mm256_set1_epi32(8));
        for (int i = 0; i < AT_ONCE; i++) {
            const __m256 value = _mm256_sub_ps(_mm256_mul_ps(s[i], pe), qe), less = _mm256_cmp_ps(value, best[i], _CMP_LT_OQ);
            best[i] = _mm256_blendv_ps(best[i], value, less);
            index[i] = _mm256_blendv_epi8(index[i], at, _mm256_castps_si256(less));
        }
    }
    for (int i = 0; i < AT_ONCE; i++) entries[i] = first_of(best[i], index[i]);
}

static void lowest(const float *p, const float *q, uint32_t n, const float *scales, uint32_t *entries) {
    for (uint32_t i = 0; i < LINES_SCALES; i += AT_ONCE) lowest_of_some(p, q, n, scales + i, entries + i);
}

static uint32_t below(const float *p, const float *q, uint32_t n, const float *scales, const float *limits, uint32_t n_scales,
                      uint16_t *entries) {
    uint32_t found = 0;
    for (uint32_t e = 0; e < n; e += 8) {
        const __m256 pe = _mm256_loadu_ps(p + e), qe = _mm256_loadu_ps(q + e);
        __m256 any = _mm256_setzero_ps();
        for (uint32_t i = 0; i < n_scales; i++) {
            const __m256 value = _mm256_sub_ps(_mm256_mul_ps(_mm256_broadcast_ss(scales + i), pe), qe);
            any = _mm256_or_ps(any, _mm256_cmp_ps(value, _mm256_broadcast_ss(limits + i), _CMP_LT_OQ));
        }
        for (uint32_t mask = (uint32_t)_mm256_movemask_ps(any); mask; mask &= mask - 1)
            entries[found++] = (uint16_t)(e + (uint32_t)__builtin_ctz(mask));
    }
    return found;
}

const struct lines_ops lines_ops_avx2 = {score, lowest, below};
