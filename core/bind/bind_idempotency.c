/* chowk.core.idempotency: a handler's answer as one string that can be kept and given again, and what only the server
 * can do to a request. */
#include "bind/modules.h"

#include <lauxlib.h>

#include "base/json.h"
#include "script/call.h"
#include "script/lx.h"

/* {"status":201,"headers":[["Location","/x"],["Content-Type","application/json"]]} and, behind a line feed, the body */
static void write_record(struct buf *out, const struct call_reply *reply)
{
    const struct http_answer *answer = &reply->answer;
    buf_printf(out, "{\"status\":%d,\"headers\":[", answer->status);
    for (size_t i = 0; i < answer->n_headers; i++) {
        buf_lit(out, "[");
        json_write_string(out, answer->headers[i].name);
        buf_lit(out, ",");
        json_write_string(out, answer->headers[i].value);
        buf_lit(out, "],");
    }
    buf_lit(out, "[\"Content-Type\",");
    json_write_string(out, answer->content_type);
    buf_lit(out, "]]}\n");
    buf_slice(out, reply->body);
}

/* capture(req, results…) → string, status. Raises what the answer itself would have been refused for. */
static int capture(lua_State *L)
{
    struct call *call = call_check_req(L, 1);
    struct call_reply reply;
    struct err err = {0};
    if (!call_read_answer(call, L, lua_gettop(L) - 1, &reply, &err))
        return luaL_error(L, "%s", err.message);
    struct buf *out = vm_text(call->vm);
    write_record(out, &reply);
    lua_pushlstring(L, out->ptr, out->len);
    lua_pushinteger(L, reply.answer.status);
    return 2;
}

/* mark_replayed(req): whatever answers it says so, as Stripe does */
static int mark_replayed(lua_State *L)
{
    struct http_request *req = call_check_req(L, 1)->req;
    struct buf *out = vm_text(vm_of(L));
    buf_slice(out, req->fields);
    buf_lit(out, "Idempotent-Replayed: true\r\n");
    req->fields = arena_copy(req->arena, buf_as_slice(out));
    return 0;
}

/* target(req) → path and query as sent */
static int target(lua_State *L)
{
    lx_push_slice(L, call_check_req(L, 1)->req->target);
    return 1;
}

/* keep_going(): the client's going away cancels this activity no more (T10) */
static int keep_going(lua_State *L)
{
    co_mark_committed(co_current(L));
    return 0;
}

int bind_idempotency_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"capture", capture},
                                         {"mark_replayed", mark_replayed},
                                         {"target", target},
                                         {"keep_going", keep_going},
                                         {NULL, NULL}};
    lua_createtable(L, 0, 4);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
