/* The only file that includes libcrypto: hashes, HMAC, constant-time compare, random bytes, base64, hex. */
#pragma once

#include "base/buf.h"

#define CRYPTO_SHA256_LEN 32
void crypto_sha256(struct slice data, unsigned char out[CRYPTO_SHA256_LEN]);
#define CRYPTO_SHA1_LEN 20
void crypto_sha1(struct slice data, unsigned char out[CRYPTO_SHA1_LEN]); /* names Redis scripts; proves nothing */
void crypto_hmac_sha256(struct slice key, struct slice data, unsigned char out[CRYPTO_SHA256_LEN]);
/* Time depends only on the length; false at once if lengths differ. */
bool crypto_equal(struct slice a, struct slice b);
/* Authenticated encryption, AES-256-GCM under a key derived from `secret` (HMAC-SHA256) and a random nonce: appends
 * version, nonce, ciphertext, tag. `context` is not stored; it must be the same to open: what belongs where. */
#define CRYPTO_SEAL_EXTRA (1 + 12 + 16)
void crypto_seal(struct slice secret, struct slice context, struct slice plain, struct buf *out);
/* Appends the plain text; false if it was not sealed so, or was changed. */
bool crypto_unseal(struct slice secret, struct slice context, struct slice sealed, struct buf *out) MUST_CHECK;
void crypto_random(void *out, size_t len); /* aborts if the system has none */
void crypto_hex(struct slice data, char *out /* 2 * len bytes, not terminated */);
bool crypto_unhex(struct slice hex, unsigned char *out /* len / 2 */) MUST_CHECK; /* false on odd length or non-hex */
void crypto_base64(struct slice data, bool url, struct buf *out); /* url: RFC 4648 §5 without padding */
bool crypto_unbase64(struct slice text, bool url, struct buf *out) MUST_CHECK;
