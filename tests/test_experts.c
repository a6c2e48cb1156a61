/* Where weights lie never changes the answer: logits of a prompt and of decoded tokens, bit for bit, with everything in RAM and
 * with few slots, cold and warm, over io_uring and pread, with any number of threads, with and without looking ahead. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "tests/support/tiny_model.h"

#if defined(__SANITIZE_THREAD__) /* some of the combinations: each takes a second */
enum { SKEWS = 1, STRIDE = 9 };
#else
enum { SKEWS = 2, STRIDE = 1 };
#endif

enum { LAYERS = 6, EXPERTS = 32, USED = 4, PROMPT = 40, STEPS = 24, ALL = LAYERS * EXPERTS };

struct result {
    float *logits; /* [STEPS + 1][vocab] */
    int32_t tokens[PROMPT + STEPS];
    struct engine_io io;
};

static struct synth_spec spec_of(float skew) {
    struct synth_spec s = tiny_model_spec();
    s.layers = LAYERS;
    s.experts = EXPERTS;
    s.experts_used = USED;
    s.embd = s.ff = 256;
    s.mix = "q4_k_m"; /* two sizes of experts */
    s.router_skew = skew;
    return s;
}

static int32_t best(const float *logits, uint32_t n) {
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[at]) at = i;
    return (int32_t)at;
}

/* A prompt, then greedy tokens; twice in one engine when `warm`, the second time counts. */
static struct result generate(const struct engine_options *options, bool warm) {
    struct engine *e;
    struct session *s;
    struct reason why = {{0}};
    struct result r = {0};
    if (engine_open(options, &e, &why) != ERR_NONE) fail_test("%s", why.text);
    const uint32_t vocab = engine_model(e)->shape.n_vocab;
    r.logits = calloc((STEPS + 1) * (size_t)vocab, sizeof *r.logits);
    for (int i = 0; i < PROMPT; i++) r.tokens[i] = (i * 37 + 11) % 256;
    for (int round = 0; round <= (warm ? 1 : 0); round++) {
        const float *logits;
        if (session_open(e, PROMPT + STEPS, &s, &why) != ERR_NONE) fail_test("%s", why.text);
        struct eval eval = {.tokens = r.tokens, .n = PROMPT};
        if (session_eval(s, &eval, &logits, &why) != ERR_NONE) fail_test("%s", why.text);
        for (int i = 0; i <= STEPS; i++) {
            memcpy(r.logits + (size_t)i * vocab, logits, vocab * sizeof *logits);
            if (i == STEPS) break;
            r.tokens[PROMPT + i] = best(logits, vocab);
            if (session_append(s, r.tokens[PROMPT + i], &logits, &why) != ERR_NONE) fail_test("%s", why.text);
        }
        session_close(&s);
    }
    engine_get_io(e, &r.io);
    engine_close(&e);
    return r;
}

static void expect_same(const struct result *want, const struct engine_options *options, bool warm, const char *what) {
    struct engine *e;
    struct reason why = {{0}};
    struct engine_options vocabulary = {.model_path = options->model_path, .vocab_only = true};
    if (engine_open(&vocabulary, &e, &why) != ERR_NONE) fail_test("%s", why.text);
    const uint32_t vocab = engine_model(e)->shape.n_vocab;
    engine_close(&e);
    struct result got = generate(options, warm);
    if (memcmp(got.tokens, want->tokens, sizeof got.tokens) != 0) fail_test("%s: other tokens", what);
    for (size_t i = 0; i < (STEPS + 1) * (size_t)vocab; i++)
        if (memcmp(&got.logits[i], &want->logits[i], sizeof(float)) != 0)
            fail_test("%s: logit %zu of step %zu is %a, not %a", what, i % vocab, i / vocab, got.logits[i], want->logits[i]);
    if (options->max_slots) {
        assert_true(got.io.slots <= options->max_slots);
        assert_true(got.io.resident <= got.io.slots);
    }
    free(got.logits);
}

