/* imatrix: what a text puts into each matrix of the model, for quantize. The text is read in chunks of -c tokens, each from an
 * empty context, on the CPU; the end that fills no chunk is left out, as llama-imatrix does. Earlier files are added up. */
#include "cli/cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "cli/collect.h"

struct collecting {
    struct cli *cli;
    struct collector collector;
    struct session *session;
    struct token_list tokens;
    int32_t bos; /* a chunk's first token; -1: none */
    size_t chunk_tokens, first_chunk, n_chunks, chunk;
    uint64_t begin_ns;
};

/* ---- files ------------------------------------------------------------------------------------------------------------ */

static bool writes_dat(const struct options *o) {
    const char *dot = strrchr(o->out_path, '.');
    if (options_given(o, &o->imatrix_format)) return o->imatrix_format == IMATRIX_DAT;
    return dot && strcasecmp(dot, ".dat") == 0;
}

static enum err write_file(const struct options *o, const struct imatrix *m, const char *path, struct reason *why) {
    return writes_dat(o) ? imatrix_write_dat(m, path, why) : imatrix_write_gguf(m, path, why);
}

static enum err write_copy(const struct options *o, const struct imatrix *m, struct reason *why) {
    struct text path = {0};
    text_addf(&path, "%s.at_%" PRIu32, o->out_path, m->chunks);
    const enum err code =
        path.failed ? fail(why, ERR_NO_MEMORY, "no memory for a file's name") : write_file(o, m, path.ptr, why);
    text_free(&path);
    return code;
}

/* All of --in-file, added up. */
static enum err read_files(const struct options *o, struct imatrix *sum, struct reason *why) {
    for (size_t i = 0; i < o->in_files.len; i++) {
        struct imatrix one;
        struct reason inner;
        TRY(imatrix_read(o->in_files.items[i], &one, why));
        const enum err code = imatrix_merge(sum, &one, &inner);
        imatrix_close(&one);
        if (code) return fail(why, code, "%s: %s", o->in_files.items[i], inner.text);
    }
    return ERR_NONE;
}

/* ---- reading the text --------------------------------------------------------------------------------------------------- */

static bool on_progress(void *ctx, uint64_t done, uint64_t total) {
    const struct collecting *p = ctx;
    const double seconds = 1e-9 * (double)(clock_ns() - p->begin_ns),
                 part = ((double)p->chunk + (double)done / (double)total) / (double)p->n_chunks;
    if (seconds > 1) cli_progress(p->cli, "chunk %zu of %zu, %.0f s left", p->chunk + 1, p->n_chunks, seconds * (1 / part - 1));
    return cli_cancelled();
}

static void ignore_logits(void *ctx, uint64_t position, const float *logits) { (void)ctx, (void)position, (void)logits; }

static enum err read_chunk(struct collecting *p, struct reason *why) {
    int32_t *tokens = p->tokens.ids + (p->first_chunk + p->chunk) * p->chunk_tokens;
    if (p->bos >= 0) tokens[0] = p->bos;
    struct eval eval = {.tokens = tokens,
                        .n = p->chunk_tokens,
                        .on_progress = on_progress,
                        .should_stop = cli_should_stop,
                        .on_logits = ignore_logits, /* so that nothing is reused: every token counts */
                        .ctx = p};
    if (!p->cli->options->process_output) eval.logits_from = eval.n - 1;
    TRY(session_eval(p->session, &eval, NULL, why));
    if (cli_cancelled()) return fail(why, ERR_CANCELLED, "interrupted in chunk %zu", p->chunk + 1);
    if (p->collector.bad)
        return fail(why, ERR_FORMAT, "chunk %zu: the input of '%s' is not finite; the model's weights are damaged",
                    p->chunk + 1, p->collector.bad);
    p->collector.sums.chunks++;
    return ERR_NONE;
}

static enum err cut_text(struct collecting *p, const struct options *o, struct reason *why) {
    p->chunk_tokens = (size_t)o->ctx_size;
    const size_t chunks = p->tokens.len / p->chunk_tokens;
    p->first_chunk = (size_t)o->from_chunk;
    p->n_chunks = p->first_chunk < chunks ? chunks - p->first_chunk : 0;
    if (o->chunks >= 0 && (size_t)o->chunks < p->n_chunks) p->n_chunks = (size_t)o->chunks;
    if (p->n_chunks) return ERR_NONE;
    return fail(why, ERR_ARGUMENT, "the text has %zu tokens, %zu chunks of -c %zu: nothing is left to read", p->tokens.len,
                chunks, p->chunk_tokens);
}

/* What is collected so far, as often as is wanted: a run takes hours. */
static enum err keep(struct collecting *p, struct reason *why) {
    const struct options *o = p->cli->options;
    const size_t done = p->chunk + 1;
    if (o->output_frequency > 0 && done % (size_t)o->output_frequency == 0 && done < p->n_chunks)
        TRY(write_file(o, &p->collector.sums, o->out_path, why));
    if (o->save_frequency > 0 && done % (size_t)o->save_frequency == 0) TRY(write_copy(o, &p->collector.sums, why));
    return ERR_NONE;
}

