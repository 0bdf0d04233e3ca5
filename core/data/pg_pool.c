/* Which connection a call gets.
 *
 * Three lanes. READ and WRITE are shared: many calls in flight on each connection, least loaded first, bounded
 * depth. EXCLUSIVE connections belong to one transaction or one autocommit call at a time, idle ones are taken
 * last in first out.
 *
 * Under transaction pooling nothing may be shared (T5): every call takes an exclusive connection, but for the core's
 * own calls, which transactions may be waiting for: they have one write connection, one call at a time.
 *
 * How many connections there are, and when one is opened or closed, is pg_grow.c's. */
#include <stdio.h>
#include <stdlib.h>

#include "base/metrics.h"
#include "data/pg_priv.h"

enum {
    DEFAULT_READ = 2,
    DEFAULT_WRITE = 8, /* each waits for its own fsync: as many commits as these share one */
    DEFAULT_EXCLUSIVE = 8,
    READ_CHUNK = 16 /* reads of one turn that share a connection before the next one is used */
};

void pg_pool_create(struct pg *pg, const struct pg_opts *opts)
{
    unsigned n[PG_N_LANES] = {
        [PG_LANE_READ] = opts->read_connections ? opts->read_connections : DEFAULT_READ,
        [PG_LANE_WRITE] = opts->write_connections ? opts->write_connections : DEFAULT_WRITE,
        [PG_LANE_EXCLUSIVE] = opts->tx_connections ? opts->tx_connections : DEFAULT_EXCLUSIVE,
        [PG_LANE_LISTEN] = !opts->transaction_pooling,
    };
    unsigned depths[PG_N_LANES] = {PG_READ_DEPTH, PG_WRITE_DEPTH, 1, 1};
    if (opts->transaction_pooling) {
        n[PG_LANE_EXCLUSIVE] += n[PG_LANE_READ] + n[PG_LANE_WRITE] - 1;
        n[PG_LANE_READ] = 0;
        n[PG_LANE_WRITE] = depths[PG_LANE_WRITE] = 1;
    }
    if (opts->is_read_only)
        n[PG_LANE_WRITE] = n[PG_LANE_LISTEN] = 0;
    list_init(&pg->idle);
    for (unsigned id = 0; id < PG_N_LANES; id++)
        pg->n_sessions += n[id];
    pg->sessions = xalloc(pg->n_sessions * sizeof(*pg->sessions));
    struct pg_session *next = pg->sessions;
    for (unsigned id = 0; id < PG_N_LANES; id++) {
        struct pg_lane *lane = &pg->lanes[id];
        lane->n_conns = n[id];
        lane->depth = depths[id];
        lane->conns = next;
        list_init(&lane->queue);
        for (unsigned i = 0; i < n[id]; i++)
            pg_session_create(next++, pg, (enum pg_lane_id)id);
    }
}

static struct pg_op *queue_first(struct pg_lane *lane)
{
    return list_is_empty(&lane->queue) ? NULL : container_of(lane->queue.next, struct pg_op, node);
}

/* Everyone who waits for a connection fails with `err`. */
void pg_pool_fail_waiting(struct pg *pg, const struct err *err)
{
    for (int i = 0; i < PG_N_LANES; i++) {
        struct pg_op *op;
        while ((op = queue_first(&pg->lanes[i]))) {
            pg_op_fail_as(op, err);
            pg_pool_drop(op);
            if (op->tx)
                pg_tx_on_dropped(op);
            pg_op_finish(op);
        }
    }
}

void pg_pool_destroy(struct pg *pg)
{
    err_set(&pg->last_err, ERR_CANCELLED, "the worker is stopping");
    pg->is_down = true; /* calls made by the completions that follow fail at once */
    for (unsigned i = 0; i < pg->n_sessions; i++)
        pg_session_lose(&pg->sessions[i], &pg->last_err);
    pg_pool_fail_waiting(pg, &pg->last_err);
    for (unsigned i = 0; i < pg->n_sessions; i++)
        pg_session_destroy(&pg->sessions[i]);
}

unsigned pg_pool_n_open(const struct pg *pg)
{
    unsigned n = 0;
    for (unsigned i = 0; i < pg->n_sessions; i++)
        n += pg_session_is_open(&pg->sessions[i]) && pg->sessions[i].lane != PG_LANE_LISTEN; /* it answers nobody */
    return n;
}

/* ---- queues ------------------------------------------------------------------------------------------------ */

enum pg_lane_id pg_pool_lane_of(const struct pg *pg, const struct pg_stmt *stmt)
{
    bool is_slow = stmt->slow_until_ms && stmt->slow_until_ms > loop_now(pg->loop);
    if (pg->is_unnamed || is_slow || stmt->text.class == PG_CLASS_EXCLUSIVE)
        return PG_LANE_EXCLUSIVE;
    return stmt->text.class == PG_CLASS_READ ? PG_LANE_READ : PG_LANE_WRITE;
}

