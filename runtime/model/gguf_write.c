/* The GGUF v3 writer: collects records as bytes, then streams tensor data through one buffer. Little-endian machines only.
 * Never reads; what a reader would refuse (names, extents, duplicates) is refused here first. */
#include "model/gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/container.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are copied from memory as they are");

enum { ALIGNMENT = 32, BUFFER_BYTES = 4 << 20, VERSION = 3 };

struct place { /* of a name in its text */
    size_t at, len;
};

struct entry {
    struct place name;
    uint64_t bytes, offset; /* of its data; offset from the start of the data section */
};

enum stage { COLLECTING, WRITING, FINISHED };

struct gguf_writer {
    char *path, *part;
    int fd;
    enum stage stage;
    struct text meta, infos; /* finished records */
    struct text keys;        /* struct place[], into meta */
    struct text entries;     /* struct entry[], names into infos */
    uint64_t n_keys, n_tensors;
    uint64_t data_bytes; /* of the tensors listed so far, padded */
    uint64_t file_bytes;
    enum err error; /* of a setter, with its reason */
    struct reason error_why;
    uint8_t *buffer;
    uint64_t buffered, written; /* the file's position is their sum */
    size_t current;             /* tensor whose data comes next */
    uint64_t current_written;
};

static const struct entry *entry_of(const struct gguf_writer *w, size_t i) { return (const struct entry *)w->entries.ptr + i; }
static struct span entry_name(const struct gguf_writer *w, size_t i) {
    return (struct span){w->infos.ptr + entry_of(w, i)->name.at, entry_of(w, i)->name.len};
}

/* A rename would replace a device or a pipe by a file. */
static enum err check_target(const char *path, struct reason *why) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return fail(why, ERR_ARGUMENT, "%s: exists and is not a regular file", path_label(path));
    return ERR_NONE;
}

enum err gguf_write_open(const char *path, struct gguf_writer **out, struct reason *why) {
    *out = NULL;
    TRY(check_target(path, why));
    struct gguf_writer *w = calloc(1, sizeof *w);
    if (!w) return fail(why, ERR_NO_MEMORY, "%s: no memory for a writer", path_label(path));
    w->fd = -1;
    w->path = strdup(path);
    w->buffer = malloc(BUFFER_BYTES);
    if (!w->path || !w->buffer || asprintf(&w->part, "%s.part", path) < 0) {
        w->part = NULL;
        gguf_write_close(&w);
        return fail(why, ERR_NO_MEMORY, "%s: no memory for a writer", path_label(path));
    }
    w->fd = open(w->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        const int error = errno;
        free(w->part);
        w->part = NULL;
        gguf_write_close(&w);
        return fail(why, ERR_IO, "%s: cannot be created: %s", path_label(path), strerror(error));
    }
    *out = w;
    return ERR_NONE;
}

void gguf_write_close(struct gguf_writer **writer) {
    struct gguf_writer *w = *writer;
    *writer = NULL;
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    if (w->part && w->stage != FINISHED) unlink(w->part);
    free(w->path);
    free(w->part);
    free(w->buffer);
    text_free(&w->meta);
    text_free(&w->infos);
    text_free(&w->keys);
    text_free(&w->entries);
    free(w);
}

/* ---- records ------------------------------------------------------------------------------------------------------------- */

static void reject(struct gguf_writer *w, struct span name, const char *problem) {
    if (w->error == ERR_NONE)
        w->error =
            fail(&w->error_why, ERR_ARGUMENT, "%s: '%s' cannot be written: %s", path_label(w->path), quote(name).text, problem);
}

static struct place add_string(struct text *t, struct span s) {
    const uint64_t len = s.len;
    text_add(t, &len, sizeof len);
    const struct place place = {t->len, s.len};
    text_add_span(t, s);
    return place;
}

static void add_u32(struct text *t, uint32_t value) { text_add(t, &value, sizeof value); }

