/* Measuring this machine: the probe as a function, the user's cache of its results, and the command from outside. Whether the
 * figures are right only a benchmark can say; here they must be there, add up, and not outlive a stop. */
#include "tests/support/check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/machine.h"
#include "engine/drive.h"
#include "engine/probe.h"

#define PROGRAM BUILD_DIR "/coldstream"
#define TINY TESTS_DIR "/golden/hf_tiny/hf_tiny.gguf"
#define LITTLE ((uint64_t)32 << 20)

static char folder[] = "/tmp/coldstream-probe-XXXXXX";
static char cache[sizeof folder + 32]; /* folder/coldstream/facts.json */

static int open_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(cache, sizeof cache, "%s/coldstream/facts.json", folder);
    return 0;
}

static int drop_cache(void **state) {
    (void)state;
    unlink(cache);
    return 0;
}

static int close_folder(void **state) {
    char path[sizeof folder + 16];
    drop_cache(state);
    snprintf(path, sizeof path, "%s/coldstream", folder);
    rmdir(path);
    return rmdir(folder); /* fails when something was left behind */
}

static struct facts *read_here(void) {
    struct facts *f = calloc(1, sizeof *f);
    struct reason why = {""};
    assert_non_null(f);
    if (facts_read(f, &why)) fail_test("%s", why.text);
    return f;
}

/* ---- the function ----------------------------------------------------------------------------------------------- */

static void expect_measured(const struct facts *f, unsigned threads) {
    assert_true(f->isa[0] && f->barrier_s > 0 && f->barrier_s < 1);
    assert_true(f->n_ram_rates >= 1 && f->ram_rates[0].threads == 1);
    assert_int_equal(f->ram_rates[f->n_ram_rates - 1].threads, threads);
    for (unsigned i = 0; i < f->n_ram_rates; i++) assert_true(f->ram_rates[i].bytes_per_s > 1e7);
    bool q4_k = false, f32 = false;
    for (unsigned i = 0; i < f->n_kernels; i++) {
        const struct facts_kernel *k = &f->kernels[i];
        q4_k |= strcmp(k->type, "q4_k") == 0;
        f32 |= strcmp(k->type, "f32") == 0;
        assert_int_equal(k->threads, threads);
        assert_true(k->decode_bytes_per_s > 1e6 && k->batch_macs_per_s > 1e6);
    }
    assert_true(q4_k && f32);
}

static const struct facts_drive *measured_drive(const struct facts *f) {
    const struct facts_drive *found = NULL;
    for (unsigned i = 0; i < f->n_drives; i++)
        if (f->drives[i].n_rates) {
            assert_null(found);
            found = &f->drives[i];
        }
    return found;
}

static void a_probe_fills_the_facts(void **state) {
    (void)state;
    static const enum stream_kind kinds[] = {STREAM_AUTO, STREAM_PREAD};
    for (unsigned i = 0; i < 2; i++) {
        struct facts *f = read_here();
        struct reason why = {""};
        const struct probe_options o = {
            .model_path = TINY, .threads = i + 1, .seconds = 0.05, .most_bytes = LITTLE, .stream = kinds[i]};
        const uint64_t before = facts_fingerprint(f);
        if (probe_run(&o, f, &why)) fail_test("%s", why.text);
        expect_measured(f, i + 1);
        const struct facts_drive *d = measured_drive(f);
        assert_true(d && d->name[0] && d->n_rates >= 3);
        for (unsigned k = 0; k < d->n_rates; k++) {
            assert_true(d->rates[k].bytes_per_s > 1e4 && d->rates[k].latency_s > 0 && d->rates[k].latency_s < 100);
            assert_true(d->rates[k].request_bytes <= 325120 && d->rates[k].request_bytes % 4096 == 0);
        }
        assert_true(facts_fingerprint(f) == before); /* also when the drive had to be added */
        free(f);
    }
}

static void without_a_file_no_drive_is_measured(void **state) {
    (void)state;
    struct facts *f = read_here();
    const struct probe_options o = {.seconds = 0.02, .most_bytes = LITTLE, .isa = "ref"};
    assert_int_equal(probe_run(&o, f, NULL), ERR_NONE);
    assert_null(measured_drive(f));
    assert_string_equal(f->kernels[0].isa, "ref");
    free(f);
}

