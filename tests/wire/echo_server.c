/* The server that the wire dialogues speak to: the http layer alone, with handlers of a few lines. Limits come
 * from the environment, so that dialogues about timeouts are quick. Prints "listening HOST:PORT" once ready;
 * SIGTERM drains, and so does GET /drain; exits 0 when the last connection has gone. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "http/server.h"
#include "net/signal.h"
#include "net/timer.h"

static struct loop *loop;
static struct http_server *server;
static struct http_router *router;
static struct signal_watch *term_watch;
static uint32_t grace_ms;
static unsigned n_gone, n_slow_done, n_echoed;

/* ---- handlers ---------------------------------------------------------------------------------------- */

static void answer(struct http_request *req, int status, struct slice type, struct slice body)
{
    http_respond(req, &(struct http_answer){.status = status, .content_type = type}, body);
}

static void on_hello(struct http_request *req)
{
    answer(req, 200, SLICE("text/plain"), SLICE("hello\n"));
}

static void on_echo(struct http_request *req)
{
    n_echoed++;
    answer(req, 200, SLICE("application/octet-stream"), req->body);
}

/* What the request was understood to be. */
static void on_inspect(struct http_request *req)
{
    struct buf *body = http_body_buf(req);
    buf_printf(body, "method=%s\npath=%.*s\nquery=%.*s\nhost=%.*s\nip=%s\nid=%s\nheaders=%zu\n",
               http_method_name(req->method), SLICE_FMT(req->path), SLICE_FMT(req->query), SLICE_FMT(req->host),
               req->ip, req->id, req->n_headers);
    for (size_t i = 0; i < req->route->n_params; i++)
        buf_printf(body, "%.*s=%.*s\n", SLICE_FMT(req->route->params[i]), SLICE_FMT(req->params[i]));
    answer(req, 200, SLICE("text/plain"), buf_as_slice(body));
}

static void on_counts(struct http_request *req)
{
    struct http_stats stats;
    http_server_stats(server, &stats);
    struct buf *body = http_body_buf(req);
    buf_printf(body, "gone=%u slow=%u echoed=%u in_flight=%zu\n", n_gone, n_slow_done, n_echoed, stats.in_flight);
    answer(req, 200, SLICE("text/plain"), http_body_slice(body));
}

static void on_empty(struct http_request *req)
{
    answer(req, 204, SLICE(""), SLICE("dropped"));
}

static void on_not_modified(struct http_request *req)
{
    struct http_header etag = {SLICE("ETag"), SLICE("\"v1\"")};
    http_respond(req, &(struct http_answer){.status = 304, .headers = &etag, .n_headers = 1}, SLICE("dropped"));
}

/* Tries to say what only the server says. */
static void on_forger(struct http_request *req)
{
    struct http_header headers[] = {
        {SLICE("Content-Length"), SLICE("99")},   {SLICE("transfer-encoding"), SLICE("chunked")},
        {SLICE("Date"), SLICE("yesterday")},      {SLICE("Connection"), SLICE("close")},
        {SLICE("X-Request-Id"), SLICE("forged")}, {SLICE("X-Mine"), SLICE("kept")}};
    http_respond(req, &(struct http_answer){.status = 200, .headers = headers, .n_headers = ARRAY_LEN(headers)},
                 SLICE("ok"));
}

static void on_big(struct http_request *req)
{
    struct buf *body = http_body_buf(req);
    size_t len = (size_t)8 * 1024 * 1024;
    memset(buf_reserve(body, len), 'x', len);
    body->len += len;
    answer(req, 200, SLICE("text/plain"), http_body_slice(body));
}

static void on_busy(struct http_request *req)
{
    http_problem(req, 503, SLICE("queue_full"), SLICE("try \"later\""), SLICE(",\"waiting\":7"), 0);
}

static void on_stream(struct http_request *req)
{
    http_stream_begin(req, &(struct http_answer){.status = 200, .content_type = SLICE("text/plain")});
    (void)http_stream_write(req, SLICE("one "));
    (void)http_stream_write(req, SLICE(""));
    struct buf *body = http_body_buf(req);
    buf_lit(body, "two ");
    (void)http_stream_write(req, http_body_slice(body));
    (void)http_stream_write(req, SLICE("three\n"));
    http_stream_end(req);
}

static void on_cut(struct http_request *req)
{
    http_stream_begin(req, &(struct http_answer){.status = 200, .content_type = SLICE("text/plain")});
    (void)http_stream_write(req, SLICE("half"));
    http_stream_abort(req);
}

/* ---- handlers that outlive the call ------------------------------------------------------------------ */

struct slow { /* in the request's arena */
    struct timer timer;
    struct http_request *req;
    size_t left;
};

static void on_slow_due(struct timer *timer)
{
    struct slow *slow = container_of(timer, struct slow, timer);
    n_slow_done++;
    answer(slow->req, 200, SLICE("text/plain"), SLICE("slow\n"));
}

static void on_slow_gone(struct http_request *req)
{
    struct slow *slow = req->owner;
    n_gone++;
    timer_stop(loop, &slow->timer);
    answer(req, 500, SLICE(""), SLICE("")); /* nobody hears it, but every request is ended once */
}

static void on_slow(struct http_request *req)
{
    struct slow *slow = arena_zalloc(req->arena, sizeof *slow);
    slow->req = req;
    req->owner = slow;
    req->on_gone = on_slow_gone;
    timer_arm(loop, &slow->timer, loop_now(loop) + 200, on_slow_due);
}

