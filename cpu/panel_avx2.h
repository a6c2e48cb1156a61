/* AVX2: how columns of rows get into struct panel, and the tiles that multiply it (gemm_avx2.c). As panel_avx512.h. */
#ifndef COLDSTREAM_PANEL_AVX2_H
#define COLDSTREAM_PANEL_AVX2_H

#include <immintrin.h>

#include "cpu/matmul.h"
#include "cpu/transpose_avx2.h"

enum { LANES = 8 /* rows in a register */, TILE = 4 /* most vectors of a tile */ };

/* Products of a panel with 1 .. TILE vectors: 16 or 32 columns share a scale; levels are signed (-127 .. 127) or of at most so
 * many bits; min: the panel has minimums. */
extern const tile_fn gemm_tiles_4bit_avx2[TILE], gemm_tiles_4bit_min_avx2[TILE], gemm_tiles_5bit_min_avx2[TILE];
extern const tile_fn gemm_tiles_6bit_16_avx2[TILE], gemm_tiles_2bit_16_min_avx2[TILE];
extern const tile_fn gemm_tiles_signed_avx2[TILE], gemm_tiles_signed_16_avx2[TILE];

static ALWAYS_INLINE void put(struct panel *p, int quad, int row, __m256i levels) {
    _mm256_store_si256((__m256i *)p->w[quad][row], levels);
}

#endif
