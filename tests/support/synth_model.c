/* Layout of a synthetic model: which tensors, of which type, with which deviation; then the bytes, tensor after tensor. */
#include "tests/support/synth_model.h"

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_write.h"
#include "tests/support/synth_blocks.h"
#include "tests/support/synth_vocab.h"

enum role { EMBEDDING, HEAD, NORM, ROUTER, ATTENTION, ATTENTION_V, GATE_UP, DOWN };

struct part { /* one tensor */
    char name[64];
    enum role role;
    enum tensor_type type;
    uint32_t n_dims;
    uint64_t ne[3];
    float deviation; /* of its weights; of norms: around 1 */
};

struct plan {
    const struct synth_spec *spec;
    uint32_t vocab;
    regex_t *patterns; /* [n_patterns], of the overrides */
    size_t n_patterns;
    struct part *parts;
    size_t n_parts;
    struct reason *why;
};

/* ---- presets and mixes
 * ------------------------------------------------------------------------------------------------------- */

bool synth_preset(struct span name, struct synth_spec *out) {
    if (span_equal(name, SPAN("tiny"))) {
        *out = (struct synth_spec){.layers = 2,
                                   .embd = 64,
                                   .heads = 4,
                                   .kv_heads = 2,
                                   .head_dim = 32,
                                   .experts = 8,
                                   .experts_used = 2,
                                   .ff = 32,
                                   .context = 8192,
                                   .rope_base = 1e6f,

                                   .mix = "q4_0",
                                   .seed = 1};
        return true;
    }
    if (span_equal(name, SPAN("exactness"))) { /* every row is whole blocks of every type; 4 heads a KV head; a few MB */
        *out = (struct synth_spec){.layers = 4,
                                   .embd = 256,
                                   .heads = 8,
                                   .kv_heads = 2,
                                   .head_dim = 64,
                                   .experts = 16,
                                   .experts_used = 4,
                                   .ff = 256,
                                   .context = 8192,
                                   .rope_base = 1e6f,
                                   .mix = "q4_k_m",
                                   .seed = 1};
        return true;
    }
    if (span_equal(name, SPAN("30b-a3b"))) {
        *out = (struct synth_spec){.layers = 48,
                                   .embd = 2048,
                                   .heads = 32,
                                   .kv_heads = 4,
                                   .head_dim = 128,
                                   .experts = 128,
                                   .experts_used = 8,
                                   .ff = 768,
                                   .vocab = 151936,
                                   .context = 40960,
                                   .rope_base = 1e6f,
                                   .mix = "q4_k_m",
                                   .seed = 1};
        return true;
    }
    return false;
}

const char *synth_preset_names(void) { return "tiny, exactness, 30b-a3b"; }

#define SAME TYPE_COUNT

struct mix {
    const char *name;
    uint32_t file_type; /* general.file_type */
    enum tensor_type embedding, head, attention, gate_up, down;
    enum tensor_type more;            /* of ATTENTION_V and DOWN in the layers of more_bits(), or SAME */
    enum tensor_type first_attention; /* of layer 0, or SAME */
};

#define ALL_OF(name, file_type, type) {name, file_type, type, type, type, type, type, SAME, SAME}

static const struct mix mixes[] = {
    ALL_OF("f32", 0, TYPE_F32),
    ALL_OF("f16", 1, TYPE_F16),
    ALL_OF("bf16", 32, TYPE_BF16),
    ALL_OF("q4_0", 2, TYPE_Q4_0),
    ALL_OF("q8_0", 7, TYPE_Q8_0),
    ALL_OF("q4_k", 14, TYPE_Q4_K),
    ALL_OF("q5_k", 16, TYPE_Q5_K),
    ALL_OF("q6_k", 18, TYPE_Q6_K),
    /* The usual mixtures: more bits for the values and the down projections of half of the layers, and for the head. */
    {"q4_k_m", 15, TYPE_Q4_K, TYPE_Q6_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q6_K, SAME},
    {"q5_k_m", 17, TYPE_Q5_K, TYPE_Q6_K, TYPE_Q5_K, TYPE_Q5_K, TYPE_Q5_K, TYPE_Q6_K, SAME},
    /* Few bits for the experts only: 2.99 a weight at the shape of Qwen3-30B-A3B. */
    {"asym2", 28, TYPE_Q6_K, TYPE_Q6_K, TYPE_Q4_K, TYPE_IQ2_S, TYPE_IQ3_S, SAME, SAME},
    /* The published ik_llama.cpp mixture of 4.97 bits. */
    {"iq4_k", 140, TYPE_Q8_0, TYPE_Q8_0, TYPE_IQ6_K, TYPE_IQ4_K, TYPE_IQ5_K, SAME, TYPE_Q8_0},
};
enum { N_MIXES = sizeof mixes / sizeof *mixes };

