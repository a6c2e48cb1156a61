/* The KV cache of one sequence: keys (rotated) and values, one run of rows a layer and KV head, so that attention of a head
 * reads memory in order. Memory is address space until it is used. A cache in VRAM (vram.h) has pages instead of rows. */
#ifndef COLDSTREAM_KV_H
#define COLDSTREAM_KV_H

#include "model/model.h"

enum kv_type { KV_F16, KV_F32 /* for exact comparisons: twice the bytes, reference kernels */ };

struct kv {
    void *base;
    enum kv_type type;
    uint64_t bytes;
    uint64_t capacity; /* tokens */
    uint32_t n_layers, n_heads, head_dim;

    bool in_vram;      /* layers whose attention is there; base is NULL when those are all */
    uint32_t sequence; /* its number on the device */
    uint32_t n_pages;
    uint32_t *pages;   /* [n_pages] */
};

uint64_t kv_bytes_per_token(const struct model_shape *s, enum kv_type type);
enum err kv_open(const struct model_shape *s, enum kv_type type, uint64_t capacity, struct kv *out, struct reason *why) MUST_USE;
void kv_close(struct kv *kv);

/* ---- a page at a time: what a file of sessions holds ----------------------------------------------------------------
 * A page is the keys and values of KV_PAGE_TOKENS positions over all layers, from position page * KV_PAGE_TOKENS on: bytes that only
 * a cache of the same model shape and types understands. Which of its positions are filled is the caller's business: rows that
 * nothing was stored in are arbitrary, but never an uninitialised byte of `out`. */
enum { KV_PAGE_TOKENS = 256 };

uint64_t kv_page_bytes(const struct kv *kv); /* 0: in VRAM, from where pages cannot be read yet */
/* ERR_ARGUMENT: beyond the capacity. ERR_UNSUPPORTED: in VRAM. */
enum err kv_read_page(const struct kv *kv, uint32_t page, void *out) MUST_USE;
/* Makes room for the page first where the cache grows with use: ERR_NO_MEMORY. Pages are written in rising order, from 0 on. */
enum err kv_write_page(struct kv *kv, uint32_t page, const void *in) MUST_USE;

/* Rows of a head from `position` on: head_dim elements of kv->type each. */
void *kv_keys(const struct kv *kv, uint32_t layer, uint32_t head, uint64_t position);
void *kv_values(const struct kv *kv, uint32_t layer, uint32_t head, uint64_t position);

#endif
