/* The connection against a scripted peer on a Unix socket, with a frozen clock: handshake, one write per turn, order of
 * replies after deadlines and cancels, half-open peers, back-off, failover. Time moves only where a test moves it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
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
static char dir[] = "/tmp/redis_conn_test.XXXXXX";
static char path[64];
static int listener, peer;
static uint64_t now_ms;

/* What one command ended with. */
struct outcome {
    int n_calls;
    enum err_code code; /* ERR_NONE: a value came */
    enum redis_type type;
    int64_t integer;
    char text[384];
    struct redis_op *cancel; /* cancel this one from inside the completion */
    bool again;              /* issue another command from inside the completion */
    struct outcome *next;
};

static struct redis_op *command(struct outcome *outcome, uint64_t deadline_ms, const char *line);

static void on_done(void *data, const struct redis_value *value, const struct err *err)
{
    struct outcome *outcome = data;
    outcome->n_calls++;
    assert_true((value == NULL) != (err == NULL));
    if (err) {
        outcome->code = err->code;
        snprintf(outcome->text, sizeof outcome->text, "%s", err->message);
    } else {
        outcome->type = value->type;
        outcome->integer = value->integer;
        snprintf(outcome->text, sizeof outcome->text, "%.*s", SLICE_FMT(value->str));
    }
    if (outcome->cancel)
        redis_op_cancel(outcome->cancel);
    if (outcome->again)
        command(outcome->next, 0, "GET again");
}

static struct redis_op *command(struct outcome *outcome, uint64_t deadline_ms, const char *line)
{
    struct slice argv[8];
    size_t argc = 0;
    *outcome = (struct outcome){.cancel = outcome->cancel, .again = outcome->again, .next = outcome->next};
    for (const char *at = line; *at; at += argv[argc++].len) {
        at += *at == ' ';
        argv[argc] = slice_of(at, strcspn(at, " "));
    }
    return redis_command(
        redis,
        &(struct redis_call){.argv = argv, .argc = argc, .deadline_ms = deadline_ms, .done = on_done, .data = outcome});
}

/* Enough turns for whatever the kernel has for us already: Unix sockets deliver at once. */
static void turns(void)
{
    for (int i = 0; i < 6; i++)
        loop_turn(loop, false);
}

static void pass(uint64_t ms)
{
    now_ms += ms;
    clock_fake(now_ms, 1);
    turns();
}

static void start(uint32_t stall_ms, unsigned max_waiters)
{
    char url[128];
    struct err err;
    snprintf(url, sizeof url, "unix://%s", path);
    redis = redis_new(&(struct redis_opts){.loop = loop, .url = url, .stall_ms = stall_ms, .max_waiters = max_waiters},
                      &err);
    assert_non_null(redis);
}

static void peer_accept(void)
{
    turns();
    peer = accept(listener, NULL, NULL);
    assert_true(peer >= 0);
    turns();
}

/* Exactly these bytes have arrived, and no more. */
static void peer_reads(const char *expected)
{
    char got[4096];
    turns();
    ssize_t n = recv(peer, got, sizeof got - 1, MSG_DONTWAIT);
    got[n > 0 ? n : 0] = '\0';
    assert_string_equal(got, expected);
}

static void peer_says(const char *bytes)
{
    assert_int_equal(send(peer, bytes, strlen(bytes), MSG_NOSIGNAL), (ssize_t)strlen(bytes));
    turns();
}

static void peer_hangs_up(void)
{
    close(peer);
    peer = -1;
    turns();
}

static bool is_connecting(void)
{
    return poll(&(struct pollfd){.fd = listener, .events = POLLIN}, 1, 0) == 1;
}

static void start_ready(void)
{
    start(0, 0);
    peer_accept();
    peer_reads(HANDSHAKE);
    peer_says(WELCOME);
    assert_true(redis_is_up(redis));
}

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
    peer = -1;
    loop = loop_new();
    return bind(listener, (struct sockaddr *)&address, sizeof address) == 0 ? listen(listener, 8) : -1;
}

