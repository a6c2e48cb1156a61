/* Memory, kernels and meetings, measured with the worker team. Other load only ever slows a run down, so runs are short, spread
 * over several rounds, and a figure is what the better quarter of them reaches; what is read next is always what was read
 * longest ago. */
#include <stdlib.h>
#include <string.h>

#include "engine/probe_private.h"

#define MIB ((uint64_t)1 << 20)

enum { ROUNDS = 3, MOST_RUNS = 64 };

struct samples { /* seconds */
    unsigned n;
    double values[MOST_RUNS];
};

/* Whether the runs of one turn are over: at least one, then as many as its time and room allow. */
static bool turn_is_over(const struct samples *s, unsigned before, uint64_t begin_ns, double seconds) {
    return s->n == MOST_RUNS || (s->n > before && probe_seconds_since(begin_ns) >= seconds);
}

/* Runs that differ much were disturbed; a quiet machine's stay within a few percent. */
static double better_quarter(struct probe *p, struct samples *s) {
    const double better = probe_quantile(s->values, s->n, 0.25);
    p->figures++;
    p->unsteady += probe_quantile(s->values, s->n, 0.75) > 1.25 * better;
    return better;
}

/* ---- plain reads ------------------------------------------------------------------------------------------------ */

struct sweep {
    const uint8_t *from;
    uint64_t bytes, ahead; /* of the window; distance of the prefetches */
    uint64_t *sums;        /* [threads][8]: keeps the loads alive, a cache line a worker */
};

static void read_share(const struct worker *me, void *ctx) {
    typedef uint64_t vec __attribute__((vector_size(16), aligned(16)));
    const struct sweep *s = ctx;
    const uint64_t lines = s->bytes / 64, begin = lines * me->index / me->count * 64,
                   end = lines * (me->index + 1) / me->count * 64;
    vec sum[4] = {{0}};
    for (uint64_t i = begin; i < end; i += 64) {
        __builtin_prefetch(s->from + i + s->ahead);
        const vec *v = (const vec *)(s->from + i);
        for (int j = 0; j < 4; j++) sum[j] += v[j];
    }
    sum[0] += sum[1] + sum[2] + sum[3];
    s->sums[8 * me->index] = sum[0][0] + sum[0][1];
}

/* Windows of 128 MiB, or 16 MiB a thread, so that waking the team is lost in them. */
static uint64_t window_bytes(const struct probe *p, unsigned threads) {
    const uint64_t wanted = 16 * MIB * threads > 128 * MIB ? 16 * MIB * threads : 128 * MIB;
    return wanted < p->bytes / 4 ? wanted : p->bytes / 4 / 64 * 64;
}

static void sample_reads(const struct probe *p, struct pool *team, struct sweep *s, uint64_t *at, double seconds,
                         struct samples *out) {
    const unsigned before = out->n;
    for (const uint64_t begin = clock_ns(); !turn_is_over(out, before, begin, seconds);) {
        if (*at + s->bytes > p->bytes) *at = 0;
        s->from = p->buffer + *at;
        *at += s->bytes;
        const uint64_t start = clock_ns();
        pool_run(team, read_share, s);
        out->values[out->n++] = probe_seconds_since(start);
    }
}

/* Processors differ in which distance they like. */
static const uint64_t distances[] = {64, 2048, 8192};
enum { DISTANCES = sizeof distances / sizeof *distances };

static enum err read_turn(struct probe *p, unsigned threads, double seconds, uint64_t *at, struct samples out[DISTANCES],
                          struct reason *why) {
    struct pool *team = NULL;
    struct sweep s = {.bytes = window_bytes(p, threads), .sums = calloc_checked(threads, 64)};
    enum err code = s.sums ? pool_open(threads, p->facts->core_cpus, p->facts->n_cores, &team, why)
                           : fail(why, ERR_NO_MEMORY, "no memory to measure reads");
    for (int i = 0; i < DISTANCES && !code; i++) {
        s.ahead = distances[i];
        sample_reads(p, team, &s, at, seconds / DISTANCES, &out[i]);
        if (probe_stopped(p)) code = probe_cancel(why);
    }
    pool_close(&team);
    free(s.sums);
    return code;
}

