/* A row of the embedding table, in the FILE's layout, from mapped host memory: a warp fetches 256 weights in whole words (every
 * byte over PCIe once, side by side) into shared memory and opens them there. Blocks are 2-byte aligned and read by bytes. */
#ifndef COLDSTREAM_EMBED_CUH
#define COLDSTREAM_EMBED_CUH

#include "gpu/network.h"

enum { EMBED_WEIGHTS = 256, EMBED_BYTES = EMBED_WEIGHTS * 4 /* of a warp's shared memory */ };

static __device__ __forceinline__ float embed_half(const uint8_t *p) {
    return __half2float(__ushort_as_half((unsigned short)(p[0] | p[1] << 8)));
}

/* Scale and minimum of 32-group g from the twelve packed bytes of Q4_K and Q5_K. */
static __device__ __forceinline__ void embed_scale_k(const uint8_t *s, uint32_t g, float *scale, float *min) {
    const uint32_t a = g < 4 ? s[g] & 63 : (s[g + 4] & 15) + 16 * (s[g - 4] >> 6);
    const uint32_t b = g < 4 ? s[g + 4] & 63 : (s[g + 4] >> 4) + 16 * (s[g] >> 6);
    *scale = (float)a, *min = (float)b;
}

/* Weight i of a block of Q4_K; Q5_K with its fifth bits at `high`. */
static __device__ __forceinline__ float embed_k(const uint8_t *block, const uint8_t *high, const uint8_t *low, uint32_t i) {
    const uint32_t g = i / 32, l = i % 32;
    float scale, min;
    embed_scale_k(block + 4, g, &scale, &min);
    uint32_t level = low[32 * (g / 2) + l] >> 4 * (g & 1) & 15;
    if (high) level += 16 * (high[l] >> g & 1);
    return fmaf(embed_half(block) * scale, (float)level, -(embed_half(block + 2) * min));
}

static __device__ __forceinline__ float embed_q6_k(const uint8_t *block, uint32_t i) {
    const uint32_t half = i / 128, plane = i % 128 / 32, l = i % 32;
    const uint32_t low = block[64 * half + 32 * (plane & 1) + l] >> 4 * (plane >> 1) & 15,
                   high = block[128 + 32 * half + l] >> 2 * plane & 3;
    return embed_half(block + 208) * (float)(int8_t)block[192 + i / 16] * (float)((int)(low + 16 * high) - 32);
}

/* ---- types of codes.cuh: the formulas of core/tensor.h, for weight i of a block ------------------------------ */

