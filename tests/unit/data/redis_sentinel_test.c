/* Sentinel against scripted sentinels and servers on private TCP ports, with a frozen clock: the order of asking, whom
 * it comes to know, ROLE, what +switch-master starts, and what is said when nobody knows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/redis.h"

#define HELLO "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$5\r\nchowk\r\n"
#define PING "*1\r\n$4\r\nPING\r\n"
#define ROLE "*1\r\n$4\r\nROLE\r\n"
#define ASK                                                                                                            \
    "*3\r\n$8\r\nSENTINEL\r\n$23\r\nget-master-addr-by-name\r\n$4\r\nshop\r\n"                                         \
    "*3\r\n$8\r\nSENTINEL\r\n$9\r\nsentinels\r\n$4\r\nshop\r\n"
#define WATCH "*2\r\n$9\r\nSUBSCRIBE\r\n$14\r\n+switch-master\r\n"
#define PRIMARY "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
#define REPLICA "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:0\r\n"

static struct loop *loop;
static struct names *names;
static struct redis *redis;
static uint64_t now_ms;

struct place {
    int listener, port;
} sentinel[2], node[2];

static void turns(void)
{
    for (int i = 0; i < 30; i++) {
        loop_turn(loop, false);
        poll(NULL, 0, i % 10 == 9 ? 1 : 0); /* TCP on the loopback may need a moment */
    }
}

static void pass(uint64_t ms)
{
    now_ms += ms;
    clock_fake(now_ms, 1);
    turns();
}

