/* COPY on one exclusive connection.
 *
 *   QUEUED → ASKED → OPEN → ENDING → OVER
 *
 * For the time the connection is libpq's again: it owes nothing when it is lent, and nothing when it comes back to the
 * pool. Back-pressure: what was written is flushed before the next write is taken; nothing is read
 * from the socket unless somebody waits for it.
 *
 * A copy whose owner is gone becomes an orphan: it stays with its connection until the server has answered (a CopyFail,
 * or a cancel while rows are thrown away), or the pool closes the connection because it did not in time. */
#include "data/pg_copy.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "data/pg_priv.h"
#include "net/tls.h"

#define PG_COPY_MAGIC 0x9061a907u
#define STOPPED "chowk stopped this COPY"

enum {
    READ_CHUNK = 32 * 1024,
    WRITE_TURN =
        256 * 1024 /* taken in one turn of the loop: everybody else, and the server's error, want to be heard */
};

enum copy_state {
    COPY_QUEUED, /* waits for a connection */
    COPY_ASKED,  /* waits for the server's go */
    COPY_OPEN,   /* data flows */
    COPY_ENDING, /* nothing more is sent; waits for the result */
    COPY_OVER    /* has no connection any more */
};

struct pg_copy {
    unsigned magic;
    enum copy_state state;
    struct pg *pg;
    struct loop *loop;
    struct pg_op *op; /* QUEUED */
    struct pg_session *conn;
    struct timer timer;
    struct loop_task task;
    uint64_t deadline_ms;
    void (*done)(void *data, const struct err *err);
    void *data;
    struct err err; /* the first failure */
    int n_columns;
    int64_t n_rows;
    size_t n_partial_bytes; /* out: read without having made a row */
    size_t n_turn_bytes;    /* in: written since the loop last turned */
    bool is_out, is_waiting, is_orphan, is_end_sent;
    char sql[];
};

/* ---- waits -------------------------------------------------------------------------------------------------- */

static void end_wait(struct pg_copy *copy)
{
    timer_stop(copy->loop, &copy->timer);
    loop_defer_cancel(&copy->task);
    copy->is_waiting = false;
    copy->done(copy->data, copy->err.code ? &copy->err : NULL);
}

static void on_wake(struct loop_task *task)
{
    end_wait(container_of(task, struct pg_copy, task));
}

static void wake(struct pg_copy *copy)
{
    if (copy->is_waiting)
        loop_defer(copy->loop, &copy->task, on_wake);
}

static void fail(struct pg_copy *copy, const struct err *err)
{
    if (!copy->err.code)
        copy->err = *err;
    wake(copy);
}

static void on_deadline(struct timer *timer)
{
    struct pg_copy *copy = container_of(timer, struct pg_copy, timer);
    struct err err;
    if (copy->is_end_sent)
        err_set(&err, ERR_OUTCOME_UNKNOWN, "no answer to the end of a COPY before the deadline");
    else
        err_set(&err, ERR_DEADLINE, "the COPY did not go on before the deadline");
    if (!copy->err.code)
        copy->err = err;
    end_wait(copy);
}

static void start_wait(struct pg_copy *copy, uint64_t deadline_ms)
{
    CHECK(!copy->is_waiting);
    copy->is_waiting = true;
    copy->deadline_ms = deadline_ms;
    timer_arm(copy->loop, &copy->timer, deadline_ms, on_deadline);
}

/* ---- its connection ----------------------------------------------------------------------------------------- */

static void doom(struct pg_copy *copy)
{
    pg_session_doom(copy->conn, ERR_UNAVAILABLE, "%s", PQerrorMessage(copy->conn->pq));
}

/* Flushes, and polls for what the state is about. A copy out that nobody waits for leaves its rows in the socket. */
static void watch(struct pg_copy *copy)
{
    struct pg_session *conn = copy->conn;
    int rc = PQflush(conn->pq);
    if (rc < 0)
        doom(copy);
    pg_session_check_socket(conn);
    bool wants_read = !copy->is_out || copy->state != COPY_OPEN || copy->is_waiting || copy->is_orphan;
    if (conn->poll)
        poll_set(conn->poll, (wants_read ? POLL_READ : POLL_HANGUP) | (rc == 1 ? POLL_WRITE : 0));
    if (rc == 0 && copy->state == COPY_OPEN && !copy->is_out)
        wake(copy);
}

