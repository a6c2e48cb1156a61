/* Shards are walked twice: once for the header, once for the bytes. Tensors stand in the order, and with the markers, that the
 * EXL3 writer uses; headers are not padded, so data begins at odd addresses. */
#include "tests/support/synth_dir.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/synth_blocks.h"

enum { LAYERS_A_SHARD = 12, NAME = 96, PATH = 512, CHUNK = 1 << 20, DEFAULT_ROWS = 512, HEAD_BITS = 6 };

enum content { WEIGHTS, NORM, ROUTER, FACTORS, TRELLIS, MARKER };

struct item { /* one tensor of a file */
    char name[NAME];
    const char *dtype;
    uint32_t n_dims;
    uint64_t shape[3];
    uint64_t bytes;
    enum content content;
    float deviation;
};

struct writer {
    const struct synth_dir *dir;
    uint32_t rows; /* of the vocabulary */
    FILE *file;    /* NULL: the header is being made */
    struct text header;
    uint64_t at; /* of the next tensor's data */
    bool counting; /* before the first file: what will all files hold? */
    uint64_t done, all;
    uint8_t *chunk;
    const struct synth_progress *progress;
    struct reason *why;
};

/* ---- one tensor ----------------------------------------------------------------------------------------------------- */

static void list_item(struct writer *w, const struct item *item) {
    if (w->counting) {
        w->all += item->bytes;
        return;
    }
    text_addf(&w->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", w->header.len > 1 ? "," : "", item->name, item->dtype);
    for (uint32_t d = 0; d < item->n_dims; d++) text_addf(&w->header, "%s%llu", d ? "," : "", (unsigned long long)item->shape[d]);
    text_addf(&w->header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)w->at, (unsigned long long)(w->at + item->bytes));
    w->at += item->bytes;
}

/* Sign and size as quantizers make them: of inputs around the weights' deviation over that of the codebook, of outputs around 1. */
static void fill_factors(struct synth_random *r, float around, uint8_t *out, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i += 2) {
        const float size = around * (1 + 0.1f * synth_random_normal(r));
        const uint16_t h = f32_to_f16(synth_random_bits(r) & 1 ? size : -size);
        memcpy(out + i, &h, 2);
    }
}

static void fill_norm(struct synth_random *r, uint8_t *out, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i += 2) {
        const float gain = 1 + 0.1f * synth_random_normal(r);
        uint32_t bits;
        memcpy(&bits, &gain, 4);
        memcpy(out + i, &(uint16_t){(uint16_t)(bits >> 16)}, 2);
    }
}

/* Rows of the router, each with a norm of its own. */
static void fill_router(struct synth_random *r, const struct item *item, float skew, uint8_t *out) {
    const uint64_t row = item->bytes / item->shape[0];
    for (uint64_t i = 0; i < item->shape[0]; i++)
        synth_rows_fill(TYPE_F16, r, item->deviation * expf(skew * synth_random_normal(r)), row / 2, out + i * row, 1);
}

/* `bytes` of the item: all of it, or of weights a piece. */
static void fill_chunk(struct writer *w, struct synth_random *r, const struct item *item, uint64_t bytes) {
    static const uint8_t mcg[4] = {0xed, 0x1f, 0xac, 0xcb};
    switch (item->content) {
    case WEIGHTS: synth_rows_fill(TYPE_BF16, r, item->deviation, bytes / 2, w->chunk, 1); break;
    case NORM: fill_norm(r, w->chunk, bytes); break;
    case ROUTER: fill_router(r, item, w->dir->spec->router_skew, w->chunk); break;
    case FACTORS: fill_factors(r, item->deviation, w->chunk, bytes); break;
    case TRELLIS:
        for (uint64_t i = 0; i < bytes; i += 8) memcpy(w->chunk + i, &(uint64_t){synth_random_bits(r)}, 8);
        break;
    case MARKER: memcpy(w->chunk, mcg, sizeof mcg); break;
    }
}

