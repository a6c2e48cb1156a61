/* A tiny byte-level vocabulary, made here: 256 bytes, a few merges and added tokens, in an order unlike any published one,
 * so that no test leans on "merge r makes token 256 + r". */
#ifndef COLDSTREAM_SMALL_VOCAB_H
#define COLDSTREAM_SMALL_VOCAB_H

#include "text/tokenizer.h"

enum { SMALL_VOCAB_CAP = 512 };

struct small_vocab {
    struct tokenizer_source source; /* points into this struct: do not copy */
    struct span tokens[SMALL_VOCAB_CAP];
    int32_t types[SMALL_VOCAB_CAP];
    struct span merges[64];
    char storage[4096];
};

/* ids: merged tokens, last merge first; then bytes 255..0; then the added tokens; then two rows of padding, one of them typed
 * normal. end of text: <|endoftext|>; no bos. */
void small_vocab_fill(struct small_vocab *v);
/* The raw bytes of the parts of merge `rank`, for reference implementations; false past the end. */
bool small_vocab_merge(size_t rank, char left[16], size_t *left_len, char right[16], size_t *right_len);

/* Added tokens in id order; those in front of SMALL_VOCAB_N_CONTROL are typed control. */
extern const char *const small_vocab_added[];
enum { SMALL_VOCAB_N_CONTROL = 3, SMALL_VOCAB_N_ADDED = 9 };

#endif
