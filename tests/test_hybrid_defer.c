/* --defer-experts beside a GPU: a layer's least-weighted experts on the CPU are added one layer late, and it is the same ones as without a
 * GPU. On the emulated device, or on a real one (DEVICE=cuda). */
#include "tests/support/check.h"

#include <string.h>

#include "tests/support/hybrid_run.h"

static struct result on_cpu, got;

/* Experts that are added one layer late: the same ones for the same answer, whether the CPU computes all layers, or answers a GPU's
 * mails about all experts, or some layers are its own. What is in VRAM is never late. */
static void deferred_experts_agree(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct run run;
    } cases[] = {
        {"experts on the CPU", {.cpu_moe = UINT32_MAX}},
        {"and on the drive, one thread", {.cpu_moe = UINT32_MAX, .slots = 16, .threads = 1}},
        {"and the cache in RAM", {.cpu_moe = UINT32_MAX, .kv_on_host = true}},
        {"the last layer on the GPU", {.gpu_layers = 1, .cpu_moe = UINT32_MAX}},
        {"the middle layer on the GPU", {.cpu_moe = UINT32_MAX, .rules = "blk.(0|2)\\.=CPU"}},
        {"one layer's router on the CPU", {.cpu_moe = UINT32_MAX, .rules = "blk.1.ffn_gate_inp=CPU"}},
        {"one layer's attention on the CPU", {.cpu_moe = UINT32_MAX, .rules = "blk.1.attn=CPU"}},
    };
    static struct result plain;
    run(&(struct run){.on_cpu = true}, 3, 4, &plain);
    for (uint32_t defer = 1; defer <= USED + 1; defer += USED) {
        run(&(struct run){.on_cpu = true, .defer = defer}, 3, 4, &on_cpu);
        assert_int_equal(on_cpu.io.deferred, 4 * (LAYERS - 1) * (defer < USED ? defer : USED)); /* the prompt's are not */
        assert_memory_equal(on_cpu.logits, plain.logits, 3 * sizeof *plain.logits);
        assert_true(memcmp(on_cpu.logits[3], plain.logits[3], sizeof *plain.logits) != 0);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct run r = cases[i].run;
            r.defer = defer;
            run(&r, 3, 4, &got);
            assert_int_equal(got.io.deferred, on_cpu.io.deferred);
            expect_close(cases[i].name, &on_cpu, &got, CLOSE);
        }
    }
    run(&(struct run){.defer = 2}, 3, 4, &got); /* all in VRAM */
    assert_int_equal(got.io.deferred, 0);
    expect_close("all in VRAM", &plain, &got, CLOSE);
    run(&(struct run){.cpu_moe = 1, .rules = "blk.1.ffn_up_exps=CPU", .defer = 2}, 3, 4, &got); /* the last layer owes what none of its own misses */
    assert_int_equal(got.io.deferred, 4 * 2 * 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(deferred_experts_agree)};
    return cmocka_run_group_tests(tests, open_small_models, remove_models);
}
