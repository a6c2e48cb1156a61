/* The constant tables of the codebook and value-table weight formats: what a code of a block stands for.
 *
 * Plain constant data for whoever decodes, multiplies or quantizes: the CPU kernels read it in place, the GPU uploads it. How a
 * block packs its codes is core/tensor.h's. Owns no functions. */
#ifndef COLDSTREAM_CODEBOOKS_H
#define COLDSTREAM_CODEBOOKS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Grids: the entry's lane l, its byte l counted from the least significant, belongs to weight l of the unit. */
extern const uint64_t codebook_iq2xxs[256]; /* magnitudes 8, 25, 43 */
extern const uint64_t codebook_iq2xs[512];
extern const uint64_t codebook_iq2s[1024];
extern const uint64_t codebook_iq1s[2048];  /* of IQ1_S and IQ1_M: int8 -1, 0, 1 */
extern const uint32_t codebook_iq3xxs[256]; /* magnitudes 4 12 20 28 36 44 52 62 */
extern const uint32_t codebook_iq3s[512];   /* magnitudes 1 3 .. 15 */

/* Sign byte of a 7-bit code (IQ2_XXS, IQ2_XS, IQ3_XXS): bit l set, lane l is negative; an even number of bits is set. */
extern const uint8_t codebook_signs[128];

/* Levels by code: [0] the normal row, [1] the row moved up that a group's "extra" bit selects. */
extern const int8_t codebook_v2[2][4];  /* IQ2_K, IQ2_KS */
extern const int8_t codebook_v3[2][8];  /* IQ3_K, IQ3_KS */
extern const int8_t codebook_v4[2][16]; /* IQ4_K, IQ4_KS, IQ4_KSS; row 0 also IQ4_NL and IQ4_XS */
extern const int8_t codebook_v5[2][32]; /* IQ5_K, IQ5_KS */
extern const int8_t codebook_v6[2][64]; /* IQ6_K */

extern const int8_t codebook_kl[32][2];   /* IQ2_KL: a code is two neighbouring weights */
extern const int8_t codebook_mxfp4[16];   /* MXFP4: twice the E2M1 value */

#ifdef __cplusplus
}
#endif
#endif
