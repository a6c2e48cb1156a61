/* Streams, events, graphs: queues of things to do, and when they are done (settings: eager, lazy, interleaved at random).
 *
 * The NULL stream is CUDA's legacy one: it waits for all blocking streams, and they for it. Here its work is done at once. A capture
 * is a flat list in the order of the calls, which is one of the orders its graph allows. */
#include "tests/cuda_host/internal.h"

#include <algorithm>
#include <deque>
#include <memory>

struct op {
    std::function<void()> run;
    std::function<bool()> ready; // empty: at once
};

struct CUgraph_st {
    std::vector<std::function<void()>> ops;
};
struct CUgraphExec_st {
    std::vector<std::function<void()>> ops;
};

struct CUstream_st {
    std::deque<op> queue;
    bool blocking;        // waits for the legacy stream
    CUgraph_st *capture;  // being captured into
    CUstream_st *origin;  // whose capture this is
    uint64_t captured;    // things captured through this stream
    bool unjoined;        // captured work that no other stream has waited for
};

struct event_state {
    uint64_t issued = 0, done = 0, time_ns = 0;
};
struct CUevent_st {
    std::shared_ptr<event_state> state;
    CUstream_st *stream;  // of the last record
    CUgraph_st *capture;  // the last record was captured
    uint64_t captured;    // the stream's count then
};

static CUstream_st legacy;
static std::vector<CUstream_st *> streams;
static unsigned captures; // under way

static bool alive(const CUstream_st *s) { return s == &legacy || std::find(streams.begin(), streams.end(), s) != streams.end(); }

/* ---- progress --------------------------------------------------------------------------------------------------- */

static bool step(CUstream_st *s) {
    if (s->queue.empty() || (s->queue.front().ready && !s->queue.front().ready())) return false;
    const op next = std::move(s->queue.front());
    s->queue.pop_front();
    if (ch_sticky() == cudaSuccess) next.run(); // a broken device does nothing more
    return true;
}

static bool step_any(void) {
    for (size_t i = 0; i < streams.size(); i++) {
        if (step(streams[i])) return true;
    }
    return false;
}

/* Until `done`, preferring stream s; other streams move only as far as s needs them. */
template <class Done> static void advance(CUstream_st *s, Done done) {
    while (!done()) {
        if (!(s && step(s)) && !step_any()) ch_report({}, "stream deadlock: what is waited for can never happen");
    }
}

static void drain(CUstream_st *s) {
    advance(s, [s] { return s->queue.empty(); });
}

static void after_enqueue(void) {
    if (ch_settings.schedule == CH_EAGER) {
        while (step_any()) continue;
    } else if (ch_settings.schedule == CH_INTERLEAVED && !streams.empty()) {
        for (uint64_t n = ch_random() % 4; n > 0; n--) step(streams[ch_random() % streams.size()]);
    }
}

