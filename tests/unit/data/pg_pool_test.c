/* The pool against a real server, TEST_PG_URL, where only C can look or interfere: a text that slips past the
 * classifier, bursts and the bound of the queue, waits, idle connections, what may be said of a call that is given up.
 * Waits for completions and states, never for a time; a test that hangs fails by its guard. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/arena.h"
#include "base/clock.h"
#include "data/pg_admin.h"
#include "data/pg_priv.h"

static struct loop *loop;
static struct names *names;
static struct pg *pg;
static struct pg_admin *admin;

struct box {
    int n_done;
    enum err_code code;
    char json[256];
};

static void on_done(void *data, const struct pg_result *result, const struct err *err)
{
    struct box *box = data;
    struct buf buf = {0};
    box->n_done++;
    box->code = err ? err->code : ERR_NONE;
    if (!result)
        return;
    pg_result_json(result, &buf);
    snprintf(box->json, sizeof(box->json), "%.*s", (int)buf.len, buf.ptr);
    buf_free(&buf);
}

static void on_commit(void *data, const struct err *err)
{
    on_done(data, NULL, err);
}

static struct pg_call call_of(struct box *box, const char *sql)
{
    *box = (struct box){0};
    return (struct pg_call){.sql = slice_str(sql), .deadline_ms = loop_now(loop) + 20000, .done = on_done, .data = box};
}

static struct pg_op *start(struct box *box, const char *sql)
{
    struct pg_call call = call_of(box, sql);
    return pg_query(pg, &call);
}

static void turn_until(bool (*is_so)(void), uint64_t guard_ms)
{
    guard_ms += clock_ms();
    while (!is_so()) {
        assert_true(clock_ms() < guard_ms);
        loop_turn(loop, true);
    }
}

static void wait_for(const struct box *box)
{
    uint64_t guard_ms = clock_ms() + 30000;
    while (!box->n_done) {
        assert_true(clock_ms() < guard_ms);
        assert_true(loop_turn(loop, true));
    }
}

static struct box run(const char *sql)
{
    struct box box;
    start(&box, sql);
    wait_for(&box);
    return box;
}

static void ddl(const char *sql)
{
    struct err err;
    if (pg_admin_exec(admin, sql, NULL, &err) != OK)
        fail_msg("%s: %s", sql, err.message);
}

static void assert_admin(const char *sql, const char *expected)
{
    struct arena arena;
    struct slice *values;
    size_t n;
    struct err err;
    arena_create(&arena);
    if (pg_admin_column(admin, sql, NULL, 0, &arena, &values, &n, &err) != OK)
        fail_msg("%s: %s", sql, err.message);
    assert_int_equal(n, 1);
    assert_string_equal(arena_copy(&arena, values[0]).ptr, expected);
    arena_destroy(&arena);
}

static struct pg_stats stats_now(void)
{
    struct pg_stats stats;
    pg_stats(pg, &stats);
    return stats;
}

static void open_pg(struct pg_opts opts)
{
    struct err err;
    opts.loop = loop;
    opts.names = names;
    opts.url = getenv("TEST_PG_URL");
    pg = pg_new(&opts, &err);
    assert_non_null(pg);
}

static int set_up(void **state)
{
    (void)state;
    struct err err;
    const char *url = getenv("TEST_PG_URL");
    if (!url) {
        print_error("TEST_PG_URL is not set: this test needs a PostgreSQL\n");
        return -1;
    }
    admin = pg_admin_open(url, &err);
    if (!admin) {
        print_error("%s\n", err.message);
        return -1;
    }
    loop = loop_new();
    names = names_new(loop);
    ddl("DROP TABLE IF EXISTS pgp; CREATE TABLE pgp (id int, v text)");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pg_free(pg);
    pg = NULL;
    names_free(names);
    loop_free(loop);
    ddl("DROP TABLE IF EXISTS pgp");
    pg_admin_close(admin);
    return 0;
}

/* As if the classifier had not known the word. */
static void slip_past(const char *sql, enum pg_class class)
{
    struct pg_stmt *stmt = pg_stmt_ref(&pg->stmts, slice_str(sql));
    stmt->text.class = class;
    pg_stmt_unref(&pg->stmts, stmt);
}

/* T1's second line: what a shared connection answers must be what it may run. Nobody is told "done" whose work a
 * neighbour's transaction took along, and what was told is there. */
