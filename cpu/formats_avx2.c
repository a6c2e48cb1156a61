/* AVX2: products of the weight formats that quants_avx2.c does not have.
 *
 * As formats_avx512.c, 128 columns at a time: a format is one function that unpacks the sixteen scales of 256 columns and one
 * that opens half of them. vpmaddubsw multiplies |level| with the activation that took the level's sign and adds pairs
 * (2 * 127 * 127 < 32768), which are widened at once, so nothing saturates. Codebooks are read entry by entry: gathers
 * are faster where they are fast (on Sapphire Rapids IQ2_S by 1.35, IQ3_S by 1.55), but that machine has AVX-512, and on many
 * that have not, microcode makes them several times slower. */
#include <immintrin.h>
#include <string.h>

#include "core/codebooks.h"
#include "cpu/matvec_avx2.h"
#include "cpu/panel_avx2.h"

enum {
#define X(suffix, name, id, weights, bytes, row_meta)                                                                          \
    WEIGHTS_##suffix = weights, BYTES_##suffix = bytes, META_##suffix = row_meta,
    TENSOR_TYPES(X)
#undef X
};

/* weight = scale * level - min: one scale and minimum each 16 columns, in their order. Bit t of `raised` adds the format's
 * `raise` to the levels of the 16-group t. */
struct scales {
    __m256 scale[2], min[2];
    uint32_t raised;
};

/* 128 columns in the order of the format's layout. Of SIGNED formats `level` is signed; of MAGNITUDES it is not and `sign`
 * holds a negative or positive byte each; UNSIGNED ones have no signs. */
enum kind { SIGNED, MAGNITUDES, UNSIGNED };
struct half {
    __m256i level[4], sign[4];
};

static ALWAYS_INLINE __m128i load16(const uint8_t *at) { return _mm_loadu_si128((const __m128i *)at); }
static ALWAYS_INLINE __m128i load8(const uint8_t *at) { return _mm_loadl_epi64((const __m128i *)at); }

static ALWAYS_INLINE __m256i all(int byte) { return _mm256_set1_epi8((char)byte); }
static ALWAYS_INLINE __m128i all16(int byte) { return _mm_set1_epi8((char)byte); }
static ALWAYS_INLINE __m256i or_bits(__m256i x, __m256i bits, int mask) {
    return _mm256_or_si256(x, _mm256_and_si256(bits, all(mask)));
}

/* ---- scales -------------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE void set_scales(__m128i bytes, float unit, __m256 out[2]) {
    out[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_set1_ps(unit));
    out[1] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))), _mm256_set1_ps(unit));
}
static ALWAYS_INLINE void set_twice(__m256 x, __m256 out[2]) {
    out[0] = _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    out[1] = _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
}
static ALWAYS_INLINE __m128i twice(__m128i eight) { return _mm_unpacklo_epi8(eight, eight); }

/* The nibbles of the first eight bytes, low ones first. */
static ALWAYS_INLINE __m128i nibbles(__m128i bytes) {
    return _mm_and_si128(_mm_unpacklo_epi8(bytes, _mm_srli_epi16(bytes, 4)), all16(15));
}
/* The same with all low nibbles before the high ones. */
static ALWAYS_INLINE __m128i nibble_planes(__m128i bytes) {
    return _mm_and_si128(_mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4)), all16(15));
}
static ALWAYS_INLINE __m128i eight_nibbles(const uint8_t *at) { return nibbles(_mm_cvtsi32_si128((int)word32(at))); }
/* Low nibbles of four bytes, then their high ones. */
static ALWAYS_INLINE __m128i eight_nibble_planes(const uint8_t *at) {
    const __m128i x = _mm_cvtsi32_si128((int)word32(at));
    return _mm_and_si128(_mm_unpacklo_epi32(x, _mm_srli_epi16(x, 4)), all16(15));
}
/* Bit g of x as bit 4 of byte g. */
static ALWAYS_INLINE __m128i eight_bits(uint32_t x) {
    const __m128i bit = _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm_andnot_si128(_mm_cmpeq_epi8(_mm_and_si128(all16((int)x), bit), _mm_setzero_si128()), all16(16));
}
/* Bits 2t, 2t+1 of x as bits 4 and 5 of byte t. */
static ALWAYS_INLINE __m128i sixteen_pairs(uint32_t x) {
    const __m128i by_pair = _mm_srlv_epi32(_mm_set1_epi32((int)x), _mm_setr_epi32(0, 2, 4, 6)); /* byte 4j+i: t = 4i+j */
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm_slli_epi16(_mm_shuffle_epi8(_mm_and_si128(by_pair, all16(3)), order), 4);
}
static ALWAYS_INLINE __m128i minus(__m128i x, int y) { return _mm_sub_epi8(x, all16(y)); }
/* 2 * x + 1 */
static ALWAYS_INLINE __m128i odd(__m128i x) { return _mm_or_si128(_mm_add_epi8(x, x), all16(1)); }
/* 0xff in bytes whose bit in x is set */
static ALWAYS_INLINE __m128i byte_mask(uint32_t x) {
    const __m128i bit = _mm_set1_epi64x((long long)0x8040201008040201);
    const __m128i spread =
        _mm_shuffle_epi8(_mm_cvtsi32_si128((int)x), _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    return _mm_cmpeq_epi8(_mm_and_si128(spread, bit), bit);
}
/* Each bit of eight twice. */
static ALWAYS_INLINE uint32_t twice_bits(uint32_t x) { return (uint32_t)_mm_movemask_epi8(twice(byte_mask(x))); }

/* ---- levels: 128 columns ------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE __m256i table(const int8_t *levels) {
    return _mm256_broadcastsi128_si256(load16((const uint8_t *)levels));
}
static ALWAYS_INLINE __m256i lookup(__m256i levels, __m256i index) { return _mm256_shuffle_epi8(levels, index); }
/* `high` where bit `bit` of bits is set */
static ALWAYS_INLINE __m256i choose(__m256i low, __m256i high, __m256i bits, int bit) {
    return _mm256_blendv_epi8(low, high, _mm256_slli_epi16(bits, 7 - bit));
}

/* Order of layout HALVES: 16 bytes a 32-group, its first 16 weights in the low nibbles. */
static ALWAYS_INLINE void nibble_levels(__m256i a, __m256i b, const int8_t *levels, struct half *o) {
    const __m256i t = table(levels);
    o->level[0] = lookup(t, low_nibbles(a));
    o->level[1] = lookup(t, high_nibbles(a));
    o->level[2] = lookup(t, low_nibbles(b));
    o->level[3] = lookup(t, high_nibbles(b));
}
/* Order of the columns: 32 bytes two 32-groups, the even one in the low nibbles; bit g of qh[l] is a fifth bit. */
static ALWAYS_INLINE void five_bit_levels(const uint8_t *qs, const uint8_t *qh, int h, struct half *o) {
    const __m256i low = table(codebook_v5[0]), high = table(codebook_v5[0] + 16), bits = load(qh);
    for (int i = 0; i < 2; i++) {
        const __m256i bytes = load(qs + 64 * h + 32 * i), even = low_nibbles(bytes), uneven = high_nibbles(bytes);
        o->level[2 * i] = choose(lookup(low, even), lookup(high, even), bits, 4 * h + 2 * i);
        o->level[2 * i + 1] = choose(lookup(low, uneven), lookup(high, uneven), bits, 4 * h + 2 * i + 1);
    }
}
/* Order of the columns: bits 2p, 2p+1 of 32 bytes. */
static ALWAYS_INLINE void crumbs(const uint8_t *qs, int h, struct half *o) {
    const __m256i bytes = load(qs + 32 * h);
    for (int p = 0; p < 4; p++) o->level[p] = _mm256_and_si256(_mm256_srli_epi16(bytes, 2 * p), all(3));
}
/* The same with bit g of byte l of qh as a third bit. */
static ALWAYS_INLINE void three_bits(const uint8_t *qs, const uint8_t *qh, int h, struct half *o) {
    const __m256i bits = h ? _mm256_srli_epi16(load(qh), 4) : load(qh);
    crumbs(qs, h, o);
    o->level[0] = or_bits(o->level[0], _mm256_slli_epi16(bits, 2), 4);
    o->level[1] = or_bits(o->level[1], _mm256_slli_epi16(bits, 1), 4);
    o->level[2] = or_bits(o->level[2], bits, 4);
    o->level[3] = or_bits(o->level[3], _mm256_srli_epi16(bits, 1), 4);
}

/* -1 where the bit of a column is set, else 1. */
static ALWAYS_INLINE __m256i signs_of_bits(uint32_t bits) {
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i order = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), order);
    return _mm256_or_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit), all(1));
}

