/* See guard.h. The hook runs every so many instructions of the interpreter. The allocator's refusal is an error without
 * a position, so the position is read off the main thread's stack at that moment; a user's coroutine that runs out of
 * memory is told by the line that resumed it. */
#include "script/guard.h"

#include <luajit.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "script/lx.h"
#include "script/vm_priv.h"

#define INSTRUCTIONS 10000        /* between two looks at the clock */
#define DESCRIPTION_BYTES 1048576 /* for the error and its traceback */

static void on_count(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    const struct guard *guard = vm_of(L)->guard;
    if (guard && clock_ms() >= atomic_load(&guard->deadline_ms))
        lx_misuse(L, "this still ran when the time for new code was over (%s)", guard->time_key);
}

static void note_position(lua_State *L, char *out, size_t size)
{
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        if (!lua_getinfo(L, "Sl", &ar) || ar.currentline <= 0 || lx_is_library(ar.source))
            continue;
        snprintf(out, size, "%s:%d: ", ar.short_src, ar.currentline);
        return;
    }
}

static bool refuses(struct heap *heap, size_t more)
{
    struct vm *vm = container_of(heap, struct vm, heap);
    struct guard *guard = vm->guard;
    if (!guard || !vm->is_loading)
        return false;
    /* Who is told must be able to describe it: after the first refusal there is a little more. */
    if (vm->heap.bytes + more <= guard->max_bytes + (guard->refused_at[0] ? DESCRIPTION_BYTES : 0))
        return false;
    if (!guard->refused_at[0])
        note_position(vm->L, guard->refused_at, sizeof guard->refused_at);
    return true;
}

void guard_begin(struct vm *vm, struct guard *guard)
{
    vm->guard = guard;
    vm->heap.refuses = refuses;
    guard->refused_at[0] = '\0';
}

void guard_hook(struct vm *vm)
{
    luaJIT_setmode(vm->L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    lua_sethook(vm->L, on_count, LUA_MASKCOUNT, INSTRUCTIONS);
}

void guard_end(struct vm *vm)
{
    if (!vm->guard)
        return;
    vm->guard = NULL;
    vm->heap.refuses = NULL;
    lua_sethook(vm->L, NULL, 0, 0);
    luaJIT_setmode(vm->L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_ON);
}
