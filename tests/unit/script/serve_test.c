/* From a handler's results or errors to the answer, with a fake server underneath: what http/response.h would have
 * been told is written down as text. */
#include "fixture.h"

#include <fcntl.h>

#include "base/log.h"
#include "http/response.h"
#include "script/call.h"
#include "script/serve.h"

/* ---- the fake server -------------------------------------------------------------------------------------- */

static struct sent {
    int n_ends;
    char head[1024];
    struct buf body;
    void (*on_drain)(struct http_request *req);
    bool is_full, is_gone;
} sent;
static struct buf scratch;

struct buf *http_body_buf(struct http_request *req)
{
    (void)req;
    buf_clear(&scratch);
    memset(buf_reserve(&scratch, HTTP_BODY_HEADROOM), 'h', HTTP_BODY_HEADROOM);
    scratch.len = HTTP_BODY_HEADROOM;
    return &scratch;
}

static void write_head(const struct http_answer *answer)
{
    size_t len =
        (size_t)snprintf(sent.head, sizeof sent.head, "%d [%.*s]", answer->status, SLICE_FMT(answer->content_type));
    for (size_t i = 0; i < answer->n_headers; i++)
        len += (size_t)snprintf(sent.head + len, sizeof sent.head - len, " %.*s=%.*s",
                                SLICE_FMT(answer->headers[i].name), SLICE_FMT(answer->headers[i].value));
}

void http_respond(struct http_request *req, const struct http_answer *answer, struct slice body)
{
    sent.n_ends++;
    write_head(answer);
    buf_slice(&sent.body, body);
    arena_destroy(req->arena);
}

void http_problem(struct http_request *req, int status, struct slice code, struct slice detail, struct slice extra,
                  int retry_after_s)
{
    sent.n_ends++;
    snprintf(sent.head, sizeof sent.head, "problem %d %.*s retry=%d", status, SLICE_FMT(code), retry_after_s);
    buf_slice(&sent.body, detail);
    buf_slice(&sent.body, extra);
    arena_destroy(req->arena);
}

void http_stream_begin(struct http_request *req, const struct http_answer *answer)
{
    (void)req;
    write_head(answer);
}

enum status http_stream_write(struct http_request *req, struct slice bytes)
{
    (void)req;
    if (sent.is_gone)
        return ERR;
    buf_slice(&sent.body, bytes);
    return sent.is_full ? AGAIN : OK;
}

void http_stream_on_drain(struct http_request *req, void (*fn)(struct http_request *req))
{
    (void)req;
    sent.on_drain = fn;
}

void http_stream_end(struct http_request *req)
{
    sent.n_ends++;
    buf_lit(&sent.body, "<end>");
    arena_destroy(req->arena);
}

void http_stream_abort(struct http_request *req)
{
    sent.n_ends++;
    buf_lit(&sent.body, "<abort>");
    arena_destroy(req->arena);
}

/* ---- requests --------------------------------------------------------------------------------------------- */

static struct http_request request;
static struct arena request_arena;

static void reset_sent(void)
{
    struct buf body = sent.body;
    buf_clear(&body);
    sent = (struct sent){.body = body};
}

struct ask {
    const char *target, *body, *type, *cookie;
    enum http_method method;
};

static void start(struct fixture *f, struct ask ask)
{
    static struct http_header headers[3];
    struct slice target = slice_str(ask.target);
    const char *mark = memchr(target.ptr, '?', target.len);
    struct http_match match;
    reset_sent();
    arena_create(&request_arena);
    request = (struct http_request){.magic = HTTP_REQUEST_MAGIC, .arena = &request_arena, .method = ask.method};
    request.target = target;
    request.path = slice_of(target.ptr, mark ? (size_t)(mark - target.ptr) : target.len);
    request.query = mark ? slice_str(mark + 1) : SLICE("");
    request.body = slice_str(ask.body ? ask.body : "");
    request.headers = headers;
    headers[0] = (struct http_header){SLICE("Content-Type"), slice_str(ask.type ? ask.type : "application/json")};
    headers[1] = (struct http_header){SLICE("X-Two"), SLICE("2")};
    headers[2] = (struct http_header){SLICE("Cookie"), slice_str(ask.cookie ? ask.cookie : "")};
    request.n_headers = 3;
    request.is_head = ask.method == HTTP_HEAD;
    strcpy(request.id, "req-1");
    strcpy(request.ip, "127.0.0.1");
    request.deadline_ms = loop_now(f->env.loop) + 60000;
    http_router_match(vm_router(f->vm), ask.method, request.path, &request_arena, &match);
    assert_non_null(match.route);
    request.route = match.route;
    memcpy(request.params, match.values, sizeof request.params);
    serve_request(f->vm, &request);
}

