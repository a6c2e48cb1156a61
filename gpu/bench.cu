/* See bench.h. Knows how to bring about what a launch expects to find, nothing about what it computes. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/bench.h"
#include "gpu/device_private.h"
#include "gpu/mail.cuh"

enum { THREADS = 256, READS = 8, READ_BLOCKS_PER_SM = 8, HAND_THREADS = 128, WARM = 2, SPINS = 2048 };

static const uint64_t limit_ns = 20000000000u; /* for a stretch, or for a mail */

/* ---- kernels of its own ---------------------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(32) empty_kernel(uint32_t *nothing) { (void)nothing; }

/* No byte of the pattern is above 0x3b: half and single precision numbers below 1, small integers. */
static __global__ void __launch_bounds__(THREADS) fill_kernel(uint32_t *to, uint64_t words) {
    for (uint64_t i = blockIdx.x * static_cast<uint64_t>(THREADS) + threadIdx.x; i < words; i += gridDim.x * static_cast<uint64_t>(THREADS)) {
        uint32_t v = static_cast<uint32_t>(i) * 0x9e3779b1u;
        v = (v ^ v >> 15) * 0x85ebca77u;
        to[i] = (v ^ v >> 13) & 0x3b3b3b3bu;
    }
}

/* The sum is stored, where no sum is: the loads have to be made. */
static __global__ void __launch_bounds__(THREADS) read_kernel(const uint8_t *from, uint64_t units, uint32_t *sink) {
    const uint64_t stride = gridDim.x * static_cast<uint64_t>(THREADS);
    uint32_t sum = 0;
    uint64_t i = blockIdx.x * static_cast<uint64_t>(THREADS) + threadIdx.x;
    for (; i + (READS - 1) * stride < units; i += READS * stride) {
        uint4 v[READS];
#pragma unroll
        for (int r = 0; r < READS; r++) v[r] = ld128(from + 16 * (i + r * stride));
#pragma unroll
        for (int r = 0; r < READS; r++) sum |= v[r].x | v[r].y | v[r].z | v[r].w;
    }
    for (; i < units; i += stride) {
        const uint4 v = ld128(from + 16 * i);
        sum |= v.x | v.y | v.z | v.w;
    }
    if (sum == 0x80000000u) *sink = sum; /* not of the pattern */
}

struct hand_args {
    post_box box;
    float *values; /* sent, and what came back */
    uint32_t floats, rounds;
};

static __global__ void __launch_bounds__(HAND_THREADS) hand_over_kernel(const hand_args a) {
    for (uint32_t r = 0; r < a.rounds; r++) {
        block_send(a.box.input, a.values, a.floats, true);
        block_post(a.box, GPU_MAIL_EXPERTS, r, 1);
        if (!block_await(a.box, r)) return; /* the same for all */
        block_receive(a.box.values, a.floats, true, [&](uint32_t i, float4 v) { stf4(a.values + i, v); });
        __syncthreads();
    }
}

/* ---- facts ------------------------------------------------------------------------------------------------------------ */

static uint32_t attribute(const struct gpu_device *d, cudaDeviceAttr which) {
    int value = 0;
    if (cudaDeviceGetAttribute(&value, which, d->index) == cudaSuccess) return value > 0 ? static_cast<uint32_t>(value) : 0;
    (void)cudaGetLastError();
    return 0;
}

void gpu_bench_facts(struct gpu *g, struct gpu_bench_facts *out) {
    const struct gpu_device *d = gpu_device_of(g);
    int driver = 0, runtime = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || cudaRuntimeGetVersion(&runtime) != cudaSuccess) (void)cudaGetLastError();
    *out = {};
    out->driver = static_cast<uint32_t>(driver), out->runtime = static_cast<uint32_t>(runtime);
    out->l2_bytes = attribute(d, cudaDevAttrL2CacheSize);
    out->clock_mhz = attribute(d, cudaDevAttrClockRate) / 1000, out->memory_clock_mhz = attribute(d, cudaDevAttrMemoryClockRate) / 1000;
    out->memory_bus_bits = attribute(d, cudaDevAttrGlobalMemoryBusWidth);
}

uint64_t gpu_bench_free_bytes(struct gpu *g) {
    size_t now = 0, total = 0;
    (void)g;
    if (cudaMemGetInfo(&now, &total) == cudaSuccess) return now;
    (void)cudaGetLastError();
    return 0;
}

/* ---- what launches find ------------------------------------------------------------------------------------------------- */

