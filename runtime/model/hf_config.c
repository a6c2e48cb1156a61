/* config.json of a Qwen3MoeForCausalLM -> its shape, and the same under GGUF's keys.
 *
 * Everything that would change the computation is either understood or refused by name; keys that cannot are ignored. Ranges
 * here only keep products small: what a model's numbers must be to each other is model.c's to judge. */
#include "model/hf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* X(enum suffix, key) */
#define CONFIG_KEYS(X)                                                                                                         \
    X(ARCHITECTURES, "architectures")                                                                                          \
    X(MODEL_TYPE, "model_type")                                                                                                \
    X(HIDDEN_SIZE, "hidden_size")                                                                                              \
    X(LAYERS, "num_hidden_layers")                                                                                             \
    X(HEADS, "num_attention_heads")                                                                                            \
    X(KV_HEADS, "num_key_value_heads")                                                                                         \
    X(HEAD_DIM, "head_dim")                                                                                                    \
    X(EXPERTS, "num_experts")                                                                                                  \
    X(LOCAL_EXPERTS, "num_local_experts") /* the same, as transformers 5 writes it */                                          \
    X(EXPERTS_USED, "num_experts_per_tok")                                                                                     \
    X(EXPERT_WIDTH, "moe_intermediate_size")                                                                                   \
    X(DENSE_WIDTH, "intermediate_size")                                                                                        \
    X(VOCAB, "vocab_size")                                                                                                     \
    X(POSITIONS, "max_position_embeddings")                                                                                    \
    X(EPSILON, "rms_norm_eps")                                                                                                 \
    X(TIED, "tie_word_embeddings")                                                                                             \
    X(NORM_TOPK, "norm_topk_prob")                                                                                             \
    X(MLP_ONLY, "mlp_only_layers")                                                                                             \
    X(SPARSE_STEP, "decoder_sparse_step")                                                                                      \
    X(SHARED_EXPERT, "shared_expert_intermediate_size")                                                                        \
    X(ATTENTION_BIAS, "attention_bias")                                                                                        \
    X(SLIDING_WINDOW, "use_sliding_window")                                                                                    \
    X(ACTIVATION, "hidden_act")                                                                                                \
    X(PARTIAL_ROTARY, "partial_rotary_factor")                                                                                 \
    X(THETA, "rope_theta")                                                                                                     \
    X(SCALING, "rope_scaling")                                                                                                 \
    X(SCALING_TYPE, "rope_scaling.rope_type")                                                                                  \
    X(SCALING_OLD_TYPE, "rope_scaling.type")                                                                                   \
    X(SCALING_FACTOR, "rope_scaling.factor")                                                                                   \
    X(SCALING_ORIGINAL, "rope_scaling.original_max_position_embeddings")                                                       \
    X(SCALING_ATTENTION, "rope_scaling.attention_factor")                                                                      \
    X(SCALING_FAST, "rope_scaling.beta_fast")                                                                                  \
    X(SCALING_SLOW, "rope_scaling.beta_slow")                                                                                  \
    X(SCALING_MSCALE, "rope_scaling.mscale")                                                                                   \
    X(SCALING_MSCALE_ALL, "rope_scaling.mscale_all_dim")                                                                       \
    X(SCALING_TRUNCATE, "rope_scaling.truncate")                                                                               \
    X(NEW, "rope_parameters") /* transformers 5: both of the above in one */                                                   \
    X(NEW_THETA, "rope_parameters.rope_theta")                                                                                 \
    X(NEW_TYPE, "rope_parameters.rope_type")                                                                                   \
    X(NEW_FACTOR, "rope_parameters.factor")                                                                                    \
    X(NEW_ORIGINAL, "rope_parameters.original_max_position_embeddings")                                                        \
    X(NEW_ATTENTION, "rope_parameters.attention_factor")                                                                       \
    X(NEW_FAST, "rope_parameters.beta_fast")                                                                                   \
    X(NEW_SLOW, "rope_parameters.beta_slow")                                                                                   \
    X(NEW_MSCALE, "rope_parameters.mscale")                                                                                    \
    X(NEW_MSCALE_ALL, "rope_parameters.mscale_all_dim")                                                                        \
    X(NEW_TRUNCATE, "rope_parameters.truncate")                                                                                \
    X(NEW_PARTIAL_ROTARY, "rope_parameters.partial_rotary_factor")                                                             \
    X(QUANTIZATION, "quantization_config")                                                                                     \
    X(METHOD, "quantization_config.quant_method")                                                                              \
    X(BITS, "quantization_config.bits")                                                                                        \
    X(HEAD_BITS, "quantization_config.head_bits")                                                                              \
    X(BOS, "bos_token_id")                                                                                                     \
    X(EOS, "eos_token_id")                                                                                                     \
    X(PAD, "pad_token_id")

