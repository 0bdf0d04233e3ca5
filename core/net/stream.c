/* Byte streams: the only recv and send of the server. A stream owns its descriptor, its poll handle and the
 * bytes the kernel did not take yet; the struct itself belongs to its owner until on_close.
 *
 * on_event is where the kernel speaks, do_* are the steps, and release() is the one way out: it closes the
 * descriptor at once and defers on_close, so it may be called at any depth, and whoever called an owner's
 * callback looks at the state before it goes on. What a broken stream is asked afterwards does nothing.
 *
 * Watched are: writability while connecting or while bytes are kept; readability while the owner reads and no
 * FIN came; otherwise only errors (POLL_HANGUP), so that a reset is noticed although nobody reads. A hang-up
 * that is no error is looked at once: epoll would report it for ever.
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

enum stream_state {
    STREAM_CONNECTING = 1,
    STREAM_OPEN,
    STREAM_CLOSING, /* descriptor closed, on_close deferred */
    STREAM_CLOSED,
};

static void on_event(void *data, int events);
static void on_task(struct loop_task *task);

/* ---- life and death ------------------------------------------------------------------------------------ */

static void watch(struct stream *stream)
{
    int events = stream_pending(stream) && !stream->corked ? POLL_WRITE : 0;
    if (stream->state == STREAM_CONNECTING)
        events = POLL_WRITE;
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
    stream->poll = NULL;
    stream->fd = -1;
    buf_free(&stream->out);
    stream->out_pos = 0;
    stream->state = STREAM_CLOSING;
    loop_defer(stream->loop, &stream->task, on_task);
}

/* Returns ERR, so that a failing write reads well. */
static enum status fail(struct stream *stream, const char *doing, int errnum)
{
    if (!stream->err)
        stream->err = xalloc(sizeof(*stream->err));
    err_set(stream->err, ERR_UNAVAILABLE, "%s: %s", doing, strerror(errnum));
    release(stream);
    return ERR;
}

/* Of a connecting stream, stream->err already says where to. */
static void fail_connect(struct stream *stream, int errnum)
{
    char where[ADDR_TEXT_MAX + 16];
    memcpy(where, stream->err->message, sizeof(where));
    fail(stream, where, errnum);
}

/* After this the stream is the owner's again: it may free or reopen it inside on_close. */
static void finish_close(struct stream *stream)
{
    struct err *err = stream->err;
    stream->err = NULL;
    stream->state = STREAM_CLOSED;
    stream->magic = 0;
    stream->events->on_close(stream, err);
    free(err);
}

static void on_task(struct loop_task *task)
{
    struct stream *stream = container_of(task, struct stream, task);
    CHECK_OBJ(stream, STREAM_MAGIC);
    if (stream->state == STREAM_CLOSING) {
        finish_close(stream);
    } else if (stream->drain_owed && !stream_pending(stream)) {
        stream->drain_owed = false;
        stream->events->on_drain(stream);
    }
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

void stream_close(struct stream *stream)
{
    if (!stream_is_open(stream))
        return;
    free(stream->err);
    stream->err = NULL;
    release(stream);
}

bool stream_is_open(const struct stream *stream)
{
    return stream->magic == STREAM_MAGIC && (stream->state == STREAM_CONNECTING || stream->state == STREAM_OPEN);
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

static void do_shutdown(struct stream *stream)
{
    if (!stream->shutdown_wanted || stream->is_shut || stream_pending(stream))
        return;
    stream->is_shut = true;
    (void)shutdown(stream->fd, SHUT_WR); /* ENOTCONN: the peer is gone, which reading tells */
}

/* Sends kept bytes; afterwards nothing is kept, or the socket is full, or the stream broke. The caller watches,
 * after its callbacks: each change of what is watched costs two epoll_ctl. */
static void do_flush(struct stream *stream)
{
    size_t len = stream_pending(stream);
    ssize_t n = send_some(stream, stream->out.ptr + stream->out_pos, len);
    if (n < 0)
        return;
    stream->out_pos += (size_t)n;
    if ((size_t)n == len) {
        buf_free(&stream->out);
        stream->out_pos = 0;
        do_shutdown(stream);
    }
}

static enum status keep(struct stream *stream, struct slice bytes)
{
    if (stream->out_pos > stream->out.len / 2) {
        buf_consume(&stream->out, stream->out_pos);
        stream->out_pos = 0;
    }
    buf_slice(&stream->out, bytes);
    stream->drain_owed = true;
    return AGAIN;
}

enum status stream_write(struct stream *stream, struct slice bytes)
{
    if (!stream_is_open(stream))
        return ERR;
    if (stream->shutdown_wanted)
        return fail(stream, "write after shutdown", EPIPE);
    if (stream->state == STREAM_CONNECTING || stream->corked || stream_pending(stream))
        return bytes.len || stream_pending(stream) ? keep(stream, bytes) : OK;
    if (bytes.len == 0)
        return OK;
    ssize_t n = send_some(stream, bytes.ptr, bytes.len);
    if (n < 0)
        return ERR;
    if ((size_t)n == bytes.len)
        return OK;
    (void)keep(stream, slice_of(bytes.ptr + n, bytes.len - (size_t)n));
    watch(stream);
    return AGAIN;
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
    watch(stream);
    if (!stream_pending(stream))
        loop_defer(stream->loop, &stream->task, on_task);
}

size_t stream_pending(const struct stream *stream)
{
    return stream->out.len - stream->out_pos;
}

void stream_shutdown(struct stream *stream)
{
    if (!stream_is_open(stream))
        return;
    stream->shutdown_wanted = true;
    if (stream->state == STREAM_OPEN)
        do_shutdown(stream);
}

/* ---- reading and events -------------------------------------------------------------------------------- */

void stream_read(struct stream *stream, bool on)
{
    if (!stream_is_open(stream))
        return;
    stream->reading = on;
    if (on)
        stream->hangup_seen = false;
    watch(stream);
}

static void do_read(struct stream *stream)
{
    char *buffer = loop_read_buffer(stream->loop);
    ssize_t n = recv(stream->fd, buffer, LOOP_READ_BUFFER, 0);
    if (n > 0) {
        stream->events->on_data(stream, slice_of(buffer, (size_t)n));
    } else if (n == 0) {
        stream->eof = true;
        stream->events->on_eof(stream);
        if (stream->state == STREAM_OPEN)
            watch(stream);
    } else if (errno != EAGAIN && errno != EINTR) {
        fail(stream, "read", errno);
    }
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

static void finish_connect(struct stream *stream)
{
    int errnum = socket_error(stream->fd);
    if (errnum) {
        fail_connect(stream, errnum);
        return;
    }
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

/* Reading comes first: what a peer sent before it reset is still delivered, while writing would break. */
static void on_event(void *data, int events)
{
    struct stream *stream;
    CAST_OBJ(stream, data, STREAM_MAGIC);
    if (stream->state == STREAM_CONNECTING) {
        finish_connect(stream);
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
