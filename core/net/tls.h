/* What a TLS client trusts and who it says it is: made once at start, shared by many streams (stream_start_tls).
 * TLS 1.2 or newer; the peer's chain, dates and name are checked on every connection: sessions are not resumed. */
#pragma once

#include "base/err.h"
#include "base/slice.h"

struct tls_opts {
    const char *ca_file;   /* PEM; only these are trusted. NULL: the system's store (SSL_CERT_FILE, SSL_CERT_DIR) */
    const char *cert_file; /* PEM chain, the own certificate first, for peers that ask for one. NULL: none */
    const char *key_file;  /* PEM without passphrase. NULL: in cert_file */
    bool skip_verify;      /* any certificate and any name will do: whoever is in between reads and writes along */
};

struct tls_context;
/* BLOCKING: reads files; call it at start. NULL: err says which file and why. Returns owned; opts are borrowed. */
struct tls_context *tls_context_new(const struct tls_opts *opts, struct err *err);
/* Streams that use it keep what they need of it. NULL is fine. */
void tls_context_free(struct tls_context *context);

/* Of a client's session that another library made (libpq), whose bytes are read and written here from now on. */
void tls_session_adopt(void *ssl);
/* OK: *n bytes. AGAIN: none now. ERR: the session is over. */
enum status tls_session_read(void *ssl, char *room, size_t len, size_t *n) MUST_CHECK;
enum status tls_session_write(void *ssl, struct slice bytes, size_t *n) MUST_CHECK;
/* Whether libssl holds bytes that were received and not yet read, of which no poll will ever tell. NULL is fine. */
bool tls_session_has_pending(const void *ssl);
