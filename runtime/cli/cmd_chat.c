/* chat: the conversation. Opens the model, says what it is, and reads messages until somebody leaves. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/learn.h"
#include "cli/repl.h"
#include "text/unicode.h"

#define LEAVE_WINDOW_NS 1000000000u /* two Ctrl-C within it leave */

static const char prompt[] = ">>> ", more_prompt[] = "... ";

/* ---- start --------------------------------------------------------------------------------------------------------------- */

static const char *check_usage(const struct options *o) {
    if (o->prompt && o->file) return "-p and -f exclude each other: both are the first message";
    if (o->system_prompt && o->system_prompt_file) return "-sys and -sysf exclude each other";
    return NULL;
}

static enum err lossy(struct text *t, struct reason *why) { /* bytes that are no UTF-8 become U+FFFD */
    struct text valid = {0};
    unicode_normalize((struct span){t->ptr, t->len}, false, &valid);
    text_free(t);
    *t = valid;
    return t->failed ? fail(why, ERR_NO_MEMORY, "no memory for the text") : ERR_NONE;
}

static enum err set_system(struct repl *r, struct reason *why) {
    const struct options *o = r->cli->options;
    struct text text = {0};
    enum err code = ERR_NONE;
    if (o->system_prompt_file)
        code = cli_read_file(o->system_prompt_file, &text, why);
    else if (o->system_prompt && o->escape)
        code = cli_unescape(o->system_prompt, &text, why);
    else if (o->system_prompt)
        text_add_span(&text, span_of(o->system_prompt));
    if (o->system_prompt_file)
        while (text.len && text.ptr[text.len - 1] == '\n') text.len--; /* the file's last line end is not part of the message */
    if (!code) code = lossy(&text, why);
    if (!code) code = transcript_set_system(&r->transcript, (struct span){text.ptr, text.len}, why);
    text_free(&text);
    return code;
}

/* -rea on|off, else {"enable_thinking": ...} of --chat-template-kwargs, else as the template does. */
static enum err choose_thinking(struct repl *r, struct reason *why) {
    const struct options *o = r->cli->options;
    r->thinking = chat_family_can_think(r->family);
    if (o->template_kwargs) {
        json_t *kwargs = NULL;
        struct reason inner = {{0}};
        if (json_read(span_of(o->template_kwargs), &kwargs, &inner) || !json_is_object(kwargs)) {
            json_decref(kwargs);
            return fail(why, ERR_ARGUMENT, "--chat-template-kwargs: not a JSON object: %s", inner.text);
        }
        const json_t *enabled = json_object_get(kwargs, "enable_thinking");
        if (enabled && r->family == CHAT_QWEN3) r->thinking = json_is_true(enabled);
        json_decref(kwargs);
    }
    if (o->reasoning != SWITCH_AUTO && r->family == CHAT_QWEN3) r->thinking = o->reasoning == SWITCH_ON;
    if (o->reasoning == SWITCH_OFF && r->family == CHAT_QWEN3_THINKING)
        log_line(&r->cli->log, LOG_WARN, "-rea off: this model always thinks; it cannot be switched off");
    if (o->reasoning == SWITCH_ON && !chat_family_can_think(r->family))
        log_line(&r->cli->log, LOG_WARN, "-rea on: this model does not think");
    return ERR_NONE;
}

static enum err open_lines(struct repl *r, struct reason *why) {
    const struct cli *c = r->cli;
    const struct options *o = c->options;
    const bool dumb = o->simple_io || !o->term || strcmp(o->term, "dumb") == 0;
    FILE *terminal = !r->interactive ? NULL : c->stdout_is_terminal ? stdout : c->stderr_is_terminal ? stderr : NULL;
    const struct lines_options options = {
        .edit = terminal && !dumb,
        .color = terminal == stdout ? c->color_stdout : c->color_stderr,
        .terminal = terminal,
        .home = o->home,
        .editor = o->editor,
        .history = &r->history,
    };
    struct text path = {0};
    struct reason inner = {{0}};
    const bool keep = options.edit && o->history && history_path(o->state_home, o->home, &path);
    if (history_open(keep ? path.ptr : NULL, &r->history, &inner))
        log_line(&c->log, LOG_WARN, "the history is not kept: %s", inner.text);
    text_free(&path);
    return lines_open(&options, &r->lines, why);
}

