/* LISTEN, on a lane with one connection, opened by the first subscription and closed some time after the last.
 *
 *   subscription → channel (one LISTEN for all its subscriptions) → the lane's connection
 *
 * Whenever that connection is made anew, every channel is listened to again, and each of its subscriptions is told of a
 * gap once the server has confirmed it: from then on nothing is missed, and what was missed before, nobody knows. A
 * dead peer is found by a small statement when nothing was heard for a while; the pool's stall rule does the rest.
 *
 * Events are collected in a list and told by a task of the loop, one subscription after the other, so that whoever is
 * told may free any of them. */
#include "data/pg_listen.h"

#include <stdlib.h>

#include "base/log.h"
#include "data/pg_priv.h"

#define PG_SUB_MAGIC 0x9061a906u

enum {
    DEFAULT_QUEUED = 1000,
    PING_MS = 10000 /* between signs of life; also how long an unused connection is kept, at most twice */
};

struct item {
    struct list node;
    size_t len;
    char bytes[];
};

struct channel {
    struct list node; /* pg->listen.channels */
    struct list subs;
    struct pg *pg;
    struct pg_op *op; /* LISTEN under way */
    bool is_listening;
    char name[PG_CHANNEL_MAX + 1];
};

struct pg_sub {
    unsigned magic;
    struct channel *channel;
    struct list node;  /* channel->subs */
    struct list event; /* pg->listen.events */
    struct list items;
    struct item *taken; /* what the last take lent; owned */
    unsigned n_items, max_items;
    bool is_ready, is_broken, has_gap; /* broken: not listening now, though it is ready */
    void (*on_event)(void *data);
    void *data;
};

/* ---- events ------------------------------------------------------------------------------------------------ */

static void on_events(struct loop_task *task)
{
    struct pg_listen *listen = container_of(task, struct pg_listen, task);
    struct list *node;
    while ((node = list_pop(&listen->events))) {
        struct pg_sub *sub = container_of(node, struct pg_sub, event);
        sub->on_event(sub->data);
    }
}

static void sub_tell(struct pg_sub *sub)
{
    struct pg *pg = sub->channel->pg;
    if (!list_is_linked(&sub->event))
        list_push(&pg->listen.events, &sub->event);
    loop_defer(pg->loop, &pg->listen.task, on_events);
}

static void drop_items(struct pg_sub *sub)
{
    struct list *node;
    while ((node = list_pop(&sub->items)))
        free(container_of(node, struct item, node));
    sub->n_items = 0;
}

static void sub_push(struct pg_sub *sub, struct slice payload)
{
    if (sub->n_items == sub->max_items) { /* who reads too slowly starts afresh, and knows it */
        drop_items(sub);
        sub->has_gap = true;
    }
    struct item *item = xalloc(sizeof(*item) + payload.len + 1);
    item->len = payload.len;
    memcpy(item->bytes, payload.ptr, payload.len);
    list_push(&sub->items, &item->node);
    sub->n_items++;
    sub_tell(sub);
}

bool pg_sub_take(struct pg_sub *sub, struct pg_event *event)
{
    CHECK_OBJ(sub, PG_SUB_MAGIC);
    *event = (struct pg_event){.is_gap = sub->has_gap};
    sub->has_gap = false;
    free(sub->taken);
    sub->taken = NULL;
    struct list *node = list_pop(&sub->items);
    if (!node)
        return event->is_gap;
    sub->n_items--;
    sub->taken = container_of(node, struct item, node);
    event->has_payload = true;
    event->payload = slice_of(sub->taken->bytes, sub->taken->len);
    return true;
}

bool pg_sub_is_ready(const struct pg_sub *sub)
{
    CHECK_OBJ(sub, PG_SUB_MAGIC);
    return sub->is_ready;
}

/* ---- statements of the connection ----------------------------------------------------------------------------- */

static struct pg_session *listen_conn(struct pg *pg) /* NULL: not open */
{
    struct pg_lane *lane = &pg->lanes[PG_LANE_LISTEN];
    return lane->n_conns && pg_session_is_open(&lane->conns[0]) ? &lane->conns[0] : NULL;
}

