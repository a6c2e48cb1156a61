/* libFuzzer target: model output through the tool-call parser.
 *
 *   byte 0   bit 0: coder; 1: think; 2: inside_think; 3: ended by length; 4: no tools
 *   byte 1   lengths of the feeds: seed of a small generator, 0: one byte at a time
 *   rest     the text
 *
 * However the text is cut, the result is that of one feed; what is out only grows; calls are well formed; without a call the
 * content is the text. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "text/toolcall.h"
#include "text/toolcall_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char tools_source[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"a\":{\"type\":\"string\"},"
    "\"b\":{\"type\":[\"integer\",\"null\"]},\"c\":{\"anyOf\":[{\"type\":\"object\"},{\"type\":\"array\"}]},\"d\":{\"type\":"
    "\"boolean\"}}}}},"
    "{\"name\":\"g\"}]";

static struct span view(const struct text *t) { return (struct span){t->ptr ? t->ptr : "", t->len}; }

static void run(struct toolcall *p, struct span text, unsigned seed, enum toolcall_stop stop) {
    size_t content = 0, reasoning = 0, calls = 0;
    for (size_t at = 0; at < text.len;) {
        size_t n = 1;
        if (seed) n = 1 + (seed = seed * 1103515245u + 12345u) / 65536 % 24;
        if (n > text.len - at || seed == 0x7fffffff) n = text.len - at;
        enum err err = toolcall_feed(p, (struct span){text.ptr + at, n}, NULL);
        assert(err == ERR_NONE);
        at += n;
        const struct toolcall_result *const r = toolcall_result(p);
        assert(r->content.len >= content && r->reasoning.len >= reasoning && r->n_calls >= calls);
        content = r->content.len;
        reasoning = r->reasoning.len;
        calls = r->n_calls;
    }
    const enum err err = toolcall_finish(p, stop, NULL);
    assert(err == ERR_NONE);
}

static void check_calls(const struct toolcall_result *r) {
    for (size_t i = 0; i < r->n_calls; i++) {
        const struct span arguments = view(&r->calls[i].arguments);
        assert(r->calls[i].name.len > 0 && arguments.ptr[0] == '{' && loose_json_is_value(arguments));
        for (size_t k = 0, inside = 0; k < arguments.len; k++) {
            if (arguments.ptr[k] == '"')
                inside = !inside;
            else if (inside && arguments.ptr[k] == '\\')
                k++;
            else
                assert(!inside || (unsigned char)arguments.ptr[k] >= 0x20);
        }
    }
}

static void check_same(const struct toolcall_result *a, const struct toolcall_result *b) {
    assert(span_equal(view(&a->content), view(&b->content)) && span_equal(view(&a->reasoning), view(&b->reasoning)));
    assert(a->n_calls == b->n_calls);
    for (size_t i = 0; i < a->n_calls; i++) {
        assert(span_equal(view(&a->calls[i].name), view(&b->calls[i].name)));
        assert(span_equal(view(&a->calls[i].arguments), view(&b->calls[i].arguments)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    json_t *tools;
    enum err err = json_read(SPAN(tools_source), &tools, NULL);
    assert(err == ERR_NONE);
    const uint8_t flags = data[0];
    const struct toolcall_options options = {
        .tools = flags & 16 ? NULL : tools, .coder = flags & 1, .think = flags & 2, .inside_think = flags & 4};
    const enum toolcall_stop stop = flags & 8 ? TOOLCALL_LENGTH : TOOLCALL_STOP;
    const struct span text = {(const char *)data + 2, size - 2};
    struct toolcall *whole, *pieces;
    err = toolcall_open(&options, &whole, NULL);
    assert(err == ERR_NONE);
    err = toolcall_open(&options, &pieces, NULL);
    assert(err == ERR_NONE);
    err = toolcall_feed(whole, text, NULL);
    assert(err == ERR_NONE);
    err = toolcall_finish(whole, stop, NULL);
    assert(err == ERR_NONE);
    run(pieces, text, data[1], stop);
    check_calls(toolcall_result(whole));
    check_same(toolcall_result(whole), toolcall_result(pieces));
    if (toolcall_result(whole)->n_calls == 0 && !(flags & 6)) assert(span_equal(view(&toolcall_result(whole)->content), text));
    toolcall_close(&whole);
    toolcall_close(&pieces);
    json_decref(tools);
    return 0;
}
