/* Poll handles: one uv_poll_t each, translated to our event bits. It owns the registration with epoll, never
 * the descriptor.
 *
 * libuv 1.44 as it is: uv_poll_start always removes the descriptor from epoll and adds it again, so unchanged
 * events must not reach it. On EPOLLERR it stops the handle and reports UV_EBADF; we start it again, because
 * our contract is level-triggered, and report both directions, because it is read() or write() that knows the
 * error. Only UV_PRIORITIZED gives a registration that FIN does not trigger while errors and hang-ups, which
 * epoll always reports, do: that is POLL_HANGUP. */
#include "net/poll.h"

#include <stdlib.h>
#include <uv.h>

#include "net/loop_priv.h"

#define POLL_MAGIC 0x90110001u

struct poll {
    unsigned magic;
    int events; /* watched now */
    struct loop *loop;
    poll_fn fn;
    void *data;
    uv_poll_t uv;
};

static void on_uv_poll(uv_poll_t *uv, int status, int uv_events);

static void start(struct poll *poll)
{
    int uv_events = (poll->events & POLL_READ ? UV_READABLE : 0) | (poll->events & POLL_WRITE ? UV_WRITABLE : 0) |
                    (poll->events & POLL_HANGUP ? UV_PRIORITIZED : 0);
    CHECK(uv_poll_start(&poll->uv, uv_events, on_uv_poll) == 0);
}

static void on_uv_poll(uv_poll_t *uv, int status, int uv_events)
{
    struct poll *poll;
    CAST_OBJ(poll, uv->data, POLL_MAGIC);
    loop_enter(poll->loop);
    int events = (uv_events & UV_READABLE ? POLL_READ : 0) | (uv_events & UV_WRITABLE ? POLL_WRITE : 0) |
                 (uv_events & UV_PRIORITIZED ? POLL_HANGUP : 0);
    if (status < 0) {
        events = POLL_READ | POLL_WRITE | (poll->events & POLL_HANGUP);
        start(poll);
    }
    poll->fn(poll->data, events);
}

struct poll *poll_new(struct loop *loop, int fd, poll_fn fn, void *data)
{
    struct poll *poll = xalloc(sizeof(*poll));
    *poll = (struct poll){.magic = POLL_MAGIC, .loop = loop, .fn = fn, .data = data};
    CHECK(uv_poll_init(loop_uv(loop), &poll->uv, fd) == 0);
    poll->uv.data = poll;
    loop_count_handle(loop, 1);
    return poll;
}

void poll_set(struct poll *poll, int events)
{
    CHECK_OBJ(poll, POLL_MAGIC);
    if (events == poll->events)
        return;
    poll->events = events;
    if (events)
        start(poll);
    else
        CHECK(uv_poll_stop(&poll->uv) == 0);
}

static void on_closed(uv_handle_t *uv)
{
    free(uv->data);
}

void poll_free(struct poll *poll)
{
    CHECK_OBJ(poll, POLL_MAGIC);
    poll->magic = 0;
    loop_count_handle(poll->loop, -1);
    uv_close((uv_handle_t *)&poll->uv, on_closed); /* stops it and takes the descriptor out of epoll at once */
}
