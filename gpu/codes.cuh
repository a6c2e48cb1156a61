/* Weights of the codebook, value-table and remaining block formats out of their device layout (gpu/layout.h), 32 at a time:
 * what steps (coded.cuh) and products of prompts (coded_tile.cuh) open them with.
 *
 * A slice is 64 weights, a half 32 of them, cheap to load together: two pieces of 16. How a slice's halves and pieces lie in
 * the row is the family's order (position()). An opened piece has 16 signed levels in four words and
 *
 *     w = scale * (level + bias) - min
 *
 * A type is one specialization of `codes`: fetch() issues a half's loads and computes nothing with them; prepare() keeps what
 * opening needs, with scales as numbers, so that types of a family are alike from there on; open() makes levels. Loads that
 * both halves of a slice have in common are the same instruction twice, which compilers make one.
 *
 * Codes become levels by byte permutation: four codes of a nibble each select from eight bytes of a table, and further bits
 * choose between the results. Grids are in shared memory (block_grid()): of IQ2 and IQ1 the selectors of a unit of eight, a
 * nibble a lane, so that a sign joins as the selector's bit 2; of IQ3 a quad's bytes. Tables: core/codebooks.h, which grids.cu
 * packs. */
#ifndef COLDSTREAM_GPU_CODES_CUH
#define COLDSTREAM_GPU_CODES_CUH

#include "gpu/grids.h"
#include "gpu/layout.h"
#include "gpu/words.cuh"

/* A row of a matrix of `blocks` blocks, the row's first block being number `first`. */
struct coded_row {
    const uint8_t *matrix;
    uint64_t blocks, first;
    uint32_t row;
};

/* What was loaded of a half; each type has its own use of it. */
struct half_raw {
    uint4 q, h;
    uint2 s;
    uint32_t d, x;
    float row; /* the row's scale */
};

/* What is kept of it. */
struct half_kept {
    uint4 q, h;  /* codes, and what does not fit there */
    uint32_t x;
    float scale[2], min[2];
    int bias[2];
};

template <enum tensor_type TYPE> struct codes;

#define CODES static __device__ __forceinline__

/* ---- levels by permutation ----------------------------------------------------------------------------------- */

/* Words of codebook_v2 to codebook_v6 and codebook_mxfp4, the first code's level in the lowest byte. Device code takes
 * constants from functions. */
#define LEVEL_WORDS(name, n, ...)                \
    CODES uint32_t name(int i) {                 \
        const uint32_t words[n] = {__VA_ARGS__}; \
        return words[i];                         \
    }
LEVEL_WORDS(levels_v2, 1, 0x1101f3e1u)
LEVEL_WORDS(levels_v3, 2, 0xf6e9d8c1u, 0x2f1c0d01u)
LEVEL_WORDS(levels_v4, 4, 0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u)
LEVEL_WORDS(levels_mxfp4, 4, 0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu)
LEVEL_WORDS(levels_v5, 8, 0xa4998e82u, 0xc7bfb6adu, 0xe2dcd5ceu, 0xfaf4eee8u, 0x110b05ffu, 0x2b241d17u, 0x4d443b33u,
            0x796d6157u)
LEVEL_WORDS(levels_v6, 16, 0x938d8781u, 0xa8a39e98u, 0xbab6b1acu, 0xcac6c2beu, 0xd8d4d1cdu, 0xe4e1dedbu, 0xf0edeae7u,
            0xfbf8f5f3u, 0x060300feu, 0x110e0c09u, 0x1e1b1714u, 0x2c282421u, 0x3b37332fu, 0x4d48443fu, 0x625c5752u, 0x79736d67u)

/* Where bit 3 of each nibble of w, moved to bit 2, has a permutation pick between two results. */
CODES uint32_t pick_by(uint32_t bits) { return bits | 0x32103210u; }

/* Levels of the eight nibbles of w: byte i of `low` of the low nibble of byte i, of `high` of the high one. For 16 codes. */
struct table_16 {
    uint32_t a, b, c, d;
};

CODES void look_up_16(uint32_t w, const table_16 &t, uint32_t &low, uint32_t &high) {
    const uint32_t code = w & 0x77777777u, pick = pick_by(w >> 1 & 0x44444444u);
    const uint32_t a = prmt(prmt(t.a, t.b, code), prmt(t.c, t.d, code), pick);
    const uint32_t b = prmt(prmt(t.a, t.b, code >> 16), prmt(t.c, t.d, code >> 16), pick >> 16);
    low = prmt(a, b, 0x6420), high = prmt(a, b, 0x7531);
}

/* 32 codes: `fifth` has their bits where pick_by wants them. */
CODES uint32_t look_up_four_32(uint32_t code, uint32_t pick, uint32_t pick5) {
    const uint32_t a = prmt(prmt(levels_v5(0), levels_v5(1), code), prmt(levels_v5(2), levels_v5(3), code), pick);
    const uint32_t b = prmt(prmt(levels_v5(4), levels_v5(5), code), prmt(levels_v5(6), levels_v5(7), code), pick);
    return prmt(a, b, pick5);
}
CODES void look_up_32(uint32_t w, uint32_t fifth, uint32_t &low, uint32_t &high) {
    const uint32_t code = w & 0x77777777u, pick = pick_by(w >> 1 & 0x44444444u), pick5 = pick_by(fifth);
    const uint32_t a = look_up_four_32(code, pick, pick5), b = look_up_four_32(code >> 16, pick >> 16, pick5 >> 16);
    low = prmt(a, b, 0x6420), high = prmt(a, b, 0x7531);
}

