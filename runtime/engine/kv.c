/* Sizes and addresses of the KV cache; who holds which token is the session's business. */
#include "engine/kv.h"

uint64_t kv_bytes_per_token(const struct model_shape *s) {
    return (uint64_t)s->n_layers * s->n_kv_heads * s->head_dim * 2 * sizeof(uint16_t); /* K and V */
}

enum err kv_open(const struct model_shape *s, uint64_t capacity, struct kv *out, struct reason *why) {
    *out = (struct kv){0};
    uint64_t bytes;
    if (!size_mul(kv_bytes_per_token(s), capacity, &bytes))
        return fail(why, ERR_LIMIT, "a context of %llu tokens overflows the address space", (unsigned long long)capacity);
    void *base;
    TRY(pages_alloc(bytes, &base, why));
    *out = (struct kv){base, bytes, capacity, s->n_layers, s->n_kv_heads, s->head_dim};
    return ERR_NONE;
}

void kv_close(struct kv *kv) {
    pages_free(kv->base, kv->bytes);
    *kv = (struct kv){0};
}

static uint16_t *rows_of(const struct kv *kv, uint32_t layer, uint32_t head, uint32_t which) {
    return (uint16_t *)kv->base + (((uint64_t)layer * 2 + which) * kv->n_heads + head) * kv->capacity * kv->head_dim;
}

uint16_t *kv_keys(const struct kv *kv, uint32_t layer, uint32_t head) { return rows_of(kv, layer, head, 0); }
uint16_t *kv_values(const struct kv *kv, uint32_t layer, uint32_t head) { return rows_of(kv, layer, head, 1); }
