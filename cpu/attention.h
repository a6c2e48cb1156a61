/* What the attention variants and the size of their scratch agree on. Private to this folder. */
#ifndef COLDSTREAM_ATTENTION_H
#define COLDSTREAM_ATTENTION_H

#include "cpu/cpu.h"

enum {
    ATTENTION_ROWS = 128,    /* query rows that share one pass over the keys; a row = one head of one query */
    ATTENTION_KEYS_MAX = 36, /* positions in a tile, at most */
    ATTENTION_PAD = 32,      /* columns a widened row may be longer than dh */
};

void attention_avx2(const struct attention *a);
void attention_avx512(const struct attention *a);

#endif
