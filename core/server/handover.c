#include "server/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/poll.h"
#include "server/control.h"

/* ---- words --------------------------------------------------------------------------------------------------- */

enum status handover_say(int channel, const char *text, int fd)
{
    return control_send(channel, CONTROL_MASTERS, 1, text, fd);
}

enum status handover_hear(int channel, char *text, size_t size, int *fd)
{
    struct control_message message;
    enum status status = control_receive(channel, &message);
    *fd = -1;
    if (status != OK)
        return status;
    *fd = message.fd;
    snprintf(text, size, "%s", message.type == CONTROL_MASTERS ? message.text : "");
    return OK;
}

/* ---- what the old master gives ------------------------------------------------------------------------------- */

static void keep_listener(struct handover *handover, int fd)
{
    struct listen_given *given = &handover->listeners;
    given->fds = xrealloc(given->fds, (given->n_fds + 1) * sizeof(int));
    given->fds[given->n_fds++] = fd;
}

/* True: the descriptor, if there is one, is kept. */
static bool take(struct handover *handover, const char *text, int fd)
{
    if (strncmp(text, "address ", 8) == 0)
        snprintf(handover->address, sizeof(handover->address), "%.255s", text + 8);
    else if (strcmp(text, "shared") == 0)
        handover->listeners.is_shared = true;
    else if (strcmp(text, "lent") == 0)
        handover->listeners.is_lent = true;
    if (fd < 0)
        return true;
    if (strcmp(text, "listener") == 0)
        keep_listener(handover, fd);
    else if (strcmp(text, "lock") == 0 && handover->lock_fd < 0)
        handover->lock_fd = fd;
    else if (strcmp(text, "ops") == 0 && handover->ops_fd < 0)
        handover->ops_fd = fd;
    else if (strcmp(text, "segment") == 0 && handover->n_segments < HANDOVER_MAX_SEGMENTS)
        handover->segments[handover->n_segments++] = fd;
    else
        return false;
    return true;
}

static enum status take_all(struct handover *handover, struct err *err)
{
    char text[CONTROL_TEXT_MAX + 1];
    int fd;
    enum status status;
    while ((status = handover_hear(handover->channel, text, sizeof(text), &fd)) == OK) {
        if (!take(handover, text, fd))
            close(fd);
        if (strcmp(text, "end") == 0)
            return handover->listeners.n_fds > 0 ? OK : err_set(err, ERR_INVALID, "upgrade: no listener was given");
    }
    return err_set(err, ERR_UNAVAILABLE, "upgrade: the old master did not say all it had to");
}

static pid_t peer_of(int fd)
{
    struct ucred peer = {0};
    socklen_t len = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 ? peer.pid : 0;
}

enum status handover_receive(struct handover **out, struct err *err)
{
    int64_t channel;
    bool is_heir = slice_to_int(slice_str(getenv(HANDOVER_ENV)), 3, 1 << 20, &channel);
    unsetenv(HANDOVER_ENV);
    *out = NULL;
    if (!is_heir || fcntl((int)channel, F_SETFD, FD_CLOEXEC) != 0)
        return AGAIN;
    struct handover *handover = xalloc(sizeof(*handover));
    *handover = (struct handover){.channel = (int)channel, .lock_fd = -1, .ops_fd = -1, .from = peer_of((int)channel)};
    *out = handover;
    return take_all(handover, err);
}

/* ---- talking on ---------------------------------------------------------------------------------------------- */

static void end_with(struct handover *handover, enum handover_event event)
{
    handover->is_over = true;
    handover->on_event(handover->data, event, 0);
}

static void on_readable(void *data, int events UNUSED)
{
    struct handover *handover = data;
    char text[CONTROL_TEXT_MAX + 1];
    unsigned left, all;
    int fd;
    enum status status;
    while ((status = handover_hear(handover->channel, text, sizeof(text), &fd)) == OK) {
        if (fd >= 0)
            close(fd);
        if (strcmp(text, "take over") == 0)
            handover->on_event(handover->data, HANDOVER_TAKE_OVER, 0);
        else if (strcmp(text, "alone") == 0)
            end_with(handover, HANDOVER_ALONE);
        else if (strcmp(text, "give up") == 0)
            end_with(handover, HANDOVER_GIVE_UP);
        else if (sscanf(text, "left %u/%u", &left, &all) == 2 && all > 0 && left <= all)
            handover->on_event(handover->data, HANDOVER_LEFT, left * 100 / all);
    }
    if (status == AGAIN)
        return;
    poll_set(handover->poll, 0);
    if (!handover->is_over) {
        handover->on_event(handover->data, HANDOVER_TAKE_OVER, 0);
        end_with(handover, HANDOVER_ALONE);
    }
    handover->on_event(handover->data, HANDOVER_LEFT, 0);
}

void handover_watch(struct handover *handover, struct loop *loop,
                    void (*on_event)(void *data, enum handover_event event, unsigned value), void *data)
{
    handover->loop = loop;
    handover->on_event = on_event;
    handover->data = data;
    handover->poll = poll_new(loop, handover->channel, on_readable, handover);
    poll_set(handover->poll, POLL_READ);
}

void handover_unwatch(struct handover *handover)
{
    if (handover->poll)
        poll_free(handover->poll);
    handover->poll = NULL;
}

void handover_say_ready(struct handover *handover)
{
    (void)handover_say(handover->channel, "ready", -1); /* gone: on_readable hears of it */
}

void handover_say_serving(struct handover *handover)
{
    (void)handover_say(handover->channel, "serving", -1);
}

void handover_say_failed(struct handover *handover, const struct err *err)
{
    char text[CONTROL_TEXT_MAX];
    if (!handover)
        return;
    snprintf(text, sizeof(text), "failed %s%s%s", err->message, err->detail[0] ? "\n" : "", err->detail);
    (void)handover_say(handover->channel, text, -1);
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void handover_free(struct handover *handover)
{
    if (!handover)
        return;
    for (size_t i = 0; i < handover->listeners.n_fds; i++)
        close(handover->listeners.fds[i]);
    for (size_t i = 0; i < handover->n_segments; i++)
        close(handover->segments[i]);
    free(handover->listeners.fds);
    close_fd(handover->lock_fd);
    close_fd(handover->ops_fd);
    close_fd(handover->channel);
    free(handover);
}
