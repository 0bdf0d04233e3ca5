/* Readiness of a descriptor that somebody else owns (libpq's socket, a listener). Level-triggered. */
#pragma once

#include "net/loop.h"

/* POLL_HANGUP: an error or a hang-up of both directions, never a mere FIN; for who reads nothing now. */
enum { POLL_READ = 1, POLL_WRITE = 2, POLL_HANGUP = 4 };

struct poll;
typedef void (*poll_fn)(void *data, int events /* POLL_READ|POLL_WRITE|POLL_HANGUP; errors set the first two */);

struct poll *poll_new(struct loop *loop, int fd, poll_fn fn, void *data); /* watches nothing yet; returns owned */
void poll_set(struct poll *poll, int events);                             /* 0 pauses; cheap when unchanged */
void poll_free(struct poll *poll); /* stops watching now; fd is not closed and may be closed right after;
                                      safe inside the callback */
