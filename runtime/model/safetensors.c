/* safetensors: headers of untrusted files -> one table of names, types, shapes and data ranges.
 *
 *     u64 length  one JSON object {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}  data
 *
 * Offsets count from the end of the header, which nothing aligns: data may begin at any byte. The header is scanned, not held,
 * so that its size costs time only; names go into one block. Order is as found; sorting afterwards finds what is listed twice.
 * Never reads data, and knows nothing about models. */
#include "model/hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_HEADER_BYTES = 100000000, /* the reference reader's limit */
    MAX_NAMES_BYTES = 32 << 20,
    MAX_NAME_BYTES = 255,
    MAX_TEXT_BYTES = 64 << 10, /* of a value in __metadata__ */
    MAX_RANK = 16,
};

static const struct {
    const char *name;
    uint8_t bits;
} dtypes[ST_DTYPE_COUNT] = {
#define X(name, bits) {#name, bits},
    ST_DTYPES(X)
#undef X
};

const char *st_dtype_name(enum st_dtype type) { return dtypes[type].name; }

struct span st_name(const struct st_table *t, const struct st_tensor *one) {
    return (struct span){t->names.ptr + one->name_at, one->name_len};
}

enum err st_fail(const struct st_table *t, const struct st_tensor *one, struct reason *why, enum err code, const char *format,
                 ...) {
    char problem[300];
    va_list args;
    va_start(args, format);
    vsnprintf(problem, sizeof problem, format, args);
    va_end(args);
    return fail(why, code, "%s: tensor '%s' at byte %llu: %s", path_label(t->files[one->file].path),
                quote(st_name(t, one)).text, (unsigned long long)one->at, problem);
}

void st_table_close(struct st_table *t) {
    for (size_t i = 0; i < t->n_files; i++) file_close(&t->files[i]);
    free(t->files);
    free(t->tensors);
    free(t->by_place);
    free(t->data_at);
    text_free(&t->names);
    *t = (struct st_table){0};
}

/* ---- one entry --------------------------------------------------------------------------------------------------------- */

struct header {
    struct st_table *table;
    struct json_scan scan;
    uint64_t data; /* where the data section begins */
    struct reason *why;
};

static enum err next(struct header *h, enum scan_event *event) { return json_scan_next(&h->scan, event, h->why); }

static enum err take_dtype(struct header *h, struct st_tensor *one) {
    enum scan_event event;
    TRY(next(h, &event));
    if (event != SCAN_STRING) return st_fail(h->table, one, h->why, ERR_FORMAT, "its dtype must be a string");
    for (int i = 0; i < ST_DTYPE_COUNT; i++)
        if (span_equal(h->scan.text, span_of(dtypes[i].name))) {
            one->dtype = (uint8_t)i;
            return ERR_NONE;
        }
    return st_fail(h->table, one, h->why, ERR_UNSUPPORTED, "dtype '%s' is not known", quote(h->scan.text).text);
}

/* The elements of an array of non-negative integers, as many as there are. */
static enum err take_integers(struct header *h, const struct st_tensor *one, const char *what, uint64_t *out, size_t max,
                              size_t *n) {
    enum scan_event event;
    *n = 0;
    TRY(next(h, &event));
    if (event != SCAN_ARRAY) return st_fail(h->table, one, h->why, ERR_FORMAT, "its %s must be an array", what);
    for (;;) {
        TRY(next(h, &event));
        if (event == SCAN_ARRAY_END) return ERR_NONE;
        if (*n == max) return st_fail(h->table, one, h->why, ERR_LIMIT, "its %s has more than %zu numbers", what, max);
        if (event != SCAN_NUMBER || !json_scan_uint(h->scan.text, &out[*n]))
            return st_fail(h->table, one, h->why, ERR_FORMAT,
                           "number %zu of its %s is '%s'; a whole number from 0 to 2^64 - 1 is needed", *n + 1, what,
                           event == SCAN_NUMBER ? quote(h->scan.text).text : "no number");
        ++*n;
    }
}

