/* AVX-512: decoding and products of float matrices (F32, F16, BF16) with binary32 vectors.
 *
 * Few vectors: rows are read once. Many vectors: 64 columns of 32 rows are widened to binary32 and
 * turned so that a lane is a row, then multiplied with tiles of up to six vectors; each piece of 64 columns is summed on its
 * own before it joins the total. A (row, vector) is summed in the same order whatever slice or batch it is in, which a BLAS
 * does not promise: its kernels change with the shape. */
#include <immintrin.h>
#include <string.h>

#include "cpu/matmul.h"
#include "cpu/transpose_avx512.h"

enum { HALF = 16 /* rows in a register */, TILE = 6, SUMS = 2, COLUMNS = 64 /* of a panel */ };

/* ---- loads: 16 weights as binary32; lanes outside `valid` read nothing and are 0 -------------------------------- */

static ALWAYS_INLINE __m512 load_f32(const uint8_t *at, __mmask16 valid) { return _mm512_maskz_loadu_ps(valid, at); }
static ALWAYS_INLINE __m512 load_f16(const uint8_t *at, __mmask16 valid) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(valid, at));
}
static ALWAYS_INLINE __m512 load_bf16(const uint8_t *at, __mmask16 valid) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, at)), 16));
}

static ALWAYS_INLINE void decode(__m512 (*load)(const uint8_t *, __mmask16), size_t bytes, const uint8_t *row, float *out,
                                 size_t k) {
    for (size_t c = 0; c < k; c += 16) {
        const __mmask16 valid = k - c < 16 ? (__mmask16)((1u << (k - c)) - 1) : 0xffff;
        _mm512_mask_storeu_ps(out + c, valid, load(row + c * bytes, valid));
    }
}

static void dequant_f16(const void *row, float *out, size_t k) { decode(load_f16, 2, row, out, k); }
static void dequant_bf16(const void *row, float *out, size_t k) { decode(load_bf16, 2, row, out, k); }

/* ---- few vectors ------------------------------------------------------------------------------------------------ */

/* `streams` rows, `apart` rows from each other, times n vectors; all but r and apart are constants wherever this is inlined. */
static ALWAYS_INLINE void rows_n(__m512 (*load)(const uint8_t *, __mmask16), size_t bytes, const struct matmul *m, size_t r,
                                 size_t apart, int streams, int n) {
    const float *x[FEW];
    const uint8_t *row[STREAMS];
    __m512 sum[STREAMS][FEW][SUMS];
    for (int v = 0; v < n; v++) x[v] = m->x->f32 + vector_of(m, v) * m->x->k;
    for (int s = 0; s < streams; s++) {
        row[s] = m->w + (r + s * apart) * m->row_bytes;
        for (int v = 0; v < n; v++)
            for (int j = 0; j < SUMS; j++) sum[s][v][j] = _mm512_setzero_ps();
    }
    size_t c = 0;
    for (; c + 16 * SUMS <= m->k; c += 16 * SUMS)
        for (int s = 0; s < streams; s++) {
            prefetch_ahead(row[s] + c * bytes, 16 * SUMS * bytes);
            for (int j = 0; j < SUMS; j++) {
                const __m512 w = load(row[s] + (c + 16 * j) * bytes, 0xffff);
                for (int v = 0; v < n; v++) sum[s][v][j] = _mm512_fmadd_ps(w, _mm512_loadu_ps(x[v] + c + 16 * j), sum[s][v][j]);
            }
        }
    for (; c < m->k; c += 16) {
        const __mmask16 valid = m->k - c < 16 ? (__mmask16)((1u << (m->k - c)) - 1) : 0xffff;
        for (int s = 0; s < streams; s++) {
            const __m512 w = load(row[s] + c * bytes, valid);
            for (int v = 0; v < n; v++) sum[s][v][0] = _mm512_fmadd_ps(w, _mm512_maskz_loadu_ps(valid, x[v] + c), sum[s][v][0]);
        }
    }
    for (int s = 0; s < streams; s++)
        for (int v = 0; v < n; v++)
            m->y[v * m->ldy + r + s * apart] = _mm512_reduce_add_ps(_mm512_add_ps(sum[s][v][0], sum[s][v][1]));
}

