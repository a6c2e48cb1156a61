/* What graph.c and layer_cpu.c share: the graph's scratch, and the way workers walk through its steps together. */
#ifndef COLDSTREAM_STEP_H
#define COLDSTREAM_STEP_H

#include "engine/graph.h"

enum {
    STEP_COUNTERS = 4,
    HEAD_TOKENS = 16, /* positions whose logits are held at once */
    LOOK_TOKENS = 64  /* tokens of a prompt that the next layer's router is asked about in advance */
};

/* One matrix applied to some vectors: rows are shared out among workers. */
struct job {
    const struct matrix *matrix;
    const uint8_t *w; /* row 0: matrix->data, or one expert's */
    uint64_t row_bytes;
    const struct acts *x;
    const int32_t *index;
    uint32_t n;
    float *y;
    uint64_t ldy;
    struct exl3_matrix exl3; /* rows 0: not EXL3 */
};

/* A dense matrix times n vectors of x, all its rows side by side in y. */
static inline struct job dense_job(const struct matrix *m, const struct acts *x, const int32_t *index, uint32_t n, float *y) {
    return (struct job){m, m->data, m->row_bytes, x, index, n, y, m->rows, m->exl3};
}

/* The same for matrix `which` of an expert. */
static inline struct job expert_job(const struct matrix *m, const struct expert_at *at, int which, const struct acts *x, const int32_t *index,
                                    uint32_t n, float *y) {
    const struct exl3_matrix exl3 = {at->in_scale[which], at->out_scale[which], m->exl3.rows, m->exl3.codebook};
    return (struct job){m, at->matrix[which], at->row_bytes[which], x, index, n, y, m->rows, exl3};
}

struct graph {
    const struct network *net;
    const struct cpu_ops *ops;
    struct experts *experts;
    struct vram *vram; /* NULL: all on the CPU */
    struct moves *moves; /* NULL: none */
    struct ring *ring;   /* NULL: none */
    struct arrivals *arrivals; /* NULL: none */
    struct graph_mails mails;
    uint32_t defer;            /* graph_defer() */
    bool owed;                 /* what is deferred waits to be added */
    uint64_t n_deferred;       /* experts so far */
    struct timeline *timeline; /* NULL: none */
    struct graph_hook hook;
    uint32_t ubatch;
    unsigned max_threads;
    struct arena arena;
    struct pool_counter counters[STEP_COUNTERS];
    const struct batch *batch;
    _Atomic uint32_t stop_after; /* the layer that ends a cancelled run */
    enum err failed;             /* written by worker 0 before a meeting, ends the run after it */
    struct reason *why;

    float *x;                   /* [n][E] residual stream */
    struct acts in;             /* [n][E] normed input of attention, experts, head */
    float *q, *k, *v;           /* [n][Hq*Dh] [n][Hk*Dh] [n][Hk*Dh] */
    struct acts attended;       /* [n][Hq*Dh] */
    float *projected;           /* [n][E] attention's output projection */
    float *deferred;            /* [E] sum of the experts that were left to the next layer; worker 0's */
    float *rope_cos, *rope_sin; /* [n][Dh/2] */
    float *router;              /* [n][X] */
    int32_t *expert;            /* [n][K] chosen experts, best first */
    float *share;               /* [n][K] their weights */
    int32_t *pair;              /* [n][K] where (token, rank) stands among the pairs sorted by expert */
    int32_t *pair_token;        /* [n*K] token of each sorted pair */
    int32_t *iota;              /* [n*K] 0, 1, 2... */
    uint32_t *expert_start;     /* [X+1] first pair of each expert */
    struct expert_need *needs;  /* [X] the experts in use */
    uint32_t n_needs;

    struct expert_at *wave;     /* [X] those of them computed next */
    bool more;                  /* another wave follows */
    struct job *jobs;           /* [2*X] gate and up */
    struct job *down_jobs;      /* [X] */
    uint32_t n_jobs, n_down_jobs;
    int32_t *wave_pair;         /* [n*K] the pairs of these experts */
    uint32_t n_wave_pairs;

