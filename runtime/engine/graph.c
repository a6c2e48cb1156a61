/* Embedding, the walk through the layers, the head; and the scratch of all of it, sized once. */
#include "engine/graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/rope.h"
#include "engine/step.h"

/* Rows a worker takes at a time. One token: as long a stretch as balance allows, because each start of a stretch waits for
 * memory (Q4_K on two threads reads at 70, 77, 85, 91, 95 % of a plain read with 64, 128, 256, 384, 512 rows). Many tokens:
 * a stretch is computed on for long, so balance counts more. */
static uint32_t most_unit_rows(const struct step *s, const struct job *jobs, uint32_t n_jobs) {
    uint64_t rows = 0, vectors = 0;
    for (uint32_t i = 0; i < n_jobs; i++) rows += jobs[i].matrix->rows, vectors += jobs[i].n;
    const uint64_t most = vectors > 4 * n_jobs ? 128 : 512, fair = rows / (2 * s->me->count);
    return (uint32_t)(fair < 64 ? 64 : fair < most ? fair : most);
}

static uint32_t job_units(const struct job *j, uint32_t most_rows) { return (uint32_t)((j->matrix->rows + most_rows - 1) / most_rows); }

/* The rows of one unit: as even as multiples of 64 allow, or of what an EXL3 transform mixes. */
static uint64_t unit_rows(const struct job *j, uint32_t units) {
    return round_up((j->matrix->rows + units - 1) / units, j->matrix->exl3.rows ? 128 : 64);
}

void step_jobs(struct step *s, const struct job *jobs, uint32_t n_jobs) {
    const uint32_t most = most_unit_rows(s, jobs, n_jobs);
    uint32_t total = 0, first = 0; /* first: the unit that begins with j's row 0 */
    for (uint32_t i = 0; i < n_jobs; i++) total += job_units(&jobs[i], most);
    const struct job *j = jobs;
    for (uint32_t unit; step_take(s, total, &unit);) { /* units come in rising order, so j only moves forward */
        while (unit - first >= job_units(j, most)) first += job_units(j++, most);
        const struct matrix *m = j->matrix;
        const uint64_t rows = unit_rows(j, job_units(j, most)), begin = (unit - first) * rows, end = begin + rows;
        if (begin >= m->rows) continue; /* rounding up left nothing for the last unit */
        m->ops->matmul(&(struct matmul){.w = j->w, .row_bytes = j->row_bytes, .k = m->k, .row_begin = begin,
                                        .row_end = end < m->rows ? end : m->rows, .x = j->x, .index = j->index, .n = j->n,
                                        .y = j->y, .ldy = j->ldy, .scratch = step_scratch(s), .exl3 = j->exl3.rows ? &j->exl3 : NULL});
    }
    step_end(s);
}

static void embed(struct step *s) {
    struct graph *g = s->g;
    const struct matrix *m = &g->net->embedding;
    for (uint32_t t = s->me->index; t < g->batch->n; t += s->me->count)
        m->ops->dequant(m->data + (uint64_t)g->batch->tokens[t] * m->row_bytes, g->x + t * m->k, m->k);
}

void rope_tables(struct step *s) {
    struct graph *g = s->g;
    const uint32_t half = g->net->shape->head_dim / 2;
    for (uint32_t t = s->me->index; t < g->batch->n; t += s->me->count)
        rope_angles(g->net->rope_frequency, half, g->net->rope_magnitude, g->batch->first + t, g->rope_cos + t * half, g->rope_sin + t * half);
}

/* Vector `to` becomes what rounding to int8 took from vector `from`. */
static void quantize_remainder(struct graph *g, size_t from, size_t to) {
    struct acts *a = &g->head_in;
    const float *x = a->f32 + from * a->k, *d = a->d + from * (a->k / 32);
    const int8_t *q = a->q + from * a->k;
    float *rest = (float *)a->f32 + to * a->k;
    g->ops->quantize(a, from, from + 1);
    for (size_t c = 0; c < a->k; c++) rest[c] = x[c] - d[c / 32] * (float)q[c];
    g->ops->quantize(a, to, to + 1);
}

/* Logits of tokens [from, from + n) of the batch into g->head_logits [n][V]. Nothing averages out what rounding the head's
 * input to int8 does to a logit, so the remainder of the rounding goes through the head as a second vector (2 to 4 % less KL
 * from exact with Q4_K and Q5_K, bench/exactness.py). The weights are read once for both: decode does not slow down. */
