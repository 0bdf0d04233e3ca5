/* The hub: who listens to what, over one link. A channel is subscribed when its first listener comes and unsubscribed
 * when its last one goes; the link is up while there is any listener. Channels are asked for one by one and confirmed
 * in that order, so an error reply belongs to the oldest that is not confirmed.
 *
 * Listeners may come and go while messages are handed out: one that goes is only marked, and swept afterwards. */
#include "data/redis_sub.h"

#include <stdlib.h>

#include "base/log.h"
#include "data/redis_priv.h"

#define SUB_MAGIC 0x4ed15040u
#define BACKOFF_MAX_MS 2000
#define PING_MS 15000
#define SILENCE_MS 25000 /* and two pings unanswered: the server is gone */
#define LOG_EVERY 16

struct channel {
    struct list node; /* hub->channels */
    struct list members;
    struct slice name; /* owned */
    bool is_pattern, is_confirmed;
};

struct member {       /* one subscription to one channel */
    struct list node; /* channel->members */
    struct redis_sub *sub;
    struct channel *channel;
};

struct redis_sub {
    unsigned magic;
    struct list node; /* hub->subs */
    struct redis *redis;
    struct member *members;
    size_t n_members;
    redis_news_fn fn; /* NULL: closed */
    void *data;
    bool was_ready;
};

static struct redis_sub *sub_of(struct list *node)
{
    struct redis_sub *sub = container_of(node, struct redis_sub, node);
    CHECK_OBJ(sub, SUB_MAGIC);
    return sub;
}

static void tell(struct redis_sub *sub, const struct redis_news *news)
{
    if (sub->fn)
        sub->fn(sub->data, news);
}

bool redis_sub_is_ready(const struct redis_sub *sub)
{
    for (size_t i = 0; i < sub->n_members; i++)
        if (!sub->members[i].channel || !sub->members[i].channel->is_confirmed)
            return false;
    return redis_link_is_up(&sub->redis->hub.link);
}

/* ---- channels ------------------------------------------------------------------------------------------------- */

static void format_ask(struct buf *out, const struct channel *channel, bool on)
{
    static const struct slice verbs[2][2] = {{{"UNSUBSCRIBE", 11}, {"PUNSUBSCRIBE", 12}},
                                             {{"SUBSCRIBE", 9}, {"PSUBSCRIBE", 10}}};
    struct slice argv[] = {verbs[on][channel->is_pattern], channel->name};
    redis_format(out, argv, 2);
}

static void ask(struct redis *redis, const struct channel *channel, bool on)
{
    struct buf out = {0};
    format_ask(&out, channel, on);
    redis_link_write(&redis->hub.link, buf_as_slice(&out)); /* nothing while it is not up: on_up asks for all */
    buf_free(&out);
}

static struct channel *channel_get(struct redis *redis, struct slice name, bool is_pattern)
{
    struct redis_hub *hub = &redis->hub;
    struct channel *channel = map_get(&hub->names[is_pattern], name);
    if (channel)
        return channel;
    channel = xalloc(sizeof *channel);
    channel->name = slice_of(xstrndup(name.ptr, name.len), name.len);
    channel->is_pattern = is_pattern;
    list_init(&channel->members);
    list_push(&hub->channels, &channel->node);
    map_put(&hub->names[is_pattern], channel->name, channel);
    ask(redis, channel, true);
    return channel;
}

/* Nobody is left in it. */
static void channel_free(struct redis *redis, struct channel *channel)
{
    list_remove(&channel->node);
    map_remove(&redis->hub.names[channel->is_pattern], channel->name);
    free((void *)(uintptr_t)channel->name.ptr);
    free(channel);
}

static void leave(struct redis *redis, struct member *member)
{
    struct channel *channel = member->channel;
    if (!channel)
        return;
    list_remove(&member->node);
    member->channel = NULL;
    if (!list_is_empty(&channel->members))
        return;
    ask(redis, channel, false);
    channel_free(redis, channel);
}

/* ---- what comes ----------------------------------------------------------------------------------------------- */

/* Closed subscriptions leave their channels once nothing walks over them. */
static void sweep(struct redis *redis)
{
    struct redis_hub *hub = &redis->hub;
    if (hub->dispatching || !hub->has_closed)
        return;
    hub->has_closed = false;
    list_each (node, &hub->subs) {
        struct redis_sub *sub = sub_of(node);
        if (sub->fn)
            continue;
        list_remove(node);
        for (size_t i = 0; i < sub->n_members; i++)
            leave(redis, &sub->members[i]);
        sub->magic = 0;
        free(sub->members);
        loop_reclaim(redis->loop, sub);
    }
    if (list_is_empty(&hub->subs)) {
        struct err err = {0};
        err_set(&err, ERR_CANCELLED, "redis: nobody listens");
        timer_stop(redis->loop, &hub->timer);
        redis_link_close(&hub->link, &err);
    }
}

