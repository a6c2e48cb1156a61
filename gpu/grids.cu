/* The tables of gpu/grids.h from those of core/codebooks.h, on the host. */
#include <string.h>

#include "core/codebooks.h"
#include "gpu/network.h"

/* The eight lanes' places among the levels first, first + step, ... of which `levels` names three. */
static uint32_t selector(uint64_t lanes, const int8_t (&levels)[3]) {
    uint32_t word = 0;
    for (int l = 0; l < 8; l++)
        for (uint32_t code = 0; code < 3; code++)
            if ((int8_t)(lanes >> 8 * l & 255) == levels[code]) word |= code << 4 * l;
    return word;
}

static void pack_levels(int8_t *to) {
    memcpy(to + GPU_LEVELS_V2, codebook_v2[0], sizeof codebook_v2[0]);
    memcpy(to + GPU_LEVELS_V3, codebook_v3[0], sizeof codebook_v3[0]);
    memcpy(to + GPU_LEVELS_V4, codebook_v4[0], sizeof codebook_v4[0]);
    memcpy(to + GPU_LEVELS_V5, codebook_v5[0], sizeof codebook_v5[0]);
    memcpy(to + GPU_LEVELS_V6, codebook_v6[0], sizeof codebook_v6[0]);
    memcpy(to + GPU_LEVELS_MXFP4, codebook_mxfp4, sizeof codebook_mxfp4);
}

void gpu_grids_pack(uint32_t (&to)[GPU_TABLE_WORDS]) {
    static const int8_t magnitudes[3] = {8, 25, 43}, ternary[3] = {-1, 0, 1};
    for (int i = 0; i < GPU_GRID_IQ2_S_WORDS; i++) to[GPU_GRID_IQ2_S + i] = selector(codebook_iq2s[i], magnitudes);
    for (int i = 0; i < GPU_GRID_IQ2_XXS_WORDS; i++) to[GPU_GRID_IQ2_XXS + i] = selector(codebook_iq2xxs[i], magnitudes);
    for (int i = 0; i < GPU_GRID_IQ2_XS_WORDS; i++) to[GPU_GRID_IQ2_XS + i] = selector(codebook_iq2xs[i], magnitudes);
    for (int i = 0; i < GPU_GRID_IQ1_WORDS; i++) to[GPU_GRID_IQ1 + i] = selector(codebook_iq1s[i], ternary);
    for (int i = 0; i < GPU_GRID_IQ3_S_WORDS; i++) to[GPU_GRID_IQ3_S + i] = (codebook_iq3s[i] - 0x01010101u) >> 1; /* odd: no borrow */
    memcpy(to + GPU_GRID_IQ3_XXS, codebook_iq3xxs, sizeof codebook_iq3xxs);
    for (int i = 0; i < GPU_GRID_KL_WORDS; i++)
        to[GPU_GRID_KL + i] = (uint8_t)codebook_kl[i][0] | (uint32_t)(uint8_t)codebook_kl[i][1] << 8;
    pack_levels((int8_t *)(to + GPU_LEVELS));
}
