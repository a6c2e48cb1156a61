/* How often each expert was chosen on some text, and how soon again: what the planner and the first fill go by.
 *
 * Pure: no files. A profile file is JSON, untrusted like every file. Counts of several runs add up; older ones fade. */
#ifndef COLDSTREAM_PROFILE_H
#define COLDSTREAM_PROFILE_H

#include "core/core.h"

enum { PROFILE_VERSION = 1, PROFILE_MAX_LAYERS = 4096, PROFILE_MAX_EXPERTS = 4096 };

struct profile {
    char model[160]; /* identity of the model it was counted on (general.name and shape); compared before use; UTF-8 */
    uint32_t n_layers, n_experts, n_used;
    double tokens;  /* tokens counted (fading makes it fractional) */
    double *counts; /* [n_layers][n_experts] times chosen; at most `tokens` each */
    /* [n_experts + 1] choices by stack distance: how many other experts of the same layer were chosen since the last time;
     * the last entry: never before. A per-layer LRU cache of s slots hits sum(reuse[0..s-1]) / sum(reuse) (Mattson 1970). */
    double *reuse;
};

/* Nothing counted, no identity. ERR_ARGUMENT: a shape beyond the limits. After a failure nothing is to be closed. */
enum err profile_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_used, struct profile *out, struct reason *why) MUST_USE;
void profile_close(struct profile *p); /* closed and zeroed ones too */

/* A profile file: untrusted. On failure *out is empty and `why` names the key. What is written reads back
 * as the same values. */
enum err profile_parse(struct span json, struct profile *out, struct reason *why) MUST_USE;
void profile_write(const struct profile *p, struct text *out);

/* into = into * fade + from, 0 <= fade <= 1; faded values are cut to sixteenths. ERR_ARGUMENT when the shapes differ. */
enum err profile_merge(struct profile *into, const struct profile *from, double fade, struct reason *why) MUST_USE;

/* Counting while a model runs. One recorder a sequence: distances are between its own tokens. */
struct profile_recorder;
enum err profile_recorder_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_used, struct profile_recorder **out,
                               struct reason *why) MUST_USE;
void profile_recorder_close(struct profile_recorder **recorder);
/* One token's choice at one layer: experts[n_used], distinct, best first. Layers need not keep step. */
void profile_record(struct profile_recorder *r, uint32_t layer, const int32_t *experts);
void profile_count_token(struct profile_recorder *r); /* before or after its layers; no layer may count more of them */
const struct profile *profile_recorded(const struct profile_recorder *r);

/* Uses a token expected of each expert, [n_layers * n_experts]: counts / tokens, smoothed towards uniform while tokens are few
 * (as if every expert had been chosen once more). A layer's add up to n_used. */
void profile_prior(const struct profile *p, float *out);
/* Share of choices an LRU cache finds that begins empty and has `slots` >= n_used slots a layer (fractions interpolate); 0 when
 * nothing was counted. Slots that layers share and a policy that counts do a little better, a set filled in advance also saves
 * the first readings: those are not promised. */
double profile_hit_rate(const struct profile *p, double slots);

#endif
