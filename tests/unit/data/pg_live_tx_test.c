/* pg's transactions against a real server: what commits and what cannot (T2), groups, savepoints, cursors, and what is
 * left of one after a deadline, a cancel or a lost connection. Statements: pg_live_test.c. */
#include "data/pg_live_fixture.h"

/* ---- transactions --------------------------------------------------------------------------------------------- */

static struct box tx_savepoint(struct pg_tx *tx, enum pg_savepoint what)
{
    struct box box = {0};
    pg_tx_savepoint(tx, what, 1, on_commit, &box);
    wait_for(&box);
    return box;
}

static void on_all(void *data, const struct pg_result *const *results, int n_results, const struct err *err)
{
    struct box *boxes = data;
    take(&boxes[0], err ? NULL : results[0], err);
    for (int i = 1; i < n_results; i++)
        take(&boxes[i], results[i], NULL);
}

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

/* ---- deadline, cancel, loss ----------------------------------------------------------------------------------- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIVE(test_tx_commits_and_rolls_back),
        LIVE(test_failed_statement_prevents_commit),
        LIVE(test_group_with_commit),
        LIVE(test_group_fails_at_its_commit),
        LIVE(test_savepoint_heals),
        LIVE(test_tx_refuses_its_own_verbs),
        LIVE(test_isolation_read_only_and_lock_timeout),
        LIVE(test_more_transactions_than_connections),
        LIVE(test_fetch_has_its_cursor_s_columns),
        LIVE(test_deadline_frees_the_backend),
        LIVE(test_cancel_frees_the_backend),
        LIVE(test_lost_transaction_is_rolled_back),
        LIVE(test_transaction_begins_anew),
        LIVE(test_commit_that_was_sent_is_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