enum config_key {
#define X(suffix, key) CONFIG_##suffix,
    CONFIG_KEYS(X)
#undef X
    CONFIG_COUNT
};

struct reader {
    const char *path;
    struct hf_value v[CONFIG_COUNT];
    struct reason *why;
};

#define refuse(r, key, code, ...) hf_value_fail((r)->path, &(r)->v[key], (r)->why, code, __VA_ARGS__)

static bool given(const struct reader *r, enum config_key key) {
    return r->v[key].kind != HF_ABSENT && r->v[key].kind != HF_NULL;
}

/* ---- values with rules ------------------------------------------------------------------------------------------------- */

static enum err need(const struct reader *r, enum config_key key) {
    return given(r, key) ? ERR_NONE : refuse(r, key, ERR_FORMAT, "is missing; a Qwen3MoeForCausalLM needs it");
}

static enum err take_uint(const struct reader *r, enum config_key key, uint64_t max, uint64_t *out) {
    TRY(need(r, key));
    const struct hf_value *v = &r->v[key];
    if (v->kind != HF_NUMBER || !v->whole || v->integer < 1 || v->integer > max)
        return refuse(r, key, ERR_FORMAT, "must be a whole number from 1 to %llu", (unsigned long long)max);
    *out = v->integer;
    return ERR_NONE;
}

static enum err take_positive(const struct reader *r, enum config_key key, double *out) {
    TRY(need(r, key));
    const struct hf_value *v = &r->v[key];
    if (v->kind != HF_NUMBER || !(v->number > 0) || !((float)v->number > 0) || !isfinite((float)v->number))
        return refuse(r, key, ERR_FORMAT, "must be a positive number");
    *out = v->number;
    return ERR_NONE;
}

static enum err take_bool(const struct reader *r, enum config_key key, bool *out) {
    if (!given(r, key)) return ERR_NONE;
    if (r->v[key].kind != HF_BOOL) return refuse(r, key, ERR_FORMAT, "must be true or false");
    *out = r->v[key].yes;
    return ERR_NONE;
}

static struct span text_of(const struct reader *r, enum config_key key) {
    const struct text *t = &r->v[key].text;
    return (struct span){t->ptr ? t->ptr : "", t->len};
}

/* A token id, or the first of several. Out of range ones are the vocabulary's to refuse. */
static enum err take_id(const struct reader *r, enum config_key key, int64_t *out) {
    const struct hf_value *v = &r->v[key];
    *out = -1;
    if (!given(r, key) || (v->kind == HF_ARRAY && v->count == 0)) return ERR_NONE;
    const uint64_t id = v->kind == HF_ARRAY ? v->first[0] : v->integer;
    if (!(v->kind == HF_ARRAY ? v->n_first > 0 : v->kind == HF_NUMBER && v->whole) || id > INT32_MAX)
        return refuse(r, key, ERR_FORMAT, "must be a token id, or a list of them");
    *out = (int64_t)id;
    return ERR_NONE;
}

/* ---- what is refused --------------------------------------------------------------------------------------------------- */

