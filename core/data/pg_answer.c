/* What a connection answers: messages off its socket, each for the step at the head of the ring.
 *
 * The server's rules, as they matter here: it answers in order; an error ends its step, and everything up to the next
 * Sync is skipped without an answer; each Sync is answered by ReadyForQuery, which says what became of the
 * transaction. Notices, settings and notifications may come between any two messages. Whatever does not fit closes the
 * connection: nobody is told "done" by a guess. */
#include <stdlib.h>

#include "base/log.h"
#include "data/pg_priv.h"
#include "net/tls.h"

enum {
    MSG_SLACK = 1024 * 1024, /* a message may be longer than a result by so much: one error, one description */
    READ_TURN = 1024 * 1024  /* taken in one turn of the loop: everybody else wants to be heard */
};

static void out_of_step(struct pg_session *conn, char type)
{
    pg_session_doom(conn, ERR_OUTCOME_UNKNOWN, "the server sent a message '%c' out of step", type);
}

/* ---- the result at hand ------------------------------------------------------------------------------------------ */

void pg_answer_clear(struct pg_session *conn)
{
    pg_result_free(conn->result);
    pg_columns_unref(conn->described);
    conn->result = NULL;
    conn->described = NULL;
    conn->is_dropping = false;
}

static struct pg_result *result_at_hand(struct pg_session *conn, const struct pg_step *step)
{
    bool is_named = step->kind == PG_STEP_STATEMENT && step->slot != PG_STMT_NO_SLOT;
    if (!conn->result)
        conn->result = pg_result_new(is_named ? conn->columns[step->slot] : conn->described);
    return conn->result;
}

static void end_step(struct pg_session *conn)
{
    pg_answer_clear(conn);
    pg_step_pop(conn);
}

/* The rest of this result is read and forgotten: the connection, and who shares it, need not suffer. A write has its
 * effect all the same, and must not be told as if it had none. */
static void drop_result(struct pg_session *conn, const struct pg_step *step)
{
    const char *why = "the result is over pg.max_result_bytes: select fewer rows, or page";
    bool may_stand = step->op->is_commit || (!step->op->is_tx && !pg_op_is_read(step->op));
    if (may_stand)
        pg_op_fail(step->op, step->op->is_commit ? ERR_COMMIT_UNKNOWN : ERR_OUTCOME_UNKNOWN,
                   "%s; what was written may stand", why);
    else
        pg_op_fail(step->op, ERR_REFUSED, "%s", why);
    pg_answer_clear(conn);
    conn->is_dropping = true;
}

static void on_row(struct pg_session *conn, const struct pg_step *step, struct slice body)
{
    if (conn->is_dropping)
        return;
    struct pg_result *result = result_at_hand(conn, step);
    if (pg_result_size(result) + body.len > conn->pg->max_result_bytes)
        drop_result(conn, step);
    else if (!pg_result_add_row(result, body))
        out_of_step(conn, 'D');
}

static void on_columns(struct pg_session *conn, const struct pg_step *step, const struct pg_msg *msg)
{
    struct pg_columns *columns = msg->type == 'T' ? pg_columns_new(msg->body) : NULL;
    struct pg_columns **slot = step->kind == PG_STEP_PREPARE ? &conn->columns[step->slot] : &conn->described;
    if (msg->type == 'T' && !columns) {
        out_of_step(conn, 'T');
        return;
    }
    pg_columns_unref(*slot);
    *slot = columns;
    if (step->kind == PG_STEP_PREPARE)
        end_step(conn);
}

/* ---- a command's end -----------------------------------------------------------------------------------------------
 */

/* What a shared connection may answer. Anything else means that a text did what its first word did not say. */
static bool is_expected_tag(const char *tag)
{
    static const char *const tags[] = {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "SHOW", "EXPLAIN"};
    for (size_t i = 0; i < ARRAY_LEN(tags); i++)
        if (tag[0] == tags[i][0] && strncmp(tag, tags[i], strlen(tags[i])) == 0)
            return true;
    return false;
}

/* The session may have been changed under everybody's feet: it is closed, and nobody is told "done". */
static void on_surprise(struct pg_session *conn, const struct pg_step *step, const char *answer)
{
    if (step->op)
        pg_op_fail(step->op, ERR_OUTCOME_UNKNOWN, "the statement answered \"%s\", which this connection may not run",
                   answer);
    pg_session_doom(conn, ERR_UNAVAILABLE, "a statement answered \"%s\"", answer);
}

