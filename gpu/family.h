/* The kernels of families of types (gpu/layout.h) as functions that launch them, a table each: what files that launch know of the
 * files that compile them. Inside the GPU room, C++. */
#ifndef COLDSTREAM_GPU_FAMILY_H
#define COLDSTREAM_GPU_FAMILY_H

#include "gpu/layout.h"
#include "gpu/network.h"

struct qkv_args;
struct output_args;
struct head_args;
struct gate_up_args;
struct down_args;
struct route_args;
struct tile_call;
struct tile_device;
struct exact_call;

struct gpu_family_kernels {
    /* A step's. `tokens`: 1, 2, 4 or 8. Bytes `shared` are for all of them, `each` for one. */
    void (*qkv)(const qkv_args &a, uint32_t tokens, uint32_t blocks, uint32_t shared, cudaStream_t stream);
    void (*output)(const output_args &a, uint32_t tokens, cudaStream_t stream);
    void (*head)(const head_args &a, uint32_t tokens, uint32_t blocks, uint32_t shared, cudaStream_t stream);
    void (*route)(const route_args &a, uint32_t each, cudaStream_t stream);
    void (*gate_up)(const gate_up_args &a, uint32_t tokens, uint32_t blocks, cudaStream_t stream);
    void (*down)(const down_args &a, uint32_t tokens, uint32_t blocks, uint32_t threads, cudaStream_t stream);
    /* A prompt's. */
    void (*tiles)(struct gpu *g, const tile_device &d, const tile_call &c, uint64_t pairs, cudaStream_t stream);
    void (*exact)(const exact_call &c, dim3 grid, cudaStream_t stream);
};

#define GPU_FAMILY_KERNELS_DECLARED(name, list) extern const struct gpu_family_kernels gpu_family_##name;
GPU_FAMILIES(GPU_FAMILY_KERNELS_DECLARED)

static inline const struct gpu_family_kernels &gpu_family_kernels_of(enum tensor_type type) {
    switch (gpu_family_of(type)) {
#define GPU_FAMILY_KERNELS_CASE(name, list) \
    case FAMILY_##name: return gpu_family_##name;
        GPU_FAMILIES(GPU_FAMILY_KERNELS_CASE)
    default: __builtin_trap(); /* a type with kernels of its own */
    }
}

#endif
