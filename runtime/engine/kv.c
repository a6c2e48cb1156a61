/* Sizes and addresses of the KV cache; who holds which token is the session's business. */
#include "engine/kv.h"

#include <string.h>

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

/* ---- pages ---------------------------------------------------------------------------------------------------------- */

uint64_t kv_page_bytes(const struct kv *kv) {
    if (kv->in_vram) return 0;
    return (uint64_t)kv->n_layers * 2 * kv->n_heads * KV_PAGE_TOKENS * kv->head_dim * element_bytes(kv->type);
}

/* Run r of a page (the same run of each page lies together): of it, `bytes` are in the cache, the last page being cut by the capacity. */
struct page_run {
    uint8_t *at;
    uint64_t whole_bytes, bytes;
};

static enum err check_page(const struct kv *kv, uint32_t page) {
    if (kv->in_vram) return ERR_UNSUPPORTED;
    return (uint64_t)page * KV_PAGE_TOKENS < kv->capacity ? ERR_NONE : ERR_ARGUMENT;
}

static struct page_run run_of(const struct kv *kv, uint32_t page, uint64_t run) {
    const uint64_t row = kv->head_dim * element_bytes(kv->type), first = (uint64_t)page * KV_PAGE_TOKENS, left = kv->capacity - first;
    return (struct page_run){(uint8_t *)kv->base + (run * kv->capacity + first) * row, KV_PAGE_TOKENS * row,
                             (left < KV_PAGE_TOKENS ? left : KV_PAGE_TOKENS) * row};
}

enum err kv_read_page(const struct kv *kv, uint32_t page, void *out) {
    TRY(check_page(kv, page));
    uint8_t *to = out;
    for (uint64_t run = 0; run < (uint64_t)kv->n_layers * 2 * kv->n_heads; run++) {
        const struct page_run r = run_of(kv, page, run);
        memcpy(to, r.at, r.bytes);
        memset(to + r.bytes, 0, r.whole_bytes - r.bytes);
        to += r.whole_bytes;
    }
    return ERR_NONE;
}

enum err kv_write_page(struct kv *kv, uint32_t page, const void *in) {
    TRY(check_page(kv, page));
    const uint8_t *from = in;
    for (uint64_t run = 0; run < (uint64_t)kv->n_layers * 2 * kv->n_heads; run++) {
        const struct page_run r = run_of(kv, page, run);
        memcpy(r.at, from, r.bytes);
        from += r.whole_bytes;
    }
    return ERR_NONE;
}
