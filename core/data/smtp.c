/* The dialogue: on_reply is where the server speaks, and each state has one function that says what follows. Whatever
 * goes wrong with the connection goes through give_up(); a message that is refused only resets the dialogue.
 *
 * Nothing in clear may follow the server's go-ahead to STARTTLS: who sits in between could have put it there, to be
 * read later as if it had come encrypted. */
#include "data/smtp.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/crypto.h"

#define SMTP_MAGIC 0x57701001u

static void connect_next(struct smtp *smtp);

/* ---- the end ------------------------------------------------------------------------------------------------------
 */

static void go_down(struct smtp *smtp)
{
    struct err err = smtp->err;
    smtp->state = SMTP_DOWN;
    smtp->magic = 0;
    smtp->events->on_down(smtp, &err);
}

static void on_task(struct loop_task *task)
{
    struct smtp *smtp = container_of(task, struct smtp, task);
    CHECK_OBJ(smtp, SMTP_MAGIC);
    go_down(smtp);
}

bool smtp_is_unknown(const struct smtp *smtp)
{
    bool is_out = smtp->state == SMTP_TEXT && stream_pending(&smtp->stream) == 0;
    return smtp->is_unknown || is_out;
}

static void close_with(struct smtp *smtp, const struct err *err)
{
    if (smtp->state == SMTP_DOWN || smtp->state == SMTP_CLOSING)
        return;
    smtp->is_unknown = smtp_is_unknown(smtp);
    smtp->err = *err;
    if (smtp->query)
        names_cancel(smtp->query);
    smtp->query = NULL;
    smtp->state = SMTP_CLOSING;
    if (smtp->has_stream)
        stream_close(&smtp->stream); /* on_close comes, also when it was breaking by itself */
    else
        loop_defer(smtp->target->loop, &smtp->task, on_task);
}

static void give_up(struct smtp *smtp, const char *what)
{
    struct err err = {0};
    (void)err_set(&err, ERR_UNAVAILABLE, "%s", what);
    close_with(smtp, &err);
}

void smtp_close(struct smtp *smtp)
{
    if (smtp->state == SMTP_DOWN)
        return;
    CHECK_OBJ(smtp, SMTP_MAGIC);
    if (smtp->state == SMTP_READY)
        (void)stream_write(&smtp->stream, SLICE("QUIT\r\n")); /* its answer is nobody's */
    give_up(smtp, "closed");
}

static void on_close(struct stream *stream, const struct err *err)
{
    struct smtp *smtp = container_of(stream, struct smtp, stream);
    CHECK_OBJ(smtp, SMTP_MAGIC);
    smtp->has_stream = false;
    if (smtp->state == SMTP_CLOSING) {
        go_down(smtp);
        return;
    }
    if (smtp->state == SMTP_CONNECTING && smtp->next_addr < smtp->n_addrs) {
        connect_next(smtp);
        return;
    }
    smtp->is_unknown = smtp->state == SMTP_TEXT; /* what it had kept is gone: more careful than right */
    (void)err_set(&smtp->err, ERR_UNAVAILABLE, "%s", err ? err->message : "the connection was closed");
    go_down(smtp);
}

static void on_eof(struct stream *stream)
{
    give_up(container_of(stream, struct smtp, stream), "the server closed the connection");
}

static void on_drain(struct stream *stream)
{
    (void)stream; /* one message at a time: nothing waits for it */
}

/* ---- what we say --------------------------------------------------------------------------------------------------
 */

static void say(struct smtp *smtp, enum smtp_state next, struct slice line)
{
    smtp->state = next;
    smtp_reply_start(&smtp->reply, next == SMTP_HELLO ? &smtp->features : NULL);
    (void)stream_write(&smtp->stream, line); /* a failure arrives as on_close */
}

static void say_base64(struct smtp *smtp, enum smtp_state next, const char *before, struct slice bytes)
{
    struct buf line = {0};
    buf_slice(&line, slice_str(before));
    crypto_base64(bytes, false, &line);
    buf_lit(&line, "\r\n");
    say(smtp, next, buf_as_slice(&line));
    buf_free(&line);
}

static void say_hello(struct smtp *smtp)
{
    char name[256] = "", *p = name;
    (void)gethostname(name, sizeof name - 1);
    while ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '-' || *p == '.')
        p++;
    struct buf line = {0};
    buf_printf(&line, "EHLO %s\r\n", *p || p == name ? "localhost" : name);
    say(smtp, SMTP_HELLO, buf_as_slice(&line));
    buf_free(&line);
}

static void say_address(struct smtp *smtp, enum smtp_state next, const char *command, const char *address)
{
    struct buf line = {0};
    buf_printf(&line, "%s:<%s>\r\n", command, address);
    say(smtp, next, buf_as_slice(&line));
    buf_free(&line);
}

