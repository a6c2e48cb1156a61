/* The launches of a prompt's products (matmul.cuh), and what stands between gate and up and down. */
#include "gpu/family.h"
#include "gpu/matmul.cuh"
#include "gpu/trellis.h"

/* One power of two a row of mid, and the experts of this call are done. A block a share of an expert's pairs, a warp a pair. */
static __global__ void __launch_bounds__(TILE_THREADS) level_mid(const struct tile_call c, float *scale, uint8_t *done) {
    const uint32_t lane = threadIdx.x & 31, n = tokens_of(c, blockIdx.x), first = first_pair(c, blockIdx.x), parts = (c.rows + MID_ROWS - 1) / MID_ROWS;
    if (blockIdx.y == 0 && threadIdx.x == 0) done[c.expert[blockIdx.x]] = 1;
    for (uint32_t p = blockIdx.y * (TILE_THREADS / 32) + threadIdx.x / 32; p < n; p += gridDim.y * (TILE_THREADS / 32)) {
        const float *powers = c.y + (uint64_t)(first + p) * c.ldy;
        __half *mid = c.mid + (uint64_t)(first + p) * c.rows;
        float top = 0;
        for (uint32_t i = lane; i < parts; i += 32) top = fmaxf(top, powers[i]);
        top = warp_max(top);
        if (lane == 0) scale[first + p] = top;
        for (uint32_t i = 0; i < parts; i++) {
            const float factor = powers[i] / top;
            for (uint32_t f = i * MID_ROWS + lane; factor != 1 && f < (i + 1) * MID_ROWS && f < c.rows; f += 32)
                mid[f] = __float2half_rn(__half2float(mid[f]) * factor);
        }
    }
}

/* Gate and up of two types, each from its own launch, stand side by side in a pair's row of y: the row of mid, and its power of two. */
static __global__ void __launch_bounds__(TILE_THREADS) join_mid(const struct tile_call c, float *scale, uint8_t *done) {
    const uint32_t lane = threadIdx.x & 31, n = tokens_of(c, blockIdx.x), first = first_pair(c, blockIdx.x);
    if (blockIdx.y == 0 && threadIdx.x == 0) done[c.expert[blockIdx.x]] = 1;
    for (uint32_t p = blockIdx.y * (TILE_THREADS / 32) + threadIdx.x / 32; p < n; p += gridDim.y * (TILE_THREADS / 32)) {
        const float *gate = c.y + (uint64_t)(first + p) * c.ldy, *up = gate + c.rows;
        __half *mid = c.mid + (uint64_t)(first + p) * c.rows;
        float top = 0;
        for (uint32_t f = lane; f < c.rows; f += 32) top = fmaxf(top, fabsf(silu(gate[f]) * up[f]));
        const float power = half_power(warp_max(top)), inverse = inverse_power(power);
        if (lane == 0) scale[first + p] = power;
        for (uint32_t f = lane; f < c.rows; f += 32) mid[f] = __float2half_rn(silu(gate[f]) * up[f] * inverse);
    }
}

/* ---- launches -------------------------------------------------------------------------------------------------------------- */

/* A row for every type with kernels. */
static void launch_tiles(struct gpu *g, enum tensor_type type, const struct tile_device &d, const struct tile_call &c, uint64_t pairs, cudaStream_t stream) {
    switch (type) {
#define X(suffix) \
    case TYPE_##suffix: launch_type<TYPE_##suffix>(g, d, c, pairs, stream); break;
        GPU_TILE_TYPES(X)
#undef X
        default: gpu_family_kernels_of(type).tiles(g, d, c, pairs, stream);
    }
    (void)gpu_note_launch(g, "computing a product");
}

void gpu_launch_product32(struct gpu_network *n, const struct gpu_product32 *p, cudaStream_t stream) {
    const uint32_t weights = tensor_type_info(p->w.type)->block_weights;
    assert(p->w.k % 32 == 0 && p->w.k % weights == 0);
    struct exact_call c = {};
    c.w = (const uint8_t *)p->w.data;
    c.rows = p->w.rows, c.k = p->w.k, c.row_blocks = p->w.k / weights;
    c.blocks = (uint64_t)c.rows * c.row_blocks;
    c.x = p->x, c.n = p->n, c.y = p->y, c.ldy = p->ldy, c.type = p->w.type, c.tables = n->tables;
    const dim3 grid((c.rows + EXACT_ROWS - 1) / EXACT_ROWS, (c.n + EXACT_TOKENS - 1) / EXACT_TOKENS);
    switch (p->w.type) {
#define X(suffix) \
    case TYPE_##suffix: LAUNCH(product_exact<TYPE_##suffix>, grid, TILE_THREADS, 0, stream, c); break;
        GPU_TILE_TYPES(X)
#undef X
        default: gpu_family_kernels_of(p->w.type).exact(c, grid, stream);
    }
    (void)gpu_note_launch(n->gpu, "computing a router");
}

