/* Attention on tensor cores: what decode steps and prompts share. Rotation of heads, and one warp's walk over tiles of keys.
 *
 * A warp owns 16 rows; a row is a query head of a token. The heads of a group share their KV head, so 16 rows are
 * 16 / group tokens (rounded down) with all heads of the group each: row r is head r % group of token r / group. Rows left over
 * are computed on zeroes and dropped. In mma fragments (ptx.h) a lane has rows g = lane / 4 and g + 8.
 *
 * Scores are in powers of 2: queries come scaled by log2(e) / sqrt(DH) in PARTS parts of binary16, as do the weights; sums and the
 * softmax are binary32. A step takes 2 parts (22 bits): its tensor cores wait for memory anyway, and its answer is then as close to
 * the CPU's as the order of sums allows. A prompt takes 1. Owns no memory and launches nothing. */
#ifndef COLDSTREAM_ATTENTION_CUH
#define COLDSTREAM_ATTENTION_CUH

#include "gpu/kv.cuh"

enum { MAX_GROUP = 16 };

static __host__ __device__ inline uint32_t tokens_of_rows(uint32_t group) { return 16 / group; }

/* ---- heads -------------------------------------------------------------------------------------------------------- */

/* cos and sin of position * frequency, times magnitude. The angle is taken in turns of 2^-64 in whole numbers, so that it is as
 * good at a million as at 0: with cos and sin, 2e-7 from exact, and the frequency's own rounding times the position (2^-34 at a
 * million). The polynomials are the Taylor series on an eighth of a turn to either side, whose next terms are below 2e-9. */
static __device__ inline float2 rope_turn(uint32_t position, double frequency, float magnitude) {
    double turns = frequency * 0.15915494309189533577;
    turns -= floor(turns);
    const uint64_t phase = position * (uint64_t)(turns * 0x1p64);
    const uint64_t quarter = (phase + (1ull << 61)) >> 62;
    const float x = (float)(int64_t)(phase - (quarter << 62)) * (float)(6.283185307179586477 * 0x1p-64), y = x * x;
    float sine = fmaf(y, 1 / 362880.0f, -1 / 5040.0f);
    sine = fmaf(y, fmaf(y, sine, 1 / 120.0f), -1 / 6.0f);
    sine = fmaf(x * y, sine, x);
    float cosine = fmaf(y, -1 / 3628800.0f, 1 / 40320.0f);
    cosine = fmaf(y, fmaf(y, fmaf(y, cosine, -1 / 720.0f), 1 / 24.0f), -0.5f);
    cosine = fmaf(y, cosine, 1.0f);
    const float c = quarter & 1 ? sine : cosine, s = quarter & 1 ? cosine : sine;
    return make_float2((quarter + 1) & 2 ? -c * magnitude : c * magnitude, quarter & 2 ? -s * magnitude : s * magnitude);
}

/* How heads are made ready: RMS norm, then NeoX rotation. */
struct head_rule {
    const double *frequency; /* [DH/2] */
    float eps, magnitude, q_scale;
};

template <int DH> static __device__ void load_row(float (&x)[DH / 32], const float *row) {
#pragma unroll
    for (int i = 0; i < DH / 32; i++) x[i] = row[threadIdx.x % 32 + 32 * i];
}

/* One head by a warp, in kv.cuh's arrangement; turn [DH/2] is that of its position. */
template <int DH>
static __device__ void load_head(float (&x)[DH / 32], const float *row, const float *gain, const float2 *turn, float eps, float scale) {
    const int lane = threadIdx.x % 32;
    load_row<DH>(x, row);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < DH / 32; i++) squares += x[i] * x[i];
    const float by = scale / sqrtf(warp_sum(squares) / DH + eps);
#pragma unroll
    for (int i = 0; i < DH / 32; i++) x[i] = gain[lane + 32 * i] * (x[i] * by);
    if constexpr (DH == 32) {
        const float other = warp_xor(x[0], 16);
        const float2 t = turn[lane % 16];
        x[0] = lane < 16 ? x[0] * t.x - other * t.y : other * t.y + x[0] * t.x;
    } else {
#pragma unroll
        for (int i = 0; i < DH / 64; i++) {
            const float2 t = turn[lane + 32 * i];
            const float a = x[i], b = x[i + DH / 64];
            x[i] = a * t.x - b * t.y;
            x[i + DH / 64] = a * t.y + b * t.x;
        }
    }
}

/* ---- a warp over tiles -------------------------------------------------------------------------------------------- */

/* What rounding to binary16 leaves of x: the second part. */
static __device__ __forceinline__ float rest_of(float x) { return x - __half2float(__float2half_rn(x)); }

