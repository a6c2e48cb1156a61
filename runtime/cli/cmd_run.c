/* run: one completion of a raw text, streamed to stdout. No template, no history: what is given is what the model continues. */
#include "cli/cli.h"
#include "cli/learn.h"
#include "cli/stop.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct run {
    struct cli *cli;
    const struct tokenizer *tokenizer; /* NULL: ids in, ids out */
    struct session *session;
    struct sampler *sampler;
    struct detokenizer detokenizer;
    struct stop stop;
    struct text piece;
    uint64_t printed; /* ids or bytes that went out */
    char last;        /* byte printed last */
    uint64_t begin_ns, prompt_ns, end_ns;
    uint64_t generated;
    uint64_t keep; /* tokens of the prompt that a full context never leaves out */
    uint64_t rolls, reread, roll_ns; /* the context became full so often; tokens then read again, and the time it took */
    bool broken; /* stdout does not take bytes any more */
};

/* ---- prompt --------------------------------------------------------------------------------------------------------- */

static enum err encode_prompt(struct run *r, struct span text, struct token_list *out, struct reason *why) {
    const int32_t bos = tokenizer_bos(r->tokenizer);
    if (bos >= 0) TRY(token_list_add(out, bos, why));
    return tokenizer_encode(r->tokenizer, text, r->cli->options->no_special ? PARSE_TEXT : PARSE_SPECIAL, out, why);
}

static enum err read_prompt(struct run *r, struct token_list *out, struct reason *why) {
    const struct options *o = r->cli->options;
    if (o->prompt_ids) return cli_parse_ids(span_of(o->prompt_ids), "--prompt-ids", out, why);
    if (!r->tokenizer)
        return fail(why, ERR_UNSUPPORTED, "%s: the file holds no tokenizer; give the prompt with --prompt-ids", o->model);
    struct text text = {0};
    enum err code = ERR_NONE;
    if (o->file)
        code = cli_read_file(o->file, &text, why);
    else if (o->escape)
        code = cli_unescape(o->prompt, &text, why);
    else
        text_add_span(&text, span_of(o->prompt));
    if (!code) code = encode_prompt(r, (struct span){text.ptr, text.len}, out, why);
    text_free(&text);
    return code;
}

static bool on_prompt(void *ctx, uint64_t done, uint64_t total) {
    struct run *r = ctx;
    const double seconds = 1e-9 * (double)(clock_ns() - r->begin_ns);
    if (seconds > 1 && done < total)
        cli_progress(r->cli, "reading the prompt: %" PRIu64 " of %" PRIu64 " tokens, %.0f s left", done, total,
                     seconds / (double)done * (double)(total - done));
    return cli_cancelled();
}

/* ---- answer --------------------------------------------------------------------------------------------------------- */

static void print(struct run *r, struct span s) {
    if (!s.len) return;
    r->printed += s.len;
    r->last = s.ptr[s.len - 1];
    if (!cli_write(s)) r->broken = true;
}

static void print_token(struct run *r, int32_t id) {
    text_clear(&r->piece);
    if (r->cli->options->ids) {
        text_addf(&r->piece, r->printed ? " %d" : "%d", id);
        print(r, (struct span){r->piece.ptr, r->piece.len});
    } else {
        detokenize_step(&r->detokenizer, r->tokenizer, id, &r->piece);
        print(r, stop_feed(&r->stop, (struct span){r->piece.ptr, r->piece.len}));
    }
}

static void print_end(struct run *r) {
    text_clear(&r->piece);
    if (!r->cli->options->ids) {
        detokenize_end(&r->detokenizer, &r->piece);
        print(r, stop_feed(&r->stop, (struct span){r->piece.ptr, r->piece.len}));
        print(r, stop_end(&r->stop));
    }
    if (r->cli->options->ids || (r->cli->stdout_is_terminal && r->printed && r->last != '\n')) print(r, SPAN("\n"));
}

static enum err say_full(struct run *r, bool *rolled) {
    log_line(&r->cli->log, LOG_WARN, "the context of %" PRIu64 " tokens is full after %" PRIu64 " tokens of the answer; %s", session_capacity(r->session),
             r->generated, options_shift(r->cli->options) ? "what is kept leaves no room to go on; -c or --keep set it" : "-c sets it, --context-shift goes on");
    *rolled = false;
    return ERR_NONE;
}

/* The context is full and `id` is to follow. With --context-shift half of what is behind the kept tokens goes, and the rest is computed
 * again where it then stands: the same as a prompt of these tokens, unlike keys turned in place, whose values remember what went. */
