/* The line editor: libedit, plus what it lacks.
 *
 * libedit does the editing, the display of lines that wrap or hold line ends, and the search in the history. This layer adds
 * bracketed paste (a pasted block is inserted whole; its line ends send nothing), Alt-Enter, Ctrl-C as a key, Tab, the user's
 * own editor, moving between the lines of one message, and a window that changes its size. Keys are read here (EL_GETCFN), as
 * UTF-8 whatever the locale, so that a signal or a new size is seen while waiting. The history is walked here too: libedit
 * keeps only 1024 characters of an unsent line while it shows an older one.
 *
 * Terminal modes: `normal` as found; libedit's raw mode while a line is edited, with signals off; busy at all other
 * times. */
#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include "cli/cli.h"
#include "cli/repl_complete.h"
#include "cli/repl_file.h"
#include "cli/repl_lines.h"
#include "text/unicode.h"

enum { POLL_MS = 250, MAX_EDITED_BYTES = 16 << 20, MAX_LISTED = 200 };

#define PASTE_ON "\033[?2004h"
#define PASTE_OFF "\033[?2004l"

struct editor {
    EditLine *el;
    History *search; /* libedit's copy of the entries, for Ctrl-R */
    FILE *out;
    const char *home, *command; /* command: the user's editor */
    struct typed_history *history;
    size_t shown; /* index of the entry in the line; history->len: the unsent line */
    struct text unsent;
    char prompt[64];
    bool color, interrupted, dropped, pasted;
    struct termios normal;
    struct winsize size;
    locale_t utf8, previous;
};

static struct editor *self(EditLine *el) {
    void *e = NULL;
    el_get(el, EL_CLIENTDATA, &e);
    return e;
}

static char *show_prompt(EditLine *el) { return self(el)->prompt; }

/* ---- keys ------------------------------------------------------------------------------------------------------------------
 */

static void follow_size(struct editor *e) {
    struct winsize size;
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) != 0 || (size.ws_col == e->size.ws_col && size.ws_row == e->size.ws_row)) return;
    e->size = size;
    el_resize(e->el);
    fputs("\r\033[J", e->out); /* libedit draws the prompt again from here */
    el_set(e->el, EL_REFRESH);
}

/* One byte: 1, 0 at the end, -1 on an error or a signal that asks to stop. */
static int read_byte(struct editor *e, uint8_t *out) {
    for (;;) {
        struct pollfd ready = {STDIN_FILENO, POLLIN, 0};
        const int n = poll(&ready, 1, POLL_MS);
        if (cli_cancelled()) return -1;
        follow_size(e);
        if (n <= 0) continue;
        const ssize_t got = read(STDIN_FILENO, out, 1);
        if (got >= 0) return (int)got;
        if (errno != EINTR && errno != EAGAIN) return -1;
    }
}

static int read_key(EditLine *el, wchar_t *out) {
    uint8_t bytes[4];
    uint32_t code;
    size_t n = 0, used;
    for (;;) {
        const int got = read_byte(self(el), &bytes[n]);
        if (got <= 0) return got;
        n++;
        enum utf8_step step;
        while (n && (step = utf8_decode(bytes, n, &code, &used)) != UTF8_CUT) {
            if (step == UTF8_GOOD) {
                *out = (wchar_t)code;
                return 1;
            }
            memmove(bytes, bytes + used, n -= used); /* no character: dropped */
        }
    }
}

/* ---- the line
 * ----------------------------------------------------------------------------------------------------------------- */

static void set_line(EditLine *el, const char *text) {
    const LineInfoW *line = el_wline(el);
    el_cursor(el, (int)(line->lastchar - line->cursor));
    el_deletestr(el, (int)(line->lastchar - line->buffer));
    if (*text) el_insertstr(el, text);
}

static void get_line(EditLine *el, struct text *out) {
    const LineInfo *line = el_line(el);
    text_clear(out);
    text_add(out, line->buffer, (size_t)(line->lastchar - line->buffer));
}

static bool line_is_empty(EditLine *el) {
    const LineInfoW *line = el_wline(el);
    return line->lastchar == line->buffer;
}