static void count_in(struct pg *pg, struct pg_op *op)
{
    op->queued_ms = loop_now(pg->loop);
    pg->lanes[op->lane].n_queued++;
    pg->n_waiting++;
    pg_mark_dirty(pg);
}

static void count_out(struct pg *pg, const struct pg_op *op)
{
    pg->lanes[op->lane].n_queued--;
    pg->n_waiting--;
}

/* It has its connection: how long did it wait? */
static void count_wait(struct pg *pg, const struct pg_op *op)
{
    uint64_t ms = loop_now(pg->loop) - op->queued_ms;
    unsigned bucket = ms ? 64 - (unsigned)__builtin_clzll(ms) : 0;
    pg->waits[bucket < PG_WAIT_BUCKETS ? bucket : PG_WAIT_BUCKETS - 1]++;
    metrics_observe(METRIC_HISTOGRAM_PG_WAIT, ms * 1000);
    if (op->waited_us && !op->is_forgotten)
        *op->waited_us += ms * 1000;
    count_out(pg, op);
}

/* Calls that open connections can take at once. */
static unsigned lane_room(const struct pg_lane *lane)
{
    unsigned n = 0;
    for (unsigned i = 0; i < lane->n_conns; i++) {
        const struct pg_session *conn = &lane->conns[i];
        if (conn->state == PG_SESSION_READY && !conn->is_doomed && !conn->is_retiring && conn->n_ops < lane->depth)
            n += lane->depth - conn->n_ops;
    }
    return n;
}

/* A burst that leaves with this very turn does not wait. */
static bool is_full(const struct pg *pg)
{
    if (pg->n_waiting < pg->max_waiters)
        return false;
    unsigned n = 0;
    for (int i = 0; i < PG_N_LANES; i++) {
        unsigned room = lane_room(&pg->lanes[i]);
        n += pg->lanes[i].n_queued > room ? pg->lanes[i].n_queued - room : 0;
    }
    return n >= pg->max_waiters;
}

void pg_pool_push(struct pg *pg, struct pg_op *op)
{
    op->state = PG_OP_QUEUED;
    if (pg->is_down) {
        pg_op_fail_as(op, &pg->last_err);
        pg_op_finish(op);
    } else if (!op->is_core && is_full(pg)) {
        pg_op_fail(op, ERR_QUEUE_FULL, "%u calls are waiting for a PostgreSQL connection (pg.max_waiters)",
                   pg->n_waiting);
        pg_op_finish(op);
    } else {
        list_push(&pg->lanes[op->lane].queue, &op->node);
        count_in(pg, op);
    }
}

void pg_pool_push_front(struct pg *pg, struct pg_op *op)
{
    op->state = PG_OP_QUEUED;
    list_push_front(&pg->lanes[op->lane].queue, &op->node);
    count_in(pg, op);
}

void pg_pool_drop(struct pg_op *op)
{
    CHECK(op->state == PG_OP_QUEUED);
    if (op->conn)
        op->conn->n_ops--;
    else if (!op->tx || op->tx->waiting_op == op)
        count_out(op->pg, op);
    op->conn = NULL;
    list_remove(&op->node);
}

/* ---- shared lanes -------------------------------------------------------------------------------------------- */

struct pg_session *pg_pool_least_loaded(const struct pg_lane *lane)
{
    struct pg_session *best = NULL;
    for (unsigned i = 0; i < lane->n_conns; i++) {
        struct pg_session *conn = &lane->conns[i];
        if (pg_session_is_open(conn) && !conn->is_retiring && conn->n_ops < lane->depth &&
            (!best || conn->n_ops < best->n_ops))
            best = conn;
    }
    return best;
}

static void shared_send(struct pg_session *conn, struct pg_op *op)
{
    pg_wire_send(conn, op);
    conn->n_ops++;
    count_wait(op->pg, op);
}

/* Plain reads of this turn share one Sync per connection; one that runs again has its own. */
static void flush_reads(struct pg *pg)
{
    struct pg_lane *lane = &pg->lanes[PG_LANE_READ];
    struct pg_op *op;
    struct pg_session *conn;
    while (queue_first(lane) && (conn = pg_pool_least_loaded(lane)))
        for (int i = 0; i < READ_CHUNK && conn->n_ops < lane->depth && (op = queue_first(lane)); i++) {
            if (op->is_alone)
                pg_wire_sync(conn);
            shared_send(conn, op);
            if (op->is_alone)
                pg_wire_sync(conn);
        }
    for (unsigned i = 0; i < lane->n_conns; i++)
        pg_wire_sync(&lane->conns[i]);
}

static void flush_writes(struct pg *pg)
{
    struct pg_lane *lane = &pg->lanes[PG_LANE_WRITE];
    struct pg_op *op;
    struct pg_session *conn;
    while ((op = queue_first(lane)) && (conn = pg_pool_least_loaded(lane))) {
        shared_send(conn, op);
        pg_wire_sync(conn);
    }
}

