/* chowk.core.redis, subscriptions: a handle around struct redis_inbox and what waits on it. One coroutine at a time;
 * closing wakes it. A handle that is dropped is closed by the collector; until then its queue is bounded. */
#include <lauxlib.h>

#include "bind/bind_redis.h"
#include "data/redis_inbox.h"
#include "script/co.h"
#include "script/lx.h"
#include "script/vm.h"

#define SUB_META "chowk.redis.sub"

struct handle {
    struct vm_owned owned;
    struct redis_inbox *inbox; /* NULL: closed */
    struct co *waiter;
};

static struct handle *check_handle(lua_State *L)
{
    struct handle *handle = luaL_checkudata(L, 1, SUB_META);
    if (!handle->inbox)
        lx_misuse(L, "redis: this subscription is closed");
    return handle;
}

/* Its generation has ended. */
static void on_end(struct vm_owned *owned)
{
    struct handle *handle = container_of(owned, struct handle, owned);
    redis_inbox_close(handle->inbox);
    handle->inbox = NULL;
}

/* open(channels, patterns, max_messages) → handle | nil, err */
static int sub_open(lua_State *L)
{
    struct arena *arena = vm_scratch(vm_of(L));
    size_t n = lua_istable(L, 1) ? lua_objlen(L, 1) : 0;
    if (n == 0 || n > REDIS_SUB_MAX_CHANNELS)
        lx_misuse(L, "redis.subscribe: expected a channel, or a list of 1..%d", REDIS_SUB_MAX_CHANNELS);
    struct slice *channels = arena_alloc(arena, n * sizeof *channels);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, 1, (int)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            lx_misuse(L, "redis.subscribe: channel %d must be a string, got %s", (int)i + 1, luaL_typename(L, -1));
        channels[i] = lx_check_slice(L, -1); /* the table keeps it */
        lua_pop(L, 1);
    }
    struct redis_inbox_opts opts = {.channels = channels,
                                    .n_channels = n,
                                    .patterns = lua_toboolean(L, 2),
                                    .max_messages = (size_t)luaL_optnumber(L, 3, 0)};
    (void)co_current(L); /* not while loading */
    co_check(L);
    if (bind_redis_push_unconfigured(L) > 0)
        return 2;
    struct handle *handle = lua_newuserdata(L, sizeof *handle);
    *handle = (struct handle){0};
    luaL_getmetatable(L, SUB_META);
    lua_setmetatable(L, -2);
    handle->inbox = redis_inbox_open(vm_env(vm_of(L))->redis, &opts);
    vm_own(L, &handle->owned, on_end);
    return 1;
}

/* ---- waiting -------------------------------------------------------------------------------------------------- */

static void push_field(lua_State *L, const char *name, struct slice value)
{
    lx_push_slice(L, value);
    lua_setfield(L, -2, name);
}

static void push_news(lua_State *L, const struct redis_news *news)
{
    lua_createtable(L, 0, 3);
    if (news->event == REDIS_SUB_GAP) {
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "gap");
        return;
    }
    push_field(L, "channel", news->channel);
    push_field(L, "payload", news->payload);
    if (news->pattern.len > 0)
        push_field(L, "pattern", news->pattern);
}

/* The parked call's results: `true, message | nil` or `false, err`. */
static void on_done(void *data, const struct redis_news *news, const struct err *err)
{
    struct handle *handle = data;
    struct co *co = handle->waiter;
    lua_State *L = co_stack(co);
    handle->waiter = NULL;
    lua_pushboolean(L, err == NULL);
    if (err)
        lx_push_err(L, err);
    else if (news)
        push_news(L, news);
    else
        lua_pushnil(L);
    co_wake(co, 2);
}

static void cancel_wait(struct co *co, void *data)
{
    struct handle *handle = data;
    (void)co;
    handle->waiter = NULL;
    redis_inbox_cancel(handle->inbox);
}

static struct handle *begin_wait(lua_State *L, uint64_t *deadline_ms)
{
    struct handle *handle = check_handle(L);
    lua_Number seconds = luaL_optnumber(L, 2, -1);
    struct loop *loop = vm_env(vm_of(L))->loop;
    if (handle->waiter)
        lx_misuse(L, "redis: another coroutine waits on this subscription already");
    *deadline_ms = seconds < 0 ? 0 : loop_now(loop) + (uint64_t)(seconds * 1000);
    handle->waiter = co_op_begin(L, cancel_wait, handle);
    return handle;
}

/* ready(handle, seconds?) → true, nil | false, err */
static int sub_ready(lua_State *L)
{
    uint64_t deadline_ms;
    struct handle *handle = begin_wait(L, &deadline_ms);
    redis_inbox_wait_ready(handle->inbox, deadline_ms, on_done, handle);
    return co_park(L);
}

/* next(handle, seconds?) → true, message | nil | false, err */
static int sub_next(lua_State *L)
{
    uint64_t deadline_ms;
    struct handle *handle = begin_wait(L, &deadline_ms);
    redis_inbox_next(handle->inbox, deadline_ms, on_done, handle);
    return co_park(L);
}

/* is_closed(handle) → boolean */
static int sub_is_closed(lua_State *L)
{
    const struct handle *handle = luaL_checkudata(L, 1, SUB_META);
    lua_pushboolean(L, handle->inbox == NULL);
    return 1;
}

/* close(handle): whoever waits gets nil */
static int sub_close(lua_State *L)
{
    struct handle *handle = luaL_checkudata(L, 1, SUB_META);
    struct redis_inbox *inbox = handle->inbox;
    struct co *co = handle->waiter;
    handle->inbox = NULL;
    handle->waiter = NULL;
    vm_disown(&handle->owned);
    if (inbox)
        redis_inbox_close(inbox);
    if (co) {
        lua_pushboolean(co_stack(co), 1);
        lua_pushnil(co_stack(co));
        co_wake(co, 2);
    }
    return 0;
}

void bind_redis_sub_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"sub_open", sub_open},   {"sub_ready", sub_ready},
                                         {"sub_next", sub_next},   {"sub_is_closed", sub_is_closed},
                                         {"sub_close", sub_close}, {NULL, NULL}};
    lx_new_class(L, SUB_META);
    lua_pushcfunction(L, sub_close);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    luaL_setfuncs(L, functions, 0);
}
