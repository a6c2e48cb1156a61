/* Groups of ranges: what fetch.c does about every answer a stream can give, checked byte by byte on files whose content is
 * known; and what it does where the system denies things. */
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/fetch.h"
#include "tests/support/child.h"
#include "tests/support/faulty_stream.h"
#include "tests/support/pattern_file.h"

enum { GROUPS = 12, LARGEST = 200 << 10, FILES = 2 };

#define SECOND ((uint64_t)1000000000u)
#define MS ((uint64_t)1000000u)
#define ROOM fetch_room(LARGEST)

static const uint64_t file_bytes[FILES] = {(3 << 20) + 3296, (1 << 20) + 17};

/* ---- fixture: two files, a model of them, memory, a fault plan ---------------------------------------------------- */

static struct pattern_file files[FILES];
static struct model model;
static struct faulty faulty;
static struct fetch *fetch;
static uint8_t *memory; /* GROUPS * FETCH_EXTENTS places of ROOM bytes */
static struct text logged;

static void keep_line(void *ctx, enum log_level level, const char *line) {
    (void)level;
    text_addf(ctx, "%s\n", line);
}

static int setup(void **state) {
    (void)state;
    struct reason why;
    for (uint32_t i = 0; i < FILES; i++) pattern_make(&files[i], NULL, file_bytes[i], i + 1);
    pattern_open_model(files, FILES, &model);
    faulty_init(&faulty, 42);
    void *place;
    if (pages_alloc(GROUPS * FETCH_EXTENTS * ROOM, &place, &why)) fail_test("%s", why.text);
    memory = place;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fetch_close(&fetch);
    pattern_close_model(&model);
    for (uint32_t i = 0; i < FILES; i++) pattern_remove(&files[i]);
    faulty_free(&faulty);
    pages_free(memory, GROUPS * FETCH_EXTENTS * ROOM);
    text_free(&logged);
    return 0;
}

static struct fetch_options options_for(enum stream_kind kind) {
    return (struct fetch_options){.kind = kind, .groups = GROUPS, .threads = 3, .log = {keep_line, &logged, LOG_INFO}};
}

/* False, with a note, where io_uring is denied. */
static bool open_with(struct fetch_options o) {
    struct reason why = {{0}};
    fetch_close(&fetch);
    text_clear(&logged);
    const enum err code = fetch_open(&model, &o, &fetch, &why);
    if (code == ERR_UNSUPPORTED && o.kind == STREAM_URING) {
        print_message("  SKIP io_uring: %s\n", why.text);
        return false;
    }
    if (code) fail_test("%s", why.text);
    return true;
}

static bool open_faulty(enum stream_kind kind, uint64_t patience_ns) {
    struct fetch_options o = options_for(kind);
    o.wrap = faulty_wrap;
    o.wrap_ctx = &faulty;
    o.patience_ns = patience_ns;
    faulty_clear(&faulty);
    return open_with(o);
}

static void *place_of(unsigned place, unsigned extent) { return memory + (place * FETCH_EXTENTS + extent) * ROOM; }

static struct fetch_group random_group(uint64_t *seed, unsigned place) {
    struct fetch_group g = {.n = 1 + (uint32_t)pattern_random(seed, FETCH_EXTENTS), .tag = place};
    for (uint32_t i = 0; i < g.n; i++) {
        const uint32_t file = (uint32_t)pattern_random(seed, FILES);
        uint64_t offset = pattern_random(seed, file_bytes[file]), bytes = 1 + pattern_random(seed, LARGEST);
        if (bytes > file_bytes[file] - offset) bytes = file_bytes[file] - offset; /* often: up to the very end */
        g.extents[i] = (struct extent){file, offset, bytes, place_of(place, i)};
    }
    return g;
}

static uint64_t group_bytes(const struct fetch_group *g) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < g->n; i++) sum += g->extents[i].bytes;
    return sum;
}

static void expect_bytes(const struct fetch_group *g) {
    for (uint32_t i = 0; i < g->n; i++) {
        const struct extent *x = &g->extents[i];
        const uint8_t *at = (const uint8_t *)x->to + x->offset % FETCH_ALIGN;
        if (!pattern_matches(&files[x->file], at, x->bytes, x->offset))
            fail_test("file %u offset %llu: wrong bytes", x->file, (unsigned long long)x->offset);
    }
}

