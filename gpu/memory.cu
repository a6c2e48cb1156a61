/* The one allocator of a device, and what is pinned for it. Everything counts against the budget: allocations by what they are
 * for, and what drivers take beside them (contexts, modules, graphs, rounding), measured as what free memory shrank by. Memory
 * that other programs take meanwhile counts too: it is not there any more. Never moves, never grows anything. */
#include <stdlib.h>

#include "gpu/device_private.h"

static const char *const use_names[GPU_USES] = {"dense weights", "experts", "the KV cache", "scratch"};

static const uint64_t driver_granule = (uint64_t)2 << 20;

static unsigned long long mib(uint64_t bytes) { return (bytes + (1 << 20) - 1) >> 20; }

/* ---- accounts ------------------------------------------------------------------------------------------------------ */

static uint64_t allocated(const struct gpu_memory *m) {
    uint64_t sum = 0;
    for (int use = 0; use < GPU_USES; use++) sum += m->used[use];
    return sum;
}

static uint64_t in_use(const struct gpu_memory *m) { return allocated(m) + m->overhead; }

void gpu_memory_measure(struct gpu_device *d) {
    struct gpu_memory *m = &d->memory;
    size_t now, total;
    if (cudaMemGetInfo(&now, &total) == cudaSuccess) {
        const uint64_t shrunk = d->free_before > now ? d->free_before - now : 0, ours = allocated(m);
        m->overhead = shrunk > ours ? shrunk - ours : 0;
    } else {
        (void)cudaGetLastError();
    }
    if (in_use(m) > m->peak) m->peak = in_use(m);
}

enum err gpu_memory_within(struct gpu_device *d, const char *what, struct reason *why) {
    const struct gpu_memory *m = &d->memory;
    if (in_use(m) <= m->budget) return ERR_NONE;
    return fail(why, ERR_LIMIT, "%s: %llu MiB of GPU memory are missing in the budget of %llu MiB (%llu MiB are taken by the driver)", what,
                mib(in_use(m) - m->budget), mib(m->budget), mib(m->overhead));
}

enum err gpu_memory_open(struct gpu_device *d, uint64_t free_before, uint64_t budget, struct reason *why) {
    d->free_before = free_before;
    d->memory.budget = budget ? budget : free_before;
    gpu_memory_measure(d);
    return gpu_memory_within(d, "the GPU's context alone does not fit", why);
}

static void memory(const struct gpu *g, struct gpu_memory *out) { *out = gpu_device_of(g)->memory; }

static void set_budget(struct gpu *g, uint64_t bytes) { gpu_device_of(g)->memory.budget = bytes; }

/* ---- device memory ------------------------------------------------------------------------------------------------- */

static enum err driver_refused(struct gpu_device *d, const char *what, uint64_t bytes, struct reason *why) {
    size_t now = 0, total = 0;
    (void)cudaGetLastError(); // a refusal harms nothing
    if (cudaMemGetInfo(&now, &total) != cudaSuccess) (void)cudaGetLastError();
    return fail(why, ERR_NO_MEMORY, "the driver refused %llu MiB for %s on the GPU (%s): %llu MiB are free of %llu MiB", mib(bytes), what,
                d->info.name, mib(now), mib(total));
}

static void release(struct gpu *g, enum gpu_use use, gpu_ptr p, uint64_t bytes) {
    struct gpu_device *d = gpu_device_of(g);
    if (!p) return;
    if (!d->hung) (void)gpu_note(g, cudaFree((void *)p), "freeing memory");
    d->memory.used[use] -= bytes < d->memory.used[use] ? bytes : d->memory.used[use];
}

static enum err alloc(struct gpu *g, enum gpu_use use, uint64_t bytes, gpu_ptr *out, struct reason *why) {
    struct gpu_device *d = gpu_device_of(g);
    struct gpu_memory *m = &d->memory;
    void *p = NULL;
    *out = 0;
    TRY(gpu_alive(d, why));
    const uint64_t room = m->budget > in_use(m) ? m->budget - in_use(m) : 0;
    if (bytes > room || round_up(bytes, driver_granule) > room) // drivers round up: no moment beyond the budget
        return fail(why, ERR_LIMIT, "%llu MiB for %s do not fit: %llu MiB of GPU memory are missing in the budget of %llu MiB", mib(bytes),
                    use_names[use], mib(round_up(bytes, driver_granule) - room), mib(m->budget));
    const cudaError_t code = cudaMalloc(&p, bytes ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) return driver_refused(d, use_names[use], bytes, why);
    if (!gpu_note(g, code, "allocating memory")) return gpu_alive(d, why);
    m->used[use] += bytes;
    gpu_memory_measure(d);
    const enum err fits = gpu_memory_within(d, use_names[use], why); // with what the driver rounded up to
    if (fits) {
        release(g, use, (gpu_ptr)p, bytes);
        gpu_memory_measure(d);
        return fits;
    }
    *out = (gpu_ptr)p;
    return ERR_NONE;
}

/* ---- host memory --------------------------------------------------------------------------------------------------- */

