/* The arithmetic against redis-cell's table and against a model that remembers every charge. */
#include "services/limit_count.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define SECOND 1000000ull

static struct limit_verdict check(struct limit_count *count, const struct limit_rule *rule, uint32_t quantity,
                                  uint64_t now_us)
{
    struct limit_verdict verdict;
    limit_count_test(count, rule, quantity, now_us, &verdict);
    if (verdict.is_allowed)
        limit_count_charge(count, rule, quantity, now_us, &verdict);
    return verdict;
}

/* redis-cell's test table: one a second after a burst of five. */
static void test_gcra_does_as_redis_cell(void **state)
{
    static const struct {
        uint64_t at_ms;
        uint32_t quantity;
        bool is_allowed;
        uint32_t remaining;
        uint64_t reset_ms, retry_ms;
    } rows[] = {
        {0, 6, false, 5, 0, 5000},    {0, 1, true, 4, 1000, 0},    {0, 1, true, 3, 2000, 0},
        {0, 1, true, 2, 3000, 0},     {0, 1, true, 1, 4000, 0},    {0, 1, true, 0, 5000, 0},
        {0, 1, false, 0, 5000, 1000}, {3000, 1, true, 2, 3000, 0}, {3100, 1, true, 1, 3900, 0},
        {4000, 1, true, 1, 4000, 0},  {8000, 1, true, 4, 1000, 0}, {9500, 1, true, 4, 1000, 0},
        {9500, 0, true, 4, 1000, 0},  {9500, 2, true, 2, 3000, 0}, {9500, 5, false, 2, 3000, 3000},
    };
    struct limit_rule rule = {.algorithm = LIMIT_GCRA, .limit = 5, .burst = 5, .window_us = 5 * SECOND};
    struct limit_count count = {0};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct limit_verdict v = check(&count, &rule, rows[i].quantity, SECOND + rows[i].at_ms * 1000);
        assert_int_equal(v.is_allowed, rows[i].is_allowed);
        assert_int_equal(v.remaining, rows[i].remaining);
        assert_int_equal(v.reset_us, rows[i].reset_ms * 1000);
        assert_int_equal(v.retry_us, rows[i].retry_ms * 1000);
    }
}

/* Never more than `limit` in any window, never fewer than a window stretched by two ticks would allow, and after
 * exactly retry_us it passes. */
static void test_exact_window_against_a_model(void **state)
{
    static uint64_t charges[20000];
    (void)state;
    srandom(7);
    for (int round = 0; round < 20; round++) {
        struct limit_rule rule = {.limit = 1 + (uint32_t)random() % LIMIT_EXACT_MAX,
                                  .window_us = SECOND / 100 + (uint64_t)random() % (900 * SECOND)};
        uint64_t slack = 2 * rule.window_us / 32768 + 2, now = 5 * SECOND;
        struct limit_count count = {0};
        size_t n = 0, lower = 0, upper = 0;
        for (int i = 0; i < 1000; i++) {
            now += (uint64_t)random() % (3 * rule.window_us / rule.limit + 2) / (random() % 4 ? 4 : 1);
            if (random() % 50 == 0)
                now += 3 * rule.window_us;
            while (lower < n && charges[lower] + rule.window_us <= now)
                lower++;
            while (upper < n && charges[upper] + rule.window_us + slack < now)
                upper++;
            struct limit_verdict v = check(&count, &rule, 1, now);
            if (v.is_allowed) {
                assert_true(n - lower < rule.limit);
                charges[n++] = now;
            } else {
                struct limit_count later = count;
                assert_true(n - upper >= rule.limit);
                assert_true(check(&later, &rule, 1, now + v.retry_us).is_allowed);
            }
        }
        assert_true(n > 50);
    }
}

static void test_exact_window_says_what_is_left(void **state)
{
    struct limit_rule rule = {.limit = 10, .window_us = 900 * SECOND};
    struct limit_count count = {0};
    (void)state;
    uint64_t now = 1000 * SECOND;
    for (uint32_t i = 0; i < 10; i++) {
        struct limit_verdict v = check(&count, &rule, 1, now + i * SECOND);
        assert_true(v.is_allowed);
        assert_int_equal(v.remaining, 9 - i);
        assert_in_range(v.reset_us, (899 - i) * SECOND, (901 - i) * SECOND);
    }
    struct limit_verdict v = check(&count, &rule, 1, now + 10 * SECOND);
    assert_false(v.is_allowed);
    assert_in_range(v.retry_us, 889 * SECOND, 891 * SECOND);
    assert_false(check(&count, &rule, 1, now + 899 * SECOND).is_allowed);
    assert_true(check(&count, &rule, 1, now + 901 * SECOND).is_allowed);
    assert_int_equal(check(&count, &rule, 11, now + 5000 * SECOND).retry_us, rule.window_us); /* never fits */
}

static void test_large_window_forgets_evenly(void **state)
{
    struct limit_rule rule = {.limit = 1000, .window_us = 100 * SECOND};
    struct limit_count count = {0};
    (void)state;
    uint64_t start = 500 * SECOND; /* a window begins here */
    assert_true(check(&count, &rule, 1000, start + 50 * SECOND).is_allowed);
    assert_false(check(&count, &rule, 1, start + 99 * SECOND).is_allowed);
    assert_false(check(&count, &rule, 1, start + 100 * SECOND).is_allowed);
    struct limit_verdict v = check(&count, &rule, 500, start + 120 * SECOND); /* 800 still count */
    assert_false(v.is_allowed);
    assert_int_equal(v.remaining, 200);
    assert_int_equal(v.retry_us, 30 * SECOND);
    assert_true(check(&count, &rule, 500, start + 150 * SECOND).is_allowed);
    assert_false(check(&count, &rule, 1, start + 150 * SECOND).is_allowed);
    struct limit_count later = count;
    v = check(&count, &rule, 600, start + 150 * SECOND);
    assert_true(check(&later, &rule, 600, start + 150 * SECOND + v.retry_us).is_allowed);
    assert_int_equal(check(&count, &rule, 0, start + 400 * SECOND).remaining, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gcra_does_as_redis_cell),
        cmocka_unit_test(test_exact_window_against_a_model),
        cmocka_unit_test(test_exact_window_says_what_is_left),
        cmocka_unit_test(test_large_window_forgets_evenly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