static enum err write_item(struct writer *w, const struct item *item) {
    struct synth_random r = synth_random_of(w->dir->spec->seed, span_of(item->name));
    const bool in_pieces = item->content == WEIGHTS || item->content == TRELLIS;
    if (!in_pieces && item->bytes > CHUNK) return fail(w->why, ERR_LIMIT, "'%s' has %llu bytes", item->name, (unsigned long long)item->bytes);
    for (uint64_t left = item->bytes, n; left; left -= n) {
        n = left < CHUNK ? left : CHUNK;
        fill_chunk(w, &r, item, n);
        if (fwrite(w->chunk, 1, n, w->file) != n) return fail(w->why, ERR_IO, "'%s': %s", item->name, strerror(errno));
        w->done += n;
    }
    if (w->progress) w->progress->report(w->progress->ctx, w->done, w->all);
    return ERR_NONE;
}

static enum err add(struct writer *w, struct item item) {
    if (w->file) return write_item(w, &item);
    list_item(w, &item);
    return ERR_NONE;
}

static enum err add_part(struct writer *w, const char *of, const char *part, const char *dtype, enum content content, float deviation,
                         uint64_t a, uint64_t b, uint64_t c) {
    struct item item = {.dtype = dtype, .n_dims = c ? 3 : b ? 2 : a ? 1 : 0, .shape = {a, b, c}, .content = content, .deviation = deviation};
    snprintf(item.name, sizeof item.name, "%s.%s", of, part);
    item.bytes = (a ? a : 1) * (b ? b : 1) * (c ? c : 1) * (content == MARKER ? 4 : 2);
    return add(w, item);
}

/* A matrix of `out` outputs: EXL3 with `bits`, or BF16 with 0. */
static enum err add_linear(struct writer *w, const char *name, uint32_t bits, float deviation, uint64_t in, uint64_t out) {
    if (!bits) return add_part(w, name, "weight", "BF16", WEIGHTS, deviation, out, in, 0);
    TRY(add_part(w, name, "suh", "F16", FACTORS, deviation / 1.244f, in, 0, 0));
    TRY(add_part(w, name, "svh", "F16", FACTORS, 1, out, 0, 0));
    TRY(add_part(w, name, "trellis", "I16", TRELLIS, 0, in / 16, out / 16, 16 * (uint64_t)bits));
    return add_part(w, name, "mcg", "I32", MARKER, 0, 0, 0, 0);
}

/* ---- shards --------------------------------------------------------------------------------------------------------- */

static enum err add_attention(struct writer *w, uint32_t layer, uint32_t bits) {
    const struct synth_spec *s = w->dir->spec;
    const struct synth_deviations d = synth_deviations_of(s);
    const uint64_t e = s->embd, q = (uint64_t)s->heads * s->head_dim, k = (uint64_t)s->kv_heads * s->head_dim;
    char name[NAME];
    const struct {
        const char *name;
        uint64_t in, out;
        float deviation;
    } all[] = {{"q_proj", e, q, d.in}, {"k_proj", e, k, d.in}, {"v_proj", e, k, d.in}, {"o_proj", q, e, d.attention_output}};
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "model.layers.%u.self_attn.%s", layer, all[i].name);
        TRY(add_linear(w, name, bits, all[i].deviation, all[i].in, all[i].out));
    }
    snprintf(name, sizeof name, "model.layers.%u.self_attn.q_norm", layer);
    TRY(add_part(w, name, "weight", "BF16", NORM, 0, s->head_dim, 0, 0));
    snprintf(name, sizeof name, "model.layers.%u.self_attn.k_norm", layer);
    return add_part(w, name, "weight", "BF16", NORM, 0, s->head_dim, 0, 0);
}

static enum err add_experts(struct writer *w, uint32_t layer) {
    const struct synth_spec *s = w->dir->spec;
    const struct synth_deviations d = synth_deviations_of(s);
    const uint32_t bits = w->dir->bits;
    char name[NAME];
    for (uint32_t x = 0; x < s->experts; x++) {
        snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.gate_proj", layer, x);
        TRY(add_linear(w, name, bits, d.in, s->embd, s->ff));
        snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.up_proj", layer, x);
        TRY(add_linear(w, name, bits, d.in, s->embd, s->ff));
        snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.down_proj", layer, x);
        TRY(add_linear(w, name, bits, d.down, s->ff, s->embd));
    }
    return ERR_NONE;
}

