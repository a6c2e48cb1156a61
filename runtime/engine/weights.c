/* Reading tensor data. Each tensor gets its own 4 KiB-aligned place, shifted by its file offset mod 4096, so that an O_DIRECT
 * read of the enclosing pages lands the data without a copy (at most two pages lost a tensor). Pieces of a few MiB are dealt
 * to a few reader threads. A short read is continued; a file that ends early is an error that names the tensor. */
#include "engine/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/pool.h"

#define PAGE ((uint64_t)4096)
#define PIECE ((uint64_t)8 << 20) /* large enough for the drive's full rate, small enough to share and to cancel between */
#define MAX_READERS 8

struct piece {
    uint32_t tensor;
    uint64_t from, bytes; /* within the tensor's page-aligned superset */
};

struct loader {
    const struct model *m;
    struct weights *w;
    const struct weights_load *how;
    int *direct_fds; /* [n_files]; -1: use the buffered descriptor */
    struct piece *pieces;
    uint32_t n_pieces;
    uint64_t total_bytes, last_report_ns;
    _Atomic uint64_t done_bytes;
    struct pool_counter next;
    _Atomic int failed; /* enum err of the first failure */
    _Atomic bool buffered; /* some file refused O_DIRECT */
    struct reason *why;
};

static uint64_t superset_start(const struct model_tensor *t) { return t->offset & ~(PAGE - 1); }
static uint64_t superset_bytes(const struct model_tensor *t) { return round_up(t->offset + t->bytes, PAGE) - superset_start(t); }

uint64_t weights_bytes(const struct model *m, const bool *wanted) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->n_tensors; i++)
        if (wanted[i]) bytes += superset_bytes(&m->tensors[i]); /* ranges lie inside files: cannot overflow */
    return bytes;
}

