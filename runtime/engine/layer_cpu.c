/* One layer on the CPU up to its experts (experts_cpu.c), as a straight line of steps (the maths is section by section that of the Qwen3-MoE model card):
 *
 *   a = rms(x; attn_norm); q,k,v = W a; q,k normed per head and rotated; attention; x += Wo o
 *   b = rms(x; ffn_norm); router softmax, top-K, renormalised; x += sum of share_e * Wdown_e(silu(Wgate_e b) * Wup_e b) */
#include <math.h>
#include <string.h>

#include "engine/step.h"

enum { QUERY_TILE = 32 /* queries a worker takes at a time */ };

/* Norm and, when a consumer wants it, quantize every token's residual into `in`. */
static void norm_tokens(struct step *s, const float *gain, bool int8) {
    struct graph *g = s->g;
    const size_t e = g->in.k;
    for (uint32_t t = s->me->index; t < g->batch->n; t += s->me->count) {
        g->ops->rmsnorm(g->x + t * e, gain, e, g->net->shape->rms_eps, (float *)g->in.f32 + t * e);
        if (int8) g->ops->quantize(&g->in, t, t + 1);
    }
}

static void store_row(struct step *s, const float *row, size_t n, void *to) {
    if (s->g->batch->kv->type == KV_F16) s->g->ops->to_f16(row, n, to);
    else memcpy(to, row, n * sizeof *row);
}

/* q and k: norm per head, rotate; k and v go to the cache. One unit = one token's KV head with its query heads. */
static void rotate_and_store(struct step *s, const struct network_layer *l, uint32_t layer) {
    struct graph *g = s->g;
    const struct model_shape *shape = g->net->shape;
    const size_t dh = shape->head_dim, hk = shape->n_kv_heads, group = shape->n_heads / hk;
    for (uint32_t u = s->me->index; u < g->batch->n * hk; u += s->me->count) {
        const uint32_t t = (uint32_t)(u / hk), head = (uint32_t)(u % hk);
        const float *cos = g->rope_cos + t * dh / 2, *sin = g->rope_sin + t * dh / 2;
        for (size_t i = 0; i < group; i++) {
            float *q = g->q + (t * (size_t)shape->n_heads + head * group + i) * dh;
            g->ops->rmsnorm(q, l->q_norm, dh, shape->rms_eps, q);
            g->ops->rope(q, cos, sin, dh / 2);
        }
        float *k = g->k + (t * hk + head) * dh;
        g->ops->rmsnorm(k, l->k_norm, dh, shape->rms_eps, k);
        g->ops->rope(k, cos, sin, dh / 2);
        const uint64_t position = g->batch->first + t;
        store_row(s, k, dh, kv_keys(g->batch->kv, layer, head, position));
        store_row(s, g->v + (t * hk + head) * dh, dh, kv_values(g->batch->kv, layer, head, position));
    }
}

/* One unit = one KV head and a tile of queries, the longest first. */
static void attend(struct step *s, uint32_t layer) {
    struct graph *g = s->g;
    const struct model_shape *shape = g->net->shape;
    const size_t dh = shape->head_dim, group = shape->n_heads / shape->n_kv_heads, width = shape->n_heads * dh;
    const struct kv *kv = g->batch->kv;
    const uint32_t n = g->batch->n, tiles = (n + QUERY_TILE - 1) / QUERY_TILE;
    for (uint32_t u; step_take(s, tiles * shape->n_kv_heads, &u);) {
        const uint32_t head = u % shape->n_kv_heads, begin = (tiles - 1 - u / shape->n_kv_heads) * QUERY_TILE;
        const uint32_t count = n - begin < QUERY_TILE ? n - begin : QUERY_TILE;
        const void *k = kv_keys(kv, layer, head, 0), *v = kv_values(kv, layer, head, 0);
        const bool f16 = kv->type == KV_F16;
        (f16 ? g->ops->attention : g->ops->attention_f32)(&(struct attention){
            .q = g->q + begin * width + head * group * dh, .q_stride = width, .group = group, .dh = dh, .n = count,
            .k = f16 ? k : NULL, .v = f16 ? v : NULL, .k32 = k, .v32 = v, .kv_stride = dh,
            .first = g->batch->first + begin, .scale = 1 / sqrtf((float)dh),
            .out = (float *)g->attended.f32 + begin * width + head * group * dh, .out_stride = width,
            .scratch = step_scratch(s)});
    }
    step_end(s);
}

static void quantize_tokens(struct step *s, const struct acts *a) {
    const size_t each = (a->n + s->me->count - 1) / s->me->count, begin = s->me->index * each;
    if (begin < a->n) s->g->ops->quantize(a, begin, begin + each < a->n ? begin + each : a->n);
    step_end(s);
}

void attention_cpu(struct step *s, uint32_t layer) {
    rotate_and_store(s, &s->g->net->layers[layer], layer);
    step_end(s);
    attend(s, layer);
}

void attention_half(struct step *s, uint32_t layer) {
    struct graph *g = s->g;
    const struct network_layer *l = &g->net->layers[layer];
    const struct model_shape *shape = g->net->shape;
    const uint32_t n = g->batch->n;
    const size_t e = shape->n_embd;

    norm_tokens(s, l->attn_norm, l->int8_attn_in);
    step_end(s);
    step_show(s, INPUT_QKV, layer, -1, &g->in, NULL, n);
    const struct job qkv[] = {dense_job(&l->q, &g->in, NULL, n, g->q), dense_job(&l->k, &g->in, NULL, n, g->k),
                              dense_job(&l->v, &g->in, NULL, n, g->v)};
    step_jobs(s, qkv, 3);
    rotate_and_store(s, l, layer);
    step_end(s);
    if (s->me->index == 0) experts_breathe(g->experts);
    attend(s, layer);
    if (l->int8_attn_out) quantize_tokens(s, &g->attended);
    step_show(s, INPUT_ATTN_OUTPUT, layer, -1, &g->attended, NULL, n);
    const struct job output = dense_job(&l->output, &g->attended, NULL, n, g->projected);
    step_jobs(s, &output, 1);
    for (uint32_t t = s->me->index; t < n; t += s->me->count) g->ops->axpy(1, g->projected + t * e, e, g->x + t * e);
}

bool experts_half(struct step *s, uint32_t layer) {
    const struct network_layer *l = &s->g->net->layers[layer];
    norm_tokens(s, l->ffn_norm, l->int8_ffn_in);
    step_end(s);
    return experts_cpu(s, layer);
}

bool layer_cpu(struct step *s, uint32_t layer) {
    attention_half(s, layer);
    return experts_half(s, layer); /* its norm takes the same tokens: no meeting in between */
}