/* Seven-bit codes in bytes, each with the bit on top that makes the number of set bits even. */
static inline __m256i signs_of_codes(__m256i codes) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i parity = _mm256_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0, 0, -128,
                                            -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
    const __m256i low = _mm256_shuffle_epi8(parity, _mm256_and_si256(codes, nibble));
    const __m256i high = _mm256_shuffle_epi8(parity, _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble));
    return _mm256_xor_si256(codes, _mm256_xor_si256(low, high));
}

/* The same for the four codes in the low 28 bits of each word. */
static inline __m256i signs_of_words(__m256i words) {
    const __m256i a = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
    const __m256i b = _mm256_and_si256(_mm256_slli_epi32(words, 1), _mm256_set1_epi32(0x7f00));
    const __m256i c = _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x7f0000));
    const __m256i d = _mm256_and_si256(_mm256_slli_epi32(words, 3), _mm256_set1_epi32(0x7f000000));
    return signs_of_codes(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
}

static ALWAYS_INLINE __m256i join(__m128i low, __m128i high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
/* Entries of a codebook side by side: broadcast by the load ports and blended, because inserting would keep port 5 busy. */
static ALWAYS_INLINE __m256i one_8(const uint64_t *entry) { return _mm256_set1_epi64x((long long)*entry); }
static ALWAYS_INLINE __m256i one_4(const uint32_t *entry) { return _mm256_set1_epi32((int)*entry); }
static ALWAYS_INLINE __m256i entries_8(const uint64_t *grid, size_t a, size_t b, size_t c, size_t d) {
    const __m256i ab = _mm256_blend_epi32(one_8(grid + a), one_8(grid + b), 0x0c);
    const __m256i cd = _mm256_blend_epi32(one_8(grid + c), one_8(grid + d), 0xc0);
    return _mm256_blend_epi32(ab, cd, 0xf0);
}
static ALWAYS_INLINE __m256i entries_4(const uint32_t *a, const uint32_t *b, const uint32_t *c, const uint32_t *d,
                                       const uint32_t *e, const uint32_t *f, const uint32_t *g, const uint32_t *h) {
    const __m256i ab = _mm256_blend_epi32(one_4(a), one_4(b), 0x02), cd = _mm256_blend_epi32(one_4(c), one_4(d), 0x08);
    const __m256i ef = _mm256_blend_epi32(one_4(e), one_4(f), 0x20), gh = _mm256_blend_epi32(one_4(g), one_4(h), 0x80);
    return _mm256_blend_epi32(_mm256_blend_epi32(ab, cd, 0x0c), _mm256_blend_epi32(ef, gh, 0xc0), 0xf0);
}

/* ---- 32-weight blocks: order of layout HALVES ------------------------------------------------------------------------ */

static ALWAYS_INLINE __m256i two_blocks(const uint8_t *at, size_t stride) { return load_two(at, at + stride); }

static ALWAYS_INLINE void nibbles_of_blocks(const uint8_t *qs, size_t stride, int h, struct half *o) {
    for (int i = 0; i < 2; i++) {
        const __m256i bytes = two_blocks(qs + (4 * h + 2 * i) * stride, stride);
        o->level[2 * i] = low_nibbles(bytes);
        o->level[2 * i + 1] = high_nibbles(bytes);
    }
}

/* Adds 16 where the block's word at qh has a bit: bit j for weight j. */
static ALWAYS_INLINE void add_fifth_bits(const uint8_t *qh, size_t stride, int h, struct half *o) {
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i first = _mm256_setr_epi64x(0, 0x0101010101010101, 0, 0x0101010101010101),
                  second = _mm256_add_epi8(first, all(2));
    for (int i = 0; i < 2; i++) {
        const uint8_t *at = qh + (4 * h + 2 * i) * stride;
        const __m256i words = join(_mm_set1_epi32((int)word32(at)), _mm_set1_epi32((int)word32(at + stride)));
        const __m256i a = _mm256_and_si256(lookup(words, first), bit), c = _mm256_and_si256(lookup(words, second), bit);
        o->level[2 * i] = or_bits(o->level[2 * i], _mm256_cmpeq_epi8(a, bit), 16);
        o->level[2 * i + 1] = or_bits(o->level[2 * i + 1], _mm256_cmpeq_epi8(c, bit), 16);
    }
}

static ALWAYS_INLINE void subtract(int offset, struct half *o) {
    for (int i = 0; i < 4; i++) o->level[i] = _mm256_sub_epi8(o->level[i], all(offset));
}

static ALWAYS_INLINE void scales_q4_1(const uint8_t *b, struct scales *s) {
    set_twice(eight_f16(b, BYTES_Q4_1), s->scale);
    set_twice(_mm256_xor_ps(eight_f16(b + 2, BYTES_Q4_1), _mm256_set1_ps(-0.0f)), s->min);
}
static ALWAYS_INLINE void half_q4_1(const uint8_t *b, int h, struct half *o) { nibbles_of_blocks(b + 4, BYTES_Q4_1, h, o); }

static ALWAYS_INLINE void scales_q5_0(const uint8_t *b, struct scales *s) { set_twice(eight_f16(b, BYTES_Q5_0), s->scale); }
static ALWAYS_INLINE void half_q5_0(const uint8_t *b, int h, struct half *o) {
    nibbles_of_blocks(b + 6, BYTES_Q5_0, h, o);
    add_fifth_bits(b + 2, BYTES_Q5_0, h, o);
    subtract(16, o);
}

static ALWAYS_INLINE void scales_q5_1(const uint8_t *b, struct scales *s) {
    set_twice(eight_f16(b, BYTES_Q5_1), s->scale);
    set_twice(_mm256_xor_ps(eight_f16(b + 2, BYTES_Q5_1), _mm256_set1_ps(-0.0f)), s->min);
}
static ALWAYS_INLINE void half_q5_1(const uint8_t *b, int h, struct half *o) {
    nibbles_of_blocks(b + 8, BYTES_Q5_1, h, o);
    add_fifth_bits(b + 4, BYTES_Q5_1, h, o);
}

static ALWAYS_INLINE void scales_q6_0(const uint8_t *b, struct scales *s) { set_twice(eight_f16(b, BYTES_Q6_0), s->scale); }
static ALWAYS_INLINE void half_q6_0(const uint8_t *b, int h, struct half *o) {
    nibbles_of_blocks(b + 10, BYTES_Q6_0, h, o);
    for (int i = 0; i < 2; i++) { /* qh: bits 0-1 and 4-5 for the first 16 weights, 8 each; 2-3 and 6-7 for the others */
        const uint8_t *qh = b + (4 * h + 2 * i) * BYTES_Q6_0 + 2;
        const __m256i words = _mm256_setr_epi64x((long long)word64(qh), (long long)(word64(qh) >> 4),
                                                 (long long)word64(qh + BYTES_Q6_0), (long long)(word64(qh + BYTES_Q6_0) >> 4));
        o->level[2 * i] = or_bits(o->level[2 * i], _mm256_slli_epi16(words, 4), 0x30);
        o->level[2 * i + 1] = or_bits(o->level[2 * i + 1], _mm256_slli_epi16(words, 2), 0x30);
    }
    subtract(32, o);
}

static ALWAYS_INLINE void scales_iq4_nl(const uint8_t *b, struct scales *s) { set_twice(eight_f16(b, BYTES_IQ4_NL), s->scale); }
static ALWAYS_INLINE void half_iq4_nl(const uint8_t *b, int h, struct half *o) {
    const uint8_t *qs = b + 2 + 4 * h * BYTES_IQ4_NL;
    nibble_levels(two_blocks(qs, BYTES_IQ4_NL), two_blocks(qs + 2 * BYTES_IQ4_NL, BYTES_IQ4_NL), codebook_v4[0], o);
}

static ALWAYS_INLINE void scales_mxfp4(const uint8_t *b, struct scales *s) {
    enum { BYTES = BYTES_MXFP4 };
    const __m256i e =
        _mm256_setr_epi32(b[0], b[BYTES], b[2 * BYTES], b[3 * BYTES], b[4 * BYTES], b[5 * BYTES], b[6 * BYTES], b[7 * BYTES]);
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23); /* 2^(e-128), from e = 2 on */
    const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), e),
                  is_normal = _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1));
    set_twice(_mm256_castsi256_ps(_mm256_blendv_epi8(subnormal, normal, is_normal)), s->scale);
}
static ALWAYS_INLINE void half_mxfp4(const uint8_t *b, int h, struct half *o) {
    const uint8_t *qs = b + 1 + 4 * h * BYTES_MXFP4;
    nibble_levels(two_blocks(qs, BYTES_MXFP4), two_blocks(qs + 2 * BYTES_MXFP4, BYTES_MXFP4), codebook_mxfp4, o);
}

