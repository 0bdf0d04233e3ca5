/* Listening sockets. It owns the poll handle, the reserve descriptor and the back-off, not the socket itself
 * (the master binds, and several processes may hold it).
 *
 * Running out of descriptors: the connections that wait are left in the kernel's queue and accepting pauses,
 * longer each time. From the second failure in a row on, they have waited long enough: the reserve is given up
 * for as long as it takes to accept one, tell it the farewell and close it, a batch each time, so that clients
 * get an answer instead of a timeout. Without the pause epoll would report the socket for ever.
 *
 * Never here: what is done with a connection, limits on their number (the owner pauses). */
#include "net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "net/loop_priv.h"
#include "net/poll.h"

#define LISTENER_MAGIC 0x115e4e01u
#define ACCEPT_BATCH 64 /* per event: other sockets want their turn */
#define BACK_OFF_MIN_MS 100
#define BACK_OFF_MAX_MS 1000
#define LOG_EVERY_MS 60000

struct listener {
    unsigned magic;
    int fd;      /* borrowed */
    int reserve; /* owned; -1 while given up */
    bool is_paused, is_backing_off, is_freed;
    unsigned n_failures; /* in a row */
    uint64_t n_turned_away, next_log_ms;
    struct loop *loop;
    struct poll *poll;
    struct timer back_off;
    struct slice farewell;
    listener_fn fn;
    void *data;
};

/* ---- binding ------------------------------------------------------------------------------------------- */

static enum status refuse_taken(const struct addr *addr, struct err *err)
{
    char text[ADDR_TEXT_MAX];
    addr_text(addr, text);
    return err_set(err, ERR_UNAVAILABLE, "another server is listening on %s", text);
}

static enum status refuse_errno(const struct addr *addr, const char *doing, int errnum, struct err *err)
{
    char text[ADDR_TEXT_MAX];
    addr_text(addr, text);
    return err_errno(err, errnum, "%s %s", doing, text);
}

/* A Unix path whose server died still exists but refuses connections: only then may it go. */
static enum status clear_unix_path(const struct addr *addr, bool remove, struct err *err)
{
    const char *path = ((const struct sockaddr_un *)&addr->sa)->sun_path;
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? OK : refuse_errno(addr, "look at", errno, err);
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, ERR_REFUSED, "%s exists and is not a socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return refuse_errno(addr, "probe", errno, err);
    int rc = connect(fd, (const struct sockaddr *)&addr->sa, addr->len), errnum = errno;
    close(fd);
    if (rc == 0 || errnum == EAGAIN) /* EAGAIN: alive with a full queue */
        return refuse_taken(addr, err);
    if (errnum != ECONNREFUSED)
        return refuse_errno(addr, "probe", errnum, err);
    if (remove && unlink(path) != 0 && errno != ENOENT)
        return refuse_errno(addr, "replace", errno, err);
    return OK;
}

static bool set_options(int fd, int family, bool reuse_port)
{
    int on = 1, off = 0;
    if (family == AF_UNIX)
        return true;
    return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
           (!reuse_port || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0) &&
           (family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) == 0) &&
           setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0;
}

static enum status bind_socket(int fd, const struct addr *addr, bool reuse_port, struct err *err)
{
    if (!set_options(fd, addr->sa.ss_family, reuse_port))
        return refuse_errno(addr, "set options of", errno, err);
    if (bind(fd, (const struct sockaddr *)&addr->sa, addr->len) == 0)
        return OK;
    return errno == EADDRINUSE ? refuse_taken(addr, err) : refuse_errno(addr, "bind", errno, err);
}

int listener_bind(const struct addr *addr, int backlog, bool reuse_port, struct err *err)
{
    if (addr->sa.ss_family == AF_UNIX && clear_unix_path(addr, true, err) != OK)
        return -1;
    int fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        (void)refuse_errno(addr, "make a socket for", errno, err);
        return -1;
    }
    if (bind_socket(fd, addr, reuse_port, err) != OK)
        goto fail;
    if (listen(fd, backlog) != 0) {
        (void)(errno == EADDRINUSE ? refuse_taken(addr, err) : refuse_errno(addr, "listen on", errno, err));
        goto fail;
    }
    return fd;
fail:
    close(fd);
    return -1;
}

enum status listener_probe(const struct addr *addr, struct err *err)
{
    if (addr->sa.ss_family == AF_UNIX)
        return clear_unix_path(addr, false, err);
    int fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return refuse_errno(addr, "make a socket for", errno, err);
    enum status status = bind_socket(fd, addr, false, err);
    close(fd);
    return status;
}

void listener_refuse_new(int fd)
{
    /* What the filter sees begins with the TCP header, whose byte 13 holds the flags. 0 drops, ~0 keeps. */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x02 /* SYN */, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};
    /* Where filters are not allowed a connection that comes in the last moment may be reset. */
    (void)setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

void listener_shut(int fd)
{
    (void)shutdown(fd, SHUT_RD); /* a listening socket stops listening, and what waits is reset */
}

/* ---- out of descriptors -------------------------------------------------------------------------------- */

