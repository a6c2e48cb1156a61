/* Entries of a codebook as lines: the part of the search for codes that touches every entry, and so has vector forms.
 *
 * A unit is the 4 or 8 weights that one entry stands for. With x = |weight|, w its importance and c the entry's magnitudes, the
 * error under scale s is
 *     sum w (x - s c)^2  =  sum w x^2 + s (s P - Q),   P = sum w c^2,   Q = 2 sum w x c.
 * P and Q do not depend on s: for all scales at once, the best entry is the lower envelope of the lines s P - Q.
 *
 * Private to encode_codebook.c. All forms give the same bits: sums run over the lanes in order, without fused multiply-adds,
 * and of equal entries the first is taken. */
#ifndef COLDSTREAM_ENCODE_LINES_H
#define COLDSTREAM_ENCODE_LINES_H

#include <stdbool.h>
#include <stdint.h>

enum {
    LINES_MOST = 1024, /* entries of a codebook */
    LINES_LANES = 8,   /* weights of a unit, at most */
    LINES_STRIPE = 16, /* entries whose lanes lie together */
    LINES_SCALES = 6,  /* scales asked about at once */
};

struct lines_codebook {
    uint32_t entries;                       /* a multiple of LINES_STRIPE */
    uint32_t lanes;                         /* 4 or 8 */
    float levels[LINES_MOST * LINES_LANES]; /* [entries / LINES_STRIPE][lanes][LINES_STRIPE] */
};

struct lines {
    float p[LINES_MOST], q[LINES_MOST];
    float odd[LINES_MOST]; /* Q when one sign has to be wrong: the lane that costs least */
};

struct lines_ops {
    /* weight[j] = w, product[j] = w x of the unit's lanes */
    void (*score)(const struct lines_codebook *book, const float *weight, const float *product, struct lines *out);
    /* The entry of the lowest line at each scale. */
    void (*lowest)(const float *p, const float *q, uint32_t n, const float *scales, uint32_t *entries);
    /* Entries that are below limits[i] at scales[i] for any i, ascending; their number. */
    uint32_t (*below)(const float *p, const float *q, uint32_t n, const float *scales, const float *limits, uint32_t n_scales,
                      uint16_t *entries);
};

extern const struct lines_ops lines_ops_ref, lines_ops_avx2;

#endif
