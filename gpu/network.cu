/* A network on the device: one allocation of scratch and tables, one of memory shared with the host, and steps as captured graphs.
 * Knows the order of a layer's kernels; what they do is theirs. A graph is made once a token count and never again: everything
 * that varies from step to step lies in device memory or in the command. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/attention.h"
#include "gpu/device_private.h"
#include "gpu/layout.h"
#include "gpu/network.h"
#include "gpu/trellis.h"

enum { STEP_KINDS = 4 /* 1, 2, 4, 8 tokens */ };

static const uint64_t default_patience_ns = 5000000000u;
static const uint64_t close_limit_ns = 10000000000u;

struct network_private {
    struct gpu_network n; /* first: callers hold a pointer to it */
    uint64_t device_bytes, pinned_bytes;
    gpu_ptr device;
    uint8_t *pinned;
    cudaGraphExec_t steps[STEP_KINDS];
};

static struct network_private *private_of(struct gpu_network *n) { return (struct network_private *)n; }

/* ---- scratch: measured and carved by the same lines ------------------------------------------------------------------ */

/* Gives out pieces of one region front to back; with base 0 it only measures. */
struct carver {
    uintptr_t base;
    uint64_t at;
    bool overflow;
};

template <class T> static void carve(struct carver *c, T **out, uint64_t a, uint64_t b = 1, uint64_t d = 1) {
    uint64_t bytes, end;
    *out = c->base ? (T *)(c->base + c->at) : NULL;
    if (!size_mul(a, b, &bytes) || !size_mul(bytes, d, &bytes) || !size_mul(bytes, sizeof(T), &bytes) ||
        bytes > UINT64_MAX - GPU_ALIGN || !size_add(c->at, round_up(bytes, GPU_ALIGN), &end)) {
        c->overflow = true;
        return;
    }
    c->at = end;
}

static void carve_acts(struct carver *c, struct gpu_acts *a, uint64_t n, uint64_t k) {
    carve(c, &a->q, n, k);
    carve(c, &a->d, n, k / 32);
    carve(c, &a->s32, n, k / 32);
    carve(c, &a->sum16, n, k / 16);
}

/* What kernels expect to be zero before the first step. */
static void carve_zeroed(struct carver *c, struct gpu_network *n) {
    const struct gpu_shape *s = &n->shape;
    struct gpu_step *st = &n->step;
    carve(c, &st->tickets, GPU_TICKET_ATTENTION + (uint64_t)GPU_STEP_TOKENS * s->n_kv_heads);
    carve(c, &st->mail_number, 1);
    carve(c, &st->n_missing, 1);
    carve(c, &st->owed, 1);
    carve(c, &st->n_misses, 1);
    carve(c, &st->n_hits, 1);
    carve(c, &st->failed, 1);
    carve(c, &st->command_number, 1);
    carve(c, &st->command, 1);
    carve(c, &st->best, GPU_STEP_TOKENS);
    carve(c, &st->best_key, GPU_STEP_TOKENS);
    carve(c, &n->trellis.tickets, n->trellis.room.tickets);
    carve(c, &n->slots, s->n_layers, s->n_experts);
    carve(c, &n->uses, s->n_layers, s->n_experts);
    for (int i = 0; i < GPU_LANES && n->options.batch_tokens; i++) carve(c, &n->lanes[i].done, s->n_experts);
}

