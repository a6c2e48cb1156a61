/* The history file. Every failure after opening is silent: losing a history line is no reason to disturb a chat. */
#include "cli/repl_history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/repl_file.h"

enum { MAX_FILE_BYTES = 16 << 20, MAX_ENTRY_BYTES = 64 << 10 }; /* larger entries stay in memory */

bool history_path(const char *state, const char *home, struct text *out) {
    return state_path(state, home, "history", out);
}

static void escape(struct span entry, struct text *out) {
    for (size_t i = 0; i < entry.len; i++) {
        if (entry.ptr[i] == '\n')
            text_add(out, "\\n", 2);
        else if (entry.ptr[i] == '\\')
            text_add(out, "\\\\", 2);
        else if (entry.ptr[i] != '\r' && entry.ptr[i] != 0)
            text_add(out, entry.ptr + i, 1);
    }
    text_add(out, "\n", 1);
}

static void unescape(struct span line, struct text *out) {
    for (size_t i = 0; i < line.len; i++) {
        if (line.ptr[i] == '\\' && i + 1 < line.len)
            text_add(out, line.ptr[++i] == 'n' ? "\n" : line.ptr + i, 1);
        else
            text_add(out, line.ptr + i, 1);
    }
}

static bool remember(struct typed_history *h, struct span entry) {
    if (!entry.len || (h->len && span_equal(entry, span_of(h->entries[h->len - 1])))) return false;
    char *copy = strndup(entry.ptr, entry.len);
    if (!copy) return false;
    if (h->len == HISTORY_ENTRIES) {
        free(h->entries[0]);
        memmove(h->entries, h->entries + 1, (HISTORY_ENTRIES - 1) * sizeof *h->entries);
        h->len--;
    }
    h->entries[h->len++] = copy;
    return true;
}

/* Returns the number of lines seen. */
static size_t read_lines(struct typed_history *h, const struct text *content) {
    size_t lines = 0;
    for (size_t at = 0; at < content->len;) {
        const char *end = memchr(content->ptr + at, '\n', content->len - at);
        const size_t len = end ? (size_t)(end - content->ptr) - at : content->len - at;
        struct text entry = {0};
        unescape((struct span){content->ptr + at, len}, &entry);
        if (!entry.failed) remember(h, (struct span){entry.ptr, entry.len});
        text_free(&entry);
        at += len + 1;
        lines++;
    }
    return lines;
}

static void shorten(const char *path, const struct typed_history *h) {
    struct text content = {0};
    for (size_t i = 0; i < h->len; i++) escape(span_of(h->entries[i]), &content);
    if (!content.failed &&
        whole_file_replace(path, (struct span){content.ptr, content.len}, NULL)) { /* the long file serves as well */
    }
    text_free(&content);
}

enum err history_open(const char *path, struct typed_history *out, struct reason *why) {
    *out = (struct typed_history){.fd = -1};
    if (!path) return ERR_NONE;
    TRY(make_folders_of(path, why));
    struct text content = {0};
    if (access(path, F_OK) == 0) {
        const enum err code = whole_file_read(path, MAX_FILE_BYTES, &content, why);
        const size_t lines = code ? 0 : read_lines(out, &content);
        text_free(&content);
        TRY(code);
        if (lines > 2 * HISTORY_ENTRIES) shorten(path, out);
    }
    out->fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (out->fd < 0) return fail(why, ERR_IO, "%s: %s", path, strerror(errno));
    if (fchmod(out->fd, 0600) != 0) { /* somebody else's file: as it is */
    }
    return ERR_NONE;
}

bool history_add(struct typed_history *h, struct span entry) {
    while (entry.len && (entry.ptr[entry.len - 1] == '\n' || entry.ptr[entry.len - 1] == ' ')) entry.len--;
    if (!remember(h, entry)) return false;
    if (h->fd >= 0 && entry.len <= MAX_ENTRY_BYTES) {
        struct text line = {0};
        escape(entry, &line);
        if (!line.failed) (void)!write(h->fd, line.ptr, line.len);
        text_free(&line);
    }
    return true;
}

void history_close(struct typed_history *h) {
    for (size_t i = 0; i < h->len; i++) free(h->entries[i]);
    if (h->fd >= 0) close(h->fd);
    *h = (struct typed_history){.fd = -1};
}
