/* Boundary of chowk.crypto over base/crypto.h. Pure functions; none waits. */
#include <lauxlib.h>

#include "base/crypto.h"
#include "bind/modules.h"
#include "script/lx.h"

#define MAX_RANDOM 65536

static int sha256(lua_State *L)
{
    unsigned char sum[CRYPTO_SHA256_LEN];
    crypto_sha256(lx_check_slice(L, 1), sum);
    lua_pushlstring(L, (const char *)sum, sizeof sum);
    return 1;
}

/* hmac_sha256(key, message) → 32 bytes */
static int hmac_sha256(lua_State *L)
{
    unsigned char sum[CRYPTO_SHA256_LEN];
    struct slice key = lx_check_slice(L, 1);
    crypto_hmac_sha256(key, lx_check_slice(L, 2), sum);
    lua_pushlstring(L, (const char *)sum, sizeof sum);
    return 1;
}

static int equal(lua_State *L)
{
    struct slice a = lx_check_slice(L, 1);
    lua_pushboolean(L, crypto_equal(a, lx_check_slice(L, 2)));
    return 1;
}

/* seal(plain, secret, context) → bytes */
static int seal(lua_State *L)
{
    struct slice plain = lx_check_slice(L, 1), secret = lx_check_slice(L, 2), context = lx_check_slice(L, 3);
    struct buf *buf = vm_text(vm_of(L));
    crypto_seal(secret, context, plain, buf);
    lua_pushlstring(L, buf->ptr, buf->len);
    return 1;
}

/* unseal(sealed, secret, context) → plain | nil */
static int unseal(lua_State *L)
{
    struct slice sealed = lx_check_slice(L, 1), secret = lx_check_slice(L, 2), context = lx_check_slice(L, 3);
    struct buf *buf = vm_text(vm_of(L));
    if (!crypto_unseal(secret, context, sealed, buf))
        return 0;
    lua_pushlstring(L, buf->ptr, buf->len);
    return 1;
}

static int random_bytes(lua_State *L)
{
    lua_Number n = luaL_checknumber(L, 1);
    luaL_argcheck(L, n >= 1 && n <= MAX_RANDOM && n == (double)(size_t)n, 1, "a whole number from 1 to 65536");
    struct buf *buf = vm_text(vm_of(L));
    crypto_random(buf_reserve(buf, (size_t)n), (size_t)n);
    lua_pushlstring(L, buf->ptr, (size_t)n);
    return 1;
}

static int hex(lua_State *L)
{
    struct slice data = lx_check_slice(L, 1);
    struct buf *buf = vm_text(vm_of(L));
    crypto_hex(data, buf_reserve(buf, data.len * 2 + 1));
    lua_pushlstring(L, buf->ptr, data.len * 2);
    return 1;
}

/* unhex(text) → bytes | nil */
static int unhex(lua_State *L)
{
    struct slice text = lx_check_slice(L, 1);
    struct buf *buf = vm_text(vm_of(L));
    if (!crypto_unhex(text, (unsigned char *)buf_reserve(buf, text.len + 1)))
        return 0;
    lua_pushlstring(L, buf->ptr, text.len / 2);
    return 1;
}

static int encode64(lua_State *L, bool url)
{
    struct slice data = lx_check_slice(L, 1);
    struct buf *buf = vm_text(vm_of(L));
    crypto_base64(data, url, buf);
    lx_push_slice(L, buf_as_slice(buf));
    return 1;
}

static int decode64(lua_State *L, bool url)
{
    struct slice text = lx_check_slice(L, 1);
    struct buf *buf = vm_text(vm_of(L));
    if (!crypto_unbase64(text, url, buf))
        return 0;
    lx_push_slice(L, buf_as_slice(buf));
    return 1;
}

static int base64(lua_State *L)
{
    return encode64(L, false);
}

static int base64url(lua_State *L)
{
    return encode64(L, true);
}

static int unbase64(lua_State *L)
{
    return decode64(L, false);
}

static int unbase64url(lua_State *L)
{
    return decode64(L, true);
}

int bind_crypto_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"sha256", sha256}, {"hmac_sha256", hmac_sha256}, {"seal", seal},         {"unseal", unseal},
        {"equal", equal},   {"random", random_bytes},     {"hex", hex},           {"unhex", unhex},
        {"base64", base64}, {"base64url", base64url},     {"unbase64", unbase64}, {"unbase64url", unbase64url},
        {NULL, NULL},
    };
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
