/* Kernels of products of many tokens on the tensor cores: dense matrices, and experts over pairs sorted by expert. Weights are opened to binary16 in
 * shared memory, tokens are binary16, sums binary32. And a product in binary32 throughout for routers, whose choices hang on it.
 *
 * A tile is 128 weight rows x N tokens, N of 16, 32, 64, 128; each N is a kernel and a launch. The tokens of a matrix (of an expert: only
 * the device knows how many) are cut into tiles of the widest N and one rest, which goes to the narrowest N that holds it.
 * Tiles of a launch cost the same, so blocks take them by index; wide ones are launched first. No two blocks write the same
 * number and every sum runs over the columns in the same order whatever N: results do not depend on how tokens or experts were handed in.
 *
 *   shared memory, twice (one is multiplied while the other is filled):
 *       weights [128 rows][64 columns] | tokens [N][64]      of binary16
 *   16-byte unit u of row r stands at u ^ (r % 8): eight rows of a unit, and eight units of a row, are in different banks.
 *
 * gate and up go together: of each 32 rows of a tile, 16 are of gate and 16 of up, so that one warp holds both of a value's
 * factors. SiLU(gate) * up is stored in binary16 with a power of two per (pair, 64 columns) that keeps it in range, 1 as a rule;
 * level_mid() brings a row to one power, and down multiplies it back in. Where gate and up are of two types, each has a launch of
 * its own and join_mid() does the rest.
 *
 * Who launches: matmul.cu, and family.cuh. */
#ifndef COLDSTREAM_GPU_MATMUL_CUH
#define COLDSTREAM_GPU_MATMUL_CUH

#include <assert.h>

#include "gpu/device.h"
#include "gpu/network.h"
#include "gpu/coded_tile.cuh"
#include "gpu/unpack_tile.cuh"

enum {
    TILE_ROWS = 128,
    MID_ROWS = TILE_ROWS / 2, /* of gate, and of up */
    TILE_THREADS = 256,
    NARROWEST = 16,
    WIDEST = 128,
    LIST = 128 /* experts of one launch */
};

enum product_result {
    RESULT_STORE,       /* y = */
    RESULT_ADD,         /* y += */
    RESULT_TWO_VECTORS, /* y[i] = columns 2i + 2^-11 columns 2i+1 */
    RESULT_MID,         /* SiLU(first) * second -> mid */
    RESULT_DOWN,        /* y = scale[i] * */
    RESULT_GATED        /* y = SiLU(y) * scale[i] * : up after gate, of trellis types (trellis_tiles.cu) */
};

/* What a launch computes: `count` matrices (or gate and up pairs) of the same shape, each with its own tokens. */
struct tile_call {
    enum product_result result;
    uint32_t rows, k;        /* of each matrix */
    uint32_t row_blocks;     /* blocks of a row */
    uint64_t blocks;         /* of a matrix */
    const __half *x;         /* rows of k */
    const int32_t *gather;   /* row of x for each sorted pair; NULL: its own */
    const uint32_t *start;   /* [X+1] pairs of an expert; NULL: one matrix with n tokens */
    uint32_t n, widest;
    float *y;                /* rows ldy apart */
    uint32_t ldy;
    const float *scale;      /* RESULT_DOWN */
    __half *mid;             /* RESULT_MID: [pairs][rows]; the powers go to y[pair][column / 64] */
    uint64_t offset[2];      /* of the matrix, of gate and up, in a slot */
    int type[2];             /* of them, for kernels of a family */
    const uint32_t *tables;
    uint32_t count;
    uint64_t slot[LIST];
    uint16_t expert[LIST];
};

struct tile {
    uint32_t row, rows; /* first row; of the matrix */
    uint64_t first;     /* row of y, and of x without gather */
    uint32_t count;     /* tokens */
    const uint8_t *w[2];
    const uint32_t *grid; /* in shared memory, of families that have one */
};

/* ---- which tiles there are ----------------------------------------------------------------------------------------------- */