static unsigned char on_newline(EditLine *el, int key) {
    (void)key;
    return el_winsertstr(el, L"\n") == 0 ? CC_REFRESH : CC_ERROR;
}

/* Ends the line as Enter does, so that the display is left in order; the caller drops it. */
static unsigned char on_interrupt(EditLine *el, int key) {
    (void)key;
    struct editor *e = self(el);
    e->interrupted = true;
    e->dropped = !line_is_empty(el);
    const LineInfoW *line = el_wline(el);
    el_cursor(el, (int)(line->lastchar - line->cursor));
    el_wpush(el, L"\r");
    return CC_REFRESH;
}

static void give_terminal(struct editor *e) {
    fputs(PASTE_OFF, e->out);
    fflush(e->out);
    el_set(e->el, EL_PREP_TERM, 0);
}

static void take_terminal(struct editor *e) {
    el_set(e->el, EL_PREP_TERM, 1);
    fputs(PASTE_ON, e->out);
    fflush(e->out);
}

static unsigned char on_suspend(EditLine *el, int key) {
    (void)key;
    struct editor *e = self(el);
    give_terminal(e);
    raise(SIGTSTP);
    take_terminal(e);
    return CC_REDISPLAY;
}

/* ---- paste
 * -------------------------------------------------------------------------------------------------------------------- */

struct wide {
    wchar_t *ptr;
    size_t len, cap;
};

static bool wide_add(struct wide *w, wchar_t c) {
    if (w->len + 1 >= w->cap) {
        const size_t cap = w->cap ? 2 * w->cap : 4096;
        wchar_t *grown = realloc(w->ptr, cap * sizeof *grown);
        if (!grown) return false;
        w->ptr = grown;
        w->cap = cap;
    }
    w->ptr[w->len++] = c;
    w->ptr[w->len] = 0;
    return true;
}

/* Line ends become LF; other control characters than the tabulator have no business in a message. */
static size_t clean_paste(wchar_t *text, size_t len) {
    size_t out = 0;
    for (size_t i = 0; i < len; i++) {
        const wchar_t c = text[i];
        if (c == L'\r') {
            text[out++] = L'\n';
            if (i + 1 < len && text[i + 1] == L'\n') i++;
        } else if (c == L'\n' || c == L'\t' || (c >= 0x20 && (c < 0x7f || c >= 0xa0))) {
            text[out++] = c;
        }
    }
    text[out] = 0;
    return out;
}

static unsigned char on_paste(EditLine *el, int key) {
    (void)key;
    static const wchar_t end[] = L"\033[201~";
    const size_t end_len = sizeof end / sizeof *end - 1;
    struct wide pasted = {0};
    wchar_t c;
    bool ok = true;
    while (ok && el_wgetc(el, &c) == 1) {
        ok = wide_add(&pasted, c);
        if (pasted.len < end_len || wmemcmp(pasted.ptr + pasted.len - end_len, end, end_len) != 0) continue;
        pasted.len -= end_len;
        break;
    }
    if (pasted.ptr) {
        const bool into_empty = line_is_empty(el);
        pasted.len = clean_paste(pasted.ptr, pasted.len);
        if (into_empty && wcschr(pasted.ptr, L'\n')) self(el)->pasted = true;
        if (pasted.len && el_winsertstr(el, pasted.ptr) != 0) ok = false;
    }
    free(pasted.ptr);
    return ok ? CC_REFRESH : CC_ERROR;
}

/* ---- moving: between the lines of a message, then through the history
 * ------------------------------------------------------------ */

static unsigned char show_entry(EditLine *el, size_t index) {
    struct editor *e = self(el);
    if (e->shown == e->history->len) get_line(el, &e->unsent);
    if (e->unsent.failed) return CC_ERROR;
    e->shown = index;
    set_line(el, index < e->history->len ? e->history->entries[index] : e->unsent.ptr ? e->unsent.ptr : "");
    return CC_REFRESH;
}

