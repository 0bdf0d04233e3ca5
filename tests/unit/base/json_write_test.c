/* The writer: known texts, and everything it writes is read again by our own reader. */
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Reads from an exact heap copy, so that the sanitizer sees a byte too many. */
static enum status read_exactly(struct slice text, const struct json_events *events, void *data, struct err *err)
{
    struct arena arena;
    char *copy = try_alloc(text.len);
    assert_non_null(copy);
    if (text.len > 0)
        memcpy(copy, text.ptr, text.len);
    arena_create(&arena);
    enum status rc = json_read(slice_of(copy, text.len), NULL, events, data, &arena, err);
    arena_destroy(&arena);
    free(copy);
    return rc;
}

static void assert_string_written(struct slice bytes, const char *expected)
{
    struct buf out = {0};
    json_write_string(&out, bytes);
    if (!slice_eq(buf_as_slice(&out), slice_str(expected)))
        fail_msg("wrote %.*s, not %s", SLICE_FMT(buf_as_slice(&out)), expected);
    buf_free(&out);
}

static void test_write_string(void **state)
{
    (void)state;
    assert_string_written(slice_of(NULL, 0), "\"\"");
    assert_string_written(SLICE("plain text longer than eight"), "\"plain text longer than eight\"");
    assert_string_written(SLICE("\"\\/\b\f\n\r\t\x01\x1f\x7f"), "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\"");
    assert_string_written(SLICE("a\0b"), "\"a\\u0000b\"");
    assert_string_written(SLICE("चाय ☕ 😹"), "\"चाय ☕ 😹\"");
    /* one U+FFFD for each maximal ill-formed part, as Unicode 3.9 shows */
    assert_string_written(SLICE("\xFF"), "\"\xEF\xBF\xBD\"");
    assert_string_written(SLICE("a\xE0\xA4"), "\"a\xEF\xBF\xBD\"");
    assert_string_written(SLICE("\xE0\xA4\x41"), "\"\xEF\xBF\xBD\x41\"");
    assert_string_written(SLICE("\xF0\x9F\x98z"), "\"\xEF\xBF\xBDz\"");
    assert_string_written(SLICE("\xC0\xAF"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");
    assert_string_written(SLICE("\xED\xA0\x80"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
    assert_string_written(SLICE("\xF4\x90\x80\x80x"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDx\"");
}

/* Each byte at each place of a word, with plain bytes around it: what is written is always read again. */
static void test_write_string_every_byte(void **state)
{
    (void)state;
    struct err err;
    for (size_t at = 0; at < 20; at++) {
        for (int byte = 0; byte < 256; byte++) {
            char bytes[20];
            struct buf out = {0};
            memset(bytes, 'a', sizeof bytes);
            bytes[at] = (char)byte;
            json_write_string(&out, slice_of(bytes, sizeof bytes));
            assert_int_equal(read_exactly(buf_as_slice(&out), NULL, NULL, &err), OK);
            bool is_escaped = byte < 0x20 || byte == '"' || byte == '\\' || byte >= 0x80;
            assert_int_equal(out.len > sizeof bytes + 2, is_escaped);
            buf_free(&out);
        }
    }
}

static void assert_number_written(double value, const char *expected)
{
    struct buf out = {0};
    assert_int_equal(json_write_number(&out, value), OK);
    if (!slice_eq(buf_as_slice(&out), slice_str(expected)))
        fail_msg("wrote %.*s, not %s", SLICE_FMT(buf_as_slice(&out)), expected);
    buf_free(&out);
}

static void test_write_number(void **state)
{
    (void)state;
    assert_number_written(0, "0");
    assert_number_written(-0.0, "-0");
    assert_number_written(1, "1");
    assert_number_written(-17, "-17");
    assert_number_written(123456789012345, "123456789012345");
    assert_number_written(9007199254740992, "9007199254740992");
    assert_number_written(-9007199254740992, "-9007199254740992");
    assert_number_written(9007199254740994, "9.007199254740994e+15"); /* the reader refuses it as an integer */
    assert_number_written(1e16, "1e+16");
    assert_number_written(1e23, "1e+23");
    assert_number_written(0.1, "0.1");
    assert_number_written(-99.99, "-99.99");
    assert_number_written(4.5, "4.5");
    assert_number_written(1234.5678, "1234.5678");
    assert_number_written(0.0625, "0.0625");
    assert_number_written(0.1 + 0.2, "0.30000000000000004");
    assert_number_written(1.0 / 3, "0.3333333333333333");
    assert_number_written(2.0 / 3, "0.6666666666666666");
    assert_number_written(100.05, "100.05");
    assert_number_written(999999999.9999, "999999999.9999");
    assert_number_written(0.00012, "0.00012");
    assert_number_written(0.0001, "0.0001");
    assert_number_written(1e-7, "1e-07");
    assert_number_written(1.7976931348623157e308, "1.7976931348623157e+308");
    struct buf out = {0};
    assert_int_equal(json_write_number(&out, NAN), ERR);
    assert_int_equal(json_write_number(&out, INFINITY), ERR);
    assert_int_equal(json_write_number(&out, -INFINITY), ERR);
    assert_int_equal(out.len, 0);
    json_write_int(&out, INT64_MIN);
    json_write_int(&out, INT64_MAX);
    assert_true(slice_eq(buf_as_slice(&out), SLICE("-92233720368547758089223372036854775807")));
    buf_free(&out);
}

static bool keep_number(void *data, double value)
{
    memcpy(data, &value, sizeof value);
    return true;
}

/* Bit for bit through our own writer and reader, and never longer than %.17g. */
static void assert_number_survives(double value)
{
    const struct json_events events = {.on_number = keep_number};
    struct buf out = {0};
    struct err err;
    double back = NAN;
    char longest[40];
    assert_int_equal(json_write_number(&out, value), OK);
    snprintf(longest, sizeof longest, "%.17g", value);
    if (read_exactly(buf_as_slice(&out), &events, &back, &err) != OK)
        fail_msg("%.17g was written as %.*s: %s", value, SLICE_FMT(buf_as_slice(&out)), err.message);
    if (memcmp(&back, &value, sizeof value) != 0)
        fail_msg("%.17g came back as %.17g by %.*s", value, back, SLICE_FMT(buf_as_slice(&out)));
    if (fabs(value) <= 9007199254740992.0)
        assert_true(out.len <= strlen(longest));
    buf_free(&out);
}

static void test_numbers_survive(void **state)
{
    (void)state;
    uint64_t random = 88172645463325252;
    for (int i = 0; i < 100000; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        double value;
        memcpy(&value, &random, sizeof value);
        if (isfinite(value))
            assert_number_survives(value);
        assert_number_survives((double)(random >> 11));                     /* integers up to 2^53 */
        assert_number_survives((double)(int64_t)(random >> 30) / 100);      /* rupees */
        assert_number_survives((double)(int64_t)(random >> 44) / 1000 - 7); /* and what subtraction leaves */
    }
    for (double value = 4.9406564584124654e-324; value < 1e308; value *= 1.9)
        assert_number_survives(-value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_string),
        cmocka_unit_test(test_write_string_every_byte),
        cmocka_unit_test(test_write_number),
        cmocka_unit_test(test_numbers_survive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
