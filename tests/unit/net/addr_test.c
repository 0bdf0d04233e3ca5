#include "net/net_help.h"

#include <string.h>
#include <sys/un.h>

static void assert_round_trip(const char *text, int family, const char *back, const char *ip)
{
    struct addr addr;
    struct err err = {0};
    assert_int_equal(addr_parse(slice_str(text), &addr, &err), OK);
    assert_int_equal(addr.sa.ss_family, family);
    char out[ADDR_TEXT_MAX];
    addr_text(&addr, out);
    assert_string_equal(out, back);
    addr_ip(&addr, out);
    assert_string_equal(out, ip);
}

static void test_parses_every_form(void **state UNUSED)
{
    assert_round_trip("127.0.0.1:8080", AF_INET, "127.0.0.1:8080", "127.0.0.1");
    assert_round_trip(":8080", AF_INET, "0.0.0.0:8080", "0.0.0.0");
    assert_round_trip("[::1]:65535", AF_INET6, "[::1]:65535", "::1");
    assert_round_trip("[::]:0", AF_INET6, "[::]:0", "::");
    assert_round_trip("[::ffff:10.1.2.3]:80", AF_INET6, "10.1.2.3:80", "10.1.2.3");
    assert_round_trip("unix:/run/x.sock", AF_UNIX, "unix:/run/x.sock", "unix");
}

static void test_refuses_what_is_no_address(void **state UNUSED)
{
    static const char *const bad[] = {
        "",        "127.0.0.1",    "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:8x", "localhost:80",
        "[::1:80", "::1:80",       "[]:80",      "[127.0.0.1]:80",  "unix:",        "1.2.3:80",     "127.0.0.1: 80",
        "[::1]",   "256.0.0.1:80",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct addr addr;
        struct err err = {0};
        if (addr_parse(slice_str(bad[i]), &addr, &err) != ERR)
            fail_msg("took \"%s\"", bad[i]);
        assert_int_equal(err.code, ERR_INVALID);
        assert_true(err.message[0]);
    }
    struct addr addr;
    assert_int_equal(addr_parse(SLICE("127.0.0.1\0:80"), &addr, NULL), ERR);
}

static void test_unix_path_has_107_bytes_at_most(void **state UNUSED)
{
    char path[109];
    memset(path, 'p', sizeof(path));
    struct addr addr;
    struct err err = {0};
    path[108] = 0;
    assert_int_equal(addr_unix(path, &addr, &err), ERR);
    assert_non_null(strstr(err.message, "107"));
    path[107] = 0;
    assert_int_equal(addr_unix(path, &addr, &err), OK);
    char text[ADDR_TEXT_MAX];
    addr_text(&addr, text);
    assert_int_equal(strlen(text), 5 + 107);
    assert_string_equal(text + 5, path);
}

static void test_text_of_an_unnamed_unix_peer(void **state UNUSED)
{
    struct addr addr = {.len = sizeof(sa_family_t)};
    addr.sa.ss_family = AF_UNIX;
    memset((char *)&addr.sa + sizeof(sa_family_t), 'x', 20); /* what the kernel did not write */
    char text[ADDR_TEXT_MAX];
    addr_text(&addr, text);
    assert_string_equal(text, "unix:");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parses_every_form),
        cmocka_unit_test(test_refuses_what_is_no_address),
        cmocka_unit_test(test_unix_path_has_107_bytes_at_most),
        cmocka_unit_test(test_text_of_an_unnamed_unix_peer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
