/* AVX-512 (F, BW, VL, DQ, VNNI): activations to int8, and products of quantized matrices with few vectors.
 *
 * With few vectors a product is bound by memory: weights are read once, in their native blocks, 64 levels a step.
 * vpdpbusd multiplies unsigned levels with signed activations and sums fours in 32 bits, so nothing saturates. The dots of a
 * group stay integers until one fused multiply-add by weight scale * activation scale. The vectors are first rearranged
 * (struct prepared) so that loads of weights need no shuffling; a row's result depends on nothing but row and vector. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/matvec_avx512.h"

/* ---- activations ------------------------------------------------------------------------------------------------ */

/* See quantize_group() of quants_ref.c, whose results these are bit for bit. */
static inline void quantize_group(const float *x, int8_t *q, float *d, float *s32, int32_t *sum16) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const __m512i ma = _mm512_and_si512(_mm512_castps_si512(a), magnitude),
                  mb = _mm512_and_si512(_mm512_castps_si512(b), magnitude);
    const union {
        int32_t i;
        float f;
    } max = {_mm512_reduce_max_epi32(_mm512_max_epi32(ma, mb))};
    const bool finite = max.i < 0x7f800000, usable = finite && max.f >= 0x1p-110f;
    const __m512 inverse = _mm512_set1_ps(127 / max.f);
    const __mmask16 keep = usable ? 0xffff : 0;
    const __m512i qa = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(a, inverse));
    const __m512i qb = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(b, inverse));
    _mm_storeu_si128((__m128i *)q, _mm512_cvtepi32_epi8(qa));
    _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtepi32_epi8(qb));
    sum16[0] = _mm512_reduce_add_epi32(qa);
    sum16[1] = _mm512_reduce_add_epi32(qb);
    *d = usable ? max.f / 127 : finite ? 0 : NAN;
    *s32 = *d * (float)(sum16[0] + sum16[1]);
}

static void quantize(const struct acts *a, size_t begin, size_t end) {
    for (size_t g = begin * a->k / 32; g < end * a->k / 32; g++)
        quantize_group(a->f32 + g * 32, a->q + g * 32, a->d + g, a->s32 + g, a->sum16 + 2 * g);
}

/* ---- 256 columns of one row ------------------------------------------------------------------------------------- */

static const struct layout layout_q8_0 = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, 1, 128, FOLD_D32, 16};
static const struct layout layout_q6_k = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, 1, 32, FOLD_D16, 16};
static const struct layout layout_q4_0 = {{0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15}, 2, 8, FOLD_D32, 16};
static const struct layout layout_q45_k = {{0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}, 2, 0, FOLD_MINS, 16};

/* Lanes 0-7: d * scale of the eight groups; lanes 8-15: dmin * minimum. `at`: d, dmin, twelve packed bytes. */
static inline __m512 scales_and_mins(const uint8_t *at) {
    uint64_t low; /* S0..S7: the low 6 bits of scales and minimums 0-3, above them the top 2 bits of 4-7 */
    uint32_t high, d;
    memcpy(&low, at + 4, sizeof low);
    memcpy(&high, at + 12, sizeof high); /* S8..S11: the low nibbles of scales 4-7, the high ones of minimums 4-7 */
    memcpy(&d, at, sizeof d);
    const uint64_t first = low & 0x3f3f3f3f3f3f3f3full;
    const uint64_t nibbles = (high & 0x0f0f0f0full) | (high & 0xf0f0f0f0ull) << 28;
    const uint64_t second = nibbles | (low >> 2 & 0x3030303030303030ull);
    const __m128i bytes = _mm_unpacklo_epi32(_mm_cvtsi64_si128((long long)first), _mm_cvtsi64_si128((long long)second));
    const __m256i halves =
        _mm256_shuffle_epi8(_mm256_set1_epi32((int)d),
                            _mm256_setr_epi64x(0x0100010001000100, 0x0100010001000100, 0x0302030203020302, 0x0302030203020302));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), _mm512_cvtph_ps(halves));
}

