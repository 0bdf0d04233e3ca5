#include "net/net_help.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "net/poll.h"

/* These stand before libc's: libuv's waits come through here and are counted. */
static int n_waits, n_blocking_waits;

static int wait_and_count(int epfd, struct epoll_event *events, int max, int timeout)
{
    n_waits++;
    n_blocking_waits += timeout != 0;
    return (int)syscall(SYS_epoll_pwait, epfd, events, max, timeout, NULL, 8);
}

int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
    return wait_and_count(epfd, events, max, timeout);
}

int epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout, const sigset_t *mask UNUSED)
{
    return wait_and_count(epfd, events, max, timeout);
}

static char order[64]; /* what ran, a letter each */

static void note(char what)
{
    size_t len = strlen(order);
    assert_true(len + 1 < sizeof(order));
    order[len] = what;
    order[len + 1] = 0;
}

static struct loop *loop;

static int setup(void **state UNUSED)
{
    order[0] = 0;
    loop = loop_new();
    return 0;
}

static int teardown(void **state UNUSED)
{
    loop_free(loop);
    return 0;
}

/* ---- order --------------------------------------------------------------------------------------------- */

static struct loop_task task_a, task_b;
static struct loop_hook hook_a, hook_b, hook_c;
static struct poll *poll;

static void on_inner(struct loop_task *task UNUSED)
{
    note('d');
}
static void on_deferred(struct loop_task *task UNUSED)
{
    note('D');
    loop_defer(loop, &task_b, on_inner);
}
static void on_due(struct timer *timer UNUSED)
{
    note('T');
}
static void on_hook(struct loop_hook *hook UNUSED)
{
    note('H');
}
static void on_io(void *data UNUSED, int events UNUSED)
{
    note('I');
    loop_defer(loop, &task_a, on_deferred);
    loop_defer(loop, &task_a, on_deferred); /* queued at most once */
    loop_reclaim(loop, xalloc(100));        /* LeakSanitizer would tell */
    poll_free(poll);
}

static void test_turn_has_one_order(void **state UNUSED)
{
    int fds[2];
    unix_pair(fds);
    assert_int_equal(write(fds[1], "x", 1), 1);
    struct timer timer = {0};
    timer_arm(loop, &timer, 0, on_due);
    loop_hook_add(loop, &hook_a, on_hook);
    poll = poll_new(loop, fds[0], on_io, NULL);
    poll_set(poll, POLL_READ);
    assert_false(loop_turn(loop, true)); /* nothing is left */
    loop_hook_remove(&hook_a);
    assert_string_equal(order, "ITDdH");
    close(fds[0]);
    close(fds[1]);
}

/* ---- deferred calls ------------------------------------------------------------------------------------ */

static int n_again;

static void defer_again(struct loop_task *task)
{
    n_again++;
    loop_defer(loop, task, defer_again);
}
static void on_bell(void *data UNUSED, int events UNUSED)
{
    note('I');
    poll_free(poll);
    loop_defer_cancel(&task_a);
}

static void test_task_that_always_defers_itself_does_not_starve_io(void **state UNUSED)
{
    int fds[2];
    unix_pair(fds);
    loop_defer(loop, &task_a, defer_again);
    loop_turn(loop, true);
    assert_true(n_again > 1);
    assert_int_equal(write(fds[1], "x", 1), 1);
    poll = poll_new(loop, fds[0], on_bell, NULL);
    poll_set(poll, POLL_READ);
    loop_run(loop); /* ends only because io came through */
    assert_string_equal(order, "I");
    close(fds[0]);
    close(fds[1]);
}

static void cancel_b(struct loop_task *task UNUSED)
{
    note('a');
    loop_defer_cancel(&task_b);
}

static void test_cancelled_task_does_not_run(void **state UNUSED)
{
    loop_defer(loop, &task_a, cancel_b);
    loop_defer(loop, &task_b, on_inner);
    assert_false(loop_turn(loop, false));
    assert_string_equal(order, "a");
    loop_defer_cancel(&task_a); /* safe when idle */
}

/* ---- hooks --------------------------------------------------------------------------------------------- */

