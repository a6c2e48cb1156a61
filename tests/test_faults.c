/* Reads that fail, come short, come late or not at all, through the whole engine: a run ends with an error that names the file
 * and the place, or its logits are what they are without faults, bit for bit; what failed can be tried again; nothing hangs. */
#include "tests/support/check.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/experts.h"
#include "tests/support/faulty_stream.h"
#include "tests/support/play.h"
#include "tests/support/tiny_model.h"

#define MS ((uint64_t)1000000u)

#if defined(__SANITIZE_THREAD__)
enum { STRIDE = 97, CANCEL_ROUNDS = 12, STORMS = 2 };
#elif defined(__SANITIZE_ADDRESS__)
enum { STRIDE = 13, CANCEL_ROUNDS = 40, STORMS = 6 };
#else
enum { STRIDE = 1, CANCEL_ROUNDS = 60, STORMS = 10 };
#endif

enum { PROMPT = 24, STEPS = 64, EXPERTS = 8, USED = 2, LAYERS = 2, WIDE_LAYERS = 4, WIDE_EXPERTS = 32, WIDE_STEPS = 16 };

struct subject {
    char *path;
    struct tape tape;
};

static struct subject narrow, wide; /* few reads a run; many reads at once */
static struct faulty faulty;

/* In memory where there is such a file system: the drive's own time is no part of this. */
static void make(struct subject *s, const struct synth_spec *spec, uint32_t steps, uint32_t ubatch) {
    s->path = tiny_model_write_in(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", spec);
    tape_record(&s->tape, s->path, PROMPT, steps, ubatch);
}

static int setup(void **state) {
    (void)state;
    struct synth_spec spec = tiny_model_spec();
    spec.layers = LAYERS;
    spec.experts = EXPERTS;
    spec.experts_used = USED;
    make(&narrow, &spec, STEPS, 0);
    spec.layers = WIDE_LAYERS;
    spec.experts = WIDE_EXPERTS;
    spec.experts_used = 4;
    spec.embd = spec.ff = 256;
    spec.mix = "q4_k_m"; /* two sizes of experts */
    make(&wide, &spec, WIDE_STEPS, 8);
    faulty_init(&faulty, 5);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tape_free(&narrow.tape);
    tape_free(&wide.tape);
    tiny_model_remove(narrow.path);
    tiny_model_remove(wide.path);
    faulty_free(&faulty);
    return 0;
}

static int no_differences(void **state) {
    (void)state;
    return narrow.tape.differences || wide.tape.differences;
}

/* The narrow model with few slots. */
static struct engine_options few_slots(enum stream_kind stream) {
    return (struct engine_options){.model_path = narrow.path, .threads = 1, .max_slots = EXPERTS, .stream = stream,
                                   .facts = play_facts(), .wrap_stream = faulty_wrap, .wrap_stream_ctx = &faulty};
}

static struct engine_options wide_options(uint32_t slots, enum stream_kind stream) {
    return (struct engine_options){.model_path = wide.path, .threads = 2, .ubatch = 8, .max_slots = slots, .stream = stream,
                                   .facts = play_facts(), .wrap_stream = faulty_wrap, .wrap_stream_ctx = &faulty};
}

static void expect_io_error(enum err code, const struct reason *why, const char *path, const char *what) {
    if (code != ERR_IO) fail_test("%s: error %d, not ERR_IO: %s", what, code, why->text);
    if (!strstr(why->text, path) || !strstr(why->text, "offset")) fail_test("%s: names no file or offset: %s", what, why->text);
}

static void must(enum err code, const struct reason *why) {
    if (code != ERR_NONE) fail_test("error %d: %s", code, why->text);
}

/* ---- one read after the other ------------------------------------------------------------------------------------ */

struct outcome {
    unsigned runs, while_loading, while_running, unharmed;
};

/* One run with `rule` in force from read `number` on. After an error the rule ends, and the same session has to go on as if
 * nothing had happened. False: the run has no such read. */
static bool fail_one(struct fault_rule rule, uint64_t number, enum stream_kind stream, struct outcome *out) {
    struct engine *e;
    struct session *s;
    struct reason why = {{0}};
    struct engine_options o = few_slots(stream);
    char what[64];
    o.threads = 1 + number % 2;
    snprintf(what, sizeof what, "fault %d, error %d, read %llu", rule.kind, rule.error, (unsigned long long)number);
    faulty_clear(&faulty);
    rule.from = number;
    faulty_add(&faulty, rule);
    out->runs++;
    const enum err opened = engine_open(&o, &e, &why);
    if (opened) {
        expect_io_error(opened, &why, narrow.path, what);
        out->while_loading++;
        return true;
    }
    must(session_open(e, PROMPT + STEPS, &s, &why), &why);
    uint32_t at = 0;
    const enum err code = tape_play(&narrow.tape, s, NULL, &at, &why);
    const bool struck = faulty_faults(&faulty) > 0;
    if (code) {
        expect_io_error(code, &why, narrow.path, what);
        out->while_running++;
        faulty_clear(&faulty);
        const struct eval plain = {0};
        must(tape_play(&narrow.tape, s, number % 3 ? NULL : &plain, &at, &why), &why);
    } else {
        out->unharmed += struck;
    }
    session_close(&s);
    engine_close(&e);
    return struck;
}

static struct outcome fail_each(struct fault_rule rule, enum stream_kind stream, unsigned stride) {
    struct outcome o = {0};
    for (uint64_t n = 0; fail_one(rule, n, stream, &o); n += stride)
        if (n > 100000) fail_test("the run never ends");
    return o;
}

static void every_read_fails(void **state) {
    (void)state;
    static const struct fault_rule once = {.kind = FAULT_ERROR, .error = ENXIO, .count = 1};
    for (int stream = STREAM_AUTO; stream <= STREAM_PREAD; stream += STREAM_PREAD - STREAM_AUTO) {
        const struct outcome o = fail_each(once, (enum stream_kind)stream, STRIDE);
        print_message("  %u reads: %u failed loading, %u a run, %u did no harm\n", o.runs, o.while_loading, o.while_running, o.unharmed);
        assert_true(o.while_loading > 0 && o.while_running > 5 * o.unharmed / 10);
        if (STRIDE == 1) assert_true(o.runs > 300 && o.unharmed > 0);
    }
}

static void bad_sectors_and_early_ends(void **state) {
    (void)state;
    static const struct fault_rule rules[] = {{.kind = FAULT_ERROR, .error = EIO, .count = 1, .bad_sector = true},
                                              {.kind = FAULT_END, .count = 1},
                                              {.kind = FAULT_ERROR, .error = EIO, .count = 1}};
    for (int i = 0; i < 3; i++) {
        const struct outcome o = fail_each(rules[i], i == 1 ? STREAM_PREAD : STREAM_AUTO, STRIDE < 11 ? 11 : 2 * STRIDE);
        if (i < 2) assert_true(o.while_loading > 0 && o.while_running > 0);
        else assert_int_equal(o.while_loading + o.while_running, 0); /* tried again */
    }
}

/* ---- many at once -------------------------------------------------------------------------------------------------- */

static void what_retries_cure(void **state) {
    (void)state;
    static const struct fault_rule rules[] = {
        {.kind = FAULT_ERROR, .error = EIO, .from = 40, .count = FETCH_EIO_TRIES - 1},
        {.kind = FAULT_ERROR, .error = EIO, .from = 200, .count = FETCH_EIO_TRIES - 1},
        {.kind = FAULT_SHORT},
        {.kind = FAULT_SHORT, .bytes = 1, .probability = 0.2},
        {.kind = FAULT_SHORT, .bytes = 512, .probability = 0.5},
        {.kind = FAULT_ERROR, .error = EAGAIN, .probability = 0.4},
        {.kind = FAULT_ERROR, .error = EINTR, .probability = 0.4},
        {.kind = FAULT_ERROR, .error = EAGAIN, .from = 100, .count = 30},
        {.kind = FAULT_ERROR, .error = EINVAL, .direct_only = true},
        {.kind = FAULT_ERROR, .error = EINVAL, .direct_only = true, .probability = 0.3},
        {.kind = FAULT_DELAY, .delay_ns = MS, .probability = 0.3},
        {.kind = FAULT_DELAY, .delay_ns = 5 * MS, .probability = 0.03},
    };
    for (unsigned i = 0; i < sizeof rules / sizeof *rules; i++)
        for (int stream = STREAM_AUTO; stream <= STREAM_PREAD; stream += STREAM_PREAD - STREAM_AUTO) {
            struct reason why = {{0}};
            const struct engine_options o = few_slots((enum stream_kind)stream), w = wide_options(48, (enum stream_kind)stream);
            faulty_clear(&faulty);
            faulty_add(&faulty, rules[i]);
            if (tape_play_all(&narrow.tape, &o, NULL, &why) != ERR_NONE) fail_test("rule %u: %s", i, why.text);
            assert_true(faulty_faults(&faulty) > 0);
            assert_int_equal(narrow.tape.differences, 0);
            if ((i % 2 ? STREAM_PREAD : STREAM_AUTO) != stream) continue; /* the other one has its turn in the next rule */
            faulty_clear(&faulty);
            faulty_add(&faulty, rules[i]);
            if (tape_play_all(&wide.tape, &w, NULL, &why) != ERR_NONE) fail_test("wide, rule %u: %s", i, why.text);
            assert_true(faulty_faults(&faulty) > 0);
            assert_int_equal(wide.tape.differences, 0);
        }
}

/* Errors that stay for a while, in any mixture with cancelling: many reads of one layer fail together, some of them read ahead,
 * and the next attempts meet what was left in flight. */
static void storms_pass(void **state) {
    (void)state;
    static const double share[] = {0.02, 0.1, 0.4};
    unsigned failed = 0;
    for (unsigned i = 0; i < STORMS; i++) {
        struct engine *e;
        struct session *s;
        struct reason why = {{0}};
        const struct engine_options o = wide_options(i % 2 ? 40 : 96, i / 2 % 2 ? STREAM_PREAD : STREAM_AUTO);
        faulty_clear(&faulty);
        faulty.seed = 100 + i;
        must(engine_open(&o, &e, &why), &why);
        must(session_open(e, PROMPT + WIDE_STEPS, &s, &why), &why);
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = ENXIO, .probability = share[i % 3] / 2});
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EIO, .probability = share[i % 3], .delay_ns = MS / 4});
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = 2 * MS, .probability = 0.1});
        uint32_t at = 0;
        enum err code = ERR_IO;
        for (unsigned round = 0; round < 40 && code; round++) {
            code = tape_play(&wide.tape, s, NULL, &at, &why);
            if (code) expect_io_error(code, &why, wide.path, "storm");
            failed += code != ERR_NONE;
        }
        faulty_clear(&faulty);
        must(tape_play(&wide.tape, s, NULL, &at, &why), &why);
        session_close(&s);
        engine_close(&e);
    }
    assert_true(failed > STORMS);
}

