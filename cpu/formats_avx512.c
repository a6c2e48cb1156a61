/* AVX-512 (F, BW, VL, DQ, VNNI): products of the weight formats that quants_avx512.c does not have.
 *
 * A format is one function that opens 256 columns of a row, in its native blocks, into unsigned levels and sixteen scales; the
 * product with few vectors (matvec_avx512.h) and the blocked one (gemm.c) follow from that. Levels go through vpdpbusd and are
 * summed in 32 bits, so nothing saturates. Codebooks are read by gathers: on the machines measured twice as fast as any way
 * to load entries one by one. Byte offsets are those of the format documents; see core/tensor.h. */
#include <immintrin.h>
#include <string.h>

#include "core/codebooks.h"
#include "cpu/matvec_avx512.h"
#include "cpu/panel_avx512.h"
#include "cpu/signs_avx2.h"

enum {
#define X(suffix, name, id, weights, bytes, row_meta) WEIGHTS_##suffix = weights, BYTES_##suffix = bytes, META_##suffix = row_meta,
    TENSOR_TYPES(X)
#undef X
};

/* 256 columns: weight = scale * (level - offset) - min, levels in the order of the format's layout, scales and minimums in the
 * order of the columns, one each 16. Bit t of `raised` adds the format's `raise` to the levels of the 16-group t. */
struct opened {
    __m512i level[4];
    __m512 scale, min;
    uint32_t raised;
};

static ALWAYS_INLINE __m512i load64(const uint8_t *at) { return _mm512_loadu_si512(at); }
static ALWAYS_INLINE __m256i load32(const uint8_t *at) { return _mm256_loadu_si256((const __m256i *)at); }
static ALWAYS_INLINE __m128i load16(const uint8_t *at) { return _mm_loadu_si128((const __m128i *)at); }
static ALWAYS_INLINE __m128i load8(const uint8_t *at) { return _mm_loadl_epi64((const __m128i *)at); }

static ALWAYS_INLINE uint64_t word64(const uint8_t *at) {
    uint64_t x;
    memcpy(&x, at, sizeof x);
    return x;
}
static ALWAYS_INLINE uint32_t word32(const uint8_t *at) {
    uint32_t x;
    memcpy(&x, at, sizeof x);
    return x;
}
static ALWAYS_INLINE uint32_t word16(const uint8_t *at) {
    uint16_t x;
    memcpy(&x, at, sizeof x);
    return x;
}

static ALWAYS_INLINE __m512i all(int byte) { return _mm512_set1_epi8((char)byte); }
static ALWAYS_INLINE __m512i all32(uint32_t x) { return _mm512_set1_epi32((int)x); }
static ALWAYS_INLINE __m512i low_nibbles(__m512i x) { return _mm512_and_si512(x, all(15)); }
static ALWAYS_INLINE __m512i high_nibbles(__m512i x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }
/* `low` in 32 bytes, `high` in the other 32 */
static ALWAYS_INLINE __m512i two_bytes(int low, int high) {
    return _mm512_inserti64x4(all(low), _mm256_set1_epi8((char)high), 1);
}

/* ---- scales: lane t belongs to columns 16t .. 16t+15 -------------------------------------------------------------- */

/* first, first, first+step, first+step, ... modulo 32: what each 32-group shifts or rotates by */
static ALWAYS_INLINE __m512i by_32(int first, int step) {
    const __m512i g = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_and_si512(_mm512_add_epi32(_mm512_mullo_epi32(g, all32((uint32_t)step)), all32((uint32_t)first)), all32(31));
}
/* first, first+step, ... modulo 32 */
static ALWAYS_INLINE __m512i by_16(int first, int step) {
    const __m512i t = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_and_si512(_mm512_add_epi32(_mm512_mullo_epi32(t, all32((uint32_t)step)), all32((uint32_t)first)), all32(31));
}
static ALWAYS_INLINE __m512i bits_of(__m512i x, __m512i right, uint32_t mask) {
    return _mm512_and_si512(_mm512_rorv_epi32(x, right), all32(mask));
}
static ALWAYS_INLINE __m512i minus(__m512i x, uint32_t y) { return _mm512_sub_epi32(x, all32(y)); }

/* Nibble t of eight bytes, low nibbles first. */
static ALWAYS_INLINE __m512i nibbles_16(const uint8_t *at) {
    const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    return bits_of(_mm512_permutexvar_epi32(half, _mm512_castsi128_si512(load8(at))), by_16(0, 4), 15);
}
/* Nibble t/2 of four bytes, low nibbles first. */
static ALWAYS_INLINE __m512i nibbles_32(const uint8_t *at) { return bits_of(all32(word32(at)), by_32(0, 4), 15); }
/* The nibbles of four bytes, first all low ones. */
static ALWAYS_INLINE __m512i nibbles_32_planes(const uint8_t *at) {
    return bits_of(all32(word32(at)), _mm512_setr_epi32(0, 0, 8, 8, 16, 16, 24, 24, 4, 4, 12, 12, 20, 20, 28, 28), 15);
}
/* 2 * x + 1 */
static ALWAYS_INLINE __m512i odd(__m512i x) { return _mm512_or_si512(_mm512_add_epi32(x, x), all32(1)); }

