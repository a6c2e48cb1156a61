/* AVX-512: products of quantized matrices with many vectors.
 *
 * 256 columns of 32 rows at a time are opened from their native blocks into struct panel (which stays in the first-level
 * cache), then multiplied with all vectors in tiles of up to six: a lane is a row, vpdpbusd takes four columns of 16 rows
 * against four activations broadcast, and after each group of columns the exact dots are converted and added with weight
 * scale * activation scale. A format needs one function that opens 16 rows. Every (row, vector) is summed in the same order
 * whatever the tile or slice, so results depend on neither. */
#include <immintrin.h>
#include <string.h>

#include "cpu/panel_avx512.h"

/* ---- opening 256 columns of 16 rows ----------------------------------------------------------------------------- */

static ALWAYS_INLINE __m512i low_nibbles(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
static ALWAYS_INLINE __m512i high_nibbles(__m512i x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }

/* Binary16 in the low half of each lane. */
static ALWAYS_INLINE __m512 halves(__m512i x) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)); }

/* Binary16 of 16 rows at one place of the row. */
static ALWAYS_INLINE __m512 column_f16(const uint8_t *at, size_t stride) {
    _Alignas(32) uint16_t h[HALF];
    for (int r = 0; r < HALF; r++) memcpy(h + r, at + r * stride, 2);
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)h));
}

static ALWAYS_INLINE void put_scaled_byte(float *out, __m512i bytes, int i, __m512 unit) {
    const __m512i byte = _mm512_and_si512(_mm512_srli_epi32(bytes, 8 * i), _mm512_set1_epi32(255));
    _mm512_store_ps(out, _mm512_mul_ps(_mm512_cvtepi32_ps(byte), unit));
}

/* Sixteen header bytes of Q4_K and Q5_K: d, dmin, twelve bytes of 6-bit pairs (see tensor.h). */
static ALWAYS_INLINE void open_scales_k(const uint8_t *at, size_t stride, struct panel *p, int row) {
    const __m512i six = _mm512_set1_epi8(63), top = _mm512_set1_epi8(0x30);
    __m512i h[4];
    transpose(at, stride, h);
    const __m512 d = halves(h[0]), dmin = halves(_mm512_srli_epi32(h[0], 16));
    const __m512i scale[2] = {_mm512_and_si512(h[1], six),
                              _mm512_or_si512(low_nibbles(h[3]), _mm512_and_si512(_mm512_srli_epi16(h[1], 2), top))};
    const __m512i min[2] = {_mm512_and_si512(h[2], six),
                            _mm512_or_si512(high_nibbles(h[3]), _mm512_and_si512(_mm512_srli_epi16(h[2], 2), top))};
    for (int g = 0; g < 8; g++) {
        put_scaled_byte(&p->scale[g][row], scale[g / 4], g % 4, d);
        put_scaled_byte(&p->min[g][row], min[g / 4], g % 4, dmin);
    }
}

static void open_q4_k(const uint8_t *at, size_t stride, struct panel *p, int row) {
    open_scales_k(at, stride, p, row);
    for (int chunk = 0; chunk < 8; chunk++) { /* 16 bytes: half of groups g (low) and g+1 (high) */
        __m512i bytes[4];
        transpose(at + 16 + 16 * chunk, stride, bytes);
        for (int j = 0; j < 4; j++) {
            const int quad = chunk / 2 * 16 + chunk % 2 * 4 + j;
            put(p, quad, row, low_nibbles(bytes[j]));
            put(p, quad + 8, row, high_nibbles(bytes[j]));
        }
    }
}

/* Adds bit `bit` of each byte as level bit 4. */
static ALWAYS_INLINE __m512i with_fifth(__m512i nibbles, __m512i bits, int bit) {
    const __m512i moved = _mm512_rolv_epi32(bits, _mm512_set1_epi32((4 - bit) & 31)); /* neighbours' bits are masked off */
    return _mm512_ternarylogic_epi32(nibbles, moved, _mm512_set1_epi8(16), 0xf8);     /* nibbles | (moved & 16) */
}

static void open_q5_k(const uint8_t *at, size_t stride, struct panel *p, int row) {
    open_scales_k(at, stride, p, row);
    __m512i bits[8];
    transpose(at + 16, stride, bits);
    transpose(at + 32, stride, bits + 4);
    for (int chunk = 0; chunk < 8; chunk++) {
        __m512i bytes[4];
        transpose(at + 48 + 16 * chunk, stride, bytes);
        for (int j = 0; j < 4; j++) {
            const int within = chunk % 2 * 4 + j, group = chunk / 2 * 2;
            put(p, group * 8 + within, row, with_fifth(low_nibbles(bytes[j]), bits[within], group));
            put(p, group * 8 + 8 + within, row, with_fifth(high_nibbles(bytes[j]), bits[within], group + 1));
        }
    }
}

