/* What is typed into the chat: lines become one message, and messages that begin with a slash become commands.
 *
 * Pure: no terminal, no files, no state beyond the struct the caller owns. */
#ifndef COLDSTREAM_REPL_COMMAND_H
#define COLDSTREAM_REPL_COMMAND_H

#include "core/core.h"

enum slash {
    SLASH_HELP,
    SLASH_EXIT,
    SLASH_CLEAR,
    SLASH_REGEN,
    SLASH_UNDO,
    SLASH_READ,
    SLASH_SAVE,
    SLASH_LOAD,
    SLASH_LIST,
    SLASH_SET,
    SLASH_SYSTEM,
    SLASH_THINK,
    SLASH_SHOW,
    SLASH_CTX,
    SLASH_STATS,
    SLASH_COUNT
};

enum slash_argument { ARGUMENT_NONE, ARGUMENT_OPTIONAL, ARGUMENT_NEEDED };

struct slash_info {
    const char *names; /* "/exit /quit": separated by blanks, the first is the main one */
    enum slash_argument argument;
    const char *metavar; /* NULL: no argument */
    const char *words;   /* arguments that Tab offers, separated by blanks; NULL: none */
    bool path;           /* the argument is a path */
    const char *help;
};
const struct slash_info *slash_info(enum slash command);
void slash_help(struct text *out);

/* Settings that /set takes and that a saved chat may carry: names of the table of flags. Ends with NULL. */
extern const char *const chat_settings[];
/* "top_k", "--top-k" and "top-k" are the same; NULL: not a chat setting. */
const char *chat_setting_name(struct span name);

enum typed_kind { TYPED_NOTHING, TYPED_MESSAGE, TYPED_COMMAND };
struct typed {
    enum typed_kind kind;
    enum slash command;
    struct span argument; /* of the command, without blanks around it; or the whole message */
};
/* `literal`: never a command. "//x" is the message "/x". An unknown command, a missing or an unwanted argument is
 * ERR_ARGUMENT. */
enum err typed_read(struct span input, bool literal, struct typed *out, struct reason *why) MUST_USE;

/* ---- lines -> one message ------------------------------------------------------------------------------------------
 *
 *   text          is the message            text\      goes on with the next line
 *   """ text      opens a block             text """   ends it
 *
 * A block pasted at the start of a message is taken as it is, whatever it looks like. With `inverted` (--multiline-input) a
 * line goes on unless it ends in a backslash, and only commands end by themselves. */
struct typed_lines {
    struct text text;
    bool inverted;
    bool open; /* at least one line was taken, more are to come */
    bool in_block;
    bool literal; /* the message began with a pasted block, or was written as one */
};

/* `line` without its line end. `pasted`: a block of several lines that was pasted into an empty line. True: the message is
 * complete in `text`, typed_lines_reset() is due before the next. */
bool typed_lines_feed(struct typed_lines *t, struct span line, bool pasted);
void typed_lines_reset(struct typed_lines *t);
void typed_lines_free(struct typed_lines *t);

struct span span_trim(struct span s); /* without ASCII white space at both ends */

#endif
