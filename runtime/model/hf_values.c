/* Scalars of a small JSON file by key: what a reader of config.json needs, without a tree that a hostile file could blow up.
 *
 * Keys are two levels deep at most; everything else in the file is checked to be JSON and skipped. What values mean is the
 * caller's to judge. */
#include "model/hf.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_VALUES_BYTES = 64 << 20, MAX_VALUE_TEXT = 4 << 20, MAX_KEY_TEXT = 200 };

enum err hf_value_fail(const char *path, const struct hf_value *v, struct reason *why, enum err code, const char *format, ...) {
    char problem[300], place[40] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(problem, sizeof problem, format, args);
    va_end(args);
    if (v->kind != HF_ABSENT) snprintf(place, sizeof place, " at byte %llu", (unsigned long long)v->at);
    return fail(why, code, "%s: key '%s'%s: %s", path_label(path), v->key, place, problem);
}

void hf_values_free(struct hf_value *values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        text_free(&values[i].text);
        text_free(&values[i].element);
    }
}

enum err hf_fill(void *ctx, void *to, uint64_t bytes, uint64_t at, struct reason *why) {
    return file_read(ctx, to, bytes, at, why);
}

enum err hf_json_open(const char *path, uint64_t max_bytes, size_t max_text, struct hf_json *out, bool *exists,
                      struct reason *why) {
    struct stat info;
    out->file = (struct model_file){.fd = -1};
    json_scan_open(&out->scan, path_label(path), hf_fill, &out->file, 0, 0, max_text);
    if (exists && !(*exists = lstat(path, &info) == 0))
        return ERR_NONE; /* a link that leads nowhere is an error, not absence */
    TRY(file_open(path, &out->file, why));
    if (out->file.bytes > max_bytes)
        return fail(why, ERR_LIMIT, "%s: %llu bytes; at most %llu are allowed", path_label(path),
                    (unsigned long long)out->file.bytes, (unsigned long long)max_bytes);
    out->scan.end = out->file.bytes;
    return ERR_NONE;
}

void hf_json_close(struct hf_json *j) {
    json_scan_close(&j->scan);
    file_close(&j->file);
}

static enum err keep_text(const struct json_scan *s, struct text *out, struct reason *why) {
    text_clear(out);
    text_add_span(out, s->text);
    return out->failed ? fail(why, ERR_NO_MEMORY, "%s: no memory for a text of %zu bytes", s->label, s->text.len) : ERR_NONE;
}

static enum err take_elements(struct json_scan *s, struct hf_value *v, struct reason *why) {
    for (bool leading = true;; v->count++) {
        enum scan_event event;
        TRY(json_scan_next(s, &event, why));
        if (event == SCAN_ARRAY_END) return ERR_NONE;
        if (event == SCAN_STRING && v->count == 0) TRY(keep_text(s, &v->element, why));
        leading = leading && v->n_first < 2 && event == SCAN_NUMBER && json_scan_uint(s->text, &v->first[v->n_first]);
        if (leading) v->n_first++;
        TRY(json_scan_skip(s, event, why));
    }
}

/* The value behind a key. An object is left to the caller. */
static enum err take_value(struct json_scan *s, enum scan_event event, struct hf_value *v, struct reason *why) {
    if (v->kind != HF_ABSENT) return json_scan_fail(s, why, ERR_FORMAT, "key '%s' is given twice", v->key);
    v->at = s->at;
    switch (event) {
    case SCAN_NULL: v->kind = HF_NULL; return ERR_NONE;
    case SCAN_TRUE:
    case SCAN_FALSE:
        v->kind = HF_BOOL;
        v->yes = event == SCAN_TRUE;
        return ERR_NONE;
    case SCAN_NUMBER:
        v->kind = HF_NUMBER;
        v->whole = json_scan_uint(s->text, &v->integer);
        v->number = json_scan_double(s->text);
        return ERR_NONE;
    case SCAN_STRING: v->kind = HF_STRING; return keep_text(s, &v->text, why);
    case SCAN_ARRAY: v->kind = HF_ARRAY; return take_elements(s, v, why);
    default: v->kind = HF_OBJECT; return ERR_NONE;
    }
}

static struct hf_value *find(struct hf_value *values, size_t n, const char *prefix, struct span key) {
    char full[2 * MAX_KEY_TEXT];
    if (key.len > MAX_KEY_TEXT || memchr(key.ptr, 0, key.len) || memchr(key.ptr, '.', key.len)) return NULL;
    snprintf(full, sizeof full, "%s%.*s", prefix, (int)key.len, key.ptr);
    for (size_t i = 0; i < n; i++)
        if (strcmp(values[i].key, full) == 0) return &values[i];
    return NULL;
}

/* The members of an object that has just begun; `prefix` is "" or "a.". */
static enum err take_members(struct json_scan *s, const char *prefix, struct hf_value *values, size_t n, struct reason *why) {
    for (;;) {
        enum scan_event event;
        TRY(json_scan_next(s, &event, why));
        if (event == SCAN_OBJECT_END) return ERR_NONE;
        char inner[MAX_KEY_TEXT + 2] = "";
        if (s->text.len <= MAX_KEY_TEXT && !memchr(s->text.ptr, 0, s->text.len))
            snprintf(inner, sizeof inner, "%.*s.", (int)s->text.len, s->text.ptr);
        struct hf_value *v = find(values, n, prefix, s->text);
        TRY(json_scan_next(s, &event, why));
        if (v) TRY(take_value(s, event, v, why));
        if (event == SCAN_OBJECT && *inner && !*prefix)
            TRY(take_members(s, inner, values, n, why));
        else if (!v || event == SCAN_OBJECT)
            TRY(json_scan_skip(s, event, why));
    }
}

enum err hf_values_read(const char *path, struct hf_value *values, size_t n, bool *exists, struct reason *why) {
    struct hf_json j;
    enum err result = hf_json_open(path, MAX_VALUES_BYTES, MAX_VALUE_TEXT, &j, exists, why);
    if (result == ERR_NONE && !(exists && !*exists)) {
        enum scan_event event;
        result = json_scan_next(&j.scan, &event, why);
        if (result == ERR_NONE && event != SCAN_OBJECT)
            result = json_scan_fail(&j.scan, why, ERR_FORMAT, "a JSON object is expected");
        if (result == ERR_NONE) result = take_members(&j.scan, "", values, n, why);
        if (result == ERR_NONE) result = json_scan_next(&j.scan, &event, why);
    }
    hf_json_close(&j);
    return result;
}
