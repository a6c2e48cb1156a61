/* Builds GGUF files byte by byte for tests, right or wrong: a list of keys and tensors that a test edits at will before the
 * bytes are made. Knows nothing of the reader under test. Failures (no memory, too many items) are test assertions. */
#ifndef COLDSTREAM_TESTS_GGUF_RAW_H
#define COLDSTREAM_TESTS_GGUF_RAW_H

#include "core/core.h"

enum { RAW_KEYS = 64, RAW_TENSORS = 2048, RAW_DIMS = 8 };
#define RAW_AUTO 0xa070a070a070a070u /* a count or length that is to be the true one */

struct raw_key {
    struct text name, payload; /* payload: what follows the value type */
    uint64_t name_len;         /* RAW_AUTO, or the length to claim */
    uint32_t type;
    uint64_t at, payload_at; /* set by raw_build(): positions in the file */
};

struct raw_tensor {
    struct text name;
    uint64_t name_len;
    uint32_t n_dims;
    uint64_t ne[RAW_DIMS];
    uint32_t type;   /* GGUF id */
    uint64_t offset; /* set by raw_add(), raw_place() */
    uint64_t at;     /* set by raw_build() */
};

struct raw_gguf { /* large: keep it static */
    char magic[4];
    uint32_t version;
    uint64_t n_tensors_claimed, n_keys_claimed; /* RAW_AUTO */
    uint64_t alignment;                         /* used for placing; the key is separate */
    uint64_t data_bytes;                        /* what raw_add() placed so far */
    struct raw_key keys[RAW_KEYS];
    size_t n_keys;
    struct raw_tensor tensors[RAW_TENSORS];
    size_t n_tensors;
    uint64_t data_at; /* set by raw_build() */
};

/* A valid qwen3moe model of 3 KiB: E 8, 2 heads of 4, 1 kv head, 2 experts of 4, 1 used, 8 tokens, 1 layer, F16. */
void raw_tiny(struct raw_gguf *g);
void raw_free(struct raw_gguf *g);
void raw_build(struct raw_gguf *g, struct text *out);           /* appends the file's bytes; data is a repeating pattern */
void raw_build_directory(struct raw_gguf *g, struct text *out); /* the same without the data */

/* Keys: setting replaces the value of a key that exists and appends one that does not. */
struct raw_key *raw_key_find(struct raw_gguf *g, const char *name);
struct raw_key *raw_key_add(struct raw_gguf *g, const char *name, uint32_t type); /* appends even a duplicate; empty payload */
void raw_drop_key(struct raw_gguf *g, const char *name);
void raw_set(struct raw_gguf *g, const char *name, uint32_t type, const void *payload, size_t bytes);
void raw_set_u32(struct raw_gguf *g, const char *name, uint32_t value);
void raw_set_u64(struct raw_gguf *g, const char *name, uint64_t value);
void raw_set_i32(struct raw_gguf *g, const char *name, int32_t value);
void raw_set_u16(struct raw_gguf *g, const char *name, uint16_t value);
void raw_set_f32(struct raw_gguf *g, const char *name, float value);
void raw_set_bool(struct raw_gguf *g, const char *name, uint8_t value);
void raw_set_string(struct raw_gguf *g, const char *name, const char *value);
void raw_set_array(struct raw_gguf *g, const char *name, uint32_t element_type, uint64_t count, const void *payload,
                   size_t bytes);
void raw_set_strings(struct raw_gguf *g, const char *name, const char *const *strings, size_t n);
void raw_set_i32s(struct raw_gguf *g, const char *name, const int32_t *values, size_t n);

/* Tensors. */
struct raw_tensor *raw_find(struct raw_gguf *g, const char *name);
struct raw_tensor *raw_add(struct raw_gguf *g, const char *name, uint32_t type, uint64_t a, uint64_t b, uint64_t x);
void raw_drop(struct raw_gguf *g, const char *name);
void raw_place(struct raw_gguf *g); /* offsets anew, in order, after extents were edited */

void raw_u32(struct text *out, uint32_t value);
void raw_u64(struct text *out, uint64_t value);
void raw_string(struct text *out, const char *value);
void raw_write(const char *path, struct text bytes); /* replaces the file */
/* The same, then the file is made `bytes_total` long without writing. False: the file system refuses such a length. */
bool raw_write_sparse(const char *path, struct text bytes, uint64_t bytes_total);

#endif
