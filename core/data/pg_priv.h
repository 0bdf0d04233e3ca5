/* What the files of data/pg_* share. Who owns what:
 *
 *   pg.c       the public calls, the turn hook and the janitor
 *   pg_op.c    one call from creation to its completion
 *   pg_session.c  one connection: resolve → connect (libpq) → ready → lost
 *   pg_wire.c  the pipeline of one connection: what is sent
 *   pg_answer.c  what comes back, and for what
 *   pg_io.c    its bytes; pg_proto.c its messages
 *   pg_pool.c  which connection a call gets: shared lanes, exclusive ones
 *   pg_grow.c  how many connections there are: on demand, back-off, idle and silent ones
 *   pg_settle.c  what a finished or lost group means for its calls: deliver, fail, run again
 *   pg_tx.c    transactions
 *   pg_listen.c  LISTEN, on a connection of its own
 *   pg_copy.c  COPY, on an exclusive connection
 *   pg_stmt.c, pg_classify.c  statement texts
 *   pg_cancel.c  cancelling through a pooler, on a thread
 *
 * Order of a turn: results are read and delivered while io is handled; calls made meanwhile are only queued;
 * the hook at the end of the turn sends all of them. So the plain reads of one turn leave in one Sync group per
 * connection, and everything for one connection in one write. */
#pragma once

#include "base/list.h"
#include "data/pg.h"
#include "data/pg_cancel.h"
#include "data/pg_libpq.h" /* its PGconn is `struct pg_conn`, which is why our connection is called a session */
#include "data/pg_proto.h"
#include "data/pg_result.h"
#include "data/pg_stmt.h"
#include "net/poll.h"
#include "net/timer.h"

#define PG_MAGIC 0x9061a901u
#define PG_SESSION_MAGIC 0x9061a902u
#define PG_OP_MAGIC 0x9061a903u
#define PG_TX_MAGIC 0x9061a904u

enum {
    PG_READ_DEPTH = 128,      /* calls in flight per shared read connection */
    PG_WRITE_DEPTH = 32,      /* … write connection */
    PG_TICK_MS = 20,          /* janitor's step: how late a deadline may be seen */
    PG_CONNECT_MS = 5000,     /* one attempt */
    PG_CANCEL_MS = 1000,      /* a cancelled connection must be idle by then (T20) */
    PG_STALL_MS = 3000,       /* a shared connection that owes answers and says nothing is lost */
    PG_BACKOFF_MAX_MS = 2000, /* between attempts to connect */
    PG_COMMIT_MS = 30000,     /* a COMMIT whose caller is gone still has so long to be answered */
    PG_IDLE_MS = 60000,       /* default of idle_ms */
    PG_IDLE_TICK_MS = 1000,   /* janitor's step while nothing but that can happen */
    PG_DEFAULT_DEADLINE_MS = 30000,
    PG_RUNS = 5 /* of one call: read → write → slow, and a stale plan or a lost connection */
};

enum pg_lane_id { PG_LANE_READ, PG_LANE_WRITE, PG_LANE_EXCLUSIVE, PG_LANE_LISTEN, PG_N_LANES };

/* ---- calls ------------------------------------------------------------------------------------------- */

struct pg_copy;

struct pg_cmd {
    struct pg_stmt *stmt;
    const char **values;
    int n_values;
};

enum pg_op_state {
    PG_OP_QUEUED,   /* in a lane, a tx or a connection's `out`; nothing of it was sent */
    PG_OP_SENT,     /* in a connection's `inflight` */
    PG_OP_SETTLING, /* its group is over */
    PG_OP_FINISHED  /* in pg->finished, waiting for its completion */
};