const char *synth_mix_names(void) { return "f32, f16, bf16, q4_0, q8_0, q4_k, q5_k, q6_k, q4_k_m, q5_k_m, asym2, iq4_k"; }

static const struct mix *find_mix(const char *name) {
    for (size_t i = 0; i < N_MIXES; i++)
        if (strcmp(mixes[i].name, name) == 0) return &mixes[i];
    return NULL;
}

/* llama.cpp's choice of the layers that keep more bits: the first and last eighth, and every third between. */
static bool more_bits(uint32_t layer, uint32_t layers) {
    return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

/* A row that is not whole blocks takes the next larger type whose blocks fit. */
static enum tensor_type fitting(enum tensor_type type, uint64_t columns) {
    uint64_t bytes;
    if (tensor_row_bytes(type, columns, &bytes)) return type;
    const bool few_bits = tensor_type_info(type)->block_bytes <= sizeof(struct block_q4_k);
    const enum tensor_type smaller_block = type == TYPE_Q4_K ? TYPE_Q4_0 : few_bits ? TYPE_IQ4_NL : TYPE_Q8_0;
    return tensor_row_bytes(smaller_block, columns, &bytes) ? smaller_block : TYPE_F16;
}

static enum tensor_type type_of_role(const struct mix *mix, enum role role, uint32_t layer, const struct synth_spec *s) {
    const bool more = mix->more != SAME && more_bits(layer, s->layers);
    switch (role) {
    case EMBEDDING: return s->tied ? mix->head : mix->embedding;
    case HEAD: return mix->head;
    case ATTENTION_V:
        if (more) return mix->more;
        /* fall through */
    case ATTENTION: return layer == 0 && mix->first_attention != SAME ? mix->first_attention : mix->attention;
    case GATE_UP: return mix->gate_up;
    case DOWN: return more ? mix->more : mix->down;
    default: return TYPE_F32;
    }
}

static enum err choose_type(const struct plan *p, const struct mix *mix, struct part *part, uint32_t layer) {
    const struct synth_spec *s = p->spec;
    uint64_t bytes;
    part->type = TYPE_F32;
    if (part->role == NORM) return ERR_NONE;
    for (size_t i = 0; i < s->n_overrides; i++) {
        if (regexec(&p->patterns[i], part->name, 0, NULL, 0) != 0) continue;
        part->type = s->overrides[i].type;
        const struct tensor_type_info *type = tensor_type_info(part->type);
        if (!synth_rows_known(part->type))
            return fail(p->why, ERR_UNSUPPORTED, "'%s': there are no random blocks of type %s", part->name, type->name);
        if (!tensor_row_bytes(part->type, part->ne[0], &bytes))
            return fail(p->why, ERR_ARGUMENT, "'%s': rows of %llu weights are no whole blocks of type %s", part->name,
                        (unsigned long long)part->ne[0], type->name);
        return ERR_NONE;
    }
    part->type = fitting(type_of_role(mix, part->role, layer, s), part->ne[0]);
    return ERR_NONE;
}

/* ---- the tensors
 * --------------------------------------------------------------------------------------------------------------- */

static enum err add(struct plan *p, const struct mix *mix, int32_t layer, const char *name, enum role role, float deviation,
                    uint64_t a, uint64_t b, uint64_t c) {
    struct part *part = &p->parts[p->n_parts++];
    *part = (struct part){.role = role, .n_dims = c ? 3 : b ? 2 : 1, .ne = {a, b, c}, .deviation = deviation};
    if (layer < 0)
        snprintf(part->name, sizeof part->name, "%s.weight", name);
    else
        snprintf(part->name, sizeof part->name, "blk.%d.%s.weight", layer, name);
    return choose_type(p, mix, part, layer < 0 ? 0 : (uint32_t)layer);
}

/* Deviations of the residual stream at its start, and of what one of the 2 * layers branches adds. */
static float stream_deviation(const struct synth_spec *s) { return s->tied ? 2 / sqrtf((float)s->embd) : 1; }
static float branch_deviation(const struct synth_spec *s) { return 0.5f * stream_deviation(s) / sqrtf((float)s->layers); }

/* A normed input has deviation 1, so weights of deviation 1/sqrt(columns) keep it. silu(g) * u of two such has about 0.6, and
 * the weighted sum of the chosen experts divides by the root of their number. */
struct synth_deviations synth_deviations_of(const struct synth_spec *s) {
    const float branch = branch_deviation(s), width = sqrtf((float)s->heads * (float)s->head_dim);
    return (struct synth_deviations){stream_deviation(s), 1 / sqrtf((float)s->embd), branch / width,
                                     branch / 0.6f * sqrtf((float)s->experts_used / (float)s->ff), 2 / sqrtf((float)s->embd)};
}

static enum err add_layer(struct plan *p, const struct mix *mix, int32_t layer) {
    const struct synth_spec *s = p->spec;
    const uint64_t e = s->embd, f = s->ff, x = s->experts, q = (uint64_t)s->heads * s->head_dim,
                   k = (uint64_t)s->kv_heads * s->head_dim;
    const struct synth_deviations d = synth_deviations_of(s);
    const float in = d.in, norm = 0.1f;
    TRY(add(p, mix, layer, "attn_norm", NORM, norm, e, 0, 0));
    TRY(add(p, mix, layer, "attn_q", ATTENTION, in, e, q, 0));
    TRY(add(p, mix, layer, "attn_k", ATTENTION, in, e, k, 0));
    TRY(add(p, mix, layer, "attn_v", ATTENTION_V, in, e, k, 0));
    TRY(add(p, mix, layer, "attn_output", ATTENTION, d.attention_output, q, e, 0));
    TRY(add(p, mix, layer, "attn_q_norm", NORM, norm, s->head_dim, 0, 0));
    TRY(add(p, mix, layer, "attn_k_norm", NORM, norm, s->head_dim, 0, 0));
    TRY(add(p, mix, layer, "ffn_norm", NORM, norm, e, 0, 0));
    TRY(add(p, mix, layer, "ffn_gate_inp", ROUTER, in, e, x, 0));
    TRY(add(p, mix, layer, "ffn_gate_exps", GATE_UP, in, e, f, x));
    TRY(add(p, mix, layer, "ffn_up_exps", GATE_UP, in, e, f, x));
    return add(p, mix, layer, "ffn_down_exps", DOWN, d.down, f, e, x);
}

enum { PARTS_A_LAYER = 12, PARTS_OUTSIDE = 3 };

static enum err list_parts(struct plan *p, const struct mix *mix) {
    const struct synth_spec *s = p->spec;
    p->parts = calloc_checked((uint64_t)s->layers * PARTS_A_LAYER + PARTS_OUTSIDE, sizeof *p->parts);
    if (!p->parts) return fail(p->why, ERR_NO_MEMORY, "no memory for the tensor list");
    TRY(add(p, mix, -1, "token_embd", EMBEDDING, synth_deviations_of(s).stream, s->embd, p->vocab, 0));
    for (uint32_t l = 0; l < s->layers; l++) TRY(add_layer(p, mix, (int32_t)l));
    TRY(add(p, mix, -1, "output_norm", NORM, 0.1f, s->embd, 0, 0));
    if (s->tied) return ERR_NONE;
    return add(p, mix, -1, "output", HEAD, synth_deviations_of(s).head, s->embd, p->vocab, 0);
}

/* ---- metadata
 * ------------------------------------------------------------------------------------------------------------------ */

static void write_shape(struct gguf_writer *w, const struct plan *p, const struct mix *mix) {
    const struct synth_spec *s = p->spec;
    gguf_write_string(w, "general.architecture", SPAN("qwen3moe"));
    gguf_write_string(w, "general.type", SPAN("model"));
    gguf_write_string(w, "general.name", SPAN("Synthetic (random weights)"));
    gguf_write_u32(w, "general.quantization_version", 2);
    gguf_write_u32(w, "general.file_type", mix->file_type);
    gguf_write_u32(w, "qwen3moe.block_count", s->layers);
    gguf_write_u32(w, "qwen3moe.context_length", (uint32_t)s->context);
    gguf_write_u32(w, "qwen3moe.embedding_length", s->embd);
    gguf_write_u32(w, "qwen3moe.feed_forward_length", s->ff * s->experts_used);
    gguf_write_u32(w, "qwen3moe.attention.head_count", s->heads);
    gguf_write_u32(w, "qwen3moe.attention.head_count_kv", s->kv_heads);
    gguf_write_u32(w, "qwen3moe.attention.key_length", s->head_dim);
    gguf_write_u32(w, "qwen3moe.attention.value_length", s->head_dim);
    gguf_write_f32(w, "qwen3moe.attention.layer_norm_rms_epsilon", 1e-6f);
    gguf_write_f32(w, "qwen3moe.rope.freq_base", s->rope_base);
    gguf_write_u32(w, "qwen3moe.expert_count", s->experts);
    gguf_write_u32(w, "qwen3moe.expert_used_count", s->experts_used);
    gguf_write_u32(w, "qwen3moe.expert_feed_forward_length", s->ff);
}

/* Tokens up to the number of rows; unnamed rows are "[PAD<id>]", unused. */
static enum err write_tokens(struct gguf_writer *w, const struct plan *p, const struct span *tokens, const int32_t *types,
                             size_t n) {
    enum { NAME = 16 };
    struct span *all = calloc_checked(p->vocab, sizeof *all);
    int32_t *all_types = calloc_checked(p->vocab, sizeof *all_types);
    char(*names)[NAME] = calloc_checked(p->vocab, sizeof *names);
    const bool room = all && all_types && names;
    for (size_t i = 0; room && i < p->vocab; i++) {
        if (i >= n) snprintf(names[i], NAME, "[PAD%zu]", i);
        all[i] = i < n ? tokens[i] : span_of(names[i]);
        all_types[i] = i < n ? types[i] : 5;
    }
    if (room) {
        gguf_write_strings(w, "tokenizer.ggml.tokens", all, p->vocab);
        gguf_write_i32s(w, "tokenizer.ggml.token_type", all_types, p->vocab);
    }
    free(all);
    free(all_types);
    free(names);
    return room ? ERR_NONE : fail(p->why, ERR_NO_MEMORY, "no memory for %u tokens", p->vocab);
}

static enum err set_vocab(struct plan *p, size_t n_tokens) {
    p->vocab = p->spec->vocab ? p->spec->vocab : (uint32_t)n_tokens;
    if (n_tokens > p->vocab)
        return fail(p->why, ERR_ARGUMENT, "the vocabulary has %zu tokens, more than the %u rows asked for", n_tokens, p->vocab);
    return ERR_NONE;
}

static enum err write_own_vocab(struct gguf_writer *w, struct plan *p) {
    static const char pre[] = "qwen2";
    struct synth_vocab *v = calloc(1, sizeof *v);
    if (!v) return fail(p->why, ERR_NO_MEMORY, "no memory for the vocabulary");
    synth_vocab_fill(v);
    enum err result = set_vocab(p, v->n_tokens);
    if (result == ERR_NONE) {
        gguf_write_string(w, "tokenizer.ggml.model", SPAN("gpt2"));
        gguf_write_string(w, "tokenizer.ggml.pre", SPAN(pre));
        result = write_tokens(w, p, v->tokens, v->types, v->n_tokens);
        gguf_write_strings(w, "tokenizer.ggml.merges", v->merges, v->n_merges);
        gguf_write_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)v->bos);
        gguf_write_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)v->eos);
        gguf_write_u32(w, "tokenizer.ggml.padding_token_id", (uint32_t)v->pad);
        gguf_write_bool(w, "tokenizer.ggml.add_bos_token", false);
        gguf_write_string(w, "tokenizer.chat_template", v->chat_template);
    }
    free(v);
    return result;
}

