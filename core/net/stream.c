/* Byte streams: the only recv and send of the server. A stream owns its descriptor, its poll handle, its TLS
 * session and the bytes the kernel did not take yet; the struct itself belongs to its owner until on_close.
 *
 * on_event is where the kernel speaks, do_* are the steps, and release() is the one way out: it closes the
 * descriptor at once and defers on_close, so it may be called at any depth, and whoever called an owner's
 * callback looks at the state before it goes on. What a broken stream is asked afterwards does nothing.
 *
 * Watched are: writability while connecting or while bytes are kept; readability while the owner reads and no
 * FIN came; otherwise only errors (POLL_HANGUP), so that a reset is noticed although nobody reads. A hang-up
 * that is no error is looked at once: epoll would report it for ever.
 *
 * TLS is a session (tls.c) between the owner and the wire: `out` then holds encrypted records, and plaintext that
 * must wait is with the session. A stream in clear pays one test of `tls` per read and per write.
 *
 * Never here: a second recv in one event (other streams wait), a copy of bytes that the kernel takes, a
 * callback from inside a call of the owner's. */
#include "net/stream.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "net/loop_priv.h"
#include "net/tls_priv.h"

enum stream_state { /* in this order: up to STREAM_OPEN it is open */
                    STREAM_CONNECTING = 1,
                    STREAM_HANDSHAKE,
                    STREAM_OPEN,
                    STREAM_CLOSING, /* descriptor closed, on_close deferred */
                    STREAM_CLOSED,
};

static void on_event(void *data, int events);
static void on_task(struct loop_task *task);

/* ---- life and death ------------------------------------------------------------------------------------ */

static size_t wire_pending(const struct stream *stream)
{
    return stream->out.len - stream->out_pos;
}

static void watch(struct stream *stream)
{
    int events = stream_pending(stream) && !stream->corked ? POLL_WRITE : 0;
    if (stream->state == STREAM_CONNECTING)
        events = POLL_WRITE;
    else if (stream->state == STREAM_HANDSHAKE)
        events = POLL_READ | (wire_pending(stream) ? POLL_WRITE : 0);
    else if (stream->reading && !stream->eof)
        events |= POLL_READ;
    else if (!stream->hangup_seen)
        events |= POLL_HANGUP;
    poll_set(stream->poll, events);
}

static void start(struct stream *stream, struct loop *loop, const struct stream_events *events)
{
    *stream = (struct stream){.magic = STREAM_MAGIC, .loop = loop, .events = events, .fd = -1};
}

static void release(struct stream *stream)
{
    if (stream->poll)
        poll_free(stream->poll);
    if (stream->fd >= 0)
        close(stream->fd);
    tls_free(stream->tls);
    stream->poll = NULL;
    stream->fd = -1;
    stream->tls = NULL;
    buf_free(&stream->out);
    stream->out_pos = 0;
    stream->state = STREAM_CLOSING;
    loop_defer(stream->loop, &stream->task, on_task);
}

/* Both return ERR, so that a failing write reads well. */
static enum status fail_text(struct stream *stream, const char *doing, const char *why)
{
    if (!stream->err)
        stream->err = xalloc(sizeof(*stream->err));
    err_set(stream->err, ERR_UNAVAILABLE, "%s: %s", doing, why);
    release(stream);
    return ERR;
}

static enum status fail(struct stream *stream, const char *doing, int errnum)
{
    return fail_text(stream, doing, strerror(errnum));
}

/* Of a connecting stream, stream->err already says where to. */
static void fail_connect(struct stream *stream, int errnum)
{
    (void)fail(stream, stream->err->message, errnum);
}

/* After this the stream is the owner's again: it may free or reopen it inside on_close. */
static void on_task(struct loop_task *task)
{
    struct stream *stream = container_of(task, struct stream, task);
    CHECK_OBJ(stream, STREAM_MAGIC);
    CHECK(stream->state == STREAM_CLOSING);
    struct err *err = stream->err;
    stream->err = NULL;
    stream->state = STREAM_CLOSED;
    stream->magic = 0;
    stream->events->on_close(stream, err);
    free(err);
}

void stream_open(struct stream *stream, struct loop *loop, int fd, const struct stream_events *events)
{
    start(stream, loop, events);
    stream->fd = fd;
    stream->state = STREAM_OPEN;
    stream->poll = poll_new(loop, fd, on_event, stream); /* watches nothing until asked: saves two epoll_ctl */
}

