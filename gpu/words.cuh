/* A few bits out of words: what every way of unpacking weights starts with. */
#ifndef COLDSTREAM_GPU_WORDS_CUH
#define COLDSTREAM_GPU_WORDS_CUH

#include "gpu/cu.h"

static __device__ __forceinline__ float half_bits(uint32_t bits) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
}
static __device__ __forceinline__ uint32_t load_u16(const uint8_t *p) { return *reinterpret_cast<const uint16_t *>(p); }
static __device__ __forceinline__ uint32_t load_u32(const uint8_t *p) { return *reinterpret_cast<const uint32_t *>(p); }

/* A power of two that brings values up to `most` into binary16 with bits to spare: 1 for the usual ones. */
static __device__ __forceinline__ float half_power(float most) {
    if (most >= 0x1p-7f && most < 0x1p15f) return 1;
    const uint32_t exponent = __float_as_uint(most) >> 23; /* most >= 0; infinity: 255 */
    return __uint_as_float((exponent > 14 ? exponent - 13 : 1) << 23);
}
static __device__ __forceinline__ float inverse_power(float power) { return __uint_as_float((254u << 23) - __float_as_uint(power)); }

#endif
