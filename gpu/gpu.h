/* The GPU in plain C: a device with its memory, streams and graphs, and the kernels of a transformer as one table of launches.
 *
 * A backend fills `struct gpu_ops`; callers never know which. The CUDA backend is the .cu files of this folder, compiled by nvcc or, for tests, as
 * host C++ (tests/cuda_host); without it gpu_none.c stands in and gpu_open() fails with a reason. Nothing here knows files,
 * models or plans: the engine describes tensors and says what lies where.
 *
 * Threads: one thread launches. Exceptions are marked. Every launch returns at once and runs in its stream's order. A device
 * error is sticky: it is reported by the next call that can fail, after which only gpu_ops.close() is of use. */
#ifndef COLDSTREAM_GPU_H
#define COLDSTREAM_GPU_H

#include "core/core.h"
#include "core/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GPU_LINE __attribute__((aligned(128))) /* a flag or payload on its own line: PCIe writes do not share it */

typedef uint64_t gpu_ptr; /* an address on the device; 0: none */

enum {
    GPU_STEP_TOKENS = 8,     /* most tokens of a decode step */
    GPU_LANES = 2,           /* batches (prompts) under way at once */
    GPU_PAGE_TOKENS = 256,   /* of the KV cache */
    GPU_MAX_USED = 16,       /* experts a token, at most */
    GPU_MAX_EXPERTS = 512,
    GPU_COMMAND_PATCHES = 32 /* slot changes a step can carry */
};

enum gpu_stream { GPU_COMPUTE, GPU_COPY, GPU_STREAMS };

/* What memory is for: everything is counted, and reported by use. */
enum gpu_use { GPU_USE_DENSE, GPU_USE_EXPERTS, GPU_USE_KV, GPU_USE_SCRATCH, GPU_USES };

struct gpu;
struct gpu_event;
struct gpu_graph;
struct gpu_network;

struct gpu_options {
    const char *device;   /* "cuda", "cuda:1", "host"; NULL: the first that works */
    uint64_t vram_budget; /* bytes, context and graphs included; allocations beyond it are refused. 0: what is free */
};

struct gpu_info {
    char name[128];
    uint32_t sm_count, cc_major, cc_minor;
    uint64_t vram_bytes, free_bytes; /* of the card, at gpu_open() */
    bool emulated; /* kernels run inside the calls that launch or sync them: those belong on another thread than the answers */
};

struct gpu_memory {
    uint64_t budget;
    uint64_t overhead; /* context, modules, graphs: what free memory shrank by beside our allocations */
    uint64_t used[GPU_USES];
    uint64_t peak;     /* of the sum of all */
    uint64_t pinned;   /* host memory pinned for the device */
};

/* ---- what the engine describes ------------------------------------------------------------------------------------------ */

/* Rows of `k` weights in the type's device layout (gpu_type). data is 256-byte aligned. */
struct gpu_matrix {
    gpu_ptr data;
    enum tensor_type type;
    uint32_t rows, k;
};

/* One layer. Experts: gate and up [F,E], down [E,F], each in its device layout at the given offset of a slot. */
struct gpu_layer {
    gpu_ptr attn_norm, ffn_norm; /* f32 [E] */
    gpu_ptr q_norm, k_norm;      /* f32 [Dh] */
    struct gpu_matrix q, k, v, output, router;
    enum tensor_type gate_type, up_type, down_type;
    uint64_t gate_offset, up_offset, down_offset;
    gpu_ptr keys, values;        /* this layer's KV pools: page p at p * the page's bytes; 0: the KV cache is in RAM */
    /* Halves that the host computes, from their norm to the residual: their matrices and norms are 0 here. */
    bool host_attention, host_experts;
};

/* KV page: [kv head][GPU_PAGE_TOKENS][Dh] of binary16. Quantized kinds keep int8 or nibbles there, and behind them one binary16
 * scale per 32 values in the same order. */
enum gpu_kv { GPU_KV_F16, GPU_KV_Q8_0, GPU_KV_Q4_0 };

struct gpu_shape {
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_experts, n_used, n_vocab;
    float rms_eps;
    float rope_magnitude; /* YaRN's factor on cos and sin */
};