/* A line that begins with a dot gets another (RFC 5321 4.5.2); a lone dot is the end. */
static void say_text(struct smtp *smtp)
{
    struct slice text = smtp->message->text;
    struct buf out = {0};
    buf_reserve(&out, text.len + text.len / 64 + 16);
    while (text.len > 0) {
        const char *end = memchr(text.ptr, '\n', text.len);
        size_t len = end ? (size_t)(end - text.ptr) + 1 : text.len;
        if (*text.ptr == '.')
            buf_byte(&out, '.');
        buf_append(&out, text.ptr, len);
        text = slice_of(text.ptr + len, text.len - len);
    }
    buf_lit(&out, ".\r\n");
    say(smtp, SMTP_TEXT, buf_as_slice(&out));
    buf_free(&out);
}

/* ---- what follows -------------------------------------------------------------------------------------------------
 */

static void say_login(struct smtp *smtp)
{
    const struct smtp_target *target = smtp->target;
    const char *password = target->password ? target->password : "";
    if (smtp->features.has_plain) { /* RFC 4616 */
        struct buf plain = {0};
        buf_byte(&plain, '\0');
        buf_slice(&plain, slice_str(target->user));
        buf_byte(&plain, '\0');
        buf_slice(&plain, slice_str(password));
        say_base64(smtp, SMTP_AUTH, "AUTH PLAIN ", buf_as_slice(&plain));
        buf_free(&plain);
    } else if (smtp->features.has_login) {
        say(smtp, SMTP_AUTH_USER, SLICE("AUTH LOGIN\r\n"));
    } else {
        give_up(smtp, "the server offers neither AUTH PLAIN nor AUTH LOGIN");
    }
}

static void say_mail(struct smtp *smtp)
{
    smtp->next_to = 0;
    say_address(smtp, SMTP_MAIL, "MAIL FROM", smtp->message->from);
}

static void after_hello(struct smtp *smtp)
{
    if (!smtp->is_tls && !smtp->target->is_clear) {
        if (smtp->features.has_starttls)
            say(smtp, SMTP_STARTTLS, SLICE("STARTTLS\r\n"));
        else
            give_up(smtp, "the server offers no STARTTLS (mail.tls = \"none\" would do without)");
    } else if (smtp->target->user) {
        say_login(smtp);
    } else {
        say_mail(smtp);
    }
}

static void say_next_to(struct smtp *smtp)
{
    if (smtp->next_to < smtp->message->n_to)
        say_address(smtp, SMTP_RCPT, "RCPT TO", smtp->message->to[smtp->next_to++]);
    else
        say(smtp, SMTP_DATA, SLICE("DATA\r\n"));
}

static void finish(struct smtp *smtp, const struct err *err)
{
    smtp->state = SMTP_READY;
    smtp->message = NULL;
    smtp->events->on_result(smtp, err);
}

/* ---- what the server says -----------------------------------------------------------------------------------------
 */

/* A refusal of this message, or the end of the connection: a server that says 421 is about to close it. */
static void on_refusal(struct smtp *smtp)
{
    bool is_message = smtp->state >= SMTP_MAIL && smtp->state <= SMTP_TEXT;
    bool is_for_good = is_message && smtp->reply.code >= 500;
    const char *who = smtp->state == SMTP_RCPT ? smtp->message->to[smtp->next_to - 1] : "";
    struct err err = {0};
    (void)err_set(&err, is_for_good ? ERR_MAIL_REFUSED : ERR_UNAVAILABLE, "%s%s%s%s",
                  smtp->state >= SMTP_AUTH && smtp->state <= SMTP_AUTH_PASSWORD ? "the login was refused: " : "", who,
                  *who ? ": " : "", smtp->reply.text);
    smtp->is_unknown = false;
    if (!is_message || smtp->reply.code == 421) {
        smtp->state = SMTP_READY; /* whatever it was, it was not taken */
        close_with(smtp, &err);
        return;
    }
    smtp->err = err;
    say(smtp, SMTP_RESET, SLICE("RSET\r\n"));
}

static bool is_expected(enum smtp_state state, int code)
{
    if (state == SMTP_DATA)
        return code == 354;
    if (state == SMTP_AUTH_USER || state == SMTP_AUTH_PASSWORD)
        return code == 334;
    return code >= 200 && code < 300;
}

static void start_tls(struct smtp *smtp)
{
    smtp->state = SMTP_HANDSHAKE;
    stream_start_tls(&smtp->stream, smtp->target->tls, smtp->target->host);
}