/* Tiles of N among those of `n` tokens when the widest are `widest`; *at: the first token of the first of them. */
template <int N> static __host__ __device__ uint32_t token_tiles(uint32_t n, uint32_t widest, uint32_t *at) {
    const uint32_t full = n / widest, rest = n % widest;
    const uint32_t mine = rest > (N == NARROWEST ? 0 : N / 2) && rest <= N;
    *at = N == widest ? 0 : full * widest;
    return (N == widest ? full : 0) + mine;
}

static __device__ __forceinline__ uint32_t first_pair(const struct tile_call &c, uint32_t i) { return c.start ? c.start[c.expert[i]] : 0; }
static __device__ __forceinline__ uint32_t tokens_of(const struct tile_call &c, uint32_t i) {
    return c.start ? c.start[c.expert[i] + 1] - c.start[c.expert[i]] : c.n;
}

/* ends[i] = token tiles of matrices 0 .. i. Warp 0 adds them up, four a lane. */
template <int N> static __device__ __forceinline__ void list_tiles(const struct tile_call &c, uint32_t *ends) {
    if (threadIdx.x < 32) {
        const uint32_t lane = threadIdx.x;
        uint32_t each[LIST / 32], sum = 0, at;
#pragma unroll
        for (uint32_t i = 0; i < LIST / 32; i++) {
            const uint32_t m = lane * (LIST / 32) + i;
            sum += m < c.count ? token_tiles<N>(tokens_of(c, m), c.widest, &at) : 0;
            each[i] = sum;
        }
        uint32_t before = sum;
#pragma unroll
        for (uint32_t step = 1; step < 32; step *= 2) {
            const uint32_t other = warp_from(before, (int)((lane - step) & 31));
            if (lane >= step) before += other;
        }
#pragma unroll
        for (uint32_t i = 0; i < LIST / 32; i++) ends[lane * (LIST / 32) + i] = before - sum + each[i];
    }
    __syncthreads();
}

template <int N> static __device__ __forceinline__ void find_tile(const struct tile_call &c, const uint32_t *ends, uint32_t index, uint32_t row_tiles, struct tile *t) {
    const uint32_t token_tile = index / row_tiles, row_tile = index % row_tiles;
    uint32_t m = 0;
    for (uint32_t step = LIST / 2; step > 0; step /= 2)
        if (ends[m + step - 1] <= token_tile) m += step;
    uint32_t at;
    const uint32_t n = tokens_of(c, m);
    (void)token_tiles<N>(n, c.widest, &at);
    at += (token_tile - (m > 0 ? ends[m - 1] : 0)) * N;
    t->row = row_tile * (c.result == RESULT_MID ? MID_ROWS : TILE_ROWS);
    t->rows = c.rows;
    t->first = first_pair(c, m) + at;
    t->count = n - at < N ? n - at : N;
    t->w[0] = (const uint8_t *)c.slot[m] + c.offset[0];
    t->w[1] = (const uint8_t *)c.slot[m] + c.offset[1];
}

/* ---- filling shared memory ------------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ __half *tile_unit(__half *tile, uint32_t row, uint32_t unit) { return tile + row * SLICE + ((unit ^ (row & 7)) << 3); }

/* A thread's row of the weights' tile, in the matrix. Rows behind its end read the last one; nobody stores their sums. */
struct weight_row {
    const uint8_t *matrix;
    uint64_t first; /* block */
    uint32_t row;
    int type;
};

static __device__ __forceinline__ struct weight_row my_weight_row(const struct tile_call &c, const struct tile &t) {
    const uint32_t r = threadIdx.x / 2;
    const bool mid = c.result == RESULT_MID;
    uint32_t row = t.row + (mid ? (r >> 5) * 16 + (r & 15) : r);
    if (row >= c.rows) row = c.rows - 1;
    struct weight_row w;
    w.matrix = mid && (r & 16) ? t.w[1] : t.w[0];
    w.first = (uint64_t)row * c.row_blocks;
    w.row = row;
    w.type = mid && (r & 16) ? c.type[1] : c.type[0];
    return w;
}