/* All tokenizer keys of another file; the token list anew, as it may need more rows. */
static enum err copy_vocab(struct gguf_writer *w, struct plan *p) {
    struct model *m;
    TRY(model_open(p->spec->tokenizer, false, &m, p->why));
    enum err result = m->vocab.n_tokens ? set_vocab(p, m->vocab.n_tokens)
                                        : fail(p->why, ERR_ARGUMENT, "%s: has no tokenizer to copy", p->spec->tokenizer);
    if (result == ERR_NONE) result = write_tokens(w, p, m->vocab.tokens, m->vocab.types, m->vocab.n_tokens);
    for (size_t i = 0; result == ERR_NONE && i < m->n_meta; i++) {
        const struct span key = m->meta[i].key;
        if (!span_starts(key, SPAN("tokenizer.")) || span_equal(key, SPAN("tokenizer.ggml.tokens")) ||
            span_equal(key, SPAN("tokenizer.ggml.token_type")) || span_equal(key, SPAN("tokenizer.ggml.scores")))
            continue;
        gguf_write_meta(w, &m->meta[i]);
    }
    model_close(&m);
    return result;
}

/* ---- data
 * ---------------------------------------------------------------------------------------------------------------------- */

enum { CHUNK_BYTES = 4 << 20 };

static uint64_t bytes_of_row(const struct part *part) {
    uint64_t bytes = 0;
    return tensor_row_bytes(part->type, part->ne[0], &bytes) ? bytes : 0; /* choose_type() saw to it */
}

