/* One turn: messages -> ids -> prefill -> tokens until the answer ends -> transcript. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/repl.h"
#include "cli/stop.h"

/* The answer as it grows. */
struct reply {
    struct repl *repl;
    struct detokenizer detokenizer;
    struct stop stop;
    struct text content, reasoning, piece;
    struct token_list ids;         /* of the content */
    struct token_list all;         /* of the answer as sampled */
    size_t think_end;              /* of `all`: behind the end of its thinking; 0: it has not ended */
    bool thinking, after_thinking; /* after_thinking: line ends in front of the content are to be skipped */
    bool ids_differ;               /* from what tokens of the content would be: skipped or cut inside a token */
    int32_t think_id, end_think_id;
    uint64_t begin_ns;
};

double tokens_per_second(uint64_t tokens, uint64_t ns) { return ns ? 1e9 * (double)tokens / (double)ns : 0; }

/* ---- prefill ---------------------------------------------------------------------------------------------------------------
 */

static bool on_prompt(void *ctx, uint64_t done, uint64_t total) {
    const struct reply *a = ctx;
    const uint64_t ns = clock_ns() - a->begin_ns, new = done - a->repl->last.reused;
    if (ns > 2000000000u && done < total && new)
        cli_progress(a->repl->cli, "reading the prompt: %" PRIu64 " of %" PRIu64 " tokens, %.0f s left", done, total,
                     1e-9 * (double)ns / (double)new *(double)(total - done));
    return cli_cancelled();
}

/* How many leading tokens the session holds already, for the progress line: the engine counts again. */
static uint64_t held(const struct session *s, const struct token_list *prompt) {
    const int32_t *tokens = session_tokens(s);
    const uint64_t limit = session_length(s) < prompt->len ? session_length(s) : prompt->len;
    uint64_t same = 0;
    while (same < limit && tokens[same] == prompt->ids[same]) same++;
    return same;
}

static enum err prefill(struct reply *a, const struct token_list *prompt, const float **logits, struct reason *why) {
    struct repl *r = a->repl;
    const uint64_t capacity = session_capacity(r->session);
    if (prompt->len > capacity)
        return fail(why, ERR_LIMIT,
                    "with this message the conversation has %zu tokens and the context holds %" PRIu64
                    ": send a shorter one, /undo, /clear, or start with a larger -c%s",
                    prompt->len, capacity, r->cli->options->context_shift ? "" : " or --context-shift");
    struct eval eval = {
        .tokens = prompt->ids, .n = prompt->len, .on_progress = on_prompt, .should_stop = cli_should_stop, .ctx = a};
    r->last.reused = held(r->session, prompt);
    a->begin_ns = clock_ns();
    const uint64_t new = prompt->len - r->last.reused;
    if (new > 1024) cli_progress(r->cli, "reading the prompt: %" PRIu64 " tokens", new); /* the first news come after a batch */
    const enum err code = session_eval(r->session, &eval, logits, why);
    cli_progress_end(r->cli);
    r->last.prompt = prompt->len;
    r->last.reused = eval.reused;
    r->last.prompt_ns = clock_ns() - a->begin_ns;
    TRY(code);
    return cli_cancelled() ? fail(why, ERR_CANCELLED, "interrupted") : ERR_NONE;
}

/* ---- tokens
 * ------------------------------------------------------------------------------------------------------------------- */

/* Line ends between thinking and answer belong to neither. */
static struct span skip_line_ends(struct reply *a, struct span s, bool *only_line_ends) {
    *only_line_ends = false;
    if (!a->after_thinking) return s;
    const size_t before = s.len;
    while (s.len && *s.ptr == '\n') s.ptr++, s.len--;
    *only_line_ends = before && !s.len;
    a->after_thinking = s.len == 0;
    if (s.len && s.len != before) a->ids_differ = true; /* a token with both: its id is no id of the content */
    return s;
}

static enum err take_text(struct reply *a, int32_t id, struct span s, struct reason *why) {
    if (a->thinking) {
        text_add_span(&a->reasoning, s);
        view_text(&a->repl->view, s);
        return ERR_NONE;
    }
    bool skipped;
    s = skip_line_ends(a, s, &skipped);
    if (skipped) return ERR_NONE;
    const struct span released = stop_feed(&a->stop, s);
    text_add_span(&a->content, released);
    view_text(&a->repl->view, released);
    return token_list_add(&a->ids, id, why);
}

