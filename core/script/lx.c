/* Helpers over the Lua C API that every binding uses: slices, failure objects, raw JSON, positions for misuse.
 *
 * Kinds are recognised by metatable: slot 1 of each of ours holds the address of its tag, which Lua code can neither
 * read nor forge. Failures that the world causes are tables of kind LX_ERR, raised without a position; misuse by the
 * author is a string with his file and line. Nothing here waits, and nothing here knows of requests. */
#include "script/lx.h"

#include <stdio.h>

static const char tags[LX_N_KINDS]; /* only their addresses matter */

static void *tag_of(enum lx_kind kind)
{
    return (void *)(uintptr_t)&tags[kind];
}

enum lx_kind lx_kind_of(lua_State *L, int idx)
{
    if (!lua_getmetatable(L, idx))
        return LX_PLAIN;
    lua_rawgeti(L, -1, 1);
    const char *tag = lua_islightuserdata(L, -1) ? lua_touserdata(L, -1) : NULL;
    lua_pop(L, 2);
    bool ours = (uintptr_t)tag >= (uintptr_t)tags && (uintptr_t)tag < (uintptr_t)(tags + LX_N_KINDS);
    return ours ? (enum lx_kind)(tag - tags) : LX_PLAIN;
}

void lx_push_meta(lua_State *L, enum lx_kind kind)
{
    lua_pushlightuserdata(L, tag_of(kind));
    lua_rawget(L, LUA_REGISTRYINDEX);
}

/* Stack: → table { tag }, hidden from getmetatable and setmetatable */
static void push_new_meta(lua_State *L, enum lx_kind kind)
{
    lua_createtable(L, 1, 3);
    lua_pushlightuserdata(L, tag_of(kind));
    lua_rawseti(L, -2, 1);
    lua_pushliteral(L, "chowk");
    lua_setfield(L, -2, "__metatable");
}

static int err_tostring(lua_State *L)
{
    /* Stack: err */
    lua_getfield(L, 1, "code");
    lua_getfield(L, 1, "message");
    const char *code = lua_tostring(L, -2), *message = lua_tostring(L, -1);
    lua_pushfstring(L, "%s: %s", code ? code : "error", message ? message : "");
    return 1;
}

static int problem_tostring(lua_State *L)
{
    lua_getfield(L, 1, "status");
    lua_getfield(L, 1, "code");
    lua_getfield(L, 1, "detail");
    const char *code = lua_tostring(L, -2), *detail = lua_tostring(L, -1);
    lua_pushfstring(L, "%d %s%s%s", (int)lua_tointeger(L, -3), code ? code : "", detail ? ": " : "",
                    detail ? detail : "");
    return 1;
}

static int raw_tostring(lua_State *L)
{
    lua_pushlstring(L, lua_touserdata(L, 1), lua_objlen(L, 1));
    return 1;
}

void lx_open(lua_State *L)
{
    static const struct {
        enum lx_kind kind;
        lua_CFunction tostring;
    } metas[] = {{LX_ARRAY, NULL},
                 {LX_ERR, err_tostring},
                 {LX_PROBLEM, problem_tostring},
                 {LX_RESPONSE, NULL},
                 {LX_RAW, raw_tostring}};
    for (size_t i = 0; i < ARRAY_LEN(metas); i++) {
        lua_pushlightuserdata(L, tag_of(metas[i].kind));
        push_new_meta(L, metas[i].kind);
        if (metas[i].tostring) {
            lua_pushcfunction(L, metas[i].tostring);
            lua_setfield(L, -2, "__tostring");
        }
        lua_rawset(L, LUA_REGISTRYINDEX);
    }
}

struct slice lx_check_slice(lua_State *L, int arg)
{
    size_t len;
    const char *ptr = luaL_checklstring(L, arg, &len);
    return slice_of(ptr, len);
}

void lx_push_slice(lua_State *L, struct slice s)
{
    lua_pushlstring(L, s.ptr ? s.ptr : "", s.len);
}

bool lx_is_library(const char *source)
{
    return strncmp(source, "@lua/chowk/", 11) == 0;
}