static ALWAYS_INLINE __m512 scaled(__m512i x, __m512 unit) { return _mm512_mul_ps(_mm512_cvtepi32_ps(x), unit); }
static ALWAYS_INLINE __m512 half_at(const uint8_t *at) { return spread_f16(at); }
static ALWAYS_INLINE __m512 half_times(const uint8_t *at, float factor) {
    return _mm512_mul_ps(spread_f16(at), _mm512_set1_ps(factor));
}
static ALWAYS_INLINE __m512 twice(__m256 x) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), _mm512_castps256_ps512(x));
}
/* Bit g of a byte, for each 16 of the 32-group g. */
static ALWAYS_INLINE uint32_t twice_bits(uint32_t x) { return _pdep_u32(x, 0x5555) * 3; }

/* ---- levels ------------------------------------------------------------------------------------------------------ */

/* Sixteen levels in each 128 bits, with the offset 128. */
static ALWAYS_INLINE __m512i table(const int8_t *levels) {
    return _mm512_xor_si512(_mm512_broadcast_i32x4(load16((const uint8_t *)levels)), all(-128));
}

/* Order of layout HALVES: 16 bytes a 32-group, its first 16 weights in the low nibbles. */
static ALWAYS_INLINE void nibble_levels(__m512i a, __m512i b, __m512i lookup, __m512i level[4]) {
    level[0] = _mm512_shuffle_epi8(lookup, low_nibbles(a));
    level[1] = _mm512_shuffle_epi8(lookup, high_nibbles(a));
    level[2] = _mm512_shuffle_epi8(lookup, low_nibbles(b));
    level[3] = _mm512_shuffle_epi8(lookup, high_nibbles(b));
}

/* Order of layout PAIRS: 32 bytes two 32-groups, the even one in the low nibbles; bit g of byte l of qh is a fifth bit. */
static ALWAYS_INLINE void five_bit_levels(const uint8_t *qs, const uint8_t *qh, __m512i level[4]) {
    const __m512i low = table(codebook_v5[0]), high = table(codebook_v5[0] + 16), bits = _mm512_broadcast_i64x4(load32(qh));
    for (int h = 0; h < 2; h++) {
        const __m512i bytes = load64(qs + 64 * h), even = low_nibbles(bytes), uneven = high_nibbles(bytes);
        const __mmask64 e = _mm512_test_epi8_mask(bits, two_bytes(1 << 4 * h, 4 << 4 * h));
        const __mmask64 u = _mm512_test_epi8_mask(bits, two_bytes(2 << 4 * h, 8 << 4 * h));
        level[2 * h] = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, even), e, high, even);
        level[2 * h + 1] = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, uneven), u, high, uneven);
    }
}

/* Order of layout PLANES: bits 2p, 2p+1 of 64 bytes. */
static ALWAYS_INLINE void crumbs(const uint8_t *qs, __m512i level[4]) {
    const __m512i bytes = load64(qs), two = all(3);
    level[0] = _mm512_and_si512(bytes, two);
    level[1] = _mm512_and_si512(_mm512_srli_epi16(bytes, 2), two);
    level[2] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), two);
    level[3] = _mm512_and_si512(_mm512_srli_epi16(bytes, 6), two);
}
/* Order of layout PLANES: as crumbs(), and bit g of byte l of qh is a third bit. */
static ALWAYS_INLINE void three_bits(const uint8_t *qs, const uint8_t *qh, __m512i level[4]) {
    const __m512i bits = _mm512_broadcast_i64x4(load32(qh)), four = all(4);
    crumbs(qs, level);
    for (int p = 0; p < 4; p++)
        level[p] = _mm512_mask_add_epi8(level[p], _mm512_test_epi8_mask(bits, two_bytes(1 << p, 16 << p)), level[p], four);
}

/* Magnitudes (at most 127) with the signs of a mask, offset 128. */
static ALWAYS_INLINE __m512i with_signs(__m512i magnitudes, uint64_t negative) {
    const __m512i x = _mm512_xor_si512(magnitudes, all(-128));
    return _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
}
/* Entries of eight and of four weights. */
static ALWAYS_INLINE __m512i entries_8(const uint64_t *grid, __m256i index) { return _mm512_i32gather_epi64(index, grid, 8); }
static ALWAYS_INLINE __m512i entries_4(const uint32_t *grid, __m512i index) { return _mm512_i32gather_epi32(index, grid, 4); }
/* Bits `mask` of x rotated right, added to an index. */
static ALWAYS_INLINE __m256i with_high_bits(__m256i index, uint32_t x, __m256i right, uint32_t mask) {
    const __m256i moved = _mm256_rorv_epi32(_mm256_set1_epi32((int)x), right);
    return _mm256_ternarylogic_epi32(index, moved, _mm256_set1_epi32((int)mask), 0xf8); /* index | (moved & mask) */
}

/* ---- 32-weight blocks: eight of them, order of layout HALVES -------------------------------------------------------- */

static ALWAYS_INLINE __m512i four_blocks(const uint8_t *at, size_t stride) {
    __m512i x = _mm512_castsi128_si512(load16(at));
    x = _mm512_inserti32x4(x, load16(at + stride), 1);
    x = _mm512_inserti32x4(x, load16(at + 2 * stride), 2);
    return _mm512_inserti32x4(x, load16(at + 3 * stride), 3);
}

static ALWAYS_INLINE void nibbles_of_blocks(const uint8_t *qs, size_t stride, __m512i level[4]) {
    for (int i = 0; i < 2; i++) {
        const __m512i bytes = four_blocks(qs + 4 * i * stride, stride);
        level[2 * i] = low_nibbles(bytes);
        level[2 * i + 1] = high_nibbles(bytes);
    }
}

