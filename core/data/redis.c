/* Commands of one worker and their completions. A command is formatted straight into `out` when it is called; at the
 * end of the loop turn all of them leave in one write (redis_flush), and replies come back in that order. So the three
 * lists of redis_priv.h are the whole book-keeping.
 *
 * What must hold: `done` is called exactly once, or never after redis_op_cancel, and never from inside
 * redis_command. A command in flight whose caller has gone (deadline, cancel) keeps its place and swallows its reply;
 * one that was not yet written is cut out of `out` instead, so it has no effect. Nothing here touches the socket. */
#include "data/redis_priv.h"

#include <inttypes.h>
#include <stdlib.h>

#include "data/redis_guard.h"

#define DEFAULT_WAITERS 10000
#define DEFAULT_DEADLINE_MS 30000
#define MAX_OUT_BYTES (64u << 20) /* unsent, together with what the kernel has not taken */
#define KEEP_OUT_BYTES (1u << 20) /* a larger buffer is given back after the write */
#define MAX_KEPT_OPS 1024

typedef void (*done_fn)(void *data, const struct redis_value *value, const struct err *err);

enum place { UNSENT, IN_FLIGHT, FINISHED, DONE };

struct redis_op {
    unsigned magic;
    enum place place;
    bool reads;
    bool dropped; /* unsent and forgotten */
    struct list node;
    struct redis *redis;
    struct timer deadline;
    uint64_t sent_ms;
    size_t len;   /* bytes in `out` while unsent */
    done_fn done; /* NULL: nobody waits */
    void *data;
    struct err *err; /* finished: why; owned */
};

#ifdef __SANITIZE_ADDRESS__
static const bool is_pooled = false;
#else
static const bool is_pooled = true;
#endif

static struct redis_op *op_of(struct list *node)
{
    struct redis_op *op = container_of(node, struct redis_op, node);
    CHECK_OBJ(op, REDIS_OP_MAGIC);
    return op;
}

/* ---- one command ---------------------------------------------------------------------------------------------- */

static struct redis_op *op_new(struct redis *redis)
{
    struct list *node = list_pop(&redis->free_ops);
    struct redis_op *op = node ? container_of(node, struct redis_op, node) : xalloc(sizeof *op);
    *op = (struct redis_op){.magic = REDIS_OP_MAGIC, .redis = redis};
    return op;
}

static void op_free(struct redis_op *op)
{
    struct redis *redis = op->redis;
    CHECK_OBJ(op, REDIS_OP_MAGIC);
    free(op->err);
    op->magic = 0;
    if (is_pooled && !redis->freeing)
        list_push_front(&redis->free_ops, &op->node);
    else
        free(op);
}

static void tell(struct redis_op *op, done_fn done, const struct redis_value *value, const struct err *err)
{
    struct redis *redis = op->redis;
    bool outer = redis->delivering;
    redis->delivering = true;
    done(op->data, value, err);
    redis->delivering = outer;
}

/* The end of a command that is in no list any more. Frees it after its completion. */
static void op_complete(struct redis_op *op, const struct redis_value *value, const struct err *err)
{
    struct redis *redis = op->redis;
    timer_stop(redis->loop, &op->deadline);
    op->place = DONE;
    if (op->done)
        tell(op, op->done, value, err);
    op_free(op);
}

static void on_finished_task(struct loop_task *task)
{
    struct redis *redis = container_of(task, struct redis, finished_task);
    CHECK_OBJ(redis, REDIS_MAGIC);
    /* Only those that are there now: a completion that calls again at once must not hold the loop. */
    size_t n = 0;
    list_each (node, &redis->finished)
        n++;
    for (struct list *node; n > 0 && (node = list_pop(&redis->finished)) != NULL; n--)
        op_complete(op_of(node), NULL, op_of(node)->err);
    if (!list_is_empty(&redis->finished))
        loop_defer(redis->loop, &redis->finished_task, on_finished_task);
}

