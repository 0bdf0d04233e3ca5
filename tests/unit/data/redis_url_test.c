/* Redis URLs: every form that is taken, every form that is refused, and that no message repeats a password. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "data/redis_url.h"

static struct redis_url url;
static struct err err;

static enum status parse(const char *text)
{
    err = (struct err){0};
    return redis_url_parse(slice_str(text), &url, &err);
}

static void takes_tcp_forms(void **state)
{
    (void)state;
    assert_int_equal(parse("redis://cache.internal"), OK);
    assert_string_equal(url.at.host, "cache.internal");
    assert_int_equal(url.at.port, 6379);
    assert_int_equal(url.db, 0);
    assert_string_equal(url.login.password, "");
    assert_string_equal(url.path, "");

    assert_int_equal(parse("redis://127.0.0.1:6380/3"), OK);
    assert_string_equal(url.at.host, "127.0.0.1");
    assert_int_equal(url.at.port, 6380);
    assert_int_equal(url.db, 3);

    assert_int_equal(parse("redis://[::1]:7000"), OK);
    assert_string_equal(url.at.host, "::1");
    assert_int_equal(url.at.port, 7000);
    assert_int_equal(parse("redis://[fe80::2]/1"), OK);
    assert_string_equal(url.at.host, "fe80::2");
    assert_int_equal(url.at.port, 6379);

    assert_int_equal(parse("redis:///2"), OK);
    assert_string_equal(url.at.host, "127.0.0.1");
    assert_int_equal(url.db, 2);
    assert_int_equal(parse("redis://h?db=4"), OK);
    assert_string_equal(url.at.host, "h");
    assert_int_equal(url.db, 4);
}

static void takes_credentials(void **state)
{
    (void)state;
    assert_int_equal(parse("redis://:s3cret@h"), OK);
    assert_string_equal(url.login.user, "");
    assert_string_equal(url.login.password, "s3cret");
    assert_int_equal(parse("redis://shop:a%40b%2Fc%3A@h:1/0"), OK);
    assert_string_equal(url.login.user, "shop");
    assert_string_equal(url.login.password, "a@b/c:");
    assert_string_equal(url.at.host, "h");
    assert_int_equal(parse("redis://shop:with/slash@h/5"), OK);
    assert_string_equal(url.login.password, "with/slash");
    assert_int_equal(url.db, 5);
}

static void takes_unix_sockets(void **state)
{
    (void)state;
    assert_int_equal(parse("unix:///run/redis/redis.sock"), OK);
    assert_string_equal(url.path, "/run/redis/redis.sock");
    assert_string_equal(url.at.host, "");
    assert_int_equal(parse("unix:///tmp/a%20b.sock?db=7"), OK);
    assert_string_equal(url.path, "/tmp/a b.sock");
    assert_int_equal(url.db, 7);
    assert_int_equal(parse("unix://u:p@/tmp/r.sock"), OK);
    assert_string_equal(url.path, "/tmp/r.sock");
    assert_string_equal(url.login.user, "u");
    assert_string_equal(url.login.password, "p");
}

static void refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "http://h",
        "h:6379",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:x",
        "redis://h/x",
        "redis://h/-1",
        "redis://user@h",
        "redis://user:@h",
        "redis://[::1",
        "redis://[::1]x",
        "redis://h?timeout=3",
        "redis://:p%4@h",
        "redis://:p%00x@h",
        "redis://:p%zz@h",
        "unix://relative.sock",
        "unix://",
        "unix:///",
        "unix:///a/long/path/"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "unix:///tmp/r.sock?db=x",
        "redis://h?ca=/x",
        "rediss://h?ca=",
        "redis://h?sentinel_password=x",
        "redis+sentinel://a",
        "redis+sentinel://a/",
        "redis+sentinel:///m",
        "redis+sentinel://a:x/m",
        "redis+sentinel://a/m/x",
        "redis+sentinel://a/m?sentinel_user=u",
        "redis+sentinel://a/m?sentinel_tls=maybe",
        "redis+sentinel://a,b,c,d,e,f,g,h,i/m",
        "redis+sentinel://a/m?db",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (parse(bad[i]) != ERR)
            fail_msg("accepted: %s", bad[i]);
        assert_int_equal(err.code, ERR_INVALID);
        assert_true(slice_has_prefix(slice_str(err.message), SLICE("redis.url: ")));
    }
}

static void takes_tls(void **state)
{
    (void)state;
    assert_int_equal(parse("rediss://default:hush@h.example:6380/2?ca=/etc/ca%20s.pem"), OK);
    assert_true(url.tls);
    assert_string_equal(url.ca, "/etc/ca s.pem");
    assert_string_equal(url.at.host, "h.example");
    assert_int_equal(url.db, 2);
    assert_int_equal(parse("redis://h"), OK);
    assert_false(url.tls);
    assert_string_equal(url.ca, "");
}

static void takes_sentinels(void **state)
{
    (void)state;
    assert_int_equal(parse("redis+sentinel://shop:hush@a,b:7001,[::1]:7002/my%20primary/3"
                           "?sentinel_user=watch&sentinel_password=s%26h"),
                     OK);
    assert_int_equal(url.n_sentinels, 3);
    assert_string_equal(url.sentinels[0].host, "a");
    assert_int_equal(url.sentinels[0].port, 26379);
    assert_string_equal(url.sentinels[1].host, "b");
    assert_int_equal(url.sentinels[1].port, 7001);
    assert_string_equal(url.sentinels[2].host, "::1");
    assert_int_equal(url.sentinels[2].port, 7002);
    assert_string_equal(url.primary, "my primary");
    assert_int_equal(url.db, 3);
    assert_string_equal(url.login.user, "shop");
    assert_string_equal(url.login.password, "hush");
    assert_string_equal(url.sentinel_login.user, "watch");
    assert_string_equal(url.sentinel_login.password, "s&h");
    assert_false(url.tls || url.sentinel_tls);
    assert_int_equal(parse("rediss+sentinel://a/m"), OK);
    assert_true(url.tls && url.sentinel_tls);
    assert_int_equal(parse("rediss+sentinel://a/m?sentinel_tls=off&db=4"), OK);
    assert_true(url.tls && !url.sentinel_tls);
    assert_int_equal(url.db, 4);
}

static void never_repeats_a_password(void **state)
{
    (void)state;
    static const char *const bad[] = {"rediss://u:hush@h:x",       "redis+sentinel://a/m?sentinel_pasword=hush",
                                      "redis+sentinel://u:hush@a", "redis://u:hush@h:x",
                                      "redis://u:hush@h/x",        "redis://hush@h",
                                      "redis://u:hush%@h",         "unix://u:hush@r",
                                      "redix://u:hush@h"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(parse(bad[i]), ERR);
        if (strstr(err.message, "hush"))
            fail_msg("%s: %s", bad[i], err.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_tcp_forms),
        cmocka_unit_test(takes_credentials),
        cmocka_unit_test(takes_unix_sockets),
        cmocka_unit_test(refuses),
        cmocka_unit_test(takes_tls),
        cmocka_unit_test(takes_sentinels),
        cmocka_unit_test(never_repeats_a_password),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
