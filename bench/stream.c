/* Reading rates of a model's experts: GB/s by backend and groups in flight, each group one random expert's three matrices, read
 * into a random place of a buffer as large as a real pool (small ones stay in caches and overstate the rate by half). Prints
 * the median of several passes, lowest and highest, the CPU time of the calling thread a GB, and the median time of one group.
 * "packed": the same bytes as one piece that begins on a page, as they would lie in a copy of the file made for this.
 *
 *   stream MODEL.gguf [pool MiB, default 3072] [groups a pass, default 200] [passes, default 5] */
#include "engine/fetch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_PASSES = 32, MAX_DEPTH = 32, MAX_GROUPS = 1 << 16 };

struct setup {
    const struct model *m;
    uint8_t *pool;
    uint64_t slot_bytes, n_slots;
    uint64_t random;
    unsigned groups, passes;
};

struct pass {
    double bytes_per_s, cpu_s_per_byte, group_s;
};

static uint64_t below(uint64_t *state, uint64_t limit) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (*state >> 33) % limit;
}

/* One expert's share of a tensor whose last extent counts experts. */
static uint64_t add_matrix(struct fetch_group *g, const struct model_tensor *t, uint32_t expert, uint32_t n_experts,
                           uint8_t *to) {
    const uint64_t bytes = t->bytes / n_experts;
    g->extents[g->n++] = (struct extent){t->file, t->offset + expert * bytes, bytes, to};
    return fetch_room(bytes);
}

static uint64_t make_group(struct setup *s, const struct model_layer *layer, uint32_t expert, uint8_t *to,
                           struct fetch_group *g) {
    uint64_t at = 0;
    *g = (struct fetch_group){0};
    at += add_matrix(g, layer->gate, expert, s->m->shape.n_experts, to + at);
    if (layer->up) at += add_matrix(g, layer->up, expert, s->m->shape.n_experts, to + at);
    at += add_matrix(g, layer->down, expert, s->m->shape.n_experts, to + at);
    return at;
}

/* Somewhere in the file: what the drive does not know. */
static void pack(struct setup *s, struct fetch_group *g) {
    struct extent *e = &g->extents[0];
    for (uint32_t i = 1; i < g->n; i++) e->bytes += g->extents[i].bytes;
    e->offset = below(&s->random, (s->m->files[e->file].bytes - e->bytes) / FETCH_ALIGN) * FETCH_ALIGN;
    g->n = 1;
}

static double thread_cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Keeps up to `depth` groups in flight; each in a slot of its own. */
static bool run_pass(struct setup *s, struct fetch *f, unsigned depth, bool packed, struct pass *out) {
    static double times[MAX_GROUPS];
    uint64_t bytes = 0;
    bool used[MAX_DEPTH] = {false};
    const double cpu = thread_cpu_s();
    const uint64_t begin = clock_ns();
    for (unsigned started = 0, ended = 0; ended < s->groups;) {
        for (unsigned i = 0; i < depth && started < s->groups; i++) {
            if (used[i]) continue;
            const struct model_layer *layer = &s->m->layers[below(&s->random, s->m->shape.n_layers)];
            struct fetch_group g;
            const uint64_t slot = below(&s->random, s->n_slots / depth) * depth + i;
            make_group(s, layer, (uint32_t)below(&s->random, s->m->shape.n_experts), s->pool + slot * s->slot_bytes, &g);
            if (packed) pack(s, &g);
            g.tag = i;
            fetch_start(f, &g);
            used[i] = true;
            started++;
        }
        fetch_send(f);
        struct fetch_done done[MAX_DEPTH];
        const unsigned n = fetch_poll(f, done, MAX_DEPTH, 1000000000u);
        for (unsigned i = 0; i < n; i++) {
            if (done[i].code) {
                fprintf(stderr, "%s\n", done[i].why->text);
                return false;
            }
            used[done[i].tag] = false;
            bytes += done[i].bytes;
            times[ended++] = 1e-9 * (double)done[i].ns;
        }
    }
    qsort(times, s->groups, sizeof *times, by_value);
    *out = (struct pass){(double)bytes / (1e-9 * (double)(clock_ns() - begin)), (thread_cpu_s() - cpu) / (double)bytes,
                         times[s->groups / 2]};
    return true;
}

struct cell {
    enum stream_kind kind;
    unsigned depth, threads;
    bool packed;
};

static struct fetch *open_cell(const struct setup *s, const struct cell *c) {
    struct reason why;
    struct fetch *f;
    const struct fetch_options o = {.kind = c->kind, .groups = c->depth, .threads = c->threads};
    if (fetch_open(s->m, &o, &f, &why)) fprintf(stderr, "%s\n", why.text);
    return f;
}

