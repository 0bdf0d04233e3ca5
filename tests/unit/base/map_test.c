#include "base/map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

static void test_empty(void **state)
{
    (void)state;
    struct map map = {0};
    struct slice key;
    void *value;
    size_t it = 0;
    assert_null(map_get(&map, SLICE("x")));
    assert_null(map_remove(&map, SLICE("x")));
    assert_false(map_next(&map, &it, &key, &value));
    map_free(&map);
}

static void test_put_get_remove(void **state)
{
    (void)state;
    struct map map = {0};
    int a, b;
    assert_null(map_put(&map, SLICE("a"), &a));
    assert_null(map_put(&map, SLICE(""), &b));
    assert_ptr_equal(map_get(&map, SLICE("a")), &a);
    assert_ptr_equal(map_get(&map, slice_of(NULL, 0)), &b);
    assert_null(map_get(&map, SLICE("aa")));
    assert_ptr_equal(map_put(&map, SLICE("a"), &b), &a);
    assert_int_equal(map.len, 2);
    assert_ptr_equal(map_remove(&map, SLICE("a")), &b);
    assert_null(map_remove(&map, SLICE("a")));
    assert_null(map_get(&map, SLICE("a")));
    assert_int_equal(map.len, 1);
    map_free(&map);
    assert_int_equal(map.len, 0);
}

/* The old key usually dies with the old value: after a replacement the map must look at the new one only. */
static void test_replacing_takes_the_new_key(void **state)
{
    (void)state;
    struct map map = {0};
    char *old = xstrndup("key", 3), *new = xstrndup("key", 3);
    map_put(&map, slice_str(old), old);
    assert_ptr_equal(map_put(&map, slice_str(new), new), old);
    free(old);
    assert_ptr_equal(map_get(&map, SLICE("key")), new);
    map_free(&map);
    free(new);
}

#define N_KEYS 3000
static char names[N_KEYS][24];
static int values[N_KEYS];
static bool is_in[N_KEYS];

static void assert_all_as_expected(const struct map *map, size_t n_in)
{
    size_t it = 0, n = 0;
    struct slice key;
    void *value;
    for (int i = 0; i < N_KEYS; i++)
        assert_ptr_equal(map_get(map, slice_str(names[i])), is_in[i] ? &values[i] : NULL);
    while (map_next(map, &it, &key, &value)) {
        long i = (int *)value - values;
        assert_true(is_in[i] && slice_eq(key, slice_str(names[i])));
        n++;
    }
    assert_int_equal(n, n_in);
    assert_int_equal(map->len, n_in);
}

/* A long random walk of puts and removes, against an array; then the table must not have grown with the
 * number of operations, which is what leaked tombstones would do. */
static void test_against_a_model(void **state)
{
    (void)state;
    struct map map = {0};
    size_t n_in = 0;
    uint32_t random = 12345;
    for (int i = 0; i < N_KEYS; i++)
        snprintf(names[i], sizeof names[i], "key-%d", i);
    for (int step = 0; step < 200000; step++) {
        random = random * 1664525 + 1013904223;
        int i = (int)((random >> 8) % N_KEYS);
        if (random >> 31) {
            assert_ptr_equal(map_put(&map, slice_str(names[i]), &values[i]), is_in[i] ? &values[i] : NULL);
            n_in += !is_in[i];
            is_in[i] = true;
        } else {
            assert_ptr_equal(map_remove(&map, slice_str(names[i])), is_in[i] ? &values[i] : NULL);
            n_in -= is_in[i];
            is_in[i] = false;
        }
        if (step % 20000 == 0)
            assert_all_as_expected(&map, n_in);
    }
    assert_all_as_expected(&map, n_in);
    assert_true(map.cap <= 8192);
    for (int i = 0; i < N_KEYS; i++)
        map_remove(&map, slice_str(names[i]));
    assert_int_equal(map.len, 0);
    assert_int_equal(map.tombs, 0);                /* none is left where nothing is probed past it */
    for (int round = 0; round < 100000; round++) { /* one in, one out: stays small */
        map_put(&map, slice_str(names[round % N_KEYS]), &values[0]);
        map_remove(&map, slice_str(names[round % N_KEYS]));
    }
    assert_true(map.cap <= 8192);
    map_free(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_put_get_remove),
        cmocka_unit_test(test_replacing_takes_the_new_key),
        cmocka_unit_test(test_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
