/* Private to runtime/model: a directory as Hugging Face models are published (config.json, *.safetensors, tokenizer.json) on
 * its way into a struct container.
 *
 *     safetensors.c  files -> a table of what they say they hold
 *     hf_values.c    scalars of a JSON file by key          hf_config.c    config.json -> shape and GGUF keys
 *     hf_tensors.c   the table -> GGUF's tensors            exl3.c         what is particular to EXL3 among them
 *     hf_tokenizer.c tokenizer files -> GGUF keys           hf_meta.c      the keys' bytes
 *     hf.c           the directory itself, and the order of all that
 *
 * Messages name the file, the tensor or key as the directory spells it, and the byte. */
#ifndef COLDSTREAM_MODEL_HF_H
#define COLDSTREAM_MODEL_HF_H

#include "core/json_scan.h"
#include "model/container.h"

/* ---- safetensors ------------------------------------------------------------------------------------------------------- */

/* X(name in files, bits of an element); the types that weights may have come first and have their tensor_type. */
#define ST_DTYPES(X)                                                                                                           \
    X(BF16, 16)                                                                                                                \
    X(F16, 16)                                                                                                                 \
    X(F32, 32)                                                                                                                 \
    X(I16, 16) X(I32, 32) X(F64, 64) X(I64, 64) X(U64, 64) X(U32, 32) X(U16, 16) X(I8, 8) X(U8, 8) X(BOOL, 8) X(C64, 64)       \
        X(F8_E4M3, 8) X(F8_E5M2, 8) X(F8_E8M0, 8) X(F4, 4) X(F6_E2M3, 6) X(F6_E3M2, 6)

enum st_dtype {
#define X(name, bits) ST_##name,
    ST_DTYPES(X)
#undef X
        ST_DTYPE_COUNT
};
const char *st_dtype_name(enum st_dtype type);

enum { ST_DIMS = 4 };

struct st_tensor {
    uint64_t name_at; /* into st_table.names */
    uint32_t name_len;
    uint16_t file;
    uint8_t dtype, n_dims;   /* dimensions behind the fourth are counted, not kept */
    uint64_t shape[ST_DIMS]; /* as written: the last one contiguous */
    uint64_t at;             /* of its name in the header */
    uint64_t offset, bytes;  /* data, from the start of the file */
};

struct st_table {
    struct st_tensor *tensors; /* [n] file after file */
    size_t n, cap;
    struct text names;
    struct model_file *files; /* [n_files] open */
    uint64_t *data_at;        /* [n_files] where the data section of each begins */
    size_t n_files;
    uint32_t *by_place; /* [n] after safetensors_check(): by file and offset */
};

/* Opens one more file and adds what its header lists. The table is to be closed even after a failure. */
enum err safetensors_read(struct st_table *t, const char *path, struct reason *why) MUST_USE;
/* Over all files: names are unique, the data of each file is covered without holes and overlap. */
enum err safetensors_check(struct st_table *t, struct reason *why) MUST_USE;
void st_table_close(struct st_table *t);
struct span st_name(const struct st_table *t, const struct st_tensor *one);
/* "<file>: tensor '<name>' at byte <n>: ..." */
enum err st_fail(const struct st_table *t, const struct st_tensor *one, struct reason *why, enum err code, const char *format,
                 ...) PRINTF_LIKE(5, 6);

/* ---- scalars of a JSON file -------------------------------------------------------------------------------------------- */

enum hf_kind { HF_ABSENT, HF_NULL, HF_BOOL, HF_NUMBER, HF_STRING, HF_ARRAY, HF_OBJECT };

struct hf_value {
    const char *key; /* as given: "a", or "a.b" for b in the object a */
    enum hf_kind kind;
    uint64_t at; /* of the value in its file */
    bool yes;    /* HF_BOOL */
    bool whole;  /* HF_NUMBER: `integer` is its exact value */
    uint64_t integer;
    double number;
    struct text text; /* HF_STRING */
    uint64_t count;   /* HF_ARRAY: elements; the first two in `first`, when they are whole numbers, with n_first */
    uint64_t first[2];
    unsigned n_first;
    struct text element; /* HF_ARRAY: the first element, when it is a string */
};

/* Finds the keys of `values` (their .key set, else zero) in an object. A key given twice is refused. ERR_IO when there is no
 * file and `exists` is NULL; else *exists says whether there is one. */
enum err hf_values_read(const char *path, struct hf_value *values, size_t n, bool *exists, struct reason *why) MUST_USE;
void hf_values_free(struct hf_value *values, size_t n);
enum err hf_value_fail(const char *path, const struct hf_value *v, struct reason *why, enum err code, const char *format, ...)
    PRINTF_LIKE(5, 6);

enum err hf_fill(void *file, void *to, uint64_t bytes, uint64_t at, struct reason *why) MUST_USE; /* a scan_fill: file_read() */