/* Adds 16 where the block's word at qh has a bit: bit j for weight j. */
static ALWAYS_INLINE void add_fifth_bits(const uint8_t *qh, size_t stride, __m512i level[4]) {
    for (int i = 0; i < 2; i++) {
        uint64_t first = 0, second = 0;
        for (int b = 0; b < 4; b++) {
            first |= (uint64_t)word16(qh + (4 * i + b) * stride) << 16 * b;
            second |= (uint64_t)word16(qh + (4 * i + b) * stride + 2) << 16 * b;
        }
        level[2 * i] = _mm512_mask_add_epi8(level[2 * i], first, level[2 * i], all(16));
        level[2 * i + 1] = _mm512_mask_add_epi8(level[2 * i + 1], second, level[2 * i + 1], all(16));
    }
}

static ALWAYS_INLINE void open_q4_1(const uint8_t *b, struct opened *o) {
    nibbles_of_blocks(b + 4, BYTES_Q4_1, o->level);
    o->scale = twice(eight_f16(b, BYTES_Q4_1));
    o->min = _mm512_xor_ps(twice(eight_f16(b + 2, BYTES_Q4_1)), _mm512_set1_ps(-0.0f));
}

static ALWAYS_INLINE void open_q5_0(const uint8_t *b, struct opened *o) {
    nibbles_of_blocks(b + 6, BYTES_Q5_0, o->level);
    add_fifth_bits(b + 2, BYTES_Q5_0, o->level);
    o->scale = twice(eight_f16(b, BYTES_Q5_0));
}

static ALWAYS_INLINE void open_q5_1(const uint8_t *b, struct opened *o) {
    nibbles_of_blocks(b + 8, BYTES_Q5_1, o->level);
    add_fifth_bits(b + 4, BYTES_Q5_1, o->level);
    o->scale = twice(eight_f16(b, BYTES_Q5_1));
    o->min = _mm512_xor_ps(twice(eight_f16(b + 2, BYTES_Q5_1)), _mm512_set1_ps(-0.0f));
}

static ALWAYS_INLINE __m128i eight_twice(const uint8_t *at) { return _mm_set1_epi64x((long long)word64(at)); }

static ALWAYS_INLINE void open_q6_0(const uint8_t *b, struct opened *o) {
    nibbles_of_blocks(b + 10, BYTES_Q6_0, o->level);
    for (int i = 0; i < 2; i++) { /* qh: bits 0-1 and 4-5 for the first 16 weights, 8 each; 2-3 and 6-7 for the others */
        const uint8_t *qh = b + 4 * i * BYTES_Q6_0 + 2;
        __m512i bits = _mm512_castsi128_si512(eight_twice(qh));
        bits = _mm512_inserti32x4(bits, eight_twice(qh + BYTES_Q6_0), 1);
        bits = _mm512_inserti32x4(bits, eight_twice(qh + 2 * BYTES_Q6_0), 2);
        bits = _mm512_inserti32x4(bits, eight_twice(qh + 3 * BYTES_Q6_0), 3);
        const __m512i first = _mm512_rolv_epi64(bits, _mm512_setr_epi64(4, 0, 4, 0, 4, 0, 4, 0));
        const __m512i second = _mm512_rolv_epi64(bits, _mm512_setr_epi64(2, 62, 2, 62, 2, 62, 2, 62));
        o->level[2 * i] = _mm512_ternarylogic_epi64(o->level[2 * i], first, all(0x30), 0xf8);
        o->level[2 * i + 1] = _mm512_ternarylogic_epi64(o->level[2 * i + 1], second, all(0x30), 0xf8);
    }
    o->scale = twice(eight_f16(b, BYTES_Q6_0));
}

static ALWAYS_INLINE void open_iq4_nl(const uint8_t *b, struct opened *o) {
    const uint8_t *qs = b + 2;
    nibble_levels(four_blocks(qs, BYTES_IQ4_NL), four_blocks(qs + 4 * BYTES_IQ4_NL, BYTES_IQ4_NL), table(codebook_v4[0]), o->level);
    o->scale = twice(eight_f16(b, BYTES_IQ4_NL));
}

static ALWAYS_INLINE void open_mxfp4(const uint8_t *b, struct opened *o) {
    enum { BYTES = BYTES_MXFP4 };
    nibble_levels(four_blocks(b + 1, BYTES), four_blocks(b + 1 + 4 * BYTES, BYTES), table(codebook_mxfp4), o->level);
    const __m256i e = _mm256_setr_epi32(b[0], b[BYTES], b[2 * BYTES], b[3 * BYTES], b[4 * BYTES], b[5 * BYTES], b[6 * BYTES],
                                        b[7 * BYTES]);
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23); /* 2^(e-128), from e = 2 on */
    const __mmask8 subnormal = _mm256_cmplt_epi32_mask(e, _mm256_set1_epi32(2));
    o->scale = twice(_mm256_castsi256_ps(_mm256_mask_sllv_epi32(normal, subnormal, _mm256_set1_epi32(0x200000), e)));
}