static enum err check_architecture(const struct reader *r) {
    const struct hf_value *names = &r->v[CONFIG_ARCHITECTURES];
    if (given(r, CONFIG_ARCHITECTURES)) {
        const struct span name = {names->element.ptr ? names->element.ptr : "", names->element.len};
        if (names->kind != HF_ARRAY || names->count != 1 || !span_equal(name, SPAN("Qwen3MoeForCausalLM")))
            return refuse(r, CONFIG_ARCHITECTURES, ERR_UNSUPPORTED, "is '%s'; only Qwen3MoeForCausalLM is supported",
                          quote(name).text);
    } else if (!given(r, CONFIG_MODEL_TYPE))
        return refuse(r, CONFIG_ARCHITECTURES, ERR_FORMAT, "is missing; is this the config.json of a model?");
    if (given(r, CONFIG_MODEL_TYPE) && !span_equal(text_of(r, CONFIG_MODEL_TYPE), SPAN("qwen3_moe")))
        return refuse(r, CONFIG_MODEL_TYPE, ERR_UNSUPPORTED, "is '%s'; only qwen3_moe is supported",
                      quote(text_of(r, CONFIG_MODEL_TYPE)).text);
    return ERR_NONE;
}

static enum err check_layers(const struct reader *r) {
    bool renormalized = false, bias = false, window = false;
    TRY(take_bool(r, CONFIG_NORM_TOPK, &renormalized));
    if (!renormalized)
        return refuse(r, CONFIG_NORM_TOPK, ERR_UNSUPPORTED, "must be true: routing without renormalization is not supported");
    const struct hf_value *dense = &r->v[CONFIG_MLP_ONLY], *step = &r->v[CONFIG_SPARSE_STEP];
    if (given(r, CONFIG_MLP_ONLY) && (dense->kind != HF_ARRAY || dense->count != 0))
        return refuse(r, CONFIG_MLP_ONLY, ERR_UNSUPPORTED, "must be empty: layers without experts are not supported");
    if (given(r, CONFIG_SPARSE_STEP) && (step->kind != HF_NUMBER || !step->whole || step->integer != 1))
        return refuse(r, CONFIG_SPARSE_STEP, ERR_UNSUPPORTED, "must be 1: layers without experts are not supported");
    const struct hf_value *shared = &r->v[CONFIG_SHARED_EXPERT];
    if (given(r, CONFIG_SHARED_EXPERT) && (shared->kind != HF_NUMBER || !shared->whole || shared->integer != 0))
        return refuse(r, CONFIG_SHARED_EXPERT, ERR_UNSUPPORTED, "must be 0: shared experts are not supported");
    TRY(take_bool(r, CONFIG_ATTENTION_BIAS, &bias));
    if (bias) return refuse(r, CONFIG_ATTENTION_BIAS, ERR_UNSUPPORTED, "must be false: biases are not supported");
    TRY(take_bool(r, CONFIG_SLIDING_WINDOW, &window));
    if (window) return refuse(r, CONFIG_SLIDING_WINDOW, ERR_UNSUPPORTED, "must be false: windowed attention is not supported");
    if (given(r, CONFIG_ACTIVATION) && !span_equal(text_of(r, CONFIG_ACTIVATION), SPAN("silu")))
        return refuse(r, CONFIG_ACTIVATION, ERR_UNSUPPORTED, "is '%s'; only silu is supported",
                      quote(text_of(r, CONFIG_ACTIVATION)).text);
    return ERR_NONE;
}

