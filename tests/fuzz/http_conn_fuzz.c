/* A whole HTTP connection over a socket pair, on the real loop with a frozen clock. The bytes of a client, sent at once
 * with the FIN behind, or in pieces with turns of the loop between, get the same answers byte for byte; the handler's
 * requests all end; and when the client has closed, nothing of the connection is left. */
#include "fuzz.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "http/server_priv.h"

#define NOW_MS 1800000000000
#define MAX_INPUT 8192 /* the socket pair must take it at once */
#define MAX_PIECES 16
#define MAX_HELD 512
#define MAX_BODY 600

enum { ROUTE_HELLO, ROUTE_ECHO, ROUTE_HOLD, ROUTE_STREAM, ROUTE_SHOW, ROUTE_BIG };

static struct loop *loop;
static struct http_server *server;
static struct http_request *held[MAX_HELD];
static size_t n_held, n_handled, n_logged;

static void answer(struct http_request *req, struct slice body)
{
    http_respond(req, &(struct http_answer){.status = 200, .content_type = SLICE("text/plain")}, body);
}

static void on_show(struct http_request *req)
{
    struct buf *body = http_body_buf(req);
    buf_printf(body, "%s %.*s?%.*s host=%.*s\n", http_method_name(req->method), SLICE_FMT(req->path),
               SLICE_FMT(req->query), SLICE_FMT(req->host));
    for (size_t i = 0; i < req->route->n_params; i++)
        fuzz_trace(body, 'p', req->params[i]);
    for (size_t i = 0; i < req->n_headers; i++)
        fuzz_trace(body, 'h', req->headers[i].value);
    answer(req, http_body_slice(body));
}

static void on_stream(struct http_request *req)
{
    http_stream_begin(req, &(struct http_answer){.status = 200});
    (void)http_stream_write(req, SLICE("first "));
    (void)http_stream_write(req, req->body);
    http_stream_end(req);
}

static void on_request(void *data, struct http_request *req)
{
    static char big[20000];
    (void)data;
    CHECK(req->body.len <= (req->route->max_body ? req->route->max_body : MAX_BODY));
    n_handled++;
    switch (req->route->handler) {
    case ROUTE_HELLO:
        answer(req, SLICE("hello"));
        return;
    case ROUTE_ECHO:
        answer(req, req->body);
        return;
    case ROUTE_HOLD:
        CHECK(n_held < MAX_HELD);
        held[n_held++] = req;
        return;
    case ROUTE_STREAM:
        on_stream(req);
        return;
    case ROUTE_SHOW:
        on_show(req);
        return;
    case ROUTE_BIG:
        memset(big, 'b', sizeof big);
        answer(req, slice_of(big, sizeof big));
        return;
    default:
        WRONG("no such route");
    }
}

static void on_log(void *data, const struct http_request *req, int status, size_t bytes, uint64_t us)
{
    (void)data, (void)bytes, (void)us;
    CHECK(req->magic == HTTP_REQUEST_MAGIC && status >= 200);
    n_logged += req->route != NULL;
}

static void begin(void)
{
    static const struct http_route routes[] = {
        {.method = HTTP_GET, .pattern = "/hello", .handler = ROUTE_HELLO},
        {.method = HTTP_POST, .pattern = "/echo", .handler = ROUTE_ECHO},
        {.method = HTTP_PUT, .pattern = "/echo", .handler = ROUTE_ECHO, .max_body = 8},
        {.method = HTTP_GET, .pattern = "/hold", .handler = ROUTE_HOLD},
        {.method = HTTP_POST, .pattern = "/stream", .handler = ROUTE_STREAM},
        {.method = HTTP_GET, .pattern = "/stream", .handler = ROUTE_STREAM},
        {.method = HTTP_GET, .pattern = "/show/:one/*rest", .handler = ROUTE_SHOW},
        {.method = HTTP_GET, .pattern = "/big", .handler = ROUTE_BIG},
    };
    log_open(STDERR_FILENO, LOG_ERROR, false, "fuzz");
    clock_fake(NOW_MS, NOW_MS);
    struct http_router *router = http_router_new();
    for (size_t i = 0; i < ARRAY_LEN(routes); i++)
        CHECK(http_router_add(router, &routes[i], NULL) == OK);
    loop = loop_new();
    server = http_server_new(&(struct http_server_opts){
        .loop = loop,
        .router = router,
        .handler = on_request,
        .log = on_log,
        .limits = {.max_line = 400, .max_header_bytes = 800, .max_headers = 16, .max_body = MAX_BODY},
    });
}