static void carve_step(struct carver *c, struct gpu_network *n) {
    const struct gpu_shape *s = &n->shape;
    struct gpu_step *st = &n->step;
    const uint64_t t = GPU_STEP_TOKENS, e = s->n_embd, q = (uint64_t)s->n_heads * s->head_dim, kv = (uint64_t)s->n_kv_heads * s->head_dim;
    carve(c, &n->layers_dev, s->n_layers);
    carve(c, &n->rope_frequency, s->head_dim / 2);
    carve(c, &n->tables, GPU_TABLE_WORDS);
    carve(c, &n->pages, n->options.max_sequences, n->options.max_pages);
    carve(c, &st->x, t, e);
    carve(c, &st->qkv, t, q + 2 * kv);
    carve(c, &st->attend_partial, t * s->n_heads, n->splits, s->head_dim + 2);
    carve_acts(c, &st->attended, t, q);
    carve(c, &st->attended32, t, q);
    carve(c, &st->normed, t, e);
    carve_acts(c, &st->normed8, t, e);
    carve(c, &st->router, t, s->n_experts);
    carve(c, &st->route, t, s->n_used);
    carve(c, &st->hits, t, s->n_used);
    carve_acts(c, &st->mid, t * s->n_used, s->n_ff);
    carve(c, &st->mid32, t * s->n_used, s->n_ff);
    carve(c, &st->logits, t, s->n_vocab);
}

static void carve_trellis(struct carver *c, struct gpu_network *n) {
    const struct gpu_trellis_room *r = &n->trellis.room;
    carve(c, &n->trellis.sums, r->blocks, GPU_STEP_TOKENS, GPU_TRELLIS_BLOCK);
    carve(c, &n->trellis.rotated, r->rows, r->width);
    carve(c, &n->trellis.scale, r->rows);
    carve(c, &n->trellis.gated, r->rows, n->shape.n_ff);
}

static void carve_lane(struct carver *c, struct gpu_network *n, struct gpu_lane *l) {
    const struct gpu_shape *s = &n->shape;
    const uint64_t t = n->options.batch_tokens, e = s->n_embd, pairs = t * s->n_used, q = (uint64_t)s->n_heads * s->head_dim;
    carve(c, &l->tokens, t);
    carve(c, &l->x, t, e);
    carve(c, &l->normed, t, e);
    carve(c, &l->normed32, t, e);
    carve(c, &l->qkv, t, q + 2 * (uint64_t)s->n_kv_heads * s->head_dim);
    carve(c, &l->q, t, q);
    carve(c, &l->attended, t, q);
    carve(c, &l->router, t, s->n_experts);
    carve(c, &l->expert, pairs);
    carve(c, &l->weight, pairs);
    carve(c, &l->pair_of, pairs);
    carve(c, &l->pair_token, pairs);
    carve(c, &l->expert_start, (uint64_t)s->n_experts + 1);
    carve(c, &l->mid, pairs, s->n_ff);
    carve(c, &l->mid_scale, pairs);
    carve(c, &l->down, pairs, n->down_stride);
    carve(c, &l->rest, t, e);
}

/* Everything on the device. Bytes of it, UINT64_MAX on overflow; *zeroed: of its first part, which starts as zero. */
static uint64_t carve_device(struct gpu_network *n, uintptr_t base, uint64_t *zeroed) {
    struct carver c = {base, 0, false};
    carve_zeroed(&c, n);
    *zeroed = c.at;
    carve_step(&c, n);
    carve_trellis(&c, n);
    for (int i = 0; i < GPU_LANES && n->options.batch_tokens; i++) carve_lane(&c, n, &n->lanes[i]);
    return c.overflow ? UINT64_MAX : c.at;
}

static void carve_shared(struct carver *c, const struct gpu_shape *s, struct gpu_shared *out) {
    const uint64_t t = GPU_STEP_TOKENS, q = (uint64_t)s->n_heads * s->head_dim, qkv = q + 2 * (uint64_t)s->n_kv_heads * s->head_dim;
    for (int i = 0; i < 2; i++) carve(c, &out->commands[i], 1);
    carve(c, &out->mail, 1);
    carve(c, &out->mail_input, t, qkv > s->n_embd ? qkv : s->n_embd);
    carve(c, &out->answer, 1);
    carve(c, &out->answer_values, t, q > s->n_embd ? q : s->n_embd);
    carve(c, &out->result, 1);
    carve(c, &out->routes, s->n_layers, t, s->n_used);
    carve(c, &out->logits, t, s->n_vocab > s->n_embd ? s->n_vocab : s->n_embd);
    carve(c, &out->abort, 1);
}

