/* Conversions of 16-bit floats, by their bits (IEEE 754 binary16; bfloat16 is the upper half of binary32). */
#include "tests/cuda_host/half.h"

#include <math.h>
#include <string.h>

float ch_f16_to_float(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    float v;
    if (exponent == 0) {
        v = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -v : v;
    }
    const uint32_t wide = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    memcpy(&v, &wide, sizeof v);
    return v;
}

uint16_t ch_f16_from_double(double v) {
    const uint16_t sign = signbit(v) ? 0x8000 : 0;
    const double a = fabs(v);
    if (isnan(v)) return 0x7fff; // the device's quiet NaN
    if (a >= 65520.0) return sign | 0x7c00;
    int exponent;
    (void)frexp(a, &exponent); // a = [0.5, 1) * 2^exponent
    if (a == 0 || exponent < -13) return static_cast<uint16_t>(sign | static_cast<int>(nearbyint(ldexp(a, 24))));
    const int steps = static_cast<int>(nearbyint(ldexp(a, 11 - exponent))); // 1024 .. 2048; 2048 carries into the exponent
    return static_cast<uint16_t>(sign | (((exponent + 14) << 10) + (steps - 1024)));
}

float ch_bf16_to_float(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float v;
    memcpy(&v, &wide, sizeof v);
    return v;
}

uint16_t ch_bf16_from_float(float v) {
    if (isnan(v)) return 0x7fff;
    uint32_t wide;
    memcpy(&wide, &v, sizeof wide);
    return static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}
