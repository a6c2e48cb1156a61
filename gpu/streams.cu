/* The two streams of a device: copies, events, and waiting with a limit. Waiting means asking again and again: a device that hangs
 * costs the time limit, never the process. Copies from memory that is not pinned go through four small pinned buffers. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gpu/device_private.h"

static const char *const stream_names[GPU_STREAMS] = {"compute", "copy"};
static const uint64_t bounce_limit_ns = 30000000000u; /* a buffer holds 1 MiB: later than this, the device hangs */
static const uint64_t close_limit_ns = 10000000000u;

cudaStream_t gpu_stream_of(const struct gpu *g, enum gpu_stream s) { return gpu_device_of(g)->streams[s]; }

/* ---- waiting ------------------------------------------------------------------------------------------------------- */

/* Between two questions: at first at once, since most waits are short, later with naps that leave the core to others. */
static void pause_between(uint64_t waited_ns) {
    if (waited_ns < 50000) return;
    const struct timespec nap = {0, waited_ns < 2000000 ? 20000 : 200000};
    (void)nanosleep(&nap, NULL);
}

/* Ask until the answer is no longer "not ready"; cudaErrorNotReady after limit_ns. */
template <class Ask> static cudaError_t ask_until(uint64_t limit_ns, Ask ask) {
    struct patience patience = patience_of(limit_ns);
    for (;;) {
        const cudaError_t code = ask();
        if (code != cudaErrorNotReady || patience_ends(&patience)) return code;
        pause_between(limit_ns - patience.left_ns);
    }
}

static enum err sync(struct gpu *g, enum gpu_stream s, uint64_t timeout_ns, struct reason *why) {
    struct gpu_device *d = gpu_device_of(g);
    TRY(gpu_alive(d, why));
    const cudaStream_t stream = d->streams[s];
    const cudaError_t code = ask_until(timeout_ns, [stream] { return cudaStreamQuery(stream); });
    if (code == cudaErrorNotReady)
        return fail(why, ERR_IO, "the GPU's %s stream (%s) did not finish within %.3g s", stream_names[s], d->info.name,
                    (double)timeout_ns * 1e-9);
    (void)gpu_note(g, code, s == GPU_COMPUTE ? "computing" : "copying");
    return gpu_alive(d, why);
}

void gpu_streams_drain(struct gpu_device *d, uint64_t limit_ns) {
    for (int s = 0; s < GPU_STREAMS; s++) {
        const cudaStream_t stream = d->streams[s];
        if (!stream || d->hung) continue;
        const cudaError_t code = ask_until(limit_ns, [stream] { return cudaStreamQuery(stream); });
        d->hung = code == cudaErrorNotReady;
        (void)gpu_note(&d->base, d->hung ? cudaErrorLaunchTimeout : code, "ending");
    }
}

/* ---- copies -------------------------------------------------------------------------------------------------------- */

/* The next buffer, once its last copy is through; NULL: the device failed or hangs, which is noted. */
static struct gpu_bounce *take_bounce(struct gpu_device *d) {
    struct gpu_bounce *b = &d->bounce[d->next_bounce];
    const cudaEvent_t done = b->done;
    cudaError_t code = ask_until(bounce_limit_ns, [done] { return cudaEventQuery(done); });
    if (code == cudaErrorNotReady) {
        d->hung = true;
        code = cudaErrorLaunchTimeout;
    }
    if (!gpu_note(&d->base, code, "waiting for an upload")) return NULL;
    d->next_bounce = (d->next_bounce + 1) % BOUNCE_BUFFERS;
    return b;
}

static void upload_bounced(struct gpu_device *d, cudaStream_t stream, gpu_ptr to, const uint8_t *from, uint64_t bytes) {
    for (uint64_t at = 0, part; at < bytes; at += part) {
        part = bytes - at < BOUNCE_BYTES ? bytes - at : (uint64_t)BOUNCE_BYTES;
        struct gpu_bounce *b = take_bounce(d);
        if (!b) return;
        memcpy(b->host, from + at, part);
        cudaError_t code = cudaMemcpyAsync((void *)(to + at), b->host, part, cudaMemcpyHostToDevice, stream);
        if (code == cudaSuccess) code = cudaEventRecord(b->done, stream);
        if (!gpu_note(&d->base, code, "uploading")) return;
    }
}

static void upload(struct gpu *g, enum gpu_stream s, gpu_ptr to, const void *from, uint64_t bytes) {
    struct gpu_device *d = gpu_device_of(g);
    if (gpu_alive(d, NULL) || bytes == 0) return;
    if (gpu_memory_pinned(d, from, bytes))
        (void)gpu_note(g, cudaMemcpyAsync((void *)to, from, bytes, cudaMemcpyHostToDevice, d->streams[s]), "uploading");
    else
        upload_bounced(d, d->streams[s], to, (const uint8_t *)from, bytes);
}

