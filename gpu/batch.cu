/* A prompt's batch through a layer, all but products (matmul.cu) and attention (attention.cu): embedding rows, norms, the
 * router's choice and its sorting by expert, the sum over experts, and the order of it all on GPU_COMPUTE.
 *
 * Lanes share weights and the KV cache, and the scratch of logits, which is used and read out in one go of the stream; else each
 * has its own. Nothing here waits: what the host is to read is ready when the caller's event has passed. */
#include <assert.h>

#include "gpu/device.h"
#include "gpu/embed.cuh"
#include "gpu/layout.h"
#include "gpu/network.h"

enum { ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / 32 };

/* ---- embedding and norms -------------------------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(ROW_THREADS)
    embed_tokens(const struct embed_table table, const int32_t *tokens, uint32_t n, uint32_t width, float *x) {
    SHARED(uint8_t, room, ROW_WARPS * EMBED_BYTES);
    const uint32_t parts = (width + EMBED_WEIGHTS - 1) / EMBED_WEIGHTS, warp = threadIdx.x / 32;
    for (uint32_t i = blockIdx.x * ROW_WARPS + warp; i < n * parts; i += gridDim.x * ROW_WARPS) {
        const uint32_t t = i / parts;
        embed_part(table, (uint32_t)tokens[t], i % parts * EMBED_WEIGHTS, width, room + warp * EMBED_BYTES, x + (uint64_t)t * width);
    }
}

/* Where normed rows go; NULL: nowhere. */
struct normed_to {
    __half *rows;  /* [n][width] */
    float *rows32; /* [n][width] */
    __half *pairs; /* [n][2][width]: a row, and 2^11 times what rounding it left */
};

static __device__ __forceinline__ void store_halves(__half *to, float4 v) {
    ((__half2 *)to)[0] = __floats2half2_rn(v.x, v.y);
    ((__half2 *)to)[1] = __floats2half2_rn(v.z, v.w);
}

static __device__ __forceinline__ float half_rest(float v) { return (v - __half2float(__float2half_rn(v))) * 2048; }

/* gain * x / sqrt(mean(x^2) + eps), a warp a row. width % 4 == 0. */
static __global__ void __launch_bounds__(ROW_THREADS)
    norm_rows(const float *x, const float *gain, uint32_t n, uint32_t width, float eps, struct normed_to to) {
    const uint32_t lane = threadIdx.x & 31, t = blockIdx.x * ROW_WARPS + threadIdx.x / 32;
    if (t >= n) return;
    const float *row = x + (uint64_t)t * width;
    float squares = 0;
    for (uint32_t c = 4 * lane; c < width; c += 128) {
        const float4 v = ldf4(row + c);
        squares += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
    }
    const float scale = 1 / sqrtf(warp_sum(squares) / (float)width + eps);
    for (uint32_t c = 4 * lane; c < width; c += 128) {
        const float4 g = ldf4(gain + c);
        float4 v = ldf4(row + c);
        v.x *= scale * g.x, v.y *= scale * g.y, v.z *= scale * g.z, v.w *= scale * g.w;
        const uint64_t at = (uint64_t)t * width + c;
        if (to.rows) store_halves(to.rows + at, v);
        if (to.rows32) stf4(to.rows32 + at, v);
        if (to.pairs) {
            __half *pair = to.pairs + (uint64_t)t * 2 * width + c;
            store_halves(pair, v);
            store_halves(pair + width, make_float4(half_rest(v.x), half_rest(v.y), half_rest(v.z), half_rest(v.w)));
        }
    }
}

static __global__ void __launch_bounds__(ROW_THREADS) round_rows(const float *x, uint64_t n4, __half *to) {
    for (uint64_t i = blockIdx.x * (uint64_t)ROW_THREADS + threadIdx.x; i < n4; i += gridDim.x * (uint64_t)ROW_THREADS)
        store_halves(to + 4 * i, ldf4(x + 4 * i));
}

/* ---- the choice of experts ------------------------------------------------------------------------------------------------ */

/* The n_used largest logits of each token, best first, equal ones: the higher expert first; NaN counts as smallest. Their
 * softmax over the chosen. A warp a token; lane l looks at experts l, l + 32, ... */
