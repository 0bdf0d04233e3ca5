/* The connection's state machine over socket pairs, with a frozen clock: what the wire dialogues cannot reach,
 * such as handlers that answer late or never, a reload in the middle of a body, and what an idle one costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "http/server_priv.h"

#define HELLO "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"

static struct loop *loop;
static struct http_server *server;
static struct http_router *router;
static struct http_request *held[8]; /* requests of GET /hold, not ended yet */
static size_t n_held, n_gone, n_handled, n_drained;
static uint64_t now_ms;
static int last_status;
static size_t last_bytes;
static bool ends_when_gone;

static void turns(void)
{
    for (int i = 0; i < 8; i++)
        (void)loop_turn(loop, false);
}

static void pass(uint64_t ms)
{
    now_ms += ms;
    clock_fake(now_ms, (int64_t)now_ms);
    turns();
}

static void answer_text(struct http_request *req, struct slice text)
{
    http_respond(req, &(struct http_answer){.status = 200}, text);
}

static void on_gone(struct http_request *req)
{
    n_gone++;
    if (ends_when_gone)
        answer_text(req, SLICE("nobody"));
}

enum { HELLO_ROUTE, HOLD_ROUTE, ECHO_ROUTE, LONG_ROUTE, BIG_ROUTE };

static void answer_long(struct http_request *req)
{
    static char value[3000];
    memset(value, 'v', sizeof value);
    struct http_header header = {SLICE("X-Long"), slice_of(value, sizeof value)};
    struct buf *body = http_body_buf(req);
    buf_lit(body, "in the scratch buffer");
    http_respond(req, &(struct http_answer){.status = 200, .headers = &header, .n_headers = 1}, buf_as_slice(body));
}

static void on_request(void *data, struct http_request *req)
{
    static char big[150000];
    assert_ptr_equal(data, &n_handled);
    n_handled++;
    switch (req->route->handler) {
    case HELLO_ROUTE:
        answer_text(req, SLICE("hello"));
        return;
    case HOLD_ROUTE:
        req->on_gone = on_gone;
        held[n_held++] = req;
        return;
    case LONG_ROUTE:
        answer_long(req);
        return;
    case BIG_ROUTE:
        memset(big, 'b', sizeof big);
        answer_text(req, slice_of(big, sizeof big));
        return;
    default:
        answer_text(req, req->body);
    }
}

static void on_log(void *data, const struct http_request *req, int status, size_t bytes, uint64_t us)
{
    (void)data, (void)us;
    assert_int_equal(req->magic, HTTP_REQUEST_MAGIC);
    last_status = status;
    last_bytes = bytes;
}

static void add(struct http_router *to, enum http_method method, const char *pattern, int handler)
{
    struct http_route route = {.method = method, .pattern = pattern, .handler = handler};
    assert_int_equal(http_router_add(to, &route, NULL), OK);
}

static int begin(void **state)
{
    (void)state;
    now_ms = 1000000;
    clock_fake(now_ms, (int64_t)now_ms);
    n_held = n_gone = n_handled = n_drained = last_bytes = 0;
    last_status = 0;
    ends_when_gone = false;
    loop = loop_new();
    router = http_router_new();
    add(router, HTTP_GET, "/hello", HELLO_ROUTE);
    add(router, HTTP_GET, "/hold", HOLD_ROUTE);
    add(router, HTTP_POST, "/echo", ECHO_ROUTE);
    add(router, HTTP_GET, "/long", LONG_ROUTE);
    add(router, HTTP_GET, "/big", BIG_ROUTE);
    server = http_server_new(&(struct http_server_opts){
        .loop = loop,
        .router = router,
        .handler = on_request,
        .log = on_log,
        .data = &n_handled,
        .limits = {.header_timeout_ms = 100, .body_timeout_ms = 200, .idle_timeout_ms = 1000, .write_timeout_ms = 300},
    });
    return 0;
}

static int end(void **state)
{
    (void)state;
    http_server_free(server);
    turns();
    loop_free(loop);
    http_router_free(router);
    clock_fake(0, 0);
    assert_int_equal(arena_live(), 0);
    return 0;
}

/* ---- a client ---------------------------------------------------------------------------------------- */

static int client_open(void)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    struct addr peer = {.sa = {.ss_family = AF_UNIX}, .len = sizeof(sa_family_t)};
    http_conn_open(server, fds[0], &peer);
    return fds[1];
}

static void client_send(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
    turns();
}

