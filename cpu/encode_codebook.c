/* Encoders of the codebook types: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S.
 *
 * A block is searched in three steps, each exact but for the last:
 *   1. Of each unit of 8 weights: the best entry for every scale at once (encode_lines.h), kept as pieces of the scale, each with
 *      that entry's line. One wrong sign, where a format's sign codes have even parity only, is part of the lines.
 *   2. Of each group that shares a 4-bit scale: the sum of its units' pieces, so that the error under any scale is a lookup.
 *   3. Of the block: its factor d, by trying many with each group's best code, then by least squares on the best of them.
 * Magnitudes are divided by the block's largest, so that nothing here overflows or vanishes. */
#include <math.h>
#include <string.h>

#include "core/codebooks.h"
#include "cpu/encode_lines.h"
#include "cpu/encode_private.h"

enum {
    BLOCK = QK_K,
    UNIT = 8,
    UNITS = BLOCK / UNIT,
    MOST_GROUPS = 16,
    CODES = 16,       /* of a group's scale */
    QUAD_PIECES = 48, /* more are cut off, at scales larger than any useful one */
    UNIT_PIECES = 96,
    GROUP_PIECES = 4 * UNIT_PIECES,
    TRIALS = 24,      /* of d: */
    FINE_TRIALS = 12, /* those in small steps */
    REFINED = 3,      /* best trials that least squares go on from */
    ROUNDS = 4,
};

/* What a format is, as far as the search goes. */
struct kind {
    const uint64_t *wide;   /* [entries] of 8 lanes, or */
    const uint32_t *narrow; /* of 4 */
    uint32_t entries;
    uint32_t group;      /* weights that share a scale */
    bool even_signs;     /* each 8 weights have an even number of minus signs */
    float step;          /* a group's scale is d * (2 code + 1) * step */
    float typical;       /* root mean square of the magnitudes at the best scale, about */
    float lowest_switch; /* below this the lowest magnitude is the nearest */
};

/* From scale `start` on these entries are best. */
struct piece {
    float start;
    float p, q;       /* their line */
    uint32_t entries; /* one of 8 lanes, or two of 4: the second above bit 16 */
};

struct pieces {
    uint32_t n;
    struct piece *at;
};

struct search {
    const struct kind *kind;
    const struct lines_ops *ops;
    struct lines_codebook book;
    struct lines lines;

    /* the block in work */
    float largest;                         /* magnitude */
    float magnitude[BLOCK], weight[BLOCK]; /* magnitudes over `largest` */
    float product[BLOCK];                  /* magnitude times weight */
    uint8_t signs[UNITS];
    struct pieces units[UNITS], groups[MOST_GROUPS];
    float best_scale[MOST_GROUPS]; /* of each group alone */
    struct piece unit_room[UNITS][UNIT_PIECES];
    struct piece group_room[UNITS / 4][GROUP_PIECES]; /* shared by two groups of 16 */
};

/* What a block gets. */
struct chosen {
    uint16_t d;
    uint8_t code[MOST_GROUPS];
    uint32_t entries[UNITS];
    uint8_t signs[UNITS];
};

static const struct kind kind_iq2_xxs = {codebook_iq2xxs, NULL, 256, 32, true, 0.125f, 25, 16.5f};
static const struct kind kind_iq2_xs = {codebook_iq2xs, NULL, 512, 16, true, 0.125f, 25, 16.5f};
static const struct kind kind_iq2_s = {codebook_iq2s, NULL, 1024, 16, false, 0.125f, 25, 16.5f};
static const struct kind kind_iq3_xxs = {NULL, codebook_iq3xxs, 256, 32, true, 0.25f, 25, 8};
static const struct kind kind_iq3_s = {NULL, codebook_iq3s, 512, 32, false, 1, 6, 2};

static uint32_t level_of(const struct kind *k, uint32_t entry, uint32_t lane) {
    return k->wide ? (uint32_t)(k->wide[entry] >> 8 * lane & 255) : k->narrow[entry] >> 8 * lane & 255;
}

