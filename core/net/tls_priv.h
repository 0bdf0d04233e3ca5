/* One client session, between stream.c (socket, kept bytes, callbacks) and tls.c (libssl). Nobody else includes it.
 *
 * A session never touches a descriptor: it reads and writes through struct tls_wire. While shaking hands it
 * receives record by record, so that afterwards no byte is left over; then the stream receives for it, in bulk. */
#pragma once

#include "base/slice.h"
#include "net/tls.h"

#include <sys/types.h>

#define TLS_RECORD_MAX 16384 /* plaintext of one record, by RFC 8446 5.1 */

struct tls;

struct tls_wire {
    /* As recv(2): bytes, 0 at FIN, or -1 and errno. Called by tls_handshake, and once more when sending failed. */
    ssize_t (*recv)(void *data, char *ptr, size_t len);
    /* Sends or keeps all of it and returns 0, or an errno. It must not free the session. */
    int (*send)(void *data, const char *ptr, size_t len);
};

/* Borrows wire and data until tls_free, the rest for the call. Returns owned. A name that cannot be used fails the
 * handshake. */
struct tls *tls_new(struct tls_context *context, const char *host_name, const struct tls_wire *wire, void *data);
void tls_free(struct tls *tls); /* NULL is fine */

/* Each of these returns ERR for ever once it did, and tls_error says why. */
enum status tls_handshake(struct tls *tls) MUST_CHECK; /* AGAIN: when there is more to receive */
enum status tls_encrypt(struct tls *tls, struct slice bytes) MUST_CHECK;
/* `buffer` holds wire_len received bytes, TLS_RECORD_MAX behind its start. The plaintext is laid at the start, over
 * received bytes that are done with: it is never longer than those and the one record begun before. AGAIN: all is
 * taken, more may come; OK: the peer said close_notify; ERR. *plain is valid in all three. */
enum status tls_decrypt(struct tls *tls, char *buffer, size_t wire_len, struct slice *plain) MUST_CHECK;
void tls_close_notify(struct tls *tls); /* once, if the session is sound; failing to send it is not told */

const char *tls_error(const struct tls *tls); /* borrowed: valid until tls_free */
const char *tls_host(const struct tls *tls);

/* Plaintext that must wait: for the end of the handshake, or for the end of a cork. */
void tls_keep(struct tls *tls, struct slice bytes);
size_t tls_kept(const struct tls *tls);
enum status tls_encrypt_kept(struct tls *tls) MUST_CHECK;
