/* What the files of bind_pg_* share. Private to them. */
#pragma once

#include <lauxlib.h>
#include <lua.h>

#include "base/arena.h"
#include "data/pg.h"
#include "script/co.h"

/* How a result becomes a Lua value; the facade passes these numbers. */
enum bind_pg_shape {
    PG_SHAPE_ROWS,     /* list of rows */
    PG_SHAPE_ONE,      /* first row or nil */
    PG_SHAPE_VALUE,    /* first column of the first row or nil */
    PG_SHAPE_EXEC,     /* affected count */
    PG_SHAPE_JSON,     /* raw JSON array */
    PG_SHAPE_JSON_ONE, /* raw JSON object or nil */
    PG_N_SHAPES
};

/* Stack: +1 */
void bind_pg_push(lua_State *L, const struct pg_result *result, enum bind_pg_shape shape);
enum bind_pg_shape bind_pg_check_shape(lua_State *L, int arg);

/* Reads the statement and its values: from the stack (slots from..top), or from a list {sql, …} at idx. What the call
 * points to lives as long as those values and the VM's scratch arena, which the caller has emptied. Raises misuse. */
void bind_pg_read_stack(lua_State *L, int from, struct arena *arena, struct pg_call *call);
void bind_pg_read_list(lua_State *L, int idx, struct arena *arena, struct pg_call *call);
/* Appends the list at idx (absolute) as one row of COPY's text format. Raises misuse; borrows the scratch arena. */
void bind_pg_append_row(lua_State *L, int idx, int n_columns, struct buf *out);
/* All of a list of such lists; none is a misuse. */
struct pg_call *bind_pg_read_lists(lua_State *L, int idx, struct arena *arena, int *n_calls);
int bind_pg_array(lua_State *L); /* array(list, type?) → parameter */
int bind_pg_jsonb(lua_State *L); /* jsonb(value) → parameter */
int bind_pg_bytea(lua_State *L); /* bytea(bytes) → parameter */

/* Wakes with `true, value`, or with `false, err`. `result` may be NULL without an error: then `true`. */
void bind_pg_wake(struct co *co, const struct pg_result *result, enum bind_pg_shape shape, const struct err *err);
/* By shape, so that a pending call needs no memory of its own: data is the co. */
extern void (*const bind_pg_done[PG_N_SHAPES])(void *data, const struct pg_result *result, const struct err *err);
/* co_op_begin, for a call to PostgreSQL. */
struct co *bind_pg_begin(lua_State *L, co_cancel_fn cancel, void *data);
void bind_pg_cancel(struct co *co, void *op);

/* `where` is 0: the primary, 1: a replica if one is fit, 2: the primary for a read only. PostgreSQL is configured. */
struct pg *bind_pg_pool_for(lua_State *L, int where);
struct pg_tx *bind_pg_check_tx(lua_State *L, int arg); /* of an open transaction's handle; raises */
void bind_pg_push_unconfigured(lua_State *L);          /* the failure. Stack: +1 */
/* The pool must not be used beside an open transaction: it could wait for a lock the transaction holds (T5). */
void bind_pg_refuse_in_tx(lua_State *L);

/* Each adds its functions to the table on top. */
void bind_pg_open_tx(lua_State *L);
void bind_pg_open_listen(lua_State *L);
void bind_pg_open_copy(lua_State *L);
void bind_pg_open_page(lua_State *L);
