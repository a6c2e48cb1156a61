/* The slash commands. What they print goes to stderr; a failed one leaves the conversation as it was. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "cli/repl.h"
#include "cli/repl_complete.h"
#include "cli/repl_file.h"
#include "text/unicode.h"

enum { MAX_READ_BYTES = 4 << 20, MAX_LISTED = 100 };

static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

/* ---- messages about the chat ------------------------------------------------------------------------------------------------
 */

/* One line in a colour, which only matters on a terminal. */
static void say_line(struct repl *r, const char *color, const char *mark, const char *text) {
    struct text line = {0};
    const bool colored = r->cli->color_stderr;
    cli_progress_end(r->cli);
    if (colored)
        text_addf(&line, "%s%s%s", color, mark, *mark ? "\033[0m" : "");
    else
        text_addf(&line, "%s", mark);
    view_clean(span_of(text), &line);
    text_addf(&line, colored && !*mark ? "\033[0m\n" : "\n");
    if (!line.failed) cli_write_error((struct span){line.ptr, line.len});
    text_free(&line);
}

void repl_say(struct repl *r, const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    say_line(r, "\033[2m", "", line);
}

void repl_complain(struct repl *r, int status, const char *text) {
    say_line(r, "\033[31m", "error: ", text);
    if (r->interactive) return;
    r->leave = true;
    r->status = status;
}

/* Several lines, as they are. */
static void show(struct repl *r, struct text *lines) {
    struct text clean = {0};
    cli_progress_end(r->cli);
    view_clean((struct span){lines->ptr, lines->len}, &clean);
    if (!clean.failed) cli_write_error((struct span){clean.ptr, clean.len});
    text_free(&clean);
    text_free(lines);
}

static enum err report(struct repl *r, enum err code, const struct reason *why) {
    if (code) repl_complain(r, EXIT_FAILED, why->text);
    return code;
}

/* ---- conversation
 * ------------------------------------------------------------------------------------------------------------- */

static void drop_attached(struct repl *r) {
    text_clear(&r->attached);
    r->n_attached = 0;
}

static void do_clear(struct repl *r) {
    const size_t turns = transcript_turns(&r->transcript);
    transcript_cut(&r->transcript, transcript_system(&r->transcript).len ? 1 : 0);
    drop_attached(r);
    repl_say(r, "[cleared: %zu message%s and what answered them]", turns, turns == 1 ? "" : "s");
}

static void do_undo(struct repl *r) {
    if (r->n_attached) { /* the latest thing that was done */
        drop_attached(r);
        repl_say(r, "[the files read for the next message were dropped]");
        return;
    }
    const size_t user = transcript_last_user(&r->transcript);
    if (user == SIZE_MAX) {
        repl_complain(r, EXIT_FAILED, "there is nothing to take back");
        return;
    }
    struct span text = transcript_content(&r->transcript, user);
    const size_t line = text.len ? strcspn(text.ptr, "\n") : 0;
    size_t shown = line < 60 ? line : 60;
    while (shown && shown < text.len && ((unsigned char)text.ptr[shown] & 0xc0) == 0x80) shown--;
    repl_say(r, "[took back: %.*s%s]", (int)shown, text.ptr, shown < text.len ? "..." : "");
    transcript_cut(&r->transcript, user);
}

static void do_system(struct repl *r, struct span text) {
    struct reason why = {{0}};
    if (!text.len) {
        struct text lines = {0};
        const struct span now = transcript_system(&r->transcript);
        text_add_span(&lines, now.len ? now : SPAN("(no system message)"));
        text_add(&lines, "\n", 1);
        show(r, &lines);
        return;
    }
    if (span_equal(text, SPAN("\"\""))) text.len = 0;
    if (report(r, transcript_set_system(&r->transcript, text, &why), &why)) return;
    repl_say(r, text.len ? "[system message set; the next answer reads the conversation again]" : "[system message removed]");
}

