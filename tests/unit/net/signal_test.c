#include "net/net_help.h"

#include <signal.h>

#include "net/signal.h"

static int seen[65];

static void on_signal(void *data, int signum)
{
    assert_ptr_equal(data, seen);
    seen[signum]++;
}

static void test_signals_arrive_on_the_loop(void **state UNUSED)
{
    struct loop *loop = loop_new();
    struct signal_watch *usr1 = signal_watch_new(loop, SIGUSR1, on_signal, seen);
    struct signal_watch *usr2 = signal_watch_new(loop, SIGUSR2, on_signal, seen);
    assert_int_equal(raise(SIGUSR1), 0);
    assert_int_equal(seen[SIGUSR1], 0);
    RUN_UNTIL(loop, seen[SIGUSR1] == 1);
    assert_int_equal(raise(SIGUSR2), 0);
    RUN_UNTIL(loop, seen[SIGUSR2] == 1);
    assert_int_equal(seen[SIGUSR1], 1);
    signal_watch_free(usr1);
    signal_watch_free(usr2);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signals_arrive_on_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
