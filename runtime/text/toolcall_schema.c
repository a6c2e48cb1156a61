/* Reads JSON schemas only as far as the type of a parameter; validates nothing. Stateless. */
#include "text/toolcall_schema.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/toolcall_json.h"

enum {
    TYPE_STRING = 1,
    TYPE_NULL = 2,
    TYPE_BOOLEAN = 4,
    TYPE_INTEGER = 8,
    TYPE_NUMBER = 16,
    TYPE_ARRAY = 32,
    TYPE_OBJECT = 64,
};

enum { MAX_SCHEMA_DEPTH = 32 };

const json_t *tool_properties(const json_t *tools, struct span name, bool *declared) {
    if (declared) *declared = false;
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i), *const function = json_object_get(tool, "function");
        if (function) tool = function;
        struct span other;
        if (!json_span(json_object_get(tool, "name"), &other) || !span_equal(other, name)) continue;
        if (declared) *declared = true;
        const json_t *const properties = json_object_get(json_object_get(tool, "parameters"), "properties");
        return json_is_object(properties) ? properties : NULL;
    }
    return NULL;
}

static unsigned type_named(const json_t *name) {
    static const struct {
        const char *name;
        unsigned type;
    } types[] = {
        {"string", TYPE_STRING}, {"null", TYPE_NULL},   {"boolean", TYPE_BOOLEAN}, {"integer", TYPE_INTEGER},
        {"number", TYPE_NUMBER}, {"array", TYPE_ARRAY}, {"object", TYPE_OBJECT},
    };
    struct span s;
    if (!json_span(name, &s)) return 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (span_equal(s, span_of(types[i].name))) return types[i].type;
    return 0;
}

static unsigned type_of_value(const json_t *value) {
    struct span digits;
    if (!value) return 0;
    switch (json_typeof(value)) {
    case JSON_STRING: return json_big_integer(value, &digits) ? TYPE_INTEGER : TYPE_STRING;
    case JSON_NULL: return TYPE_NULL;
    case JSON_TRUE:
    case JSON_FALSE: return TYPE_BOOLEAN;
    case JSON_INTEGER: return TYPE_INTEGER;
    case JSON_REAL: return TYPE_NUMBER;
    case JSON_ARRAY: return TYPE_ARRAY;
    case JSON_OBJECT: return TYPE_OBJECT;
    }
    return 0;
}

/* The types a schema allows, 0 when it does not say. */
static unsigned schema_types(const json_t *schema, unsigned depth) {
    static const char *const unions[] = {"anyOf", "oneOf", "allOf"};
    if (depth > MAX_SCHEMA_DEPTH) return 0;
    const json_t *const type = json_object_get(schema, "type"), *item;
    size_t i;
    unsigned types = type_named(type);
    json_array_foreach(type, i, item) types |= type_named(item);
    for (size_t u = 0; u < 3; u++)
        json_array_foreach(json_object_get(schema, unions[u]), i, item) types |= schema_types(item, depth + 1);
    if (types) return types;
    json_array_foreach(json_object_get(schema, "enum"), i, item) types |= type_of_value(item);
    return types | type_of_value(json_object_get(schema, "const"));
}

static struct span trim(struct span s) {
    while (s.len && memchr(" \t\r\n", *s.ptr, 4)) s.ptr++, s.len--;
    while (s.len && memchr(" \t\r\n", s.ptr[s.len - 1], 4)) s.len--;
    return s;
}

static bool is_word(struct span s, const char *word, bool any_case) {
    return s.len == strlen(word) && (any_case ? strncasecmp(s.ptr, word, s.len) : memcmp(s.ptr, word, s.len)) == 0;
}

/* Does a JSON number fit? 7, 5.0 and 1e3 are integers; 1e999, which few readers take, is nothing. */
static bool number_fits(struct span literal, unsigned types) {
    struct text copy = {0};
    text_add_span(&copy, literal);
    const bool plain = !copy.failed && !strpbrk(copy.ptr, ".eE");
    const double value = copy.failed ? NAN : strtod(copy.ptr, NULL);
    text_free(&copy);
    if (plain) return types & (TYPE_INTEGER | TYPE_NUMBER);
    return isfinite(value) && ((types & TYPE_NUMBER) || ((types & TYPE_INTEGER) && value == trunc(value)));
}

static bool fits(struct span literal, unsigned types) {
    if (!loose_json_is_value(literal)) return false;
    switch (*literal.ptr) {
    case '{': return types & TYPE_OBJECT;
    case '[': return types & TYPE_ARRAY;
    case '"':
    case 't':
    case 'f':
    case 'n': return false;
    default: return number_fits(literal, types);
    }
}

void tool_value_write(const json_t *schema, struct span value, struct text *out) {
    const unsigned types = schema_types(schema, 0);
    const struct span s = trim(value);
    const bool typed = (types & ~(unsigned)TYPE_STRING) != 0, any_case = !(types & TYPE_STRING);
    if (typed && (types & TYPE_NULL) && (is_word(s, "null", false) || (any_case && is_word(s, "None", false))))
        text_add_span(out, SPAN("null"));
    else if (typed && (types & TYPE_BOOLEAN) && (is_word(s, "true", any_case) || is_word(s, "True", false)))
        text_add_span(out, SPAN("true"));
    else if (typed && (types & TYPE_BOOLEAN) && (is_word(s, "false", any_case) || is_word(s, "False", false)))
        text_add_span(out, SPAN("false"));
    else if (typed && fits(s, types))
        loose_json_strict(s, out);
    else
        json_write_string(value, out);
}
