/* A few connections, a queue of messages. A message takes a connection that is free, or starts one, or waits; it is
 * SENDING until the connection tells its result or goes down. One that found a kept connection dead, before its text
 * had gone out, goes to the head of the queue again, once.
 *
 * A connection has a message, or is idle with a timer that ends it. The caller is told from op->task, later in the
 * turn. */
#include "data/mail.h"

#include <curl/curl.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/list.h"
#include "data/smtp.h"
#include "net/timer.h"
#include "net/tls.h"

#define MAIL_MAGIC 0x3a119001u
#define MAIL_OP_MAGIC 0x3a119002u
#define MAX_CONNS 4
#define MAX_WAITING 200
#define IDLE_MS 20000 /* servers wait five minutes, but what lies between us may not */

struct conn {
    struct smtp smtp;
    struct mail *mail;
    struct mail_op *op; /* NULL: idle, or its message was given up */
    struct list node;   /* mail->idle, while idle */
    struct timer idle;
    bool is_kept; /* has sent a message before */
};

struct mail {
    unsigned magic;
    struct mail_opts opts;
    char *host, *user, *password;
    struct tls_context *tls;
    struct smtp_target target;
    struct list idle, waiting;
    unsigned n_conns, n_waiting, n_ops;
    bool is_closing; /* goes with its last connection */
    uint64_t sent, failed;
};

enum op_state { MAIL_WAITING, MAIL_SENDING, MAIL_ENDING };

struct mail_op {
    unsigned magic;
    enum op_state state;
    struct mail *mail;
    struct list node; /* mail->waiting */
    struct arena arena;
    struct smtp_message message;
    uint32_t timeout_ms;
    mail_done_fn done;
    void *data;
    struct timer timer;
    struct loop_task task;
    struct conn *conn; /* while SENDING */
    bool is_second_try;
    struct err err;
};

static void admit(struct mail *mail);
static void on_task(struct loop_task *task);

static struct loop *loop_of(const struct mail *mail)
{
    return mail->opts.loop;
}

/* ---- the end of a message -----------------------------------------------------------------------------------------
 */

static void leave_queue(struct mail_op *op)
{
    if (!list_is_linked(&op->node))
        return;
    list_remove(&op->node);
    op->mail->n_waiting--;
}

/* A connection whose message is given up half-way is of no more use. */
static void leave_conn(struct mail_op *op)
{
    struct conn *conn = op->conn;
    op->conn = NULL;
    if (!conn)
        return;
    conn->op = NULL;
    smtp_close(&conn->smtp);
}

static void op_free(struct mail_op *op)
{
    struct mail *mail = op->mail;
    timer_stop(loop_of(mail), &op->timer);
    loop_defer_cancel(&op->task);
    leave_queue(op);
    leave_conn(op);
    arena_destroy(&op->arena);
    mail->n_ops--;
    op->magic = 0;
    loop_reclaim(loop_of(mail), op);
}

/* It has left its connection or the queue. err: NULL if the server has taken it. */
static void end(struct mail_op *op, const struct err *err)
{
    struct mail *mail = op->mail;
    if (err) {
        op->err = *err;
        (void)err_prefix(&op->err, "mail: %s:%d", mail->host, mail->target.port);
    }
    timer_stop(loop_of(mail), &op->timer);
    op->state = MAIL_ENDING;
    loop_defer(loop_of(mail), &op->task, on_task);
}

static void on_task(struct loop_task *task)
{
    struct mail_op *op = container_of(task, struct mail_op, task);
    CHECK_OBJ(op, MAIL_OP_MAGIC);
    bool is_ok = op->err.code == ERR_NONE;
    *(is_ok ? &op->mail->sent : &op->mail->failed) += 1;
    op->done(op->data, is_ok ? NULL : &op->err);
    op_free(op);
}

bool mail_is_unknown(const struct mail_op *op)
{
    CHECK_OBJ(op, MAIL_OP_MAGIC);
    return op->conn && smtp_is_unknown(&op->conn->smtp);
}

static void on_timer(struct timer *timer)
{
    struct mail_op *op = container_of(timer, struct mail_op, timer);
    struct err err = {0};
    const char *what = op->state == MAIL_WAITING ? "no connection was free" : "the server did not answer";
    if (mail_is_unknown(op))
        (void)err_set(&err, ERR_OUTCOME_UNKNOWN, "the message is out, and no answer came within %u ms", op->timeout_ms);
    else
        (void)err_set(&err, ERR_TIMEOUT, "%s within %u ms", what, op->timeout_ms);
    leave_queue(op);
    leave_conn(op);
    end(op, &err);
}

/* ---- connections --------------------------------------------------------------------------------------------------
 */

static void on_idle(struct timer *timer)
{
    struct conn *conn = container_of(timer, struct conn, idle);
    list_remove(&conn->node);
    smtp_close(&conn->smtp);
}

