/* chowk.core.seq: take(name, is_formatted), for lua/chowk/seq.lua. It parks only when nothing is leased; in a
 * transaction too, because the lease uses a connection of the core's own. read and skip are seq.skip_past's. */
#include "bind/modules.h"

#include <lauxlib.h>

#include "base/clock.h"
#include "script/co.h"
#include "script/lx.h"
#include "script/vm.h"
#include "services/seq.h"

static int push_failure(lua_State *L, const struct err *err)
{
    lua_pushboolean(L, 0);
    lx_push_err(L, err);
    return 2;
}

static int push_value(lua_State *L, const struct seq_number *number)
{
    lua_pushboolean(L, 1);
    lua_pushnumber(L, (lua_Number)number->value);
    return 2;
}

static int push_text(lua_State *L, const struct seq_number *number)
{
    char text[SEQ_NUMBER_MAX + 1];
    struct err err = {0};
    if (seq_format_write(number->def, number->period, number->value, text, &err) != OK)
        return push_failure(L, &err);
    lua_pushboolean(L, 1);
    lua_pushstring(L, text);
    return 2;
}

static void wake(struct co *co, const struct seq_number *number, const struct err *err,
                 int (*push)(lua_State *L, const struct seq_number *number))
{
    lua_State *L = co_stack(co);
    lua_checkstack(L, 4);
    co_wake(co, err ? push_failure(L, err) : push(L, number));
}

static void on_value(void *co, const struct seq_number *number, const struct err *err)
{
    wake(co, number, err, push_value);
}

static void on_text(void *co, const struct seq_number *number, const struct err *err)
{
    wake(co, number, err, push_text);
}

static void cancel_wait(struct co *co UNUSED, void *wait)
{
    if (wait)
        seq_wait_cancel(wait);
}

/* The sequence called arg 1; misuse names what is there. */
static int check_seq(lua_State *L, const struct seq *seq, const char *fn)
{
    if (lua_type(L, 1) != LUA_TSTRING)
        lx_misuse(L, "seq.%s: expected the name of a sequence, got %s", fn, luaL_typename(L, 1));
    struct slice name = lx_check_slice(L, 1);
    int id = seq_find(seq, name);
    if (id < 0)
        lx_misuse(L, "seq.%s: there is no sequence \"%.*s\": add it to seq.formats in conf/chowk.lua", fn,
                  SLICE_FMT(name));
    if (seq_def(seq, id)->is_gapless)
        lx_misuse(L, "seq.%s: sequence \"%.*s\" has no gaps: take its numbers with tx:gapless", fn, SLICE_FMT(name));
    if (strcmp(fn, "value") != 0 && !seq_def(seq, id)->format[0])
        lx_misuse(L, "seq.%s: sequence \"%.*s\" has no format in seq.formats%s", fn, SLICE_FMT(name),
                  strcmp(fn, "next") == 0 ? ": write seq.value" : "");
    return id;
}

/* take(name, is_formatted) → true, text | number, or false, err */
static int take(lua_State *L)
{
    struct seq *seq = vm_env(vm_of(L))->seq;
    struct seq_number number;
    struct err err = {0};
    struct co *co = co_current(L);
    if (!seq) {
        (void)err_set(&err, ERR_UNAVAILABLE, "sequences need a running server");
        return push_failure(L, &err);
    }
    bool is_formatted = lua_toboolean(L, 2);
    int id = check_seq(L, seq, is_formatted ? "next" : "value");
    switch (seq_take(seq, id, &number, &err)) {
    case OK:
        return is_formatted ? push_text(L, &number) : push_value(L, &number);
    case ERR:
        return push_failure(L, &err);
    case AGAIN:
        break;
    }
    co_op_begin(L, cancel_wait, NULL);
    struct seq_call call = {.deadline_ms = co_deadline(co), .done = is_formatted ? on_text : on_value, .data = co};
    co_op_set_data(co, seq_wait_start(seq, id, &call));
    return co_park(L);
}

/* The number that is arg 2 of the sequence called arg 1; false: none of the running period. */
static bool read_args(lua_State *L, struct seq *seq, int *id, struct seq_number *number)
{
    if (!seq)
        lx_misuse(L, "seq.skip_past: sequences need a running server");
    *id = check_seq(L, seq, "skip_past");
    return seq_read(seq, *id, lx_check_slice(L, 2), number);
}

/* read(name, text) → period, value, or nothing */
static int read_number(lua_State *L)
{
    struct seq_number number;
    int id;
    if (!read_args(L, vm_env(vm_of(L))->seq, &id, &number))
        return 0;
    lua_pushstring(L, number.period.text);
    lua_pushnumber(L, (lua_Number)number.value);
    return 2;
}

/* skip(name, text): not before the database's row is past it */
static int skip_number(lua_State *L)
{
    struct seq *seq = vm_env(vm_of(L))->seq;
    struct seq_number number;
    int id;
    if (read_args(L, seq, &id, &number))
        seq_skip(seq, id, &number);
    return 0;
}

/* The gapless sequence called arg 1. */
static const struct seq_def *check_gapless(lua_State *L)
{
    const struct seq *seq = vm_env(vm_of(L))->seq;
    struct slice name = lx_check_slice(L, 1);
    int id = seq ? seq_find(seq, name) : -1;
    if (id < 0 || !seq_def(seq, id)->is_gapless)
        lx_misuse(L, "tx:gapless: there is no sequence \"%.*s\": add it to seq.gapless in conf/chowk.lua",
                  SLICE_FMT(name));
    return seq_def(seq, id);
}

/* period(name) → text: the one that counts now */
static int current_period(lua_State *L)
{
    lua_pushstring(L, seq_period_at(check_gapless(L)->cycle, clock_wall_ms()).text);
    return 1;
}

/* write(name, period, value) → true, text | false, err */
static int write_number(lua_State *L)
{
    const struct seq_def *def = check_gapless(L);
    struct slice text = lx_check_slice(L, 2);
    struct seq_number number = {.def = def, .value = (int64_t)luaL_checknumber(L, 3)};
    if (text.len != strlen(seq_period_at(def->cycle, clock_wall_ms()).text))
        lx_misuse(L, "tx:gapless: \"%.*s\" is no period of sequence %s", SLICE_FMT(text), def->name);
    memcpy(number.period.text, text.ptr, text.len);
    return push_text(L, &number);
}

int bind_seq_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"take", take},          {"read", read_number},
                                         {"skip", skip_number},   {"period", current_period},
                                         {"write", write_number}, {NULL, NULL}};
    lua_createtable(L, 0, 5);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
