/* An untrusted file becomes one validated `struct model`: shape, tensor directory, bound weights, tokenizer arrays.
 *
 * All containers end in the same struct, under GGUF's names of keys and tensors. Opening reads metadata only, never weights.
 * After model_open() succeeded every number here has been checked: extents match the shape, data ranges lie inside their
 * files and do not overlap, row sizes are whole blocks, ids are below n_vocab. The struct is const and may be shared. */
#ifndef COLDSTREAM_MODEL_H
#define COLDSTREAM_MODEL_H

#include "core/core.h"
#include "core/tensor.h"

enum { TENSOR_DIMS = 4 };

struct model_slice {
    uint32_t file; /* index into model.files */
    uint64_t offset;
    uint32_t bits; /* EXL3 stacks whose matrices differ in bits: of this one, while the tensor has the widest type; else 0 */
};

struct model_tensor {
    struct span name;
    enum tensor_type type;
    uint32_t n_dims;
    uint64_t ne[TENSOR_DIMS]; /* ne[0] contiguous (columns), ne[1] rows, ne[2] experts; absent ones are 1 */
    uint64_t row_bytes;
    uint64_t bytes;           /* row_bytes * ne[1] * ne[2] * ne[3] */
    uint32_t file;            /* index into model.files */
    uint64_t offset;          /* from the start of that file */
    const struct model_slice *slices; /* [ne[2]]: experts that lie apart, in any files; NULL: one after the other from `offset` on */
    /* EXL3, else NULL: factors of the inputs [ne[0], 1, ne[2]] and of the outputs [ne[1], 1, ne[2]], F16; tensors of the directory. */
    const struct model_tensor *in_scale, *out_scale;
    uint32_t codebook;        /* EXL3: enum exl3_codebook of core/tensor.h */
};

/* Where matrix `i` of a stacked tensor begins. */
static inline struct model_slice model_slice_of(const struct model_tensor *t, uint64_t i) {
    return t->slices ? t->slices[i] : (struct model_slice){t->file, t->offset + i * t->row_bytes * t->ne[1], 0};
}
/* Its bytes a row; at most t->row_bytes. */
static inline uint64_t model_slice_row_bytes(const struct model_tensor *t, struct model_slice s) {
    return s.bits ? t->ne[0] / 8 * s.bits : t->row_bytes;
}

struct model_file {
    char *path;
    int fd;         /* open for reading while the model is */
    uint64_t bytes;
    uint64_t used_bytes; /* end of the last tensor's data; what follows beyond padding is ignored */
};

enum rope_scaling { ROPE_NONE, ROPE_LINEAR, ROPE_YARN };
enum { ROPE_BETA_FAST = 32, ROPE_BETA_SLOW = 1 }; /* YaRN's usual values */
#define ROPE_LEAST_FACTOR 0x1p-20f
#define ROPE_MOST_FACTOR 0x1p20f
enum { MODEL_MAX_POSITIONS = INT32_MAX };

struct model_shape {
    uint32_t n_layers;
    uint32_t n_embd;        /* E */
    uint32_t n_heads;       /* query heads */
    uint32_t n_kv_heads;    /* divides n_heads */
    uint32_t head_dim;      /* Dh: of q, k and v; even */
    uint32_t n_experts;     /* X */
    uint32_t n_experts_used;/* 1..X */
    uint32_t n_ff;          /* F: width of one expert */
    uint32_t n_vocab;       /* rows of the embedding and the head */
    uint64_t context_length;
    float rms_eps;
    float rope_base;
    enum rope_scaling rope_scaling;
    float rope_factor;      /* positions are divided by it, in whole or (YaRN) in part; 1 = no scaling */
    uint64_t rope_original_context; /* tokens the model was trained for before its positions were scaled */
    float rope_attn_factor; /* beside YaRN's own 1 + 0.1 ln(factor) */
    float rope_ext_factor;  /* 0..1, share of YaRN's ramp: 1 for YaRN, else 0, which divides every frequency by the factor */
    float rope_beta_fast, rope_beta_slow; /* pairs that turn more often than fast in the original context keep their frequency; slow: the other end */
};

