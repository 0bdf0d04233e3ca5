#include "data/breaker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static const struct breaker_opts opts = {.failures = 3, .open_ms = 100};

static bool call(struct breaker *breaker, uint64_t now_ms, enum breaker_outcome outcome)
{
    bool is_probe;
    if (!breaker_allow(breaker, now_ms, &is_probe))
        return false;
    breaker_report(breaker, &opts, now_ms, is_probe, outcome);
    return true;
}

static void test_opens_after_failures_in_a_row(void **state UNUSED)
{
    struct breaker breaker = {0};
    bool is_probe;
    call(&breaker, 0, BREAKER_FAILURE);
    call(&breaker, 0, BREAKER_FAILURE);
    call(&breaker, 0, BREAKER_SUCCESS); /* starts the count anew */
    call(&breaker, 0, BREAKER_FAILURE);
    call(&breaker, 0, BREAKER_UNKNOWN); /* does not */
    call(&breaker, 0, BREAKER_FAILURE);
    assert_false(breaker.is_open);
    assert_true(breaker_allow(&breaker, 0, &is_probe));
    assert_true(breaker_report(&breaker, &opts, 0, is_probe, BREAKER_FAILURE));
    assert_false(breaker_allow(&breaker, 99, &is_probe));
}

static void test_one_probe_decides(void **state UNUSED)
{
    struct breaker breaker = {0};
    bool is_probe, other;
    for (int i = 0; i < 3; i++)
        call(&breaker, 0, BREAKER_FAILURE);
    assert_true(breaker_allow(&breaker, 100, &is_probe));
    assert_true(is_probe);
    assert_false(breaker_allow(&breaker, 100, &other));
    assert_true(breaker_report(&breaker, &opts, 100, true, BREAKER_FAILURE));
    assert_false(breaker_allow(&breaker, 199, &other));
    assert_true(breaker_allow(&breaker, 200, &is_probe));
    breaker_report(&breaker, &opts, 200, is_probe, BREAKER_SUCCESS);
    assert_false(breaker.is_open);
    assert_true(breaker_allow(&breaker, 200, &is_probe));
    assert_false(is_probe);
}

static void test_a_probe_given_up_lets_another_try(void **state UNUSED)
{
    struct breaker breaker = {0};
    bool is_probe;
    for (int i = 0; i < 3; i++)
        call(&breaker, 0, BREAKER_FAILURE);
    assert_true(breaker_allow(&breaker, 100, &is_probe));
    breaker_report(&breaker, &opts, 100, is_probe, BREAKER_UNKNOWN);
    assert_true(breaker_allow(&breaker, 100, &is_probe));
    assert_true(is_probe);
}

static void test_stragglers_change_nothing(void **state UNUSED)
{
    struct breaker breaker = {0};
    bool early;
    assert_true(breaker_allow(&breaker, 0, &early));
    for (int i = 0; i < 3; i++)
        call(&breaker, 0, BREAKER_FAILURE);
    breaker_report(&breaker, &opts, 50, early, BREAKER_SUCCESS);
    assert_true(breaker.is_open);
    assert_false(breaker_report(&breaker, &opts, 90, early, BREAKER_FAILURE));
    assert_int_equal(breaker.open_until_ms, 100);
}

static void test_zero_never_opens(void **state UNUSED)
{
    struct breaker breaker = {0};
    struct breaker_opts never = {.open_ms = 100};
    for (int i = 0; i < 1000; i++)
        assert_false(breaker_report(&breaker, &never, 0, false, BREAKER_FAILURE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opens_after_failures_in_a_row),
        cmocka_unit_test(test_one_probe_decides),
        cmocka_unit_test(test_a_probe_given_up_lets_another_try),
        cmocka_unit_test(test_stragglers_change_nothing),
        cmocka_unit_test(test_zero_never_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
