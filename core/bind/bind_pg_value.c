/* Results as Lua values, made in C in one pass (DESIGN 5's table of types, which is pg_show_scalar).
 *
 * A row is a table without its NULLs, under a metatable that knows the columns, so that it reads as nil and is still
 * written as null. These metatables are cached by the list of names: they are the same for every run of a statement. */
#include "bind/bind_pg.h"

#include <stdlib.h>

#include "bind/modules.h"
#include "script/lx.h"

#define META_CACHE "chowk.pg.row_meta"
#define MAX_COLUMNS 1664 /* PostgreSQL's own bound for a target list */

struct reader {
    lua_State *L;
    struct buf scratch;
    enum pg_type elem; /* of the array being read */
    int depth;
    int counts[8];
};

static void push_number(lua_State *L, struct slice text)
{
    char copy[64];
    size_t len = text.len < sizeof copy - 1 ? text.len : sizeof copy - 1;
    memcpy(copy, text.ptr, len);
    copy[len] = '\0';
    lua_pushnumber(L, strtod(copy, NULL));
}

/* What Lua cannot hold exactly (a number over 2^53 or with twenty digits, a json with a key twice) stays raw: nothing
 * is lost. */
static void push_json(lua_State *L, struct slice text)
{
    struct err err;
    int top = lua_gettop(L);
    if (pg_json_is_exact(text) && lx_json_decode(L, text, &err) == OK)
        return;
    lua_settop(L, top);
    lx_push_raw(L, text);
}

static void push_scalar(struct reader *r, enum pg_type type, struct slice text)
{
    struct slice out;
    switch (pg_show_scalar(type, text, &r->scratch, &out)) {
    case PG_SHOW_STRING:
        lx_push_slice(r->L, out);
        return;
    case PG_SHOW_NUMBER:
        push_number(r->L, out);
        return;
    case PG_SHOW_TRUE:
    case PG_SHOW_FALSE:
        lua_pushboolean(r->L, text.ptr[0] == 't');
        return;
    case PG_SHOW_JSON:
        push_json(r->L, out);
        return;
    }
}

/* ---- arrays ------------------------------------------------------------------------------------------------- */

static void on_begin(void *data)
{
    struct reader *r = data;
    lua_checkstack(r->L, 4);
    lua_newtable(r->L);
    lx_set_array_meta(r->L, -1);
    r->counts[++r->depth] = 0;
}

static void on_end(void *data) /* Stack: …, outer, inner */
{
    struct reader *r = data;
    if (--r->depth > 0)
        lua_rawseti(r->L, -2, ++r->counts[r->depth]);
}

static void on_item(void *data, bool is_null, struct slice text)
{
    struct reader *r = data;
    if (is_null)
        lua_pushlightuserdata(r->L, NULL); /* json.null: positions must hold */
    else
        push_scalar(r, r->elem, text);
    lua_rawseti(r->L, -2, ++r->counts[r->depth]);
}

static void push_array(struct reader *r, enum pg_type elem, struct slice text)
{
    static const struct pg_array_events events = {on_begin, on_end, on_item};
    int top = lua_gettop(r->L);
    r->elem = elem;
    r->depth = 0;
    if (pg_array_read(text, &events, r))
        return;
    lua_settop(r->L, top);
    lx_push_slice(r->L, text);
}

/* ---- rows --------------------------------------------------------------------------------------------------- */

/* Not for NULL. */
static void push_field(struct reader *r, const struct pg_column *column, struct slice text)
{
    if (column->type == PG_TEXT)
        lx_push_slice(r->L, text);
    else if (column->type == PG_ARRAY)
        push_array(r, column->elem, text);
    else
        push_scalar(r, column->type, text);
}

static void make_row_meta(lua_State *L, const struct pg_result *result, int n_cols)
{
    struct slice *names = xalloc((size_t)n_cols * sizeof *names + 1);
    for (int col = 0; col < n_cols; col++)
        names[col] = pg_result_column(result, col)->name;
    lx_push_row_meta(L, names, (size_t)n_cols);
    free(names);
}

