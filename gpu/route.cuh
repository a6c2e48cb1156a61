/* A layer's choice of experts in a step: norm, router, the best experts of each token, where their weights are, and the letter
 * to the host about those that are nowhere on the device. A few blocks share the rows; the last one to finish chooses. Who
 * launches it: route.cu, and family.cuh. */
#ifndef COLDSTREAM_GPU_ROUTE_CUH
#define COLDSTREAM_GPU_ROUTE_CUH

#include "gpu/mail.cuh"
#include "gpu/matvec.cuh"

enum { ROUTER_ROWS = 16, MAX_PAIRS = GPU_STEP_TOKENS * GPU_MAX_USED, LANE_EXPERTS = GPU_MAX_EXPERTS / 32 };

struct route_args {
    weights m;
    sharing how;
    const float *x, *gain; /* [T][E], [E] */
    float *router, *normed;
    gpu_acts normed8;
    uint32_t tokens, wants; /* what the router multiplies */
    uint32_t experts_want;  /* what the experts' gate and up multiply */
    float eps;
    /* the choice */
    uint32_t layer, n_used;
    const uint32_t *slots; /* [X] of this layer */
    uint32_t *uses;        /* [X] */
    const gpu_command *command;
    gpu_route *route;
    int32_t *told; /* [T][n_used] the host's memory; NULL: it does not ask */
    gpu_hit *hits;
    uint32_t *n_hits, *n_missing, *n_misses, *ticket;
    uint32_t *owed; /* NULL: the host defers nothing */
    bool last;      /* layer */
    post_box box;
};

/* What the last block knows of each (token, rank). */
struct choice {
    int32_t *expert;
    uint32_t *slot;
    float *weight;
};

/* One warp chooses for token t: the n_used largest logits, best first; of equal ones the higher expert first; NaN counts as
 * smallest. Their weights are the softmax over them (choose_experts() of the CPU). J: experts a lane looks after. */
template <int J> static __device__ __forceinline__ void choose(const route_args &a, uint32_t t, const choice &c) {
    const uint32_t lane = threadIdx.x % 32, n = a.m.rows;
    float logit[J];
#pragma unroll
    for (int j = 0; j < J; j++) {
        const uint32_t e = 32 * j + lane;
        logit[j] = NAN; /* not to be chosen */
        if (e < n) {
            const float v = ldcg_f(a.router + static_cast<size_t>(t) * n + e);
            logit[j] = isnan(v) ? -INFINITY : v;
        }
    }
    float mine = 0, top = 0;
    uint32_t my_expert = 0;
    for (uint32_t rank = 0; rank < a.n_used; rank++) {
        found best = {logit[0], lane};
#pragma unroll
        for (int j = 1; j < J; j++)
            if (logit[j] >= best.value || (isnan(best.value) && !isnan(logit[j]))) best = found{logit[j], 32 * j + lane};
        best = warp_argmax<true>(best.value, best.index);
        if (rank == 0) top = best.value;
        if (lane == rank) mine = best.value, my_expert = best.index;
#pragma unroll
        for (int j = 0; j < J; j++)
            if (best.index == 32 * j + lane) logit[j] = NAN;
    }
    const float share = lane < a.n_used ? expf(mine - top) : 0, sum = warp_sum(share);
    if (lane < a.n_used) {
        const uint32_t at = t * a.n_used + lane;
        c.expert[at] = static_cast<int32_t>(my_expert), c.weight[at] = share / sum, c.slot[at] = a.slots[my_expert];
        atomicAdd(a.uses + my_expert, 1u);
    }
}

static __device__ __forceinline__ void choose_none(const route_args &a, uint32_t t, const choice &c) {
    const uint32_t lane = threadIdx.x % 32;
    if (lane >= a.n_used) return;
    const uint32_t at = t * a.n_used + lane;
    c.expert[at] = -1, c.weight[at] = 0, c.slot[at] = 0;
}

/* The chosen experts that have a slot, each once, in the order of their first (token, rank). At most one pair a thread. */
static __device__ __forceinline__ void list_hits(const route_args &a, const choice &c) {
    SHARED(uint32_t, in_warp, BLOCK_WARPS);
    const uint32_t p = threadIdx.x, lane = p % 32, warp = p / 32, pairs = a.tokens * a.n_used;
    bool first = p < pairs && c.slot[p] != 0;
    for (uint32_t q = 0; first && q < p; q++) first = c.expert[q] != c.expert[p];
    const uint32_t firsts = __ballot_sync(FULL_WARP, first);
    if (lane == 0) in_warp[warp] = __popc(firsts);
    __syncthreads();
    uint32_t at = __popc(firsts & ((1u << lane) - 1));
    for (uint32_t w = 0; w < warp; w++) at += in_warp[w];
    if (threadIdx.x == 0) *a.n_hits = in_warp[0] + in_warp[1] + in_warp[2] + in_warp[3];
    if (!first) return;
    gpu_hit *const hit = a.hits + at;
    uint32_t tokens = 0;
    for (uint32_t t = 0; t < GPU_STEP_TOKENS; t++) {
        uint32_t rank = 0;
        float weight = 0;
        for (uint32_t r = 0; t < a.tokens && r < a.n_used; r++)
            if (c.expert[t * a.n_used + r] == c.expert[p]) rank = r, weight = c.weight[t * a.n_used + r], tokens |= 1u << t;
        hit->rank[t] = rank, hit->weight[t] = weight;
    }
    hit->slot = c.slot[p], hit->tokens = tokens;
}

