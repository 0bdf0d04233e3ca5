#include "services/seq_format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

static struct seq_def read_one(const char *json)
{
    struct seq_defs defs;
    struct err err = {0};
    const char *key;
    if (seq_defs_read(slice_str(json), &defs, &key, &err) != OK)
        fail_msg("%s: %s", json, err.message);
    assert_int_equal(defs.n_items, 1);
    assert_string_equal(key, "");
    return defs.items[0];
}

static void assert_refused(const char *json, const char *at, const char *message)
{
    struct seq_defs defs;
    struct err err = {0};
    const char *key = NULL;
    if (seq_defs_read(slice_str(json), &defs, &key, &err) == OK)
        fail_msg("accepted: %s", json);
    assert_int_equal(err.code, ERR_INVALID);
    if (!strstr(err.message, message))
        fail_msg("%s: \"%s\" does not say \"%s\"", json, err.message, message);
    assert_string_equal(key, at);
}

#define FORMAT(text) "{\"seq.formats\":{\"order\":\"" text "\"}}"

static void test_reads_the_effective_configuration(void **state)
{
    (void)state;
    struct seq_defs defs;
    struct err err = {0};
    const char *json = "{\"listen\":\":80\",\"settings\":{\"seq.formats\":{\"no\":\"no\"},\"x\":[1,{\"y\":null}]},"
                       "\"seq.formats\":{\"order\":\"PC{fy}-{n:6}\",\"parcel\":\"P{n:9}\"},\"workers\":2,"
                       "\"seq.periods\":{\"ticket\":\"month\",\"parcel\":\"none\"},\"log.access\":true}";
    assert_int_equal(seq_defs_read(slice_str(json), &defs, NULL, &err), OK);
    assert_int_equal(defs.n_items, 3);
    assert_string_equal(defs.items[0].name, "order");
    assert_int_equal(defs.items[0].cycle, SEQ_FY);
    assert_string_equal(defs.items[1].format, "P{n:9}");
    assert_int_equal(defs.items[1].cycle, SEQ_NEVER);
    assert_string_equal(defs.items[2].format, "");
    assert_int_equal(defs.items[2].cycle, SEQ_MONTH);
    assert_int_equal(seq_defs_read(SLICE("{\"seq.formats\":null,\"seq.periods\":null}"), &defs, NULL, &err), OK);
    assert_int_equal(defs.n_items, 0);
}

static void test_cycle_from_the_format(void **state)
{
    (void)state;
    assert_int_equal(read_one(FORMAT("A{fy}{n:4}")).cycle, SEQ_FY);
    assert_int_equal(read_one(FORMAT("A{year}-{n:4}")).cycle, SEQ_YEAR);
    assert_int_equal(read_one(FORMAT("A{yy}-{n:4}")).cycle, SEQ_YEAR);
    assert_int_equal(read_one(FORMAT("{yy}{month}{n:4}")).cycle, SEQ_MONTH);
    assert_int_equal(read_one(FORMAT("{n:16}")).cycle, SEQ_NEVER);
}

