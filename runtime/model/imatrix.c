/* Entries of an importance matrix: by name, added up, and read as the importance of one matrix's columns. Files:
 * imatrix_file.c. */
#include "model/imatrix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/container.h"

static void free_entry(struct imatrix_entry *e) {
    if (!e) return;
    free(e->name);
    free(e->sums);
    free(e->rows);
    free(e);
}

void imatrix_close(struct imatrix *m) {
    for (size_t i = 0; i < m->n; i++) free_entry(m->entries[i]);
    for (size_t i = 0; i < m->n_datasets; i++) free(m->datasets[i]);
    free(m->entries);
    free(m->datasets);
    *m = (struct imatrix){0};
}

/* ---- by name -------------------------------------------------------------------------------------------------------- */

/* Where an entry of this name is, or belongs. */
static size_t place_of(const struct imatrix *m, struct span name, bool *found) {
    size_t low = 0, high = m->n;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = span_compare(span_of(m->entries[middle]->name), name);
        if (order == 0) return *found = true, middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found = false;
    return low;
}

const struct imatrix_entry *imatrix_find(const struct imatrix *m, struct span name) {
    bool found;
    const size_t at = place_of(m, name, &found);
    return found ? m->entries[at] : NULL;
}

static bool is_flat(const struct imatrix_entry *e) { return !e->rows_known && e->matrices == 1; }

static bool fits(const struct imatrix_entry *e, uint64_t columns, uint64_t matrices) {
    if (e->columns == columns && e->matrices == matrices) return true;
    uint64_t values;
    return is_flat(e) && size_mul(columns, matrices, &values) && values == e->columns;
}

/* A flat entry whose size fits takes this shape. */
static enum err give_shape(struct imatrix_entry *e, uint64_t columns, uint64_t matrices, struct reason *why) {
    if (!fits(e, columns, matrices))
        return fail(why, ERR_ARGUMENT, "'%s' has sums of %llu x %llu columns; %llu x %llu are needed: it is from another model",
                    quote(span_of(e->name)).text, (unsigned long long)e->matrices, (unsigned long long)e->columns,
                    (unsigned long long)matrices, (unsigned long long)columns);
    if (e->matrices == matrices) return ERR_NONE;
    double *rows = calloc_checked(matrices, sizeof *rows);
    if (!rows) return fail(why, ERR_NO_MEMORY, "no memory for the sums of '%s'", quote(span_of(e->name)).text);
    for (uint64_t i = 0; i < matrices; i++) rows[i] = e->rows[0];
    free(e->rows);
    e->rows = rows;
    e->columns = columns;
    e->matrices = matrices;
    return ERR_NONE;
}

static struct imatrix_entry *make_entry(const char *name, uint64_t columns, uint64_t matrices) {
    struct imatrix_entry *e = calloc(1, sizeof *e);
    uint64_t values;
    if (!e || !columns || !matrices || !size_mul(columns, matrices, &values)) return free(e), NULL;
    *e = (struct imatrix_entry){.name = strdup(name), .columns = columns, .matrices = matrices, .rows_known = true};
    e->sums = calloc_checked(values, sizeof *e->sums);
    e->rows = calloc_checked(matrices, sizeof *e->rows);
    if (e->name && e->sums && e->rows) return e;
    free_entry(e);
    return NULL;
}

enum err imatrix_add(struct imatrix *m, const char *name, uint64_t columns, uint64_t matrices, struct imatrix_entry **out,
                     struct reason *why) {
    bool found;
    const size_t at = place_of(m, span_of(name), &found);
    *out = NULL;
    if (found) {
        TRY(give_shape(m->entries[at], columns, matrices, why));
        *out = m->entries[at];
        return ERR_NONE;
    }
    if (m->n == m->cap) {
        const size_t cap = m->cap ? 2 * m->cap : 256;
        struct imatrix_entry **grown = reallocarray(m->entries, cap, sizeof *grown);
        if (!grown) return fail(why, ERR_NO_MEMORY, "no memory for %zu weights", cap);
        m->entries = grown;
        m->cap = cap;
    }
    struct imatrix_entry *e = make_entry(name, columns, matrices);
    if (!e)
        return fail(why, ERR_NO_MEMORY, "no memory for the sums of '%s': %llu x %llu columns", quote(span_of(name)).text,
                    (unsigned long long)matrices, (unsigned long long)columns);
    memmove(m->entries + at + 1, m->entries + at, (m->n - at) * sizeof *m->entries);
    m->entries[at] = *out = e;
    m->n++;
    return ERR_NONE;
}

