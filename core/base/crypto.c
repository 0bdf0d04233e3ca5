/* The only file that includes libcrypto. HMAC is on the payment path, and in OpenSSL 3 a one-shot call spends
 * more on looking its algorithm up than on hashing: algorithms are fetched once per process, and each thread
 * keeps one digest and one MAC context, started anew for each message. A context holds its last key until
 * then; keys live in this process's memory anyway.
 *
 * Failures of libcrypto on these operations mean a broken installation: they abort, never return "valid". */
#include "base/crypto.h"

#include <limits.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <threads.h>

struct contexts {
    EVP_MD_CTX *digest;
    EVP_MAC_CTX *mac; /* HMAC-SHA256, without a key yet */
};

static once_flag fetch_once = ONCE_FLAG_INIT;
static EVP_MD *sha256;
static EVP_MAC *hmac;
static tss_t contexts_key; /* frees a thread's contexts at its end */
static _Thread_local struct contexts *contexts;

static void contexts_free(void *data)
{
    struct contexts *c = data;
    EVP_MD_CTX_free(c->digest);
    EVP_MAC_CTX_free(c->mac);
    OPENSSL_free(c);
}

static void fetch_algorithms(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    CHECK(sha256 && hmac);
    CHECK(tss_create(&contexts_key, contexts_free) == thrd_success);
}

static struct contexts *contexts_new(void)
{
    char name[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name, 0), OSSL_PARAM_END};
    call_once(&fetch_once, fetch_algorithms);
    contexts = OPENSSL_zalloc(sizeof *contexts);
    CHECK(contexts);
    contexts->digest = EVP_MD_CTX_new();
    contexts->mac = EVP_MAC_CTX_new(hmac);
    CHECK(contexts->digest && contexts->mac);
    CHECK(EVP_MAC_CTX_set_params(contexts->mac, params) == 1);
    CHECK(tss_set(contexts_key, contexts) == thrd_success);
    return contexts;
}

static inline struct contexts *contexts_get(void)
{
    return contexts ? contexts : contexts_new();
}

static inline const unsigned char *bytes_of(struct slice s)
{
    return s.len ? (const unsigned char *)s.ptr : (const unsigned char *)"";
}

void crypto_sha256(struct slice data, unsigned char out[CRYPTO_SHA256_LEN])
{
    EVP_MD_CTX *ctx = contexts_get()->digest;
    CHECK(EVP_DigestInit_ex2(ctx, sha256, NULL) == 1);
    CHECK(EVP_DigestUpdate(ctx, bytes_of(data), data.len) == 1);
    CHECK(EVP_DigestFinal_ex(ctx, out, NULL) == 1);
}

void crypto_sha1(struct slice data, unsigned char out[CRYPTO_SHA1_LEN])
{
    CHECK(EVP_Digest(bytes_of(data), data.len, out, NULL, EVP_sha1(), NULL) == 1);
}

void crypto_hmac_sha256(struct slice key, struct slice data, unsigned char out[CRYPTO_SHA256_LEN])
{
    EVP_MAC_CTX *ctx = contexts_get()->mac;
    size_t len = 0;
    /* The key pointer must not be NULL even for an empty key: NULL means "the last one again". */
    CHECK(EVP_MAC_init(ctx, bytes_of(key), key.len, NULL) == 1);
    CHECK(EVP_MAC_update(ctx, bytes_of(data), data.len) == 1);
    CHECK(EVP_MAC_final(ctx, out, &len, CRYPTO_SHA256_LEN) == 1 && len == CRYPTO_SHA256_LEN);
}

bool crypto_equal(struct slice a, struct slice b)
{
    return a.len == b.len && CRYPTO_memcmp(bytes_of(a), bytes_of(b), a.len) == 0;
}

/* ---- sealing -------------------------------------------------------------------------------------------------- */

enum { SEAL_VERSION = 1, NONCE_LEN = 12, TAG_LEN = 16 };

static EVP_CIPHER_CTX *start_gcm(struct slice secret, struct slice context, const unsigned char *nonce, bool encrypts)
{
    unsigned char key[CRYPTO_SHA256_LEN];
    int n;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    CHECK(ctx && context.len < INT_MAX);
    crypto_hmac_sha256(secret, SLICE("chowk seal 1"), key); /* any secret gives a key of the right length */
    CHECK(EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce, encrypts) == 1);
    CHECK(EVP_CipherUpdate(ctx, NULL, &n, bytes_of(context), (int)context.len) == 1);
    OPENSSL_cleanse(key, sizeof key);
    return ctx;
}

void crypto_seal(struct slice secret, struct slice context, struct slice plain, struct buf *out)
{
    CHECK(plain.len < INT_MAX - CRYPTO_SEAL_EXTRA);
    unsigned char *at = (unsigned char *)buf_reserve(out, plain.len + CRYPTO_SEAL_EXTRA);
    int n = 0, rest;
    at[0] = SEAL_VERSION;
    crypto_random(at + 1, NONCE_LEN);
    EVP_CIPHER_CTX *ctx = start_gcm(secret, context, at + 1, true);
    unsigned char *text = at + 1 + NONCE_LEN;
    CHECK(EVP_CipherUpdate(ctx, text, &n, bytes_of(plain), (int)plain.len) == 1 && (size_t)n == plain.len);
    CHECK(EVP_CipherFinal_ex(ctx, text + n, &rest) == 1);
    CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_LEN, text + n) == 1);
    EVP_CIPHER_CTX_free(ctx);
    out->len += plain.len + CRYPTO_SEAL_EXTRA;
}

