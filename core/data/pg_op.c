/* One call: its copy of statement and parameters, and its one completion.
 *
 * A call completes in exactly one of three ways: delivered when its group is over, finished later in the turn
 * (refused, failed before it was sent, lost), or late: the caller gets a deadline while the answer is still owed,
 * and the answer is dropped when it comes. After pg_op_cancel it does not complete at all. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "data/pg_priv.h"

static size_t values_size(const struct pg_call *call)
{
    size_t size = (size_t)call->n_params * sizeof(char *);
    for (int i = 0; i < call->n_params; i++)
        if (call->params[i].text)
            size += strlen(call->params[i].text) + 1;
    return size;
}

/* Pointers first, then the bytes they point to: all of it behind the op, in one allocation. */
static char *copy_values(struct pg_cmd *cmd, const struct pg_call *call, char *room)
{
    cmd->values = (const char **)(void *)room;
    cmd->n_values = call->n_params;
    char *bytes = room + (size_t)call->n_params * sizeof(char *);
    for (int i = 0; i < call->n_params; i++) {
        const char *text = call->params[i].text;
        cmd->values[i] = text ? bytes : NULL;
        if (text)
            bytes = (char *)memcpy(bytes, text, strlen(text) + 1) + strlen(text) + 1;
    }
    size_t misaligned = (size_t)(bytes - room) % sizeof(char *);
    return misaligned ? bytes + sizeof(char *) - misaligned : bytes;
}

struct pg_op *pg_op_new(struct pg *pg, const struct pg_call *calls, int n_calls)
{
    size_t n = (size_t)n_calls, size = sizeof(struct pg_op) + n * (sizeof(struct pg_cmd) + sizeof(struct pg_result *));
    for (int i = 0; i < n_calls; i++)
        size += values_size(&calls[i]) + sizeof(char *);
    struct pg_op *op = xalloc(size);
    op->magic = PG_OP_MAGIC;
    op->pg = pg;
    op->n_cmds = n_calls;
    op->started_us = clock_us();
    op->waited_us = n_calls > 0 ? calls[0].waited_us : NULL;
    op->cmds = (struct pg_cmd *)(void *)(op + 1);
    op->results = (struct pg_result **)(void *)(op->cmds + n);
    char *room = (char *)(op->results + n);
    for (int i = 0; i < n_calls; i++) {
        room = copy_values(&op->cmds[i], &calls[i], room);
        struct slice sql = calls[i].sql.ptr ? calls[i].sql : SLICE("");
        op->cmds[i].stmt = pg_stmt_ref(&pg->stmts, sql);
    }
    list_push(&pg->ops, &op->all);
    pg_arm_janitor(pg);
    return op;
}

void pg_op_reset(struct pg_op *op)
{
    for (int i = 0; i < op->n_cmds; i++) {
        pg_result_free(op->results[i]);
        op->results[i] = NULL;
    }
    free(op->err);
    op->err = NULL;
    op->is_stale = op->is_aborted = op->is_group_end = false;
}

void pg_op_free(struct pg_op *op)
{
    CHECK_OBJ(op, PG_OP_MAGIC);
    pg_op_reset(op);
    for (int i = 0; i < op->n_cmds; i++)
        pg_stmt_unref(&op->pg->stmts, op->cmds[i].stmt);
    list_remove(&op->node);
    list_remove(&op->late);
    list_remove(&op->all);
    free(op->late_err);
    op->magic = 0;
    free(op);
}

void pg_op_fail_as(struct pg_op *op, const struct err *err)
{
    if (op->err)
        return;
    op->err = xalloc(sizeof(*op->err));
    *op->err = *err;
}

void pg_op_fail(struct pg_op *op, enum err_code code, const char *fmt, ...)
{
    char message[sizeof(((struct err *)0)->message)];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    struct err err = {0};
    err_set(&err, code, "%s", message);
    pg_op_fail_as(op, &err);
}

/* ---- completion -------------------------------------------------------------------------------------- */

