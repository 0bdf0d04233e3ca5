/* What goes over the shared connection, and what comes back. A command is formatted straight into `out` when it is
 * called; at the end of the loop turn all of them leave in one write (redis_flush), and replies come back in that
 * order. So the lists of redis_priv.h are the whole book-keeping. Nothing here touches the socket.
 *
 * A transaction is one op with one run of bytes, so that nothing gets between its commands, and it is cut out, sent or
 * failed as a whole; the replies before EXEC's are skipped. A script's op that Redis answers with NOSCRIPT goes back to
 * the end of the queue with its text instead of its hash: the same op, so its deadline and its cancel still hold. */
#include <stdlib.h>

#include "data/redis_priv.h"

#define MAX_OUT_BYTES (64u << 20) /* unsent, together with what the kernel has not taken */
#define KEEP_OUT_BYTES (1u << 20) /* a larger buffer is given back after the write */

/* ---- in the queue --------------------------------------------------------------------------------------------- */

enum err_code redis_refuse(const struct redis *redis, size_t n_commands, size_t bytes, bool reads, uint64_t deadline_ms,
                           const char **message)
{
    if (redis->freeing) {
        *message = "redis: shutting down";
        return ERR_CANCELLED;
    }
    if (!redis_conn_may_wait(redis, reads)) {
        const char *why = redis->conn.err.message;
        *message = why[0] ? why : "redis: reconnecting";
        return ERR_UNAVAILABLE;
    }
    if (redis->n_waiting + n_commands > redis->max_waiters ||
        redis->out.len + redis_conn_pending(redis) + bytes > MAX_OUT_BYTES) {
        *message = "redis: too many commands are waiting for replies";
        return ERR_QUEUE_FULL;
    }
    if (deadline_ms != 0 && deadline_ms <= loop_now(redis->loop)) {
        *message = "redis: the deadline had passed before the command was sent";
        return ERR_DEADLINE;
    }
    return ERR_NONE;
}

/* The flush hook does the work; this only makes sure that there is a turn after a call made by a later hook. */
static void on_turn_task(struct loop_task *task)
{
    (void)task;
}

void redis_enqueue(struct redis_op *op, size_t before)
{
    struct redis *redis = op->redis;
    op->len = redis->out.len - before;
    op->place = REDIS_UNSENT;
    list_push(&redis->unsent, &op->node);
    redis->n_waiting++;
    redis->n_unsent++;
    loop_defer(redis->loop, &redis->turn_task, on_turn_task);
}

void redis_ping(struct redis *redis)
{
    struct redis_op *op = redis_op_new(redis, NULL, NULL);
    size_t before = redis->out.len;
    op->reads = true;
    redis_format(&redis->out, (struct slice[]){SLICE("PING")}, 1);
    redis_enqueue(op, before);
}

/* ---- out ------------------------------------------------------------------------------------------------------ */

/* Takes commands out of `unsent` and their bytes out of `out`: the forgotten ones, and, if `why`, the others too but
 * reads if those are kept. */
static void cut_unsent(struct redis *redis, const struct err *why, bool keep_reads)
{
    size_t from = 0, to = 0;
    struct list cut;
    list_init(&cut);
    list_each (node, &redis->unsent) {
        struct redis_op *op = redis_op_of(node);
        if (op->dropped || (why && !(keep_reads && op->reads))) {
            list_remove(&op->node);
            list_push(&cut, &op->node);
            redis->n_waiting--;
            redis->n_unsent--;
        } else {
            memmove(redis->out.ptr + to, redis->out.ptr + from, op->len);
            to += op->len;
        }
        from += op->len;
    }
    redis->out.len = to;
    redis->n_dropped = 0;
    for (struct list *node; (node = list_pop(&cut)) != NULL;) {
        struct redis_op *op = redis_op_of(node);
        if (op->dropped || !op->done)
            redis_op_free(op);
        else
            redis_op_fail(op, why->code, why->message);
    }
}

void redis_fail_unsent(struct redis *redis, const struct err *why, bool keep_reads)
{
    cut_unsent(redis, why, keep_reads);
}

