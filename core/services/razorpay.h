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
/* What a browser brings back, by the flow that signed it: these parts in this order, joined by '|'. What we know
 * ourselves (the order's id) comes from our database, not from the client. */
enum razorpay_form {
    RAZORPAY_CHECKOUT,     /* order id, payment id */
    RAZORPAY_SUBSCRIPTION, /* payment id, subscription id: the other way round */
    RAZORPAY_PAYMENT_LINK, /* link id, reference id (may be empty), status, payment id */
    RAZORPAY_INVOICE,      /* invoice id, receipt (may be empty), status, payment id */
};
#define RAZORPAY_PARTS_MAX 4
size_t razorpay_n_parts(enum razorpay_form form);
enum status razorpay_verify_form(const struct razorpay_secrets *secrets, enum razorpay_form form,
                                 const struct slice *parts, struct slice signature_hex, struct err *err) MUST_CHECK;