static __global__ void __launch_bounds__(ROW_THREADS)
    choose_experts(const float *logits, uint32_t n, uint32_t n_experts, uint32_t n_used, int32_t *expert, float *weight) {
    enum { EACH = GPU_MAX_EXPERTS / 32 };
    const uint32_t lane = threadIdx.x & 31, t = blockIdx.x * ROW_WARPS + threadIdx.x / 32;
    if (t >= n) return;
    float value[EACH];
    uint32_t taken = 0; /* bit i: value[i] is out, chosen or no expert */
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) {
        const uint32_t e = lane + 32 * i;
        value[i] = e < n_experts ? logits[(uint64_t)t * n_experts + e] : 0;
        if (isnan(value[i])) value[i] = -INFINITY;
        taken |= (uint32_t)(e >= n_experts) << i;
    }
    float mine = 0, top = 0; /* lane r keeps the choice of rank r */
    uint32_t choice = 0;
    for (uint32_t r = 0; r < n_used; r++) {
        struct found best = {-INFINITY, 0}; /* index: 1 + expert, so that any expert beats none */
#pragma unroll
        for (uint32_t i = 0; i < EACH; i++)
            if (!(taken >> i & 1) && value[i] >= best.value) best.value = value[i], best.index = 1 + lane + 32 * i;
        best = warp_argmax<true>(best.value, best.index);
        const uint32_t e = best.index - 1;
        if (e % 32 == lane) taken |= 1u << e / 32;
        if (r == 0) top = best.value;
        if (r == lane) mine = best.value, choice = e;
    }
    const float share = lane < n_used ? expf(mine - top) : 0;
    float sum = 0;
    for (uint32_t r = 0; r < n_used; r++) sum += warp_from(share, (int)r); /* in rank order, as the CPU does */
    if (lane < n_used) {
        expert[(uint64_t)t * n_used + lane] = (int32_t)choice;
        weight[(uint64_t)t * n_used + lane] = share / sum;
    }
}

/* Sort the (token, rank) pairs by expert, tokens rising within one: a warp an expert. Where its pairs start is the number of
 * pairs of lower experts, so no expert waits for another. */
static __global__ void __launch_bounds__(ROW_THREADS) sort_pairs(const int32_t *expert, uint32_t n, uint32_t n_used, uint32_t n_experts, uint32_t *expert_start,
                                                                 int32_t *pair_of, int32_t *pair_token, uint8_t *done) {
    const uint32_t lane = threadIdx.x & 31, e = blockIdx.x * ROW_WARPS + threadIdx.x / 32, pairs = n * n_used;
    if (e >= n_experts) return;
    int lower = 0;
    for (uint32_t p = lane; p < pairs; p += 32) lower += (uint32_t)expert[p] < e;
    uint32_t at = (uint32_t)warp_sum(lower);
    if (lane == 0) {
        expert_start[e] = at;
        done[e] = 0;
        if (e == n_experts - 1) expert_start[n_experts] = pairs;
    }
    for (uint32_t first = 0; first < pairs; first += 32) {
        const uint32_t p = first + lane;
        const bool is = p < pairs && (uint32_t)expert[p] == e;
        const uint32_t all = __ballot_sync(FULL_WARP, is);
        if (is) {
            const uint32_t place = at + (uint32_t)__popc(all & ((1u << lane) - 1));
            pair_of[p] = (int32_t)place;
            pair_token[place] = (int32_t)(p / n_used);
        }
        at += (uint32_t)__popc(all);
    }
}

/* x += sum over the token's computed experts, best first, then the host's share. A block a token. */
static __global__ void __launch_bounds__(ROW_THREADS) combine_experts(float *x, const float *down, const int32_t *expert, const float *weight, const int32_t *pair_of,
                                                                      const uint8_t *done, const float *rest, uint32_t n_used, uint32_t width, uint64_t stride) {
    const uint32_t t = blockIdx.x;
    for (uint32_t c = 4 * threadIdx.x; c < width; c += 4 * ROW_THREADS) {
        float4 v = ldf4(x + (uint64_t)t * width + c);
        for (uint32_t r = 0; r < n_used; r++) {
            const uint32_t p = t * n_used + r;
            if (!done[expert[p]]) continue;
            const float w = weight[p];
            const float4 d = ldf4(down + (uint32_t)pair_of[p] * stride + c);
            v.x = fmaf(w, d.x, v.x), v.y = fmaf(w, d.y, v.y), v.z = fmaf(w, d.z, v.z), v.w = fmaf(w, d.w, v.w);
        }
        if (rest) {
            const float4 d = ldf4(rest + (uint64_t)t * width + c);
            v.x += d.x, v.y += d.y, v.z += d.z, v.w += d.w;
        }
        stf4(x + (uint64_t)t * width + c, v);
    }
}

/* ---- the table's functions ------------------------------------------------------------------------------------------------- */

static cudaStream_t stream_of(const struct gpu_network *n) { return gpu_stream_of(n->gpu, GPU_COMPUTE); }
static uint32_t blocks_for(uint64_t n, uint32_t each) { return (uint32_t)((n + each - 1) / each); }

