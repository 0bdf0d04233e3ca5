/* The script in a real Redis (TEST_REDIS_URL; the test fails without it) against the arithmetic in C. */
#include "services/limit_redis.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "services/limit_count.h"

#define SECOND 1000000ull
#define START (1800000000ull * SECOND)

static struct loop *loop;
static struct names *names;
static struct redis *redis;
static struct redis_script script;
static char prefix[32];

static int open_redis(void **state)
{
    struct err err = {0};
    const char *url = getenv("TEST_REDIS_URL");
    (void)state;
    assert_non_null(url);
    loop = loop_new();
    names = names_new(loop);
    redis = redis_new(&(struct redis_opts){.loop = loop, .names = names, .url = url}, &err);
    assert_non_null(redis);
    redis_script_create(&script, slice_str(limit_script_source));
    snprintf(prefix, sizeof(prefix), "test:%d:", (int)getpid());
    return 0;
}

static int close_redis(void **state)
{
    (void)state;
    redis_free(redis);
    names_free(names);
    loop_run(loop);
    loop_free(loop);
    return 0;
}

struct asked {
    struct limit_verdict *verdicts;
    size_t n;
};

static void on_reply(void *data, const struct redis_value *value, const struct err *err)
{
    struct asked *asked = data;
    struct err why = {0};
    if (err)
        fail_msg("%s", err->message);
    assert_int_equal(limit_script_read(value, asked->verdicts, asked->n, &why), OK);
    loop_stop(loop);
}

static void ask(const struct limit_demand *demands, size_t n, uint32_t quantity, uint64_t now_us,
                struct limit_verdict *verdicts)
{
    struct limit_script_args args;
    struct asked asked = {verdicts, n};
    limit_script_args_create(&args, prefix, demands, n, quantity, now_us);
    struct redis_script_call call = {.keys = args.keys,
                                     .args = args.args,
                                     .n_keys = args.n_keys,
                                     .n_args = args.n_args,
                                     .done = on_reply,
                                     .data = &asked};
    redis_script_run(redis, &script, &call);
    loop_run(loop);
}

static void compare(const struct limit_rule *rule)
{
    struct limit_demand demand = {rule, slice_str(rule->name)};
    struct limit_count count = {0};
    uint64_t now = START;
    int n_refused = 0;
    for (int i = 0; i < 300; i++) {
        struct limit_verdict ours, theirs;
        uint32_t quantity = (uint32_t)random() % 4;
        now += (uint64_t)random() % (2 * rule->window_us / rule->limit);
        limit_count_test(&count, rule, quantity, now, &ours);
        if (ours.is_allowed)
            limit_count_charge(&count, rule, quantity, now, &ours);
        ask(&demand, 1, quantity, now, &theirs);
        assert_int_equal(theirs.is_allowed, ours.is_allowed);
        assert_int_equal(theirs.remaining, ours.remaining);
        assert_in_range(theirs.retry_us, ours.retry_us > 0 ? ours.retry_us - 1 : 0, ours.retry_us + 1);
        assert_in_range(theirs.reset_us, ours.reset_us, ours.reset_us + 1);
        n_refused += !ours.is_allowed;
    }
    assert_in_range(n_refused, 10, 290);
}

static void test_gcra_as_in_c(void **state)
{
    (void)state;
    compare(&(struct limit_rule){
        .name = "g", .algorithm = LIMIT_GCRA, .limit = 50, .burst = 10, .window_us = 100 * SECOND});
}

static void test_large_windows_as_in_c(void **state)
{
    (void)state;
    compare(&(struct limit_rule){.name = "w", .limit = 200, .window_us = 100 * SECOND});
}

static void test_small_windows_are_exact(void **state)
{
    static uint64_t charges[1000];
    struct limit_rule rule = {.name = "e", .limit = 10, .window_us = 100 * SECOND};
    struct limit_demand demand = {&rule, SLICE("someone@example.com")};
    size_t n = 0, first = 0;
    uint64_t now = START;
    (void)state;
    for (int i = 0; i < 300; i++) {
        struct limit_verdict verdict;
        now += (uint64_t)random() % (20 * SECOND);
        while (first < n && charges[first] + rule.window_us <= now)
            first++;
        ask(&demand, 1, 1, now, &verdict);
        assert_int_equal(verdict.is_allowed, n - first < rule.limit);
        if (verdict.is_allowed)
            charges[n++] = now;
        else
            assert_int_equal(verdict.retry_us, charges[first] + rule.window_us - now);
    }
}

static void test_all_or_none(void **state)
{
    struct limit_rule ten = {.name = "ten", .limit = 10, .window_us = 100 * SECOND};
    struct limit_rule two = {.name = "two", .limit = 2, .window_us = 100 * SECOND};
    struct limit_demand both[] = {{&ten, SLICE("ip")}, {&two, SLICE("account")}};
    struct limit_verdict verdicts[2];
    (void)state;
    for (int i = 0; i < 5; i++) {
        ask(both, 2, 1, START, verdicts);
        assert_int_equal(limit_is_allowed(verdicts, 2), i < 2);
        assert_true(verdicts[0].is_allowed);
        assert_int_equal(verdicts[0].remaining, i == 0 ? 9 : 8);
    }
}

/* As the server asks: machines whose clocks differ count by Redis' one. */
static void test_time_is_that_of_redis(void **state)
{
    struct limit_rule rule = {.name = "now", .limit = 1, .window_us = 100 * SECOND};
    struct limit_demand demand = {&rule, SLICE("ip")};
    struct limit_verdict verdict;
    (void)state;
    ask(&demand, 1, 1, 0, &verdict);
    assert_true(verdict.is_allowed);
    uint64_t half_a_window_on = (uint64_t)clock_wall_ms() * 1000 + rule.window_us / 2;
    ask(&demand, 1, 1, half_a_window_on, &verdict);
    assert_false(verdict.is_allowed);
    assert_in_range(verdict.retry_us, 1, rule.window_us / 2 + SECOND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gcra_as_in_c),
        cmocka_unit_test(test_large_windows_as_in_c),
        cmocka_unit_test(test_small_windows_are_exact),
        cmocka_unit_test(test_all_or_none),
        cmocka_unit_test(test_time_is_that_of_redis),
    };
    return cmocka_run_group_tests(tests, open_redis, close_redis);
}