void stream_connect(struct stream *stream, struct loop *loop, const struct addr *addr,
                    const struct stream_events *events)
{
    start(stream, loop, events);
    stream->state = STREAM_CONNECTING;
    stream->err = xalloc(sizeof(*stream->err));
    char where[ADDR_TEXT_MAX];
    addr_text(addr, where);
    err_set(stream->err, ERR_UNAVAILABLE, "connect to %s", where);

    stream->fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (stream->fd < 0) {
        fail_connect(stream, errno);
        return;
    }
    if (addr->sa.ss_family != AF_UNIX)
        (void)setsockopt(stream->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(stream->fd, (const struct sockaddr *)&addr->sa, addr->len) != 0 && errno != EINPROGRESS) {
        fail_connect(stream, errno);
        return;
    }
    stream->poll = poll_new(loop, stream->fd, on_event, stream);
    watch(stream);
}

void stream_keep_alive(struct stream *stream)
{
    static const struct {
        int level, name, value;
    } options[] = {{SOL_SOCKET, SO_KEEPALIVE, 1},
                   {IPPROTO_TCP, TCP_KEEPIDLE, 10},
                   {IPPROTO_TCP, TCP_KEEPINTVL, 5},
                   {IPPROTO_TCP, TCP_KEEPCNT, 3},
                   {IPPROTO_TCP, TCP_USER_TIMEOUT, 10000}};
    for (size_t i = 0; i < ARRAY_LEN(options) && stream->fd >= 0; i++)
        (void)setsockopt(stream->fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

/* A close that drops bytes leaves a truncated TLS stream, and the peer is to see that: no close_notify then. */
void stream_close(struct stream *stream)
{
    if (!stream_is_open(stream))
        return;
    if (stream->tls && !stream_pending(stream))
        tls_close_notify(stream->tls);
    free(stream->err);
    stream->err = NULL;
    release(stream);
}

bool stream_is_open(const struct stream *stream)
{
    return stream->magic == STREAM_MAGIC && stream->state <= STREAM_OPEN;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

/* Bytes the kernel took, maybe 0; -1 if the stream broke. */
static ssize_t send_some(struct stream *stream, const char *ptr, size_t len)
{
    ssize_t n = send(stream->fd, ptr, len, MSG_NOSIGNAL);
    if (n >= 0)
        return n;
    if (errno == EAGAIN || errno == EINTR)
        return 0;
    fail(stream, "write", errno);
    return -1;
}

static void keep(struct stream *stream, struct slice bytes)
{
    if (stream->out.cap == 0)
        stream->out = loop_spare_take(stream->loop);
    if (stream->out_pos > stream->out.len / 2) {
        buf_consume(&stream->out, stream->out_pos);
        stream->out_pos = 0;
    }
    buf_slice(&stream->out, bytes);
}

static void do_shutdown(struct stream *stream)
{
    if (!stream->shutdown_wanted || stream->is_shut || stream->state != STREAM_OPEN || stream_pending(stream))
        return;
    if (stream->tls)
        tls_close_notify(stream->tls);
    if (wire_pending(stream)) /* close_notify found the socket full: FIN comes after it */
        return;
    stream->is_shut = true;
    (void)shutdown(stream->fd, SHUT_WR); /* ENOTCONN: the peer is gone, which reading tells */
}

/* Sends kept bytes; afterwards nothing is kept, or the socket is full, or the stream broke. The caller watches,
 * after its callbacks: each change of what is watched costs two epoll_ctl. */
static void do_flush(struct stream *stream)
{
    if (stream->tls && stream->state == STREAM_OPEN && tls_encrypt_kept(stream->tls) != OK) {
        (void)fail_text(stream, "write", tls_error(stream->tls));
        return;
    }
    size_t len = wire_pending(stream);
    ssize_t n = len ? send_some(stream, stream->out.ptr + stream->out_pos, len) : 0;
    if (n < 0)
        return;
    stream->out_pos += (size_t)n;
    if ((size_t)n == len) {
        loop_spare_give(stream->loop, &stream->out);
        stream->out_pos = 0;
        do_shutdown(stream);
    }
}

static enum status owe_drain(struct stream *stream)
{
    stream->drain_owed = true;
    return AGAIN;
}

/* Plaintext waits with the session only while it cannot be encrypted yet, or is being collected. */
static enum status write_tls(struct stream *stream, struct slice bytes)
{
    if (stream->state != STREAM_OPEN || stream->corked || tls_kept(stream->tls)) {
        tls_keep(stream->tls, bytes);
        return stream_pending(stream) ? owe_drain(stream) : OK;
    }
    if (tls_encrypt(stream->tls, bytes) != OK)
        return fail_text(stream, "write", tls_error(stream->tls));
    if (!wire_pending(stream))
        return OK;
    watch(stream);
    return owe_drain(stream);
}

enum status stream_write(struct stream *stream, struct slice bytes)
{
    if (!stream_is_open(stream))
        return ERR;
    if (stream->shutdown_wanted)
        return fail(stream, "write after shutdown", EPIPE);
    if (stream->tls)
        return write_tls(stream, bytes);
    if (stream->state != STREAM_OPEN || stream->corked || wire_pending(stream)) {
        keep(stream, bytes);
        return wire_pending(stream) ? owe_drain(stream) : OK;
    }
    if (bytes.len == 0)
        return OK;
    ssize_t n = send_some(stream, bytes.ptr, bytes.len);
    if (n < 0)
        return ERR;
    if ((size_t)n == bytes.len)
        return OK;
    keep(stream, slice_of(bytes.ptr + n, bytes.len - (size_t)n));
    watch(stream);
    return owe_drain(stream);
}

void stream_cork(struct stream *stream, bool on)
{
    if (stream->corked == on || !stream_is_open(stream))
        return;
    stream->corked = on;
    if (on || stream->state != STREAM_OPEN || !stream_pending(stream))
        return;
    do_flush(stream);
    if (stream->state != STREAM_OPEN)
        return;
    stream->drain_owed = stream_pending(stream) > 0;
    watch(stream);
}

size_t stream_pending(const struct stream *stream)
{
    return wire_pending(stream) + (stream->tls ? tls_kept(stream->tls) : 0);
}

void stream_shutdown(struct stream *stream)
{
    if (!stream_is_open(stream))
        return;
    stream->shutdown_wanted = true;
    do_shutdown(stream);
    if (stream->tls)
        watch(stream); /* close_notify may be kept */
}

/* ---- reading ------------------------------------------------------------------------------------------- */

void stream_read(struct stream *stream, bool on)
{
    if (!stream_is_open(stream))
        return;
    stream->reading = on;
    if (on)
        stream->hangup_seen = false;
    watch(stream);
}

static void do_eof(struct stream *stream)
{
    stream->eof = true;
    stream->events->on_eof(stream);
    if (stream->state == STREAM_OPEN)
        watch(stream);
}

/* What arrived sound is the owner's, also when an end or a failure came right behind it. */
static void do_decrypt(struct stream *stream, char *buffer, size_t wire_len)
{
    struct slice plain;
    enum status status = tls_decrypt(stream->tls, buffer, wire_len, &plain);
    if (plain.len)
        stream->events->on_data(stream, plain);
    if (stream->state != STREAM_OPEN)
        return;
    if (status == OK)
        do_eof(stream);
    else if (status == ERR)
        (void)fail_text(stream, "read: TLS", tls_error(stream->tls));
    else
        watch(stream); /* the session may have answered into a full socket */
}

static void do_read(struct stream *stream)
{
    char *buffer = loop_read_buffer(stream->loop);
    size_t lead = stream->tls ? TLS_RECORD_MAX : 0;
    ssize_t n = recv(stream->fd, buffer + lead, LOOP_READ_BUFFER - lead, 0);
    if (n > 0 && !stream->tls)
        stream->events->on_data(stream, slice_of(buffer, (size_t)n));
    else if (n > 0)
        do_decrypt(stream, buffer, (size_t)n);
    else if (n == 0 && !stream->tls)
        do_eof(stream);
    else if (n == 0)
        (void)fail_text(stream, "read: TLS", "closed without close_notify: the end may be cut off");
    else if (errno != EAGAIN && errno != EINTR)
        fail(stream, "read", errno);
}

static int socket_error(int fd)
{
    int errnum = 0;
    socklen_t len = sizeof(errnum);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &len) == 0 ? errnum : errno;
}

/* Something happened while nobody reads: an error ends the stream, anything else waits for a reader. */
static void do_hangup(struct stream *stream)
{
    int errnum = socket_error(stream->fd);
    if (errnum) {
        fail(stream, "read", errnum);
        return;
    }
    stream->hangup_seen = true;
    watch(stream);
}

static void do_write(struct stream *stream)
{
    do_flush(stream);
    if (stream->state == STREAM_OPEN && stream->drain_owed && !stream_pending(stream)) {
        stream->drain_owed = false;
        stream->events->on_drain(stream);
    }
    if (stream->state == STREAM_OPEN)
        watch(stream);
}

/* ---- connecting ---------------------------------------------------------------------------------------- */

static void finish_connect(struct stream *stream)
{
    free(stream->err);
    stream->err = NULL;
    stream->state = STREAM_OPEN;
    stream->events->on_connect(stream);
    if (stream->state != STREAM_OPEN)
        return;
    if (stream_pending(stream) && !stream->corked) {
        do_write(stream);
        return;
    }
    do_shutdown(stream);
    watch(stream);
}

static void do_handshake(struct stream *stream)
{
    enum status status = tls_handshake(stream->tls);
    if (status == OK) {
        finish_connect(stream);
    } else if (status == AGAIN) {
        watch(stream);
    } else {
        err_set(stream->err, ERR_UNAVAILABLE, "%s: TLS for %s", stream->err->message, tls_host(stream->tls));
        (void)fail_text(stream, stream->err->message, tls_error(stream->tls));
    }
}

static void on_event_before_open(struct stream *stream, int events)
{
    if (stream->state == STREAM_CONNECTING) {
        int errnum = socket_error(stream->fd);
        if (errnum) {
            fail_connect(stream, errnum);
            return;
        }
        if (!stream->tls) {
            finish_connect(stream);
            return;
        }
        stream->state = STREAM_HANDSHAKE;
    } else if (events & POLL_WRITE) {
        do_flush(stream);
    }
    if (stream->state == STREAM_HANDSHAKE)
        do_handshake(stream);
}

static ssize_t on_wire_recv(void *data, char *ptr, size_t len)
{
    struct stream *stream;
    CAST_OBJ(stream, data, STREAM_MAGIC);
    return recv(stream->fd, ptr, len, 0);
}

static int on_wire_send(void *data, const char *ptr, size_t len)
{
    struct stream *stream;
    CAST_OBJ(stream, data, STREAM_MAGIC);
    ssize_t n = wire_pending(stream) ? 0 : send(stream->fd, ptr, len, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return errno;
    n = n < 0 ? 0 : n;
    keep(stream, slice_of(ptr + n, len - (size_t)n));
    return 0;
}

void stream_start_tls(struct stream *stream, struct tls_context *context, const char *host_name)
{
    static const struct tls_wire wire = {on_wire_recv, on_wire_send};
    if (!stream_is_open(stream))
        return; /* stream_connect failed at once */
    CHECK(stream->state != STREAM_HANDSHAKE && !stream->tls && !stream_pending(stream));
    stream->tls = tls_new(context, host_name, &wire, stream);
    if (stream->state != STREAM_OPEN)
        return;
    stream->err = xalloc(sizeof(*stream->err));
    err_set(stream->err, ERR_UNAVAILABLE, "STARTTLS");
    stream->state = STREAM_HANDSHAKE;
    do_handshake(stream); /* says hello: it cannot be over yet */
}

/* ---- events -------------------------------------------------------------------------------------------- */

/* Reading comes first: what a peer sent before it reset is still delivered, while writing would break. */
static void on_event(void *data, int events)
{
    struct stream *stream;
    CAST_OBJ(stream, data, STREAM_MAGIC);
    if (stream->state != STREAM_OPEN) {
        on_event_before_open(stream, events);
        return;
    }
    if ((events & POLL_READ) && stream->reading && !stream->eof)
        do_read(stream);
    else if (events & (POLL_READ | POLL_HANGUP))
        do_hangup(stream);
    if (stream->state != STREAM_OPEN || !(events & POLL_WRITE) || !stream_pending(stream))
        return;
    if (stream->corked)
        watch(stream);
    else
        do_write(stream);
}
