/* A tiny byte-level vocabulary that can hold a chat: every byte, a few dozen merges, the added tokens of Qwen3. */
#ifndef COLDSTREAM_TESTS_SYNTH_VOCAB_H
#define COLDSTREAM_TESTS_SYNTH_VOCAB_H

#include "core/core.h"

enum { SYNTH_VOCAB_CAP = 512, SYNTH_MERGES_CAP = 128 };

struct synth_vocab { /* spans point into the struct: do not copy */
    size_t n_tokens, n_merges;
    struct span tokens[SYNTH_VOCAB_CAP], merges[SYNTH_MERGES_CAP];
    int32_t types[SYNTH_VOCAB_CAP];
    int32_t bos, eos, pad;     /* <|endoftext|>, <|im_end|>, <|endoftext|> */
    struct span chat_template; /* plain ChatML that the family detection takes for hybrid Qwen3 */
    char storage[4096];
    size_t used;
};

void synth_vocab_fill(struct synth_vocab *v);

#endif