static enum err check_extent(struct header *h, struct st_tensor *one, const uint64_t *shape, size_t rank,
                             const uint64_t *range) {
    const struct st_table *t = h->table;
    const uint64_t data_bytes = t->files[one->file].bytes - h->data;
    uint64_t elements = 1, bits;
    for (size_t i = 0; i < rank; i++)
        if (!size_mul(elements, shape[i], &elements))
            return st_fail(t, one, h->why, ERR_FORMAT, "the number of elements overflows");
    if (!size_mul(elements, dtypes[one->dtype].bits, &bits))
        return st_fail(t, one, h->why, ERR_FORMAT, "the number of bytes overflows");
    if (bits % 8) return st_fail(t, one, h->why, ERR_FORMAT, "%llu bits are not whole bytes", (unsigned long long)bits);
    if (range[0] > range[1])
        return st_fail(t, one, h->why, ERR_FORMAT, "its data begins at %llu and ends at %llu", (unsigned long long)range[0],
                       (unsigned long long)range[1]);
    if (range[1] > data_bytes)
        return st_fail(t, one, h->why, ERR_FORMAT,
                       "its data ends at byte %llu of the data section, which has %llu; is the file cut short?",
                       (unsigned long long)range[1], (unsigned long long)data_bytes);
    if (range[1] - range[0] != bits / 8)
        return st_fail(t, one, h->why, ERR_FORMAT, "its shape and dtype %s need %llu bytes, its data_offsets span %llu",
                       st_dtype_name(one->dtype), (unsigned long long)(bits / 8), (unsigned long long)(range[1] - range[0]));
    one->offset = h->data + range[0];
    one->bytes = bits / 8;
    one->n_dims = (uint8_t)rank;
    for (size_t i = 0; i < ST_DIMS; i++) one->shape[i] = i < rank ? shape[i] : 1;
    return ERR_NONE;
}

static enum err take_entry(struct header *h, struct st_tensor *one) {
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    uint64_t shape[MAX_RANK], range[2] = {0};
    size_t rank = 0, n_range = 0;
    unsigned seen = 0;
    enum scan_event event;
    TRY(next(h, &event));
    if (event != SCAN_OBJECT) return st_fail(h->table, one, h->why, ERR_FORMAT, "its entry must be an object");
    for (;;) {
        TRY(next(h, &event));
        if (event == SCAN_OBJECT_END) break;
        int field = 0;
        while (field < 3 && !span_equal(h->scan.text, span_of(fields[field]))) field++;
        if (field == 3) {
            TRY(json_scan_skip(&h->scan, event, h->why));
            continue;
        }
        if (seen >> field & 1) return st_fail(h->table, one, h->why, ERR_FORMAT, "its %s is given twice", fields[field]);
        seen |= 1u << field;
        if (field == 0)
            TRY(take_dtype(h, one));
        else if (field == 1)
            TRY(take_integers(h, one, "shape", shape, MAX_RANK, &rank));
        else
            TRY(take_integers(h, one, "data_offsets", range, 2, &n_range));
    }
    for (int field = 0; field < 3; field++)
        if (!(seen >> field & 1)) return st_fail(h->table, one, h->why, ERR_FORMAT, "its %s is missing", fields[field]);
    if (n_range != 2) return st_fail(h->table, one, h->why, ERR_FORMAT, "its data_offsets need two numbers");
    return check_extent(h, one, shape, rank, range);
}

/* ---- a header ---------------------------------------------------------------------------------------------------------- */

/* Nothing in it is used, but a reader that lets anything pass here reads other files than the rest of the world. */
static enum err take_metadata(struct header *h) {
    enum scan_event event;
    TRY(next(h, &event));
    if (event != SCAN_OBJECT)
        return json_scan_fail(&h->scan, h->why, ERR_FORMAT, "header: '__metadata__' must be an object of strings");
    for (;;) {
        TRY(next(h, &event));
        if (event == SCAN_OBJECT_END) return ERR_NONE;
        TRY(next(h, &event));
        if (event != SCAN_STRING)
            return json_scan_fail(&h->scan, h->why, ERR_FORMAT, "header: '__metadata__' must hold nothing but strings");
    }
}