static enum err start(struct repl *r, struct learner *learner, struct reason *why) {
    struct cli *c = r->cli;
    learn_load(c, learner);
    TRY(cli_open_engine(c, false, &r->engine, why));
    TRY(learn_start(learner, r->engine, why));
    TRY(cli_tokenizer(c, r->engine, &r->tokenizer, why));
    r->family = cli_family(c, r->engine);
    TRY(choose_thinking(r, why));
    repl_choose_sampling(r);
    TRY(session_open(r->engine, (uint64_t)c->options->ctx_size, &r->session, why));
    cli_warn_context(c, engine_model(r->engine), session_capacity(r->session));
    TRY(transcript_open(&r->transcript, why));
    TRY(set_system(r, why));
    return open_lines(r, why);
}

/* ---- banner ----------------------------------------------------------------------------------------------------------------
 */

/* "Q4_K 78 %, Q6_K 20 %, F32 2 %" of the weights' bytes, largest first; what is below half a percent is left out. */
static void describe_types(const struct model *m, struct text *out) {
    uint64_t bytes[TYPE_COUNT] = {0};
    for (size_t i = 0; i < m->n_tensors; i++) bytes[m->tensors[i].type] += m->tensors[i].bytes;
    for (bool first = true;; first = false) {
        int best = 0;
        for (int t = 1; t < TYPE_COUNT; t++)
            if (bytes[t] > bytes[best]) best = t;
        const double share = m->weight_bytes ? 100.0 * (double)bytes[best] / (double)m->weight_bytes : 0;
        if (!first && share < 0.5) return;
        text_addf(out, "%s%s %.0f %%", first ? "" : ", ", tensor_type_info((enum tensor_type)best)->name, share);
        bytes[best] = 0;
    }
}

static void banner(struct repl *r) {
    const struct model *m = engine_model(r->engine);
    struct engine_info info;
    engine_get_info(r->engine, &info);
    const char *slash = strrchr(r->cli->options->model, '/');
    const struct span name = m->name.len ? m->name : span_of(slash ? slash + 1 : r->cli->options->model);
    struct text types = {0};
    describe_types(m, &types);
    repl_say(r, "%.*s: %.1f B parameters, %.2f GiB (%s), %s template", (int)(name.len < 100 ? name.len : 100), name.ptr,
             1e-9 * (double)m->n_parameters, (double)m->weight_bytes / (1 << 30), types.ptr ? types.ptr : "",
             chat_family_name(r->family));
    repl_say(r, "%u thread%s, %s kernels, context %" PRIu64 " tokens. /help lists the commands, Ctrl-D leaves.", info.threads,
             info.threads == 1 ? "" : "s", info.isa, session_capacity(r->session));
    text_free(&types);
}

/* ---- loop
 * -------------------------------------------------------------------------------------------------------------------- */

void repl_note_interrupt(struct repl *r) {
    const uint64_t now = clock_ns();
    const bool twice = r->interrupt_ns && now - r->interrupt_ns < LEAVE_WINDOW_NS;
    const int status = cli_cancelled() ? cli_cancelled_status() : EXIT_INTERRUPTED;
    r->interrupt_ns = now;
    if (status != EXIT_INTERRUPTED || twice || !r->interactive || r->cli->options->single_turn) {
        r->leave = true;
        r->status = status;
    }
    cli_clear_cancel();
}

/* A line was interrupted: hint, or leave. */
static void on_interrupted_line(struct repl *r, bool dropped) {
    if (dropped && !cli_cancelled()) { /* this one was for the text */
        r->interrupt_ns = clock_ns();
        return;
    }
    repl_note_interrupt(r);
    if (r->leave) return;
    repl_say(r, "[Ctrl-D or /exit leaves, so does Ctrl-C twice]");
}

static void on_typed(struct repl *r, const struct typed_lines *typed) {
    struct typed what;
    struct reason why = {{0}};
    const struct span text = {typed->text.ptr, typed->text.len};
    if (typed_read(text, typed->literal, &what, &why)) {
        repl_complain(r, EXIT_FAILED, why.text);
    } else if (what.kind == TYPED_COMMAND) {
        repl_command(r, &what);
    } else if (what.kind == TYPED_MESSAGE) {
        repl_message(r, what.argument);
        if (r->cli->options->single_turn) r->leave = true;
    }
}

static void remember(struct repl *r, struct span text) {
    if (history_add(&r->history, text)) lines_remember(r->lines, r->history.entries[r->history.len - 1]);
}

