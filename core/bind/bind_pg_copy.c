/* chowk.core.pg, COPY: a handle around struct pg_copy, and the bytes of rows that are not worth a write yet. */
#include "bind/bind_pg.h"

#include "bind/modules.h"
#include "data/pg_copy.h"
#include "script/lx.h"

#define COPY_META "chowk.pg.copy"
#define WRITE_AT (32 * 1024) /* bytes of rows that make a write */

struct handle {
    struct vm_owned owned;
    struct co_leftover leftover;
    struct pg_copy *copy; /* NULL: closed */
    struct co *co;        /* who waits */
    struct buf rows;
    size_t n_whole; /* bytes of rows that are whole: a misuse may have left half a row behind them */
    bool is_plain, is_reading, is_ending;
};

static struct handle *check_handle(lua_State *L)
{
    struct handle *handle = luaL_checkudata(L, 1, COPY_META);
    if (!handle->copy)
        lx_misuse(L, "this COPY has ended: use its writer only inside the function given to pg.copy_in");
    if (handle->co)
        lx_misuse(L, "another activity writes to this COPY");
    handle->rows.len = handle->n_whole;
    return handle;
}

static int push_failure(lua_State *L, const struct err *err)
{
    lua_pushboolean(L, 0);
    lx_push_err(L, err);
    return 2;
}

/* What a read that does not wait gives. Stack: → true, text | true, nil, n_rows | false, err; 0: it waits */
static int try_read(lua_State *L, struct handle *handle, uint64_t deadline_ms)
{
    struct err err;
    bool is_end;
    struct buf *text = vm_text(vm_of(L));
    enum status rc = pg_copy_read(handle->copy, text, &is_end, deadline_ms, &err);
    if (rc == AGAIN)
        return 0;
    if (rc == ERR)
        return push_failure(L, &err);
    lua_pushboolean(L, 1);
    if (!is_end) {
        lx_push_slice(L, buf_as_slice(text));
        return 2;
    }
    lua_pushnil(L);
    lua_pushnumber(L, (lua_Number)pg_copy_n_rows(handle->copy));
    return 3;
}

static void on_done(void *data, const struct err *err)
{
    struct handle *handle = data;
    struct co *co = handle->co;
    lua_State *L = co_stack(co);
    lua_checkstack(L, 8);
    int n = 0;
    if (!err && handle->is_reading) {
        n = try_read(L, handle, co_deadline(co));
        if (n == 0)
            return; /* part of a row: it waits on */
    } else if (err) {
        n = push_failure(L, err);
    } else {
        lua_pushboolean(L, 1);
        lua_pushnumber(L, (lua_Number)pg_copy_n_rows(handle->copy));
        n = 2;
    }
    handle->co = NULL;
    co_wake(co, n);
}

static void cancel_wait(struct co *co UNUSED, void *data)
{
    struct handle *handle = data;
    handle->co = NULL;
    if (handle->copy)
        pg_copy_cancel_wait(handle->copy);
}

/* copy_open(sql, is_out) → handle. Does not yield; copy_wait does. */
static int copy_open(lua_State *L)
{
    struct slice sql = lx_check_slice(L, 1);
    bool is_out = lua_toboolean(L, 2), is_plain;
    co_current(L); /* not while loading */
    bind_pg_refuse_in_tx(L);
    if (pg_copy_classify(sql, &is_plain) != (is_out ? PG_COPY_OUT : PG_COPY_IN))
        lx_misuse(L, is_out ? "pg.copy_out: expected one statement, COPY … TO STDOUT"
                            : "pg.copy_in: expected one statement, COPY … FROM STDIN");
    if (!vm_env(vm_of(L))->pg) {
        bind_pg_push_unconfigured(L);
        return lua_error(L);
    }
    struct handle *handle = lua_newuserdata(L, sizeof *handle);
    *handle = (struct handle){.is_plain = is_plain};
    luaL_getmetatable(L, COPY_META);
    lua_setmetatable(L, -2);
    return 1;
}

/* Its generation has ended. */
static void on_end(struct vm_owned *owned)
{
    struct handle *handle = container_of(owned, struct handle, owned);
    pg_copy_free(handle->copy);
    handle->copy = NULL;
    co_drop_leftover(&handle->leftover);
}

/* Its activity ended before it, as when pg.copy_in ran in a user's coroutine that was never resumed. */
static void on_left(struct co_leftover *leftover)
{
    struct handle *handle = container_of(leftover, struct handle, leftover);
    struct err err;
    vm_disown(&handle->owned);
    pg_copy_free(handle->copy);
    handle->copy = NULL;
    err_set(&err, ERR_CANCELLED, "the activity that began this COPY has ended");
    if (handle->co) /* another one writes */
        on_done(handle, &err);
}

