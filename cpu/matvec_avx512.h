/* AVX-512: products of quantized matrices with up to FEW vectors, for any type that can multiply 256 columns of one row.
 *
 * Rearranges the vectors into struct prepared, walks the rows of a slice in streams, prefetches, and pads the columns that are
 * left. Knows no type: quants_avx512.c and formats_avx512.c bring a function `dot` each, which is inlined here. */
#ifndef COLDSTREAM_MATVEC_AVX512_H
#define COLDSTREAM_MATVEC_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "cpu/matmul.h"

/* ---- vectors, rearranged ---------------------------------------------------------------------------------------- */

/* How a type wants 256 columns: the order of their sixteen 16-byte chunks, how many of the four 64-byte steps share an
 * accumulator, the offset of its levels, and the meaning of `fold`. Or, instead of chunks, a unit U of 4 or 8: bytes U*l .. of
 * step i are the columns 4U*l + U*i .., so that a lane belongs to the same group of 16 or of 32 in all steps. */
struct layout {
    uint8_t chunk[16];
    int chained; /* 1, 2 or 4 */
    int offset;
    enum { FOLD_D32 /* d of each 32 */, FOLD_D16 /* d of each 16 */, FOLD_MINS /* d of each 32, then -s32 */ } fold;
    size_t unit; /* 16: chunks */
};

static inline void prepare_piece(const struct layout *l, const struct acts *x, size_t v, size_t column, struct prepared *p) {
    const size_t columns = x->k - column < PIECE ? x->k - column : PIECE, groups = columns / 32;
    const size_t first = v * x->k + column;
    int8_t padded[PIECE];
    const int8_t *q = x->q + first;
    if (columns < PIECE) {
        memset(padded, 0, sizeof padded);
        q = memcpy(padded, q, columns);
    }
    for (int c = 0; c < 16; c++) memcpy(p->q + 16 * c, q + 16 * l->chunk[c], 16);
    if (l->unit < 16)
        for (size_t i = 0; i < 4; i++)
            for (size_t at = 0; at < 64; at += l->unit) memcpy(p->q + 64 * i + at, q + 4 * at + i * l->unit, l->unit);

    const __m512i offset = _mm512_set1_epi8((char)l->offset), zero = _mm512_setzero_si512();
    for (int step = 0; step < 4; step += l->chained) {
        __m512i sum = zero;
        for (int i = 0; i < l->chained; i++) sum = _mm512_dpbusd_epi32(sum, offset, _mm512_load_si512(p->q + 64 * (step + i)));
        _mm512_store_si512(p->start + 16 * step, _mm512_sub_epi32(zero, sum));
    }

    const __mmask8 valid = (__mmask8)((1u << groups) - 1);
    const __m256 d = _mm256_maskz_loadu_ps(valid, x->d + first / 32);
    const __m256 s32 = _mm256_maskz_loadu_ps(valid, x->s32 + first / 32);
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    __m512 fold = _mm512_castps256_ps512(d);
    if (l->fold == FOLD_D16)
        fold = _mm512_permutexvar_ps(twice, fold);
    else
        fold = _mm512_insertf32x8(fold, _mm256_xor_ps(s32, _mm256_set1_ps(-0.0f)), 1);
    _mm512_store_ps(p->fold, fold);
    const __m512i sum16 = _mm512_maskz_loadu_epi32((__mmask16)((1u << 2 * groups) - 1), x->sum16 + first / 16);
    _mm512_store_ps(p->sums, _mm512_mul_ps(_mm512_cvtepi32_ps(sum16), _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(d))));
}

/* ---- 256 columns of one row ------------------------------------------------------------------------------------- */

static inline __m512 spread_f16(const void *d) {
    uint16_t h;
    memcpy(&h, d, sizeof h);
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)h));
}

/* The eight halves that stand `stride` bytes apart. */
static inline __m256 eight_f16(const uint8_t *at, size_t stride) {
    uint16_t h[8];
    for (int i = 0; i < 8; i++) memcpy(h + i, at + i * stride, 2);
    return _mm256_cvtph_ps(
        _mm_setr_epi16((short)h[0], (short)h[1], (short)h[2], (short)h[3], (short)h[4], (short)h[5], (short)h[6], (short)h[7]));
}

static ALWAYS_INLINE __m512 add_scaled(__m512 sum, __m512i dots, __m512 scale, __m512i lanes) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_permutexvar_ps(lanes, scale), sum);
}

static ALWAYS_INLINE __m512i dot(__m512i sum, __m512i levels, const struct prepared *p, int step) {
    return _mm512_dpbusd_epi32(sum, levels, _mm512_load_si512(p->q + 64 * step));
}

static ALWAYS_INLINE __m512i start(const struct prepared *p, int step) { return _mm512_load_si512(p->start + 16 * step); }

/* Lane numbers a a a a b b b b c c c c d d d d */
static ALWAYS_INLINE __m512i fours(int a, int b, int c, int d) {
    return _mm512_inserti32x8(_mm512_castsi256_si512(_mm256_setr_epi32(a, a, a, a, b, b, b, b)),
                              _mm256_setr_epi32(c, c, c, c, d, d, d, d), 1);
}

/* 128-bit lanes 0..3 rotated left by a, b, c, d bits (in each 64 bits: neighbours' bits get in and are masked off later). */
static ALWAYS_INLINE __m512i rotate_lanes(__m512i x, int a, int b, int c, int d) {
    return _mm512_rolv_epi64(x, _mm512_setr_epi64(a, a, b, b, c, c, d, d));
}

/* (mask & low) | (~mask & high) */
static ALWAYS_INLINE __m512i choose(__m512i mask, __m512i low, __m512i high) {
    return _mm512_ternarylogic_epi64(mask, low, high, 0xca);
}

/* ---- the walk ----------------------------------------------------------------------------------------------------- */

typedef __m512 vector;
static inline vector vector_zero(void) { return _mm512_setzero_ps(); }
static inline float vector_sum(vector x) { return _mm512_reduce_add_ps(x); }

#include "cpu/matvec_vec.h"

#endif
