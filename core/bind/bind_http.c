/* chowk.core.http: calls to other services, for lua/chowk/http.lua. What belongs to the boundary: a call is refused in
 * an open transaction (T5), one that may change something counts as committed (T10), and the request it is made for
 * passes its id and its trace on. */
#include <lauxlib.h>

#include "bind/modules.h"
#include "data/http_client.h"
#include "http/request.h"
#include "http/trace_context.h"
#include "script/co.h"
#include "script/lx.h"
#include "script/vm.h"

#define STREAM_META "chowk.http.stream"
#define MAX_HEADERS 100

struct stream {
    struct vm_owned owned;
    struct http_client_op *op; /* NULL: closed */
    struct co *co;             /* who waits */
};

static const char *const methods[] = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", NULL};

/* Its generation has ended. */
static void on_end(struct vm_owned *owned)
{
    struct stream *stream = container_of(owned, struct stream, owned);
    http_client_stream_free(stream->op);
    stream->op = NULL;
}

/* ---- results ------------------------------------------------------------------------------------------------------
 */

/* A flat list: name, value, name, value … Stack: +1 */
static void push_headers(lua_State *L, const struct http_client_answer *answer)
{
    lua_createtable(L, 2 * (int)answer->n_headers, 0);
    for (size_t i = 0; i < answer->n_headers; i++) {
        lx_push_slice(L, answer->headers[i].name);
        lua_rawseti(L, -2, 2 * (int)i + 1);
        lx_push_slice(L, answer->headers[i].value);
        lua_rawseti(L, -2, 2 * (int)i + 2);
    }
}

static int push_failure(lua_State *L, const struct err *err, bool was_sent)
{
    lua_pushboolean(L, 0);
    lx_push_err(L, err);
    lua_pushboolean(L, was_sent);
    return 3;
}

/* Stack: → true, status, headers, body | stream, url */
static void on_answer(void *data, struct http_client_op *op, const struct http_client_answer *answer,
                      const struct err *err, bool was_sent)
{
    struct co *co = data;
    lua_State *L = co_stack(co);
    lua_checkstack(L, 10);
    if (err) {
        co_wake(co, push_failure(L, err, was_sent));
        return;
    }
    lua_pushboolean(L, 1);
    lua_pushinteger(L, answer->status);
    push_headers(L, answer);
    if (http_client_is_stream(op)) {
        struct stream *stream = lua_newuserdata(L, sizeof *stream);
        *stream = (struct stream){.op = op};
        vm_own(L, &stream->owned, on_end);
        luaL_getmetatable(L, STREAM_META);
        lua_setmetatable(L, -2);
    } else {
        lx_push_slice(L, answer->body);
    }
    lua_pushstring(L, answer->url);
    co_wake(co, 5);
}

static void cancel_call(struct co *co, void *op)
{
    if (!op)
        return;
    bool at_deadline = co_has_deadline(co) && loop_now(vm_env(vm_of(co_stack(co)))->loop) >= co_deadline(co);
    if (http_client_is_unknown(op))
        co_set_unknown(co, ERR_OUTCOME_UNKNOWN);
    http_client_cancel(op, at_deadline);
}

/* ---- a call ---------------------------------------------------------------------------------------------------------
 */

static void check_open(lua_State *L, const char *what)
{
    if (co_tx(co_current(L)))
        lx_misuse(L,
                  "%s in an open transaction: its locks would be held while another service thinks. Call before or "
                  "after pg.tx, or leave it to a job: tx:enqueue",
                  what);
}

static bool has_header(const struct http_client_header *headers, size_t n, struct slice name)
{
    for (size_t i = 0; i < n; i++)
        if (slice_ieq(headers[i].name, name))
            return true;
    return false;
}

/* The flat list at idx, with room for two more. Its strings live as long as it. */
static struct http_client_header *check_headers(lua_State *L, int idx, struct arena *arena, size_t *n_headers)
{
    luaL_checktype(L, idx, LUA_TTABLE);
    size_t n = lua_objlen(L, idx) / 2;
    if (n > MAX_HEADERS)
        lx_misuse(L, "http: more than %d headers", MAX_HEADERS);
    struct http_client_header *headers = arena_alloc(arena, (n + 2) * sizeof *headers);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, idx, 2 * (int)i + 1);
        lua_rawgeti(L, idx, 2 * (int)i + 2);
        headers[i] = (struct http_client_header){lx_check_slice(L, -2), lx_check_slice(L, -1)};
        lua_pop(L, 2);
        const char *flaw = http_client_header_flaw(headers[i].name, headers[i].value);
        if (flaw)
            lx_misuse(L, "http: header \"%.*s\": %s", (int)(headers[i].name.len < 100 ? headers[i].name.len : 100),
                      headers[i].name.ptr, flaw);
    }
    *n_headers = n;
    return headers;
}

/* What the request in whose name we call passes on, unless the caller has said otherwise. */
static void add_context(struct co *co, struct arena *arena, struct http_client_header *headers, size_t *n_headers)
{
    const struct http_request *req = http_request_of(co_owner(co));
    struct trace_context trace;
    size_t n = *n_headers;
    if (!req)
        return;
    if (!has_header(headers, n, SLICE("X-Request-Id")))
        headers[(*n_headers)++] = (struct http_client_header){SLICE("X-Request-Id"), slice_str(req->id)};
    if (!has_header(headers, n, SLICE("traceparent")) && trace_context_of(req, &trace)) {
        char *parent = arena_alloc(arena, TRACE_PARENT_LEN + 1);
        trace_context_child(&trace, parent);
        headers[(*n_headers)++] = (struct http_client_header){SLICE("traceparent"), slice_str(parent)};
    }
}

