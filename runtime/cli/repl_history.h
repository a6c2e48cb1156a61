/* What was typed earlier, kept in a file of the user: one entry a line, newest last.
 *
 * In the file "\n" and "\\" stand for a line end and a backslash. Each entry is appended by one write, so that two chats may
 * share the file; it is shortened when it is opened. */
#ifndef COLDSTREAM_REPL_HISTORY_H
#define COLDSTREAM_REPL_HISTORY_H

#include "core/core.h"

enum { HISTORY_ENTRIES = 512 };

struct typed_history {
    int fd; /* for appending; -1: nothing is kept beyond this process */
    size_t len;
    char *entries[HISTORY_ENTRIES]; /* oldest first */
};

/* `state`/coldstream/history, or `home`/.local/state/coldstream/history when `state` is NULL; false: neither is known. */
bool history_path(const char *state, const char *home, struct text *out);
/* Reads the newest entries and makes the file and its folders (0600, 0700) when they are missing. On failure `out` is usable
 * and keeps entries in memory only. `path` NULL: in memory only. */
enum err history_open(const char *path, struct typed_history *out, struct reason *why) MUST_USE;
/* True: taken. Empty ones and a repetition of the last are not. */
bool history_add(struct typed_history *h, struct span entry);
void history_close(struct typed_history *h);

#endif
