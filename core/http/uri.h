/* Percent-decoding and query strings (RFC 3986 2.1, WHATWG urlencoded parsing for the query). */
#pragma once

#include "base/arena.h"

/* Decodes %XX, and '+' as space if `plus`. *out borrows from `text` when there is nothing to decode, else from
 * `arena`. ERR (*out untouched): a '%' without two hex digits, a decoded NUL, or bytes that are not UTF-8:
 * nothing behind us could store them. */
enum status http_uri_decode(struct slice text, bool plus, struct arena *arena, struct slice *out) MUST_CHECK;

/* Takes the next "name=value" off the front of *rest (a query without '?', or an urlencoded body); empty pairs
 * are skipped, a pair without '=' has an empty value. Both parts are decoded, '+' is a space.
 * OK: one pair. AGAIN: none left. ERR: an invalid escape. */
enum status http_uri_next_pair(struct slice *rest, struct arena *arena, struct slice *name,
                               struct slice *value) MUST_CHECK;
