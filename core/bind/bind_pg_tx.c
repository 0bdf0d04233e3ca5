/* chowk.core.pg, transactions: a handle around struct pg_tx, and what parks on it. The life of a transaction
 * (begin, run, commit or roll back, run again) is lua/chowk/pg.lua's; here is only that a handle which ended says so,
 * and that one which is dropped rolls back; and that a job's
 * commits only while the job is still its own. */
#include "bind/bind_pg.h"

#include "bind/bind_jobs.h"
#include "bind/modules.h"
#include "script/lx.h"

#define TX_META "chowk.pg.tx"

struct handle {
    struct pg_tx *tx; /* NULL: ended */
    struct co *co;    /* the activity that began it; it ends no later, see on_left */
    struct co_leftover leftover;
    bool is_read_only;
    bool is_final; /* its commit completes the job */
};

static struct handle *check_handle(lua_State *L, int arg)
{
    struct handle *handle = luaL_checkudata(L, arg, TX_META);
    if (!handle->tx)
        lx_misuse(L, "this transaction has ended: use tx only inside the function given to pg.tx");
    return handle;
}

struct pg_tx *bind_pg_check_tx(lua_State *L, int arg)
{
    return check_handle(L, arg)->tx;
}

/* The guard of T5 goes with it. */
static struct pg_tx *handle_end(struct handle *handle)
{
    struct pg_tx *tx = handle->tx;
    co_set_tx(handle->co, NULL);
    co_drop_leftover(&handle->leftover);
    *handle = (struct handle){0};
    return tx;
}

/* Its activity ended before it, as when pg.tx ran in a user's coroutine that was never resumed. */
static void on_left(struct co_leftover *leftover)
{
    pg_tx_rollback(handle_end(container_of(leftover, struct handle, leftover)));
}

/* begin(isolation, read_only, lock_timeout_ms, is_final) → handle. isolation: 0, 1, 2 as enum pg_isolation */
static int begin(lua_State *L)
{
    struct pg_tx_opts opts = {.isolation = (enum pg_isolation)luaL_checkinteger(L, 1),
                              .read_only = lua_toboolean(L, 2),
                              .lock_timeout_ms = (uint32_t)luaL_checknumber(L, 3)};
    struct co *co = co_current(L);
    co_check(L);
    if (co_tx(co))
        lx_misuse(L, "pg.tx inside a transaction: pass tx on, or write tx:savepoint(function() … end)");
    if (!vm_env(vm_of(L))->pg) {
        bind_pg_push_unconfigured(L);
        return lua_error(L);
    }
    opts.deadline_ms = co_deadline(co);
    struct handle *handle = lua_newuserdata(L, sizeof *handle);
    *handle = (struct handle){0};
    luaL_getmetatable(L, TX_META);
    lua_setmetatable(L, -2);
    handle->tx = pg_tx_begin(vm_env(vm_of(L))->pg, &opts);
    handle->co = co;
    handle->is_read_only = opts.read_only;
    handle->is_final = lua_toboolean(L, 4);
    co_set_tx(co, handle->tx);
    co_add_leftover(co, &handle->leftover, on_left);
    return 1;
}

/* tx_query(handle, shape, sql, …) → true, value | false, err */
static int tx_query(lua_State *L)
{
    struct handle *handle = check_handle(L, 1);
    enum bind_pg_shape shape = bind_pg_check_shape(L, 2);
    struct pg_call call = {0};
    bind_pg_read_stack(L, 3, vm_scratch(vm_of(L)), &call);
    struct co *co = bind_pg_begin(L, bind_pg_cancel, NULL);
    call.deadline_ms = co_deadline(co);
    call.waited_us = co_waits(co, HTTP_WAIT_PG_QUEUE);
    call.done = bind_pg_done[shape];
    call.data = co;
    co_op_set_data(co, pg_tx_query(handle->tx, &call));
    return co_park(L);
}

static void wake_all(struct co *co, const struct pg_result *const *results, int n_results, const struct err *err)
{
    lua_State *L = co_stack(co);
    lua_checkstack(L, 8);
    lua_pushboolean(L, err == NULL);
    if (err) {
        lx_push_err(L, err);
    } else {
        lua_createtable(L, n_results, 0);
        lx_set_array_meta(L, -1);
        for (int i = 0; i < n_results; i++) {
            bind_pg_push(L, results[i], PG_SHAPE_ROWS);
            lua_rawseti(L, -2, i + 1);
        }
    }
    co_wake(co, 2);
}

static void on_all(void *data, const struct pg_result *const *results, int n_results, const struct err *err)
{
    wake_all(data, results, n_results, err);
}

/* ---- the fence of a job -------------------------------------------------------------------------------------- */

/* A transaction of a job carries the job's fence in the Sync group of its COMMIT, which is skipped when that refuses.
 */
static struct job *fenced_job(lua_State *L, const struct handle *handle)
{
    return handle->is_read_only ? NULL : bind_jobs_running(L);
}

/* The fence's own result is nobody's business. */
static void on_fenced(void *data, const struct pg_result *const *results, int n_results, const struct err *err)
{
    struct err lost;
    if (err && strcmp(err->sqlstate, JOB_LEASE_LOST) == 0) {
        lost = *err;
        lost.code = ERR_LEASE_LOST;
        err = &lost;
    }
    wake_all(data, results, err ? 0 : n_results - 1, err);
}

