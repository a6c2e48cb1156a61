/* The KV cache of one sequence: binary16 keys (rotated) and values, one run of rows a layer and KV head, so that attention
 * of a head reads memory in order. Memory is address space until it is used. */
#ifndef COLDSTREAM_KV_H
#define COLDSTREAM_KV_H

#include "model/model.h"

struct kv {
    void *base;
    uint64_t bytes;
    uint64_t capacity; /* tokens */
    uint32_t n_layers, n_heads, head_dim;
};

uint64_t kv_bytes_per_token(const struct model_shape *s);
enum err kv_open(const struct model_shape *s, uint64_t capacity, struct kv *out, struct reason *why) MUST_USE;
void kv_close(struct kv *kv);

/* First row of a head: position p's row is at + p * head_dim. */
uint16_t *kv_keys(const struct kv *kv, uint32_t layer, uint32_t head);
uint16_t *kv_values(const struct kv *kv, uint32_t layer, uint32_t head);

#endif
