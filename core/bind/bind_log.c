/* Boundary of chowk.log: a message and a table of fields become one line of base/log, with the request's id, or the
 * job's. */
#include <lauxlib.h>
#include <stdio.h>

#include "base/log.h"
#include "bind/bind_jobs.h"
#include "bind/modules.h"
#include "http/request.h"
#include "script/co.h"
#include "script/lx.h"
#include "script/vm.h"

#define MAX_FIELDS 32

/* Key and value are on top. Values that are neither text nor whole numbers are encoded at the end of `texts`. */
static bool read_field(lua_State *L, struct log_field *field, struct arena *texts)
{
    if (lua_type(L, -2) != LUA_TSTRING)
        return false;
    *field = (struct log_field){.key = lua_tostring(L, -2), .kind = LOG_STR};
    double number = lua_tonumber(L, -1);
    if (lua_type(L, -1) == LUA_TSTRING) {
        field->str.ptr = lua_tolstring(L, -1, &field->str.len);
    } else if (lua_type(L, -1) == LUA_TNUMBER && number > -1e15 && number < 1e15 && number == (double)(int64_t)number) {
        field->kind = LOG_INT;
        field->num = (int64_t)number;
    } else if (lx_is_err(L, -1)) {
        field->str = arena_copy(texts, slice_str(lx_to_text(L, -1)));
        lua_pop(L, 1);
    } else {
        struct err err;
        struct buf *buf = vm_text(vm_of(L));
        bool is_json = lx_json_encode(L, -1, buf, &err) == OK;
        field->kind = is_json ? LOG_RAW : LOG_STR;
        field->str = is_json ? arena_copy(texts, buf_as_slice(buf)) : slice_str(luaL_typename(L, -1));
    }
    return true;
}

/* The request that the running activity belongs to, if any. */
static const struct http_request *current_request(lua_State *L)
{
    const struct co *co = co_running(L);
    return co ? http_request_of(co_owner(co)) : NULL;
}

/* write(level, message, fields?) */
static int write_line(lua_State *L)
{
    static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
    static const enum log_level values[] = {LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR};
    enum log_level level = values[luaL_checkoption(L, 1, NULL, levels)];
    const char *message = luaL_checkstring(L, 2);
    if (!lua_isnoneornil(L, 3))
        luaL_checktype(L, 3, LUA_TTABLE);
    if (!log_is_on(level) || vm_is_off_loop(vm_of(L))) /* the check of this code has logged it already */
        return 0;
    struct log_field fields[MAX_FIELDS + 5];
    size_t n = 0;
    struct arena *texts = vm_scratch(vm_of(L));
    if (lua_istable(L, 3))
        for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1))
            if (n < MAX_FIELDS)
                n += read_field(L, &fields[n], texts);
    const struct http_request *req = current_request(L);
    char route[256];
    if (req) {
        snprintf(route, sizeof(route), "%s %s", http_method_name(req->route->method), req->route->pattern);
        fields[n++] = LOG_S("request_id", req->id);
        fields[n++] = LOG_S("route", route);
        fields[n++] = LOG_SL("generation", req->generation);
    }
    const struct job *job = bind_jobs_running(L);
    if (job) {
        fields[n++] = LOG_S("job", job_info(job)->kind->name);
        fields[n++] = LOG_I("job_id", job_info(job)->id);
    }
    log_event(level, message, fields, n);
    arena_destroy(texts);
    return 0;
}

int bind_log_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"write", write_line}, {NULL, NULL}};
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