static void errors_end_loading(void **state) {
    (void)state;
    struct engine *e;
    struct reason why = {{0}};
    struct engine_options o = few_slots(STREAM_AUTO);
    o.max_slots = 0;
    o.fill_first = true;
    faulty_clear(&faulty);
    must(engine_open(&o, &e, &why), &why);
    engine_close(&e);
    const uint64_t all = faulty_requests(&faulty);
    faulty_clear(&faulty);
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = ENXIO, .from = all - 1, .count = 1});
    expect_io_error(engine_open(&o, &e, &why), &why, narrow.path, "fill first");
    assert_null(e);
    faulty_clear(&faulty);
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = 300 * MS, .from = all - 1, .count = 1});
    o.patience_ns = 100 * MS;
    expect_io_error(engine_open(&o, &e, &why), &why, narrow.path, "late when filling first");
}

/* The background meets a sector it cannot read: it gives up, and says so, while runs that need other experts go on. */
struct warning {
    pthread_mutex_t lock; /* it is the background's thread that warns */
    char text[512];
};

static void keep_warning(void *ctx, enum log_level level, const char *line) {
    struct warning *w = ctx;
    pthread_mutex_lock(&w->lock);
    if (level == LOG_WARN) snprintf(w->text, sizeof w->text, "%s", line);
    pthread_mutex_unlock(&w->lock);
}

