/* The streaming parser. One buffer holds what is not decided yet; one state says how far reading got, so that every step can
 * stop for want of input and go on later. Owns its results; one thread at a time.
 *
 *   START_THINK -> REASONING -> AFTER_THINK -> TEXT          (think only; else TEXT at once)
 *   TEXT -> OPENED -> JSON -> AFTER_JSON -> TEXT             <tool_call>{...}</tool_call>
 *              `---> FUNCTION_NAME -> BODY <-> PARAMETER_NAME -> VALUE
 *                                      `--> AFTER_FUNCTION -> TEXT, or FUNCTION_NAME again inside one block
 *
 * An attempt that fails turns its opener into text, and reading resumes right behind the opener. */
#include "text/toolcall.h"

#include <stdlib.h>
#include <string.h>

#include "text/toolcall_json.h"
#include "text/toolcall_schema.h"

enum state {
    TEXT,
    START_THINK,
    REASONING,
    AFTER_THINK,
    OPENED,
    JSON,
    AFTER_JSON,
    FUNCTION_NAME,
    BODY,
    PARAMETER_NAME,
    VALUE,
    AFTER_FUNCTION,
};

/* Of the attempts that start inside text an earlier attempt already read, so many may fail before the openers left in that
 * text count as text. It keeps work linear when text is nothing but unclosed openers; each byte is read this often at most. */
enum { MAX_RETRIES = 64 };

struct toolcall {
    const json_t *tools; /* NULL: no calls are looked for */
    bool coder;
    struct toolcall_result result;
    bool failed; /* out of memory */

    struct text held;
    size_t from;  /* held[from..) is not in the result yet; positions below are indices into `held` */
    size_t at;    /* read up to here */
    size_t solid; /* end of the last character of text that is not white space */
    size_t look;  /* how far a look ahead of `at` got, 0: none */
    enum state state;
    bool ended;
    enum toolcall_stop stop;

    bool line_blank; /* only spaces and tabs since the line began */
    bool after_call; /* no text since the last call */

    size_t opener;    /* where the attempt began */
    size_t resume;    /* where reading resumes when it fails */
    size_t horizon;   /* furthest position a failed attempt read */
    unsigned retries; /* attempts begun and failed before the horizon */
    bool in_block;    /* a <tool_call> is open */
    bool bare;        /* FUNCTION_NAME must be that of a declared tool */

    size_t name_from, value_from, object_from;
    struct loose_json json;
    struct text name, arguments, key; /* of the call being read; of the parameter being read */
    const json_t *properties;         /* declared for `name` */
    json_t *given;                    /* parameters so far: name -> JSON text of the value */
};

/* ---- small readers ------------------------------------------------------------------------------------------------------ */

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static struct span held_span(const struct toolcall *p, size_t from, size_t to) {
    return (struct span){p->held.ptr + from, to - from};
}

static struct span trim(struct span s) {
    while (s.len && is_space(*s.ptr)) s.ptr++, s.len--;
    while (s.len && is_space(s.ptr[s.len - 1])) s.len--;
    return s;
}

enum match { NO, PART, YES }; /* PART: the held text ends inside */

static enum match match(const struct toolcall *p, size_t at, struct span what) {
    const size_t left = p->held.len - at, n = left < what.len ? left : what.len;
    if (n && memcmp(p->held.ptr + at, what.ptr, n) != 0) return NO;
    return n == what.len ? YES : PART;
}

static size_t skip_space(const struct toolcall *p, size_t at) {
    while (at < p->held.len && is_space(p->held.ptr[at])) at++;
    return at;
}

static const struct span open_block = SPAN("<tool_call>"), close_block = SPAN("</tool_call>");
static const struct span open_function = SPAN("<function="), close_function = SPAN("</function>");
static const struct span open_parameter = SPAN("<parameter="), close_parameter = SPAN("</parameter>");
static const struct span open_think = SPAN("<think>"), close_think = SPAN("</think>");

