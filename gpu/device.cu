/* A device of the CUDA backend: which one, whether it will do, its first error, and the table that callers see. Memory is
 * memory.cu's, streams and copies are streams.cu's, networks are network.cu's. Compiled as host C++ the same code opens the
 * emulated device, under the name "host".
 *
 * Errors: calls that return nothing note what failed; the first note stays, every later call that can fail returns it, and
 * nothing is waited for any more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/device_private.h"
#include "gpu/driver_memory.h"

#ifdef __CUDACC__
static const bool emulated = false;
#else
static const bool emulated = true;
#endif

/* ---- errors -------------------------------------------------------------------------------------------------------- */

bool gpu_note(struct gpu *g, cudaError_t code, const char *doing) {
    struct gpu_device *d = gpu_device_of(g);
    if (code == cudaSuccess) return true;
    (void)cudaGetLastError(); // so that it is not blamed on a later call
    pthread_mutex_lock(&d->first_lock);
    if (!__atomic_load_n(&d->failed, __ATOMIC_RELAXED)) {
        (void)fail(&d->first, ERR_IO, "the GPU (%s) failed while %s: %s (%s); nothing can run on it any more in this process", d->info.name,
                   doing, cudaGetErrorString(code), cudaGetErrorName(code));
        __atomic_store_n(&d->failed, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&d->first_lock);
    return false;
}

bool gpu_note_launch(struct gpu *g, const char *doing) { return gpu_note(g, cudaGetLastError(), doing); }

enum err gpu_alive(struct gpu_device *d, struct reason *why) {
    if (d->index > 0) (void)cudaSetDevice(d->index); // each thread has a device of its own, at first 0
    if (!__atomic_load_n(&d->failed, __ATOMIC_ACQUIRE)) return ERR_NONE;
    return fail(why, ERR_IO, "%s", d->first.text);
}

/* Errors of kernels come with whatever call is next: ask both streams. */
static enum err check(struct gpu *g, struct reason *why) {
    struct gpu_device *d = gpu_device_of(g);
    TRY(gpu_alive(d, why));
    for (int s = 0; s < GPU_STREAMS; s++) {
        const cudaError_t state = cudaStreamQuery(d->streams[s]);
        if (state != cudaErrorNotReady) (void)gpu_note(g, state, s == GPU_COMPUTE ? "computing" : "copying");
    }
    return gpu_alive(d, why);
}

/* ---- which device -------------------------------------------------------------------------------------------------- */

/* The name to an index; -1: the first that works. */
static enum err parse_name(const char *name, int *index, struct reason *why) {
    const char *kind = emulated ? "host" : "cuda", *digits;
    *index = -1;
    if (!name || strcmp(name, kind) == 0) return ERR_NONE;
    if (strncmp(name, "cuda:", 5) == 0 && !emulated) {
        digits = name + 5;
        const size_t n = strspn(digits, "0123456789");
        if (n > 0 && n < 4 && !digits[n]) {
            *index = atoi(digits);
            return ERR_NONE;
        }
        return fail(why, ERR_ARGUMENT, "'%s' is no device: write cuda, or cuda:N with the number of the card", name);
    }
    if (strcmp(name, "host") == 0 || strncmp(name, "cuda", 4) == 0)
        return fail(why, ERR_UNSUPPORTED, "this program was built without the device '%s': it has '%s'", name, kind);
    return fail(why, ERR_ARGUMENT, "'%s' is no device: this program has '%s'", name, kind);
}

static const char *driver_version(char text[32]) {
    int version = 0;
    if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) return "none";
    snprintf(text, 32, "%d.%d", version / 1000, version % 1000 / 10);
    return text;
}

/* Why there is no device, in words that say what to do. */
static enum err no_devices(cudaError_t code, struct reason *why) {
    char text[32];
    (void)cudaGetLastError();
    if (code == cudaErrorInsufficientDriver)
        return fail(why, ERR_IO, "no usable NVIDIA driver: this program needs one for CUDA %d.%d or newer, found: %s",
                    CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, driver_version(text));
    if (code == cudaSuccess || code == cudaErrorNoDevice)
        return fail(why, ERR_IO, "no NVIDIA GPU is visible (check nvidia-smi and CUDA_VISIBLE_DEVICES)");
    return fail(why, ERR_IO, "the NVIDIA driver (for CUDA %s) reports no devices: %s (%s)", driver_version(text), cudaGetErrorString(code),
                cudaGetErrorName(code));
}

