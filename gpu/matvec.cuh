/* Rows of a matrix times a few vectors, in one block: what every product of a step is made of.
 *
 * A lane owns a slice of k (unpack.cuh) and walks down the rows with it, several rows' loads in flight; the lanes' sums meet in
 * shared memory. Sums of a row are taken in an order that depends on the shapes alone. */
#ifndef COLDSTREAM_GPU_MATVEC_CUH
#define COLDSTREAM_GPU_MATVEC_CUH

#include "gpu/acts.cuh"
#include "gpu/unpack.cuh"

static inline weights weights_of(const gpu_network *n, const gpu_matrix &m) {
    return weights{reinterpret_cast<const uint8_t *>(m.data), m.rows, m.k, static_cast<int>(m.type), tensor_type_info(m.type)->block_weights, n->tables, NULL};
}

enum { MIXED = -1 /* instead of a type: decided by each block */ };

/* Blocks of 128 threads that an SM is to hold: what registers are limited for. `c` int8 vectors a token. */
static constexpr int blocks_per_sm(int type, int t, int c) {
    if (type >= FAMILY_NONE) return t == 8 || (t == 4 && c > 1) ? 3 : 4;
    if (t > 1) return t == 8 || (t == 4 && type == TYPE_Q6_K) ? 4 : 5;
    return type == MIXED ? 5 : c > 1 || type == TYPE_Q5_K ? 6 : type == TYPE_Q6_K ? 7 : 8;
}

static __device__ __forceinline__ float4 floats_at(const float *x, uint32_t left) {
    return make_float4(x[0], left > 1 ? x[1] : 0, left > 2 ? x[2] : 0, left > 3 ? x[3] : 0);
}

/* start + the product of 16 bytes of a vector with 16 of a row. */
static __device__ __forceinline__ int dot_16(const uint4 &q, const uint32_t *w, int start) {
    const int half = dp4a(q.y, w[1], dp4a(q.x, w[0], start));
    return dp4a(q.w, w[3], dp4a(q.z, w[2], half));
}

/* ---- one slice of R rows times T vectors --------------------------------------------------------------------------------
 * `use` has a bit for each vector wanted; vector[t] is its number in x, weight[t] a factor. */

template <int TYPE, int GROUP = unpack<TYPE>::GROUP> struct slice_product;

/* Rows first .. first + R - 1 of a type with kernels of its own; behind the last one it again. */
template <int TYPE> struct slice_load {
    typedef unpack<TYPE> U;
    template <int R> static __device__ __forceinline__ void load(typename U::raw (&raw)[R], const weights &m, uint32_t first, uint32_t slice) {
#pragma unroll
        for (int r = 0; r < R; r++) U::load(raw[r], m, first + r < m.rows ? first + r : m.rows - 1, slice);
    }
};

template <int TYPE> struct slice_product<TYPE, 0> : slice_load<TYPE> {
    typedef unpack<TYPE> U;
    template <int R, int T, int C, bool ALL>
    static __device__ __forceinline__ void add(const weights &, const typename U::raw (&raw)[R], uint32_t slice, const vectors &x, uint32_t use,
                                               const uint32_t (&vector)[T], const float (&weight)[T], float (&sum)[R][T]) {
#pragma unroll
        for (int t = 0; t < T; t++) {
            if (!ALL && !(use >> t & 1)) continue;
            const float *f = x.f + static_cast<size_t>(vector[t]) * x.k + slice * U::WEIGHTS;
#pragma unroll
            for (int i = 0; i < U::WEIGHTS; i += 4) {
                const uint32_t at = slice * U::WEIGHTS + i;
                if (at >= x.k) break;
                const float4 a = x.k % 4 == 0 ? ldf4(f + i) : floats_at(f + i, x.k - at);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const float dot = U::weight(raw[r], i) * a.x + U::weight(raw[r], i + 1) * a.y +
                                      U::weight(raw[r], i + 2) * a.z + U::weight(raw[r], i + 3) * a.w;
                    sum[r][t] += ALL ? dot : weight[t] * dot;
                }
            }
        }
    }
};

