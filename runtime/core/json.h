/* JSON: the one home of jansson, plus a writer that prints as Python's json.dumps does.
 *
 * Numbers: jansson holds 64-bit integers and doubles; larger integers are refused by json_read(). */
#ifndef COLDSTREAM_JSON_H
#define COLDSTREAM_JSON_H

#include <jansson.h>

#include "core/core.h"

/* Parse one value from untrusted text: valid UTF-8, no trailing bytes, bounded nesting. *out is owned by the caller (json_decref). */
enum err json_read(struct span source, json_t **out, struct reason *why) MUST_USE;

/* As Python json.dumps(value, ensure_ascii=False): ", " and ": ", key order kept, shortest floats ("1.0", "1e-07"). */
void json_write_python(const json_t *value, struct text *out);
/* As Python str(value): True, None, 0.25, ['a', 'b']; strings raw at top level, repr inside containers. */
void json_write_python_str(const json_t *value, struct text *out);
/* Compact standard JSON of a string, quotes included: for hand-written objects. */
void json_write_string(struct span s, struct text *out);
/* Shortest decimal that reads back as `value`, in Python's repr form. */
void json_write_double(double value, struct text *out);

#endif
