/* Commands that wait inside Redis (BLPOP and its kind, XREAD BLOCK): each has a connection to itself while it waits,
 * out of a few that are opened as needed and closed when they have been idle. Over that number they queue.
 *
 * The timeout that Redis gets ends a little before the caller's deadline: an item popped for a caller that has gone
 * would be lost. It is also cut into slices and sent again, so that a server which went away without a word is noticed.
 * A caller that goes while Redis waits takes the connection with it; there is no other way to stop the wait. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "data/redis_guard.h"
#include "data/redis_priv.h"

#define SLOT_MAGIC 0x4ed15030u
#define MAX_QUEUED 1000
#define SLICE_MS 20000
#define MARGIN_MS 50    /* before the deadline */
#define SILENCE_MS 5000 /* after the timeout: the server is gone */
#define IDLE_CLOSE_MS 30000

struct slot {
    unsigned magic;
    struct list node, idle_node; /* block->slots; block->idle */
    struct redis *redis;
    struct redis_link link;
    struct redis_op *op; /* NULL: idle, or nobody waits for what it does */
    bool was_sent;
    struct timer timer; /* waiting: silence; idle: close */
};

/* What one blocking command needs while it waits. */
struct redis_wait {
    struct list node; /* block->queue */
    struct redis_op *op;
    struct slot *slot;
    struct arena arena;
    struct slice *argv;
    size_t argc;
    struct redis_blocking how;
    uint64_t until_ms;    /* by the command's own timeout; 0: for ever */
    uint64_t deadline_ms; /* the caller's; 0: none */
    bool is_cut;          /* the timeout sent was a slice, or the deadline's */
};

static void slot_take_next(struct slot *slot);
static void start_waiting(struct redis *redis);

/* ---- timeouts ------------------------------------------------------------------------------------------------- */

/* Redis' own reading: seconds may have a fraction. False: Redis is to refuse it. */
static bool read_timeout(const struct redis_wait *wait, uint64_t *out_ms)
{
    char text[40], *end;
    struct slice s = wait->argv[wait->how.timeout];
    if (wait->how.timeout == 0 || s.len == 0 || s.len >= sizeof text)
        return false;
    memcpy(text, s.ptr, s.len);
    text[s.len] = '\0';
    double number = strtod(text, &end);
    if (*end != '\0' || !isfinite(number) || number < 0 || number > 1e12)
        return false;
    *out_ms = (uint64_t)ceil(wait->how.in_ms ? number : number * 1000);
    return true;
}

static uint64_t remaining(uint64_t due_ms, uint64_t now, uint64_t margin)
{
    return due_ms > now + margin ? due_ms - now - margin : 1;
}

/* The timeout to send now; 0: for ever. Sets is_cut. */
static uint64_t next_timeout(struct redis_wait *wait, uint64_t now)
{
    uint64_t ms = wait->until_ms > 0 ? remaining(wait->until_ms, now, 0) : 0;
    wait->is_cut = false;
    if (wait->deadline_ms > 0) {
        uint64_t left = remaining(wait->deadline_ms, now, 0);
        left = remaining(wait->deadline_ms, now, left / 4 < MARGIN_MS ? left / 4 : MARGIN_MS);
        wait->is_cut = ms == 0 || left < ms;
        ms = wait->is_cut ? left : ms;
    }
    if (wait->how.resumes && (ms == 0 || ms > SLICE_MS)) {
        wait->is_cut = true;
        ms = SLICE_MS;
    }
    return ms;
}

/* ---- a connection --------------------------------------------------------------------------------------------- */

static void close_slot(struct slot *slot, const char *why)
{
    struct err err = {0};
    err_set(&err, ERR_UNAVAILABLE, "redis: %s", why);
    redis_link_close(&slot->link, &err);
}

static void on_slot_timer(struct timer *timer)
{
    struct slot *slot = container_of(timer, struct slot, timer);
    CHECK_OBJ(slot, SLOT_MAGIC);
    close_slot(slot, slot->op ? "no reply after the command's timeout" : "idle");
}

static void send_command(struct slot *slot)
{
    struct redis_wait *wait = slot->op->wait;
    struct redis *redis = slot->redis;
    uint64_t now = loop_now(redis->loop), ms = 0, asked;
    char text[40];
    bool is_valid = read_timeout(wait, &asked);
    if (is_valid) {
        ms = next_timeout(wait, now);
        if (wait->how.in_ms)
            snprintf(text, sizeof text, "%" PRIu64, ms);
        else
            snprintf(text, sizeof text, "%" PRIu64 ".%03u", ms / 1000, (unsigned)(ms % 1000));
    }
    struct slice own = wait->argv[wait->how.timeout];
    if (is_valid)
        wait->argv[wait->how.timeout] = slice_str(text);
    slot->was_sent = true;
    redis_link_command(&slot->link, wait->argv, wait->argc);
    wait->argv[wait->how.timeout] = own;
    if (is_valid && ms > 0)
        timer_arm(redis->loop, &slot->timer, now + ms + SILENCE_MS, on_slot_timer);
}

