/* Inside the device's own files (device.cu, memory.cu, streams.cu): what a device consists of. */
#ifndef COLDSTREAM_GPU_DEVICE_PRIVATE_H
#define COLDSTREAM_GPU_DEVICE_PRIVATE_H

#include <pthread.h>

#include "gpu/device.h"

enum { BOUNCE_BUFFERS = 4, BOUNCE_BYTES = 1 << 20 };

/* A pinned buffer that uploads from ordinary memory go through. */
struct gpu_bounce {
    void *host;
    cudaEvent_t done; /* the copy out of it */
};

/* Host memory the device may reach, in no order. */
struct gpu_pinned {
    uint8_t *host;
    uint64_t bytes;
    struct gpu_pinned *next;
};

struct gpu_device {
    struct gpu base; /* first: callers hold a pointer to it */
    struct gpu_ops ops;
    struct gpu_info info;
    int index;
    cudaStream_t streams[GPU_STREAMS];

    pthread_mutex_t first_lock;
    struct reason first; /* the first error; written once under the lock, before `failed` */
    uint32_t failed;     /* atomic */
    bool hung;           /* a kernel does not end: freeing would wait for it, so nothing is freed any more */

    struct gpu_memory memory;
    uint64_t free_before; /* bytes free on the card before this process had a context there */
    struct gpu_pinned *pinned;
    struct gpu_bounce bounce[BOUNCE_BUFFERS];
    uint32_t next_bounce;
};

struct gpu_event {
    struct gpu_device *device;
    cudaEvent_t event;
};

static inline struct gpu_device *gpu_device_of(struct gpu *g) { return (struct gpu_device *)g; }
static inline const struct gpu_device *gpu_device_of(const struct gpu *g) { return (const struct gpu_device *)g; }

/* ERR_IO with the first error when there is one, which the driver is not asked about. Makes the device this thread's. */
enum err gpu_alive(struct gpu_device *d, struct reason *why) MUST_USE;

/* memory.cu */
enum err gpu_memory_open(struct gpu_device *d, uint64_t free_before, uint64_t budget, struct reason *why) MUST_USE;
/* Compare free memory with what is accounted for. */
void gpu_memory_measure(struct gpu_device *d);
/* ERR_LIMIT when more than the budget is in use, by what drivers take beside allocations. `what` begins the sentence. */
enum err gpu_memory_within(struct gpu_device *d, const char *what, struct reason *why) MUST_USE;
bool gpu_memory_pinned(const struct gpu_device *d, const void *host, uint64_t bytes);
void gpu_memory_fill(struct gpu_ops *ops);

/* streams.cu */
enum err gpu_streams_open(struct gpu_device *d, struct reason *why) MUST_USE;
void gpu_streams_close(struct gpu_device *d);
/* Wait until nothing runs, failed or not; marks the device as hung after limit_ns. */
void gpu_streams_drain(struct gpu_device *d, uint64_t limit_ns);
void gpu_streams_fill(struct gpu_ops *ops);

/* repack.cu */
void gpu_repack_fill(struct gpu_ops *ops);
/* network.cu */
void gpu_network_fill(struct gpu_ops *ops);

#endif