static void on_statement(struct pg_session *conn, const struct pg_step *step, const char *tag)
{
    if (pg_session_is_shared(conn) && conn->lane != PG_LANE_LISTEN && !is_expected_tag(tag)) {
        on_surprise(conn, step, tag);
        return;
    }
    if (conn->is_dropping)
        return;
    struct pg_result *result = result_at_hand(conn, step);
    pg_result_set_tag(result, tag);
    step->op->results[step->cmd] = result;
    conn->result = NULL;
}

static void on_commit(const struct pg_step *step, const char *tag)
{
    if (strcmp(tag, "COMMIT") == 0)
        step->op->is_commit_ok = true;
    else
        pg_op_fail(step->op, ERR_PG, "the transaction was rolled back, not committed");
}

static void on_complete(struct pg_session *conn, const struct pg_step *step, const struct pg_msg *msg)
{
    struct slice body = msg->body;
    const char *tag = "";
    if (msg->type == 'C' && !pg_proto_text(&body, &tag)) {
        out_of_step(conn, 'C');
        return;
    }
    if (step->kind == PG_STEP_STATEMENT && msg->type == 'C')
        on_statement(conn, step, tag);
    else if (step->kind == PG_STEP_COMMIT)
        on_commit(step, tag);
    if (!conn->is_doomed)
        end_step(conn);
}

/* ---- failures ------------------------------------------------------------------------------------------------------
 */

/* A change of the schema under a prepared plan, or a name that is not prepared as we thought. */
static bool is_stale(const struct err *err, const struct pg_fault *fault)
{
    if (strcmp(err->sqlstate, "26000") == 0 || strcmp(err->sqlstate, "42P05") == 0)
        return true;
    return strcmp(err->sqlstate, "0A000") == 0 && fault->routine &&
           strcmp(fault->routine, "RevalidateCachedQuery") == 0;
}

static struct pg_op *last_of_group(const struct pg_session *conn)
{
    struct list *node = conn->inflight.next;
    while (!container_of(node, struct pg_op, node)->is_group_end)
        node = node->next;
    return container_of(node, struct pg_op, node);
}

static void on_failed(struct pg_session *conn, const struct pg_step *step, const struct pg_fault *fault)
{
    struct err err;
    pg_fault_to_err(fault, &err);
    struct pg_op *op = step->op;
    if (!op) /* the Sync itself failed: a deferred constraint; the last of the group bears it */
        op = last_of_group(conn);
    if (!op->err) {
        op->is_stale = is_stale(&err, fault);
        op->err_stmt_id = step->stmt_id;
    }
    pg_op_fail_as(op, &err);
}

/* The step failed, or was skipped because an earlier one of its group did. */
static void undo_step(struct pg_session *conn, const struct pg_step *step, bool is_skipped)
{
    uint32_t *prepared = &conn->prepared[step->slot];
    if (is_skipped && step->op)
        step->op->is_aborted = true;
    if (!is_skipped && (step->kind == PG_STEP_BEGIN || step->kind == PG_STEP_OWN))
        conn->is_tainted = true; /* what we count on in this session is not there */
    /* What a skipped Close leaves on the server, nothing of ours names again. */
    if (step->kind == PG_STEP_PREPARE && *prepared == step->stmt_id)
        *prepared = 0;
}

static void on_error(struct pg_session *conn, struct slice body)
{
    struct pg_fault fault;
    if (!pg_proto_fault(body, &fault)) {
        out_of_step(conn, 'E');
        return;
    }
    if (pg_fault_ends_session(&fault) || conn->steps_len == 0) {
        pg_session_doom(conn, ERR_UNAVAILABLE, "%s", fault.message ? fault.message : "the server ended the session");
        return;
    }
    on_failed(conn, pg_step_first(conn), &fault);
    for (bool is_skipped = false; pg_step_first(conn)->kind != PG_STEP_SYNC; is_skipped = true) {
        undo_step(conn, pg_step_first(conn), is_skipped);
        end_step(conn);
        if (conn->steps_len == 0) { /* the group's Sync was not even sent */
            pg_session_doom(conn, ERR_UNAVAILABLE, "an error outside of a Sync group");
            return;
        }
    }
}

/* ---- messages
 * -------------------------------------------------------------------------------------------------------- */

static void on_ready(struct pg_session *conn, struct slice body)
{
    if (conn->steps_len == 0 || pg_step_first(conn)->kind != PG_STEP_SYNC || body.len != 1) {
        out_of_step(conn, 'Z');
        return;
    }
    pg_step_pop(conn);
    conn->tx_status = body.ptr[0];
    struct pg_op *op = container_of(conn->inflight.next, struct pg_op, node);
    if (op->commits_at_sync && conn->tx_status != PG_TX_IDLE)
        pg_op_fail(op, ERR_PG, "the transaction was rolled back, not committed");
    pg_settle_group(conn);
}

