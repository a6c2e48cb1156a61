/* The ends of a step: its command and the tokens' embeddings come in, the likeliest tokens and the result go out; and what the host
 * computes in between: attention for a layer whose KV cache is in RAM, or whole halves of layers. */
#include "gpu/acts.cuh"
#include "gpu/embed.cuh"
#include "gpu/mail.cuh"

/* ---- begin: a block a token ------------------------------------------------------------------------------------- */

enum { BEGIN_THREADS = 256, COMMAND_WORDS = sizeof(struct gpu_command) / 4 };

struct begin_args {
    const gpu_command *even, *odd; /* by number; the host's memory, as embedding */
    gpu_command *command;
    const uint32_t *command_number; /* of the step before */
    embed_table embedding;
    uint32_t n_vocab, n_embd, n_layers, n_experts;
    const int32_t *best; /* of the step before */
    float *x;
    uint32_t *slots, *failed, *n_misses, *n_missing, *owed;
    uint64_t *best_key;
};

static __device__ __forceinline__ int32_t id_of(const begin_args &a, const gpu_command *c, uint32_t t) {
    return c->tokens[t].id == -1 ? a.best[t] : c->tokens[t].id;
}

static __device__ __forceinline__ bool is_token(const begin_args &a, int32_t id) {
    return id >= 0 && static_cast<uint32_t>(id) < a.n_vocab;
}

/* Whether this launch can do what the command says: it is the one for this step, and its tokens exist. */
static __device__ __forceinline__ bool command_fits(const begin_args &a, const gpu_command *c, uint32_t number, uint32_t most) {
    if (c->number != number || c->n_tokens > most) return false;
    for (uint32_t t = 0; t < c->n_tokens; t++)
        if (!is_token(a, id_of(a, c, t))) return false;
    return true;
}

/* The command's changes, one after the other: a later one may take back an earlier one. */
static __device__ __forceinline__ void apply_patches(const begin_args &a, const gpu_command *c) {
    for (uint32_t i = 0; i < c->n_patches && i < GPU_COMMAND_PATCHES; i++) {
        const uint32_t layer = c->patches[i].layer, expert = c->patches[i].expert;
        if (layer < a.n_layers && expert < a.n_experts)
            a.slots[static_cast<size_t>(layer) * a.n_experts + expert] = c->patches[i].slot;
    }
}

static __global__ void __launch_bounds__(BEGIN_THREADS) begin_kernel(const begin_args a) {
    SHARED(uint8_t, room, BEGIN_THREADS / 32 * EMBED_BYTES);
    SHARED(uint32_t, words, COMMAND_WORDS);
    const uint32_t number = *a.command_number + 1, t = blockIdx.x;
    const uint32_t *const from = reinterpret_cast<const uint32_t *>(number % 2 ? a.odd : a.even);
    for (uint32_t i = threadIdx.x; i < COMMAND_WORDS; i += blockDim.x) words[i] = ldcv_u(from + i);
    __syncthreads();
    const gpu_command *const command = reinterpret_cast<const gpu_command *>(words);
    const int32_t id = id_of(a, command, t);
    const bool usable = t < command->n_tokens && is_token(a, id);
    if (t == 0) {
        for (uint32_t i = threadIdx.x; i < COMMAND_WORDS; i += blockDim.x)
            reinterpret_cast<uint32_t *>(a.command)[i] = words[i];
        if (threadIdx.x < GPU_STEP_TOKENS) a.best_key[threadIdx.x] = 0;
        if (threadIdx.x == 0) {
            apply_patches(a, command);
            *a.n_misses = 0, *a.n_missing = 0, *a.owed = 0;
            *a.failed = !command_fits(a, command, number, gridDim.x);
        }
    }
    float *const x = a.x + static_cast<size_t>(t) * a.n_embd;
    const uint32_t warp = threadIdx.x / 32;
    if (usable) {
        for (uint32_t first = EMBED_WEIGHTS * warp; first < a.n_embd; first += EMBED_WEIGHTS * (BEGIN_THREADS / 32))
            embed_part(a.embedding, static_cast<uint32_t>(id), first, a.n_embd, room + warp * EMBED_BYTES, x);
    } else {
        for (uint32_t i = threadIdx.x; i < a.n_embd; i += blockDim.x) x[i] = 0;
    }
}

void gpu_launch_begin(struct gpu_network *n, uint32_t tokens, cudaStream_t stream) {
    const gpu_step &s = n->step;
    const begin_args a = {n->shared_dev.commands[0],
                          n->shared_dev.commands[1],
                          s.command,
                          s.command_number,
                          embed_table_of(n),
                          n->shape.n_vocab,
                          n->shape.n_embd,
                          n->shape.n_layers,
                          n->shape.n_experts,
                          s.best,
                          s.x,
                          n->slots,
                          s.failed,
                          s.n_misses,
                          s.n_missing,
                          s.owed,
                          s.best_key};
    LAUNCH(begin_kernel, tokens, BEGIN_THREADS, 0, stream, a);
}

/* ---- attention by the host -------------------------------------------------------------------------------------- */

enum { MAIL_THREADS = 512 };

struct attention_mail_args {
    post_box box;
    const float *qkv;                                /* [T][qkv_width] */
    uint32_t qkv_width, width, layer, tokens, wants; /* what the output matrix multiplies */
    const gpu_command *command;
    gpu_acts attended; /* [T][width] */
    float *attended32;
};