/* The key and the type; the caller appends the value to w->meta. */
static void begin_record(struct gguf_writer *w, struct span key, uint32_t type) {
    const char *problem = name_problem(key, MAX_KEY_BYTES);
    if (w->stage != COLLECTING) problem = "the header is already written";
    if (problem) reject(w, key, problem);
    const struct place place = add_string(&w->meta, key);
    text_add(&w->keys, &place, sizeof place);
    add_u32(&w->meta, type);
    w->n_keys++;
}

static void write_scalar(struct gguf_writer *w, const char *key, uint32_t type, const void *value, size_t size) {
    begin_record(w, span_of(key), type);
    text_add(&w->meta, value, size);
}

void gguf_write_u16(struct gguf_writer *w, const char *key, uint16_t value) {
    write_scalar(w, key, META_U16, &value, sizeof value);
}
void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t value) {
    write_scalar(w, key, META_U32, &value, sizeof value);
}
void gguf_write_i32(struct gguf_writer *w, const char *key, int32_t value) {
    write_scalar(w, key, META_I32, &value, sizeof value);
}
void gguf_write_u64(struct gguf_writer *w, const char *key, uint64_t value) {
    write_scalar(w, key, META_U64, &value, sizeof value);
}
void gguf_write_f32(struct gguf_writer *w, const char *key, float value) {
    write_scalar(w, key, META_F32, &value, sizeof value);
}
void gguf_write_bool(struct gguf_writer *w, const char *key, bool value) {
    write_scalar(w, key, META_BOOL, &(uint8_t){value}, 1);
}
void gguf_write_string(struct gguf_writer *w, const char *key, struct span value) {
    begin_record(w, span_of(key), META_STRING);
    add_string(&w->meta, value);
}

static void begin_array(struct gguf_writer *w, struct span key, uint32_t element_type, uint64_t n) {
    begin_record(w, key, META_ARRAY);
    add_u32(&w->meta, element_type);
    text_add(&w->meta, &n, sizeof n);
}

void gguf_write_strings(struct gguf_writer *w, const char *key, const struct span *values, size_t n) {
    begin_array(w, span_of(key), META_STRING, n);
    for (size_t i = 0; i < n; i++) add_string(&w->meta, values[i]);
}

void gguf_write_i32s(struct gguf_writer *w, const char *key, const int32_t *values, size_t n) {
    begin_array(w, span_of(key), META_I32, n);
    text_add(&w->meta, values, n * sizeof *values);
}

void gguf_write_meta(struct gguf_writer *w, const struct model_meta *entry) {
    if (entry->type == META_ARRAY) {
        begin_array(w, entry->key, entry->element_type, entry->count);
        text_add_span(&w->meta, entry->bytes);
        return;
    }
    begin_record(w, entry->key, entry->type);
    if (entry->type == META_STRING)
        add_string(&w->meta, entry->bytes);
    else
        text_add_span(&w->meta, entry->bytes);
}

static bool tensor_size(enum tensor_type type, uint32_t n_dims, const uint64_t *ne, uint64_t *bytes) {
    if (!tensor_row_bytes(type, ne[0], bytes)) return false;
    for (uint32_t d = 1; d < n_dims; d++)
        if (ne[d] == 0 || !size_mul(*bytes, ne[d], bytes)) return false;
    return *bytes <= INT64_MAX - ALIGNMENT;
}

