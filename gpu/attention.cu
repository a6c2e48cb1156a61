/* Attention's kernels and their launches: one for a step of 1 to 8 tokens, two for prompts (what is appended, what is attended).
 * The maths of a tile is attention.cuh's, the pages are kv.cuh's. Knows no projections: q, k and v arrive in binary32 before
 * norm and rotation. */
#include "gpu/attention.cuh"
#include "gpu/attention.h"
#include "gpu/unpack.cuh"

enum { STEP_WARPS = 4, LEAST_TILES = 2 /* of a split that has any: fewer would cost more to merge than they save */ };

/* Heads of a layer and where their keys and values are. */
struct layer_heads {
    const float *q_norm, *k_norm; /* [DH] */
    kv_pool keys, values;
    kv_table table;
    head_rule rule;
    uint32_t heads, kv_heads, group;
};

/* ---- a step --------------------------------------------------------------------------------------------------------
 * Grid: KV heads x splits x token groups. A block takes 64 keys at a time; its four warps share them out: ROWS warps side by side
 * have 16 rows each, and 4 / ROWS such teams have a part of the keys each. With one row of warps nobody waits for another warp.
 *
 * Tokens that stand in the same sequence see each other, though their keys are nowhere yet: whoever walks over a tile puts the
 * step's own rows into it, and the block whose tokens they are also writes them to the page. So no block reads what another writes.
 *
 * Splits share out the tiles of each sequence. Each leaves (largest score, sum, values) of its rows; the last one to finish
 * merges them in their order. */

struct step_args {
    layer_heads l;
    const float *qkv; /* [tokens][(heads + 2 kv_heads) * DH] */
    const struct gpu_command *command;
    float *partial; /* values [tokens][heads][splits][DH], then {largest, sum} [tokens][heads][splits] */
    uint32_t *tickets;
    struct gpu_acts out;
    float *out32; /* unless NULL, instead of out */
    uint32_t tokens; /* of the launch; those the command does not have become 0 */
};

/* The step's tokens, and which of them are this block's. */
struct step_tokens {
    const uint32_t *position, *sequence;
    uint32_t n, first, end;
};

/* Where a block is: a tile of a sequence. The block's tokens before `token` are done, and it is of the same sequence. */
struct walk {
    uint32_t token, sequence, known, tile, end;
};

/* To the first token from w.token on that opens a sequence of which this split has tiles. */
static __device__ void walk_open(walk &w, const step_tokens &t) {
    for (; w.token < t.end; w.token++) {
        const uint32_t sequence = t.sequence[w.token];
        bool seen = false;
        for (uint32_t i = t.first; i < w.token; i++) seen |= t.sequence[i] == sequence;
        if (seen) continue;
        uint32_t last = 0;
        w.sequence = sequence, w.known = UINT32_MAX;
        for (uint32_t i = 0; i < t.n; i++) {
            if (t.sequence[i] != sequence) continue;
            w.known = min(w.known, t.position[i]);
            if (i >= t.first && i < t.end) last = max(last, t.position[i]);
        }
        const uint32_t tiles = last / TILE + 1, splits = max(1u, min(gridDim.y, tiles / LEAST_TILES));
        if (blockIdx.y >= splits) continue;
        w.tile = (uint32_t)((uint64_t)tiles * blockIdx.y / splits);
        w.end = (uint32_t)((uint64_t)tiles * (blockIdx.y + 1) / splits);
        return;
    }
}

static __device__ void walk_on(walk &w, const step_tokens &t) {
    if (++w.tile < w.end) return;
    w.token++;
    walk_open(w, t);
}

template <int ROWS> static __device__ __forceinline__ void tile_sync() {
    if constexpr (ROWS == 1) __syncwarp();
    else __syncthreads();
}

template <int DH, bool F16>
static __device__ __forceinline__ void fill_step(__half *tile, const kv_pool &p, const layer_heads &l, const walk &w) {
    const uint32_t position = w.tile * TILE;
    kv_fill<DH, STEP_WARPS, F16>(tile, p, kv_page_of(l.table, w.sequence, position), blockIdx.x, position, w.known);
}

/* The step's own keys and values in this tile, by the warp that filled the row: into the tiles, and those of the block's tokens to
 * their page. */
