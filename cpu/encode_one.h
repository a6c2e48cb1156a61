/* Fitting one scale a group: levels and scales that minimise sum w (x - scale * level)^2.
 *
 * Eight groups lie side by side, one a lane, so that searching is plain arithmetic on vectors: every lane tries its own scale.
 * Levels are integers in a row, or a table of integers in two rows of which a group picks one. Included by
 * encode_levels_<isa>.c after its vectors. */
#ifndef COLDSTREAM_ENCODE_ONE_H
#define COLDSTREAM_ENCODE_ONE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/encode_private.h"

enum { GROUP_MOST = 32, CELLS = 512, ROWS_MOST = 2, PAIR_CODES = 32 };

struct groups { /* lane j: group j */
    f8 x[GROUP_MOST], w[GROUP_MOST];
    f8 largest;     /* magnitude */
    f8 least, most; /* of x */
    f8 sum_w, sum_wx;
    int n; /* weights a group */
};

enum line_kind {
    LINE_EVEN, /* every integer from lo to hi */
    LINE_TABLE,
    LINE_PARITY, /* a table; the codes of weights 2r, 2r+1, 16+2r, 17+2r have an even number of bits set together */
    LINE_PAIRS,  /* weights 2r and 2r+1 take one of PAIR_CODES pairs */
};

/* What levels there are. Tables are kept as the nearest level of each half unit: midpoints of integers are multiples of 1/2. */
struct line {
    enum line_kind kind;
    int rows;
    float lo, hi;                    /* LINE_EVEN */
    float ends[2], top;              /* largest magnitude below zero and above, and of both */
    float nearest[ROWS_MOST][CELLS]; /* of [i/2 - 128, i/2 - 127.5); LINE_PARITY: of the codes with an even number of bits */
    float odd[ROWS_MOST][CELLS];     /* LINE_PARITY: of the others */
    const int8_t (*pairs)[2];        /* LINE_PAIRS */
};

/* The integers a scale may be: lo, lo + step, .. hi. */
struct whole {
    float lo, hi, step;
};

/* Scales to try at first: largest magnitude / (top * factor), factors from `from` to `to`, in both signs. */
struct trial {
    float from, to;
    int steps;
};

static inline f8 round8(f8 x) { return x + set8(0x1.8p23f) - set8(0x1.8p23f); } /* nearest even, of |x| < 2^22 */
static inline f8 clamp8(f8 x, float lo, float hi) { return min8(max8(x, set8(lo)), set8(hi)); }
static inline f8 inverse8(f8 s) { return where_less(abs8(s), set8(1e-30f), set8(0), 1.0f / s); }
static inline f8 per8(f8 x, float d) { return d != 0 ? x / set8(d) : set8(0); }

static inline double sum8(f8 x) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += (double)x[i];
    return sum;
}

/* Group j of `count` at x + j*n; lanes beyond them are zeros that weigh nothing to anyone. */
static void groups_load(struct groups *g, const float *x, const float *w, int n, int count) {
    g->n = n;
    g->largest = g->sum_w = g->sum_wx = set8(0);
    for (int i = 0; i < n; i++) {
        float xs[LANES] = {0}, ws[LANES] = {1, 1, 1, 1, 1, 1, 1, 1};
        for (int j = 0; j < count && j < LANES; j++) {
            xs[j] = x[j * n + i];
            ws[j] = w[j * n + i];
        }
        memcpy(&g->x[i], xs, sizeof xs);
        memcpy(&g->w[i], ws, sizeof ws);
    }
    g->least = g->most = g->x[0];
    for (int i = 0; i < n; i++) {
        g->largest = max8(g->largest, abs8(g->x[i]));
        g->least = min8(g->least, g->x[i]);
        g->most = max8(g->most, g->x[i]);
        g->sum_w += g->w[i];
        g->sum_wx += g->w[i] * g->x[i];
    }
}

