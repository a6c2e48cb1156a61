/* What the machine is, and its limits: memory, the bus, launching, handing over. The measured rates go into the facts that
 * the plans of models.c are made from. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench/report/report.h"

#define MIB (1024.0 * 1024.0)

static const struct column fact_columns[] = {{"what", "what"}, {"value", "value"}, {"unit", "unit"}};
enum { WHAT, VALUE, UNIT, FACT_COLUMNS };

static void fact_number(struct section *s, const char *what, double value, int digits, const char *unit) {
    section_row(s);
    section_text(s, WHAT, "%s", what);
    section_number(s, VALUE, value, digits);
    section_text(s, UNIT, "%s", unit);
}

static void fact_text(struct section *s, const char *what, const char *value) {
    section_row(s);
    section_text(s, WHAT, "%s", what);
    section_text(s, VALUE, "%s", value);
    section_text(s, UNIT, " ");
}

static void fact_version(struct section *s, const char *what, uint32_t version) {
    char text[32] = "not told";
    if (version) snprintf(text, sizeof text, "%u.%u", version / 1000, version % 1000 / 10);
    fact_text(s, what, text);
}

/* ---- facts ------------------------------------------------------------------------------------------------------------------ */

void report_device(struct bench *b) {
    struct section *s = section_open(&b->report, "device", "Device", fact_columns, FACT_COLUMNS);
    if (!b->gpu) {
        section_note(s, "**There is no GPU**: %s. Nothing below that needs one was measured.", b->why_no_gpu);
        return;
    }
    char capability[32];
    snprintf(capability, sizeof capability, "%u.%u", b->info.cc_major, b->info.cc_minor);
    fact_text(s, "name", b->info.name);
    if (b->info.emulated) section_note(s, "**This is the emulated device**: its times say nothing about any GPU.");
    fact_number(s, "multiprocessors", b->info.sm_count, 0, " ");
    fact_text(s, "compute capability", capability);
    fact_number(s, "VRAM", (double)b->info.vram_bytes / MIB, 0, "MiB");
    fact_number(s, "VRAM free before", (double)b->info.free_bytes / MIB, 0, "MiB");
    fact_number(s, "L2", (double)b->details.l2_bytes / MIB, 1, "MiB");
    fact_number(s, "clock", b->details.clock_mhz, 0, "MHz");
    fact_number(s, "memory clock", b->details.memory_clock_mhz, 0, "MHz");
    fact_number(s, "memory bus", b->details.memory_bus_bits, 0, "bits");
    fact_version(s, "CUDA of the driver", b->details.driver);
    fact_version(s, "CUDA of this program", b->details.runtime);
    struct gpu_memory m;
    b->gpu->ops->memory(b->gpu, &m);
    fact_number(s, "VRAM the context took", (double)m.overhead / MIB, 0, "MiB");
}

void report_host(struct bench *b) {
    struct section *s = section_open(&b->report, "host", "Host", fact_columns, FACT_COLUMNS);
    struct utsname kernel;
    fact_text(s, "CPU", b->facts->cpu[0] ? b->facts->cpu : "unknown");
    fact_number(s, "cores for this process", b->facts->n_cores, 0, " ");
    fact_number(s, "hardware threads", b->facts->n_threads, 0, " ");
    fact_number(s, "RAM", (double)b->facts->memory_total_bytes / MIB, 0, "MiB");
    fact_number(s, "RAM available", (double)b->facts->memory_available_bytes / MIB, 0, "MiB");
    if (uname(&kernel) == 0) {
        char text[sizeof kernel.sysname + sizeof kernel.release + 2];
        snprintf(text, sizeof text, "%s %s", kernel.sysname, kernel.release);
        fact_text(s, "kernel", text);
    }
}

double vram_rate(const struct bench *b) { return fmax(b->copy_bytes_per_s, b->read_bytes_per_s); }

/* ---- limits ------------------------------------------------------------------------------------------------------------------- */

