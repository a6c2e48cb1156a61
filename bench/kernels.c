/* Speed of the weight kernels, on the shapes of Qwen3-30B-A3B's experts (gate, up 768 x 2048; down 2048 x 768).
 *
 * Decode: layers of 8 random experts and one token, rows shared out in units of --unit (128) with the engine's barriers;
 * printed as GB/s of weights, and as % of plain reads of the same memory before and after each run (median of the ratios). The
 * pool of random blocks (1.5 GiB, more than any cache) is walked in random order, so that every weight comes from memory.
 * Prefill: four experts at a time, each with 8 to 128 tokens picked from a batch of 512; printed as thousands of
 * token-experts a second (one token through one expert: 4.72 M multiply-adds). Activations are quantized beforehand.
 * Every cell is the median of --reps short runs (5-20 ms), so that a busy machine disturbs some of them only. Without --type:
 * every type that has a fast form.
 *
 *     kernels [--type NAME] [--isa ref|avx2|avx512] [--threads N] [--reps N] [--part decode|prefill] [--unit ROWS] [--pool MiB]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/support/median.h"
#include "core/pool.h"
#include "cpu/cpu.h"
#include "tests/support/synth_blocks.h"

enum { EMBD = 2048, FF = 768, USED = 8, LAYERS = 6, BATCH = 512, COLUMNS = 5, MAX_REPS = 999 };
static const unsigned prefill_n[COLUMNS] = {8, 16, 32, 64, 128};

struct bench {
    struct pool *workers;
    uint8_t *weights;
    uint64_t pool_bytes;
    enum tensor_type type;
    struct cpu_ops ops;
    bool slow; /* the reference kernel */
    uint64_t matrix_bytes; /* gate, up and down hold the same number of weights, down more rows: room for it */
    uint32_t n_experts;
    struct acts in, mid; /* [BATCH][EMBD], [BATCH][FF] */
    float *gate, *up, *down;
    int32_t index[BATCH];
    uint8_t *scratch; /* [threads][scratch_bytes] */
    uint64_t scratch_bytes;
    const uint32_t *order;       /* experts of the run in flight */
    uint32_t n_groups, group, n; /* groups of `group` experts; n tokens through each */
    struct pool_counter counters[4];
    uint32_t unit;                              /* rows a worker takes at a time */
    uint64_t read_from, read_bytes, read_ahead; /* the plain read: a window of the pool, and its prefetch distance */
    uint64_t sums[64];
    uint16_t factors[EMBD]; /* of EXL3: ones */
};