static enum err add_layer(struct writer *w, uint32_t layer) {
    const struct synth_spec *s = w->dir->spec;
    const uint32_t bits = w->dir->bits ? w->dir->bits + 2 < 8 ? w->dir->bits + 2 : 8 : 0;
    char name[NAME];
    snprintf(name, sizeof name, "model.layers.%u.input_layernorm", layer);
    TRY(add_part(w, name, "weight", "BF16", NORM, 0, s->embd, 0, 0));
    TRY(add_attention(w, layer, bits));
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm", layer);
    TRY(add_part(w, name, "weight", "BF16", NORM, 0, s->embd, 0, 0));
    snprintf(name, sizeof name, "model.layers.%u.mlp.gate", layer);
    TRY(add_part(w, name, "weight", "F16", ROUTER, synth_deviations_of(s).in, s->experts, s->embd, 0));
    return add_experts(w, layer);
}

/* Shard 0 is what belongs to no layer. */
static enum err add_shard(struct writer *w, uint32_t shard, uint32_t layers_each) {
    const struct synth_spec *s = w->dir->spec;
    const struct synth_deviations d = synth_deviations_of(s);
    if (shard == 0) {
        TRY(add_part(w, "model.embed_tokens", "weight", "BF16", WEIGHTS, d.stream, w->rows, s->embd, 0));
        TRY(add_part(w, "model.norm", "weight", "BF16", NORM, 0, s->embd, 0, 0));
        return s->tied ? ERR_NONE : add_linear(w, "lm_head", w->dir->bits ? HEAD_BITS : 0, d.head, s->embd, w->rows);
    }
    const uint32_t begin = (shard - 1) * layers_each, end = begin + layers_each < s->layers ? begin + layers_each : s->layers;
    for (uint32_t l = begin; l < end; l++) TRY(add_layer(w, l));
    return ERR_NONE;
}

static enum err write_shard(struct writer *w, const char *path, uint32_t shard, uint32_t layers_each) {
    text_clear(&w->header);
    w->at = 0;
    text_add(&w->header, "{", 1);
    enum err e = add_shard(w, shard, layers_each);
    text_add(&w->header, "}", 1);
    if (!e && w->header.failed) e = fail(w->why, ERR_NO_MEMORY, "no memory for the header of %s", path);
    if (e) return e;
    const uint64_t length = w->header.len;
    w->file = fopen(path, "wb");
    if (!w->file) return fail(w->why, ERR_IO, "%s: %s", path, strerror(errno));
    if (fwrite(&length, 1, 8, w->file) != 8 || fwrite(w->header.ptr, 1, length, w->file) != length)
        e = fail(w->why, ERR_IO, "%s: %s", path, strerror(errno));
    if (!e) e = add_shard(w, shard, layers_each);
    if (fclose(w->file) != 0 && !e) e = fail(w->why, ERR_IO, "%s: %s", path, strerror(errno));
    w->file = NULL;
    return e;
}

/* ---- the other files ------------------------------------------------------------------------------------------------ */

static enum err write_text(const char *path, const struct text *t, struct reason *why) {
    FILE *f = fopen(path, "wb");
    if (!f || t->failed || fwrite(t->ptr, 1, t->len, f) != t->len) {
        if (f) fclose(f);
        return fail(why, ERR_IO, "%s: %s", path, strerror(errno));
    }
    return fclose(f) == 0 ? ERR_NONE : fail(why, ERR_IO, "%s: %s", path, strerror(errno));
}

