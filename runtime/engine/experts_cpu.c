/* A layer's experts on the CPU: the router's choice, then waves of those whose weights are in RAM, in order of arrival. Each
 * (token, rank) pair has its own row for the result and rows are summed in rank order, so the order of waves changes nothing.
 *
 * Worker 0 talks to the store between two meetings while the others wait; a layer whose experts are all here is one wave and
 * costs no meeting more than it would without a store. */
#include <math.h>
#include <string.h>

#include "engine/step.h"

enum { WAVE_TOKENS = 128 /* a prompt's wave while reads are on their way: long enough to hide meetings, short beside a read */ };

/* The K largest router logits, best first; equal ones: the higher expert first. NaN counts as smallest. Their softmax over
 * all experts, renormalised over the chosen, equals the softmax over the chosen. */
static void choose_experts(const float *logits, uint32_t n_experts, uint32_t n_used, int32_t *expert, float *share) {
    uint32_t n = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        const float value = isnan(logits[e]) ? -INFINITY : logits[e];
        if (n == n_used && value < share[n - 1]) continue;
        uint32_t at = n < n_used ? n++ : n - 1;
        for (; at > 0 && value >= share[at - 1]; at--) {
            share[at] = share[at - 1];
            expert[at] = expert[at - 1];
        }
        share[at] = value;
        expert[at] = (int32_t)e;
    }
    const float top = share[0];
    float sum = 0;
    for (uint32_t r = 0; r < n_used; r++) sum += share[r] = expf(share[r] - top);
    for (uint32_t r = 0; r < n_used; r++) share[r] /= sum;
}

/* Softmax over the chosen experts' logits once more, as choose_experts() does it: a hook may have replaced some. */
static void share_again(const float *logits, uint32_t n_used, const int32_t *expert, float *share) {
    float top = -INFINITY, sum = 0;
    for (uint32_t r = 0; r < n_used; r++) top = fmaxf(top, logits[expert[r]]); /* skips NaN */
    for (uint32_t r = 0; r < n_used; r++) sum += share[r] = isnan(logits[expert[r]]) ? 0 : expf(logits[expert[r]] - top);
    for (uint32_t r = 0; r < n_used; r++) share[r] /= sum;
}

static void show_choice(struct graph *g, uint32_t layer) {
    const uint32_t used = g->net->shape->n_experts_used, x = g->net->shape->n_experts;
    if (g->vram) return; /* told later, and not to be replaced */
    for (uint32_t t = 0; g->hook.on_experts && t < g->batch->n; t++) {
        g->hook.on_experts(g->hook.ctx, layer, g->batch->first + t, false, g->expert + t * used);
        share_again(g->router + (size_t)t * x, used, g->expert + t * used, g->share + t * used);
    }
}

/* Sort the (token, rank) pairs by expert; those without one (somebody else computes it) are left out. One worker; a few
 * microseconds at 4096 pairs. */
static void group_by_expert(struct graph *g) {
    const struct model_shape *shape = g->net->shape;
    const uint32_t n_pairs = g->batch->n * shape->n_experts_used, x = shape->n_experts;
    uint32_t *start = g->expert_start;
    memset(start, 0, (x + 1) * sizeof *start);
    for (uint32_t p = 0; p < n_pairs; p++)
        if (g->expert[p] >= 0) start[g->expert[p] + 1]++;
    for (uint32_t e = 0; e < x; e++) start[e + 1] += start[e];
    for (uint32_t p = 0; p < n_pairs; p++) {
        g->pair[p] = -1;
        if (g->expert[p] < 0) continue;
        const uint32_t at = start[g->expert[p]]++; /* now start[e] is where e ends; shifted back below */
        g->pair[p] = (int32_t)at;
        g->pair_token[at] = (int32_t)(p / shape->n_experts_used);
    }
    memmove(start + 1, start, x * sizeof *start);
    start[0] = 0;
    g->n_needs = 0;
    for (uint32_t e = 0; e < x; e++)
        if (start[e + 1] > start[e]) g->needs[g->n_needs++] = (struct expert_need){e, start[e + 1] - start[e]};
}

