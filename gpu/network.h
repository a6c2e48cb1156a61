/* Inside the GPU room: a network on the device, shared by the files that launch its kernels. C++; nobody outside gpu/ includes it.
 *
 * Every pointer below is device memory unless it says otherwise. [T] is GPU_STEP_TOKENS, [N] the batch_tokens of a lane. */
#ifndef COLDSTREAM_GPU_NETWORK_H
#define COLDSTREAM_GPU_NETWORK_H

#include "gpu/cu.h"
#include "gpu/gpu.h"
#include "gpu/grids.h"

/* Vectors in 8 bits, as the CPU's `struct acts` has them: per 32 values d = max|x|/127, q = round to nearest even of
 * x * (127/max|x|), s32 = d * sum of the 32 q; sum16 = sum of each 16 q. A group whose max is below 2^-110 is zero; one that holds
 * an infinity or NaN has d = NaN. Natural order; rows 16-byte aligned. */
struct gpu_acts {
    int8_t *q;      /* [n][k] */
    float *d, *s32; /* [n][k/32] */
    int32_t *sum16; /* [n][k/16] */
};

/* Which ticket is whose (gpu_step.tickets): kernels that may run at the same time do not share one. */
enum {
    GPU_TICKET_ROUTE,
    GPU_TICKET_MAIL,
    GPU_TICKET_GATE_UP,
    GPU_TICKET_DOWN,
    GPU_TICKET_HEAD,
    GPU_TICKET_END,
    GPU_TICKET_BATCH,         /* prompts */
    GPU_TICKET_ATTENTION = 16 /* + token * n_kv_heads + KV head */
};

struct gpu_route {
    int32_t expert;
    uint32_t slot; /* 1 + address / 256 from the slots' base; 0: computed by the host */
    float weight;
};

/* An expert whose weights are on the device, with the tokens that chose it: its weights are read once for all of them. */
struct gpu_hit {
    uint32_t slot, tokens;            /* bit t: token t chose it */
    uint32_t rank[GPU_STEP_TOKENS];   /* among that token's choices */
    float weight[GPU_STEP_TOKENS];    /* 0 where the bit is not set */
};

/* Scratch of steps. */
struct gpu_step {
    float *x;                 /* [T][E] the residual stream, updated in place */
    float *qkv;               /* [T][(Hq+2Hk)*Dh] */
    float *attend_partial;    /* [T][Hq][splits][Dh+2]: see attention.cu */
    struct gpu_acts attended; /* [T][Hq*Dh]; filled when the layer's output matrix multiplies int8 (not F32, F16, BF16, EXL3) */
    float *attended32;        /* [T][Hq*Dh]; filled when it does not */
    float *normed;            /* [T][E] the experts' input */
    struct gpu_acts normed8;  /* [T][E] */
    float *router;            /* [T][X] logits of the router */
    struct gpu_route *route;  /* [T][n_used], best first; expert -1: none (padding) */
    struct gpu_hit *hits;     /* [T*n_used] the distinct chosen experts that have a slot */
    uint32_t *n_hits;
    struct gpu_acts mid;      /* [T*n_used][F] row t * n_used + rank */
    float *mid32;             /* the same, for down matrices that multiply floats */
    float *logits;            /* [T][V] */
    uint64_t *best_key;       /* [T] of the largest logit so far: see matvec.cu */
    uint32_t *tickets;        /* one a use; zero between kernels: grid_last() resets them */
    uint32_t *mail_number;    /* of the last mail */
    uint32_t *n_missing;      /* of the layer at hand, over all tokens; and 1 when the layer before is owed something */
    uint32_t *owed;           /* the host has left a part of the layer before to the next answer about experts */
    uint32_t *n_misses;       /* of the step */
    uint32_t *failed;
    struct gpu_command *command; /* the device's copy of the step's command */
    uint32_t *command_number; /* of the step at hand */
    int32_t *best;            /* [T] */
};

/* Scratch of a prompt's lane. */
struct gpu_lane {
    int32_t *tokens;          /* [N] */
    float *x;                 /* [N][E] */
    __half *normed;           /* [N][E] */
    float *normed32;          /* [N][E] the host's experts read it */
    float *qkv;               /* [N][(Hq+2Hk)*Dh] */
    __half *q, *attended;     /* [N][Hq*Dh] */
    float *router;            /* [N][X] */
    int32_t *expert;          /* [N][n_used] */
    float *weight;            /* [N][n_used] */
    int32_t *pair_of;         /* [N][n_used] where (token, rank) stands among the pairs sorted by expert */
    int32_t *pair_token;      /* [N*n_used] */
    uint32_t *expert_start;   /* [X+1] */
    __half *mid;              /* [N*n_used][F] */
    float *mid_scale;         /* [N*n_used] a power of two that keeps mid in range */
    float *down;              /* [N*n_used][down_stride] results [E]; before, where gate and up differ in type, theirs [2][F] */
    uint8_t *done;            /* [X] experts computed in this layer */
    float *rest;              /* [N][E] the host's share */
    /* Pinned host memory, for gpu_batch_routes: */
    int32_t *expert_host;     /* [N][n_used] */
    float *weight_host;       /* [N][n_used] */
    float *normed_host;       /* [N][E] */
};