/* ---- super-blocks -------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE void open_q2_k(const uint8_t *b, struct opened *o) {
    crumbs(b + 16, o->level);
    const __m512i s = _mm512_cvtepu8_epi32(load16(b));
    o->scale = scaled(_mm512_and_si512(s, all32(15)), half_at(b + 80));
    o->min = scaled(_mm512_srli_epi32(s, 4), half_at(b + 82));
}

static ALWAYS_INLINE void open_q3_k(const uint8_t *b, struct opened *o) {
    three_bits(b + 32, b, o->level);
    /* low nibbles: of eight bytes first all low, then all high ones; upper two bits: of four bytes, a bit pair for each four */
    const __m128i low = load8(b + 96), high = _mm_set1_epi32((int)word32(b + 104));
    const __m128i nibbles = _mm_and_si128(_mm_unpacklo_epi64(low, _mm_srli_epi16(low, 4)), _mm_set1_epi8(15));
    const __m128i top = _mm_and_si128(_mm_rolv_epi32(high, _mm_setr_epi32(4, 2, 0, 30)), _mm_set1_epi8(0x30));
    o->scale = scaled(minus(_mm512_cvtepu8_epi32(_mm_or_si128(nibbles, top)), 32), half_at(b + 108));
}

static ALWAYS_INLINE void open_iq4_xs(const uint8_t *b, struct opened *o) {
    nibble_levels(load64(b + 8), load64(b + 72), table(codebook_v4[0]), o->level);
    const __m512i high = bits_of(all32(word32(b)), by_32(12, 2), 0x30); /* bits 16 + 2g of the first word */
    o->scale = scaled(minus(_mm512_or_si512(nibbles_32(b + 4), high), 32), half_at(b));
}

/* IQ4_K and IQ5_K: four upper and eight lower bytes of 6-bit scales. */
static ALWAYS_INLINE __m512 six_bit_scales(const uint8_t *b) {
    return scaled(minus(_mm512_or_si512(nibbles_16(b + 8), bits_of(all32(word32(b + 4)), by_16(-4, 2), 0x30)), 32), half_at(b));
}

static ALWAYS_INLINE void open_iq4_k(const uint8_t *b, struct opened *o) {
    nibble_levels(load64(b + 16), load64(b + 80), table(codebook_v4[0]), o->level);
    o->scale = six_bit_scales(b);
    o->raised = word16(b + 2);
}

static ALWAYS_INLINE void open_iq5_k(const uint8_t *b, struct opened *o) {
    five_bit_levels(b + 16, b + 144, o->level);
    o->scale = six_bit_scales(b);
    o->raised = word16(b + 2);
}

static ALWAYS_INLINE __m512i six_bit_level(const __m512i lookup[4], __m512i nibbles, __mmask64 fifth, __mmask64 sixth) {
    const __m512i low = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(lookup[0], nibbles), fifth, lookup[1], nibbles);
    const __m512i high = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(lookup[2], nibbles), fifth, lookup[3], nibbles);
    return _mm512_mask_mov_epi8(low, sixth, high);
}

static ALWAYS_INLINE void open_iq6_k(const uint8_t *b, struct opened *o) {
    const __m512i lookup[4] = {table(codebook_v6[0]), table(codebook_v6[0] + 16), table(codebook_v6[0] + 32),
                               table(codebook_v6[0] + 48)};
    for (int h = 0; h < 2; h++) { /* groups 4h and 4h+2, then 4h+1 and 4h+3; bits 2(g%4) and 2(g%4)+1 of qh */
        const __m512i bytes = load64(b + 20 + 64 * h), bits = _mm512_broadcast_i64x4(load32(b + 148 + 32 * h));
        o->level[2 * h] = six_bit_level(lookup, low_nibbles(bytes), _mm512_test_epi8_mask(bits, two_bytes(1, 16)),
                                        _mm512_test_epi8_mask(bits, two_bytes(2, 32)));
        o->level[2 * h + 1] = six_bit_level(lookup, high_nibbles(bytes), _mm512_test_epi8_mask(bits, two_bytes(4, 64)),
                                            _mm512_test_epi8_mask(bits, two_bytes(8, 128)));
    }
    o->scale = scaled(_mm512_cvtepi8_epi32(load16(b + 4)), half_at(b));
    o->raised = word16(b + 2);
}

static ALWAYS_INLINE void lookup_crumbs(const uint8_t *qs, __m512i level[4]) {
    const __m512i lookup = _mm512_xor_si512(all32(word32((const uint8_t *)codebook_v2[0])), all(-128));
    crumbs(qs, level);
    for (int p = 0; p < 4; p++) level[p] = _mm512_shuffle_epi8(lookup, level[p]);
}
static ALWAYS_INLINE void lookup_three_bits(const uint8_t *qs, const uint8_t *qh, __m512i level[4]) {
    const __m512i lookup = _mm512_xor_si512(_mm512_set1_epi64((long long)word64((const uint8_t *)codebook_v3[0])), all(-128));
    three_bits(qs, qh, level);
    for (int p = 0; p < 4; p++) level[p] = _mm512_shuffle_epi8(lookup, level[p]);
}

static ALWAYS_INLINE void open_iq2_k(const uint8_t *b, struct opened *o) {
    lookup_crumbs(b + 12, o->level);
    o->scale = scaled(minus(nibbles_16(b + 4), 8), half_at(b));
    o->raised = word16(b + 2);
}

static ALWAYS_INLINE void open_iq3_k(const uint8_t *b, struct opened *o) {
    lookup_three_bits(b + 14, b + 78, o->level);
    const __m512i s = odd(nibbles_16(b + 6));
    o->scale = scaled(_mm512_mask_sub_epi32(s, (__mmask16)word16(b + 4), _mm512_setzero_si512(), s), half_at(b));
    o->raised = word16(b + 2);
}

/* ---- super-blocks of rows with a scale ------------------------------------------------------------------------------- */

static ALWAYS_INLINE __m512 unscaled(__m512i x) { return _mm512_cvtepi32_ps(x); }

