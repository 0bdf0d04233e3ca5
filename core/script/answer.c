/* From a handler's results to an answer (DESIGN 5, TRAPS T17), and from what it raised to a problem (base/err.tbl).
 * Anything that is not clearly an answer is an error that names the route: a forgotten return, a lone number, stray
 * values of s:gsub(). Bodies go out without a copy where they are bytes already; tables are encoded straight into the
 * server's buffer. Everything here borrows from the coroutine's stack until the answer is written. */
#include <lauxlib.h>
#include <stdio.h>

#include "base/crypto.h"
#include "base/json.h"
#include "base/log.h"
#include "base/metrics.h"
#include "http/response.h"
#include "script/call.h"
#include "script/error_page.h"
#include "script/lx.h"
#include "script/vm_priv.h"

#define MAX_HEADERS 64
#define ERROR_ID_LEN 16

static bool fail(struct err *err, const char *what)
{
    (void)err_set(err, ERR_INVALID, "%s", what);
    return false;
}

/* ---- headers ---------------------------------------------------------------------------------------------- */

static bool is_framing(struct slice name)
{
    static const char *const framing[] = {"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade",
                                          "date",           "x-request-id"};
    for (size_t i = 0; i < ARRAY_LEN(framing); i++)
        if (slice_ieq(name, slice_str(framing[i])))
            return true;
    return false;
}

/* Value on top of the stack. */
static bool add_header(lua_State *L, struct call_reply *reply, struct http_header *headers, struct slice name,
                       struct err *err)
{
    struct slice value;
    if (lua_type(L, -1) != LUA_TSTRING && lua_type(L, -1) != LUA_TNUMBER)
        return fail(err, "a header's value must be a string, a number or a list of strings");
    value.ptr = lua_tolstring(L, -1, &value.len);
    if (!http_header_is_safe(name, value)) {
        (void)err_set(err, ERR_INVALID, "header \"%.*s\" has bytes that are not allowed", (int)name.len, name.ptr);
        return false;
    }
    if (is_framing(name)) {
        (void)err_set(err, ERR_INVALID, "header \"%.*s\" is the server's own", (int)name.len, name.ptr);
        return false;
    }
    if (slice_ieq(name, SLICE("content-type"))) {
        reply->answer.content_type = value;
        return true;
    }
    if (reply->answer.n_headers == MAX_HEADERS)
        return fail(err, "more than 64 headers");
    headers[reply->answer.n_headers++] = (struct http_header){name, value};
    return true;
}

/* One entry, value on top: a list gives one header per item (Set-Cookie). Converted numbers would be new strings that
 * nothing anchors, so numbers are replaced in the table first. */
static bool add_entry(lua_State *L, int table, struct call_reply *reply, struct http_header *headers, struct err *err)
{
    struct slice name;
    name.ptr = lua_tolstring(L, -2, &name.len);
    if (lua_type(L, -1) == LUA_TNUMBER) {
        lua_tostring(L, -1);
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_rawset(L, table);
    }
    if (lua_type(L, -1) != LUA_TTABLE)
        return add_header(L, reply, headers, name, err);
    for (int i = 1, n = (int)lua_objlen(L, -1); i <= n; i++) {
        lua_rawgeti(L, -1, i);
        if (lua_type(L, -1) != LUA_TSTRING)
            return fail(err, "a header's list must hold strings");
        if (!add_header(L, reply, headers, name, err))
            return false;
        lua_pop(L, 1);
    }
    return true;
}

static bool read_headers(struct call *call, lua_State *L, int table, struct call_reply *reply, struct err *err)
{
    if (lua_type(L, table) != LUA_TTABLE)
        return fail(err, "the third value must be a table of headers");
    struct http_header *headers = arena_alloc(call->req->arena, MAX_HEADERS * sizeof *headers);
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            return fail(err, "header names must be strings");
        if (!add_entry(L, table, reply, headers, err))
            return false;
    }
    reply->answer.headers = headers;
    return true;
}

/* ---- results ---------------------------------------------------------------------------------------------- */