/* copy_wait(handle, sql, is_out) → true | false, err: until the server is ready */
static int copy_wait(lua_State *L)
{
    struct handle *handle = luaL_checkudata(L, 1, COPY_META);
    struct pg_copy_opts opts = {.sql = lx_check_slice(L, 2), .is_out = lua_toboolean(L, 3), .done = on_done};
    CHECK(!handle->copy);
    struct co *co = bind_pg_begin(L, cancel_wait, handle);
    opts.deadline_ms = co_deadline(co);
    opts.data = handle;
    handle->copy = pg_copy_start(vm_env(vm_of(L))->pg, &opts);
    vm_own(L, &handle->owned, on_end);
    co_add_leftover(co, &handle->leftover, on_left);
    handle->co = co;
    return co_park(L);
}

/* Stack: → true | false, err. Yields while the server reads slower than we write. */
static int write_bytes(lua_State *L, struct handle *handle, struct slice bytes)
{
    struct err err;
    struct co *co = bind_pg_begin(L, cancel_wait, handle);
    enum status rc = pg_copy_write(handle->copy, bytes, co_deadline(co), &err);
    handle->rows.len = handle->n_whole = 0;
    if (rc == AGAIN) {
        handle->co = co;
        return co_park(L);
    }
    co_op_abort(co);
    if (rc == ERR)
        return push_failure(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

/* copy_row(handle, {value…}) → true | false, err. Yields now and then. */
static int copy_row(lua_State *L)
{
    struct handle *handle = check_handle(L);
    if (!handle->is_plain)
        lx_misuse(L, "pg.copy_in writes rows in COPY's own text format: leave CSV, BINARY, DELIMITER … away, or write "
                     "the bytes yourself with w:write");
    if (!lua_istable(L, 2))
        lx_misuse(L, "pg.copy_in: a row is a list of values, got %s", luaL_typename(L, 2));
    bind_pg_append_row(L, 2, pg_copy_n_columns(handle->copy), &handle->rows);
    handle->n_whole = handle->rows.len;
    if (handle->n_whole >= WRITE_AT)
        return write_bytes(L, handle, buf_as_slice(&handle->rows));
    lua_pushboolean(L, 1);
    return 1;
}

/* copy_write(handle, text) → true | false, err. Yields while the server reads slower than we write. */
static int copy_write(lua_State *L)
{
    struct handle *handle = check_handle(L);
    struct slice text = lx_check_slice(L, 2);
    if (handle->rows.len == 0)
        return write_bytes(L, handle, text);
    buf_slice(&handle->rows, text); /* behind the rows */
    return write_bytes(L, handle, buf_as_slice(&handle->rows));
}

/* copy_end(handle) → true, n_rows | false, err */
static int copy_end(lua_State *L)
{
    struct handle *handle = check_handle(L);
    struct err err;
    struct co *co = bind_pg_begin(L, cancel_wait, handle);
    enum status rc = OK;
    if (handle->rows.len)
        rc = pg_copy_write(handle->copy, buf_as_slice(&handle->rows), co_deadline(co), &err);
    handle->rows.len = handle->n_whole = 0;
    if (rc == ERR) {
        co_op_abort(co);
        return push_failure(L, &err);
    }
    if (rc == AGAIN) /* the end may follow at once: the last rows need no back-pressure */
        pg_copy_cancel_wait(handle->copy);
    co_mark_committed(co);
    pg_copy_end(handle->copy, co_deadline(co));
    handle->co = co;
    return co_park(L);
}

/* copy_read(handle) → true, text | true, nil, n_rows | false, err */
static int copy_read(lua_State *L)
{
    struct handle *handle = check_handle(L);
    struct co *co = bind_pg_begin(L, cancel_wait, handle);
    int n = try_read(L, handle, co_deadline(co));
    if (n > 0) {
        co_op_abort(co);
        return n;
    }
    handle->is_reading = true;
    handle->co = co;
    return co_park(L);
}

/* copy_close(handle): what is not over is given up. Does not yield. Also its __gc. */
static int copy_close(lua_State *L)
{
    struct handle *handle = luaL_checkudata(L, 1, COPY_META);
    if (handle->co)
        lx_misuse(L, "another activity writes to this COPY");
    vm_disown(&handle->owned);
    co_drop_leftover(&handle->leftover);
    pg_copy_free(handle->copy);
    handle->copy = NULL;
    buf_free(&handle->rows);
    return 0;
}

void bind_pg_open_copy(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"copy_open", copy_open},   {"copy_wait", copy_wait}, {"copy_row", copy_row},     {"copy_end", copy_end},
        {"copy_write", copy_write}, {"copy_read", copy_read}, {"copy_close", copy_close}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    lx_new_class(L, COPY_META);
    lua_pushcfunction(L, copy_close);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}