/* IQ4_KS, IQ4_KSS, IQ5_KS: eight bytes, bit 0 selects the raised levels, the others are scale + 127. */
static ALWAYS_INLINE void byte_scales(__m128i bytes, struct opened *o) {
    const __m512i s = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, bytes));
    o->scale = unscaled(minus(_mm512_and_si512(s, all32(254)), 127));
    o->raised = _mm512_test_epi32_mask(s, all32(1));
}

static ALWAYS_INLINE void open_iq4_ks(const uint8_t *b, struct opened *o) {
    nibble_levels(load64(b + 8), load64(b + 72), table(codebook_v4[0]), o->level);
    byte_scales(load8(b), o);
}

static ALWAYS_INLINE void open_iq5_ks(const uint8_t *b, struct opened *o) {
    five_bit_levels(b + 8, b + 136, o->level);
    byte_scales(load8(b), o);
}

static ALWAYS_INLINE __m512i without_scale_bits(__m512i words) {
    const __m512i x = _mm512_andnot_si512(_mm512_set1_epi16(1), words);
    return _mm512_xor_si512(x, _mm512_srli_epi16(x, 1));
}

static ALWAYS_INLINE void open_iq4_kss(const uint8_t *b, struct opened *o) {
    const __m512i first = load64(b), second = load64(b + 64), one = _mm512_set1_epi16(1);
    nibble_levels(without_scale_bits(first), without_scale_bits(second), table(codebook_v4[0]), o->level);
    const uint64_t low = _mm512_test_epi16_mask(first, one), high = _mm512_test_epi16_mask(second, one);
    byte_scales(_mm_cvtsi64_si128((long long)(low | high << 32)), o);
}

static ALWAYS_INLINE void open_iq2_ks(const uint8_t *b, struct opened *o) {
    lookup_crumbs(b + 6, o->level);
    const uint32_t extra = word16(b);
    o->scale = unscaled(minus(_mm512_or_si512(nibbles_32(b + 2), bits_of(all32(extra), by_32(4, 1), 16)), 16));
    o->raised = twice_bits(extra & 255);
}

static ALWAYS_INLINE void open_iq3_ks(const uint8_t *b, struct opened *o) {
    lookup_three_bits(b + 6, b + 70, o->level);
    const uint32_t extra = word16(b);
    o->scale = unscaled(minus(_mm512_or_si512(nibbles_32_planes(b + 2), bits_of(all32(extra), by_32(-4, 1), 16)), 16));
    o->raised = twice_bits(extra >> 8);
}

/* Codes of five bits stand for two neighbouring weights: both are looked up, then interleaved. Order of layout QUARTERS. */
static ALWAYS_INLINE void open_iq2_kl(const uint8_t *b, struct opened *o) {
    __m512i first[2], second[2]; /* of codes 0-15 and 16-31 */
    for (int i = 0; i < 2; i++) {
        const __m256i pairs = load32((const uint8_t *)codebook_kl[16 * i]);
        const __m512i a = _mm512_broadcast_i32x4(_mm256_cvtepi16_epi8(pairs));
        const __m512i c = _mm512_broadcast_i32x4(_mm256_cvtepi16_epi8(_mm256_srli_epi16(pairs, 8)));
        first[i] = _mm512_xor_si512(a, all(-128));
        second[i] = _mm512_xor_si512(c, all(-128));
    }
    const __m512i bytes = load64(b + 6), bits = _mm512_broadcast_i32x4(load16(b + 70));
    const __m512i of_even = _mm512_setr_epi32(0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x04040404, 0x04040404, 0x04040404,
                                              0x04040404, 0x10101010, 0x10101010, 0x10101010, 0x10101010, 0x40404040, 0x40404040,
                                              0x40404040, 0x40404040);
    const __m512i nibbles[2] = {low_nibbles(bytes), high_nibbles(bytes)};
    for (int u = 0; u < 2; u++) { /* even groups, uneven groups */
        const __mmask64 fifth = _mm512_test_epi8_mask(bits, u ? _mm512_add_epi8(of_even, of_even) : of_even);
        const __m512i x = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(first[0], nibbles[u]), fifth, first[1], nibbles[u]);
        const __m512i y = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(second[0], nibbles[u]), fifth, second[1], nibbles[u]);
        o->level[2 * u] = _mm512_unpacklo_epi8(x, y);
        o->level[2 * u + 1] = _mm512_unpackhi_epi8(x, y);
    }
    const __m512i high = bits_of(all32(word16(b)), by_32(-4, 2), 0x30);
    o->scale = unscaled(minus(_mm512_or_si512(nibbles_32_planes(b + 2), high), 32));
}

/* ---- codebooks: columns in their order -------------------------------------------------------------------------------- */

static ALWAYS_INLINE void open_iq2_xxs(const uint8_t *b, struct opened *o) {
    /* a 64-bit word each 32 weights: four indices, then four sign codes and the scale */
    const __m256i upper = _mm512_cvtepi64_epi32(_mm512_srli_epi64(load64(b + 2), 32));
    uint64_t negative[4];
    _mm256_storeu_si256((__m256i *)negative, signs_of_words(upper));
    for (int i = 0; i < 4; i++) {
        const __m128i bytes = _mm_shuffle_epi32(load16(b + 2 + 16 * i), 0x08);
        o->level[i] = with_signs(entries_8(codebook_iq2xxs, _mm256_cvtepu8_epi32(bytes)), negative[i]);
    }
    const __m512i s = _mm512_permutexvar_epi32(by_32(0, 1), _mm512_castsi256_si512(_mm256_srli_epi32(upper, 28)));
    o->scale = scaled(odd(s), half_times(b, 0.125f));
}