static void open_search(struct search *s, const struct kind *kind, const struct lines_ops *ops) {
    s->kind = kind;
    s->ops = ops;
    s->book.entries = kind->entries;
    s->book.lanes = kind->wide ? 8 : 4;
    float *out = s->book.levels;
    for (uint32_t e = 0; e < kind->entries; e += LINES_STRIPE)
        for (uint32_t lane = 0; lane < s->book.lanes; lane++)
            for (uint32_t i = 0; i < LINES_STRIPE; i++) *out++ = (float)level_of(kind, e + i, lane);
}

/* ---- pieces ---------------------------------------------------------------------------------------------------------- */

/* Lines, steepest first and of equally steep ones the lowest first -> the pieces of their lower envelope over scales > 0. */
static uint32_t lower_envelope(const struct piece *lines, uint32_t n, struct piece *out, uint32_t most) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct piece *l = &lines[i];
        float start = 0;
        if (count && l->p >= out[count - 1].p) continue; /* as steep, and higher */
        while (count) {
            const struct piece *top = &out[count - 1];
            start = (top->q - l->q) / (top->p - l->p);
            if (start > top->start) break;
            count--;
        }
        if (count == most) break;
        out[count] = *l;
        out[count].start = count ? start : 0;
        count++;
    }
    return count;
}

/* The sum of two envelopes. */
static uint32_t add_pieces(struct pieces a, struct pieces b, struct piece *out, uint32_t most) {
    uint32_t i = 0, j = 0, count = 0;
    for (float start = 0; count < most;) {
        const struct piece *x = &a.at[i], *y = &b.at[j];
        out[count++] = (struct piece){start, x->p + y->p, x->q + y->q, x->entries | y->entries << 16};
        const float next_x = i + 1 < a.n ? x[1].start : INFINITY, next_y = j + 1 < b.n ? y[1].start : INFINITY;
        start = next_x < next_y ? next_x : next_y;
        if (start == INFINITY) break;
        i += next_x <= start;
        j += next_y <= start;
    }
    return count;
}

/* The lower one of two envelopes, at every scale. */
static uint32_t lower_pieces(struct pieces a, struct pieces b, struct piece *out, uint32_t most) {
    struct piece lines[2 * UNIT_PIECES];
    uint32_t i = 0, j = 0, n = 0;
    while (i < a.n || j < b.n) {
        const bool first =
            j == b.n || (i < a.n && (a.at[i].p > b.at[j].p || (a.at[i].p == b.at[j].p && a.at[i].q >= b.at[j].q)));
        lines[n++] = first ? a.at[i++] : b.at[j++];
    }
    return lower_envelope(lines, n, out, most);
}

static const struct piece *piece_at(struct pieces set, float scale) {
    uint32_t low = 0, high = set.n; /* the piece is in [low, high) */
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (set.at[middle].start <= scale)
            low = middle;
        else
            high = middle;
    }
    return &set.at[low];
}

/* The error at a scale, less that of all zeros. */
static float error_at(const struct piece *p, float scale) { return scale * (scale * p->p - p->q); }

/* ---- units ----------------------------------------------------------------------------------------------------------- */

/* The lower envelope of all entries' lines. Between two scales whose lowest lines are known, a line that is lower than both
 * anywhere is so where these two cross: few pass that test, and only those are sorted. */