/* `total` random groups, as many in flight as possible. Returns how many failed; each that did not is compared. */
static unsigned run_groups(unsigned total, uint64_t seed) {
    struct fetch_group groups[GROUPS];
    bool used[GROUPS] = {false};
    unsigned started = 0, ended = 0, failed = 0;
    uint64_t good_bytes = 0;
    struct fetch_counters before, after;
    fetch_count(fetch, &before);
    while (ended < total) {
        for (unsigned i = 0; i < GROUPS && started < total; i++) {
            if (used[i]) continue;
            groups[i] = random_group(&seed, i);
            memset(place_of(i, 0), 0xAA, FETCH_EXTENTS * ROOM);
            assert_true(fetch_free(fetch) > 0);
            fetch_start(fetch, &groups[i]);
            used[i] = true;
            started++;
        }
        fetch_send(fetch);
        assert_int_equal(fetch_busy(fetch), started - ended);
        struct fetch_done done[3];
        const unsigned n = fetch_poll(fetch, done, 3, 30 * SECOND);
        assert_in_range(n, 1, 3);
        for (unsigned i = 0; i < n; i++) {
            assert_true(used[done[i].tag]);
            used[done[i].tag] = false;
            assert_false(done[i].lent);
            assert_int_equal(done[i].bytes, group_bytes(&groups[done[i].tag]));
            if (done[i].code) {
                failed++;
                continue;
            }
            expect_bytes(&groups[done[i].tag]);
            good_bytes += done[i].bytes;
        }
        ended += n;
    }
    assert_int_equal(fetch_busy(fetch), 0);
    assert_int_equal(fetch_free(fetch), GROUPS);
    fetch_count(fetch, &after);
    assert_int_equal(after.groups - before.groups, total - failed);
    assert_int_equal(after.failures - before.failures, failed);
    assert_int_equal(after.bytes - before.bytes, good_bytes);
    assert_true(after.busy_ns > before.busy_ns);
    return failed;
}

/* One group of one range; its report. */
static struct fetch_done run_one(uint32_t file, uint64_t offset, uint64_t bytes) {
    const struct fetch_group g = {{{file, offset, bytes, memory}}, 1, 77};
    struct fetch_done done = {0};
    fetch_start(fetch, &g);
    assert_int_equal(fetch_poll(fetch, &done, 1, 30 * SECOND), 1);
    assert_int_equal(done.tag, 77);
    if (!done.code) expect_bytes(&g);
    return done;
}

static void expect_failure(const struct fetch_done *done, uint32_t file, const char *offset, const char *what) {
    assert_int_equal(done->code, ERR_IO);
    if (!strstr(done->why->text, files[file].path) || !strstr(done->why->text, offset) || !strstr(done->why->text, what))
        fail_test("'%s' should name %s, %s and %s", done->why->text, files[file].path, offset, what);
}

static const enum stream_kind both[] = {STREAM_URING, STREAM_PREAD};

/* ---- all is well ------------------------------------------------------------------------------------------------ */

static void brings_groups(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        for (int cached = 0; cached < 2; cached++) {
            struct fetch_options o = options_for(both[k]);
            o.no_direct_io = cached;
            if (!open_with(o)) continue;
            assert_string_equal(fetch_backend(fetch), k ? "pread" : "io_uring");
            if (cached) assert_false(fetch_direct(fetch));
            assert_int_equal(run_groups(150, 1), 0);
        }
    }
}

static void picks_a_backend(void **state) {
    (void)state;
    assert_true(open_with(options_for(STREAM_AUTO)));
    assert_int_equal(run_groups(20, 2), 0);
    print_message("  here: %s, %s\n", fetch_backend(fetch), fetch_direct(fetch) ? "O_DIRECT" : "page cache");
    struct fetch_options cached = options_for(STREAM_AUTO);
    cached.no_direct_io = true;
    assert_true(open_with(cached));
    assert_string_equal(fetch_backend(fetch), "pread"); /* a ring would copy cached pages on the submitting thread */
}

