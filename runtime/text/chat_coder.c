/* Turns in the style of Qwen3-Coder: tools as XML-like lists, calls as <function=...> blocks, values as Python prints them.
 * Every literal here is wire format. The two families differ in four spots of the tool section. */
#include <string.h>

#include "text/chat_private.h"

static const char default_system[] = "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks.";

/* The four spots. */
struct wording {
    struct span kind, a_call, second_value, first_reminder;
};

static const struct wording functions_wording = {
    SPAN("functions"),
    SPAN("function"),
    SPAN("This is the value for the second parameter\nthat can span\nmultiple lines"),
    SPAN("an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags"),
};
static const struct wording tools_wording = {
    SPAN("tools"),
    SPAN("tool"),
    SPAN("value_2"),
    SPAN("the tool calling block MUST begin with an opening <tool_call> tag and end with a closing </tool_call> tag."),
};

/* Length of a white space character of Python's str.strip() at the start of valid UTF-8, 0 when there is none. */
static size_t space_length(struct span s) {
    const unsigned char *const b = (const unsigned char *)s.ptr;
    if (s.len == 0) return 0;
    if ((b[0] >= 0x09 && b[0] <= 0x0d) || (b[0] >= 0x1c && b[0] <= 0x20)) return 1;
    if (s.len >= 2 && b[0] == 0xc2 && (b[1] == 0x85 || b[1] == 0xa0)) return 2;
    if (s.len < 3 || b[0] < 0xe1 || b[0] > 0xe3) return 0;
    const unsigned code = (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    const bool space = code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
                       code == 0x202f || code == 0x205f || code == 0x3000;
    return space ? 3 : 0;
}

static struct span trim(struct span s) {
    for (size_t len; (len = space_length(s));) s = (struct span){s.ptr + len, s.len - len};
    for (;;) {
        size_t len = s.len ? 1 : 0;
        while (len && len < 3 && len < s.len && ((unsigned char)s.ptr[s.len - len] & 0xc0) == 0x80) len++;
        if (len == 0 || space_length((struct span){s.ptr + s.len - len, len}) != len) return s;
        s.len -= len;
    }
}

/* ---- tools -------------------------------------------------------------------------------------------------------------
 * The whole list is one content piece: names, descriptions and defaults come from whoever wrote the tool. */

static void print(struct chat_writer *w, const char *literal) { text_add_span(&w->out->text, span_of(literal)); }

static void print_value(struct chat_writer *w, const json_t *value) {
    if (json_is_object(value) || json_is_array(value))
        json_write_python(value, &w->out->text);
    else
        json_write_python_str(value, &w->out->text);
}

static void print_extra_keys(struct chat_writer *w, const json_t *object, const char *const *handled) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        bool skip = false;
        for (const char *const *h = handled; *h; h++) skip |= strcmp(key, *h) == 0;
        if (skip) continue;
        print(w, "\n<");
        print(w, key);
        print(w, ">");
        print_value(w, value);
        print(w, "</");
        print(w, key);
        print(w, ">");
    }
}

static void print_description(struct chat_writer *w, const json_t *description) {
    if (!description) return;
    struct text whole = {0};
    json_write_python_str(description, &whole);
    print(w, "\n<description>");
    text_add_span(&w->out->text, trim((struct span){whole.ptr, whole.len}));
    print(w, "</description>");
    w->out->text.failed |= whole.failed;
    text_free(&whole);
}

static void print_parameter(struct chat_writer *w, const char *name, const json_t *fields) {
    static const char *const handled[] = {"name", "type", "description", NULL};
    const json_t *const type = json_object_get(fields, "type");
    print(w, "\n<parameter>\n<name>");
    print(w, name);
    print(w, "</name>");
    if (type) {
        print(w, "\n<type>");
        json_write_python_str(type, &w->out->text);
        print(w, "</type>");
    }
    print_description(w, json_object_get(fields, "description"));
    print_extra_keys(w, fields, handled);
    print(w, "\n</parameter>");
}

static enum err print_tool(struct chat_writer *w, const json_t *tool, size_t index, struct reason *why) {
    static const char *const handled_in_parameters[] = {"type", "properties", NULL};
    static const char *const handled[] = {"type", "name", "description", "parameters", NULL};
    const json_t *const function = json_object_get(tool, "function");
    if (function) tool = function;
    if (!json_is_object(tool)) return fail(why, ERR_FORMAT, "tools[%zu]: not an object", index);
    const json_t *const name = json_object_get(tool, "name");
    const json_t *const parameters = json_object_get(tool, "parameters");
    print(w, "\n<function>\n<name>");
    if (name) json_write_python_str(name, &w->out->text);
    print(w, "</name>");
    print_description(w, json_object_get(tool, "description"));
    print(w, "\n<parameters>");
    const char *key;
    json_t *fields;
    json_object_foreach(json_object_get(parameters, "properties"), key, fields) print_parameter(w, key, fields);
    print_extra_keys(w, parameters, handled_in_parameters);
    print(w, "\n</parameters>");
    print_extra_keys(w, tool, handled);
    print(w, "\n</function>");
    return ERR_NONE;
}

