/* What the files behind cache.h share: cache.c (fetching), cache_forget.c (forgetting, messages of other nodes),
 * cache_sweep.c (records of tx:forget). Nobody else includes it. */
#pragma once

#include "base/arena.h"
#include "base/list.h"
#include "base/map.h"
#include "data/redis_sub.h"
#include "net/timer.h"
#include "net/wake.h"
#include "services/cache.h"

#define CACHE_MAGIC 0xcac4e902u

enum {
    CACHE_TICK_MS = 250,
    CACHE_L2_MS = 500,      /* deadline of one step in Redis; its being slow must not be worse than its being away */
    CACHE_REST_MS = 1000,   /* after a step that failed it is not asked for so long */
    CACHE_BEHIND_MS = 5000, /* how long Redis is not read after it missed a forget, unless that is prolonged */
};

struct cache_sweep;

struct cache {
    unsigned magic;
    struct loop *loop;
    struct cache_shm shm;
    struct wake *wake;
    bool has_l2;
    uint64_t rest_until_ms; /* Redis has just failed us */
    struct cache_l2 l2;
    size_t max_value;
    uint64_t l1_max_ttl_ms;

    struct map current;  /* key → its load, which new callers join */
    struct list loads;   /* all of them, also those that are no longer current */
    struct list lookups; /* cache_wait of CACHE_GET, in Redis */
    unsigned n_out;      /* loads that callers hold */
    struct timer tick;

    struct redis_sub *sub;
    struct redis_op *seq_op;
    struct list forgets; /* struct cache_forget: in Redis, or waiting for it */
    unsigned n_late;     /* of them, waiting */
    struct cache_sweep *sweep;
};

void cache_arm_tick(struct cache *cache);
bool cache_l2_is_usable(const struct cache *cache);
void cache_set_behind(struct cache *cache);
void cache_l2_failed(struct cache *cache); /* counts it, and lets Redis rest */

/* cache_forget.c */
void cache_forget_open(struct cache *cache);
void cache_forget_tick(struct cache *cache); /* true work only while something waits for Redis */
void cache_forget_close(struct cache *cache);

/* cache_sweep.c */
struct cache_sweep *cache_sweep_new(struct cache *cache, struct pg *pg);
void cache_sweep_free(struct cache_sweep *sweep);                       /* NULL is fine */
void cache_sweep_done(struct cache_sweep *sweep, struct slice records); /* their rows may go; "id,id", copied */
