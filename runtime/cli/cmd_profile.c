/* profile: how a text uses the experts. The text is read in chunks of -c tokens, each from an empty context, as perplexity
 * does; the end that fills no chunk counts too. */
#include "cli/cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/learn.h"
#include "cli/repl_file.h"

struct profiling {
    struct cli *cli;
    struct watch watch;
    struct session *session;
    struct token_list tokens;
    int32_t bos; /* a chunk's first token; -1: none */
    size_t chunk_tokens, n_chunks, chunk;
    uint64_t begin_ns;
};

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static bool on_progress(void *ctx, uint64_t done, uint64_t total) {
    const struct profiling *p = ctx;
    const double seconds = 1e-9 * (double)(clock_ns() - p->begin_ns),
                 part = ((double)p->chunk + (double)done / (double)total) / (double)p->n_chunks;
    if (seconds > 1) cli_progress(p->cli, "chunk %zu of %zu, %.0f s left", p->chunk + 1, p->n_chunks, seconds * (1 / part - 1));
    return cli_cancelled();
}

static void ignore_logits(void *ctx, uint64_t position, const float *logits) { (void)ctx, (void)position, (void)logits; }

static enum err read_chunk(struct profiling *p, struct reason *why) {
    const size_t first = p->chunk * p->chunk_tokens, left = p->tokens.len - first;
    int32_t *tokens = p->tokens.ids + first;
    if (p->bos >= 0) tokens[0] = p->bos;
    struct eval eval = {.tokens = tokens,
                        .n = left < p->chunk_tokens ? left : p->chunk_tokens,
                        .on_progress = on_progress,
                        .should_stop = cli_should_stop,
                        .on_logits = ignore_logits, /* so that nothing is reused: every token counts */
                        .ctx = p};
    eval.logits_from = eval.n - 1;
    TRY(session_eval(p->session, &eval, NULL, why));
    return cli_cancelled() ? fail(why, ERR_CANCELLED, "interrupted in chunk %zu", p->chunk + 1) : ERR_NONE;
}

static enum err read_all(struct profiling *p, struct engine *e, struct reason *why) {
    const struct options *o = p->cli->options;
    TRY(cli_read_tokens(p->cli, e, &p->tokens, why));
    p->bos = engine_tokenizer(e) ? tokenizer_bos(engine_tokenizer(e)) : -1;
    p->chunk_tokens = (size_t)o->ctx_size;
    p->n_chunks = (p->tokens.len + p->chunk_tokens - 1) / p->chunk_tokens;
    if (o->chunks >= 0 && (size_t)o->chunks < p->n_chunks) p->n_chunks = (size_t)o->chunks;
    if (!p->n_chunks) return fail(why, ERR_ARGUMENT, "there is no text to count");
    if (p->chunk_tokens > p->tokens.len) p->chunk_tokens = p->tokens.len;
    TRY(session_open(e, p->chunk_tokens, &p->session, why));
    p->begin_ns = clock_ns();
    for (p->chunk = 0; p->chunk < p->n_chunks; p->chunk++) TRY(read_chunk(p, why));
    cli_progress_end(p->cli);
    return ERR_NONE;
}

/* ---- summary ---------------------------------------------------------------------------------------------------- */

static int descending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Adds to sums[i] what the layer's shares[i] most chosen experts were chosen; a part of an expert counts in part. */
static void add_top(double *counts, uint32_t n, const double *shares, double *sums, size_t n_shares) {
    qsort(counts, n, sizeof *counts, descending);
    for (size_t i = 0; i < n_shares; i++) {
        const double experts = shares[i] * n;
        for (uint32_t e = 0; e < n && e < experts; e++) sums[i] += counts[e] * (experts - e < 1 ? experts - e : 1);
    }
}

static void add_row(const char *title, const char *format, const double *values, size_t n, struct text *out) {
    text_addf(out, "%-26s", title);
    for (size_t i = 0; i < n; i++) text_addf(out, format, 100 * values[i]);
    text_addf(out, "\n");
}

