/* See arrivals.h. An expert with a place is ahead, on its way (its number is in the upload), there but not known to steps yet, or done. */
#include "engine/arrivals.h"

#include <stdlib.h>
#include <string.h>

enum {
    BUFFERS = 16,        /* experts on their way at once: what a step's time has to suffice for */
    COPIES_A_STEP = 8,   /* of those that lie in RAM already: a step's start waits for the copying */
    ALIGN = 256
};
static const float PRIOR_USES = 64; /* tokens of seeing an expert that a profile is worth */

enum state { NO_PLACE, AHEAD, ON_ITS_WAY, THERE, DONE };

struct arrivals {
    struct vram *v;
    struct experts *experts;
    struct moves *moves;
    struct log_sink log;
    struct fetch *fetch;
    struct upload *upload;
    uint8_t *state;    /* [n_layers * n_experts] enum state */
    float *uses;       /* the same: how hot */
    uint8_t *changed;  /* [n_layers] some of the layer's are THERE */
    uint32_t n_due;    /* AHEAD, ON_ITS_WAY or THERE */
    bool gave_up;
    enum err failed;   /* in arrivals_bring() */
    struct reason why;
    struct arrivals_counters counters;
};

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static uint32_t n_ids(const struct arrivals *a) { return a->v->n_layers * a->v->n_experts; }

static enum err open_parts(struct arrivals *a, const struct arrivals_options *o, struct reason *why) {
    const uint32_t n = n_ids(a);
    a->state = calloc_checked(n, 1);
    a->uses = calloc_checked(n, sizeof *a->uses);
    a->changed = calloc_checked(a->v->n_layers, 1);
    if (!a->state || !a->uses || !a->changed) return fail(why, ERR_NO_MEMORY, "no memory for the list of experts that are to come");
    for (uint32_t id = 0; id < n; id++) {
        a->uses[id] = o->prior ? PRIOR_USES * o->prior[id] : 0;
        if (!a->v->place_of[id]) continue;
        a->state[id] = AHEAD;
        a->n_due++;
    }
    struct fetch_options fetch = *o->fetch;
    fetch.groups = BUFFERS;
    TRY(fetch_open(a->v->model, &fetch, &a->fetch, why));
    return upload_open(a->v->gpu, a->fetch, vram_expert_bytes(a->v->model), BUFFERS, &a->upload, why);
}

uint64_t arrivals_host_bytes(const struct model *m) { return upload_bytes(vram_expert_bytes(m), BUFFERS); }

enum err arrivals_open(const struct arrivals_options *o, struct arrivals **out, struct reason *why) {
    *out = NULL;
    struct arrivals *a = calloc_checked(1, sizeof *a);
    if (!a) return fail(why, ERR_NO_MEMORY, "no memory for experts that are to come");
    a->v = o->vram;
    a->experts = o->experts;
    a->moves = o->moves;
    a->log = o->log;
    const enum err e = open_parts(a, o, why);
    if (e) arrivals_close(&a);
    *out = a;
    return e;
}

void arrivals_close(struct arrivals **arrivals) {
    struct arrivals *a = *arrivals;
    if (!a) return;
    *arrivals = NULL;
    upload_close(&a->upload);
    fetch_close(&a->fetch);
    free(a->state);
    free(a->uses);
    free(a->changed);
    free(a);
}

bool arrivals_due(const struct arrivals *a) { return a && a->n_due > 0; }

bool arrivals_comes(const struct arrivals *a, uint32_t layer, uint32_t expert) {
    const enum state s = a ? (enum state)a->state[(size_t)layer * a->v->n_experts + expert] : NO_PLACE;
    return s == AHEAD || s == ON_ITS_WAY;
}

void arrivals_use(struct arrivals *a, uint32_t layer, const int32_t *experts, uint32_t n) {
    float *uses = a->uses + (size_t)layer * a->v->n_experts;
    for (uint32_t i = 0; i < n * a->v->model->shape.n_experts_used; i++)
        if (experts[i] >= 0) uses[experts[i]] += 1;
}

