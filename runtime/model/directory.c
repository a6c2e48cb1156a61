/* The tensor directory, whatever container it came from: sizes, ranges inside the files (of every slice), unique names, no
 * overlap.
 *
 * Everything is checked arithmetic on numbers from the file. Never touches tensor data. */
#include "model/container.h"

#include <stdio.h>
#include <stdlib.h>

enum err tensor_fail(const struct container *c, const struct model_tensor *t, struct reason *why, enum err code,
                     const char *format, ...) {
    char problem[256];
    va_list args;
    va_start(args, format);
    vsnprintf(problem, sizeof problem, format, args);
    va_end(args);
    return fail(why, code, "%s: tensor '%s' at byte %llu: %s", path_label(c->files[t->file].path), quote(t->name).text,
                (unsigned long long)c->tensor_at[t - c->tensors], problem);
}

static enum err size_tensor(const struct container *c, struct model_tensor *t, struct reason *why) {
    uint64_t elements = 1;
    for (uint32_t d = 0; d < TENSOR_DIMS; d++) {
        if (t->ne[d] == 0 || t->ne[d] > INT64_MAX)
            return tensor_fail(c, t, why, ERR_FORMAT, "extent %u is %lld; it must be at least 1", d, (long long)t->ne[d]);
        if (!size_mul(elements, t->ne[d], &elements) || elements > INT64_MAX)
            return tensor_fail(c, t, why, ERR_FORMAT, "the number of elements overflows");
    }
    const struct tensor_type_info *type = tensor_type_info(t->type);
    if (t->ne[0] % type->block_weights)
        return tensor_fail(c, t, why, ERR_FORMAT, "rows of %llu weights are not whole %s blocks of %u",
                           (unsigned long long)t->ne[0], type->name, type->block_weights);
    uint64_t bytes;
    if (!tensor_row_bytes(t->type, t->ne[0], &t->row_bytes) || !size_mul(t->row_bytes, t->ne[1], &bytes) ||
        !size_mul(bytes, t->ne[2], &bytes) || !size_mul(bytes, t->ne[3], &t->bytes))
        return tensor_fail(c, t, why, ERR_FORMAT, "the number of bytes overflows");
    return ERR_NONE;
}

/* A piece of a tensor that lies in one place: all of it, or one slice. */
struct piece {
    const struct model_tensor *of;
    uint32_t file;
    uint64_t offset, bytes;
};

static uint64_t n_pieces(const struct model_tensor *t) { return t->slices ? t->ne[2] : 1; }

static enum err place_piece(const struct container *c, const struct piece *p, struct reason *why) {
    struct model_file *file = &c->files[p->file];
    uint64_t end;
    if (!size_add(p->offset, p->bytes, &end)) return tensor_fail(c, p->of, why, ERR_FORMAT, "the end of its data overflows");
    if (end > file->bytes)
        return tensor_fail(c, p->of, why, ERR_FORMAT, "its data is bytes %llu to %llu but %s%s has %llu; is it cut short?",
                           (unsigned long long)p->offset, (unsigned long long)end, p->of->slices ? "" : "the file",
                           p->of->slices ? path_label(file->path) : "", (unsigned long long)file->bytes);
    if (end > file->used_bytes) file->used_bytes = end;
    return ERR_NONE;
}

/* Appends the pieces of `t` to `pieces`, which has room, and adds it to the totals. Slices are whole matrices: ne[3] is 1. */
static enum err place_tensor(struct container *c, const struct model_tensor *t, struct piece *pieces, uint64_t *n,
                             struct reason *why) {
    for (uint64_t i = 0; i < n_pieces(t); i++) {
        const struct model_slice at = model_slice_of(t, i);
        struct piece *p = &pieces[(*n)++];
        *p = (struct piece){t, at.file, at.offset, t->slices ? model_slice_row_bytes(t, at) * t->ne[1] : t->bytes};
        TRY(place_piece(c, p, why));
        if (!size_add(c->weight_bytes, p->bytes, &c->weight_bytes))
            return tensor_fail(c, t, why, ERR_FORMAT, "the sum of all tensor sizes overflows");
    }
    if (!size_add(c->n_parameters, t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3], &c->n_parameters))
        return tensor_fail(c, t, why, ERR_FORMAT, "the sum of all tensor sizes overflows");
    return ERR_NONE;
}

static int order_by_name(const void *a, const void *b) {
    const struct model_tensor *const *x = a, *const *y = b;
    const int order = span_compare((*x)->name, (*y)->name);
    return order ? order : (*x > *y) - (*x < *y);
}

static int order_by_place(const void *a, const void *b) {
    const struct piece *x = a, *y = b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->of > y->of) - (x->of < y->of);
}

static enum err check_overlap(const struct container *c, struct piece *pieces, uint64_t n, struct reason *why) {
    qsort(pieces, n, sizeof *pieces, order_by_place);
    for (uint64_t i = 1; i < n; i++) {
        const struct piece *before = &pieces[i - 1], *p = &pieces[i];
        if (p->file == before->file && p->offset < before->offset + before->bytes)
            return tensor_fail(c, p->of, why, ERR_FORMAT, "its data (from byte %llu) overlaps that of '%s' (to byte %llu)",
                               (unsigned long long)p->offset, quote(before->of->name).text,
                               (unsigned long long)(before->offset + before->bytes));
    }
    return ERR_NONE;
}

static enum err check_places(struct container *c, uint64_t n, struct reason *why) {
    struct piece *pieces = calloc_checked(n, sizeof *pieces);
    if (!pieces) return fail(why, ERR_NO_MEMORY, "%s: no memory to sort its tensors", container_label(c));
    uint64_t placed = 0;
    enum err result = ERR_NONE;
    for (size_t i = 0; i < c->n_tensors && result == ERR_NONE; i++)
        result = place_tensor(c, &c->tensors[i], pieces, &placed, why);
    if (result == ERR_NONE) result = check_overlap(c, pieces, placed, why);
    free(pieces);
    return result;
}

static enum err check_duplicates(const struct container *c, struct reason *why) {
    for (size_t i = 1; i < c->n_tensors; i++)
        if (span_equal(c->by_name[i - 1]->name, c->by_name[i]->name))
            return tensor_fail(c, c->by_name[i], why, ERR_FORMAT, "a tensor of this name was already listed");
    return ERR_NONE;
}

enum err directory_check(struct container *c, struct reason *why) {
    uint64_t pieces = 0;
    for (size_t i = 0; i < c->n_tensors; i++) {
        struct model_tensor *t = &c->tensors[i];
        TRY(size_tensor(c, t, why));
        pieces += n_pieces(t);
    }
    TRY(check_places(c, pieces, why));
    c->by_name = calloc_checked(c->n_tensors, sizeof *c->by_name);
    if (!c->by_name) return fail(why, ERR_NO_MEMORY, "%s: no memory for its tensor index", container_label(c));
    for (size_t i = 0; i < c->n_tensors; i++) c->by_name[i] = &c->tensors[i];
    qsort(c->by_name, c->n_tensors, sizeof *c->by_name, order_by_name);
    return check_duplicates(c, why);
}

const struct model_tensor *directory_find(const struct container *c, struct span name) {
    size_t low = 0, high = c->n_tensors;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = span_compare(c->by_name[middle]->name, name);
        if (order == 0) return c->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
