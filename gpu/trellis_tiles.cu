/* Products of many tokens with EXL3 weights on the tensor cores: those of matmul.cuh with a transform on either side.
 *
 * First every vector is transformed for the matrix that it is to be multiplied with (factors and all differ from matrix to
 * matrix), a warp a vector, and rounded to binary16 with a power of two a vector that keeps it in range. Then tiles of 128
 * outputs, which is what the transform behind the product mixes: a warp decodes the same 16 outputs of each slice of 64 inputs
 * into shared memory; what a tile sums up goes through shared memory once more, where a warp transforms a token's outputs.
 * gate, up and down are a product each.
 *
 * What limits it: with 32 tokens an expert, decoding is as much work as everything else; with 128, a quarter. Calculated, not
 * measured. */
#include "gpu/trellis.h"

#include "gpu/matmul.cuh"
#include "gpu/trellis.cuh"

template <> struct slice<FAMILY_TRELLIS> : slice_plain {}; /* columns in the row's order */

/* ---- vectors ---------------------------------------------------------------------------------------------------------- */

enum { ROTATE_WARPS = TILE_THREADS / 32, ROTATE_SHARES = 4 /* blocks of an expert */ };

struct rotate_args {
    struct tile_call c; /* matrices, tokens and, in `gather`, where a vector's source is */
    const float *x32;   /* [..][k], or */
    const __half *x16;
    __half *to;
    float *scale;
    uint8_t *done; /* [X] experts that the step after this one completes, or NULL */
};

/* Values `at` .. at + 3 of vector p's source, times the factors. */
static __device__ __forceinline__ void source_values(const rotate_args &a, const trellis &m, uint64_t row, uint32_t at,
                                                     float (&v)[4]) {
    if (a.x32) {
        const float4 x = ldf4(a.x32 + row * a.c.k + at);
        v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
    } else {
        const bool two = a.c.result == RESULT_TWO_VECTORS;
        const __half *const from = a.x16 + (two ? 2 * row : row) * a.c.k + at;
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = __half2float(from[i]) + (two ? __half2float(from[a.c.k + i]) * (1.0f / 2048) : 0);
    }
    times_factors(v, m.in_scale, at);
}

static __device__ __forceinline__ void store_pairs(__half *to, float a, float b, float c, float d) {
    *reinterpret_cast<uint32_t *>(to) = half_pair(a, b);
    *reinterpret_cast<uint32_t *>(to + 2) = half_pair(c, d);
}

/* A vector by a warp: what its values can become at most, then the values. */
static __device__ __forceinline__ void rotate_one(const rotate_args &a, const trellis &m, uint64_t from, uint64_t to) {
    const uint32_t at = 4 * (threadIdx.x & 31);
    const bool two = a.c.result == RESULT_TWO_VECTORS;
    float v[4], most = 0;
    for (uint32_t i = 0; i < a.c.k; i += GPU_TRELLIS_BLOCK) {
        source_values(a, m, from, i + at, v);
        most = fmaxf(most, largest(v));
    }
    const float power = transformed_power(warp_max(most)), by = TRELLIS_NORM * inverse_power(power);
    if (at == 0) a.scale[two ? 2 * to : to] = power;
    if (at == 0 && two) a.scale[2 * to + 1] = power;
    for (uint32_t i = 0; i < a.c.k; i += GPU_TRELLIS_BLOCK) {
        source_values(a, m, from, i + at, v);
        hadamard(v);
#pragma unroll
        for (int e = 0; e < 4; e++) v[e] *= by;
        __half *const row = a.to + (two ? 2 * to : to) * a.c.k + i + at;
        store_pairs(row, v[0], v[1], v[2], v[3]);
        if (two) store_pairs(row + a.c.k, half_left(v[0]), half_left(v[1]), half_left(v[2]), half_left(v[3]));
    }
}

