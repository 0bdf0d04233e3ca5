#include "data/curl_url.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

static void good(const char *text, const char *host, const char *origin)
{
    struct curl_url url;
    struct err err = {0};
    if (curl_url_parse(slice_str(text), &url, &err) != OK)
        fail_msg("%s: %s", text, err.message);
    assert_string_equal(url.host, host);
    assert_string_equal(url.origin, origin);
    curl_url_free(&url);
}

static void test_parts(void **state UNUSED)
{
    good("https://API.example.com/v1?a=b", "api.example.com", "https://api.example.com:443");
    good("http://example.com", "example.com", "http://example.com:80");
    good("http://example.com:8080/#x", "example.com", "http://example.com:8080");
    good("http://[2001:DB8::1]:80/", "2001:db8::1", "http://2001:db8::1:80");
    good("http://0x7f.1/", "127.0.0.1", "http://127.0.0.1:80"); /* as curl will connect */
    good("http://2130706433/", "127.0.0.1", "http://127.0.0.1:80");
    good("http://example.com/a@b:c", "example.com", "http://example.com:80");
}

static void test_refused(void **state UNUSED)
{
    static const char *const bad[] = {"",
                                      "example.com/x",
                                      "//example.com/",
                                      "/path",
                                      "ftp://example.com/",
                                      "file:///etc/passwd",
                                      "gopher://x/",
                                      "http://",

                                      "http://user@example.com/",
                                      "http://u:p@example.com/",
                                      "http://example.com:0/",
                                      "http://example.com:65536/",
                                      "http://example.com/a b",
                                      "http://example.com/\r\nX: y",
                                      "http://exa\tmple.com/",
                                      "http://[fe80::1%25eth0]/",
                                      "http://a%00b/",
                                      "javascript:alert(1)",
                                      "http://example.com\\@evil.test/"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct curl_url url;
        struct err err = {0};
        if (curl_url_parse(slice_str(bad[i]), &url, &err) == OK)
            fail_msg("taken: %s as %s", bad[i], url.origin);
        assert_int_equal(err.code, ERR_INVALID);
    }
    char *longest = xalloc(CURL_URL_MAX + 2);
    struct curl_url url;
    memset(longest, 'x', CURL_URL_MAX + 1);
    memcpy(longest, "http://x/", 9);
    assert_int_equal(curl_url_parse(slice_of(longest, CURL_URL_MAX), &url, NULL), OK);
    curl_url_free(&url);
    assert_int_equal(curl_url_parse(slice_of(longest, CURL_URL_MAX + 1), &url, NULL), ERR);
    free(longest);
    struct err err = {0};
    assert_int_equal(curl_url_parse(slice_str("example.com/x"), &url, &err), ERR);
    assert_non_null(strstr(err.message, "it must begin with http:// or https://"));
}

static void test_follow(void **state UNUSED)
{
    static const struct {
        const char *from, *location, *origin; /* NULL: refused */
    } rows[] = {{"http://a.test/x/y", "z", "http://a.test:80"},
                {"http://a.test/x", "/z?q", "http://a.test:80"},
                {"http://a.test/x", "//b.test/z", "http://b.test:80"},
                {"http://a.test/x", "https://b.test:444/z", "https://b.test:444"},
                {"https://a.test/x", "//b.test/z", "https://b.test:443"},
                {"https://a.test/x", "http://a.test/z", NULL},
                {"http://a.test/x", "file:///etc/passwd", NULL},
                {"http://a.test/x", "http://u:p@b.test/", NULL},
                {"http://a.test/x", "/a b", NULL}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct curl_url from, to;
        struct err err = {0};
        assert_int_equal(curl_url_parse(slice_str(rows[i].from), &from, NULL), OK);
        enum status rc = curl_url_follow(&from, slice_str(rows[i].location), &to, &err);
        if (rows[i].origin) {
            assert_int_equal(rc, OK);
            assert_string_equal(to.origin, rows[i].origin);
        } else {
            assert_int_equal(rc, ERR);
            assert_int_equal(err.code, ERR_BAD_RESPONSE);
        }
        curl_url_free(&to);
        curl_url_free(&from);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_follow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