/* ---- exclusive connections ----------------------------------------------------------------------------------- */

static void assign(struct pg_session *conn, struct pg_op *op)
{
    list_remove(&conn->node);
    conn->state = PG_SESSION_BUSY;
    count_wait(conn->pg, op);
    if (op->tx) {
        pg_tx_on_acquired(op->tx, conn);
        return;
    }
    if (op->copy) {
        pg_copy_on_acquired(op, conn);
        return;
    }
    list_remove(&op->node);
    list_push(&conn->out, &op->node);
    op->conn = conn;
    conn->n_ops++;
}

static void conn_send_out(struct pg_session *conn)
{
    while (!list_is_empty(&conn->out) && !conn->is_doomed) {
        pg_wire_send(conn, container_of(conn->out.next, struct pg_op, node));
        pg_wire_sync(conn);
    }
}

static void flush_exclusive(struct pg *pg)
{
    struct pg_lane *lane = &pg->lanes[PG_LANE_EXCLUSIVE];
    while (queue_first(lane) && !list_is_empty(&pg->idle))
        assign(container_of(pg->idle.next, struct pg_session, node), queue_first(lane));
    for (unsigned i = 0; i < pg->n_sessions; i++)
        if (!list_is_empty(&pg->sessions[i].out))
            conn_send_out(&pg->sessions[i]);
}

void pg_pool_rest(struct pg_session *conn)
{
    conn->state = PG_SESSION_READY;
    conn->due_ms = 0;
    conn->is_cancelled = false;
    list_push_front(&conn->pg->idle, &conn->node);
    pg_mark_dirty(conn->pg);
}

static void send_rollback(struct pg_session *conn)
{
    struct pg_op *op = pg_op_new(conn->pg, NULL, 0);
    op->is_internal = op->is_tx = true;
    op->lane = PG_LANE_EXCLUSIVE;
    op->deadline_ms = loop_now(conn->pg->loop) + PG_STALL_MS;
    memcpy(op->control, "ROLLBACK", sizeof("ROLLBACK"));
    op->conn = conn;
    list_push(&conn->out, &op->node);
    conn->n_ops++;
    pg_mark_dirty(conn->pg);
}

void pg_pool_release(struct pg_session *conn)
{
    CHECK(conn->lane == PG_LANE_EXCLUSIVE);
    conn->tx = NULL;
    conn->state = PG_SESSION_RELEASING;
    if (conn->n_ops || conn->cancel_op || conn->is_doomed)
        return; /* comes again when it is over */
    if (conn->tx_status != PG_TX_IDLE)
        send_rollback(conn);
    else if (conn->is_tainted)
        pg_session_doom(conn, ERR_CANCELLED, "its session may have been changed");
    else
        pg_pool_rest(conn);
}

static void on_cancelled(void *data, const struct pg_result *result, const struct err *err)
{
    struct pg_session *conn;
    (void)result;
    (void)err; /* not cancelled: due_ms closes it */
    CAST_OBJ(conn, data, PG_SESSION_MAGIC);
    conn->cancel_op = NULL;
    if (conn->state == PG_SESSION_RELEASING)
        pg_pool_release(conn);
}

void pg_pool_cancel(struct pg_session *conn)
{
    struct pg *pg = conn->pg;
    if (conn->is_cancelled || conn->is_doomed || conn->state < PG_SESSION_BUSY)
        return;
    conn->is_cancelled = true;
    conn->due_ms = loop_now(pg->loop) + PG_CANCEL_MS;
    if (pg->is_unnamed) {        /* behind a pooler the pid is not the backend's */
        conn->is_tainted = true; /* the request may come late: nobody else gets the connection */
        if (!pg_cancel_push(&pg->cancels, conn->pq))
            pg_session_doom(conn, ERR_UNAVAILABLE, "closed to cancel its statement");
        return;
    }
    char pid[16];
    snprintf(pid, sizeof(pid), "%d", PQbackendPID(conn->pq));
    struct pg_param param = {pid};
    struct pg_call call = {.sql = SLICE("SELECT pg_cancel_backend($1)"), .params = &param, .n_params = 1};
    struct pg_op *op = pg_op_new(pg, &call, 1);
    op->is_internal = op->is_alone = true;
    op->lane = PG_LANE_READ;
    op->deadline_ms = conn->due_ms;
    op->done = on_cancelled;
    op->data = conn;
    conn->cancel_op = op;
    pg_pool_push_front(pg, op);
}

void pg_pool_flush(struct pg *pg)
{
    flush_reads(pg);
    flush_writes(pg);
    flush_exclusive(pg);
    for (unsigned i = 0; i < pg->n_sessions; i++) {
        struct pg_session *conn = &pg->sessions[i];
        if (conn->is_doomed)
            pg_session_lose(conn, conn->err);
        else if (conn->out_bytes.len && !conn->copy)
            pg_io_flush(conn);
    }
    pg_grow_flush(pg);
}
