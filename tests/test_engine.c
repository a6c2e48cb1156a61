/* The whole forward pass on tiny models: against transformers' logits, against a numpy float64 forward and another runtime,
 * and against itself: threads, batch sizes and prefix reuse may not change what comes out (beyond a stated rounding). */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/cpu.h"
#include "engine/engine.h"
#include "tests/support/files.h"

enum { MAX_LOGITS = 64 * 512 };

struct collected {
    float logits[MAX_LOGITS];
    uint64_t next, vocab;
};

static void collect(void *ctx, uint64_t position, const float *logits) {
    struct collected *c = ctx;
    assert_int_equal(position, c->next);
    assert_true((c->next + 1) * c->vocab <= MAX_LOGITS);
    memcpy(c->logits + c->next * c->vocab, logits, c->vocab * sizeof *logits);
    c->next++;
}

struct setup {
    const char *path, *isa;
    unsigned threads;
    uint32_t ubatch;
    bool kv_f32;
};

static struct engine *open_engine(const struct setup *s) {
    struct engine *e;
    struct reason why = {{0}};
    const struct engine_options o = {.model_path = s->path, .isa = s->isa, .threads = s->threads, .ubatch = s->ubatch, .kv_f32 = s->kv_f32,
                                     .fill_first = true};
    if (engine_open(&o, &e, &why) != ERR_NONE) fail_test("%s", why.text);
    return e;
}

/* All logits of `tokens`, in one go. */
static void run_all(const struct setup *setup, const int32_t *tokens, uint64_t n, struct collected *out) {
    struct engine *e = open_engine(setup);
    struct session *s;
    struct reason why = {{0}};
    if (session_open(e, 64, &s, &why) != ERR_NONE) fail_test("%s", why.text);
    out->next = 0;
    out->vocab = engine_model(e)->shape.n_vocab;
    struct eval eval = {.tokens = tokens, .n = n, .on_logits = collect, .ctx = out};
    if (session_eval(s, &eval, NULL, &why) != ERR_NONE) fail_test("%s", why.text);
    assert_int_equal(out->next, n);
    session_close(&s);
    engine_close(&e);
}

/* Largest difference, relative to the largest reference logit. */
static double distance(const float *got, const float *want, size_t n) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) return INFINITY;
        worst = fmax(worst, fabs((double)got[i] - want[i]));
        largest = fmax(largest, fabs(want[i]));
    }
    return worst / largest;
}

static void expect_near(const char *what, const struct collected *got, const float *want, double tolerance) {
    const double d = distance(got->logits, want, got->next * got->vocab);
    print_message("  %s: %.2e (tolerance %.0e)\n", what, d, tolerance);
    if (!(d <= tolerance)) fail_test("%s: off by %g of the largest logit, more than %g", what, d, tolerance);
}

static const char *const isas[] = {"ref", "avx2", "avx512"};

static bool have(const char *isa) {
    enum cpu_isa wanted = ISA_REF;
    return cpu_isa_from_name(span_of(isa), &wanted) && wanted <= cpu_isa_best();
}

/* ---- against transformers (tests/golden/hf_tiny) ------------------------------------------------------------ */

static void agrees_with_transformers(void **state) {
    (void)state;
    static struct collected got;
    static const char *const models[] = {"hf_tiny", "hf_tiny_tied"};
    size_t n_bytes = 0;
    int32_t *tokens = read_block(TESTS_DIR "/golden/hf_tiny/tokens.i32", &n_bytes);
    assert_non_null(tokens);
    const uint64_t n = n_bytes / 4;
    for (size_t m = 0; m < 2; m++) {
        char path[512], what[64];
        snprintf(path, sizeof path, TESTS_DIR "/golden/hf_tiny/logits_%s.f32", models[m]);
        float *want = read_block(path, &n_bytes);
        assert_non_null(want);
        snprintf(path, sizeof path, TESTS_DIR "/golden/hf_tiny/%s.gguf", models[m]);
        for (size_t i = 0; i < 3; i++) {
            if (!have(isas[i])) {
                print_message("  SKIP %s: this machine does not have it\n", isas[i]);
                continue;
            }
            run_all(&(struct setup){path, isas[i], 2, 16, true}, tokens, n, &got);
            assert_int_equal(n_bytes, got.next * got.vocab * 4);
            snprintf(what, sizeof what, "%s %s, KV f32", models[m], isas[i]);
            expect_near(what, &got, want, 1e-4);
        }
        run_all(&(struct setup){path, NULL, 2, 16, false}, tokens, n, &got);
        snprintf(what, sizeof what, "%s, KV f16", models[m]);
        expect_near(what, &got, want, 1e-2);
        free(want);
    }
    free(tokens);
}

/* ---- against golden/gguf/tiny ----------------------------------------------------------------------------------- */

