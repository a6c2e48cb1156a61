/* Reference kernels of the codebook formats IQ1, IQ2 and IQ3: a code is eight or four magnitudes at once, beside their signs.
 * Each format is one function that opens a block (cpu/quants_ref.h). Owns nothing; layouts: core/tensor.h. */
#include <string.h>

#include "core/codebooks.h"
#include "cpu/quants_ref.h"

/* The first n lanes of a grid entry; bit j of `signs`: lane j is negative. */
static void put_lanes(uint64_t lanes, int signs, int n, int8_t *level) {
    for (int j = 0; j < n; j++) {
        const int magnitude = (int)(lanes >> 8 * j & 255);
        level[j] = (int8_t)(signs >> j & 1 ? -magnitude : magnitude);
    }
}

static uint32_t word_of(const uint8_t bytes[4]) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* Sign byte of unit u of four, from the word that ends a group of IQ2_XXS and IQ3_XXS; its top bits are the group's scale. */
static int signs_of(uint32_t word, int u) { return codebook_signs[word >> 7 * u & 127]; }

static void open_iq2_xxs(const void *block, struct opened *o) {
    struct block_iq2_xxs b;
    memcpy(&b, block, sizeof b);
    for (int g = 0; g < 8; g++) {
        const uint32_t word = word_of(b.qs[g] + 4);
        for (int u = 0; u < 4; u++) put_lanes(codebook_iq2xxs[b.qs[g][u]], signs_of(word, u), 8, o->level + 32 * g + 8 * u);
        set_group(o, g, f16_to_f32(b.d) * ((float)(word >> 28) + 0.5f) / 4);
    }
}

static void open_iq2_xs(const void *block, struct opened *o) {
    struct block_iq2_xs b;
    memcpy(&b, block, sizeof b);
    for (int k = 0; k < 32; k++)
        put_lanes(codebook_iq2xs[b.qs[k] & 511], codebook_signs[b.qs[k] >> 9], 8, o->level + 8 * k);
    for (int t = 0; t < 16; t++) o->scale[t] = f16_to_f32(b.d) * ((float)nibble(b.scales, t) + 0.5f) / 4;
}

static void open_iq2_s(const void *block, struct opened *o) {
    struct block_iq2_s b;
    memcpy(&b, block, sizeof b);
    for (int k = 0; k < 32; k++) {
        const int high = b.qh[k / 4] >> 2 * (k % 4) & 3;
        put_lanes(codebook_iq2s[b.qs[k] + 256 * high], b.signs[k], 8, o->level + 8 * k);
    }
    for (int t = 0; t < 16; t++) o->scale[t] = f16_to_f32(b.d) * ((float)nibble(b.scales, t) + 0.5f) / 4;
}

static void open_iq3_xxs(const void *block, struct opened *o) {
    struct block_iq3_xxs b;
    memcpy(&b, block, sizeof b);
    for (int m = 0; m < 64; m++) {
        const int signs = signs_of(word_of(b.tail[m / 8]), m / 2 % 4);
        put_lanes(codebook_iq3xxs[b.qs[m]], signs >> 4 * (m % 2), 4, o->level + 4 * m);
    }
    for (int g = 0; g < 8; g++) set_group(o, g, f16_to_f32(b.d) * ((float)(word_of(b.tail[g]) >> 28) + 0.5f) / 2);
}

static void open_iq3_s(const void *block, struct opened *o) {
    struct block_iq3_s b;
    memcpy(&b, block, sizeof b);
    for (int m = 0; m < 64; m++) {
        const int high = b.qh[m / 8] >> m % 8 & 1;
        put_lanes(codebook_iq3s[b.qs[m] + 256 * high], b.signs[m / 2] >> 4 * (m % 2), 4, o->level + 4 * m);
    }
    for (int g = 0; g < 8; g++) set_group(o, g, f16_to_f32(b.d) * (float)(2 * nibble(b.scales, g) + 1));
}

/* Levels in eighths: -1, 0 or 1, moved by one eighth. */
static void put_ternary(int index, bool down, int8_t *level) {
    for (int j = 0; j < 8; j++) level[j] = (int8_t)(8 * (int8_t)(codebook_iq1s[index] >> 8 * j & 255) + (down ? -1 : 1));
}

static void open_iq1_s(const void *block, struct opened *o) {
    struct block_iq1_s b;
    memcpy(&b, block, sizeof b);
    for (int k = 0; k < 32; k++) {
        const int word = b.qh[k / 4];
        put_ternary(b.qs[k] + 256 * (word >> 3 * (k % 4) & 7), word >> 15, o->level + 8 * k);
    }
    for (int g = 0; g < 8; g++) set_group(o, g, f16_to_f32(b.d) * (float)(2 * (b.qh[g] >> 12 & 7) + 1) / 8);
}

static void open_iq1_m(const void *block, struct opened *o) {
    struct block_iq1_m b;
    memcpy(&b, block, sizeof b);
    unsigned d = 0;
    for (int r = 0; r < 4; r++) d |= (unsigned)b.scales[r] >> 12 << 4 * r;
    for (int k = 0; k < 32; k++) {
        const int high = nibble(b.qh, k);
        put_ternary(b.qs[k] + 256 * (high & 7), high >> 3, o->level + 8 * k);
    }
    for (int t = 0; t < 16; t++)
        o->scale[t] = f16_to_f32((uint16_t)d) * (float)(2 * (b.scales[t / 4] >> 3 * (t % 4) & 7) + 1) / 8;
}

QUANTIZED(iq2_xxs, QK_K, 0)
QUANTIZED(iq2_xs, QK_K, 0)
QUANTIZED(iq2_s, QK_K, 0)
QUANTIZED(iq3_xxs, QK_K, 0)
QUANTIZED(iq3_s, QK_K, 0)
QUANTIZED(iq1_s, QK_K, 0)
QUANTIZED(iq1_m, QK_K, 0)

void cpu_fill_grids_ref(struct cpu_ops *ops) {
    SET_TYPE(IQ2_XXS, iq2_xxs);
    SET_TYPE(IQ2_XS, iq2_xs);
    SET_TYPE(IQ2_S, iq2_s);
    SET_TYPE(IQ3_XXS, iq3_xxs);
    SET_TYPE(IQ3_S, iq3_s);
    SET_TYPE(IQ1_S, iq1_s);
    SET_TYPE(IQ1_M, iq1_m);
}
