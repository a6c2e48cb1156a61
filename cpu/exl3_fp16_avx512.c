/* EXL3 with binary16 arithmetic and shifts of two words: the halves are summed, and the sum rounded, in one instruction for 32
 * weights. Empty where the compiler cannot be told per file; then exl3_avx512.c serves these machines too. */
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#pragma GCC target("avx512fp16,avx512vbmi,avx512vbmi2")
#define HAS_FP16 1
#endif

#include "cpu/exl3_states_avx512.h"

#if HAS_FP16
static ALWAYS_INLINE void decode_group(const struct decoder *d, const uint8_t *tile, int g, enum exl3_codebook book, vf out[2][PARTS]) {
    const __m512i words = group_words(d, tile, g);
    const __m512i state = _mm512_shldv_epi16(_mm512_permutexvar_epi16(d->high, words), _mm512_permutexvar_epi16(d->low, words), d->shift);
    __m512i low, high;
    __m512h weights;
    scramble_book(state, book, &low, &high);
    if (book == EXL3_MUL1)
        weights = _mm512_fmadd_ph(_mm512_castsi512_ph(byte_sum(low, high)), _mm512_castsi512_ph(_mm512_set1_epi16(EXL3_MUL1_SCALE)),
                                  _mm512_castsi512_ph(_mm512_set1_epi16((short)EXL3_MUL1_OFFSET)));
    else
        weights = _mm512_add_ph(_mm512_castsi512_ph(half_of(low)), _mm512_castsi512_ph(half_of(high)));
    out[0][0] = lower_floats(_mm512_castph_si512(weights));
    out[1][0] = upper_floats(_mm512_castph_si512(weights));
}

#include "cpu/exl3_vec.h"

bool cpu_fill_exl3_fp16_avx512(struct cpu_ops *ops) {
    fill_exl3(ops);
    return true;
}
#else
bool cpu_fill_exl3_fp16_avx512(struct cpu_ops *ops) {
    (void)ops;
    return false;
}
#endif
