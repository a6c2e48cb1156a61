/* What a rewritten model is to look like: the type of each tensor, whether it can be made, in which file it comes; and the
 * checks that need no weights. Nothing is written here. */
#include "engine/quantize.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "cpu/encode.h"
#include "engine/quantize_private.h"

enum { MAX_PARTS = 512, NAME_CHARS = 63, ALIGNMENT = 32 };

/* ---- types --------------------------------------------------------------------------------------------------------------- */

static bool is_float(enum tensor_type type) { return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16; }

static int name_chars(struct span name) { return name.len < NAME_CHARS ? (int)name.len : NAME_CHARS; }

static enum err check_change(const struct quantize *q, const struct model_tensor *t, enum tensor_type to, struct reason *why) {
    const char *from_name = tensor_type_info(t->type)->name, *to_name = tensor_type_info(to)->name;
    const int n = name_chars(t->name);
    if (tensor_type_info(t->type)->gguf_id >= TENSOR_OWN_ID)
        return fail(why, ERR_UNSUPPORTED,
                    "%s: '%.*s' is of type %s, which GGUF does not have; quantize from the original weights", q->options.in, n,
                    t->name.ptr, from_name);
    if (t->type == to) return ERR_NONE;
    if (!is_float(t->type) && !q->options.allow_requantize)
        return fail(why, ERR_ARGUMENT,
                    "%s: '%.*s' is already quantized, to %s; quantize from the original weights, or say --allow-requantize and "
                    "lose more",
                    q->options.in, n, t->name.ptr, from_name);
    if (!q->ops.types[t->type].dequant)
        return fail(why, ERR_UNSUPPORTED, "%s: '%.*s' is of type %s, which this build cannot decode", q->options.in, n,
                    t->name.ptr, from_name);
    if (!encode_supports(to))
        return fail(why, ERR_UNSUPPORTED, "'%.*s' would be of type %s, which this build cannot encode", n, t->name.ptr,
                    to_name);
    return ERR_NONE;
}

/* Only of what is encoded: an entry of another shape is no matter where nothing asks for it. */
static enum err find_importance(const struct quantize *q, struct quantize_tensor *t, struct reason *why) {
    const struct model_tensor *s = t->source;
    if (s->type == t->choice.type || is_float(t->choice.type)) return ERR_NONE;
    if (q->options.imatrix)
        TRY(imatrix_of_weight(q->options.imatrix, s->name, s->ne[0], quantize_matrices(s), &t->importance, why));
    /* nobody measures the embedding, whose input is one token */
    t->lacks_importance =
        !t->importance && encode_wants_importance(t->choice.type) && !span_equal(s->name, SPAN("token_embd.weight"));
    return ERR_NONE;
}

static enum err choose(struct quantize *q, struct quantize_tensor *out, const struct model_tensor *t, struct reason *why) {
    uint64_t row_bytes;
    out->source = t;
    out->choice = recipe_choose(q->recipe, t);
    TRY(check_change(q, t, out->choice.type, why));
    if (!tensor_row_bytes(out->choice.type, t->ne[0], &row_bytes) || !size_mul(row_bytes, t->ne[1], &out->bytes) ||
        !size_mul(out->bytes, quantize_matrices(t), &out->bytes) || !size_add(q->bytes, out->bytes, &q->bytes) ||
        q->bytes > INT64_MAX)
        return fail(why, ERR_LIMIT, "%s: '%.*s' is too large", q->options.in, name_chars(t->name), t->name.ptr);
    return find_importance(q, out, why);
}

static enum err choose_all(struct quantize *q, struct reason *why) {
    const struct model *m = q->model;
    q->tensors = calloc_checked(m->n_tensors, sizeof *q->tensors);
    if (!q->tensors) return fail(why, ERR_NO_MEMORY, "%s: no memory for %zu tensors", q->options.in, m->n_tensors);
    for (size_t i = 0; i < m->n_tensors; i++) TRY(choose(q, &q->tensors[i], &m->tensors[i], why));
    return ERR_NONE;
}

