/* A scripted Redis on a Unix socket, with a frozen clock: shared by the redis_* tests. Time moves only where a test
 * moves it; each test fails if bytes differ. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/redis.h"

#define HANDSHAKE "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$5\r\nchowk\r\n*1\r\n$4\r\nPING\r\n"
#define WELCOME "+OK\r\n+PONG\r\n"

static struct loop *loop;
static struct redis *redis;
static char dir[] = "/tmp/redis_peer_test.XXXXXX";
static char path[64];
static int listener, peer; /* the connection a test talks over */
static uint64_t now_ms;

/* Enough turns for whatever the kernel has for us already: Unix sockets deliver at once. */
static void turns(void)
{
    for (int i = 0; i < 8; i++)
        loop_turn(loop, false);
}

static void pass(uint64_t ms)
{
    now_ms += ms;
    clock_fake(now_ms, 1);
    turns();
}

static int accept_one(void)
{
    turns();
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    turns();
    return fd;
}

static void reads(int fd, const char *expected)
{
    char got[8192];
    turns();
    ssize_t n = recv(fd, got, sizeof got - 1, MSG_DONTWAIT);
    got[n > 0 ? n : 0] = '\0';
    assert_string_equal(got, expected);
}

static void says(int fd, const char *bytes)
{
    assert_int_equal(send(fd, bytes, strlen(bytes), MSG_NOSIGNAL), (ssize_t)strlen(bytes));
    turns();
}

static UNUSED bool is_closed(int fd)
{
    char rest[8192];
    ssize_t n;
    turns();
    while ((n = recv(fd, rest, sizeof rest, MSG_DONTWAIT)) > 0)
        continue;
    return n == 0;
}

/* The next connection, past its handshake. */
static int welcome(void)
{
    int fd = accept_one();
    assert_true(fd >= 0);
    reads(fd, HANDSHAKE);
    says(fd, WELCOME);
    return fd;
}

/* ---- what one command ended with ---- */

struct outcome {
    int n_calls;
    enum err_code code; /* ERR_NONE: a value came */
    enum redis_type type;
    char text[384];
};

static void on_done(void *data, const struct redis_value *value, const struct err *err)
{
    struct outcome *outcome = data;
    outcome->n_calls++;
    assert_true((value == NULL) != (err == NULL));
    outcome->code = err ? err->code : ERR_NONE;
    outcome->type = value ? value->type : REDIS_NIL;
    if (err)
        snprintf(outcome->text, sizeof outcome->text, "%s", err->message);
    else
        snprintf(outcome->text, sizeof outcome->text, "%.*s", SLICE_FMT(value->str));
}

/* line: its words, separated by one space */
static UNUSED struct redis_op *command(struct outcome *outcome, uint64_t deadline_ms, const char *line)
{
    struct slice argv[8];
    size_t argc = 0;
    *outcome = (struct outcome){0};
    for (const char *at = line; *at; at += argv[argc++].len) {
        at += *at == ' ';
        argv[argc] = slice_of(at, strcspn(at, " "));
    }
    return redis_command(
        redis,
        &(struct redis_call){.argv = argv, .argc = argc, .deadline_ms = deadline_ms, .done = on_done, .data = outcome});
}

/* ---- each test's beginning and end ---- */

static int setup(void **state)
{
    (void)state;
    log_open(STDERR_FILENO, LOG_ERROR, false, NULL);
    now_ms = 1000000;
    clock_fake(now_ms, 1);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    loop = loop_new();
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 16) != 0)
        return -1;
    char url[128];
    snprintf(url, sizeof url, "unix://%s", path);
    redis = redis_new(&(struct redis_opts){.loop = loop, .url = url, .max_blocking = 2}, NULL);
    peer = welcome();
    return redis_is_up(redis) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    redis_free(redis);
    redis = NULL;
    turns();
    loop_free(loop);
    close(listener);
    close(peer);
    clock_fake(0, 0);
    return 0;
}

static int run_peer_tests(const struct CMUnitTest *tests, size_t n)
{
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof path, "%s/redis.sock", dir);
    int failed = _cmocka_run_group_tests("redis", tests, n, NULL, NULL);
    unlink(path);
    rmdir(dir);
    return failed;
}
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
