/* Files of importance matrices: the GGUF form and the older .dat form, read and written.
 *
 *   GGUF  general.type "imatrix"; per weight two F32 tensors: "<weight>.in_sum2" [columns, matrices] and "<weight>.counts"
 *         [1, matrices]; imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size
 *   .dat  i32 entries; each: i32 length, name, i32 calls, i32 values, float values[] = mean square * calls;
 *         then, in newer ones, i32 chunks, i32 length, name of the text */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/container.h"
#include "model/gguf_write.h"
#include "model/imatrix.h"

#define MOST_BYTES ((uint64_t)4 << 30) /* of a file; the largest known model needs 0.6 GiB */
enum { MOST_ROWS_BITS = 53, MOST_NAME_BYTES = 255, MOST_DATASETS = 1000 };

/* Sums and counts are to be numbers, and none negative. */
static const char *values_problem(const float *values, uint64_t n, uint64_t *at) {
    for (*at = 0; *at < n; ++*at) {
        const float x = values[*at];
        if (isnan(x)) return "is not a number";
        if (isinf(x)) return "is infinite";
        if (x < 0) return "is negative";
    }
    return NULL;
}

/* ---- GGUF --------------------------------------------------------------------------------------------------------------- */

/* All values of an F32 tensor, checked. *out to be freed. */
static enum err read_values(const struct container *c, const struct model_tensor *t, float **out, struct reason *why) {
    *out = NULL;
    if (t->type != TYPE_F32)
        return tensor_fail(c, t, why, ERR_FORMAT, "is of type %s; sums are F32", tensor_type_info(t->type)->name);
    float *values = malloc(t->bytes);
    if (!values) return tensor_fail(c, t, why, ERR_NO_MEMORY, "no memory for its %" PRIu64 " bytes", t->bytes);
    uint64_t at;
    enum err code = file_read(&c->files[t->file], values, t->bytes, t->offset, why);
    const char *problem = code ? NULL : values_problem(values, t->bytes / sizeof *values, &at);
    if (problem) code = tensor_fail(c, t, why, ERR_FORMAT, "value %" PRIu64 " %s", at, problem);
    if (code)
        free(values);
    else
        *out = values;
    return code;
}

static enum err read_entry(const struct container *c, const struct model_tensor *sums, const char *name, struct imatrix *m,
                           struct reason *why) {
    struct text counts_name = {0};
    text_addf(&counts_name, "%s.counts", name);
    const struct model_tensor *counts =
        counts_name.failed ? NULL : directory_find(c, (struct span){counts_name.ptr, counts_name.len});
    text_free(&counts_name);
    const uint64_t matrices = sums->ne[1] * sums->ne[2] * sums->ne[3]; /* no overflow: the directory was checked */
    if (!counts) return tensor_fail(c, sums, why, ERR_FORMAT, "there is no '%s.counts' to it", quote(span_of(name)).text);
    if (counts->ne[0] * counts->ne[1] * counts->ne[2] * counts->ne[3] != matrices)
        return tensor_fail(c, counts, why, ERR_FORMAT, "does not have one count for each of %" PRIu64 " matrices", matrices);
    if (imatrix_find(m, span_of(name)))
        return tensor_fail(c, sums, why, ERR_FORMAT, "a second tensor of sums for the same weight");
    struct imatrix_entry *e;
    TRY(imatrix_add(m, name, sums->ne[0], matrices, &e, why));
    free(e->sums);
    e->sums = NULL;
    TRY(read_values(c, sums, &e->sums, why));
    float *rows;
    TRY(read_values(c, counts, &rows, why));
    for (uint64_t i = 0; i < matrices; i++) e->rows[i] = fmin((double)rows[i], ldexp(1, MOST_ROWS_BITS));
    free(rows);
    return ERR_NONE;
}

static bool ends_in(struct span name, struct span suffix) {
    return name.len > suffix.len && memcmp(name.ptr + name.len - suffix.len, suffix.ptr, suffix.len) == 0;
}