static enum err summarize(const struct profile *p, size_t n_chunks, struct text *out, struct reason *why) {
    static const double shares[] = {0.1, 0.2, 0.3, 0.4}, residencies[] = {0.25, 0.4, 0.6};
    double top[4] = {0}, hits[3], all = 0;
    double *counts = calloc_checked((uint64_t)p->n_layers * p->n_experts, sizeof *counts);
    if (!counts) return fail(why, ERR_NO_MEMORY, "no memory for the summary");
    memcpy(counts, p->counts, (size_t)p->n_layers * p->n_experts * sizeof *counts);
    for (uint32_t l = 0; l < p->n_layers; l++) add_top(counts + (size_t)l * p->n_experts, p->n_experts, shares, top, 4);
    free(counts);
    for (uint32_t i = 0; i <= p->n_experts; i++) all += p->reuse[i];
    for (int i = 0; i < 4 && all > 0; i++) top[i] /= all;
    for (int i = 0; i < 3; i++) hits[i] = profile_hit_rate(p, residencies[i] * p->n_experts);
    /* A token's experts stand in front when the next one looks: what is repeated is found within n_used places. */
    const double repeated = profile_hit_rate(p, p->n_used);
    text_addf(out, "%.0f tokens in %zu chunk%s; %" PRIu32 " layers, %" PRIu32 " of %" PRIu32 " experts a token\n", p->tokens,
              n_chunks, n_chunks == 1 ? "" : "s", p->n_layers, p->n_used, p->n_experts);
    add_row("most chosen experts of a layer", " %6.0f %%", shares, 4, out);
    add_row("  their share of choices", " %6.1f %%", top, 4, out);
    add_row("chosen again by the next token", " %6.1f %%", &repeated, 1, out);
    add_row("experts of a layer in RAM", " %6.0f %%", residencies, 3, out);
    add_row("  choices found there", " %6.1f %%", hits, 3, out);
    return ERR_NONE;
}

/* ---- command ---------------------------------------------------------------------------------------------------- */

static enum err write_results(struct profiling *p, const struct model *m, struct reason *why) {
    const struct options *o = p->cli->options;
    const bool to_stdout = o->out_path && strcmp(o->out_path, "-") == 0;
    const struct profile *counted = watch_profile(&p->watch);
    struct profile named = *counted; /* borrows the counts */
    struct text out = {0};
    learn_identity(m, named.model, sizeof named.model);
    if (o->out_path && !to_stdout) TRY(learn_write_profile(o->out_path, &named, why));
    if (o->record_routes) TRY(watch_write_trace(&p->watch, o->record_routes, why));
    enum err err = ERR_NONE;
    if (to_stdout)
        profile_write(&named, &out);
    else
        err = summarize(&named, p->n_chunks, &out, why);
    if (!err && !cli_write_text(&out)) err = fail(why, ERR_IO, "stdout: cannot write");
    text_free(&out);
    return err;
}

static enum err check_outputs(const struct options *o, struct reason *why) {
    if (o->out_path && strcmp(o->out_path, "-") != 0)
        TRY(whole_file_check_ours(o->out_path, SPAN("\"coldstream_profile\""), "profile", why));
    return o->record_routes ? watch_check_trace(o->record_routes, why) : ERR_NONE;
}

int cmd_profile(struct cli *c) {
    const struct options *o = c->options;
    if (!o->file == !o->prompt_ids) return cli_usage(c, "profile needs a text: -f FILE");
    struct reason why = {{0}};
    struct engine *e = NULL;
    struct profiling p = {.cli = c};
    enum err code = check_outputs(o, &why);
    c->watch = &p.watch;
    if (!code) code = cli_open_engine(c, false, &e, &why);
    if (!code) code = watch_open(&engine_model(e)->shape, o->record_routes != NULL, &p.watch, &why);
    if (!code) code = read_all(&p, e, &why);
    if (!code) code = write_results(&p, engine_model(e), &why);
    if (!code) cli_log_io(c, e);
    const int status = code ? cli_fail(c, code, &why) : EXIT_DONE;
    session_close(&p.session);
    engine_close(&e);
    c->watch = NULL;
    watch_close(&p.watch);
    token_list_free(&p.tokens);
    return status;
}
