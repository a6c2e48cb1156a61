/* Turns in the Hermes style: Qwen3 hybrid, Instruct-2507, Thinking-2507. Every literal here is wire format.
 *
 * Thinking-2507 follows the hybrid in everything but the generation prompt: published copies of its template differ from the
 * hybrid's newer revision only in that `add_generation_prompt` always opens <think> and `enable_thinking` is not read. */
#include <string.h>

#include "text/chat_private.h"

static const char tools_head[] = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                                 "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
static const char tools_tail[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "
    "<args-json-object>}\n</tool_call>"
    "<|im_end|>\n";

static struct span strip_left(struct span s) {
    while (s.len && *s.ptr == '\n') s.ptr++, s.len--;
    return s;
}

static struct span strip_right(struct span s) {
    while (s.len && s.ptr[s.len - 1] == '\n') s.len--;
    return s;
}

static const char *find_first(struct span s, struct span what) {
    return s.len ? memmem(s.ptr, s.len, what.ptr, what.len) : NULL;
}

/* What follows the last `what` in `s`, all of `s` when there is none. */
static struct span after_last(struct span s, struct span what) {
    for (const char *at; (at = find_first(s, what));) {
        const size_t skip = (size_t)(at - s.ptr) + what.len;
        s = (struct span){s.ptr + skip, s.len - skip};
    }
    return s;
}

static bool is_wrapped_result(struct span content) {
    const struct span end = SPAN("</tool_response>");
    return span_starts(content, SPAN("<tool_response>")) && content.len >= end.len &&
           memcmp(content.ptr + content.len - end.len, end.ptr, end.len) == 0;
}

/* Turns before the last real question lose their reasoning; those of the tool loop after it keep it. */
static size_t last_query(const struct chat_turns *turns) {
    for (size_t i = turns->n; i-- > 0;)
        if (chat_role_is(turns, i, "user") && !is_wrapped_result(turns->items[i].content)) return i;
    return turns->n - 1;
}

static void write_head(const struct chat_turns *turns, const json_t *tools, struct chat_writer *w) {
    const bool has_system = chat_role_is(turns, 0, "system");
    if (!tools) {
        if (!has_system) return;
        chat_write_literal(w, "<|im_start|>system\n");
        chat_write(w, turns->items[0].content);
        chat_write_literal(w, "<|im_end|>\n");
        return;
    }
    chat_write_literal(w, "<|im_start|>system\n");
    if (has_system) {
        chat_write(w, turns->items[0].content);
        chat_write_literal(w, "\n\n");
    }
    chat_write_literal(w, tools_head);
    size_t i;
    const json_t *tool;
    json_array_foreach(tools, i, tool) {
        chat_write_literal(w, "\n");
        chat_enter(w, true);
        json_write_python(tool, &w->out->text);
    }
    chat_write_literal(w, tools_tail);
}

/* Print the body; *content becomes what the template calls content afterwards, which decides the LF before the first call. */
static void write_body(const struct chat_message *m, bool after_query, bool last, struct span *content, struct chat_writer *w) {
    struct span reasoning = m->reasoning;
    if (!m->has_reasoning) {
        const char *const close = find_first(*content, SPAN("</think>"));
        if (close) {
            const struct span before = strip_right((struct span){content->ptr, (size_t)(close - content->ptr)});
            reasoning = strip_left(after_last(before, SPAN("<think>")));
            *content = strip_left(after_last(*content, SPAN("</think>")));
        }
    }
    if (!after_query || !(last || reasoning.len)) {
        chat_write(w, *content);
        return;
    }
    chat_write_literal(w, "<think>\n");
    chat_write(w, strip_left(strip_right(reasoning)));
    chat_write_literal(w, "\n</think>\n\n");
    chat_write(w, strip_left(*content));
}

/* Arguments sent as a string are the model's own text and are printed as they are. */
static enum err write_call(const struct chat_message *m, size_t message, size_t index, struct chat_writer *w,
                           struct reason *why) {
    struct chat_call call;
    TRY(chat_call_read(m, message, index, &call, why));
    struct span own;
    chat_write_literal(w, "<tool_call>\n{\"name\": \"");
    chat_write_content(w, call.name);
    chat_write_literal(w, "\", \"arguments\": ");
    chat_enter(w, true);
    if (!call.arguments)
        text_add(&w->out->text, "{}", 2);
    else if (json_span(call.arguments, &own))
        text_add_span(&w->out->text, own);
    else
        json_write_python(call.arguments, &w->out->text);
    chat_write_literal(w, "}\n</tool_call>");
    return ERR_NONE;
}

static enum err write_assistant(enum chat_family family, const struct chat_turns *turns, size_t index, size_t query,
                                struct chat_writer *w, struct reason *why) {
    const struct chat_message *const m = &turns->items[index];
    struct span content = m->content;
    chat_write_literal(w, "<|im_start|>assistant\n");
    if (chat_family_can_think(family))
        write_body(m, index > query, index + 1 == turns->n, &content, w);
    else
        chat_write(w, content);
    for (size_t k = 0; k < json_array_size(m->calls); k++) {
        if (k > 0 || content.len) chat_write_literal(w, "\n");
        TRY(write_call(m, index, k, w, why));
    }
    chat_write_literal(w, "<|im_end|>\n");
    return ERR_NONE;
}

static void write_tool_result(const struct chat_turns *turns, size_t index, struct chat_writer *w) {
    if (index == 0 || !chat_role_is(turns, index - 1, "tool")) chat_write_literal(w, "<|im_start|>user");
    chat_write_literal(w, "\n<tool_response>\n");
    chat_write_content(w, turns->items[index].content);
    chat_write_literal(w, "\n</tool_response>");
    if (!chat_role_is(turns, index + 1, "tool")) chat_write_literal(w, "<|im_end|>\n");
}

enum err chat_render_hermes(enum chat_family family, const struct chat_turns *turns, const json_t *tools, struct chat_writer *w,
                            struct reason *why) {
    const size_t query = last_query(turns);
    write_head(turns, tools, w);
    for (size_t i = 0; i < turns->n; i++) {
        if (chat_role_is(turns, i, "user")) {
            chat_write_literal(w, "<|im_start|>user\n");
            chat_write_content(w, turns->items[i].content);
            chat_write_literal(w, "<|im_end|>\n");
        } else if (chat_role_is(turns, i, "system") && i > 0) {
            chat_write_literal(w, "<|im_start|>system\n");
            chat_write(w, turns->items[i].content);
            chat_write_literal(w, "<|im_end|>\n");
        } else if (chat_role_is(turns, i, "assistant")) {
            TRY(write_assistant(family, turns, i, query, w, why));
        } else if (chat_role_is(turns, i, "tool")) {
            write_tool_result(turns, i, w);
        }
    }
    return ERR_NONE;
}