static void agrees_with_golden_tiny(void **state) {
    (void)state;
    static const int32_t tokens[] = {3, 17, 80, 5, 5, 41, 90, 0, 63, 22, 11, 7}, few[] = {3, 17, 30, 5, 5, 21, 9, 0, 23, 22, 11, 7};
    static const struct { const char *file, *want; const int32_t *tokens; double tolerance; bool kv_f32; } cases[] = {
        {"tiny_f32.gguf", "tiny_f32.ref_logits.f32", tokens, 1e-3, true}, /* that runtime kept K in binary32, V in binary16 */
        {"tiny_f32.gguf", "tiny_f32.exact_logits.f32", tokens, 3e-3, false},
        {"tiny_f32.gguf", "tiny_f32.exact_logits.f32", tokens, 1e-5, true},
        {"tiny_split-00001-of-00003.gguf", "tiny_f32.exact_logits.f32", tokens, 1e-5, true},
        {"tiny_yarn.gguf", "tiny_yarn.exact_logits.f32", few, 1e-5, true},
        {"tiny_yarn.gguf", "tiny_yarn.exact_logits.f32", few, 3e-3, false},
    };
    static struct collected got;
    if (access(SHARED_DIR "/golden/gguf/tiny", R_OK) != 0) {
        print_message("  SKIP: no reference data at " SHARED_DIR "\n");
        skip();
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[512];
        size_t n_bytes;
        snprintf(path, sizeof path, SHARED_DIR "/golden/gguf/tiny/%s", cases[i].want);
        float *want = read_block(path, &n_bytes);
        assert_non_null(want);
        snprintf(path, sizeof path, SHARED_DIR "/golden/gguf/tiny/%s", cases[i].file);
        run_all(&(struct setup){path, NULL, 2, 5, cases[i].kv_f32}, cases[i].tokens, 12, &got);
        expect_near(cases[i].want, &got, want, cases[i].tolerance);
        free(want);
    }
}

/* ---- against itself --------------------------------------------------------------------------------------------- */

#define TINY TESTS_DIR "/golden/hf_tiny/hf_tiny.gguf"

static void threads_do_not_change_a_bit(void **state) {
    (void)state;
    static struct collected one, many;
    int32_t tokens[30];
    for (int i = 0; i < 30; i++) tokens[i] = (i * 37 + 5) % 250;
    run_all(&(struct setup){TINY, NULL, 1, 16, false}, tokens, 30, &one);
    for (unsigned threads = 2; threads <= 4; threads++) {
        run_all(&(struct setup){TINY, NULL, threads, 16, false}, tokens, 30, &many);
        assert_memory_equal(one.logits, many.logits, one.next * one.vocab * sizeof(float));
    }
}

static void batch_size_changes_only_rounding(void **state) {
    (void)state;
    static struct collected one, many;
    int32_t tokens[30];
    for (int i = 0; i < 30; i++) tokens[i] = (i * 53 + 11) % 250;
    run_all(&(struct setup){TINY, NULL, 2, 1, true}, tokens, 30, &one);
    static const uint32_t sizes[] = {2, 7, 16, 512};
    for (size_t i = 0; i < 4; i++) {
        run_all(&(struct setup){TINY, NULL, 2, sizes[i], true}, tokens, 30, &many);
        expect_near("batch", &many, one.logits, 1e-5);
    }
}

static bool stop_at_once(void *ctx, uint64_t done, uint64_t total) {
    (void)done, (void)total;
    ++*(int *)ctx;
    return true;
}

static const float *eval_to(struct session *s, const int32_t *tokens, uint64_t n, uint64_t expect_reused) {
    struct eval eval = {.tokens = tokens, .n = n};
    struct reason why = {{0}};
    const float *logits;
    if (session_eval(s, &eval, &logits, &why) != ERR_NONE) fail_test("%s", why.text);
    assert_int_equal(eval.reused, expect_reused);
    assert_int_equal(session_length(s), n);
    return logits;
}

static void prefixes_are_reused(void **state) {
    (void)state;
    struct engine *e = open_engine(&(struct setup){TINY, NULL, 2, 4, true});
    struct session *s, *fresh;
    struct reason why;
    const uint32_t vocab = engine_model(e)->shape.n_vocab;
    int32_t tokens[20];
    for (int i = 0; i < 20; i++) tokens[i] = i * 7 % 200;
    assert_int_equal(session_open(e, 32, &s, &why), ERR_NONE);
    assert_int_equal(session_open(e, 32, &fresh, &why), ERR_NONE);

    eval_to(s, tokens, 10, 0);
    eval_to(s, tokens, 10, 10);                        /* the same again: no work */
    const float *extended = eval_to(s, tokens, 15, 10); /* longer */
    const float *from_scratch = eval_to(fresh, tokens, 15, 0);
    assert_true(distance(extended, from_scratch, vocab) < 1e-5);
    eval_to(s, tokens, 8, 7); /* shorter: the last one is computed again for its logits */
    tokens[5] = 199;
    const float *edited = eval_to(s, tokens, 15, 5); /* edited in the middle */
    session_close(&fresh);
    assert_int_equal(session_open(e, 32, &fresh, &why), ERR_NONE);
    assert_true(distance(edited, eval_to(fresh, tokens, 15, 0), vocab) < 1e-5);

    const float *appended;
    assert_int_equal(session_append(s, tokens[15], &appended, &why), ERR_NONE);
    assert_true(distance(appended, eval_to(fresh, tokens, 16, 15), vocab) < 1e-5);
    assert_memory_equal(session_tokens(s), tokens, 16 * sizeof *tokens);
    session_close(&fresh);
    session_close(&s);
    engine_close(&e);
}