/* Takes op off its wait; it is in no list then. */
static void wait_free(struct redis_op *op)
{
    struct redis_wait *wait = op->wait;
    arena_destroy(&wait->arena);
    op->wait = NULL;
    free(wait);
}

static void slot_finish(struct slot *slot, const struct redis_value *value, const struct err *err)
{
    struct redis_op *op = slot->op;
    slot->op = NULL;
    wait_free(op);
    redis_op_complete(op, value, err);
}

static void on_up(struct redis_link *link)
{
    struct slot *slot = container_of(link, struct slot, link);
    CHECK_OBJ(slot, SLOT_MAGIC);
    if (slot->op)
        send_command(slot);
    else
        slot_take_next(slot);
}

static void on_reply(struct redis_link *link, const struct redis_value *value)
{
    struct slot *slot = container_of(link, struct slot, link);
    CHECK_OBJ(slot, SLOT_MAGIC);
    struct redis_wait *wait = slot->op && slot->was_sent ? slot->op->wait : NULL;
    struct err err = {0};
    bool failover = false;
    if (!wait) {
        close_slot(slot, "sent a reply that nothing asked for");
        return;
    }
    timer_stop(slot->redis->loop, &slot->timer);
    if (value->type == REDIS_NIL && wait->is_cut) {
        uint64_t now = loop_now(slot->redis->loop);
        if (wait->deadline_ms == 0 || wait->deadline_ms > now + MARGIN_MS) {
            send_command(slot);
            return;
        }
        list_push(&slot->redis->block.queue, &wait->node); /* its deadline will find it there */
        slot->redis->block.n_queued++;
        wait->slot = NULL;
        slot->op = NULL;
    } else if (value->type == REDIS_ERROR) {
        redis_read_error(value->str, &err, &failover);
        slot_finish(slot, NULL, &err);
    } else {
        slot_finish(slot, value, NULL);
    }
    if (failover)
        close_slot(slot, "the server is no longer the primary");
    else
        slot_take_next(slot);
}

static void on_down(struct redis_link *link, const struct err *err)
{
    struct slot *slot = container_of(link, struct slot, link);
    CHECK_OBJ(slot, SLOT_MAGIC);
    struct redis *redis = slot->redis;
    struct err said = *err;
    timer_stop(redis->loop, &slot->timer);
    list_remove(&slot->idle_node);
    if (slot->op) {
        if (slot->was_sent && !slot->op->reads)
            err_set(&said, ERR_OUTCOME_UNKNOWN, "%s; what it was waiting for may have been taken", err->message);
        slot_finish(slot, NULL, &said);
    }
    list_remove(&slot->node);
    redis->block.n_slots--;
    slot->magic = 0;
    loop_reclaim(redis->loop, slot);
    if (redis->freeing)
        redis_part_closed(redis);
    else
        start_waiting(redis);
}

static const struct redis_link_events link_events = {on_up, on_reply, on_down};

static void slot_new(struct redis *redis, struct redis_wait *wait, struct redis_op *op)
{
    struct slot *slot = xalloc(sizeof *slot);
    *slot = (struct slot){.magic = SLOT_MAGIC, .redis = redis, .op = op};
    wait->slot = slot;
    list_push(&redis->block.slots, &slot->node);
    redis->block.n_slots++;
    redis_link_create(&slot->link, &redis->target, &link_events);
    redis_link_start(&slot->link);
}

/* ---- the queue ------------------------------------------------------------------------------------------------ */

static struct redis_op *op_of_wait(struct list *node)
{
    return container_of(node, struct redis_wait, node)->op;
}

/* The oldest in the queue that still has time to wait; NULL: none. */
static struct redis_op *pop_queue(struct redis *redis)
{
    uint64_t now = loop_now(redis->loop);
    list_each (node, &redis->block.queue) {
        struct redis_op *op = op_of_wait(node);
        if (op->wait->deadline_ms > 0 && op->wait->deadline_ms <= now + MARGIN_MS)
            continue;
        list_remove(node);
        redis->block.n_queued--;
        return op;
    }
    return NULL;
}

/* An open connection has nothing to do: the next in the queue, or idleness. */
static void slot_take_next(struct slot *slot)
{
    struct redis *redis = slot->redis;
    struct redis_op *op = slot->op || !redis_link_is_up(&slot->link) ? NULL : pop_queue(redis);
    slot->was_sent = false;
    if (op) {
        slot->op = op;
        op->wait->slot = slot;
        send_command(slot);
    } else if (redis_link_is_up(&slot->link)) {
        list_remove(&slot->idle_node);
        list_push(&redis->block.idle, &slot->idle_node);
        timer_arm(redis->loop, &slot->timer, loop_now(redis->loop) + IDLE_CLOSE_MS, on_slot_timer);
    }
}