static unsigned char on_older(EditLine *el, int key) {
    (void)key;
    const struct editor *e = self(el);
    return e->shown > 0 ? show_entry(el, e->shown - 1) : CC_ERROR;
}

static unsigned char on_newer(EditLine *el, int key) {
    (void)key;
    const struct editor *e = self(el);
    return e->shown < e->history->len ? show_entry(el, e->shown + 1) : CC_ERROR;
}

static unsigned char on_up(EditLine *el, int key) {
    const LineInfoW *l = el_wline(el);
    const wchar_t *start = l->cursor;
    while (start > l->buffer && start[-1] != L'\n') start--;
    if (start == l->buffer) return on_older(el, key);
    const wchar_t *above = start - 1;
    while (above > l->buffer && above[-1] != L'\n') above--;
    const long column = l->cursor - start, width = start - 1 - above;
    el_cursor(el, (int)(above + (column < width ? column : width) - l->cursor));
    return CC_CURSOR;
}

static unsigned char on_down(EditLine *el, int key) {
    const LineInfoW *l = el_wline(el);
    const wchar_t *start = l->cursor, *end = l->cursor;
    while (start > l->buffer && start[-1] != L'\n') start--;
    while (end < l->lastchar && *end != L'\n') end++;
    if (end == l->lastchar) return on_newer(el, key);
    const wchar_t *below = end + 1, *below_end = below;
    while (below_end < l->lastchar && *below_end != L'\n') below_end++;
    const long column = l->cursor - start, width = below_end - below;
    el_cursor(el, (int)(below + (column < width ? column : width) - l->cursor));
    return CC_CURSOR;
}

/* ---- Tab
 * ---------------------------------------------------------------------------------------------------------------------------
 */

static void list_items(const struct editor *e, const struct completions *c) {
    fputc('\n', e->out);
    size_t column = 0;
    for (size_t i = 0; i < c->len && i < MAX_LISTED; i++) {
        const char *item = c->items[i], *slash = item;
        for (const char *at = item; at[0] && at[1]; at++)
            if (*at == '/' && at > item) slash = at + 1; /* of a path, the last part */
        const size_t len = strlen(slash) + 2;
        if (column && column + len > e->size.ws_col) fputc('\n', e->out), column = 0;
        fprintf(e->out, "%s  ", slash);
        column += len;
    }
    if (c->len > MAX_LISTED) fprintf(e->out, "and %zu more", c->len - MAX_LISTED);
    fputc('\n', e->out);
}

static unsigned char on_tab(EditLine *el, int key) {
    (void)key;
    const struct editor *e = self(el);
    const LineInfo *line = el_line(el);
    const struct span typed = {line->buffer, (size_t)(line->cursor - line->buffer)};
    if (!typed.len || *typed.ptr != '/') return el_winsertstr(el, L"\t") == 0 ? CC_REFRESH : CC_ERROR;
    struct completions c = {0};
    completions_find(typed, e->home, &c);
    const size_t word = typed.len - c.start, common = completions_common(&c);
    unsigned char result = CC_ERROR;
    if (common > word) {
        char *rest = strndup(c.items[0] + word, common - word);
        if (rest && el_insertstr(el, rest) == 0) result = CC_REFRESH;
        free(rest);
    } else if (c.len > 1) {
        list_items(e, &c);
        result = CC_REDISPLAY;
    }
    completions_free(&c);
    return result;
}

/* ---- Ctrl-G: the user's editor
 * -------------------------------------------------------------------------------------------------------- */

