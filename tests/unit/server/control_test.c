#include "server/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void open_pair(int fds[2])
{
    struct err err = {0};
    assert_int_equal(control_pair(fds, &err), OK);
    for (int i = 0; i < 2; i++) {
        assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
        assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
    }
}

static void test_messages_keep_their_bounds(void **state)
{
    (void)state;
    int fds[2];
    struct control_message message;
    open_pair(fds);
    assert_int_equal(control_receive(fds[1], &message), AGAIN);
    assert_int_equal(control_send(fds[0], CONTROL_FAIL, 1, "why it failed", -1), OK);
    assert_int_equal(control_send(fds[0], CONTROL_BEAT, 42, NULL, -1), OK);
    assert_int_equal(control_receive(fds[1], &message), OK);
    assert_int_equal(message.type, CONTROL_FAIL);
    assert_string_equal(message.text, "why it failed");
    assert_int_equal(message.fd, -1);
    assert_int_equal(control_receive(fds[1], &message), OK);
    assert_int_equal(message.type, CONTROL_BEAT);
    assert_int_equal(message.value, 42);
    assert_string_equal(message.text, "");
    close(fds[0]);
    assert_int_equal(control_receive(fds[1], &message), ERR);
    assert_int_equal(control_send(fds[1], CONTROL_BEAT, 0, NULL, -1), ERR);
    close(fds[1]);
}

static void test_long_text_is_cut(void **state)
{
    (void)state;
    int fds[2];
    struct control_message message;
    char text[3 * CONTROL_TEXT_MAX];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    open_pair(fds);
    assert_int_equal(control_send(fds[0], CONTROL_FAIL, 0, text, -1), OK);
    assert_int_equal(control_receive(fds[1], &message), OK);
    assert_int_equal(strlen(message.text), CONTROL_TEXT_MAX);
    close(fds[0]);
    close(fds[1]);
}

static void test_descriptors_travel(void **state)
{
    (void)state;
    int fds[2], pipe_fds[2];
    struct control_message message;
    char byte = 0;
    open_pair(fds);
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(control_send(fds[0], CONTROL_ADOPT, 0, NULL, pipe_fds[1]), OK);
    close(pipe_fds[1]);
    assert_int_equal(control_receive(fds[1], &message), OK);
    assert_int_equal(message.type, CONTROL_ADOPT);
    assert_true(message.fd >= 0);
    assert_true(fcntl(message.fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(write(message.fd, "!", 1), 1);
    assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
    assert_int_equal(byte, '!');
    close(message.fd);
    close(pipe_fds[0]);
    close(fds[0]);
    close(fds[1]);
}

static void test_a_full_channel_drops(void **state)
{
    (void)state;
    int fds[2];
    enum status status = OK;
    open_pair(fds);
    for (int i = 0; i < 100000 && status == OK; i++)
        status = control_send(fds[0], CONTROL_BEAT, 0, NULL, -1);
    assert_int_equal(status, AGAIN);
    close(fds[0]);
    close(fds[1]);
}

static void test_nonsense_ends_the_channel(void **state)
{
    (void)state;
    int fds[2];
    struct control_message message;
    uint32_t unknown[2] = {999, 0};
    open_pair(fds);
    assert_int_equal(send(fds[0], "x", 1, 0), 1);
    assert_int_equal(control_receive(fds[1], &message), ERR);
    assert_int_equal(send(fds[0], unknown, sizeof(unknown), 0), sizeof(unknown));
    assert_int_equal(control_receive(fds[1], &message), ERR);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_keep_their_bounds), cmocka_unit_test(test_long_text_is_cut),
        cmocka_unit_test(test_descriptors_travel),         cmocka_unit_test(test_a_full_channel_drops),
        cmocka_unit_test(test_nonsense_ends_the_channel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
