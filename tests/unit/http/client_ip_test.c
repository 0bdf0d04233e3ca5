/* Who the client is, for each way of trusting; and the PROXY greeting, byte by byte. */
#include "http/client_ip.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "http/proxy_line.h"

static struct http_trust trust_of(const char *items, bool reads_rfc7239)
{
    struct http_trust trust = {.reads_rfc7239 = reads_rfc7239};
    struct err err = {0};
    char copy[256], *save = NULL;
    snprintf(copy, sizeof copy, "%s", items);
    for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save))
        assert_int_equal(http_trust_add(&trust, slice_str(item), &err), OK);
    return trust;
}

static void expect(const char *trusted, const char *peer, const char *forwarded, const char *client)
{
    struct http_trust trust = trust_of(trusted, false);
    struct http_header headers[] = {{SLICE("Host"), SLICE("x")},
                                    {SLICE("X-Forwarded-For"), slice_str(forwarded)},
                                    {SLICE("Forwarded"), SLICE("for=6.6.6.6")}};
    struct http_request req = {.headers = headers, .n_headers = forwarded ? 3 : 1};
    char ip[ADDR_TEXT_MAX];
    snprintf(ip, sizeof ip, "%s", peer);
    http_client_ip(&trust, &req, ip);
    assert_string_equal(ip, client);
}

static void test_believes_only_whom_it_trusts(void **state)
{
    (void)state;
    expect("", "9.9.9.9", "1.1.1.1", "9.9.9.9");
    expect("10.0.0.0/8", "9.9.9.9", "1.1.1.1", "9.9.9.9");
    expect("10.0.0.0/8", "10.1.2.3", "1.1.1.1", "1.1.1.1");
    expect("10.0.0.0/8", "10.1.2.3", "6.6.6.6, 1.1.1.1", "1.1.1.1"); /* the client wrote 6.6.6.6 himself */
    expect("10.0.0.0/8", "10.1.2.3", "1.1.1.1, 10.9.9.9", "1.1.1.1");
    expect("10.0.0.0/8", "10.1.2.3", "10.0.0.1, 10.9.9.9", "10.0.0.1"); /* all trusted: the farthest */
    expect("10.0.0.0/8", "10.1.2.3", NULL, "10.1.2.3");
    expect("10.0.0.0/9", "10.128.0.1", "1.1.1.1", "10.128.0.1");
    expect("loopback", "unix", "1.1.1.1", "1.1.1.1");
    expect("loopback", "::1", "1.1.1.1", "1.1.1.1");
    expect("uniquelocal", "172.31.0.1", "1.1.1.1", "1.1.1.1");
    expect("uniquelocal", "172.32.0.1", "1.1.1.1", "172.32.0.1");
    expect("10.0.0.0/8", "::ffff:10.0.0.1", "1.1.1.1", "1.1.1.1");
    expect("2001:db8::/33", "2001:db8:7fff::1", "1.1.1.1", "1.1.1.1");
    expect("2001:db8::/33", "2001:db8:8000::1", "1.1.1.1", "2001:db8:8000::1");
}

static void test_counts_hops(void **state)
{
    (void)state;
    expect("1", "9.9.9.9", "6.6.6.6, 1.1.1.1", "1.1.1.1");
    expect("2", "9.9.9.9", "6.6.6.6, 1.1.1.1, 2.2.2.2", "1.1.1.1");
    expect("3", "9.9.9.9", "1.1.1.1", "1.1.1.1");
}

static void test_reads_what_proxies_write(void **state)
{
    (void)state;
    expect("10.0.0.0/8", "10.0.0.1", " 1.1.1.1:4711 ", "1.1.1.1");
    expect("10.0.0.0/8", "10.0.0.1", "[2001:db8::1]:443", "2001:db8::1");
    expect("10.0.0.0/8", "10.0.0.1", "2001:DB8::1", "2001:db8::1");
    expect("10.0.0.0/8", "10.0.0.1", "::ffff:1.2.3.4", "1.2.3.4");
    expect("10.0.0.0/8", "10.0.0.1", "1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"); /* garbage ends it */
    expect("10.0.0.0/8", "10.0.0.1", "1.1.1.1, <script>", "10.0.0.1");
    expect("10.0.0.0/8", "10.0.0.1", "", "10.0.0.1");
}

