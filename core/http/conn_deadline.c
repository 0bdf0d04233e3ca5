/* When a connection has waited long enough: a function of its state. conn.c's expire() says what happens then. */
#include "http/server_priv.h"

#define LINGER_MS 1000                      /* DESIGN 8: a refused client reads its answer */
#define BODY_RATE_BYTES ((size_t)16 * 1024) /* each so many bytes of a body buy one more second */

uint64_t http_conn_due_ms(const struct http_conn *conn)
{
    const struct http_limits *limits = &conn->server->opts.limits;
    const struct http_exchange *exchange = conn->exchange;
    switch ((enum http_conn_state)conn->state) {
    case HTTP_CONN_IDLE:
        return conn->since_ms + limits->idle_timeout_ms;
    case HTTP_CONN_PROXY:
    case HTTP_CONN_HEAD: /* from its first byte: entered once a request */
        return conn->since_ms + limits->header_timeout_ms;
    case HTTP_CONN_BODY: /* a deadline, extended by a minimum rate */
        return conn->since_ms + limits->body_timeout_ms + exchange->received / BODY_RATE_BYTES * 1000;
    case HTTP_CONN_HANDLE: /* the handler has its own deadline; a reader of a stream has ours */
        return exchange->is_waiting ? conn->since_ms + limits->write_timeout_ms : 0;
    case HTTP_CONN_SEND:
        return conn->since_ms + limits->write_timeout_ms;
    case HTTP_CONN_LINGER:
        return conn->since_ms + LINGER_MS;
    case HTTP_CONN_CLOSED:
    case HTTP_CONN_N_STATES:
        return 0;
    }
    WRONG("no connection state");
}
