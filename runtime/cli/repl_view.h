/* Where an answer appears: the answer on stdout; its thinking dim beside it on a terminal, else on stderr. */
#ifndef COLDSTREAM_REPL_VIEW_H
#define COLDSTREAM_REPL_VIEW_H

#include "cli/cli.h"

struct view {
    struct cli *cli;
    bool thinking;
    bool started; /* of the answer */
    char last;    /* byte of the answer printed last */
    bool broken;  /* stdout takes no more bytes */
};

void view_begin(struct view *v);               /* of an answer */
void view_think(struct view *v);               /* what follows is thinking */
void view_answer(struct view *v);              /* what follows is the answer */
void view_text(struct view *v, struct span s); /* whole characters */
void view_end(struct view *v);
/* Around lines about the chat in the midst of an answer: they begin in the first column of a terminal, and nothing of it is answer. */
void view_pause(struct view *v);
void view_resume(struct view *v);

/* What a terminal may be shown: control characters other than LF and the tabulator, which a model could use to rewrite the
 * screen, become U+FFFD; CR is dropped. */
void view_clean(struct span s, struct text *out);

#endif