static bool is_text(struct span s, size_t *bad) {
    uint32_t code;
    size_t used;
    for (size_t at = 0; at < s.len; at += used) {
        *bad = at;
        if (s.ptr[at] == 0 || utf8_decode((const uint8_t *)s.ptr + at, s.len - at, &code, &used) != UTF8_GOOD) return false;
    }
    return true;
}

static enum err read_text(const char *path, struct text *out, struct reason *why) {
    TRY(whole_file_read(path, MAX_READ_BYTES, out, why));
    size_t bad = 0;
    if (!is_text((struct span){out->ptr, out->len}, &bad))
        return fail(why, ERR_FORMAT, "%s: not a text file: no UTF-8 at byte %zu; convert it first", path, bad);
    return out->len ? ERR_NONE : fail(why, ERR_FORMAT, "%s: the file is empty", path);
}

static void do_read(struct repl *r, const char *path) {
    struct reason why = {{0}};
    struct text content = {0};
    if (!report(r, read_text(path, &content, &why), &why)) {
        const size_t before = r->attached.len;
        text_addf(&r->attached, "%s:\n", path);
        text_add_span(&r->attached, (struct span){content.ptr, content.len});
        text_addf(&r->attached, content.ptr[content.len - 1] == '\n' ? "\n" : "\n\n");
        if (r->attached.failed) {
            r->attached.len = before;
            r->attached.failed = false;
            repl_complain(r, EXIT_FAILED, "no memory to hold the file");
        } else {
            r->n_attached++;
            repl_say(r, "[%s: %zu bytes go in front of the next message; /undo drops them]", path, content.len);
        }
    }
    text_free(&content);
}

/* ---- saved chats
 * ----------------------------------------------------------------------------------------------------------------- */

static json_t *setting_json(const struct options *o, const char *name) {
#define X(member, option, flag)                                                                                                \
    if (strcmp(name, flag) == 0 && options_given(o, &o->option))                                                               \
        return _Generic(o->option, double : json_real((double)o->option), default : json_integer((json_int_t)o->option));
    SAMPLING_SETTINGS(X)
#undef X
    if (strcmp(name, "predict") == 0 && options_given(o, &o->predict)) return json_integer(o->predict);
    if (strcmp(name, "ignore-eos") == 0 && options_given(o, &o->ignore_eos)) return json_boolean(o->ignore_eos);
    if (strcmp(name, "show-timings") == 0 && options_given(o, &o->show_timings)) return json_boolean(o->show_timings);
    return NULL;
}

/* Only what was chosen: the rest follows the model. */
static bool collect_settings(const struct repl *r, json_t *out) {
    for (const char *const *name = chat_settings; *name; name++) {
        json_t *value = setting_json(r->cli->options, *name);
        if (value && json_object_set_new(out, *name, value) != 0) return false;
    }
    return r->family != CHAT_QWEN3 || json_object_set_new(out, "think", json_boolean(r->thinking)) == 0;
}

static void do_save(struct repl *r, const char *path) {
    struct reason why = {{0}};
    struct saved_head head = {.settings = json_object()};
    const struct model *m = engine_model(r->engine);
    text_add_span(&head.model, m->name);
    snprintf(head.family, sizeof head.family, "%s", chat_family_name(r->family));
    model_fingerprint(m, head.fingerprint);
    enum err code = !head.settings || !collect_settings(r, head.settings)
                        ? fail(&why, ERR_NO_MEMORY, "%s: no memory to write it", path)
                        : transcript_save(&r->transcript, &head, path, &why);
    if (!report(r, code, &why)) {
        const size_t turns = transcript_turns(&r->transcript);
        repl_say(r, "[saved %zu turn%s to %s]", turns, turns == 1 ? "" : "s", path);
    }
    saved_head_free(&head);
}

