/* Timetables: what is read, and when the next slot is, at the edges of months, leap years and the clock's jumps. */
#include "services/cron.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "base/clock.h"
#include "base/zone.h"

/* "2026-11-23 06:19" UTC → seconds */
static int64_t at(const char *text)
{
    int year, month, day, hour, minute;
    assert_int_equal(sscanf(text, "%d-%d-%d %d:%d", &year, &month, &day, &hour, &minute), 5);
    return civil_to_days(year, month, day) * 86400 + hour * 3600 + minute * 60;
}

static void assert_time(int64_t got, const char *want, const char *what)
{
    char text[CLOCK_RFC3339_LEN + 1];
    if (got == at(want))
        return;
    clock_rfc3339(got * 1000, text);
    fail_msg("%s: got %s, wanted %s", what, text, want);
}

/* The first slots after `from`, in UTC; ends with NULL. */
struct row {
    const char *expr, *zone, *from;
    const char *next[5];
};

static void check(const struct row *rows, size_t n_rows)
{
    struct err err = {0};
    for (size_t i = 0; i < n_rows; i++) {
        struct cron cron;
        struct zone *zone = zone_new(slice_str(rows[i].zone), &err);
        assert_non_null(zone);
        if (cron_parse(slice_str(rows[i].expr), &cron, &err) != OK)
            fail_msg("%s: %s", rows[i].expr, err.message);
        int64_t slot = at(rows[i].from);
        for (size_t k = 0; k < 5 && rows[i].next[k]; k++) {
            slot = cron_next(&cron, zone, slot);
            assert_time(slot, rows[i].next[k], rows[i].expr);
        }
        zone_free(zone);
    }
}

static void test_fields(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"* * * * *", "UTC", "2026-11-23 06:19", {"2026-11-23 06:20", "2026-11-23 06:21"}},
        {"*/20 * * * *", "UTC", "2026-11-23 06:19", {"2026-11-23 06:20", "2026-11-23 06:40", "2026-11-23 07:00"}},
        {"5,50 22-23 * * *",
         "UTC",
         "2026-12-31 22:05",
         {"2026-12-31 22:50", "2026-12-31 23:05", "2026-12-31 23:50", "2027-01-01 22:05"}},
        {"10/25 0 * * *", "UTC", "2026-11-23 06:19", {"2026-11-24 00:10", "2026-11-24 00:35"}},
        {"0 0 * jan,MAR-apr mon", "UTC", "2026-11-23 00:00", {"2027-01-04 00:00", "2027-01-11 00:00"}},
        {"0 12 * * 7", "UTC", "2026-11-23 06:19", {"2026-11-29 12:00", "2026-12-06 12:00"}},
        {"0 12 * * 5-7",
         "UTC",
         "2026-11-23 06:19",
         {"2026-11-27 12:00", "2026-11-28 12:00", "2026-11-29 12:00", "2026-12-04 12:00"}},
        {"0 0 * * */2",
         "UTC",
         "2026-11-23 06:19",
         {"2026-11-24 00:00", "2026-11-26 00:00", "2026-11-28 00:00", "2026-11-29 00:00", "2026-12-01 00:00"}},
        {"@daily", "Asia/Kolkata", "2026-11-23 06:19", {"2026-11-23 18:30", "2026-11-24 18:30"}},
        {"  30\t3  1 4 *  ", "Asia/Kolkata", "2026-11-23 06:19", {"2027-03-31 22:00", "2028-03-31 22:00"}},
        {"@hourly", "Asia/Kolkata", "2026-11-23 06:19", {"2026-11-23 06:30", "2026-11-23 07:30"}},
        {"@weekly", "UTC", "2026-11-23 06:19", {"2026-11-29 00:00"}},
        {"@monthly", "UTC", "2026-12-01 00:00", {"2027-01-01 00:00", "2027-02-01 00:00"}},
        {"@yearly", "UTC", "2026-11-23 06:19", {"2027-01-01 00:00", "2028-01-01 00:00"}},
    };
    check(rows, ARRAY_LEN(rows));
}

static void test_months_end_where_they_end(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"0 0 31 * *", "UTC", "2026-11-23 06:19", {"2026-12-31 00:00", "2027-01-31 00:00", "2027-03-31 00:00"}},
        {"0 0 29 2 *", "UTC", "2026-11-23 06:19", {"2028-02-29 00:00", "2032-02-29 00:00"}},
        {"0 0 29 2 *", "UTC", "2096-02-29 00:00", {"2104-02-29 00:00"}}, /* 2100 is no leap year */
        {"59 23 28-31 2 *", "UTC", "2028-02-28 23:58", {"2028-02-28 23:59", "2028-02-29 23:59", "2029-02-28 23:59"}},
        {"0 0 1 1 *", "UTC", "2026-12-31 23:59", {"2027-01-01 00:00"}},
    };
    check(rows, ARRAY_LEN(rows));
}

/* If both days are restricted, either will do; a * (also one with a step) only narrows. */
static void test_either_day_will_do(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"0 0 13 * fri",
         "UTC",
         "2026-11-01 00:00",
         {"2026-11-06 00:00", "2026-11-13 00:00", "2026-11-20 00:00", "2026-11-27 00:00", "2026-12-04 00:00"}},
        {"0 0 15 * mon", "UTC", "2026-11-10 00:00", {"2026-11-15 00:00", "2026-11-16 00:00"}},
        {"0 0 */10 * sat", "UTC", "2026-11-01 00:00", {"2026-11-21 00:00", "2027-05-01 00:00"}},
        {"0 0 * * fri", "UTC", "2026-11-13 00:00", {"2026-11-20 00:00"}},
        {"0 0 13 * *", "UTC", "2026-11-13 00:00", {"2026-12-13 00:00"}},
    };
    check(rows, ARRAY_LEN(rows));
}