/* ---- results --------------------------------------------------------------------------------------------------------------
 */

/* Give held text up to `to` out as content. White space that touches a call is dropped; segments are joined with one LF. */
static void emit(struct toolcall *p, size_t to) {
    struct text *const content = &p->result.content;
    if (p->after_call) {
        while (p->from < to && is_space(p->held.ptr[p->from])) p->from++;
        if (p->from == to) return;
        if (content->len) text_add(content, "\n", 1);
        p->after_call = false;
    }
    if (to > p->from) text_add_span(content, held_span(p, p->from, to));
    p->from = to;
}

static void add_call(struct toolcall *p) {
    struct toolcall_result *const r = &p->result;
    emit(p, p->solid > p->from ? p->solid : p->from);
    p->after_call = true;
    if (r->n_calls == r->cap) {
        const size_t cap = r->cap ? 2 * r->cap : 4;
        struct tool_call *const grown = realloc(r->calls, cap * sizeof *grown);
        if (!grown) {
            p->failed = true;
            return;
        }
        r->calls = grown;
        r->cap = cap;
    }
    struct tool_call *const call = &r->calls[r->n_calls++];
    *call = (struct tool_call){0};
    text_add(&call->name, p->name.ptr, p->name.len);
    text_add(&call->arguments, p->arguments.ptr, p->arguments.len);
    p->failed |= call->name.failed || call->arguments.failed || p->name.failed || p->arguments.failed;
}

/* ---- moving between states
 * ---------------------------------------------------------------------------------------------------- */

/* Continue at `at` in `state`. */
static bool go(struct toolcall *p, enum state state, size_t at) {
    p->state = state;
    p->at = at;
    p->look = 0;
    return true;
}

/* Plain text begins at `at`; nothing before it is text any more. */
static bool go_text(struct toolcall *p, size_t at) {
    p->from = p->solid = at;
    p->line_blank = false;
    return go(p, TEXT, at);
}

/* The opener becomes text. */
static bool give_up(struct toolcall *p) {
    if (p->at > p->horizon) p->horizon = p->at;
    p->retries++;
    p->solid = p->resume;
    p->line_blank = false;
    return go(p, TEXT, p->resume);
}

static bool start_attempt(struct toolcall *p, enum state state, size_t opener, size_t opener_len) {
    if (opener >= p->horizon) p->retries = 0;
    p->opener = opener;
    p->resume = opener + opener_len;
    if (p->retries >= MAX_RETRIES) {
        p->at = p->resume;
        return give_up(p);
    }
    p->name_from = p->resume;
    return go(p, state, p->resume);
}

/* ---- text and reasoning
 * --------------------------------------------------------------------------------------------------------- */

static bool step_text(struct toolcall *p) {
    if (!p->tools) {
        emit(p, p->held.len);
        p->at = p->held.len;
        return false;
    }
    for (; p->at < p->held.len; p->at++) {
        const char c = p->held.ptr[p->at];
        if (c == '<') {
            const enum match block = match(p, p->at, open_block);
            const enum match bare = p->coder && p->line_blank ? match(p, p->at, open_function) : NO;
            if (block == YES || bare == YES) {
                p->in_block = block == YES;
                p->bare = bare == YES;
                return start_attempt(p, block == YES ? OPENED : FUNCTION_NAME, p->at,
                                     block == YES ? open_block.len : open_function.len);
            }
            if ((block == PART || bare == PART) && !p->ended) break;
        }
        if (is_space(c)) {
            if (c == '\n') p->line_blank = true;
            continue;
        }
        p->line_blank = false;
        p->solid = p->at + 1;
    }
    emit(p, p->ended ? p->held.len : p->solid > p->from ? p->solid : p->from);
    return false;
}