/* ---- super-blocks --------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE void scales_q2_k(const uint8_t *b, struct scales *s) {
    set_scales(_mm_and_si128(load16(b), all16(15)), one_f16(b + 80), s->scale);
    set_scales(_mm_and_si128(_mm_srli_epi16(load16(b), 4), all16(15)), one_f16(b + 82), s->min);
}
static ALWAYS_INLINE void half_q2_k(const uint8_t *b, int h, struct half *o) { crumbs(b + 16, h, o); }

static ALWAYS_INLINE void scales_q3_k(const uint8_t *b, struct scales *s) {
    const __m128i high = _mm_srlv_epi32(_mm_set1_epi32((int)word32(b + 104)), _mm_setr_epi32(0, 2, 4, 6));
    const __m128i top = _mm_slli_epi16(_mm_and_si128(high, all16(3)), 4);
    set_scales(minus(_mm_or_si128(nibble_planes(load8(b + 96)), top), 32), one_f16(b + 108), s->scale);
}
static ALWAYS_INLINE void half_q3_k(const uint8_t *b, int h, struct half *o) {
    three_bits(b + 32, b, h, o);
    subtract(4, o);
}

static ALWAYS_INLINE void scales_iq4_xs(const uint8_t *b, struct scales *s) {
    const __m128i high = sixteen_pairs(word16(b + 2)); /* eight of them */
    set_scales(twice(minus(_mm_or_si128(eight_nibbles(b + 4), high), 32)), one_f16(b), s->scale);
}
static ALWAYS_INLINE void half_iq4_xs(const uint8_t *b, int h, struct half *o) {
    nibble_levels(load(b + 8 + 64 * h), load(b + 40 + 64 * h), codebook_v4[0], o);
}

