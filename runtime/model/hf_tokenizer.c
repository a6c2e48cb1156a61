/* tokenizer.json and the small files beside it -> the tokenizer's keys as a GGUF converter writes them.
 *
 * Only byte-level BPE with Qwen2's pre-tokenizer is taken: a tokenizer that cuts text differently would give wrong ids without
 * a word. What the texts of tokens and merges say is the tokenizer's to judge, as for GGUF. Owns what it collects until the
 * keys are made; ids are given out by the file, so nothing is sized by the largest of them before the number of tokens accounts
 * for it. */
#include "model/hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_FILE_BYTES = 128 << 20,
    MAX_TEXTS_BYTES = 24 << 20, /* of all tokens, and of all merges */
    MAX_TEXT_BYTES = 64 << 10,
    MAX_TEMPLATE_BYTES = 4 << 20,
    SLACK = 4096, /* ids without a token */
};

enum { TYPE_NONE = 0, TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5 }; /* tokenizer.ggml.token_type */

static const char qwen2_regex[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

struct token {
    uint32_t id, len;
    uint64_t text_at; /* into texts */
    uint64_t at;      /* in the file */
    int32_t type;
};

struct tokenizer_file {
    struct json_scan *scan;
    struct reason *why;
    struct token *tokens; /* [n] in file order */
    size_t n, cap;
    struct text texts;
    struct text merges; /* as GGUF's array: u64 length, bytes, ... */
    size_t n_merges;
    uint32_t *by_id; /* [n_ids] 1 + index into tokens; 0: no token has it */
    size_t n_ids;
    bool has_model, has_vocab, has_regex, has_byte_level;
};

static void tokenizer_file_close(struct tokenizer_file *f) {
    free(f->tokens);
    free(f->by_id);
    text_free(&f->texts);
    text_free(&f->merges);
}

static struct span text_of(const struct tokenizer_file *f, const struct token *t) {
    return (struct span){f->texts.ptr + t->text_at, t->len};
}

#define refuse(f, code, ...) json_scan_fail((f)->scan, (f)->why, code, __VA_ARGS__)

static enum err next(struct tokenizer_file *f, enum scan_event *event) { return json_scan_next(f->scan, event, f->why); }
static enum err skip(struct tokenizer_file *f, enum scan_event event) { return json_scan_skip(f->scan, event, f->why); }

static enum err no_memory(const struct tokenizer_file *f) {
    return fail(f->why, ERR_NO_MEMORY, "%s: no memory for its tokens", f->scan->label);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------------ */

static enum err add_token(struct tokenizer_file *f, struct token one, struct span text) {
    if (f->n == f->cap) {
        const size_t cap = f->cap ? 2 * f->cap : 1024;
        struct token *grown = reallocarray(f->tokens, cap, sizeof *grown);
        if (!grown) return no_memory(f);
        f->tokens = grown;
        f->cap = cap;
    }
    if (f->n == MAX_TOKENS || text.len > MAX_TEXTS_BYTES - f->texts.len)
        return refuse(f, ERR_LIMIT, "more than %d tokens or %d MiB of them", MAX_TOKENS, MAX_TEXTS_BYTES >> 20);
    one.text_at = f->texts.len;
    one.len = (uint32_t)text.len;
    text_add_span(&f->texts, text);
    if (f->texts.failed) return no_memory(f);
    f->tokens[f->n++] = one;
    return ERR_NONE;
}

static enum err take_id(struct tokenizer_file *f, uint32_t *id) {
    enum scan_event event;
    uint64_t number;
    TRY(next(f, &event));
    if (event != SCAN_NUMBER || !json_scan_uint(f->scan->text, &number) || number >= MAX_TOKENS)
        return refuse(f, ERR_FORMAT, "a token's id must be a whole number below %d", MAX_TOKENS);
    *id = (uint32_t)number;
    return ERR_NONE;
}

static enum err take_vocab(struct tokenizer_file *f) {
    enum scan_event event;
    TRY(next(f, &event));
    if (event != SCAN_OBJECT || f->has_vocab) return refuse(f, ERR_FORMAT, "model.vocab must be an object, given once");
    f->has_vocab = true;
    for (;;) {
        TRY(next(f, &event));
        if (event == SCAN_OBJECT_END) return ERR_NONE;
        struct token one = {.at = f->scan->at, .type = TYPE_NORMAL};
        TRY(add_token(f, one, f->scan->text));
        TRY(take_id(f, &f->tokens[f->n - 1].id));
    }
}

static bool looks_special(struct span s) {
    return s.len > 4 && span_starts(s, SPAN("<|")) && memcmp(s.ptr + s.len - 2, "|>", 2) == 0;
}

struct added {
    struct token token;
    struct text content;
    bool special, has_id;
};

static enum err take_flag(struct tokenizer_file *f, bool *flag) {
    enum scan_event event;
    TRY(next(f, &event));
    if (event != SCAN_TRUE && event != SCAN_FALSE) return refuse(f, ERR_FORMAT, "an added token's flag must be true or false");
    *flag = event == SCAN_TRUE;
    return ERR_NONE;
}

static enum err take_added_field(struct tokenizer_file *f, struct added *a) {
    const struct span key = f->scan->text;
    enum scan_event event;
    if (span_equal(key, SPAN("id"))) {
        a->has_id = true;
        return take_id(f, &a->token.id);
    }
    if (span_equal(key, SPAN("content"))) {
        TRY(next(f, &event));
        if (event != SCAN_STRING) return refuse(f, ERR_FORMAT, "an added token's content must be a string");
        text_clear(&a->content);
        text_add_span(&a->content, f->scan->text);
        return a->content.failed ? no_memory(f) : ERR_NONE;
    }
    if (span_equal(key, SPAN("special"))) return take_flag(f, &a->special);
    if (!span_equal(key, SPAN("single_word")) && !span_equal(key, SPAN("lstrip")) && !span_equal(key, SPAN("rstrip")))
        return skip(f, SCAN_KEY);
    bool set = false;
    TRY(take_flag(f, &set));
    if (!set) return ERR_NONE;
    return refuse(f, ERR_UNSUPPORTED, "added tokens that match white space or whole words only are not supported");
}

static enum err take_added_fields(struct tokenizer_file *f, struct added *a) {
    for (enum scan_event event;;) {
        TRY(next(f, &event));
        if (event == SCAN_OBJECT_END) break;
        TRY(take_added_field(f, a));
    }
    const struct span text = {a->content.ptr, a->content.len};
    if (!a->has_id || !text.len) return refuse(f, ERR_FORMAT, "an added token without id or content");
    /* every converter types <|...|> as control, whatever "special" says: a user cannot type such a token in */
    a->token.type = a->special || looks_special(text) ? TYPE_CONTROL : TYPE_USER;
    return add_token(f, a->token, text);
}

/* An entry of added_tokens that has just begun. */
static enum err take_added(struct tokenizer_file *f) {
    struct added a = {.token = {.at = f->scan->at}};
    const enum err result = take_added_fields(f, &a);
    text_free(&a.content);
    return result;
}

static enum err take_added_tokens(struct tokenizer_file *f) {
    enum scan_event event;
    TRY(next(f, &event));
    if (event == SCAN_NULL) return ERR_NONE;
    if (event != SCAN_ARRAY) return refuse(f, ERR_FORMAT, "added_tokens must be an array");
    for (;;) {
        TRY(next(f, &event));
        if (event == SCAN_ARRAY_END) return ERR_NONE;
        if (event != SCAN_OBJECT) return refuse(f, ERR_FORMAT, "added_tokens must hold objects");
        TRY(take_added(f));
    }
}

/* ---- merges ------------------------------------------------------------------------------------------------------------ */

static void begin_merge(struct tokenizer_file *f) { text_add(&f->merges, &(const uint64_t){0}, sizeof(uint64_t)); }

static enum err end_merge(struct tokenizer_file *f, size_t from) {
    const uint64_t len = f->merges.len - from - sizeof len;
    if (f->n_merges == MAX_MERGES || f->merges.len > MAX_TEXTS_BYTES)
        return refuse(f, ERR_LIMIT, "more than %d merges or %d MiB of them", MAX_MERGES, MAX_TEXTS_BYTES >> 20);
    if (f->merges.failed) return no_memory(f);
    memcpy(f->merges.ptr + from, &len, sizeof len);
    f->n_merges++;
    return ERR_NONE;
}

/* ["left", "right"], of which the bracket has been read. */
static enum err take_pair(struct tokenizer_file *f) {
    enum scan_event event;
    for (int i = 0; i < 2; i++) {
        TRY(next(f, &event));
        if (event != SCAN_STRING || (f->scan->text.len && memchr(f->scan->text.ptr, ' ', f->scan->text.len)))
            return refuse(f, ERR_FORMAT, "a merge must be two strings without spaces");
        if (i) text_add(&f->merges, " ", 1);
        text_add_span(&f->merges, f->scan->text);
    }
    TRY(next(f, &event));
    return event == SCAN_ARRAY_END ? ERR_NONE : refuse(f, ERR_FORMAT, "a merge must be two strings without spaces");
}

static enum err take_merges(struct tokenizer_file *f) {
    enum scan_event event;
    TRY(next(f, &event));
    if (event != SCAN_ARRAY || f->n_merges) return refuse(f, ERR_FORMAT, "model.merges must be an array, given once");
    for (;;) {
        TRY(next(f, &event));
        if (event == SCAN_ARRAY_END) return ERR_NONE;
        const size_t from = f->merges.len;
        begin_merge(f);
        if (event == SCAN_STRING)
            text_add_span(&f->merges, f->scan->text);
        else if (event == SCAN_ARRAY)
            TRY(take_pair(f));
        else
            return refuse(f, ERR_FORMAT, "a merge must be a string or a pair of strings");
        TRY(end_merge(f, from));
    }
}

/* ---- the rest of tokenizer.json ---------------------------------------------------------------------------------------- */

/* The next value must be one of a few harmless ones. */
static enum err need_value(struct tokenizer_file *f, const char *key, enum scan_event allowed, const char *text) {
    enum scan_event event;
    TRY(next(f, &event));
    const bool optional = allowed != SCAN_STRING || !*text;
    if (event == SCAN_NULL && optional) return ERR_NONE;
    if (event == allowed && (event != SCAN_STRING || span_equal(f->scan->text, span_of(text)))) return ERR_NONE;
    return refuse(f, ERR_UNSUPPORTED, "'%s' is not as in the tokenizers of Qwen2 and Qwen3, the only ones supported", key);
}

static enum err take_model(struct tokenizer_file *f) {
    enum scan_event event;
    TRY(next(f, &event));
    if (event != SCAN_OBJECT || f->has_model) return refuse(f, ERR_FORMAT, "'model' must be an object, given once");
    f->has_model = true;
    for (;;) {
        TRY(next(f, &event));
        if (event == SCAN_OBJECT_END) return ERR_NONE;
        const struct span key = f->scan->text;
        if (span_equal(key, SPAN("vocab")))
            TRY(take_vocab(f));
        else if (span_equal(key, SPAN("merges")))
            TRY(take_merges(f));
        else if (span_equal(key, SPAN("type")))
            TRY(need_value(f, "model.type", SCAN_STRING, "BPE"));
        else if (span_equal(key, SPAN("byte_fallback")))
            TRY(need_value(f, "model.byte_fallback", SCAN_FALSE, NULL));
        else if (span_equal(key, SPAN("continuing_subword_prefix")))
            TRY(need_value(f, "model.continuing_subword_prefix", SCAN_STRING, ""));
        else if (span_equal(key, SPAN("end_of_word_suffix")))
            TRY(need_value(f, "model.end_of_word_suffix", SCAN_STRING, ""));
        else
            TRY(skip(f, event));
    }
}

static enum err take_pre_tokenizer_type(struct tokenizer_file *f) {
    enum scan_event event;
    TRY(next(f, &event));
    const bool byte_level = event == SCAN_STRING && span_equal(f->scan->text, SPAN("ByteLevel"));
    f->has_byte_level = f->has_byte_level || byte_level;
    if (byte_level ||
        (event == SCAN_STRING && (span_equal(f->scan->text, SPAN("Sequence")) || span_equal(f->scan->text, SPAN("Split")))))
        return ERR_NONE;
    return refuse(f, ERR_UNSUPPORTED, "the pre-tokenizer is not that of Qwen2 and Qwen3, the only one supported");
}

/* The regex and the flags that matter are looked for at any depth: writers nest them differently. */
static enum err take_pre_tokenizer(struct tokenizer_file *f) {
    const unsigned depth = f->scan->depth;
    enum scan_event event;
    do {
        TRY(next(f, &event));
        if (event != SCAN_KEY) continue;
        if (span_equal(f->scan->text, SPAN("type")))
            TRY(take_pre_tokenizer_type(f));
        else if (span_equal(f->scan->text, SPAN("Regex"))) {
            f->has_regex = true;
            TRY(need_value(f, "pre_tokenizer: Regex", SCAN_STRING, qwen2_regex));
        } else if (span_equal(f->scan->text, SPAN("behavior")))
            TRY(need_value(f, "pre_tokenizer: behavior", SCAN_STRING, "Isolated"));
        else if (span_equal(f->scan->text, SPAN("invert")))
            TRY(need_value(f, "pre_tokenizer: invert", SCAN_FALSE, NULL));
        else if (span_equal(f->scan->text, SPAN("use_regex")))
            TRY(need_value(f, "pre_tokenizer: use_regex", SCAN_FALSE, NULL));
        else if (span_equal(f->scan->text, SPAN("add_prefix_space")))
            TRY(need_value(f, "pre_tokenizer: add_prefix_space", SCAN_FALSE, NULL));
    } while (f->scan->depth > depth);
    return ERR_NONE;
}

static enum err take_normalizer(struct tokenizer_file *f) {
    enum scan_event event;
    TRY(next(f, &event));
    if (event == SCAN_NULL) return ERR_NONE;
    if (event != SCAN_OBJECT) return refuse(f, ERR_FORMAT, "'normalizer' must be an object or null");
    for (;;) {
        TRY(next(f, &event));
        if (event == SCAN_OBJECT_END) return ERR_NONE;
        if (span_equal(f->scan->text, SPAN("type")))
            TRY(need_value(f, "normalizer: type", SCAN_STRING, "NFC"));
        else
            TRY(skip(f, event));
    }
}

static enum err take_all(struct tokenizer_file *f) {
    enum scan_event event;
    TRY(next(f, &event));
    if (event != SCAN_OBJECT) return refuse(f, ERR_FORMAT, "a JSON object is expected");
    for (;;) {
        TRY(next(f, &event));
        if (event == SCAN_OBJECT_END) break;
        const struct span key = f->scan->text;
        if (span_equal(key, SPAN("model")))
            TRY(take_model(f));
        else if (span_equal(key, SPAN("added_tokens")))
            TRY(take_added_tokens(f));
        else if (span_equal(key, SPAN("pre_tokenizer")))
            TRY(take_pre_tokenizer(f));
        else if (span_equal(key, SPAN("normalizer")))
            TRY(take_normalizer(f));
        else
            TRY(skip(f, event));
    }
    if (!f->has_vocab) return refuse(f, ERR_FORMAT, "it holds no model.vocab");
    if (!f->has_regex || !f->has_byte_level)
        return refuse(f, ERR_UNSUPPORTED, "the pre-tokenizer is not that of Qwen2 and Qwen3, the only one supported");
    return next(f, &event);
}

/* ---- ids --------------------------------------------------------------------------------------------------------------- */

static enum err token_fail(const struct tokenizer_file *f, const struct token *t, const char *format, ...) PRINTF_LIKE(3, 4);

static enum err token_fail(const struct tokenizer_file *f, const struct token *t, const char *format, ...) {
    char problem[256];
    va_list args;
    va_start(args, format);
    vsnprintf(problem, sizeof problem, format, args);
    va_end(args);
    return fail(f->why, ERR_FORMAT, "%s: token '%s' at byte %llu: %s", f->scan->label, quote(text_of(f, t)).text,
                (unsigned long long)t->at, problem);
}

/* `rows`: of the embedding; 0: not known. */
static enum err index_ids(struct tokenizer_file *f, uint64_t rows) {
    const uint64_t limit = rows ? rows : 2 * (uint64_t)f->n + SLACK;
    size_t n_ids = 0;
    for (size_t i = 0; i < f->n; i++) {
        if (f->tokens[i].id >= limit)
            return token_fail(f, &f->tokens[i], "its id %u is beyond %s %llu", f->tokens[i].id,
                              rows ? "'vocab_size' in config.json," : "any use for", (unsigned long long)(rows ? rows : f->n));
        if (f->tokens[i].id >= n_ids) n_ids = f->tokens[i].id + 1;
    }
    if (rows > 2 * (uint64_t)f->n + SLACK)
        return fail(f->why, ERR_FORMAT, "%s: has %zu tokens for a 'vocab_size' of %llu in config.json", f->scan->label, f->n,
                    (unsigned long long)rows);
    f->n_ids = rows ? (size_t)rows : n_ids;
    f->by_id = calloc_checked(f->n_ids, sizeof *f->by_id);
    if (!f->by_id) return no_memory(f);
    for (size_t i = 0; i < f->n; i++) {
        uint32_t *slot = &f->by_id[f->tokens[i].id];
        if (*slot && !span_equal(text_of(f, &f->tokens[*slot - 1]), text_of(f, &f->tokens[i])))
            return token_fail(f, &f->tokens[i], "its id %u belongs to '%s' already", f->tokens[i].id,
                              quote(text_of(f, &f->tokens[*slot - 1])).text);
        if (!*slot || f->tokens[i].type != TYPE_NORMAL) *slot = (uint32_t)i + 1; /* an added token is what it was added as */
    }
    return ERR_NONE;
}

static void write_tokens(const struct tokenizer_file *f, struct hf_meta *meta) {
    hf_meta_string(meta, "tokenizer.ggml.model", SPAN("gpt2"));
    hf_meta_string(meta, "tokenizer.ggml.pre", SPAN("qwen2"));
    hf_meta_array(meta, "tokenizer.ggml.tokens", META_STRING);
    for (size_t id = 0; id < f->n_ids; id++) {
        char unused[32];
        snprintf(unused, sizeof unused, "[PAD%zu]", id);
        hf_meta_add_string(meta, f->by_id[id] ? text_of(f, &f->tokens[f->by_id[id] - 1]) : span_of(unused));
    }
    hf_meta_array(meta, "tokenizer.ggml.token_type", META_I32);
    for (size_t id = 0; id < f->n_ids; id++)
        hf_meta_add_i32(meta, f->by_id[id] ? f->tokens[f->by_id[id] - 1].type : TYPE_UNUSED);
    hf_meta_array(meta, "tokenizer.ggml.merges", META_STRING);
    const char *p = f->merges.ptr;
    for (size_t i = 0; i < f->n_merges; i++) {
        const size_t len = (size_t)load_u64((const uint8_t *)p);
        hf_meta_add_string(meta, (struct span){p + 8, len});
        p += 8 + len;
    }
}

/* ---- the files beside it ----------------------------------------------------------------------------------------------- */

enum setting {
    SET_BOS,
    SET_EOS,
    SET_PAD,
    SET_BOS_OBJECT,
    SET_EOS_OBJECT,
    SET_PAD_OBJECT,
    SET_ADD_BOS,
    SET_TEMPLATE,
    SET_COUNT
};
enum generation { GEN_BOS, GEN_EOS, GEN_PAD, GEN_COUNT };

struct named_template {
    struct text template;
    bool is_default;
};

struct settings {
    char *tokenizer_path, *generation_path; /* tokenizer_config.json, generation_config.json */
    struct hf_value set[SET_COUNT], gen[GEN_COUNT];
    struct named_template own; /* found elsewhere than as a string in tokenizer_config.json */
};

static struct span value_text(const struct hf_value *v) { return (struct span){v->text.ptr ? v->text.ptr : "", v->text.len}; }

/* The id of the token that tokenizer_config.json names, the first of generation_config.json's, or config.json's. */
static enum err find_id(const struct tokenizer_file *f, const struct settings *s, int which, int64_t from_config, int64_t *id) {
    const struct hf_value *named = &s->set[SET_BOS + which], *object = &s->set[SET_BOS_OBJECT + which],
                          *listed = &s->gen[GEN_BOS + which];
    *id = from_config;
    if (listed->kind == HF_NUMBER && listed->whole) *id = listed->integer < INT32_MAX ? (int64_t)listed->integer : INT32_MAX;
    if (listed->kind == HF_ARRAY && listed->n_first) *id = listed->first[0] < INT32_MAX ? (int64_t)listed->first[0] : INT32_MAX;
    const struct hf_value *v = named->kind == HF_STRING ? named : object;
    if (v->kind != HF_STRING || !v->text.len) return ERR_NONE;
    for (size_t i = f->n; i-- > 0;) /* added tokens come last */
        if (span_equal(text_of(f, &f->tokens[i]), value_text(v))) {
            *id = f->tokens[i].id;
            return ERR_NONE;
        }
    return hf_value_fail(s->tokenizer_path, v, f->why, ERR_FORMAT, "is '%s', which tokenizer.json does not have",
                         quote(value_text(v)).text);
}

static enum err write_ids(const struct tokenizer_file *f, const struct settings *s, const struct hf_config *config,
                          struct hf_meta *meta) {
    int64_t bos, eos, pad, eot = -1;
    TRY(find_id(f, s, 0, config ? config->bos : -1, &bos));
    TRY(find_id(f, s, 1, config ? config->eos : -1, &eos));
    TRY(find_id(f, s, 2, config ? config->pad : -1, &pad));
    const struct hf_value *ends = &s->gen[GEN_EOS];
    for (unsigned i = 0; ends->kind == HF_ARRAY && i < ends->n_first; i++)
        if (eot < 0 && (int64_t)ends->first[i] != eos && ends->first[i] <= INT32_MAX) eot = (int64_t)ends->first[i];
    if (bos >= 0) hf_meta_u32(meta, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    if (eos >= 0) hf_meta_u32(meta, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    if (eot >= 0) hf_meta_u32(meta, "tokenizer.ggml.eot_token_id", (uint32_t)eot);
    if (pad >= 0) hf_meta_u32(meta, "tokenizer.ggml.padding_token_id", (uint32_t)pad);
    hf_meta_bool(meta, "tokenizer.ggml.add_bos_token", s->set[SET_ADD_BOS].kind == HF_BOOL && s->set[SET_ADD_BOS].yes);
    return ERR_NONE;
}

static enum err read_tokenizer(const char *path, const struct settings *s, const struct hf_config *config, struct hf_meta *meta,
                               struct reason *why) {
    struct hf_json j;
    bool exists;
    enum err result = hf_json_open(path, MAX_FILE_BYTES, MAX_TEXT_BYTES, &j, &exists, why);
    struct tokenizer_file f = {.scan = &j.scan, .why = why};
    if (result == ERR_NONE && exists) {
        result = take_all(&f);
        if (result == ERR_NONE) result = index_ids(&f, config ? config->n_vocab : 0);
        if (result == ERR_NONE) {
            write_tokens(&f, meta);
            result = write_ids(&f, s, config, meta);
        }
    }
    tokenizer_file_close(&f);
    hf_json_close(&j);
    return result;
}

/* ---- chat template ----------------------------------------------------------------------------------------------------- */

static enum err take_named_fields(struct json_scan *s, struct named_template *out, struct reason *why) {
    for (enum scan_event event;;) {
        TRY(json_scan_next(s, &event, why));
        if (event == SCAN_OBJECT_END) break;
        const bool name = span_equal(s->text, SPAN("name")), text = span_equal(s->text, SPAN("template"));
        if (!name && !text) {
            TRY(json_scan_skip(s, event, why));
            continue;
        }
        TRY(json_scan_next(s, &event, why));
        if (event != SCAN_STRING)
            return json_scan_fail(s, why, ERR_FORMAT, "key 'chat_template': name and template must be strings");
        if (name) out->is_default = span_equal(s->text, SPAN("default"));
        if (!text) continue;
        text_clear(&out->template);
        text_add_span(&out->template, s->text);
    }
    return out->template.failed ? fail(why, ERR_NO_MEMORY, "%s: no memory for the chat template", s->label) : ERR_NONE;
}

/* {"name": "default", "template": "..."}, of which the brace has been read: the template of that name, else the first, wins. */
static enum err take_named(struct json_scan *s, struct named_template *chosen, struct reason *why) {
    struct named_template one = {0};
    const enum err result = take_named_fields(s, &one, why);
    if (result == ERR_NONE && one.template.len && !chosen->is_default && (one.is_default || !chosen->template.len)) {
        const struct named_template swap = *chosen;
        *chosen = one;
        one = swap;
    }
    text_free(&one.template);
    return result;
}

static enum err take_templates(struct json_scan *s, struct named_template *chosen, struct reason *why) {
    for (enum scan_event event;;) {
        TRY(json_scan_next(s, &event, why));
        if (event == SCAN_ARRAY_END) return ERR_NONE;
        if (event != SCAN_OBJECT)
            return json_scan_fail(s, why, ERR_FORMAT, "key 'chat_template' must be a string or a list of named templates");
        TRY(take_named(s, chosen, why));
    }
}

/* tokenizer_config.json once more, for the list of templates that its first reading found. */
static enum err read_templates(const char *path, uint64_t at, struct named_template *chosen, struct reason *why) {
    struct hf_json j;
    enum scan_event event;
    enum err result = hf_json_open(path, MAX_FILE_BYTES, MAX_TEMPLATE_BYTES, &j, NULL, why);
    if (result == ERR_NONE) result = json_scan_next(&j.scan, &event, why);
    while (result == ERR_NONE && !(event == SCAN_ARRAY && j.scan.at == at)) {
        result = json_scan_next(&j.scan, &event, why);
        if (result == ERR_NONE && event == SCAN_END)
            result = fail(why, ERR_IO, "%s: changed while it was read", path_label(path));
    }
    if (result == ERR_NONE) result = take_templates(&j.scan, chosen, why);
    hf_json_close(&j);
    return result;
}

/* chat_template.jinja, where newer directories keep it; it outranks the one in tokenizer_config.json. */
static enum err read_jinja(const char *path, struct text *out, struct reason *why) {
    struct hf_json j; /* not JSON: only the opening is shared */
    bool exists;
    enum err result = hf_json_open(path, MAX_TEMPLATE_BYTES, 0, &j, &exists, why);
    char piece[4096];
    for (uint64_t at = 0, n; result == ERR_NONE && exists && at < j.file.bytes; at += n) {
        n = j.file.bytes - at < sizeof piece ? j.file.bytes - at : sizeof piece;
        result = file_read(&j.file, piece, n, at, why);
        if (result == ERR_NONE) text_add(out, piece, n);
    }
    if (result == ERR_NONE && out->failed) result = fail(why, ERR_NO_MEMORY, "%s: no memory for it", path_label(path));
    hf_json_close(&j);
    return result;
}

static enum err write_template(const char *jinja_path, struct settings *s, struct hf_meta *meta, struct reason *why) {
    const struct hf_value *v = &s->set[SET_TEMPLATE];
    TRY(read_jinja(jinja_path, &s->own.template, why));
    if (!s->own.template.len && v->kind == HF_ARRAY) TRY(read_templates(s->tokenizer_path, v->at, &s->own, why));
    const struct span own = {s->own.template.ptr, s->own.template.len};
    if (own.len)
        hf_meta_string(meta, "tokenizer.chat_template", own);
    else if (v->kind == HF_STRING && v->text.len)
        hf_meta_string(meta, "tokenizer.chat_template", value_text(v));
    return ERR_NONE;
}

/* ---- all of it --------------------------------------------------------------------------------------------------------- */

enum err hf_tokenizer_read(const char *folder, const struct hf_config *config, struct hf_meta *meta, struct reason *why) {
    static const char *const set_keys[SET_COUNT] = {"bos_token",         "eos_token",         "pad_token",
                                                    "bos_token.content", "eos_token.content", "pad_token.content",
                                                    "add_bos_token",     "chat_template"};
    static const char *const gen_keys[GEN_COUNT] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    struct settings s = {.tokenizer_path = hf_join(folder, "tokenizer_config.json"),
                         .generation_path = hf_join(folder, "generation_config.json")};
    for (int i = 0; i < SET_COUNT; i++) s.set[i].key = set_keys[i];
    for (int i = 0; i < GEN_COUNT; i++) s.gen[i].key = gen_keys[i];
    char *path = hf_join(folder, "tokenizer.json"), *jinja = hf_join(folder, "chat_template.jinja");
    bool exists;
    enum err result = ERR_NONE;
    if (!s.tokenizer_path || !s.generation_path || !path || !jinja)
        result = fail(why, ERR_NO_MEMORY, "%s: no memory to open its files", path_label(folder));
    if (result == ERR_NONE) result = hf_values_read(s.tokenizer_path, s.set, SET_COUNT, &exists, why);
    if (result == ERR_NONE) result = hf_values_read(s.generation_path, s.gen, GEN_COUNT, &exists, why);
    if (result == ERR_NONE) result = read_tokenizer(path, &s, config, meta, why);
    if (result == ERR_NONE) result = write_template(jinja, &s, meta, why);
    hf_values_free(s.set, SET_COUNT);
    hf_values_free(s.gen, GEN_COUNT);
    text_free(&s.own.template);
    free(s.tokenizer_path);
    free(s.generation_path);
    free(path);
    free(jinja);
    return result;
}
