/* chowk.core.mail: a finished message to the mail server, for lua/chowk/mail.lua. As a call out it is refused in an
 * open transaction (T5) and counts as committed (T10). */
#include <lauxlib.h>

#include "bind/modules.h"
#include "data/mail.h"
#include "script/co.h"
#include "script/lx.h"
#include "script/vm.h"

#define MAX_RECIPIENTS 100

static void on_sent(void *data, const struct err *err)
{
    struct co *co = data;
    lua_State *L = co_stack(co);
    lua_checkstack(L, 8);
    lua_pushboolean(L, err == NULL);
    if (err)
        lx_push_err(L, err);
    else
        lua_pushboolean(L, 1);
    co_wake(co, 2);
}

static void cancel_send(struct co *co, void *op)
{
    if (!op)
        return;
    if (mail_is_unknown(op))
        co_set_unknown(co, ERR_OUTCOME_UNKNOWN);
    mail_cancel(op);
}

static struct slice check_address(lua_State *L, int idx)
{
    struct slice address = lx_check_slice(L, idx);
    const char *flaw = mail_address_flaw(address);
    if (flaw)
        lx_misuse(L, "mail: \"%.*s\": %s", (int)(address.len < 100 ? address.len : 100), address.ptr, flaw);
    return address;
}

/* No mail server: in development that is what the outbox is for. */
static int push_unsent(lua_State *L)
{
    struct err err = {0};
    if (vm_env(vm_of(L))->development) {
        lua_pushboolean(L, 1);
        lua_pushboolean(L, 0);
        return 2;
    }
    (void)err_set(&err, ERR_UNAVAILABLE, "mail is not configured: set mail.url, or MAIL_URL");
    lua_pushboolean(L, 0);
    lx_push_err(L, &err);
    return 2;
}

/* check_address(address): raises if it cannot stand in an envelope */
static int check(lua_State *L)
{
    check_address(L, 1);
    return 0;
}

/* send(from, {to, …}, text, timeout_ms) → true, was_sent | false, err. was_sent false: there is no mail server, and
 * this is development. Yields. */
static int send_message(lua_State *L)
{
    struct vm *vm = vm_of(L);
    if (co_tx(co_current(L)))
        lx_misuse(L,
                  "mail.send in an open transaction: its locks would be held while the mail server thinks, and a mail "
                  "cannot be rolled back. Send after pg.tx, or leave it to a job: tx:enqueue");
    struct mail_message message = {.from = check_address(L, 1),
                                   .text = lx_check_slice(L, 3),
                                   .timeout_ms = (uint32_t)luaL_checknumber(L, 4),
                                   .done = on_sent};
    luaL_checktype(L, 2, LUA_TTABLE);
    message.n_to = lua_objlen(L, 2);
    if (message.n_to == 0 || message.n_to > MAX_RECIPIENTS)
        lx_misuse(L, "mail: a message goes to 1 to %d addresses", MAX_RECIPIENTS);
    struct slice *to = arena_alloc(vm_scratch(vm), message.n_to * sizeof *to);
    for (size_t i = 0; i < message.n_to; i++) {
        lua_rawgeti(L, 2, (int)i + 1);
        to[i] = check_address(L, -1);
        lua_pop(L, 1); /* the list holds it */
    }
    message.to = to;
    if (!vm_env(vm)->mail)
        return push_unsent(L);
    struct co *co = co_op_begin(L, cancel_send, NULL);
    message.data = co;
    co_mark_committed(co);
    co_op_set_data(co, mail_send(vm_env(vm)->mail, &message));
    return co_park(L);
}

/* stats() → {active, waiting, sent, failed} of this worker, or nil: no mail server */
static int stats(lua_State *L)
{
    struct mail_stats now;
    if (!vm_env(vm_of(L))->mail)
        return 0;
    mail_stats(vm_env(vm_of(L))->mail, &now);
    const struct {
        const char *name;
        double value;
    } fields[] = {
        {"active", now.active}, {"waiting", now.waiting}, {"sent", (double)now.sent}, {"failed", (double)now.failed}};
    lua_createtable(L, 0, (int)ARRAY_LEN(fields));
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        lua_pushnumber(L, fields[i].value);
        lua_setfield(L, -2, fields[i].name);
    }
    return 1;
}

int bind_mail_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"send", send_message}, {"check_address", check}, {"stats", stats}, {NULL, NULL}};
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
