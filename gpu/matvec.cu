/* The launches of a step's dense products (dense.cuh): which kernel, how many blocks, how many tokens at a time. */
#include "gpu/dense.cuh"
#include "gpu/family.h"
#include "gpu/trellis.h"

/* ---- q, k, v ---------------------------------------------------------------------------------------------------- */

template <int T> static void launch_qkv(const qkv_args &a, int type, uint32_t blocks, uint32_t shared, cudaStream_t stream) {
    switch (type) {
#define X(suffix)                                                                                                              \
    case TYPE_##suffix: LAUNCH((qkv_kernel<TYPE_##suffix, T>), blocks, BLOCK_THREADS, shared, stream, a); break;
        GPU_MATVEC_TYPES(X)
#undef X
    default: LAUNCH((qkv_kernel<MIXED, T>), blocks, BLOCK_THREADS, shared, stream, a);
    }
}

/* Those of q, k and v whose kernel is the same: of one family, or all that have kernels of their own. */
static void launch_parts(struct gpu_network *n, uint32_t tokens, const qkv_args &all, enum gpu_family family, const gpu_layer &l, cudaStream_t stream) {
    qkv_args a = all;
    uint32_t blocks = 0, count = 0;
    int type = MIXED;
    for (int i = 0; i < 3; i++) {
        if (gpu_family_of(static_cast<tensor_type>(all.part[i].type)) != family) continue;
        qkv_part &p = a.part[count++];
        p = all.part[i];
        type = count == 1 || type == p.type ? p.type : MIXED;
        const uint32_t rows = DENSE_ROWS / p.how.parts;
        p.first_block = blocks;
        blocks += (p.m.rows + rows - 1) / rows;
        a.wants |= gpu_wants(p.type);
    }
    if (count == 0) return;
    for (uint32_t i = count; i < 3; i++) a.part[i].first_block = ~0u;
    const uint32_t each = acts_shared_bytes(a.wants, l.q.k, 1), together = tokens_together(tokens, each);
    for (uint32_t t = 0; t < tokens; t += together) {
        a.x = n->step.x + static_cast<size_t>(t) * l.q.k, a.y = n->step.qkv + static_cast<size_t>(t) * a.ld;
        if (family != FAMILY_NONE) {
            gpu_family_kernels_of(static_cast<tensor_type>(a.part[0].type)).qkv(a, together, blocks, together * each, stream);
            continue;
        }
#define CALL(T) launch_qkv<T>(a, type, blocks, together * each, stream)
        GPU_FOR_TOKENS(together, CALL)
#undef CALL
    }
}

void gpu_launch_qkv(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_layer &l = n->layers[layer];
    const gpu_matrix *const matrices[3] = {&l.q, &l.k, &l.v};
    qkv_args a = {};
    a.gain = reinterpret_cast<const float *>(l.attn_norm), a.eps = n->shape.rms_eps;
    for (int i = 0; i < 3; i++) {
        const gpu_matrix &m = *matrices[i];
        a.part[i] = qkv_part{weights_of(n, m), share_rows(m.type, m.k), static_cast<int>(m.type), 0, a.ld};
        a.ld += m.rows;
    }
    for (int family = FAMILY_NONE; family < FAMILIES_END; family++) launch_parts(n, tokens, a, static_cast<gpu_family>(family), l, stream);
    gpu_trellis_qkv(n, tokens, layer, stream);
}

/* ---- output projection ------------------------------------------------------------------------------------------ */

template <int T> static void launch_output(const output_args &a, int type, cudaStream_t stream) {
    const uint32_t rows = DENSE_ROWS / a.how.parts, blocks = (a.m.rows + rows - 1) / rows;
    switch (type) {
#define X(suffix)                                                                                                              \
    case TYPE_##suffix: LAUNCH((output_kernel<TYPE_##suffix, T>), blocks, BLOCK_THREADS, 0, stream, a); break;
        GPU_MATVEC_TYPES(X)
#undef X
    }
}

void gpu_launch_output(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_matrix &m = n->layers[layer].output;
    if (gpu_is_trellis(m.type)) return gpu_trellis_output(n, tokens, layer, stream);
    const output_args a = {weights_of(n, m), share_rows(m.type, m.k), vectors_of(n->step.attended, n->step.attended32, m.k),
                           n->step.x};
    if (gpu_family_of(m.type) != FAMILY_NONE) return gpu_family_kernels_of(m.type).output(a, tokens, stream);
#define CALL(T) launch_output<T>(a, m.type, stream)
    GPU_FOR_TOKENS(tokens, CALL)
#undef CALL
}

/* ---- head ------------------------------------------------------------------------------------------------------- */

template <int T> static void launch_head(const head_args &a, int type, uint32_t blocks, uint32_t shared, cudaStream_t stream) {
    switch (type) {
#define X(suffix)                                                                                                              \
    case TYPE_##suffix: LAUNCH((head_kernel<TYPE_##suffix, T>), blocks, BLOCK_THREADS, shared, stream, a); break;
        GPU_MATVEC_TYPES(X)
#undef X
    }
}

void gpu_launch_head(struct gpu_network *n, uint32_t tokens, cudaStream_t stream) {
    const gpu_matrix &m = n->options.head;
    if (gpu_is_trellis(m.type)) return gpu_trellis_head(n, tokens, stream);
    head_args a = {};
    a.m = weights_of(n, m), a.how = share_rows(m.type, m.k);
    a.gain = reinterpret_cast<const float *>(n->options.output_norm), a.eps = n->shape.rms_eps, a.wants = gpu_wants(m.type);
    struct gpu_info info;
    n->gpu->ops->info(n->gpu, &info);
    const uint32_t rows = HEAD_ROWS / a.how.parts, needed = (m.rows + rows - 1) / rows,
                   most = info.sm_count * HEAD_BLOCKS_PER_SM;
    const uint32_t blocks = needed < most ? needed : most;
    const uint32_t each = acts_shared_bytes(a.wants, m.k, a.wants & WANT_FLOATS ? 1 : 2) + sizeof(float) * HEAD_ROWS;
    const uint32_t together = tokens_together(tokens, each);
    for (uint32_t t = 0; t < tokens; t += together) {
        a.x = n->step.x + static_cast<size_t>(t) * m.k, a.logits = n->step.logits + static_cast<size_t>(t) * m.rows;
        a.best_key = reinterpret_cast<unsigned long long *>(n->step.best_key + t);
        if (gpu_family_of(m.type) != FAMILY_NONE) {
            gpu_family_kernels_of(m.type).head(a, together, blocks, together * each, stream);
            continue;
        }
#define CALL(T) launch_head<T>(a, m.type, blocks, together * each, stream)
        GPU_FOR_TOKENS(together, CALL)
#undef CALL
    }
}