enum err imatrix_add_dataset(struct imatrix *m, const char *name, struct reason *why) {
    char **grown = reallocarray(m->datasets, m->n_datasets + 1, sizeof *grown);
    if (grown) m->datasets = grown;
    char *copy = strdup(name);
    if (!grown || !copy) {
        free(copy);
        return fail(why, ERR_NO_MEMORY, "no memory for the name of a text");
    }
    m->datasets[m->n_datasets++] = copy;
    return ERR_NONE;
}

void imatrix_scale(struct imatrix_entry *e, double rows_each) {
    for (uint64_t i = 0; i < e->columns * e->matrices; i++) e->sums[i] = (float)((double)e->sums[i] * rows_each);
    for (uint64_t i = 0; i < e->matrices; i++) e->rows[i] *= rows_each;
    e->rows_known = true;
}

/* Rows of a matrix in a chunk, on average; 0: not known. */
static double rows_a_chunk(const struct imatrix *m, const struct imatrix_entry *e) {
    double rows = 0;
    for (uint64_t i = 0; e->rows_known && i < e->matrices; i++) rows += e->rows[i];
    return m->chunks ? rows / (double)e->matrices / m->chunks : 0;
}

/* Where only one side knows its rows, the other's chunks are taken to have had as many. */
static enum err merge_entry(struct imatrix *into, const struct imatrix *m, const struct imatrix_entry *from,
                            struct reason *why) {
    const struct imatrix_entry *there = imatrix_find(into, span_of(from->name));
    const bool as_there = there && is_flat(from) && fits(from, there->columns, there->matrices);
    const double here_a_chunk = there ? rows_a_chunk(into, there) : 0, from_a_chunk = rows_a_chunk(m, from);
    struct imatrix_entry *e;
    TRY(imatrix_add(into, from->name, as_there ? there->columns : from->columns, as_there ? there->matrices : from->matrices,
                    &e, why));
    if (!there) e->rows_known = from->rows_known;
    if (!e->rows_known && from_a_chunk > 0) imatrix_scale(e, from_a_chunk);
    const double factor = from->rows_known || here_a_chunk <= 0 ? 1 : here_a_chunk;
    for (uint64_t i = 0; i < e->columns * e->matrices; i++) e->sums[i] += (float)(factor * (double)from->sums[i]);
    for (uint64_t i = 0; i < e->matrices; i++) e->rows[i] += factor * from->rows[from->matrices == e->matrices ? i : 0];
    return ERR_NONE;
}

enum err imatrix_merge(struct imatrix *into, const struct imatrix *from, struct reason *why) {
    for (size_t i = 0; i < from->n; i++) TRY(merge_entry(into, from, from->entries[i], why));
    for (size_t i = 0; i < from->n_datasets; i++) TRY(imatrix_add_dataset(into, from->datasets[i], why));
    into->chunks += from->chunks < UINT32_MAX - into->chunks ? from->chunks : UINT32_MAX - into->chunks;
    if (!into->chunk_tokens) into->chunk_tokens = from->chunk_tokens;
    return ERR_NONE;
}

/* ---- of a weight ---------------------------------------------------------------------------------------------------- */

enum { RELATIVES = 3 };
static const char *const families[][RELATIVES] = {{"attn_q.weight", "attn_k.weight", "attn_v.weight"},
                                                  {"ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_gate_up_exps.weight"}};