static void on_result(struct smtp *smtp, const struct err *err)
{
    struct conn *conn = container_of(smtp, struct conn, smtp);
    struct mail *mail = conn->mail;
    struct mail_op *op = conn->op;
    conn->op = NULL;
    conn->is_kept = true;
    list_push_front(&mail->idle, &conn->node);
    timer_arm(loop_of(mail), &conn->idle, loop_now(loop_of(mail)) + IDLE_MS, on_idle);
    op->conn = NULL;
    end(op, err);
    admit(mail);
}

static void release(struct mail *mail)
{
    tls_context_free(mail->tls);
    free(mail->host);
    free(mail->user);
    free(mail->password);
    mail->magic = 0;
    loop_reclaim(loop_of(mail), mail);
}

static void fail_with_conn(struct mail_op *op, const struct conn *conn, const struct err *err)
{
    struct mail *mail = op->mail;
    bool is_unknown = smtp_is_unknown(&conn->smtp);
    op->conn = NULL;
    if (conn->is_kept && !op->is_second_try && !is_unknown) {
        op->is_second_try = true;
        op->state = MAIL_WAITING;
        list_push_front(&mail->waiting, &op->node);
        mail->n_waiting++;
        return;
    }
    struct err why = *err;
    if (is_unknown)
        why.code = ERR_OUTCOME_UNKNOWN;
    end(op, &why);
}

static void on_down(struct smtp *smtp, const struct err *err)
{
    struct conn *conn = container_of(smtp, struct conn, smtp);
    struct mail *mail = conn->mail;
    timer_stop(loop_of(mail), &conn->idle);
    list_remove(&conn->node);
    mail->n_conns--;
    if (conn->op)
        fail_with_conn(conn->op, conn, err);
    loop_reclaim(loop_of(mail), conn);
    if (mail->is_closing && mail->n_conns == 0)
        release(mail);
    else
        admit(mail);
}

static const struct smtp_events smtp_events = {on_result, on_down};

/* On a new connection, or on one that is kept: but not a second time on a kept one. */
static void run(struct mail_op *op)
{
    struct mail *mail = op->mail;
    struct list *node = op->is_second_try ? NULL : list_pop(&mail->idle);
    op->state = MAIL_SENDING;
    if (node) {
        op->conn = container_of(node, struct conn, node);
        timer_stop(loop_of(mail), &op->conn->idle);
        op->conn->op = op;
        smtp_send(&op->conn->smtp, &op->message);
        return;
    }
    struct conn *conn = xalloc(sizeof *conn);
    conn->mail = mail;
    conn->op = op;
    op->conn = conn;
    mail->n_conns++;
    smtp_start(&conn->smtp, &mail->target, &smtp_events, &op->message);
}

static void admit(struct mail *mail)
{
    while (!list_is_empty(&mail->waiting)) {
        struct mail_op *op = container_of(mail->waiting.next, struct mail_op, node);
        bool has_kept = !list_is_empty(&mail->idle) && !op->is_second_try;
        if (!has_kept && mail->n_conns == MAX_CONNS)
            return;
        leave_queue(op);
        run(op);
    }
}

/* ---- from outside -------------------------------------------------------------------------------------------------
 */

/* A part of what RFC 5321 4.1.2 calls a mailbox: ASCII, and without quotes. */
const char *mail_address_flaw(struct slice address)
{
    if (address.len < 3 || address.len > 254)
        return "an address has 3 to 254 characters";
    const char *at = memchr(address.ptr, '@', address.len);
    for (size_t i = 0; i < address.len; i++) {
        unsigned char c = (unsigned char)address.ptr[i];
        if (c > '~')
            return "only ASCII addresses can be used (write a domain as xn--…)";
        if (c <= ' ' || strchr("<>()[]\\,;:\"", c))
            return "not an address: it holds a blank, a control character or one of <>()[]\\,;:\"";
    }
    const char *end = address.ptr + address.len;
    if (!at || at == address.ptr || at + 1 == end || memchr(at + 1, '@', (size_t)(end - at - 1)))
        return "not an address: expected name@domain";
    return NULL;
}

static void copy_message(struct mail_op *op, const struct mail_message *message)
{
    struct arena *arena = &op->arena;
    char **to = arena_alloc(arena, message->n_to * sizeof to[0]);
    for (size_t i = 0; i < message->n_to; i++)
        to[i] = arena_printf(arena, "%.*s", SLICE_FMT(message->to[i]));
    op->message = (struct smtp_message){.from = arena_printf(arena, "%.*s", SLICE_FMT(message->from)),
                                        .to = to,
                                        .n_to = message->n_to,
                                        .text = arena_copy(arena, message->text)};
}

