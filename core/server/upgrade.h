/* An upgrade as the old master sees it: on USR2 or the operator's "upgrade" it starts the binary that is on the disk
 * now, gives it what it holds (server/handover.h says what), and waits. When every worker of the new master is ready it
 * is told to take over, and when it has done so this one retires; in any other case (it fails, it dies, upgrade.timeout
 * passes) nothing has happened but a log line. One at a time. Runs on the master's loop. */
#pragma once

#include "server/listen.h"
#include "server/ops.h"
#include "server/segments.h"

struct upgrade;

struct upgrade_opts { /* borrowed for the life */
    struct loop *loop;
    struct ops *ops;
    const struct config *config;
    const struct listen_set *listeners;
    const struct segments *segments;
    int lock_fd;
    const char *(*why_not)(void *data); /* what speaks against one now, or NULL */
    /* One has begun (nothing that a new master reads may change now) or has ended without effect. */
    void (*on_change)(void *data, bool is_running);
    /* It serves, and speaks for the server: retire. */
    void (*on_taken)(void *data, pid_t heir);
    void *data;
};

struct upgrade *upgrade_new(const struct upgrade_opts *opts); /* registers "upgrade", watches USR2; returns owned */
void upgrade_free(struct upgrade *upgrade);                   /* NULL is fine */
void upgrade_reap(struct upgrade *upgrade);                   /* on SIGCHLD */
void upgrade_stop(struct upgrade *upgrade);                   /* the server stops: ends one that is under way */
/* After the handover: so many of our workers still run. */
void upgrade_left(struct upgrade *upgrade, unsigned n_left, unsigned n_all);
