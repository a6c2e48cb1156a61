/* What Tab offers: slash commands, their fixed words, settings, and paths. Reads folders, changes nothing. */
#ifndef COLDSTREAM_REPL_COMPLETE_H
#define COLDSTREAM_REPL_COMPLETE_H

#include "core/core.h"

/* Zero-initialise, free with completions_free(). Items are whole words: each begins with line[start, cursor). */
struct completions {
    char **items; /* sorted */
    size_t len, cap;
    size_t start; /* byte of the line where the word begins */
};

/* `line` is what stands in front of the cursor. `home` may be NULL. Nothing fitting gives no items. */
void completions_find(struct span line, const char *home, struct completions *out);
/* Bytes that all items share. */
size_t completions_common(const struct completions *c);
void completions_free(struct completions *c);

/* "~/x" with the home folder written out; anything else unchanged. */
void path_expand(struct span path, const char *home, struct text *out);

#endif
