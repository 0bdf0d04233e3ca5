/* Against a real Redis (TEST_REDIS_URL, set by the runner; the test fails without it): types, binary safety, a pipeline
 * larger than any buffer, a killed connection that heals, a name to look up, a server that is not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/redis.h"

#define PATIENCE_MS 20000 /* a hang, not a measure of speed */

static struct loop *loop;
static struct names *names;
static struct redis *redis;
static char prefix[32];

struct outcome {
    int n_calls;
    enum err_code code;
    struct redis_value value; /* str and items are not kept */
    char text[384];
    size_t n_items;
    enum redis_type first;
};

static void on_done(void *data, const struct redis_value *value, const struct err *err)
{
    struct outcome *outcome = data;
    outcome->n_calls++;
    if (err) {
        outcome->code = err->code;
        snprintf(outcome->text, sizeof outcome->text, "%s", err->message);
        return;
    }
    outcome->value = *value;
    outcome->n_items = value->n_items;
    outcome->first = value->n_items > 0 ? value->items[0].type : REDIS_NIL;
    snprintf(outcome->text, sizeof outcome->text, "%.*s", SLICE_FMT(value->str));
}

static struct redis_op *send_argv(struct outcome *outcome, const struct slice *argv, size_t argc)
{
    *outcome = (struct outcome){0};
    return redis_command(redis, &(struct redis_call){.argv = argv, .argc = argc, .done = on_done, .data = outcome});
}

/* Words are separated by spaces; "@k" is a key of this test run. */
static struct redis_op *send_line(struct outcome *outcome, const char *line)
{
    static char words[8][64];
    struct slice argv[8];
    size_t argc = 0;
    for (const char *at = line; *at; argc++) {
        at += *at == ' ';
        int len = (int)strcspn(at, " ");
        if (*at == '@')
            snprintf(words[argc], sizeof words[argc], "%s:%.*s", prefix, len - 1, at + 1);
        else
            snprintf(words[argc], sizeof words[argc], "%.*s", len, at);
        argv[argc] = slice_str(words[argc]);
        at += len;
    }
    return send_argv(outcome, argv, argc);
}

static void wait_for(const struct outcome *outcome)
{
    uint64_t end = clock_ms() + PATIENCE_MS;
    while (outcome->n_calls == 0 && clock_ms() < end)
        loop_turn(loop, true);
    assert_int_equal(outcome->n_calls, 1);
}

static struct outcome run(const char *line)
{
    struct outcome outcome;
    send_line(&outcome, line);
    wait_for(&outcome);
    return outcome;
}

static void open_url(const char *url)
{
    struct err err;
    redis = redis_new(&(struct redis_opts){.loop = loop, .names = names, .url = url}, &err);
    if (!redis)
        fail_msg("%s", err.message);
}

static void close_redis(void)
{
    redis_free(redis);
    redis = NULL;
    for (int i = 0; i < 3; i++)
        loop_turn(loop, false);
}

static int setup(void **state)
{
    (void)state;
    const char *url = getenv("TEST_REDIS_URL");
    if (!url) {
        print_error("TEST_REDIS_URL is not set: this test needs a Redis (tests/run.sh starts one)\n");
        return -1;
    }
    log_open(STDERR_FILENO, LOG_ERROR, false, NULL);
    snprintf(prefix, sizeof prefix, "redis_test:%d", (int)getpid());
    loop = loop_new();
    names = names_new(loop);
    open_url(url);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (!loop)
        return 0;
    if (redis)
        close_redis();
    names_free(names);
    for (int i = 0; i < 3; i++)
        loop_turn(loop, false);
    loop_free(loop);
    return 0;
}

static void answers_each_type(void **state)
{
    (void)state;
    struct outcome got = run("SET @s hello EX 60");
    assert_int_equal(got.value.type, REDIS_STATUS);
    assert_string_equal(got.text, "OK");
    assert_true(redis_is_up(redis));
    assert_string_equal(run("GET @s").text, "hello");
    assert_int_equal(run("GET @nothing").value.type, REDIS_NIL);
    assert_true(run("INCRBY @n 9007199254740993").value.integer == INT64_C(9007199254740993));
    got = run("MGET @s @nothing");
    assert_int_equal(got.value.type, REDIS_ARRAY);
    assert_int_equal(got.n_items, 2);
    assert_int_equal(got.first, REDIS_STRING);
    got = run("LPUSH @s x");
    assert_int_equal(got.code, ERR_REDIS);
    assert_true(slice_has_prefix(slice_str(got.text), SLICE("WRONGTYPE ")));
    run("DEL @s @n");
}

