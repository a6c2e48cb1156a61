/* From a container's keys and tensors to a validated struct model: shape, bound weights, vocabulary.
 *
 * Only the qwen3moe family is known. Owns the container it opened; nothing is changed after model_open(), so that the
 * model can be shared. Never reads tensor data. */
#include "model/hf.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Far above the largest known model, so that products of a few of them stay far below 2^63 everywhere. */
enum {
    MAX_LAYERS = 1 << 12,
    MAX_EMBD = 1 << 20,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 14,
    MAX_EXPERTS = 1 << 16,
    MAX_FF = 1 << 20,
    MAX_VOCAB = MAX_TOKENS,
};

struct owner {
    struct model model; /* first: a model pointer is an owner pointer */
    struct container container;
    struct model_layer *layers;
    struct vocab_arrays vocab;
};

#define KEY(name) "qwen3moe." name

/* ---- shape ------------------------------------------------------------------------------------------------------ */

static enum err check_family(const struct container *c, struct span *architecture, struct reason *why) {
    struct span type = SPAN("model");
    TRY(meta_string(c, "general.type", &type, why));
    if (!span_equal(type, SPAN("model")))
        return key_fail(c, "general.type", why, ERR_UNSUPPORTED, "is '%s': not a model file", quote(type).text);
    TRY(meta_string(c, "general.architecture", architecture, why));
    if (!architecture->ptr) return key_fail(c, "general.architecture", why, ERR_FORMAT, "is missing from the metadata");
    if (!span_equal(*architecture, SPAN("qwen3moe")))
        return key_fail(c, "general.architecture", why, ERR_UNSUPPORTED, "is '%s'; only qwen3moe is supported",
                        quote(*architecture).text);
    return ERR_NONE;
}

static enum err read_u32(const struct container *c, const char *key, struct uint_rule rule, uint32_t *out, struct reason *why) {
    uint64_t value = *out;
    TRY(meta_uint(c, key, rule, &value, why));
    *out = (uint32_t)value;
    return ERR_NONE;
}

static enum err read_attention(const struct container *c, struct model_shape *s, struct reason *why) {
    const uint32_t layers = s->n_layers;
    TRY(read_u32(c, KEY("attention.head_count"), (struct uint_rule){1, MAX_HEADS, true, layers}, &s->n_heads, why));
    s->n_kv_heads = s->n_heads;
    TRY(read_u32(c, KEY("attention.head_count_kv"), (struct uint_rule){1, MAX_HEADS, false, layers}, &s->n_kv_heads, why));
    if (s->n_heads % s->n_kv_heads)
        return key_fail(c, KEY("attention.head_count_kv"), why, ERR_FORMAT, "%u heads are not divisible by %u key/value heads",
                        s->n_heads, s->n_kv_heads);
    s->head_dim = s->n_embd / s->n_heads;
    TRY(read_u32(c, KEY("attention.key_length"), (struct uint_rule){2, MAX_HEAD_DIM, false, 0}, &s->head_dim, why));
    if (s->head_dim < 2 || s->head_dim % 2 || s->head_dim > MAX_HEAD_DIM)
        return key_fail(c, KEY("attention.key_length"), why, ERR_FORMAT, "a head size of %u; it must be even and 2 to %d",
                        s->head_dim, MAX_HEAD_DIM);
    uint32_t value_dim = s->head_dim, rotary = s->head_dim;
    TRY(read_u32(c, KEY("attention.value_length"), (struct uint_rule){1, MAX_HEAD_DIM, false, 0}, &value_dim, why));
    TRY(read_u32(c, KEY("rope.dimension_count"), (struct uint_rule){1, MAX_HEAD_DIM, false, 0}, &rotary, why));
    if (value_dim != s->head_dim || rotary != s->head_dim)
        return key_fail(c, KEY("attention.key_length"), why, ERR_UNSUPPORTED,
                        "key size %u, value size %u and rotary size %u must be equal", s->head_dim, value_dim, rotary);
    return ERR_NONE;
}

