/* JSON: the one home of jansson, plus writers that print as Python does.
 *
 * jansson holds 64-bit integers and doubles. A larger integer is kept exactly, as a string node that json_span() refuses and
 * the writers print bare; nothing else may look inside it. */
#ifndef COLDSTREAM_JSON_H
#define COLDSTREAM_JSON_H

#include <jansson.h>

#include "core/core.h"

/* Parse one value from untrusted text: valid UTF-8, no trailing bytes, bounded nesting. *out is owned by the caller
 * (json_decref). Lone surrogate escapes, which JavaScript clients send when they cut a string, become U+FFFD. */
enum err json_read(struct span source, json_t **out, struct reason *why) MUST_USE;

/* The bytes of a string node; false (and *out empty) for NULL, any other kind, and integers beyond 64 bits. */
bool json_span(const json_t *value, struct span *out);
/* The digits of an integer beyond 64 bits. */
bool json_big_integer(const json_t *value, struct span *out);

/* As Python json.dumps(value, ensure_ascii=False): ", " and ": ", key order kept, shortest floats ("1.0", "1e-07"). */
void json_write_python(const json_t *value, struct text *out);
/* As Python str(value): True, None, 0.25, ['a', 'b']; strings raw at top level, repr inside containers. */
void json_write_python_str(const json_t *value, struct text *out);
/* Compact standard JSON of a string, quotes included: for hand-written objects. */
void json_write_string(struct span s, struct text *out);
/* Shortest decimal that reads back as `value`, in Python's repr form. */
void json_write_double(double value, struct text *out);

#endif
