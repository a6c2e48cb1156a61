/* Models as the planner sees them, made from shapes alone: Qwen3-30B-A3B in two mixes and small ones with odd sizes. */
#ifndef COLDSTREAM_TESTS_PLAN_CASES_H
#define COLDSTREAM_TESTS_PLAN_CASES_H

#include "placement/plan.h"

struct plan_case {
    struct plan_model model;
    char (*names)[48];
};

/* Mixes: "q4_k_m" (half the layers with Q6_K down), "2.99bpw" (IQ2_S gate and up, IQ3_S down). */
struct plan_case plan_case_30b(const char *mix);
/* `layers` of `experts`, all alike but for every third layer's larger down matrix. */
struct plan_case plan_case_small(uint32_t layers, uint32_t experts, uint32_t used);
void plan_case_close(struct plan_case *c);

/* A machine with 4 cores, measured CPU rates and a drive, no GPU. Memory is for the caller to set. */
void plan_case_machine(struct facts *out);
void plan_case_gpu(struct facts *f, uint64_t vram_bytes, double vram_bytes_per_s, double link_bytes_per_s);

#endif
