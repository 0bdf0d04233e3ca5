/* Counts of rate limits in memory that all workers of the machine share. A fixed table: a key that finds its bucket
 * full takes the place of the one that would be forgotten first, so memory never grows and an attacker with many
 * addresses only shortens the memory of his own neighbourhood. Keys are kept as keyed hashes, never as text.
 * (TRAPS T11: no lock is waited for beyond 5 ms; a part whose lock holder died is emptied.) */
#pragma once

#include "base/shm.h"
#include "services/limit.h"

struct limit_store {
    struct shm_segment segment;
    struct limit_table *table;
    uint32_t n_buckets; /* of one shard */
    uint64_t n_busy, n_evicted, n_orphaned;
};

/* fd: of limit_segment_create with the same n_keys, borrowed; -1, or another layout: memory of this process alone. */
enum status limit_store_open(struct limit_store *store, int fd, uint32_t n_keys, struct err *err) MUST_CHECK;
void limit_store_close(struct limit_store *store);

/* Tests all demands and, if all pass, charges `quantity` to each. now_us: monotonic, the same clock in all processes.
 * AGAIN: a lock was not to be had, and nothing is charged. */
enum status limit_store_check(struct limit_store *store, const struct limit_demand *demands, size_t n,
                              uint32_t quantity, uint64_t now_us, struct limit_verdict *verdicts) MUST_CHECK;
