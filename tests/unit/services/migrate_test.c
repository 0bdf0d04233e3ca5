/* The migration runner against a real PostgreSQL (TEST_PG_URL, set by the runner; the test fails without it). Each test
 * has a database of its own, dropped afterwards, and writes its migration files into a temporary directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "services/migrate.h"

static char root[64], dir[80], database[64], url[512];
static struct pg_admin *boss, *admin; /* of the server; of the test's database */
static struct err err;
static char told[1024];

static void on_file(void *data, const char *file, const char *state, uint64_t ms)
{
    (void)data, (void)ms;
    size_t len = strlen(told);
    snprintf(told + len, sizeof told - len, "%s %s;", strrchr(file, '/') + 1, state);
}

static void put(const char *name, const char *sql)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(sql, file);
    assert_int_equal(fclose(file), 0);
}

static void drop(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(unlink(path), 0);
}

static enum status run_with(struct pg_admin *on, struct migrate_opts opts)
{
    told[0] = '\0';
    err = (struct err){0};
    opts.dir = dir;
    opts.on_file = on_file;
    return migrate_run(on, &opts, &err);
}

static enum status run(void)
{
    return run_with(admin, (struct migrate_opts){0});
}

static void assert_runs(const char *expected)
{
    if (run() != OK)
        fail_msg("%s", err.message);
    assert_string_equal(told, expected);
}

/* The message is "<dir>/" and then exactly this. */
static void assert_fails(const char *expected)
{
    assert_int_equal(run(), ERR);
    size_t dir_len = strlen(dir);
    assert_memory_equal(err.message, dir, dir_len);
    assert_string_equal(err.message + dir_len + 1, expected);
}

static void exec_on(struct pg_admin *on, const char *sql)
{
    struct err why = {0};
    if (pg_admin_exec(on, sql, &(int){0}, &why) != OK)
        fail_msg("%s: %s", sql, why.message);
}

static void assert_value(const char *sql, const char *expected)
{
    struct arena arena;
    struct slice *values;
    size_t n;
    arena_create(&arena);
    if (pg_admin_column(admin, sql, NULL, 0, &arena, &values, &n, &err) != OK)
        fail_msg("%s: %s", sql, err.message);
    assert_int_equal(n, 1);
    char got[256];
    snprintf(got, sizeof got, "%.*s", SLICE_FMT(values[0]));
    arena_destroy(&arena);
    assert_string_equal(got, expected);
}

static struct pg_admin *open_database(const char *name)
{
    struct pg_admin *opened = pg_admin_open(name, &err);
    if (!opened)
        fail_msg("%s", err.message);
    return opened;
}

/* TEST_PG_URL with another database: …/postgres?… → …/name?… */
static void make_url(const char *server)
{
    const char *query = strchr(server, '?'), *slash = strchr(strstr(server, "//") + 2, '/');
    snprintf(url, sizeof url, "%.*s/%s%s", (int)(slash - server), server, database, query ? query : "");
}

static int setup(void **state)
{
    (void)state;
    static int n;
    char sql[128];
    const char *server = getenv("TEST_PG_URL");
    if (!server) {
        print_error("TEST_PG_URL is not set: this test needs a PostgreSQL (tests/run.sh starts one)\n");
        return -1;
    }
    log_open(STDERR_FILENO, LOG_ERROR, false, NULL);
    snprintf(root, sizeof root, "/tmp/migrate_test.XXXXXX");
    if (!mkdtemp(root))
        return -1;
    snprintf(dir, sizeof dir, "%s/migrations", root);
    mkdir(dir, 0755);
    snprintf(database, sizeof database, "migrate_test_%d_%d", (int)getpid(), ++n);
    boss = open_database(server);
    snprintf(sql, sizeof sql, "CREATE DATABASE %s", database);
    exec_on(boss, sql);
    make_url(server);
    admin = open_database(url);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char line[128];
    if (!boss)
        return 0;
    pg_admin_close(admin);
    snprintf(line, sizeof line, "DROP DATABASE %s WITH (FORCE)", database);
    exec_on(boss, line);
    pg_admin_close(boss);
    boss = NULL;
    snprintf(line, sizeof line, "rm -rf '%s'", root);
    return system(line) == 0 && arena_live() == 0 ? 0 : -1;
}

