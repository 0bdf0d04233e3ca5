/* Whether a process should be replaced by a fresh one though it serves: it has run out of Lua memory three times within
 * a minute (T8), or takes more memory than it may. Pure: time is handed in. */
#pragma once

#include "base/base.h"

enum {
    RECYCLE_OUT_OF_MEMORY = 3, /* so many times … */
    RECYCLE_WITHIN_MS = 60000, /* … within this */
    RECYCLE_AGAIN_MS = 60000,  /* between two of one worker: code that needs so much would else restart all the time */
};

struct recycle {                            /* zeroed = fresh */
    uint64_t n_seen;                        /* of n_out_of_memory */
    uint64_t out_ms[RECYCLE_OUT_OF_MEMORY]; /* when the last ones were seen, a ring; 0: not yet */
    unsigned next;                          /* of it */
    uint64_t next_ms;                       /* not before */
};

struct recycle_view {
    uint64_t n_out_of_memory;  /* a total, of earlier processes too */
    uint64_t bytes, max_bytes; /* max_bytes 0: no limit */
};

/* A new process: what happened to the last one does not count. */
void recycle_begin(struct recycle *recycle, uint64_t n_out_of_memory);
enum recycle_why { RECYCLE_NOT, RECYCLE_OOMS, RECYCLE_BYTES };
enum recycle_why recycle_look(struct recycle *recycle, const struct recycle_view *view, uint64_t now_ms);
void recycle_done(struct recycle *recycle, uint64_t now_ms); /* its replacement begins */
