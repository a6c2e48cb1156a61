/* From fits to blocks: the types with levels on a line, each a recipe of levels, groups and whole numbers, and how its bits lie
 * (core/tensor.h). Included by encode_levels_<isa>.c. */
#ifndef COLDSTREAM_ENCODE_TYPES_H
#define COLDSTREAM_ENCODE_TYPES_H

#include "core/codebooks.h"
#include "cpu/encode_two.h"

/* ---- codes into bits: of weight i, g = i/32, l = i%32, as in core/tensor.h --------------------------------------- */

static void pack_nibbles(uint8_t *qs, const uint8_t *code) { /* of 32 weights: j low, 16+j high */
    for (int j = 0; j < 16; j++) qs[j] = (uint8_t)((code[j] & 15) | (code[16 + j] & 15) << 4);
}

static void pack_halves(uint8_t *qs, const uint8_t *code) {
    for (int g = 0; g < 8; g++) pack_nibbles(qs + 16 * g, code + 32 * g);
}

static void pack_pairs(uint8_t *qs, const uint8_t *code) {
    for (int i = 0; i < 128; i++)
        qs[i] = (uint8_t)((code[i / 32 * 64 + i % 32] & 15) | (code[i / 32 * 64 + 32 + i % 32] & 15) << 4);
}

static void pack_planes(uint8_t *qs, const uint8_t *code, int shift) { /* two bits from `shift` up */
    for (int i = 0; i < 64; i++) {
        const uint8_t *c = code + i / 32 * 128 + i % 32;
        qs[i] =
            (uint8_t)((c[0] >> shift & 3) | (c[32] >> shift & 3) << 2 | (c[64] >> shift & 3) << 4 | (c[96] >> shift & 3) << 6);
    }
}

static void pack_bit(uint8_t *qh, const uint8_t *code, int bit) { /* bit g of byte l */
    memset(qh, 0, 32);
    for (int i = 0; i < QK_K; i++) qh[i % 32] = (uint8_t)(qh[i % 32] | (code[i] >> bit & 1) << i / 32);
}

static void put_nibble(uint8_t *a, int n, int value) { /* into zeroed bytes */
    a[n / 2] = (uint8_t)(a[n / 2] | (value & 15) << 4 * (n & 1));
}

static void put_crumb(uint8_t *a, int n, int value) { a[n / 4] = (uint8_t)(a[n / 4] | (value & 3) << 2 * (n & 3)); }

/* ---- 32 weights and one scale ----------------------------------------------------------------------------------- */

struct small_recipe {
    int lo, hi;           /* levels, or */
    const int8_t *levels; /* a table of 16 */
    struct trial trial;
    size_t bytes;
    void (*pack)(uint16_t d, const int *level, void *block);
};

static f8 nearest_half(f8 s, int step) { /* `step` binary16 further from zero */
    for (int i = 0; i < LANES; i++) {
        const uint16_t h = encode_f16(s[i]);
        const int magnitude = (h & 0x7fff) + step;
        s[i] = f16_to_f32((uint16_t)((h & 0x8000) | (magnitude < 0 ? 0 : magnitude > 0x7bff ? 0x7bff : magnitude)));
    }
    return s;
}

/* The binary16 near s whose levels fit best: rounding s costs when it is small, and a neighbour may suit the levels better.
 * Also where rows lie that are levels already. */
static f8 fit_half(const struct groups *g, const struct line *l, f8 s, f8 *q) {
    const f8 d[] = {nearest_half(s, 0), nearest_half(s, -1), nearest_half(s, 1), nearest_half(g->largest / set8(l->ends[0]), 0),
                    nearest_half(-g->largest / set8(l->ends[0]), 0)};
    f8 best = d[0], least = set8(INFINITY);
    for (size_t i = 0; i < sizeof d / sizeof *d; i++) {
        assign(g, l, 0, d[i], q);
        const f8 error = error_of(g, q, d[i]);
        best = where_less(error, least, d[i], best);
        least = min8(error, least);
    }
    assign(g, l, 0, best, q);
    return best;
}