/* The entry of a relative of `stem`, a name's part from `at` on. */
static const struct imatrix_entry *find_relative(const struct imatrix *m, struct span name, size_t at,
                                                 const char *const *family) {
    const struct span stem = {name.ptr + at, name.len - at};
    bool member = false;
    for (int i = 0; i < RELATIVES; i++) member |= span_equal(stem, span_of(family[i]));
    const struct imatrix_entry *found = NULL;
    for (int i = 0; member && !found && i < RELATIVES; i++) {
        struct text other = {0};
        text_add(&other, name.ptr, at);
        text_add_span(&other, span_of(family[i]));
        if (!other.failed) found = imatrix_find(m, (struct span){other.ptr, other.len});
        text_free(&other);
    }
    return found;
}

enum err imatrix_of_weight(const struct imatrix *m, struct span name, uint64_t columns, uint64_t matrices,
                           const struct imatrix_entry **out, struct reason *why) {
    *out = imatrix_find(m, name);
    size_t at = 0; /* of the part behind "blk.N." */
    for (size_t dots = 0; at < name.len && dots < 2; at++) dots += name.ptr[at] == '.';
    for (size_t f = 0; !*out && f < sizeof families / sizeof *families; f++) *out = find_relative(m, name, at, families[f]);
    if (!*out || fits(*out, columns, matrices)) return ERR_NONE;
    const struct imatrix_entry *e = *out;
    *out = NULL;
    return fail(why, ERR_FORMAT,
                "the importance of '%s' is of %llu x %llu columns; the weight has %llu x %llu: it is from another model",
                quote(name).text, (unsigned long long)e->matrices, (unsigned long long)e->columns, (unsigned long long)matrices,
                (unsigned long long)columns);
}

static double mean_of(const float *sums, uint64_t columns) {
    double sum = 0;
    for (uint64_t c = 0; c < columns; c++) sum += (double)sums[c];
    return sum / (double)columns;
}

/* pattern[c] += weight * sums[c], so that a row of even columns adds `weight` to each. */
static void add_pattern(const float *sums, uint64_t columns, double mean, double weight, float *pattern) {
    for (uint64_t c = 0; c < columns; c++) pattern[c] += (float)(weight * (double)sums[c] / mean);
}

/* The fellows' mean pattern (mean 1) into out; what their columns have on average is returned, 0: there is nothing to go by.
 * Those seen often count most, but none for more than one. */
static double fellows(const struct imatrix_entry *e, uint64_t columns, uint64_t index, float *out) {
    double weights = 0, mean = 0;
    memset(out, 0, columns * sizeof *out);
    for (uint64_t i = 0; i < e->matrices; i++) {
        const double own = mean_of(e->sums + i * columns, columns);
        if (i == index || e->rows[i] <= 0 || own <= 0) continue;
        const double weight = e->rows[i] / (e->rows[i] + IMATRIX_PRIOR_ROWS);
        add_pattern(e->sums + i * columns, columns, own, weight, out);
        mean += weight * own / e->rows[i];
        weights += weight;
    }
    for (uint64_t c = 0; weights > 0 && c < columns; c++) out[c] = (float)((double)out[c] / weights);
    return weights > 0 ? mean / weights : 0;
}

void imatrix_importance(const struct imatrix_entry *e, uint64_t columns, uint64_t matrices, uint64_t index, float *out) {
    const float *sums = e->sums + index * columns;
    const double rows = e->rows[e->matrices == matrices ? index : 0], own = mean_of(sums, columns);
    const bool seen = rows > 0 && own > 0;
    const double theirs = e->rows_known && matrices > 1 ? fellows(e, columns, index, out) : 0;
    if (!seen && theirs > 0) {
        for (uint64_t c = 0; c < columns; c++) out[c] = (float)((double)out[c] * theirs);
    } else if (!seen) {
        for (uint64_t c = 0; c < columns; c++) out[c] = 1;
    } else {
        const double prior = theirs > 0 ? IMATRIX_PRIOR_ROWS : 0, all = rows + prior, mean = own / rows;
        for (uint64_t c = 0; c < columns; c++) {
            const double pattern = prior > 0 ? prior * (double)out[c] : 0;
            out[c] = (float)(((double)sums[c] + pattern * mean) / all);
        }
    }
}

uint64_t imatrix_count_below(const struct imatrix_entry *e, double rows) {
    uint64_t n = 0;
    for (uint64_t i = 0; i < e->matrices; i++) n += e->rows[i] < rows;
    return n;
}
