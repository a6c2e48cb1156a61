/* The types with one scale D a row: its blocks are fitted twice, for the scales they would like, and with D for good. Included
 * by encode_levels_<isa>.c. */
#ifndef COLDSTREAM_ENCODE_ROWS_H
#define COLDSTREAM_ENCODE_ROWS_H

#include "cpu/encode_types.h"

/* What the first pass found for a block; it waits in the block's own bytes until D is known. */
struct waiting {
    float s[LANES], wqq[LANES];
    float share; /* mean importance: that of the block's weights has a mean of 1 of its own while it is fitted */
};
TENSOR_ASSERT(sizeof(struct waiting) <= sizeof(struct block_iq2_ks), "the least block holds it");

struct row {
    const struct super_recipe *recipe;
    const float *weights, *importance;
    size_t blocks, meta_bytes; /* the latter in front of the blocks: 2, D is binary16, or 4, binary32 */
    float factor;              /* weights are multiplied by it, a power of two, so that the largest is about 1 */
    uint8_t *at;               /* the first block */
    struct line line;
    struct super b;
};

static double useful(float importance) { return isfinite(importance) && importance > 0 ? (double)importance : 0; }

/* Block i, in sane size. D times two integers must not leave the range of floats either. */
static void row_load(struct row *r, size_t i) {
    float x[QK_K], w[QK_K];
    const float most = 0x1p126f * r->factor;
    encode_clean(r->weights + i * QK_K, r->importance ? r->importance + i * QK_K : NULL, QK_K, r->factor, x, w);
    for (int j = 0; j < QK_K; j++) x[j] = fminf(fmaxf(x[j], -most), most);
    super_load(&r->b, r->recipe, x, w);
}

/* Returns its share. */
static double row_wait(const struct row *r, size_t i) {
    struct waiting f = {.share = 1};
    double sum = 0;
    for (size_t j = 0; r->importance && j < QK_K; j++) sum += useful(r->importance[i * QK_K + j]);
    if (r->importance) f.share = (float)(sum / QK_K);
    memcpy(f.s, &r->b.f[0].s, sizeof f.s);
    memcpy(f.wqq, &r->b.f[0].wqq, sizeof f.wqq);
    memcpy(r->at + i * r->recipe->bytes, &f, sizeof f);
    return (double)f.share;
}

/* Of block i: its fit, and what its errors count beside those of others. */
static double row_resume(const struct row *r, size_t i, struct free_fit *fit) {
    struct waiting f;
    memcpy(&f, r->at + i * r->recipe->bytes, sizeof f);
    memcpy(&fit->s, f.s, sizeof f.s);
    memcpy(&fit->wqq, f.wqq, sizeof f.wqq);
    return (double)f.share;
}

/* D of the scaled weights as the row will hold it. */
static float row_round(const struct row *r, float d) {
    const float real = d / r->factor;
    return r->meta_bytes == 2 ? half_of_some(real) * r->factor : real * r->factor;
}

static double row_cost(const void *ctx, float d) {
    const struct row *r = ctx;
    const float rounded = row_round(r, d);
    double sum = 0;
    for (size_t i = 0; i < r->blocks; i++) {
        struct free_fit f;
        const double share = row_resume(r, i, &f);
        sum += share * rounding_cost(&r->recipe->whole, &f, rounded);
    }
    return sum;
}

struct row_sums {
    double error, above, below; /* the quotient of the latter: the D that suits the choices best */
};

/* All blocks with D; for good when `write`. */
static struct row_sums row_pass(struct row *r, float d, bool write) {
    struct row_sums s = {0};
    for (size_t i = 0; i < r->blocks; i++) {
        double above = 0, below = 0;
        struct picked p;
        row_load(r, i);
        const double share = row_resume(r, i, &r->b.f[0]);
        pick(&r->b, d, &p);
        products_picked(&r->b, &p, &above, &below);
        s.error += share * p.error;
        s.above += share * above;
        s.below += share * below;
        if (write) {
            struct coded c;
            super_code(&r->b, &p, &c);
            r->recipe->pack(&c, r->at + i * r->recipe->bytes);
        }
    }
    return s;
}

