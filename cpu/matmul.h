/* What the weight kernels share inside cpu/: the scratch of a product, and who calls whom. Nobody outside includes it. */
#ifndef COLDSTREAM_MATMUL_H
#define COLDSTREAM_MATMUL_H

#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "cpu/cpu.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
/* A walk that is compiled for every format and count of vectors. Under sanitizers once for all: with a check of every access, the
 * copies took minutes to compile. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SPECIALIZED __attribute__((noinline))
#else
#define SPECIALIZED ALWAYS_INLINE
#endif

/* Columns are walked in pieces of 256: a super-block, or eight 32-blocks (the last piece may hold fewer of those).
 * FEW: most vectors of one matrix-vector pass. PASS: most vectors of one walk of the blocked form through a panel of rows. */
enum { PIECE = 256, FEW = 4, PASS = 128, PANEL_ROWS = 32 };

/* With few vectors the weights come from memory once, at the speed at which one core can ask for them. What helped, measured on
 * Sapphire Rapids as share of a plain read (Q4_K): two rows at a time from the two halves of the slice, so that two page walks
 * and two hardware prefetchers are at work (88 -> 98 %); each line fetched twice, FAR bytes ahead into the second-level cache
 * and NEAR bytes ahead into the first (85 -> 88 %). First level alone from 4 KiB ahead: 72 %, its few fill buffers then wait
 * for memory. Lines behind the last row may be fetched; they are never read. */
enum { STREAMS = 2, PREFETCH_FAR = 2048, PREFETCH_NEAR = 1024 };

static ALWAYS_INLINE void prefetch_ahead(const uint8_t *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + PREFETCH_FAR + i, 0, 2);
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + PREFETCH_NEAR + i, 0, 3);
}

static inline void prefetch_first(const uint8_t *at) {
    for (size_t i = 0; i < PREFETCH_FAR; i += 64) __builtin_prefetch(at + i, 0, 2);
}

/* 256 columns of one vector as the matrix-vector kernels read them. */
struct prepared {
    _Alignas(64) int8_t q[PIECE]; /* in the order in which the type's kernel meets its weights */
    int32_t start[PIECE / 4];     /* -offset * the sum of the activations that each 32-bit lane will meet: weights are
                                     unsigned levels minus an offset, so lanes that start here end with exact dots */
    float fold[16];               /* what scales (and minimums) of the piece are multiplied by */
    float sums[16];               /* of each 16 activations, which an offset that is no level is multiplied by */
};

/* 256 columns of 32 rows, woven for the blocked form: w[c/4][row][c%4] holds levels, weight = scale * (level - offset) -
 * min. */
struct panel {
    _Alignas(64) uint8_t w[PIECE / 4][PANEL_ROWS][4];
    float scale[PIECE / 16][PANEL_ROWS]; /* per 16 or 32 columns, as the type has it */
    float min[PIECE / 16][PANEL_ROWS];
};

typedef float panel_sums[PANEL_ROWS];

/* Scratch of a blocked product. */
struct blocked {
    union {
        struct panel panel;
        _Alignas(64) float f32[64][PANEL_ROWS]; /* the same for float types: one value per column and row */
    };
    panel_sums acc[PASS];
};

/* Little-endian words at any address. */
static ALWAYS_INLINE uint64_t word64(const uint8_t *at) {
    uint64_t x;
    memcpy(&x, at, sizeof x);
    return x;
}
static ALWAYS_INLINE uint32_t word32(const uint8_t *at) {
    uint32_t x;
    memcpy(&x, at, sizeof x);
    return x;
}
static ALWAYS_INLINE uint32_t word16(const uint8_t *at) {
    uint16_t x;
    memcpy(&x, at, sizeof x);
    return x;
}

static inline size_t pieces_of(size_t k) { return (k + PIECE - 1) / PIECE; }

/* The scale in front of a row of a type that has one: binary32 in 4 bytes, binary16 in 2. */
static ALWAYS_INLINE float row_scale(const uint8_t *row, size_t row_meta) {
    float f = 1;
    uint16_t h;
    if (row_meta == sizeof f) memcpy(&f, row, sizeof f);
    if (row_meta == sizeof h) {
        memcpy(&h, row, sizeof h);
#ifdef __F16C__
        f = _cvtsh_ss(h);
#else
        f = f16_to_f32(h);
#endif
    }
    return f;
}

static inline size_t vector_of(const struct matmul *m, size_t i) { return m->index ? (size_t)m->index[i] : i; }

/* The blocked form fetches the next panel's rows into the second-level cache while it multiplies: a few lines every 32 columns
 * of a tile, because a burst of them fills the queue to memory and holds up everything behind it. */
struct prefetch {
    const uint8_t *at, *end;
    size_t bytes; /* a step */
};

static ALWAYS_INLINE void prefetch_some(struct prefetch *p) {
    const uint8_t *stop = p->bytes < (size_t)(p->end - p->at) ? p->at + p->bytes : p->end;
    for (; p->at < stop; p->at += 64) __builtin_prefetch(p->at, 0, 2);
    if (p->at > p->end) p->at = p->end;
}

/* 256 columns (or the `groups` 32-groups that are left) from `column` on, opened into `panel`. */
struct gemm_step {
    const struct panel *panel;
    const struct matmul *m;
    size_t column, groups;
    int offset; /* of the type's levels */
    struct prefetch *ahead;
};

/* acc[v][row] += the step's product with vectors first .. first + (number of the function) */
typedef void (*tile_fn)(const struct gemm_step *s, size_t first, panel_sums *acc);

/* What one instruction set knows about one quantized type. */
struct blocked_format {
    /* 256 columns of open_rows rows, `stride` bytes apart, into the panel from `row` on */
    void (*open)(const uint8_t *at, size_t stride, struct panel *p, int row);
    size_t open_rows;
    const tile_fn *tiles; /* [most_vectors], for 1, 2, ... vectors */
    size_t most_vectors;
    int offset;
    size_t block_weights, block_bytes, row_meta; /* row_meta: bytes in front of a row, which hold its scale */
};

/* The product in tiles of up to most_vectors vectors (gemm.c). */
void gemm_blocked(const struct blocked_format *f, const struct matmul *m);

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
