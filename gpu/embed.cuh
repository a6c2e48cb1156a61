/* A row of the embedding table, in the FILE's layout, from mapped host memory: a warp fetches 256 weights in whole words (every byte over
 * PCIe once, side by side) into shared memory and opens them there. Blocks are 2-byte aligned and read by bytes. */
#ifndef COLDSTREAM_EMBED_CUH
#define COLDSTREAM_EMBED_CUH

#include "gpu/cu.h"
#include "core/tensor.h"

enum { EMBED_WEIGHTS = 256, EMBED_BYTES = EMBED_WEIGHTS * 4 /* of a warp's shared memory */ };

static __device__ __forceinline__ float embed_half(const uint8_t *p) { return __half2float(__ushort_as_half((unsigned short)(p[0] | p[1] << 8))); }

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
    const uint32_t low = block[64 * half + 32 * (plane & 1) + l] >> 4 * (plane >> 1) & 15, high = block[128 + 32 * half + l] >> 2 * plane & 3;
    return embed_half(block + 208) * (float)(int8_t)block[192 + i / 16] * (float)((int)(low + 16 * high) - 32);
}

/* Weight i of the 256 at `p` (fewer at a row's end). */
static __device__ __forceinline__ float embed_weight(enum tensor_type type, const uint8_t *p, uint32_t i) {
    switch (type) {
        case TYPE_F32: return __uint_as_float((uint32_t)p[4 * i] | (uint32_t)p[4 * i + 1] << 8 | (uint32_t)p[4 * i + 2] << 16 | (uint32_t)p[4 * i + 3] << 24);
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
        default: return 0; /* network_open() takes no other */
    }
}

/* Bytes of n weights; n is whole blocks. */
static __device__ __forceinline__ uint32_t embed_bytes(enum tensor_type type, uint32_t n) {
    switch (type) {
        case TYPE_F32: return 4 * n;
        case TYPE_Q4_0: return n / 32 * (uint32_t)sizeof(struct block_q4_0);
        case TYPE_Q8_0: return n / 32 * (uint32_t)sizeof(struct block_q8_0);
        case TYPE_Q4_K: return n / QK_K * (uint32_t)sizeof(struct block_q4_k);
        case TYPE_Q5_K: return n / QK_K * (uint32_t)sizeof(struct block_q5_k);
        case TYPE_Q6_K: return n / QK_K * (uint32_t)sizeof(struct block_q6_k);
        default: return 2 * n;
    }
}

/* x[first .. first + 255] of a row of `width` weights, by one warp; `room`: EMBED_BYTES of its own, 4-byte aligned. `width` is a
 * multiple of the type's block, rows stand at even addresses. */
static __device__ __forceinline__ void embed_part(enum tensor_type type, const uint8_t *row, uint32_t first, uint32_t width, uint8_t *room, float *x) {
    const uint32_t lane = threadIdx.x & 31, n = width - first < EMBED_WEIGHTS ? width - first : EMBED_WEIGHTS + 0u, bytes = embed_bytes(type, n);
    const uint16_t *from = (const uint16_t *)(row + embed_bytes(type, first));
    __syncwarp(); /* the room's last part has been read */
    for (uint32_t i = lane; i < bytes / 2; i += 32) ((uint16_t *)room)[i] = from[i];
    __syncwarp();
    for (uint32_t i = lane; i < n; i += 32) x[first + i] = embed_weight(type, room, i);
}

#endif
