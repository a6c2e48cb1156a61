/* The expert store during a run: where an expert lies, what the layer at hand needs, what the next one is expected to need.
 * experts_fill.c opens the store, fills it in the background and hands it over. A read's tag is its slot. */
#include "engine/experts.h"

#include <assert.h>
#include <string.h>

#include "engine/experts_private.h"

/* ---- geometry ------------------------------------------------------------------------------------------------------ */

/* The tensors a slot holds an expert's part of: matrices, each with its factors behind it where it has some. */
struct parts {
    const struct model_tensor *tensors[FETCH_EXTENTS];
    uint32_t n;
};

static struct parts parts_of(const struct model_layer *l) {
    const struct model_tensor *const matrices[EXPERT_MATRICES] = {l->gate, l->up, l->down};
    struct parts p = {.n = 0};
    for (int i = 0; i < EXPERT_MATRICES; i++) {
        if (!matrices[i]) continue;
        p.tensors[p.n++] = matrices[i];
        if (!matrices[i]->in_scale) continue;
        p.tensors[p.n++] = matrices[i]->in_scale;
        p.tensors[p.n++] = matrices[i]->out_scale;
    }
    return p;
}

static uint8_t *slot_memory(const struct experts *x, int32_t slot) {
    uint32_t c = 0;
    while (c + 1 < x->n_classes && (uint32_t)slot >= x->first_slot[c + 1]) c++;
    return (uint8_t *)x->pool[c] + ((uint32_t)slot - x->first_slot[c]) * x->slot_bytes[c];
}

/* Parts in the file's order, so that neighbours can be read together. */
static void sort_parts(const struct parts *p, const struct model_slice *at, uint32_t order[FETCH_EXTENTS]) {
    for (uint32_t i = 0; i < p->n; i++) {
        uint32_t to = i;
        for (; to > 0; to--) {
            const struct model_slice *a = &at[order[to - 1]], *b = &at[i];
            if (a->file < b->file || (a->file == b->file && a->offset <= b->offset)) break;
            order[to] = order[to - 1];
        }
        order[to] = i;
    }
}

/* An expert in its files and in a slot. */
struct layout {
    struct fetch_group group;
    const uint8_t *address[FETCH_EXTENTS]; /* of each part */
    uint64_t row_bytes[FETCH_EXTENTS];
    uint64_t bytes; /* of all parts */
};

/* Parts of experts that lie apart are neighbours as a rule, at most a page from each other: they are one read then, which takes no
 * more room than two. */
static struct layout lay_out(const struct experts *x, uint32_t layer, uint32_t expert, int32_t slot) {
    const struct parts p = parts_of(&x->m->layers[layer]);
    const bool apart = p.tensors[0]->slices != NULL;
    struct model_slice at[FETCH_EXTENTS];
    uint32_t order[FETCH_EXTENTS];
    struct layout l = {.group.tag = (uint64_t)slot};
    struct extent *last = NULL;
    uint8_t *to = slot_memory(x, slot);
    for (uint32_t i = 0; i < p.n; i++) at[order[i] = i] = model_slice_of(p.tensors[i], expert);
    if (apart) sort_parts(&p, at, order);
    for (uint32_t i = 0; i < p.n; i++) {
        const uint32_t part = order[i];
        const struct model_slice *s = &at[part];
        l.row_bytes[part] = model_slice_row_bytes(p.tensors[part], *s);
        const uint64_t bytes = l.row_bytes[part] * p.tensors[part]->ne[1], end = last ? last->offset + last->bytes : 0;
        if (apart && last && s->file == last->file && s->offset >= end && s->offset - end <= FETCH_ALIGN) {
            last->bytes = s->offset + bytes - last->offset;
        } else {
            if (last) to += fetch_room(last->bytes);
            last = &l.group.extents[l.group.n++];
            *last = (struct extent){s->file, s->offset, bytes, to};
        }
        l.address[part] = (uint8_t *)last->to + last->offset % FETCH_ALIGN + (s->offset - last->offset);
        l.bytes += bytes;
    }
    return l;
}

