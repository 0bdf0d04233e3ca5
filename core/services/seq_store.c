/* The slots. A sequence is found by its name, starting at the hash of it; a slot gets its name from the first process
 * that needs it. After a reset two slots may carry one name for a while, which is harmless: each holds other numbers.
 *
 * How much to lease: what was used since the last lease, scaled to HORIZON_MS, but at most four times as much as last
 * time, at least what waits, 1 … SEQ_BLOCK_MAX. An idle shop so holds one number in advance; at thousands a second
 * each lease is a thousand, and the next one is fetched while half of the last is still there.
 *
 * A claim says that a process is leasing. It expires by itself (CLAIM_MS): its holder may be dead. It only saves the
 * others a round trip; two leases at once are two different blocks. */
#include "services/seq_store.h"

#include <stdalign.h>
#include <unistd.h>

#include "base/log.h"

enum {
    N_SLOTS = 2 * SEQ_MAX, /* more than names, so that looking ends soon */
    N_RANGES = 8,
    HORIZON_MS = 250,
    GROWTH = 4,
    CLAIM_MS = 1000,
    AVOID_MS = 100,
};

struct seq_slot {
    alignas(SHM_BODY_ALIGN) struct shm_lock lock;
    struct body {
        char name[SEQ_NAME_MAX + 1]; /* "": free */
        struct seq_period period;
        uint32_t n_ranges;
        uint32_t block; /* size of the last lease; 0: none yet */
        struct seq_range ranges[N_RANGES];
        uint64_t claim_owner, claim_until_ms;
        uint64_t leased_ms, n_used; /* when the last lease was claimed, numbers taken since */
        int64_t skipped;            /* of this period: numbers up to it are somebody's already */
    } body;
};

static void create_slots(void *memory, const void *data UNUSED)
{
    struct seq_slot *slots = memory;
    for (size_t i = 0; i < N_SLOTS; i++)
        shm_lock_create(&slots[i].lock);
}

const struct shm_layout seq_layout = {.name = "chowk-seq",
                                      .magic = 0x5e90a901u,
                                      .version = 3,
                                      .size = N_SLOTS * sizeof(struct seq_slot),
                                      .create = create_slots};

static enum status open_own(struct seq_store *store, struct err *err)
{
    int fd = shm_create(&seq_layout, err);
    if (fd < 0)
        return ERR;
    enum status status = shm_attach(fd, &seq_layout, &store->segment, err);
    close(fd);
    return status;
}

enum status seq_store_open(struct seq_store *store, int fd, struct err *err)
{
    struct err why = {0};
    *store = (struct seq_store){.owner = (uint64_t)getpid() << 32 | (uint32_t)((uintptr_t)store >> 4)};
    if (fd >= 0 && shm_attach(fd, &seq_layout, &store->segment, &why) != OK)
        log_warn("numbers are leased by this process alone", LOG_S("why", why.message));
    if (!store->segment.body && open_own(store, err) != OK)
        return ERR;
    store->slots = store->segment.body;
    return OK;
}

void seq_store_close(struct seq_store *store)
{
    shm_detach(&store->segment);
    store->slots = NULL;
}

/* ---- finding and locking ------------------------------------------------------------------------------------- */

static size_t home_of(const char *name) /* the same in every process: not the keyed hash */
{
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash % N_SLOTS;
}

/* NULL: not to be had. Else locked, unlock its lock. */
static struct body *lock_slot(struct seq_store *store, size_t i, uint32_t wait_us)
{
    struct seq_slot *slot = &store->slots[i];
    switch (shm_lock(&slot->lock, wait_us)) {
    case SHM_BUSY:
        return NULL;
    case SHM_HELD:
        return &slot->body;
    case SHM_ORPHANED: /* half of a change may be in it: empty, never zero */
        memset(&slot->body, 0, sizeof(slot->body));
        store->n_orphaned++;
        return &slot->body;
    }
    WRONG("shm_held");
}

static bool is_key(const struct body *body, const struct seq_key *key)
{
    return strncmp(body->name, key->name, sizeof(body->name)) == 0;
}

/* The locked slot of that sequence, with *lock to release; NULL: busy, or none is free. */
static struct body *find_slot(struct seq_store *store, struct seq_key *key, uint64_t now_ms, struct shm_lock **lock)
{
    bool is_avoided = now_ms < key->avoid_until_ms;
    size_t home = home_of(key->name);
    for (size_t n = key->hint ? 0 : 1; n <= N_SLOTS; n++) {
        size_t i = n == 0 ? key->hint - 1u : (home + n - 1) % N_SLOTS;
        struct body *body = lock_slot(store, i, is_avoided ? 0 : SHM_WAIT_MAX_US);
        if (!body) {
            if (!is_avoided)
                key->avoid_until_ms = now_ms + AVOID_MS;
            return NULL;
        }
        if (n > 0 && !body->name[0]) /* not by the hint: that slot may be another's home */
            memcpy(body->name, key->name, strlen(key->name) + 1);
        if (is_key(body, key)) {
            key->hint = (uint8_t)(i + 1);
            *lock = &store->slots[i].lock;
            return body;
        }
        shm_unlock(&store->slots[i].lock);
    }
    return NULL;
}

/* ---- what is in a slot --------------------------------------------------------------------------------------- */