/* The connection goes back to the pool. */
static void leave(struct pg_copy *copy)
{
    struct pg_session *conn = copy->conn;
    conn->copy = NULL;
    conn->n_ops--;
    copy->conn = NULL;
    copy->state = COPY_OVER;
    poll_set(conn->poll, POLL_READ);
    pg_pool_release(conn);
    wake(copy);
    if (copy->is_orphan)
        free(copy);
}

void pg_copy_on_lost(struct pg_copy *copy, const struct err *why)
{
    struct err err;
    copy->conn->copy = NULL;
    copy->conn = NULL;
    copy->state = COPY_OVER;
    if (copy->is_orphan) {
        free(copy);
        return;
    }
    if (why->code == ERR_REFUSED || why->code == ERR_CANCELLED)
        err = *why;
    else if (copy->is_end_sent)
        err_set(&err, ERR_OUTCOME_UNKNOWN, "the connection was lost after the end of a COPY was sent: %s",
                why->message);
    else
        err_set(&err, ERR_UNAVAILABLE, "the connection was lost during a COPY: %s", why->message);
    fail(copy, &err);
}

/* ---- what the server says ------------------------------------------------------------------------------------ */

static void on_go(struct pg_copy *copy, const PGresult *result)
{
    copy->n_columns = PQnfields(result);
    copy->state = COPY_OPEN;
    if (copy->is_orphan && !copy->is_out && PQputCopyEnd(copy->conn->pq, STOPPED) == 1)
        copy->state = COPY_ENDING;
    watch(copy);
    wake(copy);
}

static void on_error(struct pg_copy *copy, const PGresult *result)
{
    struct err err;
    pg_libpq_error(result, &err);
    if (!err.sqlstate[0])
        doom(copy);
    else if (strcmp(err.sqlstate, "57014") == 0 && strstr(err.message, STOPPED) && !copy->is_orphan)
        err_set(&err, ERR_UNAVAILABLE, "a message of the server interrupted the COPY; nothing of it was stored");
    if (!copy->err.code)
        copy->err = err;
}

static void on_result(struct pg_copy *copy, PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    if (status == (copy->is_out ? PGRES_COPY_OUT : PGRES_COPY_IN) && copy->state == COPY_ASKED)
        on_go(copy, result);
    else if (status == PGRES_FATAL_ERROR)
        on_error(copy, result);
    else if (status == PGRES_COMMAND_OK && copy->state == COPY_ENDING)
        copy->n_rows = strtoll(PQcmdTuples(result), NULL, 10);
    else
        pg_session_doom(copy->conn, ERR_UNAVAILABLE, "a COPY answered %s", PQresStatus(status));
    PQclear(result);
}

/* Results that have arrived, up to where data flows. The copy may be over and gone afterwards. */
static void read_results(struct pg_copy *copy)
{
    while (copy->state != COPY_OPEN && !copy->conn->is_doomed && !PQisBusy(copy->conn->pq)) {
        PGresult *result = PQgetResult(copy->conn->pq);
        pg_session_check_socket(copy->conn);
        if (!result) {
            leave(copy);
            return;
        }
        on_result(copy, result);
    }
}

/* Out: one row, or 0: none has arrived, -1: that was the last. */
static int read_row(struct pg_copy *copy, struct buf *out)
{
    char *row = NULL;
    int len = PQgetCopyData(copy->conn->pq, &row, 1);
    if (len > 0) {
        copy->n_partial_bytes = 0;
        buf_append(out, row, (size_t)len);
        PQfreemem(row);
    } else if (len < 0) {
        copy->state = COPY_ENDING;
    }
    return len;
}

static void discard_rows(struct pg_copy *copy)
{
    struct buf trash = {0};
    while (copy->state == COPY_OPEN && read_row(copy, &trash) > 0)
        buf_clear(&trash);
    buf_free(&trash);
}

/* libpq holds a row until it is complete, and does not say how much it holds. */
static void guard_size(struct pg_copy *copy)
{
    int n = 0;
    if (ioctl(PQsocket(copy->conn->pq), FIONREAD, &n) == 0)
        copy->n_partial_bytes += (size_t)n;
    if (copy->n_partial_bytes > copy->pg->max_result_bytes)
        pg_session_doom(copy->conn, ERR_REFUSED, "one row of the COPY is over pg.max_result_bytes");
}

/* While rows are sent the server says nothing but notices, settings and, the one thing that matters, an error: libpq
 * shows it only after the end, so we end. TLS hides which it is; then a notice costs the COPY. */
