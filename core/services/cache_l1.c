/* A shard: header, hash buckets, blocks. A value is an item: struct item, its stamps and its key in the first block,
 * the value's bytes in what is left of it and in further blocks. Blocks are named by number from 1; 0 is none, so that
 * zeroed memory is an empty shard. Never-used blocks are taken in order, freed ones from a list.
 *
 * SIEVE: items stand in a list by age; a hit sets `was_used` and moves nothing. The hand walks from old to new, clears
 * the mark of what was used and evicts the first that was not. After HAND_MAX steps it takes what it stands at.
 *
 * A value over COPY_MAX is read outside the lock, and written piece by piece, each under it: who is late with a read
 * has a miss, who were late with a write would have written into another's blocks. A reader pins the item, a writer
 * owns blocks that are in no list yet; both have LEASE_MS, after which others may take the blocks, for whoever held
 * them may be dead. Being late, they notice by their own clock, touch nothing, and call it a miss. An item that was
 * unlinked while pinned, and blocks being filled, are in `limbo` until their holder or the lease's end frees them. A
 * shard whose holder died is emptied; `era` tells those who were outside. */
#include "services/cache_l1.h"

#include <stdatomic.h>

#include "base/clock.h"

enum {
    BLOCK_SIZE = 512,
    COPY_MAX = 4096,
    LEASE_MS = 3000,
    HAND_MAX = 1000,
    EVICT_MAX = 64, /* under one hold of the lock */
};

struct block {
    uint32_t next; /* of the same item, or of the free list */
    uint32_t unused;
    unsigned char bytes[BLOCK_SIZE - 8];
};

enum item_state { ITEM_LINKED, ITEM_LIMBO };

struct item { /* at the start of its first block's bytes */
    uint64_t hash, serial;
    uint64_t fresh_until_ms, dead_at_ms, lease_until_ms; /* the lease of its pins, or of its filling */
    uint32_t chain;                                      /* next of its bucket, or of limbo */
    uint32_t newer, older;
    uint32_t last, n_blocks;
    uint32_t value_len, n_pins;
    uint16_t key_len;
    uint8_t kind, n_stamps, state;
    bool was_used;
    struct cache_stamp stamps[];
};

struct shard {
    struct shm_lock lock;
    struct body {
        uint32_t n_fresh;           /* blocks ever used */
        uint32_t free_list, n_free; /* freed ones */
        uint32_t newest, oldest, hand, limbo;
        uint32_t n_items, n_used;
        uint64_t serial;
    } body;
    uint64_t era; /* resets so far */
};

_Static_assert(sizeof(struct item) + CACHE_STAMPS_MAX * sizeof(struct cache_stamp) + CACHE_KEY_MAX <=
                   sizeof(((struct block *)0)->bytes),
               "what finds an item must be in its first block");

/* One shard as this process sees it; lives for one call. */
struct view {
    const struct cache_shm *shm;
    struct shard *shard;
    struct body *body;
    uint32_t *buckets;
    struct block *blocks; /* blocks[1] is the first */
    uint32_t n_blocks, n_buckets;
};

/* ---- geometry ------------------------------------------------------------------------------------------------ */

void cache_l1_divide(struct cache_geometry *geometry)
{
    size_t room = geometry->shard_size - sizeof(struct shard) - 2 * BLOCK_SIZE;
    uint32_t n_buckets = 64;
    while ((size_t)n_buckets * 2 * BLOCK_SIZE <= room) /* about one per item that fills a block or two */
        n_buckets *= 2;
    geometry->n_buckets = n_buckets;
    geometry->n_blocks = (uint32_t)((room - n_buckets * sizeof(uint32_t)) / BLOCK_SIZE);
}

void cache_l1_create(char *shards, const struct cache_geometry *geometry)
{
    for (uint32_t i = 0; i < geometry->n_shards; i++)
        shm_lock_create(&((struct shard *)(void *)(shards + i * geometry->shard_size))->lock);
}

