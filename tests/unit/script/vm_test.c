/* Loading: modules, errors with file and line, the sandbox, routes that reach the router. */
#include "fixture.h"

static void test_loads_routes_in_order(void **state)
{
    struct fixture f = {0};
    const struct fixture_file files[] = {
        {"lua/store/init.lua", "local app = require 'chowk.app'\n"
                               "local r = app.routes()\n"
                               "r:mount('/api', require 'store.products')\n"
                               "r:get('/', { summary = 'home', deadline = '5s', max_body = '2KiB' }, function() end)\n"
                               "return r"},
        {"lua/store/products.lua", "local r = require 'chowk.app'.routes()\n"
                                   "r:get('/products/:slug', function(req) end):post('/', function() end)\n"
                                   "return r"},
        {NULL, NULL}};
    (void)state;
    fixture_load(&f, files, "store");
    assert_string_equal(f.err.message, "");
    const struct http_router *router = vm_router(f.vm);
    assert_int_equal(http_router_count(router), 3);
    assert_string_equal(http_router_at(router, 0)->pattern, "/api/products/:slug");
    assert_string_equal(http_router_at(router, 0)->origin, "lua/store/products.lua:2");
    assert_string_equal(http_router_at(router, 1)->pattern, "/api");
    assert_int_equal(http_router_at(router, 1)->method, HTTP_POST);
    assert_int_equal(http_router_at(router, 2)->max_body, 2048);
    assert_int_equal(http_router_at(router, 2)->deadline_ms, 5000);
    assert_string_equal(http_router_at(router, 2)->summary, "home");
    assert_true(f.vm->routes[0].wants_req);
    assert_false(f.vm->routes[1].wants_req);
    assert_true(vm_bytes(f.vm) > 10000);
    fixture_unload(&f);
}