struct model_layer {
    const struct model_tensor *attn_norm, *attn_q, *attn_k, *attn_v, *attn_output, *attn_q_norm, *attn_k_norm;
    const struct model_tensor *ffn_norm, *router;     /* router [E, X] */
    const struct model_tensor *gate, *up, *down;      /* [E,F,X] [E,F,X] [F,E,X]; up is NULL when gate is the merged [E,2F,X] */
};

/* Tokenizer arrays as the file stores them (byte-level BPE, stand-in characters); spans point into the model's own copy. */
struct model_vocab {
    size_t n_tokens;             /* 0: the file has no tokenizer */
    const struct span *tokens;   /* [n_tokens] */
    const int32_t *types;        /* [n_tokens]; 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte */
    size_t n_merges;
    const struct span *merges;   /* [n_merges] "left right" */
    int32_t bos, eos, eot, pad;  /* -1: not given */
    bool add_bos;
    struct span model, pre;      /* "gpt2", "qwen2" */
};

/* One metadata value, for inspect and for family detection. */
struct model_meta {
    struct span key;
    uint32_t type;         /* GGUF value type 0..12 */
    uint32_t element_type; /* of an array */
    uint64_t count;        /* elements of an array, else 1 */
    struct span bytes;     /* raw little-endian payload: scalar bytes, string bytes, or first bytes of the array's elements */
};

enum model_container { CONTAINER_GGUF, CONTAINER_SAFETENSORS, CONTAINER_EXL3 };

struct model {
    struct model_shape shape;
    struct span architecture, name, chat_template; /* empty when absent */
    struct model_vocab vocab;

    const struct model_tensor *embedding, *output_norm;
    const struct model_tensor *output; /* = embedding when the head is tied */
    const struct model_layer *layers;  /* [shape.n_layers] */

    size_t n_tensors;
    const struct model_tensor *tensors; /* the whole directory, unknown extras included, in file order */
    size_t n_meta;
    const struct model_meta *meta;
    size_t n_files;
    const struct model_file *files;
    enum model_container container;
    uint32_t container_version; /* GGUF 2 or 3; of the others 0 */
    uint64_t weight_bytes;      /* sum over `tensors` */
    uint64_t n_parameters;      /* sum of extents */
};

/* `path`: a GGUF file, the first shard of a split, or a directory with config.json and *.safetensors. On failure *out is NULL and `why` names file, item and offset.
 * need_weights false: accept vocabulary-only files (tokenize, template, inspect); layers, embedding... may then be NULL. */
enum err model_open(const char *path, bool need_weights, struct model **out, struct reason *why) MUST_USE;
void model_close(struct model **model);

const struct model_meta *model_find_meta(const struct model *m, const char *key); /* NULL: absent */
const struct model_tensor *model_find_tensor(const struct model *m, struct span name);

/* What is asked for instead of what the file says of its positions. All zero: nothing. */
struct rope_override {
    bool has_scaling, has_ext_factor;
    enum rope_scaling scaling;
    uint64_t original_context;                        /* 0: the file's, as below */
    float base, factor, attn_factor, beta_fast, beta_slow;
    float ext_factor;
};
/* Put it into the shape, whose context_length becomes what the positions then reach: original_context times the factor. A factor
 * without a scaling is linear, as in files. ERR_ARGUMENT names the value that cannot be. */
enum err model_override_rope(struct model *m, const struct rope_override *o, struct reason *why) MUST_USE;

/* Bytes of one of its files, through the page cache; any thread. */
enum err model_read(const struct model *m, uint32_t file, void *to, uint64_t bytes, uint64_t offset, struct reason *why) MUST_USE;

#endif
