/* How far behind a replica is, from positions and our own time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "data/pg_lag.h"

static void test_positions(void **state)
{
    uint64_t lsn;
    (void)state;
    assert_true(pg_lsn_parse(SLICE("0/0"), &lsn));
    assert_int_equal(lsn, 0);
    assert_true(pg_lsn_parse(SLICE("16/B374D848"), &lsn));
    assert_true(lsn == UINT64_C(0x16b374d848));
    assert_true(pg_lsn_parse(SLICE("FFFFFFFF/FFFFFFFF"), &lsn));
    assert_true(lsn == UINT64_MAX);
    static const char *const bad[] = {"", "/", "1/", "/1", "1", "1/1/1", "1/123456789", "x/1", "1/-1", "1/b"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(pg_lsn_parse(slice_str(bad[i]), &lsn));
    assert_false(pg_lsn_parse((struct slice){NULL, 0}, &lsn));
}

static void test_seen(void **state)
{
    struct pg_lag lag = {0};
    (void)state;
    assert_int_equal(pg_lag_seen(&lag, 100), 0); /* nothing known */
    pg_lag_add(&lag, 1000, 10);
    pg_lag_add(&lag, 2000, 20);
    pg_lag_add(&lag, 3000, 20); /* nothing was written: to have 20 is to be of 3000 */
    pg_lag_add(&lag, 4000, 30);
    assert_int_equal(pg_lag_seen(&lag, 9), 0);
    assert_int_equal(pg_lag_seen(&lag, 10), 1000);
    assert_int_equal(pg_lag_seen(&lag, 19), 1000);
    assert_int_equal(pg_lag_seen(&lag, 20), 3000);
    assert_int_equal(pg_lag_seen(&lag, 99), 4000); /* more than was known when we asked */
}

static void test_old_samples_go(void **state)
{
    struct pg_lag lag = {0};
    (void)state;
    for (uint64_t i = 1; i <= PG_LAG_SAMPLES + 3; i++)
        pg_lag_add(&lag, i * 1000, i);
    assert_int_equal(pg_lag_seen(&lag, 3), 0);
    assert_int_equal(pg_lag_seen(&lag, 4), 4000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_seen),
        cmocka_unit_test(test_old_samples_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
