/* When a worker that died may start again: at once after a long life, ever later when it keeps dying young, and not at
 * all in a crash loop. Pure: time is handed in. */
#pragma once

#include "base/base.h"

enum {
    RESPAWN_YOUNG_MS = 10000, /* dying before this is dying young */
    RESPAWN_FIRST_MS = 50,    /* delay after the second young death in a row; doubles */
    RESPAWN_MAX_MS = 5000,
    RESPAWN_CRASH_LOOP = 8, /* young deaths in a row that end it */
};

struct respawn { /* zeroed = fresh */
    unsigned young_deaths;
};

/* The worker lived `lived_ms`. Returns the delay before the next start in ms, or -1: crash loop, give up. */
int respawn_on_death(struct respawn *respawn, uint64_t lived_ms);
