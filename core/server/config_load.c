/* Evaluates conf/chowk.lua in a Lua state of its own, which dies before anything starts.
 *
 * The file gets env(name, default) and file(path, default) and the pure standard libraries: it computes values, it does
 * not act. Its table is walked key by key; each value goes through config_set, which knows types and ranges. This is
 * the only file of the layer that touches Lua. Errors name the file's line: Lua's own for what Lua finds, the source
 * scanner's (config_lines.h) for what we find. */
#include "server/config_load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "server/config_lines.h"
#include "script/lx.h"

enum { MAX_FILE = 1 << 20, MAX_NAME = 128, MAX_DEPTH = 16, MAX_LIST = 64 };

struct load {
    struct config *config;
    struct slice source;
    struct err *err;
    int err_line; /* of the mistake in err; 0 = none yet, INT_MAX = one without a line */
    unsigned n_mistakes;
};

static enum status read_all(const char *path, struct buf *out, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, "%s", path);
    ssize_t n;
    while ((n = read(fd, buf_reserve(out, 4096), 4096)) > 0 && out->len <= MAX_FILE)
        out->len += (size_t)n;
    int errnum = errno;
    close(fd);
    if (n < 0)
        return err_errno(err, errnum, "%s", path);
    return n == 0 ? OK : err_set(err, ERR_INVALID, "%s: larger than 1 MiB", path);
}

/* ---- what the file may call --------------------------------------------------------------------------------- */

/* env(name, default): the environment variable, or default if it is unset or empty. */
static int lua_env(lua_State *L)
{
    const char *value = getenv(luaL_checkstring(L, 1));
    lua_settop(L, 2);
    if (value && *value)
        lua_pushstring(L, value);
    return 1;
}

/* file(path, default): the file's text without trailing line ends; without a default its absence is an error. */
static int lua_file(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    bool has_default = lua_gettop(L) >= 2;
    lua_settop(L, 2);
    struct buf text = {0};
    struct err err = {0};
    enum status status = read_all(path, &text, &err);
    while (text.len > 0 && (text.ptr[text.len - 1] == '\n' || text.ptr[text.len - 1] == '\r'))
        text.len--;
    if (status == OK)
        lua_pushlstring(L, text.ptr ? text.ptr : "", text.len);
    buf_free(&text);
    if (status != OK && !has_default)
        return luaL_error(L, "file: %s", err.message);
    return 1;
}

static void open_libraries(lua_State *L)
{
    static const struct {
        const char *name;
        lua_CFunction open;
    } libraries[] = {{"", luaopen_base},
                     {LUA_TABLIBNAME, luaopen_table},
                     {LUA_STRLIBNAME, luaopen_string},
                     {LUA_MATHLIBNAME, luaopen_math}};
    for (size_t i = 0; i < ARRAY_LEN(libraries); i++) {
        lua_pushcfunction(L, libraries[i].open);
        lua_pushstring(L, libraries[i].name);
        lua_call(L, 1, 0);
    }
    static const char *const removed[] = {"dofile", "loadfile", "load", "loadstring", "collectgarbage", "newproxy"};
    for (size_t i = 0; i < ARRAY_LEN(removed); i++) {
        lua_pushnil(L);
        lua_setglobal(L, removed[i]);
    }
    lua_pushcfunction(L, lua_env);
    lua_setglobal(L, "env");
    lua_pushcfunction(L, lua_file);
    lua_setglobal(L, "file");
}

/* ---- from the table to config_set ---------------------------------------------------------------------------- */

/* Keeps the mistake on the earliest line: the order in which Lua walks a table is nobody's. */
static void complain(struct load *load, const char *name, const char *message)
{
    int line = config_lines_find(load->source, name);
    load->n_mistakes++;
    int rank = line > 0 ? line : INT32_MAX;
    if (load->err_line && load->err_line <= rank)
        return;
    load->err_line = rank;
    if (line > 0)
        err_set(load->err, ERR_INVALID, "%s:%d: %s", load->config->file, line, message);
    else
        err_set(load->err, ERR_INVALID, "%s: %s", load->config->file, message);
}

static void complain_unknown(struct load *load, const char *name)
{
    struct buf text = {0};
    struct slice suggestion = config_suggest(slice_str(name));
    buf_printf(&text, "%s: unknown key", name);
    if (suggestion.len)
        buf_printf(&text, "; did you mean %.*s?", SLICE_FMT(suggestion));
    else
        buf_lit(&text, "; an application's own settings belong into settings = { … }");
    buf_byte(&text, '\0');
    complain(load, name, text.ptr);
    buf_free(&text);
}

static void set(struct load *load, enum config_key key, struct config_input *input)
{
    struct err err = {0};
    input->origin = CONFIG_FROM_FILE;
    input->line = config_lines_find(load->source, config_keys[key].name);
    if (config_set(load->config, key, input, &err) != OK)
        complain(load, config_keys[key].name, err.message);
}

/* Stack: value (kept). Strings borrow from it. */
static void set_scalar(lua_State *L, struct load *load, enum config_key key)
{
    struct config_input input = {0};
    char number[40];
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
        input.kind = CONFIG_IN_STRING;
        input.text.ptr = lua_tolstring(L, -1, &input.text.len);
        break;
    case LUA_TNUMBER:
        input.kind = CONFIG_IN_NUMBER;
        snprintf(number, sizeof(number), "%.15g", lua_tonumber(L, -1));
        input.text = slice_str(number);
        break;
    case LUA_TBOOLEAN:
        input.kind = CONFIG_IN_BOOL;
        input.text = lua_toboolean(L, -1) ? SLICE("true") : SLICE("false");
        break;
    default:
        snprintf(number, sizeof(number), "a %s", luaL_typename(L, -1));
        input.kind = CONFIG_IN_OTHER;
        input.text = slice_str(number);
        if (config_keys[key].type == CONFIG_TREE) /* only real trees, through set_tree */
            input.kind = CONFIG_IN_LIST;
    }
    set(load, key, &input);
}

