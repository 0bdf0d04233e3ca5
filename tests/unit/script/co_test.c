/* Coroutines: park and wake, user coroutines, cancel and deadline that no pcall swallows, task.all. */
#include "fixture.h"

#define HEAD                                                                                                           \
    "local app, task, json = require 'chowk.app', require 'chowk.task', require 'chowk.json'\n"                        \
    "local r = app.routes()\n"

static void load(struct fixture *f, const char *text)
{
    char all[8192];
    snprintf(all, sizeof all, HEAD "%s\nreturn r", text);
    *f = (struct fixture){0};
    fixture_load_one(f, all);
    assert_string_equal(f->err.message, "");
}

static void test_results_of_a_park_come_back(void **state)
{
    struct fixture f;
    (void)state;
    load(&f,
         "r:get('/plain', function() return 1, nil, 'x' end)\n"
         "r:get('/sleep', function() local a = 7 task.sleep('1ms') return a end)\n"
         "r:get('/pcall', function() return pcall(function() task.sleep(0.001) return 'in' end) end)\n"
         "r:get('/iter', function() local n = 0\n"
         "  for i in function(_, i) task.sleep(0) i = (i or 0) + 1 if i < 4 then return i end end do n = n + i end\n"
         "  return n end)\n"
         "r:get('/meta', function() return setmetatable({}, {__index = function(_, k) task.sleep(0) return k end}).abc "
         "end)");
    fixture_expect(&f, "/plain", "ok 1 nil x");
    fixture_expect(&f, "/sleep", "ok 7");
    fixture_expect(&f, "/pcall", "ok true in");
    fixture_expect(&f, "/iter", "ok 6");
    fixture_expect(&f, "/meta", "ok abc");
    assert_int_equal(vm_active(f.vm), 0);
    fixture_unload(&f);
}

static void test_cannot_wait_across_a_c_boundary(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "r:get('/sort', function() table.sort({2, 1}, function(a, b)\n"
             "  task.sleep(0)\n  return a < b end) end)\n"
             "r:get('/gsub', function() return (('x'):gsub('x', function()\n"
             "  return coroutine.wrap(function() task.sleep(0) end)() end)) end)");
    fixture_expect(&f, "/sort",
                   "error: lua/app.lua:4: this call waits, and cannot inside a callback of table.sort, "
                   "string.gsub or a metamethod of a C function: call it before");
    struct outcome out;
    fixture_start(&f, "/gsub", 0, &out);
    assert_int_equal(out.n_done, 1);
    assert_non_null(strstr(out.text, "this call waits, and cannot"));
    loop_turn(f.env.loop, false); /* its timer was dropped */
    fixture_unload(&f);
}

static void test_user_coroutines_pass_a_park_outward(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "r:get('/wrap', function()\n"
             "  local gen = coroutine.wrap(function(a)\n"
             "    for i = 1, 3 do task.sleep(0) a = coroutine.yield(i + a) end return 'end', a end)\n"
             "  return gen(10), gen(20), gen(30), gen('z') end)\n"
             "r:get('/nested', function()\n"
             "  local outer = coroutine.wrap(function()\n"
             "    local inner = coroutine.wrap(function() task.sleep(0) coroutine.yield('deep') task.sleep(0) return "
             "'out' end)\n"
             "    coroutine.yield(inner()) coroutine.yield(inner()) end)\n"
             "  return outer(), outer() end)\n"
             "r:get('/resume', function()\n"
             "  local co = coroutine.create(function() task.sleep(0) error('bad', 0) end)\n"
             "  local ok, err = coroutine.resume(co)\n"
             "  return ok, err, coroutine.status(co), coroutine.resume(co) end)\n"
             "r:get('/yield', function() return pcall(coroutine.yield, 1) end)\n"
             "r:get('/self', function() return coroutine.resume(coroutine.running()) end)\n"
             "local shared\n"
             "r:get('/hold', function() shared = coroutine.create(function() task.sleep('20ms') return 'mine' end)\n"
             "  return coroutine.resume(shared) end)\n"
             "r:get('/steal', function() return coroutine.status(shared), coroutine.resume(shared, 'junk') end)\n"
             "local main\n"
             "r:get('/own', function() main = coroutine.running() task.sleep('10ms') return 'whole' end)\n"
             "r:get('/take', function() return coroutine.resume(main, 'junk') end)");
    struct outcome out, other;
    fixture_expect(&f, "/wrap", "ok 11 22 33 end z");
    fixture_expect(&f, "/nested", "ok deep out");
    fixture_expect(&f, "/resume", "ok false bad dead false cannot resume dead coroutine");
    fixture_expect(&f, "/yield", "ok false attempt to yield from outside a coroutine");
    fixture_expect(&f, "/self", "ok false cannot resume a request's own coroutine");
    fixture_start(&f, "/hold", 0, &out);
    fixture_start(&f, "/steal", 0, &other);
    assert_string_equal(other.text, "ok normal false cannot resume a coroutine that waits in a call");
    fixture_run_until(&f, &out);
    assert_string_equal(out.text, "ok true mine");
    fixture_start(&f, "/own", 0, &out);
    fixture_start(&f, "/take", 0, &other);
    assert_string_equal(other.text, "ok false cannot resume a request's own coroutine");
    fixture_run_until(&f, &out);
    assert_string_equal(out.text, "ok whole");
    fixture_unload(&f);
}

