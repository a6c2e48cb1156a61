/* AVX2: rows to columns, for everybody who opens several rows at once. */
#ifndef COLDSTREAM_TRANSPOSE_AVX2_H
#define COLDSTREAM_TRANSPOSE_AVX2_H

#include <immintrin.h>

#include "cpu/matmul.h"

/* 16 bytes of each of 8 rows, transposed: out[j] holds dword j of row r in lane r. */
static ALWAYS_INLINE void transpose(const uint8_t *at, size_t stride, __m256i out[4]) {
    __m256i z[4]; /* z[i]: rows i, 4+i */
    for (int i = 0; i < 4; i++) {
        const uint8_t *row = at + i * stride;
        z[i] = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)row));
        z[i] = _mm256_inserti128_si256(z[i], _mm_loadu_si128((const __m128i *)(row + 4 * stride)), 1);
    }
    const __m256i a = _mm256_unpacklo_epi32(z[0], z[1]), b = _mm256_unpackhi_epi32(z[0], z[1]);
    const __m256i c = _mm256_unpacklo_epi32(z[2], z[3]), d = _mm256_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm256_unpacklo_epi64(a, c);
    out[1] = _mm256_unpackhi_epi64(a, c);
    out[2] = _mm256_unpacklo_epi64(b, d);
    out[3] = _mm256_unpackhi_epi64(b, d);
}

#endif