template <int TYPE> struct slice_product<TYPE, 32> : slice_load<TYPE> {
    typedef unpack<TYPE> U;
    template <int R, int T, int C, bool ALL>
    static __device__ __forceinline__ void add(const weights &, const typename U::raw (&raw)[R], uint32_t slice, const vectors &x, uint32_t use,
                                               const uint32_t (&vector)[T], const float (&weight)[T], float (&sum)[R][T]) {
        typename U::levels l[R];
#pragma unroll
        for (int r = 0; r < R; r++) U::open(raw[r], slice, l[r]);
        /* The second group of a row's last, odd block is read as the first once more: its scale is 0. */
        const uint32_t first = 64 * slice, step = first + 32 < x.k ? 32 : 0;
#pragma unroll
        for (int t = 0; t < T; t++) {
            if (!ALL && !(use >> t & 1)) continue;
#pragma unroll
            for (int g = 0; g < 2; g++) {
                float part[R];
#pragma unroll
                for (int r = 0; r < R; r++) part[r] = 0;
#pragma unroll
                for (int c = 0; c < C; c++) {
                    const size_t at = (static_cast<size_t>(vector[t]) * C + c) * x.k + first + g * step;
                    const uint4 low = ldu4(x.q + at), high = ldu4(x.q + at + 16);
                    const float d = x.d[at / 32];
#pragma unroll
                    for (int r = 0; r < R; r++) {
                        const uint32_t *w = l[r].word + 8 * g;
                        part[r] += d * static_cast<float>(dot_16(high, w + 4, dot_16(low, w, 0)));
                    }
                }
                const float s32 = x.s32[(static_cast<size_t>(vector[t]) * x.k + first + g * step) / 32];
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const float dot = l[r].scale[g] * part[r] - l[r].min[g] * s32;
                    sum[r][t] += ALL ? dot : weight[t] * dot;
                }
            }
        }
    }
};

template <int TYPE> struct slice_product<TYPE, 16> : slice_load<TYPE> {
    typedef unpack<TYPE> U;
    template <int R, int T, int C, bool ALL>
    static __device__ __forceinline__ void add(const weights &, const typename U::raw (&raw)[R], uint32_t slice, const vectors &x, uint32_t use,
                                               const uint32_t (&vector)[T], const float (&weight)[T], float (&sum)[R][T]) {
        typename U::levels l[R];
#pragma unroll
        for (int r = 0; r < R; r++) U::open(raw[r], slice, l[r]);
#pragma unroll
        for (int t = 0; t < T; t++) {
            if (!ALL && !(use >> t & 1)) continue;
#pragma unroll
            for (int c = 0; c < C; c++) {
                const size_t base = (static_cast<size_t>(vector[t]) * C + c) * x.k;
#pragma unroll
                for (int p = 0; p < 4; p++) {
                    const size_t at = base + U::position(slice, p);
                    const uint4 q = ldu4(x.q + at);
                    const float d = x.d[at / 32];
                    const int start = -U::BIAS * x.sum16[at / 16];
#pragma unroll
                    for (int r = 0; r < R; r++) {
                        const int dot = dot_16(q, l[r].word + 4 * p, start);
                        sum[r][t] += (ALL ? d : weight[t] * d) * (l[r].scale[p] * static_cast<float>(dot));
                    }
                }
            }
        }
    }
};

/* ---- the lanes' sums together ----------------------------------------------------------------------------------- */

/* Sums over the warp of N values (a power of two up to 32): lane l gets the one of value l / (32 / N). Halving the values at
 * each exchange takes N - 1 shuffles, and log2(32 / N) more for the last. */
template <int N> static __device__ __forceinline__ float butterfly(float (&v)[N]) {
    const uint32_t lane = threadIdx.x % 32;
    int step = 16;
#pragma unroll
    for (int n = N / 2; n > 0; n /= 2, step /= 2) {
        const bool upper = (lane & step) != 0;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            if (i >= n) break;
            const float other = warp_xor(upper ? v[i] : v[i + n], step);
            v[i] = (upper ? v[i + n] : v[i]) + other;
        }
    }
