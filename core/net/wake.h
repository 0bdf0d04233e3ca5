/* Wake-ups between processes of one machine that share memory: what one has put there, another is told of by an event
 * on its loop instead of by polling. A process listens under a number; whoever knows it (from the shared memory) may
 * wake it. Nothing but the event travels, several may arrive as one, and one may arrive for nothing. */
#pragma once

#include "net/loop.h"

struct wake;

/* Listens as `id`, random and of this process alone; `group` keeps servers apart. ERR_SYSTEM: NULL. Returns owned. */
struct wake *wake_new(struct loop *loop, uint64_t group, uint64_t id, void (*fn)(void *data), void *data,
                      struct err *err);
void wake_free(struct wake *wake); /* not inside fn; NULL is fine */
/* Never blocks. One that is gone, or has as many events waiting as it can hold, needs no further one. */
void wake_send(const struct wake *wake, uint64_t id);
