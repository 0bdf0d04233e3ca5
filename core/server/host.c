#include "server/host.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/shm.h"
#include "bind/modules.h"
#include "data/pg.h"
#include "data/pg_replica.h"
#include "data/redis.h"
#include "services/cache.h"
#include "services/jobs.h"
#include "services/limit.h"
#include "services/seq.h"

int host_build_bundle(const struct config *config, struct err *err)
{
    struct buf code = {0};
    int fd = -1;
    if (bundle_build(".", config_text(config, CONFIG_APP_ROOT), &code, err) == OK)
        fd = shm_seal("chowk-bundle", buf_as_slice(&code), err);
    buf_free(&code);
    return fd;
}

static enum status open_pg(struct host *host, const struct host_opts *opts, struct err *err)
{
    const struct config *config = opts->config;
    struct config_pg_share share;
    if (!config_is_set(config, CONFIG_PG_URL))
        return OK;
    if (config_pg_share(config, opts->n_processes, &share, err) != OK)
        return err_prefix(err, "pg.pool_size");
    struct pg_opts pg = {.loop = host->loop,
                         .names = host->names,
                         .url = config_text(config, CONFIG_PG_URL),
                         .transaction_pooling = strcmp(config_text(config, CONFIG_PG_POOL_MODE), "transaction") == 0,
                         .read_connections = share.read,
                         .write_connections = share.write,
                         .tx_connections = share.tx,
                         .max_waiters = (unsigned)config_number(config, CONFIG_PG_MAX_WAITERS)};
    host->pg = pg_new(&pg, err);
    return host->pg ? OK : err_prefix(err, "pg.url");
}

static enum status open_replicas(struct host *host, const struct host_opts *opts, struct err *err)
{
    const struct config_value *urls = &opts->config->values[CONFIG_PG_REPLICA_URLS];
    if (!host->pg || urls->n_items == 0)
        return OK;
    struct pg_replicas_opts replicas = {
        .loop = host->loop,
        .names = host->names,
        .primary = host->pg,
        .urls = urls->items,
        .n_urls = urls->n_items,
        .transaction_pooling = strcmp(config_text(opts->config, CONFIG_PG_POOL_MODE), "transaction") == 0,
        .max_lag_ms = (uint32_t)config_number(opts->config, CONFIG_PG_REPLICA_MAX_LAG),
        .connections = (unsigned)config_number(opts->config, CONFIG_PG_REPLICA_CONNECTIONS)};
    host->replicas = pg_replicas_new(&replicas, err);
    return host->replicas ? OK : err_prefix(err, "pg.replica_urls");
}

enum status host_open_redis(const struct config *config, struct loop *loop, struct names *names, struct redis **out,
                            struct err *err)
{
    *out = NULL;
    if (!config_is_set(config, CONFIG_REDIS_URL))
        return OK;
    struct redis_opts redis = {.loop = loop,
                               .names = names,
                               .url = config_text(config, CONFIG_REDIS_URL),
                               .ca_file =
                                   config_is_set(config, CONFIG_REDIS_CA) ? config_text(config, CONFIG_REDIS_CA) : NULL,
                               .max_waiters = (unsigned)config_number(config, CONFIG_REDIS_MAX_WAITERS),
                               .offline_ms = (uint32_t)config_number(config, CONFIG_REDIS_OFFLINE_WAIT),
                               .offline_max = (unsigned)config_number(config, CONFIG_REDIS_OFFLINE_QUEUE),
                               .max_blocking = (unsigned)config_number(config, CONFIG_REDIS_BLOCKING_CONNECTIONS)};
    *out = redis_new(&redis, err);
    return *out ? OK : err_prefix(err, "redis.url");
}

static int segment_fd(const struct host_opts *opts, enum segment segment)
{
    return opts->segments ? opts->segments->fds[segment] : -1;
}

static enum status open_seq(struct host *host, const struct host_opts *opts, struct err *err)
{
    struct seq_opts seq = {.loop = host->loop,
                           .pg = host->pg,
                           .config_json = opts->config_json,
                           .segment_fd = segment_fd(opts, SEGMENT_SEQ)};
    host->seq = seq_new(&seq, err);
    return host->seq ? OK : err_prefix(err, "seq");
}

static enum status open_limits(struct host *host, const struct host_opts *opts, struct err *err)
{
    const struct config *config = opts->config;
    bool is_shared = strcmp(config_text(config, CONFIG_LIMIT_STORE), "redis") == 0;
    if (is_shared && !host->redis)
        return err_set(err, ERR_INVALID, "limit.store is \"redis\", but there is no redis.url");
    struct limits_opts limits = {.loop = host->loop,
                                 .redis = is_shared ? host->redis : NULL,
                                 .is_dry_run = strcmp(config_text(config, CONFIG_LIMIT_MODE), "report") == 0,
                                 .prefix = config_text(config, CONFIG_REDIS_PREFIX),
                                 .redis_ms = (uint32_t)config_number(config, CONFIG_LIMIT_REDIS_TIMEOUT),
                                 .segment_fd = segment_fd(opts, SEGMENT_LIMIT),
                                 .n_keys = (uint32_t)config_number(config, CONFIG_LIMIT_KEYS)};
    host->limits = limits_new(&limits, err);
    return host->limits ? OK : err_prefix(err, "limit");
}

