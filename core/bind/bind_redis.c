/* chowk.core.redis: command, pipeline, multi and scripts, for lua/chowk/redis.lua (subscriptions: bind_redis_sub.c).
 * Each parks, and ends with `true, result` or `false, err` for its `settle`. Arguments are checked and made into bytes
 * before anything starts; a number is written so that it reads back as the same number (T15), never by lua_tostring. */
#include "bind/bind_redis.h"
#include "bind/modules.h"

#include <inttypes.h>
#include <lauxlib.h>
#include <stdio.h>

#include "base/json.h"
#include "data/redis.h"
#include "script/co.h"
#include "script/lx.h"
#include "script/vm.h"

#define EXACT_INT 100000000000000 /* DESIGN 5: from here on, a number is a string */
#define MAX_PIPELINE 10000
#define SCRIPT_META "chowk.redis.script"

/* ---- results -------------------------------------------------------------------------------------------------- */

static void push_redis_error(lua_State *L, struct slice text)
{
    struct err err = {0};
    (void)err_set(&err, ERR_REDIS, "%.*s", SLICE_FMT(text));
    lx_push_err(L, &err);
}

static void push_integer(lua_State *L, int64_t number)
{
    char text[24];
    if (number < EXACT_INT && number > -EXACT_INT) {
        lua_pushnumber(L, (lua_Number)number);
        return;
    }
    snprintf(text, sizeof text, "%" PRId64, number);
    lua_pushstring(L, text);
}

/* Stack: +1. The parser caps the depth at seven. */
static void push_value(lua_State *L, const struct redis_value *value)
{
    switch (value->type) {
    case REDIS_NIL:
        lua_pushnil(L);
        return;
    case REDIS_INTEGER:
        push_integer(L, value->integer);
        return;
    case REDIS_STRING:
    case REDIS_STATUS:
        lx_push_slice(L, value->str);
        return;
    case REDIS_ERROR:
        push_redis_error(L, value->str);
        return;
    case REDIS_ARRAY:
        luaL_checkstack(L, 4, "redis");
        lua_createtable(L, (int)value->n_items, 0);
        for (size_t i = 0; i < value->n_items; i++) {
            push_value(L, &value->items[i]);
            lua_rawseti(L, -2, (int)i + 1);
        }
        return;
    }
    WRONG("redis: value type");
}

/* The parked call's results: `true, value` or `false, err`. */
static void wake(struct co *co, const struct redis_value *value, const struct err *err)
{
    lua_State *L = co_stack(co);
    lua_pushboolean(L, err == NULL);
    if (err)
        lx_push_err(L, err);
    else
        push_value(L, value);
    co_wake(co, 2);
}

static void on_command(void *data, const struct redis_value *value, const struct err *err)
{
    wake(data, value, err);
}

static void on_pipeline(void *data, const struct redis_value *values, size_t n_values, const struct err *err)
{
    wake(data, &(struct redis_value){.type = REDIS_ARRAY, .items = values, .n_items = n_values}, err);
}

static void cancel_command(struct co *co, void *op)
{
    if (!op)
        return;
    enum err_code outcome = redis_op_outcome(op);
    if (outcome)
        co_set_unknown(co, outcome);
    redis_op_cancel(op);
}

static void cancel_pipeline(struct co *co, void *batch)
{
    if (!batch)
        return;
    enum err_code outcome = redis_batch_outcome(batch);
    if (outcome)
        co_set_unknown(co, outcome);
    redis_batch_cancel(batch);
}

/* It is on its way. A write counts as done (T10), but for one that waits inside Redis: its caller may go meanwhile. */
static int park_on(lua_State *L, struct co *co, struct redis_op *op)
{
    if (redis_op_may_write(op))
        co_mark_committed(co);
    if (co_has_deadline(co) && redis_op_is_timed(op))
        co_op_is_timed(co);
    co_op_set_data(co, op);
    return co_park(L);
}

/* ---- arguments ------------------------------------------------------------------------------------------------ */

/* The value on top as bytes that live as long as it, or as the scratch arena. False: not something Redis can store. */
static bool top_as_bytes(lua_State *L, struct arena *arena, struct slice *out)
{
    struct vm *vm = vm_of(L);
    int type = lua_type(L, -1);
    if (type == LUA_TSTRING) {
        *out = lx_check_slice(L, -1);
        return true;
    }
    if (type != LUA_TNUMBER)
        return type == LUA_TUSERDATA && lx_to_raw(L, -1, out);
    struct buf *text = vm_text(vm);
    if (json_write_number(text, lua_tonumber(L, -1)) != OK)
        return false;
    *out = arena_copy(arena, buf_as_slice(text));
    return true;
}

