/* template: an OpenAI-style request on stdin -> the prompt its chat template makes, byte for byte.
 *
 * stdin: {"messages": [...], "tools": [...] or null, "kwargs": {"add_generation_prompt": true, "enable_thinking": false}}.
 * kwargs may be absent: the prompt then ends where the answer begins. */
#include "cli/cli.h"
#include "core/json.h"

/* A member that is true or false; *out is unchanged when it is absent or null. */
static enum err read_switch(const json_t *kwargs, const char *key, int *out, struct reason *why) {
    const json_t *value = json_object_get(kwargs, key);
    if (!value || json_is_null(value)) return ERR_NONE;
    if (!json_is_boolean(value)) return fail(why, ERR_FORMAT, "kwargs: '%s' must be true or false", key);
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
    const enum chat_family family = e ? cli_family(c, e) : (enum chat_family)c->options->family;
    json_t *extra = NULL;
    struct chat_request request;
    struct chat_prompt prompt = {0};
    enum err code = ERR_NONE;
    if (c->options->template_kwargs) code = json_read(span_of(c->options->template_kwargs), &extra, why);
    if (!code) code = read_request(source, extra, &request, why);
    if (!code) code = chat_render(family, &request, &prompt, why);
    if (!code && c->options->ids)
        code = add_ids(c, e, &prompt, out, why);
    else if (!code)
        text_add(out, prompt.text.ptr, prompt.text.len);
    chat_prompt_free(&prompt);
    json_decref(extra);
    return code;
}

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
    if (o->parse_tools) return cli_usage(c, "--parse-tools is not in this build yet");
    if (!o->model && o->family == FAMILY_FROM_FILE)
        return cli_usage(c, "template needs --family NAME, or -m FILE to recognise it");
    if (!o->model && o->ids) return cli_usage(c, "--ids needs a tokenizer: -m FILE");
    struct reason why = {{0}};
    struct engine *e = NULL;
    json_t *source = NULL;
    struct text out = {0};
    enum err code = ERR_NONE;
    if (o->model) code = cli_open_engine(c, true, &e, &why);
    if (!code) code = read_stdin(&source, &why);
    if (!code) code = render(c, e, source, &out, &why);
    if (!code && out.failed) code = fail(&why, ERR_NO_MEMORY, "no memory for the answer");
    const int status = code ? cli_fail(c, code, &why) : cli_write_text(&out) ? EXIT_DONE : EXIT_FAILED;
    text_free(&out);
    json_decref(source);
    engine_close(&e);
    return status;
}
