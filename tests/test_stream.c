/* Both backends of stream.h on real files: what they read, how many they take, how long they wait, what closing does. Where
 * io_uring is denied, its half is skipped with the reason. */
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "engine/stream.h"
#include "tests/support/pattern_file.h"

enum { DEPTH = 32, SLOT = 256 << 10, READS = 600, FILE_BYTES = (6 << 20) + 3296 };

#define SECOND ((uint64_t)1000000000u)

static struct pattern_file file;

static int make_file(void **state) {
    (void)state;
    pattern_make(&file, NULL, FILE_BYTES, 1);
    return 0;
}

static int drop_file(void **state) {
    (void)state;
    pattern_remove(&file);
    return 0;
}

static struct stream *open_backend(bool uring, unsigned depth, const int *fds, unsigned n) {
    struct stream *s = NULL;
    struct reason why = {{0}};
    const enum err code = uring ? stream_uring_open(depth, fds, n, &s, &why) : stream_pread_open(3, depth, fds, n, &s, &why);
    if (code == ERR_UNSUPPORTED && uring) {
        print_message("  SKIP io_uring: %s\n", why.text);
        return NULL;
    }
    if (code) fail_test("%s", why.text);
    assert_string_equal(s->ops->name, uring ? "io_uring" : "pread");
    assert_int_equal(s->depth, depth);
    return s;
}

static int open_file(const char *path, int flags) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0) print_message("  SKIP: %s: %s\n", path, strerror(errno));
    return fd;
}

static uint8_t *new_memory(uint64_t bytes) {
    void *memory;
    struct reason why = {{0}};
    if (pages_alloc(bytes, &memory, &why)) fail_test("%s", why.text);
    return memory;
}

/* READS reads of random pages with as many in flight as there is room for. */
static void read_randomly(struct stream *s, const struct pattern_file *from) {
    uint8_t *memory = new_memory((uint64_t)DEPTH * SLOT);
    struct stream_read reads[DEPTH];
    struct stream_read flying[DEPTH];
    bool used[DEPTH] = {false};
    unsigned started = 0, ended = 0;
    uint64_t seed = 1;
    while (ended < READS) {
        unsigned n = 0;
        for (unsigned i = 0; i < DEPTH && started + n < READS; i++) {
            if (used[i]) continue;
            const uint64_t bytes = 4096 * (1 + pattern_random(&seed, SLOT / 4096)),
                           offset = 4096 * pattern_random(&seed, from->bytes / 4096);
            flying[i] = reads[n++] = (struct stream_read){0, offset, bytes, memory + (uint64_t)i * SLOT, i};
            used[i] = true;
        }
        assert_int_equal(s->ops->submit(s, reads, n), n);
        started += n;
        struct stream_result results[5];
        const unsigned got = s->ops->reap(s, results, 5, 20 * SECOND);
        assert_in_range(got, 1, 5);
        for (unsigned i = 0; i < got; i++) {
            const struct stream_read *r = &flying[results[i].tag];
            const uint64_t left = from->bytes - r->offset;
            assert_true(used[results[i].tag]);
            used[results[i].tag] = false;
            assert_int_equal(results[i].got, r->bytes < left ? r->bytes : left); /* the last page ends short */
            assert_true(pattern_matches(from, r->to, (uint64_t)results[i].got, r->offset));
        }
        ended += got;
    }
    struct stream_result none;
    assert_int_equal(s->ops->reap(s, &none, 1, SECOND), 0); /* nothing in flight: does not wait */
    pages_free(memory, (uint64_t)DEPTH * SLOT);
}

static void random_reads(const char *path, const struct pattern_file *from, int flags) {
    const int fd = open_file(path, flags);
    if (fd < 0) return;
    for (int uring = 0; uring < 2; uring++) {
        struct stream *s = open_backend(uring, DEPTH, &fd, 1);
        if (!s) continue;
        read_randomly(s, from);
        s->ops->close(s);
    }
    close(fd);
}

static void reads_through_page_cache(void **state) {
    (void)state;
    random_reads(file.path, &file, 0);
}

static void reads_directly(void **state) {
    (void)state;
    random_reads(file.path, &file, O_DIRECT);
}

static void reads_from_memory_file(void **state) {
    (void)state;
    if (access("/dev/shm", W_OK) != 0) {
        print_message("SKIP: no /dev/shm\n");
        skip();
    }
    struct pattern_file shm;
    pattern_make(&shm, "/dev/shm", FILE_BYTES, 2);
    random_reads(shm.path, &shm, 0);
    random_reads(shm.path, &shm, O_DIRECT);
    pattern_remove(&shm);
}

static void on_alarm(int number) { (void)number; }

/* Signals without SA_RESTART interrupt every system call that waits. */
static void reads_under_signals(void **state) {
    (void)state;
    const struct sigaction action = {.sa_handler = on_alarm};
    struct sigaction before;
    sigaction(SIGALRM, &action, &before);
    const struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, NULL);
    random_reads(file.path, &file, O_DIRECT);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
}

