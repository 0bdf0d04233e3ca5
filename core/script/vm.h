/* One generation in one worker: a lua_State, its modules, its coroutines, its routes.
 * Code comes only from the bundle (application) and from the bytecode in this binary (lua/chowk). */
#pragma once

#include <lua.h>

#include "http/router.h"
#include "script/bundle.h"
#include "script/env.h"

#define VM_MAGIC 0x6d01a901u
struct vm;
struct guard;

/* One ordered table (bind/modules.c) of C modules: require "chowk.core.<name>" in lua/chowk facades. */
struct vm_module {
    const char *name;
    lua_CFunction open;
};

struct vm_opts {
    const struct env *env;
    const struct bundle *bundle;     /* borrowed for the vm's life */
    const struct vm_module *modules; /* ends with {NULL, NULL} */
    uint32_t generation;             /* its number, for the scoreboard and the log */
    const char *main;                /* module to require: it returns the routes (or nothing, for `chowk run`) */
    struct guard *guard; /* limits loading; borrowed for the call, or until vm_free if it stays; NULL: none */
    bool keeps_guard;    /* it also limits what runs afterwards */
    bool is_off_loop;    /* loads on another thread than the loop's */
    struct buf *trace;   /* takes the traceback of an error, as text; NULL: nobody asks */
};

/* Loads and runs `main`, builds the router. NULL: err says "lua/store/routes/orders.lua:42: …". While loading only
 * declarations may run. */
struct vm *vm_new(const struct vm_opts *opts, struct err *err);
/* Cancels what still runs and closes what Lua left open on the loop. Afterwards vm_free touches nothing of the loop and
 * may be called on another thread. */
void vm_end(struct vm *vm);
void vm_free(struct vm *vm); /* with vm_end, if that was not called */
const struct http_router *vm_router(const struct vm *vm);
lua_State *vm_state(struct vm *vm);
struct vm *vm_of(lua_State *L); /* of any thread of it, also inside __gc while it is closing */
uint32_t vm_generation(const struct vm *vm);
const struct env *vm_env(const struct vm *vm);
size_t vm_active(const struct vm *vm); /* coroutines not finished */
bool vm_is_loading(const struct vm *vm);
bool vm_is_off_loop(const struct vm *vm); /* loading on another thread: nothing of the loop may be touched */
bool vm_is_closing(const struct vm *vm);  /* in vm_end: nothing new may be spawned */
size_t vm_bytes(const struct vm *vm);     /* held by its Lua heap */
struct buf *vm_text(struct vm *vm);       /* scratch for bindings, emptied; valid until the next call that uses it */
struct arena *vm_scratch(struct vm *vm);  /* scratch, emptied; as vm_text */

/* A handle of the loop (a subscription, an open COPY) in a userdata: it is closed on the loop when its generation ends,
 * because the collector's last run may be on another thread. Embed it; zeroed = not owned. */
struct vm_owned {
    struct list node;
    void (*close)(struct vm_owned *owned); /* must not use Lua */
};
void vm_own(lua_State *L, struct vm_owned *owned, void (*close)(struct vm_owned *owned));
void vm_disown(struct vm_owned *owned); /* before its memory goes; safe when it is not owned */

enum vm_hook { VM_ON_START, VM_ON_STOP, VM_SELF_TEST, VM_N_HOOKS };
void vm_add_hook(lua_State *L, enum vm_hook hook); /* takes the function on top; raises unless loading */
void vm_start(struct vm *vm);                      /* runs app.on_start functions, each in its own co */
void vm_stop(struct vm *vm);                       /* cancels spawned tasks, runs app.on_stop; once */
size_t vm_n_hooks(struct vm *vm, enum vm_hook hook);
/* Runs every app.self_test function at once. `done` is called when the last has ended: message is NULL when all have
 * passed, else the first failure, with its traceback (may be NULL); both borrowed. There must be one. */
typedef void (*vm_test_fn)(void *data, const char *message, const char *trace);
void vm_self_test(struct vm *vm, uint64_t deadline_ms, vm_test_fn done, void *data);
