/* The kernels of a step's experts, those whose weights are on the device: gate and up with SwiGLU and rounding to int8, then
 * down with the residual. Every distinct expert is read once, whichever tokens chose it (gpu_step.hits). The second kernel's
 * last block adds what the host computed meanwhile. Who launches them: experts.cu, and family.cuh. */
#ifndef COLDSTREAM_GPU_EXPERTS_CUH
#define COLDSTREAM_GPU_EXPERTS_CUH

#include "gpu/mail.cuh"
#include "gpu/matvec.cuh"

/* Where an expert's matrices are. */
struct expert_place {
    const uint8_t *slots;
    uint64_t offset; /* of the matrix in its slot */
    uint32_t rows, k;
    int type;
    uint32_t block; /* weights */
    const uint32_t *tables;
};

static __device__ __forceinline__ weights matrix_in(const expert_place &p, uint32_t slot) {
    return weights{p.slots + (static_cast<uint64_t>(slot) - 1) * 256 + p.offset, p.rows, p.k, p.type, p.block, p.tables, NULL};
}

/* ---- gate and up: 32 outputs of one expert a block -------------------------------------------------------------- */

enum { TILE = 32, GATE_UP_ROWS = 2 * TILE };

struct gate_up_args {
    expert_place gate, up;
    sharing gate_how, up_how;
    vectors in; /* [T][E] */
    const gpu_hit *hits;
    const uint32_t *n_hits;
    uint32_t n_used, tiles, wants; /* what down multiplies */
    gpu_acts mid;                  /* [T*n_used][F] */
    float *mid32;
};

/* The first two warps take gate's 32 rows, the others up's: rows 32..63 of the block. */
template <int TYPE, int T>
static __device__ __forceinline__ void gate_up_rows(const weights &m, const sharing &how, uint32_t first, const vectors &in,
                                                    uint32_t use, float *out) {
    uint32_t vector[T];
#pragma unroll
    for (int t = 0; t < T; t++) vector[t] = t;
    block_rows<TYPE, GATE_UP_ROWS, T, 1, false>(m, first, how, in, use, vector, out);
}

template <int T>
static __device__ __forceinline__ void gate_up_rows_mixed(int type, const weights &m, const sharing &how, uint32_t first,
                                                          const vectors &in, uint32_t use, float *out) {
    switch (type) {
#define X(type)                                                                                                                \
    case TYPE_##type: gate_up_rows<TYPE_##type, T>(m, how, first, in, use, out); break;
        GPU_MATVEC_TYPES(X)
#undef X
    }
}

/* A lane's value of 32 that make a group: rounded and stored as group `at` / 32 of mid. */
static __device__ __forceinline__ void store_group(const gpu_acts &mid, size_t at, float v) {
    const uint32_t lane = threadIdx.x % 32;
    uint32_t max = magnitude_bits(v);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) max = larger(max, warp_xor(max, step));
    const group_scale g = scale_of_group(max);
    const int q = round_to_int8(v, g);
    uint32_t word = static_cast<uint32_t>(q & 0xff) << 8 * (lane % 4);
    word |= warp_xor(word, 1), word |= warp_xor(word, 2);
    int sum = q;
#pragma unroll
    for (int step = 8; step > 0; step /= 2) sum += warp_xor(sum, step);
    const int both = sum + warp_xor(sum, 16);
    if (lane % 4 == 0) *reinterpret_cast<uint32_t *>(mid.q + at + lane) = word;
    if (lane % 16 == 0) mid.sum16[(at + lane) / 16] = sum;
    if (lane == 0) mid.d[at / 32] = g.d, mid.s32[at / 32] = g.d * static_cast<float>(both);
}

template <int TYPE, int T>
static __global__ void __launch_bounds__(BLOCK_THREADS, blocks_per_sm(TYPE, T, 1)) gate_up_kernel(const gate_up_args a) {
    SHARED(float, out, GATE_UP_ROWS * T);
    const uint32_t at = blockIdx.x / a.tiles, tile = blockIdx.x % a.tiles, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (at >= *a.n_hits) return;
    const gpu_hit *const hit = a.hits + at;
    const uint32_t slot = hit->slot, use = hit->tokens;
    const bool is_up = warp >= BLOCK_WARPS / 2;
    const weights m = with_grid<TYPE>(is_up ? matrix_in(a.up, slot) : matrix_in(a.gate, slot)); /* a grid belongs to both */
    const uint32_t first = tile * TILE - (is_up ? TILE : 0); /* wraps below 0, and back when the warp's own row is added */
    if constexpr (TYPE == MIXED)
        gate_up_rows_mixed<T>(m.type, m, is_up ? a.up_how : a.gate_how, first, a.in, use, out);
    else
        gate_up_rows<TYPE, T>(m, a.gate_how, first, a.in, use, out);
    __syncthreads();
    const uint32_t f = tile * TILE + lane;
#pragma unroll 1
    for (uint32_t t = warp; t < T; t += BLOCK_WARPS) {
        if (!(use >> t & 1)) continue;
        const float gate = out[lane * T + t], up = out[(TILE + lane) * T + t];
        const float v = f < m.rows ? gate / (1 + expf(-gate)) * up : 0;
        const size_t row = (static_cast<size_t>(t) * a.n_used + hit->rank[t]) * m.rows;
        if ((a.wants & WANT_FLOATS) && f < m.rows) a.mid32[row + f] = v;
        if (a.wants & WANT_INT8) store_group(a.mid, row + tile * TILE, v);
    }
}

