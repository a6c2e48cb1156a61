/* Reads random experts of a model into random places of a buffer as large as a real pool: what the drive gives when nothing else
 * happens. Small buffers stay in caches and overstate the rate by half. */
#ifndef COLDSTREAM_BENCH_DRIVE_H
#define COLDSTREAM_BENCH_DRIVE_H

#include "engine/fetch.h"

enum { DRIVE_GROUPS_MAX = 1 << 16, DRIVE_DEPTH_MAX = 32 };

struct drive {
    const struct model *model; /* borrowed */
    uint8_t *pool;             /* every page of it touched: a running engine's pool has its pages */
    uint64_t pool_bytes, slot_bytes, n_slots;
    uint64_t random;
};
struct drive_pass {
    double bytes_per_s, cpu_s_per_byte, group_s; /* group_s: median; the CPU time is the calling thread's */
};

enum err drive_open(const struct model *m, uint64_t pool_bytes, struct drive *out, struct reason *why) MUST_USE;
void drive_close(struct drive *d);
/* Read `groups` experts, `depth` of them in flight, all matrices of one at their places in the file; or, `packed`, as many bytes as one
 * piece that begins on a page, as they would lie in a copy made for this. */
enum err drive_read(struct drive *d, struct fetch *f, unsigned groups, unsigned depth, bool packed, struct drive_pass *out,
                    struct reason *why) MUST_USE;

#endif
