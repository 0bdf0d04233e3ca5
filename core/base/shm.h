/* Memory that several processes map (memfd). Two kinds:
 *
 *  - sealed: one process writes it once, the others only read (code bundle, configuration);
 *  - segments: all of them write, each part under its own lock. A segment carries a versioned header, so that a process
 *    of another version, as during an upgrade, refuses it instead of misreading it. (DESIGN 3, TRAPS T11) */
#pragma once

#include <pthread.h>

#include "base/err.h"
#include "base/slice.h"

/* ---- sealed -------------------------------------------------------------------------------------------------- */

/* A new memfd holding `bytes`, sealed against write, grow, shrink; CLOEXEC. Returns owned fd, or -1. */
int shm_seal(const char *name, struct slice bytes, struct err *err) MUST_CHECK;

struct shm_map {
    struct slice bytes; /* read-only mapping */
};
/* Maps a sealed memfd read-only (fd may be closed afterwards). Refuses one that is not sealed. */
enum status shm_open_sealed(int fd, struct shm_map *map, struct err *err) MUST_CHECK;
void shm_close(struct shm_map *map);

/* ---- segments ------------------------------------------------------------------------------------------------ */

#define SHM_BODY_ALIGN 64

struct shm_layout {
    const char *name;        /* of the memfd: "chowk-seq"; borrowed for ever */
    uint32_t magic, version; /* raise the version whenever the body's layout or meaning changes */
    size_t size;             /* of the body, in bytes */
    /* Once, on zeroed memory: makes the locks. Not on a segment that is inherited, which others use. May be NULL. */
    void (*create)(void *body, const void *data);
    const void *data; /* borrowed for shm_create */
};

struct shm_segment {
    void *body; /* SHM_BODY_ALIGN-aligned; no pointer may be stored in it. NULL: not attached */
    size_t mapped_len;
};

/* A new segment with every page allocated (a full /dev/shm is an error here, not a SIGBUS later), sealed against
 * growing and shrinking; CLOEXEC. Returns owned fd, or -1. */
int shm_create(const struct shm_layout *layout, struct err *err) MUST_CHECK;
/* Maps it, left out of core dumps (fd may be closed afterwards). ERR for anything but this very layout: the caller
 * makes a new segment. */
enum status shm_attach(int fd, const struct shm_layout *layout, struct shm_segment *segment,
                       struct err *err) MUST_CHECK;
void shm_detach(struct shm_segment *segment); /* safe when not attached */
size_t shm_size(int fd);                      /* of a segment's body; 0: it is none */

/* A segment inherited from the master that an upgrade replaces: shm_create of exactly its layout returns it instead of
 * making another. Takes fd. shm_offer_end closes what nobody wanted. */
void shm_offer(int fd);
void shm_offer_end(void);

/* ---- locks within a segment ---------------------------------------------------------------------------------- */

/* One part of a segment and who may touch it. Its holder does no system call, allocates nothing, copies at most 4 KiB.
 */
struct shm_lock {
    pthread_mutex_t mutex;   /* process-shared, robust */
    _Atomic uint32_t n_late; /* waits in vain since somebody last had it */
};

enum shm_held {
    SHM_BUSY,     /* not held; do without: what the memory holds is a help, never the only home of anything */
    SHM_HELD,     /* unlock it */
    SHM_ORPHANED, /* held, but its last holder died within: reset the part to "empty" before use, then unlock */
};

#define SHM_WAIT_MAX_US 5000 /* the loop stands still meanwhile; a holder that dumps core keeps a lock for seconds */

void shm_lock_create(struct shm_lock *lock); /* in shm_layout.create */
/* Tries, spins briefly, then sleeps at most wait_us (0: not at all; SHM_WAIT_MAX_US: the most). After a few waits in
 * vain its holder is taken to stand still: until somebody has the lock again it is tried, but not waited for. */
enum shm_held shm_lock(struct shm_lock *lock, uint32_t wait_us) MUST_CHECK;
void shm_unlock(struct shm_lock *lock);