/* Whether device `index` will do; its facts but for the memory. */
static enum err examine(int index, struct gpu_info *out, struct reason *why) {
    cudaDeviceProp p;
    const cudaError_t code = cudaGetDeviceProperties(&p, index);
    if (code != cudaSuccess) return no_devices(code, why);
    *out = {};
    snprintf(out->name, sizeof out->name, "%.127s", p.name);
    out->sm_count = (uint32_t)p.multiProcessorCount;
    out->cc_major = (uint32_t)p.major;
    out->cc_minor = (uint32_t)p.minor;
    out->vram_bytes = p.totalGlobalMem;
    out->emulated = emulated;
    if (10 * p.major + p.minor < 75)
        return fail(why, ERR_UNSUPPORTED, "GPU %d (%s) has compute capability %d.%d; 7.5 (Turing) or newer is needed", index, p.name, p.major,
                    p.minor);
    if (!p.canMapHostMemory) return fail(why, ERR_UNSUPPORTED, "GPU %d (%s) cannot map host memory", index, p.name);
    return ERR_NONE;
}

static enum err choose(const char *name, int *index, struct gpu_info *info, struct reason *why) {
    int count = 0;
    TRY(parse_name(name, index, why));
    // Load kernels when the context is made. One loaded at its first launch may have to wait for those that run, of which one may be
    // waiting for this very thread; and its memory would come after the budget was shared out.
    if (!emulated) (void)setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess || count == 0) return no_devices(code, why);
    if (*index >= count) return fail(why, ERR_ARGUMENT, "there is no device %s: the last one is cuda:%d", name, count - 1);
    if (*index >= 0) return examine(*index, info, why);
    enum err first = ERR_NONE; // of several reasons the first device's is told
    for (int i = 0; i < count; i++) {
        struct reason other;
        const enum err e = examine(i, info, first ? &other : why);
        if (!e) {
            *index = i;
            return ERR_NONE;
        }
        if (!first) first = e;
    }
    return first;
}

/* ---- open, close --------------------------------------------------------------------------------------------------- */

static void info(const struct gpu *g, struct gpu_info *out) { *out = gpu_device_of(g)->info; }

static void close_device(struct gpu **g) {
    if (!*g) return;
    struct gpu_device *d = gpu_device_of(*g);
    gpu_streams_close(d);
    pthread_mutex_destroy(&d->first_lock);
    free(d);
    *g = NULL;
}

/* The context, which is what takes memory before anything is asked for. A free memory unknown before is put together from what
 * it is afterwards and what contexts were seen to take: 3 MiB a multiprocessor and 20. */
static enum err open_context(struct gpu_device *d, const struct gpu_options *o, struct reason *why) {
    uint64_t before = driver_free_bytes(d->index, d->info.vram_bytes);
    cudaError_t code = cudaSetDevice(d->index);
    if (code == cudaSuccess) code = cudaFree(NULL);
    size_t now = 0, total = 0;
    if (code == cudaSuccess) code = cudaMemGetInfo(&now, &total);
    if (code == cudaErrorMemoryAllocation)
        return fail(why, ERR_NO_MEMORY, "the GPU (%s) has too little free memory to be opened: other programs hold it", d->info.name);
    if (code != cudaSuccess)
        return fail(why, ERR_IO, "cannot open the GPU (%s): %s (%s)", d->info.name, cudaGetErrorString(code), cudaGetErrorName(code));
    if (before < now) before = now + ((uint64_t)3 * d->info.sm_count + 20) * (1 << 20);
    if (before > total) before = total;
    d->info.vram_bytes = total;
    d->info.free_bytes = before;
    return gpu_memory_open(d, before, o->vram_budget, why);
}

enum err gpu_open(const struct gpu_options *o, struct gpu **out, struct reason *why) {
    *out = NULL;
    struct gpu_device *d = (struct gpu_device *)calloc_checked(1, sizeof *d);
    if (!d) return fail(why, ERR_NO_MEMORY, "no memory to open a GPU");
    pthread_mutex_init(&d->first_lock, NULL);
    struct gpu *g = &d->base;
    g->ops = &d->ops;
    d->ops.info = info;
    d->ops.close = close_device;
    d->ops.check = check;
    gpu_memory_fill(&d->ops);
    gpu_streams_fill(&d->ops);
    gpu_repack_fill(&d->ops);
    gpu_network_fill(&d->ops);
    enum err code = choose(o->device, &d->index, &d->info, why);
    if (!code) code = open_context(d, o, why);
    if (!code) code = gpu_streams_open(d, why);
    if (code) close_device(&g);
    *out = g;
    return code;
}
