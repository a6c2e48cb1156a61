/* Synthetic qwen3moe models of any geometry: random weights, a real or a tiny vocabulary, one GGUF file. For tests, and for
 * benchmarks at full size without a download. The text they generate is noise.
 *
 * Weights are scaled so that the numbers behave like a model's: the residual stream starts with deviation 1 a token and all
 * branches together add about half of its variance, so that routing follows the token and the layers do not all choose the same
 * experts. */
#ifndef COLDSTREAM_TESTS_SYNTH_MODEL_H
#define COLDSTREAM_TESTS_SYNTH_MODEL_H

#include "core/core.h"
#include "core/tensor.h"

struct synth_override {
    const char *pattern; /* POSIX extended regular expression, searched in the tensor's name */
    enum tensor_type type;
};

struct synth_spec {
    uint32_t layers, embd, heads, kv_heads, head_dim, experts, experts_used, ff;
    uint32_t vocab; /* rows; 0: as many as the vocabulary has tokens */
    uint64_t context;
    float rope_base;
    bool tied;                              /* no output.weight: the embedding is the head */
    const char *mix;                        /* see synth_mix_names() */
    const struct synth_override *overrides; /* the first that matches wins; norms are always F32 */
    size_t n_overrides;
    float router_skew;     /* deviation of the logarithm of the router's row norms; 0: all experts alike */
    const char *tokenizer; /* GGUF file whose tokenizer keys are copied; NULL: 256 bytes, some merges, Qwen3's added tokens */
    uint64_t seed;
};

bool synth_preset(struct span name, struct synth_spec *out); /* see synth_preset_names() */
const char *synth_preset_names(void);                        /* "tiny, ..." */
const char *synth_mix_names(void);

/* What weights are drawn with. */
struct synth_deviations {
    float stream, in, attention_output, down, head; /* embedding; matrices of a normed input; branches' ends; the head */
};
struct synth_deviations synth_deviations_of(const struct synth_spec *s);

struct synth_progress {
    void (*report)(void *ctx, uint64_t done_bytes, uint64_t all_bytes);
    void *ctx;
};

/* Writes the file, through <path>.part. `progress` may be NULL. */
enum err synth_write(const char *path, const struct synth_spec *spec, const struct synth_progress *progress,
                     struct reason *why) MUST_USE;

#endif
