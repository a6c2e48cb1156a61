/* Pseudo-random numbers for test data, the same on every machine: xorshift64*. A state must not be 0. */
#ifndef COLDSTREAM_TESTS_SAMPLE_H
#define COLDSTREAM_TESTS_SAMPLE_H

#include <stdint.h>

static inline uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull;
}

static inline float uniform(uint64_t *s) { return (float)(int32_t)(next_random(s) >> 32) * 0x1p-31f; } /* -1 .. 1 */

#endif
