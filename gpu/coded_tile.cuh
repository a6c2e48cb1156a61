/* Halves of slices of the types of codes.cuh as numbers, for the tiles of products: `slice` of unpack_tile.cuh for families of
 * types. */
#ifndef COLDSTREAM_GPU_CODED_TILE_CUH
#define COLDSTREAM_GPU_CODED_TILE_CUH

#include "gpu/codes.cuh"
#include "gpu/unpack_tile.cuh"

/* v = w of the four bytes of a word; a byte with its sign turned over, put into the mantissa of 2^15, reads as 32896 + level.
 * Exact up to the last addition. */
static __device__ __forceinline__ void open_levels(uint32_t word, float scale, float offset, float *v) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        v[i] = fmaf(__uint_as_float(prmt(word ^ 0x80808080u, 0x47000000u, 0x7404u | i << 4)) - 32896.0f, scale, offset);
}

template <int FAMILY> struct slice_coded {
    typedef family<FAMILY> F;
    half_raw raw;
    bool real;
    static __device__ __forceinline__ uint32_t column(uint32_t step, uint32_t unit) {
        return F::position(step, unit >> 2, unit >> 1 & 1) + (unit & 1) * SLICE_UNIT;
    }
    __device__ __forceinline__ void load(int type, const coded_row &row, uint32_t step, uint32_t half) {
        F::fetch(type, raw, row, step, half);
        real = true;
    }
    /* Behind a row's end, of families that have rows which end with half a slice. */
    __device__ __forceinline__ void zero() { real = false; }

    /* All 32 columns of the half, unit by unit. */
    __device__ __forceinline__ void values(int type, const uint32_t *grid, uint32_t step, uint32_t half, float (&v)[32]) const {
        half_kept kept;
        if (!F::SMALL || real) {
            F::prepare(type, raw, step, half, kept);
        } else {
            kept.q = kept.h = make_uint4(0, 0, 0, 0), kept.x = 0;
            set_scales(kept, 0), set_mins(kept, 0), set_biases(kept, 0);
        }
        uint32_t word[8];
        F::open(type, kept, step, half, grid, word);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int p = i / 4;
            const float moved = F::BIASED ? kept.scale[p] * static_cast<float>(kept.bias[p]) : 0,
                        offset = F::MIN ? moved - kept.min[p] : moved;
            open_levels(word[i], kept.scale[p], offset, v + 4 * i);
        }
    }
    __device__ __forceinline__ void halves(int type, const uint32_t *grid, uint32_t step, uint32_t half,
                                           uint4 (&unit)[4]) const {
        float v[32];
        values(type, grid, step, half, v);
        uint32_t h[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const __half2 pair = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
            h[i] = (uint32_t)__half_as_ushort(__low2half(pair)) | (uint32_t)__half_as_ushort(__high2half(pair)) << 16;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) unit[i] = make_uint4(h[4 * i], h[4 * i + 1], h[4 * i + 2], h[4 * i + 3]);
    }
};
#define CODED_SLICE(name, list) \
    template <> struct slice<FAMILY_##name> : slice_coded<FAMILY_##name> {};
GPU_FAMILIES(CODED_SLICE)

#endif
