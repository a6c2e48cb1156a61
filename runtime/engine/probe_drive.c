/* The drive's rate, as streaming will meet it: random ranges of the model's own file into random places of a buffer that no
 * cache holds, past the page cache, with several requests in flight. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/drive.h"
#include "engine/probe_private.h"

enum { BLOCK = 4096, MOST_DEPTH = 24, MOST_LATENCIES = 1024, PASSES = 2, FEWEST_CELLS = 3, READERS = 4 };

/* 888832: an expert's Q4_K matrix of Qwen3-30B-A3B, widened to whole blocks. 24 requests: eight experts. */
static const struct shape {
    uint64_t request_bytes;
    unsigned depth;
} shapes[] = {{262144, 1}, {262144, 4},  {262144, 8},  {262144, 16}, {262144, 24}, {888832, 1}, {888832, 4},
              {888832, 8}, {888832, 16}, {888832, 24}, {4194304, 1}, {4194304, 4}, {4194304, 8}};

enum { SHAPES = sizeof shapes / sizeof *shapes };

struct cell { /* what was seen with one shape */
    uint64_t request_bytes, bytes;
    double seconds;
    unsigned n_latencies;
    double latencies[MOST_LATENCIES];
};

struct drive_bench {
    const char *path;
    int fd;
    uint64_t file_bytes;
    struct stream *stream;
    uint8_t *buffer;
    uint64_t buffer_bytes, seed;
    unsigned in_flight;
    uint64_t slots[MOST_DEPTH]; /* place of each tag's read; UINT64_MAX: the tag is free */
    uint64_t begin_ns[MOST_DEPTH], offsets[MOST_DEPTH];
    struct cell cells[SHAPES];
};

static uint64_t draw(struct drive_bench *b, uint64_t below) {
    b->seed ^= b->seed << 13; /* xorshift64 (Marsaglia 2003) */
    b->seed ^= b->seed >> 7;
    b->seed ^= b->seed << 17;
    return (b->seed >> 11) % below;
}

static bool slot_is_taken(const struct drive_bench *b, uint64_t slot) {
    for (int i = 0; i < MOST_DEPTH; i++)
        if (b->slots[i] == slot) return true;
    return false;
}

/* Another read of a random range into a random place that no read in flight uses. */
static struct stream_read next_read(struct drive_bench *b, uint64_t bytes) {
    const uint64_t n_slots = b->buffer_bytes / bytes, n_blocks = (b->file_bytes - bytes) / BLOCK + 1;
    unsigned tag = 0;
    uint64_t slot;
    while (b->slots[tag] != UINT64_MAX) tag++;
    do slot = draw(b, n_slots);
    while (slot_is_taken(b, slot));
    b->slots[tag] = slot;
    b->offsets[tag] = draw(b, n_blocks) * BLOCK;
    return (struct stream_read){0, b->offsets[tag], bytes, b->buffer + slot * bytes, tag};
}

static void submit(struct drive_bench *b, uint64_t bytes, unsigned depth) {
    struct stream_read reads[MOST_DEPTH];
    unsigned n = 0;
    while (b->in_flight + n < depth) reads[n++] = next_read(b, bytes);
    const uint64_t now = clock_ns();
    for (unsigned i = 0; i < n; i++) b->begin_ns[reads[i].tag] = now;
    const unsigned taken = n ? b->stream->ops->submit(b->stream, reads, n) : 0;
    for (unsigned i = taken; i < n; i++) b->slots[reads[i].tag] = UINT64_MAX;
    b->in_flight += taken;
}

static enum err reap(struct drive_bench *b, struct cell *c, struct reason *why) {
    struct stream_result results[MOST_DEPTH];
    const unsigned n = b->stream->ops->reap(b->stream, results, MOST_DEPTH, 10000000000u);
    if (n == 0) return fail(why, ERR_IO, "%s: the drive has not answered for 10 s", b->path);
    for (unsigned i = 0; i < n; i++) {
        const uint64_t tag = results[i].tag;
        b->slots[tag] = UINT64_MAX;
        b->in_flight--;
        if (results[i].got == -EINTR || results[i].got == -EAGAIN) continue;
        if (results[i].got <= 0)
            return fail(why, ERR_IO, "%s: reading at offset %llu: %s", b->path, (unsigned long long)b->offsets[tag],
                        results[i].got ? strerror((int)-results[i].got) : "the file was cut");
        c->bytes += (uint64_t)results[i].got;
        if (c->n_latencies < MOST_LATENCIES) c->latencies[c->n_latencies++] = probe_seconds_since(b->begin_ns[tag]);
    }
    return ERR_NONE;
}

