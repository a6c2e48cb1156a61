/* Small kernels of the kinds that the GPU room has, each with places where one edit breaks it: BUG names the edit, NO_BUG is the
 * right kernel. test_samples.cu checks the right ones, mutants.cu that the broken ones are found. */
#ifndef COLDSTREAM_CUDA_HOST_SAMPLES_CUH
#define COLDSTREAM_CUDA_HOST_SAMPLES_CUH

#include "gpu/cu.h"

#define BUGS(X)                                                                        \
    X(NORM_NO_BARRIER, "rmsnorm: no barrier between the warps' sums and their readers") \
    X(NORM_READS_PAST, "rmsnorm: one element too many is read")                        \
    X(NORM_SHORT_SHARED, "rmsnorm: shared array one element short")                    \
    X(NORM_EARLY_RETURN, "rmsnorm: threads without work leave before the barrier")     \
    X(GEMV_NO_BARRIER, "gemv: no barrier after the activations were staged")           \
    X(GEMV_ROW_GUARD, "gemv: rows past the end are computed and stored")               \
    X(GEMV_MISALIGNED, "gemv: 16-byte load at an odd place")                           \
    X(GEMV_DIVERGENT_SUM, "gemv: only half of the warp takes part in the sum")         \
    X(GEMV_ALL_LANES_STORE, "gemv: all lanes store the row's sum")                     \
    X(GEMV_UNWRITTEN, "gemv: the last activations are never staged")                   \
    X(GEMM_LATE_WAIT, "gemm: waits for all but two copies")                            \
    X(GEMM_NO_WAIT, "gemm: does not wait for the copies")                              \
    X(GEMM_NO_BARRIER, "gemm: no barrier between wait and use")                        \
    X(GEMM_WAR, "gemm: no barrier between use and the next copy")                      \
    X(GEMM_PARITY, "gemm: copies into the buffer in use")                              \
    X(GEMM_NO_COMMIT, "gemm: copies are never committed")                              \
    X(GEMM_EDGE_LOAD, "gemm: rows past the end are read")                              \
    X(GEMM_EDGE_STORE, "gemm: columns past the end are stored")                        \
    X(GEMM_SHORT_DYNAMIC, "gemm: dynamic shared memory one row short")                 \
    X(GEMM_ROW_MISALIGNED, "gemm: ldmatrix rows at odd places")                        \
    X(TICKET_RELAXED, "ticket: taken by an atomic that releases nothing")              \
    X(TICKET_EARLY, "ticket: taken before the block's part is stored")                 \
    X(TICKET_ALL, "ticket: every block sums up")                                       \
    X(TICKET_OVERLAP, "ticket: blocks store their part into one place")                \
    X(SWAP_NO_SYNCWARP, "swap: a shuffle taken for a fence")                           \
    X(SWAP_HALF_MASK, "swap: __syncwarp of half the lanes")                            \
    X(SWAP_SOURCE, "swap: a shuffle from a lane outside of the mask")                  \
    X(COUNT_PLAIN, "count: plain increments of what others count atomically")          \
    X(COUNT_NO_BARRIER, "count: no barrier before the counts are read")                \
    X(COUNT_NOT_ZEROED, "count: the counters start as they are")                       \
    X(MAIL_HOST_POINTER, "mail: the host's address of mapped memory")                  \
    X(MAIL_EARLY_FLAG, "mail: the flag is up before the letter is written")            \
    X(MAIL_DIVERGENT_BARRIER, "mail: the waiting thread meets the others at another line")

enum bug {
    NO_BUG,
#define X(name, text) name,
    BUGS(X)
#undef X
        BUG_COUNT
};

/* ---- rmsnorm: a block a row, a sum over warps ------------------------------------------------------------------------ */

template <int BUG> __global__ void norm_row(const float *x, const float *gain, float *y, int n) {
    SHARED(float, part, BUG == NORM_SHORT_SHARED ? 3 : 4); // warps of a block of 128
    const float *row = x + static_cast<size_t>(blockIdx.x) * n;
    if (BUG == NORM_EARLY_RETURN && threadIdx.x / 32 >= 3 && n < 4096) return;
    float sum = 0;
    for (int i = threadIdx.x; i < n + (BUG == NORM_READS_PAST && blockIdx.x == gridDim.x - 1); i += blockDim.x) sum += row[i] * row[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    if (BUG != NORM_NO_BARRIER) __syncthreads();
    sum = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++) sum += part[i];
    const float scale = rsqrtf(sum / static_cast<float>(n) + 1e-6f);
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[static_cast<size_t>(blockIdx.x) * n + i] = row[i] * scale * gain[i];
}

/* ---- gemv: Q8_0 weights in planes, a warp a row, activations in shared memory ------------------------------------------- */

