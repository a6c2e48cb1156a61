/* UTF-8 steps, character classes, NFC. Owns nothing; the data lies in the generated unicode_tables.c.
 *
 * NFC works on stretches: an inert character (a starter that NFC never changes and that never joins leftwards) begins a new
 * stretch, so only stretches with something in them are decomposed, sorted and recomposed. */
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode_tables.h"

enum { REPLACEMENT = 0xFFFD };

/* Hangul syllables are arithmetic: Unicode standard, section 3.12. */
enum {
    HANGUL_S = 0xAC00,
    HANGUL_L = 0x1100,
    HANGUL_V = 0x1161,
    HANGUL_T = 0x11A7,
    HANGUL_N_L = 19,
    HANGUL_N_V = 21,
    HANGUL_N_T = 28,
    HANGUL_N_S = HANGUL_N_L * HANGUL_N_V * HANGUL_N_T,
};

static unsigned properties(uint32_t code) {
    const uint32_t block = code / UNICODE_BLOCK;
    if (block >= unicode_n_index) return 0;
    const uint32_t at = code % UNICODE_BLOCK;
    return (unicode_blocks[unicode_index[block]][at / 16] >> 4 * (at % 16)) & 15;
}

enum char_class unicode_class(uint32_t code) { return properties(code) & 3; }

static bool is_inert(uint32_t code) { return !(properties(code) & UNICODE_NOT_INERT); }

/* ---- UTF-8 ---------------------------------------------------------------------------------------------------- */

/* Lead bytes narrow the range of the second byte (Unicode standard, table 3-7), which is what keeps overlong forms,
 * surrogates and values above 10FFFF out and what defines the maximal subpart. */
enum utf8_step utf8_decode(const uint8_t *s, size_t len, uint32_t *code, size_t *used) {
    const uint8_t lead = s[0];
    *used = 1;
    *code = lead;
    if (lead < 0x80) return UTF8_GOOD;
    *code = REPLACEMENT;
    if (lead < 0xC2 || lead > 0xF4) return UTF8_BAD;
    const size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    uint32_t value = lead & (0xFFu >> (need + 1));
    for (size_t i = 1; i < need; i++) {
        if (i == len) return UTF8_CUT;
        if (s[i] < low || s[i] > high) return UTF8_BAD;
        value = value << 6 | (s[i] & 0x3F);
        *used = i + 1;
        low = 0x80;
        high = 0xBF;
    }
    *code = value;
    return UTF8_GOOD;
}

uint32_t utf8_decode_valid(const uint8_t *s, size_t *used) {
    const uint32_t a = s[0];
    if (a < 0x80) return *used = 1, a;
    if (a < 0xE0) return *used = 2, (a & 0x1F) << 6 | (s[1] & 0x3F);
    if (a < 0xF0) return *used = 3, (a & 0x0F) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3F);
    return *used = 4, (a & 0x07) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3F);
}

void utf8_append(struct text *out, uint32_t code) {
    uint8_t bytes[4];
    size_t n = 0;
    if (code < 0x80) {
        bytes[n++] = (uint8_t)code;
    } else if (code < 0x800) {
        bytes[n++] = (uint8_t)(0xC0 | code >> 6);
    } else {
        if (code < 0x10000) {
            bytes[n++] = (uint8_t)(0xE0 | code >> 12);
        } else {
            bytes[n++] = (uint8_t)(0xF0 | code >> 18);
            bytes[n++] = (uint8_t)(0x80 | (code >> 12 & 0x3F));
        }
        bytes[n++] = (uint8_t)(0x80 | (code >> 6 & 0x3F));
    }
    if (code >= 0x80) bytes[n++] = (uint8_t)(0x80 | (code & 0x3F));
    text_add(out, bytes, n);
}

/* ---- canonical composition data --------------------------------------------------------------------------------- */

static uint8_t combining_class(uint32_t code) {
    if (is_inert(code)) return 0;
    size_t low = 0, high = unicode_n_ccc;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const struct unicode_ccc_range *range = &unicode_ccc_ranges[middle];
        if (code > range->last)
            low = middle + 1;
        else if (code < range->first)
            high = middle;
        else
            return range->ccc;
    }
    return 0;
}