static void tell_all(struct redis *redis, const struct redis_news *news)
{
    struct redis_hub *hub = &redis->hub;
    hub->dispatching = true;
    list_each (node, &hub->subs) /* closing one only marks it */
        tell(sub_of(node), news);
    hub->dispatching = false;
    sweep(redis);
}

static void tell_members(struct redis *redis, struct channel *channel, const struct redis_news *news)
{
    redis->hub.dispatching = true;
    list_each (node, &channel->members)
        tell(container_of(node, struct member, node)->sub, news);
    redis->hub.dispatching = false;
    sweep(redis);
}

static void confirm(struct redis *redis, struct channel *channel)
{
    if (!channel || channel->is_confirmed)
        return;
    channel->is_confirmed = true;
    redis->hub.dispatching = true;
    list_each (node, &channel->members) {
        struct redis_sub *sub = container_of(node, struct member, node)->sub;
        if (!redis_sub_is_ready(sub))
            continue;
        struct redis_news news = {.event = sub->was_ready ? REDIS_SUB_GAP : REDIS_SUB_READY};
        sub->was_ready = true;
        tell(sub, &news);
    }
    redis->hub.dispatching = false;
    sweep(redis);
}

static void refused(struct redis *redis, struct slice text)
{
    struct err err = {0};
    bool failover;
    redis_read_error(text, &err, &failover);
    list_each (node, &redis->hub.channels) {
        struct channel *channel = container_of(node, struct channel, node);
        if (channel->is_confirmed)
            continue;
        channel->is_confirmed = true; /* the next error is for the next one; its subscriptions end here */
        err_prefix(&err, "redis: subscribe %.*s", (int)(channel->name.len < 100 ? channel->name.len : 100),
                   channel->name.ptr);
        tell_members(redis, channel, &(struct redis_news){.event = REDIS_SUB_FAILED, .err = &err});
        return;
    }
}

static void on_reply(struct redis_link *link, const struct redis_value *value)
{
    struct redis *redis = container_of(link, struct redis, hub.link);
    struct redis_hub *hub = &redis->hub;
    const struct redis_value *items = value->items;
    if (value->type == REDIS_ERROR) {
        refused(redis, value->str);
        return;
    }
    if (value->type != REDIS_ARRAY || value->n_items < 3) /* a pong */
        return;
    bool is_pattern = items[0].str.len > 0 && items[0].str.ptr[0] == 'p';
    struct channel *channel = map_get(&hub->names[is_pattern], items[1].str);
    if (slice_eq(items[0].str, is_pattern ? SLICE("psubscribe") : SLICE("subscribe"))) {
        confirm(redis, channel);
        return;
    }
    struct redis_news news = {.event = REDIS_SUB_MESSAGE, .channel = items[1].str, .payload = items[2].str};
    if (is_pattern && value->n_items == 4) {
        news.pattern = items[1].str;
        news.channel = items[2].str;
        news.payload = items[3].str;
    } else if (!slice_eq(items[0].str, SLICE("message"))) {
        return;
    }
    if (channel)
        tell_members(redis, channel, &news);
}

/* ---- the link's life ------------------------------------------------------------------------------------------ */

static void on_timer(struct timer *timer)
{
    struct redis *redis = container_of(timer, struct redis, hub.timer);
    CHECK_OBJ(redis, REDIS_MAGIC);
    struct redis_hub *hub = &redis->hub;
    uint64_t now = loop_now(redis->loop);
    struct err err = {0};
    if (hub->link.state == LINK_DOWN) {
        redis_link_start(&hub->link);
        return;
    }
    if (now - hub->link.data_ms >= SILENCE_MS) {
        err_set(&err, ERR_UNAVAILABLE, "redis: the subscriptions' connection has gone silent");
        redis_link_close(&hub->link, &err);
        return;
    }
    redis_link_command(&hub->link, (struct slice[]){SLICE("PING")}, 1);
    timer_arm(redis->loop, timer, now + PING_MS, on_timer);
}

