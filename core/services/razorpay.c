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
#define PART_MAX_LEN 255     /* of an id; real ones have about 20 */

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

static const struct form {
    size_t n_parts;
    unsigned may_be_empty; /* bit set of 1 << part */
} forms[] = {
    [RAZORPAY_CHECKOUT] = {2, 0},
    [RAZORPAY_SUBSCRIPTION] = {2, 0},
    [RAZORPAY_PAYMENT_LINK] = {4, 1u << 1},
    [RAZORPAY_INVOICE] = {4, 1u << 1},
};

size_t razorpay_n_parts(enum razorpay_form form)
{
    return forms[form].n_parts;
}

/* Parts are joined by '|', so none may contain one: "a|b" + "c" would sign like "a" + "b|c". */
static bool is_part(struct slice part, bool may_be_empty)
{
    return (part.len > 0 || may_be_empty) && part.len <= PART_MAX_LEN &&
           (part.len == 0 || !memchr(part.ptr, '|', part.len));
}

enum status razorpay_verify_form(const struct razorpay_secrets *secrets, enum razorpay_form form,
                                 const struct slice *parts, struct slice signature_hex, struct err *err)
{
    char message[RAZORPAY_PARTS_MAX * (PART_MAX_LEN + 1)];
    size_t len = 0;
    for (size_t i = 0; i < forms[form].n_parts; i++) {
        if (!is_part(parts[i], forms[form].may_be_empty >> i & 1))
            return err_set(err, ERR_BAD_SIGNATURE, "razorpay: part %zu is nothing that Razorpay signs", i + 1);
        if (i > 0)
            message[len++] = '|';
        if (parts[i].len > 0)
            memcpy(message + len, parts[i].ptr, parts[i].len);
        len += parts[i].len;
    }
    return razorpay_verify(secrets, slice_of(message, len), signature_hex, err);
}
