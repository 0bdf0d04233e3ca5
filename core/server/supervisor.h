/* Keeps the workers and job workers of one master alive: starts them, hears their control messages, reaps and respawns
 * them with back-off (respawn.h), has siblings accept for the ones that are gone (T12), and stops them all. One slot
 * per worker; a slot is in exactly one state (supervisor.c). Runs on the master's loop. */
#pragma once

#include "base/err.h"
#include "net/loop.h"
#include "server/segments.h"

struct supervisor;

struct supervisor_opts {
    struct loop *loop;
    unsigned n_workers, n_job_workers;
    const int
        *listeners; /* one per worker, none for job workers; borrowed for the supervisor's life, like all that follow */
    int config_fd, bundle_fd; /* what every worker gets */
    const struct segments *segments;
    uint32_t drain_ms;         /* what workers allow themselves; stragglers are killed a little later */
    void (*on_up)(void *data); /* every worker has been ready once */
    void (*on_down)(void *data, const char *why); /* no worker is left: why is NULL after supervisor_stop, else the
                                                     start failed or all slots gave up. Fires once. */
    void *data;
};

struct supervisor *supervisor_new(const struct supervisor_opts *opts); /* returns owned */
void supervisor_free(struct supervisor *supervisor);                   /* all workers must be gone */

void supervisor_start(struct supervisor *supervisor);
void supervisor_reap(struct supervisor *supervisor);              /* on SIGCHLD; looks only at its own children */
unsigned supervisor_n_alive(const struct supervisor *supervisor); /* workers that have a process */
void supervisor_stop(struct supervisor *supervisor, uint32_t lame_duck_ms);
void supervisor_kill(struct supervisor *supervisor); /* now: SIGKILL */