/* IQ4_K and IQ5_K: four upper and eight lower bytes of 6-bit scales. */
static ALWAYS_INLINE void six_bit_scales(const uint8_t *b, struct scales *s) {
    set_scales(minus(_mm_or_si128(nibbles(load8(b + 8)), sixteen_pairs(word32(b + 4))), 32), one_f16(b), s->scale);
    s->raised = word16(b + 2);
}
static ALWAYS_INLINE void scales_iq4_k(const uint8_t *b, struct scales *s) { six_bit_scales(b, s); }
static ALWAYS_INLINE void half_iq4_k(const uint8_t *b, int h, struct half *o) {
    nibble_levels(load(b + 16 + 64 * h), load(b + 48 + 64 * h), codebook_v4[0], o);
}
static ALWAYS_INLINE void scales_iq5_k(const uint8_t *b, struct scales *s) { six_bit_scales(b, s); }
static ALWAYS_INLINE void half_iq5_k(const uint8_t *b, int h, struct half *o) { five_bit_levels(b + 16, b + 144, h, o); }

static ALWAYS_INLINE void scales_iq6_k(const uint8_t *b, struct scales *s) {
    set_scales(load16(b + 4), one_f16(b), s->scale);
    s->raised = word16(b + 2);
}
static ALWAYS_INLINE __m256i six_bit_level(__m256i index, __m256i bits, int bit) {
    const int8_t *v = codebook_v6[0];
    const __m256i low = choose(lookup(table(v), index), lookup(table(v + 16), index), bits, bit);
    const __m256i high = choose(lookup(table(v + 32), index), lookup(table(v + 48), index), bits, bit);
    return choose(low, high, bits, bit + 1);
}
static ALWAYS_INLINE void half_iq6_k(const uint8_t *b, int h, struct half *o) {
    const __m256i bits = load(b + 148 + 32 * h);
    for (int i = 0; i < 2; i++) {
        const __m256i bytes = load(b + 20 + 64 * h + 32 * i);
        o->level[2 * i] = six_bit_level(low_nibbles(bytes), bits, 4 * i);
        o->level[2 * i + 1] = six_bit_level(high_nibbles(bytes), bits, 4 * i + 2);
    }
}

static ALWAYS_INLINE void lookup_levels(__m256i levels, struct half *o) {
    for (int p = 0; p < 4; p++) o->level[p] = lookup(levels, o->level[p]);
}
static ALWAYS_INLINE void lookup_crumbs(const uint8_t *qs, int h, struct half *o) {
    crumbs(qs, h, o);
    lookup_levels(_mm256_set1_epi32((int)word32((const uint8_t *)codebook_v2[0])), o);
}
static ALWAYS_INLINE void lookup_three_bits(const uint8_t *qs, const uint8_t *qh, int h, struct half *o) {
    three_bits(qs, qh, h, o);
    lookup_levels(_mm256_set1_epi64x((long long)word64((const uint8_t *)codebook_v3[0])), o);
}

static ALWAYS_INLINE void scales_iq2_k(const uint8_t *b, struct scales *s) {
    set_scales(minus(nibbles(load8(b + 4)), 8), one_f16(b), s->scale);
    s->raised = word16(b + 2);
}
static ALWAYS_INLINE void half_iq2_k(const uint8_t *b, int h, struct half *o) { lookup_crumbs(b + 12, h, o); }

static ALWAYS_INLINE void scales_iq3_k(const uint8_t *b, struct scales *s) {
    const __m128i sign = _mm_or_si128(byte_mask(word16(b + 4)), all16(1));
    set_scales(_mm_sign_epi8(odd(nibbles(load8(b + 6))), sign), one_f16(b), s->scale);
    s->raised = word16(b + 2);
}
static ALWAYS_INLINE void half_iq3_k(const uint8_t *b, int h, struct half *o) { lookup_three_bits(b + 14, b + 78, h, o); }

/* ---- super-blocks of rows with a scale -------------------------------------------------------------------------------- */

/* IQ4_KS, IQ4_KSS, IQ5_KS: eight bytes, bit 0 selects the raised levels, the others are scale + 127. */
static ALWAYS_INLINE void byte_scales(__m128i bytes, struct scales *s) {
    const __m128i b = twice(bytes);
    set_scales(minus(_mm_and_si128(b, all16(254)), 127), 1, s->scale);
    s->raised = (uint32_t)_mm_movemask_epi8(_mm_slli_epi16(b, 7));
}
static ALWAYS_INLINE void scales_iq4_ks(const uint8_t *b, struct scales *s) { byte_scales(load8(b), s); }
static ALWAYS_INLINE void half_iq4_ks(const uint8_t *b, int h, struct half *o) {
    nibble_levels(load(b + 8 + 64 * h), load(b + 40 + 64 * h), codebook_v4[0], o);
}
static ALWAYS_INLINE void scales_iq5_ks(const uint8_t *b, struct scales *s) { byte_scales(load8(b), s); }
static ALWAYS_INLINE void half_iq5_ks(const uint8_t *b, int h, struct half *o) { five_bit_levels(b + 8, b + 136, h, o); }

