/* Each type: levels from random bits, scales drawn around deviation / (deviation of the levels), and whatever makes the mean
 * zero: a minimum that cancels the levels' mean exactly, signs among the levels, or a random sign of the scale. */
#include "tests/support/synth_blocks.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- random numbers ------------------------------------------------------------------------------------------------------ */

/* splitmix64 (Steele, Lea, Flood 2014): a counter through a mixing function. */
uint64_t synth_random_bits(struct synth_random *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

struct synth_random synth_random_of(uint64_t seed, struct span name) {
    struct synth_random r = {seed};
    for (size_t i = 0; i < name.len; i++) r.state = synth_random_bits(&r) ^ (uint8_t)name.ptr[i];
    return r;
}

/* The sum of four uniform numbers; each of 65536 steps has variance 1/12 of the squared range. */
float synth_random_normal(struct synth_random *r) {
    const uint64_t b = synth_random_bits(r);
    const int sum = (int)(b & 0xffff) + (int)(b >> 16 & 0xffff) + (int)(b >> 32 & 0xffff) + (int)(b >> 48);
    return (float)(sum - 2 * 0xffff) * (1.7320508f / 65536);
}

static void random_bytes(struct synth_random *r, void *out, size_t n) {
    uint8_t *p = out;
    for (; n >= 8; n -= 8, p += 8) {
        const uint64_t b = synth_random_bits(r);
        memcpy(p, &b, 8);
    }
    if (n) {
        const uint64_t b = synth_random_bits(r);
        memcpy(p, &b, n);
    }
}

/* ---- scales -----------------------------------------------------------------------------------------------------------------
 */

/* x to `bits` significant bits and a multiple of 2^-23, at least one: then x * (2^n - 1) / 2 is a binary16 number as well,
 * for n + bits <= 12. */
static float short_float(float x, int bits) {
    int exponent;
    frexpf(x, &exponent);
    const float unit = ldexpf(1, exponent - bits > -23 ? exponent - bits : -23);
    return fmaxf(unit, rintf(x / unit) * unit);
}

enum { CHOICES = 4 }; /* of a block's scale */

struct scales {
    uint16_t d[CHOICES], dmin[CHOICES];
};

static const float spread[CHOICES] = {0.8f, 0.95f, 1.05f, 1.164f}; /* root mean square 1 */

/* Around `d`, with a root mean square of d. dmin = d * levels_mean. */
static struct scales scales_around(float d, int bits, float levels_mean) {
    struct scales s;
    for (int i = 0; i < CHOICES; i++) {
        const float one = short_float(d * spread[i], bits);
        s.d[i] = f32_to_f16(one);
        s.dmin[i] = f32_to_f16(one * levels_mean);
    }
    return s;
}

/* Eight 6-bit (scale, minimum) pairs: scales 32 to 63, minima within one of them, so that a group's mean is small but not 0. */
static void pack_scales_k(uint64_t random, uint8_t packed[12]) {
    uint8_t scale[8], min[8];
    for (int g = 0; g < 8; g++, random >>= 8) {
        scale[g] = (uint8_t)(32 + (random & 31));
        const int shift = (int)(random >> 5 & 1) - (int)(random >> 6 & 1), moved = scale[g] + shift;
        min[g] = (uint8_t)(moved > 63 ? 63 : moved);
    }
    for (int g = 0; g < 4; g++) {
        packed[g] = (uint8_t)(scale[g] | (scale[g + 4] >> 4) << 6);
        packed[g + 4] = (uint8_t)(min[g] | (min[g + 4] >> 4) << 6);
        packed[g + 8] = (uint8_t)((scale[g + 4] & 15) | (min[g + 4] & 15) << 4);
    }
}

/* Root mean square of the scales above, and the deviations of uniform levels 0..n-1: sqrt((n^2 - 1) / 12). */
#define SCALE_K_RMS 48.39f
#define LEVELS_4 1.1180f
#define LEVELS_16 4.6098f
#define LEVELS_32 9.2331f
#define LEVELS_64 18.4730f
#define LEVELS_256 73.9008f

/* ---- blocks
 * ------------------------------------------------------------------------------------------------------------------- */

static void fill_q4_0(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    const struct scales s = scales_around(deviation / LEVELS_16, 11, 0);
    for (; n; n--, out += sizeof(struct block_q4_0)) {
        struct block_q4_0 b;
        const uint64_t choice = synth_random_bits(r);
        b.d = s.d[choice % CHOICES] ^ (uint16_t)(choice & 0x8000); /* either sign: the levels' mean is -1/2 */
        random_bytes(r, b.qs, sizeof b.qs);
        memcpy(out, &b, sizeof b);
    }
}

static void fill_q8_0(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    const struct scales s = scales_around(deviation / LEVELS_256, 11, 0);
    for (; n; n--, out += sizeof(struct block_q8_0)) {
        struct block_q8_0 b;
        const uint64_t choice = synth_random_bits(r);
        b.d = s.d[choice % CHOICES] ^ (uint16_t)(choice & 0x8000);
        random_bytes(r, b.qs, sizeof b.qs);
        memcpy(out, &b, sizeof b);
    }
}

static void fill_q4_1(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    const struct scales s = scales_around(deviation / LEVELS_16, 7, 7.5f);
    for (; n; n--, out += sizeof(struct block_q4_1)) {
        struct block_q4_1 b;
        random_bytes(r, &b, sizeof b);
        const uint64_t choice = synth_random_bits(r) % CHOICES;
        b.d = s.d[choice];
        b.m = s.dmin[choice] ^ 0x8000;
        memcpy(out, &b, sizeof b);
    }
}

static void fill_q5_1(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    const struct scales s = scales_around(deviation / LEVELS_32, 6, 15.5f);
    for (; n; n--, out += sizeof(struct block_q5_1)) {
        struct block_q5_1 b;
        random_bytes(r, &b, sizeof b);
        const uint64_t choice = synth_random_bits(r) % CHOICES;
        b.d = s.d[choice];
        b.m = s.dmin[choice] ^ 0x8000;
        memcpy(out, &b, sizeof b);
    }
}

/* A scale is a power of two: the two around what is wanted, in the shares that give its square. */
static void fill_mxfp4(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    int exponent;
    const float over = 2 * frexpf(deviation / 5.8524f, &exponent); /* deviation of the levels; 1 <= over < 2 */
    const uint64_t larger = (uint64_t)((over * over - 1) / 3 * 65536);
    for (; n; n--, out += sizeof(struct block_mxfp4)) {
        struct block_mxfp4 b;
        random_bytes(r, &b, sizeof b);
        b.e = (uint8_t)(128 + exponent - 1 + ((synth_random_bits(r) & 0xffff) < larger));
        memcpy(out, &b, sizeof b);
    }
}

/* Scales 8 to 15, minima within one of them. */
static void fill_q2_k(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    const struct scales s = scales_around(deviation / (LEVELS_4 * 11.726f), 9, 1.5f);
    for (; n; n--, out += sizeof(struct block_q2_k)) {
        struct block_q2_k b;
        random_bytes(r, &b, sizeof b);
        for (int t = 0; t < 16; t++) {
            const int scale = 8 + (b.scales[t] & 7), min = scale + (b.scales[t] >> 6 & 1) - (b.scales[t] >> 7);
            b.scales[t] = (uint8_t)(scale | (min > 15 ? 15 : min) << 4);
        }
        const uint64_t choice = synth_random_bits(r) % CHOICES;
        b.d = s.d[choice];
        b.dmin = s.dmin[choice];
        memcpy(out, &b, sizeof b);
    }
}

static void fill_q4_k(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    const struct scales s = scales_around(deviation / (LEVELS_16 * SCALE_K_RMS), 7, 7.5f);
    for (; n; n--, out += sizeof(struct block_q4_k)) {
        struct block_q4_k b;
        const uint64_t choice = synth_random_bits(r) % CHOICES;
        b.d = s.d[choice];
        b.dmin = s.dmin[choice];
        pack_scales_k(synth_random_bits(r), b.scales);
        random_bytes(r, b.qs, sizeof b.qs);
        memcpy(out, &b, sizeof b);
    }
}

static void fill_q5_k(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    const struct scales s = scales_around(deviation / (LEVELS_32 * SCALE_K_RMS), 6, 15.5f);
    for (; n; n--, out += sizeof(struct block_q5_k)) {
        struct block_q5_k b;
        const uint64_t choice = synth_random_bits(r) % CHOICES;
        b.d = s.d[choice];
        b.dmin = s.dmin[choice];
        pack_scales_k(synth_random_bits(r), b.scales);
        random_bytes(r, b.qh, sizeof b.qh);
        random_bytes(r, b.qs, sizeof b.qs);
        memcpy(out, &b, sizeof b);
    }
}

static void fill_q6_k(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    const struct scales s = scales_around(deviation / (LEVELS_64 * 97.27f), 11, 0); /* scales 64 to 127, either sign */
    for (; n; n--, out += sizeof(struct block_q6_k)) {
        struct block_q6_k b;
        random_bytes(r, b.ql, sizeof b.ql);
        random_bytes(r, b.qh, sizeof b.qh);
        random_bytes(r, b.scales, sizeof b.scales);
        for (int t = 0; t < 16; t++) {
            const int size = 64 + (b.scales[t] & 63);
            b.scales[t] = (int8_t)(b.scales[t] < 0 ? -size : size);
        }
        b.d = s.d[synth_random_bits(r) % CHOICES];
        memcpy(out, &b, sizeof b);
    }
}

static void fill_f32(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    for (; n; n--, out += sizeof(float)) {
        const float x = synth_random_normal(r) * deviation;
        memcpy(out, &x, sizeof x);
    }
}

static void fill_f16(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    for (; n; n--, out += sizeof(uint16_t)) {
        const uint16_t h = f32_to_f16(synth_random_normal(r) * deviation);
        memcpy(out, &h, sizeof h);
    }
}

static void fill_bf16(struct synth_random *r, float deviation, uint8_t *out, uint64_t n) {
    for (; n; n--, out += sizeof(uint16_t)) {
        const float x = synth_random_normal(r) * deviation;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        const uint16_t h = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* nearest even; x is never near overflow */
        memcpy(out, &h, sizeof h);
    }
}

typedef void fill_function(struct synth_random *r, float deviation, uint8_t *out, uint64_t n_blocks);

static fill_function *const fills[TYPE_COUNT] = {
    [TYPE_F32] = fill_f32,   [TYPE_F16] = fill_f16,   [TYPE_BF16] = fill_bf16, [TYPE_Q4_0] = fill_q4_0,
    [TYPE_Q8_0] = fill_q8_0, [TYPE_Q4_1] = fill_q4_1, [TYPE_Q5_1] = fill_q5_1, [TYPE_MXFP4] = fill_mxfp4,
    [TYPE_Q2_K] = fill_q2_k, [TYPE_Q4_K] = fill_q4_k, [TYPE_Q5_K] = fill_q5_k, [TYPE_Q6_K] = fill_q6_k,
};

/* ---- types of which every bit but the scale's is random
 * --------------------------------------------------------------------------------- */

enum { ELSEWHERE = -1 };

/* `deviation`: root mean square of the weights whose bits are uniformly random, with the scale 1: that of the group scales times
 * that of the levels. */
static const struct {
    float deviation;
    int scale; /* place of the binary16 scale in a block */
} formats[TYPE_COUNT] = {
    [TYPE_Q5_0] = {9.2466f, 0},
    [TYPE_Q6_0] = {18.480f, 0},
    [TYPE_Q3_K] = {43.339f, 108},
    [TYPE_IQ2_XXS] = {53.362f, 0},
    [TYPE_IQ2_XS] = {55.900f, 0},
    [TYPE_IQ2_S] = {56.392f, 0},
    [TYPE_IQ3_XXS] = {142.41f, 0},
    [TYPE_IQ3_S] = {140.24f, 0},
    [TYPE_IQ1_S] = {7.1995f, 0},
    [TYPE_IQ1_M] = {7.1995f, ELSEWHERE},
    [TYPE_IQ4_NL] = {67.439f, 0},
    [TYPE_IQ4_XS] = {1246.3f, 0},
    [TYPE_IQ2_K] = {84.868f, 0},
    [TYPE_IQ3_K] = {627.48f, 0},
    [TYPE_IQ4_K] = {1244.1f, 0},
    [TYPE_IQ5_K] = {1223.9f, 0},
    [TYPE_IQ6_K] = {4785.4f, 0},
    [TYPE_IQ4_KS] = {4975.1f, ELSEWHERE},
    [TYPE_IQ4_KSS] = {4975.1f, ELSEWHERE},
    [TYPE_IQ5_KS] = {4894.2f, ELSEWHERE},
    [TYPE_IQ2_KS] = {169.24f, ELSEWHERE},
    [TYPE_IQ3_KS] = {314.20f, ELSEWHERE},
    [TYPE_IQ2_KL] = {543.30f, ELSEWHERE},
};

/* One of the choices around `wanted`, with either sign. */
static float random_scale(struct synth_random *r, float wanted) {
    const uint64_t choice = synth_random_bits(r);
    return (choice & 0x8000 ? -spread[choice % CHOICES] : spread[choice % CHOICES]) * wanted;
}

static void put_block_scale(enum tensor_type type, uint8_t *block, float scale) {
    const uint16_t h = f32_to_f16(scale);
    if (type != TYPE_IQ1_M) {
        memcpy(block + formats[type].scale, &h, sizeof h);
        return;
    }
    struct block_iq1_m b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < 4; i++) b.scales[i] = (uint16_t)((b.scales[i] & 0xfff) | (h >> 4 * i & 15) << 12);
    memcpy(block, &b, sizeof b);
}

