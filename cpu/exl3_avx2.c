/* EXL3 on AVX2: a column of 16 weights at a time, one in each 16-bit lane. A byte shuffle gathers the 32 bits around each state,
 * shifts bring it to the lower half of a lane for one weight and to the upper half for the next. The product's halves are made
 * and rounded as in the AVX-512 variants. */
#include "cpu/exl3.h"
#include "cpu/matmul.h"
#include "cpu/vec_avx2.h"

enum { PARTS = 2, MOST = 2, COLUMNS = 2 };
#define VECTORS 3
#define AT_ONCE(n) 1

/* So that 16 bytes hold all that a half of the register needs, the lower one has inputs 0 - 3 and 8 - 11, the upper one the others.
 * `from`: where a half's 16 bytes begin, counted from 4 in front of the group; 11 * bits + 47 bits are needed at most, and 128
 * with 8 bits a weight. Index: column g or g + 8. */
struct decoder {
    __m256i even[2], odd[2];   /* shuffles */
    __m256i right[2], left[2]; /* shifts */
    size_t from[2][2];
    size_t bits;
};

/* Bytes of the 32 bits that begin with the 16-bit piece `piece`; pieces stand in pairs exchanged. */
static void gather_pieces(size_t piece, size_t from, uint8_t out[4]) {
    const size_t at[2] = {2 * ((piece + 1) ^ 1) - from, 2 * (piece ^ 1) - from};
    for (int i = 0; i < 4; i++) out[i] = at[i / 2] < 16 ? (uint8_t)(at[i / 2] + i % 2) : 0x80; /* else it is shifted out */
}

static void decoder_open(struct decoder *d, size_t bits) {
    d->bits = bits;
    for (unsigned half = 0; half < 2; half++) {
        uint8_t even[32], odd[32];
        uint32_t right[8], left[8];
        for (unsigned lane = 0; lane < 8; lane++) {
            const unsigned upper = lane / 4, k = 4 * upper + lane % 4 / 2 * 8 + lane % 2 * 2;
            const size_t first = (exl3_position(4 * upper, half) + 1) * bits + 16;
            const size_t a = (exl3_position(k, half) + 1) * bits + 16, b = (exl3_position(k + 1, half) + 1) * bits + 16;
            d->from[half][upper] = first / 32 * 4;
            gather_pieces(a / 16, d->from[half][upper], even + 4 * lane);
            gather_pieces(b / 16, d->from[half][upper], odd + 4 * lane);
            right[lane] = 16 - a % 16;
            left[lane] = b % 16;
        }
        d->even[half] = _mm256_loadu_si256((const __m256i *)even);
        d->odd[half] = _mm256_loadu_si256((const __m256i *)odd);
        d->right[half] = _mm256_loadu_si256((const __m256i *)right);
        d->left[half] = _mm256_loadu_si256((const __m256i *)left);
    }
}

/* The word in front of group 0 is the tile's last. */
static ALWAYS_INLINE __m128i load_half(const struct decoder *d, const uint8_t *tile, int g, size_t from) {
    const __m128i words = _mm_loadu_si128((const __m128i *)(tile + 4 * (size_t)g * d->bits + from - 4));
    if (g > 0 || from > 0) return words;
    int last;
    memcpy(&last, tile + 32 * d->bits - 4, sizeof last);
    return _mm_insert_epi32(words, last, 0);
}

static ALWAYS_INLINE __m256i column_states(const struct decoder *d, const uint8_t *tile, int g, int half) {
    const __m256i words = _mm256_set_m128i(load_half(d, tile, g, d->from[half][1]), load_half(d, tile, g, d->from[half][0]));
    const __m256i even = _mm256_srlv_epi32(_mm256_shuffle_epi8(words, d->even[half]), d->right[half]);
    const __m256i odd = _mm256_sllv_epi32(_mm256_shuffle_epi8(words, d->odd[half]), d->left[half]);
    return _mm256_blend_epi16(even, odd, 0xaa);
}

/* state * factor + addend in two registers: lower and upper 16 bits */
static ALWAYS_INLINE void scramble(__m256i state, uint32_t factor, uint32_t addend, __m256i *low, __m256i *high) {
    const __m256i f0 = _mm256_set1_epi16((short)factor), f1 = _mm256_set1_epi16((short)(factor >> 16));
    *low = _mm256_mullo_epi16(state, f0);
    *high = _mm256_add_epi16(_mm256_mulhi_epu16(state, f0), _mm256_mullo_epi16(state, f1));
    if (addend == 0) return;
    const __m256i a0 = _mm256_set1_epi16((short)addend), a1 = _mm256_set1_epi16((short)((addend >> 16) + 1));
    *low = _mm256_add_epi16(*low, a0);
    const __m256i no_carry = _mm256_cmpeq_epi16(_mm256_max_epu16(*low, a0), *low); /* -1, for the 1 that a1 has too many */
    *high = _mm256_add_epi16(_mm256_add_epi16(*high, a1), no_carry);
}

