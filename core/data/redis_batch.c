/* Several commands with one completion. Each is a command of redis.c like any other; what this file adds is the copy of
 * the values until the last has come, because a value is only borrowed for its own completion. */
#include <stdio.h>
#include <stdlib.h>

#include "data/redis_guard.h"
#include "data/redis_priv.h"

#define BATCH_MAGIC 0x4ed15003u

struct slot {
    struct redis_batch *batch;
    struct redis_op *op; /* NULL: has completed */
};

struct redis_batch {
    unsigned magic;
    struct arena arena; /* of the values */
    struct redis_value *values;
    struct slot *slots;
    size_t n_slots, n_pending;
    bool has_written; /* a write of it was answered */
    void (*done)(void *data, const struct redis_value *values, size_t n_values, const struct err *err);
    void *data;
};

static void batch_free(struct redis_batch *batch)
{
    arena_destroy(&batch->arena);
    free(batch->values);
    free(batch->slots);
    batch->magic = 0;
    free(batch);
}

bool redis_batch_may_write(const struct redis_batch *batch)
{
    CHECK_OBJ(batch, BATCH_MAGIC);
    for (size_t i = 0; i < batch->n_slots; i++)
        if (batch->slots[i].op && redis_op_may_write(batch->slots[i].op))
            return true;
    return false;
}

enum err_code redis_batch_outcome(const struct redis_batch *batch)
{
    CHECK_OBJ(batch, BATCH_MAGIC);
    for (size_t i = 0; i < batch->n_slots; i++)
        if (batch->slots[i].op && redis_op_outcome(batch->slots[i].op))
            return ERR_OUTCOME_UNKNOWN;
    return batch->has_written ? ERR_OUTCOME_UNKNOWN : ERR_NONE;
}

void redis_batch_cancel(struct redis_batch *batch)
{
    CHECK_OBJ(batch, BATCH_MAGIC);
    for (size_t i = 0; i < batch->n_slots; i++)
        if (batch->slots[i].op)
            redis_op_cancel(batch->slots[i].op);
    batch_free(batch);
}

/* The parser caps the depth at seven. */
static void copy_value(struct arena *arena, struct redis_value *to, const struct redis_value *from)
{
    *to = *from;
    to->str = from->str.ptr ? arena_copy(arena, from->str) : from->str;
    if (from->n_items == 0)
        return;
    struct redis_value *items = arena_alloc(arena, from->n_items * sizeof *items);
    for (size_t i = 0; i < from->n_items; i++)
        copy_value(arena, &items[i], &from->items[i]);
    to->items = items;
}

static void batch_complete(struct redis_batch *batch, const struct err *err)
{
    for (size_t i = 0; i < batch->n_slots; i++)
        if (batch->slots[i].op) /* only after a failure */
            redis_op_cancel(batch->slots[i].op);
    batch->done(batch->data, err ? NULL : batch->values, err ? 0 : batch->n_slots, err);
    batch_free(batch);
}

/* To "try again" is right only if nothing of it was done. */
static void batch_fail(struct redis_batch *batch, const struct err *err)
{
    struct err said = *err;
    if (said.code != ERR_CANCELLED && redis_batch_outcome(batch))
        said.code = ERR_OUTCOME_UNKNOWN;
    batch_complete(batch, &said);
}

static void on_done(void *data, const struct redis_value *value, const struct err *err)
{
    struct slot *slot = data;
    struct redis_batch *batch = slot->batch;
    CHECK_OBJ(batch, BATCH_MAGIC);
    bool is_write = !slot->op->reads;
    slot->op = NULL;
    batch->n_pending--;
    if (err && err->code != ERR_REDIS) {
        batch_fail(batch, err);
        return;
    }
    batch->has_written |= is_write;
    struct redis_value said = {.type = REDIS_ERROR, .str = slice_str(err ? err->message : NULL)};
    copy_value(&batch->arena, &batch->values[slot - batch->slots], err ? &said : value);
    if (batch->n_pending == 0)
        batch_complete(batch, NULL);
}

/* Why the batch may not be sent; false: it may. */
static bool is_refused(const struct redis_batch_call *call, char *message, size_t cap)
{
    for (size_t i = 0; i < call->n_commands; i++) {
        const char *advice = "waits inside Redis, and the others would wait behind it: call it alone";
        const struct redis_argv *command = &call->commands[i];
        enum redis_effect effect = redis_guard(command->argv, command->argc, &advice);
        if (effect != REDIS_REFUSED && effect != REDIS_BLOCKS)
            continue;
        size_t len = command->argv[0].len < 64 ? command->argv[0].len : 64;
        snprintf(message, cap, "redis: %.*s %s", (int)len, command->argv[0].ptr, advice);
        return true;
    }
    return false;
}

static struct redis_batch *batch_new(size_t n_slots, const struct redis_batch_call *call)
{
    struct redis_batch *batch = xalloc(sizeof *batch);
    batch->magic = BATCH_MAGIC;
    batch->n_slots = batch->n_pending = n_slots;
    batch->slots = xalloc(n_slots * sizeof *batch->slots);
    batch->values = xalloc(n_slots * sizeof *batch->values);
    batch->done = call->done;
    batch->data = call->data;
    arena_create(&batch->arena);
    for (size_t i = 0; i < n_slots; i++)
        batch->slots[i].batch = batch;
    return batch;
}

struct redis_batch *redis_pipeline(struct redis *redis, const struct redis_batch_call *call)
{
    CHECK(call->n_commands > 0 && call->done);
    char message[384];
    if (is_refused(call, message, sizeof message)) {
        struct redis_batch *batch = batch_new(1, call);
        batch->slots[0].op = redis_op_fail(redis_op_new(redis, on_done, &batch->slots[0]), ERR_REFUSED, message);
        return batch;
    }
    struct redis_batch *batch = batch_new(call->n_commands, call);
    for (size_t i = 0; i < batch->n_slots; i++) {
        struct slot *slot = &batch->slots[i];
        slot->op = redis_command(redis, &(struct redis_call){.argv = call->commands[i].argv,
                                                             .argc = call->commands[i].argc,
                                                             .deadline_ms = call->deadline_ms,
                                                             .done = on_done,
                                                             .data = slot});
    }
    return batch;
}