static bool step_start_think(struct toolcall *p) {
    p->at = skip_space(p, p->at);
    const enum match think = match(p, p->at, open_think);
    if (think == YES) {
        p->from = p->solid = p->at + open_think.len;
        return go(p, REASONING, p->from);
    }
    if (think == PART && !p->ended) return false;
    return go(p, TEXT, 0);
}

/* Reasoning goes out without the white space around it. */
static void emit_reasoning(struct toolcall *p, size_t to) {
    if (p->result.reasoning.len == 0) p->from = skip_space(p, p->from);
    if (to <= p->from) return;
    text_add_span(&p->result.reasoning, held_span(p, p->from, to));
    p->from = to;
}

static bool step_reasoning(struct toolcall *p) {
    for (; p->at < p->held.len; p->at++) {
        const char c = p->held.ptr[p->at];
        const enum match close = c == '<' ? match(p, p->at, close_think) : NO;
        if (close == YES) {
            emit_reasoning(p, p->solid);
            return go(p, AFTER_THINK, p->at + close_think.len);
        }
        if (close == PART && !p->ended) break;
        if (!is_space(c)) p->solid = p->at + 1;
    }
    emit_reasoning(p, p->solid);
    return false;
}

static bool step_after_think(struct toolcall *p) {
    p->at = skip_space(p, p->at);
    if (p->at == p->held.len) return false;
    go_text(p, p->at);
    p->line_blank = true;
    return true;
}

/* ---- JSON body
 * -------------------------------------------------------------------------------------------------------------------- */

/* `source` as the JSON text of an object: an object, nothing, or a string that holds an object. */
static bool read_arguments(struct span source, struct text *out) {
    if (*source.ptr == '{') {
        loose_json_strict(source, out);
        return true;
    }
    if (*source.ptr != '"') {
        text_add(out, "{}", 2);
        return *source.ptr == 'n';
    }
    struct text inner = {0};
    loose_json_decode(source, &inner);
    const struct span s = trim((struct span){inner.ptr, inner.len});
    const bool object = s.len && *s.ptr == '{' && loose_json_is_value(s);
    if (object) loose_json_strict(s, out);
    if (inner.len == 0) text_add(out, "{}", 2);
    const bool good = object || inner.len == 0;
    out->failed |= inner.failed;
    text_free(&inner);
    return good;
}

/* The call that a complete object describes; false when it describes none. Of duplicate keys the last counts. */
static bool read_call(struct span object, struct text *name, struct text *arguments) {
    struct span key, value, name_source = {0}, arguments_source = SPAN("null");
    struct text plain = {0};
    for (size_t at = 0; loose_json_member(object, &at, &key, &value);) {
        text_clear(&plain);
        loose_json_decode(key, &plain);
        const struct span k = {plain.ptr, plain.len};
        if (span_equal(k, SPAN("name"))) name_source = value;
        if (span_equal(k, SPAN("arguments"))) arguments_source = value;
    }
    name->failed |= plain.failed;
    text_free(&plain);
    if (name_source.len == 0 || *name_source.ptr != '"') return false;
    loose_json_decode(name_source, name);
    return name->len > 0 && read_arguments(arguments_source, arguments);
}

static bool step_opened(struct toolcall *p) {
    p->at = skip_space(p, p->at);
    if (p->at == p->held.len) return p->ended && give_up(p);
    if (p->held.ptr[p->at] == '{') {
        p->json = (struct loose_json){0};
        p->object_from = p->at;
        return go(p, JSON, p->at);
    }
    const enum match function = match(p, p->at, open_function);
    if (function == NO || (function == PART && p->ended)) return give_up(p);
    if (function == PART) return false;
    p->name_from = p->at + open_function.len;
    return go(p, FUNCTION_NAME, p->name_from);
}