template <int DH, bool F16>
static __device__ __forceinline__ void overlay(__half *k_tile, __half *v_tile, const step_args &a, const step_tokens &t, const walk &w,
                                               const float2 *turn) {
    const layer_heads &l = a.l;
    __syncwarp(); /* the zeroes that other lanes copied there */
#pragma unroll 1
    for (uint32_t i = 0; i < 2 * t.n; i++) {
        const uint32_t token = i / 2, position = t.position[token], row = position % TILE;
        if (t.sequence[token] != w.sequence || position / TILE != w.tile || row / 16 != threadIdx.x / 32) continue;
        const bool key = i % 2 == 0;
        const kv_pool pool = key ? l.keys : l.values;
        const float *in = a.qkv + ((size_t)token * (l.heads + 2 * l.kv_heads) + l.heads + (key ? 0 : l.kv_heads) + blockIdx.x) * DH;
        float x[DH / 32];
        if (key) load_head<DH>(x, in, l.k_norm, turn + token * (DH / 2), l.rule.eps, 1);
        else load_row<DH>(x, in);
        kv_append<DH, F16>(pool, kv_page_of(l.table, w.sequence, position), blockIdx.x, position, token >= t.first && token < t.end, x);
        tile_put<DH>(key ? k_tile : v_tile, (int)row, x);
    }
}

/* Row r of the block: its token (at or beyond t.end: none) and its head in the group. */
struct row_of_block {
    uint32_t token, head;
};
static __device__ __forceinline__ row_of_block row_place(uint32_t row, uint32_t group, const step_tokens &t) {
    const uint32_t each = tokens_of_rows(group), token = row % 16 / group;
    return {token < each ? t.first + row / 16 * each + token : UINT32_MAX, row % 16 % group};
}

/* The block's queries as a tile: their first parts, and behind those, where there is room, their second ones. With 64 rows there is
 * none: `rest` then asks for the second parts instead. */
template <int DH, int ROWS>
static __device__ void step_queries(__half *tile, const step_args &a, const step_tokens &t, const float2 *turn, bool rest) {
    const layer_heads &l = a.l;
    for (uint32_t row = threadIdx.x / 32; row < ROWS * 16; row += STEP_WARPS) {
        const row_of_block r = row_place(row, l.group, t);
        float x[DH / 32] = {};
        if (r.token < t.end)
            load_head<DH>(x, a.qkv + ((size_t)r.token * (l.heads + 2 * l.kv_heads) + blockIdx.x * l.group + r.head) * DH, l.q_norm,
                          turn + r.token * (DH / 2), l.rule.eps, l.rule.q_scale);
        if (!rest) tile_put<DH>(tile, (int)row, x);
        if (!rest && ROWS == STEP_WARPS) continue;
#pragma unroll
        for (int i = 0; i < DH / 32; i++) x[i] = rest_of(x[i]);
        tile_put<DH>(tile, (int)row + (rest ? 0 : ROWS * 16), x);
    }
}

template <int DH, int ROWS>
static __device__ __forceinline__ void load_step_queries(uint32_t (&q)[2][DH / 16][4], __half *tile, const step_args &a, const step_tokens &t,
                                                         const float2 *turn) {
    const int row = (int)(threadIdx.x / 32 / (STEP_WARPS / ROWS) * 16);
    step_queries<DH, ROWS>(tile, a, t, turn, false);
    __syncthreads();
    load_queries<DH>(q[0], tile, row);
    if (ROWS == STEP_WARPS) {
        __syncthreads();
        step_queries<DH, ROWS>(tile, a, t, turn, true);
        __syncthreads();
    }
    load_queries<DH>(q[1], tile, row + (ROWS == STEP_WARPS ? 0 : ROWS * 16));
    __syncthreads();
}

/* The lane's column in a row of sums: shifted by the row, because eight rows are written at once. */
static __device__ __forceinline__ int sum_at(int row, int column) { return column ^ row % 4 * 8; }

/* Fragments to shared memory: sums [warp][16][DH] (the tiles' room), ends {largest, sum} [warp][16]. */
template <int DH> static __device__ void leave_sums(float *sums, float *ends, attended<DH> &a) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    attended_finish<DH>(a);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = lane / 4 + 8 * r;
        float *const to = sums + (warp * 16 + row) * DH;
