/* Zones, against the C library's own reading of the same files. */
#include "base/zone.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <time.h>

static void test_dates(void **state)
{
    (void)state;
    int64_t year;
    int month, day;
    assert_int_equal(civil_to_days(1970, 1, 1), 0);
    assert_int_equal(civil_to_days(2000, 2, 29), 11016);
    for (int64_t days = -200000; days < 200000; days += 13) {
        civil_from_days(days, &year, &month, &day);
        assert_int_equal(civil_to_days(year, month, day), days);
    }
    civil_from_days(-1, &year, &month, &day);
    assert_int_equal(year, 1969);
    assert_int_equal(month, 12);
    assert_int_equal(day, 31);
}

/* Every 5 h 7 min from 1990 to 2099, and each change itself. */
static void test_offsets_are_those_of_libc(void **state)
{
    (void)state;
    static const char *const names[] = {"UTC",
                                        "Asia/Kolkata",
                                        "Europe/Berlin",
                                        "America/New_York",
                                        "Asia/Kathmandu",
                                        "America/Sao_Paulo",
                                        "Australia/Lord_Howe",
                                        "Europe/Dublin",
                                        "Asia/Kabul",
                                        "America/St_Johns",
                                        "Pacific/Auckland",
                                        "Asia/Tehran"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct err err = {0};
        struct zone *zone = zone_new(slice_str(names[i]), &err);
        assert_non_null(zone);
        setenv("TZ", names[i], 1);
        tzset();
        for (time_t t = 631152000; t < 4102444800; t += 18420) {
            struct tm tm;
            localtime_r(&t, &tm);
            if (zone_offset(zone, t) != tm.tm_gmtoff)
                fail_msg("%s at %lld: %d, libc says %ld", names[i], (long long)t, zone_offset(zone, t), tm.tm_gmtoff);
        }
        for (int64_t t = 631152000; (t = zone_next_change(zone, t)) < 4102444800;)
            assert_int_not_equal(zone_offset(zone, t - 1), zone_offset(zone, t));
        zone_free(zone);
    }
    unsetenv("TZ");
    tzset();
}

static void test_changes_are_found(void **state)
{
    (void)state;
    struct err err = {0};
    struct zone *zone = zone_new(SLICE("Europe/Berlin"), &err);
    assert_int_equal(zone_next_change(zone, 1806281999 - 86400), 1806195600); /* 2027-03-28 01:00 UTC */
    assert_int_equal(zone_offset(zone, 1806195599), 3600);
    assert_int_equal(zone_offset(zone, 1806195600), 7200);
    zone_free(zone);
    zone = zone_new(SLICE("Asia/Kolkata"), &err);
    assert_true(zone_next_change(zone, 0) == INT64_MAX);
    zone_free(zone);
}

static void test_what_is_no_zone(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",        "Mars/Olympus", "/etc/passwd",     "../../../etc/passwd",    "Asia/",
        "Asia",    "tzdata.zi",    "Europe/Berlin\n", "Europe/../../localtime", "posixrules/x",
        "zone.tab"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct err err = {0};
        struct zone *zone = zone_new(slice_str(wrong[i]), &err);
        if (zone)
            fail_msg("\"%s\" was taken", wrong[i]);
        assert_int_equal(err.code, ERR_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_offsets_are_those_of_libc),
        cmocka_unit_test(test_changes_are_found),
        cmocka_unit_test(test_what_is_no_zone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