static enum err set_option(struct repl *r, struct span name, const char *value, struct reason *why) {
    const char *known = chat_setting_name(name);
    if (!known)
        return fail(why, ERR_ARGUMENT, "'%.*s' is no setting of the chat; /show lists them",
                    (int)(name.len < 60 ? name.len : 60), name.ptr);
    struct options *o = r->cli->options;
    const bool off = strcmp(value, "off") == 0 || strcmp(value, "false") == 0,
               on = strcmp(value, "on") == 0 || strcmp(value, "true") == 0;
    if (strcmp(known, "ignore-eos") == 0 || strcmp(known, "show-timings") == 0) {
        char negative[40];
        if (!on && !off) return fail(why, ERR_ARGUMENT, "%s is on or off, not '%.60s'", known, value);
        snprintf(negative, sizeof negative, "no-%s", known);
        return options_set(o, on ? known : negative, "", why);
    }
    return options_set(o, known, value, why);
}

/* The chat itself is loaded already; a setting that this build refuses is named and left out. */
static void apply_settings(struct repl *r, json_t *settings) {
    const char *name;
    json_t *value;
    json_object_foreach(settings, name, value) {
        struct reason why = {{0}};
        char text[40] = "";
        if (strcmp(name, "think") == 0) {
            if (r->family == CHAT_QWEN3) r->thinking = json_is_true(value);
            continue;
        }
        if (json_is_integer(value))
            snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        else if (json_is_real(value))
            snprintf(text, sizeof text, "%.15g", json_real_value(value));
        else if (json_is_boolean(value))
            snprintf(text, sizeof text, "%s", json_is_true(value) ? "on" : "off");
        if (!*text)
            repl_say(r, "[setting %s was left out: neither a number nor a switch]", name);
        else if (set_option(r, span_of(name), text, &why))
            repl_say(r, "[setting %s was left out: %s]", name, why.text);
    }
    repl_choose_sampling(r);
}