/* 1, 2, 4 ... threads, and all. */
enum err probe_ram(struct probe *p, double seconds, struct reason *why) {
    unsigned counts[FACTS_MAX_RATES], steps = 0;
    uint64_t at = 0;
    enum err code = ERR_NONE;
    for (unsigned n = 1; n < p->threads; n *= 2) counts[steps++] = n;
    counts[steps++] = p->threads;
    struct samples(*seen)[DISTANCES] = calloc_checked(steps, sizeof *seen);
    if (!seen) return fail(why, ERR_NO_MEMORY, "no memory to measure reads");
    for (unsigned i = 0; i < ROUNDS * steps && !code; i++)
        code = read_turn(p, counts[i % steps], seconds / (ROUNDS * steps), &at, seen[i % steps], why);
    p->facts->n_ram_rates = code ? 0 : steps;
    for (unsigned i = 0; i < steps && !code; i++) {
        double best = 0;
        for (int d = 0; d < DISTANCES; d++) {
            const double rate = (double)window_bytes(p, counts[i]) / better_quarter(p, &seen[i][d]);
            if (rate > best) best = rate;
        }
        p->facts->ram_rates[i] = (struct facts_ram_rate){counts[i], best};
    }
    free(seen);
    return code;
}

/* ---- kernels ---------------------------------------------------------------------------------------------------- */

/* The shapes of a Qwen3-30B-A3B layer step: USED experts of three COLUMNS x WIDTH matrices. */
enum { COLUMNS = 2048, WIDTH = 768, USED = 8, MANY = 128 };

struct bench {
    const struct cpu_type *ops;
    const uint8_t *weights;
    uint64_t matrix_bytes, n_matrices, at; /* matrices in the buffer; the next one to use */
    uint32_t count;                        /* layer steps, or matrices, of the run in flight */
    struct acts in, mid;                   /* [MANY][COLUMNS], [USED][WIDTH] */
    float *up, *down;                      /* [2 * USED][WIDTH] or [most_matrices][MANY][WIDTH]; [USED][COLUMNS] */
    uint32_t most_matrices;                /* of a run with many vectors: each has its own result */
    uint8_t *scratch;                      /* [threads][scratch_bytes] */
    uint64_t scratch_bytes;
    struct pool_counter counters[4];
    bool is_exl3;
    uint16_t factors[COLUMNS]; /* of EXL3: ones */
};

static const uint8_t *matrix(const struct bench *b, uint64_t i) {
    return b->weights + (b->at + i) % b->n_matrices * b->matrix_bytes;
}

/* All workers meet and go on to the next counter. The one after it was last used two meetings ago: nobody is there any more. */
static void meet(struct bench *b, const struct worker *me, unsigned *turn) {
    pool_barrier(me);
    ++*turn;
    if (me->index == 0) pool_counter_reset(&b->counters[(*turn + 1) % 4]);
}

/* Rows of a unit: the rule of graph.c's step_jobs(). */
static uint32_t unit_rows(const struct bench *b, uint32_t jobs, uint32_t rows, uint32_t most, unsigned workers) {
    const uint32_t fair = jobs * rows / (2 * workers), limit = fair < 64 ? 64 : fair < most ? fair : most;
    const uint32_t units = (rows + limit - 1) / limit;
    return (uint32_t)round_up((rows + units - 1) / units, b->is_exl3 ? 128 : 64);
}

/* `jobs` products of one matrix each with one vector, or MANY. */
struct products {
    uint64_t first; /* matrix of job 0 */
    uint32_t jobs, rows, unit;
    const struct acts *x;
    size_t n;
    bool own_vector; /* job j takes vector j */
    float *y;        /* [jobs][n][rows] */
};

static void multiply(struct bench *b, const struct worker *me, unsigned turn, const struct products *s) {
    const uint32_t units = (s->rows + s->unit - 1) / s->unit;
    for (uint32_t u; pool_next(&b->counters[turn % 4], s->jobs * units, &u);) {
        const int32_t job = (int32_t)(u / units);
        const uint32_t begin = u % units * s->unit, end = begin + s->unit < s->rows ? begin + s->unit : s->rows;
        const struct exl3_matrix exl3 = {b->factors, b->factors, s->rows, EXL3_MCG};
        b->ops->matmul(&(struct matmul){.w = matrix(b, s->first + (uint32_t)job),
                                        .row_bytes = b->matrix_bytes / s->rows,
                                        .k = s->x->k,
                                        .row_begin = begin,
                                        .row_end = end,
                                        .x = s->x,
                                        .index = s->own_vector ? &job : NULL,
                                        .n = s->n,
                                        .y = s->y + (size_t)job * s->n * s->rows,
                                        .ldy = s->rows,
                                        .scratch = b->scratch + me->index * b->scratch_bytes,
                                        .exl3 = b->is_exl3 ? &exl3 : NULL});
    }
}

