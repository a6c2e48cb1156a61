/* See upload.h. A buffer goes free -> reading -> copying -> free, or with a number -> here -> free; a read's tag is its buffer's index.
 * What is to be repacked passes through one place on the device, in the copy stream's order. */
#include "engine/upload.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NO_NUMBER = UINT32_MAX, DONE_BATCH = 16 };
#define PIECE ((uint64_t)4 << 20) /* of a large part */
#define WAIT_NS 20000000ull
#define COPY_NS 30000000000ull /* a copy that takes longer never ends */

enum state { FREE, READING, COPYING, HERE };

struct buffer {
    enum state state;
    uint32_t number; /* of a group that upload_arrived() tells; else NO_NUMBER */
    bool taken;      /* it has told already, before the copy was through */
    uint8_t *host;
    struct gpu_event *copied;
    uint32_t n;
    struct upload_part parts[FETCH_EXTENTS];
};

struct upload {
    struct gpu *gpu;
    const struct gpu_ops *ops;
    struct fetch *fetch;
    uint64_t room, host_bytes, device_bytes;
    void *host;
    gpu_ptr device; /* what is to be repacked lies here in the file's layout */
    unsigned n_buffers;
    struct buffer *buffers; /* [n_buffers] */
    uint64_t done_bytes;
    enum err failed;
    struct reason failure;
};

static uint64_t room_for(uint64_t largest) {
    return round_up((largest > PIECE ? largest : PIECE) + FETCH_EXTENTS * 2 * (uint64_t)FETCH_ALIGN, FETCH_ALIGN);
}

uint64_t upload_bytes(uint64_t largest, unsigned buffers) { return buffers * room_for(largest); }
uint64_t upload_largest(const struct upload *u) { return u->room - FETCH_EXTENTS * 2 * (uint64_t)FETCH_ALIGN; }

enum err upload_open(struct gpu *g, struct fetch *fetch, uint64_t largest, unsigned buffers, struct upload **out, struct reason *why) {
    *out = NULL;
    struct upload *u = calloc_checked(1, sizeof *u);
    if (!u) return fail(why, ERR_NO_MEMORY, "no memory for the uploader");
    u->gpu = g;
    u->ops = g->ops;
    u->fetch = fetch;
    u->room = room_for(largest);
    u->n_buffers = buffers;
    u->host_bytes = buffers * u->room;
    u->device_bytes = u->room;
    gpu_ptr mapped;
    u->buffers = calloc_checked(buffers, sizeof *u->buffers);
    enum err e = u->buffers ? ERR_NONE : fail(why, ERR_NO_MEMORY, "no memory for the uploader");
    if (!e) e = u->ops->alloc_pinned(g, u->host_bytes, &u->host, &mapped, why);
    if (!e) e = u->ops->alloc(g, GPU_USE_SCRATCH, u->device_bytes, &u->device, why);
    for (unsigned i = 0; i < buffers && !e; i++) {
        u->buffers[i].host = (uint8_t *)u->host + i * u->room;
        e = u->ops->event_open(g, &u->buffers[i].copied, why);
    }
    if (e) upload_close(&u);
    *out = u;
    return e;
}

void upload_close(struct upload **upload) {
    struct upload *u = *upload;
    if (!u) return;
    *upload = NULL;
    struct fetch_done done[DONE_BATCH];
    while (fetch_busy(u->fetch)) (void)fetch_poll(u->fetch, done, DONE_BATCH, WAIT_NS); /* they write into the buffers */
    struct reason ignored; /* whoever closes after a failure knows a better one */
    if (u->ops->sync(u->gpu, GPU_COPY, COPY_NS, &ignored)) {}
    for (unsigned i = 0; u->buffers && i < u->n_buffers; i++)
        if (u->buffers[i].copied) u->ops->event_close(u->gpu, &u->buffers[i].copied);
    free(u->buffers);
    if (u->device) u->ops->free(u->gpu, GPU_USE_SCRATCH, u->device, u->device_bytes);
    if (u->host) u->ops->free_pinned(u->gpu, u->host, u->host_bytes);
    free(u);
}

/* The bytes are in the buffer: on to the device. */
static void copy(struct upload *u, struct buffer *b) {
    const uint8_t *from = b->host;
    gpu_ptr staged = u->device;
    for (uint32_t i = 0; i < b->n; i++) {
        const struct upload_part *p = &b->parts[i];
        const uint8_t *data = from + p->offset % FETCH_ALIGN;
        const bool repack = p->rows && !u->ops->types[p->type].same_layout;
        u->ops->upload(u->gpu, GPU_COPY, repack ? staged : p->to, data, p->bytes);
        if (repack) u->ops->repack(u->gpu, GPU_COPY, p->type, p->to, staged, p->rows, p->k);
        if (p->bits) u->ops->label(u->gpu, GPU_COPY, p->type, p->to, p->rows, p->k, p->bits, p->codebook);
        staged += round_up(p->bytes, 256);
        from += fetch_room(p->bytes);
        u->done_bytes += p->bytes;
    }
    u->ops->record(u->gpu, GPU_COPY, b->copied);
    b->state = COPYING;
}

/* Take note of what ended; waits a little when told to. */
static enum err progress(struct upload *u, bool wait, struct reason *why) {
    struct fetch_done done[DONE_BATCH];
    const unsigned n = fetch_poll(u->fetch, done, DONE_BATCH, wait ? WAIT_NS : 0);
    for (unsigned i = 0; i < n; i++) {
        struct buffer *b = &u->buffers[done[i].tag];
        if (!done[i].code) {
            copy(u, b);
        } else {
            b->state = FREE; /* nothing is started after a failure, so a lent one is not given out again */
            if (!u->failed) {
                u->failed = done[i].code;
                u->failure = *done[i].why;
            }
        }
    }
    for (unsigned i = 0; i < u->n_buffers; i++) {
        struct buffer *b = &u->buffers[i];
        if (b->state == COPYING && u->ops->passed(u->gpu, b->copied)) b->state = b->number == NO_NUMBER || b->taken ? FREE : HERE;
    }
    if (u->failed) return *why = u->failure, u->failed;
    return u->ops->check(u->gpu, why);
}