/* Runs once, whatever comes of it: the connection that is lost takes it along. */
static struct pg_op *send_own(struct pg_session *conn, struct slice sql,
                              void (*done)(void *data, const struct pg_result *result, const struct err *err),
                              void *data)
{
    struct pg_call call = {.sql = sql};
    struct pg_op *op = pg_op_new(conn->pg, &call, 1);
    op->is_internal = op->is_unnamed = true;
    op->lane = PG_LANE_LISTEN;
    op->n_runs = PG_RUNS;
    op->deadline_ms = loop_now(conn->pg->loop) + 2 * PG_STALL_MS;
    op->done = done;
    op->data = data;
    op->conn = conn;
    list_push(&conn->out, &op->node);
    conn->n_ops++;
    pg_mark_dirty(conn->pg);
    return op;
}

static struct slice write_verb(const char *verb, const char *name, char out[2 * PG_CHANNEL_MAX + 16])
{
    char *end = out + strlen(strcpy(out, verb));
    *end++ = '"';
    for (; *name; name++) {
        if (*name == '"')
            *end++ = '"';
        *end++ = *name;
    }
    *end++ = '"';
    return slice_of(out, (size_t)(end - out));
}

static void channel_on_listening(struct channel *channel)
{
    channel->is_listening = true;
    list_each (node, &channel->subs) {
        struct pg_sub *sub = container_of(node, struct pg_sub, node);
        sub->has_gap |= sub->is_broken;
        sub->is_broken = false;
        sub->is_ready = true;
        sub_tell(sub);
    }
}

static void channel_on_broken(struct channel *channel)
{
    channel->is_listening = false;
    list_each (node, &channel->subs) {
        struct pg_sub *sub = container_of(node, struct pg_sub, node);
        sub->is_broken = true;
        if (!sub->is_ready)
            sub_tell(sub);
        sub->is_ready = true;
    }
}

static void on_listen_done(void *data, const struct pg_result *result, const struct err *err)
{
    struct channel *channel = data;
    (void)result;
    channel->op = NULL;
    if (!err) {
        channel_on_listening(channel);
        return;
    }
    log_warn("LISTEN failed", LOG_S("channel", channel->name), LOG_S("why", err->message));
    channel_on_broken(channel); /* the next ping tries again */
}

static void channel_listen(struct channel *channel, struct pg_session *conn)
{
    char text[2 * PG_CHANNEL_MAX + 16];
    if (!channel->op && !channel->is_listening)
        channel->op = send_own(conn, write_verb("LISTEN ", channel->name, text), on_listen_done, channel);
}

/* ---- signs of life ------------------------------------------------------------------------------------------ */

static void on_ping(struct timer *timer)
{
    struct pg *pg = container_of(timer, struct pg, listen.ping);
    struct pg_session *conn = listen_conn(pg);
    if (conn && list_is_empty(&pg->listen.channels)) {
        pg_session_doom(conn, ERR_CANCELLED, "nobody listens any more");
        return;
    }
    if (conn && conn->n_ops == 0 && loop_now(pg->loop) >= conn->heard_ms + PING_MS / 2)
        send_own(conn, SLICE("SELECT 1"), NULL, NULL);
    list_each (node, &pg->listen.channels)
        if (conn)
            channel_listen(container_of(node, struct channel, node), conn);
    if (conn || !list_is_empty(&pg->listen.channels))
        timer_arm(pg->loop, &pg->listen.ping, loop_now(pg->loop) + PING_MS, on_ping);
}

/* ---- what happens to the connection -------------------------------------------------------------------------- */

bool pg_listen_is_wanted(const struct pg *pg)
{
    return !list_is_empty(&pg->listen.channels);
}

void pg_listen_on_connected(struct pg_session *conn)
{
    list_each (node, &conn->pg->listen.channels)
        channel_listen(container_of(node, struct channel, node), conn);
}

/* Lost, or not even made. */
void pg_listen_on_lost(struct pg *pg)
{
    list_each (node, &pg->listen.channels) {
        struct channel *channel = container_of(node, struct channel, node);
        if (channel->op)
            pg_op_cancel(channel->op);
        channel->op = NULL;
        channel_on_broken(channel);
    }
}

