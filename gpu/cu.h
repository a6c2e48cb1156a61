/* The one header a kernel file includes (ptx.h comes with it). Compiled by nvcc it is CUDA; compiled by a host compiler it is the
 * emulator of tests/cuda_host, which runs the same sources on the CPU, one fiber a thread.
 *
 * Rules for kernels, which the emulator and the compile check hold to:
 *  1. Inline PTX only in ptx.h; launches only by LAUNCH; shared memory only by SHARED and DYN_SHARED; nothing of std:: in device code.
 *  2. Masks are explicit and all lanes of a mask meet at one source line; a block is a multiple of 32 threads.
 *  3. A shuffle or a vote is no fence: __syncwarp() between a store to shared memory and another lane's load.
 *  4. No thread leaves before a block barrier; in kernels without barriers whole warps may leave.
 *  5. 16-byte accesses by ld128, ldf4 and their like; no struct copies (a compiler makes them memcpy, which nothing checks).
 *  6. Blocks hand over only by grid_last or acquire and release; waiting only in spin_wait; no grid barrier, no spinning on a block.
 *  7. Reductions by warp_sum, warp_max, warp_argmax. No float atomics: sums must not depend on the order of blocks.
 *  8. A host loop that waits for the device without a synchronising call asks cudaStreamQuery now and then. */
#ifndef COLDSTREAM_CU_H
#define COLDSTREAM_CU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* SHARED(type, name, count): static shared memory of the block, 16-byte aligned, `name` is an array. */
#define SHARED(T, name, ...) __shared__ __align__(16) T name[__VA_ARGS__]
/* DYN_SHARED(type, name): `name` points at the launch's dynamic shared memory, 128-byte aligned. */
#define DYN_SHARED(T, name)                                      \
    extern __shared__ __align__(128) unsigned char cu_dynamic[]; \
    T *const name = reinterpret_cast<T *>(cu_dynamic)
/* LAUNCH(kernel, grid, block, shared bytes, stream, arguments...), a statement; a template with commas goes in parentheses:
 * LAUNCH((gemv<4, 2>), ...). Errors are cudaGetLastError()'s. */
#define LAUNCH(kernel, grid, block, smem, stream, ...) (kernel)<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)

/* As LAUNCH, but the kernel may start while the one before it in the stream drains; it must call pdl_wait() before it reads
 * what that one wrote. Only for devices of compute capability 9.0 and up. */
#define LAUNCH_PDL(kernel, grid, block, smem, stream, ...) cu_launch_pdl((kernel), (grid), (block), (smem), (stream), ##__VA_ARGS__)

template <class... Param, class... Arg>
inline void cu_launch_pdl(void (*kernel)(Param...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream, Arg... args) {
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = smem, config.stream = stream;
    config.attrs = &early, config.numAttrs = 1;
    (void)cudaLaunchKernelEx(&config, kernel, static_cast<Param>(args)...); // the error stays for cudaGetLastError()
}

#else
#include "tests/cuda_host/cuda_host.h"
#endif

#include "gpu/ptx.h"

#endif
