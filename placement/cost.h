/* How long things take on a machine: rates looked up in its facts, and the predictions of a plan. Pure.
 *
 * Rates are 0 where neither the wanted one nor a stand-in was measured. */
#ifndef COLDSTREAM_COST_H
#define COLDSTREAM_COST_H

#include "placement/plan.h"

/* Plain reads by `threads` threads together, bytes/s. */
double cost_ram_rate(const struct facts *f, unsigned threads);
/* Weights of a type read a second with one vector, all threads; never above plain reads. */
double cost_decode_rate(const struct facts *f, enum tensor_type type, const char *isa, unsigned threads);
/* Multiply-adds a second with many vectors, all threads. */
double cost_batch_rate(const struct facts *f, enum tensor_type type, const char *isa, unsigned threads);
/* Random reads of `request_bytes` with `depth` in flight, bytes/s. */
double cost_drive_rate(const struct facts *f, uint32_t drive, double request_bytes, double depth);

/* out[layer]: seconds a byte of the layer's experts saves each time it is read from VRAM instead of RAM (from RAM instead of
 * the drive when `gpu` is NULL); 1 where a rate is missing. */
void cost_saved_per_byte(const struct plan_model *m, const struct facts *f, const struct plan_request *r,
                         const struct facts_gpu *gpu, double *out);

/* Fill the predictions and expected hit rates of a finished placement. tensor_tier [n_tensors]: of
 * the dense ones. */
void cost_predict(const struct plan_model *m, const struct facts *f, const struct plan_request *r, const struct facts_gpu *gpu,
                  const enum plan_tier *tensor_tier, struct plan *p);

#endif
