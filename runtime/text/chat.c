/* Chat prompts: which template a file uses, request normalization, the list of pieces, and their ids. Owns everything the
 * families share; chat_hermes.c and chat_coder.c print the turns. Keeps no state: thread-safe. */
#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "text/chat_private.h"

/* ---- families --------------------------------------------------------------------------------------------------- */

static const char *const family_names[CHAT_FAMILY_COUNT] = {
    [CHAT_QWEN3] = "qwen3",
    [CHAT_QWEN3_2507] = "qwen3-2507",
    [CHAT_QWEN3_THINKING] = "qwen3-thinking",
    [CHAT_QWEN3_CODER] = "qwen3-coder",
    [CHAT_QWEN3_CODER_TOOLS] = "qwen3-coder-tools",
};

const char *chat_family_name(enum chat_family family) { return family_names[family]; }

bool chat_family_from_name(struct span name, enum chat_family *out) {
    for (int i = 0; i < CHAT_FAMILY_COUNT; i++) {
        if (!span_equal(name, span_of(family_names[i]))) continue;
        *out = (enum chat_family)i;
        return true;
    }
    return false;
}

bool chat_family_can_think(enum chat_family family) { return family == CHAT_QWEN3 || family == CHAT_QWEN3_THINKING; }

bool chat_family_is_coder(enum chat_family family) { return family == CHAT_QWEN3_CODER || family == CHAT_QWEN3_CODER_TOOLS; }

static bool has(struct span text, const char *what) { return text.len && memmem(text.ptr, text.len, what, strlen(what)); }

enum chat_family chat_family_detect(struct span chat_template, const char **warning) {
    const char *doubt = NULL;
    enum chat_family family;
    if (has(chat_template, "<function=")) {
        const bool tools = has(chat_template, "following tools:");
        family = tools ? CHAT_QWEN3_CODER_TOOLS : CHAT_QWEN3_CODER;
        if (has(chat_template, "render_item_list"))
            doubt =
                "the file holds a superseded revision of the Qwen3-Coder template; tools are printed as the current one does";
        else if (!tools && !has(chat_template, "following functions:"))
            doubt = "the file's template looks like Qwen3-Coder's, but its wording is unknown; tools are printed as "
                    "Qwen3-Coder does";
    } else if (has(chat_template, "enable_thinking")) {
        family = CHAT_QWEN3;
    } else if (has(chat_template, "assistant\\n<think>\\n") || has(chat_template, "assistant\n<think>\n")) {
        family = CHAT_QWEN3_THINKING;
    } else {
        family = CHAT_QWEN3_2507;
        if (chat_template.len == 0) doubt = "the file has no chat template; using that of Qwen3-2507 (choose with --family)";
    }
    if (chat_template.len && !has(chat_template, "<|im_start|>"))
        doubt = "the file's chat template is not one of the Qwen family; the prompt may not be what the model was trained on";
    if (warning) *warning = doubt;
    return family;
}

/* ---- pieces ------------------------------------------------------------------------------------------------------- */

static void close_piece(struct chat_writer *w) {
    struct chat_prompt *const p = w->out;
    const size_t len = p->text.len - w->piece_from;
    if (len == 0) return;
    w->piece_from = p->text.len;
    if (p->n_pieces && p->pieces[p->n_pieces - 1].content == w->in_content) {
        p->pieces[p->n_pieces - 1].text.len += len;
        return;
    }
    if (p->n_pieces == p->cap) {
        const size_t cap = p->cap ? 2 * p->cap : 16;
        struct chat_piece *const grown = realloc(p->pieces, cap * sizeof *grown);
        if (!grown) {
            p->text.failed = true;
            return;
        }
        p->pieces = grown;
        p->cap = cap;
    }
    /* The text still moves while it grows; chat_render() sets the pointers at the end. */
    p->pieces[p->n_pieces++] = (struct chat_piece){.text = {NULL, len}, .content = w->in_content};
}

