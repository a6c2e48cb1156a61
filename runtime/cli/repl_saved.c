/* Saved chats. A file is data from outside: everything in it is checked before any of it is used. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/repl_file.h"
#include "cli/repl_transcript.h"

enum { MAX_SAVED_BYTES = 64 << 20, FORMAT_VERSION = 1, HEAD_BYTES = 256 };
static const char format_name[] = "coldstream-chat";

/* ---- fingerprint ------------------------------------------------------------------------------------------------------- */

static void mix(uint64_t *hash, const void *bytes, size_t len) { /* FNV-1a */
    const uint8_t *b = bytes;
    for (size_t i = 0; i < len; i++) *hash = (*hash ^ b[i]) * 0x100000001b3u;
}

static void mix_number(uint64_t *hash, uint64_t value) { mix(hash, &value, sizeof value); }

void model_fingerprint(const struct model *m, char out[FINGERPRINT_CHARS]) {
    uint64_t hash = 0xcbf29ce484222325u;
    const struct model_shape *s = &m->shape;
    mix(&hash, m->architecture.ptr, m->architecture.len);
    const uint64_t numbers[] = {s->n_layers,       s->n_embd, s->n_heads, s->n_kv_heads,     s->head_dim,       s->n_experts,
                                s->n_experts_used, s->n_ff,   s->n_vocab, m->vocab.n_tokens, m->vocab.n_merges, m->n_tensors};
    mix(&hash, numbers, sizeof numbers);
    for (size_t i = 0; i < m->n_tensors; i++) {
        mix(&hash, m->tensors[i].name.ptr, m->tensors[i].name.len);
        mix_number(&hash, tensor_type_info(m->tensors[i].type)->gguf_id);
        mix(&hash, m->tensors[i].ne, sizeof m->tensors[i].ne);
    }
    snprintf(out, FINGERPRINT_CHARS, "%016" PRIx64, hash);
}

void saved_head_free(struct saved_head *h) {
    text_free(&h->model);
    json_decref(h->settings);
    h->settings = NULL;
}

/* ---- save ---------------------------------------------------------------------------------------------------------------- */

bool transcript_is_saved_chat(const char *path, struct reason *why) {
    FILE *file = fopen(path, "re");
    if (!file) return fail(why, ERR_IO, "%s: cannot be read", path), false;
    char head[HEAD_BYTES];
    const size_t len = fread(head, 1, sizeof head, file);
    fclose(file);
    return memmem(head, len, format_name, strlen(format_name)) != NULL;
}

static json_t *head_json(const struct saved_head *head) {
    char now[32] = "";
    const time_t seconds = time(NULL);
    struct tm utc;
    if (gmtime_r(&seconds, &utc)) strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return json_pack("{s:s, s:i, s:s, s:{s:s%, s:s, s:s}, s:O}", "format", format_name, "version", FORMAT_VERSION, "saved", now,
                     "model", "name", head->model.ptr ? head->model.ptr : "", head->model.len, "family", head->family,
                     "fingerprint", head->fingerprint, "settings", head->settings);
}

enum err transcript_save(const struct transcript *t, const struct saved_head *head, const char *path, struct reason *why) {
    if (access(path, F_OK) == 0 && !transcript_is_saved_chat(path, why))
        return fail(why, ERR_ARGUMENT, "%s: exists and is no saved chat; choose another name", path);
    json_t *root = head_json(head);
    char *bytes = NULL;
    if (root && json_object_set(root, "messages", t->messages) == 0)
        bytes = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(root);
    if (!bytes) return fail(why, ERR_NO_MEMORY, "%s: no memory to write it", path);
    struct text content = {0};
    text_addf(&content, "%s\n", bytes);
    free(bytes);
    const enum err code = content.failed ? fail(why, ERR_NO_MEMORY, "%s: no memory to write it", path)
                                         : whole_file_replace(path, (struct span){content.ptr, content.len}, why);
    text_free(&content);
    return code;
}

/* ---- load ---------------------------------------------------------------------------------------------------------------- */