static const char *body_text(void)
{
    *buf_reserve(&sent.body, 1) = '\0';
    return sent.body.ptr;
}

static void expect(struct fixture *f, struct ask ask, const char *head, const char *body)
{
    start(f, ask);
    for (int i = 0; i < 100 && !sent.n_ends; i++)
        loop_turn(f->env.loop, true);
    assert_int_equal(sent.n_ends, 1);
    assert_string_equal(sent.head, head);
    if (body)
        assert_string_equal(body_text(), body);
    assert_int_equal(vm_active(f->vm), 0);
}

#define GET(path)                                                                                                      \
    (struct ask)                                                                                                       \
    {                                                                                                                  \
        .target = path, .method = HTTP_GET                                                                             \
    }
#define POST(path, text)                                                                                               \
    (struct ask)                                                                                                       \
    {                                                                                                                  \
        .target = path, .body = text, .method = HTTP_POST                                                              \
    }

static void load(struct fixture *f, const char *text)
{
    static char all[8192];
    snprintf(all, sizeof all,
             "local app, task, json, t = require 'chowk.app', require 'chowk.task', require 'chowk.json', "
             "require 'chowk.schema'\nlocal r = app.routes()\n%s\nreturn r",
             text);
    *f = (struct fixture){.env.development = true};
    fixture_load_one(f, all);
    assert_string_equal(f->err.message, "");
}

static void unload(struct fixture *f)
{
    fixture_unload(f);
    buf_free(&sent.body);
    buf_free(&scratch);
}

/* ---- tests ------------------------------------------------------------------------------------------------ */

static void test_what_may_be_returned(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "r:get('/table', function() return {a = {1, 2}} end)\n"
             "r:get('/list', function() return json.array{} end)\n"
             "r:get('/text', function() return 'hi' end)\n"
             "r:get('/raw', function() return json.raw('[1,2]') end)\n"
             "r:get('/nested', function() return {raw = json.raw('{\"x\":1}')} end)\n"
             "r:get('/status', function() task.sleep(0) return 201, {}, {Location = '/x', ['X-N'] = 5,\n"
             "  ['content-type'] = 'application/vnd.x+json'} end)\n"
             "r:get('/cookies', function() return 200, 'x', {['Set-Cookie'] = {'a=1', 'b=2'}} end)\n"
             "r:get('/empty', function() return app.empty end)\n"
             "r:get('/redirect', function() return app.redirect('/there', 303) end)");
    expect(&f, GET("/table"), "200 [application/json]", "{\"a\":[1,2]}");
    expect(&f, GET("/list"), "200 [application/json]", "[]");
    expect(&f, GET("/text"), "200 [text/plain; charset=utf-8]", "hi");
    expect(&f, GET("/raw"), "200 [application/json]", "[1,2]");
    expect(&f, GET("/nested"), "200 [application/json]", "{\"raw\":{\"x\":1}}");
    start(&f, GET("/status"));
    while (!sent.n_ends)
        loop_turn(f.env.loop, true);
    assert_non_null(strstr(sent.head, "201 [application/vnd.x+json]"));
    assert_non_null(strstr(sent.head, "Location=/x"));
    assert_non_null(strstr(sent.head, "X-N=5"));
    expect(&f, GET("/cookies"), "200 [text/plain; charset=utf-8] Set-Cookie=a=1 Set-Cookie=b=2", "x");
    expect(&f, GET("/empty"), "204 []", "");
    expect(&f, GET("/redirect"), "303 [] Location=/there", "");
    unload(&f);
}