static enum err read_experts(const struct container *c, struct model_shape *s, struct reason *why) {
    TRY(read_u32(c, KEY("expert_count"), (struct uint_rule){1, MAX_EXPERTS, true, 0}, &s->n_experts, why));
    TRY(read_u32(c, KEY("expert_used_count"), (struct uint_rule){1, s->n_experts, true, 0}, &s->n_experts_used, why));
    const bool own_width = meta_find(&c->meta, SPAN(KEY("expert_feed_forward_length"))) != NULL;
    uint64_t dense = 0;
    TRY(meta_uint(c, KEY("feed_forward_length"), (struct uint_rule){0, UINT32_MAX, !own_width, s->n_layers}, &dense, why));
    s->n_ff = (uint32_t)(dense / s->n_experts_used);
    TRY(read_u32(c, KEY("expert_feed_forward_length"), (struct uint_rule){1, MAX_FF, false, 0}, &s->n_ff, why));
    if (s->n_ff == 0 || s->n_ff > MAX_FF)
        return key_fail(c, KEY("feed_forward_length"), why, ERR_FORMAT,
                        "%llu for %u experts a token gives no usable expert width", (unsigned long long)dense,
                        s->n_experts_used);
    return ERR_NONE;
}

static enum err positive_float(const struct container *c, const char *key, bool required, float above, float *value,
                               struct reason *why) {
    TRY(meta_float(c, key, required, value, why));
    if (!(*value > above))
        return key_fail(c, key, why, ERR_FORMAT, "is %g; it must be above %g", (double)*value, (double)above);
    return ERR_NONE;
}

static enum err read_scaling_type(const struct container *c, struct model_shape *s, struct reason *why) {
    struct span type = SPAN("linear"); /* what a factor without a type means */
    TRY(meta_string(c, KEY("rope.scaling.type"), &type, why));
    if (span_equal(type, SPAN("none")))
        s->rope_scaling = ROPE_NONE;
    else if (span_equal(type, SPAN("linear")))
        s->rope_scaling = ROPE_LINEAR;
    else if (span_equal(type, SPAN("yarn")))
        s->rope_scaling = ROPE_YARN;
    else
        return key_fail(c, KEY("rope.scaling.type"), why, ERR_UNSUPPORTED, "is '%s'; none, linear and yarn are supported",
                        quote(type).text);
    return ERR_NONE;
}

/* A negative share of the ramp is a way to write "not set". */
static enum err read_yarn_ramp(const struct container *c, struct model_shape *s, struct reason *why) {
    const float usual = s->rope_scaling == ROPE_YARN ? 1 : 0;
    s->rope_ext_factor = usual;
    s->rope_beta_fast = ROPE_BETA_FAST;
    s->rope_beta_slow = ROPE_BETA_SLOW;
    TRY(meta_float(c, KEY("rope.scaling.yarn_ext_factor"), false, &s->rope_ext_factor, why));
    TRY(positive_float(c, KEY("rope.scaling.yarn_beta_fast"), false, 0, &s->rope_beta_fast, why));
    TRY(positive_float(c, KEY("rope.scaling.yarn_beta_slow"), false, 0, &s->rope_beta_slow, why));
    if (s->rope_ext_factor < 0) s->rope_ext_factor = usual;
    if (s->rope_ext_factor > 1)
        return key_fail(c, KEY("rope.scaling.yarn_ext_factor"), why, ERR_FORMAT, "is %g; it must be 0 to 1", (double)s->rope_ext_factor);
    if (s->rope_beta_fast < s->rope_beta_slow)
        return key_fail(c, KEY("rope.scaling.yarn_beta_fast"), why, ERR_FORMAT, "is %g, below yarn_beta_slow's %g", (double)s->rope_beta_fast,
                        (double)s->rope_beta_slow);
    return ERR_NONE;
}

/* Type `none` means no scaling, whatever factor the file carries. (ik_llama.cpp still divides positions by the factor then;
 * a writer that says none does not mean that.) A linear factor of 0 is an old way to write "not scaled". */
