/* An engine that answers before its experts are in VRAM: they come beside steps, for prompts and while nothing runs, and until then the
 * CPU has them. The answer is the same, up to the rounding of sums. On the emulated device, or on a real one (DEVICE=cuda). */
#include "tests/support/check.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "tests/support/faulty_stream.h"
#include "tests/support/hybrid_run.h"

enum { EXPERTS = LAYERS * SMALL_EXPERTS, STEPS = 6 };

static struct result want, got;

/* Only the reads of experts on their way to VRAM, the engine's second stream. */
struct second {
    struct faulty faulty;
    uint32_t n;
};

static struct stream *wrap_second(void *ctx, struct stream *inner) {
    struct second *s = ctx;
    return s->n++ == 0 ? inner : faulty_wrap(&s->faulty, inner);
}

static void nap(void) { nanosleep(&(struct timespec){0, 2000000}, NULL); }

/* A prompt (or a first token) at once, then steps. */
static void start_and_go_on(const struct run *r, uint32_t prompt, uint32_t steps) {
    run(&(struct run){.on_cpu = true, .path = r->path, .ubatch = r->ubatch}, prompt, steps, &want);
    run(r, prompt, steps, &got);
}

static void steps_need_not_wait(void **state) {
    (void)state;
    struct second slow = {.n = 0};
    faulty_init(&slow.faulty, 1);
    faulty_add(&slow.faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = 1000000});
    start_and_go_on(&(struct run){.starts_empty = true, .wrap = wrap_second, .wrap_ctx = &slow}, 1, STEPS);
    print_message("  %u of %u have come\n", got.info.vram_experts, EXPERTS);
    assert_int_equal(got.io.arrived_needed, 0);
    expect_close("one token at a time", &want, &got, CLOSE);
    faulty_free(&slow.faulty);
    start_and_go_on(&(struct run){.starts_empty = true, .path = hybrid_q4, .kv_on_host = true, .threads = 1}, 1, STEPS);
    expect_close("quantized, the cache in RAM", &want, &got, CLOSE_Q4);
    start_and_go_on(&(struct run){.starts_empty = true, .gpu_layers = 2, .defer = 0}, 3, STEPS);
    expect_close("two layers on the GPU", &want, &got, CLOSE);
}

/* What a prompt wants comes before its layer is done: no expert with a place is the CPU's. */
static void prompts_bring_what_they_need(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct run run;
        uint32_t prompt;
    } cases[] = {
        {"one lane", {.ubatch = 32}, 20},
        {"two lanes", {.ubatch = 128}, 66},
        {"two lanes, some experts on the CPU", {.ubatch = 128, .cpu_moe = 1}, 66},
        {"the first layer on the CPU", {.gpu_layers = 2}, 20},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run r = cases[i].run;
        r.starts_empty = true;
        start_and_go_on(&r, cases[i].prompt, 3);
        print_message("  %s: %llu came for the prompt, %llu beside it\n", cases[i].name, (unsigned long long)got.io.arrived_needed,
                      (unsigned long long)(got.io.arrived - got.io.arrived_needed));
        if (!r.cpu_moe && r.gpu_layers == 0) assert_true(got.io.uses <= 3 * LAYERS * USED); /* the steps' alone */
        expect_close(cases[i].name, &want, &got, CLOSE);
    }
}

/* Everything comes in the end, with nobody asking; then steps and moves are as if it had always been there. */
static void everything_comes(void **state) {
    (void)state;
    struct engine_info info = {0};
    struct engine_io io, before;
    struct reason why = {{0}};
    const float *logits;
    run(&(struct run){.on_cpu = true}, 1, 4, &want);
    struct engine *e = must_open(&(struct run){.starts_empty = true});
    struct session *s = must_start(e);
    while (info.vram_experts < EXPERTS) nap(), engine_get_info(e, &info);
    assert_true(info.vram_peak <= info.vram_budget);
    got.n = 0;
    got.vocab = want.vocab;
    engine_get_io(e, &before);
    for (uint32_t i = 0; i < 5; i++) {
        if (session_append(s, token_at(i), &logits, &why)) fail_test("%s", why.text);
        keep_logits(&got, i, logits);
    }
    engine_get_io(e, &io);
    assert_int_equal(io.arrived, EXPERTS);
    assert_true(io.gpu_misses == 0 && io.mails == before.mails && io.uses == 0);
    expect_close("after everything has come", &want, &got, CLOSE);
    session_close(&s);
    engine_close(&e);
}

