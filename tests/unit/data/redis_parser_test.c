/* Values out of bytes: each RESP2 type, nesting, and the same answer however the bytes are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "data/redis_parser.h"

static struct redis_parser *parser;
static struct err err;

static int setup(void **state)
{
    (void)state;
    parser = redis_parser_new();
    err = (struct err){0};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    redis_parser_free(parser);
    return arena_live() == 0 ? 0 : -1;
}

static void feed(const char *bytes)
{
    assert_int_equal(redis_parser_feed(parser, slice_str(bytes), &err), OK);
}

static const struct redis_value *next(void)
{
    const struct redis_value *value;
    assert_int_equal(redis_parser_next(parser, &value, &err), OK);
    return value;
}

static void assert_none(void)
{
    const struct redis_value *value;
    assert_int_equal(redis_parser_next(parser, &value, &err), AGAIN);
    assert_null(value);
}

static void assert_text(const struct redis_value *value, enum redis_type type, const char *text)
{
    assert_int_equal(value->type, type);
    assert_int_equal(value->str.len, strlen(text));
    assert_memory_equal(value->str.ptr, text, value->str.len);
}

static void reads_each_type(void **state)
{
    (void)state;
    feed("+OK\r\n-ERR no\r\n:-42\r\n$5\r\nhello\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n:9223372036854775807\r\n");
    assert_text(next(), REDIS_STATUS, "OK");
    assert_text(next(), REDIS_ERROR, "ERR no");
    const struct redis_value *value = next();
    assert_int_equal(value->type, REDIS_INTEGER);
    assert_true(value->integer == -42);
    assert_text(next(), REDIS_STRING, "hello");
    assert_text(next(), REDIS_STRING, "");
    assert_int_equal(next()->type, REDIS_NIL);
    assert_int_equal(next()->type, REDIS_NIL);
    value = next();
    assert_int_equal(value->type, REDIS_ARRAY);
    assert_int_equal(value->n_items, 0);
    assert_true(next()->integer == INT64_MAX);
    assert_none();
}

static void keeps_bytes_exact(void **state)
{
    (void)state;
    assert_int_equal(redis_parser_feed(parser,
                                       slice_of("$6\r\na\0\r\n\xff"
                                                "b\r\n",
                                                12),
                                       &err),
                     OK);
    const struct redis_value *value = next();
    assert_int_equal(value->str.len, 6);
    assert_memory_equal(value->str.ptr,
                        "a\0\r\n\xff"
                        "b",
                        6);
}

static const char nested[] = "*4\r\n$1\r\na\r\n*3\r\n:1\r\n$-1\r\n*2\r\n+x\r\n-E y\r\n*0\r\n:7\r\n+NEXT\r\n";

static void assert_nested(const struct redis_value *value)
{
    assert_int_equal(value->type, REDIS_ARRAY);
    assert_int_equal(value->n_items, 4);
    assert_text(&value->items[0], REDIS_STRING, "a");
    const struct redis_value *inner = &value->items[1];
    assert_int_equal(inner->n_items, 3);
    assert_true(inner->items[0].integer == 1);
    assert_int_equal(inner->items[1].type, REDIS_NIL);
    assert_text(&inner->items[2].items[0], REDIS_STATUS, "x");
    assert_text(&inner->items[2].items[1], REDIS_ERROR, "E y");
    assert_int_equal(value->items[2].n_items, 0);
    assert_true(value->items[3].integer == 7);
}

static void is_indifferent_to_cuts(void **state)
{
    (void)state;
    for (size_t cut = 0; cut <= sizeof nested - 1; cut++) {
        const struct redis_value *value;
        assert_int_equal(redis_parser_feed(parser, slice_of(nested, cut), &err), OK);
        bool early = redis_parser_next(parser, &value, &err) == OK;
        if (early)
            assert_nested(value);
        redis_parser_reset(parser);
        assert_int_equal(redis_parser_feed(parser, slice_of(nested + cut, sizeof nested - 1 - cut), &err), OK);
        if (!early)
            assert_nested(next());
        redis_parser_reset(parser);
        assert_text(next(), REDIS_STATUS, "NEXT");
        assert_none();
    }
}

static void reads_byte_by_byte(void **state)
{
    (void)state;
    int n_values = 0;
    for (size_t i = 0; i < sizeof nested - 1; i++) {
        const struct redis_value *value;
        assert_int_equal(redis_parser_feed(parser, slice_of(nested + i, 1), &err), OK);
        if (redis_parser_next(parser, &value, &err) != OK) {
            redis_parser_reset(parser);
            continue;
        }
        if (n_values++ == 0)
            assert_nested(value);
        else
            assert_text(value, REDIS_STATUS, "NEXT");
        redis_parser_reset(parser);
    }
    assert_int_equal(n_values, 2);
}

/* The reader moves its buffer after a reply: the values must not live in it. */
static void survives_the_readers_buffer(void **state)
{
    (void)state;
    enum { LEN = 40000 };
    static char big[LEN + 64];
    int head = sprintf(big, "$%d\r\n", LEN);
    memset(big + head, 'q', LEN);
    memcpy(big + head + LEN, "\r\n+A\r\n+B\r\n", 11);
    feed(big);
    const struct redis_value *first = next(), *second = next(), *third = next();
    assert_int_equal(first->str.len, LEN);
    for (size_t i = 0; i < LEN; i++)
        assert_int_equal(first->str.ptr[i], 'q');
    assert_text(second, REDIS_STATUS, "A");
    assert_text(third, REDIS_STATUS, "B");
}

static void assert_broken(const char *bytes, const char *says)
{
    const struct redis_value *value;
    struct redis_parser *p = redis_parser_new();
    struct err e = {0};
    enum status status = redis_parser_feed(p, slice_str(bytes), &e);
    if (status == OK)
        status = redis_parser_next(p, &value, &e);
    assert_int_equal(status, ERR);
    assert_non_null(strstr(e.message, says));
    assert_int_equal(redis_parser_feed(p, SLICE("+OK\r\n"), &e), ERR); /* sticky */
    assert_int_equal(redis_parser_next(p, &value, &e), ERR);
    redis_parser_free(p);
}

static void refuses_what_is_not_resp(void **state)
{
    (void)state;
    assert_broken("HTTP/1.1 400 Bad Request\r\n", "not RESP");
    assert_broken("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", "not RESP");
}

static void refuses_what_is_too_large(void **state)
{
    (void)state;
    assert_broken("*2147483647\r\n", "larger than");
    static char block[1 << 20];
    memset(block, 'z', sizeof block);
    feed("$2000000000\r\n");
    enum status status = OK;
    for (int i = 0; i < 80 && status == OK; i++)
        status = redis_parser_feed(parser, slice_of(block, sizeof block), &err);
    assert_int_equal(status, ERR);
    assert_non_null(strstr(err.message, "larger than"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_each_type, setup, teardown),
        cmocka_unit_test_setup_teardown(keeps_bytes_exact, setup, teardown),
        cmocka_unit_test_setup_teardown(is_indifferent_to_cuts, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_byte_by_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(survives_the_readers_buffer, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_what_is_not_resp, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_what_is_too_large, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
