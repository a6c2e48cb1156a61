/* The merges, in stand-in form as a GGUF file has them, and the rows around them. */
#include "tests/support/small_vocab.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const char *const MERGES[] = {
    "h e",
    "l l",
    "he ll",
    "hell o",
    "o r",
    "\u0120 w",
    "\u0120w or",
    "l d",
    "\u0120wor ld",
    "w or",
    "\u0120 t",
    "t he",
    "\u0120 a",
    "\u0120t he",
    "a a",
    "aa aa",
    "aaaa aaaa",
    "i n",
    "in g",
    "' s",
    "e r",
    "\u0120 \u0120",
    "\u0120\u0120 \u0120\u0120",
    "\u010a \u010a",
    "\u00c3 \u00a9",
    "\u00f0 \u0141",
    "\u00f0\u0141 \u013a",
    "\u00e4 \u00bd",
    "\u00e4\u00bd \u0142",
    "< |",
    "im p",
    "i m",
    "\u0120 wor",
};
enum { N_MERGES = sizeof MERGES / sizeof *MERGES };

/* "<tool" is a prefix of "<tool_call>", and the last two are not of the "<...>" kind: matching must be general. */
const char *const small_vocab_added[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>",
                                         "<tool",         "<think>",      "<|old|>",    "caf\u00e9"};

static size_t put_utf8(char *out, unsigned code) {
    if (code < 0x80) return out[0] = (char)code, 1;
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3F));
    return 2;
}

/* Both directions of the alphabet: printable Latin-1 stands for itself, the other 68 bytes are U+0100 and up. */
struct alphabet {
    unsigned code_of[256];
    uint8_t byte_of[0x100 + 68];
};

static struct alphabet make_alphabet(void) {
    struct alphabet a;
    unsigned other = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        a.code_of[b] = itself ? b : other++;
        a.byte_of[a.code_of[b]] = (uint8_t)b;
    }
    return a;
}

static size_t raw_of(const struct alphabet *a, struct span stored, char out[16]) {
    size_t n = 0;
    for (size_t at = 0; at < stored.len;) {
        const uint8_t lead = (uint8_t)stored.ptr[at];
        out[n++] = (char)a->byte_of[lead < 0x80 ? lead : (lead & 0x1Fu) << 6 | (stored.ptr[at + 1] & 0x3Fu)];
        at += lead < 0x80 ? 1 : 2;
    }
    return n;
}

static void add_row(struct small_vocab *v, size_t *used, struct span text, int32_t type) {
    assert(v->source.n_tokens < SMALL_VOCAB_CAP && *used + text.len <= sizeof v->storage);
    memcpy(v->storage + *used, text.ptr, text.len);
    v->tokens[v->source.n_tokens] = (struct span){v->storage + *used, text.len};
    v->types[v->source.n_tokens++] = type;
    *used += text.len;
}

static bool has_row(const struct small_vocab *v, struct span text) {
    for (size_t i = 0; i < v->source.n_tokens; i++)
        if (span_equal(v->tokens[i], text)) return true;
    return false;
}

void small_vocab_fill(struct small_vocab *v) {
    const struct alphabet alphabet = make_alphabet();
    size_t used = 0;
    char text[32];
    memset(v, 0, sizeof *v);
    for (size_t i = N_MERGES; i-- > 0;) {
        const char *space = strchr(MERGES[i], ' ');
        const int len = snprintf(text, sizeof text, "%.*s%s", (int)(space - MERGES[i]), MERGES[i], space + 1);
        if (!has_row(v, (struct span){text, (size_t)len})) add_row(v, &used, (struct span){text, (size_t)len}, 1);
    }
    for (unsigned b = 256; b-- > 0;) add_row(v, &used, (struct span){text, put_utf8(text, alphabet.code_of[b])}, 1);
    for (size_t i = 0; i < SMALL_VOCAB_N_ADDED; i++)
        add_row(v, &used, span_of(small_vocab_added[i]), i < SMALL_VOCAB_N_CONTROL ? 3 : 4);
    for (int32_t type = 1; type <= 5; type += 4) {
        const int len = snprintf(text, sizeof text, "[PAD%zu]", v->source.n_tokens);
        add_row(v, &used, (struct span){text, (size_t)len}, type);
    }
    static_assert(N_MERGES <= sizeof v->merges / sizeof *v->merges, "merges");
    for (size_t i = 0; i < N_MERGES; i++) {
        const char *space = strchr(MERGES[i], ' ');
        struct small_merge *raw = &v->raw_merges[i];
        v->merges[i] = span_of(MERGES[i]);
        raw->left_len = raw_of(&alphabet, (struct span){MERGES[i], (size_t)(space - MERGES[i])}, raw->left);
        raw->right_len = raw_of(&alphabet, span_of(space + 1), raw->right);
    }
    v->source.tokens = v->tokens;
    v->source.types = v->types;
    v->source.n_merges = N_MERGES;
    v->source.merges = v->merges;
    v->source.bos = v->source.eot = v->source.pad = -1;
    for (size_t i = 0; i < v->source.n_tokens; i++)
        if (span_equal(v->tokens[i], SPAN("<|endoftext|>"))) v->source.eos = (int32_t)i;
}
