/* Messages and their ids, and the prompt made of them. Saving and loading: repl_saved.c. */
#include "cli/repl_transcript.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

static enum err no_memory(struct reason *why) { return fail(why, ERR_NO_MEMORY, "no memory for the conversation"); }

enum err transcript_open(struct transcript *t, struct reason *why) {
    *t = (struct transcript){.messages = json_array()};
    return t->messages ? ERR_NONE : no_memory(why);
}

void transcript_close(struct transcript *t) {
    if (t->messages) transcript_cut(t, 0);
    json_decref(t->messages);
    free(t->ids);
    *t = (struct transcript){0};
}

size_t transcript_length(const struct transcript *t) { return json_array_size(t->messages); }

static struct span member(const struct transcript *t, size_t index, const char *key) {
    struct span s;
    (void)json_span(json_object_get(json_array_get(t->messages, index), key), &s);
    return s;
}

struct span transcript_role(const struct transcript *t, size_t index) {
    return member(t, index, "role");
}
struct span transcript_content(const struct transcript *t, size_t index) {
    return member(t, index, "content");
}

static bool role_is(const struct transcript *t, size_t index, const char *role) {
    return span_equal(transcript_role(t, index), span_of(role));
}

/* A string node; bytes that are no UTF-8 become U+FFFD. */
static json_t *string_node(struct span s) {
    struct text valid = {0};
    unicode_normalize(s, false, &valid);
    json_t *node = valid.failed ? NULL : json_stringn(valid.ptr ? valid.ptr : "", valid.len);
    text_free(&valid);
    return node;
}

static bool reserve(struct transcript *t, size_t count) {
    if (count <= t->cap) return true;
    const size_t cap = 2 * count;
    struct token_list *grown = realloc(t->ids, cap * sizeof *grown);
    if (!grown) return false;
    t->ids = grown;
    t->cap = cap;
    return true;
}

static json_t *make_message(const char *role, struct span content) {
    json_t *message = json_object();
    if (message && json_object_set_new(message, "role", json_string(role)) == 0 &&
        json_object_set_new(message, "content", string_node(content)) == 0)
        return message;
    json_decref(message);
    return NULL;
}

/* Takes over `message` and `ids`, also on failure. */
static enum err insert(struct transcript *t, size_t index, json_t *message, struct token_list ids, struct reason *why) {
    const size_t length = transcript_length(t);
    if (!message || !reserve(t, length + 1) || json_array_insert(t->messages, index, message) != 0) {
        json_decref(message);
        token_list_free(&ids);
        return no_memory(why);
    }
    json_decref(message); /* the array holds it now */
    memmove(t->ids + index + 1, t->ids + index, (length - index) * sizeof *t->ids);
    t->ids[index] = ids;
    return ERR_NONE;
}

enum err transcript_add_user(struct transcript *t, struct span text, struct reason *why) {
    return insert(t, transcript_length(t), make_message("user", text), (struct token_list){0}, why);
}

static enum err answer_ids(const struct answer *a, const json_t *message, const struct tokenizer *tokenizer,
                           struct token_list *out, struct reason *why) {
    if (a->ids) {
        for (size_t i = 0; i < a->ids->len; i++) TRY(token_list_add(out, a->ids->ids[i], why));
        return ERR_NONE;
    }
    struct span content;
    (void)json_span(json_object_get(message, "content"), &content);
    /* Control tokens written out in an answer's text are text: nobody sampled them. */
    return content.len ? tokenizer_encode(tokenizer, content, PARSE_TEXT, out, why) : ERR_NONE;
}

enum err transcript_add_answer(struct transcript *t, const struct answer *a, const struct tokenizer *tokenizer,
                               struct reason *why) {
    json_t *message = make_message("assistant", a->content);
    /* Also an empty reasoning is written down when the content speaks of the tag: else the template would look for one there.
     */
    const bool tag = a->content.len && memmem(a->content.ptr, a->content.len, "</think>", 8);
    bool ok = message != NULL;
    if (ok && (a->reasoning.len || tag)) ok = json_object_set_new(message, "reasoning_content", string_node(a->reasoning)) == 0;
    if (ok && a->interrupted) ok = json_object_set_new(message, "interrupted", json_true()) == 0;
    struct token_list ids = {0};
    const enum err code = ok ? answer_ids(a, message, tokenizer, &ids, why) : no_memory(why);
    if (code) {
        json_decref(message);
        token_list_free(&ids);
        return code;
    }
    return insert(t, transcript_length(t), message, ids, why);
}

enum err transcript_set_system(struct transcript *t, struct span text, struct reason *why) {
    const bool exists = role_is(t, 0, "system");
    if (text.len == 0) {
        if (!exists) return ERR_NONE;
        json_array_remove(t->messages, 0);
        memmove(t->ids, t->ids + 1, transcript_length(t) * sizeof *t->ids);
        return ERR_NONE;
    }
    if (!exists) return insert(t, 0, make_message("system", text), (struct token_list){0}, why);
    return json_object_set_new(json_array_get(t->messages, 0), "content", string_node(text)) == 0 ? ERR_NONE : no_memory(why);
}

struct span transcript_system(const struct transcript *t) {
    return role_is(t, 0, "system") ? transcript_content(t, 0) : (struct span){0};
}

size_t transcript_last_user(const struct transcript *t) {
    for (size_t i = transcript_length(t); i-- > 0;)
        if (role_is(t, i, "user")) return i;
    return SIZE_MAX;
}

