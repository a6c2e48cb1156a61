/* See hf_raw.h. */
#include "tests/support/hf_raw.h"

#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void raw_hf_free(struct raw_hf *h) {
    struct text *texts[] = {&h->config, &h->tokenizer, &h->tokenizer_config, &h->generation, &h->index, &h->jinja};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) text_free(texts[i]);
    h->n = 0;
    h->n_shards = 1;
    h->skipped = 0;
    h->padded = false;
}

struct raw_hf_tensor *raw_hf_add(struct raw_hf *h, const char *name, const char *dtype, const char *shape, uint64_t bytes) {
    assert(h->n < RAW_HF_TENSORS);
    struct raw_hf_tensor *t = &h->tensors[h->n++];
    *t = (struct raw_hf_tensor){.bytes = bytes};
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
    snprintf(t->shape, sizeof t->shape, "%s", shape);
    return t;
}

struct raw_hf_tensor *raw_hf_find(struct raw_hf *h, const char *name) {
    for (size_t i = 0; i < h->n; i++)
        if (strcmp(h->tensors[i].name, name) == 0) return &h->tensors[i];
    fprintf(stderr, "no tensor %s\n", name);
    abort();
}

void raw_hf_drop(struct raw_hf *h, const char *name) {
    struct raw_hf_tensor *t = raw_hf_find(h, name);
    memmove(t, t + 1, (size_t)(&h->tensors[h->n] - (t + 1)) * sizeof *t);
    h->n--;
}

void raw_hf_replace(struct text *text, const char *from, const char *to) {
    const char *at = text->ptr ? strstr(text->ptr, from) : NULL;
    if (!at) {
        fprintf(stderr, "no '%s' in %s\n", from, text->ptr ? text->ptr : "nothing");
        abort();
    }
    struct text changed = {0};
    text_add(&changed, text->ptr, (size_t)(at - text->ptr));
    text_addf(&changed, "%s", to);
    text_addf(&changed, "%s", at + strlen(from));
    text_free(text);
    *text = changed;
}

/* ---- models ------------------------------------------------------------------------------------------------------------ */

static void add_config(struct raw_hf *h, unsigned width, unsigned heads, unsigned kv_heads, unsigned head_dim, unsigned ff,
                       unsigned vocab) {
    text_addf(
        &h->config,
        "{\n \"architectures\": [\"Qwen3MoeForCausalLM\"],\n \"model_type\": \"qwen3_moe\",\n \"hidden_size\": %u,\n"
        " \"num_attention_heads\": %u,\n \"num_key_value_heads\": %u,\n \"head_dim\": %u,\n \"moe_intermediate_size\": %u,\n"
        " \"vocab_size\": %u,\n \"num_hidden_layers\": 1,\n \"num_experts\": 2,\n \"num_experts_per_tok\": 1,\n"
        " \"intermediate_size\": 32,\n \"max_position_embeddings\": 4096,\n \"rms_norm_eps\": 1e-06,\n \"rope_theta\": "
        "10000000,\n"
        " \"rope_scaling\": null,\n \"hidden_act\": \"silu\",\n \"norm_topk_prob\": true,\n \"tie_word_embeddings\": false,\n"
        " \"mlp_only_layers\": [],\n \"decoder_sparse_step\": 1,\n \"attention_bias\": false,\n \"use_sliding_window\": "
        "false,\n"
        " \"bos_token_id\": 0,\n \"eos_token_id\": [2, 1],\n \"torch_dtype\": \"bfloat16\"\n}\n",
        width, heads, kv_heads, head_dim, ff, vocab);
}

static void add_dense(struct raw_hf *h, const char *name, const char *dtype, unsigned rows, unsigned columns) {
    char shape[64], full[120];
    const unsigned size = strcmp(dtype, "F32") == 0 ? 4 : 2;
    if (columns)
        snprintf(shape, sizeof shape, "[%u, %u]", rows, columns);
    else
        snprintf(shape, sizeof shape, "[%u]", rows);
    snprintf(full, sizeof full, "%s.weight", name);
    raw_hf_add(h, full, dtype, shape, (uint64_t)rows * (columns ? columns : 1) * size);
}

static void add_exl3(struct raw_hf *h, const char *name, unsigned out, unsigned in, unsigned bits) {
    char full[120], shape[64];
    snprintf(full, sizeof full, "%s.trellis", name);
    snprintf(shape, sizeof shape, "[%u, %u, %u]", in / 16, out / 16, 16 * bits);
    raw_hf_add(h, full, "I16", shape, (uint64_t)in * out * bits / 8);
    snprintf(full, sizeof full, "%s.suh", name);
    snprintf(shape, sizeof shape, "[%u]", in);
    raw_hf_add(h, full, "F16", shape, 2 * (uint64_t)in);
    snprintf(full, sizeof full, "%s.svh", name);
    snprintf(shape, sizeof shape, "[%u]", out);
    raw_hf_add(h, full, "F16", shape, 2 * (uint64_t)out);
    snprintf(full, sizeof full, "%s.mcg", name);
    struct raw_hf_tensor *marker = raw_hf_add(h, full, "I32", "[]", 4);
    marker->marker = true;
    marker->value = 0xCBAC1FED;
}

