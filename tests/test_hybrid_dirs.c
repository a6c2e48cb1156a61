/* Directories with a GPU beside the CPU: BF16 experts that lie apart find their way to VRAM. EXL3: test_hybrid_exl3.c. Emulated
 * device, or a real one (DEVICE=cuda). */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/hybrid_run.h"
#include "tests/support/synth_dir.h"

static struct result on_cpu, got;
static char folder[] = "/tmp/hybrid_dirs_XXXXXX";

static int make_folder(void **state) {
    if (open_models(state)) return 1;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    return mkdtemp(folder) ? 0 : 1;
}

static int remove_folder(void **state) {
    synth_dir_remove(folder);
    return remove_models(state);
}

static void write_model(void) {
    struct synth_spec spec;
    struct reason why;
    assert_true(synth_preset(SPAN("exactness"), &spec));
    spec.layers = LAYERS;
    spec.vocab = 512;
    if (synth_dir_write(folder, &(struct synth_dir){.spec = &spec, .layers_a_shard = 2}, NULL, &why))
        fail_test("%s", why.text);
}

static void bf16_experts_reach_vram(void **state) {
    (void)state;
    write_model();
    run(&(struct run){.path = folder, .on_cpu = true}, 1, 6, &on_cpu);
    run(&(struct run){.path = folder}, 1, 6, &got);
    assert_true(got.info.device[0] && got.info.vram_experts > 0);
    expect_close("all in VRAM", &on_cpu, &got, 1e-5);
    run(&(struct run){.path = folder, .cpu_moe = 2, .slots = 16}, 1, 6, &got);
    expect_close("some on the drive", &on_cpu, &got, 1e-5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(bf16_experts_reach_vram, make_folder, remove_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