static bool run_command(const char *command, const char *path) {
    struct text line = {0};
    text_addf(&line, "%s \"$1\"", command);
    if (line.failed) return false;
    char *const argv[] = {"sh", "-c", line.ptr, "sh", (char *)path, NULL};
    posix_spawnattr_t how;
    posix_spawnattr_init(&how);
    sigset_t usual;
    sigemptyset(&usual);
    sigaddset(&usual, SIGINT);
    sigaddset(&usual, SIGTERM);
    sigaddset(&usual, SIGPIPE);
    posix_spawnattr_setsigdefault(&how, &usual);
    posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGDEF);
    pid_t child;
    int status = -1;
    const bool started = posix_spawn(&child, "/bin/sh", NULL, &how, argv, environ) == 0;
    while (started && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    posix_spawnattr_destroy(&how);
    text_free(&line);
    return started && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool edit_file(const struct editor *e, const char *path, int fd, struct text *message) {
    const bool written = write(fd, message->ptr ? message->ptr : "", message->len) == (ssize_t)message->len;
    close(fd);
    if (!written || !run_command(e->command, path)) return false;
    struct text edited = {0};
    const bool read = whole_file_read(path, MAX_EDITED_BYTES, &edited, NULL) == ERR_NONE;
    if (read) {
        text_clear(message);
        unicode_normalize((struct span){edited.ptr, edited.len}, false, message);
        while (message->len && message->ptr[message->len - 1] == '\n') message->ptr[--message->len] = 0;
    }
    text_free(&edited);
    return read && !message->failed;
}

static unsigned char on_edit(EditLine *el, int key) {
    (void)key;
    struct editor *e = self(el);
    if (!e->command) {
        fputs("\nset VISUAL or EDITOR to the editor that Ctrl-G should open\n", e->out);
        return CC_REDISPLAY;
    }
    char path[] = "/tmp/coldstream-XXXXXX.md";
    const int fd = mkostemps(path, 3, O_CLOEXEC);
    if (fd < 0) return CC_ERROR;
    struct text message = {0};
    get_line(el, &message);
    give_terminal(e);
    const bool edited = edit_file(e, path, fd, &message);
    take_terminal(e);
    unlink(path);
    if (cli_cancelled_status() == EXIT_INTERRUPTED) cli_clear_cancel(); /* a Ctrl-C was meant for the editor */
    if (edited) {
        set_line(el, message.ptr ? message.ptr : "");
        e->pasted = message.ptr && strchr(message.ptr, '\n');
    }
    text_free(&message);
    return CC_REDISPLAY;
}

/* ---- modes --------------------------------------------------------------------------------------------------------- */

/* Whenever no line is edited: what is typed waits unseen, byte by byte as it came, and Ctrl-C is a signal. */
static void set_busy(const struct editor *e) {
    struct termios mode = e->normal;
    mode.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    mode.c_lflag |= ISIG | NOFLSH; /* a flush on Ctrl-C could cut an escape code in half */
    mode.c_iflag &= ~(tcflag_t)ICRNL;
    mode.c_cc[VMIN] = 1;
    mode.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &mode);
}

/* ---- opening
 * ---------------------------------------------------------------------------------------------------------------------------
 */

/* Wide names: libedit keeps copies of narrow ones, and never frees them. */
static void bind_keys(EditLine *el) {
    static const struct {
        const wchar_t *name;
        unsigned char (*function)(EditLine *, int);
        const wchar_t *keys[3]; /* ends with NULL */
    } own[] = {
        {L"cs-paste", on_paste, {L"\033[200~"}},
        {L"cs-newline", on_newline, {L"\033\r", L"\033\n"}},
        {L"cs-interrupt", on_interrupt, {L"^C"}},
        {L"cs-suspend", on_suspend, {L"^Z"}},
        {L"cs-edit", on_edit, {L"^G"}},
        {L"cs-tab", on_tab, {L"^I"}},
        {L"cs-older", on_older, {L"^P"}},
        {L"cs-newer", on_newer, {L"^N"}},
        {L"cs-up", on_up, {L"\033[A", L"\033OA"}},
        {L"cs-down", on_down, {L"\033[B", L"\033OB"}},
    };
    static const wchar_t *const usual[][2] = {
        {L"\033[3~", L"ed-delete-next-char"}, {L"\033[1;5C", L"em-next-word"}, {L"\033[1;5D", L"ed-prev-word"},
        {L"\033[H", L"ed-move-to-beg"},       {L"\033[F", L"ed-move-to-end"},  {L"\033[1~", L"ed-move-to-beg"},
        {L"\033[4~", L"ed-move-to-end"},      {L"^R", L"em-inc-search-prev"},
    };
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        el_wset(el, EL_ADDFN, own[i].name, own[i].name, own[i].function);
        for (const wchar_t *const *key = own[i].keys; *key; key++) el_wset(el, EL_BIND, *key, own[i].name, NULL);
    }
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) el_wset(el, EL_BIND, usual[i][0], usual[i][1], NULL);
}

