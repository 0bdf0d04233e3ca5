/* One generation in one worker: a lua_State, its modules, its coroutines, its routes.
 * Code comes only from the bundle (application) and from the bytecode in this binary (lua/chowk). */
#pragma once

#include <lua.h>

#include "http/router.h"
#include "script/bundle.h"
#include "script/env.h"

#define VM_MAGIC 0x6d01a901u
struct vm;

/* One ordered table (bind/modules.c) of C modules: require "chowk.core.<name>" in lua/chowk facades. */
struct vm_module {
    const char *name;
    lua_CFunction open;
};

struct vm_opts {
    const struct env *env;
    const struct bundle *bundle;     /* borrowed for the vm's life */
    const struct vm_module *modules; /* ends with {NULL, NULL} */
    const char *main;                /* module to require: it returns the routes (or nothing, for `chowk run`) */
};

/* Loads and runs `main`, builds the router. NULL: err says "lua/store/routes/orders.lua:42: …". While loading only
 * declarations may run. */
struct vm *vm_new(const struct vm_opts *opts, struct err *err);
void vm_free(struct vm *vm); /* cancels what still runs */
const struct http_router *vm_router(const struct vm *vm);
lua_State *vm_state(struct vm *vm);
struct vm *vm_of(lua_State *L); /* of any thread of it, also inside __gc while it is closing */
const struct env *vm_env(const struct vm *vm);
size_t vm_active(const struct vm *vm); /* coroutines not finished */
bool vm_is_loading(const struct vm *vm);
bool vm_is_closing(const struct vm *vm); /* in vm_free: nothing new may be spawned */
size_t vm_bytes(const struct vm *vm);    /* held by its Lua heap */
struct buf *vm_text(struct vm *vm);      /* scratch for bindings, emptied; valid until the next call that uses it */
struct arena *vm_scratch(struct vm *vm); /* scratch, emptied; as vm_text */
enum vm_hook { VM_ON_START, VM_ON_STOP };
void vm_add_hook(lua_State *L, enum vm_hook hook); /* takes the function on top; raises unless loading */
void vm_start(struct vm *vm);                      /* runs app.on_start functions, each in its own co */
void vm_stop(struct vm *vm);                       /* runs app.on_stop, cancels spawned tasks */
