/* The model's weights as the graph wants them: each matrix with its address, sizes and kernels; norms as floats.
 *
 * Built once from a validated model and loaded weights; const afterwards and shared by sessions. */
#ifndef COLDSTREAM_NETWORK_H
#define COLDSTREAM_NETWORK_H

#include "core/pool.h"
#include "cpu/cpu.h"
#include "engine/weights.h"
#include "model/model.h"

struct matrix {
    const uint8_t *data;     /* row 0; NULL for experts, whose place the store knows */
    uint64_t row_bytes;
    uint64_t rows, k;        /* of one expert for a stacked tensor */
    const struct cpu_type *ops;
    struct exl3_matrix exl3; /* of EXL3 types, else rows is 0; the factors are NULL for experts */
};

struct network_layer {
    const float *attn_norm, *ffn_norm;   /* [E] */
    const float *q_norm, *k_norm;        /* [Dh] */
    struct matrix q, k, v, output;       /* [Hq*Dh,E] [Hk*Dh,E] [Hk*Dh,E] [E,Hq*Dh] */
    struct matrix router;                /* [X,E] */
    struct matrix guess;                 /* the router in 8 bits, to look ahead with; data NULL: not made */
    struct matrix gate, up, down;        /* an expert: [F,E] [F,E] [E,F] */
    bool int8_attn_in, int8_attn_out, int8_ffn_in, int8_ffn_mid; /* does a consumer of these activations read the int8 form? */
};

struct network {
    const struct model_shape *shape;
    struct network_layer *layers;
    struct matrix embedding, head;
    const float *output_norm; /* [E] */
    bool int8_head;
    double *rope_frequency;   /* [Dh/2] radians a position, scaling included */
    float rope_magnitude;     /* factor on cos and sin (YaRN) */
    struct arena floats;      /* the norms */
    struct arena guesses;     /* the routers' copies */
};

/* Memory that network_look_ahead() takes. */
uint64_t network_guess_bytes(const struct model_shape *s);
/* Make copies of the routers in Q8_0: the look-ahead asks two of them a layer, and a guess need not read 32 bits a weight. */
enum err network_look_ahead(struct network *net, const struct cpu_ops *ops, struct pool *pool, struct reason *why) MUST_USE;

/* Which tensors of the directory the network reads, with or without the experts': fill `wanted` [m->n_tensors]. */
void network_wanted(const struct model *m, bool experts, bool *wanted);
enum err network_open(const struct model *m, const struct weights *w, const struct cpu_ops *ops, struct network *out,
                      struct reason *why) MUST_USE;
void network_close(struct network *net);

/* Refuse, naming the tensor, when a bound tensor's type has no kernel in this build, or none for its place: the embedding, the
 * routers and the norms are read by rows, which EXL3 has not. Needs no weights. */
enum err network_check(const struct model *m, const struct cpu_ops *ops, struct reason *why) MUST_USE;

#endif