static void fill(struct gpu *g, const void *to, uint64_t bytes) {
    const uint64_t words = bytes / 4, blocks = (words + THREADS - 1) / THREADS, most = gpu_device_of(g)->info.sm_count * 16u;
    if (words) LAUNCH(fill_kernel, static_cast<uint32_t>(blocks < most ? blocks : most), THREADS, 0, gpu_stream_of(g, GPU_COMPUTE),
                      static_cast<uint32_t *>(const_cast<void *>(to)), words);
    (void)gpu_note_launch(g, "filling memory");
}

void gpu_bench_fill(struct gpu *g, gpu_ptr to, uint64_t bytes) { fill(g, reinterpret_cast<void *>(to), bytes); }

static void fill_acts(struct gpu *g, const gpu_acts &a, uint64_t n, uint64_t k) {
    fill(g, a.q, n * k);
    fill(g, a.d, n * (k / 32) * sizeof *a.d);
    fill(g, a.s32, n * (k / 32) * sizeof *a.s32);
    /* not the pattern, which is too large for a sum of 16 quants */
    (void)gpu_note(g, cudaMemsetAsync(a.sum16, 0, n * (k / 16) * sizeof *a.sum16, gpu_stream_of(g, GPU_COMPUTE)), "filling memory");
}

static void upload(struct gpu *g, const void *to, const void *from, uint64_t bytes) {
    g->ops->upload(g, GPU_COMPUTE, reinterpret_cast<gpu_ptr>(to), from, bytes);
}

/* Every expert in a slot, so that the router misses none. */
static void settle_experts(struct gpu_network *n) {
    uint32_t slots[GPU_MAX_EXPERTS];
    for (uint32_t e = 0; e < n->shape.n_experts; e++) slots[e] = 1;
    for (uint32_t l = 0; l < n->shape.n_layers; l++) n->gpu->ops->set_slots(n, l, slots);
}

static void choose_hits(struct gpu_network *n, const struct gpu_bench_job *j) {
    gpu_hit hits[GPU_STEP_TOKENS * GPU_MAX_USED];
    const uint32_t used = n->shape.n_used, count = j->tokens * used, zero = 0;
    memset(hits, 0, sizeof hits);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t t = i / used;
        hits[i].slot = 1 + static_cast<uint32_t>(i * j->slot_bytes / 256), hits[i].tokens = 1u << t;
        hits[i].rank[t] = i % used, hits[i].weight[t] = 1.0f / static_cast<float>(used);
    }
    upload(n->gpu, n->step.hits, hits, count * sizeof *hits);
    upload(n->gpu, n->step.n_hits, &count, sizeof count);
    upload(n->gpu, n->step.n_missing, &zero, sizeof zero);
    upload(n->gpu, n->step.failed, &zero, sizeof zero);
}

static void set_command(struct gpu_network *n, const struct gpu_bench_job *j) {
    struct gpu_command c;
    memset(&c, 0, sizeof c);
    c.n_tokens = j->tokens;
    for (uint32_t t = 0; t < j->tokens; t++) c.tokens[t].position = static_cast<uint32_t>((j->context > j->tokens ? j->context - j->tokens : 0) + t);
    upload(n->gpu, n->step.command, &c, sizeof c);
}

static void prepare_step(struct gpu_network *n, const struct gpu_bench_job *j) {
    const struct gpu_shape *s = &n->shape;
    const struct gpu_step *st = &n->step;
    const uint64_t t = GPU_STEP_TOKENS, q = static_cast<uint64_t>(s->n_heads) * s->head_dim, kv = static_cast<uint64_t>(s->n_kv_heads) * s->head_dim;
    struct gpu *g = n->gpu;
    fill(g, st->x, t * s->n_embd * sizeof *st->x);
    fill(g, st->qkv, t * (q + 2 * kv) * sizeof *st->qkv);
    fill_acts(g, st->attended, t, q);
    fill(g, st->attended32, t * q * sizeof *st->attended32);
    fill(g, st->normed, t * s->n_embd * sizeof *st->normed);
    fill_acts(g, st->normed8, t, s->n_embd);
    fill_acts(g, st->mid, t * s->n_used, s->n_ff);
    fill(g, st->mid32, t * s->n_used * s->n_ff * sizeof *st->mid32);
    settle_experts(n);
    choose_hits(n, j);
    set_command(n, j);
}

