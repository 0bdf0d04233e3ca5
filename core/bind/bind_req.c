/* `req` as Lua sees it: fields computed on first use and kept in the userdata's environment table, so that a handler
 * pays only for what it reads. Whatever a client can make too large or malformed is refused with a problem, never cut.
 */
#include <lauxlib.h>

#include "bind/modules.h"
#include "http/uri.h"
#include "script/call.h"
#include "script/lx.h"

#define MAX_PAIRS 256 /* of a query, a form, a Cookie header */

enum field {
    F_METHOD = 1,
    F_PATH,
    F_ID,
    F_IP,
    F_ROUTE,
    F_DEADLINE,
    F_LAST_PLAIN = F_DEADLINE,
    F_PARAMS,
    F_QUERY,
    F_HEADERS,
    F_COOKIES,
    F_CTX,
    F_USER,
    F_STEP, /* req:step and req:derived_key, where the route put them */
};

static NORETURN void raise_problem(lua_State *L, int status, const char *code, const char *detail)
{
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, status);
    lua_setfield(L, -2, "status");
    lua_pushstring(L, code);
    lua_setfield(L, -2, "code");
    lua_pushstring(L, detail);
    lua_setfield(L, -2, "detail");
    lx_push_meta(L, LX_PROBLEM);
    lua_setmetatable(L, -2);
    lua_error(L);
    WRONG("lua_error returned");
}

/* ---- tables from text ------------------------------------------------------------------------------------- */

/* table[name] = value; a repeated name becomes a list. Stack: table */
static void add_pair(lua_State *L, struct slice name, struct slice value)
{
    lx_push_slice(L, name);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3); /* Stack: table, name, old */
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lx_push_slice(L, value);
        lua_rawset(L, -3);
        return;
    }
    if (lua_type(L, -1) == LUA_TSTRING) {
        lua_createtable(L, 2, 0);
        lx_set_array_meta(L, -1);
        lua_insert(L, -2);
        lua_rawseti(L, -2, 1); /* Stack: table, name, list */
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_rawset(L, -5);
    }
    lx_push_slice(L, value);
    lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
    lua_pop(L, 2);
}

/* Stack: +1 table */
static void push_pairs(lua_State *L, struct call *call, struct slice text, const char *code)
{
    struct slice name, value;
    enum status rc;
    int n = 0;
    lua_newtable(L);
    while ((rc = http_uri_next_pair(&text, call->req->arena, &name, &value)) == OK) {
        if (++n > MAX_PAIRS)
            raise_problem(L, 400, code, "more than 256 pairs");
        add_pair(L, name, value);
    }
    if (rc == ERR)
        raise_problem(L, 400, code, "a percent escape is invalid, or is not UTF-8");
}

static void push_params(lua_State *L, const struct http_request *req)
{
    lua_createtable(L, 0, (int)req->route->n_params);
    for (size_t i = 0; i < req->route->n_params; i++) {
        lx_push_slice(L, req->route->params[i]);
        lx_push_slice(L, req->params[i]);
        lua_rawset(L, -3);
    }
}

static struct slice lower(struct arena *arena, struct slice s)
{
    char *out = arena_alloc(arena, s.len + 1);
    for (size_t i = 0; i < s.len; i++)
        out[i] = (char)(s.ptr[i] >= 'A' && s.ptr[i] <= 'Z' ? s.ptr[i] + 32 : s.ptr[i]);
    return slice_of(out, s.len);
}

