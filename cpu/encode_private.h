/* Between encode.c and the files that encode: encode_<family>.c, one function a type. Nobody else includes this but tests.
 *
 * encode.c cleans: what a function sees is finite, of sane size, with an importance for every weight, so that sums of squares
 * in binary32 neither overflow nor vanish. Functions touch their arguments only and may run in any number of threads. */
#ifndef COLDSTREAM_ENCODE_PRIVATE_H
#define COLDSTREAM_ENCODE_PRIVATE_H

#include "core/core.h"
#include "core/tensor.h"
#include "cpu/cpu.h"
#include "cpu/encode.h"

enum { ENCODE_PIECE = 2048 /* the most weights a function gets at once; a multiple of every block */ };

#define ENCODE_LARGEST 0x1p40f /* weights are clamped to this; no binary16 scale reaches it */
#define ENCODE_LEAST_IMPORTANCE 1e-6f

/* x[k] -> blocks. k is a multiple of the block, at most ENCODE_PIECE. x finite, |x| <= ENCODE_LARGEST. importance[k]: mean
 * about 1 over each 256 weights (the last ones of a piece may be fewer), none below ENCODE_LEAST_IMPORTANCE; all 1 when the
 * caller gave none. Every byte is written, and no scale that is an infinity or a NaN. */
typedef void encode_fn(const float *x, const float *importance, size_t k, void *blocks);

/* As above for types with a scale per row: the whole row as encode_row() got it; such a function cleans by encode_clean(). */
typedef void encode_row_fn(const float *weights, const float *importance, size_t k, void *row);

struct encoder { /* one of the two is set, or none: no encoder */
    encode_fn *blocks;
    encode_row_fn *row;
};

/* One family each; {NULL, NULL} for types of other families. `isa` only makes them faster: the bytes are the same. */
struct encoder encode_find_levels_ref(enum tensor_type type);
struct encoder encode_find_levels_avx2(enum tensor_type type);
struct encoder encode_find_codebook(enum tensor_type type, enum cpu_isa isa);

/* n <= 256 weights, each multiplied by `factor`, and their importances (or NULL) into what functions see. */
void encode_clean(const float *weights, const float *importance, size_t n, float factor, float *x, float *w);

/* Nearest binary16 that is finite. */
static inline uint16_t encode_f16(float x) {
    const uint16_t h = f32_to_f16(x);
    return (h & 0x7c00) == 0x7c00 ? (uint16_t)((h & 0x8000) | 0x7bff) : h;
}

#endif
