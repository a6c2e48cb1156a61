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

enum {
#define X(suffix, name, id, weights, bytes, row_meta)                                                                          \
    WEIGHTS_##suffix = weights, BYTES_##suffix = bytes, META_##suffix = row_meta,
    TENSOR_TYPES(X)
#undef X
};

/* 256 columns: weight = scale * (level - offset) - min, levels in the order of the format's layout, scales and minimums in the
 * order of the columns, one each 16. Bit t of `raised` adds the format's `raise` to the levels of the 16-group t. Of formats
 * with SIGNS, levels are magnitudes and `negative` has a bit each. */
struct opened {
    __m512i level[4];
    __mmask64 negative[4];
    __m512 scale, min;
    uint32_t raised;
};

static ALWAYS_INLINE __m512i load64(const uint8_t *at) { return _mm512_loadu_si512(at); }
static ALWAYS_INLINE __m256i load32(const uint8_t *at) { return _mm256_loadu_si256((const __m256i *)at); }
static ALWAYS_INLINE __m128i load16(const uint8_t *at) { return _mm_loadu_si128((const __m128i *)at); }
static ALWAYS_INLINE __m128i load8(const uint8_t *at) { return _mm_loadl_epi64((const __m128i *)at); }

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

/* Lowest four bits of lane t: nibble t of eight bytes, low nibbles first. What is above them is not cleared. */
static ALWAYS_INLINE __m512i nibbles_16(const uint8_t *at) {
    const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    return _mm512_rorv_epi32(_mm512_permutexvar_epi32(half, _mm512_castsi128_si512(load8(at))), by_16(0, 4));
}
/* Lowest four bits: nibble t/2 of four bytes. */
static ALWAYS_INLINE __m512i nibbles_32(const uint8_t *at) { return _mm512_rorv_epi32(all32(word32(at)), by_32(0, 4)); }
static ALWAYS_INLINE __m512i only_nibbles(__m512i x) { return _mm512_and_si512(x, all32(15)); }
/* The nibbles of four bytes, first all low ones. */
static ALWAYS_INLINE __m512i nibbles_32_planes(const uint8_t *at) {
    return bits_of(all32(word32(at)), _mm512_setr_epi32(0, 0, 8, 8, 16, 16, 24, 24, 4, 4, 12, 12, 20, 20, 28, 28), 15);
}
/* (a * n + b) * unit for the n in the lowest four bits; of them only `mask` count */
static ALWAYS_INLINE __m512 linear(__m512i n, int a, int b, int mask, float factor, __m512 unit) {
    const __m512i code =
        _mm512_and_si512(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), all32((uint32_t)mask));
    const __m512i value = _mm512_add_epi32(_mm512_mullo_epi32(code, all32((uint32_t)a)), all32((uint32_t)b));
    const __m512 table_of = _mm512_mul_ps(_mm512_cvtepi32_ps(value), _mm512_set1_ps(factor)); /* constant */
    return _mm512_mul_ps(_mm512_permutexvar_ps(n, table_of), unit);
}

static ALWAYS_INLINE __m512 scaled(__m512i x, __m512 unit) { return _mm512_mul_ps(_mm512_cvtepi32_ps(x), unit); }
static ALWAYS_INLINE __m512 half_at(const uint8_t *at) { return spread_f16(at); }
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
static ALWAYS_INLINE __m512i with_signs(__m512i magnitudes, __mmask64 negative) {
    const __m512i x = _mm512_xor_si512(magnitudes, all(-128));
    return _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
}
/* Entries of eight and of four weights. A gather merges into its destination: unless that is zeroed, it waits for whatever the
 * register held last, which here is the gather of the piece before. The compiler leaves the zeroing out when it knows that the
 * mask is full. */
