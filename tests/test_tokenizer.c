/* The tokenizer against reference ids, against a readable merge loop, and against vocabularies that lie.
 *
 * The full reference data is read from ../shared when it is there; a cut of it (tests/golden/tokenizer/subset.json: real
 * merges, ids renumbered at random) and a small made-up vocabulary are always tested. */
#include "tests/support/check.h"

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "model/model.h"
#include "tests/support/model_tokenizer.h"
#include "tests/support/small_vocab.h"
#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

/* ---- helpers ---------------------------------------------------------------------------------------------------------- */

static uint64_t random_bits(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static struct tokenizer *open_or_die(const struct tokenizer_source *source) {
    struct tokenizer *t = NULL;
    struct reason why = {""};
    if (tokenizer_open(source, &t, &why) != ERR_NONE) fail_test("%s", why.text);
    return t;
}

static struct small_vocab small;

static struct tokenizer *open_small(void) {
    small_vocab_fill(&small);
    return open_or_die(&small.source);
}

/* Allocated at the moment, where the allocator counts (not under sanitizers). */
static uint64_t held_bytes(void) {
    const struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static void memory_is_foretold(void **state) {
    (void)state;
    small_vocab_fill(&small);
    const uint64_t before = held_bytes();
    struct tokenizer *t = open_or_die(&small.source);
    const uint64_t held = held_bytes() - before, foretold = tokenizer_memory(&small.source);
    tokenizer_close(&t);
    assert_in_range(held, 0, foretold);
    assert_in_range(foretold, 0, held ? 4 * held : UINT64_MAX);
}

static struct token_list encode(const struct tokenizer *t, struct span text, enum token_parse parse) {
    struct token_list list = {0};
    struct reason why = {""};
    if (tokenizer_encode(t, text, parse, &list, &why) != ERR_NONE) fail_test("%s", why.text);
    return list;
}

static struct text decode(const struct tokenizer *t, const struct token_list *list, bool show_control) {
    struct detokenizer d = {.show_control = show_control};
    struct text out = {0};
    for (size_t i = 0; i < list->len; i++) {
        detokenize_step(&d, t, list->ids[i], &out);
        assert_true(d.n_held <= 3);
    }
    detokenize_end(&d, &out);
    assert_int_equal(d.n_held, 0);
    assert_false(out.failed);
    return out;
}

static struct span span_of_text(const struct text *t) { return (struct span){t->ptr ? t->ptr : "", t->len}; }

static size_t base64_decode(const char *in, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    size_t n = 0;
    for (int held = 0; *in && *in != '='; in++) {
        bits = bits << 6 | (uint32_t)(strchr(digits, *in) - digits);
        held += 6;
        if (held < 8) continue;
        held -= 8;
        out[n++] = (char)(bits >> held);
    }
    return n;
}

/* The input of a reference line; *own is to be freed. */
static struct span line_input(const json_t *line, char **own) {
    const json_t *text = json_object_get(line, "text");
    *own = NULL;
    if (text) return (struct span){json_string_value(text), json_string_length(text)};
    const char *encoded = json_string_value(json_object_get(line, "bytes_b64"));
    assert_non_null(encoded);
    *own = malloc(strlen(encoded) + 1);
    return (struct span){*own, base64_decode(encoded, *own)};
}

static bool check_line(const struct tokenizer *t, const json_t *line, bool special, const json_t *expected) {
    char *own;
    const struct span input = line_input(line, &own);
    struct token_list list = encode(t, input, special ? PARSE_SPECIAL : PARSE_TEXT);
    bool same = list.len == json_array_size(expected);
    for (size_t i = 0; same && i < list.len; i++) same = json_integer_value(json_array_get(expected, i)) == list.ids[i];
    if (!same) print_error("differs: %s\n", json_string_value(json_object_get(line, "id")));

    struct text text = decode(t, &list, true), normal = {0};
    unicode_normalize(input, true, &normal);
    if (!span_equal(span_of_text(&text), span_of_text(&normal)) && !special) { /* added tokens cut NFC, so only without them */
        print_error("does not come back: %s\n", json_string_value(json_object_get(line, "id")));
        same = false;
    }
    text_free(&text);
    text_free(&normal);
    token_list_free(&list);
    free(own);
    return same;
}

/* ---- reference data --------------------------------------------------------------------------------------------------- */

struct reference {
    struct model *model;
    struct tokenizer *tokenizer;
};

static int open_reference(void **state) {
    static struct reference reference;
    struct reason why = {""};
    const char *path = SHARED_DIR "/golden/tokenizer/qwen3-vocab.gguf";
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    fclose(file);
    if (model_open(path, false, &reference.model, &why) != ERR_NONE) fail_test("%s", why.text);
    reference.tokenizer = open_tokenizer(&reference.model->vocab);
    *state = &reference;
    return 0;
}

static int close_reference(void **state) {
    struct reference *reference = *state;
    if (!reference) return 0;
    tokenizer_close(&reference->tokenizer);
    model_close(&reference->model);
    return 0;
}

/* Runs `check` on each line of a JSON-lines file; returns the number of lines, having failed on the first pass over all. */
static size_t each_line(const char *path, const struct tokenizer *t,
                        bool (*check)(const struct tokenizer *t, const json_t *line)) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *line = NULL;
    size_t cap = 0, count = 0, wrong = 0;
    for (ssize_t len; (len = getline(&line, &cap, file)) > 0; count++) {
        json_t *parsed = json_loadb(line, (size_t)len, JSON_ALLOW_NUL, NULL);
        assert_non_null(parsed);
        wrong += !check(t, parsed);
        json_decref(parsed);
    }
    free(line);
    fclose(file);
    assert_int_equal(wrong, 0);
    return count;
}

static bool check_encode_line(const struct tokenizer *t, const json_t *line) {
    return check_line(t, line, json_is_true(json_object_get(line, "add_special_parse")), json_object_get(line, "tokens"));
}

static bool check_decode_line(const struct tokenizer *t, const json_t *line) {
    const json_t *ids = json_object_get(line, "tokens"), *emits = json_object_get(line, "emits");
    struct detokenizer d = {.show_control = true};
    bool same = true;
    for (size_t i = 0; i <= json_array_size(ids); i++) {
        const bool last = i == json_array_size(ids);
        const json_t *expected = last ? json_object_get(line, "flush") : json_array_get(emits, i);
        struct text out = {0};
        if (last)
            detokenize_end(&d, &out);
        else
            detokenize_step(&d, t, (int32_t)json_integer_value(json_array_get(ids, i)), &out);
        same &= span_equal(span_of_text(&out), (struct span){json_string_value(expected), json_string_length(expected)});
        text_free(&out);
    }
    if (!same) print_error("differs: %s\n", json_string_value(json_object_get(line, "id")));
    return same;
}

static const struct tokenizer *reference_or_skip(void **state) {
    if (*state) return ((struct reference *)*state)->tokenizer;
    print_message("skipped: no reference data at " SHARED_DIR "/golden/tokenizer\n");
    skip();
    return NULL;
}

static void reference_encode(void **state) {
    const struct tokenizer *t = reference_or_skip(state);
    assert_in_range(each_line(SHARED_DIR "/golden/tokenizer/public.jsonl", t, check_encode_line), 1330, 100000);
}

static void reference_decode(void **state) {
    const struct tokenizer *t = reference_or_skip(state);
    assert_in_range(each_line(SHARED_DIR "/golden/tokenizer/detok_public.jsonl", t, check_decode_line), 52, 100000);
}

static void reference_vocabulary(void **state) {
    const struct tokenizer *t = reference_or_skip(state);
    assert_int_equal(tokenizer_size(t), 151936);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(tokenizer_find(t, SPAN("<|im_end|>")), 151645);
    assert_int_equal(tokenizer_find(t, SPAN("</think>")), 151668);
    assert_int_equal(tokenizer_find(t, SPAN("the")), -1);
    int ends = 0, unused = 0, control = 0;
    for (int32_t id = 0; id < 151936; id++) {
        ends += tokenizer_is_end(t, id);
        unused += tokenizer_is_unused(t, id);
        control += tokenizer_is_control(t, id);
        assert_true((tokenizer_bytes(t, id).len == 0) == tokenizer_is_unused(t, id));
    }
    assert_int_equal(ends, 2);
    assert_int_equal(unused, 151936 - 151669);
    assert_int_equal(control, 20);
}

static struct span *spans_of(const json_t *array, size_t *n) {
    *n = json_array_size(array);
    struct span *spans = calloc(*n, sizeof *spans);
    for (size_t i = 0; i < *n; i++) {
        const json_t *item = json_array_get(array, i);
        spans[i] = (struct span){json_string_value(item), json_string_length(item)};
    }
    return spans;
}

static void subset_of_the_reference(void **state) {
    (void)state;
    json_t *root = json_load_file(TESTS_DIR "/golden/tokenizer/subset.json", JSON_ALLOW_NUL, NULL);
    assert_non_null(root);
    struct tokenizer_source source = {.eot = -1, .pad = -1};
    struct span *tokens = spans_of(json_object_get(root, "tokens"), &source.n_tokens);
    struct span *merges = spans_of(json_object_get(root, "merges"), &source.n_merges);
    int32_t *types = calloc(source.n_tokens, sizeof *types);
    for (size_t i = 0; i < source.n_tokens; i++)
        types[i] = (int32_t)json_integer_value(json_array_get(json_object_get(root, "types"), i));
    source.tokens = tokens;
    source.merges = merges;
    source.types = types;
    source.bos = (int32_t)json_integer_value(json_object_get(root, "bos"));
    source.eos = (int32_t)json_integer_value(json_object_get(root, "eos"));
    struct tokenizer *t = open_or_die(&source);

    const json_t *lines = json_object_get(root, "lines");
    size_t wrong = 0;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        wrong += !check_line(t, line, json_is_true(json_object_get(line, "special")), json_object_get(line, "ids"));
    }
    assert_int_equal(wrong, 0);
    assert_true(json_array_size(lines) > 400);
    tokenizer_close(&t);
    free(tokens);
    free(merges);
    free(types);
    json_decref(root);
}