#define STUBBORN                                                                                                       \
    "local log = {}\n"                                                                                                 \
    "r:get('/log', function() return table.concat(log, ' ') end)\n"                                                    \
    "r:get('/stubborn', function()\n"                                                                                  \
    "  local ok, err = pcall(task.sleep, 60)\n"                                                                        \
    "  log[#log + 1] = 'swallowed' return 'went on' end)\n"                                                            \
    "r:get('/loop', function() while true do xpcall(task.sleep, function(e) log[#log + 1] = e.code return e end, "     \
    "60)\n"                                                                                                            \
    "  end end)\n"                                                                                                     \
    "r:get('/inner', function()\n"                                                                                     \
    "  local co = coroutine.create(function() pcall(task.sleep, 60) log[#log + 1] = 'inner' end)\n"                    \
    "  coroutine.resume(co) log[#log + 1] = 'outer' end)\n"                                                            \
    "r:get('/try', function() return try(task.sleep, 60) end)\n"

static void expect_end(struct fixture *f, const char *pattern, bool by_deadline, const char *expected)
{
    struct outcome out;
    uint64_t deadline = by_deadline ? loop_now(f->env.loop) + 5 : 0;
    struct co *co = fixture_start(f, pattern, deadline, &out);
    assert_int_equal(out.n_done, 0);
    if (!by_deadline)
        co_cancel(co, ERR_CANCELLED);
    assert_int_equal(out.n_done, 0); /* never from inside the call */
    fixture_run_until(f, &out);
    assert_string_equal(out.text, expected);
}

static void test_cancel_and_deadline_are_sticky(void **state)
{
    static const char *const patterns[] = {"/stubborn", "/loop", "/inner", "/try"};
    struct fixture f;
    (void)state;
    load(&f, STUBBORN);
    for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
        expect_end(&f, patterns[i], false, "error: cancelled: cancelled");
        expect_end(&f, patterns[i], true, "error: deadline: the deadline has passed");
    }
    fixture_expect(&f, "/log", "ok cancelled deadline");
    fixture_unload(&f);
}