static void write_instructions(const struct wording *as, struct chat_writer *w) {
    chat_write_literal(w, "\n</tools>\n\nIf you choose to call a ");
    chat_write(w, as->a_call);
    chat_write_literal(w,
                       " ONLY reply in the following format with NO suffix:\n\n<tool_call>\n<function=example_function_name>\n"
                       "<parameter=example_parameter_1>\nvalue_1\n</parameter>\n<parameter=example_parameter_2>\n");
    chat_write(w, as->second_value);
    chat_write_literal(w, "\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n"
                          "- Function calls MUST follow the specified format: ");
    chat_write(w, as->first_reminder);
    chat_write_literal(
        w, "\n- Required parameters MUST be specified\n- You may provide optional reasoning for your function call in "
           "natural language BEFORE the function call, but NOT after\n- If there is no function call available, "
           "answer the question like normal with your current knowledge and do not tell the user about function "
           "calls\n</IMPORTANT>");
}

static enum err write_head(const struct wording *as, const struct span *system, const json_t *tools, struct chat_writer *w,
                           struct reason *why) {
    if (!system && !tools) return ERR_NONE;
    chat_write_literal(w, "<|im_start|>system\n");
    chat_write(w, system ? *system : SPAN(default_system));
    if (tools) {
        chat_write_literal(w, "\n\n# Tools\n\nYou have access to the following ");
        chat_write(w, as->kind);
        chat_write_literal(w, ":\n\n<tools>");
        chat_enter(w, true);
        for (size_t i = 0; i < json_array_size(tools); i++) TRY(print_tool(w, json_array_get(tools, i), i, why));
        write_instructions(as, w);
    }
    chat_write_literal(w, "<|im_end|>\n");
    return ERR_NONE;
}

/* ---- messages ---------------------------------------------------------------------------------------------------------- */

static void write_arguments(const json_t *arguments, struct chat_writer *w) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)arguments, key, value) {
        chat_write_literal(w, "<parameter=");
        chat_write_content(w, span_of(key));
        chat_write_literal(w, ">\n");
        chat_enter(w, true);
        print_value(w, value);
        chat_write_literal(w, "\n</parameter>\n");
    }
}

/* OpenAI sends arguments as a JSON string; this template lists them one by one and so needs the object. */
static enum err write_call(const struct chat_message *m, size_t message, size_t index, struct chat_writer *w,
                           struct reason *why) {
    struct chat_call call;
    TRY(chat_call_read(m, message, index, &call, why));
    struct span source;
    json_t *parsed = NULL;
    if (json_span(call.arguments, &source)) {
        struct reason inner;
        if (trim(source).len && json_read(source, &parsed, &inner) != ERR_NONE)
            return fail(why, ERR_FORMAT, "messages[%zu].tool_calls[%zu].arguments: %s", message, index, inner.text);
        call.arguments = parsed;
    }
    if (call.arguments && !json_is_object(call.arguments)) {
        json_decref(parsed);
        return fail(why, ERR_FORMAT, "messages[%zu].tool_calls[%zu].arguments: not a JSON object", message, index);
    }
    chat_write_literal(w, "\n<tool_call>\n<function=");
    chat_write_content(w, call.name);
    chat_write_literal(w, ">\n");
    write_arguments(call.arguments, w);
    chat_write_literal(w, "</function>\n</tool_call>");
    json_decref(parsed);
    return ERR_NONE;
}

static enum err write_assistant_calls(const struct chat_message *m, size_t index, struct chat_writer *w, struct reason *why) {
    const struct span content = trim(m->content);
    chat_write_literal(w, "<|im_start|>assistant");
    if (content.len) {
        chat_write_literal(w, "\n");
        chat_write(w, content);
        chat_write_literal(w, "\n");
    }
    for (size_t k = 0; k < json_array_size(m->calls); k++) TRY(write_call(m, index, k, w, why));
    chat_write_literal(w, "<|im_end|>\n");
    return ERR_NONE;
}

/* `first` is the first message of the loop: the template gives a tool result there no opening line. */
static void write_tool_result(const struct chat_turns *turns, size_t index, size_t first, struct chat_writer *w) {
    if (index > first && !chat_role_is(turns, index - 1, "tool")) chat_write_literal(w, "<|im_start|>user\n");
    chat_write_literal(w, "<tool_response>\n");
    chat_write_content(w, turns->items[index].content);
    chat_write_literal(w, "\n</tool_response>\n");
    if (!chat_role_is(turns, index + 1, "tool")) chat_write_literal(w, "<|im_end|>\n");
}

/* Any role is printed as it came, so that only the known ones may count as template text. */
static void write_plain(const struct chat_message *m, struct chat_writer *w) {
    const bool own = span_equal(m->role, SPAN("system")) || span_equal(m->role, SPAN("assistant"));
    chat_write_literal(w, "<|im_start|>");
    chat_enter(w, !own && !span_equal(m->role, SPAN("user")));
    text_add_span(&w->out->text, m->role);
    chat_write_literal(w, "\n");
    chat_enter(w, !own);
    text_add_span(&w->out->text, m->content);
    chat_write_literal(w, "<|im_end|>\n");
}

enum err chat_render_coder(enum chat_family family, const struct chat_turns *turns, const json_t *tools, struct chat_writer *w,
                           struct reason *why) {
    const struct wording *const as = family == CHAT_QWEN3_CODER_TOOLS ? &tools_wording : &functions_wording;
    const size_t first = chat_role_is(turns, 0, "system") ? 1 : 0;
    TRY(write_head(as, first ? &turns->items[0].content : NULL, tools, w, why));
    for (size_t i = first; i < turns->n; i++) {
        const struct chat_message *const m = &turns->items[i];
        if (m->calls && chat_role_is(turns, i, "assistant"))
            TRY(write_assistant_calls(m, i, w, why));
        else if (chat_role_is(turns, i, "tool"))
            write_tool_result(turns, i, first, w);
        else
            write_plain(m, w);
    }
    return ERR_NONE;
}