static void encode_small(const struct small_recipe *r, const float *x, const float *w, size_t k, void *out) {
    struct line l;
    struct groups g;
    f8 q[GROUP_MOST];
    if (r->levels)
        line_table(&l, LINE_TABLE, r->levels, 16, 1);
    else
        line_even(&l, r->lo, r->hi);
    for (size_t block = 0; block < k / 32; block += LANES) {
        const int count = k / 32 - block < LANES ? (int)(k / 32 - block) : LANES;
        groups_load(&g, x + block * 32, w + block * 32, 32, count);
        const f8 d = fit_half(&g, &l, fit_free(&g, &l, &r->trial).s, q);
        for (int j = 0; j < count; j++) {
            int level[32];
            for (int i = 0; i < 32; i++) level[i] = (int)q[i][j];
            r->pack(encode_f16(d[j]), level, (uint8_t *)out + (block + (size_t)j) * r->bytes);
        }
    }
}

static void codes_from(const int *level, int lo, int n, uint8_t *code) {
    for (int i = 0; i < n; i++) code[i] = (uint8_t)(level[i] - lo);
}

static void pack_q4_0(uint16_t d, const int *level, void *block) {
    struct block_q4_0 b = {.d = d};
    uint8_t code[32];
    codes_from(level, -8, 32, code);
    pack_nibbles(b.qs, code);
    memcpy(block, &b, sizeof b);
}

static void pack_fifth(uint8_t qh[4], const uint8_t *code) {
    for (int i = 0; i < 32; i++) qh[i / 8] = (uint8_t)(qh[i / 8] | (code[i] >> 4 & 1) << i % 8);
}

static void pack_q5_0(uint16_t d, const int *level, void *block) {
    struct block_q5_0 b = {.d = d};
    uint8_t code[32];
    codes_from(level, -16, 32, code);
    pack_nibbles(b.qs, code);
    pack_fifth(b.qh, code);
    memcpy(block, &b, sizeof b);
}

static void pack_q6_0(uint16_t d, const int *level, void *block) {
    struct block_q6_0 b = {.d = d};
    uint8_t code[32];
    codes_from(level, -32, 32, code);
    pack_nibbles(b.qs, code);
    for (int j = 0; j < 16; j++) {
        const int high = code[j] >> 4 | (code[16 + j] >> 4) << 2;
        b.qh[j % 8] = (uint8_t)(b.qh[j % 8] | high << (j < 8 ? 0 : 4));
    }
    memcpy(block, &b, sizeof b);
}

static void pack_q8_0(uint16_t d, const int *level, void *block) {
    struct block_q8_0 b = {.d = d};
    for (int i = 0; i < 32; i++) b.qs[i] = (int8_t)level[i];
    memcpy(block, &b, sizeof b);
}

static int code_of(const int8_t *levels, int count, int level) {
    for (int c = 0; c < count; c++)
        if (levels[c] == level) return c;
    return 0;
}

static void pack_iq4_nl(uint16_t d, const int *level, void *block) {
    struct block_iq4_nl b = {.d = d};
    uint8_t code[32];
    for (int i = 0; i < 32; i++) code[i] = (uint8_t)code_of(codebook_v4[0], 16, level[i]);
    pack_nibbles(b.qs, code);
    memcpy(block, &b, sizeof b);
}

static const struct small_recipe recipe_q4_0 = {-8, 7, NULL, {0.75f, 2.0f, 28}, sizeof(struct block_q4_0), pack_q4_0};
static const struct small_recipe recipe_q5_0 = {-16, 15, NULL, {0.85f, 1.6f, 26}, sizeof(struct block_q5_0), pack_q5_0};
static const struct small_recipe recipe_q6_0 = {-32, 31, NULL, {0.85f, 1.3f, 24}, sizeof(struct block_q6_0), pack_q6_0};
static const struct small_recipe recipe_q8_0 = {-127, 127, NULL, {0.85f, 1.1f, 16}, sizeof(struct block_q8_0), pack_q8_0};
static const struct small_recipe recipe_iq4_nl = {0,          0, codebook_v4[0], {0.75f, 2.0f, 28}, sizeof(struct block_iq4_nl),
                                                  pack_iq4_nl};

