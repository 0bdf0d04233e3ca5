/* One worker's Redis: its parts, their beginning and end, and the calls. Which connection a command goes to, or why to
 * none, is decided here once; redis_queue.c, redis_block.c and redis_sub.c do the rest. */
#include <stdio.h>
#include <stdlib.h>

#include "base/crypto.h"
#include "data/redis_guard.h"
#include "data/redis_priv.h"

#define DEFAULT_WAITERS 10000
#define DEFAULT_DEADLINE_MS 30000

/* ---- calls ---------------------------------------------------------------------------------------------------- */

static uint64_t due_ms(const struct redis *redis, uint64_t deadline_ms)
{
    return deadline_ms > 0 ? deadline_ms : loop_now(redis->loop) + DEFAULT_DEADLINE_MS;
}

static struct redis_op *fail_refused(struct redis_op *op, struct slice name, const char *advice)
{
    char message[384];
    snprintf(message, sizeof message, "redis: %.*s %s", (int)(name.len < 64 ? name.len : 64), name.ptr, advice);
    return redis_op_fail(op, ERR_REFUSED, message);
}

static size_t size_of(const struct slice *argv, size_t argc)
{
    size_t bytes = 0;
    for (size_t i = 0; i < argc; i++)
        bytes += argv[i].len;
    return bytes;
}

struct redis_op *redis_command(struct redis *redis, const struct redis_call *call)
{
    CHECK_OBJ(redis, REDIS_MAGIC);
    CHECK(call->argc > 0 && call->done);
    struct redis_op *op = redis_op_new(redis, call->done, call->data);
    const char *advice = NULL, *message;
    enum redis_effect effect = redis_guard(call->argv, call->argc, &advice);
    op->reads = effect == REDIS_READS;
    if (effect == REDIS_REFUSED)
        return fail_refused(op, call->argv[0], advice);
    if (effect == REDIS_BLOCKS)
        return redis_block_run(op, call);
    enum err_code code =
        redis_refuse(redis, 1, size_of(call->argv, call->argc), op->reads, call->deadline_ms, &message);
    if (code != ERR_NONE)
        return redis_op_fail(op, code, message);
    redis_op_arm(op, due_ms(redis, call->deadline_ms));
    size_t before = redis->out.len;
    redis_format(&redis->out, call->argv, call->argc);
    redis_enqueue(op, before);
    return op;
}

/* ---- transactions --------------------------------------------------------------------------------------------- */

struct redis_op *redis_multi(struct redis *redis, const struct redis_multi_call *call)
{
    CHECK_OBJ(redis, REDIS_MAGIC);
    CHECK(call->n_commands > 0 && call->done);
    struct redis_op *op = redis_op_new(redis, call->done, call->data);
    size_t bytes = 0;
    const char *advice, *message;
    op->reads = true;
    for (size_t i = 0; i < call->n_commands; i++) {
        const struct redis_argv *command = &call->commands[i];
        enum redis_effect effect = redis_guard(command->argv, command->argc, &advice);
        if (effect == REDIS_REFUSED)
            return fail_refused(op, command->argv[0], advice);
        if (effect == REDIS_BLOCKS)
            return fail_refused(op, command->argv[0], "cannot wait inside a transaction: use the form without B");
        op->reads = op->reads && effect == REDIS_READS;
        bytes += size_of(command->argv, command->argc);
    }
    enum err_code code = redis_refuse(redis, 1, bytes, op->reads, call->deadline_ms, &message);
    if (code != ERR_NONE)
        return redis_op_fail(op, code, message);
    redis_op_arm(op, due_ms(redis, call->deadline_ms));
    size_t before = redis->out.len;
    redis_format(&redis->out, (struct slice[]){SLICE("MULTI")}, 1);
    for (size_t i = 0; i < call->n_commands; i++)
        redis_format(&redis->out, call->commands[i].argv, call->commands[i].argc);
    redis_format(&redis->out, (struct slice[]){SLICE("EXEC")}, 1);
    op->n_skip = (unsigned)call->n_commands + 1;
    redis_enqueue(op, before);
    return op;
}

/* ---- scripts -------------------------------------------------------------------------------------------------- */

void redis_script_create(struct redis_script *script, struct slice source)
{
    unsigned char sha[CRYPTO_SHA1_LEN];
    crypto_sha1(source, sha);
    crypto_hex(slice_of((const char *)sha, sizeof sha), script->sha);
    script->source = source;
}

