/* Printing an answer as it comes. */
#include "cli/repl_view.h"

#include <stdio.h>
#include <string.h>

static const char dim[] = "\033[2m", reset[] = "\033[0m";

void view_clean(struct span s, struct text *out) {
    for (size_t i = 0; i < s.len; i++) {
        const unsigned char c = (unsigned char)s.ptr[i], next = i + 1 < s.len ? (unsigned char)s.ptr[i + 1] : 0;
        const bool c1 = c == 0xc2 && next >= 0x80 && next < 0xa0;
        if (c == '\r') continue;
        if (c1 || c == 0x7f || (c < 0x20 && c != '\n' && c != '\t')) {
            text_add(out, "\xef\xbf\xbd", 3);
            i += c1;
        } else {
            text_add(out, s.ptr + i, 1);
        }
    }
}

static void put(struct view *v, FILE *to, bool terminal, struct span s) {
    if (!s.len) return;
    struct text clean = {0};
    if (terminal) {
        view_clean(s, &clean);
        s = (struct span){clean.ptr, clean.failed ? 0 : clean.len};
    }
    if (to == stdout)
        v->broken |= !cli_write(s);
    else if (s.len)
        fwrite(s.ptr, 1, s.len, to), fflush(to);
    text_free(&clean);
}

static bool on_stdout(const struct view *v) { return v->cli->stdout_is_terminal; } /* of thinking */

static void put_beside(struct view *v, const char *s) {
    FILE *to = on_stdout(v) ? stdout : stderr;
    fputs(s, to);
    fflush(to);
}

void view_begin(struct view *v) { *v = (struct view){.cli = v->cli}; }

void view_think(struct view *v) {
    if (v->thinking) return;
    v->thinking = true;
    if (on_stdout(v) ? v->cli->color_stdout : v->cli->color_stderr) put_beside(v, dim);
    put_beside(v, "[Start thinking]\n");
    v->thought = true;
    v->last = '\n';
}

void view_answer(struct view *v) {
    if (!v->thinking) return;
    v->thinking = false;
    put_beside(v, v->last == '\n' ? "[End thinking]" : "\n[End thinking]");
    if (on_stdout(v) ? v->cli->color_stdout : v->cli->color_stderr) put_beside(v, reset);
    put_beside(v, on_stdout(v) ? "\n\n" : "\n");
    v->last = 0;
}

void view_text(struct view *v, struct span s) {
    if (!s.len) return;
    v->last = s.ptr[s.len - 1];
    if (v->thinking && !on_stdout(v))
        put(v, stderr, v->cli->stderr_is_terminal, s);
    else
        put(v, stdout, v->cli->stdout_is_terminal, s);
    v->started |= !v->thinking;
}

void view_end(struct view *v) {
    view_answer(v);
    if (v->started && v->last != '\n') put(v, stdout, false, SPAN("\n"));
}
