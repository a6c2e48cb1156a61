/* GGUF v2/v3, single or split: bytes of untrusted files -> keys, values and tensor records in a struct container.
 *
 * Knows the container and nothing about models. Metadata is read front to back through a cursor that owns every bounds
 * check; each count is compared with the bytes left before anything is allocated for it. Tensor data is never read (the
 * cursor reads ahead in small steps, which may touch its first bytes). Layout, all little-endian:
 *
 *   "GGUF" u32 version  u64 n_tensors  u64 n_keys  key records  tensor records  padding to alignment  tensor data
 *   string = u64 length, bytes               key record = string, u32 type, value
 *   array  = u32 type, u64 count, elements   tensor record = string, u32 n_dims, u64 extent[], u32 type, u64 offset */
#include "model/container.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    READ_STEP = 64 << 10,
    MIN_KEY_RECORD = 8 + 1 + 4 + 1,            /* one-byte key, one-byte value */
    MIN_TENSOR_RECORD = 8 + 1 + 4 + 8 + 4 + 8, /* one-byte name, one extent */
};

struct cursor {
    const struct model_file *file;
    uint8_t *base; /* [limit] the metadata region; [0, loaded) has been read */
    uint64_t pos, loaded, limit;
    const char *kind; /* what is being read: "header", "key", "tensor" */
    uint64_t index;   /* which one, from 1; 0: not counted */
    struct span name; /* once known */
    struct reason *why;
};

static enum err cursor_fail(const struct cursor *c, uint64_t at, enum err code, const char *format, ...) PRINTF_LIKE(4, 5);

static enum err cursor_fail(const struct cursor *c, uint64_t at, enum err code, const char *format, ...) {
    char problem[256], number[32] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(problem, sizeof problem, format, args);
    va_end(args);
    if (c->index) snprintf(number, sizeof number, " %" PRIu64, c->index);
    return fail(c->why, code, "%s: %s%s%s%s%s at byte %" PRIu64 ": %s", path_label(c->file->path), c->kind, number,
                c->name.len ? " '" : "", c->name.len ? quote(c->name).text : "", c->name.len ? "'" : "", at, problem);
}

/* The next `bytes` of the file, valid as long as the region. */
static enum err take(struct cursor *c, uint64_t bytes, const uint8_t **out) {
    *out = NULL;
    if (bytes > c->limit - c->pos) {
        if (c->limit < c->file->bytes)
            return cursor_fail(c, c->pos, ERR_LIMIT, "the metadata is larger than %d MiB; no known model needs that",
                               MAX_METADATA_BYTES >> 20);
        return cursor_fail(c, c->pos, ERR_FORMAT, "%" PRIu64 " bytes are needed but the file ends after %" PRIu64, bytes,
                           c->limit - c->pos);
    }
    const uint64_t end = c->pos + bytes;
    if (end > c->loaded) {
        const uint64_t ahead = round_up(end, READ_STEP), upto = ahead < c->limit ? ahead : c->limit;
        TRY(file_read(c->file, c->base + c->loaded, upto - c->loaded, c->loaded, c->why));
        c->loaded = upto;
    }
    *out = c->base + c->pos;
    c->pos = end;
    return ERR_NONE;
}

static enum err take_u32(struct cursor *c, uint32_t *out) {
    const uint8_t *p;
    TRY(take(c, 4, &p));
    *out = load_u32(p);
    return ERR_NONE;
}

static enum err take_u64(struct cursor *c, uint64_t *out) {
    const uint8_t *p;
    TRY(take(c, 8, &p));
    *out = load_u64(p);
    return ERR_NONE;
}

static enum err take_string(struct cursor *c, const char *what, struct span *out) {
    const uint64_t at = c->pos;
    uint64_t len;
    const uint8_t *p;
    TRY(take_u64(c, &len));
    if (len > c->file->bytes - c->pos)
        return cursor_fail(c, at, ERR_FORMAT, "%s of %" PRIu64 " bytes, but the file ends after %" PRIu64, what, len,
                           c->file->bytes - c->pos);
    if (len > MAX_STRING_BYTES)
        return cursor_fail(c, at, ERR_LIMIT, "%s of %" PRIu64 " bytes; at most %d are allowed", what, len, MAX_STRING_BYTES);
    TRY(take(c, len, &p));
    *out = (struct span){(const char *)p, (size_t)len};
    return ERR_NONE;
}

static enum err take_name(struct cursor *c, size_t max_bytes, struct span *out) {
    const uint64_t at = c->pos;
    TRY(take_string(c, "name", out));
    const char *problem = name_problem(*out, max_bytes);
    if (problem) return cursor_fail(c, at, ERR_FORMAT, "its name %s (%zu bytes)", problem, out->len);
    c->name = *out;
    return ERR_NONE;
}