/* Berlin: 2027-03-28 02:00 → 03:00 (01:00 UTC), 2027-10-31 03:00 → 02:00 (01:00 UTC). New York jumps at other dates,
 * Kathmandu never, Lord Howe by half an hour. */
static void test_when_the_clock_jumps(void **state)
{
    (void)state;
    static const struct row rows[] = {
        /* Skipped: at the first moment afterwards, once. */
        {"30 2 * * *", "Europe/Berlin", "2027-03-27 12:00", {"2027-03-28 01:00", "2027-03-29 00:30"}},
        {"0,30 2 * * *", "Europe/Berlin", "2027-03-27 12:00", {"2027-03-28 01:00", "2027-03-29 00:00"}},
        {"0 3 * * *", "Europe/Berlin", "2027-03-27 12:00", {"2027-03-28 01:00", "2027-03-29 01:00"}},
        {"59 1,2 * * *",
         "Europe/Berlin",
         "2027-03-28 00:58",
         {"2027-03-28 00:59", "2027-03-28 01:00", "2027-03-28 23:59"}},
        /* Shown twice: in the first pass only. */
        {"59 2 * * *", "Europe/Berlin", "2027-10-31 01:30", {"2027-11-01 01:59"}},
        {"30 2 * * *", "Europe/Berlin", "2027-10-30 12:00", {"2027-10-31 00:30", "2027-11-01 01:30"}},
        {"0 3 * * *", "Europe/Berlin", "2027-10-30 12:00", {"2027-10-31 02:00", "2027-11-01 02:00"}},
        {"59 2 * * *", "Europe/Berlin", "2027-10-31 00:58", {"2027-10-31 00:59", "2027-11-01 01:59"}},
        /* An interval follows the clock's run. */
        {"*/30 * * * *",
         "Europe/Berlin",
         "2027-03-28 00:20",
         {"2027-03-28 00:30", "2027-03-28 01:00", "2027-03-28 01:30"}},
        {"*/30 * * * *",
         "Europe/Berlin",
         "2027-10-31 00:20",
         {"2027-10-31 00:30", "2027-10-31 01:00", "2027-10-31 01:30", "2027-10-31 02:00"}},
        {"30 2 * * *", "America/New_York", "2027-03-13 12:00", {"2027-03-14 07:00", "2027-03-15 06:30"}},
        {"0 0 * * *", "Asia/Kathmandu", "2027-03-13 12:00", {"2027-03-13 18:15"}},
        {"15 2 * * *", "Australia/Lord_Howe", "2027-10-02 00:00", {"2027-10-02 15:30", "2027-10-03 15:15"}},
    };
    check(rows, ARRAY_LEN(rows));
}

static void test_what_is_no_timetable(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",           "* * * *",      "* * * * * *", "60 * * * *",   "* 24 * * *",  "* * 0 * *",   "* * 32 * *",
        "* * * 13 *", "* * * * 8",    "a * * * *",   "-1 * * * *",   "5-1 * * * *", "*/0 * * * *", "1,,2 * * * *",
        "1- * * * *", "@never",       "0 0 30 2 *",  "0 0 31 4,6 *", "* * * foo *", "1.5 * * * *", "*/99 * * * *",
        "+1 * * * *", "* * * * mon-", "1 2 3 4"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct cron cron;
        struct err err = {0};
        if (cron_parse(slice_str(wrong[i]), &cron, &err) == OK)
            fail_msg("\"%s\" was taken", wrong[i]);
        assert_int_equal(err.code, ERR_INVALID);
    }
}

static void test_errors_say_which_field(void **state)
{
    (void)state;
    struct cron cron;
    struct err err = {0};
    assert_int_equal(cron_parse(SLICE("* * * * funday"), &cron, &err), ERR);
    assert_non_null(strstr(err.message, "day of the week: \"funday\""));
}

static void test_what_was_missed(void **state)
{
    (void)state;
    struct cron often, rare;
    struct err err = {0};
    struct zone *zone = zone_new(SLICE("UTC"), &err);
    assert_int_equal(cron_parse(SLICE("*/5 * * * *"), &often, &err), OK);
    assert_int_equal(cron_parse(SLICE("0 3 1 * *"), &rare, &err), OK);
    int64_t last = at("2025-01-01 00:00"), now = at("2026-11-23 06:19");
    assert_time(cron_latest(&often, zone, last, now), "2026-11-23 06:15", "often");
    assert_time(cron_latest(&rare, zone, last, now), "2026-11-01 03:00", "rare");
    assert_int_equal(cron_latest(&rare, zone, at("2026-11-01 03:00"), now), 0);
    assert_time(cron_latest(&rare, zone, at("2026-11-01 02:59"), at("2026-11-01 03:00")), "2026-11-01 03:00", "now");
    assert_int_equal(cron_latest(&often, zone, now + 100, now), 0); /* another machine's clock is ahead */
    zone_free(zone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_months_end_where_they_end),
        cmocka_unit_test(test_either_day_will_do),
        cmocka_unit_test(test_when_the_clock_jumps),
        cmocka_unit_test(test_what_is_no_timetable),
        cmocka_unit_test(test_errors_say_which_field),
        cmocka_unit_test(test_what_was_missed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
