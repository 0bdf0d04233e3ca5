/* Which connection a call gets, and how many connections there are.
 *
 * Three lanes. READ and WRITE are shared: many calls in flight on each connection, least loaded first, bounded
 * depth. EXCLUSIVE connections belong to one transaction or one autocommit call at a time, idle ones are taken
 * last in first out. Every lane grows on demand up to its bound; shared lanes keep one connection always.
 *
 * Under transaction pooling nothing may be shared (T5): every call takes an exclusive connection, but for the core's
 * own calls, which transactions may be waiting for: they have one write connection, one call at a time.
 *
 * Attempts to connect are spaced by one back-off for the whole pool. When an attempt has failed and nothing is
 * open, calls fail at once instead of waiting for their deadline. When the server is full and a lane has nothing, a
 * lane that has several gives one up for it. What was not needed for a minute is closed, but for one of each lane. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "data/pg_priv.h"

enum {
    DEFAULT_READ = 2,
    DEFAULT_WRITE = 4,
    DEFAULT_EXCLUSIVE = 8,
    READ_CHUNK = 16,   /* reads of one turn that share a connection before the next one is used */
    READ_GROW_AT = 16, /* in flight on the least loaded before another is opened */
    WRITE_GROW_AT = 2
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
static void fail_waiting(struct pg *pg, const struct err *err)
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
    fail_waiting(pg, &pg->last_err);
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

