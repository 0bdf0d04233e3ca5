/* The pipeline of one connection: what is sent. Every command is a step in a ring, and the answers come back in that
 * order, so the head of the ring always says what the next one is about (pg_answer.c).
 *
 * libpq makes the connection (names, TLS, passwords); from then on its socket is ours, and the messages are our own:
 * libpq 15 asks for the description of the columns with every execution, copies each result twice and allocates for
 * each row. A statement that is prepared here was described once. Each message is appended to `out`, and the turn's
 * end writes them all with one call per connection. Sending happens only in the turn hook, reading only in io: never
 * one inside the other. */
#include <stdio.h>
#include <stdlib.h>

#include "data/pg_priv.h"

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

struct pg_step *pg_step_first(const struct pg_session *conn)
{
    return &conn->steps[conn->steps_head];
}

void pg_step_pop(struct pg_session *conn)
{
    conn->steps_head = (conn->steps_head + 1) & (conn->steps_cap - 1);
    conn->steps_len--;
}

/* ---- sending --------------------------------------------------------------------------------------------- */

/* Of a statement that gives no rows. */
static void send_text(struct pg_session *conn, struct pg_op *op, enum pg_step_kind kind, const char *text)
{
    pg_proto_parse(&conn->out_bytes, "", text);
    pg_proto_bind(&conn->out_bytes, "", NULL, 0);
    pg_proto_execute(&conn->out_bytes);
    step_push(conn, (struct pg_step){.op = op, .kind = (uint8_t)kind});
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
static void send_own_prepares(struct pg_session *conn, struct pg_op *op)
{
    for (size_t i = 0; i < ARRAY_LEN(owns); i++) {
        pg_proto_parse(&conn->out_bytes, owns[i].name, owns[i].text);
        step_push(conn, (struct pg_step){.op = op, .kind = PG_STEP_OWN});
    }
    conn->has_own_prepared = true;
}

static void send_own(struct pg_session *conn, struct pg_op *op, enum pg_step_kind kind, enum own own)
{
    if (!conn->has_own_prepared) {
        send_text(conn, op, kind, owns[own].text);
        return;
    }
    pg_proto_bind(&conn->out_bytes, owns[own].name, NULL, 0);
    pg_proto_execute(&conn->out_bytes);
    step_push(conn, (struct pg_step){.op = op, .kind = (uint8_t)kind});
}

static void send_plain_begin(struct pg_session *conn, struct pg_op *op)
{
    if (!conn->has_own_prepared)
        send_own_prepares(conn, op);
    send_own(conn, op, PG_STEP_BEGIN, OWN_BEGIN);
}

static void send_begin(struct pg_session *conn, struct pg_op *op)
{
    static const char *const levels[] = {[PG_READ_COMMITTED] = "READ COMMITTED",
                                         [PG_REPEATABLE_READ] = "REPEATABLE READ",
                                         [PG_SERIALIZABLE] = "SERIALIZABLE"};
    const struct pg_tx_opts *opts = &op->tx->opts;
    char text[80];
    snprintf(text, sizeof(text), "BEGIN ISOLATION LEVEL %s READ %s", levels[opts->isolation],
             opts->read_only ? "ONLY" : "WRITE");
    if (is_plain_tx(op))
        send_plain_begin(conn, op);
    else
        send_text(conn, op, PG_STEP_BEGIN, text);
    op->tx->is_begun = true;
    if (!opts->lock_timeout_ms)
        return;
    snprintf(text, sizeof(text), "SET LOCAL lock_timeout = %u", opts->lock_timeout_ms);
    send_text(conn, op, PG_STEP_SET, text);
}

/* Makes sure the server has the text under its id: at most a Close of the slot's old text and a Parse, both in the
 * batch of the first Execute. */
static void send_prepare(struct pg_session *conn, struct pg_op *op, const struct pg_stmt *stmt)
{
    uint32_t old_id = conn->prepared[stmt->slot];
    if (old_id == stmt->id)
        return;
    if (old_id) {
        char name[16];
        snprintf(name, sizeof(name), "s%u", old_id);
        pg_proto_close_statement(&conn->out_bytes, name);
        step_push(conn, (struct pg_step){.op = op, .kind = PG_STEP_CLOSE, .slot = stmt->slot, .stmt_id = old_id});
    }
    pg_proto_parse(&conn->out_bytes, stmt->name, stmt->sql.ptr);
    pg_proto_describe(&conn->out_bytes, PG_STATEMENT, stmt->name);
    step_push(conn, (struct pg_step){.op = op, .kind = PG_STEP_PREPARE, .slot = stmt->slot, .stmt_id = stmt->id});
    conn->prepared[stmt->slot] = stmt->id;
}

/* A text seen once is not worth a plan on every connection, nor the eviction of one that is used often. Only what is
 * planned keeps its columns, or says so when it cannot: FETCH's are its cursor's. */
static bool is_worth_preparing(const struct pg_op *op, const struct pg_stmt *stmt)
{
    return !op->pg->is_unnamed && !op->is_unnamed && stmt->slot != PG_STMT_NO_SLOT && stmt->n_uses > 1 &&
           stmt->text.class <= PG_CLASS_WRITE;
}

static void send_cmd(struct pg_session *conn, struct pg_op *op, int index)
{
    const struct pg_cmd *cmd = &op->cmds[index];
    const struct pg_stmt *stmt = cmd->stmt;
    struct pg_step step = {.op = op, .kind = PG_STEP_STATEMENT, .cmd = (uint16_t)index, .stmt_id = stmt->id};
    step.slot = is_worth_preparing(op, stmt) ? stmt->slot : PG_STMT_NO_SLOT;
    if (step.slot != PG_STMT_NO_SLOT) {
        send_prepare(conn, op, stmt);
        pg_proto_bind(&conn->out_bytes, stmt->name, cmd->values, cmd->n_values);
    } else {
        pg_proto_parse(&conn->out_bytes, "", stmt->sql.ptr);
        pg_proto_bind(&conn->out_bytes, "", cmd->values, cmd->n_values);
        pg_proto_describe(&conn->out_bytes, PG_PORTAL, "");
    }
    pg_proto_execute(&conn->out_bytes);
    conn->is_tainted |= stmt->text.is_tainting;
    step_push(conn, step);
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

/* For the rest of the Sync group, which is one transaction: an exclusive session may write by itself. */
#define READ_ONLY "SET LOCAL transaction_read_only = on"

void pg_wire_send(struct pg_session *conn, struct pg_op *op)
{
    if (conn->steps_len == 0)
        conn->heard_ms = loop_now(conn->pg->loop);
    op->commits_at_sync = is_one_group(op);
    if (op->tx && !op->tx->is_begun && !op->commits_at_sync)
        send_begin(conn, op);
    if (op->must_read && conn->lane == PG_LANE_EXCLUSIVE)
        send_text(conn, op, PG_STEP_SET, READ_ONLY);
    for (int i = 0; i < op->n_cmds; i++)
        send_cmd(conn, op, i);
    if (op->control[0])
        send_text(conn, op, PG_STEP_CONTROL, op->control);
    if (op->is_commit && !op->commits_at_sync)
        send_own(conn, op, PG_STEP_COMMIT, OWN_COMMIT);
    list_remove(&op->node);
    list_push(&conn->inflight, &op->node);
    op->conn = conn;
    op->state = PG_OP_SENT;
    op->n_runs++;
    conn->is_group_open = true;
}

void pg_wire_sync(struct pg_session *conn)
{
    if (!conn->is_group_open)
        return;
    conn->is_group_open = false;
    container_of(conn->inflight.prev, struct pg_op, node)->is_group_end = true;
    pg_proto_sync(&conn->out_bytes);
    step_push(conn, (struct pg_step){.kind = PG_STEP_SYNC});
}
