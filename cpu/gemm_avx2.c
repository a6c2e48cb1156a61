/* AVX2: products of quantized matrices with many vectors.
 *
 * As gemm_avx512.c with eight rows a register: 256 columns of 32 rows are opened into struct panel, then multiplied with all
 * vectors in tiles of up to four. vpmaddubsw's 16-bit sums take as many further products as the type's largest level allows
 * before they are widened; Q8_0 keeps signed weights and gives their sign to the activation. Every (row, vector) is summed in
 * the same order whatever the tile or slice. */
#include <immintrin.h>
#include <string.h>

#include "cpu/panel_avx2.h"

enum { PAIR = 2 * LANES /* rows of a tile */ };

/* ---- opening 256 columns of 8 rows ------------------------------------------------------------------------------ */

static ALWAYS_INLINE __m256i low_nibbles(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
static ALWAYS_INLINE __m256i high_nibbles(__m256i x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }

/* Binary16 of 8 rows at one place of the row. */
static ALWAYS_INLINE __m256 column_f16(const uint8_t *at, size_t stride) {
    _Alignas(16) uint16_t h[LANES];
    for (int r = 0; r < LANES; r++) memcpy(h + r, at + r * stride, 2);
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)h));
}

static ALWAYS_INLINE void put_scaled_byte(float *out, __m256i bytes, int i, __m256 unit) {
    const __m256i byte = _mm256_and_si256(_mm256_srli_epi32(bytes, 8 * i), _mm256_set1_epi32(255));
    _mm256_store_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(byte), unit));
}

/* Sixteen header bytes of Q4_K and Q5_K: d, dmin, twelve bytes of 6-bit pairs (see tensor.h). */
static ALWAYS_INLINE void open_scales_k(const uint8_t *at, size_t stride, struct panel *p, int row) {
    const __m256i six = _mm256_set1_epi8(63), top = _mm256_set1_epi8(0x30);
    __m256i h[4];
    transpose(at, stride, h);
    const __m256 d = column_f16(at, stride), dmin = column_f16(at + 2, stride);
    const __m256i scale[2] = {_mm256_and_si256(h[1], six),
                              _mm256_or_si256(low_nibbles(h[3]), _mm256_and_si256(_mm256_srli_epi16(h[1], 2), top))};
    const __m256i min[2] = {_mm256_and_si256(h[2], six),
                            _mm256_or_si256(high_nibbles(h[3]), _mm256_and_si256(_mm256_srli_epi16(h[2], 2), top))};
    for (int g = 0; g < 8; g++) {
        put_scaled_byte(&p->scale[g][row], scale[g / 4], g % 4, d);
        put_scaled_byte(&p->min[g][row], min[g / 4], g % 4, dmin);
    }
}

static void open_q4_k(const uint8_t *at, size_t stride, struct panel *p, int row) {
    open_scales_k(at, stride, p, row);
    for (int chunk = 0; chunk < 8; chunk++) { /* 16 bytes: half of groups g (low) and g+1 (high) */
        __m256i bytes[4];
        transpose(at + 16 + 16 * chunk, stride, bytes);
        for (int j = 0; j < 4; j++) {
            const int quad = chunk / 2 * 16 + chunk % 2 * 4 + j;
            put(p, quad, row, low_nibbles(bytes[j]));
            put(p, quad + 8, row, high_nibbles(bytes[j]));
        }
    }
}

/* Bits of `mask` from `bits` moved left (negative: right); neighbours' bits are masked off. */
static ALWAYS_INLINE __m256i with_bits(__m256i nibbles, __m256i bits, int left, int mask) {
    const __m256i moved = left >= 0 ? _mm256_slli_epi32(bits, left) : _mm256_srli_epi32(bits, -left);
    return _mm256_or_si256(nibbles, _mm256_and_si256(moved, _mm256_set1_epi8((char)mask)));
}

static void open_q5_k(const uint8_t *at, size_t stride, struct panel *p, int row) {
    open_scales_k(at, stride, p, row);
    for (int half = 0; half < 2; half++) { /* of each 32-group */
        __m256i bits[4];
        transpose(at + 16 + 16 * half, stride, bits);
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; pair++) {
            __m256i bytes[4];
            transpose(at + 48 + 32 * pair + 16 * half, stride, bytes);
            for (int j = 0; j < 4; j++) {
                const int quad = pair * 16 + half * 4 + j;
                put(p, quad, row, with_bits(low_nibbles(bytes[j]), bits[j], 4 - 2 * pair, 16));
                put(p, quad + 8, row, with_bits(high_nibbles(bytes[j]), bits[j], 3 - 2 * pair, 16));
            }
        }
    }
}

