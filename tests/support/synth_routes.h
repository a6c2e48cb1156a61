/* Made-up routes with the statistics of real ones, and what the statistics of given routes are. */
#ifndef COLDSTREAM_TESTS_SYNTH_ROUTES_H
#define COLDSTREAM_TESTS_SYNTH_ROUTES_H

#include "placement/routes.h"

enum routes_kind {
    ROUTES_UNIFORM,  /* every token draws anew, all experts alike: what untrained weights do */
    ROUTES_SKEWED,   /* likewise, but some experts' scores spread wider (synth_model's router_skew) */
    ROUTES_LOCALITY, /* like real prompts: few experts do most within a prompt, others in the next, neighbours agree */
};

struct synth_routes {
    enum routes_kind kind;
    uint32_t layers, experts, used;
    uint32_t turns, prompt_tokens, decode_tokens; /* tokens a turn; each turn is about something else */
    float skew;  /* ROUTES_SKEWED: deviation of the logarithm of the router's row norms */
    float noise; /* of the look-ahead's scores; 0: what makes it right for 88 % of the slots; below 0: no look-ahead */
    uint64_t seed;
};

enum err synth_routes_make(const struct synth_routes *spec, struct routes *out, struct reason *why) MUST_USE;

/* Shares of choices, 0 to 1. */
struct routes_shape {
    double top[4];           /* what the most used 10, 20, 30, 40 % of a layer's experts take within a turn */
    double next, within_8;   /* chosen by the token before; by one of the eight before */
    double elsewhere;        /* what the 40 % most used in all other turns take; one turn: 0 */
    double expected;         /* foreseen by the look-ahead, layers without any left out; none: 0 */
    double expected_first, expected_last; /* ... the first and the last of a token's choices */
};
enum err routes_measure(const struct routes *r, struct routes_shape *out, struct reason *why) MUST_USE;

#endif