static uint32_t trace(const struct search *s, const float *q, const float *scales, struct piece *out, uint32_t most) {
    const float *p = s->lines.p;
    uint32_t lowest[LINES_SCALES], tests = 0, n = 0;
    float at[LINES_SCALES], limit[LINES_SCALES];
    uint16_t found[LINES_MOST + LINES_SCALES];
    struct piece lines[LINES_MOST + LINES_SCALES];
    s->ops->lowest(p, q, s->book.entries, scales, lowest);
    for (uint32_t i = 0; i + 1 < LINES_SCALES; i++) {
        const uint32_t a = lowest[i], b = lowest[i + 1];
        if (a == b) continue;
        const float cross = p[a] > p[b] ? (q[a] - q[b]) / (p[a] - p[b]) : 0;
        at[tests] = fminf(fmaxf(cross, scales[i]), scales[i + 1]);
        limit[tests] = at[tests] * p[a] - q[a];
        tests++;
    }
    uint32_t n_found = tests ? s->ops->below(p, q, s->book.entries, at, limit, tests, found) : 0;
    for (uint32_t i = 0; i < LINES_SCALES; i++)
        if (i == 0 || lowest[i] != lowest[i - 1]) found[n_found++] = (uint16_t)lowest[i];
    for (uint32_t i = 0; i < n_found; i++) {
        const uint32_t e = found[i];
        uint32_t to = n++;
        for (; to > 0 && (lines[to - 1].p < p[e] || (lines[to - 1].p == p[e] && lines[to - 1].q < q[e])); to--)
            lines[to] = lines[to - 1];
        lines[to] = (struct piece){0, p[e], q[e], e};
    }
    return lower_envelope(lines, n, out, most);
}

static void score(struct search *s, uint32_t first) {
    s->ops->score(&s->book, s->weight + first, s->product + first, &s->lines);
}

/* Two entries of four lanes. A wrong sign is in the first or in the second, whichever costs less at a scale. */
static uint32_t trace_quads(struct search *s, uint32_t first, bool odd, const float *scales, struct piece *out) {
    struct piece room[6][UNIT_PIECES];
    struct pieces even[2], wrong[2], sum[2];
    for (uint32_t h = 0; h < 2; h++) {
        even[h].at = room[h];
        wrong[h].at = room[2 + h];
        sum[h].at = room[4 + h];
        score(s, first + 4 * h);
        even[h].n = trace(s, s->lines.q, scales, even[h].at, QUAD_PIECES);
        if (odd) wrong[h].n = trace(s, s->lines.odd, scales, wrong[h].at, QUAD_PIECES);
    }
    if (!odd) return add_pieces(even[0], even[1], out, UNIT_PIECES);
    sum[0].n = add_pieces(wrong[0], even[1], sum[0].at, UNIT_PIECES);
    sum[1].n = add_pieces(even[0], wrong[1], sum[1].at, UNIT_PIECES);
    return lower_pieces(sum[0], sum[1], out, UNIT_PIECES);
}

static void trace_unit(struct search *s, uint32_t u, const float *scales) {
    const bool odd = s->kind->even_signs && __builtin_parity(s->signs[u]);
    struct pieces *to = &s->units[u];
    to->at = s->unit_room[u];
    if (s->kind->narrow) {
        to->n = trace_quads(s, UNIT * u, odd, scales, to->at);
        return;
    }
    score(s, UNIT * u);
    to->n = trace(s, odd ? s->lines.odd : s->lines.q, scales, to->at, UNIT_PIECES);
}

/* ---- groups ---------------------------------------------------------------------------------------------------------- */

/* Where envelopes are probed: around the scale that the group's energy suggests, and up to where the lowest magnitudes are
 * best. */
static void set_scales(const struct search *s, uint32_t g, float *scales) {
    static const float around[LINES_SCALES - 1] = {0.45f, 0.75f, 1.0f, 1.35f, 2.0f};
    const uint32_t n = s->kind->group;
    float energy = 0, weight = 0, largest = 0;
    for (uint32_t i = n * g; i < n * (g + 1); i++) {
        energy += s->product[i] * s->magnitude[i];
        weight += s->weight[i];
        largest = fmaxf(largest, s->magnitude[i]);
    }
    const float middle = fmaxf(sqrtf(energy / weight) / s->kind->typical, 1e-6f);
    for (uint32_t i = 0; i + 1 < LINES_SCALES; i++) scales[i] = around[i] * middle;
    scales[LINES_SCALES - 1] = fmaxf(largest / s->kind->lowest_switch, 3 * middle);
}

static float find_best_scale(struct pieces set) {
    float best = 0, best_error = 0;
    for (uint32_t i = 0; i < set.n; i++) {
        const struct piece *p = &set.at[i];
        const float end = i + 1 < set.n ? p[1].start : INFINITY, scale = fminf(fmaxf(p->q / (2 * p->p), p->start), end);
        const float error = error_at(p, scale);
        if (error < best_error) {
            best_error = error;
            best = scale;
        }
    }
    return best;
}

