/* One HTTP/1.1 connection as a state machine over a stream.
 *
 * Bytes are parsed where they arrive, in the loop's read buffer; only what cannot be used yet (a partial head,
 * pipelined requests behind one in progress) is kept in conn->in. `steps` says what each state does with input;
 * run() drives it. Whoever enters from outside (events, the timer, a late answer) ends with settle(), the one
 * place that uncorks, lingers, re-arms the timer and decides to resume buffered input; a held answer puts that off
 * until the turn's input has been read. A handler is only ever called from run(), never from inside http_respond.
 *
 * One timer serves all deadlines: http_conn_due_ms() is a function of the state, and the heap is touched only when the
 * timer would come too late; coming early, it re-arms itself. So a keep-alive request costs it nothing.
 *
 * While a handler runs, reading goes on up to IN_MAX bytes (TRAPS T10): a FIN means answer, then close; a reset
 * means gone. The struct outlives its stream for as long as a handler holds the exchange.
 *
 * A new state: a row in `steps`, a line in http_conn_due_ms() and in expire(). */
#include <stdio.h>
#include <stdlib.h>

#include "http/proxy_line.h"
#include "http/server_priv.h"

#define IN_MAX ((size_t)64 * 1024)         /* unparsed bytes kept before reading stops */
#define CORK_MAX ((size_t)64 * 1024)       /* answers kept for one write */
#define LINGER_MAX ((uint32_t)1024 * 1024) /* bytes discarded before the connection is cut after all */
#define WRITE_PROGRESS ((size_t)16 * 1024) /* a reader that takes less per write timeout is too slow */

enum step { NEXT, WAIT };

static void on_task(struct loop_task *task);
static void on_timer(struct timer *timer);

static struct loop *loop_of(const struct http_conn *conn)
{
    return conn->server->opts.loop;
}

static bool is_open(const struct http_conn *conn)
{
    return stream_is_open(&conn->stream);
}

static void enter(struct http_conn *conn, enum http_conn_state state)
{
    conn->server->n_in_state[conn->state]--;
    conn->server->n_in_state[state]++;
    conn->state = (uint8_t)state;
    conn->since_ms = loop_now(loop_of(conn));
    conn->send_mark = stream_pending(&conn->stream);
}

static void set_ip(struct http_conn *conn, const struct addr *addr)
{
    char ip[ADDR_TEXT_MAX];
    addr_ip(addr, ip);
    (void)snprintf(conn->ip, sizeof conn->ip, "%.*s", HTTP_IP_MAX - 1, ip);
}

static void give_reason(struct http_conn *conn, enum http_close why)
{
    if (conn->why == HTTP_CLOSE_NONE)
        conn->why = (uint8_t)why;
}

void http_conn_cut(struct http_conn *conn, enum http_close why)
{
    give_reason(conn, why);
    stream_close(&conn->stream);
}

static void refuse(struct http_conn *conn, enum http_close why)
{
    http_response_refuse(conn, why);
    if (conn->state == HTTP_CONN_HEAD)
        enter(conn, HTTP_CONN_SEND); /* with an exchange, http_conn_end_exchange has done it */
}

/* ---- deadlines --------------------------------------------------------------------------------------- */

static void set_timer(struct http_conn *conn)
{
    uint64_t due = http_conn_due_ms(conn);
    if (due > 0 && (!timer_is_armed(&conn->timer) || due < conn->timer.due_ms))
        timer_arm(loop_of(conn), &conn->timer, due, on_timer);
}

/* A reader that took enough since the last look gets another write timeout. */
static void expire_write(struct http_conn *conn)
{
    size_t pending = stream_pending(&conn->stream);
    if (pending + WRITE_PROGRESS > conn->send_mark) {
        http_conn_cut(conn, HTTP_CLOSE_WRITE_TIMEOUT);
        return;
    }
    conn->send_mark = pending;
    conn->since_ms = loop_now(loop_of(conn));
}