bool crypto_unseal(struct slice secret, struct slice context, struct slice sealed, struct buf *out)
{
    const unsigned char *in = bytes_of(sealed);
    if (sealed.len < CRYPTO_SEAL_EXTRA || sealed.len >= INT_MAX || in[0] != SEAL_VERSION)
        return false;
    size_t len = sealed.len - CRYPTO_SEAL_EXTRA;
    unsigned char *plain = (unsigned char *)buf_reserve(out, len + 1), tag[TAG_LEN];
    int n = 0, rest;
    memcpy(tag, in + 1 + NONCE_LEN + len, TAG_LEN);
    EVP_CIPHER_CTX *ctx = start_gcm(secret, context, in + 1, false);
    CHECK(EVP_CipherUpdate(ctx, plain, &n, in + 1 + NONCE_LEN, (int)len) == 1);
    CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_LEN, tag) == 1);
    bool is_ours = EVP_CipherFinal_ex(ctx, plain + n, &rest) == 1;
    EVP_CIPHER_CTX_free(ctx);
    if (is_ours)
        out->len += len;
    else
        OPENSSL_cleanse(plain, len);
    return is_ours;
}

void crypto_random(void *out, size_t len)
{
    CHECK(len <= INT_MAX);
    CHECK(RAND_bytes(out, (int)len) == 1);
}

/* ---- hex ---- */

void crypto_hex(struct slice data, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < data.len; i++) {
        unsigned char byte = (unsigned char)data.ptr[i];
        *out++ = digits[byte >> 4];
        *out++ = digits[byte & 15];
    }
}

static int unhex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool crypto_unhex(struct slice hex, unsigned char *out)
{
    if (hex.len % 2 != 0)
        return false;
    for (size_t i = 0; i < hex.len; i += 2) {
        int high = unhex_digit(hex.ptr[i]), low = unhex_digit(hex.ptr[i + 1]);
        if (high < 0 || low < 0)
            return false;
        *out++ = (unsigned char)(high << 4 | low);
    }
    return true;
}

/* ---- base64: strict both ways (RFC 4648 3.3, 3.5), one text per value ---- */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char url_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void crypto_base64(struct slice data, bool url, struct buf *out)
{
    const char *digits = url ? url_alphabet : alphabet;
    const unsigned char *p = bytes_of(data);
    CHECK(data.len < SIZE_MAX / 2);
    if (data.len == 0)
        return;
    char *to = buf_reserve(out, (data.len + 2) / 3 * 4), *first = to;
    size_t left = data.len;
    for (; left >= 3; left -= 3, p += 3) {
        *to++ = digits[p[0] >> 2];
        *to++ = digits[(p[0] & 3) << 4 | p[1] >> 4];
        *to++ = digits[(p[1] & 15) << 2 | p[2] >> 6];
        *to++ = digits[p[2] & 63];
    }
    if (left > 0) {
        unsigned second = left == 2 ? p[1] : 0;
        *to++ = digits[p[0] >> 2];
        *to++ = digits[(p[0] & 3) << 4 | second >> 4];
        if (left == 2)
            *to++ = digits[(second & 15) << 2];
        for (; !url && left < 3; left++)
            *to++ = '=';
    }
    out->len += (size_t)(to - first);
}

static int base64_digit(char c, bool url)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == (url ? '-' : '+'))
        return 62;
    if (c == (url ? '_' : '/'))
        return 63;
    return -1;
}

/* Without padding; `n` 1 cannot be, and bits left over must be zero. */
static bool unbase64_digits(struct slice text, bool url, struct buf *out)
{
    uint32_t bits = 0;
    int n_bits = 0;
    if (text.len % 4 == 1)
        return false;
    char *to = buf_reserve(out, text.len / 4 * 3 + 3);
    for (size_t i = 0; i < text.len; i++) {
        int digit = base64_digit(text.ptr[i], url);
        if (digit < 0)
            return false;
        bits = bits << 6 | (uint32_t)digit;
        n_bits += 6;
        if (n_bits < 8)
            continue;
        n_bits -= 8;
        *to++ = (char)(bits >> n_bits & 0xFF);
        bits &= (1u << n_bits) - 1;
    }
    if (bits != 0)
        return false;
    out->len = (size_t)(to - out->ptr);
    return true;
}

bool crypto_unbase64(struct slice text, bool url, struct buf *out)
{
    if (!url) {
        if (text.len % 4 != 0)
            return false;
        for (int i = 0; i < 2 && text.len > 0 && text.ptr[text.len - 1] == '='; i++)
            text.len--;
    }
    return unbase64_digits(text, url, out);
}