static void reads_edges(void **state) {
    (void)state;
    assert_true(open_with(options_for(STREAM_AUTO)));
    static const struct {
        uint64_t offset, bytes;
    } cases[] = {
        {0, 1},
        {0, 4096},
        {4095, 1},
        {4095, 2},
        {4096, 4096},
        {1, LARGEST - 1},
        {(3 << 20) + 3295, 1},
        {(3 << 20), 3296},
        {(3 << 20) - 1, 3297},
        {8191, 4098},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        /* nothing beyond fetch_room() may be touched */
        uint8_t *canary = memory + fetch_room(cases[i].bytes);
        memset(canary, 0x5A, 4096);
        const struct fetch_done done = run_one(0, cases[i].offset, cases[i].bytes);
        assert_int_equal(done.code, ERR_NONE);
        for (int k = 0; k < 4096; k++) assert_int_equal(canary[k], 0x5A);
    }
}

static void sends_only_when_told(void **state) {
    (void)state;
    assert_true(open_faulty(STREAM_AUTO, 0));
    uint64_t seed = 5;
    unsigned extents = 0;
    for (unsigned i = 0; i < GROUPS; i++) {
        const struct fetch_group g = random_group(&seed, i);
        extents += g.n;
        fetch_start(fetch, &g);
    }
    assert_int_equal(fetch_free(fetch), 0);
    assert_int_equal(faulty_requests(&faulty), 0);
    fetch_send(fetch);
    assert_int_equal(faulty_requests(&faulty), extents); /* one read a range */
    struct fetch_done done[GROUPS];
    for (unsigned n = 0; n < GROUPS;) n += fetch_poll(fetch, done, GROUPS, 30 * SECOND);
    assert_int_equal(faulty_requests(&faulty), extents);
    const uint64_t begin = clock_ns();
    assert_int_equal(fetch_poll(fetch, done, 1, 5 * SECOND), 0); /* nothing busy: does not wait */
    assert_true(clock_ns() - begin < SECOND);
}

static void closes_while_busy(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        if (!open_with(options_for(both[k]))) continue;
        uint64_t seed = 9;
        for (unsigned i = 0; i < GROUPS; i++) {
            const struct fetch_group g = random_group(&seed, i);
            fetch_start(fetch, &g);
        }
        fetch_send(fetch);
        fetch_close(&fetch);
        memset(memory, 0x11, GROUPS * FETCH_EXTENTS * ROOM);
        usleep(2000);
        for (size_t i = 0; i < GROUPS * FETCH_EXTENTS * ROOM; i += 512) assert_int_equal(memory[i], 0x11);
    }
}

/* ---- faults ----------------------------------------------------------------------------------------------------- */

/* Each of these is cured by trying again, so that no group fails and every byte is right. */
static void survives_what_passes(void **state) {
    (void)state;
    static const struct {
        const char *what;
        struct fault_rule rule;
    } cases[] = {
        {"short reads", {.kind = FAULT_SHORT, .probability = 0.5}},
        {"short reads of 1 byte", {.kind = FAULT_SHORT, .probability = 0.3, .bytes = 1}},
        {"short reads of 512 bytes", {.kind = FAULT_SHORT, .probability = 0.7, .bytes = 512}},
        {"short reads of a page", {.kind = FAULT_SHORT, .probability = 0.7, .bytes = 4096}},
        {"EINTR", {.kind = FAULT_ERROR, .error = EINTR, .probability = 0.3}},
        {"EAGAIN", {.kind = FAULT_ERROR, .error = EAGAIN, .probability = 0.3}},
        {"ECANCELED", {.kind = FAULT_ERROR, .error = ECANCELED, .probability = 0.1}},
        {"EINVAL", {.kind = FAULT_ERROR, .error = EINVAL, .from = 40, .count = 1}},
        {"delays", {.kind = FAULT_DELAY, .delay_ns = 3 * MS, .probability = 0.3}},
        {"one EIO", {.kind = FAULT_ERROR, .error = EIO, .from = 17, .count = 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int k = 0; k < 2; k++) {
            if (!open_faulty(both[k], 0)) continue;
            faulty_add(&faulty, cases[i].rule);
            if (run_groups(60, 100 + i) != 0) fail_test("%s: a group failed", cases[i].what);
            if (!faulty_faults(&faulty)) fail_test("%s: nothing was injected", cases[i].what);
            struct fetch_counters c;
            fetch_count(fetch, &c);
            assert_int_equal(c.requests, faulty_requests(&faulty));
            if (cases[i].rule.kind == FAULT_SHORT) {
                assert_true(c.short_reads > 0);
                assert_int_equal(c.retries, 0); /* an unaligned rest is not even tried with O_DIRECT */
            }
            if (cases[i].rule.kind == FAULT_ERROR) assert_int_equal(c.retries, faulty_faults(&faulty));
        }
    }
}

static void survives_a_mixture(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        assert_true(open_faulty(both[seed % 2] == STREAM_URING ? STREAM_AUTO : STREAM_PREAD, 0));
        faulty.seed = seed;
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_SHORT, .probability = 0.2});
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EAGAIN, .probability = 0.1});
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EINTR, .probability = 0.1});
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EIO, .probability = 0.2, .delay_ns = MS / 2});
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_END, .probability = 0.01});
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = MS, .probability = 0.2});
        const unsigned failed = run_groups(80, seed); /* some do: what did not is compared */
        assert_true(failed < 40);
    }
}