static bool warned_of(struct warning *w, const char *what) {
    pthread_mutex_lock(&w->lock);
    const bool found = strstr(w->text, what) != NULL;
    pthread_mutex_unlock(&w->lock);
    return found;
}

static void wait_ms(unsigned ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL); }

/* From the moment on when everything but experts is there. */
static bool fail_experts(void *ctx, uint64_t done, uint64_t total) {
    (void)ctx;
    if (done == total) faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = ENXIO});
    return false;
}

static void background_gives_up(void **state) {
    (void)state;
    struct engine *e;
    struct session *s;
    struct reason why = {{0}};
    struct engine_options o = few_slots(STREAM_AUTO);
    o.max_slots = 0;
    struct warning warning = {PTHREAD_MUTEX_INITIALIZER, ""};
    o.log = (struct log_sink){.write = keep_warning, .ctx = &warning, .level = LOG_WARN};
    o.on_load = fail_experts;
    faulty_clear(&faulty);
    must(engine_open(&o, &e, &why), &why);
    must(session_open(e, PROMPT + STEPS, &s, &why), &why);
    struct engine_io io = {0};
    uint32_t at = 0;
    for (int i = 0; i < 500 && !warned_of(&warning, narrow.path); i++) wait_ms(10);
    assert_true(warned_of(&warning, narrow.path));
    engine_get_io(e, &io);
    assert_int_equal(io.resident, 0);
    faulty_clear(&faulty);
    must(tape_play(&narrow.tape, s, NULL, &at, &why), &why);
    engine_get_io(e, &io);
    assert_true(io.resident > 0);
    session_close(&s);
    engine_close(&e);
}