static enum err roll(struct run *r, int32_t id, const float **logits, bool *rolled, struct reason *why) {
    const uint64_t capacity = session_capacity(r->session), begin = clock_ns();
    if (!options_shift(r->cli->options) || capacity < r->keep + 2) return say_full(r, rolled);
    const uint64_t tail = (capacity - r->keep) / 2, first = capacity - (tail - 1); /* of the tail, id is the last */
    struct token_list window = {0};
    const int32_t *held = session_tokens(r->session);
    enum err code = ERR_NONE;
    for (uint64_t i = 0; !code && i < r->keep; i++) code = token_list_add(&window, held[i], why);
    for (uint64_t i = first; !code && i < capacity; i++) code = token_list_add(&window, held[i], why);
    if (!code) code = token_list_add(&window, id, why);
    if (!code) {
        log_line(&r->cli->log, LOG_WARN, "the context of %" PRIu64 " tokens is full: %" PRIu64 " of them are left out behind the first %" PRIu64 ", and the last %"
                 PRIu64 " are read again", capacity, first - r->keep, r->keep, tail);
        struct eval eval = {.tokens = window.ids, .n = window.len, .should_stop = cli_should_stop, .ctx = r};
        code = session_eval(r->session, &eval, logits, why);
        r->rolls++;
        r->reread += session_length(r->session) - eval.reused;
    }
    *rolled = !code;
    r->roll_ns += clock_ns() - begin;
    token_list_free(&window);
    return code;
}

static enum err generate(struct run *r, const float *logits, struct reason *why) {
    const struct options *o = r->cli->options;
    while (o->predict < 0 || r->generated < (uint64_t)o->predict) {
        if (cli_cancelled()) return fail(why, ERR_CANCELLED, "interrupted after %" PRIu64 " tokens", r->generated);
        const int32_t id = sampler_next(r->sampler, logits);
        if (r->tokenizer && tokenizer_is_end(r->tokenizer, id)) break;
        sampler_accept(r->sampler, id);
        r->generated++;
        print_token(r, id);
        if (r->broken || r->stop.found) break;
        if (r->generated == (uint64_t)o->predict) break;
        bool rolled = true;
        if (session_length(r->session) < session_capacity(r->session)) TRY(session_append(r->session, id, &logits, why));
        else TRY(roll(r, id, &logits, &rolled, why));
        if (!rolled) break;
    }
    return ERR_NONE;
}

/* The block that scripts around llama.cpp parse. */
static void report(const struct run *r, uint64_t n_prompt) {
    const double prompt_ms = 1e-6 * (double)(r->prompt_ns - r->begin_ns), answer_ms = 1e-6 * (double)(r->end_ns - r->prompt_ns - r->roll_ns);
    const uint64_t steps = r->generated ? r->generated - 1 : 0; /* the first token came with the prompt */
    const struct log_sink *log = &r->cli->log;
    log_line(log, LOG_INFO, "prompt eval time = %10.2f ms / %5" PRIu64 " tokens (%8.2f ms per token, %8.2f tokens per second)",
             prompt_ms, n_prompt, prompt_ms / (double)n_prompt, 1e3 * (double)n_prompt / prompt_ms);
    if (steps)
        log_line(log, LOG_INFO,
                 "       eval time = %10.2f ms / %5" PRIu64 " tokens (%8.2f ms per token, %8.2f tokens per second)", answer_ms,
                 steps, answer_ms / (double)steps, 1e3 * (double)steps / answer_ms);
    if (r->rolls)
        log_line(log, LOG_INFO, "      full context = %5" PRIu64 " times: %" PRIu64 " tokens read again in %.2f ms", r->rolls, r->reread,
                 1e-6 * (double)r->roll_ns);
}

/* --keep, and always the BOS that the model wants. */
static uint64_t kept_tokens(const struct run *r, const struct token_list *prompt) {
    const int64_t keep = r->cli->options->keep;
    const uint64_t bos = r->tokenizer && tokenizer_bos(r->tokenizer) >= 0 && prompt->ids[0] == tokenizer_bos(r->tokenizer);
    return keep < 0 || (uint64_t)keep + bos > prompt->len ? prompt->len : (uint64_t)keep + bos;
}

