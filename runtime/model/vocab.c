/* Tokenizer arrays of a GGUF-style file: lengths agree, ids are in range, strings become spans into the metadata region.
 *
 * Owns only the span and type arrays. What the texts say (byte-level alphabet, merges) is the tokenizer's to judge. */
#include "model/container.h"

#include <stdlib.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

/* The strings of an array whose extent the container reader has already walked. */
static enum err spans_of(const struct container *c, const char *key, const struct model_meta *entry, uint64_t max,
                         struct span **out, struct reason *why) {
    if (entry->count > max)
        return key_fail(c, key, why, ERR_LIMIT, "has %llu strings; at most %llu are allowed", (unsigned long long)entry->count,
                        (unsigned long long)max);
    struct span *spans = calloc_checked(entry->count, sizeof *spans);
    if (!spans) return key_fail(c, key, why, ERR_NO_MEMORY, "no memory for %llu strings", (unsigned long long)entry->count);
    const char *p = entry->bytes.ptr;
    for (uint64_t i = 0; i < entry->count; i++) {
        spans[i] = (struct span){p + 8, (size_t)load_u64((const uint8_t *)p)};
        p += 8 + spans[i].len;
    }
    *out = spans;
    return ERR_NONE;
}

static enum err check_length(const struct container *c, const char *key, const struct model_meta *entry, size_t n_tokens,
                             struct reason *why) {
    if (entry && entry->count != n_tokens)
        return key_fail(c, key, why, ERR_FORMAT, "has %llu elements for %zu tokens", (unsigned long long)entry->count,
                        n_tokens);
    return ERR_NONE;
}

static enum err read_types(const struct container *c, size_t n_tokens, struct vocab_arrays *own, struct reason *why) {
    const struct model_meta *types, *scores;
    TRY(meta_array(c, KEY("token_type"), META_I32, &types, why));
    TRY(check_length(c, KEY("token_type"), types, n_tokens, why));
    /* scores are unused by byte-level BPE, but a wrong length is a broken file */
    TRY(meta_array(c, KEY("scores"), META_F32, &scores, why));
    TRY(check_length(c, KEY("scores"), scores, n_tokens, why));
    own->types = calloc_checked(n_tokens, sizeof *own->types);
    if (!own->types)
        return fail(why, ERR_NO_MEMORY, "%s: no memory for %zu token types", container_label(c), n_tokens);
    for (size_t i = 0; i < n_tokens; i++) {
        uint64_t type = 1;
        if (types && (!meta_element_uint(types, i, &type) || type > 6))
            return key_fail(c, KEY("token_type"), why, ERR_FORMAT, "type of token %zu is %lld; 1 to 6 are known", i,
                            (long long)type);
        own->types[i] = type ? (int32_t)type : 1; /* 0 is written by some tools for "not set" */
    }
    return ERR_NONE;
}

static enum err read_id(const struct container *c, const char *key, size_t n_tokens, int32_t *id, struct reason *why) {
    const struct uint_rule rule = {.max = n_tokens - 1};
    uint64_t value = UINT64_MAX;
    TRY(meta_uint(c, key, rule, &value, why));
    *id = value == UINT64_MAX ? -1 : (int32_t)value;
    return ERR_NONE;
}

/* Padding is never used here, and -1 is a common way to write "none": only that is forgiven. */
static enum err read_pad(const struct container *c, size_t n_tokens, int32_t *id, struct reason *why) {
    const struct model_meta *entry = meta_find(&c->meta, SPAN(KEY("padding_token_id")));
    *id = -1;
    if (entry && meta_is_integer(entry->type)) {
        uint64_t value;
        if (!meta_element_uint(entry, 0, &value) ? value == UINT64_MAX : value == UINT32_MAX) return ERR_NONE;
    }
    return read_id(c, KEY("padding_token_id"), n_tokens, id, why);
}

static enum err check_kind(const struct container *c, const struct model_vocab *v, struct reason *why) {
    if (!span_equal(v->model, SPAN("gpt2")))
        return key_fail(c, KEY("model"), why, ERR_UNSUPPORTED, "is '%s'; only gpt2 (byte-level BPE) is supported",
                        quote(v->model).text);
    if (v->pre.len && !span_equal(v->pre, SPAN("qwen2")))
        return key_fail(c, KEY("pre"), why, ERR_UNSUPPORTED, "is '%s'; only qwen2 is supported", quote(v->pre).text);
    return ERR_NONE;
}

enum err vocab_read(const struct container *c, struct vocab_arrays *own, struct model_vocab *out, struct reason *why) {
    *out = (struct model_vocab){.bos = -1, .eos = -1, .eot = -1, .pad = -1};
    const struct model_meta *tokens, *merges;
    TRY(meta_string(c, KEY("model"), &out->model, why));
    TRY(meta_string(c, KEY("pre"), &out->pre, why));
    TRY(meta_array(c, KEY("tokens"), META_STRING, &tokens, why));
    TRY(meta_array(c, KEY("merges"), META_STRING, &merges, why));
    if (!tokens) {
        if (out->model.len == 0 || span_equal(out->model, SPAN("no_vocab"))) return ERR_NONE;
        return key_fail(c, KEY("tokens"), why, ERR_FORMAT, "is missing from the metadata");
    }
    TRY(check_kind(c, out, why));
    if (tokens->count == 0) return key_fail(c, KEY("tokens"), why, ERR_FORMAT, "is empty");
    TRY(spans_of(c, KEY("tokens"), tokens, MAX_TOKENS, &own->tokens, why));
    if (merges) TRY(spans_of(c, KEY("merges"), merges, MAX_MERGES, &own->merges, why));
    const size_t n = (size_t)tokens->count;
    TRY(read_types(c, n, own, why));
    TRY(read_id(c, KEY("bos_token_id"), n, &out->bos, why));
    TRY(read_id(c, KEY("eos_token_id"), n, &out->eos, why));
    TRY(read_id(c, KEY("eot_token_id"), n, &out->eot, why));
    TRY(read_pad(c, n, &out->pad, why));
    TRY(meta_bool(c, KEY("add_bos_token"), &out->add_bos, why));
    out->n_tokens = n;
    out->tokens = own->tokens;
    out->types = own->types;
    out->n_merges = merges ? (size_t)merges->count : 0;
    out->merges = own->merges;
    return ERR_NONE;
}

void vocab_close(struct vocab_arrays *own) {
    free(own->tokens);
    free(own->merges);
    free(own->types);
    *own = (struct vocab_arrays){0};
}
