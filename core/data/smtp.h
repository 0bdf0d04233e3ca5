/* One SMTP connection as a client (RFC 5321): greeting, EHLO, STARTTLS (RFC 3207), AUTH (RFC 4954), then one message
 * after the other. A state machine over net/stream: nothing in it waits. (libcurl's SMTP does: it waits for the answer
 * to a message, and to QUIT, inside the call that hands the message on.)
 *
 * The owner bounds the time: it closes what takes too long. */
#pragma once

#include "data/smtp_reply.h"
#include "net/names.h"
#include "net/stream.h"

struct smtp;

struct smtp_target { /* borrowed for the connection's life */
    struct loop *loop;
    struct names *names;
    const char *host;
    int port;
    const char *user, *password; /* NULL: no login */
    struct tls_context *tls;
    bool is_implicit; /* TLS from the first byte */
    bool is_clear;    /* never TLS; else without STARTTLS nothing is sent */
};

struct smtp_message { /* borrowed until its result */
    const char *from;
    char *const *to; /* one refused is all refused */
    size_t n_to;
    struct slice text; /* lines ended by CRLF, the last as well */
};

struct smtp_events {
    /* The message is over and the connection is free for the next: err is NULL (taken), or mail_refused, unavailable.
     */
    void (*on_result)(struct smtp *smtp, const struct err *err);
    /* The connection is over, and with it a message under way (smtp_is_unknown says how it stands). Exactly once for
     * each smtp_start, never from inside a call of the owner's. It may be freed, at the end of the turn. */
    void (*on_down)(struct smtp *smtp, const struct err *err);
};

enum smtp_state {
    SMTP_DOWN,
    SMTP_RESOLVING,
    SMTP_CONNECTING, /* and TLS, when implicit */
    SMTP_GREETING,
    SMTP_HELLO,
    SMTP_STARTTLS,
    SMTP_HANDSHAKE,
    SMTP_AUTH, /* with PLAIN, or the last step of LOGIN */
    SMTP_AUTH_USER,
    SMTP_AUTH_PASSWORD,
    SMTP_READY,
    SMTP_MAIL,
    SMTP_RCPT,
    SMTP_DATA,
    SMTP_TEXT,  /* the text is out, its answer is awaited */
    SMTP_RESET, /* after a refused message */
    SMTP_CLOSING
};

struct smtp { /* embed it; private to smtp.c but for what the functions tell */
    unsigned magic;
    enum smtp_state state;
    const struct smtp_target *target;
    const struct smtp_events *events;
    struct stream stream;
    bool has_stream, is_unknown, is_tls;
    struct names_query *query;
    struct addr addrs[NAMES_MAX_ADDRS];
    size_t n_addrs, next_addr;
    struct smtp_reply reply;
    struct smtp_features features;
    const struct smtp_message *message; /* NULL: none */
    size_t next_to;
    struct loop_task task;
    struct err err; /* why it ends */
};

/* Connects, and sends the message. */
void smtp_start(struct smtp *smtp, const struct smtp_target *target, const struct smtp_events *events,
                const struct smtp_message *message);
void smtp_send(struct smtp *smtp, const struct smtp_message *message); /* only after on_result */
void smtp_close(struct smtp *smtp); /* on_down follows; the message under way is forgotten. Idempotent */
/* Of the message under way, or of the one with which the connection went down: the server may have taken it. */
bool smtp_is_unknown(const struct smtp *smtp);
