/* The weights of a rewritten model: pieces of rows, read, encoded on the pool, written, in the order of the output.
 *
 * Holds a piece of the input and of the output and two rows a thread, whatever the size of the tensors. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/pool.h"
#include "cpu/encode.h"
#include "engine/quantize_private.h"
#include "model/gguf_write.h"
#include "placement/facts.h"

enum {
    PIECE_BYTES = 32 << 20, /* of input or output, or one row */
    ITEM_WEIGHTS = 1 << 12, /* what a thread takes at once, or one row */
    GGUF_QUANTIZATION_VERSION = 2,
};

struct member {           /* of the pool */
    float *row, *decoded; /* [largest ne[0]] */
    double error, energy; /* of the piece */
    uint64_t not_finite;
    char pad[64]; /* sums of two members never share a cache line */
};

struct run {
    struct quantize *q;
    struct pool *pool;
    struct member *members; /* [pool_threads] */
    unsigned n_members;
    uint8_t *source, *target;     /* a piece */
    struct gguf_writer **writers; /* [n_parts]; all are finished at the end */
    uint32_t n_finished;
    uint64_t done_bytes;

    /* the piece in work */
    const struct quantize_tensor *tensor;
    float *importances;      /* [largest ne[0]] of one matrix */
    const float *importance; /* they, or NULL */
    uint64_t n_rows, target_row_bytes;
    uint32_t n_items, item_rows;
    struct pool_counter next;
};

/* ---- metadata ------------------------------------------------------------------------------------------------------------ */

/* What the new file says for itself, and what speaks of the old one's layout. */
static bool is_dropped(const struct quantize *q, struct span key) {
    static const char *const dropped[] = {"general.alignment", "general.quantization_version", "split.no", "split.count",
                                          "split.tensors.count"};
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++)
        if (span_equal(key, span_of(dropped[i]))) return true;
    if (span_equal(key, SPAN("general.file_type"))) return !recipe_copies(q->recipe);
    return q->options.imatrix && span_starts(key, SPAN("quantize.imatrix."));
}

static void write_importance(struct gguf_writer *w, const struct quantize_options *o) {
    const struct imatrix *m = o->imatrix;
    if (o->imatrix_file) gguf_write_string(w, "quantize.imatrix.file", span_of(o->imatrix_file));
    if (m->n_datasets) gguf_write_string(w, "quantize.imatrix.dataset", span_of(m->datasets[0]));
    gguf_write_u32(w, "quantize.imatrix.entries_count", (uint32_t)m->n);
    if (m->chunks) gguf_write_u32(w, "quantize.imatrix.chunks_count", m->chunks);
}

static void write_model_keys(struct gguf_writer *w, const struct quantize *q) {
    const struct model *m = q->model;
    for (size_t i = 0; i < m->n_meta; i++)
        if (!is_dropped(q, m->meta[i].key)) gguf_write_meta(w, &m->meta[i]);
    gguf_write_u32(w, "general.quantization_version", GGUF_QUANTIZATION_VERSION);
    if (!recipe_copies(q->recipe)) gguf_write_u32(w, "general.file_type", recipe_file_type(q->recipe));
    if (q->options.imatrix) write_importance(w, &q->options);
}

static void write_split_keys(struct gguf_writer *w, const struct quantize *q, uint32_t part) {
    gguf_write_u16(w, "split.no", (uint16_t)part);
    gguf_write_u16(w, "split.count", (uint16_t)q->n_parts);
    gguf_write_i32(w, "split.tensors.count", (int32_t)q->model->n_tensors);
}

static enum err begin_part(struct run *r, uint32_t part, struct reason *why) {
    const struct quantize *q = r->q;
    TRY(gguf_write_open(q->paths[part], &r->writers[part], why));
    struct gguf_writer *w = r->writers[part];
    if (part == 0) write_model_keys(w, q);
    if (q->n_parts > 1) write_split_keys(w, q, part);
    for (size_t i = 0; i < q->model->n_tensors; i++) {
        const struct quantize_tensor *t = &q->tensors[i];
        if (t->part == part) gguf_write_tensor(w, t->source->name, t->choice.type, t->source->n_dims, t->source->ne);
    }
    return gguf_write_begin(w, why);
}

/* ---- pieces -------------------------------------------------------------------------------------------------------------- */

/* In eight sums, which a compiler may keep in vector registers. */
static double squares(const float *x, const float *importance, size_t n) {
    double sums[8] = {0}, all = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t l = 0; l < 8; l++) sums[l] += (double)(importance ? importance[i + l] : 1) * x[i + l] * x[i + l];
    for (; i < n; i++) all += (double)(importance ? importance[i] : 1) * x[i] * x[i];
    for (size_t l = 0; l < 8; l++) all += sums[l];
    return all;
}