static void placement_changes_nothing(void **state) {
    (void)state;
    static const uint32_t slots[] = {2 * USED, ALL / 4, ALL * 2 / 5, ALL * 3 / 5, 0};
    static const float skews[] = {0, 0.8f};
    for (int k = 2 - SKEWS; k < 2; k++) {
        const struct synth_spec spec = spec_of(skews[k]);
        char *path = tiny_model_write(&spec), what[96];
        const struct engine_options all = {.model_path = path, .threads = 2, .fill_first = true};
        const struct result want = generate(&all, false);
        assert_int_equal(want.io.resident, ALL);
        assert_int_equal(want.io.hits, want.io.uses);
        assert_int_equal(want.io.demand_bytes, 0);
        for (unsigned i = 0; i < 5 * 2 * 2 * 2; i += STRIDE) {
            const struct engine_options o = {.model_path = path, .max_slots = slots[i / 8], .stream = i & 1 ? STREAM_PREAD : STREAM_AUTO,
                                             .threads = i & 2 ? 1 : 2, .threads_batch = i & 2 ? 3 : 2};
            snprintf(what, sizeof what, "skew %g, %u slots, stream %d, %u threads, %s", skews[k], o.max_slots, o.stream, o.threads,
                     i & 4 ? "warm" : "cold");
            expect_same(&want, &o, (i & 4) != 0, what);
        }
        for (unsigned i = 0; i < 4; i++) {
            const struct engine_options o = {.model_path = path, .max_slots = ALL / 4, .threads = 2, .no_look_ahead = (i & 1) != 0,
                                             .no_direct_io = (i & 2) != 0, .fill_first = i == 3};
            snprintf(what, sizeof what, "skew %g, variant %u", skews[k], i);
            expect_same(&want, &o, false, what);
        }
        free(want.logits);
        tiny_model_remove(path);
    }
}

/* ---- what is reported --------------------------------------------------------------------------------------------- */

static void counters_add_up(void **state) {
    (void)state;
    const struct synth_spec spec = spec_of(0.8f);
    char *path = tiny_model_write(&spec);
    const struct engine_options few = {.model_path = path, .max_slots = ALL / 4, .threads = 2};
    const struct result r = generate(&few, true);
    assert_int_equal(r.io.tokens, 2 * (PROMPT + STEPS));
    assert_int_equal(r.io.batches, 2 * (1 + STEPS));
    assert_int_equal(r.io.experts, ALL);
    assert_true(r.io.hits > 0 && r.io.hits < r.io.uses);
    assert_true(r.io.demand_bytes > 0 && r.io.wait_ns > 0 && r.io.busy_ns > 0);
    assert_true(r.io.expected_right <= r.io.expected);
    assert_true(r.io.ahead_used <= r.io.ahead_reads);
    free(r.logits);
    tiny_model_remove(path);
}

/* ---- the hook ----------------------------------------------------------------------------------------------------- */

struct watch {
    uint32_t next_layer;
    uint64_t position, calls, expected_calls;
    bool replace;
};

static void watch_experts(void *ctx, uint32_t layer, uint64_t position, bool expected, int32_t *experts) {
    struct watch *w = ctx;
    for (int r = 0; r < USED; r++) assert_true(experts[r] >= 0 && experts[r] < EXPERTS);
    if (expected) {
        w->expected_calls++;
        return;
    }
    assert_true(layer < LAYERS && position < PROMPT + STEPS);
    w->calls++;
    for (int r = 0; w->replace && r < USED; r++) experts[r] = (int32_t)((layer + r) % EXPERTS);
}

static void hook_sees_and_replaces(void **state) {
    (void)state;
    const struct synth_spec spec = spec_of(0);
    char *path = tiny_model_write(&spec);
    struct watch w = {0};
    struct engine_options o = {.model_path = path, .max_slots = ALL / 2, .threads = 2};
    const struct result plain = generate(&o, false);
    o.on_experts = watch_experts;
    o.on_experts_ctx = &w;
    expect_same(&plain, &o, false, "watched");
    assert_int_equal(w.calls, LAYERS * (PROMPT + STEPS));
    assert_true(w.expected_calls > 0);
    w.replace = true;
    const struct result other = generate(&o, true);
    assert_true(other.io.resident >= LAYERS * USED);
    assert_true(other.io.demand_bytes > 0);
    free(other.logits);
    free(plain.logits);
    tiny_model_remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(placement_changes_nothing), cmocka_unit_test(counters_add_up),
                                       cmocka_unit_test(hook_sees_and_replaces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
