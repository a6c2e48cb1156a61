/* A network's scratch and its launches one by one, for tests of the kernels of a step. Plain C. */
#ifndef COLDSTREAM_TESTS_STEP_PROBE_H
#define COLDSTREAM_TESTS_STEP_PROBE_H

#include "gpu/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct probe_acts {
    gpu_ptr q, d, s32, sum16;
};

/* Where struct gpu_step and the tables of gpu/network.h lie. */
struct step_probe {
    gpu_ptr x, qkv, attended32, normed, router, route, hits, n_hits, mid32, logits, best;
    gpu_ptr n_missing, n_misses, failed, tickets, slots, uses;
    struct probe_acts attended, normed8, mid;
};

/* As gpu_hit and gpu_route there. */
struct probe_hit {
    uint32_t slot, tokens, rank[GPU_STEP_TOKENS];
    float weight[GPU_STEP_TOKENS];
};
struct probe_route {
    int32_t expert;
    uint32_t slot;
    float weight;
};

enum probe_launch {
    PROBE_BEGIN,
    PROBE_QKV,
    PROBE_ATTENTION_MAIL,
    PROBE_OUTPUT,
    PROBE_ROUTE,
    PROBE_GATE_UP,
    PROBE_DOWN,
    PROBE_HEAD,
    PROBE_END
};
enum { PROBE_TICKETS = 16 };

struct step_probe step_probe_of(const struct gpu_network *n);
/* y[i][r] = row r of w times vector i of `n`: binary16 at x, or with `exact` binary32, as routers are computed. */
void step_probe_product(struct gpu *g, struct gpu_network *net, const struct gpu_matrix *w, gpu_ptr x, uint32_t n, bool exact,
                        gpu_ptr y);
void step_probe_launch(struct gpu *g, struct gpu_network *n, enum probe_launch what, uint32_t tokens, uint32_t layer);

#ifdef __cplusplus
}
#endif

#endif
