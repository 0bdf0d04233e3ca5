/* The master's reloads, put together: the state machine (reload.h), its check process, the operator's "reload" and
 * "rollback", HUP, and file saves in development. */
#pragma once

#include "server/config.h"
#include "server/ops.h"
#include "server/sd_notify.h"
#include "server/supervisor.h"

struct master_reload;

struct master_reload_opts { /* borrowed for the life, like all here */
    struct loop *loop;
    const struct config *config;
    int config_fd;
    int state_fd;         /* SEGMENT_RELOAD */
    unsigned n_processes; /* workers and job workers */
    struct ops *ops;
    struct sd_notify *notify;      /* NULL: systemd does not listen */
    struct supervisor *supervisor; /* its on_slot events go to master_reload_slot */
};

/* Builds the first bundle, which is what the first processes run, as generation 1. ERR: NULL; err names file:line. */
struct master_reload *master_reload_new(const struct master_reload_opts *opts, struct err *err); /* or NULL */
void master_reload_free(struct master_reload *reload);                                           /* NULL is fine */

void master_reload_up(struct master_reload *reload); /* every worker has been ready: from now on it reloads */
/* Idle: from now on who asks waits, until master_reload_up. */
void master_reload_hold(struct master_reload *reload);
bool master_reload_is_idle(const struct master_reload *reload);
void master_reload_stop(struct master_reload *reload); /* the server stops: no more; what is under way is dropped */
void master_reload_reap(struct master_reload *reload); /* on SIGCHLD */
void master_reload_hup(struct master_reload *reload);
void master_reload_slot(struct master_reload *reload, unsigned slot, enum supervisor_event event,
                        const struct control_message *message);