static void head(struct step *s, uint32_t from, uint32_t n) {
    struct graph *g = s->g;
    const size_t e = g->in.k;
    const bool pairs = g->net->int8_head;
    for (uint32_t i = s->me->index; i < n; i += s->me->count) {
        g->ops->rmsnorm(g->x + (from + i) * e, g->net->output_norm, e, g->net->shape->rms_eps, (float *)g->head_in.f32 + i * e);
        if (pairs) quantize_remainder(g, i, n + i);
    }
    step_end(s);
    const struct matrix *m = &g->net->head;
    step_show(s, INPUT_HEAD, g->net->shape->n_layers, -1, &g->head_in, NULL, n);
    const struct job all = dense_job(m, &g->head_in, NULL, pairs ? 2 * n : n, g->head_logits);
    step_jobs(s, &all, 1);
    for (uint32_t i = s->me->index; pairs && i < n; i += s->me->count)
        g->ops->axpy(1, g->head_logits + (n + i) * m->rows, m->rows, g->head_logits + i * m->rows);
}

static void forward(const struct worker *me, void *ctx) {
    struct graph *g = ctx;
    struct step s = {g, me, 0};
    embed(&s);
    rope_tables(&s);
    for (uint32_t l = 0; l < g->net->shape->n_layers; l++) {
        /* Set before a meeting inside layer l and compared after it, so that all workers leave together; a later layer's
         * number, set by a worker that is ahead, does not concern those still here. */
        if (me->index == 0 && g->batch->should_stop && g->batch->should_stop(g->batch->ctx)) g->stop_after = l;
        const uint64_t since = me->index == 0 ? timeline_now(g->timeline) : 0;
        if (!layer_cpu(&s, l)) return;
        if (me->index == 0) timeline_add(g->timeline, TIMELINE_CPU, "layer", l, since);
        if (g->stop_after <= l) return;
    }
    if (!g->batch->want_logits) return;
    step_end(&s); /* the last token may be another worker's */
    head(&s, g->batch->n - 1, 1);
}

static void some_heads(const struct worker *me, void *ctx) {
    struct graph *g = ctx;
    struct step s = {g, me, 0};
    head(&s, g->head_from, g->head_count);
}

void run_workers(struct graph *g, struct pool *pool, void (*fn)(const struct worker *, void *), void *ctx) {
    for (int i = 0; i < STEP_COUNTERS; i++) pool_counter_reset(&g->counters[i]);
    pool_run(pool, fn, ctx);
}

/* Which tokens the next layer's router is asked about: all of a few, else evenly spread ones up to the last. */
static void spread_look(struct graph *g) {
    const uint32_t n = g->batch->n;
    g->looks_ahead = experts_looks_ahead(g->experts);
    g->n_look = n < LOOK_TOKENS ? n : LOOK_TOKENS;
    for (uint32_t i = 0; i < g->n_look; i++) g->look_token[i] = (int32_t)((uint64_t)(i + 1) * n / g->n_look - 1);
}

/* The store is this run's from here on; it goes back to the background whatever happens. */
static enum err compute(struct graph *g, struct pool *pool, struct reason *why) {
    TRY(experts_enter(g->experts, why));
    spread_look(g);
    run_workers(g, pool, forward, g);
    const bool stopped = !g->failed && g->stop_after != UINT32_MAX;
    const enum err e = experts_leave(g->experts, g->failed || stopped ? 0 : g->batch->n, why);
    if (stopped) return fail(why, ERR_CANCELLED, "stopped between layers");
    return g->failed ? g->failed : e;
}

void run_heads(struct graph *g, struct pool *pool, uint32_t from) {
    const struct batch *b = g->batch;
    const uint64_t vocab = g->net->head.rows;
    for (g->head_from = from; g->head_from < b->n; g->head_from += g->head_count) {
        const uint32_t left = b->n - g->head_from;
        g->head_count = left < HEAD_TOKENS ? left : HEAD_TOKENS;
        run_workers(g, pool, some_heads, g);
        for (uint32_t i = 0; b->on_logits && i < g->head_count; i++)
            b->on_logits(b->ctx, b->first + g->head_from + i, g->head_logits + i * vocab);
    }
}

void graph_set_batch(struct graph *g, const struct batch *batch) {
    g->batch = batch;
    g->in.n = g->attended.n = batch->n;
    g->mid.n = (size_t)batch->n * g->net->shape->n_experts_used;
}

