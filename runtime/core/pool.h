/* A team of pinned worker threads that runs one function at a time, all members together (SPMD).
 *
 * The caller of pool_run() is no member and sleeps meanwhile: were it one, the scheduler could move it onto a worker's CPU
 * whenever that worker wakes it (measured: both on one core, half the speed). Workers spin briefly, then sleep on a futex.
 * Inside the function, members meet at pool_barrier() and share work through pool_next(). One run at a time: pool_run() is
 * not re-entrant. Every wait ends because every member runs the same function to its end. */
#ifndef COLDSTREAM_POOL_H
#define COLDSTREAM_POOL_H

#include "core/core.h"

struct pool;

struct worker {
    struct pool *pool;
    unsigned index; /* 0 .. count-1 */
    unsigned count;
};

/* `cpus`: operating-system CPU ids to pin to, one a member; NULL or shorter than `threads` leaves the rest unpinned.
 * threads >= 1. */
enum err pool_open(unsigned threads, const int *cpus, unsigned n_cpus, struct pool **out, struct reason *why) MUST_USE;
void pool_close(struct pool **pool);
unsigned pool_threads(const struct pool *pool);

/* Runs fn on every member and returns when all are done. */
void pool_run(struct pool *pool, void (*fn)(const struct worker *me, void *ctx), void *ctx);

/* All members must call it the same number of times. Also resets nothing but order: memory written before is visible after. */
void pool_barrier(const struct worker *me);

/* A shared counter for dynamic work: members take the next of `count` items until it returns false. `counter` is
 * zero-initialised by pool_counter_reset() from one member before a barrier. */
struct pool_counter {
    _Alignas(64) _Atomic uint32_t next;
};
static inline void pool_counter_reset(struct pool_counter *c) { __atomic_store_n((uint32_t *)&c->next, 0, __ATOMIC_RELAXED); }
static inline bool pool_next(struct pool_counter *c, uint32_t count, uint32_t *item) {
    return (*item = __atomic_fetch_add((uint32_t *)&c->next, 1, __ATOMIC_RELAXED)) < count;
}

#endif