static void surprise(const char *sql, enum pg_class class)
{
    enum { N = 60 };
    static struct box before[N], writes[N], reads[N], after[N];
    struct box bad;
    char text[2 * N][64];
    int n_done = 0;
    open_pg((struct pg_opts){.read_connections = 1, .write_connections = 1});
    assert_int_equal(run("SELECT 1").code, ERR_NONE);
    ddl("TRUNCATE pgp");
    slip_past(sql, class);
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof(text[i]), "INSERT INTO pgp VALUES (%d)", i);
        snprintf(text[N + i], sizeof(text[i]), "INSERT INTO pgp VALUES (%d)", N + i);
        start(&before[i], text[i]);
        start(&reads[i], "SELECT 1 AS a");
        if (i == N / 2)
            start(&bad, sql);
        start(&writes[i], text[N + i]);
        start(&after[i], "SELECT 2 AS a");
    }
    wait_for(&bad);
    assert_int_equal(bad.code, ERR_OUTCOME_UNKNOWN);
    for (int i = 0; i < N; i++) {
        wait_for(&before[i]);
        wait_for(&writes[i]);
        wait_for(&reads[i]);
        wait_for(&after[i]);
        n_done += (before[i].code == ERR_NONE) + (writes[i].code == ERR_NONE);
        assert_true(before[i].code == ERR_NONE || before[i].code == ERR_OUTCOME_UNKNOWN);
        assert_true(writes[i].code == ERR_NONE || writes[i].code == ERR_OUTCOME_UNKNOWN);
        assert_string_equal(reads[i].json, "[{\"a\":1}]");
        assert_string_equal(after[i].json, "[{\"a\":2}]");
    }
    for (int i = 0; i < N; i++) {
        char query[2][80];
        snprintf(query[0], sizeof(query[0]), "SELECT count(*) FROM pgp WHERE id = %d", i);
        snprintf(query[1], sizeof(query[1]), "SELECT count(*) FROM pgp WHERE id = %d", N + i);
        if (before[i].code == ERR_NONE)
            assert_admin(query[0], "1");
        if (writes[i].code == ERR_NONE)
            assert_admin(query[1], "1");
    }
    assert_admin("SELECT count(*) = count(DISTINCT id) FROM pgp", "t");
    assert_true(n_done > 0);
    assert_int_equal(run("INSERT INTO pgp VALUES (1000)").code, ERR_NONE);
    assert_true(stats_now().reconnects >= 1);
    pg_free(pg);
    pg = NULL;
}

static void test_a_text_that_slips_past_harms_nobody(void **state)
{
    (void)state;
    surprise("BEGIN", PG_CLASS_WRITE);
    surprise("COPY pgp TO STDOUT", PG_CLASS_WRITE);
    surprise("COPY pgp FROM STDIN", PG_CLASS_WRITE);
    surprise("SET statement_timeout = 0", PG_CLASS_WRITE);
    surprise("LISTEN pgp", PG_CLASS_READ);
    surprise("DISCARD PLANS", PG_CLASS_READ);
    surprise("CREATE TABLE pgp2 ()", PG_CLASS_WRITE);
    ddl("DROP TABLE IF EXISTS pgp2");
}

static void test_a_burst_does_not_wait(void **state)
{
    (void)state;
    static struct box boxes[100];
    open_pg((struct pg_opts){.max_waiters = 5, .read_connections = 1});
    assert_int_equal(run("SELECT 1").code, ERR_NONE);
    for (int i = 0; i < 100; i++)
        start(&boxes[i], "SELECT 1 AS a");
    for (int i = 0; i < 100; i++) {
        wait_for(&boxes[i]);
        assert_int_equal(boxes[i].code, ERR_NONE);
    }
    for (int i = 0; i < 100; i++) /* 128 fit on the connection */
        start(&boxes[i], "SELECT 1 AS a");
    static struct box more[50];
    int n_full = 0;
    for (int i = 0; i < 50; i++)
        start(&more[i], "SELECT 1 AS a");
    for (int i = 0; i < 50; i++) {
        wait_for(&more[i]);
        n_full += more[i].code == ERR_QUEUE_FULL;
    }
    assert_int_equal(n_full, 150 - PG_READ_DEPTH - 5);
    assert_int_equal(stats_now().waiting, 0);
}

static void test_waits_are_counted(void **state)
{
    (void)state;
    struct box boxes[3], commits[3] = {0};
    struct pg_tx *txs[3];
    open_pg((struct pg_opts){.tx_connections = 1});
    for (int i = 0; i < 3; i++) {
        txs[i] = pg_tx_begin(pg, &(struct pg_tx_opts){0});
        struct pg_call call = call_of(&boxes[i], "SELECT pg_sleep(0.03)");
        pg_tx_query(txs[i], &call);
        pg_tx_commit(txs[i], on_commit, &commits[i]);
    }
    assert_int_equal(stats_now().waiting, 3);
    for (int i = 0; i < 3; i++)
        wait_for(&commits[i]);
    struct pg_stats stats = stats_now();
    uint64_t n = 0, n_long = 0;
    for (int i = 0; i < PG_WAIT_BUCKETS; i++) {
        n += stats.waits[i];
        n_long += i >= 5 ? stats.waits[i] : 0; /* 16 ms and more */
    }
    assert_int_equal(n, 3);
    assert_true(n_long >= 2);
    assert_int_equal(stats.waiting, 0);
}

static bool is_shrunk(void)
{
    return stats_now().open <= 3;
}