template <int TYPE>
static __device__ __forceinline__ void load_weights(const struct tile_call &c, const struct weight_row &w, uint32_t step, slice<TYPE> *s) {
    const uint32_t half = threadIdx.x & 1;
    if constexpr (TYPE >= FAMILY_NONE) {
        if (family<TYPE>::SMALL && slice<TYPE>::column(step, 4 * half) >= c.k) s->zero();
        else s->load(w.type, coded_row{w.matrix, c.blocks, w.first, w.row}, step, half);
    } else {
        if (slice<TYPE>::column(step, 4 * half) < c.k) s->load(w.matrix, c.blocks, w.first, step, half);
        else s->zero();
    }
}

/* Units 4 half .. 4 half + 3 of a row of the tile. */
template <int TYPE> static __device__ __forceinline__ void store_weights(__half *tile, const slice<TYPE> &s, const struct weight_row &w, const uint32_t *grid, uint32_t step) {
    const uint32_t row = threadIdx.x / 2, half = threadIdx.x & 1;
    uint4 unit[4];
    if constexpr (TYPE >= FAMILY_NONE) {
        s.halves(w.type, grid, step, half, unit);
    } else {
        unit[0] = slice_halves<0>(s, step, half), unit[1] = slice_halves<1>(s, step, half);
        unit[2] = slice_halves<2>(s, step, half), unit[3] = slice_halves<3>(s, step, half);
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) stu4(tile_unit(tile, row, 4 * half + i), unit[i]);
}

/* The tokens a thread copies a unit of: every 32nd. Places behind the last read the last; nobody stores their sums. */
template <int N> struct token_rows {
    enum { COUNT = N * SLICE_UNIT < TILE_THREADS ? 1 : N * SLICE_UNIT / TILE_THREADS };
    uint32_t row[COUNT];
};

template <int N> static __device__ __forceinline__ void my_token_rows(const struct tile_call &c, const struct tile &t, token_rows<N> *rows) {
#pragma unroll
    for (int i = 0; i < token_rows<N>::COUNT; i++) {
        const uint32_t token = threadIdx.x / 8 + 32 * i;
        const uint64_t pair = t.first + (token < t.count ? token : t.count - 1);
        rows->row[i] = c.gather ? (uint32_t)c.gather[pair] : (uint32_t)pair;
    }
}

template <int TYPE, int N>
static __device__ __forceinline__ void copy_tokens(const struct tile_call &c, const token_rows<N> &rows, uint32_t step, __half *tile) {
    const uint32_t unit = threadIdx.x % 8, column = slice<TYPE>::column(step, unit);
    const bool valid = column < c.k;
#pragma unroll
    for (int i = 0; i < token_rows<N>::COUNT; i++) {
        const uint32_t token = threadIdx.x / 8 + 32 * i;
        if (N < 32 && token >= N) break;
        cp_async16_or_zero(tile_unit(tile, token, unit), c.x + (uint64_t)rows.row[i] * c.k + (valid ? column : 0), valid);
    }
    cp_async_commit();
}

/* ---- the product of a slice ----------------------------------------------------------------------------------------------- */

/* Eight warps, 4 of 32 rows x 2 of N/2 tokens. sum[i][j]: rows 16i .. of the warp's, tokens 8j .. of them. */
template <int N> static __device__ __forceinline__ void multiply(__half *weights, __half *tokens, float (&sum)[2][N / 16][4]) {
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = warp / 2 * 32, token = warp % 2 * (N / 2), matrix = lane >> 3;
    uint32_t both[4]; /* N = 16: a warp has 8 tokens, and one load brings two of the four k */
#pragma unroll
    for (uint32_t k = 0; k < SLICE / 16; k++) {
        uint32_t a[2][4];
#pragma unroll
        for (uint32_t i = 0; i < 2; i++)
            ldmatrix_x4(a[i], tile_unit(weights, row + 16 * i + (matrix & 1) * 8 + (lane & 7), 2 * k + (matrix >> 1)));
        if constexpr (N == 16) {
            if (k % 2 == 0) ldmatrix_x4(both, tile_unit(tokens, token + (lane & 7), 2 * k + matrix));
            const uint32_t b[2] = {both[2 * (k % 2)], both[2 * (k % 2) + 1]};
            mma_f16(sum[0][0], a[0], b);
            mma_f16(sum[1][0], a[1], b);
        } else {
#pragma unroll
            for (uint32_t j = 0; j < N / 16; j += 2) {
                uint32_t b[4];
                ldmatrix_x4(b, tile_unit(tokens, token + 8 * j + (matrix >> 1) * 8 + (lane & 7), 2 * k + (matrix & 1)));
                const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
                for (uint32_t i = 0; i < 2; i++) {
                    mma_f16(sum[i][j], a[i], left);
                    mma_f16(sum[i][j + 1], a[i], right);
                }
            }
        }
    }
}

