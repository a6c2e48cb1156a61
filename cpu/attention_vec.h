/* Body of attention_avx2.c and attention_avx512.c, over the names of vec_<isa>.h, which is included first.
 *
 * The includer also defines KEYS, the positions in a tile, a multiple of ACCS.
 *
 * One pass over the positions in tiles, with a running maximum, sum and mix for every query row (a row is one head of one
 * query, so decoding one token has `group` rows and each K and V row is read from memory once for all of them):
 *
 *     tile <- K of KEYS positions, widened to float    scores[key][row] = scale * sum_c tile[key][c] * q[c][row]
 *     new maximum m', shrink = e^(m - m'), weights = e^(scores - m') in place, total = total * shrink + sum of weights
 *     tile <- V of the same positions                  mixed[c][row] = mixed * shrink + sum_key weights * tile
 *
 * Vector lanes are query rows: K and V enter the products as broadcast scalars, so nothing is transposed but q and the result,
 * and the softmax needs no horizontal step. Where at most half of the lanes would be used (decoding with 8 heads on
 * AVX-512), a row takes two lanes, one for even and one for odd columns ("phases" = 2).
 *
 * A query's result does not depend on the other queries of the call: tiles start at fixed positions, a hidden position has
 * weight 0 and its terms change nothing, and every sum has one order. For that, a score of the plain form is summed in PARITIES
 * separate parts, as the two lanes of the paired form do. Results of different instruction sets differ in rounding.
 *
 * Splitting one query's positions over threads would stop before finish(): (max, total, mixed) of each part, weighted by
 * e^(max - common max), add up to the whole. */
#ifndef COLDSTREAM_ATTENTION_VEC_H
#define COLDSTREAM_ATTENTION_VEC_H

#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/vec_exp.h"

#define UNROLLED static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum {
    STRIDE_UNIT = ACCS * PARITIES,                                    /* most columns that one mixing block covers */
    STRIDE_128 = (128 + STRIDE_UNIT - 1) / STRIDE_UNIT * STRIDE_UNIT, /* of a tile when dh is 128, as in every real model */
    GROUPS = ATTENTION_ROWS / LANES,
};
_Static_assert(KEYS % ACCS == 0 && KEYS <= (int)ATTENTION_KEYS_MAX && STRIDE_UNIT <= (int)ATTENTION_PAD, "scratch");

struct tile;

/* Rows that advance together in `width` lanes. Arrays are [..][width], lane = phases * row. */
struct rows {
    size_t begin, count; /* row r of the call is head r % group of query r / group */
    size_t width;        /* lanes: vectors * LANES */
    size_t phases;
    size_t lowest, highest; /* positions of the first and the last row's queries */
    float *q;               /* [dh / phases][width] */
    float *mixed;           /* [stride / phases][width] */
    float *weights;         /* [KEYS][width] */
    float *max, *total, *shrink;
    void (*weigh)(const struct attention *a, const struct rows *g, const struct tile *t);
    void (*mix)(const struct rows *g, const struct tile *t);
};

/* K or V of positions begin .. begin + count - 1 as floats. `ahead` is what will be read from memory next. */
struct tile {
    float *at;     /* [KEYS][stride], zero beyond dh */
    size_t stride; /* dh rounded up to STRIDE_UNIT */
    size_t dh, begin, count;
    uintptr_t ahead;
};

/* The count of tile positions that any row of g sees; at least 1. */
static inline size_t visible(const struct rows *g, const struct tile *t) {
    const size_t to_highest = g->highest - t->begin + 1;
    return to_highest < t->count ? to_highest : t->count;
}

/* `stride` is t->stride, as a constant where one can be given: then the keys need one register for all their addresses. */
UNROLLED void scores_block(const struct rows *g, const struct tile *t, size_t first, size_t stride, vf scale, int vectors,
                           int phases) {
    const int parts = PARITIES / phases, keys = ACCS / vectors / parts;
    const size_t width = (size_t)vectors * LANES;
    const float *q = g->q, *k = t->at + first * stride;
    const uintptr_t ahead = t->ahead + first * t->dh * sizeof(uint16_t);
    vf sum[ACCS];
    UNROLL for (int i = 0; i < ACCS; i++) sum[i] = vf_set1(0);
    for (size_t c = 0; c < t->dh; c += PARITIES) {
        __builtin_prefetch((const void *)(ahead + c * (size_t)keys * sizeof(uint16_t)));
        UNROLL for (int part = 0; part < parts; part++, q += width) {
            vf lanes[2];
            UNROLL for (int v = 0; v < vectors; v++) lanes[v] = vf_load(q + v * LANES);
            UNROLL for (int key = 0; key < keys; key++) {
                const float *at = k + (size_t)key * stride + c + (size_t)part;
                const vf one = phases == 2 ? vf_set_pair(at) : vf_set1(*at);
                UNROLL for (int v = 0; v < vectors; v++) {
                    vf *s = &sum[(key * vectors + v) * parts + part];
                    *s = vf_fma(one, lanes[v], *s);
                }
            }
        }
    }
    UNROLL for (int i = 0; i < keys * vectors; i++) {
        vf whole = sum[i * parts];
        if (parts == 2) whole = whole + sum[i * parts + 1];
        if (phases == 2) whole = vf_pair_sum(whole);
        vf_store(g->weights + first * width + (size_t)i * LANES, whole * scale);
    }
}