/* ---- files --------------------------------------------------------------------------------------------------------------- */

/* Tensors into parts: by the file they come from, or so that the data of none exceeds the limit unless one tensor alone does.
 */
static enum err divide(struct quantize *q, struct reason *why) {
    const uint64_t limit = q->options.split_max_bytes;
    uint64_t held = 0;
    q->n_parts = q->options.keep_split ? (uint32_t)q->model->n_files : 1;
    for (size_t i = 0; i < q->model->n_tensors; i++) {
        struct quantize_tensor *t = &q->tensors[i];
        const uint64_t bytes = round_up(t->bytes, ALIGNMENT);
        if (q->options.keep_split) {
            t->part = t->source->file;
        } else {
            if (limit && held && held + bytes > limit) {
                q->n_parts++;
                held = 0;
            }
            held += bytes;
            t->part = q->n_parts - 1;
        }
    }
    if (q->n_parts > MAX_PARTS)
        return fail(why, ERR_ARGUMENT, "parts of %llu bytes would be %u files; at most %d can be read again",
                    (unsigned long long)limit, q->n_parts, MAX_PARTS);
    return ERR_NONE;
}

/* The length of `out` without ".gguf" and a part's number. */
static size_t stem(const char *out) {
    size_t n = strlen(out);
    unsigned part, parts;
    int end = 0;
    if (n > 5 && strcmp(out + n - 5, ".gguf") == 0) n -= 5;
    if (n > 15 && sscanf(out + n - 15, "-%5u-of-%5u%n", &part, &parts, &end) == 2 && end == 15) n -= 15;
    return n;
}

static enum err name_parts(struct quantize *q, struct reason *why) {
    const char *out = q->options.out;
    q->paths = calloc_checked(q->n_parts, sizeof *q->paths);
    if (!q->paths) return fail(why, ERR_NO_MEMORY, "no memory for %u file names", q->n_parts);
    for (uint32_t i = 0; i < q->n_parts; i++) {
        const int n = q->n_parts == 1
                          ? asprintf(&q->paths[i], "%s", out)
                          : asprintf(&q->paths[i], "%.*s-%05u-of-%05u.gguf", (int)stem(out), out, i + 1, q->n_parts);
        if (n < 0) {
            q->paths[i] = NULL;
            return fail(why, ERR_NO_MEMORY, "no memory for a file name");
        }
    }
    return ERR_NONE;
}

