/* The head of a request: its end (parse.c) and its meaning (head.c). The dialogues in tests/wire say the same in
 * bytes over a socket; here is what they cannot see: slices, reasons, split points. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "http/head.h"
#include "http/parse.h"

static const struct http_scan_limits limits = {.max_line = 40, .max_header_bytes = 60, .max_headers = 3};

static enum status scan_all(const char *text, size_t *len, enum http_close *why)
{
    struct http_scan scan = {0};
    return http_scan_head(&scan, slice_str(text), &limits, len, why);
}

static void test_scan_finds_the_end_at_every_split(void **state)
{
    (void)state;
    const char text[] = "GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\nBODY";
    size_t head_len = sizeof text - 1 - 4;
    for (size_t split = 0; split < head_len; split++) {
        struct http_scan scan = {0};
        size_t len;
        enum http_close why;
        assert_int_equal(http_scan_head(&scan, slice_of(text, split), &limits, &len, &why), AGAIN);
        assert_int_equal(http_scan_head(&scan, slice_of(text, sizeof text - 1), &limits, &len, &why), OK);
        assert_int_equal(len, head_len);
        assert_int_equal(scan.n_lines, 3);
    }
}

static void test_scan_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum http_close why;
    } rows[] = {
        {"\x16\x03\x01", HTTP_CLOSE_BAD_LINE},
        {" GET", HTTP_CLOSE_BAD_LINE},
        {"GET / HTTP/1.1\nA: b\n\n", HTTP_CLOSE_BARE_LF},
        {"GET / HTTP/1.1\r\nA: b\n", HTTP_CLOSE_BARE_LF},
        {"GET / HTTP/1.1\r\n\n", HTTP_CLOSE_BARE_LF},
        {"GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", HTTP_CLOSE_LINE_TOO_LONG},
        {"GET /aaaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1aa\r\n", HTTP_CLOSE_LINE_TOO_LONG},
        {"GET / HTTP/1.1\r\nA: 12345678901234567890123456789012345678901234567890123456789", HTTP_CLOSE_HEADER_BYTES},
        {"GET / HTTP/1.1\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n", HTTP_CLOSE_HEADER_COUNT},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t len;
        enum http_close why = HTTP_CLOSE_NONE;
        assert_int_equal(scan_all(rows[i].text, &len, &why), ERR);
        assert_string_equal(http_close_info(why)->metric, http_close_info(rows[i].why)->metric);
    }
    size_t len;
    enum http_close why;
    assert_int_equal(scan_all("GET /aaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1a\r\n\r\n", &len, &why), OK);
    assert_int_equal(scan_all("GET / HTTP/1.1\r\nA: b\r\nA: b\r\nA: b\r\n\r\n", &len, &why), OK);
}

static struct http_header headers[8];

static enum status parse(const char *text, struct http_head *head, enum http_close *why)
{
    head->headers = headers;
    return http_head_parse(slice_str(text), head, why);
}

static void test_request_is_read(void **state)
{
    (void)state;
    struct http_head head;
    enum http_close why;
    assert_int_equal(parse("POST /a/b?c=d?e HTTP/1.1\r\nHOST:shop:80\r\nX-A: \t b c \t\r\nX_B: no\r\nContent-Length: "
                           "42\r\nExpect: 100-continue\r\nX-Request-Id: q\r\n\r\n",
                           &head, &why),
                     OK);
    assert_int_equal(head.method, HTTP_POST);
    assert_true(slice_eq(head.target, SLICE("/a/b?c=d?e")));
    assert_true(slice_eq(head.path, SLICE("/a/b")));
    assert_true(slice_eq(head.query, SLICE("c=d?e")));
    assert_true(slice_eq(head.host, SLICE("shop:80")));
    assert_true(slice_eq(head.request_id, SLICE("q")));
    assert_int_equal(head.n_headers, 5); /* without X_B */
    assert_true(slice_eq(head.headers[1].name, SLICE("X-A")));
    assert_true(slice_eq(head.headers[1].value, SLICE("b c")));
    assert_int_equal(head.content_length, 42);
    assert_true(head.has_length && head.keep_alive && head.expects_continue && !head.is_chunked && !head.is_http10);
}

