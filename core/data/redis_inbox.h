/* A subscription to wait on: what comes is kept in a bounded queue until somebody asks for it. A reader that is too
 * slow loses the subscription, and is told so; it never makes the server grow. */
#pragma once

#include "data/redis_sub.h"

struct redis_inbox;
struct redis_inbox_opts {
    const struct slice *channels; /* copied */
    size_t n_channels;            /* 1..REDIS_SUB_MAX_CHANNELS */
    bool patterns;
    size_t max_messages; /* 0 = 1000 */
    size_t max_bytes;    /* 0 = 8 MiB */
};
struct redis_inbox *redis_inbox_open(struct redis *redis, const struct redis_inbox_opts *opts);
/* Cancels what waits, without a word. Before redis_free. */
void redis_inbox_close(struct redis_inbox *inbox);

/* One wait at a time. Each completes exactly once, never from inside the call, not after redis_inbox_cancel. */
typedef void (*redis_inbox_fn)(void *data, const struct redis_news *news, const struct err *err);
/* news NULL: every channel is subscribed (err NULL), or the first attempt failed, or the deadline (0: none) has passed:
 * err; the inbox stays open and goes on trying, and will begin with a REDIS_SUB_GAP. */
void redis_inbox_wait_ready(struct redis_inbox *inbox, uint64_t deadline_ms, redis_inbox_fn done, void *data);
/* news: REDIS_SUB_MESSAGE or REDIS_SUB_GAP. Both NULL: nothing came until the deadline. err: ERR_QUEUE_FULL (too slow)
 * or what Redis said; it is the end, and every later call gets it as well. */
void redis_inbox_next(struct redis_inbox *inbox, uint64_t deadline_ms, redis_inbox_fn done, void *data);
bool redis_inbox_is_waited_on(const struct redis_inbox *inbox);
void redis_inbox_cancel(struct redis_inbox *inbox);