/* True: a whole message is in `typed`. */
static bool read_message(struct repl *r, struct typed_lines *typed) {
    struct text line = {0};
    bool complete = false, pasted, dropped;
    enum line_status status = LINE_READ;
    while (!complete && status == LINE_READ) {
        char attached[48];
        snprintf(attached, sizeof attached, "(%zu file%s) %s", r->n_attached, r->n_attached == 1 ? "" : "s", prompt);
        status = lines_read(r->lines, typed->open ? more_prompt : r->n_attached ? attached : prompt, &line, &pasted, &dropped);
        if (status == LINE_READ) complete = typed_lines_feed(typed, (struct span){line.ptr, line.len}, pasted);
    }
    text_free(&line);
    if (status == LINE_INTERRUPTED) on_interrupted_line(r, dropped || typed->open);
    if (status == LINE_END && typed->open)
        complete = true; /* the end of the input ends the message, too */
    else if (status == LINE_END)
        r->leave = true;
    if (status == LINE_FAILED) repl_complain(r, EXIT_FAILED, "stdin cannot be read"), r->leave = true, r->status = EXIT_FAILED;
    return complete;
}

static void converse(struct repl *r) {
    struct typed_lines typed = {.inverted = r->cli->options->multiline};
    while (!r->leave) {
        typed_lines_reset(&typed);
        if (!read_message(r, &typed)) continue;
        if (typed.text.failed || lossy(&typed.text, NULL)) {
            repl_complain(r, EXIT_FAILED, "no memory for the message");
            continue;
        }
        remember(r, (struct span){typed.text.ptr, typed.text.len});
        on_typed(r, &typed);
    }
    typed_lines_free(&typed);
}

/* The first message from the command line, or with -st all of a piped stdin. False: there is none. */
static enum err first_message(struct repl *r, struct text *out, bool *given, struct reason *why) {
    const struct options *o = r->cli->options;
    const char *path = o->file ? o->file : !o->prompt && o->single_turn && !r->interactive ? "-" : NULL;
    *given = path || o->prompt;
    if (path)
        TRY(cli_read_file(path, out, why));
    else if (o->prompt && o->escape)
        TRY(cli_unescape(o->prompt, out, why));
    else if (o->prompt)
        text_add_span(out, span_of(o->prompt));
    if (path && out->len && out->ptr[out->len - 1] == '\n') out->len--;
    TRY(lossy(out, why));
    if (*given && !span_trim((struct span){out->ptr, out->len}).len)
        return fail(why, ERR_ARGUMENT, "the first message is empty%s",
                    path && strcmp(path, "-") == 0 ? ": nothing came from stdin" : "");
    return ERR_NONE;
}

static enum err chat(struct repl *r, struct reason *why) {
    struct text first = {0};
    bool given;
    enum err code = first_message(r, &first, &given, why);
    if (!code && given) {
        if (r->interactive) {
            struct text shown = {0};
            view_clean((struct span){first.ptr, first.len}, &shown);
            fprintf(stderr, "%s%s\n", prompt, shown.ptr ? shown.ptr : "");
            text_free(&shown);
        }
        repl_message(r, (struct span){first.ptr, first.len});
        if (r->cli->options->single_turn) r->leave = true;
    }
    text_free(&first);
    if (!code && !r->leave) converse(r);
    return code;
}

int cmd_chat(struct cli *c) {
    const char *problem = check_usage(c->options);
    if (problem) return cli_usage(c, "%s", problem);
    struct reason why = {{0}};
    struct repl r = {.cli = c, .view.cli = c, .history.fd = -1, .interactive = isatty(STDIN_FILENO)};
    struct learner learner;
    enum err code = start(&r, &learner, &why);
    if (!code) {
        banner(&r);
        code = chat(&r, &why);
    }
    lines_close(&r.lines); /* the terminal is itself again before anything else is said */
    const int status = code ? cli_fail(c, code, &why) : r.status;
    if (r.interactive && c->color_stdout && cli_write(SPAN("\033[0m"))) { /* whatever was printed last */
    }
    if (!code) cli_log_io(c, r.engine);
    learn_end(&learner);
    history_close(&r.history);
    transcript_close(&r.transcript);
    text_free(&r.attached);
    session_close(&r.session);
    engine_close(&r.engine);
    return status;
}
