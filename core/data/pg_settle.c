/* What the end of a Sync group, or of a connection, means for the calls in it.
 *
 * The rules, in one place:
 *   all of the group succeeded          → results are handed out
 *   a read of a shared group failed     → the others run again, each with its own Sync
 *   read-only violation on a read       → remembered as a write, runs again there
 *   timeout of a shared connection      → remembered as slow, runs again on an exclusive one (T5)
 *   stale or missing prepared statement → prepared anew, runs again; in a transaction it is pg.tx that runs all of it
 *                                         again, because it is rolled back
 *   connection lost                     → reads run again once, and so does the begin of a transaction; writes
 *                                         that were sent: outcome_unknown; a commit that was sent:
 *                                         commit_unknown; unsent calls wait again
 * A statement that failed was rolled back with its own Sync group, which is why it is safe to run it again. */
#include <stdlib.h>

#include "base/log.h"
#include "data/pg_priv.h"

/* ---- run again ------------------------------------------------------------------------------------------- */

static bool is_state(const struct pg_op *op, const char *sqlstate)
{
    return strcmp(op->err->sqlstate, sqlstate) == 0;
}

/* Whether this failure of an autocommit statement is one that another run heals. What was learned about the text says
 * where it runs then. */
static bool is_healed_by_rerun(struct pg_op *op)
{
    struct pg_stmt *stmt = op->cmds[0].stmt;
    bool is_shared = op->lane != PG_LANE_EXCLUSIVE && !op->is_core;
    if (op->is_stale && !op->is_unnamed) {
        pg_stmt_renew(&op->pg->stmts, stmt, op->err_stmt_id);
        op->is_unnamed = true; /* without a Parse to count on it gets its own, true error */
        return true;
    }
    if (op->lane == PG_LANE_READ && !op->must_read && is_state(op, "25006")) {
        stmt->text.class = PG_CLASS_WRITE;
        return true;
    }
    if (is_shared && (is_state(op, "57014") || is_state(op, "55P03"))) {
        pg_stmt_mark_slow(stmt, loop_now(op->pg->loop));
        return true;
    }
    return false;
}

static void run_again(struct pg_op *op)
{
    pg_op_reset(op);
    op->is_alone = true;
    if (!op->is_core)
        op->lane = (uint8_t)pg_pool_lane_of(op->pg, op->cmds[0].stmt);
    pg_pool_push_front(op->pg, op);
}

static bool may_run_again(const struct pg_op *op)
{
    return op->n_runs < PG_RUNS && op->deadline_ms > loop_now(op->pg->loop) && !op->is_forgotten &&
           !op->pg->is_destroying;
}

/* ---- the end of a group ---------------------------------------------------------------------------------- */

static void settle_autocommit(struct pg_op *op, bool is_group_failed)
{
    bool is_victim = is_group_failed && !op->err;
    if (op->is_forgotten || !is_group_failed)
        pg_op_deliver(op);
    else if (may_run_again(op) && (is_victim || is_healed_by_rerun(op)))
        run_again(op);
    else {
        if (is_victim)
            pg_op_fail(op, ERR_DEADLINE, "the statement did not end before the deadline");
        pg_op_deliver(op);
    }
}

/* So that the next run of the transaction does not meet the same plan. */
static void renew_stale(struct pg_op *op)
{
    for (int i = 0; i < op->n_cmds; i++)
        pg_stmt_renew(&op->pg->stmts, op->cmds[i].stmt, op->err_stmt_id); /* the one that has this id */
}

static void settle_tx(struct pg_op *op)
{
    struct pg_tx *tx = op->tx;
    if (op->is_stale)
        renew_stale(op);
    if (op->is_aborted && !op->err)
        pg_op_fail(op, ERR_PG, "skipped: an earlier statement of the transaction failed");
    if (!tx) { /* rolled back meanwhile */
        pg_op_fail(op, ERR_CANCELLED, "the transaction was rolled back");
        pg_op_deliver(op);
        return;
    }
    tx->is_answered = true;
    if (op->err)
        pg_tx_on_failed(tx, op->err);
    else if (op->is_savepoint_undo && !tx->is_lost)
        tx->is_failed = false;
    if (op->is_commit) {
        op->tx = NULL;
        pg_tx_end(tx);
    }
    pg_op_deliver(op);
}

