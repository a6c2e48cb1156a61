/* How weights lie in device memory: the one description that repack.cu writes by and the kernels read by. Plain C and device code.
 *
 * A matrix is `rows` rows of k weights; blocks are counted through the whole matrix: block b of a row-major matrix is block
 * b % (k / weights) of row b / (k / weights), and B = rows * k / weights of them make the matrix. Its address is a multiple of 256.
 *
 * Two kinds:
 *   file layout    F32, F16, BF16, Q4_K (144 = 9*16 bytes a block), Q5_K and IQ5_K (176 = 11*16), IQ4_K (144): the file's bytes;
 *                  16-byte loads are legal at every block.
 *   planes         all others. Each field of the block has a plane, and the planes follow each other. A plane that stands behind
 *                  `at` bytes of other fields (of one block) starts at B * at; block b has its `bytes` bytes of the field at
 *                  B * at + b * bytes. Behind the last plane stand the rows' scales, of the types that have some, row by row.
 *                  Together exactly the file's bytes. Fields of 16 bytes and more come first, and every plane of theirs starts
 *                  16-aligned; a smaller field is as aligned as its size.
 *
 * Inside a field stands the file's order of bytes, but for signs, whose bits are moved inside each word of 32 weights (eight units
 * u, or quads q, of lanes l), so that a shift brings a unit's or a quad's signs to where they are wanted:
 *   SIGNS_OF_UNITS   of unit u = 0..3 lane l = 0..7: bit 4l + u
 *   SIGNS_OF_QUADS   of quad q = 0..7 lane l = 0..3: bit 8l + 7 - q
 *
 * EXL3 has tiles in place of blocks, and factors: see gpu_trellis_label below.
 *
 * A type to come is a row of GPU_LAYOUTS and one of a family below, with planes by falling size. */
#ifndef COLDSTREAM_GPU_LAYOUT_H
#define COLDSTREAM_GPU_LAYOUT_H

#include "core/tensor.h"

#ifdef __CUDACC__
#define GPU_BOTH __host__ __device__ /* host and device function */
#else
#define GPU_BOTH
#endif

enum { GPU_ALIGN = 256, GPU_MAX_PLANES = 5 };

/* Where planes start, in bytes times B, of the types that kernels read by name. */
enum { GPU_Q6_K_QL = 0, GPU_Q6_K_QH = 128, GPU_Q6_K_SCALES = 192, GPU_Q6_K_D = 208 };
enum { GPU_Q8_0_QS = 0, GPU_Q8_0_D = 32 };
enum { GPU_Q4_0_QS = 0, GPU_Q4_0_D = 16 };

enum gpu_order { FILE_ORDER, SIGNS_OF_UNITS, SIGNS_OF_QUADS };

struct gpu_plane {
    uint16_t file; /* where the field stands in the file's block */
    uint16_t bytes; /* a power of two */
    uint16_t order; /* enum gpu_order */
};
struct gpu_layout {
    uint32_t n_planes; /* 0: file layout */
    struct gpu_plane planes[GPU_MAX_PLANES];
};

/* X(enum suffix, struct gpu_layout; its commas make it variadic): every type the device has kernels for. */
#define GPU_LAYOUTS(X)                                                                           \
    X(F32, {0, {}})                                                                              \
    X(F16, {0, {}})                                                                              \
    X(BF16, {0, {}})                                                                             \
    X(Q4_K, {0, {}})                                                                             \
    X(Q5_K, {0, {}})                                                                             \
    X(Q6_K, {4, {{0, 128}, {128, 64}, {192, 16}, {208, 2}}})                                     \
    X(Q8_0, {2, {{2, 32}, {0, 2}}})                                                              \
    X(Q4_0, {2, {{2, 16}, {0, 2}}})                                                              \
    GPU_CODED_LAYOUTS(X)

