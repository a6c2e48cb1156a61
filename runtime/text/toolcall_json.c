/* The validator is a state machine over bytes, so that a stream can stop and go on anywhere. Stateless but for the caller's
 * struct loose_json. */
#include "text/toolcall_json.h"

#include <string.h>

#include "text/unicode.h"

enum {
    WANT_VALUE, /* zero: where a fresh validator starts */
    WANT_VALUE_OR_END,
    WANT_KEY,
    WANT_KEY_OR_END,
    WANT_COLON,
    WANT_COMMA_OR_END,
    IN_STRING,
    IN_ESCAPE,
    IN_LITERAL,
    NUMBER_MINUS,
    NUMBER_ZERO,
    NUMBER_WHOLE,
    NUMBER_POINT,
    NUMBER_FRACTION,
    NUMBER_E,
    NUMBER_SIGN,
    NUMBER_EXPONENT,
};

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static int hex_value(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static enum loose_step go(struct loose_json *j, uint8_t state) {
    j->state = state;
    return LOOSE_MORE;
}

static enum loose_step value_ended(struct loose_json *j) {
    j->state = WANT_COMMA_OR_END;
    return j->depth ? LOOSE_MORE : LOOSE_DONE;
}

static enum loose_step open_container(struct loose_json *j, bool array) {
    if (j->depth == LOOSE_JSON_DEPTH) return LOOSE_BAD;
    j->is_array[j->depth++] = array;
    return go(j, array ? WANT_VALUE_OR_END : WANT_KEY_OR_END);
}

static enum loose_step close_container(struct loose_json *j, char byte) {
    if (j->depth == 0 || j->is_array[j->depth - 1] != (byte == ']')) return LOOSE_BAD;
    j->depth--;
    return value_ended(j);
}

static enum loose_step open_literal(struct loose_json *j, const char *rest) {
    j->literal = rest;
    return go(j, IN_LITERAL);
}

static enum loose_step open_value(struct loose_json *j, char byte) {
    switch (byte) {
    case '{': return open_container(j, false);
    case '[': return open_container(j, true);
    case '"': j->in_key = false; return go(j, IN_STRING);
    case 't': return open_literal(j, "rue");
    case 'f': return open_literal(j, "alse");
    case 'n': return open_literal(j, "ull");
    case '-': return go(j, NUMBER_MINUS);
    case '0': return go(j, NUMBER_ZERO);
    default: return is_digit(byte) ? go(j, NUMBER_WHOLE) : LOOSE_BAD;
    }
}

static enum loose_step between(struct loose_json *j, char byte) {
    switch (j->state) {
    case WANT_VALUE_OR_END:
        if (byte == ']') return close_container(j, byte);
        return open_value(j, byte);
    case WANT_VALUE: return open_value(j, byte);
    case WANT_KEY_OR_END:
        if (byte == '}') return close_container(j, byte);
        /* fall through */
    case WANT_KEY: j->in_key = true; return byte == '"' ? go(j, IN_STRING) : LOOSE_BAD;
    case WANT_COLON: return byte == ':' ? go(j, WANT_VALUE) : LOOSE_BAD;
    default:
        if (j->depth == 0) return LOOSE_BAD;
        if (byte == ',') return go(j, j->is_array[j->depth - 1] ? WANT_VALUE : WANT_KEY);
        return byte == ']' || byte == '}' ? close_container(j, byte) : LOOSE_BAD;
    }
}

static enum loose_step in_string(struct loose_json *j, char byte) {
    if (j->expect_hex) {
        j->expect_hex--;
        return hex_value(byte) < 0 ? LOOSE_BAD : LOOSE_MORE;
    }
    if (byte == '\\') return go(j, IN_ESCAPE);
    if (byte != '"') return LOOSE_MORE;
    return j->in_key ? go(j, WANT_COLON) : value_ended(j);
}

static enum loose_step in_escape(struct loose_json *j, char byte) {
    if (byte == 'u')
        j->expect_hex = 4;
    else if (byte == 0 || !strchr("\"\\/bfnrt", byte))
        return LOOSE_BAD;
    return go(j, IN_STRING);
}

static bool is_whole_number(uint8_t state) {
    return state == NUMBER_ZERO || state == NUMBER_WHOLE || state == NUMBER_FRACTION || state == NUMBER_EXPONENT;
}

static enum loose_step in_number(struct loose_json *j, char byte) {
    const uint8_t s = j->state;
    if (is_digit(byte) && s != NUMBER_ZERO) {
        if (s == NUMBER_MINUS) return go(j, byte == '0' ? NUMBER_ZERO : NUMBER_WHOLE);
        if (s == NUMBER_WHOLE) return LOOSE_MORE;
        return go(j, s == NUMBER_POINT || s == NUMBER_FRACTION ? NUMBER_FRACTION : NUMBER_EXPONENT);
    }
    if (byte == '.' && (s == NUMBER_ZERO || s == NUMBER_WHOLE)) return go(j, NUMBER_POINT);
    if ((byte == 'e' || byte == 'E') && is_whole_number(s) && s != NUMBER_EXPONENT) return go(j, NUMBER_E);
    if ((byte == '+' || byte == '-') && s == NUMBER_E) return go(j, NUMBER_SIGN);
    if (!is_whole_number(s) || j->depth == 0) return LOOSE_BAD;
    j->state = WANT_COMMA_OR_END;
    return loose_json_step(j, byte);
}

enum loose_step loose_json_step(struct loose_json *j, char byte) {
    if (j->state == IN_STRING) return in_string(j, byte);
    if (j->state == IN_ESCAPE) return in_escape(j, byte);
    if (j->state >= NUMBER_MINUS) return in_number(j, byte);
    if (j->state == IN_LITERAL) {
        if (byte != *j->literal) return LOOSE_BAD;
        return *++j->literal ? LOOSE_MORE : value_ended(j);
    }
    return is_space(byte) ? LOOSE_MORE : between(j, byte);
}

bool loose_json_is_value(struct span s) {
    struct loose_json j = {0};
    if (s.len == 0 || is_space(*s.ptr)) return false;
    for (size_t i = 0; i < s.len; i++) {
        const enum loose_step step = loose_json_step(&j, s.ptr[i]);
        if (step != LOOSE_MORE) return step == LOOSE_DONE && i + 1 == s.len;
    }
    return j.depth == 0 && is_whole_number(j.state);
}

/* ---- readers ---------------------------------------------------------------------------------------------------------- */

static size_t skip_string(struct span s, size_t at) {
    for (at++; at < s.len && s.ptr[at] != '"'; at++)
        if (s.ptr[at] == '\\') at++;
    return at + 1;
}

static size_t skip_value(struct span s, size_t at) {
    if (s.ptr[at] == '"') return skip_string(s, at);
    size_t depth = 0;
    while (at < s.len) {
        const char c = s.ptr[at];
        if (c == '"') {
            at = skip_string(s, at);
            continue;
        }
        if (c == '{' || c == '[') depth++;
        if (depth == 0 && (c == ',' || c == '}' || c == ']' || is_space(c))) return at;
        if (c == '}' || c == ']') {
            if (--depth == 0) return at + 1;
        }
        at++;
    }
    return at;
}

bool loose_json_member(struct span object, size_t *at, struct span *key, struct span *value) {
    size_t i = *at;
    while (i < object.len && object.ptr[i] != '"') i++; /* the brace or comma in front, white space */
    if (i >= object.len) return false;
    const size_t key_from = i;
    i = skip_string(object, i);
    *key = (struct span){object.ptr + key_from, i - key_from};
    while (is_space(object.ptr[i])) i++;
    i++; /* colon */
    while (is_space(object.ptr[i])) i++;
    *at = skip_value(object, i);
    *value = (struct span){object.ptr + i, *at - i};
    return true;
}

/* The unit of the \uXXXX at `at`, -1 when there is none. */
static int32_t escape_unit(struct span s, size_t at) {
    if (at + 6 > s.len || s.ptr[at] != '\\' || s.ptr[at + 1] != 'u') return -1;
    int32_t unit = 0;
    for (size_t i = at + 2; i < at + 6; i++) unit = unit * 16 + hex_value(s.ptr[i]);
    return unit;
}

/* The scalar that the escape at `at` spells and its length in the source; a lone surrogate is U+FFFD. */
static uint32_t escape_scalar(struct span s, size_t at, size_t *used) {
    static const char letters[] = "bfnrt", controls[] = "\b\f\n\r\t";
    const int32_t unit = escape_unit(s, at);
    *used = unit < 0 ? 2 : 6;
    if (unit < 0) {
        const char *const letter = strchr(letters, s.ptr[at + 1]);
        return (unsigned char)(letter ? controls[letter - letters] : s.ptr[at + 1]);
    }
    if (unit < 0xd800 || unit > 0xdfff) return (uint32_t)unit;
    const int32_t low = unit < 0xdc00 ? escape_unit(s, at + 6) : -1;
    if (low < 0xdc00 || low > 0xdfff) return 0xfffd;
    *used = 12;
    return 0x10000 + (((uint32_t)unit - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
}

void loose_json_decode(struct span literal, struct text *out) {
    const struct span s = {literal.ptr + 1, literal.len - 2};
    for (size_t at = 0; at < s.len;) {
        const char *const escape = memchr(s.ptr + at, '\\', s.len - at);
        const size_t plain = escape ? (size_t)(escape - s.ptr) : s.len;
        text_add(out, s.ptr + at, plain - at);
        at = plain;
        if (!escape) break;
        size_t used;
        utf8_append(out, escape_scalar(s, at, &used));
        at += used;
    }
}

void loose_json_strict(struct span value, struct text *out) {
    bool inside = false;
    size_t from = 0; /* copied up to here */
    for (size_t at = 0; at < value.len;) {
        const char c = value.ptr[at];
        if (c == '"') inside = !inside;
        if (inside && c == '\\') {
            size_t used;
            escape_scalar(value, at, &used);
            const int32_t unit = escape_unit(value, at);
            if (unit >= 0xd800 && unit <= 0xdfff && used == 6) {
                text_add(out, value.ptr + from, at - from);
                text_add_span(out, SPAN("\\ufffd"));
                from = at + used;
            }
            at += used;
            continue;
        }
        if (inside && (unsigned char)c < 0x20) {
            text_add(out, value.ptr + from, at - from);
            const char *const letter = c ? strchr("\bb\ff\nn\rr\tt", c) : NULL;
            if (letter)
                text_addf(out, "\\%c", letter[1]);
            else
                text_addf(out, "\\u%04x", (unsigned)c);
            from = at + 1;
        }
        at++;
    }
    text_add(out, value.ptr + from, value.len - from);
}
