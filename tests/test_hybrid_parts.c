/* Layers that a GPU and the CPU share out among them: the last ones on the GPU (-ngl), or any halves of any layers (-ot). Whoever
 * computes what, the answer is the CPU's, up to the rounding of sums. On the emulated device, or on a real one (DEVICE=cuda). */
#include "tests/support/check.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/hybrid_run.h"

enum { LANES = 66, SHOWN = 20, STEPS = 2 };

static struct result on_cpu, got;

static const struct {
    const char *name;
    struct run run;
} parts[] = {
    {"the last layer", {.gpu_layers = 1}},
    {"two layers, their cache in RAM", {.gpu_layers = 2, .kv_on_host = true}},
    {"all layers without the head", {.gpu_layers = LAYERS, .cpu_moe = 1}},
    {"attention of one layer on the CPU, its experts in VRAM", {.rules = "blk.1.attn_q=CPU"}},
    {"one layer's experts on the CPU with their router", {.rules = "blk.1.ffn_gate_inp=CPU,blk.0.ffn_.*exps=NVME", .slots = 24}},
    {"the first and the last layer on the CPU", {.rules = "blk.(0|2)\\.=CPU"}},
    {"from one layer's experts to the next one's attention", {.rules = "blk.0.ffn=CPU,blk.1.attn=CPU,^output=CPU"}},
    {"the embedding and the head alone", {.rules = "blk=CPU"}},
    {"attention alone", {.rules = "exps=CPU,ffn_gate_inp=CPU,blk.0.attn=CPU"}},
};
enum { N_PARTS = sizeof parts / sizeof *parts };

/* One token at a time, which a step's graph asks the CPU for in between. */
static void steps_agree(void **state) {
    (void)state;
    run(&(struct run){.on_cpu = true}, 1, 3, &on_cpu);
    for (size_t i = 0; i < N_PARTS; i++) {
        run(&parts[i].run, 1, 3, &got);
        assert_true(got.info.device[0] != 0);
        expect_close(parts[i].name, &on_cpu, &got, CLOSE);
    }
    run(&(struct run){.path = hybrid_q4, .on_cpu = true}, 1, 3, &on_cpu);
    run(&(struct run){.path = hybrid_q4, .gpu_layers = 2}, 1, 3, &got);
    expect_close("quantized, two layers", &on_cpu, &got, CLOSE_Q4);
}

/* A few tokens in one step, and a prompt in two lanes with its continuation. */
static void prompts_agree(void **state) {
    (void)state;
    for (size_t i = 0; i < N_PARTS; i++) {
        struct run r = parts[i].run;
        const uint32_t prompt = i % 3 == 0 ? 5 : i % 3 == 1 ? 20 : LANES;
        r.ubatch = i % 3 == 1 ? 32 : 128;
        run(&(struct run){.on_cpu = true, .ubatch = r.ubatch}, prompt, STEPS, &on_cpu);
        run(&r, prompt, STEPS, &got);
        expect_close(parts[i].name, &on_cpu, &got, CLOSE);
    }
}

/* Choices of layers here and there are shown once each, in order. */
static void choices_are_shown(void **state) {
    (void)state;
    static struct seen want, seen;
    run(&(struct run){.on_cpu = true, .seen = &want}, SHOWN, STEPS, &on_cpu);
    for (size_t i = 0; i < N_PARTS; i += 3) {
        struct run r = parts[i].run;
        uint32_t same = 0, all = 0;
        memset(&seen, 0, sizeof seen);
        r.seen = &seen;
        run(&r, SHOWN, STEPS, &got);
        for (uint32_t l = 0; l < LAYERS; l++)
            for (uint32_t t = 0; t < SHOWN + STEPS; t++) {
                if (seen.times[l][t] != 1) fail_test("%s: layer %u, token %u shown %u times", parts[i].name, l, t, seen.times[l][t]);
                for (uint32_t k = 0; k < USED; k++) all++, same += seen.experts[l][t][k] == want.experts[l][t][k];
            }
        assert_true(same + all / 50 >= all);
    }
}

/* What is on the CPU takes no VRAM: weights, cache, experts. */
static void less_of_it_takes_less_vram(void **state) {
    (void)state;
    uint64_t before = 0;
    uint32_t experts = 0;
    for (uint32_t layers = 1; layers <= LAYERS + 1; layers++) {
        run(&(struct run){.gpu_layers = layers}, 1, 0, &got);
        print_message("  %u: %llu KiB, %u experts\n", layers, (unsigned long long)(got.info.vram_peak >> 10), got.info.vram_experts);
        assert_true(got.info.vram_peak > before && got.info.vram_experts >= experts);
        before = got.info.vram_peak, experts = got.info.vram_experts;
    }
    assert_int_equal(experts, LAYERS * SMALL_EXPERTS);
}

static void what_is_not_possible_is_said(void **state) {
    (void)state;
    static const struct {
        struct run run;
        const char *says;
    } cases[] = {
        {{.gpu_layers = 1, .rules = "blk.0.ffn_up_exps=CUDA0"}, "where their router is"},
        {{.rules = "attn_k=NVME"}, "only experts"},
        {{.on_cpu = true, .rules = "attn_k=CUDA0"}, NULL}, /* rules are about a GPU: without one they ask for nothing */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct reason why = {{0}};
        struct engine *e = open_engine(&cases[i].run, &why);
        if (cases[i].says ? e || !strstr(why.text, cases[i].says) : !e) fail_test("case %zu: %s", i, why.text);
        engine_close(&e);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_agree),        cmocka_unit_test(prompts_agree), cmocka_unit_test(choices_are_shown),
        cmocka_unit_test(less_of_it_takes_less_vram), cmocka_unit_test(what_is_not_possible_is_said),
    };
    return cmocka_run_group_tests(tests, open_small_models, remove_models);
}