bool gpu_memory_pinned(const struct gpu_device *d, const void *host, uint64_t bytes) {
    const uint8_t *p = (const uint8_t *)host;
    for (const struct gpu_pinned *i = d->pinned; i; i = i->next)
        if (p >= i->host && bytes <= i->bytes && (uint64_t)(p - i->host) <= i->bytes - bytes) return true;
    return false;
}

/* Takes `entry`. */
static void remember(struct gpu_device *d, struct gpu_pinned *entry, void *host, uint64_t bytes) {
    *entry = (struct gpu_pinned){(uint8_t *)host, bytes, d->pinned};
    d->pinned = entry;
    d->memory.pinned += bytes;
}

static void forget(struct gpu_device *d, const void *host) {
    for (struct gpu_pinned **at = &d->pinned; *at; at = &(*at)->next) {
        struct gpu_pinned *entry = *at;
        if (entry->host != host) continue;
        *at = entry->next;
        d->memory.pinned -= entry->bytes;
        free(entry);
        return;
    }
}

static enum err cannot_pin(struct gpu_device *d, cudaError_t code, uint64_t bytes, struct reason *why) {
    (void)cudaGetLastError();
    return fail(why, ERR_NO_MEMORY, "cannot pin %llu MiB of host memory for the GPU (%s; %llu MiB are pinned): %s; ulimit -l or a container's limit may forbid it",
                mib(bytes), d->info.name, mib(d->memory.pinned), cudaGetErrorString(code));
}

static enum err alloc_pinned(struct gpu *g, uint64_t bytes, void **host, gpu_ptr *mapped, struct reason *why) {
    struct gpu_device *d = gpu_device_of(g);
    void *device_side = NULL;
    *host = NULL;
    *mapped = 0;
    TRY(gpu_alive(d, why));
    struct gpu_pinned *entry = (struct gpu_pinned *)calloc_checked(1, sizeof *entry);
    if (!entry) return fail(why, ERR_NO_MEMORY, "no memory to note %llu MiB of pinned memory", mib(bytes));
    cudaError_t code = cudaHostAlloc(host, bytes ? bytes : 1, cudaHostAllocMapped | cudaHostAllocPortable);
    if (code == cudaSuccess) {
        code = cudaHostGetDevicePointer(&device_side, *host, 0);
        if (code != cudaSuccess) (void)cudaFreeHost(*host);
    }
    if (code != cudaSuccess) {
        free(entry);
        *host = NULL;
        return cannot_pin(d, code, bytes, why);
    }
    remember(d, entry, *host, bytes);
    *mapped = (gpu_ptr)device_side;
    return ERR_NONE;
}

static void free_pinned(struct gpu *g, void *host, uint64_t bytes) {
    (void)bytes;
    if (!host) return;
    struct gpu_device *d = gpu_device_of(g);
    forget(d, host);
    if (!d->hung) (void)gpu_note(g, cudaFreeHost(host), "freeing pinned memory");
}

/* Memory mapped for reading only takes another flag, which older drivers do not know. */
static cudaError_t register_memory(void *host, uint64_t bytes) {
    const unsigned flags = cudaHostRegisterMapped | cudaHostRegisterPortable;
    const cudaError_t code = cudaHostRegister(host, bytes, flags);
    if (code == cudaSuccess) return code;
    (void)cudaGetLastError();
    return cudaHostRegister(host, bytes, flags | cudaHostRegisterReadOnly);
}

static enum err pin(struct gpu *g, void *host, uint64_t bytes, gpu_ptr *mapped, struct reason *why) {
    struct gpu_device *d = gpu_device_of(g);
    void *device_side = NULL;
    *mapped = 0;
    TRY(gpu_alive(d, why));
    struct gpu_pinned *entry = (struct gpu_pinned *)calloc_checked(1, sizeof *entry);
    if (!entry) return fail(why, ERR_NO_MEMORY, "no memory to note %llu MiB of pinned memory", mib(bytes));
    cudaError_t code = register_memory(host, bytes);
    if (code == cudaSuccess) {
        code = cudaHostGetDevicePointer(&device_side, host, 0);
        if (code != cudaSuccess) (void)cudaHostUnregister(host);
    }
    if (code != cudaSuccess) {
        free(entry);
        return cannot_pin(d, code, bytes, why);
    }
    remember(d, entry, host, bytes);
    *mapped = (gpu_ptr)device_side;
    return ERR_NONE;
}

static void unpin(struct gpu *g, void *host, uint64_t bytes) {
    (void)bytes;
    if (!host) return;
    struct gpu_device *d = gpu_device_of(g);
    forget(d, host);
    if (!d->hung) (void)gpu_note(g, cudaHostUnregister(host), "unpinning memory");
}

void gpu_memory_fill(struct gpu_ops *ops) {
    ops->memory = memory;
    ops->set_budget = set_budget;
    ops->alloc = alloc;
    ops->free = release;
    ops->alloc_pinned = alloc_pinned;
    ops->free_pinned = free_pinned;
    ops->pin = pin;
    ops->unpin = unpin;
}