struct countdown {
    int polls, polls_before; /* left; when the part now measured was entered */
    double share;
    char what[32];
};

static bool stop_at_zero(void *ctx) { return --((struct countdown *)ctx)->polls < 0; }

static void note(void *ctx, const char *what, double share) {
    struct countdown *c = ctx;
    assert_true(share >= c->share && share <= 1.0001);
    c->share = share;
    c->polls_before = c->polls;
    snprintf(c->what, sizeof c->what, "%s", what);
}

/* Wherever it is stopped, it stops, and nothing is left. */
static void a_stop_ends_it_anywhere(void **state) {
    (void)state;
    struct facts *f = read_here();
    int steps = 0, stopped = 0;
    enum err code = ERR_CANCELLED;
    for (int polls = 0; code == ERR_CANCELLED; polls += 1 + polls / 2) {
        struct countdown c = {.polls = polls};
        struct reason why = {""};
        const struct probe_options o = {.model_path = TINY,
                                        .threads = 1 + (unsigned)steps % 2,
                                        .seconds = 0.02,
                                        .most_bytes = LITTLE,
                                        .should_stop = stop_at_zero,
                                        .on_progress = note,
                                        .ctx = &c};
        code = probe_run(&o, f, &why);
        steps++;
        stopped += code == ERR_CANCELLED;
        if (code == ERR_CANCELLED)
            assert_true(c.polls == -1 && why.text[0]);
        else
            assert_true(strcmp(c.what, "drive") == 0 && c.polls < c.polls_before - 3);
    }
    assert_int_equal(code, ERR_NONE);
    assert_true(steps > 5 && stopped == steps - 1);
    free(f);
}

static void what_cannot_be_measured_is_named(void **state) {
    (void)state;
    char empty[sizeof folder + 16];
    snprintf(empty, sizeof empty, "%s/empty", folder);
    close(open(empty, O_CREAT | O_WRONLY, 0600));
    const struct {
        struct probe_options o;
        enum err code;
        const char *part;
    } cases[] = {
        {{.model_path = "/nonexistent/m.gguf"}, ERR_IO, "/nonexistent/m.gguf"},
        {{.model_path = folder}, ERR_ARGUMENT, "not a regular file"},
        {{.model_path = "/dev/null"}, ERR_ARGUMENT, "not a regular file"},
        {{.model_path = empty}, ERR_ARGUMENT, "too few"},
        {{.isa = "sse"}, ERR_ARGUMENT, "--isa sse"},
        {{.threads = 5000}, ERR_ARGUMENT, "5000 threads"},
        {{.most_bytes = 1 << 20}, ERR_LIMIT, "32 MiB"},
    };
    struct facts *f = read_here();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct reason why = {""};
        struct probe_options o = cases[i].o;
        o.seconds = 0.01;
        if (!o.most_bytes) o.most_bytes = LITTLE;
        assert_int_equal(probe_run(&o, f, &why), cases[i].code);
        if (!strstr(why.text, cases[i].part)) fail_test("'%s' does not hold '%s'", why.text, cases[i].part);
    }
    free(f);
    unlink(empty);
}

static void files_have_drives(void **state) {
    (void)state;
    struct drive_id id;
    int fd = open(TINY, O_RDONLY);
    drive_of_file(fd, &id);
    close(fd);
    assert_true(id.name[0]);
    drive_of_file(-1, &id);
    assert_string_equal(id.name, "unknown");
    fd = open("/proc/self/status", O_RDONLY); /* no block device: the file system's type */
    drive_of_file(fd, &id);
    close(fd);
    assert_string_equal(id.name, "proc");
}

/* ---- the cache -------------------------------------------------------------------------------------------------- */

struct harness {
    struct cli cli;
    struct options options;
    struct text log;
};

static void keep_line(void *ctx, enum log_level level, const char *line) {
    struct harness *h = ctx;
    text_addf(&h->log, "%d %s\n", level, line);
}

static void set_up(struct harness *h) {
    *h = (struct harness){
        .options = {.verb = VERB_PROBE, .cache_home = folder, .seconds = 0.02, .ram_budget = LITTLE, .direct_io = true}};
    h->cli = (struct cli){.options = &h->options, .log = {keep_line, h, LOG_DEBUG}};
}

