#include "net/net_help.h"

#include <sys/epoll.h>
#include <sys/syscall.h>

#include "net/poll.h"

/* Stands before libc's: what libuv asks of epoll is counted. */
static int n_controls;

int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    n_controls++;
    return (int)syscall(SYS_epoll_ctl, epfd, op, fd, event);
}

static struct loop *loop;
static struct poll *poll;
static int fds[2], seen, n_calls;

static int setup(void **state UNUSED)
{
    seen = n_calls = 0;
    loop = loop_new();
    return 0;
}
static int teardown(void **state UNUSED)
{
    loop_free(loop);
    return 0;
}

static void on_event(void *data UNUSED, int events)
{
    seen = events;
    n_calls++;
}

static void end(void)
{
    poll_free(poll);
    loop_turn(loop, false);
    close(fds[0]);
    close(fds[1]);
}

static void test_is_level_triggered_and_pauses(void **state UNUSED)
{
    unix_pair(fds);
    poll = poll_new(loop, fds[0], on_event, NULL);
    assert_int_equal(write(fds[1], "x", 1), 1);
    loop_turn(loop, false);
    assert_int_equal(n_calls, 0); /* watches nothing yet */
    poll_set(poll, POLL_READ);
    loop_turn(loop, true);
    loop_turn(loop, true);
    assert_int_equal(n_calls, 2);
    assert_int_equal(seen, POLL_READ);
    poll_set(poll, POLL_READ | POLL_WRITE);
    loop_turn(loop, true);
    assert_int_equal(seen, POLL_READ | POLL_WRITE);
    poll_set(poll, 0);
    assert_false(loop_turn(loop, true));
    assert_int_equal(n_calls, 3);
    end();
}

static void test_unchanged_events_cost_nothing(void **state UNUSED)
{
    unix_pair(fds);
    poll = poll_new(loop, fds[0], on_event, NULL);
    poll_set(poll, POLL_READ);
    loop_turn(loop, false);
    n_controls = 0;
    for (int i = 0; i < 10; i++)
        poll_set(poll, POLL_READ);
    loop_turn(loop, false);
    assert_int_equal(n_controls, 0);
    end();
}

static void free_and_close(void *data UNUSED, int events UNUSED)
{
    n_calls++;
    poll_free(poll);
    close(fds[0]);
    /* The same number again, watched by another handle in the same turn. */
    assert_int_equal(dup(fds[1]), fds[0]);
    poll = poll_new(loop, fds[0], on_event, NULL);
    poll_set(poll, POLL_WRITE);
}

static void test_free_inside_the_callback_and_reuse_of_the_descriptor(void **state UNUSED)
{
    unix_pair(fds);
    poll = poll_new(loop, fds[0], free_and_close, NULL);
    assert_int_equal(write(fds[1], "x", 1), 1);
    poll_set(poll, POLL_READ);
    RUN_UNTIL(loop, n_calls == 2);
    end();
}

static void test_errors_set_both_directions(void **state UNUSED)
{
    tcp_pair(fds);
    poll = poll_new(loop, fds[0], on_event, NULL);
    poll_set(poll, POLL_READ);
    reset(fds[1]);
    fds[1] = dup(fds[0]);
    RUN_UNTIL(loop, n_calls > 0);
    assert_int_equal(seen & (POLL_READ | POLL_WRITE), POLL_READ | POLL_WRITE);
    RUN_UNTIL(loop, n_calls > 1); /* still level-triggered */
    end();
}

static void test_hangup_ignores_a_fin_and_sees_a_reset(void **state UNUSED)
{
    tcp_pair(fds);
    poll = poll_new(loop, fds[0], on_event, NULL);
    poll_set(poll, POLL_HANGUP);
    assert_int_equal(write(fds[1], "x", 1), 1);
    assert_int_equal(shutdown(fds[1], SHUT_WR), 0);
    for (int i = 0; i < 5; i++)
        loop_turn(loop, false);
    assert_int_equal(n_calls, 0);
    reset(fds[1]);
    fds[1] = dup(fds[0]);
    RUN_UNTIL(loop, n_calls > 0);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_is_level_triggered_and_pauses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unchanged_events_cost_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_free_inside_the_callback_and_reuse_of_the_descriptor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_set_both_directions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hangup_ignores_a_fin_and_sees_a_reset, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
