/* Groups of slots by the key's hash, each under its own robust lock. A group that is full, or not to be had, is no
 * error: that load is then not shared. An orphaned group is emptied: its loads go on, and are then not shared either.
 */
#include "services/cache_flight.h"

#include <stdatomic.h>

enum { N_GROUPS = 64, GROUP_SLOTS = 16, WAITER_WORDS = CACHE_PEERS_MAX / 64 };

struct flight {
    uint64_t owner; /* the claiming process (cache_peer.id); 0: none */
    uint64_t serial, hash;
    uint64_t lease_until_ms, cool_until_ms;
    uint64_t waiting[WAITER_WORDS]; /* by peer index */
    struct cache_stamp stamps[2];
    uint32_t key_len;
    char key[CACHE_KEY_MAX];
};

struct group {
    _Alignas(SHM_BODY_ALIGN) struct shm_lock lock;
    struct flight flights[GROUP_SLOTS];
};

static _Atomic uint64_t serials; /* of this process */

size_t cache_flights_size(void)
{
    return N_GROUPS * sizeof(struct group);
}

void cache_flights_create(char *flights)
{
    struct group *groups = (struct group *)(void *)flights;
    for (int i = 0; i < N_GROUPS; i++)
        shm_lock_create(&groups[i].lock);
}

static struct group *group_at(const struct cache_shm *shm, uint32_t i)
{
    return (struct group *)(void *)((char *)shm->segment.body + shm->geometry.flights_at) + i;
}

static bool lock(const struct cache_shm *shm, struct group *group)
{
    switch (shm_lock(&group->lock, SHM_WAIT_MAX_US)) {
    case SHM_BUSY:
        cache_count(shm, CACHE_BUSY);
        return false;
    case SHM_HELD:
        return true;
    case SHM_ORPHANED:
        memset(group->flights, 0, sizeof(group->flights));
        cache_count(shm, CACHE_ORPHANED);
        return true;
    }
    WRONG("shm_held");
}

static bool is_of(const struct flight *flight, const struct cache_name *name)
{
    return flight->hash == name->hash && slice_eq(slice_of(flight->key, flight->key_len), name->key);
}

/* The slot of that key, else a free one, else NULL. */
static struct flight *find(struct group *group, const struct cache_claim_ask *ask)
{
    struct flight *free_slot = NULL;
    for (int i = 0; i < GROUP_SLOTS; i++) {
        struct flight *flight = &group->flights[i];
        bool is_idle = !flight->owner || ask->now_ms >= flight->lease_until_ms;
        if (is_of(flight, &ask->name))
            return flight;
        if (is_idle && ask->now_ms >= flight->cool_until_ms && !free_slot)
            free_slot = flight;
    }
    return free_slot;
}

static void take(const struct cache_shm *shm, struct flight *flight, const struct cache_claim_ask *ask)
{
    if (!is_of(flight, &ask->name)) {
        *flight = (struct flight){.hash = ask->name.hash, .key_len = (uint32_t)ask->name.key.len};
        memcpy(flight->key, ask->name.key.ptr, ask->name.key.len);
    } /* else: who waited for the last one waits for this one */
    flight->owner = shm->id;
    flight->serial = atomic_fetch_add(&serials, 1) + 1;
    flight->lease_until_ms = ask->now_ms + CACHE_FLIGHT_LEASE_MS;
    flight->cool_until_ms = 0;
    memcpy(flight->stamps, ask->stamps, sizeof(flight->stamps));
}

static enum cache_claim_result claim_in(const struct cache_shm *shm, struct group *group,
                                        const struct cache_claim_ask *ask, struct cache_claim *claim,
                                        uint64_t *until_ms)
{
    struct flight *flight = find(group, ask);
    if (!flight)
        return CACHE_UNSHARED;
    if (is_of(flight, &ask->name)) {
        bool is_current =
            flight->owner && ask->now_ms < flight->lease_until_ms && cache_stamps_hold(shm, flight->stamps, 2);
        if (is_current && ask->may_wait)
            flight->waiting[shm->self_index / 64] |= UINT64_C(1) << (shm->self_index % 64);
        *until_ms = flight->lease_until_ms;
        if (is_current)
            return CACHE_TAKEN;
        if (ask->may_cool && ask->now_ms < flight->cool_until_ms)
            return CACHE_COOLING;
    }
    take(shm, flight, ask);
    uint32_t in_group = (uint32_t)(flight - group->flights);
    *claim = (struct cache_claim){(uint32_t)(ask->name.hash % N_GROUPS) * GROUP_SLOTS + in_group, flight->serial};
    return CACHE_CLAIMED;
}

