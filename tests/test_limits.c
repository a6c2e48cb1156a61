/* The world around an engine: its model's file is cut, replaced or written to, io_uring is denied, descriptors and locked memory
 * are scarce, RAM is. Logits stay what they are, or there is an error that says what is wrong; memory stays within its budget. */
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/support/child.h"
#include "tests/support/play.h"
#include "tests/support/tiny_model.h"

#define MIB ((uint64_t)1 << 20)

enum { PROMPT = 24, STEPS = 32, LAYERS = 4, EXPERTS = 16, USED = 2, FEW = 12 };

static char *path;
static struct tape tape;

static struct synth_spec spec_of(uint64_t seed) {
    struct synth_spec spec = tiny_model_spec();
    spec.layers = LAYERS;
    spec.experts = EXPERTS;
    spec.experts_used = USED;
    spec.embd = spec.ff = 256;
    spec.mix = "q4_k_m";
    spec.seed = seed;
    return spec;
}

static int setup(void **state) {
    (void)state;
    const struct synth_spec spec = spec_of(1);
    path = tiny_model_write(&spec);
    tape_record(&tape, path, PROMPT, STEPS, 0);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tape_free(&tape);
    tiny_model_remove(path);
    return 0;
}

static int no_differences(void **state) {
    (void)state;
    return tape.differences != 0;
}

static struct engine_options options_for(const char *model, uint32_t slots) {
    return (struct engine_options){.model_path = model, .threads = 2, .max_slots = slots, .facts = play_facts()};
}

static void must(enum err code, const struct reason *why) {
    if (code != ERR_NONE) fail_test("error %d: %s", code, why->text);
}

static void wait_ms(unsigned ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL); }

/* ---- the file ---------------------------------------------------------------------------------------------------- */

enum change { CUT_SHORT, CUT_TO_NOTHING, OVERWRITTEN, TOUCHED, REPLACED, REMOVED, N_CHANGES };

struct changer {
    enum change change;
    const char *victim, *other; /* other: another model */
    unsigned delay_us;
};

