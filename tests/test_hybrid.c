/* The engine with a GPU beside the CPU: whatever lies in VRAM, the answer is the CPU's, up to the rounding of sums. Runs on the
 * emulated device, and unchanged on a real one (DEVICE=cuda). */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "tests/support/hybrid_run.h"
#include "tests/support/tiny_model.h"

#ifndef BUDGET_STEPS
#define BUDGET_STEPS 12
#endif

enum { PROMPT = 40, ANSWER = 10 };

static struct result on_cpu, got;

/* ---- tests --------------------------------------------------------------------------------------------------- */

static void quantized_models_agree(void **state) {
    (void)state;
    run(&(struct run){.path = hybrid_q4, .on_cpu = true}, 1, ANSWER, &on_cpu);
    run(&(struct run){.path = hybrid_q4}, 1, ANSWER, &got);
    expect_close("all in VRAM", &on_cpu, &got, CLOSE_Q4);
    run(&(struct run){.path = hybrid_q4, .cpu_moe = 2, .slots = 16}, 1, ANSWER, &got);
    expect_close("experts on the drive", &on_cpu, &got, CLOSE_Q4);
    run(&(struct run){.path = hybrid_q4, .on_cpu = true}, 12, 2, &on_cpu);
    run(&(struct run){.path = hybrid_q4}, 12, 2, &got);
    expect_close("a prompt, whose activations the CPU alone rounds to 8 bits", &on_cpu, &got, 2e-3);
}

/* The published mixtures of codebook types and of value-table types, at a tiny size: the same on both sides. */
static void codebook_models_agree(void **state) {
    (void)state;
    static const char *const mixes[] = {"asym2", "iq4_k"};
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++) {
        struct synth_spec spec;
        assert_true(synth_preset(SPAN("exactness"), &spec));
        spec.layers = 2, spec.mix = mixes[i];
        char *path = tiny_model_write(&spec);
        run(&(struct run){.path = path, .on_cpu = true}, 1, ANSWER / 2, &on_cpu);
        run(&(struct run){.path = path}, 1, ANSWER / 2, &got);
        assert_true(got.info.device[0] && got.info.vram_experts > 0);
        expect_close(mixes[i], &on_cpu, &got, CLOSE_Q4);
        run(&(struct run){.path = path, .on_cpu = true}, 20, 0, &on_cpu);
        run(&(struct run){.path = path}, 20, 0, &got);
        expect_close("a prompt", &on_cpu, &got, 2e-3);
        tiny_model_remove(path);
    }
}

static void keep_line(void *ctx, enum log_level level, const char *line) {
    if (level <= LOG_WARN) text_addf(ctx, "%s\n", line);
}

/* Gate and up matrices of two types: where kernels take both, the CPU's answer; where not, the CPU computes, and a line says
 * why. */
static void gate_and_up_may_differ(void **state) {
    (void)state;
    const struct {
        enum tensor_type up;
        bool taken;
    } cases[] = {{TYPE_Q6_K, true}, {TYPE_IQ4_K, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct synth_spec spec;
        assert_true(synth_preset(SPAN("exactness"), &spec));
        const struct synth_override up = {"ffn_up_exps", cases[i].up};
        spec.layers = 2, spec.experts = 8, spec.mix = "q4_k", spec.overrides = &up, spec.n_overrides = 1;
        char *path = tiny_model_write(&spec);
        struct text log = {0};
        run(&(struct run){.path = path, .on_cpu = true}, 1, 3, &on_cpu);
        run(&(struct run){.path = path, .cpu_moe = 1, .log = {keep_line, &log, LOG_WARN}}, 1, 3, &got);
        assert_int_equal(got.info.device[0] != 0, cases[i].taken);
        if (!cases[i].taken && (!log.ptr || !strstr(log.ptr, "the GPU is not used: ") ||
                                !strstr(log.ptr, "ffn_up_exps.weight' has type IQ4_K") || !strstr(log.ptr, "of type Q4_K")))
            fail_test("logged: %s", log.ptr ? log.ptr : "nothing");
        expect_close("two types, steps", &on_cpu, &got, CLOSE_Q4);
        run(&(struct run){.path = path, .on_cpu = true}, 20, 0, &on_cpu);
        run(&(struct run){.path = path, .cpu_moe = 1}, 20, 0, &got);
        expect_close("two types, a prompt", &on_cpu, &got, 2e-3);
        text_free(&log);
        tiny_model_remove(path);
    }
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

/* Who watches sees each choice of prompts and steps once, and nearly always the CPU's: a tie may fall the other way. */
static void choices_are_shown(void **state) {
    (void)state;
    static struct seen want, seen;
    const struct run cases[] = {{0}, {.cpu_moe = 2}, {.cpu_moe = UINT32_MAX, .kv_on_host = true}, {.ubatch = 128}};
    run(&(struct run){.on_cpu = true, .seen = &want}, 70, 4, &on_cpu);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run r = cases[i];
        uint32_t same = 0, all = 0;
        memset(&seen, 0, sizeof seen);
        r.seen = &seen;
        run(&r, 70, 4, &got);
        for (uint32_t l = 0; l < LAYERS; l++)
            for (uint32_t t = 0; t < MAX_TOKENS; t++) {
                assert_int_equal(seen.times[l][t], t < 74);
                for (uint32_t k = 0; t < 74 && k < USED; k++) all++, same += seen.experts[l][t][k] == want.experts[l][t][k];
            }
        print_message("  %u of %u choices agree\n", same, all);
        assert_true(same + all / 50 >= all);
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
    for (int i = 0; i <= BUDGET_STEPS; i++) {
        const uint64_t budget = low + (most - low) * (uint64_t)i / BUDGET_STEPS;
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
        if (got.info.vram_peak > budget)
            fail_test("a budget of %llu bytes, a peak of %llu", (unsigned long long)budget,
                      (unsigned long long)got.info.vram_peak);
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
    struct eval eval = {.tokens = tokens, .n = PROMPT, .on_logits = keep_logits, .ctx = &got};
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_agree),
        cmocka_unit_test(quantized_models_agree),
        cmocka_unit_test(codebook_models_agree),
        cmocka_unit_test(gate_and_up_may_differ),
        cmocka_unit_test(prompts_agree),
        cmocka_unit_test(choices_are_shown),
        cmocka_unit_test(budgets_do_not_change_the_answer),
        cmocka_unit_test(a_stopped_prompt_can_be_repeated),
        cmocka_unit_test(sequences_share_pages),
    };
    return cmocka_run_group_tests(tests, open_models, remove_models);
}
