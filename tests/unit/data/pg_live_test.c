/* pg against a real server: statements that share connections (T1, T5), what each may say, cancelled ones, lost
 * connections, a server that is not there. Transactions: pg_live_tx_test.c. */
#include "data/pg_live_fixture.h"

#include <sys/socket.h>
#include <unistd.h>

#include "net/poll.h"

/* ---- statements ---------------------------------------------------------------------------------------------- */

static void test_types_travel_as_json(void **state)
{
    (void)state;
    assert_json("SELECT 1 AS a, 99999999999999::int8 AS b, 100000000000000::int8 AS c, sum(x::int8) AS d, 1.50 AS e, "
                "1.5::float8 AS f, 'NaN'::float8 AS g, true AS h, NULL AS i FROM (VALUES (2), (3)) t(x)",
                "[{\"a\":1,\"b\":99999999999999,\"c\":\"100000000000000\",\"d\":5,\"e\":\"1.50\",\"f\":1.5,"
                "\"g\":\"NaN\",\"h\":true,\"i\":null}]");
    assert_json("SELECT '2026-11-23 06:19:16.5+05:30'::timestamptz AS t, '{\"a\": [1]}'::jsonb AS j, "
                "'\\x00ff'::bytea AS y, ARRAY[1,NULL,3] AS n, ARRAY['a\"b','{}',''] AS s, ARRAY[[1,2],[3,4]] AS m",
                "[{\"t\":\"2026-11-23T00:49:16.5Z\",\"j\":{\"a\": [1]},\"y\":\"AP8=\",\"n\":[1,null,3],"
                "\"s\":[\"a\\\"b\",\"{}\",\"\"],\"m\":[[1,2],[3,4]]}]");
    assert_json("SELECT 1 WHERE false", "[]");
}

static void test_parameters_are_bound_and_counted(void **state)
{
    (void)state;
    struct box box;
    struct pg_param params[] = {{"7"}, {NULL}};
    struct pg_call call = call_of(&box, "SELECT $1::int + 1 AS a, $2::text AS b");
    call.params = params;
    call.n_params = 2;
    for (int i = 0; i < 3; i++) { /* unnamed, prepared, from the cache */
        pg_query(pg, &call);
        wait_for(&box);
        assert_string_equal(box.json, "[{\"a\":8,\"b\":null}]");
        box = (struct box){0};
    }
    call.n_params = 1;
    pg_query(pg, &call);
    wait_for(&box);
    assert_int_equal(box.err.code, ERR_REFUSED);
}

/* A failing query must never touch a neighbour, whatever shares its Sync. */
static void test_mixed_good_and_bad(void **state)
{
    (void)state;
    enum { N = 1000 };
    static struct box boxes[N];
    static char texts[8][64];
    static const char *const forms[] = {"SELECT v FROM pgt WHERE id = %d",
                                        "SELECT 1 / 0 AS z%d",
                                        "SELEC %d",
                                        "SELECT v FROM missing_%d",
                                        "UPDATE pgt SET v = v WHERE id = %d",
                                        "INSERT INTO pgt VALUES (%d, 'x')",
                                        "SELECT id FROM pgt WHERE id = %d + 0",
                                        "SELECT 'x'::int + %d"};
    for (int i = 0; i < 8; i++)
        snprintf(texts[i], sizeof(texts[i]), forms[i], i + 1);
    for (int i = 0; i < N; i++)
        start(&boxes[i], texts[i % 8]);
    static const bool is_good[] = {true, false, false, false, true, false, true, false};
    static const char *const states[] = {"", "22012", "42601", "42P01", "", "23505", "", "22P02"};
    for (int i = 0; i < N; i++) {
        wait_for(&boxes[i]);
        assert_int_equal(boxes[i].n_done, 1);
        assert_int_equal(boxes[i].is_ok, is_good[i % 8]);
        assert_string_equal(boxes[i].err.sqlstate, states[i % 8]);
    }
    assert_string_equal(boxes[0].json, "[{\"v\":\"v1\"}]");
    assert_int_equal(boxes[4].affected, 1);
}