#pragma unroll
        for (int c = 0; c < DH / 8; c++) {
            const int at = sum_at(row, 8 * c + 2 * (lane % 4));
            to[at] = a.o[c][2 * r], to[at + 1] = a.o[c][2 * r + 1];
        }
        if (lane % 4 == 0) ends[2 * (warp * 16 + row)] = a.max[r], ends[2 * (warp * 16 + row) + 1] = a.sum[r];
    }
}

template <int V> static __device__ __forceinline__ void load_values(float (&x)[V], const float *p) {
    if constexpr (V == 4) {
        const float4 v = ldcg_f4(p);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = ldcg_f(p + i);
    }
}

template <int V> static __device__ __forceinline__ void store_values(float *p, const float (&x)[V]) {
    if constexpr (V == 4) stf4(p, make_float4(x[0], x[1], x[2], x[3]));
    else
#pragma unroll
        for (int i = 0; i < V; i++) p[i] = x[i];
}

/* The teams' parts of each row become this split's partial. A lane has dimensions [V * lane, + V). */
template <int DH, int ROWS>
static __device__ void leave_partial(const float *sums, const float *ends, const step_args &a, const step_tokens &t) {
    constexpr int TEAMS = STEP_WARPS / ROWS, V = DH / 32;
    const uint32_t lane = threadIdx.x % 32, splits = gridDim.y;
    float *const all_ends = a.partial + (size_t)a.tokens * a.l.heads * splits * DH;
    for (uint32_t row = threadIdx.x / 32; row < ROWS * 16; row += STEP_WARPS) {
        const row_of_block r = row_place(row, a.l.group, t);
        if (r.token >= t.end) continue;
        const uint32_t from = row / 16 * TEAMS * 16 + row % 16;
        float max = -INFINITY, sum = 0, x[V] = {};
#pragma unroll
        for (int i = 0; i < TEAMS; i++) max = fmaxf(max, ends[2 * (from + 16 * i)]);
#pragma unroll
        for (int i = 0; i < TEAMS; i++) {
            const float w = exp2f(ends[2 * (from + 16 * i)] - (max == -INFINITY ? 0 : max));
            sum += w * ends[2 * (from + 16 * i) + 1];
#pragma unroll
            for (int j = 0; j < V; j++) x[j] += w * sums[(from + 16 * i) * DH + sum_at((int)row % 16, (int)(V * lane)) + j];
        }
        const size_t at = ((size_t)r.token * a.l.heads + blockIdx.x * a.l.group + r.head) * splits + blockIdx.y;
        if (lane == 0) all_ends[2 * at] = max, all_ends[2 * at + 1] = sum;
        if (max == -INFINITY) continue;
        store_values<V>(a.partial + at * DH + V * lane, x);
    }
}

/* One row of all splits, by a warp; room [splits][2] of its own. All loads of a stage are under way together: what they cost is the
 * way to L2, and a last block does this for all rows. */
template <int DH> static __device__ void merge_row(float (&x)[DH / 32], const step_args &a, size_t row, float *room) {
    constexpr int V = DH / 32, AHEAD = V == 4 ? 16 : 8;
    const uint32_t lane = threadIdx.x % 32, splits = gridDim.y;
    const float *const ends = a.partial + (size_t)a.tokens * a.l.heads * splits * DH + 2 * row * splits;
    const float *const values = a.partial + row * splits * DH + V * lane;
    float max = -INFINITY, sum = 0;
#pragma unroll 4
    for (uint32_t s = lane; s < splits; s += 32) {
        room[2 * s] = ldcg_f(ends + 2 * s), room[2 * s + 1] = ldcg_f(ends + 2 * s + 1);
        max = fmaxf(max, room[2 * s]);
    }
    max = warp_max(max);
    for (uint32_t s = lane; s < splits; s += 32) {
        room[2 * s] = exp2f(room[2 * s] - max);
        sum += room[2 * s] * room[2 * s + 1];
    }
    const float by = 1 / warp_sum(sum);
    __syncwarp();
    for (uint32_t first = 0; first < splits; first += AHEAD) {
        float w[AHEAD], v[AHEAD][V];
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; i++) {
            w[i] = first + i < splits ? room[2 * (first + i)] : 0;
            if (w[i] > 0) load_values<V>(v[i], values + (size_t)(first + i) * DH);
        }
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; i++)
#pragma unroll
            for (int j = 0; j < V; j++)
                if (w[i] > 0) x[j] += w[i] * v[i][j];
    }
    __syncwarp(); /* before the next row takes the room */
