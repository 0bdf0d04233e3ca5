/* Razorpay signatures (FACTS 1.6): lower-case hex HMAC-SHA256 over exact bytes, compared in constant time against
 * each secret of a rotation list. Pure functions; nothing is parsed. */
#pragma once

#include "base/err.h"
#include "base/slice.h"

struct razorpay_secrets {
    const struct slice *items; /* current first */
    size_t n_items;
};
/* OK, or ERR with ERR_BAD_SIGNATURE. An empty list is ERR_REFUSED: never "valid". */
enum status razorpay_verify(const struct razorpay_secrets *secrets, struct slice message, struct slice signature_hex,
                            struct err *err) MUST_CHECK;
/* Checkout: order_id from our database, not from the client. */
enum status razorpay_verify_checkout(const struct razorpay_secrets *secrets, struct slice order_id,
                                     struct slice payment_id, struct slice signature_hex, struct err *err) MUST_CHECK;
enum status razorpay_verify_webhook(const struct razorpay_secrets *secrets, struct slice raw_body,
                                    struct slice signature_hex, struct err *err) MUST_CHECK;
