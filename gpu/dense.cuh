/* The kernels of a step's dense products: q, k and v; the output projection; the head. Each is a template of the weight type, or of
 * a family of types, and of the number of tokens; q, k and v of different types share a kernel that asks for the type. Who launches
 * them: matvec.cu, and family.cuh. */
#ifndef COLDSTREAM_GPU_DENSE_CUH
#define COLDSTREAM_GPU_DENSE_CUH

#include "gpu/device.h"
#include "gpu/matvec.cuh"

/* ---- q, k, v ---------------------------------------------------------------------------------------------------- */

enum { DENSE_ROWS = 16 };

struct qkv_part {
    weights m;
    sharing how;
    int type;
    uint32_t first_block, column; /* in the grid; in a token's row of y */
};

struct qkv_args {
    qkv_part part[3];
    const float *x, *gain; /* [T][E], [E] */
    float *y;              /* [T][ld] */
    uint32_t ld, wants;
    float eps;
};

template <int TYPE, int T>
static __device__ __forceinline__ void qkv_rows(const qkv_part &p, uint32_t first, const vectors &x, float *out) {
    uint32_t vector[T];
#pragma unroll
    for (int t = 0; t < T; t++) vector[t] = t;
    block_rows<TYPE, DENSE_ROWS, T, 1, true>(p.m, first, p.how, x, ~0u, vector, out);
}

template <int T>
static __device__ __forceinline__ void qkv_rows_mixed(const qkv_part &p, uint32_t first, const vectors &x, float *out) {
    switch (p.type) {
#define X(type)                                                                                                                \
    case TYPE_##type: qkv_rows<TYPE_##type, T>(p, first, x, out); break;
        GPU_MATVEC_TYPES(X)
#undef X
    }
}

template <int TYPE, int T>
static __global__ void __launch_bounds__(BLOCK_THREADS, blocks_per_sm(TYPE, T, 1)) qkv_kernel(const qkv_args a) {
    DYN_SHARED(unsigned char, shared);
    SHARED(float, out, DENSE_ROWS * T);
    qkv_part p = a.part[0];
    if (blockIdx.x >= a.part[1].first_block) p = a.part[1];
    if (blockIdx.x >= a.part[2].first_block) p = a.part[2];
    p.m = with_grid<TYPE>(p.m);
    const uint32_t rows = DENSE_ROWS / p.how.parts, first = (blockIdx.x - p.first_block) * rows;
    if constexpr (TYPE != MIXED) prefetch_rows<TYPE>(p.m, first, rows);
    const room acts = acts_carve(shared, a.wants, T, p.m.k, 1);
    block_prologue<T, 1>(a.x, a.gain, a.eps, a.wants, acts);
    if constexpr (TYPE == MIXED)
        qkv_rows_mixed<T>(p, first, acts_read(acts), out);
    else
        qkv_rows<TYPE, T>(p, first, acts_read(acts), out);
    __syncthreads();
    const uint32_t row = threadIdx.x % rows, t = threadIdx.x / rows;
    if (t < T && first + row < p.m.rows)
        a.y[static_cast<size_t>(t) * a.ld + p.column + first + row] = sum_parts<DENSE_ROWS, T>(out, p.how.parts, row, t);
}

/* ---- output projection ------------------------------------------------------------------------------------------ */

struct output_args {
    weights m;
    sharing how;
    vectors in;
    float *x; /* [T][rows], added to */
};

template <int TYPE, int T>
static __global__ void __launch_bounds__(BLOCK_THREADS, blocks_per_sm(TYPE, T, 1)) output_kernel(const output_args a) {
    SHARED(float, out, DENSE_ROWS * T);
    uint32_t vector[T];
#pragma unroll
    for (int t = 0; t < T; t++) vector[t] = t;
    const uint32_t rows = DENSE_ROWS / a.how.parts, first = blockIdx.x * rows;
    block_rows<TYPE, DENSE_ROWS, T, 1, true>(with_grid<TYPE>(a.m), first, a.how, a.in, ~0u, vector, out);
    __syncthreads();
    const uint32_t row = threadIdx.x % rows, t = threadIdx.x / rows;
    if (t < T && first + row < a.m.rows)
        a.x[static_cast<size_t>(t) * a.m.rows + first + row] += sum_parts<DENSE_ROWS, T>(out, a.how.parts, row, t);
}

/* ---- head ------------------------------------------------------------------------------------------------------- */

enum { HEAD_ROWS = 64, HEAD_BLOCKS_PER_SM = 6 };

struct head_args {
    weights m;
    sharing how;
    const float *x, *gain; /* [T][E], [E] */
    float *logits;         /* [T][V] */
    unsigned long long *best_key;
    uint32_t wants;
    float eps;
};

/* Largest for the largest logit, of equal ones for the lowest row: integers that atomics can compare in any order. */
static __device__ __forceinline__ unsigned long long key_of(float value, uint32_t row) {
    const uint32_t bits = __float_as_uint(value + 0.0f); // -0 becomes 0
    const uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<unsigned long long>(rising) << 32 | (0xffffffffu - row);
}

/* The head's input as one vector and, int8, as two: what rounding took goes through the head as well (engine/graph.c). */
template <int TYPE, int T>
static __global__ void __launch_bounds__(BLOCK_THREADS, blocks_per_sm(TYPE, T, 2)) head_kernel(const head_args a) {
    enum {
        C = unpack<TYPE>::GROUP == 0 ? 1 : 2,
        OWN = (T + BLOCK_WARPS - 1) / BLOCK_WARPS /* tokens whose results a warp writes */
    };
    DYN_SHARED(unsigned char, shared);
    uint32_t vector[T];
#pragma unroll
    for (int t = 0; t < T; t++) vector[t] = t;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, rows = HEAD_ROWS / a.how.parts;
    float *const out = reinterpret_cast<float *>(shared);
    const room acts = acts_carve(shared + sizeof(float) * HEAD_ROWS * T, a.wants, T, a.m.k, C);
    prefetch_rows<TYPE>(a.m, blockIdx.x * rows, rows);
    const weights m = with_grid<TYPE>(a.m);
    block_prologue<T, C>(a.x, a.gain, a.eps, a.wants, acts);

    float best[OWN];
    uint32_t best_row[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) best[i] = -INFINITY, best_row[i] = 0xffffffffu;
#pragma unroll 1
    for (uint32_t first = blockIdx.x * rows; first < a.m.rows; first += gridDim.x * rows) {
        block_rows<TYPE, HEAD_ROWS, T, C, true>(m, first, a.how, acts_read(acts), ~0u, vector, out);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const uint32_t t = warp + BLOCK_WARPS * i;
            for (uint32_t row = lane; t < T && row < rows && first + row < a.m.rows; row += 32) {
                const float value = sum_parts<HEAD_ROWS, T>(out, a.how.parts, row, t);
                a.logits[static_cast<size_t>(t) * a.m.rows + first + row] = value;
                if (value > best[i] || best_row[i] == 0xffffffffu)
                    best[i] = isnan(value) ? -INFINITY : value, best_row[i] = first + row;
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const found f = warp_argmax<false>(best[i], best_row[i]);
        const uint32_t t = warp + BLOCK_WARPS * i;
        if (lane == 0 && t < T && f.index != 0xffffffffu) atomicMax(a.best_key + t, key_of(f.value, f.index));
    }
}

#endif
