/* Tensor element types and block layouts: the only place in the tree that knows them.
 *
 * A new weight format is one row in TENSOR_TYPES (enum, name, GGUF id, sizes), its block struct below, one reference
 * function in cpu/quants_ref.c, and optionally fast ones. Readers, checks, tests and tables expand from the row.
 * Layouts: docs of the GGUF format; all fields little-endian, no padding inside a block. */
#ifndef COLDSTREAM_TENSOR_H
#define COLDSTREAM_TENSOR_H

#include "core/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Ids from here on are ours: no file carries them as a number. */
#define TENSOR_OWN_ID 0x10000u

/* EXL3 trellis of K bits: a matrix of `rows` outputs and k inputs is k/16 x rows/16 tiles of 16 x 16 weights (inputs outermost), each of
 * 16 K 16-bit words. Its rows do not follow each other, but the bytes are as if: rows * row_bytes. Both extents are multiples of 128. */

/* X(enum suffix, printed name, GGUF type id, weights per block, bytes per block, bytes in front of each row) */
#define TENSOR_TYPES(X)                   \
    X(F32, "F32", 0, 1, 4, 0)             \
    X(F16, "F16", 1, 1, 2, 0)             \
    X(BF16, "BF16", 30, 1, 2, 0)          \
    X(Q4_0, "Q4_0", 2, 32, 18, 0)         \
    X(Q4_1, "Q4_1", 3, 32, 20, 0)         \
    X(Q5_0, "Q5_0", 6, 32, 22, 0)         \
    X(Q5_1, "Q5_1", 7, 32, 24, 0)         \
    X(Q8_0, "Q8_0", 8, 32, 34, 0)         \
    X(Q2_K, "Q2_K", 10, 256, 84, 0)       \
    X(Q3_K, "Q3_K", 11, 256, 110, 0)      \
    X(Q4_K, "Q4_K", 12, 256, 144, 0)      \
    X(Q5_K, "Q5_K", 13, 256, 176, 0)      \
    X(Q6_K, "Q6_K", 14, 256, 210, 0)      \
    X(IQ2_XXS, "IQ2_XXS", 16, 256, 66, 0) \
    X(IQ2_XS, "IQ2_XS", 17, 256, 74, 0)   \
    X(IQ2_S, "IQ2_S", 22, 256, 82, 0)     \
    X(IQ3_XXS, "IQ3_XXS", 18, 256, 98, 0) \
    X(IQ3_S, "IQ3_S", 21, 256, 110, 0)    \
    X(IQ1_S, "IQ1_S", 19, 256, 50, 0)     \
    X(IQ1_M, "IQ1_M", 29, 256, 56, 0)     \
    X(IQ4_NL, "IQ4_NL", 20, 32, 18, 0)    \
    X(IQ4_XS, "IQ4_XS", 23, 256, 136, 0)  \
    X(MXFP4, "MXFP4", 39, 32, 17, 0)      \
    X(IQ2_K, "IQ2_K", 137, 256, 76, 0)    \
    X(IQ3_K, "IQ3_K", 138, 256, 110, 0)   \
    X(IQ4_K, "IQ4_K", 139, 256, 144, 0)   \
    X(IQ5_K, "IQ5_K", 140, 256, 176, 0)   \
    X(IQ6_K, "IQ6_K", 141, 256, 212, 0)   \
    X(IQ4_KS, "IQ4_KS", 144, 256, 136, 4) \
    X(Q6_0, "Q6_0", 133, 32, 26, 0)       \
    X(IQ2_KS, "IQ2_KS", 145, 256, 70, 2)  \
    X(IQ2_KL, "IQ2_KL", 157, 256, 86, 2)  \
    X(IQ3_KS, "IQ3_KS", 156, 256, 102, 2) \
    X(IQ4_KSS, "IQ4_KSS", 146, 256, 128, 4) \
    X(IQ5_KS, "IQ5_KS", 152, 256, 168, 4) \
    X(I8, "I8", 24, 1, 1, 0)              \
    X(I16, "I16", 25, 1, 2, 0)            \
    X(I32, "I32", 26, 1, 4, 0)            \
    X(I64, "I64", 27, 1, 8, 0)            \
    X(F64, "F64", 28, 1, 8, 0)            \
    X(EXL3_1, "EXL3_1", TENSOR_OWN_ID + 1, 128, 16, 0) \
    X(EXL3_2, "EXL3_2", TENSOR_OWN_ID + 2, 128, 32, 0) \
    X(EXL3_3, "EXL3_3", TENSOR_OWN_ID + 3, 128, 48, 0) \
    X(EXL3_4, "EXL3_4", TENSOR_OWN_ID + 4, 128, 64, 0) \
    X(EXL3_5, "EXL3_5", TENSOR_OWN_ID + 5, 128, 80, 0) \
    X(EXL3_6, "EXL3_6", TENSOR_OWN_ID + 6, 128, 96, 0) \
    X(EXL3_7, "EXL3_7", TENSOR_OWN_ID + 7, 128, 112, 0) \
    X(EXL3_8, "EXL3_8", TENSOR_OWN_ID + 8, 128, 128, 0)

