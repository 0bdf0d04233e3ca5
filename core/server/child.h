/* The master's end of one worker process: starts it with the descriptors it needs, hears its control channel, knows how
 * it ended. Decides nothing: supervisor.c does. */
#pragma once

#include <sys/types.h>

#include "net/loop.h"
#include "server/control.h"
#include "server/respawn.h"
#include "server/scoreboard.h"
#include "server/segments.h"

struct child;
struct child_opts {
    struct loop *loop;
    bool is_jobs;
    unsigned id;                        /* in its role */
    unsigned n_processes;               /* of both roles */
    unsigned place;                     /* of both roles: workers, then job workers */
    int config_fd, bundle_fd, listener; /* listener: not for job workers. All borrowed for the call */
    uint32_t generation;                /* of the bundle */
    const struct segments *segments;
    struct scoreboard *board; /* NULL: none, in tests */
    unsigned board_slot;      /* a free one */
    void (*on_message)(struct child *child, const struct control_message *message);
    void *data;
};

struct child {
    unsigned magic;
    pid_t pid;
    int control; /* -1: it has closed it */
    struct poll *poll;
    const char *role; /* "worker", "jobs" */
    unsigned id;
    uint32_t generation; /* it was started with */
    struct scoreboard *board;
    struct scoreboard_slot *seat; /* its own on the board, or NULL */
    unsigned board_slot;
    uint64_t ready_ms; /* clock_ms; 0: not yet. Set by the supervisor, like the next */
    bool is_killed;    /* by us */
    void (*on_message)(struct child *child, const struct control_message *message);
    void *data;
    char why[CONTROL_TEXT_MAX + 1]; /* its last CONTROL_FAIL, or why it was killed; "": nothing was said */
};

struct child *child_new(const struct child_opts *opts, struct err *err); /* starts it; returns owned, or NULL */
struct child_death {
    int status; /* waitpid's */
    enum respawn_cause cause;
    uint64_t ready_ms;               /* for how long it was ready and its loop turned; 0: it never was */
    char why[CONTROL_TEXT_MAX + 64]; /* "worker 0 was ended by signal 9 (Killed)" */
};
/* It has been reaped: takes its last words, counts it on the board, frees its seat. */
void child_bury(struct child *child, int status, struct child_death *death);
void child_free(struct child *child);                  /* once buried */
void child_kill(struct child *child, const char *why); /* now; why may be NULL */
void child_end(struct child *child);                   /* TERM: it drains, if it is ready */
bool child_hears(const struct child *child);           /* its end of the channel is open */
bool child_is_draining(const struct child *child);     /* it says so: it accepts no more, or soon will not */
/* As control_send; ERR also when it has closed its end. */
enum status child_send(const struct child *child, enum control_type type, uint32_t value, int fd);
