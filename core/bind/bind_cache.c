/* chowk.core.cache, for lua/chowk/cache.lua. The hot path is `peek`: one look into shared memory, no waiting, no table.
 * What waits parks, and ends with `true, outcome, …` or `false, err`. The order to load a value travels as a ticket:
 * whatever becomes of the coroutine that holds it, a ticket that is dropped hands the load on. */
#include "bind/modules.h"

#include <lauxlib.h>
#include <stdlib.h>

#include "script/co.h"
#include "script/lx.h"
#include "script/vm.h"
#include "services/cache.h"

#define TICKET_META "chowk.cache.ticket"
enum { NAMES_MAX = 1000 };

/* What peek and wait answer; the facade knows these numbers. */
enum outcome { ABSENT, FRESH, STALE, LOAD, ELSEWHERE };

struct ticket {
    struct vm_owned owned;
    struct cache_load *load; /* NULL: ended */
};

/* ---- arguments ------------------------------------------------------------------------------------------------- */

static struct cache *check_cache(lua_State *L)
{
    struct cache *cache = vm_env(vm_of(L))->cache;
    if (co_tx(co_current(L)))
        lx_misuse(L, "chowk.cache inside a transaction: read through tx, and name what changes with tx:forget");
    if (cache)
        return cache;
    struct err err = {0};
    (void)err_set(&err, ERR_UNAVAILABLE, "the cache needs a running server");
    lx_push_err(L, &err);
    lua_error(L);
    return NULL;
}

NORETURN static void raise_misuse(lua_State *L, const struct err *err)
{
    lx_misuse(L, "%s", err->message);
}

/* The string at idx as a key or a tag. */
static struct slice check_name(lua_State *L, int idx, bool is_tag)
{
    struct err err;
    struct slice name;
    if (lua_type(L, idx) != LUA_TSTRING)
        lx_misuse(L, "cache: a %s is a string, got %s%s", is_tag ? "tag" : "key", luaL_typename(L, idx),
                  lua_type(L, idx) == LUA_TNUMBER ? " (write (\"product:%d\"):format(id): .. cuts long numbers)" : "");
    name.ptr = lua_tolstring(L, idx, &name.len);
    if ((is_tag ? cache_check_tag(name, &err) : cache_check_key(name, &err)) != OK)
        raise_misuse(L, &err);
    return name;
}