/* After this the op has no caller. */
static void complete(struct pg_op *op, const struct err *err)
{
    if (op->is_forgotten)
        return;
    op->is_forgotten = true;
    metrics_observe(METRIC_HISTOGRAM_PG_QUERY, clock_us() - op->started_us);
    if (err && !op->is_internal)
        op->pg->n_errors++;
    if (op->done)
        op->done(op->data, err ? NULL : op->results[0], err);
    else if (op->done_all)
        op->done_all(op->data, err ? NULL : (const struct pg_result *const *)op->results, err ? 0 : op->n_cmds, err);
    else if (op->done_commit)
        op->done_commit(op->data, err);
}

void pg_op_deliver(struct pg_op *op)
{
    complete(op, op->err);
    pg_op_free(op);
}

void pg_op_finish(struct pg_op *op)
{
    CHECK(op->state != PG_OP_FINISHED);
    list_remove(&op->node);
    list_remove(&op->late);
    op->state = PG_OP_FINISHED;
    list_push(&op->pg->finished, &op->node);
    pg_mark_dirty(op->pg);
}

void pg_op_finish_late(struct pg_op *op, enum err_code code, const char *message)
{
    if (op->is_forgotten || list_is_linked(&op->late))
        return;
    op->late_err = xalloc(sizeof(*op->late_err));
    err_set(op->late_err, code, "%s", message);
    list_push(&op->pg->late, &op->late);
    pg_mark_dirty(op->pg);
}

void pg_op_run_deferred(struct pg *pg)
{
    struct list *node;
    while ((node = list_pop(&pg->finished)))
        pg_op_deliver(container_of(node, struct pg_op, node));
    while ((node = list_pop(&pg->late))) {
        struct pg_op *op = container_of(node, struct pg_op, late);
        complete(op, op->late_err);
    }
}

/* ---- deadline and cancel ------------------------------------------------------------------------------- */

/* Takes an unsent op out of where it waits; what it means for its transaction. */
static void drop_queued(struct pg_op *op)
{
    pg_pool_drop(op);
    if (op->tx)
        pg_tx_on_dropped(op);
}

/* A commit that was sent is never cancelled; but neither is its connection waited for for ever. */
static void await_commit(struct pg_op *op)
{
    if (op->conn && !op->conn->due_ms)
        op->conn->due_ms = loop_now(op->pg->loop) + PG_COMMIT_MS;
}

static void expire_sent(struct pg_op *op)
{
    struct pg_session *conn = op->conn;
    if (op->is_commit) {
        pg_op_finish_late(op, ERR_COMMIT_UNKNOWN, "no answer to COMMIT before the deadline");
        await_commit(op);
        return;
    }
    if (op->is_tx || pg_op_is_read(op))
        pg_op_finish_late(op, ERR_DEADLINE, "the statement did not end before the deadline");
    else
        pg_op_finish_late(op, ERR_OUTCOME_UNKNOWN, "no answer to a statement that writes before the deadline");
    if (op->tx)
        pg_tx_on_failed(op->tx, op->late_err);
    if (conn && !pg_session_is_shared(conn))
        pg_pool_cancel(conn);
}

void pg_op_expire(struct pg_op *op, uint64_t now_ms)
{
    if (op->deadline_ms > now_ms || op->is_forgotten || op->state == PG_OP_FINISHED || list_is_linked(&op->late))
        return;
    if (op->state != PG_OP_QUEUED) {
        expire_sent(op);
        return;
    }
    const char *why = op->pg->n_failures ? op->pg->last_err.message : NULL;
    pg_op_fail(op, ERR_DEADLINE, "the deadline passed while waiting for a connection%s%s", why ? ": " : "",
               why ? why : "");
    drop_queued(op);
    pg_op_finish(op);
}

void pg_op_cancel(struct pg_op *op)
{
    CHECK_OBJ(op, PG_OP_MAGIC);
    if (op->state == PG_OP_QUEUED)
        drop_queued(op);
    if (op->state == PG_OP_QUEUED || op->state == PG_OP_FINISHED) {
        pg_op_free(op);
        return;
    }
    op->is_forgotten = true;
    list_remove(&op->late);
    if (op->tx && !op->is_commit) {
        struct err err;
        err_set(&err, ERR_CANCELLED, "a statement of the transaction was cancelled");
        pg_tx_on_failed(op->tx, &err);
    }
    if (op->is_commit)
        await_commit(op);
    else if (op->conn && !pg_session_is_shared(op->conn))
        pg_pool_cancel(op->conn);
}