static void on_up(struct redis_link *link)
{
    struct redis *redis = container_of(link, struct redis, hub.link);
    CHECK_OBJ(redis, REDIS_MAGIC);
    redis->hub.failures = 0;
    struct buf out = {0};
    list_each (node, &redis->hub.channels)
        format_ask(&out, container_of(node, struct channel, node), true);
    redis_link_write(link, buf_as_slice(&out));
    buf_free(&out);
    timer_arm(redis->loop, &redis->hub.timer, loop_now(redis->loop) + PING_MS, on_timer);
}

static void on_down(struct redis_link *link, const struct err *err)
{
    struct redis *redis = container_of(link, struct redis, hub.link);
    CHECK_OBJ(redis, REDIS_MAGIC);
    struct redis_hub *hub = &redis->hub;
    timer_stop(redis->loop, &hub->timer);
    if (redis->freeing) {
        redis_part_closed(redis);
        return;
    }
    list_each (node, &hub->channels)
        container_of(node, struct channel, node)->is_confirmed = false;
    if (list_is_empty(&hub->subs))
        return;
    if (err->code == ERR_CANCELLED) { /* the last listener had gone, and another came */
        redis_link_start(link);
        return;
    }
    if (hub->failures++ % LOG_EVERY == 0)
        log_warn("redis subscriptions are interrupted", LOG_S("error", err->message));
    timer_arm(redis->loop, &hub->timer, loop_now(redis->loop) + redis_backoff_ms(hub->failures, BACKOFF_MAX_MS),
              on_timer);
    tell_all(redis, &(struct redis_news){.event = REDIS_SUB_DOWN, .err = err});
}

static const struct redis_link_events link_events = {on_up, on_reply, on_down};

/* ---- subscribing ---------------------------------------------------------------------------------------------- */

struct redis_sub *redis_subscribe(struct redis *redis, const struct redis_sub_opts *opts)
{
    CHECK_OBJ(redis, REDIS_MAGIC);
    CHECK(opts->n_channels > 0 && opts->n_channels <= REDIS_SUB_MAX_CHANNELS && opts->fn && !redis->freeing);
    struct redis_hub *hub = &redis->hub;
    struct redis_sub *sub = xalloc(sizeof *sub);
    *sub = (struct redis_sub){.magic = SUB_MAGIC, .redis = redis, .fn = opts->fn, .data = opts->data};
    sub->members = xalloc(opts->n_channels * sizeof *sub->members);
    for (size_t i = 0; i < opts->n_channels; i++) {
        struct member *member = &sub->members[sub->n_members];
        struct channel *channel = channel_get(redis, opts->channels[i], opts->patterns);
        if (!list_is_empty(&channel->members) &&
            container_of(channel->members.prev, struct member, node)->sub == sub) /* named twice */
            continue;
        *member = (struct member){.sub = sub, .channel = channel};
        list_push(&channel->members, &member->node);
        sub->n_members++;
    }
    list_push(&hub->subs, &sub->node);
    sub->was_ready = redis_sub_is_ready(sub);
    if (hub->link.state == LINK_DOWN && !timer_is_armed(&hub->timer))
        redis_link_start(&hub->link);
    return sub;
}

void redis_sub_close(struct redis_sub *sub)
{
    CHECK_OBJ(sub, SUB_MAGIC);
    struct redis *redis = sub->redis;
    CHECK(sub->fn);
    sub->fn = NULL;
    redis->hub.has_closed = true;
    sweep(redis);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

void redis_hub_start(struct redis *redis)
{
    struct redis_hub *hub = &redis->hub;
    list_init(&hub->subs);
    list_init(&hub->channels);
    redis_link_create(&hub->link, &redis->target, &link_events);
}

void redis_hub_stop(struct redis *redis)
{
    struct redis_hub *hub = &redis->hub;
    struct err err = {0};
    err_set(&err, ERR_CANCELLED, "redis: shutting down");
    CHECK(list_is_empty(&hub->subs));
    timer_stop(redis->loop, &hub->timer);
    map_free(&hub->names[0]);
    map_free(&hub->names[1]);
    if (hub->link.state == LINK_DOWN)
        return;
    redis->n_open++;
    redis_link_close(&hub->link, &err);
}

void redis_hub_moved(struct redis *redis, const struct redis_host *at)
{
    struct redis_hub *hub = &redis->hub;
    struct err err = {0};
    err_set(&err, ERR_UNAVAILABLE, "redis: the primary has moved");
    if (redis_link_is_up(&hub->link) && (hub->link.at.port != at->port || strcmp(hub->link.at.host, at->host) != 0))
        redis_link_close(&hub->link, &err);
    else if (timer_is_armed(&hub->timer) && hub->link.state == LINK_DOWN)
        timer_arm(redis->loop, &hub->timer, loop_now(redis->loop), on_timer);
}
