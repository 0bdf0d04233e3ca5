/* Boundary of chowk.time: the clocks. Calendars and durations are in lua/chowk/time.lua. */
#include <lauxlib.h>

#include "base/clock.h"
#include "bind/modules.h"

static int unix_ms(lua_State *L)
{
    lua_pushnumber(L, (double)clock_wall_ms());
    return 1;
}

static int mono_ms(lua_State *L)
{
    lua_pushnumber(L, (double)clock_ms());
    return 1;
}

/* rfc3339(unix_ms) → "2026-11-23T06:19:16.123Z" */
static int rfc3339(lua_State *L)
{
    char text[CLOCK_RFC3339_LEN + 1];
    lua_Number ms = luaL_checknumber(L, 1);
    luaL_argcheck(L, ms >= 0 && ms < 253402300800000.0, 1, "not in the years 1970 to 9999");
    clock_rfc3339((int64_t)ms, text);
    lua_pushlstring(L, text, CLOCK_RFC3339_LEN);
    return 1;
}

int bind_time_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"unix_ms", unix_ms}, {"mono_ms", mono_ms}, {"rfc3339", rfc3339}, {NULL, NULL}};
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