/* The products of the experts that can be computed now. Worker 0. */
static void next_wave(struct graph *g, const struct network_layer *l) {
    const uint64_t f = g->net->shape->n_ff, width = g->net->shape->n_embd;
    uint32_t n = 0;
    g->failed = experts_wave(g->experts, WAVE_TOKENS, g->batch->should_stop, g->batch->ctx, g->wave, &n, &g->more, g->why);
    g->n_jobs = g->n_down_jobs = g->n_wave_pairs = 0;
    if (g->failed) return;
    for (uint32_t i = 0; i < n; i++) {
        const struct expert_at *at = &g->wave[i];
        const uint32_t e = g->needs[at->need].expert, first = g->expert_start[e], count = g->expert_start[e + 1] - first;
        g->jobs[g->n_jobs++] = expert_job(&l->gate, at, 0, &g->in, g->pair_token + first, count, g->gate + first * f);
        g->jobs[g->n_jobs++] = expert_job(&l->up, at, 1, &g->in, g->pair_token + first, count, g->up + first * f);
        g->down_jobs[g->n_down_jobs++] = expert_job(&l->down, at, 2, &g->mid, g->iota + first, count, g->down + first * width);
        for (uint32_t p = 0; p < count; p++) g->wave_pair[g->n_wave_pairs++] = (int32_t)(first + p);
    }
}

/* The distinct experts that the router `ahead` layers on would choose, of all asked tokens' first ranks before their second. */
static void tell_expected(struct graph *g, uint32_t layer, uint32_t ahead) {
    const uint32_t used = g->net->shape->n_experts_used;
    int32_t *chosen = g->look_expert + (size_t)(ahead - 1) * LOOK_TOKENS * used;
    uint32_t n = 0;
    for (uint32_t i = 0; g->hook.on_experts && i < g->n_look; i++)
        g->hook.on_experts(g->hook.ctx, layer + ahead, g->batch->first + (uint64_t)g->look_token[i], true, chosen + i * used);
    for (uint32_t r = 0; r < used; r++)
        for (uint32_t i = 0; i < g->n_look; i++) {
            const int32_t e = chosen[i * used + r];
            bool seen = false;
            for (uint32_t j = 0; j < n && !seen; j++) seen = g->look_seen[j] == e;
            if (!seen) g->look_seen[n++] = e;
        }
    experts_expect(g->experts, layer + ahead, g->look_seen, n);
}

/* How many layers on the routers are asked: one for a prompt, whose next layer already keeps the drive busy. */
static uint32_t look_layers(const struct graph *g, uint32_t layer) {
    const uint32_t left = g->net->shape->n_layers - 1 - layer, most = g->batch->n == 1 ? LOOK_LAYERS : 1;
    return !g->looks_ahead ? 0 : left < most ? left : most;
}

/* Routers of this layer and, when the store looks ahead, of the next ones, on the same input: 88.6 % of the next one's choices
 * come out right that way on Qwen3-30B-A3B (landscape of published measurements), at the cost of reading one more router. */
static void route(struct step *s, const struct network_layer *l, uint32_t layer) {
    struct graph *g = s->g;
    const uint32_t n = g->batch->n, used = g->net->shape->n_experts_used, x = g->net->shape->n_experts;
    const uint32_t look = look_layers(g, layer);
    struct job jobs[1 + LOOK_LAYERS] = {dense_job(&l->router, &g->in, NULL, n, g->router)};
    for (uint32_t a = 0; a < look; a++) {
        const struct matrix *next = l[1 + a].guess.data ? &l[1 + a].guess : &l[1 + a].router;
        jobs[1 + a] = dense_job(next, &g->in, g->look_token, g->n_look, g->look_router + (size_t)a * LOOK_TOKENS * x);
    }
    step_show(s, INPUT_ROUTER, layer, -1, &g->in, NULL, n);
    step_jobs(s, jobs, 1 + look);
    for (uint32_t t = s->me->index; t < n; t += s->me->count)
        choose_experts(g->router + (size_t)t * x, x, used, g->expert + t * used, g->share + t * used);
    for (uint32_t a = 0; a < look; a++)
        for (uint32_t i = s->me->index; i < g->n_look; i += s->me->count) {
            const size_t at = (size_t)a * LOOK_TOKENS + i;
            choose_experts(g->look_router + at * x, x, used, g->look_expert + at * used, g->look_share + at * used);
        }
    if (n > 1) step_end(s); /* one token: the same worker goes on */
    if (s->me->index != 0) return;
    show_choice(g, layer);
    group_by_expert(g);
    experts_begin(g->experts, layer, g->needs, g->n_needs, g->expert, n);
    for (uint32_t a = 1; a <= look; a++) tell_expected(g, layer, a);
}