static void expect_unmeasured(struct harness *h, const char *part) {
    struct facts *f;
    struct reason why = {""};
    text_clear(&h->log);
    assert_int_equal(cli_load_facts(&h->cli, TINY, false, &f, &why), ERR_NONE);
    assert_true(f->n_cores >= 1 && f->n_kernels == 0 && f->n_ram_rates == 0);
    assert_non_null(strstr(h->log.ptr, "run: coldstream probe -m " TINY));
    if (!strstr(h->log.ptr, part)) fail_test("'%s' does not hold '%s'", h->log.ptr, part);
    free(f);
}

static void the_cache_is_made_read_and_distrusted(void **state) {
    (void)state;
    struct harness h;
    struct facts *f, *again;
    struct reason why = {""};
    set_up(&h);
    expect_unmeasured(&h, "not been measured yet");

    assert_int_equal(cli_load_facts(&h.cli, NULL, true, &f, &why), ERR_NONE); /* measures, and keeps it */
    expect_measured(f, f->n_cores);
    assert_int_equal(cli_load_facts(&h.cli, NULL, false, &again, &why), ERR_NONE);
    assert_int_equal(again->n_kernels, f->n_kernels);
    assert_memory_equal(again->kernels, f->kernels, sizeof f->kernels);
    assert_memory_equal(again->ram_rates, f->ram_rates, sizeof f->ram_rates);
    assert_true(again->barrier_s == f->barrier_s && strcmp(again->isa, f->isa) == 0);
    free(again);

    text_clear(&h.log);
    assert_int_equal(cli_load_facts(&h.cli, TINY, false, &again, &why), ERR_NONE);
    assert_non_null(strstr(h.log.ptr, "drive of this model has not been measured"));
    free(again);

    strcpy(f->cpu, "another");
    assert_int_equal(machine_write(cache, f, &why), ERR_NONE);
    expect_unmeasured(&h, "hardware changed");
    FILE *bad = fopen(cache, "w");
    fputs("{\"coldstream_facts\": 7}", bad);
    fclose(bad);
    expect_unmeasured(&h, "cannot be read");
    assert_non_null(strstr(h.log.ptr, "version 7"));
    free(f);
    text_free(&h.log);
}

static void measurements_with_and_without_a_drive_add_up(void **state) {
    (void)state;
    struct harness h;
    struct facts *f;
    struct reason why = {""};
    set_up(&h);
    assert_int_equal(machine_measure(&h.cli, TINY, &f, &why), ERR_NONE);
    const struct facts_drive *d = measured_drive(f);
    assert_non_null(d);
    assert_int_equal(machine_drive_of(f, TINY), d - f->drives);
    assert_int_equal(machine_drive_of(f, "/proc/self/status"), f->n_drives);
    const double rate = d->rates[0].bytes_per_s, ram = f->ram_rates[0].bytes_per_s;
    assert_int_equal(machine_write(cache, f, &why), ERR_NONE);
    free(f);
    assert_int_equal(machine_measure(&h.cli, NULL, &f, &why), ERR_NONE);
    assert_true(measured_drive(f) && measured_drive(f)->rates[0].bytes_per_s == rate); /* kept */
    assert_true(f->ram_rates[0].bytes_per_s != ram);                                   /* measured anew */
    free(f);
    assert_int_equal(cli_load_facts(&h.cli, TINY, false, &f, &why), ERR_NONE);
    assert_true(!h.log.ptr || !strstr(h.log.ptr, "has not been measured"));
    free(f);
    text_free(&h.log);
}

static void machine_files_are_read_by_name(void **state) {
    (void)state;
    struct facts *f;
    struct reason why = {""};
    assert_int_equal(machine_read("/nonexistent.json", &f, &why), ERR_IO);
    assert_null(f);
    assert_int_equal(machine_read(TINY, &f, &why), ERR_FORMAT);
    assert_non_null(strstr(why.text, "hf_tiny.gguf: "));
    assert_int_equal(machine_read(TESTS_DIR "/machines/rtx4060ti-16g.json", &f, &why), ERR_NONE);
    assert_int_equal(f->n_gpus, 1);
    free(f);
}

/* ---- the command ------------------------------------------------------------------------------------------------ */

struct result {
    int status;
    char out[16384], err[4096];
};

static void read_all(int fd, char *to, size_t size) {
    size_t n = 0;
    for (ssize_t got; n + 1 < size && (got = read(fd, to + n, size - 1 - n)) > 0;) n += (size_t)got;
    to[n] = 0;
    close(fd);
}