static ALWAYS_INLINE __mmask16 full_mask(void) {
    __mmask16 mask = 0xffff;
    __asm__("" : "+k"(mask));
    return mask;
}
static ALWAYS_INLINE __m512i entries_8(const uint64_t *grid, __m256i index) {
    return _mm512_mask_i32gather_epi64(_mm512_setzero_si512(), (__mmask8)full_mask(), index, grid, 8);
}
static ALWAYS_INLINE __m512i entries_4(const uint32_t *grid, __m512i index) {
    return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), full_mask(), index, grid, 4);
}
/* Byte i of each 32 bits, and bits `mask` of another word moved left: indices into a codebook. */
static ALWAYS_INLINE __m256i indices(__m256i low, int i, __m256i high, int left, int mask) {
    const __m256i order = _mm256_setr_epi8(0, -1, -1, -1, 4, -1, -1, -1, 8, -1, -1, -1, 12, -1, -1, -1, 0, -1, -1, -1, 4, -1,
                                           -1, -1, 8, -1, -1, -1, 12, -1, -1, -1);
    const __m256i byte = _mm256_shuffle_epi8(low, _mm256_add_epi8(order, _mm256_set1_epi32(i)));
    const __m256i moved = left >= 0 ? _mm256_slli_epi32(high, left) : _mm256_srli_epi32(high, -left);
    return _mm256_ternarylogic_epi32(byte, moved, _mm256_set1_epi32(mask), 0xf8); /* byte | (moved & mask) */
}

/* Seven-bit codes in bytes, each with the bit on top that makes the number of set bits even. */
static ALWAYS_INLINE __m512i signs_of_codes(__m512i codes) {
    const __m512i parity =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
    const __m512i low = _mm512_shuffle_epi8(parity, low_nibbles(codes)),
                  high = _mm512_shuffle_epi8(parity, high_nibbles(codes));
    return _mm512_ternarylogic_epi32(codes, low, high, 0x96); /* exclusive or */
}
/* Adds the bits `mask` of x moved left by one bit a byte: code i of a word to its byte i. */
static ALWAYS_INLINE __m512i with_code(__m512i codes, __m512i x, int i) {
    return _mm512_ternarylogic_epi32(codes, _mm512_slli_epi32(x, (unsigned)i), all32(0x7fu << 8 * i), 0xf8);
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
    nibble_levels(four_blocks(qs, BYTES_IQ4_NL), four_blocks(qs + 4 * BYTES_IQ4_NL, BYTES_IQ4_NL), table(codebook_v4[0]),
                  o->level);
    o->scale = twice(eight_f16(b, BYTES_IQ4_NL));
}

static ALWAYS_INLINE void open_mxfp4(const uint8_t *b, struct opened *o) {
    enum { BYTES = BYTES_MXFP4 };
    nibble_levels(four_blocks(b + 1, BYTES), four_blocks(b + 1 + 4 * BYTES, BYTES), table(codebook_mxfp4), o->level);
    const __m256i e =
        _mm256_setr_epi32(b[0], b[BYTES], b[2 * BYTES], b[3 * BYTES], b[4 * BYTES], b[5 * BYTES], b[6 * BYTES], b[7 * BYTES]);
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
    o->scale = scaled(minus(_mm512_or_si512(only_nibbles(nibbles_32(b + 4)), high), 32), half_at(b));
}

/* IQ4_K and IQ5_K: four upper and eight lower bytes of 6-bit scales. */
static ALWAYS_INLINE __m512 six_bit_scales(const uint8_t *b) {
    const __m512i high = bits_of(all32(word32(b + 4)), by_16(-4, 2), 0x30);
    return scaled(minus(_mm512_or_si512(only_nibbles(nibbles_16(b + 8)), high), 32), half_at(b));
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
    o->scale = linear(nibbles_16(b + 4), 1, -8, 15, 1, half_at(b));
    o->raised = word16(b + 2);
}