static void moves_begin_when_everything_has_come(void **state) {
    (void)state;
    struct engine *e = must_open(&(struct run){.starts_empty = true});
    const struct plan *plan = engine_plan(e);
    const uint64_t slot = plan->classes[0].vram_slot_bytes, fixed = plan_tier_bytes(plan, PLAN_VRAM) - plan->bytes[PLAN_VRAM][PLAN_EXPERTS];
    engine_close(&e);
    struct run r = {.starts_empty = true, .shuffle = 5, .vram_budget = fixed + (24 + EXPERTS / 3) * slot}; /* and the ring's slots */
    run(&(struct run){.on_cpu = true}, 12, 12, &want);
    run(&r, 12, 12, &got);
    print_message("  %u in VRAM, at most %llu of %llu KiB, %llu came, %llu moved\n", got.info.vram_experts, (unsigned long long)(got.info.vram_peak >> 10),
                  (unsigned long long)(r.vram_budget >> 10), (unsigned long long)got.io.arrived, (unsigned long long)got.io.moved);
    assert_true(got.info.vram_experts > 0 && got.info.vram_experts < EXPERTS && got.info.vram_peak <= r.vram_budget);
    expect_close("half of the experts", &want, &got, CLOSE);
}

/* Reads that fail for good leave the rest to the CPU. A prompt that waited for one fails, and can be repeated. */
static void failures_leave_it_to_the_cpu(void **state) {
    (void)state;
    struct second bad = {.n = 0};
    struct reason why = {{0}};
    int32_t tokens[20];
    faulty_init(&bad.faulty, 1);
    faulty_add(&bad.faulty, (struct fault_rule){.kind = FAULT_ERROR, .from = 20, .error = EIO});
    const struct run r = {.starts_empty = true, .ubatch = 128, .wrap = wrap_second, .wrap_ctx = &bad};
    start_and_go_on(&r, 1, STEPS);
    assert_in_range(got.info.vram_experts, 0, EXPERTS - 1);
    expect_close("steps", &want, &got, CLOSE);

    faulty_clear(&bad.faulty);
    bad.n = 0;
    faulty_add(&bad.faulty, (struct fault_rule){.kind = FAULT_ERROR, .from = 20, .error = EIO});
    for (uint32_t i = 0; i < 20; i++) tokens[i] = token_at(i);
    run(&(struct run){.on_cpu = true, .ubatch = 128}, 20, 0, &want);
    struct engine *e = must_open(&r);
    struct session *s = must_start(e);
    got.n = 0;
    struct eval eval = {.tokens = tokens, .n = 20, .on_logits = keep_logits, .ctx = &got};
    enum err code = session_eval(s, &eval, NULL, &why);
    assert_true(code == ERR_NONE || code == ERR_IO); /* the background may have met the failure first */
    if (code) code = session_eval(s, &eval, NULL, &why);
    if (code) fail_test("%s", why.text);
    expect_close("a prompt, repeated", &want, &got, CLOSE);
    session_close(&s);
    engine_close(&e);
    faulty_free(&bad.faulty);
}

/* Open and close at once, again and again: the background may be anywhere. */
static void it_ends_at_any_time(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        struct engine *e = must_open(&(struct run){.starts_empty = true, .path = i % 2 ? hybrid_q4 : NULL});
        for (uint32_t k = 0; k < i * 6; k++) nap();
        engine_close(&e);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_need_not_wait),
        cmocka_unit_test(prompts_bring_what_they_need),
        cmocka_unit_test(everything_comes),
        cmocka_unit_test(moves_begin_when_everything_has_come),
        cmocka_unit_test(failures_leave_it_to_the_cpu),
        cmocka_unit_test(it_ends_at_any_time),
    };
    return cmocka_run_group_tests(tests, open_small_models, remove_models);
}
