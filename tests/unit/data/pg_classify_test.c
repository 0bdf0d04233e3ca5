/* What a statement text may do (T1). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "data/pg_copy.h"
#include "data/pg_stmt.h"

static const struct {
    const char *sql;
    enum pg_class class;
    int n_params;
} cases[] = {
    {"SELECT 1", PG_CLASS_READ, 0},
    {"  select a FROM t WHERE b = $2 AND c = $1", PG_CLASS_READ, 2},
    {"-- begin\n/* commit /* nested */ still */ SELECT 1", PG_CLASS_READ, 0},
    {"(SELECT 1) UNION (SELECT 2)", PG_CLASS_READ, 0},
    {"VALUES (1)", PG_CLASS_READ, 0},
    {"TABLE t", PG_CLASS_READ, 0},
    {"SHOW work_mem", PG_CLASS_READ, 0},
    {"EXPLAIN SELECT 1", PG_CLASS_READ, 0},
    {"EXPLAIN ANALYZE DELETE FROM t", PG_CLASS_WRITE, 0},
    {"WITH x AS (SELECT 1) SELECT * FROM x", PG_CLASS_READ, 0},
    {"WITH x AS (UPDATE t SET a = $1 RETURNING b) SELECT * FROM x", PG_CLASS_WRITE, 1},
    {"SELECT * FROM t FOR UPDATE", PG_CLASS_WRITE, 0},
    {"SELECT * FROM t FOR NO KEY UPDATE SKIP LOCKED", PG_CLASS_WRITE, 0},
    {"SELECT * FROM t FOR SHARE", PG_CLASS_WRITE, 0},
    {"SELECT a INTO b FROM t", PG_CLASS_WRITE, 0},
    {"SELECT nextval('s')", PG_CLASS_WRITE, 0},
    {"SELECT pg_notify('c', 'x')", PG_CLASS_WRITE, 0},
    {"SELECT nextval FROM t", PG_CLASS_READ, 0}, /* a column, not a call */
    {"SELECT updated_at, 'update', \"delete\" FROM t", PG_CLASS_READ, 0},
    {"INSERT INTO t VALUES ($1, '$9', $$ $8 $$, $q$ $7 $q$, E'\\'$6', \"$5\")", PG_CLASS_WRITE, 1},
    {"update t set a = 'it''s $3' where id = $12", PG_CLASS_WRITE, 12},
    {"DELETE FROM t;", PG_CLASS_WRITE, 0},
    {"MERGE INTO t USING s ON a = b WHEN MATCHED THEN DO NOTHING", PG_CLASS_WRITE, 0},
    {"SELECT a$1 FROM t", PG_CLASS_READ, 0}, /* part of a name */
    {"CREATE TABLE t (a int)", PG_CLASS_EXCLUSIVE, 0},
    {"VACUUM t", PG_CLASS_EXCLUSIVE, 0},
    {"DO $$ BEGIN COMMIT; END $$", PG_CLASS_EXCLUSIVE, 0},
    {"CALL p($1)", PG_CLASS_EXCLUSIVE, 1},
    {"SELEC 1", PG_CLASS_EXCLUSIVE, 0}, /* the server says what is wrong */
    {"LOCK TABLE t", PG_CLASS_TX, 0},
    {"SET LOCAL work_mem = '1MB'", PG_CLASS_TX, 0},
    {"SET CONSTRAINTS ALL DEFERRED", PG_CLASS_TX, 0},
    {"DECLARE c CURSOR FOR SELECT 1", PG_CLASS_TX, 0},
    {"SELECT set_config('a.b', $1, true)", PG_CLASS_TX, 1},
    {"BEGIN", PG_CLASS_REFUSED, 0},
    {"start transaction", PG_CLASS_REFUSED, 0},
    {"END", PG_CLASS_REFUSED, 0},
    {"COMMIT", PG_CLASS_REFUSED, 0},
    {"ROLLBACK TO x", PG_CLASS_REFUSED, 0},
    {"ABORT", PG_CLASS_REFUSED, 0},
    {"SAVEPOINT a", PG_CLASS_REFUSED, 0},
    {"RELEASE a", PG_CLASS_REFUSED, 0},
    {"PREPARE a AS SELECT 1", PG_CLASS_REFUSED, 0},
    {"EXECUTE a", PG_CLASS_REFUSED, 0},
    {"DEALLOCATE ALL", PG_CLASS_REFUSED, 0},
    {"SET work_mem = '1MB'", PG_CLASS_REFUSED, 0},
    {"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", PG_CLASS_REFUSED, 0},
    {"RESET ALL", PG_CLASS_REFUSED, 0},
    {"DISCARD ALL", PG_CLASS_REFUSED, 0},
    {"LISTEN c", PG_CLASS_REFUSED, 0},
    {"UNLISTEN *", PG_CLASS_REFUSED, 0},
    {"COPY t FROM STDIN", PG_CLASS_REFUSED, 0},
    {"SELECT pg_advisory_lock(1)", PG_CLASS_REFUSED, 0},
    {"SELECT PG_TRY_ADVISORY_LOCK (1)", PG_CLASS_REFUSED, 0},
    {"SELECT \"pg_advisory_unlock_all\"()", PG_CLASS_REFUSED, 0},
    {"SELECT E'a'\n'\\'', pg_advisory_lock(1) --'", PG_CLASS_REFUSED, 0}, /* the string ends before the comma */
    {"SELECT pg_advisory_xact_lock(1)", PG_CLASS_READ, 0},
    {"SELECT set_config('a', 'b', false)", PG_CLASS_REFUSED, 0},
    {"SELECT set_config('a', 'true', $1)", PG_CLASS_REFUSED, 1},
    {"SELECT set_config('a', 'b', not true)", PG_CLASS_REFUSED, 0},
    {"SELECT set_config('a', f(true), false)", PG_CLASS_REFUSED, 0},
    {"SELECT 1; SELECT 2", PG_CLASS_REFUSED, 0},
    {"SELECT 1; -- nothing more", PG_CLASS_READ, 0},
    {"", PG_CLASS_REFUSED, 0},
    {" ; -- x", PG_CLASS_REFUSED, 0},
    {"/* never closed", PG_CLASS_REFUSED, 0},
    {"SELECT 'never closed $4", PG_CLASS_READ, 0},
    {"SELECT $never$ closed $4", PG_CLASS_READ, 0},
    {"SELECT $99999999999999999999, $0, $70000", PG_CLASS_READ, 0},
};

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct pg_text text;
        pg_classify(slice_str(cases[i].sql), &text);
        if (text.class != cases[i].class || text.n_params != cases[i].n_params)
            fail_msg("%s: class %d, %d parameters", cases[i].sql, (int)text.class, text.n_params);
        if (text.class == PG_CLASS_REFUSED || text.class == PG_CLASS_TX)
            assert_non_null(text.advice);
        assert_int_equal(text.tx_advice != NULL, text.class == PG_CLASS_REFUSED);
    }
}

