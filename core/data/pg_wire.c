/* The pipeline of one connection: every command sent is a step in a ring, and the results come back in that
 * order, so the head of the ring always says what the next result is about.
 *
 * libpq's rules, as they matter here: each command gives one result and then one NULL, a Sync gives
 * PGRES_PIPELINE_SYNC and no NULL; after an error everything up to the Sync comes back as
 * PGRES_PIPELINE_ABORTED; PQpipelineSync flushes at once. PQgetResult is only called when PQisBusy says no,
 * which is what keeps it from blocking.
 *
 * Sending happens only in the turn hook, reading only in io: never one inside the other. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "data/pg_priv.h"

#define TOO_BIG "the result is over pg.max_result_bytes: select fewer rows, or page"

/* ---- the ring -------------------------------------------------------------------------------------------- */

static void step_push(struct pg_session *conn, struct pg_step step)
{
    if (conn->steps_len == conn->steps_cap) {
        unsigned cap = conn->steps_cap ? conn->steps_cap * 2 : 64;
        struct pg_step *steps = xalloc(cap * sizeof(*steps));
        for (unsigned i = 0; i < conn->steps_len; i++)
            steps[i] = conn->steps[(conn->steps_head + i) & (conn->steps_cap - 1)];
        free(conn->steps);
        conn->steps = steps;
        conn->steps_cap = cap;
        conn->steps_head = 0;
    }
    conn->steps[(conn->steps_head + conn->steps_len++) & (conn->steps_cap - 1)] = step;
}

static struct pg_step *step_first(const struct pg_session *conn)
{
    return &conn->steps[conn->steps_head];
}

static void step_pop(struct pg_session *conn)
{
    conn->steps_head = (conn->steps_head + 1) & (conn->steps_cap - 1);
    conn->steps_len--;
    conn->has_result = false;
}

/* ---- sending --------------------------------------------------------------------------------------------- */

static bool send_text(struct pg_session *conn, struct pg_op *op, enum pg_step_kind kind, const char *text)
{
    if (!PQsendQueryParams(conn->pq, text, 0, NULL, NULL, NULL, NULL, 0))
        return false;
    step_push(conn, (struct pg_step){.op = op, .kind = (uint8_t)kind});
    return true;
}

/* What a session of ours begins by itself (lane_options): READ COMMITTED, READ WRITE. A pooler's may begin anything. */
static bool is_plain_tx(const struct pg_op *op)
{
    const struct pg_tx_opts *opts = &op->tx->opts;
    return !op->pg->is_unnamed && opts->isolation == PG_READ_COMMITTED && !opts->read_only;
}

enum own { OWN_BEGIN, OWN_COMMIT };
static const struct {
    const char *name, *text;
} owns[] = {[OWN_BEGIN] = {"chowk_begin", "BEGIN"}, [OWN_COMMIT] = {"chowk_commit", "COMMIT"}};

/* Once statements are prepared, BEGIN and COMMIT are all that is parsed, so they are prepared too: both ahead of the
 * first BEGIN, where no statement's failure can skip them. */
static bool send_own_prepares(struct pg_session *conn, struct pg_op *op)
{
    for (size_t i = 0; i < ARRAY_LEN(owns); i++) {
        if (!PQsendPrepare(conn->pq, owns[i].name, owns[i].text, 0, NULL))
            return false;
        step_push(conn, (struct pg_step){.op = op, .kind = PG_STEP_OWN});
    }
    conn->has_own_prepared = true;
    return true;
}

static bool send_own(struct pg_session *conn, struct pg_op *op, enum pg_step_kind kind, enum own own)
{
    if (!conn->has_own_prepared)
        return send_text(conn, op, kind, owns[own].text);
    if (!PQsendQueryPrepared(conn->pq, owns[own].name, 0, NULL, NULL, NULL, 0))
        return false;
    step_push(conn, (struct pg_step){.op = op, .kind = (uint8_t)kind});
    return true;
}

static bool send_plain_begin(struct pg_session *conn, struct pg_op *op)
{
    if (!conn->has_own_prepared && !send_own_prepares(conn, op))
        return false;
    return send_own(conn, op, PG_STEP_BEGIN, OWN_BEGIN);
}

