/* A forward pass on the device. Steps of a few tokens are one launch, during which the worker pool answers the device's mails:
 * experts without a slot, attention of layers whose KV cache is in RAM, halves of layers that the device has not at all. Prompts go
 * layer by layer in up to two lanes, so that the CPU computes one lane's experts while the device is at the other's attention.
 *
 * Which experts are computed where changes sums by rounding only; what the device computes itself is bit for bit the same. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/step.h"

enum {
    SPINS = 2048,         /* looks at the flags between two looks at the clock */
    CHECK_NAPS = 64,      /* looks at the clock between two questions to the driver */
    TWO_LANES_TOKENS = 64 /* a prompt's batch from that length on is cut in two */
};
#define NAP_NS 20000 /* while no mail can come */

/* The choices of n tokens [n][n_used], to whoever learns from them. The watcher gets copies: the device has gone on with its own,
 * nothing can be replaced. */
static void note_routes(const struct graph *g, uint32_t layer, uint64_t first, const int32_t *experts, uint32_t n) {
    const uint32_t used = g->net->shape->n_experts_used;
    int32_t copy[GPU_MAX_USED];
    if (g->moves) moves_use(g->moves, layer, experts, n);
    if (g->arrivals) arrivals_use(g->arrivals, layer, experts, n);
    for (uint32_t t = 0; t < n && g->hook.on_experts; t++) {
        memcpy(copy, experts + (size_t)t * used, used * sizeof *copy);
        g->hook.on_experts(g->hook.ctx, layer, first + t, false, copy);
    }
}

/* ---- mails ---------------------------------------------------------------------------------------------------------- */

enum serving_act { SERVE_EXPERTS, SERVE_ATTENTION, SERVE_HALVES, SERVE_END };
static const char *const act_names[] = {"missing experts", "attention", "layers"};

struct serving {
    struct graph *g;
    uint32_t step;     /* the result with this number ends it */
    uint32_t answered; /* number of the last mail */
    enum serving_act act;
    uint64_t seen_ns;  /* the mail at hand, and its layer */
    uint32_t layer;
    const uint32_t *ended; /* atomic; of an emulated device: not 0: its step runs no more */
    bool hung;         /* the device did not answer in time */
    bool lost;         /* it failed, and no result will come */
    bool go;           /* nothing has failed: as of the last meeting, while worker 0 may be on to the next failure */
    uint32_t n_later;  /* experts of a mail about one token that are computed after its answer, for the next one (graph_defer()) */
    int32_t later_expert[GPU_MAX_USED];
    float later_share[GPU_MAX_USED];
};

static bool reached(uint32_t flag, uint32_t wanted) { return (int32_t)(flag - wanted) >= 0; }
static uint32_t look(const volatile uint32_t *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }

static enum serving_act act_of(uint32_t kind) {
    return kind == GPU_MAIL_HALVES ? SERVE_HALVES : kind == GPU_MAIL_ATTENTION ? SERVE_ATTENTION : SERVE_EXPERTS;
}

/* Will no word come any more? Its first error is the device's to tell. An emulated one answers no questions while it computes. */
static bool has_failed(const struct serving *s) {
    struct vram *v = s->g->vram;
    struct reason ignored;
    if (v->emulated) return look(s->ended) && !reached(look(&v->shared->result->number), s->step);
    return v->ops->check(v->gpu, &ignored) != ERR_NONE;
}

/* Worker 0: the device's next word. */
static void await_word(struct serving *s) {
    const struct vram *v = s->g->vram;
    struct patience patience = patience_of(v->patience_ns);
    s->act = SERVE_END;
    for (unsigned spins = 1, naps = 1;; spins++) {
        if (reached(look(&v->shared->mail->number), s->answered + 1)) {
            s->seen_ns = clock_ns();
            s->layer = v->shared->mail->layer;
            s->act = act_of(v->shared->mail->kind);
            return;
        }
        if (reached(look(&v->shared->result->number), s->step)) break;
        if (s->g->moves && moves_stage(s->g->moves)) continue;
        __builtin_ia32_pause();
        if (spins % SPINS) continue;
        if (v->all_resident && !v->kv_on_host && !v->host_halves) nanosleep(&(struct timespec){0, NAP_NS}, NULL);
        s->lost = naps++ % CHECK_NAPS == 0 && has_failed(s);
        s->hung = !s->lost && patience_ends(&patience);
        if (s->lost || s->hung) break;
    }
}

/* Experts of a mail's token beyond its first `now` are kept for later, when the mail is gone. Worker 0. */
static void keep_later(struct serving *sv, const struct gpu_mail *mail, uint32_t now) {
    sv->n_later = mail->n_missing[0] - now;
    for (uint32_t i = 0; i < sv->n_later; i++) {
        sv->later_expert[i] = mail->expert[0][now + i];
        sv->later_share[i] = mail->weight[0][now + i];
    }
}