struct gpu_network_options {
    struct gpu_shape shape;
    const struct gpu_layer *layers;  /* [n_layers], copied */
    const double *rope_frequency;    /* [Dh/2] radians a position, copied */
    const void *embedding;           /* mapped pinned host memory: rows in the FILE's layout */
    gpu_ptr embedding_mapped;        /* its device address */
    enum tensor_type embedding_type;
    uint64_t embedding_row_bytes;
    gpu_ptr output_norm;             /* f32 [E] */
    struct gpu_matrix head;          /* data 0: the host's; where logits go, the residual stream [][E] goes then */
    gpu_ptr slots;                   /* base of the expert slots; 0: none */
    enum gpu_kv kv_k, kv_v;
    /* In steps of one token the host leaves a part of a layer's experts to its answer about the next layer's: that layer asks although it
     * misses none itself. The last layer's answer is whole. */
    bool host_defers;
    uint32_t max_sequences, max_pages; /* page table: [max_sequences][max_pages] */
    uint32_t batch_tokens;           /* most tokens of a prompt's batch in one lane; 0: steps only */
};

/* ---- the two sides of a step -------------------------------------------------------------------------------------------- */

/* Mapped pinned memory that host and device share; the network owns it. Flags are compared as (int32_t)(flag - wanted) >= 0, so
 * they are never reset. Each stands on its own 128-byte line. */

/* Host -> device, read by the step's first kernel. Two of them, used in turn. */
struct gpu_command {
    uint32_t number; /* of the step, rising */
    uint32_t n_tokens;
    struct {
        int32_t id;  /* -1: the token that the step before chose at this index, on the device */
        uint32_t position, sequence;
    } tokens[GPU_STEP_TOKENS];
    uint32_t n_patches;
    struct {
        uint32_t layer, expert;
        uint32_t slot; /* 1 + slot address / 256 from gpu_network_options.slots; 0: not here any more */
    } patches[GPU_COMMAND_PATCHES];
};

/* Device -> host: work of a layer that the device leaves to it. The step goes on as far as it can and waits for the answer. */
enum gpu_mail_kind {
    GPU_MAIL_EXPERTS,   /* experts without a slot, or none where a sum is due (host_defers). Input: the normed vectors [n][E]. Answer: their weighted
                         * sum [n][E] */
    GPU_MAIL_ATTENTION, /* a layer whose KV cache is in RAM. Input: q, k, v before norm and rotation, [n][(Hq+2Hk)*Dh]. Answer: [n][Hq*Dh] */
    GPU_MAIL_HALVES     /* halves of layers that the host computes, from `layer` on. Input: the residual stream [n][E]. Answer: the same after them */
};
struct gpu_mail {
    GPU_LINE volatile uint32_t number; /* rises by one with each mail; written last */
    volatile uint32_t layer, kind;
    GPU_LINE uint32_t n_tokens;
    uint32_t n_missing[GPU_STEP_TOKENS];
    int32_t expert[GPU_STEP_TOKENS][GPU_MAX_USED]; /* the missing ones of each token, in rank order */
    float weight[GPU_STEP_TOKENS][GPU_MAX_USED];
};

/* Host -> device: the answer to the mail of the same number. */
struct gpu_answer {
    GPU_LINE volatile uint32_t number; /* written last */
    volatile uint32_t failed; /* the device goes on without it and marks the step as failed */
};

/* Device -> host, at the end of a step. */
struct gpu_result {
    GPU_LINE volatile uint32_t number; /* that of the command */
    volatile uint32_t failed;               /* a wait timed out, or an answer said so */
    volatile uint32_t n_misses;             /* experts computed by the host, over all layers */
    volatile int32_t best[GPU_STEP_TOKENS]; /* the likeliest token; the lowest id among equals */
    volatile uint32_t overdue_layer;        /* of the last wait that ended without an answer */
};

struct gpu_shared {
    struct gpu_command *commands[2]; /* by number % 2 */
    struct gpu_mail *mail;
    float *mail_input;               /* [n_tokens][...] by kind */
    struct gpu_answer *answer;
    float *answer_values;            /* [n_tokens][...] by kind */
    struct gpu_result *result;
    int32_t *routes;                 /* [n_layers][GPU_STEP_TOKENS][n_used] the step's choices, best first; complete when its result is. The host's
                                      * halves are not written */
    float *logits;                   /* [GPU_STEP_TOKENS][n_vocab] pinned; [][E] without a head */
    volatile uint32_t *abort;        /* non-zero: no wait on the device lasts any longer */
};

/* ---- prompts ------------------------------------------------------------------------------------------------------------ */

/* A batch of tokens of one sequence at consecutive positions. Its activations live in the lane's scratch between the calls. */
struct gpu_batch {
    uint32_t lane, n, sequence;
    uint64_t first;
    const int32_t *tokens; /* [n] */
};