/* Counters are looked at by others meanwhile. */
static void note(uint64_t *counter) { __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

void arrivals_count(const struct arrivals *a, struct arrivals_counters *out) {
    out->needed = __atomic_load_n(&a->counters.needed, __ATOMIC_RELAXED);
    out->background = __atomic_load_n(&a->counters.background, __ATOMIC_RELAXED);
}

/* ---- on the way ---------------------------------------------------------------------------------------------------- */

static uint32_t parts_of(const struct arrivals *a, uint32_t id, struct upload_part parts[FETCH_EXTENTS]) {
    const struct vram *v = a->v;
    return vram_expert_parts(v, id / v->n_experts, id % v->n_experts, v->slots + (uint64_t)(v->place_of[id] - 1) * ALIGN, parts);
}

static bool start_from_file(struct arrivals *a, uint32_t id) {
    struct upload_part parts[FETCH_EXTENTS];
    const uint32_t n = parts_of(a, id, parts);
    if (!upload_start(a->upload, parts, n, id)) return false;
    a->state[id] = ON_ITS_WAY;
    return true;
}

/* From RAM, if a miss has brought it there; *copied counts. False: no buffer is free. */
static bool start(struct arrivals *a, uint32_t id, uint32_t *copied) {
    const uint32_t layer = id / a->v->n_experts, expert = id % a->v->n_experts;
    struct upload_part parts[FETCH_EXTENTS];
    struct expert_at at;
    const uint32_t n = parts_of(a, id, parts);
    if (n != EXPERT_MATRICES || !experts_borrow(a->experts, layer, expert, &at)) return start_from_file(a, id);
    const bool started = upload_start_from(a->upload, parts, at.matrix, n, id);
    experts_return(a->experts, layer, expert);
    if (!started) return false;
    a->state[id] = ON_ITS_WAY;
    ++*copied;
    return true;
}

/* The hottest one that is still ahead; of equal ones the first in the file. UINT32_MAX: none. */
static uint32_t hottest(const struct arrivals *a) {
    uint32_t best = UINT32_MAX;
    for (uint32_t id = 0, n = n_ids(a); id < n; id++)
        if (a->state[id] == AHEAD && (best == UINT32_MAX || a->uses[id] > a->uses[best])) best = id;
    return best;
}

/* It will be on the device when the compute stream gets to whatever is launched next. */
static void has_come(struct arrivals *a, uint32_t id) {
    a->state[id] = THERE;
    __atomic_store_n(&a->v->slot_of[id], a->v->place_of[id], __ATOMIC_RELAXED); /* somebody may count them meanwhile */
    a->changed[id / a->v->n_experts] = 1;
}

/* What has not come stays where it is: the CPU computes it, and may keep it in RAM. */
static void give_up(struct arrivals *a, const struct reason *why) {
    a->gave_up = true;
    log_line(&a->log, LOG_WARN, "%s; the experts that are not on the GPU yet are left to the CPU", why->text);
    for (uint32_t id = 0, n = n_ids(a); id < n; id++) {
        if (a->state[id] != AHEAD && a->state[id] != ON_ITS_WAY) continue;
        a->state[id] = NO_PLACE;
        a->n_due--;
        experts_set_elsewhere(a->experts, id / a->v->n_experts, id % a->v->n_experts, false);
    }
}

static void announce(struct arrivals *a) {
    struct vram *v = a->v;
    for (uint32_t l = 0; l < v->n_layers; l++) {
        if (!a->changed[l]) continue;
        a->changed[l] = 0;
        v->ops->set_slots(v->net, l, v->slot_of + (size_t)l * v->n_experts);
        for (uint32_t e = 0; e < v->n_experts; e++) {
            uint8_t *state = &a->state[(size_t)l * v->n_experts + e];
            if (*state != THERE) continue;
            *state = DONE;
            a->n_due--;
            experts_set_elsewhere(a->experts, l, e, true);
            if (a->moves) moves_set_there(a->moves, l, e);
        }
    }
}

enum err arrivals_settle(struct arrivals *a, struct reason *why) {
    announce(a);
    if (!a->failed) return ERR_NONE;
    const enum err e = a->failed;
    *why = a->why;
    a->failed = ERR_NONE;
    give_up(a, why);
    return e;
}

/* Between runs: runs rely on what is resident. The buffers are for others. */
static void end(struct arrivals *a) {
    if (a->n_due || !a->upload) return;
    upload_close(&a->upload);
    fetch_close(&a->fetch);
    a->v->all_resident = a->v->all_placed && !a->gave_up;
}

/* Take in what has come, and send for more. */
static void get_on(struct arrivals *a, bool wait) {
    struct reason why;
    uint32_t id, copied = 0;
    if (upload_step(a->upload, wait, &why)) {
        give_up(a, &why);
        return;
    }
    for (; upload_arrived(a->upload, false, &id); note(&a->counters.background)) has_come(a, id);
    while (copied < COPIES_A_STEP && (id = hottest(a)) != UINT32_MAX && start(a, id, &copied)) {}
    announce(a);
}

void arrivals_before_step(struct arrivals *a) {
    if (a->n_due) get_on(a, false);
    end(a);
}

bool arrivals_in_background(void *arrivals) {
    struct arrivals *a = arrivals;
    if (a->n_due) get_on(a, true);
    end(a);
    return a->n_due > 0;
}

/* ---- prompts ------------------------------------------------------------------------------------------------------- */

/* Launch what has come of what is wanted, and note the rest of what has come. How many of the wanted. */
static uint32_t launch_arrived(struct arrivals *a, const struct gpu_batch *b, uint32_t layer, uint8_t *wanted) {
    const struct vram *v = a->v;
    struct gpu_batch_expert come[BUFFERS];
    uint32_t id, n = 0;
    while (n < BUFFERS && upload_arrived(a->upload, true, &id)) {
        has_come(a, id);
        note(&a->counters.needed);
        const uint32_t expert = id % v->n_experts;
        if (id / v->n_experts != layer || !wanted[expert]) continue;
        wanted[expert] = 0;
        come[n++] = (struct gpu_batch_expert){expert, v->slots + (uint64_t)(v->slot_of[id] - 1) * ALIGN};
    }
    if (n) v->ops->batch_experts(v->net, b, layer, come, n);
    return n;
}

/* The wanted ones in the file's order, then the next layer's, which will nearly all be wanted soon: the drive is to go on while the
 * device computes. */
static void send_for(struct arrivals *a, uint32_t layer, const uint8_t *wanted) {
    const uint32_t n = a->v->n_experts, first = layer * n;
    for (uint32_t e = 0; e < n; e++)
        if (wanted[e] && a->state[first + e] == AHEAD && !start_from_file(a, first + e)) return;
    for (uint32_t e = n; e < 2 * n && first + e < n_ids(a); e++)
        if (a->state[first + e] == AHEAD && !start_from_file(a, first + e)) return;
}

void arrivals_bring(struct arrivals *a, const struct gpu_batch *b, uint32_t layer, uint8_t *wanted) {
    const uint64_t patience = a->v->patience_ns + fetch_patience_ns(a->fetch);
    uint64_t since = clock_ns();
    uint32_t left = 0;
    for (uint32_t e = 0; e < a->v->n_experts; e++) left += wanted[e] != 0;
    while (left && !a->failed) {
        send_for(a, layer, wanted);
        if ((a->failed = upload_step(a->upload, true, &a->why))) return;
        const uint32_t come = launch_arrived(a, b, layer, wanted);
        left -= come;
        if (come) since = clock_ns();
        else if (clock_ns() - since > patience) a->failed = fail(&a->why, ERR_IO, "experts do not come to the GPU any more");
    }
}