/* Every prefix of every text: the scanner must stay inside it (ASan looks). */
static void test_truncated_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t len = 0; len <= strlen(cases[i].sql); len++) {
            struct pg_text text;
            char *copy = xstrndup(cases[i].sql, len);
            pg_classify(slice_of(copy, len), &text);
            assert_in_range(text.n_params, 0, 65535);
            free(copy);
        }
}

static void test_zero_byte(void **state)
{
    (void)state;
    struct pg_text text;
    pg_classify(slice_of("SELECT\0 1", 9), &text);
    assert_int_equal(text.class, PG_CLASS_REFUSED);
}

static void test_taint(void **state)
{
    (void)state;
    struct pg_text text;
    pg_classify(SLICE("DO $$ $$"), &text);
    assert_true(text.is_tainting);
    static const char *const leaving[] = {"CREATE TEMP TABLE t (a int)",
                                          "create or replace temporary view v AS SELECT 1", "SELECT 1 AS a INTO TEMP t",
                                          "DECLARE c CURSOR WITH HOLD FOR SELECT 1"};
    static const char *const clean[] = {"CREATE TABLE t ()", "SELECT temp, hold FROM weather",
                                        "CREATE TEMP TABLE t (a int) ON COMMIT DROP", "DECLARE c CURSOR FOR SELECT 1",
                                        "INSERT INTO temp VALUES ('temp')"};
    for (size_t i = 0; i < ARRAY_LEN(leaving); i++) {
        pg_classify(slice_str(leaving[i]), &text);
        assert_true(text.is_tainting && text.session_advice);
        assert_true(text.class == PG_CLASS_EXCLUSIVE || text.class == PG_CLASS_TX);
    }
    for (size_t i = 0; i < ARRAY_LEN(clean); i++) {
        pg_classify(slice_str(clean[i]), &text);
        if (text.is_tainting || text.session_advice)
            fail_msg("%s", clean[i]);
    }
}

static void test_copy(void **state)
{
    static const struct {
        const char *sql;
        enum pg_copy_kind kind;
        bool is_plain;
    } copies[] = {
        {"COPY t FROM STDIN", PG_COPY_IN, true},
        {"copy s.t (a, \"from\") from stdin where a is not null;", PG_COPY_IN, true},
        {"COPY t FROM STDIN WITH (FORMAT csv)", PG_COPY_IN, false},
        {"COPY t FROM STDIN DELIMITER ','", PG_COPY_IN, false},
        {"/* x */ COPY (SELECT a FROM t WHERE b = ')') TO STDOUT", PG_COPY_OUT, true},
        {"COPY t TO STDOUT (FORMAT binary)", PG_COPY_OUT, false},
        {"COPY t FROM '/etc/passwd'", PG_COPY_NONE, true},
        {"COPY t TO '/tmp/x'", PG_COPY_NONE, true},
        {"COPY t FROM PROGRAM 'cat'", PG_COPY_NONE, true},
        {"COPY t FROM STDIN; DROP TABLE t", PG_COPY_NONE, true},
        {"COPY t", PG_COPY_NONE, true},
        {"COPY t; FROM STDIN", PG_COPY_NONE, true},
        {"SELECT 1 FROM stdin", PG_COPY_NONE, true},
        {"", PG_COPY_NONE, true},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(copies); i++) {
        bool is_plain;
        enum pg_copy_kind kind = pg_copy_classify(slice_str(copies[i].sql), &is_plain);
        if (kind != copies[i].kind || (kind && is_plain != copies[i].is_plain))
            fail_msg("%s: %d %d", copies[i].sql, kind, is_plain);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table), cmocka_unit_test(test_truncated_texts), cmocka_unit_test(test_zero_byte),
        cmocka_unit_test(test_copy),  cmocka_unit_test(test_taint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