static struct place place_open(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    struct place place = {.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
    assert_int_equal(bind(place.listener, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(place.listener, 8), 0);
    assert_int_equal(getsockname(place.listener, (struct sockaddr *)&address, &len), 0);
    place.port = ntohs(address.sin_port);
    return place;
}

static int accept_one(struct place place)
{
    turns();
    int fd = accept4(place.listener, NULL, NULL, SOCK_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* what it says leaves at once */
    return fd;
}

static void reads(int fd, const char *expected)
{
    char got[4096];
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

/* The two connections to a sentinel, in the order in which they were made: the watch and the question. */
static int sentinel_welcome(struct place place, const char *then)
{
    int fd = accept_one(place);
    assert_true(fd >= 0);
    reads(fd, HELLO PING);
    says(fd, "+OK\r\n+PONG\r\n");
    reads(fd, then);
    return fd;
}

static void answer(int fd, int port, int other_port)
{
    char text[512], digits[12], other[12];
    snprintf(digits, sizeof digits, "%d", port);
    snprintf(other, sizeof other, "%d", other_port);
    snprintf(
        text, sizeof text,
        "*2\r\n$9\r\n127.0.0.1\r\n$%zu\r\n%s\r\n*1\r\n*6\r\n$4\r\nname\r\n$1\r\nx\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n"
        "$4\r\nport\r\n$%zu\r\n%s\r\n",
        strlen(digits), digits, strlen(other), other);
    says(fd, text);
    close(fd);
    turns();
}

static int node_welcome(struct place place, const char *role)
{
    int fd = accept_one(place);
    assert_true(fd >= 0);
    reads(fd, HELLO ROLE PING);
    says(fd, "+OK\r\n");
    says(fd, role);
    if (strcmp(role, PRIMARY) == 0)
        says(fd, "+PONG\r\n");
    return fd;
}

static void start(int first_port)
{
    char url[128];
    snprintf(url, sizeof url, "redis+sentinel://127.0.0.1:%d/shop", first_port);
    redis = redis_new(&(struct redis_opts){.loop = loop, .names = names, .url = url}, NULL);
    assert_non_null(redis);
}

struct outcome {
    int n_calls;
    enum err_code code;
    char text[384];
};

static void on_done(void *data, const struct redis_value *value, const struct err *err)
{
    struct outcome *outcome = data;
    (void)value;
    outcome->n_calls++;
    outcome->code = err ? err->code : ERR_NONE;
    snprintf(outcome->text, sizeof outcome->text, "%s", err ? err->message : "");
}

static void get(struct outcome *outcome)
{
    struct slice argv[] = {SLICE("GET"), SLICE("k")};
    *outcome = (struct outcome){0};
    redis_command(redis, &(struct redis_call){.argv = argv, .argc = 2, .done = on_done, .data = outcome});
}

static int setup(void **state)
{
    (void)state;
    log_open(STDERR_FILENO, LOG_ERROR, false, NULL);
    now_ms = 1000000;
    clock_fake(now_ms, 1);
    loop = loop_new();
    names = names_new(loop);
    for (int i = 0; i < 2; i++) {
        sentinel[i] = place_open();
        node[i] = place_open();
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    redis_free(redis);
    turns();
    names_free(names);
    turns();
    loop_free(loop);
    for (int i = 0; i < 2; i++) {
        close(sentinel[i].listener);
        close(node[i].listener);
    }
    clock_fake(0, 0);
    return 0;
}

/* Asks at every reconnection; the sentinel that the first one named is asked when that one is gone. */
static void finds_and_finds_again(void **state)
{
    (void)state;
    start(sentinel[0].port);
    int watch = sentinel_welcome(sentinel[0], WATCH), ask = sentinel_welcome(sentinel[0], ASK);
    answer(ask, node[0].port, sentinel[1].port);
    int fd = node_welcome(node[0], PRIMARY);
    assert_true(redis_is_up(redis));
    close(watch);
    close(sentinel[0].listener);
    turns();
    pass(1000);
    watch = sentinel_welcome(sentinel[1], WATCH);
    close(fd);
    turns();
    assert_false(redis_is_up(redis));
    pass(100);
    ask = sentinel_welcome(sentinel[1], ASK);
    answer(ask, node[1].port, sentinel[0].port);
    fd = node_welcome(node[1], PRIMARY);
    assert_true(redis_is_up(redis));
    close(fd);
    close(watch);
    sentinel[0].listener = dup(node[0].listener); /* for the teardown */
}

static void does_not_take_a_replica_for_the_primary(void **state)
{
    (void)state;
    start(sentinel[0].port);
    int watch = sentinel_welcome(sentinel[0], WATCH), ask = sentinel_welcome(sentinel[0], ASK);
    struct outcome a;
    get(&a);
    answer(ask, node[0].port, sentinel[1].port);
    int fd = node_welcome(node[0], REPLICA);
    assert_false(redis_is_up(redis));
    assert_int_equal(a.n_calls, 0); /* a read: it waits for a moment */
    close(fd);
    pass(100);
    answer(sentinel_welcome(sentinel[0], ASK), node[1].port, sentinel[1].port);
    fd = node_welcome(node[1], PRIMARY);
    assert_true(redis_is_up(redis));
    reads(fd, "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    says(fd, "$-1\r\n");
    assert_int_equal(a.n_calls, 1);
    close(fd);
    close(watch);
}

static void looks_again_on_switch_master(void **state)
{
    (void)state;
    char text[256], news[128];
    start(sentinel[0].port);
    int watch = sentinel_welcome(sentinel[0], WATCH), ask = sentinel_welcome(sentinel[0], ASK);
    answer(ask, node[0].port, sentinel[1].port);
    int fd = node_welcome(node[0], PRIMARY);
    says(watch, "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n"
                "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$28\r\nother 127.0.0.1 1 10.0.0.1 2\r\n");
    assert_true(redis_is_up(redis)); /* another primary's */
    snprintf(news, sizeof news, "shop 127.0.0.1 %d 127.0.0.1 %d", node[0].port, node[1].port);
    snprintf(text, sizeof text, "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$%zu\r\n%s\r\n", strlen(news), news);
    says(watch, text);
    assert_false(redis_is_up(redis));
    pass(100);
    answer(sentinel_welcome(sentinel[0], ASK), node[1].port, sentinel[1].port);
    int other = node_welcome(node[1], PRIMARY);
    assert_true(redis_is_up(redis));
    close(fd);
    close(other);
    close(watch);
}

static void tells_unreachable_from_unknown(void **state)
{
    (void)state;
    struct outcome a;
    start(sentinel[0].port);
    int watch = sentinel_welcome(sentinel[0], WATCH), ask = sentinel_welcome(sentinel[0], ASK);
    get(&a);
    says(ask, "*-1\r\n-ERR No such master with that name\r\n");
    close(ask);
    pass(0);
    pass(1000);
    assert_int_equal(a.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(a.text, "name unknown: no sentinel knows a primary \"shop\""));
    ask = sentinel_welcome(sentinel[0], ASK);
    pass(500); /* it does not answer */
    get(&a);
    turns();
    assert_int_equal(a.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(a.text, "sentinels unreachable"));
    assert_non_null(strstr(a.text, "no answer within 500 ms"));
    close(ask);
    close(watch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(finds_and_finds_again, setup, teardown),
        cmocka_unit_test_setup_teardown(does_not_take_a_replica_for_the_primary, setup, teardown),
        cmocka_unit_test_setup_teardown(looks_again_on_switch_master, setup, teardown),
        cmocka_unit_test_setup_teardown(tells_unreachable_from_unknown, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
