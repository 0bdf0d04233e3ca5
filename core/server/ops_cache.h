/* `chowk cache` on the operator's socket: figures of the machine's cache, and forgetting by hand. The master joins the
 * cache as its workers do, when it is first asked to, with a Redis connection of its own. */
#pragma once

#include "server/config.h"
#include "server/ops.h"
#include "server/segments.h"

struct ops_cache;
struct ops_cache_opts {
    struct loop *loop;
    struct ops *ops;
    const struct config *config; /* borrowed, like the others, until ops_cache_free */
    const struct segments *segments;
};
/* Registers "cache". Its arguments: stats, or purge and then --all, --tag and tags, or keys. */
struct ops_cache *ops_cache_new(const struct ops_cache_opts *opts);
void ops_cache_free(struct ops_cache *cache); /* NULL is fine; before ops_free. What waits is answered */
