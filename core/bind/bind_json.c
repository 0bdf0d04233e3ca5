/* Boundary of chowk.json over script/lx.h and base/json.h. */
#include <lauxlib.h>

#include "base/json.h"
#include "bind/modules.h"
#include "script/lx.h"

static int fail(lua_State *L, const struct err *err)
{
    lx_push_err(L, err);
    return lua_error(L);
}

/* encode(value) → string; raises invalid */
static int encode(lua_State *L)
{
    struct err err = {0};
    luaL_checkany(L, 1);
    struct buf *buf = vm_text(vm_of(L));
    if (lx_json_encode(L, 1, buf, &err) != OK)
        return fail(L, &err);
    lx_push_slice(L, buf_as_slice(buf));
    return 1;
}

/* decode(text) → value; raises invalid */
static int decode(lua_State *L)
{
    struct err err = {0};
    if (lx_json_decode(L, lx_check_slice(L, 1), &err) != OK)
        return fail(L, &err);
    return 1;
}

/* raw(text) → raw JSON; raises invalid if it is not JSON */
static int raw(lua_State *L)
{
    static const struct json_events none;
    struct err err;
    struct slice text = lx_check_slice(L, 1);
    struct arena *arena = vm_scratch(vm_of(L));
    enum status rc = json_read(text, NULL, &none, NULL, arena, &err);
    arena_destroy(arena);
    if (rc != OK)
        return fail(L, &err);
    lx_push_raw(L, text);
    return 1;
}

/* array(table?) → the table, marked: it is written as an array even when empty */
static int array(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lx_set_array_meta(L, 1);
    return 1;
}

static int is_array(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_pushboolean(L, lx_kind_of(L, 1) == LX_ARRAY);
    return 1;
}

int bind_json_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"encode", encode}, {"decode", decode}, {"raw", raw}, {"array", array}, {"is_array", is_array}, {NULL, NULL},
    };
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