CODES uint32_t look_up_four_64(uint32_t code, uint32_t pick, uint32_t pick5, uint32_t pick6) {
    uint32_t of16[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        of16[i] = prmt(prmt(levels_v6(4 * i), levels_v6(4 * i + 1), code),
                       prmt(levels_v6(4 * i + 2), levels_v6(4 * i + 3), code), pick);
    return prmt(prmt(of16[0], of16[1], pick5), prmt(of16[2], of16[3], pick5), pick6);
}
CODES void look_up_64(uint32_t w, uint32_t fifth, uint32_t sixth, uint32_t &low, uint32_t &high) {
    const uint32_t code = w & 0x77777777u, pick = pick_by(w >> 1 & 0x44444444u), pick5 = pick_by(fifth), pick6 = pick_by(sixth);
    const uint32_t a = look_up_four_64(code, pick, pick5, pick6),
                   b = look_up_four_64(code >> 16, pick >> 16, pick5 >> 16, pick6 >> 16);
    low = prmt(a, b, 0x6420), high = prmt(a, b, 0x7531);
}

/* Bit 0 of each byte to bit 2 of its low nibble, bit 1 (with SECOND 2: bit 2) to bit 2 of its high one. */
template <int SECOND> CODES uint32_t to_nibbles(uint32_t bits) {
    return SECOND == 1 ? (bits << 2 & 0x04040404u) | (bits << 5 & 0x40404040u)
                       : (bits << 2 & 0x04040404u) | (bits << 4 & 0x40404040u);
}

CODES void set_scales(half_kept &k, float scale) { k.scale[0] = k.scale[1] = scale; }
CODES void set_mins(half_kept &k, float min) { k.min[0] = k.min[1] = min; }
CODES void set_biases(half_kept &k, int bias) { k.bias[0] = k.bias[1] = bias; }

CODES uint32_t nibble_of(uint32_t w, uint32_t n) { return w >> 4 * n & 15; }
CODES uint32_t byte_of(uint32_t w, uint32_t n) { return w >> 8 * n & 255; }

CODES const uint8_t *field_of(const coded_row &r, uint32_t at, uint64_t block, uint32_t bytes) {
    return gpu_field(r.matrix, r.blocks, at, block, bytes);
}
CODES float row_scale_32(const coded_row &r, uint32_t block_bytes) {
    return __uint_as_float(load_u32(r.matrix + r.blocks * block_bytes + 4 * static_cast<uint64_t>(r.row)));
}
CODES float row_scale_16(const coded_row &r, uint32_t block_bytes) {
    return half_bits(load_u16(r.matrix + r.blocks * block_bytes + 2 * static_cast<uint64_t>(r.row)));
}

/* ---- where a family's pieces lie in the row ------------------------------------------------------------------ */

struct order_natural { /* halves and pieces follow each other */
    CODES uint32_t position(uint32_t slice, uint32_t half, uint32_t piece) { return 64 * slice + 32 * half + 16 * piece; }
};
struct order_pairs { /* a byte has weight l of two neighbouring groups of 32 */
    CODES uint32_t position(uint32_t slice, uint32_t half, uint32_t piece) { return 64 * slice + 16 * half + 32 * piece; }
};
struct order_planes { /* a byte has weight l of four groups of 32: a half has groups h and h + 2 */
    CODES uint32_t position(uint32_t slice, uint32_t half, uint32_t piece) {
        return 256 * (slice / 4) + 128 * (slice / 2 % 2) + 16 * (slice % 2) + 32 * half + 64 * piece;
    }
};

/* Of a half its row's block of 256, and of 32 (half h of a slice is one of them). */
CODES uint64_t block_of(const coded_row &m, uint32_t slice) { return m.first + slice / 4; }
CODES uint64_t block_of_half(const coded_row &m, uint32_t slice, uint32_t half) { return m.first + 2 * slice + half; }

/* The half's group of 32 in its block, of types whose halves are groups. */
CODES uint32_t group_of(uint32_t slice, uint32_t half) { return 2 * (slice % 4) + half; }

/* ---- IQ2_S, IQ3_S -------------------------------------------------------------------------------------------- */

/* Magnitudes 8, 25, 43 and their negatives, as a selector of a code and a sign in bit 2 picks them. */
LEVEL_WORDS(levels_iq2, 2, 0x002b1908u, 0x00d5e7f8u)

/* A unit's selector with the signs at bits 4l + 2. */
CODES void open_unit(uint32_t selector, uint32_t (&word)[8], int unit) {
    word[2 * unit] = prmt(levels_iq2(0), levels_iq2(1), selector);
    word[2 * unit + 1] = prmt(levels_iq2(0), levels_iq2(1), selector >> 16);
}

/* The scales of IQ2_S and IQ2_XS. */
CODES void prepare_scales_iq2(uint32_t d, uint32_t nibbles, half_kept &k) {
    const float quarter = half_bits(d) * 0.25f;
    k.scale[0] = quarter * (static_cast<float>(nibbles & 15) + 0.5f);
    k.scale[1] = quarter * (static_cast<float>(nibbles >> 4) + 0.5f);
}

/* q.x: indices, h.x: signs, x: upper bits of indices. */
template <> struct codes<TYPE_IQ2_S> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        const uint32_t g = group_of(slice, half);
        r.q.x = load_u32(field_of(m, 0, b, 32) + 4 * g), r.h.x = load_u32(field_of(m, 32, b, 32) + 4 * g);
        r.x = field_of(m, 64, b, 8)[g], r.s.x = field_of(m, 72, b, 8)[g];
        r.d = load_u16(field_of(m, 80, b, 2));
    }
    CODES void fetch_slice(half_raw (&r)[2], const coded_row &m, uint32_t slice) {
        const uint64_t b = block_of(m, slice);
        const uint32_t j = slice % 4, high = load_u16(field_of(m, 64, b, 8) + 2 * j),
                       scales = load_u16(field_of(m, 72, b, 8) + 2 * j);
        const uint2 q = ld64(field_of(m, 0, b, 32) + 8 * j), signs = ld64(field_of(m, 32, b, 32) + 8 * j);
        r[0].q.x = q.x, r[1].q.x = q.y, r[0].h.x = signs.x, r[1].h.x = signs.y;
        r[0].x = high & 255, r[1].x = high >> 8, r[0].s.x = scales & 255, r[1].s.x = scales >> 8;
        r[0].d = r[1].d = load_u16(field_of(m, 80, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q.x = r.q.x, k.h.x = r.h.x, k.x = r.x;
        prepare_scales_iq2(r.d, r.s.x, k);
    }
    CODES void open(const half_kept &k, uint32_t, uint32_t, const uint32_t *grid, uint32_t (&word)[8]) {
#pragma unroll
        for (int u = 0; u < 4; u++) {
            const uint32_t index = byte_of(k.q.x, u) | (k.x << (8 - 2 * u) & 0x300u);
            open_unit(grid[index] | ((u < 2 ? k.h.x << (2 - u) : k.h.x >> (u - 2)) & 0x44444444u), word, u);
        }
    }
};

/* The grid has c for a magnitude of 2c + 1; its complement stands for the negative: 2 (-c - 1) + 1. q.x, q.y: indices, h.x:
 * signs, x: upper bits of indices. */
template <> struct codes<TYPE_IQ3_S> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        const uint32_t g = group_of(slice, half);
        const uint2 q = ld64(field_of(m, 0, b, 64) + 8 * g);
        r.q.x = q.x, r.q.y = q.y, r.h.x = load_u32(field_of(m, 64, b, 32) + 4 * g);
        r.x = field_of(m, 96, b, 8)[g], r.s.x = nibble_of(field_of(m, 104, b, 4)[g / 2], half);
        r.d = load_u16(field_of(m, 108, b, 2));
    }
    CODES void fetch_slice(half_raw (&r)[2], const coded_row &m, uint32_t slice) {
        const uint64_t b = block_of(m, slice);
        const uint32_t j = slice % 4, high = load_u16(field_of(m, 96, b, 8) + 2 * j), scales = field_of(m, 104, b, 4)[j];
        const uint4 q = ld128(field_of(m, 0, b, 64) + 16 * j);
        const uint2 signs = ld64(field_of(m, 64, b, 32) + 8 * j);
        r[0].q.x = q.x, r[0].q.y = q.y, r[1].q.x = q.z, r[1].q.y = q.w, r[0].h.x = signs.x, r[1].h.x = signs.y;
        r[0].x = high & 255, r[1].x = high >> 8, r[0].s.x = scales & 15, r[1].s.x = scales >> 4;
        r[0].d = r[1].d = load_u16(field_of(m, 108, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q.x = r.q.x, k.q.y = r.q.y, k.h.x = r.h.x, k.x = r.x;
        const float s = half_bits(r.d) * static_cast<float>(2 * r.s.x + 1);
        set_scales(k, 2 * s), set_mins(k, -s);
    }
    CODES void open(const half_kept &k, uint32_t, uint32_t, const uint32_t *grid, uint32_t (&word)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t index = byte_of(i < 4 ? k.q.x : k.q.y, i % 4) | (k.x << (8 - i) & 0x100u);
            word[i] = grid[index] ^ prmt(k.h.x << i, 0, 0xba98);
        }
    }
};

