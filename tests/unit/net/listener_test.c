#include "net/net_help.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/listener.h"

#define T0 1000000u

struct server {
    struct listener *listener;
    struct addr addr;
    int fd;
    int accepted[64];
    int n_accepted;
    void (*then)(struct server *server);
};

static struct loop *loop;
static struct server server;
static char dir[64];

static void on_accept(void *data, int fd, const struct addr *peer UNUSED)
{
    struct server *self = data;
    assert_true(self->n_accepted < (int)ARRAY_LEN(self->accepted));
    self->accepted[self->n_accepted++] = fd;
    if (self->then)
        self->then(self);
}

static void serve(const char *text)
{
    struct addr addr;
    assert_int_equal(addr_parse(slice_str(text), &addr, NULL), OK);
    struct err err = {0};
    server.fd = listener_bind(&addr, 16, true, &err);
    if (server.fd < 0)
        fail_msg("%s", err.message);
    server.addr = addr_of(server.fd);
    server.listener = listener_new(loop, server.fd, on_accept, &server);
}

static int setup(void **state UNUSED)
{
    server = (struct server){.fd = -1};
    loop = loop_new();
    strcpy(dir, "/tmp/listener_test.XXXXXX");
    assert_non_null(mkdtemp(dir));
    return 0;
}

static int teardown(void **state UNUSED)
{
    if (server.listener)
        listener_free(server.listener);
    for (int i = 0; i < server.n_accepted; i++)
        close(server.accepted[i]);
    if (server.fd >= 0)
        close(server.fd);
    loop_free(loop);
    char path[80];
    snprintf(path, sizeof(path), "%s/s", dir);
    unlink(path);
    rmdir(dir);
    return 0;
}

/* ---- accepting ----------------------------------------------------------------------------------------- */

static char peer_ip[ADDR_TEXT_MAX], peer_text[ADDR_TEXT_MAX];

static void note_peer(void *data, int fd, const struct addr *peer)
{
    addr_ip(peer, peer_ip);
    addr_text(peer, peer_text);
    on_accept(data, fd, peer);
}

static void test_accepts_ready_made_sockets(void **state UNUSED)
{
    serve("127.0.0.1:0");
    listener_free(server.listener);
    server.listener = listener_new(loop, server.fd, note_peer, &server);
    int client = connect_to(&server.addr);
    RUN_UNTIL(loop, server.n_accepted == 1);
    int fd = server.accepted[0], nodelay = 0;
    socklen_t len = sizeof(nodelay);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &len), 0);
    assert_true(nodelay);
    assert_string_equal(peer_ip, "127.0.0.1");
    struct addr own = addr_of(client);
    char text[ADDR_TEXT_MAX];
    addr_text(&own, text);
    assert_string_equal(peer_text, text);
    assert_true(fcntl(server.fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(server.fd, F_GETFD) & FD_CLOEXEC);
    close(client);
}

static void test_pause_leaves_connections_in_the_queue(void **state UNUSED)
{
    serve("127.0.0.1:0");
    listener_pause(server.listener, true);
    int client = connect_to(&server.addr);
    loop_turn(loop, false);
    assert_int_equal(server.n_accepted, 0);
    listener_pause(server.listener, false);
    RUN_UNTIL(loop, server.n_accepted == 1);
    close(client);
}

static void pause_it(struct server *self)
{
    listener_pause(self->listener, true);
}

static void test_fn_may_pause(void **state UNUSED)
{
    serve("127.0.0.1:0");
    server.then = pause_it;
    int a = connect_to(&server.addr), b = connect_to(&server.addr);
    loop_turn(loop, true);
    loop_turn(loop, false);
    assert_int_equal(server.n_accepted, 1); /* the second waits */
    close(a);
    close(b);
}

static void free_it(struct server *self)
{
    listener_free(self->listener);
    self->listener = NULL;
}

static void test_fn_may_free_the_listener(void **state UNUSED)
{
    serve("127.0.0.1:0");
    server.then = free_it;
    int a = connect_to(&server.addr), b = connect_to(&server.addr);
    loop_turn(loop, true);
    assert_int_equal(server.n_accepted, 1);
    close(a);
    close(b);
}

/* ---- binding ------------------------------------------------------------------------------------------- */

static void test_taken_port_is_refused_by_name(void **state UNUSED)
{
    serve("127.0.0.1:0");
    struct err err = {0};
    char text[ADDR_TEXT_MAX];
    addr_text(&server.addr, text);
    assert_int_equal(listener_bind(&server.addr, 16, false, &err), -1);
    assert_non_null(strstr(err.message, "another server is listening on"));
    assert_non_null(strstr(err.message, text));
    err = (struct err){0};
    assert_int_equal(listener_probe(&server.addr, &err), ERR); /* although a bind with SO_REUSEPORT would do */
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    int sibling = listener_bind(&server.addr, 16, true, &err);
    assert_true(sibling >= 0);
    close(sibling);
}

static void test_probe_of_a_free_port_leaves_it_free(void **state UNUSED)
{
    struct addr any = loopback(0);
    int fd = listener_bind(&any, 1, false, NULL);
    struct addr addr = addr_of(fd);
    close(fd);
    assert_int_equal(listener_probe(&addr, NULL), OK);
    assert_int_equal(listener_probe(&addr, NULL), OK);
    fd = listener_bind(&addr, 1, false, NULL);
    assert_true(fd >= 0);
    close(fd);
}