static void test_refused_formats(void **state)
{
    (void)state;
    const char *at = "seq.formats";
    assert_refused(FORMAT("PC{fy}"), at, "order: a format has the counter once");
    assert_refused(FORMAT("PC{n:4}{n:4}"), at, "counter once");
    assert_refused(FORMAT("PC{fy}-{n:3}"), at, "the width of {n:3} is too small");
    assert_refused(FORMAT("PC{fy}-{n}"), at, "{n} is no placeholder");
    assert_refused(FORMAT("PC{fy}-{n:0}"), at, "{n:0} is no placeholder");
    assert_refused(FORMAT("PC{fy}-{n:6x}"), at, "{n:6x} is no placeholder");
    assert_refused(FORMAT("PC{day}-{n:6}"), at, "{day} is no placeholder");
    assert_refused(FORMAT("PC_{n:6}"), at, "only A-Z a-z 0-9 / -");
    assert_refused(FORMAT("PC {n:6}"), at, "only A-Z a-z 0-9 / -");
    assert_refused(FORMAT("PC{fy-{n:6}"), at, "is no placeholder");
    assert_refused(FORMAT("PC{n:6"), at, "only A-Z a-z 0-9 / -");
    assert_refused(FORMAT("ORDERS/{fy}-{n:6}"), at, "18 characters long, 16 are allowed");
    assert_refused(FORMAT("{n:17}"), at, "17 characters long");
    assert_refused(FORMAT("PC{month}-{n:6}"), at, "so the format needs {year} or {yy}, and {month}");
    assert_refused(FORMAT("PC{fy}{year}{n:6}"), at, "{year} does not go with the period \"fy\"");
    assert_refused(FORMAT(""), at, "order: a format has 1 to 47 bytes");
    assert_refused("{\"seq.formats\":{\"order\":7}}", at, "order: expected a string");
    assert_refused("{\"seq.formats\":{\"order\":{\"a\":\"b\"}}}", at, "order: expected a string");
    assert_refused("{\"seq.formats\":{\"order\":[\"b\"]}}", at, "order: expected a string");
    assert_refused("{\"seq.formats\":[\"PC{n:6}\"]}", at, "expected names as keys");
    assert_refused("{\"seq.formats\":{\"a name that is longer than 31 bytes\":\"{n:6}\"}}", at, "1 to 31 bytes");
    assert_refused("{\"seq.periods\":{\"order\":\"week\"}}", "seq.periods", "order: a period is \"fy\"");
    /* last year's numbers would come again */
    assert_refused("{\"seq.periods\":{\"order\":\"fy\"},\"seq.formats\":{\"order\":\"PC{n:6}\"}}", at, "needs {fy}");
    assert_refused("{\"seq.formats\":{\"order\":\"PC{fy}{n:6}\"},\"seq.periods\":{\"order\":\"none\"}}", at,
                   "{fy} does not go with the period \"none\"");
}

static void test_too_many(void **state)
{
    (void)state;
    char json[2048];
    int len = snprintf(json, sizeof json, "{\"seq.formats\":{");
    for (int i = 0; i <= SEQ_MAX; i++)
        len += snprintf(json + len, sizeof json - (size_t)len, "%s\"s%d\":\"{n:6}\"", i ? "," : "", i);
    snprintf(json + len, sizeof json - (size_t)len, "}}");
    assert_refused(json, "seq.formats", "more than 32 sequences");
}

#define IST(utc_s) ((int64_t)(utc_s)*1000 - 19800000)
enum { APR_1_2026 = 1775001600, JAN_1_2027 = 1798761600, APR_1_2027 = 1806537600, MAR_1_2000 = 951868800 };

static void assert_period(enum seq_cycle cycle, int64_t wall_ms, const char *text)
{
    assert_string_equal(seq_period_at(cycle, wall_ms).text, text);
}

static void test_periods_turn_at_midnight_in_kolkata(void **state)
{
    (void)state;
    assert_period(SEQ_FY, IST(APR_1_2026) - 1, "2025-26");
    assert_period(SEQ_FY, IST(APR_1_2026), "2026-27");
    assert_period(SEQ_FY, IST(JAN_1_2027), "2026-27");
    assert_period(SEQ_FY, IST(APR_1_2027) - 1, "2026-27");
    assert_period(SEQ_FY, IST(APR_1_2027), "2027-28");
    assert_period(SEQ_FY, IST(MAR_1_2000), "1999-00");
    assert_period(SEQ_YEAR, IST(JAN_1_2027) - 1, "2026");
    assert_period(SEQ_YEAR, IST(JAN_1_2027), "2027");
    assert_period(SEQ_MONTH, IST(APR_1_2026) - 1, "2026-03");
    assert_period(SEQ_MONTH, IST(APR_1_2026), "2026-04");
    assert_period(SEQ_NEVER, IST(APR_1_2026), "");
}

