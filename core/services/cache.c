/* Fetching. A load stands for one key that this process needs and has not got:
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
 * Never: a lock held over anything of this file; a completion from inside the call that asked for it. */
#include "services/cache.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "services/cache_flight.h"
#include "services/cache_priv.h"

#define LOAD_MAGIC 0xcac4e903u
#define WAIT_MAGIC 0xcac4e904u

enum {
    COOL_MS = 1000,        /* after a refresh failed, before the next */
    LOAD_MAX_MS = 3600000, /* a load older than this is not stored: Redis may have lost its epochs */
    LATE_MS = 1000,        /* beyond its caller's deadline a load keeps its claim */
};

struct blob { /* a value that several get */
    unsigned refs;
    enum cache_kind kind;
    bool is_stale;
    size_t len;
    char bytes[];
};

enum load_state { LOAD_CLAIMED, LOAD_ELSEWHERE, LOAD_LOOKING, LOAD_OUT, LOAD_STORING };

struct cache_load {
    unsigned magic;
    struct cache *cache;
    enum load_state state;
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
    const void *owner; /* OUT */
    struct blob *blob; /* STORING */
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
    struct blob *blob;
    struct cache_load *load;
    struct err *err;
};

static void start_wait(struct cache_wait *wait);
static void look_up(struct cache_load *load);

/* ---- values -------------------------------------------------------------------------------------------------- */

static struct blob *blob_new(enum cache_kind kind, struct slice bytes, bool is_stale)
{
    struct blob *blob = xalloc(sizeof(*blob) + bytes.len);
    blob->refs = 1;
    blob->kind = kind;
    blob->is_stale = is_stale;
    blob->len = bytes.len;
    if (bytes.len)
        memcpy(blob->bytes, bytes.ptr, bytes.len);
    return blob;
}

static void blob_unref(struct blob *blob)
{
    if (blob && --blob->refs == 0)
        free(blob);
}

static struct slice blob_slice(const struct blob *blob)
{
    return slice_of(blob->bytes, blob->len);
}

/* ---- waits --------------------------------------------------------------------------------------------------- */

static void wait_free(struct cache_wait *wait)
{
    list_remove(&wait->node);
    blob_unref(wait->blob);
    free(wait->err);
    arena_destroy(&wait->memory);
    wait->magic = 0;
    free(wait);
}

static void on_complete(struct loop_task *task)
{
    struct cache_wait *wait = container_of(task, struct cache_wait, task);
    CHECK_OBJ(wait, WAIT_MAGIC);
    struct cache_outcome outcome = {.type = wait->type, .load = wait->load, .err = wait->err};
    if (wait->blob) {
        outcome.value = (struct cache_value){wait->blob->kind, blob_slice(wait->blob)};
        outcome.is_stale = wait->blob->is_stale;
    }
    cache_done_fn done = wait->call.done;
    void *data = wait->call.data;
    list_remove(&wait->node);
    done(data, &outcome);
    wait_free(wait);
}

static void complete(struct cache_wait *wait, enum cache_outcome_type type)
{
    CHECK(!wait->is_done);
    wait->is_done = true;
    wait->type = type;
    list_remove(&wait->node);
    loop_defer(wait->cache->loop, &wait->task, on_complete);
}

static void complete_with(struct cache_wait *wait, struct blob *blob)
{
    blob->refs++;
    wait->blob = blob;
    complete(wait, CACHE_VALUE);
}

static void complete_failed(struct cache_wait *wait, const struct err *err)
{
    wait->err = xalloc(sizeof(*wait->err));
    *wait->err = *err;
    complete(wait, CACHE_FAILED);
}

/* ---- loads: birth and end ------------------------------------------------------------------------------------ */

static size_t load_n_stamps(const struct cache_load *load)
{
    return 2 + load->n_tags;
}

static void stamp(const struct cache_shm *shm, const struct cache_name *name, const struct slice *tags, size_t n_tags,
                  struct cache_stamp *stamps)
{
    stamps[0] = cache_stamp_all(shm);
    stamps[1] = cache_stamp_key(shm, name);
    for (size_t i = 0; i < n_tags; i++)
        stamps[2 + i] = cache_stamp_tag(shm, tags[i]);
}

static bool load_holds(const struct cache_load *load)
{
    return cache_stamps_hold(&load->cache->shm, load->stamps, load_n_stamps(load));
}

