/* Between redis.c (commands and their completions) and redis_conn.c (the one connection). Nobody else includes it. */
#pragma once

#include "base/buf.h"
#include "base/list.h"
#include "data/redis.h"
#include "data/redis_parser.h"
#include "data/redis_url.h"
#include "net/stream.h"
#include "net/timer.h"

#define REDIS_MAGIC 0x4ed15001u
#define REDIS_OP_MAGIC 0x4ed15002u

enum redis_state {
    REDIS_CONNECTING, /* looking up, connecting, AUTH/SELECT/PING */
    REDIS_READY,
    REDIS_CLOSING, /* stream_close was called, on_close is to come */
    REDIS_WAITING  /* for the next attempt */
};

/* The connection: redis_conn.c's own. */
struct redis_conn {
    enum redis_state state;
    struct stream stream;
    bool stream_started; /* on_close is to come */
    bool handshaking;
    bool renew; /* a failover was seen: reconnect as soon as nothing is in flight */
    struct redis_parser *parser;
    struct timer timer; /* one per state: attempt's bound, janitor's tick, next attempt */
    struct names_query *query;
    struct addr addrs[NAMES_MAX_ADDRS];
    size_t n_addrs, next_addr;
    uint8_t steps[4]; /* handshake replies expected, in order */
    uint8_t n_steps, step;
    unsigned failures; /* attempts failed since the last success */
    uint64_t ready_ms, data_ms;
    struct err err; /* why the connection or the attempt broke */
};

struct redis {
    unsigned magic;
    struct loop *loop;
    struct names *names;
    struct redis_url url;
    unsigned max_waiters;
    uint32_t connect_ms, stall_ms;
    struct redis_conn conn;

    /* A command is in exactly one of these, in order of its call. */
    struct list unsent;    /* its bytes are in `out` */
    struct list in_flight; /* written; the head gets the next reply */
    struct list finished;  /* failed before it was written; told at the end of the io phase */
    unsigned n_waiting;    /* unsent and in_flight */
    unsigned n_dropped;    /* unsent and forgotten: its bytes are cut out before the write */
    struct buf out;
    struct loop_hook flush_hook;
    struct loop_task turn_task, finished_task;
    struct list free_ops;
    bool delivering, freeing;
};

/* redis_conn.c */
void redis_conn_start(struct redis *redis);
void redis_conn_stop(struct redis *redis); /* then frees redis when the stream has closed */
bool redis_conn_can_send(const struct redis *redis);
size_t redis_conn_pending(const struct redis *redis);              /* bytes written that the kernel has not taken */
void redis_conn_broke(struct redis *redis, const struct err *err); /* closes; the rest follows in on_close */
void redis_conn_saw_failover(struct redis *redis);

/* redis.c */
void redis_format(struct buf *out, const struct slice *argv, size_t argc); /* appends one command as RESP */
/* A reply for the oldest command in flight; ERR if there is none. */
enum status redis_deliver(struct redis *redis, const struct redis_value *value, struct err *err) MUST_CHECK;
void redis_fail_in_flight(struct redis *redis, const struct err *why);
void redis_fail_unsent(struct redis *redis, const struct err *why);
void redis_flush(struct redis *redis);
void redis_ping(struct redis *redis);                /* one command nobody waits for */
uint64_t redis_oldest_ms(const struct redis *redis); /* when the oldest command in flight was written; 0: none */
void redis_destroy(struct redis *redis);
