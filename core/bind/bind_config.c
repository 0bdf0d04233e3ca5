/* Boundary of chowk.config: the effective configuration as one table. */
#include <lauxlib.h>

#include "bind/modules.h"
#include "script/lx.h"

/* read() → table of "section.key" → value, and "settings" → table */
static int read_config(lua_State *L)
{
    struct err err = {0};
    const struct env *env = vm_env(vm_of(L));
    if (env->config_json.len == 0)
        lua_newtable(L);
    else if (lx_json_decode(L, env->config_json, &err) != OK)
        return luaL_error(L, "configuration: %s", err.message);
    return 1;
}

/* is_development() → boolean */
static int is_development(lua_State *L)
{
    lua_pushboolean(L, vm_env(vm_of(L))->development);
    return 1;
}

/* is_degraded() → boolean: some worker is in a crash loop */
static int is_degraded(lua_State *L)
{
    const struct env *env = vm_env(vm_of(L));
    lua_pushboolean(L, env->n_failed && *env->n_failed > 0);
    return 1;
}

/* is_stopping() → boolean: a stop has begun (lame duck or drain) */
static int is_stopping(lua_State *L)
{
    lua_pushboolean(L, vm_env(vm_of(L))->is_stopping);
    return 1;
}

int bind_config_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"is_degraded", is_degraded},
                                         {"read", read_config},
                                         {"is_development", is_development},
                                         {"is_stopping", is_stopping},
                                         {NULL, NULL}};
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