static int push_unconfigured(lua_State *L)
{
    struct err err = {0};
    (void)err_set(&err, ERR_UNAVAILABLE, "this process makes no calls out");
    return push_failure(L, &err, false);
}

/* request(method, url, headers, body | nil, timeout_ms, max_body, redirects, is_stream)
 * → true, status, headers, body | stream, url | false, err, was_sent */
static int request(lua_State *L)
{
    struct vm *vm = vm_of(L);
    struct http_client *client = vm_env(vm)->http_client;
    struct arena *arena = vm_scratch(vm);
    check_open(L, "a call out");
    struct http_client_call call = {.method = (enum http_client_method)luaL_checkoption(L, 1, NULL, methods),
                                    .url = lx_check_slice(L, 2),
                                    .has_body = !lua_isnoneornil(L, 4),
                                    .timeout_ms = (uint32_t)luaL_checknumber(L, 5),
                                    .max_body = (size_t)luaL_checknumber(L, 6),
                                    .redirects = (unsigned)luaL_checkinteger(L, 7),
                                    .is_stream = lua_toboolean(L, 8),
                                    .done = on_answer};
    if (call.has_body)
        call.body = lx_check_slice(L, 4);
    struct http_client_header *headers = check_headers(L, 3, arena, &call.n_headers);
    if (!client)
        return push_unconfigured(L);
    struct co *co = co_op_begin(L, cancel_call, NULL);
    co_op_waits_for(co, HTTP_WAIT_CALL);
    add_context(co, arena, headers, &call.n_headers);
    call.headers = headers;
    call.data = co;
    if (!http_client_is_safe(call.method))
        co_mark_committed(co);
    co_op_set_data(co, http_client_start(client, &call));
    return co_park(L);
}

/* ---- streams --------------------------------------------------------------------------------------------------------
 */

/* Stack: → true, bytes | true, nil | false, err; 0: it waits */
static int try_read(lua_State *L, struct stream *stream, void (*on_ready)(void *data))
{
    struct slice bytes;
    struct err err = {0};
    enum status rc = http_client_read(stream->op, &bytes, on_ready, stream, &err);
    if (rc == AGAIN)
        return 0;
    if (rc == ERR) {
        lua_pushboolean(L, 0);
        lx_push_err(L, &err);
        return 2;
    }
    lua_pushboolean(L, 1);
    if (bytes.len > 0)
        lx_push_slice(L, bytes);
    else
        lua_pushnil(L);
    return 2;
}

static void on_ready(void *data)
{
    struct stream *stream = data;
    struct co *co = stream->co;
    lua_checkstack(co_stack(co), 8);
    int n = try_read(co_stack(co), stream, on_ready);
    CHECK(n > 0);
    stream->co = NULL;
    co_wake(co, n);
}

static void cancel_read(struct co *co UNUSED, void *data)
{
    struct stream *stream = data;
    stream->co = NULL;
    if (stream->op)
        http_client_stop_waiting(stream->op);
}

/* stream_read(stream) → true, bytes | nil at the end | false, err */
static int stream_read(lua_State *L)
{
    struct stream *stream = luaL_checkudata(L, 1, STREAM_META);
    if (!stream->op)
        lx_misuse(L, "this stream is closed");
    if (stream->co)
        lx_misuse(L, "another activity reads this stream");
    struct co *co = co_op_begin(L, cancel_read, stream);
    co_op_waits_for(co, HTTP_WAIT_CALL);
    int n = try_read(L, stream, on_ready);
    if (n > 0) {
        co_op_abort(co);
        return n;
    }
    stream->co = co;
    return co_park(L);
}

/* stream_close(stream): safe when closed. Does not yield. Also its __gc. */
static int stream_close(lua_State *L)
{
    struct stream *stream = luaL_checkudata(L, 1, STREAM_META);
    if (stream->co)
        lx_misuse(L, "another activity reads this stream");
    vm_disown(&stream->owned);
    if (stream->op)
        http_client_stream_free(stream->op);
    stream->op = NULL;
    return 0;
}

/* stats() → {active, waiting, hosts, open_breakers, calls, failures, timeouts, refused} of this worker, or nil */
static int stats(lua_State *L)
{
    struct http_client_stats now;
    if (!vm_env(vm_of(L))->http_client)
        return 0;
    http_client_stats(vm_env(vm_of(L))->http_client, &now);
    const struct {
        const char *name;
        double value;
    } fields[] = {{"active", now.active},
                  {"waiting", now.waiting},
                  {"hosts", now.hosts},
                  {"open_breakers", now.open_breakers},
                  {"calls", (double)now.calls},
                  {"failures", (double)now.failures},
                  {"timeouts", (double)now.timeouts},
                  {"refused", (double)now.refused}};
    lua_createtable(L, 0, (int)ARRAY_LEN(fields));
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        lua_pushnumber(L, fields[i].value);
        lua_setfield(L, -2, fields[i].name);
    }
    return 1;
}

int bind_http_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"request", request},
                                         {"stream_read", stream_read},
                                         {"stream_close", stream_close},
                                         {"stats", stats},
                                         {NULL, NULL}};
    lx_new_class(L, STREAM_META);
    lua_pushcfunction(L, stream_close);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
