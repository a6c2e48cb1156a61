/* The sample kernels give the right values: in every order and schedule that CTest runs this in, and by way of a captured graph. */
#include "tests/support/check.h"

#include <pthread.h>
#include <sched.h>

#include "tests/cuda_host/run_samples.h"

static cudaStream_t stream_of(void **state) { return static_cast<cudaStream_t>(*state); }

static int make_stream(void **state) {
    cudaStream_t s;
    if (cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) != cudaSuccess) return -1;
    *state = s;
    return 0;
}

static int drop_stream(void **state) { return cudaStreamDestroy(stream_of(state)) == cudaSuccess ? 0 : -1; }

static void norm_is_right(void **state) {
    assert_true(run_norm<NO_BUG>(stream_of(state)));
    assert_true(run_norm<NO_BUG>(stream_of(state), 1, 1));
    assert_true(run_norm<NO_BUG>(stream_of(state), 2, 1024));
}

static void gemv_is_right(void **state) {
    for (const int rows : {1, 4, 13}) assert_true(run_gemv<NO_BUG>(stream_of(state), rows));
}

static void gemm_is_right(void **state) {
    assert_true(run_gemm<NO_BUG>(stream_of(state)));
    assert_true(run_gemm<NO_BUG>(stream_of(state), 1, 1, 32));
    assert_true(run_gemm<NO_BUG>(stream_of(state), 64, 32, 64));
}

static void gemm_is_right_when_copies_arrive_early(void **state) {
    struct ch_config config = ch_get_config();
    config.landing = CH_EARLY;
    ch_set_config(config);
    assert_true(run_gemm<NO_BUG>(stream_of(state)));
    config.landing = CH_LATE;
    ch_set_config(config);
}

static void last_block_sees_all_parts(void **state) {
    for (const int n : {1, 32, 33, 300}) assert_true(run_ticket<NO_BUG>(stream_of(state), n));
}

static void lanes_swap_through_shared_memory(void **state) { assert_true(run_swap<NO_BUG>(stream_of(state))); }
static void atomics_count(void **state) { assert_true(run_count<NO_BUG>(stream_of(state))); }

static void pump_answers_letters(void **state) {
    assert_true(run_mail<NO_BUG>(stream_of(state), [](mail *m) {
        ch_set_pump(answer_mail, m);
        return [] { ch_set_pump(nullptr, nullptr); };
    }));
}

/* Without a pump, another thread of the process answers, as the real coordinator does. */
struct clerk {
    mail *m;
    int stop;
};

static void *serve(void *ctx) {
    clerk *c = static_cast<clerk *>(ctx);
    while (!__atomic_load_n(&c->stop, __ATOMIC_ACQUIRE)) {
        answer_mail(c->m);
        sched_yield();
    }
    return nullptr;
}

static void thread_answers_letters(void **state) {
    static clerk c;
    static pthread_t thread;
    c = clerk{nullptr, 0};
    assert_true(run_mail<NO_BUG>(stream_of(state), [](mail *m) {
        c.m = m;
        assert_int_equal(pthread_create(&thread, nullptr, serve, &c), 0);
        return [] {
            __atomic_store_n(&c.stop, 1, __ATOMIC_RELEASE);
            pthread_join(thread, nullptr);
        };
    }));
}

__global__ void add_one(float *x) { x[threadIdx.x] += 1; }

static void graph_replays_kernels_and_copies(void **state) {
    const cudaStream_t s = stream_of(state);
    held<float> x(32);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    memset(x.begin(), 0, 32 * sizeof(float));
    x.up(s);
    assert_int_equal(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    for (int i = 0; i < 3; i++) LAUNCH(add_one, 1, 32, 0, s, x.device);
    assert_int_equal(cudaStreamEndCapture(s, &graph), cudaSuccess);
    assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    for (int i = 0; i < 5; i++) assert_int_equal(cudaGraphLaunch(exec, s), cudaSuccess);
    assert_true(x.down(s));
    for (int i = 0; i < 32; i++) assert_true(x[i] == 15);
    assert_int_equal(cudaGraphExecDestroy(exec), cudaSuccess);
    assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_is_right),
        cmocka_unit_test(gemv_is_right),
        cmocka_unit_test(gemm_is_right),
        cmocka_unit_test(gemm_is_right_when_copies_arrive_early),
        cmocka_unit_test(last_block_sees_all_parts),
        cmocka_unit_test(lanes_swap_through_shared_memory),
        cmocka_unit_test(atomics_count),
        cmocka_unit_test(pump_answers_letters),
        cmocka_unit_test(thread_answers_letters),
        cmocka_unit_test(graph_replays_kernels_and_copies),
    };
    return cmocka_run_group_tests(tests, make_stream, drop_stream);
}