/* ---- 16 levels, the two halves of a group of 32 in a byte's nibbles ------------------------------------------ */

/* Types of this family are alike once prepared, but for the table: x is 0 for V4. */

/* 6-bit scale of group t less 32, and whether its levels are moved up, from the 16 bytes in front of IQ4_K and IQ5_K: `low` the
 * word with its four lower bits. */
CODES void prepare_head_k(uint32_t d_extra, uint32_t high, uint32_t low, uint32_t t, int up, float &scale, int &bias) {
    scale = half_bits(d_extra) * static_cast<float>(static_cast<int>(nibble_of(low, t % 8) + 16 * (high >> 2 * t & 3)) - 32);
    bias = d_extra >> (16 + t) & 1 ? up : 0;
}

template <> struct codes<TYPE_IQ4_K> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint8_t *b = m.matrix + block_of(m, slice) * sizeof(struct block_iq4_k);
        r.h = ldu4(b); /* four slices in turn want it: leave it in L1 */
        r.q = ld128(b + 16 + 32 * (slice % 4) + 16 * half);
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        k.q = r.q, k.x = 0;
        const uint32_t t = 2 * group_of(slice, half), low = slice % 4 < 2 ? r.h.z : r.h.w;
        prepare_head_k(r.h.x, r.h.y, low, t, 4, k.scale[0], k.bias[0]);
        prepare_head_k(r.h.x, r.h.y, low, t + 1, 4, k.scale[1], k.bias[1]);
    }
};

template <> struct codes<TYPE_IQ4_XS> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        r.q = ld128(field_of(m, 0, b, 128) + 32 * (slice % 4) + 16 * half);
        r.s = ld64(field_of(m, 128, b, 8));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        k.q = r.q, k.x = 0;
        const uint32_t g = group_of(slice, half), level = nibble_of(r.s.y, g) + 16 * (r.s.x >> (16 + 2 * g) & 3);
        set_scales(k, half_bits(r.s.x) * static_cast<float>(static_cast<int>(level) - 32)), set_biases(k, 0);
    }
};

template <> struct codes<TYPE_IQ4_NL> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of_half(m, slice, half);
        r.q = ld128(field_of(m, 0, b, 16)), r.d = load_u16(field_of(m, 16, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q = r.q, k.x = 0;
        set_scales(k, half_bits(r.d)), set_biases(k, 0);
    }
};

template <> struct codes<TYPE_MXFP4> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of_half(m, slice, half);
        r.q = ld128(field_of(m, 0, b, 16)), r.d = *field_of(m, 16, b, 1);
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q = r.q, k.x = 1;
        set_scales(k, __uint_as_float(r.d > 1 ? (r.d - 1) << 23 : 0x00200000u << r.d)), set_biases(k, 0); /* 2^(e - 128) */
    }
};

/* IQ4_KS, IQ4_KSS and IQ5_KS: a byte is an odd scale and which levels. */
CODES void prepare_scale_byte(uint32_t s, float row, int up, float &scale, int &bias) {
    scale = row * static_cast<float>(static_cast<int>(s & 254) - 127);
    bias = s & 1 ? up : 0;
}

template <> struct codes<TYPE_IQ4_KS> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        r.q = ld128(field_of(m, 0, b, 128) + 32 * (slice % 4) + 16 * half);
        r.d = field_of(m, 128, b, 8)[group_of(slice, half)];
        r.row = row_scale_32(m, sizeof(struct block_iq4_ks));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q = r.q, k.x = 0;
        prepare_scale_byte(r.d, r.row, 4, k.scale[0], k.bias[0]);
        k.scale[1] = k.scale[0], k.bias[1] = k.bias[0];
    }
};