/* Everything pinned, host addresses from `base`, the device's from `mapped`. Bytes, UINT64_MAX on overflow. */
static uint64_t carve_pinned(struct gpu_network *n, uintptr_t base, uintptr_t mapped) {
    const struct gpu_shape *s = &n->shape;
    const uint64_t tokens = n->options.batch_tokens;
    struct carver c = {base, 0, false}, same = {mapped, 0, false};
    carve_shared(&c, s, &n->shared);
    carve_shared(&same, s, &n->shared_dev);
    for (int i = 0; i < GPU_LANES && tokens; i++) {
        carve(&c, &n->lanes[i].expert_host, tokens, s->n_used);
        carve(&c, &n->lanes[i].weight_host, tokens, s->n_used);
        carve(&c, &n->lanes[i].normed_host, tokens, s->n_embd);
    }
    return c.overflow ? UINT64_MAX : c.at;
}

/* ---- open, close ----------------------------------------------------------------------------------------------------- */

static enum err check_matrix(struct gpu *g, const struct gpu_matrix *m, const char *what, struct reason *why) {
    if (!g->ops->types[m->type].has_kernels)
        return fail(why, ERR_UNSUPPORTED, "the GPU has no kernels for %s, the type of %s", tensor_type_info(m->type)->name, what);
    return ERR_NONE;
}

static enum err check_type(struct gpu *g, enum tensor_type type, struct reason *why) {
    const struct gpu_matrix m = {0, type, 0, 0};
    return check_matrix(g, &m, "experts", why);
}

/* EXL3 is multiplied with, never read by rows; and an expert's matrices are all of it or none, since they hand each other
 * floats. */
static enum err check_trellis(const struct gpu_network_options *o, struct reason *why) {
    if (gpu_is_trellis(o->embedding_type))
        return fail(why, ERR_UNSUPPORTED, "the GPU cannot read rows of %s, the type of the embedding",
                    tensor_type_info(o->embedding_type)->name);
    const struct gpu_shape *s = &o->shape;
    for (uint32_t i = 0; i < s->n_layers; i++) {
        const struct gpu_layer *l = &o->layers[i];
        if (gpu_is_trellis(l->router.type))
            return fail(why, ERR_UNSUPPORTED, "the GPU has no kernels for %s, the type of layer %u's router",
                        tensor_type_info(l->router.type)->name, i);
        if (gpu_is_trellis(l->gate_type) != gpu_is_trellis(l->up_type) ||
            gpu_is_trellis(l->gate_type) != gpu_is_trellis(l->down_type))
            return fail(
                why, ERR_UNSUPPORTED, "the GPU takes an expert's matrices in EXL3 all or none; layer %u has %s, %s and %s", i,
                tensor_type_info(l->gate_type)->name, tensor_type_info(l->up_type)->name, tensor_type_info(l->down_type)->name);
        if (gpu_is_trellis(l->gate_type) && (s->n_embd % GPU_TRELLIS_BLOCK || s->n_ff % GPU_TRELLIS_BLOCK))
            return fail(why, ERR_UNSUPPORTED, "EXL3 needs widths that are multiples of %d; the model's are %u, %u in experts",
                        GPU_TRELLIS_BLOCK, s->n_embd, s->n_ff);
    }
    return ERR_NONE;
}

/* In steps gate and up are of one kernel: types with their own have one for any two of them, the others are of one family and one grid.
 * Prompts take any two types. */
static bool takes_pair(enum tensor_type a, enum tensor_type b) {
    return a == b || (gpu_family_of(a) == gpu_family_of(b) && gpu_grid_of(a).words == 0 && gpu_grid_of(b).words == 0);
}