/* Adds bits 2*plane, 2*plane+1 of each byte as level bits 4 and 5. */
static ALWAYS_INLINE __m512i with_fifth_and_sixth(__m512i nibbles, __m512i bits, int plane) {
    const __m512i moved = _mm512_rolv_epi32(bits, _mm512_set1_epi32((4 - 2 * plane) & 31));
    return _mm512_ternarylogic_epi32(nibbles, moved, _mm512_set1_epi8(0x30), 0xf8);
}

static void open_q6_k(const uint8_t *at, size_t stride, struct panel *p, int row) {
    for (int half = 0; half < 2; half++)
        for (int chunk = 0; chunk < 2; chunk++) { /* 16 of the 32 lanes */
            __m512i bits[4], even[4], odd[4];     /* planes 0 and 2, planes 1 and 3 */
            transpose(at + 128 + 32 * half + 16 * chunk, stride, bits);
            transpose(at + 64 * half + 16 * chunk, stride, even);
            transpose(at + 64 * half + 32 + 16 * chunk, stride, odd);
            for (int j = 0; j < 4; j++) {
                const int quad = half * 32 + chunk * 4 + j;
                put(p, quad, row, with_fifth_and_sixth(low_nibbles(even[j]), bits[j], 0));
                put(p, quad + 8, row, with_fifth_and_sixth(low_nibbles(odd[j]), bits[j], 1));
                put(p, quad + 16, row, with_fifth_and_sixth(high_nibbles(even[j]), bits[j], 2));
                put(p, quad + 24, row, with_fifth_and_sixth(high_nibbles(odd[j]), bits[j], 3));
            }
        }
    const __m512 d = column_f16(at + 208, stride);
    __m512i scale[4];
    transpose(at + 192, stride, scale);
    for (int t = 0; t < 16; t++) {
        const __m512i one = _mm512_srai_epi32(_mm512_slli_epi32(scale[t / 4], 24 - 8 * (t % 4)), 24);
        _mm512_store_ps(&p->scale[t][row], _mm512_mul_ps(_mm512_cvtepi32_ps(one), d));
    }
}

static void open_q8_0(const uint8_t *at, size_t stride, struct panel *p, int row) {
    for (int b = 0; b < 8; b++) {
        const uint8_t *block = at + b * sizeof(struct block_q8_0);
        _mm512_store_ps(&p->scale[b][row], column_f16(block, stride));
        for (int chunk = 0; chunk < 2; chunk++) {
            __m512i bytes[4];
            transpose(block + 2 + 16 * chunk, stride, bytes);
            for (int j = 0; j < 4; j++) put(p, b * 8 + chunk * 4 + j, row, _mm512_xor_si512(bytes[j], _mm512_set1_epi8(-128)));
        }
    }
}

static void open_q4_0(const uint8_t *at, size_t stride, struct panel *p, int row) {
    for (int b = 0; b < 8; b++) {
        const uint8_t *block = at + b * sizeof(struct block_q4_0);
        _mm512_store_ps(&p->scale[b][row], column_f16(block, stride));
        __m512i bytes[4];
        transpose(block + 2, stride, bytes);
        for (int j = 0; j < 4; j++) {
            put(p, b * 8 + j, row, low_nibbles(bytes[j]));
            put(p, b * 8 + 4 + j, row, high_nibbles(bytes[j]));
        }
    }
}

/* ---- a panel times up to six vectors ---------------------------------------------------------------------------- */

/* What tile() needs of one vector, where one register can address all of it. */
struct vector_scales {
    _Alignas(64) int32_t start[16]; /* -offset * sum of each 16 or, in even places, of each 32 activations */
    float sums[16];                 /* d * sum of each 16 or, the first eight, of each 32 activations */
    float d[8];
};

static ALWAYS_INLINE void load_scales(const struct gemm_step *s, size_t at, int group, struct vector_scales *out) {
    const __mmask8 valid = (__mmask8)((1u << s->groups) - 1);
    const __mmask16 valid16 = (__mmask16)((1u << 2 * s->groups) - 1);
    const struct acts *x = s->m->x;
    const __m256 d = _mm256_maskz_loadu_ps(valid, x->d + at / 32);
    _mm256_store_ps(out->d, d);
    __m512i sum = _mm512_maskz_loadu_epi32(valid16, x->sum16 + at / 16);
    if (group == 32) {
        _mm256_store_ps(out->sums, _mm256_maskz_loadu_ps(valid, x->s32 + at / 32));
        sum = _mm512_add_epi32(sum, _mm512_srli_epi64(sum, 32));
    } else {
        const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
        const __m512 d16 = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(d));
        _mm512_store_ps(out->sums, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), d16));
    }
    _mm512_store_si512(out->start, _mm512_mullo_epi32(sum, _mm512_set1_epi32(-s->offset)));
}

