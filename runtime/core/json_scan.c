/* The JSON pull parser: a window over the source, a state of six values, one bit a level of nesting. Owns the text of the last
 * string; never recurses, never looks back. */
#include "core/json_scan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What may come next. */
enum { WANT_VALUE, WANT_VALUE_OR_END, WANT_KEY, WANT_KEY_OR_END, WANT_COMMA_OR_END, WANT_NOTHING };

void json_scan_open(struct json_scan *s, const char *label, scan_fill fill, void *ctx, uint64_t begin, uint64_t end,
                    size_t max_text) {
    memset(s, 0, offsetof(struct json_scan, window));
    s->label = label;
    s->fill = fill;
    s->ctx = ctx;
    s->at = s->from = begin;
    s->end = end;
    s->max_text = max_text;
    s->state = WANT_VALUE;
}

static enum err fill_from_span(void *ctx, void *to, uint64_t bytes, uint64_t at, struct reason *why) {
    (void)why;
    memcpy(to, ((const struct span *)ctx)->ptr + at, bytes);
    return ERR_NONE;
}

void json_scan_open_span(struct json_scan *s, const char *label, struct span *source, size_t max_text) {
    json_scan_open(s, label, fill_from_span, source, 0, source->len, max_text);
}

void json_scan_close(struct json_scan *s) {
    text_free(&s->held);
    s->text = (struct span){0};
}

static enum err fail_at(const struct json_scan *s, uint64_t at, struct reason *why, const char *problem) {
    return fail(why, ERR_FORMAT, "%s: at byte %llu: not valid JSON: %s", s->label, (unsigned long long)at, problem);
}

enum err json_scan_fail(const struct json_scan *s, struct reason *why, enum err code, const char *format, ...) {
    char problem[320];
    va_list args;
    va_start(args, format);
    vsnprintf(problem, sizeof problem, format, args);
    va_end(args);
    return fail(why, code, "%s: at byte %llu: %s", s->label, (unsigned long long)s->at, problem);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------------- */

static uint64_t position(const struct json_scan *s) { return s->from + s->next; }

/* Makes sure that window[next] exists; *more is false at the end of the source. */
static enum err look(struct json_scan *s, bool *more, struct reason *why) {
    *more = true;
    if (s->next < s->have) return ERR_NONE;
    const uint64_t at = position(s), left = s->end - at;
    const size_t want = left < SCAN_WINDOW ? (size_t)left : SCAN_WINDOW;
    s->from = at;
    s->next = s->have = 0;
    if (!(*more = want > 0)) return ERR_NONE;
    TRY(s->fill(s->ctx, s->window, want, at, why));
    s->have = want;
    return ERR_NONE;
}

/* The next byte where there must be one. */
static enum err take(struct json_scan *s, uint8_t *out, struct reason *why) {
    bool more;
    TRY(look(s, &more, why));
    if (!more) return fail_at(s, position(s), why, "it ends too early");
    *out = s->window[s->next++];
    return ERR_NONE;
}

static enum err skip_space(struct json_scan *s, bool *more, struct reason *why) {
    for (;;) {
        TRY(look(s, more, why));
        if (!*more) return ERR_NONE;
        while (s->next < s->have) {
            const uint8_t c = s->window[s->next];
            if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return ERR_NONE;
            s->next++;
        }
    }
}

static enum err keep(struct json_scan *s, const void *bytes, size_t len, struct reason *why) {
    if (s->discard) return ERR_NONE;
    if (len > s->max_text - s->held.len)
        return json_scan_fail(s, why, ERR_LIMIT, "a text of more than %zu bytes; no known file needs that", s->max_text);
    text_add(&s->held, bytes, len);
    return s->held.failed ? fail(why, ERR_NO_MEMORY, "%s: no memory for a text of %zu bytes", s->label, s->held.len) : ERR_NONE;
}

static void publish(struct json_scan *s) { s->text = (struct span){s->held.ptr ? s->held.ptr : "", s->held.len}; }

/* ---- strings ----------------------------------------------------------------------------------------------------------- */

static enum err take_unit(struct json_scan *s, uint32_t *unit, struct reason *why) {
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c;
        TRY(take(s, &c, why));
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return fail_at(s, position(s) - 1, why, "\\u needs four hexadecimal digits");
        *unit = *unit * 16 + (uint32_t)digit;
    }
    return ERR_NONE;
}

static enum err keep_scalar(struct json_scan *s, uint32_t code, struct reason *why) {
    uint8_t utf8[4];
    size_t len = 0;
    if (code < 0x80)
        utf8[len++] = (uint8_t)code;
    else {
        if (code >= 0x10000) {
            utf8[len++] = (uint8_t)(0xf0 | code >> 18);
            utf8[len++] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
        } else if (code >= 0x800)
            utf8[len++] = (uint8_t)(0xe0 | code >> 12);
        if (code >= 0x800)
            utf8[len++] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        else
            utf8[len++] = (uint8_t)(0xc0 | code >> 6);
        utf8[len++] = (uint8_t)(0x80 | (code & 0x3f));
    }
    return keep(s, utf8, len, why);
}