static void expire(struct http_conn *conn)
{
    switch ((enum http_conn_state)conn->state) {
    case HTTP_CONN_IDLE:
        http_conn_cut(conn, HTTP_CLOSE_IDLE);
        return;
    case HTTP_CONN_PROXY:
        http_conn_cut(conn, HTTP_CLOSE_PROXY_LINE);
        return;
    case HTTP_CONN_HEAD:
        refuse(conn, HTTP_CLOSE_HEADER_TIMEOUT);
        return;
    case HTTP_CONN_BODY:
        refuse(conn, HTTP_CLOSE_BODY_TIMEOUT);
        return;
    case HTTP_CONN_HANDLE:
    case HTTP_CONN_SEND:
        expire_write(conn);
        return;
    case HTTP_CONN_LINGER:
        http_conn_cut(conn, HTTP_CLOSE_DONE);
        return;
    case HTTP_CONN_CLOSED:
    case HTTP_CONN_N_STATES:
        break;
    }
    WRONG("no deadline in this state");
}

/* ---- the end of an exchange ------------------------------------------------------------------------------------ */

static void conn_free(struct http_conn *conn)
{
    CHECK(conn->state == HTTP_CONN_CLOSED && !conn->exchange);
    conn->server->n_in_state[HTTP_CONN_CLOSED]--;
    loop_defer_cancel(&conn->task);
    http_server_forget(conn->server, conn);
    loop_reclaim(loop_of(conn), conn);
}

static void settle_or_hold(struct http_conn *conn);

void http_conn_end_exchange(struct http_conn *conn)
{
    http_exchange_report(conn->exchange);
    http_exchange_free(conn);
    if (conn->state == HTTP_CONN_CLOSED) {
        conn_free(conn);
        return;
    }
    /* Held answers may pile up to CORK_MAX; otherwise the next request waits until this answer is out. */
    bool is_sent = !conn->must_close && (conn->stream.corked || stream_pending(&conn->stream) == 0);
    enter(conn, is_sent ? HTTP_CONN_IDLE : HTTP_CONN_SEND);
    if (!conn->is_busy)
        settle_or_hold(conn);
}

void http_conn_wait_drain(struct http_conn *conn)
{
    conn->exchange->is_waiting = true;
    conn->since_ms = loop_now(loop_of(conn));
    conn->send_mark = stream_pending(&conn->stream);
    set_timer(conn);
}

void http_conn_wake_later(struct http_conn *conn)
{
    loop_defer(loop_of(conn), &conn->task, on_task);
}

/* ---- what each state does with input ----------------------------------------------------------------- */

static void take(struct slice *in, size_t len)
{
    *in = slice_of(in->ptr + len, in->len - len);
}

static enum step step_proxy(struct http_conn *conn, struct slice *in)
{
    size_t len;
    bool has_client;
    struct addr client;
    enum status status = proxy_line_read(*in, &len, &has_client, &client);
    if (status == AGAIN)
        return WAIT;
    if (status == ERR) {
        http_conn_cut(conn, HTTP_CLOSE_PROXY_LINE);
        return WAIT;
    }
    take(in, len);
    if (has_client)
        set_ip(conn, &client);
    enter(conn, HTTP_CONN_IDLE);
    return NEXT;
}

/* RFC 9112 2.2: empty lines before a request line are ignored; they do not extend the idle timeout. */
static enum step step_idle(struct http_conn *conn, struct slice *in)
{
    while (in->len > 0 && (in->ptr[0] == '\r' || in->ptr[0] == '\n'))
        take(in, 1);
    if (in->len == 0)
        return WAIT;
    if (stream_pending(&conn->stream) > CORK_MAX)
        stream_cork(&conn->stream, false);
    if (!conn->stream.corked && stream_pending(&conn->stream) > 0) {
        enter(conn, HTTP_CONN_SEND);
        return WAIT;
    }
    enter(conn, HTTP_CONN_HEAD);
    conn->scan = (struct http_scan){0};
    return NEXT;
}

static enum step dispatch(struct http_conn *conn)
{
    struct http_server *server = conn->server;
    struct http_exchange *exchange = conn->exchange;
    struct http_request *req = &exchange->req;
    enter(conn, HTTP_CONN_HANDLE);
    if (!req->route) {
        http_response_unrouted(req);
        return NEXT;
    }
    exchange->is_handed = true;
    server->opts.handler(server->opts.data, req);
    return NEXT;
}

static enum step begin_body(struct http_conn *conn, const struct slice *in)
{
    struct http_exchange *exchange = conn->exchange;
    if (exchange->left > exchange->max_body) {
        refuse(conn, HTTP_CLOSE_BODY_TOO_LARGE);
        return WAIT;
    }
    if (!exchange->is_chunked && exchange->left == 0)
        return dispatch(conn);
    bool is_awaited = exchange->expects_continue && in->len == 0;
    if (is_awaited && !exchange->req.route) {
        exchange->must_close = true; /* the body is not read: it may still come */
        return dispatch(conn);
    }
    enter(conn, HTTP_CONN_BODY);
    if (is_awaited)
        (void)stream_write(&conn->stream, SLICE("HTTP/1.1 100 Continue\r\n\r\n"));
    return NEXT;
}