/* Stack: table of strings (kept). The items stay on the table, so borrowing is safe. */
static void set_list(lua_State *L, struct load *load, enum config_key key)
{
    struct slice items[MAX_LIST];
    size_t n = lua_objlen(L, -1);
    bool is_valid = n <= MAX_LIST;
    for (size_t i = 0; is_valid && i < n; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        is_valid = lua_type(L, -1) == LUA_TSTRING && lua_objlen(L, -1) > 0;
        if (is_valid)
            items[i].ptr = lua_tolstring(L, -1, &items[i].len);
        lua_pop(L, 1);
    }
    struct config_input input = {.kind = CONFIG_IN_LIST, .items = items, .n_items = n};
    if (!is_valid)
        input = (struct config_input){.kind = CONFIG_IN_OTHER, .text = SLICE("something else in it")};
    set(load, key, &input);
}

/* Stack: the settings table (kept). */
static void set_tree(lua_State *L, struct load *load, enum config_key key)
{
    struct buf json = {0};
    struct err err = {0};
    if (lx_json_encode(L, lua_gettop(L), &json, &err) == OK) {
        struct config_input input = {.kind = CONFIG_IN_OTHER, .text = buf_as_slice(&json)};
        set(load, key, &input);
    } else {
        err_prefix(&err, "%s", config_keys[key].name);
        complain(load, config_keys[key].name, err.message);
    }
    buf_free(&json);
}

static bool is_group(const char *name)
{
    size_t len = strlen(name);
    for (int key = 0; key < CONFIG_N_KEYS; key++)
        if (strncmp(config_keys[key].name, name, len) == 0 && config_keys[key].name[len] == '.')
            return true;
    return false;
}

static void walk(lua_State *L, struct load *load, const char *prefix, int depth);

/* Stack: … value at -1 (kept) of the dotted `name`. */
static void visit(lua_State *L, struct load *load, const char *name, int depth)
{
    enum config_key key;
    bool is_table = lua_istable(L, -1);
    if (config_find(slice_str(name), &key)) {
        if (is_table && config_keys[key].type == CONFIG_TREE)
            set_tree(L, load, key);
        else if (is_table && config_keys[key].type == CONFIG_LIST)
            set_list(L, load, key);
        else
            set_scalar(L, load, key);
        return;
    }
    if (is_table && is_group(name) && depth < MAX_DEPTH)
        walk(L, load, name, depth + 1);
    else
        complain_unknown(load, name);
}

/* Stack: table at -1 (kept). */
static void walk(lua_State *L, struct load *load, const char *prefix, int depth)
{
    luaL_checkstack(L, 4, "configuration too deep");
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        char name[MAX_NAME];
        if (lua_type(L, -2) == LUA_TSTRING) {
            snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", lua_tostring(L, -2));
            visit(L, load, name, depth);
        } else {
            snprintf(name, sizeof(name), "%s[…]", prefix);
            complain(load, prefix, *prefix ? "expected names as keys" : "expected names as keys of the returned table");
        }
        lua_pop(L, 1);
    }
}

/* Stack: the load context as light userdata at 1. Runs under a protected call. */
static int evaluate(lua_State *L)
{
    struct load *load = lua_touserdata(L, 1);
    lx_open(L);
    open_libraries(L);
    char chunk[MAX_NAME];
    snprintf(chunk, sizeof(chunk), "@%s", load->config->file);
    if (luaL_loadbufferx(L, load->source.ptr, load->source.len, chunk, "t") != 0)
        return lua_error(L);
    lua_call(L, 0, 1);
    if (!lua_istable(L, -1))
        return luaL_error(L, "%s: must return a table, got %s", load->config->file, luaL_typename(L, -1));
    walk(L, load, "", 0);
    return 0;
}

enum status config_load_file(struct config *config, struct err *err)
{
    struct buf source = {0};
    if (access(config->file, F_OK) != 0)
        return OK;
    if (read_all(config->file, &source, err) != OK)
        return ERR;
    struct load load = {.config = config, .source = buf_as_slice(&source), .err = err};
    lua_State *L = luaL_newstate();
    CHECK(L);
    if (lua_cpcall(L, evaluate, &load) != 0) {
        const char *message = lua_tostring(L, -1);
        err_set(err, ERR_INVALID, "%s", message ? message : "configuration: an error that is no string");
        load.err_line = 1;
    }
    if (load.n_mistakes > 1) {
        size_t len = strlen(err->message);
        snprintf(err->message + len, sizeof(err->message) - len, " (and %u more)", load.n_mistakes - 1);
    }
    lua_close(L);
    buf_free(&source);
    return load.err_line ? ERR : OK;
}

static const char *get_env(const char *name)
{
    return getenv(name);
}

struct config *config_load(const struct config_overrides *overrides, struct err *err)
{
    struct config *config = config_new();
    enum status status = config_load_file(config, err);
    if (status == OK)
        status = config_set_env(config, get_env, err);
    if (status == OK && overrides->development)
        status = config_set_command(config, CONFIG_ENVIRONMENT, "development", overrides->source, err);
    if (status == OK)
        status = config_finish(config, err);
    if (status == OK)
        return config;
    config_free(config);
    return NULL;
}
