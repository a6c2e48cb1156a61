/* The JSON pull parser: events of good texts, refusals of bad ones, at every position of its window. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json_scan.h"

/* The events of a text in short: {}[] k:text s:text n:text t f 0 (null) . (end), or ! where it is refused. */
static void trace(struct span source, size_t max_text, struct text *out, struct reason *why) {
    static struct json_scan s;
    static const char letters[] = ".{}[]ksntf0";
    json_scan_open_span(&s, "text", &source, max_text);
    for (enum scan_event event = SCAN_NULL;;) {
        if (json_scan_next(&s, &event, why) != ERR_NONE) {
            text_addf(out, "!");
            break;
        }
        text_addf(out, "%c", letters[event]);
        if (event == SCAN_KEY || event == SCAN_STRING || event == SCAN_NUMBER)
            text_addf(out, "(%.*s)", (int)s.text.len, s.text.ptr);
        if (event == SCAN_END) break;
    }
    json_scan_close(&s);
}

static void expect(const char *source, const char *events) {
    struct text out = {0};
    struct reason why = {0};
    trace(span_of(source), 1000, &out, &why);
    if (strcmp(out.ptr, events) != 0) fail_test("%s: %s, not %s (%s)", source, out.ptr, events, why.text);
    text_free(&out);
}

static void gives_events(void **state) {
    (void)state;
    expect("{}", "{}.");
    expect(" [ ] \n", "[].");
    expect("3", "n(3).");
    expect("\"a\"", "s(a).");
    expect("{\"a\": [1, -2.5e+10, true, false, null], \"b\" : {\"c\":\"d\"}}", "{k(a)[n(1)n(-2.5e+10)tf0]k(b){k(c)s(d)}}.");
    expect("[[[]], [{}]]", "[[[]][{}]].");
    expect("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "s(\"\\/\b\f\n\r\t).");
    expect("\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\"", "s(A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80).");
    expect("\"\\ud800\"", "s(\xef\xbf\xbd).");
    expect("\"\\ud800x\\udc00\"", "s(\xef\xbf\xbdx\xef\xbf\xbd).");
    expect("\"\\ud800\\n\"", "s(\xef\xbf\xbd\n).");
    expect("\"\\ud800\\ud800\\udc00\"", "s(\xef\xbf\xbd\xf0\x90\x80\x80).");
    expect("\"\xf0\x9f\x98\x80 \x7f\"", "s(\xf0\x9f\x98\x80 \x7f).");
}

static void refuses_what_is_not_json(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "[",
        "}",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{,}",
        "{1:2}",
        "{\"a\",1}",
        "[1}",
        "{\"a\":1]",
        "1 2",
        "\"a",
        "\"\\",
        "\"\\u12",
        "\"\\x\"",
        "\"\\u123x\"",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "1.5.2",
        "--1",
        "0x10",
        "NaN",
        "tru",
        "True",
        "nulll",
        "'a'",
        "\"\t\"",
        "\"\xc0\x80\"",
        "\"\xff\"",
        "\"\xed\xa0\x80\"",
        "// x",
        "\xef\xbb\xbf{}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct text out = {0};
        struct reason why = {0};
        trace(span_of(bad[i]), 1000, &out, &why);
        if (out.ptr[out.len - 1] != '!') fail_test("accepted: %s as %s", bad[i], out.ptr);
        if (!strstr(why.text, "text: at byte ")) fail_test("%s: %s", bad[i], why.text);
        text_free(&out);
    }
}

static void bounds_depth_and_text(void **state) {
    (void)state;
    struct text source = {0}, out = {0};
    struct reason why = {0};
    for (int i = 0; i < SCAN_DEPTH; i++) text_addf(&source, "[");
    for (int i = 0; i < SCAN_DEPTH; i++) text_addf(&source, "]");
    trace((struct span){source.ptr, source.len}, 10, &out, &why);
    assert_int_equal(out.ptr[out.len - 1], '.');
    text_clear(&source);
    for (int i = 0; i <= SCAN_DEPTH; i++) text_addf(&source, "[");
    trace((struct span){source.ptr, source.len}, 10, &out, &why);
    assert_non_null(strstr(why.text, "at byte 64: not valid JSON: nested too deeply"));
    text_clear(&out);
    trace(SPAN("\"1234567890\""), 10, &out, &why);
    assert_string_equal(out.ptr, "s(1234567890).");
    trace(SPAN("\"12345678901\""), 10, &out, &why);
    assert_non_null(strstr(why.text, "a text of more than 10 bytes"));
    trace(SPAN("12345678901"), 10, &out, &why);
    assert_non_null(strstr(why.text, "a text of more than 10 bytes"));
    text_free(&source);
    text_free(&out);
}

