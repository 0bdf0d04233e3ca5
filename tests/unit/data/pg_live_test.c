/* pg against a real server, TEST_PG_URL: multiplexing, the rules of T1, T2 and T5, transactions, deadlines, lost
 * connections. Each test waits for completions, never for a time; a test that hangs fails by its guard. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/arena.h"
#include "base/clock.h"
#include "data/pg.h"
#include "data/pg_admin.h"
#include "net/poll.h"

static struct loop *loop;
static struct names *names;
static struct pg *pg;
static struct pg_admin *admin;

/* ---- one call and what came of it ------------------------------------------------------------------------ */

struct box {
    int n_done;
    bool is_ok;
    struct err err;
    char json[4096];
    int64_t affected;
};

static void take(struct box *box, const struct pg_result *result, const struct err *err)
{
    box->n_done++;
    box->is_ok = !err;
    if (err)
        box->err = *err;
    if (!result)
        return;
    struct buf buf = {0};
    pg_result_json(result, &buf);
    snprintf(box->json, sizeof(box->json), "%.*s", (int)buf.len, buf.ptr);
    box->affected = pg_result_affected(result);
    buf_free(&buf);
}

static void on_done(void *data, const struct pg_result *result, const struct err *err)
{
    take(data, result, err);
}

static void on_all(void *data, const struct pg_result *const *results, int n_results, const struct err *err)
{
    struct box *boxes = data;
    take(&boxes[0], err ? NULL : results[0], err);
    for (int i = 1; i < n_results; i++)
        take(&boxes[i], results[i], NULL);
}