/* Bit 0 of 32 words, eight words a byte. */
static ALWAYS_INLINE uint32_t low_bits(const uint8_t *at) {
    const __m256i a = _mm256_slli_epi16(load(at), 15), c = _mm256_slli_epi16(load(at + 32), 15);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, c), 0xd8);
    return (uint32_t)_mm256_movemask_epi8(packed);
}
static ALWAYS_INLINE void scales_iq4_kss(const uint8_t *b, struct scales *s) {
    byte_scales(_mm_cvtsi64_si128((long long)(low_bits(b) | (uint64_t)low_bits(b + 64) << 32)), s);
}
static ALWAYS_INLINE __m256i without_scale_bits(__m256i words) {
    const __m256i x = _mm256_andnot_si256(_mm256_set1_epi16(1), words);
    return _mm256_xor_si256(x, _mm256_srli_epi16(x, 1));
}
static ALWAYS_INLINE void half_iq4_kss(const uint8_t *b, int h, struct half *o) {
    nibble_levels(without_scale_bits(load(b + 64 * h)), without_scale_bits(load(b + 64 * h + 32)), codebook_v4[0], o);
}

static ALWAYS_INLINE void scales_iq2_ks(const uint8_t *b, struct scales *s) {
    const uint32_t extra = word16(b);
    set_scales(twice(minus(_mm_or_si128(eight_nibbles(b + 2), eight_bits(extra >> 8)), 16)), 1, s->scale);
    s->raised = twice_bits(extra & 255);
}
static ALWAYS_INLINE void half_iq2_ks(const uint8_t *b, int h, struct half *o) { lookup_crumbs(b + 6, h, o); }

static ALWAYS_INLINE void scales_iq3_ks(const uint8_t *b, struct scales *s) {
    const uint32_t extra = word16(b);
    set_scales(twice(minus(_mm_or_si128(eight_nibble_planes(b + 2), eight_bits(extra)), 16)), 1, s->scale);
    s->raised = twice_bits(extra >> 8);
}
static ALWAYS_INLINE void half_iq3_ks(const uint8_t *b, int h, struct half *o) { lookup_three_bits(b + 6, b + 70, h, o); }

static ALWAYS_INLINE void scales_iq2_kl(const uint8_t *b, struct scales *s) {
    set_scales(twice(minus(_mm_or_si128(eight_nibble_planes(b + 2), sixteen_pairs(word16(b))), 32)), 1, s->scale);
}
/* Codes of five bits stand for two neighbouring weights: both are looked up, then interleaved. Order of layout QUARTERS. */
static ALWAYS_INLINE void half_iq2_kl(const uint8_t *b, int h, struct half *o) {
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    __m256i first[2], second[2]; /* of codes 0-15 and 16-31 */
    for (int i = 0; i < 2; i++) {
        const __m256i halves = lookup(load((const uint8_t *)codebook_kl[16 * i]), order);
        first[i] = _mm256_permute4x64_epi64(halves, 0x88);
        second[i] = _mm256_permute4x64_epi64(halves, 0xdd);
    }
    const __m256i bytes = load(b + 6 + 32 * h), bits = _mm256_broadcastsi128_si256(load16(b + 70));
    for (int u = 0; u < 2; u++) { /* groups 4h and 4h+2, then 4h+1 and 4h+3 */
        const __m256i index = u ? high_nibbles(bytes) : low_nibbles(bytes);
        const int up = 7 - 4 * h - u; /* brings the first group's bit to the top; the second's is two below */
        const __m256i top = _mm256_sllv_epi64(bits, _mm256_setr_epi64x(up, up, up - 2, up - 2));
        const __m256i x = _mm256_blendv_epi8(lookup(first[0], index), lookup(first[1], index), top);
        const __m256i y = _mm256_blendv_epi8(lookup(second[0], index), lookup(second[1], index), top);
        o->level[2 * u] = _mm256_unpacklo_epi8(x, y);
        o->level[2 * u + 1] = _mm256_unpackhi_epi8(x, y);
    }
}

/* ---- codebooks: columns in their order --------------------------------------------------------------------------------- */

/* The scale in the upper four bits of eight words, `stride` bytes apart. */
static ALWAYS_INLINE void upper_scales(const uint8_t *at, size_t stride, float unit, struct scales *s) {
    __m256i words = stride == 4 ? load(at) : _mm256_setzero_si256();
    if (stride == 8) { /* the upper halves of eight 64-bit words */
        const __m256 mixed = _mm256_shuffle_ps(_mm256_castsi256_ps(load(at - 4)), _mm256_castsi256_ps(load(at + 28)), 0xdd);
        words = _mm256_permute4x64_epi64(_mm256_castps_si256(mixed), 0xd8);
    }
    const __m256i ls = _mm256_srli_epi32(words, 28);
    const __m256 one = _mm256_set1_ps(1), x = _mm256_cvtepi32_ps(_mm256_add_epi32(ls, ls));
    set_twice(_mm256_mul_ps(_mm256_add_ps(x, one), _mm256_set1_ps(unit)), s->scale);
}

static ALWAYS_INLINE void scales_iq2_xxs(const uint8_t *b, struct scales *s) { upper_scales(b + 6, 8, one_f16(b) * 0.125f, s); }
static ALWAYS_INLINE void half_iq2_xxs(const uint8_t *b, int h, struct half *o) {
    uint32_t negative[8];
    const __m256i words = _mm256_setr_epi32((int)word32(b + 32 * h + 6), (int)word32(b + 32 * h + 14),
                                            (int)word32(b + 32 * h + 22), (int)word32(b + 32 * h + 30), 0, 0, 0, 0);
    _mm256_storeu_si256((__m256i *)negative, signs_of_words(words));
    for (int i = 0; i < 4; i++) {
        const uint8_t *at = b + 2 + 32 * h + 8 * i;
        o->level[i] = entries_8(codebook_iq2xxs, at[0], at[1], at[2], at[3]);
        o->sign[i] = signs_of_bits(negative[i]);
    }
}

static ALWAYS_INLINE void scales_iq2_xs(const uint8_t *b, struct scales *s) {
    set_scales(odd(nibbles(load8(b + 66))), one_f16(b) * 0.125f, s->scale);
}
static ALWAYS_INLINE void half_iq2_xs(const uint8_t *b, int h, struct half *o) {
    const uint8_t *at = b + 2 + 32 * h;
    const __m256i codes = _mm256_srli_epi16(load(at), 9);
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(codes, codes), 0xd8);
    uint32_t negative[8];
    _mm256_storeu_si256((__m256i *)negative, signs_of_codes(bytes));
    uint16_t index[16];
    _mm256_storeu_si256((__m256i *)index, _mm256_and_si256(load(at), _mm256_set1_epi16(511)));
    for (int i = 0; i < 4; i++) {
        const uint16_t *x = index + 4 * i;
        o->level[i] = entries_8(codebook_iq2xs, x[0], x[1], x[2], x[3]);
        o->sign[i] = signs_of_bits(negative[i]);
    }
}

