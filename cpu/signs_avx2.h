/* Sign bytes of the codebook formats whose codes have seven bits, 32 at a time: for AVX2 and AVX-512 alike. */
#ifndef COLDSTREAM_SIGNS_AVX2_H
#define COLDSTREAM_SIGNS_AVX2_H

#include <immintrin.h>

/* Seven-bit codes in bytes, each with the bit on top that makes the number of set bits even. */
static inline __m256i signs_of_codes(__m256i codes) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i parity = _mm256_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0, 0, -128, -128, 0,
                                            -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
    const __m256i low = _mm256_shuffle_epi8(parity, _mm256_and_si256(codes, nibble));
    const __m256i high = _mm256_shuffle_epi8(parity, _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble));
    return _mm256_xor_si256(codes, _mm256_xor_si256(low, high));
}

/* The same for the four codes in the low 28 bits of each word. */
static inline __m256i signs_of_words(__m256i words) {
    const __m256i a = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
    const __m256i b = _mm256_and_si256(_mm256_slli_epi32(words, 1), _mm256_set1_epi32(0x7f00));
    const __m256i c = _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x7f0000));
    const __m256i d = _mm256_and_si256(_mm256_slli_epi32(words, 3), _mm256_set1_epi32(0x7f000000));
    return signs_of_codes(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
}

#endif