/* headers[Name] with any case: only reached when the lower-case name as written was not there. */
static int headers_index(lua_State *L)
{
    /* Stack: headers, name */
    size_t len;
    const char *name = lua_tolstring(L, 2, &len);
    if (!name || len > 256)
        return 0;
    char low[256];
    for (size_t i = 0; i < len; i++)
        low[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    lua_pushlstring(L, low, len);
    lua_rawget(L, 1);
    return 1;
}

/* By lower-case name; repeated ones are joined with ", " (RFC 9110 5.3), Cookie with "; ". */
static void push_headers(lua_State *L, struct call *call)
{
    const struct http_request *req = call->req;
    lua_createtable(L, 0, (int)req->n_headers);
    for (size_t i = 0; i < req->n_headers; i++) {
        struct slice name = lower(req->arena, req->headers[i].name);
        lx_push_slice(L, name);
        lua_pushvalue(L, -1);
        lua_rawget(L, -3); /* Stack: headers, name, old */
        if (!lua_isnil(L, -1)) {
            lx_push_slice(L, slice_eq(name, SLICE("cookie")) ? SLICE("; ") : SLICE(", "));
            lx_push_slice(L, req->headers[i].value);
            lua_concat(L, 3);
        } else {
            lua_pop(L, 1);
            lx_push_slice(L, req->headers[i].value);
        }
        lua_rawset(L, -3);
    }
    if (lx_new_class(L, "chowk.req.headers")) {
        lua_pushcfunction(L, headers_index);
        lua_setfield(L, -2, "__index");
    }
    lua_setmetatable(L, -2);
}

static void add_cookies(lua_State *L, struct slice text, int *n)
{
    while (text.len) {
        const char *semi = memchr(text.ptr, ';', text.len);
        struct slice pair = slice_trim(slice_of(text.ptr, semi ? (size_t)(semi - text.ptr) : text.len));
        size_t used = semi ? (size_t)(semi - text.ptr) + 1 : text.len;
        text = slice_of(text.ptr + used, text.len - used);
        const char *eq = pair.len ? memchr(pair.ptr, '=', pair.len) : NULL;
        if (!eq || eq == pair.ptr)
            continue;
        if (++*n > MAX_PAIRS)
            raise_problem(L, 400, "bad_cookie", "more than 256 cookies");
        lua_pushlstring(L, pair.ptr, (size_t)(eq - pair.ptr));
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        bool is_new = lua_isnil(L, -1); /* the first counts: browsers send the most specific path first */
        lua_pop(L, 1);
        lua_pushlstring(L, eq + 1, (size_t)(pair.ptr + pair.len - eq - 1));
        if (is_new)
            lua_rawset(L, -3);
        else
            lua_pop(L, 2);
    }
}

static void push_cookies(lua_State *L, const struct http_request *req)
{
    int n = 0;
    lua_newtable(L);
    for (size_t i = 0; i < req->n_headers; i++)
        if (slice_ieq(req->headers[i].name, SLICE("cookie")))
            add_cookies(L, req->headers[i].value, &n);
}

/* ---- fields ----------------------------------------------------------------------------------------------- */

/* Keeps the value on top under `key` in the userdata's own table. Stack: req at 1, …, value (stays) */
static void cache_field(lua_State *L, int req, int key)
{
    struct call_link *link = lua_touserdata(L, req);
    if (!link->has_cache) {
        lua_createtable(L, 0, 4);
        lua_setfenv(L, req);
        link->has_cache = true;
    }
    lua_getfenv(L, req);
    lua_pushvalue(L, key);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

/* Pushes the kept value of the key at index `key`, or pushes nothing and returns false. */
static bool push_cached(lua_State *L, int req, int key)
{
    const struct call_link *link = lua_touserdata(L, req);
    if (!link->has_cache)
        return false;
    lua_getfenv(L, req);
    lua_pushvalue(L, key);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1))
        return true;
    lua_pop(L, 1);
    return false;
}

static void push_plain_field(lua_State *L, const struct call *call, enum field field)
{
    const struct http_request *req = call->req;
    if (field == F_METHOD)
        lua_pushstring(L, http_method_name(req->method));
    else if (field == F_PATH)
        lx_push_slice(L, req->path);
    else if (field == F_ID)
        lua_pushstring(L, req->id);
    else if (field == F_IP)
        lua_pushstring(L, req->ip);
    else if (field == F_ROUTE)
        lua_pushstring(L, req->route->pattern);
    else
        lua_pushnumber(L, (double)req->deadline_ms);
}

/* Stack: req, key → +1 */
static void push_computed_field(lua_State *L, struct call *call, enum field field)
{
    if (field == F_PARAMS)
        push_params(L, call->req);
    else if (field == F_QUERY)
        push_pairs(L, call, call->req->query, "bad_query");
    else if (field == F_HEADERS)
        push_headers(L, call);
    else if (field == F_COOKIES)
        push_cookies(L, call->req);
    else if (field == F_CTX)
        lua_newtable(L);
    else if (field == F_STEP)
        lx_misuse(L, "req:%s is for routes with idempotent = \"steps\"", lua_tostring(L, 2));
    else
        lua_pushnil(L);
    if (!lua_isnil(L, -1))
        cache_field(L, 1, 2);
}

/* __index. Upvalue 1: name → field number or method. Stack: req, key */
static int req_index(lua_State *L)
{
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (lua_type(L, -1) == LUA_TFUNCTION)
        return 1;
    int field = (int)lua_tointeger(L, -1);
    if (!field)
        lx_misuse(L, "req has no field \"%s\" (your own values go into req.ctx)", lua_tostring(L, 2));
    /* What was read before stays readable after the request, as by a loader that refreshes in the background. */
    if (field > F_LAST_PLAIN && push_cached(L, 1, 2))
        return 1;
    struct call *call = call_check_req(L, 1);
    if (field <= F_LAST_PLAIN)
        push_plain_field(L, call, (enum field)field);
    else
        push_computed_field(L, call, (enum field)field);
    return 1;
}