/* Levels of Q4_K and Q5_K in the order of layout_q45_k: low[0], low[1]: the first and second 16 weights of groups 0 2 4 6,
 * high: of groups 1 3 5 7. */
struct levels {
    __m512i low[2], high[2];
};

static ALWAYS_INLINE void dot_levels_k(const struct levels *l, const uint8_t *header, const struct prepared *const p[], int n,
                                       __m512 sum[]) {
    const __m512 scales = scales_and_mins(header);
    for (int v = 0; v < n; v++) {
        const __m512 s = _mm512_mul_ps(scales, _mm512_load_ps(p[v]->fold));
        const __m512i zero = _mm512_setzero_si512();
        const __m512i low = dot(dot(zero, l->low[0], p[v], 0), l->low[1], p[v], 1);
        const __m512i high = dot(dot(zero, l->high[0], p[v], 2), l->high[1], p[v], 3);
        sum[v] = add_scaled(sum[v], low, s, fours(0, 2, 4, 6));
        sum[v] = add_scaled(sum[v], high, s, fours(1, 3, 5, 7));
        sum[v] = _mm512_mask_add_ps(sum[v], 0xff00, sum[v], s);
    }
}

/* The 128 nibble bytes as [16 bytes of each 32][...]: first halves and second halves of the four byte groups. */
static ALWAYS_INLINE void split_nibbles(const uint8_t *qs, __m512i *first, __m512i *second) {
    const __m512i a = _mm512_loadu_si512(qs), b = _mm512_loadu_si512(qs + 64);
    *first = _mm512_shuffle_i32x4(a, b, 0x88);
    *second = _mm512_shuffle_i32x4(a, b, 0xdd);
}

static ALWAYS_INLINE void dot_q4_k(const uint8_t *b, const struct prepared *const p[], int n, __m512 sum[]) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i first, second;
    split_nibbles(b + 16, &first, &second);
    const struct levels l = {
        {_mm512_and_si512(first, nibble), _mm512_and_si512(second, nibble)},
        {_mm512_and_si512(_mm512_srli_epi16(first, 4), nibble), _mm512_and_si512(_mm512_srli_epi16(second, 4), nibble)}};
    dot_levels_k(&l, b, p, n, sum);
}

static ALWAYS_INLINE void dot_q5_k(const uint8_t *b, const struct prepared *const p[], int n, __m512 sum[]) {
    const __m512i nibble = _mm512_set1_epi8(15), five = _mm512_set1_epi8(31);
    struct levels l;
    __m512i byte[2];
    split_nibbles(b + 48, &byte[0], &byte[1]);
    for (int half = 0; half < 2; half++) { /* bit g of qh[l] belongs to group g: move it to bit 4 */
        const __m512i bits = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(b + 16 + 16 * half)));
        l.low[half] = _mm512_and_si512(choose(nibble, byte[half], rotate_lanes(bits, 4, 2, 0, 62)), five);
        l.high[half] =
            _mm512_and_si512(choose(nibble, _mm512_srli_epi16(byte[half], 4), rotate_lanes(bits, 3, 1, 63, 61)), five);
    }
    dot_levels_k(&l, b, p, n, sum);
}

static ALWAYS_INLINE void dot_q6_k(const uint8_t *b, const struct prepared *const p[], int n, __m512 sum[]) {
    const __m512i nibble = _mm512_set1_epi8(15), six = _mm512_set1_epi8(63);
    __m512i level[4];
    for (int half = 0; half < 2; half++) { /* bits 2p and 2p+1 of qh belong to plane p: move them to bits 4 and 5 */
        const __m512i low = _mm512_loadu_si512(b + 64 * half);
        const __m512i bits = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(b + 128 + 32 * half)));
        level[2 * half] = _mm512_and_si512(choose(nibble, low, rotate_lanes(bits, 4, 4, 2, 2)), six);
        level[2 * half + 1] =
            _mm512_and_si512(choose(nibble, _mm512_srli_epi16(low, 4), rotate_lanes(bits, 0, 0, 62, 62)), six);
    }
    const __m512 scales = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(b + 192)))),
                                        spread_f16(b + 208));
    for (int v = 0; v < n; v++) {
        const __m512 s = _mm512_mul_ps(scales, _mm512_load_ps(p[v]->fold));
        for (int i = 0; i < 4; i++)
            sum[v] =
                add_scaled(sum[v], dot(start(p[v], i), level[i], p[v], i), s, fours(4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3));
    }
}