void lx_push_where(lua_State *L)
{
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        if (!lua_getinfo(L, "Sl", &ar) || ar.currentline <= 0 || lx_is_library(ar.source))
            continue;
        lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
        return;
    }
    lua_pushliteral(L, "");
}

void lx_misuse(lua_State *L, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    lx_push_where(L);
    lua_pushstring(L, text);
    lua_concat(L, 2);
    lua_error(L);
    WRONG("lua_error returned");
}

void lx_push_err(lua_State *L, const struct err *err)
{
    lua_createtable(L, 0, 5);
    lua_pushstring(L, err_code_name(err->code));
    lua_setfield(L, -2, "code");
    lua_pushstring(L, err->message);
    lua_setfield(L, -2, "message");
    lua_pushboolean(L, err_is_retryable(err));
    lua_setfield(L, -2, "retryable");
    if (err->sqlstate[0]) {
        lua_pushstring(L, err->sqlstate);
        lua_setfield(L, -2, "sqlstate");
    }
    if (err->detail[0]) {
        lua_pushstring(L, err->detail);
        lua_setfield(L, -2, "detail");
    }
    lx_push_meta(L, LX_ERR);
    lua_setmetatable(L, -2);
}

/* Copies a string field into out, cut to fit. */
static void copy_field(lua_State *L, int idx, const char *name, char *out, size_t size)
{
    lua_getfield(L, idx, name);
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    snprintf(out, size, "%s", text);
    lua_pop(L, 1);
}

bool lx_to_err(lua_State *L, int idx, struct err *err)
{
    if (lx_kind_of(L, idx) != LX_ERR)
        return false;
    char code[32];
    *err = (struct err){.code = ERR_SYSTEM};
    copy_field(L, idx, "code", code, sizeof code);
    copy_field(L, idx, "message", err->message, sizeof err->message);
    copy_field(L, idx, "sqlstate", err->sqlstate, sizeof err->sqlstate);
    copy_field(L, idx, "detail", err->detail, sizeof err->detail);
    for (int c = ERR_NONE + 1; c < ERR_N_CODES; c++)
        if (strcmp(err_code_name((enum err_code)c), code) == 0)
            err->code = (enum err_code)c;
    return true;
}

bool lx_is_err(lua_State *L, int idx)
{
    enum lx_kind kind = lx_kind_of(L, idx);
    return kind == LX_ERR || kind == LX_PROBLEM;
}

const char *lx_to_text(lua_State *L, int idx)
{
    /* A foreign __tostring could raise, and nothing protects us here. */
    if (lx_is_err(L, idx) && luaL_callmeta(L, idx, "__tostring"))
        return lua_tostring(L, -1) ? lua_tostring(L, -1) : "error";
    lua_pushvalue(L, idx);
    return lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1)
                                          : lua_pushfstring(L, "(a %s was raised)", luaL_typename(L, -1));
}

void lx_push_raw(lua_State *L, struct slice json)
{
    void *bytes = lua_newuserdata(L, json.len);
    if (json.len)
        memcpy(bytes, json.ptr, json.len);
    lx_push_meta(L, LX_RAW);
    lua_setmetatable(L, -2);
}

bool lx_to_raw(lua_State *L, int idx, struct slice *json)
{
    if (lua_type(L, idx) != LUA_TUSERDATA || lx_kind_of(L, idx) != LX_RAW)
        return false;
    *json = slice_of(lua_touserdata(L, idx), lua_objlen(L, idx));
    return true;
}

bool lx_new_class(lua_State *L, const char *name)
{
    if (!luaL_newmetatable(L, name))
        return false;
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    return true;
}

void lx_push_row_meta(lua_State *L, const struct slice *names, size_t n_names)
{
    push_new_meta(L, LX_ROW);
    lua_createtable(L, (int)n_names, 0);
    for (size_t i = 0; i < n_names; i++) {
        lx_push_slice(L, names[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_setfield(L, -2, "__columns");
}

void lx_set_array_meta(lua_State *L, int idx)
{
    int at = idx < 0 && idx > LUA_REGISTRYINDEX ? lua_gettop(L) + idx + 1 : idx;
    lx_push_meta(L, LX_ARRAY);
    lua_setmetatable(L, at);
}
