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

/* ---- blocks by size ------------------------------------------------------------------------------------------- */

static size_t n_made, n_freed;

static void *count_alloc(void *ud, void *ptr, size_t old_size, size_t new_size)
{
    (void)ud, (void)old_size;
    n_made += !ptr && new_size > 0;
    n_freed += ptr && new_size == 0;
    if (new_size > 0)
        return realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

static struct heap counted(void)
{
    struct heap heap;
    heap_create(&heap, 0, NULL);
    heap.alloc = count_alloc;
    n_made = n_freed = 0;
    return heap;
}

static void *filled(struct heap *heap, size_t size)
{
    char *block = heap_alloc(heap, NULL, 0, size);
    memset(block, (int)(size & 0x7F), size);
    return block;
}

static void test_a_freed_block_is_the_next_of_its_size(void **state)
{
    (void)state;
    struct heap heap = counted();
    for (size_t size = 1; size <= 3000; size++) {
        void *block = filled(&heap, size);
        assert_int_equal(heap.bytes, size);
        heap_alloc(&heap, block, size, 0);
        assert_int_equal(heap.bytes, 0);
        if (size <= HEAP_LARGEST)
            assert_ptr_equal(block, filled(&heap, size)), heap_alloc(&heap, block, size, 0);
    }
    size_t n_large = 3000 - HEAP_LARGEST;
    assert_int_equal(n_made, HEAP_SIZES - 1 + n_large); /* one of each size: the rest was there already */
    assert_int_equal(n_freed, n_large);
    heap_trim(&heap);
    assert_int_equal(n_freed, n_made);
}

/* LuaJIT's allocator rounds to 8: what it gave for 33 bytes before the heap was there has room for 40, not for 41. */
static void test_an_older_block_is_not_larger_than_it_was(void **state)
{
    (void)state;
    struct heap heap = counted();
    for (size_t size = 1; size < HEAP_LARGEST; size++) {
        size_t room = (size + 7) / 8 * 8;
        void *old = count_alloc(NULL, NULL, 0, room);
        heap.bytes = size;
        heap_alloc(&heap, old, size, 0);
        void *larger = filled(&heap, room + 1);
        assert_ptr_not_equal(larger, old);
        heap_alloc(&heap, larger, room + 1, 0);
        assert_ptr_equal(filled(&heap, room), old);
        heap_alloc(&heap, old, room, 0);
        heap_trim(&heap);
    }
    assert_int_equal(n_freed, n_made);
}

/* From any size to any: what was in it stays, and every byte of the new size is there (ASan looks). */
static void test_resizing_keeps_the_bytes(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 8, 9, 24, 25, 40, 500, HEAP_LARGEST, HEAP_LARGEST + 1, 5000};
    struct heap heap = counted();
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        for (size_t j = 0; j < ARRAY_LEN(sizes); j++) {
            size_t from = sizes[i], to = sizes[j];
            char *block = heap_alloc(&heap, filled(&heap, from), from, to);
            for (size_t k = 0; k < from && k < to; k++)
                assert_int_equal(block[k], from & 0x7F);
            memset(block, 0, to);
            assert_int_equal(heap.bytes, to);
            heap_alloc(&heap, block, to, 0);
        }
    }
    heap_trim(&heap);
    assert_int_equal(n_freed, n_made);
}

static void test_what_is_kept_is_bounded(void **state)
{
    enum { N = 5000, SIZE = 1000 };
    (void)state;
    static void *blocks[N];
    struct heap heap = counted();
    for (int i = 0; i < N; i++)
        blocks[i] = filled(&heap, SIZE);
    for (int i = 0; i < N; i++)
        heap_alloc(&heap, blocks[i], SIZE, 0);
    assert_in_range((n_made - n_freed) * SIZE, 200 << 10, (256 << 10) + SIZE);
    heap_trim(&heap);
    assert_int_equal(n_freed, n_made);
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
        cmocka_unit_test(test_a_freed_block_is_the_next_of_its_size),
        cmocka_unit_test(test_an_older_block_is_not_larger_than_it_was),
        cmocka_unit_test(test_resizing_keeps_the_bytes),
        cmocka_unit_test(test_what_is_kept_is_bounded),
    };
    log_open(open("/dev/null", O_WRONLY), LOG_ERROR, false, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
