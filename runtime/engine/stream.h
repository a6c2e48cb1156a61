/* Reads of file ranges into memory, in the background: the three calls every backend offers.
 *
 * A stream knows no experts, retries nothing and interprets nothing: it reports what the system said, request by request.
 * What to do about errors and short reads is fetch.c's business. A stream may move between threads, but only one may be inside
 * it at a time (the owner's lock sees to that). Destination memory must stay valid until the result was reaped or the stream
 * was closed. Backends: io_uring (stream_uring.c), and a few pread threads where io_uring is denied (stream_pread.c).
 *
 * A read is in flight from the moment it was taken until its result was reaped. */
#ifndef COLDSTREAM_STREAM_H
#define COLDSTREAM_STREAM_H

#include "core/core.h"

enum { STREAM_MAX_DEPTH = 4096, STREAM_MAX_THREADS = 64, STREAM_MAX_READ = 1 << 30 };

struct stream_read {
    uint32_t file;   /* index into the descriptors given at opening */
    uint64_t offset; /* with O_DIRECT descriptors, offset, bytes and `to` are multiples of the file system's block */
    uint64_t bytes;  /* 1 .. STREAM_MAX_READ */
    void *to;
    uint64_t tag;    /* comes back with the result */
};

struct stream_result {
    uint64_t tag;
    int64_t got; /* bytes read (0: end of file), or -errno */
};

struct stream;

struct stream_ops {
    const char *name; /* "io_uring", "pread" */
    /* Start reads[0..n), in one system call where the backend can. Returns how many were taken, in order: fewer than n when
     * `depth` requests are in flight. Does not wait for the drive. */
    unsigned (*submit)(struct stream *s, const struct stream_read *reads, unsigned n);
    /* Take up to `max` results. Waits until there is one, at most `timeout_ns` (0: only looks). Returns how many; 0 when time
     * ran out or nothing is in flight. */
    unsigned (*reap)(struct stream *s, struct stream_result *out, unsigned max, uint64_t timeout_ns);
    /* Waits for reads the system is at (a submitted block read cannot be cancelled), drops those nobody began, then frees
     * everything, `s` included. No destination is written to afterwards. */
    void (*close)(struct stream *s);
};

struct stream { /* the head of each backend's own struct */
    const struct stream_ops *ops;
    unsigned depth; /* most requests in flight */
};

/* `fds` [n_fds] are borrowed and must stay open; not O_NONBLOCK. ERR_UNSUPPORTED, with the errno in `why`, where the system
 * denies io_uring or the kernel lacks something. Of `threads`, fewer are used when no more can be started. */
enum err stream_uring_open(unsigned depth, const int *fds, unsigned n_fds, struct stream **out, struct reason *why) MUST_USE;
enum err stream_pread_open(unsigned threads, unsigned depth, const int *fds, unsigned n_fds, struct stream **out,
                           struct reason *why) MUST_USE;

#endif