/* MXFP4: the scale is a power of two, so all that come into question are tried. */
static void encode_mxfp4(const float *x, const float *w, size_t k, void *out) {
    enum { BELOW = 3, ABOVE = 1, MOST_E = 254 };
    static const int8_t ascending[15] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12};
    struct line l;
    struct groups g;
    line_table(&l, LINE_TABLE, ascending, 15, 1);
    for (size_t block = 0; block < k / 32; block += LANES) {
        const int count = k / 32 - block < LANES ? (int)(k / 32 - block) : LANES;
        f8 best = set8(0), least = set8(INFINITY), q[GROUP_MOST];
        groups_load(&g, x + block * 32, w + block * 32, 32, count);
        for (int step = -BELOW; step <= ABOVE; step++) {
            f8 s, e;
            for (int j = 0; j < LANES; j++) {
                int exponent;
                frexpf(g.largest[j] / 12, &exponent);
                const int stored = g.largest[j] > 0 ? exponent + 128 + step : 0;
                e[j] = (float)(stored < 0 ? 0 : stored > MOST_E ? MOST_E : stored);
                s[j] = ldexpf(1, (int)e[j] - 128);
            }
            assign(&g, &l, 0, s, q);
            const f8 error = error_of(&g, q, s);
            best = where_less(error, least, e, best);
            least = min8(error, least);
        }
        f8 s;
        for (int j = 0; j < LANES; j++) s[j] = ldexpf(1, (int)best[j] - 128);
        assign(&g, &l, 0, s, q);
        for (int j = 0; j < count; j++) {
            struct block_mxfp4 b = {.e = (uint8_t)best[j]};
            uint8_t code[32];
            for (int i = 0; i < 32; i++) code[i] = (uint8_t)code_of(codebook_mxfp4, 16, (int)q[i][j]);
            pack_nibbles(b.qs, code);
            memcpy((uint8_t *)out + (block + (size_t)j) * sizeof b, &b, sizeof b);
        }
    }
}

/* ---- 32 weights, scale and minimum ------------------------------------------------------------------------------ */

static const struct two_recipe recipe_q4_1 = {.n = 32, .top = 15, .cut = 0.03f, .cuts = 6};
static const struct two_recipe recipe_q5_1 = {.n = 32, .top = 31, .cut = 0.015f, .cuts = 6};

static void pack_q4_1(uint16_t d, uint16_t m, const uint8_t *code, void *block) {
    struct block_q4_1 b = {.d = d, .m = m};
    pack_nibbles(b.qs, code);
    memcpy(block, &b, sizeof b);
}

static void pack_q5_1(uint16_t d, uint16_t m, const uint8_t *code, void *block) {
    struct block_q5_1 b = {.d = d, .m = m};
    pack_nibbles(b.qs, code);
    pack_fifth(b.qh, code);
    memcpy(block, &b, sizeof b);
}

static void encode_small_two(const struct two_recipe *r, size_t bytes,
                             void (*pack)(uint16_t d, uint16_t m, const uint8_t *code, void *block), const float *x,
                             const float *w, size_t k, void *out) {
    struct groups g;
    f8 q[GROUP_MOST], s, m;
    for (size_t block = 0; block < k / 32; block += LANES) {
        const int count = k / 32 - block < LANES ? (int)(k / 32 - block) : LANES;
        groups_load(&g, x + block * 32, w + block * 32, 32, count);
        const struct two_fit f = fit_two(&g, r);
        for (int j = 0; j < LANES; j++) s[j] = half_of(f.s[j]);
        m = -depth_at(&g, &f, s);
        for (int j = 0; j < LANES; j++) m[j] = half_of(m[j]);
        assign_two(&g, r->top, s, m, q);
        for (int j = 0; j < count; j++) {
            uint8_t code[32];
            for (int i = 0; i < 32; i++) code[i] = (uint8_t)q[i][j];
            pack(encode_f16(s[j]), encode_f16(m[j]), code, (uint8_t *)out + (block + (size_t)j) * bytes);
        }
    }
}