static struct view view_at(const struct cache_shm *shm, uint32_t i)
{
    const struct cache_geometry *g = &shm->geometry;
    char *start = (char *)shm->segment.body + g->shards_at + i * g->shard_size;
    struct shard *shard = (struct shard *)(void *)start;
    uint32_t *buckets = (uint32_t *)(void *)(start + sizeof(struct shard));
    size_t blocks_at = (sizeof(struct shard) + g->n_buckets * sizeof(uint32_t) + 7) / 8 * 8;
    return (struct view){.shm = shm,
                         .shard = shard,
                         .body = &shard->body,
                         .buckets = buckets,
                         .blocks = (struct block *)(void *)(start + blocks_at) - 1,
                         .n_blocks = g->n_blocks,
                         .n_buckets = g->n_buckets};
}

static struct view view_of(const struct cache_shm *shm, const struct cache_name *name)
{
    return view_at(shm, (uint32_t)(name->hash >> 48) & (shm->geometry.n_shards - 1));
}

static bool lock(struct view *view)
{
    switch (shm_lock(&view->shard->lock, SHM_WAIT_MAX_US)) {
    case SHM_BUSY:
        cache_count(view->shm, CACHE_BUSY);
        return false;
    case SHM_HELD:
        return true;
    case SHM_ORPHANED: /* half of a change may be in it */
        memset(view->body, 0, sizeof(*view->body));
        memset(view->buckets, 0, view->n_buckets * sizeof(uint32_t));
        view->shard->era++;
        cache_count(view->shm, CACHE_ORPHANED);
        return true;
    }
    WRONG("shm_held");
}

static void unlock(struct view *view)
{
    shm_unlock(&view->shard->lock);
}

/* ---- blocks -------------------------------------------------------------------------------------------------- */

static struct item *item_at(const struct view *view, uint32_t at)
{
    return (struct item *)(void *)view->blocks[at].bytes;
}

static uint32_t count_free(const struct view *view)
{
    return view->body->n_free + view->n_blocks - view->body->n_fresh;
}

static uint32_t take_block(struct view *view)
{
    struct body *body = view->body;
    if (body->n_free == 0)
        return ++body->n_fresh;
    uint32_t at = body->free_list;
    body->free_list = view->blocks[at].next;
    body->n_free--;
    return at;
}

/* The chain from `at` to its last block, in one step. */
static void free_item(struct view *view, uint32_t at)
{
    const struct item *item = item_at(view, at);
    struct body *body = view->body;
    view->blocks[item->last].next = body->free_list;
    body->free_list = at;
    body->n_free += item->n_blocks;
    body->n_used -= item->n_blocks;
}

enum { PIECE = COPY_MAX / BLOCK_SIZE * sizeof(((struct block *)0)->bytes) }; /* whole blocks */

static size_t head_len(size_t n_stamps, size_t key_len)
{
    return sizeof(struct item) + n_stamps * sizeof(struct cache_stamp) + key_len;
}

static uint32_t blocks_for(size_t len)
{
    return (uint32_t)((len + sizeof(((struct block *)0)->bytes) - 1) / sizeof(((struct block *)0)->bytes));
}

static struct slice key_of(const struct item *item)
{
    return slice_of((const char *)(item->stamps + item->n_stamps), item->key_len);
}

/* Copies the value between the chain at `at` and memory; returns the block after the last that was filled. Bounded,
 * whatever the chain says. */
static uint32_t copy_value(const struct view *view, uint32_t at, size_t skip, size_t len, char *out, const char *in)
{
    while (len > 0 && at > 0 && at <= view->n_blocks) {
        struct block *block = &view->blocks[at];
        size_t n = sizeof(block->bytes) - skip < len ? sizeof(block->bytes) - skip : len;
        if (in) {
            memcpy(block->bytes + skip, in, n);
            in += n;
        } else {
            memcpy(out, block->bytes + skip, n);
            out += n;
        }
        at = block->next;
        len -= n;
        skip = 0;
    }
    return at;
}