/* ---- pre-tokenizer and Unicode ---------------------------------------------------------------------------------------- */

static void pieces(void **state) {
    (void)state;
    static const char *const rows[] = {/* pieces separated by '^', joined they are the text */
                                       "Hello^ world",
                                       "'s^ound",
                                       "'RE^D",
                                       "'\u017f^x",
                                       "we^'ll^ x^'d^'T^'m^'ve",
                                       "'x",
                                       "\u2019s",
                                       "#'^so",
                                       "a^'",
                                       "'l",
                                       "1^2^3^\u00bd^\u0967",
                                       " ^1",
                                       "a^ ^ b",
                                       "a^  ",
                                       "\t^\tx",
                                       "\tx",
                                       "\u00a0x",
                                       "\n^x",
                                       "  \n  \n^  ^ x",
                                       "a^ \n",
                                       "a^\r\n\r\n^ b",
                                       "x^ =>\n\n^  ^ y",
                                       " ^ !!\r\n",
                                       "!\u0915^\u093f",
                                       "\u0301a",
                                       "\U0001f600x",
                                       "\U0001f600^ \U0001f600",
                                       "\u3000\u3000^\u3000x",
                                       "\x1c\x1c^ \x1c",
                                       "ab^.cd",
                                       ".ab^.."};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct text text = {0}, cut = {0};
        for (const char *p = rows[i]; *p; p++)
            if (*p != '^') text_add(&text, p, 1);
        const struct span s = span_of_text(&text);
        for (size_t at = 0, end; at < s.len; at = end) {
            end = pretokenize_piece_end(s, at);
            assert_true(end > at && end <= s.len);
            if (at) text_add(&cut, "^", 1);
            text_add(&cut, s.ptr + at, end - at);
        }
        assert_string_equal(cut.ptr, rows[i]);
        text_free(&text);
        text_free(&cut);
    }
}