static unsigned lane_n_connecting(const struct pg_lane *lane)
{
    unsigned n = 0;
    for (unsigned i = 0; i < lane->n_conns; i++)
        n += lane->conns[i].state == PG_SESSION_RESOLVING || lane->conns[i].state == PG_SESSION_CONNECTING;
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

static struct pg_session *lane_least_loaded(const struct pg_lane *lane)
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

/* False: the connection broke; the op is still first in the queue. */
static bool shared_send(struct pg_session *conn, struct pg_op *op)
{
    if (!pg_wire_send(conn, op)) {
        pg_session_doom(conn, ERR_UNAVAILABLE, "%s", PQerrorMessage(conn->pq));
        return false;
    }
    conn->n_ops++;
    count_wait(op->pg, op);
    return true;
}

/* Plain reads of this turn share one Sync per connection; one that runs again has its own. */
static void flush_reads(struct pg *pg)
{
    struct pg_lane *lane = &pg->lanes[PG_LANE_READ];
    struct pg_op *op;
    struct pg_session *conn;
    while (queue_first(lane) && (conn = lane_least_loaded(lane)))
        for (int i = 0; i < READ_CHUNK && conn->n_ops < lane->depth && (op = queue_first(lane)); i++) {
            if (op->is_alone)
                pg_wire_sync(conn);
            if (conn->is_doomed || !shared_send(conn, op))
                break;
            if (op->is_alone)
                pg_wire_sync(conn);
        }
    for (unsigned i = 0; i < lane->n_conns; i++)
        if (!lane->conns[i].is_doomed)
            pg_wire_sync(&lane->conns[i]);
}

static void flush_writes(struct pg *pg)
{
    struct pg_lane *lane = &pg->lanes[PG_LANE_WRITE];
    struct pg_op *op;
    struct pg_session *conn;
    while ((op = queue_first(lane)) && (conn = lane_least_loaded(lane)))
        if (shared_send(conn, op))
            pg_wire_sync(conn);
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
        struct pg_op *op = container_of(conn->out.next, struct pg_op, node);
        if (pg_wire_send(conn, op))
            pg_wire_sync(conn);
        else
            pg_session_doom(conn, ERR_UNAVAILABLE, "%s", PQerrorMessage(conn->pq));
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

static void conn_rest(struct pg_session *conn)
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
    PGTransactionStatusType status = PQtransactionStatus(conn->pq);
    if (status == PQTRANS_INTRANS || status == PQTRANS_INERROR)
        send_rollback(conn);
    else if (status != PQTRANS_IDLE || conn->is_tainted)
        pg_session_doom(conn, ERR_CANCELLED, "its session may have been changed");
    else
        conn_rest(conn);
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

/* ---- growing and healing ------------------------------------------------------------------------------------- */

static void conn_open_one(struct pg_lane *lane)
{
    for (unsigned i = 0; i < lane->n_conns; i++)
        if (lane->conns[i].state == PG_SESSION_CLOSED) {
            pg_session_open(&lane->conns[i]);
            return;
        }
}

static bool wants_another(const struct pg *pg, enum pg_lane_id id)
{
    const struct pg_lane *lane = &pg->lanes[id];
    unsigned n_open = 0, n_closed = 0, least = UINT32_MAX, n_connecting = lane_n_connecting(lane);
    for (unsigned i = 0; i < lane->n_conns; i++) {
        const struct pg_session *conn = &lane->conns[i];
        n_closed += conn->state == PG_SESSION_CLOSED;
        if (!pg_session_is_open(conn) || conn->is_retiring)
            continue;
        n_open++;
        least = conn->n_ops < least ? conn->n_ops : least;
    }
    if (n_closed == 0)
        return false;
    if (id == PG_LANE_LISTEN)
        return n_open + n_connecting == 0 && pg_listen_is_wanted(pg);
    if (id == PG_LANE_EXCLUSIVE) {
        unsigned n_queued = 0;
        for (const struct list *node = lane->queue.next; node != &lane->queue && n_queued < lane->n_conns;)
            n_queued++, node = node->next;
        bool is_only_lane = pg->is_unnamed && n_open + n_connecting == 0;
        return is_only_lane || (list_is_empty(&pg->idle) && n_queued > n_connecting);
    }
    if (n_connecting)
        return false;
    return n_open == 0 || least >= (id == PG_LANE_READ ? READ_GROW_AT : WRITE_GROW_AT);
}

static unsigned lane_n_open(const struct pg_lane *lane)
{
    unsigned n = 0;
    for (unsigned i = 0; i < lane->n_conns; i++)
        n += pg_session_is_open(&lane->conns[i]) && !lane->conns[i].is_retiring;
    return n;
}

static bool is_starving(const struct pg *pg, enum pg_lane_id id)
{
    return lane_n_open(&pg->lanes[id]) == 0 && lane_n_connecting(&pg->lanes[id]) == 0 && wants_another(pg, id);
}

/* The server takes no more connections, and this lane has none: the lane that has most gives up its least loaded. */
static void make_room(struct pg *pg, enum pg_lane_id id)
{
    enum { PATIENCE_MS = 200, RETRY_MS = 50 };
    struct pg_lane *richest = NULL;
    unsigned most = 1;
    if (loop_now(pg->loop) < pg->room_ms || !is_starving(pg, id))
        return;
    for (int i = 0; i < PG_N_LANES; i++) {
        unsigned n = lane_n_open(&pg->lanes[i]);
        richest = n > most ? &pg->lanes[i] : richest;
        most = n > most ? n : most;
    }
    struct pg_session *conn = NULL;
    if (richest && richest != &pg->lanes[PG_LANE_EXCLUSIVE])
        conn = lane_least_loaded(richest);
    else if (richest && !list_is_empty(&pg->idle))
        conn = container_of(pg->idle.prev, struct pg_session, node);
    if (!conn)
        return;
    if (conn->n_ops == 0)
        pg_session_doom(conn, ERR_CANCELLED, "another lane has no connection");
    conn->is_retiring = conn->n_ops != 0;
    pg->room_ms = loop_now(pg->loop) + PATIENCE_MS;
    pg->retry_ms = loop_now(pg->loop) + RETRY_MS;
    pg->n_failures = 1;
}

/* Where connections are scarce, who has none comes first. */
static bool may_grow(const struct pg *pg, enum pg_lane_id id)
{
    if (loop_now(pg->loop) < pg->retry_ms || !wants_another(pg, id))
        return false;
    bool has_starving = false;
    for (enum pg_lane_id other = 0; pg->n_failures && other < PG_N_LANES; other++)
        has_starving |= is_starving(pg, other);
    return !has_starving || is_starving(pg, id);
}

void pg_pool_grow(struct pg *pg)
{
    if (pg->is_destroying)
        return;
    for (enum pg_lane_id id = 0; pg->n_failures && id < PG_N_LANES; id++)
        make_room(pg, id);
    for (enum pg_lane_id id = 0; id < PG_N_LANES; id++)
        while (may_grow(pg, id))
            conn_open_one(&pg->lanes[id]);
}

void pg_pool_on_connected(struct pg_session *conn)
{
    struct pg *pg = conn->pg;
    if (pg->is_down || !pg->was_up)
        log_info("PostgreSQL connected", LOG_S("server", PQparameterStatus(conn->pq, "server_version")));
    pg->is_down = false;
    pg->was_up = true;
    pg->n_failures = 0;
    pg->retry_ms = 0;
    if (conn->lane == PG_LANE_EXCLUSIVE)
        conn_rest(conn);
    else if (conn->lane == PG_LANE_LISTEN)
        pg_listen_on_connected(conn);
    pg_mark_dirty(pg);
}

void pg_pool_on_connect_failed(struct pg_session *conn, const struct err *err)
{
    struct pg *pg = conn->pg;
    if (pg->is_destroying)
        return;
    uint64_t delay_ms = 50u << (pg->n_failures < 7 ? pg->n_failures : 7);
    if (delay_ms > PG_BACKOFF_MAX_MS)
        delay_ms = PG_BACKOFF_MAX_MS;
    delay_ms = delay_ms / 2 + clock_us() % (delay_ms + 1); /* jitter: workers must not come back in step */
    pg->n_failures++;
    pg->retry_ms = loop_now(pg->loop) + delay_ms;
    pg->last_err = *err;
    pg->last_err.code = ERR_UNAVAILABLE;
    err_prefix(&pg->last_err, "PostgreSQL");
    pg_arm_janitor(pg);
    bool is_hopeless = pg_pool_n_open(pg) == 0;
    for (int i = 0; i < PG_N_LANES; i++)
        is_hopeless = is_hopeless && lane_n_connecting(&pg->lanes[i]) == 0;
    if (!is_hopeless)
        return;
    if (!pg->is_down)
        log_error("PostgreSQL cannot be reached", LOG_S("why", err->message), LOG_I("retry_ms", (int64_t)delay_ms));
    pg->is_down = true; /* nothing is open and nothing is coming: whoever waits is told now */
    fail_waiting(pg, &pg->last_err);
    pg_listen_on_lost(pg);
}

/* One connection fell silent: idle ones that said nothing since then are on the same dead wire for all we know, and an
 * idle one is worth nothing against the request that would find out. */
static void close_unheard(struct pg *pg, uint64_t since_ms)
{
    for (unsigned i = 0; i < pg->n_sessions; i++) {
        struct pg_session *conn = &pg->sessions[i];
        if (conn->state == PG_SESSION_READY && conn->n_ops == 0 && conn->heard_ms <= since_ms)
            pg_session_doom(conn, ERR_CANCELLED, "silent since another connection fell silent");
    }
}

static void conn_close_if_due(struct pg_session *conn, uint64_t now_ms)
{
    struct err err;
    bool is_stalled = pg_session_is_shared(conn) && conn->steps_len && now_ms > conn->heard_ms + PG_STALL_MS;
    if (conn->state == PG_SESSION_CLOSED || (!is_stalled && (!conn->due_ms || conn->due_ms > now_ms)))
        return;
    if (conn->state < PG_SESSION_READY)
        err_set(&err, ERR_UNAVAILABLE, "no connection within the connect timeout");
    else
        err_set(&err, ERR_UNAVAILABLE, "the server did not answer in time");
    bool was_open = conn->state >= PG_SESSION_READY;
    uint64_t heard_ms = conn->heard_ms;
    pg_session_lose(conn, &err);
    if (was_open)
        close_unheard(conn->pg, heard_ms);
}

/* The lanes keep one each, and those that wait for work keep theirs. */
static bool can_spare(const struct pg_session *conn)
{
    return conn->state == PG_SESSION_READY && !conn->is_doomed && conn->n_ops == 0 &&
           lane_n_open(&conn->pg->lanes[conn->lane]) > 1;
}

bool pg_pool_can_spare(const struct pg *pg)
{
    for (unsigned i = 0; i < pg->n_sessions; i++)
        if (can_spare(&pg->sessions[i]))
            return true;
    return false;
}

void pg_pool_tick(struct pg *pg, uint64_t now_ms)
{
    for (unsigned i = 0; i < pg->n_sessions; i++)
        conn_close_if_due(&pg->sessions[i], now_ms);
    for (unsigned i = 0; i < pg->n_sessions; i++)
        if (now_ms > pg->sessions[i].heard_ms + pg->idle_ms && can_spare(&pg->sessions[i]))
            pg_session_doom(&pg->sessions[i], ERR_CANCELLED, "it was idle");
    pg_pool_grow(pg);
}

void pg_pool_flush(struct pg *pg)
{
    flush_reads(pg);
    flush_writes(pg);
    flush_exclusive(pg);
    for (unsigned i = 0; i < pg->n_sessions; i++)
        if (pg->sessions[i].is_doomed)
            pg_session_lose(&pg->sessions[i], pg->sessions[i].err);
    pg_pool_grow(pg);
}

bool pg_pool_is_pending(const struct pg *pg)
{
    bool is_pending = pg->is_down || pg->n_failures;
    for (unsigned i = 0; i < pg->n_sessions; i++)
        is_pending |= pg->sessions[i].due_ms != 0;
    return is_pending;
}