struct redis_op *redis_script_run(struct redis *redis, const struct redis_script *script,
                                  const struct redis_script_call *call)
{
    CHECK_OBJ(redis, REDIS_MAGIC);
    struct redis_op *op = redis_op_new(redis, call->done, call->data);
    size_t bytes = size_of(call->keys, call->n_keys) + size_of(call->args, call->n_args) + script->source.len;
    size_t argc = 3 + call->n_keys + call->n_args, before = redis->out.len;
    char n_keys[24];
    const char *message;
    enum err_code code = redis_refuse(redis, 1, bytes, false, call->deadline_ms, &message);
    if (code != ERR_NONE)
        return redis_op_fail(op, code, message);
    redis_op_arm(op, due_ms(redis, call->deadline_ms));
    snprintf(n_keys, sizeof n_keys, "%zu", call->n_keys);
    struct slice count = slice_str(n_keys);
    redis_format_head(&redis->out, argc);
    redis_format_args(&redis->out, (struct slice[]){SLICE("EVALSHA"), slice_of(script->sha, sizeof script->sha)}, 2);
    size_t tail = redis->out.len;
    redis_format_args(&redis->out, &count, 1);
    redis_format_args(&redis->out, call->keys, call->n_keys);
    redis_format_args(&redis->out, call->args, call->n_args);
    redis_format_head(&op->retry, argc);
    redis_format_args(&op->retry, (struct slice[]){SLICE("EVAL"), script->source}, 2);
    buf_append(&op->retry, redis->out.ptr + tail, redis->out.len - tail);
    redis_enqueue(op, before);
    return op;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static void on_flush_hook(struct loop_hook *hook)
{
    struct redis *redis = container_of(hook, struct redis, flush_hook);
    CHECK_OBJ(redis, REDIS_MAGIC);
    redis_flush(redis);
}

static void on_moved(void *data, const struct redis_host *at)
{
    struct redis *redis;
    CAST_OBJ(redis, data, REDIS_MAGIC);
    redis_conn_moved(redis, at);
    redis_block_moved(redis, at);
    redis_hub_moved(redis, at);
}

static void on_sentinel_freed(void *data)
{
    redis_part_closed(data);
}

static enum status open_tls(struct redis *redis, const struct redis_opts *opts, struct err *err)
{
    const char *ca = redis->url.ca[0] ? redis->url.ca : opts->ca_file;
    if (!redis->url.tls && !redis->url.sentinel_tls)
        return OK;
    redis->tls = tls_context_new(&(struct tls_opts){.ca_file = ca && ca[0] ? ca : NULL}, err);
    return redis->tls ? OK : ERR;
}

static void open_target(struct redis *redis, const struct redis_opts *opts)
{
    const struct redis_url *url = &redis->url;
    redis->target = (struct redis_target){.loop = opts->loop,
                                          .names = opts->names,
                                          .path = url->path[0] ? url->path : NULL,
                                          .at = url->at,
                                          .tls = url->tls ? redis->tls : NULL,
                                          .login = &url->login,
                                          .db = url->db,
                                          .connect_ms = opts->connect_ms ? opts->connect_ms : 3000};
    if (url->n_sentinels == 0)
        return;
    redis->n_open++;
    redis->sentinel = redis_sentinel_new(&(struct redis_sentinel_opts){.loop = opts->loop,
                                                                       .names = opts->names,
                                                                       .url = url,
                                                                       .tls = url->sentinel_tls ? redis->tls : NULL,
                                                                       .on_moved = on_moved,
                                                                       .on_freed = on_sentinel_freed,
                                                                       .data = redis});
    redis->target.sentinel = redis->sentinel;
}

struct redis *redis_new(const struct redis_opts *opts, struct err *err)
{
    struct redis *redis = xalloc(sizeof *redis);
    redis->magic = REDIS_MAGIC;
    redis->loop = opts->loop;
    if (redis_url_parse(slice_str(opts->url), &redis->url, err) != OK || open_tls(redis, opts, err) != OK) {
        free(redis);
        return NULL;
    }
    redis->max_waiters = opts->max_waiters ? opts->max_waiters : DEFAULT_WAITERS;
    redis->max_blocking = opts->max_blocking ? opts->max_blocking : 8;
    redis->stall_ms = opts->stall_ms ? opts->stall_ms : 10000;
    redis->offline_ms = opts->offline_ms ? opts->offline_ms : 1000;
    redis->offline_max = opts->offline_max ? opts->offline_max : 1000;
    list_init(&redis->unsent);
    list_init(&redis->in_flight);
    list_init(&redis->finished);
    list_init(&redis->free_ops);
    loop_hook_add(redis->loop, &redis->flush_hook, on_flush_hook);
    open_target(redis, opts);
    redis_block_start(redis);
    redis_hub_start(redis);
    redis_conn_start(redis);
    return redis;
}

void redis_free(struct redis *redis)
{
    if (!redis)
        return;
    CHECK_OBJ(redis, REDIS_MAGIC);
    CHECK(!redis->delivering && !redis->freeing);
    redis->freeing = true;
    redis->n_open++; /* not before the end of this call */
    struct err err = {0};
    err_set(&err, ERR_CANCELLED, "redis: shutting down");
    redis_fail_in_flight(redis, &err);
    redis_fail_unsent(redis, &err, false);
    redis_block_stop(redis);
    redis_finish_all(redis);
    loop_hook_remove(&redis->flush_hook);
    loop_defer_cancel(&redis->turn_task);
    loop_defer_cancel(&redis->finished_task);
    redis_hub_stop(redis);
    redis_conn_stop(redis);
    if (redis->sentinel)
        redis_sentinel_free(redis->sentinel);
    redis_part_closed(redis);
}

void redis_part_closed(struct redis *redis)
{
    CHECK_OBJ(redis, REDIS_MAGIC);
    if (--redis->n_open > 0)
        return;
    for (struct list *node; (node = list_pop(&redis->free_ops)) != NULL;)
        free(container_of(node, struct redis_op, node));
    buf_free(&redis->out);
    tls_context_free(redis->tls);
    redis->magic = 0;
    loop_reclaim(redis->loop, redis);
}

bool redis_is_up(const struct redis *redis)
{
    return redis_conn_can_send(redis);
}

int redis_db(const struct redis *redis)
{
    return redis->url.db;
}
