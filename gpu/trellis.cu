/* The products of a step whose weights are EXL3: q, k and v; the output projection; the experts; the head. One kernel for all
 * of them, for 1 to 8 tokens.
 *
 * A block has 128 outputs of a matrix, which the transform behind the product mixes, and a share of its inputs, in pieces of
 * 128, which the one in front mixes. It transforms its inputs itself, which is little beside the weights, multiplies on the
 * tensor cores, and the last of the blocks that share the outputs adds their sums up in order and goes on with them. Tokens are
 * rows 0 .. 7 of a fragment; rows 8 .. 15 have 2^11 times what rounding the same inputs to binary16 took, so that inputs count
 * with 22 bits, at no cost. Sums are taken in an order that depends on the shapes and the device's size alone.
 *
 * What limits it: a tile takes a warp about 45 instructions, four fifths of them integer ones (trellis.cuh), whatever its bits
 * and however many tokens. With 4 bits that is 11 lane instructions a byte, where other types take 2 to 3, and an SM with 64
 * integer lanes decodes 7 bytes a clock (128 lanes: 11). Memory brings 3 to 4 a clock and SM on the 16 GB cards of the 40
 * series and an RTX 4090, so half of the issue slots keep up with it; 6 on a 3090, which is the border; 18 on an H200, where
 * the decoding is the limit. With 6 bits a byte is a third cheaper. Calculated, not measured. */
#include "gpu/trellis.h"

#include "gpu/dense.cuh"
#include "gpu/experts.cuh"
#include "gpu/family.h"
#include "gpu/trellis.cuh"

enum trellis_work { WORK_QKV, WORK_OUTPUT, WORK_HEAD, WORK_GATE_UP, WORK_DOWN };

enum {
    ACTS_BYTES = 16 << 10, /* inputs held at a time: SMs have room for five blocks, of sm_75 for four */
    ACT_BYTES = 4,         /* an input: two parts of binary16 */
    WARP_TILES = 4,        /* half of the block's outputs; the other pair of warps has the other half */
    PIECE = GPU_TRELLIS_BLOCK,
    PIECE_TILES = PIECE / 16
};

struct trellis_part {
    const uint8_t *matrix; /* of experts: its place in the first slot */
    int type;
    uint32_t rows, first; /* first: block of outputs, counted over all parts */
    uint32_t column;      /* in a row of y */
};

struct trellis_args {
    trellis_part part[3];
    int work;
    uint32_t tokens, k, units, splits; /* units: blocks of outputs; splits: blocks that share one's inputs */
    uint32_t parts;                    /* sums of a unit there is room for */
    const float *x, *gain;             /* [..][k]; gain NULL: as they are, else to be normed */
    float eps;
    float *sums;       /* [units][parts][tokens][128] */
    uint32_t *tickets; /* [units] */
    float *y;          /* [..][ld] */
    uint32_t ld;
    unsigned long long *best_key;
    /* experts */
    const gpu_hit *hits;
    const uint32_t *n_hits, *n_missing;
    uint32_t n_used, layer;
    const gpu_command *command;
    uint32_t *ticket;
    post_box box;
};

/* What a block has to do. */
struct trellis_job {
    trellis m;
    uint32_t block, column;     /* of the matrix's outputs; of y */
    uint32_t unit, part, parts; /* parts: blocks that share the unit */
    uint32_t first, last;       /* pieces of inputs */
    uint32_t use;               /* bit t: token t takes part */
    const gpu_hit *hit;         /* of experts */
};

static __device__ __forceinline__ const uint8_t *in_slot(const uint8_t *matrix, uint32_t slot) {
    return matrix + (static_cast<uint64_t>(slot) - 1) * 256;
}

