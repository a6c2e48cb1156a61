/* The tensor directory, whatever container it came from: sizes, ranges inside the files, unique names, no overlap.
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

static enum err size_tensor(const struct container *c, struct model_tensor *t, uint64_t *elements, struct reason *why) {
    *elements = 1;
    for (uint32_t d = 0; d < TENSOR_DIMS; d++) {
        if (t->ne[d] == 0 || t->ne[d] > INT64_MAX)
            return tensor_fail(c, t, why, ERR_FORMAT, "extent %u is %lld; it must be at least 1", d, (long long)t->ne[d]);
        if (!size_mul(*elements, t->ne[d], elements) || *elements > INT64_MAX)
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

static enum err place_tensor(const struct container *c, const struct model_tensor *t, struct reason *why) {
    struct model_file *file = &c->files[t->file];
    uint64_t end;
    if (!size_add(t->offset, t->bytes, &end)) return tensor_fail(c, t, why, ERR_FORMAT, "the end of its data overflows");
    if (end > file->bytes)
        return tensor_fail(c, t, why, ERR_FORMAT, "its data is bytes %llu to %llu but the file has %llu; is it cut short?",
                           (unsigned long long)t->offset, (unsigned long long)end, (unsigned long long)file->bytes);
    if (end > file->used_bytes) file->used_bytes = end;
    return ERR_NONE;
}

static int order_by_name(const void *a, const void *b) {
    const struct model_tensor *const *x = a, *const *y = b;
    const int order = span_compare((*x)->name, (*y)->name);
    return order ? order : (*x > *y) - (*x < *y);
}

static int order_by_place(const void *a, const void *b) {
    const struct model_tensor *x = *(const struct model_tensor *const *)a, *y = *(const struct model_tensor *const *)b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x > y) - (x < y);
}

static enum err check_overlap(const struct container *c, const struct model_tensor **sorted, struct reason *why) {
    qsort(sorted, c->n_tensors, sizeof *sorted, order_by_place);
    for (size_t i = 1; i < c->n_tensors; i++) {
        const struct model_tensor *before = sorted[i - 1], *t = sorted[i];
        if (t->file == before->file && t->offset < before->offset + before->bytes)
            return tensor_fail(c, t, why, ERR_FORMAT, "its data (from byte %llu) overlaps that of '%s' (to byte %llu)",
                               (unsigned long long)t->offset, quote(before->name).text,
                               (unsigned long long)(before->offset + before->bytes));
    }
    return ERR_NONE;
}

static enum err check_duplicates(const struct container *c, struct reason *why) {
    for (size_t i = 1; i < c->n_tensors; i++)
        if (span_equal(c->by_name[i - 1]->name, c->by_name[i]->name))
            return tensor_fail(c, c->by_name[i], why, ERR_FORMAT, "a tensor of this name was already listed");
    return ERR_NONE;
}

enum err directory_check(struct container *c, struct reason *why) {
    for (size_t i = 0; i < c->n_tensors; i++) {
        struct model_tensor *t = &c->tensors[i];
        uint64_t elements;
        TRY(size_tensor(c, t, &elements, why));
        TRY(place_tensor(c, t, why));
        if (!size_add(c->weight_bytes, t->bytes, &c->weight_bytes) || !size_add(c->n_parameters, elements, &c->n_parameters))
            return tensor_fail(c, t, why, ERR_FORMAT, "the sum of all tensor sizes overflows");
    }
    c->by_name = calloc_checked(c->n_tensors, sizeof *c->by_name);
    if (!c->by_name) return fail(why, ERR_NO_MEMORY, "%s: no memory for its tensor index", path_label(c->files[0].path));
    for (size_t i = 0; i < c->n_tensors; i++) c->by_name[i] = &c->tensors[i];
    TRY(check_overlap(c, c->by_name, why));
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
