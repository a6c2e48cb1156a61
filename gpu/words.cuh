/* A few bits out of words: what every way of unpacking weights starts with. */
#ifndef COLDSTREAM_GPU_WORDS_CUH
#define COLDSTREAM_GPU_WORDS_CUH

#include "gpu/cu.h"

static __device__ __forceinline__ float half_bits(uint32_t bits) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
}
static __device__ __forceinline__ uint32_t load_u16(const uint8_t *p) { return *reinterpret_cast<const uint16_t *>(p); }
static __device__ __forceinline__ uint32_t load_u32(const uint8_t *p) { return *reinterpret_cast<const uint32_t *>(p); }

#endif
