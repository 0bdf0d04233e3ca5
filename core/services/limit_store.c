/* Shards, each under its own lock: a robust mutex, its generation, and buckets of WAYS slots. A check locks the shards
 * of all its keys in ascending order, so that two checks never wait for each other. A shard whose holder died gets a
 * new generation, which makes every slot of it a free one at once. */
#include "services/limit_store.h"

#include <stdalign.h>
#include <unistd.h>

#include "base/crypto.h"
#include "base/log.h"
#include "services/limit_count.h"

enum { N_SHARDS = 64, WAYS = 8 };

struct slot {
    uint64_t id; /* the second hash of its key; the first is the bucket's tag */
    struct limit_count count;
};

struct bucket {
    alignas(SHM_BODY_ALIGN) uint64_t tags[WAYS]; /* 0: free */
    uint32_t generations[WAYS];                  /* not the shard's: free */
    struct slot slots[WAYS];
};

struct shard {
    alignas(SHM_BODY_ALIGN) struct shm_lock lock;
    uint32_t generation;
};

struct limit_table {
    uint64_t keys[3]; /* of the hashes, drawn once: peers cannot aim collisions */
    struct shard shards[N_SHARDS];
    struct bucket buckets[];
};

static uint32_t buckets_per_shard(uint32_t n_keys)
{
    return (n_keys + N_SHARDS * WAYS - 1) / (N_SHARDS * WAYS);
}

static void create_table(void *body, const void *data UNUSED)
{
    struct limit_table *table = body;
    crypto_random(table->keys, sizeof(table->keys));
    for (int i = 0; i < N_SHARDS; i++) {
        shm_lock_create(&table->shards[i].lock);
        table->shards[i].generation = 1;
    }
}

static struct shm_layout layout_of(uint32_t n_keys)
{
    return (struct shm_layout){.name = "chowk-limit",
                               .magic = 0x11317001u,
                               .version = 2,
                               .size = sizeof(struct limit_table) +
                                       (size_t)N_SHARDS * buckets_per_shard(n_keys) * sizeof(struct bucket),
                               .create = create_table};
}

int limit_segment_create(uint32_t n_keys, struct err *err)
{
    struct shm_layout layout = layout_of(n_keys);
    return shm_create(&layout, err);
}

static enum status open_own(struct limit_store *store, uint32_t n_keys, struct err *err)
{
    struct shm_layout layout = layout_of(n_keys);
    int fd = shm_create(&layout, err);
    if (fd < 0)
        return ERR;
    enum status status = shm_attach(fd, &layout, &store->segment, err);
    close(fd);
    return status;
}

enum status limit_store_open(struct limit_store *store, int fd, uint32_t n_keys, struct err *err)
{
    struct err why = {0};
    struct shm_layout layout = layout_of(n_keys);
    *store = (struct limit_store){.n_buckets = buckets_per_shard(n_keys)};
    if (fd >= 0 && shm_attach(fd, &layout, &store->segment, &why) != OK)
        log_warn("limits are counted by this process alone", LOG_S("why", why.message));
    if (!store->segment.body && open_own(store, n_keys, err) != OK)
        return ERR;
    store->table = store->segment.body;
    return OK;
}

void limit_store_close(struct limit_store *store)
{
    shm_detach(&store->segment);
    store->table = NULL;
}

/* ---- finding -------------------------------------------------------------------------------------------------- */

struct place {
    uint64_t tag, id;
    struct shard *shard;
    struct bucket *bucket;
    struct limit_count *count; /* in the table, or `fresh` while the key has no slot */
    struct limit_count fresh;
};

/* Rules of one name but other numbers, as before and after a restart, count apart. */
static uint64_t rule_hash(const struct limit_rule *rule, const uint64_t keys[2])
{
    uint64_t numbers[] = {rule->algorithm, rule->limit, rule->burst, rule->window_us,
                          slice_hash_keyed(slice_str(rule->name), keys)};
    return slice_hash_keyed(slice_of((const char *)numbers, sizeof(numbers)), keys);
}

