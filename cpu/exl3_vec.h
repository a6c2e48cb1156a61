/* Body of the fast EXL3 products, over the names of vec_<isa>.h, which is included first. The includer defines besides
 *
 *     vf_flip(x, stride)           lanes i and i ^ stride exchanged, stride = 1 .. LANES / 2
 *     sum_rows(rows, out)          16 rows of 16 floats each added up, every row in the same order
 *     struct decoder, decoder_open(d, bits)
 *     decode_group(d, tile, g, book, out[2][PARTS])   columns g and g + 8 of a tile as floats, one input a lane
 *     order_inputs(x, registers)   inputs into the order of these lanes
 *     AT_ONCE(n)                   groups of a tile that n vectors' sums are held for in registers
 *     MOST, COLUMNS, VECTORS       most vectors of one walk; the register block of the form for many vectors (3 or 6)
 *
 * A lane is an input modulo 16, so that decoding needs no transposition: a weight meets its input in place, and the 16 lanes of
 * an output's sum are added up when all inputs have been. Weights are decoded for each call anew (0.2 to 0.7 cycles each); of
 * few vectors, the sums of a tile's columns stay in registers while the tiles of 512 inputs pass by. Of many, 256 inputs x 16 outputs
 * are decoded to floats and then multiplied with all vectors of a pass. Both sum in the same order.
 *
 * decode_group() reads 4 bytes in front of a tile and 60 behind it: tiles that lie too close to the ends of the matrix are
 * copied. */
#ifndef COLDSTREAM_EXL3_VEC_H
#define COLDSTREAM_EXL3_VEC_H

#include "cpu/matmul.h"

#define UNROLL _Pragma("GCC unroll 16")

enum {
    REGISTERS = EXL3_BLOCK / LANES, /* of 128 values */
    FRONT = 4,
    BEHIND = 60,
    STRETCH = 32, /* tiles of a column that few vectors are multiplied with before the next column */
    AHEAD = 12    /* tiles of a column that are fetched in advance for many */
};

/* ---- the transform ------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE vf signs_of(int stride) {
    float s[LANES];
    for (int i = 0; i < LANES; i++) s[i] = i & stride ? -1 : 1;
    return vf_load(s);
}

/* 128 values, not normed. Within a register, lane i becomes its partner plus itself, or less itself where i has the bit. */
static ALWAYS_INLINE void hadamard(vf x[REGISTERS]) {
    UNROLL for (int r = 0; r < REGISTERS; r++) x[r] = vf_fma(x[r], signs_of(1), vf_flip(x[r], 1));
    UNROLL for (int r = 0; r < REGISTERS; r++) x[r] = vf_fma(x[r], signs_of(2), vf_flip(x[r], 2));
    UNROLL for (int r = 0; r < REGISTERS; r++) x[r] = vf_fma(x[r], signs_of(4), vf_flip(x[r], 4));
    UNROLL for (int r = 0; LANES > 8 && r < REGISTERS; r++) x[r] = vf_fma(x[r], signs_of(LANES / 2), vf_flip(x[r], LANES / 2));
    UNROLL for (int stride = 1; stride < REGISTERS; stride *= 2)
        UNROLL for (int r = 0; r < REGISTERS; r++) {
            if (r & stride) continue;
            const vf u = x[r], v = x[r + stride];
            x[r] = u + v;
            x[r + stride] = u - v;
        }
}

/* out = H(factors . x) of 128 values */
static void transform_input(const float *x, const uint16_t *factors, float *out) {
    const vf norm = vf_set1(EXL3_NORM);
    vf v[REGISTERS];
    for (int r = 0; r < REGISTERS; r++) v[r] = vf_load(x + r * LANES) * vf_from_f16(factors + r * LANES) * norm;
    hadamard(v);
    order_inputs(v, REGISTERS);
    for (int r = 0; r < REGISTERS; r++) vf_store(out + r * LANES, v[r]);
}

/* out = factors . H(x) */
static void transform_output(const float *x, const uint16_t *factors, float *out) {
    const vf norm = vf_set1(EXL3_NORM);
    vf v[REGISTERS];
    for (int r = 0; r < REGISTERS; r++) v[r] = vf_load(x + r * LANES);
    hadamard(v);
    for (int r = 0; r < REGISTERS; r++) vf_store(out + r * LANES, v[r] * norm * vf_from_f16(factors + r * LANES));
}

