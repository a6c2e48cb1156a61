/* EXL3 on the device, inside the GPU room: scratch that its kernels take, and their launches, which the launches of network.h
 * pass such matrices on to. C++. */
#ifndef COLDSTREAM_GPU_TRELLIS_H
#define COLDSTREAM_GPU_TRELLIS_H

#include "gpu/layout.h"
#include "gpu/network.h"

/* Blocks of a launch that an SM is to have, 5 of them at a time: with so many small ones no SM is idle for long. */
enum { TRELLIS_BLOCKS_PER_SM = 8 };

static inline bool gpu_has_trellis(const struct gpu_network_options *o) {
    bool any = gpu_is_trellis(o->head.type);
    for (uint32_t i = 0; i < o->shape.n_layers && !any; i++) {
        const struct gpu_layer *l = &o->layers[i];
        any = gpu_is_trellis(l->q.type) || gpu_is_trellis(l->k.type) || gpu_is_trellis(l->v.type) ||
              gpu_is_trellis(l->output.type) || gpu_is_trellis(l->gate_type);
    }
    return any;
}

static inline uint64_t gpu_larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* What trellis.cu launches at most: as many blocks as the SMs are to have, or one for each block of outputs (two of gate and
 * up); and the vectors of prompts: those of pairs, of tokens, or two for each of the tokens of which logits are wanted. No
 * product of two of the extents, which are 32 bits, overflows. */
static inline struct gpu_trellis_room gpu_trellis_room_of(const struct gpu_network_options *o, uint32_t sm_count) {
    const struct gpu_shape *s = &o->shape;
    struct gpu_trellis_room r = {0, 0, 0, 0};
    if (!gpu_has_trellis(o)) return r;
    const uint64_t many = (uint64_t)TRELLIS_BLOCKS_PER_SM * sm_count, hits = (uint64_t)GPU_STEP_TOKENS * s->n_used,
                   f = s->n_ff / GPU_TRELLIS_BLOCK, e = s->n_embd / GPU_TRELLIS_BLOCK,
                   queries = (uint64_t)s->n_heads * s->head_dim;
    r.blocks = gpu_larger(many, hits * gpu_larger(2 * f, e));
    r.tickets = gpu_larger(many, gpu_larger(hits * f, e));
    if (o->batch_tokens == 0) return r;
    r.rows = gpu_larger((uint64_t)o->batch_tokens * s->n_used, 2 * GPU_STEP_TOKENS);
    r.width = gpu_larger(gpu_larger(s->n_embd, s->n_ff), (queries + s->n_used - 1) / s->n_used);
    return r;
}

/* trellis.cu, for a step's launches. Of q, k and v those that are such matrices: x normed times W -> qkv. */
void gpu_trellis_qkv(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);
void gpu_trellis_output(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);
void gpu_trellis_gate_up(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);
void gpu_trellis_down(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);
void gpu_trellis_head(struct gpu_network *n, uint32_t tokens, cudaStream_t stream);

/* trellis_tiles.cu, for prompts. */
void gpu_trellis_product(struct gpu_network *n, const struct gpu_product *p, cudaStream_t stream);
void gpu_trellis_experts(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer,
                         const struct gpu_batch_expert *experts, uint32_t count, cudaStream_t stream);

#endif
