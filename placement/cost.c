#include "placement/cost.h"
void cost_saved_per_byte(const struct plan_model *m, const struct facts *f, const struct plan_request *r,
                         const struct facts_gpu *gpu, double *out) {
    (void)f, (void)r, (void)gpu;
    for (uint32_t l = 0; l < m->n_layers; l++) out[l] = 1;
}
void cost_predict(const struct plan_model *m, const struct facts *f, const struct plan_request *r, const struct facts_gpu *gpu,
                  const enum plan_tier *tensor_tier, struct plan *p) {
    (void)m, (void)f, (void)r, (void)gpu, (void)tensor_tier, (void)p;
}