static struct expert_at address_of(const struct experts *x, uint32_t layer, uint32_t expert, int32_t slot) {
    const struct model_layer *from = &x->m->layers[layer];
    const struct model_tensor *const matrices[EXPERT_MATRICES] = {from->gate, from->up, from->down};
    const struct layout l = lay_out(x, layer, expert, slot);
    struct expert_at at = {0};
    for (uint32_t i = 0, part = 0; i < EXPERT_MATRICES; i++) {
        if (!matrices[i]) { /* merged: rows F..2F-1 of gate are up */
            at.matrix[i] = at.matrix[0] + from->gate->row_bytes * x->m->shape.n_ff;
            at.row_bytes[i] = at.row_bytes[0];
            continue;
        }
        at.row_bytes[i] = l.row_bytes[part];
        at.matrix[i] = l.address[part++];
        if (!matrices[i]->in_scale) continue;
        at.in_scale[i] = (const uint16_t *)l.address[part++];
        at.out_scale[i] = (const uint16_t *)l.address[part++];
    }
    return at;
}

/* ---- reads --------------------------------------------------------------------------------------------------------- */

/* Bind a slot and queue its read. False: no slot, or the drive has enough to do. */
static bool start_read(struct experts *x, uint32_t layer, uint32_t expert, enum cache_cause cause, enum read_kind kind, int32_t *slot) {
    if (fetch_free(x->fetch) == 0) return false;
    *slot = cache_take(x->cache, layer, expert, cause);
    if (*slot < 0) return false;
    x->slot_info[*slot] = (struct slot_info){.kind = kind, .untouched_ahead = kind == READ_AHEAD};
    const struct layout l = lay_out(x, layer, expert, *slot);
    fetch_start(x->fetch, &l.group);
    if (kind == READ_DEMAND) x->io.demand_bytes += l.bytes;
    if (kind == READ_AHEAD) x->io.ahead_bytes += l.bytes, x->io.ahead_reads++;
    if (kind == READ_FILL) x->io.fill_bytes += l.bytes;
    return true;
}

/* Only a read that this run asked for ends it: what was read ahead, in the background or for a run that was given up is asked
 * for again when needed. */
static void note_failure(struct experts *x, int32_t slot, const struct fetch_done *done) {
    if (x->slot_info[slot].kind == READ_FILL) {
        x->fill_failure = *done->why;
        if (++x->fill_failures == FILL_TRIES)
            log_line(&x->log, LOG_WARN, "%s; experts are read when they are needed from now on", done->why->text);
    }
    for (uint32_t i = 0; x->failed == ERR_NONE && i < x->n_needs; i++)
        if (x->needs[i].slot == slot && x->needs[i].state == NEED_LOADING && x->needs[i].asked) {
            x->failed = done->code;
            x->failure = *done->why;
        }
}

static void show_read(struct experts *x, int32_t slot, const struct fetch_done *done) {
    static const char *const names[] = {[READ_DEMAND] = "needed", [READ_AHEAD] = "ahead", [READ_FILL] = "background"};
    uint32_t layer, expert;
    if (x->timeline && !done->code && cache_content(x->cache, slot, &layer, &expert))
        timeline_add(x->timeline, TIMELINE_DRIVE, names[x->slot_info[slot].kind], layer, clock_ns() - done->ns);
}

/* ERR_CANCELLED ends a loan: the failure was noted when patience ran out, and whoever needs the expert now reads it again. */
static void landed(struct experts *x, const struct fetch_done *done) {
    const int32_t slot = (int32_t)done->tag;
    show_read(x, slot, done);
    if (done->code != ERR_NONE && done->code != ERR_CANCELLED) note_failure(x, slot, done);
    if (!done->lent) cache_landed(x->cache, slot, done->code == ERR_NONE); /* a lent slot stays taken until the second report */
}

