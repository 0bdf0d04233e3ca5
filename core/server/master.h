/* The master process of `chowk serve` and `chowk dev`: binds, builds the code bundle, starts workers, waits for TERM.
 * It never serves a request and never runs application code. */
#pragma once

#include "server/config.h"
#include "server/handover.h"

struct master_opts {
    const struct config *config; /* borrowed for the call */
    /* Every worker is ready: `url` is where. Called once, on the loop. */
    void (*on_ready)(void *data, const char *url);
    /* SIGCHLD, after the workers' own; for other children of the process. Not once a stop has begun. May be NULL. */
    void (*on_child)(void *data);
    const char *no_upgrade;    /* why this one cannot be upgraded; NULL: it can */
    struct handover *handover; /* of the upgrade that started this process, or NULL; borrowed */
    void *data;
};

/* Runs until stopped. Returns the exit code: 0 after a stop, 1 (err set) when it could not start or go on. */
int master_run(const struct master_opts *opts, struct err *err);
