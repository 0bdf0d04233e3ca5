/* Lua values to JSON text and back. Encoding appends to a buf and never raises, so that nothing leaks; a failure names
 * its path ("items[3].price: NaN"). Decoding is json_read's events turned into pushes.
 *
 * Which table is an array: marked ones, and those with a length. A sequence in order costs one lua_next per item, the
 * same walk that proves there is no other key; anything else takes the slow path, which counts first. */
#include <math.h>
#include <stdio.h>

#include "base/json.h"
#include "script/lx.h"
#include "script/vm.h"

#define MAX_DEPTH 64
#define EXACT_INT 1e15 /* integers below it are written without the double formatter */

struct enc {
    lua_State *L;
    struct buf *buf;
    const char *what; /* of the failure */
    char path[192];   /* of the failure, grown at the front while unwinding */
};

static enum status enc_value(struct enc *e, int depth);

static enum status enc_fail(struct enc *e, const char *what)
{
    e->what = what;
    return ERR;
}

static enum status add_path(struct enc *e, const char *segment)
{
    char old[sizeof e->path];
    memcpy(old, e->path, sizeof old);
    const char *dot = old[0] && old[0] != '[' ? "." : "";
    int n = snprintf(e->path, sizeof e->path, "%s%s%.100s", segment, dot, old);
    (void)n; /* a path too long is cut: it is for people */
    return ERR;
}

static enum status fail_at_index(struct enc *e, size_t index)
{
    char segment[32];
    snprintf(segment, sizeof segment, "[%zu]", index);
    return add_path(e, segment);
}

static enum status fail_at_key(struct enc *e, struct slice key)
{
    char segment[64];
    snprintf(segment, sizeof segment, "%.*s", (int)(key.len > 60 ? 60 : key.len), key.ptr);
    return add_path(e, segment);
}

static enum status enc_number(struct enc *e, double value)
{
    if (value > -EXACT_INT && value < EXACT_INT && value == (double)(int64_t)value) {
        buf_int(e->buf, (int64_t)value);
        return OK;
    }
    if (json_write_number(e->buf, value) == OK)
        return OK;
    return enc_fail(e, isnan(value) ? "NaN has no JSON form" : "infinity has no JSON form");
}

/* Sparse or unordered: proves that the keys are 1..n, then writes by index. Stack: table */
static enum status enc_array_slowly(struct enc *e, size_t n, int depth)
{
    lua_State *L = e->L;
    size_t n_keys = 0;
    for (lua_pushnil(L); lua_next(L, -2); n_keys++) {
        double key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
        if (key < 1 || key > (double)n || key != (double)(size_t)key) {
            lua_pop(L, 2);
            return enc_fail(e, "a table is an array or an object, not both (keys are mixed, or there are holes)");
        }
        lua_pop(L, 1);
    }
    if (n_keys != n)
        return enc_fail(e, "an array has holes: use json.null");
    for (size_t i = 1; i <= n; i++) {
        if (i > 1)
            buf_byte(e->buf, ',');
        lua_rawgeti(L, -1, (int)i);
        enum status rc = enc_value(e, depth);
        lua_pop(L, 1);
        if (rc != OK)
            return fail_at_index(e, i);
    }
    return OK;
}

/* Stack: table */
static enum status enc_array(struct enc *e, int depth)
{
    lua_State *L = e->L;
    size_t start = e->buf->len, i = 0;
    buf_byte(e->buf, '[');
    for (lua_pushnil(L); lua_next(L, -2);) {
        if (lua_type(L, -2) != LUA_TNUMBER || lua_tonumber(L, -2) != (double)(i + 1)) {
            lua_pop(L, 2);
            e->buf->len = start + 1;
            if (enc_array_slowly(e, lua_objlen(L, -1), depth) != OK)
                return ERR;
            break;
        }
        if (i++)
            buf_byte(e->buf, ',');
        enum status rc = enc_value(e, depth);
        lua_pop(L, 1);
        if (rc != OK) {
            lua_pop(L, 1);
            return fail_at_index(e, i);
        }
    }
    buf_byte(e->buf, ']');
    return OK;
}

/* Stack: …, key, value: writes the member, pops the value. */
static enum status enc_member(struct enc *e, bool *is_first, int depth)
{
    lua_State *L = e->L;
    struct slice key;
    key.ptr = lua_tolstring(L, -2, &key.len);
    if (!*is_first)
        buf_byte(e->buf, ',');
    *is_first = false;
    json_write_string(e->buf, key);
    buf_byte(e->buf, ':');
    enum status rc = enc_value(e, depth);
    lua_pop(L, 1);
    return rc == OK ? OK : fail_at_key(e, key);
}

/* Stack: table */
static enum status enc_object(struct enc *e, int depth)
{
    lua_State *L = e->L;
    bool is_first = true;
    buf_byte(e->buf, '{');
    for (lua_pushnil(L); lua_next(L, -2);) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            lua_pop(L, 2);
            return enc_fail(e, "an object's keys must be strings");
        }
        if (enc_member(e, &is_first, depth) != OK) {
            lua_pop(L, 1);
            return ERR;
        }
    }
    buf_byte(e->buf, '}');
    return OK;
}