#pragma unroll
    for (int j = 0; j < V; j++) x[j] *= by;
}

/* Values [at + V * lane, + V) of vector `row` of k values are this lane's x; `at` is a multiple of 32, so that a group of 32
 * is 32 / V neighbouring lanes. V is 1, 2 or 4. All lanes call. */
template <int V> static __device__ void store_acts(const gpu_acts &out, uint32_t row, uint32_t k, uint32_t at, const float (&x)[V]) {
    const int lane = threadIdx.x % 32;
    const size_t first = (size_t)row * k + at + V * lane;
    float max = 0;
#pragma unroll
    for (int i = 0; i < V; i++) max = fmaxf(max, isfinite(x[i]) ? fabsf(x[i]) : INFINITY);
#pragma unroll
    for (int step = 1; step < 32 / V; step *= 2) max = fmaxf(max, warp_xor(max, step));
    const bool usable = max < INFINITY && max >= 0x1p-110f;
    const float inverse = usable ? 127 / max : 0;
    int sum = 0;
    uint32_t bytes = 0;
#pragma unroll
    for (int i = 0; i < V; i++) {
        const int q = usable ? __float2int_rn(x[i] * inverse) : 0;
        sum += q, bytes |= (uint32_t)(q & 255) << (8 * i);
    }
    if (V == 4) *reinterpret_cast<uint32_t *>(out.q + first) = bytes;
    else if (V == 2) *reinterpret_cast<uint16_t *>(out.q + first) = (uint16_t)bytes;
    else out.q[first] = (int8_t)bytes;
#pragma unroll
    for (int step = 1; step < 16 / V; step *= 2) sum += warp_xor(sum, step);
    const int both = sum + warp_xor(sum, 16 / V);
    if (lane % (16 / V) == 0) out.sum16[first / 16] = sum;
    if (lane % (32 / V) == 0) {
        const float d = usable ? max / 127 : max < INFINITY ? 0 : NAN;
        out.d[first / 32] = d;
        out.s32[first / 32] = d * (float)both;
    }
}

template <int DH, int ROWS> static __device__ void merge_splits(float *room, const step_args &a, const step_tokens &t) {
    for (uint32_t row = threadIdx.x / 32; row < ROWS * 16; row += STEP_WARPS) {
        const row_of_block r = row_place(row, a.l.group, t);
        if (r.token >= a.tokens) continue;
        const uint32_t head = blockIdx.x * a.l.group + r.head;
        float x[DH / 32] = {};
        if (r.token < t.end) merge_row<DH>(x, a, (size_t)r.token * a.l.heads + head, room + threadIdx.x / 32 * 2 * gridDim.y);
        if (a.out32) store_values<DH / 32>(a.out32 + ((size_t)r.token * a.l.heads + head) * DH + DH / 32 * (threadIdx.x % 32), x);
        else store_acts<DH / 32>(a.out, r.token, a.l.heads * DH, head * DH, x);
    }
}

/* Largest position that row r of the block sees in the sequence at hand; -1: none. */
static __device__ __forceinline__ int row_limit(const row_of_block &r, const step_tokens &t, const walk &w) {
    return r.token < t.end && t.sequence[r.token] == w.sequence ? (int)t.position[r.token] : -1;
}

