/* A model's directory as the numbers the planner wants. Reads no weights. */
#ifndef COLDSTREAM_PLAN_MODEL_H
#define COLDSTREAM_PLAN_MODEL_H

#include "model/model.h"
#include "placement/plan.h"

/* Scratch is sized for prompts of `ubatch` tokens (0: 512) computed together by at most `threads` workers. `out` borrows the
 * tensors' names from `m`; plan_model_close() is due after success. */
enum err plan_model_open(const struct model *m, uint32_t ubatch, unsigned threads, struct plan_model *out,
                         struct reason *why) MUST_USE;
void plan_model_close(struct plan_model *pm);

#endif