/* ---- what becomes of the sums --------------------------------------------------------------------------------------------- */

/* Element e of sum[i][j]: row 16i + lane/4 (+ 8 for e > 1), token 8j + 2 (lane % 4) + e % 2, of the warp's. */
template <int N> static __device__ __forceinline__ void store_sums(const struct tile_call &c, const struct tile &t, const float (&sum)[2][N / 16][4]) {
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const uint32_t row = t.row + warp / 2 * 32 + lane / 4, token = warp % 2 * (N / 2) + 2 * (lane % 4);
#pragma unroll
    for (uint32_t j = 0; j < N / 16; j++)
#pragma unroll
        for (uint32_t e = 0; e < 2; e++) {
            const uint32_t column = token + 8 * j + e;
            if (column >= t.count || (c.result == RESULT_TWO_VECTORS && e == 1)) continue;
            const uint64_t at = t.first + column;
            float *y = c.y + (c.result == RESULT_TWO_VECTORS ? at / 2 : at) * c.ldy;
            const float scale = c.result == RESULT_DOWN ? c.scale[at] : 1;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t r = row + 16 * (i / 2) + 8 * (i % 2);
                if (r >= c.rows) continue;
                float value = sum[i / 2][j][2 * (i % 2) + e] * scale;
                if (c.result == RESULT_TWO_VECTORS) value = fmaf(sum[i / 2][j][2 * (i % 2) + 1], 1.0f / 2048, value);
                y[r] = c.result == RESULT_ADD ? y[r] + value : value;
            }
        }
}

static __device__ __forceinline__ float silu(float x) { return x / (1 + expf(-x)); }

/* sum[0] is gate, sum[1] up, of the same 16 columns of mid. `room` is the tiles' shared memory, no longer read. */
template <int N> static __device__ __forceinline__ void store_mid(const struct tile_call &c, const struct tile &t, float (&sum)[2][N / 16][4], __half *room) {
    enum { STRIDE = MID_ROWS + 8 }; /* off the banks of the row before */
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = warp / 2;
    const uint32_t token = warp % 2 * (N / 2) + 2 * (lane % 4);
    float *most = (float *)room;          /* [4 groups of rows][N] */
    __half *stage = room + 4 * N * 2;     /* [N][STRIDE] */
#pragma unroll
    for (uint32_t j = 0; j < N / 16; j++)
#pragma unroll
        for (uint32_t e = 0; e < 2; e++) {
            float *low = &sum[0][j][e], *high = &sum[0][j][2 + e];
            *low = silu(*low) * sum[1][j][e];
            *high = silu(*high) * sum[1][j][2 + e];
            /* rows behind the end were computed from the last row: they change no maximum */
            float m = fmaxf(fabsf(*low), fabsf(*high));
#pragma unroll
            for (int x = 4; x < 32; x *= 2) m = fmaxf(m, warp_xor(m, x));
            if (lane < 4) most[group * N + token + 8 * j + e] = m;
        }
    __syncthreads();
#pragma unroll
    for (uint32_t j = 0; j < N / 16; j++)
#pragma unroll
        for (uint32_t e = 0; e < 2; e++) {
            const uint32_t column = token + 8 * j + e;
            const float m = fmaxf(fmaxf(most[column], most[N + column]), fmaxf(most[2 * N + column], most[3 * N + column]));
            const float power = half_power(m), inverse = inverse_power(power);
            __half *to = stage + column * STRIDE + group * 16 + lane / 4;
            to[0] = __float2half_rn(sum[0][j][e] * inverse);
            to[8] = __float2half_rn(sum[0][j][2 + e] * inverse);
            if (group == 0 && lane < 4 && column < t.count) c.y[(t.first + column) * c.ldy + t.row / MID_ROWS] = power;
        }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < t.count * (MID_ROWS / 8); i += TILE_THREADS) {
        const uint32_t column = i / (MID_ROWS / 8), f = i % (MID_ROWS / 8) * 8;
        if (t.row + f < c.rows) stu4(c.mid + (t.first + column) * c.rows + t.row + f, ldu4(stage + column * STRIDE + f));
    }
}