static void check_normalize(struct span in, bool compose, const char *expected) {
    struct text out = {0};
    unicode_normalize(in, compose, &out);
    assert_string_equal(out.ptr, expected);
    if (unicode_is_settled(in)) assert_true(span_equal(in, span_of_text(&out)));
    text_free(&out);
}

static void composition(void **state) {
    (void)state;
    const struct {
        const char *in, *out;
    } rows[] = {
        {"e\u0301", "\u00e9"},                        /* plain pair */
        {"\u0301e", "\u0301e"},                       /* nothing to join */
        {"e\u0323\u0301", "\u1eb9\u0301"},            /* two marks, the second has no composite */
        {"e\u0301\u0323", "\u1eb9\u0301"},            /* sorted by class first */
        {"\u00e9\u0323", "\u1eb9\u0301"},             /* a composed letter is taken apart again */
        {"a\u0300\u0301", "\u00e0\u0301"},            /* same class: blocked */
        {"o\u0302\u0323\u0301", "\u1ed9\u0301"},      /* both join the base, one stays */
        {"\u212b\u2126K\u212a", "\u00c5\u03a9KK"},    /* singletons */
        {"\u0958", "\u0915\u093c"},                   /* composition exclusion */
        {"\ufb1d", "\u05d9\u05b4"},                   /* excluded, decomposes */
        {"\u1100\u1161", "\uac00"},                   /* Hangul L V */
        {"\u1100\u1161\u11a8", "\uac01"},             /* L V T */
        {"\uac00\u11a8", "\uac01"},                   /* LV T */
        {"\uac01\u11a8", "\uac01\u11a8"},             /* LVT takes no more */
        {"\u1100\u0301\u1161", "\u1100\u0301\u1161"}, /* a mark between blocks */
        {"\u1161\u11a8", "\u1161\u11a8"},             /* no L */
        {"\uac00\u11a7", "\uac00\u11a7"},             /* T base is no tail */
        {"\u1e4f\u0323", "\u1ecd\u0303\u0308"},       /* decomposes twice */
        {"\u2000\uf900", "\u2002\u8c48"},             /* spaces and compatibility ideographs are singletons too */
        {"\u0b47\u0b56", "\u0b48"},                   /* two starters that join */
        {"abc \u4f60\u597d", "abc \u4f60\u597d"},     /* nothing to do */
        {"\u1e9b\u0323", "\u1e9b\u0323"},             /* canonical, not compatibility */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        check_normalize(span_of(rows[i].in), true, rows[i].out);
        check_normalize(span_of(rows[i].in), false, rows[i].in);
    }
}

/* Thousands of marks on one base: the counting sort is stable and equals the insertion sort of a short run. */
static void many_marks(void **state) {
    (void)state;
    const char *const marks[] = {"\u0334", "\u0335", "\u0316", "\u0317", "\u0301", "\u0302"}; /* classes 1 1 220 220 230 230 */
    enum { N = 3000 };
    struct text in = {0}, expected = {0}, out = {0};
    text_add(&in, "q", 1);
    text_add(&expected, "q", 1);
    for (int i = 0; i < N; i++) text_add(&in, marks[(i * 7 + i / 5) % 6], 2);
    for (int class = 0; class < 3; class ++)
        for (int i = 0; i < N; i++)
            if ((i * 7 + i / 5) % 6 / 2 == class) text_add(&expected, marks[(i * 7 + i / 5) % 6], 2);
    unicode_normalize(span_of_text(&in), true, &out);
    assert_true(span_equal(span_of_text(&out), span_of_text(&expected)));
    text_free(&in);
    text_free(&out);
    text_free(&expected);
}

