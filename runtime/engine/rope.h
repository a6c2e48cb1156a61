/* Positions: how fast each pair of a head turns, and cos and sin of one position.
 *
 * Everything is double until the results are stored: an angle of a million positions has 20 bits in front of the point, so that a
 * binary32 product of position and frequency would be off by 2^-4 radians, and a binary32 frequency alone by as much. Owns nothing. */
#ifndef COLDSTREAM_ENGINE_ROPE_H
#define COLDSTREAM_ENGINE_ROPE_H

#include "model/model.h"

/* frequency [head_dim / 2]: radians a position, scaling included. *magnitude: factor on cos and sin. */
void rope_frequencies(const struct model_shape *s, double *frequency, float *magnitude);

/* cosines, sines [half] of one position, times the magnitude: each within half an ulp (and the double's 2e-10 at a million) of exact. */
void rope_angles(const double *frequency, uint32_t half, float magnitude, uint64_t position, float *cosines, float *sines);

#endif