void gguf_write_tensor(struct gguf_writer *w, struct span name, enum tensor_type type, uint32_t n_dims, const uint64_t *ne) {
    struct entry e = {.offset = w->data_bytes};
    const char *problem = name_problem(name, MAX_TENSOR_NAME_BYTES);
    if (!problem && w->stage != COLLECTING) problem = "the header is already written";
    if (!problem && (n_dims < 1 || n_dims > TENSOR_DIMS)) problem = "tensors have 1 to 4 dimensions";
    if (!problem && !tensor_size(type, n_dims, ne, &e.bytes))
        problem = "its extents are no whole blocks of its type, or too large";
    if (!problem && !size_add(w->data_bytes, round_up(e.bytes, ALIGNMENT), &w->data_bytes))
        problem = "the file would be too large";
    if (problem) {
        reject(w, name, problem);
        return;
    }
    e.name = add_string(&w->infos, name);
    add_u32(&w->infos, n_dims);
    text_add(&w->infos, ne, n_dims * sizeof *ne);
    add_u32(&w->infos, tensor_type_info(type)->gguf_id);
    text_add(&w->infos, &e.offset, sizeof e.offset);
    text_add(&w->entries, &e, sizeof e);
    w->n_tensors++;
}

/* ---- bytes --------------------------------------------------------------------------------------------------------------- */