struct pg_op {
    unsigned magic;
    enum pg_op_state state;
    struct pg *pg;
    struct pg_session *conn; /* QUEUED in out, SENT */
    struct pg_tx *tx;        /* NULL: autocommit */
    struct pg_copy *copy;    /* wants the exclusive connection itself: it has no statement */
    struct list node;        /* where it waits */
    struct list all;         /* pg->ops, for the janitor */
    struct list late;        /* pg->late: its completion comes before its result */
    uint64_t queued_ms;      /* since when it waits for a connection */
    uint64_t deadline_ms;
    uint64_t started_us, *waited_us;
    /* One of the three, or none once the caller is gone. */
    void (*done)(void *data, const struct pg_result *result, const struct err *err);
    void (*done_all)(void *data, const struct pg_result *const *results, int n_results, const struct err *err);
    void (*done_commit)(void *data, const struct err *err);
    void *data;
    struct err *err;      /* its failure so far; owned */
    struct err *late_err; /* in `late`: what the caller gets; owned */
    uint32_t err_stmt_id; /* under which id the failed statement was prepared */
    uint8_t lane;         /* where it runs */
    uint8_t n_runs;
    bool is_tx;        /* belongs, or belonged, to a transaction */
    bool is_stale;     /* failed because the table changed under the prepared plan */
    bool is_unnamed;   /* its prepared statement was not there: this time without one */
    bool was_lost;     /* a connection was lost under it before */
    bool is_forgotten; /* the caller is gone; the result is dropped */
    bool is_alone;     /* a read that may not share its Sync */
    bool is_internal;  /* ours: not counted, not bounded */
    bool must_read;    /* never runs where it could write */
    bool is_core;      /* pg_call.is_core: on a shared write connection, whatever the text is */
    bool is_group_end; /* SENT: last of its Sync group */
    bool is_aborted;   /* skipped: an earlier command of its group failed */
    bool is_commit;    /* COMMIT rides in its group */
    bool is_commit_ok;
    bool commits_at_sync;   /* SENT: the whole transaction is this group, without BEGIN and COMMIT */
    bool is_savepoint_undo; /* ROLLBACK TO: on success the tx is usable again */
    char control[40];       /* SAVEPOINT …, ROLLBACK: sent after the commands; "" for none */
    int n_cmds;
    struct pg_cmd *cmds;
    struct pg_result **results; /* n_cmds; owned */
    /* cmds, results, values and their bytes follow in the same allocation */
};

struct pg_op *pg_op_new(struct pg *pg, const struct pg_call *calls, int n_calls);
void pg_op_free(struct pg_op *op);
void pg_op_fail(struct pg_op *op, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4); /* first one stays */
void pg_op_fail_as(struct pg_op *op, const struct err *err);
void pg_op_finish(struct pg_op *op); /* completes in the deferred part of the turn; takes it out of its list */
/* The same for one whose result a connection still owes: it stays in flight, without its caller. */
void pg_op_finish_late(struct pg_op *op, enum err_code code, const char *message);
void pg_op_deliver(struct pg_op *op); /* completes now, frees it */
void pg_op_run_deferred(struct pg *pg);
void pg_op_expire(struct pg_op *op, uint64_t now_ms);
void pg_op_reset(struct pg_op *op); /* for another run: forgets results and error */
static inline bool pg_op_is_read(const struct pg_op *op)
{
    return op->n_cmds == 1 && !op->is_core && op->cmds[0].stmt->text.class == PG_CLASS_READ;
}

/* ---- connections --------------------------------------------------------------------------------------- */

enum pg_step_kind {
    PG_STEP_OWN, /* Parse of our BEGIN and COMMIT */
    PG_STEP_BEGIN,
    PG_STEP_SET,
    PG_STEP_CLOSE,
    PG_STEP_PREPARE,
    PG_STEP_STATEMENT,
    PG_STEP_CONTROL,
    PG_STEP_COMMIT,
    PG_STEP_SYNC
};

struct pg_step { /* one answer that the connection owes us */
    struct pg_op *op;
    uint32_t stmt_id;
    uint16_t slot; /* of a prepared statement, else PG_STMT_NO_SLOT */
    uint16_t cmd;
    uint8_t kind;
};

enum pg_session_state {
    PG_SESSION_CLOSED,
    PG_SESSION_RESOLVING,
    PG_SESSION_CONNECTING,
    PG_SESSION_READY,    /* shared: takes calls; exclusive: idle, in pg->idle */
    PG_SESSION_BUSY,     /* exclusive: belongs to a tx or an autocommit call */
    PG_SESSION_RELEASING /* exclusive: its owner is gone, something is still in flight */
};