static void check_batch(const struct gpu_network *n, const struct gpu_batch *b) {
    assert(b->lane < GPU_LANES && b->n > 0 && b->n <= n->options.batch_tokens);
    (void)n, (void)b;
}

static void launch_norm(struct gpu_network *n, const float *x, gpu_ptr gain, uint32_t rows, struct normed_to to) {
    LAUNCH(norm_rows, blocks_for(rows, ROW_WARPS), ROW_THREADS, 0, stream_of(n), x, (const float *)gain, rows, n->shape.n_embd, n->shape.rms_eps, to);
}

void gpu_batch_begin(struct gpu_network *n, const struct gpu_batch *b) {
    check_batch(n, b);
    const struct gpu_lane *lane = &n->lanes[b->lane];
    const uint32_t width = n->shape.n_embd, parts = b->n * blocks_for(width, EMBED_WEIGHTS);
    n->gpu->ops->upload(n->gpu, GPU_COMPUTE, (gpu_ptr)lane->tokens, b->tokens, b->n * sizeof *b->tokens);
    LAUNCH(embed_tokens, blocks_for(parts, ROW_WARPS), ROW_THREADS, 0, stream_of(n), embed_table_of(n), lane->tokens, b->n, width, lane->x);
    (void)gpu_note_launch(n->gpu, "fetching a batch's embeddings");
}

/* Norm and q, k, v -> lane.qkv. */
static void launch_qkv(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer) {
    check_batch(n, b);
    const struct gpu_lane *lane = &n->lanes[b->lane];
    const struct gpu_layer *l = &n->layers[layer];
    const struct gpu_matrix *const parts[] = {&l->q, &l->k, &l->v};
    const uint32_t width = l->q.rows + l->k.rows + l->v.rows;
    const bool exact = gpu_is_trellis(l->q.type) || gpu_is_trellis(l->k.type) || gpu_is_trellis(l->v.type);
    launch_norm(n, lane->x, l->attn_norm, b->n, {lane->normed, exact ? lane->normed32 : NULL, NULL});
    uint32_t at = 0;
    for (const struct gpu_matrix *part : parts) {
        struct gpu_product p = {};
        p.w = *part, p.x = lane->normed, p.x32 = exact ? lane->normed32 : NULL, p.n = b->n, p.y = lane->qkv + at, p.ldy = width;
        gpu_launch_product(n, &p, stream_of(n));
        at += part->rows;
    }
}

/* lane.attended -> output projection -> x += */
static void launch_output(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer) {
    const struct gpu_lane *lane = &n->lanes[b->lane];
    struct gpu_product p = {};
    p.w = n->layers[layer].output, p.x = lane->attended, p.n = b->n, p.y = lane->x, p.ldy = n->shape.n_embd, p.add = true;
    gpu_launch_product(n, &p, stream_of(n));
}

void gpu_batch_attention(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer) {
    launch_qkv(n, b, layer);
    gpu_launch_batch_attention(n, b, layer, stream_of(n));
    launch_output(n, b, layer);
}

void gpu_batch_qkv(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, float *qkv, struct gpu_event *ready) {
    const struct gpu_layer *l = &n->layers[layer];
    launch_qkv(n, b, layer);
    n->gpu->ops->download(n->gpu, GPU_COMPUTE, qkv, (gpu_ptr)n->lanes[b->lane].qkv, (uint64_t)b->n * (l->q.rows + l->k.rows + l->v.rows) * sizeof *qkv);
    n->gpu->ops->record(n->gpu, GPU_COMPUTE, ready);
}

void gpu_batch_attended(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const float *attended) {
    check_batch(n, b);
    const struct gpu_lane *lane = &n->lanes[b->lane];
    const uint64_t values = (uint64_t)b->n * n->shape.n_heads * n->shape.head_dim;
    n->gpu->ops->upload(n->gpu, GPU_COMPUTE, (gpu_ptr)lane->qkv, attended, values * sizeof *attended);
    LAUNCH(round_rows, blocks_for(values / 4, ROW_THREADS), ROW_THREADS, 0, stream_of(n), lane->qkv, values / 4, lane->attended);
    launch_output(n, b, layer);
}

void gpu_batch_take(struct gpu_network *n, const struct gpu_batch *b, float *x, struct gpu_event *ready) {
    check_batch(n, b);
    n->gpu->ops->download(n->gpu, GPU_COMPUTE, x, (gpu_ptr)n->lanes[b->lane].x, (uint64_t)b->n * n->shape.n_embd * sizeof *x);
    n->gpu->ops->record(n->gpu, GPU_COMPUTE, ready);
}