unsigned experts_reap(struct experts *x, uint64_t timeout_ns) {
    struct fetch_done done[16];
    const unsigned n = fetch_poll(x->fetch, done, sizeof done / sizeof *done, timeout_ns);
    for (unsigned i = 0; i < n; i++) landed(x, &done[i]);
    return n;
}

/* One more expert for a free slot, if there is anything left to bring. */
bool experts_start_one_fill(struct experts *x) {
    uint32_t layer, expert;
    int32_t slot;
    if (x->fill_failures >= FILL_TRIES || !cache_next_fill(x->cache, &layer, &expert)) return false;
    return start_read(x, layer, expert, CACHE_FILL, READ_FILL, &slot);
}

/* ---- a layer ------------------------------------------------------------------------------------------------------- */

bool experts_looks_ahead(const struct experts *x) { return x->looking; }

/* Nothing more is read ahead for `layer`, and what was is kept no longer: what is needed of it has its own hold by now. */
static void release_expected(struct experts *x, uint32_t layer) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < x->n_held; i++) {
        if (x->held[i].layer == layer) cache_release(x->cache, x->held[i].slot);
        else x->held[kept++] = x->held[i];
    }
    x->n_held = kept;
    struct expectation *e = &x->next[layer % LOOK_LAYERS];
    if (e->layer == layer) e->n_expected = e->n_queue = e->sent = 0;
}

void experts_forget_expected(struct experts *x) {
    for (uint32_t l = 0; l < LOOK_LAYERS; l++) release_expected(x, x->next[l].layer);
    assert(x->n_held == 0);
}

/* How good the guess for this layer was. */
static void judge_expected(struct experts *x, uint32_t layer) {
    const struct expectation *e = &x->next[layer % LOOK_LAYERS];
    if (e->layer != layer || e->n_expected == 0) return;
    x->io.expected += e->n_expected;
    for (uint32_t i = 0; i < x->n_needs; i++) x->io.expected_right += e->expected[x->needs[i].expert];
}

static void note_need(struct experts *x, struct need *n, uint32_t layer) {
    n->slot = cache_find(x->cache, layer, n->expert);
    n->state = n->slot < 0 ? NEED_MISSING : NEED_LOADING;
    x->io.uses++;
    if (n->slot < 0) return;
    cache_hold(x->cache, n->slot);
    if (x->slot_info[n->slot].untouched_ahead) x->io.ahead_used++;
    x->slot_info[n->slot].untouched_ahead = false;
    if (!cache_is_ready(x->cache, n->slot)) return;
    n->state = NEED_READY;
    n->resident = true;
    x->io.hits++;
}

void experts_begin(struct experts *x, uint32_t layer, const struct expert_need *needs, uint32_t n_needs, const int32_t *chosen,
                   uint32_t n_tokens) {
    experts_reap(x, 0);
    x->layer = layer;
    x->passing = n_tokens > PASSING_TOKENS;
    if (x->passing) experts_touch_all(x);
    x->n_needs = n_needs;
    cache_use(x->cache, layer, chosen, n_tokens);
    for (uint32_t i = 0; i < n_needs; i++) {
        x->needs[i] = (struct need){.expert = needs[i].expert, .tokens = needs[i].tokens, .slot = -1};
        note_need(x, &x->needs[i], layer);
    }
    judge_expected(x, layer);
    release_expected(x, layer);
}

/* Needs that lost or never had a slot, as far as slots and the drive allow, in one submission. */
static void start_missing(struct experts *x) {
    for (uint32_t i = 0; i < x->n_needs; i++) {
        struct need *n = &x->needs[i];
        if (n->state == NEED_LOADING && cache_find(x->cache, x->layer, n->expert) != n->slot) { /* somebody else's read failed */
            cache_release(x->cache, n->slot);
            n->slot = -1;
            n->state = NEED_MISSING;
        }
        if (n->state != NEED_MISSING) continue;
        if (!start_read(x, x->layer, n->expert, x->passing ? CACHE_PASSING : CACHE_DEMAND, READ_DEMAND, &n->slot)) break;
        cache_hold(x->cache, n->slot);
        n->state = NEED_LOADING;
        n->asked = true;
    }
    fetch_send(x->fetch);
}

