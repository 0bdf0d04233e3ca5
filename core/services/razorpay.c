/* Signatures only: no key is fetched here, nothing is parsed and nothing sent. The caller hands in the exact
 * bytes, the secrets (current first, then the previous ones, because redeliveries stay signed with the secret
 * of their first day) and the hex that came with them.
 *
 * Every secret is tried even after a match, so the time taken says nothing about which one it was. An empty
 * secret never matches: anybody can sign with it. A good signature says who wrote the message and no more;
 * whether money was captured is another question (payments.confirm). */
#include "services/razorpay.h"

#include "base/crypto.h"

#define SIGNATURE_HEX_LEN 64 /* 2 * CRYPTO_SHA256_LEN */
#define ID_MAX_LEN 255       /* of an order or payment id; real ones have about 20 */

static bool is_lower_hex(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
    }
    return true;
}

enum status razorpay_verify(const struct razorpay_secrets *secrets, struct slice message, struct slice signature_hex,
                            struct err *err)
{
    size_t n_usable = 0;
    bool is_valid = false;
    for (size_t i = 0; i < secrets->n_items; i++)
        n_usable += secrets->items[i].len > 0;
    if (n_usable == 0)
        return err_set(err, ERR_REFUSED, "razorpay: no secret is configured, so no signature can be verified");
    if (signature_hex.len != SIGNATURE_HEX_LEN || !is_lower_hex(signature_hex))
        return err_set(err, ERR_BAD_SIGNATURE, "razorpay: a signature is 64 lower-case hex digits");
    for (size_t i = 0; i < secrets->n_items; i++) {
        unsigned char mac[CRYPTO_SHA256_LEN];
        char hex[SIGNATURE_HEX_LEN];
        if (secrets->items[i].len == 0)
            continue;
        crypto_hmac_sha256(secrets->items[i], message, mac);
        crypto_hex(slice_of((const char *)mac, sizeof mac), hex);
        is_valid |= crypto_equal(slice_of(hex, sizeof hex), signature_hex);
    }
    return is_valid ? OK : err_set(err, ERR_BAD_SIGNATURE, "razorpay: the signature does not match");
}

/* Ids are joined by '|', so neither may contain one: "a|b" + "c" would sign like "a" + "b|c". */
static bool is_id(struct slice id)
{
    return id.len > 0 && id.len <= ID_MAX_LEN && !memchr(id.ptr, '|', id.len);
}

enum status razorpay_verify_checkout(const struct razorpay_secrets *secrets, struct slice order_id,
                                     struct slice payment_id, struct slice signature_hex, struct err *err)
{
    char message[2 * ID_MAX_LEN + 1];
    if (!is_id(order_id) || !is_id(payment_id))
        return err_set(err, ERR_BAD_SIGNATURE, "razorpay: not an order id and a payment id");
    memcpy(message, order_id.ptr, order_id.len);
    message[order_id.len] = '|';
    memcpy(message + order_id.len + 1, payment_id.ptr, payment_id.len);
    return razorpay_verify(secrets, slice_of(message, order_id.len + 1 + payment_id.len), signature_hex, err);
}

enum status razorpay_verify_webhook(const struct razorpay_secrets *secrets, struct slice raw_body,
                                    struct slice signature_hex, struct err *err)
{
    return razorpay_verify(secrets, raw_body, signature_hex, err);
}