static void test_refused_texts_leave_neighbours_alone(void **state)
{
    (void)state;
    static const char *const refused[] = {
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "PREPARE a AS SELECT 1",
        "SET work_mem = '1MB'",
        "RESET ALL",
        "DISCARD ALL",
        "LISTEN c",
        "DECLARE c CURSOR FOR SELECT 1",
        "LOCK pgt",
        "COPY pgt TO STDOUT",
        "SELECT pg_advisory_lock(1)",
        "SELECT set_config('work_mem', '1MB', false)",
        "/* x */ begin",
        "SELECT 1; SELECT 2",
    };
    static struct box neighbours[100], bad[ARRAY_LEN(refused)];
    for (size_t i = 0; i < 100; i++) {
        start(&neighbours[i], i % 2 ? "UPDATE pgt SET v = 'n' WHERE id = 1" : "SELECT count(*) FROM pgt");
        if (i < ARRAY_LEN(refused))
            start(&bad[i], refused[i]);
    }
    for (size_t i = 0; i < 100; i++) {
        wait_for(&neighbours[i]);
        assert_true(neighbours[i].is_ok);
    }
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        wait_for(&bad[i]);
        if (bad[i].err.code != ERR_REFUSED)
            fail_msg("not refused: %s", refused[i]);
    }
    assert_json("SELECT v FROM pgt WHERE id = 1", "[{\"v\":\"n\"}]");
}

static void test_own_connection_for_ddl_and_do(void **state)
{
    (void)state;
    assert_true(run("CREATE TABLE pgt_child (id int)").is_ok);
    assert_true(run("DO $$ BEGIN PERFORM set_config('work_mem', '123kB', false); END $$").is_ok);
    struct pg_tx *tx = tx_begin(); /* the tainted session must not come back */
    assert_string_equal(tx_run(tx, "SHOW work_mem").json, "[{\"work_mem\":\"4MB\"}]");
    pg_tx_rollback(tx);
    assert_true(run("VACUUM pgt_child").is_ok);
}

static void test_slow_statement_moves_out_of_the_way(void **state)
{
    (void)state;
    struct box slow, quick;
    start(&slow, "SELECT 1 AS a FROM pg_sleep(0.4)");
    start(&quick, "SELECT 2 AS a");
    wait_for(&quick);
    assert_int_equal(slow.n_done, 0);
    wait_for(&slow);
    assert_string_equal(slow.json, "[{\"a\":1}]");
}

static void test_writing_function_runs_once_on_a_write_connection(void **state)
{
    (void)state;
    ddl("CREATE OR REPLACE FUNCTION pgt_touch() RETURNS int LANGUAGE sql AS "
        "$$ UPDATE pgt SET v = v || '!' WHERE id = 2 RETURNING id $$");
    struct box calls[3];
    for (int i = 0; i < 3; i++)
        start(&calls[i], "SELECT pgt_touch()");
    for (int i = 0; i < 3; i++) {
        wait_for(&calls[i]);
        assert_true(calls[i].is_ok);
    }
    assert_json("SELECT v FROM pgt WHERE id = 2", "[{\"v\":\"v2!!!\"}]");
    ddl("DROP FUNCTION pgt_touch()");
}

static void test_deferred_constraint_fails_the_write(void **state)
{
    (void)state;
    ddl("CREATE TABLE pgt_child (id int REFERENCES pgt DEFERRABLE INITIALLY DEFERRED)");
    struct box boxes[3];
    start(&boxes[0], "INSERT INTO pgt_child VALUES (1)");
    start(&boxes[1], "INSERT INTO pgt_child VALUES (1000)");
    start(&boxes[2], "INSERT INTO pgt_child VALUES (2)");
    for (int i = 0; i < 3; i++)
        wait_for(&boxes[i]);
    assert_true(boxes[0].is_ok && boxes[2].is_ok);
    assert_string_equal(boxes[1].err.sqlstate, "23503");
    assert_json("SELECT id FROM pgt_child ORDER BY id", "[{\"id\":1},{\"id\":2}]");
    struct pg_tx *tx = tx_begin();
    assert_true(tx_run(tx, "INSERT INTO pgt_child VALUES (2000)").is_ok);
    assert_string_equal(tx_commit(tx).err.sqlstate, "23503");
}

static void test_changed_table_is_prepared_anew(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        assert_json("SELECT * FROM pgt WHERE id = 3", "[{\"id\":3,\"v\":\"v3\"}]");
    ddl("ALTER TABLE pgt ADD COLUMN n int DEFAULT 5");
    for (int i = 0; i < 3; i++)
        assert_json("SELECT * FROM pgt WHERE id = 3", "[{\"id\":3,\"v\":\"v3\",\"n\":5}]");
}