/* How long it was parked, and why it was woken, are two things: a deadline's wait counts too. */
static void test_waits_are_added_up(void **state)
{
    (void)state;
    struct fixture f = {0};
    struct outcome out = {0};
    uint64_t waited_us[HTTP_N_WAITS] = {0};
    fixture_load_one(&f, "local r, task = require 'chowk.app'.routes(), require 'chowk.task'\n"
                         "r:get('/two', function() task.sleep(0.005) task.sleep(0.005) return 'x' end)\n"
                         "r:get('/long', function() task.sleep(60) return 'x' end)\n"
                         "return r");
    assert_non_null(f.vm);
    for (int i = 0; i < 2; i++) {
        struct co *co = co_new(f.vm);
        const struct http_route *route = http_router_at(vm_router(f.vm), (size_t)i);
        bool is_long = strcmp(route->pattern, "/long") == 0;
        assert_null(co_waits(co, HTTP_WAIT_PG));
        co_set_waits(co, waited_us);
        assert_ptr_equal(co_waits(co, HTTP_WAIT_PG), &waited_us[HTTP_WAIT_PG]);
        lua_rawgeti(co_stack(co), LUA_REGISTRYINDEX, f.vm->routes[route->handler].ref);
        uint64_t before_us = waited_us[HTTP_WAIT_OTHER];
        out = (struct outcome){0};
        co_start(co, 0, is_long ? loop_now(f.env.loop) + 10 : 0, on_outcome, &out);
        fixture_run_until(&f, &out);
        assert_in_range(waited_us[HTTP_WAIT_OTHER] - before_us, 8000, 30000000);
    }
    assert_int_equal(waited_us[HTTP_WAIT_PG], 0);
    fixture_unload(&f);
}

static void test_committed_work_ends_only_by_its_deadline(void **state)
{
    struct fixture f;
    struct outcome out;
    (void)state;
    load(&f, "r:get('/work', function() task.sleep('5ms') return 'done' end)");
    struct co *co = fixture_start(&f, "/work", 0, &out);
    co_mark_committed(co);
    co_cancel(co, ERR_CANCELLED);
    fixture_run_until(&f, &out);
    assert_string_equal(out.text, "ok done");
    co = fixture_start(&f, "/work", 0, &out);
    co_mark_committed(co);
    co_cancel(co, ERR_DEADLINE);
    fixture_run_until(&f, &out);
    assert_string_equal(out.text, "error: deadline: the deadline has passed");
    fixture_unload(&f);
}

struct counted {
    struct co_leftover leftover;
    int n;
};

static void count_leftover(struct co_leftover *leftover)
{
    container_of(leftover, struct counted, leftover)->n++;
}

static void test_leftovers_are_cleared_at_the_end(void **state)
{
    struct fixture f;
    struct outcome out;
    struct counted a = {0}, b = {0};
    (void)state;
    load(&f, "r:get('/work', function() task.sleep('5ms') return 'done' end)"
             "r:get('/bug', function() task.sleep('5ms') error('bug') end)");
    static const char *const patterns[] = {"/work", "/bug"};
    for (int i = 0; i < 2; i++) {
        struct co *co = fixture_start(&f, patterns[i], 0, &out);
        co_add_leftover(co, &a.leftover, count_leftover);
        co_add_leftover(co, &b.leftover, count_leftover);
        assert_int_equal(a.n, i);
        fixture_run_until(&f, &out);
        assert_int_equal(a.n, i + 1);
        assert_int_equal(b.n, i + 1);
    }
    struct co *co = fixture_start(&f, "/work", 0, &out);
    co_add_leftover(co, &a.leftover, count_leftover);
    co_add_leftover(co, &b.leftover, count_leftover);
    co_drop_leftover(&a.leftover);
    co_drop_leftover(&a.leftover);
    fixture_run_until(&f, &out);
    assert_int_equal(a.n, 2);
    assert_int_equal(b.n, 3);
    fixture_unload(&f);
}

static void test_try_catches_failures_only(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "r:get('/ok', function() return try(function(a, b) return b, a end, 1, 2) end)\n"
             "r:get('/failure', function() local v, e = try(json.decode, '{') return v, e.code, e.retryable end)\n"
             "r:get('/bug', function() return try(function() local x = nil return x.y end) end)\n"
             "r:get('/fail', function() return try(app.fail, 404, 'nope') end)");
    fixture_expect(&f, "/ok", "ok 2 1");
    fixture_expect(&f, "/failure", "ok nil invalid false");
    fixture_expect(&f, "/bug", "error: lua/app.lua:5: attempt to index local 'x' (a nil value)");
    fixture_expect(&f, "/fail", "error: 404 nope");
    fixture_unload(&f);
}