static enum err take_token(struct reply *a, int32_t id, struct reason *why) {
    TRY(token_list_add(&a->all, id, why));
    const bool opens = id == a->think_id && !a->thinking && !a->content.len, closes = id == a->end_think_id && a->thinking;
    text_clear(&a->piece);
    if (!opens && !closes) {
        detokenize_step(&a->detokenizer, a->repl->tokenizer, id, &a->piece);
        return take_text(a, id, (struct span){a->piece.ptr, a->piece.len}, why);
    }
    detokenize_end(&a->detokenizer, &a->piece); /* bytes of a character that was never completed */
    TRY(take_text(a, id, (struct span){a->piece.ptr, a->piece.len}, why));
    a->thinking = opens;
    a->after_thinking = closes;
    if (closes) a->think_end = a->all.len;
    a->ids.len = 0;
    if (opens)
        view_think(&a->repl->view);
    else
        view_answer(&a->repl->view);
    return ERR_NONE;
}

/* What detokenizer and stop texts still hold back. */
static void finish_text(struct reply *a) {
    text_clear(&a->piece);
    detokenize_end(&a->detokenizer, &a->piece);
    const struct span s = {a->piece.ptr, a->piece.len};
    if (a->thinking) {
        text_add_span(&a->reasoning, s);
        view_text(&a->repl->view, s);
    } else {
        struct span released = stop_feed(&a->stop, s);
        text_add_span(&a->content, released);
        view_text(&a->repl->view, released);
        released = stop_end(&a->stop);
        text_add_span(&a->content, released);
        view_text(&a->repl->view, released);
        if (a->stop.found) a->ids_differ = true;
    }
    view_end(&a->repl->view);
}

/* The tag that must stand in front of what is kept of the answer, its tokens from `cut` on; -1: none. Thinking that lost its beginning
 * needs it, and so does an answer whose prompt opened the thinking that it lost. */
static int32_t tag_in_front(const struct reply *a, size_t cut) {
    const bool opened = a->all.ids[0] == a->think_id, cut_in_thinking = !a->think_end || cut < a->think_end;
    if (cut == 0) return -1;
    if (opened) return cut_in_thinking ? a->think_id : -1;
    return a->repl->family == CHAT_QWEN3_THINKING && !cut_in_thinking ? a->end_think_id : -1;
}

/* The prompt and the newest `room` tokens of the answer. *kept: how many of them these are. */
static enum err add_tail(const struct reply *a, size_t room, struct token_list *window, size_t *kept, struct reason *why) {
    const size_t len = a->all.len;
    *kept = len < room ? len : room;
    const int32_t tag = tag_in_front(a, len - *kept);
    if (tag >= 0 && *kept > 1) {
        --*kept;
        TRY(token_list_add(window, tag, why));
    }
    for (size_t i = len - *kept; i < len; i++) TRY(token_list_add(window, a->all.ids[i], why));
    return ERR_NONE;
}

/* The context is full and the answer goes on. *rolled false: there is nothing to leave out. */
static enum err roll(struct reply *a, const float **logits, bool *rolled, struct reason *why) {
    struct repl *r = a->repl;
    const uint64_t begin = clock_ns(), before = r->transcript.left_out;
    struct token_list window = {0};
    uint64_t room;
    size_t kept;
    enum err code = repl_rolled_prompt(r, a->all.len, &window, &room, why);
    *rolled = !code && room;
    if (*rolled) code = add_tail(a, room, &window, &kept, why);
    if (*rolled && !code) {
        const size_t messages = r->transcript.left_out - before;
        view_pause(&r->view);
        repl_say(r, "[the context of %" PRIu64 " tokens is full: %zu earlier message%s and %zu of the %zu tokens of this answer are left out; what "
                 "is behind them is read again: %zu tokens are kept]", session_capacity(r->session), messages, messages == 1 ? "" : "s",
                 a->all.len - kept, a->all.len, window.len);
        view_resume(&r->view);
        struct eval eval = {.tokens = window.ids, .n = window.len, .should_stop = cli_should_stop, .ctx = a};
        code = session_eval(r->session, &eval, logits, why);
        r->last.rolls++;
        r->last.reread += session_length(r->session) - eval.reused;
    }
    r->last.roll_ns += clock_ns() - begin;
    token_list_free(&window);
    return code;
}

static enum err generate(struct reply *a, struct sampler *sampler, const float *logits, struct reason *why) {
    struct repl *r = a->repl;
    struct turn *turn = &r->last;
    const int64_t limit = r->cli->options->predict;
    for (;;) {
        if (cli_cancelled()) {
            turn->end = TURN_INTERRUPTED;
            return turn->generated ? ERR_NONE : fail(why, ERR_CANCELLED, "interrupted");
        }
        turn->end = TURN_LIMIT;
        if (limit >= 0 && turn->generated >= (uint64_t)limit) return ERR_NONE;
        const int32_t id = sampler_next(sampler, logits);
        turn->end = TURN_DONE;
        if (tokenizer_is_end(r->tokenizer, id)) return ERR_NONE;
        sampler_accept(sampler, id);
        turn->generated++;
        TRY(take_token(a, id, why));
        turn->end = r->view.broken ? TURN_BROKEN : a->stop.found ? TURN_STOP_TEXT : TURN_LIMIT;
        if (turn->end != TURN_LIMIT || (limit >= 0 && turn->generated >= (uint64_t)limit)) return ERR_NONE;
        if (session_length(r->session) < session_capacity(r->session)) {
            TRY(session_append(r->session, id, &logits, why));
            turn->steps++;
            continue;
        }
        bool rolled = false;
        const enum err code = options_shift(r->cli->options) ? roll(a, &logits, &rolled, why) : ERR_NONE;
        if (code && code != ERR_CANCELLED) return code;
        turn->end = TURN_FULL;
        if (!code && !rolled) return ERR_NONE;
    }
}