/* ---- lists --------------------------------------------------------------------------------------------------- */

static uint32_t *bucket_of(const struct view *view, uint64_t hash)
{
    return &view->buckets[hash & (view->n_buckets - 1)];
}

static uint32_t find(const struct view *view, const struct cache_name *name)
{
    for (uint32_t at = *bucket_of(view, name->hash); at; at = item_at(view, at)->chain) {
        const struct item *item = item_at(view, at);
        if (item->hash == name->hash && slice_eq(key_of(item), name->key))
            return at;
    }
    return 0;
}

static void link_item(struct view *view, uint32_t at)
{
    struct item *item = item_at(view, at);
    struct body *body = view->body;
    uint32_t *bucket = bucket_of(view, item->hash);
    item->state = ITEM_LINKED;
    item->chain = *bucket;
    *bucket = at;
    item->newer = 0;
    item->older = body->newest;
    if (body->newest)
        item_at(view, body->newest)->newer = at;
    body->newest = at;
    if (!body->oldest)
        body->oldest = at;
    body->n_items++;
}

static void remove_from(struct view *view, uint32_t *head, uint32_t at)
{
    while (*head && *head != at)
        head = &item_at(view, *head)->chain;
    if (*head)
        *head = item_at(view, at)->chain;
}

static bool is_leased(const struct item *item, uint64_t now_ms)
{
    return item->n_pins > 0 && now_ms < item->lease_until_ms;
}

static void enter_limbo(struct view *view, uint32_t at)
{
    struct item *item = item_at(view, at);
    item->state = ITEM_LIMBO;
    item->chain = view->body->limbo;
    view->body->limbo = at;
}

static void unlink_item(struct view *view, uint32_t at, uint64_t now_ms)
{
    struct item *item = item_at(view, at);
    struct body *body = view->body;
    remove_from(view, bucket_of(view, item->hash), at);
    if (body->hand == at)
        body->hand = item->newer;
    if (item->newer)
        item_at(view, item->newer)->older = item->older;
    else
        body->newest = item->older;
    if (item->older)
        item_at(view, item->older)->newer = item->newer;
    else
        body->oldest = item->newer;
    body->n_items--;
    if (is_leased(item, now_ms))
        enter_limbo(view, at);
    else
        free_item(view, at);
}

static void clear_limbo(struct view *view, uint64_t now_ms)
{
    for (uint32_t at = view->body->limbo, next; at; at = next) {
        next = item_at(view, at)->chain;
        if (is_leased(item_at(view, at), now_ms))
            continue;
        remove_from(view, &view->body->limbo, at);
        free_item(view, at);
    }
}

