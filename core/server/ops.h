/* The operator's socket: <run.dir>/chowk.sock, mode 0600, so that the file's permissions are the lock. The master
 * serves it on its loop (ops.c); commands such as `chowk stop` call it (ops_call.c).
 *
 * One request per connection: one line of JSON in, lines of JSON out, the last of which ends it:
 *
 *   → {"command":"reload","args":["--rollback"]}
 *   ← {"progress":"building"}                          any number of them
 *   ← {"ok":true,"result":…}   or   {"ok":false,"error":"lua/store/routes/orders.lua:42: …","detail":"…"}
 *
 * A new command is one ops_register where the master opens what it speaks for. Its function may answer at once or
 * later; it answers exactly once, also when the client has gone meanwhile. */
#pragma once

#include "base/buf.h"
#include "base/err.h"
#include "net/loop.h"

#define OPS_SOCKET "chowk.sock"
enum { OPS_MAX_REQUEST = 64 * 1024, OPS_MAX_ARGS = 32, OPS_MAX_COMMANDS = 32, OPS_MAX_CLIENTS = 32 };

/* ---- the master's side --------------------------------------------------------------------------------------- */

struct ops;
struct ops_call; /* one request, from its arrival to its answer */

typedef void (*ops_fn)(void *data, struct ops_call *call);

/* A socket for ops_new in `dir`, replacing a stale one: hold the directory's lock. Works however long the path is.
 * Returns owned fd (CLOEXEC, non-blocking), or -1. */
int ops_listen(const char *dir, struct err *err) MUST_CHECK;
/* To serve the socket `fd`, which it takes, from ops_start on: an upgrade's new master has it before it may speak. */
struct ops *ops_new(struct loop *loop, int fd); /* returns owned */
void ops_start(struct ops *ops);
int ops_fd(const struct ops *ops);
/* `fn` answers "name". A call that has no answer after timeout_ms (0: waits as long as it takes) fails for its client;
 * the answer still has to come, and is dropped. `name` is borrowed for ever. */
void ops_register(struct ops *ops, const char *name, uint32_t timeout_ms, ops_fn fn, void *data);
/* No new requests; those that run go on. Idempotent. */
void ops_stop(struct ops *ops);
/* Frees it, after whoever holds calls is gone: those still open are answered with an error. NULL is fine. Removes
 * nothing: an upgrade's new master may serve the same socket (ops_unlink). */
void ops_free(struct ops *ops);
void ops_unlink(const char *dir);

bool ops_has_arg(const struct ops_call *call, const char *arg);
const char *ops_arg(const struct ops_call *call, size_t i); /* NULL: there are not so many. Borrowed */
/* A line for a person who waits. */
void ops_progress(struct ops_call *call, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The answer; the call is gone afterwards. `json` is any JSON value without line breaks; empty: null. */
void ops_done(struct ops_call *call, struct slice json);
void ops_fail(struct ops_call *call, const struct err *err);

/* ---- the command's side -------------------------------------------------------------------------------------- */

struct ops_request {
    const char *dir; /* run.dir: ops_run_dir */
    const char *command;
    const char *const *args;
    size_t n_args;
    uint32_t timeout_ms;                               /* longest silence of the master; 0: waits for ever */
    void (*on_progress)(void *data, const char *text); /* may be NULL */
    void *data;
};

/* BLOCKING. OK: `result` gets the JSON value of the answer. ERR: what the master answered, or that none runs here
 * (ERR_UNAVAILABLE), or that it fell silent (ERR_TIMEOUT). */
enum status ops_call(const struct ops_request *request, struct buf *result, struct err *err) MUST_CHECK;

/* run.dir of the application in the current directory, also when its configuration has mistakes: whoever wants to stop
 * a server need not mend them first. Returns owned. */
char *ops_run_dir(void);
/* The member `name` of a JSON object, at its top level; false if it is not there or has another type. */
bool ops_result_text(struct slice json, const char *name, struct buf *out);
bool ops_result_number(struct slice json, const char *name, double *out);