static enum err read_rope(const struct container *c, struct model_shape *s, struct reason *why) {
    s->rope_base = 10000;
    TRY(positive_float(c, KEY("rope.freq_base"), false, 1, &s->rope_base, why));
    TRY(read_scaling_type(c, s, why));
    s->rope_factor = s->rope_scaling == ROPE_YARN ? 1 : 0;
    TRY(meta_float(c, KEY("rope.scale_linear"), false, &s->rope_factor, why));
    TRY(meta_float(c, KEY("rope.scaling.factor"), false, &s->rope_factor, why));
    if (s->rope_factor < 0 || (s->rope_scaling == ROPE_YARN && s->rope_factor == 0) ||
        (s->rope_factor > 0 && (s->rope_factor < ROPE_LEAST_FACTOR || s->rope_factor > ROPE_MOST_FACTOR)))
        return key_fail(c, KEY("rope.scaling.factor"), why, ERR_FORMAT, "is %g; it must be a sensible positive number",
                        (double)s->rope_factor);
    if (s->rope_scaling == ROPE_NONE || s->rope_factor == 0) s->rope_factor = 1;
    if (s->rope_scaling == ROPE_LINEAR && s->rope_factor == 1) s->rope_scaling = ROPE_NONE;
    s->rope_original_context = s->context_length;
    TRY(meta_uint(c, KEY("rope.scaling.original_context_length"), (struct uint_rule){1, UINT32_MAX, false, 0},
                  &s->rope_original_context, why));
    s->rope_attn_factor = 1;
    TRY(positive_float(c, KEY("rope.scaling.attn_factor"), false, 0, &s->rope_attn_factor, why));
    TRY(positive_float(c, KEY("rope.scaling.yarn_attn_factor"), false, 0, &s->rope_attn_factor, why));
    return read_yarn_ramp(c, s, why);
}

static enum err read_shape(const struct container *c, struct model_shape *s, struct reason *why) {
    TRY(read_u32(c, KEY("block_count"), (struct uint_rule){1, MAX_LAYERS, true, 0}, &s->n_layers, why));
    TRY(read_u32(c, KEY("embedding_length"), (struct uint_rule){1, MAX_EMBD, true, 0}, &s->n_embd, why));
    TRY(meta_uint(c, KEY("context_length"), (struct uint_rule){1, UINT64_MAX, true, 0}, &s->context_length, why));
    if (s->context_length > MODEL_MAX_POSITIONS) s->context_length = MODEL_MAX_POSITIONS; /* what memory allows is decided later */
    TRY(read_attention(c, s, why));
    TRY(read_experts(c, s, why));
    TRY(positive_float(c, KEY("attention.layer_norm_rms_epsilon"), true, 0, &s->rms_eps, why));
    return read_rope(c, s, why);
}

/* ---- binding ---------------------------------------------------------------------------------------------------- */

static bool is_weight_type(enum tensor_type type) {
    return type != TYPE_I8 && type != TYPE_I16 && type != TYPE_I32 && type != TYPE_I64 && type != TYPE_F64;
}

/* The tensor of this name with extents a, b, x; NULL in *out when it is absent and not required. */
static enum err bind(const struct container *c, const char *name, bool required, uint64_t a, uint64_t b, uint64_t x,
                     const struct model_tensor **out, struct reason *why) {
    const struct model_tensor *t = *out = directory_find(c, span_of(name));
    if (!t && required) return fail(why, ERR_FORMAT, "%s: tensor '%s' is missing", container_label(c), name);
    if (!t) return ERR_NONE;
    if (t->ne[0] != a || t->ne[1] != b || t->ne[2] != x || t->ne[3] != 1)
        return tensor_fail(c, t, why, ERR_FORMAT,
                           "extents are %llu x %llu x %llu x %llu; the model's shape needs %llu x %llu x %llu",
                           (unsigned long long)t->ne[0], (unsigned long long)t->ne[1], (unsigned long long)t->ne[2],
                           (unsigned long long)t->ne[3], (unsigned long long)a, (unsigned long long)b, (unsigned long long)x);
    if (!is_weight_type(t->type))
        return tensor_fail(c, t, why, ERR_UNSUPPORTED, "type %s cannot hold weights", tensor_type_info(t->type)->name);
    return ERR_NONE;
}