static void fill_row(enum tensor_type type, struct synth_random *r, float deviation, uint8_t *row, uint64_t row_bytes) {
    const struct tensor_type_info *info = tensor_type_info(type);
    const float wanted = deviation / formats[type].deviation;
    random_bytes(r, row, row_bytes);
    if (info->row_meta_bytes) {
        const float scale = random_scale(r, wanted);
        const uint16_t h = f32_to_f16(scale);
        memcpy(row, info->row_meta_bytes == sizeof h ? (const void *)&h : &scale, info->row_meta_bytes);
    } else
        for (uint64_t at = 0; at < row_bytes; at += info->block_bytes) put_block_scale(type, row + at, random_scale(r, wanted));
}

bool synth_rows_known(enum tensor_type type) { return fills[type] || formats[type].deviation > 0; }

void synth_rows_fill(enum tensor_type type, struct synth_random *r, float deviation, uint64_t k, void *out, uint64_t rows) {
    uint64_t row_bytes = 0;
    const bool whole = tensor_row_bytes(type, k, &row_bytes);
    assert(whole && synth_rows_known(type));
    (void)whole;
    if (fills[type])
        fills[type](r, deviation, out, rows * (row_bytes / tensor_type_info(type)->block_bytes));
    else
        for (uint64_t i = 0; i < rows; i++) fill_row(type, r, deviation, (uint8_t *)out + i * row_bytes, row_bytes);
}
