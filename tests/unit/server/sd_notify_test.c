/* What systemd hears, on a socket of the test's own. */
#include "server/sd_notify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

static int systemd; /* its socket, of the abstract namespace */
static struct loop *loop;
static struct sd_notify *notify;

static int set_up(void **state)
{
    (void)state;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    char name[64];
    int len = snprintf(name, sizeof(name), "@chowk-notify-%d", (int)getpid());
    memcpy(un.sun_path + 1, name + 1, (size_t)len - 1);
    systemd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setenv("NOTIFY_SOCKET", name, 1);
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    loop = loop_new();
    notify = NULL;
    return bind(systemd, (struct sockaddr *)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) != 0;
}

static int tear_down(void **state)
{
    (void)state;
    sd_notify_free(notify);
    loop_run(loop);
    loop_free(loop);
    close(systemd);
    return 0;
}

/* "" = nothing was said. */
static const char *heard(void)
{
    static char text[1024];
    ssize_t n = recv(systemd, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static void test_says_what_happens(void **state)
{
    (void)state;
    char expected[64];
    notify = sd_notify_new(loop, false);
    sd_notify_ready(notify);
    assert_string_equal(heard(), "READY=1");
    assert_string_equal(heard(), ""); /* no watchdog was asked for */
    uint64_t before_us = clock_us();
    sd_notify_reloading(notify);
    unsigned long long at_us = 0;
    assert_int_equal(sscanf(heard(), "RELOADING=1\nMONOTONIC_USEC=%llu", &at_us), 1);
    assert_true(at_us >= before_us && at_us <= clock_us());
    sd_notify_status(notify, "%d workers\nand no more", 2);
    assert_string_equal(heard(), "STATUS=2 workers");
    sd_notify_main_pid(notify, 77);
    snprintf(expected, sizeof(expected), "MAINPID=%d", 77);
    assert_string_equal(heard(), expected);
    sd_notify_stopping(notify);
    assert_string_equal(heard(), "STOPPING=1");
}

static unsigned n_pings(uint64_t within_ms)
{
    unsigned n = 0;
    for (uint64_t end_ms = clock_ms() + within_ms; clock_ms() < end_ms;) {
        (void)loop_turn(loop, false);
        n += strcmp(heard(), "WATCHDOG=1") == 0;
        usleep(1000);
    }
    return n;
}

static void test_pings_twice_as_often_as_systemd_asks(void **state)
{
    (void)state;
    setenv("WATCHDOG_USEC", "40000", 1);
    notify = sd_notify_new(loop, false);
    assert_int_equal(n_pings(60), 0); /* not ready */
    uint64_t from_ms = clock_ms();
    sd_notify_ready(notify);
    assert_string_equal(heard(), "READY=1");
    assert_string_equal(heard(), "WATCHDOG=1");
    while (n_pings(1) == 0)
        assert_true(clock_ms() - from_ms < 10000);
    assert_true(clock_ms() - from_ms >= 15); /* every 20 ms, not all the time */
    sd_notify_main_pid(notify, 77);          /* another pings from now on */
    (void)heard();
    assert_int_equal(n_pings(60), 0);
}

static void test_pings_for_itself_or_for_whom_it_replaces(void **state)
{
    (void)state;
    setenv("WATCHDOG_USEC", "40000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    notify = sd_notify_new(loop, false);
    sd_notify_ready(notify);
    assert_string_equal(heard(), "READY=1");
    assert_string_equal(heard(), "");
    sd_notify_free(notify);
    notify = sd_notify_new(loop, true);
    sd_notify_ready(notify);
    assert_string_equal(heard(), "READY=1");
    assert_string_equal(heard(), "WATCHDOG=1");
}

static void test_without_systemd_it_is_nothing(void **state)
{
    (void)state;
    unsetenv("NOTIFY_SOCKET");
    assert_null(sd_notify_new(loop, false));
    sd_notify_ready(NULL);
    sd_notify_reloading(NULL);
    sd_notify_main_pid(NULL, 1);
    sd_notify_status(NULL, "x");
    sd_notify_stopping(NULL);
    sd_notify_free(NULL);
    setenv("NOTIFY_SOCKET", "relative/path", 1);
    assert_null(sd_notify_new(loop, false));
    assert_string_equal(heard(), "");
}

int main(void)
{
#define ROW(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ROW(test_says_what_happens),
        ROW(test_pings_twice_as_often_as_systemd_asks),
        ROW(test_pings_for_itself_or_for_whom_it_replaces),
        ROW(test_without_systemd_it_is_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
