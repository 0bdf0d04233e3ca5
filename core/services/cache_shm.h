/* The memory that the workers of a machine share for the cache: who takes part, epochs, loads in flight
 * (cache_flight.h), values (cache_l1.h). This file owns its geometry, its participants and its epochs.
 *
 * Epochs are what makes forgetting sound (T13): a counter for each key, tag, and for everything. Whoever forgets raises
 * it; a value carries the epochs that held before it was loaded, its stamps, and counts only while they all still hold.
 * They are plain atomics without a lock, so that forgetting neither waits nor fails. Keys and tags share them by hash:
 * two of one counter cost each other a load now and then, never a wrong value. */
#pragma once

#include <stdatomic.h>

#include "base/shm.h"

enum {
    CACHE_KEY_MAX = 250,
    CACHE_TAG_MAX = 100,
    CACHE_TAGS_MAX = 16,
    CACHE_STAMPS_MAX = 2 + CACHE_TAGS_MAX, /* everything, the key, its tags */
    CACHE_PEERS_MAX = 256,
    CACHE_SIZE_MIN = 1 << 20,
};

struct cache_stamp {
    uint32_t slot, epoch;
};

/* Counted by each process in memory of its own, summed by cache_shm_count. Of cache_stats in cache.h. */
enum cache_counter {
    CACHE_HITS_L1,
    CACHE_HITS_STALE,
    CACHE_MISSES,
    CACHE_HITS_L2,
    CACHE_LOADS,
    CACHE_LOAD_ERRORS,
    CACHE_WAITS,
    CACHE_REFUSED, /* loads not stored, because a write came between */
    CACHE_FORGETS,
    CACHE_L2_ERRORS,
    CACHE_EVICTIONS,
    CACHE_BUSY,     /* locks not had in time: taken for a miss */
    CACHE_ORPHANED, /* parts reset because a process died in them */
    CACHE_DROPS,    /* L1 emptied: messages may have been missed */
    CACHE_N_COUNTERS
};

struct cache_peer {                               /* a process that takes part */
    _Alignas(SHM_BODY_ALIGN) _Atomic int32_t pid; /* 0: free */
    _Atomic uint64_t id;                          /* whom to wake (net/wake.h) */
    _Atomic uint64_t counters[CACHE_N_COUNTERS];
};

struct cache_head { /* at the start of the segment */
    uint64_t max_value;
    uint64_t seed[3];                        /* of the hashes of keys; of tags, from the second on */
    uint64_t node;                           /* names this L1 to the other machines */
    _Atomic uint64_t last_seq;               /* of the last message heard, by the count of Redis (cache_l2.h) */
    _Atomic uint64_t behind_until_ms;        /* Redis may hold what should be forgotten: do not read it before */
    _Atomic uint64_t sweep_due_ms;           /* when records of forgets are looked for next (cache_forget.c) */
    _Atomic uint64_t gone[CACHE_N_COUNTERS]; /* of the peers that are no more */
    struct cache_peer peers[CACHE_PEERS_MAX];
};

/* Where things are. From the same two numbers every process computes the same. */
struct cache_geometry {
    size_t size, flights_at, epochs_at, shards_at, shard_size;
    uint32_t n_epochs, n_shards, n_blocks, n_buckets; /* blocks and buckets of one shard; powers of two but blocks */
};

struct cache_shm {
    struct shm_segment segment;
    struct cache_geometry geometry;
    struct cache_head *head;
    _Atomic uint32_t *epochs;
    struct cache_peer *self;
    unsigned self_index;
    uint64_t id;
};

/* By the master: a segment of `size` bytes for values of at most max_value bytes. Returns owned fd, or -1. */
int cache_shm_create(size_t size, size_t max_value, struct err *err) MUST_CHECK;
bool cache_shm_fits(int fd, size_t size, size_t max_value);
/* Attaches and takes part. fd is borrowed for the call; -1, or one of another layout: memory of this process alone. */
enum status cache_shm_open(struct cache_shm *shm, int fd, size_t size, size_t max_value, struct err *err) MUST_CHECK;
void cache_shm_close(struct cache_shm *shm);

/* A key, hashed once. Borrows it. */
struct cache_name {
    struct slice key;
    uint64_t hash;
};
struct cache_name cache_name(const struct cache_shm *shm, struct slice key);

/* The epochs now of everything, of a key, of a tag. */
struct cache_stamp cache_stamp_all(const struct cache_shm *shm);
struct cache_stamp cache_stamp_key(const struct cache_shm *shm, const struct cache_name *name);
struct cache_stamp cache_stamp_tag(const struct cache_shm *shm, struct slice tag);
bool cache_stamps_hold(const struct cache_shm *shm, const struct cache_stamp *stamps, size_t n);
void cache_stamp_raise(const struct cache_shm *shm, struct cache_stamp stamp); /* forget what carries it */

/* Takes out who died; fn is told each one's id, whose claims have to end (cache_flight.h). */
void cache_shm_bury(struct cache_shm *shm, void (*fn)(void *data, uint64_t id), void *data);
static inline void cache_count(const struct cache_shm *shm, enum cache_counter counter)
{
    _Atomic uint64_t *at = &shm->self->counters[counter]; /* ours alone: no read-modify-write needed */
    atomic_store_explicit(at, atomic_load_explicit(at, memory_order_relaxed) + 1, memory_order_relaxed);
}
void cache_count_many(const struct cache_shm *shm, enum cache_counter counter, uint64_t n);
void cache_shm_sum(const struct cache_shm *shm, uint64_t out[CACHE_N_COUNTERS]);
