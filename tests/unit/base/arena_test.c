#include "base/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>

static int order[8];
static int n_order;

static void note(void *data)
{
    order[n_order++] = *(int *)data;
}

static void test_empty_holds_nothing(void **state)
{
    (void)state;
    struct arena arena;
    arena_create(&arena);
    assert_int_equal(arena_live(), 0);
    arena_destroy(&arena);
    arena_destroy(&arena); /* twice is nothing, twice */
    assert_int_equal(arena_live(), 0);
}

/* Blocks of all sizes are aligned, do not overlap, and keep what was written until the end. */
static void test_alloc(void **state)
{
    (void)state;
    struct arena arena;
    unsigned char *blocks[400];
    size_t total = 0;
    arena_create(&arena);
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
        size_t size = i * 29 % 6000;
        blocks[i] = arena_alloc(&arena, size);
        assert_int_equal((uintptr_t)blocks[i] % 16, 0);
        memset(blocks[i], (int)(i & 0xFF), size);
        total += size;
    }
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
        for (size_t at = 0; at < i * 29 % 6000; at++)
            assert_int_equal(blocks[i][at], i & 0xFF);
    }
    assert_int_equal(arena.used, total);
    assert_int_equal(arena_live(), 1);
    arena_destroy(&arena);
    assert_int_equal(arena_live(), 0);
    assert_int_equal(arena.used, 0);
}

static void test_zalloc_after_reuse(void **state)
{
    (void)state;
    struct arena arena;
    arena_create(&arena);
    memset(arena_alloc(&arena, 3000), 0xFF, 3000);
    arena_destroy(&arena);
    unsigned char *zeroed = arena_zalloc(&arena, 3000); /* reusable after; likely the same chunk */
    for (int i = 0; i < 3000; i++)
        assert_int_equal(zeroed[i], 0);
    arena_destroy(&arena);
}

static void test_copy_and_printf(void **state)
{
    (void)state;
    struct arena arena;
    char expected[600];
    arena_create(&arena);
    struct slice copy = arena_copy(&arena, slice_of("abcdef", 3));
    assert_int_equal(copy.len, 3);
    assert_string_equal(copy.ptr, "abc");
    assert_string_equal(arena_copy(&arena, slice_of(NULL, 0)).ptr, "");
    for (int width = 250; width < 260; width++) { /* around the first try's size */
        snprintf(expected, sizeof expected, "%*d", width, 5);
        assert_string_equal(arena_printf(&arena, "%*d", width, 5), expected);
    }
    arena_destroy(&arena);
}

static void test_defers_run_newest_first(void **state)
{
    (void)state;
    struct arena arena;
    int values[] = {1, 2, 3};
    n_order = 0;
    arena_create(&arena);
    for (int i = 0; i < 3; i++) {
        arena_alloc(&arena, 2000);
        arena_defer(&arena, note, &values[i]);
    }
    arena_destroy(&arena);
    assert_int_equal(n_order, 3);
    assert_int_equal(order[0], 3);
    assert_int_equal(order[1], 2);
    assert_int_equal(order[2], 1);
    arena_destroy(&arena);
    assert_int_equal(n_order, 3); /* once only */
}

static struct arena nested;
static int nested_value = 9;

static void defer_again(void *data)
{
    note(data);
    arena_defer(&nested, note, &nested_value); /* a destructor may use the arena */
}

static void test_defer_inside_defer(void **state)
{
    (void)state;
    int value = 1;
    n_order = 0;
    arena_create(&nested);
    arena_defer(&nested, defer_again, &value);
    arena_destroy(&nested);
    assert_int_equal(n_order, 2);
    assert_int_equal(order[1], 9);
    assert_int_equal(arena_live(), 0);
}

static void *use_arenas(void *data)
{
    for (int i = 0; i < 2000; i++) {
        struct arena arena;
        arena_create(&arena);
        for (int k = 0; k < 10; k++)
            memset(arena_alloc(&arena, 900), i & 0xFF, 900);
        arena_destroy(&arena);
    }
    return data;
}

static void test_arenas_on_two_threads(void **state)
{
    (void)state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, use_arenas, NULL), 0);
    use_arenas(NULL);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(arena_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_holds_nothing),     cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_zalloc_after_reuse),      cmocka_unit_test(test_copy_and_printf),
        cmocka_unit_test(test_defers_run_newest_first), cmocka_unit_test(test_defer_inside_defer),
        cmocka_unit_test(test_arenas_on_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
