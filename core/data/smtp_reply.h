/* What an SMTP server answers: "250-first\r\n250 last\r\n" (RFC 5321 4.2), and what it says it can do. */
#pragma once

#include "base/err.h"
#include "base/slice.h"

#define SMTP_REPLY_MAX 8192 /* bytes of all its lines */
#define SMTP_LINE_MAX 2048

struct smtp_features {
    bool has_starttls, has_plain, has_login;
};

struct smtp_reply { /* zeroed: empty */
    int code;       /* 0: no line yet */
    size_t n_bytes, line_len;
    char line[SMTP_LINE_MAX];    /* the one that is arriving */
    char text[128];              /* of the first line, printable, for messages */
    struct smtp_features *hello; /* not NULL: the lines name features */
};

void smtp_reply_start(struct smtp_reply *reply, struct smtp_features *hello); /* for the next one; hello may be NULL */
/* Takes bytes from *bytes until the reply is whole (OK), or all are taken (AGAIN). ERR: no reply of SMTP. */
enum status smtp_reply_feed(struct smtp_reply *reply, struct slice *bytes, struct err *err) MUST_CHECK;
