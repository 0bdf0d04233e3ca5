#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "http/response.h"
#include "http/response_head.h"

/* Written into exactly as much memory as http_response_head_max asks for: ASan sees what goes beyond. */
static void check(const struct http_response_head *head, const char *expected)
{
    char *out = xalloc(http_response_head_max(head));
    struct slice text = slice_of(out, http_response_head_write(head, out));
    assert_true(text.len <= http_response_head_max(head));
    if (!slice_eq(text, slice_str(expected)))
        fail_msg("%.*s", SLICE_FMT(text));
    free(out);
}

static void test_heads(void **state)
{
    (void)state;
    struct http_header headers[] = {{SLICE("Location"), SLICE("/x")},
                                    {SLICE("DATE"), SLICE("no")},
                                    {SLICE("X-Empty"), SLICE("")},
                                    {SLICE("connection"), SLICE("no")},
                                    {SLICE("Keep-Alive"), SLICE("9")}};
    struct http_response_head head = {
        .status = 201,
        .framing = HTTP_BODY_LENGTH,
        .length = UINT64_MAX,
        .content_type = SLICE("application/json"),
        .date_line = SLICE("Date: D\r\n"),
        .id = SLICE("i-1"),
        .says_close = true,
        .says_keep_alive = true,
        .headers = headers,
        .n_headers = ARRAY_LEN(headers),
    };
    check(&head, "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: "
                 "18446744073709551615\r\nDate: D\r\nX-Request-Id: i-1\r\nConnection: close\r\nLocation: "
                 "/x\r\nX-Empty: \r\n\r\n");
    head = (struct http_response_head){
        .status = 204, .date_line = SLICE("Date: D\r\n"), .id = SLICE("i"), .says_keep_alive = true};
    check(&head, "HTTP/1.1 204 No Content\r\nDate: D\r\nX-Request-Id: i\r\nConnection: keep-alive\r\n\r\n");
    head = (struct http_response_head){.status = 799, .framing = HTTP_BODY_CHUNKED, .id = SLICE("i")};
    head.date_line = SLICE("");
    check(&head, "HTTP/1.1 799 Unknown\r\nTransfer-Encoding: chunked\r\nX-Request-Id: i\r\n\r\n");
}

static void test_reasons(void **state)
{
    (void)state;
    assert_string_equal(http_reason(404), "Not Found");
    assert_string_equal(http_reason(503), "Service Unavailable");
    assert_string_equal(http_reason(299), "Unknown");
    assert_string_equal(http_reason(418), "I'm a teapot");
    assert_true(http_status_has_body(200) && !http_status_has_body(204) && !http_status_has_body(304));
}

static void test_safe_headers(void **state)
{
    (void)state;
    assert_true(http_header_is_safe(SLICE("X-A_b.c"), SLICE("any text \t caf\xc3\xa9")));
    assert_true(http_header_is_safe(SLICE("A"), SLICE("")));
    assert_false(http_header_is_safe(SLICE(""), SLICE("v")));
    assert_false(http_header_is_safe(SLICE("A b"), SLICE("v")));
    assert_false(http_header_is_safe(SLICE("A:"), SLICE("v")));
    assert_false(http_header_is_safe(SLICE("A\r\n"), SLICE("v")));
    assert_false(http_header_is_safe(SLICE("A"), SLICE("v\r\nSet-Cookie: x")));
    assert_false(http_header_is_safe(SLICE("A"), SLICE("v\n")));
    assert_false(http_header_is_safe(SLICE("A"), SLICE("a\0b")));
    assert_false(http_header_is_safe(SLICE("A"), SLICE("\x7f")));
}

static void test_methods(void **state)
{
    (void)state;
    for (int m = 0; m < HTTP_N_METHODS; m++) {
        enum http_method method;
        assert_true(http_method_parse(slice_str(http_method_name((enum http_method)m)), &method));
        assert_int_equal(method, m);
    }
    enum http_method method = HTTP_PUT;
    const char *bad[] = {"", "get", "GE", "GETS", "CONNECT", "TRACE", "SOURCE"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(http_method_parse(slice_str(bad[i]), &method));
    assert_int_equal(method, HTTP_PUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_safe_headers),
        cmocka_unit_test(test_methods),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
