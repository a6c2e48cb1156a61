/* Middle values of repeated measurements. */
#ifndef COLDSTREAM_BENCH_MEDIAN_H
#define COLDSTREAM_BENCH_MEDIAN_H

#include <stddef.h>
#include <stdlib.h>

static inline int median_order(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline void sort_values(double *values, size_t n) { qsort(values, n, sizeof *values, median_order); }

/* Sorts them; the upper of two middle ones. At least one. */
static inline double median_of(double *values, size_t n) {
    sort_values(values, n);
    return values[n / 2];
}

#endif
