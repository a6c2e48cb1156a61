/* The worker team: every member runs, barriers order memory, every item is taken once, runs follow each other at once. */
#include "tests/support/check.h"

#include "core/pool.h"

enum { ITEMS = 1000, ROUNDS = 200 };

struct shared {
    int plain[8][16];        /* written by one member, read by the others after a barrier: races show under TSan */
    unsigned char taken[ITEMS];
    struct pool_counter counter;
    _Atomic int wrong;
};

static void round_trip(const struct worker *me, void *ctx) {
    struct shared *s = ctx;
    for (int round = 0; round < ROUNDS; round++) {
        s->plain[me->index][0] = round;
        pool_barrier(me);
        for (unsigned i = 0; i < me->count; i++)
            if (s->plain[i][0] != round) s->wrong++;
        pool_barrier(me);
    }
}

static void take_all(const struct worker *me, void *ctx) {
    struct shared *s = ctx;
    (void)me;
    for (uint32_t item; pool_next(&s->counter, ITEMS, &item);) s->taken[item]++;
}

static void with_threads(unsigned threads) {
    struct pool *pool;
    struct reason why;
    static struct shared s;
    s = (struct shared){0};
    assert_int_equal(pool_open(threads, NULL, 0, &pool, &why), ERR_NONE);
    assert_int_equal(pool_threads(pool), threads);
    pool_run(pool, round_trip, &s);
    assert_int_equal(s.wrong, 0);
    for (int run = 0; run < 50; run++) {
        pool_counter_reset(&s.counter);
        pool_run(pool, take_all, &s);
    }
    for (int i = 0; i < ITEMS; i++) assert_int_equal(s.taken[i], 50);
    pool_close(&pool);
    assert_null(pool);
    pool_close(&pool); /* closing nothing is allowed */
}

static void one_thread(void **state) { (void)state; with_threads(1); }
static void two_threads(void **state) { (void)state; with_threads(2); }
static void more_threads_than_cores(void **state) { (void)state; with_threads(5); }

static void refuses_nonsense(void **state) {
    (void)state;
    struct pool *pool;
    struct reason why;
    assert_int_equal(pool_open(0, NULL, 0, &pool, &why), ERR_ARGUMENT);
    assert_null(pool);
    assert_int_equal(pool_open(100000, NULL, 0, &pool, &why), ERR_ARGUMENT);
}

static void pins_to_given_cpus(void **state) {
    (void)state;
    struct pool *pool;
    struct reason why;
    const int cpus[] = {0, 0, 99999}; /* an impossible CPU is ignored: slower, not wrong */
    static struct shared s;
    s = (struct shared){0};
    assert_int_equal(pool_open(3, cpus, 3, &pool, &why), ERR_NONE);
    pool_run(pool, round_trip, &s);
    assert_int_equal(s.wrong, 0);
    pool_close(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_thread), cmocka_unit_test(two_threads),
                                       cmocka_unit_test(more_threads_than_cores), cmocka_unit_test(refuses_nonsense),
                                       cmocka_unit_test(pins_to_given_cpus)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
