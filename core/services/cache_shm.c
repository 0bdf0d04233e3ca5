/* Geometry: head, flights, epochs, then shards of equal size, each a header, its buckets and its blocks. A shard is at
 * least four times the largest value, so that one value cannot push out everything, and at most 16 MiB, so that what is
 * done under its lock stays short. Zeroed memory is an empty cache: creating draws the random numbers and makes the
 * locks, nothing else. */
#include "services/cache_shm.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/crypto.h"
#include "base/log.h"
#include "services/cache_flight.h"
#include "services/cache_l1.h"

enum {
    MIN_EPOCHS = 1024,
    MAX_EPOCHS = 65536,
    BYTES_PER_EPOCH = 256,
    MAX_SHARDS = 256,
    SHARD_VALUES = 4, /* so many of the largest values fit a shard */
};
#define MIN_SHARD ((size_t)256 << 10)
#define MAX_SHARD ((size_t)16 << 20)

static uint32_t power_of_two(size_t most) /* the largest that is not above it; at least 1 */
{
    uint32_t n = 1;
    while ((size_t)n * 2 <= most && n < (UINT32_C(1) << 31))
        n *= 2;
    return n;
}

static size_t align(size_t at)
{
    return (at + SHM_BODY_ALIGN - 1) / SHM_BODY_ALIGN * SHM_BODY_ALIGN;
}

static uint32_t count_shards(size_t size, size_t max_value)
{
    size_t shard = max_value * SHARD_VALUES;
    if (shard < MIN_SHARD)
        shard = MIN_SHARD;
    uint32_t n = power_of_two(size / shard);
    while (n > 1 && size / n < shard)
        n /= 2;
    while (n < MAX_SHARDS && size / n > MAX_SHARD && size / n / 2 >= shard)
        n *= 2;
    return n < MAX_SHARDS ? n : MAX_SHARDS;
}

static struct cache_geometry geometry_of(size_t size, size_t max_value)
{
    struct cache_geometry g = {.size = size};
    size_t n_epochs = power_of_two(size / BYTES_PER_EPOCH);
    g.n_epochs = (uint32_t)(n_epochs < MIN_EPOCHS ? MIN_EPOCHS : n_epochs > MAX_EPOCHS ? MAX_EPOCHS : n_epochs);
    g.flights_at = align(sizeof(struct cache_head));
    g.epochs_at = align(g.flights_at + cache_flights_size());
    g.shards_at = align(g.epochs_at + g.n_epochs * sizeof(uint32_t));
    g.n_shards = count_shards(size, max_value);
    g.shard_size = (size - g.shards_at) / g.n_shards / SHM_BODY_ALIGN * SHM_BODY_ALIGN;
    cache_l1_divide(&g);
    return g;
}

static struct shm_layout layout_of(const struct cache_geometry *geometry)
{
    return (struct shm_layout){.name = "chowk-cache", .magic = 0xcac4e901u, .version = 2, .size = geometry->size};
}

struct dimensions {
    struct cache_geometry geometry;
    size_t max_value;
};

static void create(void *memory, const void *data)
{
    const struct dimensions *dimensions = data;
    const struct cache_geometry *geometry = &dimensions->geometry;
    struct cache_head *head = memory;
    char *body = memory;
    crypto_random(head->seed, sizeof(head->seed));
    crypto_random(&head->node, sizeof(head->node));
    for (size_t i = 0; i < ARRAY_LEN(head->seed); i++)
        head->seed[i] |= 1;
    cache_flights_create(body + geometry->flights_at);
    cache_l1_create(body + geometry->shards_at, geometry);
    head->max_value = dimensions->max_value;
}

static enum status check_size(size_t size, size_t max_value, struct err *err)
{
    if (size < CACHE_SIZE_MIN)
        return err_set(err, ERR_INVALID, "cache.size: at least %d KiB", CACHE_SIZE_MIN >> 10);
    if (max_value > size / 8)
        return err_set(err, ERR_INVALID, "cache.max_value: at most an eighth of cache.size (%zu)", size);
    return OK;
}

int cache_shm_create(size_t size, size_t max_value, struct err *err)
{
    if (check_size(size, max_value, err) != OK)
        return -1;
    struct dimensions dimensions = {geometry_of(size, max_value), max_value};
    struct shm_layout layout = layout_of(&dimensions.geometry);
    layout.create = create;
    layout.data = &dimensions;
    return shm_create(&layout, err);
}

/* The same number of bytes may be divided otherwise: shards depend on the largest value. */
static bool is_divided_so(const struct shm_segment *segment, size_t max_value)
{
    const struct cache_head *head = segment->body;
    return head->max_value == max_value;
}

bool cache_shm_fits(int fd, size_t size, size_t max_value)
{
    struct err err;
    struct shm_segment segment;
    struct cache_geometry geometry = geometry_of(size, max_value);
    struct shm_layout layout = layout_of(&geometry);
    if (shm_attach(fd, &layout, &segment, &err) != OK)
        return false;
    bool fits = is_divided_so(&segment, max_value);
    shm_detach(&segment);
    return fits;
}

/* ---- participants -------------------------------------------------------------------------------------------- */

static bool is_dead(int32_t pid)
{
    return pid > 0 && kill(pid, 0) != 0 && errno == ESRCH;
}