/* ---- the kernel ------------------------------------------------------------------------------------------------------------ */

template <int TYPE, int N> static __device__ __forceinline__ void compute_tile(const struct tile_call &c, const struct tile &t, __half *room) {
    enum { BUFFER = (TILE_ROWS + N) * SLICE };
    const struct weight_row w = my_weight_row(c, t);
    token_rows<N> rows;
    my_token_rows<N>(c, t, &rows);
    float sum[2][N / 16][4];
#pragma unroll
    for (int i = 0; i < 2 * (N / 16) * 4; i++) sum[i / (N / 16 * 4)][i / 4 % (N / 16)][i % 4] = 0;
    slice<TYPE> s;
    const uint32_t steps = (c.k + SLICE - 1) / SLICE;
    copy_tokens<TYPE, N>(c, rows, 0, room + TILE_ROWS * SLICE);
    load_weights<TYPE>(c, w, 0, &s);
    store_weights<TYPE>(room, s, w, t.grid, 0);
    cp_async_wait<0>();
    __syncthreads();
    for (uint32_t step = 0; step < steps; step++) {
        __half *here = room + (step & 1) * BUFFER, *next = room + (~step & 1) * BUFFER;
        if (step + 1 < steps) {
            copy_tokens<TYPE, N>(c, rows, step + 1, next + TILE_ROWS * SLICE);
            load_weights<TYPE>(c, w, step + 1, &s);
        }
        multiply<N>(here, here + TILE_ROWS * SLICE, sum);
        if (step + 1 < steps) {
            store_weights<TYPE>(next, s, w, t.grid, step + 1);
            cp_async_wait<0>();
        }
        __syncthreads();
    }
    if (c.result == RESULT_MID) store_mid<N>(c, t, sum, room);
    else store_sums<N>(c, t, sum);
}

template <int TYPE, int N>
static __global__ void __launch_bounds__(TILE_THREADS, N == WIDEST ? 1 : 2) product_tiles(const struct tile_call c) {
    DYN_SHARED(__half, room);
    SHARED(uint32_t, ends, LIST);
    list_tiles<N>(c, ends);
    const uint32_t *grid = NULL;
    if constexpr (TYPE >= FAMILY_NONE) grid = block_grid<TYPE>(c.type[0], c.tables);
    const uint32_t row_tiles = (c.rows + (c.result == RESULT_MID ? MID_ROWS : TILE_ROWS) - 1) / (c.result == RESULT_MID ? MID_ROWS : TILE_ROWS);
    const uint32_t tiles = ends[LIST - 1] * row_tiles;
    for (uint32_t i = blockIdx.x; i < tiles; i += gridDim.x) {
        struct tile t;
        find_tile<N>(c, ends, i, row_tiles, &t);
        t.grid = grid;
        compute_tile<TYPE, N>(c, t, room);
        __syncthreads(); /* the next tile fills what this one's last reads */
    }
}

/* ---- binary32 throughout --------------------------------------------------------------------------------------------------- */

enum { EXACT_ROWS = 64, EXACT_TOKENS = 32, EXACT_STRIDE = SLICE + 4 /* keeps 16-byte reads of eight rows in different banks */ };

struct exact_call {
    const uint8_t *w;
    uint32_t rows, k, row_blocks;
    uint64_t blocks;
    const float *x;
    uint32_t n;
    float *y;
    uint32_t ldy;
    int type;
    const uint32_t *tables;
};