#pragma unroll
    for (step = 16 / N; step > 0; step /= 2) v[0] += warp_xor(v[0], step);
    return v[0];
}

/* The warp's sums of R rows times T vectors, to out[R][T]. */
template <int R, int T> static __device__ __forceinline__ void warp_totals(const float (&sum)[R][T], float *out) {
    enum { N = R * T, LANES = 32 / N /* that get the same one */ };
    float flat[N];
#pragma unroll
    for (int i = 0; i < N; i++) flat[i] = sum[i / T][i % T];
    const float total = butterfly<N>(flat);
    const uint32_t lane = threadIdx.x % 32;
    if (lane % LANES == 0) out[lane / LANES] = total;
}

/* Asks for bytes ahead; the whole block takes part. */
static __device__ __forceinline__ void prefetch_bytes(const uint8_t *from, uint64_t bytes) {
    for (uint64_t at = 128 * threadIdx.x; at < bytes; at += 128 * blockDim.x) prefetch_l2(from + at);
}

/* ---- a block's rows --------------------------------------------------------------------------------------------- */

/* How a block of 4 warps shares rows of k: `parts` warps share a row's slices, and each group of them has its own rows. */
struct sharing {
    uint32_t parts, slices;
};

enum { BLOCK_WARPS = 4, BLOCK_THREADS = 32 * BLOCK_WARPS };

static inline uint32_t slice_weights(enum tensor_type type) {
    return type == TYPE_F32 ? 4 : type == TYPE_F16 || type == TYPE_BF16 ? 8 : 64;
}

/* int8: a warp for each 32 slices, so that all of a lane's loads are in flight; float slices are short: a lane has several. */
static inline sharing share_rows(enum tensor_type type, uint32_t k) {
    const uint32_t each = slice_weights(type), slices = (k + each - 1) / each, passes = (slices + 31) / 32;
    if (each < 64) return sharing{1, slices};
    return sharing{passes >= 4 ? 4u : passes >= 2 ? 2u : 1u, slices};
}

/* The block's rows [first, first + ROWS / parts) times T vectors, of which `use` are wanted (ALL: all, unweighted):
 * out[(part * (ROWS / parts) + row) * T + t] in shared memory. No barrier. Rows beyond the matrix repeat its last one. */
template <int TYPE, int ROWS, int T, int C, bool ALL>
static __device__ __forceinline__ void block_rows(const weights &m, uint32_t first, const sharing &how, const vectors &x,
                                                  uint32_t use, const uint32_t (&vector)[T], float *out) {
    typedef unpack<TYPE> U;
    enum { R = U::FLIGHT, WARP_ROWS = ROWS / BLOCK_WARPS };
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % how.parts, rows = ROWS / how.parts;
    const uint32_t row0 = warp / how.parts * WARP_ROWS;
    float one[T];
#pragma unroll
    for (int t = 0; t < T; t++) one[t] = 1;
#pragma unroll 1
    for (uint32_t step = 0; step < WARP_ROWS; step += R) {
        float sum[R][T] = {};
#pragma unroll 1
        for (uint32_t slice = 32 * part + lane; slice < how.slices; slice += 32 * how.parts) {
            typename U::raw raw[R];
            slice_product<TYPE>::load(raw, m, first + row0 + step, slice);
            slice_product<TYPE>::template add<R, T, C, ALL>(m, raw, slice, x, use, vector, one, sum);
        }
        warp_totals(sum, out + (part * rows + row0 + step) * T);
    }
}

/* Sum over the parts, after a barrier: row and vector as in block_rows. */
template <int ROWS, int T>
static __device__ __forceinline__ float sum_parts(const float *out, uint32_t parts, uint32_t row, uint32_t t) {
    const uint32_t rows = ROWS / parts;
    float sum = out[row * T + t];
    for (uint32_t part = 1; part < parts; part++) sum += out[(part * rows + row) * T + t];
    return sum;
}