static void takes_no_more_than_depth(void **state) {
    (void)state;
    const int fd = open_file(file.path, 0);
    assert_true(fd >= 0);
    uint8_t *memory = new_memory(10 * 4096);
    for (int uring = 0; uring < 2; uring++) {
        struct stream *s = open_backend(uring, 5, &fd, 1);
        if (!s) continue;
        struct stream_read reads[10];
        struct stream_result results[10];
        for (unsigned i = 0; i < 10; i++) reads[i] = (struct stream_read){0, i * 4096u, 4096, memory + i * 4096u, 100 + i};
        assert_int_equal(s->ops->submit(s, reads, 10), 5);
        assert_int_equal(s->ops->submit(s, reads + 5, 5), 0);
        unsigned got = 0;
        while (got < 2) got += s->ops->reap(s, results + got, 2 - got, SECOND);
        assert_int_equal(s->ops->submit(s, reads + 5, 5), 2); /* a read is in flight until it was reaped */
        while (got < 7) got += s->ops->reap(s, results + got, 10 - got, SECOND);
        assert_int_equal(s->ops->submit(s, reads + 7, 3), 3);
        while (got < 10) got += s->ops->reap(s, results + got, 10 - got, SECOND);
        unsigned seen = 0;
        for (unsigned i = 0; i < 10; i++) {
            assert_int_equal(results[i].got, 4096);
            seen |= 1u << (results[i].tag - 100);
        }
        assert_int_equal(seen, (1 << 10) - 1);
        assert_true(pattern_matches(&file, memory, 10 * 4096, 0));
        s->ops->close(s);
    }
    pages_free(memory, 10 * 4096);
    close(fd);
}

/* Errors and ends come back as the system said them. */
static void reports_what_the_system_says(void **state) {
    (void)state;
    const int fds[] = {open_file(file.path, 0), open_file(".", O_DIRECTORY), open_file(file.path, O_DIRECT)};
    uint8_t *memory = new_memory(4 * 4096);
    for (int uring = 0; uring < 2; uring++) {
        struct stream *s = open_backend(uring, 8, fds, fds[2] < 0 ? 2 : 3);
        if (!s) continue;
        const struct stream_read reads[] = {
            {0, FILE_BYTES - 3296, 4096, memory, 0},
            {0, FILE_BYTES + 700, 4096, memory + 4096, 1},
            {1, 0, 4096, memory + 2 * 4096, 2},
            {2, 0, 4096, memory + 3 * 4096 + 1, 3}, /* misaligned memory */
        };
        const unsigned n = fds[2] < 0 ? 3 : 4;
        int64_t said[4] = {99, 99, 99, 99};
        assert_int_equal(s->ops->submit(s, reads, n), n);
        for (unsigned got = 0; got < n;) {
            struct stream_result result;
            if (!s->ops->reap(s, &result, 1, SECOND)) continue;
            said[result.tag] = result.got;
            got++;
        }
        assert_int_equal(said[0], 3296);
        assert_int_equal(said[1], 0);
        assert_true(said[2] < 0);
        if (n == 4) assert_true(said[3] == -EINVAL || said[3] == 4095 || said[3] == 4096); /* some file systems do not mind */
        s->ops->close(s);
    }
    pages_free(memory, 4 * 4096);
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0) close(fds[i]);
}

/* io_uring reads from a pipe, too, which says nothing for as long as a test likes. */
static void waits_as_long_as_told(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    struct stream *s = open_backend(true, 4, ends, 1);
    if (s) {
        char byte = 0;
        struct stream_result result;
        const struct stream_read read = {0, 0, 1, &byte, 5};
        assert_int_equal(s->ops->submit(s, &read, 1), 1);
        assert_int_equal(s->ops->reap(s, &result, 1, 0), 0);
        const uint64_t begin = clock_ns();
        assert_int_equal(s->ops->reap(s, &result, 1, 30000000), 0);
        const uint64_t waited = clock_ns() - begin;
        assert_true(waited >= 30000000);
        assert_int_equal(write(ends[1], "x", 1), 1);
        assert_int_equal(s->ops->reap(s, &result, 1, 20 * SECOND), 1);
        assert_true(clock_ns() - begin < 10 * SECOND);
        assert_int_equal(result.tag, 5);
        assert_int_equal(result.got, 1);
        assert_int_equal(byte, 'x');
        s->ops->close(s);
    }
    close(ends[0]);
    close(ends[1]);
}

