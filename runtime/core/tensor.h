/* Tensor element types and block layouts: the only place in the tree that knows them.
 *
 * A new weight format is one row in TENSOR_TYPES (enum, name, GGUF id, sizes), its block struct below, one reference
 * function in cpu/, and optionally fast ones. Readers, checks, tests and tables expand from the row.
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

/* ---- block structs ------------------------------------------------------------------------------------------- */

#define QK_K 256 /* weights in a super-block */

/* Of weight i of a super-block: g = i/32, t = i/16, k = i/8 its groups; H = i/128 its half, p = i%128/32 the plane in that
 * half, l = i%32 the lane. Codes lie in one of three orders:
 *   planes   2-bit code of weight i: bits 2p of byte 32H+l
 *   halves   4-bit code: byte 16g + i%16, low nibble for i%32 < 16
 *   pairs    4-bit code: byte 32(g/2)+l, low nibble for even g
 * and a further bit of each code may be bit g of byte l of `qh`. nib(a, n) is nibble n of a, the low one first.
 * Levels V2..V6, KL, MXFP4 and the grids: core/codebooks.h. */

struct block_q4_0 { /* w = d * (nibble - 8); byte j: weight j low, weight 16+j high */
    uint16_t d;     /* binary16, as all d and dmin below */
    uint8_t qs[16];
};
struct block_q4_1 { /* w = d*nibble + m */
    uint16_t d, m;
    uint8_t qs[16];
};
struct block_q5_0 { /* w = d * (q - 16) */
    uint16_t d;
    uint8_t qh[4];  /* a 32-bit number: its bit k is the fifth of weight k */
    uint8_t qs[16];
};
struct block_q5_1 { /* w = d*q + m */
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
};
struct block_q6_0 { /* w = d * (q - 32) */
    uint16_t d;
    uint8_t qh[8];  /* byte j%8, low nibble for j < 8: bits 0-1 are bits 4-5 of weight j, bits 2-3 those of weight 16+j */
    uint8_t qs[16];
};
struct block_q8_0 { /* w = d * q */
    uint16_t d;
    int8_t qs[32];
};
struct block_iq4_nl { /* w = d * V4[0][nibble], nibbles as q4_0 */
    uint16_t d;
    uint8_t qs[16];
};
struct block_mxfp4 { /* w = 2^(e-128) * MXFP4[nibble], nibbles as q4_0 */
    uint8_t e;
    uint8_t qs[16];
};

struct block_q2_k {      /* w = d*(s_t & 15)*q - dmin*(s_t >> 4) */
    uint8_t scales[16];
    uint8_t qs[64];      /* planes */
    uint16_t d, dmin;
};
struct block_q3_k {      /* w = d*(scale_t - 32)*(q - 4) */
    uint8_t hmask[32];   /* bit g of byte l: third bit */
    uint8_t qs[64];      /* planes */
    uint8_t scales[12];  /* bits 0-3 of scale_t: byte t%8, low nibble for t < 8; bits 4-5: bits 2(t/4) of byte 8+t%4 */
    uint16_t d;
};
struct block_q4_k {      /* w = d*scale_g*nibble - dmin*min_g */
    uint16_t d, dmin;
    uint8_t scales[12];  /* eight 6-bit (scale, min) pairs */
    uint8_t qs[128];     /* pairs */
};
struct block_q5_k {      /* as q4_k with a fifth bit in qh */
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
};
struct block_q6_k {      /* w = d*scales[t]*(q - 32) */
    uint8_t ql[128];     /* low 4 bits: byte 64H+32*(p&1)+l, low nibble for p < 2 */
    uint8_t qh[64];      /* high 2 bits: planes */
    int8_t scales[16];
    uint16_t d;
};

