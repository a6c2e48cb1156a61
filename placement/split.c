/* See split.h. */
#include "placement/split.h"

#include <math.h>

#include "placement/cost.h"

static const double GUESSED_LINK = 12e9, BOUNCED_LINK = 7e9; /* the second: through a thread's copy into pinned memory */
static const double GUESSED_RAM = 40e9, GUESSED_MACS = 2e11; /* 24 us an expert of 4.7 million weights and token */

static double either(double measured, double guess) { return measured > 0 ? measured : guess; }

struct split_rates split_rates_of(const struct facts *f, uint32_t gpu, const char *isa, unsigned threads, bool pinned) {
    const double link = either(gpu < f->n_gpus ? f->gpus[gpu].to_gpu_bytes_per_s : 0, GUESSED_LINK);
    return (struct split_rates){.link_bytes_per_s = pinned ? link : fmin(link, BOUNCED_LINK),
                                .ram_bytes_per_s = either(cost_ram_rate(f, threads), GUESSED_RAM),
                                .macs_per_s = either(cost_batch_rate(f, TYPE_Q4_K, isa, threads), GUESSED_MACS)};
}

double split_cpu_seconds(const struct split_rates *r, uint64_t bytes, uint64_t weights, uint32_t tokens) {
    return fmax((double)bytes / r->ram_bytes_per_s, (double)weights * tokens / r->macs_per_s);
}

uint32_t split_prompt(const struct split_rates *r, uint64_t bytes, uint64_t weights, const uint32_t *tokens, uint32_t n, double cpu_s) {
    const double send_s = (double)bytes / r->link_bytes_per_s;
    double best = fmax(cpu_s, n * send_s);
    uint32_t stay = 0;
    for (uint32_t k = 1; k <= n; k++) {
        cpu_s += split_cpu_seconds(r, bytes, weights, tokens[k - 1]);
        const double both = fmax(cpu_s, (n - k) * send_s);
        if (both <= best) best = both, stay = k;
    }
    return stay;
}
