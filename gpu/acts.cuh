/* Activations of a step inside a block: RMS norm and rounding to int8, as the CPU does them (cpu.h, struct acts), so that both
 * sides multiply the same bytes. Every block that needs a normed vector makes it for itself in shared memory: that costs less
 * than a kernel of its own. All functions are called by all threads of a block whose size is a multiple of 32. */
#ifndef COLDSTREAM_GPU_ACTS_CUH
#define COLDSTREAM_GPU_ACTS_CUH

#include "gpu/network.h"
#include "gpu/unpack.cuh"

/* Vectors to multiply, in shared or global memory; unset parts are NULL. Vector v is C int8 vectors whose sum it is (v*C + c of
 * q, d, sum16; s32 holds the sum over c): C is 2 for the head's input, whose rounding remainder is the second, else 1. */
struct vectors {
    const float *f; /* [n][k] */
    const int8_t *q;
    const float *d, *s32;
    const int32_t *sum16;
    uint32_t k;
};

static inline vectors vectors_of(const gpu_acts &a, const float *f, uint32_t k) {
    return vectors{f, a.q, a.d, a.s32, a.sum16, k};
}

enum { ACTS_SHARED_LIMIT = 47 << 10 /* bytes of shared memory for vectors: what every device has, less our small arrays */ };

/* Bytes of shared memory for one vector of k. */
static inline GPU_BOTH uint32_t acts_shared_bytes(uint32_t wants, uint32_t k, uint32_t c) {
    uint32_t bytes = 0;
    if (wants & WANT_FLOATS) bytes += (k + 3) / 4 * 16;
    if (wants & WANT_INT8) bytes += c * (k + k / 32 * 4);
    if (wants & WANT_S32) bytes += k / 32 * 4;
    if (wants & WANT_SUM16) bytes += c * k / 16 * 4;
    return bytes;
}

/* The same vectors, to be written. */
struct room {
    float *f, *d, *s32;
    int8_t *q;
    int32_t *sum16;
    uint32_t k;
};

/* The room of n vectors at `at` (16-byte aligned). */
static __device__ __forceinline__ room acts_carve(unsigned char *at, uint32_t wants, uint32_t n, uint32_t k, uint32_t c) {
    room r = {NULL, NULL, NULL, NULL, NULL, k};
    if (wants & WANT_FLOATS) r.f = reinterpret_cast<float *>(at), at += n * ((k + 3) / 4 * 16);
    if (wants & WANT_INT8) {
        r.q = reinterpret_cast<int8_t *>(at), at += n * c * k;
        r.d = reinterpret_cast<float *>(at), at += n * c * (k / 32) * 4;
    }
    if (wants & WANT_S32) r.s32 = reinterpret_cast<float *>(at), at += n * (k / 32) * 4;
    if (wants & WANT_SUM16) r.sum16 = reinterpret_cast<int32_t *>(at);
    return r;
}

static __device__ __forceinline__ vectors acts_read(const room &r) { return vectors{r.f, r.q, r.d, r.s32, r.sum16, r.k}; }

/* scale[t] = 1 / sqrt(mean(x[t]^2) + eps) of T vectors of k, in shared memory; a barrier before and after. */
template <int T> static __device__ void block_norms(const float *x, uint32_t k, float eps, float *scale) {
    SHARED(float, part, T * 32);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
#pragma unroll
    for (int t = 0; t < T; t++) {
        const float *row = x + static_cast<size_t>(t) * k;
        float sum = 0;
        if (k % 4 == 0) {
            for (uint32_t i = 4 * threadIdx.x; i < k; i += 4 * blockDim.x) {
                const float4 v = ldf4(row + i);
                sum += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
            }
        } else {
            for (uint32_t i = threadIdx.x; i < k; i += blockDim.x) sum += row[i] * row[i];
        }
        sum = warp_sum(sum);
        if (lane == 0) part[t * 32 + warp] = sum;
    }
    __syncthreads();
    if (threadIdx.x < T) {
        float sum = 0;
        for (uint32_t w = 0; w < warps; w++) sum += part[threadIdx.x * 32 + w];
        scale[threadIdx.x] = 1 / sqrtf(sum / static_cast<float>(k) + eps);
    }
    __syncthreads();
}

