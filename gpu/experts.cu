/* The launches of a step's experts (experts.cuh). */
#include "gpu/experts.cuh"
#include "gpu/family.h"
#include "gpu/trellis.h"

static expert_place place_of(const gpu_network *n, tensor_type type, uint64_t offset, uint32_t rows, uint32_t k) {
    return expert_place{reinterpret_cast<const uint8_t *>(n->options.slots), offset, rows, k, static_cast<int>(type),
                        tensor_type_info(type)->block_weights, n->tables};
}

/* ---- gate and up ------------------------------------------------------------------------------------------------ */

template <int T> static void launch_gate_up(const gate_up_args &a, int type, uint32_t blocks, cudaStream_t stream) {
    switch (type) {
#define X(suffix)                                                                                                              \
    case TYPE_##suffix: LAUNCH((gate_up_kernel<TYPE_##suffix, T>), blocks, BLOCK_THREADS, 0, stream, a); break;
        GPU_MATVEC_TYPES(X)
#undef X
    default: LAUNCH((gate_up_kernel<MIXED, T>), blocks, BLOCK_THREADS, 0, stream, a);
    }
}

static sharing share_tile(enum tensor_type type, uint32_t k) { return sharing{1, share_rows(type, k).slices}; }

void gpu_launch_gate_up(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_layer &l = n->layers[layer];
    const gpu_shape &s = n->shape;
    if (gpu_is_trellis(l.gate_type)) return gpu_trellis_gate_up(n, tokens, layer, stream);
    gate_up_args a = {};
    a.gate = place_of(n, l.gate_type, l.gate_offset, s.n_ff, s.n_embd), a.up = place_of(n, l.up_type, l.up_offset, s.n_ff, s.n_embd);
    a.gate_how = share_tile(l.gate_type, s.n_embd), a.up_how = share_tile(l.up_type, s.n_embd);
    a.in = vectors_of(n->step.normed8, n->step.normed, s.n_embd);
    a.hits = n->step.hits, a.n_hits = n->step.n_hits, a.n_used = s.n_used, a.tiles = (s.n_ff + TILE - 1) / TILE;
    a.wants = gpu_wants(l.down_type), a.mid = n->step.mid, a.mid32 = n->step.mid32;
    const uint32_t blocks = tokens * s.n_used * a.tiles;
    if (gpu_family_of(l.gate_type) != FAMILY_NONE) return gpu_family_kernels_of(l.gate_type).gate_up(a, tokens, blocks, stream);
    const int type = l.gate_type == l.up_type ? static_cast<int>(l.gate_type) : MIXED;
#define CALL(T) launch_gate_up<T>(a, type, blocks, stream)
    GPU_FOR_TOKENS(tokens, CALL)
#undef CALL
}

/* ---- down ------------------------------------------------------------------------------------------------------- */

template <int T> static void launch_down(const down_args &a, int type, uint32_t blocks, uint32_t threads, cudaStream_t stream) {
    switch (type) {
#define X(suffix)                                                                                                              \
    case TYPE_##suffix: LAUNCH((down_kernel<TYPE_##suffix, T>), blocks, threads, 0, stream, a); break;
        GPU_MATVEC_TYPES(X)
#undef X
    }
}

/* Warps of a block that leave the fewest lanes idle when one token's experts are spread over them; the more the better. */
static uint32_t down_warps(uint32_t slices) {
    uint32_t best = BLOCK_WARPS, least = ~0u;
    for (uint32_t w = BLOCK_WARPS; w > 0; w--) {
        const uint32_t lanes = (slices + 32 * w - 1) / (32 * w) * 32 * w;
        if (lanes < least) best = w, least = lanes;
    }
    return best;
}

void gpu_launch_down(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_layer &l = n->layers[layer];
    const gpu_shape &s = n->shape;
    if (gpu_is_trellis(l.down_type)) return gpu_trellis_down(n, tokens, layer, stream);
    down_args a = {};
    a.down = place_of(n, l.down_type, l.down_offset, s.n_embd, s.n_ff);
    a.slices = share_rows(l.down_type, s.n_ff).slices, a.n_used = s.n_used, a.layer = layer;
    a.mid = vectors_of(n->step.mid, n->step.mid32, s.n_ff);
    a.hits = n->step.hits, a.n_hits = n->step.n_hits, a.n_missing = n->step.n_missing, a.command = n->step.command;
    a.x = n->step.x, a.ticket = n->step.tickets + GPU_TICKET_DOWN, a.box = post_box_of(n);
    const uint32_t blocks = (s.n_embd + DOWN_ROWS - 1) / DOWN_ROWS, threads = 32 * down_warps(s.n_used * a.slices);
    if (gpu_family_of(l.down_type) != FAMILY_NONE) return gpu_family_kernels_of(l.down_type).down(a, tokens, blocks, threads, stream);
#define CALL(T) launch_down<T>(a, l.down_type, blocks, threads, stream)
    GPU_FOR_TOKENS(tokens, CALL)
#undef CALL
}