static int req_newindex(lua_State *L)
{
    lx_misuse(L, "req.%s cannot be set: your own values go into req.ctx", lua_tostring(L, 2));
    return 0;
}

/* put(req, name, value): the library's way to set params, query, json, user */
static int req_put(lua_State *L)
{
    call_check_req(L, 1);
    luaL_checkstring(L, 2);
    lua_settop(L, 3);
    cache_field(L, 1, 2);
    return 0;
}

/* ---- methods ---------------------------------------------------------------------------------------------- */

/* req:header(name) → string | nil: the first of that name */
static int req_header(lua_State *L)
{
    struct call *call = call_check_req(L, 1);
    struct slice value = http_request_header(call->req, lx_check_slice(L, 2));
    if (value.ptr)
        lx_push_slice(L, value);
    else
        lua_pushnil(L);
    return 1;
}

/* req:body() → string, byte-exact */
static int req_body(lua_State *L)
{
    lx_push_slice(L, call_check_req(L, 1)->req->body);
    return 1;
}

/* "application/json; charset=utf-8" → "application/json" */
static struct slice media_type(const struct http_request *req)
{
    struct slice type = http_request_header(req, SLICE("content-type"));
    const char *semi = type.len ? memchr(type.ptr, ';', type.len) : NULL;
    return semi ? slice_trim(slice_of(type.ptr, (size_t)(semi - type.ptr))) : type;
}

static bool is_json_type(struct slice type)
{
    struct slice suffix = SLICE("+json");
    return slice_ieq(type, SLICE("application/json")) ||
           (type.len > suffix.len && slice_ieq(slice_of(type.ptr + type.len - suffix.len, suffix.len), suffix));
}

/* req:json() → value. Raises 400 invalid_json, 415 unsupported_media_type. */
static int req_json(lua_State *L)
{
    struct call *call = call_check_req(L, 1);
    struct err err = {0};
    lua_settop(L, 1);
    lua_pushliteral(L, "json");
    if (push_cached(L, 1, 2))
        return 1;
    if (!is_json_type(media_type(call->req)))
        raise_problem(L, 415, "unsupported_media_type", "send JSON with Content-Type: application/json");
    if (lx_json_decode(L, call->req->body, &err) != OK)
        raise_problem(L, 400, "invalid_json", call->req->body.len ? err.message : "the body is empty");
    cache_field(L, 1, 2);
    return 1;
}

/* req:form() → table. Raises 400 bad_form, 415 unsupported_media_type. */
static int req_form(lua_State *L)
{
    struct call *call = call_check_req(L, 1);
    lua_settop(L, 1);
    lua_pushliteral(L, "form");
    if (push_cached(L, 1, 2))
        return 1;
    if (!slice_ieq(media_type(call->req), SLICE("application/x-www-form-urlencoded")))
        raise_problem(L, 415, "unsupported_media_type",
                      "send a form with Content-Type: application/x-www-form-urlencoded");
    push_pairs(L, call, call->req->body, "bad_form");
    cache_field(L, 1, 2);
    return 1;
}

int bind_req_open(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"header", req_header}, {"body", req_body}, {"json", req_json}, {"form", req_form}, {NULL, NULL},
    };
    static const struct {
        const char *name;
        enum field field;
    } fields[] = {
        {"method", F_METHOD},   {"path", F_PATH},         {"id", F_ID},         {"ip", F_IP},
        {"route", F_ROUTE},     {"deadline", F_DEADLINE}, {"params", F_PARAMS}, {"query", F_QUERY},
        {"headers", F_HEADERS}, {"cookies", F_COOKIES},   {"ctx", F_CTX},       {"user", F_USER},
        {"step", F_STEP},       {"derived_key", F_STEP},
    };
    lua_createtable(L, 0, 3); /* the metatable */
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        lua_pushinteger(L, fields[i].field);
        lua_setfield(L, -2, fields[i].name);
    }
    lua_pushcclosure(L, req_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, req_newindex);
    lua_setfield(L, -2, "__newindex");
    lua_pushliteral(L, "req");
    lua_setfield(L, -2, "__metatable");
    call_set_req_meta(L);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, req_put);
    lua_setfield(L, -2, "put");
    return 1;
}