static bool collect_group(struct pg_session *conn, struct list *group)
{
    bool is_failed = false, is_end;
    list_init(group);
    do {
        struct list *node = list_pop(&conn->inflight);
        CHECK(node);
        struct pg_op *op = container_of(node, struct pg_op, node);
        list_push(group, node);
        list_remove(&op->late); /* the real answer came before the deferred one */
        op->state = PG_OP_SETTLING;
        op->conn = NULL;
        conn->n_ops--;
        is_failed |= op->err != NULL;
        is_end = op->is_group_end;
    } while (!is_end);
    return is_failed;
}

void pg_settle_group(struct pg_session *conn)
{
    struct list group, *node;
    bool is_failed = collect_group(conn, &group);
    pg_mark_dirty(conn->pg);
    if (!pg_session_is_shared(conn) && conn->n_ops == 0 && !conn->tx)
        pg_pool_release(conn);
    else if (conn->is_retiring && conn->n_ops == 0)
        pg_session_doom(conn, ERR_CANCELLED, "it was spared for others");
    while ((node = list_pop(&group))) {
        struct pg_op *op = container_of(node, struct pg_op, node);
        if (op->is_tx)
            settle_tx(op);
        else
            settle_autocommit(op, is_failed);
    }
}

/* ---- the end of a connection ----------------------------------------------------------------------------- */

static void lose_tx(struct pg_op *op, const struct err *err)
{
    struct pg_tx *tx = op->tx;
    if (op->is_commit && !op->is_commit_ok && op->state == PG_OP_SENT)
        pg_op_fail(op, ERR_COMMIT_UNKNOWN, "the connection was lost after COMMIT was sent: %s", err->message);
    else if (!op->is_commit_ok)
        pg_op_fail(op, ERR_UNAVAILABLE, "the connection was lost, the transaction is rolled back: %s", err->message);
    if (tx && op->is_commit) {
        op->tx = NULL;
        pg_tx_end(tx);
    }
    pg_op_finish(op);
}

static void lose_autocommit(struct pg_op *op, const struct err *err)
{
    bool is_sent = op->state == PG_OP_SENT;
    if (!op->err && may_run_again(op) && (!is_sent || (pg_op_is_read(op) && !op->was_lost))) {
        op->was_lost |= is_sent;
        list_remove(&op->node);
        list_remove(&op->late);
        run_again(op);
        return;
    }
    if (op->pg->is_destroying)
        pg_op_fail_as(op, err);
    else if (is_sent && !pg_op_is_read(op))
        pg_op_fail(op, ERR_OUTCOME_UNKNOWN, "the connection was lost while a statement that writes ran: %s",
                   err->message);
    else
        pg_op_fail(op, ERR_UNAVAILABLE, "the connection was lost: %s", err->message);
    pg_op_finish(op);
}

static void lose_all(struct list *ops, const struct err *err)
{
    struct list *node;
    while (!list_is_empty(ops)) {
        node = ops->next;
        struct pg_op *op = container_of(node, struct pg_op, node);
        op->conn = NULL;
        if (op->is_forgotten && !(op->is_commit && op->tx))
            pg_op_free(op);
        else if (op->is_tx)
            lose_tx(op, err);
        else
            lose_autocommit(op, err);
    }
}

void pg_settle_lost(struct pg_session *conn, const struct err *err)
{
    if (conn->tx && !pg_tx_restart(conn->tx))
        pg_tx_on_lost(conn->tx, err);
    conn->tx = NULL;
    conn->n_ops = 0;
    lose_all(&conn->inflight, err);
    lose_all(&conn->out, err);
}