/* Scratch of EXL3's kernels, 0 of models without. */
struct gpu_trellis_room {
    uint64_t blocks;      /* of a step's launch, at most */
    uint64_t tickets;     /* blocks of outputs that several of them share */
    uint64_t rows, width; /* vectors of a prompt */
};
struct gpu_trellis_scratch {
    struct gpu_trellis_room room;
    float *sums;       /* [blocks][T][128] parts of sums that blocks hand over */
    uint32_t *tickets; /* zero between kernels */
    /* Prompts; the lanes share them: what is computed there is used by the next launches. */
    __half *rotated;   /* [rows][k] vectors after the transform in front of a matrix */
    float *scale;      /* [rows] a power of two each was divided by */
    float *gated;      /* [N*n_used][F] gate's results, then SiLU(gate) * up */
};

struct gpu_network {
    struct gpu *gpu;
    struct gpu_shape shape;
    struct gpu_layer *layers;     /* host [n_layers] */
    struct gpu_layer *layers_dev; /* the same */
    struct gpu_network_options options;
    double *rope_frequency;       /* [Dh/2] */
    uint32_t *slots;              /* [n_layers][n_experts] as gpu_route.slot */
    uint32_t *uses;               /* [n_layers][n_experts] */
    uint32_t *pages;              /* [max_sequences][max_pages] */
    uint32_t *tables;             /* [GPU_TABLE_WORDS] of gpu/grids.h */
    struct gpu_step step;
    struct gpu_lane lanes[GPU_LANES];
    struct gpu_trellis_scratch trellis;
    struct gpu_shared shared;     /* host addresses */
    struct gpu_shared shared_dev; /* the device's addresses of the same */
    uint64_t patience_ns;
    uint64_t down_stride;         /* floats */
    uint32_t splits;              /* of attention in a step: enough blocks for two a multiprocessor, at least 1 */
};

/* grids.cu: the tables' first values. */
void gpu_grids_pack(uint32_t (&to)[GPU_TABLE_WORDS]);

/* Launches, each into `stream`. Steps run under capture: nothing here may allocate, synchronise or depend on the host's state. */
void gpu_launch_begin(struct gpu_network *n, uint32_t tokens, cudaStream_t stream);                            /* step.cu */
void gpu_launch_qkv(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);              /* matvec.cu */
void gpu_launch_attention(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);        /* attention.cu */
void gpu_launch_attention_mail(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);   /* step.cu */
void gpu_launch_output(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);           /* matvec.cu */
void gpu_launch_halves_mail(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);      /* step.cu */
void gpu_launch_route(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);            /* route.cu */
void gpu_launch_gate_up(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);          /* experts.cu */
void gpu_launch_down(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream);             /* experts.cu */
void gpu_launch_head(struct gpu_network *n, uint32_t tokens, cudaStream_t stream);                             /* matvec.cu */
void gpu_launch_end(struct gpu_network *n, uint32_t tokens, cudaStream_t stream);                              /* step.cu */

/* Prompts: matmul.cu (products), attention.cu, batch.cu (the rest). */
struct gpu_product { /* y[i][r] = sum_c W[r][c] x[i][c] */
    struct gpu_matrix w;
    const __half *x; /* [n][k] */
    const float *x32; /* the same before rounding, where it is to be had: EXL3 rounds after its transform; else NULL */
    uint32_t n;
    float *y;        /* [n] rows ldy apart */
    uint32_t ldy;
    bool add;        /* y += */
    bool two_vectors; /* rows 2i and 2i+1 of x are a vector and 2^11 times what rounding it to binary16 left: y[i], for n/2 of them; no add */
};
struct gpu_product32 { /* the same in binary32 throughout, for routers */
    struct gpu_matrix w;
    const float *x; /* [n][k] */
    uint32_t n;
    float *y;
    uint32_t ldy;
};
void gpu_launch_product32(struct gpu_network *n, const struct gpu_product32 *p, cudaStream_t stream);
void gpu_launch_product(struct gpu_network *n, const struct gpu_product *p, cudaStream_t stream);
/* Experts of `layer` (gpu_ops.batch_experts) over the lane's sorted pairs. */
void gpu_launch_expert_products(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const struct gpu_batch_expert *experts, uint32_t count, cudaStream_t stream);
/* lane.qkv -> norm, rotation, KV append, causal attention -> lane.attended */
void gpu_launch_batch_attention(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, cudaStream_t stream);

/* The table's functions of prompts (batch.cu), as gpu.h describes them. */
void gpu_batch_begin(struct gpu_network *n, const struct gpu_batch *b);
void gpu_batch_attention(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer);
void gpu_batch_qkv(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, float *qkv, struct gpu_event *ready);
void gpu_batch_attended(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const float *attended);
void gpu_batch_take(struct gpu_network *n, const struct gpu_batch *b, float *x, struct gpu_event *ready);
void gpu_batch_give(struct gpu_network *n, const struct gpu_batch *b, const float *x);
void gpu_batch_route(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, bool want_input, struct gpu_batch_routes *routes,
                     struct gpu_event *ready);
void gpu_batch_experts(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const struct gpu_batch_expert *experts, uint32_t count);
void gpu_batch_combine(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer, const float *rest);
void gpu_batch_logits(struct gpu_network *n, const struct gpu_batch *b, uint32_t from, uint32_t count, float *logits);

#endif