static ALWAYS_INLINE void scales_iq2_s(const uint8_t *b, struct scales *s) {
    set_scales(odd(nibbles(load8(b + 74))), one_f16(b) * 0.125f, s->scale);
}
static ALWAYS_INLINE void half_iq2_s(const uint8_t *b, int h, struct half *o) {
    /* unit k: bits 2(k%4), 2(k%4)+1 of byte k/4 of qh become index bits 8 and 9 */
    const __m256i order = _mm256_setr_epi8(0, -1, 0, -1, 0, -1, 0, -1, 1, -1, 1, -1, 1, -1, 1, -1, 2, -1, 2, -1, 2, -1, 2, -1,
                                           3, -1, 3, -1, 3, -1, 3, -1);
    const __m256i times = _mm256_set1_epi64x(0x0004001000400100); /* 2^8, 2^6, 2^4, 2^2 */
    const __m256i high = _mm256_mullo_epi16(lookup(_mm256_set1_epi32((int)word32(b + 66 + 4 * h)), order), times);
    const __m256i low = _mm256_cvtepu8_epi16(load16(b + 2 + 16 * h));
    uint16_t index[16];
    _mm256_storeu_si256((__m256i *)index, _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi16(0x300))));
    for (int i = 0; i < 4; i++) {
        const uint16_t *x = index + 4 * i;
        o->level[i] = entries_8(codebook_iq2s, x[0], x[1], x[2], x[3]);
        o->sign[i] = signs_of_bits(word32(b + 34 + 16 * h + 4 * i));
    }
}

static ALWAYS_INLINE void scales_iq3_xxs(const uint8_t *b, struct scales *s) { upper_scales(b + 66, 4, one_f16(b) * 0.25f, s); }
static ALWAYS_INLINE void half_iq3_xxs(const uint8_t *b, int h, struct half *o) {
    uint32_t negative[8];
    _mm256_storeu_si256((__m256i *)negative, signs_of_words(_mm256_castsi128_si256(load16(b + 66 + 16 * h))));
    for (int i = 0; i < 4; i++) {
        const uint8_t *at = b + 2 + 32 * h + 8 * i;
        const uint32_t *g = codebook_iq3xxs;
        o->level[i] = entries_4(g + at[0], g + at[1], g + at[2], g + at[3], g + at[4], g + at[5], g + at[6], g + at[7]);
        o->sign[i] = signs_of_bits(negative[i]);
    }
}

static ALWAYS_INLINE void scales_iq3_s(const uint8_t *b, struct scales *s) {
    set_scales(twice(odd(eight_nibbles(b + 106))), one_f16(b), s->scale);
}
static ALWAYS_INLINE void half_iq3_s(const uint8_t *b, int h, struct half *o) {
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
    uint16_t index[32];
    for (int i = 0; i < 2; i++) { /* sixteen indices, whose ninth bits are a word of qh */
        const __m256i low = _mm256_cvtepu8_epi16(load16(b + 2 + 32 * h + 16 * i));
        const __m256i word = _mm256_set1_epi16((short)word16(b + 66 + 4 * h + 2 * i));
        const __m256i high = _mm256_cmpeq_epi16(_mm256_and_si256(word, bit), bit);
        _mm256_storeu_si256((__m256i *)(index + 16 * i), _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi16(256))));
    }
    for (int i = 0; i < 4; i++) {
        const uint32_t *g = codebook_iq3s;
        const uint16_t *x = index + 8 * i;
        o->level[i] = entries_4(g + x[0], g + x[1], g + x[2], g + x[3], g + x[4], g + x[5], g + x[6], g + x[7]);
        o->sign[i] = signs_of_bits(word32(b + 74 + 16 * h + 4 * i));
    }
}

/* Levels of eight times what the grid says, plus delta. */
static ALWAYS_INLINE __m256i ternary(__m256i grid, __m256i delta) {
    return _mm256_add_epi8(_mm256_and_si256(_mm256_slli_epi16(grid, 3), all(0xf8)), delta);
}

static ALWAYS_INLINE void scales_iq1_s(const uint8_t *b, struct scales *s) {
    const __m128i x = _mm_and_si128(_mm_srli_epi16(load16(b + 34), 12), _mm_set1_epi16(7));
    set_scales(twice(odd(_mm_packus_epi16(x, x))), one_f16(b) * 0.125f, s->scale);
}
static ALWAYS_INLINE void half_iq1_s(const uint8_t *b, int h, struct half *o) {
    for (int i = 0; i < 4; i++) {
        const int g = 4 * h + i;
        const uint32_t qs = word32(b + 2 + 4 * g), x = word16(b + 34 + 2 * g);
        const __m256i grid = entries_8(codebook_iq1s, (qs & 255) | (x << 8 & 0x700), (qs >> 8 & 255) | (x << 5 & 0x700),
                                       (qs >> 16 & 255) | (x << 2 & 0x700), qs >> 24 | (x >> 1 & 0x700));
        o->level[i] = ternary(grid, all(x >> 15 ? -1 : 1));
    }
}