static enum err write_all(struct gguf_writer *w, const uint8_t *bytes, uint64_t size, struct reason *why) {
    while (size) {
        const ssize_t n = write(w->fd, bytes, size < 1 << 30 ? size : 1 << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return fail(why, ERR_IO, "%s: writing at byte %llu failed: %s", path_label(w->part), (unsigned long long)w->written,
                        strerror(errno));
        bytes += n;
        size -= (uint64_t)n;
        w->written += (uint64_t)n;
    }
    return ERR_NONE;
}

static enum err flush(struct gguf_writer *w, struct reason *why) {
    TRY(write_all(w, w->buffer, w->buffered, why));
    w->buffered = 0;
    return ERR_NONE;
}

static enum err put(struct gguf_writer *w, const void *bytes, uint64_t size, struct reason *why) {
    if (size > BUFFER_BYTES - w->buffered) TRY(flush(w, why));
    if (size >= BUFFER_BYTES) return write_all(w, bytes, size, why);
    if (size) memcpy(w->buffer + w->buffered, bytes, size);
    w->buffered += size;
    return ERR_NONE;
}

static enum err pad(struct gguf_writer *w, struct reason *why) {
    static const uint8_t zeros[ALIGNMENT];
    const uint64_t at = w->written + w->buffered;
    return put(w, zeros, round_up(at, ALIGNMENT) - at, why);
}

static int compare_spans(const void *a, const void *b) {
    return span_compare(*(const struct span *)a, *(const struct span *)b);
}

/* Names start at `base`; the i-th struct place lies at places + i * step. */
static enum err check_unique(struct gguf_writer *w, const char *base, const char *places, size_t step, uint64_t n,
                             struct reason *why) {
    struct span *names = calloc_checked(n ? n : 1, sizeof *names);
    if (!names) return fail(why, ERR_NO_MEMORY, "%s: no memory for its names", path_label(w->path));
    for (uint64_t i = 0; i < n; i++) {
        const struct place *place = (const struct place *)(places + i * step);
        names[i] = (struct span){base + place->at, place->len};
    }
    qsort(names, n, sizeof *names, compare_spans);
    enum err result = ERR_NONE;
    for (uint64_t i = 1; i < n && result == ERR_NONE; i++)
        if (span_equal(names[i - 1], names[i]))
            result = fail(why, ERR_ARGUMENT, "%s: '%s' was given twice", path_label(w->path), quote(names[i]).text);
    free(names);
    return result;
}

/* Early, and in one extent where possible. A file system that cannot reserve finds out while writing. */
static enum err reserve_space(struct gguf_writer *w, struct reason *why) {
    while (fallocate(w->fd, 0, 0, (off_t)w->file_bytes) < 0) {
        if (errno == EINTR) continue;
        if (errno != ENOSPC && errno != EFBIG && errno != EDQUOT) return ERR_NONE;
        return fail(why, ERR_IO, "%s: no room for its %llu bytes: %s", path_label(w->path), (unsigned long long)w->file_bytes,
                    strerror(errno));
    }
    return ERR_NONE;
}

enum err gguf_write_begin(struct gguf_writer *w, struct reason *why) {
    const uint32_t version = VERSION;
    if (w->stage != COLLECTING) return fail(why, ERR_ARGUMENT, "%s: the header is already written", path_label(w->path));
    if (w->error != ERR_NONE) {
        if (why) *why = w->error_why;
        return w->error;
    }
    if (w->meta.failed || w->infos.failed || w->keys.failed || w->entries.failed)
        return fail(why, ERR_NO_MEMORY, "%s: no memory for its metadata", path_label(w->path));
    TRY(check_unique(w, w->meta.ptr, w->keys.ptr, sizeof(struct place), w->n_keys, why));
    TRY(check_unique(w, w->infos.ptr, w->entries.ptr, sizeof(struct entry), w->n_tensors, why));
    const uint64_t header = 4 + sizeof version + 2 * sizeof(uint64_t) + w->meta.len + w->infos.len;
    if (!size_add(round_up(header, ALIGNMENT), w->data_bytes, &w->file_bytes) || w->file_bytes > INT64_MAX)
        return fail(why, ERR_ARGUMENT, "%s: the file would be too large", path_label(w->path));
    TRY(reserve_space(w, why));
    TRY(put(w, "GGUF", 4, why));
    TRY(put(w, &version, sizeof version, why));
    TRY(put(w, &w->n_tensors, sizeof w->n_tensors, why));
    TRY(put(w, &w->n_keys, sizeof w->n_keys, why));
    TRY(put(w, w->meta.ptr, w->meta.len, why));
    TRY(put(w, w->infos.ptr, w->infos.len, why));
    TRY(pad(w, why));
    w->stage = WRITING;
    return ERR_NONE;
}

uint64_t gguf_write_file_bytes(const struct gguf_writer *w) { return w->file_bytes; }
uint64_t gguf_write_tensor_bytes(const struct gguf_writer *w, size_t tensor) { return entry_of(w, tensor)->bytes; }

enum err gguf_write_data(struct gguf_writer *w, const void *bytes, uint64_t size, struct reason *why) {
    if (w->stage != WRITING) return fail(why, ERR_ARGUMENT, "%s: not ready for tensor data", path_label(w->path));
    if (size == 0) return ERR_NONE;
    if (w->current == w->n_tensors)
        return fail(why, ERR_ARGUMENT, "%s: %llu bytes after the last tensor", path_label(w->path), (unsigned long long)size);
    const struct entry *e = entry_of(w, w->current);
    if (size > e->bytes - w->current_written)
        return fail(why, ERR_ARGUMENT, "%s: tensor '%s' has %llu bytes, got %llu more", path_label(w->path),
                    quote(entry_name(w, w->current)).text, (unsigned long long)e->bytes,
                    (unsigned long long)(size - (e->bytes - w->current_written)));
    TRY(put(w, bytes, size, why));
    w->current_written += size;
    if (w->current_written < e->bytes) return ERR_NONE;
    w->current++;
    w->current_written = 0;
    return pad(w, why);
}

enum err gguf_write_finish(struct gguf_writer *w, struct reason *why) {
    if (w->stage != WRITING) return fail(why, ERR_ARGUMENT, "%s: nothing to finish", path_label(w->path));
    if (w->current < w->n_tensors)
        return fail(why, ERR_ARGUMENT, "%s: tensor '%s' got %llu of its %llu bytes", path_label(w->path),
                    quote(entry_name(w, w->current)).text, (unsigned long long)w->current_written,
                    (unsigned long long)entry_of(w, w->current)->bytes);
    TRY(flush(w, why));
    const int fd = w->fd;
    w->fd = -1;
    if (close(fd) < 0 || rename(w->part, w->path) < 0)
        return fail(why, ERR_IO, "%s: cannot be completed: %s", path_label(w->path), strerror(errno));
    w->stage = FINISHED;
    return ERR_NONE;
}
