/* Boundary of chowk.razorpay over services/razorpay.h. Secrets arrive as a list of strings, current first. */
#include <lauxlib.h>

#include "bind/modules.h"
#include "script/lx.h"
#include "services/razorpay.h"

#define MAX_SECRETS 8

/* The strings stay anchored in the table at `arg`. */
static struct razorpay_secrets check_secrets(lua_State *L, int arg, struct slice *items)
{
    luaL_checktype(L, arg, LUA_TTABLE);
    size_t n = lua_objlen(L, arg);
    luaL_argcheck(L, n <= MAX_SECRETS, arg, "more than 8 secrets");
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, arg, (int)i + 1);
        luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, arg, "a secret is a string");
        items[i].ptr = lua_tolstring(L, -1, &items[i].len);
        lua_pop(L, 1);
    }
    return (struct razorpay_secrets){items, n};
}

static int result(lua_State *L, enum status rc, const struct err *err)
{
    lua_pushboolean(L, rc == OK);
    if (rc == OK)
        return 1;
    lx_push_err(L, err);
    return 2;
}

/* verify(secrets, form, signature, parts…) → true | false, err */
static int verify_form(lua_State *L)
{
    static const char *const names[] = {"checkout", "subscription", "payment_link", "invoice", NULL};
    struct slice items[MAX_SECRETS], parts[RAZORPAY_PARTS_MAX];
    struct err err = {0};
    struct razorpay_secrets secrets = check_secrets(L, 1, items);
    enum razorpay_form form = (enum razorpay_form)luaL_checkoption(L, 2, NULL, names);
    struct slice signature = lx_check_slice(L, 3);
    for (size_t i = 0; i < razorpay_n_parts(form); i++)
        parts[i] = lx_check_slice(L, 4 + (int)i);
    return result(L, razorpay_verify_form(&secrets, form, parts, signature, &err), &err);
}

/* verify_webhook(secrets, raw_body, signature) → true | false, err */
static int verify_webhook(lua_State *L)
{
    struct slice items[MAX_SECRETS];
    struct err err = {0};
    struct razorpay_secrets secrets = check_secrets(L, 1, items);
    struct slice body = lx_check_slice(L, 2), signature = lx_check_slice(L, 3);
    return result(L, razorpay_verify(&secrets, body, signature, &err), &err);
}

int bind_razorpay_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"verify_form", verify_form}, {"verify_webhook", verify_webhook}, {NULL, NULL}};
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
