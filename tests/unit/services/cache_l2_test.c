/* What Redis answers and what other nodes say, as bytes; and the scripts in a real Redis (TEST_REDIS_URL; the test
 * fails without it): T13 in L2, whatever L1 may have prevented before. */
#include "services/cache_l2.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/redis_sub.h"

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

/* ---- in Redis ------------------------------------------------------------------------------------------------ */

static struct world {
    struct loop *loop;
    struct names *names;
    struct redis *redis;
    struct cache_l2 l2;
    struct cache_l2_answer answer;
    char value[64], said[64]; /* of a hit; of the last message */
    int64_t number;
} w;

static int open_redis(void **state)
{
    static int n;
    struct err err = {0};
    const char *url = getenv("TEST_REDIS_URL");
    char name_space[32];
    (void)state;
    assert_non_null(url);
    w = (struct world){.loop = loop_new()};
    w.names = names_new(w.loop);
    w.redis = redis_new(&(struct redis_opts){.loop = w.loop, .names = w.names, .url = url}, &err);
    assert_non_null(w.redis);
    snprintf(name_space, sizeof(name_space), "l2test:%d:%d", (int)getpid(), n++);
    cache_l2_create(&w.l2, w.redis, name_space);
    return 0;
}

static int close_redis(void **state)
{
    (void)state;
    redis_free(w.redis);
    names_free(w.names);
    loop_run(w.loop);
    loop_free(w.loop);
    return 0;
}

static void on_answer(void *data, const struct redis_value *value, const struct err *err)
{
    (void)data;
    if (err)
        fail_msg("%s", err->message);
    assert_true(cache_l2_read(value, &w.answer));
    snprintf(w.value, sizeof(w.value), "%.*s", SLICE_FMT(w.answer.value));
    loop_stop(w.loop);
}

static void on_number(void *data, const struct redis_value *value, const struct err *err)
{
    (void)data;
    if (err)
        fail_msg("%s", err->message);
    w.number = value->integer;
    loop_stop(w.loop);
}

static const struct slice tags[] = {{"red", 3}, {"blue", 4}};
static const struct cache_subject subject = {{"k", 1}, tags, 2};

static const struct cache_l2_answer *look(enum cache_l2_mode mode)
{
    cache_l2_lookup(&w.l2, mode, &subject, 0, on_answer, NULL);
    loop_run(w.loop);
    return &w.answer;
}

static bool keep(const struct cache_token *token, const char *value, uint64_t fresh_ms, uint64_t life_ms)
{
    struct cache_l2_item item = {subject, token, CACHE_STRING, slice_str(value), fresh_ms, life_ms};
    cache_l2_store(&w.l2, &item, 0, on_number, NULL);
    loop_run(w.loop);
    return w.number == 1;
}

static void forget(const char *key, const char *tag)
{
    struct slice k = slice_str(key), t = slice_str(tag);
    struct cache_names names = {.keys = &k, .tags = &t, .n_keys = key != NULL, .n_tags = tag != NULL};
    cache_l2_forget(&w.l2, &names, 7, 0, on_number, NULL);
    loop_run(w.loop);
}

static void test_what_is_kept_comes_back(void **state)
{
    (void)state;
    assert_false(look(CACHE_L2_GET)->is_hit);
    struct cache_token token = look(CACHE_L2_FETCH)->token;
    assert_int_equal(token.n, 4);
    assert_true(keep(&token, "a\nb", 60000, 90000));
    assert_true(look(CACHE_L2_GET)->is_hit);
    assert_true(look(CACHE_L2_FETCH)->is_hit);
    assert_string_equal(w.value, "a\nb");
    assert_int_equal(w.answer.kind, CACHE_STRING);
    assert_in_range(w.answer.fresh_ms, 50000, 60000);
    assert_in_range(w.answer.left_ms, 80000, 90000);
    assert_false(look(CACHE_L2_TOKEN)->is_hit);
    assert_memory_equal(&w.answer.token, &token, sizeof(token)); /* nothing was forgotten */
    assert_true(keep(&token, "stale", 0, 90000));
    assert_true(look(CACHE_L2_FETCH)->fresh_ms <= 0);
}