template <int P, int TYPE> static __device__ __forceinline__ void put_unit(const slice<TYPE> &s, uint32_t step, uint32_t half, float *to) {
    float v[8];
    s.template values<P>(v, step, half);
    stf4(to + 8 * P, make_float4(v[0], v[1], v[2], v[3]));
    stf4(to + 8 * P + 4, make_float4(v[4], v[5], v[6], v[7]));
}

/* A slice of 64 rows and of 32 tokens; zeroes behind the columns' end. */
template <int TYPE>
static __device__ void fill_exact(const struct exact_call &c, const uint32_t *grid, uint32_t row, uint32_t token, uint32_t step, float *w, float *x) {
    if (threadIdx.x < 2 * EXACT_ROWS) {
        const uint32_t r = row + threadIdx.x / 2, half = threadIdx.x & 1;
        float *to = w + threadIdx.x / 2 * EXACT_STRIDE + 32 * half;
        const uint32_t last = r < c.rows ? r : c.rows - 1;
        const uint64_t first = (uint64_t)last * c.row_blocks;
        slice<TYPE> s;
        if constexpr (TYPE >= FAMILY_NONE) {
            if (family<TYPE>::SMALL && slice<TYPE>::column(step, 4 * half) >= c.k) s.zero();
            else s.load(c.type, coded_row{c.w, c.blocks, first, last}, step, half);
            float v[32];
            s.values(c.type, grid, step, half, v);
#pragma unroll
            for (uint32_t i = 0; i < 32; i += 4) stf4(to + i, make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]));
        } else {
            if (slice<TYPE>::column(step, 4 * half) < c.k) s.load(c.w, c.blocks, first, step, half);
            else s.zero();
            put_unit<0>(s, step, half, to);
            put_unit<1>(s, step, half, to);
            put_unit<2>(s, step, half, to);
            put_unit<3>(s, step, half, to);
        }
    }
    const uint32_t t = token + threadIdx.x / 8, unit = threadIdx.x % 8, column = slice<TYPE>::column(step, unit);
    const float *from = c.x + (uint64_t)(t < c.n ? t : c.n - 1) * c.k + column;
    float *to = x + threadIdx.x / 8 * EXACT_STRIDE + 8 * unit;
    const bool valid = column < c.k;
    stf4(to, valid ? ldf4(from) : make_float4(0, 0, 0, 0));
    stf4(to + 4, valid ? ldf4(from + 4) : make_float4(0, 0, 0, 0));
}

/* 64 rows x 32 tokens a block, 4 x 2 a thread. Sums of a slice first, then of slices: their roundings do not pile up. */
template <int TYPE> static __global__ void __launch_bounds__(TILE_THREADS) product_exact(const struct exact_call c) {
    SHARED(float, w, EXACT_ROWS * EXACT_STRIDE);
    SHARED(float, x, EXACT_TOKENS * EXACT_STRIDE);
    const uint32_t row = blockIdx.x * EXACT_ROWS, token = blockIdx.y * EXACT_TOKENS, r = threadIdx.x % 16, t = threadIdx.x / 16;
    const uint32_t *grid = NULL;
    if constexpr (TYPE >= FAMILY_NONE) grid = block_grid<TYPE>(c.type, c.tables);
    float sum[4][2] = {};
    for (uint32_t step = 0; step * SLICE < c.k; step++) {
        if (step > 0) __syncthreads();
        fill_exact<TYPE>(c, grid, row, token, step, w, x);
        __syncthreads();
        float part[4][2] = {};
#pragma unroll 4
        for (uint32_t k = 0; k < SLICE; k += 4) {
            const float4 x0 = ldf4(x + t * EXACT_STRIDE + k), x1 = ldf4(x + (t + 16) * EXACT_STRIDE + k);
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const float4 v = ldf4(w + (r + 16 * i) * EXACT_STRIDE + k);
                part[i][0] = fmaf(v.w, x0.w, fmaf(v.z, x0.z, fmaf(v.y, x0.y, fmaf(v.x, x0.x, part[i][0]))));
                part[i][1] = fmaf(v.w, x1.w, fmaf(v.z, x1.z, fmaf(v.y, x1.y, fmaf(v.x, x1.x, part[i][1]))));
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) sum[i][0] += part[i][0], sum[i][1] += part[i][1];
    }
#pragma unroll
    for (uint32_t i = 0; i < 8; i++)
        if (token + t + 16 * (i % 2) < c.n && row + r + 16 * (i / 2) < c.rows)
            c.y[(uint64_t)(token + t + 16 * (i % 2)) * c.ldy + row + r + 16 * (i / 2)] = sum[i / 2][i % 2];
}