static ALWAYS_INLINE void open_iq3_k(const uint8_t *b, struct opened *o) {
    lookup_three_bits(b + 14, b + 78, o->level);
    const __m512 s = linear(nibbles_16(b + 6), 2, 1, 15, 1, half_at(b));
    o->scale = _mm512_mask_sub_ps(s, (__mmask16)word16(b + 4), _mm512_setzero_ps(), s);
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
    o->scale = unscaled(minus(_mm512_or_si512(only_nibbles(nibbles_32(b + 2)), bits_of(all32(extra), by_32(4, 1), 16)), 16));
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
    const __m512i of_even =
        _mm512_setr_epi32(0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x04040404, 0x04040404, 0x04040404, 0x04040404,
                          0x10101010, 0x10101010, 0x10101010, 0x10101010, 0x40404040, 0x40404040, 0x40404040, 0x40404040);
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

/* ---- codebooks ---------------------------------------------------------------------------------------------------------
 *
 * Which units a gather takes is free, because the activations can be put in any order. Lane l of step i always is unit 4l+i:
 * the indices of a lane's four units stand side by side in the block, and its weights belong to the same scale in all steps. */

/* Signs of eight weights a lane (a 32-group): byte `byte` of the lane. */
static ALWAYS_INLINE __mmask64 signs_8(__m512i signs, int byte) {
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8));
    const __m512i spread = _mm512_shuffle_epi8(signs, _mm512_add_epi8(order, all(byte)));
    return _mm512_test_epi8_mask(spread, _mm512_set1_epi64((long long)0x8040201008040201));
}

static ALWAYS_INLINE void open_iq2_xxs(const uint8_t *b, struct opened *o) {
    /* a 64-bit word each 32 weights: four indices, then four sign codes and the scale */
    const __m512i x = load64(b + 2);
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, -1, -1, -1, -1, -1, -1, 8, -1, -1, -1, -1, -1, -1, -1));
    const __m512i codes = with_code(with_code(with_code(_mm512_and_si512(x, all32(0x7f)), x, 1), x, 2), x, 3);
    const __m512i signs = signs_of_codes(codes);
    for (int i = 0; i < 4; i++) {
        const __m512i index = _mm512_shuffle_epi8(x, _mm512_add_epi8(order, _mm512_set1_epi64(i)));
        o->level[i] = _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), (__mmask8)full_mask(), index, codebook_iq2xxs, 8);
        o->negative[i] = signs_8(signs, 4 + i);
    }
    const __m512i upper = _mm512_castps_si512(_mm512_movehdup_ps(_mm512_castsi512_ps(x)));
    o->scale = linear(_mm512_srli_epi32(upper, 28), 2, 1, 15, 0.125f, half_at(b));
}

static ALWAYS_INLINE void open_iq2_xs(const uint8_t *b, struct opened *o) {
    const __m512i x = load64(b + 2), signs = signs_of_codes(_mm512_srli_epi16(x, 9));
    for (int i = 0; i < 4; i++) {
        const __m512i index = _mm512_and_si512(_mm512_srli_epi64(x, 16 * (unsigned)i), _mm512_set1_epi64(511));
        o->level[i] = _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), (__mmask8)full_mask(), index, codebook_iq2xs, 8);
        o->negative[i] = signs_8(signs, 2 * i);
    }
    o->scale = linear(nibbles_16(b + 66), 2, 1, 15, 0.125f, half_at(b));
}

static ALWAYS_INLINE void open_iq2_s(const uint8_t *b, struct opened *o) {
    const __m256i qs = load32(b + 2), qh = _mm256_cvtepu8_epi32(load8(b + 66));
    const __m512i signs = _mm512_cvtepu32_epi64(load32(b + 34));
    for (int i = 0; i < 4; i++) { /* bits 2i, 2i+1 of a byte of qh are bits 8 and 9 of an index */
        o->level[i] = entries_8(codebook_iq2s, indices(qs, i, qh, 8 - 2 * i, 0x300));
        o->negative[i] = signs_8(signs, i);
    }
    o->scale = linear(nibbles_16(b + 74), 2, 1, 15, 0.125f, half_at(b));
}

/* Entries of four weights (lane: a 16-group): lane t of `qs` holds the four indices, bit i of `ninth` the ninth bit of index i,
 * the lower half of `signs` the sixteen signs. */