struct blocks { /* what copies go between */
    uint64_t bytes, host_bytes;
    gpu_ptr from, to, mapped;
    void *host;
};

static enum err blocks_open(struct bench *b, struct blocks *k, struct reason *why) {
    const struct gpu_ops *ops = b->gpu->ops;
    const uint64_t quarter = b->info.free_bytes / 4 & ~(uint64_t)0xfffff;
    k->bytes = b->o.quick ? 1 << 20 : (uint64_t)1 << 30;
    if (k->bytes > quarter) k->bytes = quarter;
    k->host_bytes = b->o.quick ? 1 << 20 : (uint64_t)256 << 20;
    if (k->host_bytes > k->bytes) k->host_bytes = k->bytes;
    TRY(ops->alloc(b->gpu, GPU_USE_SCRATCH, k->bytes, &k->from, why));
    TRY(ops->alloc(b->gpu, GPU_USE_SCRATCH, k->bytes, &k->to, why));
    TRY(ops->alloc_pinned(b->gpu, k->host_bytes, &k->host, &k->mapped, why));
    memset(k->host, 1, k->host_bytes);
    gpu_bench_fill(b->gpu, k->from, k->bytes);
    gpu_bench_fill(b->gpu, k->to, k->bytes);
    return ERR_NONE;
}

static void blocks_close(struct bench *b, struct blocks *k) {
    b->gpu->ops->free(b->gpu, GPU_USE_SCRATCH, k->from, k->bytes);
    b->gpu->ops->free(b->gpu, GPU_USE_SCRATCH, k->to, k->bytes);
    b->gpu->ops->free_pinned(b->gpu, k->host, k->host_bytes);
}

/* Median seconds of a launch; NaN, with a note, when it failed. */
static double launch_s(struct bench *b, struct section *s, const struct gpu_bench_job *j) {
    double seconds[32];
    struct reason why;
    const uint32_t repeats = bench_repeats(b, 20);
    if (gpu_bench_time(b->gpu, j, repeats, seconds, &why)) {
        section_note(s, "not measured: %s", why.text);
        return NAN;
    }
    return median(seconds, repeats) / j->launches;
}

static double rate(struct bench *b, struct section *s, const char *what, const struct gpu_bench_job *j, double bytes) {
    const double per_s = bytes / launch_s(b, s, j);
    fact_number(s, what, 1e-9 * per_s, 1, "GB/s");
    return per_s;
}

static void measure_memory(struct bench *b, struct section *s, const struct blocks *k) {
    struct facts_gpu *f = &b->facts->gpus[0];
    const double n = (double)k->bytes, h = (double)k->host_bytes;
    const struct gpu_bench_job copy = {.what = GPU_BENCH_COPY, .launches = 2, .from = k->from, .to = k->to, .bytes = k->bytes},
                               read = {.what = GPU_BENCH_READ, .launches = 2, .from = k->from, .bytes = k->bytes},
                               to = {.what = GPU_BENCH_TO_DEVICE, .launches = 1, .host = k->host, .to = k->to, .bytes = k->host_bytes},
                               from = {.what = GPU_BENCH_FROM_DEVICE, .launches = 1, .host = k->host, .from = k->to, .bytes = k->host_bytes},
                               mapped = {.what = GPU_BENCH_READ, .launches = 1, .from = k->mapped, .bytes = k->host_bytes};
    b->copy_bytes_per_s = rate(b, s, "VRAM copy, bytes read and written", &copy, 2 * n);
    b->read_bytes_per_s = rate(b, s, "VRAM read by a kernel", &read, n);
    f->to_gpu_bytes_per_s = rate(b, s, "pinned RAM to VRAM", &to, h);
    f->from_gpu_bytes_per_s = rate(b, s, "VRAM to pinned RAM", &from, h);
    rate(b, s, "pinned RAM read by a kernel", &mapped, h);
    f->vram_bytes_per_s = vram_rate(b);
    double *const rates[] = {&f->to_gpu_bytes_per_s, &f->from_gpu_bytes_per_s, &f->vram_bytes_per_s};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        if (!isfinite(*rates[i])) *rates[i] = 0; /* not measured */
}

