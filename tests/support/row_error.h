/* How far an encoded row is from what it was made of. */
#ifndef COLDSTREAM_TESTS_ROW_ERROR_H
#define COLDSTREAM_TESTS_ROW_ERROR_H

#include <stddef.h>

/* sum w (x - y)^2 / sum w x^2, or the sum above alone when x is nothing; `w` NULL: all 1 */
static inline double row_error(const float *x, const float *y, const float *w, size_t k) {
    double off = 0, all = 0;
    for (size_t i = 0; i < k; i++) {
        const double weight = w ? (double)w[i] : 1, d = (double)x[i] - (double)y[i];
        off += weight * d * d;
        all += weight * (double)x[i] * (double)x[i];
    }
    return all > 0 ? off / all : off;
}

#endif
