/* Commands that block: a connection each, timeouts cut to the deadline and into slices, the queue, who goes early. */
#include "redis_peer.h"

static struct redis_op *blpop(struct outcome *outcome, const char *timeout, uint64_t deadline_ms)
{
    char line[64];
    snprintf(line, sizeof line, "BLPOP k %s", timeout);
    return command(outcome, deadline_ms, line);
}

static const char *blpop_bytes(const char *timeout)
{
    static char text[128];
    snprintf(text, sizeof text, "*3\r\n$5\r\nBLPOP\r\n$1\r\nk\r\n$%zu\r\n%s\r\n", strlen(timeout), timeout);
    return text;
}

static void has_its_own_connection(void **state)
{
    (void)state;
    struct outcome a;
    blpop(&a, "1.5", 0);
    reads(peer, "");
    int own = welcome();
    reads(own, blpop_bytes("1.500"));
    says(own, "$1\r\nx\r\n");
    assert_string_equal(a.text, "x");
    blpop(&a, "2", 0); /* the same connection again */
    reads(own, blpop_bytes("2.000"));
    says(own, "*-1\r\n");
    assert_int_equal(a.n_calls, 1);
    assert_int_equal(a.type, REDIS_NIL);
    assert_false(is_closed(own));
    pass(30000);
    assert_true(is_closed(own));
    close(own);
}

static void ends_before_the_deadline(void **state)
{
    (void)state;
    struct outcome a;
    blpop(&a, "0", now_ms + 1000);
    int own = welcome();
    reads(own, blpop_bytes("0.950"));
    pass(950);
    says(own, "*-1\r\n");
    assert_int_equal(a.n_calls, 0); /* the deadline will say it, not "nothing there" */
    pass(50);
    assert_int_equal(a.code, ERR_DEADLINE);
    assert_false(is_closed(own));
    blpop(&a, "0.2", now_ms + 1000); /* its own timeout is the shorter one */
    reads(own, blpop_bytes("0.200"));
    says(own, "*-1\r\n");
    assert_int_equal(a.type, REDIS_NIL);
    close(own);
}

/* As pass, with the shared connection alive: it is pinged when it has been idle. */
static void pass_pinged(uint64_t ms)
{
    char got[256];
    pass(ms);
    if (recv(peer, got, sizeof got, MSG_DONTWAIT) > 0)
        says(peer, "+PONG\r\n");
}

static void waits_for_ever_in_slices(void **state)
{
    (void)state;
    struct outcome a;
    struct redis_op *op = blpop(&a, "0", 0);
    int own = welcome();
    for (int i = 0; i < 3; i++) {
        reads(own, blpop_bytes("20.000"));
        for (int j = 0; j < 4; j++)
            pass_pinged(5000);
        says(own, "*-1\r\n");
    }
    assert_int_equal(a.n_calls, 0);
    reads(own, blpop_bytes("20.000"));
    for (int j = 0; j < 5; j++) /* no answer, not even to the slice */
        pass_pinged(5000);
    assert_int_equal(a.code, ERR_OUTCOME_UNKNOWN);
    assert_non_null(strstr(a.text, "no reply after"));
    close(own);
    op = blpop(&a, "0", 0);
    own = welcome();
    redis_op_cancel(op);
    assert_true(is_closed(own)); /* there is no other way to stop it */
    assert_int_equal(a.n_calls, 0);
    close(own);
}

static void queues_over_the_limit(void **state)
{
    (void)state;
    struct outcome a, b, c, d;
    blpop(&a, "5", 0);
    blpop(&b, "5", 0);
    struct redis_op *third = blpop(&c, "5", now_ms + 3000);
    blpop(&d, "5", now_ms + 100);
    int first = welcome(), second = welcome();
    assert_true(accept_one() < 0);
    pass(100);
    assert_int_equal(d.code, ERR_DEADLINE); /* in the queue */
    reads(first, blpop_bytes("5.000"));
    reads(second, blpop_bytes("5.000"));
    says(second, "$1\r\nb\r\n");
    assert_string_equal(b.text, "b");
    reads(second, blpop_bytes("2.850")); /* the third's deadline, less what it waited */
    redis_op_cancel(third);
    assert_true(is_closed(second));
    close(second);
    shutdown(first, SHUT_RDWR);
    turns();
    assert_int_equal(a.code, ERR_OUTCOME_UNKNOWN);
    close(first);
}

static void errors_go_to_the_caller(void **state)
{
    (void)state;
    struct outcome a;
    blpop(&a, "soon", 0);
    int own = welcome();
    reads(own, blpop_bytes("soon")); /* Redis says it better */
    says(own, "-ERR timeout is not a float\r\n");
    assert_int_equal(a.code, ERR_REDIS);
    blpop(&a, "1", 0);
    says(own, "-UNBLOCKED the instance became a replica\r\n");
    assert_int_equal(a.code, ERR_UNAVAILABLE);
    assert_true(is_closed(own));
    close(own);
    command(&a, 0, "BLPOP");
    own = welcome();
    says(own, "-ERR wrong number of arguments\r\n");
    assert_int_equal(a.code, ERR_REDIS);
    close(own);
}

static void free_completes_what_blocks(void **state)
{
    (void)state;
    struct outcome a, b, c, d;
    blpop(&a, "5", 0);
    blpop(&b, "5", 0);
    blpop(&c, "5", 0);
    int own = welcome();
    char url[128];
    redis_free(redis);
    assert_int_equal(a.code, ERR_CANCELLED);
    assert_int_equal(b.code, ERR_CANCELLED);
    assert_int_equal(c.code, ERR_CANCELLED);
    turns();
    close(own);
    while ((own = accept_one()) >= 0)
        close(own);
    snprintf(url, sizeof url, "unix://%s", path);
    redis = redis_new(&(struct redis_opts){.loop = loop, .url = url}, NULL);
    close(peer);
    peer = welcome();
    blpop(&d, "5", 0); /* and while it is still connecting */
    redis_free(redis);
    assert_int_equal(d.code, ERR_CANCELLED);
    turns();
    redis = redis_new(&(struct redis_opts){.loop = loop, .url = url}, NULL);
    turns();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(has_its_own_connection), TEST(ends_before_the_deadline), TEST(waits_for_ever_in_slices),
        TEST(queues_over_the_limit),  TEST(errors_go_to_the_caller),  TEST(free_completes_what_blocks),
    };
    return run_peer_tests(tests, ARRAY_LEN(tests));
}
