/* Boundary of chowk.app: start and stop hooks, and the writer of a stream. */
#include <lauxlib.h>

#include "bind/modules.h"
#include "http/response.h"
#include "script/call.h"
#include "script/lx.h"

static int on_start(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    vm_add_hook(L, VM_ON_START);
    return 0;
}

static int on_stop(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    vm_add_hook(L, VM_ON_STOP);
    return 0;
}

static int self_test(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    vm_add_hook(L, VM_SELF_TEST);
    return 0;
}

static void on_drain(struct http_request *req)
{
    struct call *call = call_cast(req->owner);
    call->waits_for_drain = false;
    lua_pushboolean(co_stack(call->co), 1);
    co_wake(call->co, 1);
}

static void cancel_write(struct co *co, void *data)
{
    struct call *call = data;
    (void)co;
    call->waits_for_drain = false;
    http_stream_on_drain(call->req, NULL);
}

/* write(writer, string | raw) → true | false, err. Yields while the client reads slower than we write. */
static int writer_write(lua_State *L)
{
    struct call *call = call_check_writer(L, 1);
    struct slice bytes;
    if (!lx_to_raw(L, 2, &bytes))
        bytes = lx_check_slice(L, 2);
    if (co_current(L) != call->co)
        lx_misuse(L, "a stream is written only by the function given to app.stream");
    struct co *co = co_op_begin(L, cancel_write, call);
    enum status rc = bytes.len ? http_stream_write(call->req, bytes) : OK;
    if (rc == AGAIN) {
        call->waits_for_drain = true;
        http_stream_on_drain(call->req, on_drain);
        return co_park(L);
    }
    co_op_abort(co);
    lua_pushboolean(L, rc == OK);
    if (rc == OK)
        return 1;
    struct err err = {0};
    (void)err_set(&err, ERR_CANCELLED, "the client is gone");
    lx_push_err(L, &err);
    return 2;
}

/* set_writer_methods(methods): the metatable of writers has them as __index */
static int set_writer_methods(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_createtable(L, 0, 2);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, "writer");
    lua_setfield(L, -2, "__metatable");
    call_set_writer_meta(L);
    return 0;
}

int bind_app_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"on_start", on_start},
        {"on_stop", on_stop},
        {"self_test", self_test},
        {"write", writer_write},
        {"set_writer_methods", set_writer_methods},
        {NULL, NULL},
    };
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
