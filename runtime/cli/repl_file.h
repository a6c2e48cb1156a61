/* Whole files, and where those of the user lie: read with a size limit, and replaced so that a crash leaves the old or the new
 * content. */
#ifndef COLDSTREAM_REPL_FILE_H
#define COLDSTREAM_REPL_FILE_H

#include "core/core.h"

/* A regular file of at most `limit` bytes, appended to `out`. */
enum err whole_file_read(const char *path, uint64_t limit, struct text *out, struct reason *why) MUST_USE;
/* Temporary file beside it (0600), fsync, rename, fsync of the folder. On failure the old file is as it was and the temporary
 * one is gone. A link is followed, so that its target is replaced. */
enum err whole_file_replace(const char *path, struct span content, struct reason *why) MUST_USE;
/* ERR_ARGUMENT when a file is there without `mark` near its beginning: `what` is to be written, and nothing else replaced. */
enum err whole_file_check_ours(const char *path, struct span mark, const char *what, struct reason *why) MUST_USE;
/* `state`/coldstream/`name`, or `home`/.local/state/coldstream/`name` when `state` is NULL; false: neither is known. */
bool state_path(const char *state, const char *home, const char *name, struct text *out);
/* The folders a file is to lie in, 0700 where they are missing. */
enum err make_folders_of(const char *path, struct reason *why) MUST_USE;

#endif
