/* Reference kernels of the formats whose codes are places in a table of levels: IQ4_NL, IQ4_XS, MXFP4, and those of ik_llama.cpp.
 * Each format is one function that opens a block (cpu/quants_ref.h). Owns nothing; layouts: core/tensor.h. */
#include <math.h>
#include <string.h>

#include "core/codebooks.h"
#include "cpu/quants_ref.h"

static void open_iq4_nl(const void *block, struct opened *o) {
    struct block_iq4_nl b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < 32; i++) o->level[i] = codebook_v4[0][code_in_halves(b.qs, i)];
    set_group(o, 0, f16_to_f32(b.d));
}

static void open_iq4_xs(const void *block, struct opened *o) {
    struct block_iq4_xs b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++) o->level[i] = codebook_v4[0][code_in_halves(b.qs, i)];
    for (int g = 0; g < 8; g++)
        set_group(o, g, f16_to_f32(b.d) * (float)(nibble(b.scales_l, g) + 16 * (b.scales_h >> 2 * g & 3) - 32));
}

static void open_mxfp4(const void *block, struct opened *o) {
    struct block_mxfp4 b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < 32; i++) o->level[i] = codebook_mxfp4[code_in_halves(b.qs, i)];
    set_group(o, 0, ldexpf(1, b.e - 128));
}

/* ---- a binary16 scale for 256 weights ---------------------------------------------------------------------------- */

static void open_iq2_k(const void *block, struct opened *o) {
    struct block_iq2_k b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++) o->level[i] = codebook_v2[b.extra >> i / 16 & 1][code_in_planes(b.qs, i)];
    for (int t = 0; t < 16; t++) o->scale[t] = f16_to_f32(b.d) * (float)(nibble(b.scales, t) - 8);
}

static void open_iq3_k(const void *block, struct opened *o) {
    struct block_iq3_k b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++)
        o->level[i] = codebook_v3[b.extra >> i / 16 & 1][code_in_planes(b.qs, i) + 4 * high_bit(b.qh, i)];
    for (int t = 0; t < 16; t++) {
        const int scale = 2 * nibble(b.scales_l, t) + 1;
        o->scale[t] = f16_to_f32(b.d) * (float)(b.scales_h >> t & 1 ? -scale : scale);
    }
}

/* The 6-bit scales of IQ4_K and IQ5_K. */
static void open_scales_6(uint16_t d, const uint8_t low[8], const uint8_t high[4], struct opened *o) {
    for (int t = 0; t < 16; t++)
        o->scale[t] = f16_to_f32(d) * (float)(nibble(low, t) + 16 * (high[t / 4] >> 2 * (t % 4) & 3) - 32);
}

static void open_iq4_k(const void *block, struct opened *o) {
    struct block_iq4_k b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++) o->level[i] = codebook_v4[b.extra >> i / 16 & 1][code_in_halves(b.qs, i)];
    open_scales_6(b.d, b.scales_l, b.scales_h, o);
}

static void open_iq5_k(const void *block, struct opened *o) {
    struct block_iq5_k b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++)
        o->level[i] = codebook_v5[b.extra >> i / 16 & 1][code_in_pairs(b.qs, i) + 16 * high_bit(b.qh, i)];
    open_scales_6(b.d, b.scales_l, b.scales_h, o);
}

static void open_iq6_k(const void *block, struct opened *o) {
    struct block_iq6_k b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++)
        o->level[i] = codebook_v6[b.extra >> i / 16 & 1][code_in_pairs(b.qs, i) + 16 * code_in_planes(b.qh, i)];
    for (int t = 0; t < 16; t++) o->scale[t] = f16_to_f32(b.d) * (float)b.scales[t];
}

/* ---- one scale a row --------------------------------------------------------------------------------------------- */

/* row_scale * scale is rounded before it meets a level: with a binary32 row scale the order matters. */

/* The scale bytes of IQ4_KS, IQ4_KSS and IQ5_KS: an odd number -127 .. 127, and which table. */
static void open_scale_bytes(const uint8_t scales[8], struct opened *o) {
    for (int g = 0; g < 8; g++) set_group(o, g, o->row_scale * (float)((scales[g] & 254) - 127));
}

static void open_iq4_ks(const void *block, struct opened *o) {
    struct block_iq4_ks b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++) o->level[i] = codebook_v4[b.scales[i / 32] & 1][code_in_halves(b.qs, i)];
    open_scale_bytes(b.scales, o);
}

