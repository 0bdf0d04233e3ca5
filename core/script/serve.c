/* A request's life in Lua: the route's function on a coroutine from the free list, then its answer (answer.c). A stream
 * goes on in a second coroutine, without a deadline. The client's going away cancels whichever runs.
 *
 * Every request ends exactly once, in on_done, or for streams in on_stream_done. */
#include "script/serve.h"

#include <lauxlib.h>

#include "http/response.h"
#include "script/call.h"
#include "script/lx.h"
#include "script/vm_priv.h"

/* ---- links ------------------------------------------------------------------------------------------------ */

static struct call_link *push_link(lua_State *L, struct call *call, int ref_meta)
{
    struct call_link *link = lua_newuserdata(L, sizeof *link);
    *link = (struct call_link){.call = call};
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref_meta);
    lua_setmetatable(L, -2);
    return link;
}

void call_push_req(lua_State *L, struct call *call)
{
    call->req_link = push_link(L, call, call->vm->ref_req_meta);
}

void call_push_writer(lua_State *L, struct call *call)
{
    call->writer_link = push_link(L, call, call->vm->ref_writer_meta);
}

void call_set_req_meta(lua_State *L)
{
    vm_of(L)->ref_req_meta = luaL_ref(L, LUA_REGISTRYINDEX);
}

void call_set_writer_meta(lua_State *L)
{
    vm_of(L)->ref_writer_meta = luaL_ref(L, LUA_REGISTRYINDEX);
}

static struct call *check_link(lua_State *L, int idx, int ref_meta, const char *what)
{
    struct call_link *link = lua_touserdata(L, idx);
    bool is_ours = false;
    if (link && lua_getmetatable(L, idx)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, ref_meta);
        is_ours = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    if (!is_ours)
        lx_misuse(L, "expected a %s, got %s (write %s:method(…), with a colon)", what, luaL_typename(L, idx), what);
    if (!link->call)
        lx_misuse(L, "this %s is closed: its request has ended", what);
    CHECK_OBJ(link->call, CALL_MAGIC);
    return link->call;
}

struct call *call_check_req(lua_State *L, int idx)
{
    return check_link(L, idx, vm_of(L)->ref_req_meta, "req");
}

struct call *call_check_writer(lua_State *L, int idx)
{
    return check_link(L, idx, vm_of(L)->ref_writer_meta, "writer");
}

void call_unlink(struct call *call)
{
    if (call->req_link)
        call->req_link->call = NULL;
    if (call->writer_link)
        call->writer_link->call = NULL;
    call->req_link = call->writer_link = NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------- */

static void on_gone(struct http_request *req)
{
    struct call *call = call_cast(req->owner);
    call->is_gone = true;
    if (call->co && call->waits_for_drain) /* nobody will drain it, whatever it has committed */
        co_kill(call->co, ERR_CANCELLED);
    else if (call->co)
        co_cancel(call->co, ERR_CANCELLED);
}

static void on_stream_done(struct co *co, lua_State *L, int n_results, const char *trace, void *data)
{
    struct call *call = call_cast(data);
    struct http_request *req = call->req;
    (void)co;
    call->co = NULL;
    call_unlink(call);
    http_stream_on_drain(req, NULL);
    if (n_results >= 0) {
        http_stream_end(req);
        return;
    }
    struct err err;
    bool is_cancelled = lx_to_err(L, -1, &err) && err.code == ERR_CANCELLED; /* the client left: not a failure */
    if (!is_cancelled)
        call_log_error(call, "the stream failed", L, trace);
    http_stream_abort(req);
}

static struct running_label label_of(const struct call *call)
{
    return (struct running_label){call->vm->routes[call->req->route->handler].label, call->req->id};
}

static void attach(struct co *co, const struct call *call)
{
    co_set_owner(co, call->req);
    co_set_label(co, label_of(call));
    if (call->vm->env->counts_waits)
        co_set_waits(co, call->req->waited_us);
}

/* The head is sent. Stack of `from`: [req], …, stream function */
static void start_stream(struct call *call, lua_State *from)
{
    if (call->req->is_head) {
        call_unlink(call);
        http_stream_end(call->req);
        return;
    }
    struct co *co = co_new(call->vm);
    lua_State *L = co_stack(co);
    if (call->req_link) { /* anchors move along */
        lua_pushvalue(from, 1);
        lua_xmove(from, L, 1);
    }
    call_push_writer(L, call);
    lua_xmove(from, L, 1);
    lua_pushvalue(L, -2); /* Stack: [req], writer, function, writer */
    call->co = co;
    attach(co, call);
    co_set_stream(co);
    co_start(co, 1, 0, on_stream_done, call);
}

static void on_done(struct co *co, lua_State *L, int n_results, const char *trace, void *data)
{
    struct call *call = call_cast(data);
    (void)co;
    call->co = NULL;
    if (n_results < 0)
        call_answer_error(call, L, trace);
    else if (!call_answer(call, L, n_results))
        start_stream(call, L);
}

void serve_request(struct vm *vm, struct http_request *req)
{
    const struct vm_route *route = &vm->routes[req->route->handler];
    struct call *call = arena_zalloc(req->arena, sizeof *call);
    struct co *co = co_new(vm);
    lua_State *L = co_stack(co);
    *call = (struct call){.magic = CALL_MAGIC, .vm = vm, .req = req, .co = co};
    req->owner = call;
    req->on_gone = on_gone;
    attach(co, call);
    if (route->wants_req)
        call_push_req(L, call);
    lua_rawgeti(L, LUA_REGISTRYINDEX, route->ref);
    if (route->wants_req)
        lua_pushvalue(L, 1); /* Stack: req, run, req */
    co_start(co, route->wants_req, req->deadline_ms, on_done, call);
}
