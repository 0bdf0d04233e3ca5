/* Keeps the workers and job workers of one master alive: starts them, hears their control messages, reaps and respawns
 * them with back-off (respawn.h), has siblings accept for the ones that do not serve (adoption.h), replaces the worn
 * out (recycle.h), and stops them all. One slot per worker; a slot is in exactly one state (supervisor.c). Once they
 * have all been ready, only a stop ends the service. Runs on the master's loop. */
#pragma once

#include "base/err.h"
#include "net/loop.h"
#include "server/control.h"
#include "server/scoreboard.h"
#include "server/segments.h"

struct supervisor;

/* What happens to the process in a slot, for those who must know more than how many serve. */
enum supervisor_event {
    SUPERVISOR_ON_READY,
    SUPERVISOR_ON_GONE,
    SUPERVISOR_ON_MESSAGE, /* one that is not the supervisor's own */
};

struct supervisor_opts {
    struct loop *loop;
    unsigned n_workers, n_job_workers;
    const int
        *listeners; /* one per worker, none for job workers; borrowed for the supervisor's life, like all that follow */
    const int *extra; /* more listeners, which the workers divide among themselves */
    unsigned n_extra;
    bool is_shared; /* all accept from all of them, the first and the others */
    int config_fd;  /* what every worker gets; its code comes with supervisor_set_code */
    const struct segments *segments;
    struct scoreboard *board;  /* what the processes tell; NULL: nobody is watched */
    uint32_t stall_ms;         /* of a loop that stands still, until it is given up */
    uint32_t start_ms;         /* until a process must be ready; beyond, it is given up */
    uint64_t max_memory;       /* bytes of its own; beyond, a process gets a successor; 0: no limit */
    uint32_t drain_ms;         /* what workers allow themselves; stragglers are killed a little later */
    void (*on_up)(void *data); /* every worker has been ready once */
    void (*on_down)(void *data, const char *why); /* no worker is left: why is NULL after supervisor_stop, else the
                                                     start failed. Fires once. */
    /* May be NULL. `message` comes with SUPERVISOR_ON_MESSAGE only. */
    void (*on_slot)(void *data, unsigned slot, enum supervisor_event event, const struct control_message *message);
    void *data;
};

struct supervisor *supervisor_new(const struct supervisor_opts *opts); /* returns owned */
void supervisor_free(struct supervisor *supervisor);                   /* all workers must be gone */

void supervisor_start(struct supervisor *supervisor);
void supervisor_reap(struct supervisor *supervisor);              /* on SIGCHLD; looks only at its own children */
unsigned supervisor_n_alive(const struct supervisor *supervisor); /* processes, those that are being replaced too */
void supervisor_stop(struct supervisor *supervisor, uint32_t lame_duck_ms);
void supervisor_leave(
    struct supervisor *supervisor);                  /* others serve from now on: workers finish at once, still ready */
void supervisor_kill(struct supervisor *supervisor); /* now: SIGKILL */

/* Slots, from 0: workers, then job workers. A process that finishes its requests before it goes is still SERVING. */
enum supervisor_presence { SUPERVISOR_ABSENT, SUPERVISOR_STARTING, SUPERVISOR_SERVING };
unsigned supervisor_n_slots(const struct supervisor *supervisor);
enum supervisor_presence supervisor_presence(const struct supervisor *supervisor, unsigned slot);
/* To a process that is SERVING; as control_send. */
enum status supervisor_send(struct supervisor *supervisor, unsigned slot, enum control_type type, uint32_t value,
                            int fd);
/* Every process, also one that only starts or finishes, opens its log files anew. */
void supervisor_reopen(const struct supervisor *supervisor);
/* Of pg.pool_size, for every process, started later ones included: 100 unless an old master's workers still run. */
void supervisor_set_share(struct supervisor *supervisor, unsigned percent);
/* The code of processes started from now on; the descriptor is borrowed until the next call. */
void supervisor_set_code(struct supervisor *supervisor, int bundle_fd, uint32_t generation);
