#include "server/respawn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { MANY = 1000 };

static int die(struct respawn *respawn, enum respawn_cause cause)
{
    return respawn_on_death(respawn, cause, 5);
}

static void test_first_death_is_forgiven(void **state)
{
    (void)state;
    struct respawn respawn = {0};
    assert_int_equal(die(&respawn, RESPAWN_ITSELF), 0);
}

static void test_back_off_doubles_until_it_gives_up(void **state)
{
    (void)state;
    struct respawn respawn = {0};
    int last = -1, delay, n_starts = 0;
    while ((delay = respawn_on_death(&respawn, RESPAWN_ITSELF, n_starts % 2 /* ready or not */)) >= 0) {
        assert_true(delay > last || delay == RESPAWN_MAX_MS);
        assert_true(delay <= RESPAWN_MAX_MS);
        last = delay;
        n_starts++;
    }
    assert_int_equal(n_starts, RESPAWN_CRASH_LOOP - 1);
    assert_true(respawn_is_loop(&respawn));
    assert_int_equal(die(&respawn, RESPAWN_ITSELF), -1);
}

static void test_a_settled_life_starts_anew(void **state)
{
    (void)state;
    struct respawn respawn = {0};
    for (int i = 0; i < RESPAWN_CRASH_LOOP - 1; i++)
        die(&respawn, RESPAWN_ITSELF);
    assert_int_equal(respawn_on_death(&respawn, RESPAWN_ITSELF, RESPAWN_SETTLED_MS), 0);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(respawn_on_death(&respawn, RESPAWN_ITSELF, RESPAWN_SETTLED_MS), 0);
    assert_int_equal(die(&respawn, RESPAWN_ITSELF), RESPAWN_FIRST_MS);
}

static void test_kills_and_requests_are_no_crash_loop(void **state)
{
    (void)state;
    static const enum respawn_cause causes[] = {RESPAWN_OUTSIDE, RESPAWN_REQUEST};
    for (size_t c = 0; c < ARRAY_LEN(causes); c++) {
        struct respawn respawn = {0};
        int delay = 0;
        for (int i = 0; i < MANY; i++) {
            delay = respawn_on_death(&respawn, causes[c], (uint64_t)i % 3);
            assert_in_range(delay, 0, RESPAWN_CALM_MAX_MS);
        }
        assert_int_equal(delay, RESPAWN_CALM_MAX_MS); /* not spinning, either */
        assert_false(respawn_is_loop(&respawn));
    }
}

static void test_only_deaths_at_start_in_a_row_are_a_loop(void **state)
{
    (void)state;
    struct respawn respawn = {0};
    for (int i = 0; i < MANY; i++)
        assert_true(die(&respawn, i % RESPAWN_CRASH_LOOP ? RESPAWN_ITSELF : RESPAWN_OUTSIDE) >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_death_is_forgiven),
        cmocka_unit_test(test_back_off_doubles_until_it_gives_up),
        cmocka_unit_test(test_a_settled_life_starts_anew),
        cmocka_unit_test(test_kills_and_requests_are_no_crash_loop),
        cmocka_unit_test(test_only_deaths_at_start_in_a_row_are_a_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