static void believes_a_bad_sector(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        if (!open_faulty(both[k], 0)) continue;
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EIO, .bad_sector = true, .count = 1});
        struct fetch_done done = run_one(0, 123456, 100000);
        expect_failure(&done, 0, "offset 122880", strerror(EIO));
        assert_int_equal(faulty_requests(&faulty), FETCH_EIO_TRIES);
        done = run_one(0, 1 << 20, 100000); /* elsewhere all is well */
        assert_int_equal(done.code, ERR_NONE);
        done = run_one(0, 200000, 10);
        expect_failure(&done, 0, "offset 196608", strerror(EIO));
    }
}

/* A range fails while its neighbours fly: the report waits for them, so that the memory is free with it. */
static void waits_for_the_rest_of_a_failed_group(void **state) {
    (void)state;
    assert_true(open_faulty(STREAM_AUTO, 0));
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = ENXIO, .count = 1});
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = 300 * MS, .count = 3});
    const struct fetch_group g = {
        {{0, 0, 5000, place_of(0, 0)}, {1, 0, 5000, place_of(0, 1)}, {0, 9000, 5000, place_of(0, 2)}}, 3, 3};
    struct fetch_done done;
    const uint64_t begin = clock_ns();
    fetch_start(fetch, &g);
    assert_int_equal(fetch_poll(fetch, &done, 1, 20 * MS), 0);
    assert_int_equal(fetch_poll(fetch, &done, 1, 30 * SECOND), 1);
    assert_true(clock_ns() - begin >= 300 * MS);
    expect_failure(&done, 0, "offset 0", strerror(ENXIO));
    assert_false(done.lent);
    assert_int_equal(fetch_busy(fetch), 0);
}

/* A range waits to be tried again while another one of its group fails for good: it is forgotten. */
static void drops_what_a_failed_group_had_waiting(void **state) {
    (void)state;
    assert_true(open_faulty(STREAM_AUTO, 0));
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EIO, .count = 1});
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = ENXIO, .from = 1, .count = 1});
    const struct fetch_group g = {{{0, 0, 5000, place_of(0, 0)}, {1, 0, 5000, place_of(0, 1)}}, 2, 3};
    struct fetch_done done;
    fetch_start(fetch, &g);
    assert_int_equal(fetch_poll(fetch, &done, 1, 30 * SECOND), 1);
    expect_failure(&done, 1, "offset 0", strerror(ENXIO));
    usleep(10000);
    assert_int_equal(fetch_busy(fetch), 0);
    fetch_send(fetch);
    assert_int_equal(faulty_requests(&faulty), 2);
    assert_int_equal(run_groups(20, 12), 0);
}

