/* EXL3 with a GPU beside the CPU: the golden model against its logits in binary64, and a synthetic one whose experts are in
 * VRAM, on the CPU, on the drive, on the move and passing through, against the CPU's answer. Emulated device, or a real one
 * (DEVICE=cuda). */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/vram.h"
#include "placement/plan.h"
#include "tests/support/hybrid_run.h"
#include "tests/support/synth_dir.h"

#define MINI SHARED_DIR "/golden/exl3/mini_qwen3moe"
#define MINI_LOGITS SHARED_DIR "/golden/exl3/mini_qwen3moe_ref/logits.f32"

enum {
    OUR_LAYERS = 2 /* emulation takes long */,
    MINI_TOKENS = 12,
    MINI_VOCAB = 384,
    BITS = 3,
    EXPERTS = 16,
    ONE_EXPERT = 3 * (256 * 256 * BITS / 8 + 2 * 512)
};
static const int32_t mini_tokens[MINI_TOKENS] = {3, 17, 255, 383, 5, 5, 128, 77, 300, 41, 9, 200};

static struct result on_cpu, got;
static char folder[] = "/tmp/hybrid_exl3_XXXXXX";

static int make_folder(void **state) {
    struct synth_spec spec;
    struct reason why;
    if (open_models(state) || !mkdtemp(folder) || !synth_preset(SPAN("exactness"), &spec)) return 1;
    spec.layers = OUR_LAYERS;
    spec.experts = EXPERTS;
    spec.vocab = 512;
    return synth_dir_write(folder, &(struct synth_dir){.spec = &spec, .bits = BITS, .layers_a_shard = 2}, NULL, &why) !=
           ERR_NONE;
}

static int remove_folder(void **state) {
    synth_dir_remove(folder);
    return remove_models(state);
}

/* ---- the golden model ----------------------------------------------------------------------------------------------- */

static void keep_mini(void *ctx, uint64_t position, const float *logits) {
    memcpy((float *)ctx + position * MINI_VOCAB, logits, MINI_VOCAB * sizeof *logits);
}

/* The first tokens in one call, of more than GPU_STEP_TOKENS a prompt; the others one by one. */
static void run_mini(const struct run *r, uint32_t first, float *out) {
    struct run mini = *r;
    mini.path = MINI;
    struct engine *e = must_open(&mini);
    struct session *s = must_start(e);
    struct reason why;
    struct engine_info info;
    struct eval eval = {.tokens = mini_tokens, .n = first, .on_logits = keep_mini, .ctx = out};
    if (session_eval(s, &eval, NULL, &why)) fail_test("%s", why.text);
    for (uint32_t i = first; i < MINI_TOKENS; i++) {
        const float *logits;
        if (session_append(s, mini_tokens[i], &logits, &why)) fail_test("%s", why.text);
        keep_mini(out, i, logits);
    }
    engine_get_info(e, &info);
    assert_int_equal(info.device[0] == 0, r->on_cpu);
    session_close(&s);
    engine_close(&e);
}

static double relative_rms(const float *a, const float *want) {
    double error = 0, power = 0;
    for (int i = 0; i < MINI_TOKENS * MINI_VOCAB; i++)
        error += pow((double)a[i] - want[i], 2), power += pow((double)want[i], 2);
    return sqrt(error / power);
}