static struct cache_load *load_new(struct cache *cache, const struct cache_subject *subject)
{
    struct cache_load *load = xalloc(sizeof(*load));
    load->magic = LOAD_MAGIC;
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

static void retire(struct cache_load *load)
{
    if (load->is_current)
        map_remove(&load->cache->current, load->name.key);
    load->is_current = false;
}

static void wake_peer(void *data, uint64_t id)
{
    const struct cache *cache = data;
    wake_send(cache->wake, id);
}

/* Whoever still waits for it begins again. */
static void load_end(struct cache_load *load, uint32_t cool_ms)
{
    struct cache *cache = load->cache;
    struct list *node;
    retire(load);
    if (load->op)
        redis_op_cancel(load->op);
    cache_flight_end(&cache->shm, load->claim, clock_ms(), cool_ms, wake_peer, cache);
    while ((node = list_pop(&load->waits)))
        start_wait(container_of(node, struct cache_wait, node));
    blob_unref(load->blob);
    list_remove(&load->node);
    arena_destroy(&load->memory);
    load->magic = 0;
    free(load);
}

static void deliver(struct cache_load *load, struct blob *blob)
{
    while (!list_is_empty(&load->waits))
        complete_with(container_of(load->waits.next, struct cache_wait, node), blob);
}

static bool put_l1(struct cache_load *load, const struct blob *blob, uint64_t fresh_ms, uint64_t life_ms)
{
    const struct cache *cache = load->cache;
    uint64_t now_ms = clock_ms(), cap_ms = cache->has_l2 ? cache->l1_max_ttl_ms : CACHE_LIFE_MAX_MS;
    struct cache_l1_item item = {.name = load->name,
                                 .kind = blob->kind,
                                 .value = blob_slice(blob),
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
        load_end(load, load->is_refresh ? COOL_MS : 0);
        return;
    }
    struct cache_wait *wait = container_of(load->waits.next, struct cache_wait, node);
    load->state = LOAD_OUT;
    load->until_ms = wait->call.deadline_ms + LATE_MS;
    load->owner = wait->call.owner;
    load->cache->n_out++;
    wait->load = load;
    complete(wait, CACHE_LOAD);
}

static void on_l2_hit(struct cache_load *load, const struct cache_l2_answer *answer)
{
    bool is_stale = answer->fresh_ms <= 0;
    if (is_stale && load->is_refresh) { /* this is what we are to refresh: now for the token */
        load->wants_token = true;
        look_up(load);
        return;
    }
    cache_count(&load->cache->shm, CACHE_HITS_L2);
    struct blob *blob = blob_new(answer->kind, answer->value, is_stale);
    put_l1(load, blob, is_stale ? 0 : (uint64_t)answer->fresh_ms, (uint64_t)answer->left_ms);
    if (load_holds(load))
        deliver(load, blob);
    blob_unref(blob);
    load_end(load, 0);
}

static void on_looked(void *data, const struct redis_value *value, const struct err *err)
{
    struct cache_load *load = data;
    struct cache_l2_answer answer;
    CHECK_OBJ(load, LOAD_MAGIC);
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

static uint64_t l2_deadline(const struct cache *cache)
{
    return loop_now(cache->loop) + CACHE_L2_MS;
}

static void look_up(struct cache_load *load)
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
                               l2_deadline(cache), on_looked, load);
}

static enum cache_claim_result claim(struct cache_load *load, bool may_cool)
{
    const struct cache_shm *shm = &load->cache->shm;
    stamp(shm, &load->name, load->tags, load->n_tags, load->stamps);
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
        struct blob *blob = blob_new(found.kind, buf_as_slice(&bytes), found.is_stale);
        deliver(load, blob);
        blob_unref(blob);
    }
    buf_free(&bytes);
    return is_there;
}

static void refuse_tries(struct cache_load *load)
{
    list_each (node, &load->waits) {
        struct cache_wait *wait = container_of(node, struct cache_wait, node);
        if (wait->call.mode == CACHE_TRY)
            complete(wait, CACHE_ELSEWHERE);
    }
}

/* Begins, or begins again after another process was at it. */
static void go(struct cache_load *load)
{
    bool is_taken = claim(load, false) == CACHE_TAKEN;
    if (is_there_now(load)) {
        load_end(load, 0);
    } else if (is_taken) {
        load->state = LOAD_ELSEWHERE;
        refuse_tries(load);
        if (list_is_empty(&load->waits))
            load_end(load, 0);
    } else {
        look_up(load);
    }
}

static void on_woken(void *data)
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
            load_end(load, 0);
        else
            go(load);
    }
}

/* ---- callers ------------------------------------------------------------------------------------------------- */

