/* AVX2: activations to int8, and products of quantized matrices with few vectors.
 *
 * As quants_avx512.c with 32 levels a step: vpmaddubsw multiplies unsigned levels with signed activations and adds pairs in
 * 16 bits. Levels below 64 leave room there for two such sums (2 * 2 * 63 * 127 < 32768); Q8_0 multiplies |weight| with the
 * activation that took the weight's sign (2 * 128 * 127 < 32768), so nothing saturates. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/matvec_avx2.h"

/* ---- activations ------------------------------------------------------------------------------------------------ */

static inline int32_t sum_i32(__m256i x) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static inline int32_t max_i32(__m256i x) {
    __m128i s = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_max_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* See quantize_group() of quants_ref.c, whose results these are bit for bit. */
static inline void quantize_group(const float *x, int8_t *q, float *d, float *s32, int32_t *sum16) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256 v[4];
    __m256i most = _mm256_setzero_si256(), r[4];
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
    }
    const union {
        int32_t i;
        float f;
    } max = {max_i32(most)};
    const bool finite = max.i < 0x7f800000, usable = finite && max.f >= 0x1p-110f;
    const __m256 inverse = _mm256_set1_ps(127 / max.f);
    const __m256i keep = _mm256_set1_epi32(usable ? -1 : 0);
    for (int i = 0; i < 4; i++) r[i] = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse)), keep);
    sum16[0] = sum_i32(_mm256_add_epi32(r[0], r[1]));
    sum16[1] = sum_i32(_mm256_add_epi32(r[2], r[3]));
    /* packs works within 128-bit lanes: put the dwords back in order */
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(r[0], r[1]), _mm256_packs_epi32(r[2], r[3]));
    _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    *d = usable ? max.f / 127 : finite ? 0 : NAN;
    *s32 = *d * (float)(sum16[0] + sum16[1]);
}

static void quantize(const struct acts *a, size_t begin, size_t end) {
    for (size_t g = begin * a->k / 32; g < end * a->k / 32; g++)
        quantize_group(a->f32 + g * 32, a->q + g * 32, a->d + g, a->s32 + g, a->sum16 + 2 * g);
}

/* ---- 256 columns of one row ------------------------------------------------------------------------------------- */

static const struct layout layout_q8_0 = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, 1, 0, false};
static const struct layout layout_q6_k = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, 1, 32, true};
static const struct layout layout_q4_0 = {{0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15}, 2, 8, false};
static const struct layout layout_q45_k = {{0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15}, 2, 0, false};

/* d * scale and dmin * minimum of the eight groups. `at`: d, dmin, twelve packed bytes. */
static inline void scales_and_mins(const uint8_t *at, __m256 *scales, __m256 *mins) {
    uint64_t low; /* S0..S7: the low 6 bits of scales and minimums 0-3, above them the top 2 bits of 4-7 */
    uint32_t high;
    memcpy(&low, at + 4, sizeof low);
    memcpy(&high, at + 12, sizeof high); /* S8..S11: the low nibbles of scales 4-7, the high ones of minimums 4-7 */
    const uint64_t first = low & 0x3f3f3f3f3f3f3f3full;
    const uint64_t nibbles = (high & 0x0f0f0f0full) | (high & 0xf0f0f0f0ull) << 28;
    const uint64_t second = nibbles | (low >> 2 & 0x3030303030303030ull);
    const __m128i bytes = _mm_unpacklo_epi32(_mm_cvtsi64_si128((long long)first), _mm_cvtsi64_si128((long long)second));
    *scales = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_set1_ps(one_f16(at)));
    *mins = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))), _mm256_set1_ps(one_f16(at + 2)));
}

/* Levels of 128 weights in the order of layout_q45_k: groups 0 and 2 (first halves, second halves), then 1 and 3. */
struct levels {
    __m256i even[2], odd[2];
};

static ALWAYS_INLINE void dot_levels_k(const struct levels l[2], const uint8_t *header, const struct prepared *const p[], int n,
                                       __m256 sum[]) {
    __m256 scales, mins;
    scales_and_mins(header, &scales, &mins);
    for (int v = 0; v < n; v++) {
        const __m256 s = _mm256_mul_ps(scales, _mm256_load_ps(p[v]->fold));
        sum[v] = _mm256_fmadd_ps(mins, _mm256_load_ps(p[v]->fold + 8), sum[v]);
        for (int h = 0; h < 2; h++) {
            sum[v] = add_scaled(sum[v], dot_two(l[h].even[0], l[h].even[1], p[v], 4 * h), s, 4 * h, 4 * h + 2);
            sum[v] = add_scaled(sum[v], dot_two(l[h].odd[0], l[h].odd[1], p[v], 4 * h + 2), s, 4 * h + 1, 4 * h + 3);
        }
    }
}

static ALWAYS_INLINE void dot_q4_k(const uint8_t *b, const struct prepared *const p[], int n, __m256 sum[]) {
    struct levels l[2];
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 2; i++) {
            const uint8_t *qs = b + 16 + 64 * h + 16 * i;
            const __m256i bytes = load_two(qs, qs + 32);
            l[h].even[i] = low_nibbles(bytes);
            l[h].odd[i] = high_nibbles(bytes);
        }
    dot_levels_k(l, b, p, n, sum);
}

/* Bits a (lanes of 128: first) and b (second) of each byte, moved to bit 4. */
static inline __m256i fifth(__m256i bits, int a, int b) {
    const __m256i moved = b <= 4 ? _mm256_sllv_epi64(bits, _mm256_setr_epi64x(4 - a, 4 - a, 4 - b, 4 - b))
                                 : _mm256_srlv_epi64(bits, _mm256_setr_epi64x(a - 4, a - 4, b - 4, b - 4));
    return _mm256_and_si256(moved, _mm256_set1_epi8(16));
}

