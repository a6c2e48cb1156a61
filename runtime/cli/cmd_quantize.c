/* quantize: a model written again with other weight types. llama-quantize's arguments and flags; what it decides is in
 * model/recipe.c, the work in engine/quantize.c. Results go to stdout, progress and warnings to stderr. */
#include "cli/cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/quantize.h"

struct quantizing {
    struct cli *cli;
    const char *in, *out, *type; /* out NULL: nothing is written */
    unsigned threads;
    struct text default_out;
    struct recipe_override *overrides; /* [n_overrides], patterns are owned */
    size_t n_overrides;
    enum tensor_type embedding, head;
    struct imatrix imatrix;
    struct quantize *job;
    uint64_t begin_ns, shown_ns;
};

/* ---- arguments ----------------------------------------------------------------------------------------------------------- */

/* As llama-quantize names it: ggml-model-TYPE.gguf beside the input, or in it when it is a folder. */
static enum err name_output(struct quantizing *z, struct reason *why) {
    struct stat info;
    const char *slash = strrchr(z->in, '/');
    if (stat(z->in, &info) == 0 && S_ISDIR(info.st_mode))
        text_addf(&z->default_out, "%s/", z->in);
    else
        text_add(&z->default_out, z->in, slash ? (size_t)(slash - z->in) + 1 : 0);
    text_addf(&z->default_out, "ggml-model-%s.gguf", z->type);
    z->out = z->default_out.ptr;
    return z->default_out.failed ? fail(why, ERR_NO_MEMORY, "no memory for the output's name") : ERR_NONE;
}

/* IN TYPE | IN TYPE THREADS | IN OUT TYPE | IN OUT TYPE THREADS */
static enum err read_words(struct quantizing *z, struct reason *why) {
    const struct options *o = z->cli->options;
    const char *const *w = o->words.items;
    const size_t n = o->words.len;
    int64_t threads = o->threads;
    if (n < 2)
        return fail(why, ERR_ARGUMENT, "quantize needs an input and a type: coldstream quantize %s",
                    verb_info(o->verb)->arguments);
    const bool no_out = n == 2 || (n == 3 && recipe_is_known(w[1]) && parse_whole(w[2], &threads));
    const size_t at = no_out ? 1 : 2;
    z->in = w[0];
    z->out = no_out ? NULL : w[1];
    z->type = w[at];
    if (n > at + 1 && (!parse_whole(w[at + 1], &threads) || threads < 0 || threads > 1024))
        return fail(why, ERR_ARGUMENT, "'%.40s' is no number of threads from 0 to 1024", w[at + 1]);
    z->threads = (unsigned)threads;
    if (!recipe_is_known(z->type))
        return fail(why, ERR_ARGUMENT, "unknown type '%.40s'; coldstream quantize --help lists them", z->type);
    if (o->dry_run) z->out = NULL;
    return no_out && !o->dry_run ? name_output(z, why) : ERR_NONE;
}

static enum err read_type(const char *flag, const char *text, enum tensor_type *out, struct reason *why) {
    if (tensor_type_from_name(span_of(text), out)) return ERR_NONE;
    return fail(why, ERR_ARGUMENT, "%s '%.40s': not the name of a weight type, such as Q6_K or IQ4_XS", flag, text);
}

static enum err add_override(struct quantizing *z, struct span pattern, enum tensor_type type, struct reason *why) {
    struct recipe_override *grown = reallocarray(z->overrides, z->n_overrides + 1, sizeof *grown);
    if (grown) z->overrides = grown;
    char *copy = strndup(pattern.ptr, pattern.len);
    if (!grown || !copy) {
        free(copy);
        return fail(why, ERR_NO_MEMORY, "no memory for --tensor-type");
    }
    z->overrides[z->n_overrides++] = (struct recipe_override){copy, type};
    return ERR_NONE;
}

/* "RE=TYPE" or "RE=TYPE,RE=TYPE". A comma that does not follow a type belongs to the expression. */
static enum err read_overrides(struct quantizing *z, const char *text, struct reason *why) {
    const char *start = text;
    for (const char *end = strchrnul(text, ',');; end = strchrnul(end + 1, ',')) {
        const char *equals = memrchr(start, '=', (size_t)(end - start));
        enum tensor_type type;
        if (equals && equals > start && tensor_type_from_name((struct span){equals + 1, (size_t)(end - equals - 1)}, &type)) {
            TRY(add_override(z, (struct span){start, (size_t)(equals - start)}, type, why));
            start = end + (*end == ',');
        }
        if (!*end) break;
    }
    if (!*start && start > text) return ERR_NONE;
    return fail(why, ERR_ARGUMENT, "--tensor-type '%.80s': expected REGEX=TYPE, such as ffn_down_exps=Q6_K", start);
}