/* ---- levels ----------------------------------------------------------------------------------------------------- */

static void line_even(struct line *l, int lo, int hi) {
    l->kind = LINE_EVEN;
    l->rows = 1;
    l->ends[0] = -(l->lo = (float)lo);
    l->ends[1] = l->hi = (float)hi;
    l->top = fmaxf(l->ends[0], l->ends[1]);
}

/* The nearest of the levels whose parity[code] is wanted, for each half unit; levels ascend. */
static void fill_cells(float cells[CELLS], const int8_t *levels, int count, int wanted) {
    int at = -1, next = -1;
    for (int i = 0; i < CELLS; i++) {
        const float middle = (float)i / 2 - 127.75f;
        for (;;) { /* `next`: the first wanted level above `at` */
            for (next = at + 1; next < count && wanted >= 0 && (__builtin_popcount((unsigned)next) & 1) != wanted;) next++;
            if (next >= count || (at >= 0 && fabsf(middle - levels[at]) <= fabsf(middle - levels[next]))) break;
            at = next;
        }
        cells[i] = levels[at];
    }
}

/* rows of `count` ascending levels each */
static void line_table(struct line *l, enum line_kind kind, const int8_t *levels, int count, int rows) {
    l->kind = kind;
    l->rows = rows;
    l->ends[0] = -(float)levels[0];
    l->ends[1] = levels[count - 1];
    l->top = fmaxf(l->ends[0], l->ends[1]);
    for (int r = 0; r < rows; r++) {
        fill_cells(l->nearest[r], levels + r * count, count, kind == LINE_PARITY ? 0 : -1);
        if (kind == LINE_PARITY) fill_cells(l->odd[r], levels + r * count, count, 1);
    }
}

static inline f8 cell_of(f8 x, f8 twice) { return round8(clamp8(x * twice - set8(0.5f), -256, 255)) + set8(256); }

static void assign_parity(const struct groups *g, const struct line *l, int row, f8 s, f8 *q) {
    const f8 twice = 2.0f * inverse8(s);
    for (int r = 0; r < 8; r++) {
        const int at[4] = {2 * r, 2 * r + 1, 16 + 2 * r, 17 + 2 * r};
        f8 gain = set8(INFINITY), where = set8(0), parity = set8(1), other[4]; /* parity: the product of signs, -1 for odd */
        for (int i = 0; i < 4; i++) {
            const f8 x = g->x[at[i]], cell = cell_of(x, twice);
            const f8 even = look_up(l->nearest[row], cell), odd = look_up(l->odd[row], cell);
            const f8 off_even = abs8(x - s * even), off_odd = abs8(x - s * odd);
            q[at[i]] = where_less(off_odd, off_even, odd, even);
            other[i] = where_less(off_odd, off_even, even, odd);
            parity = parity * where_less(off_odd, off_even, set8(-1), set8(1));
            const f8 costs = g->w[at[i]] * abs8(off_odd * off_odd - off_even * off_even);
            where = where_less(costs, gain, set8((float)i), where);
            gain = min8(costs, gain);
        }
        for (int i = 0; i < 4; i++) { /* in lanes of odd parity, the cheapest of the four gives way */
            const f8 stays = max8(parity, abs8(where - set8((float)i))); /* 0, else 1 or more */
            q[at[i]] = where_less(stays, set8(0.5f), other[i], q[at[i]]);
        }
    }
}

static void assign_pairs(const struct groups *g, const struct line *l, f8 s, f8 *q) {
    for (int i = 0; i < g->n; i += 2) {
        f8 least = set8(INFINITY), first = set8(0), second = set8(0);
        for (int c = 0; c < PAIR_CODES; c++) {
            const f8 a = set8(l->pairs[c][0]), b = set8(l->pairs[c][1]);
            const f8 off_a = g->x[i] - s * a, off_b = g->x[i + 1] - s * b;
            const f8 error = g->w[i] * off_a * off_a + g->w[i + 1] * off_b * off_b;
            first = where_less(error, least, a, first);
            second = where_less(error, least, b, second);
            least = min8(error, least);
        }
        q[i] = first;
        q[i + 1] = second;
    }
}