static void on_final(void *data, const struct pg_result *const *results, int n_results, const struct err *err)
{
    struct job *job = bind_jobs_of(data);
    if (job)
        job_final_done(job, err == NULL);
    on_fenced(data, results, n_results, err);
}

/* COMMIT behind the calls and the fence. The handle ends. */
static struct pg_op *commit_fenced(lua_State *L, struct handle *handle, const struct pg_call *calls, int n_calls,
                                   struct arena *arena)
{
    struct job *job = bind_jobs_running(L);
    struct co *co = co_current(L);
    bool is_final = handle->is_final;
    struct pg_call *all = arena_alloc(arena, ((size_t)n_calls + 1) * sizeof *all);
    if (n_calls > 0)
        memcpy(all, calls, (size_t)n_calls * sizeof *all);
    all[n_calls] = job_sql(job, is_final, arena);
    all[0].deadline_ms = co_deadline(co); /* of the whole group */
    return pg_tx_query_all(handle_end(handle), all, n_calls + 1, true, is_final ? on_final : on_fenced, co);
}

/* tx_all(handle, { {sql, …}, … }, commit) → true, {rows, …} | false, err. With commit the handle ends. */
static int tx_all(lua_State *L)
{
    struct handle *handle = check_handle(L, 1);
    bool commit = lua_toboolean(L, 3);
    int n = 0;
    struct arena *arena = vm_scratch(vm_of(L));
    struct pg_call *calls = bind_pg_read_lists(L, 2, arena, &n);
    struct co *co = bind_pg_begin(L, bind_pg_cancel, NULL);
    for (int i = 0; i < n; i++)
        calls[i].deadline_ms = co_deadline(co);
    if (n > 0)
        calls[0].waited_us = co_waits(co, HTTP_WAIT_PG_QUEUE);
    if (commit)
        co_mark_committed(co);
    if (commit && fenced_job(L, handle)) {
        co_op_set_data(co, commit_fenced(L, handle, calls, n, arena));
        return co_park(L);
    }
    struct pg_tx *tx = commit ? handle_end(handle) : handle->tx;
    co_op_set_data(co, pg_tx_query_all(tx, calls, n, commit, on_all, co));
    return co_park(L);
}

static void on_control(void *data, const struct err *err)
{
    bind_pg_wake(data, NULL, PG_SHAPE_EXEC, err);
}

/* commit(handle) → true | false, err. The handle ends. */
static int commit_tx(lua_State *L)
{
    struct handle *handle = check_handle(L, 1);
    struct co *co = bind_pg_begin(L, bind_pg_cancel, NULL);
    co_mark_committed(co);
    if (fenced_job(L, handle) && (handle->is_final || pg_tx_is_used(handle->tx)))
        co_op_set_data(co, commit_fenced(L, handle, NULL, 0, vm_scratch(vm_of(L))));
    else
        co_op_set_data(co, pg_tx_commit(handle_end(handle), on_control, co));
    return co_park(L);
}

static void on_sent(void *data UNUSED, const struct pg_result *result UNUSED, const struct err *err UNUSED) {}

/* A savepoint that could not be set or released has failed the transaction: the next statement says so. */
static void on_ignored(void *data UNUSED, const struct err *err UNUSED) {}

/* send(handle, sql, …): goes out with the next statement and is not waited for; if it fails, so do those behind it. */
static int send_statement(lua_State *L)
{
    struct handle *handle = check_handle(L, 1);
    struct pg_call call = {0};
    bind_pg_read_stack(L, 2, vm_scratch(vm_of(L)), &call);
    co_check(L);
    call.deadline_ms = co_deadline(co_current(L));
    call.done = on_sent;
    pg_tx_query(handle->tx, &call);
    return 0;
}

/* savepoint(handle, what, number) → true | false, err. what: 0, 1, 2 as enum pg_savepoint. Only an undo waits: the
 * others travel with what follows. */
static int savepoint(lua_State *L)
{
    struct handle *handle = check_handle(L, 1);
    enum pg_savepoint what = (enum pg_savepoint)luaL_checkinteger(L, 2);
    unsigned number = (unsigned)luaL_checkinteger(L, 3);
    struct co *co = bind_pg_begin(L, bind_pg_cancel, NULL);
    if (what != PG_SAVEPOINT_UNDO) {
        pg_tx_savepoint(handle->tx, what, number, on_ignored, NULL);
        co_op_abort(co);
        lua_pushboolean(L, 1);
        return 1;
    }
    co_op_set_data(co, pg_tx_savepoint(handle->tx, what, number, on_control, co));
    return co_park(L);
}

/* rollback(handle): does not yield; nothing to do if it has ended. Also its __gc. */
static int rollback(lua_State *L)
{
    struct handle *handle = luaL_checkudata(L, 1, TX_META);
    if (handle->tx)
        pg_tx_rollback(handle_end(handle));
    return 0;
}

/* is_open(handle) → boolean */
static int is_open(lua_State *L)
{
    struct handle *handle = luaL_checkudata(L, 1, TX_META);
    lua_pushboolean(L, handle->tx != NULL);
    return 1;
}

void bind_pg_open_tx(lua_State *L)
{
    static const luaL_Reg functions[] = {{"begin", begin},       {"tx_query", tx_query},   {"tx_all", tx_all},
                                         {"commit", commit_tx},  {"send", send_statement}, {"savepoint", savepoint},
                                         {"rollback", rollback}, {"is_open", is_open},     {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    lx_new_class(L, TX_META);
    lua_pushcfunction(L, rollback);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}
