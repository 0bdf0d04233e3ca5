/* Forgetting, here and everywhere.
 *
 * L1 forgets at once, Redis by one script that also tells the other nodes, and then L1 once more: a worker of this
 * machine may have read the old value from Redis in between. While Redis is away, `behind_until_ms` in shared memory
 * keeps all workers of the machine from reading it, for it holds values that should be gone; what has no record in
 * PostgreSQL (cache_sweep.c) is kept here and told as soon as Redis is back.
 *
 * Messages of other nodes come to every worker, and one of them is enough: `last_seq` says which have been applied.
 * Messages are counted by Redis and arrive in that order; it only moves over contiguous ones. After a gap, Redis' count
 * tells whether any was missed; if so, or if it cannot be asked, all of L1 is dropped. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "services/cache_priv.h"

#define FORGET_MAGIC 0xcac4e905u

enum { LATE_MAX = 1000 };

struct cache_forget {
    unsigned magic;
    struct cache *cache;
    struct list node;
    struct arena memory;
    struct cache_names names;
    struct slice records;
    struct redis_op *op;
    bool is_late; /* Redis has missed it, and no record tells it later */
    struct loop_task task;
    void (*done)(void *data);
    void *data;
};

/* ---- L1 ------------------------------------------------------------------------------------------------------ */

static void forget_key(struct cache *cache, struct slice key)
{
    struct cache_name name = cache_name(&cache->shm, key);
    cache_stamp_raise(&cache->shm, cache_stamp_key(&cache->shm, &name));
    cache_l1_remove(&cache->shm, &name);
}

static void forget_tag(struct cache *cache, struct slice tag)
{
    cache_stamp_raise(&cache->shm, tag.len ? cache_stamp_tag(&cache->shm, tag) : cache_stamp_all(&cache->shm));
}

static void forget_names(struct cache *cache, const struct cache_names *names)
{
    for (size_t i = 0; i < names->n_keys; i++)
        forget_key(cache, names->keys[i]);
    for (size_t i = 0; i < names->n_tags; i++)
        forget_tag(cache, names->tags[i]);
}

static void drop_l1(struct cache *cache)
{
    forget_tag(cache, SLICE(""));
    cache_count(&cache->shm, CACHE_DROPS);
}

/* ---- one forget ---------------------------------------------------------------------------------------------- */

static const struct slice *copy_names(struct arena *arena, const struct slice *names, size_t n)
{
    struct slice *copy = arena_alloc(arena, (n + 1) * sizeof(*copy));
    for (size_t i = 0; i < n; i++)
        copy[i] = arena_copy(arena, names[i]);
    return copy;
}

static struct cache_forget *forget_new(struct cache *cache, const struct cache_names *names)
{
    struct cache_forget *forget = xalloc(sizeof(*forget));
    forget->magic = FORGET_MAGIC;
    forget->cache = cache;
    arena_create(&forget->memory);
    forget->names = (struct cache_names){.keys = copy_names(&forget->memory, names->keys, names->n_keys),
                                         .tags = copy_names(&forget->memory, names->tags, names->n_tags),
                                         .n_keys = names->n_keys,
                                         .n_tags = names->n_tags};
    list_push(&cache->forgets, &forget->node);
    return forget;
}

static void forget_free(struct cache_forget *forget)
{
    if (forget->op)
        redis_op_cancel(forget->op);
    forget->cache->n_late -= forget->is_late;
    loop_defer_cancel(&forget->task);
    list_remove(&forget->node);
    arena_destroy(&forget->memory);
    forget->magic = 0;
    free(forget);
}

static void report(struct cache_forget *forget)
{
    void (*done)(void *data) = forget->done;
    forget->done = NULL;
    if (done)
        done(forget->data);
}

/* Too many to keep: everything, then. */
static void merge_late(struct cache *cache)
{
    static const struct slice all = {"", 0};
    list_each (node, &cache->forgets) {
        struct cache_forget *forget = container_of(node, struct cache_forget, node);
        if (forget->is_late && !forget->op)
            forget_free(forget);
    }
    struct cache_forget *forget = forget_new(cache, &(struct cache_names){.tags = &all, .n_tags = 1});
    forget->is_late = true;
    cache->n_late++;
}

/* Redis has missed it. */
static void on_missed(struct cache_forget *forget)
{
    struct cache *cache = forget->cache;
    cache_set_behind(cache);
    forget_names(cache, &forget->names);
    report(forget);
    if (forget->records.len) {
        forget_free(forget); /* they stay */
        return;
    }
    if (!forget->is_late)
        cache->n_late++;
    forget->is_late = true;
    if (cache->n_late > LATE_MAX)
        merge_late(cache);
    cache_arm_tick(cache);
}

static void on_forgotten(struct cache_forget *forget)
{
    struct cache *cache = forget->cache;
    if (cache->has_l2) /* once more: what may have been read from Redis in between */
        forget_names(cache, &forget->names);
    if (forget->records.len && cache->sweep)
        cache_sweep_done(cache->sweep, forget->records);
    report(forget);
    forget_free(forget);
}

static void on_told(void *data, const struct redis_value *value UNUSED, const struct err *err)
{
    struct cache_forget *forget = data;
    CHECK_OBJ(forget, FORGET_MAGIC);
    forget->op = NULL;
    if (!err) {
        on_forgotten(forget);
        return;
    }
    cache_l2_failed(forget->cache);
    on_missed(forget);
}