/* What products of prompts (matmul.cu) ask of shapes beyond what types do. */
static enum err check_batch(const struct gpu_network_options *o, struct reason *why) {
    const struct gpu_shape *s = &o->shape;
    if (s->n_embd % 32 || s->n_ff % 32 || s->n_heads * s->head_dim % 32)
        return fail(why, ERR_UNSUPPORTED, "the GPU's prompts take widths that are multiples of 32; the model's are %u, %u in experts and %u in attention",
                    s->n_embd, s->n_ff, s->n_heads * s->head_dim);
    return ERR_NONE;
}

static enum err check_attention(struct gpu *g, const struct gpu_layer *l, struct reason *why) {
    TRY(check_matrix(g, &l->q, "q projections", why));
    TRY(check_matrix(g, &l->k, "k projections", why));
    TRY(check_matrix(g, &l->v, "v projections", why));
    return check_matrix(g, &l->output, "attention outputs", why);
}

static enum err check_options(struct gpu *g, const struct gpu_network_options *o, struct reason *why) {
    const struct gpu_shape *s = &o->shape;
    if (s->n_used > GPU_MAX_USED || s->n_experts > GPU_MAX_EXPERTS)
        return fail(why, ERR_UNSUPPORTED, "the GPU's kernels take %d experts, %d a token; the model has %u and %u", GPU_MAX_EXPERTS,
                    GPU_MAX_USED, s->n_experts, s->n_used);
    for (uint32_t i = 0; i < s->n_layers; i++) {
        const struct gpu_layer *l = &o->layers[i];
        if (!l->host_attention) TRY(check_attention(g, l, why));
        if (l->host_experts) continue;
        TRY(check_matrix(g, &l->router, "routers", why));
        TRY(check_type(g, l->gate_type, why));
        TRY(check_type(g, l->up_type, why));
        TRY(check_type(g, l->down_type, why));
        if (!takes_pair(l->gate_type, l->up_type))
            return fail(why, ERR_UNSUPPORTED, "the GPU has no kernel for gate and up matrices of these two types; layer %u has %s and %s", i,
                        tensor_type_info(l->gate_type)->name, tensor_type_info(l->up_type)->name);
    }
    const struct gpu_matrix embedding = {0, o->embedding_type, 0, 0};
    TRY(check_matrix(g, &embedding, "the embedding", why));
    if (o->head.data) TRY(check_matrix(g, &o->head, "the output head", why));
    TRY(check_trellis(o, why));
    if (o->batch_tokens) TRY(check_batch(o, why));
    return gpu_attention_check(o, why);
}

static uint32_t splits_for(const struct gpu *g, const struct gpu_shape *s) {
    const uint32_t splits = (2 * gpu_device_of(g)->info.sm_count + s->n_kv_heads - 1) / s->n_kv_heads;
    return splits < 1 ? 1 : splits;
}

static void describe(struct gpu_network *n, const struct gpu *g, const struct gpu_network_options *o) {
    n->shape = o->shape;
    n->options = *o;
    n->trellis.room = gpu_trellis_room_of(o, gpu_device_of(g)->info.sm_count);
    n->splits = splits_for(g, &o->shape);
    n->down_stride = o->shape.n_embd;
    for (uint32_t i = 0; i < o->shape.n_layers; i++)
        if (o->layers[i].gate_type != o->layers[i].up_type && 2 * (uint64_t)o->shape.n_ff > n->down_stride) n->down_stride = 2 * (uint64_t)o->shape.n_ff;
    n->patience_ns = default_patience_ns;
}

static uint64_t network_bytes(const struct gpu *g, const struct gpu_network_options *o) {
    struct gpu_network n = {};
    uint64_t zeroed;
    describe(&n, g, o);
    return carve_device(&n, 0, &zeroed);
}

