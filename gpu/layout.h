/* How weights lie in device memory: the one description that repack.cu writes by and the kernels read by. Plain C and device code.
 *
 * A matrix is `rows` rows of k weights; blocks are counted through the whole matrix: block b of a row-major matrix is block
 * b % (k / weights) of row b / (k / weights), and B = rows * k / weights of them make the matrix. Its address is a multiple of 256.
 *
 * Two kinds:
 *   file layout    F32, F16, BF16, Q4_K (144 = 9*16 bytes a block), Q5_K (176 = 11*16): the file's bytes; 16-byte loads are
 *                  legal at every block.
 *   planes         types whose blocks are aligned to 2 bytes only. Each field of the block has a plane, and the planes follow each
 *                  other. A plane that stands behind `at` bytes of other fields (of one block) starts at B * at; block b has
 *                  its `bytes` bytes of the field at B * at + b * bytes. Inside a field the file's order. Together exactly the
 *                  file's bytes.
 *       Q6_K       ql 128 | qh 64 | scales 16 | d 2
 *       Q8_0       qs 32 | d 2
 *       Q4_0       qs 16 | d 2
 *                  Every plane starts 16-aligned, and every ql, qh, scales, qs of a block is 16-aligned. d is 2-aligned.
 *
 * A type to come is a row of GPU_LAYOUTS, with planes by falling size, 16-byte multiples first. */
#ifndef COLDSTREAM_GPU_LAYOUT_H
#define COLDSTREAM_GPU_LAYOUT_H

#include "core/tensor.h"

#ifdef __CUDACC__
#define GPU_BOTH __host__ __device__ /* host and device function */
#else
#define GPU_BOTH
#endif

enum { GPU_ALIGN = 256, GPU_MAX_PLANES = 4 };

/* Where each plane starts, in bytes times B. */
enum { GPU_Q6_K_QL = 0, GPU_Q6_K_QH = 128, GPU_Q6_K_SCALES = 192, GPU_Q6_K_D = 208 };
enum { GPU_Q8_0_QS = 0, GPU_Q8_0_D = 32 };
enum { GPU_Q4_0_QS = 0, GPU_Q4_0_D = 16 };

struct gpu_plane {
    uint16_t file; /* where the field stands in the file's block */
    uint16_t bytes;
};
struct gpu_layout {
    uint32_t n_planes; /* 0: file layout */
    struct gpu_plane planes[GPU_MAX_PLANES];
};

/* X(enum suffix, struct gpu_layout; its commas make it variadic): every type the device has kernels for. */
#define GPU_LAYOUTS(X)                                      \
    X(F32, {0, {}})                                          \
    X(F16, {0, {}})                                          \
    X(BF16, {0, {}})                                         \
    X(Q4_K, {0, {}})                                         \
    X(Q5_K, {0, {}})                                         \
    X(Q6_K, {4, {{0, 128}, {128, 64}, {192, 16}, {208, 2}}}) \
    X(Q8_0, {2, {{2, 32}, {0, 2}}})                          \
    X(Q4_0, {2, {{2, 16}, {0, 2}}})

/* The piece of block b of B in the plane at `at` whose fields have `bytes` bytes. */
static inline GPU_BOTH const uint8_t *gpu_field(const void *matrix, uint64_t n_blocks, uint32_t at, uint64_t b, uint32_t bytes) {
    return (const uint8_t *)matrix + n_blocks * at + b * bytes;
}

#endif
