/* Tensor data in memory: read through a fetch into one anonymous huge-page mapping.
 *
 * Never mmap: a page fault in a kernel would stall every thread and hide the drive's cost. Placement decides what is listed;
 * today that is every tensor the model binds. */
#ifndef COLDSTREAM_WEIGHTS_H
#define COLDSTREAM_WEIGHTS_H

#include "engine/fetch.h"

struct weights {
    void *base;            /* one mapping, pages_alloc */
    uint64_t bytes;        /* its size */
    const uint8_t **data;  /* [model->n_tensors]; NULL: not loaded */
};

struct weights_load {
    struct fetch *fetch; /* of the same model, with nothing in flight */
    /* About ten times a second and once at the end, on the caller's thread; true cancels. May be NULL. */
    bool (*on_load)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *ctx;
};

/* Load the tensors whose `wanted[index in model->tensors]` is true. On failure nothing is kept, and nothing is in flight any
 * more, which is waited for. ERR_IO names tensor, file and offset; ERR_CANCELLED after on_load() said so. */
enum err weights_open(const struct model *m, const bool *wanted, const struct weights_load *how, struct weights *out,
                      struct reason *why) MUST_USE;
void weights_close(struct weights *w);

/* Address space and memory weights_open() will take for the same list. */
uint64_t weights_bytes(const struct model *m, const bool *wanted);

static inline const uint8_t *weights_of(const struct weights *w, const struct model *m, const struct model_tensor *t) {
    return w->data[t - m->tensors];
}

#endif
