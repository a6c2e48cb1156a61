/* From the device's layouts (gpu/layout.h) to numbers a lane can multiply: one `unpack` a weight type, for matrix-vector
 * products.
 *
 * A row is cut into slices, and a lane owns a slice: 64 weights of the int8 types, 16 bytes of the float types. load() issues
 * the slice's loads and nothing else, so that FLIGHT rows are in flight; open() does the arithmetic. Opened int8 slices come in
 * two kinds:
 *
 *     GROUP 32   two groups of 32 consecutive weights, word 8g+i = weights 64*slice + 32g + 4i .. +3
 *                w = scale[g] * level - min[g]
 *     GROUP 16   four groups of 16, word 4p+i = weights position(slice, p) + 4i .. +3
 *                w = scale[p] * (level - BIAS)
 *
 * Levels are bytes, unsigned ones below 128. Types whose kernels are shared by a family have PIECES in place of a group: codes.cuh
 * says how to open them. */
#ifndef COLDSTREAM_GPU_UNPACK_CUH
#define COLDSTREAM_GPU_UNPACK_CUH

#include "gpu/cu.h"
#include "gpu/layout.h"
#include "gpu/words.cuh"

/* X(enum suffix): the types with kernels of their own. */
#define GPU_MATVEC_TYPES(X) X(F32) X(F16) X(BF16) X(Q4_0) X(Q8_0) X(Q4_K) X(Q5_K) X(Q6_K)

/* A matrix as a kernel reads it. The rest is for types of a family (codes.cuh): which it is, the weights of its blocks, the tables
 * on the device, and once the kernel has it the grid in shared memory. */
struct weights {
    const uint8_t *data;
    uint32_t rows, k;
    int type;
    uint32_t block;
    const uint32_t *tables, *grid;
};

enum { PIECES = 64 };

template <int TYPE> struct unpack;

/* Which form of the activations a type multiplies. */
enum { WANT_FLOATS = 1, WANT_INT8 = 2, WANT_S32 = 4, WANT_SUM16 = 8 };

static inline GPU_BOTH uint32_t gpu_wants(int type) {
    switch (type) {
#define GPU_CASE_TRELLIS(suffix) case TYPE_##suffix:
    GPU_TRELLIS_TYPES(GPU_CASE_TRELLIS)
#undef GPU_CASE_TRELLIS
    case TYPE_F32:
    case TYPE_F16:
    case TYPE_BF16: return WANT_FLOATS;
    case TYPE_Q4_0:
    case TYPE_Q8_0:
    case TYPE_Q4_K:
    case TYPE_Q5_K: return WANT_INT8 | WANT_S32;
    default: return WANT_INT8 | WANT_SUM16;
    }
}

/* ---- float types: a slice is 16 bytes of a row, or what is left of it ------------------------------------------- */

/* SIZE bytes a weight; TYPE turns the bits of one into a float. */
template <int TYPE, int SIZE> struct unpack_floats {
    enum { GROUP = 0, BYTES = SIZE, WEIGHTS = 16 / SIZE, FLIGHT = 2 };
    struct raw {
        uint32_t bits[4];
    };
    static __device__ __forceinline__ void load(raw &r, const weights &m, uint32_t row, uint32_t slice) {
        const uint8_t *at = m.data + (static_cast<uint64_t>(row) * m.k + slice * WEIGHTS) * SIZE;
        if (m.k % WEIGHTS == 0) {
            const uint4 v = ld128(at);
            r.bits[0] = v.x, r.bits[1] = v.y, r.bits[2] = v.z, r.bits[3] = v.w;
            return;
        }
        const uint32_t left = m.k - slice * WEIGHTS;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            if (SIZE == 4)
                r.bits[i] = i < left ? reinterpret_cast<const uint32_t *>(at)[i] : 0;
            else
                r.bits[i] = (2 * i < left ? load_u16(at + 4 * i) : 0) | (2 * i + 1 < left ? load_u16(at + 4 * i + 2) << 16 : 0);
        }
    }
};

