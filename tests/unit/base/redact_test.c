#include "base/redact.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

static char shown[1024];

static const char *text(const char *in)
{
    struct buf out = {0};
    bool is_changed = redact_text(slice_str(in), &out);
    assert_true(is_changed || out.len == 0);
    snprintf(shown, sizeof(shown), "%.*s", is_changed ? (int)out.len : (int)strlen(in), is_changed ? out.ptr : in);
    buf_free(&out);
    return shown;
}

static const char *json(const char *in)
{
    struct buf out = {0};
    bool is_changed = redact_json(slice_str(in), &out);
    snprintf(shown, sizeof(shown), "%.*s", is_changed ? (int)out.len : (int)strlen(in), is_changed ? out.ptr : in);
    buf_free(&out);
    return shown;
}

static const char *ip(const char *in)
{
    struct buf out = {0};
    redact_ip(slice_str(in), &out);
    snprintf(shown, sizeof(shown), "%.*s", (int)out.len, out.ptr);
    buf_free(&out);
    return shown;
}

static void test_names(void **state)
{
    (void)state;
    static const char *const hidden[] = {
        "password",  "Password",    "user_password", "passwd",      "secret",      "key_secret",
        "token",     "accessToken", "Authorization", "cookie",      "Set-Cookie",  "razorpay_signature",
        "api_key",   "apiKey",      "X-API-Key",     "private_key", "credentials", "otp",
        "pin",       "cvv",         "jwt",           "email",       "guest_email", "phone",
        "mobile_no", "contact",     "card_number",   "vpa",         "session_id"};
    static const char *const open[] = {"route",    "path",  "pinned", "footprint",  "key",
                                       "shipping", "panel", "error",  "request_id", "status",
                                       "address",  "order", "ip",     "name",       ""};
    for (size_t i = 0; i < ARRAY_LEN(hidden); i++)
        if (!redact_is_name(slice_str(hidden[i])))
            fail_msg("%s is shown", hidden[i]);
    for (size_t i = 0; i < ARRAY_LEN(open); i++)
        if (redact_is_name(slice_str(open[i])))
            fail_msg("%s is hidden", open[i]);
}

static void test_emails(void **state)
{
    (void)state;
    assert_string_equal(text("to asha.rao+shop@example.co.in: sent"), "to [email]: sent");
    assert_string_equal(text("a@b.in,c@d.in"), "[email],[email]");
    assert_string_equal(text("<x@y.com>"), "<[email]>");
    assert_string_equal(text("\xE0\xA4\x85@example.in"), "[email]");
    assert_string_equal(text("me @ home, @decorator, a@b, x@.com, 3@"), "me @ home, @decorator, a@b, x@.com, 3@");
    assert_string_equal(text("@"), "@");
}

static void test_phones(void **state)
{
    (void)state;
    assert_string_equal(text("call +91 98765 43210 now"), "call [phone] now");
    assert_string_equal(text("9876543210"), "[phone]");
    assert_string_equal(text("phone=9876543210, x"), "phone=[phone], x");
    assert_string_equal(text("098765-43210"), "[phone]");
    assert_string_equal(text("919876543210"), "[phone]");
    assert_string_equal(text("+44 20 7946 0958"), "[phone]");
    assert_string_equal(text("order 12 9876543210 99"), "order 12 [phone] 99");
}

static void test_cards(void **state)
{
    (void)state;
    assert_string_equal(text("4111 1111 1111 1111"), "[card]");
    assert_string_equal(text("card 5555-5555-5555-4444."), "card [card].");
    assert_string_equal(text("378282246310005"), "[card]");
    assert_string_equal(text("4111111111111112"), "4111111111111112"); /* fails the check */
}

