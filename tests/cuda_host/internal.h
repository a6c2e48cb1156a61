/* What the emulator's own files share. Not for kernels or tests. */
#ifndef COLDSTREAM_CUDA_HOST_INTERNAL_H
#define COLDSTREAM_CUDA_HOST_INTERNAL_H

#include <functional>
#include <mutex>
#include <vector>

#define FULL_WARP 0xffffffffu
enum spin_result { SPIN_SEEN, SPIN_LATE, SPIN_ABORTED };
struct found {
    float value;
    uint32_t index;
};

#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/ptx_host.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define CH_ASAN 1
#else
#define CH_ASAN 0
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { CH_WARP = 32, CH_MAX_THREADS = 1024, CH_CANARY = 0xa5 };

/* ---- findings (report.cpp) ---------------------------------------------------------------------------------------- */

/* Print "cuda_host: ...", the place in the grid and what the threads of the warp wait for; abort. */
[[noreturn]] void ch_report(ch_site site, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- settings (config.cpp) ---------------------------------------------------------------------------------------- */

extern struct ch_config ch_settings;
extern struct ch_counters ch_counts;
extern bool (*ch_pump)(void *ctx);
extern void *ch_pump_ctx;
uint64_t ch_random(void); /* of the seeded sequence */

/* ---- fibers (fiber.cpp) ------------------------------------------------------------------------------------------- */

struct ch_fiber {
    void *sp;    /* asm: saved stack pointer; else a ucontext_t */
    void *stack; /* lowest byte */
    size_t stack_bytes;
    void *fake_stack; /* ASan's */
};

/* Make a fiber that starts in `entry` at the first switch to it; reuses the stack. `entry` must not return. */
void ch_fiber_prepare(ch_fiber *f, void (*entry)(void));
/* Stop `from` (the running one) and go on in `to`; with `last`, `from` will never be gone on with. */
void ch_fiber_switch(ch_fiber *from, ch_fiber *to, bool last);
/* Must be the first thing that a fiber's entry does. */
void ch_fiber_started(void);
/* Describe the running OS thread's own stack, to switch back to. */
void ch_fiber_of_os_thread(ch_fiber *f);
/* Is p on a fiber's stack? */
bool ch_on_fiber_stack(const void *p);

/* ---- threads of the running block (block.cpp) --------------------------------------------------------------------- */

enum ch_state { CH_RUNNABLE, CH_IN_BARRIER, CH_IN_WARP, CH_SPINNING, CH_GONE };

struct ch_async {
    void *to;
    const void *from;
    bool valid;
    unsigned group;
};

struct ch_thread {
    ch_place place;
    ch_state state;
    ch_site site;               /* where it waits */
    const ch_together *meeting; /* CH_IN_WARP */
    unsigned mask;
    void *args;
    std::vector<ch_async> async; /* cp.async not landed yet */
    unsigned open_group;
    ch_fiber fiber;
};

struct ch_block {
    const ch_call *call; /* NULL: no kernel is running */
    unsigned linear, threads;
    unsigned gone, in_barrier, first_in_barrier, barrier_votes;
    uint64_t barriers; /* passed so far */
    unsigned last_votes;
};
/* The lanes of a warp that are not running on. */
struct ch_warp {
    unsigned waiting, gone; /* lanes in CH_IN_WARP, in CH_GONE */
    bool alike;             /* all that wait do so at the same line, for the same function and mask */
};
extern ch_thread ch_threads[CH_MAX_THREADS];
extern ch_warp ch_warps[CH_MAX_THREADS / CH_WARP];
extern ch_block ch_block_now;

ch_thread *ch_self(void);
/* Let the others run until `t` is made runnable by ch_wake. */
void ch_wait(ch_state state, ch_site site);
void ch_wake(ch_thread *t);
/* Let the others run; come back soon. */
void ch_yield(ch_site site);
/* Run the whole grid, now. */
void ch_run_grid(const ch_call *call);
/* Arrive at a meeting's end: land the copies older than the `newest` groups. */
void ch_async_land(ch_thread *t, unsigned below_group);

/* ---- memory (memory.cpp, shared.cpp) ------------------------------------------------------------------------------ */

enum ch_where { CH_NOWHERE, CH_DEVICE, CH_PINNED_HOST, CH_PINNED_DEVICE, CH_REGISTERED, CH_SHARED_MEMORY };
struct ch_range {
    ch_where where;
    uintptr_t base; /* of the allocation, as seen at this alias */
    size_t bytes;
    const char *name;
};
/* What p points into: an allocation, or CH_NOWHERE. */
ch_range ch_find(const void *p);
bool ch_in_device_space(const void *p); /* of device memory, allocated or not */
bool ch_is_pinned(const void *p);

/* While at least one is alive, device memory is accessible in spite of the guard. */
struct ch_device_access {
    ch_device_access();
    ~ch_device_access();
};

struct ch_span {
    uintptr_t base;
    size_t bytes;
};
ch_span ch_shared_span(void);
ch_span ch_global_span(void); /* device memory and device aliases of pinned memory, one reservation */
void ch_shared_begin_launch(size_t dynamic_bytes);
void ch_shared_begin_block(void);
void ch_shared_end_block(void); /* checks the red zones */
ch_range ch_find_shared(const void *p);
void ch_check_red_zones(void); /* of all device memory */
void ch_forget_device_memory(void);

/* ---- the race check (race.cpp; race_none.cpp in builds without) ---------------------------------------------------- */

void ch_race_begin_launch(unsigned blocks);
void ch_race_begin_block(void);
void ch_race_block_barrier(void);
void ch_race_warp_barrier(unsigned warp, unsigned mask);
void ch_race_inside(bool inside); /* instrumented code runs as a device thread from here on, or no more */
void ch_race_read(const void *p, size_t bytes, ch_site site);
void ch_race_write(const void *p, size_t bytes, ch_site site);
void ch_race_atomic(const void *p, size_t bytes, ch_site site);
void ch_race_async_issue(const void *p, size_t bytes);
void ch_race_async_land(const void *p, size_t bytes);
void ch_race_release(const void *flag);
void ch_race_acquire(const void *flag);
void ch_race_allocated(const void *p, size_t bytes, bool initialised);
void ch_race_freed(const void *p, size_t bytes);
void ch_race_initialised(const void *p, size_t bytes);
void ch_race_copied(const void *to, const void *from, size_t bytes);

/* ---- calls (device.cpp) --------------------------------------------------------------------------------------------- */

/* Stands at the start of every API function: takes the lock, gives injected and sticky errors. */
struct ch_api {
    std::unique_lock<std::recursive_mutex> lock;
    cudaError_t error;
    explicit ch_api(const char *name);
};
cudaError_t ch_fail(cudaError_t error); /* remembers it for cudaGetLastError; returns it */
bool ch_take_injected(const char *name, cudaError_t *error);
void ch_make_sticky(cudaError_t error);
cudaError_t ch_sticky(void);
size_t ch_dynamic_limit(const void *kernel);
void ch_drop_work(void); /* all streams' queues: the device is reset */

#define CH_API()                    \
    ch_api ch_guard_(__func__);     \
    if (ch_guard_.error != cudaSuccess) return ch_fail(ch_guard_.error)

#endif
