/* Our helpers over the Lua C API. Stack pictures at each. */
#pragma once

#include <lauxlib.h>
#include <lua.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

/* Kinds of table and userdata that C recognises by metatable. */
enum lx_kind { LX_PLAIN, LX_ARRAY, LX_ROW, LX_ERR, LX_PROBLEM, LX_RESPONSE, LX_RAW, LX_N_KINDS };
/* As luaL_newmetatable, and hidden: getmetatable(object) in an application must not give it the library's own tables.
 * True: it is new. Stack: +1 */
bool lx_new_class(lua_State *L, const char *name);
void lx_open(lua_State *L); /* once per lua_State: makes the metatables */
enum lx_kind lx_kind_of(lua_State *L, int idx);
void lx_push_meta(lua_State *L, enum lx_kind kind); /* not LX_PLAIN, LX_ROW. Stack: +1 */
/* "lua/store/routes/orders.lua:42: " of the nearest application frame, or "" (also for misuse). Stack: +1 */
void lx_push_where(lua_State *L);
bool lx_is_library(const char *source); /* lua_Debug's source is a file of lua/chowk */
/* Raises a misuse: a string with the application's file:line. */
NORETURN void lx_misuse(lua_State *L, const char *fmt, ...) PRINTF_LIKE(2, 3);

struct slice lx_check_slice(lua_State *L, int arg); /* string argument; borrowed while it is on the stack */
void lx_push_slice(lua_State *L, struct slice s);

/* Pushes the run-time failure as Lua sees it: error{code, message, retryable, sqlstate?}, with the metatable that
 * `try`, tostring and the answer table know. */
void lx_push_err(lua_State *L, const struct err *err);
/* The other way; false if it is something else. */
bool lx_to_err(lua_State *L, int idx, struct err *err);
/* If the value at idx is such a failure (or an app.fail problem), true. */
bool lx_is_err(lua_State *L, int idx);

/* Text of any error value for people: strings as they are, tostring of the rest. Borrowed; pushes it. Stack: +1 */
const char *lx_to_text(lua_State *L, int idx);

/* Raw JSON: its own type (userdata "chowk.raw"), bytes inside; goes out as it is, anywhere in a table. */
void lx_push_raw(lua_State *L, struct slice json);
bool lx_to_raw(lua_State *L, int idx, struct slice *json); /* false if it is something else */

/* Value at idx as JSON. Tables: json.array{} and sequences are arrays; an empty plain table is {}; a row (metatable
 * with
 * __columns = {names…}) is an object with every column, missing ones null; json.null (the NULL lightuserdata) is null.
 * Errors (ERR_INVALID, with the path: "items[3].price: NaN"): functions, mixed keys, cycles (depth 64), NaN. */
enum status lx_json_encode(lua_State *L, int idx, struct buf *buf, struct err *err) MUST_CHECK;
/* Strict (base/json.h); pushes the value. Empty arrays come back as json.array{}; null as json.null. */
enum status lx_json_decode(lua_State *L, struct slice text, struct err *err) MUST_CHECK;
/* The same for cached values: a null member of an object reads as nil, and is still written as null, as in a row. */
enum status lx_json_decode_row(lua_State *L, struct slice text, struct err *err) MUST_CHECK;
/* Rows: pushes the metatable for rows with these columns (cached by the caller). Stack: +1 */
void lx_push_row_meta(lua_State *L, const struct slice *names, size_t n_names);
void lx_set_array_meta(lua_State *L, int idx); /* marks the table at idx as json.array */
