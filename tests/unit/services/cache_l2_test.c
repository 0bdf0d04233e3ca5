/* What Redis answers and what other nodes say, as bytes; the scripts themselves run in spec/cache_spec.lua. */
#include "services/cache_l2.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void test_news(void **state)
{
    (void)state;
    struct cache_news news;
    struct slice name;
    bool is_tag;
    assert_true(cache_news_read(SLICE("12 18446744073709551615\nk3:a:bt1:xt0:"), &news));
    assert_true(news.seq == 12 && news.node == UINT64_MAX);
    assert_true(cache_news_next(&news, &is_tag, &name) && !is_tag && slice_eq(name, SLICE("a:b")));
    assert_true(cache_news_next(&news, &is_tag, &name) && is_tag && slice_eq(name, SLICE("x")));
    assert_true(cache_news_next(&news, &is_tag, &name) && is_tag && name.len == 0);
    assert_false(cache_news_next(&news, &is_tag, &name));
    assert_int_equal(news.names.len, 0);
    static const char *const no_news[] = {"", "12", "12 ", "12 7", "x 7\n", "-1 7\n", "12 111111111111111111111111\n"};
    for (size_t i = 0; i < ARRAY_LEN(no_news); i++)
        assert_false(cache_news_read(slice_str(no_news[i]), &news));
    static const char *const no_names[] = {"1 1\nk5:abcd", "1 1\nz1:a", "1 1\nk:a",
                                           "1 1\nk-1:a",   "1 1\nk9",   "1 1\nk251:"};
    for (size_t i = 0; i < ARRAY_LEN(no_names); i++) {
        assert_true(cache_news_read(slice_str(no_names[i]), &news));
        assert_false(cache_news_next(&news, &is_tag, &name));
        assert_true(news.names.len > 0); /* says that it is nonsense, not the end */
    }
}

static struct redis_value integer(int64_t n)
{
    return (struct redis_value){.type = REDIS_INTEGER, .integer = n};
}

static struct redis_value string(const char *text)
{
    return (struct redis_value){.type = REDIS_STRING, .str = slice_str(text)};
}

static bool read_items(const struct redis_value *items, size_t n, struct cache_l2_answer *answer)
{
    struct redis_value value = {.type = REDIS_ARRAY, .items = items, .n_items = n};
    return cache_l2_read(&value, answer);
}

static void test_answers(void **state)
{
    (void)state;
    struct cache_l2_answer answer;
    struct redis_value hit[] = {integer(1), integer(CACHE_STRING), integer(-5), integer(900), string("v")};
    assert_true(read_items(hit, 5, &answer));
    assert_true(answer.is_hit && answer.kind == CACHE_STRING && answer.fresh_ms == -5 && answer.left_ms == 900);
    assert_true(slice_eq(answer.value, SLICE("v")));
    assert_false(read_items(hit, 4, &answer));
    hit[1] = integer(CACHE_N_KINDS); /* written by another version */
    assert_false(read_items(hit, 5, &answer));
    struct redis_value miss[] = {integer(0), string("170"), string("171")};
    assert_true(read_items(miss, 3, &answer));
    assert_true(!answer.is_hit && answer.token.n == 2);
    assert_string_equal(answer.token.epochs[1], "171");
    miss[2] = string("an epoch that is much too long");
    assert_false(read_items(miss, 3, &answer));
    struct redis_value many[CACHE_STAMPS_MAX + 2] = {integer(0)};
    for (size_t i = 1; i < ARRAY_LEN(many); i++)
        many[i] = string("1");
    assert_false(read_items(many, ARRAY_LEN(many), &answer));
    assert_false(read_items(miss, 0, &answer));
    struct redis_value text = string("OK");
    assert_false(cache_l2_read(&text, &answer));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_news), cmocka_unit_test(test_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
