/* The engine with a GPU beside the CPU: whatever lies in VRAM, the answer is the CPU's, up to the rounding of sums. Runs on the
 * emulated device, and unchanged on a real one (DEVICE=cuda). */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "tests/support/faulty_stream.h"
#include "tests/support/tiny_model.h"

enum { MAX_TOKENS = 96, MAX_VOCAB = 640, PROMPT = 40, ANSWER = 10 };

/* Two models. Of binary16 weights: both sides multiply floats, so that only the order of sums differs (and, in prompts, products of
 * binary16). And Q4_K_M: there a difference in the last bit can tip an activation over to the next of 255 levels, or a choice to
 * the next expert, which the tokens that follow remember. */
static char *model, *q4;
#define CLOSE 1e-6
#define CLOSE_Q4 1e-4
static const char *device;

struct run {
    uint64_t vram_budget;
    bool on_cpu, kv_on_host;
    uint32_t slots, cpu_moe, threads, ubatch;
    const char *path;
};

struct result {
    uint64_t n, vocab;
    float logits[MAX_TOKENS][MAX_VOCAB];
    struct engine_info info;
};

static struct engine *open_engine(const struct run *r, struct reason *why) {
    const struct engine_options o = {.model_path = r->path ? r->path : model, .threads = r->threads ? r->threads : 2, .ubatch = r->ubatch ? r->ubatch : 32,
                                     .device = r->on_cpu ? "cpu" : device, .vram_budget = r->vram_budget ? r->vram_budget : (uint64_t)200 << 20, .kv_on_host = r->kv_on_host,
                                     .cpu_moe_layers = r->cpu_moe, .max_slots = r->slots, .kv_tokens = 512};
    struct engine *e;
    return engine_open(&o, &e, why) ? NULL : e;
}

static struct engine *must_open(const struct run *r) {
    struct reason why = {{0}};
    struct engine *e = open_engine(r, &why);
    if (!e) fail_test("%s", why.text);
    return e;
}

static struct session *must_start(struct engine *e) {
    struct session *s;
    struct reason why = {{0}};
    if (session_open(e, 256, &s, &why)) fail_test("%s", why.text);
    return s;
}

static void keep(void *ctx, uint64_t position, const float *logits) {
    struct result *r = ctx;
    assert_int_equal(position, r->n);
    assert_true(r->n < MAX_TOKENS && r->vocab <= MAX_VOCAB);
    memcpy(r->logits[r->n++], logits, r->vocab * sizeof *logits);
}

static int32_t token_at(uint64_t i) { return (int32_t)((i * 7919 + 11) % 200); }

