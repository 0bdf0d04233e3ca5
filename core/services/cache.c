/* The cache of one process: its parts, its one timer, the look into L1 that most calls end with. What follows a miss is
 * in cache_wait.c and cache_load.c, forgetting in cache_forget.c and cache_sweep.c. */
#include "services/cache.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "services/cache_flight.h"
#include "services/cache_priv.h"

enum cache_hit cache_peek(struct cache *cache, struct slice key, struct buf *out, enum cache_kind *kind)
{
    struct cache_name name = cache_name(&cache->shm, key);
    struct cache_l1_found found;
    if (!cache_l1_get(&cache->shm, &name, loop_now(cache->loop), out, &found)) {
        cache_count(&cache->shm, CACHE_MISSES);
        return CACHE_MISS;
    }
    *kind = found.kind;
    cache_count(&cache->shm, found.is_stale ? CACHE_HITS_STALE : CACHE_HITS_L1);
    return found.is_stale ? CACHE_HIT_STALE : CACHE_HIT;
}

/* ---- time ---------------------------------------------------------------------------------------------------- */

static void on_tick(struct timer *timer)
{
    struct cache *cache = container_of(timer, struct cache, tick);
    uint64_t now_ms = clock_ms();
    bool has_waited_enough = false;
    CHECK_OBJ(cache, CACHE_MAGIC);
    list_each (node, &cache->loads) {
        struct cache_load *load = container_of(node, struct cache_load, node);
        cache_waits_check(&load->waits, now_ms);
        if (load->state == LOAD_ELSEWHERE)
            has_waited_enough |= now_ms >= load->until_ms;
        else if (now_ms < load->until_ms)
            cache_flight_renew(&cache->shm, load->claim, now_ms);
    }
    if (has_waited_enough) /* a lease ended: whoever held it is dead, or stands still */
        cache_on_woken(cache);
    cache_forget_tick(cache);
    if (!list_is_empty(&cache->loads) || cache->n_late > 0)
        cache_arm_tick(cache);
}

void cache_arm_tick(struct cache *cache)
{
    if (!timer_is_armed(&cache->tick))
        timer_arm(cache->loop, &cache->tick, loop_now(cache->loop) + CACHE_TICK_MS, on_tick);
}

bool cache_l2_is_usable(const struct cache *cache)
{
    return cache->has_l2 && redis_is_up(cache->l2.redis) && clock_ms() >= cache->rest_until_ms &&
           clock_ms() >= atomic_load(&cache->shm.head->behind_until_ms);
}

void cache_l2_failed(struct cache *cache)
{
    cache_count(&cache->shm, CACHE_L2_ERRORS);
    cache->rest_until_ms = clock_ms() + CACHE_REST_MS;
}

void cache_set_behind(struct cache *cache)
{
    atomic_store(&cache->shm.head->behind_until_ms, clock_ms() + CACHE_BEHIND_MS);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

int cache_segment_create(size_t size, size_t max_value, struct err *err)
{
    return cache_shm_create(size, max_value, err);
}

static enum status check_name_space(const char *name, struct err *err)
{
    size_t len = strlen(name);
    if (len == 0 || len > CACHE_NAMESPACE_MAX || strcspn(name, " \t\r\n") < len)
        return err_set(err, ERR_INVALID, "cache.namespace: 1 to %d characters without white space, not \"%s\"",
                       CACHE_NAMESPACE_MAX, name);
    return OK;
}

bool cache_segment_fits(int fd, size_t size, size_t max_value)
{
    return cache_shm_fits(fd, size, max_value);
}

static void end_claims(void *data, uint64_t id)
{
    struct cache *cache = data;
    cache_flight_bury(&cache->shm, id, cache_wake_peer, cache);
}

struct cache *cache_new(const struct cache_opts *opts, struct err *err)
{
    struct cache *cache = xalloc(sizeof(*cache));
    bool is_alone = opts->segment_fd < 0; /* `chowk run`: what it keeps, nobody else reads */
    size_t size = is_alone ? opts->max_value * 8 : opts->size;
    if (size < CACHE_SIZE_MIN)
        size = CACHE_SIZE_MIN;
    cache->magic = CACHE_MAGIC;
    cache->loop = opts->loop;
    cache->max_value = opts->max_value;
    cache->l1_max_ttl_ms = opts->l1_max_ttl_ms;
    list_init(&cache->loads);
    list_init(&cache->lookups);
    list_init(&cache->forgets);
    if (check_name_space(opts->name_space, err) == OK &&
        cache_shm_open(&cache->shm, opts->segment_fd, size, opts->max_value, err) == OK)
        cache->wake = wake_new(opts->loop, cache->shm.head->node, cache->shm.id, cache_on_woken, cache, err);
    if (!cache->wake) {
        cache_free(cache);
        return NULL;
    }
    cache_shm_bury(&cache->shm, end_claims, cache);
    cache->has_l2 = opts->redis != NULL;
    if (cache->has_l2)
        cache_l2_create(&cache->l2, opts->redis, opts->name_space);
    cache_forget_open(cache);
    if (opts->pg && (!is_alone || cache->has_l2)) /* else records stay for those who serve */
        cache->sweep = cache_sweep_new(cache, opts->pg);
    return cache;
}

void cache_free(struct cache *cache)
{
    if (!cache)
        return;
    CHECK_OBJ(cache, CACHE_MAGIC);
    CHECK(cache->n_out == 0);
    cache_sweep_free(cache->sweep);
    cache_waits_end(&cache->lookups);
    while (!list_is_empty(&cache->loads)) {
        struct cache_load *load = container_of(cache->loads.next, struct cache_load, node);
        cache_waits_end(&load->waits);
        cache_load_end(load, 0);
    }
    cache_forget_close(cache);
    timer_stop(cache->loop, &cache->tick);
    wake_free(cache->wake);
    map_free(&cache->current);
    cache_shm_close(&cache->shm);
    cache->magic = 0;
    free(cache);
}

enum status cache_check_key(struct slice key, struct err *err)
{
    if (key.len == 0)
        return err_set(err, ERR_INVALID, "cache: an empty key");
    if (key.len > CACHE_KEY_MAX)
        return err_set(err, ERR_INVALID, "cache: a key of %zu bytes, at most %d are allowed (\"%.40s…\")", key.len,
                       CACHE_KEY_MAX, key.ptr);
    return OK;
}

enum status cache_check_tag(struct slice tag, struct err *err)
{
    if (tag.len == 0 || tag.len > CACHE_TAG_MAX)
        return err_set(err, ERR_INVALID, "cache: a tag has 1 to %d bytes, not %zu", CACHE_TAG_MAX, tag.len);
    for (size_t i = 0; i < tag.len; i++)
        if ((unsigned char)tag.ptr[i] <= ' ' || tag.ptr[i] == 0x7f)
            return err_set(err, ERR_INVALID, "cache: tag \"%.*s\" has white space", SLICE_FMT(tag));
    return OK;
}
