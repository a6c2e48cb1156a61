/* EXL3 weights out of their tiles: what steps (trellis.cu) and prompts (trellis_tiles.cu) decode them with, and the transform
 * on either side of a product, y = out_scale . H(H(in_scale . x) W). Format and its constants: core/tensor.h, docs of EXL3.
 *
 * A tile is 16 inputs x 16 outputs, decoded by a warp: lane L has the weights 8L .. 8L+7 of its stream, which are the B
 * fragments of two mma of 16x8x16 (ptx.h): inputs 2 (L % 4) and the next, and those 8 further, of outputs L / 4 and 8 + L / 4.
 * Nothing has to change lanes. Weight j is chosen by the 16 bits that end with the (j + 1) * bits-th of the lane's 8 * bits: a
 * window of 8 * bits + 16 bits of the tile's stream, which begins before the tile's first bit at its end. */
#ifndef COLDSTREAM_GPU_TRELLIS_CUH
#define COLDSTREAM_GPU_TRELLIS_CUH

#include "gpu/layout.h"
#include "gpu/words.cuh"

/* ---- a matrix --------------------------------------------------------------------------------------------------------- */

struct trellis {
    const uint8_t *tiles, *in_scale, *out_scale;
    uint64_t stride; /* bytes from an input's tiles to the next one's */
    uint32_t bits, codebook;
};

/* `type` says how large the room of the tiles is (gpu/layout.h). */
static __device__ __forceinline__ trellis trellis_of(const uint8_t *matrix, int type, uint32_t rows, uint32_t k) {
    const uint2 label = ld64(matrix + gpu_trellis_label_at(type, rows, k));
    return trellis{matrix,
                   matrix + gpu_trellis_in_scale(type, rows, k),
                   matrix + gpu_trellis_out_scale(type, rows, k),
                   static_cast<uint64_t>(rows) * 2 * label.x,
                   label.x,
                   label.y};
}

/* ---- the stream ------------------------------------------------------------------------------------------------------- */

/* Where the lane's window is in a tile: the bytes of its words, the last one first, and by how much that one goes beyond it. */
struct trellis_window {
    uint32_t at[3], shift;
};

static __device__ __forceinline__ trellis_window window_of(uint32_t bits) {
    const uint32_t end = 8 * (threadIdx.x % 32 + 1) * bits, last = (end - 1) / 32, words = 8 * bits;
    trellis_window w;
#pragma unroll
    for (uint32_t i = 0; i < 3; i++) w.at[i] = 4 * (last >= i ? last - i : last + words - i);
    w.shift = 32 * (last + 1) - end;
    return w;
}

/* The window's words; the third one is only there with more than 4 bits. */
template <int WORDS>
static __device__ __forceinline__ void load_window(uint32_t (&raw)[WORDS], const uint8_t *tile, const trellis_window &w) {
#pragma unroll
    for (int i = 0; i < WORDS; i++) raw[i] = __ldg(reinterpret_cast<const uint32_t *>(tile + w.at[i]));
}

/* ---- the codebooks ---------------------------------------------------------------------------------------------------- */

/* Codebooks 0 and 1: the halves of state * factor + addend, masked, added up. Codebook 2 (mul1): its bytes' sum, scaled */
struct trellis_book {
    uint32_t factor, addend;
    bool mul1;
};

static __device__ __forceinline__ trellis_book book_of(uint32_t codebook) {
    return codebook == EXL3_MUL1  ? trellis_book{0x83dcd12du, 0, true}
           : codebook == EXL3_MCG ? trellis_book{0xcbac1fedu, 0, false}
                                  : trellis_book{89226354u, 64248484u, false};
}

/* Two weights in binary16 from two states of 16 bits. 1024 + a byte sum is binary16's bits 0x6400 + the sum. */
template <bool MUL1> static __device__ __forceinline__ uint32_t weigh_states(uint32_t s, uint32_t t, const trellis_book &b) {
    const uint32_t x = s * b.factor + b.addend, y = t * b.factor + b.addend;
    if (MUL1) return fma_f16x2(prmt(sum_bytes(x, 0x6400), sum_bytes(y, 0x6400), 0x5410), 0x1eee1eeeu, 0xc931c931u);
    const uint32_t low = (prmt(x, y, 0x5410) & 0x8fff8fffu) ^ 0x3b603b60u,
                   high = (prmt(x, y, 0x7632) & 0x8fff8fffu) ^ 0x3b603b60u;
    return add_f16x2(low, high);
}