/* False: the expert of this block is none. Blocks that run at the same time share inputs and are neighbours in memory. */
static __device__ __forceinline__ bool find_job(const trellis_args &a, trellis_job &j) {
    const uint32_t unit = blockIdx.x % a.units, share = blockIdx.x / a.units, split = share % a.splits,
                   other = share / a.splits, pieces = a.k / PIECE;
    trellis_part p = a.part[0];
    j.unit = unit, j.block = unit, j.part = split, j.parts = a.splits, j.hit = NULL, j.use = (1u << a.tokens) - 1;
    j.first = pieces * split / a.splits, j.last = pieces * (split + 1) / a.splits;
    if (a.work == WORK_GATE_UP) { /* units: of one expert after the other; `other`: gate or up */
        const uint32_t blocks = p.rows / PIECE, hit = unit / blocks;
        if (hit >= *a.n_hits) return false;
        if (other) p = a.part[1];
        j.hit = a.hits + hit, j.block = unit % blocks, j.part = other * a.splits + split, j.parts = 2 * a.splits;
    } else if (a.work == WORK_DOWN) { /* `other`: the expert */
        if (other >= *a.n_hits) return false;
        j.hit = a.hits + other, j.part = other * a.splits + split, j.parts = *a.n_hits * a.splits;
    } else {
        if (unit >= a.part[1].first) p = a.part[1];
        if (unit >= a.part[2].first) p = a.part[2];
        j.block = unit - p.first;
    }
    if (j.hit) j.use = j.hit->tokens;
    j.column = p.column + PIECE * j.block;
    j.m = trellis_of(j.hit ? in_slot(p.matrix, j.hit->slot) : p.matrix, p.type, p.rows, a.k);
    return true;
}

/* ---- inputs ----------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ const float *input_row(const trellis_args &a, const trellis_job &j, uint32_t t) {
    return a.x + static_cast<size_t>(a.work == WORK_DOWN ? t * a.n_used + j.hit->rank[t] : t) * a.k;
}

/* What the transform mixes: inputs `at` .. at + 3 times their factors, of a row that is to be multiplied by `scale` and the
 * gain. */
static __device__ __forceinline__ void scaled_inputs(const trellis_args &a, const trellis_job &j, const float *row, float scale,
                                                     uint32_t at, float (&v)[4]) {
    source{row, a.gain, scale}.at4(at, v);
    times_factors(v, j.m.in_scale, at);
}

/* each[t][warp] -> combine -> out[t], a barrier before and after. */
template <class Combine>
static __device__ __forceinline__ void of_all_warps(const float *each, uint32_t tokens, float *out, Combine combine) {
    __syncthreads();
    const uint32_t t = threadIdx.x;
    if (t < tokens) out[t] = combine(each[4 * t], each[4 * t + 1], each[4 * t + 2], each[4 * t + 3]);
    __syncthreads();
}

/* norm[t]: 1 / sqrt(mean(x[t]^2) + eps), or 1 without gain. */
static __device__ void norm_inputs(const trellis_args &a, float *each, float *norm) {
    const uint32_t warp = threadIdx.x / 32;
    for (uint32_t t = 0; t < a.tokens; t++) {
        float sum = 0;
        for (uint32_t i = 4 * threadIdx.x; a.gain && i < a.k; i += 4 * BLOCK_THREADS) {
            const float4 v = ldf4(a.x + static_cast<size_t>(t) * a.k + i);
            sum += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) each[4 * t + warp] = sum;
    }
    of_all_warps(each, a.tokens, norm, [&](float b, float c, float d, float e) {
        return a.gain ? 1 / sqrtf((b + c + (d + e)) / static_cast<float>(a.k) + a.eps) : 1;
    });
}

/* power[t]: what a token's transformed inputs of this block are divided by to be binary16. */
static __device__ void bound_inputs(const trellis_args &a, const trellis_job &j, const float *norm, float *each, float *power) {
    const uint32_t warp = threadIdx.x / 32;
    for (uint32_t t = 0; t < a.tokens; t++) {
        float most = 0;
        for (uint32_t i = PIECE * j.first + 4 * threadIdx.x; (j.use >> t & 1) && i < PIECE * j.last; i += 4 * BLOCK_THREADS) {
            float v[4];
            scaled_inputs(a, j, input_row(a, j, t), norm[t], i, v);
            most = fmaxf(most, largest(v));
        }
        most = warp_max(most);
        if (threadIdx.x % 32 == 0) each[4 * t + warp] = most;
    }
    of_all_warps(each, a.tokens, power,
                 [](float b, float c, float d, float e) { return transformed_power(fmaxf(fmaxf(b, c), fmaxf(d, e))); });
}

