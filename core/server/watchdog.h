/* Watches the loops of the processes by their beats in the scoreboard. A loop that has not turned for LEND_MS has its
 * listener lent to a sibling (T12); one that has not for stall_ms is asked where it is (script/where.h) and given up:
 * the supervisor kills and replaces it. The master's own lateness, and a machine that was suspended, count for nobody:
 * only time in which the watchdog itself ran is counted. */
#pragma once

#include "net/loop.h"
#include "server/scoreboard.h"

#define WATCHDOG_SIGNAL SIGUSR2 /* the master asks a process that does not come back where it is */

struct watchdog_opts {
    struct loop *loop;
    struct scoreboard *board; /* borrowed, like the rest */
    unsigned n_slots;
    uint32_t stall_ms;
    void (*on_late)(void *data, unsigned slot);                     /* once, each time it stands still */
    void (*on_stalled)(void *data, unsigned slot, const char *why); /* once a process */
    void *data;
};

struct watchdog;
struct watchdog *watchdog_new(const struct watchdog_opts *opts);
void watchdog_free(struct watchdog *watchdog); /* NULL is fine */