static void applies_in_order_and_once(void **state)
{
    (void)state;
    put("0002_b.sql", "INSERT INTO t VALUES (2);\n-- the end");
    put("0001_a.sql", "CREATE TABLE t (n int);\nINSERT INTO t VALUES (1);\n");
    put("0010_c.sql", "INSERT INTO t SELECT max(n) + 1 FROM t;\n");
    put("seed.sql", "this is not a migration");
    put("README.md", "nor is this");
    assert_runs("0001_a.sql applied;0002_b.sql applied;0010_c.sql applied;");
    assert_value("SELECT string_agg(n::text, ',' ORDER BY n) FROM t", "1,2,3");
    assert_value("SELECT string_agg(version || name, ',' ORDER BY version) FROM chowk_migrations",
                 "10001_a.sql,20002_b.sql,100010_c.sql");
    assert_value("SELECT count(*) FROM chowk_migrations WHERE checksum ~ '^[0-9a-f]{64}$' AND applied_at <= now()",
                 "3");
    assert_runs("0001_a.sql done;0002_b.sql done;0010_c.sql done;");
    put("0011_d.sql", "INSERT INTO t VALUES (4)");
    assert_runs("0001_a.sql done;0002_b.sql done;0010_c.sql done;0011_d.sql applied;");
    assert_value("SELECT count(*) FROM t", "4");
}

static void names_file_and_line(void **state)
{
    (void)state;
    put("0001_a.sql", "CREATE TABLE t (n int);\n");
    put("0002_b.sql", "-- ä comment\nINSERT INTO t VALUES (1);\n\nCREATE TABLE u (\n  a int, -- größe\n  b intt\n);\n");
    assert_fails("0002_b.sql:6: type \"intt\" does not exist");
    assert_string_equal(err.sqlstate, "42704");
    assert_value("SELECT count(*) FROM t", "0"); /* the file's own transaction is gone */
    assert_value("SELECT count(*) FROM chowk_migrations", "1");
    /* No position from PostgreSQL: the statement's line. */
    put("0002_b.sql", "SELECT 1;\n\nINSERT INTO t\nSELECT 1 / (n - 1)\nFROM (VALUES (1)) v(n);\n");
    assert_fails("0002_b.sql:3: division by zero");
    put("0002_b.sql", "INSERT INTO t VALUES (1);\nINSERT INTO t VALUES (1);\n");
    assert_runs("0001_a.sql done;0002_b.sql applied;");
}

static void fails_at_commit(void **state)
{
    (void)state;
    put("0001_a.sql", "CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t DEFERRABLE INITIALLY DEFERRED);\n"
                      "INSERT INTO t VALUES (1, 2);\n");
    assert_int_equal(run(), ERR);
    assert_non_null(strstr(err.message, "0001_a.sql: COMMIT: "));
    assert_string_equal(err.sqlstate, "23503");
    assert_value("SELECT count(*) FROM chowk_migrations", "0");
    put("0001_a.sql", "SELECT 1");
    assert_runs("0001_a.sql applied;");
}

static void refuses_bad_files(void **state)
{
    (void)state;
    put("0001_a.sql", "SELECT 1");
    put("0001_b.sql", "SELECT 1");
    assert_fails("0001_b.sql: has the same number as 0001_a.sql");
    drop("0001_b.sql");
    put("2_b.sql", "SELECT 1");
    assert_fails("2_b.sql: expected a name like 0003_orders.sql");
    drop("2_b.sql");
    put("0002_b.sql.bak", "SELECT 1");
    assert_fails("0002_b.sql.bak: expected a name like 0003_orders.sql");
    drop("0002_b.sql.bak");
    put("0002_b.sql", "SELECT 1;\nCOMMIT;\n");
    assert_fails("0002_b.sql:2: COMMIT in a file that is one transaction: leave it out, or let the first line be "
                 "\"-- chowk: no transaction\"");
    assert_string_equal(told, ""); /* found before 0001 was run */
    put("0002_b.sql", "SAVEPOINT a;\nROLLBACK TO a;\n");
    assert_runs("0001_a.sql applied;0002_b.sql applied;");
}