/* All cells take turns, pass by pass, so that a drift of the drive meets all of them. */
static bool run_cells(struct setup *s, const struct cell *cells, unsigned n) {
    struct pass(*results)[MAX_PASSES] = calloc(n, sizeof *results);
    bool ok = results != NULL;
    for (unsigned p = 0; ok && p < s->passes; p++)
        for (unsigned i = 0; ok && i < n; i++) {
            struct fetch *f = open_cell(s, &cells[i]);
            if (!f) continue;
            ok = run_pass(s, f, cells[i].depth, cells[i].packed, &results[i][p]);
            fetch_close(&f);
        }
    printf("%-22s %8s %6s %16s %12s %10s\n", "backend", "groups", "GB/s", "(low - high)", "CPU ms/GB", "ms/group");
    for (unsigned i = 0; ok && i < n; i++) {
        double rates[MAX_PASSES], cpu[MAX_PASSES], times[MAX_PASSES];
        for (unsigned p = 0; p < s->passes; p++) {
            rates[p] = results[i][p].bytes_per_s * 1e-9;
            cpu[p] = results[i][p].cpu_s_per_byte * 1e12;
            times[p] = results[i][p].group_s * 1e3;
        }
        qsort(rates, s->passes, sizeof *rates, by_value);
        qsort(cpu, s->passes, sizeof *cpu, by_value);
        qsort(times, s->passes, sizeof *times, by_value);
        char name[64];
        if (cells[i].kind == STREAM_URING)
            snprintf(name, sizeof name, "io_uring%s", cells[i].packed ? ", packed" : "");
        else
            snprintf(name, sizeof name, "pread, %u threads", cells[i].threads);
        printf("%-22s %8u %6.2f (%5.2f - %5.2f) %12.1f %10.2f\n", name, cells[i].depth, rates[s->passes / 2], rates[0],
               rates[s->passes - 1], cpu[s->passes / 2], times[s->passes / 2]);
    }
    free(results);
    return ok;
}

/* Memory for many experts, touched: a running engine's pool has its pages. */
static bool make_pool(struct setup *s, uint64_t bytes) {
    struct reason why;
    void *pool;
    if (pages_alloc(bytes, &pool, &why)) {
        fprintf(stderr, "%s\n", why.text);
        return false;
    }
    s->pool = memset(pool, 1, bytes);
    for (uint32_t i = 0; i < s->m->shape.n_layers; i++) {
        struct fetch_group g;
        const uint64_t room = make_group(s, &s->m->layers[i], 0, s->pool, &g);
        if (room > s->slot_bytes) s->slot_bytes = room;
    }
    s->n_slots = bytes / s->slot_bytes;
    if (s->n_slots >= MAX_DEPTH) return true;
    fprintf(stderr, "the pool holds %llu experts; at least %d are needed\n", (unsigned long long)s->n_slots, MAX_DEPTH);
    return false;
}

int main(int argc, char **argv) {
    static const struct cell cells[] = {
        {STREAM_URING, 1, 0, false},  {STREAM_URING, 2, 0, false},  {STREAM_URING, 4, 0, false}, {STREAM_URING, 8, 0, false},
        {STREAM_URING, 16, 0, false}, {STREAM_URING, 32, 0, false}, {STREAM_URING, 1, 0, true},  {STREAM_URING, 8, 0, true},
        {STREAM_URING, 32, 0, true},  {STREAM_PREAD, 8, 1, false},  {STREAM_PREAD, 8, 2, false}, {STREAM_PREAD, 1, 4, false},
        {STREAM_PREAD, 8, 4, false},  {STREAM_PREAD, 16, 8, false},
    };
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL.gguf [pool MiB] [groups a pass] [passes]\n", argv[0]);
        return 2;
    }
    const uint64_t pool_bytes = (argc > 2 ? strtoull(argv[2], NULL, 10) : 3072) << 20;
    struct setup s = {.random = 1};
    s.groups = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 200;
    s.passes = argc > 4 ? (unsigned)strtoul(argv[4], NULL, 10) : 5;
    if (s.groups < 1 || s.groups > MAX_GROUPS || s.passes < 1 || s.passes > MAX_PASSES) {
        fprintf(stderr, "groups: 1 to %d; passes: 1 to %d\n", MAX_GROUPS, MAX_PASSES);
        return 2;
    }
    struct model *m;
    struct reason why;
    if (model_open(argv[1], true, &m, &why)) {
        fprintf(stderr, "%s\n", why.text);
        return 1;
    }
    s.m = m;
    const bool ok = make_pool(&s, pool_bytes) && run_cells(&s, cells, sizeof cells / sizeof *cells);
    pages_free(s.pool, pool_bytes);
    model_close(&m);
    return ok ? 0 : 1;
}