/* {source of lua/app.lua, what the load error must say} */
static void test_load_errors_name_the_line(void **state)
{
    static const char *const cases[][2] = {
        {"local x =\n\n= 1", "lua/app.lua:3: unexpected symbol near '='"},
        {"\nerror('boom')", "lua/app.lua:2: boom"},
        {"\n\nlocal t = nil\nreturn t.x", "lua/app.lua:4: attempt to index local 't' (a nil value)"},
        {"require 'nowhere'", "lua/app.lua:1: module 'nowhere' not found: no nowhere.lua below app.root "
                              "(and no LuaRocks or C modules)"},
        {"require 'chowk.nowhere'",
         "lua/app.lua:1: module 'chowk.nowhere' not found: the library has none of that name"},
        {"require 'chowk.core.task'", "lua/app.lua:1: module 'chowk.core.task' is private to the library"},
        {"require 'chowk.boot'", "lua/app.lua:1: module 'chowk.boot' is private to the library"},
        {"require 'app'", "lua/app.lua:1: module 'app' requires itself, directly or through another"},
        {"require 'ffi'", "lua/app.lua:1: module 'ffi' not found: no ffi.lua below app.root "
                          "(and no LuaRocks or C modules)"},
        {"return 42", "module 'app' must return what app.routes() gave it, as its last line: got number"},
        {"require 'chowk.app'.routes():get('/', function() end)",
         "module 'app' must return what app.routes() gave it, as its last line: got nothing"},
        {"os.getenv 'HOME'", "lua/app.lua:1: os.getenv: write settings = { x = env(\"HOME\") } in conf/chowk.lua and "
                             "read config.settings.x of "
                             "require \"chowk.config\", or allow it there: sandbox = { allow = { \"os.getenv\" } }"},
        {"\nerror{ code = 'x' }", "lua/app.lua:2: (a table was raised)"},
        {"\nrequire 'chowk.app'.fail(404, 'gone')", "lua/app.lua:2: 404 gone"},
        {"require 'chowk.app'.routes():get('/x', { body = {} }, function() end)",
         "lua/app.lua:1: /x: a GET has no body: declare what it takes as `query`"},
        {"\nrequire 'chowk.task'.sleep(1)",
         "lua/app.lua:2: this call waits, and nothing may wait while loading: move it "
         "into a handler or app.on_start"},
        {"require 'chowk.task'.spawn(function() end)",
         "lua/app.lua:1: task.spawn while loading: put it into app.on_start"},
        {"require 'chowk.app'.routes():get('x', function() end)",
         "lua/app.lua:1: a route's pattern starts with \"/\", got \"x\""},
        {"local r = require 'chowk.app'.routes()\nr:get('/x', { limt = 'a' }, function() end)",
         "lua/app.lua:2: route: unknown option \"limt\": there are auth, body, deadline, guest, "
         "idempotent, limit, max_body, name, params, query, summary, tags"},
        {"local r = require 'chowk.app'.routes()\nr:get('/x', { auth = 'user' }, function() end)",
         "lua/app.lua:2: auth: expected a function(req) that returns the user or nil, got \"user\""},
        {"local r = require 'chowk.app'.routes()\nr:get('/x')",
         "lua/app.lua:2: /x: the handler must be a function, got nil"},
        {"local r = require 'chowk.app'.routes()\nr:get('/x', { query = { q = 'string' } }, function() end)",
         "lua/app.lua:2: t.object: q is not a type such as t.string()"},
        {"string.format = nil", "lua/app.lua:1: string.format: the library cannot be changed"},
        {"pairs = nil", "lua/app.lua:1: the global 'pairs' belongs to Lua and cannot be changed"},
        {"require 'chowk.app'.fail = 1", "lua/app.lua:1: chowk.app.fail: the library cannot be changed"},
        {"rawset(string, 'format', 1)", "lua/app.lua:1: rawset: this table is frozen"},
        {"setmetatable(_G, nil)", "lua/app.lua:1: cannot change a protected metatable"},
        {"error(setmetatable({}, { __tostring = function() return 'odd' end }))", "odd"},
        {"require 'chowk.config'.get('no.such')",
         "lua/app.lua:1: config.get: there is no key \"no.such\" (`chowk config` lists them)"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f = {0};
        fixture_load_one(&f, cases[i][0]);
        assert_null(f.vm);
        if (!strstr(f.err.message, cases[i][1]))
            assert_string_equal(f.err.message, cases[i][1]);
        fixture_unload(&f);
    }
}

static void test_conflicting_routes_fail(void **state)
{
    struct fixture f = {0};
    (void)state;
    fixture_load_one(&f, "local r = require 'chowk.app'.routes()\n"
                         "r:get('/a/:x', function() end)\n"
                         "r:get('/a/:y', function() end)\n"
                         "return r");
    assert_null(f.vm);
    assert_non_null(strstr(f.err.message, "lua/app.lua:2"));
    assert_non_null(strstr(f.err.message, "lua/app.lua:3"));
    fixture_unload(&f);
}

static void test_sandbox_has_no_way_out(void **state)
{
    struct fixture f = {0};
    (void)state;
    fixture_load_one(
        &f,
        "local r = require 'chowk.app'.routes()\n"
        "shared = 'set while loading'\n"
        "r:get('/absent', function()\n"
        "  local left = {}\n"
        "  for _, n in ipairs{'debug','io','jit','ffi','package','getfenv','setfenv','newproxy','loadfile','dofile',\n"
        "    'module','gcinfo'} do if _G[n] ~= nil then left[#left + 1] = n end end\n"
        "  for _, n in ipairs{'execute','exit','remove','rename','tmpname','setlocale'} do\n"
        "    if os[n] then left[#left + 1] = 'os.' .. n end end\n"
        "  if string.dump or ('').dump then left[#left + 1] = 'dump' end\n"
        "  return table.concat(left, ' ') .. '|' .. shared\n"
        "end)\n"
        "r:get('/bytecode', function() return load('\\27LJ\\2\\0', 'x') end)\n"
        "r:get('/load', function() return load('return shared, debug, ...', '=x')(7) end)\n"
        "r:get('/write', function()\n  oops = 1\nend)\n"
        "r:get('/gc', function() collectgarbage('stop') end)\n"
        "r:get('/meta', function() return getmetatable(''), getmetatable(_G), pcall(rawset, _G, 'x', 1) end)\n"
        "return r");
    assert_string_equal(f.err.message, "");
    fixture_expect(&f, "/absent", "ok |set while loading");
    fixture_expect(&f, "/bytecode", "ok nil attempt to load chunk with wrong mode");
    fixture_expect(&f, "/load", "ok set while loading nil 7");
    fixture_expect(&f, "/write",
                   "error: lua/app.lua:15: write to the global 'oops': globals are frozen after loading, "
                   "declare it `local`");
    fixture_expect(&f, "/gc",
                   "error: lua/app.lua:17: collectgarbage(\"stop\") is not available: \"count\", "
                   "\"collect\", \"step\" are");
    fixture_expect(&f, "/meta", "ok string frozen false lua/app.lua:18: rawset: this table is frozen");
    fixture_unload(&f);
}

static void test_hooks_run_and_stop_cancels(void **state)
{
    struct fixture f = {0};
    struct outcome out;
    (void)state;
    fixture_load_one(&f, "local app, task = require 'chowk.app', require 'chowk.task'\n"
                         "local seen = {}\n"
                         "app.on_start(function() seen[#seen + 1] = 'start' task.spawn(function()\n"
                         "  seen[#seen + 1] = 'task' pcall(task.sleep, 3600) seen[#seen + 1] = 'swallowed' end) end)\n"
                         "app.on_stop(function() task.sleep(0) seen[#seen + 1] = 'stop' end)\n"
                         "local r = app.routes()\n"
                         "r:get('/seen', function() return table.concat(seen, ' ') end)\n"
                         "r:get('/late', function() app.on_start(function() end) end)\n"
                         "return r");
    assert_string_equal(f.err.message, "");
    vm_start(f.vm);
    loop_turn(f.env.loop, false);
    assert_int_equal(vm_active(f.vm), 1);
    fixture_expect(&f, "/seen", "ok start task");
    fixture_expect(&f, "/late",
                   "error: lua/app.lua:8: app.on_start is for loading time: declare it at the top level of "
                   "a module");
    vm_stop(f.vm);
    for (int i = 0; i < 100 && vm_active(f.vm); i++)
        loop_turn(f.env.loop, true);
    assert_int_equal(vm_active(f.vm), 0);
    fixture_start(&f, "/seen", 0, &out);
    assert_string_equal(out.text, "ok start task stop");
    fixture_unload(&f);
}

static void test_config_is_typed_and_read_only(void **state)
{
    struct fixture f = {.env.config_json = SLICE("{\"pg.pool_size\":10,\"pg.url\":null,\"a.list\":[\"x\"],"
                                                 "\"settings\":{\"shop\":{\"name\":\"Mug\"}}}")};
    (void)state;
    fixture_load_one(&f, "local config, r = require 'chowk.config', require 'chowk.app'.routes()\n"
                         "r:get('/get', function() return config.get('pg.pool_size'), config.get('pg.url'),\n"
                         "  config.get('a.list')[1], config.settings.shop.name, config.development end)\n"
                         "r:get('/missing', function() return config.settings.shop.nme end)\n"
                         "r:get('/write', function() config.settings.shop.name = 1 end)\n"
                         "return r");
    assert_string_equal(f.err.message, "");
    fixture_expect(&f, "/get", "ok 10 nil x Mug false");
    fixture_expect(&f, "/missing", "error: lua/app.lua:4: settings.shop.nme is not set in conf/chowk.lua");
    fixture_expect(&f, "/write", "error: lua/app.lua:5: settings.shop.name: the configuration is read-only");
    fixture_unload(&f);
}

/* Each has a route of its own; a process without a segment has room for 55. */
static void test_its_end_gives_up_its_metrics(void **state)
{
    (void)state;
    for (int i = 0; i < 80; i++) {
        struct fixture f = {0};
        char text[160];
        snprintf(text, sizeof text,
                 "local r = require 'chowk.app'.routes() r:get('/route/%d', function() return 'x' end) return r", i);
        fixture_load_one(&f, text);
        assert_non_null(f.vm);
        assert_int_not_equal(f.vm->routes[0].metric, 0);
        fixture_unload(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_its_end_gives_up_its_metrics),  cmocka_unit_test(test_loads_routes_in_order),
        cmocka_unit_test(test_load_errors_name_the_line),     cmocka_unit_test(test_conflicting_routes_fail),
        cmocka_unit_test(test_sandbox_has_no_way_out),        cmocka_unit_test(test_hooks_run_and_stop_cancels),
        cmocka_unit_test(test_config_is_typed_and_read_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
