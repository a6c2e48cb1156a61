/* All kernels of one family of types, and the table of functions that launch them (family.h): GPU_FAMILY_KERNELS(name) in a file of its
 * own, so that families compile side by side. */
#ifndef COLDSTREAM_GPU_FAMILY_CUH
#define COLDSTREAM_GPU_FAMILY_CUH

#include "gpu/coded.cuh"
#include "gpu/dense.cuh"
#include "gpu/experts.cuh"
#include "gpu/family.h"
#include "gpu/matmul.cuh"
#include "gpu/route.cuh"

template <int FAMILY> struct family_launch {
    static void qkv(const qkv_args &a, uint32_t tokens, uint32_t blocks, uint32_t shared, cudaStream_t stream) {
#define CALL(T) LAUNCH((qkv_kernel<FAMILY, T>), blocks, BLOCK_THREADS, shared, stream, a)
        GPU_FOR_TOKENS(tokens, CALL)
#undef CALL
    }
    static void output(const output_args &a, uint32_t tokens, cudaStream_t stream) {
        const uint32_t rows = DENSE_ROWS / a.how.parts, blocks = (a.m.rows + rows - 1) / rows;
#define CALL(T) LAUNCH((output_kernel<FAMILY, T>), blocks, BLOCK_THREADS, 0, stream, a)
        GPU_FOR_TOKENS(tokens, CALL)
#undef CALL
    }
    static void head(const head_args &a, uint32_t tokens, uint32_t blocks, uint32_t shared, cudaStream_t stream) {
#define CALL(T) LAUNCH((head_kernel<FAMILY, T>), blocks, BLOCK_THREADS, shared, stream, a)
        GPU_FOR_TOKENS(tokens, CALL)
#undef CALL
    }
    /* Token by token: nobody quantizes routers, and their kernel takes any number of tokens. */
    static void route(const route_args &a, uint32_t each, cudaStream_t stream) {
        const uint32_t rows = ROUTER_ROWS / a.how.parts;
        LAUNCH((route_kernel<FAMILY, 1>), (a.m.rows + rows - 1) / rows, BLOCK_THREADS, each, stream, a);
    }
    static void gate_up(const gate_up_args &a, uint32_t tokens, uint32_t blocks, cudaStream_t stream) {
#define CALL(T) LAUNCH((gate_up_kernel<FAMILY, T>), blocks, BLOCK_THREADS, 0, stream, a)
        GPU_FOR_TOKENS(tokens, CALL)
#undef CALL
    }
    static void down(const down_args &a, uint32_t tokens, uint32_t blocks, uint32_t threads, cudaStream_t stream) {
#define CALL(T) LAUNCH((down_kernel<FAMILY, T>), blocks, threads, 0, stream, a)
        GPU_FOR_TOKENS(tokens, CALL)
#undef CALL
    }
    static void tiles(struct gpu *g, const tile_device &d, const tile_call &c, uint64_t pairs, cudaStream_t stream) {
        launch_type<FAMILY>(g, d, c, pairs, stream);
    }
    static void exact(const exact_call &c, dim3 grid, cudaStream_t stream) { LAUNCH(product_exact<FAMILY>, grid, TILE_THREADS, 0, stream, c); }
};

#define GPU_FAMILY_KERNELS(name)                                                                                   \
    typedef family_launch<FAMILY_##name> launch_##name;                                                            \
    const struct gpu_family_kernels gpu_family_##name = {launch_##name::qkv,     launch_##name::output, launch_##name::head,  \
                                                         launch_##name::route,   launch_##name::gate_up, launch_##name::down, \
                                                         launch_##name::tiles,   launch_##name::exact};

#endif
