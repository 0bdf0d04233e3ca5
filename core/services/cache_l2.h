/* L2: values in Redis, for all machines, under the same protocol of epochs as L1, but each step one script, so that it
 * is atomic: who looks a value up and misses gets a token of the epochs; storing compares it; forgetting deletes the
 * value, changes the epochs and tells every node. An epoch that Redis has lost (evicted, flushed) is no epoch: the
 * token or the value that carries it is void. (TRAPS T13)
 *
 * Keys, after the namespace: v:<key> value, k:<slot> epoch of the keys of that hash, t:<tag> epoch of a tag (t: alone
 * is everything's), clock and seq (counters). Values begin with a line "kind fresh_until dead_at epoch tag epoch …",
 * times in ms by Redis' clock. */
#pragma once

#include "data/redis.h"
#include "services/cache_l1.h"

enum { CACHE_EPOCH_MAX = 24, CACHE_NAMESPACE_MAX = 40 };

struct cache_l2 {
    struct redis *redis;
    char name_space[CACHE_NAMESPACE_MAX + 1];
    struct redis_script lookup, store, forget;
};
void cache_l2_create(struct cache_l2 *l2, struct redis *redis, const char *name_space);

/* Epochs of keys are shared by hash, the same on every machine: strangers who ask for what does not exist must not fill
 * Redis with them. */
uint32_t cache_l2_slot(struct slice key);

/* What a load is about. Borrowed for the call. */
struct cache_subject {
    struct slice key;
    const struct slice *tags;
    size_t n_tags;
};
struct cache_token {
    size_t n; /* 0: none */
    char epochs[CACHE_STAMPS_MAX][CACHE_EPOCH_MAX];
};

struct cache_l2_answer {
    bool is_hit;
    enum cache_kind kind;
    struct slice value;        /* borrowed for the call */
    int64_t fresh_ms, left_ms; /* fresh_ms <= 0: stale */
    struct cache_token token;  /* on a miss that is to be loaded */
};
enum cache_l2_mode { CACHE_L2_GET, CACHE_L2_FETCH, CACHE_L2_TOKEN /* a miss in any case */ };

struct redis_op *cache_l2_lookup(struct cache_l2 *l2, enum cache_l2_mode mode, const struct cache_subject *subject,
                                 uint64_t deadline_ms, redis_done_fn done, void *data);
/* Reads what `done` of a look-up was given. False: it is no such answer. */
bool cache_l2_read(const struct redis_value *value, struct cache_l2_answer *out) MUST_CHECK;

struct cache_l2_item {
    struct cache_subject subject;
    const struct cache_token *token;
    enum cache_kind kind;
    struct slice value;
    uint64_t fresh_ms, life_ms;
};
/* done: integer 1, stored; 0, forgotten meanwhile. */
struct redis_op *cache_l2_store(struct cache_l2 *l2, const struct cache_l2_item *item, uint64_t deadline_ms,
                                redis_done_fn done, void *data);

/* What to forget: keys, and tags; the tag "" is everything. Copied. done: the message's number as text. */
struct cache_names {
    const struct slice *keys, *tags;
    size_t n_keys, n_tags;
};
struct redis_op *cache_l2_forget(struct cache_l2 *l2, const struct cache_names *names, uint64_t node,
                                 uint64_t deadline_ms, redis_done_fn done, void *data);

/* Messages of it, on this channel. */
void cache_l2_channel(const struct cache_l2 *l2, struct buf *out);
struct redis_op *cache_l2_last_seq(struct cache_l2 *l2, uint64_t deadline_ms, redis_done_fn done, void *data);
struct cache_news {
    uint64_t seq, node;
    struct slice names; /* for cache_news_next */
};
bool cache_news_read(struct slice payload, struct cache_news *out) MUST_CHECK;
/* True: the next name. False: no more, or nonsense (names is then not empty). */
bool cache_news_next(struct cache_news *news, bool *is_tag, struct slice *name) MUST_CHECK;
