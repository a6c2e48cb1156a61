/* Tool-call parsing against reference outputs, under every way to cut them into feeds, and cases of our own. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/jsonl.h"
#include "text/toolcall.h"
#include "text/toolcall_json.h"

/* ---- helpers ----------------------------------------------------------------------------------------------------------------
 */

static struct span view(const struct text *t) { return (struct span){t->ptr ? t->ptr : "", t->len}; }

static size_t next_code_point(struct span s, size_t at) {
    for (at++; at < s.len && ((unsigned char)s.ptr[at] & 0xc0) == 0x80; at++) {
    }
    return at;
}

struct parse {
    struct toolcall_options options;
    enum toolcall_stop stop;
    struct span label;
};

static struct toolcall *open_parser(const struct parse *how) {
    struct toolcall *p;
    struct reason why = {""};
    assert_int_equal(toolcall_open(&how->options, &p, &why), ERR_NONE);
    return p;
}

static void feed(struct toolcall *p, struct span text) {
    struct reason why = {""};
    assert_int_equal(toolcall_feed(p, text, &why), ERR_NONE);
}

static void finish(struct toolcall *p, enum toolcall_stop stop) {
    struct reason why = {""};
    assert_int_equal(toolcall_finish(p, stop, &why), ERR_NONE);
}

/* Feed `text` with cuts where `cut_at` says: 0 none, SIZE_MAX at every code point, else before that byte. After each feed
 * what is out must be a prefix of `content` and `reasoning`, the final ones. */
static struct toolcall *parse_in_pieces(const struct parse *how, struct span text, size_t cut_at, struct span content,
                                        struct span reasoning) {
    struct toolcall *const p = open_parser(how);
    for (size_t at = 0; at < text.len;) {
        size_t end = cut_at == SIZE_MAX ? next_code_point(text, at) : at < cut_at ? cut_at : text.len;
        feed(p, (struct span){text.ptr + at, end - at});
        at = end;
        if (!span_starts(content, view(&toolcall_result(p)->content)) ||
            !span_starts(reasoning, view(&toolcall_result(p)->reasoning)))
            fail_test("%.*s: after %zu bytes too much is out: \"%s\"", (int)how->label.len, how->label.ptr, at,
                      toolcall_result(p)->content.ptr);
    }
    finish(p, how->stop);
    return p;
}

/* Equal as JSON with numbers by value; jansson tells 1000 from 1000.0. */
static bool same_value(const json_t *a, const json_t *b) {
    struct span x, y;
    size_t i;
    const char *key;
    json_t *child;
    if (json_big_integer(a, &x) && json_big_integer(b, &y)) return span_equal(x, y);
    if (json_is_integer(a) && json_is_integer(b)) return json_integer_value(a) == json_integer_value(b);
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    if (!json_is_object(a) && !json_is_array(a)) return json_equal(a, b);
    if (json_typeof(a) != json_typeof(b) || json_object_size(a) != json_object_size(b) ||
        json_array_size(a) != json_array_size(b))
        return false;
    json_object_foreach((json_t *)a, key, child) if (!same_value(child, json_object_get(b, key))) return false;
    json_array_foreach(a, i, child) if (!same_value(child, json_array_get(b, i))) return false;
    return true;
}

static void check_calls(const struct parse *how, const struct toolcall_result *r, const json_t *calls) {
    if (r->n_calls != json_array_size(calls))
        fail_test("%.*s: %zu calls, content \"%s\"", (int)how->label.len, how->label.ptr, r->n_calls, r->content.ptr);
    for (size_t i = 0; i < r->n_calls; i++) {
        const json_t *const want = json_array_get(calls, i);
        assert_true(span_equal(view(&r->calls[i].name), jsonl_text(want, "name")));
        json_t *got;
        struct reason why = {""};
        if (json_read(view(&r->calls[i].arguments), &got, &why) != ERR_NONE)
            fail_test("%s: %s", r->calls[i].arguments.ptr, why.text);
        if (!same_value(got, json_object_get(want, "arguments")))
            fail_test("%.*s: arguments %s", (int)how->label.len, how->label.ptr, r->calls[i].arguments.ptr);
        json_decref(got);
    }
}

