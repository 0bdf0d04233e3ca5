/* Where a statement of a migration ends, and on which line it begins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "services/sql_split.h"

struct expected {
    int line;
    const char *text;
};

static void check(const char *sql, const struct expected *expected)
{
    struct sql_split split = {.rest = slice_str(sql)};
    struct sql_statement got;
    for (; expected->text; expected++) {
        if (!sql_split_next(&split, &got))
            fail_msg("no statement where expected: %s", expected->text);
        if (!slice_eq(got.text, slice_str(expected->text)))
            fail_msg("expected <%s>, got <%.*s>", expected->text, SLICE_FMT(got.text));
        assert_int_equal(got.line, expected->line);
    }
    if (sql_split_next(&split, &got))
        fail_msg("one statement too many: <%.*s>", SLICE_FMT(got.text));
}

#define CHECK_SPLIT(sql, ...) check(sql, (const struct expected[]){__VA_ARGS__, {0, NULL}})

static void splits_and_counts_lines(void **state)
{
    (void)state;
    CHECK_SPLIT("SELECT 1;\n\nSELECT\n 2;SELECT 3", {1, "SELECT 1"}, {3, "SELECT\n 2"}, {4, "SELECT 3"});
    CHECK_SPLIT("-- head; er\n/* a; /* nested; */ b; */\n;;\n  SELECT 1 -- tail; er\n;\n",
                {4, "SELECT 1 -- tail; er\n"});
    CHECK_SPLIT("\xef\xbb\xbfSELECT 1;\r\nSELECT 2;\r\n", {1, "SELECT 1"}, {2, "SELECT 2"});
    check("  -- nothing\n ;\n", (const struct expected[]){{0, NULL}});
    check("", (const struct expected[]){{0, NULL}});
}

static void respects_quotes(void **state)
{
    (void)state;
    CHECK_SPLIT("SELECT 'a;''b;', \"x;\"\"y\"; SELECT 2", {1, "SELECT 'a;''b;', \"x;\"\"y\""}, {1, "SELECT 2"});
    CHECK_SPLIT("SELECT E'it\\'s; ok'; SELECT 'back\\'; SELECT 3", {1, "SELECT E'it\\'s; ok'"}, {1, "SELECT 'back\\'"},
                {1, "SELECT 3"});
    CHECK_SPLIT("SELECT E'a'\n'\\'; b' ; X", {1, "SELECT E'a'\n'\\'; b' "}, {2, "X"}); /* goes on in the next line */
    CHECK_SPLIT("SELECT E'a''b\\';c'; X", {1, "SELECT E'a''b\\';c'"}, {1, "X"});
    CHECK_SPLIT("SELECT '--'; SELECT '/*'; SELECT 3", {1, "SELECT '--'"}, {1, "SELECT '/*'"}, {1, "SELECT 3"});
}

static void respects_dollar_quotes(void **state)
{
    (void)state;
    CHECK_SPLIT("DO $$ BEGIN\n NULL; END $$;\nSELECT 2", {1, "DO $$ BEGIN\n NULL; END $$"}, {3, "SELECT 2"});
    CHECK_SPLIT("DO $a$ x; $b$ ; $$ ; $a$; SELECT $1; SELECT a$b$c;", {1, "DO $a$ x; $b$ ; $$ ; $a$"}, {1, "SELECT $1"},
                {1, "SELECT a$b$c"});
    CHECK_SPLIT("DO $open$ never; closed", {1, "DO $open$ never; closed"});
}

static void respects_bodies(void **state)
{
    (void)state;
    CHECK_SPLIT("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);SELECT 3",
                {1, "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)"}, {1, "SELECT 3"});
    CHECK_SPLIT(
        "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;"
        "SELECT 3",
        {1, "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; "
            "END"},
        {1, "SELECT 3"});
    CHECK_SPLIT("BEGIN; SELECT 1; END;", {1, "BEGIN"}, {1, "SELECT 1"}, {1, "END"});
}

static void names_the_first_word(void **state)
{
    (void)state;
    struct sql_split split = {.rest = SLICE("/* x */ create table t(); 'odd")};
    struct sql_statement got;
    assert_true(sql_split_next(&split, &got));
    assert_true(slice_eq(got.keyword, SLICE("create")));
    assert_true(sql_split_next(&split, &got));
    assert_int_equal(got.keyword.len, 0);
    assert_true(slice_eq(got.text, SLICE("'odd")));
}

/* Every prefix of a file with everything in it comes to an end inside its bounds. */
static void survives_truncation(void **state)
{
    (void)state;
    static const char sql[] = "/* a /* b */ */ CREATE FUNCTION f() AS $x$ ';' $x$; SELECT E'\\'', \"q\"\"\" -- c\n; $1";
    for (size_t len = 0; len < sizeof sql; len++) {
        char *copy = xstrndup(sql, len);
        struct sql_split split = {.rest = slice_of(copy, len)};
        struct sql_statement got;
        int n = 0;
        while (sql_split_next(&split, &got))
            assert_true(++n < 10);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_and_counts_lines), cmocka_unit_test(respects_quotes),
        cmocka_unit_test(respects_dollar_quotes),  cmocka_unit_test(respects_bodies),
        cmocka_unit_test(names_the_first_word),    cmocka_unit_test(survives_truncation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