static void evict_one(struct view *view, uint64_t now_ms)
{
    struct body *body = view->body;
    uint32_t at = body->hand ? body->hand : body->oldest;
    for (int i = 0; i < HAND_MAX; i++) {
        struct item *item = item_at(view, at);
        if (!item->was_used && !is_leased(item, now_ms))
            break;
        item->was_used = false;
        at = item->newer ? item->newer : body->oldest;
    }
    body->hand = item_at(view, at)->newer;
    unlink_item(view, at, now_ms);
    cache_count(view->shm, CACHE_EVICTIONS);
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

/* The live item of that name, or 0; what is dead is taken out. */
static uint32_t find_live(struct view *view, const struct cache_name *name, uint64_t now_ms)
{
    uint32_t at = find(view, name);
    if (!at)
        return 0;
    const struct item *item = item_at(view, at);
    if (now_ms < item->dead_at_ms && cache_stamps_hold(view->shm, item->stamps, item->n_stamps))
        return at;
    unlink_item(view, at, now_ms);
    return 0;
}

static void unpin(struct view *view, uint32_t at)
{
    struct item *item = item_at(view, at);
    if (--item->n_pins > 0 || item->state != ITEM_LIMBO)
        return;
    remove_from(view, &view->body->limbo, at);
    free_item(view, at);
}

/* Called with the lock held on an item that is pinned; copies outside of it. */
static bool copy_pinned(struct view *view, uint32_t at, uint64_t lease_until_ms, size_t skip, size_t len, char *out)
{
    uint64_t era = view->shard->era;
    unlock(view);
    copy_value(view, at, skip, len, out, NULL);
    if (!lock(view))
        return false; /* the lease ends the pin */
    bool is_good = view->shard->era == era && clock_ms() < lease_until_ms;
    if (is_good)
        unpin(view, at);
    unlock(view);
    return is_good;
}

static bool read_large(struct view *view, uint32_t at, struct buf *out)
{
    struct item *item = item_at(view, at);
    size_t len = item->value_len, skip = head_len(item->n_stamps, item->key_len);
    uint64_t lease_until_ms = clock_ms() + LEASE_MS, era = view->shard->era, serial = item->serial;
    item->n_pins = is_leased(item, lease_until_ms - LEASE_MS) ? item->n_pins + 1 : 1;
    item->lease_until_ms = lease_until_ms;
    if (out->cap - out->len < len) { /* memory is not allocated under a lock */
        unlock(view);
        buf_reserve(out, len);
        if (!lock(view))
            return false;
        if (view->shard->era != era || clock_ms() >= lease_until_ms || item->serial != serial) {
            unlock(view);
            return false;
        }
    }
    if (!copy_pinned(view, at, lease_until_ms, skip, len, out->ptr + out->len))
        return false;
    out->len += len;
    return true;
}

bool cache_l1_get(const struct cache_shm *shm, const struct cache_name *name, uint64_t now_ms, struct buf *out,
                  struct cache_l1_found *found)
{
    struct view view = view_of(shm, name);
    buf_reserve(out, COPY_MAX);
    if (!lock(&view))
        return false;
    uint32_t at = find_live(&view, name, now_ms);
    if (!at) {
        unlock(&view);
        return false;
    }
    struct item *item = item_at(&view, at);
    if (!item->was_used) /* a line that is only read stays in every core's cache */
        item->was_used = true;
    *found = (struct cache_l1_found){.kind = (enum cache_kind)item->kind, .is_stale = now_ms >= item->fresh_until_ms};
    if (item->value_len > COPY_MAX)
        return read_large(&view, at, out);
    copy_value(&view, at, head_len(item->n_stamps, item->key_len), item->value_len, out->ptr + out->len, NULL);
    out->len += item->value_len;
    unlock(&view);
    return true;
}

/* ---- writing ------------------------------------------------------------------------------------------------- */

/* Room for n blocks; the lock is let go of now and then. False: there is none, and the lock is not held. */
static bool make_room(struct view *view, uint32_t n, uint64_t now_ms)
{
    if (n > view->n_blocks) {
        unlock(view);
        return false;
    }
    clear_limbo(view, now_ms);
    for (uint32_t i = 0; count_free(view) < n && view->body->n_items > 0; i++) {
        if (i > 0 && i % EVICT_MAX == 0) {
            unlock(view);
            if (!lock(view))
                return false;
            continue; /* others may have made room, or taken it */
        }
        evict_one(view, now_ms);
    }
    if (count_free(view) >= n)
        return true;
    unlock(view);
    return false;
}

/* A chain of n blocks with the item's head in the first. */
static uint32_t build(struct view *view, const struct cache_l1_item *from, uint32_t n)
{
    uint32_t first = take_block(view), last = first;
    for (uint32_t i = 1; i < n; i++) {
        uint32_t at = take_block(view);
        view->blocks[last].next = at;
        last = at;
    }
    view->blocks[last].next = 0;
    view->body->n_used += n;
    struct item *item = item_at(view, first);
    *item = (struct item){.hash = from->name.hash,
                          .serial = ++view->body->serial,
                          .fresh_until_ms = from->fresh_until_ms,
                          .dead_at_ms = from->dead_at_ms,
                          .last = last,
                          .n_blocks = n,
                          .value_len = (uint32_t)from->value.len,
                          .key_len = (uint16_t)from->name.key.len,
                          .kind = (uint8_t)from->kind,
                          .n_stamps = (uint8_t)from->n_stamps};
    memcpy(item->stamps, from->stamps, from->n_stamps * sizeof(struct cache_stamp));
    memcpy(item->stamps + item->n_stamps, from->name.key.ptr, from->name.key.len);
    return first;
}

/* Lets others have the lock. False: it is not held, and the item may be theirs: the shard was reset, or we are late. */
static bool let_others(struct view *view, uint64_t era, uint64_t lease_until_ms)
{
    unlock(view);
    if (!lock(view))
        return false; /* freed when the lease ends */
    if (view->shard->era == era && clock_ms() < lease_until_ms)
        return true;
    unlock(view);
    return false;
}

/* Fills a large value. The lock is held before, and after unless false, but not from one piece to the next. */
static bool fill_in_pieces(struct view *view, uint32_t at, const struct cache_l1_item *from)
{
    struct item *item = item_at(view, at);
    uint64_t era = view->shard->era, lease_until_ms = clock_ms() + LEASE_MS;
    size_t skip = head_len(from->n_stamps, from->name.key.len);
    item->n_pins = 1;
    item->lease_until_ms = lease_until_ms;
    enter_limbo(view, at);
    uint32_t block = at;
    for (size_t done = 0, n; done < from->value.len; done += n, skip = 0) {
        if (done > 0 && !let_others(view, era, lease_until_ms))
            return false;
        n = PIECE - skip < from->value.len - done ? PIECE - skip : from->value.len - done;
        block = copy_value(view, block, skip, n, NULL, from->value.ptr + done);
    }
    remove_from(view, &view->body->limbo, at);
    item->n_pins = 0;
    return true;
}

bool cache_l1_put(const struct cache_shm *shm, const struct cache_l1_item *from)
{
    CHECK(from->name.key.len <= CACHE_KEY_MAX && from->n_stamps <= CACHE_STAMPS_MAX);
    struct view view = view_of(shm, &from->name);
    size_t head = head_len(from->n_stamps, from->name.key.len);
    uint32_t n = blocks_for(head + from->value.len);
    uint64_t now_ms = clock_ms();
    if (!lock(&view) || !make_room(&view, n, now_ms))
        return false;
    uint32_t at = build(&view, from, n);
    if (from->value.len <= COPY_MAX)
        copy_value(&view, at, head, from->value.len, NULL, from->value.ptr);
    else if (!fill_in_pieces(&view, at, from))
        return false;
    uint32_t old = find(&view, &from->name);
    if (old)
        unlink_item(&view, old, now_ms);
    bool is_good = cache_stamps_hold(shm, from->stamps, from->n_stamps);
    if (is_good)
        link_item(&view, at);
    else
        free_item(&view, at);
    unlock(&view);
    return is_good;
}

void cache_l1_remove(const struct cache_shm *shm, const struct cache_name *name)
{
    struct view view = view_of(shm, name);
    if (!lock(&view))
        return;
    uint32_t at = find(&view, name);
    if (at)
        unlink_item(&view, at, clock_ms());
    unlock(&view);
}

void cache_l1_usage(const struct cache_shm *shm, struct cache_l1_usage *out)
{
    *out = (struct cache_l1_usage){.n_items = 0};
    for (uint32_t i = 0; i < shm->geometry.n_shards; i++) { /* without locks: figures for people */
        struct view view = view_at(shm, i);
        out->n_items += view.body->n_items;
        out->bytes_used += (uint64_t)view.body->n_used * BLOCK_SIZE;
        out->bytes += (uint64_t)view.n_blocks * BLOCK_SIZE;
    }
}

void cache_l1_hold_for_test(const struct cache_shm *shm, const struct cache_name *name)
{
    struct view view = view_of(shm, name);
    CHECK(shm_lock(&view.shard->lock, 0) == SHM_HELD);
    view.body->free_list = UINT32_MAX; /* half of a change */
    view.body->n_free = 1;
}
