/* Lua values as bind parameters, in PostgreSQL's text format. Numbers are written by us, exactly (T15); a bare table is
 * refused, because only its author knows whether it is an array or a jsonb. */
#include "bind/bind_pg.h"

#include <math.h>
#include <stdio.h>

#include "base/crypto.h"
#include "bind/modules.h"
#include "script/lx.h"

#define PARAM_META "chowk.pg.param" /* registry: metatable of what array and jsonb return, {text} */
#define MAX_PARAMS 65535            /* the protocol's */
#define MAX_CALLS 1000              /* of one list */

/* 2^53 and above a double is an integer anyway, and %.17g says which. */
static int format_number(double number, char *out, size_t size)
{
    if (isnan(number))
        return snprintf(out, size, "NaN");
    if (isinf(number))
        return snprintf(out, size, number > 0 ? "Infinity" : "-Infinity");
    if (number == floor(number) && fabs(number) < 1e15)
        return snprintf(out, size, "%.0f", number == 0 ? 0.0 : number);
    return snprintf(out, size, "%.17g", number);
}

static bool is_param(lua_State *L, int idx)
{
    if (!lua_istable(L, idx) || !lua_getmetatable(L, idx))
        return false;
    lua_getfield(L, LUA_REGISTRYINDEX, PARAM_META);
    bool is_same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is_same;
}

NORETURN static void refuse_value(lua_State *L, int idx, int i_param)
{
    if (lua_istable(L, idx))
        lx_misuse(L, "parameter $%d is a table: write pg.jsonb(t), or pg.array(t, type)", i_param);
    lx_misuse(L, "parameter $%d is a %s: expected nil, a boolean, a number, a string, pg.array or pg.jsonb", i_param,
              luaL_typename(L, idx));
}

static struct pg_param text_param(lua_State *L, int idx, int i_param)
{
    struct slice text = lx_check_slice(L, idx);
    if (memchr(text.ptr, 0, text.len))
        lx_misuse(L, "parameter $%d has a zero byte, which no PostgreSQL text may have", i_param);
    return (struct pg_param){text.ptr};
}

/* The value at idx (absolute). Strings are borrowed from it. */
static struct pg_param read_param(lua_State *L, int idx, int i_param, struct arena *arena)
{
    struct slice raw;
    switch (lua_type(L, idx)) {
    case LUA_TNIL:
    case LUA_TNONE:
        return (struct pg_param){NULL};
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, idx) == NULL) /* pg.null */
            return (struct pg_param){NULL};
        break;
    case LUA_TBOOLEAN:
        return (struct pg_param){lua_toboolean(L, idx) ? "true" : "false"};
    case LUA_TNUMBER: {
        char *text = arena_alloc(arena, 40);
        format_number(lua_tonumber(L, idx), text, 40);
        return (struct pg_param){text};
    }
    case LUA_TSTRING:
        return text_param(L, idx, i_param);
    case LUA_TUSERDATA:
        if (lx_to_raw(L, idx, &raw))
            return (struct pg_param){arena_copy(arena, raw).ptr};
        break;
    default:
        if (is_param(L, idx)) {
            lua_rawgeti(L, idx, 1);
            struct pg_param param = text_param(L, -1, i_param); /* the table keeps it */
            lua_pop(L, 1);
            return param;
        }
    }
    refuse_value(L, idx, i_param);
}

static struct slice read_sql(lua_State *L, int idx)
{
    if (lua_type(L, idx) != LUA_TSTRING)
        lx_misuse(L, "expected a statement, a string, got %s", luaL_typename(L, idx));
    return lx_check_slice(L, idx);
}

void bind_pg_read_stack(lua_State *L, int from, struct arena *arena, struct pg_call *call)
{
    int n = lua_gettop(L) - from;
    call->sql = read_sql(L, from);
    if (n > MAX_PARAMS)
        lx_misuse(L, "more than %d parameters: write pg.array", MAX_PARAMS);
    struct pg_param *params = n > 0 ? arena_alloc(arena, (size_t)n * sizeof *params) : NULL;
    for (int i = 0; i < n; i++)
        params[i] = read_param(L, from + 1 + i, i + 1, arena);
    call->params = params;
    call->n_params = n > 0 ? n : 0;
}

