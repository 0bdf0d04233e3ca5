/* What an activity carries with it: whose it is, its transaction or job, where its waiting is counted, what is tidied
 * up at its end. A child has its parent's. Nothing here resumes or ends anything. */
#include "script/co_priv.h"

static const char no_route[RUNNING_ROUTE] = "(no request)", no_id[RUNNING_ID];
static const struct running_label no_label = {no_route, no_id};

void co_set_parent(struct co *co, struct co *parent)
{
    co->parent = parent;
    co->owner = parent ? parent->owner : NULL;
    co->tx = parent ? parent->tx : NULL;
    co->job = parent ? parent->job : NULL;
    co->is_stream = parent && parent->is_stream;
    co->label = parent ? parent->label : no_label;
    co->waited_us = parent ? parent->waited_us : NULL;
}

void co_set_unknown(struct co *co, enum err_code code)
{
    for (; co; co = co->parent)
        if (co->sticky == ERR_DEADLINE)
            co->sticky = code;
}

void co_mark_committed(struct co *co)
{
    for (; co; co = co->parent)
        co->is_committed = true;
}

void co_set_owner(struct co *co, void *owner)
{
    co->owner = owner;
}

void co_set_waits(struct co *co, uint64_t *waited_us)
{
    co->waited_us = waited_us;
}

uint64_t *co_waits(const struct co *co, enum http_wait what)
{
    return co->waited_us ? &co->waited_us[what] : NULL;
}

void co_set_stream(struct co *co)
{
    co->is_stream = true;
}

void co_set_label(struct co *co, struct running_label label)
{
    co->label = label;
}

void *co_owner(const struct co *co)
{
    return co->owner;
}

void co_set_tx(struct co *co, void *tx)
{
    co->tx = tx;
}

void *co_tx(const struct co *co)
{
    return co->tx;
}

void co_set_job(struct co *co, void *job)
{
    co->job = job;
}

void *co_job(const struct co *co)
{
    return co->job;
}

void co_add_leftover(struct co *co, struct co_leftover *leftover, void (*fn)(struct co_leftover *leftover))
{
    leftover->fn = fn;
    list_push_front(&co->leftovers, &leftover->node);
}

void co_drop_leftover(struct co_leftover *leftover)
{
    list_remove(&leftover->node);
}