/* A operands of 16 rows that lie as a tile from `row` on. */
template <int DH> static __device__ void load_queries(uint32_t (&q)[DH / 16][4], const __half *tile, int row) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < DH / 16; c++) ldmatrix_x4(q[c], tile + tile_at<DH>(row + lane % 16, 2 * c + lane / 16));
}

/* What a lane has of its rows g and g + 8: the largest score so far, its own part of the sum of weights relative to that, and the
 * values weighted alike, unnormalised. */
template <int DH> struct attended {
    float o[DH / 8][4];
    float max[2], sum[2];
};

template <int DH> static __device__ __forceinline__ void attended_clear(attended<DH> &a) {
#pragma unroll
    for (int c = 0; c < DH / 8; c++) a.o[c][0] = a.o[c][1] = a.o[c][2] = a.o[c][3] = 0;
    a.max[0] = a.max[1] = -INFINITY;
    a.sum[0] = a.sum[1] = 0;
}

/* Scores of KEYS keys from tile row `row` on: s[n] is keys 8n + 2 (lane % 4) + {0, 1} for both rows. */
template <int DH, int KEYS, int PARTS>
static __device__ __forceinline__ void score_keys(float (&s)[KEYS / 8][4], const uint32_t (&q)[PARTS][DH / 16][4], const __half *keys,
                                                  int row) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) s[2 * n][j] = s[2 * n + 1][j] = 0;
#pragma unroll
        for (int c = 0; c < DH / 16; c++) {
            uint32_t b[4];
            ldmatrix_x4(b, keys + tile_at<DH>(row + 16 * n + lane / 16 * 8 + lane % 8, 2 * c + lane / 8 % 2));
            const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
            for (int part = PARTS; part-- > 0;) { /* the small part first */
                mma_f16(s[2 * n], q[part][c], left);
                mma_f16(s[2 * n + 1], q[part][c], right);
            }
        }
    }
}

/* Keys beyond a row's limit do not count; `first` is the position of s[0]'s first key. Limit -1: no key does. */
template <int KEYS> static __device__ __forceinline__ void mask_keys(float (&s)[KEYS / 8][4], int first, int top, int bottom) {
    const int own = first + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (own + 8 * n + j % 2 > (j < 2 ? top : bottom)) s[n][j] = -INFINITY;
}

/* Scores become weights relative to the largest one so far; what was gathered before is brought to the same measure. */
template <int DH, int KEYS> static __device__ __forceinline__ void weigh_keys(attended<DH> &a, float (&s)[KEYS / 8][4]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float max = a.max[r];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) max = fmaxf(max, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        max = fmaxf(max, warp_xor(max, 1));
        max = fmaxf(max, warp_xor(max, 2));
        const float base = max == -INFINITY ? 0 : max; /* no key yet: all weights are 0, not NaN */
        const float shrink = exp2f(a.max[r] - base);
        float sum = 0;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            s[n][2 * r] = exp2f(s[n][2 * r] - base), s[n][2 * r + 1] = exp2f(s[n][2 * r + 1] - base);
            sum += s[n][2 * r] + s[n][2 * r + 1];
        }
        a.max[r] = max;
        a.sum[r] = a.sum[r] * shrink + sum;
#pragma unroll
        for (int c = 0; c < DH / 8; c++) a.o[c][2 * r] *= shrink, a.o[c][2 * r + 1] *= shrink;
    }
}

static __device__ __forceinline__ uint32_t half_pair(float low, float high) {
    return bits_of(__floats2half2_rn(low, high));
}

/* o += weights times values: the weights' fragments are, pair by pair, the A operand's. */
template <int DH, int KEYS, int PARTS>
static __device__ __forceinline__ void gather_values(attended<DH> &a, const float (&s)[KEYS / 8][4], const __half *values, int row) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
        uint32_t w[PARTS][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float left = s[2 * n + i / 2][i % 2 * 2], right = s[2 * n + i / 2][i % 2 * 2 + 1];
            w[0][i] = half_pair(left, right);
            if (PARTS == 2) w[PARTS - 1][i] = half_pair(rest_of(left), rest_of(right));
        }
#pragma unroll
        for (int c = 0; c < DH / 16; c++) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, values + tile_at<DH>(row + 16 * n + lane % 16, 2 * c + lane / 16));
            const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
            for (int part = PARTS; part-- > 0;) {
                mma_f16(a.o[2 * c], w[part], left);
                mma_f16(a.o[2 * c + 1], w[part], right);
            }
        }
    }
}

/* The sums of a row's four lanes. */
template <int DH> static __device__ __forceinline__ void attended_finish(attended<DH> &a) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        a.sum[r] += warp_xor(a.sum[r], 1);
        a.sum[r] += warp_xor(a.sum[r], 2);
    }
}

#endif