static enum step step_head(struct http_conn *conn, struct slice *in)
{
    const struct http_limits *limits = &conn->server->opts.limits;
    struct http_scan_limits scan_limits = {limits->max_line, limits->max_header_bytes, limits->max_headers};
    enum http_close why;
    size_t len;
    enum status status = http_scan_head(&conn->scan, *in, &scan_limits, &len, &why);
    if (status == AGAIN)
        return WAIT;
    if (status == ERR) {
        refuse(conn, why);
        return WAIT;
    }
    struct slice block = slice_of(in->ptr, len);
    take(in, len);
    if (http_exchange_new(conn, block, conn->scan.n_lines - 1, &why) == OK)
        return begin_body(conn, in);
    refuse(conn, why);
    return WAIT;
}

/* An unrouted request's body is read and dropped, so that the connection can go on. */
static void keep_body(struct http_exchange *exchange, struct slice bytes)
{
    exchange->received += bytes.len;
    if (exchange->req.route)
        buf_slice(&exchange->body, bytes);
}

static enum step step_sized_body(struct http_conn *conn, struct slice *in)
{
    struct http_exchange *exchange = conn->exchange;
    struct slice bytes = slice_of(in->ptr, in->len < exchange->left ? in->len : (size_t)exchange->left);
    take(in, bytes.len);
    exchange->left -= bytes.len;
    if (exchange->received == 0 && exchange->left == 0) {
        exchange->req.body = arena_copy(&conn->arena, bytes); /* nearly always: it came with its head */
        return dispatch(conn);
    }
    keep_body(exchange, bytes);
    if (exchange->left > 0)
        return WAIT;
    exchange->req.body = buf_as_slice(&exchange->body);
    return dispatch(conn);
}

static enum step step_chunked_body(struct http_conn *conn, struct slice *in)
{
    const struct http_limits *limits = &conn->server->opts.limits;
    struct http_exchange *exchange = conn->exchange;
    struct http_chunk_limits chunk_limits = {limits->max_header_bytes, limits->max_header_bytes};
    while (!http_chunk_is_done(&exchange->chunks)) {
        struct slice bytes;
        enum http_close why;
        enum status status = http_chunk_read(&exchange->chunks, &chunk_limits, in, &bytes, &why);
        if (status == AGAIN)
            return WAIT;
        if (status == OK && bytes.len > exchange->max_body - exchange->received) {
            status = ERR;
            why = HTTP_CLOSE_BODY_TOO_LARGE;
        }
        if (status == ERR) {
            refuse(conn, why);
            return WAIT;
        }
        keep_body(exchange, bytes);
    }
    exchange->req.body = buf_as_slice(&exchange->body);
    return dispatch(conn);
}

static enum step step_body(struct http_conn *conn, struct slice *in)
{
    return conn->exchange->is_chunked ? step_chunked_body(conn, in) : step_sized_body(conn, in);
}

static enum step step_discard(struct http_conn *conn, struct slice *in)
{
    conn->n_discarded += (uint32_t)in->len;
    take(in, in->len);
    if (conn->n_discarded > LINGER_MAX)
        http_conn_cut(conn, HTTP_CLOSE_DONE);
    return WAIT;
}

/* Input after the last answer is of no use; before it, it waits. */
static enum step step_send(struct http_conn *conn, struct slice *in)
{
    return conn->must_close ? step_discard(conn, in) : WAIT;
}

static enum step step_wait(struct http_conn *conn, struct slice *in)
{
    (void)conn;
    (void)in;
    return WAIT;
}

static enum step (*const steps[HTTP_CONN_N_STATES])(struct http_conn *, struct slice *) = {
    [HTTP_CONN_PROXY] = step_proxy,    [HTTP_CONN_IDLE] = step_idle,   [HTTP_CONN_HEAD] = step_head,
    [HTTP_CONN_BODY] = step_body,      [HTTP_CONN_HANDLE] = step_wait, [HTTP_CONN_SEND] = step_send,
    [HTTP_CONN_LINGER] = step_discard, [HTTP_CONN_CLOSED] = step_wait,
};