static bool send_begin(struct pg_session *conn, struct pg_op *op)
{
    static const char *const levels[] = {[PG_READ_COMMITTED] = "READ COMMITTED",
                                         [PG_REPEATABLE_READ] = "REPEATABLE READ",
                                         [PG_SERIALIZABLE] = "SERIALIZABLE"};
    const struct pg_tx_opts *opts = &op->tx->opts;
    char text[80];
    snprintf(text, sizeof(text), "BEGIN ISOLATION LEVEL %s READ %s", levels[opts->isolation],
             opts->read_only ? "ONLY" : "WRITE");
    if (!(is_plain_tx(op) ? send_plain_begin(conn, op) : send_text(conn, op, PG_STEP_BEGIN, text)))
        return false;
    op->tx->is_begun = true;
    if (!opts->lock_timeout_ms)
        return true;
    snprintf(text, sizeof(text), "SET LOCAL lock_timeout = %u", opts->lock_timeout_ms);
    return send_text(conn, op, PG_STEP_SET, text);
}

/* Makes sure the server has the text under its id: at most a DEALLOCATE of the slot's old text and a Parse,
 * both in the batch of the first Execute. */
static bool send_prepare(struct pg_session *conn, struct pg_op *op, const struct pg_stmt *stmt)
{
    uint32_t old_id = conn->prepared[stmt->slot];
    if (old_id == stmt->id)
        return true;
    if (old_id) {
        char text[40];
        snprintf(text, sizeof(text), "DEALLOCATE s%u", old_id);
        if (!PQsendQueryParams(conn->pq, text, 0, NULL, NULL, NULL, NULL, 0))
            return false;
        step_push(conn, (struct pg_step){.op = op, .kind = PG_STEP_DEALLOCATE, .slot = stmt->slot, .stmt_id = old_id});
    }
    if (!PQsendPrepare(conn->pq, stmt->name, stmt->sql.ptr, 0, NULL))
        return false;
    step_push(conn, (struct pg_step){.op = op, .kind = PG_STEP_PREPARE, .slot = stmt->slot, .stmt_id = stmt->id});
    conn->prepared[stmt->slot] = stmt->id;
    return true;
}

/* A text seen once is not worth a plan on every connection, nor the eviction of one that is used often. */
static bool is_worth_preparing(const struct pg_op *op, const struct pg_stmt *stmt)
{
    return !op->pg->is_unnamed && !op->is_unnamed && stmt->slot != PG_STMT_NO_SLOT && stmt->n_uses > 1;
}

static bool send_cmd(struct pg_session *conn, struct pg_op *op, int index)
{
    const struct pg_cmd *cmd = &op->cmds[index];
    const struct pg_stmt *stmt = cmd->stmt;
    int ok;
    if (is_worth_preparing(op, stmt)) {
        if (!send_prepare(conn, op, stmt))
            return false;
        ok = PQsendQueryPrepared(conn->pq, stmt->name, cmd->n_values, cmd->values, NULL, NULL, 0);
    } else {
        ok = PQsendQueryParams(conn->pq, stmt->sql.ptr, cmd->n_values, NULL, cmd->values, NULL, NULL, 0);
    }
    if (!ok)
        return false;
    conn->is_tainted |= stmt->text.is_tainting;
    step_push(conn, (struct pg_step){.op = op, .kind = PG_STEP_STATEMENT, .cmd = (uint16_t)index, .stmt_id = stmt->id});
    return true;
}

/* A transaction that is one Sync group from its first statement to its COMMIT needs neither BEGIN nor COMMIT: the
 * server runs a Sync group in one transaction, skips the rest of it after a failure, and commits at the Sync, before
 * it answers it. Plain statements only: CALL could commit in the middle of it, SET LOCAL and cursors want a BEGIN. */
static bool is_one_group(const struct pg_op *op)
{
    if (!op->tx || op->tx->is_begun || !op->is_commit || op->n_cmds == 0)
        return false;
    for (int i = 0; i < op->n_cmds; i++)
        if (op->cmds[i].stmt->text.class > PG_CLASS_WRITE)
            return false;
    return is_plain_tx(op) && op->tx->opts.lock_timeout_ms == 0;
}