static void on_got(void *data, const struct redis_value *value, const struct err *err)
{
    struct cache_wait *wait = data;
    struct cache *cache = wait->cache;
    struct cache_l2_answer answer;
    wait->op = NULL;
    if (err || !cache_l2_read(value, &answer)) {
        cache_l2_failed(cache);
        complete(wait, CACHE_ABSENT);
        return;
    }
    bool holds = cache_stamps_hold(&cache->shm, wait->stamps, 2);
    if (!answer.is_hit || !holds) {
        complete(wait, CACHE_ABSENT);
        return;
    }
    cache_count(&cache->shm, CACHE_HITS_L2);
    struct blob *blob = blob_new(answer.kind, answer.value, answer.fresh_ms <= 0);
    complete_with(wait, blob);
    blob_unref(blob);
}

/* Not kept in L1: its tags are not known here. */
static void start_get(struct cache_wait *wait)
{
    struct cache *cache = wait->cache;
    struct cache_name name = cache_name(&cache->shm, wait->call.subject.key);
    if (!cache_l2_is_usable(cache)) {
        complete(wait, CACHE_ABSENT);
        return;
    }
    stamp(&cache->shm, &name, NULL, 0, wait->stamps);
    list_push(&cache->lookups, &wait->node);
    wait->op = cache_l2_lookup(&cache->l2, CACHE_L2_GET, &wait->call.subject, l2_deadline(cache), on_got, wait);
}

static void start_wait(struct cache_wait *wait)
{
    struct cache *cache = wait->cache;
    const struct cache_call *call = &wait->call;
    struct cache_load *load = map_get(&cache->current, call->subject.key);
    if (load && load_holds(load) && load->state != LOAD_CLAIMED) {
        if (call->mode == CACHE_TRY) {
            complete(wait, CACHE_ELSEWHERE);
            return;
        }
        cache_count(&cache->shm, CACHE_WAITS);
        list_push(&load->waits, &wait->node);
        return;
    }
    if (load)
        retire(load);
    load = load_new(cache, &call->subject);
    list_push(&load->waits, &wait->node);
    go(load);
}

struct cache_wait *cache_wait_start(struct cache *cache, const struct cache_call *call)
{
    CHECK_OBJ(cache, CACHE_MAGIC);
    struct cache_wait *wait = xalloc(sizeof(*wait));
    wait->magic = WAIT_MAGIC;
    wait->cache = cache;
    wait->call = *call;
    arena_create(&wait->memory);
    struct slice *tags = arena_alloc(&wait->memory, (call->subject.n_tags + 1) * sizeof(*tags));
    for (size_t i = 0; i < call->subject.n_tags; i++)
        tags[i] = arena_copy(&wait->memory, call->subject.tags[i]);
    wait->call.subject.key = arena_copy(&wait->memory, call->subject.key);
    wait->call.subject.tags = tags;
    wait->call.claimed = NULL;
    cache_arm_tick(cache);
    if (call->mode == CACHE_GET) {
        start_get(wait);
    } else if (call->claimed) {
        CHECK_OBJ(call->claimed, LOAD_MAGIC);
        CHECK(call->claimed->state == LOAD_CLAIMED);
        cache->n_out--;
        list_push_front(&call->claimed->waits, &wait->node);
        look_up(call->claimed);
    } else {
        start_wait(wait);
    }
    return wait;
}

void cache_wait_cancel(struct cache_wait *wait)
{
    CHECK_OBJ(wait, WAIT_MAGIC);
    loop_defer_cancel(&wait->task);
    if (wait->op)
        redis_op_cancel(wait->op);
    struct cache_load *load = wait->is_done && wait->type == CACHE_LOAD ? wait->load : NULL;
    wait_free(wait);
    if (load)
        cache_load_abandon(load);
}

struct cache_load *cache_refresh_claim(struct cache *cache, const struct cache_subject *subject)
{
    CHECK_OBJ(cache, CACHE_MAGIC);
    if (map_get(&cache->current, subject->key))
        return NULL;
    struct cache_load *load = load_new(cache, subject);
    load->is_refresh = true;
    load->state = LOAD_CLAIMED;
    enum cache_claim_result result = claim(load, true);
    if (result == CACHE_TAKEN || result == CACHE_COOLING) {
        load_end(load, 0);
        return NULL;
    }
    load->until_ms = loop_now(cache->loop) + LATE_MS;
    cache->n_out++;
    return load;
}

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
    CHECK_OBJ(load, LOAD_MAGIC);
    CHECK(load->state == LOAD_OUT || load->state == LOAD_CLAIMED);
    load->cache->n_out--;
    return load->cache;
}

/* Loaded, and not forgotten meanwhile. */
static void settle(struct cache_load *load)
{
    struct blob *blob = load->blob;
    if (load->life_ms > 0 && !put_l1(load, blob, load->fresh_ms, load->life_ms) && !load_holds(load))
        cache_count(&load->cache->shm, CACHE_REFUSED);
    if (load_holds(load))
        deliver(load, blob);
    load_end(load, 0);
}