struct widths {
    unsigned embd, q, kv, head, ff, vocab;
    bool exl3;
};

static void add_matrix(struct raw_hf *h, const struct widths *w, const char *name, unsigned out, unsigned in, unsigned bits) {
    if (w->exl3)
        add_exl3(h, name, out, in, bits);
    else
        add_dense(h, name, "BF16", out, in);
}

static void add_tensors(struct raw_hf *h, const struct widths *w) {
#define LAYER "model.layers.0."
    add_dense(h, "model.embed_tokens", "BF16", w->vocab, w->embd);
    for (int e = 1; e >= 0; e--) { /* not in order */
        char name[80];
        snprintf(name, sizeof name, LAYER "mlp.experts.%d.gate_proj", e);
        add_matrix(h, w, name, w->ff, w->embd, 2);
        snprintf(name, sizeof name, LAYER "mlp.experts.%d.up_proj", e);
        add_matrix(h, w, name, w->ff, w->embd, 2);
        snprintf(name, sizeof name, LAYER "mlp.experts.%d.down_proj", e);
        add_matrix(h, w, name, w->embd, w->ff, 2);
    }
    add_dense(h, LAYER "mlp.gate", w->exl3 ? "F16" : "BF16", 2, w->embd);
    add_dense(h, LAYER "input_layernorm", "BF16", w->embd, 0);
    add_dense(h, LAYER "post_attention_layernorm", "BF16", w->embd, 0);
    add_dense(h, LAYER "self_attn.q_norm", "BF16", w->head, 0);
    add_dense(h, LAYER "self_attn.k_norm", "BF16", w->head, 0);
    add_matrix(h, w, LAYER "self_attn.q_proj", w->q, w->embd, 3);
    add_matrix(h, w, LAYER "self_attn.k_proj", w->kv, w->embd, 3);
    add_matrix(h, w, LAYER "self_attn.v_proj", w->kv, w->embd, 3);
    add_matrix(h, w, LAYER "self_attn.o_proj", w->embd, w->q, 3);
    add_dense(h, "model.norm", "BF16", w->embd, 0);
    add_matrix(h, w, "lm_head", w->vocab, w->embd, 6);
}

void raw_hf_dense(struct raw_hf *h) {
    raw_hf_free(h);
    add_config(h, 8, 2, 1, 4, 16, 8);
    add_tensors(h, &(struct widths){8, 8, 4, 4, 16, 8, false});
}

void raw_hf_exl3(struct raw_hf *h) {
    raw_hf_free(h);
    add_config(h, 128, 4, 2, 64, 128, 128);
    raw_hf_replace(&h->config, "\"torch_dtype\"",
                   "\"quantization_config\": {\"quant_method\": \"exl3\", \"version\": \"0.0.34\", "
                   "\"bits\": 2.06, \"head_bits\": 6, \"calibration\": {\"rows\": 250}},\n \"torch_dtype\"");
    add_tensors(h, &(struct widths){128, 256, 128, 64, 128, 128, true});
}

/* ---- tokenizer --------------------------------------------------------------------------------------------------------- */

static void add_utf8(struct text *out, unsigned code) {
    if (code == '"' || code == '\\')
        text_addf(out, "\\%c", (int)code);
    else if (code < 0x80)
        text_addf(out, "%c", (int)code);
    else
        text_addf(out, "%c%c", (int)(0xc0 | code >> 6), (int)(0x80 | (code & 0x3f)));
}

