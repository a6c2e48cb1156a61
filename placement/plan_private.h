/* What the planner's files share: one plan under construction. */
#ifndef COLDSTREAM_PLAN_PRIVATE_H
#define COLDSTREAM_PLAN_PRIVATE_H

#include "placement/plan.h"

struct planning {
    const struct plan_model *m;
    const struct facts *f;
    const struct plan_request *r;
    struct plan *p;
    const struct facts_gpu *gpu; /* NULL: none is used */
    enum plan_tier *tensor_tier; /* [n_tensors] of dense tensors */
    bool *must_vram;             /* [n_layers] a rule put the layer's experts there */
    uint32_t *order;             /* [n_layers * n_experts] expert ids (layer * n_experts + expert), most worth a slot first */
};

/* Budget arithmetic on numbers from files: sticky overflow. */
struct total {
    uint64_t bytes;
    bool overflow;
};
static inline void total_add(struct total *t, uint64_t bytes) { t->overflow |= !size_add(t->bytes, bytes, &t->bytes); }
static inline void total_add_product(struct total *t, uint64_t a, uint64_t b) {
    uint64_t product = 0;
    t->overflow |= !size_mul(a, b, &product);
    total_add(t, product);
}

/* plan_bounds.c: where tensors may live, by -ngl, -cmoe, -ncmoe, -ot, -nkvo. Fills tensor_tier, must_vram and plan.layers. */
enum err plan_set_bounds(struct planning *g, struct reason *why) MUST_USE;

/* plan_fill.c */
enum err plan_make_classes(struct planning *g, struct reason *why) MUST_USE;
/* Order of all experts: those a rule wants in VRAM, then n_used a layer, then by use a byte (without a profile: every layer
 * alike). The order does not depend on budgets and each tier takes a prefix, so that more room never holds less. */
enum err plan_order_experts(struct planning *g, struct reason *why) MUST_USE;
void plan_fill_vram(struct planning *g, uint64_t room);
/* Slots of each class for `room` bytes, coverage equal; false: the smallest set does not fit. `least` gets its bytes. */
bool plan_fill_ram(struct planning *g, uint64_t room, uint64_t *least);

#endif