static void trace_group(struct search *s, uint32_t g) {
    struct piece other[GROUP_PIECES];
    const uint32_t units = s->kind->group / UNIT, most = units * UNIT_PIECES;
    float scales[LINES_SCALES];
    set_scales(s, g, scales);
    struct pieces sum = {0, (struct piece *)s->group_room + (size_t)g * most}, spare = {0, other};
    for (uint32_t u = units * g; u < units * (g + 1); u++) {
        trace_unit(s, u, scales);
        if (u == units * g) {
            memcpy(sum.at, s->units[u].at, s->units[u].n * sizeof *sum.at);
            sum.n = s->units[u].n;
            continue;
        }
        spare.n = add_pieces(sum, s->units[u], spare.at, most);
        memcpy(sum.at, spare.at, spare.n * sizeof *sum.at);
        sum.n = spare.n;
    }
    s->groups[g] = sum;
    s->best_scale[g] = find_best_scale(sum);
}

/* ---- blocks ---------------------------------------------------------------------------------------------------------- */

/* A factor d that can be stored, and in units of the block's largest magnitude. */
struct factor {
    uint16_t bits;
    float d;
};

static struct factor make_factor(const struct search *s, float d) {
    uint16_t bits = encode_f16(d * s->largest);
    if (bits == 0) bits = 1; /* the least one: that zeros are better is found out later */
    return (struct factor){bits, f16_to_f32(bits) / s->largest};
}

static float scale_of(const struct search *s, float d, uint32_t code) { return d * (float)(2 * code + 1) * s->kind->step; }

/* The best code of a group, and what it costs. */
static float choose_code(const struct search *s, uint32_t g, float d, uint8_t *code) {
    const struct pieces set = s->groups[g];
    const struct piece *p = piece_at(set, scale_of(s, d, 0)), *end = set.at + set.n - 1;
    float least = INFINITY;
    for (uint32_t c = 0; c < CODES; c++) {
        const float scale = scale_of(s, d, c);
        while (p < end && p[1].start <= scale) p++;
        const float error = error_at(p, scale);
        if (error < least) {
            least = error;
            *code = (uint8_t)c;
        }
    }
    return least;
}

static float choose_codes(const struct search *s, float d, uint8_t *codes) {
    float error = 0;
    for (uint32_t g = 0; g < BLOCK / s->kind->group; g++) error += choose_code(s, g, d, &codes[g]);
    return error;
}

/* d by least squares, entries and codes as they are. */
static float fit(const struct search *s, float d, const uint8_t *codes) {
    float p = 0, q = 0;
    for (uint32_t g = 0; g < BLOCK / s->kind->group; g++) {
        const float factor = (float)(2 * codes[g] + 1) * s->kind->step;
        const struct piece *at = piece_at(s->groups[g], d * factor);
        p += factor * factor * at->p;
        q += factor * at->q;
    }
    return q / (2 * p);
}

struct trial {
    float error;
    struct factor factor;
    uint8_t codes[MOST_GROUPS];
};

static struct trial try_factor(const struct search *s, float d) {
    struct trial t = {.factor = make_factor(s, d)};
    t.error = choose_codes(s, t.factor.d, t.codes);
    return t;
}

static void refine(const struct search *s, struct trial *t) {
    for (int round = 0; round < ROUNDS; round++) {
        const struct trial next = try_factor(s, fit(s, t->factor.d, t->codes));
        if (next.error >= t->error) return;
        *t = next;
    }
}

/* Trials in parts of the factor with which the largest of the groups' own best scales gets the highest code: close together
 * around 1, and some far below, where that scale is a poor guide (of equal magnitudes any level of the codebook can be the
 * best). */
static float next_trial(float t, uint32_t i) { return i < FINE_TRIALS ? t + 0.045f : i == FINE_TRIALS ? 0.73f : t * 0.86f; }

