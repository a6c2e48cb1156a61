/* Pages of the KV cache on the device: addresses, appending a row, filling a tile of shared memory with 64 rows. The only place
 * that knows how a page's kinds lie in memory (gpu.h, enum gpu_kv):
 *
 *   f16    [KV head][GPU_PAGE_TOKENS][DH] binary16
 *   q8_0   the same of int8, then scales [KV head][GPU_PAGE_TOKENS][DH / 32] binary16: value = scale * q
 *   q4_0   as q8_0 with 32 values in 16 bytes: byte j holds value j in its low nibble, j + 16 in the high one:
 *          value = scale * (nibble - 8)
 *
 * A row in registers is spread over a warp: lane l holds dimensions l + 32 i at x[i], so that 32 values with one scale are one
 * register of all lanes. DH is 32, 64 or 128. */
#ifndef COLDSTREAM_KV_CUH
#define COLDSTREAM_KV_CUH

#include "gpu/network.h"

enum { TILE = 64 /* keys in shared memory at a time; divides a page */ };

/* One layer's keys or values, as one KV head sees them. */
struct kv_pool {
    uint8_t *pages;
    enum gpu_kv kind;
    uint32_t kv_heads;
};

struct kv_table {
    const uint32_t *pages; /* [sequences][max_pages] */
    uint32_t max_pages;
};

static __device__ __forceinline__ uint32_t kv_page_of(const kv_table &t, uint32_t sequence, uint32_t position) {
    return t.pages[(size_t)sequence * t.max_pages + position / GPU_PAGE_TOKENS];
}

template <int DH> static __device__ __forceinline__ size_t kv_row_bytes(enum gpu_kv kind) {
    return kind == GPU_KV_F16 ? DH * 2 : kind == GPU_KV_Q8_0 ? DH : DH / 2;
}

template <int DH> static __device__ __forceinline__ uint8_t *kv_page(const kv_pool &p, uint32_t page) {
    const size_t rows = (size_t)p.kv_heads * GPU_PAGE_TOKENS;
    const size_t scales = p.kind == GPU_KV_F16 ? 0 : DH / 32 * 2;
    return p.pages + page * rows * (kv_row_bytes<DH>(p.kind) + scales);
}

template <int DH> static __device__ __forceinline__ __half *kv_scales(const kv_pool &p, uint8_t *page) {
    return reinterpret_cast<__half *>(page + (size_t)p.kv_heads * GPU_PAGE_TOKENS * kv_row_bytes<DH>(p.kind));
}

/* ---- a row: what it becomes in its page ------------------------------------------------------------------------- */

template <int DH> static __device__ void put_f16(float (&x)[DH / 32], __half *row) {
#pragma unroll
    for (int i = 0; i < DH / 32; i++) {
        const __half h = __float2half_rn(x[i]);
        if (row) row[threadIdx.x % 32 + 32 * i] = h;
        x[i] = __half2float(h);
    }
}

/* The quants are those nearest for the scale as it is stored, in binary16. */
template <int DH> static __device__ void put_q8_0(float (&x)[DH / 32], uint8_t *row, __half *scales) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < DH / 32; i++) {
        const __half scale = __float2half_rn(warp_max(fabsf(x[i])) / 127);
        const float d = __half2float(scale);
        const int q = d > 0 ? max(-127, min(127, __float2int_rn(x[i] / d))) : 0;
        if (row) row[lane + 32 * i] = (uint8_t)q;
        if (row && lane == 0) scales[i] = scale;
        x[i] = d * (float)q;
    }
}

/* The value furthest from zero becomes nibble 0. */
template <int DH> static __device__ void put_q4_0(float (&x)[DH / 32], uint8_t *row, __half *scales) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < DH / 32; i++) {
        const found furthest = warp_argmax<false>(fabsf(x[i]), lane);
        const __half scale = __float2half_rn(warp_from(x[i], (int)furthest.index) / -8);
        const float d = __half2float(scale);
        const int q = d != 0 ? max(0, min(15, 8 + __float2int_rn(x[i] / d))) : 8;
        const int above = warp_xor(q, 16);
        if (row && lane < 16) row[lane + 16 * i] = (uint8_t)(q | above << 4);
        if (row && lane == 0) scales[i] = scale;
        x[i] = d * (float)(q - 8);
    }
}

/* Row `position` of a KV head. x becomes what the page holds; without `store` the page is left as it is. F16: the pool is known to
 * hold nothing else. */
template <int DH, bool F16>
static __device__ void kv_append(const kv_pool &p, uint32_t page, uint32_t head, uint32_t position, bool store, float (&x)[DH / 32]) {
    uint8_t *const base = kv_page<DH>(p, page);
    const size_t at = (size_t)head * GPU_PAGE_TOKENS + position % GPU_PAGE_TOKENS;
    uint8_t *const row = store ? base + at * kv_row_bytes<DH>(p.kind) : NULL;
    __half *const scales = kv_scales<DH>(p, base) + at * (DH / 32);
    if (F16 || p.kind == GPU_KV_F16) put_f16<DH>(x, reinterpret_cast<__half *>(row));
    else if (p.kind == GPU_KV_Q8_0) put_q8_0<DH>(x, row, scales);
    else put_q4_0<DH>(x, row, scales);
}

/* ---- a tile: 64 rows of binary16 in shared memory ----------------------------------------------------------------
 * 16-byte chunk c of row r stands at chunk c ^ (r % 8) of it, so that eight rows' chunks c lie in all banks (ldmatrix reads
 * those); with DH 32 two rows share 128 bytes. */

template <int DH> static __device__ __forceinline__ int tile_at(int row, int chunk) {
    return row * DH + (chunk ^ (DH == 32 ? row / 2 % 4 : row % 8)) * 8;
}