void pg_listen_on_notify(struct pg *pg, const char *name, const char *payload)
{
    list_each (node, &pg->listen.channels) {
        struct channel *channel = container_of(node, struct channel, node);
        if (strcmp(channel->name, name) != 0)
            continue;
        list_each (sub_node, &channel->subs)
            sub_push(container_of(sub_node, struct pg_sub, node), slice_str(payload));
        return;
    }
}

void pg_listen_create(struct pg *pg)
{
    list_init(&pg->listen.channels);
    list_init(&pg->listen.events);
}

void pg_listen_destroy(struct pg *pg)
{
    CHECK(list_is_empty(&pg->listen.channels));
    timer_stop(pg->loop, &pg->listen.ping);
    loop_defer_cancel(&pg->listen.task);
}

/* ---- subscriptions ------------------------------------------------------------------------------------------ */

static struct channel *channel_find(struct pg *pg, struct slice name)
{
    list_each (node, &pg->listen.channels) {
        struct channel *channel = container_of(node, struct channel, node);
        if (slice_eq(slice_str(channel->name), name))
            return channel;
    }
    struct channel *channel = xalloc(sizeof(*channel));
    channel->pg = pg;
    memcpy(channel->name, name.ptr, name.len);
    list_init(&channel->subs);
    list_push(&pg->listen.channels, &channel->node);
    struct pg_session *conn = listen_conn(pg);
    if (conn)
        channel_listen(channel, conn);
    return channel;
}

static void channel_free(struct channel *channel)
{
    struct pg_session *conn = listen_conn(channel->pg);
    char text[2 * PG_CHANNEL_MAX + 16];
    list_remove(&channel->node);
    if (conn && (channel->is_listening || channel->op))
        send_own(conn, write_verb("UNLISTEN ", channel->name, text), NULL, NULL);
    if (channel->op)
        pg_op_cancel(channel->op);
    free(channel);
}

static enum status check_channel(const struct pg *pg, struct slice name, struct err *err)
{
    if (pg->is_unnamed)
        return err_set(err, ERR_REFUSED,
                       "LISTEN needs a session of its own, and pg.pool_mode is \"transaction\": read the table again "
                       "every few seconds with task.sleep, or use redis.subscribe");
    if (name.len == 0 || name.len > PG_CHANNEL_MAX || memchr(name.ptr, 0, name.len))
        return err_set(err, ERR_INVALID, "a channel's name has 1 to %d bytes, none of them zero", PG_CHANNEL_MAX);
    return OK;
}

struct pg_sub *pg_sub_new(struct pg *pg, const struct pg_sub_opts *opts, struct err *err)
{
    CHECK_OBJ(pg, PG_MAGIC);
    if (check_channel(pg, opts->channel, err) != OK)
        return NULL;
    struct pg_sub *sub = xalloc(sizeof(*sub));
    sub->magic = PG_SUB_MAGIC;
    sub->max_items = opts->max_queued ? opts->max_queued : DEFAULT_QUEUED;
    sub->on_event = opts->on_event;
    sub->data = opts->data;
    list_init(&sub->items);
    sub->channel = channel_find(pg, opts->channel);
    list_push(&sub->channel->subs, &sub->node);
    sub->is_ready = sub->channel->is_listening;
    if (pg->is_down) { /* it may take a while: nobody waits for that */
        sub->is_ready = sub->is_broken = true;
    }
    if (!timer_is_armed(&pg->listen.ping))
        timer_arm(pg->loop, &pg->listen.ping, loop_now(pg->loop) + PING_MS, on_ping);
    pg_mark_dirty(pg); /* the pool opens the connection */
    return sub;
}

void pg_sub_free(struct pg_sub *sub)
{
    if (!sub)
        return;
    CHECK_OBJ(sub, PG_SUB_MAGIC);
    struct channel *channel = sub->channel;
    list_remove(&sub->node);
    list_remove(&sub->event);
    drop_items(sub);
    free(sub->taken);
    sub->magic = 0;
    free(sub);
    if (list_is_empty(&channel->subs))
        channel_free(channel);
}
