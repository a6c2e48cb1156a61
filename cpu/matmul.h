/* What the weight kernels share inside cpu/: the scratch of a product, and who calls whom. Nobody outside includes it. */
#ifndef COLDSTREAM_MATMUL_H
#define COLDSTREAM_MATMUL_H

#include "cpu/cpu.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Columns are walked in pieces of 256: a super-block, or eight 32-blocks (the last piece may hold fewer of those).
 * FEW: most vectors of one matrix-vector pass. PASS: most vectors of one walk of the blocked form through a panel of rows. */
enum { PIECE = 256, FEW = 2, PASS = 128, PANEL_ROWS = 32, PREFETCH_BYTES = 2048 };

/* 256 columns of one vector as the matrix-vector kernels read them. */
struct prepared {
    _Alignas(64) int8_t q[PIECE]; /* in the order in which the type's kernel meets its weights */
    int32_t start[PIECE / 4];     /* -offset * the sum of the activations that each 32-bit lane will meet: weights are
                                     unsigned levels minus an offset, so lanes that start here end with exact dots */
    float fold[16];               /* what scales (and minimums) of the piece are multiplied by */
};

/* 256 columns of 32 rows, woven for the blocked form: w[c/4][row][c%4] holds levels, weight = scale * (level - offset) - min. */
struct panel {
    _Alignas(64) uint8_t w[PIECE / 4][PANEL_ROWS][4];
    float scale[PIECE / 16][PANEL_ROWS]; /* per 16 or 32 columns, as the type has it */
    float min[PIECE / 32][PANEL_ROWS];
};

/* Scratch of a blocked product. */
struct blocked {
    union {
        struct panel panel;
        _Alignas(64) float f32[PIECE][PANEL_ROWS]; /* the same for float types: one value per column and row */
    };
    float acc[PASS][PANEL_ROWS];
};

static inline size_t pieces_of(size_t k) { return (k + PIECE - 1) / PIECE; }
static inline size_t vector_of(const struct matmul *m, size_t i) { return m->index ? (size_t)m->index[i] : i; }

/* Called by the quants file of the same instruction set. */
void cpu_fill_floats_avx2(struct cpu_ops *ops);
void cpu_fill_floats_avx512(struct cpu_ops *ops);
void gemm_q4_0_avx2(const struct matmul *m);
void gemm_q8_0_avx2(const struct matmul *m);
void gemm_q4_k_avx2(const struct matmul *m);
void gemm_q5_k_avx2(const struct matmul *m);
void gemm_q6_k_avx2(const struct matmul *m);
void gemm_q4_0_avx512(const struct matmul *m);
void gemm_q8_0_avx512(const struct matmul *m);
void gemm_q4_k_avx512(const struct matmul *m);
void gemm_q5_k_avx512(const struct matmul *m);
void gemm_q6_k_avx512(const struct matmul *m);

#endif
