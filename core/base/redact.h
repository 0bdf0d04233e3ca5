/* What may not be in a log: secrets and personal data, told by a field's name or by what a text looks like. A net, not
 * a proof: what a name does not tell and a pattern does not show goes through.
 *
 *   by name   password, passwd, pwd, secret, token, authorization, cookie, signature, credential, api key, private key,
 *             otp, pin, cvv, cvc, jwt, session id · email, phone, mobile, contact, upi, vpa, aadhaar, pan, card number:
 *             in any spelling (apiKey, API-Key, user_email) → "***"
 *   by look   e-mail addresses → [email]; phone numbers (+…, ten digits as Indian mobiles have) → [phone]; card numbers
 *             (13 to 19 digits that pass Luhn's check) → [card]; values in PostgreSQL's details, as in
 *             "Key (name)=(…) already exists" → (***)
 *   by kind   IP addresses: the network is kept, /24 or /48 */
#pragma once

#include "base/buf.h"

bool redact_is_name(struct slice name); /* its value may not be shown, whatever it is */
/* These append to *out what may be shown, and return true; false: nothing is to be hidden, and nothing appended. */
bool redact_text(struct slice text, struct buf *out) MUST_CHECK;
bool redact_json(struct slice json, struct buf *out) MUST_CHECK; /* well-formed; names inside it count too */
void redact_ip(struct slice ip, struct buf *out); /* 192.0.2.7 → 192.0.2.0, 2001:db8:1:2::3 → 2001:db8:1:: */