/* One turn; takes what the server has sent. False: nothing. */
static bool turn(int fd, struct buf *out)
{
    static char bytes[65536];
    size_t before = out->len;
    ssize_t n;
    (void)loop_turn(loop, false);
    while ((n = recv(fd, bytes, sizeof bytes, 0)) > 0)
        buf_append(out, bytes, (size_t)n);
    return out->len > before;
}

/* Until nothing moves any more. */
static void settle(int fd, struct buf *out)
{
    for (int quiet = 0; quiet < 2; quiet++)
        if (turn(fd, out))
            quiet = -1;
}

static void answer_held(int fd, struct buf *out)
{
    while (n_held > 0) {
        struct http_request *req = held[--n_held];
        answer(req, SLICE("held"));
        settle(fd, out);
    }
}

/* After an answer that closes, the rest of the input meets a closed socket. */
static void client_send(int fd, struct slice bytes)
{
    if (bytes.len > 0 && send(fd, bytes.ptr, bytes.len, MSG_NOSIGNAL) != (ssize_t)bytes.len)
        CHECK(errno == EPIPE || errno == ECONNRESET);
}

/* One connection from its opening to its end; *out: all that the client got. */
static void converse(struct slice bytes, size_t piece_len, bool fin_at_once, struct buf *out)
{
    int fds[2];
    struct addr peer = {.sa = {.ss_family = AF_UNIX}, .len = sizeof(sa_family_t)};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    server->n_ids = 0; /* the same request ids each time */
    n_handled = n_logged = 0;
    http_conn_open(server, fds[0], &peer);
    while (bytes.len > 0) {
        struct slice piece = slice_of(bytes.ptr, bytes.len < piece_len ? bytes.len : piece_len);
        bytes = slice_of(bytes.ptr + piece.len, bytes.len - piece.len);
        client_send(fds[1], piece);
        if (!fin_at_once)
            (void)turn(fds[1], out);
    }
    shutdown(fds[1], SHUT_WR);
    settle(fds[1], out);
    answer_held(fds[1], out);
    settle(fds[1], out);

    char byte;
    CHECK(recv(fds[1], &byte, 1, 0) == 0 || errno == ECONNRESET);
    CHECK(server->n_conns == 0 && n_held == 0 && n_logged >= n_handled && arena_live() == 0);
    CHECK(out->len == 0 || slice_has_prefix(buf_as_slice(out), SLICE("HTTP/1.")));
    close(fds[1]);
}

/* 100 (Continue) is sent only to a client that has not sent its body yet: there the pieces matter. */
static bool has_expect(struct slice bytes)
{
    for (size_t i = 0; i + 6 <= bytes.len; i++)
        if (slice_ieq(slice_of(bytes.ptr + i, 6), SLICE("expect")))
            return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice bytes = fuzz_input(data, size);
    struct buf whole = {0}, dripped = {0};
    if (size > MAX_INPUT)
        return 0;
    if (!loop)
        begin();
    converse(bytes, bytes.len, true, &whole);
    converse(bytes, 1 + bytes.len / MAX_PIECES, false, &dripped);
    CHECK(has_expect(bytes) || fuzz_same(&whole, &dripped));
    buf_free(&whole);
    buf_free(&dripped);
    return 0;
}
