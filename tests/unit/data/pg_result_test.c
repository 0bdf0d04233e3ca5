/* Types and JSON, from results made up here: no server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "data/pg_result.h"
#include "pg_made_up.h"

enum { BOOL = 16, BYTEA = 17, INT8 = 20, INT4 = 23, TEXT = 25, JSONB = 3802, FLOAT8 = 701, NUMERIC = 1700 };
enum { TIMESTAMPTZ = 1184, TIMESTAMP = 1114, DATE = 1082, UUID = 2950, INT4S = 1007, TEXTS = 1009, JSONBS = 3807 };
enum { BOOLS = 1000, TIMESTAMPTZS = 1185, MY_ENUM = 16500 };

static struct pg_result *one_value(uint32_t oid, const char *text)
{
    struct pg_result *result = made_up_result(1, (const char *[]){"v"}, &oid);
    made_up_row(result, 1, &text);
    return result;
}

static void assert_shown(uint32_t oid, const char *text, const char *json)
{
    struct pg_result *result = one_value(oid, text);
    struct buf buf = {0};
    pg_result_json_value(result, 0, 0, &buf);
    buf_byte(&buf, '\0');
    assert_string_equal(buf.ptr, json);
    buf_free(&buf);
    pg_result_free(result);
}

static void test_numbers(void **state)
{
    (void)state;
    assert_shown(INT4, "-7", "-7");
    assert_shown(INT8, "99999999999999", "99999999999999");
    assert_shown(INT8, "-99999999999999", "-99999999999999");
    assert_shown(INT8, "100000000000000", "\"100000000000000\"");
    assert_shown(INT8, "-9223372036854775808", "\"-9223372036854775808\"");
    assert_shown(NUMERIC, "0", "0");
    assert_shown(NUMERIC, "12345678901234", "12345678901234");
    assert_shown(NUMERIC, "123456789012345", "\"123456789012345\"");
    assert_shown(NUMERIC, "12.50", "\"12.50\"");
    assert_shown(NUMERIC, "NaN", "\"NaN\"");
    assert_shown(FLOAT8, "1.5", "1.5");
    assert_shown(FLOAT8, "1e+20", "1e+20");
    assert_shown(FLOAT8, "-Infinity", "\"-Infinity\"");
    assert_shown(FLOAT8, "NaN", "\"NaN\"");
}

static void test_scalars(void **state)
{
    (void)state;
    assert_shown(BOOL, "t", "true");
    assert_shown(BOOL, "f", "false");
    assert_shown(TEXT, NULL, "null");
    assert_shown(TEXT, "", "\"\"");
    assert_shown(UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"");
    assert_shown(DATE, "2026-11-23", "\"2026-11-23\"");
    assert_shown(JSONB, "{\"a\": [1, null]}", "{\"a\": [1, null]}");
    assert_shown(BYTEA, "\\x00ff10", "\"AP8Q\"");
    assert_shown(BYTEA, "\\x", "\"\"");
}

static void test_times(void **state)
{
    (void)state;
    assert_shown(TIMESTAMPTZ, "2026-11-23 06:19:16.123456+00", "\"2026-11-23T06:19:16.123456Z\"");
    assert_shown(TIMESTAMPTZ, "2026-11-23 06:19:16+00", "\"2026-11-23T06:19:16Z\"");
    assert_shown(TIMESTAMPTZ, "infinity", "\"infinity\"");
    assert_shown(TIMESTAMPTZ, "-infinity", "\"-infinity\"");
    assert_shown(TIMESTAMPTZ, "0044-03-15 12:00:00+00 BC", "\"0044-03-15 12:00:00+00 BC\"");
    assert_shown(TIMESTAMP, "2026-11-23 06:19:16.5", "\"2026-11-23T06:19:16.5\"");
}

static void test_escapes(void **state)
{
    (void)state;
    assert_shown(TEXT, "plain ascii that is longer than eight", "\"plain ascii that is longer than eight\"");
    assert_shown(TEXT, "a\"b\\c", "\"a\\\"b\\\\c\"");
    assert_shown(TEXT, "tab\tnewline\nreturn\rbell\abs\bff\f", "\"tab\\tnewline\\nreturn\\rbell\\u0007bs\\bff\\f\"");
    assert_shown(TEXT, "\x01\x1f\x7f", "\"\\u0001\\u001f\x7f\"");
    assert_shown(TEXT, "चौक ☾ 𝛑", "\"चौक ☾ 𝛑\"");
    /* each position in a word, alone and beside bytes over 0x80 */
    for (size_t len = 1; len < 24; len++)
        for (size_t at = 0; at < len; at++) {
            char text[32] = {0}, json[40];
            memset(text, at % 2 ? 'x' : '\x80', len);
            text[at] = '"';
            snprintf(json, sizeof(json), "\"%.*s\\\"%s\"", (int)at, text, text + at + 1);
            assert_shown(TEXT, text, json);
        }
}

