/* Read bandwidth of this machine's RAM: the limit of decode. Prints GB/s for 1..N threads (default: all cores), the median of
 * several passes over a pool far larger than any cache, read with plain vector loads.
 *
 *   membw [threads] [MiB] [passes] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/median.h"
#include "core/pool.h"
#include "placement/facts.h"

struct sweep {
    const uint64_t *words;
    uint64_t n_words;
    uint64_t sums[FACTS_MAX_CORES][8]; /* keeps the loads alive; one cache line a worker */
};

/* Eight independent sums let the compiler use full vectors; software prefetch as the kernels have it. */
static void read_share(const struct worker *me, void *ctx) {
    struct sweep *s = ctx;
    const uint64_t each = s->n_words / me->count / 64 * 64;
    const uint64_t *p = s->words + me->index * each, *const end = p + each;
    uint64_t sum[8] = {0};
    for (; p < end; p += 8) {
        __builtin_prefetch(p + 1024);
        for (int i = 0; i < 8; i++) sum[i] += p[i];
    }
    memcpy(s->sums[me->index], sum, sizeof sum);
}

static double median_rate(struct pool *pool, struct sweep *s, int passes) {
    double rates[64];
    for (int i = 0; i < passes; i++) {
        const uint64_t begin = clock_ns();
        pool_run(pool, read_share, s);
        rates[i] = (double)s->n_words * 8 / (double)(clock_ns() - begin);
    }
    return median_of(rates, (size_t)passes);
}

int main(int argc, char **argv) {
    static struct facts facts;
    static struct sweep s;
    struct reason why = {{0}};
    void *room;
    if (facts_read(&facts, &why)) goto failed;
    const unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : facts.n_cores;
    const uint64_t bytes = (argc > 2 ? (uint64_t)atoll(argv[2]) : 2048) << 20;
    const int passes = argc > 3 ? atoi(argv[3]) : 7;
    if (threads < 1 || threads > FACTS_MAX_CORES || bytes < 1 << 20 || passes < 1 || passes > 64) {
        fprintf(stderr, "usage: membw [threads] [MiB] [passes up to 64]\n");
        return 2;
    }
    if (pages_alloc(bytes, &room, &why)) goto failed;
    memset(room, 1, bytes);
    s = (struct sweep){.words = room, .n_words = bytes / 8};
    for (unsigned n = 1; n <= threads; n++) {
        struct pool *pool;
        if (pool_open(n, facts.core_cpus, facts.n_cores, &pool, &why)) goto failed;
        printf("read %u thread%s: %.1f GB/s\n", n, n == 1 ? "" : "s", median_rate(pool, &s, passes));
        pool_close(&pool);
    }
    return 0;
failed:
    fprintf(stderr, "membw: %s\n", why.text);
    return 1;
}