static bool is_complaint(PGconn *pq)
{
    char type = 0;
    ssize_t n = recv(PQsocket(pq), &type, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n == 1 && (type == 'E' || PQsslInUse(pq)));
}

/* libpq reads less than a TLS record holds when its buffer is short, and what is left no poll reports. */
static bool consume(struct pg_session *conn)
{
    bool is_alive;
    do
        is_alive = PQconsumeInput(conn->pq);
    while (is_alive && tls_session_has_pending(conn->ssl));
    pg_session_check_socket(conn);
    return is_alive;
}

static void on_readable(struct pg_copy *copy)
{
    struct pg_session *conn = copy->conn;
    bool is_sending = copy->state == COPY_OPEN && !copy->is_out;
    bool must_end = is_sending && is_complaint(conn->pq);
    if (copy->is_out)
        guard_size(copy);
    if (!consume(conn))
        doom(copy);
    if (must_end && !conn->is_doomed && PQputCopyEnd(conn->pq, STOPPED) == 1)
        copy->state = COPY_ENDING;
    else if (is_sending)
        (void)PQisBusy(conn->pq); /* takes the notice out of the buffer */
    if (copy->state == COPY_OPEN && copy->is_orphan)
        discard_rows(copy);
    else if (copy->state == COPY_OPEN && copy->is_out)
        wake(copy);
}

void pg_copy_on_io(struct pg_copy *copy, int events)
{
    CHECK_OBJ(copy, PG_COPY_MAGIC);
    struct pg_session *conn = copy->conn;
    if (events & (POLL_READ | POLL_HANGUP))
        on_readable(copy);
    if (!conn->is_doomed)
        watch(copy);
    if (!conn->is_doomed)
        read_results(copy);
}

/* ---- start ---------------------------------------------------------------------------------------------------- */

void pg_copy_on_acquired(struct pg_op *op, struct pg_session *conn)
{
    struct pg_copy *copy = op->copy;
    pg_op_free(op);
    copy->op = NULL;
    copy->conn = conn;
    conn->copy = copy;
    conn->n_ops++;
    copy->state = COPY_ASKED;
    timer_arm(copy->loop, &copy->timer, copy->deadline_ms, on_deadline);
    CHECK(conn->steps_len == 0 && conn->out_bytes.len == 0);
    if (conn->in_bytes.len || conn->n_skip)
        pg_session_doom(conn, ERR_UNAVAILABLE, "half a message of the server is in the way of a COPY");
    else if (PQsendQuery(conn->pq, copy->sql))
        watch(copy);
    else
        doom(copy);
}

static void on_not_acquired(void *data, const struct pg_result *result UNUSED, const struct err *err)
{
    struct pg_copy *copy;
    CAST_OBJ(copy, data, PG_COPY_MAGIC);
    copy->op = NULL;
    copy->state = COPY_OVER;
    fail(copy, err);
}

struct pg_copy *pg_copy_start(struct pg *pg, const struct pg_copy_opts *opts)
{
    CHECK_OBJ(pg, PG_MAGIC);
    struct pg_copy *copy = xalloc(sizeof(*copy) + opts->sql.len + 1);
    copy->magic = PG_COPY_MAGIC;
    copy->pg = pg;
    copy->loop = pg->loop;
    copy->done = opts->done;
    copy->data = opts->data;
    copy->is_out = opts->is_out;
    copy->is_waiting = true;
    copy->deadline_ms = opts->deadline_ms;
    memcpy(copy->sql, opts->sql.ptr, opts->sql.len);
    struct pg_op *op = copy->op = pg_op_new(pg, NULL, 0);
    op->copy = copy;
    op->done = on_not_acquired;
    op->data = copy;
    op->lane = PG_LANE_EXCLUSIVE;
    op->deadline_ms = opts->deadline_ms;
    pg->n_queries++;
    pg_pool_push(pg, op);
    return copy;
}

/* ---- data ----------------------------------------------------------------------------------------------------- */

int pg_copy_n_columns(const struct pg_copy *copy)
{
    return copy->n_columns;
}

int64_t pg_copy_n_rows(const struct pg_copy *copy)
{
    return copy->n_rows;
}

static enum status sticky(const struct pg_copy *copy, struct err *err)
{
    *err = copy->err;
    return ERR;
}

