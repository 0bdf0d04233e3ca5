/* The cap of the Lua heap: an error to the activity that hits it, room again for the next one. */
#include "fixture.h"

#include <fcntl.h>

#include "base/log.h"

#define MIB ((size_t)1 << 20)

static const char app[] = "local task = require 'chowk.task'\n"
                          "local M = { kept = {} }\n"
                          "local t = require 'chowk.app'\n"
                          "t.on_start(function() M.started = true end)\n"
                          "return t.routes()\n";

static void load_sharing(struct fixture *f, size_t cap, struct heap_share *share)
{
    *f = (struct fixture){.env = {.loop = NULL, .worker_id = -1, .lua_heap = cap, .heap_share = share}};
    fixture_load_one(f, app);
    if (!f->vm)
        fail_msg("%s", f->err.message);
}

static void load(struct fixture *f, size_t cap)
{
    load_sharing(f, cap, NULL);
}

static struct outcome run_text(struct fixture *f, const char *text)
{
    struct outcome out = {0};
    struct co *co = co_new(f->vm);
    assert_int_equal(luaL_loadstring(co_stack(co), text), 0);
    co_start(co, 0, 0, on_outcome, &out);
    assert_int_equal(out.n_done, 1);
    return out;
}

static void test_a_runaway_ends_alone(void **state)
{
    (void)state;
    static const char *const runaways[] = {
        "local t = {} for i = 1, 1e9 do t[i] = { i } end",
        "local s = 'x' while true do s = s .. s end",
        "return #('x'):rep(1e9)",
        "local function f(n) return 1 + f(n + 1) .. 'x' end local t = {} for i = 1, 1e9 do t[i] = 'x' .. i end",
    };
    struct fixture f;
    load(&f, 16 * MIB);
    size_t before = vm_bytes(f.vm);
    for (int round = 0; round < 50; round++) {
        struct outcome out = run_text(&f, runaways[(size_t)round % ARRAY_LEN(runaways)]);
        assert_int_equal(out.n_results, -1);
        assert_non_null(strstr(out.text, "not enough memory"));
        out = run_text(&f, "local t = {} for i = 1, 1000 do t[i] = { i } end return #t");
        assert_string_equal(out.text, "ok 1000");
    }
    assert_int_equal(f.vm->unseen.n_out_of_memory, 50);
    assert_true(vm_bytes(f.vm) < before + 4 * MIB);
    fixture_unload(&f);
}

/* A handler's own pcall takes the error: it is counted, and the heap swept, all the same. */
static void test_a_caught_refusal_counts(void **state)
{
    (void)state;
    struct fixture f;
    load(&f, 16 * MIB);
    struct outcome out = run_text(&f, "return pcall(string.rep, 'x', 1e9)");
    assert_string_equal(out.text, "ok false not enough memory");
    assert_int_equal(f.vm->unseen.n_out_of_memory, 1);
    assert_false(f.vm->heap.has_refused);
    fixture_unload(&f);
}

/* LuaJIT does not collect when an allocation fails: with half of the cap alive, garbage must not add up to the cap. */
static void test_garbage_does_not_fail_what_fits(void **state)
{
    (void)state;
    struct fixture f;
    load(&f, 32 * MIB);
    struct outcome out = run_text(&f, "kept = {} for i = 1, 15 do kept[i] = ('x'):rep(2^20 - i) end");
    assert_string_equal(out.text, "ok");
    for (int i = 0; i < 100; i++) {
        out = run_text(&f, "for i = 1, 200 do local s = ('x'):rep(10000 + i) end");
        assert_string_equal(out.text, "ok");
    }
    assert_int_equal(f.vm->unseen.n_out_of_memory, 0);
    assert_true(f.vm->heap.calm_from > 0);
    (void)run_text(&f, "kept = nil");
    lua_gc(vm_state(f.vm), LUA_GCCOLLECT, 0);
    (void)run_text(&f, "return 1");
    assert_int_equal(f.vm->heap.calm_from, 0); /* the collector is at ease again */
    fixture_unload(&f);
}

/* Two generations of one worker: what the old one holds is not there for the new one, but for a quarter of the cap. */
static void test_one_cap_for_all_generations(void **state)
{
    (void)state;
    static const char keep_20_mib[] = "kept = {} for i = 1, 20 do kept[i] = ('x'):rep(2^20 - i) end";
    static const char keep_4_mib[] = "kept = {} for i = 1, 4 do kept[i] = ('x'):rep(2^20 - i) end";
    struct fixture before, after;
    struct heap_share share = {0};
    load_sharing(&before, 32 * MIB, &share);
    load_sharing(&after, 32 * MIB, &share);
    assert_string_equal(run_text(&before, keep_20_mib).text, "ok");
    assert_true(share.bytes >= 20 * MIB);
    assert_non_null(strstr(run_text(&after, keep_20_mib).text, "not enough memory"));
    (void)run_text(&after, "kept = nil");
    lua_gc(vm_state(after.vm), LUA_GCCOLLECT, 0);
    assert_string_equal(run_text(&after, keep_4_mib).text, "ok");
    fixture_unload(&before);
    assert_string_equal(run_text(&after, keep_20_mib).text, "ok");
    assert_int_equal(after.vm->unseen.n_out_of_memory, 1);
    fixture_unload(&after);
    assert_int_equal(share.bytes, 0);
}

static void test_no_cap(void **state)
{
    (void)state;
    struct fixture f;
    load(&f, 0);
    assert_string_equal(run_text(&f, "return #('x'):rep(2^26)").text, "ok 67108864");
    fixture_unload(&f);
}

/* Outside a resume nothing is refused: the core's own pushes are not protected. */
static void test_the_core_is_never_refused(void **state)
{
    (void)state;
    struct fixture f;
    load(&f, 16 * MIB);
    char *text = malloc(24 * MIB);
    memset(text, 'x', 24 * MIB);
    lua_pushlstring(vm_state(f.vm), text, 24 * MIB);
    assert_true(vm_bytes(f.vm) > 16 * MIB);
    lua_settop(vm_state(f.vm), 0);
    free(text);
    assert_string_equal(run_text(&f, "return 1").text, "ok 1");
    assert_true(vm_bytes(f.vm) < 16 * MIB);
    fixture_unload(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_runaway_ends_alone),
        cmocka_unit_test(test_a_caught_refusal_counts),
        cmocka_unit_test(test_garbage_does_not_fail_what_fits),
        cmocka_unit_test(test_one_cap_for_all_generations),
        cmocka_unit_test(test_no_cap),
        cmocka_unit_test(test_the_core_is_never_refused),
    };
    log_open(open("/dev/null", O_WRONLY), LOG_ERROR, false, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
