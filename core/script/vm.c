/* One generation's lua_State: creates it, loads the application through lua/chowk/boot.lua, builds the router from what
 * that returns, and closes it. Its allocator is wrapped so that it carries `struct vm *` (vm_of) and keeps count
 * (script/heap).
 *
 * Loading runs declarations only: no co runs then, so every call that waits is refused by co_current. A failure while
 * loading is reported with the author's file and line; it never ends the process. Loading may take long: BLOCKING. */
#include "script/vm.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/metrics.h"
#include "script/co.h"
#include "script/lx.h"
#include "script/vm_priv.h"
#include "script/where.h"

static _Thread_local struct vm *closing; /* while lua_close runs finalisers under the original allocator */

struct vm *vm_of(lua_State *L)
{
    void *ud;
    struct vm *vm = lua_getallocf(L, &ud) == heap_alloc ? container_of(ud, struct vm, heap) : closing;
    CHECK_OBJ(vm, VM_MAGIC);
    return vm;
}

#ifdef __SANITIZE_ADDRESS__
static void *libc_alloc(void *ud, void *ptr, size_t old_size, size_t new_size)
{
    (void)ud, (void)old_size;
    if (new_size)
        return realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

static void open_state(struct vm *vm)
{
    vm->heap.alloc = libc_alloc;
    vm->L = lua_newstate(heap_alloc, &vm->heap);
    CHECK(vm->L);
}
static void close_state(struct vm *vm)
{
    lua_close(vm->L);
    heap_trim(&vm->heap);
}
#else
/* LuaJIT's own allocator is faster than malloc, but it must be the one in place when the state is closed. The collector
 * keeps its defaults (pause 200, stepmul 200): 150 to 1000 and 200 to 400 differed by less than the noise in CPU per
 * request, for small answers and for lists of twenty. */
static void open_state(struct vm *vm)
{
    vm->L = luaL_newstate();
    CHECK(vm->L);
    vm->heap.alloc = lua_getallocf(vm->L, &vm->heap.alloc_ud);
    vm->heap.bytes = (size_t)lua_gc(vm->L, LUA_GCCOUNT, 0) * 1024 + (size_t)lua_gc(vm->L, LUA_GCCOUNTB, 0);
    lua_setallocf(vm->L, heap_alloc, &vm->heap);
}
static void close_state(struct vm *vm)
{
    lua_setallocf(vm->L, vm->heap.alloc, vm->heap.alloc_ud);
    closing = vm;
    lua_close(vm->L);
    closing = NULL;
}
#endif

static int on_panic(lua_State *L)
{
    log_error("Lua error outside a protected call", LOG_S("error", lua_tostring(L, -1)));
    return 0; /* LuaJIT exits the process: the master respawns */
}

/* A module's error passes through every `require` above it: the first sight of it has the whole traceback. */
#define TRACE "chowk.trace" /* registry: {error, traceback, position} */

int vm_note_trace(lua_State *L)
{
    /* Stack: error */
    if (!vm_of(L)->is_loading)
        return 1;
    lua_getfield(L, LUA_REGISTRYINDEX, TRACE);
    if (lua_istable(L, -1)) {
        lua_rawgeti(L, -1, 1);
        bool is_known = lua_rawequal(L, -1, 1);
        lua_pop(L, 1);
        if (is_known) {
            lua_settop(L, 1);
            return 1;
        }
    }
    lua_createtable(L, 3, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    luaL_traceback(L, L, NULL, 1);
    lua_rawseti(L, -2, 2);
    lx_push_where(L);
    lua_rawseti(L, -2, 3);
    lua_setfield(L, LUA_REGISTRYINDEX, TRACE);
    lua_settop(L, 1);
    return 1;
}

/* Message handler while loading: a failure object becomes text with the author's position in front. */
static int describe_error(lua_State *L)
{
    /* Stack: error */
    vm_note_trace(L);
    if (lua_type(L, 1) == LUA_TSTRING)
        return 1;
    lua_getfield(L, LUA_REGISTRYINDEX, TRACE);
    lua_rawgeti(L, -1, 3);
    /* Stack: error, trace, position */
    const char *text = luaL_callmeta(L, 1, "__tostring") ? lua_tostring(L, -1) : NULL;
    if (!text)
        text = lx_to_text(L, 1);
    lua_pushvalue(L, 3);
    lua_pushstring(L, text);
    lua_concat(L, 2);
    return 1;
}

static void copy_trace(lua_State *L, struct buf *out)
{
    lua_getfield(L, LUA_REGISTRYINDEX, TRACE);
    if (!lua_istable(L, -1))
        return;
    lua_rawgeti(L, -1, 2);
    buf_slice(out, lx_check_slice(L, -1));
}

/* Stack in: …, list of routes at `list`; reads list[i] into *route. */
static void read_route(lua_State *L, int list, int i, struct vm_route *entry, struct http_route *route)
{
    static const struct {
        const char *name;
        size_t offset;
    } texts[] = {{"pattern", offsetof(struct http_route, pattern)},
                 {"origin", offsetof(struct http_route, origin)},
                 {"summary", offsetof(struct http_route, summary)}};
    lua_rawgeti(L, list, i);
    for (size_t t = 0; t < ARRAY_LEN(texts); t++) {
        lua_getfield(L, -1, texts[t].name); /* borrowed: the list stays in the registry */
        *(const char **)(void *)((char *)route + texts[t].offset) = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    lua_getfield(L, -1, "method");
    CHECK(http_method_parse(slice_str(lua_tostring(L, -1)), &route->method));
    snprintf(entry->label, sizeof entry->label, "%s %s", lua_tostring(L, -1), route->pattern);
    lua_getfield(L, -2, "max_body");
    route->max_body = (size_t)lua_tonumber(L, -1);
    lua_getfield(L, -3, "deadline_ms");
    route->deadline_ms = (uint32_t)lua_tonumber(L, -1);
    lua_getfield(L, -4, "wants_req");
    entry->wants_req = lua_toboolean(L, -1);
    lua_getfield(L, -5, "run");
    entry->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    route->handler = i - 1;
    route->metric = entry->metric = metrics_route(http_method_name(route->method), route->pattern);
    lua_pop(L, 5);
}

/* Stack in: list of routes */
static enum status build_router(struct vm *vm, struct err *err)
{
    lua_State *L = vm->L;
    int list = lua_gettop(L);
    vm->n_routes = lua_objlen(L, list);
    vm->routes = xalloc((vm->n_routes + 1) * sizeof *vm->routes);
    vm->router = http_router_new();
    for (size_t i = 0; i < vm->n_routes; i++) {
        struct http_route route = {0};
        read_route(L, list, (int)i + 1, &vm->routes[i], &route);
        if (http_router_add(vm->router, &route, err) != OK)
            return ERR;
    }
    luaL_ref(L, LUA_REGISTRYINDEX); /* keeps the strings that the router borrows */
    return OK;
}

/* Protected part of loading. Stack: lightuserdata opts → list of routes */
static int load_protected(lua_State *L)
{
    const struct vm_opts *opts = lua_touserdata(L, 1);
    struct vm *vm = vm_of(L);
    luaL_openlibs(L);
    if (vm->guard)
        guard_hook(vm); /* behind the libraries: opening that of the JIT compiler turns it on */
    where_watch_traces(L);
    lx_open(L);
    for (size_t i = 0; i < ARRAY_LEN(vm->ref_hooks); i++) {
        lua_newtable(L);
        vm->ref_hooks[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    loader_open(L); /* Stack: …, boot */
    lua_getfield(L, -1, "load");
    if (opts->main)
        lua_pushstring(L, opts->main);
    else
        lua_pushnil(L);
    lua_call(L, 1, 1);
    return 1;
}

static enum status load(struct vm *vm, const struct vm_opts *opts, struct err *err)
{
    lua_State *L = vm->L;
    lua_pushcfunction(L, describe_error);
    lua_pushcfunction(L, load_protected);
    lua_pushlightuserdata(L, (void *)(uintptr_t)opts);
    if (lua_pcall(L, 1, 1, 1) != 0) {
        const char *text = lua_tostring(L, -1);
        if (opts->trace)
            copy_trace(L, opts->trace);
        if (vm->guard && vm->guard->refused_at[0])
            return err_set(err, ERR_INVALID, "%sloading needs more than %zu MiB of memory (reload.max_memory)",
                           vm->guard->refused_at, vm->guard->max_bytes >> 20);
        return err_set(err, ERR_INVALID, "%s", text ? text : "error while loading");
    }
    enum status rc = build_router(vm, err);
    lua_settop(L, 0);
    return rc;
}

struct vm *vm_new(const struct vm_opts *opts, struct err *err)
{
    struct vm *vm = xalloc(sizeof *vm);
    vm->magic = VM_MAGIC;
    vm->env = opts->env;
    vm->bundle = opts->bundle;
    vm->modules = opts->modules;
    vm->generation = opts->generation;
    vm->ref_req_meta = vm->ref_writer_meta = LUA_NOREF;
    arena_create(&vm->scratch);
    list_init(&vm->owned);
    vm->running = vm->env->running ? vm->env->running : &vm->unseen;
    co_setup(vm);
    heap_create(&vm->heap, vm->env->lua_heap, vm->env->heap_share);
    vm->where = where_new(vm);
    open_state(vm);
    lua_atpanic(vm->L, on_panic);
    if (opts->guard)
        guard_begin(vm, opts->guard);
    vm->is_loading = true;
    vm->is_off_loop = opts->is_off_loop;
    enum status rc = load(vm, opts, err);
    vm->is_loading = vm->is_off_loop = false;
    if (!opts->keeps_guard)
        guard_end(vm);
    if (rc == OK)
        return vm;
    vm_free(vm);
    return NULL;
}

void vm_end(struct vm *vm)
{
    CHECK_OBJ(vm, VM_MAGIC);
    vm->is_closing = true;
    co_end_all(vm);
    heap_withdraw(&vm->heap);
    struct list *node;
    while ((node = list_pop(&vm->owned))) {
        struct vm_owned *owned = container_of(node, struct vm_owned, node);
        owned->close(owned);
    }
    vm->has_ended = true;
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    CHECK_OBJ(vm, VM_MAGIC);
    if (!vm->has_ended)
        vm_end(vm);
    guard_end(vm);
    co_teardown(vm);
    if (vm->router)
        http_router_free(vm->router);
    close_state(vm);
    where_free(vm->where);
    for (size_t i = 0; i < vm->n_routes; i++)
        metrics_route_leave(vm->routes[i].metric);
    free(vm->routes);
    buf_free(&vm->text);
    arena_destroy(&vm->scratch);
    vm->magic = 0;
    free(vm);
}

void vm_own(lua_State *L, struct vm_owned *owned, void (*close)(struct vm_owned *owned))
{
    struct vm *vm = vm_of(L);
    CHECK(!vm->has_ended);
    owned->close = close;
    list_push(&vm->owned, &owned->node);
}

void vm_disown(struct vm_owned *owned)
{
    list_remove(&owned->node);
}

/* ---- start and stop --------------------------------------------------------------------------------------- */

static char hook_names[VM_N_HOOKS][16] = {"app.on_start", "app.on_stop", "app.self_test"};

void vm_add_hook(lua_State *L, enum vm_hook hook)
{
    struct vm *vm = vm_of(L);
    if (!vm->is_loading)
        lx_misuse(L, "%s is for loading time: declare it at the top level of a module", hook_names[hook]);
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->ref_hooks[hook]);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
    lua_pop(L, 2);
}

static void on_hook_done(struct co *co, lua_State *L, int n_results, const char *trace, void *data)
{
    (void)co;
    if (n_results >= 0)
        return;
    struct err err;
    if (lx_to_err(L, -1, &err) && err.code == ERR_CANCELLED)
        return;
    const char *text = lx_to_text(L, -1);
    log_error("failed", LOG_S("in", data), LOG_S("error", text), LOG_S("traceback", trace ? trace : ""));
}

static void run_hooks(struct vm *vm, enum vm_hook hook, uint64_t deadline_ms, co_done_fn done, void *data)
{
    lua_State *L = vm->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->ref_hooks[hook]);
    size_t n = lua_objlen(L, -1);
    for (size_t i = 1; i <= n; i++) {
        struct co *co = co_new(vm);
        lua_rawgeti(L, -1, (int)i);
        lua_xmove(L, co_stack(co), 1);
        co_start(co, 0, deadline_ms, done, data);
    }
    lua_pop(L, 1);
}

void vm_start(struct vm *vm)
{
    run_hooks(vm, VM_ON_START, 0, on_hook_done, hook_names[VM_ON_START]);
}

#define STOP_HOOK_MS 5000
void vm_stop(struct vm *vm)
{
    if (vm->is_stopped)
        return;
    vm->is_stopped = true;
    co_kill_detached(vm);
    run_hooks(vm, VM_ON_STOP, loop_now(vm->env->loop) + STOP_HOOK_MS, on_hook_done, hook_names[VM_ON_STOP]);
}

size_t vm_n_hooks(struct vm *vm, enum vm_hook hook)
{
    lua_rawgeti(vm->L, LUA_REGISTRYINDEX, vm->ref_hooks[hook]);
    size_t n = lua_objlen(vm->L, -1);
    lua_pop(vm->L, 1);
    return n;
}

struct self_test {
    size_t n_running;
    bool has_failed;
    struct buf message, trace;
    vm_test_fn done;
    void *data;
};

static void end_self_test(struct self_test *test)
{
    bool has_trace = test->trace.len > 0;
    buf_byte(&test->message, '\0');
    buf_byte(&test->trace, '\0');
    test->done(test->data, test->has_failed ? test->message.ptr : NULL, has_trace ? test->trace.ptr : NULL);
    buf_free(&test->message);
    buf_free(&test->trace);
    free(test);
}

static void on_test_done(struct co *co, lua_State *L, int n_results, const char *trace, void *data)
{
    struct self_test *test = data;
    (void)co;
    bool is_false = n_results > 0 && lua_isboolean(L, -n_results) && !lua_toboolean(L, -n_results);
    if ((n_results < 0 || is_false) && !test->has_failed) {
        test->has_failed = true;
        const char *text = is_false ? "app.self_test: the function returned false" : lx_to_text(L, -1);
        buf_slice(&test->message, slice_str(text));
        buf_slice(&test->trace, slice_str(trace ? trace : ""));
    }
    if (--test->n_running == 0)
        end_self_test(test);
}

void vm_self_test(struct vm *vm, uint64_t deadline_ms, vm_test_fn done, void *data)
{
    struct self_test *test = xalloc(sizeof *test);
    *test = (struct self_test){.n_running = vm_n_hooks(vm, VM_SELF_TEST), .done = done, .data = data};
    CHECK(test->n_running > 0);
    run_hooks(vm, VM_SELF_TEST, deadline_ms, on_test_done, test);
}

/* ---- plain access ----------------------------------------------------------------------------------------- */

const struct http_router *vm_router(const struct vm *vm)
{
    return vm->router;
}

lua_State *vm_state(struct vm *vm)
{
    return vm->L;
}

uint32_t vm_generation(const struct vm *vm)
{
    return vm->generation;
}

const struct env *vm_env(const struct vm *vm)
{
    return vm->env;
}

size_t vm_active(const struct vm *vm)
{
    return vm->n_active;
}

bool vm_is_loading(const struct vm *vm)
{
    return vm->is_loading;
}

bool vm_is_off_loop(const struct vm *vm)
{
    return vm->is_off_loop;
}

bool vm_is_closing(const struct vm *vm)
{
    return vm->is_closing;
}

size_t vm_bytes(const struct vm *vm)
{
    return vm->heap.bytes;
}

struct buf *vm_text(struct vm *vm)
{
    buf_clear(&vm->text);
    return &vm->text;
}

struct arena *vm_scratch(struct vm *vm)
{
    arena_destroy(&vm->scratch);
    return &vm->scratch;
}