/* The mail's tokens, experts and vectors become the graph's own; all workers. */
static void take_experts(struct step *s, struct serving *sv, const struct gpu_mail *mail) {
    struct graph *g = s->g;
    const uint32_t used = g->net->shape->n_experts_used, n = g->batch->n;
    const size_t e = g->in.k;
    if (s->me->index == 0) sv->go = !g->failed;
    for (uint32_t t = s->me->index; t < n; t += s->me->count) {
        const uint32_t all = t < mail->n_tokens ? mail->n_missing[t] : 0, missing = all - step_defers(g, mail->layer, all);
        if (t == 0) keep_later(sv, mail, missing);
        for (uint32_t r = 0; r < used; r++) {
            g->expert[t * used + r] = r < missing ? mail->expert[t][r] : -1;
            g->share[t * used + r] = r < missing ? mail->weight[t][r] : 0;
        }
        memcpy((float *)g->in.f32 + t * e, g->vram->shared->mail_input + t * e, e * sizeof(float));
        if (g->net->layers[mail->layer].int8_ffn_in) g->ops->quantize(&g->in, t, t + 1);
        memset(g->vram->shared->answer_values + t * e, 0, e * sizeof(float));
    }
    step_end(s);
}

static void serve_experts(struct step *s, struct serving *sv) {
    struct graph *g = s->g;
    const struct gpu_mail *mail = g->vram->shared->mail;
    const uint32_t layer = mail->layer;
    float *sums = g->vram->shared->answer_values;
    take_experts(s, sv, mail);
    if (sv->go) (void)experts_given(s, layer, sums);
    if (s->me->index == 0) { /* whose sums are the one token's */
        if (g->owed) g->ops->axpy(1, g->deferred, g->in.k, sums);
        g->owed = false;
        sv->go = !g->failed;
    }
    step_end(s);
}

/* After the answer, while the device is at the next layer's attention. The normed vectors are still here. */
static void serve_later(struct step *s, const struct serving *sv) {
    struct graph *g = s->g;
    const uint64_t since = timeline_now(g->timeline);
    if (s->me->index == 0) {
        for (uint32_t r = 0; r < g->net->shape->n_experts_used; r++) {
            g->expert[r] = r < sv->n_later ? sv->later_expert[r] : -1;
            g->share[r] = r < sv->n_later ? sv->later_share[r] : 0;
        }
        memset(g->deferred, 0, g->in.k * sizeof *g->deferred);
        g->owed = true;
        g->n_deferred += sv->n_later;
    }
    (void)experts_given(s, sv->layer, g->deferred);
    if (s->me->index == 0) timeline_add(g->timeline, TIMELINE_CPU, "deferred experts", sv->layer, since);
}

/* One row is q, k, v of a token. */
static void take_qkv(struct step *s, const float *rows, uint32_t n) {
    struct graph *g = s->g;
    const struct model_shape *shape = g->net->shape;
    const size_t qw = (size_t)shape->n_heads * shape->head_dim, kw = (size_t)shape->n_kv_heads * shape->head_dim;
    for (uint32_t t = s->me->index; t < n; t += s->me->count) {
        const float *row = rows + t * (qw + 2 * kw);
        memcpy(g->q + t * qw, row, qw * sizeof *row);
        memcpy(g->k + t * kw, row + qw, kw * sizeof *row);
        memcpy(g->v + t * kw, row + qw + kw, kw * sizeof *row);
    }
    step_end(s);
}

/* Attention over the cache in RAM for q, k, v of the device; to [n][Hq*Dh]. */
static void attend_for_device(struct step *s, uint32_t layer, const float *rows, float *to) {
    struct graph *g = s->g;
    const uint32_t n = g->batch->n;
    const size_t width = g->attended.k;
    take_qkv(s, rows, n);
    attention_cpu(s, layer);
    for (uint32_t t = s->me->index; t < n; t += s->me->count) memcpy(to + t * width, g->attended.f32 + t * width, width * sizeof *to);
    step_end(s);
}

/* One half of a layer for the graph's batch; false: g->failed says why. */
static bool half_by_host(struct step *s, uint32_t half) {
    if (half % 2) return experts_half(s, half / 2);
    attention_half(s, half / 2);
    return true;
}

/* The first half that a mail about halves of a layer asks for, and all that follow up to the device's next. The rows of tokens are
 * copied by the workers that compute them (step.h). */