static ALWAYS_INLINE void quad_levels(const uint32_t *grid, __m512i qs, __m512i ninth, bool has_ninth, __m512i signs,
                                      struct opened *o) {
    const __m512i first = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, -1, -1, 4, -1, -1, -1, 8, -1, -1, -1, 12, -1, -1, -1));
    const __m512i bits[2] = {_mm512_shuffle_epi8(signs, first), _mm512_shuffle_epi8(signs, _mm512_add_epi8(first, all(1)))};
    for (int i = 0; i < 4; i++) {
        __m512i index = _mm512_shuffle_epi8(qs, _mm512_add_epi8(order, all32((uint32_t)i)));
        if (has_ninth) index = _mm512_ternarylogic_epi32(index, _mm512_slli_epi32(ninth, 8 - (unsigned)i), all32(256), 0xf8);
        o->level[i] = entries_4(grid, index);
        o->negative[i] = _mm512_test_epi8_mask(bits[i / 2], all32(i % 2 ? 0x80402010 : 0x08040201));
    }
}

static ALWAYS_INLINE void open_iq3_xxs(const uint8_t *b, struct opened *o) {
    /* a word each 32 weights, four sign codes and the scale: the even lanes' codes are the lower two */
    const __m512i words = _mm512_permutexvar_epi32(by_32(0, 1), _mm512_castsi256_si512(load32(b + 66)));
    const __m512i codes = _mm512_srlv_epi32(words, _mm512_set1_epi64(14ll << 32));
    const __m512i signs = signs_of_codes(with_code(_mm512_and_si512(codes, all32(0x7f)), codes, 1));
    quad_levels(codebook_iq3xxs, load64(b + 2), signs, false, signs, o);
    o->scale = linear(_mm512_srli_epi32(words, 28), 2, 1, 15, 0.25f, half_at(b));
}

static ALWAYS_INLINE void open_iq3_s(const uint8_t *b, struct opened *o) {
    quad_levels(codebook_iq3s, load64(b + 2), nibbles_16(b + 66), true, _mm512_cvtepu16_epi32(load32(b + 74)), o);
    o->scale = linear(nibbles_32(b + 106), 2, 1, 15, 1, half_at(b));
}

/* Levels of eight times what the grid says, plus or minus one by the bits of `negative`, a lane each. */
static ALWAYS_INLINE __m512i ternary(__m256i index, __mmask8 negative) {
    const __m512i grid = _mm512_and_si512(_mm512_slli_epi16(entries_8(codebook_iq1s, index), 3), all(0xf8));
    return _mm512_add_epi8(grid, _mm512_mask_blend_epi64(negative, all(128 + 1), all(128 - 1)));
}

static ALWAYS_INLINE void open_iq1_s(const uint8_t *b, struct opened *o) {
    /* sixteen bits a 32-group: upper index bits, three each, then the scale and the sign of delta */
    const __m256i qs = load32(b + 2), x = _mm256_cvtepu16_epi32(load16(b + 34));
    const __mmask8 negative = _mm_movepi16_mask(load16(b + 34));
    for (int i = 0; i < 4; i++) o->level[i] = ternary(indices(qs, i, x, 8 - 3 * i, 0x700), negative);
    const __m512i scale = _mm512_srli_epi32(_mm512_permutexvar_epi32(by_32(0, 1), _mm512_castsi256_si512(x)), 12);
    o->scale = linear(scale, 2, 1, 7, 0.125f, half_at(b));
}

static ALWAYS_INLINE void open_iq1_m(const uint8_t *b, struct opened *o) {
    /* a nibble a unit: three upper index bits and the sign of delta */
    const __m256i qs = load32(b), qh = _mm256_cvtepu16_epi32(load16(b + 32));
    for (int i = 0; i < 4; i++)
        o->level[i] = ternary(indices(qs, i, qh, 8 - 4 * i, 0x700), _mm256_test_epi32_mask(qh, _mm256_set1_epi32(8 << 4 * i)));
    /* four 16-bit words: four 3-bit scales each, and a nibble of d on top */
    const uint16_t d = (uint16_t)_pext_u64(word64(b + 48), 0xf000f000f000f000);
    const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i right = _mm512_setr_epi32(0, 3, 6, 9, 16, 19, 22, 25, 0, 3, 6, 9, 16, 19, 22, 25);
    const __m512i s = _mm512_rorv_epi32(_mm512_permutexvar_epi32(half, _mm512_castsi128_si512(load8(b + 48))), right);
    o->scale = linear(s, 2, 1, 7, 0.125f, half_at((const uint8_t *)&d));
}

