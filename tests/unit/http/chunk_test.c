#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/buf.h"
#include "http/chunk.h"

static const struct http_chunk_limits limits = {.max_extension_bytes = 20, .max_trailer_bytes = 30};

struct result {
    enum status status;
    enum http_close why;
    struct buf body;
    size_t left;
    bool is_done;
};

/* Feeds `text` in pieces of `step` bytes. */
static struct result feed(struct slice text, size_t step)
{
    struct http_chunk_reader reader = {0};
    struct result result = {.status = AGAIN};
    for (size_t at = 0; at < text.len && result.status != ERR && !http_chunk_is_done(&reader); at += step) {
        size_t n = step < text.len - at ? step : text.len - at;
        struct slice in = slice_of(text.ptr + at, n), data;
        do {
            result.status = http_chunk_read(&reader, &limits, &in, &data, &result.why);
            if (result.status == OK)
                buf_slice(&result.body, data);
        } while (result.status == OK && !http_chunk_is_done(&reader));
        result.left = text.len - at - n + in.len;
    }
    result.is_done = http_chunk_is_done(&reader);
    return result;
}

static void test_whole_body_at_every_step(void **state)
{
    (void)state;
    struct slice text = SLICE("5\r\nhello\r\n00A;n=\"v\"\r\n, wide wor\r\n2;x\r\nld\r\n0;y\r\nA: b\r\nC:\r\n\r\nNEXT");
    for (size_t step = 1; step <= text.len; step++) {
        struct result result = feed(text, step);
        assert_int_equal(result.status, OK);
        assert_true(result.is_done);
        assert_true(slice_eq(buf_as_slice(&result.body), SLICE("hello, wide world")));
        if (step == 1 || step == text.len)
            assert_int_equal(result.left, 4); /* what follows is not touched */
        buf_free(&result.body);
    }
}

static void test_truncated_is_never_done(void **state)
{
    (void)state;
    struct slice text = SLICE("3\r\nabc\r\n0\r\nA: b\r\n\r\n");
    for (size_t len = 0; len < text.len; len++) {
        struct result result = feed(slice_of(text.ptr, len), 7);
        assert_int_equal(result.status, AGAIN);
        assert_false(result.is_done);
        buf_free(&result.body);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        struct slice text;
        enum http_close why;
    } rows[] = {
        {{"\r\n", 2}, HTTP_CLOSE_BAD_CHUNK},
        {{";a\r\n", 4}, HTTP_CLOSE_BAD_CHUNK},
        {{"g\r\n", 3}, HTTP_CLOSE_BAD_CHUNK},
        {{"0x5\r\n", 5}, HTTP_CLOSE_BAD_CHUNK},
        {{"+5\r\n", 4}, HTTP_CLOSE_BAD_CHUNK},
        {{" 5\r\n", 4}, HTTP_CLOSE_BAD_CHUNK},
        {{"5 \r\n", 4}, HTTP_CLOSE_BAD_CHUNK},
        {{"5\n", 2}, HTTP_CLOSE_BAD_CHUNK},
        {{"5\rx", 3}, HTTP_CLOSE_BAD_CHUNK},
        {{"1\r\nabc", 6}, HTTP_CLOSE_BAD_CHUNK},
        {{"1\r\na\n", 5}, HTTP_CLOSE_BAD_CHUNK},
        {{"1\r\na\rb", 6}, HTTP_CLOSE_BAD_CHUNK},
        {{"1;a\nb", 5}, HTTP_CLOSE_BAD_CHUNK},
        {{"1;a\0\r\n", 6}, HTTP_CLOSE_BAD_CHUNK},
        {{"0000000000000001\r\n", 18}, HTTP_CLOSE_BAD_CHUNK},
        {{"1;12345678901234567890123\r\n", 27}, HTTP_CLOSE_EXTENSION_BYTES},
        {{"0\r\n: b\r\n", 8}, HTTP_CLOSE_BAD_HEADER},
        {{"0\r\n A: b\r\n", 10}, HTTP_CLOSE_BAD_HEADER},
        {{"0\r\nA : b\r\n", 10}, HTTP_CLOSE_BAD_HEADER},
        {{"0\r\nAb\r\n", 7}, HTTP_CLOSE_BAD_HEADER},
        {{"0\r\nA: b\n", 8}, HTTP_CLOSE_BAD_HEADER},
        {{"0\r\nA: b\rc", 9}, HTTP_CLOSE_BAD_CHUNK},
        {{"0\r\n\rx", 5}, HTTP_CLOSE_BAD_CHUNK},
        {{"0\r\nA: 1234567890\r\nB: 1234567890\r\nC: d\r\n", 39}, HTTP_CLOSE_TRAILER_BYTES},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (size_t step = 1; step < 8; step += 3) {
            struct result result = feed(rows[i].text, step);
            assert_int_equal(result.status, ERR);
            if (result.why != rows[i].why)
                fail_msg("%.*s: %s", SLICE_FMT(rows[i].text), http_close_info(result.why)->metric);
            buf_free(&result.body);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_body_at_every_step),
        cmocka_unit_test(test_truncated_is_never_done),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