static void test_prepared_statements_are_bounded(void **state)
{
    (void)state;
    for (int i = 0; i < 600; i++) {
        char sql[64];
        snprintf(sql, sizeof(sql), "SELECT %d AS a", i);
        for (int k = 0; k < 2; k++)
            assert_true(run(sql).is_ok);
    }
    struct box box = run("SELECT count(*) BETWEEN 100 AND 256 AS ok FROM pg_prepared_statements");
    assert_string_equal(box.json, "[{\"ok\":true}]");
    assert_json("SELECT 0 AS a", "[{\"a\":0}]");
}

static void test_huge_result_is_refused(void **state)
{
    (void)state;
    struct box huge, small;
    start(&huge, "SELECT repeat('x', 1000) FROM generate_series(1, 50000)");
    start(&small, "SELECT 1 AS a");
    wait_for(&huge);
    assert_int_equal(huge.err.code, ERR_REFUSED);
    wait_for(&small);
    assert_string_equal(small.json, "[{\"a\":1}]");
}

/* ---- cancel, loss, bounds -------------------------------------------------------------------------------------- */

static void test_cancel_of_waiting_and_running_reads(void **state)
{
    (void)state;
    struct box boxes[50], last;
    struct pg_op *ops[50];
    for (int i = 0; i < 50; i++)
        ops[i] = start(&boxes[i], "SELECT v FROM pgt WHERE id = 8");
    for (int i = 0; i < 25; i++)
        pg_op_cancel(ops[i]);
    loop_turn(loop, false);
    start(&last, "SELECT 1 AS a");
    for (int i = 25; i < 50; i++)
        if (!boxes[i].n_done)
            pg_op_cancel(ops[i]);
    wait_for(&last);
    for (int i = 0; i < 25; i++)
        assert_int_equal(boxes[i].n_done, 0);
}

static void test_terminated_backends_heal(void **state)
{
    (void)state;
    static struct box reads[200], writes[50];
    char n[16];
    assert_true(run("SELECT 1").is_ok && run("UPDATE pgt SET v = v WHERE id = 9").is_ok);
    for (int i = 0; i < 200; i++)
        start(&reads[i], "SELECT v FROM pgt WHERE id = 9");
    for (int i = 0; i < 50; i++)
        start(&writes[i], "UPDATE pgt SET v = v WHERE id = 9");
    loop_turn(loop, false);
    admin_scalar(KILL_OTHERS, n, sizeof(n));
    for (int i = 0; i < 200; i++) {
        wait_for(&reads[i]);
        if (!reads[i].is_ok)
            fail_msg("a read was not retried: %s", reads[i].err.message);
    }
    for (int i = 0; i < 50; i++) {
        wait_for(&writes[i]);
        assert_true(writes[i].is_ok || writes[i].err.code == ERR_OUTCOME_UNKNOWN);
    }
    assert_true(run("UPDATE pgt SET v = v WHERE id = 9").is_ok);
    assert_true(pg_is_up(pg));
}

/* libpq closes its socket inside a read; whoever opens one in the same turn may get that number. */
static int stolen_fd = -1;
static struct poll *stolen_poll;

static void ignore_events(void *data, int events)
{
    (void)data;
    (void)events;
}

static void on_done_open_socket(void *data, const struct pg_result *result, const struct err *err)
{
    take(data, result, err);
    stolen_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    stolen_poll = poll_new(loop, stolen_fd, ignore_events, NULL);
}

static void test_socket_number_is_free_at_once(void **state)
{
    (void)state;
    char n[16];
    struct box box;
    assert_true(run("SELECT 1").is_ok);
    struct pg_call call = call_of(&box, "SELECT pg_terminate_backend(pg_backend_pid())");
    struct pg_tx *tx = tx_begin();
    assert_true(tx_run(tx, "SELECT 1").is_ok);
    call.done = on_done_open_socket;
    pg_tx_query(tx, &call);
    wait_for(&box);
    assert_false(box.is_ok);
    admin_scalar(KILL_OTHERS, n, sizeof(n));
    poll_free(stolen_poll);
    close(stolen_fd);
    pg_tx_rollback(tx);
    assert_true(run("SELECT 1").is_ok);
}

