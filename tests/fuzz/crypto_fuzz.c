/* The texts of base/crypto.h, which carry signatures and tokens: one text for each byte string and no other (so that a
 * token cannot be altered and still be taken for itself), and no signature but the right one. */
#include "fuzz.h"

#include <stdlib.h>

#include "base/crypto.h"
#include "services/razorpay.h"

static void check_base64(struct slice text, bool url)
{
    struct buf bytes = {0}, again = {0};
    if (crypto_unbase64(text, url, &bytes)) {
        crypto_base64(buf_as_slice(&bytes), url, &again);
        CHECK(slice_eq(buf_as_slice(&again), text));
    }
    buf_clear(&bytes);
    buf_clear(&again);
    crypto_base64(text, url, &again);
    CHECK(crypto_unbase64(buf_as_slice(&again), url, &bytes) && slice_eq(buf_as_slice(&bytes), text));
    buf_free(&bytes);
    buf_free(&again);
}

static void check_hex(struct slice text)
{
    unsigned char *bytes = xalloc(text.len / 2);
    char *again = xalloc(text.len + 1);
    if (crypto_unhex(text, bytes)) {
        CHECK(text.len % 2 == 0);
        crypto_hex(slice_of((const char *)bytes, text.len / 2), again);
        CHECK(slice_ieq(slice_of(again, text.len), text));
    }
    free(bytes);
    free(again);
}

/* The first line is a signature of the rest. */
static void check_signature(struct slice text)
{
    static const struct slice keys[] = {{"current", 7}, {"previous", 8}};
    static const struct razorpay_secrets secrets = {keys, ARRAY_LEN(keys)};
    struct slice body = text;
    struct slice signature = fuzz_take_line(&body);
    unsigned char mac[CRYPTO_SHA256_LEN];
    char hex[2 * CRYPTO_SHA256_LEN];
    bool is_right = false;
    struct err err = {0};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        crypto_hmac_sha256(keys[i], body, mac);
        crypto_hex(slice_of((const char *)mac, sizeof mac), hex);
        is_right = is_right || slice_eq(signature, slice_of(hex, sizeof hex));
        CHECK(razorpay_verify(&secrets, body, slice_of(hex, sizeof hex), &err) == OK);
    }
    enum status status = razorpay_verify(&secrets, body, signature, &err);
    CHECK((status == OK) == is_right && (is_right || err.code == ERR_BAD_SIGNATURE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = fuzz_input(data, size);
    check_base64(text, false);
    check_base64(text, true);
    check_hex(text);
    check_signature(text);
    return 0;
}
