/* Where a read that may be a little old goes: to a replica that answers and is not too far behind, in turn, else to the
 * primary. Each replica is a small pool of its own, for reads only. */
#pragma once

#include "data/pg.h"

struct pg_replicas;

struct pg_replicas_opts {
    struct loop *loop;
    struct names *names;
    struct pg *primary; /* borrowed; outlives it */
    char *const *urls;  /* borrowed for the call */
    size_t n_urls;
    uint32_t max_lag_ms;      /* 100 and more */
    unsigned connections;     /* per replica, 2 and more */
    bool transaction_pooling; /* as in pg_opts */
};

struct pg_replicas *pg_replicas_new(const struct pg_replicas_opts *opts, struct err *err); /* NULL: a bad url */
void pg_replicas_free(struct pg_replicas *replicas);       /* NULL is fine; calls in flight complete as in pg_free */
struct pg *pg_replicas_pick(struct pg_replicas *replicas); /* never NULL; borrowed */
