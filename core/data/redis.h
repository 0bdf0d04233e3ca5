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
};
struct redis *redis_new(const struct redis_opts *opts, struct err *err); /* NULL: bad url */
void redis_free(struct redis *redis);

struct redis_call {
    const struct slice *argv; /* copied into the output buffer */
    size_t argc;
    uint64_t deadline_ms;
    /* value borrowed for the call; a Redis error reply arrives as err (code ERR_REDIS, the text as message) */
    void (*done)(void *data, const struct redis_value *value, const struct err *err);
    void *data;
};
struct redis_op *redis_command(struct redis *redis, const struct redis_call *call);
void redis_op_cancel(struct redis_op *op);
bool redis_is_up(const struct redis *redis);