static void every_single_failure(void **state) {
    (void)state;
    for (uint64_t nth = 0; nth < 30; nth++) {
        assert_true(open_faulty(nth % 2 ? STREAM_AUTO : STREAM_PREAD, 0));
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = nth % 3 ? EIO : EPERM, .from = nth, .count = 1});
        assert_int_equal(run_groups(15, nth), nth % 3 ? 0 : 1); /* EIO may pass; EPERM is final */
    }
}

static void repeats_only_so_long(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_true(open_faulty(STREAM_AUTO, 100 * MS));
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = i ? EINTR : EAGAIN});
        const uint64_t begin = clock_ns();
        const struct fetch_done done = run_one(1, 5000, 50000);
        const uint64_t took = clock_ns() - begin;
        expect_failure(&done, 1, "offset 4096", strerror(i ? EINTR : EAGAIN));
        assert_true(took < 5 * SECOND);
        assert_in_range(faulty_requests(&faulty), 5, 40); /* with pauses between them */
    }
}

/* No answer: reported once as failed with its memory lent, later as free. */
static void lends_memory_of_stalled_groups(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        if (!open_faulty(both[k], 200 * MS)) continue;
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = 700 * MS, .from = 1, .count = 1});
        const struct fetch_group g = {{{0, 0, 9000, place_of(0, 0)}, {0, 30000, 9000, place_of(0, 1)}}, 2, 1};
        struct fetch_done done;
        const uint64_t begin = clock_ns();
        fetch_start(fetch, &g);
        assert_int_equal(fetch_poll(fetch, &done, 1, 30 * SECOND), 1);
        assert_true(clock_ns() - begin >= 200 * MS);
        expect_failure(&done, 0, "offset 28672", "no answer");
        assert_true(done.lent);
        assert_int_equal(fetch_busy(fetch), 1);
        assert_int_equal(fetch_free(fetch), GROUPS - 1);
        /* others go on meanwhile */
        const struct fetch_group other = {{{1, 100, 9000, place_of(1, 0)}}, 1, 2};
        fetch_start(fetch, &other);
        assert_int_equal(fetch_poll(fetch, &done, 1, 30 * SECOND), 1);
        assert_int_equal(done.tag, 2);
        assert_int_equal(done.code, ERR_NONE);
        expect_bytes(&other);
        assert_int_equal(fetch_poll(fetch, &done, 1, 30 * SECOND), 1);
        assert_true(clock_ns() - begin >= 700 * MS);
        assert_int_equal(done.tag, 1);
        assert_int_equal(done.code, ERR_CANCELLED);
        assert_false(done.lent);
        assert_int_equal(fetch_busy(fetch), 0);
        struct fetch_counters c;
        fetch_count(fetch, &c);
        assert_int_equal(c.failures, 1);
        assert_int_equal(run_groups(30, 8), 0); /* the entry is as good as new */
    }
}

/* Time during which nobody looked does not count against a read that was answered. */
static void is_patient_with_its_owner(void **state) {
    (void)state;
    assert_true(open_faulty(STREAM_AUTO, 300 * MS));
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EAGAIN, .count = 1});
    const struct fetch_group g = {{{0, 0, 9000, memory}}, 1, 1};
    struct fetch_done done;
    fetch_start(fetch, &g);
    fetch_send(fetch);
    usleep(400000);
    assert_int_equal(fetch_poll(fetch, &done, 1, 30 * SECOND), 1);
    assert_int_equal(done.code, ERR_NONE);
}

/* A stall whose reads end before anybody took the report is no loan any more. */
static void forgets_loans_nobody_saw(void **state) {
    (void)state;
    assert_true(open_faulty(STREAM_AUTO, 50 * MS));
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_END, .delay_ns = 400 * MS, .count = 2});
    for (unsigned i = 0; i < 2; i++) {
        const struct fetch_group g = {{{0, 0, 9000, place_of(i, 0)}}, 1, i};
        fetch_start(fetch, &g);
    }
    struct fetch_done done;
    assert_int_equal(fetch_poll(fetch, &done, 1, SECOND), 1);
    assert_true(done.lent);
    usleep(420000);
    const uint64_t seen = done.tag;
    for (unsigned reports = 0; reports < 2; reports++) {
        assert_int_equal(fetch_poll(fetch, &done, 1, SECOND), 1);
        assert_int_equal(done.code, done.tag == seen ? ERR_CANCELLED : ERR_IO);
        assert_false(done.lent);
    }
    assert_int_equal(fetch_busy(fetch), 0);
}