/* This block's walk. F16: K and V of a tile are under way while the other is in use; other kinds are unpacked when needed. */
template <int DH, int ROWS, bool F16>
static __device__ __forceinline__ void step_walk(__half *k_tile, __half *v_tile, const step_args &a, const step_tokens &t, float2 *turn,
                                                 attended<DH> &sums) {
    constexpr int TEAMS = STEP_WARPS / ROWS, KEYS = TILE / TEAMS;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    walk w = {t.first, 0, 0, 0, 0};
    walk_open(w, t);
    if (F16 && w.token < t.end) fill_step<DH, F16>(k_tile, a.l.keys, a.l, w);
    cp_async_commit();
    for (uint32_t i = threadIdx.x; i < t.n * (DH / 2); i += STEP_WARPS * 32)
        turn[i] = rope_turn(t.position[i / (DH / 2)], a.l.rule.frequency[i % (DH / 2)], a.l.rule.magnitude);
    __syncthreads();
    uint32_t q[2][DH / 16][4];
    load_step_queries<DH, ROWS>(q, v_tile, a, t, turn);
    if (F16 && w.token < t.end) fill_step<DH, F16>(v_tile, a.l.values, a.l, w);
    cp_async_commit();
    const row_of_block top = row_place(warp / TEAMS * 16 + lane / 4, a.l.group, t);
    const row_of_block bottom = row_place(warp / TEAMS * 16 + lane / 4 + 8, a.l.group, t);
    const int first = (int)(warp % TEAMS) * KEYS;
    while (w.token < t.end) {
        const bool fresh = w.tile * TILE + TILE > w.known;
        walk next = w;
        walk_on(next, t);
        if (!F16) {
#pragma unroll 1
            for (int values = 0; values < 2; values++) {
                const kv_pool pool = values ? a.l.values : a.l.keys;
                fill_step<DH, F16>(values ? v_tile : k_tile, pool, a.l, w);
            }
            cp_async_commit();
        }
        if (!F16 || fresh) cp_async_wait<0>();
        else cp_async_wait<1>();
        if (fresh) overlay<DH, F16>(k_tile, v_tile, a, t, w, turn);
        tile_sync<ROWS>();
        float s[KEYS / 8][4];
        score_keys<DH, KEYS, 2>(s, q, k_tile, first);
        if (F16) {
            tile_sync<ROWS>();
            if (next.token < t.end) fill_step<DH, F16>(k_tile, a.l.keys, a.l, next);
            cp_async_commit();
        }
        mask_keys<KEYS>(s, (int)(w.tile * TILE) + first, row_limit(top, t, w), row_limit(bottom, t, w));
        weigh_keys<DH, KEYS>(sums, s);
        if (F16) {
            cp_async_wait<1>();
            tile_sync<ROWS>();
        }
        gather_values<DH, KEYS, 2>(sums, s, v_tile, first);
        tile_sync<ROWS>();
        if (F16 && next.token < t.end) fill_step<DH, F16>(v_tile, a.l.values, a.l, next);
        if (F16) cp_async_commit();
        w = next;
    }
    cp_async_wait<0>();
}

template <int DH, int ROWS, bool F16> static __global__ __launch_bounds__(STEP_WARPS * 32, 2) void attend_step(const step_args a) {
    DYN_SHARED(__half, tiles); /* K [64][DH], V [64][DH]; at first V's room holds the queries, in the end both the sums */
    SHARED(float2, turn, GPU_STEP_TOKENS * DH / 2);
    SHARED(uint32_t, places, 2 * GPU_STEP_TOKENS);
    SHARED(float, ends, 2 * 16 * STEP_WARPS);
    const uint32_t n = min(a.command->n_tokens, a.tokens), each = ROWS * tokens_of_rows(a.l.group);
    const step_tokens t = {places, places + GPU_STEP_TOKENS, n, blockIdx.z * each, min(blockIdx.z * each + each, n)};
    if (threadIdx.x < n) {
        places[threadIdx.x] = a.command->tokens[threadIdx.x].position;
        places[GPU_STEP_TOKENS + threadIdx.x] = a.command->tokens[threadIdx.x].sequence;
    }
    __syncthreads();
    attended<DH> sums;
    attended_clear<DH>(sums);
    step_walk<DH, ROWS, F16>(tiles, tiles + TILE * DH, a, t, turn, sums);
    __syncthreads();
    float *const room = reinterpret_cast<float *>(tiles);
    leave_sums<DH>(room, ends, sums);
    __syncthreads();
    leave_partial<DH, ROWS>(room, ends, a, t);
    if (grid_last(a.tickets + blockIdx.z * a.l.kv_heads + blockIdx.x, gridDim.y)) merge_splits<DH, ROWS>(room, a, t);
}

