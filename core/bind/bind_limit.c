/* chowk.core.limit: rules, and checks of several rules at once. Parks only when Redis counts. A check made for a
 * request leaves the RateLimit fields with it, whatever its answer will be (draft-ietf-httpapi-ratelimit-headers). */
#include "bind/modules.h"

#include <lauxlib.h>
#include <string.h>

#include "script/call.h"
#include "script/co.h"
#include "script/lx.h"
#include "services/limit.h"

enum { LINE_MAX_BYTES = 64 + LIMIT_NAME_MAX };

#define RULE_META "chowk.limit.rule"

/* rule(name, algorithm, limit, burst, window_us, policy) → rule. The facade has checked them. */
static int new_rule(lua_State *L)
{
    static const char *const algorithms[] = {"sliding", "gcra", NULL};
    static const char *const policies[] = {"local", "open", "closed", NULL};
    struct slice name = lx_check_slice(L, 1);
    struct limit_rule rule = {.algorithm = (enum limit_algorithm)luaL_checkoption(L, 2, NULL, algorithms),
                              .limit = (uint32_t)luaL_checknumber(L, 3),
                              .burst = (uint32_t)luaL_checknumber(L, 4),
                              .window_us = (uint64_t)luaL_checknumber(L, 5),
                              .policy = (enum limit_policy)luaL_checkoption(L, 6, NULL, policies)};
    luaL_argcheck(L, name.len <= LIMIT_NAME_MAX, 1, "too long");
    luaL_argcheck(L, rule.limit > 0 && rule.window_us > 0, 3, "zero");
    memcpy(rule.name, name.ptr, name.len);
    *(struct limit_rule *)lua_newuserdata(L, sizeof(rule)) = rule;
    lx_new_class(L, RULE_META);
    lua_setmetatable(L, -2);
    return 1;
}

/* ---- the answer's fields -------------------------------------------------------------------------------------- */

static void write_item(struct buf *out, const char *fmt, size_t i, const struct limit_rule *rule, uint64_t a,
                       uint64_t b)
{
    buf_printf(out, fmt, i > 0 ? ", " : "", rule->name, (unsigned long long)a, (unsigned long long)b);
}

static uint64_t seconds(uint64_t us)
{
    return (us + 999999) / 1000000;
}

static void leave_fields(struct vm *vm, struct http_request *req, const struct limit_call *call,
                         const struct limit_verdict *verdicts)
{
    struct buf *out = vm_text(vm);
    buf_slice(out, req->fields);
    buf_lit(out, "RateLimit-Policy: ");
    for (size_t i = 0; i < call->n_demands; i++) {
        const struct limit_rule *rule = call->demands[i].rule;
        write_item(out, "%s\"%s\";q=%llu;w=%llu", i, rule, rule->limit, seconds(rule->window_us));
    }
    buf_lit(out, "\r\nRateLimit: ");
    for (size_t i = 0; i < call->n_demands; i++)
        write_item(out, "%s\"%s\";r=%llu;t=%llu", i, call->demands[i].rule, verdicts[i].remaining,
                   seconds(verdicts[i].reset_us));
    buf_lit(out, "\r\n");
    req->fields = arena_copy(req->arena, buf_as_slice(out));
}

/* ---- checks --------------------------------------------------------------------------------------------------- */

/* → true, refusing rule (0: none; else counted from 1), seconds to wait */
static int push_verdicts(lua_State *L, struct http_request *req, const struct limit_call *call,
                         const struct limit_verdict *verdicts)
{
    size_t refusing = 0;
    uint64_t retry_us = 0;
    for (size_t i = call->n_demands; i > 0; i--) {
        if (verdicts[i - 1].is_allowed)
            continue;
        refusing = i;
        if (verdicts[i - 1].retry_us > retry_us)
            retry_us = verdicts[i - 1].retry_us;
    }
    if (req)
        leave_fields(vm_of(L), req, call, verdicts);
    lua_pushboolean(L, 1);
    lua_pushinteger(L, (lua_Integer)refusing);
    lua_pushinteger(L, refusing ? (lua_Integer)(retry_us > 0 ? seconds(retry_us) : 1) : 0);
    return 3;
}

static int push_failure(lua_State *L, const struct err *err)
{
    lua_pushboolean(L, 0);
    lx_push_err(L, err);
    return 2;
}

/* The request that the parked check was made for: argument 1, which its stack still has. */
static void on_done(void *data, const struct limit_call *call, const struct limit_verdict *verdicts,
                    const struct err *err)
{
    struct co *co = data;
    lua_State *L = co_stack(co);
    lua_checkstack(L, 8);
    co_wake(co, err ? push_failure(L, err) : push_verdicts(L, co_owner(co), call, verdicts));
}

static void on_done_plain(void *data, const struct limit_call *call, const struct limit_verdict *verdicts,
                          const struct err *err)
{
    struct co *co = data;
    lua_State *L = co_stack(co);
    lua_checkstack(L, 8);
    co_wake(co, err ? push_failure(L, err) : push_verdicts(L, NULL, call, verdicts));
}

static void cancel_check(struct co *co UNUSED, void *check)
{
    if (check)
        limits_cancel(check);
}

/* check(req | nil, quantity, rule, key, rule, key, …): a key is a string, or true for the request's address */
static int check(lua_State *L)
{
    struct limits *limits = vm_env(vm_of(L))->limits;
    struct http_request *req = lua_isnil(L, 1) ? NULL : call_check_req(L, 1)->req;
    struct limit_demand demands[LIMIT_DEMANDS_MAX];
    struct limit_verdict verdicts[LIMIT_DEMANDS_MAX];
    char ip[LIMIT_IP_KEY_MAX];
    struct err err = {0};
    struct limit_check *pending = NULL;
    struct limit_call call = {.demands = demands, .quantity = (uint32_t)luaL_checknumber(L, 2)};
    struct co *co = co_current(L);
    int top = lua_gettop(L);
    for (int at = 3; at < top && call.n_demands < LIMIT_DEMANDS_MAX; at += 2) {
        struct limit_demand *demand = &demands[call.n_demands++];
        demand->rule = luaL_checkudata(L, at, RULE_META);
        demand->key = lua_isboolean(L, at + 1) && req ? limit_ip_key(req->ip, ip) : lx_check_slice(L, at + 1);
    }
    if (!limits) {
        (void)err_set(&err, ERR_UNAVAILABLE, "limits need a running server");
        return push_failure(L, &err);
    }
    call.deadline_ms = co_deadline(co);
    call.done = req ? on_done : on_done_plain;
    call.data = co;
    co_op_begin(L, cancel_check, NULL);
    enum status status = limits_check(limits, &call, verdicts, &pending, &err);
    if (status == AGAIN) {
        co_op_set_data(co, pending);
        return co_park(L);
    }
    co_op_abort(co);
    return status == OK ? push_verdicts(L, req, &call, verdicts) : push_failure(L, &err);
}

int bind_limit_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"rule", new_rule}, {"check", check}, {NULL, NULL}};
    lua_createtable(L, 0, 2);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