static void uses_the_page_cache_when_refused(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        if (!open_faulty(both[k], 0)) continue;
        if (!fetch_direct(fetch)) {
            print_message("  SKIP: no O_DIRECT in this folder\n");
            skip();
        }
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EINVAL, .count = 1});
        struct fetch_done done = run_one(0, 5000, 100000);
        assert_int_equal(done.code, ERR_NONE);
        assert_false(fetch_direct(fetch)); /* the very first read was refused: the file system does not mean it */
        assert_non_null(strstr(logged.ptr, "page cache"));
        assert_non_null(strstr(logged.ptr, files[0].path));
        faulty_clear(&faulty);
        assert_int_equal(run_groups(30, 3), 0);
        /* refused by the page cache, too: an error */
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EINVAL});
        done = run_one(0, 5000, 100000);
        expect_failure(&done, 0, "offset 4096", strerror(EINVAL));
    }
}

/* ---- files that change ------------------------------------------------------------------------------------------ */

static void notices_changed_files(void **state) {
    (void)state;
    struct reason why = {{0}};
    assert_true(open_with(options_for(STREAM_AUTO)));
    assert_int_equal(fetch_check_files(fetch, &why), ERR_NONE);
    /* replaced under its name: what is open stays what it was */
    assert_int_equal(unlink(files[1].path), 0);
    const int fd = open(files[1].path, O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, "new", 3), 3);
    close(fd);
    assert_int_equal(fetch_check_files(fetch, &why), ERR_NONE);
    assert_int_equal(run_groups(30, 4), 0);
    /* written to */
    const struct timespec times[2] = {{1000000000, 0}, {1000000000, 5}};
    assert_int_equal(utimensat(AT_FDCWD, files[0].path, times, 0), 0);
    assert_int_equal(fetch_check_files(fetch, &why), ERR_IO);
    assert_non_null(strstr(why.text, files[0].path));
    /* cut */
    assert_int_equal(truncate(files[0].path, 1000001), 0);
    assert_int_equal(fetch_check_files(fetch, &why), ERR_IO);
    assert_non_null(strstr(why.text, "1000001"));
}

static void reports_a_cut_file(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        for (int cached = 0; cached < 2; cached++) {
            struct fetch_options o = options_for(both[k]);
            o.no_direct_io = cached;
            if (!open_with(o)) continue;
            assert_int_equal(truncate(files[0].path, 1000001), 0);
            struct fetch_done done = run_one(0, 900000, 200000);
            expect_failure(&done, 0, "offset 1000001", "the file ends");
            done = run_one(0, 2000000, 100);
            expect_failure(&done, 0, "offset 1998848", "the file ends");
            done = run_one(0, 900001, 100000); /* what is left can be read */
            assert_int_equal(done.code, ERR_NONE);
            /* back to its content for the next round */
            pattern_close_model(&model);
            pattern_remove(&files[0]);
            pattern_make(&files[0], NULL, file_bytes[0], 1);
            fetch_close(&fetch);
            pattern_open_model(files, FILES, &model);
        }
    }
}

static void reads_from_memory_file(void **state) {
    (void)state;
    if (access("/dev/shm", W_OK) != 0) skip();
    pattern_close_model(&model);
    for (uint32_t i = 0; i < FILES; i++) {
        pattern_remove(&files[i]);
        pattern_make(&files[i], "/dev/shm", file_bytes[i], i + 1);
    }
    pattern_open_model(files, FILES, &model);
    for (int k = 0; k < 2; k++) {
        if (!open_with(options_for(both[k]))) continue;
        assert_int_equal(run_groups(60, 6), 0);
    }
}

/* ---- what systems deny, each in a process of its own ----------------------------------------------------------------- */

