/* What the files of one struct redis share: redis.c (its life), redis_op.c (a command and its completion),
 * redis_queue.c (what is sent and what comes back), redis_conn.c (the life of the shared connection), redis_block.c
 * (connections for commands that block), redis_sub.c (the one for subscriptions). Nobody else includes it. */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "base/list.h"
#include "base/map.h"
#include "data/redis.h"
#include "data/redis_link.h"
#include "data/redis_sentinel.h"

#define REDIS_MAGIC 0x4ed15001u
#define REDIS_OP_MAGIC 0x4ed15002u

/* ---- a command ------------------------------------------------------------------------------------------------ */

enum redis_place {
    REDIS_UNSENT,    /* redis->unsent: its bytes are in `out` */
    REDIS_IN_FLIGHT, /* redis->in_flight */
    REDIS_FINISHED,  /* redis->finished */
    REDIS_BLOCKING,  /* with redis_block.c */
    REDIS_DONE       /* its completion is running */
};

struct redis_wait;
struct redis_op {
    unsigned magic;
    enum redis_place place;
    bool reads;
    bool dropped;    /* unsent and forgotten */
    unsigned n_skip; /* replies before the one that counts: MULTI's OK and the QUEUEDs */
    unsigned n_skipped;
    struct list node;
    struct redis *redis;
    struct timer deadline;
    uint64_t sent_ms, started_us;
    size_t len;         /* bytes in `out` while unsent */
    redis_done_fn done; /* NULL: nobody waits */
    void *data;
    struct err *err;         /* FINISHED: why; IN_FLIGHT: the first error among the replies skipped. Owned */
    struct buf retry;        /* of a script: what to send when Redis does not know the hash */
    struct redis_wait *wait; /* BLOCKING: owned by redis_block.c */
};

/* ---- the shared connection ------------------------------------------------------------------------------------ */

enum redis_state {
    REDIS_CONNECTING, /* the link is on its way up */
    REDIS_READY,
    REDIS_CLOSING, /* the link's on_down is to come */
    REDIS_WAITING  /* for the next attempt */
};

struct redis_conn { /* redis_conn.c's own */
    enum redis_state state;
    struct redis_link link;
    struct timer timer;         /* janitor's tick, or next attempt */
    struct timer offline_timer; /* reads that wait are given up */
    uint64_t lost_ms;           /* when it was lost, or first tried */
    uint64_t renew_ms;          /* a failover was seen: reconnect as soon as nothing is in flight; 0: none */
    bool was_up;
    unsigned failures; /* attempts failed since the last success */
    struct err err;    /* why the connection or the attempt broke */
};

struct redis_block { /* redis_block.c's own */
    struct list slots, idle;
    struct list queue; /* waits without a connection */
    unsigned n_slots, n_queued;
};

struct redis_hub { /* redis_sub.c's own */
    struct redis_link link;
    struct timer timer;
    struct list subs;
    struct list channels; /* in the order they were asked for */
    struct map names[2];  /* channels, patterns */
    unsigned failures;
    bool dispatching, has_closed;
};

struct redis {
    unsigned magic;
    struct loop *loop;
    struct redis_url url;
    struct redis_target target;
    struct redis_sentinel *sentinel; /* NULL: the url names the server */
    struct tls_context *tls;         /* NULL: all in clear */
    unsigned max_waiters, offline_max, max_blocking;
    uint32_t stall_ms, offline_ms;
    struct redis_conn conn;
    struct redis_block block;
    struct redis_hub hub;

    /* A command of the shared connection is in exactly one of these, in order of its call. */
    struct list unsent;    /* its bytes are in `out` */
    struct list in_flight; /* written; the head gets the next reply */
    struct list finished;  /* failed before it was written; told at the end of the io phase */
    unsigned n_waiting;    /* unsent and in_flight */
    unsigned n_unsent;
    unsigned n_dropped; /* unsent and forgotten: its bytes are cut out before the write */
    struct buf out;
    struct loop_hook flush_hook;
    struct loop_task turn_task, finished_task;
    struct list free_ops;
    unsigned n_open; /* parts that must close before it is freed */
    bool delivering, freeing;
};

/* redis.c */
void redis_part_closed(struct redis *redis); /* while freeing: frees redis with the last */

/* redis_op.c */
struct redis_op *redis_op_new(struct redis *redis, redis_done_fn done, void *data);
struct redis_op *redis_op_of(struct list *node);
/* The end of a command that is in no list any more. Frees it after its completion. */
void redis_op_complete(struct redis_op *op, const struct redis_value *value, const struct err *err);
/* Tells the caller later in this turn. */
struct redis_op *redis_op_fail(struct redis_op *op, enum err_code code, const char *message);
void redis_op_arm(struct redis_op *op, uint64_t deadline_ms); /* 0: none */
void redis_op_free(struct redis_op *op);
void redis_finish_all(struct redis *redis);

/* redis_queue.c. Bytes for op were appended to `out`, which was `before` long. */
void redis_enqueue(struct redis_op *op, size_t before);
/* Why n more commands may not even wait; ERR_NONE: they may. message is static or the connection's. */
enum err_code redis_refuse(const struct redis *redis, size_t n_commands, size_t bytes, bool reads, uint64_t deadline_ms,
                           const char **message);
/* A reply for the oldest command in flight; ERR if there is none. */
enum status redis_deliver(struct redis *redis, const struct redis_value *value, struct err *err) MUST_CHECK;
/* Turns Redis' error text into ours; *failover: it is not the primary any more. */
void redis_read_error(struct slice text, struct err *err, bool *failover);
void redis_fail_in_flight(struct redis *redis, const struct err *why);
/* None of them was written, so none has run. Reads stay if they may wait. */
void redis_fail_unsent(struct redis *redis, const struct err *why, bool keep_reads);
void redis_flush(struct redis *redis);
void redis_ping(struct redis *redis);                /* one command nobody waits for */
uint64_t redis_oldest_ms(const struct redis *redis); /* when the oldest command in flight was written; 0: none */

/* redis_conn.c */
void redis_conn_start(struct redis *redis);
void redis_conn_stop(struct redis *redis);
bool redis_conn_can_send(const struct redis *redis);
bool redis_conn_may_wait(const struct redis *redis, bool reads);
size_t redis_conn_pending(const struct redis *redis); /* bytes written that the kernel has not taken */
void redis_conn_saw_failover(struct redis *redis);
void redis_conn_moved(struct redis *redis, const struct redis_host *at);

/* redis_block.c */
void redis_block_start(struct redis *redis);
void redis_block_stop(struct redis *redis);
void redis_block_moved(struct redis *redis, const struct redis_host *at);
/* Takes op and completes it; returns it. */
struct redis_op *redis_block_run(struct redis_op *op, const struct redis_call *call);
bool redis_block_was_sent(const struct redis_op *op);
void redis_block_forget(struct redis_op *op); /* cancelled, or its deadline has passed: op is the caller's again */

/* redis_sub.c */
void redis_hub_start(struct redis *redis);
void redis_hub_stop(struct redis *redis);
void redis_hub_moved(struct redis *redis, const struct redis_host *at);