/* Those whose unpacking is in codes.cuh. */
#define GPU_CODED_LAYOUTS(X)                                                                     \
    X(IQ2_S, {5, {{2, 32}, {34, 32, SIGNS_OF_UNITS}, {66, 8}, {74, 8}, {0, 2}}})                 \
    X(IQ3_S, {5, {{2, 64}, {74, 32, SIGNS_OF_QUADS}, {66, 8}, {106, 4}, {0, 2}}})                \
    X(IQ4_K, {0, {}})                                                                            \
    X(IQ4_XS, {2, {{8, 128}, {0, 8}}})                                                           \
    X(IQ4_NL, {2, {{2, 16}, {0, 2}}})                                                            \
    X(IQ4_KS, {2, {{8, 128}, {0, 8}}})                                                           \
    X(IQ4_KSS, {1, {{0, 128}}})                                                                  \
    X(MXFP4, {2, {{1, 16}, {0, 1}}})                                                             \
    X(IQ5_K, {0, {}})                                                                            \
    X(IQ6_K, {4, {{20, 128}, {148, 64}, {4, 16}, {0, 4}}})                                       \
    X(IQ5_KS, {3, {{8, 128}, {136, 32}, {0, 8}}})                                                \
    X(Q2_K, {3, {{16, 64}, {0, 16}, {80, 4}}})                                                   \
    X(Q3_K, {5, {{32, 64}, {0, 32}, {96, 8}, {104, 4}, {108, 2}}})                               \
    X(IQ2_K, {3, {{12, 64}, {4, 8}, {0, 4}}})                                                    \
    X(IQ3_K, {5, {{14, 64}, {78, 32}, {6, 8}, {0, 4}, {4, 2}}})                                  \
    X(IQ2_KS, {3, {{6, 64}, {2, 4}, {0, 2}}})                                                    \
    X(IQ3_KS, {4, {{6, 64}, {70, 32}, {2, 4}, {0, 2}}})                                          \
    X(Q4_1, {2, {{4, 16}, {0, 4}}})                                                              \
    X(Q5_0, {3, {{6, 16}, {2, 4}, {0, 2}}})                                                      \
    X(Q5_1, {2, {{8, 16}, {0, 8}}})                                                              \
    X(Q6_0, {3, {{10, 16}, {2, 8}, {0, 2}}})                                                     \
    X(IQ2_XXS, {2, {{2, 64}, {0, 2}}})                                                           \
    X(IQ2_XS, {3, {{2, 64}, {66, 8}, {0, 2}}})                                                   \
    X(IQ3_XXS, {3, {{2, 64}, {66, 32}, {0, 2}}})                                                 \
    X(IQ1_S, {3, {{2, 32}, {34, 16}, {0, 2}}})                                                   \
    X(IQ1_M, {3, {{0, 32}, {32, 16}, {48, 8}}})                                                  \
    X(IQ2_KL, {4, {{6, 64}, {70, 16}, {2, 4}, {0, 2}}})

/* Types that share kernels, which ask at run time for the type (X(enum suffix)): a kernel a type would be five hundred more. Each
 * of the rest has kernels of its own. */
#define GPU_TYPES_GRID2(X) X(IQ2_S)
#define GPU_TYPES_GRID3(X) X(IQ3_S)
#define GPU_TYPES_HALVES(X) X(IQ4_K) X(IQ4_XS) X(IQ4_NL) X(IQ4_KS) X(IQ4_KSS) X(MXFP4)
#define GPU_TYPES_PAIRS(X) X(IQ5_K) X(IQ6_K) X(IQ5_KS)
#define GPU_TYPES_PLANES(X) X(Q2_K) X(Q3_K) X(IQ2_K) X(IQ3_K) X(IQ2_KS) X(IQ3_KS)
#define GPU_TYPES_BLOCKS(X) X(Q4_1) X(Q5_0) X(Q5_1) X(Q6_0)
#define GPU_TYPES_GRIDS(X) X(IQ2_XXS) X(IQ2_XS) X(IQ3_XXS) X(IQ1_S) X(IQ1_M) X(IQ2_KL)

/* EXL3 (core/tensor.h), whose kernels are in trellis.cu and trellis_tiles.cu. */
#define GPU_TRELLIS_TYPES(X) X(EXL3_1) X(EXL3_2) X(EXL3_3) X(EXL3_4) X(EXL3_5) X(EXL3_6) X(EXL3_7) X(EXL3_8)

/* X(FAMILY, its list), and their numbers, none of which is a type's. */
#define GPU_FAMILIES(X)                                                                                               \
    X(GRID2, GPU_TYPES_GRID2) X(GRID3, GPU_TYPES_GRID3) X(HALVES, GPU_TYPES_HALVES) X(PAIRS, GPU_TYPES_PAIRS)         \
    X(PLANES, GPU_TYPES_PLANES) X(BLOCKS, GPU_TYPES_BLOCKS) X(GRIDS, GPU_TYPES_GRIDS)
