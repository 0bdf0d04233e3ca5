/* Loads. A load stands for one key that this process needs and has not got:
 *
 *   CLAIMED    a refresh that was promised, whose caller comes next
 *   ELSEWHERE  another process loads it; we are woken, or its lease ends
 *   LOOKING    asking Redis, which answers with the value, or with a token of its epochs
 *   OUT        a caller's loader runs
 *   STORING    the value is on its way to Redis; L1 and those who wait get it when Redis has said that nothing was
 *              forgotten since the token
 *
 * Who comes while a load is current joins it. A load is current while its stamps hold: after a forget the next caller
 * begins a new one, and those who waited for the old one begin again when it ends, so that nobody is given what was
 * read before a write that he may know of (T13).
 *
 * Never: a lock held over anything of this file. */
#include "services/cache_priv.h"

#include <stdlib.h>

#include "base/clock.h"

enum {
    COOL_MS = 1000,        /* after a refresh failed, before the next */
    LOAD_MAX_MS = 3600000, /* a load older than this is not stored: Redis may have lost its epochs */
    LATE_MS = 1000,        /* beyond its caller's deadline a load keeps its claim */
};

/* ---- loads: birth and end ------------------------------------------------------------------------------------ */

static size_t load_n_stamps(const struct cache_load *load)
{
    return 2 + load->n_tags;
}

void cache_stamps_take(const struct cache_shm *shm, const struct cache_name *name, const struct slice *tags,
                       size_t n_tags, struct cache_stamp *stamps)
{
    stamps[0] = cache_stamp_all(shm);
    stamps[1] = cache_stamp_key(shm, name);
    for (size_t i = 0; i < n_tags; i++)
        stamps[2 + i] = cache_stamp_tag(shm, tags[i]);
}

bool cache_load_holds(const struct cache_load *load)
{
    return cache_stamps_hold(&load->cache->shm, load->stamps, load_n_stamps(load));
}

struct cache_load *cache_load_new(struct cache *cache, const struct cache_subject *subject)
{
    struct cache_load *load = xalloc(sizeof(*load));
    load->magic = CACHE_LOAD_MAGIC;
    load->cache = cache;
    list_init(&load->waits);
    arena_create(&load->memory);
    load->name = cache_name(&cache->shm, arena_copy(&load->memory, subject->key));
    for (size_t i = 0; i < subject->n_tags; i++)
        load->tags[i] = arena_copy(&load->memory, subject->tags[i]);
    load->n_tags = subject->n_tags;
    list_push(&cache->loads, &load->node);
    map_put(&cache->current, load->name.key, load);
    load->is_current = true;
    cache_arm_tick(cache);
    return load;
}

static struct cache_subject subject_of(const struct cache_load *load)
{
    return (struct cache_subject){load->name.key, load->tags, load->n_tags};
}

void cache_load_retire(struct cache_load *load)
{
    if (load->is_current)
        map_remove(&load->cache->current, load->name.key);
    load->is_current = false;
}

void cache_wake_peer(void *data, uint64_t id)
{
    const struct cache *cache = data;
    wake_send(cache->wake, id);
}

/* Whoever still waits for it begins again. */
void cache_load_end(struct cache_load *load, uint32_t cool_ms)
{
    struct cache *cache = load->cache;
    struct list *node;
    cache_load_retire(load);
    if (load->op)
        redis_op_cancel(load->op);
    cache_flight_end(&cache->shm, load->claim, clock_ms(), cool_ms, cache_wake_peer, cache);
    while ((node = list_pop(&load->waits)))
        cache_wait_again(container_of(node, struct cache_wait, node));
    cache_blob_unref(load->blob);
    list_remove(&load->node);
    arena_destroy(&load->memory);
    load->magic = 0;
    free(load);
}

static void deliver(struct cache_load *load, struct cache_blob *blob)
{
    while (!list_is_empty(&load->waits))
        cache_wait_give(container_of(load->waits.next, struct cache_wait, node), blob);
}

static bool put_l1(struct cache_load *load, const struct cache_blob *blob, uint64_t fresh_ms, uint64_t life_ms)
{
    const struct cache *cache = load->cache;
    uint64_t now_ms = clock_ms(), cap_ms = cache->has_l2 ? cache->l1_max_ttl_ms : CACHE_LIFE_MAX_MS;
    struct cache_l1_item item = {.name = load->name,
                                 .kind = blob->kind,
                                 .value = cache_blob_slice(blob),
                                 .fresh_until_ms = now_ms + (fresh_ms < cap_ms ? fresh_ms : cap_ms),
                                 .dead_at_ms = now_ms + (life_ms < cap_ms ? life_ms : cap_ms),
                                 .stamps = load->stamps,
                                 .n_stamps = load_n_stamps(load)};
    return cache_l1_put(&cache->shm, &item);
}

/* ---- the way to a value -------------------------------------------------------------------------------------- */

