#include "script/where.h"

#include <lauxlib.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "script/co.h"
#include "script/vm_priv.h"

enum { MAX_VMS = 16, MAX_LEVELS = 16, PLACE = 64, TRACES_STEP = 256, MAX_TRACES = 1 << 16 };

struct trace {
    uintptr_t from;
    size_t size; /* 0: not compiled, or not any more */
    char place[PLACE];
};

struct where {
    struct vm *vm;
    struct trace *traces; /* by the compiler's number */
    size_t n_traces;
    int ref_funcinfo, ref_tracemc;
};

/* Of this process: a handler has no argument. */
static struct where *_Atomic open_ones[MAX_VMS];
static struct where_report *_Atomic hooked; /* what the hook is to fill */
static sigjmp_buf escape;
static volatile sig_atomic_t is_guarded;

struct where *where_new(struct vm *vm)
{
    struct where *where = xalloc(sizeof(*where));
    where->vm = vm;
    for (int i = 0; i < MAX_VMS; i++) {
        struct where *none = NULL;
        if (atomic_compare_exchange_strong(&open_ones[i], &none, where))
            return where;
    }
    free(where);
    return NULL;
}

void where_free(struct where *where)
{
    if (!where)
        return;
    for (int i = 0; i < MAX_VMS; i++)
        if (open_ones[i] == where)
            open_ones[i] = NULL;
    free(where->traces);
    free(where);
}

/* ---- what the compiler tells --------------------------------------------------------------------------------- */

/* A handler may interrupt this, but no handler is interrupted by it: the old array may go once the new one is in. */
static struct trace *trace_at(struct where *where, size_t number)
{
    if (number >= MAX_TRACES)
        return NULL;
    if (number >= where->n_traces) {
        size_t n = (number / TRACES_STEP + 1) * TRACES_STEP;
        struct trace *more = xalloc(n * sizeof(*more)), *old = where->traces;
        if (old)
            memcpy(more, old, where->n_traces * sizeof(*more));
        where->traces = more;
        atomic_signal_fence(memory_order_seq_cst);
        where->n_traces = n;
        free(old);
    }
    return &where->traces[number];
}

/* Stack: …, func, pc at 3 and 4 */
static void on_start(lua_State *L, struct where *where, struct trace *trace)
{
    trace->size = 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, where->ref_funcinfo);
    lua_pushvalue(L, 3);
    lua_pushvalue(L, 4);
    lua_call(L, 2, 1);
    lua_getfield(L, -1, "loc");
    const char *place = lua_tostring(L, -1);
    strncpy(trace->place, place ? place : "?", PLACE - 1);
}

static void on_stop(lua_State *L, struct where *where, struct trace *trace)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, where->ref_tracemc);
    lua_pushvalue(L, 2);
    lua_call(L, 1, 2);
    if (lua_type(L, -2) != LUA_TSTRING)
        return;
    trace->from = (uintptr_t)lua_tonumber(L, -1);
    atomic_signal_fence(memory_order_seq_cst);
    trace->size = lua_objlen(L, -2);
}

/* (what, trace number, func, pc, …) */
static int on_trace(lua_State *L)
{
    struct where *where = vm_of(L)->where;
    const char *what = lua_tostring(L, 1);
    struct trace *trace = trace_at(where, (size_t)lua_tointeger(L, 2));
    if (strcmp(what, "flush") == 0)
        where->n_traces = 0;
    else if (trace && strcmp(what, "start") == 0)
        on_start(L, where, trace);
    else if (trace && strcmp(what, "stop") == 0)
        on_stop(L, where, trace);
    return 0;
}

void where_watch_traces(lua_State *L)
{
    struct where *where = vm_of(L)->where;
    if (!where)
        return;
    lua_getglobal(L, "require");
    lua_pushliteral(L, "jit.util");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "funcinfo");
    where->ref_funcinfo = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, "tracemc");
    where->ref_tracemc = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getglobal(L, "jit");
    lua_getfield(L, -1, "attach");
    lua_pushcfunction(L, on_trace);
    lua_pushliteral(L, "trace");
    lua_call(L, 2, 0);
    lua_pop(L, 2);
}

/* ---- text, without libc -------------------------------------------------------------------------------------- */

struct text {
    char *at, *end; /* room for a NUL is kept */
};

static struct text text_of(struct where_report *report)
{
    return (struct text){report->lua, report->lua + WHERE_LUA - 1};
}

static void put(struct text *text, const char *s)
{
    while (*s && text->at < text->end)
        *text->at++ = *s++;
    *text->at = '\0';
}

static void put_int(struct text *text, int value)
{
    char digits[12], *p = digits + sizeof(digits) - 1;
    *p = '\0';
    do
        *--p = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    put(text, p);
}

