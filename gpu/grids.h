/* The constant tables that kernels of the codebook types read (core/codebooks.h), packed as codes.cuh wants them: one run of words
 * that gpu_grids_pack() fills and a network has on its device. Plain C and device code. */
#ifndef COLDSTREAM_GPU_GRIDS_H
#define COLDSTREAM_GPU_GRIDS_H

#include "gpu/layout.h"

/* Words of each grid: IQ1 and IQ2 a selector for eight lanes, a nibble each; IQ3 four bytes; KL two levels. */
enum {
    GPU_GRID_IQ2_S_WORDS = 1024,
    GPU_GRID_IQ3_S_WORDS = 512,
    GPU_GRID_IQ2_XXS_WORDS = 256,
    GPU_GRID_IQ2_XS_WORDS = 512,
    GPU_GRID_IQ3_XXS_WORDS = 256,
    GPU_GRID_IQ1_WORDS = 2048,
    GPU_GRID_KL_WORDS = 32
};
enum {
    GPU_GRID_IQ2_S = 0,
    GPU_GRID_IQ3_S = GPU_GRID_IQ2_S + GPU_GRID_IQ2_S_WORDS,
    GPU_GRID_IQ2_XXS = GPU_GRID_IQ3_S + GPU_GRID_IQ3_S_WORDS,
    GPU_GRID_IQ2_XS = GPU_GRID_IQ2_XXS + GPU_GRID_IQ2_XXS_WORDS,
    GPU_GRID_IQ3_XXS = GPU_GRID_IQ2_XS + GPU_GRID_IQ2_XS_WORDS,
    GPU_GRID_IQ1 = GPU_GRID_IQ3_XXS + GPU_GRID_IQ3_XXS_WORDS,
    GPU_GRID_KL = GPU_GRID_IQ1 + GPU_GRID_IQ1_WORDS,
    GPU_LEVELS = GPU_GRID_KL + GPU_GRID_KL_WORDS /* int8, for embedding rows */
};
enum { GPU_LEVELS_V2 = 0, GPU_LEVELS_V3 = 4, GPU_LEVELS_V4 = 12, GPU_LEVELS_V5 = 28, GPU_LEVELS_V6 = 60, GPU_LEVELS_MXFP4 = 124, GPU_LEVELS_BYTES = 140 };
enum { GPU_TABLE_WORDS = GPU_LEVELS + GPU_LEVELS_BYTES / 4 };

struct gpu_grid {
    uint32_t at, words;
};
static inline GPU_BOTH struct gpu_grid gpu_grid_of(int type) {
    struct gpu_grid g = {0, 0};
    switch (type) {
    case TYPE_IQ2_S: g.at = GPU_GRID_IQ2_S, g.words = GPU_GRID_IQ2_S_WORDS; break;
    case TYPE_IQ3_S: g.at = GPU_GRID_IQ3_S, g.words = GPU_GRID_IQ3_S_WORDS; break;
    case TYPE_IQ2_XXS: g.at = GPU_GRID_IQ2_XXS, g.words = GPU_GRID_IQ2_XXS_WORDS; break;
    case TYPE_IQ2_XS: g.at = GPU_GRID_IQ2_XS, g.words = GPU_GRID_IQ2_XS_WORDS; break;
    case TYPE_IQ3_XXS: g.at = GPU_GRID_IQ3_XXS, g.words = GPU_GRID_IQ3_XXS_WORDS; break;
    case TYPE_IQ1_S:
    case TYPE_IQ1_M: g.at = GPU_GRID_IQ1, g.words = GPU_GRID_IQ1_WORDS; break;
    case TYPE_IQ2_KL: g.at = GPU_GRID_KL, g.words = GPU_GRID_KL_WORDS; break;
    default: break;
    }
    return g;
}

#endif
