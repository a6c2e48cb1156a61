/* Groups of file ranges brought into memory whole: what lies between a stream and those who want weights.
 *
 * A group (an expert's matrices, a piece of a dense tensor) is reported once, when all its bytes are there or when it
 * failed for good. Continues short reads, repeats EINTR and EAGAIN, repeats EIO a bounded number of times, reads through the
 * page cache where O_DIRECT is refused, falls back from io_uring to pread threads, and names file and offset in errors.
 * One thread at a time, as with streams. No allocation after opening. */
#ifndef COLDSTREAM_FETCH_H
#define COLDSTREAM_FETCH_H

#include "engine/stream.h"
#include "model/model.h"

enum {
    FETCH_ALIGN = 4096,   /* of destinations; ranges are widened to multiples of it in the file */
    FETCH_EXTENTS = 9,    /* most ranges a group: an EXL3 expert's three matrices with two vectors of factors each */
    FETCH_EIO_TRIES = 4   /* reads of one range before EIO is believed */
};

/* AUTO: threads where io_uring is denied, and where no file can be read with O_DIRECT. */
enum stream_kind { STREAM_AUTO, STREAM_URING, STREAM_PREAD };

struct extent {
    uint32_t file; /* index into model->files */
    uint64_t offset, bytes;
    void *to; /* FETCH_ALIGN-aligned, fetch_room() bytes long; byte `offset` of the file lands at to + offset % FETCH_ALIGN */
};

/* Upper bound of the memory an extent of `bytes` needs wherever it begins. */
static inline uint64_t fetch_room(uint64_t bytes) { return round_up(bytes, FETCH_ALIGN) + FETCH_ALIGN; }

struct fetch_group {
    struct extent extents[FETCH_EXTENTS];
    uint32_t n;
    uint64_t tag;
};

struct fetch_done {
    uint64_t tag;
    enum err code;             /* ERR_NONE: all bytes are there. ERR_IO: they will not come. ERR_CANCELLED: a loan ended */
    const struct reason *why;  /* of a failure (else NULL); valid until the next fetch_start() or fetch_poll() */
    /* Only with ERR_IO, when patience ran out: the system still has a read of this group and may write into its memory. A
     * second report with the same tag and ERR_CANCELLED comes when it has not any more; until then the group counts as busy
     * and its memory must stay. Every other report means that nothing of the group is under way. */
    bool lent;
    uint64_t bytes;            /* of the group's extents, widening not counted */
    uint64_t ns;               /* from fetch_start() to the last byte */
};

struct fetch_options {
    enum stream_kind kind;
    unsigned groups;       /* most groups in flight, up to 455; 0: 8 */
    unsigned threads;      /* of the pread backend; 0: 4 */
    bool no_direct_io;
    uint64_t patience_ns;  /* a group with a read unanswered for that long fails (fetch_done.lent); 0: 60 s */
    /* Tests: stands between fetch.c and the backend, takes ownership of `inner`; NULL from it: no memory. May be NULL. */
    struct stream *(*wrap)(void *ctx, struct stream *inner);
    void *wrap_ctx;
    struct log_sink log;
};

struct fetch;

/* The model stays borrowed: its descriptors are used. ERR_UNSUPPORTED where STREAM_URING is asked for and denied. */
enum err fetch_open(const struct model *m, const struct fetch_options *options, struct fetch **out,
                    struct reason *why) MUST_USE;
/* Waits for reads the system is at; the groups' memory is free afterwards. */
void fetch_close(struct fetch **fetch);

/* Groups that can be started before one has to be reaped. */
unsigned fetch_free(const struct fetch *f);
unsigned fetch_busy(const struct fetch *f); /* groups started whose last report was not taken yet */
/* Queue a group; needs fetch_free() > 0. Nothing is sent before fetch_send() or fetch_poll(), so that a layer's misses go out
 * in one system call. */
void fetch_start(struct fetch *f, const struct fetch_group *group);
void fetch_send(struct fetch *f);
/* Groups that ended; waits for one at most `timeout_ns` (0: only looks) when any is busy. Also sends what is queued. */
unsigned fetch_poll(struct fetch *f, struct fetch_done *out, unsigned max, uint64_t timeout_ns);

struct fetch_counters {
    uint64_t groups, bytes;            /* ended well */
    uint64_t failures;                 /* groups that did not */
    uint64_t requests, retries, short_reads; /* reads sent; of those, after an error; answers with less than asked, continued */
    uint64_t busy_ns;                  /* time with something in flight */
    uint64_t sum_ns, max_ns;           /* of the groups' times */
};
void fetch_count(const struct fetch *f, struct fetch_counters *out);
const char *fetch_backend(const struct fetch *f); /* "io_uring", "pread" */
uint64_t fetch_patience_ns(const struct fetch *f);
bool fetch_direct(const struct fetch *f);         /* every file is read with O_DIRECT */

/* A file was cut or written to since the model was opened (size or mtime of the descriptor): ERR_IO with its name. Cheap: one
 * fstat a file. */
enum err fetch_check_files(const struct fetch *f, struct reason *why) MUST_USE;

#endif
