/* Random weights of a given standard deviation and mean zero, made directly as blocks of a tensor type: no quantizer runs, so
 * that an 18 GB file takes seconds of CPU time. The same seed gives the same bytes on every machine. */
#ifndef COLDSTREAM_TESTS_SYNTH_BLOCKS_H
#define COLDSTREAM_TESTS_SYNTH_BLOCKS_H

#include "core/core.h"
#include "core/tensor.h"

struct synth_random {
    uint64_t state;
};

struct synth_random synth_random_of(uint64_t seed, struct span name); /* one stream per name */
uint64_t synth_random_bits(struct synth_random *r);
float synth_random_normal(struct synth_random *r); /* mean 0, deviation 1, bounded by about 3.5 */

bool synth_rows_known(enum tensor_type type); /* types that can be filled */
/* Fill `rows` rows of k weights, whole blocks, at `out`, any alignment. */
void synth_rows_fill(enum tensor_type type, struct synth_random *r, float deviation, uint64_t k, void *out, uint64_t rows);

#endif
