/* The public calls, the turn hook and the janitor: where pg meets the loop.
 *
 * Deadlines are watched by one janitor for all calls, not by a timer each: nearly every call is answered within
 * a few turns, and the heap work of arming and stopping a timer for it would be pure cost. The janitor looks
 * every 20 ms while anything is pending and sleeps otherwise; the request's own deadline, which is exact, stands
 * above it. */
#include "data/pg.h"

#include <stdlib.h>

#include "data/pg_priv.h"

/* ---- turn and janitor ------------------------------------------------------------------------------------ */

static void on_kick(struct loop_task *task)
{
    pg_op_run_deferred(container_of(task, struct pg, kick));
}

/* The deferred task delivers what is finished, and keeps the loop from sleeping before the hook has run. */
void pg_mark_dirty(struct pg *pg)
{
    pg->is_dirty = true;
    loop_defer(pg->loop, &pg->kick, on_kick);
}

static void on_turn_end(struct loop_hook *hook)
{
    struct pg *pg = container_of(hook, struct pg, hook);
    if (!pg->is_dirty)
        return;
    pg->is_dirty = false;
    pg_pool_flush(pg);
}

static void on_janitor(struct timer *timer)
{
    struct pg *pg = container_of(timer, struct pg, janitor);
    uint64_t now_ms = loop_now(pg->loop);
    list_each (node, &pg->ops)
        pg_op_expire(container_of(node, struct pg_op, all), now_ms);
    pg_grow_tick(pg, now_ms);
    pg_mark_dirty(pg);
    if (!list_is_empty(&pg->ops) || pg_grow_is_pending(pg))
        pg_arm_janitor(pg);
    else if (pg_grow_can_spare(pg) && !timer_is_armed(&pg->janitor)) {
        pg->is_dozing = true;
        timer_arm(pg->loop, &pg->janitor, now_ms + PG_IDLE_TICK_MS, on_janitor);
    }
}

void pg_arm_janitor(struct pg *pg)
{
    if (pg->is_destroying || (timer_is_armed(&pg->janitor) && !pg->is_dozing))
        return;
    pg->is_dozing = false;
    timer_arm(pg->loop, &pg->janitor, loop_now(pg->loop) + PG_TICK_MS, on_janitor);
}

/* ---- life ------------------------------------------------------------------------------------------------ */

static PQconninfoOption *parse_url(const char *url, struct err *err)
{
    char *why = NULL;
    PQconninfoOption *conninfo = PQconninfoParse(url, &why);
    if (!conninfo)
        err_set(err, ERR_INVALID, "not a PostgreSQL URL: %s", why ? why : "out of memory");
    PQfreemem(why);
    return conninfo;
}

struct pg *pg_new(const struct pg_opts *opts, struct err *err)
{
    PQconninfoOption *conninfo = parse_url(opts->url, err);
    if (!conninfo)
        return NULL;
    /* Sent at start-up as plain parameters; see pg_session.c. */
    setenv("PGDATESTYLE", "ISO, MDY", 1);
    setenv("PGTZ", "UTC", 1);
    struct pg *pg = xalloc(sizeof(*pg));
    pg->magic = PG_MAGIC;
    pg->loop = opts->loop;
    pg->names = opts->names;
    pg->conninfo = conninfo;
    pg->is_read_only = opts->is_read_only;
    pg->is_unnamed = opts->transaction_pooling;
    pg->max_waiters = opts->max_waiters ? opts->max_waiters : 1000;
    pg->max_result_bytes = opts->max_result_bytes ? opts->max_result_bytes : (size_t)64 << 20;
    pg->percent = 100;
    pg->idle_ms = opts->idle_ms ? opts->idle_ms : PG_IDLE_MS;
    list_init(&pg->ops);
    list_init(&pg->finished);
    list_init(&pg->late);
    pg_stmts_create(&pg->stmts);
    pg_listen_create(pg);
    pg_pool_create(pg, opts);
    loop_hook_add(pg->loop, &pg->hook, on_turn_end);
    pg_mark_dirty(pg);
    return pg;
}

