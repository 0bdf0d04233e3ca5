/* Sealed memory segments (memfd): what one process writes once and others only read. */
#pragma once

#include "base/err.h"
#include "base/slice.h"

/* A new memfd holding `bytes`, sealed against write, grow, shrink; CLOEXEC. Returns owned fd, or -1. */
int shm_seal(const char *name, struct slice bytes, struct err *err) MUST_CHECK;

struct shm_map {
    struct slice bytes; /* read-only mapping */
};
/* Maps a sealed memfd read-only (fd may be closed afterwards). Refuses one that is not sealed. */
enum status shm_open_sealed(int fd, struct shm_map *map, struct err *err) MUST_CHECK;
void shm_close(struct shm_map *map);
