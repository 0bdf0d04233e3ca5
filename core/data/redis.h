/* One worker's Redis: one multiplexed connection, implicitly pipelined (commands of one loop turn leave in one
 * write). hiredis' formatter and reader over our own stream. Never blocks.
 *
 * Completion as in pg.h: exactly once through `done`, never from inside the call, not after redis_op_cancel. Commands
 * that would poison a shared connection (T1: SELECT, WATCH, MULTI, SUBSCRIBE, MONITOR, QUIT, RESET, HELLO, AUTH,
 * CLIENT REPLY, blocking ones) are refused with ERR_REFUSED and what to write instead. A lost connection fails what was
 * in flight: reads ERR_UNAVAILABLE, anything else ERR_OUTCOME_UNKNOWN; it reconnects with back-off. */
#pragma once

#include "base/err.h"
#include "base/slice.h"
#include "net/loop.h"
#include "net/names.h"

enum redis_type { REDIS_NIL, REDIS_STRING, REDIS_INTEGER, REDIS_STATUS, REDIS_ERROR, REDIS_ARRAY };
struct redis_value {
    enum redis_type type;
    int64_t integer;
    struct slice str; /* STRING, STATUS, ERROR */
    const struct redis_value *items;
    size_t n_items;
};

struct redis;
struct redis_op;
struct redis_opts {
    struct loop *loop;
    struct names *names;
    const char *url;      /* redis://[user:pass@]host:port/db, unix:///path?db=0 */
    unsigned max_waiters; /* commands in flight or queued; over it ERR_QUEUE_FULL; 0 = 10000 */
    uint32_t connect_ms;  /* one attempt: name, connect, AUTH and SELECT; 0 = 3000 */
    uint32_t stall_ms;    /* commands in flight and no byte for so long: the connection is dead; 0 = 10000 */
};
/* NULL: bad url. Connects in the background: commands wait for the first attempt; after a failed one they fail at once
 * with ERR_UNAVAILABLE until an attempt succeeds. */
struct redis *redis_new(const struct redis_opts *opts, struct err *err);
/* What is in flight completes with ERR_CANCELLED first. Not from inside a completion; the loop must turn once more. */
void redis_free(struct redis *redis);

struct redis_call {
    const struct slice *argv; /* copied into the output buffer */
    size_t argc;              /* at least 1 */
    uint64_t deadline_ms;     /* loop_now based; 0 = 30 s from now. A late reply is dropped in its turn. */
    /* value borrowed for the call; a Redis error reply arrives as err (code ERR_REDIS, the text as message) */
    void (*done)(void *data, const struct redis_value *value, const struct err *err);
    void *data;
};
struct redis_op *redis_command(struct redis *redis, const struct redis_call *call);
void redis_op_cancel(struct redis_op *op);

/* Several commands, one completion: n values in their order, a Redis error reply among them as REDIS_ERROR; or err if
 * one of them got no answer at all (the others may have run). One refused command refuses all, before any is sent. */
struct redis_argv {
    const struct slice *argv; /* copied into the output buffer */
    size_t argc;              /* at least 1 */
};
struct redis_batch;
struct redis_batch_call {
    const struct redis_argv *commands;
    size_t n_commands; /* at least 1 */
    uint64_t deadline_ms;
    void (*done)(void *data, const struct redis_value *values, size_t n_values, const struct err *err);
    void *data;
};
struct redis_batch *redis_pipeline(struct redis *redis, const struct redis_batch_call *call);
void redis_batch_cancel(struct redis_batch *batch);
bool redis_is_up(const struct redis *redis);