static void stop_with(struct loader *l, enum err code, const char *what, const struct piece *p, uint64_t at) {
    int none = 0;
    if (!__atomic_compare_exchange_n((int *)&l->failed, &none, (int)code, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return;
    const struct model_tensor *t = &l->m->tensors[p->tensor];
    fail(l->why, code, "%s: tensor '%.*s': %s at offset %llu", l->m->files[t->file].path, (int)t->name.len, t->name.ptr, what,
         (unsigned long long)at);
}

/* Read one piece; the last page of a file may end short once the tensor's own bytes are there. */
static void read_piece(struct loader *l, const struct piece *p) {
    const struct model_tensor *t = &l->m->tensors[p->tensor];
    uint8_t *to = (uint8_t *)l->w->data[p->tensor] - (t->offset - superset_start(t)) + p->from;
    const uint64_t start = superset_start(t) + p->from, end_of_data = t->offset + t->bytes;
    const uint64_t need = start + p->bytes < end_of_data ? p->bytes : end_of_data - start;
    bool direct = l->direct_fds[t->file] >= 0;
    for (uint64_t got = 0; got < need;) {
        const int fd = direct ? l->direct_fds[t->file] : l->m->files[t->file].fd;
        const ssize_t n = pread(fd, to + got, p->bytes - got, (off_t)(start + got));
        if (n > 0) {
            got += (uint64_t)n;
            /* a short direct read can leave an unaligned rest, which only the page cache can serve */
            if (got < need && (got & (PAGE - 1))) direct = false;
        } else if (n == 0) {
            stop_with(l, ERR_IO, "the file ends", p, start + got);
            return;
        } else if (errno == EINVAL && direct) {
            direct = false;
            l->buffered = true;
        } else if (errno != EINTR) {
            stop_with(l, ERR_IO, strerror(errno), p, start + got);
            return;
        }
    }
    l->done_bytes += need;
}

static void report(struct loader *l) {
    const uint64_t now = clock_ns();
    if (!l->how->on_load || now - l->last_report_ns < 100000000u) return;
    l->last_report_ns = now;
    if (l->how->on_load(l->how->ctx, l->done_bytes, l->total_bytes) && !l->failed) {
        l->failed = ERR_CANCELLED;
        fail(l->why, ERR_CANCELLED, "loading was cancelled");
    }
}

static void reader(const struct worker *me, void *ctx) {
    struct loader *l = ctx;
    for (uint32_t i; !l->failed && pool_next(&l->next, l->n_pieces, &i);) {
        read_piece(l, &l->pieces[i]);
        if (me->index == 0) report(l); /* from a reader's thread: on_load must not mind */
    }
}

/* Lay the tensors out in file order and cut them into pieces. */
static enum err plan_pieces(struct loader *l, const bool *wanted) {
    const struct model *m = l->m;
    uint64_t n = 0, at = 0;
    for (size_t i = 0; i < m->n_tensors; i++)
        if (wanted[i]) n += (superset_bytes(&m->tensors[i]) + PIECE - 1) / PIECE;
    if (n > UINT32_MAX / 2 || !(l->pieces = calloc_checked(n, sizeof *l->pieces)))
        return fail(l->why, ERR_NO_MEMORY, "no memory to plan the loading of %llu pieces", (unsigned long long)n);
    for (size_t i = 0; i < m->n_tensors; i++) {
        if (!wanted[i]) continue;
        const struct model_tensor *t = &m->tensors[i];
        const uint64_t bytes = superset_bytes(t);
        l->w->data[i] = (const uint8_t *)l->w->base + at + (t->offset - superset_start(t));
        for (uint64_t from = 0; from < bytes; from += PIECE)
            l->pieces[l->n_pieces++] = (struct piece){(uint32_t)i, from, bytes - from < PIECE ? bytes - from : PIECE};
        at += bytes;
        l->total_bytes += t->bytes;
    }
    return ERR_NONE;
}

static void open_direct(struct loader *l) {
    for (size_t i = 0; i < l->m->n_files; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", l->m->files[i].fd); /* the same file, even if it was renamed since */
        l->direct_fds[i] = l->how->no_direct_io ? -1 : open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
        if (l->direct_fds[i] < 0) l->buffered = true;
    }
}

enum err weights_open(const struct model *m, const bool *wanted, const struct weights_load *how, struct weights *out,
                      struct reason *why) {
    *out = (struct weights){0};
    struct loader l = {.m = m, .w = out, .how = how, .why = why, .last_report_ns = clock_ns()};
    struct pool *readers = NULL;
    enum err e = ERR_NO_MEMORY;
    l.direct_fds = calloc_checked(m->n_files, sizeof *l.direct_fds);
    out->data = calloc_checked(m->n_tensors, sizeof *out->data);
    if (!l.direct_fds || !out->data) {
        fail(why, e, "no memory for the tensor table");
        goto done;
    }
    for (size_t i = 0; i < m->n_files; i++) l.direct_fds[i] = -1;
    out->bytes = weights_bytes(m, wanted);
    if ((e = pages_alloc(out->bytes, &out->base, why)) || (e = plan_pieces(&l, wanted))) goto done;
    open_direct(&l);
    const unsigned n = how->readers < 1 ? 1 : how->readers > MAX_READERS ? MAX_READERS : how->readers;
    if ((e = pool_open(n, NULL, 0, &readers, why))) goto done;
    pool_run(readers, reader, &l);
    e = (enum err)l.failed;
    out->direct_io = !l.buffered;
    if (!e && how->on_load) (void)how->on_load(how->ctx, l.total_bytes, l.total_bytes);
done:
    pool_close(&readers);
    for (size_t i = 0; l.direct_fds && i < m->n_files; i++)
        if (l.direct_fds[i] >= 0) close(l.direct_fds[i]);
    free(l.direct_fds);
    free(l.pieces);
    if (e) weights_close(out);
    return e;
}

void weights_close(struct weights *w) {
    pages_free(w->base, w->bytes);
    free(w->data);
    *w = (struct weights){0};
}
