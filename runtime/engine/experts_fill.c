/* Opening the store, filling it while nothing runs, and handing it from one owner to the next.
 *
 * `mutex` guards only who owns the store (in_run, wanted, filling); everything else belongs to the owner, so that a run takes
 * no lock between experts_enter() and experts_leave(). Reads in flight at a hand-over stay in flight and are reaped by the next
 * owner. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/experts.h"
#include "engine/experts_private.h"

enum {
    LOOK_WINDOW = 16,  /* tokens over which looking ahead is judged */
    LOOK_REST = 256    /* tokens it stays off after most of it was in vain */
};
#define IDLE_NS 20000000ull        /* a run that ended is likely to be followed by the next token's: wait before filling */
#define REPORT_NS 100000000ull

/* Signals are for the program's own threads: a handler that ran here would interrupt nobody's reading from the terminal. */
static int start_thread(pthread_t *thread, void *(*run)(void *ctx), void *ctx) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(thread, NULL, run, ctx);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

/* A class whose experts are all in VRAM has none planned; one is within the slack, and spares everybody the case. */
static uint32_t class_slots(const struct plan *p, uint32_t c) { return p->classes[c].slots ? p->classes[c].slots : 1; }

static enum err take_memory(struct experts *x, const struct plan *p, struct reason *why) {
    for (uint32_t c = 0; c < p->n_classes; c++) {
        const uint64_t slots = class_slots(p, c), each = p->classes[c].slot_bytes;
        uint64_t bytes;
        x->first_slot[c] = x->n_slots;
        x->slot_bytes[c] = each;
        if (slots > INT32_MAX - x->n_slots || !size_mul(slots, each, &bytes))
            return fail(why, ERR_LIMIT, "%llu slots of %llu bytes for experts", (unsigned long long)slots, (unsigned long long)each);
        TRY(pages_alloc(bytes, &x->pool[c], why));
        x->pool_bytes[c] = bytes;
        x->n_slots += (uint32_t)slots;
        x->n_classes++;
    }
    x->slot_info = calloc_checked(x->n_slots, sizeof *x->slot_info);
    return x->slot_info ? ERR_NONE : fail(why, ERR_NO_MEMORY, "no memory for %u slots", x->n_slots);
}

static enum err take_tables(struct experts *x, struct reason *why) {
    const uint32_t layers = x->m->shape.n_layers, experts = x->m->shape.n_experts;
    x->slot_bytes = calloc_checked(layers, sizeof *x->slot_bytes);
    x->layer_class = calloc_checked(layers, sizeof *x->layer_class);
    x->first_slot = calloc_checked(layers, sizeof *x->first_slot);
    x->pool = calloc_checked(layers, sizeof *x->pool);
    x->pool_bytes = calloc_checked(layers, sizeof *x->pool_bytes);
    x->needs = calloc_checked(experts, sizeof *x->needs);
    x->held = calloc_checked((uint64_t)experts * MOST_EXPECTED, sizeof *x->held);
    bool ok = true;
    for (uint32_t l = 0; l < LOOK_LAYERS; l++) {
        x->next[l].layer = l;
        x->next[l].expected = calloc_checked(experts, sizeof *x->next[l].expected);
        x->next[l].queue = calloc_checked(experts, sizeof *x->next[l].queue);
        ok &= x->next[l].expected && x->next[l].queue;
    }
    if (!x->slot_bytes || !x->layer_class || !x->first_slot || !x->pool || !x->pool_bytes || !x->needs ||
        !x->held || !ok)
        return fail(why, ERR_NO_MEMORY, "no memory for the expert tables");
    return ERR_NONE;
}

static enum err open_parts(struct experts *x, const struct experts_options *o, struct reason *why) {
    TRY(take_tables(x, why));
    uint32_t slots[PLAN_MAX_CLASSES];
    for (uint32_t c = 0; c < o->plan->n_classes; c++) slots[c] = class_slots(o->plan, c);
    for (uint32_t l = 0; l < x->m->shape.n_layers; l++) x->layer_class[l] = o->plan->layers[l].class;
    TRY(take_memory(x, o->plan, why));
    const struct cache_options cache = {.n_layers = x->m->shape.n_layers, .n_experts = x->m->shape.n_experts,
                                        .n_used = x->m->shape.n_experts_used, .n_classes = x->n_classes,
                                        .layer_class = x->layer_class, .slots = slots, .prior = o->prior};
    return cache_open(&cache, &x->cache, why);
}