/* What a vector's values are: x itself, or with a gain the normed x. */
struct source {
    const float *x, *gain;
    float scale;
    __device__ __forceinline__ float at(uint32_t i) const { return gain ? gain[i] * (x[i] * scale) : x[i]; }
    __device__ __forceinline__ void at4(uint32_t i, float *v) const { /* i and the vectors' addresses: multiples of 4 floats */
        const float4 a = ldf4(x + i);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        if (!gain) return;
        const float4 g = ldf4(gain + i);
        v[0] = g.x * (v[0] * scale), v[1] = g.y * (v[1] * scale), v[2] = g.z * (v[2] * scale), v[3] = g.w * (v[3] * scale);
    }
};

static __device__ __forceinline__ void block_floats(const source &s, uint32_t k, float *to) {
    for (uint32_t i = threadIdx.x; i < k; i += blockDim.x) to[i] = s.at(i);
}

/* A group of 32 with its two halves in neighbouring lanes: the larger of the two lanes' max|v|, as bits, which order like the
 * numbers and put infinities and NaN above all; from it the group's scale and what to multiply by before rounding. */
struct group_scale {
    float d, inverse;
};
static __device__ __forceinline__ group_scale scale_of_group(uint32_t max_bits) {
    const bool finite = max_bits < 0x7f800000u;
    const float max = __uint_as_float(max_bits);
    const bool usable = finite && max >= 0x1p-110f;
    return group_scale{usable ? max / 127 : finite ? 0 : __uint_as_float(0x7fc00000u), usable ? 127 / max : 0};
}

static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
static __device__ __forceinline__ uint32_t magnitude_bits(float v) { return __float_as_uint(v) & 0x7fffffffu; }
/* Nearest even; 0 where the group is unusable: v * 0 may be NaN. */
static __device__ __forceinline__ int round_to_int8(float v, const group_scale &g) {
    return g.inverse == 0 ? 0 : __float2int_rn(v * g.inverse);
}

/* Round 16 values of one lane; v becomes what rounding took away. Returns the sum of the bytes. */
static __device__ __forceinline__ int quantize16(float (&v)[16], uint32_t (&word)[4], float &d) {
    uint32_t max = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) max = larger(max, magnitude_bits(v[i]));
    max = larger(max, warp_xor(max, 1));
    const group_scale g = scale_of_group(max);
    int sum = 0;
#pragma unroll
    for (int w = 0; w < 4; w++) {
        word[w] = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int q = round_to_int8(v[4 * w + i], g);
            word[w] |= static_cast<uint32_t>(q & 0xff) << 8 * i;
            v[4 * w + i] -= g.d * static_cast<float>(q);
        }
        sum = dp4a(word[w], 0x01010101u, sum);
    }
    d = g.d;
    return sum;
}

/* A vector as C int8 vectors number v*C + c of `to`; k is a multiple of 32. Parts of `to` that are NULL are left out. No
 * barrier. */
template <int C> static __device__ void block_quantize(const source &s, uint32_t k, const room &to, uint32_t v) {
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t first = threadIdx.x - lane; first < k / 16; first += blockDim.x) {
        const uint32_t item = first + lane;
        const bool real = item < k / 16;
        float value[16], sums = 0;
#pragma unroll
        for (int i = 0; i < 16; i++) value[i] = 0;
        if (real) {
#pragma unroll
            for (int i = 0; i < 16; i += 4) s.at4(16 * item + i, value + i);
        }
#pragma unroll
        for (int c = 0; c < C; c++) {
            uint32_t word[4];
            float d;
            const int sum = quantize16(value, word, d), both = sum + warp_xor(sum, 1);
            sums += d * static_cast<float>(both);
            if (!real) continue;
            const size_t at = (static_cast<size_t>(v) * C + c) * k;
            stu4(to.q + at + 16 * item, make_uint4(word[0], word[1], word[2], word[3]));
            if (item % 2 == 0) to.d[at / 32 + item / 2] = d;
            if (to.sum16) to.sum16[at / 16 + item] = sum;
        }
        if (real && item % 2 == 0 && to.s32) to.s32[static_cast<size_t>(v) * (k / 32) + item / 2] = sums;
    }
}

#endif
