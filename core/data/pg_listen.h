/* Subscriptions to NOTIFY, on one connection of the worker's own. Private reading: pg_listen.c says how it heals.
 *
 * A subscription outlives outages: it is made anew when the server is back, and then says that there was a gap, for
 * what was sent meanwhile is lost. Each has a queue of its own with a bound; overflowing it is a gap as well. */
#pragma once

#include "data/pg.h"

#define PG_CHANNEL_MAX 63 /* bytes: PostgreSQL's own bound for names */

struct pg_sub;

struct pg_sub_opts {
    struct slice channel; /* copied */
    unsigned max_queued;  /* 0 = default 1000 */
    /* Something changed: it became ready, or there is something to take. Called from the loop, never from inside a
     * call; it may free the subscription. */
    void (*on_event)(void *data);
    void *data;
};

/* ERR_REFUSED under transaction pooling, ERR_INVALID for a channel that cannot be. Returns owned. It must be freed
 * before its pg. */
struct pg_sub *pg_sub_new(struct pg *pg, const struct pg_sub_opts *opts, struct err *err);
void pg_sub_free(struct pg_sub *sub); /* NULL is fine; on_event is not called afterwards */

/* True from when LISTEN holds, or its first attempt has failed: then a gap will follow the one that succeeds. */
bool pg_sub_is_ready(const struct pg_sub *sub);

struct pg_event {
    bool is_gap;          /* notifications before this one may be missing */
    bool has_payload;     /* false: the gap alone */
    struct slice payload; /* borrowed until the next call about this subscription */
};
/* Takes the oldest payload with the gap that lies before it, or the gap alone; false: there is nothing. */
bool pg_sub_take(struct pg_sub *sub, struct pg_event *event);
