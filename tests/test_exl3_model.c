/* Directories through the whole engine: the golden EXL3 model against its logits in binary64, whatever instruction set and however
 * its tokens are batched; and models whose experts' matrices lie apart (EXL3 and BF16) give the same tokens wherever they lie. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/network.h"
#include "tests/support/synth_dir.h"

#define MINI SHARED_DIR "/golden/exl3/mini_qwen3moe"
#define MINI_LOGITS SHARED_DIR "/golden/exl3/mini_qwen3moe_ref/logits.f32"

enum { MINI_TOKENS = 12, MINI_VOCAB = 384 };
static const int32_t mini_tokens[MINI_TOKENS] = {3, 17, 255, 383, 5, 5, 128, 77, 300, 41, 9, 200};

static void must(enum err e, const struct reason *why) {
    if (e) fail_test("%s", why->text);
}

/* ---- the golden model ----------------------------------------------------------------------------------------------- */

static bool read_golden(float *logits) {
    FILE *f = fopen(MINI_LOGITS, "rb");
    if (!f) {
        print_message("[  SKIP  ] %s is absent\n", MINI_LOGITS);
        return false;
    }
    assert_int_equal(fread(logits, sizeof *logits, MINI_TOKENS * MINI_VOCAB, f), MINI_TOKENS * MINI_VOCAB);
    fclose(f);
    return true;
}

static void keep_logits(void *ctx, uint64_t position, const float *logits) {
    memcpy((float *)ctx + position * MINI_VOCAB, logits, MINI_VOCAB * sizeof *logits);
}

static void expect_close(const float *got, const float *want, const char *what) {
    double error = 0, power = 0;
    for (int i = 0; i < MINI_TOKENS * MINI_VOCAB; i++) {
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        power += (double)want[i] * want[i];
    }
    const double relative = sqrt(error / power);
    if (!(relative <= 5e-6)) fail_test("%s: relative rms error of the logits %.3g", what, relative);
}

static void golden_model_gives_its_logits(void **state) {
    (void)state;
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    static float want[MINI_TOKENS * MINI_VOCAB], got[MINI_TOKENS * MINI_VOCAB];
    if (!read_golden(want)) skip();
    for (int isa = 0; isa <= (int)cpu_isa_best(); isa++) {
        struct engine_options o = {.model_path = MINI, .threads = 2, .isa = isas[isa], .kv_f32 = true, .device = "cpu", .kv_tokens = 64};
        struct engine *e;
        struct session *s;
        struct reason why;
        must(engine_open(&o, &e, &why), &why);
        assert_int_equal(engine_model(e)->shape.n_vocab, MINI_VOCAB);
        must(session_open(e, 64, &s, &why), &why);
        struct eval eval = {.tokens = mini_tokens, .n = MINI_TOKENS, .on_logits = keep_logits, .ctx = got};
        must(session_eval(s, &eval, NULL, &why), &why);
        expect_close(got, want, isas[isa]);
        session_close(&s);
        must(session_open(e, 64, &s, &why), &why);
        for (int t = 0; t < MINI_TOKENS; t++) { /* one by one */
            const float *logits;
            struct eval first = {.tokens = mini_tokens, .n = 1};
            must(t == 0 ? session_eval(s, &first, &logits, &why) : session_append(s, mini_tokens[t], &logits, &why), &why);
            keep_logits(got, (uint64_t)t, logits);
        }
        expect_close(got, want, isas[isa]);
        session_close(&s);
        engine_close(&e);
    }
}

/* ---- where experts lie ---------------------------------------------------------------------------------------------- */

enum { LAYERS = 4, EXPERTS = 16, USED = 4, ALL = LAYERS * EXPERTS, PROMPT = 30, STEPS = 16, VOCAB = 512 };

static struct synth_spec spec_of(void) {
    struct synth_spec s;
    assert_true(synth_preset(SPAN("exactness"), &s));
    s.layers = LAYERS;
    s.experts = EXPERTS;
    s.experts_used = USED;
    s.vocab = VOCAB;
    return s;
}

struct answer {
    int32_t tokens[PROMPT + STEPS];
    float logits[STEPS + 1][VOCAB];
    struct engine_io io;
};

static int32_t best(const float *logits) {
    int32_t at = 0;
    for (int32_t i = 1; i < VOCAB; i++)
        if (logits[i] > logits[at]) at = i;
    return at;
}

