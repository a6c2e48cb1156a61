/* Private to runtime/model: what a container reader (gguf.c, hf.c) fills, and the tools they share.
 *
 * A reader opens the files, keeps their metadata bytes in own memory, and lists keys and tensors with absolute offsets.
 * What is true of any container (names, sizes, ranges, overlap) is checked by directory_check(); what is true of a model
 * (shape, binding, vocabulary) by model.c and vocab.c. All messages read "<file>: <item> at byte <n>: <problem>". */
#ifndef COLDSTREAM_MODEL_CONTAINER_H
#define COLDSTREAM_MODEL_CONTAINER_H

#include "model/model.h"

/* Far above any real file, low enough that a hostile one costs neither memory nor time. Qwen3 needs 6 MiB, 40 keys, 1200
 * tensors and at most a dozen files. */
enum {
    MAX_METADATA_BYTES = 48 << 20, /* of all files of a model together */
    MAX_STRING_BYTES = 16 << 20,
    MAX_KEY_BYTES = 65535,
    MAX_TENSOR_NAME_BYTES = 63,
    MAX_KEYS = 1 << 16,
    MAX_TENSORS = 1 << 18,
    MAX_FILES = 512,
    MAX_ALIGNMENT = 1 << 16,
};

enum meta_type {
    META_U8,
    META_I8,
    META_U16,
    META_I16,
    META_U32,
    META_I32,
    META_F32,
    META_BOOL,
    META_STRING,
    META_ARRAY,
    META_U64,
    META_I64,
    META_F64,
    META_TYPE_COUNT
};

#define META_MADE UINT64_MAX

struct meta_table {
    struct model_meta *entries;       /* [n], in file order */
    uint64_t *at;                     /* [n] position of the record in file 0, for messages; META_MADE: in none */
    const struct model_meta **by_key; /* [n] sorted by key */
    size_t n;
};

struct container {
    char *label;              /* what messages call the whole; NULL: the first file */
    struct model_file *files; /* [n_files] */
    void **regions;           /* [n_files] metadata bytes; keys, names and values point into them */
    char *made_meta, *made_names; /* the same where a reader makes them up */
    struct model_slice *slices;   /* of all tensors that have some */
    size_t n_files;
    enum model_container kind;
    struct model_tensor *tensors;        /* [n_tensors], file after file */
    uint64_t *tensor_at;                 /* [n_tensors] position of the record in its file */
    const struct model_tensor **by_name; /* [n_tensors] sorted, set by directory_check() */
    size_t n_tensors;
    struct meta_table meta;
    uint32_t version;
    uint64_t weight_bytes, n_parameters; /* set by directory_check() */
};

/* Reads the directory and metadata of a GGUF file or split. On failure `c` is still to be closed. */
enum err gguf_read(const char *path, struct container *c, struct reason *why) MUST_USE;
void container_close(struct container *c);

/* ---- files ---------------------------------------------------------------------------------------------------- */

/* Regular files only; fifos, devices, directories and kernel files are refused without being read. */
enum err file_open(const char *path, struct model_file *out, struct reason *why) MUST_USE;
void file_close(struct model_file *file);
enum err file_read(const struct model_file *file, void *to, uint64_t bytes, uint64_t offset, struct reason *why) MUST_USE;
const char *path_label(const char *path); /* the path, or its last part when it would fill a message */
const char *container_label(const struct container *c);

/* ---- names ---------------------------------------------------------------------------------------------------- */

const char *name_problem(struct span name, size_t max_bytes); /* NULL: usable; else what is wrong with it */

/* A name from a file made fit for a message: short, printable ASCII. Lives until the end of the full expression. */
struct quoted {
    char text[80];
};
struct quoted quote(struct span name);

/* Order for the sorted indexes: bytes, then length. Sorting instead of hashing: no input makes it quadratic. */
int span_compare(struct span a, struct span b);

/* ---- directory ------------------------------------------------------------------------------------------------ */

/* Sizes every tensor (row_bytes, bytes), checks ranges, duplicates and overlap, fills by_name and the totals. */
enum err directory_check(struct container *c, struct reason *why) MUST_USE;
const struct model_tensor *directory_find(const struct container *c, struct span name);
enum err tensor_fail(const struct container *c, const struct model_tensor *t, struct reason *why, enum err code,
                     const char *format, ...) PRINTF_LIKE(5, 6);

/* ---- typed metadata ------------------------------------------------------------------------------------------- */

enum err meta_index(struct meta_table *table, const char *label, struct reason *why) MUST_USE; /* fills by_key */
void meta_close(struct meta_table *table);
const struct model_meta *meta_find(const struct meta_table *table, struct span key);
enum err key_fail(const struct container *c, const char *key, struct reason *why, enum err code, const char *format, ...)
    PRINTF_LIKE(5, 6);

struct uint_rule {
    uint64_t min, max;
    bool required;
    uint64_t layers; /* not 0: may also be an array with one value a layer, all of which must be equal */
};

/* Absent optional keys leave *value alone. Integers are taken in any integer type, numbers in any numeric one. */
enum err meta_uint(const struct container *c, const char *key, struct uint_rule rule, uint64_t *value,
                   struct reason *why) MUST_USE;
enum err meta_float(const struct container *c, const char *key, bool required, float *value, struct reason *why) MUST_USE;
enum err meta_bool(const struct container *c, const char *key, bool *value, struct reason *why) MUST_USE;
enum err meta_string(const struct container *c, const char *key, struct span *value, struct reason *why) MUST_USE;
/* An array of `element_type`; *entry is NULL when absent. META_I32 stands for any integer type. */
enum err meta_array(const struct container *c, const char *key, enum meta_type element_type, const struct model_meta **entry,
                    struct reason *why) MUST_USE;
bool meta_is_integer(uint32_t type);
size_t meta_scalar_bytes(uint32_t type); /* 0 for strings and arrays */
/* Element `index` of an array (or the scalar, index 0) of an integer type; false: negative. */
bool meta_element_uint(const struct model_meta *entry, uint64_t index, uint64_t *value);

static inline uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t load_u32(const uint8_t *p) { return load_u16(p) | (uint32_t)load_u16(p + 2) << 16; }
static inline uint64_t load_u64(const uint8_t *p) { return load_u32(p) | (uint64_t)load_u32(p + 4) << 32; }

/* ---- vocabulary ------------------------------------------------------------------------------------------------ */

struct vocab_arrays {
    struct span *tokens, *merges;
    int32_t *types;
};

enum { MAX_TOKENS = 1 << 21, MAX_MERGES = 1 << 21 };

/* Tokenizer arrays with spans into the container's regions; n_tokens 0 when the file has none. Token texts and merges are
 * judged by the tokenizer, not here. */
enum err vocab_read(const struct container *c, struct vocab_arrays *own, struct model_vocab *out, struct reason *why) MUST_USE;
void vocab_close(struct vocab_arrays *own);

#endif