static void layer_steps(const struct worker *me, void *ctx) {
    struct bench *b = ctx;
    unsigned turn = 0;
    const uint32_t up = unit_rows(b, 2 * USED, WIDTH, 512, me->count), down = unit_rows(b, USED, COLUMNS, 512, me->count);
    for (uint64_t i = 0; i < b->count; i++) {
        multiply(b, me, turn, &(struct products){3 * USED * i, 2 * USED, WIDTH, up, &b->in, 1, false, b->up});
        meet(b, me, &turn);
        multiply(b, me, turn, &(struct products){3 * USED * i + 2 * USED, USED, COLUMNS, down, &b->mid, 1, true, b->down});
        meet(b, me, &turn);
    }
}

static void many_vectors(const struct worker *me, void *ctx) {
    struct bench *b = ctx;
    multiply(b, me, 0,
             &(struct products){0, b->count, WIDTH, unit_rows(b, b->count, WIDTH, 128, me->count), &b->in, MANY, false, b->up});
}

static double timed_run(struct probe *p, struct bench *b, void (*fn)(const struct worker *, void *), uint32_t count,
                        uint32_t matrices) {
    for (int i = 0; i < 4; i++) pool_counter_reset(&b->counters[i]);
    b->count = count;
    const uint64_t begin = clock_ns();
    pool_run(p->team, fn, b);
    b->at = (b->at + (uint64_t)count * matrices) % b->n_matrices;
    return probe_seconds_since(begin);
}

/* One of a type's two figures: seconds a layer step, or a matrix with MANY vectors, takes. */
struct figure {
    void (*fn)(const struct worker *, void *);
    uint32_t matrices;    /* one count of `fn` goes through */
    uint32_t least, most; /* counts of a run */
    uint32_t count;       /* found in the first round: a run of about 10 ms */
    bool is_slow;         /* one run took the time of all rounds */
    struct samples seconds_each;
};

static void sample_figure(struct probe *p, struct bench *b, struct figure *f, double seconds) {
    const uint64_t begin = clock_ns();
    const unsigned before = f->seconds_each.n;
    if (f->is_slow) return;
    if (f->count == 0) {
        const double each = timed_run(p, b, f->fn, f->least, f->matrices) / f->least,
                     target = seconds / 3 < 0.01 ? seconds / 3 : 0.01;
        const double wanted = target / each;
        f->count = wanted < f->least ? f->least : wanted < f->most ? (uint32_t)wanted : f->most;
        f->is_slow = each * f->least > seconds * ROUNDS;
        if (each * f->least > seconds) f->seconds_each.values[f->seconds_each.n++] = each; /* that was this turn */
    }
    while (!turn_is_over(&f->seconds_each, before, begin, seconds))
        f->seconds_each.values[f->seconds_each.n++] = timed_run(p, b, f->fn, f->count, f->matrices) / f->count;
}

struct type_figures {
    enum tensor_type type;
    uint64_t matrix_bytes;
    struct figure decode, batch;
};

/* The types with kernels whose rows have no header: the same bytes are then a matrix of either shape. Those that nobody wrote a
 * fast form of are left out, where there are fast forms: measuring them takes longer than all others together. */
static unsigned list_types(const struct probe *p, const struct bench *b, struct type_figures out[TYPE_COUNT]) {
    struct cpu_ops ref, best;
    cpu_ops_init(&ref, ISA_REF);
    cpu_ops_init(&best, cpu_isa_best());
    unsigned n = 0;
    for (int t = 0; t < TYPE_COUNT; t++) {
        uint64_t up_row, down_row;
        if (best.isa != ISA_REF && best.types[t].matmul == ref.types[t].matmul) continue;
        if (!p->ops.types[t].matmul || !tensor_row_bytes((enum tensor_type)t, COLUMNS, &up_row) ||
            !tensor_row_bytes((enum tensor_type)t, WIDTH, &down_row) || up_row * WIDTH != down_row * COLUMNS)
            continue;
        const uint64_t steps = p->bytes / (up_row * WIDTH) / (3 * USED);
        out[n++] = (struct type_figures){.type = (enum tensor_type)t,
                                         .matrix_bytes = up_row * WIDTH,
                                         .decode = {layer_steps, 3 * USED, 1, steps ? (uint32_t)steps : 1, 0, false, {0}},
                                         .batch = {many_vectors, 1, p->threads / 6 + 1, b->most_matrices, 0, false, {0}}};
    }
    return n;
}

static void store_kernel(struct probe *p, struct type_figures *t) {
    struct facts_kernel *k = &p->facts->kernels[p->facts->n_kernels++];
    const char *name = tensor_type_info(t->type)->name;
    *k = (struct facts_kernel){.threads = p->threads};
    for (size_t i = 0; name[i] && i + 1 < sizeof k->type; i++)
        k->type[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + 32) : name[i];
    facts_set_text(k->isa, sizeof k->isa, cpu_isa_name(p->ops.isa));
    k->decode_bytes_per_s = 3 * USED * (double)t->matrix_bytes / better_quarter(p, &t->decode.seconds_each);
    k->batch_macs_per_s = (double)MANY * COLUMNS * WIDTH / better_quarter(p, &t->batch.seconds_each);
}

