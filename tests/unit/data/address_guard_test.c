#include "data/address_guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>

static const char *ask(const struct address_guard *guard, const char *text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return address_guard_refuses(guard, (const struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return address_guard_refuses(guard, (const struct sockaddr *)&v6);
}

/* First and last of each block, and their neighbours outside where those are public. */
static void test_table(void **state UNUSED)
{
    static const char *const refused[] = {"0.0.0.0",
                                          "0.255.255.255",
                                          "10.0.0.0",
                                          "10.255.255.255",
                                          "100.64.0.0",
                                          "100.127.255.255",
                                          "127.0.0.1",
                                          "127.255.255.255",
                                          "168.63.129.16",
                                          "169.254.169.254",
                                          "172.16.0.0",
                                          "172.31.255.255",
                                          "192.0.0.192",
                                          "192.0.2.1",
                                          "192.88.99.1",
                                          "192.168.0.0",
                                          "192.168.255.255",
                                          "198.18.0.0",
                                          "198.19.255.255",
                                          "198.51.100.1",
                                          "203.0.113.1",
                                          "224.0.0.1",
                                          "239.255.255.255",
                                          "240.0.0.1",
                                          "255.255.255.255",
                                          "::",
                                          "::1",
                                          "::7f00:1",
                                          "::ffff:127.0.0.1",
                                          "::ffff:10.0.0.1",
                                          "::ffff:169.254.169.254",
                                          "64:ff9b::7f00:1",
                                          "64:ff9b::a00:1",
                                          "64:ff9b::a9fe:a9fe",
                                          "64:ff9b::1:101:101",
                                          "64:ff9b:1::1",
                                          "64:ff9b:1::101:101",
                                          "64:ff9b:1:ffff::101:101",
                                          "100::1",
                                          "2001::1",
                                          "2001:db8::1",
                                          "2002:7f00:1::1",
                                          "2002:101:101::1",
                                          "3fff::1",
                                          "4000::1",
                                          "5f00::1",
                                          "fc00::1",
                                          "fd00:ec2::254",
                                          "fe80::1",
                                          "fec0::1",
                                          "ff02::1"};
    static const char *const allowed[] = {
        "1.1.1.1",         "9.255.255.255",   "11.0.0.0",         "100.63.255.255",       "100.128.0.0",
        "126.255.255.255", "128.0.0.0",       "168.63.129.17",    "169.253.255.255",      "172.15.255.255",
        "172.32.0.0",      "192.167.255.255", "192.169.0.0",      "198.17.255.255",       "198.20.0.0",
        "223.255.255.255", "::ffff:1.1.1.1",  "64:ff9b::101:101", "2001:4860:4860::8888", "2400:cb00::1",
        "2606:4700::1111"};
    struct address_guard *guard = address_guard_new(NULL, 0, NULL);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        if (!ask(guard, refused[i]))
            fail_msg("not refused: %s", refused[i]);
    for (size_t i = 0; i < ARRAY_LEN(allowed); i++)
        if (ask(guard, allowed[i]))
            fail_msg("%s: %s", allowed[i], ask(guard, allowed[i]));
    assert_string_equal(ask(guard, "10.1.2.3"), "a private address");
    struct sockaddr unix_socket = {.sa_family = AF_UNIX};
    assert_non_null(address_guard_refuses(guard, &unix_socket));
    address_guard_free(guard);
}

static void test_the_operators_list_wins(void **state UNUSED)
{
    static const char *const list[] = {"10.1.0.0/16", "192.168.1.7", "fd00::/9", "127.0.0.0/31"};
    struct address_guard *guard = address_guard_new(list, ARRAY_LEN(list), NULL);
    assert_null(ask(guard, "10.1.255.255"));
    assert_null(ask(guard, "::ffff:10.1.2.3"));
    assert_null(ask(guard, "64:ff9b::a01:203"));
    assert_null(ask(guard, "192.168.1.7"));
    assert_null(ask(guard, "fd7f::1"));
    assert_null(ask(guard, "127.0.0.1"));
    assert_non_null(ask(guard, "10.2.0.0"));
    assert_non_null(ask(guard, "192.168.1.8"));
    assert_non_null(ask(guard, "fd80::1"));
    assert_non_null(ask(guard, "127.0.0.2"));
    address_guard_free(guard);
    static const char *const all[] = {"all"};
    guard = address_guard_new(all, 1, NULL);
    assert_null(ask(guard, "127.0.0.1"));
    assert_null(ask(guard, "::1"));
    address_guard_free(guard);
}

static void test_nonsense_is_named(void **state UNUSED)
{
    static const char *const bad[] = {"10.0.0.0/33",
                                      "10.0.0/8",
                                      "::/129",
                                      "private",
                                      "",
                                      "/8",
                                      "10.0.0.0/",
                                      "10.0.0.0/-1",
                                      "1111:2222:3333:4444:5555:6666:7777:8888:9999:0000:1111/8"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = {0};
        assert_null(address_guard_new(&bad[i], 1, &err));
        assert_int_equal(err.code, ERR_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_the_operators_list_wins),
        cmocka_unit_test(test_nonsense_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