enum cache_claim_result cache_flight_claim(const struct cache_shm *shm, const struct cache_claim_ask *ask,
                                           struct cache_claim *claim, uint64_t *until_ms)
{
    struct group *group = group_at(shm, (uint32_t)(ask->name.hash % N_GROUPS));
    *claim = (struct cache_claim){0};
    *until_ms = 0;
    if (!lock(shm, group))
        return CACHE_UNSHARED;
    enum cache_claim_result result = claim_in(shm, group, ask, claim, until_ms);
    shm_unlock(&group->lock);
    return result;
}

static struct flight *ours(const struct cache_shm *shm, struct group *group, struct cache_claim claim)
{
    struct flight *flight = &group->flights[claim.slot % GROUP_SLOTS];
    return flight->owner == shm->id && flight->serial == claim.serial ? flight : NULL;
}

bool cache_flight_renew(const struct cache_shm *shm, struct cache_claim claim, uint64_t now_ms)
{
    struct group *group = group_at(shm, claim.slot / GROUP_SLOTS);
    if (!claim.serial || !lock(shm, group))
        return claim.serial != 0;
    struct flight *flight = ours(shm, group, claim);
    if (flight)
        flight->lease_until_ms = now_ms + CACHE_FLIGHT_LEASE_MS;
    shm_unlock(&group->lock);
    return flight != NULL;
}

static void tell(const struct cache_shm *shm, const uint64_t *waiting, void (*fn)(void *data, uint64_t id), void *data)
{
    for (unsigned i = 0; i < CACHE_PEERS_MAX; i++)
        if (waiting[i / 64] & UINT64_C(1) << (i % 64)) {
            uint64_t id = atomic_load(&shm->head->peers[i].id);
            if (id)
                fn(data, id);
        }
}

static void release(struct flight *flight, uint64_t *waiting, uint64_t cool_until_ms)
{
    memcpy(waiting, flight->waiting, sizeof(flight->waiting));
    memset(flight->waiting, 0, sizeof(flight->waiting));
    flight->owner = 0;
    flight->cool_until_ms = cool_until_ms;
}

void cache_flight_end(const struct cache_shm *shm, struct cache_claim claim, uint64_t now_ms, uint32_t cool_ms,
                      void (*fn)(void *data, uint64_t id), void *data)
{
    struct group *group = group_at(shm, claim.slot / GROUP_SLOTS);
    uint64_t waiting[WAITER_WORDS] = {0};
    if (!claim.serial || !lock(shm, group))
        return; /* the lease ends it */
    struct flight *flight = ours(shm, group, claim);
    if (flight)
        release(flight, waiting, cool_ms ? now_ms + cool_ms : 0);
    shm_unlock(&group->lock);
    tell(shm, waiting, fn, data);
}

void cache_flight_bury(const struct cache_shm *shm, uint64_t id, void (*fn)(void *data, uint64_t id), void *data)
{
    for (uint32_t i = 0; i < N_GROUPS; i++) {
        struct group *group = group_at(shm, i);
        if (!lock(shm, group))
            continue;
        uint64_t all[WAITER_WORDS] = {0}, waiting[WAITER_WORDS];
        for (int k = 0; k < GROUP_SLOTS; k++) {
            if (group->flights[k].owner != id)
                continue;
            release(&group->flights[k], waiting, 0);
            for (int w = 0; w < WAITER_WORDS; w++)
                all[w] |= waiting[w];
        }
        shm_unlock(&group->lock);
        tell(shm, all, fn, data);
    }
}

unsigned cache_flight_count(const struct cache_shm *shm)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < N_GROUPS; i++)
        for (int k = 0; k < GROUP_SLOTS; k++)
            n += group_at(shm, i)->flights[k].owner != 0;
    return n;
}