static void encode_q4_1(const float *x, const float *w, size_t k, void *out) {
    encode_small_two(&recipe_q4_1, sizeof(struct block_q4_1), pack_q4_1, x, w, k, out);
}

static void encode_q5_1(const float *x, const float *w, size_t k, void *out) {
    encode_small_two(&recipe_q5_1, sizeof(struct block_q5_1), pack_q5_1, x, w, k, out);
}

/* ---- super-blocks with scales and minima ------------------------------------------------------------------------ */

struct coded { /* a super-block, ready to be packed */
    uint16_t d, dmin;
    int scale[16], min[16], row[16];
    int level[QK_K];
};

static void lanes_to_int(const f8 *lanes, int halves, int *out) {
    for (int h = 0; h < halves; h++)
        for (int i = 0; i < LANES; i++) out[h * LANES + i] = (int)lanes[h][i];
}

static void levels_to_int(const f8 *q, int h, int n, int *level) {
    for (int j = 0; j < LANES; j++)
        for (int i = 0; i < n; i++) level[(h * LANES + j) * n + i] = (int)q[i][j];
}

static void encode_two_supers(const struct two_recipe *r, size_t bytes, void (*pack)(const struct coded *, void *),
                              const float *x, const float *w, size_t k, void *out) {
    struct two_super b = {.recipe = r, .halves = QK_K / (LANES * r->n)};
    for (size_t block = 0; block < k / QK_K; block++) {
        struct two_picked p;
        struct coded c;
        f8 q[GROUP_MOST];
        for (int h = 0; h < b.halves; h++) {
            const size_t at = block * QK_K + (size_t)(h * LANES * r->n);
            groups_load(&b.g[h], x + at, w + at, r->n, LANES);
        }
        fit_two_super(&b, &p);
        c.d = encode_f16(p.d);
        c.dmin = encode_f16(p.dmin);
        lanes_to_int(p.scale, b.halves, c.scale);
        lanes_to_int(p.min, b.halves, c.min);
        for (int h = 0; h < b.halves; h++) {
            assign_two_picked(&b, &p, h, q);
            levels_to_int(q, h, r->n, c.level);
        }
        pack(&c, (uint8_t *)out + block * bytes);
    }
}

static void pack_q2_k(const struct coded *c, void *block) {
    struct block_q2_k b = {.d = c->d, .dmin = c->dmin};
    uint8_t code[QK_K];
    codes_from(c->level, 0, QK_K, code);
    pack_planes(b.qs, code, 0);
    for (int t = 0; t < 16; t++) b.scales[t] = (uint8_t)(c->scale[t] | c->min[t] << 4);
    memcpy(block, &b, sizeof b);
}

/* Eight 6-bit pairs in twelve bytes: the first four plainly, of the others four bits each and the rest above the first eight.
 */
static void pack_scales_k(const struct coded *c, uint8_t s[12]) {
    for (int g = 0; g < 4; g++) {
        s[g] = (uint8_t)(c->scale[g] | (c->scale[g + 4] >> 4) << 6);
        s[g + 4] = (uint8_t)(c->min[g] | (c->min[g + 4] >> 4) << 6);
        s[g + 8] = (uint8_t)((c->scale[g + 4] & 15) | (c->min[g + 4] & 15) << 4);
    }
}

static void pack_q4_k(const struct coded *c, void *block) {
    struct block_q4_k b = {.d = c->d, .dmin = c->dmin};
    uint8_t code[QK_K];
    codes_from(c->level, 0, QK_K, code);
    pack_scales_k(c, b.scales);
    pack_pairs(b.qs, code);
    memcpy(block, &b, sizeof b);
}

