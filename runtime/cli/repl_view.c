/* Printing an answer as it comes. */
#include "cli/repl_view.h"

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

enum target { ANSWER, BESIDE };

/* Thinking goes beside the answer: to the same terminal, or away from a stdout that others read. */
static bool to_stdout(const struct view *v, enum target target) { return target == ANSWER || v->cli->stdout_is_terminal; }

static void put(struct view *v, enum target target, struct span s) {
    if (!to_stdout(v, target))
        cli_write_error(s);
    else if (s.len)
        v->broken |= !cli_write(s);
}

static void put_model_text(struct view *v, enum target target, struct span s) {
    struct text clean = {0};
    if (to_stdout(v, target) ? v->cli->stdout_is_terminal : v->cli->stderr_is_terminal) {
        view_clean(s, &clean);
        s = (struct span){clean.ptr, clean.failed ? 0 : clean.len};
    }
    put(v, target, s);
    text_free(&clean);
}

static bool is_colored(const struct view *v) { return to_stdout(v, BESIDE) ? v->cli->color_stdout : v->cli->color_stderr; }

void view_begin(struct view *v) { *v = (struct view){.cli = v->cli}; }

void view_think(struct view *v) {
    if (v->thinking) return;
    v->thinking = true;
    if (is_colored(v)) put(v, BESIDE, SPAN("\033[2m"));
    put(v, BESIDE, SPAN("[Start thinking]\n"));
    v->last = '\n';
}

void view_answer(struct view *v) {
    if (!v->thinking) return;
    v->thinking = false;
    put(v, BESIDE, v->last == '\n' ? SPAN("[End thinking]") : SPAN("\n[End thinking]"));
    if (is_colored(v)) put(v, BESIDE, SPAN("\033[0m"));
    put(v, BESIDE, to_stdout(v, BESIDE) ? SPAN("\n\n") : SPAN("\n"));
    v->last = 0;
}

void view_text(struct view *v, struct span s) {
    if (!s.len) return;
    v->last = s.ptr[s.len - 1];
    put_model_text(v, v->thinking ? BESIDE : ANSWER, s);
    v->started |= !v->thinking;
}

void view_end(struct view *v) {
    view_answer(v);
    if (v->started && v->last != '\n') put(v, ANSWER, SPAN("\n"));
}

void view_pause(struct view *v) {
    const enum target target = v->thinking ? BESIDE : ANSWER;
    const bool on_screen = to_stdout(v, target) ? v->cli->stdout_is_terminal : v->cli->stderr_is_terminal;
    if (!on_screen || !v->last || v->last == '\n') return;
    put(v, target, SPAN("\n"));
    v->last = '\n';
}

void view_resume(struct view *v) {
    if (v->thinking && is_colored(v)) put(v, BESIDE, SPAN("\033[2m"));
}
