/* Sizes and addresses of the KV cache; who holds which token is the session's business. */
#include "engine/kv.h"

static uint64_t element_bytes(enum kv_type type) { return type == KV_F32 ? sizeof(float) : sizeof(uint16_t); }

uint64_t kv_bytes_per_token(const struct model_shape *s, enum kv_type type) {
    return (uint64_t)s->n_layers * s->n_kv_heads * s->head_dim * 2 * element_bytes(type); /* K and V */
}

enum err kv_open(const struct model_shape *s, enum kv_type type, uint64_t capacity, struct kv *out, struct reason *why) {
    *out = (struct kv){0};
    uint64_t bytes;
    if (!size_mul(kv_bytes_per_token(s, type), capacity, &bytes))
        return fail(why, ERR_LIMIT, "a context of %llu tokens overflows the address space", (unsigned long long)capacity);
    void *base;
    TRY(pages_alloc(bytes, &base, why));
    *out = (struct kv){.base = base, .type = type, .bytes = bytes, .capacity = capacity, .n_layers = s->n_layers,
                       .n_heads = s->n_kv_heads, .head_dim = s->head_dim};
    return ERR_NONE;
}

void kv_close(struct kv *kv) {
    if (kv->base) pages_free(kv->base, kv->bytes);
    *kv = (struct kv){0};
}

static void *rows_of(const struct kv *kv, uint32_t layer, uint32_t head, uint32_t which, uint64_t position) {
    const uint64_t run = ((uint64_t)layer * 2 + which) * kv->n_heads + head;
    return (uint8_t *)kv->base + (run * kv->capacity + position) * kv->head_dim * element_bytes(kv->type);
}

void *kv_keys(const struct kv *kv, uint32_t layer, uint32_t head, uint64_t position) { return rows_of(kv, layer, head, 0, position); }
void *kv_values(const struct kv *kv, uint32_t layer, uint32_t head, uint64_t position) { return rows_of(kv, layer, head, 1, position); }