bool pg_wire_send(struct pg_session *conn, struct pg_op *op)
{
    if (conn->steps_len == 0)
        conn->heard_ms = loop_now(conn->pg->loop);
    op->commits_at_sync = is_one_group(op);
    if (op->tx && !op->tx->is_begun && !op->commits_at_sync && !send_begin(conn, op))
        return false;
    for (int i = 0; i < op->n_cmds; i++)
        if (!send_cmd(conn, op, i))
            return false;
    if (op->control[0] && !send_text(conn, op, PG_STEP_CONTROL, op->control))
        return false;
    if (op->is_commit && !op->commits_at_sync && !send_own(conn, op, PG_STEP_COMMIT, OWN_COMMIT))
        return false;
    list_remove(&op->node);
    list_push(&conn->inflight, &op->node);
    op->conn = conn;
    op->state = PG_OP_SENT;
    op->n_runs++;
    conn->is_group_open = true;
    return true;
}

void pg_wire_sync(struct pg_session *conn)
{
    if (!conn->is_group_open)
        return;
    conn->is_group_open = false;
    container_of(conn->inflight.prev, struct pg_op, node)->is_group_end = true;
    if (!PQpipelineSync(conn->pq)) {
        pg_session_doom(conn, ERR_UNAVAILABLE, "%s", PQerrorMessage(conn->pq));
        return;
    }
    step_push(conn, (struct pg_step){.kind = PG_STEP_SYNC});
    pg_session_watch(conn);
}

/* ---- reading --------------------------------------------------------------------------------------------- */

/* What a shared connection may answer. Anything else means that a text did what its first word did not say. */
static bool is_expected_tag(const char *tag)
{
    static const char *const tags[] = {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "SHOW", "EXPLAIN"};
    for (size_t i = 0; i < ARRAY_LEN(tags); i++)
        if (tag[0] == tags[i][0] && strncmp(tag, tags[i], strlen(tags[i])) == 0)
            return true;
    return false;
}

static bool is_shutdown_state(const char *sqlstate) /* the session is over, whatever was running */
{
    return strncmp(sqlstate, "57P0", 4) == 0 || strncmp(sqlstate, "08", 2) == 0;
}

static void on_failed(struct pg_session *conn, const struct pg_step *step, const PGresult *result)
{
    struct err err;
    pg_err_from_result(result, &err);
    if (is_shutdown_state(err.sqlstate) || (!err.sqlstate[0] && PQstatus(conn->pq) == CONNECTION_BAD)) {
        pg_session_doom(conn, ERR_UNAVAILABLE, "%s", err.message);
        return;
    }
    struct pg_op *op = step->op;
    if (!op) /* the Sync itself failed: a deferred constraint; the last of the group bears it */
        op = container_of(conn->inflight.next, struct pg_op, node);
    const char *origin = PQresultErrorField(result, PG_DIAG_SOURCE_FUNCTION);
    if (!op->err) {
        op->is_stale = strcmp(err.sqlstate, "0A000") == 0 && origin && strcmp(origin, "RevalidateCachedQuery") == 0;
        op->err_stmt_id = step->stmt_id;
    }
    pg_op_fail_as(op, &err);
}

/* `failed`: error or skipped. */
static void on_prepare(struct pg_session *conn, const struct pg_step *step, bool is_skipped, bool failed)
{
    uint32_t *prepared = &conn->prepared[step->slot];
    if (step->kind == PG_STEP_PREPARE && failed && *prepared == step->stmt_id)
        *prepared = 0;
    if (step->kind == PG_STEP_DEALLOCATE && is_skipped)
        *prepared = step->stmt_id; /* still there */
}

/* The session may have been changed under everybody's feet: it is closed, and nobody is told "done". */
static void on_surprise(struct pg_session *conn, const struct pg_step *step, const char *answer)
{
    if (step->op)
        pg_op_fail(step->op, ERR_OUTCOME_UNKNOWN, "the statement answered \"%s\", which this connection may not run",
                   answer);
    pg_session_doom(conn, ERR_UNAVAILABLE, "a statement answered \"%s\"", answer);
}

static bool on_statement(struct pg_session *conn, const struct pg_step *step, PGresult *result) /* keeps it: true */
{
    if (pg_session_is_shared(conn) && conn->lane != PG_LANE_LISTEN && !is_expected_tag(PQcmdStatus(result))) {
        on_surprise(conn, step, PQcmdStatus(result));
        return false;
    }
    if (PQresultMemorySize(result) > conn->pg->max_result_bytes) {
        pg_op_fail(step->op, ERR_REFUSED, "%s", TOO_BIG);
        return false;
    }
    step->op->results[step->cmd] = result;
    return true;
}