static void open_q6_k(const uint8_t *at, size_t stride, struct panel *p, int row) {
    for (int half = 0; half < 2; half++)
        for (int chunk = 0; chunk < 2; chunk++) { /* 16 of the 32 lanes */
            __m256i bits[4], even[4], odd[4];     /* planes 0 and 2, planes 1 and 3 */
            transpose(at + 128 + 32 * half + 16 * chunk, stride, bits);
            transpose(at + 64 * half + 16 * chunk, stride, even);
            transpose(at + 64 * half + 32 + 16 * chunk, stride, odd);
            for (int j = 0; j < 4; j++) {
                const int quad = half * 32 + chunk * 4 + j;
                put(p, quad, row, with_bits(low_nibbles(even[j]), bits[j], 4, 0x30));
                put(p, quad + 8, row, with_bits(low_nibbles(odd[j]), bits[j], 2, 0x30));
                put(p, quad + 16, row, with_bits(high_nibbles(even[j]), bits[j], 0, 0x30));
                put(p, quad + 24, row, with_bits(high_nibbles(odd[j]), bits[j], -2, 0x30));
            }
        }
    const __m256 d = column_f16(at + 208, stride);
    __m256i scale[4];
    transpose(at + 192, stride, scale);
    for (int t = 0; t < 16; t++) {
        const __m256i one = _mm256_srai_epi32(_mm256_slli_epi32(scale[t / 4], 24 - 8 * (t % 4)), 24);
        _mm256_store_ps(&p->scale[t][row], _mm256_mul_ps(_mm256_cvtepi32_ps(one), d));
    }
}

static void open_q8_0(const uint8_t *at, size_t stride, struct panel *p, int row) {
    for (int b = 0; b < 8; b++) {
        const uint8_t *block = at + b * sizeof(struct block_q8_0);
        _mm256_store_ps(&p->scale[b][row], column_f16(block, stride));
        for (int chunk = 0; chunk < 2; chunk++) {
            __m256i bytes[4];
            transpose(block + 2 + 16 * chunk, stride, bytes);
            for (int j = 0; j < 4; j++) put(p, b * 8 + chunk * 4 + j, row, bytes[j]);
        }
    }
}

static void open_q4_0(const uint8_t *at, size_t stride, struct panel *p, int row) {
    for (int b = 0; b < 8; b++) {
        const uint8_t *block = at + b * sizeof(struct block_q4_0);
        _mm256_store_ps(&p->scale[b][row], column_f16(block, stride));
        __m256i bytes[4];
        transpose(block + 2, stride, bytes);
        for (int j = 0; j < 4; j++) {
            put(p, b * 8 + j, row, low_nibbles(bytes[j]));
            put(p, b * 8 + 4 + j, row, high_nibbles(bytes[j]));
        }
    }
}

/* ---- a panel times up to four vectors --------------------------------------------------------------------------- */

/* `group`: columns that share a scale. `chain`: vpmaddubsw results that may be added in 16 bits; 0: weights are signed. */
struct shape {
    int group, chain;
    bool has_min, has_offset;
};

/* Sum of quads [quad, quad + count) of 16 rows and n vectors, added to dots. n, count and shape are constants here. */
static ALWAYS_INLINE void add_quads(const struct panel *p, size_t quad, int row, const int8_t *const q[], int n, int count,
                                    bool is_signed, __m256i dots[][2]) {
    __m256i pairs[TILE][2];
#pragma GCC unroll 8
    for (int j = 0; j < count; j++) {
        const __m256i *w = (const __m256i *)p->w[quad + j][row];
        const __m256i w0 = _mm256_load_si256(w), w1 = _mm256_load_si256(w + 1);
        const __m256i m0 = is_signed ? _mm256_abs_epi8(w0) : w0, m1 = is_signed ? _mm256_abs_epi8(w1) : w1;
        for (int v = 0; v < n; v++) {
            int32_t four;
            memcpy(&four, q[v] + 4 * (quad + j), 4);
            const __m256i a = _mm256_set1_epi32(four);
            const __m256i a0 = _mm256_maddubs_epi16(m0, is_signed ? _mm256_sign_epi8(a, w0) : a);
            const __m256i a1 = _mm256_maddubs_epi16(m1, is_signed ? _mm256_sign_epi8(a, w1) : a);
            pairs[v][0] = j ? _mm256_add_epi16(pairs[v][0], a0) : a0;
            pairs[v][1] = j ? _mm256_add_epi16(pairs[v][1], a1) : a1;
        }
    }
    const __m256i ones = _mm256_set1_epi16(1);
    for (int v = 0; v < n; v++)
        for (int h = 0; h < 2; h++) dots[v][h] = _mm256_add_epi32(dots[v][h], _mm256_madd_epi16(pairs[v][h], ones));
}

