/* One worker's Redis: one multiplexed connection, implicitly pipelined (commands of one loop turn leave in one
 * write), a few more for commands that block, and one for subscriptions (redis_sub.h). hiredis' reader over our own
 * stream. Never blocks.
 *
 * Completion as in pg.h: exactly once through `done`, never from inside the call, not after redis_op_cancel. Commands
 * that would poison a shared connection (T1: SELECT, WATCH, MULTI, SUBSCRIBE, MONITOR, QUIT, RESET, HELLO, AUTH,
 * CLIENT REPLY) are refused with ERR_REFUSED and what to write instead; blocking ones get a connection of their own.
 * A lost connection fails what was in flight: reads ERR_UNAVAILABLE, anything else ERR_OUTCOME_UNKNOWN; it reconnects
 * with back-off, asking Sentinel each time where that is configured. Meanwhile writes fail at once, reads wait a
 * moment (offline_ms, offline_max). */
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
    const char *url;       /* redis_url.h has the forms */
    const char *ca_file;   /* for rediss://, where the url has no ca=. NULL or "": the system's store */
    unsigned max_waiters;  /* commands in flight or queued; over it ERR_QUEUE_FULL; 0 = 10000 */
    uint32_t connect_ms;   /* one attempt: name, connect, TLS and handshake; 0 = 3000 */
    uint32_t stall_ms;     /* commands in flight and no byte for so long: the connection is dead; 0 = 10000 */
    uint32_t offline_ms;   /* how long after a loss reads wait for the reconnection; 0 = 1000 */
    unsigned offline_max;  /* how many of them; 0 = 1000 */
    unsigned max_blocking; /* connections for commands that block; 0 = 8 */
};
/* BLOCKING: reads the CA file of rediss://. NULL: bad url or file. Connects in the background: commands wait for the
 * end of the first attempt. */
struct redis *redis_new(const struct redis_opts *opts, struct err *err);
/* What is in flight completes with ERR_CANCELLED first. Subscriptions must be closed before. Not from inside a
 * completion; the loop must turn until it has closed. */
void redis_free(struct redis *redis);

/* value borrowed for the call; a Redis error reply arrives as err (code ERR_REDIS, the text as message) */
typedef void (*redis_done_fn)(void *data, const struct redis_value *value, const struct err *err);

struct redis_call {
    const struct slice *argv; /* copied */
    size_t argc;              /* at least 1 */
    /* loop_now based; 0 = 30 s from now, for a command that blocks: none. A late reply is dropped in its turn. A
     * command that blocks is sent with a timeout that ends just before it. */
    uint64_t deadline_ms;
    redis_done_fn done;
    void *data;
};
struct redis_op *redis_command(struct redis *redis, const struct redis_call *call);
/* A blocking command that was already sent has its connection closed: what Redis popped in that moment is lost. */
void redis_op_cancel(struct redis_op *op);
/* Right after it was made: it will be sent, and it is not a read. False for one that blocks: it has not begun. */
bool redis_op_may_write(const struct redis_op *op);
/* Its own timer will end it by its deadline. */
bool redis_op_is_timed(const struct redis_op *op);
/* Before redis_op_cancel: ERR_OUTCOME_UNKNOWN for a write that was sent and is not answered, else ERR_NONE. Its own
 * deadline raises the same. */
enum err_code redis_op_outcome(const struct redis_op *op);

/* Several commands, one completion: n values in their order, a Redis error reply among them as REDIS_ERROR; or err if
 * one of them got no answer at all: ERR_OUTCOME_UNKNOWN if a write among the others may have run. One refused command
 * refuses all, before any is sent. */
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
bool redis_batch_may_write(const struct redis_batch *batch); /* as of an op */
enum err_code redis_batch_outcome(const struct redis_batch *batch);

/* MULTI, the commands, EXEC: all of them run, with nobody else's between, or none does. The value is the array of their
 * replies, errors among them; a command that Redis will not queue fails it all, with what Redis said of it. */
struct redis_multi_call {
    const struct redis_argv *commands;
    size_t n_commands; /* at least 1 */
    uint64_t deadline_ms;
    redis_done_fn done;
    void *data;
};
struct redis_op *redis_multi(struct redis *redis, const struct redis_multi_call *call);

/* A Lua script inside Redis: sent by its hash; by its text when Redis does not know it (yet, or any more). */
struct redis_script {
    struct slice source; /* borrowed */
    char sha[40];
};
void redis_script_create(struct redis_script *script, struct slice source);
struct redis_script_call {
    const struct slice *keys, *args; /* copied */
    size_t n_keys, n_args;
    uint64_t deadline_ms;
    redis_done_fn done;
    void *data;
};
struct redis_op *redis_script_run(struct redis *redis, const struct redis_script *script,
                                  const struct redis_script_call *call);
bool redis_is_up(const struct redis *redis);
int redis_db(const struct redis *redis); /* the number of the database it uses */