/* `bits` is an average and tells nothing about any tensor; a value that no average can have tells of a damaged file. */
static enum err check_quantization(const struct reader *r, bool *exl3) {
    *exl3 = false;
    if (!given(r, CONFIG_QUANTIZATION)) return ERR_NONE;
    if (r->v[CONFIG_QUANTIZATION].kind != HF_OBJECT) return refuse(r, CONFIG_QUANTIZATION, ERR_FORMAT, "must be an object");
    const struct span method = text_of(r, CONFIG_METHOD);
    if (!given(r, CONFIG_METHOD)) return refuse(r, CONFIG_METHOD, ERR_FORMAT, "is missing");
    if (!span_equal(method, SPAN("exl3")))
        return refuse(r, CONFIG_METHOD, ERR_UNSUPPORTED,
                      "is '%s'; only exl3 is supported: take the BF16 checkpoint, or a GGUF file", quote(method).text);
    *exl3 = true;
    const struct hf_value *bits = &r->v[CONFIG_BITS], *head = &r->v[CONFIG_HEAD_BITS];
    if (given(r, CONFIG_BITS) && (bits->kind != HF_NUMBER || !(bits->number >= 1 && bits->number <= 8)))
        return refuse(r, CONFIG_BITS, ERR_FORMAT, "must be a number from 1 to 8");
    if (given(r, CONFIG_HEAD_BITS) &&
        (head->kind != HF_NUMBER || !((head->number >= 1 && head->number <= 8) || head->number == 16)))
        return refuse(r, CONFIG_HEAD_BITS, ERR_FORMAT, "must be a number from 1 to 8, or 16");
    return ERR_NONE;
}

/* ---- RoPE -------------------------------------------------------------------------------------------------------------- */

#define ROPE_KEY(name) "qwen3moe.rope." name

/* Absent means YaRN's usual value, which is also what the key's absence means. */
static enum err take_beta(const struct reader *r, enum config_key key, const char *to, struct hf_meta *meta) {
    double beta = 0;
    if (!given(r, key)) return ERR_NONE;
    TRY(take_positive(r, key, &beta));
    hf_meta_f32(meta, to, (float)beta);
    return ERR_NONE;
}

/* The two spellings of one set: distances between their keys are equal. */
static enum err take_scaling(const struct reader *r, bool is_new, uint64_t *positions, struct hf_meta *meta) {
    const enum config_key type = is_new                          ? CONFIG_NEW_TYPE
                                 : given(r, CONFIG_SCALING_TYPE) ? CONFIG_SCALING_TYPE
                                                                 : CONFIG_SCALING_OLD_TYPE,
                          factor_key = is_new ? CONFIG_NEW_FACTOR : CONFIG_SCALING_FACTOR, original_key = factor_key + 1,
                          attention_key = factor_key + 2, fast = factor_key + 3, slow = factor_key + 4, mscale = factor_key + 5,
                          mscale_all = factor_key + 6, truncate = factor_key + 7;
    const struct span name = given(r, type) ? text_of(r, type) : SPAN("default");
    if (span_equal(name, SPAN("default"))) return ERR_NONE;
    const bool yarn = span_equal(name, SPAN("yarn"));
    if (!yarn && !span_equal(name, SPAN("linear")))
        return refuse(r, type, ERR_UNSUPPORTED, "is '%s'; default, linear and yarn are supported", quote(name).text);
    double factor = 0, attention = 0;
    TRY(take_positive(r, factor_key, &factor));
    uint64_t original = *positions;
    if (given(r, original_key)) TRY(take_uint(r, original_key, INT32_MAX, &original));
    hf_meta_string(meta, ROPE_KEY("scaling.type"), name);
    hf_meta_f32(meta, ROPE_KEY("scaling.factor"), (float)factor);
    hf_meta_u32(meta, ROPE_KEY("scaling.original_context_length"), (uint32_t)original);
    if (factor > 1 && (double)original * factor > (double)*positions) /* what the scaling is for */
        *positions = (double)original * factor < INT32_MAX ? (uint64_t)((double)original * factor) : INT32_MAX;
    if (!yarn) return ERR_NONE;
    TRY(take_beta(r, fast, ROPE_KEY("scaling.yarn_beta_fast"), meta));
    TRY(take_beta(r, slow, ROPE_KEY("scaling.yarn_beta_slow"), meta));
    if (given(r, mscale) || given(r, mscale_all))
        return refuse(r, given(r, mscale) ? mscale : mscale_all, ERR_UNSUPPORTED, "is of another model family's YaRN");
    if (given(r, truncate) && !(r->v[truncate].kind == HF_BOOL && r->v[truncate].yes))
        return refuse(r, truncate, ERR_UNSUPPORTED, "must be true");
    if (!given(r, attention_key)) return ERR_NONE;
    /* here it is the whole factor; in GGUF it multiplies YaRN's own */
    TRY(take_positive(r, attention_key, &attention));
    hf_meta_f32(meta, ROPE_KEY("scaling.attn_factor"), (float)(attention / (factor > 1 ? 0.1 * log(factor) + 1 : 1)));
    return ERR_NONE;
}

