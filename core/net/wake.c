/* One datagram socket per process, in Linux' abstract namespace: no file to clean up, nothing to pass to a child, and
 * the name ends with its process, so that a respawned worker can never be taken for the one before. Anybody on the
 * machine could send to it; the worst of that is a look at shared memory for nothing. */
#include "net/wake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/poll.h"

#define WAKE_MAGIC 0x3a4e0901u

struct wake {
    unsigned magic;
    int fd;
    uint64_t group;
    struct poll *poll;
    void (*fn)(void *data);
    void *data;
};

static socklen_t name_of(uint64_t group, uint64_t id, struct sockaddr_un *addr)
{
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX}; /* sun_path[0] stays 0: abstract */
    int len = snprintf(addr->sun_path + 1, sizeof(addr->sun_path) - 1, "chowk-%016jx-%016jx", (uintmax_t)group,
                       (uintmax_t)id);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
}

static void on_readable(void *data, int events UNUSED)
{
    struct wake *wake = data;
    char byte;
    bool is_woken = false;
    CHECK_OBJ(wake, WAKE_MAGIC);
    while (recv(wake->fd, &byte, sizeof(byte), MSG_DONTWAIT) >= 0)
        is_woken = true;
    if (is_woken)
        wake->fn(wake->data);
}

struct wake *wake_new(struct loop *loop, uint64_t group, uint64_t id, void (*fn)(void *data), void *data,
                      struct err *err)
{
    struct sockaddr_un addr;
    socklen_t len = name_of(group, id, &addr);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, len) != 0) {
        (void)err_errno(err, errno, "cannot listen for wake-ups");
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    struct wake *wake = xalloc(sizeof(*wake));
    *wake = (struct wake){.magic = WAKE_MAGIC, .fd = fd, .group = group, .fn = fn, .data = data};
    wake->poll = poll_new(loop, fd, on_readable, wake);
    poll_set(wake->poll, POLL_READ);
    return wake;
}

void wake_free(struct wake *wake)
{
    if (!wake)
        return;
    CHECK_OBJ(wake, WAKE_MAGIC);
    poll_free(wake->poll);
    close(wake->fd);
    wake->magic = 0;
    free(wake);
}

void wake_send(const struct wake *wake, uint64_t id)
{
    struct sockaddr_un addr;
    socklen_t len = name_of(wake->group, id, &addr);
    ssize_t sent = sendto(wake->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&addr, len);
    (void)sent; /* see wake.h: whom it does not reach needs it no more */
}
