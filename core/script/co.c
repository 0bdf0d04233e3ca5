/* Coroutines: one `co` per Lua activity, and the only lua_resume in the tree.
 *
 * A co is FREE, STARTING (queued), RUNNING, PARKED in exactly one operation, or WAKING (its results are on its stack,
 * it will be resumed later in this turn). Only the loop resumes: co_start and co_wake are called from loop callbacks,
 * where nothing runs; whatever is called while another co runs (co_start_soon, co_cancel) is deferred.
 *
 * A parked call yields a private sentinel. Inside a user's own coroutine that yield arrives at our `coroutine` library
 * (lua/chowk/coroutine.lua), which passes it outward with co_park_outward until it is here; the results travel back the
 * same way. A yield without the sentinel cannot reach this file, because that library refuses it.
 *
 * Lua threads are anchored in the registry for ever and reused; after an error lua_resetthread makes them new. Deadline
 * timers are armed at the first park only: a handler that never waits pays nothing for them.
 *
 * Never: resume from inside a binding, free a co inside its own task callback, call `done` twice. */
#include "script/co_priv.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "script/lx.h"
#include "script/vm_priv.h"

#ifdef __SANITIZE_ADDRESS__
#define CO_MAX_IDLE 0 /* so that use after finish is seen */
#else
#define CO_MAX_IDLE 1024
#endif
#define SLOW_LOG_MS 1000
#define CO_DEFAULT_WAIT_MS 30000 /* of a call made by an activity without a deadline */

static const char sentinel; /* its address */

static void *sentinel_ptr(void)
{
    return (void *)(uintptr_t)&sentinel;
}

void co_setup(struct vm *vm)
{
    list_init(&vm->active);
    list_init(&vm->idle);
}

