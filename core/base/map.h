/* Hash map from bytes to a pointer: open addressing, keyed hash, borrowed keys (they must outlive the
 * entry: usually they live inside the value). Zero-initialised is empty. */
#pragma once

#include "base/slice.h"

struct map_entry;
struct map {
    struct map_entry *entries;
    size_t cap, len, tombs;
};

void *map_get(const struct map *map, struct slice key);        /* NULL if absent */
void *map_put(struct map *map, struct slice key, void *value); /* returns the replaced value or NULL */
void *map_remove(struct map *map, struct slice key);           /* returns the removed value or NULL */
void map_free(struct map *map);                                /* the table only, not keys or values */
/* Iterate: size_t it = 0; while (map_next(map, &it, &key, &value)) … ; do not modify meanwhile. */
bool map_next(const struct map *map, size_t *it, struct slice *key, void **value);