/* ---- late ones ------------------------------------------------------------------------------------------------------ */

struct stop_at {
    uint64_t ns;
};
static bool stop_after(void *ctx) { return clock_ns() >= ((const struct stop_at *)ctx)->ns; }

/* Cancelling does not wait for a read that hangs, which then lands in the store's memory whenever it wants. */
static void cancel_during_a_stall(void **state) {
    (void)state;
    for (int stream = STREAM_AUTO; stream <= STREAM_PREAD; stream += STREAM_PREAD - STREAM_AUTO) {
        struct engine *e;
        struct session *s;
        struct reason why = {{0}};
        const struct engine_options o = few_slots((enum stream_kind)stream);
        uint32_t at = 0;
        faulty_clear(&faulty);
        must(engine_open(&o, &e, &why), &why);
        must(session_open(e, PROMPT + STEPS, &s, &why), &why);
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = 800 * MS});
        struct stop_at stop = {clock_ns() + 50 * MS};
        const struct eval how = {.should_stop = stop_after, .ctx = &stop};
        assert_int_equal(tape_play(&narrow.tape, s, &how, &at, &why), ERR_CANCELLED);
        const uint64_t late_ns = clock_ns() - stop.ns;
        if (late_ns > 300 * MS) fail_test("cancelled %llu ms late", (unsigned long long)(late_ns / MS));
        faulty_clear(&faulty);
        must(tape_play(&narrow.tape, s, NULL, &at, &why), &why); /* waits for the late ones it needs, no longer */
        session_close(&s);
        const uint64_t closing = clock_ns();
        engine_close(&e);
        assert_true(clock_ns() - closing < 2000 * MS);
    }
}

