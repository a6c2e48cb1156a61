/* The qwen2 pre-tokenizer as a scanner without backtracking. Owns nothing, allocates nothing.
 *
 * It cuts as this expression does, every match being a piece:
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
#include "text/pretokenize.h"

#include "text/unicode.h"

struct cursor {
    const uint8_t *bytes;
    size_t len;
};

/* One character. Past the end: class OTHER with `next` unchanged, so that no run goes on. */
struct character {
    uint32_t code;
    enum char_class class;
    size_t next;
};

static struct character look(const struct cursor *c, size_t at) {
    if (at >= c->len) return (struct character){0, CHAR_OTHER, at};
    size_t used;
    const uint32_t code = utf8_decode_valid(c->bytes + at, &used);
    return (struct character){code, unicode_class(code), at + used};
}

static bool is_line_end(uint32_t code) { return code == '\r' || code == '\n'; }

static size_t skip_class(const struct cursor *c, size_t at, enum char_class class) {
    for (struct character x; at < c->len && (x = look(c, at)).class == class;) at = x.next;
    return at;
}

/* End of 's 't 'm 'd 're 've 'll in either case, or `start`. The regular expression folds U+017F to s as well. */
static size_t contraction_end(const struct cursor *c, size_t start) {
    if (c->bytes[start] != '\'' || start + 1 >= c->len) return start;
    const uint8_t a = c->bytes[start + 1] | 0x20;
    const uint8_t b = start + 2 < c->len ? c->bytes[start + 2] | 0x20 : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return start + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return start + 3;
    if (c->bytes[start + 1] == 0xC5 && start + 2 < c->len && c->bytes[start + 2] == 0xBF) return start + 3;
    return start;
}

/* A run of white space [start, end): up to its last line end; or all of it when nothing follows or it is one character; or
 * all but its last character, which then leads the next piece. */
static size_t space_end(const struct cursor *c, size_t start) {
    size_t at = start, last = start, after_line_end = 0;
    for (struct character x; at < c->len && (x = look(c, at)).class == CHAR_SPACE; at = x.next) {
        last = at;
        if (is_line_end(x.code)) after_line_end = x.next;
    }
    if (after_line_end) return after_line_end;
    return at == c->len || last == start ? at : last;
}

size_t pretokenize_piece_end(struct span s, size_t start) {
    const struct cursor c = {(const uint8_t *)s.ptr, s.len};
    const size_t contraction = contraction_end(&c, start);
    if (contraction > start) return contraction;

    const struct character first = look(&c, start);
    if (first.class == CHAR_LETTER) return skip_class(&c, first.next, CHAR_LETTER);
    if (first.class == CHAR_NUMBER) return first.next;
    const struct character second = look(&c, first.next);
    if (second.class == CHAR_LETTER && !is_line_end(first.code)) return skip_class(&c, second.next, CHAR_LETTER);

    size_t at = first.code == ' ' ? first.next : start;
    if (at < c.len && look(&c, at).class == CHAR_OTHER) {
        at = skip_class(&c, at, CHAR_OTHER);
        while (at < c.len && is_line_end(c.bytes[at])) at++;
        return at;
    }
    return space_end(&c, start);
}
