/* JSON reading over jansson and Python-style writing. Owns the detour around jansson's two refusals that real requests run
 * into (integers beyond 64 bits, lone surrogate escapes); never keeps state. Thread-safe because nothing is shared. */
#include "core/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading --------------------------------------------------------------------------------------------------------
 * Only when jansson refuses a text is it rewritten and read again. In the rewritten text
 *     an integer beyond 64 bits  becomes  "\u0000<digits>"
 *     a string that itself starts with NUL  gets a second one, so that the two cannot be confused
 * and restore() turns such nodes into a string of BIG_MARK and the digits. BIG_MARK is no UTF-8, so no text can forge it. */

#define BIG_MARK '\xff'
#define NUL_ESCAPE SPAN("\\u0000")

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static int hex_value(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The unit of a "\uXXXX" at the start of `s`, -1 when there is none. */
static int32_t escape_unit(struct span s) {
    if (s.len < 6 || s.ptr[0] != '\\' || s.ptr[1] != 'u') return -1;
    int32_t unit = 0;
    for (size_t i = 2; i < 6; i++) {
        const int digit = hex_value(s.ptr[i]);
        if (digit < 0) return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

static struct span span_from(struct span s, size_t at) { return (struct span){s.ptr + at, s.len - at}; }

/* Copy the escape at the start of `s`, a lone surrogate as U+FFFD; returns the source bytes used. */
static size_t rewrite_escape(struct span s, struct text *out, bool *changed) {
    const int32_t unit = escape_unit(s);
    size_t used = unit >= 0 ? 6 : s.len < 2 ? s.len : 2;
    if (unit >= 0xd800 && unit < 0xe000) {
        const int32_t low = unit < 0xdc00 ? escape_unit(span_from(s, 6)) : -1;
        if (low < 0xdc00 || low >= 0xe000) {
            text_add_span(out, SPAN("\\ufffd"));
            *changed = true;
            return used;
        }
        used = 12;
    }
    text_add(out, s.ptr, used);
    return used;
}

/* Copy the string literal at the start of `s`, opening quote included; returns the source bytes used. */
static size_t rewrite_string(struct span s, struct text *out, bool *changed) {
    text_add(out, "\"", 1);
    if (span_starts(span_from(s, 1), NUL_ESCAPE)) text_add_span(out, NUL_ESCAPE);
    size_t at = 1;
    while (at < s.len && s.ptr[at] != '"') {
        if (s.ptr[at] == '\\') {
            at += rewrite_escape(span_from(s, at), out, changed);
        } else {
            size_t end = at + 1;
            while (end < s.len && s.ptr[end] != '"' && s.ptr[end] != '\\') end++;
            text_add(out, s.ptr + at, end - at);
            at = end;
        }
    }
    if (at < s.len) text_add(out, s.ptr + at++, 1);
    return at;
}

static bool is_beyond_64_bits(struct span literal) {
    const size_t sign = literal.ptr[0] == '-';
    if (literal.len < 19 + sign || literal.ptr[sign] == '0') return false;
    for (size_t i = sign; i < literal.len; i++)
        if (!is_digit(literal.ptr[i])) return false;
    if (literal.len > 19 + sign) return true;
    char digits[24];
    memcpy(digits, literal.ptr, literal.len);
    digits[literal.len] = 0;
    errno = 0;
    strtoll(digits, NULL, 10);
    return errno == ERANGE;
}

static size_t rewrite_number(struct span s, struct text *out, bool *changed) {
    size_t len = 1;
    while (len < s.len && (is_digit(s.ptr[len]) || memchr("+-.eE", s.ptr[len], 5))) len++;
    const struct span literal = {s.ptr, len};
    if (is_beyond_64_bits(literal)) {
        text_add(out, "\"", 1);
        text_add_span(out, NUL_ESCAPE);
        text_add_span(out, literal);
        text_add(out, "\"", 1);
        *changed = true;
    } else {
        text_add_span(out, literal);
    }
    return len;
}

/* Rewrite until `out` holds `limit` bytes; returns the source bytes used, so that an offset can be mapped back. */
static size_t rewrite(struct span source, size_t limit, struct text *out, bool *changed) {
    size_t at = 0;
    while (at < source.len && out->len < limit && !out->failed) {
        const struct span rest = span_from(source, at);
        if (rest.ptr[0] == '"')
            at += rewrite_string(rest, out, changed);
        else if (rest.ptr[0] == '-' || is_digit(rest.ptr[0]))
            at += rewrite_number(rest, out, changed);
        else
            text_add(out, source.ptr + at++, 1);
    }
    return at;
}

/* The node that stands for `node` after a rewritten read: a new reference, or NULL to leave it. */
static json_t *restored_string(const json_t *node) {
    const char *bytes = json_string_value(node);
    const size_t len = json_string_length(node);
    if (len == 0 || bytes[0] != 0) return NULL;
    if (len > 1 && bytes[1] == 0) return json_stringn_nocheck(bytes + 1, len - 1);
    struct text digits = {0};
    text_add(&digits, &(const char){BIG_MARK}, 1);
    text_add(&digits, bytes + 1, len - 1);
    json_t *const big = digits.failed ? NULL : json_stringn_nocheck(digits.ptr, digits.len);
    text_free(&digits);
    return big;
}

static json_t *restore(json_t *value) {
    if (json_is_string(value)) {
        json_t *const other = restored_string(value);
        if (!other) return value;
        json_decref(value);
        return other;
    }
    const char *key;
    json_t *child;
    size_t i;
    json_object_foreach(value, key, child) {
        json_t *const other = json_is_string(child) ? restored_string(child) : (restore(child), NULL);
        if (other) json_object_iter_set_new(value, json_object_key_to_iter(key), other);
    }
    if (!json_is_array(value)) return value;
    json_array_foreach(value, i, child) {
        json_t *const other = json_is_string(child) ? restored_string(child) : (restore(child), NULL);
        if (other) json_array_set_new(value, i, other);
    }
    return value;
}

static json_t *parse(struct span source, json_error_t *error) {
    return json_loadb(source.len ? source.ptr : "", source.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, error);
}

enum err json_read(struct span source, json_t **out, struct reason *why) {
    *out = NULL;
    json_error_t error;
    json_t *value = parse(source, &error);
    if (value) {
        *out = value;
        return ERR_NONE;
    }
    size_t offset = error.position > 0 ? (size_t)error.position : 0;
    bool changed = false;
    struct text rewritten = {0};
    rewrite(source, SIZE_MAX, &rewritten, &changed);
    if (changed && !rewritten.failed) {
        value = parse((struct span){rewritten.ptr, rewritten.len}, &error);
        if (!value && error.position >= 0) {
            text_clear(&rewritten);
            offset = rewrite(source, (size_t)error.position, &rewritten, &changed);
        }
    }
    const bool no_memory = rewritten.failed || (!value && json_error_code(&error) == json_error_out_of_memory);
    text_free(&rewritten);
    if (no_memory) return fail(why, ERR_NO_MEMORY, "cannot read JSON: out of memory");
    if (!value) return fail(why, ERR_FORMAT, "not valid JSON, line %d, byte %zu: %s", error.line, offset, error.text);
    *out = restore(value);
    return ERR_NONE;
}

bool json_big_integer(const json_t *value, struct span *out) {
    *out = (struct span){0};
    if (!json_is_string(value)) return false;
    const char *bytes = json_string_value(value);
    const size_t len = json_string_length(value);
    if (len < 2 || bytes[0] != BIG_MARK) return false;
    *out = (struct span){bytes + 1, len - 1};
    return true;
}

bool json_span(const json_t *value, struct span *out) {
    if (json_big_integer(value, out)) {
        *out = (struct span){0};
        return false;
    }
    if (!json_is_string(value)) return false;
    *out = (struct span){json_string_value(value), json_string_length(value)};
    return true;
}

/* ---- numbers ------------------------------------------------------------------------------------------------------ */

/* A decimal d.ddd x 10^exponent. */
struct decimal {
    char digits[20];
    int count, exponent;
};

static double decimal_value(const struct decimal *d) {
    char buffer[48];
    snprintf(buffer, sizeof buffer, "%.*se%d", d->count, d->digits, d->exponent - (d->count - 1));
    return strtod(buffer, NULL);
}

/* One unit up in the last digit; false when that would need another digit. */
static bool decimal_step_up(struct decimal *d) {
    for (int i = d->count - 1; i >= 0; i--) {
        if (d->digits[i] != '9') {
            d->digits[i]++;
            return true;
        }
        d->digits[i] = '0';
    }
    return false;
}

/* Fewest digits that read back as `magnitude` > 0. The nearest decimal of each length is tried; just above a power of two,
 * where the gap below is half the gap above, the next one up may read back although the nearest does not (2^-44). */
static struct decimal shortest_decimal(double magnitude) {
    struct decimal d = {0};
    for (int count = 1; count <= 17; count++) {
        char buffer[40];
        snprintf(buffer, sizeof buffer, "%.*e", count - 1, magnitude);
        d.count = count;
        d.digits[0] = buffer[0];
        if (count > 1) memcpy(d.digits + 1, buffer + 2, (size_t)count - 1);
        d.exponent = atoi(strchr(buffer, 'e') + 1);
        if (decimal_value(&d) == magnitude) break;
        if (decimal_step_up(&d) && decimal_value(&d) == magnitude) break;
    }
    while (d.count > 1 && d.digits[d.count - 1] == '0') d.count--;
    return d;
}

void json_write_double(double value, struct text *out) {
    if (isnan(value) || isinf(value)) {
        text_add_span(out, isnan(value) ? SPAN("NaN") : value < 0 ? SPAN("-Infinity") : SPAN("Infinity"));
        return;
    }
    if (signbit(value)) text_add(out, "-", 1);
    if (value == 0) {
        text_add_span(out, SPAN("0.0"));
        return;
    }
    const struct decimal d = shortest_decimal(fabs(value));
    if (d.exponent < -4 || d.exponent >= 16) {
        text_add(out, d.digits, 1);
        if (d.count > 1) text_addf(out, ".%.*s", d.count - 1, d.digits + 1);
        text_addf(out, "e%c%02d", d.exponent < 0 ? '-' : '+', abs(d.exponent));
    } else if (d.exponent < 0) {
        text_addf(out, "0.%.*s%.*s", -d.exponent - 1, "000", d.count, d.digits);
    } else {
        for (int i = 0; i <= d.exponent; i++) text_add(out, i < d.count ? &d.digits[i] : "0", 1);
        const int whole = d.exponent + 1;
        if (d.count > whole)
            text_addf(out, ".%.*s", d.count - whole, d.digits + whole);
        else
            text_add_span(out, SPAN(".0"));
    }
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */

void json_write_string(struct span s, struct text *out) {
    static const char letters[] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't', ['"'] = '"', ['\\'] = '\\'};
    text_add(out, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < s.len; i++) {
        const unsigned char c = (unsigned char)s.ptr[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        text_add(out, s.ptr + from, i - from);
        from = i + 1;
        if (letters[c])
            text_addf(out, "\\%c", letters[c]);
        else
            text_addf(out, "\\u%04x", c);
    }
    if (s.len > from) text_add(out, s.ptr + from, s.len - from);
    text_add(out, "\"", 1);
}

/* What Python's repr escapes, less unassigned code points: controls, separators but space, format, surrogates, private use. */
static bool is_printable(uint32_t code) {
    static const struct {
        uint32_t first, last;
    } hidden[] = {
        {0x00, 0x1f},       {0x7f, 0xa0},        {0xad, 0xad},       {0x600, 0x605},     {0x61c, 0x61c},     {0x6dd, 0x6dd},
        {0x70f, 0x70f},     {0x890, 0x891},      {0x8e2, 0x8e2},     {0x1680, 0x1680},   {0x180e, 0x180e},   {0x2000, 0x200f},
        {0x2028, 0x202f},   {0x205f, 0x206f},    {0x3000, 0x3000},   {0xd800, 0xf8ff},   {0xfeff, 0xfeff},   {0xfff0, 0xfffb},
        {0xfffe, 0xffff},   {0x110bd, 0x110bd},  {0x110cd, 0x110cd}, {0x13430, 0x13438}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
        {0xe0000, 0xe00ff}, {0xe01f0, 0x10ffff},
    };
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        if (code >= hidden[i].first && code <= hidden[i].last) return false;
    return true;
}

/* Decode one scalar of valid UTF-8 (jansson checked it); returns its length. */
static size_t utf8_scalar(const char *s, size_t len, uint32_t *code) {
    const unsigned char lead = (unsigned char)s[0];
    const size_t need = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    *code = need == 1 ? lead : lead & (0xffu >> (need + 1));
    if (need > len) return len;
    for (size_t i = 1; i < need; i++) *code = *code << 6 | ((unsigned char)s[i] & 0x3f);
    return need;
}

static void write_repr_string(struct span s, struct text *out) {
    const char quote = memchr(s.ptr, '\'', s.len) && !memchr(s.ptr, '"', s.len) ? '"' : '\'';
    text_add(out, &quote, 1);
    for (size_t i = 0; i < s.len;) {
        uint32_t code;
        const size_t len = utf8_scalar(s.ptr + i, s.len - i, &code);
        if (code == (unsigned char)quote || code == '\\')
            text_addf(out, "\\%c", (char)code);
        else if (code == '\n')
            text_add_span(out, SPAN("\\n"));
        else if (code == '\r')
            text_add_span(out, SPAN("\\r"));
        else if (code == '\t')
            text_add_span(out, SPAN("\\t"));
        else if (is_printable(code))
            text_add(out, s.ptr + i, len);
        else if (code < 0x100)
            text_addf(out, "\\x%02x", (unsigned)code);
        else if (code < 0x10000)
            text_addf(out, "\\u%04x", (unsigned)code);
        else
            text_addf(out, "\\U%08x", (unsigned)code);
        i += len;
    }
    text_add(out, &quote, 1);
}

/* The two spellings of one value: json.dumps and repr. */
struct spelling {
    struct span null, yes, no;
    void (*string)(struct span s, struct text *out);
};

static void write_value(const struct spelling *as, const json_t *value, struct text *out) {
    struct span s;
    size_t i;
    json_t *child;
    const char *key;
    bool first = true;
    switch (json_typeof(value)) {
    case JSON_NULL: text_add_span(out, as->null); return;
    case JSON_TRUE: text_add_span(out, as->yes); return;
    case JSON_FALSE: text_add_span(out, as->no); return;
    case JSON_INTEGER: text_addf(out, "%lld", (long long)json_integer_value(value)); return;
    case JSON_REAL: json_write_double(json_real_value(value), out); return;
    case JSON_STRING:
        if (json_big_integer(value, &s))
            text_add_span(out, s);
        else if (json_span(value, &s))
            as->string(s, out);
        return;
    case JSON_ARRAY:
        text_add(out, "[", 1);
        json_array_foreach(value, i, child) {
            if (i) text_add(out, ", ", 2);
            write_value(as, child, out);
        }
        text_add(out, "]", 1);
        return;
    case JSON_OBJECT:
        text_add(out, "{", 1);
        json_object_foreach((json_t *)value, key, child) {
            if (!first) text_add(out, ", ", 2);
            first = false;
            as->string(span_of(key), out);
            text_add(out, ": ", 2);
            write_value(as, child, out);
        }
        text_add(out, "}", 1);
        return;
    }
}

void json_write_python(const json_t *value, struct text *out) {
    const struct spelling dumps = {SPAN("null"), SPAN("true"), SPAN("false"), json_write_string};
    write_value(&dumps, value, out);
}

void json_write_python_str(const json_t *value, struct text *out) {
    const struct spelling repr = {SPAN("None"), SPAN("True"), SPAN("False"), write_repr_string};
    struct span s;
    if (json_span(value, &s))
        text_add_span(out, s);
    else
        write_value(&repr, value, out);
}