template <> struct codes<TYPE_IQ4_KSS> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        r.q = ld128(field_of(m, 0, block_of(m, slice), 128) + 32 * (slice % 4) + 16 * half);
        r.row = row_scale_32(m, sizeof(struct block_iq4_kss));
    }
    /* Bit 0 of the words is the scale byte's; without it, word ^ word >> 1 are codes as IQ4_KS has them. */
    CODES uint32_t clear(uint32_t w) {
        const uint32_t code = w & 0xfffefffeu;
        return code ^ code >> 1; /* bit 16 is clear, so nothing crosses */
    }
    CODES uint32_t scale_bits(uint32_t w) { return (w & 1) | (w >> 15 & 2); }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q = make_uint4(clear(r.q.x), clear(r.q.y), clear(r.q.z), clear(r.q.w)), k.x = 0;
        const uint32_t s = scale_bits(r.q.x) | scale_bits(r.q.y) << 2 | scale_bits(r.q.z) << 4 | scale_bits(r.q.w) << 6;
        prepare_scale_byte(s, r.row, 4, k.scale[0], k.bias[0]);
        k.scale[1] = k.scale[0], k.bias[1] = k.bias[0];
    }
};

CODES void open_halves(const half_kept &k, uint32_t (&word)[8]) {
    const table_16 t = {k.x ? levels_mxfp4(0) : levels_v4(0), k.x ? levels_mxfp4(1) : levels_v4(1),
                        k.x ? levels_mxfp4(2) : levels_v4(2), k.x ? levels_mxfp4(3) : levels_v4(3)};
    look_up_16(k.q.x, t, word[0], word[4]);
    look_up_16(k.q.y, t, word[1], word[5]);
    look_up_16(k.q.z, t, word[2], word[6]);
    look_up_16(k.q.w, t, word[3], word[7]);
}

/* ---- 32 and 64 levels, two neighbouring groups of 32 in a byte's nibbles ------------------------------------- */

/* h: the codes' upper bits, shifted so that of each byte bits 0 and 1 (IQ6_K: 0, 1 and 2, 3) are those of its two nibbles. */

CODES uint4 shift_right(const uint4 &v, uint32_t by) { return make_uint4(v.x >> by, v.y >> by, v.z >> by, v.w >> by); }

template <> struct codes<TYPE_IQ5_K> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint8_t *b = m.matrix + block_of(m, slice) * sizeof(struct block_iq5_k);
        const uint4 head = ldu4(b);
        r.d = head.x, r.s = make_uint2(head.y, slice % 4 < 2 ? head.z : head.w);
        r.q = ld128(b + 16 + 32 * (slice % 4) + 16 * half);
        r.h = ldu4(b + 144 + 16 * half);
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        k.q = r.q, k.h = shift_right(r.h, 2 * (slice % 4));
        const uint32_t t = 4 * (slice % 4) + half;
        prepare_head_k(r.d, r.s.x, r.s.y, t, 2, k.scale[0], k.bias[0]);
        prepare_head_k(r.d, r.s.x, r.s.y, t + 2, 2, k.scale[1], k.bias[1]);
    }
};

template <> struct codes<TYPE_IQ5_KS> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        r.q = ld128(field_of(m, 0, b, 128) + 32 * (slice % 4) + 16 * half);
        r.h = ldu4(field_of(m, 128, b, 32) + 16 * half);
        r.d = load_u16(field_of(m, 160, b, 8) + 2 * (slice % 4));
        r.row = row_scale_32(m, sizeof(struct block_iq5_ks));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t, half_kept &k) {
        k.q = r.q, k.h = shift_right(r.h, 2 * (slice % 4));
        prepare_scale_byte(r.d & 255, r.row, 2, k.scale[0], k.bias[0]);
        prepare_scale_byte(r.d >> 8, r.row, 2, k.scale[1], k.bias[1]);
    }
};

template <> struct codes<TYPE_IQ6_K> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        r.q = ld128(field_of(m, 0, b, 128) + 32 * (slice % 4) + 16 * half);
        r.h = ldu4(field_of(m, 128, b, 64) + 32 * (slice / 2 % 2) + 16 * half);
        r.s.x = load_u32(field_of(m, 192, b, 16) + 4 * (slice % 4));
        r.d = load_u32(field_of(m, 208, b, 4));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        k.q = r.q, k.h = shift_right(r.h, 4 * (slice % 2));
        const uint32_t t = 4 * (slice % 4) + half;
        const float d = half_bits(r.d);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            k.scale[p] = d * static_cast<float>(static_cast<int8_t>(byte_of(r.s.x, half + 2 * p)));
            k.bias[p] = r.d >> (16 + t + 2 * p) & 1;
        }
    }
};

CODES void open_pairs_32(const half_kept &k, uint32_t (&word)[8]) {
    look_up_32(k.q.x, to_nibbles<1>(k.h.x), word[0], word[4]);
    look_up_32(k.q.y, to_nibbles<1>(k.h.y), word[1], word[5]);
    look_up_32(k.q.z, to_nibbles<1>(k.h.z), word[2], word[6]);
    look_up_32(k.q.w, to_nibbles<1>(k.h.w), word[3], word[7]);
}
CODES void open_pairs_64(const half_kept &k, uint32_t (&word)[8]) {
    look_up_64(k.q.x, to_nibbles<2>(k.h.x), to_nibbles<2>(k.h.x >> 1), word[0], word[4]);
    look_up_64(k.q.y, to_nibbles<2>(k.h.y), to_nibbles<2>(k.h.y >> 1), word[1], word[5]);
    look_up_64(k.q.z, to_nibbles<2>(k.h.z), to_nibbles<2>(k.h.z >> 1), word[2], word[6]);
    look_up_64(k.q.w, to_nibbles<2>(k.h.w), to_nibbles<2>(k.h.w >> 1), word[3], word[7]);
}

/* ---- 2 and 3 bits, four groups of 32 in a byte --------------------------------------------------------------- */

/* Both halves read the slice's 16 bytes, and take groups h and h + 2 of the block's half; h: their third bits. Prepared, codes
 * stand in bits 0, 1 of the nibbles (low ones: the first piece's), third bits in bit 2 of `h`'s. */