/* Uses as much of *in as the states allow. A broken stream executes nothing more. */
static void run(struct http_conn *conn, struct slice *in)
{
    while (is_open(conn) && steps[conn->state](conn, in) == NEXT)
        continue;
}

/* ---- entry points and what follows them -------------------------------------------------------------- */

/* The client sends no more: what has begun is cut short, what is buffered or running still gets its answer. */
static void settle_eof(struct http_conn *conn)
{
    if (conn->state == HTTP_CONN_HEAD || conn->state == HTTP_CONN_BODY)
        refuse(conn, HTTP_CLOSE_TRUNCATED);
    else if (conn->state == HTTP_CONN_LINGER)
        http_conn_cut(conn, HTTP_CLOSE_DONE);
    else if (conn->state == HTTP_CONN_PROXY ||
             (conn->state == HTTP_CONN_IDLE && conn->in.len == 0 && stream_pending(&conn->stream) == 0))
        http_conn_cut(conn, HTTP_CLOSE_CLIENT);
}

/* All of the last answer is with the kernel. */
static void settle_sent(struct http_conn *conn)
{
    if (!conn->must_close) {
        enter(conn, HTTP_CONN_IDLE);
        return;
    }
    give_reason(conn, conn->server->is_draining ? HTTP_CLOSE_DRAIN : HTTP_CLOSE_DONE);
    if (conn->is_eof) {
        http_conn_cut(conn, HTTP_CLOSE_DONE);
        return;
    }
    /* Not closed at once: unread input would turn the close into a reset that eats the answer (FACTS 10.7). */
    enter(conn, HTTP_CONN_LINGER);
    stream_shutdown(&conn->stream);
}

static void settle_reading(struct http_conn *conn)
{
    bool is_full = conn->in.len >= IN_MAX && (conn->state == HTTP_CONN_HANDLE || conn->state == HTTP_CONN_SEND);
    if (is_full == conn->is_read_off)
        return;
    conn->is_read_off = is_full;
    stream_read(&conn->stream, !is_full);
}

static void settle(struct http_conn *conn)
{
    if (conn->is_eof && is_open(conn))
        settle_eof(conn);
    stream_cork(&conn->stream, false);
    if (conn->state == HTTP_CONN_IDLE && stream_pending(&conn->stream) > 0)
        enter(conn, HTTP_CONN_SEND);
    if (conn->state == HTTP_CONN_SEND && stream_pending(&conn->stream) == 0 && is_open(conn))
        settle_sent(conn);
    if (conn->is_eof && is_open(conn))
        settle_eof(conn); /* now that the answer is out */
    if (conn->state == HTTP_CONN_IDLE && conn->in.len == 0 && conn->server->is_grace_over)
        http_conn_cut(conn, HTTP_CLOSE_DRAIN); /* its head was sent before the drain began */
    if (!is_open(conn))
        return;
    settle_reading(conn);
    set_timer(conn);
    if (conn->state == HTTP_CONN_IDLE && conn->in.len > 0)
        loop_defer(loop_of(conn), &conn->task, on_task);
}

/* A held answer leaves with the others of this turn (response.c). */
static void settle_or_hold(struct http_conn *conn)
{
    if (is_open(conn) && conn->stream.corked)
        loop_defer(loop_of(conn), &conn->task, on_task);
    else
        settle(conn);
}

/* Runs the machine over `in`, which is conn->in or fresh bytes; returns what was not used. */
static struct slice run_busy(struct http_conn *conn, struct slice in)
{
    conn->is_busy = true;
    run(conn, &in);
    if (conn->state == HTTP_CONN_LINGER || conn->must_close || !is_open(conn))
        in.len = 0;
    return in;
}

static void run_buffered(struct http_conn *conn)
{
    struct slice left = run_busy(conn, buf_as_slice(&conn->in));
    if (left.len == 0)
        buf_free(&conn->in);
    else
        buf_consume(&conn->in, conn->in.len - left.len);
    settle(conn);
    conn->is_busy = false;
}

static struct http_conn *conn_of(struct stream *stream)
{
    struct http_conn *conn = container_of(stream, struct http_conn, stream);
    CHECK_OBJ(conn, HTTP_CONN_MAGIC);
    return conn;
}