static void transform_inputs(const struct matmul *m, size_t first, size_t n, float *out) {
    for (size_t v = 0; v < n; v++) {
        const float *x = m->x->f32 + vector_of(m, first + v) * m->x->k;
        for (size_t c = 0; c < m->k; c += EXL3_BLOCK) transform_input(x + c, m->exl3->in_scale + c, out + v * m->k + c);
    }
}

static void transform_outputs(const struct matmul *m, size_t first, size_t n, size_t row, float (*out)[EXL3_BLOCK]) {
    for (size_t v = 0; v < n; v++) transform_output(out[v], m->exl3->out_scale + row, m->y + (first + v) * m->ldy + row);
}

/* ---- tiles --------------------------------------------------------------------------------------------------------- */

/* A column of tiles: those of all inputs for 16 outputs. */
struct walk {
    struct decoder decoder;
    const uint8_t *w;
    size_t tile, stride, total; /* bytes: of a tile, from one to the next of the column, of the matrix */
    size_t tiles;
    _Alignas(64) uint8_t padded[64 + 32 * EXL3_BITS + 64];
};

static void walk_open(struct walk *w, const struct matmul *m) {
    const size_t bits = exl3_bits(m);
    decoder_open(&w->decoder, bits);
    w->w = m->w;
    w->tile = exl3_tile_bytes(bits);
    w->stride = m->exl3->rows / EXL3_TILE * w->tile;
    w->tiles = m->k / EXL3_TILE;
    w->total = w->tiles * w->stride;
}

/* The tile at `offset`, or a copy of it that may be read around. */
static ALWAYS_INLINE const uint8_t *tile_at(struct walk *w, size_t offset) {
    if (__builtin_expect(offset >= FRONT && offset + w->tile + BEHIND <= w->total, 1)) return w->w + offset;
    memcpy(w->padded + 64, w->w + offset, w->tile);
    return w->padded + 64;
}

static ALWAYS_INLINE void fetch_tile(const struct walk *w, size_t offset) {
    for (size_t i = 0; i < w->tile; i += 64) __builtin_prefetch(w->w + offset + i, 0, 2);
}

/* ---- few vectors --------------------------------------------------------------------------------------------------- */

/* 128 outputs and the inputs of STRETCH tiles: what the first level cannot hold is read in memory's order, a kilobyte at a time,
 * into the second one while the stretch before it is computed. */
struct stretch {
    size_t column, kt, count; /* the first tile, and how many inputs' tiles */
    size_t next;              /* offset of the next stretch's first tile */
};

/* The weights of step `at` of the stretch to come: tile after tile, while a stretch is walked column by column. */
static ALWAYS_INLINE void fetch_step(const struct walk *w, const struct stretch *s, size_t at) {
    fetch_tile(w, s->next + at / EXL3_TILES * w->stride + at % EXL3_TILES * w->tile);
}

/* sums[v][..] += a stretch of AT_ONCE(n) groups, from g0 on, of its column of tiles t. n and book are constants wherever this is
 * inlined. */
static ALWAYS_INLINE void walk_column(struct walk *w, const struct stretch *s, size_t t, int g0, size_t k, enum exl3_codebook book, int n,
                                      const float *in, float (*sums)[EXL3_TILE][EXL3_TILE]) {
    const int groups = AT_ONCE(n);
    vf sum[EXL3_GROUPS][2][MOST][PARTS];
    for (int i = 0; i < groups; i++)
        for (int half = 0; half < 2; half++)
            for (int v = 0; v < n; v++)
                for (int p = 0; p < PARTS; p++) sum[i][half][v][p] = vf_load(sums[v][g0 + i + half * EXL3_GROUPS] + p * LANES);
    size_t offset = s->kt * w->stride + (s->column + t) * w->tile;
    for (size_t j = 0; j < s->count; j++, offset += w->stride) {
        const uint8_t *tile = tile_at(w, offset);
        if (g0 == 0) fetch_step(w, s, t * s->count + j);
        UNROLL for (int i = 0; i < groups; i++) {
            vf weights[2][PARTS];
            decode_group(&w->decoder, tile, g0 + i, book, weights);
            for (int v = 0; v < n; v++)
                for (int p = 0; p < PARTS; p++) {
                    const vf x = vf_load(in + v * k + (s->kt + j) * EXL3_TILE + p * LANES);
                    sum[i][0][v][p] = vf_fma(weights[0][p], x, sum[i][0][v][p]);
                    sum[i][1][v][p] = vf_fma(weights[1][p], x, sum[i][1][v][p]);
                }
        }
    }
    for (int i = 0; i < groups; i++)
        for (int half = 0; half < 2; half++)
            for (int v = 0; v < n; v++)
                for (int p = 0; p < PARTS; p++) vf_store(sums[v][g0 + i + half * EXL3_GROUPS] + p * LANES, sum[i][half][v][p]);
}

