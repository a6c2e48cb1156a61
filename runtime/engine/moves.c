/* See moves.h. */
#include "engine/moves.h"

#include <stdlib.h>
#include <string.h>

#include "placement/residency.h"

enum {
    MOVES = 2,           /* under way at once */
    LOOK_STEPS = 8,      /* steps between two looks for a warm expert: a look takes as long as some kernels */
    STAGE_BYTES = 32768, /* copied at a time: the device's word is seen some microseconds late at most */
    ALIGN = 256
};
#define PACE_NS 50000000ull /* between two moves: 60 MB/s of experts of 3 MB, a hundredth of any link */
#define CLOSE_NS 10000000000ull

enum state { IDLE, STAGING, COPYING, ANNOUNCED };

struct move {
    enum state state;
    struct residency_move what;
    gpu_ptr slot;            /* where the expert goes */
    struct expert_at from;
    struct vram_expert layout;
    uint32_t at;             /* the piece that is being staged */
    uint64_t done;           /* bytes of it */
    uint8_t *host[VRAM_PIECES]; /* pinned */
    gpu_ptr staging;
    struct gpu_event *copied;
};

struct moves {
    struct vram *v;
    const struct gpu_ops *ops;
    struct experts *experts;
    struct residency *policy;
    struct timeline *timeline;
    uint32_t shuffle, random;
    uint32_t steps;
    uint64_t not_before_ns; /* the next move */
    struct move moves[MOVES];
    uint64_t room;          /* of one to stage */
    uint8_t *host;
    gpu_ptr staging;
    gpu_ptr *free[PLAN_MAX_CLASSES]; /* [the class's n] slots nothing is in */
    uint32_t n_free[PLAN_MAX_CLASSES];
    struct moves_counters counters;
};

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static enum err open_policy(struct moves *m, const struct moves_options *o, struct reason *why) {
    const struct vram *v = m->v;
    bool *may = calloc_checked(v->n_layers, sizeof *may);
    if (!may) return fail(why, ERR_NO_MEMORY, "no memory for the layers' bounds");
    for (uint32_t l = 0; l < v->n_layers; l++) may[l] = o->plan->layers[l].may_vram && !o->plan->layers[l].must_vram;
    const struct residency_options policy = {.n_layers = v->n_layers, .n_experts = v->n_experts, .n_used = o->plan->n_used,
                                             .n_classes = v->n_classes, .layer_class = v->layer_class, .may_move = may, .prior = o->prior};
    const enum err e = residency_open(&policy, &m->policy, why);
    free(may);
    TRY(e);
    for (uint32_t l = 0; l < v->n_layers; l++)
        for (uint32_t x = 0; x < v->n_experts; x++)
            if (v->slot_of[(size_t)l * v->n_experts + x]) residency_set(m->policy, l, x, true);
    return ERR_NONE;
}

static enum err list_free(struct moves *m, struct reason *why) {
    const struct vram *v = m->v;
    for (uint32_t c = 0; c < v->n_classes; c++) {
        const struct vram_slots *s = &v->classes[c];
        m->free[c] = calloc_checked(s->n ? s->n : 1, sizeof *m->free[c]);
        if (!m->free[c]) return fail(why, ERR_NO_MEMORY, "no memory for a list of slots");
        for (uint32_t i = s->used; i < s->n; i++) m->free[c][m->n_free[c]++] = s->base + i * s->bytes;
    }
    return ERR_NONE;
}

static enum err open_staging(struct moves *m, struct reason *why) {
    void *host;
    gpu_ptr mapped;
    m->room = vram_expert_room(m->v);
    TRY(m->ops->alloc_pinned(m->v->gpu, MOVES * m->room, &host, &mapped, why));
    m->host = host;
    TRY(m->ops->alloc(m->v->gpu, GPU_USE_SCRATCH, MOVES * m->room, &m->staging, why));
    for (uint32_t i = 0; i < MOVES; i++) {
        m->moves[i].staging = m->staging + i * m->room;
        TRY(m->ops->event_open(m->v->gpu, &m->moves[i].copied, why));
    }
    return ERR_NONE;
}

static bool anything_can_move(const struct vram *v) {
    for (uint32_t c = 0; c < v->n_classes && !v->all_resident; c++)
        if (v->classes[c].used && v->classes[c].used < v->classes[c].n) return true;
    return false;
}

