/* A model directory: which files it has, whether they are all there, and in what order they are read.
 *
 * Every *.safetensors counts; model.safetensors.index.json is only asked which ones there should be. No path from a file is
 * ever opened. Owns the list of names while it reads. */
#include "model/hf.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct folder {
    const char *path;
    char **shards; /* [n_shards] names, sorted */
    size_t n_shards, cap;
    char *gguf; /* the name of one, NULL: there is none */
    bool config, tokenizer;
};

char *hf_join(const char *folder, const char *name) {
    char *path = NULL;
    const size_t len = strlen(folder);
    return asprintf(&path, "%s%s%s", folder, len && folder[len - 1] == '/' ? "" : "/", name) < 0 ? NULL : path;
}

/* ---- listing ----------------------------------------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *ending) {
    const size_t n = strlen(name), e = strlen(ending);
    return n > e && strcmp(name + n - e, ending) == 0;
}

static enum err add_shard(struct folder *f, const char *name, struct reason *why) {
    if (f->n_shards == MAX_FILES)
        return fail(why, ERR_LIMIT, "%s: more than %d *.safetensors files", path_label(f->path), MAX_FILES);
    if (f->n_shards == f->cap) {
        const size_t cap = f->cap ? 2 * f->cap : 16;
        char **grown = reallocarray(f->shards, cap, sizeof *grown);
        if (!grown) return fail(why, ERR_NO_MEMORY, "%s: no memory for the names of its files", path_label(f->path));
        f->shards = grown;
        f->cap = cap;
    }
    f->shards[f->n_shards] = strdup(name);
    if (!f->shards[f->n_shards])
        return fail(why, ERR_NO_MEMORY, "%s: no memory for the names of its files", path_label(f->path));
    f->n_shards++;
    return ERR_NONE;
}

static enum err add_name(struct folder *f, const char *name, struct reason *why) {
    if (name[0] == '.') return ERR_NONE;
    if (strcmp(name, "config.json") == 0) f->config = true;
    if (strcmp(name, "tokenizer.json") == 0) f->tokenizer = true;
    if (ends_with(name, ".safetensors")) return add_shard(f, name, why);
    if (!ends_with(name, ".gguf") || (f->gguf && strcmp(f->gguf, name) <= 0)) return ERR_NONE;
    free(f->gguf);
    f->gguf = strdup(name);
    return f->gguf ? ERR_NONE : fail(why, ERR_NO_MEMORY, "%s: no memory for the names of its files", path_label(f->path));
}

static int order_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static bool has_shard(const struct folder *f, const char *name) {
    return f->n_shards && bsearch(&name, f->shards, f->n_shards, sizeof *f->shards, order_names);
}

static enum err list(struct folder *f, struct reason *why) {
    DIR *dir = opendir(f->path);
    if (!dir) return fail(why, ERR_IO, "%s: cannot list the directory: %s", path_label(f->path), strerror(errno));
    enum err result = ERR_NONE;
    const struct dirent *entry;
    while (result == ERR_NONE && (errno = 0, entry = readdir(dir))) result = add_name(f, entry->d_name, why);
    if (result == ERR_NONE && errno)
        result = fail(why, ERR_IO, "%s: cannot list the directory: %s", path_label(f->path), strerror(errno));
    closedir(dir);
    if (f->n_shards) qsort(f->shards, f->n_shards, sizeof *f->shards, order_names);
    return result;
}

static enum err check_kind(const struct folder *f, struct reason *why) {
    const char *label = path_label(f->path);
    if (f->n_shards && f->config) return ERR_NONE;
    if (f->n_shards)
        return fail(why, ERR_FORMAT, "%s: is a directory with *.safetensors but no config.json; take that from the same model",
                    label);
    if (f->gguf)
        return fail(why, ERR_ARGUMENT, "%s: is a directory without *.safetensors; name a .gguf file inside it, such as %s",
                    label, f->gguf);
    if (f->config || f->tokenizer) return ERR_NONE;
    return fail(why, ERR_FORMAT,
                "%s: is a directory, but not that of a model: no config.json, no *.safetensors and no .gguf file inside it",
                label);
}

/* ---- completeness ------------------------------------------------------------------------------------------------------ */

/* "model-00002-of-00003.safetensors" tells how many there are. */
static enum err check_numbers(const struct folder *f, struct reason *why) {
    static const char pattern[] = "-00000-of-00000.safetensors";
    const size_t n = sizeof pattern - 1;
    for (size_t i = 0; i < f->n_shards; i++) {
        const char *name = f->shards[i];
        const size_t len = strlen(name);
        if (len <= n) continue;
        const char *tail = name + len - n;
        bool numbered = true;
        for (size_t j = 0; j < n && numbered; j++)
            numbered = pattern[j] == '0' ? tail[j] >= '0' && tail[j] <= '9' : tail[j] == pattern[j];
        if (!numbered) continue;
        const long count = strtol(tail + 10, NULL, 10);
        if (count > MAX_FILES)
            return fail(why, ERR_LIMIT, "%s: '%s' is one of %ld files; at most %d are allowed", path_label(f->path), name,
                        count, MAX_FILES);
        for (long k = 1; k <= count; k++) {
            char other[NAME_MAX + 1];
            snprintf(other, sizeof other, "%.*s-%05ld-of-%05ld.safetensors", (int)(len - n), name, k, count);
            if (!has_shard(f, other))
                return fail(why, ERR_FORMAT, "%s: '%s' is missing: only %zu of %ld files are here; download the rest",
                            path_label(f->path), other, f->n_shards, count);
        }
        return ERR_NONE; /* of a second set, if there is one, every name would be found twice */
    }
    return ERR_NONE;
}

