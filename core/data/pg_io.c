/* A session's bytes, in and out: the socket is libpq's, the reading and writing ours (pg_wire.c says why). Over TLS the
 * same through libpq's session of libssl. Nothing blocks. */
#include <errno.h>
#include <sys/socket.h>

#include "data/pg_priv.h"
#include "net/tls.h"

enum {
    READ_CHUNK = 32 * 1024,
    KEEP = 256 * 1024 /* of a buffer that is empty again */
};

static enum status of_errno(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? AGAIN : ERR;
}

static enum status receive(struct pg_session *conn, char *room, size_t len, size_t *n)
{
    if (conn->ssl)
        return tls_session_read(conn->ssl, room, len, n);
    ssize_t rc = recv(PQsocket(conn->pq), room, len, 0);
    *n = rc > 0 ? (size_t)rc : 0;
    return rc > 0 ? OK : rc == 0 ? ERR : of_errno();
}

/* OK: there may be more at once. */
enum status pg_io_read(struct pg_session *conn)
{
    size_t n = 0;
    if (conn->in_bytes.len == 0 && conn->in_bytes.cap > KEEP)
        buf_free(&conn->in_bytes);
    enum status rc = receive(conn, buf_reserve(&conn->in_bytes, READ_CHUNK), READ_CHUNK, &n);
    conn->in_bytes.len += n;
    return rc == OK && n < READ_CHUNK && !conn->ssl ? AGAIN : rc; /* what libssl still holds no poll reports */
}

static enum status transmit(struct pg_session *conn, struct slice bytes, size_t *n)
{
    if (conn->ssl)
        return tls_session_write(conn->ssl, bytes, n);
    ssize_t rc = send(PQsocket(conn->pq), bytes.ptr, bytes.len, MSG_NOSIGNAL);
    *n = rc > 0 ? (size_t)rc : 0;
    return rc >= 0 ? OK : of_errno();
}

void pg_io_flush(struct pg_session *conn)
{
    enum status rc = conn->is_deaf ? ERR : OK;
    struct buf *out = &conn->out_bytes;
    while (rc == OK && conn->n_written < out->len) {
        size_t n = 0;
        rc = transmit(conn, slice_of(out->ptr + conn->n_written, out->len - conn->n_written), &n);
        conn->n_written += n;
    }
    if (rc == ERR && !conn->is_deaf) { /* what it said last is still to be read: pg_answer_read finds the end */
        conn->is_deaf = true;
        shutdown(PQsocket(conn->pq), SHUT_WR);
    }
    if (conn->is_deaf || conn->n_written == out->len) {
        conn->n_written = 0;
        out->cap > KEEP ? buf_free(out) : buf_clear(out);
    } else if (conn->n_written > KEEP) {
        buf_consume(out, conn->n_written);
        conn->n_written = 0;
    }
    poll_set(conn->poll, out->len ? POLL_READ | POLL_WRITE : POLL_READ);
}