CODES uint4 fetch_planes(const coded_row &m, uint64_t b, uint32_t slice) {
    return ldu4(field_of(m, 0, b, 64) + 32 * (slice / 2 % 2) + 16 * (slice % 2));
}
CODES uint4 fetch_high(const coded_row &m, uint64_t b, uint32_t slice) {
    return ldu4(field_of(m, 64, b, 32) + 16 * (slice % 2));
}

/* A half's first group of 16, less the 8 of the block's half. */
CODES uint32_t first_16(uint32_t slice, uint32_t half) { return slice % 2 + 2 * half; }

CODES void prepare_planes(const half_raw &r, uint32_t half, half_kept &k) {
    const uint4 q = shift_right(r.q, 2 * half);
    k.q = make_uint4(q.x & 0x33333333u, q.y & 0x33333333u, q.z & 0x33333333u, q.w & 0x33333333u);
}
CODES void prepare_planes_3(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
    prepare_planes(r, half, k);
    const uint4 h = shift_right(r.h, 4 * (slice / 2 % 2) + half);
    k.q.x |= to_nibbles<2>(h.x), k.q.y |= to_nibbles<2>(h.y), k.q.z |= to_nibbles<2>(h.z), k.q.w |= to_nibbles<2>(h.w);
}

/* Which levels (x): the code itself, V2, V3. */
enum { PLANES_PLAIN, PLANES_V2, PLANES_V3 };

template <> struct codes<TYPE_Q2_K> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t) {
        const uint64_t b = block_of(m, slice);
        r.q = fetch_planes(m, b, slice);
        r.s = ld64(field_of(m, 64, b, 16) + 8 * (slice / 2 % 2)), r.d = load_u32(field_of(m, 80, b, 4));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        prepare_planes(r, half, k);
        k.x = PLANES_PLAIN;
        const uint32_t t = first_16(slice, half);
        const float d = half_bits(r.d), dmin = half_bits(r.d >> 16);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            const uint32_t s = byte_of(p ? r.s.y : r.s.x, t);
            k.scale[p] = d * static_cast<float>(s & 15), k.min[p] = dmin * static_cast<float>(s >> 4), k.bias[p] = 0;
        }
    }
};

template <> struct codes<TYPE_Q3_K> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t) {
        const uint64_t b = block_of(m, slice);
        r.q = fetch_planes(m, b, slice), r.h = fetch_high(m, b, slice);
        r.s = ld64(field_of(m, 96, b, 8)), r.x = load_u32(field_of(m, 104, b, 4)), r.d = load_u16(field_of(m, 108, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        prepare_planes_3(r, slice, half, k);
        k.x = PLANES_PLAIN;
        set_mins(k, 0);
        const uint32_t t = first_16(slice, half), h = slice / 2 % 2;
        const float d = half_bits(r.d);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            const uint32_t low = nibble_of(p ? r.s.y : r.s.x, 2 * t + h), top = r.x >> (8 * t + 4 * h + 2 * p) & 3;
            k.scale[p] = d * static_cast<float>(static_cast<int>(low + 16 * top) - 32), k.bias[p] = -4;
        }
    }
};

template <> struct codes<TYPE_IQ2_K> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t) {
        const uint64_t b = block_of(m, slice);
        r.q = fetch_planes(m, b, slice);
        r.s.x = load_u32(field_of(m, 64, b, 8) + 4 * (slice / 2 % 2)), r.d = load_u32(field_of(m, 72, b, 4));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        prepare_planes(r, half, k);
        k.x = PLANES_V2;
        set_mins(k, 0);
        const uint32_t t = first_16(slice, half), h = slice / 2 % 2;
        const float d = half_bits(r.d);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            k.scale[p] = d * static_cast<float>(static_cast<int>(nibble_of(r.s.x, t + 4 * p)) - 8);
            k.bias[p] = r.d >> (16 + 8 * h + t + 4 * p) & 1 ? 5 : 0;
        }
    }
};

template <> struct codes<TYPE_IQ3_K> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t) {
        const uint64_t b = block_of(m, slice);
        r.q = fetch_planes(m, b, slice), r.h = fetch_high(m, b, slice);
        r.s.x = load_u32(field_of(m, 96, b, 8) + 4 * (slice / 2 % 2));
        r.d = load_u32(field_of(m, 104, b, 4)), r.x = load_u16(field_of(m, 108, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        prepare_planes_3(r, slice, half, k);
        k.x = PLANES_V3;
        set_mins(k, 0);
        const uint32_t t = first_16(slice, half), h = slice / 2 % 2;
        const float d = half_bits(r.d);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            const uint32_t at = 8 * h + t + 4 * p;
            const int level = static_cast<int>(2 * nibble_of(r.s.x, t + 4 * p) + 1);
            k.scale[p] = d * static_cast<float>(r.x >> at & 1 ? -level : level);
            k.bias[p] = r.d >> (16 + at) & 1 ? 4 : 0;
        }
    }
};

template <> struct codes<TYPE_IQ2_KS> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t) {
        const uint64_t b = block_of(m, slice);
        r.q = fetch_planes(m, b, slice);
        r.s.x = load_u32(field_of(m, 64, b, 4)), r.d = load_u16(field_of(m, 68, b, 2));
        r.row = row_scale_16(m, sizeof(struct block_iq2_ks));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        prepare_planes(r, half, k);
        k.x = PLANES_V2;
        set_mins(k, 0);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            const uint32_t g = 4 * (slice / 2 % 2) + half + 2 * p;
            k.scale[p] = r.row * static_cast<float>(static_cast<int>(nibble_of(r.s.x, g) + 16 * (r.d >> (8 + g) & 1)) - 16);
            k.bias[p] = r.d >> g & 1 ? 5 : 0;
        }
    }
};