NORETURN static void bad_argument(lua_State *L, struct slice command, int i)
{
    const char *got = lua_type(L, -1) == LUA_TNUMBER ? "a number that is not finite" : luaL_typename(L, -1);
    if (i == 0)
        lx_misuse(L, "redis: expected the command's name, a string, got %s", got);
    lx_misuse(L, "redis %.*s: argument %d must be a string, a number or raw JSON, got %s%s", SLICE_FMT(command), i, got,
              lua_istable(L, -1) ? " (write json.encode(t))" : "");
}

/* The values in stack slots from..top, as arguments of `command` ("": the first of them is its name). */
static struct redis_argv read_values(lua_State *L, int from, struct slice command, struct arena *arena)
{
    size_t argc = (size_t)(lua_gettop(L) - from + 1);
    struct slice *argv = arena_alloc(arena, argc * sizeof *argv);
    for (int i = 0; i < (int)argc; i++) {
        bool is_name = i == 0 && command.len == 0;
        lua_pushvalue(L, from + i);
        if ((is_name && lua_type(L, -1) != LUA_TSTRING) || !top_as_bytes(L, arena, &argv[i]))
            bad_argument(L, command.len > 0 ? command : argv[0], command.len > 0 ? i + 1 : i);
        lua_pop(L, 1);
    }
    return (struct redis_argv){argv, argc};
}

/* The arguments of one command stand in stack slots 1..top. */
static struct redis_argv read_stack(lua_State *L, struct arena *arena)
{
    if (lua_gettop(L) == 0)
        lx_misuse(L, "redis: expected a command");
    return read_values(L, 1, slice_of(NULL, 0), arena);
}

/* Stack: …, {name, args…}. The table keeps its strings alive. */
static struct redis_argv read_table(lua_State *L, const char *what, int i_command, struct arena *arena)
{
    size_t argc = lua_istable(L, -1) ? lua_objlen(L, -1) : 0;
    if (argc == 0)
        lx_misuse(L, "%s: item %d must be a command such as {\"GET\", key}", what, i_command);
    struct slice *argv = arena_alloc(arena, argc * sizeof *argv);
    for (int i = 0; i < (int)argc; i++) {
        lua_rawgeti(L, -1, i + 1);
        if ((i == 0 && lua_type(L, -1) != LUA_TSTRING) || !top_as_bytes(L, arena, &argv[i]))
            bad_argument(L, argv[0], i);
        lua_pop(L, 1);
    }
    return (struct redis_argv){argv, argc};
}

/* Returns `false, err` when no Redis is configured: 2, else 0. */
int bind_redis_push_unconfigured(lua_State *L)
{
    struct err err;
    if (vm_env(vm_of(L))->redis)
        return 0;
    (void)err_set(&err, ERR_UNAVAILABLE,
                  "redis is not configured: set redis.url, or REDIS_URL "
                  "(chowk dev starts one where there is a migrations/)");
    lua_pushboolean(L, 0);
    lx_push_err(L, &err);
    return 2;
}

/* ---- functions ------------------------------------------------------------------------------------------------ */

/* 0: none. A command that blocks may then wait for ever, the others have redis.h's default. */
static uint64_t deadline_of(const struct co *co)
{
    return co_has_deadline(co) ? co_deadline(co) : 0;
}

static struct co *begin(lua_State *L, co_cancel_fn cancel)
{
    struct co *co = co_op_begin(L, cancel, NULL);
    co_op_waits_for(co, HTTP_WAIT_REDIS);
    return co;
}

/* command(name, …) → true, value | false, err */
static int command(lua_State *L)
{
    struct redis_argv args = read_stack(L, vm_scratch(vm_of(L)));
    int n = bind_redis_push_unconfigured(L);
    if (n > 0)
        return n;
    struct co *co = begin(L, cancel_command);
    struct redis_call call = {
        .argv = args.argv, .argc = args.argc, .deadline_ms = deadline_of(co), .done = on_command, .data = co};
    return park_on(L, co, redis_command(vm_env(vm_of(L))->redis, &call));
}