/* A surrogate that found no partner becomes U+FFFD, as everywhere in this program. `*high`: one that still waits, or 0. */
static enum err drop_lone(struct json_scan *s, uint32_t *high, struct reason *why) {
    if (!*high) return ERR_NONE;
    *high = 0;
    return keep_scalar(s, 0xfffd, why);
}

/* Behind a backslash. */
static enum err take_escape(struct json_scan *s, uint32_t *high, struct reason *why) {
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    uint8_t letter = 0;
    TRY(take(s, &letter, why));
    if (letter != 'u') {
        const char *known = letter ? strchr(letters, letter) : NULL;
        if (!known) return fail_at(s, position(s) - 1, why, "an unknown escape");
        TRY(drop_lone(s, high, why));
        return keep(s, &meanings[known - letters], 1, why);
    }
    uint32_t unit;
    TRY(take_unit(s, &unit, why));
    if (*high && unit >= 0xdc00 && unit < 0xe000) {
        const uint32_t code = 0x10000 + ((*high - 0xd800) << 10) + (unit - 0xdc00);
        *high = 0;
        return keep_scalar(s, code, why);
    }
    TRY(drop_lone(s, high, why));
    if (unit >= 0xd800 && unit < 0xdc00) {
        *high = unit;
        return ERR_NONE;
    }
    return keep_scalar(s, unit >= 0xdc00 && unit < 0xe000 ? 0xfffd : unit, why);
}

static enum err check_utf8(const struct json_scan *s, struct reason *why) {
    const uint8_t *bytes = (const uint8_t *)s->held.ptr;
    for (size_t i = 0; i < s->held.len;) {
        const size_t step = utf8_sequence(bytes + i, s->held.len - i);
        if (!step) return json_scan_fail(s, why, ERR_FORMAT, "a text that is not valid UTF-8");
        i += step;
    }
    return ERR_NONE;
}

/* Behind the opening quote. */
static enum err take_string(struct json_scan *s, struct reason *why) {
    uint32_t high = 0;
    for (;;) {
        bool more;
        TRY(look(s, &more, why));
        if (!more) return fail_at(s, position(s), why, "it ends inside a string");
        const uint8_t *from = s->window + s->next, *p = from, *end = s->window + s->have;
        while (p < end && *p != '"' && *p != '\\' && *p >= 0x20) p++;
        if (p > from) {
            TRY(drop_lone(s, &high, why));
            TRY(keep(s, from, (size_t)(p - from), why));
            s->next += (size_t)(p - from);
            continue;
        }
        s->next++;
        if (*p < 0x20) return fail_at(s, position(s) - 1, why, "a control character in a string");
        if (*p == '"') break;
        TRY(take_escape(s, &high, why));
    }
    TRY(drop_lone(s, &high, why));
    publish(s);
    return check_utf8(s, why);
}

/* ---- numbers and words ------------------------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static size_t digits(const char *p) {
    size_t n = 0;
    while (is_digit(p[n])) n++;
    return n;
}

/* -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)? and nothing else; `p` is NUL-terminated. */
static bool is_number(const char *p, size_t len) {
    const char *const end = p + len;
    if (*p == '-') p++;
    const size_t whole = digits(p);
    if (whole == 0 || (whole > 1 && *p == '0')) return false;
    p += whole;
    if (*p == '.') {
        const size_t fraction = digits(++p);
        if (fraction == 0) return false;
        p += fraction;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-') p++;
        const size_t exponent = digits(p);
        if (exponent == 0) return false;
        p += exponent;
    }
    return p == end;
}

/* A run of the characters that numbers and words are made of. */
static enum err take_run(struct json_scan *s, struct reason *why) {
    const bool discarding = s->discard;
    s->discard = false; /* must be judged even when it is not wanted */
    for (bool more = true; more;) {
        TRY(look(s, &more, why));
        const uint8_t *from = s->window + s->next, *p = from, *end = s->window + s->have;
        while (p < end && (is_digit((char)*p) || (*p >= 'a' && *p <= 'z') || *p == 'E' || *p == '+' || *p == '-' || *p == '.'))
            p++;
        TRY(keep(s, from, (size_t)(p - from), why));
        s->next += (size_t)(p - from);
        if (p < end) break;
    }
    s->discard = discarding;
    publish(s);
    return ERR_NONE;
}