/* The first message that prompts hold, the system message aside. */
static size_t first_held(const struct transcript *t) { return role_is(t, 0, "system") + t->left_out; }

void transcript_cut(struct transcript *t, size_t length) {
    for (size_t i = transcript_length(t); i-- > length;) {
        json_array_remove(t->messages, i);
        token_list_free(&t->ids[i]);
    }
    if (transcript_length(t) <= first_held(t)) t->left_out = 0;
}

size_t transcript_turns(const struct transcript *t) {
    size_t turns = 0;
    for (size_t i = 0; i < transcript_length(t); i++) turns += role_is(t, i, "user");
    return turns;
}

size_t transcript_held_turns(const struct transcript *t) {
    size_t turns = 0;
    for (size_t i = first_held(t); i < transcript_length(t); i++) turns += role_is(t, i, "user");
    return turns;
}

void transcript_leave_out(struct transcript *t, size_t turns) {
    const size_t first = first_held(t);
    size_t i = first;
    for (; i < transcript_length(t); i++)
        if (role_is(t, i, "user") && turns-- == 0) break;
    t->left_out += i - first;
}

/* ---- prompt ------------------------------------------------------------------------------------------------------------ */

/* True when bytes [from, to) of the rendering hold no user text, which could look like an answer. */
static bool is_template_text(const struct chat_prompt *p, size_t from, size_t to) {
    size_t at = 0;
    for (size_t i = 0; i < p->n_pieces && at < to; at += p->pieces[i++].text.len)
        if (p->pieces[i].content && at + p->pieces[i].text.len > from && p->pieces[i].text.len) return false;
    return true;
}

/* Where the content of an answer lies at or after `from`; SIZE_MAX: the template prints it in another form. */
static size_t find_answer(const struct chat_prompt *p, size_t from, struct span content) {
    static const struct span open = {"<|im_start|>assistant\n", 22}, close = {"<|im_end|>", 10};
    struct text wanted = {0};
    text_add_span(&wanted, open);
    text_add_span(&wanted, content);
    text_add_span(&wanted, close);
    size_t found = SIZE_MAX;
    while (!wanted.failed && from < p->text.len) {
        const char *hit = memmem(p->text.ptr + from, p->text.len - from, wanted.ptr, wanted.len);
        if (!hit) break;
        from = (size_t)(hit - p->text.ptr) + 1;
        if (!is_template_text(p, from - 1, from - 1 + wanted.len)) continue;
        found = from - 1 + open.len;
        break;
    }
    text_free(&wanted);
    return found;
}

/* Ids of bytes [from, to) of the rendering, as if that were all of it. */
static enum err tokenize_range(const struct chat_prompt *p, size_t from, size_t to, const struct tokenizer *tokenizer,
                               struct token_list *out, struct reason *why) {
    if (from == to) return ERR_NONE;
    struct chat_prompt part = {.text = {.ptr = p->text.ptr + from, .len = to - from}};
    part.pieces = calloc_checked(p->n_pieces, sizeof *part.pieces);
    if (!part.pieces) return no_memory(why);
    size_t at = 0;
    for (size_t i = 0; i < p->n_pieces; at += p->pieces[i++].text.len) {
        const size_t end = at + p->pieces[i].text.len, lo = at > from ? at : from, hi = end < to ? end : to;
        if (lo < hi) part.pieces[part.n_pieces++] = (struct chat_piece){{p->text.ptr + lo, hi - lo}, p->pieces[i].content};
    }
    const enum err code = chat_tokenize(tokenizer, &part, out, why);
    free(part.pieces);
    return code;
}

static enum err splice(const struct transcript *t, const struct chat_prompt *p, const struct tokenizer *tokenizer,
                       struct token_list *out, struct reason *why) {
    size_t done = 0;
    for (size_t i = 0; i < transcript_length(t); i++) {
        const struct token_list *ids = &t->ids[i];
        const struct span content = transcript_content(t, i);
        if (!ids->len || i < first_held(t) || !role_is(t, i, "assistant")) continue;
        const size_t at = find_answer(p, done, content);
        if (at == SIZE_MAX) continue;
        TRY(tokenize_range(p, done, at, tokenizer, out, why));
        for (size_t k = 0; k < ids->len; k++) TRY(token_list_add(out, ids->ids[k], why));
        done = at + content.len;
    }
    return tokenize_range(p, done, p->text.len, tokenizer, out, why);
}

/* The system message and what is not left out. */
static json_t *held_messages(const struct transcript *t) {
    if (!t->left_out) return json_incref(t->messages);
    json_t *held = json_array();
    bool ok = held != NULL;
    if (ok && role_is(t, 0, "system")) ok = json_array_append(held, json_array_get(t->messages, 0)) == 0;
    for (size_t i = first_held(t); ok && i < transcript_length(t); i++) ok = json_array_append(held, json_array_get(t->messages, i)) == 0;
    if (ok) return held;
    json_decref(held);
    return NULL;
}

enum err transcript_prompt(const struct transcript *t, enum chat_family family, const struct tokenizer *tokenizer,
                           int enable_thinking, struct token_list *out, struct reason *why) {
    json_t *held = held_messages(t);
    if (!held) return no_memory(why);
    const struct chat_request request = {held, NULL, true, enable_thinking};
    struct chat_prompt prompt = {0};
    enum err code = chat_render(family, &request, &prompt, why);
    if (!code) code = splice(t, &prompt, tokenizer, out, why);
    chat_prompt_free(&prompt);
    json_decref(held);
    return code;
}
