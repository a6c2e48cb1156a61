/* See ring.h. */
#include "engine/ring.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHUNK = 6, MAX_CHUNKS = 4 };
#define NAP_NS 20000

struct entry { /* what a slot holds */
    bool full;
    uint32_t layer, expert;
};

struct passing {
    uint32_t expert, tokens;
    struct expert_at from; /* borrowed */
};

struct ring {
    struct vram *v;
    const struct gpu_ops *ops;
    struct experts *experts;
    struct timeline *timeline;
    struct split_rates rates;
    uint32_t from_tokens;
    uint32_t n_chunks, next;            /* the chunk to be overwritten next */
    struct gpu_event *copied[MAX_CHUNKS]; /* the chunk's experts are there */
    struct gpu_event *done[MAX_CHUNKS];   /* nothing computes with them any more */
    struct entry *entries;              /* [n_chunks * CHUNK] */
    uint64_t room;
    gpu_ptr staging;                    /* for one: the copy stream goes through it in order */

    uint32_t layer;                     /* of the list */
    struct passing *list;               /* [n_experts] what is to be sent */
    uint32_t n_list;
    struct gpu_batch_expert *here;      /* [n_chunks * CHUNK] what is in the ring already */
    uint32_t n_here;
    uint32_t *ascending;                /* [n_experts] scratch */
    struct gpu_event *last;             /* after the last copy; NULL: none */
    struct ring_counters counters;
};

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static enum err open_parts(struct ring *r, struct reason *why) {
    struct vram *v = r->v;
    r->room = vram_expert_room(v);
    r->entries = calloc_checked((uint64_t)r->n_chunks * CHUNK, sizeof *r->entries);
    r->here = calloc_checked((uint64_t)r->n_chunks * CHUNK, sizeof *r->here);
    r->list = calloc_checked(v->n_experts, sizeof *r->list);
    r->ascending = calloc_checked(v->n_experts, sizeof *r->ascending);
    if (!r->entries || !r->here || !r->list || !r->ascending) return fail(why, ERR_NO_MEMORY, "no memory for a list of experts");
    TRY(r->ops->alloc(v->gpu, GPU_USE_SCRATCH, r->room, &r->staging, why));
    for (uint32_t i = 0; i < r->n_chunks; i++) {
        TRY(r->ops->event_open(v->gpu, &r->copied[i], why));
        TRY(r->ops->event_open(v->gpu, &r->done[i], why));
    }
    return ERR_NONE;
}

enum err ring_open(const struct ring_options *o, struct ring **out, struct reason *why) {
    *out = NULL;
    const uint32_t n = o->vram->classes[o->vram->n_classes].n / CHUNK, chunks = n < MAX_CHUNKS ? n : MAX_CHUNKS;
    if (o->vram->all_resident || chunks < 2) return ERR_NONE;
    struct ring *r = calloc_checked(1, sizeof *r);
    if (!r) return fail(why, ERR_NO_MEMORY, "no memory for the ring");
    r->v = o->vram;
    r->ops = o->vram->ops;
    r->experts = o->experts;
    r->timeline = o->timeline;
    r->rates = o->rates;
    r->from_tokens = o->from_tokens;
    r->n_chunks = chunks;
    const enum err e = open_parts(r, why);
    if (e) ring_close(&r);
    *out = r;
    return e;
}

void ring_close(struct ring **ring) {
    struct ring *r = *ring;
    if (!r) return;
    *ring = NULL;
    struct reason ignored; /* the device's own, reported elsewhere */
    for (int s = 0; s < GPU_STREAMS; s++)
        if (r->ops->sync(r->v->gpu, (enum gpu_stream)s, r->v->patience_ns, &ignored)) {}
    for (uint32_t i = 0; i < MAX_CHUNKS; i++) {
        if (r->copied[i]) r->ops->event_close(r->v->gpu, &r->copied[i]);
        if (r->done[i]) r->ops->event_close(r->v->gpu, &r->done[i]);
    }
    if (r->staging) r->ops->free(r->v->gpu, GPU_USE_SCRATCH, r->staging, r->room);
    free(r->entries);
    free(r->here);
    free(r->list);
    free(r->ascending);
    free(r);
}

/* ---- which ones ------------------------------------------------------------------------------------------------------ */

static gpu_ptr slot_address(const struct ring *r, uint32_t i) {
    const struct vram_slots *s = &r->v->classes[r->v->n_classes];
    return s->base + i * s->bytes;
}

/* The other lane brought it: it costs nothing. */
static bool take_here(struct ring *r, uint32_t expert) {
    for (uint32_t i = 0; i < r->n_chunks * CHUNK; i++)
        if (r->entries[i].full && r->entries[i].layer == r->layer && r->entries[i].expert == expert) {
            r->here[r->n_here++] = (struct gpu_batch_expert){expert, slot_address(r, i)};
            return true;
        }
    return false;
}

static int by_tokens(const void *a, const void *b) {
    const struct passing *x = a, *y = b;
    if (x->tokens != y->tokens) return x->tokens < y->tokens ? -1 : 1;
    return x->expert < y->expert ? -1 : 1;
}

/* Of the candidates, ascending, how many stay with the CPU; which is busy with others for cpu_s. */
static uint32_t how_many_stay(const struct ring *r, double cpu_s, uint64_t bytes, uint64_t weights) {
    uint32_t stay = 0;
    if (!r->from_tokens) return split_prompt(&r->rates, bytes, weights, r->ascending, r->n_list, cpu_s);
    while (stay < r->n_list && r->list[stay].tokens < r->from_tokens) stay++;
    return stay;
}