/* The order to load goes to the first who waits. */
static void hand_out(struct cache_load *load)
{
    if (list_is_empty(&load->waits)) {
        cache_load_end(load, load->is_refresh ? COOL_MS : 0);
        return;
    }
    struct cache_wait *wait = container_of(load->waits.next, struct cache_wait, node);
    load->state = LOAD_OUT;
    load->until_ms = wait->call.deadline_ms + LATE_MS;
    load->owner = wait->call.owner;
    load->cache->n_out++;
    wait->load = load;
    cache_wait_complete(wait, CACHE_LOAD);
}

static void on_l2_hit(struct cache_load *load, const struct cache_l2_answer *answer)
{
    bool is_stale = answer->fresh_ms <= 0;
    if (is_stale && load->is_refresh) { /* this is what we are to refresh: now for the token */
        load->wants_token = true;
        cache_load_look_up(load);
        return;
    }
    cache_count(&load->cache->shm, CACHE_HITS_L2);
    struct cache_blob *blob = cache_blob_new(answer->kind, answer->value, is_stale);
    put_l1(load, blob, is_stale ? 0 : (uint64_t)answer->fresh_ms, (uint64_t)answer->left_ms);
    if (cache_load_holds(load))
        deliver(load, blob);
    cache_blob_unref(blob);
    cache_load_end(load, 0);
}

static void on_looked(void *data, const struct redis_value *value, const struct err *err)
{
    struct cache_load *load = data;
    struct cache_l2_answer answer;
    CHECK_OBJ(load, CACHE_LOAD_MAGIC);
    load->op = NULL;
    if (err || !cache_l2_read(value, &answer)) {
        cache_l2_failed(load->cache);
        hand_out(load);
    } else if (answer.is_hit) {
        on_l2_hit(load, &answer);
    } else {
        load->token = answer.token;
        hand_out(load);
    }
}

uint64_t cache_l2_deadline(const struct cache *cache)
{
    return loop_now(cache->loop) + CACHE_L2_MS;
}

void cache_load_look_up(struct cache_load *load)
{
    struct cache *cache = load->cache;
    load->token.n = 0;
    if (!cache_l2_is_usable(cache)) {
        hand_out(load);
        return;
    }
    struct cache_subject subject = subject_of(load);
    load->state = LOAD_LOOKING;
    load->op = cache_l2_lookup(&cache->l2, load->wants_token ? CACHE_L2_TOKEN : CACHE_L2_FETCH, &subject,
                               cache_l2_deadline(cache), on_looked, load);
}

static enum cache_claim_result claim(struct cache_load *load, bool may_cool)
{
    const struct cache_shm *shm = &load->cache->shm;
    cache_stamps_take(shm, &load->name, load->tags, load->n_tags, load->stamps);
    load->stamped_ms = clock_ms();
    struct cache_claim_ask ask = {.name = load->name,
                                  .stamps = {load->stamps[0], load->stamps[1]},
                                  .now_ms = load->stamped_ms,
                                  .may_cool = may_cool,
                                  .may_wait = !may_cool};
    enum cache_claim_result result = cache_flight_claim(shm, &ask, &load->claim, &load->until_ms);
    if (result != CACHE_TAKEN)
        load->until_ms = UINT64_MAX;
    return result;
}

/* It may have been loaded just before the claim was ours. */
static bool is_there_now(struct cache_load *load)
{
    struct cache_l1_found found;
    struct buf bytes = {0};
    bool is_there = cache_l1_get(&load->cache->shm, &load->name, clock_ms(), &bytes, &found) &&
                    (!found.is_stale || !load->is_refresh);
    if (is_there) {
        struct cache_blob *blob = cache_blob_new(found.kind, buf_as_slice(&bytes), found.is_stale);
        deliver(load, blob);
        cache_blob_unref(blob);
    }
    buf_free(&bytes);
    return is_there;
}

static void refuse_tries(struct cache_load *load)
{
    list_each (node, &load->waits) {
        struct cache_wait *wait = container_of(node, struct cache_wait, node);
        if (wait->call.mode == CACHE_TRY)
            cache_wait_complete(wait, CACHE_ELSEWHERE);
    }
}

/* Begins, or begins again after another process was at it. */
void cache_load_go(struct cache_load *load)
{
    bool is_taken = claim(load, false) == CACHE_TAKEN;
    if (is_there_now(load)) {
        cache_load_end(load, 0);
    } else if (is_taken) {
        load->state = LOAD_ELSEWHERE;
        refuse_tries(load);
        if (list_is_empty(&load->waits))
            cache_load_end(load, 0);
    } else {
        cache_load_look_up(load);
    }
}

void cache_on_woken(void *data)
{
    struct cache *cache = data;
    struct list again;
    list_init(&again);
    CHECK_OBJ(cache, CACHE_MAGIC);
    list_each (node, &cache->loads) {
        struct cache_load *load = container_of(node, struct cache_load, node);
        if (load->state != LOAD_ELSEWHERE)
            continue;
        list_remove(node);
        list_push(&again, node);
    }
    for (struct list *node; (node = list_pop(&again));) {
        struct cache_load *load = container_of(node, struct cache_load, node);
        list_push(&cache->loads, node);
        if (list_is_empty(&load->waits))
            cache_load_end(load, 0);
        else
            cache_load_go(load);
    }
}

