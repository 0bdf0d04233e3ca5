#include "base/crypto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

/* A literal with NULs or any other bytes. */
#define BYTES(literal) SLICE(literal)

static void assert_hex(const unsigned char *digest, const char *expected)
{
    char hex[2 * CRYPTO_SHA256_LEN + 1] = {0};
    crypto_hex(slice_of((const char *)digest, CRYPTO_SHA256_LEN), hex);
    assert_string_equal(hex, expected);
}

/* FIPS 180-2 and NIST's examples. */
static void test_sha256(void **state)
{
    (void)state;
    unsigned char digest[CRYPTO_SHA256_LEN];
    crypto_sha256(slice_of(NULL, 0), digest);
    assert_hex(digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    crypto_sha256(SLICE("abc"), digest);
    assert_hex(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    crypto_sha256(SLICE("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"), digest);
    assert_hex(digest, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    static char million[1000000];
    memset(million, 'a', sizeof million);
    crypto_sha256(slice_of(million, sizeof million), digest);
    assert_hex(digest, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static struct slice repeat(char *out, char byte, size_t n)
{
    memset(out, byte, n);
    return slice_of(out, n);
}

/* RFC 4231, all seven cases; the fifth is truncated to 128 bits. */
static void test_hmac_rfc4231(void **state)
{
    (void)state;
    char key[4][131], data[2][50];
    const struct {
        struct slice key, data;
        const char *mac;
    } rows[] = {
        {repeat(key[0], 0x0b, 20), SLICE("Hi There"),
         "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {SLICE("Jefe"), SLICE("what do ya want for nothing?"),
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {repeat(key[1], (char)0xaa, 20), repeat(data[0], (char)0xdd, 50),
         "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
        {BYTES("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19"),
         repeat(data[1], (char)0xcd, 50), "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
        {repeat(key[2], 0x0c, 20), SLICE("Test With Truncation"), "a3b6167473100ee06e0c796c2955552b"},
        {repeat(key[3], (char)0xaa, 131), SLICE("Test Using Larger Than Block-Size Key - Hash Key First"),
         "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
        {slice_of(key[3], 131),
         SLICE("This is a test using a larger than block-size key and a larger than block-size data. The key needs to "
               "be hashed before being used by the HMAC algorithm."),
         "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        unsigned char mac[CRYPTO_SHA256_LEN];
        char hex[2 * CRYPTO_SHA256_LEN];
        crypto_hmac_sha256(rows[i].key, rows[i].data, mac);
        crypto_hex(slice_of((const char *)mac, sizeof mac), hex);
        assert_memory_equal(hex, rows[i].mac, strlen(rows[i].mac));
    }
}

/* An empty key is a key, not "the last one again"; so is an empty message. */
static void test_hmac_empty(void **state)
{
    (void)state;
    unsigned char mac[CRYPTO_SHA256_LEN];
    crypto_hmac_sha256(SLICE("other"), SLICE("x"), mac);
    crypto_hmac_sha256(slice_of(NULL, 0), slice_of(NULL, 0), mac);
    assert_hex(mac, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void *hmac_many(void *data)
{
    for (int i = 0; i < 2000; i++) {
        unsigned char mac[CRYPTO_SHA256_LEN];
        crypto_hmac_sha256(SLICE("Jefe"), SLICE("what do ya want for nothing?"), mac);
        if (mac[0] != 0x5b || mac[31] != 0x43)
            return NULL;
    }
    return data;
}

static void test_hmac_on_threads(void **state)
{
    (void)state;
    pthread_t threads[3];
    int token;
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hmac_many, &token), 0);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_ptr_equal(result, &token);
    }
}

static void test_equal(void **state)
{
    (void)state;
    assert_true(crypto_equal(SLICE("abc"), SLICE("abc")));
    assert_true(crypto_equal(slice_of(NULL, 0), SLICE("")));
    assert_false(crypto_equal(SLICE("abc"), SLICE("abd")));
    assert_false(crypto_equal(SLICE("abc"), SLICE("abcd")));
    assert_true(crypto_equal(BYTES("a\0b"), BYTES("a\0b")));
    assert_false(crypto_equal(BYTES("a\0b"), BYTES("a\0c")));
}

static void test_random(void **state)
{
    (void)state;
    unsigned char a[32] = {0}, b[32] = {0};
    crypto_random(a, sizeof a);
    crypto_random(b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    crypto_random(a, 0);
}

static void test_hex(void **state)
{
    (void)state;
    char hex[8];
    unsigned char bytes[4];
    crypto_hex(BYTES("\x00\x7f\x80\xff"), hex);
    assert_memory_equal(hex, "007f80ff", 8);
    assert_true(crypto_unhex(SLICE("007F80fF"), bytes));
    assert_memory_equal(bytes, "\x00\x7f\x80\xff", 4);
    assert_true(crypto_unhex(SLICE(""), bytes));
    assert_false(crypto_unhex(SLICE("0"), bytes));
    assert_false(crypto_unhex(SLICE("0g"), bytes));
    assert_false(crypto_unhex(SLICE("g0"), bytes));
    assert_false(crypto_unhex(SLICE(" 0"), bytes));
    assert_false(crypto_unhex(BYTES("0\0"), bytes));
}

static void assert_base64(struct slice data, bool url, const char *text)
{
    struct buf out = {0};
    crypto_base64(data, url, &out);
    assert_true(slice_eq(buf_as_slice(&out), slice_str(text)));
    buf_clear(&out);
    assert_true(crypto_unbase64(slice_str(text), url, &out));
    assert_true(slice_eq(buf_as_slice(&out), data));
    buf_free(&out);
}

/* RFC 4648 section 10, and the two alphabets. */
static void test_base64(void **state)
{
    (void)state;
    assert_base64(SLICE(""), false, "");
    assert_base64(SLICE("f"), false, "Zg==");
    assert_base64(SLICE("fo"), false, "Zm8=");
    assert_base64(SLICE("foo"), false, "Zm9v");
    assert_base64(SLICE("foob"), false, "Zm9vYg==");
    assert_base64(SLICE("fooba"), false, "Zm9vYmE=");
    assert_base64(SLICE("foobar"), false, "Zm9vYmFy");
    assert_base64(SLICE("f"), true, "Zg");
    assert_base64(SLICE("fo"), true, "Zm8");
    assert_base64(BYTES("\xfb\xff\xfe\x00"), false, "+//+AA==");
    assert_base64(BYTES("\xfb\xff\xfe\x00"), true, "-__-AA");
}

static void test_unbase64_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool url;
    } rows[] = {
        {"Zg", false},          {"Zg=", false},    {"Z===", false},  {"====", false}, {"=", false},
        {"Zg==Zg==", false},    {"Zm9v\n", false}, {"Zm 9", false},  {"Zh==", false}, {"Zm9=", false},
        {"-__-", false},        {"Zg==", true},    {"Z", true},      {"Zh", true},    {"+//+", true},
        {"Zm9v\xC3\xA9", true}, {"Zm=v", false},   {"Zm8==", false},
    };
    struct buf out = {0};
    buf_lit(&out, "kept");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (crypto_unbase64(slice_str(rows[i].text), rows[i].url, &out))
            fail_msg("took \"%s\"", rows[i].text);
        assert_true(slice_eq(buf_as_slice(&out), SLICE("kept")));
    }
    assert_true(crypto_unbase64(SLICE("IQ=="), false, &out)); /* appends */
    assert_true(slice_eq(buf_as_slice(&out), SLICE("kept!")));
    buf_free(&out);
}

static void test_sealed_opens_only_as_it_was_sealed(void **state)
{
    struct buf sealed = {0}, again = {0}, plain = {0};
    (void)state;
    crypto_seal(SLICE("secret"), SLICE("order 1"), SLICE("four words of text"), &sealed);
    crypto_seal(SLICE("secret"), SLICE("order 1"), SLICE("four words of text"), &again);
    assert_int_equal(sealed.len, 18 + CRYPTO_SEAL_EXTRA);
    assert_memory_not_equal(sealed.ptr, again.ptr, sealed.len);
    assert_true(crypto_unseal(SLICE("secret"), SLICE("order 1"), buf_as_slice(&sealed), &plain));
    assert_int_equal(plain.len, 18);
    assert_memory_equal(plain.ptr, "four words of text", 18);
    assert_false(crypto_unseal(SLICE("secrex"), SLICE("order 1"), buf_as_slice(&sealed), &plain));
    assert_false(crypto_unseal(SLICE("secret"), SLICE("order 2"), buf_as_slice(&sealed), &plain));
    for (size_t i = 0; i < sealed.len; i++) {
        sealed.ptr[i] ^= 1;
        assert_false(crypto_unseal(SLICE("secret"), SLICE("order 1"), buf_as_slice(&sealed), &plain));
        sealed.ptr[i] ^= 1;
    }
    assert_false(crypto_unseal(SLICE("secret"), SLICE(""), slice_of(sealed.ptr, CRYPTO_SEAL_EXTRA - 1), &plain));
    assert_int_equal(plain.len, 18);
    buf_free(&sealed);
    buf_free(&again);
    buf_free(&plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),     cmocka_unit_test(test_hmac_rfc4231),
        cmocka_unit_test(test_hmac_empty), cmocka_unit_test(test_hmac_on_threads),
        cmocka_unit_test(test_equal),      cmocka_unit_test(test_random),
        cmocka_unit_test(test_hex),        cmocka_unit_test(test_sealed_opens_only_as_it_was_sealed),
        cmocka_unit_test(test_base64),     cmocka_unit_test(test_unbase64_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
