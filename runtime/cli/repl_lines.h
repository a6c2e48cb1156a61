/* Lines from whoever is at stdin: edited on a terminal (repl_edit.c), plain otherwise. Main thread only; one at a time, since
 * it owns the terminal's modes while it is open: between two reads of an edited line, what is typed is neither shown nor lost,
 * and Ctrl-C is a signal. */
#ifndef COLDSTREAM_REPL_LINES_H
#define COLDSTREAM_REPL_LINES_H

#include <stdio.h>

#include "cli/repl_history.h"
#include "core/core.h"

enum line_status {
    LINE_READ,
    LINE_END,         /* Ctrl-D, end of the file */
    LINE_INTERRUPTED, /* Ctrl-C or a signal; cli_cancelled() may be set */
    LINE_FAILED,      /* stdin cannot be read */
};

struct lines_options {
    bool edit; /* stdin and `terminal` are terminals that can move their cursor */
    bool color;
    FILE *terminal;                /* prompts and echo; NULL: no prompts */
    const char *home, *editor;     /* may be NULL */
    struct typed_history *history; /* borrowed */
};

struct lines;
/* Without the means to edit it still opens, and reads plain lines. */
enum err lines_open(const struct lines_options *options, struct lines **out, struct reason *why) MUST_USE;
void lines_close(struct lines **lines); /* gives the terminal back as it was */

/* One line, without its end, into `line` (replaced). *pasted: a block of several lines that was pasted into an empty line.
 * *dropped (of LINE_INTERRUPTED): there was text in the line. */
enum line_status lines_read(struct lines *l, const char *prompt, struct text *line, bool *pasted, bool *dropped);

/* After history_add(). */
void lines_remember(struct lines *l, const char *entry);

/* ---- between repl_lines.c and repl_edit.c ------------------------------------------------------------------------------- */

struct editor;
bool editor_open(const struct lines_options *options, struct editor **out); /* false: this terminal cannot be edited on */
void editor_close(struct editor **editor);
enum line_status editor_read(struct editor *e, const char *prompt, struct text *line, bool *pasted, bool *dropped);
void editor_remember(struct editor *e, const char *entry);

#endif
