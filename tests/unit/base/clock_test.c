#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <time.h>

static void test_fake_freezes_and_thaws(void **state)
{
    (void)state;
    clock_fake(5000, 1795414756123);
    assert_int_equal(clock_ms(), 5000);
    assert_int_equal(clock_us(), 5000000);
    assert_int_equal(clock_wall_ms(), 1795414756123);
    clock_fake(0, 0);
    uint64_t before = clock_ms();
    assert_true(before > 0);
    assert_true(clock_us() / 1000 >= before);
    assert_true(clock_wall_ms() > 1600000000000);
    assert_true(clock_wall_ms() / 1000 - (int64_t)time(NULL) <= 1);
}

static void test_known_times(void **state)
{
    (void)state;
    static const struct {
        int64_t wall_ms;
        const char *rfc3339, *http;
    } rows[] = {
        {0, "1970-01-01T00:00:00.000Z", "Thu, 01 Jan 1970 00:00:00 GMT"},
        {784111777000, "1994-11-06T08:49:37.000Z", "Sun, 06 Nov 1994 08:49:37 GMT"}, /* RFC 9110's own */
        {1795414756123, "2026-11-23T06:19:16.123Z", "Mon, 23 Nov 2026 06:19:16 GMT"},
        {951782400000, "2000-02-29T00:00:00.000Z", "Tue, 29 Feb 2000 00:00:00 GMT"},
        {4107542400000, "2100-03-01T00:00:00.000Z", "Mon, 01 Mar 2100 00:00:00 GMT"}, /* 2100 is no leap year */
        {-1, "1969-12-31T23:59:59.999Z", "Wed, 31 Dec 1969 23:59:59 GMT"},
        {253402300799999, "9999-12-31T23:59:59.999Z", "Fri, 31 Dec 9999 23:59:59 GMT"},
        {INT64_MAX, "9999-12-31T23:59:59.999Z", "Fri, 31 Dec 9999 23:59:59 GMT"},
        {INT64_MIN, "0000-01-01T00:00:00.000Z", "Sat, 01 Jan 0000 00:00:00 GMT"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char rfc3339[CLOCK_RFC3339_LEN + 1], http[CLOCK_HTTP_LEN + 1];
        clock_rfc3339(rows[i].wall_ms, rfc3339);
        clock_http(rows[i].wall_ms, http);
        assert_string_equal(rfc3339, rows[i].rfc3339);
        assert_string_equal(http, rows[i].http);
    }
}

/* Each 17 hours through five centuries, against the C library. */
static void test_agrees_with_libc(void **state)
{
    (void)state;
    for (int64_t s = -4000000000; s < 12000000000; s += 61231) {
        char ours[CLOCK_HTTP_LEN + 1], theirs[64];
        time_t t = (time_t)s;
        struct tm tm;
        clock_http(s * 1000, ours);
        assert_non_null(gmtime_r(&t, &tm));
        strftime(theirs, sizeof theirs, "%a, %d %b %Y %H:%M:%S GMT", &tm);
        assert_string_equal(ours, theirs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fake_freezes_and_thaws),
        cmocka_unit_test(test_known_times),
        cmocka_unit_test(test_agrees_with_libc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