/* q: the best levels under these scales. */
static void assign(const struct groups *g, const struct line *l, int row, f8 s, f8 *q) {
    const f8 inverse = inverse8(s), twice = 2.0f * inverse;
    switch (l->kind) {
    case LINE_EVEN:
        for (int i = 0; i < g->n; i++) q[i] = round8(clamp8(g->x[i] * inverse, l->lo, l->hi));
        break;
    case LINE_TABLE:
        for (int i = 0; i < g->n; i++) q[i] = look_up(l->nearest[row], cell_of(g->x[i], twice));
        break;
    case LINE_PARITY: assign_parity(g, l, row, s, q); break;
    case LINE_PAIRS: assign_pairs(g, l, s, q); break;
    }
}

static inline f8 error_of(const struct groups *g, const f8 *q, f8 s) {
    f8 sum = set8(0);
    for (int i = 0; i < g->n; i++) {
        const f8 off = g->x[i] - s * q[i];
        sum += g->w[i] * off * off;
    }
    return sum;
}

/* wxq = sum w x q, wqq = sum w q^2 */
static inline void products(const struct groups *g, const f8 *q, f8 *wxq, f8 *wqq) {
    f8 a = set8(0), b = set8(0);
    for (int i = 0; i < g->n; i++) {
        const f8 wq = g->w[i] * q[i];
        a += wq * g->x[i];
        b += wq * q[i];
    }
    *wxq = a;
    *wqq = b;
}

/* ---- a scale of any value --------------------------------------------------------------------------------------- */

struct free_fit {
    f8 s, wqq, error;
};

/* Levels for s, then the scale that suits those levels best, when that beats `f`. */
static void try_scale(const struct groups *g, const struct line *l, int row, f8 s, struct free_fit *f) {
    f8 q[GROUP_MOST], wxq, wqq;
    assign(g, l, row, s, q);
    products(g, q, &wxq, &wqq);
    const f8 better = where_less(wqq, set8(1e-30f), set8(0), wxq / wqq), error = error_of(g, q, better);
    f->s = where_less(error, f->error, better, f->s);
    f->wqq = where_less(error, f->error, wqq, f->wqq);
    f->error = min8(error, f->error);
}

static struct free_fit fit_free(const struct groups *g, const struct line *l, const struct trial *t) {
    enum { POLISH = 3, FAR = 6 };
    struct free_fit best = {set8(0), set8(0), set8(INFINITY)};
    const float ratio = powf(t->to / t->from, 1.0f / (float)(t->steps - 1));
    for (int row = 0; row < l->rows; row++) {
        struct free_fit f = {set8(0), set8(0), set8(INFINITY)};
        float factor = t->from;
        for (int i = 0; i < t->steps; i++, factor *= ratio) {
            const f8 s = g->largest / set8(l->top * factor);
            try_scale(g, l, row, s, &f);
            try_scale(g, l, row, -s, &f);
        }
        for (int i = 0; i < FAR; i++) { /* one weight is far from all others, and does not matter */
            factor *= 1.3f;
            try_scale(g, l, row, g->largest / set8(l->top * factor), &f);
            try_scale(g, l, row, -g->largest / set8(l->top * factor), &f);
        }
        for (int i = 0; i < 2; i++) { /* where rows lie that are levels already */
            try_scale(g, l, row, g->largest / set8(l->ends[i]), &f);
            try_scale(g, l, row, -g->largest / set8(l->ends[i]), &f);
        }
        for (int i = 0; i < POLISH; i++) try_scale(g, l, row, f.s, &f);
        best.s = where_less(f.error, best.error, f.s, best.s);
        best.wqq = where_less(f.error, best.error, f.wqq, best.wqq);
        best.error = min8(f.error, best.error);
    }
    return best;
}

