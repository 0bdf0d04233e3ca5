#include "server/recycle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static enum recycle_why look(struct recycle *recycle, uint64_t n_out_of_memory, uint64_t now_ms)
{
    return recycle_look(recycle, &(struct recycle_view){.n_out_of_memory = n_out_of_memory}, now_ms);
}

static void test_three_times_in_a_minute(void **state)
{
    (void)state;
    struct recycle recycle = {0};
    recycle_begin(&recycle, 70); /* what earlier processes of the slot had */
    assert_int_equal(look(&recycle, 70, 1000), RECYCLE_NOT);
    assert_int_equal(look(&recycle, 72, 2000), RECYCLE_NOT);
    assert_int_equal(look(&recycle, 73, 2000 + RECYCLE_WITHIN_MS + 1), RECYCLE_NOT); /* the first two are too old */
    assert_int_equal(look(&recycle, 74, 70000), RECYCLE_NOT);
    assert_int_equal(look(&recycle, 75, 70001), RECYCLE_OOMS);
    assert_int_equal(look(&recycle, 75, 70002), RECYCLE_OOMS); /* until something is done */
    recycle_begin(&recycle, 75);
    assert_int_equal(look(&recycle, 75, 70003), RECYCLE_NOT);
    assert_int_equal(look(&recycle, 999, 70004), RECYCLE_OOMS); /* many between two looks */
}

static void test_too_much_memory_but_not_all_the_time(void **state)
{
    (void)state;
    struct recycle recycle = {0};
    struct recycle_view view = {.bytes = 1000, .max_bytes = 1000};
    assert_int_equal(recycle_look(&recycle, &view, 5000), RECYCLE_NOT);
    view.bytes++;
    assert_int_equal(recycle_look(&recycle, &view, 5000), RECYCLE_BYTES);
    recycle_done(&recycle, 5000);
    recycle_begin(&recycle, 0);
    assert_int_equal(recycle_look(&recycle, &view, 5001), RECYCLE_NOT);
    assert_int_equal(recycle_look(&recycle, &view, 5000 + RECYCLE_AGAIN_MS), RECYCLE_BYTES);
    view.max_bytes = 0;
    assert_int_equal(recycle_look(&recycle, &view, 5000 + RECYCLE_AGAIN_MS), RECYCLE_NOT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_times_in_a_minute),
        cmocka_unit_test(test_too_much_memory_but_not_all_the_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