/* The matrix with its type's grid in the block's shared memory, of the families that have one (codes.cuh). All threads call. */
template <int FAMILY> static __device__ const uint32_t *block_grid(int type, const uint32_t *tables);
template <int TYPE> static __device__ __forceinline__ weights with_grid(const weights &m) {
    weights out = m;
    if constexpr (TYPE >= FAMILY_NONE) out.grid = block_grid<TYPE>(m.type, m.tables);
    return out;
}

/* Ask for rows [first, first + n) ahead of the work that must come before them. */
template <int TYPE> static __device__ __forceinline__ void prefetch_rows(const weights &m, uint32_t first, uint32_t n) {
    if (first >= m.rows) return;
    if (n > m.rows - first) n = m.rows - first;
    if (TYPE >= FAMILY_NONE) { // the first plane, or all
        const uint64_t row_bytes = static_cast<uint64_t>(m.k / m.block) * gpu_first_field_bytes(m.type);
        prefetch_bytes(m.data + first * row_bytes, n * row_bytes);
        return;
    }
    const bool small = TYPE == TYPE_Q4_0 || TYPE == TYPE_Q8_0; // blocks of 32
    const uint64_t in_row = m.k / (unpack<TYPE>::GROUP == 0 ? 1 : small ? 32 : QK_K);
    const uint64_t total = m.rows * in_row, b = first * in_row, count = n * in_row;
    const uint32_t bytes = TYPE == TYPE_F32                        ? 4
                           : TYPE == TYPE_F16 || TYPE == TYPE_BF16 ? 2
                           : TYPE == TYPE_Q4_0                     ? 16
                           : TYPE == TYPE_Q8_0                     ? 32
                           : TYPE == TYPE_Q4_K                     ? sizeof(block_q4_k)
                           : TYPE == TYPE_Q5_K                     ? sizeof(block_q5_k)
                                                                   : 128;
    prefetch_bytes(m.data + b * bytes, count * bytes);
    if (TYPE == TYPE_Q6_K) prefetch_bytes(gpu_field(m.data, total, GPU_Q6_K_QH, b, 64), count * 64);
    if (TYPE == TYPE_Q6_K) prefetch_bytes(gpu_field(m.data, total, GPU_Q6_K_SCALES, b, 16), count * 16);
}

/* The T vectors x normed, as `to` wants them, in shared memory; ends with a barrier. */
template <int T, int C>
static __device__ __forceinline__ void block_prologue(const float *x, const float *gain, float eps, uint32_t wants,
                                                      const room &to) {
    SHARED(float, scale, T);
    block_norms<T>(x, to.k, eps, scale);
#pragma unroll 1
    for (int t = 0; t < T; t++) {
        const source s = {x + static_cast<size_t>(t) * to.k, gain, scale[t]};
        if (wants & WANT_FLOATS) block_floats(s, to.k, to.f + static_cast<size_t>(t) * to.k);
        if (wants & WANT_INT8) block_quantize<C>(s, to.k, to, t);
    }
    __syncthreads();
}

/* ---- choosing a kernel on the host ------------------------------------------------------------------------------ */

/* The most tokens of 1, 2, 4, 8 whose vectors fit shared memory together; a launch takes so many. */
static inline uint32_t tokens_together(uint32_t tokens, uint32_t bytes_each) {
    while (tokens > 1 && tokens * bytes_each > ACTS_SHARED_LIMIT) tokens /= 2;
    return tokens;
}

/* `call`(T) for a count of tokens, T a constant. */
#define GPU_FOR_TOKENS(tokens, call)                                                                                           \
    switch (tokens) {                                                                                                          \
    case 1: {                                                                                                                  \
        call(1);                                                                                                               \
    } break;                                                                                                                   \
    case 2: {                                                                                                                  \
        call(2);                                                                                                               \
    } break;                                                                                                                   \
    case 4: {                                                                                                                  \
        call(4);                                                                                                               \
    } break;                                                                                                                   \
    default: {                                                                                                                 \
        call(8);                                                                                                               \
    } break;                                                                                                                   \
    }

#endif