static void assert_number(const char *json, const char *period, int64_t n, const char *text)
{
    struct seq_def def = read_one(json);
    struct seq_period at = {""};
    struct err err = {0};
    char out[SEQ_NUMBER_MAX + 1];
    memcpy(at.text, period, strlen(period) + 1);
    assert_int_equal(seq_format_write(&def, at, n, out, &err), text ? OK : ERR);
    assert_string_equal(out, text ? text : "");
    if (!text)
        assert_int_equal(err.code, ERR_INVALID);
}

static void test_numbers(void **state)
{
    (void)state;
    assert_number(FORMAT("PC{fy}-{n:6}"), "2026-27", 123, "PC2627-000123");
    assert_number(FORMAT("PC{fy}-{n:6}"), "1999-00", 1, "PC9900-000001");
    assert_number(FORMAT("PC{fy}-{n:6}"), "2026-27", 1234567, "PC2627-1234567"); /* outgrows its width, not the 16 */
    assert_number(FORMAT("PC{fy}-{n:6}"), "2026-27", 999999999, "PC2627-999999999");
    assert_number(FORMAT("PC{fy}-{n:6}"), "2026-27", 1000000000, NULL);
    assert_number(FORMAT("INV/{year}/{n:5}"), "2026", 7, "INV/2026/00007");
    assert_number(FORMAT("{n:5}-{yy}{month}"), "2026-04", 7, "00007-2604");
    assert_number(FORMAT("T{n:4}"), "", INT64_C(999999999999999), "T999999999999999");
    assert_number(FORMAT("T{n:4}"), "", INT64_MAX, NULL);
}

static void assert_reads(const char *json, const char *period, const char *text, int64_t n)
{
    struct seq_def def = read_one(json);
    struct seq_period at = {""};
    int64_t read = -1;
    memcpy(at.text, period, strlen(period) + 1);
    assert_int_equal(seq_format_read(&def, at, slice_str(text), &read), n >= 0);
    if (n >= 0)
        assert_int_equal(read, n);
}

static void test_reads_what_it_wrote(void **state)
{
    (void)state;
    assert_reads(FORMAT("PC{fy}-{n:6}"), "2026-27", "PC2627-000123", 123);
    assert_reads(FORMAT("PC{fy}-{n:6}"), "2026-27", "PC2627-1234567", 1234567);
    assert_reads(FORMAT("{n:5}-{yy}{month}"), "2026-04", "00007-2604", 7);
    assert_reads(FORMAT("0{n:4}0"), "", "000010", 1);
    assert_reads(FORMAT("T{n:4}"), "", "T999999999999999", INT64_C(999999999999999));
    assert_reads(FORMAT("PC{fy}-{n:6}"), "2027-28", "PC2627-000123", -1); /* another period's */
    assert_reads(FORMAT("PC{fy}-{n:6}"), "2026-27", "PC2627-0000123", -1);
    assert_reads(FORMAT("PC{fy}-{n:6}"), "2026-27", "PC2627-00012", -1);
    assert_reads(FORMAT("PC{fy}-{n:6}"), "2026-27", "PC2627-0001x3", -1);
    assert_reads(FORMAT("PC{fy}-{n:6}"), "2026-27", "XX2627-000123", -1);
    assert_reads(FORMAT("{n:5}-{yy}{month}"), "2026-04", "00007-2605", -1);
    assert_reads(FORMAT("T{n:4}"), "", "T99999999999999999999", -1);
    assert_reads(FORMAT("T{n:4}"), "", "T-0001", -1);
    assert_reads(FORMAT("T{n:4}"), "", "", -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_the_effective_configuration),
        cmocka_unit_test(test_cycle_from_the_format),
        cmocka_unit_test(test_refused_formats),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_periods_turn_at_midnight_in_kolkata),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_reads_what_it_wrote),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