static void tell_redis(struct cache_forget *forget)
{
    struct cache *cache = forget->cache;
    forget->op = cache_l2_forget(&cache->l2, &forget->names, cache->shm.head->node, loop_now(cache->loop) + CACHE_L2_MS,
                                 on_told, forget);
}

static bool is_resting(const struct cache *cache)
{
    return clock_ms() < cache->rest_until_ms;
}

static void on_untold(struct loop_task *task)
{
    struct cache_forget *forget = container_of(task, struct cache_forget, task);
    if (forget->cache->has_l2)
        on_missed(forget);
    else
        on_forgotten(forget);
}

struct cache_forget *cache_forget(struct cache *cache, const struct cache_names *names, struct slice records)
{
    CHECK_OBJ(cache, CACHE_MAGIC);
    struct cache_forget *forget = forget_new(cache, names);
    forget->records = arena_copy(&forget->memory, records);
    cache_count(&cache->shm, CACHE_FORGETS);
    forget_names(cache, &forget->names);
    if (cache->has_l2 && !is_resting(cache)) /* while it is away this fails at once */
        tell_redis(forget);
    else
        loop_defer(cache->loop, &forget->task, on_untold);
    return forget;
}

void cache_forget_notify(struct cache_forget *forget, void (*done)(void *data), void *data)
{
    CHECK_OBJ(forget, FORGET_MAGIC);
    forget->done = done;
    forget->data = data;
}

void cache_forget_tick(struct cache *cache)
{
    if (cache->n_late == 0)
        return;
    cache_set_behind(cache);
    list_each (node, &cache->forgets) {
        struct cache_forget *forget = container_of(node, struct cache_forget, node);
        if (forget->is_late && !forget->op && redis_is_up(cache->l2.redis) && !is_resting(cache))
            tell_redis(forget);
    }
}

/* ---- other nodes --------------------------------------------------------------------------------------------- */

static void on_message(struct cache *cache, struct slice payload)
{
    struct cache_news news;
    struct slice name;
    bool is_tag;
    if (!cache_news_read(payload, &news)) {
        drop_l1(cache);
        return;
    }
    uint64_t before = news.seq - 1;
    if (news.seq <= atomic_load(&cache->shm.head->last_seq))
        return;
    while (news.node != cache->shm.head->node && cache_news_next(&news, &is_tag, &name)) {
        if (is_tag)
            forget_tag(cache, name);
        else
            forget_key(cache, name);
    }
    if (news.node != cache->shm.head->node && news.names.len > 0)
        drop_l1(cache);
    atomic_compare_exchange_strong(&cache->shm.head->last_seq, &before, news.seq);
}

/* Redis' count of messages, after a gap. */
static void on_seq(void *data, const struct redis_value *value, const struct err *err)
{
    struct cache *cache = data;
    int64_t seq = 0;
    CHECK_OBJ(cache, CACHE_MAGIC);
    cache->seq_op = NULL;
    if (!err && value->type == REDIS_STRING && !slice_to_int(value->str, 0, INT64_MAX, &seq))
        seq = 0;
    uint64_t last = atomic_load(&cache->shm.head->last_seq);
    if (!err && (uint64_t)seq == last)
        return;
    drop_l1(cache);
    while (last < (uint64_t)seq && !atomic_compare_exchange_weak(&cache->shm.head->last_seq, &last, (uint64_t)seq))
        ;
}

static void catch_up(struct cache *cache)
{
    if (cache->seq_op)
        redis_op_cancel(cache->seq_op);
    cache->seq_op = cache_l2_last_seq(&cache->l2, loop_now(cache->loop) + CACHE_L2_MS, on_seq, cache);
}

static void on_news(void *data, const struct redis_news *news)
{
    struct cache *cache = data;
    CHECK_OBJ(cache, CACHE_MAGIC);
    switch (news->event) {
    case REDIS_SUB_MESSAGE:
        on_message(cache, news->payload);
        return;
    case REDIS_SUB_READY:
    case REDIS_SUB_GAP:
        catch_up(cache);
        return;
    case REDIS_SUB_DOWN: /* until it is back L1 lives by l1_max_ttl */
        return;
    case REDIS_SUB_FAILED:
        log_error("cache: Redis refuses the subscription: other machines' changes are seen only when values expire",
                  LOG_S("why", news->err->message));
        redis_sub_close(cache->sub);
        cache->sub = NULL;
        return;
    }
    WRONG("redis_sub_event");
}

void cache_forget_open(struct cache *cache)
{
    if (!cache->has_l2)
        return;
    struct buf name = {0};
    cache_l2_channel(&cache->l2, &name);
    struct slice channel = buf_as_slice(&name);
    cache->sub = redis_subscribe(
        cache->l2.redis, &(struct redis_sub_opts){.channels = &channel, .n_channels = 1, .fn = on_news, .data = cache});
    buf_free(&name);
    if (redis_sub_is_ready(cache->sub))
        catch_up(cache);
}

void cache_forget_close(struct cache *cache)
{
    if (cache->sub)
        redis_sub_close(cache->sub);
    if (cache->seq_op)
        redis_op_cancel(cache->seq_op);
    while (!list_is_empty(&cache->forgets)) {
        struct cache_forget *forget = container_of(cache->forgets.next, struct cache_forget, node);
        report(forget);
        forget_free(forget);
    }
}