/* Blocks x: matrices; y: shares of their vectors. With two vectors, pairs of them. */
static __global__ void __launch_bounds__(TILE_THREADS) rotate_vectors(const rotate_args a) {
    const uint32_t m = blockIdx.x, first = first_pair(a.c, m),
                   n = a.c.result == RESULT_TWO_VECTORS ? a.c.n / 2 : tokens_of(a.c, m);
    const trellis w = trellis_of(reinterpret_cast<const uint8_t *>(a.c.slot[m]) + a.c.offset[0], a.c.type[0], a.c.rows, a.c.k);
    if (a.done && blockIdx.y == 0 && threadIdx.x == 0) a.done[a.c.expert[m]] = 1;
    for (uint32_t p = blockIdx.y * ROTATE_WARPS + threadIdx.x / 32; p < n; p += gridDim.y * ROTATE_WARPS)
        rotate_one(a, w, a.c.gather ? static_cast<uint64_t>(a.c.gather[first + p]) : first + p, first + p);
}

/* ---- tiles ------------------------------------------------------------------------------------------------------------ */

enum { SLICE_TILES = SLICE / 16 };

/* A warp's tiles of a slice: outputs 16 * warp on. */
struct trellis_slice {
    uint32_t raw[SLICE_TILES][3];
};

struct trellis_rows {
    const uint8_t *tiles; /* of the warp's outputs */
    uint64_t stride;
    uint32_t bits;
    trellis_window window;
    trellis_book book;
};

static __device__ __forceinline__ void load_slice(trellis_slice &s, const trellis_rows &r, uint32_t step) {
#pragma unroll
    for (uint32_t i = 0; i < SLICE_TILES; i++) load_window(s.raw[i], r.tiles + (step * SLICE_TILES + i) * r.stride, r.window);
}

/* Into the tile of shared memory, [output][input]. */
static __device__ __forceinline__ void store_slice(__half *tile, const trellis_slice &s, const trellis_rows &r) {
    const uint32_t lane = threadIdx.x & 31, row = threadIdx.x / 32 * 16 + lane / 4, column = 2 * (lane % 4);
#pragma unroll
    for (uint32_t i = 0; i < SLICE_TILES; i++) {
        uint32_t b[4];
        if (r.book.mul1)
            open_tile_of<true>(r.bits, s.raw[i], r.window.shift, r.book, b);
        else
            open_tile_of<false>(r.bits, s.raw[i], r.window.shift, r.book, b);
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            *reinterpret_cast<uint32_t *>(tile_unit(tile, row + 8 * (j / 2), 2 * i + j % 2) + column) = b[j];
    }
}

/* A token's sums stand in shared memory at their output ^ this, for no two lanes of leave_tile() to meet in a bank. */
static __device__ __forceinline__ uint32_t turn_of(uint32_t token) { return token / 2 % 4 * 8; }

/* Sums as in matmul.cuh, store_sums(): to [token][128 outputs]. */
template <int N> static __device__ __forceinline__ void leave_tile(const float (&sum)[2][N / 16][4], float *out) {
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = warp / 2 * 32 + lane / 4,
                   token = warp % 2 * (N / 2) + 2 * (lane % 4);
#pragma unroll
    for (uint32_t j = 0; j < N / 16; j++)
#pragma unroll
        for (uint32_t e = 0; e < 4; e++) {
            const uint32_t t = token + 8 * j + e % 2;
#pragma unroll
            for (uint32_t i = 0; i < 2; i++) out[t * TILE_ROWS + ((row + 16 * i + 8 * (e / 2)) ^ turn_of(t))] = sum[i][j][e];
        }
}

static __device__ __forceinline__ void take_outputs(const float *out, uint32_t token, float (&v)[4]) {
    const float4 x = ldf4(out + token * TILE_ROWS + ((4 * (threadIdx.x & 31)) ^ turn_of(token)));
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
}

/* A warp a token. */
static __device__ __forceinline__ void use_tile(const struct tile_call &c, const struct tile &t, const trellis &m,
                                                const float *out) {
    const bool two = c.result == RESULT_TWO_VECTORS;
    const uint32_t row = t.row + 4 * (threadIdx.x & 31);
    for (uint32_t token = (two ? 2 : 1) * (threadIdx.x / 32); token < t.count; token += (two ? 2 : 1) * (TILE_THREADS / 32)) {
        const uint64_t at = t.first + token;
        float v[4], rest[4] = {0, 0, 0, 0};
        take_outputs(out, token, v);
        if (two) take_outputs(out, token + 1, rest);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = fmaf(rest[i], 1.0f / 2048, v[i]) * c.scale[at];
        finish_outputs(v, m, t.row / TILE_ROWS);
        float *const y = c.y + (two ? at / 2 : at) * c.ldy + row;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float before = c.result == RESULT_ADD || c.result == RESULT_GATED ? y[i] : 0;
            y[i] = c.result == RESULT_ADD ? before + v[i] : c.result == RESULT_GATED ? silu(before) * v[i] : v[i];
        }
    }
}