/* ---- prompts -------------------------------------------------------------------------------------------------------
 * Keys and values of the whole batch go to their pages first; then blocks of 16 rows a warp walk over all positions up to their
 * last token, 64 keys at a time, longest walks first. */

struct batch_args {
    layer_heads l;
    const float *qkv; /* [n][(heads + 2 kv_heads) * DH] */
    __half *q, *out;  /* [n][heads * DH] */
    uint32_t n, sequence, first;
};

/* Grid: tokens. */
template <int DH> static __global__ __launch_bounds__(128) void rotate_batch(const batch_args a) {
    SHARED(float2, turn, DH / 2);
    const layer_heads &l = a.l;
    const uint32_t position = a.first + blockIdx.x, all = l.heads + 2 * l.kv_heads, page = kv_page_of(l.table, a.sequence, position);
    if (threadIdx.x < DH / 2) turn[threadIdx.x] = rope_turn(position, l.rule.frequency[threadIdx.x], l.rule.magnitude);
    __syncthreads();
    for (uint32_t head = threadIdx.x / 32; head < all; head += blockDim.x / 32) {
        const float *const in = a.qkv + ((size_t)blockIdx.x * all + head) * DH;
        float x[DH / 32];
        if (head < l.heads) {
            load_head<DH>(x, in, l.q_norm, turn, l.rule.eps, l.rule.q_scale);
            put_f16<DH>(x, a.q + ((size_t)blockIdx.x * l.heads + head) * DH);
        } else if (head < l.heads + l.kv_heads) {
            load_head<DH>(x, in, l.k_norm, turn, l.rule.eps, 1);
            kv_append<DH, false>(l.keys, page, head - l.heads, position, true, x);
        } else {
            load_row<DH>(x, in);
            kv_append<DH, false>(l.values, page, head - l.heads - l.kv_heads, position, true, x);
        }
    }
}

/* Queries of the block's rows into the tiles' room; a row without a token is 0. */
template <int DH, int WARPS> static __device__ void batch_queries(__half *tile, const batch_args &a, uint32_t token) {
    constexpr int CHUNKS = DH / 8;
    const uint32_t group = a.l.group, each = tokens_of_rows(group);
    for (uint32_t i = threadIdx.x; i < WARPS * 16 * CHUNKS; i += WARPS * 32) {
        const uint32_t row = i / CHUNKS, chunk = i % CHUNKS, t = token + row / 16 * each + row % 16 / group;
        const bool real = row % 16 / group < each && t < a.n;
        const __half *const from = a.q + ((size_t)(real ? t : 0) * a.l.heads + blockIdx.y * group + row % 16 % group) * DH + chunk * 8;
        cp_async16_or_zero(tile + tile_at<DH>((int)row, (int)chunk), from, real);
    }
    cp_async_commit();
    cp_async_wait<0>();
}

/* One row of a lane's fragments, in binary16. */
template <int DH, int R>
static __device__ __forceinline__ void leave_row(const batch_args &a, const attended<DH> &sums, uint32_t token, uint32_t head) {
    const float by = 1 / sums.sum[R];
    __half2 *const to = reinterpret_cast<__half2 *>(a.out + ((size_t)token * a.l.heads + head) * DH) + threadIdx.x % 4;
#pragma unroll
    for (int c = 0; c < DH / 8; c++) to[4 * c] = __floats2half2_rn(sums.o[c][2 * R] * by, sums.o[c][2 * R + 1] * by);
}

template <int DH, int WARPS, bool F16>
static __device__ __forceinline__ void fill_batch(__half *tile, const kv_pool &p, const batch_args &a, uint32_t position, uint32_t known) {
    kv_fill<DH, WARPS, F16>(tile, p, kv_page_of(a.l.table, a.sequence, position), blockIdx.y, position, known);
}