static void watch(struct listener *listener)
{
    poll_set(listener->poll, listener->is_paused || listener->is_backing_off ? 0 : POLL_READ);
}

static int open_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* A close with unread bytes would be a reset, and the peer might never see the farewell. */
static void say_farewell(int fd, struct slice farewell)
{
    char unread[4096];
    if (farewell.len)
        (void)!send(fd, farewell.ptr, farewell.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)shutdown(fd, SHUT_WR);
    (void)!recv(fd, unread, sizeof(unread), MSG_DONTWAIT);
}

static void turn_away(struct listener *listener)
{
    for (int i = 0; i < ACCEPT_BATCH && listener->reserve >= 0; i++) {
        close(listener->reserve);
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            say_farewell(fd, listener->farewell);
            close(fd);
            listener->n_turned_away++;
        }
        listener->reserve = open_reserve();
        if (fd < 0)
            return;
    }
}

static void log_failure(struct listener *listener, int errnum)
{
    uint64_t now_ms = loop_now(listener->loop);
    if (now_ms < listener->next_log_ms)
        return;
    listener->next_log_ms = now_ms + LOG_EVERY_MS;
    log_warn("accept fails, backing off", LOG_S("error", strerror(errnum)), LOG_I("listener_fd", listener->fd),
             LOG_I("turned_away", (int64_t)listener->n_turned_away));
    listener->n_turned_away = 0;
}

static void on_back_off_over(struct timer *timer)
{
    struct listener *listener = container_of(timer, struct listener, back_off);
    CHECK_OBJ(listener, LISTENER_MAGIC);
    if (listener->reserve < 0)
        listener->reserve = open_reserve();
    listener->is_backing_off = false;
    watch(listener);
}

static void back_off(struct listener *listener, int errnum)
{
    if ((errnum == EMFILE || errnum == ENFILE) && listener->n_failures > 0)
        turn_away(listener);
    log_failure(listener, errnum);
    unsigned doublings = listener->n_failures < 4 ? listener->n_failures : 4;
    uint64_t wait_ms = (uint64_t)BACK_OFF_MIN_MS << doublings;
    listener->n_failures++;
    listener->is_backing_off = true;
    timer_arm(listener->loop, &listener->back_off,
              loop_now(listener->loop) + (wait_ms < BACK_OFF_MAX_MS ? wait_ms : BACK_OFF_MAX_MS), on_back_off_over);
    watch(listener);
}

/* ---- accepting ----------------------------------------------------------------------------------------- */

/* Errors of the one connection that was to be accepted (accept(2)), not of the listener. */
static bool is_of_connection(int errnum)
{
    static const int of_connection[] = {EINTR,  ECONNABORTED, EPROTO,     EPERM,        ENETDOWN,  ENOPROTOOPT,
                                        ENONET, EHOSTDOWN,    EOPNOTSUPP, EHOSTUNREACH, ETIMEDOUT, ENETUNREACH};
    for (size_t i = 0; i < ARRAY_LEN(of_connection); i++)
        if (errnum == of_connection[i])
            return true;
    return false;
}

/* fn may pause or free the listener; its memory stays until the end of the turn. */
static void on_readable(void *data, int events UNUSED)
{
    struct listener *listener;
    CAST_OBJ(listener, data, LISTENER_MAGIC);
    for (int i = 0; i < ACCEPT_BATCH && !listener->is_paused && !listener->is_freed; i++) {
        struct addr peer;
        peer.len = sizeof(peer.sa);
        int fd = accept4(listener->fd, (struct sockaddr *)&peer.sa, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            listener->n_failures = 0;
            listener->fn(listener->data, fd, &peer);
        } else if (errno == EAGAIN) {
            return;
        } else if (!is_of_connection(errno)) {
            back_off(listener, errno);
            return;
        }
    }
}

struct listener *listener_new(struct loop *loop, int fd, listener_fn fn, void *data)
{
    struct listener *listener = xalloc(sizeof(*listener));
    *listener = (struct listener){.magic = LISTENER_MAGIC, .fd = fd, .loop = loop, .fn = fn, .data = data};
    listener->reserve = open_reserve();
    /* Accepted sockets inherit it: no call per connection, also when systemd made this socket. Not for Unix. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    listener->poll = poll_new(loop, fd, on_readable, listener);
    watch(listener);
    return listener;
}

void listener_pause(struct listener *listener, bool paused)
{
    CHECK_OBJ(listener, LISTENER_MAGIC);
    listener->is_paused = paused;
    watch(listener);
}

void listener_set_farewell(struct listener *listener, struct slice bytes)
{
    CHECK_OBJ(listener, LISTENER_MAGIC);
    listener->farewell = bytes;
}

int listener_fd(const struct listener *listener)
{
    return listener->fd;
}

void listener_free(struct listener *listener)
{
    CHECK_OBJ(listener, LISTENER_MAGIC);
    listener->magic = 0;
    listener->is_freed = true;
    timer_stop(listener->loop, &listener->back_off);
    poll_free(listener->poll);
    if (listener->reserve >= 0)
        close(listener->reserve);
    loop_reclaim(listener->loop, listener);
}