struct block_iq2_xxs {   /* w = d*(ls_g + 0.5)/4 * grid[index_k] * sign */
    uint16_t d;
    uint8_t qs[8][8];    /* of group g: four indices, then a 32-bit number: four 7-bit sign codes, ls in bits 28-31 */
};
struct block_iq2_xs {    /* w = d*(nib(scales, t) + 0.5)/4 * grid[qs_k & 511] * sign */
    uint16_t d;
    uint16_t qs[32];     /* bits 9-15: sign code */
    uint8_t scales[8];
};
struct block_iq2_s {     /* w = d*(nib(scales, t) + 0.5)/4 * grid[index_k] * sign */
    uint16_t d;
    uint8_t qs[32];      /* bits 0-7 of index_k */
    uint8_t signs[32];   /* bit i%8 of byte k */
    uint8_t qh[8];       /* bits 8-9 of index_k: bits 2(k%4) of byte g */
    uint8_t scales[8];
};
struct block_iq3_xxs {   /* w = d*(ls_g + 0.5)/2 * grid[qs[i/4]] * sign */
    uint16_t d;
    uint8_t qs[64];
    uint8_t tail[8][4];  /* of group g a 32-bit number: four 7-bit sign codes, ls in bits 28-31 */
};
struct block_iq3_s {     /* w = d*(2*nib(scales, g) + 1) * grid[index] * sign */
    uint16_t d;
    uint8_t qs[64];      /* bits 0-7 of the index of weights 4m..4m+3 */
    uint8_t qh[8];       /* bit 8 of it: bit m%8 of byte m/8 */
    uint8_t signs[32];   /* bit i%8 of byte k */
    uint8_t scales[4];
};
struct block_iq1_s {     /* w = d*(2*((qh_g >> 12) & 7) + 1) * (grid[index_k] +- 1/8) */
    uint16_t d;
    uint8_t qs[32];      /* bits 0-7 of index_k */
    uint16_t qh[8];      /* bits 8-10 of index_k: bits 3(k%4) of word g; bit 15: minus an eighth */
};
struct block_iq1_m {     /* w = d*(2*ls_t + 1) * (grid[index_k] +- 1/8) */
    uint8_t qs[32];      /* bits 0-7 of index_k */
    uint8_t qh[16];      /* nib(qh, k): bits 8-10 of index_k; bit 3: minus an eighth */
    uint16_t scales[4];  /* ls_t: bits 3(t%4) of word t/4; bits 12-15 of the four words are d's bits, lowest first */
};
struct block_iq4_xs {    /* w = d*(ls_g - 32) * V4[0][nibble] */
    uint16_t d, scales_h; /* bits 4-5 of ls_g: bits 2g */
    uint8_t scales_l[4]; /* bits 0-3: nib(scales_l, g) */
    uint8_t qs[128];     /* halves */
};

/* `extra`, bit t: weights of group t are of the tables' second row. */
struct block_iq2_k {     /* w = d*(nib(scales, t) - 8) * V2[x][q] */
    uint16_t d, extra;
    uint8_t scales[8];
    uint8_t qs[64];      /* planes */
};
struct block_iq3_k {     /* w = d*(+-(2*nib(scales_l, t) + 1)) * V3[x][q] */
    uint16_t d, extra;
    uint16_t scales_h;   /* bit t: the scale is negative */
    uint8_t scales_l[8];
    uint8_t qs[64];      /* planes */
    uint8_t qh[32];      /* third bit */
};
struct block_iq4_k {     /* w = d*(ls_t - 32) * V4[x][nibble] */
    uint16_t d, extra;
    uint8_t scales_h[4]; /* bits 4-5 of ls_t: bits 2(t%4) of byte t/4 */
    uint8_t scales_l[8]; /* bits 0-3: nib(scales_l, t) */
    uint8_t qs[128];     /* halves */
};
struct block_iq5_k {     /* w = d*(ls_t - 32) * V5[x][q] */
    uint16_t d, extra;
    uint8_t scales_h[4]; /* as iq4_k */
    uint8_t scales_l[8];
    uint8_t qs[128];     /* pairs */
    uint8_t qh[32];      /* fifth bit */
};
struct block_iq6_k {     /* w = d*scales[t] * V6[x][q] */
    uint16_t d, extra;
    int8_t scales[16];
    uint8_t qs[128];     /* pairs */
    uint8_t qh[64];      /* bits 4-5: planes */
};