static int teardown(void **state)
{
    (void)state;
    redis_free(redis);
    redis = NULL;
    turns();
    loop_free(loop);
    close(listener);
    if (peer >= 0)
        close(peer);
    clock_fake(0, 0);
    return 0;
}

static void enters_with_everything(void **state)
{
    (void)state;
    char url[128];
    struct err err;
    snprintf(url, sizeof url, "unix://shop:hush@%s?db=3", path);
    redis = redis_new(&(struct redis_opts){.loop = loop, .url = url}, &err);
    assert_non_null(redis);
    peer_accept();
    peer_reads("*3\r\n$4\r\nAUTH\r\n$4\r\nshop\r\n$4\r\nhush\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n" HANDSHAKE);
    peer_says("+OK\r\n+OK\r\n-ERR SETNAME forbidden\r\n");
    assert_false(redis_is_up(redis));
    peer_says("+PONG\r\n");
    assert_true(redis_is_up(redis));
}

static void writes_once_per_turn(void **state)
{
    (void)state;
    struct outcome a = {0}, b = {0}, c = {0};
    start_ready();
    command(&a, 0, "SET k v");
    command(&b, 0, "GET k");
    command(&c, 0, "INCR n");
    assert_int_equal(a.n_calls, 0);
    /* All three are with the kernel after the turn they were called in. */
    loop_turn(loop, false);
    char got[256];
    ssize_t n = recv(peer, got, sizeof got - 1, MSG_DONTWAIT);
    got[n > 0 ? n : 0] = '\0';
    assert_string_equal(
        got, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n");
    peer_says("+OK\r\n$1\r\nv\r");
    assert_int_equal(a.n_calls, 1);
    assert_int_equal(a.type, REDIS_STATUS);
    assert_int_equal(b.n_calls, 0); /* half a reply */
    peer_says("\n:7\r\n");
    assert_string_equal(b.text, "v");
    assert_true(c.integer == 7);
}

static void waits_for_the_first_connect(void **state)
{
    (void)state;
    struct outcome a = {0}, gone = {0}, late = {0};
    start(0, 0);
    command(&a, 0, "GET a");
    struct redis_op *op = command(&gone, 0, "SET gone 1");
    command(&late, now_ms + 50, "SET late 1");
    peer_accept();
    peer_reads(HANDSHAKE);
    redis_op_cancel(op);
    pass(50);
    assert_int_equal(late.code, ERR_DEADLINE);
    peer_says(WELCOME);
    peer_reads("*2\r\n$3\r\nGET\r\n$1\r\na\r\n"); /* what nobody waits for is not sent */
    peer_says("$-1\r\n");
    assert_int_equal(a.n_calls, 1);
    assert_int_equal(a.type, REDIS_NIL);
    assert_int_equal(gone.n_calls, 0);
    assert_int_equal(late.n_calls, 1);
}

static void drops_late_replies_in_order(void **state)
{
    (void)state;
    struct outcome late = {0}, cancelled = {0}, good = {0};
    start_ready();
    command(&late, now_ms + 20, "GET late");
    struct redis_op *op = command(&cancelled, 0, "GET cancelled");
    command(&good, 0, "GET good");
    turns();
    redis_op_cancel(op);
    pass(20);
    assert_int_equal(late.code, ERR_DEADLINE);
    assert_int_equal(good.n_calls, 0);
    peer_says("$4\r\nlate\r\n$9\r\ncancelled\r\n$4\r\ngood\r\n");
    assert_int_equal(late.n_calls, 1);
    assert_int_equal(cancelled.n_calls, 0);
    assert_string_equal(good.text, "good");
}

static void error_replies_have_codes(void **state)
{
    (void)state;
    struct outcome a = {0}, b = {0};
    start_ready();
    command(&a, 0, "LPUSH k v");
    command(&b, 0, "GET k");
    turns();
    peer_says("-WRONGTYPE Operation against a key\r\n-LOADING Redis is loading\r\n");
    assert_int_equal(a.code, ERR_REDIS);
    assert_string_equal(a.text, "WRONGTYPE Operation against a key");
    assert_int_equal(b.code, ERR_UNAVAILABLE);
    assert_true(redis_is_up(redis));
}

static void refuses_with_advice(void **state)
{
    (void)state;
    struct outcome a = {0};
    start_ready();
    command(&a, 0, "MULTI");
    assert_int_equal(a.n_calls, 0); /* never from inside the call */
    turns();
    assert_int_equal(a.code, ERR_REFUSED);
    assert_non_null(strstr(a.text, "redis: MULTI would"));
    assert_non_null(strstr(a.text, "redis.multi"));
    peer_reads("");
}

static void bounds_the_queue(void **state)
{
    (void)state;
    struct outcome a = {0}, b = {0}, c = {0}, d = {0};
    start(0, 2);
    peer_accept();
    peer_reads(HANDSHAKE);
    peer_says(WELCOME);
    command(&a, now_ms + 10, "GET a");
    command(&b, 0, "GET b");
    command(&c, 0, "GET c");
    turns();
    assert_int_equal(c.code, ERR_QUEUE_FULL);
    pass(10);
    assert_int_equal(a.code, ERR_DEADLINE); /* still owed a reply, so still in the way */
    command(&d, 0, "GET d");
    turns();
    assert_int_equal(d.code, ERR_QUEUE_FULL);
    peer_says("$1\r\na\r\n$1\r\nb\r\n");
    assert_string_equal(b.text, "b");
    command(&d, 0, "GET d");
    turns();
    assert_int_equal(d.n_calls, 0);
    peer_says("$1\r\nd\r\n");
    assert_string_equal(d.text, "d");
}

static void lost_connection_fails_what_was_sent(void **state)
{
    (void)state;
    struct outcome read = {0}, write = {0}, next = {0}, again = {0};
    start_ready();
    pass(2000);
    read.again = true;
    read.next = &again;
    command(&read, 0, "GET k");
    command(&write, 0, "INCR k");
    turns();
    peer_hangs_up();
    assert_int_equal(read.code, ERR_UNAVAILABLE);
    assert_int_equal(write.code, ERR_OUTCOME_UNKNOWN);
    assert_false(redis_is_up(redis));
    command(&next, 0, "GET next"); /* waits: this was a loss, not a failed attempt */
    peer_accept();
    peer_says(WELCOME);
    peer_reads(HANDSHAKE "*2\r\n$3\r\nGET\r\n$5\r\nagain\r\n*2\r\n$3\r\nGET\r\n$4\r\nnext\r\n");
    peer_says("$1\r\n1\r\n$1\r\n2\r\n");
    assert_string_equal(again.text, "1");
    assert_string_equal(next.text, "2");
}

static void half_open_peer_is_given_up(void **state)
{
    (void)state;
    struct outcome read = {0}, write = {0}, dropped = {0};
    start_ready();
    struct redis_op *op = command(&dropped, 0, "GET dropped");
    turns();
    redis_op_cancel(op);
    command(&read, now_ms + 60000, "GET k");
    command(&write, now_ms + 60000, "SET k v");
    turns();
    pass(5000);
    peer_says("$-1\r\n"); /* it lives: the clock of silence starts anew */
    pass(5000);
    pass(4000);
    assert_int_equal(read.n_calls + write.n_calls, 0);
    pass(5000);
    assert_int_equal(read.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(read.text, "no reply for"));
    assert_int_equal(write.code, ERR_OUTCOME_UNKNOWN);
    assert_int_equal(dropped.n_calls, 0);
    close(peer);
    peer_accept();
    peer_says(WELCOME);
    assert_true(redis_is_up(redis));
}

static void idle_connection_is_pinged(void **state)
{
    (void)state;
    start_ready();
    for (int i = 0; i < 7; i++)
        pass(5000);
    peer_reads("*1\r\n$4\r\nPING\r\n");
    peer_says("+PONG\r\n");
    assert_true(redis_is_up(redis));
}

static void reads_wait_for_a_moment_only(void **state)
{
    (void)state;
    struct outcome a = {0}, write = {0}, b = {0}, c = {0}, late = {0};
    start(0, 0);
    command(&a, 0, "GET a");
    command(&write, 0, "SET k v"); /* before the first attempt has ended, everything waits */
    command(&late, now_ms + 60, "GET late");
    peer_accept();
    peer_hangs_up();
    assert_int_equal(write.code, ERR_UNAVAILABLE);
    assert_int_equal(a.n_calls, 0);
    command(&write, 0, "SET k v");
    assert_int_equal(write.n_calls, 0);
    turns();
    assert_int_equal(write.code, ERR_UNAVAILABLE); /* at once */
    pass(100);
    assert_int_equal(late.code, ERR_DEADLINE); /* its own deadline comes first */
    peer_accept();                             /* the second attempt */
    command(&b, 0, "GET b");
    peer_says("-LOADING busy\r\n-LOADING busy\r\n");
    assert_false(redis_is_up(redis));
    close(peer);
    assert_false(is_connecting());
    pass(99); /* the wait has grown: at least half of 200 ms */
    assert_false(is_connecting());
    pass(101);
    assert_int_equal(a.n_calls + b.n_calls, 0);
    peer_accept();
    peer_hangs_up();
    pass(699);
    assert_int_equal(a.n_calls + b.n_calls, 0);
    pass(1); /* a second after it went away */
    assert_int_equal(a.code, ERR_UNAVAILABLE);
    assert_int_equal(b.code, ERR_UNAVAILABLE);
    command(&c, 0, "GET c");
    turns();
    assert_int_equal(c.code, ERR_UNAVAILABLE);
    peer_accept();
    peer_says(WELCOME);
    assert_true(redis_is_up(redis));
    peer_reads(HANDSHAKE);
    command(&c, 0, "GET c");
    turns();
    peer_says("$1\r\nc\r\n");
    assert_string_equal(c.text, "c");
}

static void waiting_reads_are_sent_and_bounded(void **state)
{
    (void)state;
    struct outcome a = {0}, b = {0}, over = {0};
    char url[128];
    struct err err;
    snprintf(url, sizeof url, "unix://%s", path);
    redis = redis_new(&(struct redis_opts){.loop = loop, .url = url, .offline_max = 2}, &err);
    peer_accept();
    peer_says(WELCOME);
    peer_reads(HANDSHAKE);
    pass(2000);
    peer_hangs_up();
    command(&a, 0, "GET a");
    command(&b, 0, "GET b");
    command(&over, 0, "GET over");
    turns();
    assert_int_equal(over.code, ERR_UNAVAILABLE);
    peer_accept();
    peer_says(WELCOME);
    peer_reads(HANDSHAKE "*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n");
    peer_says("$1\r\n1\r\n$1\r\n2\r\n");
    assert_string_equal(a.text, "1");
    assert_string_equal(b.text, "2");
}

static void gives_up_an_attempt(void **state)
{
    (void)state;
    struct outcome a = {0};
    start(0, 0);
    command(&a, 0, "GET a");
    peer_accept();
    pass(2999);
    assert_int_equal(a.n_calls, 0);
    pass(1);
    assert_int_equal(a.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(a.text, "no connection within 3000 ms"));
}

static void renews_after_failover(void **state)
{
    (void)state;
    struct outcome a = {0}, b = {0}, c = {0}, write = {0};
    start_ready();
    pass(1500);
    command(&a, 0, "SET a 1");
    command(&b, 0, "GET b");
    turns();
    peer_says("-READONLY You can't write against a read only replica.\r\n");
    assert_int_equal(a.code, ERR_UNAVAILABLE);
    assert_false(redis_is_up(redis));
    command(&c, 0, "GET c"); /* waits for the new connection */
    command(&write, 0, "SET c 1");
    turns();
    assert_int_equal(write.code, ERR_UNAVAILABLE);
    assert_int_equal(b.n_calls, 0);
    peer_says("$1\r\nb\r\n");
    assert_string_equal(b.text, "b"); /* what was in flight was not thrown away */
    close(peer);
    peer_accept();
    peer_says(WELCOME);
    peer_reads(HANDSHAKE "*2\r\n$3\r\nGET\r\n$1\r\nc\r\n");
    peer_says("$1\r\n9\r\n");
    assert_string_equal(c.text, "9");
}

/* A server that was demoted and then went silent gets a short grace only. */
static void renewal_does_not_wait_for_the_dead(void **state)
{
    (void)state;
    struct outcome a = {0}, b = {0};
    start_ready();
    pass(1500);
    command(&a, 0, "SET a 1");
    command(&b, now_ms + 60000, "SET b 1");
    turns();
    peer_says("-READONLY replica\r\n");
    pass(499);
    assert_int_equal(b.n_calls, 0);
    pass(1);
    assert_int_equal(b.code, ERR_OUTCOME_UNKNOWN);
}

static void unasked_reply_breaks_the_connection(void **state)
{
    (void)state;
    struct outcome a = {0};
    start_ready();
    peer_says("+SURPRISE\r\n");
    assert_false(redis_is_up(redis));
    close(peer);
    pass(100);
    peer_accept();
    peer_says(WELCOME);
    command(&a, 0, "GET a");
    turns();
    peer_says("%1\r\n+a\r\n+b\r\n"); /* RESP3 */
    assert_int_equal(a.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(a.text, "not RESP"));
}

static void cancels_from_inside_a_completion(void **state)
{
    (void)state;
    struct outcome a = {0}, b = {0}, c = {0};
    start_ready();
    struct redis_op *op = command(&a, 0, "GET a");
    a.cancel = op; /* itself: harmless */
    b.cancel = NULL;
    command(&b, 0, "GET b");
    struct redis_op *third = command(&c, 0, "GET c");
    b.cancel = third;
    turns();
    peer_says("$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
    assert_int_equal(a.n_calls, 1);
    assert_int_equal(b.n_calls, 1);
    assert_int_equal(c.n_calls, 0);
}

static void free_completes_everything(void **state)
{
    (void)state;
    struct outcome flying = {0}, unsent = {0}, refused = {0};
    start_ready();
    command(&flying, 0, "SET a 1");
    turns();
    command(&unsent, 0, "SET b 1");
    command(&refused, 0, "MULTI");
    redis_free(redis);
    redis = NULL;
    assert_int_equal(flying.code, ERR_CANCELLED);
    assert_int_equal(unsent.code, ERR_CANCELLED);
    assert_int_equal(refused.code, ERR_REFUSED);
    assert_int_equal(flying.n_calls + unsent.n_calls + refused.n_calls, 3);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(enters_with_everything),
        TEST(writes_once_per_turn),
        TEST(waits_for_the_first_connect),
        TEST(drops_late_replies_in_order),
        TEST(error_replies_have_codes),
        TEST(refuses_with_advice),
        TEST(bounds_the_queue),
        TEST(lost_connection_fails_what_was_sent),
        TEST(half_open_peer_is_given_up),
        TEST(idle_connection_is_pinged),
        TEST(reads_wait_for_a_moment_only),
        TEST(waiting_reads_are_sent_and_bounded),
        TEST(gives_up_an_attempt),
        TEST(renews_after_failover),
        TEST(renewal_does_not_wait_for_the_dead),
        TEST(unasked_reply_breaks_the_connection),
        TEST(cancels_from_inside_a_completion),
        TEST(free_completes_everything),
    };
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof path, "%s/redis.sock", dir);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(dir);
    return failed;
}
