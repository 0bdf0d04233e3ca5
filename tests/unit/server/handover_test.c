/* What the old master says, and what the new one makes of it. */
#include "server/handover.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/control.h"

static struct {
    int old; /* the old master's end */
    struct handover *handover;
    struct loop *loop;
    char heard[256]; /* events, as text */
} w;

static enum status receive(struct err *err)
{
    int pair[2];
    char number[16];
    assert_int_equal(control_pair(pair, err), OK);
    w.old = pair[0];
    snprintf(number, sizeof(number), "%d", pair[1]);
    setenv(HANDOVER_ENV, number, 1);
    return OK;
}

static int a_descriptor(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void give(const char *text, int fd)
{
    assert_int_equal(handover_say(w.old, text, fd), OK);
    if (fd >= 0)
        close(fd);
}

static void give_the_least(void)
{
    give("address 127.0.0.1:1", -1);
    give("listener", a_descriptor());
    give("end", -1);
}

static void note(void *data, enum handover_event event, unsigned value)
{
    static const char *const names[] = {[HANDOVER_TAKE_OVER] = "take over",
                                        [HANDOVER_ALONE] = "alone",
                                        [HANDOVER_GIVE_UP] = "give up",
                                        [HANDOVER_LEFT] = "left"};
    (void)data;
    size_t len = strlen(w.heard);
    snprintf(w.heard + len, sizeof(w.heard) - len, "%s %u, ", names[event], value);
}

static int set_up(void **state)
{
    (void)state;
    struct err err = {0};
    memset(&w, 0, sizeof(w));
    w.loop = loop_new();
    return receive(&err) != OK;
}

static int tear_down(void **state)
{
    (void)state;
    if (w.handover)
        handover_unwatch(w.handover);
    handover_free(w.handover);
    if (w.old >= 0)
        close(w.old);
    loop_run(w.loop);
    loop_free(w.loop);
    return 0;
}

static void watch(void)
{
    struct err err = {0};
    give_the_least();
    assert_int_equal(handover_receive(&w.handover, &err), OK);
    handover_watch(w.handover, w.loop, note, NULL);
}

static void turn(void)
{
    for (int i = 0; i < 5; i++)
        (void)loop_turn(w.loop, false);
}

static int n_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void test_takes_what_it_knows_and_closes_the_rest(void **state)
{
    (void)state;
    struct err err = {0};
    give("address 127.0.0.1:8080", -1);
    give("shared", -1);
    give("listener", a_descriptor());
    give("listener", a_descriptor());
    give("segment", a_descriptor());
    give("lock", a_descriptor());
    give("ops", a_descriptor());
    give("a word of next year's", a_descriptor());
    give("end", -1);
    int before = n_descriptors();
    assert_int_equal(handover_receive(&w.handover, &err), OK);
    assert_int_equal(n_descriptors(), before + 5);
    assert_string_equal(w.handover->address, "127.0.0.1:8080");
    assert_int_equal(w.handover->listeners.n_fds, 2);
    assert_int_equal(w.handover->n_segments, 1);
    assert_true(w.handover->listeners.is_shared && !w.handover->listeners.is_lent);
    assert_true(w.handover->lock_fd >= 0 && w.handover->ops_fd >= 0);
    assert_int_equal(w.handover->from, getpid());
    assert_null(getenv(HANDOVER_ENV));
}

static void test_refuses_half_of_it(void **state)
{
    (void)state;
    struct err err = {0};
    give("listener", a_descriptor());
    assert_int_equal(handover_receive(&w.handover, &err), ERR);
    assert_string_equal(err.message, "upgrade: the old master did not say all it had to");
}

static void test_without_a_channel_there_is_no_upgrade(void **state)
{
    (void)state;
    struct err err = {0};
    struct handover *none = NULL;
    close(atoi(getenv(HANDOVER_ENV)));
    unsetenv(HANDOVER_ENV);
    assert_int_equal(handover_receive(&none, &err), AGAIN);
    assert_null(none);
}

static void test_hears_the_handover_in_order(void **state)
{
    (void)state;
    char text[64];
    int fd;
    watch();
    handover_say_ready(w.handover);
    assert_int_equal(handover_hear(w.old, text, sizeof(text), &fd), OK);
    assert_string_equal(text, "ready");
    give("take over", -1);
    turn();
    assert_string_equal(w.heard, "take over 0, ");
    handover_say_serving(w.handover);
    assert_int_equal(handover_hear(w.old, text, sizeof(text), &fd), OK);
    assert_string_equal(text, "serving");
    give("alone", -1);
    give("left 1/4", -1);
    close(w.old);
    w.old = -1;
    turn();
    assert_string_equal(w.heard, "take over 0, alone 0, left 25, left 0, ");
}

static void test_an_old_master_that_dies_leaves_it_the_server(void **state)
{
    (void)state;
    watch();
    close(w.old);
    w.old = -1;
    turn();
    assert_string_equal(w.heard, "take over 0, alone 0, left 0, ");
}

static void test_one_that_gives_up_does_not(void **state)
{
    (void)state;
    watch();
    give("give up", -1);
    close(w.old);
    w.old = -1;
    turn();
    assert_string_equal(w.heard, "give up 0, left 0, ");
}

int main(void)
{
#define ROW(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ROW(test_takes_what_it_knows_and_closes_the_rest),      ROW(test_refuses_half_of_it),
        ROW(test_without_a_channel_there_is_no_upgrade),        ROW(test_hears_the_handover_in_order),
        ROW(test_an_old_master_that_dies_leaves_it_the_server), ROW(test_one_that_gives_up_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
