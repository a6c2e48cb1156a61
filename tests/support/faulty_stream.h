/* A stream that misbehaves by plan: stands between fetch.c and a real backend, counts requests, and answers some of them with
 * errors, short counts, ends of file, or late.
 *
 *     struct faulty faulty;
 *     faulty_init(&faulty, seed);
 *     faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EIO, .probability = 0.1});
 *     options.wrap_stream = faulty_wrap;  options.wrap_stream_ctx = &faulty;     (struct fetch_options: wrap, wrap_ctx)
 *     ...
 *     faulty_free(&faulty);      after the stream was closed
 *
 * What a request gets depends on its number and the seed alone. A failed or shortened read leaves 0xEE bytes where data did not
 * arrive, so that use of them shows. Held back requests reach the backend only when they are due, as late writes do. Plans may
 * be changed and counts read from any thread while the stream runs. */
#ifndef COLDSTREAM_TESTS_FAULTY_STREAM_H
#define COLDSTREAM_TESTS_FAULTY_STREAM_H

#include <pthread.h>

#include "engine/stream.h"

enum fault_kind {
    FAULT_NONE,
    FAULT_ERROR, /* -error instead of bytes */
    FAULT_SHORT, /* `bytes` arrive, or with 0 a random number from 1 to one less than asked */
    FAULT_END,   /* 0 bytes: the file ends */
    FAULT_DELAY  /* all is well, but late */
};

struct fault_rule {
    enum fault_kind kind;
    uint64_t from, count; /* requests from .. from + count - 1, numbered from 0 as they come; count 0: all from there */
    double probability;   /* of each of those; 0: every one */
    int error;
    uint64_t bytes;
    uint64_t delay_ns; /* before the answer, with any kind */
    bool direct_only;  /* spare reads of descriptors with odd numbers: fetch.c's through the page cache */
    bool bad_sector;   /* once it struck: all later requests that touch the same file offsets, too */
};

enum { FAULTY_RULES = 8, FAULTY_SECTORS = 64 };

struct bad_sector {
    uint64_t offset, bytes;
    unsigned rule;
};

struct faulty {
    pthread_mutex_t lock;
    uint64_t seed;
    struct fault_rule rules[FAULTY_RULES];
    unsigned n_rules;
    struct bad_sector sectors[FAULTY_SECTORS];
    unsigned n_sectors;
    uint64_t requests, faults, bytes; /* seen; answered wrongly or late; asked for */
};

void faulty_init(struct faulty *f, uint64_t seed);
void faulty_free(struct faulty *f);
/* Rules are tried in the order they were added; the first that strikes decides. */
void faulty_add(struct faulty *f, struct fault_rule rule);
/* No more rules and bad sectors. Counting of requests begins at 0 again. */
void faulty_clear(struct faulty *f);
uint64_t faulty_requests(struct faulty *f);
uint64_t faulty_faults(struct faulty *f);

/* For fetch_options.wrap and engine_options.wrap_stream; ctx: a struct faulty. */
struct stream *faulty_wrap(void *ctx, struct stream *inner);

#endif