static void test_threads_are_reused_clean(void **state)
{
    struct fixture f;
    struct outcome out;
    (void)state;
    load(&f, "r:get('/error', function() task.sleep(0) local t = {} return t.x.y end)\n"
             "r:get('/count', function(...) return select('#', ...) end)");
    for (int i = 0; i < 300; i++) {
        fixture_start(&f, "/error", 0, &out);
        fixture_run_until(&f, &out);
        assert_int_equal(out.n_results, -1);
        assert_non_null(strstr(out.trace, "lua/app.lua:3"));
        fixture_expect(&f, "/count", "ok 0");
    }
    assert_true(f.vm->n_idle <= 1);
    assert_int_equal(vm_active(f.vm), 0);
    fixture_unload(&f);
}

static void test_all_keeps_order_and_raises_the_first_error(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "local seen = {}\n"
             "local function nap(ms, v) return function() task.sleep(ms .. 'ms') seen[#seen + 1] = v return v end end\n"
             "r:get('/order', function() local t = task.all{nap(9, 'a'), nap(1, 'b'), function() return 'c' end}\n"
             "  return t[1], t[2], t[3], #t end)\n"
             "r:get('/empty', function() return #task.all{} end)\n"
             "r:get('/error', function() return pcall(task.all, {nap(60000, 'x'), function() task.sleep(0) error('e', "
             "0) end,\n"
             "  function() task.sleep(0) error('later', 0) end}) end)\n"
             "r:get('/nested', function() return task.all{function() return task.all{nap(1, 'n')}[1] end}[1] end)\n"
             "r:get('/bad', function() task.all{1} end)\n"
             "r:get('/hang', function() return task.all{nap(60000, 'h1'), function() return task.all{nap(60000, 'h2')} "
             "end} end)\n"
             "r:get('/seen', function() return table.concat(seen, ' ') end)");
    fixture_expect(&f, "/order", "ok a b c 3");
    fixture_expect(&f, "/empty", "ok 0");
    fixture_expect(&f, "/error", "ok false e");
    fixture_expect(&f, "/nested", "ok n");
    fixture_expect(&f, "/bad", "error: lua/app.lua:11: task.all: item 1 is a number, expected a function");
    expect_end(&f, "/hang", true, "error: deadline: the deadline has passed");
    expect_end(&f, "/hang", false, "error: cancelled: cancelled");
    for (int i = 0; i < 10; i++)
        loop_turn(f.env.loop, false);
    assert_int_equal(vm_active(f.vm), 0);
    fixture_expect(&f, "/seen", "ok b a n");
    fixture_unload(&f);
}

static void test_closing_ends_what_still_runs(void **state)
{
    struct fixture f;
    struct outcome parked, nested;
    (void)state;
    load(&f, "r:get('/parked', function() pcall(task.sleep, 60) return 'never' end)\n"
             "r:get('/nested', function() return task.all{function() task.sleep(60) end, function() task.sleep(60) "
             "end} end)\n"
             "r:get('/spawn', function() task.spawn(function() task.sleep(60) end) return 'spawned' end)");
    fixture_start(&f, "/parked", 0, &parked);
    fixture_start(&f, "/nested", loop_now(f.env.loop) + 60000, &nested);
    fixture_expect(&f, "/spawn", "ok spawned");
    fixture_unload(&f);
    assert_int_equal(parked.n_done, 1);
    assert_string_equal(parked.text, "error: cancelled: cancelled");
    assert_string_equal(nested.text, "error: cancelled: cancelled");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results_of_a_park_come_back),
        cmocka_unit_test(test_cannot_wait_across_a_c_boundary),
        cmocka_unit_test(test_user_coroutines_pass_a_park_outward),
        cmocka_unit_test(test_cancel_and_deadline_are_sticky),
        cmocka_unit_test(test_leftovers_are_cleared_at_the_end),
        cmocka_unit_test(test_waits_are_added_up),
        cmocka_unit_test(test_committed_work_ends_only_by_its_deadline),
        cmocka_unit_test(test_try_catches_failures_only),
        cmocka_unit_test(test_threads_are_reused_clean),
        cmocka_unit_test(test_all_keeps_order_and_raises_the_first_error),
        cmocka_unit_test(test_closing_ends_what_still_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
