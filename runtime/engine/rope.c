/* Frequencies of rotary positions, plain, linear and YaRN. */
#include "engine/rope.h"

#include <math.h>

/* The pair, as a real number, that makes `turns` turns over the original context. */
static double pair_of_turns(const struct model_shape *s, double turns) {
    return s->head_dim * log((double)s->rope_original_context / (turns * 2 * M_PI)) / (2 * log((double)s->rope_base));
}

/* theta_r = base^(-2r/n). YaRN (Peng et al., 2309.00071, section 3.2): pairs below `low` keep it, those above `high` are divided by the
 * factor, and between them is a ramp. Linear scaling is a ramp of nothing. As llama.cpp has it, ext_factor weighs the ramp, and with
 * it comes the magnitude of section 3.4, sqrt(1/t) = 0.1 ln(factor) + 1 on queries and keys each. */
void rope_frequencies(const struct model_shape *s, double *frequency, float *magnitude) {
    const double factor = s->rope_factor, ext = s->rope_ext_factor;
    double low = 0, high = 0;
    if (ext > 0) {
        low = fmax(0, floor(pair_of_turns(s, s->rope_beta_fast)));
        high = fmin(s->head_dim - 1.0, ceil(pair_of_turns(s, s->rope_beta_slow)));
    }
    for (uint32_t r = 0; r < s->head_dim / 2; r++) {
        const double theta = pow(s->rope_base, -2.0 * r / s->head_dim);
        const double keep = ext > 0 ? ext * (1 - fmin(1, fmax(0, (r - low) / fmax(0.001, high - low)))) : 0;
        frequency[r] = theta / factor * (1 - keep) + theta * keep;
    }
    *magnitude = (float)(s->rope_attn_factor * (ext > 0 && factor > 1 ? 1 + 0.1 * log(factor) : 1));
}

void rope_angles(const double *frequency, uint32_t half, float magnitude, uint64_t position, float *cosines, float *sines) {
    for (uint32_t r = 0; r < half; r++) {
        const double angle = (double)position * frequency[r];
        cosines[r] = (float)(cos(angle) * magnitude);
        sines[r] = (float)(sin(angle) * magnitude);
    }
}