/* Pieces [first, first + n), a warp a piece of a token, as the A fragments of their tiles: [tile][token][lane % 4] 16 bytes,
 * which are registers a[0] .. a[3] of lane 4 * token + lane % 4: the inputs 2t, 2t + 1, what their rounding left, and both of
 * those 8 on. */
static __device__ void transform_inputs(const trellis_args &a, const trellis_job &j, uint32_t first, uint32_t n,
                                        const float *norm, const float *power, uint32_t *acts) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (uint32_t i = warp; i < n * a.tokens; i += BLOCK_WARPS) {
        const uint32_t t = i % a.tokens, piece = i / a.tokens;
        if (!(j.use >> t & 1)) continue;
        float v[4];
        scaled_inputs(a, j, input_row(a, j, t), norm[t], PIECE * (first + piece) + 4 * lane, v);
        hadamard(v);
        const float by = TRELLIS_NORM * inverse_power(power[t]);
#pragma unroll
        for (int e = 0; e < 4; e++) v[e] *= by;
        const uint32_t tile = piece * PIECE_TILES + lane / 4, q = lane % 4;
        uint32_t *const to = acts + ((tile * a.tokens + t) * 4 + 2 * (q % 2)) * 4 + 2 * (q / 2);
        to[0] = half_pair(v[0], v[1]), to[1] = half_pair(half_left(v[0]), half_left(v[1]));
        to[4] = half_pair(v[2], v[3]), to[5] = half_pair(half_left(v[2]), half_left(v[3]));
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------------ */

/* Tiles of `count` inputs' groups, of the warp's outputs. */
struct trellis_walk {
    const uint8_t *tiles;
    uint64_t stride;
    uint32_t count, tokens, use;
    const uint32_t *acts;
    trellis_book book;
};

/* Every second group of inputs, the next one's weights on their way. sum[2i], sum[2i + 1]: of tile i outputs 0 .. 7, 8 .. 15 */
template <int BITS, bool MUL1>
static __device__ __forceinline__ void walk_tiles(const trellis_walk &w, float (&sum)[2 * WARP_TILES][4]) {
    enum { WORDS = BITS > 4 ? 3 : 2 };
    const uint32_t lane = threadIdx.x % 32;
    const trellis_window window = window_of(BITS);
    const bool mine = lane / 4 < w.tokens && (w.use >> lane / 4 & 1);
    const uint8_t *tile = w.tiles + threadIdx.x / 64 * w.stride;
    uint32_t raw[WARP_TILES][WORDS];
#pragma unroll
    for (int i = 0; i < WARP_TILES; i++) load_window(raw[i], tile + 32 * BITS * i, window);
#pragma unroll 1
    for (uint32_t g = threadIdx.x / 64; g < w.count; g += 2) {
        uint32_t now[WARP_TILES][WORDS];
#pragma unroll
        for (int i = 0; i < WARP_TILES * WORDS; i++) now[i / WORDS][i % WORDS] = raw[i / WORDS][i % WORDS];
        tile += 2 * w.stride;
#pragma unroll
        for (int i = 0; i < WARP_TILES && g + 2 < w.count; i++) load_window(raw[i], tile + 32 * BITS * i, window);
        uint4 act = make_uint4(0, 0, 0, 0);
        if (mine) act = ldu4(w.acts + (g * w.tokens * 4 + lane) * 4);
        const uint32_t a[4] = {act.x, act.y, act.z, act.w};
#pragma unroll
        for (int i = 0; i < WARP_TILES; i++) {
            uint32_t b[4];
            open_tile<BITS, MUL1>(now[i], window.shift, w.book, b);
            const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
            mma_f16(sum[2 * i], a, left);
            mma_f16(sum[2 * i + 1], a, right);
        }
    }
}

static __device__ __forceinline__ void walk_any(uint32_t bits, const trellis_walk &w, float (&sum)[2 * WARP_TILES][4]) {
#define WALK(n)                                                                                                                \
    case n:                                                                                                                    \
        if (w.book.mul1)                                                                                                       \
            walk_tiles<n, true>(w, sum);                                                                                       \
        else                                                                                                                   \
            walk_tiles<n, false>(w, sum);                                                                                      \
        break;
    switch (bits) { WALK(1) WALK(2) WALK(3) WALK(4) WALK(5) WALK(6) WALK(7) WALK(8) }
#undef WALK
}

/* The block's sums, of both pairs of warps: out[pair][token][128]. */
static __device__ __forceinline__ void leave_sums(const trellis_args &a, const float (&sum)[2 * WARP_TILES][4], float *out) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane / 4;
    if (t >= a.tokens) return;
    float *const to = out + (warp / 2 * a.tokens + t) * PIECE + warp % 2 * (16 * WARP_TILES) + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < 2 * WARP_TILES; i++)
