/* Watches the loops of the processes by their beats in the scoreboard. One that has not turned for WATCHDOG_LATE_MS is
 * late, and its listener is a sibling's (server/adoption.h); one that has not for stall_ms, or is not ready start_ms
 * after its birth, is asked where it is (script/where.h) and given up: the supervisor kills and replaces it.
 *
 * Time counts in which the process could have turned: not the master's own lateness, nor a suspended machine (a tick
 * counts as one tick, however late it comes), nor time in which the process waited for a core of a busy machine, as
 * long as it had less than a quarter of one. What remains is CPU time burnt and time blocked in a call: the guard on
 * what one request may take of a worker. Where the kernel does not say how long a process waited, and always after ten
 * times the limit, it is wall-clock time. */
#pragma once

#include "server/scoreboard.h"

#define WATCHDOG_SIGNAL SIGUSR2 /* the master asks a process that does not come back where it is */

enum { WATCHDOG_TICK_MS = 50, WATCHDOG_LATE_MS = 150, WATCHDOG_ASK_MS = 400 };

struct watchdog_opts {
    struct scoreboard *board; /* borrowed */
    uint32_t stall_ms, start_ms;
    void (*on_stalled)(void *data, unsigned slot, const char *why); /* once a process */
    /* For how long it has waited for a core in its life, in µs; 0: not known. NULL: what the kernel says. */
    uint64_t (*waited_us)(uint32_t pid);
    void *data;
};

struct watchdog;
struct watchdog *watchdog_new(const struct watchdog_opts *opts, uint64_t now_ms);
void watchdog_free(struct watchdog *watchdog);                  /* NULL is fine */
void watchdog_look(struct watchdog *watchdog, uint64_t now_ms); /* at each tick */
bool watchdog_is_late(const struct watchdog *watchdog, unsigned slot);