/* app.empty, app.redirect, app.stream: {status, headers?, stream?, content_type?} */
static bool read_response(struct call *call, lua_State *L, int idx, struct call_reply *reply, struct err *err)
{
    lua_getfield(L, idx, "status");
    if (reply->answer.status == 0)
        reply->answer.status = (int)lua_tointeger(L, -1);
    lua_getfield(L, idx, "content_type");
    if (lua_type(L, -1) == LUA_TSTRING)
        reply->answer.content_type.ptr = lua_tolstring(L, -1, &reply->answer.content_type.len);
    lua_getfield(L, idx, "headers");
    if (!lua_isnil(L, -1) && !read_headers(call, L, lua_gettop(L), reply, err))
        return false;
    lua_getfield(L, idx, "stream");
    if (lua_isfunction(L, -1))
        reply->stream = lua_gettop(L);
    return true;
}

static bool read_table(struct call *call, lua_State *L, int idx, struct call_reply *reply, struct err *err)
{
    enum lx_kind kind = lx_kind_of(L, idx);
    if (kind == LX_RESPONSE)
        return read_response(call, L, idx, reply, err);
    if (kind == LX_ERR || kind == LX_PROBLEM)
        return fail(err, "it returned a failure: raise it with error()");
    struct buf *buf = http_body_buf(call->req);
    if (lx_json_encode(L, idx, buf, err) != OK)
        return false;
    reply->answer.content_type = SLICE("application/json");
    reply->body = http_body_slice(buf);
    return true;
}

static bool read_body(struct call *call, lua_State *L, int idx, struct call_reply *reply, struct err *err)
{
    switch (lua_type(L, idx)) {
    case LUA_TTABLE:
        return read_table(call, L, idx, reply, err);
    case LUA_TSTRING:
        reply->body.ptr = lua_tolstring(L, idx, &reply->body.len);
        reply->answer.content_type = SLICE("text/plain; charset=utf-8");
        return true;
    case LUA_TUSERDATA:
        if (!lx_to_raw(L, idx, &reply->body))
            break;
        reply->answer.content_type = SLICE("application/json");
        return true;
    default:
        break;
    }
    (void)err_set(err, ERR_INVALID, "a body is a table (JSON), a string (text), raw JSON or app.empty, got %s",
                  luaL_typename(L, idx));
    return false;
}

static bool read_status(lua_State *L, int idx, struct call_reply *reply, struct err *err)
{
    double status = lua_tonumber(L, idx);
    if (status < 200 || status > 599 || status != (int)status)
        return fail(err, "a status is a whole number from 200 to 599");
    reply->answer.status = (int)status;
    return true;
}

/* Stack: …, results (n). Reads them into *reply; everything stays on the stack. */
static bool read_results(struct call *call, lua_State *L, int n, struct call_reply *reply, struct err *err)
{
    int first = lua_gettop(L) - n + 1;
    if (n == 0)
        return fail(err, "it returned nothing: return a body, or app.empty");
    if (lua_type(L, first) == LUA_TNIL)
        return fail(err, "it returned nil: use app.fail(404, …), or return app.empty");
    bool has_status = lua_type(L, first) == LUA_TNUMBER;
    if (has_status && n == 1)
        return fail(err, "it returned a lone number: write `return status, body`, or return a table or a string");
    if (!has_status && n > 1)
        return fail(err, "it returned more than one value, the first not a status (s:gsub() returns two: put "
                         "parentheses around it)");
    if (n > 3)
        return fail(err, "it returned more than status, body and headers");
    if (has_status && !read_status(L, first, reply, err))
        return false;
    if (!read_body(call, L, first + has_status, reply, err))
        return false;
    if (n == 3 && !read_headers(call, L, first + 2, reply, err))
        return false;
    if (reply->answer.status == 0)
        reply->answer.status = 200;
    return true;
}

static void route_name(const struct http_request *req, char *out, size_t size)
{
    snprintf(out, size, "%s %s", http_method_name(req->route->method), req->route->pattern);
}

static void answer_bug(struct call *call, struct slice message, const char *trace);

