/* JSON as models write it: RFC 8259 with one leniency, raw control characters inside strings. A resumable validator that
 * stops at the first impossible byte, and readers for text it accepted. Numbers are never converted. */
#ifndef COLDSTREAM_TOOLCALL_JSON_H
#define COLDSTREAM_TOOLCALL_JSON_H

#include "core/core.h"

enum { LOOSE_JSON_DEPTH = 256 };

/* Zero-initialise. */
struct loose_json {
    uint8_t state;
    uint8_t expect_hex; /* digits missing in a \u escape */
    bool in_key;
    uint16_t depth;
    const char *literal; /* rest of true, false or null */
    bool is_array[LOOSE_JSON_DEPTH];
};

enum loose_step { LOOSE_MORE, LOOSE_DONE, LOOSE_BAD };

/* Take one byte. LOOSE_DONE: the value ended with this byte; numbers at top level never say so. */
enum loose_step loose_json_step(struct loose_json *j, char byte);
/* Is `s` one whole value, without white space around it? */
bool loose_json_is_value(struct span s);

/* The readers below take text that the validator accepted. */

/* Next member of the object whose source is `object`; *at starts as 0. Key and value are raw source. */
bool loose_json_member(struct span object, size_t *at, struct span *key, struct span *value);
/* The text of a string literal; lone surrogates become U+FFFD. */
void loose_json_decode(struct span literal, struct text *out);
/* The same value as strict JSON: unchanged unless it holds raw control characters or lone surrogates. */
void loose_json_strict(struct span value, struct text *out);

#endif