static void test_arrays(void **state)
{
    (void)state;
    assert_shown(INT4S, "{}", "[]");
    assert_shown(INT4S, "{1,NULL,-3}", "[1,null,-3]");
    assert_shown(INT4S, "{{1,2},{3,4}}", "[[1,2],[3,4]]");
    assert_shown(INT4S, "[0:1]={5,6}", "[5,6]");
    assert_shown(TEXTS, "{a,\"NULL\",\"b \\\"q\\\" \\\\\",\"\",\"{x,y}\",NULL}",
                 "[\"a\",\"NULL\",\"b \\\"q\\\" \\\\\",\"\",\"{x,y}\",null]");
    assert_shown(BOOLS, "{t,f}", "[true,false]");
    assert_shown(JSONBS, "{\"{\\\"a\\\": 1}\",null}", "[{\"a\": 1},null]");
    assert_shown(TIMESTAMPTZS, "{\"2026-11-23 06:19:16+00\"}", "[\"2026-11-23T06:19:16Z\"]");
    assert_shown(MY_ENUM, "{a,b}", "\"{a,b}\""); /* an array the table does not know: text */
}

static void test_malformed_arrays_stay_text(void **state)
{
    (void)state;
    static const char *const bad[] = {"",     "{",      "{1",   "{1,",    "{1,}", "{,1}",
                                      "{\"a", "{\"a\\", "{1}2", "[0:1]=", "1,2",  "{{{{{{{1}}}}}}}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct pg_result *result = one_value(INT4S, bad[i]);
        struct buf buf = {0};
        pg_result_json_value(result, 0, 0, &buf);
        assert_int_equal(buf.ptr[0], '"');
        buf_free(&buf);
        pg_result_free(result);
    }
}

static void test_rows(void **state)
{
    (void)state;
    struct pg_result *result = made_up_result(2, (const char *[]){"id", "a \"b\""}, (const uint32_t[]){INT4, TEXT});
    struct buf buf = {0};
    pg_result_json(result, &buf);
    assert_true(slice_eq(buf_as_slice(&buf), SLICE("[]")));
    made_up_row(result, 2, (const char *[]){"1", NULL});
    made_up_row(result, 2, (const char *[]){"2", "x"});
    buf_clear(&buf);
    pg_result_json(result, &buf);
    assert_true(
        slice_eq(buf_as_slice(&buf), SLICE("[{\"id\":1,\"a \\\"b\\\"\":null},{\"id\":2,\"a \\\"b\\\"\":\"x\"}]")));
    buf_clear(&buf);
    pg_result_json_row(result, 1, &buf);
    assert_true(slice_eq(buf_as_slice(&buf), SLICE("{\"id\":2,\"a \\\"b\\\"\":\"x\"}")));
    assert_true(pg_result_is_null(result, 0, 1));
    assert_int_equal(pg_result_column(result, 0)->type, PG_INT);
    assert_true(slice_eq(pg_result_column(result, 0)->name, SLICE("id")));
    buf_free(&buf);
    pg_result_free(result);
}

static void test_exact_json(void **state)
{
    static const struct {
        const char *json;
        bool is_exact;
    } cases[] = {
        {"", true},
        {"null", true},
        {"{\"9007199254740993\": \"1.2345678901234567890\\\"9007199254740993\"}", true}, /* keys and strings */
        {"[0.1, -1.10, 123456789012345, 1e300, 100000000000000000000000]", true},
        {"0.30000000000000004", true},
        {"9007199254740991", true},
        {"9007199254740993", false},
        {"[1, {\"a\": -0.1234567890123456789}]", false},
        {"0.00000000000000000012345678901234567890", false},
        {"1234567890123456.5", true},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (pg_json_is_exact(slice_str(cases[i].json)) != cases[i].is_exact)
            fail_msg("%s", cases[i].json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_times),   cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_arrays),  cmocka_unit_test(test_malformed_arrays_stay_text),
        cmocka_unit_test(test_rows),    cmocka_unit_test(test_exact_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
