/* How fast this machine is: measured with the engine's own kernels, worker team and streams, so that the numbers are those a
 * run will meet. Writes nothing, changes no setting, and lets go of all memory. */
#ifndef COLDSTREAM_PROBE_H
#define COLDSTREAM_PROBE_H

#include "engine/fetch.h"
#include "placement/facts.h"

struct probe_options {
    const char *model_path; /* a file on the drive to measure, the model's own; NULL: no drive is measured */
    const char *isa;        /* "ref", "avx2", "avx512"; NULL: best */
    unsigned threads;       /* 0: one per core */
    double seconds;         /* about how long; 0: 4 */
    uint64_t most_bytes;    /* of memory to measure with; 0: up to 4 GiB, at most half of what is free */
    enum stream_kind stream;
    bool no_direct_io;
    bool (*should_stop)(void *ctx); /* polled every few tens of milliseconds; true cancels. May be NULL */
    void (*on_progress)(void *ctx, const char *what,
                        double share); /* what is measured now, and how much is done. May be NULL */
    void *ctx;
    struct log_sink log;
};

/* `inout`: facts_read()'s; comes back with isa, ram_rates, kernels, barrier_s and the drive's rates replaced (the drive is
 * added when it was not listed). Other drives and GPUs stay as they are. ERR_CANCELLED when should_stop said so; after any
 * failure part of it may be filled in. */
enum err probe_run(const struct probe_options *options, struct facts *inout, struct reason *why) MUST_USE;

#endif