static uint64_t random_next(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull;
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static bool is_exl3(enum tensor_type type) { return type >= TYPE_EXL3_1 && type <= TYPE_EXL3_8; }

static void fill_matrix(const struct bench *b, struct synth_random *r, uint8_t *out, uint64_t k, uint64_t rows) {
    if (!is_exl3(b->type)) synth_rows_fill(b->type, r, 0.25f, k, out, rows);
    else for (uint64_t i = 0; i < b->matrix_bytes; i += 8) memcpy(out + i, &(uint64_t){synth_random_bits(r)}, 8); /* any bits are weights */
}

static void fill_weights(const struct worker *me, void *ctx) {
    const struct bench *b = ctx;
    for (uint32_t e = me->index; e < b->n_experts; e += me->count)
        for (uint32_t which = 0; which < 3; which++) {
            struct synth_random r = synth_random_of(3 * (uint64_t)e + which, SPAN("kernels"));
            uint8_t *matrix = b->weights + (3 * (uint64_t)e + which) * b->matrix_bytes;
            fill_matrix(b, &r, matrix, which == 2 ? FF : EMBD, which == 2 ? EMBD : FF);
        }
}

/* ---- plain read ------------------------------------------------------------------------------------------------- */

static void read_window(const struct worker *me, void *ctx) {
    struct bench *b = ctx;
    const uint64_t lines = b->read_bytes / 64;
    const uint64_t begin = lines * me->index / me->count * 64, end = lines * (me->index + 1) / me->count * 64;
    typedef uint64_t vec __attribute__((vector_size(16), aligned(16)));
    const uint8_t *at = b->weights + b->read_from;
    vec sum[4] = {{0}};
    for (uint64_t i = begin; i < end; i += 64) {
        __builtin_prefetch(at + i + b->read_ahead, 0, 3);
        const vec *v = (const vec *)(at + i);
        for (int j = 0; j < 4; j++) sum[j] += v[j];
    }
    sum[0] += sum[1] + sum[2] + sum[3];
    b->sums[me->index % 64] = sum[0][0] + sum[0][1];
}

/* ---- products --------------------------------------------------------------------------------------------------- */

static void product(struct bench *b, const struct worker *me, uint32_t expert, int which, uint32_t unit, uint32_t slot) {
    const bool down = which == 2;
    const size_t k = down ? FF : EMBD, rows = down ? EMBD : FF;
    uint64_t row_bytes = 0;
    if (!tensor_row_bytes(b->type, k, &row_bytes)) abort();
    float *const y[] = {b->gate, b->up, b->down};
    b->ops.types[b->type].matmul(&(struct matmul){.w = b->weights + (3 * (uint64_t)expert + which) * b->matrix_bytes,
                                                  .row_bytes = row_bytes,
                                                  .k = k,
                                                  .row_begin = unit * b->unit,
                                                  .row_end = unit * b->unit + b->unit < rows ? unit * b->unit + b->unit : rows,
                                                  .x = down ? &b->mid : &b->in,
                                                  .index = down ? NULL : b->index,
                                                  .n = b->n,
                                                  .y = y[which] + (size_t)slot * b->n * rows,
                                                  .ldy = rows,
                                                  .scratch = b->scratch + me->index * b->scratch_bytes,
                                                  .exl3 = is_exl3(b->type) ? &(struct exl3_matrix){b->factors, b->factors, rows, EXL3_MCG} : NULL});
}

/* Groups of experts: all gates and ups, meet, all downs, meet. */
static void run_groups(const struct worker *me, void *ctx) {
    struct bench *b = ctx;
    const uint32_t up_units = (FF + b->unit - 1) / b->unit, down_units = (EMBD + b->unit - 1) / b->unit;
    unsigned at = 0;
    for (uint32_t g = 0; g < b->n_groups; g++) {
        const uint32_t *experts = b->order + g * b->group;
        for (uint32_t u; pool_next(&b->counters[at % 4], b->group * 2 * up_units, &u);)
            product(b, me, experts[u / (2 * up_units)], u / up_units % 2, u % up_units, u / (2 * up_units));
        pool_barrier(me);
        if (me->index == 0)
            pool_counter_reset(&b->counters[(++at + 1) % 4]);
        else
            at++;
        for (uint32_t u; pool_next(&b->counters[at % 4], b->group * down_units, &u);)
            product(b, me, experts[u / down_units], 2, u % down_units, u / down_units);
        pool_barrier(me);
        if (me->index == 0)
            pool_counter_reset(&b->counters[(++at + 1) % 4]);
        else
            at++;
    }
}

static double seconds(struct bench *b, void (*fn)(const struct worker *, void *)) {
    for (int i = 0; i < 4; i++) pool_counter_reset(&b->counters[i]);
    const uint64_t start = clock_ns();
    pool_run(b->workers, fn, b);
    return 1e-9 * (double)(clock_ns() - start);
}

/* Random experts, none twice within a walk through the pool. */
static uint32_t *random_order(uint32_t n_experts, uint32_t count) {
    uint32_t *order = calloc_checked((uint64_t)count + n_experts, sizeof *order);
    uint64_t seed = 1234567;
    for (uint32_t at = 0; order && at < count; at += n_experts) {
        for (uint32_t i = 0; i < n_experts; i++) {
            const uint32_t j = (uint32_t)(random_next(&seed) >> 33) % (i + 1);
            order[at + i] = order[at + j];
            order[at + j] = i;
        }
    }
    return order;
}

static double read_rate(struct bench *b) {
    b->read_from = b->read_from + 2 * b->read_bytes <= b->pool_bytes ? b->read_from + b->read_bytes : 0;
    return (double)b->read_bytes / seconds(b, read_window) * 1e-9;
}

/* The prefetch distance with which a plain read is fastest. */
static void choose_read(struct bench *b) {
    static const uint64_t distances[] = {64, 2048, 8192};
    double best = 0;
    uint64_t chosen = 64;
    for (int i = 0; i < 3; i++) {
        double rates[3];
        b->read_ahead = distances[i];
        for (int r = 0; r < 3; r++) rates[r] = read_rate(b);
        const double rate = median_of(rates, 3);
        if (rate > best) {
            best = rate;
            chosen = distances[i];
        }
    }
    b->read_ahead = chosen;
}

/* GB/s of `layers` layers at one token, and the plain read, turn by turn so that both see the same machine. */
static void measure_decode(struct bench *b, int reps, uint32_t layers, const uint32_t *order) {
    double decode[MAX_REPS], read[MAX_REPS], share[MAX_REPS];
    choose_read(b);
    b->n_groups = layers;
    b->group = USED;
    b->n = 1;
    for (int r = 0; r < reps; r++) {
        read[r] = read_rate(b);
        b->order = order + (size_t)r * layers * USED;
        decode[r] = (double)layers * USED * 3 * (double)b->matrix_bytes / seconds(b, run_groups) * 1e-9;
        share[r] = decode[r] / (read[r] = (read[r] + read_rate(b)) / 2);
    }
    printf("  read %5.1f  decode %5.1f GB/s %4.0f %%", median_of(read, (size_t)reps), median_of(decode, (size_t)reps), 100 * median_of(share, (size_t)reps));
}

/* Thousands of token-experts a second. */
static double measure_prefill(struct bench *b, int reps, uint32_t n, const uint32_t *order) {
    double rate[MAX_REPS];
    b->n = n;
    b->n_groups = b->slow ? 1 : 1 + 64 / n;
    b->group = b->slow ? 1 : 4;
    for (int r = 0; r < reps; r++) {
        b->order = order + (size_t)r * b->n_groups * b->group;
        rate[r] = 1e-3 * (double)b->n_groups * b->group * n / seconds(b, run_groups);
    }
    return median_of(rate, (size_t)reps);
}

static void measure(struct bench *b, int reps, const char *part) {
    printf("%-7s %-6s %2uT", tensor_type_info(b->type)->name, cpu_isa_name(b->ops.isa), pool_threads(b->workers));
    uint32_t *order = random_order(b->n_experts, (uint32_t)reps * LAYERS * USED);
    if (!order) abort();
    if (strcmp(part, "prefill") != 0) measure_decode(b, reps, b->slow ? 1 : LAYERS, order);
    for (int c = 0; c < COLUMNS && strcmp(part, "decode") != 0; c++)
        printf("%s%6.1f", c ? " " : "  prefill k/s ", measure_prefill(b, reps, prefill_n[c], order));
    putchar('\n');
    fflush(stdout);
    free(order);
}

/* ---- set-up ----------------------------------------------------------------------------------------------------- */

static void *take(uint64_t bytes) {
    void *p;
    struct reason why;
    if (pages_alloc(bytes, &p, &why) == ERR_NONE) return p;
    fprintf(stderr, "%s\n", why.text);
    exit(1);
}

static void make_acts(struct acts *a, size_t k) {
    float *x = take(BATCH * k * sizeof *x);
    uint64_t seed = k;
    for (size_t i = 0; i < BATCH * k; i++) x[i] = (float)(int32_t)(random_next(&seed) >> 32) * 0x1p-31f;
    *a = (struct acts){.n = BATCH, .k = k, .f32 = x};
    acts_layout(a, take(acts_bytes(BATCH, k)));
}

static void measure_type(struct bench *b, enum tensor_type type, enum cpu_isa from, enum cpu_isa to, int threads, int reps,
                         const char *part) {
    uint64_t row = 0;
    if (!tensor_row_bytes(type, FF, &row)) return;
    b->type = type;
    b->matrix_bytes = row * EMBD;
    b->n_experts = (uint32_t)(b->pool_bytes / (3 * b->matrix_bytes));
    b->read_bytes = b->pool_bytes / 16;
    for (enum cpu_isa isa = from; isa <= to; isa++)
        for (int t = 1; t <= 2; t++) {
            if (threads && t != 1) continue;
            const unsigned count = threads ? (unsigned)threads : (unsigned)t;
            int cpus[64];
            for (int i = 0; i < 64; i++) cpus[i] = i;
            struct reason why;
            if (pool_open(count, cpus, count < 64 ? count : 64, &b->workers, &why) != ERR_NONE) {
                fprintf(stderr, "%s\n", why.text);
                exit(1);
            }
            if (t == 1 && isa == from) pool_run(b->workers, fill_weights, b);
            struct cpu_ops ref;
            cpu_ops_init(&ref, ISA_REF);
            cpu_ops_init(&b->ops, isa);
            b->slow = b->ops.types[type].matmul == ref.types[type].matmul;
            b->ops.quantize(&b->in, 0, BATCH);
            b->ops.quantize(&b->mid, 0, BATCH);
            b->scratch_bytes = matmul_scratch_bytes(EMBD);
            b->scratch = take(b->scratch_bytes * count);
            measure(b, reps, part);
            pages_free(b->scratch, b->scratch_bytes * count);
            pool_close(&b->workers);
        }
}

int main(int argc, char **argv) {
    enum cpu_isa from = ISA_AVX2, to = cpu_isa_best();
    int threads = 0, reps = 31;
    const char *part = "all";
    enum tensor_type only = TYPE_COUNT;
    struct bench *b = take(sizeof *b);
    b->pool_bytes = 1536ull << 20;
    b->unit = 128;
    for (int i = 0; i < EMBD; i++) b->factors[i] = 0x3c00;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        bool ok = true;
        if (!strcmp(argv[i], "--isa"))
            ok = cpu_isa_from_name(span_of(value), &from) && (to = from) <= cpu_isa_best();
        else if (!strcmp(argv[i], "--type"))
            ok = tensor_type_from_name(span_of(value), &only);
        else if (!strcmp(argv[i], "--threads"))
            ok = (threads = atoi(value)) >= 1;
        else if (!strcmp(argv[i], "--reps"))
            ok = (reps = atoi(value)) >= 1 && reps <= MAX_REPS;
        else if (!strcmp(argv[i], "--part"))
            part = value;
        else if (!strcmp(argv[i], "--unit"))
            ok = (b->unit = (uint32_t)atoi(value)) >= 64;
        else if (!strcmp(argv[i], "--pool"))
            ok = (b->pool_bytes = (uint64_t)atoi(value) << 20) >= 64 << 20;
        else
            ok = false;
        if (!ok) {
            fprintf(stderr, "kernels: bad %s %s; usage is in the first comment of bench/kernels.c\n", argv[i], value);
            return 2;
        }
        i++;
    }
    b->weights = take(b->pool_bytes);
    make_acts(&b->in, EMBD);
    make_acts(&b->mid, FF);
    const uint64_t slots = 128 * 4 > USED ? 128 * 4 : USED;
    b->gate = take(slots * FF * sizeof(float));
    b->up = take(slots * FF * sizeof(float));
    b->down = take(slots * EMBD * sizeof(float));
    for (int i = 0; i < BATCH; i++) b->index[i] = (i * 37 + 11) % BATCH;
    printf("prefill columns: 8 16 32 64 128 tokens an expert\n");
    struct cpu_ops ref, best;
    cpu_ops_init(&ref, ISA_REF);
    cpu_ops_init(&best, to);
    for (int t = 0; t < TYPE_COUNT; t++)
        if ((synth_rows_known((enum tensor_type)t) || is_exl3((enum tensor_type)t)) &&
            (only == TYPE_COUNT ? best.types[t].matmul != ref.types[t].matmul : (int)only == t))
            measure_type(b, (enum tensor_type)t, from, to, threads, reps, part);
    return 0;
}
