/* A GPU beside the CPU when something goes wrong: waits that end without an answer, reads that fail while the device waits for
 * what they bring, a device that fails. Every run ends, by an answer or a reason, and what can go on goes on. Emulated device
 * only. */
#include "tests/support/check.h"

#include <string.h>

#include "tests/cuda_host/control.h"
#include "tests/support/hybrid_run.h"

enum { TOKENS = 3 };

static struct result want;

static void expect_token(struct session *s, uint32_t i) {
    struct reason why = {{0}};
    const float *logits;
    if (session_append(s, token_at(i), &logits, &why)) fail_test("token %u: %s", i, why.text);
    assert_memory_equal(logits, want.logits[i], want.vocab * sizeof *logits);
}

/* The machine slept, or the process was stopped, while a kernel waited: the step is done again, to the same bits; twice is too
 * often, but the session goes on. */
static void a_late_wait_is_repeated(void **state) {
    (void)state;
    const struct run cases[] = {{.cpu_moe = UINT32_MAX}, {.cpu_moe = 1, .kv_on_host = true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run(&cases[i], 1, TOKENS - 1, &want);
        struct engine *e = must_open(&cases[i]);
        struct session *s = must_start(e);
        struct reason why = {{0}};
        for (uint32_t t = 0; t < TOKENS; t++) {
            if (t % 2) ch_late_waits(1);
            if (t == 2) {
                ch_late_waits(2);
                assert_int_equal(session_append(s, token_at(t), NULL, &why), ERR_IO);
                assert_non_null(strstr(why.text, "in vain"));
                assert_int_equal(session_length(s), t);
            }
            expect_token(s, t);
        }
        struct engine_io io;
        engine_get_io(e, &io);
        assert_int_equal(io.gpu_tokens, TOKENS);
        session_close(&s);
        engine_close(&e);
    }
}

/* Reads fail one after the other, until nothing is read any more: each time the token fails, and comes out right when it is
 * asked for again. */
static void reads_fail_during_steps(void **state) {
    (void)state;
    const struct run plain = {.cpu_moe = UINT32_MAX, .slots = 16};
    struct run r = plain;
    struct faulty faulty;
    uint32_t failures = 0;
    run(&plain, 1, TOKENS - 1, &want);
    faulty_init(&faulty, 5);
    r.faulty = &faulty;
    struct engine *e = must_open(&r);
    struct session *s = must_start(e);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint64_t good = 0; good <= 3; good++) {
            struct reason why = {{0}};
            faulty_clear(&faulty);
            faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = 5, .from = good});
            if (good < 3 && session_append(s, token_at(t), NULL, &why)) {
                failures++;
                assert_int_equal(session_length(s), t);
                assert_true(why.text[0] != 0);
                continue;
            }
            faulty_clear(&faulty);
            if (session_length(s) == t) expect_token(s, t);
            break;
        }
    print_message("  %u tokens failed\n", failures);
    assert_true(failures >= TOKENS);
    session_close(&s);
    engine_close(&e);
    faulty_free(&faulty);
}

/* Reads fail from one on, while dense weights or experts are on their way to VRAM: the model does not open, and the reason says so. */
static void reads_fail_while_loading(void **state) {
    (void)state;
    uint32_t refused = 0;
    for (uint64_t good = 2;; good = 2 * good + 3) {
        struct faulty faulty;
        struct reason why = {{0}};
        faulty_init(&faulty, 5);
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = 5, .from = good});
        struct engine *e = open_engine(&(struct run){.faulty = &faulty}, &why);
        const uint64_t faults = faulty_faults(&faulty);
        if (e) engine_close(&e);
        else refused++, assert_non_null(strstr(why.text, "tiny.gguf"));
        faulty_free(&faulty);
        if (faults == 0) break;
        assert_null(e);
    }
    assert_true(refused >= 3);
}

/* A kernel fails at any place of a step, which waits for nothing any more. The last test: the device stays broken. */
static void a_failed_kernel_ends_the_step(void **state) {
    (void)state;
    struct engine *e = must_open(&(struct run){.cpu_moe = 2});
    struct session *s = must_start(e);
    struct reason why = {{0}};
    assert_int_equal(session_append(s, token_at(0), NULL, &why), ERR_NONE);
    ch_inject_error("kernel", 9, 719, true); /* cudaErrorLaunchFailure */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(session_append(s, token_at(1), NULL, &why), ERR_IO);
        assert_non_null(strstr(why.text, "cudaErrorLaunchFailure"));
    }
    session_close(&s);
    engine_close(&e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_late_wait_is_repeated),
        cmocka_unit_test(reads_fail_during_steps),
        cmocka_unit_test(reads_fail_while_loading),
        cmocka_unit_test(a_failed_kernel_ends_the_step),
    };
    return cmocka_run_group_tests(tests, open_models, remove_models);
}