static bool is_column(lua_State *L, int columns, size_t n_columns)
{
    /* Stack: …, key, value */
    for (size_t c = 1; c <= n_columns; c++) {
        lua_rawgeti(L, columns, (int)c);
        bool same = lua_rawequal(L, -1, -3);
        lua_pop(L, 1);
        if (same)
            return true;
    }
    return false;
}

/* Members that the author added to a row. Stack: row at `row`, columns at row + 1 */
static enum status enc_row_extras(struct enc *e, int row, size_t n_columns, bool is_first, int depth)
{
    lua_State *L = e->L;
    for (lua_pushnil(L); lua_next(L, row);) {
        if (lua_type(L, -2) != LUA_TSTRING)
            return enc_fail(e, "an object's keys must be strings");
        if (is_column(L, row + 1, n_columns))
            lua_pop(L, 1);
        else if (enc_member(e, &is_first, depth) != OK)
            return ERR;
    }
    return OK;
}

/* A row: every column in order, missing ones null. Stack: row */
static enum status enc_row(struct enc *e, int depth)
{
    lua_State *L = e->L;
    int row = lua_gettop(L);
    lua_getmetatable(L, row);
    lua_getfield(L, -1, "__columns");
    lua_remove(L, -2); /* Stack: row, columns */
    size_t n_columns = lua_objlen(L, -1);
    bool is_first = true;
    enum status rc = OK;
    buf_byte(e->buf, '{');
    for (size_t c = 1; c <= n_columns && rc == OK; c++) {
        lua_rawgeti(L, row + 1, (int)c);
        lua_pushvalue(L, -1);
        lua_rawget(L, row);
        rc = enc_member(e, &is_first, depth);
        lua_pop(L, 1);
    }
    if (rc == OK)
        rc = enc_row_extras(e, row, n_columns, is_first, depth);
    buf_byte(e->buf, '}');
    lua_settop(L, row);
    return rc;
}

static enum status enc_table(struct enc *e, int depth)
{
    if (depth >= MAX_DEPTH)
        return enc_fail(e, "nested deeper than 64 levels (a cycle?)");
    if (!lua_checkstack(e->L, 8))
        return enc_fail(e, "out of stack");
    switch (lx_kind_of(e->L, -1)) {
    case LX_ROW:
        return enc_row(e, depth + 1);
    case LX_ARRAY:
        return enc_array(e, depth + 1);
    case LX_ERR:
    case LX_PROBLEM:
        return enc_fail(e, "a failure is not data: raise it with error()");
    case LX_RESPONSE:
        return enc_fail(e, "a response (app.empty, app.redirect, app.stream) is returned alone, not inside a table");
    case LX_PLAIN:
    case LX_RAW:
    case LX_N_KINDS:
        break;
    }
    return lua_objlen(e->L, -1) > 0 ? enc_array(e, depth + 1) : enc_object(e, depth + 1);
}

/* Stack: value (stays) */
static enum status enc_value(struct enc *e, int depth)
{
    lua_State *L = e->L;
    struct slice s;
    switch (lua_type(L, -1)) {
    case LUA_TNIL:
        buf_lit(e->buf, "null");
        return OK;
    case LUA_TBOOLEAN:
        buf_slice(e->buf, lua_toboolean(L, -1) ? SLICE("true") : SLICE("false"));
        return OK;
    case LUA_TNUMBER:
        return enc_number(e, lua_tonumber(L, -1));
    case LUA_TSTRING:
        s.ptr = lua_tolstring(L, -1, &s.len);
        json_write_string(e->buf, s);
        return OK;
    case LUA_TTABLE:
        return enc_table(e, depth);
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, -1))
            return enc_fail(e, "a light userdata has no JSON form");
        buf_lit(e->buf, "null");
        return OK;
    case LUA_TUSERDATA:
        if (!lx_to_raw(L, -1, &s))
            return enc_fail(e, "a userdata has no JSON form");
        buf_slice(e->buf, s);
        return OK;
    default:
        return enc_fail(e, lua_type(L, -1) == LUA_TFUNCTION ? "a function has no JSON form"
                                                            : "a coroutine or cdata has no JSON form");
    }
}