static bool step_json(struct toolcall *p) {
    while (p->at < p->held.len) {
        const enum loose_step step = loose_json_step(&p->json, p->held.ptr[p->at]);
        if (step == LOOSE_BAD) return give_up(p);
        p->at++;
        if (step == LOOSE_MORE) continue;
        text_clear(&p->name);
        text_clear(&p->arguments);
        if (!read_call(held_span(p, p->object_from, p->at), &p->name, &p->arguments)) return give_up(p);
        return go(p, AFTER_JSON, p->at);
    }
    return p->ended && give_up(p);
}

static bool finish_json(struct toolcall *p, size_t end) {
    add_call(p);
    return go_text(p, end);
}

static bool step_after_json(struct toolcall *p) {
    p->at = skip_space(p, p->at);
    const enum match close = match(p, p->at, close_block), next = match(p, p->at, open_block);
    if (close == YES) return finish_json(p, p->at + close_block.len);
    if (next == YES) return finish_json(p, p->at);
    if (close == NO && next == NO) return give_up(p);
    if (!p->ended) return false;
    return finish_json(p, close == PART ? p->held.len : p->at);
}

/* ---- XML body
 * ----------------------------------------------------------------------------------------------------------------------- */

/* Read on at *at in a name that began at `from` and ends before '>'; *name is trimmed. NO: not a name. */
static enum match read_name(struct toolcall *p, size_t from, size_t *at, struct span *name) {
    for (; *at < p->held.len; ++*at) {
        const char c = p->held.ptr[*at];
        if (c == '<' || c == '\n') return NO;
        if (c != '>') continue;
        *name = trim(held_span(p, from, *at));
        return name->len ? YES : NO;
    }
    return p->ended ? NO : PART;
}

static bool step_function_name(struct toolcall *p) {
    struct span name;
    bool declared;
    const enum match read = read_name(p, p->name_from, &p->at, &name);
    if (read == PART) return false;
    if (read == NO) return give_up(p);
    p->properties = tool_properties(p->tools, name, &declared);
    if (p->bare && !declared) return give_up(p);
    text_clear(&p->name);
    text_add_span(&p->name, name);
    json_decref(p->given);
    p->given = json_object();
    p->failed |= !p->given;
    return go(p, BODY, p->at + 1);
}

static bool finish_function(struct toolcall *p, size_t end) {
    const char *key;
    size_t key_len;
    json_t *value;
    text_clear(&p->arguments);
    json_object_keylen_foreach(p->given, key, key_len, value) {
        text_add(&p->arguments, p->arguments.len ? ", " : "{", p->arguments.len ? 2 : 1);
        json_write_string((struct span){key, key_len}, &p->arguments);
        text_add(&p->arguments, ": ", 2);
        text_add(&p->arguments, json_string_value(value), json_string_length(value));
    }
    text_add(&p->arguments, p->arguments.len ? "}" : "{}", p->arguments.len ? 1 : 2);
    add_call(p);
    p->from = p->solid = end;
    return go(p, AFTER_FUNCTION, end);
}

/* Between parameters. A </tool_call> here says as clearly as </function> that the model was done. */
static bool step_body(struct toolcall *p) {
    p->at = skip_space(p, p->at);
    const enum match parameter = match(p, p->at, open_parameter), function = match(p, p->at, close_function),
                     block = match(p, p->at, close_block);
    if (parameter == YES) {
        p->name_from = p->at + open_parameter.len;
        return go(p, PARAMETER_NAME, p->name_from);
    }
    if (function == YES) return finish_function(p, p->at + close_function.len);
    if (block == YES) return finish_function(p, p->at);
    if (parameter == NO && function == NO && block == NO) return give_up(p);
    if (!p->ended) return false;
    if (p->stop == TOOLCALL_LENGTH) {
        p->at = p->held.len;
        return give_up(p);
    }
    return finish_function(p, p->held.len);
}

static bool step_parameter_name(struct toolcall *p) {
    struct span name;
    const enum match read = read_name(p, p->name_from, &p->at, &name);
    if (read == PART) return false;
    if (read == NO) return give_up(p);
    text_clear(&p->key);
    text_add_span(&p->key, name);
    p->value_from = p->at + 1;
    return go(p, VALUE, p->value_from);
}

