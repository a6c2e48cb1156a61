/* Between quantize.c, which decides, and quantize_run.c, which writes. */
#ifndef COLDSTREAM_QUANTIZE_PRIVATE_H
#define COLDSTREAM_QUANTIZE_PRIVATE_H

#include "cpu/cpu.h"
#include "engine/quantize.h"

struct quantize_error { /* sums over what was encoded to one type */
    uint64_t weights;
    double error, energy; /* importance (w - decoded)^2; importance w^2 */
};

struct quantize {
    struct quantize_options options;
    struct model *model;
    struct recipe *recipe;
    struct cpu_ops ops;
    struct quantize_tensor *tensors; /* [model->n_tensors] */
    uint64_t bytes;                  /* of all of them in the output */
    uint32_t n_parts;
    char **paths; /* [n_parts]; NULL in a dry run */
    struct quantize_error errors[TYPE_COUNT];
    uint64_t not_finite; /* rows */
};

static inline uint64_t quantize_matrices(const struct model_tensor *t) { return t->ne[2] * t->ne[3]; }

#endif
