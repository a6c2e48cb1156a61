/* The probe's order of business: one buffer and one worker team, then memory, kernels, meetings, drive. */
#include "engine/probe.h"

#include <stdlib.h>
#include <string.h>

#include "engine/probe_private.h"

#define MIB ((uint64_t)1 << 20)

bool probe_stopped(const struct probe *p) { return p->o->should_stop && p->o->should_stop(p->o->ctx); }
enum err probe_cancel(struct reason *why) { return fail(why, ERR_CANCELLED, "measuring was cancelled"); }
double probe_seconds_since(uint64_t begin_ns) { return 1e-9 * (double)(clock_ns() - begin_ns); }

enum err probe_enter(struct probe *p, const char *what, double part, struct reason *why) {
    if (p->o->on_progress) p->o->on_progress(p->o->ctx, what, p->share);
    p->share += part;
    return probe_stopped(p) ? probe_cancel(why) : ERR_NONE;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double probe_quantile(double *values, unsigned n, double part) {
    qsort(values, n, sizeof *values, by_value);
    return values[(unsigned)(part * (n - 1) + 0.5)];
}

/* Each worker touches a share of its own: on several nodes, half of all reads are then near. Any byte would do that is a sane
 * weight in every type; 0x2c is 0.065 as binary16 and 2.4e-12 as binary32: no infinities, no denormals. */
static void touch(const struct worker *me, void *ctx) {
    const struct probe *p = ctx;
    const uint64_t each = p->bytes / me->count, begin = each * me->index;
    memset(p->buffer + begin, 0x2c, me->index + 1 == me->count ? p->bytes - begin : each);
}

/* Twice the last-level cache and never less than 1 GiB: with less, what was read once answers from a cache (streaming into
 * a reused 192 MB measured 1.5x what a run gets). */
static enum err take_buffer(struct probe *p, struct reason *why) {
    const struct facts *f = p->facts;
    const uint64_t cached = 2 * f->l3_bytes * (f->n_packages ? f->n_packages : 1);
    uint64_t most = f->memory_available_bytes / 2 < 4096 * MIB ? f->memory_available_bytes / 2 : 4096 * MIB;
    if (p->o->most_bytes) most = p->o->most_bytes;
    const uint64_t wanted = cached > 1024 * MIB ? cached : 1024 * MIB,
                   bytes = (wanted < most ? wanted : most) / (2 * MIB) * (2 * MIB);
    if (bytes < 32 * MIB)
        return fail(why, ERR_LIMIT, "measuring needs 32 MiB of memory at least; %llu MiB can be had",
                    (unsigned long long)(most / MIB));
    if (bytes < wanted)
        log_line(&p->o->log, LOG_WARN,
                 "measuring with %llu MiB of memory instead of %llu: caches may make rates look better than they are",
                 (unsigned long long)(bytes / MIB), (unsigned long long)(wanted / MIB));
    void *room;
    TRY(pages_alloc(bytes, &room, why));
    p->buffer = room;
    p->bytes = bytes;
    pool_run(p->team, touch, p);
    return ERR_NONE;
}

static enum err choose_isa(struct probe *p, struct reason *why) {
    const enum cpu_isa best = cpu_isa_best();
    enum cpu_isa isa = best;
    if (p->o->isa && !cpu_isa_from_name(span_of(p->o->isa), &isa))
        return fail(why, ERR_ARGUMENT, "--isa %s: known are ref, avx2, avx512", p->o->isa);
    if (isa > best) return fail(why, ERR_ARGUMENT, "--isa %s: this machine has %s at most", p->o->isa, cpu_isa_name(best));
    cpu_ops_init(&p->ops, isa);
    facts_set_text(p->facts->isa, sizeof p->facts->isa, cpu_isa_name(best));
    return ERR_NONE;
}

static enum err measure(struct probe *p, struct reason *why) {
    TRY(probe_enter(p, "memory", PROBE_RAM, why));
    TRY(take_buffer(p, why));
    TRY(probe_ram(p, p->seconds * PROBE_RAM, why));
    TRY(probe_enter(p, "kernels", 0, why));
    TRY(probe_kernels(p, p->seconds * PROBE_KERNELS, why));
    TRY(probe_enter(p, "meetings of the threads", PROBE_BARRIER, why));
    TRY(probe_barrier(p, p->seconds * PROBE_BARRIER, why));
    if (4 * p->unsteady > p->figures)
        log_line(&p->o->log, LOG_WARN,
                 "other programs disturbed the measurement; for better figures probe again when the machine is quiet");
    if (!p->o->model_path) return ERR_NONE;
    return probe_drive(p, p->seconds * PROBE_DRIVE, why);
}

enum err probe_run(const struct probe_options *options, struct facts *inout, struct reason *why) {
    struct probe *p = calloc_checked(1, sizeof *p);
    if (!p) return fail(why, ERR_NO_MEMORY, "no memory for the probe");
    p->o = options;
    p->facts = inout;
    p->seconds = options->seconds > 0 ? options->seconds : 4;
    p->threads = options->threads ? options->threads : inout->n_cores;
    enum err code = choose_isa(p, why);
    if (!code) code = pool_open(p->threads, inout->core_cpus, inout->n_cores, &p->team, why);
    if (!code) code = measure(p, why);
    pool_close(&p->team);
    pages_free(p->buffer, p->bytes);
    free(p);
    return code;
}