enum err graph_run(struct graph *g, struct pool *pool, const struct batch *batch, struct reason *why) {
    graph_set_batch(g, batch);
    g->why = why;
    g->failed = ERR_NONE;
    g->owed = false; /* of a run that was given up */
    g->stop_after = UINT32_MAX;
    if (g->vram) return run_gpu(g, pool, batch, why);
    TRY(compute(g, pool, why));
    if (!batch->on_logits) return ERR_NONE;
    const uint64_t skip = batch->logits_from > batch->first ? batch->logits_from - batch->first : 0;
    run_heads(g, pool, skip < batch->n ? (uint32_t)skip : batch->n);
    return ERR_NONE;
}

/* Logits of `tokens` positions and of their remainders. */
static uint64_t head_bytes(const struct model_shape *s, uint32_t tokens) { return 2 * (uint64_t)tokens * s->n_vocab * sizeof(float); }

/* Scratch is described once, as (pointer, bytes) pairs: summed for the size, then handed out. */
struct slot {
    void *at; /* the pointer to set, of any object type: written by memcpy */
    uint64_t bytes;
};

static uint64_t thread_scratch(const struct model_shape *s) {
    const uint64_t q_width = (uint64_t)s->n_heads * s->head_dim;
    uint64_t widest = s->n_embd > q_width ? s->n_embd : q_width;
    if (s->n_ff > widest) widest = s->n_ff;
    const uint64_t product = matmul_scratch_bytes(widest), attention = attention_scratch_bytes(s->n_heads / s->n_kv_heads, s->head_dim);
    return round_up(product > attention ? product : attention, 4096);
}

/* Where acts_layout() and attention find their parts; not kept in the graph by these names. */
struct buffers {
    float *in, *attended, *head_in; /* the head's input holds each vector and its remainder */
    void *in8, *attended8, *mid8, *head8;
};

enum { MAX_SCRATCH = 48 };

static size_t list_scratch(struct graph *g, const struct model_shape *s, struct buffers *b, struct slot slots[MAX_SCRATCH]) {
    const uint64_t n = g->ubatch, e = s->n_embd, qw = (uint64_t)s->n_heads * s->head_dim, kw = (uint64_t)s->n_kv_heads * s->head_dim;
    const uint64_t used = s->n_experts_used, pairs = n * used, x = s->n_experts, f = s->n_ff, head_n = HEAD_TOKENS, fl = sizeof(float);
    g->thread_scratch_bytes = thread_scratch(s);
    const struct slot all[] = {
        {&g->x, n * e * fl}, {&b->in, n * e * fl}, {&b->in8, acts_bytes(n, e)},
        {&g->q, n * qw * fl}, {&g->k, n * kw * fl}, {&g->v, n * kw * fl},
        {&b->attended, n * qw * fl}, {&b->attended8, acts_bytes(n, qw)}, {&g->projected, n * e * fl}, {&g->deferred, e * fl},
        {&g->rope_cos, n * s->head_dim / 2 * fl}, {&g->rope_sin, n * s->head_dim / 2 * fl},
        {&g->router, n * x * fl}, {&g->expert, pairs * 4}, {&g->share, pairs * fl},
        {&g->pair, pairs * 4}, {&g->pair_token, pairs * 4}, {&g->iota, pairs * 4},
        {&g->expert_start, (x + 1) * 4}, {&g->jobs, 2 * x * sizeof(struct job)},
        {&g->down_jobs, x * sizeof(struct job)}, {&g->needs, x * sizeof *g->needs}, {&g->wave, x * sizeof *g->wave},
        {&g->wave_pair, pairs * 4}, {&g->look_token, LOOK_TOKENS * 4}, {&g->look_router, LOOK_LAYERS * LOOK_TOKENS * x * fl},
        {&g->look_expert, LOOK_LAYERS * LOOK_TOKENS * used * 4}, {&g->look_share, LOOK_LAYERS * LOOK_TOKENS * used * fl}, {&g->look_seen, x * 4},
        {&g->gate, pairs * f * fl}, {&g->up, pairs * f * fl},
        {&b->mid8, acts_bytes(pairs, f)}, {&g->down, pairs * e * fl}, {&b->head_in, 2 * head_n * e * fl},
        {&b->head8, acts_bytes(2 * head_n, e)}, {&g->thread_scratch, g->max_threads * g->thread_scratch_bytes}};
    _Static_assert(sizeof all <= MAX_SCRATCH * sizeof *all, "room for the list");
    memcpy(slots, all, sizeof all);
    return sizeof all / sizeof *all;
}

static bool sum_scratch(const struct slot *slots, size_t n, uint64_t *total) {
    *total = 0;
    for (size_t i = 0; i < n; i++)
        if (!size_add(*total, slots[i].bytes + 64, total)) return false;
    return true;
}

