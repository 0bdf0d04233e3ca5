#include "data/smtp_reply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

static struct smtp_reply reply;
static struct smtp_features features;

/* As one piece, and byte by byte. */
static enum status feed(const char *text, struct smtp_features *hello, size_t *n_left)
{
    struct slice bytes = slice_str(text);
    struct err err = {0};
    enum status whole, single = AGAIN;
    smtp_reply_start(&reply, hello);
    for (const char *p = text; *p && single == AGAIN; p++) {
        struct slice one = slice_of(p, 1);
        single = smtp_reply_feed(&reply, &one, &err);
    }
    smtp_reply_start(&reply, hello);
    whole = smtp_reply_feed(&reply, &bytes, &err);
    assert_int_equal(whole, single);
    if (n_left)
        *n_left = bytes.len;
    return whole;
}

static void test_whole_replies(void **state UNUSED)
{
    size_t n_left;
    assert_int_equal(feed("220 mx.test ready\r\n", NULL, &n_left), OK);
    assert_int_equal(reply.code, 220);
    assert_string_equal(reply.text, "220 mx.test ready");
    assert_int_equal(feed("250\r\n", NULL, NULL), OK);
    assert_int_equal(feed("250 bare newline\n", NULL, NULL), OK);
    assert_int_equal(feed("550-no\r\n550 such user\r\n250 more", NULL, &n_left), OK);
    assert_string_equal(reply.text, "550-no");
    assert_int_equal(n_left, 8);
    assert_int_equal(feed("451 a\tb\x01\xff\r\n", NULL, NULL), OK);
    assert_string_equal(reply.text, "451 a?b??");
}

static void test_parts_of_one(void **state UNUSED)
{
    assert_int_equal(feed("250-first\r\n", NULL, NULL), AGAIN);
    assert_int_equal(feed("25", NULL, NULL), AGAIN);
}

static void test_features(void **state UNUSED)
{
    assert_int_equal(feed("250-mx\r\n250-starttls\r\n250-AUTH CRAM-MD5 login PLAIN\r\n250 SIZE 1\r\n", &features, NULL),
                     OK);
    assert_true(features.has_starttls && features.has_plain && features.has_login);
    assert_int_equal(feed("250-mx STARTTLS\r\n250-STARTTLSX\r\n250-AUTH=PLAIN\r\n250 XAUTH LOGIN\r\n", &features, NULL),
                     OK);
    assert_true(!features.has_starttls && features.has_plain && !features.has_login);
    assert_int_equal(feed("250-mx\r\n250 AUTH\r\n", &features, NULL), OK);
    assert_true(!features.has_plain);
}

static void test_no_smtp(void **state UNUSED)
{
    static const char *const bad[] = {"HTTP/1.1 200 OK\r\n", "\r\n",          "25\r\n", "250_x\r\n",
                                      "250-a\r\n251 b\r\n",  "199 early\r\n", "+OK\r\n"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(feed(bad[i], NULL, NULL), ERR);
}

static void test_bounds(void **state UNUSED)
{
    char *text = xalloc(SMTP_REPLY_MAX + 16);
    memset(text, 'x', SMTP_LINE_MAX + 1);
    assert_int_equal(feed(text, NULL, NULL), ERR);
    for (size_t i = 0; i + 7 < SMTP_REPLY_MAX + 16; i += 7)
        memcpy(text + i, "250-a\r\n", 8);
    assert_int_equal(feed(text, NULL, NULL), ERR);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_replies), cmocka_unit_test(test_parts_of_one), cmocka_unit_test(test_features),
        cmocka_unit_test(test_no_smtp),       cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