/* A place has become free. */
static void start_waiting(struct redis *redis)
{
    if (redis->block.n_slots >= redis->max_blocking)
        return;
    struct redis_op *op = pop_queue(redis);
    if (op)
        slot_new(redis, op->wait, op);
}

static struct redis_wait *wait_new(struct redis_op *op, const struct redis_call *call)
{
    struct redis_wait *wait = xalloc(sizeof *wait);
    uint64_t asked = 0;
    wait->op = op;
    arena_create(&wait->arena);
    wait->how = redis_guard_blocking(call->argv, call->argc);
    wait->argc = call->argc;
    wait->argv = arena_alloc(&wait->arena, call->argc * sizeof *wait->argv);
    for (size_t i = 0; i < call->argc; i++)
        wait->argv[i] = arena_copy(&wait->arena, call->argv[i]);
    wait->deadline_ms = call->deadline_ms;
    if (read_timeout(wait, &asked) && asked > 0)
        wait->until_ms = loop_now(op->redis->loop) + asked;
    return wait;
}

static struct slot *pop_idle(struct redis *redis)
{
    for (struct list *node; (node = list_pop(&redis->block.idle)) != NULL;) {
        struct slot *slot = container_of(node, struct slot, idle_node);
        CHECK_OBJ(slot, SLOT_MAGIC);
        if (redis_link_is_up(&slot->link)) { /* else its on_down is to come */
            timer_stop(redis->loop, &slot->timer);
            return slot;
        }
    }
    return NULL;
}

struct redis_op *redis_block_run(struct redis_op *op, const struct redis_call *call)
{
    struct redis *redis = op->redis;
    struct redis_block *block = &redis->block;
    if (redis->freeing)
        return redis_op_fail(op, ERR_CANCELLED, "redis: shutting down");
    if (call->deadline_ms != 0 && call->deadline_ms <= loop_now(redis->loop))
        return redis_op_fail(op, ERR_DEADLINE, "redis: the deadline had passed before the command was sent");
    if (block->n_queued >= MAX_QUEUED)
        return redis_op_fail(op, ERR_QUEUE_FULL, "redis: too many commands wait for a connection to block on");
    op->place = REDIS_BLOCKING;
    op->wait = wait_new(op, call);
    op->reads = op->wait->how.reads;
    redis_op_arm(op, call->deadline_ms);
    struct slot *slot = pop_idle(redis);
    if (slot) {
        slot->op = op;
        op->wait->slot = slot;
        send_command(slot);
    } else if (block->n_slots < redis->max_blocking) {
        slot_new(redis, op->wait, op);
    } else {
        list_push(&block->queue, &op->wait->node);
        block->n_queued++;
    }
    return op;
}

bool redis_block_was_sent(const struct redis_op *op)
{
    const struct slot *slot = op->wait->slot;
    return slot && slot->was_sent;
}

void redis_block_forget(struct redis_op *op)
{
    struct redis_wait *wait = op->wait;
    struct slot *slot = wait->slot;
    if (slot) {
        slot->op = NULL;
        if (slot->was_sent)
            close_slot(slot, "its command was cancelled");
    } else {
        list_remove(&wait->node);
        op->redis->block.n_queued--;
    }
    wait_free(op);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

void redis_block_start(struct redis *redis)
{
    list_init(&redis->block.slots);
    list_init(&redis->block.idle);
    list_init(&redis->block.queue);
}

void redis_block_stop(struct redis *redis)
{
    struct err err = {0};
    err_set(&err, ERR_CANCELLED, "redis: shutting down");
    while (!list_is_empty(&redis->block.queue)) {
        struct redis_op *op = op_of_wait(list_pop(&redis->block.queue));
        wait_free(op);
        redis_op_complete(op, NULL, &err);
    }
    list_each (node, &redis->block.slots) {
        struct slot *slot = container_of(node, struct slot, node);
        redis->n_open++;
        timer_stop(redis->loop, &slot->timer);
        if (slot->op)
            slot_finish(slot, NULL, &err);
        redis_link_close(&slot->link, &err);
    }
}

void redis_block_moved(struct redis *redis, const struct redis_host *at)
{
    list_each (node, &redis->block.slots) {
        struct slot *slot = container_of(node, struct slot, node);
        const struct redis_host *own = &slot->link.at;
        if (redis_link_is_up(&slot->link) && (own->port != at->port || strcmp(own->host, at->host) != 0))
            close_slot(slot, "the primary has moved");
    }
}