static void on_hook_c(struct loop_hook *hook UNUSED)
{
    note('c');
}
static void on_hook_b(struct loop_hook *hook UNUSED)
{
    note('b');
}
static void on_hook_a(struct loop_hook *hook)
{
    note('a');
    loop_hook_remove(hook);
    loop_hook_remove(&hook_b);
    loop_hook_add(loop, &hook_c, on_hook_c);
}

static void test_hook_may_remove_and_add_any(void **state UNUSED)
{
    loop_hook_add(loop, &hook_a, on_hook_a);
    loop_hook_add(loop, &hook_b, on_hook_b);
    loop_turn(loop, false);
    assert_string_equal(order, "ac");
    loop_turn(loop, false);
    assert_string_equal(order, "acc");
    loop_hook_remove(&hook_c);
}

/* ---- what a turn costs --------------------------------------------------------------------------------- */

static int hops_left;
static int bell[2];

static void on_hop(void *data UNUSED, int events UNUSED)
{
    char byte;
    assert_int_equal(read(bell[0], &byte, 1), 1);
    loop_defer(loop, &task_a, on_inner); /* deferred work is no reason for a second wait */
    order[0] = 0;
    if (--hops_left > 0)
        assert_int_equal(write(bell[1], "x", 1), 1);
    else
        poll_set(poll, 0);
}

static void test_turn_costs_one_wait(void **state UNUSED)
{
    unix_pair(bell);
    struct timer later = {0}; /* as in a server, there is always a deadline somewhere */
    timer_arm(loop, &later, loop_now(loop) + 60000, on_due);
    poll = poll_new(loop, bell[0], on_hop, NULL);
    poll_set(poll, POLL_READ);
    assert_int_equal(write(bell[1], "x", 1), 1);
    hops_left = 100;
    n_waits = n_blocking_waits = 0;
    while (hops_left > 0)
        loop_turn(loop, true);
    assert_int_equal(n_waits, 100);
    assert_int_equal(n_blocking_waits, 100);

    loop_defer(loop, &task_a, on_inner);
    n_waits = n_blocking_waits = 0;
    loop_turn(loop, true); /* work is queued: looks, does not wait */
    assert_int_equal(n_waits, 1);
    assert_int_equal(n_blocking_waits, 0);

    timer_stop(loop, &later);
    poll_free(poll);
    loop_turn(loop, true);
    close(bell[0]);
    close(bell[1]);
}

/* ---- running and stopping ------------------------------------------------------------------------------ */

static void on_stop_task(struct loop_task *task UNUSED)
{
    note('s');
    loop_stop(loop);
}

static void test_run_ends_by_stop_or_when_nothing_is_left(void **state UNUSED)
{
    struct timer timer = {0};
    loop_run(loop);
    timer_arm(loop, &timer, loop_now(loop) + 3600000, on_due);
    loop_defer(loop, &task_a, on_stop_task);
    loop_run(loop);
    assert_string_equal(order, "s");
    timer_stop(loop, &timer);
    loop_run(loop);
}

/* ---- wake-ups ------------------------------------------------------------------------------------------ */

static struct loop_wakeup *wakeup;
static pthread_t loop_thread;

static void on_wakeup(void *data)
{
    assert_true(pthread_equal(pthread_self(), loop_thread));
    *(bool *)data = true;
}
static void *send_from_thread(void *data UNUSED)
{
    loop_wakeup_send(wakeup);
    return NULL;
}

static void test_wakeup_from_another_thread(void **state UNUSED)
{
    bool is_woken = false;
    loop_thread = pthread_self();
    wakeup = loop_wakeup_new(loop, on_wakeup, &is_woken);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_from_thread, NULL), 0);
    RUN_UNTIL(loop, is_woken);
    pthread_join(thread, NULL);
    loop_wakeup_free(wakeup);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_turn_has_one_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_task_that_always_defers_itself_does_not_starve_io, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancelled_task_does_not_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hook_may_remove_and_add_any, setup, teardown),
        cmocka_unit_test_setup_teardown(test_turn_costs_one_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_run_ends_by_stop_or_when_nothing_is_left, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wakeup_from_another_thread, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
