#include "server/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/listener.h"
#include "server/port_owner.h"

enum { BACKLOG = 4096 }; /* the kernel caps it at net.core.somaxconn */

static bool is_unix(const struct addr *addr)
{
    return addr->sa.ss_family == AF_UNIX;
}

static unsigned port_of(const struct addr *addr)
{
    struct sockaddr_in v4; /* the port is at the same place in both families */
    memcpy(&v4, &addr->sa, sizeof(v4));
    return is_unix(addr) ? 0 : ntohs(v4.sin_port);
}

static enum status name_owner(const struct addr *addr, struct err *err)
{
    char text[ADDR_TEXT_MAX];
    struct buf owner = {0};
    addr_text(addr, text);
    if (port_owner_find(addr, &owner))
        err_set(err, ERR_UNAVAILABLE, "listen: %s is served already by %.*s", text, (int)owner.len, owner.ptr);
    else
        err_prefix(err, "listen");
    buf_free(&owner);
    return ERR;
}

static enum status take_real_port(struct listen_set *set, struct err *err)
{
    set->addr.len = sizeof(set->addr.sa);
    /* The generic socket address is the one type every family's may be read through. */
    struct sockaddr *sa = (struct sockaddr *)&set->addr.sa;
    if (getsockname(set->fds[0], sa, &set->addr.len) == 0)
        return OK;
    return err_errno(err, errno, "getsockname");
}

static enum status bind_one(struct listen_set *set, unsigned i, struct err *err)
{
    if (i > 0 && set->is_shared) {
        set->fds[i] = set->fds[0];
        return OK;
    }
    set->fds[i] = listener_bind(&set->addr, BACKLOG, !set->is_shared, err);
    if (set->fds[i] < 0)
        return err_prefix(err, "listen");
    return i == 0 && !is_unix(&set->addr) ? take_real_port(set, err) : OK;
}

/* From the first worker that has none. */
static enum status bind_rest(struct listen_set *set, unsigned n_workers, struct err *err)
{
    for (unsigned i = set->n_workers; i < n_workers; i++) {
        if (bind_one(set, i, err) != OK) {
            listen_close(set);
            return ERR;
        }
        set->n_workers = i + 1;
    }
    return OK;
}

enum status listen_open(struct listen_set *set, const char *address, unsigned n_workers, struct err *err)
{
    *set = (struct listen_set){0};
    if (addr_parse(slice_str(address), &set->addr, err) != OK)
        return err_prefix(err, "listen");
    bool is_chosen = is_unix(&set->addr) || port_of(&set->addr) != 0;
    if (is_chosen && listener_probe(&set->addr, err) != OK)
        return name_owner(&set->addr, err);
    set->is_shared = is_unix(&set->addr);
    set->fds = xalloc(n_workers * sizeof(int));
    return bind_rest(set, n_workers, err);
}

/* ---- sockets of others --------------------------------------------------------------------------------------- */

enum status listen_take(struct listen_set *set, struct listen_given *given, unsigned n_workers, struct err *err)
{
    CHECK(given->n_fds > 0);
    *set = (struct listen_set){.is_shared = given->is_shared, .is_lent = given->is_lent};
    size_t n_own = given->is_shared ? 1 : given->n_fds < n_workers ? given->n_fds : n_workers;
    set->fds = xalloc(n_workers * sizeof(int));
    set->n_workers = (unsigned)n_own;
    set->n_extra = (unsigned)(given->n_fds - n_own);
    set->extra = xalloc((set->n_extra + 1) * sizeof(int));
    memcpy(set->fds, given->fds, n_own * sizeof(int));
    memcpy(set->extra, given->fds + n_own, set->n_extra * sizeof(int));
    free(given->fds);
    *given = (struct listen_given){0};
    if (take_real_port(set, err) == OK)
        return bind_rest(set, n_workers, err);
    set->is_ended = true;
    listen_close(set);
    return ERR;
}

static enum status check_activated(int fd, struct err *err)
{
    int type = 0, listens = 0;
    socklen_t len = sizeof(int);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0 || !listens)
        return err_set(err, ERR_INVALID,
                       "socket activation: descriptor %d is no listening stream socket: the .socket unit needs "
                       "ListenStream= and Accept=no",
                       fd);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0)
        return err_errno(err, errno, "socket activation: descriptor %d", fd);
    return OK;
}

enum status listen_activated(struct listen_given *given, struct err *err)
{
    enum { FIRST_FD = 3, MAX_FDS = 64 };
    int64_t pid = 0, n = 0;
    bool is_ours = slice_to_int(slice_str(getenv("LISTEN_PID")), 1, INT32_MAX, &pid) && pid == getpid() &&
                   slice_to_int(slice_str(getenv("LISTEN_FDS")), 1, MAX_FDS, &n);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    *given = (struct listen_given){.is_shared = true, .is_lent = true};
    if (!is_ours)
        return AGAIN;
    for (int i = 0; i < n; i++)
        if (check_activated(FIRST_FD + i, err) != OK)
            return ERR;
    given->n_fds = (size_t)n;
    given->fds = xalloc(given->n_fds * sizeof(int));
    for (int i = 0; i < n; i++)
        given->fds[i] = FIRST_FD + i;
    return OK;
}

/* ---- the end ------------------------------------------------------------------------------------------------- */

static void remove_path(struct listen_set *set)
{
    struct sockaddr_un un;
    if (!is_unix(&set->addr) || set->is_lent || set->is_ended)
        return;
    memcpy(&un, &set->addr.sa, sizeof(un));
    unlink(un.sun_path);
}

static void each_socket(const struct listen_set *set, void (*fn)(int fd))
{
    for (unsigned i = 0; i < set->n_workers && (i == 0 || !set->is_shared); i++)
        fn(set->fds[i]);
    for (unsigned i = 0; i < set->n_extra; i++)
        fn(set->extra[i]);
}

void listen_refuse_new(struct listen_set *set)
{
    if (set->is_lent || set->is_ended)
        return;
    remove_path(set);
    if (!is_unix(&set->addr))
        each_socket(set, listener_refuse_new);
    set->is_ended = true;
}

void listen_shut(const struct listen_set *set)
{
    if (!set->is_lent && !is_unix(&set->addr))
        each_socket(set, listener_shut);
}

static void close_one(int fd)
{
    close(fd);
}

void listen_close(struct listen_set *set)
{
    each_socket(set, close_one);
    if (set->n_workers > 0)
        remove_path(set);
    free(set->fds);
    free(set->extra);
    *set = (struct listen_set){0};
}

void listen_url(const struct listen_set *set, char *out, size_t size)
{
    char text[ADDR_TEXT_MAX];
    addr_text(&set->addr, text);
    if (is_unix(&set->addr))
        snprintf(out, size, "%s", text);
    else if (strncmp(text, "0.0.0.0:", 8) == 0 || strncmp(text, "[::]:", 5) == 0)
        snprintf(out, size, "http://127.0.0.1:%u", port_of(&set->addr));
    else
        snprintf(out, size, "http://%s", text);
}