static struct trial choose_factor(const struct search *s) {
    struct trial kept[REFINED];
    uint32_t n = 0;
    float top = 0;
    for (uint32_t g = 0; g < BLOCK / s->kind->group; g++) top = fmaxf(top, s->best_scale[g]);
    const float largest = (float)(2 * CODES - 1) * s->kind->step;
    float part = 0.85f;
    for (uint32_t i = 0; i < TRIALS; i++, part = next_trial(part, i)) {
        const struct trial t = try_factor(s, top / largest * part);
        uint32_t to = n < REFINED ? n++ : n;
        for (; to > 0 && t.error < kept[to - 1].error; to--)
            if (to < REFINED) kept[to] = kept[to - 1];
        if (to < REFINED) kept[to] = t;
    }
    struct trial best = {.error = INFINITY};
    for (uint32_t i = 0; i < n; i++) {
        refine(s, &kept[i]);
        if (kept[i].error < best.error) best = kept[i];
    }
    return best;
}

/* The lane whose sign can be wrong at the least cost. */
static uint32_t cheapest_lane(const struct search *s, uint32_t u, uint32_t entries) {
    uint32_t best = 0;
    float least = INFINITY;
    for (uint32_t j = 0; j < UNIT; j++) {
        const uint32_t level =
            s->kind->wide ? level_of(s->kind, entries, j) : level_of(s->kind, entries >> 16 * (j / 4) & 0xffff, j % 4);
        const float cost = s->product[UNIT * u + j] * (float)level;
        if (cost < least) {
            least = cost;
            best = j;
        }
    }
    return best;
}

/* False: zeros are best. */
static bool choose(struct search *s, const float *x, const float *importance, struct chosen *out) {
    s->largest = 0;
    for (uint32_t i = 0; i < BLOCK; i++) s->largest = fmaxf(s->largest, fabsf(x[i]));
    if (s->largest < 0x1p-26f) return false; /* no type's least magnitude is under 2^-24 */
    memset(s->signs, 0, sizeof s->signs);
    for (uint32_t i = 0; i < BLOCK; i++) {
        s->magnitude[i] = fabsf(x[i]) / s->largest;
        s->weight[i] = importance[i];
        s->product[i] = s->magnitude[i] * importance[i];
        s->signs[i / UNIT] |= (uint8_t)((x[i] < 0) << i % UNIT);
    }
    for (uint32_t g = 0; g < BLOCK / s->kind->group; g++) trace_group(s, g);
    const struct trial best = choose_factor(s);
    if (best.error >= 0) return false;
    out->d = best.factor.bits;
    memcpy(out->code, best.codes, sizeof out->code);
    for (uint32_t u = 0; u < UNITS; u++) {
        const float scale = scale_of(s, best.factor.d, out->code[UNIT * u / s->kind->group]);
        out->entries[u] = piece_at(s->units[u], scale)->entries;
        out->signs[u] = s->signs[u];
        if (s->kind->even_signs && __builtin_parity(s->signs[u]))
            out->signs[u] ^= (uint8_t)(1u << cheapest_lane(s, u, out->entries[u]));
    }
    return true;
}

/* ---- layouts ----------------------------------------------------------------------------------------------------------- */

/* Four 7-bit sign codes and a scale. Bit 7 of a sign byte is the parity of the others. */
static void put_signs_and_code(const struct chosen *c, uint32_t g, uint8_t *to) {
    uint32_t word = (uint32_t)c->code[g] << 28;
    for (uint32_t k = 0; k < 4; k++) word |= (uint32_t)(c->signs[4 * g + k] & 127) << 7 * k;
    for (uint32_t i = 0; i < 4; i++) to[i] = (uint8_t)(word >> 8 * i);
}

static void put_codes(const struct chosen *c, uint32_t n, uint8_t *to) {
    for (uint32_t i = 0; i < n / 2; i++) to[i] = (uint8_t)(c->code[2 * i] | c->code[2 * i + 1] << 4);
}

static void put_iq2_xxs(const struct chosen *c, struct block_iq2_xxs *b) {
    b->d = c->d;
    for (uint32_t u = 0; u < UNITS; u++) b->qs[u / 4][u % 4] = (uint8_t)c->entries[u];
    for (uint32_t g = 0; g < 8; g++) put_signs_and_code(c, g, b->qs[g] + 4);
}

