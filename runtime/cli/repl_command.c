/* The table of slash commands, how a message is read as one of them, and how lines join into a message. */
#include "cli/repl_command.h"

#include <string.h>

static const struct slash_info infos[SLASH_COUNT] = {
    [SLASH_HELP] = {"/help /?", ARGUMENT_NONE, .help = "this list"},
    [SLASH_EXIT] = {"/exit /quit /bye /q", ARGUMENT_NONE, .help = "leave (also Ctrl-D)"},
    [SLASH_CLEAR] = {"/clear", ARGUMENT_NONE, .help = "forget the conversation; the system message stays"},
    [SLASH_REGEN] = {"/regen", ARGUMENT_NONE, .help = "answer the last message again"},
    [SLASH_UNDO] = {"/undo", ARGUMENT_NONE, .help = "take the last message and its answer back"},
    [SLASH_READ] = {"/read", ARGUMENT_NEEDED, "FILE", .path = true, .help = "put a text file in front of the next message"},
    [SLASH_SAVE] = {"/save", ARGUMENT_NEEDED, "FILE", .path = true, .help = "save the chat: messages and settings, as JSON"},
    [SLASH_LOAD] = {"/load", ARGUMENT_NEEDED, "FILE", .path = true, .help = "go on with a saved chat"},
    [SLASH_LIST] = {"/list", ARGUMENT_OPTIONAL, "FOLDER", .path = true, .help = "saved chats in a folder"},
    [SLASH_SET] = {"/set", ARGUMENT_OPTIONAL, "NAME VALUE", .help = "change a setting; without arguments as /show"},
    [SLASH_SYSTEM] = {"/system", ARGUMENT_OPTIONAL, "TEXT",
                      .help = "set the system message; \"\" removes it, nothing shows it"},
    [SLASH_THINK] = {"/think", ARGUMENT_OPTIONAL, "on|off", "on off", .help = "let the model think before it answers"},
    [SLASH_SHOW] = {"/show", ARGUMENT_NONE, .help = "settings, and where each comes from"},
    [SLASH_CTX] = {"/ctx", ARGUMENT_NONE, .help = "how full the context is"},
    [SLASH_STATS] = {"/stats", ARGUMENT_NONE, .help = "work, speed and memory so far"},
};

const struct slash_info *slash_info(enum slash command) { return &infos[command]; }

const char *const chat_settings[] = {"temp",
                                     "top-k",
                                     "top-p",
                                     "min-p",
                                     "repeat-penalty",
                                     "repeat-last-n",
                                     "presence-penalty",
                                     "frequency-penalty",
                                     "seed",
                                     "predict",
                                     "ignore-eos",
                                     "show-timings",
                                     NULL};

const char *chat_setting_name(struct span name) {
    while (name.len && *name.ptr == '-') name.ptr++, name.len--;
    for (const char *const *known = chat_settings; *known; known++) {
        size_t i = 0;
        while (i < name.len && (*known)[i] == (name.ptr[i] == '_' ? '-' : name.ptr[i])) i++;
        if (i == name.len && (*known)[i] == 0) return *known;
    }
    return NULL;
}

void slash_help(struct text *out) {
    enum { COLUMN = 32 };
    for (int i = 0; i < SLASH_COUNT; i++) {
        const struct slash_info *s = &infos[i];
        const size_t start = out->len;
        text_addf(out, "  ");
        for (const char *c = s->names; *c; c++) text_add(out, *c == ' ' ? ", " : c, *c == ' ' ? 2 : 1);
        if (s->metavar) text_addf(out, s->argument == ARGUMENT_NEEDED ? " %s" : " [%s]", s->metavar);
        const size_t used = out->len - start;
        text_addf(out, "%*s%s\n", used < COLUMN ? (int)(COLUMN - used) : 1, "", s->help);
    }
    text_addf(out, "  %-30s%s\n  %-30s%s\n  %-30s%s\n  %-30s%s\n", "//TEXT", "a message that begins with one slash", "TEXT\\",
              "go on in the next line (also Alt-Enter)", "\"\"\" ... \"\"\"", "a message of several lines", "Ctrl-C, Ctrl-G",
              "stop the answer or drop the line; write in your editor");
}

/* ---- typed text ------------------------------------------------------------------------------------------------------ */

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

struct span span_trim(struct span s) {
    while (s.len && is_blank(*s.ptr)) s.ptr++, s.len--;
    while (s.len && is_blank(s.ptr[s.len - 1])) s.len--;
    return s;
}