#pragma unroll
        for (int e = 0; e < 2; e++) to[8 * i + e] = fmaf(sum[i][2 + e], 1.0f / 2048, sum[i][e]);
}

static __device__ __forceinline__ void add4(float (&v)[4], const float4 &w) {
    v[0] += w.x, v[1] += w.y, v[2] += w.z, v[3] += w.w;
}

static __device__ __forceinline__ void block_sum(const trellis_args &a, const float *out, const float *power, uint32_t t,
                                                 float (&v)[4]) {
    const uint32_t at = t * PIECE + 4 * (threadIdx.x % 32);
    v[0] = v[1] = v[2] = v[3] = 0;
    add4(v, ldf4(out + at)), add4(v, ldf4(out + a.tokens * PIECE + at));
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] *= power[t];
}

static __device__ __forceinline__ float *part_at(const trellis_args &a, const trellis_job &j, uint32_t part, uint32_t t) {
    return a.sums + ((static_cast<size_t>(j.unit) * a.parts + part) * a.tokens + t) * PIECE + 4 * (threadIdx.x % 32);
}

/* Parts [from, from + n) of a token, added up in order. */
static __device__ __forceinline__ void add_parts(const trellis_args &a, const trellis_job &j, uint32_t from, uint32_t n,
                                                 uint32_t t, float (&v)[4]) {
    v[0] = v[1] = v[2] = v[3] = 0;
#pragma unroll 4
    for (uint32_t p = from; p < from + n; p++) add4(v, ldcg_f4(part_at(a, j, p, t)));
}

/* ---- what becomes of the sums, a warp a token ------------------------------------------------------------------------- */

static __device__ __forceinline__ void keep_logits(const trellis_args &a, const trellis_job &j, uint32_t t,
                                                   const float (&v)[4]) {
    const uint32_t row = j.column + 4 * (threadIdx.x % 32);
    float best = -INFINITY;
    uint32_t best_row = row;
#pragma unroll
    for (int i = 3; i >= 0; i--)
        if (!isnan(v[i]) && v[i] >= best) best = v[i], best_row = row + i;
    const found f = warp_argmax<false>(best, best_row);
    if (threadIdx.x % 32 == 0) atomicMax(a.best_key + t, key_of(f.value, f.index));
}

static __device__ __forceinline__ void use_outputs(const trellis_args &a, const trellis_job &j, uint32_t t, float (&v)[4]) {
    finish_outputs(v, j.m, j.block);
    float *const y = a.y + static_cast<size_t>(t) * a.ld + j.column + 4 * (threadIdx.x % 32);
#pragma unroll
    for (int i = 0; i < 4; i++)
        y[i] = a.work == WORK_OUTPUT ? y[i] + v[i] : v[i]; /* beside other matrices' columns it may not be aligned */
    if (a.work == WORK_HEAD) keep_logits(a, j, t, v);
}