static void test_joins_repeated_fields(void **state)
{
    struct http_trust trust = trust_of("10.0.0.0/8", false);
    struct http_header headers[] = {{SLICE("X-Forwarded-For"), SLICE("6.6.6.6")},
                                    {SLICE("Host"), SLICE("x")},
                                    {SLICE("x-forwarded-for"), SLICE("1.1.1.1, 10.0.0.2")},
                                    {SLICE("X-Forwarded-For"), SLICE("10.0.0.3")}};
    struct http_request req = {.headers = headers, .n_headers = ARRAY_LEN(headers)};
    char ip[ADDR_TEXT_MAX] = "10.0.0.1";
    (void)state;
    http_client_ip(&trust, &req, ip);
    assert_string_equal(ip, "1.1.1.1");
}

static void test_rfc_7239(void **state)
{
    struct http_trust trust = trust_of("10.0.0.0/8", true);
    struct http_header headers[] = {
        {SLICE("X-Forwarded-For"), SLICE("6.6.6.6")},
        {SLICE("Forwarded"),
         SLICE("for=6.6.6.6, proto=https;For=\"[2001:db8:cafe::17]:4711\" ;by=\"a,b\", for=10.0.0.2")}};
    struct http_request req = {.headers = headers, .n_headers = ARRAY_LEN(headers)};
    char ip[ADDR_TEXT_MAX] = "10.0.0.1";
    (void)state;
    http_client_ip(&trust, &req, ip);
    assert_string_equal(ip, "2001:db8:cafe::17");
}

static void test_refuses_what_is_no_network(void **state)
{
    static const char *const bad[] = {"",  "10.0.0.0/33", "2001:db8::/129", "10.0.0.0/", "/8", "all",
                                      "0", "-1",          "1.1.1"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct http_trust trust = {0};
        struct err err = {0};
        assert_int_equal(http_trust_add(&trust, slice_str(bad[i]), &err), ERR);
        assert_non_null(strstr(err.message, "expected a number of hops"));
    }
}

/* ---- the PROXY protocol --------------------------------------------------------------------------------------- */

static void greeting(struct slice bytes, const char *client)
{
    char rest[] = "GET / HTTP/1.1\r\n";
    char all[512];
    struct addr addr;
    size_t len;
    bool has_client;
    memcpy(all, bytes.ptr, bytes.len);
    memcpy(all + bytes.len, rest, sizeof rest);
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(proxy_line_read(slice_of(all, n), &len, &has_client, &addr), AGAIN);
    assert_int_equal(proxy_line_read(slice_of(all, bytes.len + sizeof rest), &len, &has_client, &addr), OK);
    assert_int_equal(len, bytes.len);
    assert_int_equal(has_client, client != NULL);
    if (client) {
        char ip[ADDR_TEXT_MAX];
        addr_text(&addr, ip);
        assert_string_equal(ip, client);
    }
}

static void test_greetings(void **state)
{
    (void)state;
    greeting(SLICE("PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n"), "192.0.2.7:56324");
    greeting(SLICE("PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n"), "[2001:db8::7]:56324");
    greeting(SLICE("PROXY UNKNOWN\r\n"), NULL);
    greeting(SLICE("PROXY UNKNOWN ffff:f::1 ffff:f::2 65535 65535\r\n"), NULL);
    greeting(SLICE("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\7\xc0\0\2\1\xdc\4\1\xbb"), "192.0.2.7:56324");
    greeting(SLICE("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\2\7\xc0\0\2\1\xdc\4\1\xbb\x04\0\0"), "192.0.2.7:56324");
    greeting(SLICE("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"), NULL); /* the balancer's own health check */
}

static void test_what_is_no_greeting(void **state)
{
    static const struct slice bad[] = {
        {"GET / HTTP/1.1\r\n", 16},
        {"PROXY TCP4 192.0.2.7\r\n", 22},
        {"PROXY TCP4 2001:db8::7 192.0.2.1 1 2\r\n", 38},
        {"PROXY TCP5 192.0.2.7 192.0.2.1 1 2\r\n", 36},
        {"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n", 40},
        {"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n", 38},
        {"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n", 35},
        {"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c", 16},
        {"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", 16},
    };
    struct addr addr;
    size_t len;
    bool has_client;
    char endless[200];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(proxy_line_read(bad[i], &len, &has_client, &addr), ERR);
    memset(endless, 'x', sizeof endless);
    memcpy(endless, "PROXY ", 6);
    assert_int_equal(proxy_line_read(slice_of(endless, sizeof endless), &len, &has_client, &addr), ERR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_believes_only_whom_it_trusts),
        cmocka_unit_test(test_counts_hops),
        cmocka_unit_test(test_reads_what_proxies_write),
        cmocka_unit_test(test_joins_repeated_fields),
        cmocka_unit_test(test_rfc_7239),
        cmocka_unit_test(test_refuses_what_is_no_network),
        cmocka_unit_test(test_greetings),
        cmocka_unit_test(test_what_is_no_greeting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
