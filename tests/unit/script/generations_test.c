/* Generations of one worker: loading beside the loop, changing over, what old ones may still do, and the way down. */
#include "fixture.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "net/timer.h"
#include "script/generations.h"

#define DRAIN_MS 300
#define STREAM_DRAIN_MS 700
#define LOAD_MS 2000

struct rig {
    struct fixture f; /* its vm and bundle are the first generation */
    struct generations *set;
    int n_votes, n_current;
    uint32_t voted;
    char refusal[4096];
};

/* ---- a C module with a handle of the loop, and a diary ---- */

static pthread_t loop_thread;
static int n_ended_on_loop, n_ended_elsewhere;
static char diary[512];

static void on_end(struct vm_owned *owned)
{
    (void)owned;
    if (pthread_equal(pthread_self(), loop_thread))
        n_ended_on_loop++;
    else
        n_ended_elsewhere++;
}

static int open_handle(lua_State *L)
{
    struct vm_owned *owned = lua_newuserdata(L, sizeof *owned);
    *owned = (struct vm_owned){0};
    vm_own(L, owned, on_end);
    return 1;
}

static int note(lua_State *L)
{
    size_t len = strlen(diary);
    snprintf(diary + len, sizeof diary - len, "%s ", luaL_checkstring(L, 1));
    return 0;
}

static int time_with_handle(lua_State *L)
{
    bind_time_open(L);
    open_handle(L);
    luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, note);
    lua_setfield(L, -2, "unix_ms"); /* a call of it writes the diary */
    return 1;
}

static const struct vm_module modules[] = {
    {"app", bind_app_open},
    {"req", bind_req_open},
    {"json", bind_json_open},
    {"log", bind_log_open},
    {"time", time_with_handle},
    {"config", bind_config_open},
    {"crypto", bind_crypto_open},
    {"task", bind_task_open},
    {"razorpay", bind_razorpay_open},
    {"limit", bind_limit_open},
    {NULL, NULL},
};

/* ---- rig ---- */

#define APP(n)                                                                                                         \
    "local app, task = require 'chowk.app', require 'chowk.task'\n"                                                    \
    "local r = app.routes()\n"                                                                                         \
    "r:get('/', function() return '" n "' end)\n"                                                                      \
    "r:get('/wait', function() task.sleep('150ms') return '" n "' end)\n"                                              \
    "r:get('/long', function() task.sleep(60) return '" n "' end)\n"                                                   \
    "app.on_start(function() task.spawn(function() task.sleep(60) end) end)\n"                                         \
    "return r"

static int seal(const char *text)
{
    struct buf bytes = {0};
    struct err err = {0};
    char dir[64] = "/tmp/chowk-generations-test-XXXXXX";
    assert_non_null(mkdtemp(dir));
    fixture_write(dir, "lua/app.lua", text);
    assert_int_equal(bundle_build(dir, "lua", &bytes, &err), OK);
    fixture_remove(dir);
    int fd = shm_seal("test", buf_as_slice(&bytes), &err);
    assert_true(fd >= 0);
    buf_free(&bytes);
    return fd;
}

static void on_vote(void *data, uint32_t number, const char *refusal)
{
    struct rig *rig = data;
    rig->n_votes++;
    rig->voted = number;
    snprintf(rig->refusal, sizeof rig->refusal, "%s", refusal ? refusal : "");
}

static void on_current(void *data)
{
    struct rig *rig = data;
    rig->n_current++;
    rig->f.vm = generations_vm(rig->set); /* what fixture_start uses */
}

static void open_rig(struct rig *rig, unsigned max)
{
    *rig = (struct rig){0};
    loop_thread = pthread_self();
    n_ended_on_loop = n_ended_elsewhere = 0;
    diary[0] = '\0';
    rig->f.env.loop = loop_new();
    struct err err = {0};
    int fd = seal(APP("1"));
    struct bundle *bundle = bundle_open(fd, &err);
    close(fd);
    struct vm_opts vm = {.env = &rig->f.env, .bundle = bundle, .modules = modules, .main = "app"};
    rig->f.vm = vm_new(&vm, &err);
    assert_string_equal(err.message, "");
    struct generations_opts opts = {.env = &rig->f.env,
                                    .modules = modules,
                                    .main = "app",
                                    .drain_ms = DRAIN_MS,
                                    .stream_drain_ms = STREAM_DRAIN_MS,
                                    .load_ms = LOAD_MS,
                                    .load_bytes = 64 << 20,
                                    .max = max,
                                    .on_vote = on_vote,
                                    .on_current = on_current,
                                    .data = rig};
    rig->set = generations_new(&opts, 1, rig->f.vm, bundle);
    vm_start(rig->f.vm);
}

static void close_rig(struct rig *rig)
{
    generations_free(rig->set);
    loop_run(rig->f.env.loop);
    loop_free(rig->f.env.loop);
    assert_int_equal(n_ended_elsewhere, 0); /* whatever happened: handles end on the loop */
}