template <int N>
static __device__ __forceinline__ void compute_trellis_tile(const struct tile_call &c, const struct tile &t, __half *room) {
    enum { BUFFER = (TILE_ROWS + N) * SLICE };
    static_assert(2 * BUFFER * sizeof(__half) >= N * TILE_ROWS * sizeof(float), "room for the sums");
    const trellis m = trellis_of(t.w[0], c.type[0], c.rows, c.k);
    const trellis_rows w = {m.tiles + (t.row / 16 + threadIdx.x / 32) * 32 * m.bits, m.stride, m.bits, window_of(m.bits),
                            book_of(m.codebook)};
    token_rows<N> rows;
    my_token_rows<N>(c, t, &rows);
    float sum[2][N / 16][4];
#pragma unroll
    for (int i = 0; i < 2 * (N / 16) * 4; i++) sum[i / (N / 16 * 4)][i / 4 % (N / 16)][i % 4] = 0;
    trellis_slice s;
    const uint32_t steps = c.k / SLICE;
    copy_tokens<FAMILY_TRELLIS, N>(c, rows, 0, room + TILE_ROWS * SLICE);
    load_slice(s, w, 0);
    store_slice(room, s, w);
    cp_async_wait<0>();
    __syncthreads();
    for (uint32_t step = 0; step < steps; step++) {
        __half *here = room + (step & 1) * BUFFER, *next = room + (~step & 1) * BUFFER;
        if (step + 1 < steps) {
            copy_tokens<FAMILY_TRELLIS, N>(c, rows, step + 1, next + TILE_ROWS * SLICE);
            load_slice(s, w, step + 1);
        }
        multiply<N>(here, here + TILE_ROWS * SLICE, sum);
        if (step + 1 < steps) {
            store_slice(next, s, w);
            cp_async_wait<0>();
        }
        __syncthreads();
    }
    float *const out = reinterpret_cast<float *>(room);
    leave_tile<N>(sum, out);
    __syncthreads();
    use_tile(c, t, m, out);
}

template <int N>
static __global__ void __launch_bounds__(TILE_THREADS, N == WIDEST ? 1 : 2) trellis_tiles(const struct tile_call c) {
    DYN_SHARED(__half, room);
    SHARED(uint32_t, ends, LIST);
    list_tiles<N>(c, ends);
    const uint32_t row_tiles = c.rows / TILE_ROWS, tiles = ends[LIST - 1] * row_tiles;
    for (uint32_t i = blockIdx.x; i < tiles; i += gridDim.x) {
        struct tile t;
        find_tile<N>(c, ends, i, row_tiles, &t);
        compute_trellis_tile<N>(c, t, room);
        __syncthreads(); /* the next tile fills what this one's end reads */
    }
}

/* ---- launches --------------------------------------------------------------------------------------------------------- */