static void fill_norm(struct synth_random *r, const struct part *part, void *out) {
    float *gain = out;
    for (uint64_t i = 0; i < part->ne[0]; i++) gain[i] = 1 + part->deviation * synth_random_normal(r);
}

/* Each row with its own norm. */
static void fill_router(struct synth_random *r, const struct part *part, float skew, uint8_t *out, uint64_t rows) {
    const uint64_t row_bytes = bytes_of_row(part);
    for (uint64_t row = 0; row < rows; row++, out += row_bytes) {
        const float norm = part->deviation * expf(skew * synth_random_normal(r));
        synth_rows_fill(part->type, r, norm, part->ne[0], out, 1);
    }
}

static enum err write_part(struct gguf_writer *w, const struct plan *p, const struct part *part, uint64_t bytes) {
    struct synth_random r = synth_random_of(p->spec->seed, span_of(part->name));
    const uint64_t row_bytes = bytes_of_row(part), at_once = row_bytes < CHUNK_BYTES ? CHUNK_BYTES / row_bytes : 1;
    uint8_t *chunk = malloc(at_once * row_bytes);
    enum err result = chunk ? ERR_NONE : fail(p->why, ERR_NO_MEMORY, "no memory for '%s'", part->name);
    for (uint64_t rows = bytes / row_bytes, n; rows && result == ERR_NONE; rows -= n) {
        n = rows < at_once ? rows : at_once;
        if (part->role == NORM)
            fill_norm(&r, part, chunk);
        else if (part->role == ROUTER)
            fill_router(&r, part, p->spec->router_skew, chunk, n);
        else
            synth_rows_fill(part->type, &r, part->deviation, part->ne[0], chunk, n);
        result = gguf_write_data(w, chunk, n * row_bytes, p->why);
    }
    free(chunk);
    return result;
}