static void lossy_decoding(void **state) {
    (void)state;
    const struct {
        const char *in, *out;
    } rows[] = {{"\xC0\x80", "\uFFFD\uFFFD"},
                {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
                {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
                {"\xE2\x82", "\uFFFD"},
                {"\xF0\x9F\x98", "\uFFFD"},
                {"\xF0\x9F\x98x", "\uFFFDx"},
                {"\xE2\x82\xE2\x82\xAC", "\uFFFD\u20ac"},
                {"\xF0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
                {"\xE0\x9F\xBF", "\uFFFD\uFFFD\uFFFD"},
                {"\xF5\xFF\x80", "\uFFFD\uFFFD\uFFFD"},
                {"\xED\x9F\xBF\xEE\x80\x80", "\uD7FF\uE000"},
                {"\xF4\x8F\xBF\xBF", "\U0010FFFF"},
                {"\xE0\xA0\x80\xC2\x80\xF0\x90\x80\x80", "\u0800\xC2\x80\U00010000"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        check_normalize(span_of(rows[i].in), false, rows[i].out);
        check_normalize(span_of(rows[i].in), true, rows[i].out);
    }
}

/* ---- encoding with the small vocabulary ------------------------------------------------------------------------------- */

/* Merging the readable way: strings, a full scan for the lowest rank each time. Returns the token lengths. */
static size_t merge_by_scanning(struct span piece, size_t *lengths) {
    size_t n = piece.len;
    for (size_t i = 0; i < n; i++) lengths[i] = 1;
    for (bool merged = true; merged;) {
        merged = false;
        for (size_t rank = 0; !merged && rank < small.source.n_merges; rank++) {
            const struct small_merge *m = &small.raw_merges[rank];
            size_t at = 0;
            for (size_t i = 0; i + 1 < n && !merged; at += lengths[i++]) {
                if (lengths[i] != m->left_len || lengths[i + 1] != m->right_len) continue;
                if (memcmp(piece.ptr + at, m->left, m->left_len) ||
                    memcmp(piece.ptr + at + m->left_len, m->right, m->right_len))
                    continue;
                lengths[i] += lengths[i + 1];
                memmove(lengths + i + 1, lengths + i + 2, (n - i - 2) * sizeof *lengths);
                n--;
                merged = true;
                break;
            }
        }
    }
    return n;
}

static void merging_equals_a_full_scan(void **state) {
    (void)state;
    static const char *const parts[] = {"hello", " world", " the", "aaaaaaaa", "a",      "ll",         "he",    "\n",
                                        "  ",    "'s",     "ing",  "imp",      "\u00e9", "\U0001f600", "or",    "wor",
                                        "w",     " wor",   "1",    "er",       "<|",     " ",          "\u4f60"};
    struct tokenizer *t = open_small();
    uint64_t random = 2;
    for (int round = 0; round < 3000; round++) {
        struct text text = {0};
        for (uint64_t n = random_bits(&random) % 12 + 1; n-- > 0;) {
            const char *part = parts[random_bits(&random) % (sizeof parts / sizeof *parts)];
            text_add(&text, part, strlen(part));
        }
        const struct span s = span_of_text(&text);
        struct token_list list = encode(t, s, PARSE_NOTHING);
        size_t id = 0;
        for (size_t at = 0, end; at < s.len; at = end) {
            size_t lengths[128];
            end = pretokenize_piece_end(s, at);
            const size_t n = merge_by_scanning((struct span){s.ptr + at, end - at}, lengths);
            for (size_t i = 0, from = at; i < n; from += lengths[i++]) {
                assert_true(id < list.len);
                assert_true(span_equal(tokenizer_bytes(t, list.ids[id++]), (struct span){s.ptr + from, lengths[i]}));
            }
        }
        assert_int_equal(id, list.len);
        token_list_free(&list);
        text_free(&text);
    }
    tokenizer_close(&t);
}

/* `expected`: the tokens' bytes separated by '^', added tokens in brackets. */
static void check_tokens(const struct tokenizer *t, const char *text, enum token_parse parse, const char *expected) {
    struct token_list list = encode(t, span_of(text), parse);
    struct text out = {0};
    for (size_t i = 0; i < list.len; i++) {
        const struct span bytes = tokenizer_bytes(t, list.ids[i]);
        const bool added = tokenizer_find(t, bytes) == list.ids[i];
        text_addf(&out, "%s%s%.*s%s", i ? "^" : "", added ? "[" : "", (int)bytes.len, bytes.ptr, added ? "]" : "");
    }
    assert_string_equal(out.ptr ? out.ptr : "", expected);
    text_free(&out);
    token_list_free(&list);
}

static void added_tokens(void **state) {
    (void)state;
    struct tokenizer *t = open_small();
    check_tokens(t, "", PARSE_SPECIAL, "");
    check_tokens(t, "<|im_end|>hello", PARSE_SPECIAL, "[<|im_end|>]^hello");
    check_tokens(t, "<|im_end|>", PARSE_TEXT, "<|^im^_^e^n^d^|^>");
    check_tokens(t, "<|im_end|>", PARSE_NOTHING, "<|^im^_^e^n^d^|^>");
    check_tokens(t, "<think><|im_end|>", PARSE_TEXT, "[<think>]^<|^im^_^e^n^d^|^>");
    check_tokens(t, "<think>", PARSE_NOTHING, "<^t^h^in^k^>");
    check_tokens(t, "<tool_call><tool_cal<tool", PARSE_SPECIAL, "[<tool_call>]^[<tool]^_^c^a^l^[<tool]"); /* the longest wins */
    check_tokens(t, "<<think>>", PARSE_SPECIAL, "<^[<think>]^>");
    check_tokens(t, "<think", PARSE_SPECIAL, "<^t^h^in^k");
    check_tokens(t, "<|old|>", PARSE_SPECIAL, "[<|old|>]");
    check_tokens(t, "<|old|>", PARSE_TEXT, "<|^o^ld^|^>"); /* typed user-defined, read as control */
    check_tokens(t, "xcaf\u00e9", PARSE_TEXT, "x^[caf\u00e9]");
    check_tokens(t, "cafe\u0301", PARSE_TEXT, "c^a^f^\u00e9");               /* matched before normalization */
    check_tokens(t, "  <think>  the", PARSE_SPECIAL, "  ^[<think>]^ ^ the"); /* a segment ends where the token begins */
    check_tokens(t, "[PAD300]", PARSE_SPECIAL, "[^P^A^D^3^0^0^]");

    const int32_t old = tokenizer_find(t, SPAN("<|old|>"));
    assert_true(old >= 0 && tokenizer_is_control(t, old) && !tokenizer_is_control(t, tokenizer_find(t, SPAN("<think>"))));
    assert_true(tokenizer_is_end(t, tokenizer_find(t, SPAN("<|im_end|>"))) && tokenizer_is_end(t, small.source.eos));
    assert_false(tokenizer_is_end(t, tokenizer_find(t, SPAN("<|im_start|>"))));
    struct token_list cut = encode(t, (struct span){"<think>", 6}, PARSE_SPECIAL); /* what follows the span is not looked at */
    assert_int_equal(cut.len, 5);
    token_list_free(&cut);
    assert_int_equal(tokenizer_find(t, SPAN("")), -1);
    assert_int_equal(tokenizer_find(t, SPAN("hello")), -1);
    const int32_t n = (int32_t)tokenizer_size(t);
    const int32_t beyond[] = {-1, n, INT32_MIN, INT32_MAX, n - 1, n - 2}; /* the last two rows are padding */
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        assert_true(tokenizer_is_unused(t, beyond[i]) && tokenizer_bytes(t, beyond[i]).len == 0);
        assert_false(tokenizer_is_control(t, beyond[i]) || tokenizer_is_end(t, beyond[i]));
    }
    tokenizer_close(&t);
    tokenizer_close(&t);
}

static void switches(void **state) {
    (void)state;
    struct tokenizer *t = open_small();
    check_tokens(t, "e\u0301", PARSE_TEXT, "\u00e9");
    assert_int_equal(tokenizer_bos(t), -1);
    tokenizer_close(&t);
    small.source.no_nfc = true;
    small.source.bos = 3;
    t = open_or_die(&small.source);
    check_tokens(t, "e\u0301", PARSE_TEXT, "e^\xCC^\x81");
    assert_int_equal(tokenizer_bos(t), -1); /* present, but not to be added */
    tokenizer_close(&t);
    small.source.add_bos = true;
    small.source.types = NULL;
    t = open_or_die(&small.source);
    assert_int_equal(tokenizer_bos(t), 3);
    check_tokens(t, "<think>", PARSE_SPECIAL, "<^t^h^in^k^>"); /* no types: nothing is an added token */
    tokenizer_close(&t);
}

static void lists_grow_at_the_end(void **state) {
    (void)state;
    struct tokenizer *t = open_small();
    struct token_list list = {0};
    struct reason why;
    assert_int_equal(token_list_add(&list, 77, &why), ERR_NONE);
    assert_int_equal(tokenizer_encode(t, SPAN("hello"), PARSE_TEXT, &list, &why), ERR_NONE);
    assert_int_equal(tokenizer_encode(t, SPAN(""), PARSE_TEXT, &list, &why), ERR_NONE);
    assert_int_equal(tokenizer_encode(t, (struct span){NULL, 0}, PARSE_TEXT, &list, &why), ERR_NONE);
    assert_int_equal(list.len, 2);
    assert_int_equal(list.ids[0], 77);
    assert_int_equal(tokenizer_encode(t, (struct span){"", SIZE_MAX}, PARSE_TEXT, &list, &why), ERR_LIMIT);
    assert_int_equal(list.len, 2);
    token_list_free(&list);
    assert_null(list.ids);
    tokenizer_close(&t);
}

/* ---- streaming -------------------------------------------------------------------------------------------------------- */

/* Random bytes, mostly pieces of UTF-8, as single-byte and longer tokens: what streams out is the lossy decoding of the whole.
 */
static void streaming_equals_whole(void **state) {
    (void)state;
    static const uint8_t likely[] = {0xE0, 0xED, 0xF0, 0xF4, 0x80, 0x90, 0xA0, 0xBF, 0xC2, 0x9F, 0x8F, 0xE2, 0x82, 0xAC, 'a'};
    struct tokenizer *t = open_small();
    uint64_t random = 8;
    for (int round = 0; round < 20000; round++) {
        struct detokenizer d = {0};
        struct text bytes = {0}, streamed = {0}, whole = {0};
        for (uint64_t n = random_bits(&random) % 16; n-- > 0;) {
            int32_t id = (int32_t)(random_bits(&random) % tokenizer_size(t));
            if (random_bits(&random) % 8)
                for (const char wanted = (char)likely[random_bits(&random) % sizeof likely];;) {
                    const struct span one = tokenizer_bytes(t, id);
                    if (one.len == 1 && one.ptr[0] == wanted) break;
                    id = (id + 1) % (int32_t)tokenizer_size(t);
                }
            if (!tokenizer_is_control(t, id)) text_add_span(&bytes, tokenizer_bytes(t, id));
            detokenize_step(&d, t, id, &streamed);
            const struct span so_far = span_of_text(&streamed);
            for (size_t at = 0, used; at < so_far.len; at += used) {
                uint32_t code;
                assert_int_equal(utf8_decode((const uint8_t *)so_far.ptr + at, so_far.len - at, &code, &used), UTF8_GOOD);
            }
        }
        detokenize_end(&d, &streamed);
        unicode_normalize(span_of_text(&bytes), false, &whole);
        assert_true(span_equal(span_of_text(&streamed), span_of_text(&whole)));
        text_free(&bytes);
        text_free(&streamed);
        text_free(&whole);
    }
    tokenizer_close(&t);
}

static void control_tokens_are_hidden(void **state) {
    (void)state;
    struct tokenizer *t = open_small();
    struct token_list list = encode(t, SPAN("<|im_start|>hello<think>\xF0\x9F<|im_end|>"), PARSE_SPECIAL);
    struct text hidden = decode(t, &list, false), shown = decode(t, &list, true);
    assert_string_equal(hidden.ptr, "hello<think>\uFFFD");
    assert_string_equal(shown.ptr, "<|im_start|>hello<think>\uFFFD<|im_end|>");
    text_free(&hidden);
    text_free(&shown);
    token_list_free(&list);
    tokenizer_close(&t);
}

/* Invalid input becomes U+FFFD before it is tokenized, so a cut character needs a vocabulary that emits bytes one by one. */
static void a_held_character_waits(void **state) {
    (void)state;
    struct tokenizer *t = open_small();
    struct detokenizer d = {0};
    struct text out = {0};
    const uint8_t smile[] = {0xF0, 0x9F, 0x98, 0x80};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(out.len, 0);
        for (int32_t id = 0; (size_t)id < tokenizer_size(t); id++) {
            const struct span one = tokenizer_bytes(t, id);
            if (one.len == 1 && (uint8_t)one.ptr[0] == smile[i]) detokenize_step(&d, t, id, &out);
        }
    }
    assert_string_equal(out.ptr, "\U0001f600");
    text_free(&out);
    tokenizer_close(&t);
}

/* ---- cost ------------------------------------------------------------------------------------------------------------- */

/* Counts heap levels and look-ups rather than seconds. Doubling merges (a a -> aa, aa aa -> ...) keep the heap busiest. */
static void merging_costs_n_log_n(void **state) {
    (void)state;
    struct bpe bpe;
    struct reason why;
    assert_int_equal(bpe_open(12, &bpe, &why), ERR_NONE);
    for (int32_t i = 0; i < 12; i++) assert_int_equal(bpe_add(&bpe, i, i, (uint32_t)i, i + 1, &why), ERR_NONE);
    for (size_t n = 1 << 10, log = 10; log <= 18; n *= 2, log++) {
        struct bpe_scratch scratch = {0};
        int32_t *ids = calloc(n, sizeof *ids);
        size_t left = n;
        assert_true(bpe_merge(&bpe, &scratch, ids, &left));
        assert_int_equal(left, log >= 12 ? n >> 12 : 1);
        assert_true(scratch.work > n && scratch.work < 6 * n * log);
        free(ids);
        bpe_scratch_free(&scratch);
    }
    bpe_close(&bpe);
}

/* Quadratic work on these would run into the time limit of the test run; linear work takes a fraction of a second each. */
static void unbounded_runs(void **state) {
    (void)state;
    static const char *const units[] = {"a", " ", "\n ",        "!",        "1",      "e\u0301",       "\u0301",
                                        "'", "<", "<|im_end|>", "\xF0\x9F", "\u4f60", " \u0323\u0301", "\u0301\u0323"};
    enum { BYTES = 1 << 20 };
    struct tokenizer *t = open_small();
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        struct text text = {0};
        while (text.len < BYTES) text_add(&text, units[i], strlen(units[i]));
        struct token_list list = encode(t, span_of_text(&text), PARSE_SPECIAL);
        assert_true(list.len > 0);
        token_list_free(&list);
        text_free(&text);
    }
    tokenizer_close(&t);
}

struct thread_task {
    pthread_t thread;
    const struct tokenizer *t;
    struct token_list list;
};

static void *encode_in_thread(void *ctx) {
    struct thread_task *task = ctx;
    for (int i = 0; i < 200; i++) {
        task->list.len = 0;
        if (tokenizer_encode(task->t, SPAN("hello world, e\u0301 <think> aaaaaaaa \xF0\x9F 's"), PARSE_SPECIAL, &task->list,
                             NULL) != ERR_NONE)
            break;
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state) {
    (void)state;
    struct tokenizer *t = open_small();
    struct thread_task tasks[4] = {{0}};
    for (int i = 0; i < 4; i++) {
        tasks[i].t = t;
        assert_int_equal(pthread_create(&tasks[i].thread, NULL, encode_in_thread, &tasks[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(tasks[i].thread, NULL);
    for (int i = 0; i < 4; i++) {
        assert_true(tasks[i].list.len > 5 && tasks[i].list.len == tasks[0].list.len);
        assert_memory_equal(tasks[i].list.ids, tasks[0].list.ids, tasks[0].list.len * sizeof(int32_t));
    }
    for (int i = 0; i < 4; i++) token_list_free(&tasks[i].list);
    tokenizer_close(&t);
}

/* ---- vocabularies that lie -------------------------------------------------------------------------------------------- */

static void check_refused(const struct tokenizer_source *source, enum err expected, const char *says) {
    struct tokenizer *t = NULL;
    struct reason why = {""};
    const enum err err = tokenizer_open(source, &t, &why);
    assert_null(t);
    if (err != expected || !strstr(why.text, says))
        fail_test("got %d '%s', expected %d '%s'", (int)err, why.text, (int)expected, says);
}

static void bad_tokens_are_refused(void **state) {
    (void)state;
    static char huge[1 << 20];
    memset(huge, 'a', sizeof huge);
    const int32_t byte_a = (int32_t)(small_vocab_fill(&small), small.source.n_tokens - SMALL_VOCAB_N_ADDED - 2 - 'a' - 1);
    assert_true(span_equal(small.tokens[byte_a], SPAN("a")));
    const int32_t added = (int32_t)small.source.n_tokens - 3;
    const struct {
        int32_t id;
        struct span text;
        int32_t type;
        enum err err;
        const char *says;
    } rows[] = {
        {0, {"", 0}, 1, ERR_FORMAT, "token 0 is empty"},
        {0, {huge, sizeof huge}, 1, ERR_LIMIT, "token 0 has 1048576 bytes"},
        {0, {huge, 4097}, 1, ERR_LIMIT, "at most 4096"},
        {added, {huge, 257}, 4, ERR_LIMIT, "at most 256"},
        {0, {"hello", 5}, 1, ERR_FORMAT, "same text"},
        {added, {"<think>", 7}, 3, ERR_FORMAT, "same text"},
        {added, {"hello", 5}, 4, ERR_FORMAT, "same text"},
        {0, {"a b", 3}, 1, ERR_FORMAT, "U+0020 at byte 1"},
        {0, {"\u4f60", 3}, 1, ERR_FORMAT, "U+4F60"},
        {0, {"\u0144", 2}, 1, ERR_FORMAT, "U+0144"},
        {0, {"a\0", 2}, 1, ERR_FORMAT, "U+0000"},
        {0, {"x\xC4", 2}, 1, ERR_FORMAT, "not valid UTF-8 at byte 1"},
        {added, {"<\xFF>", 3}, 4, ERR_FORMAT, "not valid UTF-8"},
        {added, {"", 0}, 3, ERR_FORMAT, "is empty"},
        {0, {"x", 1}, 6, ERR_UNSUPPORTED, "type 6"},
        {0, {"x", 1}, -1, ERR_UNSUPPORTED, "type -1"},
        {byte_a, {"zzz", 3}, 1, ERR_UNSUPPORTED, "byte 0x61"},
        {byte_a, {"a", 1}, 4, ERR_UNSUPPORTED, "byte 0x61"},
        {byte_a, {"a", 1}, 5, ERR_UNSUPPORTED, "byte 0x61"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        small_vocab_fill(&small);
        small.tokens[rows[i].id] = rows[i].text;
        small.types[rows[i].id] = rows[i].type;
        check_refused(&small.source, rows[i].err, rows[i].says);
    }
    small_vocab_fill(&small); /* type 0, "not set", is an ordinary token; an empty unused row is nothing */
    small.types[byte_a] = 0;
    small.tokens[small.source.n_tokens - 1] = (struct span){NULL, 0};
    struct tokenizer *t = open_or_die(&small.source);
    tokenizer_close(&t);
    small_vocab_fill(&small); /* type 2, "unknown", is control; "[PAD<n>]" is padding in row n only; eot ends */
    small.types[added] = 2;
    small.tokens[small.source.n_tokens - 2] = SPAN("[PAD1]");
    small.source.eot = 4;
    t = open_or_die(&small.source);
    assert_true(tokenizer_is_control(t, added) && !tokenizer_is_control(t, added - 2));
    assert_true(tokenizer_bytes(t, (int32_t)small.source.n_tokens - 2).len == 6 && tokenizer_is_end(t, 4));
    tokenizer_close(&t);
    small.source.n_tokens = 0;
    check_refused(&small.source, ERR_UNSUPPORTED, "no vocabulary");
    small.source.n_tokens = 1 << 21; /* refused before anything is read */
    check_refused(&small.source, ERR_LIMIT, "2097152 tokens");
}

static void bad_merges_are_refused(void **state) {
    (void)state;
    static char huge[1 << 20];
    memset(huge, 'a', sizeof huge);
    huge[sizeof huge / 2] = ' ';
    const struct {
        struct span text;
        enum err err;
        const char *says;
    } rows[] = {{{"hello", 5}, ERR_FORMAT, "merge 3 has no space"},
                {{"", 0}, ERR_FORMAT, "no space"},
                {{NULL, 0}, ERR_FORMAT, "no space"},
                {{" ", 1}, ERR_FORMAT, "left part"},
                {{"h ", 2}, ERR_FORMAT, "right part"},
                {{" h", 2}, ERR_FORMAT, "left part"},
                {{"zz h", 4}, ERR_FORMAT, "left part"},
                {{"h zz", 4}, ERR_FORMAT, "right part"},
                {{"h h", 3}, ERR_FORMAT, "result"},
                {{"h e l", 5}, ERR_FORMAT, "right part"},
                {{"h e", 3}, ERR_FORMAT, "repeats merge 0"},
                {{"<think> h", 9}, ERR_FORMAT, "left part"},
                {{"[PAD300] h", 10}, ERR_FORMAT, "left part"},
                {{huge, sizeof huge}, ERR_LIMIT, "1048576 bytes"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        small_vocab_fill(&small);
        small.merges[3] = rows[i].text;
        check_refused(&small.source, rows[i].err, rows[i].says);
    }
    small_vocab_fill(&small);
    small.source.n_merges = 10000000; /* refused before anything is read */
    check_refused(&small.source, ERR_LIMIT, "10000000 merges");
    small.source.n_merges = 0; /* bytes only: poor, but sound */
    struct tokenizer *t = open_or_die(&small.source);
    check_tokens(t, "he", PARSE_TEXT, "h^e");
    tokenizer_close(&t);
}

static void bad_special_ids_are_refused(void **state) {
    (void)state;
    small_vocab_fill(&small);
    const int32_t n = (int32_t)small.source.n_tokens, bad[] = {n, -2, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        struct tokenizer_source s = small.source;
        s.bos = bad[i];
        check_refused(&s, ERR_FORMAT, "bos token id");
        s = small.source;
        s.eos = bad[i];
        check_refused(&s, ERR_FORMAT, "eos token id");
        s = small.source;
        s.eot = bad[i];
        check_refused(&s, ERR_FORMAT, "eot token id");
        s = small.source;
        s.pad = bad[i];
        check_refused(&s, ERR_FORMAT, "padding token id");
    }
}

/* Keys chosen to fall on one slot make every look-up a walk: refused at a fixed length instead. */
static void colliding_merges_are_refused(void **state) {
    (void)state;
    struct bpe bpe;
    struct reason why = {""};
    assert_int_equal(bpe_open(1024, &bpe, &why), ERR_NONE);
    enum err err = ERR_NONE;
    uint32_t added = 0;
    for (int32_t right = 0; err == ERR_NONE && added < 1024; right++) {
        if (hash_mix((uint64_t)7 << 32 | (uint32_t)right) & bpe.mask) continue;
        err = bpe_add(&bpe, 7, right, added++, 1, &why);
    }
    assert_int_equal(err, ERR_FORMAT);
    assert_int_equal(added, HASH_MAX_PROBES + 1);
    assert_non_null(strstr(why.text, "collide"));
    bpe_close(&bpe);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_foretold),
        cmocka_unit_test(reference_encode),
        cmocka_unit_test(reference_decode),
        cmocka_unit_test(reference_vocabulary),
        cmocka_unit_test(subset_of_the_reference),
        cmocka_unit_test(pieces),
        cmocka_unit_test(composition),
        cmocka_unit_test(many_marks),
        cmocka_unit_test(lossy_decoding),
        cmocka_unit_test(merging_equals_a_full_scan),
        cmocka_unit_test(added_tokens),
        cmocka_unit_test(switches),
        cmocka_unit_test(lists_grow_at_the_end),
        cmocka_unit_test(streaming_equals_whole),
        cmocka_unit_test(control_tokens_are_hidden),
        cmocka_unit_test(a_held_character_waits),
        cmocka_unit_test(merging_costs_n_log_n),
        cmocka_unit_test(unbounded_runs),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(bad_tokens_are_refused),
        cmocka_unit_test(bad_merges_are_refused),
        cmocka_unit_test(bad_special_ids_are_refused),
        cmocka_unit_test(colliding_merges_are_refused),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, open_reference, close_reference);
}