static enum err read_arguments(struct quantizing *z, struct reason *why) {
    const struct options *o = z->cli->options;
    TRY(read_words(z, why));
    for (size_t i = 0; i < o->tensor_types.len; i++) TRY(read_overrides(z, o->tensor_types.items[i], why));
    if (o->embedding_type) TRY(read_type("--token-embedding-type", o->embedding_type, &z->embedding, why));
    if (o->head_type) TRY(read_type("--output-tensor-type", o->head_type, &z->head, why));
    return ERR_NONE;
}

/* ---- progress ------------------------------------------------------------------------------------------------------------ */

static bool on_progress(void *ctx, const struct quantize_progress *p) {
    struct quantizing *z = ctx;
    const uint64_t now = clock_ns();
    if (now - z->shown_ns < 100000000) return cli_cancelled();
    z->shown_ns = now;
    const double seconds = 1e-9 * (double)(now - z->begin_ns), part = (double)p->done_bytes / (double)p->all_bytes;
    const uint64_t left = part > 0 ? (uint64_t)(seconds * (1 / part - 1)) : 0;
    cli_progress(z->cli, "tensor %zu of %zu, %.1f %%, %.0f MB/s, %" PRIu64 ":%02" PRIu64 " left", p->tensor + 1, p->n_tensors,
                 100 * part, seconds > 0 ? 1e-6 * (double)p->done_bytes / seconds : 0, left / 60, left % 60);
    return cli_cancelled();
}

/* ---- what is printed ----------------------------------------------------------------------------------------------------- */

static double bits(uint64_t bytes, uint64_t weights) { return weights ? 8 * (double)bytes / (double)weights : 0; }

static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

static void add_tensor(const struct quantize_tensor *t, struct text *out) {
    const struct model_tensor *s = t->source;
    const size_t start = out->len;
    text_add_span(out, s->name); /* without control characters: the reader saw to that */
    text_addf(out, "%*s[", (int)(out->len - start < 34 ? 34 - (out->len - start) : 1), "");
    for (uint32_t d = 0; d < s->n_dims; d++) text_addf(out, d ? ", %" PRIu64 : "%" PRIu64, s->ne[d]);
    text_addf(out, "]%*s", (int)(out->len - start < 54 ? 54 - (out->len - start) : 1), "");
    text_addf(out, "%-7s -> %-7s %10.2f MiB  %s", tensor_type_info(s->type)->name, tensor_type_info(t->choice.type)->name,
              mib(t->bytes), recipe_reason_name(t->choice.reason));
    if (t->choice.type != t->choice.wanted)
        text_addf(out, "; rows do not divide into %s", tensor_type_info(t->choice.wanted)->name);
    if (t->lacks_importance) text_addf(out, "; no importance");
    text_addf(out, "\n");
}

static void add_overrides(const struct quantizing *z, struct text *out) {
    for (size_t i = 0; i < z->n_overrides; i++) {
        size_t fitting, decided;
        quantize_matches(z->job, i, &fitting, &decided);
        text_addf(out, "--tensor-type %s=%s: fits %zu tensors, decides %zu\n", z->overrides[i].pattern,
                  tensor_type_info(z->overrides[i].type)->name, fitting, decided);
    }
}

static void add_types(const struct quantizing *z, struct text *out) {
    const uint64_t all = quantize_bytes(z->job);
    text_addf(out, "type      tensors          MiB    share  error\n");
    for (int i = 0; i < TYPE_COUNT; i++) {
        const struct quantize_sum sum = quantize_sum(z->job, (enum tensor_type)i);
        if (!sum.tensors) continue;
        text_addf(out, "%-8s %8" PRIu64 " %12.2f %6.2f %%", tensor_type_info((enum tensor_type)i)->name, sum.tensors,
                  mib(sum.bytes), 100 * (double)sum.bytes / (double)all);
        if (!isnan(sum.error)) text_addf(out, "  %.3f %%", 100 * sum.error);
        text_addf(out, "\n");
    }
}

static void add_totals(const struct quantizing *z, struct text *out) {
    const struct model *m = quantize_model(z->job);
    const uint64_t bytes = quantize_bytes(z->job);
    text_addf(out, "input  %12.2f MiB, %.4f bits a weight\n", mib(m->weight_bytes), bits(m->weight_bytes, m->n_parameters));
    text_addf(out, "output %12.2f MiB, %.4f bits a weight\n", mib(bytes), bits(bytes, m->n_parameters));
}

static enum err print(struct text *out, struct reason *why) {
    const bool ok = cli_write_text(out);
    const bool memory = !out->failed;
    text_free(out);
    return ok       ? ERR_NONE
           : memory ? fail(why, ERR_IO, "stdout: cannot write")
                    : fail(why, ERR_NO_MEMORY, "no memory for the listing");
}