/* ---- the turn
 * ------------------------------------------------------------------------------------------------------------------- */

/* Each answer draws from a seed of its own, so that /regen gives another one; the first uses the seed as given. */
static enum err open_sampler(struct repl *r, const struct token_list *prompt, struct sampler **out, struct reason *why) {
    struct sampling settings = r->sampling.values;
    settings.seed += r->answers++ * 0x9e3779b97f4a7c15u;
    TRY(sampler_open(&settings, r->tokenizer, engine_model(r->engine)->shape.n_vocab, out, why));
    for (size_t i = 0; i < prompt->len; i++) sampler_accept(*out, prompt->ids[i]);
    return ERR_NONE;
}

static enum err keep(struct reply *a, struct reason *why) {
    const struct span reasoning = span_trim((struct span){a->reasoning.ptr, a->reasoning.len});
    const struct answer answer = {
        .content = {a->content.ptr, a->content.len},
        .reasoning = reasoning,
        .ids = a->ids_differ || !a->ids.len ? NULL : &a->ids,
        .interrupted = a->repl->last.end == TURN_INTERRUPTED,
    };
    if (a->content.failed || a->reasoning.failed) return fail(why, ERR_NO_MEMORY, "no memory for the answer");
    return transcript_add_answer(&a->repl->transcript, &answer, a->repl->tokenizer, why);
}

static void count(struct repl *r) {
    struct totals *t = &r->totals;
    const struct turn *l = &r->last;
    t->turns++;
    t->prompt += l->prompt - l->reused + l->reread;
    t->reused += l->reused;
    t->generated += l->generated;
    t->steps += l->steps;
    t->prompt_ns += l->prompt_ns + l->roll_ns;
    t->decode_ns += l->decode_ns;
}

/* The block that scripts around llama.cpp parse. */
static void report_verbose(const struct repl *r) {
    const struct log_sink *log = &r->cli->log;
    const struct turn *t = &r->last;
    const uint64_t new = t->prompt - t->reused;
    const double prompt_ms = 1e-6 * (double)t->prompt_ns, decode_ms = 1e-6 * (double)t->decode_ns;
    log_line(log, LOG_INFO, "prompt eval time = %10.2f ms / %5" PRIu64 " tokens (%8.2f ms per token, %8.2f tokens per second)",
             prompt_ms, new, new ? prompt_ms / (double)new : 0, tokens_per_second(new, t->prompt_ns));
    log_line(log, LOG_INFO, "       eval time = %10.2f ms / %5" PRIu64 " runs   (%8.2f ms per token, %8.2f tokens per second)",
             decode_ms, t->steps, t->steps ? decode_ms / (double)t->steps : 0, tokens_per_second(t->steps, t->decode_ns));
    log_line(log, LOG_INFO, "      total time = %10.2f ms / %5" PRIu64 " tokens", prompt_ms + decode_ms, new + t->generated);
    log_line(log, LOG_INFO, "  reused from cache = %5" PRIu64 " of %" PRIu64 " prompt tokens", t->reused, t->prompt);
    if (t->rolls)
        log_line(log, LOG_INFO, "      full context = %5" PRIu64 " times: %" PRIu64 " tokens read again in %.2f ms", t->rolls, t->reread,
                 1e-6 * (double)t->roll_ns);
}

static void report(struct repl *r) {
    const struct turn *t = &r->last;
    const uint64_t length = session_length(r->session), capacity = session_capacity(r->session);
    if (t->end == TURN_INTERRUPTED) repl_say(r, "[interrupted; the answer so far stays in the conversation]");
    if (t->end == TURN_LIMIT) repl_say(r, "[stopped after %" PRIu64 " tokens, as -n says]", t->generated);
    if (t->end == TURN_FULL)
        repl_say(r, "[the context is full: %" PRIu64 " of %" PRIu64 " tokens%s. /undo, /clear, or start with a larger -c%s]", length, capacity,
                 options_shift(r->cli->options) ? ", and none can be left out" : "", r->cli->options->context_shift ? "" : " or --context-shift");
    if (r->cli->options->show_timings)
        repl_say(r, "[ Prompt: %.1f t/s | Generation: %.1f t/s | ctx %" PRIu64 "/%" PRIu64 " | cached %" PRIu64 " ]",
                 tokens_per_second(t->prompt - t->reused, t->prompt_ns), tokens_per_second(t->steps, t->decode_ns), length,
                 capacity, t->reused);
    report_verbose(r);
}

