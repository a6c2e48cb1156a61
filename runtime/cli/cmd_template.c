/* template: an OpenAI-style request on stdin -> the prompt its chat template makes, byte for byte.
 *
 * stdin: {"messages": [...], "tools": [...] or null, "kwargs": {"add_generation_prompt": true, "enable_thinking": false}}.
 * kwargs may be absent: the prompt then ends where the answer begins.
 *
 * --parse-tools is the way back: a model's answer on stdin -> the message it means.
 * stdin: {"text": "...", "tools": [...], "tool_choice": "none" or other, "finish": "stop" or "length", "think": true,
 * "format": "hermes" or "qwen3-coder"}; without a format the family decides, without either both are understood.
 * stdout: {"content", "reasoning_content" (null: none), "tool_calls": [{"name", "arguments": {...}}], "finish_reason"}. */
#include "cli/cli.h"

#include <string.h>

#include "core/json.h"
#include "text/toolcall.h"

static enum chat_family family_of(struct cli *c, const struct engine *e) {
    return e ? cli_family(c, e) : (enum chat_family)c->options->family;
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

/* A member that is true or false; *out is unchanged when it is absent or null. */
static enum err read_switch(const json_t *kwargs, const char *key, int *out, struct reason *why) {
    const json_t *value = json_object_get(kwargs, key);
    if (!value || json_is_null(value)) return ERR_NONE;
    if (!json_is_boolean(value)) return fail(why, ERR_FORMAT, "stdin: '%s' must be true or false", key);
    *out = json_is_true(value);
    return ERR_NONE;
}

static enum err read_kwargs(const json_t *kwargs, struct chat_request *out, struct reason *why) {
    int add = out->add_generation_prompt;
    if (!kwargs || json_is_null(kwargs)) return ERR_NONE;
    if (!json_is_object(kwargs)) return fail(why, ERR_FORMAT, "kwargs must be an object");
    TRY(read_switch(kwargs, "add_generation_prompt", &add, why));
    out->add_generation_prompt = add;
    return read_switch(kwargs, "enable_thinking", &out->enable_thinking, why);
}

static enum err read_request(const json_t *source, const json_t *extra_kwargs, struct chat_request *out, struct reason *why) {
    const json_t *tools = json_object_get(source, "tools");
    *out = (struct chat_request){
        .messages = json_object_get(source, "messages"), .add_generation_prompt = true, .enable_thinking = -1};
    if (!json_is_array(out->messages)) return fail(why, ERR_FORMAT, "stdin: 'messages' must be an array");
    if (tools && !json_is_null(tools) && !json_is_array(tools))
        return fail(why, ERR_FORMAT, "stdin: 'tools' must be an array or null");
    out->tools = json_is_array(tools) ? tools : NULL;
    TRY(read_kwargs(json_object_get(source, "kwargs"), out, why));
    return read_kwargs(extra_kwargs, out, why);
}

static enum err add_ids(struct cli *c, const struct engine *e, const struct chat_prompt *prompt, struct text *out,
                        struct reason *why) {
    const struct tokenizer *t;
    struct token_list ids = {0};
    TRY(cli_tokenizer(c, e, &t, why));
    const enum err code = chat_tokenize(t, prompt, &ids, why);
    for (size_t i = 0; !code && i < ids.len; i++) text_addf(out, i ? " %d" : "%d", ids.ids[i]);
    text_addf(out, "\n");
    token_list_free(&ids);
    return code;
}

static enum err render(struct cli *c, const struct engine *e, const json_t *source, struct text *out, struct reason *why) {
    json_t *extra = NULL;
    struct chat_request request;
    struct chat_prompt prompt = {0};
    enum err code = ERR_NONE;
    if (c->options->template_kwargs) code = json_read(span_of(c->options->template_kwargs), &extra, why);
    if (!code) code = read_request(source, extra, &request, why);
    if (!code) code = chat_render(family_of(c, e), &request, &prompt, why);
    if (!code && c->options->ids)
        code = add_ids(c, e, &prompt, out, why);
    else if (!code)
        text_add(out, prompt.text.ptr, prompt.text.len);
    chat_prompt_free(&prompt);
    json_decref(extra);
    return code;
}

/* ---- answers ---------------------------------------------------------------------------------------------------------- */

static void add_message(const struct toolcall *p, enum toolcall_stop stop, struct text *out) {
    const struct toolcall_result *r = toolcall_result(p);
    text_addf(out, "{\"content\": ");
    cli_add_json_string((struct span){r->content.ptr, r->content.len}, out);
    text_addf(out, ", \"reasoning_content\": ");
    if (r->reasoning.len)
        cli_add_json_string((struct span){r->reasoning.ptr, r->reasoning.len}, out);
    else
        text_addf(out, "null");
    text_addf(out, ", \"tool_calls\": [");
    for (size_t i = 0; i < r->n_calls; i++) {
        text_addf(out, i ? ", {\"name\": " : "{\"name\": ");
        cli_add_json_string((struct span){r->calls[i].name.ptr, r->calls[i].name.len}, out);
        text_addf(out, ", \"arguments\": ");
        text_add(out, r->calls[i].arguments.ptr, r->calls[i].arguments.len); /* is JSON already */
        text_addf(out, "}");
    }
    text_addf(out, "], \"finish_reason\": \"%s\"}\n", toolcall_finish_reason(p, stop));
}

/* A member that is one of two words: *out is 0 or 1, and unchanged when it is absent or null. */
static enum err read_word(const json_t *source, const char *key, const char *zero, const char *one, int *out,
                          struct reason *why) {
    const json_t *value = json_object_get(source, key);
    if (!value || json_is_null(value)) return ERR_NONE;
    const char *word = json_is_string(value) ? json_string_value(value) : "";
    if (strcmp(word, zero) != 0 && strcmp(word, one) != 0)
        return fail(why, ERR_FORMAT, "stdin: '%s' must be \"%s\" or \"%s\"", key, zero, one);
    *out = strcmp(word, one) == 0;
    return ERR_NONE;
}

static enum err read_answer(struct cli *c, const struct engine *e, const json_t *source, struct toolcall_options *out,
                            enum toolcall_stop *stop, struct reason *why) {
    const json_t *tools = json_object_get(source, "tools"), *choice = json_object_get(source, "tool_choice");
    const bool known = e || c->options->family != FAMILY_FROM_FILE;
    const enum chat_family family = known ? family_of(c, e) : CHAT_QWEN3_CODER;
    int think = false, length = false, coder = chat_family_is_coder(family);
    if (!json_is_string(json_object_get(source, "text"))) return fail(why, ERR_FORMAT, "stdin: 'text' must be a string");
    if (tools && !json_is_null(tools) && !json_is_array(tools))
        return fail(why, ERR_FORMAT, "stdin: 'tools' must be an array or null");
    TRY(read_switch(source, "think", &think, why));
    TRY(read_word(source, "finish", "stop", "length", &length, why));
    TRY(read_word(source, "format", "hermes", "qwen3-coder", &coder, why));
    *stop = length ? TOOLCALL_LENGTH : TOOLCALL_STOP;
    *out = (struct toolcall_options){.tools = json_is_array(tools) ? tools : NULL,
                                     .choice_none = json_is_string(choice) && strcmp(json_string_value(choice), "none") == 0,
                                     .coder = coder,
                                     .think = think,
                                     .inside_think = think && family == CHAT_QWEN3_THINKING};
    return ERR_NONE;
}

static enum err parse(struct cli *c, const struct engine *e, const json_t *source, struct text *out, struct reason *why) {
    struct toolcall_options options;
    struct toolcall *p = NULL;
    enum toolcall_stop stop = TOOLCALL_STOP;
    TRY(read_answer(c, e, source, &options, &stop, why));
    TRY(toolcall_open(&options, &p, why));
    const json_t *text = json_object_get(source, "text");
    enum err code = toolcall_feed(p, (struct span){json_string_value(text), json_string_length(text)}, why);
    if (!code) code = toolcall_finish(p, stop, why);
    if (!code) add_message(p, stop, out);
    toolcall_close(&p);
    return code;
}

/* ---- command ---------------------------------------------------------------------------------------------------------- */

static enum err read_stdin(json_t **out, struct reason *why) {
    struct text input = {0};
    struct reason inner = {{0}};
    enum err code = cli_read_file("-", &input, why);
    if (!code) {
        code = json_read((struct span){input.ptr, input.len}, out, &inner);
        if (code) fail(why, code, "stdin: %s", inner.text);
    }
    text_free(&input);
    if (!code && !json_is_object(*out)) code = fail(why, ERR_FORMAT, "stdin: not a JSON object");
    return code;
}

int cmd_template(struct cli *c) {
    const struct options *o = c->options;
    if (!o->model && o->family == FAMILY_FROM_FILE && !o->parse_tools)
        return cli_usage(c, "template needs --family NAME, or -m FILE to recognise it");
    if (!o->model && o->ids) return cli_usage(c, "--ids needs a tokenizer: -m FILE");
    struct reason why = {{0}};
    struct engine *e = NULL;
    json_t *source = NULL;
    struct text out = {0};
    enum err code = ERR_NONE;
    if (o->model) code = cli_open_engine(c, true, &e, &why);
    if (!code) code = read_stdin(&source, &why);
    if (!code) code = (o->parse_tools ? parse : render)(c, e, source, &out, &why);
    if (!code && out.failed) code = fail(&why, ERR_NO_MEMORY, "no memory for the answer");
    const int status = code ? cli_fail(c, code, &why) : cli_write_text(&out) ? EXIT_DONE : EXIT_FAILED;
    text_free(&out);
    json_decref(source);
    engine_close(&e);
    return status;
}