static void test_queue_is_bounded(void **state)
{
    (void)state;
    static struct box boxes[2000];
    int n_full = 0;
    for (int i = 0; i < 2000; i++)
        start(&boxes[i], "SELECT 1 AS a");
    for (int i = 0; i < 2000; i++) {
        wait_for(&boxes[i]);
        n_full += boxes[i].err.code == ERR_QUEUE_FULL;
    }
    assert_int_equal(n_full, 1000);
}

static void assert_fails(const char *sql, enum err_code code, const char *sqlstate)
{
    struct box box = run(sql);
    if (box.is_ok)
        fail_msg("%s succeeded", sql);
    assert_int_equal(box.err.code, code);
    assert_string_equal(box.err.sqlstate, sqlstate);
}

static void test_unreachable_server_fails_fast(void **state)
{
    (void)state;
    struct err err;
    struct pg *up = pg;
    pg = pg_new(&(struct pg_opts){.loop = loop, .names = names, .url = "postgresql:///x?host=/nonexistent"}, &err);
    assert_fails("SELECT 1", ERR_UNAVAILABLE, "");
    assert_fails("SELECT 1", ERR_UNAVAILABLE, "");
    assert_false(pg_is_up(pg));
    pg_free(pg);
    pg = up;
    assert_null(pg_new(&(struct pg_opts){.loop = loop, .names = names, .url = "postgresql://h/?nope=1"}, &err));
}

/* Nothing named, nothing shared: what PgBouncer in transaction mode allows. */
static void test_transaction_pooling(void **state)
{
    (void)state;
    struct err err;
    struct pg *usual = pg;
    pg = pg_new(
        &(struct pg_opts){.loop = loop, .names = names, .url = getenv("TEST_PG_URL"), .transaction_pooling = true},
        &err);
    assert_non_null(pg);
    for (int i = 0; i < 3; i++)
        assert_json("SELECT v FROM pgt WHERE id = 12", "[{\"v\":\"v12\"}]");
    assert_true(run("UPDATE pgt SET v = 'p' WHERE id = 12").is_ok);
    assert_json("SELECT count(*) AS n FROM pg_prepared_statements", "[{\"n\":0}]");
    struct pg_tx *tx = tx_begin();
    assert_string_equal(tx_run(tx, "SELECT v FROM pgt WHERE id = 12").json, "[{\"v\":\"p\"}]");
    assert_true(tx_commit(tx).is_ok);
    pg_free(pg);
    pg = usual;
}

static void test_free_completes_everything(void **state)
{
    (void)state;
    struct box read, tx_box, waiting[20];
    struct pg_tx *tx = tx_begin();
    assert_true(run("SELECT 1").is_ok);
    struct pg_call call = call_of(&tx_box, "SELECT pg_sleep(29)");
    pg_tx_query(tx, &call);
    start(&read, "SELECT pg_sleep(0.05)");
    loop_turn(loop, false);
    for (int i = 0; i < 20; i++)
        start(&waiting[i], "SELECT 1");
    pg_free(pg);
    pg = NULL;
    assert_int_equal(read.n_done + tx_box.n_done, 2);
    assert_int_equal(read.err.code, ERR_CANCELLED);
    for (int i = 0; i < 20; i++)
        assert_int_equal(waiting[i].err.code, ERR_CANCELLED);
    pg_tx_rollback(tx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIVE(test_types_travel_as_json),
        LIVE(test_parameters_are_bound_and_counted),
        LIVE(test_mixed_good_and_bad),
        LIVE(test_refused_texts_leave_neighbours_alone),
        LIVE(test_own_connection_for_ddl_and_do),
        LIVE(test_slow_statement_moves_out_of_the_way),
        LIVE(test_writing_function_runs_once_on_a_write_connection),
        LIVE(test_deferred_constraint_fails_the_write),
        LIVE(test_changed_table_is_prepared_anew),
        LIVE(test_prepared_statements_are_bounded),
        LIVE(test_huge_result_is_refused),
        LIVE(test_cancel_of_waiting_and_running_reads),
        LIVE(test_terminated_backends_heal),
        LIVE(test_socket_number_is_free_at_once),
        LIVE(test_queue_is_bounded),
        LIVE(test_unreachable_server_fails_fast),
        LIVE(test_transaction_pooling),
        LIVE(test_free_completes_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
