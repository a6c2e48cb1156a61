/* UTF-8 steps, character classes of the pre-tokenizer, and NFC. Pure functions over constant tables. */
#ifndef COLDSTREAM_UNICODE_H
#define COLDSTREAM_UNICODE_H

#include "core/core.h"

enum char_class { CHAR_OTHER, CHAR_LETTER, CHAR_NUMBER, CHAR_SPACE };
enum char_class unicode_class(uint32_t code);

enum utf8_step {
    UTF8_GOOD, /* one scalar value */
    UTF8_BAD,  /* a maximal ill-formed subpart, to be replaced by one U+FFFD */
    UTF8_CUT,  /* the bytes end inside a sequence that could still become valid */
};

/* One step of decoding s[0..len), len > 0. *used is the number of bytes the step covers (1..4), *code the scalar value or
 * U+FFFD. */
enum utf8_step utf8_decode(const uint8_t *s, size_t len, uint32_t *code, size_t *used);
/* As above for text known to be valid; returns the scalar value. */
uint32_t utf8_decode_valid(const uint8_t *s, size_t *used);
void utf8_append(struct text *out, uint32_t code);

/* True when `s` is valid UTF-8 that NFC certainly leaves alone; false says nothing. */
bool unicode_is_settled(struct span s);
/* Append lossy(s) to `out`, and with `compose` NFC(lossy(s)). O(n log n). A refused allocation sets out->failed. */
void unicode_normalize(struct span s, bool compose, struct text *out);

#endif
