/* Between bind_redis.c and bind_redis_sub.c. Nobody else includes it. */
#pragma once

#include <lua.h>

/* Returns `false, err` when no Redis is configured: 2, else 0. */
int bind_redis_push_unconfigured(lua_State *L);
/* Adds its functions to the module on top. */
void bind_redis_sub_open(lua_State *L);
