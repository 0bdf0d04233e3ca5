#include "server/respawn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void test_first_death_is_forgiven(void **state)
{
    (void)state;
    struct respawn respawn = {0};
    assert_int_equal(respawn_on_death(&respawn, 5), 0);
}

static void test_back_off_doubles_until_it_gives_up(void **state)
{
    (void)state;
    struct respawn respawn = {0};
    int last = -1, delay, n_starts = 0;
    while ((delay = respawn_on_death(&respawn, 5)) >= 0) {
        assert_true(delay > last || delay == RESPAWN_MAX_MS);
        assert_true(delay <= RESPAWN_MAX_MS);
        last = delay;
        n_starts++;
    }
    assert_int_equal(n_starts, RESPAWN_CRASH_LOOP - 1);
    assert_int_equal(respawn_on_death(&respawn, 5), -1);
}

static void test_a_long_life_starts_anew(void **state)
{
    (void)state;
    struct respawn respawn = {0};
    for (int i = 0; i < RESPAWN_CRASH_LOOP - 1; i++)
        respawn_on_death(&respawn, 5);
    assert_int_equal(respawn_on_death(&respawn, RESPAWN_YOUNG_MS), 0);
    assert_int_equal(respawn_on_death(&respawn, 5), RESPAWN_FIRST_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_death_is_forgiven),
        cmocka_unit_test(test_back_off_doubles_until_it_gives_up),
        cmocka_unit_test(test_a_long_life_starts_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
