/* Who accepts from which of the master's listeners (T12). A listener has an owner, the worker it was made for. While
 * that one does not serve (it is gone, starts, drains, stands still), a sibling accepts in its place, and another when
 * that one goes, for as long as it takes: for good, when respawning has stopped.
 *
 * No event does it: adoption_look compares what is with what should be, at each tick of the master, so what failed or
 * was lost is mended by the next one. Two accepting from one listener is harmless and none is not: who is to accept is
 * told before who is to stop. Knows workers through `opts` only, so a test can be all of them. */
#pragma once

#include "base/err.h"

struct adoption_opts {
    unsigned n_workers;
    unsigned n_listeners; /* the first n_workers come with their owner's process, the others must be told of */
    bool (*serves)(void *data, unsigned worker);
    enum status (*adopt)(void *data, unsigned worker, unsigned listener); /* not OK: the next tick tries again */
    void (*release)(void *data, unsigned worker, unsigned listener);
    void *data; /* borrowed */
};

struct adoption;
struct adoption *adoption_new(const struct adoption_opts *opts); /* returns owned */
void adoption_free(struct adoption *adoption);                   /* NULL is fine */
void adoption_look(struct adoption *adoption);
/* The worker's process is another now, or none: what the last one had been told is gone. */
void adoption_forget(struct adoption *adoption, unsigned worker);
int adoption_holder(const struct adoption *adoption, unsigned listener); /* the worker that accepts; -1: none */
