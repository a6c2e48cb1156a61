/* AVX2: decoding and products of float matrices (F32, F16, BF16) with binary32 vectors. As floats_avx512.c, eight lanes at a
 * time. */
#include <immintrin.h>
#include <string.h>

#include "cpu/matmul.h"
#include "cpu/transpose_avx2.h"

enum { LANES = 8, PAIR = 2 * LANES, TILE = 5, SUMS = 2, COLUMNS = 64 /* of a panel */ };

/* ---- loads: 8 weights as binary32 ------------------------------------------------------------------------------- */

static ALWAYS_INLINE __m256 load_f32(const uint8_t *at) { return _mm256_loadu_ps((const float *)at); }
static ALWAYS_INLINE __m256 load_f16(const uint8_t *at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }
static ALWAYS_INLINE __m256 load_bf16(const uint8_t *at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at)), 16));
}

/* The last k % 8 weights or activations, zeros behind them. */
static ALWAYS_INLINE __m256 load_rest(__m256 (*load)(const uint8_t *), const void *at, size_t bytes) {
    uint8_t padded[LANES * sizeof(float)] = {0};
    memcpy(padded, at, bytes);
    return load(padded);
}

static ALWAYS_INLINE void decode(__m256 (*load)(const uint8_t *), size_t bytes, const uint8_t *row, float *out, size_t k) {
    size_t c = 0;
    for (; c + LANES <= k; c += LANES) _mm256_storeu_ps(out + c, load(row + c * bytes));
    float rest[LANES];
    _mm256_storeu_ps(rest, load_rest(load, row + c * bytes, (k - c) * bytes));
    memcpy(out + c, rest, (k - c) * sizeof *out);
}

static void dequant_f16(const void *row, float *out, size_t k) { decode(load_f16, 2, row, out, k); }
static void dequant_bf16(const void *row, float *out, size_t k) { decode(load_bf16, 2, row, out, k); }

/* ---- few vectors ------------------------------------------------------------------------------------------------ */

