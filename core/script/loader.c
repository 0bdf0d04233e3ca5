/* Where code comes from: the library's bytecode in this binary, the application's in the bundle, C modules in one
 * table. Runs lua/chowk/boot.lua, which replaces `require` on top of these. Private functions are handed to it as
 * chowk.core.vm; application code can reach none of them. */
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "script/co.h"
#include "script/embed.h"
#include "script/lx.h"
#include "script/vm_priv.h"

static const struct embed *find_embedded(const char *name)
{
    for (const struct embed *e = embed_modules; e->module; e++)
        if (strcmp(e->module, name) == 0)
            return e;
    return NULL;
}

/* embedded(name) → chunk | nil */
static int load_embedded(lua_State *L)
{
    const struct embed *e = find_embedded(luaL_checkstring(L, 1));
    if (!e)
        return 0;
    if (luaL_loadbufferx(L, (const char *)e->bytes, e->len, e->module, "b") != 0)
        return lua_error(L);
    return 1;
}

/* bundled(name) → chunk | nil */
static int load_bundled(lua_State *L)
{
    const struct bundle *bundle = vm_of(L)->bundle;
    struct slice name = lx_check_slice(L, 1), chunk, code = {0};
    if (bundle)
        code = bundle_find(bundle, name, &chunk);
    if (!code.ptr)
        return 0;
    lua_pushfstring(L, "@%s", lua_tostring(L, 1));
    if (luaL_loadbufferx(L, code.ptr, code.len, lua_tostring(L, -1), "b") != 0)
        return lua_error(L);
    return 1;
}

/* core(name) → module | nil: calls the C module's open function */
static int open_core(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    const struct vm_module *m = vm_of(L)->modules;
    while (m && m->name && strcmp(m->name, name) != 0)
        m++;
    if (!m || !m->name)
        return 0;
    lua_pushcfunction(L, m->open);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

/* check(): raises the sticky error of a cancelled activity */
static int check(lua_State *L)
{
    co_check(L);
    return 0;
}

/* is_main(thread) → boolean: an activity's own thread, not a user coroutine */
static int is_main(lua_State *L)
{
    lua_State *thread = lua_tothread(L, 1);
    lua_pushboolean(L, thread && co_is_main(thread));
    return 1;
}

/* is_parked(value) → boolean: the value that a parked call yields */
static int is_parked(lua_State *L)
{
    lua_pushboolean(L, co_is_sentinel(L, 1));
    return 1;
}

/* where() → "file:line: " of the nearest application frame, or "" */
static int where(lua_State *L)
{
    lx_push_where(L);
    return 1;
}

/* meta(kind) → the metatable that C knows that kind by; kind: "array" "err" "problem" "response" */
static int meta(lua_State *L)
{
    static const char *const names[] = {"array", "err", "problem", "response", NULL};
    static const enum lx_kind kinds[] = {LX_ARRAY, LX_ERR, LX_PROBLEM, LX_RESPONSE};
    lx_push_meta(L, kinds[luaL_checkoption(L, 1, NULL, names)]);
    return 1;
}

/* is_err(value) → boolean: a run-time failure, not an app.fail problem */
static int is_err(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_pushboolean(L, lx_kind_of(L, 1) == LX_ERR);
    return 1;
}

/* is_problem(value) → boolean: what app.fail raises */
static int is_problem(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_pushboolean(L, lx_kind_of(L, 1) == LX_PROBLEM);
    return 1;
}

/* is_loading() → boolean */
static int is_loading(lua_State *L)
{
    lua_pushboolean(L, vm_of(L)->is_loading);
    return 1;
}

void loader_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"embedded", load_embedded},
        {"bundled", load_bundled},
        {"core", open_core},
        {"check", check},
        {"is_main", is_main},
        {"is_parked", is_parked},
        {"where", where},
        {"is_loading", is_loading},
        {"note_trace", vm_note_trace},
        {"outward", co_park_outward},
        {"meta", meta},
        {"is_err", is_err},
        {"is_problem", is_problem},
        {NULL, NULL},
    };
    lua_pushcfunction(L, load_embedded);
    lua_pushliteral(L, "chowk.boot");
    lua_call(L, 1, 1);
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    lua_call(L, 1, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, LOADER_BOOT);
}