static void network_close(struct gpu_network **n) {
    if (!*n) return;
    struct network_private *p = private_of(*n);
    struct gpu *g = p->n.gpu;
    if (p->n.shared.abort) *p->n.shared.abort = 1; // no kernel waits for the host any more
    gpu_streams_drain(gpu_device_of(g), close_limit_ns);
    for (int i = 0; i < STEP_KINDS; i++)
        if (p->steps[i]) (void)gpu_note(g, cudaGraphExecDestroy(p->steps[i]), "closing a graph");
    g->ops->free(g, GPU_USE_SCRATCH, p->device, p->device_bytes);
    g->ops->free_pinned(g, p->pinned, p->pinned_bytes);
    free(p->n.layers);
    free(p);
    *n = NULL;
}

/* Tables to the device, everything else to its first value. */
static void fill_memory(struct gpu_network *n, const struct gpu_network_options *o, gpu_ptr base, uint64_t zeroed) {
    struct gpu *g = n->gpu;
    const cudaStream_t stream = gpu_stream_of(g, GPU_COMPUTE);
    const uint64_t table_bytes = (uint64_t)o->max_sequences * o->max_pages * sizeof *n->pages;
    cudaError_t code = cudaMemsetAsync((void *)base, 0, zeroed, stream);
    if (code == cudaSuccess && table_bytes) code = cudaMemsetAsync(n->pages, 0xff, table_bytes, stream); // no page: an address that faults
    (void)gpu_note(g, code, "clearing memory");
    g->ops->upload(g, GPU_COMPUTE, (gpu_ptr)n->layers_dev, n->layers, n->shape.n_layers * sizeof *n->layers);
    uint32_t tables[GPU_TABLE_WORDS];
    gpu_grids_pack(tables);
    g->ops->upload(g, GPU_COMPUTE, (gpu_ptr)n->tables, tables, sizeof tables);
    g->ops->upload(g, GPU_COMPUTE, (gpu_ptr)n->rope_frequency, o->rope_frequency, n->shape.head_dim / 2 * sizeof(double));
}

static enum err open_memory(struct network_private *p, const struct gpu_network_options *o, struct reason *why) {
    struct gpu_network *n = &p->n;
    struct gpu *g = n->gpu;
    uint64_t zeroed;
    gpu_ptr mapped;
    void *host;
    p->device_bytes = carve_device(n, 0, &zeroed);
    p->pinned_bytes = carve_pinned(n, 0, 0);
    if (p->device_bytes == UINT64_MAX || p->pinned_bytes == UINT64_MAX)
        return fail(why, ERR_LIMIT, "the model's sizes overflow the GPU's scratch");
    TRY(g->ops->alloc(g, GPU_USE_SCRATCH, p->device_bytes, &p->device, why));
    TRY(g->ops->alloc_pinned(g, p->pinned_bytes, &host, &mapped, why));
    p->pinned = (uint8_t *)host;
    memset(host, 0, p->pinned_bytes);
    (void)carve_device(n, p->device, &zeroed);
    (void)carve_pinned(n, (uintptr_t)host, mapped);
    fill_memory(n, o, p->device, zeroed);
    return gpu_alive(gpu_device_of(g), why);
}

static enum err network_open(struct gpu *g, const struct gpu_network_options *o, struct gpu_network **out, struct reason *why) {
    *out = NULL;
    TRY(gpu_alive(gpu_device_of(g), why));
    TRY(check_options(g, o, why));
    struct network_private *p = (struct network_private *)calloc_checked(1, sizeof *p);
    if (!p) return fail(why, ERR_NO_MEMORY, "no memory for a network on the GPU");
    struct gpu_network *n = &p->n;
    n->gpu = g;
    describe(n, g, o);
    n->layers = (struct gpu_layer *)calloc_checked(o->shape.n_layers, sizeof *n->layers);
    enum err code = n->layers ? ERR_NONE : fail(why, ERR_NO_MEMORY, "no memory for a network on the GPU");
    if (!code) {
        memcpy(n->layers, o->layers, o->shape.n_layers * sizeof *n->layers);
        n->options.layers = n->layers;
        n->options.rope_frequency = NULL; // the caller's; the copy is on the device
        code = open_memory(p, o, why);
    }
    if (code) network_close(&n);
    *out = code ? NULL : n;
    return code;
}