static enum err read_text(struct collecting *p, struct engine *e, struct reason *why) {
    const struct options *o = p->cli->options;
    TRY(cli_read_tokens(p->cli, e, &p->tokens, why));
    p->bos = engine_tokenizer(e) ? tokenizer_bos(engine_tokenizer(e)) : -1;
    TRY(cut_text(p, o, why));
    TRY(imatrix_add_dataset(&p->collector.sums, o->file ? o->file : "token ids", why));
    p->collector.sums.chunk_tokens = (uint32_t)p->chunk_tokens;
    TRY(session_open(e, p->chunk_tokens, &p->session, why));
    p->begin_ns = clock_ns();
    for (p->chunk = 0; p->chunk < p->n_chunks; p->chunk++) {
        TRY(read_chunk(p, why));
        TRY(keep(p, why));
    }
    cli_progress_end(p->cli);
    return ERR_NONE;
}

/* ---- command ------------------------------------------------------------------------------------------------------------- */

static enum err print_summary(const struct collecting *p, struct reason *why) {
    const struct imatrix *m = &p->collector.sums;
    struct text out = {0};
    text_addf(&out, "%zu tokens in %zu chunk%s; %zu weights; %s\n", p->n_chunks * p->chunk_tokens, p->n_chunks,
              p->n_chunks == 1 ? "" : "s", m->n, p->cli->options->out_path);
    collect_coverage(m, &out);
    if (p->cli->options->show_statistics) collect_statistics(m, &out);
    const bool ok = cli_write_text(&out);
    text_free(&out);
    return ok ? ERR_NONE : fail(why, ERR_IO, "stdout: cannot write");
}

static enum err collect(struct collecting *p, struct engine **e, struct imatrix *earlier, struct reason *why) {
    struct cli *c = p->cli;
    c->on_input = collect_input;
    c->on_input_ctx = &p->collector;
    TRY(cli_open_engine(c, false, e, why));
    TRY(collect_open(engine_model(*e), c->options->process_output, (uint32_t)c->options->ctx_size, earlier, &p->collector,
                     why));
    TRY(read_text(p, *e, why));
    TRY(write_file(c->options, &p->collector.sums, c->options->out_path, why));
    return print_summary(p, why);
}

/* Without a text: what the files hold together, written when asked for. */
static enum err only_files(const struct options *o, const struct imatrix *m, struct reason *why) {
    struct text out = {0};
    if (options_given(o, &o->out_path)) TRY(write_file(o, m, o->out_path, why));
    text_addf(&out, "%zu weights, %" PRIu32 " chunks", m->n, m->chunks);
    if (m->chunk_tokens) text_addf(&out, " of %" PRIu32 " tokens", m->chunk_tokens);
    text_addf(&out, "\n");
    for (size_t i = 0; i < m->n_datasets; i++) text_addf(&out, "text: %s\n", m->datasets[i]);
    collect_coverage(m, &out);
    if (o->show_statistics) collect_statistics(m, &out);
    const bool ok = cli_write_text(&out);
    text_free(&out);
    return ok ? ERR_NONE : fail(why, ERR_IO, "stdout: cannot write");
}

static const char *check_usage(const struct options *o) {
    const bool text = o->file || o->prompt_ids;
    if (o->file && o->prompt_ids) return "either -f FILE or --prompt-ids, not both";
    if (!text && o->in_files.len == 0) return "imatrix needs a text: -f FILE; or files to add up: --in-file FILE";
    return text && !o->model ? "imatrix needs a model: -m FILE" : NULL;
}

/* Better to find out before hours of computing. */
static enum err check_output(const struct options *o, struct reason *why) {
    if (access(o->out_path, F_OK) != 0) return ERR_NONE;
    struct imatrix old;
    struct reason inner;
    const enum err code = imatrix_read(o->out_path, &old, &inner);
    imatrix_close(&old);
    return code ? fail(why, ERR_ARGUMENT, "-o %s: exists and is no importance matrix; it would be replaced", o->out_path)
                : ERR_NONE;
}

int cmd_imatrix(struct cli *c) {
    const struct options *o = c->options;
    const char *problem = check_usage(o);
    if (problem) return cli_usage(c, "%s", problem);
    struct reason why = {{0}};
    struct engine *e = NULL;
    struct imatrix earlier = {0};
    struct collecting p = {.cli = c};
    const bool text = o->file || o->prompt_ids;
    if (text && (options_given(o, &o->device) || options_given(o, &o->gpu_layers) || options_given(o, &o->vram_budget)))
        log_line(&c->log, LOG_WARN, "imatrix computes on the CPU; flags about a GPU have no effect");
    enum err code = text || options_given(o, &o->out_path) ? check_output(o, &why) : ERR_NONE;
    if (!code) code = read_files(o, &earlier, &why);
    if (!code) code = text ? collect(&p, &e, &earlier, &why) : only_files(o, &earlier, &why);
    const int status = code ? cli_fail(c, code, &why) : EXIT_DONE;
    session_close(&p.session);
    engine_close(&e);
    c->on_input = NULL;
    collect_close(&p.collector);
    imatrix_close(&earlier);
    token_list_free(&p.tokens);
    return status;
}
