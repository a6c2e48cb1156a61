/* AVX-512: rows to columns, for everybody who opens several rows at once. */
#ifndef COLDSTREAM_TRANSPOSE_AVX512_H
#define COLDSTREAM_TRANSPOSE_AVX512_H

#include <immintrin.h>

#include "cpu/matmul.h"

/* 16 bytes of each of 16 rows, transposed: out[j] holds dword j of row r in lane r. */
static ALWAYS_INLINE void transpose(const uint8_t *at, size_t stride, __m512i out[4]) {
    __m512i z[4]; /* z[i]: rows i, 4+i, 8+i, 12+i */
    for (int i = 0; i < 4; i++) {
        const uint8_t *row = at + i * stride;
        z[i] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)row));
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(row + 4 * stride)), 1);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(row + 8 * stride)), 2);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(row + 12 * stride)), 3);
    }
    const __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpackhi_epi32(z[0], z[1]);
    const __m512i c = _mm512_unpacklo_epi32(z[2], z[3]), d = _mm512_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm512_unpacklo_epi64(a, c);
    out[1] = _mm512_unpackhi_epi64(a, c);
    out[2] = _mm512_unpacklo_epi64(b, d);
    out[3] = _mm512_unpackhi_epi64(b, d);
}

#endif