static enum err open_sampler(struct run *r, const struct engine *e, struct reason *why) {
    const enum chat_family family = cli_family(r->cli, e);
    struct sampling_choice choice;
    cli_sampling(r->cli, family, chat_family_can_think(family), &choice);
    struct text lines = {0};
    cli_sampling_describe(&choice, &lines);
    for (char *c = lines.ptr; c && *c; c++)
        if (*c == '\n') *c = c[1] ? ';' : 0;
    log_line(&r->cli->log, LOG_INFO, "sampling: %s", lines.ptr ? lines.ptr : "");
    text_free(&lines);
    return sampler_open(&choice.values, r->tokenizer, engine_model(e)->shape.n_vocab, &r->sampler, why);
}

/* Room for the prompt and the answer that was asked for; the default when the answer has no limit. */
static uint64_t context_size(const struct run *r, const struct engine *e, uint64_t n_prompt) {
    const struct options *o = r->cli->options;
    if (o->ctx_size) return (uint64_t)o->ctx_size;
    if (o->predict < 0) return 0;
    const uint64_t need = n_prompt + (uint64_t)o->predict, trained = engine_model(e)->shape.context_length;
    return need < trained ? need : n_prompt < trained ? trained : n_prompt;
}

/* The same before there is a tokenizer, for the plan: a token is at least one byte of text. */
static uint64_t context_bound(const struct options *o) {
    const char *text = o->prompt ? o->prompt : o->prompt_ids;
    return o->ctx_size || o->predict < 0 || !text ? 0 : strlen(text) + 1 + (uint64_t)o->predict;
}

static enum err complete(struct run *r, struct engine *e, struct reason *why) {
    struct token_list prompt = {0};
    const float *logits = NULL;
    enum err code = read_prompt(r, &prompt, why);
    if (!code && prompt.len == 0) code = fail(why, ERR_ARGUMENT, "the prompt is empty");
    if (!code) code = open_sampler(r, e, why);
    if (!code) code = session_open(e, context_size(r, e, prompt.len), &r->session, why);
    if (code) goto done;
    cli_warn_context(r->cli, engine_model(e), session_capacity(r->session));
    r->keep = kept_tokens(r, &prompt);

    struct eval eval = {.tokens = prompt.ids, .n = prompt.len, .on_progress = on_prompt, .should_stop = cli_should_stop, .ctx = r};
    r->begin_ns = clock_ns();
    code = session_eval(r->session, &eval, &logits, why);
    cli_progress_end(r->cli);
    r->prompt_ns = clock_ns();
    for (size_t i = 0; i < prompt.len; i++) sampler_accept(r->sampler, prompt.ids[i]);
    if (!code) code = generate(r, logits, why);
    r->end_ns = clock_ns();
    if (!r->broken && (!code || r->printed)) print_end(r);
    if (!code) report(r, prompt.len);
    if (!code) cli_log_io(r->cli, e);
done:
    token_list_free(&prompt);
    return code;
}

static const char *check_usage(const struct options *o) {
    const int given = (o->prompt != NULL) + (o->prompt_ids != NULL) + (o->file != NULL);
    if (given == 0) return "run needs a prompt: -p TEXT, -f FILE or --prompt-ids IDS";
    if (given > 1) return "-p, -f and --prompt-ids exclude each other";
    if (o->ids && o->stop.len) return "-r looks for text and does not go with --ids";
    return NULL;
}

int cmd_run(struct cli *c) {
    const char *problem = check_usage(c->options);
    if (problem) return cli_usage(c, "%s", problem);
    struct reason why = {{0}};
    struct engine *e = NULL;
    struct run r = {.cli = c, .stop.stops = &c->options->stop};
    c->kv_tokens = context_bound(c->options);
    struct learner learner;
    learn_load(c, &learner);
    enum err code = c->options->record_routes ? watch_check_trace(c->options->record_routes, &why) : ERR_NONE;
    if (!code) code = cli_open_engine(c, false, &e, &why);
    if (!code) {
        r.tokenizer = engine_tokenizer(e);
        if (!r.tokenizer && !c->options->ids)
            code =
                fail(&why, ERR_UNSUPPORTED, "%s: the file holds no tokenizer; add --ids to print token ids", c->options->model);
    }
    if (!code) code = learn_start(&learner, e, &why);
    if (!code) code = complete(&r, e, &why);
    if (!code && c->options->record_routes) code = watch_write_trace(&learner.watch, c->options->record_routes, &why);
    if (!code) code = cli_write_timeline(c, e, &why);
    const int status = code ? cli_fail(c, code, &why) : r.broken ? EXIT_FAILED : EXIT_DONE;
    learn_end(&learner);
    text_free(&r.stop.held);
    text_free(&r.piece);
    sampler_close(&r.sampler);
    session_close(&r.session);
    engine_close(&e);
    return status;
}