enum status pg_copy_write(struct pg_copy *copy, struct slice bytes, uint64_t deadline_ms, struct err *err)
{
    CHECK_OBJ(copy, PG_COPY_MAGIC);
    CHECK(!copy->is_waiting && !copy->is_out);
    if (copy->err.code)
        return sticky(copy, err);
    if (bytes.len > INT32_MAX / 2)
        return err_set(err, ERR_REFUSED, "more than 1 GiB in one write");
    if (copy->state == COPY_OVER)
        return err_set(err, ERR_REFUSED, "this COPY has ended");
    /* Not behind a complaint: on a full socket libpq reads it, out of our sight, and the writer would go on for ever.
     */
    bool is_open = copy->state == COPY_OPEN && !is_complaint(copy->conn->pq);
    if (is_open && PQputCopyData(copy->conn->pq, bytes.ptr, (int)bytes.len) != 1)
        doom(copy);
    if (is_open && !copy->conn->is_doomed) {
        int rc = PQflush(copy->conn->pq);
        pg_session_check_socket(copy->conn);
        copy->n_turn_bytes += bytes.len;
        if (rc == 0 && copy->n_turn_bytes < WRITE_TURN)
            return OK;
    }
    copy->n_turn_bytes = 0;
    start_wait(copy, deadline_ms); /* also for the error that is on its way */
    if (copy->conn->poll)
        poll_set(copy->conn->poll, POLL_READ | POLL_WRITE); /* writable: it goes on */
    return AGAIN;
}

void pg_copy_end(struct pg_copy *copy, uint64_t deadline_ms)
{
    CHECK_OBJ(copy, PG_COPY_MAGIC);
    CHECK(!copy->is_waiting && !copy->is_out);
    start_wait(copy, deadline_ms);
    if (copy->err.code || copy->state == COPY_OVER) {
        wake(copy);
        return;
    }
    if (copy->state != COPY_OPEN || copy->conn->is_doomed)
        return; /* the error is on its way */
    copy->state = COPY_ENDING;
    copy->is_end_sent = true;
    if (PQputCopyEnd(copy->conn->pq, NULL) == 1)
        watch(copy);
    else
        doom(copy);
}

enum status pg_copy_read(struct pg_copy *copy, struct buf *out, bool *is_end, uint64_t deadline_ms, struct err *err)
{
    CHECK_OBJ(copy, PG_COPY_MAGIC);
    CHECK(!copy->is_waiting && copy->is_out);
    *is_end = false;
    size_t start = out->len;
    if (copy->err.code)
        return sticky(copy, err);
    while (copy->state == COPY_OPEN && !copy->conn->is_doomed && out->len - start < READ_CHUNK)
        if (read_row(copy, out) <= 0)
            break;
    if (out->len > start) {
        if (copy->state == COPY_OPEN)
            watch(copy); /* pauses */
        return OK;
    }
    if (copy->state == COPY_ENDING && !copy->conn->is_doomed)
        read_results(copy);
    if (copy->err.code && copy->state == COPY_OVER)
        return sticky(copy, err);
    *is_end = copy->state == COPY_OVER;
    if (*is_end)
        return OK;
    start_wait(copy, deadline_ms);
    if (!copy->conn->is_doomed)
        watch(copy);
    return AGAIN;
}

/* ---- giving up ------------------------------------------------------------------------------------------------- */

void pg_copy_cancel_wait(struct pg_copy *copy)
{
    CHECK_OBJ(copy, PG_COPY_MAGIC);
    timer_stop(copy->loop, &copy->timer);
    loop_defer_cancel(&copy->task);
    copy->is_waiting = false;
}

static void abandon(struct pg_copy *copy)
{
    struct pg_session *conn = copy->conn;
    copy->is_orphan = true;
    pg_pool_cancel(conn); /* also bounds the time it may take */
    if (conn->is_doomed)
        return;
    if (copy->state == COPY_OPEN && !copy->is_out && PQputCopyEnd(conn->pq, STOPPED) == 1)
        copy->state = COPY_ENDING;
    if (copy->state == COPY_OPEN)
        discard_rows(copy);
    watch(copy);
    if (!conn->is_doomed)
        read_results(copy);
}

void pg_copy_free(struct pg_copy *copy)
{
    if (!copy)
        return;
    pg_copy_cancel_wait(copy);
    if (copy->op)
        pg_op_cancel(copy->op);
    copy->op = NULL;
    if (copy->conn)
        abandon(copy);
    else
        free(copy);
}