static inline float sum_f32(__m256 x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* `streams` rows, `apart` rows from each other, times n vectors; all but r and apart are constants wherever this is inlined. */
static ALWAYS_INLINE void rows_n(__m256 (*load)(const uint8_t *), size_t bytes, const struct matmul *m, size_t r, size_t apart,
                                 int streams, int n) {
    const float *x[FEW];
    const uint8_t *row[STREAMS];
    __m256 sum[STREAMS][FEW][SUMS];
    for (int v = 0; v < n; v++) x[v] = m->x->f32 + vector_of(m, v) * m->x->k;
    for (int s = 0; s < streams; s++) {
        row[s] = m->w + (r + s * apart) * m->row_bytes;
        for (int v = 0; v < n; v++)
            for (int j = 0; j < SUMS; j++) sum[s][v][j] = _mm256_setzero_ps();
    }
    size_t c = 0;
    for (; c + LANES * SUMS <= m->k; c += LANES * SUMS)
        for (int s = 0; s < streams; s++) {
            prefetch_ahead(row[s] + c * bytes, LANES * SUMS * bytes);
            for (int j = 0; j < SUMS; j++) {
                const __m256 w = load(row[s] + (c + LANES * j) * bytes);
                for (int v = 0; v < n; v++)
                    sum[s][v][j] = _mm256_fmadd_ps(w, _mm256_loadu_ps(x[v] + c + LANES * j), sum[s][v][j]);
            }
        }
    for (; c < m->k; c += LANES) {
        const size_t left = m->k - c < LANES ? m->k - c : LANES;
        for (int s = 0; s < streams; s++) {
            const __m256 w = load_rest(load, row[s] + c * bytes, left * bytes);
            for (int v = 0; v < n; v++)
                sum[s][v][0] = _mm256_fmadd_ps(w, load_rest(load_f32, x[v] + c, left * sizeof(float)), sum[s][v][0]);
        }
    }
    for (int s = 0; s < streams; s++)
        for (int v = 0; v < n; v++) m->y[v * m->ldy + r + s * apart] = sum_f32(_mm256_add_ps(sum[s][v][0], sum[s][v][1]));
}

/* n is a constant wherever this is inlined. */
static ALWAYS_INLINE void matvec(__m256 (*load)(const uint8_t *), size_t bytes, const struct matmul *m, int n) {
    const int streams = n > 2 ? 1 : STREAMS; /* as many as there are registers for */
    const size_t share = (m->row_end - m->row_begin) / streams;
    for (size_t r = 0; r < share; r++) rows_n(load, bytes, m, m->row_begin + r, share, streams, n);
    for (size_t r = m->row_begin + share * streams; r < m->row_end; r++) rows_n(load, bytes, m, r, 0, 1, n);
}

/* ---- many vectors ----------------------------------------------------------------------------------------------- */

typedef float panel_columns[PANEL_ROWS];

static ALWAYS_INLINE void put(panel_columns *p, int column, int row, __m256i values) {
    _mm256_store_si256((__m256i *)(p[column] + row), values);
}

static void open_f32(const uint8_t *at, size_t stride, panel_columns *p, int row) {
    for (int c = 0; c < COLUMNS; c += 4) {
        __m256i z[4];
        transpose(at + 4 * c, stride, z);
        for (int j = 0; j < 4; j++) put(p, c + j, row, z[j]);
    }
}

/* The low 16 bits of each lane as binary16 */
static ALWAYS_INLINE __m256i widen(__m256i x) {
    const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return _mm256_castps_si256(_mm256_cvtph_ps(_mm256_castsi256_si128(packed)));
}

static void open_f16(const uint8_t *at, size_t stride, panel_columns *p, int row) {
    for (int c = 0; c < COLUMNS; c += 8) {
        __m256i z[4]; /* two columns a lane */
        transpose(at + 2 * c, stride, z);
        for (int j = 0; j < 4; j++) {
            put(p, c + 2 * j, row, widen(z[j]));
            put(p, c + 2 * j + 1, row, widen(_mm256_srli_epi32(z[j], 16)));
        }
    }
}

static void open_bf16(const uint8_t *at, size_t stride, panel_columns *p, int row) {
    for (int c = 0; c < COLUMNS; c += 8) {
        __m256i z[4];
        transpose(at + 2 * c, stride, z);
        for (int j = 0; j < 4; j++) {
            put(p, c + 2 * j, row, _mm256_slli_epi32(z[j], 16));
            put(p, c + 2 * j + 1, row, _mm256_and_si256(z[j], _mm256_set1_epi32((int)0xffff0000)));
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
    for (size_t h = 0; h < PANEL_ROWS; h += LANES, at += LANES * m->row_bytes) {
        if (rows >= h + LANES && columns == COLUMNS) {
            f->open(at, m->row_bytes, p, (int)h);
            continue;
        }
        uint8_t padded[LANES][COLUMNS * sizeof(float)] = {{0}}; /* rows and columns that are not there */
        for (size_t r = 0; r < LANES && h + r < rows; r++) memcpy(padded[r], at + r * m->row_bytes, columns * f->bytes);
        f->open(padded[0], sizeof padded[0], p, (int)h);
    }
}

/* acc[v][row] += the product of `columns` columns from `column` on. n is a constant wherever this is inlined. */
static ALWAYS_INLINE void tile(const struct matmul *m, size_t first, size_t column, size_t columns, const panel_columns *p,
                               panel_columns *acc, int n) {
    const float *x[TILE];
    for (int v = 0; v < n; v++) x[v] = m->x->f32 + vector_of(m, first + v) * m->x->k + column;
    for (int row = 0; row < PANEL_ROWS; row += PAIR) {
        __m256 sum[TILE][2];
        for (int v = 0; v < n; v++) sum[v][0] = sum[v][1] = _mm256_setzero_ps();
        for (size_t c = 0; c < columns; c++) {
            const __m256 w0 = _mm256_load_ps(p[c] + row), w1 = _mm256_load_ps(p[c] + row + LANES);
            for (int v = 0; v < n; v++) {
                const __m256 a = _mm256_set1_ps(x[v][c]);
                sum[v][0] = _mm256_fmadd_ps(w0, a, sum[v][0]);
                sum[v][1] = _mm256_fmadd_ps(w1, a, sum[v][1]);
            }
        }
        for (int v = 0; v < n; v++)
            for (int h = 0; h < 2; h++) {
                float *total = acc[v] + row + LANES * h;
                _mm256_store_ps(total, _mm256_add_ps(sum[v][h], _mm256_load_ps(total)));
            }
    }
}

static void tile_n(const struct matmul *m, size_t first, size_t column, size_t columns, const panel_columns *p,
                   panel_columns *acc, size_t n) {
    switch (n) {
    case 1: tile(m, first, column, columns, p, acc, 1); break;
    case 2: tile(m, first, column, columns, p, acc, 2); break;
    case 3: tile(m, first, column, columns, p, acc, 3); break;
    case 4: tile(m, first, column, columns, p, acc, 4); break;
    default: tile(m, first, column, columns, p, acc, 5); break;
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

void cpu_fill_floats_avx2(struct cpu_ops *ops) {
    ops->types[TYPE_F32].matmul = matmul_f32;
    ops->types[TYPE_F16] = (struct cpu_type){dequant_f16, matmul_f16, false};
    ops->types[TYPE_BF16] = (struct cpu_type){dequant_bf16, matmul_bf16, false};
}