/* Experts of its second layer have 3 bits, one of them 4. */
static void golden_model_gives_its_logits(void **state) {
    (void)state;
    static float want[MINI_TOKENS * MINI_VOCAB], logits[MINI_TOKENS * MINI_VOCAB];
    FILE *f = fopen(MINI_LOGITS, "rb");
    if (!f) {
        print_message("[  SKIP  ] %s is absent\n", MINI_LOGITS);
        skip();
    }
    assert_int_equal(fread(want, sizeof *want, MINI_TOKENS * MINI_VOCAB, f), MINI_TOKENS * MINI_VOCAB);
    fclose(f);
    const struct {
        const char *name;
        struct run run;
        uint32_t first;
        double most;
    } cases[] = {{"on the CPU", {.on_cpu = true}, 12, 5e-4},
                 {"a prompt", {.cpu_moe = 0}, 12, 2e-3},
                 {"steps of six and of one", {.cpu_moe = 0}, 6, 5e-4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_mini(&cases[i].run, cases[i].first, logits);
        const double error = relative_rms(logits, want);
        print_message("  %s: relative rms error of the logits %.1e (at most %.0e)\n", cases[i].name, error, cases[i].most);
        if (!(error <= cases[i].most)) fail_test("%s: the answer differs", cases[i].name);
    }
}

/* ---- where experts lie ---------------------------------------------------------------------------------------------- */

static void the_answer_is_the_cpus(void **state) {
    (void)state;
    const struct {
        const char *name;
        struct run run;
        uint32_t prompt;
        bool passes;
    } cases[] = {{"steps, all in VRAM", {.cpu_moe = 0}, 1, false},
                 {"steps of two while experts arrive", {.starts_empty = true}, 2, false},
                 {"steps of eight, some on the drive", {.cpu_moe = 1, .slots = 16}, 8, false},
                 {"a prompt in two lanes, all through the ring",
                  {.cpu_moe = UINT32_MAX, .pass_from = 1, .ubatch = 64},
                  64,
                  true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run r = {.path = folder, .on_cpu = true};
        run(&r, cases[i].prompt, 1, &on_cpu);
        r = cases[i].run;
        r.path = folder;
        run(&r, cases[i].prompt, 1, &got);
        assert_true(got.info.device[0] != 0);
        if (cases[i].run.cpu_moe == 0 && !r.starts_empty) assert_int_equal(got.info.vram_experts, OUR_LAYERS * EXPERTS);
        if (cases[i].passes) assert_true(got.io.passed > 0 && got.io.passed_bytes == got.io.passed * ONE_EXPERT);
        expect_close(cases[i].name, &on_cpu, &got, CLOSE);
    }
}

/* A budget that one of them does not fit: the plan makes a ring then, and more do not. */
static uint64_t budget_for_some(void) {
    struct engine *e = must_open(&(struct run){.path = folder});
    const struct plan *p = engine_plan(e);
    const uint64_t budget = plan_tier_bytes(p, PLAN_VRAM) - p->classes[0].vram_slot_bytes;
    engine_close(&e);
    return budget;
}

static void experts_move(void **state) {
    (void)state;
    struct run r = {.path = folder, .on_cpu = true};
    run(&r, 1, 8, &on_cpu);
    r = (struct run){.path = folder, .shuffle = 1, .vram_budget = budget_for_some()};
    run(&r, 1, 8, &got);
    print_message("  %u of %u experts in VRAM, %llu moved\n", got.info.vram_experts, OUR_LAYERS * EXPERTS,
                  (unsigned long long)got.io.moved);
    assert_in_range(got.info.vram_experts, 4, OUR_LAYERS * EXPERTS - 4);
    assert_true(got.io.moved >= 3 && got.io.moved_bytes >= got.io.moved * ONE_EXPERT);
    expect_close("experts on the move", &on_cpu, &got, CLOSE);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------- */

/* No reader makes such a model of today's directories. */
static void an_expert_is_exl3_or_is_not(void **state) {
    (void)state;
    struct model *m;
    struct gpu *g;
    struct reason why = {{0}};
    if (model_open(folder, true, &m, &why) ||
        gpu_open(&(struct gpu_options){.device = getenv("DEVICE") ? getenv("DEVICE") : "host"}, &g, &why))
        fail_test("%s", why.text);
    assert_int_equal(vram_check(m, g->ops, &why), ERR_NONE);
    struct model_tensor *t = (struct model_tensor *)m->layers[1].down; /* of the model's own heap */
    const enum tensor_type type = t->type;
    t->type = TYPE_BF16;
    assert_int_equal(vram_check(m, g->ops, &why), ERR_UNSUPPORTED);
    if (!strstr(why.text, "all of an expert's or none")) fail_test("said: %s", why.text);
    t->type = type;
    g->ops->close(&g);
    model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_model_gives_its_logits),
                                       cmocka_unit_test(the_answer_is_the_cpus), cmocka_unit_test(experts_move),
                                       cmocka_unit_test(an_expert_is_exl3_or_is_not)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