static enum err run(struct reply *a, const struct token_list *prompt, struct reason *why) {
    struct repl *r = a->repl;
    struct sampler *sampler = NULL;
    const float *logits = NULL;
    enum err code = prefill(a, prompt, &logits, why);
    if (!code) code = open_sampler(r, prompt, &sampler, why);
    if (!code) {
        const uint64_t begin = clock_ns();
        view_begin(&r->view);
        if (a->thinking) view_think(&r->view);
        code = generate(a, sampler, logits, why);
        r->last.decode_ns = clock_ns() - begin - r->last.roll_ns;
        finish_text(a);
    }
    sampler_close(&sampler);
    return code;
}

enum err repl_prompt(const struct repl *r, struct token_list *out, struct reason *why) {
    const int thinking = r->family == CHAT_QWEN3 ? r->thinking : -1;
    return transcript_prompt(&r->transcript, r->family, r->tokenizer, thinking, out, why);
}

enum err repl_answer(struct repl *r, struct reason *why) {
    struct reply a = {
        .repl = r,
        .stop.stops = &r->cli->options->stop,
        .thinking = r->family == CHAT_QWEN3_THINKING, /* its prompt ends inside the thinking */
        .think_id = tokenizer_find(r->tokenizer, SPAN("<think>")),
        .end_think_id = tokenizer_find(r->tokenizer, SPAN("</think>")),
    };
    struct token_list prompt = {0};
    r->last = (struct turn){0};
    enum err code = repl_fitting_prompt(r, &prompt, why);
    if (!code) code = run(&a, &prompt, why);
    if (!code) code = keep(&a, why);
    if (!code && !r->view.broken) {
        count(r);
        report(r);
    }
    if (r->view.broken) r->leave = true, r->status = EXIT_FAILED;
    if (cli_cancelled()) repl_note_interrupt(r);
    text_free(&a.content);
    text_free(&a.reasoning);
    text_free(&a.piece);
    text_free(&a.stop.held);
    token_list_free(&a.ids);
    token_list_free(&a.all);
    token_list_free(&prompt);
    return code;
}

static void report_failure(struct repl *r, enum err code, const struct reason *why) {
    if (r->leave) return;
    if (code == ERR_CANCELLED)
        repl_say(r, "[interrupted before the first token; the message was taken back]");
    else
        repl_complain(r, EXIT_FAILED, why->text);
}

void repl_message(struct repl *r, struct span text) {
    struct reason why = {{0}};
    const size_t before = transcript_length(&r->transcript);
    struct text whole = {0};
    text_add_span(&whole, (struct span){r->attached.ptr, r->attached.len});
    text_add_span(&whole, text);
    enum err code = whole.failed ? fail(&why, ERR_NO_MEMORY, "no memory for the message")
                                 : transcript_add_user(&r->transcript, (struct span){whole.ptr, whole.len}, &why);
    text_free(&whole);
    if (!code) code = repl_answer(r, &why);
    if (code) {
        transcript_cut(&r->transcript, before);
        report_failure(r, code, &why);
    } else {
        text_clear(&r->attached);
        r->n_attached = 0;
    }
}

void repl_regenerate(struct repl *r) {
    struct reason why = {{0}};
    struct transcript *t = &r->transcript;
    const size_t user = transcript_last_user(t);
    if (user == SIZE_MAX) {
        repl_complain(r, EXIT_FAILED, "there is no message to answer again");
        return;
    }
    /* The old answer comes back when there is no new one. */
    const bool answered = user + 1 < transcript_length(t);
    json_t *old = answered ? json_incref(json_array_get(t->messages, user + 1)) : NULL;
    struct token_list ids = {0};
    if (answered) {
        ids = t->ids[user + 1];
        t->ids[user + 1] = (struct token_list){0};
    }
    transcript_cut(t, user + 1);
    const enum err code = repl_answer(r, &why);
    if (code && answered) {
        struct span content, reasoning;
        (void)json_span(json_object_get(old, "content"), &content);
        (void)json_span(json_object_get(old, "reasoning_content"), &reasoning);
        const struct answer answer = {content, reasoning, ids.len ? &ids : NULL,
                                      json_is_true(json_object_get(old, "interrupted"))};
        if (transcript_add_answer(t, &answer, r->tokenizer, NULL)) repl_say(r, "[the old answer is lost: no memory]");
    }
    if (code) report_failure(r, code, &why);
    token_list_free(&ids);
    json_decref(old);
}