static enum err read_entries(const struct container *c, struct imatrix *m, struct reason *why) {
    static const struct span suffixes[] = {{".in_sum2", 8}, {".sums", 5}};
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct span name = c->tensors[i].name;
        for (size_t s = 0; s < sizeof suffixes / sizeof *suffixes; s++) {
            if (!ends_in(name, suffixes[s])) continue;
            char weight[MAX_TENSOR_NAME_BYTES + 1];
            snprintf(weight, sizeof weight, "%.*s", (int)(name.len - suffixes[s].len), name.ptr);
            TRY(read_entry(c, &c->tensors[i], weight, m, why));
        }
    }
    return m->n ? ERR_NONE : fail(why, ERR_FORMAT, "%s: holds no sums ('<weight>.in_sum2')", path_label(c->files[0].path));
}

static enum err read_datasets(const struct container *c, struct imatrix *m, struct reason *why) {
    const struct model_meta *entry;
    TRY(meta_array(c, "imatrix.datasets", META_STRING, &entry, why));
    const uint8_t *p = entry ? (const uint8_t *)entry->bytes.ptr : NULL;
    for (uint64_t i = 0; entry && i < entry->count && i < MOST_DATASETS; i++) {
        const uint64_t len = load_u64(p);
        char name[4 * MOST_NAME_BYTES];
        snprintf(name, sizeof name, "%.*s", (int)(len < sizeof name ? len : sizeof name - 1), (const char *)p + 8);
        TRY(imatrix_add_dataset(m, name, why));
        p += 8 + len;
    }
    return ERR_NONE;
}

static enum err read_container(const char *path, struct container *c, struct imatrix *m, struct reason *why) {
    TRY(gguf_read(path, c, why));
    struct span type = {0};
    TRY(meta_string(c, "general.type", &type, why));
    if (!span_equal(type, SPAN("imatrix")))
        return fail(why, ERR_FORMAT, "%s: general.type is '%s', not 'imatrix': this is no importance matrix", path_label(path),
                    quote(type).text);
    TRY(directory_check(c, why));
    if (c->weight_bytes > MOST_BYTES)
        return fail(why, ERR_LIMIT, "%s: %" PRIu64 " bytes of sums; no known model needs that many", path_label(path),
                    c->weight_bytes);
    uint64_t chunks = 0, tokens = 0;
    const struct uint_rule any = {.max = UINT32_MAX};
    TRY(meta_uint(c, "imatrix.chunk_count", any, &chunks, why));
    TRY(meta_uint(c, "imatrix.chunk_size", any, &tokens, why));
    m->chunks = (uint32_t)chunks;
    m->chunk_tokens = (uint32_t)tokens;
    TRY(read_datasets(c, m, why));
    return read_entries(c, m, why);
}

/* ---- .dat --------------------------------------------------------------------------------------------------------------- */

struct cursor {
    const struct model_file *file;
    uint64_t pos;
    uint64_t entry; /* from 1; 0: none yet */
    struct reason *why;
};

static enum err cursor_fail(const struct cursor *c, uint64_t at, enum err code, const char *problem) {
    if (c->entry)
        return fail(c->why, code, "%s: entry %" PRIu64 " at byte %" PRIu64 ": %s", path_label(c->file->path), c->entry, at,
                    problem);
    return fail(c->why, code, "%s: at byte %" PRIu64 ": %s", path_label(c->file->path), at, problem);
}

static enum err take(struct cursor *c, void *to, uint64_t bytes) {
    if (bytes > c->file->bytes - c->pos) return cursor_fail(c, c->pos, ERR_FORMAT, "the file ends here");
    TRY(file_read(c->file, to, bytes, c->pos, c->why));
    c->pos += bytes;
    return ERR_NONE;
}

static enum err take_i32(struct cursor *c, int32_t *out) {
    uint8_t bytes[4];
    *out = 0;
    TRY(take(c, bytes, sizeof bytes));
    *out = (int32_t)load_u32(bytes);
    return ERR_NONE;
}

static enum err take_name(struct cursor *c, char name[MOST_NAME_BYTES + 1]) {
    const uint64_t at = c->pos;
    int32_t len;
    TRY(take_i32(c, &len));
    if (len < 1 || len > MOST_NAME_BYTES) return cursor_fail(c, at, ERR_FORMAT, "a name of less than 1 or more than 255 bytes");
    TRY(take(c, name, (uint64_t)len));
    name[len] = 0;
    const char *problem = name_problem((struct span){name, (size_t)len}, MOST_NAME_BYTES);
    if (!problem) return ERR_NONE;
    char message[80];
    snprintf(message, sizeof message, "its name %s", problem);
    return cursor_fail(c, at, ERR_FORMAT, message);
}