/* Errors of use, as the calls that enqueue give them. */
static cudaError_t check_stream(CUstream_st **s) {
    if (!*s) {
        *s = &legacy;
        return captures ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
    }
    return alive(*s) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

static cudaError_t enqueue(CUstream_st *s, std::function<void()> run) {
    const cudaError_t error = check_stream(&s);
    if (error != cudaSuccess) return ch_fail(error);
    if (s->capture) {
        s->capture->ops.push_back(std::move(run));
        s->captured++, s->unjoined = s != s->origin;
        return cudaSuccess;
    }
    if (s == &legacy) {
        for (size_t i = 0; i < streams.size(); i++) {
            if (streams[i]->blocking) drain(streams[i]);
        }
    }
    s->queue.push_back(op{std::move(run), nullptr});
    if (s == &legacy) {
        drain(s);
    } else {
        after_enqueue();
    }
    return cudaSuccess;
}

void ch_drop_work(void) {
    for (CUstream_st *s : streams) s->queue.clear();
    legacy.queue.clear();
}

/* ---- kernels ---------------------------------------------------------------------------------------------------- */

static cudaError_t check_launch(const ch_call *call) {
    const dim3 g = call->grid, b = call->block;
    const size_t threads = static_cast<size_t>(b.x) * b.y * b.z;
    if (!g.x || !g.y || !g.z || g.y > 65535 || g.z > 65535 || !threads || threads > CH_MAX_THREADS || b.z > 64) {
        return cudaErrorInvalidConfiguration;
    }
    if (threads % CH_WARP) ch_report({}, "kernel %s: a block of %zu threads is no multiple of 32", call->name, threads);
    return call->dynamic_bytes > ch_dynamic_limit(call->kernel) ? cudaErrorInvalidValue : cudaSuccess;
}

static void run_kernel(const ch_call *call) {
    cudaError_t error;
    if (ch_take_injected("kernel", &error)) {
        ch_make_sticky(error);
        return;
    }
    ch_run_grid(call);
}

void ch_enqueue_launch(ch_call *call, cudaStream_t stream) {
    const std::shared_ptr<const ch_call> owned(call);
    ch_api guard("launch");
    if (guard.error == cudaSuccess) guard.error = check_launch(call);
    if (guard.error != cudaSuccess) {
        ch_fail(guard.error);
        return;
    }
    enqueue(stream, [owned] { run_kernel(owned.get()); });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *ctx) {
    CH_API();
    return enqueue(stream, [function, ctx] { function(ctx); });
}

/* ---- copies ----------------------------------------------------------------------------------------------------- */

/* Is [p, p + bytes) within one allocation of the device, or wholly outside of its memory? */
static bool sound(const void *p, size_t bytes, bool *on_device) {
    const ch_range r = ch_find(p);
    *on_device = r.where == CH_DEVICE || r.where == CH_PINNED_DEVICE;
    if (r.where == CH_NOWHERE) return !ch_in_device_space(p);
    return reinterpret_cast<uintptr_t>(p) - r.base + bytes <= r.bytes || r.where == CH_REGISTERED;
}

static void copy_now(void *to, const void *from, size_t bytes, bool to_device, bool from_device) {
    const ch_device_access open;
    memmove(to, from, bytes);
    if (to_device && from_device) {
        ch_race_copied(to, from, bytes);
    } else if (to_device) {
        ch_race_initialised(to, bytes);
    }
    ch_counts.copies++, ch_counts.copied_bytes += bytes;
}

static cudaError_t check_copy(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind, bool *to_device, bool *from_device) {
    if (!sound(to, bytes, to_device) || !sound(from, bytes, from_device)) return cudaErrorInvalidValue;
    const bool says_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool says_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault) {
        if (says_to != *to_device && !ch_is_pinned(to)) return cudaErrorInvalidValue;
        if (says_from != *from_device && !ch_is_pinned(from)) return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    CH_API();
    if (!bytes) return cudaSuccess;
    bool to_device, from_device;
    const cudaError_t error = check_copy(to, from, bytes, kind, &to_device, &from_device);
    if (error != cudaSuccess) return ch_fail(error);
    const bool capturing = stream && alive(stream) && stream->capture;
    if (!from_device && !ch_is_pinned(from) && !capturing) { // pageable: CUDA has taken the bytes when the call returns
        const auto staged = std::make_shared<std::vector<char>>(static_cast<const char *>(from), static_cast<const char *>(from) + bytes);
        return enqueue(stream, [=] { copy_now(to, staged->data(), bytes, to_device, false); });
    }
    const cudaError_t queued = enqueue(stream, [=] { copy_now(to, from, bytes, to_device, from_device); });
    if (queued == cudaSuccess && !to_device && !ch_is_pinned(to) && !capturing && stream) drain(stream); // and is back only then
    return queued;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
    CH_API();
    if (width > to_pitch || width > from_pitch) return ch_fail(cudaErrorInvalidValue);
    for (size_t row = 0; row < height; row++) {
        const cudaError_t error = cudaMemcpyAsync(static_cast<char *>(to) + row * to_pitch,
                                                  static_cast<const char *>(from) + row * from_pitch, width, kind, stream);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    CH_API();
    return cudaMemcpyAsync(to, from, bytes, kind, nullptr); // the legacy stream's work is done at once
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    CH_API();
    if (!bytes) return cudaSuccess;
    bool on_device;
    if (!sound(p, bytes, &on_device) || (!on_device && !ch_is_pinned(p))) return ch_fail(cudaErrorInvalidValue);
    return enqueue(stream, [=] {
        const ch_device_access open;
        memset(p, value, bytes);
        if (on_device) ch_race_initialised(p, bytes);
    });
}

cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    CH_API();
    return cudaMemsetAsync(p, value, bytes, nullptr);
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    CH_API();
    *stream = new CUstream_st{};
    (*stream)->blocking = !(flags & cudaStreamNonBlocking);
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) { return cudaStreamCreateWithFlags(stream, flags); }

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    CH_API();
    *least = 0, *greatest = -1;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const ch_api guard("cudaStreamDestroy"); // frees in spite of a sticky error, so that tests can end clean
    if (!stream || !alive(stream)) return ch_fail(cudaErrorInvalidResourceHandle);
    drain(stream);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return guard.error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    CH_API();
    const cudaError_t error = check_stream(&stream);
    if (error != cudaSuccess || stream->capture) return ch_fail(error != cudaSuccess ? error : cudaErrorStreamCaptureUnsupported);
    drain(stream);
    ch_counts.syncs++;
    return ch_sticky() == cudaSuccess ? cudaSuccess : ch_fail(ch_sticky());
}

cudaError_t cudaDeviceSynchronize(void) {
    CH_API();
    if (captures) return ch_fail(cudaErrorStreamCaptureUnsupported);
    for (size_t i = 0; i < streams.size(); i++) drain(streams[i]);
    ch_counts.syncs++;
    return ch_sticky() == cudaSuccess ? cudaSuccess : ch_fail(ch_sticky());
}

