/* Groups of ranges on top of a stream: widening to whole pages, continuing, repeating, giving up.
 *
 * An entry is a group under way, a part one of its ranges; a part has at most one read at the stream, whose tag is the part's
 * number. A part is pending (in `pending`, to be sent), flying (the stream has it), or over. An entry is reported when none of
 * its parts flies any more; only when patience ran out it is reported early, and stays busy until the reads really end.
 *
 *   file   |----begin=======offset#############need=====end----|     begin, end: multiples of FETCH_ALIGN
 *   memory      to          to+offset-begin                          end may lie beyond the file: its last page is short
 *
 * Owns the stream and the O_DIRECT descriptors; the model's own descriptors serve the page cache. Never allocates after
 * opening, never interprets what it reads. */
#include "engine/fetch.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    DEFAULT_GROUPS = 8,
    MAX_GROUPS = STREAM_MAX_DEPTH / FETCH_EXTENTS,
    DEFAULT_THREADS = 4,
    QUICK_REPEATS = 3,
    REAP_BATCH = 64
};

#define DEFAULT_PATIENCE_NS ((uint64_t)60 * 1000000000u)
#define FIRST_PAUSE_NS ((uint64_t)1000000)
#define MAX_PAUSE_DOUBLINGS 6

struct fetch_file {
    const struct model_file *of;
    int direct_fd;     /* -1: none */
    bool direct;       /* reads go there */
    bool direct_works; /* one succeeded: a refusal later is about one read, not about the file */
    uint64_t device, inode, bytes;
    struct timespec modified;
};

struct part {
    uint64_t begin, at, need, end; /* file offsets; `at`: the next byte to read */
    uint8_t *to;                   /* where byte `begin` goes */
    uint64_t sent_ns;              /* when its read was handed over */
    uint64_t not_before_ns, paused_ns;
    unsigned repeats, eio; /* EINTR and its like in a row; EIO in all */
    uint32_t file;
    bool flying, flying_directly;
    bool buffered; /* O_DIRECT was refused for it */
};

enum entry_state { ENTRY_FREE, ENTRY_ACTIVE, ENTRY_FAILING, ENTRY_LENT };

struct entry {
    enum entry_state state;
    struct part parts[FETCH_EXTENTS];
    unsigned n_parts, n_left, n_flying; /* left: bytes missing */
    bool queued;                        /* in `done` */
    bool reported;                      /* a lent one: its failure was */
    uint64_t tag, bytes, start_ns, ns;
    enum err code;
    struct reason why;
};

struct fetch {
    struct stream *stream;
    const char *backend;
    uint64_t patience_ns;
    struct log_sink log;
    struct fetch_file *files; /* [n_files] */
    uint32_t n_files;
    struct entry *entries; /* [n_entries] */
    uint32_t n_entries, n_busy, n_flying;
    uint32_t *pending; /* [n_entries * FETCH_EXTENTS] part numbers, in order */
    uint32_t n_pending;
    struct stream_read *reads; /* [n_entries * FETCH_EXTENTS] scratch of send() */
    uint32_t *done;            /* ring [n_entries] of entries to be reported */
    uint32_t done_at, n_done;
    uint64_t busy_since_ns;
    struct fetch_counters counters;
};

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* False where the file system says that our alignment is not enough, or that there is no direct reading at all. */
static bool alignment_suits(int fd) {
    struct statx s;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &s) || !(s.stx_mask & STATX_DIOALIGN)) return true; /* unknown: try */
    return s.stx_dio_offset_align && s.stx_dio_offset_align <= FETCH_ALIGN && s.stx_dio_mem_align <= FETCH_ALIGN;
}

static bool is_same_file(const struct stat *s, const struct fetch_file *f) {
    return s->st_dev == f->device && s->st_ino == f->inode;
}

/* A second descriptor of the same file, even if it was renamed since. -1 with errno. */
static int open_direct(const struct fetch_file *f) {
    char link[64];
    struct stat s;
    snprintf(link, sizeof link, "/proc/self/fd/%d", f->of->fd);
    int fd = open(link, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd >= 0 || errno == EINVAL || errno == EMFILE) return fd;
    /* no /proc: by name, if it is still that file */
    if (stat(f->of->path, &s) != 0 || !is_same_file(&s, f)) return -1;
    fd = open(f->of->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &s) != 0 || !is_same_file(&s, f))) {
        close(fd);
        errno = ENOENT;
        return -1;
    }
    return fd;
}

