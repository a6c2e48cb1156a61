/* Directories with a GPU beside the CPU: BF16 experts that lie apart find their way to VRAM, and a model of a type that the
 * device has no kernels for runs on the CPU, which one line says. Emulated device, or a real one (DEVICE=cuda). */
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

static void write_model(uint32_t bits) {
    struct synth_spec spec;
    struct reason why;
    assert_true(synth_preset(SPAN("exactness"), &spec));
    spec.layers = LAYERS;
    spec.vocab = 512;
    if (synth_dir_write(folder, &(struct synth_dir){.spec = &spec, .bits = bits, .layers_a_shard = 2}, NULL, &why))
        fail_test("%s", why.text);
}

static void bf16_experts_reach_vram(void **state) {
    (void)state;
    write_model(0);
    run(&(struct run){.path = folder, .on_cpu = true}, 1, 6, &on_cpu);
    run(&(struct run){.path = folder}, 1, 6, &got);
    assert_true(got.info.device[0] && got.info.vram_experts > 0);
    expect_close("all in VRAM", &on_cpu, &got, 1e-5);
    run(&(struct run){.path = folder, .cpu_moe = 2, .slots = 16}, 1, 6, &got);
    expect_close("some on the drive", &on_cpu, &got, 1e-5);
}

static void keep_line(void *ctx, enum log_level level, const char *line) {
    if (level <= LOG_WARN) text_addf(ctx, "%s\n", line);
}

static void exl3_stays_on_the_cpu(void **state) {
    (void)state;
    struct text log = {0};
    struct engine *e;
    struct engine_info info;
    struct reason why;
    write_model(4);
    const struct engine_options o = {.model_path = folder,
                                     .threads = 2,
                                     .kv_tokens = 64,
                                     .device = getenv("DEVICE") ? getenv("DEVICE") : "host",
                                     .log = {keep_line, &log, LOG_WARN}};
    if (engine_open(&o, &e, &why)) fail_test("%s", why.text);
    engine_get_info(e, &info);
    assert_int_equal(info.device[0], 0);
    engine_close(&e);
    assert_non_null(log.ptr);
    const char *line = strstr(log.ptr, "the GPU is not used: ");
    if (!line || !strstr(line, "' has type EXL3_") || strstr(line + 1, "the GPU is not used")) fail_test("logged: %s", log.ptr);
    text_free(&log);
    run(&(struct run){.path = folder, .on_cpu = true}, 9, 2, &on_cpu);
    run(&(struct run){.path = folder}, 9, 2, &got);
    assert_memory_equal(on_cpu.logits, got.logits, sizeof on_cpu.logits);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(bf16_experts_reach_vram, make_folder, remove_folder),
                                       cmocka_unit_test_setup_teardown(exl3_stays_on_the_cpu, make_folder, remove_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
