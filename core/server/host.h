/* What one process that runs application code is made of: loop, names, PostgreSQL, Redis, calls out, code bundle, Lua
 * VM, in this order, and gone in the reverse one. A worker adds an HTTP server; `chowk run` a file; `check` and
 * `routes` only look. The loop must turn until everything has closed: host_close sees to it. */
#pragma once

#include "script/heap.h"
#include "script/vm.h"
#include "server/config.h"
#include "server/outbound.h"
#include "server/segments.h"
#include "services/cache.h"

struct host_opts {
    const struct config *config;     /* borrowed for the host's life */
    struct slice config_json;        /* borrowed as well */
    int bundle_fd;                   /* borrowed for the call */
    uint32_t generation;             /* of that code, for people; 0: none */
    const struct segments *segments; /* shared with the other workers; NULL: none. Borrowed for the call */
    int worker_id;                   /* 0-based; -1: not a worker */
    unsigned n_processes;            /* workers and job workers: they share pg.pool_size */
    struct guard *guard;             /* as in vm_opts, as the next; NULL: none. Borrowed for the host's life */
    bool keeps_guard;
    struct buf *trace;       /* as in vm_opts; NULL: nobody asks */
    struct running *running; /* where what runs is shown; NULL: nowhere. Borrowed for the host's life */
    bool has_services;       /* connects to PostgreSQL and Redis; false: loads only */
};

struct host { /* read its fields; host_open and host_close write them */
    struct loop *loop;
    struct names *names;
    struct pg *pg;
    struct pg_replicas *replicas;
    struct redis *redis;
    struct seq *seq;
    struct jobs *jobs;
    struct limits *limits;
    struct cache *cache;
    struct outbound outbound;
    struct bundle *bundle;
    struct heap_share heap_share; /* of all its VMs */
    struct env env;
    struct vm *vm;
};

/* ERR: err as the operator should read it ("lua/store/routes/orders.lua:42: …"); what was opened is closed again. */
enum status host_open(struct host *host, const struct host_opts *opts, struct err *err) MUST_CHECK;
/* For a host opened without services: connects after all. ERR: host_close cleans up. */
enum status host_add_services(struct host *host, const struct host_opts *opts, struct err *err) MUST_CHECK;
/* pg_set_share, if it has PostgreSQL: the rest of pg.pool_size is in use by the workers of an upgrade's old master. */
void host_set_pg_share(struct host *host, unsigned percent);
void host_close(struct host *host);

/* For others who join what the workers share: *out stays NULL where no Redis is configured. */
enum status host_open_redis(const struct config *config, struct loop *loop, struct names *names, struct redis **out,
                            struct err *err) MUST_CHECK;
struct cache_opts host_cache_opts(const struct config *config,
                                  const struct segments *segments); /* but loop, redis, pg */

/* The application's code, compiled and sealed: memfd for host_opts.bundle_fd; or -1. */
int host_build_bundle(const struct config *config, struct err *err) MUST_CHECK;
