/* See faulty_stream.h. A slot is a request between submit and reap; the backend sees slot numbers as tags. */
#include "tests/support/faulty_stream.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REAP_BATCH = 64, POISON = 0xEE };

enum slot_state { SLOT_FREE, SLOT_HELD, SLOT_SENT };

struct slot {
    enum slot_state state;
    struct stream_read read;
    struct fault_rule fault;
    uint64_t due_ns, random;
};

struct wrapped {
    struct stream head;
    struct faulty *plan;
    struct stream *inner;
    struct slot *slots; /* [depth] */
    unsigned n_held;
};

/* ---- the plan --------------------------------------------------------------------------------------------------- */

void faulty_init(struct faulty *f, uint64_t seed) {
    *f = (struct faulty){.seed = seed};
    pthread_mutex_init(&f->lock, NULL);
}

void faulty_free(struct faulty *f) { pthread_mutex_destroy(&f->lock); }

void faulty_add(struct faulty *f, struct fault_rule rule) {
    pthread_mutex_lock(&f->lock);
    assert(f->n_rules < FAULTY_RULES);
    f->rules[f->n_rules++] = rule;
    pthread_mutex_unlock(&f->lock);
}

void faulty_clear(struct faulty *f) {
    pthread_mutex_lock(&f->lock);
    f->n_rules = f->n_sectors = 0;
    f->requests = f->faults = f->bytes = 0;
    pthread_mutex_unlock(&f->lock);
}

static uint64_t locked_get(struct faulty *f, const uint64_t *value) {
    pthread_mutex_lock(&f->lock);
    const uint64_t v = *value;
    pthread_mutex_unlock(&f->lock);
    return v;
}

uint64_t faulty_requests(struct faulty *f) { return locked_get(f, &f->requests); }
uint64_t faulty_faults(struct faulty *f) { return locked_get(f, &f->faults); }

/* The finishing steps of a common 64-bit hash: every input bit moves half of the output's. */
static uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 29)) * 0xD6E8FEB86659FD93u;
    return x ^ (x >> 32);
}

static bool strikes(const struct fault_rule *r, uint64_t number, uint64_t random) {
    if (number < r->from || (r->count && number - r->from >= r->count)) return false;
    return r->probability == 0 || (double)(random >> 11) * 0x1p-53 < r->probability;
}

/* What happens to the next request. */
static struct fault_rule decide(struct faulty *f, const struct stream_read *read, uint64_t *random) {
    struct fault_rule fault = {0};
    pthread_mutex_lock(&f->lock);
    const uint64_t number = f->requests++;
    f->bytes += read->bytes;
    for (unsigned i = 0; i < f->n_sectors && !fault.kind; i++) {
        const struct bad_sector *s = &f->sectors[i];
        if (read->offset < s->offset + s->bytes && s->offset < read->offset + read->bytes) fault = f->rules[s->rule];
    }
    for (unsigned i = 0; i < f->n_rules && !fault.kind; i++) {
        *random = mixed(f->seed + number * 0x9E3779B97F4A7C15u + i);
        if (!strikes(&f->rules[i], number, *random) || (f->rules[i].direct_only && read->file % 2)) continue;
        fault = f->rules[i];
        if (fault.bad_sector && f->n_sectors < FAULTY_SECTORS)
            f->sectors[f->n_sectors++] = (struct bad_sector){read->offset, read->bytes, i};
    }
    *random = mixed(*random + 1); /* whether and how long are independent */
    f->faults += fault.kind != FAULT_NONE;
    pthread_mutex_unlock(&f->lock);
    return fault;
}

/* ---- the stream ------------------------------------------------------------------------------------------------- */

static unsigned wrapped_submit(struct stream *s, const struct stream_read *reads, unsigned n) {
    struct wrapped *w = (struct wrapped *)s;
    struct stream_read through[REAP_BATCH];
    unsigned taken = 0, n_through = 0;
    for (unsigned i = 0; i < s->depth && taken < n; i++) {
        struct slot *slot = &w->slots[i];
        if (slot->state != SLOT_FREE) continue;
        slot->read = reads[taken++];
        slot->fault = decide(w->plan, &slot->read, &slot->random);
        const bool at_once = slot->fault.kind == FAULT_NONE || (slot->fault.kind == FAULT_SHORT && !slot->fault.delay_ns);
        slot->state = at_once ? SLOT_SENT : SLOT_HELD;
        slot->due_ns = slot->fault.delay_ns ? clock_ns() + slot->fault.delay_ns : 0;
        w->n_held += !at_once;
        if (!at_once) continue;
        through[n_through] = slot->read;
        through[n_through++].tag = i;
        if (n_through < REAP_BATCH && taken < n) continue;
        if (w->inner->ops->submit(w->inner, through, n_through) != n_through) abort(); /* it has as many places as we */
        n_through = 0;
    }
    if (n_through && w->inner->ops->submit(w->inner, through, n_through) != n_through) abort();
    return taken;
}