static void serve_halves(struct step *s) {
    struct graph *g = s->g;
    const struct vram *v = g->vram;
    const uint32_t n = g->batch->n, layer = v->shared->mail->layer, all = 2 * v->n_layers, used = g->net->shape->n_experts_used;
    const size_t e = g->in.k;
    bool ok = !g->failed;
    for (uint32_t t = s->me->index; t < n; t += s->me->count) memcpy(g->x + t * e, v->shared->mail_input + t * e, e * sizeof(float));
    for (uint32_t half = 2 * layer + !vram_on_host(v, 2 * layer); ok && half < all && vram_on_host(v, half); half++) {
        ok = half_by_host(s, half);
        if (ok && half % 2 && s->me->index == 0)
            memcpy(v->shared->routes + (size_t)(half / 2) * GPU_STEP_TOKENS * used, g->expert, (size_t)n * used * sizeof *g->expert);
    }
    for (uint32_t t = s->me->index; t < n; t += s->me->count) memcpy(v->shared->answer_values + t * e, g->x + t * e, e * sizeof(float));
    step_end(s);
}

/* Worker 0: the mail at hand is dealt with. */
static void answer(struct serving *sv) {
    struct graph *g = sv->g;
    struct gpu_answer *to = g->vram->shared->answer;
    to->failed = g->failed != ERR_NONE;
    sv->answered++;
    __atomic_store_n(&to->number, sv->answered, __ATOMIC_RELEASE);
    g->mails.mails++;
    g->mails.ns += clock_ns() - sv->seen_ns;
    timeline_add(g->timeline, TIMELINE_CPU, act_names[sv->act], sv->layer, sv->seen_ns);
}

static void serve(const struct worker *me, void *ctx) {
    struct serving *sv = ctx;
    struct graph *g = sv->g;
    struct step s = {g, me, 0};
    rope_tables(&s);
    for (;;) {
        if (me->index == 0) await_word(sv);
        step_end(&s);
        const enum serving_act act = sv->act; /* at the end of this turn worker 0 may be at the next word already */
        if (act == SERVE_END) return;
        if (act == SERVE_EXPERTS) serve_experts(&s, sv);
        else if (act == SERVE_HALVES) serve_halves(&s);
        else attend_for_device(&s, g->vram->shared->mail->layer, g->vram->shared->mail_input, g->vram->shared->answer_values);
        if (me->index == 0) answer(sv);
        if (act == SERVE_EXPERTS && sv->go && sv->n_later) serve_later(&s, sv);
    }
}

/* ---- steps ---------------------------------------------------------------------------------------------------------- */

struct launch {
    struct vram *v;
    struct timeline *timeline;
    uint32_t tokens;
    uint32_t ended; /* atomic */
    enum err code;
    struct reason why;
};

