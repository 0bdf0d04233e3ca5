#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

static void assert_holds(const struct buf *buf, const char *text)
{
    assert_int_equal(buf->len, strlen(text));
    assert_memory_equal(buf->ptr, text, buf->len);
}

static void test_empty(void **state)
{
    (void)state;
    struct buf buf = {0};
    buf_append(&buf, NULL, 0);
    buf_slice(&buf, slice_of(NULL, 0));
    buf_consume(&buf, 0);
    buf_clear(&buf);
    assert_int_equal(buf.len, 0);
    assert_null(buf.ptr);
    assert_int_equal(buf_as_slice(&buf).len, 0);
    buf_free(&buf);
}

static void test_append_grows(void **state)
{
    (void)state;
    struct buf buf = {0};
    for (int i = 0; i < 10000; i++)
        buf_byte(&buf, (char)('a' + i % 26));
    buf_lit(&buf, "!");
    assert_int_equal(buf.len, 10001);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(buf.ptr[i], 'a' + i % 26);
    assert_int_equal(buf.ptr[10000], '!');
    char *room = buf_reserve(&buf, 100000);
    memset(room, 'z', 100000); /* the sanitizer sees if it is not there */
    assert_true(buf.cap - buf.len >= 100000);
    assert_int_equal(buf.len, 10001);
    buf_free(&buf);
    assert_null(buf.ptr);
    assert_int_equal(buf.cap, 0);
}

static void test_int(void **state)
{
    (void)state;
    static const int64_t values[] = {0,     1,  9,   10,     99,         100,       101,       999,          1000,
                                     12345, -1, -10, -12345, 2147483648, INT64_MAX, INT64_MIN, INT64_MIN + 1};
    struct buf buf = {0};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        char text[32];
        snprintf(text, sizeof text, "%jd", (intmax_t)values[i]);
        buf_clear(&buf);
        buf_int(&buf, values[i]);
        assert_holds(&buf, text);
    }
    buf_free(&buf);
}

static void test_printf(void **state)
{
    (void)state;
    struct buf buf = {0};
    char expected[300];
    /* Around the first capacity, where the second formatting begins. */
    for (int width = 60; width <= 70; width++) {
        buf_free(&buf);
        buf_printf(&buf, "%*d", width, 7);
        snprintf(expected, sizeof expected, "%*d", width, 7);
        assert_holds(&buf, expected);
    }
    buf_clear(&buf);
    buf_printf(&buf, "%s-%d", "a", 1);
    buf_printf(&buf, "%.*s", SLICE_FMT(SLICE("bc")));
    assert_holds(&buf, "a-1bc");
    buf_printf(&buf, "%250s", "x");
    assert_int_equal(buf.len, 255);
    buf_free(&buf);
}

static void test_consume(void **state)
{
    (void)state;
    struct buf buf = {0};
    buf_lit(&buf, "hello world");
    buf_consume(&buf, 6);
    assert_holds(&buf, "world");
    buf_consume(&buf, 5);
    assert_int_equal(buf.len, 0);
    buf_lit(&buf, "again");
    assert_holds(&buf, "again");
    buf_free(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),  cmocka_unit_test(test_append_grows), cmocka_unit_test(test_int),
        cmocka_unit_test(test_printf), cmocka_unit_test(test_consume),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
