/* Logits -> next id. Pure and seeded: the same state, settings and logits give the same id. One sampler a sequence. */
#ifndef COLDSTREAM_SAMPLER_H
#define COLDSTREAM_SAMPLER_H

#include "core/core.h"
#include "text/chat.h"
#include "text/tokenizer.h"

struct logit_bias {
    int32_t id;
    float bias;
};

struct sampling {
    float temperature; /* <= 0: greedy */
    int32_t top_k;     /* <= 0: off */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    float repeat_penalty;    /* 1: off */
    float presence_penalty;  /* 0: off */
    float frequency_penalty; /* 0: off */
    int32_t repeat_last_n;   /* window of the three penalties; 0 off, -1 whole context */
    uint64_t seed;           /* used as given; the caller draws a random one when the user gave none */
    bool ignore_eos;
    const struct logit_bias *bias; /* borrowed until sampler_open() returns; -INFINITY bans the id */
    size_t n_bias;
};

/* Defaults of the model family (Qwen's model cards); thinking chooses between the hybrid's two sets. */
struct sampling sampling_defaults(enum chat_family family, bool thinking);

struct sampler;
enum err sampler_open(const struct sampling *settings, const struct tokenizer *t, size_t n_vocab, struct sampler **out,
                      struct reason *why) MUST_USE;
void sampler_close(struct sampler **sampler);
/* History for the penalties: call for prompt tokens and for each accepted token. */
void sampler_accept(struct sampler *s, int32_t id);
/* logits: [n_vocab], not changed; NaN counts as -infinity. Unused ids (no token) are never returned.
 *
 * Order: bias; penalties; top-k; softmax at temperature 1; top-p (fewest ids that reach it); min-p (relative to the best);
 * temperature; draw. Greedy takes the best after bias and penalties, the lowest id on ties, and draws nothing. Penalties as in
 * llama.cpp, per id seen in the window: a positive logit is divided by repeat_penalty and any other multiplied, then count *
 * frequency_penalty + presence_penalty is subtracted. When everything is banned, the lowest used id comes back. */
int32_t sampler_next(struct sampler *s, const float *logits);

#endif