void cache_shm_bury(struct cache_shm *shm, void (*fn)(void *data, uint64_t id), void *data)
{
    for (unsigned i = 0; i < CACHE_PEERS_MAX; i++) {
        struct cache_peer *peer = &shm->head->peers[i];
        int32_t pid = atomic_load(&peer->pid);
        if (!is_dead(pid))
            continue;
        uint64_t id = atomic_load(&peer->id);
        if (!atomic_compare_exchange_strong(&peer->pid, &pid, -1)) /* another does it */
            continue;
        for (int c = 0; c < CACHE_N_COUNTERS; c++)
            atomic_fetch_add(&shm->head->gone[c], atomic_exchange(&peer->counters[c], 0));
        atomic_store(&peer->id, 0);
        atomic_store(&peer->pid, 0);
        fn(data, id);
    }
}

static enum status join(struct cache_shm *shm, struct err *err)
{
    crypto_random(&shm->id, sizeof(shm->id));
    for (unsigned i = 0; i < CACHE_PEERS_MAX; i++) {
        int32_t free_pid = 0;
        if (!atomic_compare_exchange_strong(&shm->head->peers[i].pid, &free_pid, getpid()))
            continue;
        shm->self = &shm->head->peers[i];
        shm->self_index = i;
        atomic_store(&shm->self->id, shm->id);
        return OK;
    }
    return err_set(err, ERR_SYSTEM, "cache: more than %d processes share its memory", CACHE_PEERS_MAX);
}

static void leave(struct cache_shm *shm)
{
    if (!shm->self)
        return;
    for (int c = 0; c < CACHE_N_COUNTERS; c++)
        atomic_fetch_add(&shm->head->gone[c], atomic_exchange(&shm->self->counters[c], 0));
    atomic_store(&shm->self->id, 0);
    atomic_store(&shm->self->pid, 0);
    shm->self = NULL;
}

static enum status open_own(struct cache_shm *shm, size_t size, size_t max_value, struct err *err)
{
    int fd = cache_shm_create(size, max_value, err);
    if (fd < 0)
        return ERR;
    struct shm_layout layout = layout_of(&shm->geometry);
    enum status status = shm_attach(fd, &layout, &shm->segment, err);
    close(fd);
    return status;
}

enum status cache_shm_open(struct cache_shm *shm, int fd, size_t size, size_t max_value, struct err *err)
{
    *shm = (struct cache_shm){0};
    if (check_size(size, max_value, err) != OK)
        return ERR;
    shm->geometry = geometry_of(size, max_value);
    struct shm_layout layout = layout_of(&shm->geometry);
    if (fd >= 0 && !(cache_shm_fits(fd, size, max_value) && shm_attach(fd, &layout, &shm->segment, err) == OK))
        log_warn("this process has a cache of its own: the shared one has another layout");
    if (!shm->segment.body && open_own(shm, size, max_value, err) != OK)
        return ERR;
    char *body = shm->segment.body;
    shm->head = shm->segment.body;
    shm->epochs = (_Atomic uint32_t *)(void *)(body + shm->geometry.epochs_at);
    if (join(shm, err) == OK)
        return OK;
    cache_shm_close(shm);
    return ERR;
}

void cache_shm_close(struct cache_shm *shm)
{
    leave(shm);
    shm_detach(&shm->segment);
    *shm = (struct cache_shm){0};
}

/* ---- epochs -------------------------------------------------------------------------------------------------- */

struct cache_name cache_name(const struct cache_shm *shm, struct slice key)
{
    const struct cache_head *head = shm->head;
    return (struct cache_name){key, slice_hash_keyed(key, head->seed)};
}

static struct cache_stamp stamp_at(const struct cache_shm *shm, uint32_t slot)
{
    return (struct cache_stamp){slot, atomic_load(&shm->epochs[slot])};
}

struct cache_stamp cache_stamp_all(const struct cache_shm *shm)
{
    return stamp_at(shm, 0);
}

/* Slot 0 is everything's. */
static uint32_t slot_of(const struct cache_shm *shm, uint64_t hash)
{
    uint32_t slot = (uint32_t)(hash >> 24) & (shm->geometry.n_epochs - 1);
    return slot ? slot : 1;
}

struct cache_stamp cache_stamp_key(const struct cache_shm *shm, const struct cache_name *name)
{
    return stamp_at(shm, slot_of(shm, name->hash));
}

struct cache_stamp cache_stamp_tag(const struct cache_shm *shm, struct slice tag)
{
    return stamp_at(shm, slot_of(shm, slice_hash_keyed(tag, shm->head->seed + 1)));
}

bool cache_stamps_hold(const struct cache_shm *shm, const struct cache_stamp *stamps, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (stamps[i].slot >= shm->geometry.n_epochs || atomic_load(&shm->epochs[stamps[i].slot]) != stamps[i].epoch)
            return false;
    return true;
}

void cache_stamp_raise(const struct cache_shm *shm, struct cache_stamp stamp)
{
    atomic_fetch_add(&shm->epochs[stamp.slot], 1);
}

/* ---- counters ------------------------------------------------------------------------------------------------ */

void cache_count_many(const struct cache_shm *shm, enum cache_counter counter, uint64_t n)
{
    atomic_fetch_add_explicit(&shm->self->counters[counter], n, memory_order_relaxed);
}

void cache_shm_sum(const struct cache_shm *shm, uint64_t out[CACHE_N_COUNTERS])
{
    for (int c = 0; c < CACHE_N_COUNTERS; c++) {
        out[c] = atomic_load(&shm->head->gone[c]);
        for (unsigned i = 0; i < CACHE_PEERS_MAX; i++)
            out[c] += atomic_load_explicit(&shm->head->peers[i].counters[c], memory_order_relaxed);
    }
}