/* An expert to be computed for the lane's tokens, its three matrices at `slot`. */
struct gpu_batch_expert {
    uint32_t expert;
    gpu_ptr slot;
};

struct gpu_batch_routes {
    const int32_t *experts; /* pinned [n][n_used], best first */
    const float *weights;   /* pinned [n][n_used] */
    const float *input;     /* pinned [n][E], normed; NULL unless asked for */
};

/* ---- the table ----------------------------------------------------------------------------------------------------------- */

struct gpu_type {
    bool has_kernels;
    bool same_layout; /* as in the file: an upload may go straight to its place */
    /* Bytes of `rows` rows of k weights in the device's layout, which no type makes larger than the file's, rounded up to 256;
     * of EXL3 with the factors, and 256 more. */
    uint64_t (*bytes)(uint64_t rows, uint64_t k);
};

struct gpu_ops {
    struct gpu_type types[TYPE_COUNT];

    /* -- device -- */
    void (*info)(const struct gpu *g, struct gpu_info *out);
    void (*memory)(const struct gpu *g, struct gpu_memory *out);
    void (*close)(struct gpu **g); /* after everything that was opened on it */
    /* The first error of the device since gpu_open(), if any. Whoever waits for a flag of the device asks this now and then: errors
     * come to light by it, and the emulated device gets on. */
    enum err (*check)(struct gpu *g, struct reason *why) MUST_USE;

    /* A budget that was not known at gpu_open(); what is allocated stays. */
    void (*set_budget)(struct gpu *g, uint64_t bytes);

    /* -- memory: ERR_LIMIT names the MiB the budget lacks, ERR_NO_MEMORY what the driver refused -- */
    enum err (*alloc)(struct gpu *g, enum gpu_use use, uint64_t bytes, gpu_ptr *out, struct reason *why) MUST_USE;
    void (*free)(struct gpu *g, enum gpu_use use, gpu_ptr p, uint64_t bytes);
    enum err (*alloc_pinned)(struct gpu *g, uint64_t bytes, void **host, gpu_ptr *mapped, struct reason *why) MUST_USE;
    void (*free_pinned)(struct gpu *g, void *host, uint64_t bytes);
    /* Existing memory, page-aligned, for fast copies and for reading by kernels. */
    enum err (*pin)(struct gpu *g, void *host, uint64_t bytes, gpu_ptr *mapped, struct reason *why) MUST_USE;
    void (*unpin)(struct gpu *g, void *host, uint64_t bytes);

    /* -- streams -- */
    void (*upload)(struct gpu *g, enum gpu_stream s, gpu_ptr to, const void *from, uint64_t bytes);   /* from: pinned, or copied before the return */
    void (*download)(struct gpu *g, enum gpu_stream s, void *to, gpu_ptr from, uint64_t bytes);       /* to: pinned */
    /* EXL3 (gpu/layout.h): a matrix's tiles and factors are uploaded as they are, to their places; its bits, which may be fewer
     * than the type's, and its codebook are this launch's. `to`: the matrix. */
    void (*label)(struct gpu *g, enum gpu_stream s, enum tensor_type type, gpu_ptr to, uint64_t rows, uint64_t k, uint32_t bits,
                  enum exl3_codebook codebook);
    /* File layout at `from` (staged on the device) -> device layout at `to`; they do not overlap. */
    void (*repack)(struct gpu *g, enum gpu_stream s, enum tensor_type type, gpu_ptr to, gpu_ptr from, uint64_t rows, uint64_t k);
    enum err (*event_open)(struct gpu *g, struct gpu_event **out, struct reason *why) MUST_USE;
    enum err (*event_open_timed)(struct gpu *g, struct gpu_event **out, struct reason *why) MUST_USE; /* for elapsed_ns; slower */
    uint64_t (*elapsed_ns)(struct gpu *g, struct gpu_event *from, struct gpu_event *to); /* both timed, recorded, and passed; else 0 */
    void (*event_close)(struct gpu *g, struct gpu_event **e);
    void (*record)(struct gpu *g, enum gpu_stream s, struct gpu_event *e);
    void (*wait)(struct gpu *g, enum gpu_stream s, struct gpu_event *e); /* the stream waits, not the caller */
    bool (*passed)(struct gpu *g, struct gpu_event *e);                  /* any thread */
    /* The caller waits until the stream is empty; ERR_IO with what hung after `timeout_ns`. */
    enum err (*sync)(struct gpu *g, enum gpu_stream s, uint64_t timeout_ns, struct reason *why) MUST_USE;