/* ---- what follows from an opened piece --------------------------------------------------------------------------------- */

/* How levels stand in registers: which 16 columns each 128 bits hold. */
#define ORDER_BY_16                                                                                                            \
    { 0 } /* unit 4 and unit 8: a lane is a group of 16, of 32 */
#define ORDER_BY_32                                                                                                            \
    { 0 }
#define UNIT_PLANES 16
#define UNIT_PAIRS 16
#define UNIT_HALVES 16
#define UNIT_QUARTERS 16
#define UNIT_BY_16 4
#define UNIT_BY_32 8
#define ORDER_PLANES                                                                                                           \
    { 0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15 }
#define ORDER_PAIRS                                                                                                            \
    { 0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15 }
#define ORDER_HALVES                                                                                                           \
    { 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15 }
#define ORDER_QUARTERS                                                                                                         \
    { 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15 }

/* extra, raise: what struct opened says of `min`, `negative` and `raised`; group: columns that share a scale. */
enum extra { PLAIN, MINS, SIGNS };
struct traits {
    const struct layout *layout;
    enum extra extra;
    int raise, group;
};

/* The four columns that 32-bit lane `lane` of a step holds, in fours. */
static ALWAYS_INLINE int quad_of(const struct layout *l, int step, int lane) {
    if (l->unit == 4) return 4 * lane + step;
    if (l->unit == 8) return lane / 2 * 8 + 2 * step + lane % 2;
    return 4 * l->chunk[4 * step + lane / 4] + lane % 4;
}

/* The scale of each lane of the accumulator that begins with `step`. */
static ALWAYS_INLINE __m512 lane_scales(const struct layout *l, int step, __m512 s) {
    const uint8_t *c = l->chunk + 4 * step;
    if (l->unit == 16) return _mm512_permutexvar_ps(fours(c[0], c[1], c[2], c[3]), s);
    if (l->chained == 4) return s;
    return step ? _mm512_movehdup_ps(s) : _mm512_moveldup_ps(s); /* two lanes a 32-group, steps of its first and second 16 */
}

/* Dots of the steps that share the accumulator which begins with `step`. */
static ALWAYS_INLINE __m512i dot_steps(const struct layout *l, const __m512i level[4], const struct prepared *p, int step) {
    __m512i dots = l->offset ? start(p, step) : _mm512_setzero_si512();
    for (int i = step; i < step + l->chained; i++) dots = dot(dots, level[i], p, i);
    return dots;
}

/* The same of magnitudes: the activations take the signs, which for a single vector is less work and needs no offset. */
static ALWAYS_INLINE __m512i dot_magnitudes(const struct layout *l, const struct opened *o, const struct prepared *p,
                                            int step) {
    __m512i dots = _mm512_setzero_si512();
    for (int i = step; i < step + l->chained; i++) {
        const __m512i q = _mm512_load_si512(p->q + 64 * i);
        dots = _mm512_dpbusd_epi32(dots, o->level[i], _mm512_mask_sub_epi8(q, o->negative[i], _mm512_setzero_si512(), q));
    }
    return dots;
}

