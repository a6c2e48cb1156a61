/* AVX2: products of quantized matrices with up to FEW vectors, for any type that can multiply 256 columns of one row.
 * As matvec_avx512.h, with 32 levels a step. */
#ifndef COLDSTREAM_MATVEC_AVX2_H
#define COLDSTREAM_MATVEC_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "cpu/matmul.h"

/* ---- vectors, rearranged ---------------------------------------------------------------------------------------- */

/* How a type wants 256 columns: the order of their sixteen 16-byte chunks, how many of the eight 32-byte steps are added
 * before they are widened to 32 bits, the offset of its levels, and whether `fold` holds d of each 16 instead of d of each 32
 * followed by -s32. */
struct layout {
    uint8_t chunk[16];
    int chained; /* 1 or 2 */
    int offset;
    bool fold_d16;
};

static inline __m256i step_of(const struct prepared *p, int step) {
    return _mm256_load_si256((const __m256i *)(p->q + 32 * step));
}
static inline __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

static inline void prepare_piece(const struct layout *l, const struct acts *x, size_t v, size_t column, struct prepared *p) {
    const size_t columns = x->k - column < PIECE ? x->k - column : PIECE, groups = columns / 32;
    const size_t at = v * x->k + column;
    int8_t padded[PIECE];
    const int8_t *q = x->q + at;
    if (columns < PIECE) {
        memset(padded, 0, sizeof padded);
        q = memcpy(padded, q, columns);
    }
    for (int c = 0; c < 16; c++) memcpy(p->q + 16 * c, q + 16 * l->chunk[c], 16);

    const __m256i offset = _mm256_set1_epi8((char)l->offset);
    for (int step = 0; step < 8; step += l->chained) {
        __m256i sum = _mm256_maddubs_epi16(offset, step_of(p, step));
        if (l->chained == 2) sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(offset, step_of(p, step + 1)));
        _mm256_store_si256((__m256i *)(p->start + 8 * step), _mm256_sub_epi32(_mm256_setzero_si256(), widen(sum)));
    }
    for (size_t g = 0; g < 8; g++) {
        const float d = g < groups ? x->d[at / 32 + g] : 0, s32 = g < groups ? x->s32[at / 32 + g] : 0;
        if (l->fold_d16)
            p->fold[2 * g] = p->fold[2 * g + 1] = d;
        else {
            p->fold[g] = d;
            p->fold[8 + g] = -s32;
        }
        for (size_t t = 2 * g; t < 2 * g + 2; t++) p->sums[t] = g < groups ? d * (float)x->sum16[at / 16 + t] : 0;
    }
}

/* ---- 256 columns of one row ------------------------------------------------------------------------------------- */

static inline __m256i load(const uint8_t *at) { return _mm256_loadu_si256((const __m256i *)at); }

/* 16 bytes from each of two places */
static inline __m256i load_two(const uint8_t *low, const uint8_t *high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                   _mm_loadu_si128((const __m128i *)high), 1);
}

static inline __m256i low_nibbles(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
static inline __m256i high_nibbles(__m256i x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }
static inline __m256i start(const struct prepared *p, int step) {
    return _mm256_load_si256((const __m256i *)(p->start + 8 * step));
}

/* Sum of two steps in 32 bits, four (or with one scale for all, eight) lanes a group. */
static inline __m256i dot_two(__m256i first, __m256i second, const struct prepared *p, int step) {
    return widen(
        _mm256_add_epi16(_mm256_maddubs_epi16(first, step_of(p, step)), _mm256_maddubs_epi16(second, step_of(p, step + 1))));
}

/* Lanes 0-3 belong to scale a, lanes 4-7 to scale b. */
static inline __m256 add_scaled(__m256 sum, __m256i dots, __m256 scales, int a, int b) {
    const __m256 s = _mm256_permutevar8x32_ps(scales, _mm256_setr_epi32(a, a, a, a, b, b, b, b));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), s, sum);
}

static inline __m256 eight_f16(const uint8_t *at, size_t stride) {
    uint16_t h[8];
    for (int i = 0; i < 8; i++) memcpy(h + i, at + i * stride, 2);
    return _mm256_cvtph_ps(
        _mm_setr_epi16((short)h[0], (short)h[1], (short)h[2], (short)h[3], (short)h[4], (short)h[5], (short)h[6], (short)h[7]));
}

static inline float one_f16(const uint8_t *at) {
    uint16_t h;
    memcpy(&h, at, sizeof h);
    return _cvtsh_ss(h);
}

/* ---- the walk ----------------------------------------------------------------------------------------------------- */

typedef __m256 vector;
static inline vector vector_zero(void) { return _mm256_setzero_ps(); }
static inline float vector_sum(__m256 x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#include "cpu/matvec_vec.h"

#endif