/* How many of a token's chosen experts have no slot; with `mail` named to the host in rank order. */
static __device__ __forceinline__ uint32_t count_missing(const route_args &a, uint32_t t, const choice &c, gpu_mail *mail) {
    uint32_t n = 0;
    for (uint32_t r = 0; r < a.n_used; r++) {
        const uint32_t p = t * a.n_used + r;
        if (c.expert[p] < 0 || c.slot[p] != 0) continue;
        if (mail) mail->expert[t][n] = c.expert[p], mail->weight[t][n] = c.weight[p];
        n++;
    }
    if (mail) mail->n_missing[t] = n;
    return n;
}

static __device__ __forceinline__ void post_missing(const route_args &a, uint32_t n_tokens, const choice &c) {
    if (threadIdx.x < n_tokens) count_missing(a, threadIdx.x, c, a.box.mail);
    block_send(a.box.input, a.normed, n_tokens * a.m.k, a.m.k % 4 == 0);
    block_post(a.box, GPU_MAIL_EXPERTS, a.layer, n_tokens);
}

static __device__ void route_choice(const route_args &a) {
    SHARED(int32_t, expert, MAX_PAIRS);
    SHARED(uint32_t, slot, MAX_PAIRS);
    SHARED(float, weight, MAX_PAIRS);
    const choice c = {expert, slot, weight};
    const bool due = a.owed && *a.owed != 0 && *a.box.failed == 0;
    const uint32_t warp = threadIdx.x / 32, n_tokens = a.command->n_tokens < a.tokens ? a.command->n_tokens : a.tokens;
    for (uint32_t t = warp; t < a.tokens; t += BLOCK_WARPS) {
        if (t >= n_tokens)
            choose_none(a, t, c);
        else if (a.m.rows <= 128)
            choose<4>(a, t, c);
        else
            choose<LANE_EXPERTS>(a, t, c);
    }
    __syncthreads();
    const uint32_t p = threadIdx.x;
    if (p < a.tokens * a.n_used) {
        a.route[p].expert = expert[p], a.route[p].slot = slot[p], a.route[p].weight = weight[p];
        if (a.told) a.told[p] = expert[p]; /* a write across the bus that nothing waits for */
    }
    list_hits(a, c);
    /* After a failed wait the step only goes on to its end: nothing is asked any more. */
    uint32_t missing = 0;
    if (*a.box.failed == 0)
        for (uint32_t t = 0; t < n_tokens; t++) missing += count_missing(a, t, c, NULL);
    if (missing != 0 || due) post_missing(a, n_tokens, c);
    if (threadIdx.x != 0) return;
    *a.n_missing = missing + due, *a.n_misses += missing;
    if (a.owed) *a.owed = missing != 0 && !a.last;
}

/* A token's normed vector for the experts; the blocks take tokens in turns. */
static __device__ __forceinline__ void store_normed(const route_args &a, const source &s, uint32_t t) {
    const uint32_t k = a.m.k;
    block_floats(s, k, a.normed + static_cast<size_t>(t) * k);
    if (!(a.experts_want & WANT_INT8)) return;
    const room to = {NULL, a.normed8.d, a.normed8.s32, a.normed8.q, a.normed8.sum16, k};
    block_quantize<1>(s, k, to, t);
}

/* T tokens at a time, as many as shared memory holds. */
template <int TYPE, int T>
static __global__ void __launch_bounds__(BLOCK_THREADS, T == 8 || TYPE >= FAMILY_NONE ? 4 : 5) route_kernel(const route_args a) {
    DYN_SHARED(unsigned char, shared);
    SHARED(float, out, ROUTER_ROWS * T);
    SHARED(float, scale, T);
    const uint32_t rows = ROUTER_ROWS / a.how.parts, first = blockIdx.x * rows, k = a.m.k;
    prefetch_rows<TYPE>(a.m, first, rows);
    const weights m = with_grid<TYPE>(a.m);
    uint32_t vector[T];
#pragma unroll
    for (int t = 0; t < T; t++) vector[t] = t;
    const room acts = acts_carve(shared, a.wants, T, k, 1);
    for (uint32_t begin = 0; begin < a.tokens; begin += T) {
        const float *x = a.x + static_cast<size_t>(begin) * k;
        block_norms<T>(x, k, a.eps, scale);
#pragma unroll 1
        for (int t = 0; t < T; t++) {
            const source s = {x + static_cast<size_t>(t) * k, a.gain, scale[t]};
            if (a.wants & WANT_FLOATS) block_floats(s, k, acts.f + static_cast<size_t>(t) * k);
            if (a.wants & WANT_INT8) block_quantize<1>(s, k, acts, t);
            if ((begin + t) % gridDim.x == blockIdx.x) store_normed(a, s, begin + t);
        }
        __syncthreads();
        block_rows<TYPE, ROUTER_ROWS, T, 1, true>(m, first, a.how, acts_read(acts), ~0u, vector, out);
        __syncthreads();
        const uint32_t row = threadIdx.x % rows, t = threadIdx.x / rows;
        if (t < T && first + row < a.m.rows)
            a.router[static_cast<size_t>(begin + t) * a.m.rows + first + row] =
                sum_parts<ROUTER_ROWS, T>(out, a.how.parts, row, t);
        __syncthreads();
    }
    if (grid_last(a.ticket, gridDim.x)) route_choice(a);
}

#endif