    bool looks_ahead;           /* the same for the whole run */
    int32_t *look_token;        /* [LOOK_TOKENS] tokens the next layers' routers are asked about */
    uint32_t n_look;
    float *look_router;         /* [LOOK_LAYERS][LOOK_TOKENS][X] */
    int32_t *look_expert;       /* [LOOK_LAYERS][LOOK_TOKENS][K] */
    float *look_share;          /* [LOOK_LAYERS][LOOK_TOKENS][K] a by-product */
    int32_t *look_seen;         /* [X] the distinct ones, likeliest first */
    float *gate, *up;           /* [n*K][F] */
    struct acts mid;            /* [n*K][F] */
    float *down;                /* [n*K][E] */
    float *head_logits;         /* [2][V], or [2*HEAD_TOKENS][V] once all logits were wanted: values, then remainders */
    uint64_t head_logits_bytes;
    uint32_t head_from, head_count; /* positions of the batch whose logits come next */
    struct acts head_in;        /* [2*HEAD_TOKENS][E] */
    uint8_t *thread_scratch;    /* [max_threads][thread_scratch_bytes] */
    uint64_t thread_scratch_bytes;
};

/* Angles of the batch's positions; workers meet before they are used. */
struct step;
void rope_tables(struct step *s);

/* What a run works on: sizes of activations follow. */
void graph_set_batch(struct graph *g, const struct batch *batch);
/* fn on every worker of the pool, with fresh counters. */
void run_workers(struct graph *g, struct pool *pool, void (*fn)(const struct worker *, void *), void *ctx);
/* Logits of the batch's tokens from `from` on, by the CPU from g->x: to on_logits in order, or of the last one alone to g->head_logits. */
void run_heads(struct graph *g, struct pool *pool, uint32_t from);
/* graph_run() on the device (layer_gpu.c). */
enum err run_gpu(struct graph *g, struct pool *pool, const struct batch *b, struct reason *why) MUST_USE;

struct step {
    struct graph *g;
    const struct worker *me;
    unsigned at;
};

/* Next unit of this step; false when all are taken. */
static inline bool step_take(struct step *s, uint32_t count, uint32_t *unit) {
    return pool_next(&s->g->counters[s->at % STEP_COUNTERS], count, unit);
}

/* All workers meet; what they wrote is visible to all. The counter of the step after next is free by then. */
static inline void step_end(struct step *s) {
    pool_barrier(s->me);
    s->at++;
    if (s->me->index == 0) pool_counter_reset(&s->g->counters[(s->at + 1) % STEP_COUNTERS]);
}

static inline void *step_scratch(const struct step *s) { return s->g->thread_scratch + s->me->index * s->g->thread_scratch_bytes; }

/* Let the hook see vectors index[n] of x (NULL: the first n): after they were written and before they change. Worker 0 looks while
 * the others begin to compute. */
static inline void step_show(const struct step *s, enum engine_input which, uint32_t layer, int32_t expert, const struct acts *x,
                             const int32_t *index, uint32_t n) {
    const struct graph_hook *hook = &s->g->hook;
    if (!hook->on_input || s->me->index != 0) return;
    hook->on_input(hook->input_ctx, which, layer, expert, &(struct engine_rows){x->f32, index, n, x->k});
}

/* Run all rows of all jobs, shared out in stretches of rows, and meet. */
void step_jobs(struct step *s, const struct job *jobs, uint32_t n_jobs);

/* One transformer layer for the graph's batch (layer_cpu.c). False: g->failed says why; all workers return it together. */
bool layer_cpu(struct step *s, uint32_t layer);
/* Its halves, each from its norm to the residual. A token's row of g->x is read and written by the same worker at both ends: t % count. */
void attention_half(struct step *s, uint32_t layer);
bool experts_half(struct step *s, uint32_t layer);

/* Of it, what lies between q, k, v in g->q, k, v and g->attended: norms, rotation, the cache, attention. rope_tables() before. */
void attention_cpu(struct step *s, uint32_t layer);

/* How many of a layer's n experts on the CPU are left to the next layer. */
static inline uint32_t step_defers(const struct graph *g, uint32_t layer, uint32_t n) {
    if (g->batch->n != 1 || layer + 1 == g->net->shape->n_layers) return 0;
    return n < g->defer ? n : g->defer;
}

/* The layer's experts, from the router to the residual stream (experts_cpu.c). */
bool experts_cpu(struct step *s, uint32_t layer);
/* The same for g->in and choices made elsewhere: g->expert (negative: not ours) and g->share, written before the last meeting.
 * to [n][E] += the weighted sums; a token is added to by one worker, and the caller lets them meet. */
bool experts_given(struct step *s, uint32_t layer, float *to);

#endif
