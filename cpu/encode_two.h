/* Fitting a scale and a minimum a group: levels 0..top and two numbers that minimise sum w (x - scale * level - min)^2.
 *
 * Eight groups side by side, as in encode_one.h, whose helpers these use. */
#ifndef COLDSTREAM_ENCODE_TWO_H
#define COLDSTREAM_ENCODE_TWO_H

#include "cpu/encode_one.h"

struct two_recipe {
    int n;        /* weights a group */
    float top;    /* levels 0..top */
    bool no_plus; /* the minimum must not be above zero */
    float cut;    /* first trials cut up to `cuts - 1` times this part of the range off either end */
    int cuts;
    float scale_top; /* whole numbers of scales and minima: 0..scale_top */
    int window;      /* whole numbers tried on either side */
};

struct two_fit {
    f8 s, m, error;
    f8 wq, wqq; /* sums of w q, w q^2 at its levels */
};

static inline void assign_two(const struct groups *g, float top, f8 s, f8 m, f8 *q) {
    const f8 inverse = inverse8(s);
    for (int i = 0; i < g->n; i++) q[i] = round8(clamp8((g->x[i] - m) * inverse, 0, top));
}

static inline f8 error_two(const struct groups *g, const f8 *q, f8 s, f8 m) {
    f8 sum = set8(0);
    for (int i = 0; i < g->n; i++) {
        const f8 off = g->x[i] - s * q[i] - m;
        sum += g->w[i] * off * off;
    }
    return sum;
}

/* Levels for (s, m), then the scale and minimum that suit those levels best, when they beat `f`. Normal equations:
 *     s wqq + m wq = wqx,  s wq + m sum_w = sum_wx */
static void try_two(const struct groups *g, const struct two_recipe *r, f8 s, f8 m, struct two_fit *f) {
    f8 q[GROUP_MOST], wq = set8(0), wqq = set8(0), wqx = set8(0);
    const f8 zero = set8(0);
    assign_two(g, r->top, s, m, q);
    for (int i = 0; i < g->n; i++) {
        const f8 a = g->w[i] * q[i];
        wq += a;
        wqq += a * q[i];
        wqx += a * g->x[i];
    }
    const f8 det = g->sum_w * wqq - wq * wq, flat = 1e-6f * g->sum_w * wqq;
    f8 scale = (g->sum_w * wqx - wq * g->sum_wx) / det, min = (g->sum_wx - scale * wq) / g->sum_w;
    scale = where_less(flat, det, scale, zero); /* all levels the same: the minimum alone */
    min = where_less(flat, det, min, g->sum_wx / g->sum_w);
    if (r->no_plus) {
        const f8 alone = where_less(zero, wqq, wqx / wqq, zero);
        scale = where_less(zero, min, alone, scale);
        min = min8(min, zero);
    }
    scale = max8(scale, zero);
    const f8 error = error_two(g, q, scale, min);
    f->s = where_less(error, f->error, scale, f->s);
    f->m = where_less(error, f->error, min, f->m);
    f->wq = where_less(error, f->error, wq, f->wq);
    f->wqq = where_less(error, f->error, wqq, f->wqq);
    f->error = min8(error, f->error);
}

/* Both ends of the levels moved by parts of a level: what is best is seldom where a trial's levels lead. */
static void try_near(const struct groups *g, const struct two_recipe *r, struct two_fit *f) {
    enum { NEAR = 3 };
    const float part = 0.2f;
    const f8 s = f->s, m = f->m;
    for (int a = -NEAR; a <= NEAR; a++)
        for (int b = -NEAR; b <= NEAR; b++) {
            const float low = part * (float)a, high = part * (float)b;
            if (a || b) try_two(g, r, s * set8(1 + (high - low) / r->top), m + s * set8(low), f);
        }
}