/* n is a constant wherever this is inlined. */
static ALWAYS_INLINE void matvec(__m512 (*load)(const uint8_t *, __mmask16), size_t bytes, const struct matmul *m, int n) {
    const int streams = n > 2 ? 1 : STREAMS; /* as many as there are registers for */
    const size_t share = (m->row_end - m->row_begin) / streams;
    for (size_t r = 0; r < share; r++) rows_n(load, bytes, m, m->row_begin + r, share, streams, n);
    for (size_t r = m->row_begin + share * streams; r < m->row_end; r++) rows_n(load, bytes, m, r, 0, 1, n);
}

/* ---- many vectors ----------------------------------------------------------------------------------------------- */

typedef float panel_columns[PANEL_ROWS];

/* 64 bytes of each of 16 rows: out[j] holds dword j of row r in lane r. */
static ALWAYS_INLINE void transpose_64(const uint8_t *at, size_t stride, __m512i out[16]) {
    for (int chunk = 0; chunk < 4; chunk++) transpose(at + 16 * chunk, stride, out + 4 * chunk);
}

static void open_f32(const uint8_t *at, size_t stride, panel_columns *p, int row) {
    for (int c = 0; c < COLUMNS; c += 16) {
        __m512i z[16];
        transpose_64(at + 4 * c, stride, z);
        for (int j = 0; j < 16; j++) _mm512_store_si512(p[c + j] + row, z[j]);
    }
}

static void open_f16(const uint8_t *at, size_t stride, panel_columns *p, int row) {
    for (int c = 0; c < COLUMNS; c += 32) {
        __m512i z[16]; /* two columns a lane */
        transpose_64(at + 2 * c, stride, z);
        for (int j = 0; j < 16; j++) {
            _mm512_store_ps(p[c + 2 * j] + row, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(z[j])));
            _mm512_store_ps(p[c + 2 * j + 1] + row, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(z[j], 16))));
        }
    }
}

static void open_bf16(const uint8_t *at, size_t stride, panel_columns *p, int row) {
    for (int c = 0; c < COLUMNS; c += 32) {
        __m512i z[16];
        transpose_64(at + 2 * c, stride, z);
        for (int j = 0; j < 16; j++) {
            _mm512_store_si512(p[c + 2 * j] + row, _mm512_slli_epi32(z[j], 16));
            _mm512_store_si512(p[c + 2 * j + 1] + row, _mm512_and_si512(z[j], _mm512_set1_epi32((int)0xffff0000)));
        }
    }
}

struct format {
    void (*open)(const uint8_t *at, size_t stride, panel_columns *p, int row);
    size_t bytes; /* of a weight */
};

static void open_panel(const struct format *f, const struct matmul *m, size_t row, size_t rows, size_t column, size_t columns,
                       panel_columns *p) {
    const uint8_t *at = m->w + row * m->row_bytes + column * f->bytes;
    for (size_t h = 0; h < PANEL_ROWS; h += HALF, at += HALF * m->row_bytes) {
        if (rows >= h + HALF && columns == COLUMNS) {
            f->open(at, m->row_bytes, p, (int)h);
            continue;
        }
        uint8_t padded[HALF][COLUMNS * sizeof(float)] = {{0}}; /* rows and columns that are not there */
        for (size_t r = 0; r < HALF && h + r < rows; r++) memcpy(padded[r], at + r * m->row_bytes, columns * f->bytes);
        f->open(padded[0], sizeof padded[0], p, (int)h);
    }
}

