/* What supervisor.c (the slots, their births and deaths) and supervisor_tick.c (what is looked at each tick) share.
 * Nobody else includes this. */
#pragma once

#include "net/timer.h"
#include "server/adoption.h"
#include "server/child.h"
#include "server/recycle.h"
#include "server/respawn.h"
#include "server/supervisor.h"
#include "server/watchdog.h"

enum slot_state { SLOT_DOWN, SLOT_STARTING, SLOT_READY, SLOT_FAILED, SLOT_GONE };

struct slot {
    struct supervisor *supervisor;
    enum slot_state state;
    unsigned id;             /* of its role, from 0 */
    const char *role;        /* "worker", or "jobs": no listener, serves nobody */
    struct child *child;     /* NULL: no process */
    struct child *successor; /* starts, while child serves; NULL: none */
    struct child *leaver;    /* finishes, while child serves; NULL: none */
    struct timer restart;
    struct respawn respawn;
    struct recycle recycle;
    uint64_t successor_after_ms;
};

struct supervisor {
    unsigned magic;
    struct supervisor_opts opts;
    struct slot *slots; /* workers, then job workers */
    unsigned n_slots;
    struct watchdog *watchdog; /* NULL: there is no board */
    struct adoption *adoption;
    struct timer tick, kill;
    int bundle_fd;       /* supervisor_set_code */
    uint32_t generation; /* of it */
    unsigned share;      /* supervisor_set_share */
    bool is_up, is_stopping, is_killed, is_down;
    char why[CONTROL_TEXT_MAX + 64]; /* the start failed; "": it did not */
};

/* supervisor.c */
bool slot_is_job_worker(const struct slot *slot);
bool slot_is_last(const struct slot *slot); /* no other worker is left that serves or will */
struct child *slot_spawn(struct slot *slot, struct err *err);
/* What gave up in a crash loop is started again. */
void supervisor_revive(struct supervisor *supervisor, const char *why);
void supervisor_count_loops(const struct supervisor *supervisor);

/* supervisor_tick.c */
void supervisor_tick_start(struct supervisor *supervisor);
void supervisor_tick_stop(struct supervisor *supervisor);
