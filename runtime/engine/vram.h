/* The network's part in VRAM: dense weights, experts' slots, pages of KV caches; and the way there from the model file.
 *
 * Opened once, used by one run at a time. What lies here and what the CPU computes is the plan's decision; when the card has less
 * than the plan thought, there are fewer slots, never an error as long as the dense part fits. */
#ifndef COLDSTREAM_VRAM_H
#define COLDSTREAM_VRAM_H

#include "engine/kv.h"
#include "engine/network.h"
#include "engine/upload.h"
#include "engine/weights.h"
#include "gpu/gpu.h"
#include "placement/plan.h"

#define VRAM_ROUNDING ((uint64_t)8 << 20) /* a driver makes of a dozen allocations, 2 MiB at a time, more than they asked for */

struct vram_options {
    const struct model *model;
    const struct plan *plan;
    const struct network *net;      /* norms and RoPE of all layers */
    const struct weights *weights;  /* what is in RAM: the embedding */
    uint32_t ubatch;
    bool host_defers;               /* as gpu_network_options has it */
    bool experts_later;             /* their slots stay empty: arrivals.h fills them */
    struct fetch *fetch;            /* with nothing in flight; used during vram_open() */
    struct gpu *gpu;                /* closed by the caller, later */
    struct log_sink log;
    bool (*on_load)(void *ctx, uint64_t done_bytes); /* true cancels; may be NULL */
    void *ctx;
};

struct vram_slots { /* of one class */
    gpu_ptr base;
    uint64_t bytes; /* of one */
    uint32_t n;
    uint32_t used;  /* the first ones: somebody's place */
    uint32_t spare; /* beyond the plan's: for moves */
};

enum {
    VRAM_MATRICES = 3,              /* gate, up, down */
    VRAM_PIECES = 3 * VRAM_MATRICES /* of each its weights, and of EXL3 its factors of inputs and of outputs */
};

/* An expert as it lies in the file and in a slot. */
struct vram_expert {
    struct {
        enum tensor_type type;
        uint64_t rows, k;
        uint32_t bits; /* EXL3: this expert's, at most the type's; else 0 */
        enum exl3_codebook codebook;
        uint64_t at; /* in a slot */
    } matrices[VRAM_MATRICES];
    struct {
        uint64_t bytes; /* in the file's layout; 0: there is no such piece */
        uint64_t at;    /* in a slot, in the device's layout */
    } pieces[VRAM_PIECES];
    uint64_t bytes, weights; /* of all */
};

struct vram {
    struct gpu *gpu;
    const struct gpu_ops *ops;
    const struct model *model; /* borrowed */
    struct gpu_network *net;
    const struct gpu_shared *shared;
    struct gpu_layer *layers;  /* [n_layers] */
    uint32_t n_layers, n_experts;
    bool all_resident;  /* every expert has a slot, of layers whose router is here: no mails about experts */
    bool kv_on_host;    /* attention that is here finds its KV cache in RAM, or there is none */
    bool host_halves;   /* some of the layers' halves are the CPU's: gpu_layer.host_attention, host_experts */
    bool host_head;
    bool emulated;
    uint64_t patience_ns;
    bool hangs;         /* the device did not come to an end when it was told to: nothing can be asked of it any more */

    uint32_t *slot_of;           /* [n_layers * n_experts] as struct gpu_command has them */
    uint32_t *place_of;          /* the same, where the plan wants them, there or not yet: fixed after opening */
    bool all_placed;             /* all_resident, once they are there */
    gpu_ptr slots;               /* all classes, one allocation */
    uint64_t slots_bytes;
    struct vram_slots *classes;  /* [n_classes], then the ring: slots of the largest class that nothing stays in */
    uint32_t n_classes;
    uint8_t *layer_class;        /* [n_layers] */

    gpu_ptr dense, kv;           /* one allocation each */
    uint64_t dense_bytes, kv_bytes;
    void *embedding;             /* pinned while this is open */
    uint64_t embedding_bytes;
    uint32_t n_pages;            /* of a layer's pool */
    uint32_t n_free_pages;
    uint32_t *free_pages;        /* [n_pages] */
    uint32_t sequences;          /* bit i: taken */

    uint32_t number;             /* of the last step */
    uint32_t prepared;           /* bit i: steps of 1 << i tokens are captured */
    float *rest[GPU_LANES];      /* pinned [ubatch][E] the host's share of a lane */
    float *attended[GPU_LANES], *qkv[GPU_LANES]; /* pinned, with kv_on_host */
    float *hidden[GPU_LANES];    /* pinned [ubatch][E], with host_halves or host_head */
    struct gpu_event *ready[GPU_LANES];
    uint64_t rest_bytes, attended_bytes, qkv_bytes, hidden_bytes;
};

/* Halves of layers in order: attention 2l, router and experts 2l + 1. Is it the CPU's? */
static inline bool vram_on_host(const struct vram *v, uint32_t half) {
    return half % 2 ? v->layers[half / 2].host_experts : v->layers[half / 2].host_attention;
}

/* RAM that an open one takes beside the embedding: staging, shared blocks, lanes. `parts_on_host`: halves of layers, or the head. */
uint64_t vram_host_bytes(const struct model *m, uint32_t ubatch, bool kv_on_host, bool parts_on_host);
/* VRAM that is taken beside everything else: by the upload while a model is loaded; by moves, the ring and arrivals after that. */
uint64_t vram_staging_bytes(const struct model *m);

/* ERR_UNSUPPORTED: the device has no kernels for one of the model's tensors, or none for a layer's gate and up matrices together; the
 * reason names them with their types. */
enum err vram_check(const struct model *m, const struct gpu_ops *ops, struct reason *why) MUST_USE;
/* ERR_LIMIT, ERR_NO_MEMORY: the card cannot hold the dense part; the reason names the MiB. ERR_IO: the file, or the card. */
enum err vram_open(const struct vram_options *options, struct vram **out, struct reason *why) MUST_USE;
void vram_close(struct vram **vram);

void vram_describe_expert(const struct vram *v, uint32_t layer, uint32_t expert, struct vram_expert *out);
/* The same with where each part is in the file and goes on the device, for upload.h; returns how many. */
uint32_t vram_expert_parts(const struct vram *v, uint32_t layer, uint32_t expert, gpu_ptr slot, struct upload_part out[FETCH_EXTENTS]);
uint64_t vram_expert_bytes(const struct model *m); /* of the largest expert's parts together, as upload_open() wants them */
uint64_t vram_expert_room(const struct vram *v); /* bytes of the largest expert in the file's layout, each piece 256-aligned */
/* On the copy stream: an expert's pieces, in the file's layout at from[], to a slot. `staging`: vram_expert_room() bytes on the
 * device, in use until the stream has passed. from[] as gpu_ops.upload takes it; not looked at where there is no piece. */
void vram_send_expert(const struct vram *v, const struct vram_expert *x, const uint8_t *const from[VRAM_PIECES],
                      gpu_ptr staging, gpu_ptr slot);

/* A sequence's cache in VRAM: `kv` gets a number and, as it grows, pages; rows that it has in RAM for other layers stay as they are.
 * ERR_LIMIT: too many sequences. */
enum err vram_open_kv(struct vram *v, uint64_t capacity, struct kv *kv, struct reason *why) MUST_USE;
void vram_close_kv(struct vram *v, struct kv *kv);
/* Room for positions [0, tokens). ERR_LIMIT: other sequences hold the pages. */
enum err vram_grow_kv(struct vram *v, struct kv *kv, uint64_t tokens, struct reason *why) MUST_USE;

#endif