void raw_hf_tokenizer(struct raw_hf *h) {
    struct text *t = &h->tokenizer;
    text_addf(
        t, "{\"version\": \"1.0\", \"truncation\": null,\n \"added_tokens\": [\n"
           "  {\"id\": 258, \"content\": \"<|endoftext|>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
           "\"normalized\": false, \"special\": true},\n"
           "  {\"id\": 259, \"content\": \"<|im_end|>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
           "\"normalized\": false, \"special\": false},\n"
           "  {\"id\": 260, \"content\": \"<think>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
           "\"normalized\": false, \"special\": false}],\n"
           " \"normalizer\": {\"type\": \"NFC\"},\n"
           " \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "
           "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "
           "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, "
           "\"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
           "\"trim_offsets\": false, \"use_regex\": false}]},\n"
           " \"decoder\": {\"type\": \"ByteLevel\"},\n"
           " \"model\": {\"type\": \"BPE\", \"dropout\": null, \"continuing_subword_prefix\": \"\", \"byte_fallback\": false,\n"
           "  \"vocab\": {");
    unsigned other = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        const bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        text_addf(t, b ? ", \"" : "\"");
        add_utf8(t, itself ? b : other++);
        text_addf(t, "\": %u", b);
    }
    text_addf(t, ", \"ab\": 256, \"ab\\u0063\": 257},\n  \"merges\": [[\"a\", \"b\"], [\"ab\", \"c\"]]}}\n");
    text_addf(&h->tokenizer_config,
              "{\"add_bos_token\": false, \"bos_token\": null, \"eos_token\": \"<|im_end|>\", \"pad_token\": "
              "{\"content\": \"<|endoftext|>\", \"special\": true}, \"chat_template\": \"{%% if x %%}\\n\\u00e9\"}");
    raw_hf_replace(&h->config, "\"vocab_size\": 8,", "\"vocab_size\": 264,");
    const char *const sized[] = {"model.embed_tokens.weight", "lm_head.weight"};
    for (int i = 0; i < 2; i++) {
        struct raw_hf_tensor *one = raw_hf_find(h, sized[i]);
        snprintf(one->shape, sizeof one->shape, "[264, 8]");
        one->bytes = 264 * 8 * 2;
    }
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */

uint8_t raw_hf_byte(const char *name, uint64_t i) {
    uint32_t hash = 2166136261u;
    for (const char *p = name; *p; p++) hash = (hash ^ (uint8_t)*p) * 16777619u;
    return (uint8_t)((hash + (uint32_t)i) * 2654435761u >> 24);
}

void raw_hf_put(const struct raw_hf *h, const char *name, const void *bytes, size_t len) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", h->folder, name);
    FILE *file = fopen(path, "wb");
    assert(file);
    const size_t written = len ? fwrite(bytes, 1, len, file) : 0;
    const int closed = fclose(file);
    assert(written == len && closed == 0);
}

void raw_hf_clear(const struct raw_hf *h) {
    DIR *dir = opendir(h->folder);
    assert(dir);
    for (const struct dirent *entry; (entry = readdir(dir));) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", h->folder, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) unlink(path);
    }
    closedir(dir);
}

static void write_shard(const struct raw_hf *h, unsigned shard) {
    struct text header = {0}, file = {0};
    uint64_t at = 0;
    text_addf(&header, "{");
    for (size_t i = 0; i < h->n; i++) {
        const struct raw_hf_tensor *t = &h->tensors[i];
        if (t->shard != shard) continue;
        text_addf(&header, "%s\"%s\":", header.len > 1 ? "," : "", t->name);
        if (t->entry[0])
            text_addf(&header, "%s", t->entry);
        else
            text_addf(&header, "{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%llu,%llu]}", t->dtype, t->shape,
                      (unsigned long long)at, (unsigned long long)(at + t->bytes));
        at += t->bytes;
    }
    text_addf(&header, "}");
    while (h->padded && header.len % 8) text_addf(&header, " ");
    const uint64_t len = header.len;
    text_add(&file, &len, sizeof len);
    text_add(&file, header.ptr, header.len);
    for (size_t i = 0; i < h->n; i++) {
        const struct raw_hf_tensor *t = &h->tensors[i];
        if (t->shard != shard) continue;
        for (uint64_t b = 0; b < t->bytes; b++)
            text_add(&file, &(const uint8_t){t->marker && b < 4 ? (uint8_t)(t->value >> 8 * b) : raw_hf_byte(t->name, b)}, 1);
    }
    assert(!header.failed && !file.failed);
    char name[60] = "model.safetensors";
    if (h->n_shards > 1) snprintf(name, sizeof name, "model-%05u-of-%05u.safetensors", shard + 1, h->n_shards);
    raw_hf_put(h, name, file.ptr, file.len);
    text_free(&header);
    text_free(&file);
}

void raw_hf_write(struct raw_hf *h) {
    raw_hf_clear(h);
    const struct {
        const char *name;
        const struct text *text;
    } files[] = {{"config.json", &h->config},
                 {"tokenizer.json", &h->tokenizer},
                 {"tokenizer_config.json", &h->tokenizer_config},
                 {"generation_config.json", &h->generation},
                 {"model.safetensors.index.json", &h->index},
                 {"chat_template.jinja", &h->jinja}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (files[i].text->len) raw_hf_put(h, files[i].name, files[i].text->ptr, files[i].text->len);
    for (unsigned s = 0; s < h->n_shards && h->n; s++)
        if (!(h->skipped >> s & 1)) write_shard(h, s);
}