/* What logs are full of stays readable. */
static void test_what_is_no_personal_datum(void **state)
{
    (void)state;
    static const char *const plain[] = {"",
                                        "2026-11-30T17:19:16.123Z",
                                        "2026-11-30 17:19:16",
                                        "took 1234567 us",
                                        "1795414756123",
                                        "1795414756123456",
                                        "550e8400-e29b-41d4-a716-446655440000",
                                        "10.0.0.1:54321",
                                        "order_Mk3x9876543210",
                                        "PC2627-000123",
                                        "line 12:42: attempt to index",
                                        "id 42 of 1000000",
                                        "12345678901234567890123456789012",
                                        "9876543210abc",
                                        "lua/store/orders.lua:12: (a nil value)"};
    for (size_t i = 0; i < ARRAY_LEN(plain); i++)
        assert_string_equal(text(plain[i]), plain[i]);
}

static void test_postgresql_details(void **state)
{
    (void)state;
    assert_string_equal(text("23505: duplicate key / Key (name)=(Asha Rao) already exists."),
                        "23505: duplicate key / Key (name)=(***) already exists.");
    assert_string_equal(text("Key (a, b)=(x (y), z) already exists.\nnext (line)"),
                        "Key (a, b)=(***) already exists.\nnext (line)");
    assert_string_equal(text("Failing row contains (1, Asha, null)."), "Failing row contains (***).");
    assert_string_equal(text("Failing row contains (1, cut"), "Failing row contains (***)");
}

static void test_json(void **state)
{
    (void)state;
    assert_string_equal(json("{\"user\":{\"id\":7,\"email\":\"a@b.in\",\"password\" : [1,{\"x\":\"]\"}] ,\"n\":1}}"),
                        "{\"user\":{\"id\":7,\"email\":\"***\",\"password\":\"***\",\"n\":1}}");
    assert_string_equal(json("[\"a@b.in\",\"x\",true]"), "[\"[email]\",\"x\",true]");
    assert_string_equal(json("{\"token\":null}"), "{\"token\":\"***\"}");
    assert_string_equal(json("{\"a\":\"quote \\\" a@b.in\"}"), "{\"a\":\"quote \\\" [email]\"}");
    assert_string_equal(json("{\"a\":[1,2,{\"b\":\"c\"}]}"), "{\"a\":[1,2,{\"b\":\"c\"}]}");
    assert_string_equal(json("{\"token\":"), "{\"token\":\"***\""); /* cut: no byte beyond it is read */
    assert_string_equal(json("\"open"), "\"open");
}

/* An escape's letter belongs to no word, and no closing quote to a value. */
static void test_json_escapes(void **state)
{
    (void)state;
    assert_string_equal(json("[\"\\nasha@x.in\"]"), "[\"\\n[email]\"]");
    assert_string_equal(json("[\"\\n9876543210\"]"), "[\"\\n[phone]\"]");
    assert_string_equal(json("[\"Key (a)=(x\",1]"), "[\"Key (a)=(***)\",1]");
    assert_string_equal(json("[\"asha\\u0040x.in \\u0905\\/\\\"\"]"), "[\"[email] \xE0\xA4\x85/\\\"\"]");
    assert_string_equal(json("[\"\\ud800 asha@x.in\"]"), "[\"\\ud800 [email]\"]"); /* no JSON: still hidden */
    assert_string_equal(json("[\"\\u0905\\/\"]"), "[\"\\u0905\\/\"]");             /* nothing to hide: as it was */
}

static void test_addresses(void **state)
{
    (void)state;
    assert_string_equal(ip("192.0.2.77"), "192.0.2.0");
    assert_string_equal(ip("2001:db8:1:2:3:4:5:6"), "2001:db8:1::");
    assert_string_equal(ip("::ffff:192.0.2.77"), "::ffff:192.0.2.0");
    assert_string_equal(ip("unix"), "unix");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),        cmocka_unit_test(test_emails),
        cmocka_unit_test(test_phones),       cmocka_unit_test(test_cards),
        cmocka_unit_test(test_json),         cmocka_unit_test(test_what_is_no_personal_datum),
        cmocka_unit_test(test_addresses),    cmocka_unit_test(test_postgresql_details),
        cmocka_unit_test(test_json_escapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
