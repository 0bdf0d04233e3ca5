/* The only file that includes libssl: contexts, and client sessions for streams. It owns the SSL objects and the
 * words for what went wrong with them; it knows no descriptor, no loop and no owner.
 *
 * Between libssl and the stream sits a BIO of our own instead of a socket or two memory BIOs. Sending, it hands
 * each record to the stream, which sends with MSG_NOSIGNAL and keeps what the kernel does not take: libssl sees a
 * wire that never blocks, so a write is never half done, to be repeated with the same bytes. Receiving, it reads
 * out of the loop's shared buffer, in which the stream received dozens of records with one recv; the plaintext goes
 * back into the same buffer (tls_priv.h). libssl gives its own buffers back when they are empty
 * (SSL_MODE_RELEASE_BUFFERS), so an idle session holds no bytes.
 *
 * Renegotiation is refused; key updates happen inside tls_decrypt and tls_encrypt. Sessions are not resumed: with
 * TLS 1.3 that would save no round trip, and it would skip the check of the certificate.
 *
 * Never here: a callback of an owner's while libssl is on the stack, a passphrase prompt, an unverified name. */
#include "net/tls_priv.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

#define TLS_CONTEXT_MAGIC 0x715c0001u
#define TLS_MAGIC 0x715c0002u

/* Answers that the peer can make us send without sending data itself (refused renegotiations, key updates): a peer
 * who floods us with such questions must not make us keep answers without end. */
#define MAX_REPLIES 64

struct tls_context {
    unsigned magic, n_refs; /* the owner and each session */
    SSL_CTX *ssl_ctx;
    BIO_METHOD *bio_method;
};

struct tls {
    unsigned magic;
    struct tls_context *context;
    SSL *ssl;
    const struct tls_wire *wire;
    void *data;
    struct slice in; /* received, not taken yet: borrowed while tls_decrypt runs */
    struct buf kept; /* plaintext */
    char *host;
    int errnum; /* of the wire; 0 = it is sound */
    unsigned n_replies;
    bool is_open; /* libssl reads what is `in`; else from the wire */
    bool is_decrypting, is_broken;
    char error[256];
};

/* ---- words --------------------------------------------------------------------------------------------- */

/* Where libssl's own words would puzzle who runs the shop. */
static const struct {
    int lib, reason;
    const char *text;
} reasons[] = {
    {ERR_LIB_SSL, SSL_R_WRONG_VERSION_NUMBER, "the peer does not speak TLS on this port"},
    {ERR_LIB_SSL, SSL_R_UNSUPPORTED_PROTOCOL, "the peer offers no TLS version from 1.2 on"},
    {ERR_LIB_SSL, SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, "the peer offers no TLS version from 1.2 on"},
    {ERR_LIB_SSL, SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE,
     "the peer refused: no cipher in common, or no client certificate"},
    {ERR_LIB_SSL, SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, "the peer wants a client certificate"},
    {ERR_LIB_SSL, SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, "the peer refused our client certificate"},
    {ERR_LIB_SSL, SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED, "the peer refused our client certificate: it has expired"},
    {ERR_LIB_SSL, SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED, "the peer refused our client certificate: it was revoked"},
    {ERR_LIB_SSL, SSL_R_TLSV1_ALERT_UNKNOWN_CA, "the peer refused our client certificate: it does not know its CA"},
    {ERR_LIB_PEM, PEM_R_NO_START_LINE, "no certificate in it"},
    {ERR_LIB_X509, X509_R_NO_CERTIFICATE_OR_CRL_FOUND, "no certificate in it"},
    {ERR_LIB_X509, X509_R_KEY_VALUES_MISMATCH, "not the key of the certificate"},
    {ERR_LIB_OSSL_DECODER, ERR_R_UNSUPPORTED, "no private key in it"},
    {ERR_LIB_CRYPTO, ERR_R_INTERRUPTED_OR_CANCELLED, "locked with a passphrase, and nobody is there to type it"},
};

static const char *reason_text(unsigned long code)
{
    if (ERR_SYSTEM_ERROR(code))
        return strerror(ERR_GET_REASON(code));
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++) {
        if (reasons[i].lib == ERR_GET_LIB(code) && reasons[i].reason == ERR_GET_REASON(code))
            return reasons[i].text;
    }
    const char *text = ERR_reason_error_string(code);
    return text ? text : "unknown reason";
}

