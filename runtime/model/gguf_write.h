/* Writing a GGUF v3 file: metadata, then the tensor list, then the tensors' data in that order, streamed.
 *
 *     gguf_write_open -> gguf_write_u32(...) ... gguf_write_tensor(...) ... -> gguf_write_begin
 *                     -> gguf_write_data(...) ... -> gguf_write_finish -> gguf_write_close
 *
 * The bytes go to "<path>.part", which becomes <path> only in gguf_write_finish(): a reader never sees half a file, and
 * gguf_write_close() without finish removes it. Setters only collect; the first mistake (a duplicate, a bad extent, no memory)
 * is reported by gguf_write_begin(), later errors at once. One thread per writer. */
#ifndef COLDSTREAM_GGUF_WRITE_H
#define COLDSTREAM_GGUF_WRITE_H

#include "core/core.h"
#include "core/tensor.h"
#include "model/model.h"

struct gguf_writer;

enum err gguf_write_open(const char *path, struct gguf_writer **out, struct reason *why) MUST_USE;

/* Metadata, in call order. Each key once. */
void gguf_write_u16(struct gguf_writer *w, const char *key, uint16_t value);
void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_write_i32(struct gguf_writer *w, const char *key, int32_t value);
void gguf_write_u64(struct gguf_writer *w, const char *key, uint64_t value);
void gguf_write_f32(struct gguf_writer *w, const char *key, float value);
void gguf_write_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_write_string(struct gguf_writer *w, const char *key, struct span value);
void gguf_write_strings(struct gguf_writer *w, const char *key, const struct span *values, size_t n);
void gguf_write_i32s(struct gguf_writer *w, const char *key, const int32_t *values, size_t n);
void gguf_write_meta(struct gguf_writer *w, const struct model_meta *entry); /* a copy of what a reader found */

/* The next tensor of the list: n_dims extents, ne[0] contiguous. */
void gguf_write_tensor(struct gguf_writer *w, struct span name, enum tensor_type type, uint32_t n_dims, const uint64_t *ne);

/* Settles the layout, reserves the space where the file system can, and writes everything in front of the data. */
enum err gguf_write_begin(struct gguf_writer *w, struct reason *why) MUST_USE;
/* Valid after begin: the size of the finished file, and of one tensor's data. */
uint64_t gguf_write_file_bytes(const struct gguf_writer *w);
uint64_t gguf_write_tensor_bytes(const struct gguf_writer *w, size_t tensor);

/* The next bytes of the current tensor, in pieces of any size that do not cross its end; padding is added by itself. */
enum err gguf_write_data(struct gguf_writer *w, const void *bytes, uint64_t size, struct reason *why) MUST_USE;

/* Every tensor is complete: give the file its name. */
enum err gguf_write_finish(struct gguf_writer *w, struct reason *why) MUST_USE;
void gguf_write_close(struct gguf_writer **w); /* NULL allowed */

#endif
