/* When a worker that died may start again. Pure: time is handed in.
 *
 * Only a worker that dies *of itself at its start* is in a crash loop: it never became ready, or died within
 * RESPAWN_SETTLED_MS of being ready while it ran nobody's request or job. Eight such deaths in a row, and starting it
 * again would bring a ninth. Every other death says nothing about the next start: one that was killed from outside (an
 * operator, the kernel out of memory), one that a request brought about (whoever repeats a request that crashes or
 * hangs a worker must not end the service), one after a settled life. For these the delay grows too when they come in
 * a row, so that nothing spins, but not far, and it never ends in giving up. */
#pragma once

#include "base/base.h"

enum {
    RESPAWN_SETTLED_MS = 5000, /* ready for so long, it starts anew as if nothing had happened */
    RESPAWN_FIRST_MS = 50,     /* delay after the second death in a row; doubles */
    RESPAWN_MAX_MS = 5000,     /* of dying of itself at its start, which nobody misses */
    RESPAWN_CALM_MAX_MS = 500, /* of any other death: it would serve */
    RESPAWN_CRASH_LOOP = 8,    /* deaths of itself at its start, in a row, that end it */
};

enum respawn_cause { RESPAWN_OUTSIDE, RESPAWN_REQUEST, RESPAWN_ITSELF };

struct respawn { /* zeroed = fresh */
    unsigned n_in_row, n_at_start;
};

/* The worker had been ready for `ready_ms`; 0: it never was. Returns the delay before the next start in ms, or -1:
 * crash loop, give up. */
int respawn_on_death(struct respawn *respawn, enum respawn_cause cause, uint64_t ready_ms);
bool respawn_is_loop(const struct respawn *respawn);