static enum err grow(struct st_table *t, const char *label, struct reason *why) {
    if (t->n < t->cap) return ERR_NONE;
    if (t->n == MAX_TENSORS) return fail(why, ERR_LIMIT, "%s: more than %d tensors in the files so far", label, MAX_TENSORS);
    const size_t cap = t->cap ? 2 * t->cap : 1024;
    struct st_tensor *grown = reallocarray(t->tensors, cap, sizeof *grown);
    if (!grown) return fail(why, ERR_NO_MEMORY, "%s: no memory for %zu tensors", label, cap);
    t->tensors = grown;
    t->cap = cap;
    return ERR_NONE;
}

static enum err add_tensor(struct header *h) {
    struct st_table *t = h->table;
    const struct span name = h->scan.text;
    const char *problem = name_problem(name, MAX_NAME_BYTES);
    if (problem)
        return json_scan_fail(&h->scan, h->why, ERR_FORMAT, "header: a tensor's name %s (%zu bytes)", problem, name.len);
    TRY(grow(t, h->scan.label, h->why));
    if (t->names.len + name.len > MAX_NAMES_BYTES)
        return json_scan_fail(&h->scan, h->why, ERR_LIMIT, "header: more than %d MiB of names", MAX_NAMES_BYTES >> 20);
    struct st_tensor *one = &t->tensors[t->n];
    *one = (struct st_tensor){
        .name_at = t->names.len, .name_len = (uint32_t)name.len, .file = (uint16_t)(t->n_files - 1), .at = h->scan.at};
    text_add_span(&t->names, name);
    if (t->names.failed) return fail(h->why, ERR_NO_MEMORY, "%s: no memory for its names", h->scan.label);
    TRY(take_entry(h, one));
    t->n++;
    return ERR_NONE;
}

static enum err take_header(struct header *h) {
    enum scan_event event;
    bool metadata = false;
    TRY(next(h, &event));
    if (event != SCAN_OBJECT) return json_scan_fail(&h->scan, h->why, ERR_FORMAT, "header: must be a JSON object");
    for (;;) {
        TRY(next(h, &event));
        if (event == SCAN_OBJECT_END) return next(h, &event); /* padding, and nothing else, may follow */
        if (!span_equal(h->scan.text, SPAN("__metadata__"))) {
            TRY(add_tensor(h));
            continue;
        }
        if (metadata) return json_scan_fail(&h->scan, h->why, ERR_FORMAT, "header: '__metadata__' is given twice");
        metadata = true;
        TRY(take_metadata(h));
    }
}

static enum err header_length(const struct model_file *file, uint64_t *length, struct reason *why) {
    const char *label = path_label(file->path);
    uint8_t bytes[8];
    if (file->bytes < sizeof bytes)
        return fail(why, ERR_FORMAT,
                    "%s: header at byte 0: the file has %llu bytes; a safetensors file begins with 8 bytes of length", label,
                    (unsigned long long)file->bytes);
    TRY(file_read(file, bytes, sizeof bytes, 0, why));
    *length = load_u64(bytes);
    if (*length > file->bytes - sizeof bytes)
        return fail(why, ERR_FORMAT,
                    "%s: header at byte 0: %llu bytes long, but %llu follow; is the file cut short, or no safetensors file?",
                    label, (unsigned long long)*length, (unsigned long long)(file->bytes - sizeof bytes));
    if (*length > MAX_HEADER_BYTES)
        return fail(why, ERR_LIMIT, "%s: header at byte 0: %llu bytes long; at most %d are allowed", label,
                    (unsigned long long)*length, MAX_HEADER_BYTES);
    return ERR_NONE;
}

