/* The known answers of Razorpay's own SDK tests and of RFC 4231, and what a forger would try. */
#include "services/razorpay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#define SDK_SECRET "EnLs21M47BllR3X8PSFtjtbd"
#define ORDER "order_IEIaMR65cu6nz3"
#define PAYMENT "pay_IH4NVgf4Dreq1l"
#define SIGNATURE "0d4e745a1838664ad6c9c9902212a32d627d68e917290b0ad5f08ff4561bc50f"
#define EVENT "{\"entity\":\"event\",\"event\":\"payment.captured\",\"payload\":{}}"
#define EVENT_SIGNATURE "012eb020000dfea8902fc532e42d93ba272bc3a088837ce9a124eaf58ac6bf48"
#define SIGNED_BY_EMPTY_KEY "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad" /* an empty body */

static enum status verify(struct slice secret, struct slice message, struct slice signature)
{
    struct err err = {0};
    const struct razorpay_secrets secrets = {&secret, 1};
    enum status rc = razorpay_verify(&secrets, message, signature, &err);
    assert_int_equal(err.code, rc == OK ? ERR_NONE : ERR_BAD_SIGNATURE);
    return rc;
}

static void test_known_answers(void **state)
{
    (void)state;
    char aa[131], k[100];
    memset(aa, 0xaa, sizeof aa);
    memset(k, 'k', sizeof k);
    const struct {
        struct slice secret, message;
        const char *signature;
    } rows[] = {
        {SLICE(SDK_SECRET), SLICE(ORDER "|" PAYMENT), SIGNATURE},
        {SLICE(SDK_SECRET), SLICE("pay_IDZNwZZFtnjyym|sub_ID6MOhgkcoHj9I"),
         "601f383334975c714c91a7d97dd723eb56520318355863dcf3821c0d07a17693"},
        {SLICE(SDK_SECRET), SLICE("plink_IH3cNucfVEgV68|TSsd1989|paid|pay_IH3d0ara9bSsjQ"),
         "07ae18789e35093e51d0a491eb9922646f3f82773547e5b0f67ee3f2d3bf7d5b"},
        {SLICE("123456"), SLICE("{\"a\":1,\"b\":2,\"c\":{\"d\":3}}"),
         "2fe04e22977002e6c7cb553adab8b460cb9e2a4970d5953cb27a8472752e3bbc"},
        {SLICE("Jefe"), SLICE("what do ya want for nothing?"),
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {slice_of(aa, sizeof aa), SLICE("Test Using Larger Than Block-Size Key - Hash Key First"),
         "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
        {SLICE("key_secret_01"), SLICE("order_TEST00000000A1|pay_TEST00000000B1"),
         "65f43df8aefbd2e98ae9ca4e228f9f82689530d6a30e1364eb790fb0a525d20c"},
        {SLICE("whsec_demo_1"), SLICE(EVENT), EVENT_SIGNATURE},
        {SLICE("whsec_demo_1"), SLICE(EVENT "\n"), "c59a3348ccabd6042ea478683375d9723a52ef151b6a06528944061dad94dce7"},
        {SLICE("whsec_demo_1"), SLICE("{ \"entity\": \"event\", \"event\": \"payment.captured\", \"payload\": {} }"),
         "23146d279183c5e669f00b5524a7e4be5a17a73b756cc8968100573ceaf8d993"},
        {SLICE("whsec_demo_1"), slice_of(NULL, 0), "c8882b05529ac24cb7050e4ddabc9912e6b6576d2305db595edbc3e9dc99e440"},
        {SLICE("गुप्त"), SLICE("{\"note\":\"चाय ☕\",\"u\":\"\\u0939\",\"s\":\"a\\/b\"}"),
         "6c63802fb345dd51a7cc09cfc97870b9ee29f710a4f6929a7cd45f003d07e6ad"},
        {slice_of(k, sizeof k), SLICE("x"), "8c1858bff6cf9cb73708b4b54f43bca6e1b8b4c3380760dc009001b265b64c6f"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (verify(rows[i].secret, rows[i].message, slice_str(rows[i].signature)) != OK)
            fail_msg("row %zu does not verify", i);
        const size_t other = (i + 1) % ARRAY_LEN(rows); /* and no signature verifies another row */
        assert_int_equal(verify(rows[i].secret, rows[i].message, slice_str(rows[other].signature)), ERR);
    }
}

static enum status verify_checkout(const char *order, const char *payment, const char *signature)
{
    struct err err = {0};
    const struct slice secret = SLICE(SDK_SECRET);
    const struct razorpay_secrets secrets = {&secret, 1};
    const struct slice parts[] = {slice_str(order), slice_str(payment)};
    enum status rc = razorpay_verify_form(&secrets, RAZORPAY_CHECKOUT, parts, slice_str(signature), &err);
    assert_int_equal(err.code, rc == OK ? ERR_NONE : ERR_BAD_SIGNATURE);
    return rc;
}

static void test_checkout(void **state)
{
    (void)state;
    char long_id[400];
    memset(long_id, 'a', sizeof long_id - 1);
    long_id[sizeof long_id - 1] = '\0';
    assert_int_equal(verify_checkout(ORDER, PAYMENT, SIGNATURE), OK);
    assert_int_equal(verify_checkout(PAYMENT, ORDER, SIGNATURE), ERR);
    assert_int_equal(verify_checkout("order_IEIaMR65cu6nz4", PAYMENT, SIGNATURE), ERR);
    assert_int_equal(verify_checkout(ORDER, "", SIGNATURE), ERR);
    assert_int_equal(verify_checkout("", PAYMENT, SIGNATURE), ERR);
    assert_int_equal(verify_checkout("", "", SIGNATURE), ERR);
    assert_int_equal(verify_checkout(long_id, PAYMENT, SIGNATURE), ERR);
    assert_int_equal(verify_checkout(ORDER, long_id, SIGNATURE), ERR);
}

/* A payment link's signature must not pass as a checkout's by moving the separator. */
static void test_checkout_refuses_separators(void **state)
{
    (void)state;
    const char *signature = "07ae18789e35093e51d0a491eb9922646f3f82773547e5b0f67ee3f2d3bf7d5b";
    assert_int_equal(verify_checkout("plink_IH3cNucfVEgV68|TSsd1989|paid", "pay_IH3d0ara9bSsjQ", signature), ERR);
    assert_int_equal(verify_checkout("plink_IH3cNucfVEgV68", "TSsd1989|paid|pay_IH3d0ara9bSsjQ", signature), ERR);
}

static void test_the_other_forms(void **state)
{
    const struct slice secret = SLICE(SDK_SECRET);
    const struct razorpay_secrets secrets = {&secret, 1};
    const struct {
        enum razorpay_form form;
        struct slice parts[RAZORPAY_PARTS_MAX];
        const char *signature;
    } rows[] = {
        {RAZORPAY_SUBSCRIPTION,
         {SLICE("pay_IDZNwZZFtnjyym"), SLICE("sub_ID6MOhgkcoHj9I")},
         "601f383334975c714c91a7d97dd723eb56520318355863dcf3821c0d07a17693"},
        {RAZORPAY_PAYMENT_LINK,
         {SLICE("plink_IH3cNucfVEgV68"), SLICE("TSsd1989"), SLICE("paid"), SLICE("pay_IH3d0ara9bSsjQ")},
         "07ae18789e35093e51d0a491eb9922646f3f82773547e5b0f67ee3f2d3bf7d5b"},
    };
    struct err err = {0};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct slice parts[RAZORPAY_PARTS_MAX];
        memcpy(parts, rows[i].parts, sizeof parts);
        assert_int_equal(razorpay_verify_form(&secrets, rows[i].form, parts, slice_str(rows[i].signature), &err), OK);
        parts[0] = rows[i].parts[1]; /* the order of the parts is part of it */
        parts[1] = rows[i].parts[0];
        assert_int_equal(razorpay_verify_form(&secrets, rows[i].form, parts, slice_str(rows[i].signature), &err), ERR);
    }
}

/* A payment link without a reference, an invoice without a receipt: signed over an empty part. No known answer is
 * published; these are HMACs made with Python's hmac. */
static void test_empty_parts(void **state)
{
    const struct slice secret = SLICE("key_secret_01");
    const struct razorpay_secrets secrets = {&secret, 1};
    struct err err = {0};
    const struct slice link[] = {SLICE("plink_A"), SLICE(""), SLICE("paid"), SLICE("pay_B")};
    const struct slice invoice[] = {SLICE("inv_A"), SLICE("R1"), SLICE("paid"), SLICE("pay_B")};
    const struct slice no_id[] = {SLICE(""), SLICE("R1"), SLICE("paid"), SLICE("pay_B")};
    const char *link_signature = "0879cd6fe3c315249c1ff7bf7deaa183e69ee9c18c6b354ce731a88868cfc469",
               *invoice_signature = "322ed85126046ba00b295051d6a3c833ef5ba073ad3fe3e433af16d12f0bc33e";
    (void)state;
    assert_int_equal(razorpay_verify_form(&secrets, RAZORPAY_PAYMENT_LINK, link, slice_str(link_signature), &err), OK);
    assert_int_equal(razorpay_verify_form(&secrets, RAZORPAY_INVOICE, invoice, slice_str(invoice_signature), &err), OK);
    assert_int_equal(razorpay_verify_form(&secrets, RAZORPAY_INVOICE, no_id, slice_str(invoice_signature), &err), ERR);
}

static void test_every_flipped_digit_is_noticed(void **state)
{
    (void)state;
    char signature[] = EVENT_SIGNATURE;
    for (size_t i = 0; i < 64; i++) {
        char digit = signature[i];
        signature[i] = digit == '0' ? '1' : '0';
        assert_int_equal(verify(SLICE("whsec_demo_1"), SLICE(EVENT), slice_str(signature)), ERR);
        signature[i] = digit;
    }
    assert_int_equal(verify(SLICE("whsec_demo_1"), SLICE(EVENT), slice_str(signature)), OK);
}

static void test_ill_formed_signatures(void **state)
{
    (void)state;
    static const char *const signatures[] = {
        "",
        "0",
        "012eb020000dfea8902fc532e42d93ba272bc3a088837ce9a124eaf58ac6bf4",    /* 63 */
        EVENT_SIGNATURE "0",                                                  /* 65 */
        EVENT_SIGNATURE EVENT_SIGNATURE,                                      /* twice */
        "012EB020000DFEA8902FC532E42D93BA272BC3A088837CE9A124EAF58AC6BF48",   /* upper case */
        "012eb020000dfea8902fc532e42d93ba272bc3a088837ce9a124eaf58ac6bf4g",   /* no hex digit */
        " 12eb020000dfea8902fc532e42d93ba272bc3a088837ce9a124eaf58ac6bf48",   /* blank */
        "sha256=012eb020000dfea8902fc532e42d93ba272bc3a088837ce9a124eaf58ac", /* another service's form */
    };
    for (size_t i = 0; i < ARRAY_LEN(signatures); i++)
        assert_int_equal(verify(SLICE("whsec_demo_1"), SLICE(EVENT), slice_str(signatures[i])), ERR);
    assert_int_equal(verify(SLICE("whsec_demo_1"), SLICE(EVENT), slice_of(NULL, 0)), ERR);
    char with_nul[64] = EVENT_SIGNATURE;
    with_nul[63] = '\0';
    assert_int_equal(verify(SLICE("whsec_demo_1"), SLICE(EVENT), slice_of(with_nul, 64)), ERR);
}

static void test_changed_bodies(void **state)
{
    (void)state;
    const struct slice secret = SLICE("whsec_demo_1"), signature = SLICE(EVENT_SIGNATURE);
    assert_int_equal(verify(secret, SLICE(EVENT " "), signature), ERR);
    assert_int_equal(verify(secret, SLICE(" " EVENT), signature), ERR);
    assert_int_equal(verify(secret, slice_of(EVENT "\0", sizeof EVENT), signature), ERR);
    assert_int_equal(verify(secret, slice_of(EVENT, sizeof EVENT - 2), signature), ERR);
    assert_int_equal(verify(secret, slice_of(NULL, 0), signature), ERR);
    assert_int_equal(verify(SLICE("whsec_demo_2"), SLICE(EVENT), signature), ERR);
    assert_int_equal(verify(SLICE("whsec_demo_1 "), SLICE(EVENT), signature), ERR);
}

static void test_rotation(void **state)
{
    (void)state;
    struct err err;
    const struct slice items[] = {SLICE("current"), SLICE(""), SLICE("whsec_demo_1"), SLICE("oldest")};
    const struct razorpay_secrets all = {items, 4}, current = {items, 1}, previous = {items + 2, 1};
    const struct slice body = SLICE(EVENT), signature = SLICE(EVENT_SIGNATURE);
    assert_int_equal(razorpay_verify(&all, body, signature, &err), OK);
    assert_int_equal(razorpay_verify(&previous, body, signature, &err), OK);
    assert_int_equal(razorpay_verify(&current, body, signature, &err), ERR);
    assert_int_equal(err.code, ERR_BAD_SIGNATURE);
    /* An empty item (a stray comma) does not let in what anybody can sign. */
    const struct slice by_empty_key = SLICE(SIGNED_BY_EMPTY_KEY);
    assert_int_equal(razorpay_verify(&all, slice_of(NULL, 0), by_empty_key, &err), ERR);
    assert_int_equal(err.code, ERR_BAD_SIGNATURE);
}

/* Without a secret nothing is valid, least of all what an empty secret signs. */
static void test_no_secret_is_refused(void **state)
{
    (void)state;
    struct err err;
    const struct slice parts[] = {SLICE(ORDER), SLICE(PAYMENT)};
    const struct slice empty[] = {SLICE(""), {NULL, 0}};
    const struct razorpay_secrets lists[] = {{NULL, 0}, {empty, 1}, {empty, 2}};
    const struct slice by_empty_key = SLICE(SIGNED_BY_EMPTY_KEY);
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        assert_int_equal(razorpay_verify(&lists[i], slice_of(NULL, 0), by_empty_key, &err), ERR);
        assert_int_equal(err.code, ERR_REFUSED);
        assert_int_equal(razorpay_verify(&lists[i], SLICE(EVENT), SLICE(EVENT_SIGNATURE), &err), ERR);
        assert_int_equal(err.code, ERR_REFUSED);
        assert_int_equal(razorpay_verify_form(&lists[i], RAZORPAY_CHECKOUT, parts, SLICE(SIGNATURE), &err), ERR);
        assert_int_equal(err.code, ERR_REFUSED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_checkout),
        cmocka_unit_test(test_checkout_refuses_separators),
        cmocka_unit_test(test_the_other_forms),
        cmocka_unit_test(test_empty_parts),
        cmocka_unit_test(test_every_flipped_digit_is_noticed),
        cmocka_unit_test(test_ill_formed_signatures),
        cmocka_unit_test(test_changed_bodies),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_no_secret_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
