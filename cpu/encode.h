/* Writing weights: one row of floats into the blocks of a type. The inverse of cpu_type.dequant, for `quantize` and for tests.
 *
 * Pure functions of their arguments, any number of threads at once. Speed is minutes for a model, not microseconds for a row:
 * quality comes first. Levels and scales minimise the weighted squared error sum_c importance[c] (w[c] - decoded[c])^2. */
#ifndef COLDSTREAM_ENCODE_H
#define COLDSTREAM_ENCODE_H

#include "core/core.h"
#include "core/tensor.h"
#include "cpu/cpu.h"

/* Is there an encoder for this type? */
bool encode_supports(enum tensor_type type);
/* Does it need an importance to be of any use (2 bits and below)? Without one every column counts the same. */
bool encode_wants_importance(enum tensor_type type);

/* k weights -> tensor_row_bytes(type, k) bytes at `row`. k must be what tensor_row_bytes() accepts. `importance`: [k], >= 0,
 * mean square of each input column, or NULL. Weights that are not finite count as zero; false when there were any. */
bool encode_row(enum tensor_type type, const float *weights, const float *importance, size_t k, void *row);
/* The same with the instruction set given, at most cpu_isa_best(): asking the machine takes longer than a short row. The bytes
 * do not depend on it. */
bool encode_row_with(enum cpu_isa isa, enum tensor_type type, const float *weights, const float *importance, size_t k, void *row);

#endif