static ALWAYS_INLINE void open_iq2_xs(const uint8_t *b, struct opened *o) {
    const __m256i codes = _mm512_cvtepi16_epi8(_mm512_srli_epi16(load64(b + 2), 9));
    uint64_t negative[4];
    _mm256_storeu_si256((__m256i *)negative, signs_of_codes(codes));
    for (int i = 0; i < 4; i++) {
        const __m256i index = _mm256_and_si256(_mm256_cvtepu16_epi32(load16(b + 2 + 16 * i)), _mm256_set1_epi32(511));
        o->level[i] = with_signs(entries_8(codebook_iq2xs, index), negative[i]);
    }
    o->scale = scaled(odd(nibbles_16(b + 66)), half_times(b, 0.125f));
}

static ALWAYS_INLINE void open_iq2_s(const uint8_t *b, struct opened *o) {
    /* unit j of eight: bits 2j, 2j+1 of the two bytes of qh become index bits 8 and 9 */
    const __m256i right = _mm256_setr_epi32(24, 26, 28, 30, 0, 2, 4, 6);
    for (int i = 0; i < 4; i++) {
        const __m256i low = _mm256_cvtepu8_epi32(load8(b + 2 + 8 * i));
        const __m256i index = with_high_bits(low, word32(b + 66 + 2 * i), right, 0x300);
        o->level[i] = with_signs(entries_8(codebook_iq2s, index), word64(b + 34 + 8 * i));
    }
    o->scale = scaled(odd(nibbles_16(b + 74)), half_times(b, 0.125f));
}

/* IQ3_XXS and IQ3_S in the order BY_LANES, so that indices need no widening and scales no spreading: lane t of `qs` holds the indices
 * of its four entries, lane t of `ninth` their ninth bits, the words of `signs` the sixteen signs. */
static ALWAYS_INLINE void quad_levels(const uint32_t *grid, __m512i qs, __m512i ninth, __m256i signs, struct opened *o) {
    const __m512i first = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    const __m512i lanes = _mm512_cvtepu16_epi32(signs);
    const __m512i bits[2] = {_mm512_shuffle_epi8(lanes, first), _mm512_shuffle_epi8(lanes, _mm512_add_epi8(first, all(1)))};
    for (int i = 0; i < 4; i++) {
        const __m512i low = _mm512_and_si512(_mm512_srli_epi32(qs, 8 * i), all32(255));
        const __m512i index = _mm512_ternarylogic_epi32(low, _mm512_slli_epi32(ninth, 8 - i), all32(256), 0xf8);
        o->level[i] = with_signs(entries_4(grid, index), _mm512_test_epi8_mask(bits[i / 2], all32(i % 2 ? 0x80402010 : 0x08040201)));
    }
}

static ALWAYS_INLINE void open_iq3_xxs(const uint8_t *b, struct opened *o) {
    const __m256i words = load32(b + 66);
    quad_levels(codebook_iq3xxs, load64(b + 2), _mm512_setzero_si512(), signs_of_words(words), o);
    const __m512i s = _mm512_permutexvar_epi32(by_32(0, 1), _mm512_castsi256_si512(_mm256_srli_epi32(words, 28)));
    o->scale = scaled(odd(s), half_times(b, 0.25f));
}

static ALWAYS_INLINE void open_iq3_s(const uint8_t *b, struct opened *o) {
    quad_levels(codebook_iq3s, load64(b + 2), nibbles_16(b + 66), load32(b + 74), o);
    o->scale = scaled(odd(nibbles_32(b + 106)), half_at(b));
}

/* Levels of eight times what the grid says, plus or minus one by the bits of `minus_one`, a unit each. */
static ALWAYS_INLINE __m512i ternary(__m256i index, uint32_t minus_one) {
    const __m512i grid = _mm512_and_si512(_mm512_slli_epi16(entries_8(codebook_iq1s, index), 3), all(0xf8));
    const __m512i delta = _mm512_mask_blend_epi64((__mmask8)minus_one, all(128 + 1), all(128 - 1));
    return _mm512_add_epi8(grid, delta);
}

static ALWAYS_INLINE void open_iq1_s(const uint8_t *b, struct opened *o) {
    /* unit j: bits 3(j%4) .. of the half j/4 of two 16-bit words become index bits 8-10 */
    const __m256i right = _mm256_setr_epi32(24, 27, 30, 1, 8, 11, 14, 17);
    const uint32_t negative = _pdep_u32(_mm_movepi16_mask(load16(b + 34)), 0x11111111) * 15;
    for (int i = 0; i < 4; i++) {
        const __m256i low = _mm256_cvtepu8_epi32(load8(b + 2 + 8 * i));
        o->level[i] = ternary(with_high_bits(low, word32(b + 34 + 4 * i), right, 0x700), negative >> 8 * i);
    }
    const __m256i words = _mm256_and_si256(_mm256_srli_epi32(_mm256_cvtepu16_epi32(load16(b + 34)), 12), _mm256_set1_epi32(7));
    o->scale = scaled(odd(_mm512_permutexvar_epi32(by_32(0, 1), _mm512_castsi256_si512(words))), half_times(b, 0.125f));
}