/* Is anything of this layer still to arrive? */
static bool outstanding(struct experts *x) {
    bool any = false;
    for (uint32_t i = 0; i < x->n_needs; i++) {
        struct need *n = &x->needs[i];
        if (n->state == NEED_LOADING && cache_is_ready(x->cache, n->slot)) n->state = NEED_READY;
        any |= n->state == NEED_LOADING || n->state == NEED_MISSING;
    }
    return any;
}

/* Room for one more read in advance? While decoding, few are under way at once, so that a demanded one waits for few. */
static bool may_read_ahead(const struct experts *x) {
    return x->passing ? fetch_free(x->fetch) > 0 : fetch_busy(x->fetch) < x->ahead_limit;
}

/* Send what is expected of a layer to come, as far as slots and the drive allow. */
static void read_ahead(struct experts *x, struct expectation *e) {
    for (int32_t slot; e->sent < e->n_queue && may_read_ahead(x); e->sent++) {
        const uint32_t expert = e->queue[e->sent];
        if (cache_find(x->cache, e->layer, expert) >= 0) continue;
        if (start_read(x, e->layer, expert, x->passing ? CACHE_PASSING : CACHE_AHEAD, READ_AHEAD, &slot)) {
            cache_hold(x->cache, slot);
            x->held[x->n_held++] = (struct ahead_hold){e->layer, slot};
        } else if (x->passing) {
            return; /* a slot comes free with the next wave */
        }
    }
}

/* While the layer's own reads are done: what the next layers probably need, then the background. */
static void use_idle_drive(struct experts *x) {
    bool all_sent = true;
    for (uint32_t l = x->layer + 1; l <= x->layer + LOOK_LAYERS; l++) {
        struct expectation *e = &x->next[l % LOOK_LAYERS];
        if (e->layer != l) continue;
        read_ahead(x, e);
        all_sent &= e->sent == e->n_queue;
    }
    if (!x->passing && all_sent && x->io.batches > 0 && fetch_busy(x->fetch) == 0) (void)experts_start_one_fill(x);
    fetch_send(x->fetch);
}

void experts_breathe(struct experts *x) {
    experts_reap(x, 0);
    if (!outstanding(x)) use_idle_drive(x);
}

/* Hand out ready experts: those that came for this layer first, so that their slots come free. */
static uint32_t hand_out(struct experts *x, uint32_t most_tokens, struct expert_at *out) {
    uint32_t n = 0, tokens = 0;
    for (int resident = 0; resident <= 1; resident++)
        for (uint32_t i = 0; i < x->n_needs && (n == 0 || tokens < most_tokens); i++) {
            struct need *need = &x->needs[i];
            if (need->state != NEED_READY || need->resident != (resident == 1)) continue;
            need->state = NEED_OUT;
            tokens += need->tokens;
            out[n] = address_of(x, x->layer, need->expert, need->slot);
            out[n++].need = i;
        }
    return n;
}

static void take_back(struct experts *x) {
    for (uint32_t i = 0; i < x->n_needs; i++)
        if (x->needs[i].state == NEED_OUT) {
            cache_release(x->cache, x->needs[i].slot);
            x->needs[i].state = NEED_DONE;
        }
}

/* Nothing can be computed before a read ends: may the run wait on? */
static enum err may_wait(const struct experts *x, uint64_t since_ns, bool (*should_stop)(void *ctx), void *ctx, struct reason *why) {
    if (should_stop && should_stop(ctx)) return fail(why, ERR_CANCELLED, "stopped while waiting for the drive");
    const uint64_t waited_ns = clock_ns() - since_ns;
    if (waited_ns <= x->patience_ns) return ERR_NONE;
    return fail(why, ERR_IO, "%s: the drive has not answered for %.1f s", x->m->files[x->m->layers[x->layer].gate->file].path,
                (double)waited_ns * 1e-9);
}