static bool finish_value(struct toolcall *p, size_t end, size_t next) {
    struct span v = held_span(p, p->value_from, end);
    if (v.len && *v.ptr == '\n') v.ptr++, v.len--;
    if (v.len && v.ptr[v.len - 1] == '\n') v.len--;
    struct text json = {0};
    tool_value_write(json_object_getn(p->properties, p->key.ptr, p->key.len), v, &json);
    json_t *const text = json.failed ? NULL : json_stringn_nocheck(json.ptr, json.len);
    p->failed |= json_object_setn_new_nocheck(p->given, p->key.ptr, p->key.len, text) != 0;
    text_free(&json);
    return go(p, BODY, next);
}

/* A look ahead starts at `start` unless an earlier one, stopped for want of input, got further. */
static size_t resume_look(const struct toolcall *p, size_t start) { return p->look > start ? p->look : start; }

/* Does </parameter> at `at` end the value? Only when something follows that can follow a parameter. */
static enum match closes_value(struct toolcall *p) {
    const enum match tag = match(p, p->at, close_parameter);
    if (tag != YES) return tag;
    p->look = skip_space(p, resume_look(p, p->at + close_parameter.len));
    const enum match next[] = {match(p, p->look, open_parameter), match(p, p->look, close_function),
                               match(p, p->look, close_block)};
    enum match best = NO;
    for (size_t i = 0; i < 3; i++) best = next[i] > best ? next[i] : best;
    return best == PART && p->ended ? YES : best;
}

/* Forgotten </parameter>: does the line at `at` open another parameter that is declared and not yet given? */
static enum match opens_other(struct toolcall *p) {
    const enum match tag = match(p, p->at, open_parameter);
    if (tag != YES) return tag;
    struct span name;
    const size_t from = p->at + open_parameter.len;
    p->look = resume_look(p, from);
    const enum match read = read_name(p, from, &p->look, &name);
    if (read != YES) return read;
    const bool other = json_object_getn(p->properties, name.ptr, name.len) && !json_object_getn(p->given, name.ptr, name.len) &&
                       !span_equal(name, (struct span){p->key.ptr, p->key.len});
    return other ? YES : NO;
}

/* Forgotten </parameter>: is the line at `at` the end of the function and of the block? */
static enum match ends_function(struct toolcall *p) {
    const enum match tag = match(p, p->at, close_function);
    if (tag != YES) return tag;
    p->look = skip_space(p, resume_look(p, p->at + close_function.len));
    const enum match close = match(p, p->look, close_block);
    return close == PART && p->ended && p->stop == TOOLCALL_STOP ? YES : close;
}

static bool step_value(struct toolcall *p) {
    while (p->at < p->held.len) {
        const char *const tag = memchr(p->held.ptr + p->at, '<', p->held.len - p->at);
        const size_t at = tag ? (size_t)(tag - p->held.ptr) : p->held.len;
        if (at != p->at) {
            go(p, VALUE, at);
            continue;
        }
        const bool line_start = at > p->value_from && p->held.ptr[at - 1] == '\n';
        enum match ends = closes_value(p);
        if (ends == YES) return finish_value(p, at, at + close_parameter.len);
        if (ends == NO && line_start) ends = opens_other(p);
        if (ends == NO && line_start) ends = ends_function(p);
        if (ends == YES) return finish_value(p, at, at);
        if (ends == PART && !p->ended) return false;
        go(p, VALUE, at + 1);
    }
    return p->ended && give_up(p);
}

/* The call is out. An orphan </tool_call> is swallowed, a cut one at the end is dropped. */
static bool step_after_function(struct toolcall *p) {
    p->at = skip_space(p, p->at);
    const enum match close = match(p, p->at, close_block), next = p->in_block ? match(p, p->at, open_function) : NO;
    if (close == YES) return go_text(p, p->at + close_block.len);
    if (next == YES) {
        p->from = p->solid = p->at;
        return start_attempt(p, FUNCTION_NAME, p->at, open_function.len);
    }
    if (!p->ended && (close == PART || next == PART)) return false;
    return go_text(p, p->ended && close == PART ? p->held.len : p->from);
}

