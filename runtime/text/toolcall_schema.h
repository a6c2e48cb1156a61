/* What the request's tools declare: names, parameters, and the JSON value a parameter's text stands for. */
#ifndef COLDSTREAM_TOOLCALL_SCHEMA_H
#define COLDSTREAM_TOOLCALL_SCHEMA_H

#include "core/core.h"
#include "core/json.h"

/* The `properties` of the tool's parameters; NULL when it declares none or is unknown. *declared (may be NULL): is there such
 * a tool? */
const json_t *tool_properties(const json_t *tools, struct span name, bool *declared);

/* Append to `out` the JSON of parameter text `value` under `schema` (NULL: unknown parameter). Text that does not fit its
 * declared type is a string. */
void tool_value_write(const json_t *schema, struct span value, struct text *out);

#endif
