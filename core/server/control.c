#include "server/control.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct header {
    uint32_t type, value;
};

union fd_control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

enum status control_pair(int fds[2], struct err *err)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0)
        return OK;
    return err_errno(err, errno, "socketpair");
}

enum status control_send(int fd, enum control_type type, uint32_t value, const char *text, int pass_fd)
{
    struct header header = {type, value};
    size_t len = text ? strlen(text) : 0;
    /* iov_base is not const for the reader's sake; sendmsg does not write. */
    union {
        const char *in;
        void *out;
    } body = {.in = text};
    struct iovec parts[2] = {{&header, sizeof(header)}, {body.out, len < CONTROL_TEXT_MAX ? len : CONTROL_TEXT_MAX}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = text ? 2 : 1};
    union fd_control control = {0};
    if (pass_fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &pass_fd, sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return OK;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? AGAIN : ERR;
}

static int received_fd(struct msghdr *message)
{
    int fd = -1;
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(message);
    if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS &&
        cmsg->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(cmsg), sizeof(int));
    return fd;
}

enum status control_receive(int fd, struct control_message *out)
{
    struct header header = {0};
    struct iovec parts[2] = {{&header, sizeof(header)}, {out->text, CONTROL_TEXT_MAX}};
    union fd_control control = {0};
    struct msghdr message = {
        .msg_iov = parts, .msg_iovlen = 2, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t n;
    do
        n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? AGAIN : ERR;
    out->fd = received_fd(&message);
    bool is_known = (header.type >= CONTROL_READY && header.type <= CONTROL_SHARE) || header.type == CONTROL_MASTERS;
    if ((size_t)n >= sizeof(header) && is_known) {
        out->type = (enum control_type)header.type;
        out->value = header.value;
        out->text[(size_t)n - sizeof(header)] = '\0';
        return OK;
    }
    if (out->fd >= 0)
        close(out->fd);
    out->fd = -1;
    return ERR;
}