static void test_what_may_not_be_returned(void **state)
{
    static const char *const cases[][2] = {
        {"", "it returned nothing"},
        {"return nil", "it returned nil"},
        {"return nil, 'err'", "it returned nil"},
        {"return 42", "a lone number"},
        {"return ('abc'):gsub('b', 'x')", "more than one value"},
        {"return {}, {}", "more than one value"},
        {"return true", "got boolean"},
        {"return function() end", "got function"},
        {"return 201, nil", "got nil"},
        {"return 99, {}", "from 200 to 599"},
        {"return 200.5, {}", "from 200 to 599"},
        {"return 200, {}, {}, 1", "more than status, body and headers"},
        {"return 200, {}, 'x'", "must be a table of headers"},
        {"return 200, {}, {X = 'a\\r\\nb'}", "bytes that are not allowed"},
        {"return 200, {}, {['Content-Length'] = 5}", "is the server's own"},
        {"return 200, {}, {X = true}", "a string, a number or a list"},
        {"return {f = print}", "f: a function has no JSON form"},
        {"return {a = {1, {b = 0/0}}}", "a[2].b: NaN has no JSON form"},
        {"return {app.empty}", "returned alone, not inside a table"},
        {"local _, e = try(json.decode, '{') return e", "raise it with error()"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f;
        char text[512];
        snprintf(text, sizeof text, "r:get('/x', function() %s end)", cases[i][0]);
        load(&f, text);
        expect(&f, GET("/x"), "problem 500 internal_error retry=0", NULL);
        if (!strstr(body_text(), cases[i][1]))
            assert_string_equal(body_text(), cases[i][1]);
        assert_non_null(strstr(body_text(), "lua/app.lua:3: the handler of GET /x"));
        assert_non_null(strstr(body_text(), ",\"error_id\":\""));
        unload(&f);
    }
}

static void test_errors_become_problems(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "r:get('/fail', function() app.fail(404, 'product_not_found', 'No mug', {slug = 'mug'}) end)\n"
             "r:get('/plain', function() app.fail(409, 'taken') end)\n"
             "r:get('/later', function() app.fail(429, 'slow', nil, {retry_after = 7}) end)\n"
             "r:get('/bug', function() task.sleep(0) local t = {} return t.x.y end)\n"
             "r:get('/object', function() error({}) end)\n"
             "r:get('/invalid', function() return json.decode('[') end)\n"
             "r:get('/misuse', function() app.fail(200, 'x') end)");
    expect(&f, GET("/fail"), "problem 404 product_not_found retry=0", "No mug,\"slug\":\"mug\"");
    expect(&f, GET("/plain"), "problem 409 taken retry=0", "");
    expect(&f, GET("/later"), "problem 429 slow retry=7", ",\"retry_after\":7");
    expect(&f, GET("/bug"), "problem 500 internal_error retry=0", NULL);
    assert_non_null(strstr(body_text(), "lua/app.lua:6: attempt to index field 'x' (a nil value)"));
    assert_non_null(strstr(body_text(), "\"traceback\":\"stack traceback:"));
    assert_non_null(strstr(body_text(), "\"handler\":\"lua/app.lua:6\""));
    expect(&f, GET("/object"), "problem 500 internal_error retry=0", NULL);
    expect(&f, GET("/invalid"), "problem 500 internal_error retry=0", NULL);
    expect(&f, GET("/misuse"), "problem 500 internal_error retry=0", NULL);
    assert_non_null(strstr(body_text(), "lua/app.lua:9: app.fail: the status must be 400 to 599, got 200"));
    f.env.development = false;
    expect(&f, GET("/bug"), "problem 500 internal_error retry=0", NULL);
    assert_null(strstr(body_text(), "app.lua"));
    assert_non_null(strstr(body_text(), ",\"error_id\":\""));
    unload(&f);
}