/* A JSON file of the directory: opened and limited. Close with hf_json_close(), also after a failure. */
struct hf_json {
    struct model_file file;
    struct json_scan scan;
};
enum err hf_json_open(const char *path, uint64_t max_bytes, size_t max_text, struct hf_json *out, bool *exists,
                      struct reason *why) MUST_USE;
void hf_json_close(struct hf_json *j);

/* ---- metadata under GGUF's keys ---------------------------------------------------------------------------------------- */

struct hf_meta_record {
    const char *key; /* static */
    uint32_t type, element_type;
    uint64_t count;
    size_t from, to; /* its payload, in `bytes` */
};

enum { HF_MAX_RECORDS = 48, HF_MAX_META_BYTES = 32 << 20 };

/* Collects payloads; a failed append is reported by hf_meta_finish(). Zero-initialise. */
struct hf_meta {
    struct text bytes;
    struct hf_meta_record records[HF_MAX_RECORDS];
    size_t n;
    bool too_large;
};

void hf_meta_u32(struct hf_meta *m, const char *key, uint32_t value);
void hf_meta_f32(struct hf_meta *m, const char *key, float value);
void hf_meta_bool(struct hf_meta *m, const char *key, bool value);
void hf_meta_string(struct hf_meta *m, const char *key, struct span value);
/* An array: begin, then its elements one by one; ends with the next key. */
void hf_meta_array(struct hf_meta *m, const char *key, enum meta_type element_type);
void hf_meta_add_string(struct hf_meta *m, struct span value);
void hf_meta_add_i32(struct hf_meta *m, int32_t value);
/* Hands everything to the container. */
enum err hf_meta_finish(struct hf_meta *m, struct container *c, struct reason *why) MUST_USE;
void hf_meta_free(struct hf_meta *m);

/* ---- config.json ------------------------------------------------------------------------------------------------------- */

struct hf_config {
    uint64_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_experts, n_experts_used, n_ff, n_vocab;
    bool tied;             /* tie_word_embeddings */
    bool exl3;             /* quantization_config names it */
    int64_t bos, eos, pad; /* -1: not given */
};

/* Reads and judges config.json and adds the keys of the model. */
enum err hf_config_read(const char *path, struct hf_config *out, struct hf_meta *meta, struct reason *why) MUST_USE;

/* ---- tensors ----------------------------------------------------------------------------------------------------------- */

/* What files hold of one matrix or vector P. */
enum hf_part {
    PART_WEIGHT,
    PART_TRELLIS,
    PART_SUH,
    PART_SVH,
    PART_SU,
    PART_SV,
    PART_MCG,
    PART_MUL1,
    PART_BIAS,
    PART_SCALE,
    PART_COUNT
};

struct hf_linear {
    uint32_t parts[PART_COUNT]; /* 1 + index into the table; 0: none */
};

static inline const struct st_tensor *hf_part(const struct st_table *t, const struct hf_linear *l, enum hf_part part) {
    return l->parts[part] ? &t->tensors[l->parts[part] - 1] : NULL;
}

/* Fills files, tensors and slices of the container; the table's files move there. */
enum err hf_tensors_bind(struct st_table *t, const struct hf_config *config, struct container *c, struct reason *why) MUST_USE;

/* ---- EXL3 -------------------------------------------------------------------------------------------------------------- */

struct exl3_kind {
    unsigned bits; /* K: 1 to 8 */
    enum exl3_codebook codebook;
};

bool exl3_is(const struct hf_linear *l);
unsigned exl3_bits(const struct st_tensor *trellis); /* K; of a checked one */
/* Shapes, types and markers of a linear of `in` inputs and `out` outputs; what cannot be run is refused. */
enum err exl3_check(const struct st_table *t, const struct hf_linear *l, uint64_t in, uint64_t out, struct exl3_kind *kind,
                    struct reason *why) MUST_USE;
/* The values of all markers of `linears`: old writers could store a multiplier of their own. Reads 4 bytes for each. */
enum err exl3_check_markers(const struct st_table *t, const struct hf_linear *linears, size_t n, struct reason *why) MUST_USE;

/* ---- tokenizer --------------------------------------------------------------------------------------------------------- */

/* Adds the tokenizer's keys and the chat template, from whatever of tokenizer.json, tokenizer_config.json,
 * generation_config.json and chat_template.jinja exists in `folder`. `config` gives ids and rows; NULL: there is no
 * config.json. */
enum err hf_tokenizer_read(const char *folder, const struct hf_config *config, struct hf_meta *meta,
                           struct reason *why) MUST_USE;

/* ---- the directory ----------------------------------------------------------------------------------------------------- */

char *hf_join(const char *folder, const char *name); /* NULL: no memory */
/* Reads the directory `path`. On failure `c` is still to be closed. */
enum err hf_read(const char *path, struct container *c, struct reason *why) MUST_USE;

#endif