enum err safetensors_read(struct st_table *t, const char *path, struct reason *why) {
    if (t->n_files == MAX_FILES) return fail(why, ERR_LIMIT, "%s: more than %d files", path_label(path), MAX_FILES);
    struct model_file *files = reallocarray(t->files, t->n_files + 1, sizeof *files);
    if (files) t->files = files;
    uint64_t *data_at = reallocarray(t->data_at, t->n_files + 1, sizeof *data_at);
    if (data_at) t->data_at = data_at;
    if (!files || !data_at) return fail(why, ERR_NO_MEMORY, "%s: no memory to open it", path_label(path));
    struct model_file *file = &files[t->n_files];
    TRY(file_open(path, file, why));
    t->n_files++;
    uint64_t length = 0;
    TRY(header_length(file, &length, why));
    struct header h = {.table = t, .data = 8 + length, .why = why};
    data_at[t->n_files - 1] = h.data;
    json_scan_open(&h.scan, path_label(file->path), hf_fill, file, 8, h.data, MAX_TEXT_BYTES);
    const enum err result = take_header(&h);
    json_scan_close(&h.scan);
    return result;
}

/* ---- all files together ------------------------------------------------------------------------------------------------ */

static int order_by_name(const void *a, const void *b, void *table) {
    const struct st_table *t = table;
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    const int order = span_compare(st_name(t, &t->tensors[x]), st_name(t, &t->tensors[y]));
    return order ? order : (x > y) - (x < y);
}

static int order_by_place(const void *a, const void *b, void *table) {
    const struct st_table *t = table;
    const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    const struct st_tensor *x = &t->tensors[i], *y = &t->tensors[j];
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones in front */
    return (i > j) - (i < j);
}

static enum err check_names(const struct st_table *t, const uint32_t *sorted, struct reason *why) {
    for (size_t i = 1; i < t->n; i++) {
        const struct st_tensor *before = &t->tensors[sorted[i - 1]], *one = &t->tensors[sorted[i]];
        if (!span_equal(st_name(t, before), st_name(t, one))) continue;
        return st_fail(t, one, why, ERR_FORMAT, "a tensor of this name is already listed in %s at byte %llu",
                       path_label(t->files[before->file].path), (unsigned long long)before->at);
    }
    return ERR_NONE;
}

/* The format forbids holes: bytes that no tensor owns are bytes that no check ever looked at. */
static enum err check_places(const struct st_table *t, struct reason *why) {
    size_t i = 0;
    for (size_t file = 0; file < t->n_files; file++) {
        uint64_t end = t->data_at[file];
        for (; i < t->n && t->tensors[t->by_place[i]].file == file; i++) {
            const struct st_tensor *one = &t->tensors[t->by_place[i]];
            if (one->offset < end)
                return st_fail(t, one, why, ERR_FORMAT, "its data (from byte %llu) overlaps that of '%s' (to byte %llu)",
                               (unsigned long long)one->offset, quote(st_name(t, &t->tensors[t->by_place[i - 1]])).text,
                               (unsigned long long)end);
            if (one->offset > end)
                return st_fail(t, one, why, ERR_FORMAT,
                               "its data begins at byte %llu, and nothing owns the %llu bytes in front of it",
                               (unsigned long long)one->offset, (unsigned long long)(one->offset - end));
            end += one->bytes;
        }
        if (end != t->files[file].bytes)
            return fail(why, ERR_FORMAT, "%s: data at byte %llu: the last %llu bytes of the file belong to no tensor",
                        path_label(t->files[file].path), (unsigned long long)end,
                        (unsigned long long)(t->files[file].bytes - end));
    }
    return ERR_NONE;
}

enum err safetensors_check(struct st_table *t, struct reason *why) {
    t->by_place = calloc_checked(t->n, sizeof *t->by_place);
    if (!t->by_place) return fail(why, ERR_NO_MEMORY, "%s: no memory to sort %zu tensors", path_label(t->files[0].path), t->n);
    for (uint32_t i = 0; i < t->n; i++) t->by_place[i] = i;
    qsort_r(t->by_place, t->n, sizeof *t->by_place, order_by_name, t);
    TRY(check_names(t, t->by_place, why));
    qsort_r(t->by_place, t->n, sizeof *t->by_place, order_by_place, t);
    return check_places(t, why);
}