static void use_page_cache(struct fetch *f, struct fetch_file *file, const char *reason) {
    file->direct = false;
    /* whole ranges are asked for anyway; reading ahead of them would only push out what else is cached */
    (void)posix_fadvise(file->of->fd, 0, 0, POSIX_FADV_RANDOM);
    if (reason) log_line(&f->log, LOG_INFO, "%s: reading through the page cache: %s", file->of->path, reason);
}

static enum err open_file(struct fetch *f, struct fetch_file *file, const struct model_file *of, bool no_direct_io,
                          struct reason *why) {
    struct stat s;
    file->of = of;
    if (fstat(of->fd, &s) != 0) return fail(why, ERR_IO, "%s: %s", of->path, strerror(errno));
    if ((uint64_t)s.st_size != of->bytes)
        return fail(why, ERR_IO, "%s: the file had %llu bytes a moment ago and has %lld now; load it when it is complete", of->path,
                    (unsigned long long)of->bytes, (long long)s.st_size);
    file->device = s.st_dev;
    file->inode = s.st_ino;
    file->bytes = (uint64_t)s.st_size;
    file->modified = s.st_mtim;
    if (no_direct_io) {
        use_page_cache(f, file, NULL);
    } else if (!alignment_suits(of->fd)) {
        use_page_cache(f, file, "O_DIRECT is not offered, or not for pages of 4096 bytes");
    } else if ((file->direct_fd = open_direct(file)) < 0) {
        use_page_cache(f, file, strerror(errno));
    } else {
        file->direct = true;
    }
    return ERR_NONE;
}

static bool any_direct(const struct fetch *f) {
    for (uint32_t i = 0; i < f->n_files; i++)
        if (f->files[i].direct) return true;
    return false;
}

/* Two descriptors a file: 2 * file directly, 2 * file + 1 through the page cache. The page cache is left to threads: a ring
 * copies what is cached on the submitting thread, one read after the other. */
static enum err open_stream(struct fetch *f, const struct fetch_options *o, struct reason *why) {
    int *fds = calloc_checked(2 * (uint64_t)f->n_files, sizeof *fds);
    if (!fds) return fail(why, ERR_NO_MEMORY, "no memory for %u descriptors", 2 * f->n_files);
    for (uint32_t i = 0; i < f->n_files; i++) {
        fds[2 * i + 1] = f->files[i].of->fd;
        fds[2 * i] = f->files[i].direct_fd >= 0 ? f->files[i].direct_fd : fds[2 * i + 1];
    }
    const unsigned depth = f->n_entries * FETCH_EXTENTS, threads = o->threads ? o->threads : DEFAULT_THREADS;
    struct reason denied = {{0}};
    enum err code = ERR_NONE;
    bool use_threads = o->kind == STREAM_PREAD || (o->kind == STREAM_AUTO && !any_direct(f));
    if (!use_threads) code = stream_uring_open(depth, fds, 2 * f->n_files, &f->stream, &denied);
    if (code == ERR_UNSUPPORTED && o->kind == STREAM_AUTO) {
        use_threads = true;
        log_line(&f->log, LOG_INFO, "%s; reading with %u threads", denied.text, threads);
    }
    if (use_threads) code = stream_pread_open(threads, depth, fds, 2 * f->n_files, &f->stream, &denied);
    free(fds);
    if (code) return fail(why, code, "%s", denied.text);
    f->backend = f->stream->ops->name;
    if (o->wrap && !(f->stream = o->wrap(o->wrap_ctx, f->stream)))
        return fail(why, ERR_NO_MEMORY, "no memory to wrap the stream");
    return ERR_NONE;
}