static void do_load(struct repl *r, const char *path) {
    struct reason why = {{0}};
    struct transcript loaded;
    struct saved_head head;
    if (report(r, transcript_load(path, r->tokenizer, &loaded, &head, &why), &why)) return;
    transcript_close(&r->transcript);
    r->transcript = loaded;
    drop_attached(r);
    char fingerprint[FINGERPRINT_CHARS];
    model_fingerprint(engine_model(r->engine), fingerprint);
    if (strcmp(fingerprint, head.fingerprint) != 0)
        repl_say(r, "[the chat was held with another model: %s; this one goes on]",
                 head.model.len ? head.model.ptr : "(no name)");
    apply_settings(r, head.settings);
    const size_t turns = transcript_turns(&r->transcript);
    repl_say(r, "[loaded %zu turn%s from %s; the next answer reads them again]", turns, turns == 1 ? "" : "s", path);
    saved_head_free(&head);
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static void do_list(struct repl *r, const char *folder) {
    struct dirent **entries = NULL;
    const int n = scandir(folder, &entries, NULL, by_name);
    if (n < 0) {
        struct reason why = {{0}};
        (void)report(r, fail(&why, ERR_IO, "%s: cannot be read", folder), &why);
        return;
    }
    struct text lines = {0};
    size_t found = 0;
    for (int i = 0; i < n; i++) {
        struct text path = {0};
        struct stat info;
        text_addf(&path, "%s/%s", folder, entries[i]->d_name);
        if (found < MAX_LISTED && !path.failed && stat(path.ptr, &info) == 0 && S_ISREG(info.st_mode) &&
            transcript_is_saved_chat(path.ptr, NULL)) {
            text_addf(&lines, "  %-40s %8lld bytes\n", entries[i]->d_name, (long long)info.st_size);
            found++;
        }
        text_free(&path);
        free(entries[i]);
    }
    free(entries);
    if (!found) text_addf(&lines, "no saved chats in %s\n", folder);
    show(r, &lines);
}

/* ---- settings
 * ------------------------------------------------------------------------------------------------------------------------ */

void repl_choose_sampling(struct repl *r) {
    const bool had_seed = r->sampling.source[SAMPLING_seed] && strcmp(r->sampling.source[SAMPLING_seed], "random") == 0;
    const uint64_t seed = r->sampling.values.seed;
    cli_sampling(r->cli, r->family, chat_family_can_think(r->family) && r->thinking, &r->sampling);
    if (had_seed && strcmp(r->sampling.source[SAMPLING_seed], "random") == 0) r->sampling.values.seed = seed;
}

static void add_flag(const struct repl *r, const char *name, const void *member, const char *value, struct text *out) {
    static const char *const sources[] = {
        [SOURCE_DEFAULT] = "default", [SOURCE_ENVIRONMENT] = "environment", [SOURCE_FLAG] = "flag", [SOURCE_SET] = "/set"};
    text_addf(out, "%s %s (%s)\n", name, value, sources[options_source(r->cli->options, member)]);
}

static void do_show(struct repl *r) {
    const struct options *o = r->cli->options;
    struct text lines = {0};
    text_addf(&lines, "model %s (family %s)\n", o->model, chat_family_name(r->family));
    cli_sampling_describe(&r->sampling, &lines);
    char predict[32];
    snprintf(predict, sizeof predict, "%" PRId64, o->predict);
    add_flag(r, "predict", &o->predict, predict, &lines);
    if (!o->ignore_eos) add_flag(r, "ignore-eos", &o->ignore_eos, "off", &lines); /* on: described above */
    add_flag(r, "show-timings", &o->show_timings, o->show_timings ? "on" : "off", &lines);
    if (chat_family_can_think(r->family))
        text_addf(&lines, "thinking %s\n",
                  r->family == CHAT_QWEN3_THINKING ? "always (the model cannot do without)"
                  : r->thinking                    ? "on"
                                                   : "off");
    const struct span system = transcript_system(&r->transcript);
    text_addf(&lines, "system message: %s\n", system.len ? "set (/system shows it)" : "none");
    show(r, &lines);
}

static void do_set(struct repl *r, struct span argument) {
    if (!argument.len) {
        do_show(r);
        return;
    }
    struct reason why = {{0}};
    struct span name = {argument.ptr, 0};
    while (name.len < argument.len && argument.ptr[name.len] != ' ' && argument.ptr[name.len] != '=') name.len++;
    const struct span value = span_trim((struct span){argument.ptr + name.len, argument.len - name.len});
    char *copy = strndup(value.len && *value.ptr == '=' ? value.ptr + 1 : value.ptr,
                         value.len && *value.ptr == '=' ? value.len - 1 : value.len);
    enum err code = !copy        ? fail(&why, ERR_NO_MEMORY, "no memory")
                    : !value.len ? fail(&why, ERR_ARGUMENT, "/set needs a name and a value: /set temp 0.7")
                                 : set_option(r, name, (const char *)copy, &why);
    free(copy);
    if (report(r, code, &why)) return;
    const char *known = chat_setting_name(name);
    if (strcmp(known, "seed") == 0) r->answers = 0; /* the next answer draws from it as it is */
    repl_choose_sampling(r);
    repl_say(r, "[%s set]", known);
}

static void do_think(struct repl *r, struct span argument) {
    const bool on = span_equal(argument, SPAN("on")), off = span_equal(argument, SPAN("off"));
    if (!chat_family_can_think(r->family)) {
        repl_complain(r, EXIT_FAILED, "this model does not think");
    } else if (r->family == CHAT_QWEN3_THINKING && off) {
        repl_complain(r, EXIT_FAILED, "this model always thinks; it cannot be switched off");
    } else if (argument.len && !on && !off) {
        repl_complain(r, EXIT_FAILED, "/think is on or off");
    } else {
        if (argument.len) r->thinking = on;
        repl_choose_sampling(r);
        repl_say(r, "[thinking is %s]", r->thinking ? "on" : "off");
    }
}

static void do_ctx(struct repl *r) {
    const uint64_t held = session_length(r->session), capacity = session_capacity(r->session);
    const size_t turns = transcript_held_turns(&r->transcript);
    const struct model_shape *shape = &engine_model(r->engine)->shape;
    struct token_list prompt = {0};
    struct reason why = {{0}};
    struct engine_info info;
    engine_get_info(r->engine, &info);
    const enum err code = turns ? repl_prompt(r, &prompt, &why) : ERR_NONE;
    if (!report(r, code, &why))
        repl_say(r,
                 "context: %zu of %" PRIu64 " tokens (%.1f %%) in %zu turn%s; the cache holds %" PRIu64
                 " tokens, %.1f of %.1f MiB; "
                 "%s for %" PRIu64,
                 prompt.len, capacity, 100.0 * (double)prompt.len / (double)capacity, turns, turns == 1 ? "" : "s", held,
                 mib(held * info.kv_bytes_per_token), mib(capacity * info.kv_bytes_per_token),
                 shape->rope_factor > 1 ? "positions are scaled" : "the model was trained", shape->context_length);
    if (r->transcript.left_out) repl_say(r, "%zu earlier messages are left out of it", r->transcript.left_out);
    token_list_free(&prompt);
}

static void do_stats(struct repl *r) {
    const struct totals *t = &r->totals;
    struct engine_info info;
    struct rusage usage = {0};
    engine_get_info(r->engine, &info);
    getrusage(RUSAGE_SELF, &usage);
    struct text lines = {0};
    text_addf(&lines, "answers %" PRIu64 "\n", t->turns);
    text_addf(&lines, "prompt %" PRIu64 " tokens read in %.1f s (%.1f t/s), %" PRIu64 " reused from the cache\n", t->prompt,
              1e-9 * (double)t->prompt_ns, tokens_per_second(t->prompt, t->prompt_ns), t->reused);
    text_addf(&lines, "generation %" PRIu64 " tokens in %.1f s (%.1f t/s)\n", t->generated, 1e-9 * (double)t->decode_ns,
              tokens_per_second(t->steps, t->decode_ns));
    text_addf(&lines, "loaded %.0f MiB of weights in %.1f s\n", mib(info.weight_bytes), 1e-9 * (double)info.load_ns);
    text_addf(&lines, "memory: weights %.0f MiB, scratch %.0f MiB, KV cache room %.0f MiB; peak of the process %.0f MiB\n",
              mib(info.weight_bytes), mib(info.scratch_bytes), mib(session_capacity(r->session) * info.kv_bytes_per_token),
              (double)usage.ru_maxrss / 1024);
    cli_describe_io(r->cli, r->engine, &lines);
    show(r, &lines);
}

/* ---- dispatch
 * -------------------------------------------------------------------------------------------------------------------------- */

static void do_help(struct repl *r) {
    struct text lines = {0};
    slash_help(&lines);
    show(r, &lines);
}

static void with_path(struct repl *r, struct span argument, void (*command)(struct repl *, const char *)) {
    struct text path = {0};
    path_expand(argument.len ? argument : SPAN("."), r->cli->options->home, &path);
    if (path.failed)
        repl_complain(r, EXIT_FAILED, "no memory for the path");
    else if (memchr(path.ptr, 0, path.len))
        repl_complain(r, EXIT_FAILED, "a path holds no NUL");
    else
        command(r, path.ptr);
    text_free(&path);
}

void repl_command(struct repl *r, const struct typed *typed) {
    const struct span argument = typed->argument;
    switch (typed->command) {
    case SLASH_HELP: do_help(r); break;
    case SLASH_EXIT: r->leave = true; break;
    case SLASH_CLEAR: do_clear(r); break;
    case SLASH_REGEN: repl_regenerate(r); break;
    case SLASH_UNDO: do_undo(r); break;
    case SLASH_READ: with_path(r, argument, do_read); break;
    case SLASH_SAVE: with_path(r, argument, do_save); break;
    case SLASH_LOAD: with_path(r, argument, do_load); break;
    case SLASH_LIST: with_path(r, argument, do_list); break;
    case SLASH_SET: do_set(r, argument); break;
    case SLASH_SYSTEM: do_system(r, argument); break;
    case SLASH_THINK: do_think(r, argument); break;
    case SLASH_SHOW: do_show(r); break;
    case SLASH_CTX: do_ctx(r); break;
    case SLASH_STATS: do_stats(r); break;
    case SLASH_COUNT: break;
    }
}
