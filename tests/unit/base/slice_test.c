#include "base/slice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

static void test_ieq(void **state)
{
    (void)state;
    assert_true(slice_ieq(SLICE("Content-LENGTH"), SLICE("content-length")));
    assert_true(slice_ieq(slice_of(NULL, 0), SLICE("")));
    assert_false(slice_ieq(SLICE("abc"), SLICE("abcd")));
    assert_false(slice_ieq(SLICE("a[c"), SLICE("a{c"))); /* 0x5b and 0x7b: not letters */
    assert_false(slice_ieq(SLICE("@"), SLICE("`")));
    assert_false(slice_ieq(SLICE("\xC3\x89"), SLICE("\xC3\xA9"))); /* ASCII only */
}

static void test_prefix_and_trim(void **state)
{
    (void)state;
    assert_true(slice_has_prefix(SLICE("/api/x"), SLICE("/api/")));
    assert_true(slice_has_prefix(SLICE("x"), SLICE("")));
    assert_true(slice_has_prefix(slice_of(NULL, 0), SLICE("")));
    assert_false(slice_has_prefix(SLICE("/ap"), SLICE("/api")));
    assert_true(slice_eq(slice_trim(SLICE(" \t a b\t ")), SLICE("a b")));
    assert_int_equal(slice_trim(SLICE(" \t ")).len, 0);
    assert_true(slice_eq(slice_trim(SLICE("\na\r")), SLICE("\na\r"))); /* only space and tab */
}

static void test_to_int(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool is_ok;
        int64_t value;
    } rows[] = {
        {"0", true, 0},
        {"007", true, 7},
        {"-12", true, -12},
        {"-0", true, 0},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"99999999999999999999999", false, 0},
        {"", false, 0},
        {"-", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"1x", false, 0},
        {"0x10", false, 0},
        {"1.0", false, 0},
        {"--1", false, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int64_t out = 42;
        bool is_ok = slice_to_int(slice_str(rows[i].text), INT64_MIN, INT64_MAX, &out);
        if (is_ok != rows[i].is_ok || out != (is_ok ? rows[i].value : 42))
            fail_msg("slice_to_int(\"%s\") gave %d, %jd", rows[i].text, is_ok, (intmax_t)out);
    }
    int64_t out = 42;
    assert_false(slice_to_int(SLICE("101"), 1, 100, &out));
    assert_false(slice_to_int(SLICE("0"), 1, 100, &out));
    assert_int_equal(out, 42);
    assert_true(slice_to_int(SLICE("100"), 1, 100, &out));
    assert_int_equal(out, 100);
    assert_false(slice_to_int(slice_of("1\0", 2), 0, 100, &out));
}

/* Equal bytes hash alike wherever they lie; each length and each changed byte changes the hash. */
static void test_hash(void **state)
{
    (void)state;
    char a[80], b[81];
    for (size_t len = 0; len <= sizeof a; len++) {
        for (size_t i = 0; i < len; i++)
            a[i] = b[i + 1] = (char)(i * 31);
        uint64_t hash = slice_hash(slice_of(a, len));
        assert_true(hash == slice_hash(slice_of(b + 1, len)));
        for (size_t i = 0; i < len; i++) {
            a[i] ^= 1;
            assert_true(hash != slice_hash(slice_of(a, len)));
            a[i] ^= 1;
        }
    }
    assert_true(slice_hash(slice_of("\0\0", 1)) != slice_hash(slice_of("\0\0", 2)));
    assert_true(slice_hash(slice_of(NULL, 0)) == slice_hash(SLICE("")));
}

/* 4096 numbered keys into 4096 buckets by the low and by the high bits: about 63 % of the buckets are hit. */
static void test_hash_spreads(void **state)
{
    (void)state;
    static unsigned char low[4096], high[4096];
    int n_low = 0, n_high = 0;
    for (int i = 0; i < 4096; i++) {
        char key[32] = "product:";
        int n = i;
        for (int d = 8; d < 12; d++, n /= 10)
            key[d] = (char)('0' + n % 10);
        key[12] = (char)i;
        uint64_t hash = slice_hash(slice_of(key, 13));
        low[hash & 4095] = high[hash >> 52] = 1;
    }
    for (int i = 0; i < 4096; i++) {
        n_low += low[i];
        n_high += high[i];
    }
    assert_in_range(n_low, 2300, 2900);
    assert_in_range(n_high, 2300, 2900);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ieq),  cmocka_unit_test(test_prefix_and_trim), cmocka_unit_test(test_to_int),
        cmocka_unit_test(test_hash), cmocka_unit_test(test_hash_spreads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