/* Keep `depth` requests in flight for a while; until the last one is back the drive is busy, so that time counts too. */
static enum err run_cell(struct probe *p, struct drive_bench *b, const struct shape *shape, struct cell *c, double seconds,
                         struct reason *why) {
    const uint64_t begin = clock_ns();
    do {
        if (probe_seconds_since(begin) < seconds) submit(b, c->request_bytes, shape->depth);
        if (b->in_flight == 0) break;
        TRY(reap(b, c, why));
        if (probe_stopped(p)) return probe_cancel(why);
    } while (b->in_flight || probe_seconds_since(begin) < seconds);
    c->seconds += probe_seconds_since(begin);
    return ERR_NONE;
}

/* What fits the file and the buffer: of a tiny file the smallest size takes the whole, larger ones are left out (0). */
static uint64_t request_bytes(const struct drive_bench *b, const struct shape *shape) {
    const uint64_t whole = b->file_bytes / BLOCK * BLOCK, smallest = shapes[0].request_bytes;
    if (shape->request_bytes == smallest) return smallest < whole ? smallest : whole;
    return shape->request_bytes <= whole && shape->request_bytes * 2 * MOST_DEPTH <= b->buffer_bytes ? shape->request_bytes : 0;
}

/* The whole table in turns, so that a drive that drifts does so for all. When time is over the rest is left out: a slow drive's
 * table has holes. */
static enum err run_cells(struct probe *p, struct drive_bench *b, double seconds, struct reason *why) {
    /* What planning needs most comes first. */
    static const unsigned char order[SHAPES] = {9, 7, 5, 8, 6, 4, 12, 2, 0, 10, 11, 3, 1};
    const uint64_t begin = clock_ns();
    unsigned cells = 0;
    for (int pass = 0; pass < PASSES; pass++)
        for (int i = 0; i < SHAPES; i++) {
            const struct shape *shape = &shapes[order[i]];
            struct cell *c = &b->cells[order[i]];
            c->request_bytes = request_bytes(b, shape);
            if (c->request_bytes == 0) continue;
            if (cells++ >= FEWEST_CELLS && probe_seconds_since(begin) > seconds) return ERR_NONE;
            TRY(run_cell(p, b, shape, c, seconds / (PASSES * SHAPES), why));
        }
    return ERR_NONE;
}

/* ---- set-up ----------------------------------------------------------------------------------------------------- */

