#include "server/ops_cache.h"

#include <stdlib.h>

#include "base/list.h"
#include "data/redis.h"
#include "server/host.h"
#include "services/cache.h"

enum { TIMEOUT_MS = 10000 };

struct ops_cache {
    struct ops_cache_opts opts;
    struct names *names;
    struct redis *redis;
    struct cache *cache; /* NULL: nobody has asked yet */
    struct list purges;
};

struct purge {
    struct list node;
    struct ops_cache *owner;
    struct ops_call *call;
    struct cache_forget *forget;
};

static enum status open_cache(struct ops_cache *cache, struct err *err)
{
    if (cache->cache)
        return OK;
    if (!cache->names)
        cache->names = names_new(cache->opts.loop);
    if (!cache->redis && host_open_redis(cache->opts.config, cache->opts.loop, cache->names, &cache->redis, err) != OK)
        return ERR;
    struct cache_opts opts = host_cache_opts(cache->opts.config, cache->opts.segments);
    opts.loop = cache->opts.loop;
    opts.redis = cache->redis;
    cache->cache = cache_new(&opts, err);
    return cache->cache ? OK : ERR;
}

static void answer_stats(struct ops_cache *cache, struct ops_call *call)
{
    struct cache_stats stats;
    struct buf json = {0};
    cache_stats(cache->cache, &stats);
    cache_stats_json(&stats, &json);
    ops_done(call, buf_as_slice(&json));
    buf_free(&json);
}

/* ---- purge --------------------------------------------------------------------------------------------------- */

static void on_purged(void *data)
{
    struct purge *purge = data;
    struct cache_stats stats;
    struct buf json = {0};
    cache_stats(purge->owner->cache, &stats);
    buf_printf(&json, "{\"l2\":%s,\"l2_behind\":%s}", stats.has_l2 ? "true" : "false",
               stats.is_behind ? "true" : "false");
    ops_done(purge->call, buf_as_slice(&json));
    buf_free(&json);
    list_remove(&purge->node);
    free(purge);
}

/* The names after the first `skip` arguments, checked. */
static enum status read_names(const struct ops_call *call, size_t skip, bool is_tag, struct slice *names, size_t *n,
                              struct err *err)
{
    const char *arg;
    for (*n = 0; (arg = ops_arg(call, skip + *n)); (*n)++) {
        names[*n] = slice_str(arg);
        if ((is_tag ? cache_check_tag(names[*n], err) : cache_check_key(names[*n], err)) != OK)
            return ERR;
    }
    return *n > 0 ? OK : err_set(err, ERR_INVALID, "nothing to purge: keys, --tag and tags, or --all");
}

static void answer_purge(struct ops_cache *cache, struct ops_call *call)
{
    struct err err = {0};
    struct slice names[OPS_MAX_ARGS];
    struct cache_names what = {0};
    const char *first = ops_arg(call, 1);
    enum status status = OK;
    if (first && strcmp(first, "--all") == 0) {
        names[0] = SLICE("");
        what = (struct cache_names){.tags = names, .n_tags = 1};
    } else if (first && strcmp(first, "--tag") == 0) {
        what.tags = names;
        status = read_names(call, 2, true, names, &what.n_tags, &err);
    } else {
        what.keys = names;
        status = read_names(call, 1, false, names, &what.n_keys, &err);
    }
    if (status != OK) {
        ops_fail(call, &err);
        return;
    }
    struct purge *purge = xalloc(sizeof(*purge));
    purge->owner = cache;
    purge->call = call;
    purge->forget = cache_forget(cache->cache, &what, SLICE(""));
    cache_forget_notify(purge->forget, on_purged, purge);
    list_push(&cache->purges, &purge->node);
}

static void on_call(void *data, struct ops_call *call)
{
    struct ops_cache *cache = data;
    struct err err = {0};
    const char *verb = ops_arg(call, 0);
    if (open_cache(cache, &err) != OK)
        ops_fail(call, &err);
    else if (verb && strcmp(verb, "purge") == 0)
        answer_purge(cache, call);
    else
        answer_stats(cache, call);
}

struct ops_cache *ops_cache_new(const struct ops_cache_opts *opts)
{
    struct ops_cache *cache = xalloc(sizeof(*cache));
    cache->opts = *opts;
    list_init(&cache->purges);
    ops_register(opts->ops, "cache", TIMEOUT_MS, on_call, cache);
    return cache;
}

void ops_cache_free(struct ops_cache *cache)
{
    if (!cache)
        return;
    cache_free(cache->cache); /* reports to those that wait: on_purged */
    if (cache->redis)
        redis_free(cache->redis);
    if (cache->names)
        names_free(cache->names);
    free(cache);
}