static enum status fail_text(struct tls *tls, const char *text)
{
    tls->is_broken = true;
    snprintf(tls->error, sizeof(tls->error), "%s", text);
    return ERR;
}

/* The first error in libssl's queue is the one that knows; later ones say who called whom. */
static enum status fail(struct tls *tls)
{
    unsigned long code = ERR_peek_error();
    tls->is_broken = true;
    if (tls->n_replies > MAX_REPLIES)
        (void)fail_text(tls, "the peer asks for new keys without end");
    else if (ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED)
        snprintf(tls->error, sizeof(tls->error), "certificate verify failed: %s",
                 X509_verify_cert_error_string(SSL_get_verify_result(tls->ssl)));
    else
        snprintf(tls->error, sizeof(tls->error), "%s",
                 tls->errnum && !code ? strerror(tls->errnum) : reason_text(code));
    ERR_clear_error();
    return ERR;
}

const char *tls_error(const struct tls *tls)
{
    return tls->error;
}

const char *tls_host(const struct tls *tls)
{
    return tls->host;
}

/* ---- the wire as libssl sees it ------------------------------------------------------------------------ */

static int on_bio_read(BIO *bio, char *out, size_t room, size_t *n_read)
{
    struct tls *tls;
    CAST_OBJ(tls, BIO_get_data(bio), TLS_MAGIC);
    BIO_clear_retry_flags(bio);
    *n_read = 0;
    if (tls->is_open && tls->in.len == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    if (tls->is_open) {
        *n_read = room < tls->in.len ? room : tls->in.len;
        memcpy(out, tls->in.ptr, *n_read);
        tls->in = slice_of(tls->in.ptr + *n_read, tls->in.len - *n_read);
        return 1;
    }
    ssize_t n = tls->wire->recv(tls->data, out, room);
    if (n > 0)
        *n_read = (size_t)n;
    else if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(bio);
    else if (!tls->errnum)
        tls->errnum = n < 0 ? errno : EPIPE;
    return n > 0;
}

/* That the wire broke is not told to libssl, which is still needed to read why (fail_wire). */
static int on_bio_write(BIO *bio, const char *ptr, size_t len, size_t *n_written)
{
    struct tls *tls;
    CAST_OBJ(tls, BIO_get_data(bio), TLS_MAGIC);
    BIO_clear_retry_flags(bio);
    *n_written = 0;
    if (tls->is_decrypting && ++tls->n_replies > MAX_REPLIES)
        return 0;
    if (!tls->errnum)
        tls->errnum = tls->wire->send(tls->data, ptr, len);
    *n_written = len;
    return 1;
}

static long on_bio_ctrl(BIO *bio UNUSED, int command, long number UNUSED, void *ptr UNUSED)
{
    return command == BIO_CTRL_FLUSH; /* nothing is ever held back here */
}

static BIO_METHOD *bio_method_new(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "stream");
    CHECK(method && BIO_meth_set_read_ex(method, on_bio_read) && BIO_meth_set_write_ex(method, on_bio_write) &&
          BIO_meth_set_ctrl(method, on_bio_ctrl));
    return method;
}

/* ---- contexts ------------------------------------------------------------------------------------------ */

/* Else libssl would ask on the terminal and wait. */
static int on_passphrase(char *buf UNUSED, int size UNUSED, int is_writing UNUSED, void *data UNUSED)
{
    return -1;
}

static enum status load_trust(SSL_CTX *ssl_ctx, const struct tls_opts *opts, struct err *err)
{
    if (!opts->ca_file && !SSL_CTX_set_default_verify_paths(ssl_ctx))
        return err_set(err, ERR_INVALID, "tls: the system's certificates: %s", reason_text(ERR_peek_error()));
    if (opts->ca_file && !SSL_CTX_load_verify_file(ssl_ctx, opts->ca_file))
        return err_set(err, ERR_INVALID, "tls: ca_file %s: %s", opts->ca_file, reason_text(ERR_peek_error()));
    return OK;
}