static bool has_name(const char *names, struct span name) {
    for (const char *at = names; *at;) {
        const size_t len = strcspn(at, " ");
        if (span_equal((struct span){at, len}, name)) return true;
        at += len + (at[len] == ' ');
    }
    return false;
}

/* A path may be put in quotes; nothing inside is an escape. */
static struct span unquote(struct span s) {
    const bool quoted = s.len >= 2 && (*s.ptr == '"' || *s.ptr == '\'') && s.ptr[s.len - 1] == *s.ptr;
    return quoted ? (struct span){s.ptr + 1, s.len - 2} : s;
}

static enum err read_command(struct span input, struct typed *out, struct reason *why) {
    struct span name = {input.ptr, 0};
    while (name.len < input.len && !is_blank(input.ptr[name.len])) name.len++;
    struct span argument = span_trim((struct span){input.ptr + name.len, input.len - name.len});
    const int shown = (int)(name.len < 40 ? name.len : 40);
    for (int i = 0; i < SLASH_COUNT; i++) {
        if (!has_name(infos[i].names, name)) continue;
        if (infos[i].argument == ARGUMENT_NONE && argument.len)
            return fail(why, ERR_ARGUMENT, "%.*s takes no argument", shown, name.ptr);
        if (infos[i].path) argument = unquote(argument);
        if (infos[i].argument == ARGUMENT_NEEDED && !argument.len)
            return fail(why, ERR_ARGUMENT, "%.*s needs an argument: %.*s %s", shown, name.ptr, shown, name.ptr,
                        infos[i].metavar);
        *out = (struct typed){TYPED_COMMAND, (enum slash)i, argument};
        return ERR_NONE;
    }
    return fail(why, ERR_ARGUMENT, "unknown command %.*s; /help lists them, and //TEXT sends text that begins with a slash",
                shown, name.ptr);
}

enum err typed_read(struct span input, bool literal, struct typed *out, struct reason *why) {
    *out = (struct typed){.argument = input};
    const struct span text = span_trim(input);
    if (!text.len) return ERR_NONE;
    if (!literal && *text.ptr == '/') {
        if (text.len < 2 || text.ptr[1] != '/') return read_command(text, out, why);
        input = (struct span){text.ptr + 1, (size_t)(input.ptr + input.len - text.ptr) - 1};
    }
    *out = (struct typed){.kind = TYPED_MESSAGE, .argument = input};
    return ERR_NONE;
}

/* ---- lines -> one message ----------------------------------------------------------------------------------------------- */

static bool ends_with(struct span s, struct span tail) {
    return s.len >= tail.len && memcmp(s.ptr + s.len - tail.len, tail.ptr, tail.len) == 0;
}

static bool feed_block(struct typed_lines *t, struct span line) {
    const bool ends = ends_with(line, SPAN("\"\"\""));
    if (ends) line.len -= 3;
    text_add_span(&t->text, line);
    if (!ends)
        text_add(&t->text, "\n", 1);
    else if (t->text.len && t->text.ptr[t->text.len - 1] == '\n')
        t->text.ptr[--t->text.len] = 0; /* the closing quotes' own line */
    t->open = t->in_block = !ends;
    return ends;
}

bool typed_lines_feed(struct typed_lines *t, struct span line, bool pasted) {
    const bool first = !t->open;
    if (t->in_block) return feed_block(t, line);
    if (first && pasted) {
        t->literal = true;
    } else if (first && span_starts(line, SPAN("\"\"\""))) {
        t->literal = true;
        line = (struct span){line.ptr + 3, line.len - 3};
        if (line.len == 0) return !(t->open = t->in_block = true); /* the opening quotes' own line */
        return feed_block(t, line);
    }
    const bool command = first && !pasted && line.len && *line.ptr == '/' && !(line.len > 1 && line.ptr[1] == '/');
    const bool marked = !(first && pasted) && ends_with(line, SPAN("\\"));
    if (marked) line.len--;
    text_add_span(&t->text, line);
    const bool more = t->inverted && !command ? !marked : marked;
    if (more) text_add(&t->text, "\n", 1);
    t->open = more;
    return !more;
}

void typed_lines_reset(struct typed_lines *t) {
    text_clear(&t->text);
    t->open = t->in_block = t->literal = false;
}

void typed_lines_free(struct typed_lines *t) {
    text_free(&t->text);
    typed_lines_reset(t);
}
