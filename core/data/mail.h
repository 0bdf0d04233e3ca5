/* Mail to one SMTP server, over connections of data/smtp.h: STARTTLS demanded, or TLS from the start, the name
 * verified; a few connections, kept for a while; behind them a bounded queue. One per process.
 *
 * What is sent is a finished message (lua/chowk/mail_message.lua makes it) and its envelope. Nothing is sent twice:
 * when the whole message has gone out and no answer came, that is outcome_unknown. */
#pragma once

#include "base/err.h"
#include "base/slice.h"
#include "net/loop.h"

struct names;
struct mail;
struct mail_op;

struct mail_opts {
    struct loop *loop;
    struct names *names;
    const char *url;     /* smtp://user:password@host:587, smtps://host:465; the password percent-encoded */
    const char *ca_file; /* NULL: the system's store */
    bool is_clear;       /* without STARTTLS */
};

struct mail *mail_new(const struct mail_opts *opts, struct err *err); /* NULL: the URL, the CA file */
void mail_free(struct mail *mail);                                    /* no message may be left; NULL is fine */

/* NULL: may stand in an envelope; else what is wrong with it, for a message. */
const char *mail_address_flaw(struct slice address);

/* err: NULL: the server has taken it; or mail_refused (for good: an unknown recipient, too large …), unavailable,
 * timeout, queue_full, outcome_unknown. Never from inside mail_send. */
typedef void (*mail_done_fn)(void *data, const struct err *err);

struct mail_message {
    struct slice from;      /* addresses checked with mail_address_flaw */
    const struct slice *to; /* all that shall get it; one refused is all refused */
    size_t n_to;
    struct slice text;   /* header and body, lines ended by CRLF */
    uint32_t timeout_ms; /* of all of it */
    mail_done_fn done;
    void *data;
};

/* Copies all it is given. Valid until done. */
struct mail_op *mail_send(struct mail *mail, const struct mail_message *message);
void mail_cancel(struct mail_op *op);           /* done does not come */
bool mail_is_unknown(const struct mail_op *op); /* the server may have taken it by now */

struct mail_stats {
    unsigned active, waiting;
    uint64_t sent, failed;
};
void mail_stats(const struct mail *mail, struct mail_stats *out);
