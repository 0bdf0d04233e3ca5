/* The server: listeners, the list of connections, limits, what is shared by all answers, and the way down.
 *
 * Draining never closes a connection that has something to say: those in flight are answered with
 * Connection: close, idle ones stay for the grace and are served, then closed. The server's own memory goes when
 * its last connection has gone, which is when the last handler has ended its request. */
#include "http/server.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/crypto.h"
#include "http/server_priv.h"

static void on_accept(void *data, int fd, const struct addr *peer)
{
    struct http_server *server;
    CAST_OBJ(server, data, HTTP_SERVER_MAGIC);
    http_conn_open(server, fd, peer);
    if (server->n_conns < server->opts.limits.max_connections || server->is_paused)
        return;
    server->is_paused = true;
    for (size_t i = 0; i < server->n_listeners; i++)
        listener_pause(server->listeners[i], true);
}

static void fill_limits(struct http_limits *limits)
{
    static const struct http_limits defaults = {
        .max_line = 8192,
        .max_header_bytes = 16384,
        .max_headers = 100,
        .max_body = 1048576,
        .header_timeout_ms = 10000,
        .body_timeout_ms = 30000,
        .idle_timeout_ms = 75000,
        .write_timeout_ms = 30000,
        .deadline_ms = 30000,
        .max_connections = 65536,
    };
#define FILL(field) limits->field = limits->field ? limits->field : defaults.field
    FILL(max_line);
    FILL(max_header_bytes);
    FILL(max_headers);
    FILL(max_body);
    FILL(header_timeout_ms);
    FILL(body_timeout_ms);
    FILL(idle_timeout_ms);
    FILL(write_timeout_ms);
    FILL(deadline_ms);
    FILL(max_connections);
#undef FILL
}

static char base32_digit(uint64_t value)
{
    return "0123456789abcdefghjkmnpqrstvwxyz"[value & 31];
}

struct http_server *http_server_new(const struct http_server_opts *opts)
{
    CHECK(opts->loop && opts->router && opts->handler);
    struct http_server *server = xalloc(sizeof *server);
    server->magic = HTTP_SERVER_MAGIC;
    server->opts = *opts;
    fill_limits(&server->opts.limits);
    list_init(&server->conns);
    unsigned char random[HTTP_ID_PREFIX];
    crypto_random(random, sizeof random);
    for (size_t i = 0; i < HTTP_ID_PREFIX; i++)
        server->id_prefix[i] = base32_digit(random[i]);
    return server;
}

void http_server_set_router(struct http_server *server, const struct http_router *router, struct slice generation)
{
    CHECK_OBJ(server, HTTP_SERVER_MAGIC);
    CHECK(router);
    server->opts.router = router;
    server->opts.generation = generation;
    list_each (node, &server->conns) {
        struct http_exchange *exchange = container_of(node, struct http_conn, node)->exchange;
        if (exchange && !exchange->is_handed)
            http_exchange_route(exchange);
    }
}

void http_server_listen(struct http_server *server, int fd)
{
    CHECK_OBJ(server, HTTP_SERVER_MAGIC);
    CHECK(!server->is_draining);
    server->listeners = xrealloc(server->listeners, (server->n_listeners + 1) * sizeof *server->listeners);
    server->listeners[server->n_listeners] = listener_new(server->opts.loop, fd, on_accept, server);
    if (server->is_paused)
        listener_pause(server->listeners[server->n_listeners], true);
    server->n_listeners++;
}

void http_server_unlisten(struct http_server *server, int fd)
{
    CHECK_OBJ(server, HTTP_SERVER_MAGIC);
    for (size_t i = 0; i < server->n_listeners; i++) {
        if (listener_fd(server->listeners[i]) != fd)
            continue;
        listener_free(server->listeners[i]);
        server->listeners[i] = server->listeners[--server->n_listeners];
        return;
    }
}

/* ---- for every answer -------------------------------------------------------------------------------- */

struct slice http_server_date(struct http_server *server)
{
    uint64_t now_ms = loop_now(server->opts.loop);
    if (now_ms >= server->date_due_ms) {
        int64_t wall_ms = clock_wall_ms();
        memcpy(server->date_line, "Date: ", 6);
        clock_http(wall_ms, server->date_line + 6);
        memcpy(server->date_line + 6 + CLOCK_HTTP_LEN, "\r\n", 2);
        server->date_due_ms = now_ms + 1000 - (uint64_t)(wall_ms % 1000);
    }
    return slice_of(server->date_line, HTTP_DATE_LINE);
}