/* What each step may be answered with, besides an error. */
static bool is_expected(const struct pg_step *step, char type)
{
    static const char *const types[] = {
        [PG_STEP_OWN] = "1",        [PG_STEP_BEGIN] = "12CI",   [PG_STEP_SET] = "12CI",
        [PG_STEP_CLOSE] = "3",      [PG_STEP_PREPARE] = "1tTn", [PG_STEP_STATEMENT] = "12TnDCI",
        [PG_STEP_CONTROL] = "12CI", [PG_STEP_COMMIT] = "12CI",  [PG_STEP_SYNC] = ""};
    return type && strchr(types[step->kind], type);
}

static void on_answer(struct pg_session *conn, const struct pg_msg *msg)
{
    struct pg_step step = {0};
    if (conn->steps_len)
        step = *pg_step_first(conn);
    if (conn->steps_len && (msg->type == 'G' || msg->type == 'H' || msg->type == 'W'))
        on_surprise(conn, &step, "COPY");
    else if (!conn->steps_len || !is_expected(&step, msg->type))
        out_of_step(conn, msg->type);
    else if (msg->type == 'D')
        on_row(conn, &step, msg->body);
    else if (msg->type == 'T' || msg->type == 'n')
        on_columns(conn, &step, msg);
    else if (msg->type == 'C' || msg->type == 'I')
        on_complete(conn, &step, msg);
    else if (step.kind == PG_STEP_OWN || step.kind == PG_STEP_CLOSE)
        end_step(conn);
}

static void on_notice(struct slice body)
{
    struct pg_fault fault;
    if (pg_proto_fault(body, &fault) && fault.message)
        log_debug("PostgreSQL notice", LOG_S("text", fault.message));
}

static void on_notification(struct pg_session *conn, struct slice body)
{
    int32_t pid;
    const char *channel, *payload;
    if (pg_proto_int32(&body, &pid) && pg_proto_text(&body, &channel) && pg_proto_text(&body, &payload))
        pg_listen_on_notify(conn->pg, channel, payload);
    else
        out_of_step(conn, 'A');
}

static void on_message(struct pg_session *conn, const struct pg_msg *msg)
{
    switch (msg->type) {
    case 'E':
        on_error(conn, msg->body);
        return;
    case 'Z':
        on_ready(conn, msg->body);
        return;
    case 'A':
        on_notification(conn, msg->body);
        return;
    case 'N':
        on_notice(msg->body);
        return;
    case 'S': /* a setting changed */
        return;
    default:
        on_answer(conn, msg);
    }
}

/* A message that has begun is longer than anything we would keep: a row, or a notice, is skipped. */
static void skip_huge(struct pg_session *conn, char type, size_t len)
{
    if (type == 'D' && conn->steps_len && is_expected(pg_step_first(conn), 'D')) {
        if (!conn->is_dropping)
            drop_result(conn, pg_step_first(conn));
    } else if (type != 'N') {
        out_of_step(conn, type);
        return;
    }
    conn->n_skip = len - conn->in_bytes.len;
    buf_clear(&conn->in_bytes);
}

static void skip(struct pg_session *conn)
{
    size_t n = conn->n_skip < conn->in_bytes.len ? conn->n_skip : conn->in_bytes.len;
    conn->n_skip -= n;
    buf_consume(&conn->in_bytes, n);
}

/* All messages that have arrived whole. */
static void read_messages(struct pg_session *conn)
{
    struct pg_msg msg;
    size_t at = 0, len = 0;
    enum status rc = OK;
    skip(conn);
    while (!conn->is_doomed) {
        struct slice rest = slice_of(conn->in_bytes.ptr + at, conn->in_bytes.len - at);
        rc = pg_proto_next(rest, &msg, &len);
        if (rc != OK)
            break;
        at += len;
        on_message(conn, &msg);
    }
    buf_consume(&conn->in_bytes, at);
    if (rc == ERR)
        out_of_step(conn, msg.type);
    else if (rc == AGAIN && len > conn->pg->max_result_bytes + MSG_SLACK)
        skip_huge(conn, msg.type, len);
}

void pg_answer_read(struct pg_session *conn)
{
    enum status rc;
    size_t n_read = 0;
    do {
        size_t before = conn->in_bytes.len;
        rc = pg_io_read(conn);
        n_read += conn->in_bytes.len - before;
        conn->heard_ms = loop_now(conn->pg->loop);
        read_messages(conn);
    } while (rc == OK && !conn->is_doomed && (n_read < READ_TURN || tls_session_has_pending(conn->ssl)));
    if (rc == ERR) /* unless a message said why */
        pg_session_doom(conn, ERR_UNAVAILABLE, "server closed the connection unexpectedly");
}