static enum err take_rope(const struct reader *r, uint64_t *positions, struct hf_meta *meta) {
    const bool is_new = given(r, CONFIG_NEW);
    if (is_new && given(r, CONFIG_SCALING))
        return refuse(r, CONFIG_NEW, ERR_FORMAT, "is given beside 'rope_scaling'; only one of them can be meant");
    const enum config_key whole = is_new ? CONFIG_NEW : CONFIG_SCALING;
    if (given(r, whole) && r->v[whole].kind != HF_OBJECT) return refuse(r, whole, ERR_FORMAT, "must be an object or null");
    static const enum config_key partial[] = {CONFIG_PARTIAL_ROTARY, CONFIG_NEW_PARTIAL_ROTARY};
    for (int i = 0; i < 2; i++)
        if (given(r, partial[i]) && r->v[partial[i]].number != 1)
            return refuse(r, partial[i], ERR_UNSUPPORTED, "must be 1: heads that are rotated in part are not supported");
    double base = 0;
    TRY(take_positive(r, is_new && given(r, CONFIG_NEW_THETA) ? CONFIG_NEW_THETA : CONFIG_THETA, &base));
    hf_meta_f32(meta, ROPE_KEY("freq_base"), (float)base);
    return given(r, whole) ? take_scaling(r, is_new, positions, meta) : ERR_NONE;
}

/* ---- all of it --------------------------------------------------------------------------------------------------------- */