static void activate(struct step *s, bool int8) {
    struct graph *g = s->g;
    const size_t f = g->net->shape->n_ff;
    for (uint32_t i = s->me->index; i < g->n_wave_pairs; i += s->me->count) {
        const size_t p = (size_t)g->wave_pair[i];
        g->ops->swiglu(g->gate + p * f, g->up + p * f, f, (float *)g->mid.f32 + p * f);
        if (int8) g->ops->quantize(&g->mid, p, p + 1);
    }
    step_end(s);
}

/* to += sum over ranks, in rank order. */
static void combine(struct step *s, float *to) {
    struct graph *g = s->g;
    const uint32_t used = g->net->shape->n_experts_used, n = g->batch->n;
    const size_t e = g->in.k;
    for (uint32_t t = s->me->index; t < n; t += s->me->count)
        for (uint32_t r = 0; r < used; r++)
            if (g->pair[t * used + r] >= 0)
                g->ops->axpy(g->share[t * used + r], g->down + (size_t)g->pair[t * used + r] * e, e, to + t * e);
}

/* The same for one token, some of whose experts are left to the next layer; and what was left to this one. */
static void combine_deferring(struct step *s, uint32_t layer, float *to) {
    struct graph *g = s->g;
    const uint32_t used = g->net->shape->n_experts_used, later = step_defers(g, layer, used);
    const size_t e = g->in.k;
    if (s->me->index != 0) return;
    for (uint32_t r = 0; r < used - later; r++) g->ops->axpy(g->share[r], g->down + (size_t)g->pair[r] * e, e, to);
    if (g->owed) g->ops->axpy(1, g->deferred, e, to);
    memset(g->deferred, 0, e * sizeof *g->deferred);
    for (uint32_t r = used - later; r < used; r++) g->ops->axpy(g->share[r], g->down + (size_t)g->pair[r] * e, e, g->deferred);
    g->owed = later > 0;
    g->n_deferred += later;
}

/* What goes into the wave's experts: the rows of each. */
static void show_wave(const struct step *s, enum engine_input which, uint32_t layer, const struct acts *x, const int32_t *rows) {
    const struct graph *g = s->g;
    for (uint32_t i = 0; g->hook.on_input && s->me->index == 0 && i < g->n_down_jobs; i++) {
        const uint32_t e = g->needs[g->wave[i].need].expert, first = g->expert_start[e];
        step_show(s, which, layer, (int32_t)e, x, rows + first, g->expert_start[e + 1] - first);
    }
}

/* Down rows of all pairs, wave by wave. */
static bool compute(struct step *s, uint32_t layer) {
    struct graph *g = s->g;
    const struct network_layer *l = &g->net->layers[layer];
    for (bool more = true; more;) {
        if (s->me->index == 0) next_wave(g, l);
        step_end(s);
        if (g->failed) break;
        more = g->more; /* worker 0 may be in its next wave before the others are here again: read before the next meeting */
        if (s->me->index == 0) experts_breathe(g->experts); /* the others take its share of the work meanwhile */
        show_wave(s, INPUT_GATE_UP, layer, &g->in, g->pair_token);
        step_jobs(s, g->jobs, g->n_jobs);
        activate(s, l->int8_ffn_mid);
        show_wave(s, INPUT_DOWN, layer, &g->mid, g->iota);
        step_jobs(s, g->down_jobs, g->n_down_jobs);
    }
    if (s->me->index == 0) experts_end(g->experts);
    return !g->failed;
}

bool experts_cpu(struct step *s, uint32_t layer) {
    route(s, &s->g->net->layers[layer], layer);
    if (!compute(s, layer)) return false;
    /* the next layer's norm takes the same tokens: no meeting needed */
    if (s->g->defer && s->g->batch->n == 1) combine_deferring(s, layer, s->g->x);
    else combine(s, s->g->x);
    return true;
}

bool experts_given(struct step *s, uint32_t layer, float *to) {
    struct graph *g = s->g;
    if (s->me->index == 0) {
        group_by_expert(g);
        experts_begin(g->experts, layer, g->needs, g->n_needs, g->expert, g->batch->n);
    }
    if (!compute(s, layer)) return false;
    combine(s, to);
    return true;
}