struct cache_opts host_cache_opts(const struct config *config, const struct segments *segments)
{
    return (struct cache_opts){.segment_fd = segments ? segments->fds[SEGMENT_CACHE] : -1,
                               .size = (size_t)config_number(config, CONFIG_CACHE_SIZE),
                               .max_value = (size_t)config_number(config, CONFIG_CACHE_MAX_VALUE),
                               .l1_max_ttl_ms = (uint32_t)config_number(config, CONFIG_CACHE_L1_MAX_TTL),
                               .name_space = config_text(config, CONFIG_CACHE_NAMESPACE)};
}

static enum status open_cache(struct host *host, const struct host_opts *opts, struct err *err)
{
    struct cache_opts cache = host_cache_opts(opts->config, opts->segments);
    cache.loop = host->loop;
    cache.redis = host->redis;
    cache.pg = host->pg;
    host->cache = cache_new(&cache, err);
    return host->cache ? OK : ERR;
}

static enum status no_main(const struct config *config, const char *main, struct err *err)
{
    const char *root = config_text(config, CONFIG_APP_ROOT);
    struct buf where = {0}, path = {0};
    config_where(config, CONFIG_APP_MAIN, &where);
    if (strcmp(root, ".") != 0)
        buf_printf(&path, "%s/", root);
    for (const char *p = main; *p; p++)
        buf_byte(&path, *p == '.' ? '/' : *p);
    (void)err_set(err, ERR_INVALID, "app.main (%.*s): no module \"%s\": there is no %.*s.lua and no %.*s/init.lua",
                  SLICE_FMT(buf_as_slice(&where)), main, SLICE_FMT(buf_as_slice(&path)),
                  SLICE_FMT(buf_as_slice(&path)));
    buf_free(&where);
    buf_free(&path);
    return ERR;
}

static void fill_env(struct host *host)
{
    host->env.pg = host->pg;
    host->env.replicas = host->replicas;
    host->env.redis = host->redis;
    host->env.seq = host->seq;
    host->env.limits = host->limits;
    host->env.cache = host->cache;
    host->env.jobs = host->jobs;
    host->env.http_client = host->outbound.http;
    host->env.mail = host->outbound.mail;
}

static enum status open_vm(struct host *host, const struct host_opts *opts, struct err *err)
{
    const char *main = config_text(opts->config, CONFIG_APP_MAIN);
    struct slice chunk;
    host->bundle = bundle_open(opts->bundle_fd, err);
    if (!host->bundle)
        return ERR;
    if (bundle_find(host->bundle, slice_str(main), &chunk).len == 0)
        return no_main(opts->config, main, err);
    host->env = (struct env){.loop = host->loop,
                             .config_json = opts->config_json,
                             .development = config_is_development(opts->config),
                             .counts_waits = config_number(opts->config, CONFIG_LOG_ACCESS) != 0,
                             .running = opts->running,
                             .slow_turn_ms = (uint32_t)config_number(opts->config, CONFIG_WORKER_SLOW_TURN),
                             .lua_heap = (size_t)config_number(opts->config, CONFIG_WORKER_LUA_HEAP),
                             .heap_share = &host->heap_share,
                             .worker_id = opts->worker_id};
    fill_env(host);
    struct vm_opts vm = {.env = &host->env,
                         .bundle = host->bundle,
                         .modules = bind_modules,
                         .generation = opts->generation,
                         .main = main,
                         .guard = opts->guard,
                         .keeps_guard = opts->keeps_guard,
                         .trace = opts->trace};
    host->vm = vm_new(&vm, err);
    return host->vm ? OK : ERR;
}

static enum status open_services(struct host *host, const struct host_opts *opts, struct err *err)
{
    if (open_pg(host, opts, err) != OK || open_replicas(host, opts, err) != OK)
        return ERR;
    if (host_open_redis(opts->config, host->loop, host->names, &host->redis, err) != OK)
        return ERR;
    if (host->pg)
        host->jobs = jobs_new(&(struct jobs_opts){.loop = host->loop, .pg = host->pg});
    if (open_seq(host, opts, err) != OK || open_limits(host, opts, err) != OK || open_cache(host, opts, err) != OK)
        return ERR;
    return outbound_open(&host->outbound, host->loop, host->names, opts->config, err);
}

enum status host_add_services(struct host *host, const struct host_opts *opts, struct err *err)
{
    if (open_services(host, opts, err) != OK)
        return ERR;
    fill_env(host);
    return OK;
}

enum status host_open(struct host *host, const struct host_opts *opts, struct err *err)
{
    *host = (struct host){.loop = loop_new()};
    host->names = names_new(host->loop);
    enum status status = OK;
    if (opts->has_services)
        status = open_services(host, opts, err);
    if (status == OK)
        status = open_vm(host, opts, err);
    if (status != OK)
        host_close(host);
    return status;
}

void host_set_pg_share(struct host *host, unsigned percent)
{
    if (host->pg)
        pg_set_share(host->pg, percent);
}

void host_close(struct host *host)
{
    if (host->vm)
        vm_free(host->vm);
    cache_free(host->cache);
    limits_free(host->limits);
    outbound_close(&host->outbound);
    jobs_free(host->jobs);
    seq_free(host->seq);
    if (host->redis)
        redis_free(host->redis);
    pg_replicas_free(host->replicas);
    if (host->pg)
        pg_free(host->pg);
    if (host->names)
        names_free(host->names);
    if (host->bundle)
        bundle_free(host->bundle);
    if (host->loop) {
        loop_run(host->loop); /* until the last handle has closed */
        loop_free(host->loop);
    }
    *host = (struct host){0};
}