/* Every weight becomes another one. */
static bool overwrite(const char *victim) {
    static uint8_t junk[65536];
    struct stat s;
    const int fd = open(victim, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fstat(fd, &s) == 0;
    memset(junk, 0x5A, sizeof junk);
    for (off_t at = 16384; ok && at < s.st_size; at += (off_t)sizeof junk) {
        const off_t left = s.st_size - at;
        ok = pwrite(fd, junk, left < (off_t)sizeof junk ? (size_t)left : sizeof junk, at) > 0;
    }
    return fd >= 0 && close(fd) == 0 && ok;
}

static void *change_file(void *ctx) {
    const struct changer *c = ctx;
    struct stat s;
    bool ok = stat(c->victim, &s) == 0;
    nanosleep(&(struct timespec){0, c->delay_us * 1000L}, NULL);
    switch (c->change) {
    case CUT_SHORT: ok &= truncate(c->victim, s.st_size / 2) == 0; break;
    case CUT_TO_NOTHING: ok &= truncate(c->victim, 0) == 0; break;
    case OVERWRITTEN: ok &= overwrite(c->victim); break;
    case TOUCHED: ok &= utimensat(AT_FDCWD, c->victim, NULL, 0) == 0; break;
    case REPLACED: ok &= rename(c->other, c->victim) == 0; break;
    case REMOVED: ok &= unlink(c->victim) == 0; break;
    case N_CHANGES: break;
    }
    return ok ? NULL : ctx;
}

/* While the engine runs, again and again from the beginning. Not one logit may come from another file than the one opened. */
static void change_while_running(enum change change, uint32_t slots, unsigned delay_us) {
    const struct synth_spec spec = spec_of(1), other_spec = spec_of(2);
    char *victim = tiny_model_write(&spec), *other = tiny_model_write(&other_spec);
    const bool harmless = change == REPLACED || change == REMOVED;
    struct changer c = {change, victim, other, delay_us};
    struct engine_options o = options_for(victim, slots);
    struct engine *e;
    struct session *s;
    struct reason why = {{0}};
    pthread_t thread;
    void *failed = NULL;
    wait_ms(15); /* clocks of file systems are coarse: the change must not fall together with the writing */
    must(engine_open(&o, &e, &why), &why);
    must(session_open(e, PROMPT + STEPS, &s, &why), &why);
    assert_int_equal(pthread_create(&thread, NULL, change_file, &c), 0);
    enum err code = ERR_NONE;
    bool joined = false;
    for (int round = 0; !code && round < 1000; round++) {
        uint32_t at = 0;
        struct session *fresh = NULL;
        must(session_open(e, PROMPT + STEPS, &fresh, &why), &why);
        code = tape_play(&tape, fresh, NULL, &at, &why);
        session_close(&fresh);
        if (joined) break; /* a whole round after the change */
        joined = pthread_tryjoin_np(thread, &failed) == 0;
    }
    if (!joined) pthread_join(thread, &failed);
    assert_null(failed);
    if (harmless) {
        must(code, &why);
    } else {
        if (code != ERR_IO || !strstr(why.text, victim)) fail_test("change %d: error %d, %s", change, code, why.text);
        uint32_t at = 0;
        assert_int_equal(tape_play(&tape, s, NULL, &at, &why), ERR_IO); /* and so it stays */
        assert_int_equal(at, 0);
    }
    if (tape.differences) fail_test("change %d after %u us, %u slots: wrong logits", change, delay_us, slots);
    session_close(&s);
    engine_close(&e);
    tiny_model_remove(victim);
    tiny_model_remove(other);
}

static void files_change(void **state) {
    (void)state;
    static const unsigned delays_us[] = {300, 3000, 9000, 25000};
    for (int change = 0; change < N_CHANGES; change++)
        for (unsigned i = 0; i < 4; i++) change_while_running((enum change)change, i % 2 ? FEW : 0, delays_us[i]);
}

/* ---- what systems deny, each in a process of its own ------------------------------------------------------------ */

static int child_plays(const char *backend) {
    struct engine_options o = options_for(path, FEW);
    struct engine_io io;
    struct reason why = {{0}};
    if (tape_play_all(&tape, &o, &io, &why) != ERR_NONE) return complain("error", why.text);
    if (tape.differences) return complain("logits", "wrong");
    if (backend && strcmp(io.backend, backend) != 0) return complain("backend", io.backend);
    return CHILD_OK;
}

static int child_filtered(int call) {
    const int denied = deny_call((unsigned)call, EPERM);
    return denied ? denied : child_plays("pread");
}

static void plays_without_io_uring(void **state) {
    (void)state;
    in_child(child_filtered, SYS_io_uring_setup);
    in_child(child_filtered, SYS_io_uring_enter);
    in_child(child_filtered, SYS_io_uring_register);
}

static int child_memlock(int kib) {
    const int denied = limit_locked_memory(kib);
    return denied ? denied : child_plays(NULL);
}

static void plays_without_locked_memory(void **state) {
    (void)state;
    char folder[128];
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    assert_int_equal(chmod(folder, 0755), 0); /* the child is somebody else */
    in_child(child_memlock, 64);
    in_child(child_memlock, 0);
}

/* With `spare` descriptors left: an error, or the same logits. From some number on they are enough. */
static int child_descriptors(int spare) {
    struct engine_options o = options_for(path, FEW);
    struct reason why = {{0}};
    const int denied = limit_descriptors(spare);
    if (denied) return denied;
    const enum err code = tape_play_all(&tape, &o, NULL, &why);
    if (tape.differences) return complain("logits", "wrong");
    if (code == ERR_NONE) return CHILD_OK;
    if (!strstr(why.text, strerror(EMFILE))) return complain("error", why.text);
    return spare >= 3 ? complain("refused", why.text) : CHILD_OK;
}

static void plays_without_descriptors(void **state) {
    (void)state;
    for (int spare = 0; spare < 6; spare++) in_child(child_descriptors, spare);
}

static void plays_from_memory_file(void **state) {
    (void)state;
    const struct synth_spec spec = spec_of(1);
    if (access("/dev/shm", W_OK) != 0) skip();
    char *copy = tiny_model_write_in("/dev/shm", &spec);
    for (int stream = STREAM_AUTO; stream <= STREAM_PREAD; stream += STREAM_PREAD - STREAM_AUTO) {
        struct engine_options o = options_for(copy, FEW);
        struct reason why = {{0}};
        o.stream = (enum stream_kind)stream;
        must(tape_play_all(&tape, &o, NULL, &why), &why);
    }
    tiny_model_remove(copy);
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static uint64_t peak_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_maxrss << 10;
}

/* A prompt and some tokens, so that everything that will be touched is. */
static enum err work(struct engine *e, struct reason *why) {
    enum { TOKENS = 600, MORE = 40 };
    static int32_t tokens[TOKENS];
    struct session *s;
    for (int i = 0; i < TOKENS; i++) tokens[i] = (i * 37 + 11) % 256;
    TRY(session_open(e, 0, &s, why));
    struct eval eval = {.tokens = tokens, .n = TOKENS};
    enum err code = session_eval(s, &eval, NULL, why);
    for (int i = 0; i < MORE && !code; i++) code = session_append(s, (i * 91 + 5) % 256, NULL, why);
    session_close(&s);
    return code;
}

static struct engine_options budgeted(const char *model, uint64_t mib, enum stream_kind stream) {
    return (struct engine_options){.model_path = model, .threads = 2, .ram_budget = mib * MIB, .kv_tokens = 1024, .stream = stream};
}

/* In a process of its own, started afresh: `test_limits --peak FILE EXTRA_MIB STREAM`. Finds the least budget, then keeps one of
 * EXTRA_MIB more. */
static int peak_main(const char *model, uint64_t extra_mib, enum stream_kind stream) {
    struct engine *e;
    struct reason why = {{0}};
    struct engine_io io;
    uint64_t least = 1;
    for (int tries = 0;; tries++) { /* each attempt leaves the process a little larger, so once is not always enough */
        const struct engine_options o = budgeted(model, least, STREAM_AUTO);
        const enum err code = engine_open(&o, &e, &why);
        if (code == ERR_NONE) break;
        const char *colon = strstr(why.text, "--ram-budget: ");
        const uint64_t missing = colon ? strtoull(colon + strlen("--ram-budget: "), NULL, 10) : 0;
        if (code != ERR_LIMIT || !missing || tries == 4) return complain("the least", why.text);
        least += missing;
    }
    engine_close(&e);
    struct engine_options o = budgeted(model, least - 1, stream);
    const char *missing = engine_open(&o, &e, &why) == ERR_LIMIT ? strstr(why.text, " MiB are missing") : NULL;
    if (!missing || (missing[-1] != '1' && missing[-1] != '2')) return complain("1 MiB less", why.text);
    const uint64_t budget = (least + extra_mib) * MIB;
    o = budgeted(model, least + extra_mib, stream);
    if (engine_open(&o, &e, &why) != ERR_NONE) return complain("open", why.text);
    if (work(e, &why) != ERR_NONE) return complain("work", why.text);
    for (int i = 0; i < 300; i++) { /* the background fills what slots there are */
        engine_get_io(e, &io);
        if (io.resident == io.slots) break;
        wait_ms(10);
    }
    engine_close(&e);
    printf("  budget %llu MiB, peak %.1f MiB, %u of %u experts\n", (unsigned long long)(budget / MIB), (double)peak_bytes() / MIB,
           io.resident, io.experts);
    fflush(stdout);
    if (peak_bytes() > budget) return complain("memory", "more than the budget");
    return io.resident == io.slots ? CHILD_OK : complain("memory", "not all slots were used");
}

static void stays_within_the_budget(void **state) {
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("  SKIP: a sanitizer's own memory is in the way\n");
    skip();
#endif
    struct synth_spec spec = tiny_model_spec();
    spec.layers = 8;
    spec.experts = 64;
    spec.experts_used = 4;
    spec.embd = 1024;
    spec.ff = 256;
    spec.heads = 16;
    spec.kv_heads = 4;
    spec.head_dim = 64;
    spec.vocab = 32000;
    spec.mix = "q4_k_m";
    char *model = tiny_model_write(&spec);
    struct stat s;
    assert_int_equal(stat(model, &s), 0);
    print_message("  a model of %.0f MiB\n", (double)s.st_size / MIB);
    static const char *const extra[] = {"2", "40", "150"}; /* 2: what the process grows by when it opens an engine again */
    static const char *const streams[] = {"0" /* STREAM_AUTO */, "2" /* STREAM_PREAD */};
    for (int i = 0; i < 6; i++) {
        fflush(NULL);
        const pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            execl("/proc/self/exe", "test_limits", "--peak", model, extra[i % 3], streams[i / 3], (char *)NULL);
            _exit(127);
        }
        int status = 0;
        while (waitpid(pid, &status, 0) < 0) assert_int_equal(errno, EINTR);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != CHILD_OK) {
            tiny_model_remove(model);
            fail_test("%s MiB more than the least: status %d", extra[i % 3], status);
        }
    }
    tiny_model_remove(model);
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "--peak") == 0)
        return peak_main(argv[2], strtoull(argv[3], NULL, 10), argv[4][0] == '0' ? STREAM_AUTO : STREAM_PREAD);
    if (argc > 1) cmocka_set_test_filter(argv[1]); /* one test alone */
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(files_change, no_differences),
                                       cmocka_unit_test_teardown(plays_without_io_uring, no_differences),
                                       cmocka_unit_test_teardown(plays_without_locked_memory, no_differences),
                                       cmocka_unit_test_teardown(plays_without_descriptors, no_differences),
                                       cmocka_unit_test_teardown(plays_from_memory_file, no_differences),
                                       cmocka_unit_test(stays_within_the_budget)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
