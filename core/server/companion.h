/* An application that `chowk dev` runs beside its own: `chowk serve` in a directory of its own, from this very binary,
 * on a port of this machine, in a session of its own (Ctrl-C reaches us first). It dies with us, on kill -9 too.
 * BLOCKING: for the start and the end of a command. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

struct companion {
    pid_t pid; /* 0: none */
    char url[48];
};

struct companion_opts {
    const char *dir;
    unsigned port;          /* this one, or the next free one */
    const char *const *env; /* "NAME=value", ends with NULL; replaces all of ours that configure a chowk */
};

/* OK: it takes connections at companion->url. Everything is borrowed for the call. */
enum status companion_start(struct companion *companion, const struct companion_opts *opts, struct err *err) MUST_CHECK;
bool companion_has_ended(struct companion *companion); /* by itself; once. For the caller's SIGCHLD */
void companion_stop(struct companion *companion);      /* none is fine */