void bind_pg_read_list(lua_State *L, int idx, struct arena *arena, struct pg_call *call)
{
    int n = (int)lua_objlen(L, idx) - 1;
    lua_rawgeti(L, idx, 1);
    call->sql = read_sql(L, lua_gettop(L)); /* the list keeps it */
    lua_pop(L, 1);
    if (n > MAX_PARAMS)
        lx_misuse(L, "more than %d parameters: write pg.array", MAX_PARAMS);
    struct pg_param *params = n > 0 ? arena_alloc(arena, (size_t)n * sizeof *params) : NULL;
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, idx, i + 2);
        if (lua_isnil(L, -1))
            lx_misuse(L, "a list of values has a hole at $%d: write pg.null", i + 1);
        params[i] = read_param(L, lua_gettop(L), i + 1, arena);
        lua_pop(L, 1);
    }
    call->params = params;
    call->n_params = n > 0 ? n : 0;
}

struct pg_call *bind_pg_read_lists(lua_State *L, int idx, struct arena *arena, int *n_calls)
{
    int n = lua_istable(L, idx) ? (int)lua_objlen(L, idx) : 0;
    if (n < 1 || n > MAX_CALLS)
        lx_misuse(L, "expected a list of 1 to %d statements: { {sql, …}, {sql, …} }", MAX_CALLS);
    struct pg_call *calls = arena_zalloc(arena, (size_t)n * sizeof *calls);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, idx, i + 1);
        if (!lua_istable(L, -1))
            lx_misuse(L, "statement %d of the list is a %s: expected {sql, …}", i + 1, luaL_typename(L, -1));
        bind_pg_read_list(L, lua_gettop(L), arena, &calls[i]);
        lua_pop(L, 1);
    }
    *n_calls = n;
    return calls;
}

/* ---- rows of COPY -------------------------------------------------------------------------------------------- */

static void append_copy_text(struct buf *out, const char *text)
{
    static const char shorts[] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\v'] = 'v', ['\f'] = 'f', ['\r'] = 'r'};
    for (;;) {
        size_t n = strcspn(text, "\b\t\n\v\f\r\\");
        buf_append(out, text, n);
        text += n;
        if (!*text)
            return;
        buf_byte(out, '\\');
        buf_byte(out, *text == '\\' ? '\\' : shorts[(unsigned char)*text]);
        text++;
    }
}

void bind_pg_append_row(lua_State *L, int idx, int n_columns, struct buf *out)
{
    struct arena *arena = vm_scratch(vm_of(L));
    lua_rawgeti(L, idx, n_columns + 1);
    if (!lua_isnil(L, -1))
        lx_misuse(L, "pg.copy_in: a row has more than the %d columns of the statement", n_columns);
    lua_pop(L, 1);
    for (int i = 1; i <= n_columns; i++) {
        lua_rawgeti(L, idx, i);
        struct pg_param param = read_param(L, lua_gettop(L), i, arena);
        if (i > 1)
            buf_byte(out, '\t');
        if (param.text)
            append_copy_text(out, param.text);
        else
            buf_lit(out, "\\N");
        lua_pop(L, 1);
    }
    buf_byte(out, '\n');
}

/* ---- pg.array, pg.jsonb, pg.bytea ----------------------------------------------------------------------------------
 */

/* Stack: → {text} */
static int push_param(lua_State *L, const struct buf *text)
{
    lua_createtable(L, 1, 0);
    lx_push_slice(L, buf_as_slice(text));
    lua_rawseti(L, -2, 1);
    lx_new_class(L, PARAM_META);
    lua_setmetatable(L, -2);
    return 1;
}

static void append_quoted(struct buf *out, struct slice text)
{
    buf_byte(out, '"');
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '"' || text.ptr[i] == '\\')
            buf_byte(out, '\\');
        buf_byte(out, text.ptr[i]);
    }
    buf_byte(out, '"');
}