/* ---- reference lines
 * ------------------------------------------------------------------------------------------------------------ */

static enum toolcall_stop stop_of(const json_t *line) {
    return span_equal(jsonl_text(line, "finish"), SPAN("length")) ? TOOLCALL_LENGTH : TOOLCALL_STOP;
}

static struct parse read_options(const json_t *line) {
    struct span choice = {0};
    json_span(json_object_get(line, "tool_choice"), &choice);
    return (struct parse){
        .options = {.tools = json_object_get(line, "tools"),
                    .choice_none = span_equal(choice, SPAN("none")),
                    .coder = span_equal(jsonl_text(line, "format"), SPAN("qwen3-coder")),
                    .think = json_is_true(json_object_get(line, "think")),
                    .inside_think = json_is_true(json_object_get(line, "inside_think"))},
        .stop = stop_of(line),
        .label = jsonl_text(line, "id"),
    };
}

static void check_prefixes(const struct parse *how, struct span text, const json_t *expected) {
    size_t i, at = 0;
    const json_t *row;
    json_array_foreach(expected, i, row) {
        struct span content, reasoning;
        assert_int_equal(json_integer_value(json_array_get(row, 0)), i);
        assert_true(json_span(json_array_get(row, 2), &content));
        assert_true(json_span(json_array_get(row, 3), &reasoning));
        for (int mode = 0; mode < 2; mode++) {
            struct toolcall *p = parse_in_pieces(how, (struct span){text.ptr, at}, mode ? SIZE_MAX : 0, content, reasoning);
            const struct toolcall_result *const r = toolcall_result(p);
            if (r->n_calls != (size_t)json_integer_value(json_array_get(row, 1)) || !span_equal(view(&r->content), content) ||
                !span_equal(view(&r->reasoning), reasoning))
                fail_test("%.*s, %zu code points: %zu calls, content \"%s\", want \"%.*s\"", (int)how->label.len,
                          how->label.ptr, i, r->n_calls, r->content.ptr, (int)content.len, content.ptr);
            toolcall_close(&p);
        }
        at = at < text.len ? next_code_point(text, at) : at;
    }
}

static void check_line(const json_t *line, void *ctx) {
    (void)ctx;
    const struct parse how = read_options(line);
    const struct span text = jsonl_text(line, "text");
    const json_t *const expected = json_object_get(line, "expected"), *const prefixes =
                                                                          json_object_get(line, "expected_by_prefix");
    if (prefixes) {
        check_prefixes(&how, text, prefixes);
        return;
    }
    const struct span content = jsonl_text(expected, "content");
    struct span reasoning = {"", 0};
    if (json_object_get(expected, "reasoning_content")) reasoning = jsonl_text(expected, "reasoning_content");
    for (size_t cut = 0; cut <= text.len; cut = cut < text.len ? next_code_point(text, cut) : SIZE_MAX - 1) {
        struct toolcall *p = parse_in_pieces(&how, text, cut == text.len ? SIZE_MAX : cut, content, reasoning);
        const struct toolcall_result *const r = toolcall_result(p);
        if (!span_equal(view(&r->content), content))
            fail_test("%.*s cut at %zu: content \"%s\", want \"%.*s\"", (int)how.label.len, how.label.ptr, cut, r->content.ptr,
                      (int)content.len, content.ptr);
        if (!span_equal(view(&r->reasoning), reasoning))
            fail_test("%.*s: reasoning \"%s\"", (int)how.label.len, how.label.ptr, r->reasoning.ptr);
        check_calls(&how, r, json_object_get(expected, "tool_calls"));
        assert_true(span_equal(span_of(toolcall_finish_reason(p, how.stop)), jsonl_text(expected, "finish_reason")));
        toolcall_close(&p);
    }
}