static enum err write_config(const struct writer *w, const char *path) {
    const struct synth_spec *s = w->dir->spec;
    struct text t = {0};
    text_addf(&t, "{\"architectures\": [\"Qwen3MoeForCausalLM\"], \"model_type\": \"qwen3_moe\", \"torch_dtype\": \"bfloat16\",\n");
    text_addf(&t, "\"num_hidden_layers\": %u, \"hidden_size\": %u, \"num_attention_heads\": %u, \"num_key_value_heads\": %u, \"head_dim\": %u,\n",
              s->layers, s->embd, s->heads, s->kv_heads, s->head_dim);
    text_addf(&t, "\"num_experts\": %u, \"num_experts_per_tok\": %u, \"moe_intermediate_size\": %u, \"intermediate_size\": %u,\n", s->experts,
              s->experts_used, s->ff, s->ff * s->experts_used);
    text_addf(&t, "\"vocab_size\": %u, \"max_position_embeddings\": %llu, \"rope_theta\": %.9g, \"rope_scaling\": null, \"rms_norm_eps\": 1e-06,\n",
              w->rows, (unsigned long long)s->context, (double)s->rope_base);
    text_addf(&t, "\"hidden_act\": \"silu\", \"norm_topk_prob\": true, \"decoder_sparse_step\": 1, \"mlp_only_layers\": [], \"attention_bias\": false,\n");
    text_addf(&t, "\"use_sliding_window\": false, \"tie_word_embeddings\": %s", s->tied ? "true" : "false");
    if (w->dir->bits)
        text_addf(&t, ",\n\"quantization_config\": {\"quant_method\": \"exl3\", \"version\": \"0.0.34\", \"bits\": %u, \"head_bits\": %d, "
                      "\"codebook\": \"mcg\"}", w->dir->bits, HEAD_BITS);
    text_addf(&t, "}\n");
    const enum err e = write_text(path, &t, w->why);
    text_free(&t);
    return e;
}

static enum err copy_file(const char *from, const char *to, struct reason *why) {
    struct text t = {0};
    char piece[65536];
    FILE *f = fopen(from, "rb");
    if (!f) return fail(why, ERR_IO, "%s: %s", from, strerror(errno));
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) text_add(&t, piece, n);
    fclose(f);
    const enum err e = write_text(to, &t, why);
    text_free(&t);
    return e;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------ */

static enum err check(const struct writer *w) {
    const struct synth_spec *s = w->dir->spec;
    const uint32_t bits = w->dir->bits;
    if (bits > 8) return fail(w->why, ERR_ARGUMENT, "%u bits a weight: EXL3 has 1 to 8", bits);
    if (s->heads % s->kv_heads || s->experts_used > s->experts) return fail(w->why, ERR_ARGUMENT, "the shape is impossible");
    if (bits && (s->embd % 128 || s->ff % 128 || s->heads * s->head_dim % 128 || s->kv_heads * s->head_dim % 128 || w->rows % 128))
        return fail(w->why, ERR_ARGUMENT, "EXL3 wants widths that are multiples of 128");
    return ERR_NONE;
}

static enum err write_all(struct writer *w, const char *folder) {
    const uint32_t each = w->dir->layers_a_shard ? w->dir->layers_a_shard : LAYERS_A_SHARD, shards = 1 + (w->dir->spec->layers + each - 1) / each;
    char path[PATH];
    TRY(check(w));
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) return fail(w->why, ERR_IO, "%s: %s", folder, strerror(errno));
    snprintf(path, sizeof path, "%s/config.json", folder);
    TRY(write_config(w, path));
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    if (w->dir->tokenizer) TRY(copy_file(w->dir->tokenizer, path, w->why));
    w->counting = true;
    for (uint32_t i = 0; i < shards; i++) TRY(add_shard(w, i, each));
    w->counting = false;
    for (uint32_t i = 0; i < shards; i++) {
        snprintf(path, sizeof path, "%s/model-%05u-of-%05u.safetensors", folder, i + 1, shards);
        TRY(write_shard(w, path, i, each));
    }
    return ERR_NONE;
}

enum err synth_dir_write(const char *folder, const struct synth_dir *dir, const struct synth_progress *progress, struct reason *why) {
    struct writer w = {.dir = dir, .rows = dir->spec->vocab ? dir->spec->vocab : DEFAULT_ROWS, .chunk = malloc(CHUNK), .progress = progress, .why = why};
    const enum err e = w.chunk ? write_all(&w, folder) : fail(why, ERR_NO_MEMORY, "no memory for a buffer");
    text_free(&w.header);
    free(w.chunk);
    return e;
}

void synth_dir_remove(const char *folder) {
    char path[PATH];
    DIR *d = opendir(folder);
    if (!d) return;
    for (const struct dirent *entry; (entry = readdir(d));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        unlink(path);
    }
    closedir(d);
    rmdir(folder);
}
