/* Who waits for a value, from cache_wait_start to the one completion: in a load's list (cache_load.c), or for Redis
 * alone (CACHE_GET). A value that several get is one blob. A completion is always deferred, so that it never comes from
 * inside the call that asked for it, and one that carried the order to load may still be cancelled: then the next one
 * has it. */
#include "services/cache_priv.h"

#include <stdlib.h>

#include "base/clock.h"

/* ---- values -------------------------------------------------------------------------------------------------- */

struct cache_blob *cache_blob_new(enum cache_kind kind, struct slice bytes, bool is_stale)
{
    struct cache_blob *blob = xalloc(sizeof(*blob) + bytes.len);
    blob->refs = 1;
    blob->kind = kind;
    blob->is_stale = is_stale;
    blob->len = bytes.len;
    if (bytes.len)
        memcpy(blob->bytes, bytes.ptr, bytes.len);
    return blob;
}

void cache_blob_unref(struct cache_blob *blob)
{
    if (blob && --blob->refs == 0)
        free(blob);
}

struct slice cache_blob_slice(const struct cache_blob *blob)
{
    return slice_of(blob->bytes, blob->len);
}

/* ---- waits --------------------------------------------------------------------------------------------------- */

static void wait_free(struct cache_wait *wait)
{
    list_remove(&wait->node);
    cache_blob_unref(wait->blob);
    free(wait->err);
    arena_destroy(&wait->memory);
    wait->magic = 0;
    free(wait);
}

static void on_complete(struct loop_task *task)
{
    struct cache_wait *wait = container_of(task, struct cache_wait, task);
    CHECK_OBJ(wait, CACHE_WAIT_MAGIC);
    struct cache_outcome outcome = {.type = wait->type, .load = wait->load, .err = wait->err};
    if (wait->blob) {
        outcome.value = (struct cache_value){wait->blob->kind, cache_blob_slice(wait->blob)};
        outcome.is_stale = wait->blob->is_stale;
    }
    cache_done_fn done = wait->call.done;
    void *data = wait->call.data;
    list_remove(&wait->node);
    done(data, &outcome);
    wait_free(wait);
}

void cache_wait_complete(struct cache_wait *wait, enum cache_outcome_type type)
{
    CHECK(!wait->is_done);
    wait->is_done = true;
    wait->type = type;
    list_remove(&wait->node);
    loop_defer(wait->cache->loop, &wait->task, on_complete);
}

void cache_wait_give(struct cache_wait *wait, struct cache_blob *blob)
{
    blob->refs++;
    wait->blob = blob;
    cache_wait_complete(wait, CACHE_VALUE);
}

void cache_wait_fail(struct cache_wait *wait, const struct err *err)
{
    wait->err = xalloc(sizeof(*wait->err));
    *wait->err = *err;
    cache_wait_complete(wait, CACHE_FAILED);
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
        cache_wait_complete(wait, CACHE_ABSENT);
        return;
    }
    bool holds = cache_stamps_hold(&cache->shm, wait->stamps, 2);
    if (!answer.is_hit || !holds) {
        cache_wait_complete(wait, CACHE_ABSENT);
        return;
    }
    cache_count(&cache->shm, CACHE_HITS_L2);
    struct cache_blob *blob = cache_blob_new(answer.kind, answer.value, answer.fresh_ms <= 0);
    cache_wait_give(wait, blob);
    cache_blob_unref(blob);
}

/* Not kept in L1: its tags are not known here. */
static void start_get(struct cache_wait *wait)
{
    struct cache *cache = wait->cache;
    struct cache_name name = cache_name(&cache->shm, wait->call.subject.key);
    if (!cache_l2_is_usable(cache)) {
        cache_wait_complete(wait, CACHE_ABSENT);
        return;
    }
    cache_stamps_take(&cache->shm, &name, NULL, 0, wait->stamps);
    list_push(&cache->lookups, &wait->node);
    wait->op = cache_l2_lookup(&cache->l2, CACHE_L2_GET, &wait->call.subject, cache_l2_deadline(cache), on_got, wait);
}

void cache_wait_again(struct cache_wait *wait)
{
    struct cache *cache = wait->cache;
    const struct cache_call *call = &wait->call;
    struct cache_load *load = map_get(&cache->current, call->subject.key);
    if (load && cache_load_holds(load) && load->state != LOAD_CLAIMED) {
        if (call->mode == CACHE_TRY) {
            cache_wait_complete(wait, CACHE_ELSEWHERE);
            return;
        }
        cache_count(&cache->shm, CACHE_WAITS);
        list_push(&load->waits, &wait->node);
        return;
    }
    if (load)
        cache_load_retire(load);
    load = cache_load_new(cache, &call->subject);
    list_push(&load->waits, &wait->node);
    cache_load_go(load);
}

struct cache_wait *cache_wait_start(struct cache *cache, const struct cache_call *call)
{
    CHECK_OBJ(cache, CACHE_MAGIC);
    struct cache_wait *wait = xalloc(sizeof(*wait));
    wait->magic = CACHE_WAIT_MAGIC;
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
        CHECK_OBJ(call->claimed, CACHE_LOAD_MAGIC);
        CHECK(call->claimed->state == LOAD_CLAIMED);
        cache->n_out--;
        list_push_front(&call->claimed->waits, &wait->node);
        cache_load_look_up(call->claimed);
    } else {
        cache_wait_again(wait);
    }
    return wait;
}

void cache_wait_cancel(struct cache_wait *wait)
{
    CHECK_OBJ(wait, CACHE_WAIT_MAGIC);
    loop_defer_cancel(&wait->task);
    if (wait->op)
        redis_op_cancel(wait->op);
    struct cache_load *load = wait->is_done && wait->type == CACHE_LOAD ? wait->load : NULL;
    wait_free(wait);
    if (load)
        cache_load_abandon(load);
}

/* ---- the end of waiting -------------------------------------------------------------------------------------- */

void cache_waits_check(struct list *waits, uint64_t now_ms)
{
    struct err err = {0};
    (void)err_set(&err, ERR_DEADLINE, "the deadline passed while another caller loaded the value");
    list_each (node, waits) {
        struct cache_wait *wait = container_of(node, struct cache_wait, node);
        if (now_ms >= wait->call.deadline_ms)
            cache_wait_fail(wait, &err);
    }
}

/* Ends everything that waits here. */
void cache_waits_end(struct list *waits)
{
    struct err err = {0};
    (void)err_set(&err, ERR_CANCELLED, "this server is stopping");
    while (!list_is_empty(waits)) {
        struct cache_wait *wait = container_of(waits->next, struct cache_wait, node);
        if (wait->op)
            redis_op_cancel(wait->op);
        wait->op = NULL;
        cache_wait_fail(wait, &err);
        loop_defer_cancel(&wait->task);
        on_complete(&wait->task);
    }
}
