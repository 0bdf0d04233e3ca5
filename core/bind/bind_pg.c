/* chowk.core.pg: autocommit statements, for lua/chowk/pg.lua. Every call parks and ends with `true, result` or
 * `false, err` for the facade's `settle`. Arguments are made into bytes before anything starts. */
#include "bind/bind_pg.h"

#include <stdlib.h>

#include "base/clock.h"
#include "bind/modules.h"
#include "data/pg_replica.h"
#include "script/lx.h"

void bind_pg_wake(struct co *co, const struct pg_result *result, enum bind_pg_shape shape, const struct err *err)
{
    lua_State *L = co_stack(co);
    lua_checkstack(L, 8);
    lua_pushboolean(L, err == NULL);
    if (err)
        lx_push_err(L, err);
    else if (result)
        bind_pg_push(L, result, shape);
    co_wake(co, err || result ? 2 : 1);
}

static void done_rows(void *co, const struct pg_result *result, const struct err *err)
{
    bind_pg_wake(co, result, PG_SHAPE_ROWS, err);
}
static void done_one(void *co, const struct pg_result *result, const struct err *err)
{
    bind_pg_wake(co, result, PG_SHAPE_ONE, err);
}
static void done_value(void *co, const struct pg_result *result, const struct err *err)
{
    bind_pg_wake(co, result, PG_SHAPE_VALUE, err);
}
static void done_exec(void *co, const struct pg_result *result, const struct err *err)
{
    bind_pg_wake(co, result, PG_SHAPE_EXEC, err);
}
static void done_json(void *co, const struct pg_result *result, const struct err *err)
{
    bind_pg_wake(co, result, PG_SHAPE_JSON, err);
}
static void done_json_one(void *co, const struct pg_result *result, const struct err *err)
{
    bind_pg_wake(co, result, PG_SHAPE_JSON_ONE, err);
}

void (*const bind_pg_done[PG_N_SHAPES])(void *data, const struct pg_result *result, const struct err *err) = {
    [PG_SHAPE_ROWS] = done_rows, [PG_SHAPE_ONE] = done_one,   [PG_SHAPE_VALUE] = done_value,
    [PG_SHAPE_EXEC] = done_exec, [PG_SHAPE_JSON] = done_json, [PG_SHAPE_JSON_ONE] = done_json_one,
};

void bind_pg_cancel(struct co *co, void *op)
{
    if (!op)
        return;
    enum err_code outcome = pg_op_outcome(op);
    if (outcome)
        co_set_unknown(co, outcome);
    pg_op_cancel(op);
}

struct co *bind_pg_begin(lua_State *L, co_cancel_fn cancel, void *data)
{
    struct co *co = co_op_begin(L, cancel, data);
    co_op_waits_for(co, HTTP_WAIT_PG);
    return co;
}

void bind_pg_refuse_in_tx(lua_State *L)
{
    if (co_tx(co_current(L)))
        lx_misuse(
            L, "a transaction is open: write tx:query, tx:exec, tx:enqueue … on it; the pool could wait for its locks");
}

void bind_pg_push_unconfigured(lua_State *L)
{
    struct err err = {0};
    (void)err_set(&err, ERR_UNAVAILABLE,
                  "PostgreSQL is not configured: set pg.url, or DATABASE_URL "
                  "(chowk dev starts one where there is a migrations/)");
    lx_push_err(L, &err);
}

/* Returns `false, err` when no PostgreSQL is configured: 2, else 0. */
static int push_unconfigured(lua_State *L)
{
    if (vm_env(vm_of(L))->pg)
        return 0;
    lua_pushboolean(L, 0);
    bind_pg_push_unconfigured(L);
    return 2;
}

enum where { ANYTHING, ON_REPLICA };

struct pg *bind_pg_pool_for(lua_State *L, int where)
{
    const struct env *env = vm_env(vm_of(L));
    return where == ON_REPLICA && env->replicas ? pg_replicas_pick(env->replicas) : env->pg;
}

/* query(where, shape, sql, …) → true, value | false, err */
static int query(lua_State *L)
{
    int where = (int)luaL_checkinteger(L, 1);
    enum bind_pg_shape shape = bind_pg_check_shape(L, 2);
    struct pg_call call = {.must_read = where != ANYTHING};
    bind_pg_refuse_in_tx(L);
    bind_pg_read_stack(L, 3, vm_scratch(vm_of(L)), &call);
    int n = push_unconfigured(L);
    if (n > 0)
        return n;
    struct co *co = bind_pg_begin(L, bind_pg_cancel, NULL);
    call.deadline_ms = co_deadline(co);
    call.waited_us = co_waits(co, HTTP_WAIT_PG_QUEUE);
    call.done = bind_pg_done[shape];
    call.data = co;
    struct pg_op *op = pg_query(bind_pg_pool_for(L, where), &call);
    if (pg_op_may_write(op))
        co_mark_committed(co);
    co_op_set_data(co, op);
    return co_park(L);
}

/* ---- several at once ---------------------------------------------------------------------------------------- */

struct many_item {
    struct many *many;
    struct pg_op *op; /* NULL: done */
    int index;
};
struct many {
    struct co *co;
    int n_items, n_pending, ref_results;
    struct err *err; /* the first failure; owned */
    struct many_item items[];
};