static void test_bind_of_a_foreign_address_says_so(void **state UNUSED)
{
    struct addr addr;
    struct err err = {0};
    assert_int_equal(addr_parse(SLICE("192.0.2.1:80"), &addr, NULL), OK); /* TEST-NET-1 */
    assert_int_equal(listener_bind(&addr, 1, false, &err), -1);
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_non_null(strstr(err.message, "bind 192.0.2.1:80"));
}

static void test_unix_path_stale_is_replaced_live_is_not(void **state UNUSED)
{
    char text[80];
    snprintf(text, sizeof(text), "unix:%s/s", dir);
    serve(text);
    struct err err = {0};
    assert_int_equal(listener_probe(&server.addr, &err), ERR);
    assert_int_equal(listener_bind(&server.addr, 1, false, &err), -1);
    assert_non_null(strstr(err.message, text));
    listener_free(server.listener);
    server.listener = NULL;
    close(server.fd); /* the path stays behind */
    server.fd = -1;
    assert_int_equal(listener_probe(&server.addr, NULL), OK);
    serve(text);
    int client = connect_to(&server.addr);
    server.n_accepted = 0;
    RUN_UNTIL(loop, server.n_accepted == 1);
    close(client);
}

static void test_unix_path_that_is_a_file_is_left_alone(void **state UNUSED)
{
    char path[80];
    snprintf(path, sizeof(path), "%s/s", dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    struct addr addr;
    struct err err = {0};
    assert_int_equal(addr_unix(path, &addr, NULL), OK);
    assert_int_equal(listener_bind(&addr, 1, false, &err), -1);
    assert_non_null(strstr(err.message, "not a socket"));
    assert_int_equal(access(path, F_OK), 0);
}

/* ---- out of descriptors -------------------------------------------------------------------------------- */

static int hoard[512];
static size_t n_hoard;

static void take_all_descriptors(void)
{
    while (n_hoard < ARRAY_LEN(hoard)) {
        int fd = dup(server.fd);
        if (fd < 0)
            return;
        hoard[n_hoard++] = fd;
    }
    fail_msg("the limit on descriptors does not hold");
}

static void give_them_back(void)
{
    while (n_hoard)
        close(hoard[--n_hoard]);
}

static size_t count_lines(int fd)
{
    char text[8192];
    ssize_t len = read(fd, text, sizeof(text));
    size_t n = 0;
    for (ssize_t i = 0; i < len; i++)
        n += text[i] == '\n';
    return n;
}

static void pass_ms(uint64_t ms)
{
    static uint64_t now = T0;
    now += ms;
    clock_fake(now, 1);
    loop_turn(loop, false);
    loop_turn(loop, false);
}

static void test_out_of_descriptors_backs_off_then_turns_away(void **state UNUSED)
{
    int log_pipe[2];
    assert_int_equal(pipe2(log_pipe, O_CLOEXEC | O_NONBLOCK), 0);
    log_open(log_pipe[1], LOG_INFO, true, "test");
    pass_ms(0);
    struct rlimit before, low;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    serve("127.0.0.1:0");
    listener_set_farewell(server.listener, SLICE("busy"));
    loop_turn(loop, false); /* libuv opens what it needs */
    int clients[3];
    for (size_t i = 0; i < 3; i++)
        clients[i] = connect_to(&server.addr);
    low = (struct rlimit){.rlim_cur = 256, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    take_all_descriptors();

    pass_ms(0); /* first failure: they wait */
    char text[16];
    assert_int_equal(recv(clients[0], text, sizeof(text), MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    pass_ms(99);
    assert_int_equal(recv(clients[0], text, sizeof(text), MSG_DONTWAIT), -1);
    assert_int_equal(write(clients[0], "request", 7), 7); /* must not turn the farewell into a reset */
    pass_ms(1);                                           /* second: turned away, in so many words */
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(recv(clients[i], text, sizeof(text), MSG_DONTWAIT), 4);
        assert_memory_equal(text, "busy", 4);
        assert_int_equal(recv(clients[i], text, sizeof(text), MSG_DONTWAIT), 0);
        int errnum = 0;
        socklen_t len = sizeof(errnum);
        assert_int_equal(getsockopt(clients[i], SOL_SOCKET, SO_ERROR, &errnum, &len), 0);
        assert_int_equal(errnum, 0);
        close(clients[i]);
        assert_int_equal(dup(server.fd), clients[i]); /* stays scarce */
        hoard[n_hoard++] = clients[i];
    }
    assert_int_equal(server.n_accepted, 0);
    pass_ms(1000);
    assert_int_equal(count_lines(log_pipe[0]), 1);

    give_them_back();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    int client = connect_to(&server.addr);
    pass_ms(1000);
    assert_int_equal(server.n_accepted, 1);
    close(client);
    clock_fake(0, 0);
    log_open(2, LOG_INFO, false, "test");
    close(log_pipe[0]);
    close(log_pipe[1]);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_accepts_ready_made_sockets),
        T(test_pause_leaves_connections_in_the_queue),
        T(test_fn_may_pause),
        T(test_fn_may_free_the_listener),
        T(test_taken_port_is_refused_by_name),
        T(test_probe_of_a_free_port_leaves_it_free),
        T(test_bind_of_a_foreign_address_says_so),
        T(test_unix_path_stale_is_replaced_live_is_not),
        T(test_unix_path_that_is_a_file_is_left_alone),
        T(test_out_of_descriptors_backs_off_then_turns_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
