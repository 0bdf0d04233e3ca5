/* The cache (chowk.cache) of one process: L1 in shared memory, then L2 in Redis, then the application's loader, of
 * which at most one runs per key and machine. Raw JSON stays raw: a hit is a copy. (DESIGN 5; TRAPS T11, T13)
 *
 *   cache_peek           the hot path: L1 only
 *   cache_wait_start     what follows a miss; ends with a value, or with the order to load it
 *   cache_load_store     the loaded value: to L2, L1 and to all who wait, unless it was forgotten meanwhile
 *   cache_forget         makes sure that nothing loaded before this call is returned after it
 *
 * Without Redis, and while it is away, everything goes on with L1 and loaders. */
#pragma once

#include "base/buf.h"
#include "net/loop.h"
#include "services/cache_l2.h"

struct cache;
struct cache_wait;
struct cache_load;
struct pg;

struct cache_opts {
    struct loop *loop;
    struct redis *redis;    /* NULL: no L2, and no other machines */
    struct pg *pg;          /* NULL: no records of tx:forget to sweep */
    int segment_fd;         /* cache_segment_create; borrowed for the call; -1: memory of this process alone */
    size_t size, max_value; /* bytes of L1, and of the largest value; those the segment was made with */
    uint32_t l1_max_ttl_ms; /* with Redis: how long L1 may go without asking it */
    const char *name_space; /* of the keys in Redis */
};
int cache_segment_create(size_t size, size_t max_value, struct err *err) MUST_CHECK; /* by the master; fd or -1 */
bool cache_segment_fits(int fd, size_t size, size_t max_value);          /* one that was handed on, for these sizes */
struct cache *cache_new(const struct cache_opts *opts, struct err *err); /* NULL: err */
/* Before redis and pg. Who still waits completes with ERR_CANCELLED; loads that are out must have ended. */
void cache_free(struct cache *cache);

/* OK, or ERR_INVALID with what is wrong: empty, too long, a tag with white space. */
enum status cache_check_key(struct slice key, struct err *err) MUST_CHECK;
enum status cache_check_tag(struct slice tag, struct err *err) MUST_CHECK;

/* ---- reading ------------------------------------------------------------------------------------------------- */

struct cache_value {
    enum cache_kind kind;
    struct slice bytes;
};

enum cache_hit { CACHE_MISS, CACHE_HIT, CACHE_HIT_STALE };
/* L1 alone; appends the value to out. A stale one may be returned, but should be refreshed (cache_refresh_claim). */
enum cache_hit cache_peek(struct cache *cache, struct slice key, struct buf *out, enum cache_kind *kind);

enum cache_mode {
    CACHE_FETCH, /* a value, or the order to load */
    CACHE_TRY,   /* the same, but CACHE_BUSY instead of waiting for somebody else's load */
    CACHE_GET,   /* a value, or CACHE_ABSENT */
};
enum cache_outcome_type {
    CACHE_VALUE,
    CACHE_ABSENT,
    CACHE_LOAD, /* load it, then end `load` */
    CACHE_ELSEWHERE,
    CACHE_FAILED, /* the one who loaded failed, with err; or the deadline has passed */
};
struct cache_outcome { /* borrowed for the call, but for `load` */
    enum cache_outcome_type type;
    struct cache_value value;
    bool is_stale; /* the value should be refreshed */
    struct cache_load *load;
    const struct err *err;
};
typedef void (*cache_done_fn)(void *data, const struct cache_outcome *outcome);

struct cache_call {
    struct cache_subject subject;
    enum cache_mode mode;
    struct cache_load *claimed; /* from cache_refresh_claim: takes it over */
    uint64_t deadline_ms;       /* loop_now based */
    cache_done_fn done;
    void *data;
    const void *owner; /* who calls; for cache_is_loading */
};
/* Completes once through `done`, never from inside this call, unless it was cancelled. */
struct cache_wait *cache_wait_start(struct cache *cache, const struct cache_call *call);
void cache_wait_cancel(struct cache_wait *wait);

/* After a stale hit: NULL, or the right to refresh the key, to be passed to cache_wait_start or abandoned. */
struct cache_load *cache_refresh_claim(struct cache *cache, const struct cache_subject *subject);

/* ---- the end of a load: exactly one of these ------------------------------------------------------------------- */

struct cache_life {
    uint64_t ttl_ms, stale_ms; /* stale: how long after the ttl it may still be served */
    uint64_t neg_ttl_ms;       /* of CACHE_NOTHING; 0: that is not kept */
    double jitter;             /* 0 … 1: the ttl is shortened by up to this share of it */
};
#define CACHE_LIFE_MAX_MS UINT64_C(2592000000) /* 30 days, ttl and stale together */

/* ERR (ERR_INVALID): over max_value; the load goes on, abandon it. */
enum status cache_check_value(const struct cache *cache, const struct cache_load *load, struct slice bytes,
                              struct err *err) MUST_CHECK;
void cache_load_store(struct cache_load *load, const struct cache_value *value, const struct cache_life *life);
void cache_load_fail(struct cache_load *load, const struct err *err); /* for all who wait */
void cache_load_abandon(struct cache_load *load);                     /* the next one who waits loads it */
struct slice cache_load_key(const struct cache_load *load);
/* `owner` has the order to load this very key: waiting for it would never end. */
bool cache_is_loading(const struct cache *cache, struct slice key, const void *owner);

/* ---- forgetting ------------------------------------------------------------------------------------------------ */

struct cache_forget;
/* `records`: ids of rows in cache_forget, "id,id", which go when it is done; empty: none. Both are copied. L1 forgets
 * within this call. While Redis is away it is told later: by the rows, else by this process. */
struct cache_forget *cache_forget(struct cache *cache, const struct cache_names *names, struct slice records);
/* Right after it: done is called, later, when L1 and, as far as they can be reached, Redis and the other nodes know.
 * NULL takes that back. */
void cache_forget_notify(struct cache_forget *forget, void (*done)(void *data), void *data);

/* ---- figures --------------------------------------------------------------------------------------------------- */

struct cache_stats { /* of the machine */
    uint64_t counters[CACHE_N_COUNTERS];
    struct cache_l1_usage l1;
    unsigned n_in_flight;   /* loads */
    bool has_l2, is_behind; /* is_behind: Redis does not know yet what to forget, so it is not read */
};
void cache_stats(const struct cache *cache, struct cache_stats *out);
uint64_t cache_own_count(const struct cache *cache, enum cache_counter counter); /* of this process alone */
void cache_usage(const struct cache *cache, struct cache_l1_usage *out);
/* {"hits_l1":…,…} */
void cache_stats_json(const struct cache_stats *stats, struct buf *out);
