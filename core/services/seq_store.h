/* Leased numbers in memory that all workers of the machine share: a slot per sequence, each under its own robust lock.
 *
 * Nothing here is the truth: the database row is. A number is in a slot only after the commit of its lease was seen,
 * and leaves it once. So a slot that is empty, reset, unreachable or dropped at the end of a period costs gaps, never a
 * number twice. (TRAPS T11, T18) */
#pragma once

#include "base/shm.h"
#include "services/seq_format.h"

enum { SEQ_BLOCK_MAX = 1000 };

struct seq_range { /* next … end - 1; empty when they are equal */
    int64_t next, end;
};
static inline int64_t seq_range_len(struct seq_range range)
{
    return range.end - range.next;
}

extern const struct shm_layout seq_layout; /* for shm_create: the master makes the segment, workers attach */

struct seq_slot;
struct seq_store {
    struct shm_segment segment;
    struct seq_slot *slots;
    uint64_t owner;      /* marks our claims */
    uint64_t n_orphaned; /* slots reset because their holder died */
    uint64_t n_dropped;  /* numbers that became gaps: period over, no room, no lock */
};

/* fd: a segment of seq_layout, borrowed for the call; -1, or one of another layout: a segment of this process alone. */
enum status seq_store_open(struct seq_store *store, int fd, struct err *err) MUST_CHECK;
void seq_store_close(struct seq_store *store);

/* One sequence, as one process sees it. Zeroed but for name. */
struct seq_key {
    const char *name;         /* borrowed */
    struct seq_period period; /* of this moment */
    uint64_t avoid_until_ms;  /* its lock was not to be had: until then it is only tried, not waited for */
    uint8_t hint;             /* where it was found last, from 1; 0: not yet */
};

struct seq_ask {
    uint64_t now_ms;
    uint32_t n_wanted;  /* at most so many, of one range */
    uint32_t n_waiting; /* who will wait if there are none: a lease covers them */
    bool may_claim;     /* false: a lease of ours is under way already */
    bool may_prefetch;  /* false: claim only for who waits; the last lease failed */
};
struct seq_answer {
    struct seq_range range;
    uint32_t n_lease; /* > 0: the caller now holds the claim and leases so many, then put or give up */
    bool is_busy;     /* no slot: lease for the waiting alone */
};
/* Numbers, and the decision who leases more: one process at a time, when half of the last block is gone. A slot of
 * another period is emptied first. */
void seq_store_take(struct seq_store *store, struct seq_key *key, const struct seq_ask *ask, struct seq_answer *answer);
/* Ends our claim. n_direct of the lease went to callers without coming here; `range` is the rest. */
void seq_store_put(struct seq_store *store, struct seq_key *key, uint64_t now_ms, struct seq_range range,
                   uint32_t n_direct);
void seq_store_give_up(struct seq_store *store, struct seq_key *key, uint64_t now_ms); /* there was no lease */

/* No number of this period up to `last` is given out any more, whoever leased it. Best effort: without the lock they
 * stay. */
void seq_store_skip(struct seq_store *store, struct seq_key *key, uint64_t now_ms, int64_t last);