/* The same text behind any number of spaces near the window's size: no event may depend on where the window ends. */
static void forgets_nothing_between_windows(void **state) {
    (void)state;
    static const char json[] = "{\"key \xe2\x82\xac\": [12.5e-3, \"a\\ud83d\\ude00b\\n\", true], \"\": -0}";
    static const char events[] = "{k(key \xe2\x82\xac)[n(12.5e-3)s(a\xf0\x9f\x98\x80"
                                 "b\n)t]k()n(-0)}.";
    for (size_t spaces = SCAN_WINDOW - sizeof json - 2; spaces < SCAN_WINDOW + 2; spaces++) {
        struct text source = {0}, out = {0};
        struct reason why = {0};
        for (size_t i = 0; i < spaces; i++) text_add(&source, " ", 1);
        text_addf(&source, "%s", json);
        trace((struct span){source.ptr, source.len}, 100, &out, &why);
        if (strcmp(out.ptr, events) != 0) fail_test("%zu spaces: %s (%s)", spaces, out.ptr, why.text);
        text_free(&source);
        text_free(&out);
    }
    struct text source = {0}, out = {0};
    struct reason why = {0};
    text_addf(&source, "\"");
    for (int i = 0; i < 3 * SCAN_WINDOW; i++) text_addf(&source, "%c", 'a' + i % 26);
    text_addf(&source, "\"");
    trace((struct span){source.ptr, source.len}, 4 * SCAN_WINDOW, &out, &why);
    assert_int_equal(out.len, source.len - 2 + 4);
    assert_memory_equal(out.ptr + 2, source.ptr + 1, source.len - 2);
    text_free(&source);
    text_free(&out);
}

static void skips_values(void **state) {
    (void)state;
    static struct json_scan s;
    struct span source =
        SPAN("{\"a\": {\"x\": [1, {\"y\": \"a text far beyond the limit\"}]}, \"b\": 5, \"c\": [[], 1], \"d\": 6}");
    struct reason why = {0};
    enum scan_event event;
    json_scan_open_span(&s, "text", &source, 8);
    assert_int_equal(json_scan_next(&s, &event, &why), ERR_NONE); /* { */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(json_scan_next(&s, &event, &why), ERR_NONE);
        assert_int_equal(event, SCAN_KEY);
        if (i == 2) { /* from inside */
            assert_int_equal(json_scan_next(&s, &event, &why), ERR_NONE);
            assert_int_equal(event, SCAN_ARRAY);
        }
        assert_int_equal(json_scan_skip(&s, event, &why), ERR_NONE);
    }
    assert_int_equal(json_scan_next(&s, &event, &why), ERR_NONE);
    assert_true(event == SCAN_KEY && span_equal(s.text, SPAN("d")));
    assert_int_equal(s.at, 78);
    assert_int_equal(json_scan_next(&s, &event, &why), ERR_NONE);
    assert_true(event == SCAN_NUMBER);
    assert_int_equal(json_scan_skip(&s, event, &why), ERR_NONE); /* nothing to skip */
    assert_int_equal(json_scan_next(&s, &event, &why), ERR_NONE);
    assert_int_equal(event, SCAN_OBJECT_END);
    assert_int_equal(json_scan_next(&s, &event, &why), ERR_NONE);
    assert_int_equal(event, SCAN_END);
    json_scan_close(&s);
}

static void reads_numbers(void **state) {
    (void)state;
    uint64_t u;
    assert_true(json_scan_uint(SPAN("0"), &u) && u == 0);
    assert_true(json_scan_uint(SPAN("18446744073709551615"), &u) && u == UINT64_MAX);
    static const char *const bad[] = {"", "18446744073709551616", "99999999999999999999999", "-1", "1.0", "1e3", "x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(json_scan_uint(span_of(bad[i]), &u));
    assert_true(json_scan_double(SPAN("-12.5e-1")) == -1.25);
    assert_true(isnan(json_scan_double(SPAN("1000000000000000000000000000000000000000000000000000000000000000000000000"))));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_events),          cmocka_unit_test(refuses_what_is_not_json),
        cmocka_unit_test(bounds_depth_and_text), cmocka_unit_test(forgets_nothing_between_windows),
        cmocka_unit_test(skips_values),          cmocka_unit_test(reads_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