/* Positions after a row's own become -infinity. */
static void hide_future(const struct attention *a, const struct rows *g, const struct tile *t, size_t keys) {
    float limit[2 * LANES];
    for (size_t lane = 0; lane < g->width; lane++) {
        const size_t row = lane / g->phases < g->count ? lane / g->phases : g->count - 1;
        const size_t position = a->first + (g->begin + row) / a->group;
        limit[lane] = position < t->begin ? -1 : position - t->begin < KEYS ? (float)(position - t->begin) : KEYS;
    }
    for (size_t v = 0; v < g->width; v += LANES)
        for (size_t key = 0; key < keys; key++) {
            float *s = g->weights + key * g->width + v;
            vf_store(s, vf_where_le(vf_set1((float)key), vf_load(limit + v), vf_load(s), vf_set1(-INFINITY)));
        }
}

UNROLLED void weigh(const struct attention *a, const struct rows *g, const struct tile *t, int vectors, int phases) {
    const size_t block = (size_t)(ACCS / vectors / (PARITIES / phases)), width = (size_t)vectors * LANES, keys = visible(g, t);
    const vf scale = vf_set1(a->scale);
    if (t->stride == STRIDE_128)
        for (size_t first = 0; first < keys; first += block) scores_block(g, t, first, STRIDE_128, scale, vectors, phases);
    else
        for (size_t first = 0; first < keys; first += block) scores_block(g, t, first, t->stride, scale, vectors, phases);
    if (t->begin + keys - 1 > g->lowest) hide_future(a, g, t, keys);
    for (size_t v = 0; v < width; v += LANES) {
        const vf old = vf_load(g->max + v);
        vf max = old, sum = vf_set1(0);
        for (size_t key = 0; key < keys; key++) max = vf_max(max, vf_load(g->weights + key * width + v));
        for (size_t key = 0; key < keys; key++) {
            const vf weight = vf_exp(vf_load(g->weights + key * width + v) - max);
            vf_store(g->weights + key * width + v, weight);
            sum = sum + weight;
        }
        const vf shrink = vf_exp(old - max);
        vf_store(g->max + v, max);
        vf_store(g->shrink + v, shrink);
        vf_store(g->total + v, vf_fma(vf_load(g->total + v), shrink, sum));
    }
}

UNROLLED void mix_block(const struct rows *g, const struct tile *t, size_t first, size_t keys, int vectors, int phases) {
    const int columns = ACCS / vectors;
    const size_t width = (size_t)vectors * LANES, ahead_step = (size_t)(columns * phases) * sizeof(uint16_t);
    const uintptr_t ahead = t->ahead + first * KEYS * sizeof(uint16_t);
    const float *values = t->at + first, *weights = g->weights;
    vf sum[ACCS];
    UNROLL for (int i = 0; i < ACCS; i++) sum[i] = vf_set1(0);
    for (size_t key = 0; key < keys; key++, weights += width, values += t->stride) {
        __builtin_prefetch((const void *)(ahead + key * ahead_step));
        vf lanes[2];
        UNROLL for (int v = 0; v < vectors; v++) lanes[v] = vf_load(weights + v * LANES);
        UNROLL for (int c = 0; c < columns; c++) {
            const vf one = phases == 2 ? vf_set_pair(values + 2 * c) : vf_set1(values[c]);
            UNROLL for (int v = 0; v < vectors; v++) sum[c * vectors + v] = vf_fma(one, lanes[v], sum[c * vectors + v]);
        }
    }
    float *mixed = g->mixed + first / (size_t)phases * width;
    UNROLL for (int c = 0; c < columns; c++) UNROLL for (int v = 0; v < vectors; v++) {
        float *m = mixed + (size_t)(c * vectors + v) * LANES;
        vf_store(m, vf_fma(vf_load(m), vf_load(g->shrink + v * LANES), sum[c * vectors + v]));
    }
}

UNROLLED void mix(const struct rows *g, const struct tile *t, int vectors, int phases) {
    const size_t keys = visible(g, t), block = (size_t)(ACCS / vectors * phases);
    for (size_t c = 0; c < t->dh; c += block) mix_block(g, t, c, keys, vectors, phases);
}

#define FORM(name, vectors, phases)                                                                                            \
    static void weigh_##name(const struct attention *a, const struct rows *g, const struct tile *t) {                          \
        weigh(a, g, t, vectors, phases);                                                                                       \
    }                                                                                                                          \
    static void mix_##name(const struct rows *g, const struct tile *t) { mix(g, t, vectors, phases); }

FORM(wide, 2, 1)
FORM(narrow, 1, 1)
FORM(paired, 1, PARITIES)