/* Patience runs out while the system still has the read: the run fails, later ones wait for that memory and then read again. */
static void patience_runs_out(void **state) {
    (void)state;
    for (int stream = STREAM_AUTO; stream <= STREAM_PREAD; stream += STREAM_PREAD - STREAM_AUTO) {
        struct engine *e;
        struct session *s;
        struct reason why = {{0}};
        struct engine_options o = few_slots((enum stream_kind)stream);
        o.patience_ns = 60 * MS;
        uint32_t at = 0;
        faulty_clear(&faulty);
        must(engine_open(&o, &e, &why), &why);
        must(session_open(e, PROMPT + STEPS, &s, &why), &why);
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = 500 * MS, .from = faulty_requests(&faulty), .count = 4});
        expect_io_error(tape_play(&narrow.tape, s, NULL, &at, &why), &why, narrow.path, "patience");
        assert_non_null(strstr(why.text, "no answer"));
        /* the same experts are needed again, and their memory is still lent: first for longer than a run waits */
        enum err code = ERR_IO;
        for (int i = 0; i < 20 && code == ERR_IO; i++) {
            code = tape_play(&narrow.tape, s, NULL, &at, &why);
            if (code) assert_non_null(strstr(why.text, narrow.path));
        }
        must(code, &why);
        session_close(&s);
        engine_close(&e);
    }
}

/* ---- the store by itself ----------------------------------------------------------------------------------------------- */

