/* Where the primary is, as Sentinel says (FACTS 7.1): asks the sentinels in turn, the one that answered first from then
 * on; learns of others from it; listens to +switch-master, which is only a hint to look again. One per struct redis,
 * for all of its connections. */
#pragma once

#include "data/redis_link.h"

struct redis_sentinel;
struct redis_find;

struct redis_sentinel_opts {
    struct loop *loop;
    struct names *names;
    const struct redis_url *url; /* borrowed for its life: sentinels, primary, sentinel_login */
    struct tls_context *tls;     /* borrowed; NULL: in clear */
    /* A sentinel named another primary than before, by an answer or by +switch-master. */
    void (*on_moved)(void *data, const struct redis_host *at);
    void (*on_freed)(void *data); /* after redis_sentinel_free: everything has closed */
    void *data;
};
struct redis_sentinel *redis_sentinel_new(const struct redis_sentinel_opts *opts);
void redis_sentinel_free(struct redis_sentinel *sentinel); /* no find may be pending */

/* Exactly once, never from inside this call, not after redis_find_cancel. err (ERR_UNAVAILABLE) says whether the
 * sentinels are unreachable, or reachable but do not know the name. */
typedef void (*redis_find_fn)(void *data, const struct redis_host *at, const struct err *err);
struct redis_find *redis_sentinel_find(struct redis_sentinel *sentinel, redis_find_fn fn, void *data);
void redis_find_cancel(struct redis_find *find);