/* Asking makes progress, so that a host that polls gets there in the lazy schedule, too. */
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    CH_API();
    const cudaError_t error = check_stream(&stream);
    if (error != cudaSuccess) return ch_fail(error);
    if (!stream->queue.empty() && !step(stream)) step_any();
    if (ch_sticky() != cudaSuccess) return ch_fail(ch_sticky());
    return stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}

/* ---- events ----------------------------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    CH_API();
    *event = new CUevent_st{std::make_shared<event_state>(), nullptr, nullptr, 0};
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const ch_api guard("cudaEventDestroy");
    if (!event) return ch_fail(cudaErrorInvalidResourceHandle);
    delete event;
    return guard.error;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    CH_API();
    const cudaError_t error = check_stream(&stream);
    if (error != cudaSuccess) return ch_fail(error);
    event->stream = stream, event->capture = stream->capture, event->captured = stream->captured;
    if (stream->capture) return cudaSuccess;
    const std::shared_ptr<event_state> state = event->state;
    const uint64_t version = ++state->issued;
    return enqueue(stream == &legacy ? nullptr : stream, [state, version] {
        state->done = std::max(state->done, version);
        state->time_ns = ch_clock_ns();
    });
}

/* In a capture: stream joins that of the event, which so has waited for the event's stream. */
static cudaError_t join_capture(CUstream_st *stream, cudaEvent_t event) {
    if (!event->capture || !alive(event->stream)) return ch_fail(cudaErrorStreamCaptureUnsupported);
    if (!stream->capture) stream->capture = event->capture, stream->origin = event->stream->origin, stream->captured = 0;
    if (event->captured == event->stream->captured && event->stream != stream) event->stream->unjoined = false;
    if (stream != stream->origin) stream->unjoined = true;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    CH_API();
    const cudaError_t error = check_stream(&stream);
    if (error != cudaSuccess) return ch_fail(error);
    if (stream->capture || event->capture) return join_capture(stream, event);
    const std::shared_ptr<event_state> state = event->state;
    const uint64_t version = state->issued;
    stream->queue.push_back(op{[] {}, [state, version] { return state->done >= version; }});
    if (stream == &legacy) drain(stream);
    after_enqueue();
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    CH_API();
    const event_state *state = event->state.get();
    const uint64_t version = state->issued;
    advance(event->stream && alive(event->stream) ? event->stream : nullptr, [=] { return state->done >= version; });
    ch_counts.syncs++;
    return ch_sticky() == cudaSuccess ? cudaSuccess : ch_fail(ch_sticky());
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    CH_API();
    if (event->state->done < event->state->issued && !(event->stream && alive(event->stream) && step(event->stream))) step_any();
    if (ch_sticky() != cudaSuccess) return ch_fail(ch_sticky());
    return event->state->done >= event->state->issued ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    CH_API();
    if (!start->state->done || !end->state->done) return ch_fail(cudaErrorInvalidResourceHandle);
    *ms = static_cast<float>(static_cast<double>(end->state->time_ns) - static_cast<double>(start->state->time_ns)) * 1e-6f;
    return cudaSuccess;
}

/* ---- graphs ----------------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    CH_API();
    if (!stream || !alive(stream)) return ch_fail(cudaErrorInvalidResourceHandle);
    if (stream->capture) return ch_fail(cudaErrorStreamCaptureUnsupported);
    stream->capture = new CUgraph_st, stream->origin = stream, stream->captured = 0;
    captures++;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    const ch_api guard("cudaStreamEndCapture");
    *graph = nullptr;
    if (!stream || !alive(stream) || !stream->capture || stream->origin != stream) return ch_fail(cudaErrorInvalidResourceHandle);
    CUgraph_st *captured = stream->capture;
    bool unjoined = false;
    for (CUstream_st *s : streams) {
        if (s->capture != captured) continue;
        unjoined |= s != stream && s->unjoined;
        s->capture = nullptr, s->origin = nullptr, s->unjoined = false;
    }
    captures--;
    const cudaError_t error = guard.error != cudaSuccess ? guard.error : unjoined ? cudaErrorStreamCaptureUnjoined : cudaSuccess;
    if (error != cudaSuccess) {
        delete captured;
        return ch_fail(error);
    }
    *graph = captured;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    CH_API();
    *status = stream && alive(stream) && stream->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *, size_t *count) {
    CH_API();
    *count = graph->ops.size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    CH_API();
    *exec = new CUgraphExec_st{graph->ops};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
    CH_API();
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    CH_API();
    for (const std::function<void()> &run : exec->ops) {
        const cudaError_t error = enqueue(stream, run);
        if (error != cudaSuccess) return error;
    }
    ch_counts.graph_launches++;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    const ch_api guard("cudaGraphExecDestroy");
    delete exec;
    return guard.error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    const ch_api guard("cudaGraphDestroy");
    delete graph;
    return guard.error;
}

cudaError_t cudaDeviceGraphMemTrim(int) {
    CH_API();
    return cudaSuccess;
}