static void test_reference(void **state) {
    (void)state;
    if (jsonl_each(SHARED_DIR "/golden/toolcall/public.jsonl", check_line, NULL) > 0) return;
    print_message("skipped: no " SHARED_DIR "/golden/toolcall\n");
    skip();
}

static void test_own_cases(void **state) {
    (void)state;
    assert_true(jsonl_each(TESTS_DIR "/golden/toolcall/cases.jsonl", check_line, NULL) > 40);
}

/* ---- arguments text
 * -------------------------------------------------------------------------------------------------------------- */

/* One call, no content; its arguments byte for byte. */
static void check_arguments(const char *text, const char *want) {
    json_t *tools;
    struct reason why = {""};
    assert_int_equal(
        json_read(SPAN("[{\"name\":\"f\",\"parameters\":{\"properties\":{\"i\":{\"type\":\"integer\"}}}}]"), &tools, &why),
        ERR_NONE);
    const struct parse how = {.options = {.tools = tools, .coder = true}, .label = span_of(text)};
    struct toolcall *p = parse_in_pieces(&how, span_of(text), SIZE_MAX, SPAN(""), SPAN(""));
    assert_int_equal(toolcall_result(p)->n_calls, 1);
    assert_string_equal(toolcall_result(p)->calls[0].arguments.ptr, want);
    toolcall_close(&p);
    json_decref(tools);
}

static void test_arguments_text(void **state) {
    (void)state;
    check_arguments(
        "<tool_call>{\"name\":\"f\",\"arguments\": {\"b\" :1.50,\"a\":[ ], \"\\u0041\":\"\\/\\ufFfD\"} }</tool_call>",
        "{\"b\" :1.50,\"a\":[ ], \"\\u0041\":\"\\/\\ufFfD\"}");
    check_arguments("<tool_call>{\"name\":\"f\",\"arguments\":{\"n\":123456789012345678901234567890}}",
                    "{\"n\":123456789012345678901234567890}");
    check_arguments("<tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"a\nb\x01\"}}", "{\"s\":\"a\\nb\\u0001\"}");
    check_arguments("<tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"\\ud83d\\ude42\\ud83d \\ude42\"}}",
                    "{\"s\":\"\\ud83d\\ude42\\ufffd \\ufffd\"}");
    check_arguments("<tool_call>{\"n\\u0061me\":\"f\",\"arguments\":\" {\\\"s\\\": \\\"\\\\n\\\"} \"}", "{\"s\": \"\\n\"}");
    check_arguments("<function=f>\n<parameter=i>\n7\n</parameter>\n<parameter=s>\n\"q\"\t\\\n</parameter>\n</function>",
                    "{\"i\": 7, \"s\": \"\\\"q\\\"\\t\\\\\"}");
    check_arguments("<function=f>\n<parameter=i>\n5.0\n</parameter>\n</function>", "{\"i\": 5.0}");
    check_arguments("<function=f>\n<parameter=i>\n123456789012345678901234567890\n</parameter>\n</function>",
                    "{\"i\": 123456789012345678901234567890}");
    check_arguments("<function=f>\n</function>", "{}");
}

/* ---- the JSON validator
 * ------------------------------------------------------------------------------------------------------------ */

