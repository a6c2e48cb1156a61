/* Completion of the word in front of the cursor. An allocation that fails only means fewer offers. */
#include "cli/repl_complete.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/repl_command.h"
#include "text/unicode.h"

enum { MAX_ITEMS = 4096 };

static void add_item(struct completions *c, const struct text *item) {
    if (item->failed || c->len == MAX_ITEMS) return;
    if (c->len == c->cap) {
        const size_t cap = c->cap ? 2 * c->cap : 16;
        char **grown = realloc(c->items, cap * sizeof *grown);
        if (!grown) return;
        c->items = grown;
        c->cap = cap;
    }
    char *copy = strdup(item->ptr ? item->ptr : "");
    if (copy) c->items[c->len++] = copy;
}

/* Words of a list that begin with `prefix`, each followed by a blank. */
static void add_words(const char *words, struct span prefix, struct completions *c) {
    for (const char *at = words; *at;) {
        const struct span word = {at, strcspn(at, " ")};
        struct text item = {0};
        if (span_starts(word, prefix)) {
            text_add_span(&item, word);
            text_add(&item, " ", 1);
            add_item(c, &item);
        }
        text_free(&item);
        at += word.len + (at[word.len] == ' ');
    }
}

void path_expand(struct span path, const char *home, struct text *out) {
    if (home && span_starts(path, SPAN("~/"))) {
        text_add_span(out, span_of(home));
        path = (struct span){path.ptr + 1, path.len - 1};
    }
    text_add_span(out, path);
}

static bool is_folder(const struct text *folder, const char *name) {
    struct text path = {0};
    text_add_span(&path, (struct span){folder->ptr, folder->len});
    text_add_span(&path, span_of(name));
    struct stat info;
    const bool yes = !path.failed && stat(path.ptr, &info) == 0 && S_ISDIR(info.st_mode);
    text_free(&path);
    return yes;
}

static bool is_utf8(struct span s) {
    uint32_t code;
    size_t used;
    for (size_t at = 0; at < s.len; at += used)
        if (utf8_decode((const uint8_t *)s.ptr + at, s.len - at, &code, &used) != UTF8_GOOD) return false;
    return true;
}

static void add_paths(struct span word, const char *home, struct completions *c) {
    const char *slash = word.len ? memrchr(word.ptr, '/', word.len) : NULL;
    const struct span typed_folder = {word.ptr, slash ? (size_t)(slash - word.ptr) + 1 : 0};
    const struct span base = {word.ptr + typed_folder.len, word.len - typed_folder.len};
    struct text folder = {0};
    path_expand(typed_folder, home, &folder);
    DIR *dir = folder.failed ? NULL : opendir(folder.len ? folder.ptr : ".");
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        const struct span name = span_of(entry->d_name);
        if (!span_starts(name, base) ||
            (*name.ptr == '.' && (!base.len || span_equal(name, SPAN(".")) || span_equal(name, SPAN("..")))))
            continue;
        if (!is_utf8(name)) continue;
        struct text item = {0};
        text_add_span(&item, typed_folder);
        text_add_span(&item, name);
        if (is_folder(&folder, entry->d_name)) text_add(&item, "/", 1);
        add_item(c, &item);
        text_free(&item);
    }
    if (dir) closedir(dir);
    text_free(&folder);
}

static void add_commands(struct span word, struct completions *c) {
    for (int i = 0; i < SLASH_COUNT; i++) {
        const size_t before = c->len;
        add_words(slash_info((enum slash)i)->names, word, c);
        if (slash_info((enum slash)i)->argument != ARGUMENT_NONE) continue;
        for (size_t k = before; k < c->len; k++) c->items[k][strlen(c->items[k]) - 1] = 0; /* nothing follows: no blank */
    }
}

static void add_arguments(struct span name, struct span word, const char *home, struct completions *c) {
    struct typed typed;
    struct text line = {0};
    text_add_span(&line, name);
    text_add(&line, " x", 2); /* some argument: only the command matters */
    if (!line.failed && typed_read((struct span){line.ptr, line.len}, false, &typed, NULL) == ERR_NONE &&
        typed.kind == TYPED_COMMAND) {
        const struct slash_info *info = slash_info(typed.command);
        if (info->path) add_paths(word, home, c);
        if (info->words) add_words(info->words, word, c);
        if (typed.command == SLASH_SET)
            for (const char *const *s = chat_settings; *s; s++) add_words(*s, word, c);
    }
    text_free(&line);
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void completions_find(struct span line, const char *home, struct completions *out) {
    if (!line.len || *line.ptr != '/') return;
    const char *blank = memchr(line.ptr, ' ', line.len);
    if (!blank) {
        add_commands(line, out);
    } else {
        const struct span name = {line.ptr, (size_t)(blank - line.ptr)};
        out->start = name.len;
        while (out->start < line.len && line.ptr[out->start] == ' ') out->start++;
        add_arguments(name, (struct span){line.ptr + out->start, line.len - out->start}, home, out);
    }
    if (out->len) qsort(out->items, out->len, sizeof *out->items, compare);
}

size_t completions_common(const struct completions *c) {
    if (!c->len) return 0;
    size_t common = strlen(c->items[0]);
    for (size_t i = 1; i < c->len; i++) {
        size_t same = 0;
        while (same < common && c->items[i][same] == c->items[0][same]) same++;
        common = same;
    }
    while (common && ((unsigned char)c->items[0][common] & 0xc0) == 0x80) common--; /* not inside a character */
    return common;
}

void completions_free(struct completions *c) {
    for (size_t i = 0; i < c->len; i++) free(c->items[i]);
    free(c->items);
    *c = (struct completions){0};
}
