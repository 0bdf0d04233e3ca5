/* Sequences against a real server, in one worker: leasing, waiting, unknown outcomes, rollover. Several workers:
 * seq_workers_test.c. */
#include "services/seq_fixture.h"

/* ---- one worker ---------------------------------------------------------------------------------------------- */

static struct err fails_as(const char *name)
{
    struct box box;
    start(seq, name, &box, 20000);
    wait_for(&box);
    assert_int_not_equal(box.err.code, ERR_NONE);
    return box.err;
}

static uint64_t leases(const struct seq *from)
{
    struct seq_stats stats;
    seq_stats(from, &stats);
    return stats.n_leases;
}

static void wait_for_leases(const struct seq *from, uint64_t n)
{
    time_t guard = time(NULL) + 30;
    while (leases(from) < n) {
        assert_true(time(NULL) < guard);
        turn();
    }
}

static void test_counts_from_one(void **state)
{
    (void)state;
    struct box box;
    assert_non_null(start(seq, "order", &box, 20000)); /* nothing is leased yet: it waits */
    assert_int_equal(box.n_done, 0);
    wait_for(&box);
    assert_int_equal(box.number.value, 1);
    assert_string_equal(box.number.def->name, "order");
    for (int64_t n = 2; n <= 300; n++)
        assert_int_equal(next_of(seq, "order"), n);
    assert_int_equal(next_of(seq, "many"), 1); /* another sequence counts by itself */
}

static void test_next_one_is_fetched_ahead(void **state)
{
    (void)state;
    struct seq_number number;
    struct err err = {0};
    next_of(seq, "order");
    wait_for_leases(seq, 2);
    assert_int_equal(seq_take(seq, seq_find(seq, SLICE("order")), &number, &err), OK);
    assert_int_equal(number.value, 2);
}

static void test_burst_takes_few_leases(void **state)
{
    (void)state;
    enum { N = 3000 };
    struct box *boxes = xalloc(N * sizeof *boxes);
    uint8_t seen[N + 1] = {0};
    for (int i = 0; i < N; i++)
        start(seq, "order", &boxes[i], 20000);
    for (int i = 0; i < N; i++) {
        wait_for(&boxes[i]);
        assert_int_equal(boxes[i].err.code, ERR_NONE);
        assert_in_range(boxes[i].number.value, 1, N); /* all of a burst, without a gap */
        assert_int_equal(seen[boxes[i].number.value]++, 0);
        assert_int_equal(boxes[i].number.value, i + 1); /* first come, first served */
    }
    assert_true(leases(seq) <= 8);
    free(boxes);
}

static void test_fails_without_database(void **state)
{
    (void)state;
    struct seq *none = open_seq(NULL, -1);
    struct box box;
    assert_null(start(none, "order", &box, 20000));
    assert_int_equal(box.err.code, ERR_UNAVAILABLE);
    assert_int_equal(seq_find(none, SLICE("nothing")), -1);
    seq_free(none);
}

static void test_fails_when_nobody_listens(void **state)
{
    (void)state;
    struct err err = {0};
    struct box boxes[3];
    struct pg *dead =
        pg_new(&(struct pg_opts){.loop = loop, .names = names, .url = "postgresql://127.0.0.1:1/none"}, &err);
    struct seq *on_dead = open_seq(dead, -1);
    for (int i = 0; i < 3; i++)
        start(on_dead, "order", &boxes[i], 20000);
    for (int i = 0; i < 3; i++) {
        wait_for(&boxes[i]);
        assert_int_equal(boxes[i].err.code, ERR_UNAVAILABLE);
        assert_non_null(strstr(boxes[i].err.message, "sequence order: "));
    }
    seq_free(on_dead);
    pg_free(dead);
}

static void test_refuses_what_is_no_block(void **state)
{
    (void)state;
    struct err err = fails_as("wrong");
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.message, "get_next_order_sequence must return"));
}

static void test_passes_on_what_postgres_says(void **state)
{
    (void)state;
    sql("ALTER TABLE sequences RENAME TO away");
    struct err err = fails_as("order");
    assert_int_equal(err.code, ERR_PG);
    assert_string_equal(err.sqlstate, "42P01");
    sql("ALTER TABLE away RENAME TO sequences");
    assert_int_equal(next_of(seq, "order"), 1); /* and heals */
}

static void test_bad_format_stops_the_start(void **state)
{
    (void)state;
    struct err err = {0};
    struct seq_opts opts = {
        .loop = loop, .pg = pg, .config_json = SLICE("{\"seq.formats\":{\"o\":\"{n:1}\"}}"), .segment_fd = -1};
    assert_null(seq_new(&opts, &err));
    assert_int_equal(err.code, ERR_INVALID);
}

/* ---- waiting ------------------------------------------------------------------------------------------------- */

/* Takes what is in memory; returns the last of it. */
static int64_t use_up(const char *name)
{
    struct seq_number number = {.value = 0};
    struct err err = {0};
    while (seq_take(seq, seq_find(seq, slice_str(name)), &number, &err) == OK)
        continue;
    return number.value;
}

static void test_row_locked_by_another(void **state)
{
    (void)state;
    struct box box, late;
    next_of(seq, "order");
    wait_for_leases(seq, 2); /* the one in advance: nothing is under way */
    sql("BEGIN; SELECT * FROM sequences FOR UPDATE");
    int64_t last = use_up("order");
    assert_non_null(start(seq, "order", &box, 20000));
    assert_non_null(start(seq, "order", &late, 60));
    wait_for(&late); /* over the 20 ms after which the shared connection gives up on a lock */
    assert_int_equal(late.err.code, ERR_DEADLINE);
    assert_int_equal(box.n_done, 0);
    sql("COMMIT");
    wait_for(&box);
    assert_int_equal(box.err.code, ERR_NONE);
    assert_true(box.number.value > last);
}