/* The program with `setting` as its whole environment. */
static void run(struct result *r, const char *setting, const char *const *flags) {
    char *words[24] = {(char *)PROGRAM, (char *)"probe", (char *)"--seconds=0.02", (char *)"--ram-budget=32M"};
    char *environment[] = {(char *)setting, NULL};
    int out[2], err[2], status;
    for (size_t i = 0; flags[i]; i++) words[4 + i] = (char *)flags[i];
    assert_true(pipe(out) == 0 && pipe(err) == 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(out[1], 1);
        dup2(err[1], 2);
        for (int i = 0; i < 2; i++) close(out[i]), close(err[i]);
        execve(PROGRAM, words, environment);
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    read_all(out[0], r->out, sizeof r->out); /* stderr is short: it fits its pipe */
    read_all(err[0], r->err, sizeof r->err);
    assert_int_equal(waitpid(child, &status, 0), child);
    r->status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#define RUN(r, setting, ...) run(r, setting, (const char *const[]){__VA_ARGS__, NULL})

static void the_command_shows_and_keeps(void **state) {
    (void)state;
    struct result r;
    struct facts *f;
    struct stat info;
    char setting[64], line[128];
    snprintf(setting, sizeof setting, "XDG_CACHE_HOME=%s", folder);
    snprintf(line, sizeof line, "kept in   %s\n", cache);
    RUN(&r, setting, "-m", TINY, "--log-verbosity=1");
    assert_int_equal(r.status, 0);
    assert_string_equal(r.err, "");
    assert_non_null(strstr(r.out, "q4_k"));
    assert_non_null(strstr(r.out, "GB/s 24 deep"));
    assert_non_null(strstr(r.out, line));
    assert_int_equal(stat(cache, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(machine_read(cache, &f, NULL), ERR_NONE);
    expect_measured(f, f->n_cores);
    free(f);

    snprintf(setting, sizeof setting, "HOME=%s", folder); /* elsewhere: folder/.cache */
    RUN(&r, setting, "-o", "-", "-t", "1");
    assert_int_equal(r.status, 0);
    f = calloc(1, sizeof *f);
    assert_int_equal(facts_parse(span_of(r.out), f, NULL), ERR_NONE); /* and nothing else on stdout */
    expect_measured(f, 1);
    assert_null(measured_drive(f));
    free(f);

    char path[sizeof folder + 32];
    snprintf(path, sizeof path, "%s/mine.json", folder);
    RUN(&r, setting, "-o", path);
    assert_int_equal(r.status, 0);
    assert_int_equal(machine_read(path, &f, NULL), ERR_NONE);
    free(f);
    unlink(path);
    snprintf(path, sizeof path, "%s/.cache", folder);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void the_command_says_what_went_wrong(void **state) {
    (void)state;
    struct result r;
    RUN(&r, "A=B", "--log-verbosity=2");
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.err, "not kept"));
    RUN(&r, "A=B", "-o", "/proc/nonexistent/facts.json", "--log-verbosity=1");
    assert_int_equal(r.status, 1);
    assert_string_equal(r.out, "");
    assert_non_null(strstr(r.err, "coldstream: /proc/nonexistent"));
    RUN(&r, "A=B", "-m", "/nonexistent/m.gguf", "--log-verbosity=1");
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.err, "coldstream: /nonexistent/m.gguf"));
    RUN(&r, "A=B", "--seconds=0");
    assert_int_equal(r.status, 2);
    RUN(&r, "A=B", "-p", "x");
    assert_int_equal(r.status, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_probe_fills_the_facts),
        cmocka_unit_test(without_a_file_no_drive_is_measured),
        cmocka_unit_test(a_stop_ends_it_anywhere),
        cmocka_unit_test(what_cannot_be_measured_is_named),
        cmocka_unit_test(files_have_drives),
        cmocka_unit_test_teardown(the_cache_is_made_read_and_distrusted, drop_cache),
        cmocka_unit_test_teardown(measurements_with_and_without_a_drive_add_up, drop_cache),
        cmocka_unit_test(machine_files_are_read_by_name),
        cmocka_unit_test_teardown(the_command_shows_and_keeps, drop_cache),
        cmocka_unit_test(the_command_says_what_went_wrong),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