/* ---- tables ---------------------------------------------------------------------------------------------------------- */

__global__ void set_entry(uint32_t *entry, uint32_t value) {
    if (threadIdx.x == 0) *entry = value;
}

static const struct gpu_shared *shared(const struct gpu_network *n) { return &n->shared; }

/* By a launch, which never waits, while a table's upload may. */
static void set_page(struct gpu_network *n, uint32_t sequence, uint32_t index, uint32_t page) {
    assert(sequence < n->options.max_sequences && index < n->options.max_pages);
    if (gpu_alive(gpu_device_of(n->gpu), NULL)) return;
    uint32_t *const entry = n->pages + (uint64_t)sequence * n->options.max_pages + index;
    LAUNCH(set_entry, 1, 32, 0, gpu_stream_of(n->gpu, GPU_COMPUTE), entry, page);
    (void)gpu_note_launch(n->gpu, "setting a page");
}

static void set_slots(struct gpu_network *n, uint32_t layer, const uint32_t *slots) {
    assert(layer < n->shape.n_layers);
    n->gpu->ops->upload(n->gpu, GPU_COMPUTE, (gpu_ptr)(n->slots + (uint64_t)layer * n->shape.n_experts), slots,
                        n->shape.n_experts * sizeof *slots);
}

static void set_patience(struct gpu_network *n, uint64_t ns) { n->patience_ns = ns; }

static void download_uses(struct gpu_network *n, uint32_t *uses) {
    n->gpu->ops->download(n->gpu, GPU_COMPUTE, uses, (gpu_ptr)n->uses, (uint64_t)n->shape.n_layers * n->shape.n_experts * sizeof *uses);
}

/* ---- steps ----------------------------------------------------------------------------------------------------------- */

static int kind_of(uint32_t n_tokens) {
    assert(n_tokens && n_tokens <= GPU_STEP_TOKENS && (n_tokens & (n_tokens - 1)) == 0);
    return __builtin_ctz(n_tokens);
}

static void launch_attention(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    gpu_launch_qkv(n, tokens, layer, stream);
    if (n->layers[layer].keys)
        gpu_launch_attention(n, tokens, layer, stream);
    else
        gpu_launch_attention_mail(n, tokens, layer, stream);
    gpu_launch_output(n, tokens, layer, stream);
}

static void launch_experts(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    gpu_launch_route(n, tokens, layer, stream);
    gpu_launch_gate_up(n, tokens, layer, stream);
    gpu_launch_down(n, tokens, layer, stream);
}

/* The host is asked once for halves in a row, by the first of them. */
static void launch_layer(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const struct gpu_layer *l = &n->layers[layer];
    const bool asked_before = layer > 0 && l[-1].host_experts;
    if (!l->host_attention) launch_attention(n, tokens, layer, stream);
    else if (!asked_before) gpu_launch_halves_mail(n, tokens, layer, stream);
    if (!l->host_experts) launch_experts(n, tokens, layer, stream);
    else if (!l->host_attention) gpu_launch_halves_mail(n, tokens, layer, stream);
}

/* The end's result says that the logits have arrived, so they go before it. */
static cudaError_t launch_step(struct gpu_network *n, uint32_t tokens, cudaStream_t stream) {
    gpu_launch_begin(n, tokens, stream);
    for (uint32_t layer = 0; layer < n->shape.n_layers; layer++) launch_layer(n, tokens, layer, stream);
    const bool head = n->options.head.data != 0;
    if (head) gpu_launch_head(n, tokens, stream);
    const uint64_t bytes = (uint64_t)tokens * (head ? n->shape.n_vocab : n->shape.n_embd) * sizeof(float);
    const cudaError_t code = cudaMemcpyAsync(n->shared.logits, head ? n->step.logits : n->step.x, bytes, cudaMemcpyDeviceToHost, stream);
    gpu_launch_end(n, tokens, stream);
    return code;
}