/* Token i of expert e: distinct within an expert, spread over the batch. */
static enum err share_tokens(struct gpu_network *n, uint32_t tokens, struct reason *why) {
    const struct gpu_lane *lane = &n->lanes[0];
    const uint32_t experts = n->shape.n_experts, pairs = tokens * n->shape.n_used;
    int32_t *token = static_cast<int32_t *>(calloc_checked(pairs, sizeof *token));
    uint32_t start[GPU_MAX_EXPERTS + 1];
    if (!token) return fail(why, ERR_NO_MEMORY, "no memory for a list of tokens");
    for (uint32_t e = 0; e <= experts; e++) start[e] = static_cast<uint32_t>(static_cast<uint64_t>(pairs) * e / experts);
    for (uint32_t e = 0; e < experts; e++) {
        const uint32_t each = start[e + 1] - start[e], step = each ? tokens / each : 0;
        for (uint32_t i = 0; i < each; i++) token[start[e] + i] = static_cast<int32_t>((7 * e + i * step) % tokens);
    }
    upload(n->gpu, lane->pair_token, token, pairs * sizeof *token);
    upload(n->gpu, lane->expert_start, start, (experts + 1) * sizeof *start);
    free(token);
    return ERR_NONE;
}

static enum err prepare_batch(struct gpu_network *n, const struct gpu_bench_job *j, struct reason *why) {
    const struct gpu_shape *s = &n->shape;
    const struct gpu_lane *l = &n->lanes[0];
    const uint64_t t = j->tokens, q = static_cast<uint64_t>(s->n_heads) * s->head_dim, width = q + 2 * static_cast<uint64_t>(s->n_kv_heads) * s->head_dim;
    struct gpu *g = n->gpu;
    fill(g, l->normed, t * s->n_embd * sizeof *l->normed);
    fill(g, l->qkv, t * width * sizeof *l->qkv);
    fill(g, l->mid, t * s->n_used * s->n_ff * sizeof *l->mid);
    fill(g, l->mid_scale, t * s->n_used * sizeof *l->mid_scale);
    return share_tokens(n, j->tokens, why);
}

/* ---- launches ------------------------------------------------------------------------------------------------------------- */

static bool is_batch(enum gpu_bench_what what) { return what >= GPU_BENCH_PRODUCT; }
static bool is_step(enum gpu_bench_what what) { return what >= GPU_BENCH_QKV && !is_batch(what); }

static void launch_product(struct gpu_network *n, const struct gpu_bench_job *j, uint32_t layer, cudaStream_t stream) {
    struct gpu_product p = {};
    p.w = n->layers[layer].q, p.x = n->lanes[0].normed, p.n = j->tokens, p.y = n->lanes[0].qkv, p.ldy = p.w.rows;
    gpu_launch_product(n, &p, stream);
}

static void launch_experts(struct gpu_network *n, const struct gpu_bench_job *j, uint32_t layer, cudaStream_t stream) {
    struct gpu_batch_expert experts[GPU_MAX_EXPERTS];
    struct gpu_batch b = {};
    b.n = j->tokens;
    for (uint32_t e = 0; e < n->shape.n_experts; e++) experts[e].expert = e, experts[e].slot = n->options.slots + e * j->slot_bytes;
    gpu_launch_expert_products(n, &b, layer, experts, n->shape.n_experts, stream);
}

static void launch_batch_attention(struct gpu_network *n, const struct gpu_bench_job *j, uint32_t layer, cudaStream_t stream) {
    struct gpu_batch b = {};
    b.n = j->tokens, b.first = j->context;
    gpu_launch_batch_attention(n, &b, layer, stream);
}

static void launch_read(struct gpu *g, const struct gpu_bench_job *j, cudaStream_t stream) {
    struct gpu_device *d = gpu_device_of(g);
    LAUNCH(read_kernel, d->info.sm_count * READ_BLOCKS_PER_SM, THREADS, 0, stream, reinterpret_cast<const uint8_t *>(j->from), j->bytes / 16,
           reinterpret_cast<uint32_t *>(j->from));
}

