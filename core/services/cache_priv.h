/* What the files behind cache.h share: cache.c (its parts), cache_wait.c (who waits), cache_load.c (what they wait
 * for), cache_forget.c (forgetting, messages of other nodes), cache_sweep.c (records of tx:forget). Nobody else
 * includes it. */
#pragma once

#include "base/arena.h"
#include "base/list.h"
#include "base/map.h"
#include "data/redis_sub.h"
#include "net/timer.h"
#include "net/wake.h"
#include "services/cache.h"
#include "services/cache_flight.h"

#define CACHE_MAGIC 0xcac4e902u
#define CACHE_LOAD_MAGIC 0xcac4e903u
#define CACHE_WAIT_MAGIC 0xcac4e904u

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

struct cache_blob { /* a value that several get */
    unsigned refs;
    enum cache_kind kind;
    bool is_stale;
    size_t len;
    char bytes[];
};

enum cache_load_state { LOAD_CLAIMED, LOAD_ELSEWHERE, LOAD_LOOKING, LOAD_OUT, LOAD_STORING };

struct cache_load {
    unsigned magic;
    struct cache *cache;
    enum cache_load_state state;
    bool is_current, is_refresh, wants_token;
    struct list node, waits;
    struct arena memory; /* of key and tags */
    struct cache_name name;
    struct slice tags[CACHE_TAGS_MAX];
    size_t n_tags;
    struct cache_stamp stamps[CACHE_STAMPS_MAX];
    struct cache_claim claim;
    struct cache_token token;
    uint64_t stamped_ms, until_ms; /* until: the end of its claim, or of the other's lease */
    struct redis_op *op;
    const void *owner;       /* OUT */
    struct cache_blob *blob; /* STORING */
    uint64_t fresh_ms, life_ms;
};

struct cache_wait {
    unsigned magic;
    struct cache *cache;
    struct list node; /* of its load, or of cache->lookups */
    struct cache_call call;
    struct arena memory; /* of the subject: it may have to begin again */
    struct redis_op *op; /* CACHE_GET */
    struct cache_stamp stamps[CACHE_STAMPS_MAX];
    struct loop_task task;
    bool is_done;
    enum cache_outcome_type type;
    struct cache_blob *blob;
    struct cache_load *load;
    struct err *err;
};

uint64_t cache_l2_deadline(const struct cache *cache);
void cache_wake_peer(void *data, uint64_t id); /* data: the cache */
void cache_stamps_take(const struct cache_shm *shm, const struct cache_name *name, const struct slice *tags,
                       size_t n_tags, struct cache_stamp *stamps /* 2 + n_tags */);

/* cache_wait.c */
struct cache_blob *cache_blob_new(enum cache_kind kind, struct slice bytes, bool is_stale); /* refs 1 */
void cache_blob_unref(struct cache_blob *blob);                                             /* NULL is fine */
struct slice cache_blob_slice(const struct cache_blob *blob);
/* Each takes it out of its list, and completes it later in this turn. */
void cache_wait_complete(struct cache_wait *wait, enum cache_outcome_type type);
void cache_wait_give(struct cache_wait *wait, struct cache_blob *blob);
void cache_wait_fail(struct cache_wait *wait, const struct err *err);
void cache_wait_again(struct cache_wait *wait); /* from the beginning; it is in no list */
void cache_waits_check(struct list *waits, uint64_t now_ms);
void cache_waits_end(struct list *waits);

/* cache_load.c */
struct cache_load *cache_load_new(struct cache *cache,
                                  const struct cache_subject *subject); /* current; begin with go */
bool cache_load_holds(const struct cache_load *load); /* nothing it is about was forgotten since it began */
void cache_load_go(struct cache_load *load);          /* begins, or begins again after another process was at it */
void cache_load_look_up(struct cache_load *load);     /* the claim is there: asks Redis, then orders to load */
void cache_load_retire(struct cache_load *load);      /* who comes now begins a new one */
void cache_load_end(struct cache_load *load, uint32_t cool_ms); /* frees it; whoever still waits begins again */
void cache_on_woken(void *data); /* data: the cache; looks after what is loaded elsewhere */

/* cache_forget.c */
void cache_forget_open(struct cache *cache);
void cache_forget_tick(struct cache *cache); /* true work only while something waits for Redis */
void cache_forget_close(struct cache *cache);

/* cache_sweep.c */
struct cache_sweep *cache_sweep_new(struct cache *cache, struct pg *pg);
void cache_sweep_free(struct cache_sweep *sweep);                       /* NULL is fine */
void cache_sweep_done(struct cache_sweep *sweep, struct slice records); /* their rows may go; "id,id", copied */
