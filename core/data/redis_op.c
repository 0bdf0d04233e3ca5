/* A command and its completion, whichever connection it goes to. What must hold: `done` is called exactly once, or
 * never after redis_op_cancel, and never from inside the call that made the command. One in flight whose caller has
 * gone (deadline, cancel) keeps its place and swallows its reply; one that was not yet written is cut out of `out`
 * instead, so it has no effect. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "data/redis_priv.h"

#ifdef __SANITIZE_ADDRESS__
static const bool is_pooled = false;
#else
static const bool is_pooled = true;
#endif

struct redis_op *redis_op_of(struct list *node)
{
    struct redis_op *op = container_of(node, struct redis_op, node);
    CHECK_OBJ(op, REDIS_OP_MAGIC);
    return op;
}

struct redis_op *redis_op_new(struct redis *redis, redis_done_fn done, void *data)
{
    struct list *node = list_pop(&redis->free_ops);
    struct redis_op *op = node ? container_of(node, struct redis_op, node) : xalloc(sizeof *op);
    *op = (struct redis_op){
        .magic = REDIS_OP_MAGIC, .redis = redis, .done = done, .data = data, .started_us = clock_us()};
    return op;
}

void redis_op_free(struct redis_op *op)
{
    struct redis *redis = op->redis;
    CHECK_OBJ(op, REDIS_OP_MAGIC);
    free(op->err);
    buf_free(&op->retry);
    op->magic = 0;
    if (is_pooled && !redis->freeing)
        list_push_front(&redis->free_ops, &op->node);
    else
        free(op);
}

static void tell(struct redis *redis, redis_done_fn done, void *data, const struct redis_value *value,
                 const struct err *err)
{
    bool outer = redis->delivering;
    redis->delivering = true;
    done(data, value, err);
    redis->delivering = outer;
}

void redis_op_complete(struct redis_op *op, const struct redis_value *value, const struct err *err)
{
    struct redis *redis = op->redis;
    timer_stop(redis->loop, &op->deadline);
    op->place = REDIS_DONE;
    metrics_add(METRIC_REDIS_COMMANDS, 1);
    metrics_observe(METRIC_HISTOGRAM_REDIS_COMMAND, clock_us() - op->started_us);
    if (err || (value && value->type == REDIS_ERROR))
        metrics_add(METRIC_REDIS_ERRORS, 1);
    if (op->done)
        tell(redis, op->done, op->data, value, err);
    redis_op_free(op);
}

/* ---- failing later in the turn -------------------------------------------------------------------------------- */

static void on_finished_task(struct loop_task *task)
{
    struct redis *redis = container_of(task, struct redis, finished_task);
    CHECK_OBJ(redis, REDIS_MAGIC);
    /* Only those that are there now: a completion that calls again at once must not hold the loop. */
    size_t n = 0;
    list_each (node, &redis->finished)
        n++;
    for (struct list *node; n > 0 && (node = list_pop(&redis->finished)) != NULL; n--)
        redis_op_complete(redis_op_of(node), NULL, redis_op_of(node)->err);
    if (!list_is_empty(&redis->finished))
        loop_defer(redis->loop, &redis->finished_task, on_finished_task);
}

void redis_finish_all(struct redis *redis)
{
    while (!list_is_empty(&redis->finished)) {
        struct redis_op *op = redis_op_of(list_pop(&redis->finished));
        redis_op_complete(op, NULL, op->err);
    }
}

struct redis_op *redis_op_fail(struct redis_op *op, enum err_code code, const char *message)
{
    op->err = xalloc(sizeof *op->err);
    err_set(op->err, code, "%s", message);
    op->place = REDIS_FINISHED;
    list_push(&op->redis->finished, &op->node);
    loop_defer(op->redis->loop, &op->redis->finished_task, on_finished_task);
    return op;
}

/* ---- being forgotten ------------------------------------------------------------------------------------------ */

/* Nobody waits for it any more. */
static void op_forget(struct redis_op *op)
{
    struct redis *redis = op->redis;
    timer_stop(redis->loop, &op->deadline);
    op->done = NULL;
    switch (op->place) {
    case REDIS_UNSENT:
        redis->n_dropped += !op->dropped;
        op->dropped = true;
        break;
    case REDIS_IN_FLIGHT: /* keeps its place: its reply is still to come */
        break;
    case REDIS_FINISHED:
        list_remove(&op->node);
        redis_op_free(op);
        break;
    case REDIS_BLOCKING:
        redis_block_forget(op);
        redis_op_free(op);
        break;
    case REDIS_DONE: /* its own completion cancels it: that is over already */
        break;
    }
}

bool redis_op_may_write(const struct redis_op *op)
{
    CHECK_OBJ(op, REDIS_OP_MAGIC);
    return !op->reads && op->place == REDIS_UNSENT;
}

bool redis_op_is_timed(const struct redis_op *op)
{
    CHECK_OBJ(op, REDIS_OP_MAGIC);
    return timer_is_armed(&op->deadline);
}

enum err_code redis_op_outcome(const struct redis_op *op)
{
    CHECK_OBJ(op, REDIS_OP_MAGIC);
    bool was_sent = op->place == REDIS_IN_FLIGHT || (op->place == REDIS_BLOCKING && redis_block_was_sent(op));
    return was_sent && !op->reads ? ERR_OUTCOME_UNKNOWN : ERR_NONE;
}

void redis_op_cancel(struct redis_op *op)
{
    CHECK_OBJ(op, REDIS_OP_MAGIC);
    op_forget(op);
}

static void on_deadline(struct timer *timer)
{
    struct redis_op *op = container_of(timer, struct redis_op, deadline);
    CHECK_OBJ(op, REDIS_OP_MAGIC);
    struct redis *redis = op->redis;
    redis_done_fn done = op->done;
    void *data = op->data;
    struct err err = {0};
    enum err_code unknown = redis_op_outcome(op);
    err_set(&err, unknown ? unknown : ERR_DEADLINE, "redis: no reply within the deadline%s",
            unknown ? "; the command may or may not have run" : "");
    op_forget(op);
    tell(redis, done, data, NULL, &err);
}

void redis_op_arm(struct redis_op *op, uint64_t deadline_ms)
{
    if (deadline_ms > 0)
        timer_arm(op->redis->loop, &op->deadline, deadline_ms, on_deadline);
}