static void fill_acts(struct probe *p, struct acts *a, size_t n, size_t k, float *x, void *int8) {
    uint32_t seed = 1;
    for (size_t i = 0; i < n * k; i++) x[i] = (float)(int32_t)(seed = seed * 1664525u + 1013904223u) * 0x1p-31f;
    *a = (struct acts){.n = n, .k = k, .f32 = x};
    acts_layout(a, int8);
    p->ops.quantize(a, 0, n);
}

static enum err take_room(struct probe *p, struct bench *b, struct arena *room, struct reason *why) {
    b->most_matrices = 4 * (p->threads / 6 + 1);
    b->scratch_bytes = round_up(matmul_scratch_bytes(COLUMNS), 4096);
    const uint64_t up = (uint64_t)b->most_matrices * MANY * WIDTH * sizeof(float), in = MANY * COLUMNS * sizeof(float),
                   mid = USED * WIDTH * sizeof(float), in8 = acts_bytes(MANY, COLUMNS), mid8 = acts_bytes(USED, WIDTH),
                   down = USED * COLUMNS * sizeof(float), scratch = p->threads * b->scratch_bytes;
    TRY(arena_open(room, up + in + mid + in8 + mid8 + down + scratch + 8 * 64, why));
    float *const x = arena_take(room, in), *const y = arena_take(room, mid);
    fill_acts(p, &b->in, MANY, COLUMNS, x, arena_take(room, in8));
    fill_acts(p, &b->mid, USED, WIDTH, y, arena_take(room, mid8));
    b->up = arena_take(room, up);
    b->down = arena_take(room, down);
    b->scratch = arena_take(room, scratch);
    return ERR_NONE;
}

enum err probe_kernels(struct probe *p, double seconds, struct reason *why) {
    struct arena room = {0};
    struct bench *b = aligned_alloc(64, round_up(sizeof *b, 64));
    struct type_figures *types = calloc_checked(TYPE_COUNT, sizeof *types);
    enum err code = b && types ? ERR_NONE : fail(why, ERR_NO_MEMORY, "no memory to measure kernels");
    if (!code) {
        memset(b, 0, sizeof *b);
        b->weights = p->buffer;
        for (int i = 0; i < COLUMNS; i++) b->factors[i] = 0x3c00; /* 1 */
        code = take_room(p, b, &room, why);
    }
    p->facts->n_kernels = 0;
    const unsigned n = code ? 0 : list_types(p, b, types);
    for (unsigned i = 0; i < ROUNDS * n && !code; i++) {
        struct type_figures *t = &types[i % n];
        const double turn = seconds / (ROUNDS * n);
        b->ops = &p->ops.types[t->type];
        b->is_exl3 = t->type >= TYPE_EXL3_1 && t->type <= TYPE_EXL3_8;
        b->matrix_bytes = t->matrix_bytes;
        b->n_matrices = p->bytes / t->matrix_bytes;
        b->at %= b->n_matrices;
        sample_figure(p, b, &t->decode, 0.4 * turn);
        if (probe_stopped(p)) code = probe_cancel(why);
        if (!code) sample_figure(p, b, &t->batch, 0.6 * turn);
        if (!code) code = probe_enter(p, "kernels", PROBE_KERNELS / (ROUNDS * n), why);
    }
    for (unsigned i = 0; i < n && !code; i++) store_kernel(p, &types[i]);
    arena_close(&room);
    free(types);
    free(b);
    return code;
}

/* ---- meetings --------------------------------------------------------------------------------------------------- */

enum { MEETINGS = 256 };

static void only_meet(const struct worker *me, void *ctx) {
    (void)ctx;
    for (int i = 0; i < MEETINGS; i++) pool_barrier(me);
}

enum err probe_barrier(struct probe *p, double seconds, struct reason *why) {
    struct samples seen = {0};
    for (const uint64_t begin = clock_ns(); !turn_is_over(&seen, 2, begin, seconds);) {
        const uint64_t start = clock_ns();
        pool_run(p->team, only_meet, NULL);
        seen.values[seen.n++] = probe_seconds_since(start) / MEETINGS;
        if (probe_stopped(p)) return probe_cancel(why);
    }
    p->facts->barrier_s = better_quarter(p, &seen);
    return ERR_NONE;
}