/* 16 MiB, with back-pressure. */
static void flow_on(struct http_request *req)
{
    static char block[32 * 1024];
    struct slow *slow = req->owner;
    memset(block, 'f', sizeof block);
    while (slow->left > 0) {
        slow->left -= sizeof block;
        enum status status = http_stream_write(req, slice_of(block, sizeof block));
        if (status == ERR)
            return; /* on_flow_gone ends it */
        if (status == AGAIN) {
            http_stream_on_drain(req, flow_on);
            return;
        }
    }
    http_stream_end(req);
}

static void on_flow_gone(struct http_request *req)
{
    n_gone++;
    http_stream_end(req);
}

static void on_flow(struct http_request *req)
{
    struct slow *slow = arena_zalloc(req->arena, sizeof *slow);
    slow->left = (size_t)16 * 1024 * 1024;
    req->owner = slow;
    req->on_gone = on_flow_gone;
    http_stream_begin(req, &(struct http_answer){.status = 200, .content_type = SLICE("text/plain")});
    flow_on(req);
}

/* ---- the way down ------------------------------------------------------------------------------------ */

static void on_drained(void *data)
{
    (void)data;
    loop_stop(loop);
}

static void on_drain(struct http_request *req)
{
    http_server_drain(server, grace_ms, on_drained, NULL);
    answer(req, 200, SLICE("text/plain"), SLICE("draining\n"));
}

static void on_term(void *data, int signum)
{
    (void)data, (void)signum;
    signal_watch_free(term_watch);
    term_watch = NULL;
    http_server_drain(server, 0, on_drained, NULL);
}

/* ---- set-up ------------------------------------------------------------------------------------------ */

static const struct {
    enum http_method method;
    const char *pattern;
    size_t max_body;
    void (*handle)(struct http_request *req);
} routes[] = {
    {HTTP_GET, "/hello", 0, on_hello},     {HTTP_POST, "/echo", 0, on_echo},  {HTTP_PUT, "/echo", 1000, on_echo},
    {HTTP_GET, "/inspect", 0, on_inspect}, {HTTP_GET, "/", 0, on_inspect},    {HTTP_GET, "/items/:id", 0, on_inspect},
    {HTTP_GET, "/counts", 0, on_counts},   {HTTP_GET, "/empty", 0, on_empty}, {HTTP_GET, "/same", 0, on_not_modified},
    {HTTP_GET, "/forger", 0, on_forger},   {HTTP_GET, "/big", 0, on_big},     {HTTP_GET, "/busy", 0, on_busy},
    {HTTP_GET, "/stream", 0, on_stream},   {HTTP_GET, "/cut", 0, on_cut},     {HTTP_GET, "/slow", 0, on_slow},
    {HTTP_GET, "/flow", 0, on_flow},       {HTTP_GET, "/drain", 0, on_drain},
};

static void on_request(void *data, struct http_request *req)
{
    (void)data;
    routes[req->route->handler].handle(req);
}

static uint32_t env_number(const char *name, uint32_t fallback)
{
    const char *text = getenv(name);
    return text ? (uint32_t)strtoul(text, NULL, 10) : fallback;
}

static void build_router(void)
{
    struct err err;
    router = http_router_new();
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        struct http_route route = {.method = routes[i].method,
                                   .pattern = routes[i].pattern,
                                   .origin = "echo_server.c",
                                   .max_body = routes[i].max_body,
                                   .handler = (int)i};
        CHECK(http_router_add(router, &route, &err) == OK);
    }
}

static int bind_or_exit(const char *text)
{
    struct err err;
    struct addr addr;
    if (addr_parse(slice_str(text), &addr, &err) != OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    int fd = listener_bind(&addr, 511, false, &err);
    if (fd < 0) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    addr.len = sizeof addr.sa;
    char bound[ADDR_TEXT_MAX];
    CHECK(getsockname(fd, (struct sockaddr *)&addr.sa, &addr.len) == 0);
    addr_text(&addr, bound);
    printf("listening %s\n", bound);
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    log_open(2, getenv("WIRE_DEBUG") ? LOG_DEBUG : LOG_ERROR, false, "echo server");
    loop = loop_new();
    build_router();
    grace_ms = env_number("WIRE_GRACE_MS", 600);
    struct http_server_opts opts = {
        .loop = loop,
        .router = router,
        .handler = on_request,
        .limits = {.header_timeout_ms = env_number("WIRE_HEADER_TIMEOUT_MS", 0),
                   .body_timeout_ms = env_number("WIRE_BODY_TIMEOUT_MS", 0),
                   .idle_timeout_ms = env_number("WIRE_IDLE_TIMEOUT_MS", 0),
                   .write_timeout_ms = env_number("WIRE_WRITE_TIMEOUT_MS", 0)},
    };
    server = http_server_new(&opts);
    int fd = bind_or_exit(argc > 1 ? argv[1] : "127.0.0.1:0");
    http_server_listen(server, fd);
    term_watch = signal_watch_new(loop, SIGTERM, on_term, NULL);
    loop_run(loop);

    sigset_t term; /* a TERM on the way down must not spoil the exit status */
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    http_server_free(server);
    if (term_watch)
        signal_watch_free(term_watch);
    (void)loop_turn(loop, false);
    loop_free(loop);
    http_router_free(router);
    close(fd);
    CHECK(arena_live() == 0);
    return 0;
}