static ALWAYS_INLINE void dot_opened(const struct traits t, const struct opened *o, const struct prepared *const p[], int n,
                                     __m512 sum[]) {
    const struct layout *l = t.layout;
    __m512i level[4];
    for (int i = 0; i < 4; i++) level[i] = t.extra == SIGNS && n > 1 ? with_signs(o->level[i], o->negative[i]) : o->level[i];
    for (int v = 0; v < n; v++) {
        const __m512 s = _mm512_mul_ps(o->scale, _mm512_load_ps(p[v]->fold));
        for (int i = 0; i < 4; i += l->chained) {
            const __m512i dots = t.extra == SIGNS && n == 1 ? dot_magnitudes(l, o, p[v], i) : dot_steps(l, level, p[v], i);
            sum[v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), lane_scales(l, i, s), sum[v]);
        }
        if (t.extra == MINS) sum[v] = _mm512_fnmadd_ps(o->min, _mm512_load_ps(p[v]->sums), sum[v]);
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
    const __m512i raise = _mm512_maskz_mov_epi32((__mmask16)o->raised, all(t.raise)); /* lane t: 16-group t */
    for (int i = 0; i < 4; i++) {
        const uint8_t *c = t.layout->chunk + 4 * i;
        __m512i level = t.extra == SIGNS ? with_signs(o->level[i], o->negative[i]) : o->level[i];
        if (t.raise) level = _mm512_add_epi8(level, _mm512_permutexvar_epi32(fours(c[0], c[1], c[2], c[3]), raise));
        _mm512_store_si512(rows->level[row] + 64 * i, level);
    }
    _mm512_store_ps(rows->scale[row], o->scale);
    if (t.extra == MINS) _mm512_store_ps(rows->min[row], o->min);
}

/* Sixteen values of sixteen rows, transposed; one each 32 columns where two always are the same. */
static ALWAYS_INLINE void weave_scales(float rows[HALF][16], int group, float out[][PANEL_ROWS], int row) {
    for (int i = 0; i < 4; i++) {
        __m512i x[4];
        transpose((const uint8_t *)&rows[0][4 * i], sizeof rows[0], x);
        for (int j = 0; j < 4; j += group / 16)
            _mm512_store_ps(&out[(4 * i + j) / (group / 16)][row], _mm512_castsi512_ps(x[j]));
    }
}

static ALWAYS_INLINE void weave(const struct traits t, struct rows *rows, struct panel *p, int row) {
    for (int c = 0; c < 16; c++) {
        __m512i x[4];
        transpose(rows->level[0] + 16 * c, PIECE, x);
        for (int j = 0; j < 4; j++) put(p, quad_of(t.layout, c / 4, 4 * (c % 4) + j), row, x[j]);
    }
    weave_scales(rows->scale, t.group, p->scale, row);
    if (t.extra == MINS) weave_scales(rows->min, t.group, p->min, row);
}

