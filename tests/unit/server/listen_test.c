#include "server/listen.h"

#include "../net/net_help.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void test_one_listener_per_worker(void **state)
{
    (void)state;
    struct listen_set set;
    struct err err = {0};
    char url[160];
    assert_int_equal(listen_open(&set, "127.0.0.1:0", 3, &err), OK);
    assert_int_equal(set.n_workers, 3);
    assert_int_not_equal(set.fds[0], set.fds[1]);
    assert_int_not_equal(set.fds[1], set.fds[2]);
    listen_url(&set, url, sizeof(url));
    assert_memory_equal(url, "http://127.0.0.1:", 17);
    assert_string_not_equal(url, "http://127.0.0.1:0");
    listen_close(&set);
}

static void test_a_served_address_is_refused_by_name(void **state)
{
    (void)state;
    struct listen_set first, second;
    struct err err = {0};
    char text[ADDR_TEXT_MAX], expected[64];
    assert_int_equal(listen_open(&first, "127.0.0.1:0", 2, &err), OK);
    addr_text(&first.addr, text);
    assert_int_equal(listen_open(&second, text, 2, &err), ERR);
    snprintf(expected, sizeof(expected), "is served already by pid %d (listen_test)", (int)getpid());
    assert_non_null(strstr(err.message, expected));
    listen_close(&first);
    assert_int_equal(listen_open(&second, text, 2, &err), OK);
    listen_close(&second);
}

static void test_unix_path_is_shared_and_removed(void **state)
{
    (void)state;
    struct listen_set set, second;
    struct err err = {0};
    char address[64], url[160];
    struct stat st;
    snprintf(address, sizeof(address), "unix:/tmp/chowk-listen-%d.sock", (int)getpid());
    assert_int_equal(listen_open(&set, address, 2, &err), OK);
    assert_int_equal(set.fds[0], set.fds[1]);
    listen_url(&set, url, sizeof(url));
    assert_string_equal(url, address);
    assert_int_equal(listen_open(&second, address, 2, &err), ERR);
    listen_close(&set);
    assert_int_equal(stat(address + 5, &st), -1);
}

/* ---- sockets of others ---- */

static struct listen_given give(const int *fds, size_t n, bool is_shared, bool is_lent)
{
    struct listen_given given = {.n_fds = n, .is_shared = is_shared, .is_lent = is_lent};
    given.fds = xalloc(n * sizeof(int));
    memcpy(given.fds, fds, n * sizeof(int));
    return given;
}

static int port_of(int fd)
{
    struct sockaddr_in sin;
    socklen_t len = sizeof(sin);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
    return ntohs(sin.sin_port);
}

static void test_inherited_for_more_workers(void **state)
{
    (void)state;
    struct listen_set old, set;
    struct err err = {0};
    assert_int_equal(listen_open(&old, "127.0.0.1:0", 2, &err), OK);
    int fds[2] = {dup(old.fds[0]), dup(old.fds[1])}, port = port_of(old.fds[0]);
    struct listen_given given = give(fds, 2, false, false);
    assert_int_equal(listen_take(&set, &given, 3, &err), OK);
    assert_int_equal(set.n_workers, 3);
    assert_int_equal(set.n_extra, 0);
    assert_int_equal(set.fds[1], fds[1]);
    assert_int_equal(port_of(set.fds[2]), port);
    listen_close(&set);
    listen_close(&old);
}

static void test_inherited_for_fewer_workers(void **state)
{
    (void)state;
    struct listen_set old, set;
    struct err err = {0};
    assert_int_equal(listen_open(&old, "127.0.0.1:0", 3, &err), OK);
    int fds[3] = {dup(old.fds[0]), dup(old.fds[1]), dup(old.fds[2])};
    struct listen_given given = give(fds, 3, false, false);
    assert_int_equal(listen_take(&set, &given, 1, &err), OK);
    assert_int_equal(set.n_workers, 1);
    assert_int_equal(set.n_extra, 2);
    assert_int_equal(set.extra[1], fds[2]);
    listen_close(&set);
    assert_int_equal(fcntl(fds[2], F_GETFD), -1);
    listen_close(&old);
}