template <> struct codes<TYPE_IQ3_KS> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t) {
        const uint64_t b = block_of(m, slice);
        r.q = fetch_planes(m, b, slice), r.h = fetch_high(m, b, slice);
        r.s.x = load_u32(field_of(m, 96, b, 4)), r.d = load_u16(field_of(m, 100, b, 2));
        r.row = row_scale_16(m, sizeof(struct block_iq3_ks));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        prepare_planes_3(r, slice, half, k);
        k.x = PLANES_V3;
        set_mins(k, 0);
        const uint32_t h = slice / 2 % 2;
#pragma unroll
        for (int p = 0; p < 2; p++) {
            const uint32_t g = 4 * h + half + 2 * p, low = nibble_of(r.s.x, 2 * (half + 2 * p) + h);
            k.scale[p] = r.row * static_cast<float>(static_cast<int>(low + 16 * (r.d >> g & 1)) - 16);
            k.bias[p] = r.d >> (8 + g) & 1 ? 4 : 0;
        }
    }
};

CODES void open_plane_word(uint32_t code, uint32_t kind, uint32_t &first, uint32_t &second) {
    if (kind == PLANES_PLAIN) {
        first = code & 0x07070707u, second = code >> 4 & 0x07070707u;
        return;
    }
    const uint32_t low = kind == PLANES_V2 ? levels_v2(0) : levels_v3(0), high = levels_v3(1);
    const uint32_t a = prmt(low, high, code), b = prmt(low, high, code >> 16);
    first = prmt(a, b, 0x6420), second = prmt(a, b, 0x7531);
}
CODES void open_planes(const half_kept &k, uint32_t (&word)[8]) {
    open_plane_word(k.q.x, k.x, word[0], word[4]);
    open_plane_word(k.q.y, k.x, word[1], word[5]);
    open_plane_word(k.q.z, k.x, word[2], word[6]);
    open_plane_word(k.q.w, k.x, word[3], word[7]);
}

/* ---- blocks of 32 -------------------------------------------------------------------------------------------- */

/* x: bit k is the fifth of weight k; h.x, h.y of Q6_0: its upper bits, which others have as 0. */

template <> struct codes<TYPE_Q4_1> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of_half(m, slice, half);
        r.q = ld128(field_of(m, 0, b, 16)), r.d = load_u32(field_of(m, 16, b, 4));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q = r.q, k.x = k.h.x = k.h.y = 0;
        set_scales(k, half_bits(r.d)), set_mins(k, -half_bits(r.d >> 16)), set_biases(k, 0);
    }
};

template <> struct codes<TYPE_Q5_0> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of_half(m, slice, half);
        r.q = ld128(field_of(m, 0, b, 16)), r.x = load_u32(field_of(m, 16, b, 4)), r.d = load_u16(field_of(m, 20, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q = r.q, k.x = r.x, k.h.x = k.h.y = 0;
        set_scales(k, half_bits(r.d)), set_mins(k, 0), set_biases(k, -16);
    }
};

template <> struct codes<TYPE_Q5_1> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of_half(m, slice, half);
        r.q = ld128(field_of(m, 0, b, 16)), r.s = ld64(field_of(m, 16, b, 8));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q = r.q, k.x = r.s.y, k.h.x = k.h.y = 0;
        set_scales(k, half_bits(r.s.x)), set_mins(k, -half_bits(r.s.x >> 16)), set_biases(k, 0);
    }
};

template <> struct codes<TYPE_Q6_0> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of_half(m, slice, half);
        r.q = ld128(field_of(m, 0, b, 16)), r.s = ld64(field_of(m, 16, b, 8)), r.d = load_u16(field_of(m, 24, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q = r.q, k.x = 0, k.h.x = r.s.x, k.h.y = r.s.y;
        set_scales(k, half_bits(r.d)), set_mins(k, 0), set_biases(k, -32);
    }
};

CODES void open_blocks(const half_kept &k, uint32_t (&word)[8]) {
    const uint32_t w[4] = {k.q.x, k.q.y, k.q.z, k.q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        /* Of a byte's nibble bits 0, 1: weight j's; 2, 3: weight 16 + j's. */
        const uint32_t e = (i % 2 ? k.h.y : k.h.x) >> 4 * (i / 2);
        word[i] = (w[i] & 0x0f0f0f0fu) | (e << 4 & 0x30303030u);
        word[4 + i] = (w[i] >> 4 & 0x0f0f0f0fu) | (e << 2 & 0x30303030u);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) word[i] |= (k.x >> 4 * i & 15) * 0x02040810u & 0x10101010u;
}

/* ---- the other codebooks ------------------------------------------------------------------------------------- */

/* All eight signs of a 7-bit code: bit 7 makes their number even. */
CODES uint32_t signs_of(uint32_t code) { return code | (__popc(code) & 1) << 7; }

/* Bit l of eight to bit 4l + 2. */
CODES uint32_t spread_signs(uint32_t signs) {
    uint32_t s = (signs | signs << 12) & 0x000f000fu;
    s = (s | s << 6) & 0x03030303u;
    return (s << 2 | s << 5) & 0x44444444u;
}

/* 0 or -1 in each byte: bits 0 .. 3 of n. */
CODES uint32_t mask_of(uint32_t n) { return prmt(n * 0x10204080u, 0, 0xba98); }

/* q.x: indices, x: sign codes. */
template <> struct codes<TYPE_IQ2_XXS> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        r.s = ld64(field_of(m, 0, b, 64) + 16 * (slice % 4) + 8 * half), r.d = load_u16(field_of(m, 64, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q.x = r.s.x, k.x = r.s.y;
        set_scales(k, half_bits(r.d) * (static_cast<float>(r.s.y >> 28) + 0.5f) * 0.25f);
    }
    CODES void open(const half_kept &k, uint32_t, uint32_t, const uint32_t *grid, uint32_t (&word)[8]) {
#pragma unroll
        for (int u = 0; u < 4; u++) open_unit(grid[byte_of(k.q.x, u)] | spread_signs(signs_of(k.x >> 7 * u & 127)), word, u);
    }
};

