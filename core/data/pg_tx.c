/* Transactions: one exclusive connection from the first statement to COMMIT or ROLLBACK.
 *
 * A tx takes no connection until its first statement, whose Sync group also carries BEGIN. COMMIT rides in the
 * Sync group of the last statements, so that the server skips it when one of them fails, and only its own
 * command tag counts as committed (T2). A tx that is one group from its first statement to its COMMIT travels without
 * both, and is committed when its Sync is answered without an error (pg_wire.c). Whatever else happens (failure,
 * cancel, a tx that is dropped) the connection is rolled back before anyone else gets it; that is pg_pool_release's
 * business.
 *
 * The caller's handle ends with pg_tx_commit, pg_tx_rollback or a group with `commit`; from then on the last op
 * owns the struct. */
#include <stdio.h>
#include <stdlib.h>

#include "data/pg_priv.h"

struct pg_tx *pg_tx_begin(struct pg *pg, const struct pg_tx_opts *opts)
{
    CHECK_OBJ(pg, PG_MAGIC);
    struct pg_tx *tx = xalloc(sizeof(*tx));
    tx->magic = PG_TX_MAGIC;
    tx->pg = pg;
    tx->opts = *opts;
    list_init(&tx->queue);
    return tx;
}

bool pg_tx_is_failed(const struct pg_tx *tx)
{
    CHECK_OBJ(tx, PG_TX_MAGIC);
    return tx->is_failed;
}

bool pg_tx_is_used(const struct pg_tx *tx)
{
    CHECK_OBJ(tx, PG_TX_MAGIC);
    return tx->is_begun || tx->conn || tx->waiting_op || tx->is_failed;
}

/* ---- what happens to it ---------------------------------------------------------------------------------- */

void pg_tx_on_failed(struct pg_tx *tx, const struct err *err)
{
    if (!tx->is_failed)
        tx->err = *err;
    tx->is_failed = true;
}

void pg_tx_on_lost(struct pg_tx *tx, const struct err *err)
{
    tx->conn = NULL;
    tx->is_lost = true;
    pg_tx_on_failed(tx, err);
    tx->err.code = ERR_UNAVAILABLE;
}

static void give_to_conn(struct pg_tx *tx, struct pg_op *op)
{
    list_remove(&op->node);
    list_push(&tx->conn->out, &op->node);
    op->conn = tx->conn;
    tx->conn->n_ops++;
    pg_mark_dirty(tx->pg);
}

void pg_tx_on_acquired(struct pg_tx *tx, struct pg_session *conn)
{
    struct pg_op *op = tx->waiting_op;
    tx->waiting_op = NULL;
    tx->conn = conn;
    conn->tx = tx;
    give_to_conn(tx, op);
    while (!list_is_empty(&tx->queue))
        give_to_conn(tx, container_of(tx->queue.next, struct pg_op, node));
}

void pg_tx_on_dropped(struct pg_op *op)
{
    struct pg_tx *tx = op->tx;
    struct err err;
    err_set(&err, ERR_CANCELLED, "a statement of the transaction was taken back");
    if (tx->waiting_op == op)
        tx->waiting_op = NULL;
    pg_tx_on_failed(tx, op->err ? op->err : &err);
    op->tx = NULL;
    if (op->is_commit)
        pg_tx_end(tx);
}

static bool may_restart(const struct pg_tx *tx, struct list *ops)
{
    list_each (node, ops) {
        const struct pg_op *op = container_of(node, struct pg_op, node);
        if (op->tx != tx || op->is_commit || op->is_forgotten || op->err || list_is_linked(&op->late))
            return false;
    }
    return true;
}

/* Back to where they were before there was a connection. */
static void take_back(struct pg_tx *tx, struct list *ops)
{
    while (!list_is_empty(ops)) {
        struct pg_op *op = container_of(ops->next, struct pg_op, node);
        list_remove(&op->node);
        pg_op_reset(op);
        op->conn = NULL;
        op->state = PG_OP_QUEUED;
        if (tx->waiting_op) {
            list_push(&tx->queue, &op->node);
        } else {
            tx->waiting_op = op;
            pg_pool_push_front(tx->pg, op);
        }
    }
}

bool pg_tx_restart(struct pg_tx *tx)
{
    struct pg_session *conn = tx->conn;
    bool is_hopeless = tx->pg->is_destroying || tx->is_answered || tx->is_restarted || tx->is_failed || tx->is_ended;
    if (is_hopeless || !may_restart(tx, &conn->inflight) || !may_restart(tx, &conn->out))
        return false;
    tx->is_restarted = true;
    tx->is_begun = false;
    tx->conn = NULL;
    take_back(tx, &conn->inflight);
    take_back(tx, &conn->out);
    return true;
}

/* Ops that are left when it ends complete as cancelled; what runs is stopped. */
static void detach_ops(struct pg_tx *tx)
{
    struct pg_session *conn = tx->conn;
    list_each (node, &tx->pg->ops) {
        struct pg_op *op = container_of(node, struct pg_op, all);
        if (op->tx != tx)
            continue;
        bool is_queued = op->state == PG_OP_QUEUED;
        if (is_queued)
            pg_pool_drop(op);
        op->tx = NULL;
        if (is_queued) {
            pg_op_fail(op, ERR_CANCELLED, "the transaction was rolled back");
            pg_op_finish(op);
        } else if (op->state == PG_OP_SENT) {
            pg_op_finish_late(op, ERR_CANCELLED, "the transaction was rolled back");
        }
    }
    tx->waiting_op = NULL;
    if (conn && !list_is_empty(&conn->inflight))
        pg_pool_cancel(conn);
}