enum err experts_wave(struct experts *x, uint32_t most_tokens, bool (*should_stop)(void *ctx), void *ctx, struct expert_at *out,
                      uint32_t *n, bool *more, struct reason *why) {
    enum err e = ERR_NONE;
    uint64_t waiting_since = 0;
    take_back(x);
    for (;;) {
        experts_reap(x, 0);
        if ((e = x->failed) != ERR_NONE) {
            *why = x->failure;
            break;
        }
        start_missing(x);
        const bool waits = outstanding(x);
        const struct expectation *next = &x->next[(x->layer + 1) % LOOK_LAYERS];
        const bool limit = waits || (x->passing && next->sent < next->n_queue);
        *n = hand_out(x, limit ? most_tokens : UINT32_MAX, out);
        *more = waits;
        for (uint32_t i = 0; i < x->n_needs && !*more; i++) *more = x->needs[i].state == NEED_READY;
        if (*n || !*more) break;
        if (!waiting_since) waiting_since = clock_ns();
        if (fetch_busy(x->fetch) == 0) experts_forget_expected(x); /* nothing is to come: it has all the slots */
        if ((e = may_wait(x, waiting_since, should_stop, ctx, why))) break;
        experts_reap(x, WAIT_NS);
    }
    if (waiting_since) {
        x->io.wait_ns += clock_ns() - waiting_since;
        timeline_add(x->timeline, TIMELINE_CPU, "wait for the drive", x->layer, waiting_since);
    }
    return e;
}

void experts_end(struct experts *x) {
    for (uint32_t i = 0; i < x->n_needs; i++)
        if (x->needs[i].state != NEED_DONE && x->needs[i].slot >= 0) cache_release(x->cache, x->needs[i].slot);
    x->n_needs = 0;
    x->failed = ERR_NONE;
}

void experts_expect(struct experts *x, uint32_t layer, const int32_t *experts, uint32_t n) {
    struct expectation *e = &x->next[layer % LOOK_LAYERS];
    e->layer = layer;
    e->n_expected = n;
    e->n_queue = e->sent = 0;
    memset(e->expected, 0, x->m->shape.n_experts);
    const uint32_t believed = n <= x->m->shape.n_experts_used ? x->ahead_ranks : n;
    for (uint32_t i = 0; i < n; i++) {
        e->expected[experts[i]] = 1;
        if (i < believed && cache_find(x->cache, layer, (uint32_t)experts[i]) < 0) e->queue[e->n_queue++] = (uint32_t)experts[i];
    }
    cache_expect(x->cache, layer, experts, n);
}

/* ---- to and from VRAM ---------------------------------------------------------------------------------------------- */

uint32_t experts_slots(const struct experts *x, uint32_t layer) {
    const uint32_t c = x->layer_class[layer], end = c + 1 < x->n_classes ? x->first_slot[c + 1] : x->n_slots;
    return end - x->first_slot[c];
}

bool experts_has(const struct experts *x, uint32_t layer, uint32_t expert) {
    const int32_t slot = cache_find(x->cache, layer, expert);
    return slot >= 0 && cache_is_ready(x->cache, slot);
}

bool experts_borrow(struct experts *x, uint32_t layer, uint32_t expert, struct expert_at *out) {
    if (!experts_has(x, layer, expert)) return false;
    const int32_t slot = cache_find(x->cache, layer, expert);
    cache_hold(x->cache, slot);
    *out = address_of(x, layer, expert, slot);
    return true;
}

void experts_return(struct experts *x, uint32_t layer, uint32_t expert) { cache_release(x->cache, cache_find(x->cache, layer, expert)); }

void experts_set_elsewhere(struct experts *x, uint32_t layer, uint32_t expert, bool elsewhere) {
    const int32_t slot = cache_find(x->cache, layer, expert);
    cache_set_elsewhere(x->cache, layer, expert, elsewhere);
    if (elsewhere && slot >= 0) cache_drop(x->cache, slot);
}