/* Everything that is there now; NUL-terminated in a static buffer. */
static const char *client_read(int fd)
{
    static char text[400000];
    size_t len = 0;
    ssize_t n;
    while ((n = recv(fd, text + len, sizeof text - 1 - len, 0)) > 0) {
        len += (size_t)n;
        turns();
    }
    text[len] = '\0';
    return text;
}

static bool client_sees_end(int fd)
{
    char byte;
    return recv(fd, &byte, 1, 0) == 0;
}

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

static struct http_conn *only_conn(void)
{
    return container_of(server->conns.next, struct http_conn, node);
}

/* ---- tests ------------------------------------------------------------------------------------------- */

static void test_idle_connection_is_small(void **state)
{
    (void)state;
    int fd = client_open();
    client_send(fd, HELLO);
    assert_true(has(client_read(fd), "\r\n\r\nhello"));
    struct http_conn *conn = only_conn();
    assert_true(sizeof *conn <= 512);
    assert_null(conn->arena.chunk);
    assert_null(conn->in.ptr);
    assert_null(conn->stream.out.ptr);
    assert_int_equal(arena_live(), 0);
    struct http_stats stats;
    http_server_stats(server, &stats);
    assert_int_equal(stats.connections, 1);
    assert_int_equal(stats.idle, 1);
    assert_int_equal(stats.in_flight, 0);
    assert_int_equal(stats.requests, 1);
    assert_int_equal(last_status, 200);
    assert_int_equal(last_bytes, 5);
    close(fd);
}

static void test_timer_is_not_touched_by_requests(void **state)
{
    (void)state;
    int fd = client_open();
    turns();
    uint64_t due = only_conn()->timer.due_ms;
    for (int i = 0; i < 5; i++) {
        pass(150);
        client_send(fd, HELLO);
        assert_int_equal(only_conn()->timer.due_ms, due);
    }
    pass(900); /* beyond the first due time, within the idle timeout of the last request */
    assert_int_equal(server->n_conns, 1);
    pass(200);
    assert_int_equal(server->n_conns, 0);
    assert_int_equal(http_server_closes(server, HTTP_CLOSE_IDLE), 1);
    close(fd);
}

static void test_header_deadline_is_from_its_first_byte(void **state)
{
    (void)state;
    int fd = client_open();
    pass(500);
    client_send(fd, "GET /he");
    pass(60);
    client_send(fd, "llo HTTP/1.1\r\n");
    assert_string_equal(client_read(fd), "");
    pass(50);
    assert_true(has(client_read(fd), "HTTP/1.1 408 "));
    assert_true(client_sees_end(fd));
    close(fd);
}

