/* perplexity: how well the model predicts a text, by llama-perplexity's method, and how far it is from another model.
 *
 * The text is cut into chunks of n_ctx tokens, each read from an empty context; only the positions n_ctx/2 .. n_ctx-2 are
 * scored, so that every prediction has context. A BOS that the model wants replaces a chunk's first token. */
#include "cli/cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/divergence.h"
#include "cli/logprobs.h"

struct scorer {
    struct cli *cli;
    struct session *session;
    int32_t n_ctx, n_vocab, n_chunk, bos;
    const int32_t *tokens; /* [n_chunk * n_ctx] */
    int32_t *chunk;        /* [n_ctx] the chunk in work, BOS put in */
    size_t done;           /* positions scored */
    double nll, nll2;      /* sums of -ln p and its square */
    struct logprobs file;  /* written or read when .file is open */
    bool compare;          /* read, not write */
    uint16_t *record;
    struct divergence divergence;
    enum err failed; /* inside the callback */
    struct reason *why;
};

static void on_logits(void *ctx, uint64_t position, const float *logits) {
    struct scorer *s = ctx;
    if (s->failed || position + 1 >= (uint64_t)s->n_ctx) return; /* the last token has nothing to predict */
    const int32_t next = s->chunk[position + 1];
    if (s->compare) {
        s->failed = logprobs_read(&s->file, s->record, s->why);
        if (!s->failed) divergence_add(&s->divergence, logits, s->n_vocab, s->record, next);
    } else {
        float max;
        const double log_sum = logprobs_log_sum(logits, (size_t)s->n_vocab, &max, NULL),
                     nll = log_sum + (double)max - (double)logits[next];
        s->nll += nll;
        s->nll2 += nll * nll;
        if (s->file.file) {
            logprobs_encode(logits, s->n_vocab, max, log_sum, s->record);
            s->failed = logprobs_write(&s->file, s->record, s->why);
        }
    }
    s->done++;
}

static bool on_progress(void *ctx, uint64_t done, uint64_t total) {
    const struct scorer *s = ctx;
    (void)done, (void)total;
    return cli_cancelled() || s->failed;
}

static enum err score_chunk(struct scorer *s, int32_t index, struct reason *why) {
    memcpy(s->chunk, s->tokens + (size_t)index * (size_t)s->n_ctx, (size_t)s->n_ctx * sizeof *s->chunk);
    if (s->bos >= 0) s->chunk[0] = s->bos;
    struct eval eval = {.tokens = s->chunk,
                        .n = (uint64_t)s->n_ctx,
                        .on_progress = on_progress,
                        .should_stop = cli_should_stop,
                        .on_logits = on_logits,
                        .logits_from = (uint64_t)s->n_ctx / 2, /* the first half is context only */
                        .ctx = s};
    const enum err code = session_eval(s->session, &eval, NULL, why);
    if (s->failed) return s->failed;
    if (code) return code;
    return cli_cancelled() ? fail(why, ERR_CANCELLED, "interrupted in chunk %d", index + 1) : ERR_NONE;
}

static enum err print(struct text *line, struct reason *why) {
    const bool ok = cli_write_text(line);
    text_clear(line);
    return ok ? ERR_NONE : fail(why, ERR_IO, "stdout: cannot write");
}

static enum err score_all(struct scorer *s, struct text *line, struct reason *why) {
    const uint64_t begin = clock_ns();
    for (int32_t i = 0; i < s->n_chunk; i++) {
        TRY(score_chunk(s, i, why));
        const double seconds = 1e-9 * (double)(clock_ns() - begin) / (i + 1);
        if (i == 0)
            log_line(&s->cli->log, LOG_INFO, "%.2f s a chunk, %.1f minutes for %d", seconds, seconds * s->n_chunk / 60,
                     s->n_chunk);
        if (s->compare) {
            if (i == 0) divergence_title(line);
            divergence_row(&s->divergence, i + 1, line);
        } else {
            text_addf(line, "[%d]%.4f,", i + 1, exp(s->nll / (double)s->done));
        }
        TRY(print(line, why));
    }
    return ERR_NONE;
}

/* The line that scripts look for, last on stdout. */
static void add_estimate(const struct scorer *s, struct text *line) {
    const double n = (double)s->done, mean = s->nll / n, variance = s->nll2 / n - mean * mean, ppl = exp(mean);
    text_addf(line, "\nFinal estimate: PPL = %.4f +/- %.5f\n", ppl,
              variance > 0 && s->done > 1 ? ppl * sqrt(variance / (n - 1)) : 0.0);
}

/* ---- input ---------------------------------------------------------------------------------------------------------- */

