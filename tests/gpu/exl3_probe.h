/* Tiles of EXL3 as the kernels of steps and of prompts decode them, for tests. Plain C. */
#ifndef COLDSTREAM_TESTS_EXL3_PROBE_H
#define COLDSTREAM_TESTS_EXL3_PROBE_H

#include "gpu/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `tiles` of them, 32 * bits bytes each, to binary16 [tile][16 inputs][16 outputs]; in GPU_COMPUTE's order. */
void exl3_probe_decode(struct gpu *g, gpu_ptr from, uint32_t tiles, uint32_t bits, enum exl3_codebook codebook, bool as_prompts,
                       gpu_ptr to);

#ifdef __cplusplus
}
#endif

#endif