static ALWAYS_INLINE void dot_q8_0(const uint8_t *b, const struct prepared *const p[], int n, __m512 sum[]) {
    enum { BLOCK = sizeof(struct block_q8_0) };
    const __m512 scales = _mm512_castps256_ps512(eight_f16(b, BLOCK));
    __m512i level[4];
    for (int i = 0; i < 4; i++) {
        const __m256i even = _mm256_loadu_si256((const __m256i *)(b + 2 * i * BLOCK + 2));
        const __m256i odd = _mm256_loadu_si256((const __m256i *)(b + (2 * i + 1) * BLOCK + 2));
        level[i] = _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1), _mm512_set1_epi8(-128));
    }
    for (int v = 0; v < n; v++) {
        const __m512 s = _mm512_mul_ps(scales, _mm512_load_ps(p[v]->fold));
        for (int i = 0; i < 4; i++)
            sum[v] = add_scaled(sum[v], dot(start(p[v], i), level[i], p[v], i), s, fours(2 * i, 2 * i, 2 * i + 1, 2 * i + 1));
    }
}

static ALWAYS_INLINE void dot_q4_0(const uint8_t *b, const struct prepared *const p[], int n, __m512 sum[]) {
    enum { BLOCK = sizeof(struct block_q4_0) };
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512 scales = _mm512_castps256_ps512(eight_f16(b, BLOCK));
    __m512i level[4];
    for (int i = 0; i < 2; i++) {
        const uint8_t *qs = b + 4 * i * BLOCK + 2;
        __m512i bytes = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)qs));
        bytes = _mm512_inserti32x4(bytes, _mm_loadu_si128((const __m128i *)(qs + BLOCK)), 1);
        bytes = _mm512_inserti32x4(bytes, _mm_loadu_si128((const __m128i *)(qs + 2 * BLOCK)), 2);
        bytes = _mm512_inserti32x4(bytes, _mm_loadu_si128((const __m128i *)(qs + 3 * BLOCK)), 3);
        level[2 * i] = _mm512_and_si512(bytes, nibble);
        level[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
    }
    for (int v = 0; v < n; v++) {
        const __m512 s = _mm512_mul_ps(scales, _mm512_load_ps(p[v]->fold));
        for (int i = 0; i < 2; i++) {
            const __m512i dots = dot(dot(start(p[v], 2 * i), level[2 * i], p[v], 2 * i), level[2 * i + 1], p[v], 2 * i + 1);
            sum[v] = add_scaled(sum[v], dots, s, fours(4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3));
        }
    }
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

#define MATMUL(name, layout_name, weights)                                                                                     \
    static void matmul_##name(const struct matmul *m) {                                                                        \
        const struct format f = {dot_##name, &layout_name, weights, sizeof(struct block_##name), 0};                              \
        if (m->n > FEW)                                                                                                        \
            gemm_##name##_avx512(m);                                                                                           \
        else                                                                                                                   \
            matvec(f, m);                                                                                                      \
    }

MATMUL(q4_0, layout_q4_0, 32)
MATMUL(q8_0, layout_q8_0, 32)
MATMUL(q4_k, layout_q45_k, QK_K)
MATMUL(q5_k, layout_q45_k, QK_K)
MATMUL(q6_k, layout_q6_k, QK_K)

void cpu_fill_quants_avx512(struct cpu_ops *ops) {
    ops->quantize = quantize;
    cpu_fill_floats_avx512(ops);
    ops->types[TYPE_Q4_0].matmul = matmul_q4_0;
    ops->types[TYPE_Q8_0].matmul = matmul_q8_0;
    ops->types[TYPE_Q4_K].matmul = matmul_q4_k;
    ops->types[TYPE_Q5_K].matmul = matmul_q5_k;
    ops->types[TYPE_Q6_K].matmul = matmul_q6_k;
}