static struct buffer *find_free(struct upload *u) {
    for (unsigned i = 0; i < u->n_buffers; i++)
        if (u->buffers[i].state == FREE) return &u->buffers[i];
    return NULL;
}

static enum err free_buffer(struct upload *u, struct buffer **out, struct reason *why) {
    struct patience patience = patience_of(COPY_NS + fetch_patience_ns(u->fetch));
    for (bool wait = false;; wait = true) {
        TRY(progress(u, wait, why));
        if ((*out = find_free(u)) != NULL) return ERR_NONE;
        if (fetch_busy(u->fetch) == 0) nanosleep(&(struct timespec){0, 50000}, NULL); /* a copy is all there is to wait for */
        if (patience_ends(&patience)) return fail(why, ERR_IO, "copies to the GPU do not end");
    }
}

static void read_into(struct upload *u, struct buffer *b, const struct upload_part *parts, uint32_t n, uint32_t number) {
    struct fetch_group g = {.n = n, .tag = (uint64_t)(b - u->buffers)};
    uint8_t *to = b->host;
    for (uint32_t i = 0; i < n; i++) {
        g.extents[i] = (struct extent){parts[i].file, parts[i].offset, parts[i].bytes, to};
        b->parts[i] = parts[i];
        to += fetch_room(parts[i].bytes);
    }
    b->n = n;
    b->number = number;
    b->taken = false;
    b->state = READING;
    fetch_start(u->fetch, &g);
    fetch_send(u->fetch);
}

enum err upload_group(struct upload *u, const struct upload_part *parts, uint32_t n, struct reason *why) {
    struct buffer *b;
    TRY(free_buffer(u, &b, why));
    read_into(u, b, parts, n, NO_NUMBER);
    return ERR_NONE;
}

enum err upload_flush(struct upload *u, struct reason *why) {
    for (bool more = true; more;) {
        TRY(progress(u, fetch_busy(u->fetch) > 0, why));
        more = false;
        for (unsigned i = 0; i < u->n_buffers; i++) more |= u->buffers[i].state == READING;
    }
    return u->ops->sync(u->gpu, GPU_COPY, COPY_NS, why);
}

enum err upload_large(struct upload *u, const struct upload_part *part, gpu_ptr staging, struct reason *why) {
    const bool repack = !u->ops->types[part->type].same_layout;
    for (uint64_t at = 0; at < part->bytes; at += PIECE) {
        struct upload_part piece = *part;
        piece.offset += at;
        piece.bytes = part->bytes - at < PIECE ? part->bytes - at : PIECE;
        piece.to = (repack ? staging : part->to) + at;
        piece.rows = piece.bits = 0; /* copied as it is */
        TRY(upload_group(u, &piece, 1, why));
    }
    if (part->bits) u->ops->label(u->gpu, GPU_COPY, part->type, part->to, part->rows, part->k, part->bits, part->codebook);
    if (!repack) return ERR_NONE;
    TRY(upload_flush(u, why));
    u->ops->repack(u->gpu, GPU_COPY, part->type, part->to, staging, part->rows, part->k);
    return u->ops->sync(u->gpu, GPU_COPY, COPY_NS, why); /* the staging is used again */
}

/* ---- without waiting ------------------------------------------------------------------------------------------------- */

bool upload_start(struct upload *u, const struct upload_part *parts, uint32_t n, uint32_t number) {
    struct buffer *b = u->failed || fetch_free(u->fetch) == 0 ? NULL : find_free(u);
    if (b) read_into(u, b, parts, n, number);
    return b != NULL;
}

bool upload_start_from(struct upload *u, const struct upload_part *parts, const uint8_t *const *from, uint32_t n, uint32_t number) {
    struct buffer *b = u->failed ? NULL : find_free(u);
    if (!b) return false;
    uint8_t *to = b->host;
    for (uint32_t i = 0; i < n; i++) {
        b->parts[i] = parts[i];
        memcpy(to + parts[i].offset % FETCH_ALIGN, from[i], parts[i].bytes); /* as a read would have brought it */
        to += fetch_room(parts[i].bytes);
    }
    b->n = n;
    b->number = number;
    b->taken = false;
    copy(u, b);
    return true;
}

enum err upload_step(struct upload *u, bool wait, struct reason *why) {
    TRY(progress(u, wait && fetch_busy(u->fetch) > 0, why));
    if (wait && fetch_busy(u->fetch) == 0) nanosleep(&(struct timespec){0, 50000}, NULL); /* a copy is all there is to wait for */
    return ERR_NONE;
}

bool upload_arrived(struct upload *u, bool after, uint32_t *number) {
    for (unsigned i = 0; i < u->n_buffers; i++) {
        struct buffer *b = &u->buffers[i];
        if (b->number == NO_NUMBER || b->taken) continue;
        if (b->state == HERE) {
            b->state = FREE;
        } else if (after && b->state == COPYING) {
            u->ops->wait(u->gpu, GPU_COMPUTE, b->copied);
            b->taken = true;
        } else {
            continue;
        }
        *number = b->number;
        if (b->state == FREE) b->number = NO_NUMBER;
        return true;
    }
    return false;
}

uint64_t upload_done_bytes(const struct upload *u) { return u->done_bytes; }
