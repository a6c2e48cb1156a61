/* AVX2: how columns of rows get into struct panel, and the tiles that multiply it (gemm_avx2.c). As panel_avx512.h. */
#ifndef COLDSTREAM_PANEL_AVX2_H
#define COLDSTREAM_PANEL_AVX2_H

#include <immintrin.h>

#include "cpu/matmul.h"

enum { LANES = 8 /* rows in a register */, TILE = 4 /* most vectors of a tile */ };

/* Products of a panel with 1 .. TILE vectors: 16 or 32 columns share a scale; levels are signed (-127 .. 127) or of at most so
 * many bits; min: the panel has minimums. */
extern const tile_fn gemm_tiles_4bit_avx2[TILE], gemm_tiles_4bit_min_avx2[TILE], gemm_tiles_5bit_min_avx2[TILE];
extern const tile_fn gemm_tiles_6bit_16_avx2[TILE], gemm_tiles_2bit_16_min_avx2[TILE];
extern const tile_fn gemm_tiles_signed_avx2[TILE], gemm_tiles_signed_16_avx2[TILE];

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

static ALWAYS_INLINE void put(struct panel *p, int quad, int row, __m256i levels) {
    _mm256_store_si256((__m256i *)p->w[quad][row], levels);
}

#endif
