/* Where Lua is, asked from a signal handler: for the watchdog, which wants the culprit of a stall, and for the crash
 * handler. Three cases (T8), of which the caller does not know which one it has:
 *
 *  - compiled code: the interrupted address lies in a trace, whose first line is known from the compiler's own events;
 *  - the interpreter: a hook, set by the handler, fires at its next instruction and writes the traceback;
 *  - a C function that does not return: neither happens, so the last sample reads the Lua stack as it lies.
 *
 * A process that is asked is about to end; still, no sample may make it worse: reading is guarded (where_escape). */
#pragma once

#include <lua.h>
#include <stdatomic.h>

#include "base/frames.h"

enum { WHERE_LUA = 1536 };
enum where_stage { WHERE_NONE, WHERE_BEGUN, WHERE_WHOLE };

/* What was found. Lies in shared memory, so that it outlives its process. */
struct where_report {
    _Atomic uint32_t stage; /* enum where_stage; the rest is whole at WHERE_WHOLE only */
    int32_t signum, code;   /* of a crash, siginfo's; 0: a stall */
    uint64_t address;       /* of a crash: the fault's */
    char lua[WHERE_LUA];    /* "orders.lua:12 in 'total' < …", "compiled code, trace from …"; "" = no Lua ran */
    struct frames frames;   /* of C */
};

/* One of a VM: part of it, so that its traces and it go together. */
struct vm;
struct where;
struct where *where_new(struct vm *vm); /* known to the handlers from here on; NULL: too many VMs, no positions */
void where_free(struct where *where);   /* NULL is fine */
void where_watch_traces(lua_State *L);  /* after luaL_openlibs, protected; listens to the JIT compiler */

/* Async-signal-safe, from here on. */

/* What an earlier stall left is nobody's answer any more; a hook that it set finds nothing to fill. */
void where_forget(struct where_report *report);
/* A stall's sample: true when the report is whole. `is_last`: the interpreter had its chance. */
bool where_sample(struct where_report *report, const void *context, bool is_last);
/* A crash: always whole afterwards. */
void where_crash(struct where_report *report, const void *context, int signum, int code, uintptr_t address);
/* First thing in the handler of a memory fault: does not return if it was where_* that read what is not there. */
void where_escape(void);
