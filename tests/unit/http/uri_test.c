#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "http/uri.h"

static struct arena arena;

static int begin(void **state)
{
    (void)state;
    arena_create(&arena);
    return 0;
}

static int end(void **state)
{
    (void)state;
    arena_destroy(&arena);
    return 0;
}

static void check_decode(const char *text, bool plus, const char *expected)
{
    struct slice out = SLICE("untouched");
    enum status status = http_uri_decode(slice_str(text), plus, &arena, &out);
    if (!expected) {
        assert_int_equal(status, ERR);
        assert_true(slice_eq(out, SLICE("untouched")));
        return;
    }
    assert_int_equal(status, OK);
    assert_int_equal(out.len, strlen(expected));
    assert_memory_equal(out.ptr, expected, out.len);
}

static void test_decode(void **state)
{
    (void)state;
    check_decode("", false, "");
    check_decode("plain-text_~.", false, "plain-text_~.");
    check_decode("a%20b", false, "a b");
    check_decode("%e0%A4%85", false, "\xe0\xa4\x85");
    check_decode("a+b", false, "a+b");
    check_decode("a+b%2B", true, "a b+");
    check_decode("%2f%2F", false, "//");
    check_decode("%25zz", false, "%zz");
}

static void test_decode_refuses(void **state)
{
    (void)state;
    const char *bad[] = {"%",     "%4",  "a%",  "%zz",     "%4g",       "%g4",    "%-1",     "%00",
                         "a%00b", "% 1", "%ff", "a%e0%a4", "%ed%a0%80", "%c0%80", "raw\xff", "+\xff"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        check_decode(bad[i], true, NULL);
}

static void test_decode_borrows_when_it_can(void **state)
{
    (void)state;
    struct slice text = SLICE("nothing"), out;
    assert_int_equal(http_uri_decode(text, true, &arena, &out), OK);
    assert_ptr_equal(out.ptr, text.ptr);
    assert_int_equal(arena.used, 0);
}

static void test_pairs(void **state)
{
    (void)state;
    struct slice rest = SLICE("a=1&&b=two+words&c&=x&d==&e=%26%3D&"), name, value;
    const char *expected[][2] = {{"a", "1"}, {"b", "two words"}, {"c", ""}, {"", "x"}, {"d", "="}, {"e", "&="}};
    for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
        assert_int_equal(http_uri_next_pair(&rest, &arena, &name, &value), OK);
        assert_true(slice_eq(name, slice_str(expected[i][0])));
        assert_true(slice_eq(value, slice_str(expected[i][1])));
    }
    assert_int_equal(http_uri_next_pair(&rest, &arena, &name, &value), AGAIN);
    rest = SLICE("");
    assert_int_equal(http_uri_next_pair(&rest, &arena, &name, &value), AGAIN);
    rest = SLICE("a=%");
    assert_int_equal(http_uri_next_pair(&rest, &arena, &name, &value), ERR);
    rest = SLICE("%x=1");
    assert_int_equal(http_uri_next_pair(&rest, &arena, &name, &value), ERR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_decode, begin, end),
        cmocka_unit_test_setup_teardown(test_decode_refuses, begin, end),
        cmocka_unit_test_setup_teardown(test_decode_borrows_when_it_can, begin, end),
        cmocka_unit_test_setup_teardown(test_pairs, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