/* ---- down: 8 rows of all experts a block ------------------------------------------------------------------------ */

enum { DOWN_ROWS = 8 };

struct down_args {
    expert_place down;
    uint32_t slices, n_used, layer;
    vectors mid; /* [T*n_used][F] */
    const gpu_hit *hits;
    const uint32_t *n_hits, *n_missing;
    const gpu_command *command;
    float *x; /* [T][E], added to */
    uint32_t *ticket;
    post_box box;
};

static __device__ __forceinline__ void copy_hits(gpu_hit *to, const gpu_hit *from, uint32_t n) {
    for (uint32_t i = threadIdx.x; i < n * (sizeof(gpu_hit) / 4); i += blockDim.x)
        reinterpret_cast<uint32_t *>(to)[i] = reinterpret_cast<const uint32_t *>(from)[i];
}

/* The host's share, once it is here. The last block to finish does this: all other sums are in x then. */
static __device__ __forceinline__ void add_answer(const post_box &box, uint32_t layer, const gpu_command *command, float *x, uint32_t e) {
    if (!block_await(box, layer)) return;
    const bool by_four = e % 4 == 0;
    block_receive(box.values, command->n_tokens * e, by_four, [&](uint32_t i, float4 v) {
        if (!by_four) {
            x[i] = ldcg_f(x + i) + v.x;
            return;
        }
        const float4 w = ldcg_f4(x + i);
        stf4(x + i, make_float4(w.x + v.x, w.y + v.y, w.z + v.z, w.w + v.w));
    });
}

/* The slices of all experts' rows lie beside each other over the block's threads, as if they were one long row, so that rows
 * shorter than a warp leave no lane idle. */
template <int TYPE, int T>
static __global__ void __launch_bounds__(BLOCK_THREADS, blocks_per_sm(TYPE, T, 1)) down_kernel(const down_args a) {
    typedef unpack<TYPE> U;
    enum { R = U::FLIGHT };
    SHARED(gpu_hit, hits, T * GPU_MAX_USED);
    SHARED(float, out, BLOCK_WARPS * DOWN_ROWS * T);
    const uint32_t n_hits = *a.n_hits, first = blockIdx.x * DOWN_ROWS, warp = threadIdx.x / 32, e = a.down.rows;
    copy_hits(hits, a.hits, n_hits);
    const uint32_t *const grid = with_grid<TYPE>(matrix_in(a.down, 1)).grid;
    __syncthreads();
#pragma unroll 1
    for (uint32_t step = 0; step < DOWN_ROWS; step += R) {
        float sum[R][T] = {};
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < n_hits * a.slices; i += blockDim.x) {
            const gpu_hit *const hit = hits + i / a.slices;
            const uint32_t slice = i % a.slices;
            weights m = matrix_in(a.down, hit->slot);
            m.grid = grid;
            typename U::raw raw[R];
            slice_product<TYPE>::load(raw, m, first + step, slice);
            uint32_t vector[T];
            float weight[T];
#pragma unroll
            for (int t = 0; t < T; t++) vector[t] = t * a.n_used + hit->rank[t], weight[t] = hit->weight[t];
            slice_product<TYPE>::template add<R, T, 1, false>(m, raw, slice, a.mid, hit->tokens, vector, weight, sum);
        }
        warp_totals(sum, out + (warp * DOWN_ROWS + step) * T);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < DOWN_ROWS * T; i += blockDim.x) {
        const uint32_t row = i % DOWN_ROWS, t = i / DOWN_ROWS;
        float total = 0;
        for (uint32_t w = 0; w < blockDim.x / 32; w++) total += out[(w * DOWN_ROWS + row) * T + t];
        if (first + row < e) a.x[static_cast<size_t>(t) * e + first + row] += total;
    }
    if (*a.n_missing == 0) return; /* the same for all blocks */
    if (grid_last(a.ticket, gridDim.x)) add_answer(a.box, a.layer, a.command, a.x, e);
}

#endif
