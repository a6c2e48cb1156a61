/* See hybrid_run.h. */
#include "tests/support/check.h"

#include "tests/support/hybrid_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/tiny_model.h"

char *hybrid_model, *hybrid_q4;
static const char *device;

static void watch(void *ctx, uint32_t layer, uint64_t position, bool expected, int32_t *experts) {
    struct seen *s = ctx;
    if (expected) return;
    if (layer >= LAYERS || position >= MAX_TOKENS) fail_test("layer %u, position %llu", layer, (unsigned long long)position);
    memcpy(s->experts[layer][position], experts, USED * sizeof *experts);
    s->times[layer][position]++;
}

struct engine *open_engine(const struct run *r, struct reason *why) {
    struct plan_rule rules[8];
    uint32_t n_rules = 0;
    if (r->rules && plan_parse_rules(r->rules, rules, &n_rules, 8, why)) return NULL;
    const struct engine_options o = {.model_path = r->path ? r->path : hybrid_model,
                                     .threads = r->threads ? r->threads : 2,
                                     .ubatch = r->ubatch ? r->ubatch : 32,
                                     .device = r->on_cpu ? "cpu" : device,
                                     .vram_budget = r->vram_budget ? r->vram_budget : (uint64_t)200 << 20,
                                     .kv_on_host = r->kv_on_host,
                                     .cpu_moe_layers = r->cpu_moe,
                                     .gpu_layers = r->gpu_layers,
                                     .rules = rules,
                                     .n_rules = n_rules,
                                     .defer_experts = r->defer,
                                     .max_slots = r->slots,
                                     .fill_first = !r->starts_empty,
                                     .kv_tokens = 512,
                                     .timeline_spans = r->timeline ? 1 << 16 : 0,
                                     .shuffle_experts = r->shuffle,
                                     .pass_from_tokens = r->pass_from,
                                     .on_experts = r->seen ? watch : NULL,
                                     .on_experts_ctx = r->seen,
                                     .wrap_stream = r->faulty ? faulty_wrap : r->wrap,
                                     .wrap_stream_ctx = r->faulty ? r->faulty : r->wrap_ctx,
                                     .log = r->log};
    struct engine *e;
    return engine_open(&o, &e, why) ? NULL : e;
}

struct engine *must_open(const struct run *r) {
    struct reason why = {{0}};
    struct engine *e = open_engine(r, &why);
    if (!e) fail_test("%s", why.text);
    return e;
}

struct session *must_start(struct engine *e) {
    struct session *s;
    struct reason why = {{0}};
    if (session_open(e, 256, &s, &why)) fail_test("%s", why.text);
    return s;
}

void keep_logits(void *ctx, uint64_t position, const float *logits) {
    struct result *r = ctx;
    assert_int_equal(position, r->n);
    assert_true(r->n < MAX_TOKENS && r->vocab <= MAX_VOCAB);
    memcpy(r->logits[r->n++], logits, r->vocab * sizeof *logits);
}

int32_t token_at(uint64_t i) { return (int32_t)((i * 7919 + 11) % 200); }

void run(const struct run *r, uint32_t prompt, uint32_t more, struct result *out) {
    struct engine *e = must_open(r);
    struct session *s = must_start(e);
    struct reason why = {{0}};
    int32_t tokens[MAX_TOKENS];
    for (uint32_t i = 0; i < MAX_TOKENS; i++) tokens[i] = token_at(i);
    out->n = 0;
    out->vocab = engine_model(e)->shape.n_vocab;
    struct eval eval = {.tokens = tokens, .n = prompt, .on_logits = keep_logits, .ctx = out};
    if (session_eval(s, &eval, NULL, &why)) fail_test("%s", why.text);
    for (uint32_t i = 0; i < more; i++) {
        const float *logits;
        if (session_append(s, tokens[prompt + i], &logits, &why)) fail_test("%s", why.text);
        keep_logits(out, prompt + i, logits);
    }
    engine_get_info(e, &out->info);
    engine_get_io(e, &out->io);
    if (r->timeline) engine_write_timeline(e, r->timeline);
    session_close(&s);
    engine_close(&e);
}

/* KL divergence of b's prediction after token t from a's, in nats. */
static double divergence(const struct result *a, const struct result *b, uint64_t t) {
    double za = 0, zb = 0, kl = 0, top_a = -INFINITY, top_b = -INFINITY;
    for (uint64_t i = 0; i < a->vocab; i++) top_a = fmax(top_a, a->logits[t][i]), top_b = fmax(top_b, b->logits[t][i]);
    for (uint64_t i = 0; i < a->vocab; i++) za += exp(a->logits[t][i] - top_a), zb += exp(b->logits[t][i] - top_b);
    for (uint64_t i = 0; i < a->vocab; i++) {
        const double la = a->logits[t][i] - top_a - log(za), lb = b->logits[t][i] - top_b - log(zb);
        kl += exp(la) * (la - lb);
    }
    return kl;
}

void expect_close(const char *what, const struct result *want, const struct result *got, double most) {
    double sum = 0;
    assert_int_equal(want->n, got->n);
    for (uint64_t t = 0; t < want->n; t++) sum += divergence(want, got, t);
    print_message("  %s: KL %.1e (at most %.0e)\n", what, sum / (double)want->n, most);
    if (!(sum / (double)want->n <= most)) fail_test("%s: the answer differs", what);
}

int open_models(void **state) {
    (void)state;
    device = getenv("DEVICE") ? getenv("DEVICE") : "host";
    struct synth_spec spec;
    if (!synth_preset(SPAN("exactness"), &spec)) fail_test("no preset");
    spec.experts = 32;
    spec.layers = LAYERS; /* emulation takes a tenth of a second a layer and token */
    hybrid_q4 = tiny_model_write(&spec);
    spec.mix = "f16";
    hybrid_model = tiny_model_write(&spec);
    return 0;
}

int open_small_models(void **state) {
    (void)state;
    device = getenv("DEVICE") ? getenv("DEVICE") : "host";
    struct synth_spec spec;
    if (!synth_preset(SPAN("exactness"), &spec)) fail_test("no preset");
    spec.layers = LAYERS, spec.experts = SMALL_EXPERTS, spec.embd = 128, spec.heads = 4, spec.head_dim = 32, spec.ff = 64;
    spec.mix = "q8_0";
    hybrid_q4 = tiny_model_write(&spec);
    spec.mix = "f16";
    hybrid_model = tiny_model_write(&spec);
    return 0;
}

int remove_models(void **state) {
    (void)state;
    tiny_model_remove(hybrid_model);
    tiny_model_remove(hybrid_q4);
    return 0;
}
