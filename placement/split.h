/* Experts of a prompt's layer that are in RAM: which ones the CPU computes where they are, and which ones go over the link to the
 * GPU meanwhile. Pure arithmetic. */
#ifndef COLDSTREAM_SPLIT_H
#define COLDSTREAM_SPLIT_H

#include <stdint.h>

#include "placement/facts.h"

struct split_rates {
    double link_bytes_per_s; /* host memory to the GPU, as experts are sent */
    double ram_bytes_per_s;  /* all threads together */
    double macs_per_s;       /* of the CPU with many vectors */
};

/* From what was measured; guesses of a desktop of 2023 where nothing was. `pinned`: experts are sent from pinned memory. */
struct split_rates split_rates_of(const struct facts *f, uint32_t gpu, const char *isa, unsigned threads, bool pinned);

/* Seconds the CPU takes for an expert of so many bytes and weights that `tokens` tokens chose. */
double split_cpu_seconds(const struct split_rates *r, uint64_t bytes, uint64_t weights, uint32_t tokens);

/* tokens[n] ascending, those of experts that may go over the link; cpu_s: the CPU is busy that long anyway. How many of the first
 * stay with the CPU so that both sides are ready as early as possible; of equal splits the one that sends least. */
uint32_t split_prompt(const struct split_rates *r, uint64_t bytes, uint64_t weights, const uint32_t *tokens, uint32_t n, double cpu_s);

#endif
