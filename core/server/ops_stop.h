/* "stop" and "ping" on the operator's socket: what `chowk stop` speaks to. A stop's call stays open, with a line a
 * second, until the master has nothing left to stop. */
#pragma once

#include "server/ops.h"

struct ops_stop;

struct ops_stop_opts {
    struct loop *loop;
    struct ops *ops; /* borrowed; outlives it */
    /* Stop; again, or `now`: at once. */
    void (*stop)(void *data, bool now);
    unsigned (*n_workers)(void *data); /* that still run */
    void *data;
};

struct ops_stop *ops_stop_new(const struct ops_stop_opts *opts); /* returns owned */
/* Tells those who wait that it is done. NULL is fine. */
void ops_stop_free(struct ops_stop *stop);
