/* What one worker hands to its Lua VMs: pointers to the services that outlive every generation. Filled by
 * server/worker.c, read by bind/. All borrowed. */
#pragma once

#include "base/buf.h"
#include "base/slice.h"
#include "net/loop.h"

struct pg;
struct pg_replicas;
struct redis;
struct limits;
struct seq;
struct cache;
struct http_client;
struct mail;
struct jobs;
struct running;
struct heap_share;
struct env {
    struct loop *loop;
    struct pg *pg;                   /* NULL: not configured; calls raise "unavailable" naming the key */
    struct pg_replicas *replicas;    /* NULL: none; reads for them go to pg */
    struct redis *redis;             /* NULL: as above */
    struct seq *seq;                 /* NULL: no services (`check`, `routes`) */
    struct limits *limits;           /* NULL: as seq */
    struct cache *cache;             /* NULL: as seq */
    struct http_client *http_client; /* NULL: as seq */
    struct mail *mail;               /* NULL: not configured */
    struct jobs *jobs;               /* NULL: no PostgreSQL, or no services */
    struct slice config_json;        /* effective configuration as one JSON object {"pg.url": …, "settings": {…}} */
    struct running *running;         /* what runs, for others to see: script/running.h. NULL: nobody looks */
    uint32_t slow_turn_ms;           /* a resume that holds the loop longer is logged; 0: none is */
    size_t lua_heap;                 /* cap of all VMs together in bytes; 0: none */
    struct heap_share *heap_share;   /* what they hold: script/heap.h. NULL: there is one VM */
    bool development, counts_waits;  /* of requests, in http_request.waited_us */
    /* In development: appends what is worth knowing about the code that runs, for a page about its failure (that the
     * last reload failed, so this is not what is on disk); nothing otherwise. NULL: never anything. */
    void (*note_code)(void *data, struct buf *out);
    void *note_data;
    int worker_id;                    /* 0-based; -1 in `chowk run`, `check` … */
    bool is_stopping;                 /* a stop has begun: still serving, but /readyz says no (lame duck) */
    const _Atomic uint32_t *n_failed; /* workers that are in a crash loop: as is_stopping; NULL: nobody counts */
};