enum err fetch_open(const struct model *m, const struct fetch_options *options, struct fetch **out, struct reason *why) {
    *out = NULL;
    const unsigned groups = options->groups ? options->groups : DEFAULT_GROUPS;
    if (groups > MAX_GROUPS) return fail(why, ERR_ARGUMENT, "%u groups in flight; %d are possible", groups, MAX_GROUPS);
    struct fetch *f = calloc_checked(1, sizeof *f);
    if (!f) return fail(why, ERR_NO_MEMORY, "no memory for the reader");
    f->patience_ns = options->patience_ns ? options->patience_ns : DEFAULT_PATIENCE_NS;
    f->log = options->log;
    f->n_entries = groups;
    f->n_files = (uint32_t)m->n_files;
    f->files = calloc_checked(f->n_files, sizeof *f->files);
    f->entries = calloc_checked(groups, sizeof *f->entries);
    f->pending = calloc_checked((uint64_t)groups * FETCH_EXTENTS, sizeof *f->pending);
    f->reads = calloc_checked((uint64_t)groups * FETCH_EXTENTS, sizeof *f->reads);
    f->done = calloc_checked(groups, sizeof *f->done);
    enum err code = ERR_NO_MEMORY;
    if (!f->files || !f->entries || !f->pending || !f->reads || !f->done) {
        fail(why, code, "no memory for %u groups in flight", groups);
        goto fail;
    }
    for (uint32_t i = 0; i < f->n_files; i++) f->files[i].direct_fd = -1;
    for (uint32_t i = 0; i < f->n_files; i++)
        if ((code = open_file(f, &f->files[i], &m->files[i], options->no_direct_io, why))) goto fail;
    if ((code = open_stream(f, options, why))) goto fail;
    *out = f;
    return ERR_NONE;

fail:
    fetch_close(&f);
    return code;
}

void fetch_close(struct fetch **fetch) {
    struct fetch *f = *fetch;
    if (!f) return;
    *fetch = NULL;
    if (f->stream) f->stream->ops->close(f->stream);
    for (uint32_t i = 0; f->files && i < f->n_files; i++)
        if (f->files[i].direct_fd >= 0) close(f->files[i].direct_fd);
    free(f->files);
    free(f->entries);
    free(f->pending);
    free(f->reads);
    free(f->done);
    free(f);
}

enum err fetch_check_files(const struct fetch *f, struct reason *why) {
    for (uint32_t i = 0; i < f->n_files; i++) {
        const struct fetch_file *file = &f->files[i];
        struct stat s;
        if (fstat(file->of->fd, &s) != 0) return fail(why, ERR_IO, "%s: %s", file->of->path, strerror(errno));
        if ((uint64_t)s.st_size != file->bytes)
            return fail(why, ERR_IO, "%s: the file had %llu bytes when it was opened and has %lld now; load the model again",
                        file->of->path, (unsigned long long)file->bytes, (long long)s.st_size);
        if (s.st_mtim.tv_sec != file->modified.tv_sec || s.st_mtim.tv_nsec != file->modified.tv_nsec)
            return fail(why, ERR_IO, "%s: the file was written to since it was opened; load the model again", file->of->path);
    }
    return ERR_NONE;
}

/* ---- entries ---------------------------------------------------------------------------------------------------- */

static void report_later(struct fetch *f, struct entry *e) {
    assert(!e->queued);
    e->queued = true;
    f->done[(f->done_at + f->n_done++) % f->n_entries] = (uint32_t)(e - f->entries);
}

static void drop_pending(struct fetch *f, const struct entry *e) {
    const uint32_t number = (uint32_t)(e - f->entries);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->n_pending; i++)
        if (f->pending[i] / FETCH_EXTENTS != number) f->pending[kept++] = f->pending[i];
    f->n_pending = kept;
}

/* The group failed; e->why is written. It is reported once nothing of it flies. */
static void fail_entry(struct fetch *f, struct entry *e, enum err code) {
    e->state = ENTRY_FAILING;
    e->code = code;
    drop_pending(f, e);
}

static void fail_part(struct fetch *f, struct entry *e, const struct part *p, const char *what) {
    fail_entry(f, e,
               fail(&e->why, ERR_IO, "%s: reading %llu bytes at offset %llu: %s", f->files[p->file].of->path,
                    (unsigned long long)(p->need - p->at), (unsigned long long)p->at, what));
}