static float row_scale(struct row *r) {
    enum { REFINE = 2 };
    float largest = 0, best = 0;
    double error = 0;
    for (size_t i = 0; i < r->blocks; i++) {
        row_load(r, i);
        r->b.f[0] = fit_free(&r->b.g[0], &r->line, &r->recipe->trial);
        error += row_wait(r, i) * sum8(r->b.f[0].error);
        const float l = largest_scale(&r->b);
        if (fabsf(l) > fabsf(largest)) largest = l;
    }
    if (largest == 0) return 0;
    struct row_sums least = {.error = INFINITY};
    struct candidate c[CANDIDATES];
    candidates((float[2]){r->recipe->whole.lo, r->recipe->whole.hi}, largest, row_cost, r, c);
    const int tries = 1 + worth_trying(c, error);
    for (int i = 0; i < tries + REFINE; i++) {
        if (i >= tries && !(least.below > 0)) break;
        const float next = row_round(r, i < tries ? c[i].d : (float)(least.above / least.below));
        const struct row_sums s = row_pass(r, next, false);
        if (s.error < least.error) {
            least = s;
            best = next;
        } else if (i >= tries) {
            break;
        }
    }
    return best;
}

static void encode_row_scaled(const struct super_recipe *recipe, size_t meta_bytes, const float *weights,
                              const float *importance, size_t k, void *row) {
    struct row r = {
        .recipe = recipe, .weights = weights, .importance = importance, .blocks = k / QK_K, .meta_bytes = meta_bytes};
    float largest = 0;
    int exponent = 0;
    double all = 0;
    for (size_t i = 0; i < k; i++) {
        if (isfinite(weights[i])) largest = fmaxf(largest, fabsf(weights[i]));
        if (importance) all += useful(importance[i]);
    }
    if (all == 0) r.importance = NULL;
    if (largest > 0) frexpf(largest, &exponent);
    r.factor = ldexpf(1, exponent > 100 ? -100 : exponent < -100 ? 100 : -exponent);
    r.at = (uint8_t *)row + meta_bytes;
    recipe_line(recipe, &r.line);
    super_open(&r.b, recipe, &r.line);
    const float d = row_scale(&r), real = d / r.factor;
    const uint16_t half = encode_f16(real);
    memcpy(row, meta_bytes == 2 ? (const void *)&half : (const void *)&real, meta_bytes);
    row_pass(&r, d, true);
}

/* ---- the types -------------------------------------------------------------------------------------------------- */

static void put_scales_ks(const struct coded *c, uint8_t scales[8]) {
    for (int g = 0; g < 8; g++) scales[g] = (uint8_t)((c->scale[g] + 127) | c->row[g]);
}

static void pack_iq4_ks(const struct coded *c, void *block) {
    struct block_iq4_ks b;
    uint8_t code[QK_K];
    codes_in(c, 32, codebook_v4[0], 16, code);
    put_scales_ks(c, b.scales);
    pack_halves(b.qs, code);
    memcpy(block, &b, sizeof b);
}

static void pack_iq4_kss(const struct coded *c, void *block) {
    struct block_iq4_kss b;
    uint8_t code[QK_K], scales[8], bytes[128];
    codes_in(c, 32, codebook_v4[0], 16, code);
    put_scales_ks(c, scales);
    pack_halves(bytes, code);
    for (int r = 0; r < 64; r++) { /* undo v = u ^ u >> 1; an even number of bits in v leaves bit 0 of u for the scale */
        unsigned u = bytes[2 * r] | (unsigned)bytes[2 * r + 1] << 8;
        u ^= u >> 1;
        u ^= u >> 2;
        u ^= u >> 4;
        u ^= u >> 8;
        b.qs[r] = (uint16_t)((u & ~1u) | (scales[r / 8] >> r % 8 & 1));
    }
    memcpy(block, &b, sizeof b);
}

static void pack_iq5_ks(const struct coded *c, void *block) {
    struct block_iq5_ks b;
    uint8_t code[QK_K];
    codes_in(c, 32, codebook_v5[0], 32, code);
    put_scales_ks(c, b.scales);
    pack_pairs(b.qs, code);
    pack_bit(b.qh, code, 4);
    memcpy(block, &b, sizeof b);
}