static void on_stored(void *data, const struct redis_value *value, const struct err *err)
{
    struct cache_load *load = data;
    CHECK_OBJ(load, LOAD_MAGIC);
    load->op = NULL;
    if (err)
        cache_l2_failed(load->cache);
    if (err || value->integer == 1) {
        settle(load);
        return;
    }
    cache_count(&load->cache->shm, CACHE_REFUSED);
    load_end(load, 0);
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
    load->blob = blob_new(value->kind, value->bytes, false);
    load->fresh_ms = ttl_ms ? jittered(ttl_ms, life->jitter) : 0;
    load->life_ms = ttl_ms ? load->fresh_ms + (value->kind == CACHE_NOTHING ? 0 : life->stale_ms) : 0;
    load->state = LOAD_STORING;
    if (clock_ms() - load->stamped_ms > LOAD_MAX_MS)
        load->life_ms = 0;
    if (load->life_ms == 0 || !load_holds(load) || load->token.n == 0 || !cache_l2_is_usable(cache)) {
        settle(load);
        return;
    }
    struct cache_l2_item item = {.subject = subject_of(load),
                                 .token = &load->token,
                                 .kind = value->kind,
                                 .value = blob_slice(load->blob),
                                 .fresh_ms = load->fresh_ms,
                                 .life_ms = load->life_ms};
    load->until_ms = UINT64_MAX;
    load->op = cache_l2_store(&cache->l2, &item, l2_deadline(cache), on_stored, load);
}

void cache_load_fail(struct cache_load *load, const struct err *err)
{
    struct cache *cache = take_back(load);
    cache_count(&cache->shm, CACHE_LOAD_ERRORS);
    while (!list_is_empty(&load->waits))
        complete_failed(container_of(load->waits.next, struct cache_wait, node), err);
    load_end(load, load->is_refresh ? COOL_MS : 0);
}

void cache_load_abandon(struct cache_load *load)
{
    take_back(load);
    hand_out(load);
}

struct slice cache_load_key(const struct cache_load *load)
{
    CHECK_OBJ(load, LOAD_MAGIC);
    return load->name.key;
}

bool cache_is_loading(const struct cache *cache, struct slice key, const void *owner)
{
    const struct cache_load *load = map_get(&cache->current, key);
    return load && load->state == LOAD_OUT && load->owner == owner;
}

/* ---- time ---------------------------------------------------------------------------------------------------- */

static void check_deadlines(struct list *waits, uint64_t now_ms)
{
    struct err err = {0};
    (void)err_set(&err, ERR_DEADLINE, "the deadline passed while another caller loaded the value");
    list_each (node, waits) {
        struct cache_wait *wait = container_of(node, struct cache_wait, node);
        if (now_ms >= wait->call.deadline_ms)
            complete_failed(wait, &err);
    }
}

static void on_tick(struct timer *timer)
{
    struct cache *cache = container_of(timer, struct cache, tick);
    uint64_t now_ms = clock_ms();
    bool has_waited_enough = false;
    CHECK_OBJ(cache, CACHE_MAGIC);
    list_each (node, &cache->loads) {
        struct cache_load *load = container_of(node, struct cache_load, node);
        check_deadlines(&load->waits, now_ms);
        if (load->state == LOAD_ELSEWHERE)
            has_waited_enough |= now_ms >= load->until_ms;
        else if (now_ms < load->until_ms)
            cache_flight_renew(&cache->shm, load->claim, now_ms);
    }
    if (has_waited_enough) /* a lease ended: whoever held it is dead, or stands still */
        on_woken(cache);
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
    cache_flight_bury(&cache->shm, id, wake_peer, cache);
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
        cache->wake = wake_new(opts->loop, cache->shm.head->node, cache->shm.id, on_woken, cache, err);
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

/* Ends everything that waits here. */
static void end_waits(struct list *waits)
{
    struct err err = {0};
    (void)err_set(&err, ERR_CANCELLED, "this server is stopping");
    while (!list_is_empty(waits)) {
        struct cache_wait *wait = container_of(waits->next, struct cache_wait, node);
        if (wait->op)
            redis_op_cancel(wait->op);
        wait->op = NULL;
        complete_failed(wait, &err);
        loop_defer_cancel(&wait->task);
        on_complete(&wait->task);
    }
}

void cache_free(struct cache *cache)
{
    if (!cache)
        return;
    CHECK_OBJ(cache, CACHE_MAGIC);
    CHECK(cache->n_out == 0);
    cache_sweep_free(cache->sweep);
    end_waits(&cache->lookups);
    while (!list_is_empty(&cache->loads)) {
        struct cache_load *load = container_of(cache->loads.next, struct cache_load, node);
        end_waits(&load->waits);
        load_end(load, 0);
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