/* The coroutine's stack is full then: whatever shows the error must not push on it. */
static void test_a_runaway_recursion_is_an_error_like_any_other(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "local function deep(n) return 1 + deep(n + 1) end\n"
             "r:get('/deep', function() return {deep(1)} end)\n"
             "r:get('/caught', function() return {(pcall(deep, 1))} end)\n"
             "r:get('/child', function() return task.all{function() return deep(1) end, function() return 2 end} end)\n"
             "r:get('/stream', function() return app.stream(function(w) deep(1) end) end)");
    for (int i = 0; i < 3; i++) {
        expect(&f, GET("/deep"), "problem 500 internal_error retry=0", NULL);
        assert_non_null(strstr(body_text(), "lua/app.lua:3: stack overflow"));
        expect(&f, GET("/child"), "problem 500 internal_error retry=0", NULL);
        expect(&f, GET("/caught"), "200 [application/json]", "[false]");
    }
    expect(&f, GET("/stream"), "200 [application/octet-stream]", "<abort>");
    unload(&f);
}

static void test_request_fields(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "r:get('/p/:slug/*rest', function(req) return {req.method, req.path, req.ip, req.id, req.route,\n"
             "  req.params.slug, req.params.rest, req.query.q, req.query.m[2], req.headers['x-TWO'],\n"
             "  req:header('x-two'), req.cookies.sid, tostring(req.headers.none), tostring(req:header('none')),\n"
             "  tostring(req.user), req.params == req.params} end)\n"
             "r:post('/echo', function(req) return {json = req:json(), body = req:body()} end)\n"
             "r:post('/form', function(req) return req:form() end)\n"
             "r:get('/ctx', function(req) req.ctx.n = 1 req.ctx.n = req.ctx.n + 1 return {req.ctx.n} end)\n"
             "r:get('/typo', function(req) return {req.parms} end)\n"
             "r:get('/set', function(req) req.user = 1 end)\n"
             "r:get('/dot', function(req) return req.body() end)");
    struct ask ask = GET("/p/mug%20x/a/b?q=a+b%21&m=1&m=2");
    ask.cookie = "theme=dark; sid=s1; sid=s2";
    expect(
        &f, ask, "200 [application/json]",
        "[\"GET\",\"/p/mug%20x/a/b\",\"127.0.0.1\",\"req-1\",\"/p/:slug/*rest\",\"mug x\",\"a/b\",\"a b!\",\"2\",\"2\","
        "\"2\",\"s1\",\"nil\",\"nil\",\"nil\",true]");
    expect(&f, GET("/p/a/b?q=%zz"), "problem 400 bad_query retry=0", "a percent escape is invalid, or is not UTF-8");
    expect(&f, GET("/p/a/b?q=%ff"), "problem 400 bad_query retry=0", NULL);
    expect(&f, POST("/echo", "[null,1]"), "200 [application/json]", NULL);
    assert_non_null(strstr(body_text(), "\"json\":[null,1]"));
    assert_non_null(strstr(body_text(), "\"body\":\"[null,1]\""));
    expect(&f, POST("/echo", "{\"a\":1,\"a\":2}"), "problem 400 invalid_json retry=0", NULL);
    expect(&f, POST("/echo", ""), "problem 400 invalid_json retry=0", "the body is empty");
    ask = POST("/form", "a=1&b=%26");
    expect(&f, ask, "problem 415 unsupported_media_type retry=0", NULL);
    ask.type = "application/x-www-form-urlencoded; charset=utf-8";
    expect(&f, ask, "200 [application/json]", NULL);
    assert_non_null(strstr(body_text(), "\"b\":\"&\""));
    expect(&f, GET("/ctx"), "200 [application/json]", "[2]");
    expect(&f, GET("/typo"), "problem 500 internal_error retry=0", NULL);
    assert_non_null(strstr(body_text(), "req has no field \"parms\""));
    expect(&f, GET("/set"), "problem 500 internal_error retry=0", NULL);
    assert_non_null(strstr(body_text(), "your own values go into req.ctx"));
    expect(&f, GET("/dot"), "problem 500 internal_error retry=0", NULL);
    assert_non_null(strstr(body_text(), "expected a req, got"));
    unload(&f);
}

