/* AVX-512: how columns of rows get into struct panel, and the tiles that multiply it (gemm_avx512.c). */
#ifndef COLDSTREAM_PANEL_AVX512_H
#define COLDSTREAM_PANEL_AVX512_H

#include <immintrin.h>

#include "cpu/matmul.h"
#include "cpu/transpose_avx512.h"

enum { HALF = 16 /* rows in a register */, TILE = 6 /* most vectors of a tile */ };

/* Products of a panel with 1 .. TILE vectors. 16, 32: columns that share a scale; min: the panel has minimums. */
extern const tile_fn gemm_tiles_16_avx512[TILE], gemm_tiles_32_avx512[TILE];
extern const tile_fn gemm_tiles_16_min_avx512[TILE], gemm_tiles_32_min_avx512[TILE];

static ALWAYS_INLINE void put(struct panel *p, int quad, int row, __m512i levels) {
    _mm512_store_si512(p->w[quad][row], levels);
}

#endif