static enum err write_data(struct gguf_writer *w, const struct plan *p, const struct synth_progress *progress) {
    uint64_t done = 0;
    enum err result = ERR_NONE;
    for (size_t i = 0; i < p->n_parts && result == ERR_NONE; i++) {
        const uint64_t bytes = gguf_write_tensor_bytes(w, i);
        result = write_part(w, p, &p->parts[i], bytes);
        done += bytes;
        if (progress) progress->report(progress->ctx, done, gguf_write_file_bytes(w));
    }
    return result;
}

/* ---- all of it
 * ------------------------------------------------------------------------------------------------------------------- */

static enum err check_spec(const struct synth_spec *s, struct reason *why) {
    const uint32_t least =
        s->layers && s->embd && s->heads && s->kv_heads && s->head_dim && s->experts && s->experts_used && s->ff;
    if (!least || s->context == 0 || s->context > UINT32_MAX) return fail(why, ERR_ARGUMENT, "every extent must be at least 1");
    if (s->layers > 1 << 16 || s->embd > 1 << 20 || s->ff > 1 << 20 || s->heads > 1 << 12 || s->head_dim > 1 << 12 ||
        s->experts > 1 << 16)
        return fail(why, ERR_ARGUMENT, "an extent is too large");
    if (s->heads % s->kv_heads)
        return fail(why, ERR_ARGUMENT, "%u heads do not divide by %u key/value heads", s->heads, s->kv_heads);
    if (s->head_dim % 2) return fail(why, ERR_ARGUMENT, "a head of %u: must be even", s->head_dim);
    if (s->experts_used > s->experts)
        return fail(why, ERR_ARGUMENT, "%u experts a token, but there are %u", s->experts_used, s->experts);
    if (!find_mix(s->mix)) return fail(why, ERR_ARGUMENT, "unknown mix '%s'; there are %s", s->mix, synth_mix_names());
    return ERR_NONE;
}

