/* A tiny byte-level vocabulary, made here: 256 bytes, a few merges and added tokens, in an order unlike any published one,
 * so that no test leans on "merge r makes token 256 + r". */
#ifndef COLDSTREAM_SMALL_VOCAB_H
#define COLDSTREAM_SMALL_VOCAB_H

#include "text/tokenizer.h"

enum { SMALL_VOCAB_CAP = 512 };

struct small_merge { /* raw bytes of the two parts, for reference implementations */
    char left[16], right[16];
    size_t left_len, right_len;
};

struct small_vocab {
    struct tokenizer_source source; /* points into this struct: do not copy */
    struct span tokens[SMALL_VOCAB_CAP];
    int32_t types[SMALL_VOCAB_CAP];
    struct span merges[64];
    struct small_merge raw_merges[64];
    char storage[4096];
};

/* ids: merged tokens, last merge first; then bytes 255..0; then the added tokens; then two rows of padding, one of them typed
 * normal. end of text: <|endoftext|>; no bos. */
void small_vocab_fill(struct small_vocab *v);

/* Added tokens in id order; those in front of SMALL_VOCAB_N_CONTROL are typed control. */
extern const char *const small_vocab_added[];
enum { SMALL_VOCAB_N_CONTROL = 3, SMALL_VOCAB_N_ADDED = 9 };

#endif