enum err moves_open(const struct moves_options *o, struct moves **out, struct reason *why) {
    *out = NULL;
    if (!anything_can_move(o->vram)) return ERR_NONE;
    struct moves *m = calloc_checked(1, sizeof *m);
    if (!m) return fail(why, ERR_NO_MEMORY, "no memory for experts on the move");
    m->v = o->vram;
    m->ops = o->vram->ops;
    m->experts = o->experts;
    m->timeline = o->timeline;
    m->shuffle = m->random = o->shuffle;
    enum err e = open_policy(m, o, why);
    if (!e) e = list_free(m, why);
    if (!e) e = open_staging(m, why);
    if (e) moves_close(&m);
    *out = m;
    return e;
}

void moves_close(struct moves **moves) {
    struct moves *m = *moves;
    if (!m) return;
    *moves = NULL;
    struct reason ignored; /* the device's own, reported elsewhere */
    if (m->ops->sync(m->v->gpu, GPU_COPY, CLOSE_NS, &ignored)) {}
    for (uint32_t i = 0; i < MOVES; i++)
        if (m->moves[i].copied) m->ops->event_close(m->v->gpu, &m->moves[i].copied);
    if (m->staging) m->ops->free(m->v->gpu, GPU_USE_SCRATCH, m->staging, MOVES * m->room);
    if (m->host) m->ops->free_pinned(m->v->gpu, m->host, MOVES * m->room);
    for (uint32_t c = 0; c < m->v->n_classes; c++) free(m->free[c]);
    residency_close(&m->policy);
    free(m);
}

/* ---- what is used --------------------------------------------------------------------------------------------------- */

void moves_use(struct moves *m, uint32_t layer, const int32_t *experts, uint32_t n) { residency_use(m->policy, layer, experts, n); }
void moves_advance(struct moves *m, uint32_t n) { residency_advance(m->policy, n); }
void moves_set_there(struct moves *m, uint32_t layer, uint32_t expert) { residency_set(m->policy, layer, expert, true); }

/* In RAM, and not (still) in VRAM. */
static bool can_move(void *ctx, uint32_t layer, uint32_t expert) {
    const struct moves *m = ctx;
    return !m->v->slot_of[(size_t)layer * m->v->n_experts + expert] && m->n_free[m->v->layer_class[layer]] &&
           experts_has(m->experts, layer, expert);
}

/* ---- a random one, for tests ------------------------------------------------------------------------------------------ */

static uint32_t next_random(struct moves *m) {
    m->random = m->random * 1664525 + 1013904223;
    return m->random >> 8;
}

/* Is its victim's slot another move's victim's? */
static bool is_leaving(const struct moves *m, uint32_t layer, uint32_t expert) {
    for (uint32_t i = 0; i < MOVES; i++)
        if (m->moves[i].state != IDLE && m->moves[i].what.victim_layer == layer && m->moves[i].what.victim_expert == expert) return true;
    return false;
}

static bool is_coming(const struct moves *m, uint32_t layer, uint32_t expert) {
    for (uint32_t i = 0; i < MOVES; i++)
        if (m->moves[i].state != IDLE && m->moves[i].what.layer == layer && m->moves[i].what.expert == expert) return true;
    return false;
}

static bool random_move(struct moves *m, struct residency_move *out) {
    const struct vram *v = m->v;
    for (int tries = 0; tries < 1000; tries++) {
        const uint32_t l = next_random(m) % v->n_layers, e = next_random(m) % v->n_experts, vl = next_random(m) % v->n_layers, ve = next_random(m) % v->n_experts;
        if (v->layer_class[l] != v->layer_class[vl] || !can_move(m, l, e) || is_coming(m, l, e) || !v->slot_of[(size_t)vl * v->n_experts + ve] ||
            is_leaving(m, vl, ve))
            continue;
        *out = (struct residency_move){l, e, vl, ve};
        return true;
    }
    return false;
}

/* ---- a move's way ------------------------------------------------------------------------------------------------------ */

static bool choose(struct moves *m, struct residency_move *out) {
    if (m->shuffle) return random_move(m, out);
    const uint64_t now = clock_ns();
    if (m->steps % LOOK_STEPS || now < m->not_before_ns || !residency_next(m->policy, can_move, m, out)) return false;
    if (!m->v->slot_of[(size_t)out->victim_layer * m->v->n_experts + out->victim_expert]) return false; /* it is on its way itself */
    m->not_before_ns = now + PACE_NS;
    return true;
}

