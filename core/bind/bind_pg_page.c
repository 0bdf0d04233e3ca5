/* chowk.core.pg, pages: runs a statement of lua/chowk/pg_page.lua, and makes its rows into one raw JSON value. */
#include "bind/bind_pg.h"

#include <stdlib.h>

#include "bind/modules.h"
#include "data/pg_page.h"
#include "script/lx.h"

struct pending {
    struct co *co;
    struct pg_op *op;
    struct pg_page page;
    char bytes[]; /* what the page's slices point to */
};

static struct slice keep(char **room, struct slice s)
{
    char *start = *room;
    memcpy(start, s.ptr, s.len);
    *room += s.len;
    return slice_of(start, s.len);
}

static struct pending *pending_new(const struct pg_page *page)
{
    struct pending *pending = xalloc(sizeof *pending + page->by.len + page->hide.len + page->tag.len + 1);
    char *room = pending->bytes;
    pending->page.limit = page->limit;
    pending->page.by = keep(&room, page->by);
    pending->page.hide = keep(&room, page->hide);
    pending->page.tag = keep(&room, page->tag);
    return pending;
}

static void on_done(void *data, const struct pg_result *result, const struct err *err)
{
    struct pending *pending = data;
    struct co *co = pending->co;
    lua_State *L = co_stack(co);
    struct buf *text = vm_text(vm_of(L));
    struct err why = {0};
    lua_checkstack(L, 4);
    if (err)
        why = *err;
    else if (pg_page_write(result, &pending->page, text, &why) == OK)
        why.code = ERR_NONE;
    free(pending);
    lua_pushboolean(L, why.code == ERR_NONE);
    if (why.code == ERR_NONE)
        lx_push_raw(L, buf_as_slice(text));
    else
        lx_push_err(L, &why);
    co_wake(co, 2);
}

static void cancel(struct co *co UNUSED, void *data)
{
    struct pending *pending = data;
    if (!pending)
        return;
    pg_op_cancel(pending->op);
    free(pending);
}

/* page(where | tx handle, by, hide, limit, tag, sql, …) → true, raw | false, err. by, hide: names, each with a zero
 * byte behind it */
static int page(lua_State *L)
{
    bool is_tx = lua_type(L, 1) == LUA_TUSERDATA;
    struct pg_tx *tx = is_tx ? bind_pg_check_tx(L, 1) : NULL;
    int where = is_tx ? 0 : (int)luaL_checkinteger(L, 1);
    struct pg_page page = {.by = lx_check_slice(L, 2),
                           .hide = lx_check_slice(L, 3),
                           .limit = (int)luaL_checkinteger(L, 4),
                           .tag = lx_check_slice(L, 5)};
    struct pg_call call = {.must_read = where != 0};
    if (!is_tx)
        bind_pg_refuse_in_tx(L);
    bind_pg_read_stack(L, 6, vm_scratch(vm_of(L)), &call);
    if (!is_tx && !vm_env(vm_of(L))->pg) {
        lua_pushboolean(L, 0);
        bind_pg_push_unconfigured(L);
        return 2;
    }
    struct co *co = bind_pg_begin(L, cancel, NULL);
    struct pending *pending = pending_new(&page);
    pending->co = co;
    call.deadline_ms = co_deadline(co);
    call.waited_us = co_waits(co, HTTP_WAIT_PG_QUEUE);
    call.done = on_done;
    call.data = pending;
    pending->op = is_tx ? pg_tx_query(tx, &call) : pg_query(bind_pg_pool_for(L, where), &call);
    if (!is_tx && pg_op_may_write(pending->op))
        co_mark_committed(co);
    co_op_set_data(co, pending);
    return co_park(L);
}

/* cursor_read(cursor, tag, n) → list of n texts, or nil if it is none of this list */
static int cursor_read(lua_State *L)
{
    struct slice values[PG_PAGE_MAX_KEYS];
    struct slice cursor = lx_check_slice(L, 1), tag = lx_check_slice(L, 2);
    lua_Integer n = luaL_checkinteger(L, 3);
    luaL_argcheck(L, n >= 1 && n <= PG_PAGE_MAX_KEYS, 3, "a number of keys");
    if (!pg_cursor_read(cursor, tag, values, (size_t)n, vm_text(vm_of(L))))
        return 0;
    lua_createtable(L, (int)n, 0);
    for (int i = 0; i < (int)n; i++) {
        lx_push_slice(L, values[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* count_params(sql) → the highest $n */
static int count_params(lua_State *L)
{
    lua_pushinteger(L, pg_page_n_params(lx_check_slice(L, 1)));
    return 1;
}

void bind_pg_open_page(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"page", page}, {"cursor_read", cursor_read}, {"count_params", count_params}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