template <> struct unpack<TYPE_F32> : unpack_floats<TYPE_F32, 4> {
    static __device__ __forceinline__ float weight(const raw &r, int i) { return __uint_as_float(r.bits[i]); }
};
template <> struct unpack<TYPE_F16> : unpack_floats<TYPE_F16, 2> {
    static __device__ __forceinline__ float weight(const raw &r, int i) { return half_bits(r.bits[i / 2] >> 16 * (i & 1)); }
};
template <> struct unpack<TYPE_BF16> : unpack_floats<TYPE_BF16, 2> {
    static __device__ __forceinline__ float weight(const raw &r, int i) {
        return __uint_as_float(i & 1 ? r.bits[i / 2] & 0xffff0000u : r.bits[i / 2] << 16);
    }
};

/* ---- two groups of 32 ------------------------------------------------------------------------------------------- */

struct levels32 {
    uint32_t word[16];
    float scale[2], min[2];
};

static __device__ __forceinline__ void low_nibbles(uint32_t *to, uint4 v) {
    to[0] = v.x & 0x0f0f0f0fu, to[1] = v.y & 0x0f0f0f0fu, to[2] = v.z & 0x0f0f0f0fu, to[3] = v.w & 0x0f0f0f0fu;
}
static __device__ __forceinline__ void high_nibbles(uint32_t *to, uint4 v) {
    to[0] = v.x >> 4 & 0x0f0f0f0fu, to[1] = v.y >> 4 & 0x0f0f0f0fu, to[2] = v.z >> 4 & 0x0f0f0f0fu,
    to[3] = v.w >> 4 & 0x0f0f0f0fu;
}

/* Blocks of 32 weights: a slice is two of them, the last one of an odd row a single one, whose second group counts nothing. */
struct pair_of_blocks {
    uint64_t first, total;
    bool both;
};
static __device__ __forceinline__ pair_of_blocks blocks_of_slice(const weights &m, uint32_t row, uint32_t slice) {
    const uint32_t in_row = m.k / 32;
    return pair_of_blocks{static_cast<uint64_t>(row) * in_row + 2 * slice, static_cast<uint64_t>(m.rows) * in_row,
                          2 * slice + 1 < in_row};
}

template <> struct unpack<TYPE_Q4_0> {
    enum { GROUP = 32, WEIGHTS = 64, FLIGHT = 2 };
    struct raw {
        uint4 q[2];
        uint32_t d[2];
    };
    typedef levels32 levels;
    static __device__ __forceinline__ void load(raw &r, const weights &m, uint32_t row, uint32_t slice) {
        const pair_of_blocks b = blocks_of_slice(m, row, slice);
        const uint8_t *q = gpu_field(m.data, b.total, GPU_Q4_0_QS, b.first, 16),
                      *d = gpu_field(m.data, b.total, GPU_Q4_0_D, b.first, 2);
        r.q[0] = ld128(q), r.q[1] = ld128(b.both ? q + 16 : q);
        r.d[0] = load_u16(d), r.d[1] = b.both ? load_u16(d + 2) : 0;
    }
    static __device__ __forceinline__ void open(const raw &r, uint32_t, levels &l) {
#pragma unroll
        for (int g = 0; g < 2; g++) {
            low_nibbles(l.word + 8 * g, r.q[g]);
            high_nibbles(l.word + 8 * g + 4, r.q[g]);
            l.scale[g] = half_bits(r.d[g]);
            l.min[g] = 8 * l.scale[g];
        }
    }
};

