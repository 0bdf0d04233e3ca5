/* A byte stream over TCP or a Unix socket, in clear or as a TLS client, on a poll handle. Reads go into one buffer
 * owned by the loop and shared by all streams, so an idle stream owns no memory beyond this struct; writes go straight
 * to the socket, and only what the kernel does not take is kept (bounded by the owner, who sees stream_pending).
 *
 * Exactly one on_close per stream that was started, after which the owner may free it. It never comes from
 * inside a call of the owner's: it is deferred within the turn. */
#pragma once

#include "base/buf.h"
#include "net/addr.h"
#include "net/poll.h"
#include "net/tls.h"

#define STREAM_MAGIC 0x57e4a301u

struct stream;

struct stream_events {
    /* Bytes arrived; borrowed for the call. */
    void (*on_data)(struct stream *stream, struct slice bytes);
    /* Peer sent FIN (TLS: close_notify, which may come right after on_data stopped reading). The write side still
     * works. Called once. */
    void (*on_eof)(struct stream *stream);
    /* stream_connect succeeded; with TLS the peer is verified. */
    void (*on_connect)(struct stream *stream);
    /* Kept bytes are all written now (only after a write returned AGAIN, or an uncork left some). */
    void (*on_drain)(struct stream *stream);
    /* Closed: err is NULL after stream_close, else why (reset, connect failure, write error). */
    void (*on_close)(struct stream *stream, const struct err *err);
};

struct stream { /* embed in the owner; fields are private to stream.c */
    unsigned magic;
    struct loop *loop;
    const struct stream_events *events;
    struct poll *poll;
    struct tls *tls; /* NULL: in clear */
    struct buf out;  /* unsent bytes as they go over the wire; empty when idle */
    size_t out_pos;
    struct loop_task task; /* brings on_close */
    struct err *err;       /* why it broke; owned */
    int fd;
    uint8_t state;
    bool reading, corked, eof, hangup_seen, drain_owed, shutdown_wanted, is_shut;
};

/* Takes fd (non-blocking, CLOEXEC). Reading is off until stream_read. */
void stream_open(struct stream *stream, struct loop *loop, int fd, const struct stream_events *events);
/* Starts a non-blocking connect; then on_connect or on_close. The owner sets its own timeout. What is written
 * before on_connect is kept. */
void stream_connect(struct stream *stream, struct loop *loop, const struct addr *addr,
                    const struct stream_events *events);
/* For a connection that may be silent for long (TCP; nothing otherwise): a peer that went away without a word breaks
 * the stream within 25 s when all is quiet, 10 s when bytes are unacknowledged. Right after stream_connect. */
void stream_keep_alive(struct stream *stream);
/* The stream becomes a TLS client. Called right after stream_connect, on_connect comes after the handshake, which is
 * part of the owner's timeout; called on an open stream with nothing kept (STARTTLS), on_connect comes once more, and
 * the owner has made sure that nothing followed the peer's go-ahead in clear. host_name is what the peer's certificate
 * must be for: a DNS name (also sent as SNI) or an IP address without brackets. A FIN without close_notify breaks the
 * stream, since the end may be cut off. Borrows both for the call. */
void stream_start_tls(struct stream *stream, struct tls_context *context, const char *host_name);
/* Keep it on while a request runs (T10). After a pause a reset still closes the stream, unless the peer had
 * closed both directions before. */
void stream_read(struct stream *stream, bool on);
/* OK: all bytes are with the kernel. AGAIN: some are kept, on_drain follows. ERR: the stream is broken,
 * on_close follows. Bytes are copied only if the kernel does not take them. */
enum status stream_write(struct stream *stream, struct slice bytes);
/* While corked, writes are kept (AGAIN); uncork sends them in one call, and on_drain follows only if the kernel did not
 * take them all: stream_pending tells. Cork for no longer than a turn. */
void stream_cork(struct stream *stream, bool on);
size_t stream_pending(const struct stream *stream); /* bytes kept */
void stream_shutdown(struct stream *stream);        /* FIN after the kept bytes; a later write breaks the stream */
void stream_close(struct stream *stream); /* at once, dropping kept bytes (TLS: close_notify if none); idempotent */
bool stream_is_open(const struct stream *stream);
