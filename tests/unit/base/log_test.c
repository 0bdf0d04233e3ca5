#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/metrics.h"

static int fds[2];
static char got[1 << 17];

static int setup(void **state)
{
    (void)state;
    clock_fake(1000, 1795414756123);
    return pipe2(fds, O_NONBLOCK);
}

static int teardown(void **state)
{
    (void)state;
    clock_fake(0, 0);
    log_open(STDERR_FILENO, LOG_INFO, false, NULL);
    close(fds[0]);
    close(fds[1]);
    return 0;
}

/* What has come out so far. */
static const char *read_all(void)
{
    size_t len = 0;
    for (ssize_t n; len < sizeof got - 1 && (n = read(fds[0], got + len, sizeof got - 1 - len)) > 0;)
        len += (size_t)n;
    got[len] = '\0';
    return got;
}

static void test_json_line(void **state)
{
    (void)state;
    log_open(fds[1], LOG_INFO, true, "worker 1");
    log_warn("it \"broke\"", LOG_S("route", "/a\nb"), LOG_I("status", -503), LOG_J("extra", SLICE("{\"a\":[1]}")));
    assert_string_equal(read_all(), "{\"ts\":\"2026-11-23T06:19:16.123Z\",\"level\":\"warn\",\"process\":\"worker 1\","
                                    "\"msg\":\"it \\\"broke\\\"\",\"route\":\"/a\\nb\",\"status\":-503,"
                                    "\"extra\":{\"a\":[1]}}\n");
}

static void test_json_of_hostile_values_is_json(void **state)
{
    (void)state;
    struct arena arena;
    struct err err;
    arena_create(&arena);
    log_open(fds[1], LOG_INFO, true, NULL);
    log_info("m", LOG_SL("bytes", slice_of("\xFF\0\n\"\\\x1f", 6)), LOG_S("none", NULL), LOG_J("raw", SLICE("")));
    read_all();
    assert_int_equal(json_read(slice_str(got), NULL, NULL, NULL, &arena, &err), OK);
    assert_non_null(strstr(got, "\"bytes\":\"\xEF\xBF\xBD\\u0000\\n\\\"\\\\\\u001f\",\"none\":null,\"raw\":null"));
    arena_destroy(&arena);
}

static void test_no_fields(void **state)
{
    (void)state;
    log_open(fds[1], LOG_INFO, true, "master");
    log_info("started");
    assert_non_null(strstr(read_all(), "\"process\":\"master\",\"msg\":\"started\"}\n"));
}

static int n_evaluated;

static const char *evaluated(void)
{
    n_evaluated++;
    return "x";
}

static void test_level(void **state)
{
    (void)state;
    log_open(fds[1], LOG_WARN, true, NULL);
    assert_false(log_is_on(LOG_INFO));
    assert_true(log_is_on(LOG_WARN));
    log_info("no", LOG_S("k", evaluated()));
    assert_string_equal(read_all(), "");
    assert_int_equal(n_evaluated, 0); /* an unwanted line costs nothing */
    log_error("yes", LOG_S("k", evaluated()));
    assert_int_equal(n_evaluated, 1);
    assert_non_null(strstr(read_all(), "\"msg\":\"yes\""));
}

static void test_text_line(void **state)
{
    (void)state;
    log_open(fds[1], LOG_DEBUG, false, "worker 1");
    log_debug("request", LOG_S("path", "/api/x"), LOG_S("agent", "a b"), LOG_I("ms", 12), LOG_S("empty", ""));
    assert_string_equal(read_all(),
                        "06:19:16.123 DEBUG worker 1: request path=/api/x agent=\"a b\" ms=12 empty=\"\"\n");
}

/* A peer's bytes may neither begin a line of their own nor steer the terminal. */
static void test_text_cannot_be_forged(void **state)
{
    (void)state;
    log_open(fds[1], LOG_INFO, false, NULL);
    log_info("a\n00:00:00.000 ERROR forged", LOG_SL("esc", SLICE("\x1b[2J\x7f\xC2\x9B हि")),
             LOG_S("trace", "one\ntwo\nthree"), LOG_I("n", 1));
    assert_string_equal(read_all(),
                        "06:19:16.123 INFO  a\n    00:00:00.000 ERROR forged esc=\"\\x1b[2J\\x7f\\xc2\x9B हि\" n=1\n"
                        "  trace:\n    one\n    two\n    three\n");
}