template <> struct unpack<TYPE_Q8_0> {
    enum { GROUP = 32, WEIGHTS = 64, FLIGHT = 2 };
    struct raw {
        uint4 q[4];
        uint32_t d[2];
    };
    typedef levels32 levels;
    static __device__ __forceinline__ void load(raw &r, const weights &m, uint32_t row, uint32_t slice) {
        const pair_of_blocks b = blocks_of_slice(m, row, slice);
        const uint8_t *q = gpu_field(m.data, b.total, GPU_Q8_0_QS, b.first, 32),
                      *d = gpu_field(m.data, b.total, GPU_Q8_0_D, b.first, 2);
        const uint8_t *second = b.both ? q + 32 : q;
        r.q[0] = ld128(q), r.q[1] = ld128(q + 16), r.q[2] = ld128(second), r.q[3] = ld128(second + 16);
        r.d[0] = load_u16(d), r.d[1] = b.both ? load_u16(d + 2) : 0;
    }
    static __device__ __forceinline__ void open(const raw &r, uint32_t, levels &l) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            l.word[4 * i] = r.q[i].x, l.word[4 * i + 1] = r.q[i].y, l.word[4 * i + 2] = r.q[i].z, l.word[4 * i + 3] = r.q[i].w;
        l.scale[0] = half_bits(r.d[0]), l.scale[1] = half_bits(r.d[1]);
        l.min[0] = l.min[1] = 0;
    }
};

/* Scales and minima of groups 2j and 2j+1 from a block's first 16 bytes, two bytes each (struct block_q4_k). */
static __device__ __forceinline__ void open_scales_k(uint4 head, uint32_t j, levels32 &l) {
    const uint32_t at = 16 * (j & 1);
    const uint32_t scales = j < 2 ? head.y >> at & 0x3f3fu : (head.w >> at & 0x0f0fu) | (head.y >> (at + 2) & 0x3030u);
    const uint32_t mins = j < 2 ? head.z >> at & 0x3f3fu : (head.w >> (at + 4) & 0x0f0fu) | (head.z >> (at + 2) & 0x3030u);
    const float d = half_bits(head.x), dmin = half_bits(head.x >> 16);
    l.scale[0] = d * static_cast<float>(scales & 0xff), l.scale[1] = d * static_cast<float>(scales >> 8);
    l.min[0] = dmin * static_cast<float>(mins & 0xff), l.min[1] = dmin * static_cast<float>(mins >> 8);
}

static __device__ __forceinline__ const uint8_t *block_of_256(const weights &m, uint32_t row, uint32_t slice, uint32_t bytes) {
    return m.data + (static_cast<uint64_t>(row) * (m.k / QK_K) + slice / 4) * bytes;
}

template <> struct unpack<TYPE_Q4_K> {
    enum { GROUP = 32, WEIGHTS = 64, FLIGHT = 2 };
    struct raw {
        uint4 head, q[2];
    };
    typedef levels32 levels;
    static __device__ __forceinline__ void load(raw &r, const weights &m, uint32_t row, uint32_t slice) {
        const uint8_t *block = block_of_256(m, row, slice, sizeof(block_q4_k)), *q = block + 16 + 32 * (slice % 4);
        r.head = ld128(block), r.q[0] = ld128(q), r.q[1] = ld128(q + 16);
    }
    static __device__ __forceinline__ void open(const raw &r, uint32_t slice, levels &l) {
        low_nibbles(l.word, r.q[0]), low_nibbles(l.word + 4, r.q[1]);
        high_nibbles(l.word + 8, r.q[0]), high_nibbles(l.word + 12, r.q[1]);
        open_scales_k(r.head, slice % 4, l);
    }
};

