/* One worker's PostgreSQL: statements of all requests multiplexed over a few pipelined connections (reads apart
 * from writes), and exclusive connections for transactions. Never blocks. (DESIGN 4; TRAPS T1, T2, T5, Pipelining)
 *
 * Every call completes exactly once through `done`, never from inside the call itself, unless it was cancelled
 * with pg_op_cancel, after which `done` is not called. Every wait (queue, connect, run) ends by the call's deadline. */
#pragma once

#include "base/err.h"
#include "base/slice.h"
#include "data/pg_result.h"
#include "net/loop.h"
#include "net/names.h"

struct pg;
struct pg_op;
struct pg_tx;

struct pg_opts {
    struct loop *loop;
    struct names *names;
    const char *url;            /* postgresql://… or key=value form; borrowed for the call */
    bool is_read_only;          /* a replica: what is no read is refused */
    bool transaction_pooling;   /* pool_mode = "transaction": PgBouncer, Supavisor 6543 */
    unsigned read_connections;  /* shared; 0 = default 2 */
    unsigned write_connections; /* shared; 0 = default 8 */
    unsigned tx_connections;    /* exclusive; 0 = default */
    unsigned max_waiters;       /* queued calls over this: ERR_QUEUE_FULL at once; 0 = default 1000 */
    size_t max_result_bytes;    /* 0 = default 64 MiB */
    unsigned idle_ms;           /* a connection that can be spared is closed after so long; 0 = default 60 s */
};

struct pg *pg_new(const struct pg_opts *opts, struct err *err); /* connects in the background; NULL: bad url */
/* No more than this part of each kind of connection is opened from now on, at least one; what is open stays. */
void pg_set_share(struct pg *pg, unsigned percent);
void pg_free(struct pg *pg); /* calls in flight complete with ERR_CANCELLED first */

struct pg_param {
    const char *text; /* text format, NUL-terminated; NULL = SQL NULL */
};

struct pg_call {
    struct slice sql;              /* copied */
    const struct pg_param *params; /* copied */
    int n_params;
    uint64_t deadline_ms;                                                            /* loop_now based */
    void (*done)(void *data, const struct pg_result *result, const struct err *err); /* one is NULL; both borrowed */
    void *data;
    uint64_t *waited_us; /* its wait for a connection is added here while it has a caller; NULL: nobody asks */
    /* pg_query only. The core's own need, such as a sequence lease that transactions wait for: never queued behind
     * them, not counted against max_waiters; a statement or lock timeout of the shared connection is its error (T5). */
    bool is_core;
    bool must_read; /* pg_query only: refused if it is no read (pg.replica, which may fall back to the primary) */
};

/* Autocommit. Refuses (ERR_REFUSED through done) what may not run on a shared connection. */
struct pg_op *pg_query(struct pg *pg, const struct pg_call *call);
void pg_op_cancel(struct pg_op *op);          /* forgets the caller; frees the backend if it is worth it */
bool pg_op_may_write(const struct pg_op *op); /* not a plain read: a disconnect may not take it back (T10) */
/* What its caller must be told who gives it up now: ERR_COMMIT_UNKNOWN or ERR_OUTCOME_UNKNOWN if it may have taken
 * effect, ERR_NONE if it cannot have. Before pg_op_cancel. */
enum err_code pg_op_outcome(const struct pg_op *op);

enum pg_isolation { PG_READ_COMMITTED, PG_REPEATABLE_READ, PG_SERIALIZABLE };
struct pg_tx_opts {
    enum pg_isolation isolation;
    bool read_only;
    uint32_t lock_timeout_ms; /* 0 = server's */
    uint64_t deadline_ms;
};
/* Takes no connection yet: BEGIN travels with the first statement. Returned tx is ended by exactly one of
 * pg_tx_commit and pg_tx_rollback; it is freed by them. */
struct pg_tx *pg_tx_begin(struct pg *pg, const struct pg_tx_opts *opts);
struct pg_op *pg_tx_query(struct pg_tx *tx, const struct pg_call *call);
/* Pipelined in one Sync group; done gets the results of all (n_results == n_calls), or the first error.
 * `commit`: COMMIT rides in the same group, and the tx is ended by this call. */
struct pg_op *pg_tx_query_all(struct pg_tx *tx, const struct pg_call *calls, int n_calls, bool commit,
                              void (*done)(void *data, const struct pg_result *const *results, int n_results,
                                           const struct err *err),
                              void *data);
/* done's err: NULL only if the server said that it committed (T2); ERR_COMMIT_UNKNOWN if the wire broke after it was
 * written. */
struct pg_op *pg_tx_commit(struct pg_tx *tx, void (*done)(void *data, const struct err *err), void *data);
/* Savepoints are numbered by the caller, innermost highest. UNDO makes a failed tx usable again. */
enum pg_savepoint { PG_SAVEPOINT, PG_SAVEPOINT_RELEASE, PG_SAVEPOINT_UNDO };
struct pg_op *pg_tx_savepoint(struct pg_tx *tx, enum pg_savepoint what, unsigned number,
                              void (*done)(void *data, const struct err *err), void *data);
void pg_tx_rollback(struct pg_tx *tx);      /* at once from the caller's view; the connection returns when idle again */
bool pg_tx_is_used(const struct pg_tx *tx); /* a statement was given to it */
bool pg_tx_is_failed(const struct pg_tx *tx); /* a statement failed: only rollback (or to a savepoint) is left */

/* A connection has worked, and one is open; for /readyz. */
bool pg_is_up(const struct pg *pg);

enum { PG_WAIT_BUCKETS = 16 };
struct pg_stats {
    unsigned open, idle, in_flight, waiting;
    uint64_t queries, errors, reconnects;
    /* Calls by the time they waited for a connection: waits[i] took under 2^i ms and at least half of that, the first
     * less than 1 ms, the last all that is longer. */
    uint64_t waits[PG_WAIT_BUCKETS];
};
void pg_stats(const struct pg *pg, struct pg_stats *out);