/* q.x, q.y: indices and sign codes. */
template <> struct codes<TYPE_IQ2_XS> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        r.s = ld64(field_of(m, 0, b, 64) + 16 * (slice % 4) + 8 * half);
        r.x = field_of(m, 64, b, 8)[group_of(slice, half)], r.d = load_u16(field_of(m, 72, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q.x = r.s.x, k.q.y = r.s.y;
        prepare_scales_iq2(r.d, r.x, k);
    }
    CODES void open(const half_kept &k, uint32_t, uint32_t, const uint32_t *grid, uint32_t (&word)[8]) {
#pragma unroll
        for (int u = 0; u < 4; u++) {
            const uint32_t v = (u < 2 ? k.q.x : k.q.y) >> 16 * (u % 2) & 0xffffu;
            open_unit(grid[v & 511] | spread_signs(signs_of(v >> 9)), word, u);
        }
    }
};

/* q.x, q.y: indices, x: sign codes. */
template <> struct codes<TYPE_IQ3_XXS> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        r.s = ld64(field_of(m, 0, b, 64) + 16 * (slice % 4) + 8 * half);
        r.x = load_u32(field_of(m, 64, b, 32) + 8 * (slice % 4) + 4 * half), r.d = load_u16(field_of(m, 96, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q.x = r.s.x, k.q.y = r.s.y, k.x = r.x;
        set_scales(k, half_bits(r.d) * (static_cast<float>(r.x >> 28) + 0.5f) * 0.5f);
    }
    CODES void open(const half_kept &k, uint32_t, uint32_t, const uint32_t *grid, uint32_t (&word)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t mask = mask_of(signs_of(k.x >> 7 * (i / 2) & 127) >> 4 * (i % 2) & 15);
            /* No magnitude is 0: no carry. */
            word[i] = (grid[byte_of(i < 4 ? k.q.x : k.q.y, i % 4)] ^ mask) + (mask & 0x01010101u);
        }
    }
};

/* Levels in eighths, 8 g +- 1 of g = -1, 0, 1; bit 2 of a selector: down. */
CODES void open_ternary(uint32_t entry, bool down, uint32_t (&word)[8], int unit) {
    const uint32_t selector = entry | (down ? 0x44444444u : 0);
    word[2 * unit] = prmt(0x000901f9u, 0x0007fff7u, selector);
    word[2 * unit + 1] = prmt(0x000901f9u, 0x0007fff7u, selector >> 16);
}

/* q.x: indices, x: their upper bits and the direction. */
template <> struct codes<TYPE_IQ1_S> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        const uint32_t g = group_of(slice, half);
        r.q.x = load_u32(field_of(m, 0, b, 32) + 4 * g), r.x = load_u16(field_of(m, 32, b, 16) + 2 * g);
        r.d = load_u16(field_of(m, 48, b, 2));
    }
    CODES void prepare(const half_raw &r, uint32_t, uint32_t, half_kept &k) {
        k.q.x = r.q.x, k.x = r.x;
        set_scales(k, half_bits(r.d) * static_cast<float>(2 * (r.x >> 12 & 7) + 1) * 0.125f);
    }
    CODES void open(const half_kept &k, uint32_t, uint32_t, const uint32_t *grid, uint32_t (&word)[8]) {
#pragma unroll
        for (int u = 0; u < 4; u++) open_ternary(grid[byte_of(k.q.x, u) | (k.x >> 3 * u & 7) << 8], k.x >> 15, word, u);
    }
};

template <> struct codes<TYPE_IQ1_M> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {
        const uint64_t b = block_of(m, slice);
        const uint32_t g = group_of(slice, half);
        r.q.x = load_u32(field_of(m, 0, b, 32) + 4 * g), r.x = load_u16(field_of(m, 32, b, 16) + 2 * g);
        r.s = ld64(field_of(m, 48, b, 8));
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        k.q.x = r.q.x, k.x = r.x;
        const uint32_t bits = (r.s.x >> 12 & 15) | (r.s.x >> 24 & 0xf0) | (r.s.y >> 4 & 0xf00) | (r.s.y >> 16 & 0xf000);
        const uint32_t j = slice % 4, word = (j < 2 ? r.s.x : r.s.y) >> (16 * (j % 2) + 6 * half);
        const float d = half_bits(bits) * 0.125f;
        k.scale[0] = d * static_cast<float>(2 * (word & 7) + 1), k.scale[1] = d * static_cast<float>(2 * (word >> 3 & 7) + 1);
    }
    CODES void open(const half_kept &k, uint32_t, uint32_t, const uint32_t *grid, uint32_t (&word)[8]) {
#pragma unroll
        for (int u = 0; u < 4; u++) {
            const uint32_t e = nibble_of(k.x, u);
            open_ternary(grid[byte_of(k.q.x, u) | (e & 7) << 8], e >> 3, word, u);
        }
    }
};