/* Held requests whose time has come: faults to `out`, late reads to the backend. *next_ns: when the next one is due. */
static unsigned release_due(struct wrapped *w, struct stream_result *out, unsigned max, uint64_t *next_ns) {
    const uint64_t now = clock_ns();
    unsigned n = 0;
    *next_ns = UINT64_MAX;
    for (unsigned i = 0; i < w->head.depth && w->n_held; i++) {
        struct slot *slot = &w->slots[i];
        if (slot->state != SLOT_HELD) continue;
        if (slot->due_ns > now || n == max) {
            const uint64_t due_ns = slot->due_ns > now ? slot->due_ns : now;
            if (due_ns < *next_ns) *next_ns = due_ns;
            continue;
        }
        w->n_held--;
        if (slot->fault.kind == FAULT_DELAY || slot->fault.kind == FAULT_SHORT) {
            struct stream_read late = slot->read;
            late.tag = i;
            slot->state = SLOT_SENT;
            if (w->inner->ops->submit(w->inner, &late, 1) != 1) abort();
            continue;
        }
        memset(slot->read.to, POISON, slot->read.bytes < 4096 ? slot->read.bytes : 4096);
        slot->state = SLOT_FREE;
        out[n++] = (struct stream_result){slot->read.tag, slot->fault.kind == FAULT_END ? 0 : -slot->fault.error};
    }
    return n;
}

static unsigned take_inner(struct wrapped *w, struct stream_result *out, unsigned max, uint64_t timeout_ns) {
    const unsigned n = w->inner->ops->reap(w->inner, out, max, timeout_ns);
    for (unsigned i = 0; i < n; i++) {
        struct slot *slot = &w->slots[out[i].tag];
        out[i].tag = slot->read.tag;
        slot->state = SLOT_FREE;
        if (slot->fault.kind != FAULT_SHORT || out[i].got <= 1) continue;
        const uint64_t got = (uint64_t)out[i].got;
        uint64_t left = slot->fault.bytes ? slot->fault.bytes : 1 + slot->random % (got - 1);
        if (left > got) left = got;
        memset((uint8_t *)slot->read.to + left, POISON, got - left);
        out[i].got = (int64_t)left;
    }
    return n;
}

static unsigned wrapped_reap(struct stream *s, struct stream_result *out, unsigned max, uint64_t timeout_ns) {
    struct wrapped *w = (struct wrapped *)s;
    const uint64_t begin = clock_ns();
    for (;;) {
        uint64_t next_ns;
        unsigned n = release_due(w, out, max, &next_ns);
        n += take_inner(w, out + n, max - n, 0);
        const uint64_t now = clock_ns();
        if (n || now - begin >= timeout_ns) return n;
        uint64_t wait_ns = timeout_ns - (now - begin);
        const uint64_t until_ns = next_ns > now ? next_ns - now : 1;
        if (until_ns < wait_ns) wait_ns = until_ns;
        const uint64_t before = clock_ns();
        n = take_inner(w, out, max, wait_ns);
        if (n) return n;
        if (clock_ns() - before >= wait_ns) continue;
        if (!w->n_held) return 0; /* nothing in flight at all */
        const struct timespec nap = {(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
        nanosleep(&nap, NULL);
    }
}

static void wrapped_close(struct stream *s) {
    struct wrapped *w = (struct wrapped *)s;
    w->inner->ops->close(w->inner); /* held requests never began */
    free(w->slots);
    free(w);
}

static const struct stream_ops wrapped_ops = {"faulty", wrapped_submit, wrapped_reap, wrapped_close};

struct stream *faulty_wrap(void *ctx, struct stream *inner) {
    struct wrapped *w = calloc(1, sizeof *w);
    struct slot *slots = calloc(inner->depth, sizeof *slots);
    if (!w || !slots) {
        free(w);
        free(slots);
        inner->ops->close(inner);
        return NULL;
    }
    *w = (struct wrapped){{&wrapped_ops, inner->depth}, ctx, inner, slots, 0};
    return &w->head;
}