/* Grid: blocks of tokens x KV heads. */
template <int DH, int WARPS, bool F16> static __global__ __launch_bounds__(WARPS * 32, 8 / WARPS) void attend_batch(const batch_args a) {
    DYN_SHARED(__half, tiles); /* K [64][DH], V [64][DH]; at first the queries */
    __half *const k_tile = tiles, *const v_tile = tiles + TILE * DH;
    const uint32_t group = a.l.group, each = tokens_of_rows(group), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t token = (gridDim.x - 1 - blockIdx.x) * WARPS * each, known = a.first + min(token + WARPS * each, a.n);
    batch_queries<DH, WARPS>(tiles, a, token);
    __syncthreads();
    uint32_t q[1][DH / 16][4];
    load_queries<DH>(q[0], tiles, (int)warp * 16);
    __syncthreads();
    if (F16) {
        fill_batch<DH, WARPS, F16>(k_tile, a.l.keys, a, 0, known);
        cp_async_commit();
        fill_batch<DH, WARPS, F16>(v_tile, a.l.values, a, 0, known);
        cp_async_commit();
    }

    const uint32_t above = lane / 4 / group, below = (lane / 4 + 8) / group; /* of the warp's tokens */
    const uint32_t top = above < each ? token + warp * each + above : UINT32_MAX, bottom = below < each ? token + warp * each + below : UINT32_MAX;
    const int top_limit = top < a.n ? (int)(a.first + top) : -1, bottom_limit = bottom < a.n ? (int)(a.first + bottom) : -1;
    attended<DH> sums;
    attended_clear<DH>(sums);
    for (uint32_t position = 0; position < known; position += TILE) {
        const bool more = F16 && position + TILE < known;
        if (!F16) {
#pragma unroll 1
            for (int values = 0; values < 2; values++) {
                const kv_pool pool = values ? a.l.values : a.l.keys;
                fill_batch<DH, WARPS, F16>(values ? v_tile : k_tile, pool, a, position, known);
            }
            cp_async_commit();
            cp_async_wait<0>();
        } else cp_async_wait<1>();
        __syncthreads();
        float s[TILE / 8][4];
        score_keys<DH, TILE, 1>(s, q, k_tile, 0);
        if (F16) {
            __syncthreads();
            if (more) fill_batch<DH, WARPS, F16>(k_tile, a.l.keys, a, position + TILE, known);
            cp_async_commit();
        }
        if ((int)(position + TILE) > min(top_limit, bottom_limit) + 1) mask_keys<TILE>(s, (int)position, top_limit, bottom_limit);
        weigh_keys<DH, TILE>(sums, s);
        if (F16) {
            cp_async_wait<1>();
            __syncthreads();
        }
        gather_values<DH, TILE, 1>(sums, s, v_tile, 0);
        __syncthreads();
        if (more) fill_batch<DH, WARPS, F16>(v_tile, a.l.values, a, position + TILE, known);
        if (F16) cp_async_commit();
    }
    cp_async_wait<0>();
    attended_finish<DH>(sums);
    if (top < a.n) leave_row<DH, 0>(a, sums, top, blockIdx.y * group + lane / 4 % group);
    if (bottom < a.n) leave_row<DH, 1>(a, sums, bottom, blockIdx.y * group + (lane / 4 + 8) % group);
}

/* ---- launches ------------------------------------------------------------------------------------------------------ */

enum err gpu_attention_check(const struct gpu_network_options *o, struct reason *why) {
    const struct gpu_shape *s = &o->shape;
    if (s->head_dim != 32 && s->head_dim != 64 && s->head_dim != 128)
        return fail(why, ERR_UNSUPPORTED, "the GPU's attention has kernels for heads of 32, 64 and 128, not %u: use --device cpu", s->head_dim);
    if (!s->n_kv_heads || s->n_heads % s->n_kv_heads || s->n_heads / s->n_kv_heads > MAX_GROUP)
        return fail(why, ERR_UNSUPPORTED, "the GPU's attention shares a KV head among at most %d query heads, not %u heads among %u: use --device cpu",
                    MAX_GROUP, s->n_heads, s->n_kv_heads);
    return ERR_NONE;
}