static enum status load_identity(SSL_CTX *ssl_ctx, const struct tls_opts *opts, struct err *err)
{
    if (!opts->cert_file)
        return opts->key_file ? err_set(err, ERR_INVALID, "tls: key_file without cert_file") : OK;
    const char *key_file = opts->key_file ? opts->key_file : opts->cert_file;
    if (!SSL_CTX_use_certificate_chain_file(ssl_ctx, opts->cert_file))
        return err_set(err, ERR_INVALID, "tls: cert_file %s: %s", opts->cert_file, reason_text(ERR_peek_error()));
    if (!SSL_CTX_use_PrivateKey_file(ssl_ctx, key_file, SSL_FILETYPE_PEM) || !SSL_CTX_check_private_key(ssl_ctx))
        return err_set(err, ERR_INVALID, "tls: key_file %s: %s", key_file, reason_text(ERR_peek_error()));
    return OK;
}

struct tls_context *tls_context_new(const struct tls_opts *opts, struct err *err)
{
    ERR_clear_error();
    SSL_CTX *ssl_ctx = SSL_CTX_new(TLS_client_method());
    CHECK(ssl_ctx);
    struct tls_context *context = xalloc(sizeof(*context));
    *context = (struct tls_context){TLS_CONTEXT_MAGIC, 1, ssl_ctx, bio_method_new()};
    SSL_CTX_set_min_proto_version(ssl_ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ssl_ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ssl_ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_verify(ssl_ctx, opts->skip_verify ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_default_passwd_cb(ssl_ctx, on_passphrase);
    if (load_trust(ssl_ctx, opts, err) == OK && load_identity(ssl_ctx, opts, err) == OK)
        return context;
    ERR_clear_error();
    tls_context_free(context);
    return NULL;
}

void tls_context_free(struct tls_context *context)
{
    if (!context)
        return;
    CHECK_OBJ(context, TLS_CONTEXT_MAGIC);
    if (--context->n_refs > 0)
        return;
    context->magic = 0;
    SSL_CTX_free(context->ssl_ctx);
    BIO_meth_free(context->bio_method);
    free(context);
}

/* ---- sessions ------------------------------------------------------------------------------------------ */

/* An empty name would switch the check of the name off inside libssl. An IP address is no name for SNI. */
static void set_host(struct tls *tls, const char *host_name)
{
    size_t len = strlen(host_name);
    if (len > 0 && host_name[len - 1] == '.') /* the root's dot is in no certificate */
        len--;
    tls->host = xstrndup(host_name, len);
    X509_VERIFY_PARAM *param = SSL_get0_param(tls->ssl);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (len == 0)
        (void)fail_text(tls, "no host name to verify");
    else if (X509_VERIFY_PARAM_set1_ip_asc(param, tls->host) != 1 &&
             (!SSL_set_tlsext_host_name(tls->ssl, tls->host) || !SSL_set1_host(tls->ssl, tls->host)))
        (void)fail_text(tls, "this cannot be a host name");
    ERR_clear_error();
}

struct tls *tls_new(struct tls_context *context, const char *host_name, const struct tls_wire *wire, void *data)
{
    CHECK_OBJ(context, TLS_CONTEXT_MAGIC);
    context->n_refs++;
    struct tls *tls = xalloc(sizeof(*tls));
    *tls = (struct tls){.magic = TLS_MAGIC, .context = context, .wire = wire, .data = data};
    tls->ssl = SSL_new(context->ssl_ctx);
    BIO *bio = BIO_new(context->bio_method);
    CHECK(tls->ssl && bio);
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio); /* takes it */
    SSL_set_connect_state(tls->ssl);
    set_host(tls, host_name);
    return tls;
}

void tls_free(struct tls *tls)
{
    if (!tls)
        return;
    CHECK_OBJ(tls, TLS_MAGIC);
    SSL_free(tls->ssl);
    buf_free(&tls->kept);
    free(tls->host);
    tls_context_free(tls->context);
    tls->magic = 0;
    free(tls);
}

enum status tls_handshake(struct tls *tls)
{
    CHECK_OBJ(tls, TLS_MAGIC);
    if (tls->is_broken)
        return ERR;
    ERR_clear_error();
    int rc = SSL_do_handshake(tls->ssl);
    if (rc == 1) {
        tls->is_open = true;
        return OK;
    }
    if (SSL_get_error(tls->ssl, rc) == SSL_ERROR_WANT_READ && !tls->errnum)
        return AGAIN;
    if (tls->errnum == EPIPE && ERR_peek_error() == 0)
        return fail_text(tls, "the peer closed the connection during the handshake");
    return fail(tls);
}

/* A peer that refuses us says why and closes, and our write may be what notices: with TLS 1.3 a missing client
 * certificate is told after our handshake is over. The kernel still has its words. */
static enum status fail_wire(struct tls *tls)
{
    char scratch[1024];
    size_t n;
    tls->is_open = false;
    ERR_clear_error();
    for (int i = 0; i < 64 && SSL_read_ex(tls->ssl, scratch, sizeof(scratch), &n) == 1; i++)
        ;
    return fail(tls);
}

enum status tls_encrypt(struct tls *tls, struct slice bytes)
{
    CHECK_OBJ(tls, TLS_MAGIC);
    if (tls->is_broken)
        return ERR;
    size_t n = 0;
    ERR_clear_error();
    if (bytes.len == 0)
        return OK;
    if (!SSL_write_ex(tls->ssl, bytes.ptr, bytes.len, &n))
        return fail(tls);
    CHECK(n == bytes.len);
    return tls->errnum ? fail_wire(tls) : OK;
}

enum status tls_decrypt(struct tls *tls, char *buffer, size_t wire_len, struct slice *plain)
{
    CHECK_OBJ(tls, TLS_MAGIC);
    *plain = slice_of(buffer, 0);
    if (tls->is_broken)
        return ERR;
    tls->in = slice_of(buffer + TLS_RECORD_MAX, wire_len);
    tls->is_decrypting = true;
    ERR_clear_error();
    size_t n, size = TLS_RECORD_MAX + wire_len;
    int rc;
    while ((rc = SSL_read_ex(tls->ssl, buffer + plain->len, size - plain->len, &n)) == 1) {
        plain->len += n;
        tls->n_replies = 0;
        CHECK(buffer + plain->len <= tls->in.ptr);
    }
    tls->is_decrypting = false;
    int why = SSL_get_error(tls->ssl, rc);
    tls->in = slice_of(NULL, 0);
    if (why == SSL_ERROR_WANT_READ)
        return tls->errnum ? fail_wire(tls) : AGAIN;
    return why == SSL_ERROR_ZERO_RETURN ? OK : fail(tls);
}

/* After a failure libssl forbids it. */
void tls_close_notify(struct tls *tls)
{
    CHECK_OBJ(tls, TLS_MAGIC);
    if (!tls->is_open || tls->is_broken || (SSL_get_shutdown(tls->ssl) & SSL_SENT_SHUTDOWN))
        return;
    ERR_clear_error();
    (void)SSL_shutdown(tls->ssl);
    ERR_clear_error();
}

/* ---- plaintext that waits ------------------------------------------------------------------------------ */

void tls_keep(struct tls *tls, struct slice bytes)
{
    buf_slice(&tls->kept, bytes);
}

size_t tls_kept(const struct tls *tls)
{
    return tls->kept.len;
}

enum status tls_encrypt_kept(struct tls *tls)
{
    enum status status = tls_encrypt(tls, buf_as_slice(&tls->kept));
    buf_free(&tls->kept);
    return status;
}

void tls_session_adopt(void *ssl)
{
    SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

static enum status session_status(void *ssl, int rc)
{
    int why = rc > 0 ? SSL_ERROR_NONE : SSL_get_error(ssl, rc);
    return why == SSL_ERROR_NONE ? OK : why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? AGAIN : ERR;
}

enum status tls_session_read(void *ssl, char *room, size_t len, size_t *n)
{
    *n = 0;
    ERR_clear_error(); /* SSL_get_error looks at the thread's queue, whoever filled it */
    return session_status(ssl, SSL_read_ex(ssl, room, len, n));
}

enum status tls_session_write(void *ssl, struct slice bytes, size_t *n)
{
    *n = 0;
    ERR_clear_error();
    return session_status(ssl, SSL_write_ex(ssl, bytes.ptr, bytes.len, n));
}

bool tls_session_has_pending(const void *ssl)
{
    return ssl && SSL_pending(ssl) > 0;
}