static __device__ __forceinline__ float embed_d(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
static __device__ __forceinline__ int embed_nibble(const uint8_t *a, uint32_t n) { return a[n / 2] >> 4 * (n % 2) & 15; }
static __device__ __forceinline__ int embed_crumb(const uint8_t *a, uint32_t n) { return a[n / 4] >> 2 * (n % 4) & 3; }
static __device__ __forceinline__ int embed_planes(const uint8_t *qs, uint32_t i) {
    return qs[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
}
static __device__ __forceinline__ int embed_halves(const uint8_t *qs, uint32_t i) {
    return qs[16 * (i / 32) + i % 16] >> 4 * (i % 32 / 16) & 15;
}
static __device__ __forceinline__ int embed_pairs(const uint8_t *qs, uint32_t i) {
    return qs[32 * (i / 64) + i % 32] >> 4 * (i / 32 % 2) & 15;
}
static __device__ __forceinline__ int embed_bit(const uint8_t *qh, uint32_t i) { return qh[i % 32] >> i / 32 & 1; }

/* Lane i % 8 of a selector of a grid; negative when bit i % 8 of `signs` is set. */
static __device__ __forceinline__ float embed_lane(uint32_t selector, uint32_t signs, uint32_t i) {
    const uint32_t code = selector >> 4 * (i % 8) & 15;
    const float magnitude = code == 0 ? 8.0f : code == 1 ? 25.0f : 43.0f;
    return signs >> i % 8 & 1 ? -magnitude : magnitude;
}
static __device__ __forceinline__ uint32_t embed_signs(uint32_t code) { return code | (__popc(code) & 1) << 7; }
static __device__ __forceinline__ uint32_t embed_word(const uint8_t *p) {
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static __device__ __forceinline__ float embed_blocks_32(enum tensor_type type, const uint8_t *p, uint32_t i,
                                                        const int8_t *levels) {
    const uint32_t n = i / 32;
    i %= 32;
    switch (type) {
        case TYPE_Q4_1: {
            const struct block_q4_1 *b = (const struct block_q4_1 *)p + n;
            return fmaf(embed_d(b->d), (float)embed_halves(b->qs, i), embed_d(b->m));
        }
        case TYPE_Q5_0: {
            const struct block_q5_0 *b = (const struct block_q5_0 *)p + n;
            return embed_d(b->d) * (float)(embed_halves(b->qs, i) + 16 * (b->qh[i / 8] >> i % 8 & 1) - 16);
        }
        case TYPE_Q5_1: {
            const struct block_q5_1 *b = (const struct block_q5_1 *)p + n;
            return fmaf(embed_d(b->d), (float)(embed_halves(b->qs, i) + 16 * (b->qh[i / 8] >> i % 8 & 1)), embed_d(b->m));
        }
        case TYPE_Q6_0: {
            const struct block_q6_0 *b = (const struct block_q6_0 *)p + n;
            const int high = b->qh[i % 8] >> (i / 8 % 2 * 4 + i / 16 * 2) & 3;
            return embed_d(b->d) * (float)(embed_halves(b->qs, i) + 16 * high - 32);
        }
        case TYPE_IQ4_NL: {
            const struct block_iq4_nl *b = (const struct block_iq4_nl *)p + n;
            return embed_d(b->d) * (float)levels[GPU_LEVELS_V4 + embed_halves(b->qs, i)];
        }
        default: {
            const struct block_mxfp4 *b = (const struct block_mxfp4 *)p + n;
            const float scale = __uint_as_float(b->e > 1 ? (uint32_t)(b->e - 1) << 23 : 0x00200000u << b->e);
            return scale * (float)levels[GPU_LEVELS_MXFP4 + embed_halves(b->qs, i)];
        }
    }
}

static __device__ __forceinline__ float embed_grids(enum tensor_type type, const uint8_t *p, uint32_t i, const uint32_t *tables,
                                                    float row) {
    const uint32_t g = i / 32, t = i / 16, k = i / 8;
    switch (type) {
        case TYPE_IQ2_XXS: {
            const struct block_iq2_xxs *b = (const struct block_iq2_xxs *)p;
            const uint32_t word = embed_word(b->qs[g] + 4);
            return embed_d(b->d) * ((float)(word >> 28) + 0.5f) / 4 *
                   embed_lane(tables[GPU_GRID_IQ2_XXS + b->qs[g][k % 4]], embed_signs(word >> 7 * (k % 4) & 127), i);
        }
        case TYPE_IQ2_XS: {
            const struct block_iq2_xs *b = (const struct block_iq2_xs *)p;
            return embed_d(b->d) * ((float)embed_nibble(b->scales, t) + 0.5f) / 4 *
                   embed_lane(tables[GPU_GRID_IQ2_XS + (b->qs[k] & 511)], embed_signs(b->qs[k] >> 9), i);
        }
        case TYPE_IQ2_S: {
            const struct block_iq2_s *b = (const struct block_iq2_s *)p;
            return embed_d(b->d) * ((float)embed_nibble(b->scales, t) + 0.5f) / 4 *
                   embed_lane(tables[GPU_GRID_IQ2_S + b->qs[k] + 256 * embed_crumb(b->qh, k)], b->signs[k], i);
        }
        case TYPE_IQ3_XXS: {
            const struct block_iq3_xxs *b = (const struct block_iq3_xxs *)p;
            const uint32_t word = embed_word(b->tail[g]), signs = embed_signs(word >> 7 * (k % 4) & 127);
            const float v = embed_d(b->d) * ((float)(word >> 28) + 0.5f) / 2 *
                            (float)(tables[GPU_GRID_IQ3_XXS + b->qs[i / 4]] >> 8 * (i % 4) & 255);
            return signs >> i % 8 & 1 ? -v : v;
        }
        case TYPE_IQ3_S: {
            const struct block_iq3_s *b = (const struct block_iq3_s *)p;
            const uint32_t index = b->qs[i / 4] + 256 * (b->qh[g] >> i / 4 % 8 & 1),
                           level = 2 * (tables[GPU_GRID_IQ3_S + index] >> 8 * (i % 4) & 255) + 1;
            const float v = embed_d(b->d) * (float)(2 * embed_nibble(b->scales, g) + 1) * (float)level;
            return b->signs[k] >> i % 8 & 1 ? -v : v;
        }
        case TYPE_IQ1_S: {
            const struct block_iq1_s *b = (const struct block_iq1_s *)p;
            const uint32_t x = b->qh[g],
                           code = tables[GPU_GRID_IQ1 + b->qs[k] + 256 * (x >> 3 * (k % 4) & 7)] >> 4 * (i % 8) & 15;
            return embed_d(b->d) * (float)(2 * (x >> 12 & 7) + 1) / 8 * (float)(8 * ((int)code - 1) + (x >> 15 ? -1 : 1));
        }
        case TYPE_IQ1_M: {
            const struct block_iq1_m *b = (const struct block_iq1_m *)p;
            const uint32_t e = (uint32_t)embed_nibble(b->qh, k),
                           code = tables[GPU_GRID_IQ1 + b->qs[k] + 256 * (e & 7)] >> 4 * (i % 8) & 15;
            const uint32_t d = (uint32_t)b->scales[0] >> 12 | (uint32_t)b->scales[1] >> 12 << 4 |
                               (uint32_t)b->scales[2] >> 12 << 8 | (uint32_t)b->scales[3] >> 12 << 12;
            return embed_d((uint16_t)d) * (float)(2 * (b->scales[t / 4] >> 3 * (t % 4) & 7) + 1) / 8 *
                   (float)(8 * ((int)code - 1) + (e >> 3 ? -1 : 1));
        }
        default: {
            const struct block_iq2_kl *b = (const struct block_iq2_kl *)p;
            const uint32_t r = i % 32 / 2,
                           code = (uint32_t)(b->qs[16 * (g / 2) + r] >> 4 * (g % 2) & 15) + 16 * (b->qh[r] >> g & 1);
            const int scale = embed_nibble(b->scales_l, 2 * (g % 4) + g / 4) + 16 * (b->scales_h >> 2 * g & 3) - 32;
            return row * (float)scale * (float)(int8_t)(tables[GPU_GRID_KL + code] >> 8 * (i % 2) & 255);
        }
    }
}

/* A level of a table's first row, or of the second, which is moved up. */
static __device__ __forceinline__ float embed_level(const int8_t *levels, int code, bool second, int up) {
    return (float)(levels[code] + (second ? up : 0));
}

static __device__ __forceinline__ float embed_levels(enum tensor_type type, const uint8_t *p, uint32_t i, const int8_t *levels,
                                                     float row) {
    const uint32_t g = i / 32, t = i / 16;
    switch (type) {
        case TYPE_Q2_K: {
            const struct block_q2_k *b = (const struct block_q2_k *)p;
            return fmaf(embed_d(b->d) * (float)(b->scales[t] & 15), (float)embed_planes(b->qs, i),
                        -(embed_d(b->dmin) * (float)(b->scales[t] >> 4)));
        }
        case TYPE_Q3_K: {
            const struct block_q3_k *b = (const struct block_q3_k *)p;
            const int scale = (b->scales[t % 8] >> 4 * (t / 8) & 15) + 16 * (b->scales[8 + t % 4] >> 2 * (t / 4) & 3) - 32;
            return embed_d(b->d) * (float)scale * (float)(embed_planes(b->qs, i) + 4 * embed_bit(b->hmask, i) - 4);
        }
        case TYPE_IQ4_XS: {
            const struct block_iq4_xs *b = (const struct block_iq4_xs *)p;
            return embed_d(b->d) * (float)(embed_nibble(b->scales_l, g) + 16 * (b->scales_h >> 2 * g & 3) - 32) *
                   (float)levels[GPU_LEVELS_V4 + embed_halves(b->qs, i)];
        }
        case TYPE_IQ2_K: {
            const struct block_iq2_k *b = (const struct block_iq2_k *)p;
            return embed_d(b->d) * (float)(embed_nibble(b->scales, t) - 8) *
                   embed_level(levels + GPU_LEVELS_V2, embed_planes(b->qs, i), b->extra >> t & 1, 5);
        }
        case TYPE_IQ3_K: {
            const struct block_iq3_k *b = (const struct block_iq3_k *)p;
            const float scale = (float)(2 * embed_nibble(b->scales_l, t) + 1), v = b->scales_h >> t & 1 ? -scale : scale;
            return embed_d(b->d) * v *
                   embed_level(levels + GPU_LEVELS_V3, embed_planes(b->qs, i) + 4 * embed_bit(b->qh, i), b->extra >> t & 1, 4);
        }
        case TYPE_IQ4_K: {
            const struct block_iq4_k *b = (const struct block_iq4_k *)p;
            return embed_d(b->d) * (float)(embed_nibble(b->scales_l, t) + 16 * embed_crumb(b->scales_h, t) - 32) *
                   embed_level(levels + GPU_LEVELS_V4, embed_halves(b->qs, i), b->extra >> t & 1, 4);
        }
        case TYPE_IQ5_K: {
            const struct block_iq5_k *b = (const struct block_iq5_k *)p;
            return embed_d(b->d) * (float)(embed_nibble(b->scales_l, t) + 16 * embed_crumb(b->scales_h, t) - 32) *
                   embed_level(levels + GPU_LEVELS_V5, embed_pairs(b->qs, i) + 16 * embed_bit(b->qh, i), b->extra >> t & 1, 2);
        }
        case TYPE_IQ6_K: {
            const struct block_iq6_k *b = (const struct block_iq6_k *)p;
            return embed_d(b->d) * (float)b->scales[t] *
                   embed_level(levels + GPU_LEVELS_V6, embed_pairs(b->qs, i) + 16 * embed_planes(b->qh, i), b->extra >> t & 1,
                               1);
        }
        case TYPE_IQ4_KS: {
            const struct block_iq4_ks *b = (const struct block_iq4_ks *)p;
            return row * (float)((b->scales[g] & 254) - 127) *
                   embed_level(levels + GPU_LEVELS_V4, embed_halves(b->qs, i), b->scales[g] & 1, 4);
        }
        case TYPE_IQ4_KSS: {
            const struct block_iq4_kss *b = (const struct block_iq4_kss *)p;
            uint32_t s = 0;
            for (uint32_t r = 0; r < 8; r++) s |= (b->qs[8 * g + r] & 1u) << r;
            const uint32_t clear = b->qs[8 * g + i % 16 / 2] & 0xfffeu, word = clear ^ clear >> 1,
                           byte = word >> 8 * (i % 2) & 255;
            return row * (float)((int)(s & 254) - 127) *
                   embed_level(levels + GPU_LEVELS_V4, (int)(byte >> 4 * (i % 32 / 16) & 15), s & 1, 4);
        }
        case TYPE_IQ5_KS: {
            const struct block_iq5_ks *b = (const struct block_iq5_ks *)p;
            return row * (float)((b->scales[g] & 254) - 127) *
                   embed_level(levels + GPU_LEVELS_V5, embed_pairs(b->qs, i) + 16 * embed_bit(b->qh, i), b->scales[g] & 1, 2);
        }
        case TYPE_IQ2_KS: {
            const struct block_iq2_ks *b = (const struct block_iq2_ks *)p;
            return row * (float)(embed_nibble(b->scales, g) + 16 * (b->extra >> (8 + g) & 1) - 16) *
                   embed_level(levels + GPU_LEVELS_V2, embed_planes(b->qs, i), b->extra >> g & 1, 5);
        }
        default: {
            const struct block_iq3_ks *b = (const struct block_iq3_ks *)p;
            return row * (float)(embed_nibble(b->scales, 2 * (g % 4) + g / 4) + 16 * (b->extra >> g & 1) - 16) *
                   embed_level(levels + GPU_LEVELS_V3, embed_planes(b->qs, i) + 4 * embed_bit(b->qh, i),
                               b->extra >> (8 + g) & 1, 4);
        }
    }
}

static __device__ __forceinline__ float embed_coded(enum tensor_type type, const uint8_t *p, uint32_t i, const uint32_t *tables,
                                                    float row) {
    const int8_t *levels = (const int8_t *)(tables + GPU_LEVELS);
    switch (type) {
        case TYPE_Q4_1:
        case TYPE_Q5_0:
        case TYPE_Q5_1:
        case TYPE_Q6_0:
        case TYPE_IQ4_NL:
        case TYPE_MXFP4: return embed_blocks_32(type, p, i, levels);
        case TYPE_IQ2_XXS:
        case TYPE_IQ2_XS:
        case TYPE_IQ2_S:
        case TYPE_IQ3_XXS:
        case TYPE_IQ3_S:
        case TYPE_IQ1_S:
        case TYPE_IQ1_M:
        case TYPE_IQ2_KL: return embed_grids(type, p, i, tables, row);
        default: return embed_levels(type, p, i, levels, row);
    }
}

/* ---- rows ---------------------------------------------------------------------------------------------------- */

/* Weight i of the 256 at `p` (fewer at a row's end). */
static __device__ __forceinline__ float embed_weight(enum tensor_type type, const uint8_t *p, uint32_t i,
                                                     const uint32_t *tables, float row) {
    switch (type) {
    case TYPE_F32:
        return __uint_as_float((uint32_t)p[4 * i] | (uint32_t)p[4 * i + 1] << 8 | (uint32_t)p[4 * i + 2] << 16 |
                               (uint32_t)p[4 * i + 3] << 24);
    case TYPE_F16: return embed_half(p + 2 * i);
    case TYPE_BF16: return __uint_as_float((uint32_t)p[2 * i] << 16 | (uint32_t)p[2 * i + 1] << 24);
    case TYPE_Q4_0: {
        const uint8_t *b = p + i / 32 * sizeof(struct block_q4_0);
        return embed_half(b) * (float)((b[2 + i % 16] >> (i % 32 < 16 ? 0 : 4) & 15) - 8);
        }
        case TYPE_Q8_0: {
            const uint8_t *b = p + i / 32 * sizeof(struct block_q8_0);
            return embed_half(b) * (float)(int8_t)b[2 + i % 32];
        }
        case TYPE_Q4_K: return embed_k(p, NULL, p + 16, i);
        case TYPE_Q5_K: return embed_k(p, p + 16, p + 48, i);
        case TYPE_Q6_K: return embed_q6_k(p, i);
        default: return embed_coded(type, p, i, tables, row);
    }
}

/* A type's blocks, as the host's table of core/tensor.c has them. */
struct embed_layout {
    uint32_t block_weights, block_bytes, row_meta;
};

/* Bytes of n weights; n is whole blocks. */
static __device__ __forceinline__ uint32_t embed_bytes(const struct embed_layout &l, uint32_t n) {
    return n / l.block_weights * l.block_bytes;
}

/* The table of rows in the host's memory, as kernels get it. */
struct embed_table {
    const uint8_t *rows;
    uint64_t row_bytes;
    enum tensor_type type;
    struct embed_layout layout;
    const uint32_t *tables; /* gpu/grids.h */
};

static inline struct embed_table embed_table_of(const struct gpu_network *n) {
    const struct gpu_network_options *o = &n->options;
    const struct tensor_type_info *info = tensor_type_info(o->embedding_type);
    return {(const uint8_t *)o->embedding_mapped,
            o->embedding_row_bytes,
            o->embedding_type,
            {info->block_weights, info->block_bytes, info->row_meta_bytes},
            n->tables};
}

static __device__ __forceinline__ float embed_row_scale(const struct embed_layout &l, const uint8_t *row) {
    return l.row_meta == 0 ? 1 : l.row_meta == 2 ? embed_half(row) : __uint_as_float(embed_word(row));
}

/* x[first .. first + 255] of row `id` of `width` weights, by one warp; `room`: EMBED_BYTES of its own, 4-byte aligned. `width`
 * is a multiple of the type's block. */
static __device__ __forceinline__ void embed_part(const struct embed_table &table, uint32_t id, uint32_t first, uint32_t width,
                                                  uint8_t *room, float *x) {
    const uint32_t lane = threadIdx.x & 31, n = width - first < EMBED_WEIGHTS ? width - first : EMBED_WEIGHTS + 0u,
                   bytes = embed_bytes(table.layout, n);
    const uint8_t *row = table.rows + id * table.row_bytes,
                  *from = row + table.layout.row_meta + embed_bytes(table.layout, first);
    const float scale = embed_row_scale(table.layout, row);
    __syncwarp(); /* the room's last part has been read */
    if (table.layout.block_bytes % 2 || (uintptr_t)from % 2) /* safetensors begin anywhere */
        for (uint32_t i = lane; i < bytes; i += 32) room[i] = from[i];
    else
        for (uint32_t i = lane; i < bytes / 2; i += 32) ((uint16_t *)room)[i] = ((const uint16_t *)from)[i];
    __syncwarp();
    for (uint32_t i = lane; i < n; i += 32) x[first + i] = embed_weight(table.type, room, i, table.tables, scale);
}

#endif
