/* See gguf_raw.h. */
#include "tests/support/gguf_raw.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "core/tensor.h"

void raw_u32(struct text *out, uint32_t value) {
    const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    text_add(out, bytes, sizeof bytes);
}

void raw_u64(struct text *out, uint64_t value) {
    raw_u32(out, (uint32_t)value);
    raw_u32(out, (uint32_t)(value >> 32));
}

void raw_string(struct text *out, const char *value) {
    raw_u64(out, strlen(value));
    text_add(out, value, strlen(value));
}

void raw_write(const char *path, struct text bytes) {
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert(fd >= 0 && !bytes.failed);
    const ssize_t written = bytes.len ? write(fd, bytes.ptr, bytes.len) : 0;
    assert(written == (ssize_t)bytes.len);
    close(fd);
}

bool raw_write_sparse(const char *path, struct text bytes, uint64_t bytes_total) {
    raw_write(path, bytes);
    return truncate(path, (off_t)bytes_total) == 0;
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static bool text_is(const struct text *t, const char *s) { return t->len == strlen(s) && memcmp(t->ptr, s, t->len) == 0; }

struct raw_key *raw_key_find(struct raw_gguf *g, const char *name) {
    for (size_t i = 0; i < g->n_keys; i++)
        if (text_is(&g->keys[i].name, name)) return &g->keys[i];
    return NULL;
}

struct raw_key *raw_key_add(struct raw_gguf *g, const char *name, uint32_t type) {
    assert(g->n_keys < RAW_KEYS);
    struct raw_key *key = &g->keys[g->n_keys++];
    *key = (struct raw_key){.type = type, .name_len = RAW_AUTO};
    text_add(&key->name, name, strlen(name));
    return key;
}

void raw_drop_key(struct raw_gguf *g, const char *name) {
    struct raw_key *key = raw_key_find(g, name);
    assert(key);
    text_free(&key->name);
    text_free(&key->payload);
    g->n_keys--;
    memmove(key, key + 1, (size_t)(g->keys + g->n_keys - key) * sizeof *key);
}

void raw_set(struct raw_gguf *g, const char *name, uint32_t type, const void *payload, size_t bytes) {
    struct raw_key *key = raw_key_find(g, name);
    if (!key) key = raw_key_add(g, name, type);
    key->type = type;
    text_clear(&key->payload);
    text_add(&key->payload, payload, bytes);
}

void raw_set_u32(struct raw_gguf *g, const char *name, uint32_t value) { raw_set(g, name, 4, &value, sizeof value); }
void raw_set_u64(struct raw_gguf *g, const char *name, uint64_t value) { raw_set(g, name, 10, &value, sizeof value); }
void raw_set_i32(struct raw_gguf *g, const char *name, int32_t value) { raw_set(g, name, 5, &value, sizeof value); }
void raw_set_u16(struct raw_gguf *g, const char *name, uint16_t value) { raw_set(g, name, 2, &value, sizeof value); }
void raw_set_f32(struct raw_gguf *g, const char *name, float value) { raw_set(g, name, 6, &value, sizeof value); }
void raw_set_bool(struct raw_gguf *g, const char *name, uint8_t value) { raw_set(g, name, 7, &value, sizeof value); }

void raw_set_string(struct raw_gguf *g, const char *name, const char *value) {
    struct text payload = {0};
    raw_string(&payload, value);
    raw_set(g, name, 8, payload.ptr, payload.len);
    text_free(&payload);
}

void raw_set_array(struct raw_gguf *g, const char *name, uint32_t element_type, uint64_t count, const void *payload,
                   size_t bytes) {
    struct text whole = {0};
    raw_u32(&whole, element_type);
    raw_u64(&whole, count);
    text_add(&whole, payload, bytes);
    raw_set(g, name, 9, whole.ptr, whole.len);
    text_free(&whole);
}

void raw_set_strings(struct raw_gguf *g, const char *name, const char *const *strings, size_t n) {
    struct text payload = {0};
    for (size_t i = 0; i < n; i++) raw_string(&payload, strings[i]);
    raw_set_array(g, name, 8, n, payload.ptr, payload.len);
    text_free(&payload);
}

void raw_set_i32s(struct raw_gguf *g, const char *name, const int32_t *values, size_t n) {
    raw_set_array(g, name, 5, n, values, n * sizeof *values);
}

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

struct raw_tensor *raw_find(struct raw_gguf *g, const char *name) {
    for (size_t i = 0; i < g->n_tensors; i++)
        if (text_is(&g->tensors[i].name, name)) return &g->tensors[i];
    return NULL;
}

static void place(struct raw_gguf *g, struct raw_tensor *t) {
    uint64_t bytes = 0;
    enum tensor_type type;
    if (!tensor_type_from_gguf(t->type, &type) || !tensor_row_bytes(type, t->ne[0], &bytes)) bytes = 0;
    for (uint32_t d = 1; d < t->n_dims && d < RAW_DIMS; d++) bytes *= t->ne[d];
    t->offset = g->data_bytes;
    g->data_bytes = round_up(g->data_bytes + bytes, g->alignment);
}

struct raw_tensor *raw_add(struct raw_gguf *g, const char *name, uint32_t type, uint64_t a, uint64_t b, uint64_t x) {
    assert(g->n_tensors < RAW_TENSORS);
    struct raw_tensor *t = &g->tensors[g->n_tensors++];
    *t = (struct raw_tensor){.name_len = RAW_AUTO, .n_dims = x ? 3 : b ? 2 : 1, .ne = {a, b, x}, .type = type};
    text_add(&t->name, name, strlen(name));
    place(g, t);
    return t;
}

void raw_drop(struct raw_gguf *g, const char *name) {
    struct raw_tensor *t = raw_find(g, name);
    assert(t);
    text_free(&t->name);
    g->n_tensors--;
    memmove(t, t + 1, (size_t)(g->tensors + g->n_tensors - t) * sizeof *t);
}

void raw_place(struct raw_gguf *g) {
    g->data_bytes = 0;
    for (size_t i = 0; i < g->n_tensors; i++) place(g, &g->tensors[i]);
}

/* ---- whole files ------------------------------------------------------------------------------------------------ */

void raw_tiny(struct raw_gguf *g) {
    enum { F32 = 0, F16 = 1, E = 8, HQ = 2, HK = 1, D = 4, X = 2, F = 4, V = 8 };
    *g = (struct raw_gguf){
        .magic = "GGUF", .version = 3, .n_tensors_claimed = RAW_AUTO, .n_keys_claimed = RAW_AUTO, .alignment = 32};
    raw_set_string(g, "general.architecture", "qwen3moe");
    raw_set_string(g, "general.name", "tiny");
    raw_set_u32(g, "general.alignment", 32);
    raw_set_u32(g, "qwen3moe.block_count", 1);
    raw_set_u32(g, "qwen3moe.context_length", 64);
    raw_set_u32(g, "qwen3moe.embedding_length", E);
    raw_set_u32(g, "qwen3moe.feed_forward_length", F);
    raw_set_u32(g, "qwen3moe.attention.head_count", HQ);
    raw_set_u32(g, "qwen3moe.attention.head_count_kv", HK);
    raw_set_u32(g, "qwen3moe.attention.key_length", D);
    raw_set_u32(g, "qwen3moe.attention.value_length", D);
    raw_set_f32(g, "qwen3moe.attention.layer_norm_rms_epsilon", 1e-6f);
    raw_set_f32(g, "qwen3moe.rope.freq_base", 1e6f);
    raw_set_u32(g, "qwen3moe.expert_count", X);
    raw_set_u32(g, "qwen3moe.expert_used_count", 1);
    raw_set_u32(g, "qwen3moe.expert_feed_forward_length", F);
    raw_set_string(g, "tokenizer.ggml.model", "gpt2");
    raw_set_string(g, "tokenizer.ggml.pre", "qwen2");
    raw_set_strings(g, "tokenizer.ggml.tokens", (const char *const[]){"a", "b", "c", "d", "ab", "cd", "abcd", "<|im_end|>"}, V);
    raw_set_i32s(g, "tokenizer.ggml.token_type", (const int32_t[]){1, 1, 1, 1, 1, 1, 1, 3}, V);
    raw_set_strings(g, "tokenizer.ggml.merges", (const char *const[]){"a b", "c d", "ab cd"}, 3);
    raw_set_u32(g, "tokenizer.ggml.eos_token_id", 7);
    raw_set_bool(g, "tokenizer.ggml.add_bos_token", 0);
    raw_set_string(g, "tokenizer.chat_template", "{{ messages }}");
    raw_add(g, "token_embd.weight", F16, E, V, 0);
    raw_add(g, "output_norm.weight", F32, E, 0, 0);
    raw_add(g, "output.weight", F16, E, V, 0);
    raw_add(g, "blk.0.attn_norm.weight", F32, E, 0, 0);
    raw_add(g, "blk.0.attn_q.weight", F16, E, HQ * D, 0);
    raw_add(g, "blk.0.attn_k.weight", F16, E, HK * D, 0);
    raw_add(g, "blk.0.attn_v.weight", F16, E, HK * D, 0);
    raw_add(g, "blk.0.attn_output.weight", F16, HQ * D, E, 0);
    raw_add(g, "blk.0.attn_q_norm.weight", F32, D, 0, 0);
    raw_add(g, "blk.0.attn_k_norm.weight", F32, D, 0, 0);
    raw_add(g, "blk.0.ffn_norm.weight", F32, E, 0, 0);
    raw_add(g, "blk.0.ffn_gate_inp.weight", F16, E, X, 0);
    raw_add(g, "blk.0.ffn_gate_exps.weight", F16, E, F, X);
    raw_add(g, "blk.0.ffn_up_exps.weight", F16, E, F, X);
    raw_add(g, "blk.0.ffn_down_exps.weight", F16, F, E, X);
}

void raw_free(struct raw_gguf *g) {
    for (size_t i = 0; i < g->n_keys; i++) {
        text_free(&g->keys[i].name);
        text_free(&g->keys[i].payload);
    }
    for (size_t i = 0; i < g->n_tensors; i++) text_free(&g->tensors[i].name);
    *g = (struct raw_gguf){0};
}

static void build_name(struct text *out, const struct text *name, uint64_t claimed) {
    raw_u64(out, claimed == RAW_AUTO ? name->len : claimed);
    text_add(out, name->ptr, name->len);
}

void raw_build_directory(struct raw_gguf *g, struct text *out) {
    const size_t start = out->len;
    text_add(out, g->magic, 4);
    raw_u32(out, g->version);
    raw_u64(out, g->n_tensors_claimed == RAW_AUTO ? g->n_tensors : g->n_tensors_claimed);
    raw_u64(out, g->n_keys_claimed == RAW_AUTO ? g->n_keys : g->n_keys_claimed);
    for (size_t i = 0; i < g->n_keys; i++) {
        struct raw_key *key = &g->keys[i];
        key->at = out->len - start;
        build_name(out, &key->name, key->name_len);
        raw_u32(out, key->type);
        key->payload_at = out->len - start;
        text_add(out, key->payload.ptr, key->payload.len);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct raw_tensor *t = &g->tensors[i];
        t->at = out->len - start;
        build_name(out, &t->name, t->name_len);
        raw_u32(out, t->n_dims);
        for (uint32_t d = 0; d < t->n_dims && d < RAW_DIMS; d++) raw_u64(out, t->ne[d]);
        raw_u32(out, t->type);
        raw_u64(out, t->offset);
    }
    while (g->n_tensors && (out->len - start) % g->alignment) text_add(out, "", 1);
    g->data_at = out->len - start;
    assert(!out->failed);
}

void raw_build(struct raw_gguf *g, struct text *out) {
    raw_build_directory(g, out);
    for (uint64_t i = 0; i < g->data_bytes; i++) text_add(out, &(char){(char)(i * 7)}, 1);
    assert(!out->failed);
}
