/* Linear probing over a power of two, three quarters full at most. A removed entry leaves a tombstone only
 * where a probe must pass over it; growing (or rehashing in place of too many tombstones) drops them.
 * A replaced entry takes the new key as well: the old key usually dies with the old value. */
#include "base/map.h"

#include <stdlib.h>

#define MAP_MIN_CAP 16

enum { HASH_FREE = 0, HASH_TOMB = 1, HASH_USED = 2 }; /* real hashes have HASH_USED set */

struct map_entry {
    uint64_t hash;
    struct slice key;
    void *value;
};

static inline uint64_t key_hash(struct slice key)
{
    return slice_hash(key) | HASH_USED;
}

static inline bool is_used(const struct map_entry *entry)
{
    return entry->hash >= HASH_USED;
}

/* The low bits say "used"; the position comes from the high ones. */
static inline size_t home_of(uint64_t hash, size_t cap)
{
    return (size_t)(hash >> 16) & (cap - 1);
}

/* Entry of `key`, or NULL; a map is never full, so the probe ends. */
static struct map_entry *entry_find(const struct map *map, struct slice key)
{
    if (map->len == 0)
        return NULL;
    uint64_t hash = key_hash(key);
    for (size_t i = home_of(hash, map->cap);; i = (i + 1) & (map->cap - 1)) {
        struct map_entry *entry = &map->entries[i];
        if (entry->hash == HASH_FREE)
            return NULL;
        if (entry->hash == hash && slice_eq(entry->key, key))
            return entry;
    }
}

void *map_get(const struct map *map, struct slice key)
{
    struct map_entry *entry = entry_find(map, key);
    return entry ? entry->value : NULL;
}

/* First entry on the probe path of `hash` that a new key may take. */
static struct map_entry *entry_vacant(const struct map *map, uint64_t hash)
{
    size_t i = home_of(hash, map->cap);
    while (is_used(&map->entries[i]))
        i = (i + 1) & (map->cap - 1);
    return &map->entries[i];
}

static void rehash(struct map *map, size_t cap)
{
    struct map old = *map;
    CHECK(cap <= SIZE_MAX / 2 / sizeof(struct map_entry));
    map->entries = xalloc(cap * sizeof(struct map_entry));
    map->cap = cap;
    map->tombs = 0;
    for (size_t i = 0; i < old.cap; i++) {
        if (is_used(&old.entries[i]))
            *entry_vacant(map, old.entries[i].hash) = old.entries[i];
    }
    free(old.entries);
}

void *map_put(struct map *map, struct slice key, void *value)
{
    struct map_entry *entry = entry_find(map, key);
    if (entry) {
        void *replaced = entry->value;
        entry->key = key;
        entry->value = value;
        return replaced;
    }
    if ((map->len + map->tombs + 1) * 4 > map->cap * 3) {
        size_t cap = MAP_MIN_CAP;
        while ((map->len + 1) * 2 > cap)
            cap *= 2;
        rehash(map, cap);
    }
    uint64_t hash = key_hash(key);
    entry = entry_vacant(map, hash);
    if (entry->hash == HASH_TOMB)
        map->tombs--;
    *entry = (struct map_entry){.hash = hash, .key = key, .value = value};
    map->len++;
    return NULL;
}

void *map_remove(struct map *map, struct slice key)
{
    struct map_entry *entry = entry_find(map, key);
    if (!entry)
        return NULL;
    void *removed = entry->value;
    *entry = (struct map_entry){.hash = HASH_TOMB};
    map->len--;
    map->tombs++;
    size_t i = (size_t)(entry - map->entries), mask = map->cap - 1;
    if (map->entries[(i + 1) & mask].hash != HASH_FREE)
        return removed;
    for (; map->entries[i].hash == HASH_TOMB; i = (i - 1) & mask) { /* nothing is probed past these any more */
        map->entries[i].hash = HASH_FREE;
        map->tombs--;
    }
    return removed;
}

void map_free(struct map *map)
{
    free(map->entries);
    *map = (struct map){0};
}

bool map_next(const struct map *map, size_t *it, struct slice *key, void **value)
{
    while (*it < map->cap) {
        const struct map_entry *entry = &map->entries[(*it)++];
        if (!is_used(entry))
            continue;
        *key = entry->key;
        *value = entry->value;
        return true;
    }
    return false;
}