void report_limits(struct bench *b) {
    struct section *s = section_open(&b->report, "limits", "Measured limits", fact_columns, FACT_COLUMNS);
    struct blocks k = {0};
    struct reason why;
    if (!b->gpu) {
        section_note(s, "Not measured: no GPU.");
        return;
    }
    bench_progress(b, "limits");
    if (blocks_open(b, &k, &why)) section_note(s, "Memory was not measured: %s", why.text);
    else measure_memory(b, s, &k);
    blocks_close(b, &k);
    const struct gpu_bench_job empty = {.what = GPU_BENCH_EMPTY, .launches = b->o.quick ? 10 : 300};
    b->node_s = launch_s(b, s, &empty);
    b->facts->gpus[0].layer_s = isfinite(b->node_s) ? LAYER_NODES * b->node_s : 0;
    fact_number(s, "empty kernel in a graph of 300, gap included", 1e6 * b->node_s, 2, "us");
    section_note(s, "Medians of %u. The VRAM rate below is the higher one of copying and reading.", bench_repeats(b, 20));
}

/* ---- hand-over ------------------------------------------------------------------------------------------------------------------ */

static const struct column hand_columns[] = {
    {"payload_bytes", "payload each way, bytes"}, {"rounds", "rounds"}, {"p50_us", "p50 us"}, {"p90_us", "p90 us"}, {"p99_us", "p99 us"}, {"max_us", "max us"}};
enum { PAYLOAD, ROUNDS, P50, P90, P99, MOST, HAND_COLUMNS };

static double hand_over_row(struct bench *b, struct section *s, struct gpu_network *net, uint32_t floats) {
    const uint32_t rounds = b->o.quick ? 8 : 5000, skip = rounds / 8; /* until clocks and caches are awake */
    double *seconds = calloc_checked(rounds, sizeof *seconds);
    struct reason why = {"no memory"};
    double p50 = NAN;
    if (seconds && !gpu_bench_hand_over(net, floats, rounds, seconds, &why)) {
        const uint32_t n = rounds - skip;
        p50 = percentile(seconds + skip, n, 0.5);
        section_row(s);
        section_number(s, PAYLOAD, floats * sizeof(float), 0);
        section_number(s, ROUNDS, n, 0);
        section_number(s, P50, 1e6 * p50, 2);
        section_number(s, P90, 1e6 * percentile(seconds + skip, n, 0.9), 2);
        section_number(s, P99, 1e6 * percentile(seconds + skip, n, 0.99), 2);
        section_number(s, MOST, 1e6 * percentile(seconds + skip, n, 1), 2);
    } else {
        section_note(s, "Not measured with %u values: %s", floats, why.text);
    }
    free(seconds);
    return p50;
}

void report_hand_over(struct bench *b) {
    struct section *s = section_open(&b->report, "hand_over", "Hand-over: device to CPU and back, by mail", hand_columns, HAND_COLUMNS);
    struct reason why;
    if (!b->gpu) {
        section_note(s, "Not measured: no GPU.");
        return;
    }
    bench_progress(b, "hand-over");
    struct launch_net n = {.shape = launch_shape(b), .what = GPU_BENCH_EMPTY, .type = TYPE_F16, .n_layers = 1};
    if (launch_net_open(b, &n, &why)) {
        section_note(s, "Not measured: %s", why.text);
    } else {
        (void)hand_over_row(b, s, n.net, 0);
        const double p50 = hand_over_row(b, s, n.net, n.shape.n_embd);
        b->facts->gpus[0].hand_off_s = isfinite(p50) ? p50 : 0;
        section_note(s, "One thread answers at once; it copies the payload both ways, computes nothing. A whole round, mail to mail.");
    }
    launch_net_close(b, &n);
}