/* As read_results; an error names the handler. */
static bool read_answer(struct call *call, lua_State *L, int n_results, struct call_reply *reply, struct err *err)
{
    char route[256];
    *reply = (struct call_reply){0};
    if (lua_checkstack(L, 16) ? read_results(call, L, n_results, reply, err) : fail(err, "the Lua stack is full"))
        return true;
    route_name(call->req, route, sizeof route);
    (void)err_prefix(err, "%s: the handler of %s", call->req->route->origin, route);
    return false;
}

bool call_read_answer(struct call *call, lua_State *L, int n_results, struct call_reply *out, struct err *err)
{
    if (!read_answer(call, L, n_results, out, err))
        return false;
    return !out->stream || fail(err, "a stream cannot be the answer of an idempotent route");
}

bool call_answer(struct call *call, lua_State *L, int n_results)
{
    struct call_reply reply;
    struct err err;
    if (!read_answer(call, L, n_results, &reply, &err)) {
        answer_bug(call, slice_str(err.message), NULL);
        return true;
    }
    if (reply.stream) {
        lua_pushvalue(L, reply.stream);
        http_stream_begin(call->req, &reply.answer);
        return false;
    }
    call_unlink(call);
    http_respond(call->req, &reply.answer, reply.body);
    return true;
}

/* ---- errors ----------------------------------------------------------------------------------------------- */

static void log_failure(struct call *call, enum log_level level, const char *what, struct slice message,
                        const char *trace, const char *error_id)
{
    char route[256];
    route_name(call->req, route, sizeof route);
    /* `handler`: of `return pg.query(…)`, a tail call, Lua keeps no line; then this is the only place there is. */
    struct log_field fields[] = {LOG_S("error_id", error_id),
                                 LOG_S("route", route),
                                 LOG_S("handler", call->req->route->origin),
                                 LOG_S("request_id", call->req->id),
                                 LOG_SL("generation", call->req->generation),
                                 LOG_SL("error", message),
                                 LOG_S("traceback", trace ? trace : "")};
    size_t skip = error_id ? 0 : 1;
    if (log_is_on(level))
        log_event(level, what, fields + skip, ARRAY_LEN(fields) - skip - (trace ? 0 : 1));
}

void call_log_error(struct call *call, const char *what, lua_State *L, const char *trace)
{
    log_failure(call, LOG_ERROR, what, slice_str(lx_to_text(L, -1)), trace, NULL);
}

static void add_member(struct buf *extra, const char *name, const char *text)
{
    buf_printf(extra, ",\"%s\":", name);
    json_write_string(extra, slice_str(text));
}

/* In development, to a browser. False: the problem document it is. */
static bool answer_page(struct call *call, int status, const char *title, struct slice message, const char *trace)
{
    static const struct http_header headers[] = {
        {SLICE("Cache-Control"), SLICE("no-store")},
        {SLICE("Content-Security-Policy"), SLICE("default-src 'none'; style-src 'unsafe-inline'")}};
    const struct env *env = call->vm->env;
    if (!env->development || !error_page_is_wanted(call->req))
        return false;
    struct buf *buf = http_body_buf(call->req), note = {0};
    if (env->note_code)
        env->note_code(env->note_data, &note);
    struct error_page page = {
        .title = title, .message = message, .trace = trace, .note = buf_as_slice(&note), .req = call->req};
    error_page_write(&page, buf);
    buf_free(&note);
    call_unlink(call);
    struct http_answer answer = {.status = status,
                                 .content_type = SLICE("text/html; charset=utf-8"),
                                 .headers = headers,
                                 .n_headers = ARRAY_LEN(headers)};
    http_respond(call->req, &answer, http_body_slice(buf));
    return true;
}

