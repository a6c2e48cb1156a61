/* See attention_rig.h. Knows the fields of a network that attention reads, and no more. */
#include "tests/gpu/attention_rig.h"

#include <stdio.h>
#include <stdlib.h>

#include "gpu/attention.cuh"
#include "gpu/attention.h"

struct rig {
    struct gpu_network n;
    struct gpu_layer layer;
    uint64_t key_bytes, value_bytes;
    uint32_t tickets;
    cudaStream_t stream;
    void *owned[24];
    uint32_t n_owned;
};

static void sure(cudaError_t code, const char *what) {
    if (code == cudaSuccess) return;
    fprintf(stderr, "attention_rig: %s: %s\n", what, cudaGetErrorString(code));
    abort();
}

template <class T> static T *take(struct rig *r, uint64_t count, const void *from = NULL) {
    void *p = NULL;
    if (r->n_owned == sizeof r->owned / sizeof *r->owned) abort();
    sure(cudaMalloc(&p, count * sizeof(T) + !count), "cudaMalloc");
    if (from) sure(cudaMemcpy(p, from, count * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    r->owned[r->n_owned++] = p;
    return (T *)p;
}

uint64_t rig_page_bytes(const struct rig_spec *s, enum gpu_kv kind) {
    const uint64_t values = (uint64_t)s->kv_heads * GPU_PAGE_TOKENS * s->head_dim;
    return kind == GPU_KV_F16 ? values * 2 : kind == GPU_KV_Q8_0 ? values + values / 16 : values / 2 + values / 16;
}

static void take_step(struct rig *r, const struct rig_spec *s) {
    const uint64_t t = GPU_STEP_TOKENS, width = (uint64_t)s->heads * s->head_dim;
    struct gpu_step *st = &r->n.step;
    st->qkv = take<float>(r, t * (s->heads + 2 * s->kv_heads) * s->head_dim);
    st->attend_partial = take<float>(r, t * s->heads * s->splits * (s->head_dim + 2));
    st->attended = {take<int8_t>(r, t * width), take<float>(r, t * width / 32), take<float>(r, t * width / 32),
                    take<int32_t>(r, t * width / 16)};
    st->attended32 = take<float>(r, t * width);
    st->command = take<struct gpu_command>(r, 1);
    r->tickets = GPU_TICKET_ATTENTION + GPU_STEP_TOKENS * s->kv_heads;
    st->tickets = take<uint32_t>(r, r->tickets);
    sure(cudaMemset(st->tickets, 0, r->tickets * sizeof(uint32_t)), "cudaMemset");
}

bool rig_has_device(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

struct rig *rig_open(const struct rig_spec *s) {
    struct rig *r = (struct rig *)calloc(1, sizeof *r);
    const uint64_t width = (uint64_t)s->heads * s->head_dim;
    if (!r) abort();
    sure(cudaStreamCreate(&r->stream), "cudaStreamCreate");
    r->key_bytes = s->pages * rig_page_bytes(s, s->kv_k), r->value_bytes = s->pages * rig_page_bytes(s, s->kv_v);
    r->layer.q_norm = (gpu_ptr)take<float>(r, s->head_dim, s->q_norm),
    r->layer.k_norm = (gpu_ptr)take<float>(r, s->head_dim, s->k_norm);
    r->layer.keys = (gpu_ptr)take<uint8_t>(r, r->key_bytes), r->layer.values = (gpu_ptr)take<uint8_t>(r, r->value_bytes);
    struct gpu_network *n = &r->n;
    n->shape.n_heads = s->heads, n->shape.n_kv_heads = s->kv_heads, n->shape.head_dim = s->head_dim;
    n->shape.rms_eps = s->eps, n->shape.rope_magnitude = s->magnitude;
    n->layers = &r->layer;
    n->options.kv_k = s->kv_k, n->options.kv_v = s->kv_v, n->options.max_pages = s->max_pages,
    n->options.max_sequences = s->sequences;
    n->rope_frequency = take<double>(r, s->head_dim / 2, s->frequency);
    n->pages = take<uint32_t>(r, (uint64_t)s->sequences * s->max_pages);
    n->splits = s->splits;
    take_step(r, s);
    n->lanes[1].qkv = take<float>(r, (uint64_t)s->batch_tokens * (s->heads + 2 * s->kv_heads) * s->head_dim);
    n->lanes[1].q = take<__half>(r, s->batch_tokens * width);
    n->lanes[1].attended = take<__half>(r, s->batch_tokens * width);
    return r;
}

void rig_close(struct rig *r) {
    for (uint32_t i = 0; i < r->n_owned; i++) sure(cudaFree(r->owned[i]), "cudaFree");
    sure(cudaStreamDestroy(r->stream), "cudaStreamDestroy");
    free(r);
}

static void upload(void *to, const void *from, uint64_t bytes) {
    sure(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "upload");
}
static void download(void *to, const void *from, uint64_t bytes) {
    sure(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "download");
}

void rig_set_pages(struct rig *r, const uint32_t *pages) {
    upload(r->n.pages, pages, (uint64_t)r->n.options.max_sequences * r->n.options.max_pages * sizeof *pages);
}

void rig_write(struct rig *r, const void *keys, const void *values) {
    upload((void *)r->layer.keys, keys, r->key_bytes);
    upload((void *)r->layer.values, values, r->value_bytes);
}

void rig_read(struct rig *r, void *keys, void *values) {
    download(keys, (void *)r->layer.keys, r->key_bytes);
    download(values, (void *)r->layer.values, r->value_bytes);
}

static uint64_t row_floats(const struct rig *r) {
    return (uint64_t)(r->n.shape.n_heads + 2 * r->n.shape.n_kv_heads) * r->n.shape.head_dim;
}

void rig_step(struct rig *r, uint32_t launched, uint32_t n, const struct rig_token *tokens, const float *qkv,
              const struct rig_step_out *out) {
    const struct gpu_step *st = &r->n.step;
    const uint64_t width = (uint64_t)r->n.shape.n_heads * r->n.shape.head_dim, all = launched * width;
    struct gpu_command command = {};
    command.n_tokens = n;
    for (uint32_t i = 0; i < n; i++)
        command.tokens[i].position = tokens[i].position, command.tokens[i].sequence = tokens[i].sequence;
    upload(st->command, &command, sizeof command);
    upload(st->qkv, qkv, launched * row_floats(r) * sizeof *qkv);
    r->layer.output.type = out->floats ? TYPE_F16 : TYPE_Q4_K;
    gpu_launch_attention(&r->n, launched, 0, r->stream);
    sure(cudaGetLastError(), "launching a step");
    sure(cudaStreamSynchronize(r->stream), "a step");
    if (out->floats) {
        download(out->floats, st->attended32, all * sizeof(float));
        return;
    }
    download(out->q, st->attended.q, all);
    download(out->d, st->attended.d, all / 32 * sizeof(float));
    download(out->s32, st->attended.s32, all / 32 * sizeof(float));
    download(out->sum16, st->attended.sum16, all / 16 * sizeof(int32_t));
}

void rig_batch(struct rig *r, uint32_t sequence, uint64_t first, uint32_t n, const float *qkv, uint16_t *out) {
    const struct gpu_batch b = {1, n, sequence, first, NULL};
    upload(r->n.lanes[1].qkv, qkv, n * row_floats(r) * sizeof *qkv);
    gpu_launch_batch_attention(&r->n, &b, 0, r->stream);
    sure(cudaGetLastError(), "launching a batch");
    sure(cudaStreamSynchronize(r->stream), "a batch");
    download(out, r->n.lanes[1].attended, (uint64_t)n * r->n.shape.n_heads * r->n.shape.head_dim * sizeof *out);
}

static __global__ void turns(uint32_t n, const uint32_t *positions, double frequency, float magnitude, float2 *out) {
    const uint32_t i = blockIdx.x * 32 + threadIdx.x;
    if (i < n) out[i] = rope_turn(positions[i], frequency, magnitude);
}

void rig_turns(uint32_t n, const uint32_t *positions, double frequency, float magnitude, float *cosines, float *sines) {
    struct rig r = {};
    const uint32_t *const in = take<uint32_t>(&r, n, positions);
    float2 *const out = take<float2>(&r, n), *const host = (float2 *)malloc(n * sizeof *host);
    if (!host) abort();
    LAUNCH(turns, (n + 31) / 32, 32, 0, NULL, n, in, frequency, magnitude, out);
    sure(cudaDeviceSynchronize(), "turns");
    download(host, out, n * sizeof *host);
    for (uint32_t i = 0; i < n; i++) cosines[i] = host[i].x, sines[i] = host[i].y;
    free(host);
    for (uint32_t i = 0; i < r.n_owned; i++) sure(cudaFree(r.owned[i]), "cudaFree");
}

bool rig_tickets_clear(struct rig *r) {
    uint32_t *const tickets = (uint32_t *)malloc(r->tickets * sizeof *tickets);
    if (!tickets) abort();
    download(tickets, r->n.step.tickets, r->tickets * sizeof *tickets);
    bool clear = true;
    for (uint32_t i = 0; i < r->tickets; i++) clear &= tickets[i] == 0;
    free(tickets);
    return clear;
}

enum err rig_check(const struct gpu_network_options *o, struct reason *why) { return gpu_attention_check(o, why); }