static enum err take_number_or_word(struct json_scan *s, enum scan_event *event, struct reason *why) {
    TRY(take_run(s, why));
    static const struct {
        struct span word;
        enum scan_event event;
    } words[] = {{SPAN("true"), SCAN_TRUE}, {SPAN("false"), SCAN_FALSE}, {SPAN("null"), SCAN_NULL}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (span_equal(s->text, words[i].word)) {
            *event = words[i].event;
            return ERR_NONE;
        }
    *event = SCAN_NUMBER;
    if (s->text.len && is_number(s->text.ptr, s->text.len)) return ERR_NONE;
    return fail_at(s, s->at, why, s->text.len ? "neither a number nor true, false or null" : "a value is expected here");
}

bool json_scan_uint(struct span number, uint64_t *out) {
    *out = 0;
    if (number.len == 0) return false;
    for (size_t i = 0; i < number.len; i++)
        if (!is_digit(number.ptr[i]) || !size_mul(*out, 10, out) || !size_add(*out, (uint64_t)(number.ptr[i] - '0'), out))
            return false;
    return true;
}

double json_scan_double(struct span number) {
    char terminated[64];
    if (number.len >= sizeof terminated) return NAN;
    memcpy(terminated, number.ptr, number.len);
    terminated[number.len] = 0;
    return strtod(terminated, NULL);
}

/* ---- structure --------------------------------------------------------------------------------------------------------- */

static bool in_object(const struct json_scan *s) { return s->objects >> (s->depth - 1) & 1; }

static void after_value(struct json_scan *s) { s->state = s->depth ? WANT_COMMA_OR_END : WANT_NOTHING; }

static enum err open_container(struct json_scan *s, bool object, struct reason *why) {
    if (s->depth == SCAN_DEPTH) return fail_at(s, s->at, why, "nested too deeply");
    s->objects = (s->objects & ~((uint64_t)1 << s->depth)) | (uint64_t)object << s->depth;
    s->depth++;
    s->state = object ? WANT_KEY_OR_END : WANT_VALUE_OR_END;
    return ERR_NONE;
}

static enum err take_key(struct json_scan *s, struct reason *why) {
    TRY(take_string(s, why));
    bool more;
    TRY(skip_space(s, &more, why));
    uint8_t colon;
    TRY(take(s, &colon, why));
    if (colon != ':') return fail_at(s, position(s) - 1, why, "a colon is expected behind a key");
    s->state = WANT_VALUE;
    return ERR_NONE;
}

static enum err take_value(struct json_scan *s, uint8_t first, enum scan_event *event, struct reason *why) {
    if (first == '{' || first == '[') {
        s->next++;
        *event = first == '{' ? SCAN_OBJECT : SCAN_ARRAY;
        return open_container(s, first == '{', why);
    }
    if (first == '"') {
        s->next++;
        *event = SCAN_STRING;
        TRY(take_string(s, why));
    } else
        TRY(take_number_or_word(s, event, why));
    after_value(s);
    return ERR_NONE;
}

/* Over white space and a comma that is due: *c is what the next event begins with. */
static enum err begin_event(struct json_scan *s, bool *more, uint8_t *c, struct reason *why) {
    TRY(skip_space(s, more, why));
    s->at = position(s);
    if (!*more) return ERR_NONE;
    *c = s->window[s->next];
    if (s->state != WANT_COMMA_OR_END || *c != ',') return ERR_NONE;
    s->next++;
    s->state = in_object(s) ? WANT_KEY : WANT_VALUE;
    TRY(skip_space(s, more, why));
    s->at = position(s);
    if (*more) *c = s->window[s->next];
    return ERR_NONE;
}

enum err json_scan_next(struct json_scan *s, enum scan_event *event, struct reason *why) {
    bool more;
    uint8_t c = 0;
    text_clear(&s->held);
    publish(s);
    *event = SCAN_END;
    TRY(begin_event(s, &more, &c, why));
    if (s->state == WANT_NOTHING) return more ? fail_at(s, s->at, why, "something follows the value") : ERR_NONE;
    if (!more) return fail_at(s, s->at, why, "it ends too early");
    const bool may_end = s->state == WANT_VALUE_OR_END || s->state == WANT_KEY_OR_END || s->state == WANT_COMMA_OR_END;
    if (may_end && c == (in_object(s) ? '}' : ']')) {
        *event = in_object(s) ? SCAN_OBJECT_END : SCAN_ARRAY_END;
        s->next++;
        s->depth--;
        after_value(s);
        return ERR_NONE;
    }
    if (s->state == WANT_COMMA_OR_END) return fail_at(s, s->at, why, "a comma or the end of the container is expected here");
    if (s->state != WANT_KEY && s->state != WANT_KEY_OR_END) return take_value(s, c, event, why);
    if (c != '"') return fail_at(s, s->at, why, "a key is expected here");
    s->next++;
    *event = SCAN_KEY;
    return take_key(s, why);
}

enum err json_scan_skip(struct json_scan *s, enum scan_event event, struct reason *why) {
    unsigned until = s->depth;
    if (event == SCAN_OBJECT || event == SCAN_ARRAY)
        until--;
    else if (event != SCAN_KEY)
        return ERR_NONE;
    s->discard = true;
    enum err result;
    do result = json_scan_next(s, &event, why);
    while (result == ERR_NONE && s->depth > until);
    s->discard = false;
    return result;
}