static int64_t count_left(const struct body *body)
{
    int64_t n = 0;
    for (uint32_t i = 0; i < body->n_ranges; i++)
        n += seq_range_len(body->ranges[i]);
    return n;
}

/* Last year's numbers are gaps now. */
static void turn_period(struct seq_store *store, struct body *body, const struct seq_key *key)
{
    if (memcmp(&body->period, &key->period, sizeof(body->period)) == 0)
        return;
    store->n_dropped += (uint64_t)count_left(body);
    body->n_ranges = 0;
    body->claim_owner = body->claim_until_ms = 0; /* what is being leased is of the old one */
    body->skipped = 0;
    body->period = key->period;
}

static struct seq_range take_range(struct body *body, uint32_t n_wanted)
{
    struct seq_range *first = &body->ranges[0], taken = {0};
    if (body->n_ranges == 0 || n_wanted == 0)
        return taken;
    taken.next = first->next;
    first->next = taken.end = seq_range_len(*first) < (int64_t)n_wanted ? first->end : first->next + n_wanted;
    if (seq_range_len(*first) == 0)
        memmove(first, first + 1, --body->n_ranges * sizeof(*first));
    body->n_used += (uint64_t)seq_range_len(taken);
    return taken;
}

static uint32_t block_size(const struct body *body, uint64_t now_ms, uint32_t n_waiting)
{
    uint64_t elapsed_ms = now_ms > body->leased_ms ? now_ms - body->leased_ms : 1;
    uint64_t n = (body->n_used + n_waiting) * HORIZON_MS / elapsed_ms;
    uint64_t most = body->block ? (uint64_t)body->block * GROWTH : 1;
    if (n > most)
        n = most;
    if (n < n_waiting)
        n = n_waiting;
    if (n > SEQ_BLOCK_MAX)
        n = SEQ_BLOCK_MAX;
    return n ? (uint32_t)n : 1;
}

/* How many to lease now; 0: enough is there, or somebody is at it. */
static uint32_t claim(struct seq_store *store, struct body *body, const struct seq_ask *ask, uint32_t n_waiting)
{
    if (!ask->may_claim || (n_waiting == 0 && !ask->may_prefetch) || ask->now_ms < body->claim_until_ms ||
        count_left(body) > body->block / 2)
        return 0;
    body->block = block_size(body, ask->now_ms, n_waiting);
    body->leased_ms = ask->now_ms;
    body->n_used = 0;
    body->claim_owner = store->owner;
    body->claim_until_ms = ask->now_ms + CLAIM_MS;
    return body->block;
}

/* ---- calls --------------------------------------------------------------------------------------------------- */

void seq_store_take(struct seq_store *store, struct seq_key *key, const struct seq_ask *ask, struct seq_answer *answer)
{
    struct shm_lock *lock;
    *answer = (struct seq_answer){.n_lease = 0};
    struct body *body = find_slot(store, key, ask->now_ms, &lock);
    if (!body) {
        answer->is_busy = true;
        return;
    }
    turn_period(store, body, key);
    answer->range = take_range(body, ask->n_wanted);
    uint32_t n_taken = (uint32_t)seq_range_len(answer->range);
    answer->n_lease = claim(store, body, ask, ask->n_waiting > n_taken ? ask->n_waiting - n_taken : 0);
    shm_unlock(lock);
}

static void skip_in(struct seq_store *store, struct seq_range *range, int64_t last)
{
    if (range->next > last)
        return;
    int64_t next = range->end <= last ? range->end : last + 1;
    store->n_dropped += (uint64_t)(next - range->next);
    range->next = next;
}

static void add_range(struct seq_store *store, struct body *body, struct seq_range range)
{
    skip_in(store, &range, body->skipped);
    if (seq_range_len(range) == 0)
        return;
    if (body->n_ranges == N_RANGES)
        store->n_dropped += (uint64_t)seq_range_len(range);
    else
        body->ranges[body->n_ranges++] = range;
}

void seq_store_put(struct seq_store *store, struct seq_key *key, uint64_t now_ms, struct seq_range range,
                   uint32_t n_direct)
{
    struct shm_lock *lock;
    struct body *body = find_slot(store, key, now_ms, &lock);
    if (!body) {
        store->n_dropped += (uint64_t)seq_range_len(range);
        return;
    }
    turn_period(store, body, key);
    add_range(store, body, range);
    body->n_used += n_direct;
    if (body->claim_owner == store->owner)
        body->claim_owner = body->claim_until_ms = 0;
    shm_unlock(lock);
}

void seq_store_give_up(struct seq_store *store, struct seq_key *key, uint64_t now_ms)
{
    seq_store_put(store, key, now_ms, (struct seq_range){0}, 0);
}

void seq_store_skip(struct seq_store *store, struct seq_key *key, uint64_t now_ms, int64_t last)
{
    struct shm_lock *lock;
    struct body *body = find_slot(store, key, now_ms, &lock);
    if (!body)
        return;
    turn_period(store, body, key);
    if (last > body->skipped)
        body->skipped = last;
    uint32_t n_left = 0;
    for (uint32_t i = 0; i < body->n_ranges; i++) {
        skip_in(store, &body->ranges[i], last);
        if (seq_range_len(body->ranges[i]) > 0)
            body->ranges[n_left++] = body->ranges[i];
    }
    body->n_ranges = n_left;
    shm_unlock(lock);
}