/* The list of commands at arg 1; *n_commands of them. `what` and `example` are for the one who got it wrong. */
static struct redis_argv *check_list(lua_State *L, const char *what, struct arena *arena, size_t *n_commands)
{
    size_t n = lua_istable(L, 1) ? lua_objlen(L, 1) : 0;
    if (n == 0 || n > MAX_PIPELINE)
        lx_misuse(L, "%s: expected a list of 1..%d commands: %s{ {\"GET\", a}, {\"GET\", b} }", what, MAX_PIPELINE,
                  what);
    struct redis_argv *commands = arena_alloc(arena, n * sizeof *commands);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, 1, (int)i + 1);
        commands[i] = read_table(L, what, (int)i + 1, arena);
        lua_pop(L, 1);
    }
    *n_commands = n;
    return commands;
}

/* pipeline({{name, …}, …}) → true, {value | err, …} | false, err */
static int pipeline(lua_State *L)
{
    size_t n_commands;
    struct redis_argv *commands = check_list(L, "redis.pipeline", vm_scratch(vm_of(L)), &n_commands);
    int n = bind_redis_push_unconfigured(L);
    if (n > 0)
        return n;
    struct co *co = begin(L, cancel_pipeline);
    struct redis_batch_call call = {.commands = commands,
                                    .n_commands = n_commands,
                                    .deadline_ms = co_deadline(co),
                                    .done = on_pipeline,
                                    .data = co};
    struct redis_batch *batch = redis_pipeline(vm_env(vm_of(L))->redis, &call);
    if (redis_batch_may_write(batch))
        co_mark_committed(co);
    co_op_set_data(co, batch);
    return co_park(L);
}

/* multi({{name, …}, …}) → true, {value | err, …} | false, err */
static int multi(lua_State *L)
{
    size_t n_commands;
    struct redis_argv *commands = check_list(L, "redis.multi", vm_scratch(vm_of(L)), &n_commands);
    int n = bind_redis_push_unconfigured(L);
    if (n > 0)
        return n;
    struct co *co = begin(L, cancel_command);
    struct redis_multi_call call = {
        .commands = commands, .n_commands = n_commands, .deadline_ms = co_deadline(co), .done = on_command, .data = co};
    return park_on(L, co, redis_multi(vm_env(vm_of(L))->redis, &call));
}

/* ---- scripts -------------------------------------------------------------------------------------------------- */

/* script(source) → handle; its text lies behind it */
static int script_new(lua_State *L)
{
    struct slice source = lx_check_slice(L, 1);
    struct redis_script *script = lua_newuserdata(L, sizeof *script + source.len);
    char *text = (char *)(script + 1);
    memcpy(text, source.ptr, source.len);
    redis_script_create(script, slice_of(text, source.len));
    luaL_getmetatable(L, SCRIPT_META);
    lua_setmetatable(L, -2);
    return 1;
}

/* run_script(handle, keys, …) → true, value | false, err */
static int script_run(lua_State *L)
{
    struct redis_script *script = luaL_checkudata(L, 1, SCRIPT_META);
    struct arena *arena = vm_scratch(vm_of(L));
    struct redis_argv keys = {0}, args = {0};
    if (!lua_istable(L, 2))
        lx_misuse(L, "redis script: expected the list of keys first: script({ key }, …), got %s", luaL_typename(L, 2));
    lua_pushvalue(L, 2);
    if (lua_objlen(L, 2) > 0)
        keys = read_table(L, "redis script: keys", 1, arena);
    lua_pop(L, 1);
    if (lua_gettop(L) > 2)
        args = read_values(L, 3, SLICE("script"), arena);
    int n = bind_redis_push_unconfigured(L);
    if (n > 0)
        return n;
    struct co *co = begin(L, cancel_command);
    struct redis_script_call call = {.keys = keys.argv,
                                     .n_keys = keys.argc,
                                     .args = args.argv,
                                     .n_args = args.argc,
                                     .deadline_ms = co_deadline(co),
                                     .done = on_command,
                                     .data = co};
    return park_on(L, co, redis_script_run(vm_env(vm_of(L))->redis, script, &call));
}

/* is_up() → boolean */
static int is_up(lua_State *L)
{
    const struct redis *redis = vm_env(vm_of(L))->redis;
    lua_pushboolean(L, redis && redis_is_up(redis));
    return 1;
}

int bind_redis_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"command", command},       {"pipeline", pipeline}, {"multi", multi}, {"script", script_new},
        {"run_script", script_run}, {"is_up", is_up},       {NULL, NULL}};
    lx_new_class(L, SCRIPT_META);
    lua_pop(L, 1);
    lua_createtable(L, 0, 9);
    luaL_setfuncs(L, functions, 0);
    bind_redis_sub_open(L);
    return 1;
}