static ALWAYS_INLINE void scales_iq1_m(const uint8_t *b, struct scales *s) {
    const uint64_t words = word64(b + 48); /* of 16 bits: four 3-bit scales each, and a nibble of d on top */
    const uint16_t d = (uint16_t)((words >> 12 & 15) | (words >> 24 & 0xf0) | (words >> 36 & 0xf00) | (words >> 48 & 0xf000));
    /* each word four times, shifted right by 0, 3, 6, 9 */
    const __m128i x = _mm_cvtsi64_si128((long long)words);
    const __m128i low = _mm_unpacklo_epi16(x, _mm_srli_epi16(x, 3)),
                  high = _mm_unpacklo_epi16(_mm_srli_epi16(x, 6), _mm_srli_epi16(x, 9));
    const __m128i a = _mm_and_si128(_mm_unpacklo_epi32(low, high), _mm_set1_epi16(7));
    const __m128i c = _mm_and_si128(_mm_unpackhi_epi32(low, high), _mm_set1_epi16(7));
    set_scales(odd(_mm_packus_epi16(a, c)), one_f16((const uint8_t *)&d) * 0.125f, s->scale);
}
static ALWAYS_INLINE void half_iq1_m(const uint8_t *b, int h, struct half *o) {
    const __m256i bit = _mm256_setr_epi64x(0x0008, 0x0080, 0x0800, 0x8000); /* of the nibbles of two bytes, a unit each */
    for (int i = 0; i < 4; i++) {
        const int g = 4 * h + i;
        const uint32_t qs = word32(b + 4 * g), e = word16(b + 32 + 2 * g);
        const __m256i grid = entries_8(codebook_iq1s, (qs & 255) | (e << 8 & 0x700), (qs >> 8 & 255) | (e << 4 & 0x700),
                                       (qs >> 16 & 255) | (e & 0x700), qs >> 24 | (e >> 4 & 0x700));
        const __m256i negative = _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x((long long)e), bit), bit);
        o->level[i] = ternary(grid, _mm256_or_si256(negative, all(1)));
    }
}

/* ---- what follows ------------------------------------------------------------------------------------------------------- */

/* How levels stand in registers: which 16 columns each 128 bits hold. */
#define ORDER_NATURAL                                                                                                          \
    { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }
#define ORDER_HALVES                                                                                                           \
    { 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15 }
#define ORDER_QUARTERS                                                                                                         \
    { 0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15 }

/* chained: steps whose columns share scales, so that their dots are added first; has_min, raise: whether and what struct scales
 * says of `min` and `raised`; group: columns that share a scale. */
struct traits {
    const struct layout *layout;
    enum kind kind;
    bool has_min;
    int chained, raise, group;
};

static ALWAYS_INLINE __m256i dot_step(enum kind kind, const struct half *o, int i, __m256i q) {
    if (kind == UNSIGNED) return widen(_mm256_maddubs_epi16(o->level[i], q));
    if (kind == MAGNITUDES) return widen(_mm256_maddubs_epi16(o->level[i], _mm256_sign_epi8(q, o->sign[i])));
    return widen(_mm256_maddubs_epi16(_mm256_abs_epi8(o->level[i]), _mm256_sign_epi8(q, o->level[i])));
}

/* The scales of the raised groups times the raise, else 0. */
static ALWAYS_INLINE __m256 raised_scales(const struct scales *s, int h, int raise) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i x = _mm256_and_si256(_mm256_set1_epi32((int)(s->raised >> 8 * h)), bit);
    const __m256 is_raised = _mm256_castsi256_ps(_mm256_cmpeq_epi32(x, bit));
    return _mm256_and_ps(_mm256_mul_ps(s->scale[h], _mm256_set1_ps((float)raise)), is_raised);
}

static ALWAYS_INLINE void dot_half(const struct traits t, const struct scales *s, const struct half *o, int h,
                                   const struct prepared *const p[], int n, __m256 sum[]) {
    for (int v = 0; v < n; v++) {
        const __m256 scale = _mm256_mul_ps(s->scale[h], _mm256_load_ps(p[v]->fold + 8 * h));
        for (int i = 0; i < 4; i += t.chained) {
            __m256i dots = dot_step(t.kind, o, i, step_of(p[v], 4 * h + i));
            if (t.chained == 2) dots = _mm256_add_epi32(dots, dot_step(t.kind, o, i + 1, step_of(p[v], 4 * h + i + 1)));
            const uint8_t *c = t.layout->chunk + 8 * h + 2 * i;
            sum[v] = add_scaled(sum[v], dots, scale, c[0] - 8 * h, c[1] - 8 * h);
        }
        if (t.has_min) sum[v] = _mm256_fnmadd_ps(s->min[h], _mm256_load_ps(p[v]->sums + 8 * h), sum[v]);
        if (t.raise) sum[v] = _mm256_fmadd_ps(raised_scales(s, h, t.raise), _mm256_load_ps(p[v]->sums + 8 * h), sum[v]);
    }
}

/* Eight opened rows on their way into a panel. */
struct rows {
    _Alignas(32) uint8_t level[LANES][PIECE];
    _Alignas(32) float scale[LANES][16], min[LANES][16];
};

static ALWAYS_INLINE void store_half(const struct traits t, const struct scales *s, const struct half *o, int h,
                                     struct rows *rows, int row) {
    for (int i = 0; i < 4; i++) {
        const uint8_t *c = t.layout->chunk + 8 * h + 2 * i;
        __m256i level = t.kind == MAGNITUDES ? _mm256_sign_epi8(o->level[i], o->sign[i]) : o->level[i];
        if (t.raise)
            level = _mm256_add_epi8(
                level, join(all16(s->raised >> c[0] & 1 ? t.raise : 0), all16(s->raised >> c[1] & 1 ? t.raise : 0)));
        _mm256_store_si256((__m256i *)(rows->level[row] + 128 * h + 32 * i), level);
    }
    _mm256_store_ps(rows->scale[row] + 8 * h, s->scale[h]);
    if (t.has_min) _mm256_store_ps(rows->min[row] + 8 * h, s->min[h]);
}

/* Sixteen values of eight rows, transposed; one each 32 columns where two always are the same. */
static ALWAYS_INLINE void weave_scales(float rows[LANES][16], int group, float out[][PANEL_ROWS], int row) {
    for (int i = 0; i < 4; i++) {
        __m256i x[4];
        transpose((const uint8_t *)&rows[0][4 * i], sizeof rows[0], x);
        for (int j = 0; j < 4; j += group / 16)
            _mm256_store_ps(&out[(4 * i + j) / (group / 16)][row], _mm256_castsi256_ps(x[j]));
    }
}

static ALWAYS_INLINE void weave(const struct traits t, struct rows *rows, struct panel *p, int row) {
    for (int c = 0; c < 16; c++) {
        __m256i x[4];
        transpose(rows->level[0] + 16 * c, PIECE, x);
        for (int j = 0; j < 4; j++) put(p, 4 * t.layout->chunk[c] + j, row, x[j]);
    }
    weave_scales(rows->scale, t.group, p->scale, row);
    if (t.has_min) weave_scales(rows->min, t.group, p->min, row);
}