enum { GEMV_K = 512, GEMV_WARPS = 4 };

template <int BUG> __global__ void gemv_q8(const int8_t *q, const __half *d, const int8_t *x, const float *x_scale, float *y, int rows) {
    SHARED(uint4, staged, GEMV_K / 16);
    const int lane = threadIdx.x % 32, row = blockIdx.x * GEMV_WARPS + threadIdx.x / 32;
    if (threadIdx.x < GEMV_K / 16 - (BUG == GEMV_UNWRITTEN)) stu4(&staged[threadIdx.x], ldu4(x + 16 * threadIdx.x));
    if (BUG != GEMV_NO_BARRIER) __syncthreads();
    if (BUG != GEMV_ROW_GUARD && row >= rows) return; // whole warps
    const uint4 w = ld128(q + static_cast<size_t>(row) * GEMV_K + 16 * lane + (BUG == GEMV_MISALIGNED ? 4 : 0));
    const uint4 a = ldu4(&staged[lane]);
    const int dot = dp4a(w.x, a.x, dp4a(w.y, a.y, dp4a(w.z, a.z, dp4a(w.w, a.w, 0))));
    float sum = static_cast<float>(dot) * __half2float(d[row * (GEMV_K / 32) + lane / 2]) * x_scale[lane / 2];
    if (BUG != GEMV_DIVERGENT_SUM || lane < 16) sum = warp_sum(sum);
    if (BUG == GEMV_ALL_LANES_STORE || lane == 0) y[row] = sum;
}

/* ---- gemm: C[m][n] = A[m][k] B[n][k]^T in f16, tiles of 32 x 32, k in steps of 32 through two buffers --------------------- */

enum { GEMM_TILE = 32, GEMM_STRIDE = 40 /* halves: rows 80 bytes apart meet different banks */, GEMM_BUFFER = 2 * GEMM_TILE * GEMM_STRIDE };

/* One thread brings one unit of 8 halves of A and one of B; rows past the end become zeroes. */
template <int BUG> __device__ void gemm_copy(uint16_t *buffer, const __half *a, const __half *b, int m, int n, int k, int k0) {
    const int row = threadIdx.x / 4, unit = 8 * (threadIdx.x % 4);
    const int a_row = blockIdx.y * GEMM_TILE + row, b_row = blockIdx.x * GEMM_TILE + row;
    const bool a_real = a_row < m || BUG == GEMM_EDGE_LOAD, b_real = b_row < n;
    uint16_t *to = buffer + row * GEMM_STRIDE + unit;
    cp_async16_or_zero(to, a + (a_real ? static_cast<size_t>(a_row) * k + k0 + unit : 0), a_real);
    cp_async16_or_zero(to + GEMM_TILE * GEMM_STRIDE, b + (b_real ? static_cast<size_t>(b_row) * k + k0 + unit : 0), b_real);
}

template <int BUG> __device__ void gemm_step(float (&sum)[2][4], const uint16_t *buffer) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, odd = BUG == GEMM_ROW_MISALIGNED ? 2 : 0;
    const uint16_t *a_tile = buffer + warp % 2 * 16 * GEMM_STRIDE, *b_tile = buffer + (GEMM_TILE + warp / 2 * 16) * GEMM_STRIDE;
    for (int k = 0; k < GEMM_TILE; k += 16) {
        uint32_t a[4], b[4];
        ldmatrix_x4(a, a_tile + lane % 16 * GEMM_STRIDE + k + lane / 16 * 8 + odd);
        ldmatrix_x4(b, b_tile + (lane % 8 + lane / 16 * 8) * GEMM_STRIDE + k + lane / 8 % 2 * 8);
        const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
        mma_f16(sum[0], a, left);
        mma_f16(sum[1], a, right);
    }
}

template <int BUG> __global__ void gemm_f16(const __half *a, const __half *b, float *c, int m, int n, int k) {
    DYN_SHARED(uint16_t, buffers);
    float sum[2][4] = {};
    gemm_copy<BUG>(buffers, a, b, m, n, k, 0);
    cp_async_commit();
    const int steps = k / GEMM_TILE;
    for (int s = 0; s < steps; s++) {
        const int next = BUG == GEMM_PARITY ? s % 2 : (s + 1) % 2;
        if (s + 1 < steps) gemm_copy<BUG>(buffers + next * GEMM_BUFFER, a, b, m, n, k, (s + 1) * GEMM_TILE);
        if (BUG != GEMM_NO_COMMIT) cp_async_commit();
        if (BUG == GEMM_LATE_WAIT) cp_async_wait<2>();
        else if (BUG != GEMM_NO_WAIT) cp_async_wait<1>();
        if (BUG != GEMM_NO_BARRIER) __syncthreads();
        gemm_step<BUG>(sum, buffers + s % 2 * GEMM_BUFFER);
        if (BUG != GEMM_WAR) __syncthreads();
    }
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = blockIdx.y * GEMM_TILE + warp % 2 * 16 + lane / 4, column = blockIdx.x * GEMM_TILE + warp / 2 * 16 + lane % 4 * 2;
    for (int i = 0; i < 8; i++) {
        const int r = row + i / 2 % 2 * 8, at = column + i / 4 * 8 + i % 2;
        if (r < m && (at < n || BUG == GEMM_EDGE_STORE)) c[static_cast<size_t>(r) * n + at] = sum[i / 4][i % 4];
    }
}

