/* The one ordered table of C modules behind lua/chowk. A new binding is one line in modules.c. */
#pragma once

#include <lua.h>

#include "script/vm.h"

extern const struct vm_module bind_modules[];

/* Each returns its module on the stack; the facade of the same name in lua/chowk is its only user.
 *
 * They run while code is loaded, which at a reload is another thread than the loop's (TRAPS T7). So: an open function,
 * and whatever works while loading, reads env and touches nothing else of the process; what waits, starts or opens
 * refuses first (co_current). A userdata that holds something of the loop is vm_own'ed, not left to its __gc. */
int bind_app_open(lua_State *L);
int bind_req_open(lua_State *L);
int bind_json_open(lua_State *L);
int bind_log_open(lua_State *L);
int bind_time_open(lua_State *L);
int bind_config_open(lua_State *L);
int bind_crypto_open(lua_State *L);
int bind_razorpay_open(lua_State *L);
int bind_task_open(lua_State *L);
int bind_pg_open(lua_State *L);
int bind_redis_open(lua_State *L);
int bind_seq_open(lua_State *L);
int bind_jobs_open(lua_State *L);
int bind_limit_open(lua_State *L);
int bind_cache_open(lua_State *L);
int bind_idempotency_open(lua_State *L);
int bind_http_open(lua_State *L);
int bind_mail_open(lua_State *L);