static void add_up(const struct exl3_room *room, size_t first, size_t n, float (*out)[EXL3_BLOCK], size_t tile) {
    for (size_t v = 0; v < n; v++) sum_rows(room->sums[first + v], out[v] + tile * EXL3_TILE);
}

/* n <= MOST vectors from `first` on; room->sums[n * t + v] is vector v's column of tiles t. */
static ALWAYS_INLINE void few(const struct matmul *m, size_t first, enum exl3_codebook book, int n) {
    struct exl3_room *room = m->scratch;
    struct walk w;
    walk_open(&w, m);
    _Static_assert((int)EXL3_TILES * (int)MOST <= (int)EXL3_PASS, "room for the sums");
    transform_inputs(m, first, n, room->in);
    for (size_t row = m->row_begin; row < m->row_end; row += EXL3_BLOCK) {
        struct stretch s = {.column = row / EXL3_TILE};
        memset(room->sums, 0, EXL3_TILES * n * sizeof *room->sums);
        for (; s.kt < w.tiles; s.kt += s.count) {
            s.count = w.tiles - s.kt < STRETCH ? w.tiles - s.kt : STRETCH;
            s.next = s.kt + s.count < w.tiles ? (s.kt + s.count) * w.stride + s.column * w.tile : (s.column + EXL3_TILES) * w.tile;
            for (size_t t = 0; t < EXL3_TILES; t++)
                for (int g = 0; g < EXL3_GROUPS; g += AT_ONCE(n)) walk_column(&w, &s, t, g, m->k, book, n, room->in, room->sums + n * t);
        }
        for (size_t t = 0; t < EXL3_TILES; t++) add_up(room, n * t, (size_t)n, room->out, t);
        transform_outputs(m, first, n, row, room->out);
    }
}

/* ---- many vectors -------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE void open_panel(struct walk *w, size_t column, size_t kt, size_t count, enum exl3_codebook book, struct exl3_room *room) {
    for (size_t i = 0; i < count; i++) {
        const size_t offset = (kt + i) * w->stride + column * w->tile;
        const uint8_t *tile = tile_at(w, offset);
        fetch_tile(w, offset + AHEAD * w->stride);
        UNROLL for (int g = 0; g < EXL3_GROUPS; g++) {
            vf weights[2][PARTS];
            decode_group(&w->decoder, tile, g, book, weights);
            for (int half = 0; half < 2; half++)
                for (int p = 0; p < PARTS; p++) vf_store(room->panel[i][g + half * EXL3_GROUPS] + p * LANES, weights[half][p]);
        }
    }
}

/* sums[v][c] += the panel's product with n vectors, COLUMNS outputs from c on. n is a constant wherever this is inlined. */
static ALWAYS_INLINE void block(struct exl3_room *room, const float *in, size_t k, size_t count, size_t v0, size_t c, int n) {
    vf sum[VECTORS][COLUMNS][PARTS];
    UNROLL for (int v = 0; v < n; v++)
        UNROLL for (int j = 0; j < COLUMNS; j++)
            for (int p = 0; p < PARTS; p++) sum[v][j][p] = vf_load(room->sums[v0 + v][c + j] + p * LANES);
    for (size_t i = 0; i < count; i++)
        for (int p = 0; p < PARTS; p++) {
            vf weights[COLUMNS];
            UNROLL for (int j = 0; j < COLUMNS; j++) weights[j] = vf_load(room->panel[i][c + j] + p * LANES);
            UNROLL for (int v = 0; v < n; v++) {
                const vf x = vf_load(in + v * k + i * EXL3_TILE + p * LANES);
                UNROLL for (int j = 0; j < COLUMNS; j++) sum[v][j][p] = vf_fma(weights[j], x, sum[v][j][p]);
            }
        }
    UNROLL for (int v = 0; v < n; v++)
        UNROLL for (int j = 0; j < COLUMNS; j++)
            for (int p = 0; p < PARTS; p++) vf_store(room->sums[v0 + v][c + j] + p * LANES, sum[v][j][p]);
}