/* The lane's eight weights: b[0], b[1] of output L / 4, b[2], b[3] of 8 + L / 4. About 45 instructions with constant bits, 60
 * without. */
template <int BITS, bool MUL1, int WORDS>
static __device__ __forceinline__ void open_tile(const uint32_t (&raw)[WORDS], uint32_t shift, const trellis_book &book,
                                                 uint32_t (&b)[4]) {
    static_assert(WORDS == (BITS > 4 ? 3 : 2), "the window's words");
    uint32_t n[3] = {raw[0], raw[1], WORDS == 3 ? raw[WORDS - 1] : 0};
    if (BITS % 4 != 0) { /* else windows end with a word */
        n[0] = funnel_right(n[0], n[1], shift);
        n[1] = WORDS == 3 ? funnel_right(n[1], n[2], shift) : n[1] >> shift;
        n[2] >>= shift;
    }
    uint32_t state[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const int from = (7 - j) * BITS, word = from / 32, bit = from % 32;
        state[j] = (bit <= 16 ? n[word] >> bit : funnel_right(n[word], n[word + 1], bit)) & 0xffffu;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) b[i] = weigh_states<MUL1>(state[2 * i], state[2 * i + 1], book);
}

/* The same for bits that are known at run time. */
template <bool MUL1>
static __device__ __forceinline__ void open_tile_of(uint32_t bits, const uint32_t (&raw)[3], uint32_t shift,
                                                    const trellis_book &book, uint32_t (&b)[4]) {
    uint32_t n0 = funnel_right(raw[0], raw[1], shift), n1 = funnel_right(raw[1], raw[2], shift), n2 = raw[2] >> shift, state[8];
#pragma unroll
    for (int j = 7; j >= 0; j--) {
        state[j] = n0 & 0xffffu;
        n0 = funnel_right(n0, n1, bits), n1 = funnel_right(n1, n2, bits), n2 >>= bits;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) b[i] = weigh_states<MUL1>(state[2 * i], state[2 * i + 1], book);
}

/* ---- the transform ---------------------------------------------------------------------------------------------------- */

#define TRELLIS_NORM 0.088388347648f /* 1 / sqrt(128) */

/* 128 values of a warp, lane l with 4l .. 4l+3, in place and not normed. */
static __device__ __forceinline__ void hadamard(float (&v)[4]) {
    const float a = v[0] + v[1], b = v[0] - v[1], c = v[2] + v[3], d = v[2] - v[3];
    v[0] = a + c, v[1] = b + d, v[2] = a - c, v[3] = b - d;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
        const bool upper = (threadIdx.x & step) != 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float other = warp_xor(v[i], static_cast<int>(step));
            v[i] = upper ? other - v[i] : v[i] + other;
        }
    }
}

/* Values `at` .. at + 3 of factors, and values times them. */
static __device__ __forceinline__ void times_factors(float (&v)[4], const uint8_t *factors, uint32_t at) {
    const uint2 f = ld64(factors + 2 * static_cast<uint64_t>(at));
    v[0] *= half_bits(f.x & 0xffffu), v[1] *= half_bits(f.x >> 16), v[2] *= half_bits(f.y & 0xffffu),
        v[3] *= half_bits(f.y >> 16);
}

/* What became of a block of outputs, lane l with 4l .. 4l+3: the transform and the factors. */
static __device__ __forceinline__ void finish_outputs(float (&v)[4], const trellis &m, uint32_t block) {
    hadamard(v);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] *= TRELLIS_NORM;
    times_factors(v, m.out_scale, GPU_TRELLIS_BLOCK * block + 4 * (threadIdx.x % 32));
}

/* No transformed value is larger than the values' norm: sqrt(128) times the largest. */
static __device__ __forceinline__ float transformed_power(float most) { return half_power(most * 11.4f); }

static __device__ __forceinline__ float largest(const float (&v)[4]) {
    return fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
}

static __device__ __forceinline__ uint32_t half_pair(float x, float y) {
    return __half_as_ushort(__float2half_rn(x)) | static_cast<uint32_t>(__half_as_ushort(__float2half_rn(y))) << 16;
}
/* 2^11 times what rounding took. */
static __device__ __forceinline__ float half_left(float v) { return (v - __half2float(__float2half_rn(v))) * 2048; }

#endif