static uint64_t slot_bytes_of(const struct model *m) {
    uint64_t most = 0;
    for (uint32_t l = 0; l < m->shape.n_layers; l++) {
        const struct model_layer *t = &m->layers[l];
        const uint64_t bytes =
            fetch_room(t->gate->bytes / WIDE_EXPERTS) + fetch_room(t->up->bytes / WIDE_EXPERTS) + fetch_room(t->down->bytes / WIDE_EXPERTS);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* All of a layer's waves, without computing. */
static enum err pass_layer(struct experts *x, uint32_t layer, const struct expert_need *needs, uint32_t n_needs, struct reason *why) {
    struct expert_at at[WIDE_EXPERTS];
    int32_t chosen[4] = {0};
    uint32_t n = 0, seen = 0;
    enum err code = ERR_NONE;
    for (uint32_t i = 0; i < 4; i++) chosen[i] = (int32_t)needs[i].expert;
    experts_begin(x, layer, needs, n_needs, chosen, 1);
    for (bool more = true; more && !code; seen += n) code = experts_wave(x, 128, NULL, NULL, at, &n, &more, why);
    experts_end(x);
    if (!code) assert_int_equal(seen, n_needs);
    return code;
}

/* What is read ahead may have taken every slot that a layer before it needs. */
static void ahead_never_starves_demand(void **state) {
    (void)state;
    struct model *m;
    struct fetch *f;
    struct experts *x;
    struct reason why = {{0}};
    must(model_open(wide.path, true, &m, &why), &why);
    const struct fetch_options how = {.patience_ns = 400 * MS};
    must(fetch_open(m, &how, &f, &why), &why);
    struct plan_layer layers[WIDE_LAYERS] = {{.class = 0}, {.class = 1}, {.class = 1}, {.class = 1}};
    const struct plan plan = {.n_layers = WIDE_LAYERS, .n_classes = 2, .layers = layers,
                              .classes = {{.slot_bytes = slot_bytes_of(m), .slots = 4}, {.slot_bytes = slot_bytes_of(m), .slots = 4}}};
    const struct experts_options o = {.model = m, .fetch = f, .plan = &plan, .look_ahead = true};
    must(experts_open(&o, &x, &why), &why);
    must(experts_enter(x, &why), &why);
    const struct expert_need needs[] = {{10, 1}, {11, 1}, {12, 1}, {13, 1}};
    const int32_t expected[] = {0, 1, 2, 3, 4};
    struct engine_io io = {0};
    must(pass_layer(x, 0, needs, 4, &why), &why);
    experts_expect(x, 2, expected, 5);
    for (int i = 0; i < 1000 && io.resident < 8; i++) {
        experts_breathe(x);
        experts_count(x, &io);
        wait_ms(1);
    }
    assert_int_equal(io.resident, 8);
    assert_int_equal(io.ahead_reads, 4);
    must(pass_layer(x, 1, needs, 4, &why), &why);
    must(pass_layer(x, 2, needs, 4, &why), &why);
    must(experts_leave(x, 1, &why), &why);
    experts_close(&x);
    fetch_close(&f);
    model_close(&m);
}

/* ---- cancelling ------------------------------------------------------------------------------------------------------ */

struct canceller {
    uint64_t random;
    int polls, progress; /* left before it says stop; negative: never */
};

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

static bool poll_stop(void *ctx) {
    struct canceller *c = ctx;
    return c->polls >= 0 && c->polls-- == 0;
}

static bool progress_stop(void *ctx, uint64_t done, uint64_t total) {
    struct canceller *c = ctx;
    (void)done;
    (void)total;
    return c->progress >= 0 && c->progress-- == 0;
}

/* One attempt that ends somewhere, by itself or not. */
static void attempt(struct session *s, struct canceller *c) {
    struct reason why = {{0}};
    uint32_t at = next_random(&c->random) % (WIDE_STEPS + 1);
    c->polls = (int)(next_random(&c->random) % 60) - 10;
    c->progress = (int)(next_random(&c->random) % 8) - 4;
    const struct eval how = {.should_stop = poll_stop, .on_progress = progress_stop, .ctx = c};
    if (c->random % 3 == 0) at = 0;
    /* in other batches than the recording's, roundings may differ */
    const bool same_batches = at == 0 && session_length(s) < PROMPT && session_length(s) % 8 == 0;
    struct tape unheard = wide.tape;
    unheard.differences = 1;
    const enum err code = tape_play(same_batches ? &wide.tape : &unheard, s, &how, &at, &why);
    if (code != ERR_NONE && code != ERR_CANCELLED) fail_test("error %d: %s", code, why.text);
}

static void random_cancels(void **state) {
    (void)state;
    struct canceller c = {.random = 88172645463325252u};
    for (int k = 0; k < 4; k++) {
        struct engine *e;
        struct session *s = NULL;
        struct reason why = {{0}};
        struct engine_io io;
        const struct engine_options o = wide_options(k % 2 ? 24 : 0, k / 2 ? STREAM_PREAD : STREAM_AUTO);
        faulty_clear(&faulty);
        must(engine_open(&o, &e, &why), &why);
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = MS, .probability = 0.2});
        engine_get_io(e, &io);
        for (int i = 0; k % 2 == 0 && i < 1000 && io.fill_bytes == 0; i++) { /* until the background is at work */
            wait_ms(2);
            engine_get_io(e, &io);
        }
        assert_true(k % 2 || io.fill_bytes > 0);
        for (int round = 0; round < CANCEL_ROUNDS; round++) {
            if (!s) must(session_open(e, PROMPT + WIDE_STEPS, &s, &why), &why);
            attempt(s, &c);
            if (c.random % 3 == 0) session_close(&s);
            if (c.random % 8 == 0) wait_ms(25); /* the background begins again */
            if (c.random % 5 == 0) engine_get_io(e, &io);
        }
        if (s) session_close(&s);
        engine_get_io(e, &io);
        assert_true(io.resident <= io.slots && io.hits <= io.uses);
        uint32_t at = 0;
        must(session_open(e, PROMPT + WIDE_STEPS, &s, &why), &why);
        must(tape_play(&wide.tape, s, NULL, &at, &why), &why);
        session_close(&s);
        engine_close(&e);
    }
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]); /* one test alone: to repeat it many times */
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(every_read_fails, no_differences),
                                       cmocka_unit_test_teardown(bad_sectors_and_early_ends, no_differences),
                                       cmocka_unit_test_teardown(what_retries_cure, no_differences),
                                       cmocka_unit_test_teardown(storms_pass, no_differences),
                                       cmocka_unit_test_teardown(errors_end_loading, no_differences),
                                       cmocka_unit_test_teardown(background_gives_up, no_differences),
                                       cmocka_unit_test_teardown(cancel_during_a_stall, no_differences),
                                       cmocka_unit_test_teardown(patience_runs_out, no_differences),
                                       cmocka_unit_test(ahead_never_starves_demand),
                                       cmocka_unit_test_teardown(random_cancels, no_differences)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