static void a_prompt_can_be_cancelled_and_resumed(void **state) {
    (void)state;
    struct engine *e = open_engine(&(struct setup){TINY, NULL, 2, 4, true});
    struct session *s;
    struct reason why;
    int32_t tokens[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    assert_int_equal(session_open(e, 16, &s, &why), ERR_NONE);
    int calls = 0;
    struct eval eval = {.tokens = tokens, .n = 12, .on_progress = stop_at_once, .ctx = &calls};
    assert_int_equal(session_eval(s, &eval, NULL, &why), ERR_CANCELLED);
    assert_int_equal(calls, 1);
    assert_int_equal(session_length(s), 4);
    eval_to(s, tokens, 12, 4);
    session_close(&s);
    engine_close(&e);
}

static bool stop_at_third(void *ctx) { return ++*(int *)ctx == 3; }

static void a_prompt_stops_between_layers(void **state) {
    (void)state;
    struct engine *e = open_engine(&(struct setup){TINY, NULL, 3, 4, true}); /* two layers: the third poll is in batch two */
    struct session *s;
    struct reason why;
    int32_t tokens[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    assert_int_equal(session_open(e, 16, &s, &why), ERR_NONE);
    int polls = 0;
    struct eval eval = {.tokens = tokens, .n = 12, .should_stop = stop_at_third, .ctx = &polls};
    assert_int_equal(session_eval(s, &eval, NULL, &why), ERR_CANCELLED);
    assert_int_equal(polls, 3);
    assert_int_equal(session_length(s), 4); /* the first batch stays usable */
    const float *resumed = eval_to(s, tokens, 12, 4);
    struct session *fresh;
    assert_int_equal(session_open(e, 16, &fresh, &why), ERR_NONE);
    assert_memory_equal(resumed, eval_to(fresh, tokens, 12, 0), engine_model(e)->shape.n_vocab * sizeof(float));
    session_close(&fresh);
    session_close(&s);
    engine_close(&e);
}

static void refuses_what_cannot_be(void **state) {
    (void)state;
    struct engine *e = open_engine(&(struct setup){TINY, NULL, 1, 4, false});
    struct session *s;
    struct reason why;
    const int32_t bad[] = {1, -1}, big[] = {1000000}, many[9] = {0};
    assert_int_equal(session_open(e, UINT64_MAX / 2, &s, &why), ERR_LIMIT);
    assert_int_equal(session_open(e, 1ull << 40, &s, &why), ERR_LIMIT);
    assert_non_null(strstr(why.text, "MiB"));
    assert_int_equal(session_open(e, 8, &s, &why), ERR_NONE);
    assert_int_equal(session_eval(s, &(struct eval){.tokens = bad, .n = 2}, NULL, &why), ERR_ARGUMENT);
    assert_int_equal(session_eval(s, &(struct eval){.tokens = big, .n = 1}, NULL, &why), ERR_ARGUMENT);
    assert_int_equal(session_eval(s, &(struct eval){.tokens = many, .n = 9}, NULL, &why), ERR_LIMIT);
    assert_int_equal(session_eval(s, &(struct eval){.tokens = many, .n = 0}, NULL, &why), ERR_ARGUMENT);
    eval_to(s, many, 8, 0);
    assert_int_equal(session_append(s, 0, NULL, &why), ERR_LIMIT);
    session_close(&s);
    engine_close(&e);
    const struct engine_options nonsense = {.model_path = TINY, .isa = "avx9000"};
    assert_int_equal(engine_open(&nonsense, &e, &why), ERR_ARGUMENT);
    assert_null(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_transformers), cmocka_unit_test(agrees_with_golden_tiny),
        cmocka_unit_test(threads_do_not_change_a_bit), cmocka_unit_test(batch_size_changes_only_rounding),
        cmocka_unit_test(prefixes_are_reused), cmocka_unit_test(a_prompt_can_be_cancelled_and_resumed),
        cmocka_unit_test(a_prompt_stops_between_layers), cmocka_unit_test(refuses_what_cannot_be)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