void chat_enter(struct chat_writer *w, bool content) {
    if (w->in_content == content) return;
    close_piece(w);
    w->in_content = content;
}

void chat_write(struct chat_writer *w, struct span s) {
    chat_enter(w, false);
    text_add_span(&w->out->text, s);
}

void chat_write_content(struct chat_writer *w, struct span s) {
    chat_enter(w, true);
    text_add_span(&w->out->text, s);
}

void chat_prompt_free(struct chat_prompt *prompt) {
    text_free(&prompt->text);
    free(prompt->pieces);
    *prompt = (struct chat_prompt){0};
}

/* ---- normalization ------------------------------------------------------------------------------------------------ */

/* One element of a content array. Text parts are joined with LF, as llama.cpp and vLLM do. */
static enum err join_part(const json_t *part, size_t message, size_t index, struct text *joined, struct reason *why) {
    struct span text, type;
    const bool is_text =
        json_span(part, &text) || (json_span(json_object_get(part, "text"), &text) &&
                                   (!json_span(json_object_get(part, "type"), &type) || span_equal(type, SPAN("text"))));
    if (!is_text) {
        if (json_span(json_object_get(part, "type"), &type))
            return fail(why, ERR_UNSUPPORTED,
                        "messages[%zu].content[%zu]: a part of type \"%.*s\" cannot be shown to a text model", message, index,
                        (int)(type.len < 40 ? type.len : 40), type.ptr);
        return fail(why, ERR_FORMAT, "messages[%zu].content[%zu]: not a text part", message, index);
    }
    if (index) text_add(joined, "\n", 1);
    text_add_span(joined, text);
    return ERR_NONE;
}

static enum err read_content(const json_t *content, size_t index, struct chat_message *m, struct reason *why) {
    if (!content || json_is_null(content) || json_span(content, &m->content)) return ERR_NONE;
    if (!json_is_array(content)) return fail(why, ERR_FORMAT, "messages[%zu].content: not a string, array or null", index);
    size_t i;
    const json_t *part;
    json_array_foreach(content, i, part) TRY(join_part(part, index, i, &m->joined, why));
    if (m->joined.failed) return fail(why, ERR_NO_MEMORY, "messages[%zu].content: out of memory", index);
    m->content = (struct span){m->joined.ptr, m->joined.len};
    return ERR_NONE;
}

static enum err read_message(const json_t *source, size_t index, struct chat_message *m, struct reason *why) {
    if (!json_span(json_object_get(source, "role"), &m->role))
        return fail(why, ERR_FORMAT, "messages[%zu]: not an object with a string \"role\"", index);
    if (span_equal(m->role, SPAN("developer"))) m->role = SPAN("system");
    TRY(read_content(json_object_get(source, "content"), index, m, why));

    const json_t *const reasoning = json_object_get(source, "reasoning_content");
    m->has_reasoning = reasoning && !json_is_null(reasoning);
    if (m->has_reasoning && !json_span(reasoning, &m->reasoning))
        return fail(why, ERR_FORMAT, "messages[%zu].reasoning_content: not a string or null", index);

    const json_t *const calls = json_object_get(source, "tool_calls");
    if (calls && !json_is_null(calls) && !json_is_array(calls))
        return fail(why, ERR_FORMAT, "messages[%zu].tool_calls: not an array or null", index);
    m->calls = json_array_size(calls) ? calls : NULL;
    return ERR_NONE;
}

static void turns_free(struct chat_turns *turns) {
    for (size_t i = 0; i < turns->n; i++) text_free(&turns->items[i].joined);
    free(turns->items);
    *turns = (struct chat_turns){0};
}

static enum err turns_read(const json_t *messages, struct chat_turns *turns, struct reason *why) {
    const size_t n = json_array_size(messages);
    if (n == 0) return fail(why, ERR_FORMAT, "messages: not an array with at least one message");
    turns->items = calloc_checked(n, sizeof *turns->items);
    if (!turns->items) return fail(why, ERR_NO_MEMORY, "no memory for %zu messages", n);
    turns->n = n;
    for (size_t i = 0; i < n; i++) TRY(read_message(json_array_get(messages, i), i, &turns->items[i], why));
    return ERR_NONE;
}

