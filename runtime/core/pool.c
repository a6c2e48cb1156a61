/* Worker team: spin briefly, then sleep on a futex; a barrier whose phase counts up; one run at a time. */
#include "core/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* About 20 us of spinning: longer than any barrier wait of a balanced step, short enough that a preempted peer is not
 * fought for its CPU. */
#define SPINS 4000

struct pool {
    unsigned count;
    pthread_t *threads; /* [count] */
    struct worker *members;
    void (*fn)(const struct worker *, void *);
    void *ctx;
    _Alignas(64) _Atomic uint32_t generation; /* a new value starts a run */
    _Alignas(64) _Atomic uint32_t arrived;
    _Alignas(64) _Atomic uint32_t finished; /* members at the end of this run */
    _Alignas(64) _Atomic uint32_t done;     /* a new value ends a run; the caller sleeps on it */
    _Alignas(64) _Atomic uint32_t phase; /* barrier's sense */
    _Alignas(64) _Atomic uint32_t sleepers;
    _Atomic bool quit;
};

static inline void cpu_relax(void) { __builtin_ia32_pause(); }

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word) { syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0); }

/* Returns once *word differs from `old`. The sleeper count lets the waker skip the system call when everybody spins; both
 * sides use sequentially consistent accesses, so a sleeper that missed the change is always seen by the waker. */
static void wait_change(struct pool *p, _Atomic uint32_t *word, uint32_t old) {
    for (int i = 0; i < SPINS; i++) {
        if (*word != old) return;
        cpu_relax();
    }
    p->sleepers++;
    while (*word == old) futex_wait(word, old);
    p->sleepers--;
}

static void publish(struct pool *p, _Atomic uint32_t *word) {
    (*word)++;
    if (p->sleepers) futex_wake_all(word);
}

void pool_barrier(const struct worker *me) {
    struct pool *p = me->pool;
    if (me->count == 1) return;
    const uint32_t phase = p->phase;
    if (++p->arrived == me->count) {
        p->arrived = 0;
        publish(p, &p->phase);
    } else {
        wait_change(p, &p->phase, phase);
    }
}

static void *worker_main(void *arg) {
    const struct worker *me = arg;
    struct pool *p = me->pool;
    for (uint32_t seen = 0;;) {
        wait_change(p, &p->generation, seen);
        seen++;
        if (p->quit) return NULL;
        p->fn(me, p->ctx);
        if (++p->finished == me->count) { /* the last one: nobody touches fn and ctx any more */
            p->finished = 0;
            p->done++;
            futex_wake_all(&p->done);
        }
    }
}

void pool_run(struct pool *p, void (*fn)(const struct worker *, void *), void *ctx) {
    const uint32_t done = p->done;
    p->fn = fn;
    p->ctx = ctx;
    publish(p, &p->generation);
    while (p->done == done) futex_wait(&p->done, done); /* no spinning: every CPU may have a worker */
}

static void pin(pthread_t thread, int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    (void)pthread_setaffinity_np(thread, sizeof set, &set); /* refused inside some containers: unpinned is slower, not wrong */
}

enum err pool_open(unsigned threads, const int *cpus, unsigned n_cpus, struct pool **out, struct reason *why) {
    *out = NULL;
    if (threads < 1 || threads > 1024) return fail(why, ERR_ARGUMENT, "%u threads asked for; 1 to 1024 can be used", threads);
    struct pool *p = aligned_alloc(64, round_up(sizeof *p, 64));
    if (!p) return fail(why, ERR_NO_MEMORY, "no memory for the worker pool");
    memset(p, 0, sizeof *p);
    p->threads = calloc(threads, sizeof *p->threads);
    p->members = calloc(threads, sizeof *p->members);
    if (!p->threads || !p->members) {
        pool_close(&p);
        return fail(why, ERR_NO_MEMORY, "no memory for %u workers", threads);
    }
    for (unsigned i = 0; i < threads; i++) p->members[i] = (struct worker){p, i, threads};
    for (unsigned i = 0; i < threads; i++) {
        const int error = pthread_create(&p->threads[i], NULL, worker_main, &p->members[i]);
        if (error) {
            pool_close(&p); /* count is still the number of threads that run */
            return fail(why, ERR_NO_MEMORY, "cannot start worker %u of %u: %s", i + 1, threads, strerror(error));
        }
        p->count = i + 1;
        if (cpus && i < n_cpus) pin(p->threads[i], cpus[i]);
    }
    *out = p;
    return ERR_NONE;
}

void pool_close(struct pool **pool) {
    struct pool *p = *pool;
    if (!p) return;
    *pool = NULL;
    p->quit = true;
    p->generation++;
    futex_wake_all(&p->generation);
    for (unsigned i = 0; i < p->count; i++) pthread_join(p->threads[i], NULL);
    free(p->threads);
    free(p->members);
    free(p);
}

unsigned pool_threads(const struct pool *pool) { return pool->count; }