/* After an answer: is the entry over? */
static void settle(struct fetch *f, struct entry *e, uint64_t now) {
    if (e->n_flying) return;
    if (e->state == ENTRY_LENT) {
        if (e->queued) return; /* its failure has not been taken yet: one report is enough */
        e->code = fail(&e->why, ERR_CANCELLED, "the late reads ended; the memory is free");
        report_later(f, e);
    } else if (e->state == ENTRY_FAILING || !e->n_left) {
        e->ns = now - e->start_ns;
        report_later(f, e);
    }
}

void fetch_start(struct fetch *f, const struct fetch_group *group) {
    assert(group->n >= 1 && group->n <= FETCH_EXTENTS && fetch_free(f) > 0);
    struct entry *e = f->entries;
    while (e->state != ENTRY_FREE) e++;
    e->state = ENTRY_ACTIVE;
    e->tag = group->tag;
    e->n_parts = e->n_left = group->n;
    e->n_flying = 0;
    e->queued = e->reported = false;
    e->code = ERR_NONE;
    e->bytes = 0;
    e->start_ns = clock_ns();
    for (uint32_t i = 0; i < group->n; i++) {
        const struct extent *x = &group->extents[i];
        assert(x->file < f->n_files && x->bytes && (uintptr_t)x->to % FETCH_ALIGN == 0);
        const uint64_t begin = x->offset & ~(uint64_t)(FETCH_ALIGN - 1);
        e->parts[i] = (struct part){.begin = begin,
                                    .at = begin,
                                    .need = x->offset + x->bytes,
                                    .end = round_up(x->offset + x->bytes, FETCH_ALIGN),
                                    .to = x->to,
                                    .file = x->file};
        e->bytes += x->bytes;
        f->pending[f->n_pending++] = (uint32_t)(e - f->entries) * FETCH_EXTENTS + i;
    }
    f->n_busy++;
}

/* ---- to the stream and back ------------------------------------------------------------------------------------- */

static struct entry *entry_of(struct fetch *f, uint32_t number) { return &f->entries[number / FETCH_EXTENTS]; }
static struct part *part_of(struct fetch *f, uint32_t number) { return &entry_of(f, number)->parts[number % FETCH_EXTENTS]; }

static struct stream_read next_read(const struct fetch *f, const struct part *p, uint32_t number) {
    /* a short direct read can leave an unaligned rest, which only the page cache can serve */
    const bool direct = f->files[p->file].direct && !p->buffered && p->at % FETCH_ALIGN == 0;
    const uint64_t left = p->end - p->at;
    return (struct stream_read){2 * p->file + !direct, p->at, left < STREAM_MAX_READ ? left : STREAM_MAX_READ,
                                p->to + (p->at - p->begin), number};
}

/* Sends what is due, in order. Returns when to try the next pending part; UINT64_MAX: none waits. */
static uint64_t send_due(struct fetch *f, uint64_t now) {
    uint32_t n = 0, kept = 0;
    uint64_t next_ns = UINT64_MAX;
    for (uint32_t i = 0; i < f->n_pending; i++) { /* due ones to reads[], the others to the front of pending[] */
        const uint32_t number = f->pending[i];
        const struct part *p = part_of(f, number);
        if (p->not_before_ns <= now) {
            f->reads[n++] = next_read(f, p, number);
        } else {
            f->pending[kept++] = number;
            if (p->not_before_ns < next_ns) next_ns = p->not_before_ns;
        }
    }
    const unsigned sent = n ? f->stream->ops->submit(f->stream, f->reads, n) : 0;
    for (uint32_t i = 0; i < sent; i++) {
        struct part *p = part_of(f, (uint32_t)f->reads[i].tag);
        p->flying = true;
        p->flying_directly = f->reads[i].file % 2 == 0;
        p->sent_ns = now;
        entry_of(f, (uint32_t)f->reads[i].tag)->n_flying++;
    }
    if (sent && !f->n_flying) f->busy_since_ns = now;
    f->n_flying += sent;
    f->counters.requests += sent;
    for (uint32_t i = sent; i < n; i++) f->pending[kept++] = (uint32_t)f->reads[i].tag; /* the stream is full */
    f->n_pending = kept;
    return sent < n && now + FIRST_PAUSE_NS < next_ns ? now + FIRST_PAUSE_NS : next_ns;
}