static enum err take_shape(const struct reader *r, struct hf_config *out) {
    const bool local = given(r, CONFIG_LOCAL_EXPERTS);
    if (local && given(r, CONFIG_EXPERTS) && r->v[CONFIG_LOCAL_EXPERTS].integer != r->v[CONFIG_EXPERTS].integer)
        return refuse(r, CONFIG_LOCAL_EXPERTS, ERR_FORMAT, "differs from 'num_experts'; only one of them can be meant");
    const struct {
        enum config_key key;
        uint64_t max, *to;
    } numbers[] = {
        {CONFIG_LAYERS, 1 << 12, &out->n_layers},
        {CONFIG_HIDDEN_SIZE, 1 << 20, &out->n_embd},
        {CONFIG_HEADS, 1 << 14, &out->n_heads},
        {CONFIG_KV_HEADS, 1 << 14, &out->n_kv_heads},
        {local ? CONFIG_LOCAL_EXPERTS : CONFIG_EXPERTS, 1 << 16, &out->n_experts},
        {CONFIG_EXPERTS_USED, 1 << 16, &out->n_experts_used},
        {CONFIG_EXPERT_WIDTH, 1 << 20, &out->n_ff},
        {CONFIG_VOCAB, MAX_TOKENS, &out->n_vocab},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        TRY(take_uint(r, numbers[i].key, numbers[i].max, numbers[i].to));
    if (out->n_experts_used > out->n_experts)
        return refuse(r, CONFIG_EXPERTS_USED, ERR_FORMAT, "is %llu, but 'num_experts' is %llu",
                      (unsigned long long)out->n_experts_used, (unsigned long long)out->n_experts);
    if (out->n_heads % out->n_kv_heads)
        return refuse(r, CONFIG_KV_HEADS, ERR_FORMAT, "is %llu, which does not divide 'num_attention_heads' %llu",
                      (unsigned long long)out->n_kv_heads, (unsigned long long)out->n_heads);
    out->head_dim = out->n_embd / out->n_heads; /* what its absence means */
    if (given(r, CONFIG_HEAD_DIM)) TRY(take_uint(r, CONFIG_HEAD_DIM, 1 << 14, &out->head_dim));
    if (out->head_dim < 2 || out->head_dim % 2)
        return refuse(r, CONFIG_HEAD_DIM, ERR_FORMAT, "a head size of %llu; it must be even",
                      (unsigned long long)out->head_dim);
    return ERR_NONE;
}

static enum err take_all(const struct reader *r, struct hf_config *out, struct hf_meta *meta) {
    uint64_t positions = 0;
    double epsilon = 0;
    TRY(check_architecture(r));
    TRY(check_layers(r));
    TRY(check_quantization(r, &out->exl3));
    TRY(take_shape(r, out));
    TRY(take_bool(r, CONFIG_TIED, &out->tied));
    TRY(take_uint(r, CONFIG_POSITIONS, UINT32_MAX, &positions));
    TRY(take_positive(r, CONFIG_EPSILON, &epsilon));
    TRY(take_id(r, CONFIG_BOS, &out->bos));
    TRY(take_id(r, CONFIG_EOS, &out->eos));
    TRY(take_id(r, CONFIG_PAD, &out->pad));
    TRY(take_rope(r, &positions, meta));
    hf_meta_u32(meta, "qwen3moe.block_count", (uint32_t)out->n_layers);
    hf_meta_u32(meta, "qwen3moe.context_length", (uint32_t)positions);
    hf_meta_u32(meta, "qwen3moe.embedding_length", (uint32_t)out->n_embd);
    if (given(r, CONFIG_DENSE_WIDTH) && r->v[CONFIG_DENSE_WIDTH].whole && r->v[CONFIG_DENSE_WIDTH].integer <= UINT32_MAX)
        hf_meta_u32(meta, "qwen3moe.feed_forward_length", (uint32_t)r->v[CONFIG_DENSE_WIDTH].integer);
    hf_meta_u32(meta, "qwen3moe.attention.head_count", (uint32_t)out->n_heads);
    hf_meta_u32(meta, "qwen3moe.attention.head_count_kv", (uint32_t)out->n_kv_heads);
    hf_meta_u32(meta, "qwen3moe.attention.key_length", (uint32_t)out->head_dim);
    hf_meta_u32(meta, "qwen3moe.attention.value_length", (uint32_t)out->head_dim);
    hf_meta_f32(meta, "qwen3moe.attention.layer_norm_rms_epsilon", (float)epsilon);
    hf_meta_u32(meta, "qwen3moe.expert_count", (uint32_t)out->n_experts);
    hf_meta_u32(meta, "qwen3moe.expert_used_count", (uint32_t)out->n_experts_used);
    hf_meta_u32(meta, "qwen3moe.expert_feed_forward_length", (uint32_t)out->n_ff);
    hf_meta_u32(meta, "qwen3moe.vocab_size", (uint32_t)out->n_vocab);
    return ERR_NONE;
}

enum err hf_config_read(const char *path, struct hf_config *out, struct hf_meta *meta, struct reason *why) {
    struct reader r = {.path = path,
                       .v =
                           {
#define X(suffix, name) [CONFIG_##suffix] = {.key = name},
                               CONFIG_KEYS(X)
#undef X
                           },
                       .why = why};
    *out = (struct hf_config){.bos = -1, .eos = -1, .pad = -1};
    enum err result = hf_values_read(path, r.v, CONFIG_COUNT, NULL, why);
    if (result == ERR_NONE) result = take_all(&r, out, meta);
    hf_values_free(r.v, CONFIG_COUNT);
    return result;
}
