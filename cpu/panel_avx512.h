/* AVX-512: how columns of rows get into struct panel, and the tiles that multiply it (gemm_avx512.c). */
#ifndef COLDSTREAM_PANEL_AVX512_H
#define COLDSTREAM_PANEL_AVX512_H

#include <immintrin.h>

#include "cpu/matmul.h"

enum { HALF = 16 /* rows in a register */, TILE = 6 /* most vectors of a tile */ };

/* Products of a panel with 1 .. TILE vectors. 16, 32: columns that share a scale; min: the panel has minimums. */
extern const tile_fn gemm_tiles_16_avx512[TILE], gemm_tiles_32_avx512[TILE];
extern const tile_fn gemm_tiles_16_min_avx512[TILE], gemm_tiles_32_min_avx512[TILE];

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

static ALWAYS_INLINE void put(struct panel *p, int quad, int row, __m512i levels) {
    _mm512_store_si512(p->w[quad][row], levels);
}

#endif
