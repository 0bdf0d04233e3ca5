/* The embedded default (DESIGN 6, TRAPS T21): a private PostgreSQL and a private Redis below <app>/var, on Unix
 * sockets only, from the installed packages, for `chowk dev`, `migrate`, `test` when no URL is given. BLOCKING: for
 * the start and the end of a command-line process; nothing here touches the loop.
 *
 *   struct embedded *db = embedded_pg_start(&(struct embedded_opts){.var_dir = "…/var"}, &err);   // NULL: err says why
 *   … embedded_url(db) …                        // "postgresql:///chowk?host=/tmp/chowk-3f…/pg&port=5432&user=chowk"
 *   embedded_stop(db);
 *
 *  - Data lives in var/pg and survives restarts (initdb on first use); Redis is a cache: nothing of it is kept.
 *    Started by root, the servers run as `postgres` and `redis` (else `nobody`); when that user cannot traverse to
 *    var, the data goes below /var/tmp/chowk-<hash> and var/pg is a link to it. Output goes to var/log/pg.log,
 * redis.log.
 *  - They live in a session of their own (Ctrl-C reaches the caller first) and die with the calling *thread*, on
 *    kill -9 too: start them from the main thread of the process that should own them, and keep that process.
 *  - One owner per var directory, by flock on var/pg.lock and var/redis.lock. A second process uses the running server
 *    (embedded_is_owned is false) and does not stop it. A short command is `brief`: a `chowk dev` that starts meanwhile
 *    waits until it has ended instead of borrowing a server that is about to stop.
 *  - The owner should pass its own descriptors CLOEXEC all the same; the servers get none but 0, 1 and 2. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

struct embedded;
struct embedded_opts {
    const char *var_dir; /* <app>/var; created if missing; borrowed for the call */
    bool brief;          /* migrate, run, …: ends soon */
    uint32_t ready_ms;   /* bound of the whole start; 0 = 60 000 (initdb takes 1-3 s) */
    const char *const
        *settings; /* extra "name=value" for the server, ends with NULL; or NULL; kept until embedded_stop */
};

/* Return owned, ready to take connections, database `chowk` and superuser `chowk` created; or NULL. ERR_UNAVAILABLE
 * names the missing package, or quotes the end of the server's log. */
struct embedded *embedded_pg_start(const struct embedded_opts *opts, struct err *err);
struct embedded *embedded_redis_start(const struct embedded_opts *opts, struct err *err);

const char *embedded_url(const struct embedded *server); /* borrowed until embedded_stop */
bool embedded_is_owned(const struct embedded *server);   /* false: another process started it and stops it */
pid_t embedded_pid(const struct embedded *server);       /* of an owned server, for the caller's SIGCHLD; else 0 */

/* For the owner's SIGCHLD: an owned server that has ended by itself is started again, as it was the first time
 * (BLOCKING: until it takes connections, at most 60 s). False: nothing was to do, or it dies too often; the log says
 * which. */
bool embedded_revive(struct embedded *server);

/* Stops an owned server (PostgreSQL fast shutdown; at most 15 s, then by force) and takes the handle. NULL is fine. */
void embedded_stop(struct embedded *server);