static void on_reply(struct smtp *smtp)
{
    const struct smtp_target *target = smtp->target;
    if (!is_expected(smtp->state, smtp->reply.code)) {
        if (smtp->reply.code >= 400 && smtp->state != SMTP_RESET)
            on_refusal(smtp);
        else
            give_up(smtp, "the server answers out of turn");
        return;
    }
    switch (smtp->state) {
    case SMTP_GREETING:
        say_hello(smtp);
        return;
    case SMTP_HELLO:
        after_hello(smtp);
        return;
    case SMTP_STARTTLS:
        start_tls(smtp);
        return;
    case SMTP_AUTH_USER:
        say_base64(smtp, SMTP_AUTH_PASSWORD, "", slice_str(target->user));
        return;
    case SMTP_AUTH_PASSWORD:
        say_base64(smtp, SMTP_AUTH, "", slice_str(target->password ? target->password : ""));
        return;
    case SMTP_AUTH:
        say_mail(smtp);
        return;
    case SMTP_MAIL:
    case SMTP_RCPT:
        say_next_to(smtp);
        return;
    case SMTP_DATA:
        say_text(smtp);
        return;
    case SMTP_TEXT:
        finish(smtp, NULL);
        return;
    case SMTP_RESET: {
        struct err err = smtp->err;
        finish(smtp, &err);
        return;
    }
    case SMTP_DOWN:
    case SMTP_RESOLVING:
    case SMTP_CONNECTING:
    case SMTP_HANDSHAKE:
    case SMTP_READY:
    case SMTP_CLOSING:
        break;
    }
    WRONG("smtp: a reply nobody asked for");
}

static void on_data(struct stream *stream, struct slice bytes)
{
    struct smtp *smtp = container_of(stream, struct smtp, stream);
    CHECK_OBJ(smtp, SMTP_MAGIC);
    struct err err = {0};
    if (smtp->state == SMTP_CLOSING)
        return;
    if (smtp->state == SMTP_READY) { /* "421 timeout", most likely */
        give_up(smtp, "the server ended the connection");
        return;
    }
    enum status status = smtp_reply_feed(&smtp->reply, &bytes, &err);
    if (status == ERR)
        close_with(smtp, &err);
    else if (status == OK && bytes.len > 0) /* we never ask two things at once: above all not around STARTTLS */
        give_up(smtp, "the server answers out of turn");
    else if (status == OK)
        on_reply(smtp);
}

/* ---- connecting ---------------------------------------------------------------------------------------------------
 */

static void on_connect(struct stream *stream)
{
    struct smtp *smtp = container_of(stream, struct smtp, stream);
    CHECK_OBJ(smtp, SMTP_MAGIC);
    if (smtp->state == SMTP_HANDSHAKE) { /* what was learnt in clear is forgotten: RFC 3207 4.2 */
        smtp->is_tls = true;
        say_hello(smtp);
        return;
    }
    smtp->is_tls = smtp->target->is_implicit;
    smtp->state = SMTP_GREETING;
    smtp_reply_start(&smtp->reply, NULL);
    stream_read(stream, true);
}

static void connect_next(struct smtp *smtp)
{
    static const struct stream_events stream_events = {on_data, on_eof, on_connect, on_drain, on_close};
    smtp->state = SMTP_CONNECTING;
    smtp->has_stream = true;
    stream_connect(&smtp->stream, smtp->target->loop, &smtp->addrs[smtp->next_addr++], &stream_events);
    if (smtp->target->is_implicit)
        stream_start_tls(&smtp->stream, smtp->target->tls, smtp->target->host);
}

static void on_names(void *data, const struct addr *addrs, size_t n_addrs, const struct err *err)
{
    struct smtp *smtp;
    CAST_OBJ(smtp, data, SMTP_MAGIC);
    smtp->query = NULL;
    if (err || n_addrs == 0) {
        give_up(smtp, err ? err->message : "the name has no address");
        return;
    }
    memcpy(smtp->addrs, addrs, n_addrs * sizeof addrs[0]);
    smtp->n_addrs = n_addrs;
    connect_next(smtp);
}

void smtp_start(struct smtp *smtp, const struct smtp_target *target, const struct smtp_events *events,
                const struct smtp_message *message)
{
    *smtp = (struct smtp){
        .magic = SMTP_MAGIC, .state = SMTP_RESOLVING, .target = target, .events = events, .message = message};
    smtp->query = names_resolve(target->names, target->host, target->port, on_names, smtp);
}

void smtp_send(struct smtp *smtp, const struct smtp_message *message)
{
    CHECK_OBJ(smtp, SMTP_MAGIC);
    CHECK(smtp->state == SMTP_READY && !smtp->message);
    smtp->message = message;
    smtp->is_unknown = false;
    say_mail(smtp);
}