static void test_idle_connections_are_closed(void **state)
{
    (void)state;
    enum { N = 6 };
    struct box boxes[N], commits[N] = {0};
    struct pg_tx *txs[N];
    open_pg((struct pg_opts){.idle_ms = 50});
    for (int i = 0; i < N; i++) {
        txs[i] = pg_tx_begin(pg, &(struct pg_tx_opts){0});
        struct pg_call call = call_of(&boxes[i], "SELECT pg_sleep(0.05)");
        pg_tx_query(txs[i], &call);
    }
    for (int i = 0; i < N; i++)
        wait_for(&boxes[i]);
    assert_true(stats_now().open >= N);
    loop_turn(loop, false);
    for (int i = 0; i < N; i++)
        pg_tx_commit(txs[i], on_commit, &commits[i]);
    for (int i = 0; i < N; i++)
        wait_for(&commits[i]);
    turn_until(is_shrunk, 20000);
    assert_int_equal(stats_now().reconnects, 0); /* nothing was lost */
    assert_int_equal(run("INSERT INTO pgp VALUES (1)").code, ERR_NONE);
    turn_until(is_shrunk, 20000); /* one of each lane stays, and works */
    struct box box;
    struct pg_tx *tx = pg_tx_begin(pg, &(struct pg_tx_opts){0});
    struct pg_call call = call_of(&box, "SELECT 1 AS a");
    pg_tx_query(tx, &call);
    wait_for(&box);
    assert_string_equal(box.json, "[{\"a\":1}]");
    pg_tx_rollback(tx);
}

static bool is_sleeping(void)
{
    struct pg_stats stats = stats_now();
    return stats.in_flight == 1 && stats.waiting == 0;
}

static void test_outcome_of_a_call_given_up(void **state)
{
    (void)state;
    struct box box, commit = {0};
    open_pg((struct pg_opts){0});
    assert_int_equal(run("INSERT INTO pgp VALUES (1)").code, ERR_NONE);
    struct pg_op *op = start(&box, "UPDATE pgp SET v = 'x' FROM pg_sleep(0.05)");
    assert_int_equal(pg_op_outcome(op), ERR_NONE); /* not sent */
    turn_until(is_sleeping, 20000);
    assert_int_equal(pg_op_outcome(op), ERR_OUTCOME_UNKNOWN);
    pg_op_cancel(op);
    op = start(&box, "SELECT pg_sleep(0.05)");
    loop_turn(loop, false);
    assert_int_equal(pg_op_outcome(op), ERR_NONE); /* a read */
    pg_op_cancel(op);

    struct pg_tx *tx = pg_tx_begin(pg, &(struct pg_tx_opts){0});
    struct pg_call call = call_of(&box, "INSERT INTO pgp VALUES (2)");
    op = pg_tx_query(tx, &call);
    loop_turn(loop, false);
    assert_int_equal(pg_op_outcome(op), ERR_NONE); /* its transaction is rolled back */
    wait_for(&box);
    op = pg_tx_commit(tx, on_commit, &commit);
    assert_int_equal(pg_op_outcome(op), ERR_NONE);
    while (op->state == PG_OP_QUEUED)
        loop_turn(loop, false);
    assert_int_equal(pg_op_outcome(op), ERR_COMMIT_UNKNOWN);
    pg_op_cancel(op); /* and it commits all the same */
    while (stats_now().in_flight)
        loop_turn(loop, true);
    assert_admin("SELECT count(*) FROM pgp WHERE id = 2", "1");
    assert_int_equal(commit.n_done, 0);
}

/* Through a pooler pg_cancel_backend cannot be used. */
static bool is_quiet(void)
{
    return stats_now().in_flight == 0;
}

static void test_cancel_through_a_pooler(void **state)
{
    (void)state;
    struct box box;
    enum { N_CANCELS = 6 };
    open_pg((struct pg_opts){.transaction_pooling = true});
    for (int i = 0; i < N_CANCELS; i++) {
        struct pg_tx *tx = pg_tx_begin(pg, &(struct pg_tx_opts){0});
        struct pg_call call = call_of(&box, "SELECT pg_sleep(29)");
        struct pg_op *op = pg_tx_query(tx, &call);
        turn_until(is_sleeping, 20000);
        pg_op_cancel(op);
        pg_tx_rollback(tx);
        turn_until(is_quiet, 20000);
        assert_int_equal(run("SELECT 1").code, ERR_NONE);
    }
    /* A request that loses its race with the statement closes the connection instead, which frees the backend as well;
     * without requests every round would end so. */
    assert_true(stats_now().reconnects < N_CANCELS);
}

#define LIVE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIVE(test_a_text_that_slips_past_harms_nobody),
        LIVE(test_a_burst_does_not_wait),
        LIVE(test_waits_are_counted),
        LIVE(test_idle_connections_are_closed),
        LIVE(test_outcome_of_a_call_given_up),
        LIVE(test_cancel_through_a_pooler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