static void locate(struct limit_store *store, const struct limit_demand *demand, struct place *place)
{
    struct limit_table *table = store->table;
    uint64_t rule = rule_hash(demand->rule, table->keys);
    uint64_t hash = slice_hash_keyed(demand->key, (const uint64_t[]){table->keys[0] ^ rule, table->keys[1]});
    size_t shard = hash % N_SHARDS;
    place->tag = hash ? hash : 1;
    place->id = slice_hash_keyed(demand->key, (const uint64_t[]){table->keys[1] ^ rule, table->keys[2]});
    place->shard = &table->shards[shard];
    place->bucket = &table->buckets[shard * store->n_buckets + hash / N_SHARDS % store->n_buckets];
}

static bool is_live(const struct bucket *bucket, int way, const struct shard *shard)
{
    return bucket->tags[way] != 0 && bucket->generations[way] == shard->generation;
}

static void look_up(struct place *place)
{
    struct bucket *bucket = place->bucket;
    for (int way = 0; way < WAYS; way++) {
        if (bucket->tags[way] != place->tag || !is_live(bucket, way, place->shard) ||
            bucket->slots[way].id != place->id)
            continue;
        place->count = &bucket->slots[way].count;
        return;
    }
    place->fresh = (struct limit_count){0};
    place->count = &place->fresh;
}

/* The slot that is free, or would be forgotten first. */
static int choose_way(const struct place *place)
{
    int best = 0;
    for (int way = 0; way < WAYS; way++) {
        if (!is_live(place->bucket, way, place->shard))
            return way;
        if (place->bucket->slots[way].count.until_us < place->bucket->slots[best].count.until_us)
            best = way;
    }
    return best;
}

static void settle_down(struct limit_store *store, struct place *place, uint64_t now_us)
{
    struct bucket *bucket = place->bucket;
    if (place->count != &place->fresh)
        return;
    int way = choose_way(place);
    store->n_evicted += is_live(bucket, way, place->shard) && bucket->slots[way].count.until_us > now_us;
    bucket->tags[way] = place->tag;
    bucket->generations[way] = place->shard->generation;
    bucket->slots[way] = (struct slot){.id = place->id, .count = place->fresh};
    place->count = &bucket->slots[way].count;
}

/* ---- locking -------------------------------------------------------------------------------------------------- */

static size_t sort_shards(const struct place *places, size_t n, struct shard **shards)
{
    size_t n_shards = 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = n_shards;
        while (at > 0 && shards[at - 1] > places[i].shard)
            at--;
        if (at > 0 && shards[at - 1] == places[i].shard)
            continue;
        memmove(&shards[at + 1], &shards[at], (n_shards - at) * sizeof(struct shard *));
        shards[at] = places[i].shard;
        n_shards++;
    }
    return n_shards;
}

static void unlock(struct shard **shards, size_t n)
{
    while (n > 0)
        shm_unlock(&shards[--n]->lock);
}

static bool lock(struct limit_store *store, struct shard **shards, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        switch (shm_lock(&shards[i]->lock, SHM_WAIT_MAX_US / LIMIT_DEMANDS_MAX)) {
        case SHM_HELD:
            break;
        case SHM_ORPHANED:
            shards[i]->generation++;
            store->n_orphaned++;
            break;
        case SHM_BUSY:
            unlock(shards, i);
            store->n_busy++;
            return false;
        }
    }
    return true;
}

enum status limit_store_check(struct limit_store *store, const struct limit_demand *demands, size_t n,
                              uint32_t quantity, uint64_t now_us, struct limit_verdict *verdicts)
{
    struct place places[LIMIT_DEMANDS_MAX];
    struct shard *shards[LIMIT_DEMANDS_MAX];
    bool is_allowed = true;
    CHECK(n <= LIMIT_DEMANDS_MAX);
    for (size_t i = 0; i < n; i++)
        locate(store, &demands[i], &places[i]);
    size_t n_shards = sort_shards(places, n, shards);
    if (!lock(store, shards, n_shards))
        return AGAIN;
    for (size_t i = 0; i < n; i++) {
        look_up(&places[i]);
        limit_count_test(places[i].count, demands[i].rule, quantity, now_us, &verdicts[i]);
        is_allowed = is_allowed && verdicts[i].is_allowed;
    }
    for (size_t i = 0; is_allowed && quantity > 0 && i < n; i++) {
        settle_down(store, &places[i], now_us);
        limit_count_charge(places[i].count, demands[i].rule, quantity, now_us, &verdicts[i]);
    }
    unlock(shards, n_shards);
    return OK;
}
