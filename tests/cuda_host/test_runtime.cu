/* Streams, events, graphs, memory, errors: the parts of the runtime that the device layer stands on, in each schedule. */
#include "tests/support/check.h"

#include "gpu/cu.h"

__global__ void set_to(float *x, float v) { x[threadIdx.x] = v; }
__global__ void add_to(float *x, const float *y) { x[threadIdx.x] += y[threadIdx.x]; }

enum { N = 32, BYTES = N * sizeof(float) };

static void set_schedule(ch_schedule schedule) {
    struct ch_config config = ch_get_config();
    config.schedule = schedule;
    ch_set_config(config);
}

/* What was forgotten shows: without the event the sum is read too early in the lazy schedule, with it in none. */
static float sum_across_streams(bool with_event) {
    cudaStream_t a, b;
    cudaEvent_t done;
    float *x, *y, host[N];
    assert_int_equal(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), cudaSuccess);
    assert_int_equal(cudaMalloc(&x, BYTES), cudaSuccess);
    assert_int_equal(cudaMalloc(&y, BYTES), cudaSuccess);
    assert_int_equal(cudaMemset(y, 0, BYTES), cudaSuccess);
    LAUNCH(set_to, 1, N, 0, a, y, 3.0f);
    assert_int_equal(cudaEventRecord(done, a), cudaSuccess);
    LAUNCH(set_to, 1, N, 0, b, x, 4.0f);
    if (with_event) assert_int_equal(cudaStreamWaitEvent(b, done, 0), cudaSuccess);
    LAUNCH(add_to, 1, N, 0, b, x, y);
    assert_int_equal(cudaMemcpyAsync(host, x, BYTES, cudaMemcpyDeviceToHost, b), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(b), cudaSuccess);
    assert_int_equal(cudaEventDestroy(done), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(a), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(b), cudaSuccess);
    assert_int_equal(cudaFree(x), cudaSuccess);
    assert_int_equal(cudaFree(y), cudaSuccess);
    return host[0];
}

static void events_order_streams(void **) {
    assert_true(sum_across_streams(true) == 7);
    const struct ch_config before = ch_get_config();
    set_schedule(CH_LAZY);
    assert_true(sum_across_streams(true) == 7);
    assert_true(sum_across_streams(false) == 4);
    ch_set_config(before);
}

static void polling_moves_lazy_streams(void **) {
    const struct ch_config before = ch_get_config();
    set_schedule(CH_LAZY);
    cudaStream_t s;
    cudaEvent_t e;
    float *pinned, *device;
    assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaEventCreate(&e), cudaSuccess);
    assert_int_equal(cudaHostAlloc(&pinned, BYTES, cudaHostAllocMapped), cudaSuccess);
    assert_int_equal(cudaHostGetDevicePointer(&device, pinned, 0), cudaSuccess);
    assert_ptr_not_equal(pinned, device); // so that a mix-up shows
    pinned[0] = 0;
    LAUNCH(set_to, 1, N, 0, s, device, 1.0f);
    LAUNCH(set_to, 1, N, 0, s, device, 2.0f);
    assert_int_equal(cudaEventRecord(e, s), cudaSuccess);
    assert_true(pinned[0] == 0);
    assert_int_equal(cudaStreamQuery(s), cudaErrorNotReady);
    assert_true(pinned[0] == 1);
    while (cudaEventQuery(e) == cudaErrorNotReady) continue;
    assert_true(pinned[0] == 2);
    assert_int_equal(cudaEventDestroy(e), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(s), cudaSuccess);
    assert_int_equal(cudaFreeHost(pinned), cudaSuccess);
    ch_set_config(before);
}

static void pageable_sources_may_change_at_once(void **) {
    float host[N], *x;
    cudaStream_t s;
    assert_int_equal(cudaStreamCreate(&s), cudaSuccess);
    assert_int_equal(cudaMalloc(&x, BYTES), cudaSuccess);
    for (float &v : host) v = 5;
    assert_int_equal(cudaMemcpyAsync(x, host, BYTES, cudaMemcpyHostToDevice, s), cudaSuccess);
    for (float &v : host) v = 6;
    assert_int_equal(cudaMemcpyAsync(host, x, BYTES, cudaMemcpyDeviceToHost, s), cudaSuccess);
    assert_true(host[N - 1] == 5);
    assert_int_equal(cudaStreamDestroy(s), cudaSuccess);
    assert_int_equal(cudaFree(x), cudaSuccess);
}