static void is_binary_safe(void **state)
{
    (void)state;
    char key[64];
    snprintf(key, sizeof key, "%s:bin", prefix);
    struct slice bytes = slice_of("\0\r\n$3\r\n\xff", 8);
    struct outcome set, len, empty;
    send_argv(&set, (struct slice[]){SLICE("SET"), slice_str(key), bytes}, 3);
    send_argv(&len, (struct slice[]){SLICE("STRLEN"), slice_str(key)}, 2);
    send_argv(&empty, (struct slice[]){SLICE("SET"), slice_str(key), SLICE("")}, 3);
    wait_for(&empty);
    assert_string_equal(set.text, "OK");
    assert_true(len.value.integer == 8);
    assert_int_equal(run("GET @bin").value.str.len, 0);
    run("DEL @bin");
}

/* 4 000 commands and 40 MB each way: more than the socket takes at once, in both directions. */
static void pipelines_in_order(void **state)
{
    (void)state;
    enum { N = 2000, VALUE = 20000 };
    static struct outcome sets[N], gets[N];
    static char value[VALUE];
    char key[64];
    memset(value, 'v', sizeof value);
    snprintf(key, sizeof key, "%s:list", prefix);
    for (int i = 0; i < N; i++) {
        snprintf(value, sizeof value, "%d", i);
        value[strlen(value)] = '.';
        send_argv(&sets[i], (struct slice[]){SLICE("SET"), slice_str(key), slice_of(value, VALUE)}, 3);
        send_argv(&gets[i], (struct slice[]){SLICE("GET"), slice_str(key)}, 2);
    }
    wait_for(&gets[N - 1]);
    for (int i = 0; i < N; i++) {
        assert_string_equal(sets[i].text, "OK");
        assert_int_equal(gets[i].value.str.len, VALUE);
        assert_int_equal(atoi(gets[i].text), i);
        assert_int_equal(gets[i].n_calls, 1);
    }
    run("DEL @list");
}

/* redis-cli cuts the connection down from outside: CLIENT KILL is refused on ours. */
static void kill_client(int64_t id)
{
    const char *url = getenv("TEST_REDIS_URL");
    char line[512];
    snprintf(line, sizeof line, "redis-cli %s '%s' CLIENT KILL ID %lld >/dev/null",
             strncmp(url, "unix://", 7) == 0 ? "-s" : "-u", strncmp(url, "unix://", 7) == 0 ? url + 7 : url,
             (long long)id);
    assert_int_equal(system(line), 0);
}

static void heals_after_a_kill(void **state)
{
    (void)state;
    struct outcome id = run("CLIENT ID"), again;
    assert_int_equal(id.value.type, REDIS_INTEGER);
    kill_client(id.value.integer);
    again = run("CLIENT ID");
    if (again.code == ERR_UNAVAILABLE) /* it met the dead connection, and had run on it or not */
        again = run("CLIENT ID");
    assert_int_equal(again.value.type, REDIS_INTEGER);
    assert_true(again.value.integer != id.value.integer);
}

static void says_who_is_not_there(void **state)
{
    (void)state;
    close_redis();
    open_url("redis://127.0.0.1:1");
    struct outcome got = run("GET @k");
    assert_int_equal(got.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(got.text, "127.0.0.1:1"));
    assert_false(redis_is_up(redis));
    close_redis();
    open_url("redis://no-such-host.invalid");
    got = run("GET @k");
    assert_int_equal(got.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(got.text, "no-such-host.invalid"));
    close_redis();
    open_url("redis://no-such-host.invalid"); /* freed while the name is looked up */
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(answers_each_type),  TEST(is_binary_safe),        TEST(pipelines_in_order),
        TEST(heals_after_a_kill), TEST(says_who_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