static ALWAYS_INLINE void dot_q5_k(const uint8_t *b, const struct prepared *const p[], int n, __m256 sum[]) {
    struct levels l[2];
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 2; i++) {
            const uint8_t *qs = b + 48 + 64 * h + 16 * i, *qh = b + 16 + 16 * i;
            const __m256i bytes = load_two(qs, qs + 32),
                          bits = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)qh));
            l[h].even[i] = _mm256_or_si256(low_nibbles(bytes), fifth(bits, 4 * h, 4 * h + 2));
            l[h].odd[i] = _mm256_or_si256(high_nibbles(bytes), fifth(bits, 4 * h + 1, 4 * h + 3));
        }
    dot_levels_k(l, b, p, n, sum);
}

static ALWAYS_INLINE void dot_q6_k(const uint8_t *b, const struct prepared *const p[], int n, __m256 sum[]) {
    const __m256i two = _mm256_set1_epi8(0x30);
    const __m256 d = _mm256_set1_ps(one_f16(b + 208));
    for (int h = 0; h < 2; h++) {
        const __m256i even = load(b + 64 * h), odd = load(b + 64 * h + 32), bits = load(b + 128 + 32 * h);
        const __m256i level[4] = {_mm256_or_si256(low_nibbles(even), _mm256_and_si256(_mm256_slli_epi16(bits, 4), two)),
                                  _mm256_or_si256(low_nibbles(odd), _mm256_and_si256(_mm256_slli_epi16(bits, 2), two)),
                                  _mm256_or_si256(high_nibbles(even), _mm256_and_si256(bits, two)),
                                  _mm256_or_si256(high_nibbles(odd), _mm256_and_si256(_mm256_srli_epi16(bits, 2), two))};
        const __m256i bytes = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(b + 192 + 8 * h)));
        const __m256 scales = _mm256_mul_ps(_mm256_cvtepi32_ps(bytes), d);
        for (int v = 0; v < n; v++) {
            const __m256 s = _mm256_mul_ps(scales, _mm256_load_ps(p[v]->fold + 8 * h));
            for (int i = 0; i < 4; i++) {
                const __m256i dots = widen(_mm256_maddubs_epi16(level[i], step_of(p[v], 4 * h + i)));
                sum[v] = add_scaled(sum[v], _mm256_add_epi32(dots, start(p[v], 4 * h + i)), s, 2 * i, 2 * i + 1);
            }
        }
    }
}

static ALWAYS_INLINE void dot_q8_0(const uint8_t *b, const struct prepared *const p[], int n, __m256 sum[]) {
    enum { BLOCK = sizeof(struct block_q8_0) };
    const __m256 scales = eight_f16(b, BLOCK);
    for (int v = 0; v < n; v++) {
        const __m256 s = _mm256_mul_ps(scales, _mm256_load_ps(p[v]->fold));
        for (int i = 0; i < 8; i++) {
            const __m256i w = load(b + i * BLOCK + 2);
            const __m256i dots = widen(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(step_of(p[v], i), w)));
            sum[v] = add_scaled(sum[v], dots, s, i, i);
        }
    }
}

static ALWAYS_INLINE void dot_q4_0(const uint8_t *b, const struct prepared *const p[], int n, __m256 sum[]) {
    enum { BLOCK = sizeof(struct block_q4_0) };
    const __m256 scales = eight_f16(b, BLOCK);
    __m256i bytes[4];
    for (int i = 0; i < 4; i++) bytes[i] = load_two(b + 2 * i * BLOCK + 2, b + (2 * i + 1) * BLOCK + 2);
    for (int v = 0; v < n; v++) {
        const __m256 s = _mm256_mul_ps(scales, _mm256_load_ps(p[v]->fold));
        for (int i = 0; i < 4; i++) {
            const __m256i dots =
                _mm256_add_epi32(dot_two(low_nibbles(bytes[i]), high_nibbles(bytes[i]), p[v], 2 * i), start(p[v], 2 * i));
            sum[v] = add_scaled(sum[v], dots, s, 2 * i, 2 * i + 1);
        }
    }
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

#define MATMUL(name, layout_name, weights)                                                                                     \
    static void matmul_##name(const struct matmul *m) {                                                                        \
        const struct format f = {dot_##name, &layout_name, weights, sizeof(struct block_##name), 0};                              \
        if (m->n > FEW)                                                                                                        \
            gemm_##name##_avx2(m);                                                                                             \
        else                                                                                                                   \
            matvec(f, m);                                                                                                      \
    }

MATMUL(q4_0, layout_q4_0, 32)
MATMUL(q8_0, layout_q8_0, 32)
MATMUL(q4_k, layout_q45_k, QK_K)
MATMUL(q5_k, layout_q45_k, QK_K)
MATMUL(q6_k, layout_q6_k, QK_K)

void cpu_fill_quants_avx2(struct cpu_ops *ops) {
    ops->quantize = quantize;
    cpu_fill_floats_avx2(ops);
    ops->types[TYPE_Q4_0].matmul = matmul_q4_0;
    ops->types[TYPE_Q8_0].matmul = matmul_q8_0;
    ops->types[TYPE_Q4_K].matmul = matmul_q4_k;
    ops->types[TYPE_Q5_K].matmul = matmul_q5_k;
    ops->types[TYPE_Q6_K].matmul = matmul_q6_k;
}