/* Bytes [from, to) of each class's pool. False: enough. */
static bool touch(struct experts *x, uint64_t from, uint64_t to) {
    enum { STEP = 8 << 20 };
    bool more = true;
    for (uint64_t at = from; more && at < to; at += STEP) {
        more = false;
        for (uint32_t c = 0; c < x->n_classes && !atomic_load(&x->touched_enough); c++) {
            const uint64_t end = to < x->pool_bytes[c] ? to : x->pool_bytes[c];
            if (at < end) more |= madvise((uint8_t *)x->pool[c] + at, end - at < STEP ? end - at : STEP, MADV_POPULATE_WRITE) == 0;
        }
    }
    return !atomic_load(&x->touched_enough);
}

/* Fresh memory is cleared by whoever writes to it first, which for a slot is the thread that sends its read: workers and drive
 * would wait for as much clearing as reading, and longer where a virtual machine's host has to find the memory. Clear the slots that a
 * first token will take (free ones are dealt out from the lowest) while the dense part is being read, and the others when
 * somebody is about to need them: beside the first token they would be in its way. Slots count against the budget whether touched or not. */
static void *touch_slots(void *ctx) {
    struct experts *x = ctx;
    const uint64_t first = (uint64_t)x->m->shape.n_layers * x->m->shape.n_experts_used / x->n_classes;
    uint64_t first_bytes = 0;
    for (uint32_t c = 0; c < x->n_classes; c++)
        if (first * x->slot_bytes[c] > first_bytes) first_bytes = first * x->slot_bytes[c];
    if (!touch(x, 0, first_bytes)) return NULL;
    pthread_mutex_lock(&x->mutex);
    while (!x->touch_all && !x->closing) pthread_cond_wait(&x->changed, &x->mutex);
    const bool go_on = !x->closing;
    pthread_mutex_unlock(&x->mutex);
    if (go_on) (void)touch(x, first_bytes, UINT64_MAX);
    return NULL;
}

void experts_touch_all(struct experts *x) {
    if (x->touch_all) return; /* set by the store's owner only */
    pthread_mutex_lock(&x->mutex);
    x->touch_all = true;
    pthread_cond_broadcast(&x->changed);
    pthread_mutex_unlock(&x->mutex);
}

static void stop_touching(struct experts *x) {
    if (!x->has_toucher) return;
    x->has_toucher = false;
    atomic_store(&x->touched_enough, true);
    pthread_join(x->toucher, NULL);
}

enum err experts_open(const struct experts_options *o, struct experts **out, struct reason *why) {
    *out = NULL;
    struct experts *x = calloc_checked(1, sizeof *x);
    if (!x) return fail(why, ERR_NO_MEMORY, "no memory for the expert store");
    x->m = o->model;
    x->fetch = o->fetch;
    x->log = o->log;
    x->timeline = o->timeline;
    x->patience_ns = fetch_patience_ns(o->fetch) + fetch_patience_ns(o->fetch) / 2;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&x->mutex, NULL);
    pthread_cond_init(&x->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    const enum err e = open_parts(x, o, why);
    if (!e) {
        x->io.slots = x->n_slots;
        x->io.experts = x->m->shape.n_layers * x->m->shape.n_experts;
        x->look_ahead = o->look_ahead && x->io.slots < x->io.experts;
        x->ahead_limit = AHEAD_BUSY; /* a cold start */
        x->ahead_ranks = (x->m->shape.n_experts_used + 1) / 2;
        x->has_toucher = start_thread(&x->toucher, touch_slots, x) == 0; /* without it things are slower, not wrong */
    } else {
        experts_close(&x);
    }
    *out = x;
    return e;
}

/* Destinations of reads in flight are freed here: they have to end first. */
static void drain(struct experts *x) {
    while (x->cache && fetch_busy(x->fetch)) (void)experts_reap(x, WAIT_NS);
}

void experts_stop_fill(struct experts *x) {
    pthread_mutex_lock(&x->mutex);
    x->closing = true;
    pthread_cond_broadcast(&x->changed);
    pthread_mutex_unlock(&x->mutex);
    if (x->has_filler) pthread_join(x->filler, NULL);
    x->has_filler = false;
}

void experts_fill_after(struct experts *x, bool (*get_on)(void *ctx), void *ctx) {
    x->first = get_on;
    x->first_ctx = ctx;
}