static ALWAYS_INLINE void open_iq1_m(const uint8_t *b, struct opened *o) {
    const __m256i right = _mm256_setr_epi32(24, 28, 0, 4, 8, 12, 16, 20), fourth = _mm256_set1_epi32(0x800);
    for (int i = 0; i < 4; i++) { /* nibble j: three index bits, and the sign of delta */
        const uint32_t nibbles = word32(b + 32 + 4 * i);
        const uint32_t negative = _mm256_test_epi32_mask(_mm256_rorv_epi32(_mm256_set1_epi32((int)nibbles), right), fourth);
        o->level[i] = ternary(with_high_bits(_mm256_cvtepu8_epi32(load8(b + 8 * i)), nibbles, right, 0x700), negative);
    }
    /* four 16-bit words: four 3-bit scales each, and a nibble of d on top */
    const uint16_t d = (uint16_t)_pext_u64(word64(b + 48), 0xf000f000f000f000);
    const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i right16 = _mm512_setr_epi32(0, 3, 6, 9, 16, 19, 22, 25, 0, 3, 6, 9, 16, 19, 22, 25);
    const __m512i s = bits_of(_mm512_permutexvar_epi32(half, _mm512_castsi128_si512(load8(b + 48))), right16, 7);
    o->scale = scaled(odd(s), half_times((const uint8_t *)&d, 0.125f));
}

/* ---- what follows from an opened piece --------------------------------------------------------------------------------- */

/* How levels stand in registers: which 16 columns each 128 bits hold. */
#define ORDER_NATURAL  {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
#define ORDER_BY_LANES {0}
#define ORDER_PLANES   {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15}
#define ORDER_PAIRS    {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15}
#define ORDER_HALVES   {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15}
#define ORDER_QUARTERS {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}

/* has_min, raise: whether and what struct opened says of `min` and `raised`; group: columns that share a scale. */
struct traits {
    const struct layout *layout;
    bool has_min;
    int raise, group;
};

/* The four columns that 32-bit lane `lane` of a step holds, in fours. */
static ALWAYS_INLINE int quad_of(const struct layout *l, int step, int lane) {
    return l->by_lanes ? 4 * lane + step : 4 * l->chunk[4 * step + lane / 4] + lane % 4;
}

static ALWAYS_INLINE void dot_opened(const struct traits t, const struct opened *o, const struct prepared *const p[], int n,
                                     __m512 sum[]) {
    const struct layout *l = t.layout;
    for (int v = 0; v < n; v++) {
        const __m512 s = _mm512_mul_ps(o->scale, _mm512_load_ps(p[v]->fold));
        for (int i = 0; i < 4; i += l->chained) {
            __m512i dots = dot(l->offset ? start(p[v], i) : _mm512_setzero_si512(), o->level[i], p[v], i);
            for (int j = 1; j < l->chained; j++) dots = dot(dots, o->level[i + j], p[v], i + j);
            const uint8_t *c = l->chunk + 4 * i;
            if (l->by_lanes)
                sum[v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), s, sum[v]);
            else
                sum[v] = add_scaled(sum[v], dots, s, fours(c[0], c[1], c[2], c[3]));
        }
        if (t.has_min) sum[v] = _mm512_fnmadd_ps(o->min, _mm512_load_ps(p[v]->sums), sum[v]);
        if (t.raise) {
            const __m512 raised = _mm512_maskz_mul_ps((__mmask16)o->raised, o->scale, _mm512_set1_ps((float)t.raise));
            sum[v] = _mm512_fmadd_ps(raised, _mm512_load_ps(p[v]->sums), sum[v]);
        }
    }
}

/* Sixteen opened rows on their way into a panel. */
struct rows {
    _Alignas(64) uint8_t level[HALF][PIECE];
    _Alignas(64) float scale[HALF][16], min[HALF][16];
};

static ALWAYS_INLINE void store_row(const struct traits t, const struct opened *o, struct rows *rows, int row) {
    for (int i = 0; i < 4; i++) {
        __m512i level = o->level[i];
        if (t.raise) {
            const uint8_t *c = t.layout->chunk + 4 * i;
            uint32_t bits = 0; /* four lanes of 32 bits each 16 columns */
            for (int j = 0; j < 4; j++) bits |= (o->raised >> c[j] & 1) * 15 << 4 * j;
            level = _mm512_add_epi8(level, _mm512_maskz_mov_epi32((__mmask16)bits, all(t.raise)));
        }
        _mm512_store_si512(rows->level[row] + 64 * i, level);
    }
    _mm512_store_ps(rows->scale[row], o->scale);
    if (t.has_min) _mm512_store_ps(rows->min[row], o->min);
}

/* Sixteen values of sixteen rows, transposed; one each 32 columns where two always are the same. */
static ALWAYS_INLINE void weave_scales(float rows[HALF][16], int group, float out[][PANEL_ROWS], int row) {
    for (int i = 0; i < 4; i++) {
        __m512i x[4];
        transpose((const uint8_t *)&rows[0][4 * i], sizeof rows[0], x);
        for (int j = 0; j < 4; j += group / 16) _mm512_store_ps(&out[(4 * i + j) / (group / 16)][row], _mm512_castsi512_ps(x[j]));
    }
}

static ALWAYS_INLINE void weave(const struct traits t, struct rows *rows, struct panel *p, int row) {
    for (int c = 0; c < 16; c++) {
        __m512i x[4];
        transpose(rows->level[0] + 16 * c, PIECE, x);
        for (int j = 0; j < 4; j++) put(p, quad_of(t.layout, c / 4, 4 * (c % 4) + j), row, x[j]);
    }
    weave_scales(rows->scale, t.group, p->scale, row);
    if (t.has_min) weave_scales(rows->min, t.group, p->min, row);
}

