/* Weights out of their device layout (layout.h) into numbers, as tiles of a product want them: rows in slices of 64 columns, a
 * thread opening 32 columns of one row. A type is one specialization of `slice`; loads and arithmetic are apart (load() computes
 * nothing with what it loaded), so that loads of the next slice are under way while this one is multiplied.
 *
 * A slice's columns stand in eight units of 8. Their order follows from what is cheap to load (both nibbles of a byte belong to
 * one thread), not from the matrix: column(step, unit) says where unit `unit` of slice `step` begins in the row. The thread of half h
 * (0, 1) has units 4h .. 4h+3. A sum over columns does not care, as long as the other operand takes the same order.
 *
 * Levels become floats without a conversion: a byte put into the mantissa of 2^7 reads as 128 + byte (7 bits), into that of 2^15
 * as 32768 + byte (8 bits); the constant goes into the offset of w = scale * level + offset. Scales are exact in binary32
 * (11 + 8 bits); with a minimum the offset is rounded at 2^-17 of a scale, else w is rounded once. */
#ifndef COLDSTREAM_UNPACK_TILE_CUH
#define COLDSTREAM_UNPACK_TILE_CUH

#include "gpu/cu.h"
#include "gpu/layout.h"
#include "gpu/words.cuh"

enum { SLICE = 64, SLICE_UNIT = 8 };

static __device__ __forceinline__ uint32_t uint4_word(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

/* v = scale * byte + offset for the four bytes (each < 128) of two words; `offset` includes -128 * scale. */
static __device__ __forceinline__ void open_bytes7(uint32_t w0, uint32_t w1, float scale, float offset, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = fmaf(__uint_as_float(prmt(i < 4 ? w0 : w1, 0x43000000u, 0x7044u | (uint32_t)(i % 4) << 8)), scale, offset);
}

/* The same for bytes of 8 bits; `offset` includes -32768 * scale. */
static __device__ __forceinline__ void open_bytes8(uint32_t w0, uint32_t w1, float scale, float offset, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = fmaf(__uint_as_float(prmt(i < 4 ? w0 : w1, 0x47000000u, 0x7404u | (uint32_t)(i % 4) << 4)), scale, offset);
}

/* Columns of a slice in the order of the row. */
struct slice_plain {
    static __device__ __forceinline__ uint32_t column(uint32_t step, uint32_t unit) { return step * SLICE + unit * SLICE_UNIT; }
};

/* Slices of Q4_K and Q5_K: two groups of 32, whose weights l share a byte; half h has l = 16h .. 16h+15 of both. */
struct slice_groups {
    static __device__ __forceinline__ uint32_t column(uint32_t step, uint32_t unit) {
        return step * SLICE + (unit >> 2) * 16 + (unit >> 1 & 1) * 32 + (unit & 1) * SLICE_UNIT;
    }
};

/* Scale and offset of group 2 * pair + which from the first 16 bytes of a Q4_K or Q5_K block (d, dmin, 12 bytes of 6-bit pairs). */
static __device__ __forceinline__ void open_scale_k(const uint4 &head, uint32_t pair, int which, float *scale, float *offset) {
    const uint32_t shift = 16 * (pair & 1), at = 8 * (uint32_t)which;
    const uint32_t scales = pair < 2 ? head.y >> shift & 0x3f3fu : (head.w >> shift & 0x0f0fu) | (head.y >> (shift + 2) & 0x3030u);
    const uint32_t mins = pair < 2 ? head.z >> shift & 0x3f3fu : (head.w >> (shift + 4) & 0x0f0fu) | (head.z >> (shift + 2) & 0x3030u);
    *scale = half_bits(head.x & 0xffffu) * (float)(scales >> at & 255);
    *offset = -fmaf(half_bits(head.x >> 16), (float)(mins >> at & 255), 128 * *scale);
}

/* X(enum suffix): the types with kernels of their own. */
#define GPU_TILE_TYPES(X) X(F32) X(F16) X(BF16) X(Q4_0) X(Q8_0) X(Q4_K) X(Q5_K) X(Q6_K)

template <int TYPE> struct slice; /* TYPE: enum tensor_type; of families: coded_tile.cuh */

/* Every specialization:
 *   BLOCK                                      weights a block
 *   load(matrix, blocks, first, step, half)    of a matrix of `blocks` blocks, from the row that begins at block `first`
 *   zero()                                     what stands behind a row's end
 *   values<P>(v, step, half)                   unit 4 * half + P */

template <> struct slice<TYPE_F32> : slice_plain {
    enum { BLOCK = 1 };
    uint4 raw[8];
    __device__ __forceinline__ void load(const uint8_t *matrix, uint64_t, uint64_t first, uint32_t step, uint32_t half) {
        const uint8_t *p = matrix + (first + step * SLICE + half * 32) * 4;
#pragma unroll
        for (int i = 0; i < 8; i++) raw[i] = ld128(p + 16 * i);
    }
    __device__ __forceinline__ void zero() {
#pragma unroll
        for (int i = 0; i < 8; i++) raw[i] = make_uint4(0, 0, 0, 0);
    }
    template <int P> __device__ __forceinline__ void values(float (&v)[8], uint32_t, uint32_t) const {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = __uint_as_float(uint4_word(raw[2 * P + i / 4], i % 4));
    }
};

struct slice_half_words : slice_plain {
    enum { BLOCK = 1 };
    uint4 raw[4];
    __device__ __forceinline__ void load(const uint8_t *matrix, uint64_t, uint64_t first, uint32_t step, uint32_t half) {
        const uint8_t *p = matrix + (first + step * SLICE + half * 32) * 2;
#pragma unroll
        for (int i = 0; i < 4; i++) raw[i] = ld128(p + 16 * i);
    }
    __device__ __forceinline__ void zero() {
#pragma unroll
        for (int i = 0; i < 4; i++) raw[i] = make_uint4(0, 0, 0, 0);
    }
};

template <> struct slice<TYPE_F16> : slice_half_words {
    template <int P> __device__ __forceinline__ void values(float (&v)[8], uint32_t, uint32_t) const {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = half_bits(uint4_word(raw[P], i / 2) >> 16 * (i % 2) & 0xffffu);
    }
};

template <> struct slice<TYPE_BF16> : slice_half_words {
    template <int P> __device__ __forceinline__ void values(float (&v)[8], uint32_t, uint32_t) const {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t word = uint4_word(raw[P], i / 2);
            v[i] = __uint_as_float(i % 2 ? word & 0xffff0000u : word << 16);
        }
    }
};