enum gpu_family {
    FAMILY_NONE = 1000, /* kernels of the type's own */
#define GPU_FAMILY_NUMBER(name, list) FAMILY_##name,
    GPU_FAMILIES(GPU_FAMILY_NUMBER)
#undef GPU_FAMILY_NUMBER
    FAMILIES_END,
    FAMILY_TRELLIS = FAMILIES_END
};

static inline enum gpu_family gpu_family_of(enum tensor_type type) {
    switch (type) {
#define GPU_CASE_GRID2(suffix) case TYPE_##suffix: return FAMILY_GRID2;
#define GPU_CASE_GRID3(suffix) case TYPE_##suffix: return FAMILY_GRID3;
#define GPU_CASE_HALVES(suffix) case TYPE_##suffix: return FAMILY_HALVES;
#define GPU_CASE_PAIRS(suffix) case TYPE_##suffix: return FAMILY_PAIRS;
#define GPU_CASE_PLANES(suffix) case TYPE_##suffix: return FAMILY_PLANES;
#define GPU_CASE_BLOCKS(suffix) case TYPE_##suffix: return FAMILY_BLOCKS;
#define GPU_CASE_GRIDS(suffix) case TYPE_##suffix: return FAMILY_GRIDS;
#define GPU_FAMILY_CASES(name, list) list(GPU_CASE_##name)
        GPU_FAMILIES(GPU_FAMILY_CASES)
#undef GPU_FAMILY_CASES
#define GPU_CASE_TRELLIS(suffix) case TYPE_##suffix: return FAMILY_TRELLIS;
        GPU_TRELLIS_TYPES(GPU_CASE_TRELLIS)
#undef GPU_CASE_TRELLIS
    default: return FAMILY_NONE;
    }
}

/* Bytes a block of what stands first in a coded type's matrix: its codes, or with the file's layout all. */
static inline GPU_BOTH uint32_t gpu_first_field_bytes(int type) {
    switch (type) {
    case TYPE_IQ4_K: return sizeof(struct block_iq4_k);
    case TYPE_IQ5_K: return sizeof(struct block_iq5_k);
    case TYPE_IQ4_XS:
    case TYPE_IQ4_KS:
    case TYPE_IQ4_KSS:
    case TYPE_IQ6_K:
    case TYPE_IQ5_KS: return 128;
    case TYPE_IQ2_S:
    case TYPE_IQ1_S:
    case TYPE_IQ1_M: return 32;
    case TYPE_IQ4_NL:
    case TYPE_MXFP4:
    case TYPE_Q4_1:
    case TYPE_Q5_0:
    case TYPE_Q5_1:
    case TYPE_Q6_0: return 16;
    default: return 64;
    }
}

/* ---- EXL3 ------------------------------------------------------------------------------------------------------- */

/* A matrix of `rows` outputs and k inputs, multiples of 128:
 *
 *     tiles       the file's bytes, in a room for the bits of the type
 *     in_scale    [k] binary16
 *     out_scale   [rows] binary16
 *     label       struct gpu_trellis_label: matrices of a stack may have fewer bits than their type says */
enum { GPU_TRELLIS_BLOCK = 128 /* values that a transform mixes */ };
struct gpu_trellis_label {
    uint32_t bits, codebook; /* enum exl3_codebook */
};

static inline GPU_BOTH bool gpu_is_trellis(int type) { return type >= TYPE_EXL3_1 && type <= TYPE_EXL3_8; }
static inline GPU_BOTH uint64_t gpu_trellis_in_scale(int type, uint64_t rows, uint64_t k) {
    return rows * k / 8 * (uint64_t)(type - TYPE_EXL3_1 + 1);
}
static inline GPU_BOTH uint64_t gpu_trellis_out_scale(int type, uint64_t rows, uint64_t k) {
    return gpu_trellis_in_scale(type, rows, k) + 2 * k;
}
static inline GPU_BOTH uint64_t gpu_trellis_label_at(int type, uint64_t rows, uint64_t k) {
    return gpu_trellis_out_scale(type, rows, k) + 2 * rows;
}

/* The piece of block b of B in the plane at `at` whose fields have `bytes` bytes. */
static inline GPU_BOTH const uint8_t *gpu_field(const void *matrix, uint64_t n_blocks, uint32_t at, uint64_t b, uint32_t bytes) {
    return (const uint8_t *)matrix + n_blocks * at + b * bytes;
}

#endif