void experts_close(struct experts **experts) {
    struct experts *x = *experts;
    if (!x) return;
    *experts = NULL;
    experts_stop_fill(x);
    stop_touching(x);
    drain(x);
    for (uint32_t c = 0; c < x->n_classes && x->pool; c++) pages_free(x->pool[c], x->pool_bytes[c]);
    cache_close(&x->cache);
    pthread_mutex_destroy(&x->mutex);
    pthread_cond_destroy(&x->changed);
    free(x->slot_bytes);
    free(x->layer_class);
    free(x->first_slot);
    free(x->pool);
    free(x->pool_bytes);
    free(x->slot_info);
    free(x->needs);
    free(x->held);
    for (uint32_t l = 0; l < LOOK_LAYERS; l++) {
        free(x->next[l].expected);
        free(x->next[l].queue);
    }
    free(x);
}

void experts_leave_out(struct experts *x, const uint32_t *slot_of) {
    const uint32_t n = x->m->shape.n_experts;
    for (uint32_t l = 0; l < x->m->shape.n_layers; l++)
        for (uint32_t e = 0; e < n; e++) cache_set_elsewhere(x->cache, l, e, slot_of[(size_t)l * n + e] != 0);
}

uint64_t experts_bytes(const struct experts *x) {
    uint64_t bytes = 0;
    for (uint32_t c = 0; c < x->n_classes; c++) bytes += x->pool_bytes[c];
    return bytes;
}

/* ---- filling ------------------------------------------------------------------------------------------------------- */

/* Keep the drive busy once. False: nothing left to bring and nothing in flight. One expert at a time: the kernel may have to clear its
 * slot's pages as the read is sent, milliseconds in which a run or the program's end would have to wait. */
static bool fill_some(struct experts *x) {
    const bool started = fetch_busy(x->fetch) < FILL_READS && experts_start_one_fill(x);
    if (fetch_busy(x->fetch) == 0) return false;
    (void)experts_reap(x, started ? 0 : WAIT_NS);
    return true;
}

enum err experts_fill(struct experts *x, bool (*on_load)(void *ctx, uint64_t done_bytes), void *ctx, struct reason *why) {
    uint64_t reported = 0;
    experts_touch_all(x);
    for (bool more = true; more;) {
        more = fill_some(x);
        if (x->fill_failures) {
            drain(x);
            x->fill_failures = 0;
            return *why = x->fill_failure, ERR_IO;
        }
        const uint64_t now = clock_ns();
        if (!on_load || (more && now - reported < REPORT_NS)) continue;
        reported = now;
        if (on_load(ctx, x->io.fill_bytes)) {
            drain(x);
            return fail(why, ERR_CANCELLED, "loading was cancelled");
        }
    }
    return ERR_NONE;
}

static struct timespec after(uint64_t ns) {
    const uint64_t at = clock_ns() + ns;
    return (struct timespec){.tv_sec = (time_t)(at / 1000000000), .tv_nsec = (long)(at % 1000000000)};
}

/* Wait, with the mutex held, until nothing has run for a moment. False: closing. */
static bool wait_for_idle(struct experts *x) {
    for (;;) {
        while (!x->closing && (x->in_run || x->wanted)) pthread_cond_wait(&x->changed, &x->mutex);
        const struct timespec quiet = after(IDLE_NS);
        int rc = 0;
        while (!x->closing && !x->in_run && !x->wanted && rc != ETIMEDOUT) rc = pthread_cond_timedwait(&x->changed, &x->mutex, &quiet);
        if (x->closing) return false;
        if (!x->in_run && !x->wanted) return true;
    }
}

static void *fill_in_background(void *ctx) {
    struct experts *x = ctx;
    pthread_mutex_lock(&x->mutex);
    for (bool more = true; more && wait_for_idle(x);) {
        x->filling = true;
        while (more && !x->wanted && !x->closing) {
            pthread_mutex_unlock(&x->mutex);
            more = (x->first && x->first(x->first_ctx)) || fill_some(x);
            pthread_mutex_lock(&x->mutex);
        }
        x->filling = false;
        pthread_cond_broadcast(&x->changed);
    }
    pthread_mutex_unlock(&x->mutex);
    return NULL;
}