#define UNTIL(rig, cond)                                                                                               \
    do {                                                                                                               \
        uint64_t until_ms_ = clock_ms() + 10000;                                                                       \
        while (!(cond) && clock_ms() < until_ms_)                                                                      \
            loop_turn((rig)->f.env.loop, false);                                                                       \
        assert_true(cond);                                                                                             \
    } while (0)

static void prepare(struct rig *rig, uint32_t number, const char *text)
{
    int n = rig->n_votes;
    generations_prepare(rig->set, number, seal(text));
    UNTIL(rig, rig->n_votes > n);
    assert_int_equal(rig->voted, number);
}

static void change_to(struct rig *rig, uint32_t number, const char *text)
{
    prepare(rig, number, text);
    assert_string_equal(rig->refusal, "");
    assert_true(generations_commit(rig->set, number));
}

/* ---- tests ---- */

static void test_changes_over_and_closes_the_old(void **state)
{
    struct rig rig;
    struct outcome before, during, after;
    (void)state;
    open_rig(&rig, 4);
    co_set_owner(fixture_start(&rig.f, "/wait", 0, &before), &before);
    prepare(&rig, 2, APP("2"));
    fixture_start(&rig.f, "/", 0, &during);
    assert_string_equal(during.text, "ok 1"); /* prepared is not committed */
    assert_false(generations_commit(rig.set, 3));
    assert_true(generations_commit(rig.set, 2));
    assert_true(generations_commit(rig.set, 2));
    assert_int_equal(rig.n_current, 1);
    assert_int_equal(generations_number(rig.set), 2);
    assert_int_equal(generations_alive(rig.set), 2);
    fixture_start(&rig.f, "/", 0, &after);
    assert_string_equal(after.text, "ok 2");
    UNTIL(&rig, before.n_done == 1);
    assert_string_equal(before.text, "ok 1"); /* in the code it began in */
    UNTIL(&rig, generations_alive(rig.set) == 1);
    assert_int_equal(n_ended_on_loop, 1);
    close_rig(&rig);
}

static void test_what_does_not_load_is_refused_with_its_line(void **state)
{
    struct rig rig;
    (void)state;
    open_rig(&rig, 4);
    prepare(&rig, 2, "local x\nreturn x.y");
    assert_non_null(strstr(rig.refusal, "lua/app.lua:2: attempt to index local 'x'"));
    assert_non_null(strstr(rig.refusal, "stack traceback:"));
    assert_false(generations_commit(rig.set, 2));
    prepare(&rig, 3, "local t = {}\nfor i = 1, 1e9 do t[i] = {} end");
    assert_non_null(strstr(rig.refusal, "lua/app.lua:2: loading needs more than 64 MiB"));
    assert_int_equal(generations_alive(rig.set), 1);
    change_to(&rig, 4, APP("4"));
    close_rig(&rig);
}

static void test_an_endless_loop_is_ended_by_the_clock(void **state)
{
    struct rig rig;
    (void)state;
    open_rig(&rig, 4);
    uint64_t began_ms = clock_ms();
    prepare(&rig, 2, "\n\nwhile true do end");
    assert_non_null(strstr(rig.refusal, "lua/app.lua:3: "));
    assert_true(clock_ms() - began_ms >= LOAD_MS);
    close_rig(&rig);
}

static void test_an_abort_ends_the_loading(void **state)
{
    struct rig rig;
    (void)state;
    open_rig(&rig, 4);
    uint64_t began_ms = clock_ms();
    generations_prepare(rig.set, 2, seal("while true do end"));
    generations_abort(rig.set, 2);
    change_to(&rig, 3, APP("3")); /* on the same thread, so it came to an end before its time */
    assert_true(clock_ms() - began_ms < LOAD_MS);
    assert_int_equal(rig.n_votes, 1);
    prepare(&rig, 4, APP("4"));
    generations_abort(rig.set, 4);
    assert_false(generations_commit(rig.set, 4));
    generations_abort(rig.set, 3); /* too late: it is current */
    assert_int_equal(generations_number(rig.set), 3);
    close_rig(&rig);
}

static void test_a_newer_one_takes_the_place_of_one_not_committed(void **state)
{
    struct rig rig;
    (void)state;
    open_rig(&rig, 4);
    generations_prepare(rig.set, 2, seal(APP("2")));
    prepare(&rig, 3, APP("3"));
    assert_false(generations_commit(rig.set, 2));
    assert_true(generations_commit(rig.set, 3));
    assert_int_equal(rig.n_votes, 1);
    close_rig(&rig);
}