static void on_data(struct stream *stream, struct slice bytes)
{
    struct http_conn *conn = conn_of(stream);
    if (conn->in.len > 0) {
        buf_slice(&conn->in, bytes);
        run_buffered(conn);
        return;
    }
    struct slice left = run_busy(conn, bytes);
    if (left.len > 0)
        buf_slice(&conn->in, left);
    settle_or_hold(conn);
    conn->is_busy = false;
}

static void on_eof(struct stream *stream)
{
    struct http_conn *conn = conn_of(stream);
    conn->is_eof = true;
    conn->is_busy = true;
    settle(conn);
    conn->is_busy = false;
}

/* A stream's writer may go on. */
static void wake_writer(struct http_conn *conn)
{
    struct http_exchange *exchange = conn->exchange;
    if (!exchange || stream_pending(&conn->stream) > 0)
        return;
    exchange->is_waiting = false;
    void (*fn)(struct http_request *) = exchange->on_drain;
    exchange->on_drain = NULL;
    if (fn)
        fn(&exchange->req);
}

static void on_drain(struct stream *stream)
{
    struct http_conn *conn = conn_of(stream);
    conn->is_busy = true;
    wake_writer(conn);
    settle(conn);
    conn->is_busy = false;
}

/* Input was left behind while an answer was on its way, or a writer asked to be woken when nothing is unsent. */
static void on_task(struct loop_task *task)
{
    struct http_conn *conn = container_of(task, struct http_conn, task);
    CHECK_OBJ(conn, HTTP_CONN_MAGIC);
    if (!is_open(conn))
        return;
    if (conn->state == HTTP_CONN_IDLE)
        run_buffered(conn);
    else
        on_drain(&conn->stream);
}

static void on_timer(struct timer *timer)
{
    struct http_conn *conn = container_of(timer, struct http_conn, timer);
    CHECK_OBJ(conn, HTTP_CONN_MAGIC);
    uint64_t due = http_conn_due_ms(conn);
    if (due == 0 || !is_open(conn))
        return;
    conn->is_busy = true;
    if (due <= loop_now(loop_of(conn)))
        expire(conn);
    settle(conn);
    conn->is_busy = false;
}

static void log_close(const struct http_conn *conn, const struct err *err)
{
    const struct http_close_info *info = http_close_info((enum http_close)conn->why);
    log_write(info->level, "connection closed", LOG_S("reason", info->metric), LOG_S("ip", conn->ip),
              LOG_S("error", err ? err->message : ""));
}

/* The exchange of a handler that runs stays until it has ended it; any other dies here. */
static void on_close(struct stream *stream, const struct err *err)
{
    struct http_conn *conn = conn_of(stream);
    give_reason(conn, err ? HTTP_CLOSE_BROKEN : HTTP_CLOSE_CLIENT);
    conn->server->n_closes[conn->why]++;
    log_close(conn, err);
    timer_stop(loop_of(conn), &conn->timer);
    loop_defer_cancel(&conn->task);
    buf_free(&conn->in);
    enter(conn, HTTP_CONN_CLOSED);
    struct http_exchange *exchange = conn->exchange;
    if (exchange && exchange->is_handed) {
        if (exchange->req.on_gone)
            exchange->req.on_gone(&exchange->req); /* may end it, and with it conn */
        return;
    }
    if (exchange)
        http_exchange_free(conn);
    conn_free(conn);
}

static const struct stream_events events = {
    .on_data = on_data, .on_eof = on_eof, .on_drain = on_drain, .on_close = on_close};

void http_conn_open(struct http_server *server, int fd, const struct addr *peer)
{
    struct http_conn *conn = xalloc(sizeof *conn);
    set_ip(conn, peer);
    conn->state = server->opts.speaks_proxy ? HTTP_CONN_PROXY : HTTP_CONN_IDLE;
    conn->magic = HTTP_CONN_MAGIC;
    conn->server = server;
    arena_create(&conn->arena);
    list_push(&server->conns, &conn->node);
    server->n_conns++;
    server->n_in_state[conn->state]++;
    stream_open(&conn->stream, server->opts.loop, fd, &events);
    stream_read(&conn->stream, true);
    conn->since_ms = loop_now(server->opts.loop);
    set_timer(conn);
    if (server->opts.speaks_proxy && !http_trust_has(&server->opts.trust, conn->ip))
        http_conn_cut(conn, HTTP_CLOSE_PROXY_STRANGER);
}