/* By what the names lead to: links, "./" and mounts do not hide that a file would be replaced while it is read. */
static enum err check_not_input(const struct quantize *q, const char *path, const char *suffix, struct reason *why) {
    struct stat out, in;
    char *full;
    if (asprintf(&full, "%s%s", path, suffix) < 0) return fail(why, ERR_NO_MEMORY, "no memory for a file name");
    const bool exists = stat(full, &out) == 0;
    free(full);
    for (size_t i = 0; exists && i < q->model->n_files; i++)
        if (fstat(q->model->files[i].fd, &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
            return fail(why, ERR_ARGUMENT, "%s%s is a file of the input; name another output", path, suffix);
    return ERR_NONE;
}

/* Both the old file and the new exist for a moment, so what is there already does not count as room. */
static enum err check_room(const struct quantize *q, struct reason *why) {
    const char *path = q->paths[0], *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    if (!folder) return fail(why, ERR_NO_MEMORY, "no memory for a file name");
    uint64_t needed = q->bytes;
    for (size_t i = 0; i < q->model->n_meta; i++) needed += q->model->meta[i].bytes.len;
    struct statvfs fs;
    enum err code = ERR_NONE;
    if (statvfs(folder, &fs) != 0)
        code = fail(why, ERR_IO, "%s: %s", folder, strerror(errno));
    else if ((uint64_t)fs.f_bavail * fs.f_frsize < needed)
        code = fail(why, ERR_IO, "%s: the output takes %.2f GB, but only %.2f GB are free there", folder, 1e-9 * (double)needed,
                    1e-9 * (double)fs.f_bavail * (double)fs.f_frsize);
    free(folder);
    return code;
}

static enum err plan_files(struct quantize *q, struct reason *why) {
    TRY(divide(q, why));
    if (!q->options.out) return ERR_NONE;
    TRY(name_parts(q, why));
    for (uint32_t i = 0; i < q->n_parts; i++) {
        TRY(check_not_input(q, q->paths[i], "", why));
        TRY(check_not_input(q, q->paths[i], ".part", why)); /* where the writer begins */
    }
    return check_room(q, why);
}

/* ---- open and close ------------------------------------------------------------------------------------------------------ */

static enum err open_all(struct quantize *q, struct reason *why) {
    q->options.recipe.has_importance = q->options.imatrix != NULL;
    if (q->options.keep_split && q->options.split_max_bytes)
        return fail(why, ERR_ARGUMENT, "the input's parts and parts of a given size exclude each other");
    cpu_ops_init(&q->ops, cpu_isa_best());
    TRY(model_open(q->options.in, true, &q->model, why));
    TRY(recipe_open(&q->options.recipe, &q->model->shape, q->model->output == q->model->embedding, &q->recipe, why));
    TRY(choose_all(q, why));
    return plan_files(q, why);
}

enum err quantize_open(const struct quantize_options *options, struct quantize **out, struct reason *why) {
    *out = NULL;
    struct quantize *q = calloc(1, sizeof *q);
    if (!q) return fail(why, ERR_NO_MEMORY, "no memory to quantize");
    q->options = *options;
    const enum err code = open_all(q, why);
    if (code)
        quantize_close(&q);
    else
        *out = q;
    return code;
}

void quantize_close(struct quantize **quantize) {
    struct quantize *q = *quantize;
    *quantize = NULL;
    if (!q) return;
    for (uint32_t i = 0; q->paths && i < q->n_parts; i++) free(q->paths[i]);
    free(q->paths);
    free(q->tensors);
    recipe_close(&q->recipe);
    model_close(&q->model);
    free(q);
}

/* ---- what was decided ---------------------------------------------------------------------------------------------------- */

const struct model *quantize_model(const struct quantize *q) { return q->model; }
uint64_t quantize_bytes(const struct quantize *q) { return q->bytes; }
uint32_t quantize_parts(const struct quantize *q) { return q->n_parts; }
const char *quantize_part_path(const struct quantize *q, uint32_t part) { return q->paths ? q->paths[part] : NULL; }
uint64_t quantize_not_finite(const struct quantize *q) { return q->not_finite; }

const struct quantize_tensor *quantize_tensors(const struct quantize *q, size_t *n) {
    *n = q->model->n_tensors;
    return q->tensors;
}

struct quantize_sum quantize_sum(const struct quantize *q, enum tensor_type type) {
    struct quantize_sum sum = {.error = NAN};
    for (size_t i = 0; i < q->model->n_tensors; i++) {
        const struct quantize_tensor *t = &q->tensors[i];
        if (t->choice.type != type) continue;
        sum.tensors++;
        sum.bytes += t->bytes;
        sum.weights += t->source->ne[0] * t->source->ne[1] * quantize_matrices(t->source);
    }
    const struct quantize_error *e = &q->errors[type];
    sum.encoded = e->weights;
    if (e->weights) sum.error = e->energy > 0 ? sqrt(e->error / e->energy) : 0;
    return sum;
}

void quantize_matches(const struct quantize *q, size_t override, size_t *fitting, size_t *decided) {
    *fitting = *decided = 0;
    for (size_t i = 0; i < q->model->n_tensors; i++) {
        const struct recipe_choice *c = &q->tensors[i].choice;
        *fitting += recipe_matches(q->recipe, override, q->tensors[i].source->name);
        *decided += c->reason == RECIPE_OVERRIDE && c->override == override;
    }
}
