/* Products of quantized matrices with many vectors: the walk through panels, pieces and tiles that all instruction sets share.
 *
 * 32 rows at a time: 256 columns are opened from their native blocks into struct panel, which stays in the first-level cache
 * while all vectors pass over it, up to PASS of them; their sums wait in struct blocked. Every (row, vector) is summed in the
 * order of its columns whatever the tile, slice or batch, so results depend on none of them. */
#include <string.h>

#include "cpu/matmul.h"

enum { OPEN_ROWS_MAX = 16, PIECE_BYTES_MAX = PIECE / 32 * sizeof(struct block_q8_0) };

/* Rows or blocks that are not there count as zeros. */
static void open_padded(const struct blocked_format *f, const uint8_t *at, size_t stride, size_t rows, size_t bytes,
                        struct panel *p, size_t row) {
    uint8_t padded[OPEN_ROWS_MAX][PIECE_BYTES_MAX] = {{0}};
    for (size_t r = 0; r < rows; r++) memcpy(padded[r], at + r * stride, bytes);
    f->open(padded[0], PIECE_BYTES_MAX, p, (int)row);
}

static void open_panel(const struct blocked_format *f, const struct matmul *m, size_t row, size_t rows, size_t piece,
                       struct panel *p) {
    const size_t columns = m->k - piece * PIECE < PIECE ? m->k - piece * PIECE : PIECE,
                 bytes = columns / f->block_weights * f->block_bytes;
    const uint8_t *at = m->w + row * m->row_bytes + f->row_meta + piece * (PIECE / f->block_weights * f->block_bytes);
    for (size_t r = 0; r < PANEL_ROWS; r += f->open_rows, at += f->open_rows * m->row_bytes) {
        const size_t left = rows < r ? 0 : rows - r;
        if (left >= f->open_rows && columns == PIECE)
            f->open(at, m->row_bytes, p, (int)r);
        else
            open_padded(f, at, m->row_bytes, left < f->open_rows ? left : f->open_rows, bytes, p, r);
    }
}

static void multiply(const struct blocked_format *f, const struct matmul *m, size_t first, size_t n, size_t row, size_t rows,
                     struct prefetch *ahead) {
    struct blocked *room = m->scratch;
    const size_t tiles = (n + f->most_vectors - 1) / f->most_vectors;
    memset(room->acc, 0, n * sizeof *room->acc);
    for (size_t piece = 0; piece < pieces_of(m->k); piece++) {
        open_panel(f, m, row, rows, piece, &room->panel);
        const size_t column = piece * PIECE, left = (m->k - column) / 32;
        const struct gemm_step s = {&room->panel, m, column, left < 8 ? left : 8, f->offset, ahead};
        for (size_t t = 0, at = 0; t < tiles; t++) { /* tiles of nearly equal size */
            const size_t count = (n - at + tiles - t - 1) / (tiles - t);
            f->tiles[count - 1](&s, first + at, room->acc + at);
            at += count;
        }
    }
    float scale[PANEL_ROWS];
    for (size_t r = 0; r < rows; r++) scale[r] = row_scale(m->w + (row + r) * m->row_bytes, f->row_meta);
    for (size_t v = 0; v < n; v++)
        for (size_t r = 0; r < rows; r++) m->y[(first + v) * m->ldy + row + r] = scale[r] * room->acc[v][r];
}

static size_t panel_rows(const struct matmul *m, size_t row) {
    return m->row_end - row < PANEL_ROWS ? m->row_end - row : PANEL_ROWS;
}

/* The rows of the panel at `row`, if there is one, to be fetched in `steps` steps. */
static struct prefetch prefetch_panel(const struct matmul *m, size_t row, size_t steps) {
    if (row >= m->row_end) return (struct prefetch){m->w, m->w, 0};
    const size_t bytes = panel_rows(m, row) * m->row_bytes;
    const uint8_t *at = m->w + row * m->row_bytes;
    return (struct prefetch){at, at + bytes, (size_t)round_up(bytes / steps + 64, 64)};
}

void gemm_blocked(const struct blocked_format *f, const struct matmul *m) {
    const size_t steps = (m->n + f->most_vectors - 1) / f->most_vectors * pieces_of(m->k) * (PIECE / 32);
    struct prefetch ahead = prefetch_panel(m, m->row_begin, 1);
    prefetch_some(&ahead);
    for (size_t row = m->row_begin; row < m->row_end; row += PANEL_ROWS) {
        ahead = prefetch_panel(m, row + PANEL_ROWS, steps);
        for (size_t first = 0; first < m->n; first += PASS)
            multiply(f, m, first, m->n - first < PASS ? m->n - first : PASS, row, panel_rows(m, row), &ahead);
    }
}