enum tensor_type {
#define X(suffix, name, id, weights, bytes, row_meta) TYPE_##suffix,
    TENSOR_TYPES(X)
#undef X
    TYPE_COUNT
};

enum exl3_codebook { EXL3_3INST, EXL3_MCG, EXL3_MUL1 };

struct tensor_type_info {
    const char *name;
    uint32_t gguf_id;
    uint32_t block_weights;  /* weights per block */
    uint32_t block_bytes;    /* bytes per block */
    uint32_t row_meta_bytes; /* bytes in front of the blocks of each row */
};

const struct tensor_type_info *tensor_type_info(enum tensor_type type); /* never NULL for a valid type */
bool tensor_type_from_gguf(uint32_t id, enum tensor_type *out);         /* false: not a type of the table */
bool tensor_type_from_name(struct span name, enum tensor_type *out);    /* case-insensitive */
/* For an id that is not in the table: what it is, when known ("row-interleaved repack Q4_K_R4", "removed ARM packing"), else NULL. */
const char *tensor_type_refused_name(uint32_t id);

/* Bytes of a row of `weights` elements; false when `weights` is 0, no multiple of the block, or the size overflows. */
bool tensor_row_bytes(enum tensor_type type, uint64_t weights, uint64_t *out) MUST_USE;

/* ---- block structs of the types that have kernels ------------------------------------------------------------ */

#define QK_K 256 /* weights in a super-block */

struct block_q4_0 { /* w = d * (nibble - 8); byte j: weight j low, weight 16+j high */
    uint16_t d;     /* binary16, as all d and dmin below */
    uint8_t qs[16];
};
struct block_q8_0 { /* w = d * q */
    uint16_t d;
    int8_t qs[32];
};
struct block_q4_k {      /* w = d*scale_g*nibble - dmin*min_g, g = 32-weight group */
    uint16_t d, dmin;
    uint8_t scales[12];  /* eight 6-bit (scale, min) pairs */
    uint8_t qs[128];     /* byte 32*(g/2)+l: weight l of group g, low nibble for even g */
};
struct block_q5_k {      /* as q4_k with a fifth bit: bit g of qh[l] */
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
};
struct block_q6_k {      /* w = d*scales[t]*(q - 32), t = 16-weight group */
    uint8_t ql[128];     /* low 4 bits: byte 64H+32*(p&1)+l, low nibble for p < 2 (H half, p plane, l lane) */
    uint8_t qh[64];      /* high 2 bits: bits 2p of byte 32H+l */
    int8_t scales[16];
    uint16_t d;
};

#ifdef __cplusplus
#define TENSOR_ASSERT static_assert
#else
#define TENSOR_ASSERT _Static_assert
#endif
TENSOR_ASSERT(sizeof(struct block_q4_0) == 18, "q4_0");
TENSOR_ASSERT(sizeof(struct block_q8_0) == 34, "q8_0");
TENSOR_ASSERT(sizeof(struct block_q4_k) == 144, "q4_k");
TENSOR_ASSERT(sizeof(struct block_q5_k) == 176, "q5_k");
TENSOR_ASSERT(sizeof(struct block_q6_k) == 210, "q6_k");

/* ---- scalar conversions ---------------------------------------------------------------------------------------- */

float f16_to_f32(uint16_t h);      /* exact, subnormals included */
uint16_t f32_to_f16(float f);      /* nearest even; overflow to infinity; NaN stays NaN */
static inline float bf16_to_f32(uint16_t h) {
    union { uint32_t u; float f; } v = {(uint32_t)h << 16};
    return v.f;
}

#ifdef __cplusplus
}
#endif
#endif
