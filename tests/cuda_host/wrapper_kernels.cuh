/* A kernel for each wrapper of gpu/ptx.h and for the arithmetic that kernels lean on: words in, words out, one launch each. The same
 * table runs on the emulator, where test_wrappers.cu compares with plain loops, and on a device, where conformance.cu compares with
 * what the emulator gave. */
#ifndef COLDSTREAM_CUDA_HOST_WRAPPER_KERNELS_CUH
#define COLDSTREAM_CUDA_HOST_WRAPPER_KERNELS_CUH

#include "gpu/cu.h"

enum { WORDS_IN = 4096, WORDS_OUT = 2048 };

/* A number in [-2, 2) of 12 bits, exact in every float type but bf16, and there with 8. */
__device__ static inline float small_float(uint32_t word) { return static_cast<float>(static_cast<int>(word & 0xfff) - 2048) / 1024; }
__device__ static inline uint32_t two_halves(uint32_t word) {
    const __half2 h = __floats2half2_rn(small_float(word), small_float(word >> 12));
    return static_cast<uint32_t>(__half_as_ushort(__high2half(h))) << 16 | __half_as_ushort(__low2half(h));
}
__device__ static inline uint32_t two_bf16(uint32_t word) {
    const uint32_t low = __bfloat16_as_ushort(__float2bfloat16(small_float(word)));
    return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16(small_float(word >> 12)))) << 16 | low;
}

/* ---- integers ----------------------------------------------------------------------------------------------------- */

__global__ void w_integers(const uint32_t *in, uint32_t *out) {
    const int i = threadIdx.x;
    const uint32_t a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2];
    uint32_t *to = out + 16 * i;
    to[0] = static_cast<uint32_t>(dp4a(a, b, static_cast<int>(c)));
    to[1] = prmt(a, b, c);
    to[2] = funnel_left(a, b, c);
    to[3] = funnel_right(a, b, c);
    to[4] = static_cast<uint32_t>(__popc(a));
    to[5] = static_cast<uint32_t>(__clz(static_cast<int>(b >> (c & 31))));
    to[6] = static_cast<uint32_t>(__ffs(static_cast<int>(a & (b << 8))));
    to[7] = __brev(a);
    to[8] = __umulhi(a, b);
    to[9] = static_cast<uint32_t>(__float2int_rn(small_float(a) * 100.5f));
    to[10] = static_cast<uint32_t>(min(static_cast<int>(a), static_cast<int>(b)));
    to[11] = max(a, b);
    to[12] = prmt(a, 0, 0xba98);
    to[13] = __ballot_sync(FULL_WARP, a & 1);
    to[14] = thread_rank();
    to[15] = prmt(a, b, 0x6420);
}

/* ---- 16-bit floats ------------------------------------------------------------------------------------------------- */

__global__ void w_halves(const uint32_t *in, uint32_t *out) {
    const int i = threadIdx.x;
    uint32_t *to = out + 16 * i;
    const __half a = __ushort_as_half(static_cast<unsigned short>(in[i] & 0xbfff)), b = __float2half_rn(small_float(in[i + 32]));
    const __half2 p = __halves2half2(b, a), q = __floats2half2_rn(small_float(in[i + 64]), 3.0f);
    const float wide = __uint_as_float(in[i + 96] & 0xbfffffff); // below 2: all small exponents of f16, subnormals, zeroes
    to[0] = __half_as_ushort(__float2half_rn(wide));
    to[1] = __float_as_uint(__half2float(a));
    to[2] = __half_as_ushort(__float2half_rn(small_float(in[i + 128]) * 40000)); // beyond 65504, too
    to[3] = __half_as_ushort(__low2half(__hmul2(p, q)));
    to[4] = __half_as_ushort(__high2half(__hadd2(p, q)));
    to[5] = __half_as_ushort(__low2half(__hsub2(p, q)));
    to[6] = __half_as_ushort(__high2half(__hfma2(p, q, q)));
    to[7] = __float_as_uint(__half22float2(p).y);
    to[8] = __bfloat16_as_ushort(__float2bfloat16(wide));
    to[9] = __float_as_uint(__bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(in[i + 160] & 0xbfff))));
    const uint32_t pair = two_halves(in[i + 192]), other = in[i + 224] & 0xbfffbfff; // below 2
    to[10] = add_f16x2(pair, other);
    to[11] = fma_f16x2(pair, other, two_halves(in[i + 256]));
    to[12] = sum_bytes(in[i], in[i + 32]);
    for (int k = 13; k < 16; k++) to[k] = 0;
}

/* ---- copies, loads ---------------------------------------------------------------------------------------------------- */