/* X(name, type, order, steps of an accumulator, offset of levels, extra, raise, columns of a scale, tiles) */
#define FORMATS(X)                                                                                                             \
    X(q4_1, Q4_1, HALVES, 2, 0, MINS, 0, 32, tiles_32_min)                                                                     \
    X(q5_0, Q5_0, HALVES, 2, 16, PLAIN, 0, 32, tiles_32)                                                                       \
    X(q5_1, Q5_1, HALVES, 2, 0, MINS, 0, 32, tiles_32_min)                                                                     \
    X(q6_0, Q6_0, HALVES, 2, 32, PLAIN, 0, 32, tiles_32)                                                                       \
    X(iq4_nl, IQ4_NL, HALVES, 2, 128, PLAIN, 0, 32, tiles_32)                                                                  \
    X(mxfp4, MXFP4, HALVES, 2, 128, PLAIN, 0, 32, tiles_32)                                                                    \
    X(q2_k, Q2_K, PLANES, 1, 0, MINS, 0, 16, tiles_16_min)                                                                     \
    X(q3_k, Q3_K, PLANES, 1, 4, PLAIN, 0, 16, tiles_16)                                                                        \
    X(iq4_xs, IQ4_XS, HALVES, 2, 128, PLAIN, 0, 32, tiles_32)                                                                  \
    X(iq2_k, IQ2_K, PLANES, 1, 128, PLAIN, 5, 16, tiles_16)                                                                    \
    X(iq3_k, IQ3_K, PLANES, 1, 128, PLAIN, 4, 16, tiles_16)                                                                    \
    X(iq4_k, IQ4_K, HALVES, 1, 128, PLAIN, 4, 16, tiles_16)                                                                    \
    X(iq5_k, IQ5_K, PAIRS, 1, 128, PLAIN, 2, 16, tiles_16)                                                                     \
    X(iq6_k, IQ6_K, PAIRS, 1, 128, PLAIN, 1, 16, tiles_16)                                                                     \
    X(iq2_ks, IQ2_KS, PLANES, 1, 128, PLAIN, 5, 32, tiles_32)                                                                  \
    X(iq2_kl, IQ2_KL, QUARTERS, 2, 128, PLAIN, 0, 32, tiles_32)                                                                \
    X(iq3_ks, IQ3_KS, PLANES, 1, 128, PLAIN, 4, 32, tiles_32)                                                                  \
    X(iq4_ks, IQ4_KS, HALVES, 2, 128, PLAIN, 4, 32, tiles_32)                                                                  \
    X(iq4_kss, IQ4_KSS, HALVES, 2, 128, PLAIN, 4, 32, tiles_32)                                                                \
    X(iq5_ks, IQ5_KS, PAIRS, 1, 128, PLAIN, 2, 32, tiles_32)                                                                   \
    X(iq2_xxs, IQ2_XXS, BY_32, 4, 128, SIGNS, 0, 32, tiles_32)                                                                 \
    X(iq2_xs, IQ2_XS, BY_32, 2, 128, SIGNS, 0, 16, tiles_16)                                                                   \
    X(iq2_s, IQ2_S, BY_32, 2, 128, SIGNS, 0, 16, tiles_16)                                                                     \
    X(iq3_xxs, IQ3_XXS, BY_16, 4, 128, SIGNS, 0, 32, tiles_32)                                                                 \
    X(iq3_s, IQ3_S, BY_16, 4, 128, SIGNS, 0, 32, tiles_32)                                                                     \
    X(iq1_s, IQ1_S, BY_32, 4, 128, PLAIN, 0, 32, tiles_32)                                                                     \
    X(iq1_m, IQ1_M, BY_32, 2, 128, PLAIN, 0, 16, tiles_16)

#define MATMUL(name, type, order, chained, offset, extra, raise, group, tiles)                                                 \
    static const struct layout layout_##name = {ORDER_##order, chained, offset, FOLD_D16, UNIT_##order};                       \
    static const struct traits traits_##name = {&layout_##name, extra, raise, group};                                          \
    static ALWAYS_INLINE void dot_##name(const uint8_t *at, const struct prepared *const p[], int n, __m512 sum[]) {           \
        struct opened o;                                                                                                       \
        open_##name(at, &o);                                                                                                   \
        dot_opened(traits_##name, &o, p, n, sum);                                                                              \
    }                                                                                                                          \
    static void open_rows_##name(const uint8_t *at, size_t stride, struct panel *p, int row) {                                 \
        struct rows rows;                                                                                                      \
        struct opened o = {.raised = 0};                                                                                       \
        for (int r = 0; r < HALF; r++) {                                                                                       \
            open_##name(at + (size_t)r * stride, &o);                                                                          \
            store_row(traits_##name, &o, &rows, r);                                                                            \
        }                                                                                                                      \
        weave(traits_##name, &rows, p, row);                                                                                   \
    }                                                                                                                          \
    static void matmul_##name(const struct matmul *m) {                                                                        \
        static const struct blocked_format many = {open_rows_##name, HALF,           gemm_##tiles##_avx512, TILE,              \
                                                   offset,           WEIGHTS_##type, BYTES_##type,          META_##type};      \
        const struct format few = {dot_##name, &layout_##name, WEIGHTS_##type, BYTES_##type, META_##type};                     \
        if (m->n > FEW)                                                                                                        \
            gemm_blocked(&many, m);                                                                                            \
        else                                                                                                                   \
            matvec(few, m);                                                                                                    \
    }

FORMATS(MATMUL)

void cpu_fill_formats_avx512(struct cpu_ops *ops) {
#define X(name, type, order, chained, offset, extra, raise, group, tiles) ops->types[TYPE_##type].matmul = matmul_##name;
    FORMATS(X)
#undef X
}
