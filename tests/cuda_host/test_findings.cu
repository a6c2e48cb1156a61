/* The emulator finds what it says it finds, and names it: each wrong kernel runs in a child process, whose last words are read.
 * Findings of the race build alone are asked of it alone. */
#include "tests/support/check.h"

#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gpu/cu.h"

/* Run `body` in a child; its words. True when it was killed or failed. */
static bool dies(void (*body)(void), char *words, size_t size) {
    int pipe_ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    fflush(nullptr);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        dup2(pipe_ends[1], 2);
        alarm(30);
        body();
        (void)cudaDeviceSynchronize();
        _exit(0);
    }
    close(pipe_ends[1]);
    size_t n = 0;
    for (ssize_t got; n + 1 < size && (got = read(pipe_ends[0], words + n, size - n - 1)) > 0;) n += static_cast<size_t>(got);
    words[n] = 0;
    close(pipe_ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void expect(void (*body)(void), const char *words_of_it) {
    static char words[1 << 16];
    const bool died = dies(body, words, sizeof words);
    if (!died || !strstr(words, words_of_it)) fail_test("expected \"%s\", the child %s: %s", words_of_it, died ? "died of" : "lived", words);
}

/* Launch with 64 ints of device memory, written. */
template <class K> static void launch(K kernel, unsigned blocks = 1, unsigned threads = 64, size_t dynamic_bytes = 0) {
    int *x;
    (void)cudaMalloc(&x, 64 * sizeof *x);
    (void)cudaMemset(x, 0, 64 * sizeof *x);
    LAUNCH(kernel, blocks, threads, dynamic_bytes, nullptr, x);
    (void)cudaFree(x);
}

static bool build_is(const char *name) { return !strcmp(ch_build(), name); }

/* ---- divergence ------------------------------------------------------------------------------------------------- */

__global__ void two_lines(int *x) {
    int v;
    if (threadIdx.x % 2) v = __shfl_sync(FULL_WARP, 1, 0);
    else v = __shfl_sync(FULL_WARP, 2, 0);
    x[threadIdx.x] = v;
}
__global__ void lane_gone(int *x) {
    if (threadIdx.x == 5) return;
    x[threadIdx.x] = __ballot_sync(FULL_WARP, 1);
}
__global__ void not_in_mask(int *x) { x[threadIdx.x] = __ballot_sync(0xffu, 1); }
__global__ void barrier_lines(int *x) {
    if (threadIdx.x < 32) __syncthreads();
    else __syncthreads();
    x[threadIdx.x] = 0;
}
__global__ void gone_before_barrier(int *) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
}
__global__ void crossed(int *) {
    if (threadIdx.x % 32 == 0) __syncthreads();
    else __syncwarp();
    __syncthreads();
}
__global__ void odd_block(int *) {}