static void test_body_deadline_has_a_minimum_rate(void **state)
{
    (void)state;
    static char block[16 * 1024 + 1];
    memset(block, 'x', sizeof block - 1);
    int fd = client_open();
    client_send(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n");
    pass(150);
    client_send(fd, block); /* buys a second */
    pass(1000);
    assert_string_equal(client_read(fd), "");
    pass(100);
    assert_true(has(client_read(fd), "HTTP/1.1 408 "));
    assert_int_equal(n_handled, 0);
    close(fd);
}

static void test_late_answer_and_pipelined_input(void **state)
{
    (void)state;
    int fd = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n" HELLO "GET /hol");
    assert_int_equal(n_held, 1);
    assert_int_equal(n_handled, 1);
    assert_string_equal(client_read(fd), "");
    answer_text(held[0], SLICE("first"));
    assert_int_equal(n_handled, 1); /* never from inside http_respond */
    turns();
    const char *text = client_read(fd);
    assert_true(has(text, "first") && has(text, "hello"));
    client_send(fd, "d HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(n_held, 2);
    answer_text(held[1], SLICE("second"));
    turns();
    assert_true(has(client_read(fd), "second"));
    close(fd);
}

static void test_small_answers_leave_at_the_end_of_the_turn(void **state)
{
    (void)state;
    static char large[20000];
    char byte;
    int small = client_open(), big = client_open();
    client_send(small, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    client_send(big, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    answer_text(held[0], SLICE("small"));
    memset(large, 'l', sizeof large);
    answer_text(held[1], slice_of(large, sizeof large));
    assert_int_equal(recv(small, &byte, 1, MSG_PEEK), -1);
    assert_int_equal(recv(big, &byte, 1, MSG_PEEK), 1);
    turns();
    assert_true(has(client_read(small), "small"));
    close(small);
    close(big);
}

static void test_fin_in_flight_is_answered(void **state)
{
    (void)state;
    int fd = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    shutdown(fd, SHUT_WR);
    turns();
    assert_int_equal(n_gone, 0);
    answer_text(held[0], SLICE("still"));
    turns();
    assert_true(has(client_read(fd), "still"));
    assert_true(client_sees_end(fd));
    assert_int_equal(server->n_conns, 0);
    close(fd);
}

/* The handler is told once and ends its request later; the connection's memory waits for that. */
static void test_gone_then_ended_late(void **state)
{
    (void)state;
    int fd = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_conn_cut(only_conn(), HTTP_CLOSE_SHUTDOWN);
    turns();
    assert_int_equal(n_gone, 1);
    assert_int_equal(server->n_conns, 1);
    http_stream_begin(held[0], &(struct http_answer){.status = 200});
    assert_int_equal(http_stream_write(held[0], SLICE("x")), ERR);
    assert_int_equal(arena_live(), 1);
    http_stream_end(held[0]);
    assert_int_equal(arena_live(), 0);
    assert_int_equal(last_status, 499);
    turns();
    assert_int_equal(n_gone, 1);
    assert_int_equal(server->n_conns, 0);
    close(fd);
}

static void test_gone_may_end_at_once(void **state)
{
    (void)state;
    ends_when_gone = true;
    int fd = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_conn_cut(only_conn(), HTTP_CLOSE_SHUTDOWN);
    turns();
    assert_int_equal(n_gone, 1);
    assert_int_equal(server->n_conns, 0);
    assert_int_equal(last_status, 499);
    close(fd);
}

static void test_reload_in_the_middle_of_a_body(void **state)
{
    (void)state;
    struct http_router *newer = http_router_new();
    add(newer, HTTP_GET, "/elsewhere", HELLO_ROUTE);
    int fd = client_open(), other = client_open();
    client_send(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab");
    client_send(other, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab");
    http_server_set_router(server, newer, SLICE("abc123"));
    http_router_free(router); /* the old generation may go at once */
    router = newer;
    client_send(fd, "cd");
    assert_true(has(client_read(fd), "HTTP/1.1 404 "));
    newer = http_router_new(); /* and one more, which has the route again */
    add(newer, HTTP_POST, "/echo", ECHO_ROUTE);
    http_server_set_router(server, newer, SLICE("abc124"));
    http_router_free(router);
    router = newer;
    client_send(other, "cd");
    assert_true(has(client_read(other), "\r\n\r\nabcd"));
    close(fd);
    close(other);
}

static void on_drained(void *data)
{
    (void)data;
    n_drained++;
}

static void test_drain_with_nobody_there(void **state)
{
    (void)state;
    http_server_drain(server, 1000, on_drained, NULL);
    assert_int_equal(n_drained, 0);
    turns();
    assert_int_equal(n_drained, 1);
}

static void test_drain_waits(void **state)
{
    (void)state;
    int busy = client_open(), idle = client_open(), quiet = client_open();
    client_send(busy, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_server_drain(server, 500, on_drained, NULL);
    pass(400);
    client_send(idle, HELLO);
    assert_true(has(client_read(idle), "Connection: close"));
    assert_true(client_sees_end(idle));
    assert_false(client_sees_end(quiet));
    pass(150);
    assert_true(client_sees_end(quiet));
    assert_int_equal(n_drained, 0);
    answer_text(held[0], SLICE("last"));
    turns();
    assert_true(has(client_read(busy), "Connection: close"));
    pass(1100); /* lingering ends */
    assert_int_equal(n_drained, 1);
    close(busy);
    close(idle);
    close(quiet);
}

static void test_grace_ends_while_an_answer_is_held(void **state)
{
    (void)state;
    int fd = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    answer_text(held[0], SLICE("just in time"));
    http_server_drain(server, 0, on_drained, NULL);
    turns();
    assert_true(has(client_read(fd), "just in time"));
    assert_true(client_sees_end(fd));
    assert_int_equal(n_drained, 1);
    close(fd);
}

/* Its head was sent before the drain began and promised keep-alive: it must not stay idle for ever. */
static void test_drain_ends_a_stream_that_began_before(void **state)
{
    (void)state;
    int fd = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_stream_begin(held[0], &(struct http_answer){.status = 200});
    http_server_drain(server, 100, on_drained, NULL);
    pass(200);
    http_stream_end(held[0]);
    turns();
    assert_true(has(client_read(fd), "0\r\n\r\n"));
    assert_true(client_sees_end(fd));
    assert_int_equal(n_drained, 1);
    close(fd);
}

static void test_freed_with_work_in_flight(void **state)
{
    int fd = client_open(), body = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    client_send(body, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab");
    http_server_free(server);
    turns();
    assert_int_equal(n_gone, 1);
    assert_true(client_sees_end(fd) && client_sees_end(body));
    answer_text(held[0], SLICE("late"));
    turns();
    assert_int_equal(arena_live(), 0);
    close(fd);
    close(body);
    loop_free(loop);
    http_router_free(router);
    (void)begin(state); /* for end */
}

static void test_heads_and_bodies_of_any_size(void **state)
{
    (void)state;
    int fd = client_open();
    client_send(fd, "GET /long HTTP/1.1\r\nHost: x\r\n\r\n");
    const char *text = client_read(fd);
    assert_true(has(text, "X-Long: vvv") && has(text, "\r\n\r\nin the scratch buffer"));
    assert_true(has(text, "Content-Length: 21\r\n"));
    client_send(fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    text = client_read(fd);
    assert_int_equal(strlen(strstr(text, "\r\n\r\n")), 4 + 150000);
    assert_int_equal(last_bytes, 150000);
    close(fd);
}

static size_t n_woken;
static void on_woken(struct http_request *req)
{
    (void)req;
    n_woken++;
}

static void test_stream_backpressure(void **state)
{
    (void)state;
    static char block[50000];
    n_woken = 0;
    int fd = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_stream_begin(held[0], &(struct http_answer){.status = 200});
    http_stream_on_drain(held[0], on_woken); /* nothing is unsent: woken in the next turn, not for ever parked */
    assert_int_equal(n_woken, 0);
    turns();
    assert_int_equal(n_woken, 1);
    enum status status = OK;
    for (int i = 0; i < 100 && status == OK; i++)
        status = http_stream_write(held[0], slice_of(block, sizeof block));
    assert_int_equal(status, AGAIN);
    http_stream_on_drain(held[0], on_woken);
    turns();
    assert_int_equal(n_woken, 1);
    (void)client_read(fd);
    assert_int_equal(n_woken, 2);
    http_stream_end(held[0]);
    turns();
    assert_true(has(client_read(fd), "0\r\n\r\n"));
    close(fd);
}

static void test_slow_reader_is_cut(void **state)
{
    (void)state;
    static char block[50000];
    int fd = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_stream_begin(held[0], &(struct http_answer){.status = 200});
    while (http_stream_write(held[0], slice_of(block, sizeof block)) == OK)
        continue;
    pass(290);
    assert_int_equal(n_gone, 0);
    pass(20);
    assert_int_equal(n_gone, 1);
    assert_int_equal(http_server_closes(server, HTTP_CLOSE_WRITE_TIMEOUT), 1);
    http_stream_end(held[0]);
    close(fd);
}

static void test_writer_that_never_waits_is_cut(void **state)
{
    (void)state;
    static char block[500000];
    int fd = client_open();
    client_send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    http_stream_begin(held[0], &(struct http_answer){.status = 200});
    enum status status = OK;
    for (int i = 0; i < 100 && status != ERR; i++)
        status = http_stream_write(held[0], slice_of(block, sizeof block));
    assert_int_equal(status, ERR);
    turns();
    assert_int_equal(n_gone, 1);
    assert_int_equal(http_server_closes(server, HTTP_CLOSE_WRITE_BOUND), 1);
    http_stream_end(held[0]);
    close(fd);
}

static void test_ids_are_distinct(void **state)
{
    (void)state;
    char a[37], b[37];
    http_server_id(server, a);
    http_server_id(server, b);
    assert_string_not_equal(a, b);
    assert_int_equal(strlen(a), 18);
    assert_memory_equal(a, b, HTTP_ID_PREFIX);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_idle_connection_is_small),
        TEST(test_timer_is_not_touched_by_requests),
        TEST(test_header_deadline_is_from_its_first_byte),
        TEST(test_body_deadline_has_a_minimum_rate),
        TEST(test_late_answer_and_pipelined_input),
        TEST(test_small_answers_leave_at_the_end_of_the_turn),
        TEST(test_fin_in_flight_is_answered),
        TEST(test_gone_then_ended_late),
        TEST(test_gone_may_end_at_once),
        TEST(test_reload_in_the_middle_of_a_body),
        TEST(test_drain_with_nobody_there),
        TEST(test_drain_waits),
        TEST(test_grace_ends_while_an_answer_is_held),
        TEST(test_drain_ends_a_stream_that_began_before),
        TEST(test_freed_with_work_in_flight),
        TEST(test_heads_and_bodies_of_any_size),
        TEST(test_stream_backpressure),
        TEST(test_slow_reader_is_cut),
        TEST(test_writer_that_never_waits_is_cut),
        TEST(test_ids_are_distinct),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