static void test_requests_have_drain_and_streams_longer(void **state)
{
    struct rig rig;
    struct outcome request, stream;
    (void)state;
    open_rig(&rig, 4);
    struct co *co = fixture_start(&rig.f, "/long", 0, &request);
    co_set_owner(co, &request); /* as a request has; without one it would be a task, cancelled at once */
    co = fixture_start(&rig.f, "/long", 0, &stream);
    co_set_owner(co, &stream);
    co_set_stream(co);
    uint64_t at_ms = clock_ms();
    change_to(&rig, 2, APP("2"));
    UNTIL(&rig, request.n_done == 1);
    assert_true(clock_ms() - at_ms >= DRAIN_MS);
    assert_string_equal(request.text, "error: deadline: the deadline has passed");
    assert_int_equal(stream.n_done, 0);
    UNTIL(&rig, stream.n_done == 1);
    assert_true(clock_ms() - at_ms >= STREAM_DRAIN_MS);
    UNTIL(&rig, generations_alive(rig.set) == 1);
    close_rig(&rig);
}

static void test_beyond_max_the_oldest_streams_are_closed(void **state)
{
    struct rig rig;
    struct outcome streams[3];
    (void)state;
    open_rig(&rig, 3);
    for (uint32_t i = 0; i < 3; i++) {
        struct co *co = fixture_start(&rig.f, "/long", 0, &streams[i]);
        co_set_owner(co, &streams[i]);
        co_set_stream(co);
        change_to(&rig, i + 2, APP("next"));
    }
    UNTIL(&rig, streams[0].n_done == 1);
    assert_int_equal(streams[1].n_done + streams[2].n_done, 0);
    UNTIL(&rig, generations_alive(rig.set) == 3);
    close_rig(&rig);
    assert_int_equal(streams[1].n_done + streams[2].n_done, 2);
}

static void test_beyond_max_new_code_waits_for_requests(void **state)
{
    struct rig rig;
    struct outcome request;
    (void)state;
    open_rig(&rig, 2);
    struct co *co = fixture_start(&rig.f, "/wait", 0, &request);
    co_set_owner(co, &request);
    change_to(&rig, 2, APP("2"));
    prepare(&rig, 3, APP("3"));
    assert_int_equal(request.n_done, 1); /* which had to end first, 150 ms after it began */
    assert_string_equal(request.text, "ok 1");
    close_rig(&rig);
}

static void test_may_be_freed_at_any_time(void **state)
{
    struct rig rig;
    struct outcome request;
    (void)state;
    open_rig(&rig, 2);
    struct co *co = fixture_start(&rig.f, "/long", 0, &request);
    co_set_owner(co, &request);
    change_to(&rig, 2, APP("2"));
    generations_prepare(rig.set, 3, seal(APP("3"))); /* waits */
    close_rig(&rig);
    assert_int_equal(request.n_done, 1);

    open_rig(&rig, 2);
    generations_prepare(rig.set, 2, seal("while true do end")); /* loads */
    close_rig(&rig);

    open_rig(&rig, 2);
    prepare(&rig, 2, APP("2")); /* is ready */
    close_rig(&rig);
}

static void test_tasks_end_and_stop_precedes_start(void **state)
{
    static const char app[] = "local app, task = require 'chowk.app', require 'chowk.task'\n"
                              "local now = require 'chowk.time'.unix_ms\n"
                              "app.on_start(function() now('start%s') task.spawn(function()\n"
                              "  local ok = pcall(task.sleep, 60) now('task%s') end) end)\n"
                              "app.on_stop(function() now('stop%s') end)\n"
                              "return app.routes()";
    char one[1024], two[1024];
    struct rig rig;
    (void)state;
    snprintf(one, sizeof one, app, "1", "1", "1");
    snprintf(two, sizeof two, app, "2", "2", "2");
    open_rig(&rig, 4);
    change_to(&rig, 2, one);
    UNTIL(&rig, generations_alive(rig.set) == 1);
    loop_turn(rig.f.env.loop, false);
    change_to(&rig, 3, two);
    UNTIL(&rig, generations_alive(rig.set) == 1);
    generations_stop(rig.set);
    UNTIL(&rig, generations_active(rig.set) == 0);
    assert_string_equal(diary, "start1 stop1 start2 stop2 ");
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes_over_and_closes_the_old),
        cmocka_unit_test(test_what_does_not_load_is_refused_with_its_line),
        cmocka_unit_test(test_an_endless_loop_is_ended_by_the_clock),
        cmocka_unit_test(test_an_abort_ends_the_loading),
        cmocka_unit_test(test_a_newer_one_takes_the_place_of_one_not_committed),
        cmocka_unit_test(test_requests_have_drain_and_streams_longer),
        cmocka_unit_test(test_beyond_max_the_oldest_streams_are_closed),
        cmocka_unit_test(test_beyond_max_new_code_waits_for_requests),
        cmocka_unit_test(test_may_be_freed_at_any_time),
        cmocka_unit_test(test_tasks_end_and_stop_precedes_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
