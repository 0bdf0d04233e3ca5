/* The cache of statement texts: found again, bounded, least recently used first, never one in use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "data/pg_stmt.h"

static struct pg_stmts stmts;

static struct pg_stmt *ref(int i)
{
    char sql[32];
    return pg_stmt_ref(&stmts, slice_of(sql, (size_t)snprintf(sql, sizeof(sql), "SELECT %d, $1", i)));
}

static int set_up(void **state)
{
    (void)state;
    pg_stmts_create(&stmts);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pg_stmts_destroy(&stmts);
    return 0;
}

static void test_found_again(void **state)
{
    (void)state;
    struct pg_stmt *a = ref(1), *b = ref(2);
    assert_ptr_equal(ref(1), a);
    assert_int_equal(a->n_refs, 2);
    assert_int_equal(a->n_uses, 2);
    assert_int_equal(a->text.n_params, 1);
    assert_int_not_equal(a->slot, b->slot);
    assert_int_not_equal(a->id, b->id);
    assert_string_equal(a->sql.ptr, "SELECT 1, $1");
    pg_stmt_unref(&stmts, a);
    pg_stmt_unref(&stmts, a);
    pg_stmt_unref(&stmts, b);
}

static void touch(int i)
{
    pg_stmt_unref(&stmts, ref(i));
}

static void test_evicts_least_recently_used(void **state)
{
    (void)state;
    struct pg_stmt *held = ref(0); /* the oldest, but in use */
    for (int i = 1; i < PG_STMTS; i++)
        touch(i);
    touch(1); /* now 2 is the oldest that may go */
    uint16_t slot = ref(2)->slot;
    pg_stmt_unref(&stmts, map_get(&stmts.by_text, SLICE("SELECT 2, $1")));
    for (int i = 3; i < PG_STMTS; i++)
        touch(i);
    touch(1);
    struct pg_stmt *fresh = ref(1000);
    assert_int_equal(fresh->slot, slot);
    assert_null(map_get(&stmts.by_text, SLICE("SELECT 2, $1")));
    assert_non_null(map_get(&stmts.by_text, SLICE("SELECT 1, $1")));
    assert_ptr_equal(map_get(&stmts.by_text, SLICE("SELECT 0, $1")), held);
    assert_int_equal(stmts.len, PG_STMTS);
    pg_stmt_unref(&stmts, fresh);
    pg_stmt_unref(&stmts, held);
}

static void test_all_in_use(void **state)
{
    (void)state;
    static struct pg_stmt *held[PG_STMTS];
    for (int i = 0; i < PG_STMTS; i++)
        held[i] = ref(i);
    struct pg_stmt *extra = ref(5000);
    assert_int_equal(extra->slot, PG_STMT_NO_SLOT);
    assert_null(map_get(&stmts.by_text, extra->sql));
    pg_stmt_unref(&stmts, extra); /* freed: ASan looks */
    for (int i = 0; i < PG_STMTS; i++)
        pg_stmt_unref(&stmts, held[i]);
}

static void test_renew_once(void **state)
{
    (void)state;
    struct pg_stmt *a = ref(1);
    uint32_t id = a->id;
    pg_stmt_renew(&stmts, a, id);
    uint32_t renewed = a->id;
    assert_int_not_equal(renewed, id);
    pg_stmt_renew(&stmts, a, id); /* a second call that saw the old one */
    assert_int_equal(a->id, renewed);
    pg_stmt_unref(&stmts, a);
}

/* Away from the shared connections, longer with each repetition, not for ever. */
static void test_slow_for_a_while(void **state)
{
    (void)state;
    struct pg_stmt *a = ref(1);
    uint64_t now = 1000000, periods[] = {10000, 40000, 160000, 600000, 600000};
    for (size_t i = 0; i < ARRAY_LEN(periods); i++) {
        pg_stmt_mark_slow(a, now);
        pg_stmt_mark_slow(a, now + 5); /* in flight together with the first */
        assert_int_equal(a->slow_until_ms - now, periods[i]);
        now = a->slow_until_ms + 1;
    }
    now += 600001; /* it has behaved since */
    pg_stmt_mark_slow(a, now);
    assert_int_equal(a->slow_until_ms - now, 10000);
    pg_stmt_unref(&stmts, a);
}

#define CACHE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CACHE(test_found_again), CACHE(test_evicts_least_recently_used), CACHE(test_all_in_use),
        CACHE(test_renew_once),  CACHE(test_slow_for_a_while),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