enum err experts_start_fill(struct experts *x, struct reason *why) {
    const int rc = start_thread(&x->filler, fill_in_background, x);
    if (rc) return fail(why, ERR_NO_MEMORY, "the background thread could not start: %s", strerror(rc));
    x->has_filler = true;
    return ERR_NONE;
}

/* ---- hand-over ----------------------------------------------------------------------------------------------------- */

/* The likelier half of a token's expected experts is nearly always right, the last ones are hardly better than a coin
 * (measured with router skew 0.5: 99 % of what was read is used with 4 of 8, 98 % with 5, 95 % with 6, 85 % with all): the less
 * time the drive has, the fewer are believed. */
static void steer_look_ahead(struct experts *x, double busy) {
    const uint32_t most = x->m->shape.n_experts_used, least = (most + 1) / 2;
    if (busy > 0.9 && x->ahead_ranks > least) x->ahead_ranks--;
    if (busy < 0.8 && x->ahead_ranks < most) x->ahead_ranks++;
    x->ahead_limit = x->ahead_ranks == most && busy < 0.6 ? AHEAD_IDLE : AHEAD_BUSY;
}

/* After each window: how busy was the drive, and was what it read in advance used? */
static void judge_look_ahead(struct experts *x, uint32_t tokens) {
    if (!x->look_ahead || x->passing) return;
    struct fetch_counters read;
    fetch_count(x->fetch, &read);
    const uint64_t now = clock_ns();
    if (x->window_tokens == 0) {
        x->window_start = x->io;
        x->window_start_ns = now;
        x->window_busy_ns = read.busy_ns;
    }
    x->window_tokens += tokens;
    x->rest_tokens -= tokens < x->rest_tokens ? tokens : x->rest_tokens;
    if (x->window_tokens <= LOOK_WINDOW) return;
    const uint64_t reads = x->io.ahead_reads - x->window_start.ahead_reads, used = x->io.ahead_used - x->window_start.ahead_used;
    if (reads >= LOOK_WINDOW && 2 * used < reads) x->rest_tokens = LOOK_REST;
    steer_look_ahead(x, (double)(read.busy_ns - x->window_busy_ns) / (double)(now - x->window_start_ns));
    x->window_tokens = 0;
}

static void give_back(struct experts *x, uint32_t tokens_done) {
    experts_forget_expected(x);
    cache_advance(x->cache, tokens_done); /* 0: the batch was given up */
    if (tokens_done) {
        experts_touch_all(x);
        x->io.tokens += tokens_done;
        x->io.batches++;
        judge_look_ahead(x, tokens_done);
    }
    pthread_mutex_lock(&x->mutex);
    x->in_run = false;
    pthread_cond_broadcast(&x->changed);
    pthread_mutex_unlock(&x->mutex);
}

enum err experts_enter(struct experts *x, struct reason *why) {
    pthread_mutex_lock(&x->mutex);
    x->wanted = true;
    while (x->filling) pthread_cond_wait(&x->changed, &x->mutex); /* ends with the thread's next read */
    x->wanted = false;
    x->in_run = true;
    pthread_mutex_unlock(&x->mutex);
    const enum err e = fetch_check_files(x->fetch, why);
    x->looking = x->look_ahead && x->rest_tokens == 0;
    if (e) give_back(x, 0);
    return e;
}

/* What is changed in a file gets its new time before its new bytes: of files found unchanged now, no read since the last look
 * can have brought anything else. */
enum err experts_leave(struct experts *x, uint32_t tokens_done, struct reason *why) {
    const enum err e = tokens_done ? fetch_check_files(x->fetch, why) : ERR_NONE;
    give_back(x, e ? 0 : tokens_done);
    return e;
}

/* Briefly the owner, so that the numbers fit together. */
void experts_count(struct experts *x, struct engine_io *out) {
    struct fetch_counters read;
    pthread_mutex_lock(&x->mutex);
    x->wanted = true;
    while (x->filling) pthread_cond_wait(&x->changed, &x->mutex);
    x->wanted = false;
    fetch_count(x->fetch, &read);
    *out = x->io;
    for (uint32_t slot = 0; slot < x->n_slots; slot++) out->resident += cache_is_ready(x->cache, (int32_t)slot);
    out->busy_ns = read.busy_ns;
    out->retries = read.retries;
    out->look_ahead_on = x->look_ahead && x->rest_tokens == 0;
    out->backend = fetch_backend(x->fetch);
    pthread_cond_broadcast(&x->changed);
    pthread_mutex_unlock(&x->mutex);
}
