/* Loads in flight, in memory that all workers of the machine share: one loader per key and machine. Who finds a key
 * taken is entered as waiting and woken by event when the load ends (net/wake.h). A claim is a lease: its holder renews
 * it, and when it does not (it died, or is stopped), the next one who comes takes it over. (DESIGN 5) */
#pragma once

#include "services/cache_shm.h"

enum { CACHE_FLIGHT_LEASE_MS = 1000 };

struct cache_claim { /* what its holder remembers */
    uint32_t slot;
    uint64_t serial; /* 0: none */
};

enum cache_claim_result {
    CACHE_CLAIMED,
    CACHE_TAKEN,   /* by another process, until at least *until_ms; entered as waiting */
    CACHE_COOLING, /* may_cool only: the last load failed a moment ago */
    CACHE_UNSHARED /* no room, or no lock: load without it */
};
struct cache_claim_ask {
    struct cache_name name;
    struct cache_stamp stamps[2]; /* of everything and of the key: a claim from before a forget counts no more */
    uint64_t now_ms;
    bool may_cool, may_wait;
};
enum cache_claim_result cache_flight_claim(const struct cache_shm *shm, const struct cache_claim_ask *ask,
                                           struct cache_claim *claim, uint64_t *until_ms) MUST_CHECK;
/* False: it is not ours any more. */
bool cache_flight_renew(const struct cache_shm *shm, struct cache_claim claim, uint64_t now_ms);
/* Ends the claim; who waits is told through fn, after the lock was let go. cool_ms: for so long after a failure nobody
 * refreshes it again. */
void cache_flight_end(const struct cache_shm *shm, struct cache_claim claim, uint64_t now_ms, uint32_t cool_ms,
                      void (*fn)(void *data, uint64_t id), void *data);
/* Ends all claims of a process that died. */
void cache_flight_bury(const struct cache_shm *shm, uint64_t id, void (*fn)(void *data, uint64_t id), void *data);
unsigned cache_flight_count(const struct cache_shm *shm); /* now in flight; without locks */

/* Of cache_shm.c. */
size_t cache_flights_size(void);
void cache_flights_create(char *flights);
