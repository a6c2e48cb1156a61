/* See collect.h. Sums of a call are made in double; across calls they are binary32, as files hold them. */
#include "cli/collect.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- collecting ------------------------------------------------------------------------------------------------------ */

static enum err add_weight(struct collector *c, const struct model_tensor *t, uint32_t layer, enum engine_input which,
                           struct reason *why) {
    struct imatrix_entry **to = c->weights[(size_t)layer * INPUT_COUNT + which];
    struct text name = {0};
    if (!t) return ERR_NONE;
    while (*to) to++;
    text_add_span(&name, t->name);
    if (name.failed) return fail(why, ERR_NO_MEMORY, "no memory for the names of weights");
    const enum err code = imatrix_add(&c->sums, name.ptr, t->ne[0], t->ne[2], to, why);
    text_free(&name);
    if (!code && !(*to)->rows_known) imatrix_scale(*to, c->chunk_tokens * (t->ne[2] > 1 ? c->experts_share : 1));
    return code;
}

static enum err add_layer(struct collector *c, const struct model_layer *l, uint32_t layer, struct reason *why) {
    const struct {
        const struct model_tensor *weight;
        enum engine_input which;
    } weights[] = {
        {l->attn_q, INPUT_QKV},    {l->attn_k, INPUT_QKV},   {l->attn_v, INPUT_QKV}, {l->attn_output, INPUT_ATTN_OUTPUT},
        {l->router, INPUT_ROUTER}, {l->gate, INPUT_GATE_UP}, {l->up, INPUT_GATE_UP}, {l->down, INPUT_DOWN}};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        TRY(add_weight(c, weights[i].weight, layer, weights[i].which, why));
    return ERR_NONE;
}

static enum err open_entries(struct collector *c, const struct model *m, bool head, struct reason *why) {
    const struct model_shape *s = &m->shape;
    const uint64_t attended = (uint64_t)s->n_heads * s->head_dim;
    uint64_t widest = s->n_embd > attended ? s->n_embd : attended;
    if (s->n_ff > widest) widest = s->n_ff;
    c->n_layers = s->n_layers;
    c->experts_share = (double)s->n_experts_used / s->n_experts;
    c->weights = calloc_checked(((uint64_t)s->n_layers + 1) * INPUT_COUNT, sizeof *c->weights);
    c->columns = calloc_checked(widest, sizeof *c->columns);
    if (!c->weights || !c->columns) return fail(why, ERR_NO_MEMORY, "no memory to collect importance");
    for (uint32_t l = 0; l < s->n_layers; l++) TRY(add_layer(c, &m->layers[l], l, why));
    return head ? add_weight(c, m->output, s->n_layers, INPUT_HEAD, why) : ERR_NONE;
}

enum err collect_open(const struct model *m, bool head, uint32_t chunk_tokens, struct imatrix *sums, struct collector *out,
                      struct reason *why) {
    *out = (struct collector){.sums = *sums, .chunk_tokens = chunk_tokens};
    *sums = (struct imatrix){0};
    const enum err code = open_entries(out, m, head, why);
    if (code) collect_close(out);
    return code;
}

void collect_close(struct collector *c) {
    imatrix_close(&c->sums);
    free(c->weights);
    free(c->columns);
    *c = (struct collector){0};
}

static void add_squares(const float *x, uint64_t n, double *sums) {
    for (uint64_t i = 0; i < n; i++) sums[i] += (double)x[i] * (double)x[i];
}