static void many_free(struct many *many, lua_State *L)
{
    luaL_unref(L, LUA_REGISTRYINDEX, many->ref_results);
    free(many->err);
    free(many);
}

static void on_item_done(void *data, const struct pg_result *result, const struct err *err)
{
    struct many_item *item = data;
    struct many *many = item->many;
    struct co *co = many->co;
    lua_State *L = co_stack(co);
    item->op = NULL;
    lua_checkstack(L, 8);
    if (err && !many->err) {
        many->err = xalloc(sizeof *many->err);
        *many->err = *err;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, many->ref_results);
    if (result) {
        bind_pg_push(L, result, PG_SHAPE_ROWS);
        lua_rawseti(L, -2, item->index);
    }
    if (--many->n_pending > 0) {
        lua_pop(L, 1);
        return;
    }
    lua_pushboolean(L, !many->err);
    lua_insert(L, -2); /* ok, results */
    if (many->err) {
        lua_pop(L, 1);
        lx_push_err(L, many->err);
    }
    many_free(many, L);
    co_wake(co, 2);
}

static void cancel_many(struct co *co, void *data)
{
    struct many *many = data;
    for (int i = 0; many && i < many->n_items; i++)
        bind_pg_cancel(co, many->items[i].op);
    if (many)
        many_free(many, co_stack(co));
}

/* all(where, { {sql, …}, … }) → true, {rows, …} | false, err. Each its own statement, all in flight together. */
static int all(lua_State *L)
{
    int n = 0;
    int where = (int)luaL_checkinteger(L, 1);
    bind_pg_refuse_in_tx(L);
    struct pg_call *calls = bind_pg_read_lists(L, 2, vm_scratch(vm_of(L)), &n);
    int n_unconfigured = push_unconfigured(L);
    if (n_unconfigured > 0)
        return n_unconfigured;
    struct co *co = bind_pg_begin(L, cancel_many, NULL);
    lua_createtable(L, n, 0);
    lx_set_array_meta(L, -1);
    int ref_results = luaL_ref(L, LUA_REGISTRYINDEX);
    struct many *many = xalloc(sizeof *many + (size_t)n * sizeof many->items[0]);
    *many = (struct many){.co = co, .n_items = n, .n_pending = n, .ref_results = ref_results};
    co_op_set_data(co, many);
    struct pg *pg = bind_pg_pool_for(L, where);
    for (int i = 0; i < n; i++) {
        many->items[i] = (struct many_item){.many = many, .index = i + 1};
        calls[i].deadline_ms = co_deadline(co);
        calls[i].waited_us = i == 0 ? co_waits(co, HTTP_WAIT_PG_QUEUE) : NULL; /* they wait side by side */
        calls[i].must_read = where != ANYTHING;
        calls[i].done = on_item_done;
        calls[i].data = &many->items[i];
        many->items[i].op = pg_query(pg, &calls[i]);
        if (pg_op_may_write(many->items[i].op))
            co_mark_committed(co);
    }
    return co_park(L);
}

/* stats() → {open, idle, in_flight, waiting, queries, errors, reconnects, waits = {[1] = calls that waited under 1 ms,
 * [2] under 2 ms, [3] under 4 ms, …}} of this worker, or nil: none configured */
static int stats(lua_State *L)
{
    if (!vm_env(vm_of(L))->pg)
        return 0;
    struct pg_stats now;
    pg_stats(vm_env(vm_of(L))->pg, &now);
    const struct {
        const char *name;
        double value;
    } fields[] = {{"open", now.open},
                  {"idle", now.idle},
                  {"in_flight", now.in_flight},
                  {"waiting", now.waiting},
                  {"queries", (double)now.queries},
                  {"errors", (double)now.errors},
                  {"reconnects", (double)now.reconnects}};
    lua_createtable(L, 0, (int)ARRAY_LEN(fields) + 1);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        lua_pushnumber(L, fields[i].value);
        lua_setfield(L, -2, fields[i].name);
    }
    lua_createtable(L, PG_WAIT_BUCKETS, 0);
    for (int i = 0; i < PG_WAIT_BUCKETS; i++) {
        lua_pushnumber(L, (double)now.waits[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "waits");
    return 1;
}

/* jitter(attempt) → seconds to wait before a transaction runs again: 0 … 10 ms · 2^attempt */
static int jitter(lua_State *L)
{
    int attempt = (int)luaL_checkinteger(L, 1);
    uint64_t limit_us = UINT64_C(10000) << (attempt < 6 ? attempt : 6);
    lua_pushnumber(L, (double)(clock_us() * UINT64_C(0x9e3779b97f4a7c15) % limit_us) / 1e6);
    return 1;
}

int bind_pg_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"query", query},         {"all", all},       {"array", bind_pg_array}, {"jsonb", bind_pg_jsonb},
        {"bytea", bind_pg_bytea}, {"jitter", jitter}, {"stats", stats},         {NULL, NULL}};
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "chowk.pg.row_meta");
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    bind_pg_open_tx(L);
    bind_pg_open_listen(L);
    bind_pg_open_copy(L);
    bind_pg_open_page(L);
    return 1;
}