struct pg_session {
    unsigned magic;
    enum pg_session_state state;
    enum pg_lane_id lane;
    struct pg *pg;
    PGconn *pq;
    struct poll *poll;
    struct names_query *query;
    struct buf hosts, hostaddrs, ports; /* while resolving: libpq's comma-separated lists */
    unsigned n_resolved;
    unsigned rotation;         /* pg->rotation when this attempt began */
    struct list node;          /* pg->idle */
    struct list out, inflight; /* calls given to this connection: not sent, sent */
    unsigned n_ops;            /* in both */
    struct pg_step *steps;     /* ring */
    unsigned steps_head, steps_len, steps_cap;
    struct pg_tx *tx;             /* BUSY: its owner, unless an autocommit call is */
    struct pg_copy *copy;         /* BUSY: its owner; the connection is out of its pipeline meanwhile */
    struct pg_op *cancel_op;      /* pg_cancel_backend under way */
    uint64_t due_ms;              /* connecting or cancelled: lost by then; 0 = none */
    uint64_t heard_ms;            /* last sign of life, or since when something is owed */
    void *ssl;                    /* libpq's session of libssl; NULL: in the clear */
    struct buf in_bytes;          /* received, no whole message yet */
    struct buf out_bytes;         /* to be sent, from n_written on */
    size_t n_written, n_skip;     /* n_skip: of a message that is too long to keep, still to come */
    struct pg_result *result;     /* of the step at hand, so far */
    struct pg_columns *described; /* of the step at hand, if it is not prepared */
    char tx_status;               /* PG_TX_… as of the last Sync */
    bool is_dropping;             /* the result at hand was too long */
    bool is_deaf;                 /* sending failed: nothing is sent any more */
    bool is_group_open;           /* statements sent, Sync not yet */
    bool is_doomed;               /* to be closed at the end of the turn */
    bool is_tainted;              /* session state may be left: closed instead of reused */
    bool is_cancelled;
    bool has_own_prepared;                /* BEGIN and COMMIT are prepared */
    bool is_retiring;                     /* shared: gets no more calls, closed when it owes nothing */
    struct err *err;                      /* why it is doomed; owned */
    uint32_t prepared[PG_STMTS];          /* by slot: the id prepared there, 0 = none */
    struct pg_columns *columns[PG_STMTS]; /* and what it answers with; NULL: no rows. Owned */
};

enum { PG_TX_IDLE = 'I', PG_TX_OPEN = 'T', PG_TX_FAILED = 'E' }; /* ReadyForQuery's */