/* SiLU(gate) * up, once all parts of both are there. */
static __device__ void use_gate_up(const trellis_args &a, const trellis_job &j) {
    const trellis_part &g = a.part[0], &u = a.part[1];
    const uint32_t slot = j.hit->slot;
    const trellis gate_m = trellis_of(in_slot(g.matrix, slot), g.type, g.rows, a.k),
                  up_m = trellis_of(in_slot(u.matrix, slot), u.type, u.rows, a.k);
    for (uint32_t t = threadIdx.x / 32; t < a.tokens; t += BLOCK_WARPS) {
        if (!(j.use >> t & 1)) continue;
        float gate[4], up[4];
        add_parts(a, j, 0, a.splits, t, gate), add_parts(a, j, a.splits, a.splits, t, up);
        finish_outputs(gate, gate_m, j.block), finish_outputs(up, up_m, j.block);
#pragma unroll
        for (int i = 0; i < 4; i++) up[i] *= gate[i] / (1 + expf(-gate[i]));
        stf4(a.y + (static_cast<size_t>(t) * a.n_used + j.hit->rank[t]) * a.ld + PIECE * j.block + 4 * (threadIdx.x % 32),
             make_float4(up[0], up[1], up[2], up[3]));
    }
}

/* x += the weighted sum over the experts, each warp taking some of them: [warp][token][128] in `out`. */
static __device__ void use_down(const trellis_args &a, const trellis_job &j, float *out) {
    const uint32_t warp = threadIdx.x / 32, n_hits = *a.n_hits, lane4 = 4 * (threadIdx.x % 32);
    const trellis_part &p = a.part[0];
    for (uint32_t t = 0; t < a.tokens; t++) {
        float total[4] = {0, 0, 0, 0};
        for (uint32_t h = warp; h < n_hits; h += BLOCK_WARPS) {
            const gpu_hit *const hit = a.hits + h;
            if (!(hit->tokens >> t & 1)) continue;
            float v[4];
            add_parts(a, j, h * a.splits, a.splits, t, v);
            finish_outputs(v, trellis_of(in_slot(p.matrix, hit->slot), p.type, p.rows, a.k), j.block);
#pragma unroll
            for (int i = 0; i < 4; i++) total[i] += hit->weight[t] * v[i];
        }
        stf4(out + (warp * a.tokens + t) * PIECE + lane4, make_float4(total[0], total[1], total[2], total[3]));
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < a.tokens * PIECE; i += BLOCK_THREADS) {
        float total = 0;
        for (uint32_t w = 0; w < BLOCK_WARPS; w++) total += out[w * a.tokens * PIECE + i];
        a.y[static_cast<size_t>(i / PIECE) * a.ld + j.column + i % PIECE] += total;
    }
}

/* ---- the kernel ------------------------------------------------------------------------------------------------------- */

/* The block's product, into out[2][tokens][128] behind a barrier. `room` is for the inputs, and then `out`. */
static __device__ __forceinline__ void multiply_share(const trellis_args &a, const trellis_job &j, unsigned char *room,
                                                      float *power) {
    SHARED(float, each, 4 * GPU_STEP_TOKENS);
    SHARED(float, norm, GPU_STEP_TOKENS);
    uint32_t *const acts = reinterpret_cast<uint32_t *>(room);
    const uint32_t at_once = ACTS_BYTES / (ACT_BYTES * PIECE * a.tokens);
    trellis_walk w = {NULL, j.m.stride, 0, a.tokens, j.use, acts, book_of(j.m.codebook)};
    float sum[2 * WARP_TILES][4];
#pragma unroll
    for (int i = 0; i < 8 * WARP_TILES; i++) sum[i / 4][i % 4] = 0;
    norm_inputs(a, each, norm);
    bound_inputs(a, j, norm, each, power);
#pragma unroll 1
    for (uint32_t first = j.first; first < j.last; first += at_once) {
        const uint32_t n = j.last - first < at_once ? j.last - first : at_once;
        transform_inputs(a, j, first, n, norm, power, acts);
        __syncthreads();
        w.count = n * PIECE_TILES;
        w.tiles = j.m.tiles + static_cast<uint64_t>(first) * PIECE_TILES * j.m.stride +
                  (j.block * PIECE_TILES + threadIdx.x / 32 % 2 * WARP_TILES) * 32 * j.m.bits;
        walk_any(j.m.bits, w, sum);
        __syncthreads();
    }
    leave_sums(a, sum, reinterpret_cast<float *>(room));
    __syncthreads();
}