__global__ void w_copies(const uint32_t *in, uint32_t *out) {
    SHARED(uint4, room, 96);
    const int i = threadIdx.x;
    cp_async16(&room[i], in + 4 * i);
    cp_async_commit();
    cp_async16_or_zero(&room[32 + i], in + 128 + 4 * i, i % 3 != 0);
    cp_async_commit();
    stu4(&room[64 + i], ldu4(in + 256 + 4 * i));
    cp_async_wait<1>();
    __syncthreads();
    stu4(out + 4 * i, ldu4(&room[31 - i]));
    cp_async_wait<0>();
    __syncthreads();
    stu4(out + 128 + 4 * i, ldu4(&room[63 - i]));
    stu4(out + 256 + 4 * i, ldu4(&room[64 + (i ^ 1)]));
    stu4(out + 384 + 4 * i, ld128(in + 512 + 4 * i));
    const uint2 two = ld64(in + 700 + 2 * i);
    out[512 + 2 * i] = two.x, out[513 + 2 * i] = two.y;
    stu4(out + 576 + 4 * i, ldcg_u4(in + 800 + 4 * i));
    out[704 + i] = ldcg_u(in + 1000 + i) ^ ldcv_u(in + 1100 + i);
    prefetch_l2(in + i);
}

__global__ void w_float_loads(const uint32_t *in, uint32_t *out) {
    const int i = threadIdx.x;
    SHARED(float, x, 256);
    for (int k = 0; k < 8; k++) x[8 * i + k] = small_float(in[8 * i + k]);
    __syncthreads();
    stf4(reinterpret_cast<float *>(out) + 4 * i, ldf4(x + 4 * (31 - i)));
    const float *f = reinterpret_cast<const float *>(in);
    const float4 a = ldcg_f4(f + 4 * i), b = ldcv_f4(f + 4 * (i + 32));
    out[128 + 4 * i] = __float_as_uint(a.x), out[129 + 4 * i] = __float_as_uint(a.w);
    out[130 + 4 * i] = __float_as_uint(b.y), out[131 + 4 * i] = __float_as_uint(ldcg_f(f + 300 + i));
}

/* ---- matrices ----------------------------------------------------------------------------------------------------------- */

__global__ void w_ldmatrix(const uint32_t *in, uint32_t *out) {
    SHARED(uint32_t, room, 32 * 8); // 32 rows of 16 bytes, 32 apart
    const int i = threadIdx.x;
    for (int k = 0; k < 8; k++) room[8 * i + k] = in[8 * i + k];
    __syncthreads();
    uint32_t r[4], two[2];
    ldmatrix_x4(r, room + 8 * i);
    for (int k = 0; k < 4; k++) out[32 * k + i] = r[k];
    ldmatrix_x4_trans(r, room + 8 * i + 4);
    for (int k = 0; k < 4; k++) out[128 + 32 * k + i] = r[k];
    ldmatrix_x2(two, room + 8 * (31 - i));
    for (int k = 0; k < 2; k++) out[256 + 32 * k + i] = two[k];
    ldmatrix_x2_trans(two, room + 8 * (31 - i) + 4);
    for (int k = 0; k < 2; k++) out[320 + 32 * k + i] = two[k];
}

/* Fragments from in: a at 0, b at 128, c at 192, all [register][lane]; d to out, likewise. */
template <int KIND> __global__ void w_mma(const uint32_t *in, uint32_t *out) {
    const int i = threadIdx.x;
    uint32_t a[4], b[2];
    float d[4];
    int s[4];
    for (int k = 0; k < 4; k++) {
        a[k] = KIND == 0 ? two_halves(in[32 * k + i]) : KIND == 1 ? two_bf16(in[32 * k + i]) : in[32 * k + i];
        d[k] = small_float(in[192 + 32 * k + i]);
        s[k] = static_cast<int>(in[192 + 32 * k + i] & 0xffff) - 32768;
    }
    for (int k = 0; k < 2; k++) {
        b[k] = KIND == 0 ? two_halves(in[128 + 32 * k + i]) : KIND == 1 ? two_bf16(in[128 + 32 * k + i]) : in[128 + 32 * k + i];
    }
    if (KIND == 0) mma_f16(d, a, b);
    else if (KIND == 1) mma_bf16(d, a, b);
    else mma_s8(s, a, b);
    for (int k = 0; k < 4; k++) out[32 * k + i] = KIND == 2 ? static_cast<uint32_t>(s[k]) : __float_as_uint(d[k]);
}

/* ---- warp ------------------------------------------------------------------------------------------------------------------ */