/* acc[v][row .. row+15] += the step's product with vectors first .. first+n-1. */
static ALWAYS_INLINE void tile(const struct gemm_step *s, size_t first, panel_sums *acc, int n, const struct shape shape) {
    const struct panel *p = s->panel;
    const struct acts *x = s->m->x;
    const int per_group = 32 / shape.group, count = shape.chain ? shape.chain : 1;
    const int8_t *q[TILE];
    size_t at[TILE];
    for (int v = 0; v < n; v++) {
        at[v] = vector_of(s->m, first + v) * x->k + s->column;
        q[v] = x->q + at[v];
    }
    for (int row = 0; row < PANEL_ROWS; row += PAIR)
        for (size_t g = 0; g < s->groups; g++) {
            if (row == 0) prefetch_some(s->ahead);
            for (int part = 0; part < per_group; part++) {
                const size_t t = g * per_group + part;
                __m256i dots[TILE][2];
                float total[TILE]; /* d * sum of the part's activations, for the minimums */
                for (int v = 0; v < n; v++) {
                    const int32_t *sum = x->sum16 + at[v] / 16 + t * (shape.group / 16);
                    const int32_t start = !shape.has_offset ? 0 : -s->offset * (shape.group == 16 ? sum[0] : sum[0] + sum[1]);
                    dots[v][0] = dots[v][1] = _mm256_set1_epi32(start);
                    total[v] = shape.group == 32 ? x->s32[at[v] / 32 + g] : x->d[at[v] / 32 + g] * (float)sum[0];
                }
#pragma GCC unroll 8
                for (int j = 0; j < shape.group / 4; j += count)
                    add_quads(p, t * (shape.group / 4) + j, row, q, n, count, !shape.chain, dots);
                for (int v = 0; v < n; v++)
                    for (int h = 0; h < 2; h++) {
                        float *sum = acc[v] + row + LANES * h;
                        const __m256 dot = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[v][h]), _mm256_set1_ps(x->d[at[v] / 32 + g]));
                        __m256 y = _mm256_fmadd_ps(dot, _mm256_load_ps(p->scale[t] + row + LANES * h), _mm256_load_ps(sum));
                        if (shape.has_min)
                            y = _mm256_fnmadd_ps(_mm256_load_ps(p->min[t] + row + LANES * h), _mm256_set1_ps(total[v]), y);
                        _mm256_store_ps(sum, y);
                    }
            }
        }
}

#define TILE_OF(name, n, ...)                                                                                                  \
    static void name##_##n(const struct gemm_step *s, size_t i, panel_sums *acc) {                                             \
        tile(s, i, acc, n, (struct shape){__VA_ARGS__});                                                                       \
    }
#define TILES(name, ...)                                                                                                       \
    TILE_OF(name, 1, __VA_ARGS__)                                                                                              \
    TILE_OF(name, 2, __VA_ARGS__)                                                                                              \
    TILE_OF(name, 3, __VA_ARGS__)                                                                                              \
    TILE_OF(name, 4, __VA_ARGS__)                                                                                              \
    const tile_fn gemm_##name##_avx2[TILE] = {name##_1, name##_2, name##_3, name##_4};

TILES(tiles_4bit_min, 32, 8, true, false) /* 8 * 2 * 15 * 127 < 32768 */
TILES(tiles_5bit_min, 32, 4, true, false) /* 4 * 2 * 31 * 127 < 32768 */
TILES(tiles_4bit, 32, 8, false, true)
TILES(tiles_6bit_16, 16, 2, false, true) /* 2 * 2 * 63 * 127 < 32768 */
TILES(tiles_2bit_16_min, 16, 4, true, false)
TILES(tiles_signed, 32, 0, false, false) /* 2 * 128 * 127 < 32768 */
TILES(tiles_signed_16, 16, 0, false, false)

/* ---- the table -------------------------------------------------------------------------------------------------- */

#define GEMM(name, tiles, offset, weights)                                                                                     \
    void gemm_##name##_avx2(const struct matmul *m) {                                                                          \
        static const struct blocked_format f = {                                                                               \
            open_##name, LANES, gemm_##tiles##_avx2, TILE, offset, weights, sizeof(struct block_##name), 0};                    \
        gemm_blocked(&f, m);                                                                                                   \
    }

GEMM(q4_0, tiles_4bit, 8, 32)
GEMM(q8_0, tiles_signed, 0, 32)
GEMM(q4_k, tiles_4bit_min, 0, QK_K)
GEMM(q5_k, tiles_5bit_min, 0, QK_K)
GEMM(q6_k, tiles_6bit_16, 32, QK_K)
