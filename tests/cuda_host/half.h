/* CUDA's 16-bit floats in software: f16 and bf16, rounded to nearest even, arithmetic through f32 and rounded back.
 *
 * For + - * / that is what a device computes, since 24 bits are more than twice 11 (8) plus 2. The fused multiply-add goes through
 * f64, which holds the product of two and, but for sums of very unlike size, the sum. */
#ifndef COLDSTREAM_CUDA_HOST_HALF_H
#define COLDSTREAM_CUDA_HOST_HALF_H

#include "tests/cuda_host/types.h"

struct __half {
    uint16_t ch_bits;
    __half() = default;
    __half(float v);
    operator float() const;
};
struct __nv_bfloat16 {
    uint16_t ch_bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float v);
    operator float() const;
};
struct alignas(4) __half2 {
    __half x, y;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

/* Bits to and from values; half.cpp. */
float ch_f16_to_float(uint16_t bits);
uint16_t ch_f16_from_double(double v);
float ch_bf16_to_float(uint16_t bits);
uint16_t ch_bf16_from_float(float v);

inline __half::__half(float v) : ch_bits(ch_f16_from_double(v)) {}
inline __half::operator float() const { return ch_f16_to_float(ch_bits); }
inline __nv_bfloat16::__nv_bfloat16(float v) : ch_bits(ch_bf16_from_float(v)) {}
inline __nv_bfloat16::operator float() const { return ch_bf16_to_float(ch_bits); }

/* ---- f16 -------------------------------------------------------------------------------------------------------- */

static inline __half __ushort_as_half(unsigned short bits) {
    __half h;
    h.ch_bits = bits;
    return h;
}
static inline unsigned short __half_as_ushort(__half h) { return h.ch_bits; }
static inline __half __float2half(float v) { return __half(v); }
static inline __half __float2half_rn(float v) { return __half(v); }
static inline float __half2float(__half h) { return h; }
static inline __half __int2half_rn(int v) { return __ushort_as_half(ch_f16_from_double(v)); }

static inline __half __hadd(__half a, __half b) { return __half(float(a) + float(b)); }
static inline __half __hsub(__half a, __half b) { return __half(float(a) - float(b)); }
static inline __half __hmul(__half a, __half b) { return __half(float(a) * float(b)); }
static inline __half __hfma(__half a, __half b, __half c) {
    return __ushort_as_half(ch_f16_from_double(double(float(a)) * float(b) + float(c)));
}
static inline __half __hneg(__half a) { return __ushort_as_half(a.ch_bits ^ 0x8000u); }

static inline __half2 __halves2half2(__half x, __half y) { return __half2{x, y}; }
static inline __half2 make_half2(__half x, __half y) { return __half2{x, y}; }
static inline __half2 __half2half2(__half x) { return __half2{x, x}; }
static inline __half2 __float2half2_rn(float v) { return __half2{__half(v), __half(v)}; }
static inline __half2 __floats2half2_rn(float x, float y) { return __half2{__half(x), __half(y)}; }
static inline __half2 __float22half2_rn(float2 v) { return __half2{__half(v.x), __half(v.y)}; }
static inline float2 __half22float2(__half2 h) { return make_float2(h.x, h.y); }
static inline float __low2float(__half2 h) { return h.x; }
static inline float __high2float(__half2 h) { return h.y; }
static inline __half __low2half(__half2 h) { return h.x; }
static inline __half __high2half(__half2 h) { return h.y; }
static inline __half2 __hadd2(__half2 a, __half2 b) { return __half2{__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
static inline __half2 __hsub2(__half2 a, __half2 b) { return __half2{__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
static inline __half2 __hmul2(__half2 a, __half2 b) { return __half2{__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return __half2{__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }

/* ---- bf16 ------------------------------------------------------------------------------------------------------- */

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    __nv_bfloat16 b;
    b.ch_bits = bits;
    return b;
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.ch_bits; }
static inline __nv_bfloat16 __float2bfloat16(float v) { return __nv_bfloat16(v); }
static inline __nv_bfloat16 __float2bfloat16_rn(float v) { return __nv_bfloat16(v); }
static inline float __bfloat162float(__nv_bfloat16 b) { return b; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return __nv_bfloat162{__nv_bfloat16(x), __nv_bfloat16(y)}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 b) { return make_float2(b.x, b.y); }

#endif