static void test_errno_survives(void **state)
{
    (void)state;
    log_open(fds[0], LOG_INFO, true, NULL); /* the reading end: write fails with EBADF */
    errno = ENOENT;
    log_info("x");
    assert_int_equal(errno, ENOENT);
    log_open(fds[1], LOG_INFO, true, NULL);
    log_info("y");
    assert_non_null(strstr(read_all(), "\"msg\":\"y\",\"lost_lines\":1}"));
    log_info("z");
    assert_null(strstr(read_all(), "lost_lines"));
}

/* A full pipe takes a last line in part: nothing blocks, and what follows is a line of its own again. */
static void test_full_pipe_loses_lines_and_counts_them(void **state)
{
    (void)state;
    static char text[3000];
    memset(text, 'x', sizeof text - 1);
    log_open(fds[1], LOG_INFO, true, NULL);
    for (int i = 0; i < 1000; i++)
        log_info("fill", LOG_S("text", text));
    read_all();
    log_info("after");
    const char *after = strstr(read_all(), "{\"ts\"");
    assert_non_null(after);
    assert_true(after == got || after[-1] == '\n');
    const char *lost = strstr(after, "\"lost_lines\":");
    assert_non_null(lost);
    assert_in_range(atoi(lost + 13), 950, 999);
}

static void test_long_line_in_one_piece(void **state)
{
    (void)state;
    char *text = xalloc(60001);
    memset(text, 'y', 60000);
    log_open(fds[1], LOG_INFO, true, NULL);
    log_info("long", LOG_S("text", text));
    assert_true(strlen(read_all()) > 60000);
    assert_string_equal(got + strlen(got) - 3, "\"}\n");
    free(text);
}

static struct buf sunk;
static size_t n_to_drop;

static size_t sink(void *data, struct slice line)
{
    assert_ptr_equal(data, &sunk);
    if (n_to_drop == 0)
        buf_slice(&sunk, line);
    return n_to_drop;
}

static void test_sink(void **state)
{
    (void)state;
    log_open(fds[1], LOG_INFO, true, NULL);
    log_set_sink(sink, &sunk);
    uint64_t before = metrics_sum(METRIC_LOG_DROPPED);
    log_info("here");
    n_to_drop = 1;
    log_info("lost");
    n_to_drop = 0;
    log_set_sink(NULL, NULL);
    assert_string_equal(read_all(), "");
    buf_byte(&sunk, '\0');
    assert_non_null(strstr(sunk.ptr, "\"msg\":\"here\"}\n"));
    assert_null(strstr(sunk.ptr, "lost"));
    assert_int_equal(metrics_sum(METRIC_LOG_DROPPED) - before, 1);
    buf_free(&sunk);
}

static void log_private(void)
{
    log_info("mail to a@b.in", LOG_S("password", "x"), LOG_I("phone", 42), LOG_S("ip", "192.0.2.7"),
             LOG_J("user", SLICE("{\"token\":1}")), LOG_S("trace", "one\nc@d.in"), LOG_S("route", "/x"));
}

static void test_redacts(void **state)
{
    (void)state;
    log_open(fds[1], LOG_INFO, true, NULL);
    log_private();
    assert_non_null(strstr(read_all(), "\"msg\":\"mail to [email]\",\"password\":\"***\",\"phone\":\"***\","
                                       "\"ip\":\"192.0.2.0\",\"user\":{\"token\":\"***\"},"
                                       "\"trace\":\"one\\n[email]\",\"route\":\"/x\"}\n"));
    log_open(fds[1], LOG_INFO, false, NULL);
    log_private();
    assert_non_null(strstr(read_all(), "mail to [email] password=*** phone=*** ip=192.0.2.0 "));
    assert_non_null(strstr(got, "route=/x\n  trace:\n    one\n    [email]\n"));
    log_set_redact(false, true);
    log_private();
    log_set_redact(true, false);
    assert_non_null(strstr(read_all(), "mail to a@b.in password=x phone=42 ip=192.0.2.7 "));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_json_line),
        TEST(test_json_of_hostile_values_is_json),
        TEST(test_no_fields),
        TEST(test_level),
        TEST(test_text_line),
        TEST(test_text_cannot_be_forged),
        TEST(test_errno_survives),
        TEST(test_full_pipe_loses_lines_and_counts_them),
        TEST(test_long_line_in_one_piece),
        TEST(test_sink),
        TEST(test_redacts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