template <> struct unpack<TYPE_Q5_K> {
    enum { GROUP = 32, WEIGHTS = 64, FLIGHT = 2 };
    struct raw {
        uint4 head, high[2], q[2];
    };
    typedef levels32 levels;
    static __device__ __forceinline__ void load(raw &r, const weights &m, uint32_t row, uint32_t slice) {
        const uint8_t *block = block_of_256(m, row, slice, sizeof(block_q5_k)), *q = block + 48 + 32 * (slice % 4);
        r.head = ld128(block), r.high[0] = ld128(block + 16), r.high[1] = ld128(block + 32), r.q[0] = ld128(q),
        r.q[1] = ld128(q + 16);
    }
    static __device__ __forceinline__ void open(const raw &r, uint32_t slice, levels &l) {
        low_nibbles(l.word, r.q[0]), low_nibbles(l.word + 4, r.q[1]);
        high_nibbles(l.word + 8, r.q[0]), high_nibbles(l.word + 12, r.q[1]);
        const uint32_t bit = 2 * (slice % 4); // of group 2j; the next one is group 2j+1's
        const uint32_t h[8] = {r.high[0].x, r.high[0].y, r.high[0].z, r.high[0].w,
                               r.high[1].x, r.high[1].y, r.high[1].z, r.high[1].w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t two = h[i] >> bit;
            l.word[i] |= two << 4 & 0x10101010u;
            l.word[8 + i] |= two << 3 & 0x10101010u;
        }
        open_scales_k(r.head, slice % 4, l);
    }
};

/* ---- four groups of 16 ------------------------------------------------------------------------------------------ */

struct levels16 {
    uint32_t word[16];
    float scale[4];
};

/* Lane 2H+h of a block has bytes 16h..16h+15 of half H's low and high bits: weights 128H + 32p + 16h .. +15 of 4 planes. */
template <> struct unpack<TYPE_Q6_K> {
    enum { GROUP = 16, WEIGHTS = 64, FLIGHT = 2, BIAS = 32 };
    struct raw {
        uint4 low[2], high;
        uint2 scales;
        uint32_t d;
    };
    typedef levels16 levels;
    static __device__ __forceinline__ uint32_t position(uint32_t slice, int p) {
        return 256 * (slice / 4) + 128 * (slice / 2 % 2) + 16 * (slice % 2) + 32 * p;
    }
    static __device__ __forceinline__ void load(raw &r, const weights &m, uint32_t row, uint32_t slice) {
        const uint32_t in_row = m.k / QK_K, half = slice / 2 % 2, h = slice % 2;
        const uint64_t total = static_cast<uint64_t>(m.rows) * in_row, b = static_cast<uint64_t>(row) * in_row + slice / 4;
        const uint8_t *low = gpu_field(m.data, total, GPU_Q6_K_QL, b, 128) + 64 * half + 16 * h;
        r.low[0] = ld128(low), r.low[1] = ld128(low + 32);
        r.high = ld128(gpu_field(m.data, total, GPU_Q6_K_QH, b, 64) + 32 * half + 16 * h);
        r.scales = ld64(gpu_field(m.data, total, GPU_Q6_K_SCALES, b, 16) + 8 * half);
        r.d = load_u16(gpu_field(m.data, total, GPU_Q6_K_D, b, 2));
    }
    static __device__ __forceinline__ void open(const raw &r, uint32_t slice, levels &l) {
        low_nibbles(l.word, r.low[0]), low_nibbles(l.word + 4, r.low[1]);
        high_nibbles(l.word + 8, r.low[0]), high_nibbles(l.word + 12, r.low[1]);
        const uint32_t high[4] = {r.high.x, r.high.y, r.high.z, r.high.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            l.word[i] |= high[i] << 4 & 0x30303030u;
            l.word[4 + i] |= high[i] << 2 & 0x30303030u;
            l.word[8 + i] |= high[i] & 0x30303030u;
            l.word[12 + i] |= high[i] >> 2 & 0x30303030u;
        }
        const float d = half_bits(r.d);
        const uint32_t at = 8 * (slice % 2), s[2] = {r.scales.x >> at, r.scales.y >> at};
#pragma unroll
        for (int p = 0; p < 4; p++) l.scale[p] = d * static_cast<float>(static_cast<int8_t>(s[p / 2] >> 16 * (p % 2)));
    }
};

#endif