static enum err bind_layer(const struct container *c, const struct model_shape *s, uint32_t layer, struct model_layer *l,
                           struct reason *why) {
    const uint64_t E = s->n_embd, Q = (uint64_t)s->n_heads * s->head_dim, K = (uint64_t)s->n_kv_heads * s->head_dim,
                   D = s->head_dim;
    const uint64_t F = s->n_ff, X = s->n_experts;
    char name[64];
    snprintf(name, sizeof name, "blk.%u.ffn_gate_exps.weight", layer);
    const bool separate = directory_find(c, span_of(name)) != NULL;
    snprintf(name, sizeof name, "blk.%u.ffn_gate_up_exps.weight", layer);
    const bool merged = !separate && directory_find(c, span_of(name)) != NULL;
    const struct {
        const char *name;
        uint64_t a, b, x;
        const struct model_tensor **to;
    } wanted[] = {
        {"attn_norm", E, 1, 1, &l->attn_norm},
        {"attn_q", E, Q, 1, &l->attn_q},
        {"attn_k", E, K, 1, &l->attn_k},
        {"attn_v", E, K, 1, &l->attn_v},
        {"attn_output", Q, E, 1, &l->attn_output},
        {"attn_q_norm", D, 1, 1, &l->attn_q_norm},
        {"attn_k_norm", D, 1, 1, &l->attn_k_norm},
        {"ffn_norm", E, 1, 1, &l->ffn_norm},
        {"ffn_gate_inp", E, X, 1, &l->router},
        {merged ? "ffn_gate_up_exps" : "ffn_gate_exps", E, merged ? 2 * F : F, X, &l->gate},
        {"ffn_down_exps", F, E, X, &l->down},
        {"ffn_up_exps", E, F, X, &l->up},
    };
    const size_t n = sizeof wanted / sizeof *wanted - (merged ? 1 : 0);
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, wanted[i].name);
        TRY(bind(c, name, true, wanted[i].a, wanted[i].b, wanted[i].x, wanted[i].to, why));
    }
    return ERR_NONE;
}

/* A tensor of a layer the metadata does not count: block_count is wrong, or the file is of a family this is not. */
static enum err check_layer_numbers(const struct container *c, uint32_t n_layers, struct reason *why) {
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct model_tensor *t = &c->tensors[i];
        if (!span_starts(t->name, SPAN("blk."))) continue;
        uint64_t number = 0;
        size_t at = 4;
        for (; at < t->name.len && at < 4 + 10 && t->name.ptr[at] >= '0' && t->name.ptr[at] <= '9'; at++)
            number = number * 10 + (uint64_t)(t->name.ptr[at] - '0');
        if (at > 4 && number >= n_layers)
            return tensor_fail(c, t, why, ERR_FORMAT, "belongs to layer %llu, but key '%s' is %u", (unsigned long long)number,
                               KEY("block_count"), n_layers);
    }
    return ERR_NONE;
}

