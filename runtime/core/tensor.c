/* Type table look-ups and scalar float conversions. Constant data only. */
#include "core/tensor.h"

#include <string.h>
#include <strings.h>

static const struct tensor_type_info types[TYPE_COUNT] = {
#define X(suffix, name, id, weights, bytes, row_meta) {name, id, weights, bytes, row_meta},
    TENSOR_TYPES(X)
#undef X
};

const struct tensor_type_info *tensor_type_info(enum tensor_type type) { return &types[type]; }

bool tensor_type_from_gguf(uint32_t id, enum tensor_type *out) {
    for (int i = 0; i < TYPE_COUNT; i++)
        if (types[i].gguf_id == id && id < TENSOR_OWN_ID) {
            *out = (enum tensor_type)i;
            return true;
        }
    return false;
}

bool tensor_type_from_name(struct span name, enum tensor_type *out) {
    for (int i = 0; i < TYPE_COUNT; i++)
        if (strlen(types[i].name) == name.len && strncasecmp(types[i].name, name.ptr, name.len) == 0) {
            *out = (enum tensor_type)i;
            return true;
        }
    return false;
}

const char *tensor_type_refused_name(uint32_t id) {
    switch (id) {
        case 4: case 5: return "Q4_2/Q4_3 (removed from GGUF)";
        case 9: case 15: case 97: case 98: case 99: case 136: case 147: case 148: case 149: case 150:
            return "an activation-only type, not a weight type";
        case 31: case 32: case 33: return "a removed ARM packing of Q4_0";
        case 34: case 35: return "TQ1_0/TQ2_0 (ternary)";
        case 36: case 134: case 135: return "a BitNet type";
        case 41: return "Q1_0";
        case 151: return "Q8_KV";
        case 153: case 154: case 155: case 158: return "a trellis type (IQx_KT)";
        default: return id >= 202 && id <= 399 ? "a row-interleaved repack (_R4/_R8/_R16); use the file before the repack" : NULL;
    }
}

bool tensor_row_bytes(enum tensor_type type, uint64_t weights, uint64_t *out) {
    const struct tensor_type_info *t = &types[type];
    if (weights == 0 || weights % t->block_weights != 0) return false;
    uint64_t blocks;
    return size_mul(weights / t->block_weights, t->block_bytes, &blocks) && size_add(blocks, t->row_meta_bytes, out);
}

float f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
    union { uint32_t u; float f; } v;
    if (exponent == 31) v.u = sign | 0x7f800000u | mantissa << 13;
    else if (exponent) v.u = sign | (exponent + 112) << 23 | mantissa << 13;
    else { /* zero or subnormal: mantissa * 2^-24, exact in binary32 */
        v.f = (float)mantissa * 0x1p-24f;
        v.u |= sign;
    }
    return v.f;
}

uint16_t f32_to_f16(float f) {
    union { float f; uint32_t u; } v = {f};
    const uint16_t sign = (uint16_t)(v.u >> 16 & 0x8000);
    const uint32_t magnitude = v.u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* rounds to 65536 or more */
    if (magnitude < 0x38800000u) {                                  /* result is subnormal: let the FPU round at 2^-24 */
        union { float f; uint32_t u; } r;
        r.u = magnitude;
        r.f += 0.5f; /* ulp of [0.5, 1) is 2^-24 */
        return (uint16_t)(sign | (r.u - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000u) >> 13);
}
