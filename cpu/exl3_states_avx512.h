/* What the two AVX-512 variants of EXL3 have in common, in front of exl3_vec.h: 32 weights of a group at a time, one in each 16-bit
 * lane: column g in the lower half, column g + 8 in the upper one, inputs in order.
 *
 * The stream's 16-bit pieces stand in pairs exchanged, so a state is the upper 16 bits of two of them, shifted: the words are
 * dealt out twice. The product's halves are made apart, each with 16-bit multiplications: half the instructions of 32-bit ones,
 * and they end up where the sum of halves wants them. */
#ifndef COLDSTREAM_EXL3_STATES_AVX512_H
#define COLDSTREAM_EXL3_STATES_AVX512_H

#include "cpu/exl3.h"
#include "cpu/matmul.h"
#include "cpu/vec_avx512.h"

enum { PARTS = 1, MOST = 4, COLUMNS = 4 };
#define VECTORS 6
#define AT_ONCE(n) ((n) == 1 ? 8 : (n) == 2 ? 4 : 2)

struct decoder {
    __m512i high, low, shift; /* of each lane: where its two pieces stand, and how far the first is shifted out */
    size_t bits;
};

static void decoder_open(struct decoder *d, size_t bits) {
    uint16_t high[32], low[32], shift[32];
    for (unsigned lane = 0; lane < 32; lane++) { /* bits are counted from 32 in front of the group */
        const size_t begin = (exl3_position(lane % 16, lane / 16) + 1) * bits + 16;
        high[lane] = (uint16_t)(begin / 16 ^ 1);
        low[lane] = (uint16_t)((begin / 16 + 1) ^ 1);
        shift[lane] = begin % 16;
    }
    d->high = _mm512_loadu_si512(high);
    d->low = _mm512_loadu_si512(low);
    d->shift = _mm512_loadu_si512(shift);
    d->bits = bits;
}

/* The words of a group and the one before it, which of group 0 is the tile's last. */
static ALWAYS_INLINE __m512i group_words(const struct decoder *d, const uint8_t *tile, int g) {
    const __m512i words = _mm512_loadu_si512(tile + 4 * (size_t)g * d->bits - 4);
    if (g > 0) return words;
    int last;
    memcpy(&last, tile + 32 * d->bits - 4, sizeof last);
    return _mm512_mask_set1_epi32(words, 1, last);
}

/* state * factor + addend in two registers: lower and upper 16 bits */
static ALWAYS_INLINE void scramble(__m512i state, uint32_t factor, uint32_t addend, __m512i *low, __m512i *high) {
    const __m512i f0 = _mm512_set1_epi16((short)factor), f1 = _mm512_set1_epi16((short)(factor >> 16));
    *low = _mm512_mullo_epi16(state, f0);
    *high = _mm512_add_epi16(_mm512_mulhi_epu16(state, f0), _mm512_mullo_epi16(state, f1));
    if (addend == 0) return;
    const __m512i a0 = _mm512_set1_epi16((short)addend), a1 = _mm512_set1_epi16((short)(addend >> 16));
    *low = _mm512_add_epi16(*low, a0);
    *high = _mm512_add_epi16(*high, a1);
    *high = _mm512_mask_sub_epi16(*high, _mm512_cmplt_epu16_mask(*low, a0), *high, _mm512_set1_epi16(-1)); /* the carry */
}

static ALWAYS_INLINE void scramble_book(__m512i state, enum exl3_codebook book, __m512i *low, __m512i *high) {
    switch (book) {
    case EXL3_3INST: scramble(state, EXL3_3INST_FACTOR, EXL3_3INST_ADDEND, low, high); break;
    case EXL3_MCG: scramble(state, EXL3_MCG_FACTOR, 0, low, high); break;
    case EXL3_MUL1: scramble(state, EXL3_MUL1_FACTOR, 0, low, high); break;
    }
}

/* (x & KEEP) ^ FLIP: a binary16 of magnitude 0.125 to 2 */
static ALWAYS_INLINE __m512i half_of(__m512i x) {
    return _mm512_ternarylogic_epi32(x, _mm512_set1_epi16((short)EXL3_KEEP), _mm512_set1_epi16(EXL3_FLIP), 0x6a);
}

/* 1024 + the sum of the product's four bytes, as a binary16 */
static ALWAYS_INLINE __m512i byte_sum(__m512i low, __m512i high) {
    const __m512i ones = _mm512_set1_epi8(1);
    const __m512i sum = _mm512_add_epi16(_mm512_maddubs_epi16(low, ones), _mm512_maddubs_epi16(high, ones));
    return _mm512_add_epi16(sum, _mm512_set1_epi16(0x6400));
}

static ALWAYS_INLINE vf lower_floats(__m512i halves) { return _mm512_cvtph_ps(_mm512_castsi512_si256(halves)); }
static ALWAYS_INLINE vf upper_floats(__m512i halves) { return _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)); }

static ALWAYS_INLINE void order_inputs(vf *x, int registers) { (void)x, (void)registers; } /* as they are */

static ALWAYS_INLINE vf vf_flip(vf x, int stride) {
    switch (stride) {
    case 1: return _mm512_permute_ps(x, 0xb1);
    case 2: return _mm512_permute_ps(x, 0x4e);
    case 4: return _mm512_shuffle_f32x4(x, x, 0xb1);
    default: return _mm512_shuffle_f32x4(x, x, 0x4e);
    }
}

/* The sums of four rows in each quarter of the register. */
static ALWAYS_INLINE vf sum_four(const float (*rows)[16]) {
    const vf a = vf_load(rows[0]), b = vf_load(rows[1]), c = vf_load(rows[2]), d = vf_load(rows[3]);
    const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b));
    const __m512d cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d));
    return _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)) + _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
}

static void sum_rows(const float (*rows)[16], float *out) {
    const vf a = sum_four(rows), b = sum_four(rows + 4), c = sum_four(rows + 8), d = sum_four(rows + 12);
    const vf ab = _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
    const vf cd = _mm512_shuffle_f32x4(c, d, 0x88) + _mm512_shuffle_f32x4(c, d, 0xdd);
    vf_store(out, _mm512_shuffle_f32x4(ab, cd, 0x88) + _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

#endif
