/* Reference data kept as one JSON object a line. */
#ifndef COLDSTREAM_TESTS_JSONL_H
#define COLDSTREAM_TESTS_JSONL_H

#include "core/json.h"

/* Call `each` for every line of the file; its number when done, 0 when there is no such file. A line that is not JSON fails
 * the running test. */
size_t jsonl_each(const char *path, void (*each)(const json_t *line, void *ctx), void *ctx);

/* A member that must be a string. */
struct span jsonl_text(const json_t *object, const char *key);

#endif