static const struct unicode_decomposition *find_decomposition(uint32_t code) {
    size_t low = 0, high = unicode_n_decompositions;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (unicode_decompositions[middle].code < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < unicode_n_decompositions && unicode_decompositions[low].code == code ? &unicode_decompositions[low] : NULL;
}

/* The character that a followed by b composes to; 0: none. */
static uint32_t composite_of(uint32_t a, uint32_t b) {
    if (a - HANGUL_L < HANGUL_N_L && b - HANGUL_V < HANGUL_N_V)
        return HANGUL_S + ((a - HANGUL_L) * HANGUL_N_V + (b - HANGUL_V)) * HANGUL_N_T;
    if (a - HANGUL_S < HANGUL_N_S && (a - HANGUL_S) % HANGUL_N_T == 0 && b - HANGUL_T - 1 < HANGUL_N_T - 1)
        return a + (b - HANGUL_T);
    size_t low = 0, high = unicode_n_composites;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const struct unicode_decomposition *row = &unicode_decompositions[unicode_composites[middle]];
        if (row->a == a && row->b == b) return row->code;
        if (row->a < a || (row->a == a && row->b < b))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* ---- NFC -------------------------------------------------------------------------------------------------------- */

struct mark {
    uint32_t code;
    uint8_t ccc;
};

/* The stretch being collected, already decomposed. */
struct stretch {
    struct mark *marks;
    size_t len, cap;
    struct mark *spare; /* for sorting, as large as marks */
    bool failed;
};

static void stretch_add(struct stretch *s, uint32_t code) {
    if (s->failed) return;
    if (s->len == s->cap) {
        const size_t cap = s->cap ? s->cap * 2 : 32;
        struct mark *marks = realloc(s->marks, cap * sizeof *marks);
        if (marks) s->marks = marks;
        struct mark *spare = marks ? realloc(s->spare, cap * sizeof *spare) : NULL;
        if (spare) s->spare = spare;
        if (!spare) {
            s->failed = true;
            return;
        }
        s->cap = cap;
    }
    s->marks[s->len++] = (struct mark){code, combining_class(code)};
}

/* Full canonical decomposition. Only the first of a pair decomposes further (a property of the data), so this is a loop. */
static void stretch_decompose(struct stretch *s, uint32_t code) {
    enum { DEPTH = 8 };
    uint32_t tail[DEPTH];
    size_t n = 0;
    if (code - HANGUL_S < HANGUL_N_S) {
        const uint32_t index = code - HANGUL_S;
        stretch_add(s, HANGUL_L + index / (HANGUL_N_V * HANGUL_N_T));
        stretch_add(s, HANGUL_V + index % (HANGUL_N_V * HANGUL_N_T) / HANGUL_N_T);
        if (index % HANGUL_N_T) stretch_add(s, HANGUL_T + index % HANGUL_N_T);
        return;
    }
    for (const struct unicode_decomposition *row; n < DEPTH && (row = find_decomposition(code)); code = row->a)
        if (row->b) tail[n++] = row->b;
    stretch_add(s, code);
    while (n) stretch_add(s, tail[--n]);
}

/* Stable sort by class: insertion for the usual few marks, counting for the unusual thousands. */
static void sort_marks(struct mark *marks, struct mark *spare, size_t n) {
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            const struct mark moving = marks[i];
            size_t j = i;
            for (; j > 0 && marks[j - 1].ccc > moving.ccc; j--) marks[j] = marks[j - 1];
            marks[j] = moving;
        }
        return;
    }
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++) start[marks[i].ccc + 1]++;
    for (size_t c = 0; c < 256; c++) start[c + 1] += start[c];
    for (size_t i = 0; i < n; i++) spare[start[marks[i].ccc]++] = marks[i];
    memcpy(marks, spare, n * sizeof *marks);
}

static void stretch_sort(struct stretch *s) {
    for (size_t i = 0; i < s->len;) {
        size_t end = i;
        while (end < s->len && s->marks[end].ccc) end++;
        sort_marks(s->marks + i, s->spare + i, end - i);
        i = end + 1;
    }
}

/* Canonical composition (Unicode standard, D117): a mark joins the last starter unless something between has its class or more.
 */
static void stretch_compose(struct stretch *s) {
    size_t starter = SIZE_MAX, kept = 0;
    int last_ccc = -1; /* of the last kept mark after the starter; -1: none between */
    for (size_t i = 0; i < s->len; i++) {
        const struct mark mark = s->marks[i];
        uint32_t joined = 0;
        if (starter != SIZE_MAX && last_ccc < (int)mark.ccc) joined = composite_of(s->marks[starter].code, mark.code);
        if (joined) {
            s->marks[starter].code = joined;
            continue;
        }
        if (mark.ccc == 0) starter = kept;
        last_ccc = mark.ccc == 0 ? -1 : mark.ccc;
        s->marks[kept++] = mark;
    }
    s->len = kept;
}

static void stretch_flush(struct stretch *s, struct text *out) {
    stretch_sort(s);
    stretch_compose(s);
    for (size_t i = 0; i < s->len; i++) utf8_append(out, s->marks[i].code);
    s->len = 0;
}

bool unicode_is_settled(struct span s) {
    const uint8_t *bytes = (const uint8_t *)s.ptr;
    for (size_t at = 0, used; at < s.len; at += used) {
        uint32_t code;
        if (bytes[at] < 0x80) {
            used = 1;
            continue;
        }
        if (utf8_decode(bytes + at, s.len - at, &code, &used) != UTF8_GOOD || !is_inert(code)) return false;
    }
    return true;
}

static void append_lossy(struct span s, struct text *out) {
    const uint8_t *bytes = (const uint8_t *)s.ptr;
    for (size_t at = 0, used; at < s.len; at += used) {
        uint32_t code;
        utf8_decode(bytes + at, s.len - at, &code, &used);
        utf8_append(out, code);
    }
}

void unicode_normalize(struct span s, bool compose, struct text *out) {
    if (!compose) {
        append_lossy(s, out);
        return;
    }
    struct stretch stretch = {0};
    const uint8_t *bytes = (const uint8_t *)s.ptr;
    bool single = false; /* the stretch so far is one inert character, kept composed */
    for (size_t at = 0, used; at < s.len && !stretch.failed; at += used) {
        uint32_t code;
        utf8_decode(bytes + at, s.len - at, &code, &used);
        if (is_inert(code)) {
            stretch_flush(&stretch, out);
            stretch_add(&stretch, code);
            single = true;
            continue;
        }
        if (single) {
            const uint32_t first = stretch.marks[0].code;
            stretch.len = 0;
            stretch_decompose(&stretch, first);
            single = false;
        }
        stretch_decompose(&stretch, code);
    }
    stretch_flush(&stretch, out);
    if (stretch.failed) out->failed = true;
    free(stretch.marks);
    free(stretch.spare);
}
