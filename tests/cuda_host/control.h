/* The emulator's knobs, for tests (C and C++). A program compiled for a real device has none of these.
 *
 * They are read from the environment once, at the first call of anything: CH_ORDER, CH_SCHED, CH_SEED, CH_GUARD, CH_ASYNC, so that
 * one test program runs in every order. A finding (race, divergence, out of bounds, deadlock, ...) is printed to stderr as
 * "cuda_host: ..." and ends the process by abort(): tests that expect one fork first. */
#ifndef COLDSTREAM_CUDA_HOST_CONTROL_H
#define COLDSTREAM_CUDA_HOST_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum ch_order { CH_ASCENDING, CH_DESCENDING, CH_SHUFFLED };                   /* of threads in a block and blocks in a grid */
enum ch_schedule { CH_EAGER, CH_LAZY, CH_INTERLEAVED };                       /* streams: at once; only when waited for; at random */
enum ch_landing { CH_LATE, CH_EARLY };                                        /* cp.async: at the wait; at issue */

struct ch_config {
    enum ch_order order;
    enum ch_schedule schedule;
    enum ch_landing landing;
    uint64_t seed;
    bool guard; /* device memory is inaccessible while host code runs */

    int devices;               /* 0: cudaGetDeviceCount says there is none */
    int sms, major, minor;     /* made up: 4 SMs of compute capability 8.0 */
    size_t vram_bytes;         /* cudaMemGetInfo's total; cudaMalloc fails beyond it */
    size_t context_bytes;      /* gone from it once the device is used */
    size_t shared_optin_bytes; /* the most that cudaFuncSetAttribute allows a block */
};

/* The present settings; change some and set them back: valid from the next call on. */
struct ch_config ch_get_config(void);
void ch_set_config(struct ch_config config);

/* Host work that goes on while a kernel waits: spin_wait calls it again and again. It returns false when nothing will ever come,
 * and the wait is over at once (SPIN_LATE). NULL: the process's other threads run meanwhile, up to the wait's limit. */
void ch_set_pump(bool (*pump)(void *ctx), void *ctx);

/* The next n waits are late at once, whether or not what they wait for has come. Set while no kernel runs. */
void ch_late_waits(unsigned n);

/* The `nth` next call (1: the next) of the named function ("cudaMalloc"; NULL: any) gives `error` and does nothing. A sticky
 * error is every later call's answer, too, until cudaDeviceReset. "launch" names LAUNCH, "kernel" the running of one, which
 * fails asynchronously. One injection at a time; error 0 takes it back. */
void ch_inject_error(const char *function, unsigned nth, int error, bool sticky);

/* Counts since the start or the last reset. */
struct ch_counters {
    uint64_t launches, blocks, threads, copies, copied_bytes, allocations, graph_launches, syncs;
};
struct ch_counters ch_get_counters(void);
void ch_reset_counters(void);

/* Bytes of device memory now allocated, and the most ever since ch_reset_counters. */
size_t ch_vram_used(void);
size_t ch_vram_peak(void);

/* What checks this build has: "plain", "asan" or "race". */
const char *ch_build(void);

#ifdef __cplusplus
}
#endif
#endif