/* What encoding lost, as far as there is a decoder to tell. */
static void measure(const struct run *r, struct member *m, const uint8_t *encoded) {
    const struct cpu_type *type = &r->q->ops.types[r->tensor->choice.type];
    const size_t k = r->tensor->source->ne[0];
    if (!type->dequant) return;
    for (size_t i = 0; i < k; i++)
        if (!isfinite(m->row[i])) m->row[i] = 0; /* as the encoder took it */
    type->dequant(encoded, m->decoded, k);
    for (size_t i = 0; i < k; i++) m->decoded[i] -= m->row[i];
    m->error += squares(m->decoded, r->importance, k);
    m->energy += squares(m->row, r->importance, k);
}

static void encode_items(const struct worker *me, void *ctx) {
    struct run *r = ctx;
    struct member *m = &r->members[me->index];
    const struct model_tensor *t = r->tensor->source;
    const struct cpu_type *source = &r->q->ops.types[t->type];
    for (uint32_t item; pool_next(&r->next, r->n_items, &item);) {
        const uint64_t first = (uint64_t)item * r->item_rows, left = r->n_rows - first;
        const uint64_t end = first + (left < r->item_rows ? left : r->item_rows);
        for (uint64_t row = first; row < end; row++) {
            uint8_t *to = r->target + row * r->target_row_bytes;
            source->dequant(r->source + row * t->row_bytes, m->row, t->ne[0]);
            m->not_finite += !encode_row_with(r->q->ops.isa, r->tensor->choice.type, m->row, r->importance, t->ne[0], to);
            measure(r, m, to);
        }
    }
}

static void encode_piece(struct run *r) {
    const uint64_t columns = r->tensor->source->ne[0];
    r->item_rows = columns < ITEM_WEIGHTS ? (uint32_t)(ITEM_WEIGHTS / columns) : 1;
    r->n_items = (uint32_t)((r->n_rows + r->item_rows - 1) / r->item_rows);
    pool_counter_reset(&r->next);
    pool_run(r->pool, encode_items, r);
    struct quantize_error *e = &r->q->errors[r->tensor->choice.type];
    const bool measured = r->q->ops.types[r->tensor->choice.type].dequant != NULL;
    if (measured) e->weights += r->n_rows * columns;
    for (unsigned i = 0; i < r->n_members; i++) {
        struct member *m = &r->members[i];
        e->error += m->error;
        e->energy += m->energy;
        r->q->not_finite += m->not_finite;
        m->error = m->energy = 0;
        m->not_finite = 0;
    }
}

static enum err report(struct run *r, struct reason *why) {
    const struct quantize *q = r->q;
    const struct quantize_progress p = {.tensor = (size_t)(r->tensor - q->tensors),
                                        .n_tensors = q->model->n_tensors,
                                        .name = r->tensor->source->name,
                                        .done_bytes = r->done_bytes,
                                        .all_bytes = q->model->weight_bytes};
    if (q->options.on_progress && q->options.on_progress(q->options.on_progress_ctx, &p))
        return fail(why, ERR_CANCELLED, "interrupted in tensor %zu of %zu", p.tensor + 1, p.n_tensors);
    return ERR_NONE;
}

/* Rows of one matrix. The system reads ahead what comes next while the threads work. */
static enum err write_rows(struct run *r, uint64_t matrix, uint64_t row, struct reason *why) {
    const struct model_tensor *t = r->tensor->source;
    const struct model_slice at = model_slice_of(t, matrix);
    const uint64_t bytes = r->n_rows * t->row_bytes, offset = at.offset + row * t->row_bytes;
    const bool same = t->type == r->tensor->choice.type;
    TRY(model_read(r->q->model, at.file, r->source, bytes, offset, why));
    (void)posix_fadvise(r->q->model->files[at.file].fd, (off_t)(offset + bytes), PIECE_BYTES, POSIX_FADV_WILLNEED);
    if (!same) encode_piece(r);
    TRY(gguf_write_data(r->writers[r->tensor->part], same ? r->source : r->target, r->n_rows * r->target_row_bytes, why));
    r->done_bytes += bytes;
    return report(r, why);
}

static uint64_t rows_a_piece(const struct quantize_tensor *t, uint64_t target_row_bytes) {
    const uint64_t row = t->source->row_bytes > target_row_bytes ? t->source->row_bytes : target_row_bytes;
    const uint64_t rows = row < PIECE_BYTES ? PIECE_BYTES / row : 1;
    return rows < t->source->ne[1] ? rows : t->source->ne[1];
}

static uint64_t target_row_bytes_of(const struct quantize_tensor *t) {
    return t->bytes / (t->source->ne[1] * quantize_matrices(t->source));
}

static void log_tensor(const struct run *r, const struct quantize_error *before) {
    const struct quantize_tensor *t = r->tensor;
    const struct quantize_error *e = &r->q->errors[t->choice.type];
    char error[32] = "";
    if (e->energy > before->energy)
        snprintf(error, sizeof error, ", error %.3f %%", 100 * sqrt((e->error - before->error) / (e->energy - before->energy)));
    log_line(&r->q->options.log, LOG_INFO, "[%zu/%zu] %.*s: %s -> %s, %.2f -> %.2f MiB%s", (size_t)(t - r->q->tensors) + 1,
             r->q->model->n_tensors, (int)t->source->name.len, t->source->name.ptr, tensor_type_info(t->source->type)->name,
             tensor_type_info(t->choice.type)->name, (double)t->source->bytes / (1 << 20), (double)t->bytes / (1 << 20), error);
}