static void test_activation(void **state)
{
    (void)state;
    struct listen_given given;
    struct err err = {0};
    char pid[16];
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    assert_int_equal(listen_activated(&given, &err), AGAIN);
    setenv("LISTEN_PID", "1", 1);
    setenv("LISTEN_FDS", "1", 1);
    assert_int_equal(listen_activated(&given, &err), AGAIN);
    assert_null(getenv("LISTEN_FDS"));

    int kept = fcntl(3, F_DUPFD_CLOEXEC, 64); /* a test's 3 may be in use, or not */
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(dup2(udp, 3), 3);
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "1", 1);
    assert_int_equal(listen_activated(&given, &err), ERR);
    assert_non_null(strstr(err.message, "ListenStream="));

    struct listen_set set;
    struct addr any = loopback(0);
    int tcp = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(tcp, (struct sockaddr *)&any.sa, any.len), 0);
    assert_int_equal(listen(tcp, 8), 0);
    assert_int_equal(dup2(tcp, 3), 3);
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "1", 1);
    assert_int_equal(listen_activated(&given, &err), OK);
    assert_true(fcntl(3, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(3, F_GETFL) & O_NONBLOCK);
    assert_int_equal(listen_take(&set, &given, 4, &err), OK);
    assert_int_equal(set.fds[3], 3);
    listen_refuse_new(&set);
    listen_shut(&set);
    struct addr bound = addr_of(tcp);
    close(connect_to(&bound)); /* systemd's socket lives on */
    listen_close(&set);
    close(tcp);
    if (udp != 3)
        close(udp);
    if (kept >= 0) {
        dup2(kept, 3);
        close(kept);
    }
}

/* ---- the end ---- */

static int start_connect(const struct addr *addr)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr->sa, addr->len), -1);
    assert_int_equal(errno, EINPROGRESS);
    return fd;
}

static bool is_connected(int fd)
{
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    return poll(&writable, 1, 50) == 1 && !(writable.revents & POLLERR);
}

static void test_the_door_closes_softly(void **state)
{
    (void)state;
    struct listen_set set;
    struct err err = {0};
    assert_int_equal(listen_open(&set, "127.0.0.1:0", 1, &err), OK);
    int before = start_connect(&set.addr);
    assert_true(is_connected(before));
    assert_int_equal(write(before, "x", 1), 1);
    listen_refuse_new(&set);
    int after = start_connect(&set.addr);
    assert_false(is_connected(after));
    int fd = accept(set.fds[0], NULL, NULL); /* who was let in is served, whatever comes from him */
    char byte = 0;
    assert_int_equal(write(before, "y", 1), 1);
    assert_int_equal(recv(fd, &byte, 1, 0), 1);
    assert_int_equal(recv(fd, &byte, 1, 0), 1);
    assert_int_equal(byte, 'y');
    assert_int_equal(accept4(set.fds[0], NULL, NULL, SOCK_CLOEXEC), -1);
    assert_int_equal(errno, EAGAIN);
    listen_shut(&set);
    int refused = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(refused, (struct sockaddr *)&set.addr.sa, set.addr.len), -1);
    assert_int_equal(errno, ECONNREFUSED);
    close(refused);
    close(before);
    close(after);
    close(fd);
    listen_close(&set);
}

static void test_the_path_goes_before_the_end(void **state)
{
    (void)state;
    struct listen_set set, next;
    struct err err = {0};
    char address[64];
    struct stat st;
    snprintf(address, sizeof(address), "unix:/tmp/chowk-listen-%d.sock", (int)getpid());
    assert_int_equal(listen_open(&set, address, 2, &err), OK);
    close(connect_to(&set.addr));
    listen_refuse_new(&set);
    assert_int_equal(stat(address + 5, &st), -1);
    assert_int_equal(listen_open(&next, address, 1, &err), OK);
    listen_close(&set); /* not the next one's path */
    assert_int_equal(stat(address + 5, &st), 0);
    listen_close(&next);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_listener_per_worker),
        cmocka_unit_test(test_a_served_address_is_refused_by_name),
        cmocka_unit_test(test_unix_path_is_shared_and_removed),
        cmocka_unit_test(test_inherited_for_more_workers),
        cmocka_unit_test(test_inherited_for_fewer_workers),
        cmocka_unit_test(test_activation),
        cmocka_unit_test(test_the_door_closes_softly),
        cmocka_unit_test(test_the_path_goes_before_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