static void on_commit(const struct pg_step *step, PGresult *result)
{
    if (strcmp(PQcmdStatus(result), "COMMIT") == 0)
        step->op->is_commit_ok = true;
    else
        pg_op_fail(step->op, ERR_PG, "the transaction was rolled back, not committed");
}

static void on_result(struct pg_session *conn, const struct pg_step *step, PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    bool is_ok = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;
    bool is_skipped = status == PGRES_PIPELINE_ABORTED, kept = false;
    conn->has_result = true;
    if (is_skipped && step->op)
        step->op->is_aborted = true;
    else if (status == PGRES_FATAL_ERROR)
        on_failed(conn, step, result);
    else if (is_ok && step->kind == PG_STEP_STATEMENT)
        kept = on_statement(conn, step, result);
    else if (is_ok && step->kind == PG_STEP_COMMIT)
        on_commit(step, result);
    else if (!is_ok && status != PGRES_EMPTY_QUERY)
        on_surprise(conn, step, PQresStatus(status));
    if (!is_ok && !is_skipped && (step->kind == PG_STEP_BEGIN || step->kind == PG_STEP_OWN))
        conn->is_tainted = true; /* what we count on in this session is not there */
    if (step->kind == PG_STEP_PREPARE || step->kind == PG_STEP_DEALLOCATE)
        on_prepare(conn, step, is_skipped, !is_ok);
    if (!kept)
        PQclear(result);
}

static void on_sync(struct pg_session *conn)
{
    if (step_first(conn)->kind != PG_STEP_SYNC) {
        pg_session_doom(conn, ERR_OUTCOME_UNKNOWN, "the server answered a Sync out of step");
        return;
    }
    step_pop(conn);
    struct pg_op *op = container_of(conn->inflight.next, struct pg_op, node);
    if (op->commits_at_sync && PQtransactionStatus(conn->pq) != PQTRANS_IDLE)
        pg_op_fail(op, ERR_PG, "the transaction was rolled back, not committed");
    pg_settle_group(conn);
}

/* One answer off libpq; false when it has none now. */
static bool read_one(struct pg_session *conn)
{
    if (conn->steps_len == 0 || conn->is_doomed || PQisBusy(conn->pq))
        return false;
    PGresult *result = PQgetResult(conn->pq);
    pg_session_check_socket(conn);
    conn->n_partial_reads = 0;
    conn->n_partial_bytes = 0;
    if (!result) {
        if (conn->has_result && step_first(conn)->kind != PG_STEP_SYNC)
            step_pop(conn);
        else if (PQstatus(conn->pq) == CONNECTION_BAD)
            pg_session_doom(conn, ERR_UNAVAILABLE, "%s", PQerrorMessage(conn->pq));
        return true;
    }
    if (PQresultStatus(result) == PGRES_PIPELINE_SYNC) {
        PQclear(result);
        on_sync(conn);
    } else {
        struct pg_step step = *step_first(conn);
        on_result(conn, &step, result);
    }
    return true;
}

/* libpq does not say how much of an unfinished result it holds. After a few reads without a complete one,
 * what waits in the socket is counted before each further read: that bounds what a huge result can take. */
static void guard_size(struct pg_session *conn)
{
    int n = 0;
    if (++conn->n_partial_reads < 8 || ioctl(PQsocket(conn->pq), FIONREAD, &n) < 0)
        return;
    conn->n_partial_bytes += (size_t)n;
    if (conn->n_partial_bytes <= conn->pg->max_result_bytes)
        return;
    if (conn->steps_len && step_first(conn)->op)
        pg_op_fail(step_first(conn)->op, ERR_REFUSED, "%s", TOO_BIG);
    pg_session_doom(conn, ERR_UNAVAILABLE, "a result was over pg.max_result_bytes");
}

void pg_wire_read(struct pg_session *conn)
{
    guard_size(conn);
    bool is_alive = !conn->is_doomed && pg_session_consume(conn);
    conn->heard_ms = loop_now(conn->pg->loop);
    while (read_one(conn))
        ;
    if (!is_alive || PQstatus(conn->pq) == CONNECTION_BAD)
        pg_session_doom(conn, ERR_UNAVAILABLE, "%s", PQerrorMessage(conn->pq));
}