static enum err cut_text(struct scorer *s, const struct token_list *tokens, struct reason *why) {
    const struct options *o = s->cli->options;
    s->n_ctx = (int32_t)o->ctx_size;
    if (tokens->len < 2 * (size_t)s->n_ctx)
        return fail(why, ERR_ARGUMENT, "the text has %zu tokens; perplexity with -c %d needs at least %d", tokens->len,
                    s->n_ctx, 2 * s->n_ctx);
    const size_t chunks = tokens->len / (size_t)s->n_ctx, wanted = o->chunks < 0 ? chunks : (size_t)o->chunks;
    s->n_chunk = (int32_t)(wanted < chunks ? wanted : chunks);
    s->tokens = tokens->ids;
    if (s->n_chunk < 1) return fail(why, ERR_ARGUMENT, "--chunks 0 leaves nothing to score");
    return ERR_NONE;
}

static enum err open_base(struct scorer *s, struct reason *why) {
    const struct options *o = s->cli->options;
    TRY(logprobs_open(o->kl_base, &s->file, why));
    const struct logprobs_shape shape = s->file.shape;
    if (shape.n_vocab != s->n_vocab)
        return fail(why, ERR_FORMAT, "%s: is about a vocabulary of %d; this model has %d", o->kl_base, shape.n_vocab,
                    s->n_vocab);
    s->n_ctx = shape.n_ctx;
    s->n_chunk = o->chunks >= 1 && o->chunks < shape.n_chunk ? (int32_t)o->chunks : shape.n_chunk;
    s->tokens = s->file.tokens;
    if (options_given(o, &o->ctx_size) && o->ctx_size != s->n_ctx)
        log_line(&s->cli->log, LOG_WARN, "-c %" PRId64 " is ignored: %s was made with %d", o->ctx_size, o->kl_base, s->n_ctx);
    return divergence_open((size_t)s->n_chunk * logprobs_scored(s->n_ctx), &s->divergence, why);
}

static enum err prepare(struct scorer *s, struct engine *e, struct token_list *tokens, struct reason *why) {
    const struct options *o = s->cli->options;
    s->n_vocab = (int32_t)engine_model(e)->shape.n_vocab;
    s->bos = engine_tokenizer(e) ? tokenizer_bos(engine_tokenizer(e)) : -1;
    if (s->compare) {
        TRY(open_base(s, why));
    } else {
        TRY(cli_read_tokens(s->cli, e, tokens, why));
        TRY(cut_text(s, tokens, why));
    }
    if ((uint64_t)s->n_ctx > engine_model(e)->shape.context_length)
        log_line(&s->cli->log, LOG_WARN, "chunks of %d tokens exceed the context of %" PRIu64 " that the model was made for",
                 s->n_ctx, engine_model(e)->shape.context_length);
    s->chunk = calloc_checked((uint64_t)s->n_ctx, sizeof *s->chunk);
    s->record = calloc_checked(logprobs_record_words(s->n_vocab), sizeof *s->record);
    if (!s->chunk || !s->record) return fail(why, ERR_NO_MEMORY, "no memory for a chunk of %d tokens", s->n_ctx);
    TRY(session_open(e, (uint64_t)s->n_ctx, &s->session, why));
    cli_warn_context(s->cli, engine_model(e), (uint64_t)s->n_ctx);
    if (s->compare || !o->kl_base) return ERR_NONE;
    return logprobs_create(o->kl_base, (struct logprobs_shape){s->n_ctx, s->n_vocab, s->n_chunk}, s->tokens, &s->file, why);
}

static enum err evaluate(struct scorer *s, struct engine *e, struct token_list *tokens, struct reason *why) {
    struct text line = {0};
    enum err code = prepare(s, e, tokens, why);
    if (!code) code = score_all(s, &line, why);
    if (!code && s->file.part_path) code = logprobs_finish(&s->file, why);
    if (!code) {
        if (s->compare)
            divergence_tables(&s->divergence, &line);
        else
            add_estimate(s, &line);
        code = print(&line, why);
    }
    text_free(&line);
    return code;
}

static const char *check_usage(const struct options *o) {
    if (o->kl_divergence) return o->kl_base ? NULL : "--kl-divergence needs the base's file: --kl-divergence-base FILE";
    if (!o->file == !o->prompt_ids) return "perplexity needs a text: -f FILE";
    return NULL;
}

int cmd_perplexity(struct cli *c) {
    const char *problem = check_usage(c->options);
    if (problem) return cli_usage(c, "%s", problem);
    struct reason why = {{0}};
    struct engine *e = NULL;
    struct token_list tokens = {0};
    struct scorer s = {.cli = c, .compare = c->options->kl_divergence, .why = &why};
    enum err code = cli_open_engine(c, false, &e, &why);
    if (!code) code = evaluate(&s, e, &tokens, &why);
    const int status = code ? cli_fail(c, code, &why) : EXIT_DONE;
    logprobs_close(&s.file);
    divergence_close(&s.divergence);
    token_list_free(&tokens);
    free(s.chunk);
    free(s.record);
    session_close(&s.session);
    engine_close(&e);
    return status;
}