void collect_input(void *ctx, enum engine_input which, uint32_t layer, int32_t expert, const struct engine_rows *rows) {
    struct collector *c = ctx;
    if (!c->weights || layer > c->n_layers) return;
    struct imatrix_entry *const *weights = c->weights[(size_t)layer * INPUT_COUNT + which];
    if (!weights[0]) return;
    const uint64_t k = rows->columns, matrix = expert < 0 ? 0 : (uint64_t)expert;
    double total = 0;
    memset(c->columns, 0, k * sizeof *c->columns);
    for (uint32_t i = 0; i < rows->n; i++)
        add_squares(rows->x + (rows->index ? (uint64_t)rows->index[i] : i) * k, k, c->columns);
    for (uint64_t i = 0; i < k; i++) total += c->columns[i];
    if (!isfinite(total)) {
        c->bad = weights[0]->name;
        return;
    }
    for (int w = 0; w < COLLECT_SHARERS && weights[w]; w++) {
        float *sums = weights[w]->sums + matrix * k;
        for (uint64_t i = 0; i < k; i++) sums[i] += (float)c->columns[i];
        weights[w]->rows[matrix] += rows->n;
    }
}

/* ---- coverage -------------------------------------------------------------------------------------------------------- */

enum { FEW_ROWS = 64 /* a column's mean square is then known to about a sixth, were its values normal */ };

static bool is_coverage(const struct imatrix_entry *e) { /* one weight a layer stands for all of its experts */
    return e->matrices > 1 && strstr(e->name, "ffn_down") != NULL;
}