struct cache_load *cache_refresh_claim(struct cache *cache, const struct cache_subject *subject)
{
    CHECK_OBJ(cache, CACHE_MAGIC);
    if (map_get(&cache->current, subject->key))
        return NULL;
    struct cache_load *load = cache_load_new(cache, subject);
    load->is_refresh = true;
    load->state = LOAD_CLAIMED;
    enum cache_claim_result result = claim(load, true);
    if (result == CACHE_TAKEN || result == CACHE_COOLING) {
        cache_load_end(load, 0);
        return NULL;
    }
    load->until_ms = loop_now(cache->loop) + LATE_MS;
    cache->n_out++;
    return load;
}

/* ---- the end of a load --------------------------------------------------------------------------------------- */

enum status cache_check_value(const struct cache *cache, const struct cache_load *load, struct slice bytes,
                              struct err *err)
{
    if (bytes.len <= cache->max_value)
        return OK;
    return err_set(err, ERR_INVALID, "cache: the value of \"%.*s\" has %zu bytes, cache.max_value allows %zu",
                   SLICE_FMT(load->name.key), bytes.len, cache->max_value);
}

static struct cache *take_back(struct cache_load *load)
{
    CHECK_OBJ(load, CACHE_LOAD_MAGIC);
    CHECK(load->state == LOAD_OUT || load->state == LOAD_CLAIMED);
    load->cache->n_out--;
    return load->cache;
}

/* Loaded, and not forgotten meanwhile. */
static void settle(struct cache_load *load)
{
    struct cache_blob *blob = load->blob;
    if (load->life_ms > 0 && !put_l1(load, blob, load->fresh_ms, load->life_ms) && !cache_load_holds(load))
        cache_count(&load->cache->shm, CACHE_REFUSED);
    if (cache_load_holds(load))
        deliver(load, blob);
    cache_load_end(load, 0);
}

static void on_stored(void *data, const struct redis_value *value, const struct err *err)
{
    struct cache_load *load = data;
    CHECK_OBJ(load, CACHE_LOAD_MAGIC);
    load->op = NULL;
    if (err)
        cache_l2_failed(load->cache);
    if (err || value->integer == 1) {
        settle(load);
        return;
    }
    cache_count(&load->cache->shm, CACHE_REFUSED);
    cache_load_end(load, 0);
}

static uint64_t jittered(uint64_t ms, double jitter)
{
    static uint64_t state;
    state = state * UINT64_C(6364136223846793005) + clock_us();
    double part = (double)(state >> 40) / (double)(1 << 24); /* 0 … 1 */
    uint64_t left = (uint64_t)((double)ms * (1 - jitter * part));
    return left ? left : 1;
}

void cache_load_store(struct cache_load *load, const struct cache_value *value, const struct cache_life *life)
{
    struct cache *cache = take_back(load);
    uint64_t ttl_ms = value->kind == CACHE_NOTHING ? life->neg_ttl_ms : life->ttl_ms;
    cache_count(&cache->shm, CACHE_LOADS);
    load->blob = cache_blob_new(value->kind, value->bytes, false);
    load->fresh_ms = ttl_ms ? jittered(ttl_ms, life->jitter) : 0;
    load->life_ms = ttl_ms ? load->fresh_ms + (value->kind == CACHE_NOTHING ? 0 : life->stale_ms) : 0;
    load->state = LOAD_STORING;
    if (clock_ms() - load->stamped_ms > LOAD_MAX_MS)
        load->life_ms = 0;
    if (load->life_ms == 0 || !cache_load_holds(load) || load->token.n == 0 || !cache_l2_is_usable(cache)) {
        settle(load);
        return;
    }
    struct cache_l2_item item = {.subject = subject_of(load),
                                 .token = &load->token,
                                 .kind = value->kind,
                                 .value = cache_blob_slice(load->blob),
                                 .fresh_ms = load->fresh_ms,
                                 .life_ms = load->life_ms};
    load->until_ms = UINT64_MAX;
    load->op = cache_l2_store(&cache->l2, &item, cache_l2_deadline(cache), on_stored, load);
}

void cache_load_fail(struct cache_load *load, const struct err *err)
{
    struct cache *cache = take_back(load);
    cache_count(&cache->shm, CACHE_LOAD_ERRORS);
    while (!list_is_empty(&load->waits))
        cache_wait_fail(container_of(load->waits.next, struct cache_wait, node), err);
    cache_load_end(load, load->is_refresh ? COOL_MS : 0);
}

void cache_load_abandon(struct cache_load *load)
{
    take_back(load);
    hand_out(load);
}

struct slice cache_load_key(const struct cache_load *load)
{
    CHECK_OBJ(load, CACHE_LOAD_MAGIC);
    return load->name.key;
}

bool cache_is_loading(const struct cache *cache, struct slice key, const void *owner)
{
    const struct cache_load *load = map_get(&cache->current, key);
    return load && load->state == LOAD_OUT && load->owner == owner;
}