static void on_commit(void *data, const struct err *err)
{
    take(data, NULL, err);
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

static void assert_json(const char *sql, const char *json)
{
    struct box box = run(sql);
    if (!box.is_ok)
        fail_msg("%s: %s", sql, box.err.message);
    assert_string_equal(box.json, json);
}

static void assert_fails(const char *sql, enum err_code code, const char *sqlstate)
{
    struct box box = run(sql);
    if (box.is_ok)
        fail_msg("%s succeeded", sql);
    assert_int_equal(box.err.code, code);
    assert_string_equal(box.err.sqlstate, sqlstate);
}

static struct box tx_run(struct pg_tx *tx, const char *sql)
{
    struct box box;
    struct pg_call call = call_of(&box, sql);
    pg_tx_query(tx, &call);
    wait_for(&box);
    return box;
}

static struct box tx_savepoint(struct pg_tx *tx, enum pg_savepoint what)
{
    struct box box = {0};
    pg_tx_savepoint(tx, what, 1, on_commit, &box);
    wait_for(&box);
    return box;
}

static struct box tx_commit(struct pg_tx *tx)
{
    struct box box = {0};
    pg_tx_commit(tx, on_commit, &box);
    wait_for(&box);
    return box;
}

static struct pg_tx *tx_begin(void)
{
    return pg_tx_begin(pg, &(struct pg_tx_opts){.deadline_ms = loop_now(loop) + 20000});
}

static void ddl(const char *sql)
{
    struct err err;
    if (pg_admin_exec(admin, sql, NULL, &err) != OK)
        fail_msg("%s: %s", sql, err.message);
}

static void admin_scalar(const char *sql, char *out, size_t size)
{
    struct arena arena;
    struct slice *values;
    size_t n;
    struct err err;
    arena_create(&arena);
    if (pg_admin_column(admin, sql, NULL, 0, &arena, &values, &n, &err) != OK || n == 0)
        fail_msg("%s gave nothing", sql);
    snprintf(out, size, "%.*s", SLICE_FMT(values[0]));
    arena_destroy(&arena);
}

/* Turns the loop until the admin's query answers `value`. */
static void wait_until(const char *sql, const char *value)
{
    char got[64];
    uint64_t guard_ms = clock_ms() + 20000;
    do {
        assert_true(clock_ms() < guard_ms);
        loop_turn(loop, false);
        admin_scalar(sql, got, sizeof(got));
    } while (strcmp(got, value) != 0);
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
    pg = pg_new(&(struct pg_opts){.loop = loop, .names = names, .url = url, .max_result_bytes = 4 << 20}, &err);
    ddl("DROP TABLE IF EXISTS pgt_child, pgt; CREATE TABLE pgt (id int PRIMARY KEY, v text);"
        "INSERT INTO pgt SELECT i, 'v' || i FROM generate_series(1, 100) i");
    return pg ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    pg_free(pg);
    names_free(names);
    loop_free(loop);
    ddl("DROP TABLE IF EXISTS pgt_child, pgt");
    pg_admin_close(admin);
    return 0;
}

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

/* ---- transactions --------------------------------------------------------------------------------------------- */

static void test_tx_commits_and_rolls_back(void **state)
{
    (void)state;
    struct pg_tx *tx = tx_begin();
    assert_true(tx_run(tx, "UPDATE pgt SET v = 'tx' WHERE id = 4").is_ok);
    assert_string_equal(tx_run(tx, "SELECT v FROM pgt WHERE id = 4").json, "[{\"v\":\"tx\"}]");
    assert_json("SELECT v FROM pgt WHERE id = 4", "[{\"v\":\"v4\"}]");
    assert_true(tx_commit(tx).is_ok);
    assert_json("SELECT v FROM pgt WHERE id = 4", "[{\"v\":\"tx\"}]");

    tx = tx_begin();
    assert_true(tx_run(tx, "DELETE FROM pgt WHERE id = 4").is_ok);
    pg_tx_rollback(tx);
    assert_json("SELECT v FROM pgt WHERE id = 4", "[{\"v\":\"tx\"}]");

    assert_true(tx_commit(tx_begin()).is_ok); /* empty: nothing to do */
    pg_tx_rollback(tx_begin());
}

/* T2: a statement failed and nobody looked; COMMIT must not pass for one. */
static void test_failed_statement_prevents_commit(void **state)
{
    (void)state;
    struct pg_tx *tx = tx_begin();
    struct box insert, bad, commit = {0};
    struct pg_call calls[] = {call_of(&insert, "INSERT INTO pgt VALUES (500, 'x')"), call_of(&bad, "SELECT 1/0")};
    pg_tx_query(tx, &calls[0]);
    pg_tx_query(tx, &calls[1]);
    pg_tx_commit(tx, on_commit, &commit);
    wait_for(&commit);
    assert_true(insert.is_ok);
    assert_string_equal(bad.err.sqlstate, "22012");
    assert_false(commit.is_ok);
    assert_json("SELECT count(*) AS n FROM pgt WHERE id = 500", "[{\"n\":0}]");

    tx = tx_begin(); /* COMMIT in the group of the failing one */
    struct box group[2] = {0};
    struct pg_call both[] = {call_of(&insert, "INSERT INTO pgt VALUES (501, 'x')"), call_of(&bad, "SELECT 1/0")};
    pg_tx_query_all(tx, both, 2, true, on_all, group);
    wait_for(&group[0]);
    assert_string_equal(group[0].err.sqlstate, "22012");
    assert_json("SELECT count(*) AS n FROM pgt WHERE id = 501", "[{\"n\":0}]");
}

static void test_group_with_commit(void **state)
{
    (void)state;
    struct pg_tx *tx = tx_begin();
    struct box group[2] = {0}, unused;
    struct pg_call calls[] = {call_of(&unused, "UPDATE pgt SET v = 'g' WHERE id = 5 RETURNING id"),
                              call_of(&unused, "SELECT v FROM pgt WHERE id = 5")};
    pg_tx_query_all(tx, calls, 2, true, on_all, group);
    wait_for(&group[0]);
    assert_string_equal(group[0].json, "[{\"id\":5}]");
    assert_string_equal(group[1].json, "[{\"v\":\"g\"}]");
    assert_json("SELECT v FROM pgt WHERE id = 5", "[{\"v\":\"g\"}]");
}

/* The commit of a whole transaction in one group is its Sync: what fails there, failed. */
static void test_group_fails_at_its_commit(void **state)
{
    (void)state;
    ddl("DROP TABLE IF EXISTS pgt_late; CREATE TABLE pgt_late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);"
        "CREATE OR REPLACE PROCEDURE pgt_commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'");
    struct box group[2] = {0}, unused;
    struct pg_call late[] = {call_of(&unused, "INSERT INTO pgt_late VALUES (1)"),
                             call_of(&unused, "INSERT INTO pgt_late VALUES (1)")};
    pg_tx_query_all(tx_begin(), late, 2, true, on_all, group);
    wait_for(&group[0]);
    assert_string_equal(group[0].err.sqlstate, "23505");
    assert_json("SELECT count(*) AS n FROM pgt_late", "[{\"n\":0}]");

    struct pg_call call[] = {call_of(&unused, "INSERT INTO pgt_late VALUES (2)"),
                             call_of(&unused, "CALL pgt_commits()")}; /* may not commit half of it */
    group[0] = group[1] = (struct box){0};
    pg_tx_query_all(tx_begin(), call, 2, true, on_all, group);
    wait_for(&group[0]);
    assert_string_equal(group[0].err.sqlstate, "2D000");
    assert_json("SELECT count(*) AS n FROM pgt_late", "[{\"n\":0}]");
}

static void test_savepoint_heals(void **state)
{
    (void)state;
    struct pg_tx *tx = tx_begin();
    assert_true(tx_run(tx, "UPDATE pgt SET v = 'a' WHERE id = 6").is_ok);
    assert_true(tx_savepoint(tx, PG_SAVEPOINT).is_ok);
    assert_false(tx_run(tx, "SELECT 1/0").is_ok);
    assert_true(pg_tx_is_failed(tx));
    assert_string_equal(tx_run(tx, "SELECT 1").err.sqlstate, "22012"); /* the first error, without a round trip */
    assert_true(tx_savepoint(tx, PG_SAVEPOINT_UNDO).is_ok);
    assert_false(pg_tx_is_failed(tx));
    assert_true(tx_run(tx, "UPDATE pgt SET v = v || 'b' WHERE id = 6").is_ok);
    assert_true(tx_savepoint(tx, PG_SAVEPOINT_RELEASE).is_ok);
    assert_true(tx_commit(tx).is_ok);
    assert_json("SELECT v FROM pgt WHERE id = 6", "[{\"v\":\"ab\"}]");
}

static void test_tx_refuses_its_own_verbs(void **state)
{
    (void)state;
    static const char *const refused[] = {
        "COMMIT", "ROLLBACK", "SAVEPOINT x", "SET work_mem = '1MB'", "COPY pgt TO STDOUT", "SELECT pg_advisory_lock(1)",
        "BEGIN"};
    struct pg_tx *tx = tx_begin();
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        assert_int_equal(tx_run(tx, refused[i]).err.code, ERR_REFUSED);
    assert_true(tx_run(tx, "SET LOCAL work_mem = '1MB'").is_ok);
    assert_true(tx_run(tx, "LOCK pgt IN SHARE MODE").is_ok);
    assert_true(tx_run(tx, "SELECT set_config('work_mem', '2MB', true)").is_ok);
    pg_tx_rollback(tx);
}

static void test_isolation_read_only_and_lock_timeout(void **state)
{
    (void)state;
    struct pg_tx *tx =
        pg_tx_begin(pg, &(struct pg_tx_opts){.isolation = PG_SERIALIZABLE, .read_only = true, .lock_timeout_ms = 1234});
    assert_string_equal(tx_run(tx, "SHOW transaction_isolation").json,
                        "[{\"transaction_isolation\":\"serializable\"}]");
    assert_string_equal(tx_run(tx, "SHOW lock_timeout").json, "[{\"lock_timeout\":\"1234ms\"}]");
    assert_string_equal(tx_run(tx, "DELETE FROM pgt").err.sqlstate, "25006");
    pg_tx_rollback(tx);
}

static void test_more_transactions_than_connections(void **state)
{
    (void)state;
    enum { N = 40 };
    static struct box boxes[N], commits[N];
    struct pg_tx *txs[N];
    for (int i = 0; i < N; i++) {
        txs[i] = tx_begin();
        struct pg_call call = call_of(&boxes[i], "UPDATE pgt SET v = 'many' WHERE id = 7");
        pg_tx_query(txs[i], &call);
        commits[i] = (struct box){0};
        pg_tx_commit(txs[i], on_commit, &commits[i]);
    }
    for (int i = 0; i < N; i++) {
        wait_for(&commits[i]);
        assert_true(boxes[i].is_ok && commits[i].is_ok);
    }
    struct pg_stats stats;
    pg_stats(pg, &stats);
    assert_int_equal(stats.waiting, 0);
    assert_in_range(stats.open, 1, 14);
}

/* ---- deadline, cancel, loss ----------------------------------------------------------------------------------- */

#define SLEEPERS                                                                                                       \
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(29)%' AND state = 'active'"                     \
    " AND pid <> pg_backend_pid()"

static void test_deadline_frees_the_backend(void **state)
{
    (void)state;
    struct box box;
    struct pg_tx *tx = tx_begin();
    struct pg_call call = call_of(&box, "SELECT pg_sleep(29)");
    call.deadline_ms = loop_now(loop) + 200;
    pg_tx_query(tx, &call);
    wait_for(&box);
    assert_int_equal(box.err.code, ERR_DEADLINE);
    pg_tx_rollback(tx);
    wait_until(SLEEPERS, "0");
    assert_json("SELECT 1 AS a", "[{\"a\":1}]");
}

static void test_cancel_frees_the_backend(void **state)
{
    (void)state;
    struct box box;
    struct pg_tx *tx = tx_begin();
    struct pg_call call = call_of(&box, "SELECT pg_sleep(29)");
    struct pg_op *op = pg_tx_query(tx, &call);
    wait_until(SLEEPERS, "1");
    pg_op_cancel(op);
    pg_tx_rollback(tx);
    wait_until(SLEEPERS, "0");
    assert_int_equal(box.n_done, 0);
    struct pg_tx *next = tx_begin(); /* the cancel must not hit who comes next */
    assert_true(tx_run(next, "SELECT pg_sleep(0.05)").is_ok);
    assert_true(tx_commit(next).is_ok);
}

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

#define KILL_OTHERS                                                                                                    \
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'chowk' "                  \
    "AND datname = current_database() AND pid <> pg_backend_pid()"

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

/* One text, whose columns are another cursor's each time. */
static void test_fetch_has_its_cursor_s_columns(void **state)
{
    (void)state;
    static const char *const queries[][2] = {
        {"DECLARE c CURSOR FOR SELECT 1 AS a", "[{\"a\":1}]"},
        {"DECLARE c CURSOR FOR SELECT 2 AS a", "[{\"a\":2}]"},
        {"DECLARE c CURSOR FOR SELECT 'x' AS b, true AS d", "[{\"b\":\"x\",\"d\":true}]"},
    };
    for (size_t i = 0; i < ARRAY_LEN(queries); i++) {
        struct pg_tx *tx = tx_begin();
        assert_true(tx_run(tx, queries[i][0]).is_ok);
        struct box box = tx_run(tx, "FETCH ALL FROM c");
        assert_string_equal(box.json, queries[i][1]);
        assert_true(tx_commit(tx).is_ok);
    }
}

static void test_lost_transaction_is_rolled_back(void **state)
{
    (void)state;
    char n[16];
    struct pg_tx *tx = tx_begin();
    assert_true(tx_run(tx, "UPDATE pgt SET v = 'lost' WHERE id = 10").is_ok);
    admin_scalar(KILL_OTHERS, n, sizeof(n));
    struct box box = tx_run(tx, "SELECT 1");
    assert_int_equal(box.err.code, ERR_UNAVAILABLE);
    assert_int_equal(tx_commit(tx).err.code, ERR_UNAVAILABLE);
    assert_json("SELECT v FROM pgt WHERE id = 10", "[{\"v\":\"v10\"}]");
}

/* Its idle connection was dead already: nothing of the transaction can have happened. */
static void test_transaction_begins_anew(void **state)
{
    (void)state;
    char n[16];
    struct pg_tx *tx = tx_begin();
    assert_true(tx_run(tx, "SELECT 1").is_ok);
    assert_true(tx_commit(tx).is_ok);
    admin_scalar(KILL_OTHERS, n, sizeof(n)); /* the loop has not seen it */
    tx = tx_begin();
    struct box first, second, commit = {0};
    struct pg_call calls[] = {call_of(&first, "UPDATE pgt SET v = v || '+' WHERE id = 13"),
                              call_of(&second, "SELECT v FROM pgt WHERE id = 13")};
    pg_tx_query(tx, &calls[0]);
    pg_tx_query(tx, &calls[1]);
    wait_for(&second);
    assert_true(first.is_ok);
    assert_string_equal(second.json, "[{\"v\":\"v13+\"}]");
    pg_tx_commit(tx, on_commit, &commit);
    wait_for(&commit);
    assert_true(commit.is_ok);
    assert_json("SELECT v FROM pgt WHERE id = 13", "[{\"v\":\"v13+\"}]");
}

static void test_commit_that_was_sent_is_unknown(void **state)
{
    (void)state;
    char n[16];
    ddl("CREATE OR REPLACE FUNCTION pgt_wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(29); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER pgt_slow_commit AFTER UPDATE ON pgt DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION pgt_wait()");
    struct pg_tx *tx = tx_begin();
    struct box commit = {0};
    assert_true(tx_run(tx, "UPDATE pgt SET v = 'c' WHERE id = 11").is_ok);
    pg_tx_commit(tx, on_commit, &commit);
    wait_until("SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'", "1");
    admin_scalar(KILL_OTHERS, n, sizeof(n));
    wait_for(&commit);
    assert_int_equal(commit.err.code, ERR_COMMIT_UNKNOWN);
    ddl("DROP TRIGGER pgt_slow_commit ON pgt; DROP FUNCTION pgt_wait()");
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

#define LIVE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

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
        LIVE(test_tx_commits_and_rolls_back),
        LIVE(test_failed_statement_prevents_commit),
        LIVE(test_group_with_commit),
        LIVE(test_group_fails_at_its_commit),
        LIVE(test_savepoint_heals),
        LIVE(test_tx_refuses_its_own_verbs),
        LIVE(test_isolation_read_only_and_lock_timeout),
        LIVE(test_more_transactions_than_connections),
        LIVE(test_deadline_frees_the_backend),
        LIVE(test_cancel_frees_the_backend),
        LIVE(test_cancel_of_waiting_and_running_reads),
        LIVE(test_terminated_backends_heal),
        LIVE(test_socket_number_is_free_at_once),
        LIVE(test_fetch_has_its_cursor_s_columns),
        LIVE(test_lost_transaction_is_rolled_back),
        LIVE(test_transaction_begins_anew),
        LIVE(test_commit_that_was_sent_is_unknown),
        LIVE(test_queue_is_bounded),
        LIVE(test_unreachable_server_fails_fast),
        LIVE(test_transaction_pooling),
        LIVE(test_free_completes_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
