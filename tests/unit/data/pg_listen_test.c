/* LISTEN against a real server, TEST_PG_URL: delivery, bounds, and what a lost connection means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/clock.h"
#include "data/pg_admin.h"
#include "data/pg_listen.h"

static struct loop *loop;
static struct names *names;
static struct pg *pg;
static struct pg_admin *admin;

static void open_pg(bool transaction_pooling)
{
    struct err err;
    const char *url = getenv("TEST_PG_URL");
    assert_non_null(url);
    struct pg_opts opts = {.loop = loop, .names = names, .url = url, .transaction_pooling = transaction_pooling};
    pg = pg_new(&opts, &err);
    assert_non_null(pg);
}

static int set_up(void **state)
{
    struct err err;
    (void)state;
    loop = loop_new();
    names = names_new(loop);
    admin = pg_admin_open(getenv("TEST_PG_URL"), &err);
    assert_non_null(admin);
    open_pg(false);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pg_free(pg);
    pg_admin_close(admin);
    names_free(names);
    loop_run(loop);
    loop_free(loop);
    return 0;
}

static void on_event(void *data)
{
    ++*(int *)data;
}

static struct pg_sub *subscribe(const char *channel, unsigned max_queued, int *n_events)
{
    struct err err = {0};
    struct pg_sub_opts opts = {
        .channel = slice_str(channel), .max_queued = max_queued, .on_event = on_event, .data = n_events};
    *n_events = 0;
    struct pg_sub *sub = pg_sub_new(pg, &opts, &err);
    if (!sub)
        fail_msg("%s", err.message);
    return sub;
}

static void turn_until(bool (*is_so)(void *data), void *data)
{
    uint64_t guard_ms = clock_ms() + 30000;
    while (!is_so(data)) {
        assert_true(clock_ms() < guard_ms);
        assert_true(loop_turn(loop, true));
    }
}

static bool is_ready(void *sub)
{
    return pg_sub_is_ready(sub);
}

static void wait_ready(struct pg_sub *sub)
{
    turn_until(is_ready, sub);
}

static void sql(const char *text)
{
    struct err err;
    if (pg_admin_exec(admin, text, NULL, &err) != OK)
        fail_msg("%s: %s", text, err.message);
}

struct taken {
    struct pg_sub *sub;
    struct pg_event event;
};

static bool has_taken(void *data)
{
    struct taken *taken = data;
    return pg_sub_take(taken->sub, &taken->event);
}

static struct pg_event take(struct pg_sub *sub)
{
    struct taken taken = {.sub = sub};
    turn_until(has_taken, &taken);
    return taken.event;
}

static void assert_payload(struct pg_sub *sub, const char *text)
{
    struct pg_event event = take(sub);
    assert_false(event.is_gap);
    assert_true(event.has_payload);
    assert_true(slice_eq(event.payload, slice_str(text)));
}

static void assert_nothing(struct pg_sub *sub)
{
    struct pg_event event;
    assert_false(pg_sub_take(sub, &event));
}

static void test_delivers_in_order_to_all(void **state)
{
    int n1, n2, n3;
    (void)state;
    struct pg_sub *one = subscribe("we\"ird Name", 0, &n1), *two = subscribe("we\"ird Name", 0, &n2);
    struct pg_sub *other = subscribe("weird name", 0, &n3);
    wait_ready(one), wait_ready(two), wait_ready(other);
    sql("NOTIFY \"we\"\"ird Name\", 'a'; NOTIFY \"we\"\"ird Name\", ''; NOTIFY \"weird name\", 'x'");
    assert_payload(one, "a");
    assert_payload(one, "");
    assert_payload(two, "a");
    assert_payload(other, "x");
    assert_nothing(one);
    assert_true(n1 > 0 && n3 > 0);
    pg_sub_free(one);
    sql("NOTIFY \"we\"\"ird Name\", 'b'"); /* the channel still has a subscription */
    assert_payload(two, "");
    assert_payload(two, "b");
    pg_sub_free(two);
    pg_sub_free(other);
}

/* A channel that nobody wants any more is left, and may be had again. */
static void test_channel_comes_and_goes(void **state)
{
    int n;
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct pg_sub *sub = subscribe("comes", 0, &n);
        if (i == 1) { /* freed while its LISTEN is under way */
            loop_turn(loop, false);
            pg_sub_free(sub);
            continue;
        }
        wait_ready(sub);
        sql("NOTIFY comes, 'here'");
        assert_payload(sub, "here");
        pg_sub_free(sub);
    }
}

static void test_overflow_is_a_gap(void **state)
{
    int n;
    (void)state;
    struct pg_sub *sub = subscribe("fills", 3, &n), *marker = subscribe("marker", 0, &n);
    wait_ready(sub), wait_ready(marker);
    sql("NOTIFY fills, '1'; NOTIFY fills, '2'; NOTIFY fills, '3'; NOTIFY fills, '4'; NOTIFY marker, ''");
    assert_payload(marker, "");
    struct pg_event event = take(sub);
    assert_true(event.is_gap && event.has_payload);
    assert_true(slice_eq(event.payload, SLICE("4")));
    assert_nothing(sub);
    pg_sub_free(sub);
    pg_sub_free(marker);
}

#define KILL                                                                                                           \
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND pid <> "              \
    "pg_backend_pid()"

static void test_lost_connection_is_a_gap(void **state)
{
    int n;
    (void)state;
    struct pg_sub *sub = subscribe("lost", 0, &n);
    wait_ready(sub);
    sql(KILL);
    sql("NOTIFY lost, 'nobody hears'");
    struct pg_event event = take(sub);
    assert_true(event.is_gap);
    assert_false(event.has_payload);
    sql("NOTIFY lost, 'again'"); /* the gap was told after LISTEN held again */
    assert_payload(sub, "again");
    pg_sub_free(sub);
}

/* Made while the server is away: ready at once, and a gap when it is back. */
static void test_unreachable_server_is_not_waited_for(void **state)
{
    int n;
    struct err err;
    (void)state;
    pg_free(pg);
    pg = pg_new(&(struct pg_opts){.loop = loop, .names = names, .url = "postgresql:///x?host=/nonexistent"}, &err);
    struct pg_sub *sub = subscribe("away", 0, &n);
    wait_ready(sub);
    assert_nothing(sub);
    struct pg_sub *later = subscribe("away", 0, &n);
    wait_ready(later);
    pg_sub_free(sub);
    pg_sub_free(later);
}

static void test_refused_channels(void **state)
{
    struct err err = {0};
    char name[65] = {0};
    int n;
    (void)state;
    memset(name, 'x', 64);
    struct pg_sub_opts opts = {.channel = slice_of(name, 64), .on_event = on_event, .data = &n};
    assert_null(pg_sub_new(pg, &opts, &err));
    assert_int_equal(err.code, ERR_INVALID);
    pg_free(pg);
    open_pg(true);
    opts.channel = SLICE("fine");
    assert_null(pg_sub_new(pg, &opts, &err));
    assert_int_equal(err.code, ERR_REFUSED);
    assert_non_null(strstr(err.message, "transaction"));
}

#define LIVE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIVE(test_delivers_in_order_to_all),
        LIVE(test_channel_comes_and_goes),
        LIVE(test_overflow_is_a_gap),
        LIVE(test_lost_connection_is_a_gap),
        LIVE(test_unreachable_server_is_not_waited_for),
        LIVE(test_refused_channels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