enum status lx_json_encode(lua_State *L, int idx, struct buf *buf, struct err *err)
{
    struct enc e = {.L = L, .buf = buf, .what = ""};
    int top = lua_gettop(L);
    size_t start = buf->len;
    if (!lua_checkstack(L, 8))
        return err_set(err, ERR_INVALID, "out of stack");
    lua_pushvalue(L, idx);
    enum status rc = enc_value(&e, 0);
    lua_settop(L, top);
    if (rc == OK)
        return OK;
    buf->len = start;
    return err_set(err, ERR_INVALID, "%s%s%s", e.path, e.path[0] ? ": " : "", e.what);
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

#define IN_OBJECT SIZE_MAX
struct dec {
    lua_State *L;
    int depth;
    size_t n_items[MAX_DEPTH + 1]; /* of the array at each depth, or IN_OBJECT */
    struct arena *arena;
    bool hides_nulls;
    struct null_name *nulls[MAX_DEPTH + 1]; /* of the object at each depth, if they are hidden */
};

struct null_name {
    struct slice name;
    struct null_name *next;
};

/* Stack: …, table, value → …, table   or   …, table, key, value → …, table; a lone value stays */
static bool add_value(struct dec *d)
{
    if (d->depth == 0)
        return true;
    size_t *n = &d->n_items[d->depth];
    if (*n == IN_OBJECT)
        lua_rawset(d->L, -3);
    else
        lua_rawseti(d->L, -2, (int)++*n);
    return true;
}

/* Stack: …, table, key → …, table */
static bool hide_null(struct dec *d)
{
    struct null_name *null = arena_alloc(d->arena, sizeof *null);
    struct slice name;
    name.ptr = lua_tolstring(d->L, -1, &name.len);
    *null = (struct null_name){arena_copy(d->arena, name), d->nulls[d->depth]};
    d->nulls[d->depth] = null;
    lua_pop(d->L, 1);
    return true;
}

/* The object on top remembers them as a row does. */
static void set_nulls(struct dec *d)
{
    size_t n = 0;
    for (struct null_name *null = d->nulls[d->depth]; null; null = null->next)
        n++;
    if (n == 0)
        return;
    struct slice *names = arena_alloc(d->arena, n * sizeof *names);
    size_t i = n;
    for (struct null_name *null = d->nulls[d->depth]; null; null = null->next)
        names[--i] = null->name;
    lx_push_row_meta(d->L, names, n);
    lua_setmetatable(d->L, -2);
    d->nulls[d->depth] = NULL;
}

static bool dec_null(void *data)
{
    struct dec *d = data;
    if (d->hides_nulls && d->depth > 0 && d->n_items[d->depth] == IN_OBJECT)
        return hide_null(d);
    lua_pushlightuserdata(d->L, NULL);
    return add_value(d);
}

static bool dec_bool(void *data, bool value)
{
    struct dec *d = data;
    lua_pushboolean(d->L, value);
    return add_value(d);
}

static bool dec_number(void *data, double value)
{
    struct dec *d = data;
    lua_pushnumber(d->L, value);
    return add_value(d);
}

static bool dec_string(void *data, struct slice value)
{
    struct dec *d = data;
    lx_push_slice(d->L, value);
    return add_value(d);
}

static bool dec_key(void *data, struct slice name)
{
    struct dec *d = data;
    lx_push_slice(d->L, name);
    return true;
}

static bool open_container(struct dec *d, size_t n_items)
{
    CHECK(d->depth < MAX_DEPTH);
    lua_newtable(d->L);
    d->n_items[++d->depth] = n_items;
    return true;
}

static bool dec_object_begin(void *data)
{
    return open_container(data, IN_OBJECT);
}

static bool dec_array_begin(void *data)
{
    return open_container(data, 0);
}

static bool dec_object_end(void *data, size_t n_members)
{
    struct dec *d = data;
    (void)n_members;
    set_nulls(d);
    d->depth--;
    return add_value(d);
}

static bool dec_array_end(void *data, size_t n_items)
{
    struct dec *d = data;
    (void)n_items;
    lx_set_array_meta(d->L, -1);
    d->depth--;
    return add_value(d);
}

static enum status decode(lua_State *L, struct slice text, bool hides_nulls, struct err *err)
{
    static const struct json_events events = {
        .on_null = dec_null,
        .on_bool = dec_bool,
        .on_number = dec_number,
        .on_string = dec_string,
        .on_key = dec_key,
        .on_object_begin = dec_object_begin,
        .on_object_end = dec_object_end,
        .on_array_begin = dec_array_begin,
        .on_array_end = dec_array_end,
    };
    struct json_limits limits = {.max_depth = MAX_DEPTH};
    struct dec d = {.L = L, .hides_nulls = hides_nulls};
    int top = lua_gettop(L);
    luaL_checkstack(L, 2 * MAX_DEPTH + 8, "JSON is nested too deep");
    /* A raised out-of-memory error jumps over this frame: the arena is the VM's, emptied at its next use. */
    struct arena *arena = d.arena = vm_scratch(vm_of(L));
    enum status rc = json_read(text, &limits, &events, &d, arena, err);
    arena_destroy(arena);
    if (rc != OK)
        lua_settop(L, top);
    return rc;
}

enum status lx_json_decode(lua_State *L, struct slice text, struct err *err)
{
    return decode(L, text, false, err);
}

enum status lx_json_decode_row(lua_State *L, struct slice text, struct err *err)
{
    return decode(L, text, true, err);
}
