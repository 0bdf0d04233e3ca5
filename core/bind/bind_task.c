/* Boundary of chowk.task: sleeping, spawning, and waiting for several functions at once. Children of `all` share their
 * parent's deadline and request, and never outlive it: the parent is woken when the last of them has ended. */
#include <lauxlib.h>
#include <stdlib.h>

#include "base/log.h"
#include "bind/modules.h"
#include "script/co.h"
#include "script/lx.h"

#define MAX_CHILDREN 1000

/* ---- sleep ------------------------------------------------------------------------------------------------ */

struct nap {
    struct timer timer;
    struct co *co;
    struct loop *loop;
};

static void on_nap_over(struct timer *timer)
{
    struct nap *nap = container_of(timer, struct nap, timer);
    struct co *co = nap->co;
    loop_reclaim(nap->loop, nap);
    lua_pushboolean(co_stack(co), 1);
    co_wake(co, 1);
}

static void cancel_nap(struct co *co, void *data)
{
    struct nap *nap = data;
    (void)co;
    timer_stop(nap->loop, &nap->timer);
    loop_reclaim(nap->loop, nap);
}

/* sleep(seconds) → true | false, err. Yields. */
static int nap_for(lua_State *L)
{
    lua_Number seconds = luaL_checknumber(L, 1);
    luaL_argcheck(L, seconds >= 0 && seconds < 1e9, 1, "a duration from 0 seconds");
    struct co *co = co_op_begin(L, cancel_nap, NULL);
    struct nap *nap = xalloc(sizeof *nap);
    nap->co = co;
    nap->loop = vm_env(vm_of(L))->loop;
    co_op_set_data(co, nap);
    timer_arm(nap->loop, &nap->timer, loop_now(nap->loop) + (uint64_t)(seconds * 1000), on_nap_over);
    return co_park(L);
}

/* ---- spawn ------------------------------------------------------------------------------------------------ */

/* Moves the function and arguments on L (all of them) to a new activity. */
static struct co *make_child(lua_State *L, int n_values)
{
    struct co *co = co_new(vm_of(L));
    lua_checkstack(co_stack(co), n_values + 4);
    lua_xmove(L, co_stack(co), n_values);
    return co;
}

static void on_task_done(struct co *co, lua_State *L, int n_results, const char *trace, void *data)
{
    struct err err;
    (void)co, (void)data;
    if (n_results >= 0 || (lx_to_err(L, -1, &err) && err.code == ERR_CANCELLED))
        return;
    log_error("a spawned task failed", LOG_S("error", lx_to_text(L, -1)), LOG_S("traceback", trace ? trace : ""));
}

/* spawn(fn, …): starts it later in this turn, as an activity of its own without a deadline */
static int spawn(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    if (vm_is_loading(vm_of(L)))
        lx_misuse(L, "task.spawn while loading: put it into app.on_start");
    if (vm_is_closing(vm_of(L)))
        lx_misuse(L, "task.spawn: this server is stopping");
    int n_args = lua_gettop(L) - 1;
    co_start_soon(make_child(L, n_args + 1), n_args, 0, on_task_done, NULL);
    return 0;
}

/* ---- all -------------------------------------------------------------------------------------------------- */

struct child {
    struct group *group;
    struct co *co; /* NULL: ended */
    int index;
};
struct group {
    struct vm *vm;
    struct co *parent; /* NULL: it was cancelled and forgot us */
    int n_children, n_running, ref_results;
    bool has_failed;
    struct child children[];
};

static void cancel_children(struct group *group)
{
    for (int i = 0; i < group->n_children; i++)
        if (group->children[i].co)
            co_kill(group->children[i].co, ERR_CANCELLED);
}

/* The last child has ended: results[0] is the error, if any. */
static void finish_group(struct group *group)
{
    struct co *parent = group->parent;
    lua_State *main = vm_state(group->vm);
    if (parent) {
        lua_State *L = co_stack(parent);
        lua_pushboolean(L, !group->has_failed);
        lua_rawgeti(L, LUA_REGISTRYINDEX, group->ref_results);
        if (group->has_failed) {
            lua_rawgeti(L, -1, 0);
            lua_remove(L, -2);
        }
    }
    luaL_unref(main, LUA_REGISTRYINDEX, group->ref_results);
    free(group);
    if (parent)
        co_wake(parent, 2);
}

static void on_child_done(struct co *co, lua_State *L, int n_results, const char *trace, void *data)
{
    struct child *child = data;
    struct group *group = child->group;
    (void)co, (void)trace;
    child->co = NULL;
    if (n_results == 0)
        lua_pushnil(L);
    else if (n_results > 0)
        lua_pushvalue(L, -n_results); /* the first result */
    lua_rawgeti(L, LUA_REGISTRYINDEX, group->ref_results);
    lua_insert(L, -2); /* Stack: results, value | error */
    bool is_first_error = n_results < 0 && !group->has_failed;
    if (n_results >= 0 || is_first_error)
        lua_rawseti(L, -2, n_results < 0 ? 0 : child->index);
    if (is_first_error) {
        group->has_failed = true;
        cancel_children(group);
    }
    if (--group->n_running == 0)
        finish_group(group);
}

static void cancel_group(struct co *co, void *data)
{
    struct group *group = data;
    (void)co;
    group->parent = NULL;
    cancel_children(group);
    for (int i = 0; i < group->n_children; i++)
        if (group->children[i].co)
            co_set_parent(group->children[i].co, NULL);
}

static void check_functions(lua_State *L, int n)
{
    luaL_argcheck(L, n <= MAX_CHILDREN, 1, "more than 1000 functions");
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, 1, i);
        if (!lua_isfunction(L, -1))
            lx_misuse(L, "task.all: item %d is a %s, expected a function", i, luaL_typename(L, -1));
        lua_pop(L, 1);
    }
}

/* all{fn, …} → true, results | false, err. Yields. */
static int all(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    int n = (int)lua_objlen(L, 1);
    check_functions(L, n);
    lua_createtable(L, n, 0);
    lx_set_array_meta(L, -1);
    if (n == 0) {
        lua_pushboolean(L, 1);
        lua_insert(L, -2);
        return 2;
    }
    struct co *parent = co_op_begin(L, cancel_group, NULL);
    co_op_waits_for(parent, HTTP_N_WAITS); /* its children count what they wait for */
    struct group *group = xalloc(sizeof *group + (size_t)n * sizeof group->children[0]);
    *group = (struct group){.vm = vm_of(L), .parent = parent, .n_children = n, .n_running = n};
    group->ref_results = luaL_ref(L, LUA_REGISTRYINDEX);
    co_op_set_data(parent, group);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, 1, i + 1);
        group->children[i] = (struct child){.group = group, .co = make_child(L, 1), .index = i + 1};
        co_set_parent(group->children[i].co, parent);
        co_start_soon(group->children[i].co, 0, 0, on_child_done, &group->children[i]);
    }
    return co_park(L);
}

int bind_task_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"sleep", nap_for}, {"spawn", spawn}, {"all", all}, {NULL, NULL}};
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
