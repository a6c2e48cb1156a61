/* Plain lines: pipes, files, dumb terminals. No editing, no history, no escape codes. */
#include "cli/repl_lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

struct lines {
    struct editor *editor; /* NULL: plain */
    FILE *terminal;
    struct text ahead; /* read, not yet handed out */
    size_t taken;      /* bytes of `ahead` that were */
    bool ended;
};

enum err lines_open(const struct lines_options *options, struct lines **out, struct reason *why) {
    struct lines *l = *out = calloc_checked(1, sizeof *l);
    if (!l) return fail(why, ERR_NO_MEMORY, "no memory for the prompt");
    l->terminal = options->terminal;
    if (options->edit && !editor_open(options, &l->editor)) l->editor = NULL;
    return ERR_NONE;
}

void lines_close(struct lines **lines) {
    struct lines *l = *lines;
    if (!l) return;
    *lines = NULL;
    editor_close(&l->editor);
    text_free(&l->ahead);
    free(l);
}

/* Bytes of the next line in `ahead`, with its end; 0: not complete yet. */
static size_t next_line(const struct lines *l) {
    const char *from = l->ahead.ptr + l->taken;
    const size_t left = l->ahead.len - l->taken;
    const char *end = left ? memchr(from, '\n', left) : NULL;
    return end ? (size_t)(end - from) + 1 : l->ended ? left : 0;
}

static enum line_status read_plain(struct lines *l, struct text *line) {
    size_t len;
    while ((len = next_line(l)) == 0) {
        if (l->ended) return LINE_END;
        if (cli_cancelled()) return LINE_INTERRUPTED;
        if (l->taken) {
            memmove(l->ahead.ptr, l->ahead.ptr + l->taken, l->ahead.len - l->taken);
            l->ahead.len -= l->taken;
            l->taken = 0;
        }
        char buffer[4096];
        const ssize_t got = read(STDIN_FILENO, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return LINE_FAILED;
        l->ended = got == 0;
        text_add(&l->ahead, buffer, (size_t)got);
        if (l->ahead.failed) return LINE_FAILED;
    }
    const char *from = l->ahead.ptr + l->taken;
    l->taken += len;
    if (from[len - 1] == '\n') len--;
    if (len && from[len - 1] == '\r') len--;
    text_add(line, from, len);
    return LINE_READ;
}

enum line_status lines_read(struct lines *l, const char *prompt, struct text *line, bool *pasted, bool *dropped) {
    text_clear(line);
    *pasted = *dropped = false;
    if (l->editor) return editor_read(l->editor, prompt, line, pasted, dropped);
    if (l->terminal) fprintf(l->terminal, "%s", prompt), fflush(l->terminal);
    const enum line_status status = read_plain(l, line);
    if (l->terminal && (status == LINE_INTERRUPTED || status == LINE_END)) fputc('\n', l->terminal);
    return status;
}

void lines_remember(struct lines *l, const char *entry) {
    if (l->editor) editor_remember(l->editor, entry);
}