static void put_iq2_xs(const struct chosen *c, struct block_iq2_xs *b) {
    b->d = c->d;
    for (uint32_t u = 0; u < UNITS; u++) b->qs[u] = (uint16_t)(c->entries[u] | (uint32_t)(c->signs[u] & 127) << 9);
    put_codes(c, 16, b->scales);
}

static void put_iq2_s(const struct chosen *c, struct block_iq2_s *b) {
    b->d = c->d;
    memset(b->qh, 0, sizeof b->qh);
    for (uint32_t u = 0; u < UNITS; u++) {
        b->qs[u] = (uint8_t)c->entries[u];
        b->qh[u / 4] |= (uint8_t)(c->entries[u] >> 8 << 2 * (u % 4));
    }
    memcpy(b->signs, c->signs, sizeof b->signs);
    put_codes(c, 16, b->scales);
}

static void put_iq3_xxs(const struct chosen *c, struct block_iq3_xxs *b) {
    b->d = c->d;
    for (uint32_t u = 0; u < UNITS; u++) {
        b->qs[2 * u] = (uint8_t)c->entries[u];
        b->qs[2 * u + 1] = (uint8_t)(c->entries[u] >> 16);
    }
    for (uint32_t g = 0; g < 8; g++) put_signs_and_code(c, g, b->tail[g]);
}

static void put_iq3_s(const struct chosen *c, struct block_iq3_s *b) {
    b->d = c->d;
    memset(b->qh, 0, sizeof b->qh);
    for (uint32_t m = 0; m < 2 * UNITS; m++) {
        const uint32_t entry = c->entries[m / 2] >> 16 * (m % 2) & 0xffff;
        b->qs[m] = (uint8_t)entry;
        b->qh[m / 8] |= (uint8_t)(entry >> 8 << m % 8);
    }
    memcpy(b->signs, c->signs, sizeof b->signs);
    put_codes(c, 8, b->scales);
}

/* ---- types ------------------------------------------------------------------------------------------------------------- */

#define ENCODER(name, ISA)                                                                                                     \
    static void encode_##name##_##ISA(const float *x, const float *importance, size_t k, void *blocks) {                       \
        struct block_##name *to = blocks;                                                                                      \
        struct search s;                                                                                                       \
        struct chosen c;                                                                                                       \
        open_search(&s, &kind_##name, &lines_ops_##ISA);                                                                       \
        for (size_t i = 0; i < k; i += BLOCK, to++) {                                                                          \
            memset(to, 0, sizeof *to);                                                                                         \
            if (choose(&s, x + i, importance + i, &c)) put_##name(&c, to);                                                     \
        }                                                                                                                      \
    }
#define ENCODERS(name) ENCODER(name, ref) ENCODER(name, avx2)
ENCODERS(iq2_xxs)
ENCODERS(iq2_xs)
ENCODERS(iq2_s)
ENCODERS(iq3_xxs)
ENCODERS(iq3_s)

struct encoder encode_find_codebook(enum tensor_type type, enum cpu_isa isa) {
    const bool avx2 = isa >= ISA_AVX2;
    switch (type) {
    case TYPE_IQ2_XXS: return (struct encoder){.blocks = avx2 ? encode_iq2_xxs_avx2 : encode_iq2_xxs_ref};
    case TYPE_IQ2_XS: return (struct encoder){.blocks = avx2 ? encode_iq2_xs_avx2 : encode_iq2_xs_ref};
    case TYPE_IQ2_S: return (struct encoder){.blocks = avx2 ? encode_iq2_s_avx2 : encode_iq2_s_ref};
    case TYPE_IQ3_XXS: return (struct encoder){.blocks = avx2 ? encode_iq3_xxs_avx2 : encode_iq3_xxs_ref};
    case TYPE_IQ3_S: return (struct encoder){.blocks = avx2 ? encode_iq3_s_avx2 : encode_iq3_s_ref};
    default: return (struct encoder){0};
    }
}