/* ---- launches -------------------------------------------------------------------------------------------------------------- */

/* What of the device the launches depend on. */
struct tile_device {
    uint32_t sm_count, widest;
};

static inline struct tile_device tile_device_of(const struct gpu *g) {
    struct gpu_info info;
    g->ops->info(g, &info);
    return {info.sm_count,
            info.cc_major < 8 ? WIDEST / 2u : WIDEST + 0u}; /* sm_75 has 64 KB: 64 KB of tiles and the list are too much */
}

/* The narrowest tiles that hold n tokens at once, or the widest there are. */
static inline uint32_t width_for(uint32_t n, uint32_t widest) {
    uint32_t width = NARROWEST;
    while (width < n && width < widest) width *= 2;
    return width;
}

/* Few tiles for many multiprocessors: narrower ones, though each opens the weights again. */
static inline uint32_t width_for_matrix(const struct tile_device &d, uint32_t rows, uint32_t n) {
    uint32_t width = width_for(n, d.widest);
    while (width > NARROWEST && (uint64_t)((rows + TILE_ROWS - 1) / TILE_ROWS) * ((n + width - 1) / width) < d.sm_count)
        width /= 2;
    return width;
}

template <int TYPE> static constexpr uint32_t tile_grid_bytes() {
    if constexpr (TYPE >= FAMILY_NONE) return family<TYPE>::GRID * sizeof(uint32_t);
    else return 0;
}

/* `most_tiles`: a bound of the token tiles. The bigger tiles need the room beyond 48 KB that a kernel has to ask for. */
template <int TYPE, int N>
static void launch_width(struct gpu *g, const struct tile_device &d, const struct tile_call &c, uint32_t most_tiles, cudaStream_t stream) {
    const uint32_t bytes = 2 * (TILE_ROWS + N) * SLICE * sizeof(__half), rows = c.result == RESULT_MID ? MID_ROWS : TILE_ROWS;
    const uint64_t tiles = (uint64_t)most_tiles * ((c.rows + rows - 1) / rows), resident = (uint64_t)d.sm_count * (N == WIDEST ? 1 : 2);
    if (tiles == 0) return;
    if (bytes + LIST * sizeof(uint32_t) + tile_grid_bytes<TYPE>() > 48 * 1024 &&
        !gpu_note(g, cudaFuncSetAttribute(product_tiles<TYPE, N>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "preparing a product"))
        return;
    LAUNCH((product_tiles<TYPE, N>), (uint32_t)(tiles < resident ? tiles : resident), TILE_THREADS, bytes, stream, c);
}

/* Token tiles of N, at most, when `pairs` pairs are spread over c.count experts; for one matrix its own. */
template <int N> static uint32_t bound_tiles(const struct tile_call &c, uint64_t pairs) {
    uint32_t at;
    if (!c.start) return token_tiles<N>(c.n, c.widest, &at);
    if (N > c.widest) return 0;
    const uint64_t rests = pairs / (N == NARROWEST ? 1 : N / 2 + 1), full = N == c.widest ? pairs / N : 0;
    return (uint32_t)(full + (rests < c.count ? rests : c.count));
}

template <int TYPE>
static void launch_type(struct gpu *g, const struct tile_device &d, const struct tile_call &c, uint64_t pairs, cudaStream_t stream) {
    launch_width<TYPE, 128>(g, d, c, bound_tiles<128>(c, pairs), stream);
    launch_width<TYPE, 64>(g, d, c, bound_tiles<64>(c, pairs), stream);
    launch_width<TYPE, 32>(g, d, c, bound_tiles<32>(c, pairs), stream);
    launch_width<TYPE, 16>(g, d, c, bound_tiles<16>(c, pairs), stream);
}

#endif