void fetch_send(struct fetch *f) {
    if (f->n_pending) (void)send_due(f, clock_ns());
}

static void send_again(struct fetch *f, uint32_t number, uint64_t pause_ns, uint64_t now) {
    struct part *p = part_of(f, number);
    p->not_before_ns = now + pause_ns;
    p->paused_ns += pause_ns;
    f->pending[f->n_pending++] = number;
}

static uint64_t pause_after(unsigned repeats) {
    if (repeats <= QUICK_REPEATS) return 0;
    const unsigned doublings = repeats - QUICK_REPEATS - 1;
    return FIRST_PAUSE_NS << (doublings < MAX_PAUSE_DOUBLINGS ? doublings : MAX_PAUSE_DOUBLINGS);
}

static void on_bytes(struct fetch *f, uint32_t number, uint64_t got, uint64_t now) {
    struct entry *e = entry_of(f, number);
    struct part *p = part_of(f, number);
    const uint64_t asked = next_read(f, p, number).bytes;
    assert(got <= asked);
    if (p->flying_directly) f->files[p->file].direct_works = true;
    p->at += got;
    p->repeats = 0;
    p->paused_ns = 0;
    if (p->at >= p->need) {
        e->n_left--;
        return;
    }
    if (got < asked) f->counters.short_reads++;
    send_again(f, number, 0, now);
}

static void on_error(struct fetch *f, uint32_t number, int error, uint64_t now) {
    struct entry *e = entry_of(f, number);
    struct part *p = part_of(f, number);
    struct fetch_file *file = &f->files[p->file];
    char text[96];
    if (error == EINTR || error == EAGAIN || error == ECANCELED) { /* the last: the thread that had sent it has ended */
        const uint64_t pause_ns = pause_after(++p->repeats);
        if (p->paused_ns + pause_ns <= f->patience_ns) {
            f->counters.retries++;
            send_again(f, number, pause_ns, now);
            return;
        }
    } else if (error == EINVAL && p->flying_directly) { /* O_DIRECT was not meant after all */
        p->buffered = true;
        if (file->direct && !file->direct_works) use_page_cache(f, file, "O_DIRECT was refused by a read");
        f->counters.retries++;
        send_again(f, number, 0, now);
        return;
    } else if (error == EIO && ++p->eio < FETCH_EIO_TRIES) {
        f->counters.retries++;
        send_again(f, number, FIRST_PAUSE_NS << p->eio, now);
        return;
    }
    if (error == EIO)
        snprintf(text, sizeof text, "%s (tried %d times)", strerror(error), FETCH_EIO_TRIES);
    else
        snprintf(text, sizeof text, "%s", strerror(error));
    fail_part(f, e, p, text);
}

static void on_result(struct fetch *f, const struct stream_result *r, uint64_t now) {
    assert(r->tag < f->n_entries * FETCH_EXTENTS);
    const uint32_t number = (uint32_t)r->tag;
    struct entry *e = entry_of(f, number);
    struct part *p = part_of(f, number);
    assert(p->flying);
    p->flying = false;
    e->n_flying--;
    if (--f->n_flying == 0) f->counters.busy_ns += now - f->busy_since_ns;
    if (e->state == ENTRY_ACTIVE) {
        if (r->got > 0)
            on_bytes(f, number, (uint64_t)r->got, now);
        else if (r->got < 0)
            on_error(f, number, (int)-r->got, now);
        else
            fail_part(f, e, p, "the file ends there; it was cut or is incomplete");
    }
    settle(f, e, now);
}