static struct two_fit fit_two(const struct groups *g, const struct two_recipe *r) {
    enum { POLISH = 3 };
    const f8 zero = set8(0), least = r->no_plus ? min8(g->least, zero) : g->least;
    const f8 range = max8(g->most - least, zero);
    struct two_fit f = {zero, zero, set8(INFINITY), zero, zero};
    for (int a = 0; a < r->cuts; a++)
        for (int b = 0; b < r->cuts; b++) {
            const float from = r->cut * (float)a, part = 1 - from - r->cut * (float)b;
            try_two(g, r, range * set8(part / r->top), least + range * set8(from), &f);
        }
    for (int i = 0; i < POLISH; i++) try_two(g, r, f.s, f.m, &f);
    try_near(g, r, &f);
    for (int i = 0; i < POLISH; i++) try_two(g, r, f.s, f.m, &f);
    return f;
}

/* ---- scales d * whole numbers, minima dmin * whole numbers ------------------------------------------------------- */

struct two_picked {
    f8 scale[HALVES], min[HALVES]; /* whole numbers */
    float d, dmin;
    double error;
};

struct two_super { /* of `halves` times eight groups */
    const struct two_recipe *recipe;
    int halves;
    struct groups g[HALVES];
    struct two_fit f[HALVES];
    float d; /* while candidates for dmin are compared */
};

static inline f8 whole8(f8 x, float top) { return round8(clamp8(x, 0, top)); }

/* Where the minimum best goes when the scale is `s` and levels stay: minus it, which is what dmin multiplies. */
static inline f8 depth_at(const struct groups *g, const struct two_fit *f, f8 s) {
    return (f->wq / g->sum_w) * (s - f->s) - f->m;
}

/* What the scales' roundings would add to the error, if levels stayed and minima followed. */
static double scale_cost(const void *ctx, float any) {
    const struct two_super *b = ctx;
    const float d = half_of_some(any);
    double sum = 0;
    for (int h = 0; h < b->halves; h++) {
        const struct two_fit *f = &b->f[h];
        const f8 off = f->s - set8(d) * whole8(per8(f->s, d), b->recipe->scale_top);
        sum += sum8((f->wqq - f->wq * f->wq / b->g[h].sum_w) * off * off);
    }
    return sum;
}

static double min_cost(const void *ctx, float any) {
    const struct two_super *b = ctx;
    const float dmin = half_of_some(any);
    double sum = 0;
    for (int h = 0; h < b->halves; h++) {
        const struct two_fit *f = &b->f[h];
        const f8 s = set8(b->d) * whole8(per8(f->s, b->d), b->recipe->scale_top), depth = depth_at(&b->g[h], f, s);
        const f8 off = depth - set8(dmin) * whole8(per8(depth, dmin), b->recipe->scale_top);
        sum += sum8(b->g[h].sum_w * off * off);
    }
    return sum;
}

static float largest_lane(const f8 *x, int halves) {
    float largest = 0;
    for (int h = 0; h < halves; h++)
        for (int i = 0; i < LANES; i++) largest = fmaxf(largest, x[h][i]);
    return largest;
}

/* The best whole numbers for d and dmin. */
static void pick_two(const struct two_super *b, float d, float dmin, struct two_picked *p) {
    const struct two_recipe *r = b->recipe;
    p->d = d;
    p->dmin = dmin;
    p->error = 0;
    for (int h = 0; h < b->halves; h++) {
        const struct groups *g = &b->g[h];
        const f8 base = whole8(per8(b->f[h].s, d), r->scale_top);
        f8 least = set8(INFINITY), scale_best = base, min_best = set8(0), q[GROUP_MOST];
        for (int j = -r->window; j <= r->window; j++) {
            const f8 scale = clamp8(base + set8((float)j), 0, r->scale_top), s = set8(d) * scale;
            const f8 deep = whole8(per8(depth_at(g, &b->f[h], s), dmin), r->scale_top);
            for (int i = -r->window; i <= r->window; i++) {
                const f8 min = clamp8(deep + set8((float)i), 0, r->scale_top), m = -(set8(dmin) * min);
                assign_two(g, r->top, s, m, q);
                const f8 error = error_two(g, q, s, m);
                scale_best = where_less(error, least, scale, scale_best);
                min_best = where_less(error, least, min, min_best);
                least = min8(error, least);
            }
        }
        p->scale[h] = scale_best;
        p->min[h] = min_best;
        p->error += sum8(least);
    }
}