/* A prompt and greedy tokens. */
static void generate(const struct engine_options *o, struct answer *a) {
    struct engine *e;
    struct session *s;
    struct reason why;
    const float *logits;
    must(engine_open(o, &e, &why), &why);
    must(session_open(e, PROMPT + STEPS, &s, &why), &why);
    for (int i = 0; i < PROMPT; i++) a->tokens[i] = (i * 37 + 11) % VOCAB;
    struct eval eval = {.tokens = a->tokens, .n = PROMPT};
    must(session_eval(s, &eval, &logits, &why), &why);
    for (int i = 0; i <= STEPS; i++) {
        memcpy(a->logits[i], logits, sizeof a->logits[i]);
        if (i == STEPS) break;
        a->tokens[PROMPT + i] = best(logits);
        must(session_append(s, a->tokens[PROMPT + i], &logits, &why), &why);
    }
    session_close(&s);
    engine_get_io(e, &a->io);
    engine_close(&e);
}

static void placement_changes_nothing(uint32_t bits) {
    static struct answer want, got;
    static const uint32_t slots[] = {2 * USED, ALL / 3, ALL * 2 / 3, 0};
    const struct synth_spec spec = spec_of();
    const struct synth_dir dir = {.spec = &spec, .bits = bits, .layers_a_shard = 3};
    char folder[] = "/tmp/exl3_model_XXXXXX";
    struct reason why;
    assert_non_null(mkdtemp(folder));
    must(synth_dir_write(folder, &dir, NULL, &why), &why);
    const struct engine_options all = {.model_path = folder, .threads = 2, .fill_first = true, .device = "cpu", .kv_tokens = 64};
    generate(&all, &want);
    assert_int_equal(want.io.resident, ALL);
    assert_int_equal(want.io.demand_bytes, 0);
    for (unsigned i = 0; i < 4 * 4; i++) {
        struct engine_options o = all;
        o.fill_first = false;
        o.max_slots = slots[i / 4];
        o.stream = i & 1 ? STREAM_PREAD : STREAM_AUTO;
        o.threads = i & 2 ? 1 : 2;
        o.threads_batch = i & 2 ? 3 : 2;
        o.no_look_ahead = i % 8 == 5;
        generate(&o, &got);
        if (memcmp(got.tokens, want.tokens, sizeof got.tokens) != 0 || memcmp(got.logits, want.logits, sizeof got.logits) != 0)
            fail_test("%u bits, %u slots, stream %d, %u threads: other logits", bits, o.max_slots, (int)o.stream, o.threads);
        if (o.max_slots) assert_true(got.io.slots <= o.max_slots && got.io.demand_bytes > 0);
    }
    synth_dir_remove(folder);
}

static void exl3_experts_may_lie_anywhere(void **state) {
    (void)state;
    placement_changes_nothing(3);
}

static void bf16_experts_may_lie_anywhere(void **state) {
    (void)state;
    placement_changes_nothing(0);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------- */

/* No reader makes such a model; whoever does gets a name. */
static void tensors_read_by_rows_are_no_exl3(void **state) {
    (void)state;
    const struct synth_spec spec = spec_of();
    const struct synth_dir dir = {.spec = &spec, .bits = 4};
    char folder[] = "/tmp/exl3_model_XXXXXX";
    struct model *m;
    struct cpu_ops ops;
    struct reason why;
    assert_non_null(mkdtemp(folder));
    must(synth_dir_write(folder, &dir, NULL, &why), &why);
    must(model_open(folder, true, &m, &why), &why);
    cpu_ops_init(&ops, cpu_isa_best());
    must(network_check(m, &ops, &why), &why);
    const struct model_tensor *const tensors[] = {m->embedding, m->layers[1].router, m->layers[0].ffn_norm};
    for (int i = 0; i < 3; i++) {
        struct model_tensor *t = (struct model_tensor *)tensors[i]; /* of the model's own heap */
        const enum tensor_type type = t->type;
        t->type = TYPE_EXL3_4;
        assert_int_equal(network_check(m, &ops, &why), ERR_UNSUPPORTED);
        char name[64];
        snprintf(name, sizeof name, "'%.*s' has type EXL3_4", (int)t->name.len, t->name.ptr);
        if (!strstr(why.text, name)) fail_test("no %s in: %s", name, why.text);
        t->type = type;
    }
    model_close(&m);
    synth_dir_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_model_gives_its_logits), cmocka_unit_test(exl3_experts_may_lie_anywhere),
                                       cmocka_unit_test(bf16_experts_may_lie_anywhere), cmocka_unit_test(tensors_read_by_rows_are_no_exl3)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
