/* The launch of a step's routing (route.cuh). */
#include "gpu/family.h"
#include "gpu/route.cuh"

template <int T> static void launch_route(const route_args &a, int type, uint32_t shared, cudaStream_t stream) {
    const uint32_t rows = ROUTER_ROWS / a.how.parts, blocks = (a.m.rows + rows - 1) / rows;
    switch (type) {
#define X(suffix)                                                                                                              \
    case TYPE_##suffix: LAUNCH((route_kernel<TYPE_##suffix, T>), blocks, BLOCK_THREADS, shared, stream, a); break;
        GPU_MATVEC_TYPES(X)
#undef X
    }
}

void gpu_launch_route(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_layer &l = n->layers[layer];
    const gpu_matrix &m = l.router;
    const gpu_step &s = n->step;
    route_args a = {};
    a.m = weights_of(n, m), a.how = share_rows(m.type, m.k);
    a.x = s.x, a.gain = reinterpret_cast<const float *>(l.ffn_norm), a.eps = n->shape.rms_eps;
    a.router = s.router, a.normed = s.normed, a.normed8 = s.normed8, a.tokens = tokens;
    a.wants = gpu_wants(m.type), a.experts_want = gpu_wants(l.gate_type) | gpu_wants(l.up_type);
    if (a.wants & WANT_FLOATS) a.how.parts = BLOCK_WARPS; /* few rows: more blocks */
    a.layer = layer, a.n_used = n->shape.n_used;
    a.slots = n->slots + static_cast<size_t>(layer) * n->shape.n_experts,
    a.uses = n->uses + static_cast<size_t>(layer) * n->shape.n_experts;
    a.command = s.command, a.route = s.route, a.hits = s.hits, a.n_hits = s.n_hits, a.n_missing = s.n_missing,
    a.n_misses = s.n_misses;
    a.owed = tokens == 1 && n->options.host_defers ? s.owed : NULL, a.last = layer + 1 == n->shape.n_layers;
    a.ticket = s.tickets + GPU_TICKET_ROUTE, a.box = post_box_of(n);
    if (n->shared_dev.routes) a.told = n->shared_dev.routes + static_cast<size_t>(layer) * GPU_STEP_TOKENS * n->shape.n_used;
    const uint32_t each = acts_shared_bytes(a.wants, m.k, 1), together = tokens_together(tokens, each);
    if (gpu_family_of(m.type) != FAMILY_NONE) return gpu_family_kernels_of(m.type).route(a, each, stream);
#define CALL(T) launch_route<T>(a, m.type, together * each, stream)
    GPU_FOR_TOKENS(together, CALL)
#undef CALL
}