static inline void assign_two_picked(const struct two_super *b, const struct two_picked *p, int h, f8 *q) {
    assign_two(&b->g[h], b->recipe->top, set8(p->d) * p->scale[h], -(set8(p->dmin) * p->min[h]), q);
}

/* d and dmin that suit the picked whole numbers and their levels best; false when the equations say nothing. */
static bool refit_two(const struct two_super *b, const struct two_picked *p, float *d, float *dmin) {
    double a11 = 0, a12 = 0, a22 = 0, b1 = 0, b2 = 0;
    for (int h = 0; h < b->halves; h++) {
        const struct groups *g = &b->g[h];
        f8 q[GROUP_MOST], wq = set8(0), wqq = set8(0), wqx = set8(0);
        assign_two_picked(b, p, h, q);
        for (int i = 0; i < g->n; i++) {
            const f8 a = g->w[i] * q[i];
            wq += a;
            wqq += a * q[i];
            wqx += a * g->x[i];
        }
        a11 += sum8(p->scale[h] * p->scale[h] * wqq);
        a12 -= sum8(p->scale[h] * p->min[h] * wq);
        a22 += sum8(p->min[h] * p->min[h] * g->sum_w);
        b1 += sum8(p->scale[h] * wqx);
        b2 -= sum8(p->min[h] * g->sum_wx);
    }
    const double det = a11 * a22 - a12 * a12;
    if (!(det > 1e-9 * a11 * a22)) { /* one of them multiplies nothing */
        *d = a11 > 0 ? half_of((float)(b1 / a11)) : 0;
        *dmin = a11 > 0 ? 0 : a22 > 0 ? half_of((float)(b2 / a22)) : 0;
    } else {
        *d = half_of((float)((b1 * a22 - b2 * a12) / det));
        *dmin = half_of((float)((b2 * a11 - b1 * a12) / det));
    }
    return *d >= 0 && *dmin >= 0;
}

static void fit_two_super(struct two_super *b, struct two_picked *best) {
    enum { REFINE = 2 };
    const float ends[2] = {0, b->recipe->scale_top};
    f8 scales[HALVES], depths[HALVES];
    double error = 0;
    for (int h = 0; h < b->halves; h++) {
        b->f[h] = fit_two(&b->g[h], b->recipe);
        scales[h] = b->f[h].s;
        depths[h] = -b->f[h].m;
        error += sum8(b->f[h].error);
    }
    const float scale = largest_lane(scales, b->halves), depth = largest_lane(depths, b->halves);
    struct candidate d[CANDIDATES] = {{0}}, dmin[CANDIDATES] = {{0}};
    *best = (struct two_picked){.error = INFINITY};
    if (scale > 0) candidates(ends, scale, scale_cost, b, d);
    const int tries = scale > 0 ? worth_trying(d, error) : 0;
    for (int i = 0; i <= tries; i++) {
        b->d = scale > 0 ? half_of_some(d[i].d) : 0;
        if (depth > 0) candidates(ends, depth, min_cost, b, dmin);
        const int min_tries = depth > 0 ? worth_trying(dmin, error) : 0;
        for (int j = 0; j <= min_tries; j++) {
            struct two_picked p;
            pick_two(b, b->d, depth > 0 ? half_of_some(dmin[j].d) : 0, &p);
            if (p.error < best->error) *best = p;
        }
    }
    for (int i = 0; i < REFINE; i++) {
        struct two_picked p;
        float better, better_min;
        if (!refit_two(b, best, &better, &better_min) || (better == best->d && better_min == best->dmin)) break;
        pick_two(b, better, better_min, &p);
        if (!(p.error < best->error)) break;
        *best = p;
    }
}

#endif