__global__ void w_warp(const uint32_t *in, uint32_t *out) {
    const int i = threadIdx.x;
    const float v = small_float(in[i]), coarse = static_cast<float>(in[i + 32] % 5);
    const found low = warp_argmax<false>(coarse, i), high = warp_argmax<true>(coarse, i);
    out[i] = __float_as_uint(warp_sum(v));
    out[32 + i] = static_cast<uint32_t>(warp_sum(static_cast<int>(in[i] >> 8)));
    out[64 + i] = __float_as_uint(warp_max(v));
    out[96 + i] = low.index, out[128 + i] = high.index, out[160 + i] = __float_as_uint(high.value);
    out[192 + i] = warp_from(in[i], i * 7 % 32);
    out[224 + i] = warp_xor(in[i], 5);
    out[256 + i] = warp_down(in[i], 3);
    out[288 + i] = __shfl_sync(FULL_WARP, in[i], i * 3, 8);
    out[320 + i] = __shfl_up_sync(FULL_WARP, in[i], 2, 16);
    out[352 + i] = __shfl_down_sync(FULL_WARP, in[i], 5, 16);
    out[384 + i] = __shfl_xor_sync(FULL_WARP, in[i], 9, 8);
    out[416 + i] = static_cast<uint32_t>(__any_sync(FULL_WARP, in[i] % 7 == 0) + 2 * __all_sync(FULL_WARP, in[i] % 7 < 6));
}

/* ---- between blocks ----------------------------------------------------------------------------------------------------------- */

/* Blocks of 32: each stores a part, the last adds. out[64 ..] is room, out[0] a ticket, which must be 0 before and is after. */
__global__ void w_ticket(const uint32_t *in, uint32_t *out) {
    const int i = threadIdx.x, b = blockIdx.x;
    out[64 + 32 * b + i] = in[32 * b + i];
    if (grid_last(out, gridDim.x)) {
        uint32_t sum = 0;
        for (unsigned k = 0; k < gridDim.x; k++) sum += ldcg_u(out + 64 + 32 * k + i);
        out[32 + i] = sum;
    }
}

/* One thread: flags by release and acquire, a wait that is over, one that is late, one that is called off. */
__global__ void w_flags(const uint32_t *in, uint32_t *out) {
    if (threadIdx.x) return;
    st_release_gpu(out, in[0]);
    st_release_sys(out + 1, in[1]);
    out[2] = ld_acquire_gpu(out) ^ ld_acquire_sys(out + 1);
    st_release_sys(out + 3, 7), st_release_sys(out + 4, 1);
    out[5] = spin_wait(out + 3, 7, nullptr, 1000000);
    out[6] = spin_wait(out + 3, 8, nullptr, 20000);
    out[7] = spin_wait(out + 3, 8, out + 4, 1000000000);
    out[8] = spin_wait(out + 3, 0x80000007u, nullptr, 20000);
    const uint64_t before = global_ns();
    sleep_ns(100);
    out[9] = global_ns() >= before;
    pdl_wait(), pdl_trigger();
}

/* ---- the table ----------------------------------------------------------------------------------------------------------------- */

struct wrapper_case {
    const char *name;
    void (*kernel)(const uint32_t *, uint32_t *);
    unsigned blocks;
    double tolerance; /* relative, of floats; 0: words are equal */
};

static const wrapper_case wrapper_cases[] = {
    {"integers", w_integers, 1, 0},    {"halves", w_halves, 1, 0},    {"copies", w_copies, 1, 0},
    {"float_loads", w_float_loads, 1, 0}, {"ldmatrix", w_ldmatrix, 1, 0}, {"mma_f16", w_mma<0>, 1, 1e-5},
    {"mma_bf16", w_mma<1>, 1, 1e-5},   {"mma_s8", w_mma<2>, 1, 0},    {"warp", w_warp, 1, 0},
    {"ticket", w_ticket, 9, 0},        {"flags", w_flags, 1, 0},
};
enum { N_WRAPPER_CASES = sizeof wrapper_cases / sizeof *wrapper_cases };

/* The input of a case: all bit patterns are drawn. */
static inline void fill_words(uint32_t *in, unsigned seed) {
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < WORDS_IN; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        in[i] = static_cast<uint32_t>(state >> 32);
    }
}

/* One case on the device of this build; out has WORDS_OUT words, 0 where the kernel writes none. */
static inline cudaError_t run_wrapper(const wrapper_case *c, const uint32_t *in, uint32_t *out) {
    uint32_t *device_in = nullptr, *device_out = nullptr;
    cudaError_t error = cudaMalloc(&device_in, WORDS_IN * sizeof *in);
    if (error == cudaSuccess) error = cudaMalloc(&device_out, WORDS_OUT * sizeof *out);
    if (error == cudaSuccess) error = cudaMemcpy(device_in, in, WORDS_IN * sizeof *in, cudaMemcpyHostToDevice);
    if (error == cudaSuccess) error = cudaMemset(device_out, 0, WORDS_OUT * sizeof *out);
    if (error == cudaSuccess) {
        LAUNCH(c->kernel, c->blocks, 32, 0, nullptr, device_in, device_out);
        error = cudaGetLastError();
    }
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    if (error == cudaSuccess) error = cudaMemcpy(out, device_out, WORDS_OUT * sizeof *out, cudaMemcpyDeviceToHost);
    (void)cudaFree(device_in);
    (void)cudaFree(device_out);
    return error;
}

#endif