template <int DH> static __device__ void tile_put(__half *tile, int row, const float (&x)[DH / 32]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < DH / 32; i++) tile[tile_at<DH>(row, (lane + 32 * i) / 8) + lane % 8] = __float2half_rn(x[i]);
}

static __device__ __forceinline__ uint32_t bits_of(__half2 h) {
    uint32_t bits;
    memcpy(&bits, &h, sizeof bits);
    return bits;
}
static __device__ __forceinline__ __half2 half2_of(uint32_t bits) {
    __half2 h;
    memcpy(&h, &bits, sizeof bits);
    return h;
}

/* Four bytes 0..255 as (byte - zero) * scale, in half precision: 0x64bb is 1024 + bb. */
static __device__ __forceinline__ uint2 halves_of(uint32_t bytes, __half2 zero, __half2 scale) {
    const __half2 low = half2_of(prmt(bytes, 0x64646464u, 0x4140)), high = half2_of(prmt(bytes, 0x64646464u, 0x4342));
    return make_uint2(bits_of(__hmul2(__hsub2(low, zero), scale)), bits_of(__hmul2(__hsub2(high, zero), scale)));
}

static __device__ __forceinline__ void put_chunk(__half *to, uint32_t low, uint32_t high, __half2 zero, __half2 scale) {
    const uint2 a = halves_of(low, zero, scale), b = halves_of(high, zero, scale);
    stu4(to, make_uint4(a.x, a.y, b.x, b.y));
}

/* Rows [first, first + ROWS) of the tile by a warp, from the rows of a KV head that start at `rows`; those from `known` on become 0.
 * Copies are under way until cp_async_wait. */
template <int DH, int ROWS> static __device__ __forceinline__ void fill_f16(__half *tile, const __half *rows, int first, int known) {
    constexpr int CHUNKS = DH / 8;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / 32; i++) {
        const int row = first + (lane + 32 * i) / CHUNKS, chunk = (lane + 32 * i) % CHUNKS;
        cp_async16_or_zero(tile + tile_at<DH>(row, chunk), rows + row * DH + chunk * 8, row < known);
    }
}

/* As fill_f16, at once. A lane takes two chunks of a row at a time: 16 bytes of int8, or 8 of nibbles, whose chunks are 16 values
 * apart. */
template <int DH, int ROWS, bool NIBBLES>
static __device__ __forceinline__ void fill_quants(__half *tile, const uint8_t *rows, const __half *scales, int first, int known) {
    constexpr int PARTS = DH / 16, EACH = ROWS * PARTS / 32;
    const int lane = threadIdx.x % 32;
    const __half2 zero = __float2half2_rn(NIBBLES ? 1024 + 8 : 1024 + 128);
    uint32_t q[EACH][4] = {};
    __half scale[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int row = first + (lane + 32 * i) / PARTS, part = (lane + 32 * i) % PARTS;
        scale[i] = __float2half_rn(0);
        if (row >= known) continue;
        scale[i] = scales[row * (DH / 32) + part / 2];
        if (NIBBLES) {
            const uint2 v = ld64(rows + row * (DH / 2) + part * 8);
            q[i][0] = v.x & 0x0f0f0f0fu, q[i][1] = v.y & 0x0f0f0f0fu, q[i][2] = v.x >> 4 & 0x0f0f0f0fu, q[i][3] = v.y >> 4 & 0x0f0f0f0fu;
        } else {
            const uint4 v = ld128(rows + row * DH + part * 16);
            q[i][0] = v.x ^ 0x80808080u, q[i][1] = v.y ^ 0x80808080u, q[i][2] = v.z ^ 0x80808080u, q[i][3] = v.w ^ 0x80808080u;
        }
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int row = first + (lane + 32 * i) / PARTS, part = (lane + 32 * i) % PARTS;
        const int chunk = NIBBLES ? part / 2 * 4 + part % 2 : part * 2;
        const __half2 both = __half2half2(scale[i]);
        put_chunk(tile + tile_at<DH>(row, chunk), q[i][0], q[i][1], zero, both);
        put_chunk(tile + tile_at<DH>(row, chunk + (NIBBLES ? 2 : 1)), q[i][2], q[i][3], zero, both);
    }
}

/* This warp's share (one of WARPS) of the 64 rows from `position` on, a multiple of 64. Rows at positions from `known` on become 0
 * and their memory is not read. F16: as in kv_append. */
template <int DH, int WARPS, bool F16>
static __device__ __forceinline__ void kv_fill(__half *tile, const kv_pool &p, uint32_t page, uint32_t head, uint32_t position, uint32_t known) {
    constexpr int ROWS = TILE / WARPS;
    const int first = (int)threadIdx.x / 32 * ROWS;
    const int there = known <= position ? 0 : known - position < TILE ? (int)(known - position) : TILE;
    uint8_t *const base = kv_page<DH>(p, page);
    const size_t at = (size_t)head * GPU_PAGE_TOKENS + position % GPU_PAGE_TOKENS;
    uint8_t *const rows = base + at * kv_row_bytes<DH>(p.kind);
    if (F16 || p.kind == GPU_KV_F16) return fill_f16<DH, ROWS>(tile, reinterpret_cast<const __half *>(rows), first, there);
    if constexpr (!F16) {
        const __half *const scales = kv_scales<DH>(p, base) + at * (DH / 32);
        if (p.kind == GPU_KV_Q8_0) fill_quants<DH, ROWS, false>(tile, rows, scales, first, there);
        else fill_quants<DH, ROWS, true>(tile, rows, scales, first, there);
    }
}

#endif
