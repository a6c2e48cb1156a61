/* bench.h of a build without CUDA: no device is ever open there. */
#include "gpu/bench.h"

static enum err none(struct reason *why) { return fail(why, ERR_UNSUPPORTED, "this program was built without CUDA"); }

void gpu_bench_facts(struct gpu *g, struct gpu_bench_facts *out) {
    (void)g;
    *out = (struct gpu_bench_facts){0};
}

uint64_t gpu_bench_free_bytes(struct gpu *g) {
    (void)g;
    return 0;
}

void gpu_bench_fill(struct gpu *g, gpu_ptr to, uint64_t bytes) { (void)g, (void)to, (void)bytes; }

enum err gpu_bench_time(struct gpu *g, const struct gpu_bench_job *job, uint32_t repeats, double *seconds, struct reason *why) {
    (void)g, (void)job, (void)repeats, (void)seconds;
    return none(why);
}

enum err gpu_bench_hand_over(struct gpu_network *n, uint32_t floats, uint32_t rounds, double *seconds, struct reason *why) {
    (void)n, (void)floats, (void)rounds, (void)seconds;
    return none(why);
}