static void test_a_kept_request_is_closed(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "local kept\n"
             "r:get('/keep', function(req) kept = req req = nil collectgarbage() task.sleep(0) collectgarbage()\n"
             "  return {kept.path} end)\n"
             "r:get('/use', function() return {kept.path} end)\n"
             "r:get('/call', function() return {kept:header('x-two')} end)\n"
             "r:get('/drop', function(req) req = nil collectgarbage() task.sleep(0) collectgarbage() return 'x' end)");
    expect(&f, GET("/keep"), "200 [application/json]", "[\"/keep\"]");
    expect(&f, GET("/use"), "problem 500 internal_error retry=0", NULL);
    assert_non_null(strstr(body_text(), "lua/app.lua:6: this req is closed: its request has ended"));
    expect(&f, GET("/call"), "problem 500 internal_error retry=0", NULL);
    expect(&f, GET("/drop"), "200 [text/plain; charset=utf-8]", "x");
    unload(&f);
}

static void test_validation_and_middleware(void **state)
{
    struct fixture f;
    (void)state;
    load(&f,
         "r:use(function(req) if req.query.stop then return 403, {stopped = true} end req.ctx.seen = 'mw' end)\n"
         "r:get('/p/:id', {params = {id = t.integer{min = 1}}, query = {limit = t.integer{default = 20},\n"
         "  stop = t.optional(t.string()), all = t.optional(t.boolean())}}, function(req)\n"
         "  return {req.params.id, req.query.limit, tostring(req.query.all), req.ctx.seen} end)\n"
         "r:post('/o', {body = t.object{items = t.array(t.object{sku = t.string{min = 1}, quantity = t.integer{min = "
         "1}},\n"
         "  {min = 1, max = 3}), note = t.optional(t.string())}}, function(req) return req:json() end)\n"
         "r:get('/me', {auth = function(req) return req.query.who end}, function(req) return {req.user} end)\n"
         "local sub = app.routes()\n"
         "sub:use(function(req) req.ctx.seen = req.ctx.seen .. '+sub' end)\n"
         "sub:get('/', {name = 'sub'}, function(req) return {req.ctx.seen, app.url_for('sub', nil, {a = 'b c'})} end)\n"
         "r:mount('/sub', sub)");
    expect(&f, GET("/p/7?all=true"), "200 [application/json]", "[7,20,\"true\",\"mw\"]");
    expect(&f, GET("/p/7?stop=1"), "403 [application/json]", "{\"stopped\":true}");
    expect(&f, GET("/me?who=asha&stop=1"), "403 [application/json]", "{\"stopped\":true}");
    expect(&f, GET("/p/0?limit=x"), "problem 422 invalid retry=0", NULL);
    assert_non_null(strstr(body_text(), "\"pointer\":\"/id\""));
    assert_non_null(strstr(body_text(), "\"pointer\":\"/limit\""));
    expect(&f, POST("/o", "{\"items\":[{\"sku\":\"A\",\"quantity\":2}],\"note\":null}"), "200 [application/json]",
           NULL);
    assert_null(strstr(body_text(), "note"));
    expect(&f, POST("/o", "{\"items\":[{\"sku\":\"\",\"quantity\":0},{\"quantity\":1.5,\"x/y\":1}],\"z\":1}"),
           "problem 422 invalid retry=0", NULL);
    static const char *const pointers[] = {"/items/0/sku",      "/items/0/quantity", "/items/1/sku",
                                           "/items/1/quantity", "/items/1/x~1y",     "/z"};
    for (size_t i = 0; i < ARRAY_LEN(pointers); i++) {
        char text[64];
        snprintf(text, sizeof text, "\"pointer\":\"%s\"", pointers[i]);
        if (!strstr(body_text(), text))
            assert_string_equal(body_text(), text);
    }
    expect(&f, GET("/me?who=asha"), "200 [application/json]", "[\"asha\"]");
    expect(&f, GET("/me"), "problem 401 unauthorized retry=0", "sign in first");
    expect(&f, GET("/sub"), "200 [application/json]", "[\"mw+sub\",\"/sub?a=b%20c\"]");
    unload(&f);
}