void editor_remember(struct editor *e, const char *entry) {
    HistEvent event;
    history(e->search, &event, H_ENTER, entry);
}

static bool open_search(struct editor *e) {
    HistEvent event;
    e->search = history_init();
    if (!e->search) return false;
    history(e->search, &event, H_SETSIZE, HISTORY_ENTRIES);
    for (size_t i = 0; i < e->history->len; i++) editor_remember(e, e->history->entries[i]);
    el_set(e->el, EL_HIST, history, e->search);
    return true;
}

bool editor_open(const struct lines_options *o, struct editor **out) {
    *out = NULL;
    struct editor *e = calloc_checked(1, sizeof *e);
    if (!e) return false;
    *e = (struct editor){.out = o->terminal, .home = o->home, .command = o->editor, .history = o->history, .color = o->color};
    if (tcgetattr(STDIN_FILENO, &e->normal) != 0) goto fail;
    e->utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0); /* libedit measures characters by it */
    if (!e->utf8) goto fail;
    e->previous = uselocale(e->utf8);
    ioctl(STDIN_FILENO, TIOCGWINSZ, &e->size);
    e->el = el_init("coldstream", stdin, e->out, e->out);
    if (!e->el) goto fail;
    el_set(e->el, EL_CLIENTDATA, e);
    el_set(e->el, EL_GETCFN, read_key);
    el_set(e->el, EL_EDITOR, "emacs");
    el_set(e->el, EL_SIGNAL, 0);
    el_set(e->el, EL_PROMPT_ESC, show_prompt, '\1');
    el_set(e->el, EL_SETTY, "-d", "-isig", "-icrnl", "-inlcr", NULL); /* Enter stays CR, Ctrl-C a key */
    bind_keys(e->el);
    if (!open_search(e)) goto fail;
    cli_guard_terminal(&e->normal);
    set_busy(e);
    fputs(PASTE_ON, e->out);
    fflush(e->out);
    *out = e;
    return true;
fail:
    editor_close(&e);
    return false;
}

void editor_close(struct editor **editor) {
    struct editor *e = *editor;
    if (!e) return;
    *editor = NULL;
    if (e->el) el_end(e->el);
    if (e->search) {
        history_end(e->search);
        fputs(PASTE_OFF, e->out);
        fflush(e->out);
        tcsetattr(STDIN_FILENO, TCSADRAIN, &e->normal);
        cli_guard_terminal(NULL);
    }
    if (e->utf8) {
        uselocale(e->previous);
        freelocale(e->utf8);
    }
    text_free(&e->unsent);
    free(e);
}

enum line_status editor_read(struct editor *e, const char *prompt, struct text *line, bool *pasted, bool *dropped) {
    snprintf(e->prompt, sizeof e->prompt, e->color ? "\1\033[1m\1%s\1\033[0m\1" : "%s", prompt);
    e->interrupted = e->dropped = e->pasted = false;
    e->shown = e->history->len;
    text_clear(&e->unsent);
    int count = 0;
    el_set(e->el, EL_PREP_TERM, 1); /* before the prompt appears: a key typed at the sight of it is a key */
    const char *got = el_gets(e->el, &count);
    set_busy(e);
    *pasted = e->pasted;
    *dropped = e->dropped;
    if (e->interrupted || cli_cancelled()) return LINE_INTERRUPTED;
    if (!got || count <= 0) {
        fputc('\n', e->out);
        fflush(e->out);
        return LINE_END;
    }
    text_add(line, got, (size_t)count);
    if (line->len && (line->ptr[line->len - 1] == '\n' || line->ptr[line->len - 1] == '\r')) line->ptr[--line->len] = 0;
    return line->failed ? LINE_FAILED : LINE_READ;
}