void redis_flush(struct redis *redis)
{
    if (redis->n_dropped > 0)
        cut_unsent(redis, NULL, true);
    if (list_is_empty(&redis->unsent) || !redis_conn_can_send(redis))
        return;
    uint64_t now = loop_now(redis->loop);
    for (struct list *node; (node = list_pop(&redis->unsent)) != NULL;) {
        struct redis_op *op = redis_op_of(node);
        op->place = REDIS_IN_FLIGHT;
        op->sent_ms = now;
        list_push(&redis->in_flight, node);
    }
    redis->n_unsent = 0;
    redis_link_write(&redis->conn.link, buf_as_slice(&redis->out));
    buf_clear(&redis->out);
    if (redis->out.cap > KEEP_OUT_BYTES)
        buf_free(&redis->out);
}

/* ---- in ------------------------------------------------------------------------------------------------------- */

/* Replies that speak of the server, not of the command: the caller may try again later. */
void redis_read_error(struct slice text, struct err *err, bool *failover)
{
    static const struct {
        struct slice prefix;
        bool failover;
    } rows[] = {
        {{"READONLY ", 9}, true},   {{"MASTERDOWN ", 11}, true},   {{"LOADING ", 8}, true},
        {{"UNBLOCKED ", 10}, true}, {{"CLUSTERDOWN ", 12}, false}, {{"TRYAGAIN ", 9}, false},
    };
    *failover = false;
    err_set(err, ERR_REDIS, "%.*s", SLICE_FMT(text));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (slice_has_prefix(text, rows[i].prefix)) {
            err->code = ERR_UNAVAILABLE;
            *failover = rows[i].failover;
        }
    }
}

/* A reply before the one that counts. */
static void skip_reply(struct redis_op *op, const struct redis_value *value)
{
    bool failover, is_multi = op->n_skipped++ == 0;
    op->n_skip--;
    if (value->type != REDIS_ERROR || op->err)
        return;
    op->err = xalloc(sizeof *op->err);
    redis_read_error(value->str, op->err, &failover);
    if (failover)
        redis_conn_saw_failover(op->redis);
    if (is_multi) /* what followed was not queued */
        err_set(op->err, ERR_OUTCOME_UNKNOWN, "MULTI: %.*s; the commands may have run one by one",
                SLICE_FMT(value->str));
}

static void try_again(struct redis_op *op)
{
    struct redis *redis = op->redis;
    size_t before = redis->out.len;
    buf_slice(&redis->out, buf_as_slice(&op->retry));
    buf_free(&op->retry);
    redis_enqueue(op, before);
}

enum status redis_deliver(struct redis *redis, const struct redis_value *value, struct err *err)
{
    if (list_is_empty(&redis->in_flight))
        return err_set(err, ERR_UNAVAILABLE, "redis: sent a reply that nothing asked for");
    struct redis_op *op = redis_op_of(redis->in_flight.next);
    if (op->n_skip > 0) {
        skip_reply(op, value);
        return OK;
    }
    list_remove(&op->node);
    redis->n_waiting--;
    if (op->retry.len > 0 && op->done && value->type == REDIS_ERROR &&
        slice_has_prefix(value->str, SLICE("NOSCRIPT"))) {
        try_again(op);
        return OK;
    }
    if (value->type != REDIS_ERROR && !op->err) {
        redis_op_complete(op, value, NULL);
        return OK;
    }
    struct err said = {0};
    bool failover = false;
    if (op->err) /* EXEC says only that something was wrong */
        said = *op->err;
    else
        redis_read_error(value->str, &said, &failover);
    if (failover)
        redis_conn_saw_failover(redis);
    redis_op_complete(op, NULL, &said);
    return OK;
}

void redis_fail_in_flight(struct redis *redis, const struct err *why)
{
    struct err lost = *why, unknown = {0};
    err_set(&unknown, ERR_OUTCOME_UNKNOWN, "%s; the command may or may not have run", why->message);
    if (why->code != ERR_CANCELLED)
        lost.code = ERR_UNAVAILABLE;
    for (struct list *node; (node = list_pop(&redis->in_flight)) != NULL;) {
        struct redis_op *op = redis_op_of(node);
        redis->n_waiting--;
        redis_op_complete(op, NULL, op->reads || why->code == ERR_CANCELLED ? &lost : &unknown);
    }
}

uint64_t redis_oldest_ms(const struct redis *redis)
{
    return list_is_empty(&redis->in_flight) ? 0 : redis_op_of(redis->in_flight.next)->sent_ms;
}
