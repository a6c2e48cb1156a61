/* libFuzzer target: text through the small vocabulary, or through one that the input has edited.
 *
 *   byte 0      bits 0-1: what is recognised (enum token_parse, 3 counts as 0); bit 2: no NFC; bit 7: edits follow
 *   edits       byte: how many (low 4 bits); each: kind, index (2 bytes), length, that many bytes
 *   the rest    the text
 *
 * Whatever vocabulary opens has all bytes and sound merges, so the ids must decode to exactly what went in: added tokens as
 * they are, everything between them normalized. With the unedited vocabulary each piece is also merged the readable way. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "tests/support/small_vocab.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LONGEST_ADDED = 256, LONGEST_SCANNED = 64, MAX_TEXT = 4096 };
enum edit { EDIT_TOKEN, EDIT_TYPE, EDIT_MERGE, EDIT_SPECIAL, EDIT_COUNTS, EDIT_KINDS };

struct input {
    const uint8_t *data;
    size_t len;
};

static uint8_t take_byte(struct input *in) { return in->len ? in->len--, *in->data++ : 0; }

static struct span take_bytes(struct input *in, size_t len) {
    if (len > in->len) len = in->len;
    const struct span s = {(const char *)in->data, len};
    in->data += len;
    in->len -= len;
    return s;
}

static void edit_vocabulary(struct small_vocab *v, struct input *in) {
    for (int n = take_byte(in) & 15; n > 0; n--) {
        const enum edit kind = take_byte(in) % EDIT_KINDS;
        const size_t index = take_byte(in) | (size_t)take_byte(in) << 8;
        const struct span bytes = take_bytes(in, take_byte(in));
        const int32_t value = (int32_t)index - 1000;
        if (kind == EDIT_TOKEN) v->tokens[index % v->source.n_tokens] = bytes;
        if (kind == EDIT_TYPE) v->types[index % v->source.n_tokens] = bytes.len ? (int8_t)bytes.ptr[0] : 4;
        if (kind == EDIT_MERGE) v->merges[index % v->source.n_merges] = bytes;
        if (kind == EDIT_SPECIAL) *(bytes.len % 2 ? &v->source.eos : &v->source.bos) = value;
        if (kind == EDIT_COUNTS && bytes.len % 2) v->source.n_merges = index % v->source.n_merges + 1;
        if (kind == EDIT_COUNTS && !(bytes.len % 2)) v->source.n_tokens = index % v->source.n_tokens + 1;
    }
}

/* Length of the longest recognised added token at the start of `s`; 0: none. Tries every length. */
static size_t added_length(const struct tokenizer *t, struct span s, enum token_parse parse) {
    if (parse == PARSE_NOTHING) return 0;
    for (size_t len = s.len < LONGEST_ADDED ? s.len : LONGEST_ADDED; len > 0; len--) {
        const int32_t id = tokenizer_find(t, (struct span){s.ptr, len});
        if (id >= 0 && (parse == PARSE_SPECIAL || !tokenizer_is_control(t, id))) return len;
    }
    return 0;
}

static void expect_text(const struct tokenizer *t, struct span s, enum token_parse parse, bool nfc, struct text *out) {
    size_t start = 0;
    for (size_t at = 0; at <= s.len;) {
        const size_t added = at < s.len ? added_length(t, (struct span){s.ptr + at, s.len - at}, parse) : 0;
        if (added || at == s.len) {
            unicode_normalize((struct span){s.ptr + start, at - start}, nfc, out);
            text_add(out, s.ptr + at, added);
            start = at + added;
        }
        at += added ? added : 1;
    }
}

/* Lengths of the tokens of one piece, by scanning for the lowest rank again and again. */
static size_t merge_by_scanning(const struct small_vocab *v, struct span piece, size_t *lengths) {
    size_t n = piece.len;
    for (size_t i = 0; i < n; i++) lengths[i] = 1;
    for (size_t rank = 0; rank < v->source.n_merges;) {
        const struct small_merge *m = &v->raw_merges[rank++];
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; at += lengths[i++]) {
            if (lengths[i] != m->left_len || lengths[i + 1] != m->right_len) continue;
            if (memcmp(piece.ptr + at, m->left, m->left_len) || memcmp(piece.ptr + at + m->left_len, m->right, m->right_len))
                continue;
            lengths[i] += lengths[i + 1];
            memmove(lengths + i + 1, lengths + i + 2, (n - i - 2) * sizeof *lengths);
            n--;
            rank = 0; /* a new pair may have a lower rank */
            break;
        }
    }
    return n;
}

/* Pieces are cut from normalized text and encoded one by one without normalizing them again. */
static void check_merging(struct small_vocab *v, struct span text) {
    struct text normal = {0};
    struct tokenizer *t;
    unicode_normalize(text, !v->source.no_nfc, &normal);
    v->source.no_nfc = true;
    enum err err = tokenizer_open(&v->source, &t, NULL);
    assert(err == ERR_NONE);
    for (size_t at = 0, end; at < normal.len; at = end) {
        end = pretokenize_piece_end((struct span){normal.ptr, normal.len}, at);
        assert(end > at && end <= normal.len);
        const struct span piece = {normal.ptr + at, end - at};
        if (piece.len > LONGEST_SCANNED) continue;
        size_t lengths[LONGEST_SCANNED], from = 0;
        const size_t n = merge_by_scanning(v, piece, lengths);
        struct token_list list = {0};
        err = tokenizer_encode(t, piece, PARSE_NOTHING, &list, NULL);
        assert(err == ERR_NONE && list.len == n);
        for (size_t i = 0; i < n; from += lengths[i++])
            assert(span_equal(tokenizer_bytes(t, list.ids[i]), (struct span){piece.ptr + from, lengths[i]}));
        token_list_free(&list);
    }
    tokenizer_close(&t);
    text_free(&normal);
}

static void check_text(const struct tokenizer *t, struct span s, enum token_parse parse, bool nfc) {
    struct token_list list = {0};
    struct detokenizer d = {.show_control = true};
    struct text decoded = {0}, expected = {0};
    const enum err err = tokenizer_encode(t, s, parse, &list, NULL);
    assert(err == ERR_NONE);
    for (size_t i = 0; i < list.len; i++) {
        assert(!tokenizer_is_unused(t, list.ids[i]));
        detokenize_step(&d, t, list.ids[i], &decoded);
        assert(d.n_held <= 3);
    }
    detokenize_end(&d, &decoded);
    expect_text(t, s, parse, nfc, &expected);
    assert(span_equal((struct span){decoded.ptr, decoded.len}, (struct span){expected.ptr, expected.len}));
    text_free(&decoded);
    text_free(&expected);
    token_list_free(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct small_vocab vocab;
    struct input in = {data, size};
    const uint8_t flags = take_byte(&in);
    const bool edited = flags & 0x80;
    const enum token_parse parse = (flags & 3) % 3;
    small_vocab_fill(&vocab);
    vocab.source.no_nfc = flags & 4;
    if (edited) edit_vocabulary(&vocab, &in);

    struct tokenizer *t;
    struct reason why = {""};
    const enum err err = tokenizer_open(&vocab.source, &t, &why);
    assert(edited || err == ERR_NONE);
    assert((err == ERR_NONE) == (t != NULL) && (err == ERR_NONE || why.text[0]));
    if (!t) return 0;
    const struct span text = take_bytes(&in, MAX_TEXT);
    check_text(t, text, parse, !vocab.source.no_nfc);
    tokenizer_close(&t);
    if (!edited) check_merging(&vocab, text);
    return 0;
}
