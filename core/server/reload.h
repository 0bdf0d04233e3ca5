/* The master's state machine of reloads: check → every process votes → commit, or nothing has happened.
 *
 * One at a time. Who asks while one runs joins the next, which starts when this one is over and serves all who have
 * asked meanwhile: files saved after a reload began are never missed, and a hundred saves are two reloads. It owns the
 * bundles: the committed one, the one under way, and the last few before it, for a rollback. It knows of no process but
 * through `opts`, so a test can be all of them. Runs on the master's loop. */
#pragma once

#include "net/loop.h"
#include "server/control.h"
#include "server/reload_state.h"

enum { RELOAD_HISTORY = 5 /* bundles kept for rollbacks */, RELOAD_MAX_ASKERS = 64 };

enum reload_presence { RELOAD_ABSENT, RELOAD_STARTING, RELOAD_READY };

struct reload_opts { /* borrowed for the life, like all here */
    struct loop *loop;
    struct reload_state *state;
    uint32_t timeout_ms; /* for the votes; the check has its own */
    unsigned n_slots;
    enum reload_presence (*presence)(void *data, unsigned slot);
    enum status (*send)(void *data, unsigned slot, enum control_type type, uint32_t number, int fd);
    enum status (*start_check)(void *data, struct err *err); /* reload_checked follows, unless it is stopped */
    void (*stop_check)(void *data);
    void (*on_busy)(void *data, bool is_busy); /* one begins; none runs any more. May be NULL */
    /* Committed: processes started from now on run this bundle. `fd` stays ours, until the next call. */
    void (*on_commit)(void *data, int bundle_fd, uint32_t number);
    void *data;
};

struct reload;

/* `bundle_fd` (taken) is what the first processes run, as generation 1. Until reload_up, who asks waits. */
struct reload *reload_new(const struct reload_opts *opts, int bundle_fd, const char *hash);
void reload_free(struct reload *reload); /* after reload_stop, or when nobody asks */

void reload_up(struct reload *reload); /* every process has been ready */
/* Idle: who asks waits again, until reload_up: an upgrade's new server reads the same files meanwhile. */
void reload_hold(struct reload *reload);
bool reload_is_idle(const struct reload *reload);

enum reload_kind {
    RELOAD_FROM_DISK,
    RELOAD_ON_SAVE, /* as FROM_DISK, but code that is the committed one already is left alone */
    RELOAD_ROLLBACK,
};

struct reload_result {
    bool is_ok, is_unchanged; /* unchanged: RELOAD_ON_SAVE had nothing to do */
    uint32_t number;          /* the committed generation, also after a failure */
    const char *hash;         /* its code; borrowed for the call */
    unsigned n_routes;        /* of new code; 0 after a failure */
    uint64_t took_ms;
    const char *error; /* NULL if ok; borrowed. "file:line: message", then lines of traceback, if there is one */
};
typedef void (*reload_fn)(void *data, const struct reload_result *result);

/* `done` is called exactly once: later, or at once when refused. */
void reload_begin(struct reload *reload, enum reload_kind kind, reload_fn done, void *data);
/* The server stops: what is under way is dropped, everybody is refused from now on. */
void reload_stop(struct reload *reload);

struct reload_checked {
    int bundle_fd; /* taken; -1: the check failed */
    char hash[RELOAD_HASH];
    unsigned n_routes;
    const char *error; /* when it failed; borrowed */
};
void reload_checked(struct reload *reload, const struct reload_checked *result);

/* A process: is ready now (it may have been started just before) · is gone · has voted. */
void reload_on_ready(struct reload *reload, unsigned slot);
void reload_on_gone(struct reload *reload, unsigned slot);
void reload_on_vote(struct reload *reload, unsigned slot, uint32_t number, const char *refusal /* NULL: yes */);
