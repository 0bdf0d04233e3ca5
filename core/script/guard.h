/* A limit on code that is being loaded and may be anything: how long it runs and how much memory it takes, both told
 * with the author's file and line (TRAPS T7). While a guard is on, the JIT compiler is off, because hooks do not fire
 * in compiled loops (T8). */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;

struct guard {
    _Atomic uint64_t deadline_ms; /* clock_ms; another thread may move it, 0: at once */
    const char *time_key;         /* which key set it, for the message; borrowed for ever */
    size_t max_bytes;             /* of the Lua heap */
    char refused_at[128];         /* where memory ran out first: "lua/app.lua:3: "; "" = it did not */
};

/* vm.c's. `guard` is borrowed until guard_end. */
void guard_begin(struct vm *vm, struct guard *guard); /* memory, from now on */
void guard_hook(struct vm *vm);                       /* and time */
void guard_end(struct vm *vm);
