/* One prompt and its continuation on a tiny model, on the CPU or with a GPU beside it, and how far two answers lie apart. On
 * the emulated device, or on a real one (DEVICE=cuda). */
#ifndef COLDSTREAM_TESTS_HYBRID_RUN_H
#define COLDSTREAM_TESTS_HYBRID_RUN_H

#include "engine/engine.h"
#include "tests/support/faulty_stream.h"

enum { MAX_TOKENS = 96, MAX_VOCAB = 640, LAYERS = 3, USED = 4, EXPERT_BYTES = 3 * 256 * 256 * 2 /* of hybrid_model */ };

/* Two models. Of binary16 weights: both sides multiply floats, so that only the order of sums differs (and, in prompts,
 * products of binary16). And Q4_K_M: there a difference in the last bit can tip an activation over to the next of 255 levels,
 * or a choice to the next expert, which the tokens that follow remember. */
extern char *hybrid_model, *hybrid_q4;
#define CLOSE 1e-6
#define CLOSE_Q4 1e-4 /* 2e-5 with AVX-512; other instruction sets sum, and so tip, otherwise */

/* Choices as they were shown. */
struct seen {
    int32_t experts[LAYERS][MAX_TOKENS][USED];
    uint32_t times[LAYERS][MAX_TOKENS];
};

struct run {
    uint64_t vram_budget;
    bool on_cpu, kv_on_host, starts_empty; /* else VRAM and RAM are filled first */
    uint32_t slots, cpu_moe, gpu_layers, threads, ubatch;
    uint32_t defer;
    const char *rules; /* as -ot has them; NULL: none */
    const char *path;
    uint32_t shuffle, pass_from;
    struct text *timeline; /* written here at the end; may be NULL */
    struct stream *(*wrap)(void *ctx, struct stream *inner); /* engine_options.wrap_stream */
    void *wrap_ctx;
    struct seen *seen; /* who watches the choices; may be NULL */
    struct faulty *faulty; /* reads go through it; may be NULL */
    struct log_sink log;
};

struct result {
    uint64_t n, vocab;
    float logits[MAX_TOKENS][MAX_VOCAB];
    struct engine_info info;
    struct engine_io io;
};

struct engine *open_engine(const struct run *r, struct reason *why); /* NULL: refused */
struct engine *must_open(const struct run *r);
struct session *must_start(struct engine *e);
/* eval.on_logits, ctx: the struct result */
void keep_logits(void *ctx, uint64_t position, const float *logits);
int32_t token_at(uint64_t i); /* of the one sequence that is used everywhere */

/* Logits of `prompt` tokens at once, then of `more` one by one; always the same tokens. */
void run(const struct run *r, uint32_t prompt, uint32_t more, struct result *out);
/* The mean KL divergence of `got` from `want` is at most `most` nats. */
void expect_close(const char *what, const struct result *want, const struct result *got, double most);

int open_models(void **state); /* group setup and teardown */
/* The same with models of an eighth of the weights, SMALL_EXPERTS a layer, the quantized one of Q8_0: for many runs. */
enum { SMALL_EXPERTS = 16 };
int open_small_models(void **state);
int remove_models(void **state);

#endif
