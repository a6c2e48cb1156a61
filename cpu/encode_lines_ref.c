/* See encode_lines.h: the form for any machine. */
#include "cpu/encode_lines.h"

static void score(const struct lines_codebook *book, const float *weight, const float *product, struct lines *out) {
    for (uint32_t e = 0; e < book->entries; e++) {
        const float *c = book->levels + e / LINES_STRIPE * LINES_STRIPE * book->lanes + e % LINES_STRIPE;
        float p = 0, q = 0, least = product[0] * c[0];
        for (uint32_t j = 0; j < book->lanes; j++, c += LINES_STRIPE) {
            const float term = product[j] * *c;
            q += term;
            least = term < least ? term : least;
            p += weight[j] * (*c * *c);
        }
        out->p[e] = p;
        out->q[e] = 2 * q;
        out->odd[e] = 2 * (q - 2 * least);
    }
}

static void lowest(const float *p, const float *q, uint32_t n, const float *scales, uint32_t *entries) {
    for (uint32_t i = 0; i < LINES_SCALES; i++) {
        const float s = scales[i];
        float best = s * p[0] - q[0];
        entries[i] = 0;
        for (uint32_t e = 1; e < n; e++) {
            const float value = s * p[e] - q[e];
            if (value < best) {
                best = value;
                entries[i] = e;
            }
        }
    }
}

static uint32_t below(const float *p, const float *q, uint32_t n, const float *scales, const float *limits, uint32_t n_scales,
                      uint16_t *entries) {
    uint32_t found = 0;
    for (uint32_t e = 0; e < n; e++) {
        bool any = false;
        for (uint32_t i = 0; i < n_scales; i++) any |= scales[i] * p[e] - q[e] < limits[i];
        if (any) entries[found++] = (uint16_t)e;
    }
    return found;
}

const struct lines_ops lines_ops_ref = {score, lowest, below};