static void pack_q5_k(const struct coded *c, void *block) {
    struct block_q5_k b = {.d = c->d, .dmin = c->dmin};
    uint8_t code[QK_K];
    codes_from(c->level, 0, QK_K, code);
    pack_scales_k(c, b.scales);
    pack_pairs(b.qs, code);
    pack_bit(b.qh, code, 4);
    memcpy(block, &b, sizeof b);
}

static const struct two_recipe recipe_q2_k = {
    .n = 16, .top = 3, .no_plus = true, .cut = 0.06f, .cuts = 6, .scale_top = 15, .window = 2};
static const struct two_recipe recipe_q4_k = {
    .n = 32, .top = 15, .no_plus = true, .cut = 0.03f, .cuts = 6, .scale_top = 63, .window = 2};
static const struct two_recipe recipe_q5_k = {
    .n = 32, .top = 31, .no_plus = true, .cut = 0.015f, .cuts = 6, .scale_top = 63, .window = 3};

static void encode_q2_k(const float *x, const float *w, size_t k, void *out) {
    encode_two_supers(&recipe_q2_k, sizeof(struct block_q2_k), pack_q2_k, x, w, k, out);
}

static void encode_q4_k(const float *x, const float *w, size_t k, void *out) {
    encode_two_supers(&recipe_q4_k, sizeof(struct block_q4_k), pack_q4_k, x, w, k, out);
}

static void encode_q5_k(const float *x, const float *w, size_t k, void *out) {
    encode_two_supers(&recipe_q5_k, sizeof(struct block_q5_k), pack_q5_k, x, w, k, out);
}

/* ---- super-blocks with scales only ------------------------------------------------------------------------------ */

struct super_recipe {
    int n; /* weights a group */
    enum line_kind kind;
    int lo, hi;           /* LINE_EVEN */
    const int8_t *levels; /* else `rows` rows of `count` */
    int count, rows;
    struct whole whole;
    struct trial trial;
    int window;   /* whole numbers tried on either side */
    size_t bytes; /* of a block */
    void (*pack)(const struct coded *, void *block);
};

static void recipe_line(const struct super_recipe *r, struct line *l) {
    if (r->kind == LINE_EVEN)
        line_even(l, r->lo, r->hi);
    else if (r->kind == LINE_PAIRS)
        *l = (struct line){.kind = LINE_PAIRS, .rows = 1, .ends = {63, 47}, .top = 63, .pairs = codebook_kl};
    else
        line_table(l, r->kind, r->levels, r->count, r->rows);
}

static void super_open(struct super *b, const struct super_recipe *r, const struct line *l) {
    b->line = l;
    b->whole = r->whole;
    b->halves = QK_K / (LANES * r->n);
    b->window = r->window;
}

static void super_load(struct super *b, const struct super_recipe *r, const float *x, const float *w) {
    for (int h = 0; h < b->halves; h++) groups_load(&b->g[h], x + h * LANES * r->n, w + h * LANES * r->n, r->n, LANES);
}

static void super_code(const struct super *b, const struct picked *p, struct coded *c) {
    f8 q[GROUP_MOST];
    lanes_to_int(p->ls, b->halves, c->scale);
    lanes_to_int(p->row, b->halves, c->row);
    for (int h = 0; h < b->halves; h++) {
        assign_picked(b, p, h, q);
        levels_to_int(q, h, b->g[h].n, c->level);
    }
}

static void encode_supers(const struct super_recipe *r, const float *x, const float *w, size_t k, void *out) {
    struct line l;
    struct super b;
    recipe_line(r, &l);
    super_open(&b, r, &l);
    for (size_t block = 0; block < k / QK_K; block++) {
        struct picked p;
        struct coded c;
        super_load(&b, r, x + block * QK_K, w + block * QK_K);
        for (int h = 0; h < b.halves; h++) b.f[h] = fit_free(&b.g[h], &l, &r->trial);
        fit_super(&b, &p);
        c.d = encode_f16(p.d);
        super_code(&b, &p, &c);
        r->pack(&c, (uint8_t *)out + block * r->bytes);
    }
}