void pg_tx_end(struct pg_tx *tx)
{
    CHECK_OBJ(tx, PG_TX_MAGIC);
    struct pg_session *conn = tx->conn;
    if (tx->waiting_op || !list_is_empty(&tx->queue) || (conn && conn->n_ops))
        detach_ops(tx);
    if (conn)
        pg_pool_release(conn);
    tx->magic = 0;
    free(tx);
}

void pg_tx_rollback(struct pg_tx *tx)
{
    CHECK_OBJ(tx, PG_TX_MAGIC);
    CHECK(!tx->is_ended);
    pg_tx_end(tx);
}

/* ---- statements ------------------------------------------------------------------------------------------ */

static bool is_allowed(struct pg_op *op)
{
    for (int i = 0; i < op->n_cmds && !op->err; i++) {
        const struct pg_text *text = &op->cmds[i].stmt->text;
        if (text->tx_advice)
            pg_op_fail(op, ERR_REFUSED, "this statement may not run in a transaction: %s", text->tx_advice);
        else if (text->session_advice && op->pg->is_unnamed)
            pg_op_fail(op, ERR_REFUSED, "this statement may not run through a pooler: %s", text->session_advice);
        else if (text->n_params != op->cmds[i].n_values)
            pg_op_fail(op, ERR_REFUSED, "the statement has %d parameters ($1 …), %d were given", text->n_params,
                       op->cmds[i].n_values);
    }
    return !op->err;
}

/* Why this op cannot be sent, told to its caller in the deferred part of the turn. */
static void refuse(struct pg_op *op)
{
    struct pg_tx *tx = op->tx;
    op->tx = NULL;
    pg_op_finish(op);
    if (op->is_commit)
        pg_tx_end(tx);
}

static void submit(struct pg_op *op)
{
    struct pg_tx *tx = op->tx;
    op->state = PG_OP_QUEUED;
    if (tx->conn) {
        give_to_conn(tx, op);
    } else if (tx->waiting_op) {
        list_push(&tx->queue, &op->node);
    } else {
        tx->waiting_op = op;
        pg_pool_push(tx->pg, op);
        if (op->state != PG_OP_FINISHED) /* the queue took it */
            return;
        tx->waiting_op = NULL;
        pg_tx_on_failed(tx, op->err);
        op->tx = NULL;
        if (op->is_commit)
            pg_tx_end(tx);
    }
}

static void start(struct pg_op *op, struct pg_tx *tx)
{
    op->is_tx = true;
    op->tx = tx;
    op->lane = PG_LANE_EXCLUSIVE;
    if (!op->deadline_ms)
        op->deadline_ms = tx->opts.deadline_ms;
    if (!op->deadline_ms)
        op->deadline_ms = loop_now(tx->pg->loop) + PG_DEFAULT_DEADLINE_MS;
    tx->pg->n_queries += (unsigned)op->n_cmds;
    tx->is_ended = op->is_commit;
    bool may_heal = op->is_savepoint_undo && tx->conn;
    if (tx->is_failed && !may_heal)
        pg_op_fail_as(op, &tx->err); /* the first error says more than "current transaction is aborted" */
    if (!op->err && is_allowed(op))
        submit(op);
    else
        refuse(op);
}

struct pg_op *pg_tx_query(struct pg_tx *tx, const struct pg_call *call)
{
    CHECK_OBJ(tx, PG_TX_MAGIC);
    CHECK(!tx->is_ended);
    struct pg_op *op = pg_op_new(tx->pg, call, 1);
    op->deadline_ms = call->deadline_ms;
    op->done = call->done;
    op->data = call->data;
    start(op, tx);
    return op;
}

struct pg_op *pg_tx_query_all(struct pg_tx *tx, const struct pg_call *calls, int n_calls, bool commit,
                              void (*done)(void *data, const struct pg_result *const *results, int n_results,
                                           const struct err *err),
                              void *data)
{
    CHECK_OBJ(tx, PG_TX_MAGIC);
    CHECK(!tx->is_ended && n_calls > 0);
    struct pg_op *op = pg_op_new(tx->pg, calls, n_calls);
    op->deadline_ms = calls[0].deadline_ms;
    op->done_all = done;
    op->data = data;
    op->is_commit = commit;
    start(op, tx);
    return op;
}

struct pg_op *pg_tx_commit(struct pg_tx *tx, void (*done)(void *data, const struct err *err), void *data)
{
    CHECK_OBJ(tx, PG_TX_MAGIC);
    CHECK(!tx->is_ended);
    struct pg_op *op = pg_op_new(tx->pg, NULL, 0);
    op->done_commit = done;
    op->data = data;
    op->is_commit = true;
    if (pg_tx_is_used(tx)) {
        start(op, tx);
        return op;
    }
    op->is_tx = true; /* nothing was ever sent: nothing to commit */
    pg_op_finish(op);
    pg_tx_end(tx);
    return op;
}

struct pg_op *pg_tx_savepoint(struct pg_tx *tx, enum pg_savepoint what, unsigned number,
                              void (*done)(void *data, const struct err *err), void *data)
{
    CHECK_OBJ(tx, PG_TX_MAGIC);
    CHECK(!tx->is_ended);
    static const char *const words[] = {[PG_SAVEPOINT] = "SAVEPOINT",
                                        [PG_SAVEPOINT_RELEASE] = "RELEASE SAVEPOINT",
                                        [PG_SAVEPOINT_UNDO] = "ROLLBACK TO SAVEPOINT"};
    struct pg_op *op = pg_op_new(tx->pg, NULL, 0);
    snprintf(op->control, sizeof(op->control), "%s chowk_%u", words[what], number);
    op->done_commit = done;
    op->data = data;
    op->is_savepoint_undo = what == PG_SAVEPOINT_UNDO;
    start(op, tx);
    return op;
}
