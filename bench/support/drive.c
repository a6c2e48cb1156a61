#include "bench/support/drive.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/support/median.h"

static uint64_t below(uint64_t *state, uint64_t limit) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (*state >> 33) % limit;
}

/* One expert's share of a tensor whose last extent counts experts. */
static uint64_t add_matrix(struct fetch_group *g, const struct model_tensor *t, uint32_t expert, uint32_t n_experts, uint8_t *to) {
    const uint64_t bytes = t->bytes / n_experts;
    g->extents[g->n++] = (struct extent){t->file, t->offset + expert * bytes, bytes, to};
    return fetch_room(bytes);
}

static uint64_t make_group(const struct model *m, const struct model_layer *layer, uint32_t expert, uint8_t *to, struct fetch_group *g) {
    uint64_t at = 0;
    *g = (struct fetch_group){0};
    at += add_matrix(g, layer->gate, expert, m->shape.n_experts, to + at);
    if (layer->up) at += add_matrix(g, layer->up, expert, m->shape.n_experts, to + at);
    at += add_matrix(g, layer->down, expert, m->shape.n_experts, to + at);
    return at;
}

enum err drive_open(const struct model *m, uint64_t pool_bytes, struct drive *out, struct reason *why) {
    struct drive d = {.model = m, .pool_bytes = pool_bytes, .random = 1};
    void *pool;
    TRY(pages_alloc(pool_bytes, &pool, why));
    d.pool = memset(pool, 1, pool_bytes);
    for (uint32_t i = 0; i < m->shape.n_layers; i++) {
        struct fetch_group g;
        const uint64_t room = make_group(m, &m->layers[i], 0, d.pool, &g);
        if (room > d.slot_bytes) d.slot_bytes = room;
    }
    d.n_slots = pool_bytes / d.slot_bytes;
    if (d.n_slots < DRIVE_DEPTH_MAX) {
        pages_free(pool, pool_bytes);
        return fail(why, ERR_ARGUMENT, "the pool holds %llu experts; at least %d are needed", (unsigned long long)d.n_slots, DRIVE_DEPTH_MAX);
    }
    *out = d;
    return ERR_NONE;
}

void drive_close(struct drive *d) {
    if (d->pool) pages_free(d->pool, d->pool_bytes);
    *d = (struct drive){0};
}

static double thread_cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Somewhere in the file: what the drive does not know. */
static void pack(struct drive *d, struct fetch_group *g) {
    struct extent *e = &g->extents[0];
    for (uint32_t i = 1; i < g->n; i++) e->bytes += g->extents[i].bytes;
    e->offset = below(&d->random, (d->model->files[e->file].bytes - e->bytes) / FETCH_ALIGN) * FETCH_ALIGN;
    g->n = 1;
}

static void start(struct drive *d, struct fetch *f, unsigned tag, unsigned depth, bool packed) {
    const struct model *m = d->model;
    struct fetch_group g;
    const struct model_layer *layer = &m->layers[below(&d->random, m->shape.n_layers)];
    const uint64_t slot = below(&d->random, d->n_slots / depth) * depth + tag; /* no two of those in flight share one */
    make_group(m, layer, (uint32_t)below(&d->random, m->shape.n_experts), d->pool + slot * d->slot_bytes, &g);
    if (packed) pack(d, &g);
    g.tag = tag;
    fetch_start(f, &g);
}

enum err drive_read(struct drive *d, struct fetch *f, unsigned groups, unsigned depth, bool packed, struct drive_pass *out,
                    struct reason *why) {
    static double times[DRIVE_GROUPS_MAX];
    uint64_t bytes = 0;
    bool used[DRIVE_DEPTH_MAX] = {false};
    const double cpu = thread_cpu_s();
    const uint64_t begin = clock_ns();
    for (unsigned started = 0, ended = 0; ended < groups;) {
        for (unsigned i = 0; i < depth && started < groups; i++) {
            if (used[i]) continue;
            start(d, f, i, depth, packed);
            used[i] = true;
            started++;
        }
        fetch_send(f);
        struct fetch_done done[DRIVE_DEPTH_MAX];
        const unsigned n = fetch_poll(f, done, DRIVE_DEPTH_MAX, 1000000000u);
        for (unsigned i = 0; i < n; i++) {
            if (done[i].code) return fail(why, done[i].code, "%s", done[i].why->text);
            used[done[i].tag] = false;
            bytes += done[i].bytes;
            times[ended++] = 1e-9 * (double)done[i].ns;
        }
    }
    const double s = 1e-9 * (double)(clock_ns() - begin);
    *out = (struct drive_pass){(double)bytes / s, (thread_cpu_s() - cpu) / (double)bytes, median_of(times, groups)};
    return ERR_NONE;
}