enum err chat_call_read(const struct chat_message *m, size_t message_index, size_t call_index, struct chat_call *out,
                        struct reason *why) {
    const json_t *call = json_array_get(m->calls, call_index);
    const json_t *const function = json_object_get(call, "function");
    if (json_is_object(function)) call = function;
    if (!json_span(json_object_get(call, "name"), &out->name))
        return fail(why, ERR_FORMAT, "messages[%zu].tool_calls[%zu]: no function name", message_index, call_index);
    out->arguments = json_object_get(call, "arguments");
    if (json_is_null(out->arguments)) out->arguments = NULL;
    return ERR_NONE;
}

bool chat_role_is(const struct chat_turns *turns, size_t index, const char *role) {
    return index < turns->n && span_equal(turns->items[index].role, span_of(role));
}

/* ---- rendering -------------------------------------------------------------------------------------------------------- */

static void write_generation_prompt(enum chat_family family, int enable_thinking, struct chat_writer *w) {
    chat_write_literal(w, "<|im_start|>assistant\n");
    if (family == CHAT_QWEN3 && enable_thinking == 0) chat_write_literal(w, "<think>\n\n</think>\n\n");
    if (family == CHAT_QWEN3_THINKING) chat_write_literal(w, "<think>\n");
}

static enum err render(enum chat_family family, const struct chat_request *request, const struct chat_turns *turns,
                       struct chat_prompt *out, struct reason *why) {
    const json_t *tools = request->tools;
    if (tools && !json_is_null(tools) && !json_is_array(tools)) return fail(why, ERR_FORMAT, "tools: not an array or null");
    if (json_array_size(tools) == 0) tools = NULL;
    struct chat_writer w = {.out = out};
    TRY((chat_family_is_coder(family) ? chat_render_coder : chat_render_hermes)(family, turns, tools, &w, why));
    if (request->add_generation_prompt) write_generation_prompt(family, request->enable_thinking, &w);
    close_piece(&w);
    if (out->text.failed) return fail(why, ERR_NO_MEMORY, "no memory to render %zu messages", turns->n);
    const char *at = out->text.ptr;
    for (size_t i = 0; i < out->n_pieces; at += out->pieces[i++].text.len) out->pieces[i].text.ptr = at;
    return ERR_NONE;
}

enum err chat_render(enum chat_family family, const struct chat_request *request, struct chat_prompt *out, struct reason *why) {
    *out = (struct chat_prompt){0};
    struct chat_turns turns = {0};
    enum err err = turns_read(request->messages, &turns, why);
    if (err == ERR_NONE) err = render(family, request, &turns, out, why);
    if (err != ERR_NONE) chat_prompt_free(out);
    turns_free(&turns);
    return err;
}

/* ---- ids -------------------------------------------------------------------------------------------------------------- */

enum err chat_tokenize(const struct tokenizer *t, const struct chat_prompt *prompt, struct token_list *out,
                       struct reason *why) {
    if (prompt->text.len == 0) return ERR_NONE;
    /* Pieces are only cut apart where they must be, since the pre-tokenizer may join text across their edges. */
    const char *from = prompt->text.ptr;
    for (size_t i = 0; i < prompt->n_pieces; i++) {
        const struct chat_piece piece = prompt->pieces[i];
        if (!piece.content || !tokenizer_has_added(t, piece.text)) continue;
        TRY(tokenizer_encode(t, (struct span){from, (size_t)(piece.text.ptr - from)}, PARSE_SPECIAL, out, why));
        TRY(tokenizer_encode(t, piece.text, PARSE_NOTHING, out, why));
        from = piece.text.ptr + piece.text.len;
    }
    return tokenizer_encode(t, (struct span){from, (size_t)(prompt->text.ptr + prompt->text.len - from)}, PARSE_SPECIAL, out,
                            why);
}
