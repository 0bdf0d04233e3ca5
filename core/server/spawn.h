/* Starts this very binary again in a role, with exactly the descriptors it is given: 0, 1, 2 and then `fds` from
 * SPAWN_FIRST_FD up, in order. Everything else is closed. /proc/self/exe, not the path: a respawn months later runs the
 * code that is running now, whatever has been installed meanwhile (an upgrade is a decision, not an accident).
 *
 * No PR_SET_PDEATHSIG for workers: one outlives its master to drain; it learns of the death by its control socket.
 * SIGINT and SIGHUP are ignored in the child: a terminal sends them to the whole group, and the master decides what
 * they mean. So is SIGUSR1, which is for the master, and may come from a hand that names every process. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

enum { SPAWN_FIRST_FD = 3, SPAWN_MAX_FDS = 24 };

struct spawn_opts {
    const char *const *argv; /* argv[0] is what ps shows; ends with NULL */
    const int *fds;          /* borrowed; stay open here */
    int n_fds;
    /* Of an upgrade and of a companion; NULL: as above, here, and with our environment. */
    const char *path, *dir;
    const char *const *env;
    int death_signal; /* sent to it when this thread ends, and it has a session of its own; 0: neither */
};

/* Returns the pid, or -1. A failing exec ends the child with status 127. */
pid_t spawn_self(const struct spawn_opts *opts, struct err *err) MUST_CHECK;
