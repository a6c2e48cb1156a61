/* Loading tensors. Each one gets its own 4 KiB-aligned place, shifted by its file offset mod 4096, so that an O_DIRECT read of
 * the enclosing pages lands the data without a copy (at most two pages lost a tensor). Pieces of a few MiB go through the
 * fetch, as many at a time as it takes; all reading is its business. */
#include "engine/weights.h"

#include <assert.h>
#include <stdlib.h>

enum { DONE_BATCH = 16 };

#define PAGE ((uint64_t)FETCH_ALIGN)
#define PIECE ((uint64_t)4 << 20) /* large enough for the drive's full rate, small enough to cancel between */
#define REPORT_NS ((uint64_t)100000000)

struct loader {
    const struct model *m;
    struct weights *w;
    const struct weights_load *how;
    const bool *wanted;
    struct reason *why;
    enum err failed; /* the first failure */
    size_t tensor;   /* where the next piece is cut */
    uint64_t from;   /* within that tensor's page-aligned superset */
    uint64_t done_bytes, total_bytes, last_report_ns;
};

static uint64_t superset_start(const struct model_tensor *t) { return t->offset & ~(PAGE - 1); }
static uint64_t superset_bytes(const struct model_tensor *t) {
    return round_up(t->offset + t->bytes, PAGE) - superset_start(t);
}

uint64_t weights_bytes(const struct model *m, const bool *wanted) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->n_tensors; i++)
        if (wanted[i]) bytes += superset_bytes(&m->tensors[i]); /* ranges lie inside files: cannot overflow */
    return bytes;
}

/* Lay the tensors out in file order. */
static void place_tensors(struct loader *l) {
    uint64_t at = 0;
    for (size_t i = 0; i < l->m->n_tensors; i++) {
        if (!l->wanted[i]) continue;
        const struct model_tensor *t = &l->m->tensors[i];
        l->w->data[i] = (const uint8_t *)l->w->base + at + (t->offset - superset_start(t));
        at += superset_bytes(t);
        l->total_bytes += t->bytes;
    }
}

/* The next piece as a group whose tag is the tensor's index; false: all were cut. */
static bool next_piece(struct loader *l, struct fetch_group *out) {
    while (l->tensor < l->m->n_tensors && !l->wanted[l->tensor]) l->tensor++;
    if (l->tensor == l->m->n_tensors) return false;
    const struct model_tensor *t = &l->m->tensors[l->tensor];
    const uint64_t start = superset_start(t), end_of_data = t->offset + t->bytes;
    const uint64_t begin = l->from ? start + l->from : t->offset;
    uint64_t end = start + l->from + PIECE;
    if (end > end_of_data) end = end_of_data;
    uint8_t *to = (uint8_t *)l->w->data[l->tensor] - (t->offset - start) + l->from;
    *out = (struct fetch_group){{{t->file, begin, end - begin, to}}, 1, l->tensor};
    l->from += PIECE;
    if (end == end_of_data) {
        l->tensor++;
        l->from = 0;
    }
    return true;
}

static void on_done(struct loader *l, const struct fetch_done *done) {
    if (!done->code) {
        l->done_bytes += done->bytes;
        return;
    }
    if (l->failed) return;
    const struct span name = l->m->tensors[done->tag].name;
    l->failed = fail(l->why, done->code, "loading tensor '%.*s': %s", (int)name.len, name.ptr, done->why->text);
}

static void report(struct loader *l) {
    const uint64_t now = clock_ns();
    if (!l->how->on_load || l->failed || now - l->last_report_ns < REPORT_NS) return;
    l->last_report_ns = now;
    if (l->how->on_load(l->how->ctx, l->done_bytes, l->total_bytes))
        l->failed = fail(l->why, ERR_CANCELLED, "loading was cancelled");
}

/* After a failure nothing new is started, but what is in flight still writes into the memory: it is waited for. */
static void load_all(struct loader *l) {
    struct fetch *f = l->how->fetch;
    struct fetch_done done[DONE_BATCH];
    struct fetch_group piece;
    for (bool more = true; more || fetch_busy(f);) {
        while (more && fetch_free(f) && (more = !l->failed && next_piece(l, &piece))) {
            fetch_start(f, &piece);
            fetch_send(f); /* one by one: sending makes memory of fresh pages, beside which the drive should already work */
        }
        const unsigned n = fetch_poll(f, done, DONE_BATCH, REPORT_NS);
        for (unsigned i = 0; i < n; i++) on_done(l, &done[i]);
        report(l);
    }
}

enum err weights_open(const struct model *m, const bool *wanted, const struct weights_load *how, struct weights *out,
                      struct reason *why) {
    assert(fetch_busy(how->fetch) == 0);
    *out = (struct weights){.bytes = weights_bytes(m, wanted), .data = calloc_checked(m->n_tensors, sizeof *out->data)};
    if (!out->data) return fail(why, ERR_NO_MEMORY, "no memory for the tensor table");
    struct loader l = {.m = m, .w = out, .how = how, .wanted = wanted, .why = why, .last_report_ns = clock_ns()};
    l.failed = pages_alloc(out->bytes, &out->base, why);
    if (!l.failed) {
        place_tensors(&l);
        load_all(&l);
    }
    if (l.failed)
        weights_close(out);
    else if (how->on_load)
        (void)how->on_load(how->ctx, l.total_bytes, l.total_bytes);
    return l.failed;
}

void weights_close(struct weights *w) {
    pages_free(w->base, w->bytes);
    free(w->data);
    *w = (struct weights){0};
}