/* acc[v][row] += the product of `columns` columns from `column` on. n is a constant wherever this is inlined. */
static ALWAYS_INLINE void tile(const struct matmul *m, size_t first, size_t column, size_t columns, const panel_columns *p,
                               panel_columns *acc, int n) {
    const float *x[TILE];
    __m512 sum[TILE][2];
    for (int v = 0; v < n; v++) {
        x[v] = m->x->f32 + vector_of(m, first + v) * m->x->k + column;
        sum[v][0] = sum[v][1] = _mm512_setzero_ps();
    }
    for (size_t c = 0; c < columns; c++) {
        const __m512 w0 = _mm512_load_ps(p[c]), w1 = _mm512_load_ps(p[c] + HALF);
        for (int v = 0; v < n; v++) {
            const __m512 a = _mm512_set1_ps(x[v][c]);
            sum[v][0] = _mm512_fmadd_ps(w0, a, sum[v][0]);
            sum[v][1] = _mm512_fmadd_ps(w1, a, sum[v][1]);
        }
    }
    for (int v = 0; v < n; v++)
        for (int h = 0; h < 2; h++)
            _mm512_store_ps(acc[v] + HALF * h, _mm512_add_ps(sum[v][h], _mm512_load_ps(acc[v] + HALF * h)));
}

static void tile_n(const struct matmul *m, size_t first, size_t column, size_t columns, const panel_columns *p,
                   panel_columns *acc, size_t n) {
    switch (n) {
    case 1: tile(m, first, column, columns, p, acc, 1); break;
    case 2: tile(m, first, column, columns, p, acc, 2); break;
    case 3: tile(m, first, column, columns, p, acc, 3); break;
    case 4: tile(m, first, column, columns, p, acc, 4); break;
    case 5: tile(m, first, column, columns, p, acc, 5); break;
    default: tile(m, first, column, columns, p, acc, 6); break;
    }
}

static void gemm(const struct format f, const struct matmul *m) {
    struct blocked *room = m->scratch;
    for (size_t row = m->row_begin; row < m->row_end; row += PANEL_ROWS)
        for (size_t first = 0; first < m->n; first += PASS) {
            const size_t rows = m->row_end - row < PANEL_ROWS ? m->row_end - row : PANEL_ROWS;
            const size_t n = m->n - first < PASS ? m->n - first : PASS;
            memset(room->acc, 0, n * sizeof *room->acc);
            for (size_t c = 0; c < m->k; c += COLUMNS) {
                const size_t columns = m->k - c < COLUMNS ? m->k - c : COLUMNS;
                open_panel(&f, m, row, rows, c, columns, room->f32);
                for (size_t i = 0; i < n; i += TILE) tile_n(m, first + i, c, columns, room->f32, room->acc + i, n - i);
            }
            for (size_t v = 0; v < n; v++) memcpy(m->y + (first + v) * m->ldy + row, room->acc[v], rows * sizeof(float));
        }
}

_Static_assert(FEW == 4, "the cases of MATMUL");

#define MATMUL(name, bytes)                                                                                                    \
    static void matmul_##name(const struct matmul *m) {                                                                        \
        switch (m->n) {                                                                                                        \
        case 0: break;                                                                                                         \
        case 1: matvec(load_##name, bytes, m, 1); break;                                                                       \
        case 2: matvec(load_##name, bytes, m, 2); break;                                                                       \
        case 3: matvec(load_##name, bytes, m, 3); break;                                                                       \
        case 4: matvec(load_##name, bytes, m, 4); break;                                                                       \
        default: gemm((struct format){open_##name, bytes}, m); break;                                                          \
        }                                                                                                                      \
    }

MATMUL(f32, 4)
MATMUL(f16, 2)
MATMUL(bf16, 2)

void cpu_fill_floats_avx512(struct cpu_ops *ops) {
    ops->types[TYPE_F32].matmul = matmul_f32;
    ops->types[TYPE_F16] = (struct cpu_type){dequant_f16, matmul_f16, false};
    ops->types[TYPE_BF16] = (struct cpu_type){dequant_bf16, matmul_bf16, false};
}