static void test_loose_json(void **state) {
    (void)state;
    static const char *const good[] = {"{}",
                                       "[]",
                                       "0",
                                       "-0",
                                       "10",
                                       "1.5",
                                       "1e3",
                                       "1E-03",
                                       "-0.0e+1",
                                       "true",
                                       "false",
                                       "null",
                                       "\"\"",
                                       "\"a\nb\"",
                                       "\"\\u00e9\\\\\"",
                                       "[1,[2, {\"a\" : null}],\n\"x\"]",
                                       "{\"a\":{},\"a\":[]}"};
    static const char *const bad[] = {"",     " 1",      "1 ",       "01",          "+1",    "1.",    ".5",
                                      "1e",   "1e+",     "--1",      "tru",         "truex", "nul",   "True",
                                      "NaN",  "\"",      "\"\\x\"",  "\"\\u12g4\"", "{",     "{]",    "[}",
                                      "[1,]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}",  "{a:1}", "[1 2]", "{}{}",
                                      "[],",  "'a'",     "]",        "{\"a\" 1}",   "{,}",   "[,1]"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!loose_json_is_value(span_of(good[i]))) fail_test("refused: %s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (loose_json_is_value(span_of(bad[i]))) fail_test("taken: %s", bad[i]);
    for (int depth = LOOSE_JSON_DEPTH; depth <= LOOSE_JSON_DEPTH + 1; depth++) {
        struct text t = {0};
        for (int i = 0; i < depth; i++) text_add(&t, "[", 1);
        for (int i = 0; i < depth; i++) text_add(&t, "]", 1);
        assert_int_equal(loose_json_is_value(view(&t)), depth <= LOOSE_JSON_DEPTH);
        text_free(&t);
    }
}

/* ---- hostile lengths
 * ----------------------------------------------------------------------------------------------------------------- */

/* Texts of a megabyte that would take minutes if anything were read once per opener, byte or parameter. No clock is read:
 * the test's time limit is the check. */
static void check_long(const char *head, const char *unit, const char *tail, size_t size, size_t calls) {
    json_t *tools;
    struct reason why = {""};
    assert_int_equal(json_read(SPAN("[{\"name\":\"f\",\"parameters\":{\"properties\":{\"a\":{},\"b\":{}}}}]"), &tools, &why),
                     ERR_NONE);
    struct text t = {0};
    text_add(&t, head, strlen(head));
    for (size_t i = 0; t.len < size; i++) {
        for (const char *c = unit; *c; c++) {
            if (*c == '#')
                text_addf(&t, "%zu", i);
            else
                text_add(&t, c, 1);
        }
    }
    text_add(&t, tail, strlen(tail));
    const struct parse how = {.options = {.tools = tools, .coder = true, .think = true}, .label = span_of(unit)};
    for (size_t cut = 0; cut < 2; cut++) {
        struct toolcall *p = open_parser(&how);
        for (size_t at = 0, step = cut ? 1 : t.len; at < t.len; at += step) feed(p, (struct span){t.ptr + at, step});
        finish(p, TOOLCALL_STOP);
        if (toolcall_result(p)->n_calls != calls) fail_test("\"%s\": %zu calls", unit, toolcall_result(p)->n_calls);
        if (calls == 0) assert_true(span_equal(view(&toolcall_result(p)->content), view(&t)));
        toolcall_close(&p);
    }
    text_free(&t);
    json_decref(tools);
}

static void test_long_texts(void **state) {
    (void)state;
    const size_t size = 1 << 20;
    check_long("", "<tool_call>", "", size, 0);
    check_long("", "<tool_call>{\"", "", size, 0);
    check_long("", "<tool_call>\n<function=f>\n<parameter=a>\n", "", size, 0);
    check_long("", "\n<function=f>\n<parameter=a>\nx</parameter>\n<parameter=<", "", size, 0);
    check_long("", "<tool_call>\n<function=f>\n<parameter=a>\n</parameter> ", "x", size, 0);
    check_long("", " ", "", size, 0);
    check_long("x", "\n", "", size, 0);
    check_long("<tool_call>", " ", "", size, 0);
    check_long("<tool_call><function=f><parameter=a>\n</parameter>", " ", "x", size, 0);
    check_long("<tool_call><function=f><parameter=a>\n<parameter=", "y", "", size, 0);
    check_long("<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"", "\\\"<tool_call>", "\"}}", size, 1);
    check_long("<function=f>", "<parameter=p#>\n\n</parameter>", "</function>", size, 1);
    check_long("<function=f><parameter=a>", "\n<parameter=a>\n</function>", "</parameter></function>", size, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),  cmocka_unit_test(test_own_cases),  cmocka_unit_test(test_arguments_text),
        cmocka_unit_test(test_loose_json), cmocka_unit_test(test_long_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
