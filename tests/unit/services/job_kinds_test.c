#include "services/job_kinds.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

enum { LOW = 0, MIDDLE = 500, HIGH = 1000 }; /* of the jitter: -10 %, none, +10 % */

static void test_back_off(void **state)
{
    (void)state;
    struct job_backoff by_attempt = {0};
    assert_int_equal(job_backoff_ms(&by_attempt, 1, MIDDLE), 1000);
    assert_int_equal(job_backoff_ms(&by_attempt, 2, MIDDLE), 16000);
    assert_int_equal(job_backoff_ms(&by_attempt, 3, MIDDLE), 81000);
    assert_int_equal(job_backoff_ms(&by_attempt, 2, LOW), 14400);
    assert_int_equal(job_backoff_ms(&by_attempt, 2, HIGH), 17600);
    assert_int_equal(job_backoff_ms(&by_attempt, 17, MIDDLE), 83521000);
    assert_int_equal(job_backoff_ms(&by_attempt, 18, MIDDLE), 86400000); /* a day at most */
    assert_int_equal(job_backoff_ms(&by_attempt, 4000000000u, MIDDLE), 86400000);
    for (uint32_t random = 0; random < 100000; random += 7) {
        uint64_t ms = job_backoff_ms(&by_attempt, 3, random * 42949u);
        assert_in_range(ms, 72900, 89100);
    }
}

static void test_back_off_by_steps(void **state)
{
    (void)state;
    struct job_backoff steps = {.n_steps = 2, .steps_ms = {10, 4294967295u}};
    assert_int_equal(job_backoff_ms(&steps, 1, MIDDLE), 10);
    assert_in_range(job_backoff_ms(&steps, 2, MIDDLE), 4294967290u, 4294967300u);
    assert_in_range(job_backoff_ms(&steps, 9, HIGH), 4724464020u, 4724464030u);
}

static void test_names(void **state)
{
    (void)state;
    char long_name[66];
    memset(long_name, 'a', sizeof(long_name));
    assert_true(job_name_is_valid(SLICE("webhook.apply")));
    assert_true(job_name_is_valid(SLICE("A-1_z.9")));
    assert_true(job_name_is_valid(slice_of(long_name, 64)));
    assert_false(job_name_is_valid(slice_of(long_name, 65)));
    assert_false(job_name_is_valid(SLICE("")));
    assert_false(job_name_is_valid(SLICE("a b")));
    assert_false(job_name_is_valid(SLICE("a,b"))); /* they stand in arrays, unquoted */
    assert_false(job_name_is_valid(SLICE("a\"b")));
    assert_false(job_name_is_valid(SLICE("ä")));
}

static void test_declarations(void **state)
{
    (void)state;
    struct err err = {0};
    struct job_kinds *kinds = job_kinds_new(), *other = job_kinds_ref(kinds);
    struct job_kind kind = {.name = "mail", .queue = "default", .timeout_ms = 1};
    assert_int_equal(job_kinds_add(kinds, &kind, &err), OK);
    assert_int_equal(job_kinds_add(kinds, &kind, &err), ERR);
    assert_non_null(strstr(err.message, "defined twice"));
    assert_string_equal(job_kinds_find(kinds, SLICE("mail"))->queue, "default");
    assert_null(job_kinds_find(kinds, SLICE("mai")));
    strcpy(kind.name, "a b");
    assert_int_equal(job_kinds_add(kinds, &kind, &err), ERR);

    struct job_timetable_opts opts = {
        .expr = SLICE("@daily"), .zone = SLICE("Asia/Kolkata"), .name = SLICE("mail"), .args = SLICE("{}")};
    assert_int_equal(job_kinds_add_timetable(kinds, &opts, &err), OK);
    assert_string_equal(kinds->timetables[0].key, "mail @daily Asia/Kolkata");
    assert_int_equal(job_kinds_add_timetable(kinds, &opts, &err), ERR);
    assert_non_null(strstr(err.message, "there twice"));
    opts.zone = SLICE("Asia/Nowhere");
    assert_int_equal(job_kinds_add_timetable(kinds, &opts, &err), ERR);
    opts.zone = SLICE("UTC");
    assert_int_equal(job_kinds_add_timetable(kinds, &opts, &err), OK); /* another timetable of the same job */
    opts.expr = SLICE("61 * * * *");
    assert_int_equal(job_kinds_add_timetable(kinds, &opts, &err), ERR);
    assert_non_null(strstr(err.message, "\"61 * * * *\": minute"));
    opts.name = SLICE("nothing");
    assert_int_equal(job_kinds_add_timetable(kinds, &opts, &err), ERR);
    job_kinds_unref(kinds);
    assert_int_equal(other->n_timetables, 2);
    job_kinds_unref(other);
    job_kinds_unref(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_back_off),
        cmocka_unit_test(test_back_off_by_steps),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_declarations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