/* The list of names at idx, which keeps them alive; nil is none. */
static struct slice *check_names(lua_State *L, int idx, bool is_tag, size_t max, size_t *n)
{
    *n = 0;
    if (lua_isnoneornil(L, idx))
        return NULL;
    luaL_checktype(L, idx, LUA_TTABLE);
    size_t len = lua_objlen(L, idx);
    if (len > max)
        lx_misuse(L, "cache: %d %ss, at most %d", (int)len, is_tag ? "tag" : "key", (int)max);
    struct slice *names = arena_alloc(vm_scratch(vm_of(L)), (len + 1) * sizeof(*names));
    for (; *n < len; (*n)++) {
        lua_rawgeti(L, idx, (int)*n + 1);
        names[*n] = check_name(L, -1, is_tag);
        lua_pop(L, 1);
    }
    return names;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

/* Stack: +1. ERR: nothing, err. */
static enum status push_value(lua_State *L, const struct cache_value *value, struct err *err)
{
    switch (value->kind) {
    case CACHE_NOTHING:
        lua_pushnil(L);
        return OK;
    case CACHE_RAW:
        lx_push_raw(L, value->bytes);
        return OK;
    case CACHE_STRING:
        lx_push_slice(L, value->bytes);
        return OK;
    case CACHE_JSON:
        return lx_json_decode_row(L, value->bytes, err);
    case CACHE_N_KINDS:
        break;
    }
    WRONG("cache_kind");
}

/* Its generation has ended. */
static void on_end(struct vm_owned *owned)
{
    struct ticket *ticket = container_of(owned, struct ticket, owned);
    cache_load_abandon(ticket->load);
    ticket->load = NULL;
}

static void abandon(struct ticket *ticket)
{
    vm_disown(&ticket->owned);
    if (ticket->load)
        cache_load_abandon(ticket->load);
    ticket->load = NULL;
}

static void push_ticket(lua_State *L, struct cache_load *load)
{
    struct ticket *ticket = lua_newuserdata(L, sizeof(*ticket));
    *ticket = (struct ticket){.load = load};
    vm_own(L, &ticket->owned, on_end);
    luaL_getmetatable(L, TICKET_META);
    lua_setmetatable(L, -2);
}

static struct cache_load *end_ticket(lua_State *L, int arg)
{
    struct ticket *ticket = luaL_checkudata(L, arg, TICKET_META);
    struct cache_load *load = ticket->load;
    if (!load)
        lx_misuse(L, "cache: this load has ended");
    ticket->load = NULL;
    vm_disown(&ticket->owned);
    return load;
}

/* Pushes `outcome, value | ticket`. ERR: nothing, err. */
static enum status push_outcome(lua_State *L, const struct cache_outcome *outcome, struct err *err)
{
    int top = lua_gettop(L);
    switch (outcome->type) {
    case CACHE_VALUE:
        lua_pushinteger(L, outcome->is_stale ? STALE : FRESH);
        if (push_value(L, &outcome->value, err) == OK)
            return OK;
        lua_settop(L, top);
        return ERR;
    case CACHE_LOAD:
        lua_pushinteger(L, LOAD);
        push_ticket(L, outcome->load);
        return OK;
    case CACHE_ABSENT:
    case CACHE_ELSEWHERE:
        lua_pushinteger(L, outcome->type == CACHE_ABSENT ? ABSENT : ELSEWHERE);
        lua_pushnil(L);
        return OK;
    case CACHE_FAILED:
        *err = *outcome->err;
        return ERR;
    }
    WRONG("cache_outcome_type");
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* peek(key) → outcome, value */
static int peek(lua_State *L)
{
    struct cache *cache = check_cache(L);
    struct cache_value value;
    struct err err;
    struct slice key = check_name(L, 1, false);
    struct buf *bytes = vm_text(vm_of(L));
    enum cache_hit hit = cache_peek(cache, key, bytes, &value.kind);
    if (hit == CACHE_MISS) {
        lua_pushinteger(L, ABSENT);
        return 1;
    }
    value.bytes = buf_as_slice(bytes);
    lua_pushinteger(L, hit == CACHE_HIT ? FRESH : STALE);
    if (push_value(L, &value, &err) != OK)
        raise_misuse(L, &err);
    return 2;
}

static void on_outcome(void *data, const struct cache_outcome *outcome)
{
    struct co *co = data;
    struct err err = {0};
    lua_State *L = co_stack(co);
    lua_checkstack(L, 8);
    lua_pushboolean(L, 1);
    if (push_outcome(L, outcome, &err) == OK) {
        co_wake(co, 3);
        return;
    }
    lua_pop(L, 1);
    lua_pushboolean(L, 0);
    lx_push_err(L, &err);
    co_wake(co, 2);
}

static void cancel_wait(struct co *co UNUSED, void *wait)
{
    if (wait)
        cache_wait_cancel(wait);
}

/* wait(key, tags | nil, mode, ticket | nil) → true, outcome, value | ticket, or false, err. mode: enum cache_mode */
static int wait(lua_State *L)
{
    struct cache *cache = check_cache(L);
    size_t n_tags;
    struct slice key = check_name(L, 1, false), *tags = check_names(L, 2, true, CACHE_TAGS_MAX, &n_tags);
    enum cache_mode mode = (enum cache_mode)luaL_checkinteger(L, 3);
    if (cache_is_loading(cache, key, co_current(L)))
        lx_misuse(L, "cache.fetch: the loader of \"%.*s\" fetches the same key", SLICE_FMT(key));
    struct co *co = co_op_begin(L, cancel_wait, NULL);
    struct cache_call call = {.subject = {key, tags, n_tags},
                              .mode = mode,
                              .claimed = lua_isnoneornil(L, 4) ? NULL : end_ticket(L, 4),
                              .deadline_ms = co_deadline(co),
                              .done = on_outcome,
                              .data = co,
                              .owner = co};
    co_op_set_data(co, cache_wait_start(cache, &call));
    return co_park(L);
}

/* refresh(key, tags | nil) → ticket, or nil: somebody is at it */
static int refresh(lua_State *L)
{
    struct cache *cache = check_cache(L);
    size_t n_tags;
    struct slice key = check_name(L, 1, false), *tags = check_names(L, 2, true, CACHE_TAGS_MAX, &n_tags);
    if (vm_is_closing(vm_of(L)))
        return 0;
    struct cache_load *load = cache_refresh_claim(cache, &(struct cache_subject){key, tags, n_tags});
    if (!load)
        return 0;
    push_ticket(L, load);
    return 1;
}

/* ---- several at once ------------------------------------------------------------------------------------------- */

struct many_item {
    struct many *many;
    struct cache_wait *wait; /* NULL: done */
    int index;
};
struct many {
    struct co *co;
    int n_items, n_pending, ref_results;
    struct many_item items[];
};

static void many_free(struct many *many, lua_State *L)
{
    luaL_unref(L, LUA_REGISTRYINDEX, many->ref_results);
    free(many);
}

/* results[2i - 1], results[2i] = outcome, value | ticket. One that failed is one that is absent: its load says why. */
static void on_item(void *data, const struct cache_outcome *outcome)
{
    struct many_item *item = data;
    struct many *many = item->many;
    struct co *co = many->co;
    lua_State *L = co_stack(co);
    struct err err;
    item->wait = NULL;
    lua_checkstack(L, 8);
    lua_rawgeti(L, LUA_REGISTRYINDEX, many->ref_results);
    if (push_outcome(L, outcome, &err) != OK) {
        lua_pushinteger(L, ABSENT);
        lua_pushnil(L);
    }
    lua_rawseti(L, -3, 2 * item->index);
    lua_rawseti(L, -2, 2 * item->index - 1);
    if (--many->n_pending > 0) {
        lua_pop(L, 1);
        return;
    }
    lua_pushboolean(L, 1);
    lua_insert(L, -2);
    many_free(many, L);
    co_wake(co, 2);
}

/* The loads that had been handed to him go on to others now, not when the results are collected. */
static void abandon_results(struct many *many, lua_State *L)
{
    lua_checkstack(L, 8);
    lua_rawgeti(L, LUA_REGISTRYINDEX, many->ref_results);
    for (int i = 1; i <= many->n_items; i++) {
        lua_rawgeti(L, -1, 2 * i);
        struct ticket *ticket = luaL_testudata(L, -1, TICKET_META);
        if (ticket)
            abandon(ticket);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void cancel_many(struct co *co, void *data)
{
    struct many *many = data;
    if (!many)
        return;
    for (int i = 0; i < many->n_items; i++)
        if (many->items[i].wait)
            cache_wait_cancel(many->items[i].wait);
    abandon_results(many, co_stack(co));
    many_free(many, co_stack(co));
}

/* wait_many(keys, tags | nil, mode) → true, {outcome, value | ticket, …}, or false, err */
static int wait_many(lua_State *L)
{
    struct cache *cache = check_cache(L);
    size_t n_tags, n;
    struct slice *tags = check_names(L, 2, true, CACHE_TAGS_MAX, &n_tags);
    lua_settop(L, 3);
    struct slice own_tags[CACHE_TAGS_MAX]; /* reading the keys empties the scratch arena */
    if (n_tags)
        memcpy(own_tags, tags, n_tags * sizeof(*tags));
    struct slice *keys = check_names(L, 1, false, NAMES_MAX, &n);
    enum cache_mode mode = (enum cache_mode)luaL_checkinteger(L, 3);
    struct co *co = co_op_begin(L, cancel_many, NULL);
    lua_createtable(L, 2 * (int)n, 0);
    int ref_results = luaL_ref(L, LUA_REGISTRYINDEX);
    struct many *many = xalloc(sizeof(*many) + n * sizeof(many->items[0]));
    *many = (struct many){.co = co, .n_items = (int)n, .n_pending = (int)n, .ref_results = ref_results};
    co_op_set_data(co, many);
    for (size_t i = 0; i < n; i++) {
        many->items[i] = (struct many_item){.many = many, .index = (int)i + 1};
        struct cache_call call = {.subject = {keys[i], own_tags, n_tags},
                                  .mode = mode,
                                  .deadline_ms = co_deadline(co),
                                  .done = on_item,
                                  .data = &many->items[i],
                                  .owner = co};
        many->items[i].wait = cache_wait_start(cache, &call);
    }
    return co_park(L);
}

/* ---- the end of a load ------------------------------------------------------------------------------------------- */

/* The value at idx as it is stored. ERR: not something that can be. */
static enum status read_value(lua_State *L, int idx, struct cache_value *value, struct err *err)
{
    struct buf *json = vm_text(vm_of(L));
    *value = (struct cache_value){.kind = CACHE_NOTHING};
    if (lua_isnoneornil(L, idx))
        return OK;
    if (lx_to_raw(L, idx, &value->bytes)) {
        value->kind = CACHE_RAW;
        return OK;
    }
    if (lua_type(L, idx) == LUA_TSTRING) {
        value->kind = CACHE_STRING;
        value->bytes.ptr = lua_tolstring(L, idx, &value->bytes.len);
        return OK;
    }
    value->kind = CACHE_JSON;
    if (lx_json_encode(L, idx, json, err) != OK)
        return err_prefix(err, "cache.fetch: the loader returned what cannot be stored");
    value->bytes = buf_as_slice(json);
    return OK;
}

/* store(ticket, value, ttl, stale, neg_ttl, jitter) → the value as everybody else gets it. Times in seconds. */
static int store(lua_State *L)
{
    struct cache *cache = vm_env(vm_of(L))->cache;
    struct cache_life life = {.ttl_ms = (uint64_t)(luaL_checknumber(L, 3) * 1000),
                              .stale_ms = (uint64_t)(luaL_checknumber(L, 4) * 1000),
                              .neg_ttl_ms = (uint64_t)(luaL_checknumber(L, 5) * 1000),
                              .jitter = luaL_checknumber(L, 6)};
    struct cache_load *load = end_ticket(L, 1);
    struct cache_value value;
    struct err err = {0};
    bool is_good = read_value(L, 2, &value, &err) == OK;
    if (!is_good || cache_check_value(cache, load, value.bytes, &err) != OK) {
        cache_load_abandon(load);
        if (!is_good)
            raise_misuse(L, &err);
        lx_push_err(L, &err);
        return lua_error(L);
    }
    cache_load_store(load, &value, &life);
    if (value.kind != CACHE_JSON)
        lua_pushvalue(L, 2);
    else if (push_value(L, &value, &err) != OK)
        raise_misuse(L, &err);
    return 1;
}

/* fail(ticket, err): all who wait get a run-time failure; what is one's own bug or fate is not theirs. */
static int fail(lua_State *L)
{
    struct err err;
    struct cache_load *load = end_ticket(L, 1);
    if (lx_to_err(L, 2, &err) && err.code != ERR_CANCELLED && err.code != ERR_DEADLINE)
        cache_load_fail(load, &err);
    else
        cache_load_abandon(load);
    return 0;
}

static int drop_ticket(lua_State *L)
{
    abandon(lua_touserdata(L, 1));
    return 0;
}

/* ---- forgetting ---------------------------------------------------------------------------------------------------
 */

static void on_forgotten(void *data)
{
    struct co *co = data;
    lua_pushboolean(co_stack(co), 1);
    co_wake(co, 1);
}

static void cancel_forget(struct co *co UNUSED, void *forget)
{
    if (forget)
        cache_forget_notify(forget, NULL, NULL);
}

/* forget(keys | nil, tags | nil, records) → true. A tag "" is everything. What it does begins before it waits, so that
 * no deadline keeps it from happening. */
static int forget(lua_State *L)
{
    struct cache *cache = check_cache(L);
    static const struct slice all = {"", 0};
    struct cache_names names = {0};
    struct slice records = lx_check_slice(L, 3);
    size_t n_tags = 0;
    struct slice own_tags[NAMES_MAX];
    if (lua_isstring(L, 2)) {
        names.tags = &all;
        names.n_tags = 1;
    } else {
        const struct slice *tags = check_names(L, 2, true, NAMES_MAX, &n_tags);
        if (n_tags)
            memcpy(own_tags, tags, n_tags * sizeof(*tags));
        names.tags = own_tags;
        names.n_tags = n_tags;
    }
    names.keys = check_names(L, 1, false, NAMES_MAX, &names.n_keys);
    struct co *co = co_current(L);
    co_mark_committed(co);
    struct cache_forget *begun = cache_forget(cache, &names, records);
    co_op_begin(L, cancel_forget, begun);
    cache_forget_notify(begun, on_forgotten, co);
    return co_park(L);
}

/* check(keys | nil, tags | nil): raises the misuse that forget would. */
static int check(lua_State *L)
{
    size_t n;
    check_names(L, 1, false, NAMES_MAX, &n);
    check_names(L, 2, true, NAMES_MAX, &n);
    return 0;
}

/* stats() → the machine's figures as raw JSON */
static int stats(lua_State *L)
{
    struct cache_stats now;
    struct buf *json = vm_text(vm_of(L));
    if (!vm_env(vm_of(L))->cache)
        return 0;
    cache_stats(vm_env(vm_of(L))->cache, &now);
    cache_stats_json(&now, json);
    lx_push_raw(L, buf_as_slice(json));
    return 1;
}

int bind_cache_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"peek", peek}, {"wait", wait},     {"wait_many", wait_many}, {"refresh", refresh}, {"store", store},
        {"fail", fail}, {"forget", forget}, {"check", check},         {"stats", stats},     {NULL, NULL}};
    lx_new_class(L, TICKET_META);
    lua_pushcfunction(L, drop_ticket);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    lua_createtable(L, 0, 9);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
