/* Vectors in 8 bits (struct gpu_acts), written by warps that hold them in registers. The same rule as the CPU's quantize():
 * see network.h. Owns no memory and launches nothing. */
#ifndef COLDSTREAM_ACTS_CUH
#define COLDSTREAM_ACTS_CUH

#include "gpu/network.h"

/* Values [at + V * lane, + V) of vector `row` of k values are this lane's x; `at` is a multiple of 32, so that a group of 32
 * is 32 / V neighbouring lanes. V is 1, 2 or 4. All lanes call. */
template <int V> static __device__ void store_acts(const gpu_acts &out, uint32_t row, uint32_t k, uint32_t at, const float (&x)[V]) {
    const int lane = threadIdx.x % 32;
    const size_t first = (size_t)row * k + at + V * lane;
    float max = 0;
#pragma unroll
    for (int i = 0; i < V; i++) max = fmaxf(max, isfinite(x[i]) ? fabsf(x[i]) : INFINITY);
#pragma unroll
    for (int step = 1; step < 32 / V; step *= 2) max = fmaxf(max, warp_xor(max, step));
    const bool usable = max < INFINITY && max >= 0x1p-110f;
    const float inverse = usable ? 127 / max : 0;
    int sum = 0;
    uint32_t bytes = 0;
#pragma unroll
    for (int i = 0; i < V; i++) {
        const int q = usable ? __float2int_rn(x[i] * inverse) : 0;
        sum += q, bytes |= (uint32_t)(q & 255) << (8 * i);
    }
    if (V == 4) *reinterpret_cast<uint32_t *>(out.q + first) = bytes;
    else if (V == 2) *reinterpret_cast<uint16_t *>(out.q + first) = (uint16_t)bytes;
    else out.q[first] = (int8_t)bytes;
#pragma unroll
    for (int step = 1; step < 16 / V; step *= 2) sum += warp_xor(sum, step);
    const int both = sum + warp_xor(sum, 16 / V);
    if (lane % (16 / V) == 0) out.sum16[first / 16] = sum;
    if (lane % (32 / V) == 0) {
        const float d = usable ? max / 127 : max < INFINITY ? 0 : NAN;
        out.d[first / 32] = d;
        out.s32[first / 32] = d * (float)both;
    }
}

#endif