static cudaError_t capture(struct gpu_network *n, uint32_t tokens, cudaGraph_t *out) {
    const cudaStream_t stream = gpu_stream_of(n->gpu, GPU_COMPUTE);
    const cudaError_t begun = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    *out = NULL;
    if (begun != cudaSuccess) return begun;
    cudaError_t code = launch_step(n, tokens, stream);
    const cudaError_t launched = cudaGetLastError();
    const cudaError_t ended = cudaStreamEndCapture(stream, out);
    if (code == cudaSuccess) code = launched != cudaSuccess ? launched : ended;
    return code;
}

/* What the driver refuses here harms nothing but this graph. */
static enum err step_prepare(struct gpu_network *n, uint32_t n_tokens, struct reason *why) {
    struct gpu_device *d = gpu_device_of(n->gpu);
    cudaGraphExec_t *exec = &private_of(n)->steps[kind_of(n_tokens)];
    cudaGraph_t graph = NULL;
    TRY(gpu_alive(d, why));
    if (*exec) return ERR_NONE;
    cudaError_t code = capture(n, n_tokens, &graph);
    if (code == cudaSuccess) code = cudaGraphInstantiate(exec, graph, 0);
    if (code == cudaSuccess) code = cudaGraphUpload(*exec, gpu_stream_of(n->gpu, GPU_COMPUTE));
    if (graph) (void)cudaGraphDestroy(graph);
    enum err result = ERR_NONE;
    if (code != cudaSuccess) {
        (void)cudaGetLastError();
        result = fail(why, code == cudaErrorMemoryAllocation ? ERR_NO_MEMORY : ERR_IO,
                      "the GPU (%s) refused the graph of a step of %u tokens: %s (%s)", d->info.name, n_tokens, cudaGetErrorString(code),
                      cudaGetErrorName(code));
    } else {
        gpu_memory_measure(d);
        result = gpu_memory_within(d, "the graphs of steps do not fit", why);
    }
    if (result && *exec) {
        (void)gpu_note(n->gpu, cudaGraphExecDestroy(*exec), "closing a graph");
        *exec = NULL;
        gpu_memory_measure(d);
    }
    return result;
}

static enum err step_launch(struct gpu_network *n, uint32_t n_tokens, struct reason *why) {
    struct gpu_device *d = gpu_device_of(n->gpu);
    const cudaGraphExec_t exec = private_of(n)->steps[kind_of(n_tokens)];
    TRY(gpu_alive(d, why));
    assert(exec && "step_prepare() first");
    (void)gpu_note(n->gpu, cudaGraphLaunch(exec, gpu_stream_of(n->gpu, GPU_COMPUTE)), "starting a step");
    return gpu_alive(d, why);
}

void gpu_network_fill(struct gpu_ops *ops) {
    ops->takes_pair = takes_pair;
    ops->network_bytes = network_bytes;
    ops->network_open = network_open;
    ops->network_close = network_close;
    ops->shared = shared;
    ops->set_page = set_page;
    ops->set_slots = set_slots;
    ops->set_patience = set_patience;
    ops->step_prepare = step_prepare;
    ops->step_launch = step_launch;
    ops->download_uses = download_uses;
    ops->batch_begin = gpu_batch_begin;
    ops->batch_attention = gpu_batch_attention;
    ops->batch_qkv = gpu_batch_qkv;
    ops->batch_attended = gpu_batch_attended;
    ops->batch_take = gpu_batch_take;
    ops->batch_give = gpu_batch_give;
    ops->batch_route = gpu_batch_route;
    ops->batch_experts = gpu_batch_experts;
    ops->batch_combine = gpu_batch_combine;
    ops->batch_logits = gpu_batch_logits;
}