/* X(name, type, order, kind, chained, has_min, raise, columns of a scale, tiles) */
#define FORMATS(X)                                                                                                             \
    X(q4_1, Q4_1, HALVES, UNSIGNED, 2, true, 0, 32, tiles_4bit_min)                                                            \
    X(q5_0, Q5_0, HALVES, SIGNED, 2, false, 0, 32, tiles_signed)                                                               \
    X(q5_1, Q5_1, HALVES, UNSIGNED, 2, true, 0, 32, tiles_5bit_min)                                                            \
    X(q6_0, Q6_0, HALVES, SIGNED, 2, false, 0, 32, tiles_signed)                                                               \
    X(iq4_nl, IQ4_NL, HALVES, SIGNED, 2, false, 0, 32, tiles_signed)                                                           \
    X(mxfp4, MXFP4, HALVES, SIGNED, 2, false, 0, 32, tiles_signed)                                                             \
    X(q2_k, Q2_K, NATURAL, UNSIGNED, 1, true, 0, 16, tiles_2bit_16_min)                                                        \
    X(q3_k, Q3_K, NATURAL, SIGNED, 1, false, 0, 16, tiles_signed_16)                                                           \
    X(iq4_xs, IQ4_XS, HALVES, SIGNED, 2, false, 0, 32, tiles_signed)                                                           \
    X(iq2_k, IQ2_K, NATURAL, SIGNED, 1, false, 5, 16, tiles_signed_16)                                                         \
    X(iq3_k, IQ3_K, NATURAL, SIGNED, 1, false, 4, 16, tiles_signed_16)                                                         \
    X(iq4_k, IQ4_K, HALVES, SIGNED, 1, false, 4, 16, tiles_signed_16)                                                          \
    X(iq5_k, IQ5_K, NATURAL, SIGNED, 1, false, 2, 16, tiles_signed_16)                                                         \
    X(iq6_k, IQ6_K, NATURAL, SIGNED, 1, false, 1, 16, tiles_signed_16)                                                         \
    X(iq2_ks, IQ2_KS, NATURAL, SIGNED, 1, false, 5, 32, tiles_signed)                                                          \
    X(iq2_kl, IQ2_KL, QUARTERS, SIGNED, 2, false, 0, 32, tiles_signed)                                                         \
    X(iq3_ks, IQ3_KS, NATURAL, SIGNED, 1, false, 4, 32, tiles_signed)                                                          \
    X(iq4_ks, IQ4_KS, HALVES, SIGNED, 2, false, 4, 32, tiles_signed)                                                           \
    X(iq4_kss, IQ4_KSS, HALVES, SIGNED, 2, false, 4, 32, tiles_signed)                                                         \
    X(iq5_ks, IQ5_KS, NATURAL, SIGNED, 1, false, 2, 32, tiles_signed)                                                          \
    X(iq2_xxs, IQ2_XXS, NATURAL, MAGNITUDES, 1, false, 0, 32, tiles_signed)                                                    \
    X(iq2_xs, IQ2_XS, NATURAL, MAGNITUDES, 1, false, 0, 16, tiles_signed_16)                                                   \
    X(iq2_s, IQ2_S, NATURAL, MAGNITUDES, 1, false, 0, 16, tiles_signed_16)                                                     \
    X(iq3_xxs, IQ3_XXS, NATURAL, MAGNITUDES, 1, false, 0, 32, tiles_signed)                                                    \
    X(iq3_s, IQ3_S, NATURAL, MAGNITUDES, 1, false, 0, 32, tiles_signed)                                                        \
    X(iq1_s, IQ1_S, NATURAL, SIGNED, 1, false, 0, 32, tiles_signed)                                                            \
    X(iq1_m, IQ1_M, NATURAL, SIGNED, 1, false, 0, 16, tiles_signed_16)

#define MATMUL(name, type, order, kind, chained, has_min, raise, group, tiles)                                                 \
    static const struct layout layout_##name = {ORDER_##order, 1, 0, true};                                                    \
    static const struct traits traits_##name = {&layout_##name, kind, has_min, chained, raise, group};                         \
    static ALWAYS_INLINE void dot_##name(const uint8_t *at, const struct prepared *const p[], int n, __m256 sum[]) {           \
        struct scales s;                                                                                                       \
        struct half o;                                                                                                         \
        scales_##name(at, &s);                                                                                                 \
        for (int h = 0; h < 2; h++) {                                                                                          \
            half_##name(at, h, &o);                                                                                            \
            dot_half(traits_##name, &s, &o, h, p, n, sum);                                                                     \
        }                                                                                                                      \
    }                                                                                                                          \
    static void open_rows_##name(const uint8_t *at, size_t stride, struct panel *p, int row) {                                 \
        struct rows rows;                                                                                                      \
        struct scales s;                                                                                                       \
        struct half o;                                                                                                         \
        for (int r = 0; r < LANES; r++, at += stride) {                                                                        \
            scales_##name(at, &s);                                                                                             \
            for (int h = 0; h < 2; h++) {                                                                                      \
                half_##name(at, h, &o);                                                                                        \
                store_half(traits_##name, &s, &o, h, &rows, r);                                                                \
            }                                                                                                                  \
        }                                                                                                                      \
        weave(traits_##name, &rows, p, row);                                                                                   \
    }                                                                                                                          \
    static void matmul_##name(const struct matmul *m) {                                                                        \
        static const struct blocked_format many = {open_rows_##name, LANES,        gemm_##tiles##_avx2, TILE, 0,               \
                                                   WEIGHTS_##type,   BYTES_##type, META_##type};                               \
        const struct format few = {dot_##name, &layout_##name, WEIGHTS_##type, BYTES_##type, META_##type};                     \
        if (m->n > FEW)                                                                                                        \
            gemm_blocked(&many, m);                                                                                            \
        else                                                                                                                   \
            matvec(few, m);                                                                                                    \
    }

FORMATS(MATMUL)

void cpu_fill_formats_avx2(struct cpu_ops *ops) {
#define X(name, type, order, kind, chained, has_min, raise, group, tiles) ops->types[TYPE_##type].matmul = matmul_##name;
    FORMATS(X)
#undef X
}