void gpu_batch_give(struct gpu_network *n, const struct gpu_batch *b, const float *x) {
    check_batch(n, b);
    n->gpu->ops->upload(n->gpu, GPU_COMPUTE, (gpu_ptr)n->lanes[b->lane].x, x, (uint64_t)b->n * n->shape.n_embd * sizeof *x);
}

void gpu_batch_route(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, bool want_input, struct gpu_batch_routes *routes,
                     struct gpu_event *ready) {
    check_batch(n, b);
    struct gpu *g = n->gpu;
    const struct gpu_lane *lane = &n->lanes[b->lane];
    const struct gpu_layer *l = &n->layers[layer];
    const uint32_t experts = n->shape.n_experts, used = n->shape.n_used;
    const uint64_t pairs = (uint64_t)b->n * used;
    launch_norm(n, lane->x, l->ffn_norm, b->n, {lane->normed, lane->normed32, NULL});
    struct gpu_product32 p = {};
    p.w = l->router, p.x = lane->normed32, p.n = b->n, p.y = lane->router, p.ldy = experts;
    gpu_launch_product32(n, &p, stream_of(n));
    LAUNCH(choose_experts, blocks_for(b->n, ROW_WARPS), ROW_THREADS, 0, stream_of(n), lane->router, b->n, experts, used, lane->expert, lane->weight);
    LAUNCH(sort_pairs, blocks_for(experts, ROW_WARPS), ROW_THREADS, 0, stream_of(n), lane->expert, b->n, used, experts, lane->expert_start, lane->pair_of,
           lane->pair_token, lane->done);
    (void)gpu_note_launch(g, "choosing a batch's experts");
    g->ops->download(g, GPU_COMPUTE, lane->expert_host, (gpu_ptr)lane->expert, pairs * sizeof *lane->expert);
    g->ops->download(g, GPU_COMPUTE, lane->weight_host, (gpu_ptr)lane->weight, pairs * sizeof *lane->weight);
    if (want_input) g->ops->download(g, GPU_COMPUTE, lane->normed_host, (gpu_ptr)lane->normed32, (uint64_t)b->n * n->shape.n_embd * sizeof *lane->normed32);
    g->ops->record(g, GPU_COMPUTE, ready);
    routes->experts = lane->expert_host;
    routes->weights = lane->weight_host;
    routes->input = want_input ? lane->normed_host : NULL;
}

void gpu_batch_experts(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const struct gpu_batch_expert *experts, uint32_t count) {
    check_batch(n, b);
    if (count) gpu_launch_expert_products(n, b, layer, experts, count, stream_of(n));
}

void gpu_batch_combine(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const float *rest) {
    (void)layer;
    check_batch(n, b);
    const struct gpu_lane *lane = &n->lanes[b->lane];
    const uint32_t width = n->shape.n_embd;
    if (rest) n->gpu->ops->upload(n->gpu, GPU_COMPUTE, (gpu_ptr)lane->rest, rest, (uint64_t)b->n * width * sizeof *rest);
    LAUNCH(combine_experts, b->n, ROW_THREADS, 0, stream_of(n), lane->x, lane->down, lane->expert, lane->weight, lane->pair_of, lane->done,
           rest ? lane->rest : NULL, n->shape.n_used, width, n->down_stride);
    (void)gpu_note_launch(n->gpu, "adding up a batch's experts");
}

/* The head's input goes through it as two vectors, the rounded one and the rest, as on the CPU: rounding to binary16 is then
 * the weights' alone. They stand in lane.down, which is free between layers. */
void gpu_batch_logits(struct gpu_network *n, const struct gpu_batch *b, uint32_t from, uint32_t count, float *logits) {
    check_batch(n, b);
    assert(count > 0 && count <= GPU_STEP_TOKENS && from + count <= b->n);
    const struct gpu_lane *lane = &n->lanes[b->lane];
    __half *const pairs = (__half *)lane->down;
    launch_norm(n, lane->x + (uint64_t)from * n->shape.n_embd, n->options.output_norm, count, {NULL, NULL, pairs});
    struct gpu_product p = {};
    p.w = n->options.head, p.x = pairs, p.n = 2 * count, p.y = n->step.logits, p.ldy = n->shape.n_vocab, p.two_vectors = true;
    gpu_launch_product(n, &p, stream_of(n));
    n->gpu->ops->download(n->gpu, GPU_COMPUTE, logits, (gpu_ptr)n->step.logits, (uint64_t)count * n->shape.n_vocab * sizeof *logits);
}