static cudaError_t launch_one(struct gpu *g, const struct gpu_bench_job *j, uint32_t i, cudaStream_t stream) {
    struct gpu_network *n = j->network;
    const uint32_t layer = n ? i % n->shape.n_layers : 0;
    switch (j->what) {
    case GPU_BENCH_COPY: return cudaMemcpyAsync((void *)j->to, (const void *)j->from, j->bytes, cudaMemcpyDeviceToDevice, stream);
    case GPU_BENCH_TO_DEVICE: return cudaMemcpyAsync((void *)j->to, j->host, j->bytes, cudaMemcpyHostToDevice, stream);
    case GPU_BENCH_FROM_DEVICE: return cudaMemcpyAsync(j->host, (const void *)j->from, j->bytes, cudaMemcpyDeviceToHost, stream);
    case GPU_BENCH_READ: launch_read(g, j, stream); break;
    case GPU_BENCH_EMPTY: LAUNCH(empty_kernel, 1, 32, 0, stream, static_cast<uint32_t *>(NULL)); break;
    case GPU_BENCH_QKV: gpu_launch_qkv(n, j->tokens, layer, stream); break;
    case GPU_BENCH_ATTENTION: gpu_launch_attention(n, j->tokens, layer, stream); break;
    case GPU_BENCH_OUTPUT: gpu_launch_output(n, j->tokens, layer, stream); break;
    case GPU_BENCH_ROUTE: gpu_launch_route(n, j->tokens, layer, stream); break;
    case GPU_BENCH_GATE_UP: gpu_launch_gate_up(n, j->tokens, layer, stream); break;
    case GPU_BENCH_DOWN: gpu_launch_down(n, j->tokens, layer, stream); break;
    case GPU_BENCH_HEAD: gpu_launch_head(n, j->tokens, stream); break;
    case GPU_BENCH_PRODUCT: launch_product(n, j, layer, stream); break;
    case GPU_BENCH_EXPERTS: launch_experts(n, j, layer, stream); break;
    case GPU_BENCH_BATCH_ATTENTION: launch_batch_attention(n, j, layer, stream); break;
    }
    return cudaSuccess;
}

static cudaError_t launch_all(struct gpu *g, const struct gpu_bench_job *j, cudaStream_t stream) {
    cudaError_t code = cudaSuccess;
    for (uint32_t i = 0; i < j->launches && code == cudaSuccess; i++) code = launch_one(g, j, i, stream);
    const cudaError_t launched = cudaGetLastError();
    return code != cudaSuccess ? code : launched;
}

static cudaError_t capture(struct gpu *g, const struct gpu_bench_job *j, cudaGraphExec_t *out) {
    const cudaStream_t stream = gpu_stream_of(g, GPU_COMPUTE);
    cudaGraph_t graph = NULL;
    const cudaError_t begun = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (begun != cudaSuccess) return begun;
    cudaError_t code = launch_all(g, j, stream);
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    if (code == cudaSuccess) code = ended;
    if (code == cudaSuccess) code = cudaGraphInstantiate(out, graph, 0);
    if (code == cudaSuccess) code = cudaGraphUpload(*out, stream);
    if (graph) (void)cudaGraphDestroy(graph);
    return code;
}

/* ---- timing ------------------------------------------------------------------------------------------------------------------ */

struct timing {
    cudaEvent_t start, end;
    cudaGraphExec_t graph; /* NULL: launched one by one */
};

static enum err time_stretch(struct gpu *g, const struct gpu_bench_job *j, const struct timing *t, double *seconds, struct reason *why) {
    const cudaStream_t stream = gpu_stream_of(g, GPU_COMPUTE);
    float ms = 0;
    cudaError_t code = cudaEventRecord(t->start, stream);
    if (code == cudaSuccess) code = t->graph ? cudaGraphLaunch(t->graph, stream) : launch_all(g, j, stream);
    if (code == cudaSuccess) code = cudaEventRecord(t->end, stream);
    (void)gpu_note(g, code, "launching a measurement");
    TRY(g->ops->sync(g, GPU_COMPUTE, limit_ns, why));
    (void)gpu_note(g, cudaEventElapsedTime(&ms, t->start, t->end), "reading a measurement");
    *seconds = 1e-3 * ms;
    return gpu_alive(gpu_device_of(g), why);
}

static enum err time_all(struct gpu *g, const struct gpu_bench_job *j, uint32_t repeats, struct timing *t, double *seconds, struct reason *why) {
    double ignored;
    cudaError_t code = cudaEventCreate(&t->start);
    if (code == cudaSuccess) code = cudaEventCreate(&t->end);
    if (code == cudaSuccess && (j->what == GPU_BENCH_EMPTY || is_step(j->what))) code = capture(g, j, &t->graph);
    if (!gpu_note(g, code, "preparing a measurement")) return gpu_alive(gpu_device_of(g), why);
    for (int i = 0; i < WARM && !gpu_device_of(g)->info.emulated; i++) TRY(time_stretch(g, j, t, &ignored, why));
    for (uint32_t i = 0; i < repeats; i++) TRY(time_stretch(g, j, t, &seconds[i], why));
    return ERR_NONE;
}

