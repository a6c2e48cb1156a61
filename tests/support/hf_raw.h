/* Builds model directories from a list of tensors that a test edits first. What it writes is right unless it was told
 * otherwise: every shard's data is laid out without holes, and each tensor's bytes follow from its name, so that a reader's
 * offset can be checked. */
#ifndef COLDSTREAM_TESTS_HF_RAW_H
#define COLDSTREAM_TESTS_HF_RAW_H

#include "core/core.h"

enum { RAW_HF_TENSORS = 256, RAW_HF_SHARDS = 4 };

struct raw_hf_tensor {
    char name[128], dtype[12], shape[64]; /* shape as JSON: "[2, 3]" */
    uint64_t bytes;                       /* of data */
    char entry[200];                      /* not empty: written in place of {"dtype": ...} */
    unsigned shard;
    bool marker; /* the data are `value` */
    uint32_t value;
};

struct raw_hf {
    char folder[100];                                                          /* exists; files are written into it */
    struct text config, tokenizer, tokenizer_config, generation, index, jinja; /* empty: no such file */
    struct raw_hf_tensor tensors[RAW_HF_TENSORS];
    size_t n;
    unsigned n_shards; /* 1: model.safetensors */
    unsigned skipped;  /* bit s: shard s is not written */
    bool padded;       /* the header to a multiple of 8 */
};

/* 1 layer of width 8 with 2 heads of 4, 1 key/value head, 2 experts of width 16, 8 tokens, all BF16. Frees what `h` held. */
void raw_hf_dense(struct raw_hf *h);
/* The same structure with all widths 128 (256 for the queries); matrices are EXL3: 2 bits, the attention's 3, the head's 6. */
void raw_hf_exl3(struct raw_hf *h);
/* A tokenizer.json of 256 bytes, 2 merges and 3 added tokens, and vocab_size 264 in config.json and tensors. */
void raw_hf_tokenizer(struct raw_hf *h);
void raw_hf_free(struct raw_hf *h);

struct raw_hf_tensor *raw_hf_find(struct raw_hf *h, const char *name); /* aborts when absent */
struct raw_hf_tensor *raw_hf_add(struct raw_hf *h, const char *name, const char *dtype, const char *shape, uint64_t bytes);
void raw_hf_drop(struct raw_hf *h, const char *name);
/* The first `from` in `text` becomes `to`; aborts when there is none. */
void raw_hf_replace(struct text *text, const char *from, const char *to);

/* Writes everything; files of an earlier write disappear. */
void raw_hf_write(struct raw_hf *h);
void raw_hf_put(const struct raw_hf *h, const char *name, const void *bytes, size_t len); /* one more file */
void raw_hf_clear(const struct raw_hf *h);                                                /* removes all files */
/* Byte `i` of the data of a tensor that is no marker. */
uint8_t raw_hf_byte(const char *name, uint64_t i);

#endif