/* ---- the machine
 * ---------------------------------------------------------------------------------------------------------------------- */

/* Read on; false when more input is needed. */
static bool step(struct toolcall *p) {
    switch (p->state) {
    case TEXT: return step_text(p);
    case START_THINK: return step_start_think(p);
    case REASONING: return step_reasoning(p);
    case AFTER_THINK: return step_after_think(p);
    case OPENED: return step_opened(p);
    case JSON: return step_json(p);
    case AFTER_JSON: return step_after_json(p);
    case FUNCTION_NAME: return step_function_name(p);
    case BODY: return step_body(p);
    case PARAMETER_NAME: return step_parameter_name(p);
    case VALUE: return step_value(p);
    case AFTER_FUNCTION: return step_after_function(p);
    }
    return false;
}

/* Forget what went out. Only outside attempts, where no other position is in use. */
static void drop_read(struct toolcall *p) {
    if (p->from == 0 || (p->state != TEXT && p->state != REASONING)) return;
    memmove(p->held.ptr, p->held.ptr + p->from, p->held.len - p->from);
    p->held.len -= p->from;
    p->at -= p->from;
    p->solid = p->solid > p->from ? p->solid - p->from : 0;
    p->horizon = p->horizon > p->from ? p->horizon - p->from : 0;
    p->from = 0;
}

static enum err advance(struct toolcall *p, struct reason *why) {
    while (!p->failed && !p->held.failed && step(p)) {
    }
    drop_read(p);
    const bool failed = p->failed || p->held.failed || p->name.failed || p->arguments.failed || p->key.failed ||
                        p->result.content.failed || p->result.reasoning.failed;
    return failed ? fail(why, ERR_NO_MEMORY, "no memory to parse the model's output") : ERR_NONE;
}

enum err toolcall_open(const struct toolcall_options *options, struct toolcall **out, struct reason *why) {
    *out = calloc_checked(1, sizeof **out);
    if (!*out) return fail(why, ERR_NO_MEMORY, "no memory for a tool call parser");
    const bool wanted = !options->choice_none && json_array_size(options->tools) > 0;
    **out = (struct toolcall){
        .tools = wanted ? options->tools : NULL,
        .coder = options->coder,
        .state = options->inside_think ? REASONING
                 : options->think      ? START_THINK
                                       : TEXT,
        .line_blank = true,
    };
    return ERR_NONE;
}

void toolcall_close(struct toolcall **parser) {
    struct toolcall *const p = *parser;
    if (!p) return;
    for (size_t i = 0; i < p->result.n_calls; i++) {
        text_free(&p->result.calls[i].name);
        text_free(&p->result.calls[i].arguments);
    }
    free(p->result.calls);
    json_decref(p->given);
    text_free(&p->result.content);
    text_free(&p->result.reasoning);
    text_free(&p->held);
    text_free(&p->name);
    text_free(&p->arguments);
    text_free(&p->key);
    free(p);
    *parser = NULL;
}

enum err toolcall_feed(struct toolcall *p, struct span text, struct reason *why) {
    text_add_span(&p->held, text);
    return advance(p, why);
}

enum err toolcall_finish(struct toolcall *p, enum toolcall_stop stop, struct reason *why) {
    p->ended = true;
    p->stop = stop;
    return advance(p, why);
}

const struct toolcall_result *toolcall_result(const struct toolcall *p) { return &p->result; }

const char *toolcall_finish_reason(const struct toolcall *p, enum toolcall_stop stop) {
    if (stop == TOOLCALL_LENGTH) return "length";
    return p->result.n_calls ? "tool_calls" : "stop";
}