/* lua_getinfo with these three letters reads and allocates nothing. */
static void put_level(struct text *text, lua_State *L, lua_Debug *ar, int level)
{
    if (!lua_getinfo(L, "Sln", ar))
        return;
    if (level > 0)
        put(text, " < ");
    if (*ar->what == 'C') {
        put(text, "C function '");
        put(text, ar->name ? ar->name : "?");
        put(text, "'");
        return;
    }
    put(text, ar->short_src);
    put(text, ":");
    put_int(text, ar->currentline > 0 ? ar->currentline : ar->linedefined > 0 ? ar->linedefined : 0);
    if (ar->name) {
        put(text, " in '");
        put(text, ar->name);
        put(text, "'");
    }
}

static void put_stack(struct text *text, lua_State *L)
{
    lua_Debug ar;
    for (int level = 0; level < MAX_LEVELS && lua_getstack(L, level, &ar); level++)
        put_level(text, L, &ar, level);
}

/* ---- samples ------------------------------------------------------------------------------------------------- */

/* The VM that runs now. One that is being loaded, perhaps by another thread, has no activity. */
static struct where *find_running(void)
{
    for (int i = 0; i < MAX_VMS; i++) {
        struct where *where = open_ones[i];
        if (where && where->vm->current)
            return where;
    }
    return NULL;
}

static const struct trace *find_trace(const struct where *where, uintptr_t pc)
{
    for (size_t i = 0; i < where->n_traces; i++) {
        const struct trace *trace = &where->traces[i];
        if (trace->size && pc - trace->from < trace->size)
            return trace;
    }
    return NULL;
}

/* Compiled code has no unwind tables, but the unwinder does reach the address it called the core's C from. */
static bool is_in_trace(const struct where *where, const struct frames *frames, struct text *text)
{
    for (uint32_t i = 0; i < frames->n; i++) {
        const struct frame *frame = &frames->at[i];
        const struct trace *trace = frame->module[0] ? NULL : find_trace(where, (uintptr_t)frame->offset);
        if (!trace)
            continue;
        put(text, "compiled code, trace from ");
        put(text, trace->place);
        return true;
    }
    return false;
}

static bool is_whole(struct where_report *report)
{
    atomic_store(&report->stage, WHERE_WHOLE);
    return true;
}

/* In the interpreter, between two instructions: an ordinary place, no handler any more. */
static void on_hook(lua_State *L, lua_Debug *ar UNUSED)
{
    lua_sethook(L, NULL, 0, 0);
    struct where_report *report = atomic_exchange(&hooked, NULL);
    if (!report)
        return;
    struct text text = text_of(report);
    put_stack(&text, L);
    is_whole(report);
}

/* The stack as it lies: right when C was called by the interpreter, which stores its state before each call. */
static void read_stack(struct where_report *report, const struct where *where)
{
    struct text text = text_of(report);
    if (sigsetjmp(escape, 1) == 0) {
        is_guarded = 1;
        put_stack(&text, co_stack(where->vm->current));
    }
    is_guarded = 0;
}

void where_escape(void)
{
    if (is_guarded)
        siglongjmp(escape, 1);
}

static void describe(struct where_report *report, const struct where *where)
{
    struct text text = text_of(report);
    if (!is_in_trace(where, &report->frames, &text))
        read_stack(report, where);
}

/* libgcc's unwinder asserts what it finds in an interrupted interpreter or compiled code: it aborts, and we go on. */
static void capture(struct where_report *report, const void *context)
{
    if (sigsetjmp(escape, 1) == 0) {
        is_guarded = 1;
        frames_capture(&report->frames, context);
    } else {
        frames_capture_pc(&report->frames, context);
    }
    is_guarded = 0;
}

void where_forget(struct where_report *report)
{
    atomic_store(&hooked, NULL);
    atomic_store(&report->stage, WHERE_NONE);
    report->lua[0] = '\0';
}

bool where_sample(struct where_report *report, const void *context, bool is_last)
{
    if (atomic_load(&report->stage) == WHERE_WHOLE)
        return true;
    struct where *where = find_running();
    struct text text = text_of(report);
    atomic_store(&report->stage, WHERE_BEGUN);
    report->signum = 0;
    capture(report, context);
    if (where && is_in_trace(where, &report->frames, &text))
        return is_whole(report);
    if (where && !is_last) {
        atomic_store(&hooked, report);
        lua_sethook(where->vm->L, on_hook, LUA_MASKCOUNT, 1);
        return false;
    }
    atomic_store(&hooked, NULL);
    if (where)
        read_stack(report, where);
    return is_whole(report);
}

void where_crash(struct where_report *report, const void *context, int signum, int code, uintptr_t address)
{
    struct where *where = find_running();
    atomic_store(&report->stage, WHERE_BEGUN);
    report->signum = signum;
    report->code = code;
    report->address = address;
    report->lua[0] = '\0';
    capture(report, context);
    if (where)
        describe(report, where);
    is_whole(report);
}
