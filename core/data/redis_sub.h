/* Subscriptions: one more connection per worker, for all of them. It subscribes again after each reconnection and says
 * so: what was published meanwhile is lost, that is what Redis' pub/sub is. Two ways to read:
 *
 *  - redis_subscribe: a callback per event, for the core;
 *  - redis_inbox (redis_inbox.h): a bounded queue to wait on, for Lua. */
#pragma once

#include "data/redis.h"

enum redis_sub_event {
    REDIS_SUB_READY,   /* every channel is subscribed, for the first time */
    REDIS_SUB_MESSAGE, /* channel, payload, and the pattern it matched, if any */
    REDIS_SUB_DOWN,    /* the connection, or an attempt at it, failed: err. It tries again by itself */
    REDIS_SUB_GAP,     /* subscribed again: messages may have been missed */
    REDIS_SUB_FAILED   /* Redis refused a channel (err, as by an ACL): the last event, close it */
};
struct redis_news { /* borrowed for the call */
    enum redis_sub_event event;
    struct slice channel, pattern, payload;
    const struct err *err;
};
typedef void (*redis_news_fn)(void *data, const struct redis_news *news);

#define REDIS_SUB_MAX_CHANNELS 1000

struct redis_sub;
struct redis_sub_opts {
    const struct slice *channels; /* copied */
    size_t n_channels;            /* 1..REDIS_SUB_MAX_CHANNELS */
    bool patterns;                /* PSUBSCRIBE */
    redis_news_fn fn;             /* never from inside redis_subscribe; it may close any subscription */
    void *data;
};
/* redis_sub_is_ready may be true at once, when others listen to the same: then no REDIS_SUB_READY comes. */
struct redis_sub *redis_subscribe(struct redis *redis, const struct redis_sub_opts *opts);
bool redis_sub_is_ready(const struct redis_sub *sub);
void redis_sub_close(struct redis_sub *sub); /* fn is not called any more. Before redis_free */