/* X(name, type, order, registers of an accumulator, offset of levels, has_min, raise, columns of a scale, tiles) */
#define FORMATS(X)                                                   \
    X(q4_1, Q4_1, HALVES, 2, 0, true, 0, 32, tiles_32_min)           \
    X(q5_0, Q5_0, HALVES, 2, 16, false, 0, 32, tiles_32)             \
    X(q5_1, Q5_1, HALVES, 2, 0, true, 0, 32, tiles_32_min)           \
    X(q6_0, Q6_0, HALVES, 2, 32, false, 0, 32, tiles_32)             \
    X(iq4_nl, IQ4_NL, HALVES, 2, 128, false, 0, 32, tiles_32)        \
    X(mxfp4, MXFP4, HALVES, 2, 128, false, 0, 32, tiles_32)          \
    X(q2_k, Q2_K, PLANES, 1, 0, true, 0, 16, tiles_16_min)           \
    X(q3_k, Q3_K, PLANES, 1, 4, false, 0, 16, tiles_16)              \
    X(iq4_xs, IQ4_XS, HALVES, 2, 128, false, 0, 32, tiles_32)        \
    X(iq2_k, IQ2_K, PLANES, 1, 128, false, 5, 16, tiles_16)          \
    X(iq3_k, IQ3_K, PLANES, 1, 128, false, 4, 16, tiles_16)          \
    X(iq4_k, IQ4_K, HALVES, 1, 128, false, 4, 16, tiles_16)          \
    X(iq5_k, IQ5_K, PAIRS, 1, 128, false, 2, 16, tiles_16)           \
    X(iq6_k, IQ6_K, PAIRS, 1, 128, false, 1, 16, tiles_16)           \
    X(iq2_ks, IQ2_KS, PLANES, 1, 128, false, 5, 32, tiles_32)        \
    X(iq2_kl, IQ2_KL, QUARTERS, 2, 128, false, 0, 32, tiles_32)      \
    X(iq3_ks, IQ3_KS, PLANES, 1, 128, false, 4, 32, tiles_32)        \
    X(iq4_ks, IQ4_KS, HALVES, 2, 128, false, 4, 32, tiles_32)        \
    X(iq4_kss, IQ4_KSS, HALVES, 2, 128, false, 4, 32, tiles_32)      \
    X(iq5_ks, IQ5_KS, PAIRS, 1, 128, false, 2, 32, tiles_32)         \
    X(iq2_xxs, IQ2_XXS, NATURAL, 1, 128, false, 0, 32, tiles_32)     \
    X(iq2_xs, IQ2_XS, NATURAL, 1, 128, false, 0, 16, tiles_16)       \
    X(iq2_s, IQ2_S, NATURAL, 1, 128, false, 0, 16, tiles_16)         \
    X(iq3_xxs, IQ3_XXS, BY_LANES, 4, 128, false, 0, 32, tiles_32)     \
    X(iq3_s, IQ3_S, BY_LANES, 4, 128, false, 0, 32, tiles_32)         \
    X(iq1_s, IQ1_S, NATURAL, 1, 128, false, 0, 32, tiles_32)         \
    X(iq1_m, IQ1_M, NATURAL, 1, 128, false, 0, 16, tiles_16)

#define MATMUL(name, type, order, chained, offset, has_min, raise, group, tiles)                                               \
    static const struct layout layout_##name = {ORDER_##order, chained, offset, FOLD_D16, chained == 4};                                     \
    static const struct traits traits_##name = {&layout_##name, has_min, raise, group};                                        \
    static ALWAYS_INLINE void dot_##name(const uint8_t *at, const struct prepared *const p[], int n, __m512 sum[]) {           \
        struct opened o;                                                                                                       \
        open_##name(at, &o);                                                                                                   \
        dot_opened(traits_##name, &o, p, n, sum);                                                                              \
    }                                                                                                                          \
    static void open_rows_##name(const uint8_t *at, size_t stride, struct panel *p, int row) {                                 \
        struct rows rows;                                                                                                      \
        struct opened o;                                                                                                       \
        for (int r = 0; r < HALF; r++) {                                                                                       \
            open_##name(at + (size_t)r * stride, &o);                                                                          \
            store_row(traits_##name, &o, &rows, r);                                                                            \
        }                                                                                                                      \
        weave(traits_##name, &rows, p, row);                                                                                   \
    }                                                                                                                          \
    static void matmul_##name(const struct matmul *m) {                                                                        \
        static const struct blocked_format many = {open_rows_##name,                                                           \
                                                   HALF,                                                                       \
                                                   gemm_##tiles##_avx512,                                                      \
                                                   TILE,                                                                       \
                                                   offset,                                                                     \
                                                   WEIGHTS_##type,                                                             \
                                                   BYTES_##type,                                                               \
                                                   META_##type};                                                               \
        const struct format few = {dot_##name, &layout_##name, WEIGHTS_##type, BYTES_##type, META_##type};                     \
        if (m->n > FEW)                                                                                                        \
            gemm_blocked(&many, m);                                                                                            \
        else                                                                                                                   \
            matvec(few, m);                                                                                                    \
    }

FORMATS(MATMUL)

void cpu_fill_formats_avx512(struct cpu_ops *ops) {
#define X(name, type, order, chained, offset, has_min, raise, group, tiles) ops->types[TYPE_##type].matmul = matmul_##name;
    FORMATS(X)
#undef X
}
