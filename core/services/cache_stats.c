/* The cache's figures, for status, metrics and `chowk cache`. */
#include <stdatomic.h>

#include "base/clock.h"
#include "base/json.h"
#include "services/cache_flight.h"
#include "services/cache_priv.h"

void cache_stats(const struct cache *cache, struct cache_stats *out)
{
    CHECK_OBJ(cache, CACHE_MAGIC);
    *out = (struct cache_stats){.has_l2 = cache->has_l2,
                                .is_behind = clock_ms() < atomic_load(&cache->shm.head->behind_until_ms),
                                .n_in_flight = cache_flight_count(&cache->shm)};
    cache_shm_sum(&cache->shm, out->counters);
    cache_l1_usage(&cache->shm, &out->l1);
}

uint64_t cache_own_count(const struct cache *cache, enum cache_counter counter)
{
    return atomic_load_explicit(&cache->shm.self->counters[counter], memory_order_relaxed);
}

void cache_usage(const struct cache *cache, struct cache_l1_usage *out)
{
    cache_l1_usage(&cache->shm, out);
}

static void add(struct buf *out, const char *name, uint64_t value)
{
    buf_printf(out, "%s\"%s\":", out->ptr[out->len - 1] == '{' ? "" : ",", name);
    json_write_int(out, (int64_t)value);
}

void cache_stats_json(const struct cache_stats *stats, struct buf *out)
{
    static const char *const names[CACHE_N_COUNTERS] = {[CACHE_HITS_L1] = "hits_l1",
                                                        [CACHE_HITS_STALE] = "hits_stale",
                                                        [CACHE_MISSES] = "misses_l1",
                                                        [CACHE_HITS_L2] = "hits_l2",
                                                        [CACHE_LOADS] = "loads",
                                                        [CACHE_LOAD_ERRORS] = "load_errors",
                                                        [CACHE_WAITS] = "waits",
                                                        [CACHE_REFUSED] = "refused",
                                                        [CACHE_FORGETS] = "forgets",
                                                        [CACHE_L2_ERRORS] = "l2_errors",
                                                        [CACHE_EVICTIONS] = "evictions",
                                                        [CACHE_BUSY] = "busy_locks",
                                                        [CACHE_ORPHANED] = "orphaned_shards",
                                                        [CACHE_DROPS] = "l1_drops"};
    buf_byte(out, '{');
    for (int i = 0; i < CACHE_N_COUNTERS; i++)
        add(out, names[i], stats->counters[i]);
    add(out, "items", stats->l1.n_items);
    add(out, "bytes_used", stats->l1.bytes_used);
    add(out, "bytes", stats->l1.bytes);
    add(out, "in_flight", stats->n_in_flight);
    buf_printf(out, ",\"l2\":%s,\"l2_behind\":%s}", stats->has_l2 ? "true" : "false",
               stats->is_behind ? "true" : "false");
}
