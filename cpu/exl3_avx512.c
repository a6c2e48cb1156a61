/* EXL3 on AVX-512 without binary16 arithmetic: the halves are summed as binary32, and the sum is rounded by adding and taking
 * away a number 2^13 times as large. */
#include "cpu/exl3_states_avx512.h"

/* x rounded to the 11 bits of a binary16, ties to even; 2^-14 <= |x| < 2^15, or 0. 1.5 * 2^13 times the power of two in x has its
 * last bit where the result's is to be. */
static ALWAYS_INLINE vf round_to_half(vf x) {
    const __m512i power = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xff800000));
    const vf large = _mm512_castsi512_ps(_mm512_add_epi32(power, _mm512_set1_epi32(13 << 23 | 1 << 22)));
    return _mm512_sub_ps(_mm512_add_ps(x, large), large);
}

static ALWAYS_INLINE void decode_group(const struct decoder *d, const uint8_t *tile, int g, enum exl3_codebook book, vf out[2][PARTS]) {
    const __m512i words = group_words(d, tile, g), width = _mm512_set1_epi16(16);
    const __m512i state = _mm512_or_si512(_mm512_sllv_epi16(_mm512_permutexvar_epi16(d->high, words), d->shift),
                                          _mm512_srlv_epi16(_mm512_permutexvar_epi16(d->low, words), _mm512_sub_epi16(width, d->shift)));
    __m512i low, high;
    scramble_book(state, book, &low, &high);
    if (book == EXL3_MUL1) {
        const __m512i sum = byte_sum(low, high);
        const vf scale = vf_set1(f16_to_f32(EXL3_MUL1_SCALE)), offset = vf_set1(f16_to_f32(EXL3_MUL1_OFFSET));
        out[0][0] = _mm512_cvtph_ps(_mm512_cvtps_ph(vf_fma(lower_floats(sum), scale, offset), 0)); /* may be close to 0 */
        out[1][0] = _mm512_cvtph_ps(_mm512_cvtps_ph(vf_fma(upper_floats(sum), scale, offset), 0));
        return;
    }
    low = half_of(low);
    high = half_of(high);
    out[0][0] = round_to_half(lower_floats(low) + lower_floats(high));
    out[1][0] = round_to_half(upper_floats(low) + upper_floats(high));
}

#include "cpu/exl3_vec.h"

void cpu_fill_exl3_avx512(struct cpu_ops *ops) { fill_exl3(ops); }