static void test_cancelled_never_completes(void **state)
{
    (void)state;
    struct box gone, next;
    struct seq_wait *wait = start(seq, "order", &gone, 20000);
    assert_non_null(wait);
    start(seq, "order", &next, 20000);
    seq_wait_cancel(wait);
    wait_for(&next);
    assert_true(loop_turn(loop, false));
    assert_int_equal(gone.n_done, 0);
    assert_int_equal(next.number.value, 1); /* the number goes to who is still there */
}

static void test_closing_completes_all(void **state)
{
    (void)state;
    struct box boxes[2];
    struct seq *closing = open_seq(pg, -1);
    start(closing, "order", &boxes[0], 20000);
    start(closing, "many", &boxes[1], 20000);
    seq_free(closing);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(boxes[i].n_done, 1);
        assert_int_equal(boxes[i].err.code, ERR_CANCELLED);
    }
}

static void ignore_result(void *data, const struct pg_result *result, const struct err *err)
{
    (void)result;
    (void)err;
    ++*(int *)data;
}

/* T5: every connection for transactions is taken by one that waits for a number. */
static void take_all_and_wait(struct pg *on, int n_tx)
{
    struct seq *here = open_seq(on, -1);
    struct pg_tx *txs[8];
    int n_begun = 0;
    for (int i = 0; i < n_tx; i++) {
        txs[i] = pg_tx_begin(on, &(struct pg_tx_opts){.deadline_ms = loop_now(loop) + 20000});
        pg_tx_query(txs[i], &(struct pg_call){.sql = SLICE("SELECT 1"),
                                              .deadline_ms = loop_now(loop) + 20000,
                                              .done = ignore_result,
                                              .data = &n_begun});
    }
    time_t guard = time(NULL) + 30;
    while (n_begun < n_tx) {
        assert_true(time(NULL) < guard);
        turn();
    }
    assert_true(next_of(here, "order") > 0);
    for (int i = 0; i < n_tx; i++)
        pg_tx_rollback(txs[i]);
    assert_true(next_of(here, "order") > 1); /* and no rollback gave a number back */
    seq_free(here);
}

static void test_transactions_hold_all_connections(void **state)
{
    (void)state;
    take_all_and_wait(pg, 1);
    struct pg *pooled = open_pg(true);
    take_all_and_wait(pooled, 2);
    pg_free(pooled);
}

/* ---- outcomes ------------------------------------------------------------------------------------------------ */

static void test_unknown_outcome_is_discarded(void **state)
{
    (void)state;
    struct seq_stats stats;
    assert_int_equal(next_of(seq, "lost"), 2); /* 1 was given out by the server, but its answer was lost */
    seq_stats(seq, &stats);
    assert_int_equal(stats.n_dropped, 1);
    assert_int_equal(next_of(seq, "lost"), 3);
}

static void test_outcome_unknown_for_ever(void **state)
{
    (void)state;
    struct err err = fails_as("crash"); /* ends, and says what happened */
    assert_int_equal(err.code, ERR_OUTCOME_UNKNOWN);
    assert_true(next_of(seq, "order") > 0);
}

/* ---- midnight ------------------------------------------------------------------------------------------------ */

static int64_t kolkata(int year, int month, int day)
{
    struct tm tm = {.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day};
    return (int64_t)timegm(&tm) * 1000 - 19800000;
}

static void set_wall(int64_t ms)
{
    wall_ms = ms;
    clock_fake(0, 0);
    clock_fake(clock_ms(), wall_ms);
}

static void assert_text(const struct box *box, const char *text)
{
    char out[SEQ_NUMBER_MAX + 1];
    struct err err = {0};
    assert_int_equal(seq_format_write(box->number.def, box->number.period, box->number.value, out, &err), OK);
    assert_string_equal(out, text);
}

static void test_march_ends_at_midnight(void **state)
{
    (void)state;
    struct box box;
    set_wall(kolkata(2027, 4, 1) - 1);
    start(seq, "order", &box, 20000);
    wait_for(&box);
    assert_text(&box, "PC2627-000001");
    wait_for_leases(seq, 2); /* March's next one is in memory */
    set_wall(kolkata(2027, 4, 1));
    start(seq, "order", &box, 20000);
    wait_for(&box);
    assert_text(&box, "PC2728-000001");
    struct seq_stats stats;
    seq_stats(seq, &stats);
    assert_true(stats.n_dropped >= 1);
}

static void test_lease_under_way_at_midnight(void **state)
{
    (void)state;
    struct box box;
    set_wall(kolkata(2027, 4, 1) - 1);
    start(seq, "order", &box, 20000); /* asks for one of March */
    set_wall(kolkata(2027, 4, 1));
    wait_for(&box);
    assert_text(&box, "PC2728-000001");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_counts_from_one),
        TEST(test_next_one_is_fetched_ahead),
        TEST(test_burst_takes_few_leases),
        TEST(test_fails_without_database),
        TEST(test_fails_when_nobody_listens),
        TEST(test_refuses_what_is_no_block),
        TEST(test_passes_on_what_postgres_says),
        TEST(test_bad_format_stops_the_start),
        TEST(test_row_locked_by_another),
        TEST(test_cancelled_never_completes),
        TEST(test_closing_completes_all),
        TEST(test_transactions_hold_all_connections),
        TEST(test_unknown_outcome_is_discarded),
        TEST(test_outcome_unknown_for_ever),
        TEST(test_march_ends_at_midnight),
        TEST(test_lease_under_way_at_midnight),
    };
    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}