/* Random per server, then a counter: unique, cheap, and no secret. */
void http_server_id(struct http_server *server, char out[37])
{
    uint64_t n = server->n_ids++;
    memcpy(out, server->id_prefix, HTTP_ID_PREFIX);
    for (size_t i = 0; i < 8; i++)
        out[HTTP_ID_PREFIX + i] = base32_digit(n >> (5 * (7 - i)));
    out[HTTP_ID_PREFIX + 8] = '\0';
}

/* ---- the way down ------------------------------------------------------------------------------------ */

static void stop_listening(struct http_server *server)
{
    for (size_t i = 0; i < server->n_listeners; i++)
        listener_free(server->listeners[i]);
    free(server->listeners);
    server->listeners = NULL;
    server->n_listeners = 0;
}

static void on_drained_task(struct loop_task *task)
{
    struct http_server *server = container_of(task, struct http_server, drained_task);
    timer_stop(server->opts.loop, &server->grace);
    void (*fn)(void *data) = server->on_drained;
    server->on_drained = NULL;
    if (fn)
        fn(server->drained_data);
}

static void release(struct http_server *server)
{
    timer_stop(server->opts.loop, &server->grace);
    loop_defer_cancel(&server->drained_task);
    buf_free(&server->scratch);
    server->magic = 0;
    loop_reclaim(server->opts.loop, server);
}

void http_server_forget(struct http_server *server, struct http_conn *conn)
{
    list_remove(&conn->node);
    server->n_conns--;
    if (server->is_freed) {
        if (server->n_conns == 0)
            release(server);
        return;
    }
    if (server->is_draining && server->n_conns == 0)
        loop_defer(server->opts.loop, &server->drained_task, on_drained_task);
    if (!server->is_paused || server->n_conns >= server->opts.limits.max_connections)
        return;
    server->is_paused = false;
    for (size_t i = 0; i < server->n_listeners; i++)
        listener_pause(server->listeners[i], false);
}

static void on_grace(struct timer *timer)
{
    struct http_server *server = container_of(timer, struct http_server, grace);
    server->is_grace_over = true;
    list_each (node, &server->conns) {
        struct http_conn *conn = container_of(node, struct http_conn, node);
        bool is_quiet = conn->state == HTTP_CONN_IDLE || conn->state == HTTP_CONN_PROXY;
        if (is_quiet && stream_pending(&conn->stream) == 0)
            http_conn_cut(conn, HTTP_CLOSE_DRAIN);
    }
}

void http_server_drain(struct http_server *server, uint32_t grace_ms, void (*on_drained)(void *data), void *data)
{
    CHECK_OBJ(server, HTTP_SERVER_MAGIC);
    CHECK(!server->is_draining);
    server->is_draining = true;
    server->on_drained = on_drained;
    server->drained_data = data;
    stop_listening(server);
    if (server->n_conns == 0)
        loop_defer(server->opts.loop, &server->drained_task, on_drained_task);
    else
        timer_arm(server->opts.loop, &server->grace, loop_now(server->opts.loop) + grace_ms, on_grace);
}

void http_server_free(struct http_server *server)
{
    if (!server)
        return;
    CHECK_OBJ(server, HTTP_SERVER_MAGIC);
    CHECK(!server->is_freed);
    server->is_freed = true;
    stop_listening(server);
    list_each (node, &server->conns)
        http_conn_cut(container_of(node, struct http_conn, node), HTTP_CLOSE_SHUTDOWN);
    if (server->n_conns == 0)
        release(server);
}

void http_server_stats(const struct http_server *server, struct http_stats *out)
{
    const size_t *n = server->n_in_state;
    *out = (struct http_stats){
        .connections = server->n_conns,
        .idle = n[HTTP_CONN_IDLE],
        .in_flight = n[HTTP_CONN_BODY] + n[HTTP_CONN_HANDLE] + n[HTTP_CONN_SEND],
        .requests = server->n_requests,
        .responses_5xx = server->n_5xx,
    };
}

uint64_t http_server_closes(const struct http_server *server, enum http_close why)
{
    CHECK((unsigned)why < HTTP_N_CLOSES);
    return server->n_closes[why];
}