/* Hardly any patience: many waits end empty, no result is lost. */
static void short_waits_lose_nothing(void **state) {
    (void)state;
    const int fd = open_file(file.path, O_DIRECT);
    if (fd < 0) skip();
    uint8_t *memory = new_memory((uint64_t)DEPTH * SLOT);
    for (int uring = 0; uring < 2; uring++) {
        struct stream *s = open_backend(uring, DEPTH, &fd, 1);
        if (!s) continue;
        struct stream_read reads[DEPTH];
        for (unsigned i = 0; i < DEPTH; i++)
            reads[i] = (struct stream_read){0, (i % 24) * (uint64_t)SLOT, SLOT, memory + (uint64_t)i * SLOT, i};
        assert_int_equal(s->ops->submit(s, reads, DEPTH), DEPTH);
        for (unsigned got = 0; got < DEPTH;) {
            struct stream_result result;
            if (!s->ops->reap(s, &result, 1, 1 + got * 100)) continue;
            assert_int_equal(result.got, SLOT);
            got++;
        }
        for (unsigned i = 0; i < DEPTH; i++) assert_true(pattern_matches(&file, reads[i].to, SLOT, reads[i].offset));
        s->ops->close(s);
    }
    pages_free(memory, (uint64_t)DEPTH * SLOT);
    close(fd);
}

static void closes_with_reads_in_flight(void **state) {
    (void)state;
    const int fd = open_file(file.path, O_DIRECT);
    if (fd < 0) skip();
    for (int uring = 0; uring < 2; uring++) {
        for (int round = 0; round < 10; round++) {
            struct stream *s = open_backend(uring, DEPTH, &fd, 1);
            if (!s) break;
            const size_t bytes = (size_t)DEPTH * SLOT;
            uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            assert_true(memory != MAP_FAILED);
            struct stream_read reads[DEPTH];
            for (unsigned i = 0; i < DEPTH; i++)
                reads[i] = (struct stream_read){0, (i % 24) * (uint64_t)SLOT, SLOT, memory + (uint64_t)i * SLOT, i};
            assert_int_equal(s->ops->submit(s, reads, DEPTH), DEPTH);
            s->ops->close(s);
            /* nothing may be written any more */
            memset(memory, 0x11, bytes);
            usleep(2000);
            for (size_t i = 0; i < bytes; i += 512) assert_int_equal(memory[i], 0x11);
            munmap(memory, bytes);
        }
    }
    close(fd);
}

struct hand_over {
    struct stream *s;
    const struct stream_read *reads;
    unsigned n, taken;
};

static void *submit_and_leave(void *arg) {
    struct hand_over *h = arg;
    h->taken = h->s->ops->submit(h->s, h->reads, h->n);
    return NULL;
}

/* The owner of the lock changes: one thread sends, another one takes, and the sender may be gone by then. */
static void moves_between_threads(void **state) {
    (void)state;
    const int fd = open_file(file.path, O_DIRECT);
    if (fd < 0) skip();
    uint8_t *memory = new_memory((uint64_t)8 * SLOT);
    for (int uring = 0; uring < 2; uring++) {
        struct stream *s = open_backend(uring, 8, &fd, 1);
        if (!s) continue;
        for (unsigned round = 0; round < 20; round++) {
            struct stream_read reads[8];
            for (unsigned i = 0; i < 8; i++)
                reads[i] = (struct stream_read){0, ((i + round) % 24) * (uint64_t)SLOT, SLOT, memory + (uint64_t)i * SLOT, i};
            struct hand_over h = {s, reads, 8, 0};
            pthread_t sender;
            assert_int_equal(pthread_create(&sender, NULL, submit_and_leave, &h), 0);
            pthread_join(sender, NULL);
            assert_int_equal(h.taken, 8);
            for (unsigned got = 0; got < 8; got++) {
                struct stream_result result;
                assert_int_equal(s->ops->reap(s, &result, 1, 20 * SECOND), 1);
                if (result.got == -ECANCELED) continue; /* the system may drop what an ended thread had queued */
                assert_int_equal(result.got, SLOT);
                assert_true(pattern_matches(&file, reads[result.tag].to, SLOT, reads[result.tag].offset));
            }
        }
        s->ops->close(s);
    }
    pages_free(memory, (uint64_t)8 * SLOT);
    close(fd);
}

static void refuses_impossible_sizes(void **state) {
    (void)state;
    const int fd = open_file(file.path, 0);
    struct stream *s;
    struct reason why;
    assert_int_equal(stream_uring_open(0, &fd, 1, &s, &why), ERR_ARGUMENT);
    assert_int_equal(stream_uring_open(5000, &fd, 1, &s, &why), ERR_ARGUMENT);
    assert_int_equal(stream_pread_open(0, 4, &fd, 1, &s, &why), ERR_ARGUMENT);
    assert_int_equal(stream_pread_open(2, 0, &fd, 1, &s, &why), ERR_ARGUMENT);
    assert_null(s);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_through_page_cache),    cmocka_unit_test(reads_directly),
        cmocka_unit_test(reads_from_memory_file),      cmocka_unit_test(reads_under_signals),
        cmocka_unit_test(takes_no_more_than_depth),    cmocka_unit_test(reports_what_the_system_says),
        cmocka_unit_test(waits_as_long_as_told),       cmocka_unit_test(short_waits_lose_nothing),
        cmocka_unit_test(closes_with_reads_in_flight), cmocka_unit_test(moves_between_threads),
        cmocka_unit_test(refuses_impossible_sizes),
    };
    return cmocka_run_group_tests(tests, make_file, drop_file);
}