enum err gpu_bench_time(struct gpu *g, const struct gpu_bench_job *job, uint32_t repeats, double *seconds, struct reason *why) {
    struct timing t = {};
    TRY(gpu_alive(gpu_device_of(g), why));
    if (is_step(job->what)) prepare_step(job->network, job);
    if (is_batch(job->what)) TRY(prepare_batch(job->network, job, why));
    TRY(g->ops->sync(g, GPU_COMPUTE, limit_ns, why));
    const enum err e = time_all(g, job, repeats, &t, seconds, why);
    if (t.graph) (void)cudaGraphExecDestroy(t.graph);
    if (t.start) (void)cudaEventDestroy(t.start);
    if (t.end) (void)cudaEventDestroy(t.end);
    return e;
}

/* ---- hand-over ------------------------------------------------------------------------------------------------------------------ */

struct hand_over {
    struct gpu_network *n;
    hand_args args;
    enum err code;
    struct reason why;
};

static void *launch_hand_over(void *ctx) {
    struct hand_over *h = static_cast<struct hand_over *>(ctx);
    struct gpu *g = h->n->gpu;
    LAUNCH(hand_over_kernel, 1, HAND_THREADS, 0, gpu_stream_of(g, GPU_COMPUTE), h->args);
    (void)gpu_note_launch(g, "handing over");
    if (gpu_device_of(g)->info.emulated) h->code = g->ops->sync(g, GPU_COMPUTE, limit_ns, &h->why); /* runs it */
    return NULL;
}

/* False: no mail in time. */
static bool await_mail(const struct gpu_shared *s, uint32_t number) {
    const uint64_t since = clock_ns();
    for (unsigned spins = 1;; spins++) {
        if (static_cast<int32_t>(__atomic_load_n(&s->mail->number, __ATOMIC_ACQUIRE) - number) >= 0) return true;
        if (spins % SPINS == 0 && clock_ns() - since > limit_ns) return false;
    }
}

static bool answer_mails(const struct hand_over *h, uint32_t first, float *room, uint64_t *seen_ns) {
    const struct gpu_shared *s = &h->n->shared;
    const uint64_t bytes = h->args.floats * sizeof *room;
    for (uint32_t r = 0; r < h->args.rounds; r++) {
        if (!await_mail(s, first + r)) return false;
        seen_ns[r] = clock_ns();
        memcpy(room, s->mail_input, bytes);
        memcpy(s->answer_values, room, bytes);
        s->answer->failed = 0;
        __atomic_store_n(&s->answer->number, first + r, __ATOMIC_RELEASE);
    }
    return true;
}

enum err gpu_bench_hand_over(struct gpu_network *n, uint32_t floats, uint32_t rounds, double *seconds, struct reason *why) {
    struct gpu *g = n->gpu;
    TRY(gpu_alive(gpu_device_of(g), why));
    struct hand_over h = {};
    h.n = n, h.code = ERR_NONE;
    h.args = hand_args{post_box_of(n), n->step.x, floats, rounds + 1};
    fill(g, n->step.x, floats * sizeof *n->step.x);
    TRY(g->ops->sync(g, GPU_COMPUTE, limit_ns, why));
    uint64_t *seen = static_cast<uint64_t *>(calloc_checked(rounds + 1, sizeof *seen));
    float *room = static_cast<float *>(calloc_checked(floats + 1, sizeof *room));
    const uint32_t first = n->shared.mail->number + 1;
    pthread_t thread;
    const bool apart = gpu_device_of(g)->info.emulated && pthread_create(&thread, NULL, launch_hand_over, &h) == 0;
    if (!apart) launch_hand_over(&h);
    const bool answered = seen && room && answer_mails(&h, first, room, seen);
    if (!answered) *n->shared.abort = 1;
    if (apart) pthread_join(thread, NULL);
    enum err code = h.code ? (*why = h.why, h.code) : g->ops->sync(g, GPU_COMPUTE, limit_ns, why);
    if (!code && !answered) code = fail(why, seen && room ? ERR_IO : ERR_NO_MEMORY, "the device handed nothing over");
    for (uint32_t r = 0; r < rounds && !code; r++) seconds[r] = 1e-9 * static_cast<double>(seen[r + 1] - seen[r]);
    free(seen);
    free(room);
    return code;
}
