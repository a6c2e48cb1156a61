/* Rows of the types of codes.cuh times vectors in int8: unpack and slice_product of unpack.cuh and matvec.cuh for families of
 * types. The kernel asks for the type twice a slice: when it issues the loads of all rows in flight, and when it opens them. */
#ifndef COLDSTREAM_GPU_CODED_CUH
#define COLDSTREAM_GPU_CODED_CUH

#include "gpu/codes.cuh"
#include "gpu/matvec.cuh"

/* GROUP PIECES: four pieces of 16 weights, opened a half at a time. */
template <int FAMILY> struct unpack_coded : family<FAMILY> {
    enum { GROUP = PIECES, WEIGHTS = 64, FLIGHT = 2 };
    typedef slice_kept raw;
};
#define CODED_UNPACK(name, list) \
    template <> struct unpack<FAMILY_##name> : unpack_coded<FAMILY_##name> {};
GPU_FAMILIES(CODED_UNPACK)

static __device__ __forceinline__ coded_row coded_row_of(const weights &m, uint32_t row) {
    const uint32_t in_row = m.k / m.block;
    return coded_row{m.data, static_cast<uint64_t>(m.rows) * in_row, static_cast<uint64_t>(row) * in_row, row};
}

/* Rows that end with half a slice have nothing behind it. */
template <int FAMILY> static __device__ __forceinline__ bool whole_slice(uint32_t slice, uint32_t k) {
    return !family<FAMILY>::SMALL || 64 * slice + 32 < k;
}

template <int FAMILY> struct slice_product<FAMILY, PIECES> {
    typedef family<FAMILY> F;
    template <int R>
    static __device__ __forceinline__ void load(slice_kept (&raw)[R], const weights &m, uint32_t first, uint32_t slice) {
        coded_row row[R];
#pragma unroll
        for (int r = 0; r < R; r++) row[r] = coded_row_of(m, first + r < m.rows ? first + r : m.rows - 1);
        F::template keep<R>(m.type, raw, row, slice, whole_slice<FAMILY>(slice, m.k));
    }

    template <int R, int T, int C, bool ALL>
    static __device__ __forceinline__ void add(const weights &m, const slice_kept (&raw)[R], uint32_t slice, const vectors &x,
                                               uint32_t use, const uint32_t (&vector)[T], const float (&weight)[T],
                                               float (&sum)[R][T]) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (half == 1 && !whole_slice<FAMILY>(slice, x.k)) break;
            uint32_t word[R][8];
#pragma unroll
            for (int r = 0; r < R; r++) F::open(m.type, raw[r].half[half], slice, half, m.grid, word[r]);
#pragma unroll
            for (int t = 0; t < T; t++) {
                if (!ALL && !(use >> t & 1)) continue;
#pragma unroll
                for (int c = 0; c < C; c++) {
                    const size_t base = (static_cast<size_t>(vector[t]) * C + c) * x.k;
#pragma unroll
                    for (int p = 0; p < 2; p++) {
                        const size_t at = base + F::position(slice, half, p);
                        const uint4 q = ldu4(x.q + at);
                        const float d = ALL ? x.d[at / 32] : weight[t] * x.d[at / 32];
                        const int all = F::BIASED || F::MIN ? x.sum16[at / 16] : 0;
#pragma unroll
                        for (int r = 0; r < R; r++) {
                            const half_kept &k = raw[r].half[half];
                            const int dot = dot_16(q, word[r] + 4 * p, F::BIASED ? k.bias[p] * all : 0);
                            float value = k.scale[p] * static_cast<float>(dot);
                            if (F::MIN) value -= k.min[p] * static_cast<float>(all);
                            sum[r][t] += d * value;
                        }
                    }
                }
            }
        }
    }
};

#endif