    /* -- a network on the device -- */
    bool (*takes_pair)(enum tensor_type gate, enum tensor_type up); /* of a layer's experts; types with kernels, any thread */
    uint64_t (*network_bytes)(const struct gpu *g, const struct gpu_network_options *o); /* of scratch it will take; UINT64_MAX: overflow */
    enum err (*network_open)(struct gpu *g, const struct gpu_network_options *o, struct gpu_network **out, struct reason *why) MUST_USE;
    void (*network_close)(struct gpu_network **n);
    const struct gpu_shared *(*shared)(const struct gpu_network *n);
    /* Page `index` of a sequence is `page` of the pools, from the next launch on. */
    void (*set_page)(struct gpu_network *n, uint32_t sequence, uint32_t index, uint32_t page);
    /* The slots of all experts of a layer at once [n_experts], as gpu_command.patches[].slot, from the next launch on; not while a step
     * is under way. Commands change single ones. */
    void (*set_slots)(struct gpu_network *n, uint32_t layer, const uint32_t *slots);
    /* How long a kernel waits for an answer before the step fails. */
    void (*set_patience)(struct gpu_network *n, uint64_t ns); /* before step_prepare */

    /* -- a step: n tokens (1, 2, 4 or 8; a smaller command is padded), all layers, logits and the likeliest tokens --
     * Captured once a count and replayed; each launch takes the command of the number that follows the last one's. The host
     * fills shared->commands[number % 2] before, answers mails meanwhile, and has the result when result->number arrives. */
    enum err (*step_prepare)(struct gpu_network *n, uint32_t n_tokens, struct reason *why) MUST_USE; /* capture; slow */
    enum err (*step_launch)(struct gpu_network *n, uint32_t n_tokens, struct reason *why) MUST_USE;

    /* -- a prompt, layer by layer, in GPU_COMPUTE's order; all layers of a batch in turn, lanes may alternate -- */
    void (*batch_begin)(struct gpu_network *n, const struct gpu_batch *b);
    /* Norm, q/k/v, rotation, KV append, attention, output projection, residual. */
    void (*batch_attention)(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer);
    /* The two halves around attention on the host, for layers whose KV cache is in RAM: q, k, v before norm and rotation to pinned
     * memory [n][(Hq+2Hk)*Dh], valid once `ready` has passed; then what was attended, pinned [n][Hq*Dh]. */
    void (*batch_qkv)(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, float *qkv, struct gpu_event *ready);
    void (*batch_attended)(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const float *attended);
    /* Around halves of layers that the host computes, and for its head: the residual stream to pinned memory [n][E], valid once
     * `ready` has passed; and back from there. */
    void (*batch_take)(struct gpu_network *n, const struct gpu_batch *b, float *x, struct gpu_event *ready);
    void (*batch_give)(struct gpu_network *n, const struct gpu_batch *b, const float *x);
    /* Norm, router, choice; then `routes` are on their way to the host: valid once `ready` has passed. */
    void (*batch_route)(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, bool want_input, struct gpu_batch_routes *routes,
                        struct gpu_event *ready);
    /* Gate, up, SwiGLU, down of some experts for the tokens that chose them. Each pair's result has its own row. */
    void (*batch_experts)(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const struct gpu_batch_expert *experts, uint32_t count);
    /* x += the sum over computed pairs in rank order, += rest [n][E] (pinned; the host's experts, already weighted) unless NULL. */
    void (*batch_combine)(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const float *rest);
    /* Logits of tokens [from, from + count) into pinned logits [count][n_vocab]; count <= GPU_STEP_TOKENS. */
    void (*batch_logits)(struct gpu_network *n, const struct gpu_batch *b, uint32_t from, uint32_t count, float *logits);

    /* How often each expert was chosen by steps: u32 [n_layers][n_experts], to pinned memory in GPU_COMPUTE's order. */
    void (*download_uses)(struct gpu_network *n, uint32_t *uses);
};

struct gpu {
    const struct gpu_ops *ops;
};

/* ERR_UNSUPPORTED: this build has no such device; ERR_IO: there is none, or its driver is too old; the reason says what to do. */
enum err gpu_open(const struct gpu_options *o, struct gpu **out, struct reason *why) MUST_USE;

#ifdef __cplusplus
}
#endif

#endif