/* The next piece that there is. */
static void stage_from(struct move *mv, uint32_t piece) {
    while (piece < VRAM_PIECES && mv->layout.pieces[piece].bytes == 0) piece++;
    mv->at = piece;
    mv->done = 0;
}

static void begin(struct moves *m, struct move *mv) {
    const uint32_t class = m->v->layer_class[mv->what.layer];
    if (!experts_borrow(m->experts, mv->what.layer, mv->what.expert, &mv->from)) return;
    mv->slot = m->free[class][--m->n_free[class]];
    residency_set(m->policy, mv->what.layer, mv->what.expert, true);
    residency_set(m->policy, mv->what.victim_layer, mv->what.victim_expert, false);
    vram_describe_expert(m->v, mv->what.layer, mv->what.expert, &mv->layout);
    uint8_t *to = m->host + (uint64_t)(mv - m->moves) * m->room;
    for (int i = 0; i < VRAM_PIECES; to += round_up(mv->layout.pieces[i].bytes, ALIGN), i++) mv->host[i] = to;
    stage_from(mv, 0);
    mv->state = STAGING;
}

bool moves_stage(struct moves *m) {
    for (uint32_t i = 0; i < MOVES; i++) {
        struct move *mv = &m->moves[i];
        if (mv->state != STAGING || mv->at == VRAM_PIECES) continue;
        const uint64_t left = mv->layout.pieces[mv->at].bytes - mv->done, n = left < STAGE_BYTES ? left : STAGE_BYTES;
        memcpy(mv->host[mv->at] + mv->done, expert_piece(&mv->from, mv->at) + mv->done, n);
        mv->done += n;
        if (n == left) stage_from(mv, mv->at + 1);
        return true;
    }
    return false;
}

static void send(struct moves *m, struct move *mv) {
    const uint8_t *from[VRAM_PIECES];
    for (int i = 0; i < VRAM_PIECES; i++) from[i] = mv->host[i];
    experts_return(m->experts, mv->what.layer, mv->what.expert);
    const uint32_t span = timeline_device(m->timeline, GPU_COPY, TIMELINE_COPY, "move", mv->what.layer);
    vram_send_expert(m->v, &mv->layout, from, mv->staging, mv->slot);
    timeline_device_end(m->timeline, span);
    m->ops->record(m->v->gpu, GPU_COPY, mv->copied);
    mv->state = COPYING;
    m->counters.bytes += mv->layout.bytes;
}

static void patch(struct moves *m, struct gpu_command *c, uint32_t layer, uint32_t expert, gpu_ptr slot) {
    const uint32_t number = slot ? (uint32_t)(1 + (slot - m->v->slots) / ALIGN) : 0;
    c->patches[c->n_patches].layer = layer;
    c->patches[c->n_patches].expert = expert;
    c->patches[c->n_patches++].slot = number;
    m->v->slot_of[(size_t)layer * m->v->n_experts + expert] = number;
    experts_set_elsewhere(m->experts, layer, expert, slot != 0);
}

static void announce(struct moves *m, struct move *mv, struct gpu_command *c) {
    const struct residency_move *w = &mv->what;
    const uint32_t leaving = m->v->slot_of[(size_t)w->victim_layer * m->v->n_experts + w->victim_expert];
    patch(m, c, w->layer, w->expert, mv->slot);
    patch(m, c, w->victim_layer, w->victim_expert, 0);
    mv->slot = m->v->slots + (uint64_t)(leaving - 1) * ALIGN; /* free when the step has ended */
    mv->state = ANNOUNCED;
}

void moves_before_step(struct moves *m, struct gpu_command *c) {
    m->steps++;
    for (uint32_t i = 0; i < MOVES; i++) {
        struct move *mv = &m->moves[i];
        if (mv->state == COPYING && m->ops->passed(m->v->gpu, mv->copied)) announce(m, mv, c);
        if (mv->state == STAGING && mv->at == VRAM_PIECES) send(m, mv);
        if (mv->state == IDLE && choose(m, &mv->what)) begin(m, mv);
    }
}

void moves_after_step(struct moves *m) {
    for (uint32_t i = 0; i < MOVES; i++) {
        struct move *mv = &m->moves[i];
        if (mv->state != ANNOUNCED) continue;
        const uint32_t class = m->v->layer_class[mv->what.victim_layer];
        m->free[class][m->n_free[class]++] = mv->slot;
        m->counters.moved++;
        mv->state = IDLE;
    }
}

void moves_count(const struct moves *m, struct moves_counters *out) { *out = m->counters; }