/* (x & KEEP) ^ FLIP: a binary16 of magnitude 0.125 to 2 */
static ALWAYS_INLINE __m256i half_of(__m256i x) {
    return _mm256_xor_si256(_mm256_and_si256(x, _mm256_set1_epi16((short)EXL3_KEEP)), _mm256_set1_epi16(EXL3_FLIP));
}

static ALWAYS_INLINE vf lower_floats(__m256i halves) { return _mm256_cvtph_ps(_mm256_castsi256_si128(halves)); }
static ALWAYS_INLINE vf upper_floats(__m256i halves) { return _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)); }

/* x rounded to the 11 bits of a binary16, ties to even; 2^-14 <= |x| < 2^15, or 0. 1.5 * 2^13 times the power of two in x has its
 * last bit where the result's is to be. */
static ALWAYS_INLINE vf round_to_half(vf x) {
    const __m256i power = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32((int)0xff800000));
    const vf large = _mm256_castsi256_ps(_mm256_add_epi32(power, _mm256_set1_epi32(13 << 23 | 1 << 22)));
    return _mm256_sub_ps(_mm256_add_ps(x, large), large);
}

/* 1024 + the sum of the product's four bytes times the scale, plus the offset */
static ALWAYS_INLINE void byte_sums(__m256i low, __m256i high, vf out[PARTS]) {
    const __m256i ones = _mm256_set1_epi8(1);
    const __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(low, ones), _mm256_maddubs_epi16(high, ones));
    const __m256i halves = _mm256_add_epi16(sum, _mm256_set1_epi16(0x6400)); /* 1024 + sum as a binary16 */
    const vf scale = vf_set1(f16_to_f32(EXL3_MUL1_SCALE)), offset = vf_set1(f16_to_f32(EXL3_MUL1_OFFSET));
    out[0] = _mm256_cvtph_ps(_mm256_cvtps_ph(vf_fma(lower_floats(halves), scale, offset), 0)); /* may be close to 0 */
    out[1] = _mm256_cvtph_ps(_mm256_cvtps_ph(vf_fma(upper_floats(halves), scale, offset), 0));
}

static ALWAYS_INLINE void decode_group(const struct decoder *d, const uint8_t *tile, int g, enum exl3_codebook book, vf out[2][PARTS]) {
    for (int half = 0; half < 2; half++) {
        const __m256i state = column_states(d, tile, g, half);
        __m256i low, high;
        switch (book) {
        case EXL3_3INST: scramble(state, EXL3_3INST_FACTOR, EXL3_3INST_ADDEND, &low, &high); break;
        case EXL3_MCG: scramble(state, EXL3_MCG_FACTOR, 0, &low, &high); break;
        default:
            scramble(state, EXL3_MUL1_FACTOR, 0, &low, &high);
            byte_sums(low, high, out[half]);
            continue;
        }
        low = half_of(low);
        high = half_of(high);
        out[half][0] = round_to_half(lower_floats(low) + lower_floats(high));
        out[half][1] = round_to_half(upper_floats(low) + upper_floats(high));
    }
}

/* Of each 16 inputs: 4 - 7 and 8 - 11 exchanged. */
static ALWAYS_INLINE void order_inputs(vf *x, int registers) {
    for (int r = 0; r < registers; r += 2) {
        const vf a = x[r], b = x[r + 1];
        x[r] = _mm256_permute2f128_ps(a, b, 0x20);
        x[r + 1] = _mm256_permute2f128_ps(a, b, 0x31);
    }
}

static ALWAYS_INLINE vf vf_flip(vf x, int stride) {
    switch (stride) {
    case 1: return _mm256_permute_ps(x, 0xb1);
    case 2: return _mm256_permute_ps(x, 0x4e);
    default: return _mm256_permute2f128_ps(x, x, 1);
    }
}

/* The sums of four rows in each half of the register. */
static ALWAYS_INLINE vf sum_four(const float (*rows)[16]) {
    const vf a = vf_load(rows[0]) + vf_load(rows[0] + LANES), b = vf_load(rows[1]) + vf_load(rows[1] + LANES);
    const vf c = vf_load(rows[2]) + vf_load(rows[2] + LANES), d = vf_load(rows[3]) + vf_load(rows[3] + LANES);
    const __m256d ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b));
    const __m256d cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d) + _mm256_unpackhi_ps(c, d));
    return _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)) + _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
}

static void sum_rows(const float (*rows)[16], float *out) {
    for (int i = 0; i < 16; i += 8) {
        const vf a = sum_four(rows + i), b = sum_four(rows + i + 4);
        vf_store(out + i, _mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31));
    }
}

#include "cpu/exl3_vec.h"

void cpu_fill_exl3_avx2(struct cpu_ops *ops) { fill_exl3(ops); }