static void begin_item(struct cursor *c, const char *kind, uint64_t index) {
    c->kind = kind;
    c->index = index;
    c->name = (struct span){0};
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static enum err check_bools(const struct cursor *c, uint32_t type, struct span bytes) {
    for (size_t i = 0; type == META_BOOL && i < bytes.len; i++)
        if ((uint8_t)bytes.ptr[i] > 1)
            return cursor_fail(c, (uint64_t)((const uint8_t *)bytes.ptr - c->base) + i, ERR_FORMAT,
                               "a bool is %u; it must be 0 or 1", (uint8_t)bytes.ptr[i]);
    return ERR_NONE;
}

static enum err take_array(struct cursor *c, struct model_meta *out) {
    const uint64_t at = c->pos;
    TRY(take_u32(c, &out->element_type));
    if (out->element_type == META_ARRAY) return cursor_fail(c, at, ERR_UNSUPPORTED, "is an array of arrays");
    if (out->element_type >= META_TYPE_COUNT)
        return cursor_fail(c, at, ERR_FORMAT, "array element type %u does not exist", out->element_type);
    TRY(take_u64(c, &out->count));
    const uint64_t left = c->file->bytes - c->pos, start = c->pos;
    const size_t scalar = meta_scalar_bytes(out->element_type);
    uint64_t least;
    if (!size_mul(out->count, scalar ? scalar : 8, &least) || least > left)
        return cursor_fail(c, at + 4, ERR_FORMAT, "an array of %" PRIu64 " elements cannot fit in the %" PRIu64 " bytes left",
                           out->count, left);
    const uint8_t *p;
    if (scalar) {
        TRY(take(c, least, &p));
        out->bytes = (struct span){(const char *)p, (size_t)least};
        return check_bools(c, out->element_type, out->bytes);
    }
    if (least > c->limit - c->pos) return take(c, least, &p); /* above the metadata limit: say so before reading it all */
    for (uint64_t i = 0; i < out->count; i++) {
        struct span ignored;
        TRY(take_string(c, "array string", &ignored));
    }
    out->bytes = (struct span){(const char *)c->base + start, (size_t)(c->pos - start)};
    return ERR_NONE;
}

static enum err take_value(struct cursor *c, struct model_meta *out) {
    const uint64_t at = c->pos;
    TRY(take_u32(c, &out->type));
    if (out->type >= META_TYPE_COUNT) return cursor_fail(c, at, ERR_FORMAT, "value type %u does not exist", out->type);
    out->count = 1;
    if (out->type == META_STRING) return take_string(c, "string", &out->bytes);
    if (out->type == META_ARRAY) return take_array(c, out);
    const uint8_t *p;
    const size_t bytes = meta_scalar_bytes(out->type);
    TRY(take(c, bytes, &p));
    out->bytes = (struct span){(const char *)p, bytes};
    return check_bools(c, out->type, out->bytes);
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

struct header {
    uint32_t version;
    uint64_t n_tensors, n_keys;
};

/* What people name in place of a model, and what they should have named. */
static const char *likely_mistake(const struct model_file *file) {
    uint8_t start[9] = {0};
    struct reason ignored;
    const uint64_t have = file->bytes < sizeof start ? file->bytes : sizeof start;
    if (file_read(file, start, have, 0, &ignored) != ERR_NONE) return "";
    if (have == sizeof start && start[8] == '{' && load_u64(start) >= 2 && load_u64(start) <= file->bytes - 8)
        return "; it looks like a safetensors file: name the directory that holds it and its config.json";
    if (start[0] == '{') return "; it looks like JSON: name the directory of the model that it belongs to";
    return "";
}

static enum err take_header(struct cursor *c, struct header *h) {
    const uint8_t *magic;
    if (c->file->bytes == 0) return cursor_fail(c, 0, ERR_FORMAT, "the file is empty");
    TRY(take(c, 4, &magic));
    if (memcmp(magic, "FUGG", 4) == 0) return cursor_fail(c, 0, ERR_UNSUPPORTED, "a big-endian GGUF file; convert it first");
    if (memcmp(magic, "GGUF", 4) != 0)
        return cursor_fail(c, 0, ERR_FORMAT, "not a GGUF file: it begins with %02x %02x %02x %02x, not 'GGUF'%s", magic[0],
                           magic[1], magic[2], magic[3], likely_mistake(c->file));
    TRY(take_u32(c, &h->version));
    if (h->version && (h->version & 0xffff) == 0)
        return cursor_fail(c, 4, ERR_UNSUPPORTED, "a big-endian GGUF file (version word 0x%08x); convert it first", h->version);
    if (h->version != 2 && h->version != 3)
        return cursor_fail(c, 4, ERR_UNSUPPORTED, "GGUF version %u; versions 2 and 3 are supported", h->version);
    TRY(take_u64(c, &h->n_tensors));
    TRY(take_u64(c, &h->n_keys));
    const uint64_t left = c->file->bytes - c->pos;
    if (h->n_tensors > left / MIN_TENSOR_RECORD)
        return cursor_fail(c, 8, ERR_FORMAT, "%" PRIu64 " tensors cannot fit in the %" PRIu64 " bytes left", h->n_tensors,
                           left);
    if (h->n_keys > (left - h->n_tensors * MIN_TENSOR_RECORD) / MIN_KEY_RECORD)
        return cursor_fail(c, 16, ERR_FORMAT, "%" PRIu64 " keys cannot fit in the %" PRIu64 " bytes left", h->n_keys, left);
    if (h->n_tensors > MAX_TENSORS)
        return cursor_fail(c, 8, ERR_LIMIT, "%" PRIu64 " tensors; at most %d are allowed", h->n_tensors, MAX_TENSORS);
    if (h->n_keys > MAX_KEYS)
        return cursor_fail(c, 16, ERR_LIMIT, "%" PRIu64 " keys; at most %d are allowed", h->n_keys, MAX_KEYS);
    return ERR_NONE;
}

static enum err take_keys(struct cursor *c, uint64_t n, struct meta_table *table) {
    table->entries = calloc_checked(n, sizeof *table->entries);
    table->at = calloc_checked(n, sizeof *table->at);
    if (!table->entries || !table->at) return cursor_fail(c, 16, ERR_NO_MEMORY, "no memory for %" PRIu64 " keys", n);
    for (uint64_t i = 0; i < n; i++) {
        begin_item(c, "key", i + 1);
        table->at[i] = c->pos;
        TRY(take_name(c, MAX_KEY_BYTES, &table->entries[i].key));
        TRY(take_value(c, &table->entries[i]));
        table->n++;
    }
    return meta_index(table, path_label(c->file->path), c->why);
}

static enum err find_alignment(const struct container *one, uint64_t *alignment, struct reason *why) {
    *alignment = 32;
    const struct model_meta *entry = meta_find(&one->meta, SPAN("general.alignment"));
    if (!entry) return ERR_NONE;
    if (entry->type != META_U32)
        return key_fail(one, "general.alignment", why, ERR_FORMAT, "is of value type %u; it must be u32 (4)", entry->type);
    *alignment = load_u32((const uint8_t *)entry->bytes.ptr);
    if (*alignment == 0 || *alignment > MAX_ALIGNMENT || (*alignment & (*alignment - 1)))
        return key_fail(one, "general.alignment", why, ERR_FORMAT, "is %" PRIu64 "; it must be a power of two from 1 to %d",
                        *alignment, MAX_ALIGNMENT);
    return ERR_NONE;
}

static enum err take_tensor(struct cursor *c, uint64_t alignment, struct model_tensor *t) {
    TRY(take_name(c, MAX_TENSOR_NAME_BYTES, &t->name));
    uint64_t at = c->pos;
    TRY(take_u32(c, &t->n_dims));
    if (t->n_dims < 1 || t->n_dims > TENSOR_DIMS)
        return cursor_fail(c, at, ERR_FORMAT, "has %u dimensions; 1 to %d are allowed", t->n_dims, TENSOR_DIMS);
    for (uint32_t d = 0; d < TENSOR_DIMS; d++) t->ne[d] = 1;
    for (uint32_t d = 0; d < t->n_dims; d++) TRY(take_u64(c, &t->ne[d]));
    at = c->pos;
    uint32_t id;
    TRY(take_u32(c, &id));
    if (!tensor_type_from_gguf(id, &t->type)) {
        const char *known = tensor_type_refused_name(id);
        return cursor_fail(c, at, ERR_UNSUPPORTED, "tensor type %u is not supported: %s", id,
                           known ? known : "no such type is known");
    }
    at = c->pos;
    TRY(take_u64(c, &t->offset));
    if (t->offset % alignment)
        return cursor_fail(c, at, ERR_FORMAT, "data offset %" PRIu64 " is no multiple of the alignment %" PRIu64, t->offset,
                           alignment);
    return ERR_NONE;
}

static enum err take_tensors(struct cursor *c, uint64_t n, uint64_t alignment, struct container *one) {
    one->tensors = calloc_checked(n, sizeof *one->tensors);
    one->tensor_at = calloc_checked(n, sizeof *one->tensor_at);
    if (!one->tensors || !one->tensor_at) return cursor_fail(c, 8, ERR_NO_MEMORY, "no memory for %" PRIu64 " tensors", n);
    for (uint64_t i = 0; i < n; i++) {
        begin_item(c, "tensor", i + 1);
        one->tensor_at[i] = c->pos;
        TRY(take_tensor(c, alignment, &one->tensors[i]));
        one->n_tensors++;
    }
    const uint64_t data_start = round_up(c->pos, alignment);
    for (uint64_t i = 0; i < n; i++) {
        struct model_tensor *t = &one->tensors[i];
        if (!size_add(data_start, t->offset, &t->offset))
            return tensor_fail(one, t, c->why, ERR_FORMAT, "data offset %" PRIu64 " overflows", t->offset - data_start);
    }
    return ERR_NONE;
}

/* One file into `one`, whose arrays are its own; *budget is what the metadata of all files may still take. */
static enum err read_one(const char *path, uint64_t *budget, struct container *one, struct reason *why) {
    one->files = calloc(1, sizeof *one->files);
    one->regions = calloc(1, sizeof *one->regions);
    if (!one->files || !one->regions) return fail(why, ERR_NO_MEMORY, "%s: no memory to open it", path_label(path));
    TRY(file_open(path, one->files, why));
    one->n_files = 1;
    const struct model_file *file = one->files;
    struct cursor c = {.file = file, .limit = file->bytes < *budget ? file->bytes : *budget, .kind = "header", .why = why};
    /* reserves address space up to the limit; only pages that are read cost memory */
    c.base = one->regions[0] = malloc(c.limit ? c.limit : 1);
    if (!c.base) return fail(why, ERR_NO_MEMORY, "%s: no memory for its metadata", path_label(path));
    struct header h;
    uint64_t alignment;
    TRY(take_header(&c, &h));
    one->version = h.version;
    TRY(take_keys(&c, h.n_keys, &one->meta));
    TRY(find_alignment(one, &alignment, why));
    TRY(take_tensors(&c, h.n_tensors, alignment, one));
    *budget -= c.pos;
    return ERR_NONE;
}

/* ---- splits ----------------------------------------------------------------------------------------------------- */

struct split {
    uint64_t no, count, n_tensors; /* no from 0 */
};

static enum err read_split(const struct container *one, struct split *s, struct reason *why) {
    const struct uint_rule any = {.max = UINT32_MAX};
    *s = (struct split){.n_tensors = UINT64_MAX};
    TRY(meta_uint(one, "split.no", any, &s->no, why));
    TRY(meta_uint(one, "split.count", any, &s->count, why));
    TRY(meta_uint(one, "split.tensors.count", any, &s->n_tensors, why));
    if (s->count <= 1 && s->no == 0)
        s->count = 1;
    else if (s->no >= s->count)
        return key_fail(one, "split.no", why, ERR_FORMAT, "is %" PRIu64 " but 'split.count' is %" PRIu64, s->no, s->count);
    else if (s->n_tensors == UINT64_MAX)
        return key_fail(one, "split.tensors.count", why, ERR_FORMAT, "is missing from the metadata");
    return ERR_NONE;
}

enum { SPLIT_SUFFIX_BYTES = sizeof "-00001-of-00001.gguf" - 1 };

/* The path of part `no` (from 0), made from that of the first. NULL: no memory. */
static char *split_path(const char *first, uint64_t no, uint64_t count) {
    const size_t len = strlen(first);
    char *path = malloc(len + 1);
    if (!path) return NULL;
    memcpy(path, first, len - SPLIT_SUFFIX_BYTES);
    snprintf(path + len - SPLIT_SUFFIX_BYTES, SPLIT_SUFFIX_BYTES + 1, "-%05u-of-%05u.gguf", (unsigned)(no + 1) % 100000,
             (unsigned)count % 100000);
    return path;
}

static enum err check_first(const char *path, const struct split *s, struct reason *why) {
    const char *label = path_label(path);
    char suffix[32];
    if (s->no != 0)
        return fail(why, ERR_ARGUMENT,
                    "%s: part %" PRIu64 " of %" PRIu64 " of a split model; name the first part (-00001-of-%05" PRIu64 ".gguf)",
                    label, s->no + 1, s->count, s->count);
    if (s->count > MAX_FILES)
        return fail(why, ERR_LIMIT, "%s: key 'split.count': %" PRIu64 " files; at most %d are allowed", label, s->count,
                    MAX_FILES);
    snprintf(suffix, sizeof suffix, "-00001-of-%05" PRIu64 ".gguf", s->count);
    const size_t len = strlen(path);
    if (len <= SPLIT_SUFFIX_BYTES || strcmp(path + len - SPLIT_SUFFIX_BYTES, suffix) != 0)
        return fail(why, ERR_ARGUMENT, "%s: the first of %" PRIu64 " parts; its name must end in %s to find the others", label,
                    s->count, suffix);
    return ERR_NONE;
}

static enum err check_part(const struct container *first, const struct container *part, const struct split *s, uint64_t no,
                           struct reason *why) {
    struct split other;
    TRY(read_split(part, &other, why));
    if (other.no != no)
        return key_fail(part, "split.no", why, ERR_FORMAT, "is %" PRIu64 "; part %" PRIu64 " must have %" PRIu64, other.no,
                        no + 1, no);
    if (other.count != s->count || other.n_tensors != s->n_tensors)
        return key_fail(part, other.count != s->count ? "split.count" : "split.tensors.count", why, ERR_FORMAT,
                        "differs from the first part: this part is from another model");
    static const char *const same[] = {"general.architecture", "general.name"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct span mine = {0}, theirs = {0};
        TRY(meta_string(first, same[i], &mine, why));
        TRY(meta_string(part, same[i], &theirs, why));
        if (theirs.len && !span_equal(mine, theirs))
            return key_fail(part, same[i], why, ERR_FORMAT, "differs from the first part: this part is from another model");
    }
    return ERR_NONE;
}

/* Move the file and tensors of `part` behind those of `c`. Nothing points at c's arrays yet, so they may move. */
static enum err append_part(struct container *c, struct container *part, struct reason *why) {
    const size_t n = c->n_tensors + part->n_tensors;
    const char *label = path_label(part->files[0].path);
    if (n > MAX_TENSORS) return fail(why, ERR_LIMIT, "%s: more than %d tensors in the parts so far", label, MAX_TENSORS);
    struct model_file *files = reallocarray(c->files, c->n_files + 1, sizeof *files);
    if (files) c->files = files;
    void **regions = reallocarray(c->regions, c->n_files + 1, sizeof *regions);
    if (regions) c->regions = regions;
    struct model_tensor *tensors = reallocarray(c->tensors, n + 1, sizeof *tensors);
    if (tensors) c->tensors = tensors;
    uint64_t *at = reallocarray(c->tensor_at, n + 1, sizeof *at);
    if (at) c->tensor_at = at;
    if (!files || !regions || !tensors || !at) return fail(why, ERR_NO_MEMORY, "%s: no memory for its tensors", label);
    for (size_t i = 0; i < part->n_tensors; i++) {
        c->tensors[c->n_tensors + i] = part->tensors[i];
        c->tensors[c->n_tensors + i].file = (uint32_t)c->n_files;
        c->tensor_at[c->n_tensors + i] = part->tensor_at[i];
    }
    c->n_tensors = n;
    c->files[c->n_files] = part->files[0];
    c->regions[c->n_files++] = part->regions[0];
    part->n_files = 0; /* descriptor, path and region have moved */
    return ERR_NONE;
}

static enum err read_part(const char *path, const struct split *s, uint64_t no, uint64_t *budget, struct container *c,
                          struct reason *why) {
    struct container part = {0};
    enum err result = read_one(path, budget, &part, why);
    if (result == ERR_NONE) result = check_part(c, &part, s, no, why);
    if (result == ERR_NONE) result = append_part(c, &part, why);
    container_close(&part);
    return result;
}

enum err gguf_read(const char *path, struct container *c, struct reason *why) {
    uint64_t budget = MAX_METADATA_BYTES;
    struct split s;
    TRY(read_one(path, &budget, c, why));
    TRY(read_split(c, &s, why));
    if (s.count > 1) TRY(check_first(path, &s, why));
    for (uint64_t no = 1; no < s.count; no++) {
        char *part_path = split_path(path, no, s.count);
        if (!part_path)
            return fail(why, ERR_NO_MEMORY, "%s: no memory for the name of part %" PRIu64, path_label(path), no + 1);
        const enum err result = read_part(part_path, &s, no, &budget, c, why);
        free(part_path);
        TRY(result);
    }
    if (s.n_tensors != UINT64_MAX && s.n_tensors != c->n_tensors)
        return key_fail(c, "split.tensors.count", why, ERR_FORMAT, "is %" PRIu64 " but %zu tensors were found", s.n_tensors,
                        c->n_tensors);
    return ERR_NONE;
}
