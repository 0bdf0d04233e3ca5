#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

static void test_set(void **state)
{
    (void)state;
    struct err err = {.sqlstate = "40001", .detail = "old"};
    assert_int_equal(err_set(&err, ERR_INVALID, "bad %s %d", "thing", 7), ERR);
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.message, "bad thing 7");
    assert_string_equal(err.sqlstate, "");
    assert_string_equal(err.detail, "");
    assert_int_equal(err_set(NULL, ERR_INVALID, "nobody listens"), ERR);
    assert_int_equal(err_prefix(NULL, "nobody"), ERR);
    assert_int_equal(err_errno(NULL, ENOENT, "nobody"), ERR);
}

static void test_own_message_as_argument(void **state)
{
    (void)state;
    struct err err;
    err_set(&err, ERR_TIMEOUT, "inner");
    err_set(&err, ERR_UNAVAILABLE, "outer: %s", err.message);
    assert_string_equal(err.message, "outer: inner");
}

static void test_prefix_keeps_the_rest(void **state)
{
    (void)state;
    struct err err;
    err_set(&err, ERR_PG, "duplicate key");
    strcpy(err.sqlstate, "23505");
    strcpy(err.detail, "Key (sku)=(A) already exists.");
    assert_int_equal(err_prefix(&err, "order %d", 5), ERR);
    assert_string_equal(err.message, "order 5: duplicate key");
    assert_int_equal(err.code, ERR_PG);
    assert_string_equal(err.sqlstate, "23505");
    assert_string_equal(err.detail, "Key (sku)=(A) already exists.");
}

static void test_errno(void **state)
{
    (void)state;
    struct err err;
    err_errno(&err, ENOENT, "open %s", "/x");
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_string_equal(err.message, "open /x: No such file or directory");
}

/* Every length of prefix moves a three-byte character over the end: it is there whole or not at all. */
static void test_cut_at_a_character(void **state)
{
    (void)state;
    char text[600];
    for (size_t pad = 0; pad < 8; pad++) {
        struct err err;
        size_t len = pad;
        memset(text, 'x', pad);
        while (len + 3 < sizeof text - 1) {
            memcpy(text + len, "\xE0\xA4\xB9", 3);
            len += 3;
        }
        text[len] = '\0';
        err_set(&err, ERR_INVALID, "%s", text);
        size_t got = strlen(err.message);
        assert_in_range(got, sizeof err.message - 3, sizeof err.message - 1);
        assert_int_equal((got - pad) % 3, 0);
        err_prefix(&err, "p");
        got = strlen(err.message);
        assert_in_range(got, sizeof err.message - 3, sizeof err.message - 1);
        assert_int_equal((got - pad - 3) % 3, 0);
    }
}

static void test_long_prefix(void **state)
{
    (void)state;
    struct err err;
    err_set(&err, ERR_INVALID, "inner");
    err_prefix(&err, "%500s", "x");
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    err_errno(&err, ENOENT, "%382s", "x");
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_int_equal(err.message[sizeof err.message - 2], ':');
}

static struct err pg_err(const char *sqlstate)
{
    struct err err;
    err_set(&err, ERR_PG, "from PostgreSQL");
    strcpy(err.sqlstate, sqlstate);
    return err;
}

static void test_table(void **state)
{
    (void)state;
    static const struct {
        enum err_code code;
        const char *name;
        bool is_retryable;
        int http_status;
    } rows[] = {
        {ERR_UNAVAILABLE, "unavailable", true, 503},
        {ERR_QUEUE_FULL, "queue_full", true, 503},
        {ERR_DEADLINE, "deadline", true, 503},
        {ERR_TIMEOUT, "timeout", true, 503},
        {ERR_OUTCOME_UNKNOWN, "outcome_unknown", false, 503},
        {ERR_COMMIT_UNKNOWN, "commit_unknown", false, 503},
        {ERR_BAD_SIGNATURE, "bad_signature", false, 400},
        {ERR_PG, "pg_error", false, 500},
        {ERR_INVALID, "invalid", false, 500},
        {ERR_SYSTEM, "system", false, 500},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err err;
        err_set(&err, rows[i].code, "x");
        assert_string_equal(err_code_name(rows[i].code), rows[i].name);
        assert_int_equal(err_is_retryable(&err), rows[i].is_retryable);
        assert_int_equal(err_http_status(&err), rows[i].http_status);
    }
    assert_string_equal(err_code_name(ERR_NONE), "none");
    for (int code = 0; code < ERR_N_CODES; code++)
        assert_true(strlen(err_code_name((enum err_code)code)) > 0);
}

static void test_sqlstates(void **state)
{
    (void)state;
    static const struct {
        const char *sqlstate;
        bool is_retryable;
        int http_status;
    } rows[] = {
        {"40001", true, 500},  {"40P01", true, 500},  {"55P03", true, 503}, {"23505", false, 409},
        {"23P01", false, 409}, {"42601", false, 500}, {"", false, 500},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err err = pg_err(rows[i].sqlstate);
        assert_int_equal(err_is_retryable(&err), rows[i].is_retryable);
        assert_int_equal(err_http_status(&err), rows[i].http_status);
    }
    struct err unknown = pg_err("23505"); /* a SQLSTATE beside another code does not refine it */
    unknown.code = ERR_OUTCOME_UNKNOWN;
    assert_int_equal(err_http_status(&unknown), 503);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_own_message_as_argument),
        cmocka_unit_test(test_prefix_keeps_the_rest),
        cmocka_unit_test(test_errno),
        cmocka_unit_test(test_cut_at_a_character),
        cmocka_unit_test(test_long_prefix),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_sqlstates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