/* The grid has two levels a code. q: the codes, a byte each. */
template <> struct codes<TYPE_IQ2_KL> {
    CODES void fetch(half_raw &r, const coded_row &m, uint32_t slice, uint32_t) {
        const uint64_t b = block_of(m, slice);
        r.q = ldu4(field_of(m, 0, b, 64) + 16 * (slice % 4)), r.h = ldu4(field_of(m, 64, b, 16));
        r.s.x = load_u32(field_of(m, 80, b, 4)), r.d = load_u16(field_of(m, 84, b, 2));
        r.row = row_scale_16(m, sizeof(struct block_iq2_kl));
    }
    CODES uint32_t codes_of(uint32_t q, uint32_t h, uint32_t half, uint32_t g) {
        return (q >> 4 * half & 0x0f0f0f0fu) | (h >> g & 0x01010101u) << 4;
    }
    CODES void prepare(const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {
        const uint32_t g = group_of(slice, half), low = nibble_of(r.s.x, 2 * (g % 4) + g / 4);
        k.q = make_uint4(codes_of(r.q.x, r.h.x, half, g), codes_of(r.q.y, r.h.y, half, g), codes_of(r.q.z, r.h.z, half, g),
                         codes_of(r.q.w, r.h.w, half, g));
        set_scales(k, r.row * static_cast<float>(static_cast<int>(low + 16 * (r.d >> 2 * g & 3)) - 32));
    }
    CODES void open(const half_kept &k, uint32_t, uint32_t, const uint32_t *grid, uint32_t (&word)[8]) {
        const uint32_t code[4] = {k.q.x, k.q.y, k.q.z, k.q.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            word[2 * i] = grid[byte_of(code[i], 0)] | grid[byte_of(code[i], 1)] << 16;
            word[2 * i + 1] = grid[byte_of(code[i], 2)] | grid[byte_of(code[i], 3)] << 16;
        }
    }
};

/* ---- families ------------------------------------------------------------------------------------------------ */

/* Both halves, if there are two. */
template <enum tensor_type TYPE> CODES void fetch_slice(half_raw (&r)[2], const coded_row &m, uint32_t slice, bool both) {
    if constexpr (TYPE == TYPE_IQ2_S || TYPE == TYPE_IQ3_S) {
        codes<TYPE>::fetch_slice(r, m, slice);
    } else {
        codes<TYPE>::fetch(r[0], m, slice, 0);
        if (both) codes<TYPE>::fetch(r[1], m, slice, 1);
    }
}

struct slice_kept {
    half_kept half[2];
};

/* Slices of R rows: all loads first. */
template <enum tensor_type TYPE, int R>
CODES void keep_rows(slice_kept (&k)[R], const coded_row (&m)[R], uint32_t slice, bool both) {
    half_raw raw[R][2];
#pragma unroll
    for (int i = 0; i < R; i++) fetch_slice<TYPE>(raw[i], m[i], slice, both);
#pragma unroll
    for (int i = 0; i < R; i++) {
        codes<TYPE>::prepare(raw[i][0], slice, 0, k[i].half[0]);
        if (both) codes<TYPE>::prepare(raw[i][1], slice, 1, k[i].half[1]);
    }
}

/* What kernels of a family know at compile time. fetch(), prepare() and both in one, keep(), ask for the type; open() does
 * where opening differs. MIN, BIASED: whether a type has minima, biases other than 0. SMALL: has types with blocks of 32, whose
 * rows may end with half a slice. GRID: words of the largest grid. */
template <int FAMILY> struct family;

#define KEEP_ROWS_CASE(suffix) case TYPE_##suffix: keep_rows<TYPE_##suffix, R>(k, m, slice, both); break;
#define FETCH_CASE(suffix) case TYPE_##suffix: codes<TYPE_##suffix>::fetch(r, m, slice, half); break;
#define PREPARE_CASE(suffix) case TYPE_##suffix: codes<TYPE_##suffix>::prepare(r, slice, half, k); break;
#define OPEN_CASE(suffix) case TYPE_##suffix: codes<TYPE_##suffix>::open(k, slice, half, grid, word); break;

#define FAMILY_BEGIN(name, list, order, min_, biased, small, grid_)                                                            \
    template <> struct family<FAMILY_##name> : order {                                                                         \
        enum { MIN = min_, BIASED = biased, SMALL = small, GRID = grid_ };                                                     \
        template <int R> CODES void keep(int type, slice_kept (&k)[R], const coded_row (&m)[R], uint32_t slice, bool both) {   \
            switch (type) { list(KEEP_ROWS_CASE) default: __builtin_unreachable(); }                                           \
        }                                                                                                                      \
        CODES void fetch(int type, half_raw &r, const coded_row &m, uint32_t slice, uint32_t half) {                           \
            switch (type) { list(FETCH_CASE) default: __builtin_unreachable(); }                                               \
        }                                                                                                                      \
        CODES void prepare(int type, const half_raw &r, uint32_t slice, uint32_t half, half_kept &k) {                         \
            switch (type) { list(PREPARE_CASE) default: __builtin_unreachable(); }                                             \
        }                                                                                                                      \
        CODES void open(int type, const half_kept &k, uint32_t slice, uint32_t half, const uint32_t *grid,                     \
                        uint32_t (&word)[8]) {
#define FAMILY_END \
        }          \
    };

FAMILY_BEGIN(GRID2, GPU_TYPES_GRID2, order_natural, 0, 0, 0, GPU_GRID_IQ2_S_WORDS)
    (void)type;
    codes<TYPE_IQ2_S>::open(k, slice, half, grid, word);
FAMILY_END
FAMILY_BEGIN(GRID3, GPU_TYPES_GRID3, order_natural, 1, 0, 0, GPU_GRID_IQ3_S_WORDS)
    (void)type;
    codes<TYPE_IQ3_S>::open(k, slice, half, grid, word);
FAMILY_END
FAMILY_BEGIN(HALVES, GPU_TYPES_HALVES, order_natural, 0, 1, 1, 0)
    (void)type, (void)slice, (void)half, (void)grid;
    open_halves(k, word);
FAMILY_END
FAMILY_BEGIN(PAIRS, GPU_TYPES_PAIRS, order_pairs, 0, 1, 0, 0)
    (void)slice, (void)half, (void)grid;
    if (type == TYPE_IQ6_K) open_pairs_64(k, word);
    else open_pairs_32(k, word);
FAMILY_END
FAMILY_BEGIN(PLANES, GPU_TYPES_PLANES, order_planes, 1, 1, 0, 0)
    (void)type, (void)slice, (void)half, (void)grid;
    open_planes(k, word);
FAMILY_END
FAMILY_BEGIN(BLOCKS, GPU_TYPES_BLOCKS, order_natural, 1, 1, 1, 0)
    (void)type, (void)slice, (void)half, (void)grid;
    open_blocks(k, word);
FAMILY_END
FAMILY_BEGIN(GRIDS, GPU_TYPES_GRIDS, order_natural, 0, 0, 0, GPU_GRID_IQ1_WORDS)
    switch (type) { GPU_TYPES_GRIDS(OPEN_CASE) default: __builtin_unreachable(); }
FAMILY_END

/* The type's grid, of the tables on the device, in the block's shared memory; NULL without one. All threads call; ends with a
 * barrier. */
template <int FAMILY> static __device__ __forceinline__ const uint32_t *block_grid(int type, const uint32_t *tables) {
    if constexpr (family<FAMILY>::GRID > 0) {
        SHARED(uint32_t, grid, family<FAMILY>::GRID);
        const gpu_grid g = gpu_grid_of(type);
        for (uint32_t i = 4 * threadIdx.x; i < g.words; i += 4 * blockDim.x) stu4(grid + i, ldu4(tables + g.at + i));
        __syncthreads();
        return grid;
    } else {
        return NULL;
    }
}

#endif