void pg_free(struct pg *pg)
{
    if (!pg)
        return;
    CHECK_OBJ(pg, PG_MAGIC);
    pg->is_destroying = true;
    pg_pool_destroy(pg);
    pg_op_run_deferred(pg); /* a caller may answer with a new call: it is finished at once */
    CHECK(list_is_empty(&pg->ops));
    loop_hook_remove(&pg->hook);
    loop_defer_cancel(&pg->kick);
    timer_stop(pg->loop, &pg->janitor);
    pg_listen_destroy(pg);
    pg_stmts_destroy(&pg->stmts);
    pg_cancel_free(pg->cancels);
    PQconninfoFree(pg->conninfo);
    free(pg->sessions);
    pg->magic = 0;
    free(pg);
}

/* ---- calls ------------------------------------------------------------------------------------------------ */

static bool is_allowed(struct pg_op *op)
{
    const struct pg_text *text = &op->cmds[0].stmt->text;
    if (op->pg->is_destroying)
        pg_op_fail(op, ERR_CANCELLED, "the worker is stopping");
    else if (text->class == PG_CLASS_REFUSED || text->class == PG_CLASS_TX)
        pg_op_fail(op, ERR_REFUSED, "this statement may not run here: %s", text->advice);
    else if (text->session_advice && op->pg->is_unnamed)
        pg_op_fail(op, ERR_REFUSED, "this statement may not run through a pooler: %s", text->session_advice);
    else if (op->must_read && text->class != PG_CLASS_READ)
        pg_op_fail(op, ERR_REFUSED, "a replica only reads: write pg.query, pg.exec … without .replica");
    else if (text->n_params != op->cmds[0].n_values)
        pg_op_fail(op, ERR_REFUSED, "the statement has %d parameters ($1 …), %d were given", text->n_params,
                   op->cmds[0].n_values);
    return !op->err;
}

struct pg_op *pg_query(struct pg *pg, const struct pg_call *call)
{
    CHECK_OBJ(pg, PG_MAGIC);
    struct pg_op *op = pg_op_new(pg, call, 1);
    op->deadline_ms = call->deadline_ms ? call->deadline_ms : loop_now(pg->loop) + PG_DEFAULT_DEADLINE_MS;
    op->done = call->done;
    op->data = call->data;
    op->is_core = call->is_core;
    op->must_read = call->must_read || pg->is_read_only;
    pg->n_queries++;
    if (is_allowed(op)) {
        op->lane = (uint8_t)(op->is_core ? PG_LANE_WRITE : pg_pool_lane_of(pg, op->cmds[0].stmt));
        pg_pool_push(pg, op);
    } else {
        pg_op_finish(op);
    }
    return op;
}

bool pg_op_may_write(const struct pg_op *op)
{
    CHECK_OBJ(op, PG_OP_MAGIC);
    return !pg_op_is_read(op);
}

enum err_code pg_op_outcome(const struct pg_op *op)
{
    CHECK_OBJ(op, PG_OP_MAGIC);
    enum err_code known = op->err ? op->err->code : ERR_NONE;
    if (known == ERR_COMMIT_UNKNOWN || known == ERR_OUTCOME_UNKNOWN)
        return known;
    if (op->state != PG_OP_SENT)
        return ERR_NONE;
    if (op->is_commit)
        return ERR_COMMIT_UNKNOWN;
    return op->is_tx || pg_op_is_read(op) ? ERR_NONE : ERR_OUTCOME_UNKNOWN;
}

bool pg_is_up(const struct pg *pg)
{
    return pg->was_up && pg_pool_n_open(pg) > 0;
}

void pg_stats(const struct pg *pg, struct pg_stats *out)
{
    *out = (struct pg_stats){
        .waiting = pg->n_waiting, .queries = pg->n_queries, .errors = pg->n_errors, .reconnects = pg->n_reconnects};
    memcpy(out->waits, pg->waits, sizeof(out->waits));
    for (unsigned i = 0; i < pg->n_sessions; i++) {
        const struct pg_session *conn = &pg->sessions[i];
        bool is_open = pg_session_is_open(conn);
        out->open += is_open;
        out->idle += is_open && conn->n_ops == 0 && conn->state == PG_SESSION_READY;
        out->in_flight += conn->n_ops;
    }
}