template <> struct slice<TYPE_Q4_0> : slice_plain {
    enum { BLOCK = 32 };
    uint4 nibbles;
    uint32_t d;
    __device__ __forceinline__ void load(const uint8_t *matrix, uint64_t blocks, uint64_t first, uint32_t step, uint32_t half) {
        const uint64_t b = first + 2 * step + half;
        nibbles = ld128(gpu_field(matrix, blocks, GPU_Q4_0_QS, b, 16));
        d = load_u16(gpu_field(matrix, blocks, GPU_Q4_0_D, b, 2));
    }
    __device__ __forceinline__ void zero() {
        nibbles = make_uint4(0, 0, 0, 0);
        d = 0;
    }
    template <int P> __device__ __forceinline__ void values(float (&v)[8], uint32_t, uint32_t) const {
        const uint32_t w0 = uint4_word(nibbles, 2 * (P & 1)) >> 4 * (P >> 1), w1 = uint4_word(nibbles, 2 * (P & 1) + 1) >> 4 * (P >> 1);
        const float scale = half_bits(d);
        open_bytes7(w0 & 0x0f0f0f0fu, w1 & 0x0f0f0f0fu, scale, -(128 + 8) * scale, v);
    }
};

template <> struct slice<TYPE_Q8_0> : slice_plain {
    enum { BLOCK = 32 };
    uint4 low, high;
    uint32_t d;
    __device__ __forceinline__ void load(const uint8_t *matrix, uint64_t blocks, uint64_t first, uint32_t step, uint32_t half) {
        const uint64_t b = first + 2 * step + half;
        const uint8_t *q = gpu_field(matrix, blocks, GPU_Q8_0_QS, b, 32);
        low = ld128(q), high = ld128(q + 16);
        d = load_u16(gpu_field(matrix, blocks, GPU_Q8_0_D, b, 2));
    }
    __device__ __forceinline__ void zero() {
        low = high = make_uint4(0, 0, 0, 0);
        d = 0;
    }
    template <int P> __device__ __forceinline__ void values(float (&v)[8], uint32_t, uint32_t) const {
        const uint4 &q = P < 2 ? low : high;
        const uint32_t w0 = uint4_word(q, 2 * (P & 1)), w1 = uint4_word(q, 2 * (P & 1) + 1);
        const float scale = half_bits(d);
        open_bytes8(w0 ^ 0x80808080u, w1 ^ 0x80808080u, scale, -(32768 + 128) * scale, v); /* q + 128 is unsigned */
    }
};

template <> struct slice<TYPE_Q4_K> : slice_groups {
    enum { BLOCK = QK_K };
    uint4 head, nibbles;
    __device__ __forceinline__ void load(const uint8_t *matrix, uint64_t, uint64_t first, uint32_t step, uint32_t half) {
        const uint8_t *b = matrix + (first + step / 4) * sizeof(struct block_q4_k);
        head = ldu4(b); /* four slices in turn want it: leave it in L1 */
        nibbles = ld128(b + 16 + 32 * (step % 4) + 16 * half);
    }
    __device__ __forceinline__ void zero() { head = nibbles = make_uint4(0, 0, 0, 0); }
    template <int P> __device__ __forceinline__ void values(float (&v)[8], uint32_t step, uint32_t) const {
        float scale, offset;
        open_scale_k(head, step % 4, P >> 1, &scale, &offset);
        const uint32_t w0 = uint4_word(nibbles, 2 * (P & 1)) >> 4 * (P >> 1), w1 = uint4_word(nibbles, 2 * (P & 1) + 1) >> 4 * (P >> 1);
        open_bytes7(w0 & 0x0f0f0f0fu, w1 & 0x0f0f0f0fu, scale, offset, v);
    }
};