static void download(struct gpu *g, enum gpu_stream s, void *to, gpu_ptr from, uint64_t bytes) {
    struct gpu_device *d = gpu_device_of(g);
    assert(gpu_memory_pinned(d, to, bytes));
    if (gpu_alive(d, NULL) || bytes == 0) return;
    (void)gpu_note(g, cudaMemcpyAsync(to, (const void *)from, bytes, cudaMemcpyDeviceToHost, d->streams[s]), "downloading");
}

/* ---- events -------------------------------------------------------------------------------------------------------- */

static enum err open_event(struct gpu *g, unsigned flags, struct gpu_event **out, struct reason *why) {
    struct gpu_device *d = gpu_device_of(g);
    *out = NULL;
    TRY(gpu_alive(d, why));
    struct gpu_event *e = (struct gpu_event *)calloc_checked(1, sizeof *e);
    if (!e) return fail(why, ERR_NO_MEMORY, "no memory for an event of the GPU");
    e->device = d;
    if (!gpu_note(g, cudaEventCreateWithFlags(&e->event, flags), "making an event")) {
        free(e);
        return gpu_alive(d, why);
    }
    *out = e;
    return ERR_NONE;
}

static enum err event_open(struct gpu *g, struct gpu_event **out, struct reason *why) {
    return open_event(g, cudaEventDisableTiming, out, why);
}

static enum err event_open_timed(struct gpu *g, struct gpu_event **out, struct reason *why) { return open_event(g, cudaEventDefault, out, why); }

static uint64_t elapsed_ns(struct gpu *g, struct gpu_event *from, struct gpu_event *to) {
    float ms = 0;
    if (gpu_alive(gpu_device_of(g), NULL)) return 0;
    if (cudaEventElapsedTime(&ms, from->event, to->event) == cudaSuccess) return ms > 0 ? (uint64_t)(1e6 * (double)ms) : 0;
    (void)cudaGetLastError(); // not passed yet
    return 0;
}

static void event_close(struct gpu *g, struct gpu_event **e) {
    if (!*e) return;
    (void)gpu_note(g, cudaEventDestroy((*e)->event), "closing an event");
    free(*e);
    *e = NULL;
}

static void record(struct gpu *g, enum gpu_stream s, struct gpu_event *e) {
    struct gpu_device *d = gpu_device_of(g);
    if (!gpu_alive(d, NULL)) (void)gpu_note(g, cudaEventRecord(e->event, d->streams[s]), "recording an event");
}

static void wait(struct gpu *g, enum gpu_stream s, struct gpu_event *e) {
    struct gpu_device *d = gpu_device_of(g);
    if (!gpu_alive(d, NULL)) (void)gpu_note(g, cudaStreamWaitEvent(d->streams[s], e->event, 0), "waiting for an event");
}

/* True after an error, too: nobody is to wait for what will not come; who goes on finds the error. */
static bool passed(struct gpu *g, struct gpu_event *e) {
    if (gpu_alive(gpu_device_of(g), NULL)) return true;
    const cudaError_t code = cudaEventQuery(e->event);
    if (code == cudaErrorNotReady) return false;
    (void)gpu_note(g, code, "computing");
    return true;
}

/* ---- open, close --------------------------------------------------------------------------------------------------- */

static enum err open_bounce(struct gpu_device *d, struct gpu_bounce *b, struct reason *why) {
    gpu_ptr mapped;
    TRY(d->ops.alloc_pinned(&d->base, BOUNCE_BYTES, &b->host, &mapped, why));
    if (!gpu_note(&d->base, cudaEventCreateWithFlags(&b->done, cudaEventDisableTiming), "making an event")) return gpu_alive(d, why);
    return ERR_NONE;
}

enum err gpu_streams_open(struct gpu_device *d, struct reason *why) {
    for (int s = 0; s < GPU_STREAMS; s++)
        if (!gpu_note(&d->base, cudaStreamCreateWithFlags(&d->streams[s], cudaStreamNonBlocking), "making a stream")) return gpu_alive(d, why);
    for (int i = 0; i < BOUNCE_BUFFERS; i++) TRY(open_bounce(d, &d->bounce[i], why));
    return ERR_NONE;
}

void gpu_streams_close(struct gpu_device *d) {
    gpu_streams_drain(d, close_limit_ns);
    if (d->hung) return;
    for (int i = 0; i < BOUNCE_BUFFERS; i++) {
        if (d->bounce[i].done) (void)cudaEventDestroy(d->bounce[i].done);
        d->ops.free_pinned(&d->base, d->bounce[i].host, BOUNCE_BYTES);
    }
    for (int s = 0; s < GPU_STREAMS; s++)
        if (d->streams[s]) (void)cudaStreamDestroy(d->streams[s]);
}

void gpu_streams_fill(struct gpu_ops *ops) {
    ops->upload = upload;
    ops->download = download;
    ops->event_open = event_open;
    ops->event_open_timed = event_open_timed;
    ops->elapsed_ns = elapsed_ns;
    ops->event_close = event_close;
    ops->record = record;
    ops->wait = wait;
    ops->passed = passed;
    ops->sync = sync;
}