/* Logits of `prompt` tokens at once, then of `more` one by one; always the same tokens. */
static void run(const struct run *r, uint32_t prompt, uint32_t more, struct result *out) {
    struct engine *e = must_open(r);
    struct session *s = must_start(e);
    struct reason why = {{0}};
    int32_t tokens[MAX_TOKENS];
    for (uint32_t i = 0; i < MAX_TOKENS; i++) tokens[i] = token_at(i);
    out->n = 0;
    out->vocab = engine_model(e)->shape.n_vocab;
    struct eval eval = {.tokens = tokens, .n = prompt, .on_logits = keep, .ctx = out};
    if (session_eval(s, &eval, NULL, &why)) fail_test("%s", why.text);
    for (uint32_t i = 0; i < more; i++) {
        const float *logits;
        if (session_append(s, tokens[prompt + i], &logits, &why)) fail_test("%s", why.text);
        keep(out, prompt + i, logits);
    }
    engine_get_info(e, &out->info);
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

static void expect_close(const char *what, const struct result *want, const struct result *got, double most) {
    double sum = 0;
    assert_int_equal(want->n, got->n);
    for (uint64_t t = 0; t < want->n; t++) sum += divergence(want, got, t);
    print_message("  %s: KL %.1e (at most %.0e)\n", what, sum / (double)want->n, most);
    if (!(sum / (double)want->n <= most)) fail_test("%s: the answer differs", what);
}

static struct result on_cpu, got;

/* ---- tests ---------------------------------------------------------------------------------------------------------- */

static void quantized_models_agree(void **state) {
    (void)state;
    run(&(struct run){.path = q4, .on_cpu = true}, 1, ANSWER, &on_cpu);
    run(&(struct run){.path = q4}, 1, ANSWER, &got);
    expect_close("all in VRAM", &on_cpu, &got, CLOSE_Q4);
    run(&(struct run){.path = q4, .cpu_moe = 2, .slots = 16}, 1, ANSWER, &got);
    expect_close("experts on the drive", &on_cpu, &got, CLOSE_Q4);
    run(&(struct run){.path = q4, .on_cpu = true}, 12, 2, &on_cpu);
    run(&(struct run){.path = q4}, 12, 2, &got);
    expect_close("a prompt, whose activations the CPU alone rounds to 8 bits", &on_cpu, &got, 2e-3);
}

static void steps_agree(void **state) {
    (void)state;
    run(&(struct run){.on_cpu = true}, 1, ANSWER, &on_cpu);
    run(&(struct run){0}, 1, ANSWER, &got);
    assert_true(got.info.device[0] && got.info.vram_experts > 0);
    expect_close("all in VRAM", &on_cpu, &got, CLOSE);
    run(&(struct run){.cpu_moe = UINT32_MAX}, 1, ANSWER, &got);
    assert_int_equal(got.info.vram_experts, 0);
    expect_close("experts on the CPU", &on_cpu, &got, CLOSE);
    run(&(struct run){.cpu_moe = UINT32_MAX, .slots = 16}, 1, ANSWER, &got);
    expect_close("experts on the drive", &on_cpu, &got, CLOSE);
    run(&(struct run){.kv_on_host = true}, 1, ANSWER, &got);
    expect_close("KV cache in RAM", &on_cpu, &got, CLOSE);
}

/* Several tokens a step, and prompts in one and two lanes: products in binary16 there. */
static void prompts_agree(void **state) {
    (void)state;
    const struct {
        const char *name;
        struct run run;
        uint32_t prompt;
    } cases[] = {
        {"3 tokens", {.threads = 2}, 3},
        {"8 tokens", {.cpu_moe = UINT32_MAX}, 8},
        {"40 tokens", {.ubatch = 32}, PROMPT},
        {"40 tokens, experts on the CPU", {.cpu_moe = UINT32_MAX}, PROMPT},
        {"70 tokens, two lanes", {.cpu_moe = 2, .ubatch = 128}, 70},
        {"70 tokens, KV cache in RAM", {.cpu_moe = 2, .ubatch = 128, .kv_on_host = true}, 70},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run cpu = cases[i].run;
        cpu.on_cpu = true;
        run(&cpu, cases[i].prompt, 4, &on_cpu);
        run(&cases[i].run, cases[i].prompt, 4, &got);
        expect_close(cases[i].name, &on_cpu, &got, CLOSE);
    }
}

/* From "nothing fits" to "all fits": never over the budget, always the same answer. */
static void budgets_do_not_change_the_answer(void **state) {
    (void)state;
    static struct result all, none;
    run(&(struct run){0}, 4, ANSWER, &all);
    run(&(struct run){.cpu_moe = UINT32_MAX}, 4, ANSWER, &none);
    const uint64_t low = none.info.vram_peak - ((uint64_t)8 << 20), most = all.info.vram_peak + ((uint64_t)16 << 20);
    uint32_t before = 0;
    uint64_t least = 0;
    for (int i = 0; i <= 12; i++) {
        const uint64_t budget = low + (most - low) * (uint64_t)i / 12;
        struct reason why = {{0}};
        struct engine *e = open_engine(&(struct run){.vram_budget = budget}, &why);
        if (!e) { /* a budget that was asked for is refused, never exceeded */
            print_message("  %llu MiB: %s\n", (unsigned long long)(budget >> 20), why.text);
            assert_non_null(strstr(why.text, "MiB"));
            least = budget;
            continue;
        }
        engine_close(&e);
        run(&(struct run){.vram_budget = budget}, 4, ANSWER, &got);
        if (got.info.vram_peak > budget) fail_test("a budget of %llu bytes, a peak of %llu", (unsigned long long)budget, (unsigned long long)got.info.vram_peak);
        assert_true(got.info.vram_experts >= before);
        before = got.info.vram_experts;
        char what[64];
        snprintf(what, sizeof what, "%llu MiB, %u experts", (unsigned long long)(budget >> 20), before);
        expect_close(what, &all, &got, CLOSE);
    }
    assert_int_equal(before, all.info.vram_experts);
    assert_true(least < most);
}

static bool stop_now(void *ctx) {
    uint32_t *left = ctx;
    return *left == 0 || --*left == 0;
}

/* A run that is given up leaves a session that goes on. */
static void a_stopped_prompt_can_be_repeated(void **state) {
    (void)state;
    struct engine *e = must_open(&(struct run){.cpu_moe = UINT32_MAX, .slots = 16});
    struct session *s = must_start(e);
    struct reason why = {{0}};
    int32_t tokens[PROMPT];
    for (uint32_t i = 0; i < PROMPT; i++) tokens[i] = token_at(i);
    run(&(struct run){.on_cpu = true}, PROMPT, 0, &on_cpu);
    for (uint32_t calls = 1; calls < 40; calls = calls * 2 + 1) {
        uint32_t left = calls;
        struct eval eval = {.tokens = tokens, .n = PROMPT, .should_stop = stop_now, .ctx = &left};
        const enum err code = session_eval(s, &eval, NULL, &why);
        assert_true(code == ERR_CANCELLED || code == ERR_NONE);
    }
    got.n = 0;
    got.vocab = on_cpu.vocab;
    struct eval eval = {.tokens = tokens, .n = PROMPT, .on_logits = keep, .ctx = &got};
    if (session_eval(s, &eval, NULL, &why)) fail_test("%s", why.text);
    expect_close("after many stops", &on_cpu, &got, CLOSE_Q4);
    session_close(&s);
    engine_close(&e);
}

/* Two sequences share the pages; one more than there are is refused with a reason. */
static void sequences_share_pages(void **state) {
    (void)state;
    struct engine *e = must_open(&(struct run){0});
    struct session *s[8], *more;
    struct reason why = {{0}};
    int32_t tokens[4] = {1, 2, 3, 4};
    const float *first = NULL, *logits;
    static float kept[MAX_VOCAB];
    for (int i = 0; i < 8; i++) {
        s[i] = must_start(e);
        struct eval eval = {.tokens = tokens, .n = 4};
        const enum err code = session_eval(s[i], &eval, &logits, &why);
        if (i >= 2) { /* 512 tokens are two pages */
            assert_int_equal(code, ERR_LIMIT);
            assert_non_null(strstr(why.text, "pages"));
            continue;
        }
        if (code) fail_test("%s", why.text);
        if (first) assert_memory_equal(kept, logits, engine_model(e)->shape.n_vocab * sizeof *logits);
        memcpy(kept, logits, engine_model(e)->shape.n_vocab * sizeof *logits);
        first = kept;
    }
    assert_int_equal(session_open(e, 256, &more, &why), ERR_LIMIT);
    for (int i = 0; i < 8; i++) session_close(&s[i]);
    engine_close(&e);
}

static int open_model(void **state) {
    (void)state;
    device = getenv("DEVICE") ? getenv("DEVICE") : "host";
    struct synth_spec spec;
    if (!synth_preset(SPAN("exactness"), &spec)) fail_test("no preset");
    spec.experts = 32;
    spec.layers = 3; /* emulation takes a tenth of a second a layer and token */
    q4 = tiny_model_write(&spec);
    spec.mix = "f16";
    model = tiny_model_write(&spec);
    return 0;
}

static int remove_model(void **state) {
    (void)state;
    tiny_model_remove(model);
    tiny_model_remove(q4);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_agree),
        cmocka_unit_test(quantized_models_agree),
        cmocka_unit_test(prompts_agree),
        cmocka_unit_test(budgets_do_not_change_the_answer),
        cmocka_unit_test(a_stopped_prompt_can_be_repeated),
        cmocka_unit_test(sequences_share_pages),
    };
    return cmocka_run_group_tests(tests, open_model, remove_model);
}
