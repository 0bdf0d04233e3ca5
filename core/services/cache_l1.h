/* L1: values in memory that all workers of the machine share. Sharded by key, each shard under its own robust lock,
 * evicted by SIEVE, in blocks of one size chained together, so that memory cannot fragment: any free block serves any
 * value. What expired, or whose stamps no longer hold (cache_shm.h), is never returned.
 *
 * Nothing waits for a lock beyond 5 ms, then it is a miss (T11); nothing over 4 KiB is copied under one: a large value
 * is written in pieces, and read, pinned, outside, which counts only if the pin held. Losing any of it is harmless. */
#pragma once

#include "base/buf.h"
#include "services/cache_shm.h"

enum cache_kind {
    CACHE_NOTHING, /* the loader found nothing */
    CACHE_RAW,     /* raw JSON, sent as it is */
    CACHE_STRING,
    CACHE_JSON, /* any other Lua value, as JSON */
    CACHE_N_KINDS
};

struct cache_l1_found {
    enum cache_kind kind;
    bool is_stale; /* past fresh_until_ms */
};
/* Appends the value's bytes to out. False: not there. now_ms and all times here are clock_ms. */
bool cache_l1_get(const struct cache_shm *shm, const struct cache_name *name, uint64_t now_ms, struct buf *out,
                  struct cache_l1_found *found) MUST_CHECK;

struct cache_l1_item {
    struct cache_name name;
    enum cache_kind kind;
    struct slice value;
    uint64_t fresh_until_ms, dead_at_ms;
    const struct cache_stamp *stamps; /* from before the load */
    size_t n_stamps;                  /* at most CACHE_STAMPS_MAX */
};
/* Replaces what was there. False: not stored, because a stamp no longer holds, or there is no room or no lock. */
bool cache_l1_put(const struct cache_shm *shm, const struct cache_l1_item *item);
/* Frees its memory at once; that it is not returned any more is what raising its epoch is for. */
void cache_l1_remove(const struct cache_shm *shm, const struct cache_name *name);

struct cache_l1_usage {
    uint64_t n_items, bytes_used, bytes; /* used and all, in whole blocks */
};
void cache_l1_usage(const struct cache_shm *shm, struct cache_l1_usage *out);

/* Of cache_shm.c: fills in blocks and buckets of a shard; makes the locks on zeroed memory. */
void cache_l1_divide(struct cache_geometry *geometry);
void cache_l1_create(char *shards, const struct cache_geometry *geometry);
/* Tests: locks the shard of a key, leaves half of a change in it, and does not unlock it. */
void cache_l1_hold_for_test(const struct cache_shm *shm, const struct cache_name *name);
