/* Runs the sample kernel with one planted bug: mutants NUMBER. Exit 0: nothing was noticed; 1: wrong values; killed or another
 * status: the build's checks spoke. Without a number: the list, a line each, for test_mutants.cpp. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/cuda_host/run_samples.h"

template <int BUG> static bool run(cudaStream_t s) {
    if constexpr (BUG < GEMV_NO_BARRIER) return run_norm<BUG>(s);
    else if constexpr (BUG < GEMM_LATE_WAIT) return run_gemv<BUG>(s);
    else if constexpr (BUG < TICKET_RELAXED) return run_gemm<BUG>(s);
    else if constexpr (BUG < SWAP_NO_SYNCWARP) return run_ticket<BUG>(s);
    else if constexpr (BUG < COUNT_PLAIN) return run_swap<BUG>(s);
    else if constexpr (BUG < MAIL_HOST_POINTER) return run_count<BUG>(s);
    else return run_mail<BUG>(s, [](mail *m) {
        ch_set_pump(answer_mail, m);
        return [] { ch_set_pump(nullptr, nullptr); };
    });
}

int main(int argc, char **argv) {
    static bool (*const runs[])(cudaStream_t) = {
        nullptr,
#define X(name, text) run<name>,
        BUGS(X)
#undef X
    };
    static const char *const texts[] = {
        "",
#define X(name, text) text,
        BUGS(X)
#undef X
    };
    if (argc != 2) {
        for (int i = 1; i < BUG_COUNT; i++) printf("%d %s\n", i, texts[i]);
        return 0;
    }
    const int number = atoi(argv[1]);
    if (number < 1 || number >= BUG_COUNT) return 2;
    cudaStream_t s;
    if (cudaStreamCreate(&s) != cudaSuccess) return 2;
    const bool right = runs[number](s);
    (void)cudaStreamDestroy(s);
    return right ? 0 : 1;
}
