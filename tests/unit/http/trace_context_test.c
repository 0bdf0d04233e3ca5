#include "http/trace_context.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "http/request.h"

#define GOOD "00-12345678901234567890123456789012-1234567890123456-01"

/* The cases of the W3C's own test suite. */
static void test_parse(void **state UNUSED)
{
    static const char *const good[] = {GOOD, "cc-12345678901234567890123456789012-1234567890123456-01",
                                       "cc-12345678901234567890123456789012-1234567890123456-01-what-the-future",
                                       " \t" GOOD " \t", "00-12345678901234567890123456789012-1234567890123456-00"};
    static const char *const bad[] = {"",
                                      "00",
                                      GOOD ".",
                                      GOOD "-what-the-future",
                                      "cc-12345678901234567890123456789012-1234567890123456-01.what-the-future",
                                      "ff-12345678901234567890123456789012-1234567890123456-01",
                                      ".0-12345678901234567890123456789012-1234567890123456-01",
                                      "00-1234567890123456789012345678901-1234567890123456-01",
                                      "00-123456789012345678901234567890123-1234567890123456-01",
                                      "00-12345678901234567890123456789012-123456789012345-01",
                                      "00-12345678901234567890123456789012-12345678901234567-01",
                                      "00-12345678901234567890123456789012-1234567890123456-001",
                                      "00-12345678901234567890123456789012-1234567890123456-1",
                                      "00-12345678901234567890123456789012-1234567890123456-.0",
                                      "00-1234567890123456789012345678901A-1234567890123456-01",
                                      "00-00000000000000000000000000000000-1234567890123456-01",
                                      "00-12345678901234567890123456789012-0000000000000000-01"};
    struct trace_context context;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        if (!trace_context_parse(slice_str(good[i]), &context))
            fail_msg("refused: %s", good[i]);
    assert_false(context.is_sampled);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (trace_context_parse(slice_str(bad[i]), &context))
            fail_msg("taken: %s", bad[i]);
}

static void test_child(void **state UNUSED)
{
    struct trace_context context, again;
    char one[TRACE_PARENT_LEN + 1], two[TRACE_PARENT_LEN + 1];
    assert_true(trace_context_parse(SLICE("00-12345678901234567890123456789012-1234567890123456-ff"), &context));
    trace_context_child(&context, one);
    trace_context_child(&context, two);
    assert_string_not_equal(one, two);
    assert_memory_equal(one, GOOD, 36);
    assert_string_equal(one + 52, "-01"); /* flags it does not know are dropped */
    assert_true(trace_context_parse(slice_str(one), &again));
    assert_string_equal(again.trace_id, context.trace_id);
}

static void test_several_are_none(void **state UNUSED)
{
    const struct http_header headers[] = {{SLICE("TraceParent"), SLICE(GOOD)}, {SLICE("traceparent"), SLICE(GOOD)}};
    struct http_request req = {.magic = HTTP_REQUEST_MAGIC, .headers = headers, .n_headers = 1};
    struct trace_context context;
    assert_true(trace_context_of(&req, &context));
    req.n_headers = 2;
    assert_false(trace_context_of(&req, &context));
    req.n_headers = 0;
    assert_false(trace_context_of(&req, &context));
    assert_ptr_equal(http_request_of(&req), &req);
    req.magic = 1;
    assert_null(http_request_of(&req));
    assert_null(http_request_of(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_child),
        cmocka_unit_test(test_several_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
