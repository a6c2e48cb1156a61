/* CUDA's small vector types, with CUDA's sizes and alignments. */
#ifndef COLDSTREAM_CUDA_HOST_TYPES_H
#define COLDSTREAM_CUDA_HOST_TYPES_H

#include <stddef.h>
#include <stdint.h>

#define CH_VECTOR2(name, T, align) \
    struct alignas(align) name {   \
        T x, y;                    \
    };                             \
    static inline name make_##name(T x, T y) { return name{x, y}; }
#define CH_VECTOR3(name, T)  \
    struct name {            \
        T x, y, z;           \
    };                       \
    static inline name make_##name(T x, T y, T z) { return name{x, y, z}; }
#define CH_VECTOR4(name, T, align) \
    struct alignas(align) name {   \
        T x, y, z, w;              \
    };                             \
    static inline name make_##name(T x, T y, T z, T w) { return name{x, y, z, w}; }

CH_VECTOR2(char2, signed char, 2)
CH_VECTOR2(uchar2, unsigned char, 2)
CH_VECTOR2(short2, short, 4)
CH_VECTOR2(ushort2, unsigned short, 4)
CH_VECTOR2(int2, int, 8)
CH_VECTOR2(uint2, unsigned, 8)
CH_VECTOR2(float2, float, 8)
CH_VECTOR2(double2, double, 16)
CH_VECTOR3(int3, int)
CH_VECTOR3(uint3, unsigned)
CH_VECTOR3(float3, float)
CH_VECTOR4(char4, signed char, 4)
CH_VECTOR4(uchar4, unsigned char, 4)
CH_VECTOR4(short4, short, 8)
CH_VECTOR4(ushort4, unsigned short, 8)
CH_VECTOR4(int4, int, 16)
CH_VECTOR4(uint4, unsigned, 16)
CH_VECTOR4(float4, float, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#endif