static void divergence_is_found(void **) {
    expect([] { launch(two_lines); }, "divergent warp: __shfl_sync");
    expect([] { launch(lane_gone); }, "lane");
    expect([] { launch(not_in_mask); }, "not in its mask");
    expect([] { launch(barrier_lines); }, "divergent block barrier");
    expect([] { launch(gone_before_barrier); }, "block barrier");
    expect([] { launch(crossed); }, "deadlock: every thread of the block waits");
    expect([] { launch(odd_block, 1, 48); }, "no multiple of 32");
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

__global__ void past_shared(int *x) {
    SHARED(int, room, 8);
    room[threadIdx.x % 8] = 1;
    int *p = room; // past the compiler's own knowledge of its size
    asm("" : "+r"(p));
    p[8] = 1;
    x[0] = 0;
}
__global__ void past_dynamic(int *x) {
    DYN_SHARED(int, room);
    if (threadIdx.x == 0) room[16] = x[0];
}
__global__ void past_global(int *x) {
    if (threadIdx.x == 0) x[64] = 1;
}
__global__ void odd_load(int *x) {
    if (threadIdx.x == 0) x[0] = static_cast<int>(ldu4(x + 1).x);
}
__global__ void trapped(int *) { __trap(); }

static void strays_are_found(void **) {
    expect([] { launch(past_shared); }, build_is("asan") ? "AddressSanitizer" : build_is("race") ? "out of bounds" : "past shared array room");
    expect([] { launch(past_dynamic, 1, 64, 64); },
           build_is("asan") ? "AddressSanitizer" : build_is("race") ? "out of bounds" : "past shared array dynamic");
    expect([] { launch(past_global); }, build_is("asan") ? "AddressSanitizer" : build_is("race") ? "out of bounds" : "wrote past the 256 bytes");
    expect([] { launch(odd_load); }, "misaligned");
    expect([] { launch(trapped); }, "__trap()");
}

static void guard_stops_the_host(void **) {
    expect(
        [] {
            struct ch_config config = ch_get_config();
            config.guard = true;
            ch_set_config(config);
            int *x;
            (void)cudaMalloc(&x, 256);
            (void)cudaMemset(x, 0, 256);
            const rlimit no_core = {0, 0};
            setrlimit(RLIMIT_CORE, &no_core);
            fprintf(stderr, "before\n");
            *static_cast<volatile int *>(x) = 1;
        },
        "before");
}

/* ---- races (the race build) --------------------------------------------------------------------------------------- */

__global__ void read_of_write(int *x) {
    x[threadIdx.x] = 1;
    x[threadIdx.x] += x[63 - threadIdx.x];
}
__global__ void one_place(int *x) { x[0] = 7; }
__global__ void blocks_meet(int *x) {
    if (threadIdx.x == 0) x[1] = static_cast<int>(blockIdx.x);
}
__global__ void bytes_apart(int *x) { reinterpret_cast<char *>(x)[threadIdx.x] = 1; }
__global__ void ordered_by_warp(int *x) {
    x[threadIdx.x] = 1;
    __syncwarp();
    x[threadIdx.x ^ 1] = 2;
}
__global__ void ordered_by_halves(int *x) {
    const unsigned lane = threadIdx.x % 32;
    x[threadIdx.x] = 1;
    if (lane < 16) __syncwarp(0x0000ffffu);
    else __syncwarp(0xffff0000u);
    x[threadIdx.x ^ 8] = 2;
}
__global__ void handed_by_flag(int *x) {
    uint32_t *flag = reinterpret_cast<uint32_t *>(x) + 63;
    if (threadIdx.x) return;
    if (ld_acquire_gpu(flag) == 0) {
        x[0] = 5;
        st_release_gpu(flag, 1);
    } else {
        x[1] = x[0];
    }
}
__global__ void unwritten(int *) {
    SHARED(int, room, 64);
    if (threadIdx.x < 32) room[threadIdx.x] = 1;
    __syncthreads();
    volatile int v = room[threadIdx.x];
    (void)v;
}


static void races_are_found(void **) {
    if (!build_is("race")) {
        print_message("[  SKIPPED ] this build has no race check\n");
        skip();
    }
    expect([] { launch(read_of_write); }, "race: ");
    expect([] { launch(one_place); }, "race: write over a write");
    expect([] { launch(blocks_meet, 2); }, "race: write over a write");
    expect([] { launch(unwritten); }, "never written");
    expect([] { LAUNCH(one_place, 1, 32, 0, nullptr, new int[64]); }, "host pointer");
}

static void ordered_accesses_are_no_races(void **) {
    launch(bytes_apart);
    launch(ordered_by_warp);
    launch(ordered_by_halves);
    launch(handed_by_flag, 2);
    launch(blocks_meet, 1);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divergence_is_found), cmocka_unit_test(strays_are_found),
        cmocka_unit_test(guard_stops_the_host), cmocka_unit_test(races_are_found),
        cmocka_unit_test(ordered_accesses_are_no_races),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