static void refuses_a_ledger_that_does_not_fit(void **state)
{
    (void)state;
    put("0001_a.sql", "SELECT 1");
    put("0003_c.sql", "SELECT 3");
    assert_runs("0001_a.sql applied;0003_c.sql applied;");
    put("0001_a.sql", "SELECT 1 -- changed");
    assert_fails("0001_a.sql: has changed since it was applied: write a new file instead");
    put("0001_a.sql", "SELECT 1");
    put("0002_b.sql", "SELECT 2");
    assert_fails("0002_b.sql: comes before 0003, which is applied already: give it a higher number");
    drop("0002_b.sql");
    drop("0001_a.sql");
    assert_fails("0001_a.sql: was applied to this database and is missing");
    put("0001_a.sql", "SELECT 1");
    assert_runs("0001_a.sql done;0003_c.sql done;");
}

static void runs_without_a_transaction(void **state)
{
    (void)state;
    put("0001_a.sql", "CREATE TABLE t (n int);");
    put("0002_b.sql", "-- chowk: no transaction\nCREATE INDEX CONCURRENTLY t_n ON t (n);\nINSERT INTO t VALUES (1);\n");
    assert_runs("0001_a.sql applied;0002_b.sql applied;");
    assert_value("SELECT count(*) FROM pg_indexes WHERE indexname = 't_n'", "1");
    put("0003_c.sql", "-- chowk: no transaction\nINSERT INTO t VALUES (2);\nINSERT INTO t VALUES ('x');\n");
    assert_int_equal(run(), ERR);
    assert_non_null(strstr(err.message, "0003_c.sql:3: invalid input syntax"));
    assert_non_null(strstr(err.message, "what came before stays"));
    assert_value("SELECT count(*) FROM t", "2");
    assert_value("SELECT count(*) FROM chowk_migrations", "2");
}

static void settings_do_not_leak(void **state)
{
    (void)state;
    put("0001_a.sql",
        "CREATE SCHEMA other; SELECT set_config('search_path', '', false); CREATE TABLE other.x (n int);");
    put("0002_b.sql", "CREATE TABLE y (n int);");
    assert_runs("0001_a.sql applied;0002_b.sql applied;");
    assert_value(
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename IN ('y', 'chowk_migrations')", "2");
}

static void dry_run_and_status_change_nothing(void **state)
{
    (void)state;
    put("0001_a.sql", "CREATE TABLE t (n int);");
    assert_int_equal(run_with(admin, (struct migrate_opts){.dry_run = true}), OK);
    assert_string_equal(told, "0001_a.sql pending;");
    assert_value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", "0");
    assert_runs("0001_a.sql applied;");
    put("0002_b.sql", "SELECT 1;");
    told[0] = '\0';
    struct migrate_opts opts = {.dir = dir, .on_file = on_file};
    assert_int_equal(migrate_status(admin, &opts, &err), OK);
    assert_string_equal(told, "0001_a.sql done;0002_b.sql pending;");
    put("0001_a.sql", "changed");
    told[0] = '\0';
    assert_int_equal(migrate_status(admin, &opts, &err), ERR);
    assert_string_equal(told, "0001_a.sql done;0002_b.sql pending;");
    assert_non_null(strstr(err.message, "0001_a.sql: has changed"));
}

static void names_who_holds_the_lock(void **state)
{
    (void)state;
    struct pg_admin *other = open_database(url);
    put("0001_a.sql", "SELECT 1");
    exec_on(other, "SET application_name = 'the other chowk'; SELECT pg_advisory_lock(426953897835)");
    assert_int_equal(run_with(admin, (struct migrate_opts){.lock_wait_ms = 50}), ERR);
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(err.message, "migrate: process "));
    assert_non_null(strstr(err.message, "(the other chowk) is migrating this database"));
    exec_on(other, "SELECT pg_advisory_unlock(426953897835)");
    assert_runs("0001_a.sql applied;");
    /* And ours was given back. */
    exec_on(other, "SET lock_timeout = 50; SELECT pg_advisory_lock(426953897835)");
    pg_admin_close(other);
}

static void says_what_is_missing(void **state)
{
    (void)state;
    snprintf(dir + strlen(dir), sizeof dir - strlen(dir), "x");
    assert_int_equal(run(), ERR);
    assert_non_null(strstr(err.message, "migrationsx: No such file or directory"));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(applies_in_order_and_once),
        TEST(names_file_and_line),
        TEST(fails_at_commit),
        TEST(refuses_bad_files),
        TEST(refuses_a_ledger_that_does_not_fit),
        TEST(runs_without_a_transaction),
        TEST(settings_do_not_leak),
        TEST(dry_run_and_status_change_nothing),
        TEST(names_who_holds_the_lock),
        TEST(says_what_is_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
