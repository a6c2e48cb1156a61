/* Private to the probe's files: what its parts share. */
#ifndef COLDSTREAM_PROBE_PRIVATE_H
#define COLDSTREAM_PROBE_PRIVATE_H

#include "core/pool.h"
#include "cpu/cpu.h"
#include "engine/probe.h"

/* Shares of the time. */
#define PROBE_RAM 0.2
#define PROBE_KERNELS 0.42
#define PROBE_BARRIER 0.03
#define PROBE_DRIVE 0.35

struct probe {
    const struct probe_options *o;
    struct facts *facts;
    struct cpu_ops ops;
    struct pool *team; /* all threads */
    unsigned threads;
    uint8_t *buffer; /* more than any cache holds; every page touched */
    uint64_t bytes;
    double seconds;             /* to be spent in all */
    double share;               /* of the whole that is done */
    unsigned figures, unsteady; /* taken so far; of those, with runs far apart */
};

/* Say what comes next; `part`: its share of the whole. ERR_CANCELLED when the caller wants to stop. */
enum err probe_enter(struct probe *p, const char *what, double part, struct reason *why) MUST_USE;
bool probe_stopped(const struct probe *p);
enum err probe_cancel(struct reason *why);
double probe_seconds_since(uint64_t begin_ns);
double probe_quantile(double *values, unsigned n, double part); /* sorts them; n >= 1 */

/* Each replaces its fields of p->facts; `seconds` is what it may spend. */
enum err probe_ram(struct probe *p, double seconds, struct reason *why) MUST_USE;
enum err probe_kernels(struct probe *p, double seconds, struct reason *why) MUST_USE;
enum err probe_barrier(struct probe *p, double seconds, struct reason *why) MUST_USE;
enum err probe_drive(struct probe *p, double seconds, struct reason *why) MUST_USE;

#endif