static void open_iq4_kss(const void *block, struct opened *o) {
    struct block_iq4_kss b;
    struct block_iq4_ks plain = {0};
    memcpy(&b, block, sizeof b);
    for (int n = 0; n < 64; n++) {
        const unsigned code = b.qs[n] & 0xfffeu, word = code ^ code >> 1;
        plain.scales[n / 8] |= (uint8_t)((b.qs[n] & 1) << n % 8);
        plain.qs[2 * n] = (uint8_t)word;
        plain.qs[2 * n + 1] = (uint8_t)(word >> 8);
    }
    open_iq4_ks(&plain, o);
}

static void open_iq5_ks(const void *block, struct opened *o) {
    struct block_iq5_ks b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++)
        o->level[i] = codebook_v5[b.scales[i / 32] & 1][code_in_pairs(b.qs, i) + 16 * high_bit(b.qh, i)];
    open_scale_bytes(b.scales, o);
}

static void open_iq2_ks(const void *block, struct opened *o) {
    struct block_iq2_ks b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++) o->level[i] = codebook_v2[b.extra >> i / 32 & 1][code_in_planes(b.qs, i)];
    for (int g = 0; g < 8; g++)
        set_group(o, g, o->row_scale * (float)(nibble(b.scales, g) + 16 * (b.extra >> (8 + g) & 1) - 16));
}

static void open_iq3_ks(const void *block, struct opened *o) {
    struct block_iq3_ks b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++)
        o->level[i] = codebook_v3[b.extra >> (8 + i / 32) & 1][code_in_planes(b.qs, i) + 4 * high_bit(b.qh, i)];
    for (int g = 0; g < 8; g++) {
        const int low = b.scales[g % 4] >> 4 * (g / 4) & 15;
        set_group(o, g, o->row_scale * (float)(low + 16 * (b.extra >> g & 1) - 16));
    }
}

static void open_iq2_kl(const void *block, struct opened *o) {
    struct block_iq2_kl b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++) {
        const int g = i / 32, r = i % 32 / 2;
        const int code = (b.qs[16 * (g / 2) + r] >> 4 * (g % 2) & 15) + 16 * (b.qh[r] >> g & 1);
        o->level[i] = codebook_kl[code][i % 2];
    }
    for (int g = 0; g < 8; g++) {
        const int low = b.scales_l[g % 4] >> 4 * (g / 4) & 15;
        set_group(o, g, o->row_scale * (float)(low + 16 * (b.scales_h >> 2 * g & 3) - 32));
    }
}

QUANTIZED(iq4_nl, 32, 0)
QUANTIZED(iq4_xs, QK_K, 0)
QUANTIZED(mxfp4, 32, 0)
QUANTIZED(iq2_k, QK_K, 0)
QUANTIZED(iq3_k, QK_K, 0)
QUANTIZED(iq4_k, QK_K, 0)
QUANTIZED(iq5_k, QK_K, 0)
QUANTIZED(iq6_k, QK_K, 0)
QUANTIZED(iq4_ks, QK_K, 4)
QUANTIZED(iq4_kss, QK_K, 4)
QUANTIZED(iq5_ks, QK_K, 4)
QUANTIZED(iq2_ks, QK_K, 2)
QUANTIZED(iq3_ks, QK_K, 2)
QUANTIZED(iq2_kl, QK_K, 2)

void cpu_fill_levels_ref(struct cpu_ops *ops) {
    SET_TYPE(IQ4_NL, iq4_nl);
    SET_TYPE(IQ4_XS, iq4_xs);
    SET_TYPE(MXFP4, mxfp4);
    SET_TYPE(IQ2_K, iq2_k);
    SET_TYPE(IQ3_K, iq3_k);
    SET_TYPE(IQ4_K, iq4_k);
    SET_TYPE(IQ5_K, iq5_k);
    SET_TYPE(IQ6_K, iq6_k);
    SET_TYPE(IQ4_KS, iq4_ks);
    SET_TYPE(IQ4_KSS, iq4_kss);
    SET_TYPE(IQ5_KS, iq5_ks);
    SET_TYPE(IQ2_KS, iq2_ks);
    SET_TYPE(IQ3_KS, iq3_ks);
    SET_TYPE(IQ2_KL, iq2_kl);
}
