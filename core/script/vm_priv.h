/* What co.c, vm.c, loader.c and serve.c share about a VM. Nobody else includes this. */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "script/guard.h"
#include "script/heap.h"
#include "script/running.h"
#include "script/vm.h"

struct co;

struct vm_route { /* http_route.handler is an index into vm->routes */
    int ref;      /* registry: the route's `run` function */
    bool wants_req;
    unsigned metric;           /* as http_route.metric: ours until the VM ends */
    char label[RUNNING_ROUTE]; /* "GET /api/products/:slug", cut */
};

struct vm {
    unsigned magic;
    lua_State *L; /* main thread: loading, metatables; requests run on coroutines */
    const struct env *env;
    const struct bundle *bundle;
    uint32_t generation;
    const struct vm_module *modules;

    struct heap heap; /* its address is what the allocator carries, and so this VM's */
    struct where *where;
    struct running *running, unseen; /* env's, or the second */

    struct http_router *router;
    struct vm_route *routes;
    size_t n_routes;
    int ref_hooks[VM_N_HOOKS]; /* registry: lists of functions */
    struct guard *guard;       /* borrowed; NULL: none */
    struct list owned;         /* struct vm_owned */
    bool is_loading, is_off_loop /* while loading */, is_stopped, is_closing, has_ended;

    /* co.c */
    struct co *current;
    struct list active, idle;
    size_t n_active, n_idle, n_slow_unsaid;
    uint64_t slow_due_ms;

    struct arena scratch; /* of lx_json_decode; lives here because lua_error may jump over its owner */
    struct buf text;      /* of bindings that build a string; emptied by who uses it */
    int ref_req_meta, ref_writer_meta;
};

/* co.c's share of vm_new and vm_free. */
void co_setup(struct vm *vm);
void co_end_all(struct vm *vm);       /* every activity, at once */
void co_teardown(struct vm *vm);      /* afterwards: frees the free list */
void co_kill_detached(struct vm *vm); /* spawned tasks: whatever has no owner and no parent */
/* Ends what runs: requests as by their deadline, the rest cancelled. `streams`: those too, else only the others. */
void co_kill_all(struct vm *vm, bool streams);
bool co_has_only_streams(const struct vm *vm);
/* Message handler while loading: keeps the traceback for vm_opts.trace. Stack: error → error */
int vm_note_trace(lua_State *L);
/* The boot table stays in the registry under this name, for run.c. */
#define LOADER_BOOT "chowk.boot"
/* loader.c: replaces require, builds the application's sandboxed environment. Raises. Stack: → boot table */
void loader_open(lua_State *L);
