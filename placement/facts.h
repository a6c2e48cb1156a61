/* What this machine has, as plain values: the planner's input. Only facts_*.c look at the hardware. */
#ifndef COLDSTREAM_FACTS_H
#define COLDSTREAM_FACTS_H

#include "core/core.h"

enum { FACTS_MAX_CORES = 1024 };

struct facts {
    unsigned n_cores;                   /* physical cores this process may use */
    int core_cpus[FACTS_MAX_CORES];     /* one operating-system CPU id a core, its first hardware thread */
    uint64_t memory_total_bytes;        /* of the machine, or of the cgroup when that is smaller */
    uint64_t memory_available_bytes;    /* what can be taken now without swapping; honours cgroup limits and RLIMIT_AS */
};

enum err facts_read(struct facts *out, struct reason *why) MUST_USE;

#endif
