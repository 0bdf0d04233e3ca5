/* Between co.c and co_carried.c only. */
#pragma once

#include "net/loop.h"
#include "net/timer.h"
#include "script/co.h"

enum co_state { CO_FREE, CO_STARTING, CO_RUNNING, CO_PARKED, CO_WAKING };

struct co {
    unsigned magic;
    enum co_state state;
    struct vm *vm;
    lua_State *L;
    int ref;
    int n_below;  /* anchors under the function; the results of the finished function follow them */
    int n_resume; /* values to resume with, while STARTING or WAKING */
    uint64_t deadline_ms;
    co_done_fn done;
    void *data;
    co_cancel_fn cancel; /* of the pending operation */
    void *cancel_data;
    uint64_t *waited_us, parked_us; /* co_set_waits; since when it is parked */
    enum http_wait waits_for;
    bool has_op, is_timed, is_committed, is_dirty; /* dirty: the thread ended by an error */
    bool is_stream;
    enum err_code sticky;
    struct co *parent;
    void *owner, *tx, *job;
    struct running_label label;
    struct list leftovers;
    struct list node; /* vm->active or vm->idle */
    struct timer timer;
    struct loop_task task;
};