/* ---- scales d * whole numbers ----------------------------------------------------------------------------------- */

enum { HALVES = 2 /* times eight groups: the most in a super-block */ };

struct picked {
    f8 ls[HALVES], row[HALVES]; /* whole numbers */
    float d;
    double error;
};

struct super { /* of `halves` times eight groups */
    const struct line *line;
    struct whole whole;
    int halves;
    int window; /* whole numbers tried on either side */
    struct groups g[HALVES];
    struct free_fit f[HALVES];
};

static inline f8 nearest_whole(const struct whole *w, f8 x) {
    const f8 steps = (x - set8(w->lo)) / set8(w->step);
    return round8(clamp8(steps, 0, (w->hi - w->lo) / w->step)) * set8(w->step) + set8(w->lo);
}

/* What the scales' roundings would add to the error, if levels stayed. */
static inline double rounding_cost(const struct whole *w, const struct free_fit *f, float d) {
    const f8 off = f->s - set8(d) * nearest_whole(w, per8(f->s, d));
    return sum8(f->wqq * off * off);
}

/* The best whole numbers for d. */
static void pick(const struct super *b, float d, struct picked *p) {
    p->d = d;
    p->error = 0;
    for (int h = 0; h < b->halves; h++) {
        const f8 base = nearest_whole(&b->whole, per8(b->f[h].s, d));
        f8 least = set8(INFINITY), ls_best = base, row_best = set8(0), q[GROUP_MOST];
        for (int j = -b->window; j <= b->window; j++) {
            const f8 ls = clamp8(base + set8((float)j * b->whole.step), b->whole.lo, b->whole.hi), s = set8(d) * ls;
            for (int row = 0; row < b->line->rows; row++) {
                assign(&b->g[h], b->line, row, s, q);
                const f8 error = error_of(&b->g[h], q, s);
                ls_best = where_less(error, least, ls, ls_best);
                row_best = where_less(error, least, set8((float)row), row_best);
                least = min8(error, least);
            }
        }
        p->ls[h] = ls_best;
        p->row[h] = row_best;
        p->error += sum8(least);
    }
}

/* Levels of half h as picked. */
static void assign_picked(const struct super *b, const struct picked *p, int h, f8 *q) {
    const f8 s = set8(p->d) * p->ls[h];
    f8 second[GROUP_MOST];
    assign(&b->g[h], b->line, 0, s, q);
    if (b->line->rows == 1) return;
    assign(&b->g[h], b->line, 1, s, second);
    for (int i = 0; i < b->g[h].n; i++) q[i] = where_less(p->row[h], set8(0.5f), q[i], second[i]);
}

/* Sums whose quotient is the d that suits the picked whole numbers and their levels best. */
static void products_picked(const struct super *b, const struct picked *p, double *above, double *below) {
    for (int h = 0; h < b->halves; h++) {
        f8 q[GROUP_MOST], wxq, wqq;
        assign_picked(b, p, h, q);
        products(&b->g[h], q, &wxq, &wqq);
        *above += sum8(wxq * p->ls[h]);
        *below += sum8(wqq * p->ls[h] * p->ls[h]);
    }
}

static inline float half_of(float d) { return f16_to_f32(encode_f16(d)); }

/* The binary16 next to d that is not zero: weights whose d would vanish get the least there is. */
static inline float half_of_some(float d) {
    const float h = half_of(d);
    return h != 0 ? h : copysignf(0x1p-24f, d);
}

/* The scale of largest magnitude, with its sign. */
static float largest_scale(const struct super *b) {
    float largest = 0;
    for (int h = 0; h < b->halves; h++)
        for (int i = 0; i < LANES; i++)
            if (fabsf(b->f[h].s[i]) > fabsf(largest)) largest = b->f[h].s[i];
    return largest;
}