/* ---- ticket: each block stores its part, the last one adds them in order ------------------------------------------------- */

template <int BUG> __global__ void ticket_sum(const float *x, float *parts, uint32_t *ticket, float *total, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const float sum = warp_sum(i < n ? x[i] : 0); // blocks of one warp
    float *part = parts + (BUG == TICKET_OVERLAP ? blockIdx.x / 2 : blockIdx.x);
    bool last;
    if (BUG == TICKET_EARLY) last = grid_last(ticket, gridDim.x);
    if (threadIdx.x == 0) *part = sum;
    if (BUG == TICKET_ALL) {
        last = true;
    } else if (BUG == TICKET_RELAXED) {
        SHARED(uint32_t, before, 1);
        if (threadIdx.x == 0) before[0] = atomicInc(ticket, gridDim.x - 1);
        __syncthreads();
        last = before[0] == gridDim.x - 1;
    } else if (BUG != TICKET_EARLY) {
        last = grid_last(ticket, gridDim.x);
    }
    if (last && threadIdx.x == 0) {
        float all = 0;
        for (unsigned b = 0; b < gridDim.x; b++) all += ldcg_f(parts + b);
        *total = all;
    }
}

/* ---- swap: neighbours exchange through shared memory, no block barrier ----------------------------------------------------- */

template <int BUG> __global__ void swap_lanes(const int *x, int *y) {
    SHARED(int, room, 64);
    const int i = threadIdx.x, lane = i % 32;
    room[i] = x[i];
    if (BUG == SWAP_NO_SYNCWARP) (void)warp_xor(lane, 1);
    else if (BUG == SWAP_HALF_MASK) lane < 16 ? __syncwarp(0x0000ffffu) : __syncwarp(0xffff0000u);
    else __syncwarp();
    int v = room[i ^ 31]; // the other half's
    if (BUG == SWAP_SOURCE) v = lane < 16 ? __shfl_sync(0x0000ffffu, v, 31 - lane) : v;
    y[i] = v;
}

/* ---- count: a histogram by atomics in shared memory --------------------------------------------------------------------------- */

template <int BUG> __global__ void count_bytes(const uint8_t *x, uint32_t *counts, int n) {
    SHARED(uint32_t, bins, 256);
    if (BUG != COUNT_NOT_ZEROED) {
        for (int b = threadIdx.x; b < 256; b += blockDim.x) bins[b] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        if (BUG == COUNT_PLAIN && i % 8 == 0) bins[x[i]]++;
        else atomicAdd(&bins[x[i]], 1u);
    }
    if (BUG != COUNT_NO_BARRIER) __syncthreads();
    for (int b = threadIdx.x; b < 256; b += blockDim.x) counts[b] = bins[b];
}

/* ---- mail: a letter to the host in mapped memory, an answer back ---------------------------------------------------------------- */

struct mail {
    uint32_t posted, answered;
    float letter[64], answer[64];
};

template <int BUG> __global__ void mail_round(mail *m, uint32_t number, float *y, int *seen) {
    SHARED(int, result, 1);
    if (BUG == MAIL_EARLY_FLAG && threadIdx.x == 0) {
        st_release_sys(&m->posted, number);
        (void)spin_wait(&m->answered, number, nullptr, 1000000000u);
    }
    m->letter[threadIdx.x] = static_cast<float>(number * threadIdx.x);
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0) {
        st_release_sys(&m->posted, number);
        result[0] = spin_wait(&m->answered, number, nullptr, 1000000000u);
        if (BUG == MAIL_DIVERGENT_BARRIER) __syncthreads();
    }
    if (BUG != MAIL_DIVERGENT_BARRIER || threadIdx.x != 0) __syncthreads();
    if (threadIdx.x == 0) *seen = result[0];
    if (result[0] == SPIN_SEEN) y[threadIdx.x] = ldcv_u(reinterpret_cast<const uint32_t *>(&m->answered)) + m->answer[threadIdx.x];
}

#endif