static void multiply_panel(struct exl3_room *room, const float *in, size_t k, size_t count, size_t n) {
    for (size_t v = 0; v < n; v += VECTORS)
        for (size_t c = 0; c < EXL3_TILE; c += COLUMNS) {
            const float *x = in + v * k;
            switch (n - v) {
            case 1: block(room, x, k, count, v, c, 1); break;
            case 2: block(room, x, k, count, v, c, 2); break;
            case 3: block(room, x, k, count, v, c, 3); break;
#if VECTORS > 3
            case 4: block(room, x, k, count, v, c, 4); break;
            case 5: block(room, x, k, count, v, c, 5); break;
#endif
            default: block(room, x, k, count, v, c, VECTORS); break;
            }
        }
}

/* n <= EXL3_PASS vectors from `first` on. book is a constant wherever this is inlined. */
static ALWAYS_INLINE void pass(const struct matmul *m, struct walk *w, size_t first, size_t n, enum exl3_codebook book) {
    struct exl3_room *room = m->scratch;
    transform_inputs(m, first, n, room->in);
    for (size_t row = m->row_begin; row < m->row_end; row += EXL3_BLOCK) {
        for (size_t t = 0; t < EXL3_TILES; t++) {
            memset(room->sums, 0, n * sizeof *room->sums);
            for (size_t kt = 0; kt < w->tiles; kt += EXL3_CHUNK) {
                const size_t count = w->tiles - kt < EXL3_CHUNK ? w->tiles - kt : EXL3_CHUNK;
                open_panel(w, row / EXL3_TILE + t, kt, count, book, room);
                multiply_panel(room, room->in + kt * EXL3_TILE, m->k, count, n);
            }
            add_up(room, 0, n, room->out, t);
        }
        transform_outputs(m, first, n, row, room->out);
    }
}

/* book is a constant wherever this is inlined. */
static ALWAYS_INLINE void many(const struct matmul *m, enum exl3_codebook book) {
    struct walk w;
    walk_open(&w, m);
    for (size_t first = 0; first < m->n; first += EXL3_PASS)
        pass(m, &w, first, m->n - first < EXL3_PASS ? m->n - first : EXL3_PASS, book);
}

/* ---- the products -------------------------------------------------------------------------------------------------- */

_Static_assert((int)MOST <= (int)FEW && FEW == 4, "the cases of MATMUL");

/* Few vectors: as many at a time as MOST allows. */
#define MATMUL(name, book)                                                                                                     \
    static void matmul_##name(const struct matmul *m) {                                                                        \
        if (m->n > FEW) {                                                                                                      \
            many(m, book);                                                                                                     \
            return;                                                                                                            \
        }                                                                                                                      \
        for (size_t first = 0, n; first < m->n; first += n) {                                                                  \
            n = m->n - first < MOST ? m->n - first : MOST;                                                                     \
            switch (n) {                                                                                                       \
            case 1: few(m, first, book, 1); break;                                                                             \
            case 2: few(m, first, book, 2); break;                                                                             \
            case 3: few(m, first, book, MOST < 3 ? MOST : 3); break;                                                           \
            default: few(m, first, book, MOST); break;                                                                         \
            }                                                                                                                  \
        }                                                                                                                      \
    }

MATMUL(3inst, EXL3_3INST)
MATMUL(mcg, EXL3_MCG)
MATMUL(mul1, EXL3_MUL1)

static void matmul_exl3(const struct matmul *m) {
    switch (m->exl3->codebook) {
    case EXL3_3INST: matmul_3inst(m); break;
    case EXL3_MCG: matmul_mcg(m); break;
    case EXL3_MUL1: matmul_mul1(m); break;
    }
}

static void fill_exl3(struct cpu_ops *ops) {
    for (int bits = 0; bits < EXL3_BITS; bits++) ops->types[TYPE_EXL3_1 + bits] = (struct cpu_type){NULL, matmul_exl3, false};
}

#endif