/* A table among the items: a nested array, or JSON if the array's type is. */
static void append_array(lua_State *L, int idx, bool is_json, int depth, struct buf *out);

static void append_json(lua_State *L, struct buf *out)
{
    struct buf json = {0};
    struct err err;
    enum status rc = lx_json_encode(L, -1, &json, &err);
    if (rc == OK)
        append_quoted(out, buf_as_slice(&json));
    buf_free(&json);
    if (rc != OK)
        lx_misuse(L, "pg.array: %s", err.message);
}

static void append_param(lua_State *L, struct buf *out) /* of pg.bytea, pg.jsonb */
{
    lua_rawgeti(L, -1, 1);
    append_quoted(out, lx_check_slice(L, -1));
    lua_pop(L, 1);
}

static void append_item(lua_State *L, int i, bool is_json, int depth, struct buf *out) /* Stack: …, item */
{
    char number[40];
    struct slice raw;
    bool is_null = lua_islightuserdata(L, -1) && lua_touserdata(L, -1) == NULL;
    if (is_null)
        buf_lit(out, "NULL");
    else if (lx_to_raw(L, -1, &raw))
        append_quoted(out, raw);
    else if (is_param(L, lua_gettop(L)))
        append_param(L, out);
    else if (is_json)
        append_json(L, out);
    else if (lua_type(L, -1) == LUA_TSTRING)
        append_quoted(out, lx_check_slice(L, -1));
    else if (lua_type(L, -1) == LUA_TNUMBER)
        buf_append(out, number, (size_t)format_number(lua_tonumber(L, -1), number, sizeof number));
    else if (lua_isboolean(L, -1))
        buf_byte(out, lua_toboolean(L, -1) ? 't' : 'f');
    else if (lua_istable(L, -1))
        append_array(L, lua_gettop(L), is_json, depth + 1, out);
    else
        lx_misuse(L, "pg.array: item %d is a %s%s", i, luaL_typename(L, -1), lua_isnil(L, -1) ? ": write pg.null" : "");
}

static void append_array(lua_State *L, int idx, bool is_json, int depth, struct buf *out)
{
    enum { MAX_DIMENSIONS = 6 };
    if (depth > MAX_DIMENSIONS)
        lx_misuse(L, "pg.array: more than %d dimensions", MAX_DIMENSIONS);
    luaL_checkstack(L, 4, "pg.array");
    buf_byte(out, '{');
    int n = (int)lua_objlen(L, idx);
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            buf_byte(out, ',');
        lua_rawgeti(L, idx, i);
        append_item(L, i, is_json, depth, out);
        lua_pop(L, 1);
    }
    buf_byte(out, '}');
}

/* array(list, type | nil) → parameter */
int bind_pg_array(lua_State *L)
{
    if (!lua_istable(L, 1))
        lx_misuse(L, "pg.array: expected a list, got %s", luaL_typename(L, 1));
    const char *type = luaL_optstring(L, 2, "");
    struct buf *out = vm_text(vm_of(L));
    append_array(L, 1, strcmp(type, "json") == 0 || strcmp(type, "jsonb") == 0, 1, out);
    return push_param(L, out);
}

/* jsonb(value) → parameter */
int bind_pg_jsonb(lua_State *L)
{
    luaL_checkany(L, 1);
    struct err err;
    lua_settop(L, 1);
    struct buf *out = vm_text(vm_of(L));
    if (lx_json_encode(L, 1, out, &err) != OK)
        lx_misuse(L, "pg.jsonb: %s", err.message);
    return push_param(L, out);
}

/* bytea(bytes) → parameter */
int bind_pg_bytea(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TSTRING)
        lx_misuse(L, "pg.bytea: expected a string of bytes, got %s", luaL_typename(L, 1));
    struct slice bytes = lx_check_slice(L, 1);
    struct buf *out = vm_text(vm_of(L));
    buf_lit(out, "\\x");
    crypto_hex(bytes, buf_reserve(out, 2 * bytes.len));
    out->len += 2 * bytes.len;
    return push_param(L, out);
}