static int order_rows(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_rows(const struct imatrix_entry *e) {
    double *sorted = calloc_checked(e->matrices, sizeof *sorted);
    if (!sorted) return 0;
    memcpy(sorted, e->rows, e->matrices * sizeof *sorted);
    qsort(sorted, e->matrices, sizeof *sorted, order_rows);
    const double median = sorted[e->matrices / 2];
    free(sorted);
    return median;
}

static unsigned layer_of(const struct imatrix_entry *e) {
    return strncmp(e->name, "blk.", 4) == 0 ? (unsigned)strtoul(e->name + 4, NULL, 10) : 0;
}

static int order_layers(const void *a, const void *b) {
    const struct imatrix_entry *const *x = a, *const *y = b;
    const unsigned i = layer_of(*x), j = layer_of(*y);
    return i != j ? (i > j) - (i < j) : strcmp((*x)->name, (*y)->name);
}

/* A copy of the list in the order of layers, to be freed. NULL: no memory. */
static const struct imatrix_entry **by_layer(const struct imatrix *m) {
    const struct imatrix_entry **list = calloc_checked(m->n + 1, sizeof *list);
    for (size_t i = 0; list && i < m->n; i++) list[i] = m->entries[i];
    if (list) qsort(list, m->n, sizeof *list, order_layers);
    return list;
}

void collect_coverage(const struct imatrix *m, struct text *out) {
    uint64_t layers = 0, experts = 0, never = 0, few = 0, layers_few = 0;
    struct text lines = {0};
    const struct imatrix_entry **list = by_layer(m);
    for (size_t i = 0; list && i < m->n; i++) {
        const struct imatrix_entry *e = list[i];
        if (!is_coverage(e) || !e->rows_known) continue;
        const uint64_t none = imatrix_count_below(e, 1), some = imatrix_count_below(e, FEW_ROWS);
        layers++;
        experts += e->matrices;
        never += none;
        few += some;
        if (some == 0) continue;
        layers_few++;
        text_addf(&lines, "  layer %3u: %llu of %llu experts with fewer than %d rows, %llu of them with none; median %.0f\n",
                  layer_of(e), (unsigned long long)some, (unsigned long long)e->matrices, FEW_ROWS, (unsigned long long)none,
                  median_rows(e));
    }
    if (layers)
        text_addf(
            out,
            "experts covered: %llu of %llu with %d rows or more; %llu with fewer in %llu of %llu layers, %llu never chosen\n",
            (unsigned long long)(experts - few), (unsigned long long)experts, FEW_ROWS, (unsigned long long)few,
            (unsigned long long)layers_few, (unsigned long long)layers, (unsigned long long)never);
    text_add(out, lines.ptr, lines.len);
    text_free(&lines);
    free(list);
}

/* ---- statistics -------------------------------------------------------------------------------------------------------- */

struct spread { /* of mean squares over the columns of all matrices that were seen */
    double sum, squares, least, most, entropy;
    uint64_t n, active, high; /* above 1e-5; more than a deviation above the mean */
};

static double mean_square(const struct imatrix_entry *e, uint64_t i) { return (double)e->sums[i] / e->rows[i / e->columns]; }

static struct spread measure(const struct imatrix_entry *e) {
    struct spread s = {.least = INFINITY, .most = -INFINITY};
    const uint64_t values = e->columns * e->matrices;
    for (uint64_t i = 0; i < values; i++) {
        if (e->rows[i / e->columns] <= 0) continue;
        const double v = mean_square(e, i);
        s.sum += v;
        s.squares += v * v;
        s.least = fmin(s.least, v);
        s.most = fmax(s.most, v);
        s.active += v > 1e-5;
        s.n++;
    }
    const double mean = s.sum / (double)s.n, deviation = sqrt(fmax(s.squares / (double)s.n - mean * mean, 0));
    for (uint64_t i = 0; s.sum > 0 && i < values; i++) {
        if (e->rows[i / e->columns] <= 0) continue;
        const double v = mean_square(e, i), share = v / s.sum;
        if (share > 0) s.entropy -= share * log2(share);
        s.high += v > mean + deviation;
    }
    return s;
}

/* How alike the columns are to those of the same weight a layer before; NAN: there is none. */
static double likeness(const struct imatrix *m, const struct imatrix_entry *e) {
    const char *stem = strncmp(e->name, "blk.", 4) == 0 ? strchr(e->name + 4, '.') : NULL;
    if (!stem || layer_of(e) == 0) return NAN;
    struct text name = {0};
    text_addf(&name, "blk.%u%s", layer_of(e) - 1, stem);
    const struct imatrix_entry *before = name.failed ? NULL : imatrix_find(m, (struct span){name.ptr, name.len});
    text_free(&name);
    if (!before || before->columns != e->columns || before->matrices != e->matrices) return NAN;
    double both = 0, ours = 0, theirs = 0;
    for (uint64_t i = 0; i < e->columns * e->matrices; i++) {
        if (e->rows[i / e->columns] <= 0 || before->rows[i / e->columns] <= 0) continue;
        const double a = mean_square(e, i), b = mean_square(before, i);
        both += a * b;
        ours += a * a;
        theirs += b * b;
    }
    return ours > 0 && theirs > 0 ? both / sqrt(ours * theirs) : NAN;
}

void collect_statistics(const struct imatrix *m, struct text *out) {
    const struct imatrix_entry **list = by_layer(m);
    text_addf(out, "%-34s %12s %10s %10s %10s %10s %8s %9s %8s %8s %7s %7s\n", "weight", "sum(Act^2)", "min", "max", "mean",
              "sigma", "active", "N", "entropy", "E(norm)", "ZD", "CosSim");
    for (size_t i = 0; list && i < m->n; i++) {
        const struct spread s = measure(list[i]);
        if (s.n == 0) {
            text_addf(out, "%-34s never had an input\n", list[i]->name);
            continue;
        }
        const double n = (double)s.n, mean = s.sum / n, alike = likeness(m, list[i]);
        text_addf(out, "%-34s %12.2f %10.4f %10.4f %10.4f %10.4f %7.2f%% %9llu %8.4f %7.2f%% %6.2f%% ", list[i]->name, s.sum,
                  s.least, s.most, mean, sqrt(fmax(s.squares / n - mean * mean, 0)), 100 * (double)s.active / n,
                  (unsigned long long)s.n, s.entropy, s.n > 1 ? 100 * s.entropy / log2(n) : 100, 100 * (double)s.high / n);
        if (isnan(alike))
            text_addf(out, "%7s\n", "-");
        else
            text_addf(out, "%7.4f\n", alike);
    }
    free(list);
}