static void captures_fork_and_join(void **) {
    cudaStream_t a, b;
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    float *x, *y, host[N];
    size_t nodes = 0;
    assert_int_equal(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaEventCreate(&fork), cudaSuccess);
    assert_int_equal(cudaEventCreate(&join), cudaSuccess);
    assert_int_equal(cudaMalloc(&x, BYTES), cudaSuccess);
    assert_int_equal(cudaMalloc(&y, BYTES), cudaSuccess);
    for (int joined = 0; joined < 2; joined++) {
        assert_int_equal(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal), cudaSuccess);
        assert_int_equal(cudaStreamSynchronize(a), cudaErrorStreamCaptureUnsupported);
        assert_int_equal(cudaEventRecord(fork, a), cudaSuccess);
        assert_int_equal(cudaStreamWaitEvent(b, fork, 0), cudaSuccess);
        LAUNCH(set_to, 1, N, 0, a, x, 1.0f);
        LAUNCH(set_to, 1, N, 0, b, y, 2.0f);
        assert_int_equal(cudaEventRecord(join, b), cudaSuccess);
        if (joined) assert_int_equal(cudaStreamWaitEvent(a, join, 0), cudaSuccess);
        LAUNCH(add_to, 1, N, 0, a, x, y);
        assert_int_equal(cudaStreamEndCapture(a, &graph), joined ? cudaSuccess : cudaErrorStreamCaptureUnjoined);
    }
    (void)cudaGetLastError();
    assert_int_equal(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
    assert_int_equal(nodes, 3);
    assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    assert_int_equal(cudaGraphLaunch(exec, a), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(host, x, BYTES, cudaMemcpyDeviceToHost, a), cudaSuccess);
    assert_true(host[0] == 3);
    assert_int_equal(cudaGraphExecDestroy(exec), cudaSuccess);
    assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
    assert_int_equal(cudaEventDestroy(fork), cudaSuccess);
    assert_int_equal(cudaEventDestroy(join), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(a), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(b), cudaSuccess);
    assert_int_equal(cudaFree(x), cudaSuccess);
    assert_int_equal(cudaFree(y), cudaSuccess);
}

static void memory_has_an_end(void **) {
    const struct ch_config before = ch_get_config();
    struct ch_config small = before;
    small.vram_bytes = 64 << 20, small.context_bytes = 10 << 20, small.sms = 7;
    ch_set_config(small);
    size_t free_bytes, total;
    char *p, *q;
    cudaDeviceProp prop;
    assert_int_equal(cudaGetDeviceProperties(&prop, 0), cudaSuccess);
    assert_int_equal(prop.multiProcessorCount, 7);
    assert_int_equal(prop.totalGlobalMem, 64 << 20);
    assert_int_equal(cudaMalloc(&p, 40 << 20), cudaSuccess);
    assert_int_equal(cudaMemGetInfo(&free_bytes, &total), cudaSuccess);
    assert_int_equal(total, 64 << 20);
    assert_int_equal(free_bytes, 14 << 20);
    assert_int_equal(cudaMalloc(&q, 15 << 20), cudaErrorMemoryAllocation);
    assert_null(q);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(ch_vram_used(), 40 << 20);
    assert_int_equal(cudaFree(p), cudaSuccess);
    assert_int_equal(cudaMalloc(&q, 15 << 20), cudaSuccess);
    assert_int_equal(cudaFree(q), cudaSuccess);
    assert_int_equal(cudaFree(q), cudaErrorInvalidValue);
    (void)cudaGetLastError();
    ch_set_config(before);
}