/* Open with `kind` and read ranges of both files to their ends; the expected backend may be NULL: any. */
static int child_reads(enum stream_kind kind, const char *backend) {
    struct reason why = {{0}};
    const struct fetch_options o = options_for(kind);
    if (fetch_open(&model, &o, &fetch, &why)) return complain("fetch_open", why.text);
    if (backend && strcmp(fetch_backend(fetch), backend) != 0) return complain("backend", fetch_backend(fetch));
    if (backend && !strcmp(backend, "pread") && kind == STREAM_AUTO && fetch_direct(fetch) &&
        (!logged.ptr || !strstr(logged.ptr, "io_uring")))
        return complain("log", "does not say that io_uring was denied");
    for (uint32_t i = 0; i < 40; i++) {
        const uint32_t file = i % 2;
        const uint64_t offset = (i * 30011u) % file_bytes[file], left = file_bytes[file] - offset,
                       bytes = left < 60000 ? left : 60000;
        const struct fetch_group g = {{{file, offset, bytes, memory}}, 1, i};
        struct fetch_done done;
        fetch_start(fetch, &g);
        if (fetch_poll(fetch, &done, 1, 30 * SECOND) != 1) return complain("fetch_poll", "nothing came");
        if (done.code) return complain("read", done.why->text);
        if (!pattern_matches(&files[file], memory + offset % FETCH_ALIGN, bytes, offset)) return complain("bytes", "wrong");
    }
    fetch_close(&fetch);
    return CHILD_OK;
}

struct denial {
    unsigned call;
    int error;
};

static const struct denial denials[] = {
    {SYS_io_uring_setup, EPERM}, {SYS_io_uring_setup, ENOSYS},   {SYS_io_uring_setup, ENOMEM},
    {SYS_io_uring_enter, EPERM}, {SYS_io_uring_register, EPERM}, {SYS_statx, ENOSYS},
};

static int child_filtered(int which) {
    const struct denial d = denials[which];
    const int denied = deny_call(d.call, d.error);
    if (denied) return denied;
    if (d.call == SYS_statx) return child_reads(STREAM_AUTO, NULL);
    struct reason why = {{0}};
    const struct fetch_options o = options_for(STREAM_URING);
    if (fetch_open(&model, &o, &fetch, &why) != ERR_UNSUPPORTED) return complain("asked for io_uring", "was not refused");
    if (!strstr(why.text, strerror(d.error))) return complain("no errno in the reason", why.text);
    return child_reads(STREAM_AUTO, "pread");
}

static void falls_back_when_denied(void **state) {
    (void)state;
    for (int i = 0; i < (int)(sizeof denials / sizeof *denials); i++) in_child(child_filtered, i);
}

static int child_memlock(int kib) {
    const int denied = limit_locked_memory(kib);
    return denied ? denied : child_reads(STREAM_AUTO, NULL);
}

static void works_without_locked_memory(void **state) {
    (void)state;
    in_child(child_memlock, 64);
    in_child(child_memlock, 0);
}

/* With `spare` descriptors left, from none on: slower, but the same bytes. */
static int child_descriptors(int spare) {
    const int denied = limit_descriptors(spare);
    return denied ? denied : child_reads(STREAM_AUTO, NULL);
}

static void works_without_descriptors(void **state) {
    (void)state;
    for (int spare = 0; spare < 5; spare++) in_child(child_descriptors, spare);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(brings_groups),
        TEST(picks_a_backend),
        TEST(reads_edges),
        TEST(sends_only_when_told),
        TEST(closes_while_busy),
        TEST(survives_what_passes),
        TEST(survives_a_mixture),
        TEST(believes_a_bad_sector),
        TEST(waits_for_the_rest_of_a_failed_group),
        TEST(drops_what_a_failed_group_had_waiting),
        TEST(every_single_failure),
        TEST(repeats_only_so_long),
        TEST(lends_memory_of_stalled_groups),
        TEST(is_patient_with_its_owner),
        TEST(forgets_loans_nobody_saw),
        TEST(uses_the_page_cache_when_refused),
        TEST(notices_changed_files),
        TEST(reports_a_cut_file),
        TEST(reads_from_memory_file),
        TEST(falls_back_when_denied),
        TEST(works_without_locked_memory),
        TEST(works_without_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