template <> struct slice<TYPE_Q5_K> : slice_groups {
    enum { BLOCK = QK_K };
    uint4 head, nibbles, fifth;
    __device__ __forceinline__ void load(const uint8_t *matrix, uint64_t, uint64_t first, uint32_t step, uint32_t half) {
        const uint8_t *b = matrix + (first + step / 4) * sizeof(struct block_q5_k);
        head = ldu4(b);
        fifth = ldu4(b + 16 + 16 * half);
        nibbles = ld128(b + 48 + 32 * (step % 4) + 16 * half);
    }
    __device__ __forceinline__ void zero() { head = nibbles = fifth = make_uint4(0, 0, 0, 0); }
    template <int P> __device__ __forceinline__ void values(float (&v)[8], uint32_t step, uint32_t) const {
        float scale, offset;
        open_scale_k(head, step % 4, P >> 1, &scale, &offset);
        uint32_t w[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t low = uint4_word(nibbles, 2 * (P & 1) + i) >> 4 * (P >> 1) & 0x0f0f0f0fu;
            w[i] = low | (uint4_word(fifth, 2 * (P & 1) + i) >> (2 * (step % 4) + (P >> 1)) & 0x01010101u) << 4;
        }
        open_bytes7(w[0], w[1], scale, offset, v);
    }
};

/* A slice of Q6_K: planes j and j + 2 of a half H (128 columns), whose weights l share a byte of ql; step % 4 = 2H + j. */
template <> struct slice<TYPE_Q6_K> {
    enum { BLOCK = QK_K };
    uint4 low, high;
    uint32_t d;
    int level[2]; /* scales of planes j, j + 2 */
    static __device__ __forceinline__ uint32_t column(uint32_t step, uint32_t unit) {
        return (step >> 2) * QK_K + (step >> 1 & 1) * 128 + (step & 1) * 32 + (unit >> 2) * 16 + (unit >> 1 & 1) * 64 + (unit & 1) * SLICE_UNIT;
    }
    __device__ __forceinline__ void load(const uint8_t *matrix, uint64_t blocks, uint64_t first, uint32_t step, uint32_t half) {
        const uint64_t b = first + step / 4;
        const uint32_t h = step >> 1 & 1, j = step & 1;
        low = ld128(gpu_field(matrix, blocks, GPU_Q6_K_QL, b, 128) + 64 * h + 32 * j + 16 * half);
        high = ldu4(gpu_field(matrix, blocks, GPU_Q6_K_QH, b, 64) + 32 * h + 16 * half);
        const int8_t *s = (const int8_t *)gpu_field(matrix, blocks, GPU_Q6_K_SCALES, b, 16) + 8 * h + 2 * j + half;
        level[0] = s[0], level[1] = s[4];
        d = load_u16(gpu_field(matrix, blocks, GPU_Q6_K_D, b, 2));
    }
    __device__ __forceinline__ void zero() {
        low = high = make_uint4(0, 0, 0, 0);
        d = 0, level[0] = level[1] = 0;
    }
    template <int P> __device__ __forceinline__ void values(float (&v)[8], uint32_t step, uint32_t) const {
        const uint32_t shift = 2 * (step & 1) + 4 * (P >> 1); /* of the plane's two bits in `high` */
        uint32_t w[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t nibble = uint4_word(low, 2 * (P & 1) + i) >> 4 * (P >> 1) & 0x0f0f0f0fu;
            w[i] = nibble | (uint4_word(high, 2 * (P & 1) + i) >> shift & 0x03030303u) << 4;
        }
        const float scale = half_bits(d) * (float)level[P >> 1];
        open_bytes7(w[0], w[1], scale, -(128 + 32) * scale, v);
    }
};

/* The unit's values in binary16, as eight halves. */
template <int P, int TYPE>
static __device__ __forceinline__ uint4 slice_halves(const slice<TYPE> &s, uint32_t step, uint32_t half) {
    if constexpr (TYPE == TYPE_F16) {
        return s.raw[P];
    } else {
        float v[8];
        s.template values<P>(v, step, half);
        uint32_t h[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const __half2 pair = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
            h[i] = (uint32_t)__half_as_ushort(__low2half(pair)) | (uint32_t)__half_as_ushort(__high2half(pair)) << 16;
        }
        return make_uint4(h[0], h[1], h[2], h[3]);
    }
}

#endif