static void set_shape(struct tile_call *c, const struct gpu_network *n, enum tensor_type type, uint32_t rows, uint32_t k) {
    const uint32_t weights = tensor_type_info(type)->block_weights;
    assert(k % 32 == 0 && k % weights == 0);
    c->type[0] = c->type[1] = type;
    c->tables = n->tables;
    c->rows = rows;
    c->k = k;
    c->row_blocks = k / weights;
    c->blocks = (uint64_t)rows * c->row_blocks;
}

void gpu_launch_product(struct gpu_network *n, const struct gpu_product *p, cudaStream_t stream) {
    if (gpu_is_trellis(p->w.type)) return gpu_trellis_product(n, p, stream);
    const struct tile_device d = tile_device_of(n->gpu);
    struct tile_call c = {};
    set_shape(&c, n, p->w.type, p->w.rows, p->w.k);
    c.result = p->two_vectors ? RESULT_TWO_VECTORS : p->add ? RESULT_ADD : RESULT_STORE;
    c.x = p->x;
    c.n = p->n;
    c.widest = width_for_matrix(d, c.rows, p->n);
    c.y = p->y;
    c.ldy = p->ldy;
    c.count = 1;
    c.slot[0] = p->w.data;
    launch_tiles(n->gpu, p->w.type, d, c, 0, stream);
}

/* Both matrices with one kernel, or one after the other. */
static void launch_mid(struct gpu_network *n, const struct gpu_layer *l, const struct gpu_lane *lane, struct tile_call *c, uint64_t pairs, cudaStream_t stream) {
    const struct tile_device d = tile_device_of(n->gpu);
    const uint32_t e = n->shape.n_embd, f = n->shape.n_ff;
    c->x = lane->normed;
    c->gather = lane->pair_token;
    c->mid = lane->mid;
    c->y = lane->down;
    c->ldy = (uint32_t)n->down_stride;
    if (l->gate_type == l->up_type) {
        set_shape(c, n, l->gate_type, f, e);
        c->result = RESULT_MID;
        c->offset[0] = l->gate_offset, c->offset[1] = l->up_offset;
        launch_tiles(n->gpu, l->gate_type, d, *c, pairs, stream);
        LAUNCH(level_mid, dim3(c->count, 4), TILE_THREADS, 0, stream, *c, lane->mid_scale, lane->done);
        return;
    }
    c->result = RESULT_STORE;
    for (int i = 0; i < 2; i++, c->y += f) {
        const enum tensor_type type = i ? l->up_type : l->gate_type;
        set_shape(c, n, type, f, e);
        c->offset[0] = c->offset[1] = i ? l->up_offset : l->gate_offset;
        launch_tiles(n->gpu, type, d, *c, pairs, stream);
    }
    c->y = lane->down;
    LAUNCH(join_mid, dim3(c->count, 4), TILE_THREADS, 0, stream, *c, lane->mid_scale, lane->done);
}

void gpu_launch_expert_products(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const struct gpu_batch_expert *experts, uint32_t count,
                                cudaStream_t stream) {
    const struct tile_device d = tile_device_of(n->gpu);
    const struct gpu_layer *l = &n->layers[layer];
    const struct gpu_lane *lane = &n->lanes[b->lane];
    const uint32_t e = n->shape.n_embd, f = n->shape.n_ff;
    const uint64_t pairs = (uint64_t)b->n * n->shape.n_used;
    if (gpu_is_trellis(l->gate_type)) return gpu_trellis_experts(n, b, layer, experts, count, stream);
    assert((f + MID_ROWS - 1) / MID_ROWS <= e);
    for (uint32_t i = 0; i < count; i += LIST) {
        struct tile_call c = {};
        c.count = count - i < LIST ? count - i : LIST + 0u;
        for (uint32_t j = 0; j < c.count; j++) c.expert[j] = (uint16_t)experts[i + j].expert, c.slot[j] = experts[i + j].slot;
        c.start = lane->expert_start;
        c.widest = width_for(b->n, d.widest);
        launch_mid(n, l, lane, &c, pairs, stream);
        set_shape(&c, n, l->down_type, e, f);
        c.result = RESULT_DOWN;
        c.x = lane->mid;
        c.gather = NULL;
        c.scale = lane->mid_scale;
        c.offset[0] = c.offset[1] = l->down_offset;
        launch_tiles(n->gpu, l->down_type, d, c, pairs, stream);
    }
}