static enum err open_file(const struct probe *p, struct drive_bench *b, bool direct, struct reason *why) {
    struct stat info;
    b->fd = open(b->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (direct ? O_DIRECT : 0));
    if (b->fd < 0 && direct && errno == EINVAL) return fail(why, ERR_UNSUPPORTED, "%s: O_DIRECT is refused", b->path);
    if (b->fd < 0 || fstat(b->fd, &info) != 0) return fail(why, ERR_IO, "%s: %s", b->path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return fail(why, ERR_ARGUMENT, "%s: not a regular file", b->path);
    if (info.st_size < BLOCK)
        return fail(why, ERR_ARGUMENT, "%s: %lld bytes are too few to measure a drive with", b->path, (long long)info.st_size);
    b->file_bytes = (uint64_t)info.st_size;
    struct reason denied;
    enum err code = ERR_UNSUPPORTED;
    if (p->o->stream != STREAM_PREAD) code = stream_uring_open(MOST_DEPTH, &b->fd, 1, &b->stream, &denied);
    if (code && p->o->stream == STREAM_URING) return fail(why, code, "%s", denied.text);
    return code ? stream_pread_open(READERS, MOST_DEPTH, &b->fd, 1, &b->stream, why) : ERR_NONE;
}

static void close_file(struct drive_bench *b) {
    if (b->stream) b->stream->ops->close(b->stream);
    if (b->fd >= 0) close(b->fd);
    b->stream = NULL;
    b->fd = -1;
    b->in_flight = 0;
    for (int i = 0; i < MOST_DEPTH; i++) b->slots[i] = UINT64_MAX;
}

/* One read tells whether O_DIRECT works; not all file systems refuse it when opening. */
static bool first_read_works(struct drive_bench *b) {
    struct cell unused = {0};
    submit(b, BLOCK, 1);
    return b->in_flight && reap(b, &unused, NULL) == ERR_NONE;
}

static enum err open_best(const struct probe *p, struct drive_bench *b, bool *direct, struct reason *why) {
    *direct = !p->o->no_direct_io;
    if (*direct) {
        const enum err code = open_file(p, b, true, why);
        if (!code && first_read_works(b)) return ERR_NONE;
        close_file(b);
        if (code && code != ERR_UNSUPPORTED) return code;
    }
    *direct = false;
    TRY(open_file(p, b, false, why));
    (void)posix_fadvise(b->fd, 0, 0, POSIX_FADV_DONTNEED); /* memory would answer */
    (void)posix_fadvise(b->fd, 0, 0, POSIX_FADV_RANDOM);
    return ERR_NONE;
}

/* The drive's row in the facts, added when the topology does not list it. NULL: no room. */
static struct facts_drive *find_row(struct facts *f, int fd) {
    struct drive_id id;
    drive_of_file(fd, &id);
    struct facts_drive *d = (struct facts_drive *)facts_find_drive(f, id.name);
    if (d || f->n_drives == FACTS_MAX_DRIVES) return d;
    d = &f->drives[f->n_drives++];
    *d = (struct facts_drive){.node = FACTS_NO_NODE, .extra = true};
    memcpy(d->name, id.name, sizeof d->name);
    memcpy(d->model, id.model, sizeof d->model);
    return d;
}

static void store_rates(struct drive_bench *b, struct facts_drive *d) {
    d->n_rates = 0;
    for (int i = 0; i < SHAPES; i++) {
        struct cell *c = &b->cells[i];
        if (c->n_latencies)
            d->rates[d->n_rates++] = (struct facts_drive_rate){c->request_bytes, shapes[i].depth, (double)c->bytes / c->seconds,
                                                               probe_quantile(c->latencies, c->n_latencies, 0.5)};
    }
}

static enum err measure(struct probe *p, struct drive_bench *b, double seconds, struct reason *why) {
    bool direct;
    TRY(open_best(p, b, &direct, why));
    struct facts_drive *d = find_row(p->facts, b->fd);
    if (!d) {
        log_line(&p->o->log, LOG_WARN, "%s: more drives than a facts file holds; this one is left out", b->path);
        return ERR_NONE;
    }
    if (!direct && !p->o->no_direct_io)
        log_line(&p->o->log, LOG_WARN, "%s: O_DIRECT is refused here; reads go through the page cache", b->path);
    if (b->file_bytes < (uint64_t)1 << 30)
        log_line(&p->o->log, LOG_WARN, "%s: less than 1 GiB; the drive's own cache may answer faster than the drive", b->path);
    TRY(run_cells(p, b, seconds, why));
    d->direct_io = direct;
    store_rates(b, d);
    return ERR_NONE;
}

enum err probe_drive(struct probe *p, double seconds, struct reason *why) {
    struct drive_bench *b = calloc_checked(1, sizeof *b);
    if (!b) return fail(why, ERR_NO_MEMORY, "no memory to measure the drive");
    b->path = p->o->model_path;
    b->fd = -1;
    b->buffer = p->buffer;
    b->buffer_bytes = p->bytes;
    b->seed = clock_ns() | 1; /* another run must not find its ranges in the drive's cache */
    close_file(b);
    enum err code = probe_enter(p, "drive", PROBE_DRIVE, why);
    if (!code) code = measure(p, b, seconds, why);
    close_file(b); /* waits for reads in flight: the buffer goes away next */
    free(b);
    return code;
}