static enum err read_head(const json_t *root, const char *path, struct saved_head *head, struct reason *why) {
    struct span format, name, fingerprint, family;
    if (!json_span(json_object_get(root, "format"), &format) || !span_equal(format, span_of(format_name)))
        return fail(why, ERR_FORMAT, "%s: no saved chat (\"format\" is not \"%s\")", path, format_name);
    if (json_integer_value(json_object_get(root, "version")) != FORMAT_VERSION)
        return fail(why, ERR_UNSUPPORTED, "%s: \"version\" is not %d, which is all this build reads", path, FORMAT_VERSION);
    const json_t *model = json_object_get(root, "model");
    if (!json_span(json_object_get(model, "name"), &name) || !json_span(json_object_get(model, "fingerprint"), &fingerprint) ||
        !json_span(json_object_get(model, "family"), &family))
        return fail(why, ERR_FORMAT, "%s: model: name, family or fingerprint is missing", path);
    text_add_span(&head->model, name);
    snprintf(head->fingerprint, sizeof head->fingerprint, "%.*s", (int)fingerprint.len, fingerprint.ptr);
    snprintf(head->family, sizeof head->family, "%.*s", (int)family.len, family.ptr);
    json_t *settings = json_object_get(root, "settings");
    if (settings && !json_is_object(settings)) return fail(why, ERR_FORMAT, "%s: settings: not an object", path);
    head->settings = settings ? json_incref(settings) : json_object();
    return head->settings && !head->model.failed ? ERR_NONE : fail(why, ERR_NO_MEMORY, "%s: no memory to read it", path);
}

static enum err read_message(const json_t *source, size_t index, const char *path, const struct tokenizer *tokenizer,
                             struct transcript *out, struct reason *why) {
    struct span role, content, reasoning = {0};
    if (!json_span(json_object_get(source, "role"), &role) || !json_span(json_object_get(source, "content"), &content))
        return fail(why, ERR_FORMAT, "%s: messages[%zu]: role or content is missing or not a string", path, index);
    const json_t *thought = json_object_get(source, "reasoning_content");
    if (thought && !json_is_null(thought) && !json_span(thought, &reasoning))
        return fail(why, ERR_FORMAT, "%s: messages[%zu].reasoning_content: not a string", path, index);
    if (span_equal(role, SPAN("user"))) return transcript_add_user(out, content, why);
    if (span_equal(role, SPAN("system")) && index == 0) return transcript_set_system(out, content, why);
    if (!span_equal(role, SPAN("assistant")))
        return fail(why, ERR_FORMAT, "%s: messages[%zu].role: '%.*s' is not user or assistant, or system in front", path, index,
                    (int)(role.len < 40 ? role.len : 40), role.ptr);
    if (transcript_last_user(out) == SIZE_MAX)
        return fail(why, ERR_FORMAT, "%s: messages[%zu]: an answer to nothing", path, index);
    const struct answer a = {content, reasoning, NULL, json_is_true(json_object_get(source, "interrupted"))};
    return transcript_add_answer(out, &a, tokenizer, why);
}

static enum err read_chat(const json_t *root, const char *path, const struct tokenizer *tokenizer, struct transcript *out,
                          struct saved_head *head, struct reason *why) {
    TRY(read_head(root, path, head, why));
    TRY(transcript_open(out, why));
    const json_t *messages = json_object_get(root, "messages");
    if (!json_is_array(messages)) return fail(why, ERR_FORMAT, "%s: messages: missing or not an array", path);
    for (size_t i = 0; i < json_array_size(messages); i++)
        TRY(read_message(json_array_get(messages, i), i, path, tokenizer, out, why));
    return ERR_NONE;
}

enum err transcript_load(const char *path, const struct tokenizer *tokenizer, struct transcript *out, struct saved_head *head,
                         struct reason *why) {
    *out = (struct transcript){0};
    *head = (struct saved_head){0};
    struct text bytes = {0};
    json_t *root = NULL;
    enum err code = whole_file_read(path, MAX_SAVED_BYTES, &bytes, why);
    if (!code) {
        struct reason inner = {{0}};
        code = json_read((struct span){bytes.ptr, bytes.len}, &root, &inner);
        if (code) fail(why, code, "%s: no saved chat: %s", path, inner.text);
    }
    if (!code) code = read_chat(root, path, tokenizer, out, head, why);
    json_decref(root);
    text_free(&bytes);
    if (code) {
        transcript_close(out);
        saved_head_free(head);
    }
    return code;
}