static __global__ void __launch_bounds__(MAIL_THREADS) attention_mail_kernel(const attention_mail_args a) {
    const uint32_t n_tokens = a.command->n_tokens < a.tokens ? a.command->n_tokens : a.tokens, n = n_tokens * a.width;
    bool answered = *a.box.failed == 0; /* after a failed wait nothing is asked any more */
    __syncthreads();
    if (answered) {
        block_send(a.box.input, a.qkv, n_tokens * a.qkv_width, a.qkv_width % 4 == 0);
        block_post(a.box, GPU_MAIL_ATTENTION, a.layer, n_tokens);
        answered = block_await(a.box, a.layer);
    }
    for (uint32_t i = threadIdx.x + (answered ? n : 0); i < a.tokens * a.width; i += blockDim.x) a.attended32[i] = 0;
    const bool by_four = a.width % 4 == 0;
    if (answered)
        block_receive(a.box.values, n, by_four, [&](uint32_t i, float4 v) {
            if (by_four)
                stf4(a.attended32 + i, v);
            else
                a.attended32[i] = v.x;
        });
    __syncthreads();
    if (!(a.wants & WANT_INT8)) return;
    const room to = {NULL, a.attended.d, a.attended.s32, a.attended.q, a.attended.sum16, a.width};
    for (uint32_t t = 0; t < a.tokens; t++)
        block_quantize<1>(source{a.attended32 + static_cast<size_t>(t) * a.width, NULL, 1}, a.width, to, t);
}

void gpu_launch_attention_mail(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const gpu_shape &s = n->shape;
    const uint32_t width = s.n_heads * s.head_dim;
    const attention_mail_args a = {post_box_of(n),
                                   n->step.qkv,
                                   width + 2 * s.n_kv_heads * s.head_dim,
                                   width,
                                   layer,
                                   tokens,
                                   gpu_wants(n->layers[layer].output.type),
                                   n->step.command,
                                   n->step.attended,
                                   n->step.attended32};
    LAUNCH(attention_mail_kernel, 1, MAIL_THREADS, 0, stream, a);
}

/* ---- halves of layers by the host ------------------------------------------------------------------------------- */

struct halves_mail_args {
    post_box box;
    float *x; /* [T][width] */
    uint32_t width, layer, tokens;
    const gpu_command *command;
    uint32_t *owed; /* NULL: nothing is, or no less than before */
};

static __global__ void __launch_bounds__(MAIL_THREADS) halves_mail_kernel(const halves_mail_args a) {
    const uint32_t n_tokens = a.command->n_tokens < a.tokens ? a.command->n_tokens : a.tokens, n = n_tokens * a.width;
    const bool by_four = a.width % 4 == 0, asks = *a.box.failed == 0; /* after a failed wait nothing is asked any more */
    __syncthreads();
    if (!asks) return;
    if (a.owed && threadIdx.x == 0) *a.owed = 1;
    block_send(a.box.input, a.x, n, by_four);
    block_post(a.box, GPU_MAIL_HALVES, a.layer, n_tokens);
    if (!block_await(a.box, a.layer)) return;
    block_receive(a.box.values, n, by_four, [&](uint32_t i, float4 v) {
        if (by_four)
            stf4(a.x + i, v);
        else
            a.x[i] = v.x;
    });
}

/* Are there experts among the host's halves from `layer` on? */
static bool host_adds_experts(const gpu_network *n, uint32_t layer) {
    return n->layers[layer].host_experts; /* else its attention alone, and the device's router follows */
}

void gpu_launch_halves_mail(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {
    const halves_mail_args a = {post_box_of(n), n->step.x, n->shape.n_embd, layer, tokens, n->step.command,
                                tokens == 1 && n->options.host_defers && host_adds_experts(n, layer) ? n->step.owed : NULL};
    LAUNCH(halves_mail_kernel, 1, MAIL_THREADS, 0, stream, a);
}

/* ---- end: one warp ---------------------------------------------------------------------------------------------- */

struct end_args {
    const uint64_t *best_key;
    const gpu_command *command;
    const uint32_t *failed, *n_misses;
    uint32_t *command_number;
    int32_t *best;
    gpu_result *result; /* the host's */
    uint32_t tokens, n_vocab;
};

static __global__ void __launch_bounds__(32) end_kernel(const end_args a) {
    const uint32_t t = threadIdx.x;
    if (t < a.tokens) {
        const uint32_t row = 0xffffffffu - static_cast<uint32_t>(a.best_key[t]); /* see key_of() in matvec.cu */
        const int32_t id = row < a.n_vocab ? static_cast<int32_t>(row) : 0;
        a.best[t] = id, a.result->best[t] = id;
    }
    const uint32_t number = *a.command_number + 1;
    if (t == 0) a.result->failed = *a.failed, a.result->n_misses = *a.n_misses;
    __threadfence_system();
    __syncwarp();
    if (t != 0) return;
    *a.command_number = number;
    st_release_sys(const_cast<uint32_t *>(&a.result->number), number);
}

void gpu_launch_end(struct gpu_network *n, uint32_t tokens, cudaStream_t stream) {
    const gpu_step &s = n->step;
    const end_args a = {s.best_key,           s.command, s.failed,        s.n_misses, s.command_number, s.best,
                        n->shared_dev.result, tokens,    n->shape.n_vocab};
    LAUNCH(end_kernel, 1, 32, 0, stream, a);
}