uint64_t graph_scratch_need(const struct model_shape *s, uint32_t ubatch, unsigned max_threads) {
    struct graph g = {.ubatch = ubatch, .max_threads = max_threads};
    struct buffers b;
    struct slot slots[MAX_SCRATCH];
    uint64_t total;
    if (!sum_scratch(slots, list_scratch(&g, s, &b, slots), &total) || !size_add(total, head_bytes(s, 1), &total)) return UINT64_MAX;
    return total;
}

static enum err take_scratch(struct graph *g, struct reason *why) {
    const struct model_shape *s = g->net->shape;
    const uint64_t n = g->ubatch, e = s->n_embd, qw = (uint64_t)s->n_heads * s->head_dim, pairs = n * s->n_experts_used, f = s->n_ff;
    struct buffers b;
    struct slot slots[MAX_SCRATCH];
    const size_t n_slots = list_scratch(g, s, &b, slots);
    uint64_t total;
    if (!sum_scratch(slots, n_slots, &total)) return fail(why, ERR_LIMIT, "scratch for a batch of %u tokens overflows", g->ubatch);
    TRY(arena_open(&g->arena, total, why));
    for (size_t i = 0; i < n_slots; i++) {
        void *room = arena_take(&g->arena, slots[i].bytes);
        memcpy(slots[i].at, &room, sizeof room);
    }

    g->in = (struct acts){.n = n, .k = e, .f32 = b.in};
    acts_layout(&g->in, b.in8);
    g->attended = (struct acts){.n = n, .k = qw, .f32 = b.attended};
    acts_layout(&g->attended, b.attended8);
    g->mid = (struct acts){.n = pairs, .k = f, .f32 = g->gate}; /* swiglu's result replaces its gate */
    acts_layout(&g->mid, b.mid8);
    g->head_in = (struct acts){.n = 2 * HEAD_TOKENS, .k = e, .f32 = b.head_in};
    acts_layout(&g->head_in, b.head8);
    for (uint64_t i = 0; i < pairs; i++) g->iota[i] = (int32_t)i;
    return ERR_NONE;
}

static enum err head_room(struct graph *g, uint32_t tokens, struct reason *why) {
    void *room;
    const uint64_t bytes = head_bytes(g->net->shape, tokens);
    if (bytes <= g->head_logits_bytes) return ERR_NONE;
    TRY(pages_alloc(bytes, &room, why));
    pages_free(g->head_logits, g->head_logits_bytes);
    g->head_logits = room;
    g->head_logits_bytes = bytes;
    return ERR_NONE;
}

enum err graph_open(const struct network *net, const struct cpu_ops *ops, struct experts *experts, const struct graph_hook *hook,
                    uint32_t ubatch, unsigned max_threads, struct graph **out, struct reason *why) {
    *out = NULL;
    struct graph *g = aligned_alloc(64, round_up(sizeof *g, 64));
    if (!g) return fail(why, ERR_NO_MEMORY, "no memory for the graph");
    memset(g, 0, sizeof *g);
    g->net = net;
    g->ops = ops;
    g->experts = experts;
    g->hook = *hook;
    g->ubatch = ubatch;
    g->max_threads = max_threads;
    enum err e = take_scratch(g, why);
    if (!e) e = head_room(g, 1, why);
    if (e) graph_close(&g);
    *out = g;
    return e;
}

/* Perplexity alone needs many positions' logits: tens of MB that a chat never pays for. */
enum err graph_want_all_logits(struct graph *g, struct reason *why) { return head_room(g, HEAD_TOKENS, why); }

void graph_close(struct graph **graph) {
    struct graph *g = *graph;
    if (!g) return;
    *graph = NULL;
    pages_free(g->head_logits, g->head_logits_bytes);
    arena_close(&g->arena);
    free(g);
}

void graph_show(struct graph *g, struct timeline *t) { g->timeline = t; }

void graph_use_vram(struct graph *g, struct vram *v, struct moves *moves, struct ring *ring, struct arrivals *arrivals) {
    g->vram = v;
    g->moves = moves;
    g->ring = ring;
    g->arrivals = arrivals;
}

void graph_defer(struct graph *g, uint32_t experts) { g->defer = experts; }
uint64_t graph_count_deferred(const struct graph *g) { return g->n_deferred; }

void graph_count_mails(const struct graph *g, struct graph_mails *out) { *out = g->mails; }

uint64_t graph_scratch_bytes(const struct graph *g) { return g->arena.size + g->head_logits_bytes; }
const float *graph_logits(const struct graph *g) { return g->head_logits; }
uint32_t graph_ubatch(const struct graph *g) { return g->ubatch; }