/* What is borrowed cannot make room for what the CPU's share still has to read. */
static uint32_t most_borrowed(const struct ring *r) { return experts_slots(r->experts, r->layer) / 2; }

uint32_t ring_choose(struct ring *r, uint32_t layer, const uint32_t *tokens, uint8_t *passes) {
    struct vram_expert one; /* others of the layer may have fewer bits, of EXL3 */
    double cpu_s = 0;
    vram_describe_expert(r->v, layer, 0, &one);
    const uint64_t bytes = one.bytes, weights = one.weights;
    r->layer = layer;
    r->n_list = r->n_here = 0;
    memset(passes, 0, r->v->n_experts);
    for (uint32_t e = 0; e < r->v->n_experts; e++) {
        if (!tokens[e]) continue;
        if (take_here(r, e)) passes[e] = 1;
        else if (experts_has(r->experts, layer, e)) r->list[r->n_list++] = (struct passing){.expert = e, .tokens = tokens[e]};
        else cpu_s += split_cpu_seconds(&r->rates, bytes, weights, tokens[e]); /* comes from the drive */
    }
    qsort(r->list, r->n_list, sizeof *r->list, by_tokens);
    for (uint32_t i = 0; i < r->n_list; i++) r->ascending[i] = r->list[i].tokens;
    uint32_t stay = how_many_stay(r, cpu_s, bytes, weights);
    const uint32_t most = most_borrowed(r);
    if (r->n_list - stay > most) stay = r->n_list - most;
    uint32_t n = 0;
    for (uint32_t i = stay; i < r->n_list; i++) {
        struct passing p = r->list[i];
        if (!experts_borrow(r->experts, layer, p.expert, &p.from)) continue; /* it was there a moment ago */
        passes[p.expert] = 1;
        r->list[n++] = p;
    }
    r->n_list = n;
    r->counters.passed += r->n_list;
    r->counters.bytes += r->n_list * bytes;
    r->counters.reused += r->n_here;
    return r->n_list + r->n_here;
}

/* ---- the way ------------------------------------------------------------------------------------------------------------ */

static void send_chunk(struct ring *r, const struct gpu_batch *b, const struct passing *p, uint32_t n) {
    const uint32_t c = r->next;
    struct gpu_batch_expert sent[CHUNK];
    r->next = (c + 1) % r->n_chunks;
    r->ops->wait(r->v->gpu, GPU_COPY, r->done[c]);
    uint32_t span = timeline_device(r->timeline, GPU_COPY, TIMELINE_COPY, "experts for a prompt", r->layer);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t slot = c * CHUNK + i;
        sent[i] = (struct gpu_batch_expert){p[i].expert, slot_address(r, slot)};
        struct vram_expert x;
        const uint8_t *from[VRAM_PIECES];
        vram_describe_expert(r->v, r->layer, p[i].expert, &x);
        for (uint32_t k = 0; k < VRAM_PIECES; k++) from[k] = expert_piece(&p[i].from, k);
        vram_send_expert(r->v, &x, from, r->staging, sent[i].slot);
        r->entries[slot] = (struct entry){true, r->layer, p[i].expert};
    }
    timeline_device_end(r->timeline, span);
    r->ops->record(r->v->gpu, GPU_COPY, r->copied[c]);
    r->ops->wait(r->v->gpu, GPU_COMPUTE, r->copied[c]);
    span = timeline_device(r->timeline, GPU_COMPUTE, TIMELINE_LANE + b->lane, "passing experts", r->layer);
    r->ops->batch_experts(r->v->net, b, r->layer, sent, n);
    timeline_device_end(r->timeline, span);
    r->ops->record(r->v->gpu, GPU_COMPUTE, r->done[c]);
    r->last = r->copied[c];
}

void ring_send(struct ring *r, const struct gpu_batch *b) {
    r->last = NULL;
    if (r->n_here) {
        r->ops->batch_experts(r->v->net, b, r->layer, r->here, r->n_here);
        for (uint32_t c = 0; c < r->n_chunks; c++) r->ops->record(r->v->gpu, GPU_COMPUTE, r->done[c]);
    }
    for (uint32_t i = 0; i < r->n_list; i += CHUNK) send_chunk(r, b, r->list + i, r->n_list - i < CHUNK ? r->n_list - i : CHUNK);
}

static enum err await_copies(struct ring *r, struct reason *why) {
    struct vram *v = r->v;
    struct patience patience = patience_of(v->patience_ns);
    if (!r->last) return ERR_NONE;
    if (v->emulated) TRY(r->ops->sync(v->gpu, GPU_COPY, v->patience_ns, why));
    while (!r->ops->passed(v->gpu, r->last)) {
        if (patience_ends(&patience)) return fail(why, ERR_IO, "the GPU does not copy any more");
        nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    }
    return r->ops->check(v->gpu, why);
}

enum err ring_settle(struct ring *r, struct reason *why) {
    const enum err e = await_copies(r, why);
    for (uint32_t i = 0; i < r->n_list; i++)
        experts_return(r->experts, r->layer, r->list[i].expert);
    r->n_list = r->n_here = 0;
    r->last = NULL;
    return e;
}

void ring_count(const struct ring *r, struct ring_counters *out) { *out = r->counters; }