/* Widen `count` rows of dh binary16 into t->at. */
static void open_tile(const uint16_t *rows, size_t row_stride, struct tile *t) {
    const size_t whole = t->dh / LANES * LANES;
    for (size_t r = 0; r < t->count; r++) {
        const uint16_t *from = rows + (t->begin + r) * row_stride;
        float *to = t->at + r * t->stride;
        for (size_t c = 0; c < whole; c += LANES) vf_store(to + c, vf_from_f16(from + c));
        if (whole < t->stride) {
            uint16_t tail[LANES] = {0};
            float wide[LANES];
            memcpy(tail, from + whole, (t->dh - whole) * sizeof *tail);
            vf_store(wide, vf_from_f16(tail));
            for (size_t c = whole; c < t->stride; c++) to[c] = c < t->dh ? wide[c - whole] : 0;
        }
    }
}

/* Rows [begin, begin + left) of the call, as many as fit, with q transposed. */
static size_t start_rows(const struct attention *a, size_t begin, size_t left, size_t stride, struct rows *g) {
    const bool paired = PARITIES == 2 && left <= LANES / 2, narrow = left <= LANES;
    g->phases = paired ? PARITIES : 1;
    g->width = narrow ? LANES : 2 * LANES;
    g->begin = begin;
    g->count = left < g->width ? left : g->width;
    g->lowest = a->first + begin / a->group;
    g->highest = a->first + (begin + g->count - 1) / a->group;
    g->weigh = paired ? weigh_paired : narrow ? weigh_narrow : weigh_wide;
    g->mix = paired ? mix_paired : narrow ? mix_narrow : mix_wide;
    memset(g->q, 0, a->dh / g->phases * g->width * sizeof *g->q);
    memset(g->mixed, 0, stride / g->phases * g->width * sizeof *g->mixed);
    memset(g->total, 0, g->width * sizeof *g->total);
    for (size_t lane = 0; lane < g->width; lane++) g->max[lane] = -INFINITY;
    for (size_t r = 0; r < g->count; r++) {
        const float *q = a->q + (begin + r) / a->group * a->q_stride + (begin + r) % a->group * a->dh;
        float *lane = g->q + r * g->phases;
        for (size_t c = 0; c < a->dh; c += g->phases, lane += g->width)
            for (size_t phase = 0; phase < g->phases; phase++) lane[phase] = q[c + phase];
    }
    return g->count;
}

static void finish_rows(const struct attention *a, const struct rows *g) {
    for (size_t r = 0; r < g->count; r++) {
        float *out = a->out + (g->begin + r) / a->group * a->out_stride + (g->begin + r) % a->group * a->dh;
        const float factor = 1 / g->total[r * g->phases];
        const float *lane = g->mixed + r * g->phases;
        for (size_t c = 0; c < a->dh; c += g->phases, lane += g->width)
            for (size_t phase = 0; phase < g->phases; phase++) out[c + phase] = lane[phase] * factor;
    }
}

static void attend_rows(const struct attention *a, size_t begin, size_t count) {
    const size_t stride = (a->dh + STRIDE_UNIT - 1) / STRIDE_UNIT * STRIDE_UNIT;
    struct rows groups[GROUPS];
    size_t n = 0, lanes = 0;
    float *at = a->scratch;
    struct tile t = {.at = at, .stride = stride, .dh = a->dh};
    at += KEYS * stride;
    for (size_t done = 0; done < count; n++) {
        struct rows *g = &groups[n];
        *g = (struct rows){.q = at + lanes * a->dh,
                           .mixed = at + ATTENTION_ROWS * a->dh + lanes * stride,
                           .weights = at + ATTENTION_ROWS * (a->dh + stride) + lanes * KEYS,
                           .max = at + ATTENTION_ROWS * (a->dh + stride + KEYS) + lanes};
        g->total = g->max + ATTENTION_ROWS;
        g->shrink = g->total + ATTENTION_ROWS;
        done += start_rows(a, begin + done, count - done, stride, g);
        lanes += g->width;
    }
    const size_t end = groups[n - 1].highest + 1;
    for (; t.begin < end; t.begin += KEYS) {
        t.count = end - t.begin < KEYS ? end - t.begin : KEYS;
        t.ahead = (uintptr_t)(a->v + t.begin * a->kv_stride);
        open_tile(a->k, a->kv_stride, &t);
        for (size_t i = 0; i < n; i++)
            if (groups[i].highest >= t.begin) groups[i].weigh(a, &groups[i], &t);
        t.ahead = (uintptr_t)(a->k + (t.begin + KEYS) * a->kv_stride);
        open_tile(a->v, a->kv_stride, &t);
        for (size_t i = 0; i < n; i++)
            if (groups[i].highest >= t.begin) groups[i].mix(&groups[i], &t);
    }
    for (size_t i = 0; i < n; i++) finish_rows(a, &groups[i]);
}

static void attention_tiled(const struct attention *a) {
    const size_t rows = a->n * a->group;
    for (size_t begin = 0; begin < rows; begin += ATTENTION_ROWS)
        attend_rows(a, begin, rows - begin < ATTENTION_ROWS ? rows - begin : ATTENTION_ROWS);
}

#endif
