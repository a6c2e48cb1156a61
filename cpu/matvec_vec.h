/* The walk of a matrix times up to FEW vectors, for any instruction set: included behind matvec_<isa>.h's part, which brings `vector`,
 * vector_zero(), vector_sum(), struct layout and prepare_piece(). */
#ifndef COLDSTREAM_MATVEC_VEC_H
#define COLDSTREAM_MATVEC_VEC_H

#include "cpu/matmul.h"

struct format {
    void (*dot)(const uint8_t *piece, const struct prepared *const p[], int n, vector sum[]);
    const struct layout *layout;
    size_t block_weights, block_bytes, row_meta; /* row_meta: bytes in front of a row, which hold its scale */
};

/* STREAMS rows, `apart` rows from each other, times n vectors; f and n are constants wherever this is inlined. */
static ALWAYS_INLINE void rows_n(const struct format f, const struct matmul *m, size_t r, size_t apart, int n) {
    const struct prepared *room = m->scratch, *p[FEW];
    const size_t pieces = pieces_of(m->k), whole = m->k / PIECE, piece_bytes = PIECE / f.block_weights * f.block_bytes;
    const size_t rest = m->k % PIECE / f.block_weights * f.block_bytes;
    const uint8_t *row[STREAMS];
    vector sum[STREAMS][FEW];
    for (int v = 0; v < n; v++) p[v] = room + v * pieces;
    for (int s = 0; s < STREAMS; s++) {
        row[s] = m->w + (r + s * apart) * m->row_bytes + f.row_meta;
        for (int v = 0; v < n; v++) sum[s][v] = vector_zero();
    }
    for (size_t i = 0; i < whole; i++) {
        for (int s = 0; s < STREAMS; s++) {
            prefetch_ahead(row[s], piece_bytes);
            f.dot(row[s], p, n, sum[s]);
            row[s] += piece_bytes;
        }
        for (int v = 0; v < n; v++) p[v]++;
    }
    for (int s = 0; s < STREAMS; s++) {
        if (rest) { /* eight blocks, of which the missing ones are zero */
            uint8_t padded[PIECE / 32 * sizeof(struct block_q8_0)] = {0};
            memcpy(padded, row[s], rest);
            f.dot(padded, p, n, sum[s]);
        }
        const float scale = row_scale(m->w + (r + s * apart) * m->row_bytes, f.row_meta);
        for (int v = 0; v < n; v++) m->y[v * m->ldy + r + s * apart] = scale * vector_sum(sum[s][v]);
    }
}

/* f and n are constants wherever this is inlined. */
static SPECIALIZED void matvec_n(const struct format f, const struct matmul *m, int n) {
    struct prepared *room = m->scratch;
    const size_t pieces = pieces_of(m->k), half = (m->row_end - m->row_begin) / STREAMS;
    for (int v = 0; v < n; v++)
        for (size_t i = 0; i < pieces; i++) prepare_piece(f.layout, m->x, vector_of(m, v), i * PIECE, room + v * pieces + i);
    for (size_t s = 0; s < STREAMS; s++) prefetch_first(m->w + (m->row_begin + s * half) * m->row_bytes);
    for (size_t r = 0; r < half; r++) rows_n(f, m, m->row_begin + r, half, n);
    for (size_t r = m->row_begin + half * STREAMS; r < m->row_end; r++)
        rows_n(f, m, r, 0, n); /* the row that is left over, in every stream: not worth code of its own */
}

static ALWAYS_INLINE void matvec(const struct format f, const struct matmul *m) {
    switch (m->n) {
    case 1: matvec_n(f, m, 1); break;
    case 2: matvec_n(f, m, 2); break;
    case 3: matvec_n(f, m, 3); break;
    case 4: matvec_n(f, m, 4); break;
    default: break;
    }
}

#endif