static void *launch_step(void *ctx) {
    struct launch *l = ctx;
    const uint32_t span = timeline_device(l->timeline, GPU_COMPUTE, TIMELINE_LANE, "step", TIMELINE_NO_LAYER);
    l->code = l->v->ops->step_launch(l->v->net, l->tokens, &l->why);
    timeline_device_end(l->timeline, span);
    if (!l->code && l->v->emulated) l->code = l->v->ops->sync(l->v->gpu, GPU_COMPUTE, l->v->patience_ns, &l->why);
    __atomic_store_n(&l->ended, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void write_command(struct graph *g, const struct batch *b) {
    struct vram *v = g->vram;
    struct gpu_command *c = v->shared->commands[++v->number % 2];
    c->number = v->number;
    c->n_tokens = b->n;
    c->n_patches = 0;
    g->owed = false;
    for (uint32_t t = 0; t < b->n; t++) {
        c->tokens[t].id = b->tokens[t];
        c->tokens[t].position = (uint32_t)(b->first + t);
        c->tokens[t].sequence = b->kv->sequence;
    }
    if (g->arrivals) arrivals_before_step(g->arrivals);
    if (g->moves && !arrivals_due(g->arrivals)) moves_before_step(g->moves, c);
}

/* The next of 1, 2, 4, 8 that holds n; captured when it is needed first. */
static enum err step_size(struct vram *v, uint32_t n, uint32_t *out, struct reason *why) {
    uint32_t log = 0;
    while (1u << log < n) log++;
    *out = 1u << log;
    if (v->prepared >> log & 1) return ERR_NONE;
    TRY(v->ops->step_prepare(v->net, *out, why));
    v->prepared |= 1u << log;
    return ERR_NONE;
}

/* No wait on the device lasts any longer; does what runs there come to its end now? */
static enum err hung(struct vram *v, struct reason *why) {
    struct reason ignored;
    *v->shared->abort = 1;
    v->hangs = v->ops->sync(v->gpu, GPU_COMPUTE, v->patience_ns, &ignored) != ERR_NONE;
    if (!v->hangs) *v->shared->abort = 0;
    return fail(why, ERR_IO, "the GPU has not answered for %.0f s", (double)v->patience_ns * 1e-9);
}

static void note_step(const struct graph *g, const struct batch *b) {
    const uint32_t a_layer = GPU_STEP_TOKENS * g->net->shape->n_experts_used;
    for (uint32_t l = 0; l < g->vram->n_layers; l++) note_routes(g, l, b->first, g->vram->shared->routes + (size_t)l * a_layer, b->n);
}

/* *late: a wait of the device ended without the host's answer, and nobody else failed. */
static enum err try_step(struct graph *g, struct pool *pool, const struct batch *b, bool *late, struct reason *why) {
    struct vram *v = g->vram;
    struct launch l = {.v = v, .timeline = g->timeline};
    *late = false;
    TRY(step_size(v, b->n, &l.tokens, why));
    write_command(g, b);
    struct serving s = {.g = g, .step = v->number, .answered = look(&v->shared->mail->number), .ended = &l.ended};
    pthread_t thread;
    const bool apart = v->emulated && pthread_create(&thread, NULL, launch_step, &l) == 0;
    if (!apart && v->emulated) return fail(why, ERR_NO_MEMORY, "cannot start a thread for the emulated device");
    if (!apart) launch_step(&l);
    if (apart || !l.code) run_workers(g, pool, serve, &s);
    if (s.hung) *v->shared->abort = 1;
    if (apart) pthread_join(thread, NULL);
    if (l.code) return *why = l.why, l.code;
    if (s.hung) return hung(v, why);
    TRY(v->ops->check(v->gpu, why));
    if (s.lost) return fail(why, ERR_IO, "the GPU ended a step without a result");
    if (g->failed) return g->failed; /* why is written */
    *late = v->shared->result->failed;
    return *late ? fail(why, ERR_IO, "the GPU waited in vain for the CPU at layer %u", v->shared->result->overdue_layer) : ERR_NONE;
}

/* Kernels measure their waits by a clock that runs on while the process is stopped, or the machine sleeps: once more then. Rows of the KV
 * cache are written again, with the same values. */
static enum err run_step(struct graph *g, struct pool *pool, const struct batch *b, struct reason *why) {
    struct vram *v = g->vram;
    bool late;
    enum err e = try_step(g, pool, b, &late, why);
    if (late) e = try_step(g, pool, b, &late, why);
    TRY(e);
    g->mails.tokens += b->n;
    g->mails.misses += v->shared->result->n_misses;
    if (g->moves) moves_after_step(g->moves);
    note_step(g, b);
    return ERR_NONE;
}

/* ---- prompts -------------------------------------------------------------------------------------------------------- */

struct lane_run {
    struct graph *g;
    struct gpu_batch part;
    struct gpu_batch_routes routes;
    uint32_t layer;
    uint32_t half;         /* of a layer, to be computed next: see vram_on_host() */
    bool untold;           /* nobody has seen the routes of told_layer, which are on their way or here */
    uint32_t told_layer;
    uint8_t *launched; /* [n_experts] of the layer at hand, 1: the device computes it */
    /* scratch of the layer at hand, [n_experts] each, shared by the lanes */
    struct gpu_batch_expert *resident;
    uint32_t *missing; /* tokens that chose an expert without a slot */
    uint8_t *passes;   /* 1: such an expert goes through the ring */
    uint8_t *wanted;   /* 1: chosen, and to come to its slot */
    uint32_t n_passing, n_wanted;
};

/* Those with a slot that the lane's batch has not been told of yet. */
static uint32_t list_resident(struct lane_run *r) {
    const struct vram *v = r->g->vram;
    uint32_t n = 0;
    for (uint32_t e = 0; e < v->n_experts; e++) {
        const uint32_t slot = v->slot_of[(size_t)r->layer * v->n_experts + e];
        if (!slot || r->launched[e]) continue;
        r->launched[e] = 1;
        r->resident[n++] = (struct gpu_batch_expert){e, v->slots + (uint64_t)(slot - 1) * 256};
    }
    return n;
}

static enum err await(struct vram *v, struct gpu_event *e, const struct batch *b, struct reason *why) {
    struct patience patience = patience_of(v->patience_ns);
    if (v->emulated) TRY(v->ops->sync(v->gpu, GPU_COMPUTE, v->patience_ns, why));
    for (unsigned spins = 1; !v->ops->passed(v->gpu, e); spins++) {
        if (spins % 64) continue;
        TRY(v->ops->check(v->gpu, why));
        if (patience_ends(&patience)) return hung(v, why);
        if (b->should_stop && b->should_stop(b->ctx)) return fail(why, ERR_CANCELLED, "stopped while waiting for the GPU");
        nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    }
    return ERR_NONE;
}

/* What the lane's last event says has happened. */
static enum err await_lane(struct lane_run *r, const char *what, const struct batch *b, struct reason *why) {
    struct vram *v = r->g->vram;
    const uint64_t since = timeline_now(r->g->timeline);
    const enum err e = await(v, v->ready[r->part.lane], b, why);
    timeline_add(r->g->timeline, TIMELINE_HOST, what, r->layer, since);
    return e;
}

/* The device does something for the lane: a span of the timeline, to be ended after its launches. */
static uint32_t show_phase(const struct lane_run *r, const char *name) {
    return timeline_device(r->g->timeline, GPU_COMPUTE, (enum timeline_track)(TIMELINE_LANE + r->part.lane), name, r->layer);
}

static void launch_resident(struct lane_run *r) {
    const struct vram *v = r->g->vram;
    const uint32_t n = list_resident(r);
    if (n == 0) return;
    const uint32_t span = show_phase(r, "experts");
    v->ops->batch_experts(v->net, &r->part, r->layer, r->resident, n);
    timeline_device_end(r->g->timeline, span);
}

/* The device's part of a layer from its router up to where the CPU's results are needed. */
static void launch_layer(struct lane_run *r) {
    struct vram *v = r->g->vram;
    const uint32_t span = show_phase(r, "router");
    v->ops->batch_route(v->net, &r->part, r->layer, !v->all_resident, &r->routes, v->ready[r->part.lane]);
    timeline_device_end(r->g->timeline, span);
    r->untold = r->g->hook.on_experts || r->g->moves || r->g->arrivals;
    r->told_layer = r->layer;
    memset(r->launched, 0, v->n_experts);
    launch_resident(r);
}

static void compute_missing(const struct worker *me, void *ctx) {
    struct lane_run *r = ctx;
    struct graph *g = r->g;
    const struct vram *v = g->vram;
    struct step s = {g, me, 0};
    const uint32_t used = g->net->shape->n_experts_used, n = g->batch->n;
    const size_t e = g->in.k;
    float *rest = v->rest[r->part.lane];
    for (uint32_t t = me->index; t < n; t += me->count) {
        for (uint32_t k = t * used; k < (t + 1) * used; k++) {
            const int32_t expert = r->routes.experts[k];
            g->expert[k] = r->missing[expert] && !r->passes[expert] ? expert : -1;
            g->share[k] = r->routes.weights[k];
        }
        memcpy((float *)g->in.f32 + t * e, r->routes.input + t * e, e * sizeof(float));
        if (g->net->layers[r->layer].int8_ffn_in) g->ops->quantize(&g->in, t, t + 1);
        memset(rest + t * e, 0, e * sizeof *rest);
    }
    step_end(&s);
    (void)experts_given(&s, r->layer, rest);
}

static void attend_lane(const struct worker *me, void *ctx) {
    struct lane_run *r = ctx;
    struct step s = {r->g, me, 0};
    rope_tables(&s);
    step_end(&s);
    attend_for_device(&s, r->layer, r->g->vram->qkv[r->part.lane], r->g->vram->attended[r->part.lane]);
}

/* The graph's scratch belongs to the lane from here on. */
static void take_scratch_for(struct lane_run *r, struct batch *own, const struct batch *b) {
    *own = *b;
    own->tokens = r->part.tokens;
    own->n = r->part.n;
    own->first = r->part.first;
    graph_set_batch(r->g, own);
}

/* Attention on the CPU in between, for a KV cache in RAM. */
static enum err host_attention(struct lane_run *r, struct pool *pool, const struct batch *b, struct reason *why) {
    struct vram *v = r->g->vram;
    struct batch own;
    v->ops->batch_qkv(v->net, &r->part, r->layer, v->qkv[r->part.lane], v->ready[r->part.lane]);
    TRY(await_lane(r, "wait for q, k, v", b, why));
    take_scratch_for(r, &own, b);
    const uint64_t since = timeline_now(r->g->timeline);
    run_workers(r->g, pool, attend_lane, r);
    timeline_add(r->g->timeline, TIMELINE_CPU, "attention", r->layer, since);
    v->ops->batch_attended(v->net, &r->part, r->layer, v->attended[r->part.lane]);
    return ERR_NONE;
}

/* Before the next layer's take their place. The device has that layer's experts and more to do meanwhile. */
static enum err tell_routes(struct lane_run *r, const struct batch *b, struct reason *why) {
    if (!r->untold) return ERR_NONE;
    TRY(await_lane(r, "wait for routes", b, why));
    note_routes(r->g, r->told_layer, r->part.first, r->routes.experts, r->part.n);
    r->untold = false;
    return ERR_NONE;
}

static void compute_half(const struct worker *me, void *ctx) {
    struct lane_run *r = ctx;
    struct step s = {r->g, me, 0};
    if (r->half % 2 == 0) rope_tables(&s);
    (void)half_by_host(&s, r->half);
}

/* The halves that are the CPU's from the lane's next one on, if it is; the residual stream comes over and goes back. */
static enum err host_halves(struct lane_run *r, struct pool *pool, const struct batch *b, struct reason *why) {
    struct graph *g = r->g;
    struct vram *v = g->vram;
    struct batch own;
    const uint32_t all = 2 * v->n_layers;
    float *hidden = v->hidden[r->part.lane];
    if (r->half >= all || !vram_on_host(v, r->half)) return ERR_NONE;
    TRY(tell_routes(r, b, why));
    v->ops->batch_take(v->net, &r->part, hidden, v->ready[r->part.lane]);
    TRY(await_lane(r, "wait for the residual stream", b, why));
    take_scratch_for(r, &own, b);
    memcpy(g->x, hidden, (size_t)r->part.n * g->in.k * sizeof *hidden);
    for (; r->half < all && vram_on_host(v, r->half); r->half++) {
        const uint64_t since = timeline_now(g->timeline);
        run_workers(g, pool, compute_half, r);
        timeline_add(g->timeline, TIMELINE_CPU, r->half % 2 ? "experts" : "attention", r->half / 2, since);
        if (g->failed) return g->failed;
        if (r->half % 2) note_routes(g, r->half / 2, r->part.first, g->expert, r->part.n);
        if (b->should_stop && b->should_stop(b->ctx)) return fail(why, ERR_CANCELLED, "stopped between layers");
    }
    memcpy(hidden, g->x, (size_t)r->part.n * g->in.k * sizeof *hidden);
    v->ops->batch_give(v->net, &r->part, hidden);
    return ERR_NONE;
}

static enum err device_attention(struct lane_run *r, struct pool *pool, const struct batch *b, struct reason *why) {
    struct vram *v = r->g->vram;
    r->half++;
    if (v->kv_on_host) return host_attention(r, pool, b, why);
    const uint32_t span = show_phase(r, "attention");
    v->ops->batch_attention(v->net, &r->part, r->layer);
    timeline_device_end(r->g->timeline, span);
    return ERR_NONE;
}

static enum err start_layer(struct lane_run *r, struct pool *pool, const struct batch *b, struct reason *why) {
    TRY(host_halves(r, pool, b, why));
    if (r->half == 2 * r->layer) TRY(device_attention(r, pool, b, why));
    TRY(host_halves(r, pool, b, why));
    if (r->half != 2 * r->layer + 1) return ERR_NONE;
    TRY(tell_routes(r, b, why));
    launch_layer(r);
    return ERR_NONE;
}

/* Experts without a slot: some are to come to theirs, some pass through the ring, the others are the CPU's: how many of these. */
static uint32_t divide_missing(struct lane_run *r) {
    const struct graph *g = r->g;
    const uint32_t pairs = r->part.n * g->net->shape->n_experts_used;
    uint32_t n = 0;
    memset(r->missing, 0, g->vram->n_experts * sizeof *r->missing);
    memset(r->passes, 0, g->vram->n_experts);
    memset(r->wanted, 0, g->vram->n_experts);
    r->n_wanted = 0;
    for (uint32_t p = 0; p < pairs; p++) {
        const uint32_t e = (uint32_t)r->routes.experts[p];
        if (r->launched[e] || r->wanted[e]) continue;
        r->wanted[e] = arrivals_comes(g->arrivals, r->layer, e);
        if (r->wanted[e]) r->n_wanted++;
        else n += r->missing[e]++ == 0;
    }
    r->n_passing = g->ring && n ? ring_choose(g->ring, r->layer, r->missing, r->passes) : 0;
    return n - r->n_passing;
}

static void *send_experts(void *ctx) {
    struct lane_run *r = ctx;
    if (r->n_passing) ring_send(r->g->ring, &r->part);
    if (r->n_wanted) arrivals_bring(r->g->arrivals, &r->part, r->layer, r->wanted);
    return NULL;
}

/* What was sent has been read, or has come. */
static enum err settle_sent(struct lane_run *r, struct reason *why) {
    const struct graph *g = r->g;
    const uint64_t since = timeline_now(g->timeline);
    const enum err e = r->n_passing ? ring_settle(g->ring, why) : ERR_NONE;
    if (r->n_passing) timeline_add(g->timeline, TIMELINE_HOST, "wait for copies", r->layer, since);
    struct reason other;
    const enum err come = r->n_wanted ? arrivals_settle(g->arrivals, e ? &other : why) : ERR_NONE;
    return e ? e : come;
}

/* The missing experts of the lane's layer: some over the link or from the file by a thread of its own, the others by the pool
 * meanwhile. *rest: the pool's sums, NULL when it had nothing to do. */
static enum err compute_both(struct lane_run *r, struct pool *pool, const struct batch *b, const float **rest, struct reason *why) {
    struct graph *g = r->g;
    struct batch own;
    pthread_t thread;
    launch_resident(r); /* what the other lane, or a step's end, has brought since */
    const uint32_t n = divide_missing(r);
    const bool sends = r->n_passing || r->n_wanted, apart = sends && pthread_create(&thread, NULL, send_experts, r) == 0;
    if (sends && !apart) send_experts(r);
    if (n) {
        take_scratch_for(r, &own, b);
        const uint64_t since = timeline_now(g->timeline);
        run_workers(g, pool, compute_missing, r);
        timeline_add(g->timeline, TIMELINE_CPU, "missing experts", r->layer, since);
        *rest = g->vram->rest[r->part.lane];
    }
    if (apart) pthread_join(thread, NULL);
    struct reason sent;
    const enum err e = settle_sent(r, &sent);
    if (g->failed) return g->failed; /* why is written */
    if (e) *why = sent;
    return e;
}

/* The experts the device has no slots for, and the sum; unless the host has had that half. */
static enum err end_layer(struct lane_run *r, struct pool *pool, const struct batch *b, struct reason *why) {
    struct vram *v = r->g->vram;
    const float *rest = NULL;
    if (r->half > 2 * r->layer + 1) return r->layer++, ERR_NONE;
    if (!v->all_resident) {
        TRY(await_lane(r, "wait for routes", b, why));
        TRY(tell_routes(r, b, why));
        TRY(compute_both(r, pool, b, &rest, why));
    }
    const uint32_t span = show_phase(r, "sum");
    v->ops->batch_combine(v->net, &r->part, r->layer, rest);
    timeline_device_end(r->g->timeline, span);
    r->layer++;
    r->half++;
    return b->should_stop && b->should_stop(b->ctx) ? fail(why, ERR_CANCELLED, "stopped between layers") : ERR_NONE;
}

static enum err run_lanes(struct lane_run *lanes, uint32_t n_lanes, struct pool *pool, const struct batch *b, struct reason *why) {
    const struct vram *v = lanes[0].g->vram;
    for (uint32_t i = 0; i < n_lanes; i++) {
        v->ops->batch_begin(v->net, &lanes[i].part);
        TRY(start_layer(&lanes[i], pool, b, why));
    }
    for (uint32_t l = 0; l < v->n_layers; l++)
        for (uint32_t i = 0; i < n_lanes; i++) {
            TRY(end_layer(&lanes[i], pool, b, why));
            if (l + 1 < v->n_layers) TRY(start_layer(&lanes[i], pool, b, why));
        }
    for (uint32_t i = 0; i < n_lanes; i++) TRY(tell_routes(&lanes[i], b, why));
    return v->ops->check(v->gpu, why);
}

/* Logits of the batch's tokens from `from` on, some at a time. */
static enum err device_logits(struct lane_run *r, uint32_t from, const struct batch *b, struct reason *why) {
    struct graph *g = r->g;
    struct vram *v = g->vram;
    const uint64_t vocab = g->net->head.rows;
    for (uint32_t at = from; at < r->part.n; at += GPU_STEP_TOKENS) {
        const uint32_t left = r->part.n - at, n = left < GPU_STEP_TOKENS ? left : GPU_STEP_TOKENS;
        v->ops->batch_logits(v->net, &r->part, at, n, v->shared->logits);
        TRY(v->ops->sync(v->gpu, GPU_COMPUTE, v->patience_ns, why));
        if (b->on_logits)
            for (uint32_t i = 0; i < n; i++) b->on_logits(b->ctx, r->part.first + at + i, v->shared->logits + i * vocab);
        else memcpy(g->head_logits, v->shared->logits + (n - 1) * vocab, vocab * sizeof(float));
    }
    return ERR_NONE;
}

static uint32_t first_wanted(const struct lane_run *r, const struct batch *b) {
    const uint64_t first = r->part.first;
    if (!b->on_logits) return r->part.n - 1;
    return b->logits_from <= first ? 0 : b->logits_from - first < r->part.n ? (uint32_t)(b->logits_from - first) : r->part.n;
}

/* The same by the CPU's head. */
static enum err host_logits(struct lane_run *r, struct pool *pool, uint32_t from, const struct batch *b, struct reason *why) {
    struct graph *g = r->g;
    struct vram *v = g->vram;
    struct batch own;
    v->ops->batch_take(v->net, &r->part, v->hidden[r->part.lane], v->ready[r->part.lane]);
    TRY(await_lane(r, "wait for the residual stream", b, why));
    take_scratch_for(r, &own, b);
    memcpy(g->x, v->hidden[r->part.lane], (size_t)r->part.n * g->in.k * sizeof *g->x);
    run_heads(g, pool, from);
    return ERR_NONE;
}

static enum err lane_logits(struct lane_run *r, struct pool *pool, const struct batch *b, struct reason *why) {
    const uint32_t from = first_wanted(r, b);
    return r->g->vram->host_head ? host_logits(r, pool, from, b, why) : device_logits(r, from, b, why);
}

/* Run the lanes, and the logits that are wanted. */
static enum err run_prompt(struct graph *g, struct pool *pool, const struct batch *b, struct reason *why) {
    struct vram *v = g->vram;
    struct lane_run lanes[GPU_LANES] = {{0}};
    const bool cpu_works = !v->all_resident || v->host_halves;
    const uint32_t n_lanes = cpu_works && b->n >= TWO_LANES_TOKENS ? 2 : 1, half = (b->n + n_lanes - 1) / n_lanes;
    struct arena scratch;
    TRY(arena_open(&scratch, v->n_experts * (sizeof(struct gpu_batch_expert) + sizeof(uint32_t) + 2 + GPU_LANES) + (4 + GPU_LANES) * 64, why));
    struct lane_run lane = {.g = g};
    lane.resident = arena_take(&scratch, v->n_experts * sizeof *lane.resident);
    lane.missing = arena_take(&scratch, v->n_experts * sizeof *lane.missing);
    lane.passes = arena_take(&scratch, v->n_experts);
    lane.wanted = arena_take(&scratch, v->n_experts);
    for (uint32_t i = 0; i < n_lanes; i++) {
        lane.launched = arena_take(&scratch, v->n_experts);
        lane.part = (struct gpu_batch){i, i ? b->n - half : half, b->kv->sequence, b->first + i * half, b->tokens + i * half};
        lanes[i] = lane;
    }
    enum err e = run_lanes(lanes, n_lanes, pool, b, why);
    for (uint32_t i = 0; i < n_lanes && !e; i++)
        if (b->on_logits || (b->want_logits && i + 1 == n_lanes)) e = lane_logits(&lanes[i], pool, b, why);
    struct reason ignored;
    if (e && v->ops->sync(v->gpu, GPU_COMPUTE, v->patience_ns, &ignored)) {} /* what was launched reads the lanes' buffers */
    arena_close(&scratch);
    graph_set_batch(g, b);
    return e;
}

/* ---- both ----------------------------------------------------------------------------------------------------------- */

static void give_step_logits(struct graph *g, struct pool *pool, const struct batch *b) {
    const uint64_t vocab = g->net->head.rows;
    const float *logits = g->vram->shared->logits;
    if (g->vram->host_head) {
        const uint64_t skip = !b->on_logits ? b->n - 1 : b->logits_from > b->first ? b->logits_from - b->first : 0;
        memcpy(g->x, logits, b->n * g->in.k * sizeof *logits);
        if (b->on_logits || b->want_logits) run_heads(g, pool, skip < b->n ? (uint32_t)skip : b->n);
        return;
    }
    if (b->want_logits) memcpy(g->head_logits, logits + (b->n - 1) * vocab, vocab * sizeof *logits);
    for (uint32_t t = 0; b->on_logits && t < b->n; t++)
        if (b->first + t >= b->logits_from) b->on_logits(b->ctx, b->first + t, logits + t * vocab);
}

enum err run_gpu(struct graph *g, struct pool *pool, const struct batch *b, struct reason *why) {
    if (g->vram->hangs) return fail(why, ERR_IO, "the GPU hangs since an earlier token: start the program again");
    TRY(experts_enter(g->experts, why)); /* from here on the device is this run's, too */
    const bool step = b->n <= GPU_STEP_TOKENS;
    enum err e = b->kv->in_vram ? vram_grow_kv(g->vram, (struct kv *)b->kv, b->first + b->n, why) : ERR_NONE;
    timeline_begin_run(g->timeline);
    if (!e) e = step ? run_step(g, pool, b, why) : run_prompt(g, pool, b, why);
    timeline_end_run(g->timeline);
    struct reason left;
    const enum err code = experts_leave(g->experts, e ? 0 : b->n, &left);
    if (g->moves) moves_advance(g->moves, e ? 0 : b->n);
    if (e) return e;
    if (code) return *why = left, code;
    if (step) give_step_logits(g, pool, b);
    return ERR_NONE;
}
