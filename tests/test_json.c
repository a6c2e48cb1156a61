/* Tests of core/json.c: strict reading with reasons, exact integers, Python's spellings. */
#include "tests/support/check.h"

#include <string.h>

#include "core/json.h"

static json_t *read_ok(struct span source) {
    json_t *value;
    struct reason why = {0};
    if (json_read(source, &value, &why) != ERR_NONE) fail_test("%.*s: %s", (int)source.len, source.ptr, why.text);
    return value;
}

static void check_dumps(const char *source, const char *want) {
    json_t *const value = read_ok(span_of(source));
    struct text out = {0};
    json_write_python(value, &out);
    assert_string_equal(out.ptr, want);
    text_free(&out);
    json_decref(value);
}

static void check_str(const char *source, const char *want) {
    json_t *const value = read_ok(span_of(source));
    struct text out = {0};
    json_write_python_str(value, &out);
    assert_string_equal(out.ptr ? out.ptr : "", want);
    text_free(&out);
    json_decref(value);
}

static void check_double(double value, const char *want) {
    struct text out = {0};
    json_write_double(value, &out);
    assert_string_equal(out.ptr, want);
    text_free(&out);
}

static void test_dumps(void **state) {
    (void)state;
    check_dumps("{\"b\":1,\"a\":[1,2.0,{\"k\":[]},{}],\"c\":null}",
                "{\"b\": 1, \"a\": [1, 2.0, {\"k\": []}, {}], \"c\": null}");
    check_dumps("\"\\u0001\\b\\f\\n\\r\\t\\\"\\\\\\/\\u007f\\u2028\\u00e9\"",
                "\"\\u0001\\b\\f\\n\\r\\t\\\"\\\\/\x7f\xe2\x80\xa8\xc3\xa9\"");
    check_dumps("[true,false,-0,1e3,1E+2,\"\"]", "[true, false, 0, 1000.0, 100.0, \"\"]");
    check_dumps("{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}");
    check_dumps("\"a\\u0000b\"", "\"a\\u0000b\"");
}

static void test_str(void **state) {
    (void)state;
    check_str("true", "True");
    check_str("null", "None");
    check_str("\"it's raw\"", "it's raw");
    check_str("[\"string\", \"null\"]", "['string', 'null']");
    check_str("{\"a\":[1.0,false,null]}", "{'a': [1.0, False, None]}");
    check_str("[\"it's\",\"a\\\"b\",\"'\\\"\",\"\\\\\\n\\u0001\\u00a0\\u200b\\u6f22\\ud83d\\ude42\"]",
              "[\"it's\", 'a\"b', '\\'\"', '\\\\\\n\\x01\\xa0\\u200b\xe6\xbc\xa2\xf0\x9f\x99\x82']");
    check_str("\"\"", "");
}

static void test_doubles(void **state) {
    (void)state;
    check_double(0.0, "0.0");
    check_double(-0.0, "-0.0");
    check_double(1.0, "1.0");
    check_double(0.1, "0.1");
    check_double(0.1 + 0.2, "0.30000000000000004");
    check_double(1e-7, "1e-07");
    check_double(0.0001, "0.0001");
    check_double(0.00012345, "0.00012345");
    check_double(0.00001, "1e-05");
    check_double(1e15, "1000000000000000.0");
    check_double(1e16, "1e+16");
    check_double(123456789012345680.0, "1.2345678901234568e+17");
    check_double(-2.5e-300, "-2.5e-300");
    check_double(5e-324, "5e-324");
    check_double(1.7976931348623157e308, "1.7976931348623157e+308");
    check_double(0x1p-44, "5.684341886080802e-14"); /* the nearest 16-digit decimal does not read back here */
    check_double(9007199254740993.0, "9007199254740992.0");
    check_double(99.5, "99.5");
    check_double(1.0 / 0.0, "Infinity");
}

static void test_big_integers(void **state) {
    (void)state;
    check_dumps("[9223372036854775807,9223372036854775808,-9223372036854775808,-9223372036854775809]",
                "[9223372036854775807, 9223372036854775808, -9223372036854775808, -9223372036854775809]");
    check_dumps("{\"n\":123456789012345678901234567890,\"s\":\"123456789012345678901234567890\"}",
                "{\"n\": 123456789012345678901234567890, \"s\": \"123456789012345678901234567890\"}");
    check_str("12345678901234567890", "12345678901234567890");
    /* Text that looks like the stand-in of a big integer stays text, also where a real one forces the rewriting. */
    check_dumps("[\"\\u0000123\",\"\\u0000\\u0000x\",12345678901234567890]",
                "[\"\\u0000123\", \"\\u0000\\u0000x\", 12345678901234567890]");
    json_t *const value = read_ok(SPAN("12345678901234567890"));
    struct span s;
    assert_false(json_span(value, &s));
    assert_int_equal(s.len, 0);
    assert_true(json_big_integer(value, &s));
    assert_true(span_equal(s, SPAN("12345678901234567890")));
    json_decref(value);
}

static void test_surrogates(void **state) {
    (void)state;
    check_dumps("\"\\ud83d\\ude42\"", "\"\xf0\x9f\x99\x82\"");
    check_dumps("\"a\\ud83d\"", "\"a\xef\xbf\xbd\"");
    check_dumps("[\"\\ude42b\\ud83d\\u0041\"]", "[\"\xef\xbf\xbd"
                                                "b\xef\xbf\xbd"
                                                "A\"]");
}

static void check_refused(struct span source, const char *hint) {
    json_t *value;
    struct reason why = {0};
    assert_int_equal(json_read(source, &value, &why), ERR_FORMAT);
    assert_null(value);
    if (!strstr(why.text, hint)) fail_test("\"%s\" does not say \"%s\"", why.text, hint);
}

static void test_refusals(void **state) {
    (void)state;
    check_refused(SPAN(""), "line 1");
    check_refused(SPAN("{\"a\":1,}"), "byte ");
    check_refused(SPAN("[1,\n2,\n x]"), "line 3");
    check_refused(SPAN("[1] 2"), "line 1");
    check_refused(SPAN("\"\xff\""), "decode byte 0xff");
    check_refused(SPAN("\"raw\nnewline\""), "line 1");
    check_refused(SPAN("[01]"), "line 1");
    check_refused(SPAN("NaN"), "line 1");
    check_refused(SPAN("1e999"), "overflow");
    check_refused(SPAN("[12345678901234567890,12345678901234567890x]"), "byte 4");
    check_refused(SPAN("[12345678901234567890 \"\\"), "line 1");
    struct text deep = {0};
    for (int i = 0; i < 100000; i++) text_add(&deep, "[", 1);
    check_refused((struct span){deep.ptr, deep.len}, "depth");
    text_free(&deep);
}

static void test_write_string(void **state) {
    (void)state;
    struct text out = {0};
    json_write_string(SPAN("a\"\\\n\x1f\0b\x7f"), &out);
    assert_string_equal(out.ptr, "\"a\\\"\\\\\\n\\u001f\\u0000b\x7f\"");
    text_free(&out);
    json_write_string((struct span){0}, &out);
    assert_string_equal(out.ptr, "\"\"");
    text_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dumps),        cmocka_unit_test(test_str),        cmocka_unit_test(test_doubles),
        cmocka_unit_test(test_big_integers), cmocka_unit_test(test_surrogates), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_write_string),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