/* Hands the block's sums over. True in the last block of the unit. */
static __device__ __forceinline__ bool hand_over(const trellis_args &a, const trellis_job &j, const float *out,
                                                 const float *power) {
    for (uint32_t t = threadIdx.x / 32; t < a.tokens; t += BLOCK_WARPS) {
        float v[4];
        if (!(j.use >> t & 1)) continue;
        block_sum(a, out, power, t, v);
        stf4(part_at(a, j, j.part, t), make_float4(v[0], v[1], v[2], v[3]));
    }
    return grid_last(a.tickets + j.unit, j.parts);
}

static __device__ __forceinline__ void use_alone(const trellis_args &a, const trellis_job &j, const float *out,
                                                 const float *power) {
    for (uint32_t t = threadIdx.x / 32; t < a.tokens; t += BLOCK_WARPS) {
        float v[4];
        block_sum(a, out, power, t, v);
        use_outputs(a, j, t, v);
    }
}

static __device__ __forceinline__ void use_together(const trellis_args &a, const trellis_job &j, float *out) {
    if (a.work == WORK_GATE_UP) {
        use_gate_up(a, j);
    } else if (a.work == WORK_DOWN) {
        use_down(a, j, out);
    } else {
        for (uint32_t t = threadIdx.x / 32; t < a.tokens; t += BLOCK_WARPS) {
            float v[4];
            add_parts(a, j, 0, j.parts, t, v);
            use_outputs(a, j, t, v);
        }
    }
}

static __global__ void __launch_bounds__(BLOCK_THREADS, 5) trellis_kernel(const trellis_args a) {
    DYN_SHARED(unsigned char, room);
    SHARED(float, power, GPU_STEP_TOKENS);
    float *const out = reinterpret_cast<float *>(room);
    trellis_job j;
    if (find_job(a, j)) {
        multiply_share(a, j, room, power);
        if (a.parts == 1 && !j.hit)
            use_alone(a, j, out, power);
        else if (hand_over(a, j, out, power))
            use_together(a, j, out);
    }
    if (a.work != WORK_DOWN || *a.n_missing == 0) return; /* the same for all blocks */
    if (grid_last(a.ticket, gridDim.x)) add_answer(a.box, a.layer, a.command, a.y, a.ld);
}

/* ---- launches --------------------------------------------------------------------------------------------------------- */

/* As many blocks to a unit as make the device busy, while each has inputs. */
static void launch(struct gpu_network *n, trellis_args &a, uint32_t experts, cudaStream_t stream) {
    struct gpu_info info;
    n->gpu->ops->info(n->gpu, &info);
    const uint32_t many = TRELLIS_BLOCKS_PER_SM * info.sm_count, least = a.units * experts, pieces = a.k / PIECE,
                   splits = many / least;
    a.splits = splits < 1 ? 1 : splits < pieces ? splits : pieces;
    a.parts = experts * a.splits;
    a.sums = n->trellis.sums, a.tickets = n->trellis.tickets;
    const uint32_t held = ACT_BYTES * a.tokens * PIECE * ((pieces + a.splits - 1) / a.splits),
                   acts = held < ACTS_BYTES ? held : ACTS_BYTES + 0u;
    const uint32_t sums = BLOCK_WARPS * a.tokens * PIECE * static_cast<uint32_t>(sizeof(float));
    LAUNCH(trellis_kernel, least * a.splits, BLOCK_THREADS, acts > sums ? acts : sums, stream, a);
}

