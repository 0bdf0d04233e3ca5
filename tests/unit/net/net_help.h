/* What the tests of net/ share: running a loop until something is so, with a guard instead of a hang, and
 * connected sockets on loopback. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/addr.h"
#include "net/loop.h"
#include "net/timer.h"

struct guard {
    struct timer timer;
    bool has_fired;
};

static inline void on_guard(struct timer *timer)
{
    container_of(timer, struct guard, timer)->has_fired = true;
}

/* Turns the loop until cond; fails the test after ten seconds. */
#define RUN_UNTIL(loop, cond)                                                                                          \
    do {                                                                                                               \
        struct guard guard_ = {0};                                                                                     \
        timer_arm((loop), &guard_.timer, loop_now(loop) + 10000, on_guard);                                            \
        while (!(cond) && !guard_.has_fired)                                                                           \
            loop_turn((loop), true);                                                                                   \
        timer_stop((loop), &guard_.timer);                                                                             \
        if (guard_.has_fired)                                                                                          \
            fail_msg("%s:%d: never became true: %s", __FILE__, __LINE__, #cond);                                       \
    } while (0)

static inline struct addr loopback(int port)
{
    struct addr addr;
    char text[32];
    snprintf(text, sizeof(text), "127.0.0.1:%d", port);
    assert_int_equal(addr_parse(slice_str(text), &addr, NULL), OK);
    return addr;
}

static inline struct addr addr_of(int fd)
{
    struct addr addr = {.len = sizeof(addr.sa)};
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr.sa, &addr.len), 0);
    return addr;
}

static inline int connect_to(const struct addr *addr)
{
    int fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr->sa, addr->len), 0);
    return fd;
}

static inline void unix_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

/* fds[0] is non-blocking. */
static inline void tcp_pair(int fds[2])
{
    struct addr any = loopback(0);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&any.sa, any.len), 0);
    assert_int_equal(listen(listener, 1), 0);
    struct addr bound = addr_of(listener);
    fds[1] = connect_to(&bound);
    fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fds[0] >= 0);
    close(listener);
}

static inline void reset(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    close(fd);
}