/* Candidates for d put the largest scale at `factor` times an end of the whole numbers: from FACTOR_FIRST, which cuts off
 * scales of little importance, down by a ratio each. A segment is PER_SEGMENT of them in a row; those of the lower end come
 * first. */
enum { SEGMENTS = 14, COARSE_SEGMENTS = 2 /* of either end */, PER_SEGMENT = 10, CANDIDATES = SEGMENTS + 1 };
#define FACTOR_FIRST 15.6f
#define FACTOR_COARSE 0.9f
#define FACTOR_FINE 0.9755f

struct candidate {
    float d; /* before rounding */
    double cost;
};

static int by_cost(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    return (x->cost > y->cost) - (x->cost < y->cost);
}

/* out[0]: the largest scale at an end, where blocks lie that were written before; then of each segment the one of least cost,
 * the best segment first. An end that is zero has none: what is left has an infinite cost. */
static void candidates(const float ends[2], float largest, double (*cost)(const void *ctx, float d), const void *ctx,
                       struct candidate out[CANDIDATES]) {
    float factor = FACTOR_FIRST;
    const double low = ends[0] != 0 ? cost(ctx, largest / ends[0]) : INFINITY, high = cost(ctx, largest / ends[1]);
    out[0] = (struct candidate){largest / ends[low > high], fmin(low, high)};
    for (int i = 0; i < SEGMENTS; i++) {
        const float end = ends[i >= SEGMENTS / 2], ratio = i % (SEGMENTS / 2) < COARSE_SEGMENTS ? FACTOR_COARSE : FACTOR_FINE;
        struct candidate best = {0, INFINITY};
        if (i == SEGMENTS / 2) factor = FACTOR_FIRST;
        for (int j = 0; j < PER_SEGMENT && end != 0; j++, factor *= ratio) {
            const struct candidate c = {largest / (end * factor), cost(ctx, largest / (end * factor))};
            if (c.cost < best.cost) best = c;
        }
        out[1 + i] = best;
    }
    qsort(out + 1, SEGMENTS, sizeof *out, by_cost);
}

/* How many of them to try after the first: one where rounding scales costs little beside `error`, what the fits leave. Where a
 * few scales outgrow the others, costs are guesses, and all are tried. */
static int worth_trying(const struct candidate *c, double error) {
    int most = 0;
    while (most < SEGMENTS && isfinite(c[1 + most].cost)) most++;
    return c[1].cost > error / 4 || most == 0 ? most : 1;
}

static double block_cost(const void *ctx, float d) {
    const struct super *b = ctx;
    double sum = 0;
    for (int h = 0; h < b->halves; h++) sum += rounding_cost(&b->whole, &b->f[h], half_of_some(d));
    return sum;
}

/* d and the whole numbers of a super-block whose d is a binary16. */
static void fit_super(const struct super *b, struct picked *best) {
    enum { REFINE = 2 };
    const float largest = largest_scale(b);
    *best = (struct picked){.error = INFINITY};
    pick(b, 0, best);
    if (largest == 0) return;
    struct candidate c[CANDIDATES];
    double error = 0;
    for (int h = 0; h < b->halves; h++) error += sum8(b->f[h].error);
    candidates((float[2]){b->whole.lo, b->whole.hi}, largest, block_cost, b, c);
    const int count = worth_trying(c, error);
    for (int i = 0; i <= count; i++) {
        struct picked p;
        pick(b, half_of_some(c[i].d), &p);
        if (p.error < best->error) *best = p;
    }
    for (int i = 0; i < REFINE; i++) {
        double above = 0, below = 0;
        products_picked(b, best, &above, &below);
        const float better = below > 0 ? half_of((float)(above / below)) : 0;
        if (better == 0 || better == best->d) break;
        struct picked p;
        pick(b, better, &p);
        if (!(p.error < best->error)) break;
        *best = p;
    }
}

#endif