static trellis_part part_of(const gpu_matrix &m, uint32_t first, uint32_t column) {
    return trellis_part{reinterpret_cast<const uint8_t *>(m.data), static_cast<int>(m.type), m.rows, first, column};
}
static trellis_part part_in_slots(const gpu_network *n, tensor_type type, uint64_t offset, uint32_t rows) {
    return trellis_part{reinterpret_cast<const uint8_t *>(n->options.slots) + offset, static_cast<int>(type), rows, 0, 0};
}

static trellis_args args_of(enum trellis_work work, uint32_t tokens, uint32_t k, const float *x) {
    trellis_args a = {};
    a.work = work, a.tokens = tokens, a.k = k, a.x = x;
    for (trellis_part &p : a.part) p.first = ~0u;
    return a;
}

void gpu_trellis_qkv(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_layer &l = n->layers[layer];
    trellis_args a = args_of(WORK_QKV, tokens, l.q.k, n->step.x);
    uint32_t count = 0;
    for (const gpu_matrix *m : {&l.q, &l.k, &l.v}) {
        if (gpu_is_trellis(m->type)) a.part[count++] = part_of(*m, a.units, a.ld), a.units += m->rows / PIECE;
        a.ld += m->rows;
    }
    if (count == 0) return;
    a.gain = reinterpret_cast<const float *>(l.attn_norm), a.eps = n->shape.rms_eps, a.y = n->step.qkv;
    launch(n, a, 1, stream);
}

void gpu_trellis_output(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_matrix &m = n->layers[layer].output;
    trellis_args a = args_of(WORK_OUTPUT, tokens, m.k, n->step.attended32);
    a.part[0] = part_of(m, 0, 0), a.units = m.rows / PIECE, a.y = n->step.x, a.ld = m.rows;
    launch(n, a, 1, stream);
}

void gpu_trellis_head(struct gpu_network *n, uint32_t tokens, cudaStream_t stream) {
    const gpu_matrix &m = n->options.head;
    trellis_args a = args_of(WORK_HEAD, tokens, m.k, n->step.x);
    a.part[0] = part_of(m, 0, 0), a.units = m.rows / PIECE, a.y = n->step.logits, a.ld = m.rows;
    a.gain = reinterpret_cast<const float *>(n->options.output_norm), a.eps = n->shape.rms_eps;
    a.best_key = reinterpret_cast<unsigned long long *>(n->step.best_key);
    launch(n, a, 1, stream);
}

void gpu_trellis_gate_up(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_layer &l = n->layers[layer];
    const gpu_shape &s = n->shape;
    trellis_args a = args_of(WORK_GATE_UP, tokens, s.n_embd, n->step.normed);
    a.part[0] = part_in_slots(n, l.gate_type, l.gate_offset, s.n_ff),
    a.part[1] = part_in_slots(n, l.up_type, l.up_offset, s.n_ff);
    a.hits = n->step.hits, a.n_hits = n->step.n_hits, a.n_used = s.n_used;
    a.units = tokens * s.n_used * (s.n_ff / PIECE), a.y = n->step.mid32, a.ld = s.n_ff;
    launch(n, a, 2, stream);
}

void gpu_trellis_down(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_layer &l = n->layers[layer];
    const gpu_shape &s = n->shape;
    trellis_args a = args_of(WORK_DOWN, tokens, s.n_ff, n->step.mid32);
    a.part[0] = part_in_slots(n, l.down_type, l.down_offset, s.n_embd);
    a.hits = n->step.hits, a.n_hits = n->step.n_hits, a.n_missing = n->step.n_missing, a.n_used = s.n_used;
    a.layer = layer, a.command = n->step.command, a.ticket = n->step.tickets + GPU_TICKET_DOWN, a.box = post_box_of(n);
    a.units = s.n_embd / PIECE, a.y = n->step.x, a.ld = s.n_embd;
    launch(n, a, tokens * s.n_used, stream);
}