/* Codes of levels in a table of two rows, each group by its own. */
static void codes_in(const struct coded *c, int n, const int8_t *levels, int count, uint8_t *code) {
    uint8_t of[ROWS_MOST][256] = {0};
    for (int row = 0; row < ROWS_MOST; row++)
        for (int i = 0; i < count; i++) of[row][levels[row * count + i] + 128] = (uint8_t)i;
    for (int i = 0; i < QK_K; i++) code[i] = of[c->row[i / n]][c->level[i] + 128];
}

static uint16_t extra_of(const struct coded *c, int groups) {
    unsigned extra = 0;
    for (int t = 0; t < groups; t++) extra |= (unsigned)c->row[t] << t;
    return (uint16_t)extra;
}

static void pack_q3_k(const struct coded *c, void *block) {
    struct block_q3_k b = {.d = c->d};
    uint8_t code[QK_K];
    codes_from(c->level, -4, QK_K, code);
    pack_planes(b.qs, code, 0);
    pack_bit(b.hmask, code, 2);
    for (int t = 0; t < 16; t++) {
        const int scale = c->scale[t] + 32;
        b.scales[t % 8] = (uint8_t)(b.scales[t % 8] | (scale & 15) << (t < 8 ? 0 : 4));
        b.scales[8 + t % 4] = (uint8_t)(b.scales[8 + t % 4] | (scale >> 4) << 2 * (t / 4));
    }
    memcpy(block, &b, sizeof b);
}

static void pack_q6_k(const struct coded *c, void *block) {
    struct block_q6_k b = {.d = c->d};
    uint8_t code[QK_K];
    codes_from(c->level, -32, QK_K, code);
    for (int i = 0; i < 128; i++) { /* planes 0 and 2, 1 and 3 of a half share bytes */
        const uint8_t *at = code + i / 64 * 128 + i % 64;
        b.ql[i] = (uint8_t)((at[0] & 15) | (at[64] & 15) << 4);
    }
    pack_planes(b.qh, code, 4);
    for (int t = 0; t < 16; t++) b.scales[t] = (int8_t)c->scale[t];
    memcpy(block, &b, sizeof b);
}

static void pack_iq4_xs(const struct coded *c, void *block) {
    struct block_iq4_xs b = {.d = c->d};
    uint8_t code[QK_K];
    codes_in(c, 32, codebook_v4[0], 16, code);
    for (int g = 0; g < 8; g++) {
        const int scale = c->scale[g] + 32;
        put_nibble(b.scales_l, g, scale & 15);
        b.scales_h = (uint16_t)(b.scales_h | (scale >> 4) << 2 * g);
    }
    pack_halves(b.qs, code);
    memcpy(block, &b, sizeof b);
}

static void pack_iq2_k(const struct coded *c, void *block) {
    struct block_iq2_k b = {.d = c->d, .extra = extra_of(c, 16)};
    uint8_t code[QK_K];
    codes_in(c, 16, codebook_v2[0], 4, code);
    for (int t = 0; t < 16; t++) put_nibble(b.scales, t, c->scale[t] + 8);
    pack_planes(b.qs, code, 0);
    memcpy(block, &b, sizeof b);
}

static void pack_iq3_k(const struct coded *c, void *block) {
    struct block_iq3_k b = {.d = c->d, .extra = extra_of(c, 16)};
    uint8_t code[QK_K];
    codes_in(c, 16, codebook_v3[0], 8, code);
    for (int t = 0; t < 16; t++) {
        put_nibble(b.scales_l, t, (abs(c->scale[t]) - 1) / 2);
        b.scales_h = (uint16_t)(b.scales_h | (c->scale[t] < 0) << t);
    }
    pack_planes(b.qs, code, 0);
    pack_bit(b.qh, code, 2);
    memcpy(block, &b, sizeof b);
}