/* Stack: → meta */
static void push_row_meta(lua_State *L, const struct pg_result *result, int n_cols, struct buf *scratch)
{
    buf_clear(scratch);
    for (int col = 0; col < n_cols; col++) {
        buf_slice(scratch, pg_result_column(result, col)->name);
        buf_byte(scratch, '\0');
    }
    lua_getfield(L, LUA_REGISTRYINDEX, META_CACHE);
    lx_push_slice(L, buf_as_slice(scratch));
    lua_pushvalue(L, -1);
    lua_rawget(L, -3); /* cache, key, meta | nil */
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        make_row_meta(L, result, n_cols);
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2); /* cache, key, meta, key, meta */
        lua_rawset(L, -5);
    }
    lua_replace(L, -3);
    lua_pop(L, 1);
}

/* Column names stand at stack slots names+1 …, the rows' metatable at names. Stack: → row */
static void push_row(struct reader *r, const struct pg_result *result, int row, int names)
{
    struct pg_row at = pg_result_row(result, row);
    int n_cols = pg_result_n_cols(result);
    lua_createtable(r->L, 0, n_cols);
    for (int col = 0; col < n_cols; col++) {
        struct slice text = pg_row_next(&at);
        if (!text.ptr)
            continue;
        lua_pushvalue(r->L, names + 1 + col);
        push_field(r, pg_result_column(result, col), text);
        lua_rawset(r->L, -3);
    }
    lua_pushvalue(r->L, names);
    lua_setmetatable(r->L, -2);
}

/* All rows as a list, or the first one alone. Stack: → list | row */
static void push_rows(struct reader *r, const struct pg_result *result, bool is_list)
{
    lua_State *L = r->L;
    int n_rows = pg_result_n_rows(result), n_cols = pg_result_n_cols(result), base = lua_gettop(L);
    lua_checkstack(L, n_cols + 16);
    push_row_meta(L, result, n_cols, &r->scratch);
    for (int col = 0; col < n_cols; col++)
        lx_push_slice(L, pg_result_column(result, col)->name);
    if (is_list) {
        lua_createtable(L, n_rows, 0);
        lx_set_array_meta(L, -1);
    }
    for (int row = 0; row < (is_list ? n_rows : 1); row++) {
        push_row(r, result, row, base + 1);
        if (is_list)
            lua_rawseti(L, -2, row + 1);
    }
    lua_replace(L, base + 1);
    lua_settop(L, base + 1);
}

static void push_raw(struct reader *r, const struct pg_result *result, bool is_list)
{
    struct buf *text = vm_text(vm_of(r->L));
    if (is_list)
        pg_result_json(result, text);
    else
        pg_result_json_row(result, 0, text);
    lx_push_raw(r->L, buf_as_slice(text));
}

static void push_value(struct reader *r, const struct pg_result *result)
{
    struct slice text = pg_result_value(result, 0, 0);
    if (!text.ptr)
        lua_pushnil(r->L);
    else
        push_field(r, pg_result_column(result, 0), text);
}

void bind_pg_push(lua_State *L, const struct pg_result *result, enum bind_pg_shape shape)
{
    struct reader r = {.L = L};
    bool is_empty = pg_result_n_rows(result) == 0 || pg_result_n_cols(result) == 0;
    CHECK(pg_result_n_cols(result) <= MAX_COLUMNS);
    lua_checkstack(L, 16);
    if (shape == PG_SHAPE_EXEC)
        lua_pushnumber(L, (lua_Number)pg_result_affected(result));
    else if (shape == PG_SHAPE_JSON || shape == PG_SHAPE_ROWS)
        shape == PG_SHAPE_JSON ? push_raw(&r, result, true) : push_rows(&r, result, true);
    else if (is_empty)
        lua_pushnil(L);
    else if (shape == PG_SHAPE_JSON_ONE)
        push_raw(&r, result, false);
    else if (shape == PG_SHAPE_ONE)
        push_rows(&r, result, false);
    else
        push_value(&r, result);
    buf_free(&r.scratch);
}

enum bind_pg_shape bind_pg_check_shape(lua_State *L, int arg)
{
    int shape = (int)luaL_checkinteger(L, arg);
    luaL_argcheck(L, shape >= 0 && shape < PG_N_SHAPES, arg, "a shape");
    return (enum bind_pg_shape)shape;
}