static void copies_are_bounded(void **) {
    float host[2 * N] = {}, *x;
    assert_int_equal(cudaMalloc(&x, BYTES), cudaSuccess);
    assert_int_equal(cudaMemcpy(x, host, BYTES + 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(x + N, host, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(host, x, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(x, 0, BYTES + 1), cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(host, 0, 4), cudaErrorInvalidValue);
    (void)cudaGetLastError();
    assert_int_equal(cudaFree(x), cudaSuccess);
}

__global__ void touch_dynamic(float *x) {
    DYN_SHARED(float, room);
    room[threadIdx.x] = 1;
    x[threadIdx.x] = room[threadIdx.x];
}

static void launches_are_checked(void **) {
    float *x;
    assert_int_equal(cudaMalloc(&x, BYTES), cudaSuccess);
    LAUNCH(set_to, dim3(1, 0), N, 0, nullptr, x, 1.0f);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(set_to, 1, 2048, 0, nullptr, x, 1.0f);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    LAUNCH(touch_dynamic, 1, N, 64 << 10, nullptr, x);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaFuncSetAttribute(touch_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 20), cudaErrorInvalidValue);
    (void)cudaGetLastError();
    assert_int_equal(cudaFuncSetAttribute(touch_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10), cudaSuccess);
    LAUNCH(touch_dynamic, 1, N, 64 << 10, nullptr, x);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(cudaFree(x), cudaSuccess);
}

static void errors_come_when_told(void **) {
    float *x, *y;
    ch_inject_error("cudaMalloc", 2, cudaErrorMemoryAllocation, false);
    assert_int_equal(cudaMalloc(&x, BYTES), cudaSuccess);
    assert_int_equal(cudaMalloc(&y, BYTES), cudaErrorMemoryAllocation);
    assert_int_equal(cudaMalloc(&y, BYTES), cudaSuccess);
    (void)cudaGetLastError();
    ch_inject_error("kernel", 1, cudaErrorIllegalAddress, true);
    LAUNCH(set_to, 1, N, 0, nullptr, x, 1.0f);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    assert_int_equal(cudaMemset(x, 0, BYTES), cudaErrorIllegalAddress);
    assert_int_equal(cudaGetLastError(), cudaErrorIllegalAddress);
    assert_int_equal(cudaGetLastError(), cudaErrorIllegalAddress); // it stays
    assert_int_equal(cudaDeviceReset(), cudaSuccess);
    assert_int_equal(cudaMalloc(&x, BYTES), cudaSuccess);
    assert_int_equal(cudaFree(x), cudaSuccess);
    assert_string_equal(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress");
}

static void no_device_is_an_answer(void **) {
    const struct ch_config before = ch_get_config();
    struct ch_config none = before;
    int count = 5;
    none.devices = 0;
    ch_set_config(none);
    assert_int_equal(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    assert_int_equal(count, 0);
    void *p;
    assert_int_equal(cudaMalloc(&p, 4), cudaErrorNoDevice);
    (void)cudaGetLastError();
    ch_set_config(before);
}

static void registered_memory_is_pinned(void **) {
    alignas(64) static float host[N];
    void *device;
    assert_int_equal(cudaHostGetDevicePointer(&device, host, 0), cudaErrorInvalidValue);
    (void)cudaGetLastError();
    assert_int_equal(cudaHostRegister(host, sizeof host, cudaHostRegisterDefault), cudaSuccess);
    assert_int_equal(cudaHostRegister(host, sizeof host, cudaHostRegisterDefault), cudaErrorHostMemoryAlreadyRegistered);
    (void)cudaGetLastError();
    assert_int_equal(cudaHostGetDevicePointer(&device, host, 0), cudaSuccess);
    LAUNCH(set_to, 1, N, 0, nullptr, static_cast<float *>(device), 8.0f);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    assert_true(host[N - 1] == 8);
    assert_int_equal(cudaHostUnregister(host), cudaSuccess);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_order_streams),    cmocka_unit_test(polling_moves_lazy_streams),
        cmocka_unit_test(pageable_sources_may_change_at_once), cmocka_unit_test(captures_fork_and_join),
        cmocka_unit_test(memory_has_an_end),       cmocka_unit_test(copies_are_bounded),
        cmocka_unit_test(launches_are_checked),    cmocka_unit_test(errors_come_when_told),
        cmocka_unit_test(no_device_is_an_answer),  cmocka_unit_test(registered_memory_is_pinned),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