static enum err take_entry(struct cursor *c, struct imatrix *m) {
    const uint64_t at = c->pos;
    char name[MOST_NAME_BYTES + 1];
    int32_t calls, values;
    TRY(take_name(c, name));
    if (imatrix_find(m, span_of(name))) return cursor_fail(c, at, ERR_FORMAT, "a second entry of this name");
    TRY(take_i32(c, &calls));
    TRY(take_i32(c, &values));
    if (calls < 0) return cursor_fail(c, c->pos - 8, ERR_FORMAT, "the number of calls is negative");
    if (values < 1 || (uint64_t)values > (c->file->bytes - c->pos) / sizeof(float))
        return cursor_fail(c, c->pos - 4, ERR_FORMAT, "its number of values does not fit the file");
    struct imatrix_entry *e;
    TRY(imatrix_add(m, name, (uint64_t)values, 1, &e, c->why));
    e->rows_known = false;
    e->rows[0] = calls > 0 ? calls : 1;
    const uint64_t data = c->pos;
    TRY(take(c, e->sums, (uint64_t)values * sizeof(float)));
    uint64_t bad;
    const char *problem = values_problem(e->sums, (uint64_t)values, &bad);
    if (!problem) return ERR_NONE;
    char message[80];
    snprintf(message, sizeof message, "a value %s", problem);
    return cursor_fail(c, data + bad * sizeof(float), ERR_FORMAT, message);
}

/* What older files do not have. Its absence, whole or in part, is no error. */
static enum err take_trailer(struct cursor *c, struct imatrix *m) {
    int32_t chunks, len;
    char name[4 * MOST_NAME_BYTES];
    c->entry = 0;
    if (c->file->bytes - c->pos < 8) return ERR_NONE;
    TRY(take_i32(c, &chunks));
    TRY(take_i32(c, &len));
    m->chunks = chunks > 0 ? (uint32_t)chunks : 0;
    if (len < 1 || (uint64_t)len > c->file->bytes - c->pos || (size_t)len >= sizeof name) return ERR_NONE;
    TRY(take(c, name, (uint64_t)len));
    name[len] = 0;
    return imatrix_add_dataset(m, name, c->why);
}

static enum err read_dat(const struct model_file *file, struct imatrix *m, struct reason *why) {
    struct cursor c = {.file = file, .why = why};
    int32_t n;
    if (file->bytes == 0) return cursor_fail(&c, 0, ERR_FORMAT, "the file is empty");
    if (file->bytes > MOST_BYTES)
        return cursor_fail(&c, 0, ERR_LIMIT, "the file is larger than any known model's importance matrix");
    TRY(take_i32(&c, &n));
    if (n < 1 || (uint64_t)n > file->bytes / 17 || n > MAX_TENSORS) /* 17: the shortest entry */
        return cursor_fail(&c, 0, ERR_FORMAT,
                           "neither a GGUF file nor an importance matrix: the number of entries is impossible");
    for (c.entry = 1; c.entry <= (uint64_t)n; c.entry++) TRY(take_entry(&c, m));
    return take_trailer(&c, m);
}

enum err imatrix_read(const char *path, struct imatrix *out, struct reason *why) {
    *out = (struct imatrix){0};
    struct model_file file;
    struct container c = {0};
    uint8_t magic[4] = {0};
    TRY(file_open(path, &file, why));
    enum err code = file.bytes < sizeof magic ? ERR_NONE : file_read(&file, magic, sizeof magic, 0, why);
    if (!code && (memcmp(magic, "GGUF", 4) == 0 || memcmp(magic, "FUGG", 4) == 0))
        code = read_container(path, &c, out, why);
    else if (!code)
        code = read_dat(&file, out, why);
    container_close(&c);
    file_close(&file);
    if (code) imatrix_close(out);
    return code;
}

/* ---- writing --------------------------------------------------------------------------------------------------------------
 */

static void list_entry(struct gguf_writer *w, const struct imatrix_entry *e) {
    struct text name = {0};
    text_addf(&name, "%s.in_sum2", e->name);
    gguf_write_tensor(w, (struct span){name.ptr, name.len}, TYPE_F32, 2, (uint64_t[]){e->columns, e->matrices});
    text_clear(&name);
    text_addf(&name, "%s.counts", e->name);
    gguf_write_tensor(w, (struct span){name.ptr, name.len}, TYPE_F32, 2, (uint64_t[]){1, e->matrices});
    text_free(&name);
}