/* Tells the caller later in this turn. Takes err (heap: this is the slow path). */
static struct redis_op *op_finish(struct redis_op *op, struct err *err)
{
    op->err = err;
    op->place = FINISHED;
    list_push(&op->redis->finished, &op->node);
    loop_defer(op->redis->loop, &op->redis->finished_task, on_finished_task);
    return op;
}

/* The caller has gone. */
static void op_forget(struct redis_op *op)
{
    struct redis *redis = op->redis;
    timer_stop(redis->loop, &op->deadline);
    op->done = NULL;
    switch (op->place) {
    case UNSENT:
        redis->n_dropped += !op->dropped;
        op->dropped = true;
        break;
    case IN_FLIGHT: /* keeps its place: its reply is still to come */
        break;
    case FINISHED:
        list_remove(&op->node);
        op_free(op);
        break;
    case DONE: /* its own completion cancels it: that is over already */
        break;
    }
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
    CHECK(op->place == UNSENT || op->place == IN_FLIGHT);
    done_fn done = op->done;
    struct err err = {0};
    err_set(&err, ERR_DEADLINE, "redis: no reply within the deadline");
    op_forget(op);
    tell(op, done, NULL, &err);
}

/* ---- calling -------------------------------------------------------------------------------------------------- */

static char *put_number(char *at, char type, size_t number)
{
    char digits[20];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    *at++ = type;
    while (n > 0)
        *at++ = digits[--n];
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

void redis_format(struct buf *out, const struct slice *argv, size_t argc)
{
    size_t room = 24;
    for (size_t i = 0; i < argc; i++)
        room += argv[i].len + 26;
    char *start = buf_reserve(out, room), *at = put_number(start, '*', argc);
    for (size_t i = 0; i < argc; i++) {
        at = put_number(at, '$', argv[i].len);
        if (argv[i].len > 0)
            memcpy(at, argv[i].ptr, argv[i].len);
        at += argv[i].len;
        *at++ = '\r';
        *at++ = '\n';
    }
    out->len += (size_t)(at - start);
}

static struct err *err_new(enum err_code code, const char *message)
{
    struct err *err = xalloc(sizeof *err);
    err_set(err, code, "%s", message);
    return err;
}

/* Why this command may not even wait in the queue; NULL: it may. Returns owned. */
static struct err *refuse(struct redis *redis, const struct redis_call *call, bool *reads)
{
    const char *advice = NULL;
    enum redis_effect effect = redis_guard(call->argv, call->argc, &advice);
    *reads = effect == REDIS_READS;
    if (effect == REDIS_REFUSED) {
        struct err *err = xalloc(sizeof *err);
        err_set(err, ERR_REFUSED, "redis: %.*s %s", SLICE_FMT(call->argv[0]), advice);
        return err;
    }
    if (redis->freeing)
        return err_new(ERR_CANCELLED, "redis: shutting down");
    if (redis->conn.state != REDIS_READY && redis->conn.failures > 0)
        return err_new(ERR_UNAVAILABLE, redis->conn.err.message);
    size_t bytes = 0;
    for (size_t i = 0; i < call->argc; i++)
        bytes += call->argv[i].len;
    if (redis->n_waiting >= redis->max_waiters || redis->out.len + redis_conn_pending(redis) + bytes > MAX_OUT_BYTES)
        return err_new(ERR_QUEUE_FULL, "redis: too many commands are waiting for replies");
    if (call->deadline_ms != 0 && call->deadline_ms <= loop_now(redis->loop))
        return err_new(ERR_DEADLINE, "redis: the deadline had passed before the command was sent");
    return NULL;
}

/* The flush hook does the work; this only makes sure that there is a turn after a call made by a later hook. */
static void on_turn_task(struct loop_task *task)
{
    (void)task;
}

static void enqueue(struct redis_op *op, const struct slice *argv, size_t argc)
{
    struct redis *redis = op->redis;
    size_t before = redis->out.len;
    redis_format(&redis->out, argv, argc);
    op->len = redis->out.len - before;
    op->place = UNSENT;
    list_push(&redis->unsent, &op->node);
    redis->n_waiting++;
    loop_defer(redis->loop, &redis->turn_task, on_turn_task);
}

struct redis_op *redis_command(struct redis *redis, const struct redis_call *call)
{
    CHECK_OBJ(redis, REDIS_MAGIC);
    CHECK(call->argc > 0 && call->done);
    struct redis_op *op = op_new(redis);
    op->done = call->done;
    op->data = call->data;
    struct err *err = refuse(redis, call, &op->reads);
    if (err)
        return op_finish(op, err);
    uint64_t due = call->deadline_ms ? call->deadline_ms : loop_now(redis->loop) + DEFAULT_DEADLINE_MS;
    timer_arm(redis->loop, &op->deadline, due, on_deadline);
    enqueue(op, call->argv, call->argc);
    return op;
}

void redis_ping(struct redis *redis)
{
    struct redis_op *op = op_new(redis);
    op->reads = true;
    enqueue(op, (struct slice[]){SLICE("PING")}, 1);
}

/* ---- out ------------------------------------------------------------------------------------------------------ */

/* Cuts the bytes of forgotten commands out of `out` and frees them. */
static void cut_dropped(struct redis *redis)
{
    size_t from = 0, to = 0;
    list_each (node, &redis->unsent) {
        struct redis_op *op = op_of(node);
        size_t len = op->len;
        if (op->dropped) {
            list_remove(&op->node);
            redis->n_waiting--;
            op_free(op);
        } else {
            memmove(redis->out.ptr + to, redis->out.ptr + from, len);
            to += len;
        }
        from += len;
    }
    redis->out.len = to;
    redis->n_dropped = 0;
}

void redis_flush(struct redis *redis)
{
    if (redis->n_dropped > 0)
        cut_dropped(redis);
    if (list_is_empty(&redis->unsent) || !redis_conn_can_send(redis))
        return;
    uint64_t now = loop_now(redis->loop);
    for (struct list *node; (node = list_pop(&redis->unsent)) != NULL;) {
        struct redis_op *op = op_of(node);
        op->place = IN_FLIGHT;
        op->sent_ms = now;
        list_push(&redis->in_flight, node);
    }
    /* A stream that breaks here tells on_close, which fails what is in flight. */
    (void)stream_write(&redis->conn.stream, buf_as_slice(&redis->out));
    buf_clear(&redis->out);
    if (redis->out.cap > KEEP_OUT_BYTES)
        buf_free(&redis->out);
}

static void on_flush_hook(struct loop_hook *hook)
{
    struct redis *redis = container_of(hook, struct redis, flush_hook);
    CHECK_OBJ(redis, REDIS_MAGIC);
    redis_flush(redis);
}

/* ---- in ------------------------------------------------------------------------------------------------------- */

/* Replies that speak of the server, not of the command: the caller may try again later. */
static bool is_unavailable(struct slice text, bool *failover)
{
    static const struct {
        struct slice prefix;
        bool failover;
    } rows[] = {
        {{"READONLY ", 9}, true},      {{"MASTERDOWN ", 11}, true}, {{"LOADING ", 8}, false},
        {{"CLUSTERDOWN ", 12}, false}, {{"TRYAGAIN ", 9}, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        *failover = rows[i].failover;
        if (slice_has_prefix(text, rows[i].prefix))
            return true;
    }
    return *failover = false;
}

enum status redis_deliver(struct redis *redis, const struct redis_value *value, struct err *err)
{
    struct list *node = list_pop(&redis->in_flight);
    if (!node)
        return err_set(err, ERR_UNAVAILABLE, "redis: sent a reply that nothing asked for");
    redis->n_waiting--;
    if (value->type != REDIS_ERROR) {
        op_complete(op_of(node), value, NULL);
        return OK;
    }
    struct err said = {0};
    bool failover;
    err_set(&said, is_unavailable(value->str, &failover) ? ERR_UNAVAILABLE : ERR_REDIS, "%.*s", SLICE_FMT(value->str));
    if (failover)
        redis_conn_saw_failover(redis);
    op_complete(op_of(node), NULL, &said);
    return OK;
}

void redis_fail_in_flight(struct redis *redis, const struct err *why)
{
    struct err lost = *why, unknown = {0};
    err_set(&unknown, ERR_OUTCOME_UNKNOWN, "%s; the command may or may not have run", why->message);
    if (why->code != ERR_CANCELLED)
        lost.code = ERR_UNAVAILABLE;
    for (struct list *node; (node = list_pop(&redis->in_flight)) != NULL;) {
        struct redis_op *op = op_of(node);
        redis->n_waiting--;
        op_complete(op, NULL, op->reads || why->code == ERR_CANCELLED ? &lost : &unknown);
    }
}

/* None of them was written, so none has run. */
void redis_fail_unsent(struct redis *redis, const struct err *why)
{
    if (redis->n_dropped > 0)
        cut_dropped(redis);
    buf_clear(&redis->out);
    for (struct list *node; (node = list_pop(&redis->unsent)) != NULL;) {
        redis->n_waiting--;
        op_complete(op_of(node), NULL, why);
    }
}

uint64_t redis_oldest_ms(const struct redis *redis)
{
    return list_is_empty(&redis->in_flight) ? 0 : op_of(redis->in_flight.next)->sent_ms;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

struct redis *redis_new(const struct redis_opts *opts, struct err *err)
{
    struct redis_url url;
    if (redis_url_parse(slice_str(opts->url), &url, err) != OK)
        return NULL;
    struct redis *redis = xalloc(sizeof *redis);
    redis->magic = REDIS_MAGIC;
    redis->loop = opts->loop;
    redis->names = opts->names;
    redis->url = url;
    redis->max_waiters = opts->max_waiters ? opts->max_waiters : DEFAULT_WAITERS;
    redis->connect_ms = opts->connect_ms ? opts->connect_ms : 3000;
    redis->stall_ms = opts->stall_ms ? opts->stall_ms : 10000;
    list_init(&redis->unsent);
    list_init(&redis->in_flight);
    list_init(&redis->finished);
    list_init(&redis->free_ops);
    loop_hook_add(redis->loop, &redis->flush_hook, on_flush_hook);
    redis_conn_start(redis);
    return redis;
}

void redis_free(struct redis *redis)
{
    if (!redis)
        return;
    CHECK_OBJ(redis, REDIS_MAGIC);
    CHECK(!redis->delivering && !redis->freeing);
    redis->freeing = true;
    struct err err = {0};
    err_set(&err, ERR_CANCELLED, "redis: shutting down");
    redis_fail_in_flight(redis, &err);
    redis_fail_unsent(redis, &err);
    while (!list_is_empty(&redis->finished)) {
        struct redis_op *op = op_of(list_pop(&redis->finished));
        op_complete(op, NULL, op->err);
    }
    loop_hook_remove(&redis->flush_hook);
    loop_defer_cancel(&redis->turn_task);
    loop_defer_cancel(&redis->finished_task);
    redis_conn_stop(redis);
}

void redis_destroy(struct redis *redis)
{
    for (struct list *node; (node = list_pop(&redis->free_ops)) != NULL;)
        free(container_of(node, struct redis_op, node));
    buf_free(&redis->out);
    redis->magic = 0;
    loop_reclaim(redis->loop, redis);
}

bool redis_is_up(const struct redis *redis)
{
    return redis->conn.state == REDIS_READY && !redis->conn.renew;
}