/* Each row starts with a scale D, binary32 or binary16 by the bytes the type has in front of a row; w = D*ls_g * level. */
struct block_iq4_ks {    /* level V4[x][nibble] */
    uint8_t scales[8];   /* ls_g = (byte & 254) - 127, x = byte & 1 */
    uint8_t qs[128];     /* halves */
};
struct block_iq4_kss {   /* as iq4_ks, of which words 8g..8g+7 hold group g */
    uint16_t qs[64];     /* bit 0 of word r: bit r of its scale byte; with bit 0 cleared, w ^ w >> 1: its 16 bytes of qs */
};
struct block_iq5_ks {    /* level V5[x][q] */
    uint8_t scales[8];   /* as iq4_ks */
    uint8_t qs[128];     /* pairs */
    uint8_t qh[32];      /* fifth bit */
};
struct block_iq2_ks {    /* level V2[x][q] */
    uint16_t extra;      /* bit g: x; bit 8+g: bit 4 of ls_g + 16 */
    uint8_t scales[4];   /* bits 0-3: nib(scales, g) */
    uint8_t qs[64];      /* planes */
};
struct block_iq3_ks {    /* level V3[x][q] */
    uint16_t extra;      /* bit 8+g: x; bit g: bit 4 of ls_g + 16 */
    uint8_t scales[4];   /* bits 0-3: byte g%4, low nibble for g < 4 */
    uint8_t qs[64];      /* planes */
    uint8_t qh[32];      /* third bit */
};
struct block_iq2_kl {    /* levels KL[code][0], KL[code][1] of weights 32g+2r, 32g+2r+1 */
    uint16_t scales_h;   /* bits 4-5 of ls_g + 32: bits 2g */
    uint8_t scales_l[4]; /* bits 0-3: byte g%4, low nibble for g < 4 */
    uint8_t qs[64];      /* code of pair r of group g: byte 16(g/2)+r, low nibble for even g */
    uint8_t qh[16];      /* its fifth bit: bit g of byte r */
};

#ifdef __cplusplus
#define TENSOR_ASSERT static_assert
#else
#define TENSOR_ASSERT _Static_assert
#endif
TENSOR_ASSERT(sizeof(struct block_q4_0) == 18, "q4_0");
TENSOR_ASSERT(sizeof(struct block_q4_1) == 20, "q4_1");
TENSOR_ASSERT(sizeof(struct block_q5_0) == 22, "q5_0");
TENSOR_ASSERT(sizeof(struct block_q5_1) == 24, "q5_1");
TENSOR_ASSERT(sizeof(struct block_q6_0) == 26, "q6_0");
TENSOR_ASSERT(sizeof(struct block_q8_0) == 34, "q8_0");
TENSOR_ASSERT(sizeof(struct block_iq4_nl) == 18, "iq4_nl");
TENSOR_ASSERT(sizeof(struct block_mxfp4) == 17, "mxfp4");
TENSOR_ASSERT(sizeof(struct block_q2_k) == 84, "q2_k");
TENSOR_ASSERT(sizeof(struct block_q3_k) == 110, "q3_k");
TENSOR_ASSERT(sizeof(struct block_q4_k) == 144, "q4_k");
TENSOR_ASSERT(sizeof(struct block_q5_k) == 176, "q5_k");
TENSOR_ASSERT(sizeof(struct block_q6_k) == 210, "q6_k");
TENSOR_ASSERT(sizeof(struct block_iq2_xxs) == 66, "iq2_xxs");
TENSOR_ASSERT(sizeof(struct block_iq2_xs) == 74, "iq2_xs");
TENSOR_ASSERT(sizeof(struct block_iq2_s) == 82, "iq2_s");
TENSOR_ASSERT(sizeof(struct block_iq3_xxs) == 98, "iq3_xxs");
TENSOR_ASSERT(sizeof(struct block_iq3_s) == 110, "iq3_s");
TENSOR_ASSERT(sizeof(struct block_iq1_s) == 50, "iq1_s");
TENSOR_ASSERT(sizeof(struct block_iq1_m) == 56, "iq1_m");
TENSOR_ASSERT(sizeof(struct block_iq4_xs) == 136, "iq4_xs");
TENSOR_ASSERT(sizeof(struct block_iq2_k) == 76, "iq2_k");
TENSOR_ASSERT(sizeof(struct block_iq3_k) == 110, "iq3_k");
TENSOR_ASSERT(sizeof(struct block_iq4_k) == 144, "iq4_k");
TENSOR_ASSERT(sizeof(struct block_iq5_k) == 176, "iq5_k");
TENSOR_ASSERT(sizeof(struct block_iq6_k) == 212, "iq6_k");
TENSOR_ASSERT(sizeof(struct block_iq4_ks) == 136, "iq4_ks");
TENSOR_ASSERT(sizeof(struct block_iq4_kss) == 128, "iq4_kss");
TENSOR_ASSERT(sizeof(struct block_iq5_ks) == 168, "iq5_ks");
TENSOR_ASSERT(sizeof(struct block_iq2_ks) == 70, "iq2_ks");
TENSOR_ASSERT(sizeof(struct block_iq3_ks) == 102, "iq3_ks");
TENSOR_ASSERT(sizeof(struct block_iq2_kl) == 86, "iq2_kl");

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