static void test_keep_alive(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool keep_alive;
    } rows[] = {
        {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},
        {"GET / HTTP/1.1\r\nHost: x\r\nConnection: a,\tCLOSE ,b\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: x\r\nConnection: closed\r\n\r\n", true},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true},
        {"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct http_head head;
        enum http_close why;
        assert_int_equal(parse(rows[i].text, &head, &why), OK);
        assert_int_equal(head.keep_alive, rows[i].keep_alive);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum http_close why;
    } rows[] = {
        {"GET / HTTP/1.1\r\n\r\n", HTTP_CLOSE_HOST_MISSING},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HTTP_CLOSE_HOST_REPEATED},
        {"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", HTTP_CLOSE_BAD_HOST},
        {"GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", HTTP_CLOSE_BAD_HOST},
        {"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", HTTP_CLOSE_BAD_HOST},
        {"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", HTTP_CLOSE_BAD_HOST},
        {"GET / HTTP/1.1\r\nHost: []\r\n\r\n", HTTP_CLOSE_BAD_HOST},
        {"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_CLOSE_BAD_TARGET},
        {"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_CLOSE_BAD_TARGET},
        {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_CLOSE_BAD_TARGET},
        {"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_CLOSE_BAD_TARGET},
        {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", HTTP_CLOSE_BAD_LINE},
        {"GET / HTTP/1.\r\nHost: a\r\n\r\n", HTTP_CLOSE_BAD_LINE},
        {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", HTTP_CLOSE_VERSION},
        {"FETCH / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_CLOSE_METHOD},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
         HTTP_CLOSE_TWO_LENGTHS},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\n", HTTP_CLOSE_BAD_LENGTH},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", HTTP_CLOSE_BAD_CODING},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br\r\n\r\n", HTTP_CLOSE_UNKNOWN_CODING},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_CLOSE_BAD_CODING},
        {"GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", HTTP_CLOSE_EXPECTATION},
        {"GET / HTTP/1.1\r\nHost: a\r\n\tfold: x\r\n\r\n", HTTP_CLOSE_FOLDED_HEADER},
        {"GET / HTTP/1.1\r\nHost: a\r\nA\x01: x\r\n\r\n", HTTP_CLOSE_BAD_HEADER},
        {"GET / HTTP/1.1\r\nHost: a\r\nA: x\ry\r\n\r\n", HTTP_CLOSE_BAD_HEADER},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct http_head head;
        enum http_close why = HTTP_CLOSE_NONE;
        assert_int_equal(parse(rows[i].text, &head, &why), ERR);
        if (why != rows[i].why)
            fail_msg("%s: %s", rows[i].text, http_close_info(why)->metric);
    }
}

static void test_second_opinion(void **state)
{
    (void)state;
    struct slice block = SLICE("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    struct http_framing same = {.method = SLICE("POST"), .has_length = true, .content_length = 5};
    assert_true(http_parse_agrees(block, &same));
    struct http_framing other = same;
    other.method = SLICE("PUT");
    assert_false(http_parse_agrees(block, &other));
    other = same;
    other.content_length = 6;
    assert_false(http_parse_agrees(block, &other));
    other = same;
    other.has_length = false;
    assert_false(http_parse_agrees(block, &other));
    other = same;
    other.is_chunked = true;
    assert_false(http_parse_agrees(block, &other));
    other = same;
    other.is_http10 = true;
    assert_false(http_parse_agrees(block, &other));
    assert_false(http_parse_agrees(slice_of(block.ptr, block.len - 2), &same));
    assert_false(http_parse_agrees(SLICE("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nx"), &same));
}

static void test_every_close_reason_is_complete(void **state)
{
    (void)state;
    for (int why = HTTP_CLOSE_NONE + 1; why < HTTP_N_CLOSES; why++) {
        const struct http_close_info *info = http_close_info((enum http_close)why);
        assert_true(strlen(info->metric) > 0 && strlen(info->text) > 0);
        assert_int_equal(info->status != 0, strlen(info->code) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scan_finds_the_end_at_every_split),
        cmocka_unit_test(test_scan_refuses),
        cmocka_unit_test(test_request_is_read),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_second_opinion),
        cmocka_unit_test(test_every_close_reason_is_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
