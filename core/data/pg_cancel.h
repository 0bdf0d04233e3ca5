/* Cancel requests through a pooler (T20). Private to data/pg_*. */
#pragma once

#include "data/pg_libpq.h"

#include "base/base.h"

struct pg_cancels;
/* Asks the server behind `pq` to stop what it runs, at some time soon; true: it was taken on. Bounded, never blocks,
 * and nobody hears how it ended. *cancels is made at the first need. */
bool pg_cancel_push(struct pg_cancels **cancels, PGconn *pq);
void pg_cancel_free(struct pg_cancels *cancels); /* drops what was not begun; NULL is fine. Does not wait */