static enum err write_entry(struct gguf_writer *w, const struct imatrix_entry *e, struct reason *why) {
    TRY(gguf_write_data(w, e->sums, e->columns * e->matrices * sizeof *e->sums, why));
    for (uint64_t i = 0; i < e->matrices; i++) {
        const float rows = (float)e->rows[i];
        TRY(gguf_write_data(w, &rows, sizeof rows, why));
    }
    return ERR_NONE;
}

static enum err write_all(const struct imatrix *m, struct gguf_writer *w, struct reason *why) {
    struct span *names = calloc_checked(m->n_datasets + 1, sizeof *names);
    if (!names) return fail(why, ERR_NO_MEMORY, "no memory for the names of the texts");
    for (size_t i = 0; i < m->n_datasets; i++) names[i] = span_of(m->datasets[i]);
    gguf_write_string(w, "general.type", SPAN("imatrix"));
    gguf_write_strings(w, "imatrix.datasets", names, m->n_datasets);
    free(names);
    gguf_write_u32(w, "imatrix.chunk_count", m->chunks);
    gguf_write_u32(w, "imatrix.chunk_size", m->chunk_tokens);
    for (size_t i = 0; i < m->n; i++) list_entry(w, m->entries[i]);
    TRY(gguf_write_begin(w, why));
    for (size_t i = 0; i < m->n; i++) TRY(write_entry(w, m->entries[i], why));
    return gguf_write_finish(w, why);
}

enum err imatrix_write_gguf(const struct imatrix *m, const char *path, struct reason *why) {
    struct gguf_writer *w;
    TRY(gguf_write_open(path, &w, why));
    const enum err code = write_all(m, w, why);
    gguf_write_close(&w);
    return code;
}

static void put_i32(FILE *f, int32_t value) { fwrite(&value, sizeof value, 1, f); }

static void put_name(FILE *f, const char *name) {
    put_i32(f, (int32_t)strlen(name));
    fwrite(name, 1, strlen(name), f);
}

static void put_dat(const struct imatrix *m, FILE *f) {
    const int32_t calls = m->chunks ? (int32_t)(m->chunks & INT32_MAX) : 1;
    put_i32(f, (int32_t)m->n);
    for (size_t i = 0; i < m->n; i++) {
        const struct imatrix_entry *e = m->entries[i];
        put_name(f, e->name);
        put_i32(f, calls);
        put_i32(f, (int32_t)(e->columns * e->matrices));
        for (uint64_t x = 0; x < e->matrices; x++)
            for (uint64_t c = 0; c < e->columns; c++) {
                const double mean = e->rows[x] > 0 ? (double)e->sums[x * e->columns + c] / e->rows[x] : 1;
                fwrite(&(float){(float)(mean * calls)}, sizeof(float), 1, f);
            }
    }
    put_i32(f, (int32_t)(m->chunks & INT32_MAX));
    put_name(f, m->n_datasets ? m->datasets[m->n_datasets - 1] : "");
}

enum err imatrix_write_dat(const struct imatrix *m, const char *path, struct reason *why) {
    struct text part = {0};
    for (size_t i = 0; i < m->n; i++)
        if (m->entries[i]->columns * m->entries[i]->matrices > INT32_MAX)
            return fail(why, ERR_LIMIT, "%s: '%s' has more values than a .dat file can hold; write GGUF", path_label(path),
                        quote(span_of(m->entries[i]->name)).text);
    text_addf(&part, "%s.part", path);
    if (part.failed) return fail(why, ERR_NO_MEMORY, "%s: no memory for its name", path_label(path));
    FILE *f = fopen(part.ptr, "we");
    bool ok = f != NULL;
    if (f) {
        put_dat(m, f);
        ok = !ferror(f);
        ok = fclose(f) == 0 && ok;
    }
    if (ok) ok = rename(part.ptr, path) == 0;
    enum err code = ok ? ERR_NONE : fail(why, ERR_IO, "%s: cannot be written: %s", path_label(path), strerror(errno));
    if (!ok && f) unlink(part.ptr);
    text_free(&part);
    return code;
}