/* Groups with a read that was sent too long ago are failed; returns when the next one will be. */
static uint64_t give_up_stalled(struct fetch *f, uint64_t now) {
    uint64_t next_ns = UINT64_MAX;
    for (uint32_t i = 0; f->n_flying && i < f->n_entries; i++) {
        struct entry *e = &f->entries[i];
        if ((e->state != ENTRY_ACTIVE && e->state != ENTRY_FAILING) || !e->n_flying) continue;
        const struct part *oldest = NULL;
        for (unsigned k = 0; k < e->n_parts; k++)
            if (e->parts[k].flying && (!oldest || e->parts[k].sent_ns < oldest->sent_ns)) oldest = &e->parts[k];
        const uint64_t end = oldest->sent_ns > UINT64_MAX - f->patience_ns ? UINT64_MAX : oldest->sent_ns + f->patience_ns;
        if (now >= end) {
            char text[96];
            snprintf(text, sizeof text, "no answer for %.1f s", (double)(now - oldest->sent_ns) * 1e-9);
            if (e->state == ENTRY_ACTIVE) fail_part(f, e, oldest, text); /* else the first cause stays */
            e->state = ENTRY_LENT;
            e->ns = now - e->start_ns;
            report_later(f, e);
        } else if (end < next_ns) {
            next_ns = end;
        }
    }
    return next_ns;
}

static void take_results(struct fetch *f, uint64_t timeout_ns) {
    struct stream_result results[REAP_BATCH];
    for (unsigned n = REAP_BATCH; n == REAP_BATCH && f->n_flying; timeout_ns = 0) {
        n = f->stream->ops->reap(f->stream, results, REAP_BATCH, timeout_ns);
        const uint64_t now = clock_ns();
        for (unsigned i = 0; i < n; i++) on_result(f, &results[i], now);
    }
}

static void report(struct fetch *f, struct fetch_done *out) {
    struct entry *e = &f->entries[f->done[f->done_at]];
    f->done_at = (f->done_at + 1) % f->n_entries;
    f->n_done--;
    e->queued = false;
    *out = (struct fetch_done){e->tag, e->code, e->code ? &e->why : NULL, e->n_flying > 0, e->bytes, e->ns};
    struct fetch_counters *c = &f->counters;
    if (!e->code) {
        c->groups++;
        c->bytes += e->bytes;
        c->sum_ns += e->ns;
        if (e->ns > c->max_ns) c->max_ns = e->ns;
    } else if (!e->reported) {
        c->failures++;
    }
    e->reported = true;
    if (e->n_flying) return; /* lent: comes again when they end */
    e->state = ENTRY_FREE;
    f->n_busy--;
}

unsigned fetch_poll(struct fetch *f, struct fetch_done *out, unsigned max, uint64_t timeout_ns) {
    if (!f->n_busy || !max) return 0;
    const uint64_t begin = clock_ns(), end = timeout_ns > UINT64_MAX - begin ? UINT64_MAX : begin + timeout_ns;
    for (uint64_t now = begin, wait_ns = 0;;) {
        take_results(f, wait_ns);
        if (f->n_flying || f->n_pending) now = clock_ns();
        const uint64_t due_ns = send_due(f, now), stall_ns = give_up_stalled(f, now);
        if (f->n_done || now >= end) break;
        uint64_t wake = due_ns < stall_ns ? due_ns : stall_ns;
        if (end < wake) wake = end;
        wait_ns = wake > now ? wake - now : 0;
        if (f->n_flying || !wait_ns) continue;
        /* everything pauses before it is tried again */
        const struct timespec nap = {(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
        nanosleep(&nap, NULL);
    }
    unsigned n = 0;
    while (n < max && f->n_done) report(f, &out[n++]);
    return n;
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

unsigned fetch_free(const struct fetch *f) { return f->n_entries - f->n_busy; }
unsigned fetch_busy(const struct fetch *f) { return f->n_busy; }
const char *fetch_backend(const struct fetch *f) { return f->backend; }
uint64_t fetch_patience_ns(const struct fetch *f) { return f->patience_ns; }

bool fetch_direct(const struct fetch *f) {
    for (uint32_t i = 0; i < f->n_files; i++)
        if (!f->files[i].direct) return false;
    return true;
}

void fetch_count(const struct fetch *f, struct fetch_counters *out) {
    *out = f->counters;
    if (f->n_flying) out->busy_ns += clock_ns() - f->busy_since_ns;
}