void pg_session_create(struct pg_session *conn, struct pg *pg, enum pg_lane_id lane);
void pg_session_destroy(struct pg_session *conn); /* nothing may be in flight */
void pg_session_open(struct pg_session *conn);
/* Closes; what was in flight is settled by pg_settle_lost. */
void pg_session_lose(struct pg_session *conn, const struct err *err);
void pg_session_doom(struct pg_session *conn, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* After any libpq call (COPY's) that may have found the peer gone: libpq closes its socket by itself, and the number
 * may be another connection's a moment later, so our poll must let go of it at once. */
void pg_session_check_socket(struct pg_session *conn);
bool pg_session_is_open(const struct pg_session *conn);
static inline bool pg_session_is_shared(const struct pg_session *conn)
{
    return conn->lane != PG_LANE_EXCLUSIVE;
}

/* ---- wire ---------------------------------------------------------------------------------------------- */

void pg_wire_send(struct pg_session *conn, struct pg_op *op); /* the op's group, without Sync */
void pg_wire_sync(struct pg_session *conn);                   /* ends the open group */
struct pg_step *pg_step_first(const struct pg_session *conn);
void pg_step_pop(struct pg_session *conn);

void pg_answer_read(struct pg_session *conn);  /* all that has arrived; settles groups */
void pg_answer_clear(struct pg_session *conn); /* the result at hand */

/* OK: something came, there may be more. AGAIN: that was all. ERR: the peer is gone. */
enum status pg_io_read(struct pg_session *conn) MUST_CHECK;
void pg_io_flush(struct pg_session *conn); /* sends what it can, polls for the rest */

/* ---- pool ---------------------------------------------------------------------------------------------- */

struct pg_lane {
    struct pg_session *conns; /* its part of pg->sessions */
    unsigned n_conns;         /* allowed */
    unsigned depth;
    struct list queue; /* calls waiting for a connection */
    unsigned n_queued; /* in it */
};

struct pg_listen {
    struct list channels;
    struct list events; /* subscriptions to be told */
    struct loop_task task;
    struct timer ping;
};

struct pg {
    unsigned magic;
    struct loop *loop;
    struct names *names;
    struct loop_hook hook;
    struct loop_task kick;
    struct timer janitor;
    unsigned percent;  /* pg_set_share */
    bool is_dirty;     /* the hook has work */
    bool is_dozing;    /* the janitor is armed for idle connections only */
    bool is_read_only; /* of a replica */
    bool is_unnamed;   /* transaction pooling: no named statements, no options, no sharing */
    bool is_down;      /* the last attempt failed and nothing is open */
    bool is_destroying;
    PQconninfoOption *conninfo;  /* owned */
    struct pg_session *sessions; /* of all lanes, one after the other */
    unsigned n_sessions;
    struct pg_lane lanes[PG_N_LANES];
    struct list idle; /* exclusive, most recently used first */
    struct list ops, finished, late;
    struct pg_listen listen;
    unsigned n_waiting, max_waiters;
    size_t max_result_bytes;
    unsigned idle_ms;
    unsigned rotation;   /* of several hosts: how many at the front of the list are tried last */
    unsigned n_failures; /* attempts to connect in a row */
    uint64_t retry_ms;   /* no attempt before */
    uint64_t room_ms;    /* nothing is given up for a lane without connections before */
    bool was_up;
    struct err last_err; /* of the last failed attempt */
    struct pg_stmts stmts;
    struct pg_cancels *cancels; /* NULL until the first, and but for a pooler */
    uint64_t n_queries, n_errors, n_reconnects;
    uint64_t waits[PG_WAIT_BUCKETS]; /* as in struct pg_stats */
};

void pg_mark_dirty(struct pg *pg);
void pg_arm_janitor(struct pg *pg);

void pg_pool_create(struct pg *pg, const struct pg_opts *opts);
void pg_pool_destroy(struct pg *pg);
/* Where an autocommit statement runs, by what is known of its text by now. */
enum pg_lane_id pg_pool_lane_of(const struct pg *pg, const struct pg_stmt *stmt);
void pg_pool_push(struct pg *pg, struct pg_op *op);       /* queue by op->lane; bounded unless internal */
void pg_pool_push_front(struct pg *pg, struct pg_op *op); /* runs again */
void pg_pool_drop(struct pg_op *op);                      /* QUEUED: out of where it waits */
void pg_pool_flush(struct pg *pg);                        /* the turn hook's work */
void pg_pool_release(struct pg_session *conn);            /* exclusive: its owner is done with it */
void pg_pool_cancel(struct pg_session *conn);             /* stop what its backend does (T20) */
unsigned pg_pool_n_open(const struct pg *pg);
struct pg_session *pg_pool_least_loaded(const struct pg_lane *lane); /* that can take a call; NULL: none */
void pg_pool_rest(struct pg_session *conn);                          /* exclusive: ready for whoever comes */
void pg_pool_fail_waiting(struct pg *pg, const struct err *err);     /* everyone who waits for a connection */

/* ---- growth ---------------------------------------------------------------------------------------------- */

void pg_grow_flush(struct pg *pg);                 /* opens what the queues want */
void pg_grow_tick(struct pg *pg, uint64_t now_ms); /* the janitor's part: silent, idle, too late */
void pg_grow_on_connected(struct pg_session *conn);
void pg_grow_on_connect_failed(struct pg_session *conn, const struct err *err);
bool pg_grow_is_pending(const struct pg *pg); /* janitor must look again */
bool pg_grow_can_spare(const struct pg *pg);  /* … though only for connections that are idle too long */

/* ---- settle ---------------------------------------------------------------------------------------------- */

void pg_settle_group(struct pg_session *conn);                       /* Sync seen */
void pg_settle_lost(struct pg_session *conn, const struct err *err); /* connection closed */

/* ---- copy -------------------------------------------------------------------------------------------------- */

void pg_copy_on_acquired(struct pg_op *op, struct pg_session *conn); /* frees the op */
void pg_copy_on_io(struct pg_copy *copy, int events);
void pg_copy_on_lost(struct pg_copy *copy, const struct err *why);

/* ---- listen ----------------------------------------------------------------------------------------------- */

void pg_listen_create(struct pg *pg);
void pg_listen_destroy(struct pg *pg);
bool pg_listen_is_wanted(const struct pg *pg); /* somebody listens: the lane keeps a connection */
void pg_listen_on_connected(struct pg_session *conn);
void pg_listen_on_lost(struct pg *pg); /* its connection, or the attempt to make one */
void pg_listen_on_notify(struct pg *pg, const char *name, const char *payload);

/* ---- transactions ---------------------------------------------------------------------------------------- */

struct pg_tx {
    unsigned magic;
    struct pg *pg;
    struct pg_session *conn;  /* NULL until the first statement got one */
    struct pg_op *waiting_op; /* first one, in the exclusive lane's queue */
    struct list queue;        /* further ones, until there is a connection */
    struct pg_tx_opts opts;
    bool is_begun, is_failed, is_lost;
    bool is_answered;  /* a result of it was handed out: it cannot begin anew unseen */
    bool is_restarted; /* began anew once, after its idle connection turned out to be dead */
    bool is_ended;     /* its last op owns it */
    struct err err;    /* the first failure */
};

void pg_tx_on_acquired(struct pg_tx *tx, struct pg_session *conn);
void pg_tx_on_lost(struct pg_tx *tx, const struct err *err); /* its connection is gone */
/* The same, when nothing of it was answered yet and no COMMIT sent: it begins anew elsewhere. False if it may not. */
bool pg_tx_restart(struct pg_tx *tx);
void pg_tx_on_failed(struct pg_tx *tx, const struct err *err);
void pg_tx_on_dropped(struct pg_op *op); /* an op of it was taken back before it was sent */
void pg_tx_end(struct pg_tx *tx);        /* gives the connection back, frees */