static void test_streams(void **state)
{
    struct fixture f;
    (void)state;
    load(&f,
         "r:get('/s', function(req) return app.stream(function(w) w:write('a') task.sleep(0) w:write(json.raw('1'))\n"
         "  w:write(req.path) end, {content_type = 'text/csv', headers = {['X-A'] = 'b'}}) end)\n"
         "r:get('/bad', function() return app.stream(function(w) w:write('a') error('boom') end) end)\n"
         "local kept\n"
         "r:get('/keep', function() return app.stream(function(w) kept = w end) end)\n"
         "r:get('/after', function() kept:write('x') end)");
    expect(&f, GET("/s"), "200 [text/csv] X-A=b", "a1/s<end>");
    struct ask head = GET("/s");
    head.method = HTTP_HEAD;
    expect(&f, head, "200 [text/csv] X-A=b", "<end>");
    expect(&f, GET("/bad"), "200 [application/octet-stream]", "a<abort>");
    expect(&f, GET("/keep"), "200 [application/octet-stream]", "<end>");
    expect(&f, GET("/after"), "problem 500 internal_error retry=0", NULL);
    assert_non_null(strstr(body_text(), "this writer is closed"));
    unload(&f);
}

static void test_a_slow_reader_parks_the_writer(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "r:get('/late', function() task.sleep(0) return app.stream(function(w) for i = 1, 3 do\n"
             "  w:write(tostring(i)) end end) end)");
    start(&f, GET("/late"));
    sent.is_full = true;
    while (!sent.on_drain)
        loop_turn(f.env.loop, true);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(sent.body.len, i);
        assert_int_equal(sent.n_ends, 0);
        void (*fn)(struct http_request *) = sent.on_drain;
        sent.on_drain = NULL;
        fn(&request);
    }
    assert_string_equal(body_text(), "123<end>");
    start(&f, GET("/late"));
    sent.is_full = true;
    while (!sent.on_drain)
        loop_turn(f.env.loop, true);
    co_mark_committed(((struct call *)request.owner)->co); /* nobody drains it any more, whatever it has done */
    request.on_gone(&request);
    while (!sent.n_ends)
        loop_turn(f.env.loop, true);
    assert_string_equal(body_text(), "1<abort>");
    assert_null(sent.on_drain);
    unload(&f);
}

static void test_the_client_goes_away(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "local after\n"
             "r:get('/wait', function() pcall(task.sleep, 60) after = 'went on' return 'x' end)\n"
             "r:get('/after', function() return tostring(after) end)");
    start(&f, GET("/wait"));
    assert_int_equal(sent.n_ends, 0);
    request.on_gone(&request);
    while (!sent.n_ends)
        loop_turn(f.env.loop, true);
    assert_int_equal(sent.n_ends, 1);
    expect(&f, GET("/after"), "200 [text/plain; charset=utf-8]", "nil");
    start(&f, GET("/wait"));
    unload(&f); /* the generation closes with a request in flight: it is answered */
    assert_int_equal(sent.n_ends, 1);
    assert_string_equal(sent.head, "problem 503 cancelled retry=1");
}

static void test_a_handler_without_parameters_gets_no_userdata(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "r:get('/bare', function() return 'x' end)\n"
             "r:get('/count', function(...) return tostring(select('#', ...)) end)");
    assert_false(f.vm->routes[0].wants_req);
    expect(&f, GET("/bare"), "200 [text/plain; charset=utf-8]", "x");
    expect(&f, GET("/count"), "200 [text/plain; charset=utf-8]", "1");
    unload(&f);
}

int main(void)
{
    log_open(open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_DEBUG, true, "test"); /* written, not shown */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_may_be_returned),
        cmocka_unit_test(test_what_may_not_be_returned),
        cmocka_unit_test(test_errors_become_problems),
        cmocka_unit_test(test_a_runaway_recursion_is_an_error_like_any_other),
        cmocka_unit_test(test_request_fields),
        cmocka_unit_test(test_a_kept_request_is_closed),
        cmocka_unit_test(test_validation_and_middleware),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_a_slow_reader_parks_the_writer),
        cmocka_unit_test(test_the_client_goes_away),
        cmocka_unit_test(test_a_handler_without_parameters_gets_no_userdata),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