static void pack_iq2_ks(const struct coded *c, void *block) {
    struct block_iq2_ks b = {.extra = extra_of(c, 8)};
    uint8_t code[QK_K];
    codes_in(c, 32, codebook_v2[0], 4, code);
    for (int g = 0; g < 8; g++) {
        put_nibble(b.scales, g, (c->scale[g] + 16) & 15);
        b.extra = (uint16_t)(b.extra | ((c->scale[g] + 16) >> 4) << (8 + g));
    }
    pack_planes(b.qs, code, 0);
    memcpy(block, &b, sizeof b);
}

/* The low four bits of eight scales: byte g%4, low nibble for g < 4. */
static void put_scales_folded(uint8_t scales[4], const struct coded *c, int offset) {
    for (int g = 0; g < 8; g++) put_nibble(scales, 2 * (g % 4) + g / 4, (c->scale[g] + offset) & 15);
}

static void pack_iq3_ks(const struct coded *c, void *block) {
    struct block_iq3_ks b = {.extra = (uint16_t)(extra_of(c, 8) << 8)};
    uint8_t code[QK_K];
    codes_in(c, 32, codebook_v3[0], 8, code);
    put_scales_folded(b.scales, c, 16);
    for (int g = 0; g < 8; g++) b.extra = (uint16_t)(b.extra | ((c->scale[g] + 16) >> 4) << g);
    pack_planes(b.qs, code, 0);
    pack_bit(b.qh, code, 2);
    memcpy(block, &b, sizeof b);
}

static int code_of_pair(int first, int second) {
    for (int c = 0; c < PAIR_CODES; c++)
        if (codebook_kl[c][0] == first && codebook_kl[c][1] == second) return c;
    return 0;
}

static void pack_iq2_kl(const struct coded *c, void *block) {
    struct block_iq2_kl b = {0};
    put_scales_folded(b.scales_l, c, 32);
    for (int g = 0; g < 8; g++) {
        b.scales_h = (uint16_t)(b.scales_h | ((c->scale[g] + 32) >> 4) << 2 * g);
        for (int r = 0; r < 16; r++) {
            const int code = code_of_pair(c->level[32 * g + 2 * r], c->level[32 * g + 2 * r + 1]);
            put_nibble(b.qs + 16 * (g / 2) + r, g & 1, code & 15);
            b.qh[r] = (uint8_t)(b.qh[r] | (code >> 4) << g);
        }
    }
    memcpy(block, &b, sizeof b);
}

static const struct super_recipe recipe_iq4_ks = {
    .n = 32, TABLE(v4, 16), .rows = 2, .whole = {-127, 127, 2}, .trial = {0.75f, 2.0f, 28}, .window = 1, BLOCK(iq4_ks)};
static const struct super_recipe recipe_iq4_kss = {.n = 32,
                                                   .kind = LINE_PARITY,
                                                   .levels = codebook_v4[0],
                                                   .count = 16,
                                                   .rows = 2,
                                                   .whole = {-127, 127, 2},
                                                   .trial = {0.75f, 2.0f, 20},
                                                   .window = 1,
                                                   BLOCK(iq4_kss)};
static const struct super_recipe recipe_iq5_ks = {
    .n = 32, TABLE(v5, 32), .rows = 2, .whole = {-127, 127, 2}, .trial = {0.85f, 1.6f, 24}, .window = 3, BLOCK(iq5_ks)};
static const struct super_recipe recipe_iq2_ks = {
    .n = 32, TABLE(v2, 4), .rows = 2, .whole = {-16, 15, 1}, .trial = {0.5f, 2.4f, 28}, .window = 2, BLOCK(iq2_ks)};
static const struct super_recipe recipe_iq3_ks = {
    .n = 32, TABLE(v3, 8), .rows = 2, .whole = {-16, 15, 1}, .trial = {0.6f, 2.4f, 28}, .window = 2, BLOCK(iq3_ks)};
static const struct super_recipe recipe_iq2_kl = {
    .n = 32, .kind = LINE_PAIRS, .rows = 1, .whole = {-32, 31, 1}, .trial = {0.42f, 2.2f, 20}, .window = 1, BLOCK(iq2_kl)};

#endif