/* acc[v][row] += the step's product with vectors first .. first+n-1. n, group (columns that share a scale), has_min are
 * constants wherever this is inlined: 2n dots, 2n sums and two registers of weights are all the registers there are. */
static ALWAYS_INLINE void tile(const struct gemm_step *s, size_t first, panel_sums *acc, int n, int group, bool has_min) {
    const struct panel *p = s->panel;
    struct vector_scales scales[TILE];
    const int8_t *q[TILE];
    __m512 sum[TILE][2];
    for (int v = 0; v < n; v++) {
        const size_t at = vector_of(s->m, first + v) * s->m->x->k + s->column;
        q[v] = s->m->x->q + at;
        load_scales(s, at, group, &scales[v]);
        for (int h = 0; h < 2; h++) sum[v][h] = _mm512_load_ps(acc[v] + HALF * h);
    }
    for (size_t g = 0; g < s->groups; g++) {
        prefetch_some(s->ahead);
        for (int part = 0; part < 32 / group; part++) {
            const size_t t = g * (32 / group) + part;
            __m512i dots[TILE][2];
            for (int v = 0; v < n; v++)
                dots[v][0] = dots[v][1] =
                    has_min ? _mm512_setzero_si512() : _mm512_set1_epi32(scales[v].start[t * (group / 16)]);
#pragma GCC unroll 8
            for (int j = 0; j < group / 4; j++) {
                const size_t quad = t * (group / 4) + j;
                const __m512i w0 = _mm512_load_si512(p->w[quad][0]), w1 = _mm512_load_si512(p->w[quad][HALF]);
                for (int v = 0; v < n; v++) {
                    int32_t four;
                    memcpy(&four, q[v] + 4 * quad, 4);
                    const __m512i a = _mm512_set1_epi32(four);
                    dots[v][0] = _mm512_dpbusd_epi32(dots[v][0], w0, a);
                    dots[v][1] = _mm512_dpbusd_epi32(dots[v][1], w1, a);
                }
            }
            for (int v = 0; v < n; v++)
                for (int h = 0; h < 2; h++) {
                    const __m512 dot = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[v][h]), _mm512_set1_ps(scales[v].d[g]));
                    sum[v][h] = _mm512_fmadd_ps(dot, _mm512_load_ps(p->scale[t] + HALF * h), sum[v][h]);
                    if (has_min)
                        sum[v][h] =
                            _mm512_fnmadd_ps(_mm512_load_ps(p->min[t] + HALF * h), _mm512_set1_ps(scales[v].sums[t]), sum[v][h]);
                }
        }
    }
    for (int v = 0; v < n; v++)
        for (int h = 0; h < 2; h++) _mm512_store_ps(acc[v] + HALF * h, sum[v][h]);
}

#define TILE_OF(name, n, group, has_min)                                                                                       \
    static void name##_##n(const struct gemm_step *s, size_t i, panel_sums *acc) { tile(s, i, acc, n, group, has_min); }
#define TILES(name, group, has_min)                                                                                            \
    TILE_OF(name, 1, group, has_min)                                                                                           \
    TILE_OF(name, 2, group, has_min)                                                                                           \
    TILE_OF(name, 3, group, has_min)                                                                                           \
    TILE_OF(name, 4, group, has_min)                                                                                           \
    TILE_OF(name, 5, group, has_min)                                                                                           \
    TILE_OF(name, 6, group, has_min)                                                                                           \
    const tile_fn gemm_##name##_avx512[TILE] = {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6};

TILES(tiles_16_min, 16, true)
TILES(tiles_32_min, 32, true)
TILES(tiles_32, 32, false)
TILES(tiles_16, 16, false)

/* ---- the table -------------------------------------------------------------------------------------------------- */

#define GEMM(name, tiles, offset, weights)                                                                                     \
    void gemm_##name##_avx512(const struct matmul *m) {                                                                        \
        static const struct blocked_format f = {open_##name, HALF, gemm_##tiles##_avx512, TILE, offset, weights, sizeof(struct block_##name), 0}; \
        gemm_blocked(&f, m);                                                                                                   \
    }

GEMM(q4_0, tiles_32, 8, 32)
GEMM(q8_0, tiles_32, 128, 32)
GEMM(q4_k, tiles_32_min, 0, QK_K)
GEMM(q5_k, tiles_32_min, 0, QK_K)
GEMM(q6_k, tiles_16, 32, QK_K)