static enum err print_plan(const struct quantizing *z, struct reason *why) {
    struct text out = {0};
    size_t n;
    const struct quantize_tensor *tensors = quantize_tensors(z->job, &n);
    add_overrides(z, &out);
    if (z->cli->options->dry_run) {
        for (size_t i = 0; i < n; i++) add_tensor(&tensors[i], &out);
        add_types(z, &out);
        add_totals(z, &out);
        if (quantize_parts(z->job) > 1) text_addf(&out, "files  %12u\n", quantize_parts(z->job));
    }
    return out.len ? print(&out, why) : ERR_NONE;
}

static enum err print_result(const struct quantizing *z, struct reason *why) {
    struct text out = {0};
    const double seconds = 1e-9 * (double)(clock_ns() - z->begin_ns);
    add_types(z, &out);
    add_totals(z, &out);
    for (uint32_t i = 0; i < quantize_parts(z->job); i++) text_addf(&out, "%s\n", quantize_part_path(z->job, i));
    text_addf(&out, "%.1f s, %.1f MB/s of input\n", seconds, 1e-6 * (double)quantize_model(z->job)->weight_bytes / seconds);
    return print(&out, why);
}

/* ---- warnings ------------------------------------------------------------------------------------------------------------ */

static enum err check_overrides(const struct quantizing *z, struct reason *why) {
    for (size_t i = 0; i < z->n_overrides; i++) {
        size_t fitting, decided;
        quantize_matches(z->job, i, &fitting, &decided);
        if (decided) continue;
        const char *pattern = z->overrides[i].pattern;
        const char *problem = fitting ? "fits only tensors that something else decides" : "fits no tensor";
        if (z->cli->options->strict) return fail(why, ERR_ARGUMENT, "--tensor-type '%s' %s", pattern, problem);
        log_line(&z->cli->log, LOG_WARN, "--tensor-type '%s' %s", pattern, problem);
    }
    return ERR_NONE;
}

static void warn_tensors(const struct quantizing *z) {
    size_t n, unfitting = 0, unimportant = 0;
    const struct quantize_tensor *tensors = quantize_tensors(z->job, &n);
    for (size_t i = 0; i < n; i++) {
        unfitting += tensors[i].choice.type != tensors[i].choice.wanted;
        unimportant += tensors[i].lacks_importance;
    }
    if (unfitting)
        log_line(&z->cli->log, LOG_WARN,
                 "%zu tensors have rows that do not divide into their type's blocks; they take one with smaller blocks",
                 unfitting);
    if (unimportant)
        log_line(&z->cli->log, LOG_WARN,
                 "%zu tensors of very few bits have no importance%s; the model will be much worse than with --imatrix",
                 unimportant, z->cli->options->imatrix ? " in the imatrix" : "");
}

/* ---- command ------------------------------------------------------------------------------------------------------------- */

static enum err open_job(struct quantizing *z, struct reason *why) {
    const struct options *o = z->cli->options;
    if (o->imatrix) TRY(imatrix_read(o->imatrix, &z->imatrix, why));
    const struct quantize_options options = {
        .in = z->in,
        .out = z->out,
        .recipe = {.name = z->type,
                   .overrides = z->overrides,
                   .n_overrides = z->n_overrides,
                   .embedding = o->embedding_type ? &z->embedding : NULL,
                   .head = o->head_type ? &z->head : NULL,
                   .pure = o->pure,
                   .leave_head = o->leave_head},
        .imatrix = o->imatrix ? &z->imatrix : NULL,
        .imatrix_file = o->imatrix,
        .threads = z->threads,
        .allow_requantize = o->allow_requantize,
        .keep_split = o->keep_split,
        .split_max_bytes = (uint64_t)o->split_max_bytes,
        .log = z->cli->log,
        .on_progress = on_progress,
        .on_progress_ctx = z,
    };
    return quantize_open(&options, &z->job, why);
}

static enum err work(struct quantizing *z, struct reason *why) {
    TRY(open_job(z, why));
    TRY(print_plan(z, why));
    TRY(check_overrides(z, why));
    warn_tensors(z);
    if (z->cli->options->dry_run) return ERR_NONE;
    z->begin_ns = clock_ns();
    TRY(quantize_run(z->job, why));
    cli_progress_end(z->cli);
    if (quantize_not_finite(z->job))
        log_line(&z->cli->log, LOG_WARN, "%" PRIu64 " rows held an infinity or a NaN, written as 0: the input is damaged",
                 quantize_not_finite(z->job));
    return print_result(z, why);
}

int cmd_quantize(struct cli *c) {
    struct reason why = {{0}};
    struct quantizing z = {.cli = c};
    int status;
    if (read_arguments(&z, &why)) {
        status = cli_usage(c, "%s", why.text);
    } else {
        const enum err code = work(&z, &why);
        status = code ? cli_fail(c, code, &why) : EXIT_DONE;
    }
    quantize_close(&z.job);
    imatrix_close(&z.imatrix);
    for (size_t i = 0; i < z.n_overrides; i++) free((char *)z.overrides[i].pattern);
    free(z.overrides);
    text_free(&z.default_out);
    return status;
}
