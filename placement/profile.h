/* How often each expert was chosen on some text, and how soon again: what the planner and the first fill go by.
 *
 * Pure: no files. A profile file is JSON, untrusted like every file. Counts of several runs add up; older ones fade. */
#ifndef COLDSTREAM_PROFILE_H
#define COLDSTREAM_PROFILE_H

#include "core/core.h"

struct profile {
    char model[160];    /* identity of the model it was counted on (general.name and shape); compared before use */
    uint32_t n_layers, n_experts, n_used;
    double tokens;      /* tokens counted (fading makes it fractional) */
    double *counts;     /* [n_layers][n_experts] times chosen */
    /* [n_experts + 1] choices by stack distance: how many other experts of the same layer were chosen since the last time;
     * the last entry: never before. A per-layer LRU cache of s slots hits sum(reuse[0..s-1]) / sum(reuse) (Mattson 1970). */
    double *reuse;
};

enum err profile_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_used, struct profile *out, struct reason *why) MUST_USE;
void profile_close(struct profile *p);

enum err profile_parse(struct span json, struct profile *out, struct reason *why) MUST_USE;
void profile_write(const struct profile *p, struct text *out);

/* into = into * fade + from. ERR_ARGUMENT when the shapes differ. */
enum err profile_merge(struct profile *into, const struct profile *from, double fade, struct reason *why) MUST_USE;

/* Counting while a model runs. One recorder a sequence: distances are between its own tokens. */
struct profile_recorder;
enum err profile_recorder_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_used, struct profile_recorder **out,
                               struct reason *why) MUST_USE;
void profile_recorder_close(struct profile_recorder **recorder);
/* One token's choice at one layer, experts[n_used]. */
void profile_record(struct profile_recorder *r, uint32_t layer, const int32_t *experts);
void profile_count_token(struct profile_recorder *r);
const struct profile *profile_recorded(const struct profile_recorder *r);

/* Uses a token expected of each expert, [n_layers * n_experts]: counts / tokens, smoothed towards uniform while tokens are few. */
void profile_prior(const struct profile *p, float *out);
/* Hit rate of a cache with `slots` slots a layer (fractions interpolate), adaptive replacement. */
double profile_hit_rate(const struct profile *p, double slots);

#endif