static layer_heads heads_of(const struct gpu_network *n, uint32_t layer) {
    const struct gpu_layer *l = &n->layers[layer];
    const struct gpu_shape *s = &n->shape;
    const float q_scale = (float)(1.4426950408889634074 / sqrt((double)s->head_dim));
    return {(const float *)l->q_norm,
            (const float *)l->k_norm,
            {(uint8_t *)l->keys, n->options.kv_k, s->n_kv_heads},
            {(uint8_t *)l->values, n->options.kv_v, s->n_kv_heads},
            {n->pages, n->options.max_pages},
            {n->rope_frequency, s->rms_eps, s->rope_magnitude, q_scale},
            s->n_heads,
            s->n_kv_heads,
            s->n_heads / s->n_kv_heads};
}

static bool all_f16(const struct gpu_network *n) { return n->options.kv_k == GPU_KV_F16 && n->options.kv_v == GPU_KV_F16; }

static size_t tile_bytes(uint32_t head_dim) { return 2 * TILE * head_dim * sizeof(__half); }

template <int DH> static void launch_step(const struct gpu_network *n, const step_args &a, cudaStream_t stream) {
    const uint32_t each = tokens_of_rows(a.l.group), warps = (a.tokens + each - 1) / each, rows = warps > 2 ? 4 : warps;
    const size_t shared = tile_bytes(DH), most = shared / (STEP_WARPS * 2 * sizeof(float)); /* splits: merge_row's room */
    const dim3 grid(a.l.kv_heads, n->splits < most ? n->splits : (uint32_t)most, (warps + rows - 1) / rows);
    if (all_f16(n)) {
        if (rows == 1) LAUNCH((attend_step<DH, 1, true>), grid, 128, shared, stream, a);
        else if (rows == 2) LAUNCH((attend_step<DH, 2, true>), grid, 128, shared, stream, a);
        else LAUNCH((attend_step<DH, 4, true>), grid, 128, shared, stream, a);
    } else {
        if (rows == 1) LAUNCH((attend_step<DH, 1, false>), grid, 128, shared, stream, a);
        else if (rows == 2) LAUNCH((attend_step<DH, 2, false>), grid, 128, shared, stream, a);
        else LAUNCH((attend_step<DH, 4, false>), grid, 128, shared, stream, a);
    }
}

void gpu_launch_attention(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const struct gpu_step *s = &n->step;
    const enum tensor_type type = n->layers[layer].output.type;
    const bool floats = (gpu_wants(type) & WANT_FLOATS) != 0;
    const step_args a = {heads_of(n, layer), s->qkv,      s->command, s->attend_partial, s->tickets + GPU_TICKET_ATTENTION,
                         s->attended,        floats ? s->attended32 : NULL,     tokens};
    if (n->shape.head_dim == 128) launch_step<128>(n, a, stream);
    else if (n->shape.head_dim == 64) launch_step<64>(n, a, stream);
    else launch_step<32>(n, a, stream);
}

/* 128 rows a block read each key half as often as 64 do; with few tokens, 64 rows make more blocks: `splits` of a KV head fill the
 * device. */
template <int DH> static void launch_batch(const struct gpu_network *n, const batch_args &a, cudaStream_t stream) {
    const uint32_t each = tokens_of_rows(a.l.group), blocks = (a.n + 8 * each - 1) / (8 * each);
    const bool wide = all_f16(n) && blocks >= n->splits;
    const dim3 grid(wide ? blocks : (a.n + 4 * each - 1) / (4 * each), a.l.kv_heads);
    const size_t shared = tile_bytes(DH);
    LAUNCH((rotate_batch<DH>), a.n, 128, 0, stream, a);
    if (wide) LAUNCH((attend_batch<DH, 8, true>), grid, 256, shared, stream, a);
    else if (all_f16(n)) LAUNCH((attend_batch<DH, 4, true>), grid, 128, shared, stream, a);
    else LAUNCH((attend_batch<DH, 4, false>), grid, 128, shared, stream, a);
}

void gpu_launch_batch_attention(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, cudaStream_t stream) {
    const struct gpu_lane *lane = &n->lanes[b->lane];
    const batch_args a = {heads_of(n, layer), lane->qkv, lane->q, lane->attended, b->n, b->sequence, (uint32_t)b->first};
    if (n->shape.head_dim == 128) launch_batch<128>(n, a, stream);
    else if (n->shape.head_dim == 64) launch_batch<64>(n, a, stream);
    else launch_batch<32>(n, a, stream);
}