static void pack_scales_ik(const struct coded *c, uint8_t high[4], uint8_t low[8]) {
    for (int t = 0; t < 16; t++) {
        put_nibble(low, t, (c->scale[t] + 32) & 15);
        put_crumb(high, t, (c->scale[t] + 32) >> 4);
    }
}

static void pack_iq4_k(const struct coded *c, void *block) {
    struct block_iq4_k b = {.d = c->d, .extra = extra_of(c, 16)};
    uint8_t code[QK_K];
    codes_in(c, 16, codebook_v4[0], 16, code);
    pack_scales_ik(c, b.scales_h, b.scales_l);
    pack_halves(b.qs, code);
    memcpy(block, &b, sizeof b);
}

static void pack_iq5_k(const struct coded *c, void *block) {
    struct block_iq5_k b = {.d = c->d, .extra = extra_of(c, 16)};
    uint8_t code[QK_K];
    codes_in(c, 16, codebook_v5[0], 32, code);
    pack_scales_ik(c, b.scales_h, b.scales_l);
    pack_pairs(b.qs, code);
    pack_bit(b.qh, code, 4);
    memcpy(block, &b, sizeof b);
}

static void pack_iq6_k(const struct coded *c, void *block) {
    struct block_iq6_k b = {.d = c->d, .extra = extra_of(c, 16)};
    uint8_t code[QK_K];
    codes_in(c, 16, codebook_v6[0], 64, code);
    for (int t = 0; t < 16; t++) b.scales[t] = (int8_t)c->scale[t];
    pack_pairs(b.qs, code);
    pack_planes(b.qh, code, 4);
    memcpy(block, &b, sizeof b);
}

/* codes_in() reads two rows of any table: row 1 of one-row types is there but never picked. Trials and windows are where more
 * of either lowered the error by less than 0.1 %. */
#define BLOCK(name) .bytes = sizeof(struct block_##name), .pack = pack_##name
#define TABLE(name, codes) .kind = LINE_TABLE, .levels = codebook_##name[0], .count = codes
static const struct super_recipe recipe_q3_k = {
    .n = 16, .lo = -4, .hi = 3, .rows = 1, .whole = {-32, 31, 1}, .trial = {0.6f, 2.6f, 32}, .window = 4, BLOCK(q3_k)};
static const struct super_recipe recipe_q6_k = {
    .n = 16, .lo = -32, .hi = 31, .rows = 1, .whole = {-128, 127, 1}, .trial = {0.85f, 1.4f, 22}, .window = 6, BLOCK(q6_k)};
static const struct super_recipe recipe_iq4_xs = {
    .n = 32, TABLE(v4, 16), .rows = 1, .whole = {-32, 31, 1}, .trial = {0.75f, 2.0f, 28}, .window = 3, BLOCK(iq4_xs)};
static const struct super_recipe recipe_iq2_k = {
    .n = 16, TABLE(v2, 4), .rows = 2, .whole = {-8, 7, 1}, .trial = {0.5f, 2.4f, 28}, .window = 4, BLOCK(iq2_k)};
static const struct super_recipe recipe_iq3_k = {
    .n = 16, TABLE(v3, 8), .rows = 2, .whole = {-31, 31, 2}, .trial = {0.6f, 2.4f, 28}, .window = 4, BLOCK(iq3_k)};
static const struct super_recipe recipe_iq4_k = {
    .n = 16, TABLE(v4, 16), .rows = 2, .whole = {-32, 31, 1}, .trial = {0.75f, 2.0f, 24}, .window = 4, BLOCK(iq4_k)};
static const struct super_recipe recipe_iq5_k = {
    .n = 16, TABLE(v5, 32), .rows = 2, .whole = {-32, 31, 1}, .trial = {0.85f, 1.6f, 20}, .window = 6, BLOCK(iq5_k)};
static const struct super_recipe recipe_iq6_k = {
    .n = 16, TABLE(v6, 64), .rows = 2, .whole = {-127, 127, 1}, .trial = {0.85f, 1.4f, 18}, .window = 6, BLOCK(iq6_k)};

#endif
