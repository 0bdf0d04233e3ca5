/* chowk.core.pg, notifications: a handle around struct pg_sub, with at most one activity waiting on it. */
#include "bind/bind_pg.h"

#include "bind/modules.h"
#include "data/pg_listen.h"
#include "script/lx.h"

#define SUB_META "chowk.pg.sub"

struct handle {
    struct vm_owned owned;
    struct pg_sub *sub; /* NULL: closed */
    struct co *co;      /* who waits */
    bool waits_for_ready;
    struct loop *loop;
    struct timer timer;
};

static struct handle *check_handle(lua_State *L)
{
    struct handle *handle = luaL_checkudata(L, 1, SUB_META);
    if (!handle->sub)
        lx_misuse(L, "this subscription is closed");
    if (handle->co)
        lx_misuse(L, "another activity waits on this subscription: make one for each");
    return handle;
}

/* Stack: → true, payload | nil, is_gap */
static int push_event(lua_State *L, const struct pg_event *event)
{
    lua_pushboolean(L, 1);
    if (event->has_payload)
        lx_push_slice(L, event->payload);
    else
        lua_pushnil(L);
    lua_pushboolean(L, event->is_gap);
    return 3;
}

static void wake(struct handle *handle, const struct pg_event *event)
{
    struct co *co = handle->co;
    handle->co = NULL;
    timer_stop(handle->loop, &handle->timer);
    lua_checkstack(co_stack(co), 4);
    co_wake(co, push_event(co_stack(co), event));
}

static void on_event(void *data)
{
    struct handle *handle = data;
    struct pg_event event = {0};
    if (!handle->co)
        return;
    if (handle->waits_for_ready ? pg_sub_is_ready(handle->sub) : pg_sub_take(handle->sub, &event))
        wake(handle, &event);
}

static void on_timeout(struct timer *timer)
{
    wake(container_of(timer, struct handle, timer), &(struct pg_event){0});
}

static void cancel_wait(struct co *co UNUSED, void *data)
{
    struct handle *handle = data;
    handle->co = NULL;
    timer_stop(handle->loop, &handle->timer);
}

static int park(lua_State *L, struct handle *handle, struct co *co, bool waits_for_ready)
{
    handle->co = co;
    handle->waits_for_ready = waits_for_ready;
    return co_park(L);
}

/* sub_wait(handle) → true | false, err: until LISTEN holds, or could not be had at once */
static int sub_wait(lua_State *L)
{
    struct handle *handle = check_handle(L);
    struct co *co = co_op_begin(L, cancel_wait, handle);
    if (!pg_sub_is_ready(handle->sub))
        return park(L, handle, co, true);
    co_op_abort(co);
    lua_pushboolean(L, 1);
    return 1;
}

/* sub_next(handle, seconds | nil) → true, payload | nil, is_gap | false, err. Yields unless there is something. */
static int sub_next(lua_State *L)
{
    struct handle *handle = check_handle(L);
    struct pg_event event;
    lua_Number seconds = luaL_optnumber(L, 2, -1);
    struct co *co = co_op_begin(L, cancel_wait, handle);
    if (pg_sub_take(handle->sub, &event) || seconds == 0) {
        co_op_abort(co);
        return push_event(L, &event);
    }
    if (seconds > 0)
        timer_arm(handle->loop, &handle->timer, loop_now(handle->loop) + (uint64_t)(seconds * 1000) + 1, on_timeout);
    return park(L, handle, co, false);
}

/* Its generation has ended. */
static void on_end(struct vm_owned *owned)
{
    struct handle *handle = container_of(owned, struct handle, owned);
    pg_sub_free(handle->sub);
    handle->sub = NULL;
}

/* sub_open(channel, max_queued) → handle. Does not yield; sub_wait does. */
static int sub_open(lua_State *L)
{
    struct err err;
    struct pg *pg = vm_env(vm_of(L))->pg;
    struct slice channel = lx_check_slice(L, 1);
    unsigned max_queued = (unsigned)luaL_checkinteger(L, 2);
    co_current(L); /* not while loading */
    struct handle *handle = lua_newuserdata(L, sizeof *handle);
    *handle = (struct handle){.loop = vm_env(vm_of(L))->loop};
    luaL_getmetatable(L, SUB_META);
    lua_setmetatable(L, -2);
    if (!pg) {
        bind_pg_push_unconfigured(L);
        return lua_error(L);
    }
    struct pg_sub_opts opts = {.channel = channel, .max_queued = max_queued, .on_event = on_event, .data = handle};
    handle->sub = pg_sub_new(pg, &opts, &err);
    if (handle->sub) {
        vm_own(L, &handle->owned, on_end);
        return 1;
    }
    lx_push_err(L, &err);
    return lua_error(L);
}

/* sub_close(handle): whoever waits on it gets `true, nil`. Does not yield. Also its __gc. */
static int sub_close(lua_State *L)
{
    struct handle *handle = luaL_checkudata(L, 1, SUB_META);
    vm_disown(&handle->owned);
    pg_sub_free(handle->sub);
    handle->sub = NULL;
    if (handle->co)
        wake(handle, &(struct pg_event){0});
    return 0;
}

void bind_pg_open_listen(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"sub_open", sub_open}, {"sub_wait", sub_wait}, {"sub_next", sub_next}, {"sub_close", sub_close}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    lx_new_class(L, SUB_META);
    lua_pushcfunction(L, sub_close);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}