/* A bug in Lua code: 500 with an id that the log has too. */
static void answer_bug(struct call *call, struct slice message, const char *trace)
{
    char id[ERROR_ID_LEN + 1] = {0};
    unsigned char random[ERROR_ID_LEN / 2];
    crypto_random(random, sizeof random);
    crypto_hex(slice_of((const char *)random, sizeof random), id);
    log_failure(call, LOG_ERROR, "Lua error", message, trace, id);
    metrics_add(METRIC_LUA_ERRORS, 1);
    if (answer_page(call, 500, "Lua error", message, trace))
        return;
    struct buf *extra = vm_text(call->vm);
    bool is_open = call->vm->env->development;
    add_member(extra, "error_id", id);
    if (is_open)
        add_member(extra, "handler", call->req->route->origin);
    if (is_open && trace)
        add_member(extra, "traceback", trace);
    call_unlink(call);
    http_problem(call->req, 500, SLICE("internal_error"), is_open ? message : SLICE(""), buf_as_slice(extra), 0);
}

/* Members of the problem's `extra` table as `,"k":v` on the VM's text buffer; *retry_s from retry_after. */
static struct slice read_extra(struct call *call, lua_State *L, int problem, int *retry_s)
{
    struct buf *buf = vm_text(call->vm);
    struct err err;
    lua_getfield(L, problem, "extra");
    if (lua_type(L, -1) != LUA_TTABLE)
        return SLICE("");
    lua_getfield(L, -1, "retry_after");
    *retry_s = (int)lua_tonumber(L, -1);
    lua_pop(L, 1);
    if (lx_json_encode(L, -1, buf, &err) != OK || buf->len < 3 || buf->ptr[0] != '{') {
        if (buf->len == 0)
            log_failure(call, LOG_ERROR, "app.fail: its extra members are not JSON", slice_str(err.message), NULL,
                        NULL);
        return SLICE("");
    }
    buf->ptr[0] = ',';
    return slice_of(buf->ptr, buf->len - 1);
}

static struct slice text_field(lua_State *L, int idx, const char *name)
{
    struct slice s = SLICE("");
    lua_getfield(L, idx, name);
    if (lua_type(L, -1) == LUA_TSTRING)
        s.ptr = lua_tolstring(L, -1, &s.len);
    return s;
}

static void answer_problem(struct call *call, lua_State *L)
{
    int problem = lua_gettop(L), retry_s = 0;
    struct slice code = text_field(L, problem, "code"), detail = text_field(L, problem, "detail");
    struct slice extra = read_extra(call, L, problem, &retry_s);
    lua_getfield(L, problem, "status");
    int status = (int)lua_tointeger(L, -1);
    call_unlink(call);
    http_problem(call->req, status, code, detail, extra, retry_s);
}

/* A run-time failure nobody caught. */
static void answer_failure(struct call *call, const struct err *err, const char *trace)
{
    int status = err_http_status(err);
    char text[sizeof err->message + sizeof err->detail + 64];
    snprintf(text, sizeof text, "%s%s%s: %s%s%s", err_code_name(err->code), err->sqlstate[0] ? " " : "", err->sqlstate,
             err->message, err->detail[0] ? " / " : "", err->detail);
    if (err->code == ERR_CANCELLED)
        status = 503; /* heard only if the client is still there: a worker that stops */
    if (status == 500) {
        answer_bug(call, slice_str(text), trace);
        return;
    }
    if (!call->is_gone)
        log_failure(call, status >= 500 ? LOG_WARN : LOG_INFO, "request failed", slice_str(text), NULL, NULL);
    if (status >= 500 && answer_page(call, status, "Request failed", slice_str(text), trace))
        return;
    const char *code = status == 409 ? "conflict" : err_code_name(err->code);
    struct slice detail = call->vm->env->development ? slice_str(err->message) : SLICE("");
    call_unlink(call);
    http_problem(call->req, status, slice_str(code), detail, SLICE(""), status == 503);
}

void call_answer_error(struct call *call, lua_State *L, const char *trace)
{
    struct err err;
    lua_checkstack(L, 16);
    if (lx_kind_of(L, -1) == LX_PROBLEM)
        answer_problem(call, L);
    else if (lx_to_err(L, -1, &err))
        answer_failure(call, &err, trace);
    else
        answer_bug(call, slice_str(lx_to_text(L, -1)), trace);
}