struct mail_op *mail_send(struct mail *mail, const struct mail_message *message)
{
    CHECK_OBJ(mail, MAIL_MAGIC);
    CHECK(message->n_to > 0 && message->text.len > 0);
    struct mail_op *op = xalloc(sizeof *op);
    *op = (struct mail_op){.magic = MAIL_OP_MAGIC,
                           .state = MAIL_WAITING,
                           .mail = mail,
                           .timeout_ms = message->timeout_ms,
                           .done = message->done,
                           .data = message->data};
    arena_create(&op->arena);
    copy_message(op, message);
    mail->n_ops++;
    if (mail->n_waiting == MAX_WAITING) {
        struct err err = {0};
        (void)err_set(&err, ERR_QUEUE_FULL, "%d messages wait already", MAX_WAITING);
        end(op, &err);
        return op;
    }
    timer_arm(loop_of(mail), &op->timer, loop_now(loop_of(mail)) + op->timeout_ms, on_timer);
    list_push(&mail->waiting, &op->node);
    mail->n_waiting++;
    admit(mail);
    return op;
}

void mail_cancel(struct mail_op *op)
{
    CHECK_OBJ(op, MAIL_OP_MAGIC);
    op_free(op);
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

static char *take_part(CURLU *url, CURLUPart part)
{
    char *text = NULL, *own = NULL;
    if (curl_url_get(url, part, &text, CURLU_URLDECODE) == CURLUE_OK && *text)
        own = xstrndup(text, strlen(text));
    curl_free(text);
    return own;
}

/* "[::1]" → "::1": a resolver wants no brackets. */
static void strip_brackets(char *host)
{
    size_t len = strlen(host);
    if (len < 2 || host[0] != '[')
        return;
    memmove(host, host + 1, len - 2);
    host[len - 2] = '\0';
}

/* smtp:// is port 587, where clients hand mail in (RFC 6409), smtps:// 465 (RFC 8314). */
static enum status take_url(struct mail *mail, struct err *err)
{
    CURLU *url = curl_url();
    CHECK(url);
    int64_t port = 0;
    bool is_ok = curl_url_set(url, CURLUPART_URL, mail->opts.url, 0) == CURLUE_OK;
    char *scheme = take_part(url, CURLUPART_SCHEME), *port_text = take_part(url, CURLUPART_PORT);
    mail->host = take_part(url, CURLUPART_HOST);
    mail->user = take_part(url, CURLUPART_USER);
    mail->password = take_part(url, CURLUPART_PASSWORD);
    bool is_tls = scheme && strcmp(scheme, "smtps") == 0;
    is_ok = is_ok && mail->host && (is_tls || strcmp(scheme, "smtp") == 0) &&
            (!port_text || slice_to_int(slice_str(port_text), 1, 65535, &port));
    free(scheme);
    free(port_text);
    curl_url_cleanup(url);
    if (!is_ok)
        return err_set(err, ERR_INVALID, "expected smtp://user:password@host:587 or smtps://user:password@host");
    strip_brackets(mail->host);
    mail->target = (struct smtp_target){.loop = loop_of(mail),
                                        .names = mail->opts.names,
                                        .host = mail->host,
                                        .port = port     ? (int)port
                                                : is_tls ? 465
                                                         : 587,
                                        .user = mail->user,
                                        .password = mail->password,
                                        .is_implicit = is_tls,
                                        .is_clear = mail->opts.is_clear && !is_tls};
    return OK;
}

struct mail *mail_new(const struct mail_opts *opts, struct err *err)
{
    struct mail *mail = xalloc(sizeof *mail);
    *mail = (struct mail){.magic = MAIL_MAGIC, .opts = *opts};
    list_init(&mail->idle);
    list_init(&mail->waiting);
    enum status status = take_url(mail, err);
    if (status == OK && !mail->target.is_clear) {
        mail->tls = mail->target.tls = tls_context_new(&(struct tls_opts){.ca_file = opts->ca_file}, err);
        status = mail->tls ? OK : ERR;
    }
    if (status == OK)
        return mail;
    release(mail);
    return NULL;
}

void mail_free(struct mail *mail)
{
    if (!mail)
        return;
    CHECK_OBJ(mail, MAIL_MAGIC);
    CHECK(mail->n_ops == 0);
    struct list *node;
    mail->is_closing = true;
    while ((node = list_pop(&mail->idle)))
        smtp_close(&container_of(node, struct conn, node)->smtp);
    if (mail->n_conns == 0)
        release(mail);
}

void mail_stats(const struct mail *mail, struct mail_stats *out)
{
    CHECK_OBJ(mail, MAIL_MAGIC);
    *out = (struct mail_stats){.active = mail->n_ops - mail->n_waiting,
                               .waiting = mail->n_waiting,
                               .sent = mail->sent,
                               .failed = mail->failed};
}