static void take_importance(struct run *r, uint64_t matrix) {
    const struct quantize_tensor *t = r->tensor;
    r->importance = t->importance ? r->importances : NULL;
    if (t->importance)
        imatrix_importance(t->importance, t->source->ne[0], quantize_matrices(t->source), matrix, r->importances);
}

static enum err write_tensor(struct run *r, const struct quantize_tensor *t, struct reason *why) {
    const struct quantize_error before = r->q->errors[t->choice.type];
    const uint64_t rows = t->source->ne[1];
    r->tensor = t;
    r->target_row_bytes = target_row_bytes_of(t);
    const uint64_t most = rows_a_piece(t, r->target_row_bytes);
    for (uint64_t matrix = 0; matrix < quantize_matrices(t->source); matrix++) {
        take_importance(r, matrix);
        for (uint64_t row = 0; row < rows; row += r->n_rows) {
            r->n_rows = rows - row < most ? rows - row : most;
            TRY(write_rows(r, matrix, row, why));
        }
    }
    log_tensor(r, &before);
    return ERR_NONE;
}

/* ---- all of it ----------------------------------------------------------------------------------------------------------- */

static enum err start_threads(struct run *r, struct reason *why) {
    struct facts *facts = calloc(1, sizeof *facts);
    if (!facts) return fail(why, ERR_NO_MEMORY, "no memory for the facts of this machine");
    enum err code = facts_read(facts, why);
    const unsigned threads = r->q->options.threads ? r->q->options.threads : facts->n_cores;
    if (!code) code = pool_open(threads, facts->core_cpus, facts->n_cores, &r->pool, why);
    free(facts);
    return code;
}

static enum err take_memory(struct run *r, struct reason *why) {
    uint64_t columns = 0, source = 0, target = 0;
    for (size_t i = 0; i < r->q->model->n_tensors; i++) {
        const struct quantize_tensor *t = &r->q->tensors[i];
        const uint64_t target_row = target_row_bytes_of(t), rows = rows_a_piece(t, target_row);
        if (t->source->ne[0] > columns) columns = t->source->ne[0];
        if (rows * t->source->row_bytes > source) source = rows * t->source->row_bytes;
        if (rows * target_row > target) target = rows * target_row;
    }
    r->n_members = pool_threads(r->pool);
    r->members = calloc_checked(r->n_members, sizeof *r->members);
    r->source = calloc_checked(source, 1);
    r->target = calloc_checked(target, 1);
    r->writers = calloc_checked(r->q->n_parts, sizeof(struct gguf_writer *));
    r->importances = calloc_checked(columns, sizeof *r->importances);
    bool enough = r->members && r->source && r->target && r->writers && r->importances;
    for (unsigned i = 0; enough && i < r->n_members; i++) {
        r->members[i].row = calloc_checked(columns, sizeof(float));
        r->members[i].decoded = calloc_checked(columns, sizeof(float));
        enough = r->members[i].row && r->members[i].decoded;
    }
    return enough ? ERR_NONE
                  : fail(why, ERR_NO_MEMORY, "no memory for a piece of %llu bytes", (unsigned long long)(source + target));
}

/* The first part last: who finds it finds all of them. */
static enum err finish(struct run *r, struct reason *why) {
    for (uint32_t i = r->q->n_parts; i-- > 0; r->n_finished++) TRY(gguf_write_finish(r->writers[i], why));
    return ERR_NONE;
}

static enum err write_all(struct run *r, struct reason *why) {
    TRY(start_threads(r, why));
    TRY(take_memory(r, why));
    for (uint32_t part = 0; part < r->q->n_parts; part++) {
        TRY(begin_part(r, part, why));
        for (size_t i = 0; i < r->q->model->n_tensors; i++)
            if (r->q->tensors[i].part == part) TRY(write_tensor(r, &r->q->tensors[i], why));
    }
    return finish(r, why);
}

enum err quantize_run(struct quantize *q, struct reason *why) {
    if (!q->paths) return fail(why, ERR_ARGUMENT, "no output was named");
    struct run r = {.q = q};
    const enum err code = write_all(&r, why);
    for (uint32_t i = 0; r.writers && i < q->n_parts; i++) gguf_write_close(&r.writers[i]);
    for (uint32_t i = 0; code && i < r.n_finished; i++) unlink(q->paths[q->n_parts - 1 - i]);
    for (unsigned i = 0; r.members && i < r.n_members; i++) {
        free(r.members[i].row);
        free(r.members[i].decoded);
    }
    free(r.members);
    free(r.importances);
    free(r.source);
    free(r.target);
    free(r.writers);
    pool_close(&r.pool);
    return code;
}