static enum err bind_weights(struct owner *o, struct reason *why) {
    const struct container *c = &o->container;
    struct model *m = &o->model;
    struct model_shape *s = &m->shape;
    const struct model_tensor *embedding = directory_find(c, SPAN("token_embd.weight"));
    const uint64_t rows = embedding ? embedding->ne[1] : 1;
    TRY(bind(c, "token_embd.weight", true, s->n_embd, rows, 1, &m->embedding, why));
    if (rows > MAX_VOCAB)
        return tensor_fail(c, embedding, why, ERR_LIMIT, "%llu rows; at most %d are allowed", (unsigned long long)rows,
                           MAX_VOCAB);
    s->n_vocab = (uint32_t)rows;
    if (m->vocab.n_tokens && m->vocab.n_tokens != rows)
        return tensor_fail(c, embedding, why, ERR_FORMAT, "has %llu rows for %zu tokens", (unsigned long long)rows,
                           m->vocab.n_tokens);
    TRY(bind(c, "output_norm.weight", true, s->n_embd, 1, 1, &m->output_norm, why));
    TRY(bind(c, "output.weight", false, s->n_embd, rows, 1, &m->output, why));
    if (!m->output) m->output = m->embedding;
    if (s->n_layers > c->n_tensors)
        return key_fail(c, KEY("block_count"), why, ERR_FORMAT, "is %u but the file has only %zu tensors", s->n_layers,
                        c->n_tensors);
    TRY(check_layer_numbers(c, s->n_layers, why));
    m->layers = o->layers = calloc_checked(s->n_layers, sizeof *o->layers);
    if (!o->layers) return fail(why, ERR_NO_MEMORY, "%s: no memory for %u layers", container_label(c), s->n_layers);
    for (uint32_t i = 0; i < s->n_layers; i++) TRY(bind_layer(c, s, i, &o->layers[i], why));
    return ERR_NONE;
}

/* ---- open and close --------------------------------------------------------------------------------------------- */

static void publish(struct owner *o) {
    const struct container *c = &o->container;
    struct model *m = &o->model;
    m->n_tensors = c->n_tensors;
    m->tensors = c->tensors;
    m->n_meta = c->meta.n;
    m->meta = c->meta.entries;
    m->n_files = c->n_files;
    m->files = c->files;
    m->container = c->kind;
    m->container_version = c->version;
    m->weight_bytes = c->weight_bytes;
    m->n_parameters = c->n_parameters;
}

static enum err read_container(const char *path, struct container *c, struct reason *why) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode) ? hf_read(path, c, why) : gguf_read(path, c, why);
}

static enum err build(struct owner *o, const char *path, bool need_weights, struct reason *why) {
    struct container *c = &o->container;
    struct model *m = &o->model;
    TRY(read_container(path, c, why));
    TRY(directory_check(c, why));
    publish(o);
    TRY(check_family(c, &m->architecture, why));
    TRY(meta_string(c, "general.name", &m->name, why));
    TRY(meta_string(c, "tokenizer.chat_template", &m->chat_template, why));
    TRY(vocab_read(c, &o->vocab, &m->vocab, why));
    if (c->n_tensors) {
        TRY(read_shape(c, &m->shape, why));
        return bind_weights(o, why);
    }
    if (need_weights)
        return fail(why, ERR_FORMAT, "%s: has no tensors: a vocabulary-only %s cannot be run", path_label(path),
                    c->kind == CONTAINER_GGUF ? "file" : "directory");
    m->shape.n_vocab = (uint32_t)m->vocab.n_tokens;
    return ERR_NONE;
}

enum err model_open(const char *path, bool need_weights, struct model **out, struct reason *why) {
    *out = NULL;
    struct owner *o = calloc(1, sizeof *o);
    if (!o) return fail(why, ERR_NO_MEMORY, "%s: no memory to open it", path_label(path));
    struct model *m = &o->model;
    const enum err result = build(o, path, need_weights, why);
    if (result != ERR_NONE) model_close(&m);
    *out = m;
    return result;
}

void model_close(struct model **model) {
    if (!*model) return;
    struct owner *o = (struct owner *)*model;
    container_close(&o->container);
    vocab_close(&o->vocab);
    free(o->layers);
    free(o);
    *model = NULL;
}

const struct model_meta *model_find_meta(const struct model *m, const char *key) {
    return meta_find(&((const struct owner *)m)->container.meta, span_of(key));
}

const struct model_tensor *model_find_tensor(const struct model *m, struct span name) {
    return directory_find(&((const struct owner *)m)->container, name);
}

enum err model_read(const struct model *m, uint32_t file, void *to, uint64_t bytes, uint64_t offset, struct reason *why) {
    return file_read(&m->files[file], to, bytes, offset, why);
}