template <int N>
static void launch_trellis_width(struct gpu *g, const struct tile_device &d, const struct tile_call &c, uint64_t pairs,
                                 cudaStream_t stream) {
    const uint32_t bytes = 2 * (TILE_ROWS + N) * SLICE * sizeof(__half);
    const uint64_t tiles = (uint64_t)bound_tiles<N>(c, pairs) * (c.rows / TILE_ROWS),
                   resident = (uint64_t)d.sm_count * (N == WIDEST ? 1 : 2);
    if (tiles == 0) return;
    if (bytes + LIST * sizeof(uint32_t) > 48 * 1024 &&
        !gpu_note(g, cudaFuncSetAttribute(trellis_tiles<N>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
                  "preparing a product"))
        return;
    LAUNCH(trellis_tiles<N>, (uint32_t)(tiles < resident ? tiles : resident), TILE_THREADS, bytes, stream, c);
}

/* The vectors' transform, then the product of what it left. `vectors` of one matrix; of experts it is not known here. */
static void launch_product(struct gpu_network *n, const struct tile_device &d, const rotate_args &a, uint32_t vectors,
                           uint64_t pairs, cudaStream_t stream) {
    const uint32_t shares = a.c.start ? ROTATE_SHARES + 0u : (vectors + ROTATE_WARPS - 1) / ROTATE_WARPS;
    LAUNCH(rotate_vectors, dim3(a.c.count, shares), TILE_THREADS, 0, stream, a);
    struct tile_call c = a.c;
    c.x = a.to, c.scale = a.scale, c.gather = NULL;
    launch_trellis_width<128>(n->gpu, d, c, pairs, stream);
    launch_trellis_width<64>(n->gpu, d, c, pairs, stream);
    launch_trellis_width<32>(n->gpu, d, c, pairs, stream);
    launch_trellis_width<16>(n->gpu, d, c, pairs, stream);
    (void)gpu_note_launch(n->gpu, "computing a product");
}

static rotate_args rotation(const struct gpu_network *n, enum tensor_type type, uint32_t rows, uint32_t k,
                            enum product_result result) {
    rotate_args a = {};
    a.c.type[0] = type, a.c.rows = rows, a.c.k = k, a.c.result = result;
    a.to = n->trellis.rotated, a.scale = n->trellis.scale;
    return a;
}

void gpu_trellis_product(struct gpu_network *n, const struct gpu_product *p, cudaStream_t stream) {
    const struct tile_device d = tile_device_of(n->gpu);
    rotate_args a = rotation(n, p->w.type, p->w.rows, p->w.k,
                             p->two_vectors ? RESULT_TWO_VECTORS
                             : p->add       ? RESULT_ADD
                                            : RESULT_STORE);
    if (p->x32 && !p->two_vectors)
        a.x32 = p->x32;
    else
        a.x16 = p->x;
    a.c.n = p->n, a.c.y = p->y, a.c.ldy = p->ldy, a.c.count = 1, a.c.slot[0] = p->w.data;
    a.c.widest = width_for_matrix(d, p->w.rows, p->n);
    launch_product(n, d, a, p->two_vectors ? p->n / 2 : p->n, 0, stream);
}

void gpu_trellis_experts(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer,
                         const struct gpu_batch_expert *experts, uint32_t count, cudaStream_t stream) {
    const struct tile_device d = tile_device_of(n->gpu);
    const struct gpu_layer *l = &n->layers[layer];
    const struct gpu_lane *lane = &n->lanes[b->lane];
    const uint32_t e = n->shape.n_embd, f = n->shape.n_ff;
    const uint64_t pairs = (uint64_t)b->n * n->shape.n_used;
    for (uint32_t i = 0; i < count; i += LIST) {
        struct tile_call list = {};
        list.count = count - i < LIST ? count - i : LIST + 0u;
        for (uint32_t j = 0; j < list.count; j++)
            list.expert[j] = (uint16_t)experts[i + j].expert, list.slot[j] = experts[i + j].slot;
        list.start = lane->expert_start, list.widest = width_for(b->n, d.widest);
        const struct {
            enum tensor_type type;
            uint64_t offset;
            uint32_t rows, k;
            enum product_result result;
        } parts[3] = {{l->gate_type, l->gate_offset, f, e, RESULT_STORE},
                      {l->up_type, l->up_offset, f, e, RESULT_GATED},
                      {l->down_type, l->down_offset, e, f, RESULT_DOWN}};
        for (int part = 0; part < 3; part++) {
            rotate_args a = {list,
                             part < 2 ? lane->normed32 : n->trellis.gated,
                             NULL,
                             n->trellis.rotated,
                             n->trellis.scale,
                             part < 2 ? NULL : lane->done};
            a.c.type[0] = parts[part].type, a.c.offset[0] = a.c.offset[1] = parts[part].offset;
            a.c.rows = parts[part].rows, a.c.k = parts[part].k, a.c.result = parts[part].result;
            a.c.gather = part < 2 ? lane->pair_token : NULL;
            a.c.y = part < 2 ? n->trellis.gated : lane->down, a.c.ldy = part < 2 ? f : static_cast<uint32_t>(n->down_stride);
            launch_product(n, d, a, 0, pairs, stream);
        }
    }
}