static enum err compile_patterns(struct plan *p) {
    const size_t n = p->spec->n_overrides;
    p->patterns = calloc_checked(n ? n : 1, sizeof *p->patterns);
    if (!p->patterns) return fail(p->why, ERR_NO_MEMORY, "no memory for the patterns");
    for (; p->n_patterns < n; p->n_patterns++) {
        const char *pattern = p->spec->overrides[p->n_patterns].pattern;
        const int error = regcomp(&p->patterns[p->n_patterns], pattern, REG_EXTENDED | REG_NOSUB);
        if (!error) continue;
        char text[120];
        regerror(error, &p->patterns[p->n_patterns], text, sizeof text);
        return fail(p->why, ERR_ARGUMENT, "pattern '%s': %s", pattern, text);
    }
    return ERR_NONE;
}

static enum err write_model(struct gguf_writer *w, struct plan *p, const struct synth_progress *progress) {
    const struct mix *mix = find_mix(p->spec->mix);
    write_shape(w, p, mix);
    TRY(p->spec->tokenizer ? copy_vocab(w, p) : write_own_vocab(w, p));
    TRY(compile_patterns(p));
    TRY(list_parts(p, mix));
    for (size_t i = 0; i < p->n_parts; i++) {
        const struct part *part = &p->parts[i];
        gguf_write_tensor(w, span_of(part->name), part->type, part->n_dims, part->ne);
    }
    TRY(gguf_write_begin(w, p->why));
    TRY(write_data(w, p, progress));
    return gguf_write_finish(w, p->why);
}

enum err synth_write(const char *path, const struct synth_spec *spec, const struct synth_progress *progress,
                     struct reason *why) {
    struct gguf_writer *w;
    struct plan p = {.spec = spec, .why = why};
    TRY(check_spec(spec, why));
    TRY(gguf_write_open(path, &w, why));
    const enum err result = write_model(w, &p, progress);
    gguf_write_close(&w);
    for (size_t i = 0; i < p.n_patterns; i++) regfree(&p.patterns[i]);
    free(p.patterns);
    free(p.parts);
    return result;
}