/* registry[L] = true says: the own thread of an activity. */
static void mark_main(lua_State *L, bool is_main)
{
    lua_pushlightuserdata(L, L);
    if (is_main)
        lua_pushboolean(L, 1);
    else
        lua_pushnil(L);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

bool co_is_main(lua_State *thread)
{
    lua_pushlightuserdata(thread, thread);
    lua_rawget(thread, LUA_REGISTRYINDEX);
    bool is_main = lua_toboolean(thread, -1);
    lua_pop(thread, 1);
    return is_main;
}

static struct co *co_make(struct vm *vm)
{
    struct co *co = xalloc(sizeof *co);
    co->magic = CO_MAGIC;
    co->vm = vm;
    co_set_parent(co, NULL);
    list_init(&co->leftovers);
    co->L = lua_newthread(vm->L);
    co->ref = luaL_ref(vm->L, LUA_REGISTRYINDEX);
    mark_main(co->L, true);
    return co;
}

struct co *co_new(struct vm *vm)
{
    struct list *node = list_pop(&vm->idle);
    struct co *co;
    if (node) {
        co = container_of(node, struct co, node);
        vm->n_idle--;
    } else {
        co = co_make(vm);
    }
    co->state = CO_STARTING;
    list_push(&vm->active, &co->node);
    vm->n_active++;
    return co;
}

static void co_release(struct co *co)
{
    struct vm *vm = co->vm;
    for (struct list *left; (left = list_pop(&co->leftovers)) != NULL;)
        container_of(left, struct co_leftover, node)->fn(container_of(left, struct co_leftover, node));
    list_remove(&co->node);
    vm->n_active--;
    if (co->is_dirty)
        lua_resetthread(vm->L, co->L);
    else
        lua_settop(co->L, 0);
    co->state = CO_FREE;
    co->done = NULL;
    co_set_parent(co, NULL);
    co->sticky = ERR_NONE;
    co->has_op = co->is_committed = co->is_dirty = false;
    if (vm->n_idle + 1 <= CO_MAX_IDLE && !vm->heap.has_refused) { /* its stack may be what took the memory */
        list_push_front(&vm->idle, &co->node);
        vm->n_idle++;
        return;
    }
    mark_main(co->L, false);
    luaL_unref(vm->L, LUA_REGISTRYINDEX, co->ref);
    co->magic = 0;
    loop_reclaim(vm->env->loop, co);
}

lua_State *co_stack(struct co *co)
{
    return co->L;
}

/* Ends it: tells the owner once, and gives it back. Stack of L: …, results | err
 * The raised error is shown on the VM's own stack: after a runaway recursion the coroutine's is full, and one more push
 * outside a protected call would end the process. */
static void finish(struct co *co, int n_results)
{
    struct vm *vm = co->vm;
    lua_State *L = co->L;
    timer_stop(vm->env->loop, &co->timer);
    const char *trace = NULL;
    int top = lua_gettop(vm->L);
    if (n_results < 0) {
        co->is_dirty = true;
        L = vm->L;
        lua_checkstack(L, 16);
        lua_pushnil(L); /* where the traceback goes */
        lua_xmove(co->L, L, 1);
        if (lx_kind_of(L, -1) != LX_PROBLEM) {
            luaL_traceback(L, co->L, NULL, 0);
            lua_replace(L, top + 1);
            trace = lua_tostring(L, top + 1);
        }
    }
    if (co->done)
        co->done(co, L, n_results, trace, co->data);
    lua_settop(vm->L, top);
    co_release(co);
}

static void on_deadline(struct timer *timer)
{
    co_cancel(container_of(timer, struct co, timer), ERR_DEADLINE);
}

static void arm_deadline(struct co *co)
{
    if (co->deadline_ms && !timer_is_armed(&co->timer))
        timer_arm(co->vm->env->loop, &co->timer, co->deadline_ms, on_deadline);
}

/* Forgets the pending operation, so that no completion follows. */
static void drop_op(struct co *co)
{
    co->has_op = false;
    if (co->cancel)
        co->cancel(co, co->cancel_data);
}

/* The one entry into Lua for running code. */
static void run(struct co *co)
{
    struct vm *vm = co->vm;
    CHECK(!vm->current);
    vm->current = co;
    co->state = CO_RUNNING;
    heap_enter(&vm->heap);
    int rc = lua_resume(co->L, co->n_resume);
    heap_leave(&vm->heap);
    vm->current = NULL;
    if (rc == LUA_YIELD && co->has_op) {
        CHECK(co_is_sentinel(co->L, -1));
        lua_settop(co->L, 0);
        co->state = CO_PARKED;
        co->parked_us = co->waited_us ? clock_us() : 0;
        if (!co->is_timed)
            arm_deadline(co);
        return;
    }
    if (rc == LUA_YIELD) { /* cannot happen through our coroutine library */
        lua_pushliteral(co->L, "attempt to yield from outside a coroutine");
        rc = LUA_ERRRUN;
    }
    if (co->has_op) /* begun, then left by an error before it parked */
        drop_op(co);
    finish(co, rc == LUA_OK ? lua_gettop(co->L) - co->n_below : -1);
}

static void settle_heap(struct vm *vm)
{
    if (vm->heap.has_refused) {
        vm->running->n_out_of_memory++;
        log_error("out of memory: the Lua heap is at its cap", LOG_S("route", vm->running->route),
                  LOG_S("request_id", vm->running->id), LOG_I("heap", (int64_t)vm->heap.bytes),
                  LOG_I("cap", (int64_t)vm->heap.cap), LOG_I("room", (int64_t)heap_room(&vm->heap)));
    }
    heap_settle(&vm->heap, vm->L);
}

/* One line a second at most. Its ms may be a few short: the clock is a coarse one. */
static void report_slow(struct vm *vm, uint64_t ms, uint64_t now_ms)
{
    vm->running->n_slow_turns++;
    vm->n_slow_unsaid++;
    if (now_ms < vm->slow_due_ms)
        return;
    log_warn("slow turn: nothing else ran meanwhile", LOG_S("route", vm->running->route),
             LOG_S("request_id", vm->running->id), LOG_I("ms", (int64_t)ms),
             LOG_I("unsaid", (int64_t)vm->n_slow_unsaid - 1));
    vm->n_slow_unsaid = 0;
    vm->slow_due_ms = now_ms + SLOW_LOG_MS;
}

/* Runs it, under its name in the scoreboard. What its end starts (a stream, a parent) runs inside and counts to it. */
static void resume(struct co *co)
{
    struct vm *vm = co->vm;
    uint64_t since_ms = running_enter(vm->running, co->label, vm->generation, loop_now(vm->env->loop));
    run(co);
    settle_heap(vm);
    uint64_t now_ms = clock_coarse_ms(), nested_ms = vm->running->left_ms;
    running_leave(vm->running, now_ms);
    since_ms = nested_ms > since_ms ? nested_ms : since_ms;
    if (vm->env->slow_turn_ms && now_ms > since_ms + vm->env->slow_turn_ms)
        report_slow(vm, now_ms - since_ms, now_ms);
}

static void prepare(struct co *co, int n_args, uint64_t deadline_ms, co_done_fn done, void *data)
{
    CHECK_OBJ(co, CO_MAGIC);
    CHECK(co->state == CO_STARTING);
    co->n_resume = n_args;
    co->n_below = lua_gettop(co->L) - n_args - 1;
    CHECK(co->n_below >= 0);
    if (co->parent && co->parent->deadline_ms && (!deadline_ms || co->parent->deadline_ms < deadline_ms))
        deadline_ms = co->parent->deadline_ms;
    co->deadline_ms = deadline_ms;
    co->done = done;
    co->data = data;
}

void co_start(struct co *co, int n_args, uint64_t deadline_ms, co_done_fn done, void *data)
{
    prepare(co, n_args, deadline_ms, done, data);
    resume(co);
}

static void push_sticky(lua_State *L, enum err_code code)
{
    struct err err = {.code = code};
    if (code == ERR_DEADLINE)
        (void)err_set(&err, code, "the deadline has passed");
    else if (code == ERR_COMMIT_UNKNOWN || code == ERR_OUTCOME_UNKNOWN)
        (void)err_set(&err, code, "the deadline passed before an answer came: it may or may not be done");
    else if (code == ERR_LEASE_LOST)
        (void)err_set(&err, code, "the job's lease is lost: another process may run it by now");
    else
        (void)err_set(&err, code, "cancelled");
    lx_push_err(L, &err);
}

/* In a later callback of this turn: starts it, or hands it the results it waits for. */
static void on_task(struct loop_task *task)
{
    struct co *co = container_of(task, struct co, task);
    CHECK_OBJ(co, CO_MAGIC);
    if (co->state == CO_STARTING && co->sticky) { /* cancelled before it ran */
        push_sticky(co->L, co->sticky);
        finish(co, -1);
        return;
    }
    resume(co);
}

void co_start_soon(struct co *co, int n_args, uint64_t deadline_ms, co_done_fn done, void *data)
{
    prepare(co, n_args, deadline_ms, done, data);
    loop_defer(co->vm->env->loop, &co->task, on_task);
}

struct co *co_current(lua_State *L)
{
    struct co *co = vm_of(L)->current;
    if (!co)
        lx_misuse(L, "this call waits, and nothing may wait while loading: move it into a handler or app.on_start");
    return co;
}

struct co *co_running(lua_State *L)
{
    return vm_of(L)->current;
}

uint64_t co_deadline(const struct co *co)
{
    return co->deadline_ms ? co->deadline_ms : loop_now(co->vm->env->loop) + CO_DEFAULT_WAIT_MS;
}

void co_check(lua_State *L)
{
    struct co *co = vm_of(L)->current;
    if (!co || !co->sticky)
        return;
    push_sticky(L, co->sticky);
    lua_error(L);
}

bool co_has_deadline(const struct co *co)
{
    return co->deadline_ms > 0;
}

static void refuse_boundary(lua_State *L)
{
    lx_misuse(L, "this call waits, and cannot inside a callback of table.sort, string.gsub or a metamethod of a C "
                 "function: call it before");
}

struct co *co_op_begin(lua_State *L, co_cancel_fn cancel, void *data)
{
    struct co *co = co_current(L);
    co_check(L);
    if (!lua_isyieldable(L))
        refuse_boundary(L);
    if (co->has_op) /* an earlier binding left by an error between begin and park */
        drop_op(co);
    co->has_op = true;
    co->is_timed = false;
    co->waits_for = HTTP_WAIT_OTHER;
    co->cancel = cancel;
    co->cancel_data = data;
    return co;
}

void co_op_set_data(struct co *co, void *data)
{
    CHECK(co->has_op);
    co->cancel_data = data;
}

void co_op_waits_for(struct co *co, enum http_wait what)
{
    CHECK(co->has_op);
    co->waits_for = what;
}

void co_op_is_timed(struct co *co)
{
    CHECK(co->has_op);
    co->is_timed = true;
}

void co_op_abort(struct co *co)
{
    CHECK(co->state == CO_RUNNING);
    co->has_op = false;
}

int co_park(lua_State *L)
{
    CHECK(vm_of(L)->current && vm_of(L)->current->has_op);
    lua_pushlightuserdata(L, sentinel_ptr());
    return lua_yield(L, 1);
}

int co_park_outward(lua_State *L)
{
    if (lua_isyieldable(L))
        return co_park(L);
    drop_op(co_current(L));
    refuse_boundary(L);
    return 0;
}

bool co_is_sentinel(lua_State *L, int idx)
{
    return lua_islightuserdata(L, idx) && lua_touserdata(L, idx) == sentinel_ptr();
}

static void count_wait(const struct co *co)
{
    if (co->waited_us && co->waits_for != HTTP_N_WAITS)
        co->waited_us[co->waits_for] += clock_us() - co->parked_us;
}

void co_wake(struct co *co, int n_results)
{
    CHECK_OBJ(co, CO_MAGIC);
    CHECK(co->state == CO_PARKED && co->has_op);
    count_wait(co);
    co->has_op = false;
    co->n_resume = n_results;
    if (!co->vm->current) {
        resume(co);
        return;
    }
    co->state = CO_WAKING;
    loop_defer(co->vm->env->loop, &co->task, on_task);
}

/* The parked call's results become `false, err`. */
static void wake_with_sticky(struct co *co)
{
    count_wait(co);
    drop_op(co);
    lua_pushboolean(co->L, 0);
    push_sticky(co->L, co->sticky);
    co->n_resume = 2;
    co->state = CO_WAKING;
}

void co_kill(struct co *co, enum err_code code)
{
    CHECK_OBJ(co, CO_MAGIC);
    if (co->state == CO_FREE || co->sticky)
        return;
    co->sticky = code;
    if (co->state != CO_PARKED)
        return;
    wake_with_sticky(co);
    loop_defer(co->vm->env->loop, &co->task, on_task);
}

void co_cancel(struct co *co, enum err_code code)
{
    if (code == ERR_CANCELLED && co->is_committed)
        return;
    co_kill(co, code);
}

void co_kill_detached(struct vm *vm)
{
    list_each (node, &vm->active) {
        struct co *co = container_of(node, struct co, node);
        if (!co->owner && !co->job && !co->parent)
            co_kill(co, ERR_CANCELLED);
    }
}

void co_kill_all(struct vm *vm, bool streams)
{
    list_each (node, &vm->active) {
        struct co *co = container_of(node, struct co, node);
        if (streams || !co->is_stream)
            co_kill(co, co->owner && !co->is_stream ? ERR_DEADLINE : ERR_CANCELLED);
    }
}

bool co_has_only_streams(const struct vm *vm)
{
    for (struct list *node = vm->active.next; node != &vm->active; node = node->next)
        if (!container_of(node, struct co, node)->is_stream)
            return false;
    return true;
}

void co_end_all(struct vm *vm)
{
    CHECK(!vm->current);
    while (!list_is_empty(&vm->active)) {
        struct co *co = container_of(vm->active.next, struct co, node);
        loop_defer_cancel(&co->task);
        if (!co->sticky)
            co->sticky = ERR_CANCELLED;
        if (co->state == CO_PARKED)
            wake_with_sticky(co);
        on_task(&co->task);
    }
}

void co_teardown(struct vm *vm)
{
    CHECK(list_is_empty(&vm->active));
    struct list *node;
    while ((node = list_pop(&vm->idle)))
        free(container_of(node, struct co, node));
    vm->n_idle = 0;
}