/* T13: each thing that may be forgotten voids the value, and the token from before. */
static void test_forgetting(void **state)
{
    (void)state;
    static const char *const what[][2] = {{"k", NULL}, {NULL, "red"}, {NULL, "blue"}, {NULL, ""}};
    for (size_t i = 0; i < ARRAY_LEN(what); i++) {
        struct cache_token token = look(CACHE_L2_FETCH)->token;
        assert_true(keep(&token, "old", 60000, 60000));
        forget(what[i][0], what[i][1]);
        assert_false(keep(&token, "old", 60000, 60000));
        assert_false(look(CACHE_L2_FETCH)->is_hit);
        forget("other", "green");
        token = w.answer.token;
        assert_true(keep(&token, "new", 60000, 60000));
        assert_true(look(CACHE_L2_FETCH)->is_hit);
        assert_string_equal(w.value, "new");
        forget("k", NULL);
        look(CACHE_L2_FETCH);
    }
}

static void drop_key(const char *kind)
{
    char key[96];
    snprintf(key, sizeof(key), "%s:%s", w.l2.name_space, kind);
    struct slice argv[] = {SLICE("DEL"), slice_str(key)};
    redis_command(w.redis, &(struct redis_call){.argv = argv, .argc = 2, .done = on_number});
    loop_run(w.loop);
    assert_int_equal(w.number, 1);
}

/* An epoch that Redis has lost must not pass for an unchanged one. */
static void test_lost_epochs(void **state)
{
    (void)state;
    char epoch[16];
    snprintf(epoch, sizeof(epoch), "k:%u", cache_l2_slot(subject.key));
    const char *const lost[] = {epoch, "t:red", "t:"};
    for (size_t i = 0; i < ARRAY_LEN(lost); i++) {
        struct cache_token token = look(CACHE_L2_TOKEN)->token;
        assert_true(keep(&token, "v", 60000, 60000));
        drop_key(lost[i]);
        assert_false(keep(&token, "v", 60000, 60000));
        if (i > 0) /* the key's own epoch guards only storing: forgetting the key deletes its value */
            assert_false(look(CACHE_L2_GET)->is_hit);
    }
    struct cache_token token = look(CACHE_L2_TOKEN)->token;
    drop_key(epoch);
    drop_key("clock");
    look(CACHE_L2_TOKEN);
    assert_true(strcmp(token.epochs[0], w.answer.token.epochs[0]) != 0); /* none comes back */
}

static void on_news(void *data, const struct redis_news *news)
{
    (void)data;
    if (news->event == REDIS_SUB_MESSAGE)
        snprintf(w.said, sizeof(w.said), "%.*s", SLICE_FMT(news->payload));
    loop_stop(w.loop);
}

static void test_everybody_is_told(void **state)
{
    (void)state;
    struct buf name = {0};
    struct cache_news news;
    cache_l2_channel(&w.l2, &name);
    struct slice channel = buf_as_slice(&name);
    struct redis_sub *sub =
        redis_subscribe(w.redis, &(struct redis_sub_opts){.channels = &channel, .n_channels = 1, .fn = on_news});
    while (!redis_sub_is_ready(sub))
        loop_run(w.loop);
    uint64_t last = 0;
    for (int i = 0; i < 3; i++) {
        w.said[0] = '\0';
        forget("k", "red");
        while (!w.said[0])
            loop_run(w.loop);
        assert_true(cache_news_read(slice_str(w.said), &news));
        assert_int_equal(news.node, 7);
        assert_true(slice_eq(news.names, SLICE("k1:kt3:red")));
        if (i > 0)
            assert_int_equal(news.seq, last + 1);
        last = news.seq;
    }
    redis_sub_close(sub);
    buf_free(&name);
}

int main(void)
{
#define LIVE(test) cmocka_unit_test_setup_teardown(test, open_redis, close_redis)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_news), cmocka_unit_test(test_answers), LIVE(test_what_is_kept_comes_back),
        LIVE(test_forgetting),       LIVE(test_lost_epochs),         LIVE(test_everybody_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