static enum err check_map(const struct folder *f, struct json_scan *s, struct reason *why) {
    for (enum scan_event event;;) {
        TRY(json_scan_next(s, &event, why));
        if (event == SCAN_OBJECT_END) return ERR_NONE;
        TRY(json_scan_next(s, &event, why));
        if (event != SCAN_STRING)
            return json_scan_fail(s, why, ERR_FORMAT, "'weight_map' must hold nothing but names of files");
        if (memchr(s->text.ptr, 0, s->text.len) || memchr(s->text.ptr, '/', s->text.len))
            return json_scan_fail(s, why, ERR_FORMAT, "'weight_map' leads to '%s', which is no file of this directory",
                                  quote(s->text).text);
        if (!has_shard(f, s->text.ptr))
            return json_scan_fail(s, why, ERR_FORMAT, "'weight_map' names '%s', which is not here; is the download complete?",
                                  quote(s->text).text);
    }
}

static enum err scan_index(const struct folder *f, struct json_scan *s, struct reason *why) {
    enum scan_event event;
    TRY(json_scan_next(s, &event, why));
    if (event != SCAN_OBJECT) return json_scan_fail(s, why, ERR_FORMAT, "a JSON object is expected");
    for (;;) {
        TRY(json_scan_next(s, &event, why));
        if (event == SCAN_OBJECT_END) return json_scan_next(s, &event, why);
        const bool map = span_equal(s->text, SPAN("weight_map"));
        if (map) TRY(json_scan_next(s, &event, why));
        if (map && event == SCAN_OBJECT)
            TRY(check_map(f, s, why));
        else if (map)
            return json_scan_fail(s, why, ERR_FORMAT, "'weight_map' must be an object");
        else
            TRY(json_scan_skip(s, event, why));
    }
}

static enum err check_index(const struct folder *f, struct reason *why) {
    enum { MAX_INDEX_BYTES = 128 << 20, MAX_INDEX_TEXT = 4096 };
    struct hf_json j;
    bool exists;
    char *path = hf_join(f->path, "model.safetensors.index.json");
    if (!path) return fail(why, ERR_NO_MEMORY, "%s: no memory to open its files", path_label(f->path));
    enum err result = hf_json_open(path, MAX_INDEX_BYTES, MAX_INDEX_TEXT, &j, &exists, why);
    if (result == ERR_NONE && exists) result = scan_index(f, &j.scan, why);
    hf_json_close(&j);
    free(path);
    return result;
}

/* ---- reading ----------------------------------------------------------------------------------------------------------- */

static enum err add_general(const struct folder *f, struct hf_meta *meta, struct reason *why) {
    char *whole = realpath(f->path, NULL);
    if (!whole) return fail(why, ERR_IO, "%s: cannot resolve the path: %s", path_label(f->path), strerror(errno));
    const char *name = strrchr(whole, '/');
    hf_meta_string(meta, "general.architecture", SPAN("qwen3moe"));
    hf_meta_string(meta, "general.type", SPAN("model"));
    hf_meta_string(meta, "general.name", span_of(name ? name + 1 : whole));
    free(whole);
    return ERR_NONE;
}

static enum err read_config(const struct folder *f, struct hf_config *config, struct hf_meta *meta, struct reason *why) {
    if (!f->config) return ERR_NONE;
    char *path = hf_join(f->path, "config.json");
    if (!path) return fail(why, ERR_NO_MEMORY, "%s: no memory to open its files", path_label(f->path));
    const enum err result = hf_config_read(path, config, meta, why);
    free(path);
    return result;
}

static enum err read_shards(const struct folder *f, struct st_table *t, struct reason *why) {
    for (size_t i = 0; i < f->n_shards; i++) {
        char *path = hf_join(f->path, f->shards[i]);
        if (!path) return fail(why, ERR_NO_MEMORY, "%s: no memory to open its files", path_label(f->path));
        const enum err result = safetensors_read(t, path, why);
        free(path);
        TRY(result);
    }
    return safetensors_check(t, why);
}

static enum err read_tensors(const struct folder *f, const struct hf_config *config, struct container *c, struct reason *why) {
    c->kind = CONTAINER_SAFETENSORS;
    if (!f->n_shards) return ERR_NONE;
    TRY(check_numbers(f, why));
    TRY(check_index(f, why));
    struct st_table t = {0};
    enum err result = read_shards(f, &t, why);
    if (result == ERR_NONE) result = hf_tensors_bind(&t, config, c, why);
    st_table_close(&t);
    return result;
}

static enum err read_all(struct folder *f, struct hf_meta *meta, struct container *c, struct reason *why) {
    struct hf_config config;
    TRY(list(f, why));
    TRY(check_kind(f, why));
    TRY(add_general(f, meta, why));
    TRY(read_config(f, &config, meta, why));
    TRY(hf_tokenizer_read(f->path, f->config ? &config : NULL, meta, why));
    TRY(read_tensors(f, &config, c, why));
    return hf_meta_finish(meta, c, why);
}

enum err hf_read(const char *path, struct container *c, struct reason *why) {
    struct folder f = {.path = path};
    struct hf_meta *meta = calloc(1, sizeof *meta);
    c->label = strdup(path_label(path));
    enum err result = ERR_NONE;
    if (!meta || !c->label)
        result = fail(why, ERR_NO_MEMORY, "%s: no memory to open it", path_label(path));
    else
        result = read_all(&f, meta, c, why);
    for (size_t i = 0; i < f.n_shards; i++) free(f.shards[i]);
    free(f.shards);
    free(f.gguf);
    if (meta) hf_meta_free(meta);
    free(meta);
    return result;
}
